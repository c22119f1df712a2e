"""What Commits leave to do outside of the group, and that it is remembered until it is done."""

from __future__ import annotations

from dataclasses import replace

from slixmpp_mls.client import Joined
from slixmpp_mls.client.storage.post_commit_actions import Demote, Invite, PostCommitActions, Promote, Revoke
from slixmpp_mls.client.storage.records import InvitedRecord
from slixmpp_mls.mls.structures.proposals import GroupContextExtensions, Remove
from slixmpp_mls.testing import Participant, World

from .people import ALICE, BOB, CAROL, DAVE, again, three


def owed(person: Participant) -> set[Invite | Revoke | Promote | Demote]:
    """As it is in memory, and as a restart finds it."""
    now = set(person.group.post_commit_actions)
    person.restart()
    assert set(person.group.post_commit_actions) == now
    return now


def settled() -> tuple[World, Participant, Participant, Participant]:
    """Three members, and nothing to do."""
    world, alice, bob, carol = three()
    alice.group.lifecycle.done([each.key for each in alice.group.post_commit_actions])
    return world, alice, bob, carol


def test_an_added_account_is_to_be_invited_and_pointed_to_the_place_before_the_welcome() -> None:
    world, alice, bob, _ = settled()
    world.person(DAVE)
    bob.send(b"before")
    alice.commit(*alice.adding(DAVE))
    assert not owed(alice)  # it has not taken effect
    world.settle()
    assert owed(alice) == {Invite(DAVE, world.room.archive()[-2].archive_id)}
    assert not owed(bob)
    alice.group.lifecycle.done([Invite(DAVE, None).key])
    assert not owed(alice)


def test_a_commit_that_came_second_leaves_nothing() -> None:
    world, alice, bob, _ = settled()
    world.person(DAVE)
    bob.commit()
    alice.commit(*alice.adding(DAVE), *alice.removing(CAROL))
    world.settle()
    assert not owed(alice)


def test_an_account_we_have_removed_is_to_lose_the_room_unless_it_is_back() -> None:
    world, alice, bob, _ = settled()
    alice.commit(*alice.removing(CAROL))
    world.settle()
    assert owed(alice) == {Revoke(CAROL)}
    assert not owed(bob)
    alice.commit(*alice.adding(CAROL))
    world.settle()
    assert {type(each) for each in owed(alice)} == {Invite, Promote}  # an administrator of the group
    alice.commit(*alice.removing(CAROL))
    world.settle()
    assert owed(alice) == {Revoke(CAROL)}


def test_a_member_removed_and_added_afresh_at_once_keeps_the_room() -> None:
    world, alice, bob, _ = settled()
    alice.commit(*alice.removing(BOB), *again(alice, bob))
    world.settle()
    assert {(type(each), each.account) for each in owed(alice)} == {(Invite, BOB), (Promote, BOB)}


def test_of_an_account_with_another_device_in_the_group_nothing_is_revoked() -> None:
    world, alice, *_ = settled()
    world.person(BOB)
    alice.commit(*alice.adding(BOB))
    world.settle()
    alice.group.lifecycle.done([each.key for each in alice.group.post_commit_actions])
    alice.commit(Remove(alice.group.roster.leaves_of(BOB)[0]))
    world.settle()
    assert not owed(alice)


def test_a_member_that_leaves_goes_by_itself() -> None:
    world, alice, bob, _ = settled()
    bob.group.lifecycle.want_to_leave()
    bob.propose(Remove(bob.group.mls.own_index))
    world.settle()
    assert bob.group.post_commit_actions.leave
    alice.commit()
    world.settle()
    assert owed(alice) == {Revoke(BOB)}  # XEP-0045: nobody gives up its own affiliation
    assert not bob.group.post_commit_actions.leave
    bob.restart()
    assert not bob.group.post_commit_actions


