"""Proposals that wait, and must not be committed, or not by us."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import CommitLost, Doubt, Doubts, JoinRequested, Rejected
from slixmpp_mls.client.group import committable_proposals, sending
from slixmpp_mls.client.group.actions import Outgoing
from slixmpp_mls.client.storage.records import MembershipState, OutboxKind
from slixmpp_mls.errors import (
    InvalidError,
    NotPermitted,
    NotVouchedFor,
    PolicyViolation,
)
from slixmpp_mls.mls.group.group import external_proposal
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.structures.framing import NewMemberProposalSender
from slixmpp_mls.mls.structures.proposals import Add, GroupContextExtensions, PreSharedKey, Remove
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.policy.check import judge
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import NOW, Participant, World, commit_against_policy
from tests.client.people import state_of

from .people import ALICE, BOB, CAROL, DAVE, closed_policy, only, three

# --- proposals that must not be committed --------------------------------------------------------


def smuggle(person: Participant, *proposals: Any) -> None:
    """Proposals by a member whose software asks nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "is_permitted", lambda *arguments: True)
        for proposal in proposals:
            person.propose(proposal)


def test_a_proposal_that_the_policy_forbids_is_not_made() -> None:
    world, _, bob, carol = three(policy=closed_policy(World()))
    before = bob.group.mls
    with pytest.raises(NotPermitted):
        bob.group.sending.propose(Remove(carol.group.mls.own_index), NOW)
    with pytest.raises(NotPermitted):
        bob.group.sending.commit(bob.removing(CAROL), NOW)
    assert bob.group.mls is before
    assert world.room.in_flight == []


def test_a_proposal_that_the_policy_forbids_keeps_nobody_from_committing_and_talking() -> None:
    world, alice, bob, carol = three(policy=closed_policy(World()))
    smuggle(bob, Remove(carol.group.mls.own_index))
    world.settle()
    assert not any(person.group.sending.needs_commit for person in (alice, carol))
    carol.restart()
    carol.send(b"spoken")
    carol.commit()
    world.settle()
    assert alice.texts == [b"spoken"]
    assert world.agree()
    assert (carol.epoch, len(alice.group.roster)) == (2, 3)
    assert not any(person.said(Rejected) for person in world.people)


def test_a_psk_that_later_members_lack_shuts_nobody_out() -> None:
    """mls-policy, "Policy Checks", "a PSK": by a member's Commit, or by its proposal and an administrator's Commit."""
    world, alice, _, carol = three(policy=closed_policy(World()))
    dave = world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    alice.commit()
    world.settle()

    def psk() -> PreSharedKey:
        name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, carol.group.mls.group_id, 1)
        return PreSharedKey(PreSharedKeyID(name, world.random(32)))

    with pytest.raises(NotPermitted):
        carol.group.sending.commit([psk()], NOW)
    carol.post(commit_against_policy(carol.group, [psk()], NOW))
    world.settle()
    for person in (alice, dave):  # dave lacks the PSK, and needs no more than the policy to refuse the Commit
        (refused,) = person.said(Rejected)
        assert isinstance(refused.error, PolicyViolation)
        assert refused.error.rule == "psk"
    assert not dave.group.certainty.reasons
    smuggle(carol, psk())
    world.settle()
    assert not any(person.group.sending.needs_commit for person in (alice, dave))
    alice.commit()
    world.settle()
    alice.send(b"for all")
    world.settle()
    assert dave.texts == [b"for all"]
    assert world.agree()
    # An administrator with the right to remove may: its Commit would shut dave out, and does so for all to see.
    assert alice.group.sending.commit([psk()], NOW)


