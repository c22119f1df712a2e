"""slixmpp and aioxmpp read and write the same XML for every element."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aioxmpp  # type: ignore[import-untyped]
import aioxmpp.pubsub.xso  # type: ignore[import-untyped]
import aioxmpp.xml  # type: ignore[import-untyped]
import pytest
from lxml import etree
from slixmpp.plugins.xep_0060.stanza import EventItem, Item
from slixmpp.stanza import Message
from slixmpp.xmlstream import tostring

from slixmpp_mls import stanza
from slixmpp_mls.errors import MalformedError
from slixmpp_mls.stanza import NS, Device, Element, Key, payloads
from slixmpp_mls.stanza import aioxmpp as xsos
from slixmpp_mls.stanza import slixmpp as stanzas

SCHEMA = etree.XMLSchema(file=str(Path(__file__).parents[2] / "xep" / "mls.xsd"))
REF = "0a" * 32
SAMPLES: list[Element] = [
    stanza.Commit(b"\x01group", 7, b"a commit"),
    stanza.Proposal(b"\x00", 0, b"\x00\x01"),
    stanza.Application(b"g" * 255, 2**64 - 1, b"x" * 1000),
    stanza.Welcome(b"group", 8, b"hello"),
    stanza.GroupInfo(b"group", 8, b"info"),
    stanza.CommitLocation(b"group", 7, b"there"),
    stanza.WelcomeLocation(b"group", 8, b"there"),
    stanza.Invitation(b"group"),
    stanza.Invitation(b"group", "after <&'\">"),
    stanza.KeyPackage(REF, 1, b"key package"),
    stanza.KeyPackage(REF, 65535, b"key package", last_resort=True),
    Device("h4k9", (Key(2055, b"k" * 32),)),
    Device(
        "a", (Key(2055, b"k" * 32), Key(2056, b"K" * 57)), "Ælfred's ☎ & <phone>", datetime(2026, 10, 2, 1, tzinfo=UTC)
    ),
    Device("c", (Key(2055, b"k"),), key_packages=(stanza.KeyPackageCount(1, 100), stanza.KeyPackageCount(0xF001, 7))),
    Device("b", (Key(2055, b"k"),), vouchers=(stanza.Voucher(2055, b"my word"), stanza.Voucher(1027, b"hers"))),
    stanza.RetiredDevice("h4k9", datetime(2026, 10, 2, 1, tzinfo=UTC)),
]
each = pytest.mark.parametrize("value", SAMPLES, ids=lambda value: value.NAME)


@pytest.fixture(autouse=True)
def _registered() -> None:
    stanzas.register()


def canonical(xml: bytes | str) -> str:
    """Canonical XML with normalised prefixes."""
    text = xml if isinstance(xml, str) else xml.decode()
    via_lxml = etree.tostring(etree.fromstring(text.encode()), method="c14n").decode()
    return ElementTree.canonicalize(via_lxml, rewrite_prefixes=True)


def slixmpp_class(value: Element) -> type[stanzas.MLSStanza[Any]]:
    found: type[stanzas.MLSStanza[Any]] = getattr(stanzas, type(value).__name__)
    return found


def written_by_slixmpp(value: Element) -> bytes:
    return tostring(slixmpp_class(value).of(value).xml).encode()


def written_by_aioxmpp(value: Element) -> bytes:
    buffer = io.BytesIO()
    aioxmpp.xml.write_single_xso(getattr(xsos, type(value).__name__).of(value), buffer)
    return buffer.getvalue()


def read_by_slixmpp(value: Element, xml: bytes) -> Any:
    return slixmpp_class(value)(xml=ElementTree.fromstring(xml)).read()


def read_by_aioxmpp(value: Element, xml: bytes) -> Any:
    return aioxmpp.xml.read_single_xso(io.BytesIO(xml), getattr(xsos, type(value).__name__)).read()


@each
def test_all_three_write_the_same(value: Element) -> None:
    expected = canonical(value.to_bytes())
    for xml in (written_by_slixmpp(value), written_by_aioxmpp(value)):
        assert canonical(xml) == expected
        SCHEMA.assertValid(etree.fromstring(xml))


@each
def test_each_reads_what_the_others_write(value: Element) -> None:
    for xml in (value.to_bytes(), written_by_slixmpp(value), written_by_aioxmpp(value)):
        assert stanza.parse(xml) == value
        assert read_by_slixmpp(value, xml) == value
        assert read_by_aioxmpp(value, xml) == value


@each
def test_slixmpp_interfaces(value: Element) -> None:
    cls = slixmpp_class(value)
    full, empty = cls.of(value), cls()
    for name in cls.interfaces:
        assert full[name] == getattr(value, name)
        if full[name] is not None:
            empty[name] = full[name]
        assert empty[name] == full[name]
    if not isinstance(value, Device):  # keys and label have no interface
        assert empty.read() == value
    for name in cls.interfaces:
        del full[name]
    assert not full.xml.attrib
    with pytest.raises(MalformedError):
        full.read()


def test_slixmpp_messages_carry_the_elements() -> None:
    message = Message()  # type: ignore[no-untyped-call]
    commit = stanza.Commit(b"g", 7, b"c")
    welcomes = [stanza.Welcome(b"g", 8, b"w"), stanza.Welcome(b"g", 8, b"x")]
    message.append(stanzas.Commit.of(commit))
    for welcome in welcomes:
        message.append(stanzas.Welcome.of(welcome))
    assert payloads(message.xml) == [commit, *welcomes]

    received = Message(xml=ElementTree.fromstring(tostring(message.xml)))  # type: ignore[no-untyped-call]
    assert received["mls_commit"].read() == commit
    assert received["mls_commit"]["epoch"] == 7
    assert [welcome.read() for welcome in received["mls_welcomes"]] == welcomes
    assert received.get_plugin("mls_application", check=True) is None
    assert payloads(received.xml) == [commit, *welcomes]


def test_slixmpp_asking_for_another_element_never_meets_our_errors() -> None:
    """`in` evaluates every interface of the whole stanza, our malformed ones too."""
    xml = f"<message xmlns='jabber:client'><commit xmlns='{NS}' group='?' epoch='x'>?</commit><body>b</body></message>"
    message = Message(xml=ElementTree.fromstring(xml))  # type: ignore[no-untyped-call]
    assert "body" in message
    assert message["mls_commit"]["group"] is None
    assert message["mls_commit"]["data"] is None
    with pytest.raises(MalformedError):
        message["mls_commit"].read()


@pytest.mark.parametrize("item_class", [Item, EventItem])
def test_slixmpp_items_carry_the_elements(item_class: type[Item]) -> None:
    package = next(value for value in SAMPLES if isinstance(value, stanza.KeyPackage))
    item = item_class()
    item["id"] = package.ref
    item.append(stanzas.KeyPackage.of(package))
    received = item_class(xml=ElementTree.fromstring(tostring(item.xml)))
    assert received["mls_key_package"].read() == package
    assert received.get_plugin("mls_device", check=True) is None


def test_aioxmpp_messages_carry_the_elements() -> None:
    message = aioxmpp.Message(type_=aioxmpp.MessageType.GROUPCHAT, to=aioxmpp.JID.fromstr("coven@rooms.example"))
    elements = [stanza.Commit(b"g", 7, b"c"), stanza.Welcome(b"g", 8, b"w"), stanza.GroupInfo(b"g", 8, b"i")]
    message.mls_payload.extend(getattr(xsos, type(value).__name__).of(value) for value in elements)
    message.autoset_id()
    buffer = io.BytesIO()
    aioxmpp.xml.write_single_xso(message, buffer)

    received = Message(xml=ElementTree.fromstring(buffer.getvalue()))  # type: ignore[no-untyped-call]
    assert payloads(received.xml) == elements
    back = aioxmpp.xml.read_single_xso(io.BytesIO(tostring(received.xml).encode()), aioxmpp.Message)
    assert [xso.read() for xso in back.mls_payload] == elements


def test_aioxmpp_items_carry_the_elements() -> None:
    device = next(value for value in reversed(SAMPLES) if isinstance(value, Device))
    item = aioxmpp.pubsub.xso.Item(id_="a")
    item.registered_payload = xsos.Device.of(device)
    buffer = io.BytesIO()
    aioxmpp.xml.write_single_xso(item, buffer)
    assert Item(xml=ElementTree.fromstring(buffer.getvalue()))["mls_device"].read() == device
    back = aioxmpp.xml.read_single_xso(io.BytesIO(buffer.getvalue()), aioxmpp.pubsub.xso.Item)
    assert back.registered_payload.read() == device


MALFORMED = [
    (stanza.Commit, f"<commit xmlns='{NS}' epoch='1'>YQ==</commit>"),
    (stanza.Commit, f"<commit xmlns='{NS}' group='Zw==' epoch='01'>YQ==</commit>"),
    (stanza.Commit, f"<commit xmlns='{NS}' group='Zw==' epoch='1'>YQ</commit>"),
    (stanza.Commit, f"<commit xmlns='{NS}' group='Zw==' epoch='1'>YQ==<x xmlns='urn:x'/></commit>"),
    (stanza.Commit, f"<commit xmlns='{NS}' group='Zw==' epoch='1'/>"),
    (stanza.Invitation, f"<invitation xmlns='{NS}'/>"),
    (stanza.KeyPackage, f"<key-package xmlns='{NS}' ref='{REF}' suite='x'>YQ==</key-package>"),
    (Device, f"<device xmlns='{NS}' id='a'/>"),
    (Device, f"<device xmlns='{NS}' id='a'><label/><key scheme='1'>YQ==</key></device>"),
    (Device, f"<device xmlns='{NS}' id='a'><key scheme='1'>YQ==</key><key scheme='1'>YQ==</key></device>"),
]


@pytest.mark.parametrize(("kind", "xml"), MALFORMED)
def test_all_three_refuse_the_same(kind: type[Element], xml: str) -> None:
    with pytest.raises(MalformedError):
        stanza.parse(xml)
    with pytest.raises(MalformedError):
        getattr(stanzas, kind.__name__)(xml=ElementTree.fromstring(xml)).read()
    # aioxmpp reports with ValueError what it finds while parsing.
    with pytest.raises((MalformedError, ValueError)):
        aioxmpp.xml.read_single_xso(io.BytesIO(xml.encode()), getattr(xsos, kind.__name__)).read()
