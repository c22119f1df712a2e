"""The order rules of a room's group, one by one.  Everything is real but the room: see :mod:`slixmpp_mls.testing`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import (
    CommitLost,
    Event,
    GroupChanged,
    GroupLost,
    Incoming,
    Joined,
    KeyPackageSettings,
    LeftBehind,
    MessageReceived,
    MessageSent,
    Rejected,
    RemovedFromGroup,
    RoomGroup,
    Unreadable,
)
from slixmpp_mls.client import room_group as room_group_module
from slixmpp_mls.client.records import RoomState
from slixmpp_mls.errors import (
    ArchiveGap,
    InvalidError,
    MalformedError,
    NotPermitted,
    PolicyViolation,
    Replayed,
    StanzaTooLarge,
    StoreFull,
    UnknownGroup,
    UsageError,
    WrongEpoch,
)
from slixmpp_mls.mls.framing import NewMemberProposalSender
from slixmpp_mls.mls.group import external_proposal
from slixmpp_mls.mls.parameters import HOUR
from slixmpp_mls.mls.proposals import Add, GroupContextExtensions, Remove
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import NOW, FaultyStore, Participant, World

ALICE, BOB, CAROL, DAVE = "alice@a.example", "bob@b.example", "carol@c.example", "dave@d.example"


def three(**options: Any) -> tuple[World, Participant, Participant, Participant]:
    world = World()
    alice, bob, carol = world.group(ALICE, BOB, CAROL, **options)
    for person in world.people:
        person.events.clear()
    return world, alice, bob, carol


def only(events: list[Event], kind: type) -> Any:
    """The one event of a kind."""
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, events
    return found[0]


def closed_policy(world: World) -> RoomPolicy:
    """Alice is the administrator, the others may nothing."""
    return RoomPolicy(world.room.jid, (ALICE,))


# --- rule 1: the first valid Commit of an epoch --------------------------------------------------


def test_rule_1_the_first_commit_in_the_rooms_order_ends_the_epoch_and_later_ones_mean_nothing() -> None:
    world, alice, bob, carol = three()
    first, second = alice.commit(), bob.commit()
    world.room.deliver(1)
    world.settle()
    assert world.agree()
    assert alice.epoch == 2
    lost = only(alice.events, CommitLost)
    assert (lost.origin_id, lost.reason) == (first.origin_id, "another Commit came first")
    assert not bob.said(CommitLost)
    assert only(carol.events, GroupChanged).by.account == BOB
    assert not alice.session.commit_waits
    assert second.origin_id != first.origin_id


def test_rule_1_an_invalid_commit_does_not_end_the_epoch() -> None:
    world, alice, bob, carol = three()
    outgoing = alice.commit()
    broken = replace(outgoing.payloads[0], data=outgoing.payloads[0].data[:-1] + b"\0")
    world.room.in_flight.insert(0, replace(world.room.in_flight[0], payloads=(broken,)))
    world.settle()
    assert all(isinstance(only(person.events, Rejected).error, InvalidError) for person in (alice, bob, carol))
    assert world.agree()
    assert alice.epoch == 2


def test_rule_1_a_loser_commits_again_in_the_new_epoch() -> None:
    world, alice, bob, _ = three()
    world.person(DAVE)
    bob.commit()
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert alice.session.roster.leaf_of(world.people[3].device.identity) is None
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert world.agree()
    assert world.people[3].session.state is RoomState.MEMBER
    assert not bob.said(Rejected)


# --- rule 2: our own Commit ----------------------------------------------------------------------


def test_rule_2_our_commit_takes_effect_when_the_room_reflects_it_and_not_before() -> None:
    world, alice, _, _ = three()
    alice.commit()
    assert (alice.epoch, alice.session.commit_waits) == (1, True)
    with pytest.raises(UsageError, match="waits already"):
        alice.session.commit((), NOW)
    alice.send(b"still in the old epoch")
    world.settle()
    assert (alice.epoch, alice.session.commit_waits) == (2, False)


def test_rule_2_a_commit_waits_across_a_restart() -> None:
    world, alice, _, _ = three()
    sent = alice.commit()
    alice.restart()
    assert alice.session.commit_waits
    world.room.lose()
    assert [outgoing.payloads for outgoing in alice.resend()] == [sent.payloads]
    world.settle()
    assert world.agree()
    assert alice.epoch == 2


# --- rule 3: the outbox --------------------------------------------------------------------------


def test_rule_3_what_is_sent_is_stored_and_sent_again_as_it_is_until_it_comes_back() -> None:
    world, alice, bob, _ = three()
    sent = alice.send(b"one")
    for _ in range(3):
        world.room.lose()
        alice.restart()
        assert alice.resend() == [sent]
    world.settle()
    assert bob.texts == [b"one"]
    back = only(alice.events, MessageSent)
    assert (back.origin_id, back.data) == (sent.origin_id, b"one")
    alice.restart()
    assert alice.resend() == []


def test_rule_3_our_reflection_twice_is_said_once_and_readers_take_the_copy_for_a_replay() -> None:
    world, alice, bob, _ = three()
    alice.send(b"one")
    world.room.deliver(keep=True)
    world.settle()
    assert len(alice.said(MessageSent)) == 1
    assert not alice.said(Rejected)
    assert bob.texts == [b"one"]
    assert isinstance(only(bob.events, Rejected).error, Replayed)


def test_rule_3_our_commit_reflected_twice_takes_effect_once() -> None:
    world, alice, _, _ = three()
    alice.commit()
    world.room.deliver(keep=True)
    world.settle()
    assert alice.epoch == 2
    assert world.agree()
    assert not any(person.said(Rejected) for person in world.people)


def test_rule_3_application_data_of_an_ended_epoch_is_encrypted_anew() -> None:
    world, alice, bob, _ = three()
    old = alice.send(b"one")
    world.room.lose()
    bob.commit()
    world.settle()
    alice.restart()
    [new] = alice.resend()
    assert new.origin_id == old.origin_id
    assert (old.payloads[0].epoch, new.payloads[0].epoch) == (1, 2)
    world.settle()
    assert bob.texts == [b"one"]
    assert only(alice.events, MessageSent).origin_id == old.origin_id


@pytest.mark.parametrize("late_first", [False, True])
def test_rule_3_both_copies_of_a_message_that_was_encrypted_anew_are_one_message(late_first: bool) -> None:
    world, alice, bob, carol = three()
    alice.send(b"one")
    held = world.room.lose()
    bob.commit()
    world.settle()
    alice.resend()
    world.room.in_flight.insert(0 if late_first else 1, held)
    world.room.deliver_all()
    bob.read(1)
    bob.restart()  # what has been read is remembered in the store
    world.settle()
    assert bob.texts == carol.texts == [b"one"]
    assert len(alice.said(MessageSent)) == 1
    assert alice.session.outstanding_ids() == frozenset()


def test_rule_3_the_id_of_a_message_is_the_one_that_its_sender_has_authenticated() -> None:
    world, alice, bob, _ = three()
    alice.send(b"one", "the-id")
    world.room.in_flight[0] = replace(world.room.in_flight[0], origin_id="another")
    world.settle()
    assert only(bob.events, MessageReceived).origin_id == "the-id"


def test_rule_3_one_message_under_one_id_however_often_it_is_composed() -> None:
    world, alice, bob, _ = three()
    first = alice.send(b"one", "the-id")
    assert alice.send(b"one", "the-id") == first
    with pytest.raises(UsageError, match="under this id"):
        alice.session.compose(b"two", origin_id="the-id")
    with pytest.raises(UsageError, match="256"):
        alice.session.compose(b"two", origin_id="é" * 129)
    world.settle()
    alice.send(b"one", "the-id")  # by somebody who does not know that it has arrived
    world.settle()
    assert bob.texts == [b"one"]


def test_rule_3_the_memory_of_ids_is_bounded_and_per_sender() -> None:
    world, alice, bob, carol = three()
    alice.send(b"one", "the-id")
    carol.send(b"two", "the-id")
    world.settle()
    assert bob.texts == [b"one", b"two"]
    for number in range(300):
        alice.send(b"", f"id-{number}")
    world.settle()
    with bob.store.transaction() as transaction:
        assert len(list(transaction.items(f"seen/{world.room.jid}"))) == 256
    bob.restart()
    carol.send(b"two", "the-id")
    world.settle()
    assert bob.texts[-1] == b"two"


def test_rule_3_what_has_come_back_while_others_are_sent_again_is_not_sent_again() -> None:
    world, alice, bob, _ = three()
    alice.send(b"one")
    alice.send(b"two")
    bob.commit()
    held = [world.room.lose(), world.room.lose()]
    world.settle()
    outstanding = alice.session.outstanding()
    alice.post(next(outstanding))
    world.room.in_flight.append(held[1])
    world.settle()
    assert list(outstanding) == []
    assert bob.texts == [b"one", b"two"]


def test_rule_3_nothing_is_stored_of_what_does_not_fit() -> None:
    world, alice, bob, _ = three()

    def too_large(_: object) -> None:
        raise StanzaTooLarge(2, 1)

    before = alice.session.group
    for call in (
        lambda: alice.session.compose(b"x", fits=too_large),
        lambda: alice.session.commit((), NOW, fits=too_large),
    ):
        with pytest.raises(StanzaTooLarge):
            call()
    assert alice.session.group is before
    assert not alice.session.commit_waits
    alice.restart()
    assert alice.resend() == []
    alice.send(b"fits")
    world.settle()
    assert bob.texts == [b"fits"]


# --- rule 3: refusals by the room ----------------------------------------------------------------


def test_a_refused_message_is_dropped() -> None:
    world, alice, bob, _ = three()
    sent = alice.send(b"one")
    world.room.lose()
    assert alice.bounce(sent) == []
    alice.restart()
    assert alice.resend() == []
    assert alice.bounce(sent) == []
    world.settle()
    assert bob.texts == []


def test_a_refused_commit_is_lost_and_another_one_takes_its_place() -> None:
    world, alice, _, _ = three()
    sent = alice.commit()
    world.room.lose()
    assert only(alice.bounce(sent, "not-acceptable"), CommitLost).reason == "not-acceptable"
    assert alice.bounce(sent) == []
    assert not alice.session.commit_waits
    alice.restart()
    assert not alice.session.commit_waits
    assert alice.resend() == []
    alice.commit()
    alice.restart()
    assert len(alice.resend()) == 1
    world.settle()
    assert world.agree()
    assert alice.epoch == 2


@pytest.mark.parametrize("crash", [False, True])
def test_a_refused_commit_that_arrives_all_the_same_takes_effect(crash: bool) -> None:
    world, alice, _, _ = three()
    sent = alice.commit()
    alice.bounce(sent, "remote-server-timeout")
    if crash:
        alice.restart()
    world.settle()
    assert world.agree()
    assert alice.epoch == 2
    assert alice.session.outstanding_ids() == frozenset()


@pytest.mark.parametrize("first_arrives", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_a_refused_commit_and_the_one_made_instead_both_work(first_arrives: bool, crash: bool) -> None:
    world, alice, _, _ = three()
    alice.bounce(alice.commit(), "remote-server-timeout")
    alice.commit()
    if crash:
        alice.restart()
    if not first_arrives:
        world.room.lose()
    world.settle()
    assert world.agree()
    assert alice.epoch == 2
    alice.commit()
    world.settle()
    assert world.agree()
    with alice.store.transaction() as transaction:
        assert not any(transaction.items(f"pending/{world.room.jid}"))


def test_a_refused_commit_that_another_one_overtakes_is_forgotten_without_another_word() -> None:
    world, alice, bob, _ = three()
    alice.bounce(alice.commit())
    world.room.lose()
    bob.commit()
    world.settle()
    assert world.agree()
    assert len(alice.said(CommitLost)) == 1
    alice.restart()
    alice.commit()
    world.settle()
    assert world.agree()


@pytest.mark.parametrize("bounced", [False, True])
def test_our_commit_holds_no_proposal_that_the_room_has_not_reflected(bounced: bool) -> None:
    """Others would refuse it: they have never got the proposal."""
    world, alice, bob, _ = three()
    proposed = alice.propose(Remove(bob.session.group.own_index))
    world.room.lose()
    if bounced:
        alice.bounce(proposed)
    alice.restart()
    alice.send(b"may speak")
    alice.commit()
    world.settle()
    assert world.agree()
    assert bob.session.state is RoomState.MEMBER
    assert not any(person.said(Rejected) for person in world.people)


def test_a_refused_proposal_that_arrives_all_the_same_can_be_committed_by_others() -> None:
    world, alice, bob, carol = three()
    alice.bounce(alice.propose(Remove(carol.session.group.own_index)))
    world.settle()
    bob.commit()
    world.settle()
    assert world.agree()
    assert only(carol.events, RemovedFromGroup).by.account == BOB


# --- rule 4: our place ---------------------------------------------------------------------------


def test_rule_4_our_place_is_written_with_what_the_stanza_changed() -> None:
    """However often a reader is stopped, it reads every stanza once."""
    world, alice, bob, _ = three()
    for number in range(3):
        alice.send(b"%d" % number)
        alice.commit()
        world.room.deliver_all()
        alice.read()
    world.room.post((), None)
    world.room.deliver()
    while world.room.archive(BOB)[-1].archive_id != bob.session.cursor:
        bob.read(1)
        bob.restart()
    assert bob.texts == [b"0", b"1", b"2"]
    world.settle()
    assert world.agree()


def test_rule_4_a_member_does_not_skip() -> None:
    _, alice, _, _ = three()
    with pytest.raises(UsageError, match="skip"):
        alice.session.seek(None)


def test_an_archive_that_has_forgotten_our_place_makes_us_say_so_and_keep_what_is_unsent() -> None:
    world, alice, bob, carol = three()
    carol.send(b"unsent")
    world.room.lose()
    for _ in range(3):
        alice.commit()
        world.room.deliver_all()
        alice.read()
        bob.read()
    world.room.expire(3)
    with pytest.raises(ArchiveGap):
        carol.read()
    [event] = carol.session.give_up("the archive has a gap")
    assert isinstance(event, GroupLost)
    assert carol.session.state is RoomState.LOST
    assert carol.resend() == []
    with carol.store.transaction() as transaction:
        assert not any(transaction.items(f"group/{world.room.jid}"))
    carol.restart()
    carol.session.seek("000003")
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.settle()
    assert carol.session.state is RoomState.MEMBER
    carol.resend()
    world.settle()
    assert bob.texts[-1] == b"unsent"
    assert world.agree()


def again(inviter: Participant, returning: Participant) -> list[Add]:
    """An Add of a client that is in the group, for a Commit that removes it."""
    world = inviter.world
    found = world.directory.find(returning.account, inviter.session, world.now)
    return [Add(found[returning.device.identity].key_package)]


# --- rule 5: who it is from ----------------------------------------------------------------------


def test_rule_5_the_sender_is_who_signed_whatever_the_room_says() -> None:
    world, alice, bob, _ = three()
    alice.send(b"mine")
    alice.send(b"also mine")
    world.room.in_flight[0] = replace(world.room.in_flight[0], claimed=CAROL)
    world.room.in_flight[1] = replace(world.room.in_flight[1], claimed=None)
    world.settle()
    first, second = bob.said(MessageReceived)
    assert isinstance(first, MessageReceived)
    assert isinstance(second, MessageReceived)
    assert (first.sender.account, first.claimed, first.forged) == (ALICE, CAROL, True)
    assert (second.sender.account, second.forged) == (ALICE, False)


def test_our_own_message_under_another_label_is_refused() -> None:
    """Others refuse it, too: if it were a Commit we would go on alone."""
    world, alice, _, _ = three()
    [payload] = alice.commit().payloads
    world.room.lose()
    fake = elements.Application(payload.group, payload.epoch, payload.data)
    world.room.post([fake], ALICE)
    world.settle()
    assert isinstance(only(alice.events, Rejected).error, InvalidError)
    assert alice.epoch == 1
    alice.resend()
    world.settle()
    assert world.agree()
    assert alice.epoch == 2


# --- late, early, twice, elsewhere ---------------------------------------------------------------


def test_messages_of_one_epoch_in_any_order_are_read() -> None:
    world, alice, bob, _ = three()
    for number in range(4):
        alice.send(b"%d" % number)
    world.room.in_flight.reverse()
    world.settle()
    assert bob.texts == [b"3", b"2", b"1", b"0"]


def test_a_message_of_a_past_epoch_is_read_for_a_while_and_then_unreadable() -> None:
    world, alice, bob, _ = three()
    alice.send(b"late")
    alice.send(b"too late")
    bob.commit()
    world.room.deliver(2)
    world.room.deliver()
    for person in world.people:
        person.read()
    assert bob.texts == [b"late"]
    world.now += HOUR + 1
    bob.session.tidy(world.now)
    world.settle()
    unreadable = only(bob.events, Unreadable)
    assert (unreadable.reason, unreadable.epoch, unreadable.claimed) == ("too-late", 1, ALICE)


def test_a_message_from_before_we_came_is_unreadable() -> None:
    world, alice, _, _ = three()
    alice.send(b"before")
    world.settle()
    dave = world.person(DAVE)
    world.settle()
    assert only(dave.events, Unreadable).reason == "before-join"
    alice.send(b"delayed")
    held = world.room.lose()
    alice.commit(*alice.adding(DAVE))
    world.room.in_flight.append(held)
    dave.events.clear()
    world.settle()
    assert [type(event) for event in dave.events] == [Joined, Unreadable]
    assert only(dave.events, Unreadable).reason == "before-join"


def test_stale_commits_and_proposals_are_ignored_without_a_word() -> None:
    world, alice, bob, carol = three()
    alice.commit()
    bob.propose(Remove(carol.session.group.own_index))
    carol.commit()
    world.room.deliver(2)
    for person in world.people:
        person.read()
        person.events.clear()
    world.settle()
    assert not any(person.events for person in world.people)
    assert carol.session.state is RoomState.MEMBER


def test_a_message_of_a_later_epoch_from_a_members_account_says_that_we_are_left_behind_and_gives_nothing_up() -> None:
    world, alice, bob, carol = three()
    alice.commit()
    commit = world.room.lose()
    for person in (alice, bob):
        person.take(Incoming("000009", commit.payloads, ALICE))
    carol.read()
    assert (alice.epoch, bob.epoch, carol.epoch) == (2, 2, 1)
    alice.send(b"from the future")
    bob.commit()
    alice.propose(Remove(carol.session.group.own_index))
    world.room.deliver_all()
    carol.read()
    behind = [event for event in carol.events if isinstance(event, LeftBehind)]
    assert [(event.by, event.epoch, event.ahead) for event in behind] == [(ALICE, 1, 2), (BOB, 1, 2)]
    assert only(carol.events, Unreadable).reason == "future"
    assert not carol.said(Rejected)
    assert carol.session.behind == {ALICE, BOB}
    carol.take(Incoming("000010", commit.payloads, ALICE))  # it was only late
    assert carol.epoch == 2
    assert carol.session.behind == frozenset()


@pytest.mark.parametrize("claimed", [None, DAVE, f"{ALICE}/device"])
def test_an_outsider_can_not_make_us_believe_that_we_are_left_behind(claimed: str | None) -> None:
    world, alice, bob, _ = three()
    alice.take(Incoming("000009", alice.session.commit((), NOW).payloads, ALICE))
    later = [alice.session.compose(b"x"), alice.session.commit((), NOW)]
    for outgoing in later:
        world.room.post(outgoing.payloads, claimed)
    world.room.deliver_all()
    bob.read()
    assert [type(event) for event in bob.events] == [Unreadable, Rejected]
    assert isinstance(only(bob.events, Rejected).error, WrongEpoch)
    assert bob.session.behind == frozenset()


def test_a_message_of_another_rooms_group_is_refused_and_changes_nothing() -> None:
    world, alice, _, _ = three()
    elsewhere = World(room="cauldron@rooms.example")
    carol, *_ = elsewhere.group(CAROL, ALICE)
    carol.send(b"not for here")
    carol.commit()
    before = alice.session.group
    for stanza in elsewhere.room.in_flight:
        world.room.post(stanza.payloads, CAROL)
    world.settle()
    refusals = alice.said(Rejected)
    assert [type(event.error) for event in refusals if isinstance(event, Rejected)] == [UnknownGroup, UnknownGroup]
    assert alice.session.group is before


def test_a_stanza_that_can_not_be_parsed_is_passed_over() -> None:
    _, alice, _, _ = three()
    alice.take(Incoming("000008", (), BOB, error=MalformedError("bad base64")))
    assert isinstance(only(alice.events, Rejected).error, MalformedError)
    assert alice.session.cursor == "000008"
    alice.restart()
    assert alice.session.cursor == "000008"


# --- Welcomes ------------------------------------------------------------------------------------


def test_a_welcome_to_the_group_of_another_room_is_refused() -> None:
    """RFC 9420 leaves it to the application what a group is for; here its policy names the room."""
    world = World()
    [alice] = world.group(ALICE)
    elsewhere = World(room="cauldron@rooms.example")
    bob = elsewhere.person(BOB)
    world.directory = elsewhere.directory
    alice.commit(*alice.adding(BOB))
    elsewhere.room.post(world.room.in_flight[0].payloads, ALICE)
    elsewhere.settle()
    assert "another room" in str(only(bob.events, Rejected).error)
    assert bob.session.state is RoomState.INVITED


def test_a_welcome_to_a_group_with_the_id_of_another_rooms_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9420 12.4.3.1: a group id is unique among our groups."""
    world, alice, bob, _ = three()
    taken = alice.session.group.group_id
    create = room_group_module.Group.create
    monkeypatch.setattr(
        room_group_module.Group,
        "create",
        classmethod(lambda cls, bundle, group_id, **options: create(bundle, taken, **options)),
    )
    second = World(room="cauldron@rooms.example")
    [carol] = second.group(CAROL)
    bob_there = second.person(BOB, bob.store)
    second.directory.replenish(bob.device, NOW)
    carol.commit(*carol.adding(BOB))
    second.settle()
    assert "another room has" in str(only(bob_there.events, Rejected).error)
    assert bob_there.session.state is RoomState.INVITED
    assert RoomGroup.known(bob.device) == ["cauldron@rooms.example", world.room.jid]


