"""XEP-0420 envelopes: sealing, opening, and what may stand where."""

from __future__ import annotations

import ast
import contextlib
import inspect
import random
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from slixmpp_mls import errors
from slixmpp_mls.errors import AffixMismatch, InvalidError, MalformedError, UsageError
from slixmpp_mls.stanza import sce
from slixmpp_mls.stanza import xml as xml_module
from slixmpp_mls.stanza.sce import (
    NS,
    Affix,
    Envelope,
    Limits,
    Profile,
    is_server_processed,
    may_stand_outside,
    mismatches,
    seal_text,
    verify,
)

OWN = "urn:example:encryption:0"
ALL = Profile(frozenset(Affix), protocol=frozenset({OWN}))
NONE = Profile(frozenset())
NOW = datetime(2026, 10, 2, 12, 30, tzinfo=UTC)
ALICE, COVEN = "alice@example", "coven@rooms.example"


def xml(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


BODY = xml("<body xmlns='jabber:client'>Fair is foul &amp; foul is fair</body>")
REACTIONS = etree.fromstring(
    "<r:reactions xmlns:r='urn:xmpp:reactions:0' id='1'><r:reaction>👋</r:reaction></r:reactions>"
)
HI = "<body xmlns='jabber:client'>hi</body>"


def shape(element: Any) -> Any:
    return element.tag, dict(element.attrib), element.text or "", [(shape(c), c.tail or "") for c in element]


def opened(content: str = HI, affixes: str = "", profile: Profile = NONE) -> Envelope:
    return Envelope.open(f"<envelope xmlns='{NS}'><content>{content}</content>{affixes}</envelope>".encode(), profile)


def test_the_form_on_the_wire() -> None:
    envelope = Envelope((BODY, REACTIONS), ALICE, COVEN, NOW, "padding")
    assert (
        envelope.seal(ALL)
        == (
            '<envelope xmlns="urn:xmpp:sce:1"><content>'
            '<body xmlns="jabber:client">Fair is foul &amp; foul is fair</body>'
            '<reactions xmlns="urn:xmpp:reactions:0" id="1"><reaction>👋</reaction></reactions>'
            '</content><time stamp="2026-10-02T12:30:00Z"/><to jid="coven@rooms.example"/><from jid="alice@example"/>'
            "<rpad>padding</rpad></envelope>"
        ).encode()
    )


def test_elements_of_both_libraries_come_back() -> None:
    back = Envelope.open(Envelope((BODY, REACTIONS), ALICE, COVEN, NOW).seal(ALL), ALL)
    assert [shape(element) for element in back.content] == [shape(BODY), shape(REACTIONS)]
    assert (back.from_, back.to, back.time, back.dropped) == (ALICE, COVEN, NOW, ())


xml_characters = st.characters(
    exclude_categories=["Cs", "Cc"], include_characters="\t\n\r", exclude_characters="\ufffe\uffff"
)
text = st.text(xml_characters, max_size=20)
tags = st.sampled_from(["{jabber:client}body", "{jabber:client}subject", "{urn:xmpp:reply:0}reply", "{urn:x}y"])


@st.composite
def contents(draw: st.DrawFn, depth: int = 3) -> Any:
    library: Any = draw(st.sampled_from([ElementTree, etree]))
    element = library.Element(draw(tags))
    element.text = draw(text)
    for name in draw(st.sets(st.sampled_from(["id", "{urn:x}id", "{http://www.w3.org/XML/1998/namespace}lang"]))):
        element.set(name, draw(text))
    for _ in range(draw(st.integers(0, 2)) if depth else 0):
        child = library.SubElement(element, draw(tags))
        child.text, child.tail = draw(text), draw(text)
    return element


@settings(deadline=None)
@given(
    st.lists(contents(), max_size=4),
    text.filter(bool),
    text.filter(bool),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)),
    st.none() | text,
)
def test_any_envelope_survives(content: list[Any], from_: str, to: str, time: datetime, rpad: str | None) -> None:
    sealed = Envelope(tuple(content), from_, to, time, rpad).seal(ALL)
    back = Envelope.open(sealed, ALL)
    assert [shape(element) for element in back.content] == [shape(element) for element in content]
    assert (back.from_, back.to, back.time) == (from_, to, time)
    assert back.rpad == rpad or rpad is None
    assert back.seal(ALL) == sealed


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | text.map(str.encode))
def test_arbitrary_octets_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Envelope.open(data, NONE)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_flipped_octet_gives_an_envelope_or_a_typed_error(position: int, octet: int) -> None:
    data = bytearray(Envelope((BODY, REACTIONS), ALICE, COVEN, NOW, "pad").seal(ALL))
    data[position % len(data)] = octet
    with contextlib.suppress(MalformedError, AffixMismatch):
        Envelope.open(bytes(data), ALL)


