"""The nodes of a ratchet tree as a store has them: encoded, and decoded when somebody asks for one.

A client needs few of the nodes of a large group: its own leaf, those who speak, and the nodes beside the path of a
Commit.  :class:`StoredNodes` keeps the octets of 1,024 members in one string, with a table of where each begins: a
quarter of what they take decoded.  A :class:`StoredSubtree` is a view of a part of it; its children are made when
somebody goes there.  Both are as immutable as the rest of the tree, and a change makes ordinary subtrees above what it
leaves alone::

    W'                     an ordinary Subtree, after a Commit
    ├── X'  (Subtree)
    └── Y   (StoredSubtree) ──► StoredNodes: "L4 P9 L5 ..."

Whoever walks over all nodes gets their octets, and nothing that is made on the way stays in memory.  Of the nodes that
are asked for one by one, as the leaves of those who speak are, the last ones stay.

*Where they come from.*  The nodes of a group in a store, and of a large tree that somebody gave us, are stored ones
from the beginning.  Those that Commits bring are ordinary subtrees at first; :func:`compacted` makes stored ones of
them.

Tree hashes of wide trees come from :mod:`.hash_records`, as far as there are records for exactly these nodes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from ...errors import InvalidError, PeerError
from ..crypto.cipher_suite import CipherSuite
from ..structures.parent_node import AnyNode, NodeType, ParentNode, node_codec
from ..tls import Opaque
from .hash_records import PART, recorded_hash
from .subtree import Place, Subtree, leaf_hash, node_at, nodes_below, parent_hash_of
from .tree_math import NodeIndex, padded

__all__ = ["StoredNodes", "StoredSubtree", "compacted", "decoded", "encoded", "holds_same", "unread"]

_KEPT = 256  # nodes asked for one by one that stay decoded


class StoredNodes:
    """The encoded nodes of one tree, or of a part of one.  Immutable but for what is computed late."""

    __slots__ = ("_begins", "_decoded", "_hashes", "_leaves", "_octets", "_places", "_records")

    def __init__(self, nodes: Iterable[tuple[int, bytes]], records: Mapping[int, bytes] = MappingProxyType({})) -> None:
        """
        :param nodes: the index of each node that is not blank, and its octets with its type, from left to right
        :param records: of hashes (:mod:`.hash_records`), by the index of the subtree's root
        :raises InvalidError: the nodes are no ratchet tree
        """
        self._places = array("I")
        self._begins = array("Q", [0])
        self._leaves = array("I")  # indices of leaves, not of nodes
        parts, total, last = [], 0, -1
        for place, octets in nodes:
            if place <= last:
                raise InvalidError(f"node {place} behind node {last}", "RFC 9420 12.4.3.3")
            last = place
            if octets[:1] != _TYPES[place & 1]:
                raise InvalidError(f"node {place} is of the other type", "RFC 9420 12.4.3.3")
            if not place & 1:
                self._leaves.append(place >> 1)
            total += len(octets)
            self._places.append(place)
            self._begins.append(total)
            parts.append(octets)
        if not self._leaves:
            raise InvalidError("a tree without members", "RFC 9420 12.4.3.3")
        self._octets = b"".join(parts)
        self._records = records
        self._hashes: dict[NodeIndex, bytes] = {}  # of parts, and of what is above them
        self._decoded: dict[NodeIndex, AnyNode] = {}

    @property
    def depth(self) -> int:
        """The level of the root of the smallest tree that has all these nodes."""
        return (padded((self._places[-1] + 1) // 2 + 1) - 1).bit_length()

    def root(self) -> Subtree:
        """All of the tree.

        Each subtree of level :data:`PIECE` has a string of its own, or the last of them to be stored anew would keep
        the octets of all others in memory.

        :raises InvalidError: the store is damaged
        """
        return self._view(self.depth, 0)

    def _view(self, level: int, position: int) -> Subtree:
        if level <= PIECE or not self.occupied(level, position):
            nodes = self if level == self.depth else self._part(level, position)
            return StoredSubtree(nodes, level, position)
        left, right = self._view(level - 1, 2 * position), self._view(level - 1, 2 * position + 1)
        made = Subtree(self.node(node_at(level, position)), left, right, left.occupied + right.occupied)
        made.loose = left.loose + right.loose  # as new as it can be
        return made

    def _part(self, level: int, position: int) -> StoredNodes:
        """The nodes of a subtree, by themselves."""
        first, last = self._span(level, position)
        begin, end = self._begins[first], self._begins[last]
        low = bisect_left(self._leaves, position << level)
        part = StoredNodes.__new__(StoredNodes)
        part._places = self._places[first:last]
        part._begins = array("Q", [each - begin for each in self._begins[first : last + 1]])
        part._leaves = self._leaves[low : bisect_left(self._leaves, (position + 1) << level, low)]
        part._octets = self._octets[begin:end]
        part._records, part._hashes = self._records, {}
        part._decoded = self._decoded  # so many of the tree, and not of each part
        return part

    def occupied(self, level: int, position: int) -> int:
        """How many leaves below a node are not blank."""
        leaves = self._leaves
        first = bisect_left(leaves, position << level)
        return bisect_left(leaves, (position + 1) << level, first) - first

    def has_leaf(self, index: int) -> bool:
        """Whether a leaf is not blank."""
        at = bisect_left(self._leaves, index)
        return at < len(self._leaves) and self._leaves[at] == index

    def count(self, level: int, position: int) -> int:
        """How many nodes are not blank: a node and all below it."""
        first, last = self._span(level, position)
        return last - first

    def _span(self, level: int, position: int) -> tuple[int, int]:
        """Where a node and all below it stand in the tables."""
        first = bisect_left(self._places, position << (level + 1))
        return first, bisect_left(self._places, ((position + 1) << (level + 1)) - 1, first)

    def octets(self, place: NodeIndex) -> bytes | None:
        """One node with its type; None if it is blank."""
        at = bisect_left(self._places, place)
        if at == len(self._places) or self._places[at] != place:
            return None
        return self._octets[self._begins[at] : self._begins[at + 1]]

    def node(self, place: NodeIndex) -> AnyNode | None:
        """One node, decoded; None if it is blank.

        :raises InvalidError: the store is damaged
        """
        known = self._decoded.get(place)
        if known is None and (octets := self.octets(place)) is not None:
            known = decoded(octets)
            if len(self._decoded) >= _KEPT:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[place] = known
        return known

    def below(self, level: int, position: int) -> Iterator[tuple[NodeIndex, bytes]]:
        """A node and all below it that are not blank, from left to right."""
        places, begins = self._places, self._begins
        for at in range(*self._span(level, position)):
            yield NodeIndex(places[at]), self._octets[begins[at] : begins[at + 1]]

    def resolution(self, level: int, position: int) -> Iterator[tuple[NodeIndex, bytes]]:
        """RFC 9420 4.1.1: the nodes that cover all members of a subtree, with their encryption keys.

        No leaf is decoded, and no subtree is made: below blank nodes a resolution has all members.

        :raises InvalidError: the store is damaged
        """
        stack = [(level, position)]
        while stack:
            level, position = stack.pop()
            node = node_at(level, position)
            octets = self.octets(node) if level else None
            if octets is not None:
                parent = decoded(octets)
                assert isinstance(parent, ParentNode)
                yield node, parent.encryption_key
                for index in parent.unmerged_leaves:
                    leaf = self.octets(NodeIndex(2 * index))
                    if leaf is None:
                        raise InvalidError(f"leaf {index} is unmerged and blank", "RFC 9420 12.4.3.1")
                    yield NodeIndex(2 * index), _key_in(leaf)
            elif self.count(level, position) == self.occupied(level, position):  # leaves only
                for place, leaf in self.below(level, position):
                    yield place, _key_in(leaf)
            else:
                stack.append((level - 1, 2 * position + 1))
                stack.append((level - 1, 2 * position))

    def known_hash(self, level: int, position: int) -> bytes | None:
        """RFC 9420 7.8, if it has been computed before; of larger subtrees only."""
        return self._hashes.get(node_at(level, position))

    def tree_hash(self, suite: CipherSuite, level: int, position: int) -> bytes:
        """RFC 9420 7.8.  Computed without decoding nodes, as far as no record tells it."""
        if level < PART:
            return self._hash_of_nodes(suite, level, position)
        node = node_at(level, position)
        known = self._hashes.get(node) or self._recorded(suite, level, position)
        if known is None and level == PART:
            known = self._hash_of_nodes(suite, level, position)
        elif known is None:
            octets = self.octets(node)
            left = self.tree_hash(suite, level - 1, 2 * position)
            right = self.tree_hash(suite, level - 1, 2 * position + 1)
            known = parent_hash_of(suite, None if octets is None else octets[1:], left, right)
        self._hashes[node] = known
        return known

    def take_hashes(self, subtree: Subtree, level: int, position: int) -> None:
        """Spare :meth:`tree_hash` what is known from an equal subtree."""
        known = subtree.present_hash()
        if known is not None:
            self._hashes[node_at(level, position)] = known
        if level > PART:
            for side, child in enumerate(subtree.children()):
                self.take_hashes(child, level - 1, 2 * position + side)

    def _recorded(self, suite: CipherSuite, level: int, position: int) -> bytes | None:
        """The hash in a record that is about these nodes and no others."""
        record = self._records.get(node_at(level, position))
        if record is None:
            return None
        first, last = self._span(level, position)
        return recorded_hash(
            suite, record, self._places[first:last], self._octets[self._begins[first] : self._begins[last]]
        )

    def _hash_of_nodes(self, suite: CipherSuite, level: int, position: int) -> bytes:
        held = dict(self.below(level, position))
        layer = []
        for index in range(position << level, (position + 1) << level):
            leaf = held.get(NodeIndex(2 * index))
            layer.append(leaf_hash(suite, index, None if leaf is None else leaf[1:]))
        for height in range(1, level + 1):
            below, layer = layer, []
            first = position << (level - height)
            for at in range(len(below) // 2):
                parent = held.get(node_at(height, first + at))
                encoded = None if parent is None else parent[1:]
                layer.append(parent_hash_of(suite, encoded, below[2 * at], below[2 * at + 1]))
        return layer[0]


_read_key = Opaque().read
_TYPES = bytes([NodeType.LEAF]), bytes([NodeType.PARENT])  # RFC 9420 appendix C: leaves have even indices


class StoredSubtree(Subtree):
    """A subtree whose nodes are in a :class:`StoredNodes`.

    :ivar nodes: where they are
    """

    __slots__ = ("_level", "_position", "_unread", "nodes")

    def __init__(self, nodes: StoredNodes, level: int, position: int) -> None:
        super().__init__(None, occupied=nodes.occupied(level, position))
        self.loose = 0
        self.nodes = nodes
        self._level = level
        self._position = position
        self._unread = True

    @property
    def content(self) -> AnyNode | None:
        """What the node holds, None if it is blank.

        :raises InvalidError: the store is damaged
        """
        if self._unread:
            self._content = self.nodes.node(node_at(self._level, self._position))
            self._unread = False
        return self._content

    def held(self) -> AnyNode | bytes | None:
        """The same as it is kept: encoded, if nobody has asked before."""
        return self.nodes.octets(node_at(self._level, self._position)) if self._unread else self._content

    def unread(self) -> StoredSubtree:
        """See :func:`unread`."""
        return StoredSubtree(self.nodes, self._level, self._position)

    def children(self) -> tuple[Subtree, Subtree]:
        if self.left is None or self.right is None:
            self.right = StoredSubtree(self.nodes, self._level - 1, 2 * self._position + 1)
            self.left = StoredSubtree(self.nodes, self._level - 1, 2 * self._position)
        return self.left, self.right

    def stored(self) -> Iterator[tuple[NodeIndex, bytes]] | None:
        return None if self.left is not None else self.nodes.below(self._level, self._position)

    def stored_resolution(self) -> Iterator[tuple[NodeIndex, bytes]] | None:
        return self.nodes.resolution(self._level, self._position)

    def is_bare(self) -> bool:
        return self.occupied == self.nodes.count(self._level, self._position)

    def present_hash(self) -> bytes | None:
        return self.hash or self.nodes.known_hash(self._level, self._position)

    def known_hash(self, suite: CipherSuite) -> bytes | None:
        if self.hash is None:
            self.hash = self.nodes.tree_hash(suite, self._level, self._position)
        return self.hash


def _key_in(octets: bytes) -> bytes:
    """The encryption key of a node, its first field, from its octets with its type."""
    return _read_key(octets, 1, len(octets))[0]


def unread(subtree: Subtree, level: int) -> Subtree:
    """The same subtree, without what those who went there have made of its stored nodes."""
    if isinstance(subtree, StoredSubtree):
        return subtree.unread()
    if level <= PIECE or subtree.left is None or subtree.right is None:
        return subtree
    left, right = unread(subtree.left, level - 1), unread(subtree.right, level - 1)
    made = Subtree(subtree.content, left, right, subtree.occupied)
    made.hash, made.covering = subtree.hash, subtree.covering
    return made


def encoded(held: AnyNode | bytes) -> bytes:
    """The octets of a node with its type."""
    return held if isinstance(held, bytes) else node_codec.encode(held)


def holds_same(one: AnyNode | bytes | None, other: AnyNode | bytes | None) -> bool:
    """Whether two nodes are the same, each as it is held: decoded, encoded with its type, or blank."""
    if one is other:
        return True
    if one is None or other is None:
        return False
    if isinstance(one, bytes) != isinstance(other, bytes):
        return encoded(one) == encoded(other)
    return one == other


def decoded(octets: bytes) -> AnyNode:
    """A node from its octets with its type.

    :raises InvalidError: they are none
    """
    try:
        node: AnyNode = node_codec.decode(octets)
    except PeerError as error:
        raise InvalidError(f"a stored node of a ratchet tree: {error}") from error
    return node


PIECE = 10
"""The level of the root of the largest subtree that has one string.  :func:`compacted` makes stored nodes of so many at
once: 1,024 leaves, a few milliseconds."""
_FEWEST = 64  # ordinary nodes that are worth it


def compacted(root: Subtree, depth: int) -> Subtree:
    """The same tree, with stored nodes in place of ordinary ones where these have become many.

    Each subtree of level :data:`PIECE` is a case of its own: when it has as many ordinary nodes as it has members, all
    of it is stored anew.  So many changes have come before that this costs each of them little more than itself, and
    the nodes that the changes have replaced go with the old string.

    :param depth: the root's level
    """
    return _compacted(root, depth, 0)


def _compacted(subtree: Subtree, level: int, position: int) -> Subtree:
    if subtree.loose < _FEWEST:
        return subtree
    if not subtree.occupied:
        made = Subtree()
    elif level > PIECE:
        left, right = subtree.children()
        new_left = _compacted(left, level - 1, 2 * position)
        new_right = _compacted(right, level - 1, 2 * position + 1)
        if new_left is left and new_right is right:
            return subtree
        made = Subtree(subtree.content, new_left, new_right, subtree.occupied)
    elif subtree.loose < subtree.occupied:
        return subtree
    else:
        nodes = StoredNodes((place, encoded(held)) for place, held in nodes_below(Place(subtree, level, position)))
        nodes.take_hashes(subtree, level, position)
        made = StoredSubtree(nodes, level, position)
    made.hash, made.covering = subtree.present_hash(), subtree.covering
    return made