def test_a_welcome_for_somebody_else_means_nothing() -> None:
    world, alice, _, _ = three()
    dave = world.person(DAVE)
    world.person("erin@e.example")
    alice.commit(*alice.adding("erin@e.example"))
    world.settle()
    assert dave.events == []
    assert dave.session.state is RoomState.INVITED


def test_a_welcome_beside_a_commit_that_came_second_means_nothing() -> None:
    """It would lead into an epoch where nobody is."""
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    bob.commit()
    alice.commit(*alice.adding(DAVE))
    world.room.deliver()
    dave.read()
    dave.restart()  # it knows which Commits have come by
    world.settle()
    assert dave.session.state is RoomState.INVITED
    assert dave.events == []
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert only(dave.events, Joined).epoch == 3
    assert world.agree()


def test_who_looks_for_its_welcome_from_another_place_judges_anew() -> None:
    """Anybody in the room could have put a false Commit before the true one."""
    world, alice, _, _ = three()
    dave = world.person(DAVE)
    group = alice.session.group
    world.room.post([elements.Commit(group.group_id, group.epoch, b"nothing")], "mallory@m.example")
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert dave.session.state is RoomState.INVITED
    dave.session.seek(world.room.archive()[-2].archive_id)
    world.settle()
    assert dave.session.state is RoomState.MEMBER
    assert world.agree()


