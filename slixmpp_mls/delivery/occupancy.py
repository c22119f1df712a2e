"""Our presence in a room (XEP-0045 7): entry, the other occupants, and the detection of an involuntary exit.

::

    OUT ──enter()──> ENTERING ──own presence──> LISTED ──the subject──> INSIDE
     ^                  │                         │                       │
     ├──────────────────┴─────────────────────────┘                       │
     │        error, nothing heard, stream gone                           │
     └── kicked, service shut down, new session, failed self-ping ────────┘
     lost <── destroyed, banned, no longer a member (from any state, for good)

The room sends its subject after all presences and old messages.  Everything that it sent before is in the archive by
then; everything after arrives live.  The subject thus marks the point at which `reading.Reading` joins the two.

slixmpp's own ``join_muc_wait`` is not used: Prosody's refusals do not repeat our ``<x/>``, so slixmpp does not see them
and waits for its time-out.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, InvalidJID

from ..errors import Disconnected, MLSError, NoAnswer, NotPermitted, Refused, RoomLost, UsageError
from .archive import MUC_USER, bare_jid
from .events import AffiliationChanged, Entered, Interrupted, RoomEvent
from .muc_config import MUC, destroy
from .stream import Stream

log = logging.getLogger(__name__)

_CLIENT = "{jabber:client}"
_STANZAS = "{urn:ietf:params:xml:ns:xmpp-stanzas}"
_NICKNAMES_TRIED = 5
#: Seconds of silence from the room while entering it, until the next attempt: if the link between the servers has just
#: broken, the request or all answers may be lost.
_SILENCE = 10.0
#: Seconds for entering, however many occupants a room shows: its service could go on forever.
_LONGEST = 300.0

#: Permanent refusals to enter, by error condition.
_FINAL = {
    "registration-required": "not-a-member",
    "forbidden": "banned",
    "not-authorized": "password-required",
    "item-not-found": "not-found",
    "not-allowed": "not-found",
    "gone": "destroyed",
    "jid-malformed": "refused",
    "not-acceptable": "refused",
}
#: Errors of servers that cannot reach each other.  Prosody returns stanzas that a broken link did not acknowledge with
#: the last one.
UNREACHABLE = frozenset({"remote-server-not-found", "remote-server-timeout", "recipient-unavailable"})
_SELF = "110"
_CREATED = "201"
_BANNED = "301"
_RENAMED = "303"
_KICKED = "307"
#: 321: affiliation lost; 322: the room has become members-only and we are no member.
_EXCLUDED = frozenset({"321", "322"})


class _Presence(Enum):
    """Our presence in the room."""

    OUT = auto()
    #: We have asked to enter.
    ENTERING = auto()
    #: The room has shown us our own presence; the subject follows.
    LISTED = auto()
    INSIDE = auto()


class _NicknameTaken(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Occupant:
    """An occupant, as the room describes it.  `jid` is bare, and ``None`` in anonymous rooms."""

    nick: str
    jid: JID | None
    affiliation: str
    role: str


class Occupancy:
    """Our presence and the other occupants' in one room.

    :param room: the room's bare JID.
    :param nick: the nickname that we prefer.
    :param notify: called with each event at once.
    """

    def __init__(self, stream: Stream, room: str, nick: str, notify: Callable[[RoomEvent], None]) -> None:
        self.nick = nick
        #: When we entered the room, on the clock of the event loop; ``None`` before, and while entering.
        self.entered_at: float | None = None
        #: The reason for the loss of the room; ``None`` before.
        self.lost: RoomLost | None = None
        self.occupants: dict[str, Occupant] = {}
        self._stream = stream
        self._room = room
        self._wished_nick = nick
        self._notify = notify
        self._entering: asyncio.Future[None] | None = None
        self._patience: asyncio.Timeout | None = None
        self._presence = _Presence.OUT
        self._entered_before = False
        self._created = False  # whether our entry has made the room
        self._leaving: asyncio.Future[None] | None = None

    @property
    def inside(self) -> bool:
        """Whether we are in the room."""
        return self._presence is _Presence.INSIDE

    # Entering and leaving

    async def enter(self, *, create: bool = False) -> None:
        """Enter the room; use another nickname if ours is taken.

        :param create: the room must be new; otherwise it must exist already.
        :raises RoomLost: it refuses us for good, or no longer exists.
        :raises UsageError: the room to be created exists.
        :raises Refused, NoAnswer, Disconnected: a temporary failure; a later attempt may succeed.
        """
        self.entered_at = None
        async with self._stream.entrance(JID(self._room).host):
            for _ in range(_NICKNAMES_TRIED):
                try:
                    await self._enter()
                    break
                except _NicknameTaken:
                    self.nick = f"{self._wished_nick}-{secrets.token_hex(2)}"
            else:
                raise Refused(self._room, "conflict", "all nicknames tried are taken")
        if self._created and not create:
            # Entering a room that no longer exists creates a new, empty one, which we do not want.
            with suppress(MLSError):
                await destroy(self._stream, self._room)
            self._reset()
            raise RoomLost(self._room, "not-found")
        if create and not self._created:
            await self.leave()
            raise UsageError(f"{self._room} exists already: adopt() begins a group in it, join() waits for one")
        self.lost = None
        self.entered_at = asyncio.get_running_loop().time()
        self._notify(Entered(self.nick, again=self._entered_before))
        self._entered_before = True

    async def _enter(self) -> None:
        if not self._stream.online:
            raise Disconnected("no stream to enter the room on")
        self._reset()
        self._presence = _Presence.ENTERING
        self._tell_xep_0045()
        presence = self._stream.xmpp.make_presence(pto=JID(f"{self._room}/{self.nick}"))
        join = SubElement(presence.xml, f"{{{MUC}}}x")
        SubElement(join, f"{{{MUC}}}history", {"maxstanzas": "0"})
        self._entering = asyncio.get_running_loop().create_future()
        try:
            self._stream.put(presence)
            async with asyncio.timeout(_LONGEST), asyncio.timeout(_SILENCE) as self._patience:
                await self._entering
        except TimeoutError:
            raise NoAnswer(f"{self._room} did not let us in nor refuse") from None
        finally:
            self._entering = self._patience = None
            if not self.inside:
                self._presence = _Presence.OUT

    async def leave(self) -> None:
        """Leave the room; wait a moment for its confirmation."""
        if self.inside and self._stream.online:
            self._leaving = asyncio.get_running_loop().create_future()
            leaving = self._stream.xmpp.make_presence(pto=JID(f"{self._room}/{self.nick}"), ptype="unavailable")
            self._stream.put(leaving)
            with suppress(TimeoutError, Disconnected):
                async with asyncio.timeout(5):
                    await self._leaving
            self._leaving = None
        self._reset()
        if "xep_0045" in self._stream.xmpp.plugin:
            self._stream.xmpp.plugin["xep_0045"].rooms[None].pop(JID(self._room), None)

    def _tell_xep_0045(self) -> None:
        # Other code of the bot expects the room and its occupants in this plugin.
        if "xep_0045" in self._stream.xmpp.plugin:
            muc = self._stream.xmpp.plugin["xep_0045"]
            muc.rooms[None][JID(self._room)] = {}
            muc.our_nicks[None][JID(self._room)] = self.nick

    def _reset(self) -> None:
        self._presence = _Presence.OUT
        self._created = False
        self.occupants.clear()

    def _out(self, cause: str) -> None:
        was_inside = self.inside
        self._reset()
        if self._entering is not None and not self._entering.done():
            self._entering.set_exception(Refused(self._room, "recipient-unavailable", cause))
        if self._leaving is not None and not self._leaving.done():
            self._leaving.set_result(None)
        elif was_inside:
            self._notify(Interrupted(cause))

    def _lose(self, reason: str, alternate: str | None = None, text: str = "") -> None:
        self.lost = RoomLost(self._room, reason, alternate, text)
        if self._entering is not None and not self._entering.done():
            self._entering.set_exception(self.lost)
        self._reset()

    async def still_inside(self) -> bool:
        """Ask the room whether we are still in it (XEP-0410).  After a clear no, or if it is unreachable, we are out.

        :returns: whether it confirmed our presence
        """
        nick = self.nick
        try:
            await self._stream.ask("get", f"{self._room}/{nick}", Element("{urn:xmpp:ping}ping"))
        except (NoAnswer, Disconnected):
            return False  # no answer of the room
        except (Refused, NotPermitted) as error:
            condition = error.condition if isinstance(error, Refused) else "not-allowed"
            if condition in UNREACHABLE:
                self.unreachable()
                return False
            # XEP-0410 3.3: our own client answered, or only the nickname is unknown to the room.
            known = ("service-unavailable", "feature-not-implemented", "item-not-found")
            if condition not in known and nick == self.nick:
                self._out("silent")
        return self.inside

    def unreachable(self) -> None:
        """Our server cannot reach the room's: the room may have dropped us and cannot inform us."""
        if self.inside:
            self._out("unreachable")

    # Input from the room and the stream

    def subject_received(self) -> None:
        """The room has sent its subject, which ends the entry."""
        if self._entering is not None and self._presence is _Presence.LISTED and not self._entering.done():
            self._presence = _Presence.INSIDE
            self._entering.set_result(None)

    def stream_started(self, resumed: bool) -> None:
        """In a new session, our presences are lost."""
        if not resumed:
            self._out("stream")

    def stream_stopped(self) -> None:
        """The stream has ended: waiting calls raise `Disconnected`."""
        for waiting in (self._entering, self._leaving):
            if waiting is not None and not waiting.done():
                waiting.set_exception(Disconnected("the stream was closed"))

    def presence_received(self, xml: Element) -> None:
        """Handle a presence from the room or from an occupant."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + _SILENCE)
        nick = xml.get("from", "").partition("/")[2]
        kind = xml.get("type")
        if kind == "error":
            if self._entering is not None and not self._entering.done():
                self._entering.set_exception(self._refusal(xml))
            return
        x = xml.find(f"{{{MUC_USER}}}x")
        if x is None or not nick or kind not in (None, "unavailable"):
            return
        codes = {status.get("code", "") for status in x.iterfind(f"{{{MUC_USER}}}status")}
        item = x.find(f"{{{MUC_USER}}}item")
        item = Element("item") if item is None else item
        occupant = Occupant(
            nick, bare_jid(item.get("jid")), item.get("affiliation") or "none", item.get("role") or "none"
        )
        self._compare(occupant)
        # Not every service sends status 110 when it removes us.
        own = _SELF in codes or (nick == self.nick and self.inside and kind == "unavailable")
        if kind is None:
            self.occupants[nick] = occupant
            if own:
                self._rename(nick)
                self._created = self._created or _CREATED in codes
                if self._presence is _Presence.ENTERING:
                    self._presence = _Presence.LISTED
        else:
            self.occupants.pop(nick, None)
            if own:
                self._gone(x, item, codes, occupant)

    def _rename(self, nick: str) -> None:
        """The room says what our nickname is; we could not write to the room under one that no JID has."""
        with suppress(InvalidJID):
            if JID(f"{self._room}/{nick}").resource:
                self.nick = nick

    def _gone(self, x: Element, item: Element, codes: set[str], occupant: Occupant) -> None:
        destruction = x.find(f"{{{MUC_USER}}}destroy")
        if _RENAMED in codes:
            self._rename(item.get("nick") or "")
            return
        reason = item.findtext(f"{{{MUC_USER}}}reason") or ""
        if destruction is not None:
            alternate = destruction.get("jid") or None
            self._lose("destroyed", alternate, destruction.findtext(f"{{{MUC_USER}}}reason") or "")
        elif _BANNED in codes or occupant.affiliation == "outcast":
            self._lose("banned", text=reason)
        elif codes & _EXCLUDED:
            self._lose("not-a-member", text=reason)
        else:
            # 332 and 333 are failures of the service; 307 alone is a kick by an occupant.
            self._out("kicked" if _KICKED in codes and "333" not in codes else "service")

    def _compare(self, occupant: Occupant) -> None:
        before = self.occupants.get(occupant.nick)
        if before is not None and before.affiliation != occupant.affiliation:
            # Some services omit the JID of an account that has lost its affiliation.
            jid = occupant.jid or before.jid
            if jid is not None:
                self._notify(AffiliationChanged(jid, occupant.affiliation))

    def _refusal(self, xml: Element) -> Exception:
        condition, text, error = parse_error(xml)
        if condition == "conflict":
            return _NicknameTaken()
        if condition in _FINAL:
            gone = error.findtext(f"{_STANZAS}gone") if error is not None else None
            self.lost = RoomLost(self._room, _FINAL[condition], _address_in(gone or ""), text)
            return self.lost
        return Refused(self._room, condition, text)


def _address_in(uri: str) -> str | None:
    """The address in an XMPP URI (RFC 6120 8.3.3.5, RFC 5122), which Prosody gives the action ``?join``."""
    address = uri.strip().removeprefix("xmpp:").partition("?")[0].partition("#")[0]
    return unquote(address) or None


def parse_error(xml: Element) -> tuple[str, str, Element | None]:
    """Condition, text and element of a stanza's error."""
    error = xml.find(f"{_CLIENT}error")
    condition, text = "undefined-condition", ""
    for child in error if error is not None else ():
        if child.tag == f"{_STANZAS}text":
            text = child.text or ""
        elif child.tag.startswith(_STANZAS):
            condition = child.tag.removeprefix(_STANZAS)
    return condition, text, error
