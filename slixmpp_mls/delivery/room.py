"""A MUC room as one total order of stanzas.

`Room.batches` yields every archived stanza of ours once, in the room's order, from a given
archive id on, and goes on for ever: first the archive, then live, across reconnections.
Those that are at hand come together, for a reader that is faster with several at once.

::

    enter the room ──> read the archive to its end ──> hand out the live buffer ──┐
        ^                    ^                              │        │            │
        │                    └── buffer overflowed ─────────┘        └────────────┘
        └── out of the room, or a new session ── from any place

Why no stanza is lost or repeated at the seam: live stanzas are buffered from the moment
that we are in the room.  The archive is asked after that moment, so it holds all that came
before; what it also holds of the buffer is removed from the buffer when it comes by.  The
order of both is the room's.  When the buffer is full (a reader slower than the room, or a
long way to catch up), it is thrown away and the archive is read again from where the
reader is: memory stays bounded, whatever the reader does.

A reader that stops takes up again with the archive id of the last stanza it has processed.

Between servers, stanzas may get lost although everybody stays in the room: the link broke, and took with it what was
on its way.  A reader who misses something calls `read_again`; whoever wants to be sure calls `suspect`, and long
silence is suspicious by itself.  A suspicion ends with `Verified`: the room has answered that we are in it,
and the archive has been read to its end since.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from types import MappingProxyType
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from ..errors import (
    Disconnected,
    NoAnswer,
    NotPermitted,
    Refused,
    RoomLost,
    RoomUnsuitable,
    StanzaTooLarge,
    UsageError,
)
from ..stanza.xml import written_size
from . import muc_config
from .affiliations import Affiliations
from .archive import MUC_USER, SID, Archive, Page, RoomStanza, bare_jid, room_stanza, stamped_ids, weight
from .events import AffiliationChanged, Bounced, CatchingUp, Reconfigured, RoomEvent, Unarchived, Verified
from .invitation import HINTS, invitation
from .occupancy import UNREACHABLE, Occupancy, Occupant, parse_error
from .stream import Stream

log = logging.getLogger(__name__)

#: Seconds of silence after which to ask the room whether we are still in it (XEP-0410).
PING_INTERVAL = 300.0
#: Live stanzas kept for a reader who is busy, and their characters.
_BUFFERED = 1000
_BUFFERED_SIZE = 4_000_000
#: Stanzas handed out at once: few enough that other rooms' readers get their turn soon.
_BATCH = 32
#: Seconds in the room after which an interruption is a new one, not the last one going on.
_STEADY = 60.0
_CLIENT = "{jabber:client}"
_ENTRY_REFUSALS = ("not-a-member", "banned", "password-required", "refused")


class Room:
    """One room, for one client.

    :param jid: the room's bare JID.
    :param nick: the nickname we would like to have in it.
    :param on_event: called at once with each `RoomEvent`; must not block.
    :param ping_interval: seconds of silence until a self-ping.
    """

    def __init__(
        self,
        xmpp: ClientXMPP,
        jid: str,
        nick: str,
        *,
        on_event: Callable[[RoomEvent], None] | None = None,
        ping_interval: float = PING_INTERVAL,
    ) -> None:
        self.jid = JID(JID(jid).bare)
        room = str(self.jid)
        self.archive = Archive(xmpp, room)
        self._xmpp = xmpp
        self._stream = Stream.of(xmpp)
        self._on_event = on_event
        self._ping_interval = ping_interval
        self._occupancy = Occupancy(self._stream, room, nick, self._notify)
        self.affiliations = Affiliations(self._stream, room)
        self._position: str | None = None
        self._buffer: deque[RoomStanza] = deque()
        self._buffered_ids: set[str] = set()
        self._buffer_size = 0
        self._overflowed = False
        self._behind = True
        self._suspicious = False
        self._asking: asyncio.Task[bool] | None = None
        self._verifying = False
        self._destroying = False
        self._read_by_somebody = False
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._failures = 0
        self._entered_at: float | None = None

    def __repr__(self) -> str:
        return f"<Room {self.jid} {'inside' if self.inside else 'outside'} after {self._position}>"

    # State

    @property
    def inside(self) -> bool:
        """Whether we are in the room, as far as we know."""
        return self._occupancy.inside and self._stream.online

    @property
    def nick(self) -> str:
        """Our nickname: the one we have, or had last."""
        return self._occupancy.nick

    @property
    def my_affiliation(self) -> str:
        """Our affiliation, as the room said when it last spoke of us."""
        return self._occupancy.affiliation

    @property
    def occupants(self) -> Mapping[str, Occupant]:
        """Who is in the room, by nickname: a live view."""
        return MappingProxyType(self._occupancy.occupants)

    @property
    def position(self) -> str | None:
        """The archive id up to which `batches` has got, stanzas of other kinds included."""
        return self._position

    def suspect(self) -> None:
        """Ask the room now whether we are still in it, rather than after `ping_interval`, and then its archive.

        For who misses something: a reflection that does not come, for instance.  `Verified` ends it.
        """
        self._suspicious = True
        self._news.set()

    def read_again(self, after: str | None) -> None:
        """Go back to that place and read the archive from there: what `batches` has just yielded comes again, after
        what is missing before it.

        :param after: archive id
        """
        self._position = after
        self._behind = True
        self._forget_buffer()

    # Making, judging, entering and leaving a room

    async def create(self, name: str | None = None, *, again: bool = False) -> None:
        """Make the room, configure it for an encrypted group, and be in it.

        :param again: we have begun to make it before, and may or may not have got somewhere.
        :raises UsageError: it exists.
        :raises RoomUnsuitable: the service can not make a room that will do; it has been destroyed again.
        :raises NotPermitted: the service does not let us make rooms.
        :raises DeliveryError: refused, unanswered, disconnected.
        """
        self._attach(None)
        try:
            exists = await muc_config.features(self._stream, str(self.jid)) is not None
            if exists and again:
                try:
                    # Without it Prosody lets nobody into a room that nobody has configured yet.
                    await muc_config.configure(self._stream, str(self.jid), name)
                except NotPermitted:
                    again = False  # somebody else has made it meanwhile
            if exists and not again:
                raise UsageError(f"{self.jid} exists already")
            await self._enter(create=not exists)
            try:
                await muc_config.configure(self._stream, str(self.jid), name)
                reasons = await self.check()
                if reasons:
                    raise RoomUnsuitable(str(self.jid), reasons)
            except BaseException:
                await muc_config.destroy(self._stream, str(self.jid))
                raise
        except RoomLost as error:
            self._detach()
            raise NotPermitted(f"{self.jid} can not be made: {error.text or error.reason}") from None
        except BaseException:
            self._detach()
            raise

    async def check(self) -> tuple[str, ...]:
        """What keeps the room from serving an encrypted group, one name for each shortcoming.

        Empty if nothing does.  The names: ``not-found``, ``not-a-room``, ``not-persistent``,
        ``not-members-only``, ``not-non-anonymous``, ``no-archive``, ``no-stanza-id``,
        ``password-protected``.  Nothing is changed.

        :raises DeliveryError: the room does not say.
        """
        return muc_config.shortcomings(await muc_config.features(self._stream, str(self.jid)))

    async def join(self, after: str | None) -> None:
        """Set the place to read from, and enter the room (once; `batches` re-enters by itself).

        After an error that may pass (`Refused`, `NoAnswer`, `Disconnected`) `batches` may be
        used all the same: it goes on trying.

        :param after: the archive id of the last stanza processed; ``None``: from the beginning.
        :raises NotPermitted: we are no member, or banned.
        :raises RoomLost: there is no such room (any more).
        :raises DeliveryError: refused, unanswered, disconnected.
        """
        if self._read_by_somebody:
            raise UsageError("the room is being read; close that iterator first")
        self._attach(after)
        if self._occupancy.inside:
            return
        try:
            await self._enter()
        except RoomLost as error:
            self._detach()
            if error.reason in _ENTRY_REFUSALS:
                raise NotPermitted(f"{self.jid} does not let us in: {error.reason}") from None
            raise

    async def leave(self) -> None:
        """Leave the room; `batches` ends.  Our affiliation stays."""
        self._ended.set()
        await self._occupancy.leave()
        self._detach()
        self._news.set()

    async def destroy(self, alternate: str | None = None, reason: str | None = None) -> None:
        """Destroy the room, with its archive on most servers; `batches` ends.

        :raises NotPermitted: we are not an owner.
        """
        self._destroying = True  # so that the room's farewell is no surprise to the reader
        try:
            await muc_config.destroy(self._stream, str(self.jid), alternate, reason)
        finally:
            self._destroying = False
        await self.leave()

    def _attach(self, after: str | None) -> None:
        self._ended.clear()
        self._position = after
        self._forget_buffer()
        self._behind = True
        self._stream.attach(str(self.jid), self)

    def _detach(self) -> None:
        self._stream.detach(str(self.jid), self)

    # Sending

    @property
    def limit(self) -> int:
        """Octets of the largest stanza to be sent: `MAX_STANZA`, or less if our server has proved to take less."""
        return self._stream.limit

    def measure(self, elements: Sequence[Element]) -> int:
        """Octets of the stanza that `send` would make of these elements, ids of usual length assumed."""
        return _size(self._message(elements, "x" * 36))

    async def send(self, elements: Sequence[Element], *, message_id: str) -> None:
        """Send one groupchat message with these children; return when it is on the stream.

        Proof of arrival is its reflection, which `batches` yields with this id as `origin_id`.
        A refusal comes as a `Bounced` event.

        :param message_id: unique; the same again if the same message is sent again.
        :raises StanzaTooLarge: over `limit`; nothing was sent.
        :raises Disconnected: we are not in the room at the moment; sent or not, send it again later.
        """
        message = self._message(elements, message_id)
        size = _size(message)
        if size > self.limit:
            raise StanzaTooLarge(size, self.limit)
        if not self.inside:
            raise Disconnected(f"not in {self.jid} at the moment")
        await self._stream.write(message, size)

    def _message(self, elements: Sequence[Element], message_id: str) -> Message:
        message = self._xmpp.make_message(mto=self.jid, mtype="groupchat")
        message.xml.set("id", message_id)  # message["id"] = ... may add an <origin-id/> too, or not
        for origin_id in message.xml.findall(f"{{{SID}}}origin-id"):
            message.xml.remove(origin_id)
        message.xml.extend(elements)
        SubElement(message.xml, f"{{{SID}}}origin-id", {"id": message_id})
        if message.xml.find(f"{{{HINTS}}}store") is None:
            # Without it ejabberd neither archives the message nor gives it an id.
            SubElement(message.xml, f"{{{HINTS}}}store")
        return message

    async def invite(self, account: str, elements: Iterable[Element] = (), reason: str | None = None) -> None:
        """Invite an account (a bare JID) directly (XEP-0249), with `elements` in the invitation.

        :raises StanzaTooLarge: over `limit`; nothing was sent.
        :raises Disconnected: there is no stream.
        """
        message = invitation(self._xmpp, str(self.jid), account, elements, reason)
        await self._stream.write(message, _size(message))

    # Reading

    async def batches(self) -> AsyncGenerator[Sequence[RoomStanza], None]:
        """Every archived stanza with a child in our namespace, in order, from `join`'s place on, some at a time.

        Re-enters and re-reads as needed; ends when `leave` or `destroy` is called.  One reader
        at a time.

        :raises RoomLost: we are out for good.
        :raises ArchiveGap: stanzas have been lost; `join` at another place to go on.
        :raises NotPermitted: the room lets us in, but not read its archive.
        """
        if self._read_by_somebody:
            raise UsageError("the room has a reader already")
        self._read_by_somebody = True
        try:
            while not self._ended.is_set():
                if self._buffer and not self._behind:
                    # Also when we are out meanwhile: what came before is ours to read.
                    live = [self._take() for _ in range(min(_BATCH, len(self._buffer)))]
                    self._position = live[-1].archive_id
                    yield live
                elif self._occupancy.lost is not None and not self._destroying:
                    self._detach()
                    raise self._occupancy.lost
                elif not self._stream.online or self._occupancy.lost is not None:
                    await self._wait_for_news()
                elif not self._occupancy.inside:
                    await self._enter_again()
                elif self._behind:
                    async with aclosing(self._catch_up()) as archived:
                        async for batch in archived:
                            yield batch
                else:
                    await self._wait_for_news()
        finally:
            self._read_by_somebody = False
            if self._asking is not None:
                self._asking.cancel()

    async def _enter_again(self) -> None:
        if self._entered_at is not None and _now() - self._entered_at > _STEADY:
            self._failures = 0
        await self._pause()
        if self._ended.is_set() or self._occupancy.lost is not None:
            return
        self._behind = True
        self._verifying = False
        self._forget_buffer()
        try:
            await self._enter()
        except RoomLost as error:
            self._occupancy.lost = error
        except (Refused, NoAnswer, Disconnected) as error:
            log.info("%s can not be entered yet: %s", self.jid, error)

    async def _enter(self, *, create: bool = False) -> None:
        self._entered_at = None
        await self._occupancy.enter(create=create)
        self._entered_at = _now()

    async def _pause(self) -> None:
        """Wait before another attempt: not at all, then longer and longer, and never in step with others."""
        if self._failures:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(60.0, 0.25 * 2**self._failures) * random.uniform(0.5, 1.5)):  # noqa: S311
                    await self._ended.wait()
        self._failures = min(self._failures + 1, 10)

    async def _catch_up(self) -> AsyncGenerator[Sequence[RoomStanza], None]:
        self._forget_buffer()
        self._overflowed = False
        read = 0
        try:
            async with aclosing(self.archive.pages(self._position)) as pages:
                async for page in pages:
                    for batch in self._read(page):
                        yield batch
                    read += len(page.entries)
                    complete = page.complete and not self._overflowed and self._occupancy.inside
                    if read or not self._verifying:
                        self._notify(CatchingUp(read, complete))
                    if self._ended.is_set() or not self._occupancy.inside:
                        return
        except NotPermitted:
            if self._occupancy.lost is None:
                raise
            return  # that is the reason, and the better one to give
        except (Refused, NoAnswer, Disconnected) as error:
            log.info("the archive of %s can not be read yet: %s", self.jid, error)
            if isinstance(error, Refused) and error.condition in UNREACHABLE:
                self._occupancy.unreachable()
            await self._pause()
            return
        # What overflowed the buffer is in the archive: another round.
        self._behind = self._overflowed
        if self._verifying and not self._behind:
            self._verifying = False
            self._notify(Verified())

    def _read(self, page: Page) -> Iterable[Sequence[RoomStanza]]:
        for start in range(0, len(page.entries), _BATCH):
            entries = page.entries[start : start + _BATCH]
            for entry in entries:
                self._drop_buffered(entry.archive_id)
            self._position = entries[-1].archive_id
            batch = [stanza for entry in entries if (stanza := entry.stanza()) is not None]
            if batch:
                yield batch

    async def _wait_for_news(self) -> None:
        self._news.clear()
        if not self._suspicious:
            try:
                async with asyncio.timeout(self._ping_interval * random.uniform(0.8, 1.0)):  # noqa: S311
                    await self._news.wait()
            except TimeoutError:
                self._suspicious = True
        if self._suspicious and self._asking is None:
            self._suspicious = False
            if self._stream.online and self._occupancy.inside:
                # Not waited for: over a slow link, what we wait for may come before the answer.
                self._asking = asyncio.create_task(self._occupancy.still_inside(), name=f"self-ping in {self.jid}")
                self._asking.add_done_callback(self._asked)
        elif self._suspicious:
            await self._news.wait()

    def _asked(self, asking: asyncio.Task[bool]) -> None:
        self._asking = None
        self._news.set()
        if asking.cancelled() or not self._occupancy.inside:
            return
        if not asking.result():
            self._suspicious = True  # no answer, and it has taken its time
        elif not self._suspicious:  # else there has been another suspicion since the question: ask again
            self._behind = self._verifying = True

    # The live buffer

    def _take(self) -> RoomStanza:
        stanza = self._buffer.popleft()
        self._buffered_ids.discard(stanza.archive_id)
        self._buffer_size -= weight(stanza.xml)
        return stanza

    def _drop_buffered(self, archive_id: str) -> None:
        if archive_id in self._buffered_ids:
            while self._take().archive_id != archive_id:
                pass

    def _forget_buffer(self) -> None:
        self._buffer.clear()
        self._buffered_ids.clear()
        self._buffer_size = 0

    def _overflow(self) -> None:
        self._forget_buffer()
        self._overflowed = self._behind = True

    # What the stream brings: see `stream.RoomReader`

    def message_received(self, xml: Element) -> None:
        """Sort a message: ours to the buffer, the room's own to events."""
        sender = xml.get("from", "")
        kind = xml.get("type", "normal")
        if kind == "error":
            if sender == self.jid:
                self._bounced(xml)
        elif kind == "groupchat":
            if xml.find(f"{_CLIENT}subject") is not None and xml.find(f"{_CLIENT}body") is None:
                self._occupancy.subject_received()
            if sender == self.jid and xml.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}status") is not None:
                self._notify(Reconfigured())
            self._live(xml)
        elif sender == self.jid:
            self._affiliation_told(xml)
        self._news.set()

    def presence_received(self, xml: Element) -> None:
        """Somebody comes, goes or changes; perhaps we ourselves."""
        self._occupancy.presence_received(xml)
        self._news.set()

    def stream_started(self, resumed: bool) -> None:
        """A resumed session has lost nothing, if the room has not dropped us; a new one starts again."""
        self._suspicious = resumed
        self._occupancy.stream_started(resumed)
        self._news.set()

    def stream_stopped(self) -> None:
        """Nothing to do but wait for the next."""
        self._occupancy.stream_stopped()
        self._news.set()

    def _live(self, xml: Element) -> None:
        if not self._occupancy.inside or self._overflowed:
            return
        occupant = self._occupancy.occupants.get(xml.get("from", "").partition("/")[2])
        ids = stamped_ids(xml, str(self.jid))
        real_jid = occupant.jid if occupant is not None else None
        stanza = room_stanza(xml, ids[0] if ids else "", real_jid, archived=False, stamp=None)
        if stanza is None:
            return
        if not ids:
            self._notify(Unarchived(xml.get("id")))
            return
        if stanza.archive_id in self._buffered_ids:
            return  # the room repeats itself
        self._buffer.append(stanza)
        self._buffered_ids.add(stanza.archive_id)
        self._buffer_size += weight(xml)
        # Two ids "by" the room: the room did not remove a forged one.  The archive knows which is its own.
        if len(ids) > 1 or len(self._buffer) > _BUFFERED or self._buffer_size > _BUFFERED_SIZE:
            self._overflow()

    def _bounced(self, xml: Element) -> None:
        condition, text, error = parse_error(xml)
        remedy = ""
        if condition == "not-acceptable":
            remedy = "enter"
            self.suspect()  # the usual answer to who is not in the room
        elif condition in UNREACHABLE:
            remedy = "enter"
            self._occupancy.unreachable()
        elif error is not None and error.get("type") == "wait":
            remedy = "wait"
        self._notify(Bounced(xml.get("id", ""), condition, text, remedy))

    def _affiliation_told(self, xml: Element) -> None:
        item = xml.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}item")
        if item is not None and (jid := bare_jid(item.get("jid"))) is not None and item.get("affiliation"):
            self._notify(AffiliationChanged(jid, item.get("affiliation", "none")))

    def _notify(self, event: RoomEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("the handler of a room's events failed")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _size(message: Message) -> int:
    return written_size(message.xml, "jabber:client")
