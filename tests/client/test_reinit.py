"""A group that ends by a ReInit and goes on in another one, and branches (RFC 9420 11.2, 11.3): the order rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from slixmpp_mls.client import (
    Device,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    Joined,
    KeyPackageSettings,
    MessageSent,
    Outgoing,
    Rejected,
    RoomGroup,
    Unreadable,
)
from slixmpp_mls.client.group import continuation
from slixmpp_mls.client.storage.records import KEY_PACKAGES, MembershipState, OutboxKind
from slixmpp_mls.errors import InvalidError, NotPermitted, PolicyViolation, StanzaTooLarge, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.crypto.hpke import HPKECiphertext
from slixmpp_mls.mls.group import resumption
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage, PublicMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.mls.structures.proposals import Add, ReInit
from slixmpp_mls.mls.structures.welcome import EncryptedGroupSecrets
from slixmpp_mls.mls.structures.welcome import Welcome as WelcomeMessage
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import DeviceVouchers, RoomPolicy
from slixmpp_mls.stanza import parse
from slixmpp_mls.stanza.blob import longest
from slixmpp_mls.stanza.elements import Commit, RoomElement, Welcome
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import FaultyStore, Killed, Participant, World

from .people import ALICE, BOB, CAROL, DAVE, closed_policy, only, pretend

NEW = bytes(range(32))
PQ = 0xF009  # its signature scheme is ML-DSA-44


def world_of(*accounts: str, suites: tuple[int, ...] = (1, 2, 3), **options: object) -> tuple[World, list[Participant]]:
    world = World(settings=KeyPackageSettings(suites=suites, count=1))
    people = world.group(*accounts, **options)  # type: ignore[arg-type]
    for person in people:
        person.events.clear()
    return world, people


def packages(maker: Participant, suite: int, *, without: tuple[str, ...] = ()) -> list[KeyPackage]:
    """KeyPackages of all other members, for a suite."""
    world, session = maker.world, maker.group
    return [
        package.key_package
        for account in session.roster.accounts()
        for client, package in world.directory.find(account, session, world.now, suite).items()
        if session.roster.leaf_of(client) is not None
        and client != maker.device.identity
        and client.account not in without
    ]


def ask(person: Participant, suite: int = 2, **fields: object) -> Outgoing:
    """The Commit of a ReInit."""
    asked = ReInit(NEW, 1, suite, person.group.mls.context.extensions)
    return person.commit(replace(asked, **fields))  # type: ignore[arg-type]


def go_on(person: Participant, suite: int = 2) -> Outgoing:
    return person.post(person.group.continuation.continue_group(packages(person, suite), person.world.now))


def check_new(world: World, people: list[Participant], suite: int = 2) -> None:
    assert world.agree()
    for person in people:
        group = person.group.mls
        assert (group.group_id, group.epoch, group.suite.id, group.closed) == (NEW, 1, suite, None)
        assert person.group.policy.room == world.room.jid
        assert sorted(person.group.roster.accounts()) == sorted(each.account for each in people)
    people[0].send(b"what hath quenched them")
    people[-1].send(b"hath given me fire")
    world.settle()
    assert b"hath given me fire" in people[0].texts
    assert b"what hath quenched them" in people[-1].texts
    people[-1].commit()
    world.settle()
    assert world.agree()


# --- the way it should go ----------------------------------------------------------------------


@pytest.mark.parametrize("suite", [1, 2, 3])
@pytest.mark.parametrize("maker", [0, 2])
def test_11_2_a_group_ends_and_goes_on_in_another_suite(suite: int, maker: int) -> None:
    """Any member may make the group that follows."""
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0], suite)
    world.settle()
    for person in people:
        closed = only(person.events, GroupClosed)
        assert (closed.epoch, closed.by.account, closed.suite) == (2, ALICE, suite)
        assert person.group.continuation.reinit is not None
        assert person.group.state is MembershipState.MEMBER
        with pytest.raises(UsageError, match="reinitialized"):
            person.send(b"nothing can be said")
        with pytest.raises(UsageError, match="reinitialized"):
            person.commit()
    go_on(people[maker], suite)
    assert people[maker].group.continuation.waits
    world.settle()
    for person in people:
        continued = only(person.events, GroupContinued)
        assert (continued.epoch, continued.by.account, continued.suite) == (1, people[maker].account, suite)
        assert not person.said(Joined)
        assert not person.said(Rejected)
        assert not person.group.continuation.waits
    check_new(world, people, suite)


def test_a_member_that_was_away_all_the_time_follows() -> None:
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0])
    for person in people[:2]:
        world.room.deliver_all()
        person.read()
    go_on(people[1])
    world.room.deliver_all()
    for person in people[:2]:
        person.read()
    people[2].restart()
    world.settle()
    check_new(world, people)


def test_it_is_the_same_after_restarts_at_every_point() -> None:
    world, people = world_of(ALICE, BOB, CAROL)

    def all_restart() -> None:
        for person in people:
            person.restart()

    ask(people[0])
    all_restart()
    world.settle()
    all_restart()
    sent = go_on(people[1])
    all_restart()
    assert people[1].group.continuation.waits
    world.room.lose()
    assert [outgoing.payloads for outgoing in people[1].resend()] == [sent.payloads]
    all_restart()
    world.settle()
    all_restart()
    check_new(world, people)


@pytest.mark.parametrize("before", [True, False])
def test_it_is_the_same_when_killed_at_any_write(before: bool) -> None:
    """Whatever is in the store: the group that ended, or the one that follows, never neither and never half of one."""
    kill_at = 0
    while True:
        world, people = world_of(ALICE, BOB)
        stores = [FaultyStore(person.store) for person in people]
        for person, store in zip(people, stores, strict=True):
            person.restart(store)
            store.commits = 0
            store.kill_at, store.kill_before = kill_at, before
        killed = 0

        def doing(person: Participant, what: str) -> None:
            nonlocal killed
            try:
                {"ask": ask, "go on": go_on, "read": Participant.read}[what](person)
            except Killed:
                killed += 1
                person.restart(person.store._store)  # type: ignore[attr-defined]

        doing(people[0], "ask")
        if not world.room.in_flight and not people[0].resend():
            ask(people[0])
        world.room.deliver_all()
        for person in people:
            doing(person, "read")
            person.read()
        doing(people[1], "go on")
        if not world.room.in_flight and not people[1].resend():
            go_on(people[1])
        world.room.deliver_all()
        for person in people:
            doing(person, "read")
            person.read()
        for store in stores:
            store.kill_at = None
        check_new(world, people)
        if not killed:
            break
        kill_at += 1
    assert kill_at > 3


def test_what_waits_goes_to_the_new_group_once() -> None:
    """Sent across the ReInit: it was not delivered to anybody, and is encrypted anew under the same id."""
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0])
    sent = people[2].send(b"when shall we three meet again")
    late = world.room.in_flight.pop(1)
    world.settle()
    go_on(people[0])
    world.settle()
    assert [outgoing.origin_id for outgoing in people[2].resend()] == [sent.origin_id]
    world.room.in_flight.insert(0, late)  # the first encryption arrives after all: nobody has its keys any more
    world.settle()
    for person in people[:2]:
        assert person.texts == [b"when shall we three meet again"]
        assert only(person.events, Unreadable).reason == "too-late"
    assert only(people[2].events, MessageSent).origin_id == sent.origin_id
    check_new(world, people)


def test_a_message_between_the_end_and_the_beginning_is_read() -> None:
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0])
    people[2].send(b"in thunder, lightning")
    world.settle()
    assert people[0].texts == people[1].texts == [b"in thunder, lightning"]
    go_on(people[0])
    world.settle()
    assert not people[2].resend()
    check_new(world, people)


# --- races and faults ------------------------------------------------------------------------------


def test_of_two_creations_the_first_in_the_rooms_order_counts() -> None:
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0])
    world.settle()
    go_on(people[1])
    go_on(people[2])
    world.room.deliver(1)
    world.settle()
    assert {only(person.events, GroupContinued).by.account for person in people} == {CAROL}
    assert not any(person.said(Rejected) for person in people)
    assert not people[1].group.continuation.waits
    assert not people[1].resend()
    check_new(world, people)


def test_a_creation_without_a_member_means_nothing() -> None:
    """RFC 9420 12.4.3.1: the members of the old group are all there.  The next creation counts."""
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0])
    world.settle()
    with pytest.raises(InvalidError, match="not the members"):
        people[0].group.continuation.continue_group(packages(people[0], 2, without=(CAROL,)), world.now)
    # A member with other software makes it all the same.
    group = people[1].group.mls
    fewer = replace(group, public=replace(group.public, tree=group.tree.remove(LeafIndex(group.own_index + 1))))
    pretend(people[1].group, group=fewer)
    people[1].post(people[1].group.continuation.continue_group(packages(people[1], 2, without=(CAROL,)), world.now))
    pretend(people[1].group, group=group)
    world.room.deliver_all()
    for person in (people[0], people[2]):
        person.read()
    assert "not the members of the old group" in str(only(people[0].events, Rejected).error)
    assert not people[2].said(GroupContinued)
    go_on(people[2])
    world.room.deliver_all()
    for person in (people[0], people[2]):
        person.read()
        assert only(person.events, GroupContinued).by.account == CAROL


def test_another_group_than_was_asked_for_means_nothing() -> None:
    world, people = world_of(ALICE, BOB)
    ask(people[0])
    world.settle()
    outgoing = people[1].group.continuation.continue_group(packages(people[1], 2), world.now)
    payloads = tuple(replace(payload, group=bytes(32)) for payload in outgoing.payloads)
    world.room.post(payloads, BOB)
    world.settle()
    assert only(people[0].events, Rejected)
    assert people[0].group.continuation.reinit is not None


def test_a_welcome_to_a_new_group_of_that_id_that_does_not_continue_ours_is_refused() -> None:
    """Who is no member cannot make the group that follows, even if it knows its id and has everybody's KeyPackages."""
    world, people = world_of(ALICE, BOB)
    ask(people[0])
    world.settle()
    mallory = World(settings=world.settings, room=world.room.jid)
    mallory.directory = world.directory
    stranger = mallory.person("mallory@m.example")
    group = Group.create(
        stranger.device.key_packages.make(CipherSuite.get(2), world.now),
        NEW,
        extensions=people[0].group.mls.context.extensions,
    )
    found = [mallory.directory.find(account, people[0].group, world.now, 2) for account in (ALICE, BOB)]
    made = group.commit([Add(each.key_package) for some in found for each in some.values()], now=world.now)
    assert made.welcome is not None
    world.room.post([Commit(NEW, 0, made.commit), Welcome(NEW, 1, made.welcome)], "mallory@m.example")
    world.settle()
    for person in people:
        assert "nothing that we know lets mallory" in str(only(person.events, Rejected).error)
        assert person.group.continuation.reinit is not None


