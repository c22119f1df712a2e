"""The process ends and begins again from its store; the disk is full."""

from __future__ import annotations

import asyncio
import os
import resource
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from slixmpp_mls.client.storage.records import OutboxKind, RoomRecord
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import RoomLost, StoreError, StoreFull, UsageError
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage
from slixmpp_mls.rooms.encrypted_room import SentMessage
from slixmpp_mls.store import MemoryStore, SQLiteStore, Transaction

from ..conftest import unique
from .people import SECONDS, Cast, Person, all_agree


async def test_a_bot_goes_on_where_it_was(server: DevServer, cast: Cast) -> None:
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await alice.say("the first of all")
    await bob.hears("the first of all")
    device, fingerprint = bob.mls.device_id, bob.mls.fingerprint
    bob.crash()
    for number in range(6):
        await alice.say(f"while he slept {number}")
        await carol.say(f"and slept {number}")
        if number == 3:
            await carol.room().update()
            await alice.room().update()
    await carol.hears("while he slept 5")
    await bob.connect()
    await bob.joined(room)
    await bob.hears("while he slept 5", "and slept 5")
    await alice.say("now he is awake")
    await bob.hears("now he is awake")
    slept = [body for body in bob.bodies if body.startswith("while")]
    assert slept == [f"while he slept {n}" for n in range(6)]
    assert len(bob.bodies) == len(set(bob.bodies)) == 1 + 12 + 1
    assert (bob.mls.device_id, bob.mls.fingerprint) == (device, fingerprint)
    await bob.say("I dreamt")
    await alice.hears("I dreamt")
    await all_agree(alice, bob, carol, epoch=3)
    # Nothing is read again at the next start.
    await bob.log_out()
    await bob.connect()
    await bob.joined(room)
    await asyncio.sleep(0.2)
    assert len(bob.bodies) == 14
    for person in (alice, bob, carol):
        assert not person.got("mls_rejected")


