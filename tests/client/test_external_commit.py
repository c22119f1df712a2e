"""Coming in by an external Commit (RFC 9420 12.4.3.2): what members leave in the room for it, and what it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import CommitLost, GroupChanged, Joined, Rejected
from slixmpp_mls.client.group.group_infos import group_infos_in
from slixmpp_mls.client.group.sending import GROUP_INFO_MEMBERS
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import InvalidError, NotPermitted, PeerError, StanzaTooLarge, UsageError
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.proposals import GroupContextExtensions
from slixmpp_mls.mls.structures.welcome import GroupInfo
from slixmpp_mls.policy import ExternalJoins, RoomPolicy
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.elements import RoomElement
from slixmpp_mls.testing import NOW, FaultyStore, Killed, Participant, World

from .people import ALICE, BOB, CAROL, DAVE, copy_of, only, put_outside, three
from .test_rejoin import lose


def door_of(world: World) -> elements.GroupInfo:
    """The newest GroupInfo in the room."""
    return group_infos_in((incoming, incoming.payloads) for incoming in world.room.archive())[-1][1]


def with_joins(world: World, joins: ExternalJoins, *administrators: str) -> RoomPolicy:
    return replace(world.open_policy(*administrators), external_joins=joins)


def test_every_commit_of_a_small_group_leaves_a_group_info() -> None:
    world, alice, bob, _ = three()
    for person in (alice, bob):
        outgoing = person.commit()
        world.settle()
        (info,) = [payload for payload in outgoing.payloads if isinstance(payload, elements.GroupInfo)]
        assert info.epoch == person.epoch
        body = MLSMessage.decode(alice.group.external_commits.open(info)).body
        assert isinstance(body, GroupInfo)
        assert body.group_context == person.group.mls.context


def test_where_external_joins_are_forbidden_there_is_none() -> None:
    """The XEP: "A client MUST NOT do so if the policy says 'never'"; nor with the Commit that begins to say so."""
    world = World()
    alice, _ = world.group(ALICE, BOB, policy=with_joins(world, ExternalJoins.NEVER, ALICE))
    assert [type(payload) for payload in alice.commit().payloads] == [elements.Commit]
    world.settle()
    opened = with_joins(world, ExternalJoins.DEVICES, ALICE)
    extensions = GroupContextExtensions(opened.replaced_in(alice.group.mls.context.extensions))
    assert len(alice.commit(extensions).payloads) == 2
    world.settle()
    closed = with_joins(world, ExternalJoins.NEVER, ALICE)
    extensions = GroupContextExtensions(closed.replaced_in(alice.group.mls.context.extensions))
    assert len(alice.commit(extensions).payloads) == 1


def test_what_does_not_fit_goes_without_it() -> None:
    _, alice, _, _ = three()

    def fits(payloads: Any) -> None:
        if any(isinstance(payload, elements.GroupInfo) for payload in payloads):
            raise StanzaTooLarge(2, 1)

    outgoing = alice.group.sending.commit((), NOW, fits=fits)
    assert [type(payload) for payload in outgoing.payloads] == [elements.Commit]


def test_a_large_group_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GROUP_INFO_MEMBERS == 64  # as the XEP says
    monkeypatch.setattr("slixmpp_mls.client.group.sending.GROUP_INFO_MEMBERS", 2)
    _, alice, _, _ = three()
    assert len(alice.commit().payloads) == 1


def test_a_lost_client_replaces_its_own_leaf() -> None:
    world, alice, bob, carol = three()
    alice.commit()
    world.settle()
    lose(bob)
    bob.events.clear()
    outgoing = bob.enter(door_of(world))
    assert [type(payload) for payload in outgoing.payloads] == [elements.Commit, elements.GroupInfo]
    assert bob.group.state is MembershipState.LOST  # rule 2: not before it is reflected
    assert bob.group.external_commits.waits
    world.settle()
    joined = only(bob.events, Joined)
    assert (joined.by, joined.epoch) == (None, 3)
    assert joined.missed is not None
    assert world.agree()
    assert len(alice.group.roster) == 3
    changed = [event for event in alice.events if isinstance(event, GroupChanged)][-1]
    assert [member.account for member in changed.added] == [member.account for member in changed.removed] == [BOB]
    bob.send(b"here I am")
    carol.send(b"so you are")
    world.settle()
    assert alice.texts == [b"here I am", b"so you are"]
    assert bob.texts == [b"so you are"]


def test_a_new_device_of_a_member_account_comes_in() -> None:
    """It has never been a member: it can read a GroupInfo only where the policy lets anybody in."""
    world, alice, bob, carol = three()
    alice.commit()
    world.settle()
    fresh = world.person(BOB)
    fresh.read()
    bob.vouch_for(fresh)
    with pytest.raises(InvalidError, match="encrypted for members"):
        fresh.group.external_commits.draft(door_of(world), NOW)
    opened = with_joins(world, ExternalJoins.ANYBODY, ALICE)
    alice.commit(GroupContextExtensions(opened.replaced_in(alice.group.mls.context.extensions)))
    world.settle()
    fresh = world.person(BOB)
    fresh.read()
    with pytest.raises(NotPermitted):  # nobody vouches for it, and it is no stranger
        fresh.group.external_commits.draft(door_of(world), NOW)
    carol.device.identity, mine = replace(carol.device.identity, account=BOB), carol.device.identity
    carol.vouch_for(fresh)  # somebody who is no device of the account
    carol.device.identity = mine
    with pytest.raises(NotPermitted):
        fresh.group.external_commits.draft(door_of(world), NOW)
    bob.vouch_for(fresh)
    fresh.restart()
    fresh.enter(door_of(world))
    world.settle()
    assert fresh.group.state is MembershipState.MEMBER
    assert only(fresh.events, Joined).missed is None
    assert world.agree()
    # By what the newcomer has left beside its Commit, the next one comes in.
    another = world.person(CAROL)
    carol.vouch_for(another)
    another.read()
    another.enter(door_of(world))
    world.settle()
    assert another.group.state is MembershipState.MEMBER
    assert world.agree()


def test_a_stranger_does_not_unless_anybody_may() -> None:
    world, alice, _, _ = three()
    alice.commit()
    world.settle()
    dave = world.person(DAVE)
    dave.read()
    with pytest.raises(InvalidError, match="encrypted for members"):
        dave.group.external_commits.draft(door_of(world), NOW)
    door = replace(door_of(world), data=alice.group.external_commits.open(door_of(world)), key_epoch=None)
    with pytest.raises(NotPermitted):  # even if somebody shows it one
        dave.group.external_commits.draft(door, NOW)
    opened = with_joins(world, ExternalJoins.ANYBODY, ALICE)
    alice.commit(GroupContextExtensions(opened.replaced_in(alice.group.mls.context.extensions)))
    world.settle()
    dave.enter(door_of(world))
    world.settle()
    assert dave.group.state is MembershipState.MEMBER
    assert world.agree()


def test_of_two_in_one_epoch_one_wins_and_the_other_tries_again() -> None:
    world, alice, bob, carol = three()
    alice.commit()
    world.settle()
    for person in (bob, carol):
        lose(person)
    bob.enter(door_of(world))
    carol.enter(door_of(world))
    world.settle()
    assert [bob.group.state, carol.group.state] == [MembershipState.MEMBER, MembershipState.LOST]
    assert only(carol.events, CommitLost)
    assert not carol.group.external_commits.waits
    carol.enter(carol.ways_in()[0])
    world.settle()
    assert carol.group.state is MembershipState.MEMBER
    assert world.agree()
    assert len(alice.group.roster) == 3


def test_a_members_commit_comes_first() -> None:
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    lose(bob)
    bob.enter(door_of(world))
    alice.commit()
    world.room.deliver(1)
    world.settle()
    assert only(bob.events, CommitLost)
    assert bob.group.join_requests.epoch_seen == 3
    with bob.store.transaction() as transaction:
        assert not any(transaction.items(f"entering/{world.room.jid}"))  # the keys of an epoch that never was


def test_a_request_that_is_granted_first_makes_the_external_commit_void() -> None:
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    lose(bob)
    bob.ask()
    bob.enter(door_of(world))
    world.room.deliver()
    alice.read()
    alice.commit()
    world.room.deliver(1)
    world.settle()
    assert bob.group.state is MembershipState.MEMBER
    assert not bob.group.external_commits.waits
    assert world.agree()


def granted_and_on_its_way(later: int = 0) -> tuple[World, Participant, Participant]:
    """Bob's request is granted; before he reads that, he sends an external Commit for that epoch, or a later one."""
    world, alice, bob, _ = three()
    lose(bob)
    bob.ask()
    world.room.deliver_all()
    alice.read()
    for _ in range(1 + later):  # the first one grants the request
        alice.commit()
        world.room.deliver_all()
        alice.read()
    bob.enter(door_of(world))  # the archive has been read further than the room
    return world, alice, bob


