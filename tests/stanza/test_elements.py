"""The elements of urn:xmpp:mls:0: reading, building, and the schema that says the same."""

from __future__ import annotations

import base64
import itertools
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from slixmpp_mls.errors import MalformedError, UsageError
from slixmpp_mls.stanza import (
    NS,
    Application,
    Commit,
    CommitLocation,
    Device,
    Element,
    GroupInfo,
    Invitation,
    Key,
    KeyPackage,
    KeyPackageCount,
    Proposal,
    RetiredDevice,
    Voucher,
    Welcome,
    WelcomeLocation,
    parse,
    payloads,
    read_payloads,
)
from slixmpp_mls.stanza.xml import parse_xml, read_datetime, to_lxml, to_stdlib, write_datetime

SCHEMA = etree.XMLSchema(file=str(Path(__file__).parents[2] / "xep" / "mls.xsd"))
REF = "5f" * 32
WHEN = datetime(2026, 10, 2, 12, 30, 0, 250000, tzinfo=UTC)
ED25519 = 2055

SAMPLES: list[Element] = [
    Commit(b"\x01group", 7, b"a commit"),
    Proposal(b"\x00", 0, b"\x00\x01"),
    Application(b"g" * 255, 2**64 - 1, b"x" * 1000),
    Welcome(b"group", 8, b"hello"),
    GroupInfo(b"group", 8, b"info"),
    CommitLocation(b"group", 7, b"there"),
    WelcomeLocation(b"group", 8, b"there"),
    Invitation(b"group"),
    Invitation(b"group", "2026-10-02-a7e&<'\""),
    KeyPackage(REF, 1, b"key package"),
    KeyPackage(REF, 65535, b"key package", last_resort=True),
    Device("h4k9-x_Z", (Key(ED25519, b"k" * 32),)),
    Device("a", (Key(ED25519, b"k" * 32), Key(2056, b"K" * 57)), "Ælfred's ☎ & <phone>", WHEN),
    Device("a", (Key(ED25519, b"new"), Key(ED25519, b"old"))),
    Device("a", (Key(ED25519, b"k"),), "phone", vouchers=(Voucher(ED25519, b"my word"), Voucher(2056, b"hers"))),
    Device("a", (Key(ED25519, b"k"),), key_packages=(KeyPackageCount(1, 0), KeyPackageCount(65535, 65535))),
    RetiredDevice("h4k9-x_Z", WHEN),
]
ROOM_ELEMENTS = (Commit, CommitLocation, Proposal, Application, Welcome, WelcomeLocation, GroupInfo)
one_line = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff", codec="utf-8"), min_size=1
)
groups = st.binary(min_size=1, max_size=255)
epochs = st.integers(0, 2**64 - 1)
messages = st.binary(min_size=1, max_size=200)
moments = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC))
keys = st.lists(st.builds(Key, st.integers(0, 65535), messages), min_size=1, max_size=16, unique=True)
elements = st.one_of(
    *(st.builds(kind, groups, epochs, messages) for kind in ROOM_ELEMENTS),
    st.builds(Invitation, groups, st.none() | one_line.filter(lambda text: len(text) <= 256)),
    st.builds(
        KeyPackage, st.binary(min_size=16, max_size=64).map(bytes.hex), st.integers(0, 65535), messages, st.booleans()
    ),
    st.builds(
        Device,
        st.text("ABCXYZabcxyz0189_-", min_size=1, max_size=64),
        keys.map(tuple),
        st.none() | one_line.filter(lambda text: len(text) <= 64),
        st.none() | moments,
        st.lists(st.builds(Voucher, st.integers(0, 65535), messages), max_size=16).map(tuple),
        st.dictionaries(st.integers(0, 65535), st.integers(0, 65535), max_size=32).map(
            lambda found: tuple(itertools.starmap(KeyPackageCount, found.items()))
        ),
    ),
    st.builds(RetiredDevice, st.text("ABCXYZabcxyz0189_-", min_size=1, max_size=64), moments),
)