def test_a_creation_that_the_room_refuses_is_made_anew() -> None:
    world, people = world_of(ALICE, BOB)
    ask(people[0])
    world.settle()
    outgoing = go_on(people[1])
    with pytest.raises(UsageError, match="waits already"):
        go_on(people[1])
    world.room.lose()
    people[1].bounce(outgoing)
    assert not people[1].group.continuation.waits
    assert not people[1].resend()
    go_on(people[1])
    world.settle()
    check_new(world, people)


def test_a_creation_that_does_not_fit_changes_nothing() -> None:
    world, people = world_of(ALICE, BOB)
    ask(people[0])
    world.settle()

    def never(payloads: object) -> None:
        raise StanzaTooLarge(2, 1)

    with pytest.raises(StanzaTooLarge):
        people[0].group.continuation.continue_group(packages(people[0], 2), world.now, fits=never)
    assert not people[0].group.continuation.waits
    go_on(people[0])
    world.settle()
    check_new(world, people)


def test_the_policy_decides_who_may_end_the_group() -> None:
    """Rules "change-policy", "room": the present policy, and what the new group's would be."""
    world, people = world_of(ALICE, BOB, policy=closed_policy(World()))
    with pytest.raises(NotPermitted, match="change-policy"):
        ask(people[1])
    with pytest.raises(NotPermitted, match="room"):
        ask(people[0], extensions=(replace(people[0].group.policy, room="elsewhere@rooms.example").extension(),))
    group = people[1].group.mls
    asked = ReInit(NEW, 1, 2, group.context.extensions)
    made = group.commit([asked], now=world.now)
    world.room.post([replace(people[1].commit().payloads[0], data=made.commit)], BOB)
    world.room.in_flight.pop(0)
    world.settle()
    error = only(people[0].events, Rejected).error
    assert isinstance(error, PolicyViolation)
    assert people[0].group.continuation.reinit is None