@pytest.mark.parametrize("later", [0, 1, 3])
def test_a_welcome_whose_leaf_an_external_commit_replaces_is_passed_over(later: int) -> None:
    """Bob would be a member by it, and take his own Commit for his removal."""
    world, _, bob = granted_and_on_its_way(later)
    bob.events.clear()
    world.settle()
    assert only(bob.events, Joined).by is None
    assert bob.group.is_member
    assert world.agree()


def test_a_passed_over_welcome_is_no_loss_if_the_external_commit_comes_second() -> None:
    world, alice, bob = granted_and_on_its_way()
    world.room.lose()
    alice.commit()
    world.room.deliver_all()
    bob.read()
    assert not bob.group.is_member
    assert not bob.group.external_commits.waits
    bob.enter(door_of(world))
    world.settle()
    assert bob.group.is_member
    assert world.agree()


def test_it_is_sent_again_after_a_crash_as_it_was() -> None:
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    lose(bob)
    outgoing = bob.enter(door_of(world))
    world.room.lose()
    bob.restart()
    assert bob.group.external_commits.waits
    assert bob.resend() == [outgoing]
    world.settle()
    assert bob.group.state is MembershipState.MEMBER
    assert world.agree()


def test_stopped_at_every_write_it_is_in_or_can_still_come_in() -> None:
    for kill_at in range(20):
        for before in (True, False):
            world, alice, bob, _ = three()
            alice.commit()
            world.settle()
            lose(bob)
            faulty = FaultyStore(bob.store)
            faulty.kill_at, faulty.kill_before = kill_at, before
            bob.restart(faulty)
            killed = False
            try:
                bob.enter(door_of(world))
                world.settle()
            except Killed:
                killed = True
                bob.restart(faulty._store)
                if bob.group.state is MembershipState.LOST:
                    bob.resend() or bob.enter(door_of(world))
                world.settle()
            assert bob.group.state is MembershipState.MEMBER, (kill_at, before)
            assert world.agree()
        if not killed:
            return
    pytest.fail("more writes than expected")


