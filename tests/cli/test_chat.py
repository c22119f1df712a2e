"""The windows of `chat`: driven by Textual's pilot, and once in a real terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from slixmpp import JID, ClientXMPP
from textual.events import Key, Paste
from textual.pilot import Pilot
from textual.widgets import OptionList, RichLog, Static

from slixmpp_mls.account.trust import qr_code
from slixmpp_mls.cli.chat import model
from slixmpp_mls.cli.chat.model import Chat, Talk
from slixmpp_mls.cli.chat.window import Entry, Window
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import NobodyReachable, NotPermitted
from slixmpp_mls.identity import TrustLevel
from slixmpp_mls.integrations.commands import RoomCommands
from slixmpp_mls.rooms.engine.outage import Outage
from slixmpp_mls.rooms.rich import Typing

from ..conftest import unique
from ..programs import COMMAND, login
from ..terminal import SECONDS, terminal
from ..test_examples import Person

Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


class FakeRoom:
    """What a chat asks of a room."""

    own_account = "alice@example"
    is_member = True
    epoch = 7
    outage: Outage | None = None

    def __init__(self, jid: str, partner: str | None = None) -> None:
        self.jid, self.partner = jid, partner
        self.group = SimpleNamespace(is_member=True)
        self.sent: list[str] = []
        self.typed: list[bool] = []
        self.confirmed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def typing(self, active: bool) -> bool:
        self.typed.append(active)
        return True

    @property
    def members(self) -> list[Any]:
        fingerprints = ("01234567 89abcdef", "fedcba98 76543210")
        return [
            SimpleNamespace(account=account, device="d1", level=TrustLevel.VERIFIED, fingerprint=fingerprint)
            for account, fingerprint in zip(("bob@example", "alice@example"), fingerprints, strict=True)
        ]

    async def send(self, text: str) -> Any:
        self.sent.append(text)
        return SimpleNamespace(origin_id=f"sent-{len(self.sent)}", confirmed=self.confirmed)


def message(room: FakeRoom, body: str, number: int = 0) -> Any:
    """A message of bob's."""
    sender = SimpleNamespace(account="bob@example", fingerprint="0123456789", signature_key=b"")
    return SimpleNamespace(
        room=room, sender=sender, body=body, reply_to=None, files=(), origin_id=f"m{number}", sent=None, own=False,
        warnings=(), doubt=None,
    )  # fmt: skip


def chat_with(*rooms: FakeRoom, only: str | None = None) -> Chat:
    """A chat whose plugin has these rooms."""
    chat = Chat(only)
    mls: Any = SimpleNamespace(
        rooms={room.jid: room for room in rooms},
        conversations={},
        invitations=[],
        fingerprint="fedcba98 76543210",
    )
    chat.mls = mls
    chat._commands = RoomCommands(mls, Path())
    return chat


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Wait for something on the screen, or behind it: a busy machine draws late."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await pilot.pause(0.02)


def said(window: Window, address: str) -> str:
    """What is on a talk's pane."""
    return "\n".join(strip.text for strip in window.query(RichLog).nodes[list(window._logs).index(address)].lines)


async def test_what_nobody_has_seen_stays_in_the_store() -> None:
    """Its handler is done when somebody looks at the talk, and is cancelled at the end of the program."""
    coven, heath, moor = (
        FakeRoom("coven@rooms.example"),
        FakeRoom("heath@rooms.example"),
        FakeRoom("moor@rooms.example"),
    )
    chat = chat_with(coven, heath, moor)
    window = Window(chat)
    async with window.run_test(size=(120, 30)) as pilot:
        seen = asyncio.create_task(chat._message(message(coven, "Fair is foul")))
        unseen = asyncio.create_task(chat._message(message(heath, "and foul is fair", 1)))
        never = asyncio.create_task(chat._message(message(moor, "All hail", 2)))
        await until(pilot, lambda: [talk.unread for talk in chat.talks.values()] == [0, 1, 1])
        await until(pilot, seen.done)
        assert (unseen.done(), never.done()) == (False, False)
        options = window.query_one("#talks", OptionList)
        assert "(1)" in str(options.get_option_at_index(1).prompt)
        await pilot.press("ctrl+n")
        await until(pilot, unseen.done)
        assert chat.talks["heath@rooms.example"].unread == 0
        await until(pilot, lambda: "and foul is fair" in said(window, "heath@rooms.example"))
        await window.stop()
    window._tick()  # its timer may come once more, when nothing is left to draw on
    chat.close()
    with pytest.raises(asyncio.CancelledError):
        await never


