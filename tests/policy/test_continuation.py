"""Which key proves a leaf of the group that follows by a ReInit (RFC 9420 11.2; mls-operations, "Which Keys").

Alice is the administrator, bob and carol are members.  The closed group has keys of Ed25519, and the new leaves have
keys of ECDSA, unless they keep their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from slixmpp_mls.errors import MalformedError, PolicyViolation
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.leaf_node import CommitSource, KeyPackageSource, LeafNode, Lifetime
from slixmpp_mls.policy import (
    DeviceVoucher,
    DeviceVouchers,
    ExternalJoins,
    Newcomer,
    Right,
    RoomPolicy,
    vouch,
    vouch_for_own_key,
    vouches_for_own_key,
)
from slixmpp_mls.policy.continuation import check_continuation

from .people import FREE, SUITE, Client, Group, with_content, without

OTHER = CipherSuite.get(2)
ALICE, BOB, BOB2, CAROL, ERIN = map(Client, ("alice@x/1", "bob@x/1", "bob@x/2", "carol@x/1", "erin@x/1"))
PEOPLE = (ALICE, BOB, BOB2, CAROL)
A, B, B2, C = range(4)
POLICY = RoomPolicy("coven@rooms.x", ("alice@x",))
ROOM = Group(POLICY, {index: client.leaf() for index, client in enumerate(PEOPLE)})
LIFETIME = Lifetime(1000, 2000)


def new_key(client: Client) -> SignaturePrivateKey:
    """A client's key of the other scheme."""
    name = f"ecdsa {client.key or client.name}".encode()
    return OTHER.generate_signature_key(lambda size: hashlib.shake_256(name).digest(size))


def own_voucher(client: Client, by: Client | None = None, lifetime: Lifetime = LIFETIME) -> DeviceVoucher:
    key = (by or client).signature_key
    return vouch_for_own_key(SUITE, key, client.identity, new_key(client).public, lifetime)


def bare(client: Client) -> LeafNode:
    """The leaf of a KeyPackage for the other suite, without a proof."""
    leaf = without(client.leaf(), DeviceVouchers)
    return replace(leaf, signature_key=new_key(client).public, source=KeyPackageSource(LIFETIME))


def proven(client: Client, *vouchers: DeviceVoucher) -> LeafNode:
    return with_content(bare(client), DeviceVouchers(vouchers or (own_voucher(client),)))


def follows(leaves: dict[int, LeafNode], maker: Client, closed: Group = ROOM) -> bool:
    """Whether members follow a creation; `leaves` are those in the place of proven ones."""
    all_leaves = {index: proven(client) for index, client in enumerate(PEOPLE)} | leaves
    try:
        check_continuation(closed.view, all_leaves.values(), maker.identity)
    except PolicyViolation:
        return False
    return True


@pytest.mark.parametrize("maker", PEOPLE)
def test_proven_leaves_are_followed_whoever_makes_the_group(maker: Client) -> None:
    assert follows({}, maker)
    same = {index: client.leaf() for index, client in enumerate(PEOPLE)}
    assert follows(same, maker)  # under the same scheme nobody needs a voucher


MALLORY = Client("bob@x/1", key="mallory's")
OF_ANOTHER_DEVICE = vouch(SUITE, BOB2.signature_key, BOB2.identity, BOB.identity, new_key(BOB).public, LIFETIME)
MOVED = replace(own_voucher(BOB), lifetime=Lifetime(0, 2**40))


@pytest.mark.parametrize(
    "leaf",
    [
        bare(BOB),
        Client("bob@x/1", key="new").leaf(),
        proven(MALLORY),
        proven(MALLORY, own_voucher(BOB)),
        proven(BOB, own_voucher(BOB, by=CAROL)),
        proven(BOB, own_voucher(CAROL)),
        proven(BOB, own_voucher(BOB2)),
        proven(BOB, OF_ANOTHER_DEVICE),
        proven(BOB, own_voucher(BOB, lifetime=Lifetime(1000, 1999))),
        proven(BOB, own_voucher(BOB, lifetime=Lifetime(1001, 2000))),
        proven(BOB, own_voucher(BOB, lifetime=Lifetime(0, 999))),
        proven(BOB, MOVED),
        with_content(proven(BOB), Newcomer()),
    ],
    ids=[
        "no-voucher", "another-key-of-the-scheme", "of-a-key-that-is-not-in-the-group", "for-another-key",
        "signed-by-another", "of-another-account", "for-another-device", "by-another-device-of-the-account",
        "ends-too-early", "begins-too-late", "expired", "with-another-lifetime-than-signed", "a-newcomer-now",
    ],
)  # fmt: skip
def test_a_leaf_that_its_former_key_does_not_prove(leaf: LeafNode) -> None:
    """Only an administrator with may_add makes a group with it: it could replace the leaf by an Add."""
    for maker in (CAROL, BOB2):
        assert not follows({B: leaf}, maker)
        assert not follows({B: leaf}, maker, ROOM.with_policy(may_add=Right.MEMBERS))
    assert follows({B: leaf}, ALICE)
    assert not follows({B: leaf}, ALICE, ROOM.with_policy(may_add=Right.NOBODY))


def test_nobody_makes_it_in_the_administrators_name() -> None:
    false = Client("alice@x/1", key="mallory's")
    for leaf in (bare(ALICE), false.leaf(), proven(false), proven(false, own_voucher(ALICE)), bare(false)):
        assert not follows({A: leaf}, ALICE)
        assert not follows({A: leaf}, CAROL)


def test_a_newcomer_does_not_become_a_member_by_the_way() -> None:
    """KeyPackages have no mark of a newcomer, so an administrator makes the group, and confirms it by that."""
    closed = ROOM.with_policy(external_joins=ExternalJoins.ANYBODY).with_leaves({FREE: ERIN.leaf(0, Newcomer())})
    for leaf in (proven(ERIN), ERIN.leaf()):
        assert not follows({FREE: leaf}, CAROL, closed)
        assert not follows({FREE: leaf}, ERIN, closed)
        assert follows({FREE: leaf}, ALICE, closed)
    assert follows({FREE: with_content(proven(ERIN), Newcomer())}, CAROL, closed)


def test_who_is_not_in_the_closed_group_makes_nothing() -> None:
    assert not follows({FREE: proven(ERIN)}, ERIN)
    assert not follows({FREE: proven(ERIN)}, CAROL)


def test_a_leaf_of_a_path_has_no_lifetime() -> None:
    leaf = replace(proven(BOB), source=CommitSource(b""))
    assert follows({B: leaf}, BOB)


def test_one_of_several_vouchers_is_enough() -> None:
    good = own_voucher(BOB)
    assert follows({B: proven(BOB, OF_ANOTHER_DEVICE, MOVED, good)}, CAROL)
    assert not vouches_for_own_key(SUITE, CAROL.signature_key.public, proven(BOB, good))


def test_vouchers_that_cannot_be_parsed_are_refused_alike() -> None:
    broken = replace(bare(BOB), extensions=(Extension(DeviceVouchers.TYPE, b"\x05abc"),))
    with pytest.raises(MalformedError):
        follows({B: broken}, CAROL)