def test_the_memory_of_commits_that_came_by_is_bounded() -> None:
    world = World()
    dave = world.person(DAVE)
    for number in range(200):
        dave.take(Incoming(f"{number:06}", (elements.Commit(b"g" * 255, number, b"x"),), ALICE))
    with dave.store.transaction() as transaction:
        assert len(transaction.get("room", world.room.jid.encode()) or b"") < 1200


def test_an_old_welcome_does_not_lead_back_into_an_epoch_whose_keys_we_have_used() -> None:
    """RFC 9420 9.2.  A KeyPackage of last resort opens its Welcome more than once."""
    world = World(settings=KeyPackageSettings(count=0))
    alice, bob = world.group(ALICE, BOB)
    alice.send(b"one")
    world.settle()
    alice.commit(*alice.removing(BOB))
    world.settle()
    assert bob.session.state is RoomState.OUT
    bob.events.clear()
    bob.session.seek(None)
    bob.read(2)
    assert "been in" in str(bob.said(Rejected)[0].error)  # type: ignore[union-attr]
    assert bob.session.state is RoomState.OUT
    bob.read()
    bob.restart()  # with another KeyPackage in the directory
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert world.agree()
    assert bob.session.state is RoomState.MEMBER


# --- leaving, being removed, coming back ---------------------------------------------------------


