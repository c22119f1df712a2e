"""Groups of any size, made quickly: what a benchmark starts from.

A *sparse* group is one that its creator has just filled with one Commit: nobody else has
committed, its parent nodes are blank.  A *full* one has keys in every parent node, as after a long
life in which everybody has committed; it is built directly from renewed paths,
one for each leaf, which is what such a life leaves behind.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from immutables import Map

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from slixmpp_mls.mls.group.commit_creation import CommitDraft
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.group_state import PublicState
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.schedule.key_schedule import epoch_from_secret
from slixmpp_mls.mls.schedule.secret_tree import SecretTree
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.leaf_node import LeafNode, Lifetime
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.mls.structures.welcome import Welcome
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, OwnLeaf, capabilities, create_key_package
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex, direct_path, node_of
from slixmpp_mls.mls.tree.treekem import TreeKEMPrivate, renew_path

__all__ = ["AT_ONCE", "NOW", "Sparse", "bundle", "full_group", "message", "sparse_group"]

NOW = 1_800_000_000
AT_ONCE = 4000
"""Adds in one Commit, which has a limit."""
_GROUP_ID = b"benchmark" + bytes(23)


def bundle(suite: CipherSuite, number: int, supported: tuple[int, ...] = ()) -> KeyPackageBundle:
    """A KeyPackage of somebody who supports these extensions."""
    own = OwnLeaf(
        BasicCredential(f"member{number}@bench.example/{number:016x}".encode()),
        suite.generate_signature_key(),
        capabilities(extensions=supported, random=None),
    )
    return create_key_package(suite, own, Lifetime(NOW - 3600, NOW + 86400))


@dataclass
class Sparse:
    """A group that one Commit has filled."""

    creator: Group
    commit: bytes
    welcome: bytes
    bundles: list[KeyPackageBundle]
    before: Group
    draft: CommitDraft

    def welcome_without_tree(self) -> bytes:
        """The same Welcome, with a place to fetch the ratchet tree from in its stead."""
        made = self.before.finish_commit(self.draft, instead_of_tree=Extension(0xF100, bytes(100)))
        assert made.welcome is not None
        return made.welcome

    def join(self, number: int) -> Group:
        """The group as its `number`-th joiner sees it."""
        welcome = message(self.welcome)
        assert isinstance(welcome, Welcome)
        state = Group.join(welcome, self.bundles[number]).state
        assert isinstance(state, Group)
        return state


def message(octets: bytes) -> object:
    """The body of an MLSMessage."""
    return MLSMessage.decode(octets).body


def sparse_group(suite: CipherSuite, size: int, bundles: list[KeyPackageBundle] | None = None) -> Sparse:
    """A creator and `size` - 1 members whom it has added, at most :data:`AT_ONCE` with the last Commit."""
    others = bundles or [bundle(suite, number) for number in range(1, size)]
    creator = Group.create(bundle(suite, 0), _GROUP_ID)
    adds = [Add(each.key_package) for each in others]
    while len(adds) > AT_ONCE:
        made = creator.finish_commit(creator.draft_commit(adds[:AT_ONCE], now=NOW))
        creator, adds = applied(made.sent, made.staged), adds[AT_ONCE:]
    draft = creator.draft_commit(adds, now=NOW)
    made = creator.finish_commit(draft)
    assert made.welcome is not None
    return Sparse(applied(made.sent, made.staged), made.commit, made.welcome, others, creator, draft)


def applied(group: object, staged: StagedCommit) -> Group:
    """The group after a Commit."""
    assert isinstance(group, Group)
    return group.apply(staged, now=NOW)


def full_group(
    suite: CipherSuite,
    size: int,
    seats: tuple[int, ...],
    extensions: tuple[Extension, ...] = (),
    *,
    group_id: bytes = _GROUP_ID,
    epoch: int = 7,
    real: Mapping[int, tuple[LeafNode, SignaturePrivateKey]] = MappingProxyType({}),
) -> list[Group]:
    """A group with a key in every parent node, as the members at these leaves see it.

    :param real: leaves that are given, and their signature keys
    """
    supported = tuple(each.extension_type for each in extensions)
    bundles = [bundle(suite, number, supported) for number in range(size)]
    people = [(each.key_package.leaf_node, each.signature_key) for each in bundles]
    for number, each in real.items():
        people[number] = each
    tree = RatchetTree.single(suite, people[0][0])
    tree, _ = tree.apply({}, (), [leaf for leaf, _ in people[1:]])
    keys: dict[NodeIndex, HPKEPrivateKey] = {}
    for number, (leaf, key) in enumerate(people):
        renewed = renew_path(tree, LeafIndex(number), leaf, key, group_id)
        tree = renewed.tree
        keys.update(renewed.private.keys)
    context = GroupContext(1, suite.id, group_id, epoch, tree.tree_hash(), os.urandom(suite.hash_length), extensions)
    begun = epoch_from_secret(suite, os.urandom(suite.hash_length))
    public = PublicState(context, tree, os.urandom(suite.hash_length), os.urandom(suite.hash_length))
    groups = []
    for seat in seats:
        path = [node_of(LeafIndex(seat)), *direct_path(node_of(LeafIndex(seat)), tree.leaf_count)]
        groups.append(
            Group(
                public=public,
                secrets=begun.secrets,
                secret_tree=SecretTree.create(suite, begun.encryption_secret, tree.leaf_count),
                private=TreeKEMPrivate(LeafIndex(seat), Map({node: keys[node] for node in path if node in keys})),
                signature_key=people[seat][1],
            )
        )
    return groups
