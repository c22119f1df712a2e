"""Groups whose ratchet tree does not fit beside the Welcome, on real servers.

One is really that large: most of its members are KeyPackages of devices that never come.  In the others,
the first answer to whether a Commit fits into a stanza is no.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from types import MethodType
from typing import Any

import pytest
import pytest_asyncio
from slixmpp import JID, ClientXMPP

from slixmpp_mls.authentication import AcceptAll
from slixmpp_mls.client import Device, KeyPackageSettings
from slixmpp_mls.client.group.sending import _record
from slixmpp_mls.client.storage.records import OutboxKind
from slixmpp_mls.delivery import MAX_STANZA, DeviceDirectory, KeyPackageDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DeliveryError, InvalidError, NoUploadService, StanzaTooLarge, TransferFailed
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_creation import CommitDraft
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.registry import CipherSuiteId as SuiteId
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.plugin import MLS
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.rooms.encrypted_room import EncryptedRoom
from slixmpp_mls.rooms.engine import annotation_exchange, blob_fetching
from slixmpp_mls.rooms.engine.parts import RoomParts
from slixmpp_mls.stanza import Commit, KeyPackage, RoomElement
from slixmpp_mls.stanza.blob import BlobReference
from slixmpp_mls.stanza.elements import MAX_MESSAGE, Key
from slixmpp_mls.stanza.elements import Device as DeviceElement
from slixmpp_mls.store import MemoryStore

from ..conftest import unique
from ..plugins import disable_mls, mls_of

PATIENCE = 300.0  # seconds, for what takes a second or two on a machine with nothing else to do
ACCOUNTS, DEVICES = 4, 210  # PEP keeps 256 items on Prosody


class Recorded(ClientXMPP):
    """A client that knows its largest stanza."""

    largest = 0
    uploads = 0

    def send_raw(self, data: str | bytes) -> None:
        text = data.decode() if isinstance(data, bytes) else data
        self.largest = max(self.largest, len(text.encode()))
        self.uploads += bool(re.search(r"<request [^>]*filename=", text))
        super().send_raw(data)


class People:
    def __init__(self, server: DevServer) -> None:
        self.server = server
        self.clients: list[Recorded] = []
        self.stores: dict[str, MemoryStore] = {}
        self.ends: list[Callable[[], object]] = []
        self.heard: dict[str, list[str]] = {}
        self.rejected: list[Any] = []

    async def come(self, who: str | JID, **config: Any) -> tuple[Recorded, MLS]:
        """Somebody new, or (with a JID) somebody who has been away."""
        jid = who if isinstance(who, JID) else await self.server.register(unique(who), "secret")
        client = self.server.client(jid, factory=Recorded)
        store = self.stores.setdefault(jid.bare, MemoryStore(jid.bare))
        client.register_plugin("mls", {"store": store, "key_packages": 2, "cipher_suites": (1,), **config})
        heard = self.heard.setdefault(jid.bare, [])
        client.add_event_handler("mls_message", lambda message: heard.append(message.body))
        client.add_event_handler("mls_rejected", self.rejected.append)
        self.clients.append(client)
        await self.server.connect(client)
        mls = mls_of(client)
        await mls.ready()
        return client, mls

    async def room(self, mls: MLS) -> EncryptedRoom:
        """A new room, which believes at first that a Commit with a Welcome does not fit, and then that it does."""
        group = await mls.create(f"{unique('coven')}@{self.server.rooms}")
        draft_commit, fresh = group.group.sending.draft_commit, False

        def draft(*arguments: Any, **options: Any) -> CommitDraft:
            nonlocal fresh
            fresh = True
            return draft_commit(*arguments, **options)

        def check_size(found: Sequence[RoomElement]) -> None:
            nonlocal fresh
            names = {element.NAME for element in found}
            if names >= {"welcome", "group-info"} or (fresh and "welcome" in names):
                fresh = fresh and "group-info" in names
                raise StanzaTooLarge(300_000, MAX_STANZA)

        group.group.sending.draft_commit = draft  # type: ignore[method-assign]
        group.worker.parts.fits = check_size  # type: ignore[method-assign, assignment]
        return group

    async def joined(self, mls: MLS, room: str) -> EncryptedRoom:
        await until(lambda: room in mls.rooms and mls.rooms[room].is_member and mls.rooms[room].live)
        return mls.room(room)

    async def leave(self, client: Recorded) -> None:
        with suppress(TimeoutError):  # a stream that only broke would get the invitation, when it is resumed
            await asyncio.wait_for(client.disconnect(wait=1.0), 3)
        disable_mls(client)
        client.abort()
        client.cancel_connection_attempt()

    async def end(self) -> None:
        for undo in self.ends:
            undo()
        for client in self.clients:
            if "mls" in client.plugin:
                await self.leave(client)

    async def crowd(self, name: str, count: int, number: int = 1) -> str:
        """An account with many devices, of which there are only the directory's entries; its bare JID.

        :param number: of their cipher suite
        """
        jid = await self.server.register(unique(name), "secret")
        client = self.server.client(jid)
        await self.server.connect(client)
        suite, now = CipherSuite.get(number), int(time.time())
        devices, packages = {}, {}
        for _ in range(count):
            device = Device(MemoryStore(jid.bare), settings=KeyPackageSettings((number,), count=0))
            bundle = device.key_packages.make(suite, now)
            ref = bundle.reference.hex()
            packages[ref] = KeyPackage(ref, number, MLSMessage.wrap(bundle.key_package), False).to_stdlib()
            keys = tuple(Key(scheme, key) for scheme, key in device.signature_keys().items())
            devices[device.identity.device] = DeviceElement(device.identity.device, keys).to_stdlib()
        await DeviceDirectory(client).publish_many(devices)
        await KeyPackageDirectory(client).publish_many(packages)
        client.abort()
        return jid.bare


@pytest_asyncio.fixture
async def people(server: DevServer) -> AsyncIterator[People]:
    people = People(server)
    yield people
    await people.end()


async def until(condition: Any, seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def after_putting(mls: MLS, then: Callable[[], Awaitable[object]]) -> list[BlobReference]:
    """Something happens each time between an upload and what is made of it; the references."""
    put, places = mls.uploads.put, []

    async def wrapped(data: bytes) -> BlobReference:
        places.append(await put(data))
        await then()
        return places[-1]

    mls.uploads.put = wrapped  # type: ignore[method-assign]
    return places


async def nothing() -> None:
    pass


def delete(server: DevServer, place: BlobReference) -> None:
    """Take an uploaded file away; the server, which goes on meanwhile, may do so with files of its own."""
    found = 0
    for path in server.directory.rglob("*"):
        with suppress(FileNotFoundError):
            if (
                path.is_file()
                and path.stat().st_size == place.size
                and sha256(path.read_bytes()).digest() == place.hash
            ):
                path.unlink()
                found += 1
    assert found == 1


@pytest.mark.slow
@pytest.mark.parametrize("server", ["prosody"], indirect=True)
async def test_eight_hundred_devices(people: People) -> None:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}")

    crowds = await asyncio.gather(*(people.crowd(f"crowd{number}", DEVICES) for number in range(ACCOUNTS)))
    say("directory filled")
    room = f"{unique('coven')}@{people.server.rooms}"
    client, alice = await people.come("alice")
    # By default an account may have 32 devices: these are too many on purpose.
    policy = RoomPolicy(room, (client.boundjid.bare,), max_devices=DEVICES)
    group = await alice.create(room, policy=policy)
    result = await group.add(*crowds)
    say(f"{len(result.added)} devices added in {group.epoch} Commits, largest stanza {client.largest} octets")
    assert (result.failed, result.skipped) == ({}, {})
    assert len(result.added) == ACCOUNTS * DEVICES
    assert len(group.members) == ACCOUNTS * DEVICES + 1
    # Split well: hardly more Commits than the octets of their Adds ask for.
    assert group.epoch <= 4
    tree = len(group.group.mls.tree.encode())
    assert tree * 4 / 3 > MAX_STANZA, "the ratchet tree would fit into a stanza: this test shows nothing"

    uploads = client.uploads
    others = [await people.come(name) for name in ("bob", "carol", "dave")]
    result = await group.add(*(each.boundjid.bare for each, _ in others))
    assert len(result.added) == 3
    assert client.uploads > uploads  # once, or again if the web server was too busy
    await until(lambda: all(room in mls.rooms and mls.rooms[room].is_member for _, mls in others))
    groups: list[EncryptedRoom] = [group, *(mls.room(room) for _, mls in others)]
    await until(lambda: all(each.live for each in groups))
    say(f"three joined; tree of {tree} octets")
    assert len({each.epoch_authenticator for each in groups}) == 1

    await groups[1].send("When shall we three meet again")
    await groups[2].send("In thunder, lightning, or in rain")
    await until(lambda: sorted(len(heard) for heard in people.heard.values()) == [1, 1, 2, 2])
    epoch = group.epoch
    changed = await groups[3].update()
    assert changed.epoch == epoch + 1
    await until(lambda: len({each.epoch_authenticator for each in groups}) == 1)
    sent = await groups[3].send("When the hurlyburly's done")
    await sent.confirmed
    await until(lambda: sum("hurlyburly" in text for heard in people.heard.values() for text in heard) == 3)
    say(f"talked, one has committed; largest stanza {max(each.largest for each in people.clients)} octets")
    assert max(each.largest for each in people.clients) <= MAX_STANZA
    assert not people.rejected
    assert len(groups[1].members) == ACCOUNTS * DEVICES + 4


async def grow(group: EncryptedRoom, count: int, at_once: int = 400) -> None:
    """Add devices that never come; nobody's Welcome is made, for a Welcome with the whole tree is not the subject."""
    suite, now, sending = group.group.mls.suite, int(time.time()), group.group.sending
    members = len(group.members)
    for start in range(0, count, at_once):
        mls, adds = group.group.mls, []
        for number in range(start, min(count, start + at_once)):
            device = Device(MemoryStore(f"u{number}@crowd.example"), settings=KeyPackageSettings(count=0))
            adds.append(Add(device.key_packages.make(suite, now).key_package))
        bundle = mls.finish_commit(mls.draft_commit(adds, now=now, by_reference=()))
        assert isinstance(bundle.sent, Group)
        record = _record(OutboxKind.COMMIT, mls.epoch, bundle.commit)
        await group.worker.transmitter.transmit(sending._put_out(bundle.sent, record, group.worker.parts.fits, bundle))
        await until(lambda before=mls.epoch: group.epoch == before + 1, PATIENCE)
    assert len(group.members) == members + count