def test_a_forbidden_proposal_does_not_take_the_place_of_an_allowed_one() -> None:
    """RFC 9420 12.2: a list holds one Remove of a leaf, and one GroupContextExtensions."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    open_to_all = world.open_policy(ALICE)
    extensions = open_to_all.replaced_in(alice.group.mls.context.extensions)
    alice.propose(GroupContextExtensions(extensions))
    alice.propose(Remove(carol.group.mls.own_index))
    closed = RoomPolicy(world.room.jid, (BOB,)).replaced_in(alice.group.mls.context.extensions)
    smuggle(bob, GroupContextExtensions(closed))
    smuggle(bob, Remove(carol.group.mls.own_index))
    world.settle()
    alice.commit()
    world.settle()
    assert state_of(carol) is MembershipState.OUT
    # The removal has changed the list of removed clients, and a Commit changes the extensions once: in the next one.
    assert alice.group.policy == closed_policy(world)
    alice.propose(GroupContextExtensions(open_to_all.replaced_in(alice.group.mls.context.extensions)))
    world.settle()
    alice.commit()
    world.settle()
    assert alice.group.policy == open_to_all
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
    smuggle(bob, Add(next(iter(world.directory.find(DAVE, bob.group, NOW).values())).key_package))
    world.settle()
    carol.commit()
    world.settle()
    assert len(carol.group.roster) == 4
    assert not carol.group.sending.needs_commit
    assert not any(person.said(Rejected) for person in (alice, bob, carol))


def test_a_strangers_wish_is_reported_and_silences_nobody() -> None:
    """RFC 9420 12.1.8: a new member asks for itself.  Whom the room lets in does not get into the group by that."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    dave = world.person(DAVE)
    package = next(iter(world.directory.find(DAVE, alice.group, NOW).values())).key_package
    group = alice.group.mls
    key = dave.device.signature_key(group.suite)
    message = external_proposal(group.public, NewMemberProposalSender(), Add(package), key)
    world.room.post([elements.Proposal(group.group_id, group.epoch, message)], DAVE)
    world.settle()
    assert not any(person.group.sending.needs_commit for person in (alice, bob, carol))
    request = only(alice.events, JoinRequested)
    assert (request.account, request.device, request.reason) == (DAVE, dave.device.identity.device, "stranger")
    bob.send(b"not silenced")
    alice.commit()
    world.settle()
    assert alice.texts == [b"not silenced"]
    assert state_of(dave) is MembershipState.INVITED
    alice.commit(*alice.adding(DAVE))  # as the application says that it may
    world.settle()
    assert state_of(dave) is MembershipState.MEMBER
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
    assert (bob.group.sending.needs_commit, carol.group.sending.needs_commit) == (False, True)
    bob.send(b"not silenced")
    bob.judge = lambda leaf: None  # by now it has heard
    carol.commit()
    world.settle()
    assert world.agree()
    assert len(bob.group.roster) == 4
    with bob.store.transaction() as transaction:
        assert not any(transaction.items(f"unwanted/{world.room.jid}"))


def test_nothing_is_encrypted_for_who_is_denied_and_the_group_stays_one() -> None:
    """RFC 9420 5.3.1, RFC 9750 6.5: the Commit is everybody's, what is done about the leaf each member's."""
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    bob.group.sending.compose(b"made before, and lost on its way")
    bob.judge = lambda leaf: InvalidError("never heard of")
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert world.agree()
    (doubt,) = bob.group.members.doubts.silencing
    assert doubt.client == dave.device.identity
    with pytest.raises(NotVouchedFor) as caught:
        bob.group.sending.compose(b"to dave, too")
    assert caught.value.clients == (str(dave.device.identity),)
    assert bob.resend() == []  # it would be encrypted anew, and for dave
    alice.send(b"others may")
    world.settle()
    assert bob.texts == [b"others may"]
    bob.commit(*bob.removing(DAVE))
    world.settle()
    assert not bob.group.members.doubts
    bob.resend()
    bob.send(b"among ourselves")
    world.settle()
    assert alice.texts == [b"made before, and lost on its way", b"among ourselves"]
    assert dave.texts == [b"others may"]


def test_doubts_survive_a_restart_and_end_with_an_answer() -> None:
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    who = dave.device.identity
    bob.judge = lambda leaf: InvalidError("never heard of")
    alice.commit(*alice.adding(DAVE))
    world.settle()
    bob.restart()
    assert bob.group.sending.silenced
    bob.group.members.reconsider([who], [Doubt(who, False, "unreachable", "", NOW + 9)])
    assert bob.group.sending.silenced  # who cannot tell takes nothing back
    bob.group.members.reconsider([who], [])
    assert not bob.group.sending.silenced
    bob.restart()
    assert not bob.group.members.doubts


