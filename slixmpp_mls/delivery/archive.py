"""The stanzas of a room, and its archive (XEP-0313), which holds all of them in order.

Every reader of a room sees one sequence of archive ids.  A live stanza carries its id in the ``<stanza-id/>`` of the
room (XEP-0359); an archived one has it as the id of the archive's result.  Servers differ:

* Servers cap the page size (Prosody 50, ejabberd 250), whatever the query asks for.
* On Prosody, archived copies hold no ``<stanza-id/>``: the result's id counts.
* If the id to read after is unknown, Prosody returns an error (``item-not-found``); ejabberd ignores the id or takes
  it for a time stamp.  `Archive.pages` therefore checks that the archive still reaches back to the id: the result that
  follows the id must not be the first one in the archive, and if no result follows, the id must be the last one.  A gap
  always raises `ArchiveGap`.  (One false alarm is possible: the server has deleted exactly that one stanza, and it is
  the last.)

Ids are opaque, except that equal ids mean the same stanza.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, ClientXMPP
from slixmpp.jid import InvalidJID
from slixmpp.plugins import xep_0082

from ..errors import ArchiveGap, DeliveryError, Refused
from ..stanza.xml import read_datetime
from . import stream
from .forms import submission
from .stream import MAM, Stream, bare

NS = "urn:xmpp:mls:0"
RSM = "http://jabber.org/protocol/rsm"
SID = "urn:xmpp:sid:0"
MUC_USER = "http://jabber.org/protocol/muc#user"
_FORWARDED = "{urn:xmpp:forward:0}forwarded"
_DELAY = "{urn:xmpp:delay}delay"
_MESSAGE = "{jabber:client}message"
_FIRST, _LAST = 1970, 9998  # years: what lies beyond, not every zone or number of seconds can express
_TOMBSTONES = {
    f"{{urn:xmpp:message-{kind}:{version}}}{name}"
    for kind, name in (("retract", "retracted"), ("moderate", "moderated"))
    for version in (0, 1)
}

#: Stanzas requested per page.  A server may return fewer.  Each page costs it work (Prosody counts all the rest).
PAGE_SIZE = 250
#: :func:`weight` that one page should not exceed by much.  After a heavier page, smaller pages are requested.
_PAGE_WEIGHT = 2_000_000
#: Results of one page at most.  A server that sends more is not answering the query.
_PAGE_LIMIT = 1000
#: Their :func:`weight`: what is left out comes with the next page.
_PAGE_MOST = 32_000_000
_ELEMENT = 80  # octets of an element without text and attributes


@dataclass(frozen=True, slots=True)
class RoomStanza:
    """One stanza of a room's total order.

    Nothing in it is authenticated: `occupant` and `real_jid` are the room's claims.

    :ivar archive_id: its place in the room's order, as the room names it (opaque).
    :ivar occupant: ``room/nickname`` of the sender.
    :ivar real_jid: the bare JID of the sender, if the room says one.
    :ivar xml: the ``<message/>``.
    :ivar origin_id: the sender's own id for it (XEP-0359), if there is exactly one.
    :ivar message_id: the ``id`` attribute, also set by the sender.
    :ivar archived: whether it came from the archive.
    :ivar stamp: when the room received it, for an archived stanza; ``None`` means now.
    """

    archive_id: str
    occupant: JID
    real_jid: JID | None
    xml: Element
    origin_id: str | None
    message_id: str | None
    archived: bool
    stamp: datetime | None

    def __repr__(self) -> str:
        return f"<RoomStanza {self.archive_id} from {self.occupant}{' archived' if self.archived else ''}>"


@dataclass(frozen=True, slots=True)
class Entry:
    """One result of an archive: any message, ours or not."""

    archive_id: str
    xml: Element
    stamp: datetime | None

    def stanza(self) -> RoomStanza | None:
        """The entry as a `RoomStanza`; ``None`` if it has nothing to do with MLS."""
        return room_stanza(self.xml, self.archive_id, _archived_real_jid(self.xml), archived=True, stamp=self.stamp)


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive results; `complete` if the archive ended with them."""

    entries: tuple[Entry, ...]
    complete: bool


