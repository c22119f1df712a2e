"""Events and data about the devices of our own account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

__all__ = ["DeviceConflict", "DeviceStatus", "NewOwnDevice", "OwnDevice", "RoomsChanged"]


class DeviceStatus(IntEnum):
    """Our decision about another device of our account."""

    KNOWN = 1
    """The device existed before this one."""
    NEW = 2
    """The device came after this one, and no decision has been made about it."""
    ADMITTED = 3
    """The device came after this one, and belongs in our rooms."""
    RETIRED = 4


@dataclass(frozen=True, slots=True)
class OwnDevice:
    """One device of our account.

    :ivar id: device id
    :ivar label: human-readable; any device of the account can set it
    :ivar added: when the device joined the account, as the device claims
    :ivar last_seen: signing time of the newest thing that we have seen from the device; None if we have seen nothing
    :ivar fingerprint: of its key for our preferred cipher suite; None if it lists none, or is not listed
    :ivar signature_keys: all keys that it lists, by number of the TLS SignatureScheme, the current one first
    :ivar key_packages: number of its KeyPackages for our preferred suite in the directory, last resort included
    :ivar rooms: bare JIDs of rooms in whose groups we see the device
    :ivar this: whether the device is this one
    :ivar status: our decision about it
    """

    id: str
    label: str | None
    added: datetime | None
    last_seen: datetime | None
    fingerprint: str | None
    signature_keys: Mapping[int, tuple[bytes, ...]] = field(repr=False)
    key_packages: int
    rooms: tuple[str, ...]
    this: bool
    status: DeviceStatus


@dataclass(frozen=True, slots=True)
class NewOwnDevice:
    """Our account lists a device that we have not seen before (``mls_new_device``).

    ``await mls.devices.admit(event.id, fingerprint)`` with the fingerprint that the device shows vouches for it and
    adds it to our rooms.

    :ivar id: device id
    :ivar label: the device's own label
    :ivar fingerprint: of its key for our preferred cipher suite, for comparison with the one that the device shows;
        None if it has none
    :ivar admitted: whether it is being added to our rooms, by the setting ``new_devices``
    """

    id: str
    label: str | None
    fingerprint: str | None
    admitted: bool


@dataclass(frozen=True, slots=True)
class DeviceConflict:
    """The account's list of devices contradicts our records (``mls_device_conflict``).

    Either our own id was listed with other keys: a copy of our store is running elsewhere, or our server lies.  Or a
    retired device has been listed again: its holder still uses the account's password.

    :ivar id: id of the device, perhaps our own
    :ivar fingerprints: of the listed keys
    """

    id: str
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewStore:
    """Our store is new, and our account lists other devices with our label, or without one if we have none
    (``mls_new_store``).

    They may be earlier starts of this program, whose stores were lost: a container without a volume, for example.

    :ivar label: ours
    :ivar devices: ids of the other devices, in the order of the list
    :ivar replaced: those of them that have been taken from the list: all with the setting ``replace_same_label``,
        otherwise the oldest beyond :data:`.own_entry.MOST_NAMESAKES`
    """

    label: str | None
    devices: tuple[str, ...]
    replaced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoomsChanged:
    """The result of an operation on a device in our rooms.

    :ivar done: rooms (bare JIDs) in which a Commit of this call took effect
    :ivar waiting: reason for each room in which it is pending; it is tried again
    """

    done: tuple[str, ...]
    waiting: dict[str, str]
