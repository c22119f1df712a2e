"""What is of version 0.1 (xep/mls.xml, "Version 0.1"): groups, KeyPackages and requests are refused by that name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.client import Incoming, Joined, JoinRequested, Rejected, open_key_package
from slixmpp_mls.errors import ProtocolTooOld
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group, external_proposal
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import MLSMessage, NewMemberProposalSender
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, as_it_is, create_key_package
from slixmpp_mls.mls.tree.leaf_validation import GroupRequirements
from slixmpp_mls.policy import (
    RemovedClients,
    RoomPolicy,
    group_extensions,
    is_group_of_0_1,
    is_leaf_of_0_1,
    refuse_group_of_0_1,
    refuse_leaf_of_0_1,
)
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.code_points import DEVICE_VOUCHERS, NEWCOMER, REMOVED_CLIENTS, RETURN_KEY, RETURN_PROOF
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, only

SUITE = CipherSuite.get(1)
NEW_TYPES = (REMOVED_CLIENTS, RETURN_KEY, RETURN_PROOF, DEVICE_VOUCHERS, NEWCOMER)


def old_package(person: Participant) -> KeyPackageBundle:
    """A KeyPackage as version 0.1 made it: without the extensions of this version."""
    own, now = person.device.own_leaf(SUITE), person.world.now
    listed = tuple(number for number in own.capabilities.extensions if number not in NEW_TYPES)
    old = replace(own, capabilities=replace(own.capabilities, extensions=listed), complete=as_it_is)
    return create_key_package(SUITE, old, Lifetime(now - 3600, now + 86400))


def test_a_group_is_told_by_its_lack_of_the_list() -> None:
    policy = RoomPolicy("coven@rooms.example", (ALICE,))
    assert is_group_of_0_1((policy.extension(),))
    assert is_group_of_0_1((Extension(0xF000, b""), policy.extension()))
    assert not is_group_of_0_1(group_extensions(policy))
    assert not is_group_of_0_1((RemovedClients().extension(),))  # no group of ours at all
    refuse_group_of_0_1(group_extensions(policy))
    with pytest.raises(ProtocolTooOld, match=r"a group of version 0\.1") as refused:
        refuse_group_of_0_1((policy.extension(),))
    assert (refused.value.what, refused.value.version) == ("group", "0.1")


def test_a_key_package_is_refused_by_name_and_fits_only_its_own_groups() -> None:
    world = World()
    (alice,) = world.group(ALICE)
    bob = world.person(BOB)
    package = old_package(bob).key_package
    assert is_leaf_of_0_1(package.leaf_node)
    assert not is_leaf_of_0_1(alice.group.mls.own_leaf)
    refuse_leaf_of_0_1(alice.group.mls.own_leaf, "KeyPackage")
    rules, data = alice.device.leaf_rules(world.now), MLSMessage.wrap(package)
    with pytest.raises(ProtocolTooOld) as refused:
        open_key_package(data, BOB, GroupRequirements.of_context(alice.group.mls.context), rules)
    assert refused.value.what == "KeyPackage"
    old = GroupRequirements.of(SUITE, 1, (alice.group.policy.extension(),))
    assert open_key_package(data, BOB, old, rules).leaf == package.leaf_node


def test_a_request_is_refused_by_name() -> None:
    world = World()
    (alice,) = world.group(ALICE)
    made = old_package(world.person(BOB))
    group = alice.group.mls
    request = external_proposal(group.public, NewMemberProposalSender(), Add(made.key_package), made.signature_key)
    before = group.pieces()
    proposal = elements.Proposal(group.group_id, group.epoch, request)
    events = alice.take(Incoming("archive-1", (proposal,), BOB, "id-1", world.now))
    error = only(events, Rejected).error
    assert isinstance(error, ProtocolTooOld)
    assert error.what == "request"
    assert not [event for event in events if isinstance(event, JoinRequested)]
    # It is remembered, as all members remember the same Proposals; nobody commits it, and it silences nobody.
    assert len(alice.group.mls.pieces()) == len(before) + 1
    assert not alice.group.sending.needs_commit
    alice.send(b"What bloody man is that?")


@pytest.mark.parametrize("with_list", [False, True], ids=["of 0.1", "of 0.2"])
def test_a_welcome_to_a_group_of_it_is_refused(with_list: bool) -> None:
    world = World()
    (alice,) = world.group(ALICE)
    bob = world.person(BOB)
    policy = alice.group.policy
    extensions = group_extensions(policy) if with_list else (policy.extension(),)
    group = Group.create(alice.device.key_packages.make(SUITE, world.now), bytes(32), extensions=extensions)
    made = group.commit(alice.adding(BOB), now=world.now)
    assert made.welcome is not None
    payloads = (elements.Commit(group.group_id, 0, made.commit), elements.Welcome(group.group_id, 1, made.welcome))
    events = bob.take(Incoming("archive-1", payloads, ALICE, "id-1", world.now))
    if with_list:
        only(events, Joined)
    else:
        error = only(events, Rejected).error
        assert isinstance(error, ProtocolTooOld)
        assert error.what == "group"
    assert bob.group.is_member == with_list
