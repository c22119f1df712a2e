"""The order rules of a room's group, one by one.  Everything is real but the room: see
:mod:`slixmpp_mls.testing.world`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from slixmpp_mls.client import (
    CommitLost,
    GroupChanged,
    GroupLost,
    Incoming,
    Joined,
    LeftBehind,
    MessageReceived,
    MessageSent,
    Rejected,
    RemovedFromGroup,
    Unreadable,
)
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import (
    ArchiveGap,
    InvalidError,
    MalformedError,
    Replayed,
    StanzaTooLarge,
    UnknownGroup,
    UsageError,
    WrongEpoch,
)
from slixmpp_mls.mls.parameters import HOUR
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.store.interface import Transaction
from slixmpp_mls.testing import NOW, Participant, World
from tests.client.people import state_of
from tests.tampering import tampered

from .people import ALICE, BOB, CAROL, DAVE, again, copy_of, only, three

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
    assert not alice.group.sending.commit_waits
    assert second.origin_id != first.origin_id


def test_rule_1_an_invalid_commit_does_not_end_the_epoch() -> None:
    world, alice, bob, carol = three()
    outgoing = alice.commit()
    broken = replace(outgoing.payloads[0], data=tampered(outgoing.payloads[0].data))
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
    assert alice.group.roster.leaf_of(world.people[3].device.identity) is None
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert world.agree()
    assert world.people[3].group.state is MembershipState.MEMBER
    assert not bob.said(Rejected)


# --- rule 2: our own Commit ----------------------------------------------------------------------


def test_rule_2_our_commit_takes_effect_when_the_room_reflects_it_and_not_before() -> None:
    world, alice, _, _ = three()
    alice.commit()
    assert (alice.epoch, alice.group.sending.commit_waits) == (1, True)
    with pytest.raises(UsageError, match="waits already"):
        alice.group.sending.commit((), NOW)
    alice.send(b"still in the old epoch")
    world.settle()
    assert (alice.epoch, alice.group.sending.commit_waits) == (2, False)


def test_rule_2_a_commit_waits_across_a_restart() -> None:
    world, alice, _, _ = three()
    sent = alice.commit()
    alice.restart()
    assert alice.group.sending.commit_waits
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
    assert alice.group.outstanding_ids() == frozenset()


def test_rule_3_the_first_copy_is_enough_even_if_a_second_one_has_been_made() -> None:
    world, alice, bob, _ = three()
    sent = alice.send(b"one")
    held = world.room.lose()
    bob.commit()
    world.settle()
    alice.resend()
    world.room.lose()
    alice.restart()
    world.room.in_flight.append(held)
    world.settle()
    assert only(alice.events, MessageSent).origin_id == sent.origin_id
    assert alice.resend() == []
    assert bob.texts == [b"one"]


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
        alice.group.sending.compose(b"two", origin_id="the-id")
    with pytest.raises(UsageError, match="256"):
        alice.group.sending.compose(b"two", origin_id="é" * 129)
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
    carol.send(b"three", "the-id")
    world.settle()
    assert bob.texts[-1] == b"three"


def test_rule_3_what_has_come_back_while_others_are_sent_again_is_not_sent_again() -> None:
    world, alice, bob, _ = three()
    alice.send(b"one")
    alice.send(b"two")
    bob.commit()
    held = [world.room.lose(), world.room.lose()]
    world.settle()
    outstanding = alice.group.outstanding()
    alice.post(next(outstanding))
    world.room.in_flight.append(held[1])
    world.settle()
    assert list(outstanding) == []
    assert bob.texts == [b"one", b"two"]


def test_rule_3_nothing_is_stored_of_what_does_not_fit() -> None:
    world, alice, bob, _ = three()

    def too_large(_: object) -> None:
        raise StanzaTooLarge(2, 1)

    before = alice.group.mls
    calls: tuple[Callable[[], object], ...] = (
        lambda: alice.group.sending.compose(b"x", fits=too_large),
        lambda: alice.group.sending.commit((), NOW, fits=too_large),
    )
    for call in calls:
        with pytest.raises(StanzaTooLarge):
            call()
    assert alice.group.mls is before
    assert not alice.group.sending.commit_waits
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
    assert not alice.group.sending.commit_waits
    alice.restart()
    assert not alice.group.sending.commit_waits
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
    assert alice.group.outstanding_ids() == frozenset()


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
    proposed = alice.propose(Remove(bob.group.mls.own_index))
    world.room.lose()
    if bounced:
        alice.bounce(proposed)
    alice.restart()
    alice.send(b"may speak")
    alice.commit()
    world.settle()
    assert world.agree()
    assert state_of(bob) is MembershipState.MEMBER
    assert not any(person.said(Rejected) for person in world.people)


def test_a_refused_proposal_that_arrives_all_the_same_can_be_committed_by_others() -> None:
    world, alice, bob, carol = three()
    alice.bounce(alice.propose(Remove(carol.group.mls.own_index)))
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
    while world.room.archive(BOB)[-1].archive_id != bob.group.cursor:
        bob.read(1)
        bob.restart()
    assert bob.texts == [b"0", b"1", b"2"]
    world.settle()
    assert world.agree()


class _Disk(MemoryStore):
    """A store that notes which steps wait for the disk."""

    def __init__(self, account: str) -> None:
        super().__init__(account)
        self.lasting: list[bool] = []

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        with super().transaction(lasting=lasting) as transaction:
            yield transaction
        self.lasting.append(lasting)


def _on_a_disk() -> tuple[World, Participant, Participant, _Disk]:
    """Alice and Bob in a group; Bob's store."""
    world, disk = World(), _Disk(BOB)
    alice, bob = world.person(ALICE), world.person(BOB, disk)
    alice.group.lifecycle.create(1, world.open_policy(ALICE, BOB), world.now)
    alice.commit(*alice.adding(BOB))
    world.settle()
    return world, alice, bob, disk