def test_who_is_removed_forgets_the_group_and_its_unsent_messages() -> None:
    world, alice, bob, carol = three()
    carol.send(b"unsent")
    world.room.lose()
    alice.commit(*alice.removing(CAROL))
    world.settle()
    event = only(carol.events, RemovedFromGroup)
    assert (event.by.account, event.wanted) == (ALICE, False)
    with carol.store.transaction() as transaction:
        kinds = {space.partition("/")[0] for space in transaction.spaces() if space.endswith(world.room.jid)}
    assert kinds == {"ended"}
    carol.restart()
    assert carol.session.state is RoomState.OUT
    assert carol.resend() == []
    for call in (lambda: carol.session.compose(b"x"), lambda: carol.session.commit((), NOW)):
        with pytest.raises(UsageError, match="not a member"):
            call()
    assert world.agree()
    assert bob.session.state is RoomState.MEMBER


def test_who_leaves_asks_and_is_told_that_it_was_wanted_even_after_a_restart() -> None:
    world, alice, _, carol = three(policy=closed_policy(World()))
    carol.propose(Remove(carol.session.group.own_index))
    world.settle()
    carol.restart()
    assert not carol.session.needs_commit  # RFC 9420 12.4: nobody commits its own removal
    assert alice.session.needs_commit
    with pytest.raises(UsageError, match="proposals wait"):
        alice.session.compose(b"x")
    alice.commit()
    world.settle()
    assert only(carol.events, RemovedFromGroup).wanted


