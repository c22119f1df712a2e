"""What the application is told about the devices of its own account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

__all__ = ["DeviceConflict", "DeviceStatus", "NewOwnDevice", "OwnDevice", "RoomsChanged"]


class DeviceStatus(IntEnum):
    """What we have decided about another device of our account."""

    KNOWN = 1
    """The device was there before us."""
    NEW = 2
    """The device came after us, and nobody has decided about it."""
    ADMITTED = 3
    """The device came after us, and belongs into our rooms."""
    RETIRED = 4


@dataclass(frozen=True, slots=True)
class OwnDevice:
    """One device of our account.

    :ivar id: device id
    :ivar label: for people; any device of the account can set it
    :ivar added: when the device came to the account, by its own word
    :ivar last_seen: when the device signed the newest thing that we have seen of it; None if we have seen nothing
    :ivar fingerprint: of its key for our preferred cipher suite; None if it lists none, or is not listed
    :ivar signature_keys: all keys that it lists, by number of the TLS SignatureScheme, the present one first
    :ivar key_packages: number of its KeyPackages for our preferred suite in the directory, last resort included
    :ivar groups: bare JIDs of rooms in whose groups we see the device
    :ivar this: whether the device is this one
    :ivar status: what we have decided about it
    """

    id: str
    label: str | None
    added: datetime | None
    last_seen: datetime | None
    fingerprint: str | None
    signature_keys: Mapping[int, tuple[bytes, ...]] = field(repr=False)
    key_packages: int
    groups: tuple[str, ...]
    this: bool
    status: DeviceStatus


@dataclass(frozen=True, slots=True)
class NewOwnDevice:
    """Our account lists a device that we have not seen before (``mls_new_device``).

    ``await mls.devices.admit(event.id, fingerprint)``, with what the device shows, vouches for it and adds it to our
    rooms.

    :ivar id: device id
    :ivar label: as the device calls itself
    :ivar fingerprint: of its key for our preferred cipher suite, to be compared with what the device shows; None if
        it has none
    :ivar admitted: whether it is being added to our rooms, by the setting ``new_devices``
    """

    id: str
    label: str | None
    fingerprint: str | None
    admitted: bool


@dataclass(frozen=True, slots=True)
class DeviceConflict:
    """The account's list of devices contradicts what we know (``mls_device_conflict``).

    Our own id was listed with other keys: a copy of our store is running somewhere, or our server lies.  Or a
    retired device has been listed again: its holder goes on, with the account's password.

    :ivar id: of the device, perhaps ours
    :ivar fingerprints: of the keys that were listed
    """

    id: str
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoomsChanged:
    """What became of a device in our rooms.

    :ivar done: rooms (bare JIDs) in which a Commit of this call took effect
    :ivar waiting: reason for each room in which it is still to be done; it is tried again
    """

    done: tuple[str, ...]
    waiting: dict[str, str]
