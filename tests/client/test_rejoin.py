"""Coming back by asking: a client that has lost the group is added afresh (RFC 9420 12.1.8, DESIGN rule 6)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from slixmpp_mls.client import (
    Device,
    GroupLost,
    Incoming,
    Joined,
    JoinRequested,
    LeftBehind,
    Rejected,
    RemovedFromGroup,
    Unreadable,
)
from slixmpp_mls.client.group.certainty import UnsureReason
from slixmpp_mls.client.group.join_request import PAUSES
from slixmpp_mls.client.storage.records import KeyPackageRecord, MembershipState
from slixmpp_mls.client.storage.rejoin_limit import LIMIT
from slixmpp_mls.errors import ArchiveGap, PolicyViolation, UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import RoomPolicy, group_extensions
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import NOW, FaultyStore, Killed, Participant, World
from tests.client.people import state_of

from .people import ALICE, BOB, CAROL, DAVE, closed_policy, copy_of, only, put_outside, three
from .test_certainty import ask, hear
from .test_proposals import smuggle


def lose(person: Participant) -> None:
    """Its archive has a gap."""
    person.events += person.group.lifecycle.give_up("a gap")


def settle_wishes(world: World, *committers: Participant) -> None:
    """Deliver what is in flight; then whoever is named commits what waits."""
    world.settle()
    for person in committers:
        if person.group.sending.needs_commit:
            person.commit()
    world.settle()


def test_who_is_added_afresh_by_a_key_package_that_it_cannot_open_comes_back_by_itself() -> None:
    """mls-recovery, "Rejoining": the others want it in the group, so it is lost, and not out.

    The return key of the used KeyPackage proves that the leaf is its own: who commits the request needs no right.
    """
    world = World()
    alice, carol = world.group(ALICE, CAROL, policy=closed_policy(world))
    bob = world.person(BOB)
    used = world.directory.find(BOB, alice.group, world.now)[bob.device.identity].key_package
    alice.commit(Add(used))
    world.settle()
    assert used.leaf_node == bob.group.mls.own_leaf  # the one by which it came in
    world.now += 2 * DAY
    bob.device.key_packages.forget_spent(world.now)
    bob.keep(b"is not lost")
    alice.commit(*alice.removing(BOB), Add(used))
    world.settle()
    assert state_of(bob) is MembershipState.LOST
    assert bob.said(GroupLost)
    assert not bob.said(RemovedFromGroup)
    world.now += 100
    bob.ask()
    world.settle()
    carol.commit()
    world.settle()
    assert bob.group.is_member
    bob.resend()
    world.settle()
    assert carol.texts == [b"is not lost"]
    assert world.agree()


def test_whoever_is_replaced_by_another_key_of_its_name_is_out() -> None:
    world, alice, bob, _ = three()
    suite = alice.group.mls.suite
    store = MemoryStore(BOB)
    with store.transaction() as transaction:
        transaction.put("device", b"id", bob.device.identity.device.encode())
    other = Device(store).key_packages.make(suite, world.now).key_package
    alice.commit(*alice.removing(BOB), Add(other))
    world.settle()
    assert state_of(bob) is MembershipState.OUT
    assert bob.said(RemovedFromGroup)


def test_a_member_that_has_lost_the_group_is_replaced() -> None:
    world, alice, bob, carol = three(policy=closed_policy(World()))
    lose(bob)
    assert only(bob.events, GroupLost).after == bob.group.cursor
    alice.send(b"not for bob")
    world.settle()
    assert only(bob.events, Unreadable).reason == "lost"
    (asked,) = bob.ask()
    (payload,) = asked.payloads
    assert isinstance(payload, elements.Proposal)
    assert payload.epoch == 1
    settle_wishes(world, alice)
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()
    assert len(alice.group.roster) == 3
    joined = only(bob.events, Joined)
    assert joined.missed is not None
    assert joined.missed.messages == 1
    assert joined.missed.after == only(bob.events, GroupLost).after
    assert joined.missed.until == bob.group.cursor
    bob.send(b"back again")
    world.settle()
    assert alice.texts[-1:] == carol.texts[-1:] == [b"back again"]


def test_any_member_may_replace_another_ones_client() -> None:
    """The policy's row "replace a client": carol has no rights at all, and bob asks for himself."""
    world, _, bob, carol = three(policy=closed_policy(World()))
    lose(bob)
    bob.ask()
    settle_wishes(world, carol)
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_a_return_does_not_need_own_devices() -> None:
    """It is the same client, and proves it."""
    world, alice, bob, carol = three(policy=replace(closed_policy(World()), own_devices=False))
    lose(bob)
    bob.ask()
    world.settle()
    assert [person.group.sending.needs_commit for person in (alice, carol)] == [True, True]
    settle_wishes(world, carol)
    assert state_of(bob) is MembershipState.MEMBER