def test_removal_and_return_in_one_stanza_are_one_step() -> None:
    world, alice, _, carol = three()
    carol.send(b"unsent")
    world.room.lose()
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.room.deliver_all()
    faulty = FaultyStore(carol.store)
    carol.restart(faulty)
    before = faulty.commits
    [incoming] = world.room.read(CAROL, carol.session.cursor)
    events = carol.session.accept(carol.session.examine(incoming, NOW), NOW)
    assert [type(event) for event in events] == [Joined]
    assert faulty.commits == before + 1  # nobody can stop us in between
    world.settle()
    assert world.agree()
    carol.resend()
    world.settle()
    assert alice.texts == [b"unsent"]


def test_a_return_that_the_authentication_service_denies_leaves_us_out() -> None:
    world, alice, _, carol = three()
    carol.judge = lambda leaf: InvalidError("denied")
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.settle()
    assert [type(event) for event in carol.events] == [Rejected, RemovedFromGroup]
    assert carol.session.state is RoomState.OUT


def test_leaving_by_ourselves_and_making_another_group() -> None:
    world, alice, _, _ = three()
    alice.send(b"unsent")
    [event] = alice.session.give_up()
    assert event == RemovedFromGroup(world.room.jid, None, wanted=True)
    with pytest.raises(UsageError, match="not a member"):
        alice.session.give_up()
    alice.session.create(1, world.open_policy(ALICE), NOW)
    assert (alice.epoch, len(alice.session.members())) == (0, 1)
    assert list(alice.session.outstanding()) == []
    with pytest.raises(UsageError, match="already"):
        alice.session.create(1, world.open_policy(ALICE), NOW)


