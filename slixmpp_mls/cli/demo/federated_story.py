"""The story of ``demo --federated``: a room on one server, members on two, and the link between them breaks.

As in :mod:`.story`, every claim on the screen is checked before it is printed.  The words are those of the witches
and of Banquo, Macbeth I.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ...delivery import DeviceDirectory
from ...devserver import DevServer, Line
from ...rooms.epoch_code import EpochComparison
from .story import STEP_TIMEOUT, Person, Story, fragments
from .timeline import DemoFailed, Timeline

__all__ = ["SELF_PING", "FederatedStory"]

SELF_PING = 2.0  # seconds: a silent occupant soon notices that the room has dropped it


class FederatedStory(Story):
    """:param servers: the first hosts the room, and the first of the people; the others are on the second
    :param line: what connects the two
    """

    def __init__(self, servers: Sequence[DevServer], line: Line, people: Sequence[Person], timeline: Timeline) -> None:
        super().__init__(servers[0], people, timeline)
        self.servers = servers
        self.line = line

    async def tell(self) -> None:
        """:raises DemoFailed: something is not as it should be"""
        try:
            await self._connect()
            await self._find_each_other()
            await self._meet()
            await self._talk()
            await self._break_the_link()
            await self._remove()
        except TimeoutError:
            raise DemoFailed(f"nothing happens any more ({self.show.expected})") from None
        self._look_at_the_servers()

    async def _connect(self) -> None:
        alpha, beta = self.servers
        self.show.chapter("Two servers, and a line between them")
        for server, note in ((alpha, "it will host the room"), (beta, "another administrator's")):
            self.show.row("", f"{server.domain}: {server.software} at {server.host}, {note}")
        self.show.expect("Logging in and publishing keys")
        await asyncio.gather(*(person.come() for person in self.people))
        for person in self.people:
            self.show.row(person.name, f"is online, as {person.jid}")

    async def _find_each_other(self) -> None:
        alice, bob, carol = self.people
        for reader, other in ((alice, bob), (bob, alice), (alice, carol)):
            self.show.expect("Reading from the other server")
            devices = await DeviceDirectory(reader.client).items(other.jid)
            packages = await reader.mls.directory.items(other.jid)
            self.show.check(
                reader.name,
                f"reads on {other.jid.partition('@')[2]}: {other.name}'s device, and {len(packages)} KeyPackages",
                other.mls.device_id in devices and bool(packages),
            )

    async def _talk(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("They talk")
        await self._say(alice, "Where hast thou been, sister?", bob, carol)
        await self._say(bob, "Killing swine.", alice, carol)
        await self._say(carol, "Sister, where thou?", alice, bob)

    async def _break_the_link(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("The line between the servers is cut")
        self.line.cut()
        before = self._room_of(alice).epoch
        self.show.row("", "all connections between the two servers are gone, and new ones refused")
        self.show.expect("Talking and committing on both sides")
        here, there = "A sailor's wife had chestnuts in her lap.", "I'll give thee a wind."
        sent = await self._room_of(bob).send(there)
        await bob.until(lambda: not self._room_of(bob).live)
        self.show.check(
            "bob", f"says “{there}”: the room is out of reach, it is kept for later", not sent.confirmed.done()
        )
        bobs_update = asyncio.create_task(self._room_of(bob).update())
        async with asyncio.timeout(STEP_TIMEOUT):
            await (await self._room_of(alice).send(here)).confirmed
            changed = await self._room_of(alice).update()
        self.show.check(
            "alice",
            f"says “{here}”, and renews her keys: epoch {before} → {changed.epoch}",
            changed.epoch == before + 1,
        )
        self.show.check(
            "bob",
            f"renews his keys, too: his Commit waits in epoch {self._room_of(bob).epoch}; he has not heard alice",
            not bobs_update.done() and self._room_of(bob).epoch == before and here not in bob.read,
        )

        self.show.chapter("The line is back")
        self.show.expect("Waiting until the servers have found each other")
        await self.line.restore()
        async with asyncio.timeout(2 * STEP_TIMEOUT):
            await asyncio.gather(sent.confirmed, bobs_update)
            for person, line in ((alice, there), (bob, here), (carol, here), (carol, there)):
                await person.until(lambda person=person, line=line: line in person.read)  # type: ignore[misc]
            for person in self.people:
                await person.until(lambda person=person: self._room_of(person).epoch == before + 2)  # type: ignore[misc]
        self.said += [("alice", here), ("bob", there)]
        self.show.check("carol", "has read both lines, and so have bob and alice: each once", self._each_once())
        self.show.check(
            "bob", f"made his Commit anew after alice's: epoch {before + 2}", (await bobs_update).epoch == before + 2
        )
        code = self._room_of(alice).epoch_code
        same = [self._room_of(person).compare(code) is EpochComparison.SAME for person in (bob, carol)]
        self.show.check("", f"alice tells the others her epoch's code {code}: both have the same", all(same))

    def _each_once(self) -> bool:
        """Whether everybody has read what the others have said, nothing twice and nothing else."""
        return all(
            sorted(person.read) == sorted(line for speaker, line in self.said if speaker != person.name)
            for person in self.people
        )

    async def _remove(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("One is removed")
        self.show.expect("Removing carol")
        removed = await self._room_of(alice).remove(carol.jid)
        gone = [one.account for one in removed] == [carol.jid]
        self.show.check("alice", "removed carol, who is on the other server", gone)
        room = carol.mls.room(self.room)
        await carol.until(lambda: not room.is_member)
        await self._say(bob, "Thou art kind.", alice)
        self.show.check("carol", "has been told, and has not read that", "Thou art kind." not in carol.read)

    def _look_at_the_servers(self) -> None:
        self.show.chapter("What the servers have")
        self.show.expect("Reading the servers' disks")
        parts = [part for _, line in self.said for part in fragments(line)]
        for server in self.servers:
            disk, logs = server.disk_text(), server.log_text()
            # Without the name of one who lives there this would pass on an empty disk.
            local = next(person.name for person in self.people if person.jid.endswith(f"@{server.domain}"))
            found = [part for part in parts if part in disk or part in logs]
            self.show.check(
                "",
                f"{server.domain} knows {local}, and not a word of what was said",
                local in disk and bool(parts) and not found,
            )
        wire = bytes(self.line.octets)
        self.show.check(
            "",
            f"{len(wire) // 1000} kB went over the line: TLS after the greetings, no stanza in clear",
            b"<proceed" in wire and b"<message" not in wire and not any(part.encode() in wire for part in parts),
        )