@pytest.mark.parametrize("missed", [1, 4])
def test_the_only_administrator_comes_back_although_what_let_it_in_is_missing(missed: int) -> None:
    """mls-recovery, "Rejoining": its leaf is then that of an earlier request, whose return key proves the next one.

    Nobody else may add it, and nobody may come in by an external Commit.
    """
    world, alice, bob, carol = three(policy=closed_policy(World()))
    lose(alice)
    for number in range(missed):
        alice.ask()
        world.settle()
        bob.commit()
        world.room.deliver_all()
        for person in (bob, carol):
            person.read()
        del world.room._views[0][-1]  # alice never sees the Commit, nor the Welcome beside it
        assert bob.epoch == carol.epoch == 2 + number
        bob.send(b"the next epoch")
        world.settle()
        assert state_of(alice) is MembershipState.LOST
        world.now += 7200
    alice.restart()
    for _ in range(4):
        alice.ask()
        settle_wishes(world, carol)
        if state_of(alice) is MembershipState.MEMBER:
            break
        carol.commit()
        world.settle()
        world.now += 7200
    assert state_of(alice) is MembershipState.MEMBER
    assert world.agree()
    assert len(bob.group.roster) == 3


@pytest.mark.parametrize("restart", [False, True])
def test_a_member_healed_since_its_state_was_stolen_is_not_replaced_by_it(restart: bool) -> None:
    world, alice, bob, carol = three(policy=closed_policy(World()))
    stolen = copy_of(bob.store)
    bob.commit()
    world.settle()
    thief = world.person(BOB, stolen)
    lose(thief)
    if restart:
        thief.restart()
    put_outside(thief.group, epoch=alice.epoch, known=1)
    thief.ask()
    world.settle()
    assert not any(person.group.sending.needs_commit for person in (alice, carol))
    assert only(alice.events, JoinRequested).reason == "unproven"
    assert state_of(thief) is MembershipState.LOST


@pytest.mark.parametrize("restart", [False, True])
def test_a_return_while_a_commit_of_its_own_is_on_its_way(restart: bool) -> None:
    """Whether the leaf in the tree is the old or the new one, it does not know: it proves both."""
    for arrives in (False, True):
        world, alice, bob, carol = three(policy=closed_policy(World()))
        bob.commit()
        if not arrives:
            world.room.in_flight.clear()
        lose(bob)
        world.settle()
        if restart:
            bob.restart()
        assert len(list(bob.group.room_state.return_keys)) == 2
        put_outside(bob.group, epoch=alice.epoch, known=1)
        bob.ask()
        settle_wishes(world, carol)
        assert state_of(bob) is MembershipState.MEMBER
        assert world.agree()
        assert not bob.group.room_state.return_keys


def test_the_one_who_commits_may_come_later() -> None:
    """DESIGN rule 7: no operation needs two clients online at once."""
    world = World()
    alice, bob = world.group(ALICE, BOB)
    lose(bob)
    bob.ask()
    world.room.deliver_all()
    bob.read()
    world.now += DAY
    alice.restart()
    alice.read()
    assert alice.group.sending.needs_commit
    alice.commit()
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_two_come_back_by_one_commit() -> None:
    world, alice, bob, carol = three()
    for person in (bob, carol):
        lose(person)
        person.ask()
    settle_wishes(world, alice)
    assert alice.epoch == 2
    assert [bob.group.state, carol.group.state] == [MembershipState.MEMBER] * 2
    assert world.agree()