def test_a_refused_one_is_given_up() -> None:
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    lose(bob)
    outgoing = bob.enter(door_of(world))
    world.room.lose()
    bob.bounce(outgoing, "forbidden")
    assert only(bob.events, CommitLost).reason == "forbidden"
    assert not bob.group.external_commits.waits


def test_members_do_not_enter() -> None:
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    with pytest.raises(UsageError):
        bob.group.external_commits.draft(door_of(world), NOW)
    lose(bob)
    bob.enter(door_of(world))
    with pytest.raises(UsageError):
        bob.group.external_commits.draft(door_of(world), NOW)


# --- what the room shows ----------------------------------------------------------------------------


def refused(person: Participant, door: RoomElement) -> PeerError:
    assert isinstance(door, elements.GroupInfo)
    with pytest.raises(PeerError) as caught:
        person.group.external_commits.draft(door, NOW)
    assert not person.group.external_commits.waits
    return caught.value


def lost_bob() -> tuple[World, Participant, Participant, elements.GroupInfo]:
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    lose(bob)
    return world, alice, bob, door_of(world)


def test_by_an_outdated_one_nobody_comes_in() -> None:
    """The room's order decides, not an epoch that somebody has written on a stanza."""
    world, alice, bob, door = lost_bob()
    alice.commit()
    world.settle()
    assert bob.ways_in()[0].epoch == 3
    bob.enter(door)
    world.settle()
    assert bob.group.state is MembershipState.LOST
    assert alice.epoch == 3


def test_one_of_an_epoch_before_our_loss_is_refused() -> None:
    """RFC 9750 5.3: a service that shows an earlier state could lead us to who was a member then."""
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    old = door_of(world)
    alice.commit()
    world.settle()
    lose(bob)
    put_outside(bob.group, known=0)  # as if the room had shown nothing else
    assert refused(bob, old).args[0].endswith("(RFC 9420 9.2)")


@pytest.mark.parametrize("place", [-1, -70, 60, 100, 150, 300, 500])
def test_one_that_was_tampered_with_is_refused(place: int) -> None:
    """RFC 9420 12.4.3: signature, tree hash, leaves; wherever an octet has changed."""
    _, _, bob, door = lost_bob()
    data = bytearray(door.data)
    data[place] ^= 1
    refused(bob, replace(door, data=bytes(data)))


def test_one_of_another_group_is_refused() -> None:
    _, alice, bob, _ = lost_bob()
    other = World(room=alice.group.room)
    mallory = other.person(DAVE)
    mallory.group.lifecycle.create(1, RoomPolicy(other.room.jid, (DAVE,), external_joins=ExternalJoins.ANYBODY), NOW)
    mallory.commit()
    other.settle()
    assert "another group" in str(refused(bob, door_of(other)))


def test_one_of_another_room_is_refused() -> None:
    elsewhere = World(room="heath@rooms.example")
    alice, _ = elsewhere.group(ALICE, BOB, policy=with_joins(elsewhere, ExternalJoins.ANYBODY, ALICE))
    alice.commit()
    elsewhere.settle()
    world = World()
    bob = world.person(BOB)
    assert "another room" in str(refused(bob, door_of(elsewhere)))


def test_a_commit_made_from_a_forged_past_is_ignored_by_all() -> None:
    """What the joiner cannot tell, the members can: the Commit is of an epoch that has ended."""
    world, alice, bob, carol = three()
    alice.commit()
    world.settle()
    door = door_of(world)
    lost = copy_of(bob.store)
    alice.commit()
    world.settle()
    naive = Participant(World(room=world.room.jid), lost)
    lose(naive)
    outgoing = naive.group.external_commits.finish(naive.group.external_commits.draft(door, NOW), NOW)
    world.room.post(outgoing, BOB)
    world.settle()
    assert alice.epoch == carol.epoch == 3
    assert not alice.said(Rejected)
    assert world.agree()


def test_denied_leaves_are_told_when_it_takes_effect() -> None:
    world, _, bob, door = lost_bob()
    bob.judge = lambda leaf: InvalidError("never heard of")
    bob.enter(door)
    world.settle()
    assert bob.group.state is MembershipState.MEMBER
    assert bob.group.sending.silenced
