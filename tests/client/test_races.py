"""The order rules against every order: all interleavings of small scenes, and a stop at every write of a long one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slixmpp_mls.client import GroupChanged, MessageReceived, MessageSent, Rejected
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import Replayed
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.framing import MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.proposals import AnyProposal
from slixmpp_mls.policy.roster import Roster
from slixmpp_mls.stanza.elements import GroupInfo
from slixmpp_mls.testing import FaultyStore, InFlight, Killed, Participant, World

ALICE, BOB, CAROL, DAVE = "alice@a.example", "bob@b.example", "carol@c.example", "dave@d.example"


class Wire:
    """Everything that was ever sent, and the key under which each message was encrypted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._keys: dict[bytes, bytes] = {}
        seal = CipherSuite.aead_seal

        def recorded(suite: CipherSuite, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
            ciphertext = seal(suite, key, nonce, aad, plaintext)
            self._keys[ciphertext] = key
            return ciphertext

        monkeypatch.setattr(CipherSuite, "aead_seal", recorded)
        self.sent: list[InFlight] = []

    def watch(self, world: World) -> None:
        post = world.room.post

        def recorded(*args: object, **options: object) -> InFlight:
            stanza = post(*args, **options)  # type: ignore[arg-type]
            self.sent.append(stanza)
            return stanza

        world.room.post = recorded  # type: ignore[method-assign]

    def check_keys(self) -> None:
        """RFC 9420 9.2: no two different messages have left under one key."""
        ciphertexts = set()
        for stanza in self.sent:
            for payload in stanza.payloads:
                if isinstance(payload, GroupInfo):
                    continue  # encrypted with a key and nonce of its own (client/test_group_info_key.py)
                body = MLSMessage.decode(payload.data).body
                if isinstance(body, PrivateMessage):
                    ciphertexts.add(body.ciphertext)
        keys = [self._keys[ciphertext] for ciphertext in ciphertexts]
        assert len(keys) > 1
        assert len(keys) == len(set(keys))


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def three(wire: Wire) -> tuple[World, Participant, Participant, Participant]:
    world = World()
    wire.watch(world)
    alice, bob, carol = world.group(ALICE, BOB, CAROL)
    for person in world.people:
        person.events.clear()
    return world, alice, bob, carol


def everybody_has(world: World, texts: dict[str, set[bytes]]) -> None:
    """Each of these texts has been read by every member that did not send it, once."""
    for person in world.people:
        if person.group.state is not MembershipState.MEMBER:
            continue
        expected = sorted(text for account, some in texts.items() if account != person.account for text in some)
        assert sorted(person.texts) == expected, person
        sent = [event.data for event in person.events if isinstance(event, MessageSent)]
        assert sorted(sent) == sorted(texts.get(person.account, ())), person


def no_complaint_but_replays(world: World) -> None:
    for person in world.people:
        assert all(isinstance(event.error, Replayed) for event in person.events if isinstance(event, Rejected)), person


def finish(world: World) -> None:
    """Everybody comes online, and makes again what was lost, until nothing is left to do."""
    for _ in range(10):
        world.settle()
        if not any(person.resend() for person in world.people):
            return
    raise AssertionError("it does not come to an end")


# --- every order ---------------------------------------------------------------------------------


def in_flight(world: World, alice: Participant, bob: Participant, carol: Participant) -> None:
    """Two Commits, and application data around them."""
    carol.send(b"carol 1")
    alice.send(b"alice 1")
    alice.commit()
    bob.commit()
    alice.send(b"alice 2")


@pytest.mark.parametrize("order", list(permutations(range(5))), ids=lambda order: "".join(map(str, order)))
def test_whatever_the_order_all_come_to_the_same_state_and_read_everything_once(wire: Wire, order: tuple[int]) -> None:
    """Every member is stopped after every stanza, and every stanza arrives twice."""
    world, alice, bob, carol = three(wire)
    in_flight(world, alice, bob, carol)
    sent = list(world.room.in_flight)
    world.room.in_flight = [sent[place] for place in order for _ in range(2)]
    while world.room.in_flight:
        world.room.deliver()
        for person in world.people:
            person.read()
            person.restart()
    assert world.agree()
    assert alice.epoch == 2
    finish(world)
    everybody_has(world, {ALICE: {b"alice 1", b"alice 2"}, CAROL: {b"carol 1"}})
    no_complaint_but_replays(world)
    wire.check_keys()


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("lost", [None, 0, 1, 2])
def test_three_commits_with_one_goal_converge_though_one_is_lost(
    wire: Wire, order: tuple[int], lost: int | None
) -> None:
    """All want Dave in and Carol, who wants to speak, wants to renew her keys; each redoes what lost."""
    world, alice, bob, carol = three(wire)
    dave = world.person(DAVE)

    def wants(person: Participant) -> bool:
        if person.group.state is not MembershipState.MEMBER or person.group.sending.commit_waits:
            return False
        if person is carol:
            return not any(event for event in renewed(carol))
        return not person.group.roster.has(DAVE)

    def act(person: Participant) -> None:
        person.commit(*([] if person is carol else person.adding(DAVE)))

    for person in (alice, bob, carol):
        act(person)
    sent = list(world.room.in_flight)
    world.room.in_flight = [sent[place] for place in order if place != lost]
    carol.send(b"spoken")
    for _ in range(5):
        finish(world)
        if not any(wants(person) for person in (alice, bob, carol)):
            break
        for person in (alice, bob, carol):
            if wants(person):
                act(person)
    assert dave.group.state is MembershipState.MEMBER
    assert world.agree()
    assert len(alice.group.roster) == 4
    assert renewed(carol)
    assert alice.texts == bob.texts == [b"spoken"]
    no_complaint_but_replays(world)
    wire.check_keys()


def renewed(person: Participant) -> list[GroupChanged]:
    """The Commits that have renewed its own keys by its own hand."""
    return [
        event
        for event in person.events
        if isinstance(event, GroupChanged)
        and event.by is not None
        and event.updated
        and event.by.account == person.account
    ]


# --- random service ------------------------------------------------------------------------------

ACTIONS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2)),
    st.tuples(st.just("commit"), st.integers(0, 2)),
    st.tuples(st.just("update"), st.integers(0, 2)),
    st.tuples(st.just("deliver"), st.integers(0, 7)),
    st.tuples(st.just("twice"), st.integers(0, 7)),
    st.tuples(st.just("lose"), st.integers(0, 7)),
    st.tuples(st.just("read"), st.integers(0, 2)),
    st.tuples(st.just("crash"), st.integers(0, 2)),
    st.tuples(st.just("reconnect"), st.integers(0, 2)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTIONS, max_size=40))
