"""Items of a directory: parsed by one parser, and believed only as far as they are verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError, NotPermitted, PeerError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.key_packages.items import parse_item, parse_key_package, read_listed, verify_item
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.mls.tree.leaf_validation import GroupRequirements, LeafRules
from slixmpp_mls.stanza import Device, KeyPackage
from slixmpp_mls.stanza.elements import Key
from slixmpp_mls.testing import NOW, World

from ..client.people import ALICE, BOB
from ..services import Client

REQUIREMENTS = GroupRequirements.of(CipherSuite.get(1), 1, ())
RULES = LeafRules(NOW, 90 * DAY, HOUR)


def published() -> tuple[Client, str, KeyPackage]:
    client = Client(World().person(ALICE))
    item_id, element = next(iter(client.publish_key_packages().items()))
    return client, item_id, parse_item(element)


def test_an_item_is_parsed_and_verified() -> None:
    client, item_id, item = published()
    package = parse_key_package(item.to_stdlib())
    assert ClientIdentity.from_leaf(package.leaf_node) == client.device.identity
    verified = verify_item(item_id, item, ALICE, REQUIREMENTS, RULES)
    assert verified.reference.hex() == item_id
    assert verified.leaf == package.leaf_node


def test_what_is_no_key_package() -> None:
    device = Device("96fee99052b73d57", (Key(2055, bytes(32)),)).to_stdlib()
    for parser in (parse_item, parse_key_package):
        with pytest.raises(MalformedError):
            parser(device)


@pytest.mark.parametrize(
    "change",
    [
        lambda item: replace(item, ref="00" * 32),  # RFC 9420 5.2
        lambda item: replace(item, suite=2),  # RFC 9420 10
        lambda item: replace(item, data=item.data[:-1]),
        lambda item: replace(item, data=b"\0\1\0\2" + item.data[4:]),
    ],
)
def test_attributes_that_contradict_the_content(change: Callable[[KeyPackage], KeyPackage]) -> None:
    _, item_id, item = published()
    for read in (
        lambda spoilt: parse_key_package(spoilt.to_stdlib()),
        lambda spoilt: verify_item(item_id, spoilt, ALICE, REQUIREMENTS, RULES),
    ):
        with pytest.raises(PeerError):
            read(change(item))


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("under another one's reference (RFC 9420 5.2)", {"item_id": "00" * 32}),
        ("claims to be alice@a.example (RFC 9420 5.3.1)", {"account": BOB}),
        ("for cipher suite 1 (RFC 9420 10.1)", {"requirements": GroupRequirements.of(CipherSuite.get(2), 1, ())}),
        ("RFC 9420 7.3", {"rules": LeafRules(NOW + 40 * DAY, 90 * DAY, HOUR)}),  # it has expired
    ],
)
def test_what_is_not_acceptable(why: str, change: dict[str, Any]) -> None:
    _, item_id, item = published()
    given: dict[str, Any] = {"item_id": item_id, "account": ALICE, "requirements": REQUIREMENTS, "rules": RULES}
    given |= change
    with pytest.raises(InvalidError) as caught:
        verify_item(given["item_id"], item, given["account"], given["requirements"], given["rules"])
    assert why in str(caught.value)


async def test_the_list_of_devices_has_devices_only() -> None:
    client = Client(World().person(ALICE))
    node = client.devices.of.setdefault(BOB, {})
    good = Device("96fee99052b73d57", (Key(2055, bytes(32)),))
    node |= {"96fee99052b73d57": good.to_stdlib(), "another": good.to_stdlib(), "odd": Element("{urn:example}odd")}
    assert await read_listed(client.context.devices, BOB) == {"96fee99052b73d57": good}
    client.devices.error = NotPermitted("the node is closed")
    assert await read_listed(client.context.devices, BOB) == {}
