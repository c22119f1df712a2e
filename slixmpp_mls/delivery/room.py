"""A MUC room (XEP-0045) of one client: creation, entry, sending, and reading as one total order of stanzas.

`Room` is the interface to the rest of the plugin.  It dispatches incoming stanzas: presences to `Occupancy` (the
occupants of the room), MLS stanzas to `Reading` (the order of the room); the rest becomes a `RoomEvent`.

`Room.batches` yields every archived MLS stanza once, in the room's order, from a given archive id on, and does not end:
first the archive, then live, across reconnections.  Stanzas that are available come in one batch, because a reader
processes several at once faster.  A reader that stopped continues from the archive id of the last stanza that it
processed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import get_args
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from ..errors import (
    Disconnected,
    NotPermitted,
    PeerError,
    RoomLost,
    RoomUnsuitable,
    StanzaTooLarge,
    UsageError,
)
from ..stanza import NS, LiveElement, read_payloads
from ..stanza.xml import written_size
from . import muc_config
from .affiliations import Affiliations
from .archive import MUC_USER, SID, Archive, RoomStanza, bare_jid, room_stanza, stamped_ids
from .events import AffiliationChanged, Bounced, EphemeralShown, Reconfigured, RoomEvent, Unarchived
from .invitation import HINTS, invitation
from .occupancy import UNREACHABLE, Occupancy, Occupant, parse_error
from .reading import Reading
from .stream import Stream

log = logging.getLogger(__name__)

#: Seconds of silence after which to ask the room whether we are still in it (XEP-0410).
PING_INTERVAL = 300.0
_CLIENT = "{jabber:client}"
_LIVE_TAGS = tuple(f"{{{NS}}}{kind.NAME}" for kind in get_args(LiveElement))
_ENTRY_REFUSALS = ("not-a-member", "banned", "password-required", "refused")


class Room:
    """One room of one client.

    :param jid: the room's bare JID.
    :param nick: the nickname that we prefer.
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
        self._occupancy = Occupancy(self._stream, room, nick, self._notify)
        self.affiliations = Affiliations(self._stream, room)
        self._reading = Reading(
            self._stream, room, self._occupancy, self.archive, self._notify, self._detach, ping_interval
        )

    def __repr__(self) -> str:
        return f"<Room {self.jid} {'inside' if self.inside else 'outside'} after {self.position}>"

    # State

    @property
    def inside(self) -> bool:
        """Whether we are in the room, as far as we know."""
        return self._occupancy.inside and self._stream.online

    @property
    def lost(self) -> RoomLost | None:
        """Why the room is lost for good; None if it is not."""
        return self._occupancy.lost

    @property
    def nick(self) -> str:
        """Our current nickname, or the last one."""
        return self._occupancy.nick

    @property
    def occupants(self) -> Mapping[str, Occupant]:
        """The occupants by nickname: a live view."""
        return MappingProxyType(self._occupancy.occupants)

    @property
    def position(self) -> str | None:
        """The archive id that `batches` has reached, stanzas of other kinds included."""
        return self._reading.position

    def suspect(self) -> None:
        """Ask the room now whether we are still in it, instead of after `ping_interval`, then read its archive.

        A caller uses it if a stanza is missing, for instance a reflection.  `Verified` ends the doubt.
        """
        self._reading.suspect()

    def read_again(self, after: str | None) -> None:
        """Go back to that position and read the archive from there.

        `batches` first yields the stanzas that are missing, then those that it has just yielded once more.

        :param after: archive id
        """
        self._reading.read_again(after)

    # Creating, checking, entering and leaving a room

    async def create(self, name: str | None = None, *, again: bool = False) -> None:
        """Create the room, configure it for an encrypted group, and enter it.

        :param again: an earlier attempt to create it may have succeeded in part.
        :raises UsageError: it exists.
        :raises RoomUnsuitable: the service cannot create a suitable room; the room has been destroyed again.
        :raises NotPermitted: the service does not let us create rooms.
        :raises DeliveryError: refused, unanswered, disconnected.
        """
        self._attach(None)
        try:
            exists = await muc_config.features(self._stream, str(self.jid)) is not None
            if exists and again:
                try:
                    # Without it, Prosody admits nobody to a room that is not configured yet.
                    await muc_config.configure(self._stream, str(self.jid), name)
                except NotPermitted:
                    again = False  # another client has created it meanwhile
            if exists and not again:
                raise UsageError(f"{self.jid} exists already: adopt() begins a group in it, join() waits for one")
            await self._occupancy.enter(create=not exists)
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
            raise NotPermitted(f"{self.jid} cannot be made: {error.text or error.reason}") from None
        except BaseException:
            self._detach()
            raise

    async def check(self) -> tuple[str, ...]:
        """The shortcomings that keep the room from serving an encrypted group, by name.

        Empty if the room is suitable.  The names: ``not-found``, ``not-a-room``, ``not-persistent``,
        ``not-members-only``, ``not-non-anonymous``, ``no-archive``, ``no-stanza-id``,
        ``password-protected``.  The room is not changed.

        :raises DeliveryError: the room does not answer.
        """
        return muc_config.shortcomings(await muc_config.features(self._stream, str(self.jid)))

    async def join(self, after: str | None) -> None:
        """Set the position to read from, and enter the room (once; `batches` re-enters by itself).

        After a temporary error (`Refused`, `NoAnswer`, `Disconnected`), `batches` can be used
        nevertheless: it continues to try.

        :param after: the archive id of the last stanza processed; ``None``: from the beginning.
        :raises NotPermitted: we are not a member, or are banned.
        :raises RoomLost: there is no such room (any more).
        :raises DeliveryError: refused, unanswered, disconnected.
        """
        self._attach(after)
        if self._occupancy.inside:
            return
        try:
            await self._occupancy.enter()
        except RoomLost as error:
            self._detach()
            if error.reason in _ENTRY_REFUSALS:
                hint = "ask an administrator of the room to add you"
                raise NotPermitted(f"{self.jid} does not let us in: {error.reason}; {hint}") from None
            raise

    async def leave(self) -> None:
        """Leave the room; `batches` ends.  Our affiliation remains."""
        self._reading.stop()
        await self._occupancy.leave()
        self._detach()
        self._reading.wake()

    async def destroy(self, alternate: str | None = None, reason: str | None = None) -> None:
        """Destroy the room; most servers destroy its archive too.  `batches` ends.

        :raises NotPermitted: we are not an owner.
        """
        self._reading.state.destroy()  # the reader then expects our removal from the room
        try:
            await muc_config.destroy(self._stream, str(self.jid), alternate, reason)
        except BaseException:
            self._reading.state.not_destroyed()
            self._reading.wake()
            raise
        await self.leave()

    def _attach(self, after: str | None) -> None:
        self._reading.start(after)
        self._stream.attach(str(self.jid), self)

    def _detach(self) -> None:
        self._stream.detach(str(self.jid), self)

    # Sending

    @property
    def limit(self) -> int:
        """Octets of the largest stanza to send: `MAX_STANZA`, or less if our server has proved to accept less."""
        return self._stream.limit

    def measure(self, elements: Sequence[Element]) -> int:
        """Octets of the stanza that `send` makes of these elements, for ids of the usual length."""
        return _size(self._message(elements, "x" * 36))

    async def send(self, elements: Sequence[Element], *, message_id: str) -> None:
        """Send one groupchat message with these children; return when it is written to the stream.

        The reflection proves its arrival: `batches` yields it with this id as `origin_id`.
        A refusal is reported as a `Bounced` event.

        :param message_id: unique; a message that is sent again has the same id.
        :raises StanzaTooLarge: over `limit`; nothing was sent.
        :raises Disconnected: we are not in the room now; send it again later, whether it was sent or not.
        """
        message = self._message(elements, message_id)
        size = _size(message)
        if size > self.limit:
            raise StanzaTooLarge(size, self.limit)
        if not self.inside:
            raise Disconnected(f"not in {self.jid} at the moment")
        await self._stream.write(message, size)

    async def send_live(self, elements: Sequence[Element], *, message_id: str) -> None:
        """Send one groupchat message that no server is to store (XEP-0334); its reflection is not awaited.

        :raises StanzaTooLarge: over `limit`; nothing was sent.
        :raises Disconnected: we are not in the room now.
        """
        if not self.inside:
            raise Disconnected(f"not in {self.jid} at the moment")
        message = self._xmpp.make_message(mto=self.jid, mtype="groupchat")
        message.xml.set("id", message_id)
        for origin_id in message.xml.findall(f"{{{SID}}}origin-id"):
            message.xml.remove(origin_id)
        message.xml.extend(elements)
        for hint in ("no-store", "no-permanent-store"):
            SubElement(message.xml, f"{{{HINTS}}}{hint}")
        await self._stream.write(message, _size(message))

    def _message(self, elements: Sequence[Element], message_id: str) -> Message:
        message = self._xmpp.make_message(mto=self.jid, mtype="groupchat")
        message.xml.set("id", message_id)  # message["id"] = ... may add an <origin-id/> as well
        for origin_id in message.xml.findall(f"{{{SID}}}origin-id"):
            message.xml.remove(origin_id)
        message.xml.extend(elements)
        SubElement(message.xml, f"{{{SID}}}origin-id", {"id": message_id})
        if message.xml.find(f"{{{HINTS}}}store") is None:
            # Without it, ejabberd neither archives the message nor assigns it an id.
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

    def batches(self) -> AsyncGenerator[Sequence[RoomStanza], None]:
        """Yield every archived stanza with a child in our namespace, in order, from `join`'s position on, in batches.

        It re-enters and re-reads as needed, and ends when `leave` or `destroy` is called.  Only
        one reader may be active.

        :raises RoomLost: we are out of the room for good.
        :raises ArchiveGap: stanzas have been lost; `join` at another position to continue.
        :raises NotPermitted: the room admits us, but does not let us read its archive.
        """
        return self._reading.batches()

    # Input from the stream: see `stream.RoomReader`

    def message_received(self, xml: Element) -> None:
        """Dispatch a message: MLS stanzas to the buffer, the room's own to events."""
        sender = xml.get("from", "")
        kind = xml.get("type", "normal")
        if kind == "error":
            # Before the session is there, the room has nothing to answer: our server has (RFC 6120 8.3).
            if sender == self.jid and self._stream.online:
                self._bounced(xml)
        elif kind == "groupchat":
            if xml.find(f"{_CLIENT}subject") is not None and xml.find(f"{_CLIENT}body") is None:
                self._occupancy.subject_received()
            if sender == self.jid and xml.find(f"{{{MUC_USER}}}x/{{{MUC_USER}}}status") is not None:
                self._notify(Reconfigured())
            self._live(xml)
        elif sender == self.jid:
            self._affiliation_told(xml)
        self._reading.wake()

    def presence_received(self, xml: Element) -> None:
        """Handle a change of an occupant, possibly of ourselves."""
        self._occupancy.presence_received(xml)
        self._reading.wake()

    def stream_started(self, resumed: bool) -> None:
        """After a resumption nothing is lost unless the room dropped us; in a new session, enter again."""
        self._occupancy.stream_started(resumed)
        self._reading.stream_started(resumed)

    def stream_stopped(self) -> None:
        """Wait for the next stream."""
        self._occupancy.stream_stopped()
        self._reading.wake()

    def _live(self, xml: Element) -> None:
        if not self._occupancy.inside:
            return
        occupant = self._occupancy.occupants.get(xml.get("from", "").partition("/")[2])
        ids = stamped_ids(xml, str(self.jid))
        real_jid = occupant.jid if occupant is not None else None
        stanza = room_stanza(xml, ids[0] if ids else "", real_jid, archived=False, stamp=None)
        if stanza is None:
            return
        if self._ephemeral(stanza) and not ids:
            return
        if not ids:
            self._notify(Unarchived(xml.get("id")))
            return
        # Two ids "by" the room: the room did not remove a forged one.  Only the archive has the right one.
        self._reading.live(stanza, ambiguous=len(ids) > 1)

    def _ephemeral(self, stanza: RoomStanza) -> bool:
        """Report the ephemeral content of a live stanza, which has no place in the order even if it is archived."""
        if all(stanza.xml.find(tag) is None for tag in _LIVE_TAGS):
            return False
        with suppress(PeerError):
            for element in read_payloads(stanza.xml)[0]:
                if isinstance(element, LiveElement):
                    self._notify(EphemeralShown(element, stanza.real_jid))
        return True

    def _bounced(self, xml: Element) -> None:
        condition, text, error = parse_error(xml)
        remedy = ""
        if condition == "not-acceptable":
            remedy = "enter"
            self.suspect()  # servers usually answer so to a client that is not in the room
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


def _size(message: Message) -> int:
    return written_size(message.xml, "jabber:client")
