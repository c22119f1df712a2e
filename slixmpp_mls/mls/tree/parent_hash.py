"""Parent hashes: who put the keys into the tree (RFC 9420 7.9).

When a member sends a path, each node on it states a hash of the next node above, and so does
the member's leaf, which is signed.  A later path overwrites such a chain from the top::

          Y'            C sent its path after B: C ─► Z' ─► Y' is whole.
          │             B's chain B ─► X ─► Y ended at a node that is no longer;
    ┌─────┴──┐          what is left of it, B ─► X, still tells that B made X.
    X        Z'
  ┌─┴─┐    ┌─┴─┐
  A   B    C   D

So in a sound tree a leaf's or node's parent hash need *not* match the node that is above it
now.  The reverse must hold: each parent node is the one that exactly one node below it
speaks of (:func:`verify_parent_hashes`), and that node in turn, down to a signed leaf.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..structures.leaf_node import CommitSource, LeafNode
from ..structures.parent_node import AnyNode, ParentNode
from ..varint import write_opaque
from .ratchet_tree import RatchetTree
from .subtree import Place, Subtree, leaf_hash, parent_node_hash, tree_hash
from .tree_math import NodeIndex

__all__ = ["parent_hash", "path_parent_hashes", "verify_parent_hashes"]


def parent_hash(suite: CipherSuite, encryption_key: bytes, above: bytes, sibling_hash: bytes) -> bytes:
    """RFC 9420 7.9: hash of a ParentHashInput.

    :param above: the parent hash that the node itself states
    :param sibling_hash: original tree hash of the copath child
    """
    out = bytearray()
    for part in (encryption_key, above, sibling_hash):
        write_opaque(out, part)
    return suite.hash(out)


def path_parent_hashes(
    tree: RatchetTree, path: Sequence[tuple[NodeIndex, Place]], keys: Sequence[bytes]
) -> tuple[list[bytes], bytes]:
    """RFC 9420 7.5: what the nodes of a new path state, and what its leaf states.

    Computed from the root down, as each hash covers the nodes above.  All unmerged leaves of the path's
    nodes have become merged, so the siblings' original tree hashes are their present ones.

    :param path: the filtered direct path with its copath, lowest first
    :param keys: the path's new encryption keys
    """
    stated = []
    above = b""  # RFC 9420 7.5: at the root
    for (_, beside), key in zip(reversed(path), reversed(keys), strict=True):
        stated.append(above)
        above = parent_hash(tree.suite, key, above, tree_hash(tree.suite, *beside))
    stated.reverse()
    return stated, above


def verify_parent_hashes(tree: RatchetTree) -> None:
    """RFC 9420 7.9.2: each parent node that is not blank is parent-hash valid.

    :raises InvalidError: one is not
    """
    for place, content in tree.parent_places():
        height, position = place.level, place.position
        left, right = place.subtree.children()
        links = 0
        for child, sibling, side in ((left, right, 0), (right, left, 1)):
            below = _neighbour(child, height - 1, 2 * position + side, content.unmerged_leaves)
            if below is None:
                continue
            original = _original_tree_hash(
                tree.suite, sibling, height - 1, 2 * position + 1 - side, content.unmerged_leaves
            )
            links += below == parent_hash(tree.suite, content.encryption_key, content.parent_hash, original)
        if links != 1:
            raise InvalidError(f"parent node {place.node} has {links} valid parent hash links, not 1", "RFC 9420 7.9.2")


def _under(unmerged: Sequence[int], height: int, position: int) -> Sequence[int]:
    """Those of a sorted list that are in a subtree."""
    first = bisect_left(unmerged, position << height)
    return unmerged[first : bisect_left(unmerged, (position + 1) << height, first)]


def _stated(content: AnyNode) -> bytes | None:
    if isinstance(content, ParentNode):
        return content.parent_hash
    return content.source.parent_hash if isinstance(content.source, CommitSource) else None


def _neighbour(child: Subtree, height: int, position: int, unmerged: Sequence[int]) -> bytes | None:
    """The parent hash stated by the node D of RFC 9420 7.9.2, if there is one below `child` (C).

    D is in the resolution of C, and the rest of that resolution are just those leaves that are
    unmerged at P.
    """
    remaining = set(_under(unmerged, height, position))
    found: AnyNode | None = None
    stack = [(child, height, position)]
    while stack:
        subtree, height, position = stack.pop()
        if not subtree.occupied:
            continue
        content = subtree.content
        if content is None:
            left, right = subtree.children()
            stack.append((right, height - 1, 2 * position + 1))
            stack.append((left, height - 1, 2 * position))
        elif isinstance(content, LeafNode) and position in remaining:
            remaining.remove(position)
        elif found is not None:
            return None  # the rest of the resolution is more than unmerged leaves
        else:
            found = content
            if isinstance(content, ParentNode):
                if not remaining.issuperset(content.unmerged_leaves):
                    return None
                remaining.difference_update(content.unmerged_leaves)
    return None if found is None or remaining else _stated(found)


def _original_tree_hash(
    suite: CipherSuite, subtree: Subtree, height: int, position: int, unmerged: Sequence[int]
) -> bytes:
    """RFC 9420 7.9: the tree hash as if some leaves had not been added.

    Only the nodes above these leaves are hashed again.
    """
    leaves = _under(unmerged, height, position)
    if not leaves:
        return tree_hash(suite, subtree, height, position)
    offset = position << height  # positions below count from the subtree's left edge
    positions: list[set[int]] = [{index - offset for index in leaves}]
    for _ in range(height):
        positions.append({place >> 1 for place in positions[-1]})
    layers: list[dict[int, Subtree]] = [{0: subtree}]
    for at in range(height - 1, -1, -1):
        above = layers[-1]
        layers.append({place: above[place >> 1].children()[place & 1] for place in positions[at]})
    layers.reverse()
    hashes = {place: leaf_hash(suite, offset + place, None) for place in positions[0]}
    without = set(leaves)
    for at in range(1, height + 1):
        below, hashes = hashes, {}
        for place, node in layers[at].items():
            pair = []
            for side, child in enumerate(node.children()):
                known = below.get(2 * place + side)
                if known is None:
                    known = tree_hash(suite, child, at - 1, (offset >> (at - 1)) + 2 * place + side)
                pair.append(known)
            content = node.content
            if isinstance(content, ParentNode):
                kept = tuple(index for index in content.unmerged_leaves if index not in without)
                content = ParentNode(content.encryption_key, content.parent_hash, kept)
            hashes[place] = parent_node_hash(suite, content, *pair)  # type: ignore[arg-type]
    return hashes[0]
