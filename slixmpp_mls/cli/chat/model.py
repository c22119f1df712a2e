"""The rooms and conversations of a chat, without a screen.

*A message is handed over when somebody has seen it.*  The handler of a message for a talk that is not shown waits until
it is; a program that ends before leaves the message in the store (:mod:`slixmpp_mls.rooms.engine.handler_dispatch`),
and the next program, of whatever kind, gets it.  So nothing that a chat has not shown is lost, and unread marks outlive
it.

*What was to be sent* is remembered until the room confirms it; :meth:`Chat.finish` gives the exit code.

The module is longer than others: rooms, conversations and invitations are talks alike, in one list.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from slixmpp import ClientXMPP

from ...delivery import Invitation
from ...errors import DeliveryError, MLSError, SeveralInvitations, UsageError
from ...integrations.commands import HELP, RoomCommands
from ...integrations.notices import EVENTS, notice
from ...plugin import MLS
from ...rooms.encrypted_message import EncryptedMessage
from ...rooms.encrypted_room import EncryptedRoom, SentMessage
from ...rooms.rich import Typing
from ...runtime.login import bare_jid
from ...stanza.display import displayable, local_time
from ..send import pieces, readable

__all__ = ["Chat", "Line", "Talk", "View"]

KEPT: Final = 2000  # lines of each talk
CONFIRMATION: Final = 30.0  # seconds, at the end, for what the room has not confirmed
TYPING: Final = 30.0  # seconds after which somebody who has not said that they have stopped is not typing any more
_SENDING: Final = frozenset({"correct", "file", "react", "reply", "retract"})
_OWN_HELP: Final = """
/open ADDRESS      another room, or the conversation with a person
/create ROOM       make an encrypted room
/quit              end; the rooms stay in the store
//TEXT             say a text that begins with a slash"""


@dataclass(slots=True)
class Line:
    """A line, or a few, on the screen.

    :ivar kind: ``message``, ``own`` (what has just been typed here), ``note`` or ``warning``
    :ivar who: bare JID of the account that says it; empty for notes
    :ivar key: first digits of the key's fingerprint
    :ivar identifier: the message's id
    """

    text: str
    kind: str = "note"
    who: str = ""
    key: str = ""
    time: datetime = field(default_factory=lambda: datetime.now().astimezone())
    identifier: str = ""


@dataclass(slots=True)
class Talk:
    """A room or a conversation of two.

    :ivar address: bare JID of the room, or of the other account
    :ivar lines: the session's
    :ivar unread: number of messages that nobody has seen
    :ivar history: what has been typed here, the last one at the end
    :ivar waiting: what it waits for; empty if for nothing
    :ivar typing: who is typing, and since when on the event loop's clock
    :ivar types: whether the others believe that we are typing
    :ivar unseen: the handlers that wait until somebody looks
    :ivar room: None until we are in the group
    """

    address: str
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=KEPT))
    unread: int = 0
    history: list[str] = field(default_factory=list)
    waiting: str = ""
    room: EncryptedRoom | None = None
    typing: dict[str, float] = field(default_factory=dict)
    types: bool = False
    unseen: list[asyncio.Future[None]] = field(default_factory=list)

    def who_types(self, now: float) -> list[str]:
        """The accounts that are typing.

        :param now: on the event loop's clock
        """
        return sorted(account for account, since in self.typing.items() if now - since < TYPING)


class View(Protocol):
    """A screen."""

    def shows(self, talk: Talk) -> bool:
        """Whether somebody looks at this talk."""

    def added(self, talk: Talk, line: Line) -> None:
        """There is another line in a talk."""

    def changed(self, talk: Talk) -> None:
        """Anything else about a talk has changed, or it is new."""

    def opened(self, talk: Talk) -> None:
        """Somebody has asked for this talk."""

    def closed(self, talk: Talk) -> None:
        """A talk that was asked for cannot be opened, and is gone."""

    def told(self, text: str) -> None:
        """There is something to say, and no talk to say it in."""

    def own_code(self) -> None:
        """Show the code of our own keys, if there is room for it."""