def room_stanza(
    xml: Element, archive_id: str, real_jid: JID | None, *, archived: bool, stamp: datetime | None
) -> RoomStanza | None:
    """The groupchat message as a `RoomStanza`; ``None`` if it has nothing in our namespace or no occupant sent it.

    A tombstone in the archive also becomes a `RoomStanza`, since its original content is unknown.
    """
    ours = any(str(child.tag).startswith(f"{{{NS}}}") for child in xml) or (archived and is_tombstone(xml))
    if xml.get("type") != "groupchat" or not ours:
        return None
    try:
        occupant = JID(xml.get("from", ""))
    except InvalidJID:
        return None
    if not occupant.resource:
        return None
    origin_ids = [child.get("id") for child in xml.iterfind(f"{{{SID}}}origin-id")]
    return RoomStanza(
        archive_id=archive_id,
        occupant=occupant,
        real_jid=real_jid,
        xml=xml,
        origin_id=origin_ids[0] if len(origin_ids) == 1 else None,
        message_id=xml.get("id"),
        archived=archived,
        stamp=stamp,
    )


def is_tombstone(xml: Element) -> bool:
    """Whether this is the tombstone of a message that its sender (XEP-0424) or a moderator (XEP-0425) retracted."""
    return any(str(child.tag) in _TOMBSTONES for child in xml)


def weight(xml: Element) -> int:
    """Roughly the octets that an element takes in memory: 60,000 empty children cost more than their characters."""
    total = 0
    for element in xml.iter():
        total += _ELEMENT + len(element.text or "") + len(element.tail or "")
        for name, value in element.attrib.items():
            total += len(name) + len(value)
    return total


def stamped_ids(xml: Element, room: str) -> list[str]:
    """The archive ids of a live message in the room's name.  If there are several, some are forged."""
    return [child.get("id", "") for child in xml.iterfind(f"{{{SID}}}stanza-id") if child.get("by") == room]


def _archived_real_jid(xml: Element) -> JID | None:
    # Rooms append their claim to the archived copy and leave elements of the sender in place before it.
    items = xml.findall(f"{{{MUC_USER}}}x/{{{MUC_USER}}}item")
    return bare_jid(items[-1].get("jid")) if items else None


def bare_jid(text: str | None) -> JID | None:
    """The bare JID in the text; ``None`` if the text is not a JID."""
    with suppress(InvalidJID):
        if text:
            return JID(JID(text).bare)
    return None


def _stamp(forwarded: Element) -> datetime | None:
    """The time of an archived stanza, in UTC; None if there is none that a stanza can have."""
    delay = forwarded.find(_DELAY)
    if delay is None:
        return None
    try:
        moment = read_datetime(delay.get("stamp", ""))
    except ValueError:
        return None
    return moment if _FIRST <= moment.year <= _LAST else None


class _Results:
    """The results of one query, as far as they fit into memory: from its beginning, or backwards from its end.

    :ivar number: of all results
    :ivar cut: whether some were left out
    """

    def __init__(self, *, backwards: bool) -> None:
        self.kept: deque[Element] = deque()
        self.number = 0
        self.cut = False
        self._backwards = backwards
        self._weight = 0

    def add(self, result: Element) -> None:
        """Take the next one."""
        self.number += 1
        if self.number > _PAGE_LIMIT or (self.cut and not self._backwards):
            return
        more = weight(result)
        if self.kept and not self._backwards and self._weight + more > _PAGE_MOST:
            self.cut = True
            return
        self.kept.append(result)
        self._weight += more
        while len(self.kept) > 1 and self._weight > _PAGE_MOST:
            self._weight -= weight(self.kept.popleft())
            self.cut = True


