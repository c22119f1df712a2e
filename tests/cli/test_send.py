"""``slixmpp-mls send``, as cron calls it: with odd input, twice at once, with nobody at the other end."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slixmpp import JID, ClientXMPP
from typer.testing import CliRunner

from slixmpp_mls import MLS, EncryptedMessage
from slixmpp_mls.cli import app
from slixmpp_mls.cli.send import MOST_PIECES, pieces, readable
from slixmpp_mls.devserver import DevServer, Prosody
from slixmpp_mls.errors import UsageError
from slixmpp_mls.rooms.engine.outage import Outage
from slixmpp_mls.runtime.settings import DEFAULT_SUITES
from slixmpp_mls.store import SQLiteStore

from ..conftest import unavailable_means_skip, unique
from ..programs import COMMAND, Program, login, running

Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


def test_help_tells_the_exit_codes_and_has_examples() -> None:
    output = " ".join(CliRunner().invoke(app, ["send", "--help"]).output.split())
    for code in (
        "0: everything is in the room's archive",
        "75: the message is encrypted and stored",
        "69: not everything was sent",
    ):
        assert code in output
    assert "Example: slixmpp-mls send" in output
    assert "Example: 0 7 * * *" in output


def test_version_is_an_option() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("slixmpp-mls 0.")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("\x1b[31mERROR\x1b[0m in red\n", "ERROR in red"),
        ("\x1b]0;title\x07text", "text"),
        ("a\r\nb\n\n", "a\nb"),
        ("bell\x07 nul\x00", "bell\ufffd nul\ufffd"),
        ("caf\ufffd", "caf\ufffd"),
        ("👩‍👧", "👩‍👧"),
        ("\ud800", "\ufffd"),
    ],
)
def test_what_a_terminal_would_do_is_no_text(given: str, said: str) -> None:
    assert readable(given) == said


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_pieces_hold_the_whole_text(text: str) -> None:
    parts = list(pieces(text, 40))
    assert all(0 < len(part.encode()) <= 40 for part in parts)
    without = str.maketrans("", "", "\n")
    lost = text.translate(without)
    assert "".join(parts).translate(without).replace(" ", "").strip() == "".join(lost.split(" ")).strip() or not all(
        part.strip() for part in text.split("\n")
    )


def test_pieces_end_with_lines() -> None:
    assert list(pieces("one\ntwo\nthree", 8)) == ["one\ntwo", "three"]
    assert list(pieces("x" * 20, 8)) == ["x" * 8, "x" * 8, "x" * 4]
    assert list(pieces(" \n ", 8)) == []
    with pytest.raises(UsageError, match="--file"):
        list(pieces("x" * 1000, 8))
    assert len(list(pieces("x" * 8 * MOST_PIECES, 8))) == MOST_PIECES


@asynccontextmanager
async def sending(
    server: DevServer, jid: str, room: str, *arguments: str, folder: Path, **environment: str
) -> AsyncIterator[Program]:
    variables = {**login(server, jid), "MLS_STORE": str(folder / "ci.db"), **environment}
    patience = () if "--timeout" in arguments else ("--timeout", "200")  # for a busy machine
    async with running(COMMAND, "send", room, *arguments, *patience, folder=folder, **variables) as program:
        yield program


async def send(
    server: DevServer, jid: str, room: str, *arguments: str, folder: Path, code: int = 0, **more: str
) -> str:
    async with sending(server, jid, room, *arguments, folder=folder, **more) as program:
        assert await program.ends() == code, program.output
    assert "Traceback" not in program.output
    return program.output


class Reader:
    """Somebody in the room."""

    def __init__(self, client: ClientXMPP) -> None:
        self.jid = client.boundjid.bare
        self.mls = MLS.of(client)
        self.heard: list[str] = []
        client.add_event_handler("mls_message", lambda message: self.heard.append(message.body))

    async def hears(self, *texts: str) -> None:
        async with asyncio.timeout(120):
            while self.heard[: len(texts)] != list(texts):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        del self.heard[: len(texts)]


async def reader(connect: Connect, server: DevServer, folder: Path) -> Reader:
    found = Reader(await connect(server, "alice", ("mls", {"store": str(folder / "alice.db"), "key_packages": 2})))
    await found.mls.ready()
    return found


def capitals(jid: str) -> str:
    return jid[0].upper() + jid[1:]


async def test_a_cron_line(prosody: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    alice, ci = await reader(connect, prosody, tmp_path), str(await account(prosody, "ci"))
    room = f"{unique('builds')}@{prosody.rooms}"
    first = ["Build 1 failed", "--create", "--add", capitals(alice.jid)]
    await send(prosody, ci, capitals(room), *first, folder=tmp_path)
    await alice.hears("Build 1 failed")
    await send(prosody, ci, room, *first[:1], folder=tmp_path)
    await alice.hears("Build 1 failed")

    # From standard input, as one message; nothing to say is no error.
    async with sending(prosody, ci, room, folder=tmp_path) as program:
        for line in ("\x1b[31mERROR\x1b[0m in red", "third line"):
            await program.type(line)
        assert program.process.stdin is not None
        program.process.stdin.write(b"caf\xe9 in latin-1\n")
        assert await program.ends() == 0, program.output
    await alice.hears("ERROR in red\nthird line\ncaf\ufffd in latin-1")
    assert await send(prosody, ci, room, folder=tmp_path, XMPP_PORT="1") == ""
    async with sending(prosody, ci, room, "--lines", folder=tmp_path) as program:
        for line in ("one", "", "two", "three"):
            await program.type(line)
        assert await program.ends() == 0, program.output
    await alice.hears("one", "two", "three")


async def test_to_one_person(server: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    """The address is no room's, so it is a conversation of two; the next call finds it."""
    alice, ci = await reader(connect, server, tmp_path), str(await account(server, "ci"))
    await send(server, ci, capitals(alice.jid), "The backup is done", folder=tmp_path)
    await alice.hears("The backup is done")
    await send(server, ci, alice.jid, "And the next one", folder=tmp_path)
    await alice.hears("And the next one")
    assert list(alice.mls.conversations) == [ci]
    nobody = str(await account(server, "nobody"))
    assert "nobody" in await send(server, ci, nobody, "in vain", folder=tmp_path, code=69)
    assert len(alice.mls.rooms) == 1