def test_a_client_outside_of_a_closed_group_has_nothing_to_make() -> None:
    world, people = world_of(ALICE, BOB)
    with pytest.raises(UsageError, match="not been reinitialized"):
        go_on(people[0])
    with pytest.raises(UsageError):
        world.person(DAVE).group.continuation.continue_group((), world.now)


# --- branches --------------------------------------------------------------------------------------


def cellar_of(world: World, *people: Participant) -> tuple[World, list[Participant]]:
    """The same people in another room, without a group."""
    below = World(room="cellar@rooms.example", settings=world.settings)
    below.directory = world.directory
    return below, [below.person(person.account, person.store) for person in people]


def branch(person: Participant, source: RoomGroup, policy: RoomPolicy, others: list[KeyPackage], now: int) -> Outgoing:
    """What :meth:`.EncryptedRoom.branch` does without a room."""
    continuation = person.group.continuation
    return continuation.finish(continuation.draft_branch(source.mls, policy, others, now))


def test_11_3_a_group_of_some_members() -> None:
    world, people = world_of(ALICE, BOB, CAROL)
    below, (alice, bob, carol) = cellar_of(world, *people)
    policy = below.open_policy(ALICE)
    others = packages(people[0], 1, without=(CAROL,))
    sent = branch(alice, people[0].group, policy, others, below.now)
    assert alice.group.state is MembershipState.INVITED
    alice.restart()
    assert [outgoing.payloads for outgoing in alice.resend()] == [sent.payloads]
    assert sent.kind is OutboxKind.CREATION
    below.settle()
    assert only(alice.events, Joined).by is None
    assert [member.account for member in only(alice.events, GroupChanged).added] == [BOB]  # to be invited
    assert only(bob.events, Joined).by.account == ALICE
    assert not carol.events
    alice.restart()
    assert below.agree()
    assert [person.group.mls.epoch for person in (alice, bob)] == [1, 1]
    bob.send(b"a deed without a name")
    below.settle()
    assert alice.texts == [b"a deed without a name"]
    people[0].commit()
    world.settle()
    assert only(people[2].events, GroupChanged)