def test_a_device_vouched_for_silences_nobody_when_that_ends() -> None:
    world, alice, bob, carol = three()
    who = carol.device.identity
    bob.group.members.reconsider([who], [Doubt(who, True, "no-device", "retired", NOW + 5)])
    doubt = bob.group.members.doubts[who]
    assert doubt.lapsed
    assert not doubt.silences
    bob.send(b"talk goes on")
    bob.group.members.reconsider([who], [Doubt(who, True, "other-key", "", NOW + 90)])
    assert bob.group.members.doubts[who].since == NOW + 5  # denied ever since
    world.settle()
    assert alice.texts == carol.texts == [b"talk goes on"]


def test_a_device_that_our_own_people_refuse_has_not_lapsed() -> None:
    who = World().person(DAVE).device.identity
    lapsed = Doubts().reconsidered([who], [Doubt(who, True, "no-device", "", NOW)])
    assert not lapsed.silencing
    for before in (Doubts(), lapsed):
        assert before.reconsidered([who], [Doubt(who, True, "refused", "", NOW + 1)]).silencing


def test_a_device_never_vouched_for_does_not_lapse() -> None:
    """A service that could not tell when the leaf came, and denies it now, has never vouched for it."""
    who = World().person(DAVE).device.identity
    before = Doubts([Doubt(who, False, "unreachable", "", NOW)])
    after = before.reconsidered([who], [Doubt(who, True, "no-device", "", NOW + 1)])
    assert not after[who].lapsed
    assert after[who].since == NOW + 1
    assert after.silencing


def test_a_commit_that_the_policy_forbids_is_ignored_by_all() -> None:
    """Whoever has made it, with software that does not ask, can go on."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    bob.post(commit_against_policy(bob.group, [Remove(carol.group.mls.own_index)], NOW))
    world.settle()
    for person in (alice, carol):
        assert isinstance(only(person.events, Rejected).error, PolicyViolation)
    assert "remove" in only(bob.events, CommitLost).reason
    assert {person.epoch for person in world.people} == {1}
    bob.restart()
    bob.commit()
    world.settle()
    assert world.agree()
    assert {person.epoch for person in world.people} == {2}


def test_a_storm_of_proposals_costs_work_in_proportion_to_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 proposals that nobody may commit: 16 are kept, and what to commit is judged when that changes, not else."""
    world = World()
    alice, mallory = world.group("alice@a.example", "mallory@m.example")
    group = mallory.group.mls
    limits = Parameters(proposal_limit=5000, member_proposal_limit=5000)
    storm = replace(group, parameters=limits)
    for number in range(300):
        psk = PreSharedKey(PreSharedKeyID(ExternalPSK(b"%d" % number), bytes(32)))
        message, storm = storm.propose(psk, now=world.now)
        payloads = (elements.Proposal(group.group_id, group.epoch, message),)
        world.room.post(Outgoing(f"storm-{number}", OutboxKind.PROPOSAL, payloads), mallory.account)
    judged = 0

    def counting(*arguments: Any) -> Any:
        nonlocal judged
        judged += 1
        return judge(*arguments)

    monkeypatch.setattr(committable_proposals, "judge", counting)
    world.room.deliver_all()
    alice.read()
    assert len(alice.group.mls.pending_proposals) == alice.group.mls.parameters.member_proposal_limit == 16
    assert not alice.group.sending.needs_commit
    after_reading = judged
    assert after_reading < 300
    for number in range(50):
        assert not alice.group.sending.needs_commit
        alice.group.sending.compose(b"%d" % number)
    assert judged == after_reading  # nothing has changed since


def test_the_reflection_of_our_own_proposal_gives_it_its_place() -> None:
    """RFC 9420 12.4: what counts towards the limits is what the room has shown, to us as to all others."""
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    for person in (alice, bob):  # neither has seen the other's
        person.propose(PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(32))))
        person.restart()
        assert len(person.group.mls.unshown) == 1
    world.room.deliver_all()
    for person in (alice, bob):
        person.read()
        assert not person.group.mls.unshown
        person.restart()
        assert not person.group.mls.unshown
    orders = [person.group.mls.public.proposal_order for person in (alice, bob)]
    assert orders[0] == orders[1]
    assert len(orders[0]) == 2