class Archive:
    """The archive of a room.  Reading it needs an affiliation with the room, not presence in it.

    :param room: the room's bare JID, normalised; or our own account's, whose archive has messages of all senders.
    """

    def __init__(self, xmpp: ClientXMPP, room: str) -> None:
        self.room = room
        self._is_own = room == xmpp.boundjid.bare
        self.page_size = PAGE_SIZE
        self._stream = Stream.of(xmpp)

    async def pages(self, after: str | None, *, start: int | None = None) -> AsyncGenerator[Page, None]:
        """Everything after the stanza with that archive id (``None``: everything), oldest first.

        While the caller handles one page, at most the next page is fetched.

        :param start: leave out messages that the server received before, in seconds since the Unix epoch.
        :raises ArchiveGap: the archive no longer holds the stanza to read after.
        :raises NotPermitted: no affiliation with the room.
        :raises DeliveryError: refused, unanswered, disconnected, or an archive that answers inconsistently.
        """
        page = await self._page(after, start=start)
        if after is not None:
            page = await self._checked(after, page)
        upcoming: asyncio.Task[Page] | None = None
        try:
            while True:
                if not page.complete:
                    last = page.entries[-1].archive_id
                    average = sum(weight(entry.xml) for entry in page.entries) // len(page.entries)
                    size = max(5, min(self.page_size, _PAGE_WEIGHT // max(average, 1)))
                    upcoming = asyncio.create_task(self._page(last, size=size, start=start))
                yield page
                if page.complete or upcoming is None:
                    return
                page = await upcoming
                if page.entries and page.entries[-1].archive_id == last:
                    raise DeliveryError(f"the archive of {self.room} does not get on")
        finally:
            if upcoming is not None:
                upcoming.cancel()
                with suppress(asyncio.CancelledError, DeliveryError):
                    await upcoming

    async def pages_backwards(self, limit: int) -> AsyncGenerator[Page, None]:
        """Read the newest pages, from the end towards the beginning; the entries in each page are oldest first.

        :param limit: the most pages to read
        :raises NotPermitted: no affiliation with the room.
        :raises DeliveryError: refused, unanswered, disconnected.
        """
        before = ""
        for _ in range(limit):
            page = await self._page(None, before=before)
            if not page.entries or page.entries[0].archive_id == before:
                return
            yield page
            if page.complete:
                return
            before = page.entries[0].archive_id

    async def last_id(self, *, end: int | None = None) -> str | None:
        """The archive id of the newest stanza, ``None`` if there is none.

        :param end: leave out messages that the server received after that, in seconds since the Unix epoch.
        """
        page = await self._page(None, size=1, before="", end=end)
        return page.entries[-1].archive_id if page.entries else None

    async def _checked(self, after: str, page: Page) -> Page:
        if not page.entries:
            if await self.last_id() == after:
                return page
            page = await self._page(after)  # something may have arrived in between
            if not page.entries:
                raise ArchiveGap(self.room, after)
        first = await self._page(None, size=1)
        if not first.entries or first.entries[0].archive_id == page.entries[0].archive_id:
            raise ArchiveGap(self.room, after)
        return page

    async def _page(
        self,
        after: str | None,
        *,
        size: int | None = None,
        before: str | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> Page:
        queryid = secrets.token_hex(8)
        query = Element(f"{{{MAM}}}query", {"queryid": queryid})
        times = {"start": start, "end": end}
        fields = {
            name: xep_0082.format_datetime(datetime.fromtimestamp(time, UTC))
            for name, time in times.items()
            if time is not None
        }
        if fields:
            query.append(submission(MAM, fields))
        rsm = SubElement(query, f"{{{RSM}}}set")
        SubElement(rsm, f"{{{RSM}}}max").text = str(size or self.page_size)
        if before is not None:
            SubElement(rsm, f"{{{RSM}}}before").text = before or None
        if after is not None:
            SubElement(rsm, f"{{{RSM}}}after").text = after
        results = _Results(backwards=before is not None)
        self._stream.collect(self.room, queryid, results.add)
        try:
            async with self._stream.query(JID(self.room).host):
                answer = await self._stream.ask("set", self.room, query, patience=2 * stream.TIMEOUT)
        except Refused as error:
            if error.condition == "item-not-found" and after is not None:
                raise ArchiveGap(self.room, after) from None
            raise
        finally:
            self._stream.end_collect(self.room, queryid)
        fin = answer.find(f"{{{MAM}}}fin")
        # ejabberd 23.01 answers for the wrong archive instead of refusing; check the sender.
        # For our own account, a server may omit the sender (RFC 6120 8.1.2.1).
        speaker = bare(answer.get("from") or (self.room if self._is_own else ""))
        if fin is None or speaker != self.room or results.number >= _PAGE_LIMIT:
            raise DeliveryError(f"{self.room} does not answer an archive query as XEP-0313 says")
        entries = tuple(self._entry(result) for result in results.kept if result.get("id"))
        complete = fin.get("complete") in ("true", "1") and not results.cut
        return Page(entries, complete=complete or not entries)

    def _entry(self, result: Element) -> Entry:
        forwarded = result.find(_FORWARDED)
        message = forwarded.find(_MESSAGE) if forwarded is not None else None
        if message is None or not (self._is_own or bare(message.get("from", "")) == self.room):
            message = Element(_MESSAGE)  # its id counts for the order, whatever the content
        return Entry(result.get("id", ""), message, None if forwarded is None else _stamp(forwarded))
