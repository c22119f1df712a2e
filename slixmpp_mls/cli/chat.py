"""``slixmpp-mls chat``: an encrypted room in a terminal.

Lines come from standard input: a terminal (with its own line editing), a pipe or a file.  Other people's text is shown
without control characters, and each line under its author's name, so that nobody can draw on the screen or imitate
others.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from slixmpp import ClientXMPP

from ..authentication import TrustChanged
from ..client import GroupChanged, Joined, Member, Rejected, RemovedFromGroup, Unreadable
from ..errors import DeliveryError, MLSError, UsageError
from ..plugin import MLS
from ..rooms.encrypted_room import EncryptedMessage, EncryptedRoom
from ..store import StoreSecret
from .login import CA, Host, Login, Password, Port, StoreOption, bare_jid, session, split_account
from .store import KeyFile, secret_if_needed
from .terminal import clean, colour_of, console, run, waiting
from .trust import STYLES

__all__ = ["chat"]

COMMANDS = """\
/members           who is here, with the fingerprints of their keys and how far you trust them
/verify JID KEY    KEY is theirs: the fingerprint or xmpp: URI that their own device shows
/distrust JID KEY  do not believe in this key any more
/me                your own fingerprint and QR code, for others to compare
/add JID ...       let people in
/remove JID ...    remove people
/update            renew your keys
/leave             leave the room for good
/quit              end; the room stays in the store"""
CONFIRMATION = 30.0  # seconds until the room must reflect a sent message


def chat(
    addresses: Annotated[
        list[str], typer.Argument(metavar="[JID] ROOM", help="Your account, if XMPP_JID does not name it; the room.")
    ],
    create: Annotated[bool, typer.Option("--create", help="Create the room.")] = False,
    add: Annotated[list[str] | None, typer.Option(metavar="JID", help="Add this account; may be repeated.")] = None,
    store: StoreOption = None,
    key_file: KeyFile = None,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """Talk in an encrypted room. Type a line to send it, /help for commands.

    Without --create, it waits until a member of the room adds you.

    Example: `slixmpp-mls chat alice@example.org coven@rooms.example.org --create --add bob@example.org`
    """
    account, (room,) = split_account(addresses, 1)
    people = [bare_jid(one) for one in add or ()]
    login = Login.load(account, password=password, host=host, port=port, ca=ca, store=store, key_file=key_file)
    login.make_folder()
    run(_Chat(bare_jid(room), login.store, secret_if_needed(login.store, login.key_file)).run(login, create, people))


class _Chat:
    def __init__(self, room: str, store: Path, secret: StoreSecret | None) -> None:
        self.room = room
        self.store = store
        self.secret = secret
        self.mls: MLS
        self.ended = asyncio.Event()
        self.joined = asyncio.Event()

    async def run(self, login: Login, create: bool, people: list[str]) -> None:
        async with session(login, self._prepare) as client:
            self.mls = client.plugin["mls"]  # type: ignore[typeddict-item]
            try:
                with waiting("Publishing keys"):
                    await self.mls.ready()
                self._note(f"This device's fingerprint: {self.mls.fingerprint}")
                group = await self._enter(create)
                if people:
                    await self._add(group, people)
                await self._converse(group)
            finally:
                client.plugin.disable("mls")  # type: ignore[attr-defined]

    def _prepare(self, client: ClientXMPP) -> None:
        client.register_plugin(
            "mls",
            {
                "store": str(self.store),
                "passphrase": self.secret,
                "label": "terminal",
                "accept_invitation": lambda invitation: str(invitation.room) == self.room,
            },
        )
        handlers: dict[str, Callable[[Any], None]] = {
            "mls_message": self._message,
            "mls_joined": self._was_added,
            "mls_group_changed": self._changed,
            "mls_removed": self._removed,
            "mls_rejected": self._rejected,
            "mls_trust_changed": self._trust_changed,
            "mls_new_key": lambda event: self._note(f"{event.client} is new: {event.fingerprint}"),
            "mls_key_changed": lambda event: self._warn(f"{event.client} has another key: {event.fingerprint}"),
            "mls_unreadable": self._unreadable,
            "mls_left_behind": lambda event: self._warn(f"{event.by} seems to be ahead of this device"),
            "mls_group_lost": lambda event: self._warn(f"this device cannot follow any more: {event.reason}"),
            "mls_room_lost": self._lost,
            "mls_interrupted": lambda event: self._warn(f"out of the room for now ({event.cause})"),
            "mls_entered": lambda event: self._note("back in the room") if event.again else None,
            "mls_retired": self._retired,
            "mls_store_failed": lambda error: self._warn(f"the store cannot be written: {error}"),
        }
        for name, handler in handlers.items():
            client.add_event_handler(name, handler)

    # --- entering ------------------------------------------------------------------------------

    async def _enter(self, create: bool) -> EncryptedRoom:
        known = self.mls.rooms.get(self.room)
        if known is not None and known.is_member:
            if create:
                self._note("The room exists already.")
            return known
        if create:
            return await self.mls.create(self.room)
        self._note(f"Waiting for somebody in {self.room} to add you ...")
        following = asyncio.create_task(self._follow())
        try:
            await self.joined.wait()  # by that, or after an invitation
        finally:
            following.cancel()
        return self.mls.room(self.room)

    async def _follow(self) -> None:
        try:
            await self.mls.join(self.room)
        except DeliveryError as error:
            self._note(f"The room does not let you in yet: {error}")
        else:
            self.joined.set()

    # --- talking -------------------------------------------------------------------------------

    async def _converse(self, group: EncryptedRoom) -> None:
        self._note(f"In {self.room} with {', '.join(group.accounts)}. /help lists the commands.")
        async for line in self._lines():
            words = line.split()
            if not words:
                continue
            if words[0] == "/quit":
                break
            try:
                if line.startswith("/") and not line.startswith("//"):
                    await self._command(group, words[0], words[1:])
                else:
                    await self._send(group, line.removeprefix("/") if line.startswith("//") else line)
            except (MLSError, typer.BadParameter) as error:
                self._warn(str(error))
            except TimeoutError:
                self._warn("The room has not confirmed that yet; it is sent again after a reconnection.")
            if self.ended.is_set():
                break

    async def _send(self, group: EncryptedRoom, line: str) -> None:
        sent = await group.send(line)
        async with asyncio.timeout(CONFIRMATION):
            await sent.confirmed

    async def _command(self, group: EncryptedRoom, name: str, arguments: list[str]) -> None:
        match name:
            case "/members":
                for member in group.members:
                    level = (str(member.level), STYLES.get(member.level, ""))
                    who = Text.assemble(_account(member), f"/{member.device}  ", level)
                    self._say(Text.assemble(who, f"\n  {member.fingerprint}"))
            case "/verify" if len(arguments) > 1:  # an event reports the result
                await self.mls.trust.verify(bare_jid(arguments[0]), " ".join(arguments[1:]))
            case "/distrust" if len(arguments) > 1:
                await self.mls.trust.distrust(bare_jid(arguments[0]), " ".join(arguments[1:]))
            case "/me":
                self._note(self.mls.fingerprint)
                self._note(self.mls.trust.uri())
                if console.is_terminal:
                    self.mls.trust.qr().terminal(compact=True)
            case "/add" if arguments:
                await self._add(group, [bare_jid(one) for one in arguments])
            case "/remove" if arguments:
                if not await group.remove(*arguments):
                    self._warn("none of them is in the group")
            case "/update":
                await group.update()
            case "/leave":
                self._note("Leaving: another member has to confirm it ...")
                await group.leave()
                self.ended.set()
            case "/help":
                self._note(COMMANDS)
            case _:
                raise UsageError(f"{name}: no such command, or an argument is missing; try /help")

    async def _add(self, group: EncryptedRoom, people: list[str]) -> None:
        result = await group.add(*people)
        for who, reason in (result.failed | result.skipped).items():
            self._warn(f"{who} could not be added: {reason}")

    async def _lines(self) -> AsyncIterator[str]:
        """Lines of standard input, until its end or ours."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            # Not sys.stdin: a thread that waits in there keeps the interpreter from ending.
            rest = b""
            while chunk := os.read(sys.stdin.fileno(), 1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    loop.call_soon_threadsafe(queue.put_nowait, line.decode(errors="replace"))
            if rest:
                loop.call_soon_threadsafe(queue.put_nowait, rest.decode(errors="replace"))
            loop.call_soon_threadsafe(queue.put_nowait, None)

        threading.Thread(target=read, daemon=True).start()
        ended = asyncio.create_task(self.ended.wait())
        try:
            while True:
                next_line = asyncio.create_task(queue.get())
                await asyncio.wait({next_line, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not next_line.done() or (line := next_line.result()) is None:
                    next_line.cancel()
                    return
                yield line
        finally:
            ended.cancel()

    # --- what happens --------------------------------------------------------------------------

    def _message(self, message: EncryptedMessage) -> None:
        if message.room.jid != self.room or not message.body:
            return
        sent = message.sent or datetime.now().astimezone()
        head = Text.assemble((f"{sent.astimezone():%H:%M} ", "dim"), _name(message.sender), " ")
        for line in clean(message.body).split("\n"):
            self._say(Text.assemble(head, line))
        for warning in message.warnings:
            self._warn(f"about this message: {warning}")

    def _was_added(self, event: Joined) -> None:
        if event.room == self.room:
            self.joined.set()

    def _unreadable(self, event: Unreadable) -> None:
        if event.reason != "before-join":  # those were not meant for us
            self._warn(f"a message of {event.claimed} cannot be read: {event.reason}")

    def _changed(self, event: GroupChanged) -> None:
        if event.room != self.room:
            return
        parts = [f"{member.account} came" for member in event.added] + [f"{one.account} went" for one in event.removed]
        parts += ["the rules were changed"] if event.policy_changed else []
        self._note(f"{', '.join(parts) or 'new keys'} (by {event.by.account}; epoch {event.epoch})")

    def _trust_changed(self, event: TrustChanged) -> None:
        self._note(f"{event.account}/{event.key.device or '?'} is {event.level}: {event.key.fingerprint}")

    def _removed(self, event: RemovedFromGroup) -> None:
        if event.room == self.room:
            if not event.wanted:
                self._warn(f"You were removed by {event.by.account if event.by else 'nobody'}.")
            self.ended.set()

    def _rejected(self, event: Rejected) -> None:
        self._warn(f"something in the name of {event.claimed} was refused: {event.error}")

    def _lost(self, error: Exception) -> None:
        self._warn(str(error))
        if self.joined.is_set():
            self.ended.set()

    def _retired(self, _: object) -> None:
        self._warn("your account has retired this device; a new store makes a new one")
        self.ended.set()

    # --- the screen ----------------------------------------------------------------------------

    def _say(self, text: Text) -> None:
        console.print(text, soft_wrap=True)

    def _note(self, text: str) -> None:
        self._say(Text(clean(text), style="dim"))

    def _warn(self, text: str) -> None:
        self._say(Text(clean(text), style="yellow"))


def _name(member: Member) -> Text:
    """The account, and the first digits of the key's fingerprint."""
    return Text.assemble(_account(member), (f" {member.fingerprint[:8]}", "dim"))


def _account(member: Member) -> Text:
    return Text(member.account, style=f"bold {colour_of(member.account)}")