def test_all_but_one_are_lost_and_all_come_back() -> None:
    world = World()
    group = world.group(*(f"witch{number}@a.example" for number in range(12)))
    for person in group[1:]:
        lose(person)
        person.ask()
    settle_wishes(world, group[0])
    assert {person.group.state for person in group} == {MembershipState.MEMBER}
    assert world.agree()
    assert group[0].epoch == 2


def test_it_asks_once_in_an_epoch_and_anew_in_the_next_one() -> None:
    world, alice, bob, carol = three()
    lose(bob)
    bob.ask()
    assert bob.group.join_requests.asking_at(world.now) is None
    with pytest.raises(UsageError):
        bob.group.join_requests.ask(world.now)
    carol.commit()  # she has not read it, and her Commit comes first
    world.room.deliver(1)
    world.settle()
    assert bob.group.join_requests.epoch_seen == 2
    assert bob.group.join_requests.asking_at(world.now) == world.now + PAUSES[0]
    with pytest.raises(UsageError):
        bob.group.join_requests.ask(world.now)
    world.now += PAUSES[0]
    bob.ask()
    settle_wishes(world, alice)
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_pauses_grow_and_survive_a_restart() -> None:
    """No more than six requests in the first hour, and one an hour from then on."""
    world, alice, bob, _ = three()
    lose(bob)
    asked: list[int] = []
    while world.now < NOW + 6 * HOUR:
        at = bob.group.join_requests.asking_at(world.now)
        assert at is not None
        world.now = max(world.now, at)
        bob.ask()
        asked.append(world.now)
        world.room.lose()
        bob.restart()
        alice.commit()  # the next epoch, without him
        world.settle()
    assert sum(when < NOW + HOUR for when in asked) == 6
    assert all(later - earlier >= HOUR for earlier, later in pairwise(asked[6:]))
    world.now += DAY + HOUR
    bob.ask()
    assert bob.group.join_requests.attempts == 1


def test_a_clock_that_was_set_back_does_not_silence_it() -> None:
    world, alice, bob, _ = three()
    lose(bob)
    bob.ask()
    alice.commit()
    world.room.deliver(1)
    world.settle()
    world.now -= 10 * DAY
    assert bob.group.join_requests.asking_at(world.now) == world.now


def test_a_request_is_sent_again_as_it_was() -> None:
    world, alice, bob, _ = three()
    lose(bob)
    (asked,) = bob.ask()
    world.room.lose()
    bob.restart()
    (again,) = bob.resend()
    assert again == asked
    world.settle()
    assert bob.resend() == []
    settle_wishes(world, alice)
    assert state_of(bob) is MembershipState.MEMBER


def test_a_request_that_the_room_refuses_is_not_sent_again() -> None:
    world, alice, bob, _ = three()
    lose(bob)
    (asked,) = bob.ask()
    world.room.lose()
    bob.bounce(asked)
    assert bob.resend() == []
    assert bob.group.join_requests.asking_at(world.now) is None
    alice.commit()
    world.settle()
    assert bob.group.join_requests.asking_at(world.now) is not None


def test_no_private_key_of_a_request_outlives_it() -> None:
    """RFC 9420 16.8."""
    world, alice, bob, _ = three()
    lose(bob)
    with bob.store.transaction() as transaction:
        before = {key for key, _ in transaction.items("key-package")}
    for _ in range(3):
        bob.ask()
        world.room.lose()
        alice.commit()
        world.settle()
        world.now += HOUR
    bob.ask()
    with bob.store.transaction() as transaction:
        asked = [key for key, _ in transaction.items("key-package") if key not in before]
        assert len(asked) == 4
        assert all(KeyPackageRecord.decode(transaction.get("key-package", key) or b"").used for key in asked)
    bob.restart()
    assert not set(asked) & set(world.directory.items[BOB])  # they are for the group only
    settle_wishes(world, alice)
    assert state_of(bob) is MembershipState.MEMBER
    bob.device.key_packages.forget_spent(world.now + DAY + 1)  # the one that was used
    with bob.store.transaction() as transaction:
        assert not [key for key, _ in transaction.items("key-package") if key in asked]