def canonical(xml: bytes) -> str:
    return ElementTree.canonicalize(xml.decode(), rewrite_prefixes=True)


def assert_valid(xml: bytes) -> None:
    SCHEMA.assertValid(etree.fromstring(xml))


@pytest.mark.parametrize("element", SAMPLES, ids=lambda e: e.NAME)
def test_what_is_built_is_read_and_valid(element: Element) -> None:
    xml = element.to_bytes()
    assert_valid(xml)
    assert parse(xml) == parse(xml.decode()) == parse(element.to_lxml()) == parse(element.to_stdlib()) == element


@settings(deadline=None)
@given(elements)
def test_any_element_survives_the_wire_and_satisfies_the_schema(element: Element) -> None:
    xml = element.to_bytes()
    assert_valid(xml)
    assert parse(xml) == element
    assert canonical(ElementTree.tostring(element.to_stdlib())) == canonical(xml)


def test_the_form_on_the_wire() -> None:
    assert Commit(b"coven", 7, b"\x00\x01\x00\x02").to_bytes() == (
        b'<commit xmlns="urn:xmpp:mls:0" group="Y292ZW4=" epoch="7">AAEAAg==</commit>'
    )
    assert Device("d1", (Key(ED25519, b"key"),), "phone", WHEN).to_bytes() == (
        b'<device xmlns="urn:xmpp:mls:0" id="d1" added="2026-10-02T12:30:00.250000Z">'
        b'<label>phone</label><key scheme="2055">a2V5</key></device>'
    )
    assert KeyPackage(REF, 1, b"kp").to_bytes() == (
        f'<key-package xmlns="urn:xmpp:mls:0" ref="{REF}" suite="1">a3A=</key-package>'.encode()
    )


def test_reading_tolerates_what_xmpp_tolerates() -> None:
    wrapped = f"<commit xmlns='{NS}' group='Zw==' epoch='1'>\n  YWJj\n\t ZGVm \r\n</commit>"
    assert_valid(wrapped.encode())
    assert parse(wrapped) == Commit(b"g", 1, b"abcdef")
    prefixed = f"<m:commit xmlns:m='{NS}' group='Zw==' epoch='1' m:x='1' xmlns:y='urn:y' y:epoch='9'>YQ==</m:commit>"
    assert parse(prefixed) == Commit(b"g", 1, b"a")
    for true in ("true", "1"):
        package = f"<key-package xmlns='{NS}' ref='{REF}' suite='1' last-resort='{true}'>YQ==</key-package>"
        assert parse(package) == KeyPackage(REF, 1, b"a", last_resort=True)
    device = (
        f"<device xmlns='{NS}' id='a' added='2026-10-02T14:30:00+02:00'> <key scheme='2055'>YQ==</key>"
        "<extra xmlns='urn:other'><deep/></extra></device>"
    )
    assert_valid(device.encode())
    assert parse(device) == Device("a", (Key(2055, b"a"),), added=datetime(2026, 10, 2, 12, 30, tzinfo=UTC))


def test_unknown_attributes_are_ignored_though_the_schema_does_not_offer_them() -> None:
    xml = f"<commit xmlns='{NS}' group='Zw==' epoch='1' later='x'>YQ==</commit>"
    assert parse(xml) == Commit(b"g", 1, b"a")
    assert not SCHEMA.validate(etree.fromstring(xml))


def room(group: str = "Zw==", epoch: str = "1", text: str = "YQ==", name: str = "commit") -> str:
    return f"<{name} xmlns='{NS}' group='{group}' epoch='{epoch}'>{text}</{name}>"


def package(ref: str = REF, suite: str = "1", text: str = "YQ==", more: str = "") -> str:
    return f"<key-package xmlns='{NS}' ref='{ref}' suite='{suite}' {more}>{text}</key-package>"


