"""Pages of an archive whose service sends as much as it likes."""

from __future__ import annotations

from contextlib import aclosing
from itertools import chain
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import JID

from slixmpp_mls.delivery import Stream, archive
from slixmpp_mls.delivery.archive import RSM, Archive, Page, room_stanza, weight
from slixmpp_mls.delivery.live_buffer import LiveBuffer
from slixmpp_mls.delivery.stream import MAM
from slixmpp_mls.errors import DeliveryError

from ..services import Recorded

ROOM = "coven@rooms.example"


def message(children: int = 0, text: int = 0) -> Element:
    xml = Element("{jabber:client}message", {"from": f"{ROOM}/alice", "type": "groupchat"})
    mls = SubElement(xml, "{urn:xmpp:mls:0}application")
    mls.text = "x" * text
    for _ in range(children):
        SubElement(mls, "a")
    return xml


class Service:
    """The room's archive: messages by number.

    :ivar sends: results in each answer, whatever is asked for; as many as asked for if it is 0
    """

    def __init__(self, messages: list[Element], monkeypatch: pytest.MonkeyPatch, sends: int = 0) -> None:
        self.messages, self.sends, self.answers = messages, sends, 0
        self.xmpp = Recorded("bot@b.example")
        self.stream = Stream.of(self.xmpp)
        monkeypatch.setattr(self.stream, "ask", self.ask)

    async def ask(self, kind: str, to: str, query: Element, patience: float | None = None) -> Element:
        self.answers += 1
        rsm = query.find(f"{{{RSM}}}set")
        assert rsm is not None
        most = self.sends or int(rsm.findtext(f"{{{RSM}}}max") or "0")
        after, before = rsm.findtext(f"{{{RSM}}}after"), rsm.find(f"{{{RSM}}}before")
        numbers = list(range(len(self.messages)))
        if before is not None:
            numbers = [each for each in numbers if not before.text or each < int(before.text)]
            found = numbers[-most:]
        else:
            numbers = [each for each in numbers if after is None or each > int(after)]
            found = numbers[:most]
        for number in found:
            result = Element(f"{{{MAM}}}result", {"id": str(number)})
            SubElement(result, "{urn:xmpp:forward:0}forwarded").append(self.messages[number])
            self.stream._collectors[ROOM][query.get("queryid", "")](result)
        answer = Element("iq", {"from": ROOM})
        SubElement(answer, f"{{{MAM}}}fin", {"complete": "true"} if found == numbers else {})
        return answer

    @property
    def archive(self) -> Archive:
        return Archive(self.xmpp, ROOM)


async def ids(pages: Any) -> tuple[list[list[str]], list[Page]]:
    found: list[Page] = []
    async with aclosing(pages) as each:
        found += [page async for page in each]
    return [[entry.archive_id for entry in page.entries] for page in found], found


def test_what_an_element_weighs() -> None:
    """60,000 empty children take 240 kB in a stanza, and twenty times as much in memory."""
    rich, long = message(children=60_000), message(text=60_000)
    assert weight(rich) > 4_000_000
    assert 60_000 < weight(long) < 62_000
    assert weight(Element("a", {"b": "x" * 1000})) > 1000
    tail = Element("a")
    SubElement(tail, "b").tail = "x" * 1000
    assert weight(tail) > 1000


def test_a_few_stanzas_of_many_elements_fill_the_buffer() -> None:
    buffer, kept = LiveBuffer(), 0
    for number in range(1000):
        stanza = room_stanza(message(children=60_000), str(number), JID("a@a.example"), archived=False, stamp=None)
        assert stanza is not None
        if not buffer.append(stanza):
            break
        kept += 1
    assert kept == 0
    buffer.clear()
    assert buffer.size == 0


@pytest.mark.parametrize("sends", [0, 40])
async def test_a_page_has_a_limit_and_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch, sends: int) -> None:
    """What does not fit into memory at once comes with the next page, forwards and backwards."""
    monkeypatch.setattr(archive, "_PAGE_MOST", 100_000)
    service = Service([message(text=20_000) for _ in range(100)], monkeypatch, sends)
    forwards, pages = await ids(service.archive.pages(None))
    assert list(chain(*forwards)) == [str(number) for number in range(100)]
    assert max(map(len, forwards)) < 5
    assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]
    backwards, _ = await ids(service.archive.pages_backwards(1000))
    assert list(chain(*reversed(backwards))) == [str(number) for number in range(100)]
    assert max(map(len, backwards)) < 5
    assert await service.archive.last_id() == "99"


async def test_one_stanza_comes_however_heavy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_PAGE_MOST", 1000)
    service = Service([message(text=20_000) for _ in range(3)], monkeypatch)
    forwards, _ = await ids(service.archive.pages(None))
    assert forwards == [["0"], ["1"], ["2"]]


async def test_an_answer_of_too_many_results_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service([message() for _ in range(1500)], monkeypatch, sends=1200)
    with pytest.raises(DeliveryError, match="XEP-0313"):
        await ids(service.archive.pages(None))
