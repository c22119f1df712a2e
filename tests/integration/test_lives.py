"""Lives of a process: many clients in one loop, a signal in the middle of a talk, disks that refuse, loops that end."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from slixmpp_mls import MLS, Login, connected
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import StoreLocked
from slixmpp_mls.runtime.login import Client

from ..conftest import unique
from ..programs import login, running
from ..small_disk import small_disk
from .people import SECONDS, Cast

# --- several clients in one loop -------------------------------------------------------------------


def bot_of(server: DevServer, jid: str, store: Path) -> Client:
    return Login.load(
        jid, password=server.accounts[jid], host=server.host, port=server.port, ca=server.ca_file, store=store
    ).bot(key_packages=2)


async def test_bots_of_two_accounts_and_two_of_one_in_one_loop(prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    """Each hears all others in one room; a further one with a store that is open is refused, and disturbs nobody."""
    ours, theirs = str(await cast.account(prosody, "ours")), str(await cast.account(prosody, "theirs"))
    cast.expected_errors.append("starting failed: another client has the store")
    names = ("ours 1", "ours 2", "theirs")
    bots = {name: bot_of(prosody, theirs if name == "theirs" else ours, tmp_path / f"{name}.db") for name in names}
    heard: dict[str, list[str]] = {name: [] for name in names}
    for name, bot in bots.items():
        bot.add_event_handler("mls_message", lambda message, name=name: heard[name].append(message.body))

    async def wait_for(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async with (
        asyncio.timeout(3 * SECONDS), connected(bots["ours 1"]), connected(bots["ours 2"]), connected(bots["theirs"])
    ):  # fmt: skip
        room = f"{unique('loop')}@{prosody.rooms}"
        group = await MLS.of(bots["theirs"]).create(room)

        async def everybody() -> bool:
            await group.add(ours)
            return len(group.members) == 3

        while not await everybody():  # noqa: ASYNC110 (the list of devices may still lack the second)
            await asyncio.sleep(0.1)

        def inside(bot: Client) -> bool:
            handle = MLS.of(bot).rooms.get(room)
            return handle is not None and handle.is_member and handle.live

        await wait_for(lambda: all(inside(bot) for bot in bots.values()))

        async def talk(word: str) -> None:
            said = {name: f"{word} of {name}" for name in names}
            await asyncio.gather(*(MLS.of(bots[name]).room(room).send(text) for name, text in said.items()))
            others = {name: {text for who, text in said.items() if who != name} for name in names}
            await wait_for(lambda: all(others[name] <= set(heard[name]) for name in names))

        await talk("word")
        with pytest.raises(StoreLocked, match=r"ours 1\.db"):
            async with connected(bot_of(prosody, ours, tmp_path / "ours 1.db")):
                pass
        await talk("further word")
    for name in names:
        assert len(heard[name]) == len(set(heard[name])), heard[name]


# --- a signal --------------------------------------------------------------------------------------

ECHO = dedent("""
    import slixmpp_mls

    bot = slixmpp_mls.Login.load().bot(key_packages=2)

    async def echo(message):
        if not message.own:
            await message.reply("heard: " + message.body)
            print("answered", message.body, flush=True)

    bot.add_event_handler("mls_message", echo)
    bot.add_event_handler("mls_ready", lambda mls: print("ready", flush=True))
    slixmpp_mls.run(bot)
""")


async def test_a_signal_in_the_middle_of_a_talk(prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    """Exit code 0 with messages in flight; each message, before and after, is answered once."""
    alice = await cast.person(prosody, "alice")
    jid = str(await cast.account(prosody, "bot"))
    environment = login(prosody, jid) | {"MLS_STORE": str(tmp_path / "bot.db")}
    group = await alice.mls.create(f"{unique('room')}@{prosody.rooms}")
    texts: list[str] = []

    async def say(count: int) -> None:
        for _ in range(count):
            texts.append(f"sentence number {len(texts) + 1:03}")
            await alice.say(texts[-1])

    async with running(sys.executable, "-c", ECHO, folder=tmp_path, **environment) as bot:
        await bot.prints("ready")
        assert not (await group.add(jid)).failed
        await say(1)
        await bot.prints("answered")
        await say(10)
        await bot.prints("answered", times=2)
        bot.process.terminate()
        await say(5)
        assert await bot.ends() == 0, bot.output
        assert "Traceback" not in bot.output, bot.output
        await say(2)
    async with running(sys.executable, "-c", ECHO, folder=tmp_path, **environment) as bot:
        await bot.prints("answered")  # in the middle of what it has missed
        bot.process.terminate()
        await say(3)
        assert await bot.ends() == 0, bot.output
        assert "Traceback" not in bot.output, bot.output
    async with running(sys.executable, "-c", ECHO, folder=tmp_path, **environment) as bot:
        await bot.prints("ready")
        await say(1)  # what comes last, comes last
        await alice.hears(*(f"heard: {text}" for text in texts))
        bot.process.terminate()
        assert await bot.ends() == 0, bot.output
    assert sorted(text for text in alice.bodies if text.startswith("heard: ")) == [f"heard: {text}" for text in texts]


# --- disks that refuse -----------------------------------------------------------------------------

#: Root may write everywhere, unless it gives its capabilities away.
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


@pytest.mark.skipif(bool(POWERLESS) and shutil.which("setpriv") is None, reason="root may write everywhere")
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
async def test_a_store_in_a_folder_that_nobody_may_write_to(
    existing: bool, prosody: DevServer, cast: Cast, tmp_path: Path
) -> None:
    """A container's volume that is mounted read-only, say: exit code 74, and words that say what to do."""
    jid = str(await cast.account(prosody, "bot"))
    folder = tmp_path / "volume"
    folder.mkdir()
    environment = login(prosody, jid) | {"MLS_STORE": str(folder / "bot.db")}
    if existing:
        async with running(sys.executable, "-c", ECHO, folder=tmp_path, **environment) as bot:
            await bot.prints("ready")
            bot.process.terminate()
            assert await bot.ends() == 0, bot.output
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.chmod(0o500)
    try:
        async with running(*POWERLESS, sys.executable, "-c", ECHO, folder=tmp_path, **environment) as bot:
            assert await bot.ends() == 74, bot.output
    finally:
        folder.chmod(0o700)
    assert "bot.db" in bot.output
    assert "must be allowed to write to the folder" in bot.output
    assert "Traceback" not in bot.output, bot.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("octets", [4096, 16_384])
