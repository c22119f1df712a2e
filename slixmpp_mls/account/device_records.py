"""The store's records of our account's other devices, for one transaction at a time.

In the store: space ``own-device``, key device id, value :class:`DeviceRecord`; space ``admission``, key device id NUL
room, empty value: the device is to be added to that room.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from ..mls import tls
from ..mls.tls import Struct, struct, uint64
from ..store.interface import Transaction
from .events import DeviceStatus

__all__ = ["DeviceRecord", "KnownDevices"]

_SPACE, _ADMISSION = "own-device", "admission"
_SEEN_STEP = 600  # seconds: a time that is newer by less is not written


@struct
class DeviceRecord(Struct):
    """Another device.

    `since`: when we first saw the device; `seen`: signing time of the newest thing that we have seen from it (0: none).
    """

    status: Annotated[DeviceStatus, tls.Enum(DeviceStatus)]
    since: uint64
    seen: uint64


class KnownDevices:
    """The devices of our account as recorded in the store.

    :param transaction: the transaction for all reads and writes
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def all(self) -> dict[str, DeviceRecord]:
        """By device id."""
        return {key.decode(): DeviceRecord.decode(value) for key, value in self._transaction.items(_SPACE)}

    def with_status(self, status: DeviceStatus) -> list[str]:
        """The ids of the devices with this decision."""
        return [name for name, record in self.all().items() if record.status is status]

    def put(self, device_id: str, status: DeviceStatus, now: int) -> None:
        """Record the decision about a device; a retired device loses all its pending admissions."""
        record = self._get(device_id) or DeviceRecord(status, now, 0)
        self._transaction.put(_SPACE, device_id.encode(), replace(record, status=status).encode())
        if status is DeviceStatus.RETIRED:
            self._transaction.delete_prefix(_ADMISSION, device_id.encode() + b"\0")

    def seen(self, device_id: str, when: int) -> None:
        """Record that a device has signed something; for an unknown device nothing is written."""
        record = self._get(device_id)
        if record is not None and when > record.seen + _SEEN_STEP:
            self._transaction.put(_SPACE, device_id.encode(), replace(record, seen=when).encode())

    def _get(self, device_id: str) -> DeviceRecord | None:
        value = self._transaction.get(_SPACE, device_id.encode())
        return None if value is None else DeviceRecord.decode(value)

    # --- admission -----------------------------------------------------------------------------

    def admissions(self) -> list[tuple[str, str]]:
        """(device id, bare JID of the room) of each pending admission."""
        places = (key.decode().partition("\0") for key, _ in self._transaction.items(_ADMISSION))
        return [(name, room) for name, _, room in places]

    def add_admissions(self, device_id: str, rooms: Iterable[str]) -> None:
        """Record that a device is to be added to these rooms (bare JIDs)."""
        for room in rooms:
            self._transaction.put(_ADMISSION, _place(device_id, room), b"")

    def end_admission(self, device_id: str, room: str) -> None:
        """Record that a device is in the room, or that we never add it."""
        self._transaction.delete(_ADMISSION, _place(device_id, room))


def _place(device_id: str, room: str) -> bytes:
    return f"{device_id}\0{room}".encode()
