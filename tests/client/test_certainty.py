"""Being unsure, finding out, coming back: nothing is deleted without proof (``client/group/certainty.py``)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.client import GroupLost, Incoming, Joined, MessageReceived, Unsure
from slixmpp_mls.client.group.certainty import ANSWER_PAUSE, ANSWERS, ANSWERS_TO_ONE, Inquiry, UnsureReason
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import ArchiveGap, InvalidError, PeerError, UsageError
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage
from slixmpp_mls.rooms.engine import recovery
from slixmpp_mls.stanza import elements, payloads
from slixmpp_mls.testing import Participant, World

from .people import ALICE, BOB, CAROL, only, state_of, three


def forged(person: Participant, ahead: int) -> elements.Application:
    """A stanza that anybody can make."""
    group = person.group.mls
    epoch = group.epoch + ahead
    body = PrivateMessage(group.group_id, epoch, ContentType.APPLICATION, b"", bytes(28), bytes(200))
    return elements.Application(group.group_id, epoch, MLSMessage.wrap(body))


def inquiry_of(person: Participant) -> elements.Inquiry:
    (inquiry,) = person.group.certainty.inquire(person.world.now).payloads
    assert isinstance(inquiry, elements.Inquiry)
    return inquiry


def ask(person: Participant, *others: Participant) -> list[elements.Answer]:
    """It asks, and others answer."""
    inquiry = inquiry_of(person)
    answers = []
    for other in others:
        asked = other.group.certainty.judge(inquiry)
        if asked is not None:
            (answer,) = other.group.certainty.answer(asked, other.world.now).payloads
            assert isinstance(answer, elements.Answer)
            answers.append(answer)
    return answers


def hear(person: Participant, *answers: elements.Answer) -> None:
    for answer in answers:
        person.events += person.group.certainty.take_answer(answer, person.world.now)


def miss(world: World, commits: int, *absent: Participant) -> None:
    """Alice commits; whoever is absent will never see it."""
    alice = world.people[0]
    for _ in range(commits):
        sent = alice.commit()
        world.room.lose()
        for number, person in enumerate(world.people):
            if person not in absent:
                person.take(Incoming(f"0000{50 + person.epoch}{number}", sent.payloads, ALICE))


# --- unsure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 1000])
def test_garbage_makes_unsure_and_costs_nothing(ahead: int) -> None:
    world, alice, bob, _ = three()
    for puppet in (ALICE, CAROL):
        world.room.post([forged(bob, ahead)], puppet)
    world.settle()
    reason = UnsureReason.LATER_EPOCH if ahead else UnsureReason.UNDECRYPTABLE
    assert bob.group.certainty.reasons == reason
    assert len(bob.said(Unsure)) == 1
    assert state_of(bob) is MembershipState.MEMBER
    assert not bob.said(GroupLost)
    bob.restart()
    assert bob.group.certainty.reasons == reason  # it is in the store
    bob.keep(b"waits")
    assert bob.resend() == []
    bob.events += bob.group.certainty.become_sure(world.now)
    assert bob.said(Unsure)[-1].reasons == ()
    bob.resend()
    alice.group.certainty.become_sure(world.now)
    world.settle()
    assert alice.texts == [b"waits"]


def test_what_anybody_can_make_up_has_a_budget() -> None:
    world, _, bob, _ = three()
    held = 0
    for second in range(3600):
        world.now += 1
        if second % 2:
            world.room.post([forged(bob, 1)], ALICE)
            world.settle()
        held += bool(bob.group.certainty.reasons)
        bob.group.certainty.become_sure(world.now)
    assert 1 <= held <= 8


def test_a_tombstone_makes_unsure() -> None:
    _, _, bob, _ = three()
    bob.take(Incoming("000900", (), tombstone=True))
    assert bob.group.certainty.reasons == UnsureReason.TOMBSTONE


def test_an_expired_archive_deletes_nothing_and_all_go_on() -> None:
    """Over night the archive has expired; all are in the same epoch."""
    world, alice, bob, carol = three()
    alice.send(b"before the night")
    world.settle()
    bob_was = bob.group.mls.epoch_authenticator
    world.room.expire(1000)
    for person in world.people:
        with pytest.raises(ArchiveGap):
            person.read()
        person.group.certainty.skip_gap(world.now)
    assert bob.group.certainty.reasons == UnsureReason.ARCHIVE_GAP
    hear(bob, *ask(bob, alice, carol))
    assert not bob.group.certainty.reasons
    for person in (alice, carol):
        person.group.certainty.become_sure(world.now)
    assert bob.group.mls.epoch_authenticator == bob_was
    for person in world.people:
        assert state_of(person) is MembershipState.MEMBER


# --- finding out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [1, 3])
def test_a_member_that_lacks_commits_comes_back_and_only_then_is_the_old_state_gone(commits: int) -> None:
    world, alice, bob, carol = three()
    miss(world, commits, bob)
    world.room.post([forged(bob, commits)], ALICE)
    world.room.deliver_all()
    bob.read()
    hear(bob, *ask(bob, alice))
    assert bob.group.returning
    assert state_of(bob) is MembershipState.MEMBER
    door = bob.group.certainty.proving_info
    assert door is not None
    entry = bob.enter(door)
    assert bob.group.is_member
    bob.restart()
    assert bob.group.returning
    assert bob.group.external_commits.waits
    for person in (bob, alice, carol):
        person.take(Incoming("000990", entry.payloads, BOB))
    assert only(bob.events, Joined).by is None
    assert not bob.group.certainty.reasons
    assert world.agree()
    assert len(alice.group.roster) == 3


def test_an_answer_of_the_same_state_makes_sure() -> None:
    world, alice, bob, carol = three()
    world.room.post([forged(bob, 5)], ALICE)
    world.settle()
    hear(bob, *ask(bob, alice, carol))
    assert not bob.group.certainty.reasons
    assert not bob.group.returning


def test_an_answer_counts_only_if_a_key_in_our_tree_has_signed_it() -> None:
    world, alice, bob, _ = three()
    elsewhere = World()
    elsewhere.now = world.now
    (mallory,) = elsewhere.group(ALICE)
    other = mallory.group.mls.group_info()
    with pytest.raises(PeerError):
        bob.group.certainty.take_group_info(other, world.now, answered=True)
    genuine = alice.group.mls.group_info()
    forged_info = bytearray(genuine)
    place = forged_info.index(alice.group.mls.group_id) + len(alice.group.mls.group_id) + 7
    forged_info[place] += 9  # the epoch
    with pytest.raises(PeerError):
        bob.group.certainty.take_group_info(bytes(forged_info), world.now, answered=True)
    assert not bob.group.returning


def test_a_group_info_that_the_room_has_kept_proves_a_later_epoch_only() -> None:
    """One of our own epoch may stand beside a Commit that came second."""
    world, alice, bob, _ = three()
    kept = alice.group.mls.group_info()
    assert bob.group.certainty.take_group_info(kept, world.now) == []
    miss(world, 1, bob)
    bob.group.certainty.take_group_info(alice.group.mls.group_info(), world.now)
    assert bob.group.returning
    assert bob.group.certainty.reasons == UnsureReason.LATER_EPOCH


def test_a_forged_epoch_does_not_bar_the_way_back() -> None:
    world, alice, bob, carol = three()
    miss(world, 1, bob)
    hear(bob, *ask(bob, alice))
    for number in range(3):
        bob.take(Incoming(f"00080{number}", (forged(bob, 1000),), CAROL))
    door = bob.group.certainty.proving_info
    assert door is not None
    entry = bob.enter(door)
    for person in (bob, alice, carol):
        person.take(Incoming("000990", entry.payloads, BOB))
    assert world.agree()


def test_two_halves_of_a_split_group_find_together() -> None:
    world, alice, bob, carol = three()
    world.room.split([CAROL])
    alice.commit()
    carol.commit()
    world.room.deliver(to=0)
    world.room.deliver(to=1)
    world.settle()
    assert alice.epoch == carol.epoch
    before = [person.group.mls.epoch_authenticator for person in (alice, carol)]
    hear(alice, *ask(alice, carol))
    world.now += ANSWER_PAUSE
    hear(carol, *ask(carol, alice))
    assert [alice.group.returning, carol.group.returning].count(True) == 1
    assert before == [person.group.mls.epoch_authenticator for person in (alice, carol)]
    assert bob.group.is_member


def test_strangers_get_no_answer_and_members_not_too_many() -> None:
    world, alice, bob, _ = three()
    inquiry = inquiry_of(bob)
    asked = alice.group.certainty.judge(inquiry)
    assert asked is not None
    for changed in (replace(asked, signer=0), replace(asked, reply_key=bytes(32)), replace(asked, signer=77)):
        with pytest.raises(InvalidError):
            alice.group.certainty.judge(replace(inquiry, data=changed.encode()))
    answered = []
    for _ in range(600):
        world.now += 1
        inquiry = inquiry_of(bob)
        asked = alice.group.certainty.judge(inquiry)
        assert asked is not None
        if not alice.group.certainty.pause(asked, world.now):
            answered.append(world.now)
            alice.group.certainty.answer(asked, world.now)
    assert len(answered) == 10 * ANSWERS_TO_ONE
    assert min(later - earlier for earlier, later in pairwise(answered)) == ANSWER_PAUSE


def test_all_together_are_answered_so_often_in_a_minute() -> None:
    world, *people = three()
    answered = 0
    crowd = [world.person(f"crowd{number}@n.example") for number in range(9)]
    people[0].commit(*(proposal for each in crowd for proposal in people[0].adding(each.account)))
    world.settle()
    for _ in range(60):
        world.now += 1
        for person in (*people[1:], *crowd):
            inquiry = inquiry_of(person)
            asked = people[0].group.certainty.judge(inquiry)
            assert asked is not None
            if not people[0].group.certainty.pause(asked, world.now):
                answered += 1
                people[0].group.certainty.answer(asked, world.now)
    assert answered == ANSWERS


def test_an_old_inquiry_is_not_answered_and_delays_nothing() -> None:
    """mls-recovery, "Not Being Sure": whoever has kept an Inquiry of somebody else's can do nothing with it."""
    world, alice, bob, _ = three()
    old = []
    for _ in range(3):
        world.now += 3600
        inquiry = inquiry_of(bob)
        asked = alice.group.certainty.judge(inquiry)
        assert asked is not None
        alice.group.certainty.answer(asked, world.now)
        old.append(inquiry)
    world.now += 3600
    assert [alice.group.certainty.judge(inquiry) for inquiry in old] == [None] * 3
    alice.restart()  # what it has answered is in memory only
    for inquiry in old[:1]:
        asked = alice.group.certainty.judge(inquiry)
        assert asked is not None
        alice.group.certainty.answer(asked, world.now)
    genuine = inquiry_of(bob)
    asked = alice.group.certainty.judge(genuine)
    assert asked is not None  # it waits for the end of the pause, which is shorter than bob's patience
    assert alice.group.certainty.pause(asked, world.now) == ANSWER_PAUSE < recovery._ANSWER_ARRIVES
    (answer,) = alice.group.certainty.answer(asked, world.now).payloads
    assert isinstance(answer, elements.Answer)
    hear(bob, answer)
    assert [alice.group.certainty.judge(inquiry) for inquiry in (*old, genuine)] == [None] * 4