async def test_a_bot_that_crashes_all_the_time(prosody: DevServer, cast: Cast) -> None:
    """Both what it hears and what it says: each once, in order."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")

    async def talk() -> None:
        for number in range(40):
            await alice.say(f"alice says {number}")
            await asyncio.sleep(0.03)

    talking = asyncio.create_task(talk())
    said = 0
    for life in range(5):
        for _ in range(4):
            await bob.say(f"bob says {said}")
            said += 1
        await asyncio.sleep(0.01 * life)
        bob.crash()
        await bob.connect()
    await talking
    await bob.joined(room)
    await bob.hears("alice says 39")
    await alice.hears(f"bob says {said - 1}")
    assert bob.bodies == [f"alice says {number}" for number in range(40)]
    assert alice.bodies == [f"bob says {number}" for number in range(said)]
    for person in (alice, bob):
        assert not person.got("mls_rejected")
    await bob.until(lambda: len(bob.got("mls_sent")) == said)


async def test_what_was_said_offline_goes_out_after_a_restart(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.cut()
    for number in range(3):
        await bob.say(f"into the drawer {number}")
    bob.crash()
    await alice.room().update()  # the epoch of what is in the drawer has ended
    await bob.connect()
    await bob.joined(room)
    await alice.hears("into the drawer 2")
    await bob.until(lambda: len(bob.got("mls_sent")) == 3)
    await bob.log_out()
    await bob.connect()
    await bob.joined(room)
    await bob.say("the drawer is empty")
    await alice.hears("the drawer is empty")
    assert alice.bodies == [f"into the drawer {n}" for n in range(3)] + ["the drawer is empty"]
    assert not alice.got("mls_rejected")


async def test_what_the_handlers_have_not_finished_comes_again(server: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    finished: list[str] = []
    gate = asyncio.Event()

    async def slow(message: EncryptedMessage) -> None:
        if message.body.startswith("slow"):
            await gate.wait()
        finished.append(message.body)

    bob.client.add_event_handler("mls_message", slow)
    for text in ("quick and first", "slow and second", "quick and third", "slow and fourth"):
        await alice.say(text)
    await bob.hears("slow and fourth")
    await bob.until(lambda: finished == ["quick and first", "quick and third"])
    await bob.until(lambda: len(bob.room().group.room_state.not_handed_over()) == 2)  # although nothing else is written
    firsts = {message.body: message for message in bob.got("mls_message")}
    bob.crash()
    await alice.room().remove(bob.account)  # what has been read stays his
    await alice.say("a fifth, not for him")
    bob.seen.clear()
    await bob.connect()
    repeated = await bob.until(lambda: len(bob.got("mls_message")) >= 2 and bob.got("mls_message"))
    assert [message.body for message in repeated] == ["slow and second", "slow and fourth"]
    for message in repeated:
        first = firsts[message.body]
        assert (message.again, message.delayed, first.again, first.delayed) == (True, True, False, False)
        assert message.sender == replace(first.sender, since=None)
        assert message.room.jid == first.room.jid
        for field in ("epoch", "sent", "archive_id", "origin_id", "warnings"):
            assert getattr(message, field) == getattr(first, field)
        assert message.message["from"] == first.message["from"]
    await bob.next("mls_room_lost")  # nor is the room
    assert len(bob.bodies) == 2
    await bob.log_out()
    bob.seen.clear()
    await bob.connect()
    assert not bob.bodies


async def test_the_same_message_sent_twice_is_one(server: DevServer, cast: Cast) -> None:
    """By a bot that does not know whether it was accepted."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")

    async def say(text: str) -> SentMessage:
        message = alice.client.make_message(mto=alice.room().jid, mtype="groupchat")
        message["id"] = "number one"
        message["body"] = cast.secret(text)
        return await alice.room().send(message)

    alice.client.swallowing = "<application"
    one, two = await say("Double, double"), await say("Double, double")
    assert one.confirmed is two.confirmed
    with pytest.raises(UsageError, match="another message"):
        await say("toil and trouble")
    alice.crash()
    await alice.connect()
    await say("Double, double")  # before it has been sent again, or after that
    await bob.hears("Double, double")
    await (await say("Double, double")).confirmed
    await alice.say("Fire burn")
    await bob.hears("Fire burn")
    assert bob.bodies == ["Double, double", "Fire burn"]
    assert not bob.got("mls_rejected")


def waiting_commits(person: Person) -> list[bytes]:
    return [record.message for _, record in person.room().group.room_state.outbox if record.kind is OutboxKind.COMMIT]


async def test_a_commit_that_was_stored_and_not_sent(prosody: DevServer, cast: Cast) -> None:
    """It is sent after the restart, the same octets, and takes effect once."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    bob.client.swallowing = True
    updating = asyncio.create_task(bob.room().update())
    await bob.until(lambda: waiting_commits(bob))
    (octets,) = waiting_commits(bob)
    bob.crash()
    await asyncio.gather(updating, return_exceptions=True)
    assert bob.client.swallowed
    await bob.connect()
    # Who commits at once waits for the old one.
    changed = await asyncio.wait_for(bob.room(room).update(), SECONDS)
    assert changed.epoch == 3
    await all_agree(alice, bob, epoch=3)
    sent = bob.client.sent
    assert sum(b64encode(octets).decode() in wire for wire in sent) == 1
    assert [event.epoch for event in alice.got("mls_group_changed")] == [1, 2, 3]
    assert not alice.got("mls_rejected")


async def test_a_commit_that_was_sent_and_not_seen(server: DevServer, cast: Cast) -> None:
    """Its reflection is in the archive: it takes effect, and is not sent again."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    bob.client.deaf = True
    updating = asyncio.create_task(bob.room().update())
    await alice.until(lambda: alice.room().epoch == 2)
    bob.crash()
    await asyncio.gather(updating, return_exceptions=True)
    await bob.connect()
    await bob.joined(room)
    await all_agree(alice, bob, epoch=2)
    assert not [wire for wire in bob.client.sent if "<commit" in wire]
    await bob.say("I have the keys")
    await alice.hears("I have the keys")