async def test_a_file(prosody: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    alice, ci = await reader(connect, prosody, tmp_path), str(await account(prosody, "ci"))
    brought: list[EncryptedMessage] = []
    alice.mls.xmpp.add_event_handler("mls_message", brought.append)
    room = f"{unique('builds')}@{prosody.rooms}"
    (tmp_path / "log.txt").write_bytes(b"Fair is foul\n" * 1000)
    more = ["--create", "--add", alice.jid]
    await send(prosody, ci, room, "the log", "--file", "log.txt", *more, folder=tmp_path)
    await alice.hears("the log")
    (file,) = brought[0].files
    assert (file.name, file.media_type, await file.read()) == ("log.txt", "text/plain", b"Fair is foul\n" * 1000)
    assert "no file" in await send(prosody, ci, room, "--file", "none.txt", folder=tmp_path, code=78)


async def test_very_long_lines(prosody: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    alice, ci = await reader(connect, prosody, tmp_path), str(await account(prosody, "ci"))
    room = f"{unique('builds')}@{prosody.rooms}"
    async with sending(prosody, ci, room, "--create", "--add", alice.jid, folder=tmp_path) as program:
        await program.type("&" * 300_000)
        await program.type("after it")
        assert await program.ends() == 0, program.output
    async with asyncio.timeout(120):
        while "after it" not in "".join(alice.heard):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert "".join(alice.heard).replace("\n", "") == "&" * 300_000 + "after it"


async def test_two_at_once_and_one_that_waits_in_vain(
    prosody: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    alice, ci = await reader(connect, prosody, tmp_path), str(await account(prosody, "ci"))
    room = f"{unique('builds')}@{prosody.rooms}"
    await send(prosody, ci, room, "first", "--create", "--add", alice.jid, folder=tmp_path)
    await asyncio.gather(*(send(prosody, ci, room, f"at once {n}", folder=tmp_path) for n in (1, 2, 3)))
    await alice.hears("first")
    async with asyncio.timeout(120):
        while len(alice.heard) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert sorted(alice.heard) == [f"at once {n}" for n in (1, 2, 3)]
    store = SQLiteStore(tmp_path / "ci.db", ci)
    try:
        said = await send(prosody, ci, room, "in vain", "--timeout", "3", folder=tmp_path, code=74)
    finally:
        store.close()
    assert "ci.db" in said


async def test_nobody_and_nothing_at_the_other_end(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    ci = str(await account(prosody, "ci"))
    room = f"{unique('builds')}@{prosody.rooms}"

    async def fails(code: int, text: str, *arguments: str, to: str = room, **more: str) -> None:
        said = await send(prosody, ci, to, "x", *arguments, folder=tmp_path, code=code, **more)
        assert text in said, said

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        await fails(69, "no connection", XMPP_PORT=str(free.getsockname()[1]))
    await fails(77, "refuses the password", XMPP_PASSWORD="wrong")
    await fails(69, "", "--create", "--timeout", "15", to="x@nowhere.example")
    await fails(69, "", "--timeout", "5")  # no such room, or nobody lets us in
    await fails(78, "which account", XMPP_JID="")
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        await fails(69, "not done after 3 seconds of logging in", "--timeout", "3", XMPP_PORT=str(port))


async def test_why_the_room_does_not_confirm_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The room's server cannot be reached, say: the message waits in the store."""
    module: Any = importlib.import_module("slixmpp_mls.cli.send")
    sent = SimpleNamespace(confirmed=asyncio.get_running_loop().create_future())
    outage = Outage("coven@rooms.example", "unreachable", "", 1_800_000_000, 1_800_000_060)

    async def say(text: str) -> Any:
        return sent

    async def enter(job: Any, mls: Any) -> Any:
        return SimpleNamespace(outage=outage, send=say)

    async def opened(job: Any, ends: float) -> Any:
        return SimpleNamespace(close=lambda: None)

    @asynccontextmanager
    async def connected(bot: Any) -> AsyncIterator[None]:
        yield

    for name, value in (("_enter", enter), ("_open_store", opened)):
        monkeypatch.setattr(module._Job, name, value)
    monkeypatch.setattr(module, "connected", connected)
    monkeypatch.setattr(module.MLS, "of", lambda bot: None)
    login: Any = SimpleNamespace(bot=lambda **options: None)
    job = module._Job("coven@rooms.example", login, False, [], 0.0)
    job.messages = ["Build 42 failed"]
    assert await job.run() == module.KEPT
    said = " ".join(capsys.readouterr().err.split())
    assert "waiting for the room's confirmation: the room cannot be read since" in said
    assert "(unreachable)" in said


@pytest.mark.timeout(1500)  # twenty programs, one after the other
async def test_settings_from_the_file_and_what_the_store_knows_of_it(
    prosody: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    """With a configuration file, no command needs options: send, rooms, members, policy, trust, store."""
    alice, ci = await reader(connect, prosody, tmp_path), str(await account(prosody, "ci"))
    room = f"{unique('builds')}@{prosody.rooms}"
    config = tmp_path / ".config" / "slixmpp-mls" / "config.toml"
    config.parent.mkdir(parents=True)
    (tmp_path / "secret").write_text(prosody.accounts[ci])
    config.write_text(
        f'jid = "{ci}"\npassword_file = "~/secret"\n'
        f'host = "{prosody.host}"\nport = {prosody.port}\nca = "{prosody.ca_file}"\n'
    )

    async def call(*arguments: str, code: int = 0) -> str:
        async with running(COMMAND, *arguments, folder=tmp_path) as program:
            assert await program.ends() == code, program.output
        return program.output

    await call("send", room, "hello", "--create", "--add", alice.jid)
    await alice.hears("hello")
    assert (tmp_path / ".local/share/slixmpp-mls" / f"{ci}.db").exists()
    (one,) = json.loads(await call("rooms", "--json"))
    assert (one["room"], one["accounts"], one["members"], one["epoch"]) == (room, sorted([alice.jid, ci]), 2, 1)
    assert one["post_quantum"] == {"secrecy": DEFAULT_SUITES[0] != 1, "signatures": False}  # both have the defaults
    assert room in await call("rooms")
    members: list[dict[str, Any]] = json.loads(await call("members", room, "--json"))
    assert {member["account"] for member in members} == {alice.jid, ci}
    assert all(member["since"].endswith("Z") for member in members)
    table = await call("members", room)
    for member in members:
        assert f"{member['account']}/{member['device']}" in table
        assert member["fingerprint"] in table
    assert json.loads(await call("policy", "show", room, "--json"))[0]["may_add"] == "administrators"
    assert "is changed" in await call("policy", "set", room, "may_add=members", "max_leaf_age=7d")
    assert "is that already" in await call("policy", "set", room, "may_add=members")
    shown = json.loads(await call("policy", "show", room, "--json"))[0]
    assert (shown["may_add"], shown["max_leaf_age"]) == ("members", 7 * 86_400)
    await call("policy", "set", room, "may_add=everybody", code=2)
    (key,) = json.loads(await call("trust", "list", alice.jid, "--json"))
    assert key["since"].endswith("Z")
    assert json.loads(await call("store", "check", "--json"))["rooms"] == [room]
    assert "no such account, or no MLS" in await call("devices", "list", f"nobody@{prosody.domain}", code=1)


async def test_an_old_store_on_a_new_server_is_told_so(account: Account, tmp_path: Path) -> None:
    """Its rooms are not there: neither `send` nor `chat` waits for them."""
    with unavailable_means_skip():
        async with Prosody() as first:
            jid = str(await first.register("ci", "secret"))
            room = f"builds@{first.rooms}"
            await send(first, jid, room, "Build 1 failed", "--create", folder=tmp_path)
    async with Prosody() as second:
        await second.register("ci", "secret")
        output = await send(second, jid, room, "Build 2 failed", folder=tmp_path, code=69)
        assert "use a new store" in " ".join(output.split())
        variables = {**login(second, jid), "MLS_STORE": str(tmp_path / "ci.db")}
        async with running(COMMAND, "chat", jid, room, folder=tmp_path, **variables) as chat:
            assert await chat.ends() == 1
        assert "use a new store" in " ".join(chat.output.split())
        async with running(COMMAND, "chat", jid, room, "--create", folder=tmp_path, **variables) as chat:
            await chat.prints("/help lists the commands")
            assert await chat.ends() == 0, chat.output