def test_each_inquiry_of_a_client_is_later_than_the_one_before() -> None:
    """Also if its clock stands still, or is set back."""
    world, alice, bob, _ = three()
    times = []
    for _ in range(3):
        inquiry = inquiry_of(bob)
        asked = alice.group.certainty.judge(inquiry)
        assert asked is not None
        times.append(asked.time)
        world.now -= 100
    assert times == sorted(set(times))


def test_an_answer_says_which_epoch_it_shows() -> None:
    world, alice, bob, _ = three()
    miss(world, 1, bob)
    (answer,) = ask(bob, alice)
    with pytest.raises(InvalidError, match="another epoch"):
        hear(bob, replace(answer, epoch=answer.epoch + 1))
    assert not bob.group.returning
    hear(bob, answer)
    assert bob.group.returning


def test_an_answer_for_somebody_else_means_nothing() -> None:
    world, alice, bob, carol = three()
    miss(world, 1, bob, carol)
    answers = ask(bob, alice)
    hear(carol, *answers)
    assert not carol.group.returning
    with pytest.raises(UsageError):
        carol.enter(elements.GroupInfo(alice.group.mls.group_id, 2, alice.group.mls.group_info()))


def test_what_an_inquiry_is_made_of_survives_the_wire() -> None:
    _, _, bob, _ = three()
    payload = inquiry_of(bob)
    assert Inquiry.decode(payload.data).encode() == payload.data
    assert payloads(f"<message>{payload.to_bytes().decode()}</message>") == [payload]


@given(st.lists(st.sampled_from(["garbage", "later", "tombstone", "ask", "settle", "talk", "restart"]), max_size=12))
@settings(max_examples=25, deadline=None)
def test_whatever_comes_nobody_loses_keys_and_all_read_on(acts: list[str]) -> None:
    world, alice, bob, carol = three()
    for number, act in enumerate(acts):
        world.now += 3
        match act:
            case "garbage" | "later":
                world.room.post([forged(bob, int(act == "later"))], CAROL)
            case "tombstone":
                bob.take(Incoming(bob.group.cursor or "000000", (), tombstone=True))
            case "ask":
                hear(bob, *ask(bob, alice, carol))
            case "settle":
                bob.group.certainty.become_sure(world.now)
            case "talk":
                alice.send(b"%d" % number)
            case "restart":
                bob.restart()
        world.settle()
        assert state_of(bob) is MembershipState.MEMBER
    said = [b"%d" % number for number, act in enumerate(acts) if act == "talk"]
    assert [event.data for event in bob.events if isinstance(event, MessageReceived)] == said
    bob.group.certainty.become_sure(world.now)
    assert world.agree()
    assert not bob.group.certainty.reasons
