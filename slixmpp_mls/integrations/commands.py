"""The commands that people type in a room or a conversation of two, the same in every program with a screen.

The messages that a command refers to are those of the session: ``/reply`` and ``/react`` mean the last message of
somebody else, or with ``-2`` the one before, and so on.  ``/save 3`` means the file with that number; a message's files
are numbered when the message is shown.
"""

from __future__ import annotations

import shlex
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import UsageError
from ..plugin import MLS
from ..rooms.encrypted_message import EncryptedMessage
from ..rooms.encrypted_room import EncryptedRoom, SentMessage
from ..rooms.files import File
from ..runtime.login import bare_jid
from ..stanza.display import displayable
from .notices import outage_in_words

__all__ = ["HELP", "Result", "RoomCommands", "Session", "quoted"]

HELP: Final = """\
/members           who is here, with the fingerprints of their keys and how far you trust them
/verify JID KEY    KEY is theirs: the fingerprint or xmpp: URI that their own device shows
/distrust JID KEY  do not believe in this key any more
/me                your own fingerprint and QR code, for others to compare
/reply TEXT        answer the last message; /reply -2 TEXT the one before it
/react EMOJI ...   react to the last message; without EMOJI, take the reactions back
/correct TEXT      replace your last message
/retract           take your last message back
/file PATH [TEXT]  send a file, with a text about it
/save N [PATH]     fetch the file with this number
/add JID ...       let people in
/remove JID ...    remove people
/update            renew your keys
/leave             leave the room for good"""

_KEPT: Final = 100  # messages of each room, and files


def quoted(text: str, most: int = 60) -> str:
    """The beginning of a text, in one line, by which a reader recognises it."""
    line = displayable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}\u2026"


@dataclass(slots=True)
class Result:
    """What a command has to say.

    :ivar text: lines; empty if others show its effect
    :ivar warning: whether it is about something that has gone wrong
    :ivar sent: the message that it has sent
    :ivar shown: what we have said by that, as it is shown to ourselves
    :ivar left: whether we have left the room for good
    :ivar own_code: whether the code of our own keys is to be shown
    """

    text: str = ""
    warning: bool = False
    sent: SentMessage | None = None
    shown: str = ""
    left: bool = False
    own_code: bool = False


@dataclass(slots=True)
class Session:
    """What has been said in one room since the program runs.

    :ivar received: messages of others, the last one at the end
    :ivar sent: our own last message
    """

    received: deque[EncryptedMessage] = field(default_factory=lambda: deque(maxlen=_KEPT))
    texts: OrderedDict[str, str] = field(default_factory=OrderedDict)
    sent: SentMessage | None = None

    def received_one(self, message: EncryptedMessage) -> None:
        """Remember a message that is shown."""
        self.received.append(message)
        self.said(message.origin_id, message.body)

    def sent_one(self, sent: SentMessage, text: str) -> None:
        """Remember a message of ours."""
        self.sent = sent
        self.said(sent.origin_id, text)

    def said(self, identifier: str, text: str) -> None:
        """Remember what a message says, for quotations."""
        self.texts[identifier] = text
        while len(self.texts) > 4 * _KEPT:
            self.texts.popitem(last=False)


