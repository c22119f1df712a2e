"""Requests to be added that are answered late, or beside what their sender can follow (mls-recovery, "Rejoining")."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.client import GroupLost, KeyPackageSettings, RemovedFromGroup
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.mls.structures.framing import PublicMessage
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal
from slixmpp_mls.policy import ExternalJoins
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.consistency import check as check_consistency
from slixmpp_mls.testing import Participant, World

from . import test_reinit
from .people import ALICE, BOB, CAROL, again, closed_policy, state_of, three
from .test_certainty import ask, hear


def asked_for(request: elements.Proposal) -> Add:
    body = check_consistency(request).body
    assert isinstance(body, PublicMessage)
    assert isinstance(body.content.content, Add)
    return body.content.content


def lose(person: Participant) -> None:
    person.events += person.group.lifecycle.give_up("a gap")


def commit_with_tree_elsewhere(person: Participant, proposals: list[AnyProposal]) -> None:
    """The tree cannot be fetched."""
    world = person.world
    draft = person.group.sending.draft_commit(proposals, world.now)
    place = world.upload(draft.tree.encode())
    person.post(person.group.sending.finish_commit(draft, tree_at=place))
    del world.web[place]


@pytest.mark.parametrize("requested", [False, True], ids=["from the directory", "in a request"])
def test_who_is_added_afresh_by_a_welcome_that_it_cannot_follow_comes_back(requested: bool) -> None:
    """It is lost, and not out.  The return key of the KeyPackage, used or not, proves that the leaf is its own."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    lose(carol)
    world.now += 100
    (request,) = carol.ask()
    world.room.lose()
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.settle()
    assert carol.group.is_member
    payload = request.payloads[0]
    assert isinstance(payload, elements.Proposal)
    added = [asked_for(payload)] if requested else again(alice, carol)
    commit_with_tree_elsewhere(alice, [*alice.removing(CAROL), *added])
    world.settle()
    assert state_of(carol) is MembershipState.LOST
    assert not carol.said(RemovedFromGroup)
    world.now += 100
    carol.ask()
    world.settle()
    bob.commit()  # who may do nothing but what a key proves
    world.settle()
    assert world.agree()


def test_a_removal_is_one_although_its_welcome_is_for_others() -> None:
    world, alice, _, carol = three()
    world.person("dave@d.example")
    commit_with_tree_elsewhere(alice, [*alice.removing(CAROL), *alice.adding("dave@d.example")])
    world.settle()
    assert state_of(carol) is MembershipState.OUT
    assert not carol.said(GroupLost)


def test_a_request_in_the_group_before_a_reinit_keeps_nobody_from_asking() -> None:
    """ "Once in an epoch" is about one group; and what is sent again is not for another one."""
    world, (alice, bob, carol) = test_reinit.world_of(ALICE, BOB, CAROL)
    lose(carol)
    world.now += 100
    carol.ask()
    crossing = world.room.in_flight.pop()
    test_reinit.ask(alice)
    world.room.deliver_all()
    world.room.in_flight.append(crossing)
    world.settle()
    test_reinit.go_on(bob)
    world.settle()
    seen = carol.group.room_state.outside
    assert (seen.group_id, seen.epoch) == (bob.group.mls.group_id, 1)
    assert not list(carol.group.join_requests.unconfirmed())
    world.now += DAY
    assert {payload.group for each in carol.ask() for payload in each.payloads} == {seen.group_id}


def test_a_request_for_the_group_of_an_earlier_invitation_keeps_nobody_from_asking() -> None:
    world = World()
    carol = world.person(CAROL)
    carol.group.lifecycle.expect_welcome(None, b"the first group")
    carol.ask()
    world.now += DAY
    carol.group.lifecycle.expect_welcome(None, b"the first group")
    assert carol.group.join_requests.asking_at(world.now) is None
    carol.group.lifecycle.expect_welcome(None, b"the second group")
    (request,) = carol.ask()
    assert request.payloads[0].group == b"the second group"


def test_a_request_that_is_answered_while_its_sender_looks_for_the_group_again_proves_the_next_one() -> None:
    policy = replace(closed_policy(World()), external_joins=ExternalJoins.NEVER)
    world, alice, bob, carol = three(policy=policy)
    world.room.split([CAROL])
    alice.commit()
    world.room.deliver(to=0)
    alice.read()
    bob.read()
    hear(carol, *ask(carol, bob))
    assert carol.group.returning
    world.now += 100
    carol.ask()
    world.settle()
    carol.group.certainty.forget_proving_info()  # as it does when nobody has answered for a while
    bob.commit()
    world.settle()
    assert not world.agree()
    hear(carol, *ask(carol, bob))
    world.now += 100
    carol.ask()
    world.settle()
    bob.commit()
    world.settle()
    assert world.agree()


@pytest.mark.parametrize("answered", [False, True])
def test_requests_of_a_suite_that_is_not_there_any_more(answered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another OpenSSL is beneath since a restart."""
    world = World(settings=KeyPackageSettings(suites=(1, 2), count=1))
    alice, _ = world.group(ALICE, BOB)
    carol = world.person(CAROL)
    carol.group.lifecycle.expect_welcome(None, alice.group.mls.group_id)
    carol.read()
    world.now += 100
    assert len(carol.ask()) == 2
    world.room.in_flight.clear()
    if answered:
        alice.commit(*alice.adding(CAROL))
    world.room.deliver_all()
    alice.read()
    get, is_supported = CipherSuite.get, CipherSuite.is_supported

    def get_other(number: int) -> CipherSuite:
        if number == 2:
            raise InvalidError("not supported", "says the test")
        return get(number)

    monkeypatch.setattr(CipherSuite, "get", get_other)
    monkeypatch.setattr(CipherSuite, "is_supported", lambda number: number != 2 and is_supported(number))
    world.settings = KeyPackageSettings(suites=(1,), count=1)
    carol.restart()
    carol.read()
    if answered:
        assert carol.group.is_member
        return
    alice.commit()
    world.room.deliver_all()
    carol.read()
    world.now += 5000
    assert len(carol.ask()) == 1