@pytest.mark.slow
@pytest.mark.timeout(1200)  # beside other tests
@pytest.mark.parametrize("server", ["prosody"], indirect=True)
async def test_five_thousand_members(people: People) -> None:
    """The tree is longer than an element may be (786 kB): people can be added all the same, talk, and renew keys.

    The tree goes beside the Welcome, no GroupInfo stands beside the Commit, and the first path, which has a ciphertext
    for each member of a tree without parent keys, is uploaded.
    """
    client, alice = await people.come("alice", authentication=AcceptAll())
    others = [await people.come(name, authentication=AcceptAll()) for name in ("bob", "carol")]
    hers = await alice.create(f"{unique('coven')}@{people.server.rooms}")
    # The crowd has no affiliations with the room: nobody is to be put out for that.
    hers.membership.affiliations.may_expel = lambda own: False  # type: ignore[method-assign]
    await grow(hers, 5000)
    tree = len(hers.group.mls.tree.encode())
    assert tree > MAX_MESSAGE, "this would fit into an element: the test shows nothing"
    uploads = client.uploads
    result = await hers.add(*(each.boundjid.bare for each, _ in others))
    assert (len(result.added), result.failed, result.skipped) == (2, {}, {})
    assert client.uploads > uploads
    for _, mls in others:
        await until(lambda mls=mls: hers.jid in mls.rooms and mls.rooms[hers.jid].is_member, PATIENCE)
    bobs, carols = [await people.joined(mls, hers.jid) for _, mls in others]
    assert len({each.epoch_authenticator for each in (hers, bobs, carols)}) == 1
    assert len(bobs.members) == 5003
    changed = await bobs.update()
    await until(lambda: hers.epoch == carols.epoch == changed.epoch, PATIENCE)
    await carols.send("When shall we three meet again")
    listeners = [people.heard[each.boundjid.bare] for each in (client, others[0][0])]
    await until(lambda: all(heard == ["When shall we three meet again"] for heard in listeners), PATIENCE)
    assert len({each.epoch_authenticator for each in (hers, bobs, carols)}) == 1
    assert max(each.largest for each in people.clients) <= MAX_STANZA
    assert not people.rejected


