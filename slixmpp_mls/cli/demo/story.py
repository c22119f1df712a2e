"""The story of the demo: three people meet in an encrypted room, and what their server has of it.

Every claim on the screen is checked before it is printed; the first that does not hold ends the story.
The words are those of the three witches, Macbeth I.1.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ...authentication import DeviceListService
from ...client import Device, Incoming, KeyPackageSettings, RoomGroup
from ...client.group.actions import MoveOn, Read
from ...delivery import DeviceDirectory
from ...delivery.archive import Archive
from ...devserver import DevServer
from ...errors import DeliveryError, UsageError
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.structures.framing import MLSMessage
from ...mls.structures.proposals import Remove
from ...plugin import MLS
from ...rooms.encrypted_message import EncryptedMessage
from ...rooms.encrypted_room import EncryptedRoom
from ...rooms.epoch_code import EpochComparison
from ...stanza import Application, KeyPackage, RoomElement, payloads
from ...store import MemoryStore, SQLiteStore, Store, copied_to_memory
from ...testing import commit_against_policy
from ..terminal import colour_of, new_password
from .timeline import DemoFailed, Timeline

__all__ = ["STEP_TIMEOUT", "Person", "Story", "fragments"]

STEP_TIMEOUT = 90.0  # seconds for any one thing to happen


class Person:
    """An account with one device, and what it has read.

    :param config: more for the plugin
    """

    def __init__(self, name: str, server: DevServer, folder: Path, **config: Any) -> None:
        self._config = config
        self.name = name
        self.jid = f"{name}@{server.domain}"
        self.file = folder / f"{name}.db"
        self.read: list[str] = []
        self._server = server
        self._store: SQLiteStore | None = None
        self.news = asyncio.Event()

    def configure(self, **config: Any) -> None:
        """Change the plugin's configuration, from the next connection on."""
        self._config |= config

    async def come(self) -> None:
        """Make the account, and connect."""
        await self._server.register(self.name, new_password())
        await self.connect()

    async def connect(self) -> None:
        """Start a new client on what the file holds, as a program that was started again would."""
        self._store = SQLiteStore(self.file, self.jid)
        self.client = self._server.client(self.jid)
        self.client.register_plugin("mls", {"store": self._store, "key_packages": 10, **self._config})
        self.client.add_event_handler("mls_message", self._heard)
        for event in ("mls_joined", "mls_group_changed", "mls_group_continued", "mls_removed", "mls_interrupted"):
            self.client.add_event_handler(event, lambda _: self.news.set())
        await self._server.connect(self.client)
        await self.mls.ready()

    async def disconnect(self) -> None:
        """End the client; the file stays."""
        if self._store is None:
            return
        await self.client.disconnect()
        self.client.plugin.disable("mls")  # type: ignore[attr-defined]
        self._store.close()
        self._store = None

    def _heard(self, message: EncryptedMessage) -> None:
        self.read.append(message.body)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with an event.

        :raises TimeoutError: it does not come
        """
        async with asyncio.timeout(STEP_TIMEOUT):
            while not condition():
                self.news.clear()
                await self.news.wait()

    @property
    def mls(self) -> MLS:
        """The plugin."""
        plugin: MLS = self.client.plugin["mls"]  # type: ignore[typeddict-item]
        return plugin

    def copied_keys(self) -> MemoryStore:
        """All that this device has stored, at this moment."""
        assert self._store is not None
        return copied_to_memory(self._store)


class Story:
    """:param people: three, not connected yet"""

    def __init__(self, server: DevServer, people: Sequence[Person], timeline: Timeline) -> None:
        self.server = server
        self.people = people
        self.show = timeline
        self.room = f"coven@{server.rooms}"
        self.said: list[tuple[str, str]] = []

    async def tell(self) -> None:
        """:raises DemoFailed: something is not as it should be"""
        try:
            await self._connect()
            await self._meet()
            await self._talk()
            await self._compare()
            await self._intrude()
            await self._go_and_come_back()
            await self._remove()
        except TimeoutError:
            raise DemoFailed(f"nothing happens any more ({self.show.expected})") from None
        self._look_at_the_server()

    async def _connect(self) -> None:
        server = self.server
        self.show.chapter("Three people connect")
        self.show.row("", f"{server.software} listens at {server.host} port {server.port}, as stock as it comes")
        self.show.expect("Logging in and publishing keys")
        await asyncio.gather(*(person.come() for person in self.people))
        for person, reader in zip(self.people, [*self.people[1:], self.people[0]], strict=True):
            items = await reader.mls.directory.items(person.jid)
            mark = person.mls.fingerprint[:17]
            self.show.check(person.name, f"online; {len(items)} KeyPackages of device {mark} … published", bool(items))

    async def _meet(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("An encrypted room")
        self.show.expect("Making the room")
        room = await alice.mls.create(self.room)
        self.show.row("alice", f"made {self.room}: members only, archived, and a group with herself in it")
        self.show.expect("Adding people")
        result = await room.add(bob.jid, carol.jid)
        self.show.check("alice", "added bob and carol: one stanza, a Commit and a Welcome", not result.failed)
        for person in (bob, carol):
            await person.until(lambda person=person: self._is_member(person))  # type: ignore[misc]
            members = ", ".join(account.partition("@")[0] for account in self._room_of(person).accounts)
            self.show.check(person.name, f"is in, with {members}", len(self._room_of(person).members) == 3)

    async def _talk(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("They talk")
        await self._say(alice, "When shall we three meet again? In thunder, lightning, or in rain?", bob, carol)
        await self._say(bob, "When the hurlyburly's done, when the battle's lost and won.", alice, carol)
        await self._say(carol, "That will be ere the set of sun.", alice, bob)

    async def _compare(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("Who is who, and who may what")
        self.show.expect("Comparing fingerprints")
        refused = await _refusal(alice.mls.trust.verify(bob.jid, carol.mls.fingerprint))
        self.show.check("alice", f"takes carol's fingerprint for bob's: {refused}", bool(refused))
        mark = bob.mls.fingerprint[:17]
        self.show.row("bob", f"shows a QR code of his key {mark} …")
        (key,) = await alice.mls.trust.verify(bob.jid, bob.mls.trust.uri())
        levels = {member.account: str(member.level) for member in self._room_of(alice).members}
        self.show.check(
            "alice", f"scans it: bob is {levels[bob.jid]}, carol is {levels[carol.jid]} on first use",
            key.fingerprint == bob.mls.fingerprint and (levels[bob.jid], levels[carol.jid]) == ("verified", "trusted"),
        )  # fmt: skip

    async def _intrude(self) -> None:
        alice, bob, carol = self.people
        room = self._room_of(alice)
        self.show.expect("Adding an intruder")
        intruder = Device(MemoryStore(bob.jid), settings=KeyPackageSettings((room.suite,)))
        bundle = intruder.key_packages.make(CipherSuite.get(intruder.suites[0]), alice.mls.now)
        reference = bundle.reference.hex()
        element = KeyPackage(reference, bundle.key_package.cipher_suite, MLSMessage.wrap(bundle.key_package), False)
        devices = DeviceDirectory(bob.client)
        await bob.mls.directory.publish_many({reference: element.to_stdlib()})
        await DeviceListService(devices).issue(intruder.identity, intruder.signature_keys())
        self.show.row("", "the server puts a device of its own among bob's, with a KeyPackage")
        result = await room.add(bob.jid)
        refused = result.skipped.get(str(intruder.identity), "")
        self.show.check(
            "alice", f"does not add it: {refused}", bool(refused) and not result.added and len(room.members) == 3
        )
        await devices.retract(intruder.identity.device)
        await bob.mls.directory.retract(reference)

        self.show.expect("Breaking the rules")
        refused = await _refusal(self._room_of(bob).remove(carol.jid))
        self.show.check("bob", f"may not remove carol: {refused}", bool(refused))
        rejected = self._news_of_rejections()
        bobs = self._room_of(bob)
        (leaf,) = bobs.group.roster.leaves_of(carol.jid)
        await bobs.worker.transmitter.transmit(commit_against_policy(bobs.group, [Remove(leaf)], bob.mls.now))
        self.show.row("bob", "has changed his program, which commits it all the same")
        for person in self.people:
            await person.until(lambda person=person: person.name in rejected)  # type: ignore[misc]
        self.show.check(
            "", f"ignored by all, by bob's own program, too: {rejected['carol']}",
            all(len(self._room_of(person).members) == 3 for person in self.people),
        )  # fmt: skip
        await self._say(carol, "I come, Graymalkin!", alice, bob)

    def _news_of_rejections(self) -> dict[str, str]:
        """Why each of the people has refused something, from now on."""
        rejected: dict[str, str] = {}

        def note(person: Person, reason: object) -> None:
            rejected[person.name] = str(reason)
            person.news.set()

        for person in self.people:
            person.client.add_event_handler("mls_rejected", lambda event, who=person: note(who, event.error))
            person.client.add_event_handler("mls_commit_lost", lambda event, who=person: note(who, event.reason))
        return rejected

    async def _go_and_come_back(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("One goes, one comes back")
        await carol.disconnect()
        self.show.row("carol", "is gone: her client has ended, her keys are in a file")
        missed = [await self._say(alice, "Where the place?", bob), await self._say(bob, "Upon the heath.", alice)]
        before = self._room_of(bob).epoch
        self.show.expect("Waiting for a Commit")
        changed = await self._room_of(bob).update()
        self.show.check("bob", f"renewed his keys: a Commit, epoch {before} → {changed.epoch}", changed.epoch > before)
        self.show.expect("Waiting for carol to catch up")
        del carol.read[:]
        await carol.connect()
        await carol.until(lambda: len(carol.read) >= 2 and self._room_of(carol).epoch == changed.epoch)
        self.show.check("carol", "is back, and has caught up from the room's archive:", carol.read == missed)
        for line in carol.read:
            self.show.row("", Text(f"  “{line}”", style="italic"))
        await alice.until(lambda: self._room_of(alice).epoch == changed.epoch)
        code = self._room_of(alice).epoch_code
        same = [self._room_of(person).compare(code) is EpochComparison.SAME for person in (bob, carol)]
        self.show.check("", f"alice tells the others her epoch's code {code}: both have the same", all(same))
        await self._say(carol, "There to meet with Macbeth.", alice, bob)

    async def _remove(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("One is removed")
        bobs_keys, carols_keys = bob.copied_keys(), carol.copied_keys()
        known = len(self.server.archive(self.room))
        self.show.row("bob", "secretly copies all his keys")
        self.show.expect("Removing bob")
        room = self._room_of(alice)
        removed = await room.remove(bob.jid)
        self.show.check("alice", f"removed bob: epoch {room.epoch}", [one.account for one in removed] == [bob.jid])
        bobs_room = bob.mls.room(self.room)
        await bob.until(lambda: not bobs_room.is_member)
        read_before = len(bob.read)
        await self._say(alice, "Fair is foul, and foul is fair:", carol)
        await self._say(alice, "Hover through the fog and filthy air.", carol)
        answer = await _refusal(bobs_room.send("Double, double toil and trouble"))
        self.show.check("bob", f"is online still, and wants to speak: {answer}", bool(answer))
        answer = await _refusal(Archive(bob.client, self.room).last_id())
        self.show.check("bob", f"asks for the archive: {answer}", bool(answer) and bob.client.is_connected())
        self.show.check("bob", "has read nothing since", len(bob.read) == read_before)
        later = self.server.archive(self.room)[known:]
        self.show.check(
            "bob",
            "is given all ciphertext by the server's administrator, and tries his copied keys: reads 0 of 2",
            self._readable(bobs_keys, later) == 0,
        )
        self.show.check(
            "", "(a copy of carol's keys of that moment reads 2 of 2)", self._readable(carols_keys, later) == 2
        )

    def _look_at_the_server(self) -> None:
        server = self.server
        self.show.chapter("What they read, and what the server has")
        self.show.expect("Reading the server's disk")
        table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
        table.add_column("people", style="italic", overflow="fold", ratio=2)
        table.add_column("the server's archive", style="dim", overflow="fold", ratio=3)
        unsaid = iter(self.said)
        stored = [_elements(stanza) for stanza in server.archive(self.room)]
        for elements in stored:
            read = Text()
            if any(isinstance(element, Application) for element in elements):
                speaker, line = next(unsaid, ("?", ""))
                read = Text.assemble((f"{speaker} ", f"bold not italic {colour_of(speaker)}"), line)
            table.add_row(read, "\n".join(map(_summary, elements)))
        self.show.show(table)
        self.show.show("")
        kept = sum(isinstance(element, Application) for elements in stored for element in elements)
        self.show.check("", f"the archive has the {len(self.said)} messages, each once", kept == len(self.said))
        disk, logs = server.disk_text(), server.log_text()
        # Without this the next check would pass on an empty disk.
        self.show.check("", f"the server's files tell who met where: {self.room}", self.room.partition("@")[0] in disk)
        parts = [part for _, line in self.said for part in fragments(line)]
        found = [part for part in parts if part in disk or part in logs]
        self.show.check("", "not a word of what was said is in its files or logs", bool(parts) and not found)

    # --- pieces ------------------------------------------------------------------------------------

    def _room_of(self, person: Person) -> EncryptedRoom:
        return person.mls.room(self.room)

    def _is_member(self, person: Person) -> bool:
        return self.room in person.mls.rooms and self._room_of(person).is_member

    async def _say(self, speaker: Person, line: str, *readers: Person) -> str:
        self.show.expect(f"Waiting until {', '.join(person.name for person in readers)} can read")
        sent = await self._room_of(speaker).send(line)
        async with asyncio.timeout(STEP_TIMEOUT):
            await sent.confirmed
        for reader in readers:
            await reader.until(lambda reader=reader: line in reader.read)  # type: ignore[misc]
        self.said.append((speaker.name, line))
        names = ", ".join(reader.name for reader in readers)
        self.show.row(speaker.name, Text.assemble((f"“{line}”", "italic"), (f"  → {names}", "dim")))
        return line

    def _readable(self, keys: Store, stanzas: Sequence[str]) -> int:
        """How many messages among the stanzas can be read with the keys in a store."""
        group = RoomGroup(Device(keys), self.room)
        now = self.people[0].mls.now
        count = 0
        for number, stanza in enumerate(stanzas):
            step = group.processing.examine(Incoming(str(number), tuple(_elements(stanza))), now)
            count += isinstance(step.action, Read)
            # A removed client that refuses to obey its removal keeps its keys.
            if not (isinstance(step.action, MoveOn) and step.action.roster is None):
                group.applying.accept(step, now)
        return count


async def _refusal(attempt: Awaitable[object]) -> str:
    """Why something is refused; empty if it is not."""
    try:
        async with asyncio.timeout(STEP_TIMEOUT):
            await attempt
    except (DeliveryError, UsageError) as error:
        return str(error)
    return ""


def _elements(stanza: str) -> list[RoomElement]:
    return [element for element in payloads(stanza) if isinstance(element, RoomElement)]


def _summary(element: RoomElement) -> str:
    """An element as it lies in the archive, with the end of its base64: the beginnings are all alike."""
    text = (element.to_lxml().text or "").strip()
    return f"{element.NAME}, epoch {element.epoch}, {len(element.data)} bytes …{text[-16:]}"


def fragments(line: str) -> list[str]:
    """Parts of a line that look the same in any encoding of XML, long enough to be there for one reason only."""
    return [part for part in re.split(r"['&<>\"]", line) if len(part) > 8]
