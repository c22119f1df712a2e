"""Completes our new leaves with proofs: a fresh return key in each leaf, and proofs of admission in an entering leaf.

A return key is derived from its leaf's private encryption key (:mod:`slixmpp_mls.policy.proofs`).  Therefore a group's
state contains it without an extra record, and it ends with the leaf.  When a group's state is deleted, the return keys
that our leaf in the tree may have are kept (:func:`return_keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ...mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from ...mls.group.group_state import MemberState
from ...mls.structures.extensions import ExtensionContent
from ...mls.structures.leaf_node import KeyPackageSource, LeafNode, Lifetime
from ...mls.tree.leaf_creation import Completion
from ...policy import (
    EXTENSION_TYPES,
    MAX_PROOFS,
    DeviceVoucher,
    DeviceVouchers,
    Newcomer,
    ReturnKey,
    ReturnProof,
    derive_return_key,
    prove_return,
)

__all__ = ["arriving", "of_key_package", "renewing", "return_keys"]


def renewing(suite: CipherSuite) -> Completion:
    """A completion that gives a renewed leaf its own return key and drops the proofs of an earlier admission.

    The Newcomer extension is kept, because only an Add may drop it.
    """

    def complete(leaf: LeafNode, key: HPKEPrivateKey) -> LeafNode:
        bare = _without(leaf, ReturnKey, ReturnProof, DeviceVouchers)
        return _listing(_with(bare, ReturnKey(derive_return_key(suite, key).public)))

    return complete


def of_key_package(suite: CipherSuite, vouchers: Callable[[Lifetime], Sequence[DeviceVoucher]]) -> Completion:
    """A completion for the leaf of a KeyPackage that others add.

    :param vouchers: makes our own vouchers for the leaf's signature key, by our keys of other schemes
    """
    fresh = renewing(suite)

    def complete(leaf: LeafNode, key: HPKEPrivateKey) -> LeafNode:
        leaf = fresh(leaf, key)
        assert isinstance(leaf.source, KeyPackageSource), "only the leaf of a KeyPackage is completed by this"
        made = vouchers(leaf.source.lifetime)
        return _with(leaf, DeviceVouchers(tuple(made))) if made else leaf

    return complete


def arriving(
    suite: CipherSuite,
    group_id: bytes,
    *,
    keys: Sequence[SignaturePrivateKey] = (),
    vouchers: Sequence[DeviceVoucher] = (),
    newcomer: bool = False,
) -> Completion:
    """A completion for a leaf that enters at its own client's request.

    :param keys: private return keys, of which one may be that of the replaced leaf
    :param vouchers: by our account's other devices
    :param newcomer: whether the leaf gets, or keeps, the Newcomer extension
    """
    fresh = renewing(suite)

    def complete(leaf: LeafNode, key: HPKEPrivateKey) -> LeafNode:
        leaf = fresh(leaf, key)
        if newcomer:
            leaf = _with(leaf, Newcomer())
        if vouchers:
            leaf = _with(leaf, DeviceVouchers(tuple(vouchers)))
        return _with(leaf, prove_return(suite, group_id, keys, leaf)) if keys else leaf

    return complete


def return_keys(group: MemberState[Any], waiting: Iterable[MemberState[Any]]) -> list[SignaturePrivateKey]:
    """The private return keys that our leaf in the tree may have by now, the likeliest first.

    :param waiting: states after Commits of ours whose reflection is still awaited
    """
    leaf_keys = [group.own_leaf_key, *(state.own_leaf_key for state in waiting)]
    leaf_keys += [update.leaf_key for update in group.updates.values()]
    found = {key.encode(): derive_return_key(group.suite, key) for key in leaf_keys}
    return list(found.values())[:MAX_PROOFS]


def _with(leaf: LeafNode, content: ExtensionContent) -> LeafNode:
    return replace(leaf, extensions=(*_without(leaf, type(content)).extensions, content.extension()))


def _without(leaf: LeafNode, *kinds: type[ExtensionContent]) -> LeafNode:
    types = {kind.TYPE for kind in kinds}
    return replace(leaf, extensions=tuple(entry for entry in leaf.extensions if entry.extension_type not in types))


def _listing(leaf: LeafNode) -> LeafNode:
    """A leaf whose capabilities list its extensions (RFC 9420 7.3); those of a leaf of version 0.1 lack our types."""
    listed = leaf.capabilities
    missing = tuple(number for number in EXTENSION_TYPES if number not in listed.extensions)
    return replace(leaf, capabilities=replace(listed, extensions=(*listed.extensions, *missing))) if missing else leaf