# --- padding


def test_padding_is_at_least_the_minimum_and_at_most_200_more() -> None:
    lengths = []
    for seed in range(300):
        sealed = Envelope((BODY,), ALICE, COVEN, NOW).seal(ALL, rng=random.Random(seed))
        lengths.append(len(sealed))
    assert min(lengths) >= ALL.minimum_size
    assert max(lengths) <= 200 + max(ALL.minimum_size, len(Envelope((BODY,), ALICE, COVEN, NOW, "").seal(ALL)))
    assert len(set(lengths)) > 100


def test_short_and_shorter_contents_have_the_same_distribution_of_lengths() -> None:
    profile = Profile(frozenset({Affix.RPAD}), minimum_size=512)
    lengths = [
        {
            len(Envelope((xml(f"<body xmlns='jabber:client'>{words}</body>"),)).seal(profile, rng=random.Random(seed)))
            for seed in range(50)
        }
        for words in ("a", "a" * 300)
    ]
    assert lengths[0] == lengths[1]


def test_padding_differs_each_time_and_comes_from_the_given_source() -> None:
    envelope = Envelope((BODY,), ALICE, COVEN, NOW)
    assert envelope.seal(ALL) != envelope.seal(ALL)
    assert envelope.seal(ALL, rng=random.Random(1)) == envelope.seal(ALL, rng=random.Random(1))


def test_no_padding_unless_the_profile_wants_it() -> None:
    assert b"rpad" not in Envelope((BODY,)).seal(NONE)


def test_longer_padding_than_ours_is_accepted_xep_0420() -> None:
    assert opened(affixes=f"<rpad>{'€' * 10_000}</rpad>", profile=ALL_BUT_JIDS).rpad == "€" * 10_000


ALL_BUT_JIDS = Profile(frozenset({Affix.RPAD}))


# --- what must be refused on opening