def device(ident: str = "a", children: str = "<key scheme='1'>YQ==</key>", more: str = "") -> str:
    return f"<device xmlns='{NS}' id='{ident}' {more}>{children}</device>"


REFUSED = {
    # attributes
    "no group": f"<commit xmlns='{NS}' epoch='1'>YQ==</commit>",
    "no epoch": f"<commit xmlns='{NS}' group='Zw=='>YQ==</commit>",
    "qualified group only": f"<m:commit xmlns:m='{NS}' m:group='Zw==' epoch='1'>YQ==</m:commit>",
    "epoch empty": room(epoch=""),
    "epoch negative": room(epoch="-1"),
    "epoch signed": room(epoch="+1"),
    "epoch with leading zero": room(epoch="01"),
    "epoch hexadecimal": room(epoch="0x1"),
    "epoch fraction": room(epoch="1.0"),
    "epoch over 64 bits": room(epoch=str(2**64)),
    "epoch of a million digits": room(epoch="9" * 1_000_000),
    "epoch in Arabic digits": room(epoch="٣"),
    "group empty": room(group=""),
    "group not base64": room(group="Zw=!"),
    "group without padding": room(group="Zw"),
    "group with space": room(group="Z2 dn"),
    "group not canonical": room(group="Zx=="),
    "group in base64url": room(group="_-_-"),
    "group of 256 octets": room(group=base64.b64encode(b"x" * 256).decode()),
    "group with more after the padding": room(group="Zw==Zw=="),
    "suite over 16 bits": package(suite="65536"),
    "suite hexadecimal": package(suite="0x0001"),
    "no suite": f"<key-package xmlns='{NS}' ref='{REF}'>YQ==</key-package>",
    "no ref": f"<key-package xmlns='{NS}' suite='1'>YQ==</key-package>",
    "ref in capitals": package(ref="5F" * 32),
    "ref of odd length": package(ref="5" * 63),
    "ref too short": package(ref="5f" * 15),
    "ref too long": package(ref="5f" * 65),
    "last-resort no boolean": package(more="last-resort='yes'"),
    "after empty": f"<invitation xmlns='{NS}' group='Zw==' after=''/>",
    "after too long": f"<invitation xmlns='{NS}' group='Zw==' after='{'x' * 257}'/>",
    "after with a line break": f"<invitation xmlns='{NS}' group='Zw==' after='a&#10;b'/>",
    "device id empty": device(ident=""),
    "device id with a slash": device(ident="a/b"),
    "device id with a final line break": device(ident="a&#10;"),
    "device id too long": device(ident="a" * 65),
    "added without zone": device(more="added='2026-10-02T12:30:00'"),
    "added no date": device(more="added='2026-13-02T12:30:00Z'"),
    "added a day only": device(more="added='2026-10-02'"),
    # text
    "text empty": room(text=""),
    "text white": room(text=" \n "),
    "text not base64": room(text="Y!=="),
    "text without padding": room(text="YQ"),
    "text with too much padding": room(text="YQ==="),
    "text not canonical": room(text="YR=="),
    "text in base64url": room(text="-_-_"),
    "text with padding inside": room(text="YQ==YQ=="),
    "text with a no-break space": room(text="YQ==\u00a0"),
    "child in text": room(text="YQ==<x xmlns='urn:other'/>"),
    "child splits text": room(text="YWJj<x xmlns='urn:other'/>YWJj"),
    # device
    "device without key": device(children=""),
    "device with 17 keys": device(children="".join(f"<key scheme='{n}'>YQ==</key>" for n in range(17))),
    "device with the same key twice": device(children="<key scheme='1'>YQ==</key><key scheme='1'>YQ==</key>"),
    "key without scheme": device(children="<key>YQ==</key>"),
    "key not base64": device(children="<key scheme='1'>???</key>"),
    "key of 8193 octets": device(children=f"<key scheme='1'>{base64.b64encode(bytes(8193)).decode()}</key>"),
    "label empty": device(children="<label/><key scheme='1'>YQ==</key>"),
    "label of 65 code points": device(children=f"<label>{'𝄞' * 65}</label><key scheme='1'>YQ==</key>"),
    "label of two lines": device(children="<label>a\nb</label><key scheme='1'>YQ==</key>"),
    "label with a control character": device(children="<label>a\x85b</label><key scheme='1'>YQ==</key>"),
    "two labels": device(children="<label>a</label><label>b</label><key scheme='1'>YQ==</key>"),
    "label with a child": device(children="<label>a<b/></label><key scheme='1'>YQ==</key>"),
    "retired device without a date": f"<retired-device xmlns='{NS}' id='a'/>",
    "retired device without an id": f"<retired-device xmlns='{NS}' since='2026-10-02T12:30:00Z'/>",
    "retired device with a bad id": f"<retired-device xmlns='{NS}' id='a/b' since='2026-10-02T12:30:00Z'/>",
    # elements
    "key outside a device": f"<key xmlns='{NS}' scheme='1'>YQ==</key>",
    "unknown element": room(name="comit"),
    "other namespace": room().replace(NS, "urn:xmpp:mls:1"),
    "no namespace": "<commit group='Zw==' epoch='1'>YQ==</commit>",
}


