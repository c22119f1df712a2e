"""What the Authentication Service's verdicts lead to: unknown is not valid, and nobody's Commit is an exception."""

from __future__ import annotations

from dataclasses import replace

from slixmpp_mls.client import Doubt, GroupChanged, JoinRequested
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import InvalidError
from slixmpp_mls.policy import ExternalJoins
from slixmpp_mls.testing import NOW, World

from .people import ALICE, BOB, DAVE, only, state_of, three
from .test_external_commit import door_of


def test_a_newcomer_of_whom_nobody_can_tell_who_it_is_silences_until_there_is_an_answer() -> None:
    """XEP, Admission: it has let itself in, and a server that cannot be reached is no reason to believe it."""
    world = World()
    policy = replace(world.open_policy(ALICE), external_joins=ExternalJoins.ANYBODY)
    alice, bob = world.group(ALICE, BOB, policy=policy)
    world.settle()
    alice.commit()
    world.settle()
    dave = world.person(DAVE)
    bob.judge, bob.denies = lambda leaf: InvalidError("unreachable"), False
    dave.enter(door_of(world))
    world.settle()
    assert world.agree()
    who = dave.device.identity
    bob.restart()
    assert bob.group.sending.silenced
    assert not alice.group.sending.silenced  # she has been told that it is he
    bob.group.members.reconsider([who], [Doubt(who, False, "unreachable", "still", NOW + 9)])
    assert bob.group.sending.silenced
    bob.group.members.reconsider([who], [])
    assert not bob.group.sending.silenced
    # One that was known before and cannot be asked about now is not the same.
    bob.group.members.reconsider([who], [Doubt(who, False, "unreachable", "", NOW + 9)])
    assert not bob.group.sending.silenced


def test_an_unknown_device_added_by_a_member_silences_nobody() -> None:
    world, alice, bob, _ = three()
    world.person(DAVE)
    bob.judge, bob.denies = lambda leaf: InvalidError("unreachable"), False
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert [doubt.denied for doubt in bob.group.members.doubts.values()] == [False]
    assert not bob.group.sending.silenced


def test_a_request_of_whom_nobody_can_tell_who_it_is_is_not_committed_by_us() -> None:
    """Others to whom the Authentication Service has answered may; its voucher alone is the word of a device."""
    world, alice, bob, carol = three()
    tablet = world.person(BOB)
    alice.commit()
    world.settle()
    bob.vouch_for(tablet)
    carol.judge, carol.denies = lambda leaf: InvalidError("unreachable"), False
    tablet.ask()
    world.settle()
    assert not carol.group.sending.needs_commit
    assert only(carol.events, JoinRequested).reason == "unknown"
    alice.commit()
    world.settle()
    assert state_of(tablet) is MembershipState.MEMBER
    assert carol.group.sending.silenced
    assert not alice.group.sending.silenced
    assert world.agree()


def test_the_leaves_of_our_own_commits_are_judged_like_others() -> None:
    world, alice, _, _ = three()
    dave = world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    alice.judge = lambda leaf: InvalidError("retired a moment ago")
    world.settle()
    assert list(alice.group.members.doubts) == [dave.device.identity]
    assert alice.group.sending.silenced


def test_the_commits_of_a_denied_member_are_followed_and_reported_as_such() -> None:
    world, alice, bob, carol = three()
    who = carol.device.identity
    bob.group.members.reconsider([who], [Doubt(who, True, "no-device", "retired", NOW)])
    carol.commit()
    world.settle()
    assert world.agree()
    doubt = bob.said(GroupChanged)[-1].doubt
    assert doubt is not None
    assert (doubt.client, doubt.denied, doubt.reason) == (who, True, "no-device")
    assert alice.said(GroupChanged)[-1].doubt is None