def test_a_room_that_loses_delays_reorders_and_repeats_hides_nothing_for_good(
    monkeypatch: pytest.MonkeyPatch, actions: list[tuple[str, int]]
) -> None:
    with monkeypatch.context() as patch:
        wire = Wire(patch)
        world, *people = three(wire)
        texts: dict[str, set[bytes]] = {}
        for number, (action, place) in enumerate(actions):
            do(world, people, texts, action, place, number)
        finish(world)
        for person in people:  # and when proposals are left, somebody commits them
            if person.group.sending.needs_commit:
                person.commit()
                finish(world)
        finish(world)
        assert world.agree()
        everybody_has(world, texts)
        no_complaint_but_replays(world)
        if len(wire.sent) > 2:
            wire.check_keys()


def do(
    world: World, people: list[Participant], texts: dict[str, set[bytes]], action: str, place: int, number: int
) -> None:
    """One thing that happens."""
    room = world.room
    person = people[place % 3]
    match action:
        case "send" if not person.group.sending.needs_commit:
            text = b"%d" % number
            person.send(text)
            texts.setdefault(person.account, set()).add(text)
        case "commit" if not person.group.sending.commit_waits:
            person.commit()
        case "update":
            person.post(person.group.sending.propose_update(world.now))
        case "deliver" if place < len(room.in_flight):
            room.deliver(place)
        case "twice" if place < len(room.in_flight):
            room.deliver(place, keep=True)
        case "lose" if place < len(room.in_flight):
            room.lose(place)
        case "read":
            person.read(3)
        case "crash":
            person.restart()
        case "reconnect":
            person.read()
            person.resend()


# --- a stop at every write -----------------------------------------------------------------------


