"""The immutable pieces that a ratchet tree is made of, and their tree hashes (RFC 9420 7.8).

A :class:`Subtree` is a node with everything below it.  It never changes: a change makes new
objects for the nodes on the way from the root to the changed leaves and shares all others
with the tree before (:func:`rewrite`), so that n members cost a change O(log n), old and new
tree live side by side, and what differs between them is what is not the same object.  (Or has not the same tree hash,
where the objects of one of them have been replaced by equal ones, see :mod:`.stored_nodes`.)

Some things are filled in late, and do not count as change: the tree hash, how many nodes cover the
subtree, the children of a subtree that holds nothing (half a tree of blanks costs one object until
somebody looks), and what comes from a store (:mod:`.stored_nodes`).

Where a subtree is, it does not know itself: its level (leaves are 0) and its position among
the subtrees of that level, counted from the left, come along from the root; a :class:`Place`
is all three.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..crypto.cipher_suite import CipherSuite
from ..structures.leaf_node import LeafNode
from ..structures.parent_node import AnyNode, ParentNode
from ..varint import encode_varint
from .tree_math import LeafIndex, NodeIndex

__all__ = [
    "Change", "Place", "Subtree", "covering_nodes", "leaf_hash", "node_at", "nodes_below", "parent_hash_of",
    "parent_node_hash", "resolution", "resolution_size", "rewrite", "size_without", "tree_hash",
]  # fmt: skip


class Subtree:
    """A node and all below it.

    :ivar left: the left child; None for a leaf, and for blanks that nobody has looked at
    :ivar right: the right child, likewise
    :ivar occupied: how many leaves below are not blank; 0 means that every node here is blank
    :ivar hash: the tree hash, None until it is needed
    :ivar covering: how many nodes the resolution has, None until it is needed; see :func:`resolution_size`
    :ivar loose: how many ordinary subtrees it consists of, itself among them; see :mod:`.stored_nodes`
    """

    __slots__ = ("_content", "covering", "hash", "left", "loose", "occupied", "right")

    def __init__(
        self,
        content: AnyNode | None = None,
        left: Subtree | None = None,
        right: Subtree | None = None,
        occupied: int = 0,
    ) -> None:
        self._content = content
        self.left = left
        self.right = right
        self.occupied = occupied
        self.hash: bytes | None = None
        self.covering: int | None = None
        self.loose: int = 1 if left is None or right is None else 1 + left.loose + right.loose

    @property
    def content(self) -> AnyNode | None:
        """What the node holds, None if it is blank."""
        return self._content

    def held(self) -> AnyNode | bytes | None:
        """The same, or its octets with its type if it has not been decoded yet."""
        return self._content

    def children(self) -> tuple[Subtree, Subtree]:
        """Both children of a subtree above level 0."""
        if self.left is None or self.right is None:
            self.right = Subtree()
            self.left = Subtree()
        return self.left, self.right

    def stored(self) -> Iterator[tuple[NodeIndex, bytes]] | None:
        """All nodes that are not blank, encoded, from left to right; None unless they are all as a store has them."""
        return None

    def stored_resolution(self) -> Iterator[tuple[NodeIndex, bytes]] | None:
        """What :func:`resolution` gives; None unless all nodes are as a store has them."""
        return None

    def is_bare(self) -> bool:
        """Whether it is known that all nodes above the leaves are blank."""
        return False

    def present_hash(self) -> bytes | None:
        """The tree hash, if it has been computed before."""
        return self.hash

    def known_hash(self, suite: CipherSuite) -> bytes | None:
        """The tree hash, unless it must be computed from the children's."""
        return self.hash

    def equals(self, other: Subtree) -> bool:
        """Whether another subtree at the same place is known to hold the same: it is this one, or has its tree hash."""
        if self is other:
            return True
        known = self.present_hash()
        return known is not None and known == other.present_hash()


Change = tuple[NodeIndex, AnyNode | None, AnyNode | None]
"""Where a node was replaced, what it held, what it holds."""


def node_at(level: int, position: int) -> NodeIndex:
    """The node's index in the array of appendix C."""
    return NodeIndex((position << (level + 1)) | ((1 << level) - 1))


