"""Reading a room: in its order, each stanza once, with all that must be asked for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import GroupChanged, Incoming, MemberDoubted, MessageReceived, Rejected, RoomGroup
from slixmpp_mls.client.group.certainty import UnsureReason
from slixmpp_mls.client.group.placement import Placement
from slixmpp_mls.client.group.resumption_psks import Awaited
from slixmpp_mls.client.storage.doubts import NOT_ASKED, Doubt
from slixmpp_mls.delivery import RoomStanza, Stream
from slixmpp_mls.errors import NotVouchedFor, TransferFailed
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage
from slixmpp_mls.rooms.engine import blob_fetching, reader
from slixmpp_mls.rooms.engine.annotation_exchange import AnnotationExchange
from slixmpp_mls.rooms.engine.blob_fetching import FAILURES, FAILURES_OF_ONE
from slixmpp_mls.rooms.engine.member_checks import MemberChecks
from slixmpp_mls.rooms.engine.reader import Reader, Taken
from slixmpp_mls.rooms.engine.whole_tree import TreeFetcher
from slixmpp_mls.stanza.blob import BlobReference, Sealing, longest
from slixmpp_mls.stanza.elements import Commit, WelcomeLocation
from slixmpp_mls.stanza.locations import WelcomePlace
from slixmpp_mls.testing import FaultyStore, Participant, World

from ..client.people import ALICE, BOB, CAROL, DAVE, MALLORY, again, three
from ..client.test_linking import Two, welcome_with_psks
from .people import Parts, until


async def nothing() -> None:
    pass


class Reading(Parts):
    """A member's reader; `taken` is what it has taken, in the order in which its engine was told."""

    def __init__(self, person: Participant, **settings: Any) -> None:
        super().__init__(person, **settings)
        self.taken: list[Taken] = []
        self.told: list[int] = []
        self.resumed = 0
        self.removed: list[object] = []
        self.awaited: list[Awaited] = []
        self.checks = MemberChecks(self.parts, self._remove, self._resume)
        exchange = AnnotationExchange(self.parts)
        self.tree = TreeFetcher(
            self.parts, self.checks, lambda events: None, nothing, nothing, lambda: None, lambda: None, exchange
        )
        self.reader = Reader(self.parts, self.checks, self.tree, self._on_steps, self._reached)

    def _on_steps(self, taken: Sequence[Taken]) -> None:
        self.taken += taken
        self.told.append(len(taken))

    def _resume(self) -> None:
        self.resumed += 1

    async def _remove(self, client: object) -> None:
        self.removed.append(client)

    async def _reached(self, awaited: Awaited) -> None:
        self.awaited.append(awaited)

    def stanzas(self, *, archived: bool = True) -> deque[RoomStanza]:
        """What is new in the room."""
        new = self.world.room.read(self.person.account, self.group.cursor)
        return deque(replace(self.muc.stanza(incoming), archived=archived) for incoming in new)

    def texts(self) -> list[bytes]:
        return [event.data for each in self.taken for event in each.events if isinstance(event, MessageReceived)]


def reading(**settings: Any) -> tuple[World, Reading, Participant, Participant]:
    world, alice, bob, carol = three()
    return world, Reading(alice, **settings), bob, carol


async def test_messages_that_are_at_hand_are_taken_in_one_transaction_and_in_order() -> None:
    world, alice, bob, _ = three()
    store = FaultyStore(alice.store)
    alice.restart(store)
    client = Reading(alice)
    texts = [b"%d" % number for number in range(10)]
    for text in texts:
        bob.send(text)
    world.room.deliver_all()
    before = store.commits
    await client.reader.take_all(client.stanzas())
    assert client.texts() == texts
    assert client.told == [10]
    assert store.commits == before + 1


async def test_a_commit_between_messages_keeps_its_place() -> None:
    world, alice, bob, carol = reading()
    bob.send(b"before")
    bob.commit()
    world.room.deliver_all()
    bob.read()
    bob.send(b"after")
    world.room.deliver_all()
    await alice.reader.take_all(alice.stanzas())
    assert alice.texts() == [b"before", b"after"]
    kinds = [type(event) for each in alice.taken for event in each.events]
    assert kinds.index(GroupChanged) == 1
    carol.read()
    assert world.agree()