def test_a_group_is_made_for_its_room() -> None:
    world = World()
    alice = world.person(ALICE)
    with pytest.raises(UsageError, match="not for"):
        alice.session.create(1, RoomPolicy("cauldron@rooms.example", (ALICE,)), NOW)


def test_members_know_since_when_each_is_there() -> None:
    world, alice, _, carol = three()
    world.now += 100
    world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    carol.restart()
    assert [(member.account, member.since) for member in carol.session.members()] == [
        (ALICE, NOW), (BOB, NOW), (CAROL, NOW), (DAVE, NOW + 100),
    ]  # fmt: skip


# --- proposals that must not be committed --------------------------------------------------------


def smuggle(person: Participant, proposal: Any) -> None:
    """A proposal by a member whose software asks nobody."""
    message, group = person.session.group.propose(proposal, now=NOW)
    person.world.room.post([elements.Proposal(group.group_id, group.epoch, message)], person.account)


def test_a_proposal_that_the_policy_forbids_is_not_made() -> None:
    world, _, bob, carol = three(policy=closed_policy(World()))
    before = bob.session.group
    with pytest.raises(NotPermitted):
        bob.session.propose(Remove(carol.session.group.own_index), NOW)
    with pytest.raises(NotPermitted):
        bob.session.commit(bob.removing(CAROL), NOW)
    assert bob.session.group is before
    assert world.room.in_flight == []