@pytest.mark.slow
@pytest.mark.timeout(1200)  # beside other tests
async def test_joining_two_thousand_before_the_tree_is_there(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob reads and sends while the tree is held back; then he knows all, and has missed nothing."""
    client, alice = await people.come("alice", authentication=AcceptAll())
    bobs, bob = await people.come("bob", authentication=AcceptAll())
    carols, carol = await people.come("carol", authentication=AcceptAll(), partial_from=None)
    hers = await alice.create(f"{unique('coven')}@{people.server.rooms}")
    hers.membership.affiliations.may_expel = lambda own: False  # type: ignore[method-assign]
    await grow(hers, 2000)
    tree, get = asyncio.Event(), bob.uploads.get

    async def later(place: BlobReference) -> bytes:
        await tree.wait()
        return await get(place)

    monkeypatch.setattr(bob.uploads, "get", later)
    stages: list[str] = []
    bobs.add_event_handler("mls_whole_tree", lambda event: stages.append(event.stage))
    result = await hers.add(bobs.boundjid.bare, carols.boundjid.bare)
    assert (len(result.added), result.failed, result.skipped) == (2, {}, {})
    await until(lambda: hers.jid in bob.rooms and bob.rooms[hers.jid].partial and bob.rooms[hers.jid].live, PATIENCE)
    his = bob.room(hers.jid)
    assert not his.is_member
    assert his.accounts == sorted((client.boundjid.bare, bobs.boundjid.bare))
    assert his.epoch_authenticator == hers.epoch_authenticator
    third = await people.joined(carol, hers.jid)
    await hers.send("When shall we three meet again")
    heard = people.heard[bobs.boundjid.bare]
    await until(lambda: heard == ["When shall we three meet again"], PATIENCE)
    await (await his.send("In thunder, lightning, or in rain")).confirmed
    await until(lambda: "In thunder, lightning, or in rain" in people.heard[client.boundjid.bare], PATIENCE)
    await until(lambda: "In thunder, lightning, or in rain" in people.heard[carols.boundjid.bare], PATIENCE)
    # Somebody whose leaf was not proved, and a Commit: both wait.
    await (await third.send("When the hurlyburly's done")).confirmed
    changed = await third.update()
    await until(lambda: hers.epoch == changed.epoch, PATIENCE)
    await (await hers.send("When the battle's lost and won")).confirmed
    waiting = await his.send("That will be ere the set of sun")
    assert his.partial
    assert his.epoch == changed.epoch - 1
    tree.set()
    await until(lambda: his.is_member and his.epoch == changed.epoch, PATIENCE)
    await waiting.confirmed
    said = ["When shall we three meet again", "When the hurlyburly's done", "When the battle's lost and won"]
    await until(lambda: heard == said, PATIENCE)
    await until(lambda: "That will be ere the set of sun" in people.heard[carols.boundjid.bare], PATIENCE)
    assert len(his.members) == 2003
    assert (stages[0], stages[-1]) == ("fetching", "checking")  # a busy web server may have been asked again
    changed = await his.update()
    await until(lambda: hers.epoch == third.epoch == changed.epoch, PATIENCE)
    assert len({each.epoch_authenticator for each in (hers, his, third)}) == 1
    assert not people.rejected


async def test_a_member_that_stays_without_the_tree_and_one_that_answers_it(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mls, "Staying Partial": Commits are followed, strangers read, a restart changes nothing; the tree comes last."""
    monkeypatch.setattr(annotation_exchange, "_ROUNDS", 40)  # a busy machine must not look like silence
    client, alice = await people.come("alice", authentication=AcceptAll(), annotate=True)
    bobs, bob = await people.come("bob", authentication=AcceptAll(), partial_from=None)
    carols, carol = await people.come("carol", authentication=AcceptAll(), partial_from=1, stay_partial=True)
    hers = await people.room(alice)
    await hers.add(bobs.boundjid.bare)
    his = await people.joined(bob, hers.jid)
    await hers.add(carols.boundjid.bare)
    await until(lambda: hers.jid in carol.rooms and carol.rooms[hers.jid].partial and carol.rooms[hers.jid].live)
    third = carol.room(hers.jid)
    assert third.accounts == sorted((client.boundjid.bare, carols.boundjid.bare))
    changed = await his.update()  # by somebody unproved
    await until(lambda: hers.epoch == third.epoch == changed.epoch, PATIENCE)
    assert third.partial
    await (await his.send("When shall we three meet again")).confirmed
    heard = people.heard[carols.boundjid.bare]
    await until(lambda: heard == ["When shall we three meet again"], PATIENCE)
    await (await third.send("In thunder, lightning, or in rain")).confirmed
    await until(lambda: "In thunder, lightning, or in rain" in people.heard[bobs.boundjid.bare], PATIENCE)
    assert len(third.accounts) == 3
    await people.leave(carols)
    for room in (hers, his, hers):
        changed = await room.update()
        await until(lambda: hers.epoch == his.epoch == changed.epoch, PATIENCE)  # noqa: B023  # awaited at once
    carols, carol = await people.come(carols.boundjid, authentication=AcceptAll(), partial_from=1, stay_partial=True)
    await until(lambda: hers.jid in carol.rooms and carol.rooms[hers.jid].live, PATIENCE)
    third = carol.room(hers.jid)
    await until(lambda: third.epoch == changed.epoch, PATIENCE)
    assert third.partial
    assert third.epoch_authenticator == hers.epoch_authenticator
    await hers.set_policy(replace(hers.policy, max_devices=7))  # which only full members judge
    await until(lambda: third.is_member and third.epoch == hers.epoch, PATIENCE)
    assert third.policy.max_devices == 7
    assert third.epoch_authenticator == hers.epoch_authenticator
    assert not people.rejected


async def a_third_comes_and_talks(people: People, hers: EncryptedRoom, his: EncryptedRoom, carol: MLS) -> None:
    """Somebody who reads from the archive what was too large for a stanza, and comes in by a tree elsewhere."""
    await (await his.send("When shall we three meet again")).confirmed
    await hers.add(carol.xmpp.boundjid.bare)
    third = await people.joined(carol, hers.jid)
    changed = await third.update()
    await until(lambda: his.epoch == hers.epoch == changed.epoch)
    assert len({each.epoch_authenticator for each in (hers, his, third)}) == 1
    await (await third.send("In thunder, lightning, or in rain")).confirmed
    await until(lambda: "In thunder, lightning, or in rain" in people.heard[his.own_account])
    assert max(each.largest for each in people.clients) <= MAX_STANZA
    assert not people.rejected


async def test_three_hundred_in_a_post_quantum_group(people: People) -> None:
    """The first path over a tree without parent keys fits into no stanza: it is uploaded, and has its place."""
    suite = int(SuiteId.MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519)
    crowds = await asyncio.gather(*(people.crowd(f"crowd{number}", 150, suite) for number in range(2)))
    client, alice = await people.come("alice", cipher_suites=(suite,))
    bobs_client, bob = await people.come("bob", cipher_suites=(suite,))
    _, carol = await people.come("carol", cipher_suites=(suite,))
    room = f"{unique('coven')}@{people.server.rooms}"
    policy = RoomPolicy(room, (client.boundjid.bare,), max_devices=150)
    hers = await alice.create(room, policy=policy, suite=suite)
    result = await hers.add(bobs_client.boundjid.bare, *crowds)
    assert len(result.added) == 301
    his = await people.joined(bob, room)
    await until(lambda: his.epoch == hers.epoch)

    uploads = client.uploads
    changed = await hers.update()
    # A ciphertext for each member of the other half of the tree: it fits into no stanza.
    assert client.uploads > uploads
    await until(lambda: his.epoch == changed.epoch)
    assert his.epoch_authenticator == hers.epoch_authenticator
    await a_third_comes_and_talks(people, hers, his, carol)
    assert len(his.members) == 303


async def test_thirty_in_a_group_with_the_largest_keys_and_signatures(people: People) -> None:
    """ML-KEM-1024 with ML-DSA-87: a KeyPackage has 18 kB, so that even this tree and these paths fit into no stanza."""
    suite = int(SuiteId.MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87)
    crowd = await people.crowd("crowd", 27, suite)
    client, alice = await people.come("alice", cipher_suites=(suite,))
    bobs_client, bob = await people.come("bob", cipher_suites=(suite,))
    _, carol = await people.come("carol", cipher_suites=(suite,))
    room = f"{unique('coven')}@{people.server.rooms}"
    hers = await alice.create(room, policy=RoomPolicy(room, (client.boundjid.bare,), max_devices=150), suite=suite)
    assert len((await hers.add(bobs_client.boundjid.bare, crowd)).added) == 28
    assert client.uploads
    his = await people.joined(bob, room)
    changed = await hers.update()
    await until(lambda: his.epoch == changed.epoch)
    await a_third_comes_and_talks(people, hers, his, carol)
    assert len(his.members) == 30


async def test_a_tree_that_is_uploaded(people: People) -> None:
    """Joining live, and joining late."""
    _, alice = await people.come("alice")
    _, bob = await people.come("bob")
    carols, carol = await people.come("carol")
    await people.leave(carols)
    group = await people.room(alice)
    places = after_putting(alice, nothing)
    await group.add(bob.xmpp.boundjid.bare)
    bobs = await people.joined(bob, group.jid)
    await group.add(carols.boundjid.bare)
    assert len(places) == 2
    await until(lambda: bobs.epoch == group.epoch)
    await bobs.send("When shall we three meet again")
    _, carol = await people.come(JID(carols.boundjid.bare))
    late = await people.joined(carol, group.jid)
    await until(lambda: people.heard[carols.boundjid.bare] == ["When shall we three meet again"])
    assert len({each.epoch_authenticator for each in (group, bobs, late)}) == 1
    assert not people.rejected


async def test_messages_and_commits_while_a_tree_is_uploaded(people: People) -> None:
    _, alice = await people.come("alice")
    _, bob = await people.come("bob")
    _, carol = await people.come("carol")
    group = await people.room(alice)
    await group.add(bob.xmpp.boundjid.bare)
    bobs = await people.joined(bob, group.jid)
    races = iter([True, False])

    async def meanwhile() -> None:
        await (await group.send("Fair is foul")).confirmed
        await (await bobs.send("and foul is fair")).confirmed
        if next(races):
            epoch = group.epoch
            await bobs.update()
            await until(lambda: group.epoch > epoch)

    places = after_putting(alice, meanwhile)
    result = await group.add(carol.xmpp.boundjid.bare)
    assert len(result.added) == 1
    assert len(places) == 2, "the Commit that came between did not make the draft void"
    carols = await people.joined(carol, group.jid)
    await until(lambda: len({each.epoch_authenticator for each in (group, bobs, carols)}) == 1)
    await carols.send("Hover through the fog")
    await until(lambda: "Hover through the fog" in people.heard[bob.xmpp.boundjid.bare])
    await until(lambda: "Hover through the fog" in people.heard[alice.xmpp.boundjid.bare])
    assert people.heard[bob.xmpp.boundjid.bare].count("Fair is foul") == 2
    assert not people.rejected


async def test_a_web_server_that_is_down_for_a_while(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_fetching, "_PAUSES", (0.01, 0.01, 0.01))
    _, alice = await people.come("alice")
    _, bob = await people.come("bob")
    get, attempts = bob.uploads.get, []

    async def failing(place: BlobReference) -> bytes:
        attempts.append(place)
        if len(attempts) < 4:
            raise TransferFailed("down", temporary=True)
        return await get(place)

    bob.uploads.get = failing  # type: ignore[method-assign, assignment]
    group = await people.room(alice)
    await group.add(bob.xmpp.boundjid.bare)
    bobs = await people.joined(bob, group.jid)
    assert len(attempts) == 4
    assert bobs.epoch_authenticator == group.epoch_authenticator


async def test_a_tree_that_is_gone(people: People) -> None:
    """The Welcome is refused, with the reason; who is added again comes in."""
    _, alice = await people.come("alice")
    _, bob = await people.come("bob")

    async def lose() -> None:
        delete(people.server, places[-1])

    places = after_putting(alice, lose)
    group = await people.room(alice)
    await group.add(bob.xmpp.boundjid.bare)
    await until(lambda: people.rejected)
    (rejected,) = people.rejected
    assert isinstance(rejected.error, InvalidError)
    assert re.search("answered (404|410)", str(rejected.error))
    assert not bob.room(group.jid).is_member
    await group.remove(bob.xmpp.boundjid.bare)
    alice.uploads.put = type(alice.uploads).put.__get__(alice.uploads)  # type: ignore[method-assign]
    await group.add(bob.xmpp.boundjid.bare)
    bobs = await people.joined(bob, group.jid)
    await until(lambda: bobs.epoch_authenticator == group.epoch_authenticator)


async def test_a_commit_that_nobody_can_fetch_does_not_silence_the_room(people: People) -> None:
    """Its maker has moved on alone; the others go on without it, and all find together again."""
    _, alice = await people.come("alice")
    _, bob = await people.come("bob")
    _, carol = await people.come("carol")
    hers = await alice.create(f"{unique('coven')}@{people.server.rooms}")
    await hers.add(bob.xmpp.boundjid.bare, carol.xmpp.boundjid.bare)
    rooms = [hers, await people.joined(bob, hers.jid), await people.joined(carol, hers.jid)]
    await until(lambda: len({each.epoch_authenticator for each in rooms}) == 1)

    async def lose() -> None:
        delete(people.server, places[-1])

    def no_room_for_commits(elements: Sequence[RoomElement]) -> None:
        if any(isinstance(element, Commit) for element in elements):
            raise StanzaTooLarge(300_000, MAX_STANZA)

    places, fits = after_putting(alice, lose), hers.worker.parts.fits
    hers.worker.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    await hers.update()
    hers.worker.parts.fits = fits  # type: ignore[method-assign]
    await until(lambda: len(people.rejected) >= 2)
    assert all(re.search("answered (404|410)", str(each.error)) for each in people.rejected[:2])

    # Either side may be the one that is given up: what is said until then is for those who are there.
    def together() -> bool:
        if not all(each.is_member and each.live and not each.group.certainty.reasons for each in rooms):
            return False
        return len({each.epoch_authenticator for each in rooms}) == 1

    # Who is on the other side is found out when something crosses; a client asks again after 5, 20 and 80 seconds.
    async with asyncio.timeout(400):
        while not together():
            for room in rooms:
                if room.is_member:
                    await room.send("Double, double")
            with suppress(TimeoutError):
                await until(together, 2.0)
    for room, text in zip(rooms, ("Fair is foul", "and foul is fair", "Hover through the fog"), strict=True):
        await (await room.send(text)).confirmed
        others = [each for each in (alice, bob, carol) if each.xmpp is not room.xmpp]
        heard = [people.heard[each.xmpp.boundjid.bare] for each in others]
        await until(lambda text=text, heard=heard: all(text in each for each in heard))


async def test_an_application_that_allows_no_fetching(people: People) -> None:
    _, alice = await people.come("alice")
    asked: list[str] = []

    def refuse(url: str) -> bool:
        asked.append(url)
        return False

    _, bob = await people.come("bob", allow_url=refuse)
    group = await people.room(alice)
    await group.add(bob.xmpp.boundjid.bare)
    await until(lambda: people.rejected)
    assert "nothing is to be fetched" in str(people.rejected[0].error)
    assert [url.partition("//")[0] for url in asked] == ["https:"]
    assert not bob.room(group.jid).is_member


async def test_no_place_for_a_large_tree(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    _, alice = await people.come("alice")
    _, bob = await people.come("bob")
    group = await people.room(alice)

    async def none(jid: str) -> None:
        return None

    monkeypatch.setattr(alice.uploads, "_ask_service", none)
    with pytest.raises(StanzaTooLarge) as caught:
        await group.add(bob.xmpp.boundjid.bare)
    assert isinstance(caught.value.__cause__, NoUploadService)
    assert not group.group.sending.commit_waits

    async def broken(data: bytes) -> BlobReference:
        raise TransferFailed("no space left", temporary=False)

    doubtful = group.worker.parts.fits
    group.worker.parts.fits = MethodType(RoomParts.fits, group.worker.parts)  # type: ignore[method-assign]
    await group.add(bob.xmpp.boundjid.bare)  # it does fit: nothing has to be uploaded
    bobs = await people.joined(bob, group.jid)
    _, carol = await people.come("carol")
    alice.uploads.put = broken  # type: ignore[method-assign]
    group.worker.parts.fits = doubtful  # type: ignore[method-assign]
    with pytest.raises(DeliveryError, match="no space left"):
        await group.add(carol.xmpp.boundjid.bare)
    assert group.epoch_authenticator == bobs.epoch_authenticator
    assert not group.group.sending.commit_waits