class Story:
    """A long scene in which Bob can be stopped at any write, and goes on from what his store holds."""

    def __init__(self, wire: Wire, kill_at: int | None, kill_before: bool) -> None:
        self.world = World()
        wire.watch(self.world)
        self.alice, self.bob, self.carol = self.world.group(ALICE, BOB, CAROL)
        self.dave = self.world.person(DAVE)
        self.disk = self.bob.store
        self.kill_before = kill_before
        self.kills = 0
        self.interrupted: list[bytes] = []
        self.store = FaultyStore(self.disk)
        self.store.kill_at, self.store.kill_before = kill_at, kill_before
        self.alive(lambda: self.bob.restart(self.store))

    def alive(self, step: Callable[[], object]) -> None:
        """Bob does something.  If he is stopped, he starts again, reads, sends what is left over, and does it again."""
        try:
            step()
        except Killed:
            self.kills += 1
            self.bob.restart(FaultyStore(self.disk))
            self.bob.read()
            self.bob.resend()
            step()

    def settle(self) -> None:
        self.world.room.deliver_all()
        for person in (self.alice, self.carol, self.dave):
            person.read()
        self.alive(self.bob.read)

    def commit(self, done: Callable[[], bool], *proposals: Callable[[], list[AnyProposal]]) -> None:
        """Bob commits, again if another one came first, until it is done."""

        def step() -> None:
            if not done() and not self.bob.group.sending.commit_waits:
                self.bob.commit(*(each for make in proposals for each in make()))

        for _ in range(3):
            self.alive(step)
            self.settle()

    def run(self) -> None:
        """The story."""
        alice, bob, carol = self.alice, self.bob, self.carol

        def roster() -> Roster:
            return bob.group.roster

        self.alive(lambda: bob.send(b"bob 1", "id-1"))
        self.settle()
        # a message is lost, its epoch ends, Bob comes back
        self.alive(lambda: bob.send(b"bob 2", "id-2"))
        self.world.room.in_flight.clear()
        carol.commit()
        alice.send(b"alice 1")
        self.settle()
        self.alive(bob.resend)
        self.settle()
        # Bob wants Dave in, and Alice is quicker with something else
        carol.send(b"carol 1")
        alice.commit()
        self.commit(lambda: roster().has(DAVE), lambda: bob.adding(DAVE))
        # Bob proposes, Carol commits
        self.alive(lambda: bob.post(bob.group.sending.propose_update(self.world.now)))
        self.settle()
        if carol.group.sending.needs_commit:
            carol.commit()
        self.settle()
        # a refused Commit, and another one
        epoch = bob.epoch

        def refused() -> None:
            if bob.epoch == epoch and not bob.group.sending.commit_waits:
                outgoing = bob.commit()
                self.world.room.in_flight.clear()
                bob.bounce(outgoing)

        self.alive(refused)
        self.commit(lambda: bob.epoch > epoch)
        # Bob removes Dave, says a last word and forgets what is old
        self.commit(lambda: not roster().has(DAVE), lambda: bob.removing(DAVE))
        self.alive(lambda: bob.send(b"bob 3", "id-3"))
        alice.send(b"alice 2")
        self.settle()
        self.world.now += 7200
        self.alive(lambda: bob.group.lifecycle.tidy(self.world.now))
        # Bob is thrown out and comes back at once
        package = next(iter(self.world.directory.find(BOB, alice.group, self.world.now).values()))
        alice.commit(*alice.removing(BOB), *again(package))
        self.settle()
        self.alive(lambda: bob.send(b"bob 4", "id-4"))
        self.settle()


def again(package: object) -> list[AnyProposal]:
    from slixmpp_mls.mls.structures.proposals import Add

    return [Add(package.key_package)]  # type: ignore[attr-defined]


def fault_points(wire: Wire) -> int:
    story = Story(wire, None, False)
    story.run()
    return story.store.commits


@pytest.mark.parametrize("kill_before", [True, False], ids=["before", "after"])
def test_stopped_at_any_write_nothing_is_lost_or_repeated_and_nothing_hangs(wire: Wire, kill_before: bool) -> None:
    points = fault_points(wire)
    assert points > 25
    for kill_at in range(points):
        story = Story(wire, kill_at, kill_before)
        story.run()
        assert story.kills == 1, kill_at
        finish(story.world)
        assert story.world.agree(), kill_at
        assert len(story.alice.group.roster) == 3
        said = [b"bob 1", b"bob 2", b"bob 3", b"bob 4"]
        for reader in (story.alice, story.carol):
            assert sorted(text for text in reader.texts if text.startswith(b"bob")) == said, kill_at
        # What Bob read when he was stopped comes to his application all the same; if it comes twice, that is said.
        received = story.bob.said(MessageReceived)
        heard = list(dict.fromkeys(event.archive_id for event in received))
        assert sorted({event.data for event in received}) == [b"alice 1", b"alice 2", b"carol 1"], kill_at
        assert heard == sorted(heard)
        for place, event in enumerate(received):
            assert event.again or all(event.archive_id != other.archive_id for other in received[:place]), kill_at
        assert story.bob.group.outstanding_ids() == frozenset()
        assert not story.bob.group.sending.commit_waits
        no_complaint_but_replays(story.world)
    wire.check_keys()
