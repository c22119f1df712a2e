"""``slixmpp-mls send``: sends messages from scripts, for example from a crontab.

An accepted message is encrypted and stored before it is sent.  If the room does not confirm it in time, the next call
sends it, so the caller must not repeat it.  The exit code distinguishes these cases.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..errors import DeliveryError, LoginFailed, MLSError, StoreError, StoreLocked, UsageError
from ..integrations.notices import outage_in_words
from ..plugin import MLS
from ..rooms.encrypted_room import EncryptedRoom, SentMessage
from ..runtime.connection import connected, exit_code
from ..runtime.login import Login
from ..stanza.display import displayable
from ..store import SQLiteStore
from .login import CA, AsAccount, Host, Password, Port, StoreOption, ask, bare_jid
from .store import KeyFile, secret_if_needed
from .terminal import errors, run

__all__ = ["pieces", "readable", "send"]

NOT_SENT = 69
KEPT = 75
MOST_INPUT = 1 << 22  # octets of text; more is a file
MOST_PIECES = 100
PIECE = 30_000
"""Octets of text in one message: five times as many if all has to be escaped, and a third more in base64."""
_LOOKING = 0.2  # seconds between two looks at a store that somebody else has open
# ECMA-48: control sequences for colours are not text.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def send(
    room: Annotated[str, typer.Argument(metavar="ROOM_OR_ACCOUNT", help="The address of a room or of a person.")],
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="The message (default: standard input).", show_default=False),
    ] = None,
    lines: Annotated[
        bool, typer.Option("--lines", help="Send each line of the input as a message, as soon as it arrives.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Send this file; TEXT is its caption.")
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Create the room if this device does not know it.")] = False,
    add: Annotated[list[str] | None, typer.Option(metavar="JID", help="Add this account; may be repeated.")] = None,
    timeout: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds for the whole command.")] = 60.0,
    jid: AsAccount = None,
    store: StoreOption = None,
    key_file: KeyFile = None,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """Send a message to an encrypted room.

    The whole input is one message, or several if it is too long for one. Empty input is no error: a job without output
    sends nothing. Account, password and store may be set in `~/.config/slixmpp-mls/config.toml`.

    Exit codes:

    - 0: everything is in the room's archive; every member gets it, now or later
    - 75: the message is encrypted and stored, but was not confirmed in time; the next call sends it: do not repeat it
    - 69: not everything was sent: the server or the room does not answer, or refuses
    - 77: the server refuses the password. 78: a setting is wrong. 74: the store failed, or another program has it open

    Example: `slixmpp-mls send alice@example.org "The backup is done"`

    Example: `slixmpp-mls send builds@rooms.example.org "Build 42 failed" --create --add alice@example.org`

    Example: `0 7 * * * df -h | slixmpp-mls send ops@rooms.example.org --timeout 300`

    Example: `slixmpp-mls send ops@rooms.example.org "Load of last week" --file load.png`

    Example: `tail -f errors.log | slixmpp-mls send ops@rooms.example.org --lines --timeout 86400`
    """
    try:
        login = Login.load(jid, password=password, host=host, port=port, ca=ca, store=store, key_file=key_file)
    except UsageError as error:
        errors.print(Text(f"slixmpp-mls send: {error}", "red"), soft_wrap=True)
        raise typer.Exit(exit_code(error)) from None
    people = [bare_jid(one) for one in add or ()]
    job = _Job(bare_jid(room), login, create, people, timeout)
    if lines:
        if text is not None or file is not None:
            raise typer.BadParameter("--lines is for standard input, without TEXT and --file")
        job.lines()
    elif file is not None:
        job.file = file
        job.messages = [readable(text or "")]  # standard input is not read: cron's is no caption
    else:
        given = _input() if text is None else text
        job.messages = list(pieces(readable(given)))
        if not job.messages:
            return  # a job without output
    code = 0

    async def work() -> None:
        nonlocal code
        code = await job.run()

    run(work())
    if code:
        raise typer.Exit(code)


def readable(text: str) -> str:
    """Text as a message holds it: no colours of terminals, no controls."""
    return _CONTROLS.sub("\ufffd", _SEQUENCES.sub("", text).replace("\r\n", "\n")).strip("\n")


def pieces(text: str, most: int = PIECE) -> Iterator[str]:
    """Text in messages that fit into stanzas, divided between lines where that is possible.

    :param most: octets of each
    :raises UsageError: it would be too many
    """
    if not text.strip():
        return
    count, rest = 0, text
    while rest:
        head = rest.encode()[:most].decode(errors="ignore")
        if len(head) < len(rest) and "\n" in head:
            head = head[: head.rindex("\n")] or head[:1]
        rest = rest[len(head) :].removeprefix("\n")
        if head.strip():
            count += 1
            if count > MOST_PIECES:
                raise UsageError(f"more than {MOST_PIECES} messages of {most} octets: use --file")
            yield head


def _input() -> str:
    octets = sys.stdin.buffer.read(MOST_INPUT + 1)
    if len(octets) > MOST_INPUT:
        raise UsageError(f"more than {MOST_INPUT} octets of text: use --file")
    return octets.decode(errors="replace")


def _is_there(sent: SentMessage) -> bool:
    """Whether it is in the room's archive.

    :raises DeliveryError: the room has refused it
    """
    return sent.confirmed.done() and bool(sent.confirmed.result())


class _Job:
    """One call."""

    def __init__(self, room: str, login: Login, create: bool, people: list[str], seconds: float) -> None:
        self.messages: list[str] = []
        self.file: Path | None = None
        self._reading = False
        self._room = room
        self._login = login
        self._create = create
        self._people = people
        self._seconds = seconds
        self._accepted = 0
        self._read_all = False
        self._unconfirmed: list[SentMessage] = []

    def lines(self) -> None:
        """Take the messages from standard input, as they come."""
        self._reading = True

    async def run(self) -> int:
        """The exit code."""
        ends = asyncio.get_running_loop().time() + self._seconds
        doing = "logging in"
        room: EncryptedRoom | None = None
        try:
            store = await self._open_store(ends)
            try:
                async with asyncio.timeout_at(ends):
                    bot = self._login.bot(ask=ask, store=store, label="slixmpp-mls send", key_file=None)
                    async with connected(bot):
                        doing = f"coming into {self._room}"
                        room = await self._enter(MLS.of(bot))
                        doing = "sending"
                        await self._send(room)
                        doing = "waiting for the room's confirmation"
                        for sent in self._unconfirmed:
                            await sent.confirmed
            finally:
                store.close()
        except TimeoutError:
            outage = None if room is None else room.outage
            why = "" if outage is None else f": {displayable(outage_in_words(outage))}"
            return self._unfinished(f"not done after {self._seconds:g} seconds of {doing}{why}")
        except (LoginFailed, UsageError, StoreError) as error:
            code = exit_code(error)
            return self._unfinished(str(error), NOT_SENT if code == os.EX_TEMPFAIL else code)
        except (DeliveryError, MLSError) as error:
            return self._unfinished(str(error))
        return 0

    async def _send(self, room: EncryptedRoom) -> None:
        if self.file is not None:
            self._unconfirmed.append(await room.send_file(self.file, caption=self.messages[0] or None))
            self._accepted, self._read_all = 1, True
            return
        async for message in self._messages():
            for piece in pieces(readable(message)):
                sent = await room.send(piece)
                self._accepted += 1
                # A refusal raises here; what is confirmed need not be remembered.
                self._unconfirmed = [each for each in self._unconfirmed if not _is_there(each)]
                self._unconfirmed.append(sent)
        self._read_all = True

    def _unfinished(self, problem: str, code: int = NOT_SENT) -> int:
        waiting = [one for one in self._unconfirmed if not one.confirmed.done() or one.confirmed.cancelled()]
        refused = [one for one in self._unconfirmed if one not in waiting and one.confirmed.exception()]
        whole = self._accepted and (self._read_all or self._reading) and not refused
        if whole and not waiting:
            return 0  # the time is over, and nothing is left to wait for but more input
        errors.print(Text(f"slixmpp-mls send: {problem}", "red"), soft_wrap=True)
        if whole:
            errors.print(Text("It is stored, and sent with the next call: do not repeat it."), soft_wrap=True)
            return KEPT
        if self._accepted:
            errors.print(Text(f"{self._accepted - len(refused)} messages are stored or sent, the others are not."))
        return code

    async def _open_store(self, ends: float) -> SQLiteStore:
        """Open the store; wait until another call closes it.

        :raises StoreLocked: it is not, in time
        """
        login = self._login
        login.make_folder()
        secret = secret_if_needed(login.store, login.key_file)
        while True:
            try:
                return SQLiteStore(login.store, login.jid, secret=secret)
            except StoreLocked:
                if asyncio.get_running_loop().time() + _LOOKING > ends:
                    raise
                await asyncio.sleep(_LOOKING)

    async def _enter(self, mls: MLS) -> EncryptedRoom:
        """The room, with us and those in it who should be.

        :raises DeliveryError: the room does not let us in
        """
        room = mls.rooms.get(self._room) or mls.conversations.get(self._room)
        if room is None and self._create:
            room = await mls.create(self._room)
        if room is None and not await mls.is_room(self._room):
            if self._people:
                raise UsageError(f"{self._room} is no room: nobody can be added to a conversation of two")
            return await mls.conversation(self._room)
        if room is not None and room.lost is not None and room.lost.gone:
            raise room.lost
        if room is None or not room.is_member:
            await mls.join(self._room)
            room = mls.room(self._room)
        missing = [account for account in self._people if account not in room.accounts]
        if missing:
            result = await room.add(*missing)
            for account, reason in result.failed.items():  # the others are in all the same
                errors.print(Text(f"{account} could not be added: {reason}", "yellow"), soft_wrap=True)
        return room

    async def _messages(self) -> AsyncIterator[str]:
        for message in self.messages:
            yield message
        while self._reading and (line := await asyncio.to_thread(sys.stdin.buffer.readline, MOST_INPUT)):
            yield line.decode(errors="replace")