async def test_one_stanza_that_cannot_be_read_spoils_no_other() -> None:
    world, alice, bob, _ = reading()
    bob.send(b"one")
    bob.send(b"two")
    world.room.deliver_all()
    stanzas = alice.stanzas()
    garbage = Incoming("000099", (), bob.account)
    broken = alice.muc.stanza(garbage)
    broken.xml.append(next(iter(stanzas[0].xml)).makeelement("{urn:xmpp:mls:0}application", {"group": "?"}))
    stanzas.insert(1, replace(broken, archived=True))
    await alice.reader.take_all(stanzas)
    assert alice.texts() == [b"one", b"two"]
    (rejected,) = [event for each in alice.taken for event in each.events if isinstance(event, Rejected)]
    assert rejected.archive_id == "000099"


async def test_a_full_disk_is_said_and_the_stanza_is_read_when_it_has_room_again() -> None:
    world, alice, bob, _ = three()
    store = FaultyStore(alice.store)
    alice.restart(store)
    client = Reading(alice)
    bob.commit()
    world.room.deliver_all()
    store.fail_at = store.writes
    await asyncio.wait_for(client.reader.take_all(client.stanzas()), 60)
    assert len(client.got("mls_store_failed")) == 1
    bob.read()
    assert client.group.mls.epoch_authenticator == bob.group.mls.epoch_authenticator


async def test_a_live_stanza_after_a_missing_one_has_the_archive_read_again() -> None:
    """DESIGN, delivery rule 4: the order is the archive's; nothing is processed ahead of what is missing."""
    world, alice, bob, _ = reading()
    bob.commit()
    world.room.deliver_all()
    bob.read()
    bob.send(b"of the next epoch")
    world.room.deliver_all()
    live = alice.stanzas(archived=False)
    live.popleft()  # the Commit got lost between the servers
    cursor = alice.group.cursor
    again: list[str | None] = []
    alice.muc.read_again = again.append  # type: ignore[method-assign, assignment]
    await alice.reader.take_all(live)
    assert again == [cursor]
    assert not alice.taken
    await alice.reader.take_all(alice.stanzas())  # from the archive
    assert alice.texts() == [b"of the next epoch"]


async def test_reading_again_is_not_done_at_a_members_pace() -> None:
    """Every message could look as if one were missing: who decides how often?"""
    world, alice, bob, _ = reading()
    bob.commit()
    world.room.deliver_all()
    bob.read()
    bob.send(b"x")
    world.room.deliver_all()
    live = alice.stanzas(archived=False)[-1]
    alice.muc.read_again = lambda after: None  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(2):
        await alice.reader.take_all(deque([live]))
    assert loop.time() - start >= reader._REREADING_PAUSE * 0.9


async def test_new_leaves_are_asked_about_before_the_commit_counts_for_us() -> None:
    """RFC 9420 5.3.1; a denied member is doubted, and removed, as it is configured by default."""
    world, alice, bob, _ = reading()
    dave = world.person(DAVE)
    alice.service.denied.add(dave.device.identity)
    bob.commit(*bob.adding(DAVE))
    world.room.deliver_all()
    await alice.reader.take_all(alice.stanzas())
    assert alice.service.asked == [dave.device.identity]
    assert dave.device.identity in alice.group.members.doubts
    assert alice.group.sending.silenced
    await until(lambda: alice.removed)
    (doubted,) = alice.got("mls_doubted")
    assert isinstance(doubted, MemberDoubted)
    assert doubted.member.identity == dave.device.identity
    assert alice.removed == [dave.device.identity]


