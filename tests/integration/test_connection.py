"""How bots connect, stay, and end: on a real server, and where there is none."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from slixmpp import JID, ClientXMPP

from slixmpp_mls import MLS, Login, connected
from slixmpp_mls.cli.login import session
from slixmpp_mls.delivery import Stream
from slixmpp_mls.devserver import DevServer, Prosody
from slixmpp_mls.devserver.base import host_names, reserve_port
from slixmpp_mls.errors import LoginFailed, StoreError, StoreMismatch, UsageError
from slixmpp_mls.runtime import connection
from slixmpp_mls.runtime.login import Client

from ..conftest import SERVERS, unavailable_means_skip, unique
from ..programs import login as variables
from ..programs import running

Account = Callable[[DevServer, str], Awaitable[JID]]


async def made(server: DevServer, account: Account, folder: Path, **given: Any) -> Client:
    jid = str(await account(server, "ci"))
    values = {"password": server.accounts[jid], "host": server.host, "port": server.port, "ca": server.ca_file}
    return Login.load(jid, **{**values, "store": folder / "ci.db", **given}).bot(key_packages=2)


async def problem(bot: Client, kind: type[Exception] = LoginFailed) -> Any:
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(120), connected(bot):
            pass
    return caught.value


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and which nobody else is given."""
    with reserve_port("127.0.0.1") as reserved:
        yield int(reserved.getsockname()[1])


async def test_a_block_of_code_in_a_session(server: DevServer, account: Account, tmp_path: Path) -> None:
    """Again and again with one store: everything is closed when the block ends."""
    bot = await made(server, account, tmp_path)
    login = Login.load(
        bot.boundjid.bare, password=bot.password, host=server.host, port=server.port, ca=server.ca_file,
        store=tmp_path / "ci.db",
    )  # fmt: skip
    room = f"{unique('builds')}@{server.rooms}"
    async with connected(bot):
        sent = await (await MLS.of(bot).create(room)).send("Build 1")
        await sent.confirmed
    assert not bot.is_connected()
    again = login.bot(key_packages=2)
    async with connected(again):
        assert MLS.of(again).room(room).is_member
    with pytest.raises(RuntimeError, match="ours"):
        async with connected(third := login.bot(key_packages=2)):
            raise RuntimeError("ours")
    assert not third.is_connected()


async def test_a_wrong_password(server: DevServer, account: Account, tmp_path: Path) -> None:
    found = await problem(await made(server, account, tmp_path, password="wrong"))
    assert (found.reason, found.temporary) == ("password", False)