@pytest.mark.parametrize("what", ["commit", "proposal"])
def test_rule_4_what_another_member_does_is_read_again_after_a_power_cut(what: str) -> None:
    """Its step does not wait for the disk: the stanza is still in the room, and we have sent nothing since."""
    world, alice, bob, disk = _on_a_disk()
    before, epoch = copy_of(bob.store), bob.epoch
    if what == "commit":
        alice.commit()
    else:
        alice.propose(*alice.removing(ALICE))
    world.room.deliver_all()
    disk.lasting.clear()
    bob.read()
    assert disk.lasting == [False]
    state = bob.epoch, len(bob.group.mls.pending_proposals)
    assert state == ((epoch + 1, 0) if what == "commit" else (epoch, 1))

    bob.restart(before)  # the power cut
    assert (bob.epoch, bob.group.mls.pending_proposals) == (epoch, ())
    world.settle()
    assert (bob.epoch, len(bob.group.mls.pending_proposals)) == state
    assert world.agree()
    bob.commit()
    world.settle()
    assert bob.epoch == state[0] + 1
    assert (state_of(alice) is MembershipState.OUT) == (what == "proposal")
    assert world.agree()


def test_rule_4_a_commit_of_our_own_and_one_that_removes_us_wait_for_the_disk() -> None:
    world, alice, bob, disk = _on_a_disk()
    bob.commit()
    world.room.deliver_all()
    disk.lasting.clear()
    bob.read()
    assert disk.lasting == [True]
    alice.read()
    alice.commit(*alice.removing(BOB))
    world.room.deliver_all()
    disk.lasting.clear()
    bob.read()
    assert state_of(bob) is MembershipState.OUT
    assert disk.lasting
    assert all(disk.lasting)


def test_rule_4_a_member_does_not_skip() -> None:
    _, alice, _, _ = three()
    with pytest.raises(UsageError, match="skip"):
        alice.group.lifecycle.seek(None)


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
    [event] = carol.group.lifecycle.give_up("the archive has a gap")
    assert isinstance(event, GroupLost)
    assert state_of(carol) is MembershipState.LOST
    assert carol.resend() == []
    with carol.store.transaction() as transaction:
        assert not any(transaction.items(f"group/{world.room.jid}"))
    carol.restart()
    carol.group.lifecycle.seek("000003")
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.settle()
    assert state_of(carol) is MembershipState.MEMBER
    carol.resend()
    world.settle()
    assert bob.texts[-1] == b"unsent"
    assert world.agree()


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
    payload, *_ = alice.commit().payloads
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
    bob.group.lifecycle.tidy(world.now)
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
    bob.propose(Remove(carol.group.mls.own_index))
    carol.commit()
    world.room.deliver(2)
    for person in world.people:
        person.read()
        person.events.clear()
    world.settle()
    assert not any(person.events for person in world.people)
    assert state_of(carol) is MembershipState.MEMBER


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
    alice.propose(Remove(carol.group.mls.own_index))
    world.room.deliver_all()
    carol.read()
    behind = [event for event in carol.events if isinstance(event, LeftBehind)]
    assert [(event.by, event.epoch, event.ahead) for event in behind] == [(ALICE, 1, 2), (BOB, 1, 2)]
    assert only(carol.events, Unreadable).reason == "future"
    assert not carol.said(Rejected)
    assert carol.group.behind == {ALICE, BOB}
    carol.take(Incoming("000010", commit.payloads, ALICE))  # it was only late
    assert carol.epoch == 2
    assert carol.group.behind == frozenset()


