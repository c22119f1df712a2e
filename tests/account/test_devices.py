"""The devices of our account, without rooms: how what the node says is met."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from slixmpp_mls.account import devices
from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.account.devices import OwnDevices
from slixmpp_mls.account.events import DeviceStatus
from slixmpp_mls.account.own_entry import OwnEntry
from slixmpp_mls.errors import DeliveryError, DeviceRetired, Refused, StoreError, UsageError
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.stanza import RetiredDevice
from slixmpp_mls.testing import NOW, World

from ..client.people import ALICE
from ..services import Client


class NoRooms:
    """A registry without rooms."""

    all: dict[str, Any] = {}

    def get(self, room: str) -> None:
        return None


class Account:
    """A phone and a laptop of one account; what is tested is the phone."""

    def __init__(self, **settings: Any) -> None:
        world = World()
        self.phone = Client(world.person(ALICE), **settings)
        self.laptop = Client(world.person(ALICE), self.phone)
        self.stopped: list[DeviceRetired] = []
        rooms: Any = NoRooms()
        self.own = OwnEntry(self.phone.context)
        self.devices = OwnDevices(self.phone.context, rooms, self.own, self.stop)

    async def stop(self, reason: DeviceRetired) -> None:
        self.stopped.append(reason)

    async def publish(self, *clients: Client) -> None:
        for client in clients:
            await OwnEntry(client.context).publish()
            await Publication(client.context).replenish()


def name(client: Client) -> str:
    return client.device.identity.device


async def test_all_of_them_this_one_first() -> None:
    account = Account(label="Phone")
    await account.publish(account.phone, account.laptop)
    this, other = await account.devices.all()
    assert (this.id, this.this, this.label, this.key_packages) == (name(account.phone), True, "Phone", 3)
    assert (other.id, other.this, other.status, other.rooms) == (name(account.laptop), False, DeviceStatus.KNOWN, ())
    assert other.fingerprint == account.laptop.context.fingerprint
    assert other.last_seen == datetime.fromtimestamp(NOW, UTC)
    await account.devices.rename(other.id, "Laptop")
    assert [device.label for device in await account.devices.all()] == ["Phone", "Laptop"]
    with pytest.raises(UsageError):
        await account.devices.rename("nobody", "x")


async def test_a_device_that_comes_after_us_is_new_and_told_of_once() -> None:
    account = Account()
    await account.publish(account.phone)
    await account.devices._look()
    await account.publish(account.laptop)
    await account.devices._look()
    await account.devices._look()
    (event,) = account.phone.got("mls_new_device")
    assert (event.id, event.admitted) == (name(account.laptop), False)
    assert event.fingerprint == account.laptop.context.fingerprint
    assert (await account.devices.all())[1].status is DeviceStatus.NEW
    assert await account.devices.admit(event.id) == await account.devices.admit(event.id)
    assert (await account.devices.all())[1].status is DeviceStatus.ADMITTED
    for stranger in (name(account.phone), "nobody"):
        with pytest.raises(UsageError):
            await account.devices.admit(stranger)


async def test_by_the_setting_add_a_new_device_is_admitted() -> None:
    account = Account(new_devices="add")
    await account.publish(account.phone)
    await account.devices._look()
    await account.publish(account.laptop)
    await account.devices._look()
    assert [event.admitted for event in account.phone.got("mls_new_device")] == [True]
    assert (await account.devices.all())[1].status is DeviceStatus.ADMITTED


async def test_retired_and_retired_again_when_it_goes_on() -> None:
    account = Account()
    await account.publish(account.phone, account.laptop)
    await account.devices._look()
    await account.devices.retire(name(account.laptop))
    listed = await read_devices(account.phone.context.devices)
    assert name(account.laptop) in listed.retired
    assert len(account.phone.key_packages.of[ALICE]) == 3  # those of the phone
    await account.publish(account.laptop)  # it takes no notice
    await account.devices._look()
    assert [event.id for event in account.phone.got("mls_device_conflict")] == [name(account.laptop)]
    assert name(account.laptop) in (await read_devices(account.phone.context.devices)).retired
    with pytest.raises(UsageError):
        await account.devices.retire("nobody")


async def test_a_retired_device_whose_marker_is_refused_hides_no_new_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our account's server lists it again, and lets nobody replace it."""
    account = Account()
    await account.publish(account.phone, account.laptop)
    await account.devices._look()
    await account.devices.retire(name(account.laptop))
    await account.publish(account.laptop)
    attempts: list[str] = []

    async def refuse(item_id: str, element: object) -> None:
        attempts.append(item_id)
        raise Refused(ALICE, "not-acceptable")

    monkeypatch.setattr(account.phone.context.devices, "publish", refuse)
    for number in range(3):
        tablet = Client(account.phone.world.person(ALICE), account.phone)
        await account.publish(tablet)
        with pytest.raises(DeliveryError):
            await account.devices._look()
        assert [event.id for event in account.phone.got("mls_new_device")][number:] == [name(tablet)]
        await account.devices._look()  # at once, because the server says that something has changed
        account.phone.monotonic += devices.RETRY
    assert attempts == [name(account.laptop)] * 3
    monkeypatch.undo()
    await account.devices._look()
    assert name(account.laptop) in (await read_devices(account.phone.context.devices)).retired
    assert [event.id for event in account.phone.got("mls_device_conflict")] == [name(account.laptop)]