async def test_a_password_that_is_changed_during_the_block(
    server: DevServer, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There will be no session again: the block ends where it waits, with the error, and the store is free."""
    bot = await made(server, account, tmp_path)
    bot.plugin["xep_0198"].allow_resume = False
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    jid = str(bot.boundjid.bare)
    cleaned = False

    async def block() -> None:
        nonlocal cleaned
        async with asyncio.timeout(240), connected(bot):
            await server.register(JID(jid).local, "changed")
            bot.abort()
            try:
                await asyncio.Event().wait()
            finally:
                cleaned = True

    with pytest.raises(LoginFailed) as caught:
        await block()
    assert (caught.value.reason, caught.value.temporary) == ("password", False)
    assert cleaned
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(240), connected(await made_again(server, jid, tmp_path)) as nothing:
        assert nothing is None
        with pytest.raises(TimeoutError):  # one of the block's own is its own
            async with asyncio.timeout(0):
                await asyncio.Event().wait()


async def made_again(server: DevServer, jid: str, folder: Path) -> Client:
    values = {"password": server.accounts[jid], "host": server.host, "port": server.port, "ca": server.ca_file}
    return Login.load(jid, **values, store=folder / "ci.db").bot(key_packages=2)


async def test_a_command_logs_in_once_with_a_password_that_was_changed(server: DevServer, tmp_path: Path) -> None:
    """A chat that is open meanwhile; a hundred attempts in ten seconds would shut its address out of many servers."""
    jid = await server.register(unique("ci"), "secret")
    login = Login.load(
        str(jid), password="secret", host=server.host, port=server.port, ca=server.ca_file, store=tmp_path / "ci.db"
    )
    attempts: list[object] = []
    told: list[Any] = []

    def prepare(client: ClientXMPP) -> None:
        client.register_plugin("mls", {"store": str(login.store), "key_packages": 2})
        client.add_event_handler("connected", attempts.append)
        client.add_event_handler("mls_failed", told.append)

    async with asyncio.timeout(240), session(login, prepare) as client:
        await MLS.of(client).ready()
        client.plugin["xep_0198"].allow_resume = False
        client.abort()  # a break alone: it is back by itself
        while len(attempts) < 2 or not Stream.of(client).online:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await server.register(jid.local, "changed")
        client.abort()
        while not told:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)  # in which it would try again
    assert len(attempts) == 3
    (failed,) = told
    assert (failed.reason, failed.temporary) == ("password", False)


async def test_two_programs_with_one_full_address(
    server: DevServer, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 6120 4.9.3.3: whose session is replaced comes back with another resource, and both go on."""
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    jid = JID(await account(server, "cron"))
    sessions: list[tuple[int, str]] = []
    bots = []
    for number in range(2):
        bot = server.client(JID(f"{jid.bare}/cron"))
        bot.register_plugin("mls", {"store": str(tmp_path / f"{number}.db"), "key_packages": 2})
        monkeypatch.setattr(bot, "connect", partial(bot.connect, server.host, server.port))

        def began(_: object, number: int = number, bot: ClientXMPP = bot) -> None:
            sessions.append((number, bot.boundjid.resource))

        bot.add_event_handler("session_start", began)
        bots.append(bot)
    async with asyncio.timeout(240), connected(bots[0]), connected(bots[1]):
        while len(sessions) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        room = await MLS.of(bots[0]).create(f"{unique('room')}@{server.rooms}")
        await (await room.send("still here")).confirmed
        assert bots[1].is_connected()
    assert sessions[:2] == [(0, "cron"), (1, "cron")]
    assert sessions[2][0] == 0
    assert sessions[2][1] != "cron"
    assert len(sessions) == 3


async def test_a_certificate_that_does_not_verify(server: DevServer, account: Account, tmp_path: Path) -> None:
    other = Prosody()
    other._authority.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    found = await problem(await made(server, account, tmp_path, ca=tmp_path / "other.pem"))
    assert (found.reason, found.temporary) == ("certificate", False)


async def certify(server: DevServer, until: datetime) -> None:
    """Restart a server with another certificate of the same authority."""
    await server.stop()
    issued = server._authority.issue_cert(
        *host_names(server.domain), server.host, not_before=datetime.now(UTC) - timedelta(days=2), not_after=until
    )
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    key = issued.private_key_pem.bytes()
    for name, content in (("server.crt", chain), ("server.key", key), ("server.pem", chain + key)):
        (server.directory / "tls" / name).write_bytes(content)
    await server.start()


@pytest.mark.server
@pytest.mark.parametrize("kind", list(SERVERS))
async def test_a_certificate_that_expires_while_we_are_online(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operator renews it, after a weekend: until then it is told once, and nothing is sent to the server."""
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(connection, "_LONGEST_PAUSE", 0.1)
    server = SERVERS[kind]()
    with unavailable_means_skip():
        await server.start()
    try:
        bot = await made(server, lambda server, name: server.register(name, "secret"), tmp_path)
        told: list[Any] = []
        attempts: list[str] = []
        bot.add_event_handler("mls_failed", told.append)
        bot.add_event_handler("connected", lambda _: attempts.append("connected"))
        bot.add_event_handler("session_bind", lambda _: attempts.append("session"))
        async with asyncio.timeout(400), connected(bot):
            room = await MLS.of(bot).create(f"{unique('room')}@{server.rooms}")
            await certify(server, datetime.now(UTC) - timedelta(days=1))
            attempts.clear()
            while not told or len(attempts) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert "session" not in attempts
            await certify(server, datetime.now(UTC) + timedelta(days=30))
            await (await room.send("after the weekend")).confirmed
        (failed,) = told
        assert isinstance(failed, LoginFailed)
        assert (failed.reason, failed.temporary) == ("certificate", True)
        assert "expired" in str(failed)
    finally:
        await server.close()


async def test_a_connection_that_has_died_without_a_word(
    server: DevServer, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop that has slept: nothing arrives any more in either direction, and nobody closes the connection."""
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    bot = await made(server, account, tmp_path)
    ended: list[object] = []
    async with asyncio.timeout(240), connected(bot):
        room = await MLS.of(bot).create(f"{unique('room')}@{server.rooms}")
        monkeypatch.setattr(connection, "_PING_INTERVAL", 0.1)
        monkeypatch.setattr(connection, "_PING_PATIENCE", 2.0)
        gone = asyncio.create_task(bot.wait_until("disconnected", 60))
        await asyncio.sleep(0)
        bot.abort()  # the next session has these figures
        await gone
        while not Stream.of(bot).online:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with monkeypatch.context() as dead:

            def end(why: object) -> None:
                dead.undo()  # before the next connection begins
                ended.append(why)

            dead.setattr(bot, "data_received", lambda data: None)
            dead.setattr(bot, "send_raw", lambda data: None)
            bot.add_event_handler("disconnected", end, disposable=True)
            while not ended:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        monkeypatch.setattr(connection, "_PING_PATIENCE", 60.0)
        await (await room.send("awake again")).confirmed


async def test_nobody_at_the_port(prosody: DevServer, account: Account, tmp_path: Path, closed_port: int) -> None:
    found = await problem(await made(prosody, account, tmp_path, port=closed_port))
    assert (found.reason, found.temporary) == ("unreachable", True)


async def test_a_server_that_hangs_up(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with listener:
        found = await problem(await made(prosody, account, tmp_path, port=listener.sockets[0].getsockname()[1]))
    assert (found.reason, found.temporary) == ("closed", True)


@pytest.mark.parametrize("reset", [False, True], ids=["hangs", "resets"])
async def test_a_server_that_fails_in_the_tls_handshake(
    prosody: DevServer, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reset: bool
) -> None:
    """asyncio does not tell of the end of a connection that is given up then, or reset by the server, as when it is
    killed before it has read what we sent; the bot tries again all the same."""
    if not reset:
        monkeypatch.setattr(connection, "_LOGIN", 0.5)
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    hellos = 0
    serving: set[asyncio.Task[Any] | None] = set()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hellos
        serving.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"stream:stream")
            writer.write(
                b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='1' "
                b"version='1.0'><stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>"
            )
            await reader.readuntil(b"starttls")
            writer.write(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            await reader.readuntil(b"\x16\x03")  # RFC 8446 5.1: the client's first handshake record
            hellos += 1
            while not reset and await reader.read(1000):
                pass
        if reset:  # RFC 9293 3.10.5: closing with no time to linger aborts, with RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    bot = await made(prosody, account, tmp_path, port=listener.sockets[0].getsockname()[1])
    async with listener:
        kept = connection.KeptConnection(bot, presence=True)
        try:
            async with asyncio.timeout(30):  # less than the limit for a login
                while hellos < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            await kept.close()
        await asyncio.wait([task for task in serving if task is not None], timeout=60)


async def test_a_server_that_says_nothing(
    prosody: DevServer, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the bot would wait for it without end: slixmpp sets no limit to a login."""
    monkeypatch.setattr(connection, "_LOGIN", 0.3)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.close()

    listener = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with listener:
        found = await problem(await made(prosody, account, tmp_path, port=listener.sockets[0].getsockname()[1]))
    assert (found.reason, found.temporary) == ("closed", True)


async def test_a_domain_that_the_server_does_not_serve(prosody: DevServer, tmp_path: Path) -> None:
    login = Login.load(
        "ci@elsewhere.example", password="x", host=prosody.host, port=prosody.port, ca=prosody.ca_file,
        store=tmp_path / "x.db",
    )  # fmt: skip
    found = await problem(login.bot())
    assert (found.reason, found.temporary) == ("refused", False)


async def test_a_store_that_cannot_be_used(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    await problem(await made(prosody, account, tmp_path, store=tmp_path / "no" / "folder" / "ci.db"), StoreError)
    first = await made(prosody, account, tmp_path)
    async with connected(first):
        await problem(await made(prosody, account, tmp_path), StoreError)  # locked
    await problem(await made(prosody, account, tmp_path), StoreMismatch)  # another account's
    with pytest.raises(UsageError, match="needs the plugin"):
        async with connected(Client("a@example", "x", None, first.get_ssl_context())):
            pass


async def test_ready_waits_for_the_next_attempt(
    prosody: DevServer, account: Account, tmp_path: Path, closed_port: int
) -> None:
    """Whoever connects by hand may try again after a failure."""
    bot = await made(prosody, account, tmp_path, port=closed_port)
    mls = MLS.of(bot)
    bot.connect()
    for _ in range(2):  # it stays so until something happens
        with pytest.raises(LoginFailed):
            async with asyncio.timeout(120):
                await mls.ready()
    bot.connect(prosody.host, prosody.port)
    async with asyncio.timeout(120):
        await mls.ready()
    await bot.disconnect()
    bot.plugin.disable("mls")  # type: ignore[attr-defined]


BOT = dedent("""
    import logging
    import slixmpp_mls

    bot = slixmpp_mls.Login.load().bot(key_packages=2)

    async def echo(message):
        await message.reply("you said: " + message.body)

    bot.add_event_handler("mls_message", echo)
    bot.add_event_handler("mls_ready", lambda mls: print("ready", flush=True))
    bot.add_event_handler("session_start", lambda _: print("session", flush=True))
    slixmpp_mls.run(bot)
    print("left", flush=True)
""")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_bot_leaves_when_it_is_told_to(
    number: signal.Signals, prosody: DevServer, account: Account, tmp_path: Path
) -> None:
    jid = str(await account(prosody, "bot"))
    async with running(sys.executable, "-c", BOT, folder=tmp_path, **variables(prosody, jid)) as program:
        await program.prints("ready")
        program.process.send_signal(number)
        assert await program.ends() == 0, program.output
    assert program.output.split() == ["session", "ready", "left"]
    assert (tmp_path / ".local/share/slixmpp-mls" / f"{jid}.db").exists()


async def test_a_bot_that_cannot_go_on_says_why(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    jid = str(await account(prosody, "bot"))
    good = variables(prosody, jid)
    for wrong, code, text in (
        ({"XMPP_PASSWORD": "wrong"}, 77, "refuses the password"),
        ({"MLS_STORE": "/proc/no.db"}, 74, "no.db"),
    ):
        async with running(sys.executable, "-c", BOT, folder=tmp_path, **{**good, **wrong}) as program:
            assert await program.ends() == code, program.output
        assert text in program.output
        assert "Traceback" not in program.output
        assert "left" not in program.output


@pytest.mark.server
async def test_a_bot_waits_for_its_server_and_comes_back(tmp_path: Path, closed_port: int) -> None:
    with unavailable_means_skip():
        server = Prosody()
        await server.start()
    try:
        jid = str(await server.register("bot", "secret"))
        environment = variables(server, jid)
        async with running(sys.executable, "-c", BOT, folder=tmp_path, **environment) as program:
            await program.prints("ready")
            await server.restart()
            await program.prints("session", times=2)
            program.process.send_signal(signal.SIGTERM)
            assert await program.ends() == 0, program.output
        assert "Traceback" not in program.output, program.output
        # Told to leave while nobody answers.
        environment["XMPP_PORT"] = str(closed_port)
        async with running(sys.executable, "-c", BOT, folder=tmp_path, **environment) as program:
            await program.prints("it is tried again")
            program.process.send_signal(signal.SIGTERM)
            assert await program.ends() == 0, program.output
    finally:
        await server.close()
