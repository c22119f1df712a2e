"""What the account's nodes say of our own devices: the list of devices, and their KeyPackages.

The node of devices holds an item for each device, or the marker of one that is retired.  Anybody's
software of the account can publish there; what is no item of ours is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum

from ..delivery import DeviceDirectory, KeyPackageDirectory
from ..errors import InvalidError, PeerError, UsageError
from ..identity import ClientIdentity
from ..key_packages.items import parse_key_package
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.parameters import HOUR
from ..mls.structures import key_package
from ..mls.structures.leaf_node import KeyPackageSource
from ..mls.tree.leaf_validation import GroupRequirements, LeafRules
from ..stanza import Device, RetiredDevice, parse

__all__ = [
    "DeviceConflict", "DeviceStatus", "Listed", "NewOwnDevice", "OwnDevice", "Published", "RoomsChanged",
    "read_devices", "read_key_packages", "rename", "retire", "retract_key_packages",
]  # fmt: skip

log = logging.getLogger(__name__)


class DeviceStatus(IntEnum):
    """How we stand to another device of our account."""

    KNOWN = 1
    """It was there before us."""
    NEW = 2
    """It came after us, and nobody has decided about it."""
    ADMITTED = 3
    """It came after us, and belongs into our rooms."""
    RETIRED = 4


@dataclass(frozen=True, slots=True)
class OwnDevice:
    """One device of our account.

    :ivar id: device id
    :ivar label: for people; any device of the account can set it
    :ivar added: when it came to the account, by its own word
    :ivar last_seen: when it has signed something last that we have seen; None if nothing
    :ivar fingerprint: of its key for our preferred cipher suite; None if it lists none, or is not listed
    :ivar signature_keys: all that it lists, by number of the TLS SignatureScheme, the present one first
    :ivar key_packages: how many KeyPackages for our preferred suite wait in the directory, of last resort included
    :ivar groups: bare JIDs of rooms in whose groups we see it
    :ivar this: whether it is the one that we are
    :ivar status: how we stand to it
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
    """Our account lists a device that we have not seen before; ``await mls.devices.admit(event.id)`` lets it in.

    :ivar label: as it calls itself
    :ivar fingerprint: of its key for our preferred cipher suite, to be compared with what it shows; None if it has none
    :ivar admitted: whether it is being added to our rooms, by configuration
    """

    id: str
    label: str | None
    fingerprint: str | None
    admitted: bool


@dataclass(frozen=True, slots=True)
class DeviceConflict:
    """The account's list contradicts what we know.

    Our own id was listed with other keys: a copy of our store is running somewhere, or our server lies.  Or a
    device that was retired has been listed again: whoever has it goes on, with the account's password.

    :ivar id: of the device, ours perhaps
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


@dataclass(frozen=True, slots=True)
class Listed:
    """What the account's node of devices says, by device id."""

    devices: dict[str, Device]
    retired: dict[str, RetiredDevice]


@dataclass(slots=True)
class Published:
    """A device's KeyPackages in the directory.

    :ivar items: ids of their items
    :ivar packages: those that bear a key which is listed for the device, so that somebody could use them
    """

    items: list[str] = field(default_factory=list)
    packages: list[key_package.KeyPackage] = field(default_factory=list)

    def ready(self, suite: int) -> int:
        """How many there are for a cipher suite."""
        return sum(package.cipher_suite == suite for package in self.packages)

    def signed_at(self, now: int) -> int:
        """When the newest was made whose signatures are good and that is not from the future; 0 if none.

        :param now: seconds since the Unix epoch
        """
        # Ours begin an hour before they are made, see Device.make_key_package.
        dated = [
            (package.leaf_node.source.lifetime.not_before + HOUR, package)
            for package in self.packages
            if isinstance(package.leaf_node.source, KeyPackageSource)
        ]
        for made, package in sorted(dated, key=lambda each: each[0], reverse=True):
            if made > now + HOUR:
                continue
            with suppress(InvalidError):
                suite = CipherSuite.get(package.cipher_suite)
                LeafRules(None).verify_key_package(package, GroupRequirements(suite, package.version))
                return min(made, now)
        return 0


async def read_devices(node: DeviceDirectory, account: str | None = None) -> Listed:
    """An account's devices.

    :param account: bare JID; ours if not given
    :raises DeliveryError: the node could not be read
    """
    found = Listed({}, {})
    for item_id, element in (await node.items(account)).items():
        try:
            item = parse(element)
        except PeerError as error:
            log.debug("an item of our node of devices is ignored: %s", error)
            continue
        if isinstance(item, Device) and item.id == item_id:
            found.devices[item_id] = item
        elif isinstance(item, RetiredDevice) and item.id == item_id:
            found.retired[item_id] = item
    return found


async def read_key_packages(
    directory: KeyPackageDirectory, account: str, listed: Listed, at: str | None = None
) -> dict[str, Published]:
    """An account's KeyPackages by device id.

    :param at: whose node, a bare JID; ours if not given
    :raises DeliveryError: the node could not be read
    """
    found: dict[str, Published] = {}
    for item_id, element in (await directory.items(at)).items():
        try:
            package = parse_key_package(element)
            who = ClientIdentity.from_leaf(package.leaf_node)
        except PeerError as error:
            log.debug("an item of our KeyPackages' node is ignored: %s", error)
            continue
        if who.account != account:
            continue
        published = found.setdefault(who.device, Published())
        published.items.append(item_id)
        device = listed.devices.get(who.device)
        if device is not None and package.leaf_node.signature_key in {key.data for key in device.keys}:
            published.packages.append(package)
    return found


async def rename(node: DeviceDirectory, device_id: str, label: str | None) -> None:
    """Publish a device of ours under another label, with all else as it is.

    :raises UsageError: no such device, or not a label
    :raises DeliveryError: refused, unanswered or disconnected
    """
    device = (await read_devices(node)).devices.get(device_id)
    if device is None:
        raise UsageError(f"our account lists no device {device_id}")
    await node.publish(device_id, replace(device, label=label).to_stdlib())


async def retire(
    node: DeviceDirectory, directory: KeyPackageDirectory, account: str, device_id: str, since: datetime
) -> RetiredDevice:
    """Put the marker in a device's place, and retract its KeyPackages.

    :raises DeliveryError: what was done stays; trying again is safe
    """
    marker = (await read_devices(node)).retired.get(device_id) or RetiredDevice(device_id, since)
    await node.publish(device_id, marker.to_stdlib())
    await retract_key_packages(directory, account, device_id)
    return marker


async def retract_key_packages(directory: KeyPackageDirectory, account: str, device_id: str) -> None:
    """:raises DeliveryError: some may be left"""
    published = await read_key_packages(directory, account, Listed({}, {}))
    if device_id in published:
        await directory.retract_many(published[device_id].items)