def test_stopped_at_every_write_it_still_comes_back() -> None:
    """DESIGN rule 3, for what is sent from outside: keys and request in one transaction."""
    for kill_at in range(20):
        for before in (True, False):
            world, alice, bob, _ = three()
            lose(bob)
            faulty = FaultyStore(bob.store)
            faulty.kill_at, faulty.kill_before = kill_at, before
            bob.restart(faulty)
            killed = False
            try:
                bob.ask()
                settle_wishes(world, alice)
            except Killed:
                killed = True
                bob.restart(faulty._store)
                bob.resend()
                if bob.group.join_requests.asking_at(world.now) is not None:
                    bob.ask()
                settle_wishes(world, alice)
                bob.read()
            if bob.group.state is not MembershipState.MEMBER:  # it was stopped with the Welcome in its hands
                bob.read()
            assert state_of(bob) is MembershipState.MEMBER, (kill_at, before)
            assert world.agree()
        if not killed:
            return
    pytest.fail("more writes than expected")


# --- what is seen from outside -------------------------------------------------------------------


def test_an_outsiders_number_is_corrected_by_the_next_genuine_message() -> None:
    """Anybody in the room can write an epoch on a stanza."""
    world, alice, bob, carol = three()
    lose(bob)
    elsewhere = World()
    mallory = elsewhere.person(DAVE)
    mallory.group.lifecycle.create(1, RoomPolicy(elsewhere.room.jid, (DAVE,)), NOW)
    forged = mallory.group.sending.commit((), NOW).payloads[0]
    data = forged.data.replace(mallory.group.mls.group_id, alice.group.mls.group_id)
    place = data.index(alice.group.mls.group_id) + 32
    data = data[:place] + (999).to_bytes(8, "big") + data[place + 8 :]
    world.room.post([elements.Commit(alice.group.mls.group_id, 999, data)], DAVE)
    world.settle()
    assert bob.group.join_requests.epoch_seen == 1000
    bob.ask()
    world.settle()
    assert not alice.group.sending.needs_commit
    alice.send(b"what is this?")
    world.settle()
    assert bob.group.join_requests.epoch_seen == 1
    world.now += HOUR
    bob.ask()
    settle_wishes(world, carol)
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_messages_that_are_late_do_not_lead_it_back() -> None:
    world, alice, bob, carol = three()
    lose(bob)
    carol.send(b"late")
    alice.commit()
    world.room.deliver(1)
    world.settle()
    assert bob.group.join_requests.epoch_seen == 2


def test_another_group_in_the_room_is_not_taken_for_the_lost_one() -> None:
    world, alice, bob, _ = three()
    lose(bob)
    mallory = world.person(DAVE)
    mallory.group.lifecycle.create(1, RoomPolicy(world.room.jid, (DAVE,)), NOW)
    mallory.commit()
    world.settle()
    alice.commit()  # what has been the group is the group, when it is heard of
    mallory.commit()
    world.settle()
    assert bob.group.room_state.outside.group_id == alice.group.mls.group_id
    assert bob.group.join_requests.epoch_seen == 2