def test_a_proposal_that_the_policy_forbids_keeps_nobody_from_committing_and_talking() -> None:
    world, alice, bob, carol = three(policy=closed_policy(World()))
    smuggle(bob, Remove(carol.session.group.own_index))
    world.settle()
    assert not any(person.session.needs_commit for person in (alice, carol))
    carol.restart()
    carol.send(b"spoken")
    carol.commit()
    world.settle()
    assert alice.texts == [b"spoken"]
    assert world.agree()
    assert (carol.epoch, len(alice.session.roster)) == (2, 3)
    assert not any(person.said(Rejected) for person in world.people)


def test_a_forbidden_proposal_does_not_take_the_place_of_an_allowed_one() -> None:
    """RFC 9420 12.2: a list holds one Remove of a leaf, and one GroupContextExtensions."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    open_to_all = world.open_policy(ALICE)
    extensions = open_to_all.replaced_in(alice.session.group.context.extensions)
    alice.propose(GroupContextExtensions(extensions))
    alice.propose(Remove(carol.session.group.own_index))
    closed = RoomPolicy(world.room.jid, (BOB,)).replaced_in(alice.session.group.context.extensions)
    smuggle(bob, GroupContextExtensions(closed))
    smuggle(bob, Remove(carol.session.group.own_index))
    world.settle()
    bob.session.group  # noqa: B018
    alice.commit()
    world.settle()
    assert alice.session.policy == open_to_all
    assert carol.session.state is RoomState.OUT
    assert world.agree()


def test_two_proposals_to_add_one_client_become_one_member() -> None:
    """The policy's rule "one-leaf": the two have different keys, so RFC 9420's own rules let both pass."""
    world, alice, bob, carol = three()
    dave = world.person(DAVE)
    alice.propose(alice.adding(DAVE)[0])
    world.directory.items.clear()
    store = MemoryStore(DAVE)
    with store.transaction() as transaction:
        transaction.put("device", b"id", dave.device.identity.device.encode())
    twin = world.person(DAVE, store)
    assert twin.device.identity == dave.device.identity
    world.settle()
    smuggle(bob, Add(next(iter(world.directory.find(DAVE, bob.session, NOW).values())).key_package))
    world.settle()
    carol.commit()
    world.settle()
    assert len(carol.session.roster) == 4
    assert not carol.session.needs_commit
    assert not any(person.said(Rejected) for person in (alice, bob, carol))


def test_an_outsiders_wish_is_committed_by_who_may_and_silences_nobody_else() -> None:
    """RFC 9420 12.1.8: a new member asks for itself; the policy judges the committer."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    dave = world.person(DAVE)
    package = next(iter(world.directory.find(DAVE, alice.session, NOW).values())).key_package
    group = alice.session.group
    key = dave.device.signature_key(group.suite)
    message = external_proposal(group.public, NewMemberProposalSender(), Add(package), key)
    world.room.post([elements.Proposal(group.group_id, group.epoch, message)], DAVE)
    world.settle()
    assert [person.session.needs_commit for person in (alice, bob, carol)] == [True, False, False]
    bob.send(b"not silenced")
    alice.commit()
    world.settle()
    assert alice.texts == [b"not silenced"]
    assert dave.session.state is RoomState.MEMBER
    assert world.agree()


def test_a_proposal_that_the_authentication_service_denies_is_kept_but_not_committed() -> None:
    """Members may differ in what they know; who forgot the proposal could not follow a Commit that holds it."""
    world, alice, bob, carol = three()
    world.person(DAVE)
    bob.judge = lambda leaf: InvalidError("never heard of")
    alice.propose(alice.adding(DAVE)[0])
    world.settle()
    assert isinstance(only(bob.events, Rejected).error, InvalidError)
    bob.restart()
    assert (bob.session.needs_commit, carol.session.needs_commit) == (False, True)
    bob.send(b"not silenced")
    bob.judge = lambda leaf: None  # by now it has heard
    carol.commit()
    world.settle()
    assert world.agree()
    assert len(bob.session.roster) == 4
    with bob.store.transaction() as transaction:
        assert not any(transaction.items(f"unwanted/{world.room.jid}"))


