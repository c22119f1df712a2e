"""A client that was written from the specification alone, in a room with people who have the plugin.

``js_client/client.mjs`` knows ``xep/mls.xml``, RFC 9420, ts-mls and xmpp.js, and none of this project's code.
What it and the plugin disagree about is a defect of the document, of one of them, or of both.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from slixmpp import JID, ClientXMPP

from slixmpp_mls import MLS, EncryptedMessage, EncryptedRoom
from slixmpp_mls.devserver import DevServer

from ..conftest import unique
from ..programs import Program, running
from . import ts_mls_peer
from .conftest import absent

pytestmark = pytest.mark.interop
FOLDER = Path(__file__).parent / "js_client"
SECONDS = 120.0
Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


@pytest.fixture(scope="module")
def script() -> tuple[str, ...]:
    """The command that runs the client."""
    if reason := ts_mls_peer.missing():
        absent(reason)
    ts_mls_peer.install(FOLDER)
    node = shutil.which("node")
    assert node
    return node, "--import", str(ts_mls_peer.FOLDER / "repairs.mjs"), str(FOLDER / "client.mjs")


class Stranger:
    """The client as a process: commands go in, events come out, one JSON object a line each."""

    def __init__(self, program: Program, jid: str) -> None:
        self.program = program
        self.jid = jid

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, script: tuple[str, ...], server: DevServer, jid: JID, folder: Path
    ) -> AsyncIterator[Stranger]:
        environment = {
            "XMPP_JID": str(jid),
            "XMPP_PASSWORD": server.accounts[str(jid)],
            "XMPP_SERVICE": f"xmpp://{server.host}:{server.port}",
            "NODE_EXTRA_CA_CERTS": str(server.ca_file),
        }
        async with running(*script, folder=folder, **environment) as program:
            stranger = cls(program, str(jid))
            await stranger.sees("ready")
            yield stranger

    @property
    def events(self) -> list[dict[str, Any]]:
        complete = self.program.output[: self.program.output.rfind("\n") + 1]
        return [json.loads(line) for line in complete.splitlines() if line.startswith("{")]

    async def sees(self, event: str, *, times: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for so many events with these fields; the last of them."""
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    found = [seen for seen in self.events if seen["event"] == event and fields.items() <= seen.items()]
                    if len(found) >= times:
                        return found[times - 1]
                    assert self.program.process.returncode is None, f"it has ended:\n{self.program.output}"
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"it does not see {event} {fields}:\n{self.program.output}") from None

    async def agrees(self, group: EncryptedRoom) -> None:
        """Wait until it is in the epoch of the group, and compare everything that it tells about it."""
        seen = await self.sees("joined" if group.epoch == 1 else "epoch", epoch=group.epoch)
        assert base64.b64decode(seen["authenticator"]) == group.epoch_authenticator
        assert seen["members"] == sorted(f"{member.account}/{member.device}" for member in group.members)

    async def do(self, command: str, **fields: Any) -> None:
        await self.program.type(json.dumps({"command": command, **fields}))


class Person:
    """Somebody with the plugin."""

    def __init__(self, client: ClientXMPP) -> None:
        self.client = client
        self.jid = str(client.boundjid.bare)
        self.mls: MLS = client.plugin["mls"]  # type: ignore[typeddict-item]
        self.heard: asyncio.Queue[EncryptedMessage] = asyncio.Queue()
        client.add_event_handler("mls_message", self.heard.put_nowait)
        self.last: EncryptedMessage
        self.noticed: dict[str, asyncio.Queue[Any]] = {"mls_typing": asyncio.Queue()}
        for name, queue in self.noticed.items():
            client.add_event_handler(name, queue.put_nowait)
        self.rejected: list[object] = []
        client.add_event_handler("mls_rejected", self.rejected.append)

    @classmethod
    async def connected(cls, connect: Connect, server: DevServer, name: str, folder: Path) -> Person:
        config = {"store": str(folder / f"{name}.db"), "key_packages": 2}
        person = cls(await connect(server, name, ("mls", config)))
        async with asyncio.timeout(SECONDS):
            await person.mls.ready()
        return person

    async def hears(self, sender: str) -> str:
        async with asyncio.timeout(SECONDS):
            message = await self.heard.get()
        assert message.sender.account == sender
        self.last = message
        return message.body

    async def notices(self, event: str) -> Any:
        async with asyncio.timeout(SECONDS):
            return await self.noticed[event].get()

    async def reaches(self, room: str, epoch: int) -> EncryptedRoom:
        async with asyncio.timeout(SECONDS):
            while (group := self.mls.rooms.get(room)) is None or group.epoch < epoch:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert group.epoch == epoch
        return group


