"""continuations.json: which leaves of a group that follows by a ReInit the keys of the closed group prove."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from policy_vectors import (
    ALICE,
    BOB,
    CAROL,
    GROUP,
    GROUP_ID,
    LEAVES,
    POLICY,
    SUITE,
    leaf_of,
    randomness,
    signature_key,
    view_of,
)

from slixmpp_mls.errors import PeerError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from slixmpp_mls.mls.structures.leaf_node import KeyPackageSource, LeafNode, Lifetime
from slixmpp_mls.policy import DeviceVoucher, DeviceVouchers, Newcomer, RemovedClients, vouch_for_own_key
from slixmpp_mls.policy.continuation import check_continuation

__all__ = ["ALLOWED", "continuations"]

NEW = CipherSuite.get(2)
LIFETIME = Lifetime(1790970000, 1793389200)


def new_key(owner: str) -> SignaturePrivateKey:
    return NEW.generate_signature_key(randomness(f"signature key of {owner} in suite 2"))


def voucher(name: str, *, by: str = "", key: str = "", lifetime: Lifetime = LIFETIME) -> DeviceVoucher:
    """A device's own voucher.

    :param by: whose key signs it, if not the device's
    :param key: whose key it is for, if not the device's
    """
    client = ClientIdentity(*name.split("/"))
    return vouch_for_own_key(SUITE, signature_key(by or name), client, new_key(key or name).public, lifetime)


def bare(name: str, key: str = "") -> LeafNode:
    """The leaf of a KeyPackage for the new suite, without a signature and without a proof."""
    leaf = leaf_of(name, 1, key=key)
    return replace(leaf, signature_key=new_key(key or name).public, source=KeyPackageSource(LIFETIME))


def proven(name: str, *vouchers: DeviceVoucher, key: str = "") -> LeafNode:
    leaf = bare(name, key)
    content = DeviceVouchers(vouchers or (voucher(name),)).extension()
    return replace(leaf, extensions=(*leaf.extensions, content))


def _cases() -> Iterator[tuple[str, bool, int, dict[int, LeafNode]]]:
    bob = GROUP[BOB]
    yield "all leaves have vouchers, a member makes the group", True, CAROL, {}
    yield "all leaves have vouchers, the administrator makes the group", True, ALICE, {}
    kept = {index: leaf_of(name, 1) for index, name in enumerate(GROUP)}
    yield "all clients keep their keys, a member makes the group", True, CAROL, kept
    yield "no voucher, a member makes the group", False, CAROL, {BOB: bare(bob)}
    yield "no voucher, the administrator makes the group", True, ALICE, {BOB: bare(bob)}
    yield "no voucher of the administrator that makes the group", False, ALICE, {ALICE: bare(GROUP[ALICE])}
    false = proven(GROUP[ALICE], voucher(GROUP[ALICE], by="mallory", key="mallory"), key="mallory")
    yield "another key in the administrator's name, a member makes the group", False, CAROL, {ALICE: false}
    yield "another key in the administrator's name makes the group", False, ALICE, {ALICE: false}
    moved = proven(bob, voucher(bob), key="mallory")
    yield "the voucher is for another key", False, CAROL, {BOB: moved}
    yield "signed by another member", False, CAROL, {BOB: proven(bob, voucher(bob, by=GROUP[CAROL]))}
    early = Lifetime(LIFETIME.not_before, LIFETIME.not_after - 1)
    yield "the voucher ends before the KeyPackage", False, CAROL, {BOB: proven(bob, voucher(bob, lifetime=early))}
    late = Lifetime(LIFETIME.not_before + 1, LIFETIME.not_after)
    yield "the voucher begins after the KeyPackage", False, CAROL, {BOB: proven(bob, voucher(bob, lifetime=late))}
    wide = Lifetime(0, 2**40)
    yield (
        "the voucher is valid longer than the KeyPackage",
        True,
        CAROL,
        {BOB: proven(bob, voucher(bob, lifetime=wide))},
    )
    marked = proven(bob)
    marked = replace(marked, extensions=(*marked.extensions, Newcomer().extension()))
    yield "a member becomes a newcomer, a member makes the group", False, CAROL, {BOB: marked}


ALLOWED = {name: allowed for name, allowed, *_ in _cases()}


def _followed(leaves: Sequence[LeafNode], maker: int) -> bool:
    view = view_of(POLICY, LEAVES, RemovedClients())
    try:
        check_continuation(view, leaves, ClientIdentity(*GROUP[maker].split("/")))
    except PeerError:
        return False
    return True


def continuations() -> dict[str, Any]:
    usual = {index: proven(name) for index, name in enumerate(GROUP)}
    cases = []
    for name, _, maker, leaves in _cases():
        after = [leaf for _, leaf in sorted((usual | leaves).items())]
        cases.append(
            {
                "name": name,
                "maker": GROUP[maker],
                "leaves": [leaf.encode().hex() for leaf in after],
                "followed": _followed(after, maker),
            }
        )
    return {
        "cipher_suite": SUITE.id,
        "group_id": GROUP_ID.hex(),
        "policy": POLICY.encode().hex(),
        "leaves": [leaf.encode().hex() for leaf in LEAVES],
        "new_cipher_suite": NEW.id,
        "cases": cases,
    }