@pytest.mark.parametrize("xml", REFUSED.values(), ids=REFUSED.keys())
def test_malformed_is_refused_by_parser_and_schema(xml: str) -> None:
    with pytest.raises(MalformedError):
        parse(xml)
    with pytest.raises(MalformedError):
        parse(ElementTree.fromstring(xml))
    assert not SCHEMA.validate(etree.fromstring(xml, etree.XMLParser(huge_tree=True)))


NOT_XML = {
    "empty": b"",
    "truncated": b"<commit xmlns='urn:xmpp:mls:0' group='Zw==' epoch='1'>YQ=",
    "undeclared prefix": b"<m:commit group='Zw==' epoch='1'>YQ==</m:commit>",
    "undeclared prefix of an attribute": room().replace("group=", "m:group=").encode(),
    "two roots": room().encode() * 2,
    "document type": b"<!DOCTYPE commit>" + room().encode(),
    "entity": b"<!DOCTYPE c [<!ENTITY e 'YQ=='>]>" + room(text="&e;").encode(),
    "external entity": b"<!DOCTYPE c SYSTEM 'file:///etc/passwd'>" + room().encode(),
    "undeclared entity": room(text="&e;").encode(),
    "comment": room(text="YQ<!---->==").encode(),
    "comment before": b"<!-- x -->" + room().encode(),
    "comment after": room().encode() + b"<!-- x -->",
    "processing instruction": room(text="<?php x?>YQ==").encode(),
    "processing instruction before": b"<?xml-stylesheet href='x'?>" + room().encode(),
    "Latin-1": device(children="<label>\xe9</label><key scheme='1'>YQ==</key>").encode("latin-1"),
    "UTF-16": room().encode("utf-16"),
    "UTF-16 unmarked": room().encode("utf-16-le"),
    "NUL": room(text="YQ==\0").encode(),
    "control character by number": room(text="YQ==&#1;").encode(),
    "65 levels": b"<a xmlns='urn:a'>" * 65 + b"</a>" * 65,
    "100,000 levels": b"<a xmlns='urn:a'>" * 60_000,
}


