"""Tree hashes (RFC 9420 7.8) in a store, so that a restart does not compute those of all nodes.

A wide tree has a record for each *part* of it, a subtree of 16 leaves, and for each larger subtree in which every node
is blank::

    record = digest of the nodes in the part, as they are stored || tree hash of the part

A record says what the hash of exactly these nodes is.  Where the digest is not that of the nodes in the store, the hash
is computed: a record that is missing or old, or a node that is damaged, costs time and changes no result.  So a tree
hash that differs from the GroupContext's is found as it is without records.  One digest over the octets of a part costs
a tenth of its 31 hashes; the hashes above parts are computed from theirs.

Small trees have no records: computing is as fast.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from ..crypto.cipher_suite import CipherSuite
from ..structures.parent_node import node_codec
from .subtree import Place, Subtree, node_at, nodes_below, tree_hash
from .tree_math import NodeIndex

__all__ = ["LEAST_DEPTH", "PART", "differing", "record", "recorded_hash"]

PART = 4
"""The level of a part's root."""
LEAST_DEPTH = 8
"""The level of the root of the smallest trees that have records."""


def record(suite: CipherSuite, place: Place) -> bytes:
    """The record of a part, or of a larger subtree of blanks."""
    places, parts = array("I"), []
    for node, held in nodes_below(place):
        places.append(node)
        parts.append(held if isinstance(held, bytes) else node_codec.encode(held))
    return _digest(suite, places, b"".join(parts)) + tree_hash(suite, *place)


def recorded_hash(suite: CipherSuite, record: bytes, places: array[int], octets: bytes) -> bytes | None:
    """The tree hash in a record, if the record is about these nodes.

    :param places: the indices of all nodes that are not blank, in their order
    :param octets: these nodes with their types, as they are stored, one behind the other
    """
    digest, known = record[: suite.hash_length], record[suite.hash_length :]
    matches = len(known) == suite.hash_length and digest == _digest(suite, places, octets)
    return known if matches else None


def _digest(suite: CipherSuite, places: array[int], octets: bytes) -> bytes:
    if sys.byteorder == "big":
        places = array("I", places)
        places.byteswap()
    return suite.hash(len(places).to_bytes(4, "little") + places.tobytes() + octets)


def differing(
    new: tuple[Subtree, int] | None, old: tuple[Subtree, int] | None
) -> Iterator[tuple[NodeIndex, Place | None]]:
    """The records in which two trees differ, by the index of the subtree's root; None for those that are no longer.

    O(changes log n) for trees that come from each other.

    :param new: the root of a tree, and its level; None if it has no records
    :param old: likewise, of the tree before; one of them is not None
    """
    top = max(depth for tree in (new, old) if tree is not None for depth in tree[1:])
    stack = [(top, 0, _lifted(new, top), _lifted(old, top))]
    while stack:
        level, position, after, before = stack.pop()
        if after is before or after.equals(before):
            continue
        here, there = _has_record(after, level), _has_record(before, level)
        if here and not (there and after.occupied == before.occupied == 0):  # blanks are all alike
            yield node_at(level, position), Place(after, level, position)
        elif there and not here:
            yield node_at(level, position), None
        below = _NOWHERE if here or after is _OUTSIDE else after.children()
        were_below = _NOWHERE if there or before is _OUTSIDE else before.children()
        for side in (0, 1):
            stack.append((level - 1, 2 * position + side, below[side], were_below[side]))


_OUTSIDE = Subtree()
"""Stands for what is outside of a tree, or inside of a part: it has no record."""
_NOWHERE = _OUTSIDE, _OUTSIDE


def _has_record(subtree: Subtree, level: int) -> bool:
    return subtree is not _OUTSIDE and (level == PART or not subtree.occupied)


def _lifted(tree: tuple[Subtree, int] | None, top: int) -> Subtree:
    if tree is None:
        return _OUTSIDE
    root, depth = tree
    for _ in range(top - depth):
        root = Subtree(None, root, _OUTSIDE, root.occupied)
    return root