async def test_a_chat_of_one_room_leaves_the_others_alone() -> None:
    coven, heath = FakeRoom("coven@rooms.example"), FakeRoom("heath@rooms.example")
    chat = chat_with(coven, heath, only=coven.jid)
    window = Window(chat)
    async with window.run_test() as pilot:
        other = asyncio.create_task(chat._message(message(heath, "for somebody else")))
        await pilot.pause(0.2)
        assert not other.done()
        assert list(chat.talks) == [coven.jid]
        other.cancel()
        await window.stop()


async def test_lines_are_edited_sent_and_remembered() -> None:
    coven = FakeRoom("coven@rooms.example")
    chat = chat_with(coven)
    window = Window(chat)
    async with window.run_test(size=(120, 30)) as pilot:
        entry = window.query_one(Entry)
        await pilot.press(*"Fair is fowl", "backspace", "backspace", "backspace", *"oul", "enter")
        await until(pilot, lambda: coven.sent == ["Fair is foul"])
        await until(pilot, lambda: "Fair is foul" in said(window, coven.jid))
        await pilot.press(*"/nonsense", "enter")
        await pilot.press(*"draft")
        await pilot.press("up", "up")
        assert entry.value == "Fair is foul"
        await pilot.press("down", "down")
        assert entry.value == "draft"
        await until(pilot, lambda: "no such command" in said(window, coven.jid))
        entry.value = "//quit is a word"
        await pilot.press("enter")
        await until(pilot, lambda: coven.sent[-1] == "/quit is a word")
        await pilot.press("ctrl+c")
        await until(pilot, chat.ended.is_set)
        await window.stop()


async def test_keys_that_follow_enter_at_once_are_another_line() -> None:
    """As from somebody who types fast, or from a terminal that pastes as if it typed."""
    coven = FakeRoom("coven@rooms.example")
    window = Window(chat_with(coven))
    async with window.run_test(size=(120, 30)) as pilot:
        for key in ("a", "enter", "b", "c", "enter", "d"):
            window.post_message(Key(key, key if len(key) == 1 else "\r"))
        await until(pilot, lambda: len(coven.sent) == 2)
        assert coven.sent == ["a", "bc"]
        await until(pilot, lambda: window.query_one(Entry).value == "d")
        await window.stop()


async def test_lines_that_are_pasted_are_one_message() -> None:
    coven = FakeRoom("coven@rooms.example")
    window = Window(chat_with(coven))
    async with window.run_test(size=(120, 30)) as pilot:
        entry = window.query_one(Entry)
        await pilot.press("x")
        entry.post_message(Paste(" double,\ndouble\r\ntoil\n"))
        await until(pilot, lambda: "toil" in entry.value)
        await pilot.press("ctrl+j", "y", "enter")
        await until(pilot, lambda: bool(coven.sent))
        assert coven.sent == ["x double,\ndouble\ntoil\ny"]
        await pilot.press("up", "enter")  # and from the history
        await until(pilot, lambda: len(coven.sent) == 2)
        assert coven.sent[1] == coven.sent[0]
        await window.stop()


async def test_a_talk_that_is_not_shown_has_the_width_of_the_one_that_is() -> None:
    coven, heath = FakeRoom("coven@rooms.example"), FakeRoom("heath@rooms.example")
    chat = chat_with(coven, heath)
    window = Window(chat)
    async with window.run_test(size=(120, 30)) as pilot:
        for _ in range(2):  # both have been shown
            await pilot.press("ctrl+n")
            await pilot.pause()
        assert window._current is chat.talks[coven.jid]
        text = "Double, double toil and trouble"
        waiting = asyncio.create_task(chat._message(message(heath, text)))
        await until(pilot, lambda: text in said(window, heath.jid))  # in one line
        waiting.cancel()
        await window.stop()


async def test_what_cannot_be_opened_leaves_no_talk_behind() -> None:
    """The error stands where it was asked for, and what is typed next goes there."""
    coven = FakeRoom("coven@rooms.example")
    chat = chat_with(coven)

    async def is_room(_: str) -> bool:
        return False

    async def conversation(account: str) -> Any:
        raise NobodyReachable(account, "no such account")

    chat.mls.is_room, chat.mls.conversation = is_room, conversation  # type: ignore[method-assign, assignment]
    window = Window(chat)
    async with window.run_test(size=(120, 30)) as pilot:
        await pilot.press(*"/open nobody@example", "enter")
        await until(pilot, lambda: "no such account" in said(window, coven.jid))
        assert list(chat.talks) == [coven.jid]
        assert window._current is chat.talks[coven.jid]
        await pilot.press(*"Fair", "enter")
        await until(pilot, lambda: coven.sent == ["Fair"])
        await window.stop()


