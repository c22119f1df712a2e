"""TreeKEM: new keys for a path of the tree, and their way to the others (RFC 9420 7.4 to 7.6).

One path from both sides::

    sender:     renew_path ──► RenewedPath.tree ──► (its hash makes the provisional GroupContext)
                               RenewedPath.encrypt(context) ──► UpdatePath
    receiver:   merge_path ──► tree             ──► (likewise)
                decrypt_path(context) ──► new private keys, commit_secret

The two steps on each side come from the encryption's context, which covers the tree's hash
after the path is in it (12.4.1).  Public and private are strictly apart: :func:`merge_path` needs no
secret, so that somebody outside can follow a group; the private keys of a member are a
:class:`TreeKEMPrivate`, a value like the tree.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from immutables import Map

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite, HPKEPrivateKey, Random, SignaturePrivateKey
from ..structures.leaf_node import CommitSource, LeafNode, leaf_node_tbs
from ..structures.parent_node import ParentNode
from ..structures.update_path import UpdatePath, UpdatePathNode
from .known_tree import KnownTree
from .leaf_creation import Completion, as_it_is
from .parent_hash import path_parent_hashes
from .ratchet_tree import RatchetTree
from .subtree import Place, covering_nodes, resolution, size_without
from .tree_math import LeafIndex, NodeIndex, common_ancestor, level, node_of

__all__ = ["RenewedPath", "TreeKEMPrivate", "decrypt_path", "merge_path", "public_path", "renew_path"]


@dataclass(frozen=True, slots=True, repr=False)
class TreeKEMPrivate:
    """The private keys that one member holds: its leaf's, and those of nodes above it.  Immutable.

    :ivar index: the member's leaf
    :ivar keys: private keys by node; a node above the leaf that is missing is one whose key
        the member does not know (it is unmerged there), or a blank one
    """

    index: LeafIndex
    keys: Map[NodeIndex, HPKEPrivateKey]

    def __repr__(self) -> str:
        return f"<TreeKEMPrivate of leaf {self.index}>"

    @classmethod
    def of_leaf(cls, index: LeafIndex, key: HPKEPrivateKey) -> TreeKEMPrivate:
        """The keys of a member that has joined: its leaf's alone."""
        return cls(index, Map({node_of(index): key}))

    @classmethod
    def joining(
        cls,
        suite: CipherSuite,
        index: LeafIndex,
        leaf: LeafNode,
        leaf_key: HPKEPrivateKey,
        committer: LeafIndex,
        above: Sequence[tuple[NodeIndex, bytes]],
        path_secret: bytes | None,
    ) -> TreeKEMPrivate:
        """The keys that a Welcome gives (RFC 9420 12.4.3.1).

        :param leaf: the joiner's, as it is in the tree
        :param leaf_key: private key of the joiner's KeyPackage's leaf
        :param committer: the GroupInfo's signer
        :param above: the nodes of the committer's filtered direct path, lowest first, with their public keys
        :param path_secret: the one in the GroupSecrets, if there is one
        :raises InvalidError: the path secret does not make the keys that are in the tree
        """
        if leaf_key.public != leaf.encryption_key:
            raise InvalidError("the leaf is not the one of our KeyPackage", "RFC 9420 12.4.3.1")
        private = cls.of_leaf(index, leaf_key)
        if path_secret is None:
            return private
        start = common_ancestor(node_of(index), node_of(committer))
        path = [(node, key) for node, key in above if level(node) >= level(start)]
        if index == committer or not path or path[0][0] != start:
            raise InvalidError("a path secret for a node that has none", "RFC 9420 12.4.3.1")
        return private.with_path(suite, path_secret, path, "RFC 9420 12.4.3.1")[0]

    def with_path(
        self, suite: CipherSuite, path_secret: bytes, path: Sequence[tuple[NodeIndex, bytes]], section: str
    ) -> tuple[TreeKEMPrivate, bytes]:
        """RFC 9420 7.4: the keys, with those that a path secret makes; and the secret behind the last one.

        :param path: the nodes from the secret's own upwards, with the public keys that it must make
        :param section: the rule that demands it
        :raises InvalidError: it makes others
        """
        known, behind = _derive(suite, path_secret, len(path))
        keys = self.keys.mutate()
        for (node, public), key in zip(path, known, strict=True):
            if key.public != public:
                raise InvalidError("a path secret that makes another key than the path's", section)
            keys[node] = key
        return TreeKEMPrivate(self.index, keys.finish()), behind

    def kept_in(self, tree: KnownTree) -> TreeKEMPrivate:
        """These keys without those that a change of the tree has put out of use (RFC 9420 7.5: deleted)."""
        keys = self.keys
        for node, key in self.keys.items():
            if not tree.has_key(node, key.public):
                keys = keys.delete(node)
        return self if keys is self.keys else TreeKEMPrivate(self.index, keys)

    def with_leaf_key(self, key: HPKEPrivateKey) -> TreeKEMPrivate:
        """After the member's own Update was committed."""
        return TreeKEMPrivate(self.index, self.keys.set(node_of(self.index), key))

    def pieces(self) -> dict[bytes, bytes]:
        """For a store, secret: each private key under its node's index, four octets big endian."""
        return {node.to_bytes(4, "big"): key.encode() for node, key in self.keys.items()}

    def changes_since(self, old: TreeKEMPrivate) -> dict[bytes, bytes | None]:
        """The pieces that differ; None for those that are no longer."""
        changes: dict[bytes, bytes | None] = {
            node.to_bytes(4, "big"): None for node in old.keys if node not in self.keys
        }
        for node, key in self.keys.items():
            if old.keys.get(node) is not key:
                changes[node.to_bytes(4, "big")] = key.encode()
        return changes

    @classmethod
    def restore(cls, tree: KnownTree, index: LeafIndex, pieces: Mapping[bytes, bytes]) -> TreeKEMPrivate:
        """The keys from their pieces.  `tree` supplies the public keys, so that none needs computing."""
        keys = {}
        for name, octets in pieces.items():
            node = NodeIndex(int.from_bytes(name, "big"))
            held = tree.node(node)
            keys[node] = tree.suite.import_hpke_key(octets, None if held is None else held.encryption_key)
        return cls(index, Map(keys))