async def test_a_disk_that_refuses_to_grow(octets: int, prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the kernel refuses each write beyond; the next start has all that it needs."""
    jid = str(await cast.account(prosody, "bot"))
    environment = login(prosody, jid) | {"MLS_STORE": str(tmp_path / "bot.db")}
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({octets}, resource.RLIM_INFINITY))\n{ECHO}"
    async with running(sys.executable, "-B", "-c", limited, folder=tmp_path, **environment) as bot:
        assert await bot.ends() == 74, bot.output
    assert "bot.db" in bot.output
    assert "space" in bot.output
    assert "Traceback" not in bot.output, bot.output
    async with running(sys.executable, "-c", ECHO, folder=tmp_path, **environment) as bot:
        await bot.prints("ready")
        bot.process.terminate()
        assert await bot.ends() == 0, bot.output


@pytest.mark.parametrize("octets", [4096, 24_576])
async def test_a_disk_that_is_full(octets: int, prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    jid = str(await cast.account(prosody, "bot"))
    environment = login(prosody, jid) | {"MLS_STORE": str(disk / "bot.db")}
    small = small_disk(disk, octets)
    async with running(sys.executable, "-c", ECHO, folder=tmp_path, **environment, **small) as bot:
        assert await bot.ends() == 74, bot.output
    assert f"no space left for {disk / 'bot.db'}" in bot.output
    assert "free some" in bot.output
    assert "Traceback" not in bot.output, bot.output
    async with running(sys.executable, "-c", ECHO, folder=tmp_path, **environment) as bot:
        await bot.prints("ready")
        bot.process.terminate()
        assert await bot.ends() == 0, bot.output


# --- loops that end --------------------------------------------------------------------------------

TWO_RUNS = dedent("""
    import asyncio, os, sys
    from slixmpp_mls import MLS, Login
    from slixmpp_mls.errors import StoreLocked

    room, refused = sys.argv[1], "refused" in sys.argv
    kept = []

    async def notify(text):
        bot = Login.load().bot(key_packages=2)
        kept.append(bot)  # so that no collection of garbage closes its store
        bot.add_event_handler("session_start", lambda _: bot.send_presence())
        bot.connect(os.environ["XMPP_HOST"], int(os.environ["XMPP_PORT"]))
        mls = MLS.of(bot)
        async with asyncio.timeout(200):
            await mls.ready()
            while room not in mls.rooms or not mls.rooms[room].is_member:
                if not kept[1:]:
                    print("ready", flush=True)
                await asyncio.sleep(0.1)
            await (await mls.rooms[room].send(text)).confirmed
            if refused:
                await again()

    async def again():
        bot = Login.load().bot(key_packages=2)
        kept.append(bot)
        bot.connect(os.environ["XMPP_HOST"], int(os.environ["XMPP_PORT"]))
        try:
            await MLS.of(bot).ready()
        except StoreLocked:
            print("locked", flush=True)
        await bot.disconnect()

    for number in range(3):
        asyncio.run(notify(f"alert number {number}"))
        print("sent", number, flush=True)
""")


@pytest.mark.parametrize("refused", [(), ("refused",)], ids=["alone", "beside one that was refused"])
async def test_one_loop_after_another_with_one_store(
    refused: tuple[str, ...], prosody: DevServer, cast: Cast, tmp_path: Path
) -> None:
    """``asyncio.run`` again and again in one process, in which nobody disconnects or closes anything."""
    alice = await cast.person(prosody, "alice")
    jid = str(await cast.account(prosody, "app"))
    environment = login(prosody, jid) | {"MLS_STORE": str(tmp_path / "app.db")}
    group = await alice.mls.create(f"{unique('room')}@{prosody.rooms}")
    command = (sys.executable, "-c", TWO_RUNS, group.jid, *refused)
    async with running(*command, folder=tmp_path, **environment) as app:
        await app.prints("ready")
        assert not (await group.add(jid)).failed
        assert await app.ends() == 0, app.output
    texts = [f"alert number {number}" for number in range(3)]
    await alice.hears(*texts)
    assert alice.bodies == texts
    assert app.output.count("locked") == (3 if refused else 0)
    assert "Traceback" not in app.output, app.output
