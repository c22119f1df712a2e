"""The commands that people type."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slixmpp_mls.errors import UsageError
from slixmpp_mls.identity import TrustLevel
from slixmpp_mls.integrations.commands import HELP, RoomCommands, quoted
from slixmpp_mls.rooms.engine.outage import Outage

ROOM = "coven@rooms.example"


class Message:
    """A message of bob's that notes what is answered to it."""

    def __init__(self, body: str, number: int, *, files: tuple[Any, ...] = (), reply_to: Any = None) -> None:
        self.room: Any = SimpleNamespace(jid=ROOM)
        self.body, self.origin_id, self.files, self.reply_to = body, f"m{number}", files, reply_to
        self.answers: list[Any] = []

    async def reply(self, text: str) -> Any:
        self.answers.append(text)
        return SimpleNamespace(origin_id="r1")

    async def react(self, *emojis: str) -> Any:
        self.answers.append(emojis)
        return SimpleNamespace(origin_id="r2")


class Room:
    """A room that notes what is asked of it."""

    jid = ROOM
    outage: Outage | None = None

    def __init__(self) -> None:
        self.done: list[Any] = []

    @property
    def members(self) -> list[Any]:
        class Bob:
            level, fingerprint = TrustLevel.TRUSTED, "01234567 89abcdef"

            def __str__(self) -> str:
                return "bob@example/b1"

        return [Bob()]

    async def add(self, *accounts: str) -> Any:
        return SimpleNamespace(failed={"nobody@example": "no MLS"}, skipped={})

    async def remove(self, *accounts: str) -> Any:
        return SimpleNamespace(failed={account: "not in the group" for account in accounts})

    async def correct(self, sent: Any, text: str) -> None:
        self.done.append((sent.origin_id, text))

    async def retract(self, sent: Any) -> None:
        self.done.append(sent.origin_id)

    async def send_file(self, path: Path, caption: str | None) -> Any:
        self.done.append((path, caption))
        return SimpleNamespace(origin_id="f1")


def commands(folder: Path = Path()) -> RoomCommands:
    mls: Any = SimpleNamespace(fingerprint="f", trust=SimpleNamespace(uri=lambda: "xmpp:me"))
    return RoomCommands(mls, folder)


async def test_every_command_in_the_help_exists_and_the_reverse() -> None:
    named = {line.split()[0][1:] for line in HELP.splitlines()}
    from slixmpp_mls.integrations.commands import _COMMANDS

    assert named == set(_COMMANDS)


async def test_answers_are_to_the_message_that_is_meant() -> None:
    every, room = commands(), Room()
    first, second = Message("Fair is foul", 1), Message("and foul is fair", 2)
    for message in (first, second):
        every.text_of(message)  # type: ignore[arg-type]
    result = await every.run(room, "reply", "-2 indeed")  # type: ignore[arg-type]
    assert first.answers == ["indeed"]
    assert "Fair is foul" in result.shown
    await every.run(room, "react", "\u2602 \U0001f9d9")  # type: ignore[arg-type]
    assert second.answers == [("\u2602", "\U0001f9d9")]
    await every.run(room, "react", "")  # type: ignore[arg-type]
    assert second.answers[-1] == ()
    for wrong in ("-3 x", "-0 x"):
        with pytest.raises(UsageError, match="no such message"):
            await every.run(room, "reply", wrong)  # type: ignore[arg-type]
    answer = Message("so be it", 3, reply_to=SimpleNamespace(id="m1"))
    assert every.text_of(answer) == "\u21a9 Fair is foul\nso be it"  # type: ignore[arg-type]
    stranger = Message("and so on", 4, reply_to=SimpleNamespace(id="unknown"))
    assert every.text_of(stranger).startswith("\u21a9 an earlier message")  # type: ignore[arg-type]


async def test_our_own_last_message_is_corrected_or_taken_back() -> None:
    every, room = commands(), Room()
    with pytest.raises(UsageError, match="nothing to correct"):
        await every.run(room, "correct", "x")  # type: ignore[arg-type]
    every.session(ROOM).sent_one(SimpleNamespace(origin_id="s1"), "Fair is fowl")  # type: ignore[arg-type]
    await every.run(room, "correct", "Fair is foul")  # type: ignore[arg-type]
    await every.run(room, "retract")  # type: ignore[arg-type]
    assert room.done == [("s1", "Fair is foul"), "s1"]
    with pytest.raises(UsageError, match="nothing to take back"):
        await every.run(room, "retract")  # type: ignore[arg-type]


async def test_files_have_numbers() -> None:
    saved: list[Path] = []

    async def save(path: Path) -> Path:
        saved.append(path)
        return path / "cauldron.png"

    every, room = commands(Path("/downloads")), Room()
    file = SimpleNamespace(name="cauldron.png", media_type="image/png", size=1234, save=save)
    text = every.text_of(Message("", 1, files=(file,)))  # type: ignore[arg-type]
    assert text == "[1] cauldron.png (image/png, 1,234 octets): /save 1"
    result = await every.run(room, "save", "1")  # type: ignore[arg-type]
    assert (saved, result.text) == ([Path("/downloads")], "Saved as /downloads/cauldron.png")
    await every.run(room, "save", "1 '/some where'")  # type: ignore[arg-type]
    assert saved[-1] == Path("/some where")
    for wrong in ("", "2", "x", "1 a b"):
        with pytest.raises(UsageError):
            await every.run(room, "save", wrong)  # type: ignore[arg-type]
    await every.run(room, "file", "'my cauldron.png' the  cauldron")  # type: ignore[arg-type]
    assert room.done == [(Path("my cauldron.png"), "the cauldron")]
    with pytest.raises(UsageError, match="quotation"):
        await every.run(room, "file", "'my cauldron.png")  # type: ignore[arg-type]


async def test_people() -> None:
    every, room = commands(), Room()
    shown = await every.run(room, "members")  # type: ignore[arg-type]
    assert shown.text == "bob@example/b1  trusted\n  01234567 89abcdef"
    room.outage = Outage(ROOM, "banned", "", 1_800_000_000, None)
    line, *others = (await every.run(room, "members")).text.splitlines()  # type: ignore[arg-type]
    assert line.endswith("(banned)")
    assert "\n".join(others) == shown.text
    added = await every.run(room, "add", "nobody@example")  # type: ignore[arg-type]
    assert (added.text, added.warning) == ("nobody@example could not be added: no MLS", True)
    removed = await every.run(room, "remove", "bob@example")  # type: ignore[arg-type]
    assert (removed.text, removed.warning) == ("bob@example was not removed: not in the group", True)
    assert (await every.run(room, "me")).own_code  # type: ignore[arg-type]
    for name, rest in (("add", ""), ("remove", ""), ("verify", "bob@example"), ("distrust", ""), ("nonsense", "")):
        with pytest.raises(UsageError):
            await every.run(room, name, rest)  # type: ignore[arg-type]


def test_quotations_are_short_and_in_one_line() -> None:
    assert quoted("Fair\nis  foul") == "Fair is foul"
    assert quoted("x" * 100, 10) == "x" * 9 + "\u2026"