async def test_a_welcome_by_somebody_who_is_denied_makes_us_ask_about_nobody_else() -> None:
    """RFC 9420 5.3.1, 12.4.3.1: who has signed the GroupInfo is judged first; a made-up tree is not asked about."""
    world, _, bob, carol = reading()
    dave = Reading(world.person(DAVE))
    inviter = bob.device.identity
    dave.service.denied.add(inviter)
    bob.commit(*bob.adding(DAVE))
    world.room.deliver_all()
    await dave.reader.take_all(dave.stanzas())
    assert dave.service.asked == [inviter]
    assert not dave.group.is_member
    assert [event for each in dave.taken for event in each.events if isinstance(event, Rejected)]

    eve = Reading(world.person("eve@e.example"))
    bob.read()
    bob.commit(*bob.adding("eve@e.example"))
    world.room.deliver_all()
    await eve.reader.take_all(eve.stanzas())
    assert eve.group.is_member
    assert eve.service.asked[0] == inviter  # alone, before the others
    assert carol.device.identity in eve.service.asked


async def test_who_is_let_in_by_somebody_unknown_is_silent_until_it_is_known_who_that_is() -> None:
    """mls, "Authenticating Devices": nobody whom we know has chosen who is in the group; a name is no proof."""
    world, _, bob, carol = reading()
    dave, eve = Reading(world.person(DAVE)), Reading(world.person("eve@e.example"))
    dave.service.unknown.add(bob.device.identity)
    eve.service.unknown.add(carol.device.identity)  # bob has chosen her
    bob.commit(*bob.adding(DAVE), *bob.adding("eve@e.example"))
    world.room.deliver_all()
    for each in (dave, eve):
        await each.reader.take_all(each.stanzas())
        assert each.group.is_member
    assert not eve.group.sending.silenced
    assert dave.group.sending.silenced
    with pytest.raises(NotVouchedFor):
        dave.group.sending.compose(b"to whom?", later=True)
    assert RoomGroup(dave.person.device, world.room.jid).sending.silenced  # after a restart
    dave.service.unknown.clear()
    await dave.checks.look_again()
    assert not dave.group.sending.silenced


async def test_who_comes_back_to_members_that_it_knows_is_not_silenced() -> None:
    """mls-recovery, "Which GroupInfo": the state that it knows shows whose the inviter's key is."""
    world, alice, bob, _ = reading()
    alice.service.unknown.add(bob.device.identity)
    alice.group.lifecycle.give_up("says the test")
    bob.commit(*bob.removing(ALICE), *again(bob, alice.person))
    world.room.deliver_all()
    await alice.reader.take_all(alice.stanzas())
    assert alice.group.is_member
    assert alice.group.members.doubts
    assert not alice.group.sending.silenced


async def test_for_epochs_that_somebody_has_made_up_it_is_waited_a_few_times_in_an_hour() -> None:
    """RFC 9420 8.4: anybody in a room can name an epoch of another room's group, in a Welcome for those outside."""
    two = Two(ALICE, BOB, below=(ALICE, CAROL))
    member = next(person for person in two.above.people if person.account == BOB)
    outsider = two.below.person(BOB, member.store)
    bob = Reading(outsider)
    for who in (MALLORY, DAVE):
        for _ in range(2 * FAILURES_OF_ONE):
            two.below.room.post(welcome_with_psks(member, outsider, [2**64 - 1]), who)
            two.below.room.deliver_all()
            await bob.reader.take_all(bob.stanzas())
    assert bob.awaited == [Awaited(member.group.room, 2**64 - 1)] * (2 * FAILURES_OF_ONE)
    assert (
        len([each for each in bob.taken for event in each.events if isinstance(event, Rejected)]) == 4 * FAILURES_OF_ONE
    )


async def test_messages_go_on_when_the_member_in_doubt_has_gone() -> None:
    world, alice, bob, _ = reading(denied_members="hold")
    dave = world.person(DAVE)
    alice.service.denied.add(dave.device.identity)
    bob.commit(*bob.adding(DAVE))
    world.room.deliver_all()
    await alice.reader.take_all(alice.stanzas())
    assert alice.group.sending.silenced
    assert not alice.resumed
    bob.read()
    bob.commit(*bob.removing(DAVE))
    world.room.deliver_all()
    await alice.reader.take_all(alice.stanzas())
    assert not alice.group.sending.silenced
    assert alice.resumed == 1
    assert not alice.removed


