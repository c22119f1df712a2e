"""What the store has of our account's other devices."""

from __future__ import annotations

from slixmpp_mls.account.device_records import DeviceRecord, KnownDevices
from slixmpp_mls.account.events import DeviceStatus
from slixmpp_mls.store import MemoryStore

PHONE, LAPTOP, ROOM, HEATH = "a1", "b2", "coven@rooms.example", "heath@rooms.example"


def test_devices_and_what_they_have_signed() -> None:
    with MemoryStore("alice@a.example").transaction() as transaction:
        known = KnownDevices(transaction)
        known.seen(PHONE, 1000)
        assert known.all() == {}  # an unknown device
        known.put(PHONE, DeviceStatus.NEW, 100)
        known.seen(PHONE, 1000)
        known.seen(PHONE, 1600)  # too little later to be written
        assert known.all() == {PHONE: DeviceRecord(DeviceStatus.NEW, 100, 1000)}
        known.seen(PHONE, 1601)
        known.seen(PHONE, 5)
        known.put(PHONE, DeviceStatus.ADMITTED, 300)
        assert known.all() == {PHONE: DeviceRecord(DeviceStatus.ADMITTED, 100, 1601)}
        assert known.with_status(DeviceStatus.ADMITTED) == [PHONE]
        assert known.with_status(DeviceStatus.NEW) == []


def test_admissions_end_one_by_one_or_with_the_device() -> None:
    with MemoryStore("alice@a.example").transaction() as transaction:
        known = KnownDevices(transaction)
        for name in (PHONE, LAPTOP):
            known.put(name, DeviceStatus.ADMITTED, 0)
            known.add_admissions(name, [ROOM, HEATH])
        known.end_admission(PHONE, ROOM)
        assert known.admissions() == [(PHONE, HEATH), (LAPTOP, ROOM), (LAPTOP, HEATH)]
        known.put(LAPTOP, DeviceStatus.RETIRED, 0)
        assert known.admissions() == [(PHONE, HEATH)]