async def test_a_commit_that_lost_meanwhile(prosody: DevServer, cast: Cast) -> None:
    """Somebody else came first while it lay in the store: it is dropped."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    bob.client.swallowing = True
    updating = asyncio.create_task(bob.room().update())
    await bob.until(lambda: waiting_commits(bob))
    bob.crash()
    await asyncio.gather(updating, return_exceptions=True)
    await alice.room().update()
    await bob.connect()
    await bob.joined(room)
    assert (await bob.next("mls_commit_lost")).room == room
    await all_agree(alice, bob, epoch=2)
    await asyncio.wait_for(bob.room().update(), SECONDS)
    await all_agree(alice, bob, epoch=3)


async def test_an_account_being_added_at_the_crash_is_invited_after_it(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    carol = await cast.person(prosody, "carol")
    alice.client.swallowing = "<commit"
    adding = asyncio.create_task(alice.room().add(carol.account))
    await alice.until(lambda: waiting_commits(alice))
    alice.crash()
    await asyncio.gather(adding, return_exceptions=True)
    await alice.connect()
    await carol.joined(room)
    await all_agree(alice, bob, carol, epoch=2)


async def test_what_follows_a_commit_is_done_after_a_restart(server: DevServer, cast: Cast) -> None:
    """The Commits have taken effect, and the connection is gone before anybody was invited, or seen off."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol")
    alice.client.swallowing = "jabber:x:conference"
    adding = asyncio.create_task(alice.room().add(carol.account))
    await bob.until(lambda: bob.room().epoch == 2)
    await alice.until(lambda: alice.client.swallowed)
    assert any(alice.room().group.post_commit_actions)
    alice.crash()
    await asyncio.gather(adding, return_exceptions=True)
    assert not carol.got("mls_invited")
    await alice.connect()
    await carol.joined(room)
    await all_agree(alice, bob, carol, epoch=2)
    await alice.until(lambda: not any(alice.room().group.post_commit_actions))

    # What is to be set, and not a question: who has come back compares the room's lists with the group, a bit later.
    alice.client.swallowing = 'affiliation="none"'
    removing = asyncio.create_task(alice.room().remove(bob.account))
    await carol.until(lambda: carol.room().epoch == 3)
    await alice.until(lambda: alice.client.swallowed)
    alice.crash()
    await asyncio.gather(removing, return_exceptions=True)
    await alice.connect()
    await bob.next("mls_room_lost")
    await alice.until(lambda: not any(alice.room().group.post_commit_actions))
    listed = await alice.room().muc.affiliations.all()
    assert sorted(map(str, listed)) == sorted([alice.account, carol.account])
    await all_agree(alice, carol, epoch=3)


