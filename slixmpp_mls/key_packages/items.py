"""The items of a directory of KeyPackages: read, parsed and verified.

Any software of an account can publish to the account's node, and its server can insert anything.  Therefore an item is
verified like a stranger's before any of its content is used.

The id of an item is ``<device>/<suite>/<number>`` or ``<device>/<suite>/last-resort`` (:class:`Place`): readers know
the numbers that are in use from the list of devices, and can ask for one item.  A KeyPackage takes the place of the one
that was used before it.  Software that does not say how many KeyPackages it has may use the KeyPackageRef as the id.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from ..client import open_key_package
from ..delivery import DeviceDirectory
from ..errors import DeliveryError, InvalidError, MalformedError, PeerError, suite_name
from ..identity import ClientIdentity
from ..mls.structures import key_package
from ..mls.tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage
from ..stanza import Device, KeyPackage, parse
from ..stanza.consistency import check as check_consistency
from ..stanza.xml import AnyElement

__all__ = ["Place", "parse_item", "parse_key_package", "read_listed", "verify_item"]


_PLACE = re.compile(r"([A-Za-z0-9_-]{1,64})/(0|[1-9][0-9]{0,4})/(last-resort|0|[1-9][0-9]{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a KeyPackage is in its account's directory.

    :ivar device: id of the device
    :ivar suite: number of the cipher suite
    :ivar number: below the device's number of KeyPackages for this suite; None: the one of last resort
    """

    device: str
    suite: int
    number: int | None = None

    @property
    def item_id(self) -> str:
        """The id of the item."""
        return f"{self.device}/{self.suite}/{'last-resort' if self.number is None else self.number}"

    @classmethod
    def of(cls, item_id: str) -> Self | None:
        """The place that an item's id names; None if it names none."""
        match = _PLACE.fullmatch(item_id)
        if match is None:
            return None
        device, suite, number = match.groups()
        return cls(device, int(suite), None if number == "last-resort" else int(number))


async def read_listed(directory: DeviceDirectory, account: str) -> dict[str, Device]:
    """Read the devices that an account lists, by id; empty if the list cannot be read.

    :param account: bare JID
    """
    try:
        items = await directory.items(account)
    except DeliveryError:
        return {}
    found: dict[str, Device] = {}
    for item_id, element in items.items():
        with suppress(PeerError, ValueError):
            device = parse(element)
            if isinstance(device, Device) and device.id == item_id:
                ClientIdentity(account, device.id)
                found[device.id] = device
    return found


def parse_item(element: AnyElement) -> KeyPackage:
    """Parse the ``<key-package/>`` element in an item; its content is not examined.

    :raises PeerError: the item is not one
    """
    item = parse(element)
    if not isinstance(item, KeyPackage):
        raise MalformedError("an item of a KeyPackages' node that is no KeyPackage")
    return item


def parse_key_package(element: AnyElement) -> key_package.KeyPackage:
    """Parse the KeyPackage in an item.  Only its agreement with the element's attributes is verified.

    :raises PeerError: there is none
    """
    package = check_consistency(parse_item(element)).body
    assert isinstance(package, key_package.KeyPackage)
    return package


def verify_item(
    item_id: str, item: KeyPackage, account: str, requirements: GroupRequirements, rules: LeafRules
) -> VerifiedKeyPackage:
    """Verify the KeyPackage in an item of an account's node for use in a group.

    :param account: bare JID
    :raises PeerError: it is not acceptable, or does not match its item id and attributes
    """
    if item.suite != requirements.suite.id:
        raise InvalidError(f"a KeyPackage for cipher suite {suite_name(item.suite)}", "RFC 9420 10.1")
    package = open_key_package(item.data, account, requirements, rules)
    if package.reference.hex() != item.ref:
        raise InvalidError("a KeyPackage under another one's reference", "RFC 9420 5.2")
    place = Place.of(item_id)
    if place is None and item_id != item.ref:
        raise InvalidError("a KeyPackage under another one's reference", "RFC 9420 5.2")
    if place is not None and (place.device, place.suite) != (ClientIdentity.from_leaf(package.leaf).device, item.suite):
        raise InvalidError("a KeyPackage in the place of another device or cipher suite", "XEP, Publishing KeyPackages")
    return package