@pytest.mark.parametrize("when", ["at the start", "later", "by ourselves"])
async def test_we_are_retired(when: str) -> None:
    account = Account()
    await account.publish(account.phone)
    marker = RetiredDevice(name(account.phone), datetime.fromtimestamp(NOW, UTC))
    if when == "by ourselves":
        await account.devices.retire(marker.id)
    else:
        account.phone.devices.of[ALICE][marker.id] = marker.to_stdlib()
    if when == "later":
        await account.devices._look()
    if when == "at the start":
        with pytest.raises(DeviceRetired):
            await account.devices.check_own()
    assert len(account.stopped) == 1
    assert account.phone.got("mls_retired") == [marker]
    assert account.phone.key_packages.of[ALICE] == {}
    with pytest.raises(DeviceRetired):
        await account.devices.check_own()


async def test_a_node_that_has_lost_us_is_mended() -> None:
    account = Account()
    await account.publish(account.phone)
    await account.devices._look()
    account.phone.devices.of.clear()
    await account.devices._look()
    assert list((await read_devices(account.phone.context.devices)).devices) == [name(account.phone)]


async def test_a_node_that_is_lost_before_we_have_read_it_again_is_mended() -> None:
    account = Account()
    await account.own.publish()
    account.phone.devices.of.clear()
    await account.devices._look()
    assert list((await read_devices(account.phone.context.devices)).devices) == [name(account.phone)]


async def test_where_the_authentication_service_lists_no_devices_nothing_is_mended() -> None:
    """X.509, for example: the account's node has never had our item, and that is no fault."""
    account = Account()
    await account.devices._look()
    await account.devices._look()
    assert account.phone.devices.of.get(ALICE, {}) == {}
    assert account.phone.got("mls_failed") == []


async def test_an_exception_that_nobody_expects_is_reported_and_the_next_look_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = Account()
    await account.publish(account.phone)
    looks: asyncio.Queue[None] = asyncio.Queue()

    async def fail() -> None:
        looks.put_nowait(None)
        raise ValueError("says the test")

    monkeypatch.setattr(account.devices, "_look", fail)
    account.devices.start()
    for _ in range(2):
        account.devices.look_again()
        async with asyncio.timeout(60):
            await looks.get()
    account.devices.close()
    await asyncio.gather(*account.phone.context.tasks._running)
    assert [str(error) for error in account.phone.got("mls_failed")] == ["says the test"] * 2


async def test_what_the_list_says_of_times_and_labels_is_shown() -> None:
    account = Account()
    await account.publish(account.phone, account.laptop)
    device = (await read_devices(account.phone.context.devices)).devices[name(account.laptop)]
    account.phone.devices.of[ALICE][device.id] = replace(device, label="Attic", added=None).to_stdlib()
    other = (await account.devices.all())[1]
    assert (other.label, other.added) == ("Attic", None)


async def test_a_store_that_fails_for_a_while_does_not_end_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "RETRY", 0.01)
    account = Account()
    await account.publish(account.phone)
    unfinished, failures = account.devices._unfinished, [StoreError("not now, says the test") for _ in range(3)]

    def fail_at_first() -> Any:
        if failures:
            raise failures.pop()
        return unfinished()

    monkeypatch.setattr(account.devices, "_unfinished", fail_at_first)
    account.devices._look_due = False  # so that the store is asked first
    account.devices.start()
    try:
        async with asyncio.timeout(60):
            while failures or not account.devices._records():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
    finally:
        account.devices.close()
    assert not account.phone.failures