async def test_a_commit_elsewhere_is_fetched_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A web server that is down for a while delays what comes after the Commit, and changes no order."""
    monkeypatch.setattr(blob_fetching, "_PAUSES", (0.001, 0.001))
    world, alice, bob, _ = reading()
    draft = bob.group.sending.draft_commit([], world.now)
    bob.post(bob.group.sending.finish_commit(draft, placement=Placement.COMMIT_ELSEWHERE))
    world.room.deliver_all()
    bob.read()
    bob.send(b"after it")
    world.room.deliver_all()
    failures = [TransferFailed("down", temporary=True)] * 2

    async def get(place: BlobReference) -> bytes:
        if failures:
            raise failures.pop()
        return world.web[place]

    alice.context.uploads.get = get  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(Stream.of(alice.xmpp), "online", True)
    await alice.reader.take_all(alice.stanzas())
    assert not failures
    assert alice.texts() == [b"after it"]
    assert alice.group.mls.epoch_authenticator == bob.group.mls.epoch_authenticator


async def test_a_commit_that_cannot_be_fetched_does_not_stop_the_reading() -> None:
    world, alice, bob, carol = reading()
    draft = bob.group.sending.draft_commit([], world.now)
    bob.post(bob.group.sending.finish_commit(draft, placement=Placement.COMMIT_ELSEWHERE))
    carol.send(b"in the same epoch")
    world.room.deliver_all()

    async def get(place: BlobReference) -> bytes:
        raise TransferFailed("answered 404", temporary=False)

    alice.context.uploads.get = get  # type: ignore[method-assign, assignment]
    before = alice.group.mls.epoch_authenticator
    await alice.reader.take_all(alice.stanzas())
    assert alice.texts() == [b"in the same epoch"]
    assert alice.group.mls.epoch_authenticator == before
    assert alice.group.certainty.reasons is UnsureReason.UNAVAILABLE
    (rejected,) = [event for each in alice.taken for event in each.events if isinstance(event, Rejected)]
    assert "answered 404" in str(rejected.error)
    assert rejected.claimed == bob.account


async def test_a_server_that_answers_slowly_stops_the_reading_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All attempts together have one limit (mls.xml, "Large Groups and Stanza Limits")."""
    monkeypatch.setattr(blob_fetching, "_PAUSES", (0.01,) * 1000)
    monkeypatch.setattr(blob_fetching, "time_limit", lambda _: 0.3)
    world, alice, bob, carol = reading()
    draft = bob.group.sending.draft_commit([], world.now)
    bob.post(bob.group.sending.finish_commit(draft, placement=Placement.COMMIT_ELSEWHERE))
    carol.send(b"behind it")
    world.room.deliver_all()
    attempts: list[BlobReference] = []

    async def get(place: BlobReference) -> bytes:
        attempts.append(place)
        await asyncio.sleep(0.02 if len(attempts) < 3 else 3600)
        raise TransferFailed("slow", temporary=True)

    alice.context.uploads.get = get  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(Stream.of(alice.xmpp), "online", True)
    await asyncio.wait_for(alice.reader.take_all(alice.stanzas()), 60)
    assert len(attempts) == 3
    assert alice.texts() == [b"behind it"]
    assert alice.group.certainty.reasons is UnsureReason.UNAVAILABLE


def test_the_time_limit_is_a_minute_and_more_for_what_is_large() -> None:
    assert blob_fetching.time_limit(replace(longest(), size=1000)) < 61
    assert blob_fetching.time_limit(replace(longest(), size=32 * 2**20)) == 60 + 32