def public_path(tree: RatchetTree, leaf: LeafIndex) -> list[tuple[NodeIndex, bytes]]:
    """The nodes of a leaf's filtered direct path with their public keys, lowest first; no octets for a blank one."""
    nodes = [node for node, _ in tree.filtered_direct_path(leaf)]
    held = [tree.node(node) for node in nodes]
    return [(node, b"" if each is None else each.encryption_key) for node, each in zip(nodes, held, strict=True)]


def _derive(suite: CipherSuite, path_secret: bytes, count: int) -> tuple[list[HPKEPrivateKey], bytes]:
    """RFC 9420 7.4: `count` key pairs from a path secret upwards, and the secret behind the last one."""
    keys = []
    for _ in range(count):
        keys.append(suite.derive_key_pair(suite.derive_secret(path_secret, "node")))
        path_secret = suite.derive_secret(path_secret, "path")
    return keys, path_secret


# --- the sender ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class RenewedPath:
    """A new path, in the tree and not yet encrypted.

    :ivar tree: with the new leaf and nodes
    :ivar leaf: the new leaf, signed
    :ivar private: the sender's keys in that tree
    :ivar commit_secret: for the key schedule
    :ivar path: filtered direct path and copath of the sender
    :ivar path_secrets: by node; a Welcome takes the new member's from here
    """

    tree: RatchetTree
    leaf: LeafNode
    private: TreeKEMPrivate
    commit_secret: bytes
    path: Sequence[tuple[NodeIndex, Place]]
    path_secrets: Mapping[NodeIndex, bytes]

    def __repr__(self) -> str:
        return f"<RenewedPath of leaf {self.private.index}>"

    def path_secret_for(self, member: LeafIndex) -> bytes:
        """The path secret for a new member: that of the lowest node above both (RFC 9420 12.4.1)."""
        return self.path_secrets[common_ancestor(node_of(self.private.index), node_of(member))]

    def encrypt(self, context: bytes, added: Collection[LeafIndex] = frozenset()) -> UpdatePath:
        """RFC 9420 7.5 and 7.6: each path secret, encrypted to those below the node's other child.

        :param context: the provisional GroupContext (12.4.1), encoded
        :param added: leaves added by the same Commit; they get their secret in the Welcome
        """
        suite = self.tree.suite
        nodes = []
        for node, beside in self.path:
            secret = self.path_secrets[node]
            sealed = [
                suite.encrypt_with_label(key, "UpdatePathNode", context, secret) for _, key in resolution(beside, added)
            ]
            nodes.append(UpdatePathNode(self.private.keys[node].public, tuple(sealed)))
        return UpdatePath(self.leaf, tuple(nodes))


def renew_path(
    tree: RatchetTree,
    index: LeafIndex,
    template: LeafNode,
    signature_key: SignaturePrivateKey,
    group_id: bytes,
    *,
    complete: Completion = as_it_is,
    random: Random = os.urandom,
) -> RenewedPath:
    """RFC 9420 7.5: new keys for a member's leaf and the nodes above it.

    :param tree: after the Commit's proposals
    :param index: the sender's leaf; of an external joiner, the blank one that `tree.with_room()` gives
    :param template: the new leaf but for its encryption key, source and signature
    :param signature_key: the private part of `template.signature_key`
    :param complete: puts into the leaf what depends on its encryption key
    """
    suite = tree.suite
    path = tree.filtered_direct_path(index)
    leaf_key = suite.generate_key_pair(random)
    secret = random(suite.hash_length)
    secrets = {}
    keys: dict[NodeIndex, HPKEPrivateKey] = {node_of(index): leaf_key}
    for node, _ in path:
        secrets[node] = secret
        (keys[node],), secret = _derive(suite, secret, 1)
    public = [keys[node].public for node, _ in path]
    stated, above = path_parent_hashes(tree, path, public)
    leaf = replace(template, encryption_key=leaf_key.public, source=CommitSource(above), signature=b"")
    leaf = complete(leaf, leaf_key)
    signature = suite.sign_with_label(signature_key, "LeafNodeTBS", leaf_node_tbs(leaf, group_id, index))
    leaf = replace(leaf, signature=signature)
    parents = {
        node: ParentNode(key, parent_hash) for (node, _), key, parent_hash in zip(path, public, stated, strict=True)
    }
    return RenewedPath(
        tree=tree.set_path(index, leaf, parents),
        leaf=leaf,
        private=TreeKEMPrivate(index, Map(keys)),
        commit_secret=secret,
        path=path,
        path_secrets=secrets,
    )