A = "<a xmlns='urn:a'>"
MALFORMED = {
    "empty": "",
    "no XML": "Fair is foul",
    "truncated": f"<envelope xmlns='{NS}'><content>",
    "another element": "<body xmlns='jabber:client'/>",
    "the content alone": f"<content xmlns='{NS}'/>",
    "an old namespace": "<envelope xmlns='urn:xmpp:sce:0'><content/></envelope>",
    "no namespace": "<envelope><content/></envelope>",
    "no content": f"<envelope xmlns='{NS}'><rpad/></envelope>",
    "content of another namespace": f"<envelope xmlns='{NS}'><content xmlns='urn:x'/></envelope>",
    "two contents": f"<envelope xmlns='{NS}'><content/><content/></envelope>",
    "two times": f"<envelope xmlns='{NS}'><content/><time stamp='2026-10-02T12:30:00Z'/>"
    "<time stamp='2026-10-02T12:30:00Z'/></envelope>",
    "two senders": f"<envelope xmlns='{NS}'><content/><from jid='a@b'/><from jid='a@b'/></envelope>",
    "time without stamp": f"<envelope xmlns='{NS}'><content/><time/></envelope>",
    "time without zone": f"<envelope xmlns='{NS}'><content/><time stamp='2026-10-02T12:30:00'/></envelope>",
    "time out of range": f"<envelope xmlns='{NS}'><content/><time stamp='0001-01-01T00:00:00+02:00'/></envelope>",
    "from without JID": f"<envelope xmlns='{NS}'><content/><from/></envelope>",
    "to with an empty JID": f"<envelope xmlns='{NS}'><content/><to jid=''/></envelope>",
    "to with an endless JID": f"<envelope xmlns='{NS}'><content/><to jid='{'a' * 3072}'/></envelope>",
    "element without a namespace": f"<e:envelope xmlns:e='{NS}'><e:content><body/></e:content></e:envelope>",
    "namespace undeclared": f"<envelope xmlns='{NS}'><content><body xmlns=''/></content></envelope>",
    "deeper element without a namespace": f"<envelope xmlns='{NS}'><content><a xmlns='urn:a'><b xmlns=''/></a>"
    "</content></envelope>",
    "DTD": f"<!DOCTYPE envelope><envelope xmlns='{NS}'><content/></envelope>",
    "DTD with entities": "<!DOCTYPE e [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]>"
    f"<envelope xmlns='{NS}'><content><body xmlns='jabber:client'>&b;</body></content></envelope>",
    "external DTD": f"<!DOCTYPE e SYSTEM 'http://example/x'><envelope xmlns='{NS}'><content/></envelope>",
    "comment": f"<envelope xmlns='{NS}'><content><!-- x --></content></envelope>",
    "comment in a body": f"<envelope xmlns='{NS}'><content>{HI.replace('i', 'i<!-- -->')}</content></envelope>",
    "processing instruction": f"<envelope xmlns='{NS}'><?x y?><content/></envelope>",
    "processing instruction behind": f"<envelope xmlns='{NS}'><content/></envelope><?x y?>",
    "two envelopes": f"<envelope xmlns='{NS}'><content/></envelope>" * 2,
    "nested": f"<envelope xmlns='{NS}'><content>{A * 63}{'</a>' * 63}</content></envelope>",
    "257 elements": f"<envelope xmlns='{NS}'><content>{(A + '</a>') * 257}</content></envelope>",
    "too large": f"<envelope xmlns='{NS}'><content/><rpad>{'x' * 256 * 1024}</rpad></envelope>",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_envelopes_are_refused(data: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Envelope.open(data.encode(), NONE)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_other_encodings_than_utf_8_are_refused_rfc6120_11_6(encoding: str) -> None:
    with pytest.raises(MalformedError):
        Envelope.open(f"<envelope xmlns='{NS}'><content/><rpad>é</rpad></envelope>".encode(encoding), NONE)


def test_limits_can_be_set_and_hold_at_their_edge() -> None:
    data = Envelope((BODY,)).seal(NONE)
    Envelope.open(data, NONE, limits=Limits(size=len(data), depth=3, elements=1))
    for limits in (Limits(size=len(data) - 1), Limits(depth=2), Limits(elements=0)):
        with pytest.raises(MalformedError):
            Envelope.open(data, NONE, limits=limits)
        with pytest.raises(UsageError):
            Envelope((BODY,)).seal(NONE, limits=limits)


def test_affixes_of_a_protocol_s_own_and_any_order_are_accepted_xep_0420() -> None:
    envelope = Envelope.open(
        f"<e:envelope xmlns:e='{NS}'>\n <e:rpad/><e:from jid='a@b'/> <seq xmlns='urn:own'>3</seq> <e:later/>"
        "<e:content> <body xmlns='jabber:client'>hi</body> </e:content></e:envelope>".encode(),
        Profile(frozenset({Affix.RPAD, Affix.FROM})),
    )
    assert [shape(element) for element in envelope.content] == [("{jabber:client}body", {}, "hi", [])]
    assert (envelope.from_, envelope.rpad, envelope.to) == ("a@b", "", None)


@pytest.mark.parametrize("affix", Affix)
def test_an_envelope_without_a_required_affix_is_neither_opened_nor_sealed(affix: Affix) -> None:
    affixes = {
        Affix.FROM: "<from jid='a@b'/>", Affix.TO: "<to jid='c@d'/>", Affix.RPAD: "<rpad/>",
        Affix.TIME: "<time stamp='2026-10-02T12:30:00Z'/>",
    }  # fmt: skip
    opened(affixes="".join(affixes.values()), profile=ALL)
    affixes.pop(affix)
    with pytest.raises(AffixMismatch) as caught:
        opened(affixes="".join(affixes.values()), profile=ALL)
    assert caught.value.affix == affix
    assert isinstance(caught.value, InvalidError)
    if affix is not Affix.RPAD:  # sealing makes padding itself
        values: dict[str, Any] = {"from_": ALICE, "to": COVEN, "time": NOW}
        Envelope((BODY,), **values).seal(ALL)
        values.pop({"from": "from_"}.get(affix, affix))
        with pytest.raises(UsageError, match=affix):
            Envelope((BODY,), **values).seal(ALL)


# --- what may stand where


SERVER = {
    "store": "<store xmlns='urn:xmpp:hints'/>",
    "no-copy": "<no-copy xmlns='urn:xmpp:hints'/>",
    "stanza-id": "<stanza-id xmlns='urn:xmpp:sid:0' id='x' by='coven@rooms.example'/>",
    "addresses": "<addresses xmlns='http://jabber.org/protocol/address'><address jid='a@b'/></addresses>",
    "address": "<address xmlns='http://jabber.org/protocol/address' jid='a@b'/>",
    "encryption": "<encryption xmlns='urn:xmpp:eme:0' namespace='urn:x'/>",
    "delay": "<delay xmlns='urn:xmpp:delay' stamp='2026-10-02T12:30:00Z'/>",
    "occupant-id": "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='x'/>",
    "muc status": "<x xmlns='http://jabber.org/protocol/muc#user'><status code='104'/></x>",
    "carbon": "<received xmlns='urn:xmpp:carbons:2'/>",
    "archive result": "<result xmlns='urn:xmpp:mam:2' id='x'/>",
    "archived": "<archived xmlns='urn:xmpp:mam:tmp' by='x' id='x'/>",
    "notification": "<event xmlns='http://jabber.org/protocol/pubsub#event'/>",
    "error": "<error xmlns='jabber:client' type='cancel'/>",
    "own": f"<ciphertext xmlns='{OWN}'/>",
}
SENSITIVE = {
    "body": "<body xmlns='jabber:client'>in clear</body>",
    "subject": "<subject xmlns='jabber:client'>in clear</subject>",
    "thread": "<thread xmlns='jabber:client'>x</thread>",
    "reactions": "<reactions xmlns='urn:xmpp:reactions:0' id='x'/>",
    "correction": "<replace xmlns='urn:xmpp:message-correct:0' id='x'/>",
    "link": "<x xmlns='jabber:x:oob'><url>https://example/</url></x>",
    "receipt": "<request xmlns='urn:xmpp:receipts'/>",
    "another protocol": "<encrypted xmlns='urn:xmpp:omemo:2'/>",
    "forwarded": "<forwarded xmlns='urn:xmpp:forward:0'/>",
}
ORIGIN = "<origin-id xmlns='urn:xmpp:sid:0' id='x'/>"
CLEAR_ENVELOPE = f"<envelope xmlns='{NS}'><content/></envelope>"


@pytest.mark.parametrize("element", SERVER.values(), ids=SERVER.keys())
def test_server_processed_elements_are_outside_only_xep_0420(element: str) -> None:
    assert may_stand_outside(xml(element), ALL)
    back = opened(element + HI + element, profile=Profile(frozenset(), protocol=ALL.protocol))
    assert [child.tag for child in back.content] == ["{jabber:client}body"]
    assert back.dropped == (xml(element).tag,) * 2
    for made in (xml(element), etree.fromstring(element)):
        with pytest.raises(UsageError, match="does not belong"):
            Envelope((BODY, made), ALICE, COVEN, NOW).seal(ALL)


@pytest.mark.parametrize("element", SENSITIVE.values(), ids=SENSITIVE.keys())
def test_sensitive_elements_are_inside_only_xep_0420(element: str) -> None:
    assert not is_server_processed(xml(element))
    assert not may_stand_outside(xml(element), ALL)
    assert [shape(child) for child in opened(element).content] == [shape(xml(element))]


def test_origin_id_may_stand_on_both_sides_and_a_clear_envelope_on_none_xep_0420() -> None:
    assert may_stand_outside(xml(ORIGIN), ALL)
    assert opened(ORIGIN).dropped == ()
    assert not may_stand_outside(xml(CLEAR_ENVELOPE), ALL)
    assert opened(CLEAR_ENVELOPE).content == ()
    with pytest.raises(UsageError):
        Envelope((xml(CLEAR_ENVELOPE),)).seal(NONE)


def test_what_cannot_be_sent_is_not_sealed() -> None:
    bad = ElementTree.Element("{jabber:client}body")
    bad.text = "secret\x00word"
    nested = ElementTree.Element("{urn:a}a")
    ElementTree.SubElement(nested, "b")
    comments = [etree.Comment("secret"), ElementTree.Comment("secret")]
    elements: list[Any] = [bad, nested, ElementTree.Element("body"), *comments]
    for element in elements:
        with pytest.raises(UsageError) as caught:
            Envelope((element,)).seal(NONE)
        assert "secret" not in str(caught.value)
    for values in ({"from_": "a\x00"}, {"from_": ""}, {"time": datetime(2026, 1, 1)}, {"rpad": "\x00"}):
        with pytest.raises(UsageError):
            Envelope((BODY,), **values).seal(NONE)


def test_sealing_leaves_the_caller_s_elements_alone() -> None:
    stanza = etree.fromstring("<message xmlns='jabber:client'><body>x</body>tail</message>")
    before = etree.tostring(stanza)
    Envelope((stanza[0],)).seal(NONE)
    assert etree.tostring(stanza) == before


def test_repr_shows_nothing_of_the_content() -> None:
    shown = repr(Envelope((BODY,), ALICE, COVEN, NOW, "padding"))
    assert shown == "<Envelope: 1 elements>"


# --- affixes against the stanza


def envelope(**changes: Any) -> Envelope:
    values: dict[str, Any] = {"from_": ALICE, "to": COVEN, "time": NOW, "rpad": ""}
    return Envelope((BODY,), **(values | changes))


def compared(made: Envelope, profile: Profile = ALL, **changes: Any) -> list[str]:
    values: dict[str, Any] = {"sender": ALICE, "recipient": COVEN, "sent": NOW}
    found = [mismatch.affix for mismatch in mismatches(made, profile, **(values | changes))]
    if found:
        with pytest.raises(AffixMismatch) as caught:
            verify(made, profile, **(values | changes))
        assert caught.value.affix == found[0]
    else:
        verify(made, profile, **(values | changes))
    return found


def test_affixes_that_agree() -> None:
    assert compared(envelope()) == []
    assert compared(envelope(time=NOW.astimezone(timezone(timedelta(hours=5))))) == []


def test_a_forged_sender_xep_0420() -> None:
    assert compared(envelope(from_="mallory@example")) == ["from"]
    assert compared(envelope(from_=f"{ALICE}/phone")) == ["from"]  # bare JIDs are compared


def test_a_message_moved_to_another_room_xep_0420() -> None:
    assert compared(envelope(), recipient="other@rooms.example") == ["to"]


def test_a_time_that_is_later_than_the_stanzas_xep_0420() -> None:
    """An earlier one is that of a message that was written offline (mls.xml, "Content Envelopes")."""
    limit = ALL.tolerance
    assert compared(envelope(), sent=NOW - limit) == []
    assert compared(envelope(), sent=NOW - limit - timedelta(seconds=1)) == ["time"]
    assert compared(envelope(), sent=NOW + timedelta(days=30)) == []


def test_all_contradictions_are_found() -> None:
    assert compared(envelope(from_="x@y", to="x@y", time=NOW + timedelta(days=1), rpad=None)) == [
        "from", "to", "time", "rpad",
    ]  # fmt: skip


def test_absent_affixes_count_only_if_required() -> None:
    absent = Envelope((BODY,))
    assert compared(absent, NONE) == []
    assert compared(absent, ALL) == ["from", "to", "time", "rpad"]
    assert compared(envelope(from_="x@y"), NONE) == ["from"]  # optional, but not optionally true


def test_jids_are_compared_as_the_caller_normalizes_them() -> None:
    def normalize(jid: str) -> str:
        if "@" not in jid:
            raise ValueError("not a JID")
        return jid.partition("/")[0].lower()

    assert compared(envelope(from_="ALICE@Example/phone"), normalize=normalize) == []
    assert compared(envelope(from_="no jid at all"), normalize=normalize) == ["from"]
    assert compared(envelope(to="no jid at all"), normalize=normalize) == ["to"]


def test_the_module_stands_on_lxml_and_the_standard_library_alone() -> None:
    allowed = {"lxml", *sys.stdlib_module_names, "..errors", ".xml"}
    for module in (sce, xml_module, errors):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert "." * node.level + (node.module or "").split(".")[0] in allowed


# --- texts -----------------------------------------------------------------------------------------

_characters = st.characters(codec="utf-8", exclude_categories=["Cs"])
_jids = st.text(_characters, min_size=1, max_size=40)


def outcome(make: Any) -> Any:
    """What an envelope says, or that it cannot be made."""
    try:
        data = make()
    except UsageError:
        return UsageError
    envelope = Envelope.open(data, ALL)
    return len(data), [shape(each) for each in envelope.content], envelope.from_, envelope.to, envelope.time


@settings(deadline=None)
@given(
    st.text(_characters) | st.text("&<>'\"\r\n\t ]]>x"),
    _jids | st.text("&<>'\"\r\n\t x", min_size=1),
    _jids,
    st.datetimes(timezones=st.just(UTC)),
)
def test_a_text_is_sealed_as_any_element_is(text: str, sender: str, recipient: str, time: datetime) -> None:
    body = ElementTree.Element("{jabber:client}body")
    body.text = text
    usual = outcome(lambda: Envelope((body,), sender, recipient, time).seal(ALL, rng=random.Random(1)))
    ours = outcome(lambda: seal_text(text, sender, recipient, time, ALL, rng=random.Random(1)))
    assert ours[1:] == usual[1:] if ours is not UsageError and usual is not UsageError else ours is usual


def test_a_texts_padding_is_that_of_the_profile() -> None:
    wanted = Profile(frozenset(Affix), minimum_size=400, random_padding=50)
    sizes = {len(seal_text("hi", ALICE, COVEN, NOW, wanted, rng=random.Random(seed))) for seed in range(300)}
    assert (min(sizes), max(sizes)) == (400, 450)
    assert Envelope.open(seal_text("hi", ALICE, COVEN, NOW, NONE), NONE).rpad is None


@pytest.mark.parametrize(
    ("text", "sender", "time"),
    [
        ("a\0b", ALICE, NOW), ("\ud800", ALICE, NOW), ("hi", "a\0b", NOW), ("hi", "", NOW), ("hi", "a" * 3072, NOW),
        ("hi", ALICE, datetime(2026, 10, 2)), ("x" * 256 * 1024, ALICE, NOW), ("&" * 60_000, ALICE, NOW),
    ],
)  # fmt: skip
def test_a_text_that_nobody_could_open_is_not_sealed(text: str, sender: str, time: datetime) -> None:
    with pytest.raises(UsageError) as caught:
        seal_text(text, sender, COVEN, time, ALL)
    assert len(text) < 9 or text not in str(caught.value)
