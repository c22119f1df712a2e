"""What an account's server can bring in by its list alone (``key_packages/admission.py``; mls-policy, "Inviters")."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.key_packages.admission import Unvouched, admission
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.mls.structures.leaf_node import LeafNode, Lifetime
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import DeviceVouchers, RoomPolicy
from slixmpp_mls.stanza import Device, Key, Voucher
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import NOW, Participant, World

from ..client.people import ALICE, BOB, DAVE

SUITE = CipherSuite.get(1)


def leaf_of(person: Participant) -> LeafNode:
    return person.device.key_packages.make(SUITE, NOW).key_package.leaf_node


def listing(person: Participant, *by: Participant, lifetime: Lifetime | None = None) -> Device:
    """The account's entry of a device, with vouchers by others."""
    key = person.device.signature_key(SUITE).public
    made = (
        each.device.vouch_for(SUITE, person.device.identity, key, lifetime or Lifetime(NOW - HOUR, NOW + DAY))
        for each in by
    )
    return Device(
        person.device.identity.device,
        (Key(SUITE.signature_scheme, key),),
        vouchers=tuple(Voucher(SUITE.signature_scheme, voucher.encode()) for voucher in made),
    )


def judged(alice: Participant, person: Participant, listed: Device | None, *, named: bool = False) -> Unvouched | None:
    return admission(alice.group, person.device.identity, leaf_of(person), listed, NOW, named=named)


@pytest.fixture
def scene() -> tuple[World, Participant, Participant, Participant]:
    """Alice and bob's first device are in the group; bob's account lists another one."""
    world = World()
    alice, bob = world.group(ALICE, BOB)
    return world, alice, bob, world.person(BOB, MemoryStore(BOB))


def test_a_server_cannot_vouch_for_a_device_that_it_has_added(
    scene: tuple[World, Participant, Participant, Participant],
) -> None:
    _, alice, _, ghost = scene
    assert judged(alice, ghost, listing(ghost)) is Unvouched.NEW_DEVICE
    assert judged(alice, ghost, None) is Unvouched.NEW_DEVICE
    assert judged(alice, ghost, listing(ghost, ghost_of(ghost))) is Unvouched.NEW_DEVICE


def ghost_of(person: Participant) -> Participant:
    """A third device that the server has made up, which vouches for the second one."""
    return person.world.person(person.account, MemoryStore(person.account))


def test_a_device_in_the_group_vouches(scene: tuple[World, Participant, Participant, Participant]) -> None:
    _, alice, bob, fresh = scene
    assert judged(alice, fresh, listing(fresh, bob)) is None
    expired, later = Lifetime(NOW - DAY, NOW - 1), Lifetime(NOW + 1, NOW + DAY)
    for lifetime in (expired, later):
        assert judged(alice, fresh, listing(fresh, bob, lifetime=lifetime)) is Unvouched.NEW_DEVICE
    stranger = fresh.world.person(DAVE, MemoryStore(DAVE))
    voucher = listing(fresh, bob).vouchers
    assert judged(alice, fresh, replace(listing(stranger), vouchers=voucher)) is None  # the list is only its carrier
    another = ghost_of(fresh)
    assert (
        judged(alice, another, replace(listing(another), vouchers=voucher)) is Unvouched.NEW_DEVICE
    )  # for another device


def test_a_voucher_in_the_key_package(scene: tuple[World, Participant, Participant, Participant]) -> None:
    _, alice, bob, fresh = scene
    key = fresh.device.signature_key(SUITE).public
    voucher = bob.device.vouch_for(SUITE, fresh.device.identity, key, Lifetime(NOW - HOUR, NOW + DAY))
    leaf = leaf_of(fresh)
    carrying = replace(leaf, extensions=(*leaf.extensions, DeviceVouchers((voucher,)).extension()))
    assert admission(alice.group, fresh.device.identity, carrying, None, NOW, named=False) is None


def test_an_account_that_is_met_for_the_first_time_is_believed(
    scene: tuple[World, Participant, Participant, Participant],
) -> None:
    world, alice, _, _ = scene
    dave = world.person(DAVE, MemoryStore(DAVE))
    assert judged(alice, dave, listing(dave)) is Unvouched.FIRST_USE


def test_the_caller_that_names_the_device_decides(scene: tuple[World, Participant, Participant, Participant]) -> None:
    _, alice, bob, fresh = scene
    assert judged(alice, fresh, listing(fresh), named=True) is Unvouched.NAMED
    assert judged(alice, fresh, listing(fresh, bob), named=True) is None


def test_devices_of_our_own_account_are_the_settings_to_decide(
    scene: tuple[World, Participant, Participant, Participant],
) -> None:
    world, alice, _, _ = scene
    second = world.person(ALICE, MemoryStore(ALICE))
    assert judged(alice, second, listing(second)) is None


def test_a_removed_member_has_no_voucher() -> None:
    """Mls-policy, "Removed Clients": the voucher outlives the removal, and is void."""
    world = World()
    alice, bob, second = world.group(ALICE, BOB, BOB, policy=RoomPolicy(world.room.jid, (ALICE,)))
    leaf = alice.group.roster.leaf_of(second.device.identity)
    assert leaf is not None
    alice.commit(Remove(LeafIndex(leaf)))
    world.settle()
    assert judged(alice, second, listing(second, bob)) is Unvouched.NEW_DEVICE
    assert judged(alice, second, listing(second, bob), named=True) is Unvouched.NAMED


def test_a_garbled_voucher_is_none(scene: tuple[World, Participant, Participant, Participant]) -> None:
    _, alice, _, fresh = scene
    listed = replace(listing(fresh), vouchers=(Voucher(SUITE.signature_scheme, b"\x01garbage"),))
    assert judged(alice, fresh, listed) is Unvouched.NEW_DEVICE