@pytest.mark.parametrize("rooms", [1, 0])
async def test_invitations_that_wait_are_shown_at_the_start(rooms: int) -> None:
    """Even where there is no room to show them in."""
    coven = FakeRoom("coven@rooms.example")
    chat = chat_with(*[coven][:rooms])
    chat.mls.invitations.append(SimpleNamespace(room="heath@rooms.example", inviter="hecate@example"))  # type: ignore[arg-type]
    window = Window(chat)

    def shown() -> str:
        return said(window, coven.jid) if rooms else str(window.query_one("#status", Static).content)

    async with window.run_test(size=(80, 30)) as pilot:
        await until(pilot, lambda: "hecate@example invites you" in shown())
        assert "/open hecate@example" in " ".join(shown().split())
        await until(pilot, lambda: window.query_one("#status", Static).size.height == (1 if rooms else 3))
        await window.stop()


async def test_every_script_and_no_control_reaches_the_screen() -> None:
    coven = FakeRoom("coven@rooms.example")
    chat = chat_with(coven)
    window = Window(chat)
    async with window.run_test(size=(120, 30)) as pilot:
        await chat._message(
            message(coven, "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \x1b[2J\u202eoverride [bold]")
        )
        await until(pilot, lambda: "[bold]" in said(window, coven.jid))
        text = said(window, coven.jid)
        assert "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]" in text
        await window.stop()


async def test_presence_typing_and_waiting_are_shown() -> None:
    coven = FakeRoom("coven@rooms.example")
    chat = chat_with(coven)
    window = Window(chat)
    async with window.run_test(size=(120, 30)) as pilot:
        status = window.query_one("#status", Static)
        assert "epoch 7" in str(status.content)
        # The digits are those beside a member's messages, and those that people compare.
        assert str(window.query_one("#people", Static).content).split("\n") == [
            "bob@example", " 01234567 verified", "alice@example", " fedcba98 this device", "",
        ]  # fmt: skip
        bob: Any = SimpleNamespace(account="bob@example")
        chat._is_typing(Typing(coven.jid, bob, True, "composing"))
        await until(pilot, lambda: "bob@example is typing" in str(status.content))
        chat._is_typing(Typing(coven.jid, bob, False, "paused"))
        assert "typing" not in str(status.content)
        coven.outage = Outage(coven.jid, "banned", "", 1_800_000_000, 1_800_003_600)
        await until(pilot, lambda: "(banned); tried again at" in str(status.content))
        chat._wait(chat.talks[coven.jid], "Waiting for somebody")
        assert "Waiting for somebody" in str(status.content)
        await window.stop()


async def test_others_see_that_we_type_once_and_not_what_commands() -> None:
    coven = FakeRoom("coven@rooms.example")
    window = Window(chat_with(coven))
    async with window.run_test() as pilot:
        await pilot.press(*"/help", "enter", *"Fair")
        await until(pilot, lambda: coven.typed == [True])
        await pilot.press("enter")
        await until(pilot, lambda: coven.sent == ["Fair"])
        await pilot.press("x")  # the message has ended it
        await until(pilot, lambda: coven.typed == [True, True])
        await pilot.press("backspace")
        await until(pilot, lambda: coven.typed == [True, True, False])
        await window.stop()


async def test_our_own_key_is_shown_as_a_code_to_scan() -> None:
    coven = FakeRoom("coven@rooms.example")
    chat = chat_with(coven)
    uri = "xmpp:alice@example?trust-message;encryption=urn:xmpp:mls:0;trust=0123"
    chat.mls.trust = SimpleNamespace(uri=lambda: uri, qr=lambda: qr_code(uri))  # type: ignore[assignment, misc]
    window = Window(chat)
    async with window.run_test(size=(120, 60)) as pilot:
        await pilot.press(*"/me", "enter")
        await until(pilot, lambda: "\u2588" in said(window, coven.jid))
        text = said(window, coven.jid)
        assert "fedcba98 76543210" in text
        assert text.count("\u2580") + text.count("\u2588") + text.count("\u2584") > 100
        await window.stop()