class Place(NamedTuple):
    """A subtree in its tree.

    :ivar level: of its root; 0 is a leaf
    :ivar position: among the subtrees of that level, from the left
    """

    subtree: Subtree
    level: int
    position: int

    @property
    def node(self) -> NodeIndex:
        """The index of the subtree's root."""
        return node_at(self.level, self.position)

    def above(self, leaf: LeafIndex) -> bool:
        """Whether a leaf is in the subtree."""
        return leaf >> self.level == self.position


def nodes_below(place: Place) -> Iterator[tuple[NodeIndex, AnyNode | bytes]]:
    """All nodes of a subtree that are not blank, from left to right; encoded, with their type, until somebody asks."""
    stack: list[tuple[Subtree, int, int, bool]] = [(*place, False)]
    while stack:
        subtree, level, position, left_done = stack.pop()
        if not subtree.occupied:
            continue
        if level and not left_done:
            stored = subtree.stored()
            if stored is not None:
                yield from stored
                continue
            stack.append((subtree, level, position, True))
            stack.append((subtree.children()[0], level - 1, 2 * position, False))
            continue
        held = subtree.held()
        if held is not None:
            yield node_at(level, position), held
        if level:
            stack.append((subtree.children()[1], level - 1, 2 * position + 1, False))


def resolution(place: Place, without: Collection[LeafIndex] = frozenset()) -> list[tuple[NodeIndex, bytes]]:
    """RFC 9420 4.1.1: the nodes that cover all members of a subtree, with their encryption keys.

    :param without: leaves to leave out (7.5: those just added)
    """
    found: list[tuple[NodeIndex, bytes]] = []
    stack: list[tuple[Subtree, int, int]] = [place]
    while stack:
        subtree, level, position = stack.pop()
        if not subtree.occupied:
            continue
        stored = subtree.stored_resolution()
        if stored is not None:
            found += (pair for pair in stored if pair[0] & 1 or pair[0] >> 1 not in without)
            continue
        content = subtree.content
        if isinstance(content, LeafNode):
            if position not in without:
                found.append((NodeIndex(2 * position), content.encryption_key))
        elif isinstance(content, ParentNode):
            found.append((node_at(level, position), content.encryption_key))
            for index in content.unmerged_leaves:
                if index not in without:
                    found.append((NodeIndex(2 * index), _key_below(subtree, level, index)))
        else:
            left, right = subtree.children()
            stack.append((right, level - 1, 2 * position + 1))
            stack.append((left, level - 1, 2 * position))
    return found


def resolution_size(subtree: Subtree) -> int:
    """How many nodes the resolution of a subtree has (RFC 9420 4.1.1)."""
    if subtree.covering is None:
        content = subtree.content
        if not subtree.occupied:
            subtree.covering = 0
        elif isinstance(content, ParentNode):
            subtree.covering = 1 + len(content.unmerged_leaves)
        elif content is not None or subtree.is_bare():
            subtree.covering = subtree.occupied
        else:
            left, right = subtree.children()
            subtree.covering = resolution_size(left) + resolution_size(right)
    return subtree.covering


def size_without(place: Place, without: Sequence[LeafIndex]) -> int:
    """How many nodes :func:`resolution` gives.

    :param without: leaves to leave out, sorted; each is in the resolution, as one that was just added is (12.1.1)
    """
    start, stop = place.position << place.level, (place.position + 1) << place.level
    return resolution_size(place.subtree) - (bisect_left(without, stop) - bisect_left(without, start))


def covering_nodes(place: Place, leaf: LeafIndex, without: Sequence[LeafIndex]) -> list[tuple[int, NodeIndex]]:
    """The nodes of a subtree's resolution that are a leaf or above it, and their numbers in it.

    O(log n), however long the resolution is.

    :param leaf: a leaf in the subtree
    :param without: see :func:`size_without`
    """
    subtree, level, position = place
    before = 0
    while subtree.content is None and level:
        left, right = subtree.children()
        if leaf >> (level - 1) & 1:
            before += size_without(Place(left, level - 1, 2 * position), without)
            subtree, position = right, 2 * position + 1
        else:
            subtree, position = left, 2 * position
        level -= 1
    content = subtree.content
    if content is None:
        return []
    found = [(before, node_at(level, position))]
    if isinstance(content, ParentNode) and leaf in content.unmerged_leaves:
        left_out = bisect_left(without, leaf) - bisect_left(without, position << level)
        found.append((before + 1 + bisect_left(content.unmerged_leaves, leaf) - left_out, NodeIndex(2 * leaf)))
    return found