def test_a_new_store_of_an_account_in_the_group_asks_by_what_it_sees() -> None:
    """State lost: nothing is known but the room.  It is another device then, of the same account."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    fresh = world.person(BOB)
    assert fresh.group.join_requests.asking_at(world.now) is None  # not a single Commit seen
    alice.commit()
    world.settle()
    fresh.ask()
    settle_wishes(world, carol)
    assert only(alice.events, JoinRequested).reason == "unproven"  # nobody vouches: it waits for somebody's decision
    world.now += HOUR
    assert fresh.group.join_requests.asking_at(world.now) is None  # once in an epoch
    bob.vouch_for(fresh)
    due = fresh.group.join_requests.asking_at(world.now)
    assert due is not None
    assert due <= world.now  # that is another request than the one before
    fresh.ask()
    assert fresh.group.join_requests.asking_at(world.now) is None
    settle_wishes(world, carol)
    assert state_of(fresh) is MembershipState.MEMBER
    assert only(fresh.events, Joined).missed is None
    assert len(alice.group.roster) == 4
    assert world.agree()
    assert state_of(bob) is MembershipState.MEMBER


# --- how it is lost -------------------------------------------------------------------------------


def test_an_expired_archive_is_survived() -> None:
    world, alice, bob, _ = three()
    bob_reads = bob.group.cursor
    for _ in range(3):
        alice.commit()
        world.room.deliver_all()
        alice.read()
    world.room.expire(4)
    with pytest.raises(ArchiveGap):
        bob.read()
    lose(bob)
    bob.group.lifecycle.seek(None)
    assert only(bob.events, GroupLost).after == bob_reads
    alice.send(b"in epoch 4")
    world.room.deliver_all()
    bob.read()
    assert bob.group.join_requests.epoch_seen == 4
    bob.ask()
    world.people = [alice, bob]  # for carol it is too late
    settle_wishes(world, alice)
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_an_archive_that_is_empty_leaves_the_epoch_that_was_known() -> None:
    world = World()
    _, bob = world.group(ALICE, BOB)
    world.room.expire(1000)
    lose(bob)
    bob.group.lifecycle.seek(None)
    assert bob.group.join_requests.epoch_seen == 1
    assert bob.group.join_requests.asking_at(world.now) is not None


def test_a_store_that_is_an_old_copy_comes_back_with_fresh_keys() -> None:
    """RFC 9420 9.2: no key of the copy is used; the signature key, which is not used up, stays."""
    world, alice, bob, carol = three()
    backup = copy_of(bob.store)
    bob.send(b"after the backup")
    world.settle()
    key = bob.group.mls.own_leaf.signature_key
    bob.restart(backup)
    bob.events.clear()
    bob.read()  # from the copy's place on: there is a message that it has not sent
    assert only(bob.events, GroupLost)
    assert state_of(bob) is MembershipState.LOST
    bob.ask()
    settle_wishes(world, alice)
    assert state_of(bob) is MembershipState.MEMBER
    assert bob.group.mls.own_leaf.signature_key == key
    bob.send(b"with keys of its own")
    world.settle()
    assert carol.texts == [b"after the backup", b"with keys of its own"]
    assert world.agree()


def test_what_an_old_copy_was_given_to_send_does_not_hide_what_it_is() -> None:
    """RFC 9420 9.2: its next key is one that the original has used.  Nothing is encrypted before the room is read."""
    world, alice, bob, carol = three()
    backup = copy_of(bob.store)
    bob.send(b"after the backup")
    world.settle()
    bob.restart(backup)
    assert bob.keep(b"as soon as I can").payloads == ()
    bob.restart()
    bob.read()
    assert state_of(bob) is MembershipState.LOST
    assert bob.resend() == []
    bob.ask()
    settle_wishes(world, alice)
    (sent,) = bob.resend()
    assert sent.payloads[0].epoch == 2
    world.settle()
    assert carol.texts == [b"after the backup", b"as soon as I can"]
    assert bob.resend() == []


def test_a_copy_that_runs_beside_the_original_throws_it_out_and_is_not_thrown_out_in_turn() -> None:
    """Two processes on one state: whichever asks is replaced; the other is out, and does not ask."""
    world, alice, bob, _ = three()
    twin = world.person(BOB, copy_of(bob.store))
    bob.send(b"the original")
    world.settle()
    assert state_of(twin) is MembershipState.LOST
    twin.ask()
    settle_wishes(world, alice)
    assert state_of(twin) is MembershipState.MEMBER
    assert state_of(bob) is MembershipState.OUT
    assert only(bob.events, RemovedFromGroup).wanted is False
    assert bob.group.join_requests.asking_at(world.now + DAY) is None


def test_claims_of_a_later_epoch_make_unsure_and_nothing_more() -> None:
    world = World()
    alice, bob, carol, dave = world.group(ALICE, BOB, CAROL, DAVE)
    ahead = copy_of(alice.store), copy_of(dave.store)
    views = World(room=world.room.jid)
    views.now = world.now
    liar, other = (Participant(views, store) for store in ahead)
    for person in (liar, other):
        person.group.sending.commit((), NOW)
    commit = next(liar.group.outstanding())
    for person in (liar, other):
        person.take(Incoming("000500", commit.payloads, ALICE))
    for speaker, account in ((liar, ALICE), (other, DAVE)):
        world.room.post(speaker.group.sending.compose(b"from the future").payloads, account)
        world.settle()
        assert bob.group.certainty.reasons == carol.group.certainty.reasons == UnsureReason.LATER_EPOCH
        assert not bob.group.returning
    assert [event.by for event in bob.events if isinstance(event, LeftBehind)] == [ALICE, DAVE]
    assert state_of(bob) is MembershipState.MEMBER  # the session gives nothing up by itself


def test_of_two_the_other_one_is_enough() -> None:
    world = World()
    alice, bob = world.group(ALICE, BOB)
    alice.commit()
    commit = world.room.lose()
    alice.take(Incoming("000005", commit.payloads, ALICE))
    alice.send(b"we two alone")
    world.settle()
    assert bob.group.certainty.reasons


# --- what committers do not do --------------------------------------------------------------------


def test_a_client_that_comes_back_too_often_is_not_let_in_without_asking() -> None:
    world, alice, bob, carol = three()
    for _ in range(LIMIT):
        lose(bob)
        bob.restart()
        world.now += 60
        put_outside(bob.group, not_before=0)  # somebody else's software
        bob.ask()
        settle_wishes(world, alice)
        assert state_of(bob) is MembershipState.MEMBER
    lose(bob)
    world.now += 60
    put_outside(bob.group, not_before=0)
    bob.ask()
    world.settle()
    alice.restart()
    assert not alice.group.sending.needs_commit
    assert not carol.group.sending.needs_commit
    assert only(alice.events, JoinRequested).reason == "too-often"
    alice.commit()
    world.settle()
    assert state_of(bob) is MembershipState.LOST
    world.now += HOUR
    put_outside(bob.group, not_before=0)
    bob.ask()
    settle_wishes(world, carol)
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_a_removal_is_not_turned_into_a_return() -> None:
    """Who is removed, and asks at that moment to be added afresh, is out."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    lose(bob)
    bob.ask()
    world.settle()
    alice.commit(*alice.removing(BOB))
    world.settle()
    assert not alice.group.roster.has(BOB)
    # The same if the removal is a proposal of somebody who may.
    alice.commit(*alice.adding(BOB))
    world.settle()
    lose(bob)
    world.now += HOUR
    alice.propose(Remove(alice.group.roster.leaves_of(BOB)[0]))
    bob.ask()
    settle_wishes(world, carol)
    assert not alice.group.roster.has(BOB)
    assert world.agree()


