"""What the store has of our account's other devices, one transaction at a time.

In the store: space ``own-device``, key device id, value :class:`DeviceRecord`; space ``admission``, key device id NUL
room, empty value: to be added there.
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
_SEEN_STEP = 600  # seconds: what is newer by less is not written


@struct
class DeviceRecord(Struct):
    """Another device.

    `since`: when we met it; `seen`: when it signed the newest thing that we have seen (0: nothing).
    """

    status: Annotated[DeviceStatus, tls.Enum(DeviceStatus)]
    since: uint64
    seen: uint64


class KnownDevices:
    """The devices of our account as the store has them.

    :param transaction: in which all is read and written
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def all(self) -> dict[str, DeviceRecord]:
        """By device id."""
        return {key.decode(): DeviceRecord.decode(value) for key, value in self._transaction.items(_SPACE)}

    def with_status(self, status: DeviceStatus) -> list[str]:
        """The ids of the devices about which we have decided this."""
        return [name for name, record in self.all().items() if record.status is status]

    def put(self, device_id: str, status: DeviceStatus, now: int) -> None:
        """Note what is decided about a device; a retired one is not to be added to any room any more."""
        record = self._get(device_id) or DeviceRecord(status, now, 0)
        self._transaction.put(_SPACE, device_id.encode(), replace(record, status=status).encode())
        if status is DeviceStatus.RETIRED:
            self._transaction.delete_prefix(_ADMISSION, device_id.encode() + b"\0")

    def seen(self, device_id: str, when: int) -> None:
        """Note that a device has signed something; nothing is written of an unknown device."""
        record = self._get(device_id)
        if record is not None and when > record.seen + _SEEN_STEP:
            self._transaction.put(_SPACE, device_id.encode(), replace(record, seen=when).encode())

    def _get(self, device_id: str) -> DeviceRecord | None:
        value = self._transaction.get(_SPACE, device_id.encode())
        return None if value is None else DeviceRecord.decode(value)

    # --- admission -----------------------------------------------------------------------------

    def admissions(self) -> list[tuple[str, str]]:
        """(device id, bare JID of the room) of each device that is to be added to a room."""
        places = (key.decode().partition("\0") for key, _ in self._transaction.items(_ADMISSION))
        return [(name, room) for name, _, room in places]

    def add_admissions(self, device_id: str, rooms: Iterable[str]) -> None:
        """Note that a device is to be added to these rooms (bare JIDs)."""
        for room in rooms:
            self._transaction.put(_ADMISSION, _place(device_id, room), b"")

    def end_admission(self, device_id: str, room: str) -> None:
        """Note that a device is in the room, or that we shall never add it."""
        self._transaction.delete(_ADMISSION, _place(device_id, room))


def _place(device_id: str, room: str) -> bytes:
    return f"{device_id}\0{room}".encode()