def test_it_is_as_short_as_promised() -> None:
    """A client of this protocol fits into 450 lines of code, not counting comments and empty lines."""
    lines = [line for name in ("client", "sealed") for line in (FOLDER / f"{name}.mjs").read_text().splitlines()]
    assert sum(1 for line in lines if line.strip() and not line.lstrip().startswith("//")) <= 450


async def test_a_stranger_joins_talks_and_is_removed(
    server: DevServer, account: Account, connect: Connect, script: tuple[str, ...], tmp_path: Path
) -> None:
    alice = await Person.connected(connect, server, "alice", tmp_path)
    carol = await Person.connected(connect, server, "carol", tmp_path)
    jid = await account(server, "stranger")
    room = f"{unique('coven')}@{server.rooms}"
    async with Stranger.connected(script, server, jid, tmp_path) as stranger, asyncio.timeout(6 * SECONDS):
        # It is added, finds its Welcome in the archive, and both read each other.
        group = await alice.mls.create(room)
        await group.send("Said before, for nobody")
        assert not (await group.add(stranger.jid)).failed
        await stranger.sees("invited", by=alice.jid)
        await stranger.agrees(group)
        await group.send("When shall we <three> meet again?")
        said = await stranger.sees("message", body="When shall we <three> meet again?")
        assert (said["sender"], said["forged"], said["shifted"]) == (f"{alice.jid}/{alice.mls.device_id}", False, False)
        await stranger.do("say", text="In thunder & lightning")
        assert await alice.hears(stranger.jid) == "In thunder & lightning"
        await stranger.sees("sent", body="In thunder & lightning")

        # Both tell each other that they type, and the one that it has read; nobody stores it.
        await stranger.do("signal", text="composing")
        typing = await alice.notices("mls_typing")
        assert (typing.sender.account, typing.active, typing.state) == (stranger.jid, True, "composing")
        assert await group.typing()
        seen = await stranger.sees("signal", name="composing")
        assert seen["sender"] == f"{alice.jid}/{alice.mls.device_id}"
        assert await alice.last.displayed()
        assert (await stranger.sees("signal", name="displayed"))["id"] == alice.last.origin_id

        # A third member comes, while the stranger is offline; it catches up.
        await stranger.do("offline")
        await stranger.sees("offline")
        assert not (await group.add(carol.jid)).failed
        await group.send("When the hurlyburly's done")
        await stranger.do("online")
        await stranger.agrees(group)
        await stranger.sees("message", body="When the hurlyburly's done")
        # It reads the encrypted GroupInfos beside the Commits, with the key of its first epoch ...
        await stranger.sees("group-info", epoch=2, keyEpoch=1, signer=f"{alice.jid}/{alice.mls.device_id}")
        await carol.reaches(room, 2)
        assert await carol.hears(alice.jid) == "When the hurlyburly's done"
        await stranger.do("say", text="When the battle's lost and won")
        for person in (alice, carol):
            assert await person.hears(stranger.jid) == "When the battle's lost and won"

        # A member renews its keys.
        await (await carol.reaches(room, 2)).update()
        await alice.reaches(room, 3)
        await stranger.agrees(group)
        await stranger.sees("group-info", epoch=3, keyEpoch=1, signer=f"{carol.jid}/{carol.mls.device_id}")

        # The third member is removed, without the stranger's losing track.
        await group.remove(carol.jid)
        await stranger.agrees(group)
        await stranger.sees("group-info", epoch=4, keyEpoch=4)  # ... and then with another, which Carol does not have
        await stranger.do("say", text="Where the place?")
        assert await alice.hears(stranger.jid) == "Where the place?"
        await group.send("Upon the heath")
        await stranger.sees("message", body="Upon the heath")
        assert carol.heard.empty()

        # The stranger is removed. Let into the room once more, it finds in the archive what it cannot read.
        await group.remove(stranger.jid)
        await stranger.sees("removed")
        await (await group.send("There to meet with Macbeth")).confirmed
        await alice.client.plugin["xep_0045"].set_affiliation(JID(room), "member", jid=JID(stranger.jid))
        await stranger.do("offline")
        await stranger.sees("offline", times=2)
        await stranger.do("online")
        await stranger.sees("unreadable", epoch=group.epoch)
        await stranger.do("say", text="I come, Graymalkin!")
        await stranger.sees("error", why="not a member of the group")

        assert len([event for event in stranger.events if event["event"] == "signal"]) == 2
        bodies = [event["body"] for event in stranger.events if event["event"] == "message"]
        assert bodies == ["When shall we <three> meet again?", "When the hurlyburly's done", "Upon the heath"]
        assert not [event for event in stranger.events if event["event"] in ("lost", "passed-over", "unknown")]
        assert await stranger.program.ends() == 0
    assert not alice.rejected
    assert not carol.rejected
    assert alice.heard.empty()
