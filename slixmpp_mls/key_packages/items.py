"""The items of a directory of KeyPackages: read, parsed and verified.

Anybody's software of an account can publish into the account's node, and its server can put anything there.  So
nothing in an item is believed before it is verified as if a stranger had written it.
"""

from __future__ import annotations

from contextlib import suppress

from ..client import open_key_package
from ..delivery import DeviceDirectory
from ..errors import DeliveryError, InvalidError, MalformedError, PeerError
from ..identity import ClientIdentity
from ..mls.structures import key_package
from ..mls.tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage
from ..stanza import Device, KeyPackage, parse
from ..stanza.consistency import check as check_consistency
from ..stanza.xml import AnyElement

__all__ = ["parse_item", "parse_key_package", "read_listed", "verify_item"]


async def read_listed(directory: DeviceDirectory, account: str) -> dict[str, Device]:
    """The devices that an account lists, by id; empty if its list cannot be read.

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
    """The ``<key-package/>`` element in an item; its content is not looked at.

    :raises PeerError: the item is none
    """
    item = parse(element)
    if not isinstance(item, KeyPackage):
        raise MalformedError("an item of a KeyPackages' node that is no KeyPackage")
    return item


def parse_key_package(element: AnyElement) -> key_package.KeyPackage:
    """The KeyPackage in an item.  It agrees with the element's attributes; nothing else of it is verified.

    :raises PeerError: there is none
    """
    package = check_consistency(parse_item(element)).body
    assert isinstance(package, key_package.KeyPackage)
    return package


def verify_item(
    item_id: str, item: KeyPackage, account: str, requirements: GroupRequirements, rules: LeafRules
) -> VerifiedKeyPackage:
    """The KeyPackage in an item of an account's node, verified for use in a group.

    :param account: bare JID
    :raises PeerError: it is not acceptable, or not what its item id and attributes say
    """
    if item.suite != requirements.suite.id:
        raise InvalidError(f"a KeyPackage for cipher suite {item.suite}", "RFC 9420 10.1")
    package = open_key_package(item.data, account, requirements, rules)
    if package.reference.hex() != item_id or item.ref != item_id:
        raise InvalidError("a KeyPackage under another one's reference", "RFC 9420 5.2")
    return package