def _key_below(subtree: Subtree, level: int, leaf: int) -> bytes:
    """The encryption key of an unmerged leaf, which is never blank (12.4.3.1; checked on decoding)."""
    while level:
        level -= 1
        subtree = subtree.children()[leaf >> level & 1]
    assert subtree.content is not None
    return subtree.content.encryption_key


def rewrite(
    root: Subtree,
    depth: int,
    leaves: Mapping[int, LeafNode | None],
    parent: Callable[[int, int, ParentNode | None], ParentNode | None],
    changes: list[Change],
) -> Subtree:
    """A tree with some leaves replaced, and the parents above them.

    :param depth: the root's level
    :param leaves: leaf index to the new content
    :param parent: called with level, position and content of each node above these leaves;
        returns the new content
    :param changes: every replaced content is added to it
    """
    # Which nodes lie above the changed leaves, bottom up ...
    positions: list[Iterable[int]] = [leaves]
    for _ in range(depth):
        positions.append({position >> 1 for position in positions[-1]})
    # ... what they are now, top down ...
    old: list[dict[int, Subtree]] = [{0: root}]
    for level in range(depth - 1, -1, -1):
        above = old[-1]
        layer = {}
        for position in positions[level]:
            layer[position] = above[position >> 1].children()[position & 1]
        old.append(layer)
    old.reverse()
    # ... and what they become, bottom up.
    new: dict[int, Subtree] = {}
    for index, leaf in leaves.items():
        changes.append((NodeIndex(2 * index), old[0][index].content, leaf))
        new[index] = Subtree(leaf, occupied=0 if leaf is None else 1)
    for level in range(1, depth + 1):
        below, new = new, {}
        for position, before in old[level].items():
            left, right = before.children()
            left = below.get(2 * position, left)
            right = below.get(2 * position + 1, right)
            held = before.content
            content = parent(level, position, held)  # type: ignore[arg-type]
            if content is not held:
                changes.append((node_at(level, position), held, content))
            new[position] = Subtree(content, left, right, left.occupied + right.occupied)
    return new[0]


# --- tree hashes -----------------------------------------------------------------------------


def leaf_hash(suite: CipherSuite, index: int, encoded: bytes | None) -> bytes:
    """RFC 9420 7.8: hash of a TreeHashInput with a LeafNodeHashInput; `encoded` is the LeafNode."""
    if encoded is None:
        return suite.hash(b"\x01" + index.to_bytes(4, "big") + b"\x00")
    return suite.hash(b"\x01" + index.to_bytes(4, "big") + b"\x01" + encoded)


def parent_node_hash(suite: CipherSuite, content: ParentNode | None, left: bytes, right: bytes) -> bytes:
    """RFC 9420 7.8: hash of a TreeHashInput with a ParentNodeHashInput."""
    return parent_hash_of(suite, None if content is None else content.encode(), left, right)


def parent_hash_of(suite: CipherSuite, encoded: bytes | None, left: bytes, right: bytes) -> bytes:
    """The same from the ParentNode's octets; None if it is blank."""
    size = encode_varint(len(left))
    if encoded is None:
        return suite.hash(b"".join((b"\x02\x00", size, left, size, right)))
    return suite.hash(b"".join((b"\x02\x01", encoded, size, left, size, right)))


def tree_hash(suite: CipherSuite, subtree: Subtree, level: int, position: int) -> bytes:
    """RFC 9420 7.8; only nodes that have no hash yet are computed."""
    known = subtree.known_hash(suite)
    if known is not None:
        return known
    stack = [(subtree, level, position)]
    while stack:
        node, level, position = stack[-1]
        if level == 0:
            node.hash = leaf_hash(suite, position, None if node.content is None else node.content.encode())
            stack.pop()
            continue
        left, right = node.children()
        below = left.known_hash(suite), right.known_hash(suite)
        if below[0] is None:
            stack.append((left, level - 1, 2 * position))
        if below[1] is None:
            stack.append((right, level - 1, 2 * position + 1))
        if below[0] is not None and below[1] is not None:
            node.hash = parent_node_hash(suite, node.content, *below)  # type: ignore[arg-type]
            stack.pop()
    assert subtree.hash is not None
    return subtree.hash