class Chat:
    """See the module.

    :param only: the address of the only talk; None: all rooms of the store are shown
    :param shows_typing: whether others see that somebody is typing
    """

    def __init__(self, only: str | None = None, *, shows_typing: bool = True) -> None:
        self.only = only
        self.shows_typing = shows_typing
        self.talks: dict[str, Talk] = {}
        self.ended = asyncio.Event()
        self.view: View
        self.mls: MLS
        self._commands: RoomCommands
        self._wanted: set[str] = {only} if only is not None else set()
        self._told: set[tuple[str, str]] = set()  # rooms and inviters of invitations that have been shown
        self._joined: dict[str, asyncio.Event] = {}
        self._unconfirmed: list[SentMessage] = []
        self._failed = 0
        self._handlers: dict[str, Callable[[Any], Any]] = {
            "mls_message": self._message,
            "mls_doubted_message": self._message,
            "mls_correction": self._correction,
            "mls_reaction": self._reaction,
            "mls_retraction": self._retraction,
            "mls_typing": self._is_typing,
            "mls_joined": self._was_joined,
            "mls_removed": self._was_removed,
            "mls_retired": lambda _: self.ended.set(),
            **{name: partial(self._tell, name) for name in EVENTS if name not in ("mls_joined", "mls_removed")},
        }

    # --- life --------------------------------------------------------------------------------------

    def prepare(self, client: ClientXMPP, settings: dict[str, Any]) -> None:
        """Register the plugin, with the chat's rule for invitations."""
        client.register_plugin("mls", {"label": "terminal", "accept_invitation": self._accepts, **settings})
        self.mls = MLS.of(client)
        self._commands = RoomCommands(self.mls, Path.cwd())
        for name, handler in self._handlers.items():
            client.add_event_handler(name, handler)

    def begin(self) -> None:
        """List the rooms of the store, once the plugin is ready."""
        for room in sorted(self.mls.rooms.values(), key=lambda room: room.is_member):  # a room that is lost gives way
            if room.group.is_member and self._is_wanted(room):
                self._talk_of(room)
        if self.only is None:
            for invitation in self.mls.invitations:
                self._invited(invitation.room, invitation.inviter)

    def close(self) -> None:
        """Leave what nobody has seen in the store."""
        for talk in self.talks.values():
            for future in talk.unseen:
                future.cancel()

    async def finish(self) -> tuple[int, str]:
        """Wait a moment for what the rooms have not confirmed.

        :returns: the exit code of the program, and a sentence about it.  0: all that was to be sent is in the archives;
            69: something was not sent; 75: something is stored, and is sent by the next program
        """
        waiting = [sent.confirmed for sent in self._unconfirmed if not sent.confirmed.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=CONFIRMATION)
        for sent in self._unconfirmed:
            if sent.confirmed.done() and not sent.confirmed.cancelled() and sent.confirmed.exception() is not None:
                self._failed += 1
        if self._failed:
            return os.EX_UNAVAILABLE, f"{self._failed} of your messages were not sent"
        late = sum(not sent.confirmed.done() or sent.confirmed.cancelled() for sent in self._unconfirmed)
        if late:
            return os.EX_TEMPFAIL, f"{late} of your messages are stored, and are sent when you chat the next time"
        return 0, ""

    # --- talks ---------------------------------------------------------------------------------------

    def _is_wanted(self, room: EncryptedRoom) -> bool:
        return self.only is None or self.only in (room.jid, room.partner)

    def _talk_of(self, room: EncryptedRoom) -> Talk:
        talk = self.talk(room.partner or room.jid)
        if talk.room is not room:
            talk.room = room
            self.view.changed(talk)
        return talk

    def talk(self, address: str) -> Talk:
        """The talk with this address, made if there is none."""
        talk = self.talks.get(address)
        if talk is None:
            talk = self.talks[address] = Talk(address)
            self.view.changed(talk)
        return talk

    def seen(self, talk: Talk) -> None:
        """Somebody looks at a talk."""
        unseen, talk.unseen = talk.unseen, []
        for future in unseen:
            if not future.done():
                future.set_result(None)
        if talk.unread:
            talk.unread = 0
            self.view.changed(talk)

    def _accepts(self, invitation: Invitation) -> bool:
        room = str(invitation.room.bare)
        if room in self._wanted or str(invitation.inviter.bare) in self._wanted:
            return True
        if self.only is None:
            self._invited(room, str(invitation.inviter.bare))
        return False

    def _invited(self, room: str, inviter: str) -> None:
        if (room, inviter) in self._told:
            return
        self._told.add((room, inviter))
        self._everywhere(f"{inviter} invites you to {room}: /open {inviter} to talk with them, or /open {room}")

    def _wait(self, talk: Talk, what: str) -> None:
        talk.waiting = what
        self.view.changed(talk)

    async def open(self, address: str, *, create: bool = False, people: Iterable[str] = ()) -> Talk:
        """Open a room or a conversation, and wait until we are in it.

        :param address: bare JID of a room or of a person
        :param create: the room does not exist yet
        :param people: addresses to add to it
        :raises MLSError: it has failed
        """
        known = address in self.talks
        self._wanted.add(address)
        talk = self.talk(address)
        self.view.opened(talk)
        try:
            room = self.mls.rooms.get(address) or self.mls.conversations.get(address)
            if room is not None and room.lost is not None and room.lost.gone and not create:
                raise room.lost
            if room is not None and room.is_member:
                if create:
                    self._note(talk, "The room exists already.")
            elif create:
                self._wait(talk, f"Making {address} ...")
                room = await self.mls.create(address)
            elif room is not None or await self.mls.is_room(address):
                room = await self._join(talk)
            else:
                self._wait(talk, f"Opening the conversation with {address} ...")
                room = await self.mls.conversation(address)
        except MLSError:
            self._wanted.discard(address)
            if not known:
                del self.talks[address]
                self.view.closed(talk)
            raise
        finally:
            self._wait(talk, "")
        talk = self._talk_of(room)
        accounts = list(people)
        if accounts:
            self._wait(talk, f"Adding {', '.join(accounts)} ...")
            try:
                await self._command(talk, "add", " ".join(accounts))
            finally:
                self._wait(talk, "")
        self._note(talk, f"In {address} with {', '.join(room.accounts)}. /help lists the commands.")
        return talk

    async def _join(self, talk: Talk) -> EncryptedRoom:
        """Wait until a member lets us in, now or after an invitation."""
        address = talk.address
        self._wait(talk, f"Waiting for somebody in {address} to add you ...")
        self._note(talk, talk.waiting)
        joined = self._joined.setdefault(address, asyncio.Event())

        async def follow() -> None:
            try:
                await self.mls.join(address)
            except SeveralInvitations as error:
                self._note(talk, f"{error}: /open it, which accepts what it invites to.")
            except DeliveryError as error:
                self._note(talk, f"The room does not let you in yet: {error}")
            else:
                joined.set()

        following = asyncio.create_task(follow())
        try:
            await joined.wait()
        finally:
            following.cancel()
        return self.mls.room(address)

    async def typing(self, talk: Talk, active: bool) -> None:
        """Show the others that somebody is typing here, or has stopped; once each.

        :param active: whether there is a text that has not been sent
        """
        if not self.shows_typing or active == talk.types or talk.room is None or not talk.room.is_member:
            return
        talk.types = active
        await talk.room.typing(active)

    # --- what people type ------------------------------------------------------------------------------

    async def typed(self, talk: Talk | None, line: str) -> None:
        """A line that somebody has typed: a command, or a text to be sent.  Errors are shown."""
        line = readable(line)
        if not line.strip():
            return
        command = line.startswith("/") and not line.startswith("//")
        name, _, rest = line[1:].partition(" ") if command else ("", "", "")
        try:
            if command:
                await self._command(talk, name, rest)
            else:
                await self._say(talk, line.removeprefix("/") if line.startswith("//") else line)
        except (MLSError, OSError) as error:
            if not command or name in _SENDING:
                self._failed += 1
            if talk is None:
                self._everywhere(str(error))
            else:
                self.warn(talk, str(error))

    def refused(self, talk: Talk, why: str) -> None:
        """What somebody has typed is not sent."""
        self._failed += 1
        self.warn(talk, why)

    async def _say(self, talk: Talk | None, text: str) -> None:
        if talk is None or talk.room is None:
            raise UsageError("nothing is sent: this device is not in the group yet (the arrow up brings the text back)")
        talk.types = False  # a message ends it
        for piece in pieces(text):
            sent = await talk.room.send(piece)
            self._sent(talk, sent, piece)

    def _sent(self, talk: Talk, sent: SentMessage, text: str) -> None:
        assert talk.room is not None
        self._unconfirmed = [each for each in self._unconfirmed if not _is_confirmed(each)]
        self._unconfirmed.append(sent)
        sent.confirmed.add_done_callback(partial(self._settled, talk))
        self._commands.session(talk.room.jid).sent_one(sent, text)
        own = talk.room.own_account
        self._add(talk, Line(displayable(text), "own", own, self.mls.fingerprint[:8], identifier=sent.origin_id))

    def _settled(self, talk: Talk, confirmed: asyncio.Future[str]) -> None:
        if not confirmed.cancelled() and confirmed.exception() is not None:
            self.warn(talk, f"A message of yours was refused: {confirmed.exception()}")

    async def _command(self, talk: Talk | None, name: str, rest: str) -> None:
        match name:
            case "quit":
                self.ended.set()
            case "help":
                self._everywhere(HELP + _OWN_HELP, talk)
            case "open":
                await self.open(bare_jid(rest.strip()))
            case "create":
                await self.open(bare_jid(rest.strip()), create=True)
            case _ if talk is None or talk.room is None:
                raise UsageError(f"/{displayable(name)}: this device is not in the group yet; /help lists the commands")
            case _:
                await self._room_command(talk, talk.room, name, rest)

    async def _room_command(self, talk: Talk, room: EncryptedRoom, name: str, rest: str) -> None:
        if name == "leave":
            self._wait(talk, "Leaving: another member has to confirm it ...")
        try:
            result = await self._commands.run(room, name, rest)
        finally:
            self._wait(talk, "")
        if result.sent is not None and result.shown:
            self._sent(talk, result.sent, result.shown)
        elif result.sent is not None:
            self._unconfirmed.append(result.sent)
        if result.text:
            (self.warn if result.warning else self._note)(talk, result.text)
        if result.own_code:
            self.view.own_code()
        if result.left:
            talk.room = None
            if self.only is not None:
                self.ended.set()

    # --- what happens --------------------------------------------------------------------------------

    async def _wanted_talk(self, room: EncryptedRoom) -> Talk:
        """The talk of a room.

        :raises asyncio.CancelledError: this chat does not show the room, and the program ends
        """
        if not self._is_wanted(room):
            await asyncio.get_running_loop().create_future()  # the message stays in the store
        return self._talk_of(room)

    async def _until_seen(self, talk: Talk) -> None:
        if not self.view.shows(talk):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            talk.unseen.append(future)
            await future

    async def _message(self, message: EncryptedMessage) -> None:
        talk = await self._wanted_talk(message.room)
        text = self._commands.text_of(message)
        if not text:
            return
        talk.typing.pop(message.sender.account, None)
        sender = message.sender
        self._add(
            talk,
            Line(text, "message", sender.account, sender.fingerprint[:8], local_time(message.sent), message.origin_id),
            unread=True,
        )
        for warning in message.warnings:
            self.warn(talk, f"about this message: {warning}")
        if message.doubt is not None and message.doubt.denied:
            self.warn(talk, f"about this message: {message.doubt.text}")
        await self._until_seen(talk)

    async def _correction(self, message: EncryptedMessage) -> None:
        talk = await self._wanted_talk(message.room)
        if message.replaces is not None:
            self._commands.session(message.room.jid).said(message.replaces.id, message.body)
        self._note(talk, f"{message.sender.account} corrects: {displayable(message.body)}", unread=True)
        await self._until_seen(talk)

    async def _reaction(self, message: EncryptedMessage) -> None:
        talk = await self._wanted_talk(message.room)
        about = message.reacts_to
        text = "" if about is None else self._commands.session(message.room.jid).texts.get(about.id, "")
        what = f"\u201c{displayable(text)[:40]}\u201d" if text else "an earlier message"
        emojis = displayable(" ".join(message.reactions)) or "no reaction any more"
        self._note(talk, f"{message.sender.account}: {emojis} to {what}")
        await self._until_seen(talk)

    async def _retraction(self, message: EncryptedMessage) -> None:
        talk = await self._wanted_talk(message.room)
        about = message.retracts
        text = "" if about is None else self._commands.session(message.room.jid).texts.get(about.id, "")
        self._note(talk, f"{message.sender.account} takes back: {displayable(text)[:40] or 'an earlier message'}")
        await self._until_seen(talk)

    def _is_typing(self, event: Typing) -> None:
        room = self.mls.rooms.get(event.room)
        if room is None or not self._is_wanted(room):
            return
        talk = self._talk_of(room)
        if event.active:
            talk.typing[event.sender.account] = asyncio.get_running_loop().time()
        else:
            talk.typing.pop(event.sender.account, None)
        self.view.changed(talk)

    def _was_joined(self, event: Any) -> None:
        self._joined.setdefault(event.room, asyncio.Event()).set()
        room = self.mls.rooms.get(event.room)
        if room is not None and room.is_member and self._is_wanted(room):
            self._talk_of(room)

    def _was_removed(self, event: Any) -> None:
        talk = self.talks.get(event.room)
        self._tell("mls_removed", event)
        if talk is not None:
            talk.room = None
            if self.only is not None:
                self.ended.set()

    def _tell(self, name: str, event: Any) -> None:
        said = notice(name, event)
        if said is None:
            return
        add = self.warn if said.warning else self._note
        if said.room is None:
            self._everywhere(said.text, warning=said.warning)
            return
        room = self.mls.rooms.get(said.room)
        talk = self.talks.get(said.room) or (self.talks.get(room.partner or "") if room is not None else None)
        if talk is not None:
            add(talk, said.text)
        if name == "mls_room_lost" and self.only is not None and talk is not None and talk.room is not None:
            self.ended.set()

    # --- lines -----------------------------------------------------------------------------------------

    def _add(self, talk: Talk, line: Line, *, unread: bool = False) -> None:
        talk.lines.append(line)
        if unread and not self.view.shows(talk):
            talk.unread += 1
        self.view.added(talk, line)
        if unread:
            self.view.changed(talk)

    def _note(self, talk: Talk, text: str, *, unread: bool = False) -> None:
        self._add(talk, Line(displayable(text)), unread=unread)

    def warn(self, talk: Talk, text: str) -> None:
        """Tell of something that should not be."""
        self._add(talk, Line(displayable(text), "warning"))

    def _everywhere(self, text: str, talk: Talk | None = None, *, warning: bool = False) -> None:
        """About no talk: shown in the one that somebody looks at."""
        shown = talk or next((each for each in self.talks.values() if self.view.shows(each)), None)
        shown = shown or next(iter(self.talks.values()), None)
        if shown is not None:
            self._add(shown, Line(displayable(text), "warning" if warning else "note"))
        else:
            self.view.told(displayable(text))


def _is_confirmed(sent: SentMessage) -> bool:
    return sent.confirmed.done() and not sent.confirmed.cancelled() and sent.confirmed.exception() is None