def test_a_commit_that_the_authentication_service_denies_is_not_followed() -> None:
    world, alice, bob, _ = three()
    world.person(DAVE)
    bob.judge = lambda leaf: InvalidError("never heard of")
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert (alice.epoch, bob.epoch) == (2, 1)
    alice.send(b"to dave, too")
    world.settle()
    assert bob.texts == []
    assert bob.session.behind == {ALICE}


def test_a_commit_that_the_policy_forbids_is_ignored_by_all() -> None:
    world, alice, bob, carol = three(policy=closed_policy(World()))
    made = bob.session.group.commit([Remove(carol.session.group.own_index)], now=NOW)
    world.room.post([elements.Commit(bob.session.group.group_id, 1, made.commit)], BOB)
    world.settle()
    for person in (alice, carol):
        assert isinstance(only(person.events, Rejected).error, PolicyViolation)
    assert {person.epoch for person in world.people} == {1}


# --- the disk ------------------------------------------------------------------------------------


def scenes() -> list[Any]:
    """Calls that write, each with the place where it is to be found."""

    def compose(world: World, alice: Participant, bob: Participant) -> Any:
        return lambda: alice.session.compose(b"x")

    def commit(world: World, alice: Participant, bob: Participant) -> Any:
        return lambda: alice.session.commit(alice.adding(DAVE), NOW)

    def propose(world: World, alice: Participant, bob: Participant) -> Any:
        return lambda: alice.session.propose_update(NOW)

    def bounced(world: World, alice: Participant, bob: Participant) -> Any:
        sent = alice.commit()
        return lambda: alice.session.bounced(sent.origin_id, "forbidden")

    def replaced(world: World, alice: Participant, bob: Participant) -> Any:
        alice.bounce(alice.commit())
        return lambda: alice.session.commit((), NOW)

    def anew(world: World, alice: Participant, bob: Participant) -> Any:
        alice.send(b"x")
        world.room.lose()
        bob.commit()
        world.settle()
        return lambda: list(alice.session.outstanding())

    def give_up(world: World, alice: Participant, bob: Participant) -> Any:
        alice.send(b"x")
        return lambda: alice.session.give_up("lost")

    def taking(prepare: Any) -> Any:
        def scene(world: World, alice: Participant, bob: Participant) -> Any:
            prepare(world, alice, bob)
            world.room.deliver_all()
            *before, last = world.room.read(ALICE, alice.session.cursor)
            for incoming in before:
                alice.take(incoming)
            step = alice.session.examine(last, NOW)
            return lambda: alice.session.accept(step, NOW)

        scene.__name__ = prepare.__name__
        return scene

    def message(world: World, alice: Participant, bob: Participant) -> None:
        bob.send(b"x")

    def own_message(world: World, alice: Participant, bob: Participant) -> None:
        alice.send(b"x")

    def own_commit(world: World, alice: Participant, bob: Participant) -> None:
        alice.commit(*alice.adding(DAVE))

    def lost_commit(world: World, alice: Participant, bob: Participant) -> None:
        bob.commit()
        alice.commit()
        world.room.lose(1)

    def proposal(world: World, alice: Participant, bob: Participant) -> None:
        bob.propose(Remove(2))

    def removal(world: World, alice: Participant, bob: Participant) -> None:
        bob.commit(*bob.removing(ALICE))

    def renewal(world: World, alice: Participant, bob: Participant) -> None:
        bob.commit(*bob.removing(ALICE), *again(bob, alice))

    receiving = (message, own_message, own_commit, lost_commit, proposal, removal, renewal)
    return [compose, commit, propose, bounced, replaced, anew, give_up, *map(taking, receiving)]


def contents(store: Any) -> dict[str, dict[bytes, bytes]]:
    with store.transaction() as transaction:
        return {space: dict(transaction.items(space)) for space in transaction.spaces()}


def memory(session: RoomGroup) -> tuple[Any, ...]:
    group = session.group
    return (
        group.pieces(), session.cursor, session.state, session.commit_waits, session.outstanding_ids(),
        session.roster, session.policy, session.behind,
    )  # fmt: skip


@pytest.mark.parametrize("scene", scenes(), ids=lambda scene: scene.__name__)
def test_a_full_disk_at_any_write_changes_nothing_and_the_same_call_works_afterwards(scene: Any) -> None:
    attempt = 0
    while True:
        world, alice, bob, _ = three()
        world.person(DAVE)
        inner = alice.store
        store = FaultyStore(inner)
        alice.restart(store)
        call = scene(world, alice, bob)
        before, remembered = contents(inner), memory(alice.session)
        store.fail_at = store.writes + attempt
        try:
            call()
        except StoreFull:
            assert contents(inner) == before
            assert memory(alice.session) == remembered
            call()
        else:
            break
        finally:
            store.fail_at = None
        # what is in memory is what a restart finds
        if alice.session.state is RoomState.MEMBER:
            after = memory(alice.session)
            alice.restart()
            assert memory(alice.session) == after
            world.settle()
            alice.resend()
            world.settle()
            assert world.agree()
        attempt += 1
    assert attempt >= 2
