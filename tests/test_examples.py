"""The examples, each run as its own process, and talked to through an encrypted room on a real server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from slixmpp import JID, ClientXMPP

from slixmpp_mls import MLS, EncryptedMessage, EncryptedRoom
from slixmpp_mls.devserver import DevServer, Prosody

from .conftest import unavailable_means_skip, unique
from .patience import add_all
from .programs import COMMAND, ROOT, login, running

SECONDS = 120.0
Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


class Person:
    """Somebody who talks to a bot."""

    def __init__(self, client: ClientXMPP) -> None:
        self.client = client
        self.jid = str(client.boundjid.bare)
        self.mls: MLS = client.plugin["mls"]  # type: ignore[typeddict-item]
        self.heard: asyncio.Queue[EncryptedMessage] = asyncio.Queue()
        client.add_event_handler("mls_message", self.heard.put_nowait)

    @classmethod
    async def connected(cls, connect: Connect, server: DevServer, folder: Path) -> Person:
        person = cls(await connect(server, "alice", ("mls", {"store": str(folder / "alice.db"), "key_packages": 2})))
        async with asyncio.timeout(SECONDS):
            await person.mls.ready()
        return person

    async def hears(self, sender: str) -> str:
        async with asyncio.timeout(SECONDS):
            message = await self.heard.get()
        assert message.sender.account == sender
        return message.body

    async def room_with(self, server: DevServer, bot: str) -> EncryptedRoom:
        async with asyncio.timeout(SECONDS):
            group = await self.mls.create(f"{unique('coven')}@{server.rooms}")
        await add_all(group, bot)
        return group


def example(name: str) -> tuple[str, str]:
    return sys.executable, str(ROOT / "examples" / f"{name}.py")


async def test_echo_bot(server: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    """It answers, and what was said while it was away it answers once, when it is back."""
    bot = str(await account(server, "echo"))
    alice = await Person.connected(connect, server, tmp_path)
    async with running(*example("echo_bot"), folder=tmp_path, **login(server, bot)) as program:
        await program.prints("is ready")
        group = await alice.room_with(server, bot)
        await group.send("Fair is foul")
        assert await alice.hears(bot) == f"{alice.jid} said: Fair is foul"
    await group.send("and foul is fair")
    await group.update()
    async with running(*example("echo_bot"), folder=tmp_path, **login(server, bot)) as program:
        assert await alice.hears(bot) == f"{alice.jid} said: and foul is fair"
        await group.send("Hover through the fog")
        assert await alice.hears(bot) == f"{alice.jid} said: Hover through the fog"
    stored = "".join(server.archive(group.jid)) + server.log_text()
    assert group.jid in stored
    for said in ("Fair is foul", "foul is fair", "through the fog"):  # one word alone may be there in Base64
        assert said not in stored


@pytest.mark.server
@pytest.mark.slow
async def test_echo_bot_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    with unavailable_means_skip():
        server = Prosody()
        await server.start()
    try:
        for name in ("alice", "echo"):
            await server.register(name, "secret")
        bot, room = f"echo@{server.domain}", f"coven@{server.rooms}"
        command = [COMMAND, "chat", f"alice@{server.domain}", room, "--create", "--add", bot]
        async with running(*example("echo_bot"), folder=tmp_path, **login(server, bot)) as program:
            await program.prints("is ready")
            async with running(*command, folder=tmp_path, **login(server, f"alice@{server.domain}")) as chat:
                await chat.prints("/help")
                await chat.type("Fair is foul")
                await chat.prints("said: Fair is foul")
                await server.restart()
                await chat.type("and foul is fair")
                await chat.prints("said: and foul is fair")
                await chat.type("/quit")
                assert await chat.ends() == 0, chat.output
        assert chat.output.count("said: Fair is foul") == 1
    finally:
        await server.close()


async def test_notify_bot(prosody: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    """It makes its room, adds people, posts arguments; run again, it finds the room and posts its input."""
    bot = str(await account(prosody, "ci"))
    room = f"{unique('builds')}@{prosody.rooms}"
    alice = await Person.connected(connect, prosody, tmp_path)
    command = [*example("notify_bot"), "--room", room, "--add", alice.jid]
    async with running(*command, "Build 42 failed", folder=tmp_path, **login(prosody, bot)) as program:
        assert await program.ends() == 0, program.output
    assert await alice.hears(bot) == "Build 42 failed"
    async with running(*command, folder=tmp_path, **login(prosody, bot)) as program:
        await program.type("Build 43 failed")
        await program.prints("posted: Build 43")
        await program.type("")
        await program.type("Build 44 passed")
        assert await program.ends() == 0, program.output
    assert [await alice.hears(bot) for _ in range(2)] == ["Build 43 failed", "Build 44 passed"]
    async with (  # at once, as by two cron jobs: one after the other
        running(*command, "Build 45 failed", folder=tmp_path, **login(prosody, bot)) as one,
        running(*command, "Build 46 failed", folder=tmp_path, **login(prosody, bot)) as two,
    ):
        assert [await one.ends(), await two.ends()] == [0, 0], (one.output, two.output)
    assert {await alice.hears(bot) for _ in range(2)} == {"Build 45 failed", "Build 46 failed"}
    assert alice.mls.room(room).accounts == sorted([alice.jid, bot])


async def test_members_bot(prosody: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    """It answers one question, with the fingerprints that the others know too."""
    bot = str(await account(prosody, "porter"))
    alice = await Person.connected(connect, prosody, tmp_path)
    async with running(*example("members_bot"), folder=tmp_path, **login(prosody, bot)) as program:
        await program.prints("is ready")
        group = await alice.room_with(prosody, bot)
        await group.send("Knock, knock!")
        await group.send(" !members ")
        answer = await alice.hears(bot)
    assert answer.startswith("2 devices of 2 people, epoch 1")
    for member in group.members:
        assert f"{member.account}, device {member.device}" in answer
        assert member.fingerprint in answer
    assert alice.mls.fingerprint in answer
    assert alice.heard.empty()


async def test_an_example_without_an_account_says_so(tmp_path: Path) -> None:
    async with running(*example("echo_bot"), folder=tmp_path) as program:
        assert await program.ends() == 1
    assert "which account?" in program.output
    assert "Traceback" not in program.output


@pytest.mark.parametrize("name", ["echo_bot", "members_bot", "notify_bot"])
async def test_an_example_that_cannot_log_in_says_why(
    name: str, prosody: DevServer, account: Account, tmp_path: Path
) -> None:
    environment = login(prosody, str(await account(prosody, "bot"))) | {"XMPP_PASSWORD": "wrong"}
    more = ("--room", f"x@{prosody.rooms}", "x") if name == "notify_bot" else ()
    async with running(*example(name), *more, folder=tmp_path, **environment) as program:
        assert await program.ends() not in (0, -15)
    assert "refuses the password" in program.output
    assert "Traceback" not in program.output
    assert "never awaited" not in program.output


async def test_examples_have_stores_of_their_own(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    """Two in one folder run side by side."""
    bot = str(await account(prosody, "bot"))
    async with running(*example("echo_bot"), folder=tmp_path, **login(prosody, bot)) as one:
        await one.prints("is ready")
        async with running(*example("members_bot"), folder=tmp_path, **login(prosody, bot)) as two:
            await two.prints("is ready")


async def test_the_tested_bot(tmp_path: Path) -> None:
    """The example of a bot's tests, run by pytest in a process of its own, which finds the fixtures by itself."""
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "examples"))
    async with running(*command, "-c", "/dev/null", "--rootdir", str(tmp_path), folder=tmp_path) as program:
        assert await program.ends() == 0, program.output
    assert "2 passed" in program.output