def test_an_administrator_of_the_group_is_to_be_one_of_the_room_and_back() -> None:
    world, alice, bob, _ = settled()
    policy = alice.group.policy

    def set_administrators(*accounts: str) -> None:
        extensions = replace(policy, administrators=accounts).replaced_in(alice.group.mls.context.extensions)
        alice.commit(GroupContextExtensions(extensions))
        world.settle()

    set_administrators(ALICE)
    alice.group.lifecycle.done([each.key for each in alice.group.post_commit_actions])
    set_administrators(ALICE, BOB)
    assert owed(alice) == {Promote(BOB)}
    assert not owed(bob)  # whoever commits it does it
    set_administrators(ALICE)
    assert owed(alice) == {Demote(BOB)}
    set_administrators(ALICE, DAVE)  # who is not in the group yet
    world.person(DAVE)
    alice.restart()
    assert owed(alice) == {Demote(BOB), Promote(DAVE)}
    alice.group.lifecycle.done([each.key for each in alice.group.post_commit_actions])
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert {type(each) for each in owed(alice) if each.account == DAVE} == {Invite, Promote}


def test_the_wish_to_leave_says_whether_all_devices_leave() -> None:
    _, alice, bob, _ = settled()
    alice.group.lifecycle.want_to_leave(all_devices=True)
    bob.group.lifecycle.want_to_leave()
    for person, everybody in ((alice, True), (bob, False)):
        person.restart()
        assert person.group.post_commit_actions.leave
        assert person.group.post_commit_actions.all_devices_leave is everybody


def test_nothing_is_owed_by_who_is_out() -> None:
    world, alice, *_ = settled()
    world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    alice.group.lifecycle.want_to_leave()
    alice.group.lifecycle.give_up()
    assert not owed(alice)
    assert list(PostCommitActions()) == []
    assert ALICE not in {each.account for each in alice.group.post_commit_actions}


def test_a_member_that_is_added_afresh_still_has_to_do_what_it_had_to_do() -> None:
    """No other member has it: an account whose invitation was lost would stay outside."""
    world, alice, bob, carol = settled()
    world.person(DAVE)
    invited = InvitedRecord(b"", world.now, 0)
    carol.commit(*carol.adding(DAVE))
    world.settle()
    carol.group.lifecycle.invited({BOB: invited})
    carol.group.lifecycle.want_to_leave(all_devices=True)
    before = owed(carol)
    assert {type(each) for each in before} == {Invite}
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.settle()
    assert len(carol.said(Joined)) == 1
    assert owed(carol) == before
    assert carol.group.post_commit_actions.invited == {BOB: invited}
    assert carol.group.post_commit_actions.leave
    assert carol.group.post_commit_actions.all_devices_leave
    assert not bob.group.post_commit_actions.is_invited(BOB)


def test_a_member_that_has_lost_the_group_goes_on_with_it_when_it_is_back() -> None:
    world, _, bob, carol = settled()
    world.person(DAVE)
    invited = InvitedRecord(b"", world.now, 0)
    carol.commit(*carol.adding(DAVE))
    world.settle()
    carol.group.lifecycle.invited({BOB: invited})
    before = owed(carol)
    carol.events += carol.group.lifecycle.give_up("a gap")
    assert not owed(carol)  # outside, it can do nothing
    world.now += 100
    carol.ask()
    world.settle()
    bob.commit()
    world.settle()
    assert world.agree()
    assert owed(carol) == before
    assert carol.group.post_commit_actions.invited == {BOB: invited}


def test_who_was_removed_and_is_added_later_begins_anew() -> None:
    world, alice, _, carol = settled()
    world.person(DAVE)
    carol.commit(*carol.adding(DAVE))
    world.settle()
    alice.commit(*alice.removing(CAROL))
    world.settle()
    alice.commit(*alice.adding(CAROL))
    world.settle()
    carol.group.lifecycle.want_in()
    carol.read()
    assert carol.group.is_member
    assert not owed(carol)