# --- the receivers ---------------------------------------------------------------------------


def merge_path(
    tree: RatchetTree, sender: LeafIndex, update: UpdatePath, added: Collection[LeafIndex] = frozenset()
) -> RatchetTree:
    """RFC 9420 7.5, 12.4.2: check a received path and put its public part into the tree.

    The new leaf as such is for :mod:`.leaf_validation` to check.

    :param tree: after the Commit's proposals
    :param sender: the committer's leaf; of an external joiner, the blank one that `tree.with_room()` gives
    :param added: leaves added by the same Commit
    :raises InvalidError: the path does not fit the tree
    """
    path = tree.filtered_direct_path(sender)
    if len(update.nodes) != len(path):
        raise InvalidError(f"path of {len(update.nodes)} nodes instead of {len(path)}", "RFC 9420 7.6")
    without = sorted(added)
    for (_, beside), node in zip(path, update.nodes, strict=True):
        expected = size_without(beside, without)
        if len(node.encrypted_path_secret) != expected:
            raise InvalidError(
                f"{len(node.encrypted_path_secret)} path secrets for a resolution of {expected}", "RFC 9420 7.6"
            )
    if not isinstance(update.leaf_node.source, CommitSource):
        raise InvalidError("the path's leaf has another source than commit", "RFC 9420 7.3")
    public = [node.encryption_key for node in update.nodes]
    before = tree.leaf(sender)
    if before is not None and before.encryption_key == update.leaf_node.encryption_key:
        raise InvalidError("the committer's leaf has kept its encryption key", "RFC 9420 12.4.2")
    new = {update.leaf_node.encryption_key, *public}
    if len(new) <= len(public):
        raise InvalidError("the path has a key twice", "RFC 9420 12.4.2")
    for key in new:
        if tree.node_by_encryption_key(key) is not None:
            raise InvalidError("a key of the path is in the tree already", "RFC 9420 12.4.2")
    for key in public:
        tree.suite.check_public_key(key)  # nobody could encrypt to a bad one
    stated, above = path_parent_hashes(tree, path, public)
    if update.leaf_node.source.parent_hash != above:
        raise InvalidError("parent hash of the committer's leaf", "RFC 9420 7.9.2")
    parents = {
        node: ParentNode(key, parent_hash) for (node, _), key, parent_hash in zip(path, public, stated, strict=True)
    }
    return tree.set_path(sender, update.leaf_node, parents)


def decrypt_path(
    private: TreeKEMPrivate,
    tree: RatchetTree,
    sender: LeafIndex,
    update: UpdatePath,
    context: bytes,
    added: Collection[LeafIndex] = frozenset(),
) -> tuple[TreeKEMPrivate, bytes]:
    """RFC 9420 7.5: the receiver's new keys, and the commit_secret.

    :param private: the receiver's keys before the Commit, its own Update's included
    :param tree: what :func:`merge_path` gave
    :param context: the provisional GroupContext (12.4.2), encoded
    :param added: leaves added by the same Commit
    :raises InvalidError: nothing in the path is encrypted to us, or the secrets do not make
        the path's public keys
    """
    suite = tree.suite
    private = private.kept_in(tree)
    path = tree.filtered_direct_path(sender)
    step = next((step for step, (_, beside) in enumerate(path) if beside.above(private.index)), None)
    if step is None:
        raise InvalidError("a path that does not reach us", "RFC 9420 7.5")
    secret = None
    for number, node in covering_nodes(path[step][1], private.index, sorted(added)):
        key = private.keys.get(node)
        if key is not None:
            sealed = update.nodes[step].encrypted_path_secret[number]
            secret = suite.decrypt_with_label(key, "UpdatePathNode", context, sealed)
            break
    if secret is None:
        raise InvalidError("no path secret for a key of ours", "RFC 9420 7.5")
    reached = [(node, sent.encryption_key) for (node, _), sent in zip(path[step:], update.nodes[step:], strict=True)]
    return private.with_path(suite, secret, reached, "RFC 9420 7.5")