async def test_leaving_goes_on_after_a_restart(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    bob.client.swallowing = "<proposal"
    leaving = asyncio.create_task(bob.room().leave())
    await bob.until(lambda: bob.client.swallowed)
    bob.crash()
    await asyncio.gather(leaving, return_exceptions=True)
    await alice.room().update()  # what was proposed is void
    await bob.connect()
    await alice.until(lambda: alice.room().accounts == [alice.account])
    await bob.until(lambda: not bob.mls.rooms)
    assert [event.wanted for event in bob.got("mls_removed")] == [True]
    await bob.log_out()
    await bob.connect()
    assert room not in bob.mls.rooms


async def test_making_a_room_goes_on_after_a_restart(server: DevServer, cast: Cast) -> None:
    for lost in ('protocol/muc"', 'muc#owner"', "roomconfig", "urn:xmpp:mam:2"):
        alice = await cast.person(server, "alice")
        room = f"{unique('heath')}@{server.rooms}"
        alice.client.swallowing = lost
        making = asyncio.create_task(alice.mls.create(room))
        client = alice.client
        await alice.until(partial(getattr, client, "swallowed"))
        alice.crash()
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await alice.connect()
        assert room not in alice.mls.rooms
        group = await alice.mls.create(room)
        assert (group.accounts, await group.muc.check()) == ([alice.account], ())
        # What is there already is nobody's to make again, not even the maker's.
        await alice.room().leave()
        with pytest.raises(UsageError, match="exists already"):
            await alice.mls.create(room)
        assert (await alice.mls.adopt(room)).epoch == 0


async def test_a_room_that_somebody_else_has_made_meanwhile(prosody: DevServer, cast: Cast) -> None:
    alice, bob = await cast.person(prosody, "alice"), await cast.person(prosody, "bob")
    room = f"{unique('heath')}@{prosody.rooms}"
    alice.client.swallowing = 'protocol/muc"'
    making = asyncio.create_task(alice.mls.create(room))
    await alice.until(lambda: alice.client.swallowed)
    alice.crash()
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    group = await bob.mls.create(room)
    await alice.connect()
    with pytest.raises(UsageError, match="exists already"):
        await alice.mls.create(room)
    await group.muc.affiliations.grant_membership([alice.account])
    with pytest.raises(UsageError, match="exists already"):
        await alice.mls.create(room)
    await group.add(alice.account)
    await alice.joined(room)


async def test_an_invitation_that_was_read_is_followed_after_a_restart(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob, _) = await cast.meet(prosody, "alice", "bob", "carol")
    await alice.room().remove(bob.account)
    await bob.next("mls_removed")
    bob.client.swallowing = 'protocol/muc"'
    await alice.room().add(bob.account)
    await bob.until(lambda: bob.client.swallowed)
    bob.crash()
    await bob.connect()
    await bob.joined(room)


async def test_a_room_destroyed_while_away(prosody: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await bob.log_out()
    await alice.room().muc.destroy()
    await bob.connect()  # and is ready, in spite of it
    lost = await bob.next("mls_room_lost")
    assert isinstance(lost, RoomLost)
    with pytest.raises((RoomLost, UsageError)):
        await bob.room().send(cast.secret("to nobody"))


async def test_a_lost_place_in_the_archive_costs_no_keys(server: DevServer, cast: Cast) -> None:
    """Whoever may have missed a Commit is unsure, asks, and goes on in the same group when nothing later is proved."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob", rejoin="by hand")
    await alice.say("long ago, long ago")
    await bob.hears("long ago, long ago")
    await bob.log_out()
    store = SQLiteStore(bob.store, bob.account)
    with store.transaction() as transaction:
        record = RoomRecord.decode(transaction.get("room", room.encode()) or b"")
        forgotten = b"1" if record.cursor.isdigit() else b"9d2a5a1c-0000-4000-8000-000000000000"
        transaction.put("room", room.encode(), replace(record, cursor=forgotten).encode())
    store.close()
    await bob.connect()
    unsure = await bob.next("mls_unsure")
    assert unsure.room == room
    await bob.until(lambda: not bob.room().unsure)
    assert bob.room().is_member
    assert not bob.got("mls_group_lost")
    await alice.say("Lay on, Macduff")
    await bob.hears("Lay on, Macduff")
    await bob.say("and damn'd be him that first cries, Hold, enough!")
    await alice.hears("and damn'd be him that first cries, Hold, enough!")
    await all_agree(alice, bob)


# The disk


async def test_a_full_disk_lets_nothing_out(prosody: DevServer, cast: Cast) -> None:
    """What cannot be stored is not sent: its key might be used twice."""
    alice = await cast.person(prosody, "alice", online=False)
    store = SQLiteStore(alice.store, alice.account)
    alice.config["store"] = store
    await prosody.connect(alice.make_client())
    await alice.ready()
    bob = await cast.person(prosody, "bob")
    group = await alice.mls.create(f"{unique('attic')}@{prosody.rooms}")
    await group.add(bob.account)
    await bob.joined(group.jid)
    (pages,) = store._execute("PRAGMA page_count")[0]
    store._execute(f"PRAGMA max_page_count = {pages}")
    before = len(alice.client.sent)
    for _ in range(2):
        with pytest.raises(StoreFull):
            await alice.say("too much for a small disk " * 4000)
    # Until the last free page is used; what arrives meanwhile may make room for one more.
    drop, full = "a drop in a full bucket " * 100, False
    for _ in range(1000):
        try:
            await alice.say(drop)
        except StoreFull:
            full = True
            break
    assert full
    refused = [wire for wire in alice.client.sent[before:] if len(wire) > 50_000]
    assert not refused
    store._execute("PRAGMA max_page_count = 100000")
    heard = len(alice.stanzas_sent("<application"))
    await alice.say("there is room again")
    await bob.hears("there is room again")
    assert len(bob.bodies) == heard + 1  # each that went out was read: no generation was used twice
    assert not bob.got("mls_rejected")
    await alice.room().update()
    await all_agree(alice, bob, epoch=2)
    await alice.log_out()
    store.close()


class Stubborn(MemoryStore):
    """A store that refuses everything for a while."""

    def __init__(self, account: str) -> None:
        super().__init__(account)
        self.refusing = False

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        if self.refusing:
            raise StoreError("not now, says the test")
        with super().transaction(lasting=lasting) as transaction:
            yield transaction


async def test_a_store_that_cannot_be_read_delays_a_welcome(prosody: DevServer, cast: Cast) -> None:
    _, (alice,) = await cast.meet(prosody, "alice")
    bob = await cast.person(prosody, "bob", online=False)
    store = bob.config["store"] = Stubborn(bob.account)
    await bob.connect()
    room = alice.room().jid
    await alice.room().muc.affiliations.grant_membership([bob.account])
    joining = asyncio.create_task(bob.mls.join(room))
    await bob.until(lambda: room in bob.mls.rooms and bob.room().live)
    store.refusing = True
    await alice.room().add(bob.account)
    assert isinstance(await bob.next("mls_store_failed"), StoreError)
    assert not bob.got("mls_failed")
    store.refusing = False
    await asyncio.wait_for(joining, SECONDS)
    await all_agree(alice, bob)


@contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """The kernel refuses it to this process, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_delays_what_is_received(prosody: DevServer, cast: Cast) -> None:
    """When there is space again, it is delivered: in order, each message once."""
    alice = await cast.person(prosody, "alice", online=False)
    alice.config["store"] = MemoryStore(alice.account)  # the limit is the whole process's
    await alice.connect()
    bob = await cast.person(prosody, "bob")
    group = await alice.mls.create(f"{unique('cellar')}@{prosody.rooms}")
    await group.add(bob.account)
    await bob.joined(group.jid)
    await alice.say("while there is space")
    await bob.hears("while there is space")
    with no_file_grows_beyond(os.stat(f"{bob.store}-wal").st_size):
        await alice.say("no space at all")
        assert isinstance(await bob.next("mls_store_failed"), StoreError)
        await alice.say("and still none")
        changed = asyncio.create_task(alice.room().update())
        with pytest.raises(StoreError):
            await bob.room().send(cast.secret("unsaid for want of space"))
        await asyncio.sleep(0.2)
        assert bob.bodies == ["while there is space"]
    await bob.hears("no space at all", "and still none")
    await changed
    await alice.say("space again")
    await bob.hears("space again")
    assert bob.bodies == ["while there is space", "no space at all", "and still none", "space again"]
    await bob.say("said at last")
    await alice.hears("said at last")
    await all_agree(alice, bob, epoch=2)
    assert alice.bodies == ["said at last"]
