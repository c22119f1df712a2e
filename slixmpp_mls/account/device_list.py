"""The account's PEP nodes for our own devices: the list of devices, and their KeyPackages.

The node of devices holds one item for each device, or the retirement marker of a retired device.  Any software of the
account can publish there; other items are ignored.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

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
    "Listed", "Published", "read_devices", "read_key_packages", "rename", "retire", "retract_key_packages",
]  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """The content of the account's node of devices, by device id."""

    devices: dict[str, Device]
    retired: dict[str, RetiredDevice]


@dataclass(slots=True)
class Published:
    """A device's KeyPackages in the directory.

    :ivar items: ids of their items
    :ivar packages: those with a key that is listed for the device, so that others can use them
    """

    items: list[str] = field(default_factory=list)
    packages: list[key_package.KeyPackage] = field(default_factory=list)

    def ready(self, suite: int) -> int:
        """The number of KeyPackages for a cipher suite."""
        return sum(package.cipher_suite == suite for package in self.packages)

    def signed_at(self, now: int) -> int:
        """The creation time of the newest validly signed KeyPackage that is not from the future; 0 if there is none.

        :param now: seconds since the Unix epoch
        """
        # Our KeyPackages begin an hour before their creation, see OwnKeyPackages.make.
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

    :param at: owner of the node, a bare JID; our account if not given
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
            try:
                key_package.is_last_resort(package)
            except PeerError as error:  # nobody uses it: its list of components cannot be read
                log.debug("a KeyPackage of %s is ignored: %s", who, error)
                continue
            published.packages.append(package)
    return found


async def rename(node: DeviceDirectory, device_id: str, label: str | None) -> None:
    """Publish one of our devices under another label, otherwise unchanged.

    :raises UsageError: no such device, or the label is invalid
    :raises DeliveryError: refused, unanswered or disconnected
    """
    async with node.changing:
        device = (await read_devices(node)).devices.get(device_id)
        if device is None:
            raise UsageError(f"our account lists no device {device_id}")
        await node.publish(device_id, replace(device, label=label).to_stdlib())


async def retire(
    node: DeviceDirectory, directory: KeyPackageDirectory, account: str, device_id: str, since: datetime
) -> RetiredDevice:
    """Replace a device's item by the retirement marker, and retract the device's KeyPackages.

    :raises DeliveryError: completed parts stay; trying again is safe
    """
    async with node.changing:  # who has read the device's item before would publish it in the marker's place
        marker = (await read_devices(node)).retired.get(device_id) or RetiredDevice(device_id, since)
        await node.publish(device_id, marker.to_stdlib())
    await retract_key_packages(directory, account, device_id)
    return marker


async def retract_key_packages(directory: KeyPackageDirectory, account: str, device_id: str) -> None:
    """:raises DeliveryError: some may be left"""
    published = await read_key_packages(directory, account, Listed({}, {}))
    if device_id in published:
        await directory.retract_many(published[device_id].items)