@pytest.mark.parametrize("xml", NOT_XML.values(), ids=NOT_XML.keys())
def test_xml_that_xmpp_forbids_is_refused_rfc6120_11(xml: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse(xml)
    assert caught.value.__cause__ is None  # libxml2's messages quote the input


def test_errors_do_not_quote_the_input() -> None:
    for xml in (b"<sesame>open</wrong>", b"<!DOCTYPE sesame><open/>", room(text="sesame!").encode()):
        with pytest.raises(MalformedError) as caught:
            parse(xml)
        assert "sesame" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_size_limits() -> None:
    exact = room(text=base64.b64encode(bytes(786432)).decode())
    assert len(parse(exact).data) == 786432  # type: ignore[union-attr]
    over = room(text=base64.b64encode(bytes(786433)).decode())
    for form in (over, over.encode(), ElementTree.fromstring(over)):
        with pytest.raises(MalformedError):
            parse(form)
    with pytest.raises(MalformedError, match="over the limit of 100"):
        parse(ElementTree.fromstring(room(text="YWJj" * 26)), max_encoded=100)
    with pytest.raises(MalformedError, match="over the limit"):
        parse(room(text=" " * 2_000_000 + "YQ=="))
    assert not SCHEMA.validate(etree.fromstring(over, etree.XMLParser(huge_tree=True)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Commit(b"", 1, b"a"),
        lambda: Commit(b"g" * 256, 1, b"a"),
        lambda: Commit("g", 1, b"a"),  # type: ignore[arg-type]
        lambda: Commit(b"g", -1, b"a"),
        lambda: Commit(b"g", 2**64, b"a"),
        lambda: Commit(b"g", True, b"a"),
        lambda: Commit(b"g", 1, b""),
        lambda: Commit(b"g", 1, bytes(2**25 + 1)),
        lambda: Commit(b"g", 1, bytes(786433)).to_lxml(),
        lambda: Welcome(b"g", 1, bytes(786433)).to_stdlib(),
        lambda: Invitation(b"g", ""),
        lambda: KeyPackage("XX" * 32, 1, b"a"),
        lambda: KeyPackage(REF, 65536, b"a"),
        lambda: KeyPackage(REF, 1, b"a", "true"),  # type: ignore[arg-type]
        lambda: Device("a/b", (Key(1, b"a"),)),
        lambda: Device("a", ()),
        lambda: Device("a", (Key(1, b"a"), Key(1, b"a"))),
        lambda: Device("a", (Key(1, b"a"),), "x" * 65),
        lambda: Device("a", (Key(1, b"a"),), vouchers=(Voucher(1, b"a"),) * 17),
        lambda: Voucher(1, bytes(12289)),
        lambda: Device("a", (Key(1, b"a"),), "a\x00"),
        lambda: Device("a", (Key(1, b"a"),), added=datetime(2026, 1, 1)),
    ],
)
def test_a_value_that_could_not_be_sent_cannot_be_made(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        make()


def message(*children: str) -> str:
    return f"<message xmlns='jabber:client' type='groupchat'>{''.join(children)}</message>"


def test_payloads_in_document_order() -> None:
    xml = message(
        room(epoch="7"),
        "<store xmlns='urn:xmpp:hints'/>",
        room(epoch="8", name="welcome"),
        room(epoch="8", name="welcome", text="Yg=="),
        room(epoch="8", name="group-info"),
        room(name="of-a-later-version"),
        "<body>hello</body>",
    )
    expected = [Commit(b"g", 7, b"a"), Welcome(b"g", 8, b"a"), Welcome(b"g", 8, b"b"), GroupInfo(b"g", 8, b"a")]
    assert payloads(xml) == payloads(etree.fromstring(xml)) == payloads(ElementTree.fromstring(xml)) == expected
    assert payloads(message(room(name="application"))) == [Application(b"g", 1, b"a")]
    assert payloads(message("<x xmlns='jabber:x:conference'/>", f"<invitation xmlns='{NS}' group='Zw=='/>")) == [
        Invitation(b"g")
    ]
    assert payloads(message("<body>hello</body>")) == []
    assert payloads(message(f"<forwarded xmlns='urn:xmpp:forward:0'>{room()}</forwarded>")) == []


def test_what_may_stand_beside_the_location_of_a_commit() -> None:
    names = ["commit-location", "welcome-location", "welcome", "group-info"]
    xml = message(*(room(epoch="1" if name == names[0] else "2", name=name) for name in names))
    assert [element.NAME for element in payloads(xml)] == names


APPLICATION, PROPOSAL = room(name="application"), room(name="proposal")
INVITATION = f"<invitation xmlns='{NS}' group='Zw=='/>"

# XEP: "A stanza with two of them, or with one that cannot be read, is dropped as a whole."
VOID = {
    "two commits": (room(), room()),
    "commit and application": (room(), APPLICATION),
    "proposal and application": (PROPOSAL, APPLICATION),
    "a commit and the location of one": (room(), room(name="commit-location")),
    "the location of a commit and application": (room(name="commit-location"), APPLICATION),
    "a location that cannot be read": (room(name="commit-location", text="!"),),
    "a commit that cannot be read": (room(text="!"),),
    "a readable commit and another": (room(), room(text="!")),
    "a commit that cannot be read, and a welcome": (room(text="!"), room(epoch="2", name="welcome")),
}

# XEP: "Whatever stands beside the one is judged by itself."
NEIGHBOURS = {
    "welcome alone": ((room(name="welcome"),), []),
    "group-info alone": ((room(name="group-info"),), []),
    "welcome beside a proposal": ((room(epoch="0", name="proposal"), room(name="welcome")), ["proposal"]),
    "welcome for the commit's own epoch": ((room(epoch="1"), room(epoch="1", name="welcome")), ["commit"]),
    "welcome two epochs on": ((room(epoch="1"), room(epoch="3", name="welcome")), ["commit"]),
    "welcome for another group": ((room(), room(epoch="2", group="Zm9v", name="welcome")), ["commit"]),
    "group-info for another group": ((room(), room(epoch="2", group="Zm9v", name="group-info")), ["commit"]),
    "two group-infos": ((room(), *[room(epoch="2", name="group-info")] * 2), ["commit", "group-info"]),
    "invitation and commit": ((room(), INVITATION), ["commit"]),
    "invitation before a commit": ((INVITATION, room()), ["commit"]),
    "two invitations": ((INVITATION,) * 2, ["invitation"]),
    "key-package": ((package(),), []),
    "device beside a commit": ((device(), room()), ["commit"]),
    "one bad welcome": (
        (room(), room(epoch="2", name="welcome", text="!"), room(epoch="2", name="welcome")),
        ["commit", "welcome"],
    ),
    "a group-info that cannot be read": ((room(epoch="2", name="group-info", text="!"), room()), ["commit"]),
    "a group-info without epoch": ((room(), f"<group-info xmlns='{NS}' group='Zw=='>YQ==</group-info>"), ["commit"]),
    "the location of a welcome alone": ((room(epoch="2", name="welcome-location"),), []),
    "the location of a welcome for another epoch": ((room(), room(name="welcome-location")), ["commit"]),
    "65 locations of welcomes": (
        (room(), *[room(epoch="2", name="welcome-location")] * 65),
        ["commit", *["welcome-location"] * 64],
    ),
    "65 welcomes": ((room(), *[room(epoch="2", name="welcome")] * 65), ["commit", *["welcome"] * 64]),
    "a commit after 200 welcomes": ((*[room(epoch="2", name="welcome")] * 200, room()), ["welcome"] * 64 + ["commit"]),
    "200 payloads of PubSub before a commit": ((*[package()] * 200, room()), ["commit"]),
}


@pytest.mark.parametrize("children", VOID.values(), ids=VOID.keys())
def test_a_stanza_counts_with_one_readable_content(children: tuple[str, ...]) -> None:
    with pytest.raises(MalformedError):
        read_payloads(message(*children))
    with pytest.raises(MalformedError):
        payloads(message(*children))


@pytest.mark.parametrize(("children", "kept"), NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
def test_a_neighbour_is_left_out_by_itself(children: tuple[str, ...], kept: list[str]) -> None:
    found, refused = read_payloads(message(*children))
    assert [element.NAME for element in found] == kept
    assert 0 < len(refused) < 200
    with pytest.raises(MalformedError):
        payloads(message(*children))


def test_repr_is_short() -> None:
    assert "data" not in repr(Commit(b"g", 1, b"x" * 1000))


# --- the bridge between the two libraries


names = st.sampled_from(["a", "b", "c"])
spaces = st.sampled_from(["urn:one", "urn:two", "urn:three"])
xml_characters = st.characters(
    exclude_categories=["Cs", "Cc"], include_characters="\t\n\r", exclude_characters="\ufffe\uffff"
)
xml_text = st.none() | st.text(xml_characters, min_size=1, max_size=10)


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> ElementTree.Element:
    element = ElementTree.Element(f"{{{draw(spaces)}}}{draw(names)}")
    element.text = draw(xml_text)
    for key in draw(st.sets(st.sampled_from(["x", "y", "{urn:one}x", "{http://www.w3.org/XML/1998/namespace}lang"]))):
        element.set(key, draw(names))
    for child in draw(st.lists(trees(depth=depth - 1), max_size=3)) if depth else []:
        child.tail = draw(xml_text)
        element.append(child)
    return element


def shape(element: etree._Element | ElementTree.Element) -> tuple[object, ...]:
    """What the element says, whatever its prefixes."""
    return (
        element.tag, dict(element.attrib), element.text or "",
        [(shape(child), child.tail or "") for child in element],
    )  # fmt: skip


@settings(deadline=None)
@given(trees())
def test_conversion_between_the_libraries_loses_nothing(tree: ElementTree.Element) -> None:
    converted = to_lxml(tree)
    assert shape(converted) == shape(tree)
    assert shape(to_stdlib(converted)) == shape(tree)
    assert shape(to_lxml(converted)) == shape(tree)
    assert shape(parse_xml(etree.tostring(converted, encoding="utf-8"), 100_000)) == shape(tree)


def test_conversion_refuses_what_xmpp_has_not() -> None:
    for inside in ("<b xmlns=''/>", "<!-- x -->", "<?x y?>"):
        xml = f"<a xmlns='urn:a'>{inside}</a>"
        with pytest.raises(ValueError, match="without a namespace"):
            to_lxml(etree.fromstring(xml))
    with pytest.raises(ValueError, match="comment"):
        to_stdlib(etree.fromstring("<a xmlns='urn:a'><!-- x --></a>"))


def test_deep_trees_are_converted_without_recursion() -> None:
    root = element = ElementTree.Element("{urn:a}a")
    for _ in range(20_000):
        element = ElementTree.SubElement(element, "{urn:a}a")
    assert sum(1 for _ in to_stdlib(to_lxml(root)).iter()) == 20_001


# --- moments


@given(moments)
def test_moments_survive_xep_0082(moment: datetime) -> None:
    assert read_datetime(write_datetime(moment)) == moment


def test_moments_are_written_in_utc_xep_0082_5() -> None:
    houston = datetime(1969, 7, 20, 21, 56, 15, tzinfo=timezone(timedelta(hours=-5)))
    assert write_datetime(houston) == "1969-07-21T02:56:15Z"
    assert read_datetime("1969-07-20T21:56:15-05:00") == houston


@pytest.mark.parametrize(
    "text",
    ["", "2026-10-02", "2026-10-02T12:30:00", "2026-10-02 12:30:00Z", "2026-10-02T12:30Z", "20261002T12:30:00Z",
     "2026-02-30T12:30:00Z", "2026-10-02T24:00:01Z", "2026-10-02T12:30:00Z ", "2026-10-02T12:30:00+0200",
     "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-10-02T12:30:00+99:00", "٢026-10-02T12:30:00Z"],
)  # fmt: skip
def test_other_moments_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"DateTime|moment"):
        read_datetime(text)