def test_a_removal_without_a_right_does_not_keep_anybody_out() -> None:
    world, alice, bob, carol = three(policy=closed_policy(World()))
    lose(bob)
    smuggle(carol, Remove(alice.group.roster.leaves_of(BOB)[0]))
    bob.ask()
    settle_wishes(world, alice)
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_a_wish_to_replace_the_committer_itself_is_for_others() -> None:
    world, _, bob, carol = three()
    twin = world.person(BOB, copy_of(bob.store))
    lose(twin)
    twin.ask()
    world.settle()
    assert not bob.group.sending.needs_commit
    assert not bob.said(JoinRequested)
    bob.send(b"I am still here")
    bob.commit()
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert not carol.said(Rejected)


# --- a Welcome is judged by what is known (mls-recovery, "Rejoining"; RFC 9420 12.4.3.1) ------------------


def welcome_into(world: World, group: Group, *proposals: AnyProposal, by: str) -> Group:
    """A Commit of other software, and its Welcome; the group after it."""
    bundle = group.finish_commit(group.draft_commit(proposals, now=world.now, by_reference=()))
    assert bundle.welcome is not None
    world.room.post(
        [
            elements.Commit(group.group_id, group.epoch, bundle.commit),
            elements.Welcome(group.group_id, group.epoch + 1, bundle.welcome),
        ],
        by,
    )
    world.room.deliver_all()
    after = bundle.staged.next
    assert isinstance(after, Group)
    return after


def key_package(by: Participant, account: str) -> KeyPackage:
    (package,) = by.world.directory.find(account, by.group, by.world.now).values()
    return package.key_package