@pytest.mark.parametrize("claimed", [None, DAVE, f"{ALICE}/device"])
def test_an_outsider_cannot_make_us_believe_that_we_are_left_behind(claimed: str | None) -> None:
    world, alice, bob, _ = three()
    alice.take(Incoming("000009", alice.group.sending.commit((), NOW).payloads, ALICE))
    later = [alice.group.sending.compose(b"x"), alice.group.sending.commit((), NOW)]
    for outgoing in later:
        world.room.post(outgoing.payloads, claimed)
    world.room.deliver_all()
    bob.read()
    assert [type(event) for event in bob.events] == [Unreadable, Rejected]
    assert isinstance(only(bob.events, Rejected).error, WrongEpoch)
    assert bob.group.behind == frozenset()


def test_a_message_of_another_rooms_group_is_refused_and_changes_nothing() -> None:
    world, alice, _, _ = three()
    elsewhere = World(room="cauldron@rooms.example")
    carol, *_ = elsewhere.group(CAROL, ALICE)
    carol.send(b"not for here")
    carol.commit()
    before = alice.group.mls
    for stanza in elsewhere.room.in_flight:
        world.room.post(stanza.payloads, CAROL)
    world.settle()
    refusals = alice.said(Rejected)
    assert [type(event.error) for event in refusals if isinstance(event, Rejected)] == [UnknownGroup, UnknownGroup]
    assert alice.group.mls is before


def test_a_stanza_that_cannot_be_parsed_is_passed_over() -> None:
    _, alice, _, _ = three()
    alice.take(Incoming("000008", (), BOB, error=MalformedError("bad base64")))
    assert isinstance(only(alice.events, Rejected).error, MalformedError)
    assert alice.group.cursor == "000008"
    alice.restart()
    assert alice.group.cursor == "000008"


# --- our own past --------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["send", "commit", "late"])
def test_an_old_copy_of_our_store_is_found_out_before_it_is_used(act: str) -> None:
    """RFC 9420 9.2: whoever went on with it would use keys again."""
    world, alice, bob, _ = three()
    assert isinstance(alice.store, MemoryStore)
    backup = copy_of(alice.store)
    if act == "commit":
        alice.commit()
    else:
        alice.send(b"one")
    if act == "late":
        bob.commit()
        world.room.deliver(1)
    world.settle()
    alice.events.clear()
    alice.restart(backup)
    alice.read()
    assert isinstance(alice.events[-1], GroupLost)
    assert state_of(alice) is MembershipState.LOST
    bob.commit(*bob.removing(ALICE), *again(bob, alice))
    world.settle()
    assert world.agree()
    assert state_of(alice) is MembershipState.MEMBER


def test_a_member_cannot_make_us_believe_that_our_state_is_an_old_copy() -> None:
    """The sender's number is encrypted with a key that all members have, so it must be our signature that tells."""
    world, alice, bob, _ = three()
    group = bob.group.mls
    forged = replace(group, private=replace(group.private, index=alice.group.mls.own_index))
    message, _ = forged.encrypt(b"I am Alice")
    world.room.post([elements.Application(group.group_id, group.epoch, message)], BOB)
    world.settle()
    assert isinstance(only(alice.events, Rejected).error, InvalidError)
    assert state_of(alice) is MembershipState.MEMBER


# --- two views -----------------------------------------------------------------------------------


def test_members_who_are_shown_different_rooms_can_find_out() -> None:
    world, alice, bob, carol = three()
    world.room.split([CAROL])
    alice.commit()
    carol.commit()
    world.room.deliver(0, to=0)
    world.room.deliver(0, to=1)
    world.settle()
    assert [person.epoch for person in (alice, bob, carol)] == [2, 2, 2]
    assert not world.agree()  # RFC 9420 8.7: comparing the epoch authenticators shows it
    carol.send(b"who hears me?")
    world.settle()
    assert isinstance(only(alice.events, Rejected).error, InvalidError)
    assert alice.texts == bob.texts == []


@pytest.mark.parametrize(
    "lie",
    [
        lambda sent: replace(sent, epoch=sent.epoch + 1),
        lambda sent: replace(sent, epoch=sent.epoch - 1),
        lambda sent: elements.Proposal(sent.group, sent.epoch, sent.data),
    ],
)
def test_a_reflection_whose_attributes_lie_is_none(lie: Callable[[elements.Application], elements.RoomElement]) -> None:
    """The room's server can change the element around our message: what it says is not what we have sent."""
    world, alice, *_ = three()
    sent = alice.send(b"Fair is foul")
    (flying,) = world.room.in_flight
    (payload,) = flying.payloads
    assert isinstance(payload, elements.Application)
    world.room.in_flight[:] = [replace(flying, payloads=(lie(payload),))]
    world.settle()
    assert not alice.said(MessageSent)
    assert [outgoing.origin_id for outgoing in alice.group.outstanding()] == [sent.origin_id]
    world.room.in_flight[:] = [flying]
    world.settle()
    assert [event.origin_id for event in alice.said(MessageSent)] == [sent.origin_id]