class Nothing:
    """A screen that nobody looks at."""

    def shows(self, talk: Talk) -> bool:
        return False

    def added(self, talk: Talk, line: object) -> None: ...
    def changed(self, talk: Talk) -> None: ...
    def opened(self, talk: Talk) -> None: ...
    def closed(self, talk: Talk) -> None: ...
    def told(self, text: str) -> None: ...
    def own_code(self) -> None: ...


@pytest.mark.parametrize(
    ("outcome", "code"), [("confirmed", 0), ("late", 75), ("refused", 69), ("not in the group", 69), ("a command", 0)]
)
async def test_exit_codes(outcome: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 only if what was to be sent is in the archive."""
    monkeypatch.setattr(model, "CONFIRMATION", 0.05)
    coven = FakeRoom("coven@rooms.example")
    chat = chat_with(coven)
    chat.view = Nothing()
    talk = chat._talk_of(coven)  # type: ignore[arg-type]
    match outcome:
        case "not in the group":
            talk.room = None
            await chat.typed(talk, "Fair is foul")
        case "a command":
            await chat.typed(talk, "/nonsense")
        case _:
            await chat.typed(talk, "Fair is foul")
    if outcome == "confirmed":
        coven.confirmed.set_result("a1")
    if outcome == "refused":
        coven.confirmed.set_exception(NotPermitted("the room is moderated"))
    await asyncio.sleep(0)
    assert (await chat.finish())[0] == code
    assert outcome != "refused" or "moderated" in talk.lines[-1].text


async def test_the_windows_in_a_real_terminal(
    prosody: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    """Made, added, said, answered; a file, a reaction; another room with its mark; the end says that all is sent."""
    alice = str(await account(prosody, "alice"))
    bob = await Person.connected(connect, prosody, tmp_path)
    reactions: asyncio.Queue[Any] = asyncio.Queue()
    bob.client.add_event_handler("mls_reaction", reactions.put_nowait)
    room = f"{unique('coven')}@{prosody.rooms}"
    picture = tmp_path / "cauldron.png"
    Image.new("RGB", (60, 40), "purple").save(picture)
    command = (COMMAND, "chat", alice, room, "--create", "--add", bob.jid, "--store", str(tmp_path / "window.db"))
    async with terminal(*command, folder=tmp_path, environment=login(prosody, alice), width=130) as window:
        await window.shows("In coven")
        await window.type("When shall we three meet again?")
        assert await bob.hears(alice) == "When shall we three meet again?"
        coven = bob.mls.room(room)
        await coven.send("In thunder, lightning, or in rain?")
        await window.shows("In thunder")
        await window.type(f"/file {picture} the cauldron")
        async with asyncio.timeout(SECONDS):
            shared = await bob.heard.get()
        assert [file.name for file in shared.files] == ["cauldron.png"]
        await window.type("/react \u2602")
        async with asyncio.timeout(SECONDS):
            assert (await reactions.get()).reactions == ("\u2602",)
        heath = await bob.mls.create(f"{unique('heath')}@{prosody.rooms}")
        assert not (await heath.add(alice)).failed
        await heath.send("There to meet with Macbeth")
        await window.shows("invites")
        await window.type(f"/open {heath.jid}")
        await window.shows("There to")
        await coven.send("Graymalkin calls")
        await window.shows(r"\(1\) coven")
        await window.press("C-n")
        await window.shows("Graymalkin")
        await window.type("/quit")
        assert await window.ends() == 0
    assert "three meet" not in "".join(prosody.archive(room)) + prosody.log_text()


async def test_one_ctrl_c_ends_a_chat_of_lines(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    """And a line that the terminal has cut is not sent as if it were whole."""
    alice, room = str(await account(prosody, "alice")), f"{unique('coven')}@{prosody.rooms}"
    command = (COMMAND, "chat", alice, room, "--create", "--plain", "--add", f"nobody@{prosody.domain}")
    async with terminal(*command, folder=tmp_path, environment=login(prosody, alice)) as window:
        await window.shows("no such account, or no MLS")
        await window.shows("In coven")
        await window.press("-l", "x" * 4200)  # the terminal hands on 4,095 of them
        await window.press("Enter")
        screen = await window.shows("nothing is sent: a terminal cuts lines at 4095 octets; send it in pieces")
        assert "Traceback" not in screen
        await window.type("Fair is foul")
        await window.press("C-c")
        assert await window.ends() == 130