@pytest.mark.parametrize("same_id", [True, False])
def test_a_stranger_leads_nobody_that_is_lost_into_a_group_of_its_own(same_id: bool) -> None:
    """KeyPackages are public, and anybody can make a group of any id with a policy for the room."""
    world, alice, bob, _ = three(policy=closed_policy(World()))
    bob.keep(b"for the others alone")
    lose(bob)
    mallory = world.person("mallory@m.example")
    world.people[:] = [alice, bob]
    own = mallory.device.key_packages.make(CipherSuite.get(1), world.now)
    extensions = group_extensions(RoomPolicy(world.room.jid, ("mallory@m.example",)))
    group_id = alice.group.mls.group_id if same_id else bytes(32)
    group = Group.create(own, group_id, extensions=extensions, parameters=world.parameters)
    while group.epoch < 5:
        bundle = group.finish_commit(group.draft_commit((), now=world.now))
        assert isinstance(bundle.staged.next, Group)
        group = bundle.staged.next
    welcome_into(world, group, Add(key_package(alice, BOB)), by="mallory@m.example")
    bob.read()
    assert isinstance(only(bob.events, Rejected).error, PolicyViolation)
    assert state_of(bob) is MembershipState.LOST
    assert not bob.said(Joined)
    assert bob.resend() == []


@pytest.mark.parametrize("returning", [True, False])
def test_a_member_without_rights_leads_nobody_away_from_the_others(returning: bool) -> None:
    """Neither who is lost, nor who is on its way back by an honest administrator's proof."""
    world = World()
    alice, bob, carol = world.group(ALICE, BOB, CAROL, policy=RoomPolicy(world.room.jid, (ALICE,)))
    bob.keep(b"for the others alone")
    gone = [Remove(LeafIndex(each.group.mls.own_index)) for each in (alice, bob)]
    if returning:
        world.people.remove(bob)
        alice.commit()
        world.settle()
        hear(bob, *ask(bob, alice))
        assert bob.group.returning
    else:
        lose(bob)
    world.person(DAVE)
    world.people.clear()
    adds = [Add(key_package(carol, each)) for each in (DAVE, BOB)]
    welcome_into(world, carol.group.mls, *gone, *adds, by=CAROL)
    bob.take(world.room.archive()[-1])
    assert isinstance(only(bob.events, Rejected).error, PolicyViolation)
    assert bob.group.returning == returning
    assert state_of(bob) is (MembershipState.MEMBER if returning else MembershipState.LOST)
    assert bob.resend() == []


def test_a_client_that_has_missed_a_removal_comes_back_when_an_administrator_commits() -> None:
    """A member without rights cannot prove the removal; its Welcome costs nothing but the time until the next one."""
    world = World()
    alice, bob, carol = world.group(ALICE, BOB, CAROL, policy=RoomPolicy(world.room.jid, (ALICE,)))
    world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    lose(bob)
    alice.commit(*alice.removing(DAVE))
    world.settle()
    for committer, state in (
        (carol, MembershipState.LOST),
        (carol, MembershipState.LOST),
        (alice, MembershipState.MEMBER),
    ):
        world.now += HOUR
        bob.ask()
        settle_wishes(world, committer)
        assert state_of(bob) is state
    assert world.agree()


def test_nobody_else_is_in_a_conversation_that_a_welcome_leads_into() -> None:
    """mls-policy, "Policy Checks": a conversation has two accounts."""
    world = World()
    bob, mallory, _ = (world.person(each) for each in (BOB, "mallory@m.example", DAVE))
    world.people[:] = [bob]
    bob.group.lifecycle.expect_welcome(None)
    own = mallory.device.key_packages.make(CipherSuite.get(1), world.now)
    policy = RoomPolicy.for_conversation(world.room.jid, "mallory@m.example", BOB)
    for group_id, accounts in ((b"g", (BOB, DAVE)), (b"h", (BOB,))):
        group = Group.create(own, group_id, extensions=group_extensions(policy), parameters=world.parameters)
        packages = [MLSMessage.decode(next(iter(world.directory.items[each].values()))).body for each in accounts]
        adds = [Add(package) for package in packages if isinstance(package, KeyPackage)]
        assert len(adds) == len(accounts)
        welcome_into(world, group, *adds, by="mallory@m.example")
        bob.read()
        assert "somebody else in it" in str(only(bob.events, Rejected).error)
        assert (state_of(bob) is MembershipState.MEMBER) == (accounts == (BOB,))