def test_11_3_with_somebody_from_outside_is_refused_by_both_sides() -> None:
    world, people = world_of(ALICE, BOB, CAROL)
    below, (alice, bob, carol) = cellar_of(world, *people)
    others = packages(people[0], 1)
    people[0].commit(*people[0].removing(CAROL))
    world.room.deliver_all()
    people[1].read()
    branch(alice, people[0].group, below.open_policy(ALICE), others, below.now)  # Alice has not seen it
    below.room.post(next(iter(alice.group.outstanding())), ALICE)
    below.room.deliver_all()
    bob.read()
    assert "members from outside" in str(only(bob.events, Rejected).error)
    people[0].read()
    with pytest.raises(InvalidError, match="members from outside"):
        branch(
            World(room="attic@rooms.example", settings=world.settings).person(ALICE, people[0].store),
            people[0].group,
            replace(below.open_policy(ALICE), room="attic@rooms.example"),
            others,
            below.now,
        )
    assert not carol.said(Joined)


def test_a_branch_needs_a_room_without_a_group_and_its_own_policy() -> None:
    world, people = world_of(ALICE, BOB)
    below, (alice, _) = cellar_of(world, *people)
    others = packages(people[0], 1)
    with pytest.raises(UsageError, match="a policy for"):
        branch(alice, people[0].group, people[0].group.policy, others, below.now)
    with pytest.raises(UsageError, match="already a member"):
        branch(people[0], people[0].group, people[0].group.policy, others, below.now)


def test_the_stanza_of_a_creation_can_be_read() -> None:
    """A Commit to epoch 0 and the Welcome to epoch 1, of the group that the ReInit has named."""
    world, people = world_of(ALICE, BOB)
    ask(people[0])
    world.settle()
    found = [parse(payload.to_stdlib()) for payload in go_on(people[0]).payloads]
    assert [(type(payload).__name__, payload.group, payload.epoch) for payload in found] == [  # type: ignore[union-attr]
        ("Commit", NEW, 0), ("Welcome", NEW, 1),
    ]  # fmt: skip


def test_a_rehearsal_is_as_large_as_the_real_thing_and_leaves_no_trace() -> None:
    """What does not fit must be known before the group is closed; the tree is elsewhere, at a place of any length."""
    world, people = world_of(ALICE, BOB, CAROL)
    sizes: list[int] = []

    def fits(payloads: Sequence[RoomElement]) -> None:
        sizes.append(sum(len(payload.data) for payload in payloads))

    others = packages(people[0], 2)
    people[0].group.continuation.rehearse(CipherSuite.get(2), others, world.now, fits)
    assert not people[0].group.continuation.waits
    ask(people[0])
    world.settle()
    draft = people[0].group.continuation.draft(others, world.now)
    people[0].post(people[0].group.continuation.finish(draft, fits=fits, tree_at=longest()))
    # Signatures of P-256 differ in length, by which the padded Commit may be a step longer.
    assert abs(sizes[0] - sizes[1]) < 16 + 128
    with pytest.raises(UsageError, match="waits already"):
        people[0].group.continuation.finish(draft)


def test_a_draft_is_void_when_another_was_first() -> None:
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0])
    world.settle()
    draft = people[0].group.continuation.draft(packages(people[0], 2), world.now)
    go_on(people[1])
    world.settle()
    with pytest.raises(UsageError, match="another one has been first"):
        people[0].group.continuation.finish(draft)
    check_new(world, people)


def test_a_client_that_has_lost_the_group_finds_the_one_that_followed() -> None:
    """It asks to be added there; an outsider who begins a group leads it away only until it hears of the real one."""
    world, people = world_of(ALICE, BOB, CAROL)
    lost = people[2]
    old, other = lost.group.mls.group_id, b"x" * 32
    lost.group.lifecycle.give_up("for this test")

    def hear(epoch: int, *beside: Welcome) -> bytes | None:
        world.room.post([Commit(other, epoch, MLSMessage.wrap(private(other, epoch))), *beside], "mallory@m.example")
        world.settle()
        return lost.group.room_state.outside.group_id

    assert hear(0) == hear(5) == old  # no creations
    ask(people[0])
    world.settle()
    made = go_on(people[1])
    world.settle()
    assert (lost.group.room_state.outside.group_id, lost.group.join_requests.epoch_seen) == (NEW, 1)
    welcome = made.payloads[1]
    assert isinstance(welcome, Welcome)
    assert hear(0, replace(welcome, group=other)) == other
    people[0].commit()
    world.settle()
    assert (lost.group.room_state.outside.group_id, lost.group.join_requests.epoch_seen) == (NEW, 2)


def private(group_id: bytes, epoch: int) -> PrivateMessage:
    return PrivateMessage(group_id, epoch, ContentType.COMMIT, b"", b"", b"")


def test_a_group_without_the_suite_that_its_policy_demands_is_not_joined() -> None:
    """XEP, "The Policy": a client MUST NOT join a group of another suite that has such a policy."""
    world = World()
    policy = replace(world.open_policy(ALICE), post_quantum=True)
    alice, carol = world.person(ALICE), world.person("carol@c.example")
    with pytest.raises(UsageError, match="post-quantum"):
        alice.group.lifecycle.create(1, policy, world.now)
    # Other software makes it all the same.
    alice.group.lifecycle.create(1, world.open_policy(ALICE), world.now)
    group = alice.group.mls
    extensions = policy.replaced_in(group.context.extensions)
    forged = replace(group, public=replace(group.public, context=replace(group.context, extensions=extensions)))
    found = world.directory.find(carol.account, alice.group, world.now)
    (package,) = found.values()
    bundle = forged.commit([Add(package.key_package)], now=world.now)
    assert bundle.welcome is not None
    payloads = [Commit(group.group_id, 0, bundle.commit), Welcome(group.group_id, 1, bundle.welcome)]
    world.room.post(payloads, ALICE, "forged")
    world.room.deliver_all()
    (rejected,) = carol.read()
    assert isinstance(rejected, Rejected)
    assert "its policy does not allow" in str(rejected.error)
    assert not carol.group.is_member


