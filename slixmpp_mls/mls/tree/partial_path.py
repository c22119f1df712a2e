"""UpdatePaths for a member without the tree (draft-ietf-mls-partial Annotated Commit; RFC 9420 7.5, 7.9).

A full member merges a path into its tree.  A partial member cannot.  It has two slices of the tree after the Commit
instead, the committer's and its own, which lie under one root that the new epoch's confirmation tag covers.  The
committer's slice shows everything that the path itself has put into the tree, so that :func:`check_path` verifies
the path's keys and its chain of parent hashes to the new leaf in O(log n).
"""

from __future__ import annotations

from ...errors import InvalidError
from ..structures.leaf_node import CommitSource
from ..structures.update_path import UpdatePath
from .parent_hash import parent_hash
from .tree_math import NodeIndex, common_ancestor, level, node_of
from .tree_slice import TreeSlice
from .treekem import TreeKEMPrivate

__all__ = ["check_path", "decrypt_path"]

_DRAFT = "draft-ietf-mls-partial Annotated Commit"


def check_path(sender: TreeSlice, update: UpdatePath) -> None:
    """Whether the tree after a Commit has the Commit's path in it.

    :param sender: the committer's slice after the Commit
    :raises InvalidError: it has not
    """
    if update.leaf_node != sender.leaf:
        raise InvalidError("another leaf than the path's is in the tree", "RFC 9420 7.5")
    source = update.leaf_node.source
    if not isinstance(source, CommitSource):
        raise InvalidError("the path's leaf has another source than commit", "RFC 9420 7.3")
    # RFC 9420 7.5: of the nodes above the committer, those on the path are set, all others blank.
    if len(update.nodes) != len(sender.parents):
        raise InvalidError(f"path of {len(update.nodes)} nodes instead of {len(sender.parents)}", "RFC 9420 7.6")
    if len({sender.leaf.encryption_key, *(node.encryption_key for node in update.nodes)}) <= len(update.nodes):
        raise InvalidError("the path has a key twice", "RFC 9420 12.4.2")
    above = b""  # RFC 9420 7.5: at the root
    for (node, held), sent in zip(reversed(sender.parents), reversed(update.nodes), strict=True):
        if held.encryption_key != sent.encryption_key or held.unmerged_leaves:
            raise InvalidError("another node than the path's is in the tree", "RFC 9420 7.5")
        if held.parent_hash != above:
            raise InvalidError(f"parent hash of node {node}", "RFC 9420 7.9.2")
        # No leaf is unmerged at a new node, so the sibling's original tree hash is its present one (RFC 9420 7.9).
        above = parent_hash(sender.suite, held.encryption_key, above, sender.copath_hash(node))
    if source.parent_hash != above:
        raise InvalidError("parent hash of the committer's leaf", "RFC 9420 7.9.2")


def decrypt_path(
    private: TreeKEMPrivate,
    sender: TreeSlice,
    receiver: TreeSlice,
    update: UpdatePath,
    resolution_index: int,
    context: bytes,
) -> tuple[TreeKEMPrivate, bytes]:
    """RFC 9420 7.5: the receiver's new keys, and the commit_secret.

    :param private: the receiver's keys before the Commit, its own Update's included, as far as `receiver` has them
    :param sender: the committer's slice after the Commit, checked by :func:`check_path`
    :param receiver: the receiver's slice after the Commit
    :param resolution_index: which HPKECiphertext is for us
    :param context: the provisional GroupContext (12.4.2), encoded
    :raises InvalidError: nothing there is encrypted to us, or the secrets do not make the path's public keys
    """
    start = common_ancestor(node_of(sender.index), node_of(receiver.index))
    step = next((step for step, (node, _) in enumerate(sender.parents) if node == start), None)
    if step is None:
        raise InvalidError("a path that does not reach us", "RFC 9420 7.5")
    sealed = update.nodes[step].encrypted_path_secret
    if resolution_index >= len(sealed):
        raise InvalidError(f"resolution index {resolution_index} of {len(sealed)}", _DRAFT)
    key = private.keys.get(_key_below(start, receiver))
    if key is None:
        raise InvalidError("no path secret for a key of ours", "RFC 9420 7.5")
    secret = sender.suite.decrypt_with_label(key, "UpdatePathNode", context, sealed[resolution_index])
    reached = [(node, parent.encryption_key) for node, parent in sender.parents[step:]]
    return private.with_path(sender.suite, secret, reached, "RFC 9420 7.5")


def _key_below(start: NodeIndex, receiver: TreeSlice) -> NodeIndex:
    """The node whose key covers the receiver in the resolution below `start` (RFC 9420 4.1.1).

    That is the highest node there that is not blank; of a node that it is unmerged at, a member has no key, and the
    resolution has its leaf.
    """
    for node, parent in reversed(receiver.parents):
        if level(node) < level(start):
            return node_of(receiver.index) if receiver.index in parent.unmerged_leaves else node
    return node_of(receiver.index)
