"""Where the nodes of a tree are in an array (RFC 9420 appendix C).

MLS trees are complete: the number of leaves is a power of two.  Leaf `i` is node `2 * i`;
the odd nodes are parents.  All relations are arithmetic on the index, read as bits:
a node at level `k` ends in `0` and `k` ones, the two bits above tell it from its sibling and
from its parent::

    level 2                3                      011
                       ┌───┴───┐
    level 1            1       5              001     101
                     ┌─┴─┐   ┌─┴─┐
    level 0          0   2   4   6           000 010 100 110
    leaf index       0   1   2   3

Leaf indices and node indices are different types, so that a type checker tells them apart.
Nothing here looks at the contents of a tree, and nothing recurses.
"""

from __future__ import annotations

from typing import NewType

__all__ = [
    "MAX_LEAVES",
    "LeafIndex",
    "NodeIndex",
    "common_ancestor",
    "copath",
    "direct_path",
    "is_leaf",
    "leaf_of",
    "leaves_under",
    "left",
    "level",
    "node_count",
    "node_of",
    "padded",
    "parent",
    "right",
    "root",
    "sibling",
]

LeafIndex = NewType("LeafIndex", int)
NodeIndex = NewType("NodeIndex", int)

MAX_LEAVES = 2**31  # node indices, too, are uint32 on the wire


def padded(leaves: int) -> int:
    """The smallest complete tree's leaf count that has room for `leaves`."""
    return 1 << (leaves - 1).bit_length() if leaves > 0 else 1


def node_count(leaf_count: int) -> int:
    """Nodes of a tree with `leaf_count` leaves."""
    return 2 * leaf_count - 1


def root(leaf_count: int) -> NodeIndex:
    """The root of a complete tree with `leaf_count` leaves."""
    return NodeIndex(leaf_count - 1)


def node_of(leaf: LeafIndex) -> NodeIndex:
    """A leaf's place among the nodes."""
    return NodeIndex(2 * leaf)


def is_leaf(node: NodeIndex) -> bool:
    return not node & 1


def leaf_of(node: NodeIndex) -> LeafIndex:
    """The inverse of :func:`node_of`.

    :raises ValueError: the node is a parent
    """
    if node & 1:
        raise ValueError(f"node {node} is no leaf")
    return LeafIndex(node >> 1)


def level(node: NodeIndex) -> int:
    """The height above the leaves: the number of ones at the end of the index."""
    return (~node & (node + 1)).bit_length() - 1


def left(node: NodeIndex) -> NodeIndex:
    """:raises ValueError: a leaf has no children"""
    return NodeIndex(node ^ (1 << (_parent_level(node) - 1)))


def right(node: NodeIndex) -> NodeIndex:
    """:raises ValueError: a leaf has no children"""
    return NodeIndex(node ^ (3 << (_parent_level(node) - 1)))


def _parent_level(node: NodeIndex) -> int:
    if not node & 1:
        raise ValueError(f"node {node} is a leaf and has no children")
    return level(node)


def parent(node: NodeIndex, leaf_count: int) -> NodeIndex:
    """:raises ValueError: the root has no parent"""
    if node == leaf_count - 1:
        raise ValueError("the root has no parent")
    bit = ~node & (node + 1)
    return NodeIndex((node | bit) & ~(bit << 1))


def sibling(node: NodeIndex, leaf_count: int) -> NodeIndex:
    """:raises ValueError: the root has no sibling"""
    if node == leaf_count - 1:
        raise ValueError("the root has no sibling")
    return NodeIndex(node ^ ((~node & (node + 1)) << 1))


def direct_path(node: NodeIndex, leaf_count: int) -> list[NodeIndex]:
    """The nodes above `node`, lowest first, the root last; empty for the root itself."""
    path = []
    bit = ~node & (node + 1)
    while bit < leaf_count:
        node = NodeIndex((node | bit) & ~(bit << 1))
        path.append(node)
        bit <<= 1
    return path


def copath(node: NodeIndex, leaf_count: int) -> list[NodeIndex]:
    """The siblings of `node` and of the nodes above it, lowest first; as many as the direct path has nodes."""
    path = []
    bit = ~node & (node + 1)
    while bit < leaf_count:
        path.append(NodeIndex(node ^ (bit << 1)))
        node = NodeIndex((node | bit) & ~(bit << 1))
        bit <<= 1
    return path


def common_ancestor(one: NodeIndex, other: NodeIndex) -> NodeIndex:
    """The lowest node whose subtree holds both (one of them, if the other is below it)."""
    height = max(level(one), level(other), (one ^ other).bit_length() - 1)
    return NodeIndex((one >> (height + 1) << (height + 1)) | ((1 << height) - 1))


def leaves_under(node: NodeIndex) -> range:
    """The indices of the leaves in a node's subtree, in order."""
    span = 1 << level(node)
    first = (node - span + 1) >> 1
    return range(first, first + span)