@pytest.mark.parametrize("suite", [2, 3])
def test_nobody_else_is_brought_into_the_group_that_follows(suite: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9420 11.2: "the same members".  Any member may make the group, also one that has no right to add."""
    world, (alice, bob, carol) = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    world.person(DAVE)
    ask(alice, suite)
    world.settle()
    (spy,) = world.directory.find(DAVE, carol.group, world.now, suite).values()
    more = [*packages(carol, suite), spy.key_package]
    with pytest.raises(InvalidError):
        carol.group.continuation.continue_group(more, world.now)
    monkeypatch.setattr(continuation, "check_continuation", lambda *args: None)
    monkeypatch.setattr(resumption, "_members", lambda old, identify: {*map(identify, leaves(carol, more))})
    carol.post(carol.group.continuation.continue_group(more, world.now))
    monkeypatch.undo()
    world.people.remove(carol)
    world.settle()
    for person in (alice, bob):
        assert "not the members of the old group" in str(only(person.events, Rejected).error)
        assert person.group.continuation.reinit is not None
    go_on(bob, suite)
    world.settle()
    for person in (alice, bob):
        assert only(person.events, GroupContinued).by.account == BOB


def leaves(maker: Participant, others: Sequence[KeyPackage]) -> list[LeafNode]:
    return [maker.group.mls.own_leaf, *(package.leaf_node for package in others)]


def name_of_another(person: Participant, suite: int, monkeypatch: pytest.MonkeyPatch) -> KeyPackage:
    """A KeyPackage in a person's name, with keys of somebody else's own, which vouch for each other."""
    false = Device(MemoryStore(person.account), settings=person.world.settings)
    monkeypatch.setattr(false, "identity", person.device.identity, raising=False)
    package = false.key_packages.make(CipherSuite.get(suite), person.world.now).key_package
    assert ClientIdentity.from_leaf(package.leaf_node) == person.device.identity
    return package


@pytest.mark.parametrize("suite", [2, 3, *([PQ] if CipherSuite.is_supported(PQ) else [])])
def test_nobody_takes_anothers_place_in_the_group_that_follows(suite: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of carol's own in alice's name would get all rights (mls-operations, "Another Cipher Suite")."""
    policy = closed_policy(World())
    world, (alice, bob, carol) = world_of(ALICE, BOB, CAROL, policy=policy, suites=(1, suite))
    ask(alice, suite)
    world.settle()
    package = name_of_another(alice, suite, monkeypatch)
    forged = [package, *packages(carol, suite, without=(ALICE,))]
    with pytest.raises(PolicyViolation, match="not proven by its former one"):
        carol.group.continuation.continue_group(forged, world.now)
    monkeypatch.setattr(continuation, "check_continuation", lambda *args: None)
    carol.post(carol.group.continuation.continue_group(forged, world.now))
    monkeypatch.undo()
    world.people.remove(carol)
    world.settle()
    assert f"the new key of {alice.device.identity} is not proven" in str(only(bob.events, Rejected).error)
    assert bob.group.continuation.reinit is not None
    go_on(bob, suite)
    world.settle()
    for person in (alice, bob):
        assert only(person.events, GroupContinued).by.account == BOB
        assert person.group.mls.suite.id == suite


@pytest.mark.parametrize("by", [ALICE, BOB])
def test_without_vouchers_an_administrator_makes_the_group_that_follows(
    by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Carol's software makes none.  An administrator with may_add could replace her leaf by an Add as well."""
    world, people = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    alice, bob, carol = people
    monkeypatch.setattr(carol.device, "_vouching_schemes", lambda suite: [])
    world.directory.replenish(carol.device, world.now)
    monkeypatch.undo()
    assert len(packages(bob, 2)) == 2
    ask(alice)
    world.settle()
    maker = next(person for person in people if person.account == by)
    if maker is bob:
        with pytest.raises(PolicyViolation, match=f"new key of {carol.device.identity} is not proven"):
            go_on(bob)
        with pytest.raises(PolicyViolation, match="reinit"):
            bob.group.continuation.rehearse(CipherSuite.get(2), packages(bob, 2), world.now, lambda payloads: None)
        maker = alice
    go_on(maker)
    world.settle()
    for person in people:
        assert only(person.events, GroupContinued).by.account == ALICE
    check_new(world, people)


def test_a_group_that_follows_is_entered_whatever_the_authentication_service_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Verdicts may differ.  What the former keys prove is followed by all, and the denied leaf is in doubt."""
    world, people = world_of(ALICE, BOB, CAROL)
    ask(people[0])
    world.settle()

    def deny_carol(leaf: LeafNode) -> InvalidError | None:
        denied = ClientIdentity.from_leaf(leaf).account == CAROL
        return InvalidError("no device of this account", "RFC 9420 5.3.1") if denied else None

    people[1].judge = deny_carol
    go_on(people[2])  # carol makes it herself
    world.settle()
    assert world.agree()
    assert only(people[1].events, GroupContinued).by.account == CAROL
    (doubt,) = people[1].group.members.doubts.values()
    assert (doubt.client.account, doubt.denied, doubt.silences) == (CAROL, True, True)
    assert people[1].group.sending.silenced
    assert not people[0].group.sending.silenced


def test_key_packages_have_vouchers_by_small_keys_of_other_schemes() -> None:
    world = World(settings=KeyPackageSettings(suites=(1, 2, 3, 7), count=1))
    device = world.person(ALICE).device

    def issuers(suite: int, made_by: Device = device) -> int:
        leaf = made_by.key_packages.make(CipherSuite.get(suite), world.now).key_package.leaf_node
        found = DeviceVouchers.found_in(leaf.extensions)
        return 0 if found is None else len(found.vouchers)

    assert [issuers(suite) for suite in (1, 2, 3, 7)] == [2, 2, 2, 2]
    of_one = Device(MemoryStore(BOB), settings=KeyPackageSettings(suites=(3, 1)))
    assert issuers(1, of_one) == 0
    if CipherSuite.is_supported(PQ):
        both = Device(MemoryStore(BOB), settings=KeyPackageSettings(suites=(PQ, 1)))
        assert [issuers(PQ, both), issuers(1, both)] == [1, 0]


def test_key_packages_of_before_there_were_vouchers_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(settings=KeyPackageSettings(suites=(1, 2), count=1))
    alice = world.person(ALICE)
    monkeypatch.setattr(alice.device, "_vouching_schemes", lambda suite: [])
    world.directory.replenish(alice.device, world.now)
    monkeypatch.undo()
    before = set(world.directory.items[ALICE])
    world.directory.replenish(alice.device, world.now)
    after = set(world.directory.items[ALICE])
    assert len(before) == len(after) == 4
    assert not before & after
    world.directory.replenish(alice.device, world.now)
    assert set(world.directory.items[ALICE]) == after


# --- left out: by a KeyPackage that was used before ----------------------------------------------


def use_elsewhere(person: Participant, suite: int) -> None:
    """All KeyPackages of a suite have been used, and their keys deleted; a server hands them out all the same."""
    packages, now = person.device.key_packages, person.world.now
    with person.store.transaction() as transaction:
        for reference, _ in list(transaction.items(KEY_PACKAGES)):
            bundle = packages.find(transaction, [reference])
            if bundle is not None and bundle.suite.id == suite:
                packages.use_up(transaction, bundle, now)
                transaction.delete(KEY_PACKAGES, reference)


def garbage(world: World, person: Participant, claimed: str, suite: int = 2, ref: bytes | None = None) -> None:
    """A creation that is none, for a used KeyPackage of somebody's."""
    if ref is None:
        found = world.directory.find(person.account, person.group, world.now, suite)
        ref = CipherSuite.get(suite).key_package_ref(found[person.device.identity].key_package.encode())
    welcome = WelcomeMessage(suite, (EncryptedGroupSecrets(ref, HPKECiphertext(b"kem", b"secrets")),), b"group info")
    payloads = [Commit(NEW, 0, MLSMessage.wrap(private(NEW, 0))), Welcome(NEW, 1, MLSMessage.wrap(welcome))]
    world.room.post(payloads, claimed)


def left_out(world: World, *people: Participant, suite: int = 2) -> None:
    """Carol, who has no rights, makes the group that follows with used KeyPackages of these."""
    for person in people:
        use_elsewhere(person, suite)
    ask(world.people[0], suite)
    world.settle()
    go_on(world.people[-1], suite)
    world.settle()
    for person in people:
        assert person.group.continuation.left_out
        assert not person.said(Rejected)


@pytest.mark.parametrize("suite", [2, 3])
def test_an_administrator_that_is_left_out_comes_back_by_a_member_without_rights(suite: int) -> None:
    """mls-operations, "Left Out": the return key of the used KeyPackage proves that the leaf is hers."""
    world, people = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    alice, bob, carol = people
    left_out(world, alice, suite=suite)
    assert only(bob.events, GroupContinued).by.account == CAROL
    alice.restart()
    assert alice.group.continuation.left_out
    assert alice.group.state is MembershipState.MEMBER  # nothing is deleted
    alice.ask()
    world.settle()
    bob.commit()
    world.settle()
    continued = only(alice.events, GroupContinued)
    assert (continued.epoch, continued.by.account, continued.suite) == (2, BOB, suite)
    assert alice.group.mls.group_id == bob.group.mls.group_id == NEW
    assert world.agree()
    assert alice.group.continuation.reinit is None
    assert not alice.group.continuation.left_out
    assert alice.group.policy.administrators == (ALICE,)
    alice.commit(*alice.removing(CAROL))  # she has her rights
    world.settle()
    assert carol.group.state is MembershipState.OUT
    assert not bob.said(Rejected)


@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_many_made_up_creations_do_not_displace_the_key_by_which_she_comes_back(first: bool) -> None:
    """Each is for another used KeyPackage of hers, before or behind the creation that the others follow."""
    world, people = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    alice, bob, carol = people
    used: set[bytes] = set()
    while len(used) < 8:
        used |= spent(alice, 2)
        use_elsewhere(alice, 2)
        world.directory.replenish(alice.device, world.now)
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    if first:
        for ref in sorted(used):
            garbage(world, alice, CAROL, ref=ref)
    go_on(carol)
    world.settle()
    if not first:
        used -= {ref for each in world.room.archive() for payload in each.payloads for ref in named(payload)}
        for ref in sorted(used):
            garbage(world, alice, CAROL, ref=ref)
        world.settle()
    assert only(bob.events, GroupContinued).by.account == CAROL
    epochs = 0
    while alice.group.continuation.left_out:
        due = alice.group.join_requests.asking_at(world.now)
        assert due is not None
        world.now = max(world.now, due)
        alice.ask()
        world.settle()
        bob.commit()  # with her request, if it has the right key; otherwise she asks again in the next epoch
        world.settle()
        epochs += 1
        assert epochs <= 64  # each request has four of the keys, two of them in turn
    check_epoch(world, people, 1 + epochs)


def spent(person: Participant, suite: int) -> set[bytes]:
    """References of the KeyPackages of a suite that can still be used."""
    packages = person.device.key_packages
    with person.store.transaction() as transaction:
        references = [reference for reference, _ in transaction.items(KEY_PACKAGES)]
        found = [packages.find(transaction, [reference]) for reference in references]
    return {bundle.reference for bundle in found if bundle is not None and bundle.suite.id == suite}


def named(payload: object) -> list[bytes]:
    """The references that a Welcome names."""
    if not isinstance(payload, Welcome):
        return []
    body = MLSMessage.decode(payload.data).body
    assert isinstance(body, WelcomeMessage)
    return [each.new_member for each in body.secrets]


def test_made_up_welcomes_for_other_used_key_packages_displace_no_return_key() -> None:
    """Carol's Welcome names others of Alice's as well, first; and so do creations of hers that are none."""
    world = World(settings=KeyPackageSettings(suites=(1, 2), count=5))
    alice, bob, carol = world.group(ALICE, BOB, CAROL, policy=closed_policy(world))
    references = used_references(alice, 2)
    assert len(references) > 3
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    go_on(carol)
    (stanza,) = world.room.in_flight
    (welcome,) = (each for each in stanza.payloads if isinstance(each, Welcome))
    body = MLSMessage.decode(welcome.data).body
    assert isinstance(body, WelcomeMessage)
    (genuine,) = (entry.new_member for entry in body.secrets if entry.new_member in references)
    others = [each for each in references if each != genuine][:3]
    more = replace(body, secrets=(*map(made_up, others), *body.secrets))
    payloads = [replace(each, data=MLSMessage.wrap(more)) if each is welcome else each for each in stanza.payloads]
    world.room.in_flight.clear()
    world.room.post(payloads, CAROL)
    for each in others:
        none = WelcomeMessage(2, (made_up(each),), b"group info")
        world.room.post(
            [Commit(NEW, 0, MLSMessage.wrap(private(NEW, 0))), Welcome(NEW, 1, MLSMessage.wrap(none))], CAROL
        )
    world.settle()
    assert alice.group.continuation.left_out
    for _ in range(8):  # a request has room for some of the keys, and they take turns
        if not alice.group.continuation.left_out:
            break
        world.now += 3600
        alice.ask()
        world.settle()
        bob.commit()
        world.settle()
    assert not alice.group.continuation.left_out
    assert alice.group.mls.group_id == bob.group.mls.group_id == NEW
    assert world.agree()


def made_up(reference: bytes) -> EncryptedGroupSecrets:
    return EncryptedGroupSecrets(reference, HPKECiphertext(b"kem", b"secrets"))


def used_references(person: Participant, suite: int) -> list[bytes]:
    """The KeyPackages of a suite."""
    with person.store.transaction() as transaction:
        names = [reference for reference, _ in transaction.items(KEY_PACKAGES)]
        found = [(name, person.device.key_packages.find(transaction, [name])) for name in names]
    return [reference for reference, bundle in found if bundle is not None and bundle.suite.id == suite]


def test_all_administrators_are_left_out_and_come_back() -> None:
    world, people = world_of(
        ALICE, BOB, CAROL, DAVE, policy=replace(closed_policy(World()), administrators=(ALICE, BOB))
    )
    alice, bob, carol, _ = people
    left_out(world, alice, bob)
    assert only(carol.events, GroupContinued).epoch == 1
    for person in (alice, bob):
        with pytest.raises(UsageError, match="another creation may have been first"):
            go_on(person)
        person.ask()
    world.settle()
    carol.commit()
    world.settle()
    check_epoch(world, people, 2)


def check_epoch(world: World, people: Sequence[Participant], epoch: int) -> None:
    assert [(person.group.mls.group_id, person.epoch) for person in people] == [(NEW, epoch)] * len(people)
    assert world.agree()


def test_without_the_return_key_nobody_lets_the_client_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cure rests on: a KeyPackage that was used before return keys were kept."""
    world, people = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    alice = people[0]
    monkeypatch.setattr(alice.device.key_packages, "spent_return_keys", lambda transaction, references: iter(()))
    left_out(world, alice)
    alice.ask()
    world.settle()
    people[1].commit()
    world.settle()
    assert alice.group.continuation.left_out


def test_a_creation_of_our_own_that_comes_second_is_not_entered() -> None:
    """Otherwise the one who is left out would be alone in a group of the same id."""
    world, (alice, bob, carol) = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    go_on(carol)
    ours = go_on(alice)
    world.settle()
    assert alice.group.continuation.left_out
    assert alice.group.continuation.waits
    alice.restart()
    assert [outgoing.payloads for outgoing in alice.resend()][-1] == ours.payloads
    world.settle()
    assert alice.group.continuation.left_out
    alice.ask()
    world.settle()
    bob.commit()
    world.settle()
    check_epoch(world, [alice, bob, carol], 2)
    assert not alice.group.continuation.waits
    assert not alice.resend()


def test_if_the_creation_was_none_we_come_back_to_the_one_that_others_follow() -> None:
    """Garbage by a member: of the two creations after it, ours is the first.  Our request proves our leaf in it."""
    world, (alice, bob, carol) = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    garbage(world, alice, CAROL)
    go_on(alice)
    world.settle()
    assert alice.group.continuation.left_out
    for person in (bob, carol):
        assert only(person.events, GroupContinued).by.account == ALICE
    alice.ask()
    world.settle()
    bob.commit()
    world.settle()
    check_epoch(world, [alice, bob, carol], 2)


def test_if_the_creation_was_none_another_members_is_not_lost() -> None:
    """She could open Bob's, which comes second; a request from before it is made anew."""
    world, (alice, bob, carol) = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    fresh = packages(bob, 2)
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    garbage(world, alice, CAROL)
    world.settle()
    alice.ask()
    world.settle()
    alice.restart()  # her KeyPackages are there again
    assert packages(bob, 2) != fresh
    go_on(bob)
    world.settle()
    assert alice.group.continuation.left_out
    world.now += 5
    alice.ask()
    world.settle()
    carol.commit()
    world.settle()
    check_epoch(world, [alice, bob, carol], 2)


def test_if_nobody_lets_us_in_the_first_creation_that_does_is_followed_after_all() -> None:
    """The room is read again behind the one that was none; our own stands there, and Bob follows it when he comes."""
    world, (alice, bob) = world_of(ALICE, BOB, policy=closed_policy(World()))
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    garbage(world, alice, BOB)
    go_on(alice)
    world.room.deliver_all()
    alice.read()
    assert alice.group.continuation.left_out
    alice.group.continuation.enter_after_all(world.now)
    with pytest.raises(UsageError, match="not left out"):
        alice.group.continuation.enter_after_all(world.now)
    alice.restart()
    world.settle()
    check_epoch(world, [alice, bob], 1)
    assert only(bob.events, GroupContinued).by.account == ALICE


def test_who_has_waited_in_vain_is_not_made_to_wait_again() -> None:
    world, (alice, bob) = world_of(ALICE, BOB, policy=closed_policy(World()))
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    garbage(world, alice, BOB)
    garbage(world, alice, BOB)
    world.settle()
    alice.group.continuation.enter_after_all(world.now)
    alice.restart()
    world.settle()
    assert not alice.group.continuation.left_out
    go_on(alice)
    world.settle()
    check_epoch(world, [alice, bob], 1)


@pytest.mark.parametrize("claimed", ["mallory@m.example", None])
def test_nobody_outside_leaves_a_member_out(claimed: str | None) -> None:
    world, (alice, bob) = world_of(ALICE, BOB, policy=closed_policy(World()))
    use_elsewhere(alice, 2)
    ask(alice)
    world.settle()
    garbage(world, alice, claimed or "")
    world.settle()
    assert not alice.group.continuation.left_out
    go_on(alice)
    world.settle()
    check_epoch(world, [alice, bob], 1)


def test_a_stranger_leads_nobody_who_is_left_out_elsewhere() -> None:
    """The KeyPackage of the request is public.  What signs the Welcome must be in the closed group, with rights."""
    world, (alice, *_) = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    left_out(world, alice, suite=3)
    (request,) = alice.ask()
    mallory = World(settings=world.settings, room=world.room.jid)
    stranger = mallory.person("mallory@m.example")
    proposal = MLSMessage.decode(request.payloads[0].data).body
    assert isinstance(proposal, PublicMessage)
    assert isinstance(proposal.content.content, Add)
    group = Group.create(
        stranger.device.key_packages.make(CipherSuite.get(3), world.now),
        NEW,
        extensions=alice.group.mls.context.extensions,
    )
    made = group.commit([proposal.content.content], now=world.now)
    assert made.welcome is not None
    world.room.post([Commit(NEW, 1, made.commit), Welcome(NEW, 1, made.welcome)], "mallory@m.example")
    world.settle()
    assert alice.group.continuation.left_out
    assert "nothing that we know lets mallory" in str(only(alice.events, Rejected).error)