@pytest.mark.parametrize("strangers", [1, 20])
async def test_a_strangers_places_are_looked_at_a_few_times_in_an_hour(strangers: int) -> None:
    """A client that waits for its Welcome knows nobody: KeyPackages are public, and so are their references."""
    world = World()
    alice, _ = world.group(ALICE, BOB)
    bob = world.person("dave@d.example")
    world.people.remove(bob)
    bob.group.lifecycle.expect_welcome(None)
    waiting = Reading(bob)
    reference = next(iter(world.directory.items[bob.account]))
    fetched: list[str] = []

    async def get(place: BlobReference) -> bytes:
        fetched.append(place.url)
        raise TransferFailed("answered 404", temporary=False)

    waiting.context.uploads.get = get  # type: ignore[method-assign, assignment]
    group = alice.group.mls
    for number in range(40):
        place = Sealing(bytes([number]), world.random).at(f"https://slow.x.example/{number}")
        epoch = 99 + number
        location = WelcomeLocation(group.group_id, epoch + 1, WelcomePlace((reference,), place).encode())
        body = PrivateMessage(group.group_id, epoch, ContentType.COMMIT, b"", bytes(28), bytes(99))
        commit = Commit(group.group_id, epoch, MLSMessage.wrap(body))
        world.room.post([commit, location] if number else [location], f"x{number % strangers}@x.example")
    alice.commit(*alice.adding(bob.account))
    world.room.deliver_all()
    await waiting.reader.take_all(waiting.stanzas())
    assert len(fetched) == (FAILURES_OF_ONE if strangers == 1 else FAILURES)
    assert "https://slow.x.example/0" not in fetched  # it stands beside no Commit
    assert bob.group.is_member  # the genuine Welcome, behind them all


async def test_what_is_fetched_and_refused_counts_as_well() -> None:
    """A Welcome of a stranger's own, whose large tree is there: it could be named again and again."""
    world = World()
    alice, _ = world.group(ALICE, BOB)
    dave = world.person("dave@d.example")
    world.people.remove(dave)
    dave.group.lifecycle.expect_welcome(None)
    waiting = Reading(dave)
    fetched: list[BlobReference] = []

    async def get(place: BlobReference) -> bytes:
        fetched.append(place)
        return b"no Welcome"

    waiting.context.uploads.get = get  # type: ignore[method-assign, assignment]
    reference = next(iter(world.directory.items[dave.account]))
    group = alice.group.mls
    for number in range(20):
        place = Sealing(b"one and the same", world.random).at("https://large.x.example/tree")
        epoch = 99 + number
        location = WelcomeLocation(group.group_id, epoch + 1, WelcomePlace((reference,), place).encode())
        body = PrivateMessage(group.group_id, epoch, ContentType.COMMIT, b"", bytes(28), bytes(99))
        world.room.post([Commit(group.group_id, epoch, MLSMessage.wrap(body)), location], "mallory@x.example")
    alice.commit(*alice.adding(dave.account))
    world.room.deliver_all()
    await waiting.reader.take_all(waiting.stanzas())
    assert len(fetched) == FAILURES_OF_ONE
    assert dave.group.is_member  # the genuine Welcome, behind them all


async def test_a_speaker_is_asked_about_before_its_message_is_shown() -> None:
    """Members beyond the budget of questions: those who say nothing cost nothing, the others are known when they do."""
    world, alice, bob, carol = reading()
    unasked = [person.device.identity for person in (bob, carol)]
    alice.group.members.reconsider(unasked, [Doubt(client, False, NOT_ASKED, "says the test", 1) for client in unasked])
    alice.service.denied.add(bob.device.identity)
    order: list[object] = []
    validate = alice.service.validate

    async def asked(leaves: Any, suite: Any) -> Any:
        order.append(len(alice.texts()))
        return await validate(leaves, suite)

    alice.service.validate = asked  # type: ignore[method-assign]
    for text in (b"one", b"two"):
        bob.send(text)
    world.room.deliver_all()
    await alice.reader.take_all(alice.stanzas())
    assert alice.texts() == [b"one", b"two"]
    assert order == [0]  # once, before the first message
    assert alice.group.members.doubts[bob.device.identity].denied
    assert alice.group.members.doubts[carol.device.identity].reason == NOT_ASKED