class RoomCommands:
    """Runs commands, for all rooms of a client.

    :param folder: where fetched files go if no path is given
    :param prefix: what people type before the name of a command
    """

    def __init__(self, mls: MLS, folder: Path, prefix: str = "/") -> None:
        self._mls = mls
        self._folder = folder
        self._prefix = prefix
        self._sessions: dict[str, Session] = {}
        self._files: OrderedDict[int, File] = OrderedDict()
        self._numbered = 0

    def session(self, room: str) -> Session:
        """The session of a room (bare JID)."""
        return self._sessions.setdefault(room, Session())

    def text_of(self, message: EncryptedMessage) -> str:
        """A message as it is shown: what it answers, its text, and its files with their numbers; it is remembered."""
        session = self.session(message.room.jid)
        lines = []
        if message.reply_to is not None:
            lines.append(f"\u21a9 {quoted(session.texts.get(message.reply_to.id, '') or 'an earlier message')}")
        if message.body:
            lines.append(displayable(message.body))
        lines += [self._number(file) for file in message.files]
        session.received_one(message)
        return "\n".join(lines)

    def _number(self, file: File) -> str:
        self._numbered += 1
        self._files[self._numbered] = file
        while len(self._files) > _KEPT:
            self._files.popitem(last=False)
        about = f"{displayable(file.media_type or 'file')}, {file.size:,} octets"
        return f"[{self._numbered}] {file.name or 'without a name'} ({about}): /save {self._numbered}"

    async def run(self, room: EncryptedRoom, name: str, rest: str = "") -> Result:
        """Run a command.

        :param name: without its slash
        :param rest: the rest of the line
        :raises UsageError: no such command, or an argument is missing or wrong
        :raises MLSError: it has failed
        :raises OSError: a file cannot be read or written
        """
        command = _COMMANDS.get(name)
        if command is None:
            raise UsageError(f"{self._prefix}{displayable(name)}: no such command; try {self._prefix}help")
        return await command(self, room, rest.strip())

    def _misused(self, question: str, usage: str) -> UsageError:
        return UsageError(f"{question} {self._prefix}{usage}")

    def _two(self, rest: str, usage: str) -> tuple[str, str]:
        account, _, key = rest.partition(" ")
        if not key.strip():
            raise self._misused("whose key, and which?", usage)
        return account, key.strip()

    # --- people ----------------------------------------------------------------------------------

    async def _members(self, room: EncryptedRoom, rest: str) -> Result:
        lines = [displayable(outage_in_words(room.outage))] if room.outage is not None else []
        lines += [f"{member}  {member.level}\n  {member.fingerprint}" for member in room.members]
        return Result("\n".join(lines))

    async def _verify(self, room: EncryptedRoom, rest: str) -> Result:
        account, key = self._two(rest, "verify JID KEY")
        await self._mls.trust.verify(bare_jid(account), key)
        return Result()  # an event reports it

    async def _distrust(self, room: EncryptedRoom, rest: str) -> Result:
        account, key = self._two(rest, "distrust JID KEY")
        await self._mls.trust.distrust(bare_jid(account), key)
        return Result()

    async def _me(self, room: EncryptedRoom, rest: str) -> Result:
        return Result(f"{self._mls.fingerprint}\n{self._mls.trust.uri()}", own_code=True)

    async def _add(self, room: EncryptedRoom, rest: str) -> Result:
        if not rest:
            raise self._misused("whom?", "add JID ...")
        result = await room.add(*rest.split())
        failed = (result.failed | result.skipped).items()
        return Result("\n".join(f"{who} could not be added: {why}" for who, why in failed), warning=True)

    async def _remove(self, room: EncryptedRoom, rest: str) -> Result:
        if not rest:
            raise self._misused("whom?", "remove JID ...")
        failed = (await room.remove(*rest.split())).failed.items()
        return Result("\n".join(f"{who} was not removed: {why}" for who, why in failed), warning=True)

    async def _update(self, room: EncryptedRoom, rest: str) -> Result:
        await room.update()
        return Result()

    async def _leave(self, room: EncryptedRoom, rest: str) -> Result:
        await room.leave()
        return Result(f"You have left {room.jid}.", left=True)

    # --- messages ----------------------------------------------------------------------------------

    def _message(self, room: EncryptedRoom, rest: str) -> tuple[EncryptedMessage, str]:
        """The message that is meant, and the rest of the line.

        :raises UsageError: there is no such message
        """
        first, _, others = rest.partition(" ")
        number = 1
        if first.startswith("-") and first[1:].isdecimal():
            number, rest = int(first[1:]), others.strip()
        received = self.session(room.jid).received
        if not 0 < number <= len(received):
            raise UsageError("no such message in this session" if received else "nobody has said anything yet")
        return received[-number], rest

    async def _reply(self, room: EncryptedRoom, rest: str) -> Result:
        message, text = self._message(room, rest)
        if not text:
            raise self._misused("what?", "reply TEXT")
        sent = await message.reply(text)
        self.session(room.jid).sent_one(sent, text)
        return Result(sent=sent, shown=f"\u21a9 {quoted(message.body)}\n{displayable(text)}")

    async def _react(self, room: EncryptedRoom, rest: str) -> Result:
        message, emojis = self._message(room, rest)
        sent = await message.react(*emojis.split())
        about = quoted(message.body or "a file", 30)
        return Result(f"You: {displayable(emojis) or 'no reaction any more'} to \u201c{about}\u201d", sent=sent)

    async def _correct(self, room: EncryptedRoom, rest: str) -> Result:
        session = self.session(room.jid)
        if session.sent is None or not rest:
            raise UsageError("there is nothing to correct") if rest else self._misused("what?", "correct TEXT")
        await room.correct(session.sent, rest)
        session.said(session.sent.origin_id, rest)
        return Result(f"Corrected: {displayable(rest)}")

    async def _retract(self, room: EncryptedRoom, rest: str) -> Result:
        session = self.session(room.jid)
        if session.sent is None:
            raise UsageError("there is nothing to take back")
        await room.retract(session.sent)
        session.sent = None
        return Result("Taken back; others may have read it, and may keep it.")

    # --- files ---------------------------------------------------------------------------------------

    async def _file(self, room: EncryptedRoom, rest: str) -> Result:
        words = _words(rest)
        if not words:
            raise self._misused("which file?", "file PATH [TEXT]")
        path, caption = _path(words[0]), " ".join(words[1:])
        sent = await room.send_file(path, caption=caption or None)
        self.session(room.jid).sent_one(sent, caption)
        return Result(sent=sent, shown="\n".join(filter(None, (displayable(caption), f"[file] {path.name}"))))

    async def _save(self, room: EncryptedRoom, rest: str) -> Result:
        words = _words(rest)
        if not words or not words[0].isdecimal() or len(words) > 2:
            raise self._misused("which file?", "save N [PATH]")
        file = self._files.get(int(words[0]))
        if file is None:
            raise UsageError(f"there is no file {words[0]} in this session: each has its number beside it")
        path = await file.save(_path(words[1]) if len(words) == 2 else self._folder)
        return Result(f"Saved as {displayable(str(path))}")


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _words(rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError as error:
        raise UsageError(f"{error}: a path with a quotation mark in it needs another kind around it") from None


_COMMANDS: Final[dict[str, Callable[[RoomCommands, EncryptedRoom, str], Awaitable[Result]]]] = {
    "members": RoomCommands._members,
    "verify": RoomCommands._verify,
    "distrust": RoomCommands._distrust,
    "me": RoomCommands._me,
    "add": RoomCommands._add,
    "remove": RoomCommands._remove,
    "update": RoomCommands._update,
    "leave": RoomCommands._leave,
    "reply": RoomCommands._reply,
    "react": RoomCommands._react,
    "correct": RoomCommands._correct,
    "retract": RoomCommands._retract,
    "file": RoomCommands._file,
    "save": RoomCommands._save,
}
