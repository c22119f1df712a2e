"""The public part of a group's ratchet tree (RFC 9420 section 7).

A :class:`RatchetTree` is a value: what changes it returns another tree.  Both share what is
the same in them, so that a change costs O(log n) of the group's size, in time and in memory,
whether or not the old tree is kept::

    tree ─────────────► W              W' ◄──────── tree.update(B, ...)
                      ┌─┴──┐        ┌──┴─┐
                      │    └──► Y ◄─│────┘
                      X             X'
                    ┌─┴─┐         ┌─┴─┐
                    A   B         │   B'
                    ▲             │
                    └─────────────┘

It consists of the nodes (:mod:`.subtree`) with their tree hashes, and an index
(:mod:`.tree_index`) of the keys and capabilities in it.  A tree that was decoded has sound
structure and unique keys; whether to believe it is for :mod:`.tree_validation` to say.
A tree from a store has been that once: its index is made when a Commit needs it.

Most nodes of a large tree are encoded, and decoded when somebody asks for one (:mod:`.stored_nodes`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..structures.leaf_node import LeafNode
from ..structures.leaf_outline import LeafOutline
from ..structures.parent_node import MAX_MEMBERS, AnyNode, ParentNode
from ..varint import encode_varint
from . import hash_records
from .encoded_tree import read_nodes
from .stored_nodes import StoredNodes, StoredSubtree, compacted, decoded, encoded, holds_same, unread
from .subtree import Change, Place, Subtree, node_at, nodes_below, resolution, rewrite, tree_hash
from .tree_index import Feature, TreeIndex
from .tree_math import LeafIndex, NodeIndex, leaves_under, level, padded

__all__ = ["MAX_MEMBERS", "RatchetTree"]

_LARGE = 1 << 20  # octets of an encoded tree from which on none of its nodes stays decoded: some 4,000 members
_TOGETHER = 4096  # parent nodes on a walk
_LEAST_COMPACT = 8  # the level of the root of the smallest trees that :meth:`RatchetTree.compact` changes


class RatchetTree:
    """The nodes of a group's tree.  Immutable.

    :ivar suite: the group's cipher suite
    """

    __slots__ = ("_depth", "_made_index", "_recorded", "_root", "suite")

    def __init__(
        self, suite: CipherSuite, root: Subtree, depth: int, index: TreeIndex | None, *, recorded: bool = True
    ) -> None:
        """For this module's use; see :meth:`single`, :meth:`decode`, :meth:`restore`.

        :param index: None: it is made when it is needed
        :param recorded: False: it comes from a store that lacks the records of its hashes
        """
        self.suite = suite
        self._root = root
        self._depth = depth
        self._made_index = index
        self._recorded = recorded

    def __repr__(self) -> str:
        return f"<RatchetTree of {self.member_count} members, {self.leaf_count} leaves>"

    # --- making one --------------------------------------------------------------------------

    @classmethod
    def single(cls, suite: CipherSuite, leaf: LeafNode) -> RatchetTree:
        """The tree of a new group (RFC 9420 11)."""
        return cls.from_nodes(suite, [leaf])

    @classmethod
    def from_nodes(cls, suite: CipherSuite, nodes: Sequence[AnyNode | None]) -> RatchetTree:
        """A tree from its array of nodes (appendix C); missing ones at the end are blank.

        :raises InvalidError: the nodes are no ratchet tree
        """
        count = len(nodes)
        while count and nodes[count - 1] is None:
            count -= 1
        if not count:
            raise InvalidError("a tree without members", "RFC 9420 12.4.3.3")
        width = padded(count // 2 + 1)

        def has_leaf(index: int) -> bool:
            return 2 * index < count and nodes[2 * index] is not None

        filled: list[tuple[NodeIndex, AnyNode]] = []
        layer = []
        for index in range(0, count, 2):
            leaf = nodes[index]
            if leaf is None:
                layer.append(Subtree())
                continue
            if not isinstance(leaf, LeafNode):
                raise InvalidError("a parent node where a leaf should be", "RFC 9420 12.4.3.3")
            filled.append((NodeIndex(index), leaf))
            layer.append(Subtree(leaf, occupied=1))
        height = 0
        while width >> height > 1:
            height += 1
            if len(layer) % 2:
                layer.append(Subtree())
            above = []
            for position in range(len(layer) // 2):
                left, right = layer[2 * position], layer[2 * position + 1]
                place = node_at(height, position)
                content = nodes[place] if place < count else None
                occupied = left.occupied + right.occupied
                if content is not None:
                    if not isinstance(content, ParentNode):
                        raise InvalidError("a leaf where a parent node should be", "RFC 9420 12.4.3.3")
                    if not occupied:
                        raise InvalidError("a parent node with no member below it", "RFC 9420 7.9.2")
                    _check_unmerged(content, place, has_leaf)
                    filled.append((place, content))
                above.append(Subtree(content, left, right, occupied) if occupied else Subtree())
            layer = above
        return cls(suite, layer[0], height, TreeIndex.of(filled))

    @classmethod
    def decode(cls, suite: CipherSuite, data: bytes, *, max_leaves: int = MAX_MEMBERS) -> RatchetTree:
        """The tree in a `ratchet_tree` extension (RFC 9420 12.4.3.3).

        :param max_leaves: a wider tree is refused
        :raises MalformedError: it does not parse, or is over the limit
        :raises InvalidError: it parses and is no ratchet tree
        """
        read = read_nodes(suite, data, max_leaves)
        if len(data) >= _LARGE:
            return cls._of_octets(suite, read)
        nodes: list[AnyNode | None] = []
        for place, node, octets in read:
            nodes += [None] * (place - len(nodes))
            if isinstance(node, LeafNode):
                node.keep_encoding(octets[1:])  # encodings are canonical: this is what encode() would give
            nodes.append(node)
        return cls.from_nodes(suite, nodes)

    @classmethod
    def _of_octets(cls, suite: CipherSuite, read: Iterable[tuple[NodeIndex, AnyNode, bytes]]) -> RatchetTree:
        """A large tree, of which no more than one node is decoded at a time."""
        parents: list[NodeIndex] = []
        unmerged: list[tuple[NodeIndex, ParentNode]] = []

        def pieces() -> Iterator[tuple[NodeIndex, bytes]]:
            for place, node, octets in read:
                if isinstance(node, ParentNode):
                    parents.append(place)
                    if node.unmerged_leaves:
                        unmerged.append((place, node))
                yield place, octets

        nodes = StoredNodes(pieces())
        for place in parents:
            height = level(place)
            if not nodes.occupied(height, place >> (height + 1)):
                raise InvalidError("a parent node with no member below it", "RFC 9420 7.9.2")
        for place, content in unmerged:
            _check_unmerged(content, place, nodes.has_leaf)
        tree = cls(suite, nodes.root(), nodes.depth, None)
        del nodes  # the index needs as much memory
        tree._made_index = TreeIndex.of(tree._nodes())
        return tree

    def encode(self) -> bytes:
        """The content of a `ratchet_tree` extension (RFC 9420 12.4.3.3)."""
        out = bytearray()
        last = -1
        for place, octets in self._encoded():
            out += bytes(place - last - 1)
            out.append(1)
            out += octets
            last = place
        return encode_varint(len(out)) + bytes(out)

    # --- looking ------------------------------------------------------------------------------

    @property
    def leaf_count(self) -> int:
        """The tree's width: leaves, blank ones included.  A power of two."""
        return 1 << self._depth

    @property
    def member_count(self) -> int:
        """Leaves that are not blank."""
        return self._root.occupied

    def leaf(self, index: int) -> LeafNode | None:
        """The leaf, or None where it is blank or outside the tree."""
        content = self.node(NodeIndex(2 * index))
        assert content is None or isinstance(content, LeafNode)
        return content

    def member(self, index: int) -> LeafNode:
        """The leaf of a member that must be there.

        :raises InvalidError: it is blank or outside the tree
        """
        leaf = self.leaf(index)
        if leaf is None:
            raise InvalidError(f"leaf {index} is no member", "RFC 9420 7.1")
        return leaf

    def check_member(self, index: int) -> None:
        """RFC 9420 12.1.3.

        :raises InvalidError: the leaf is blank or outside the tree
        """
        self.member(index)

    def node(self, node: NodeIndex) -> AnyNode | None:
        """The content of a node; None where it is blank or outside the tree."""
        if not 0 <= node < 2 * self.leaf_count - 1:
            return None
        height, subtree = level(node), self._root
        for above in range(self._depth - 1, height - 1, -1):
            if isinstance(subtree, StoredSubtree):
                return subtree.nodes.node(node)  # and no subtrees are made on the way
            subtree = subtree.children()[node >> (above + 1) & 1]
        return subtree.content

    def place(self, node: NodeIndex) -> Place:
        """A node inside the tree, with all below it."""
        return self._place(self._root, node)

    def _place(self, root: Subtree, node: NodeIndex) -> Place:
        height, subtree = level(node), root
        for above in range(self._depth - 1, height - 1, -1):
            subtree = subtree.children()[node >> (above + 1) & 1]
        return Place(subtree, height, node >> (height + 1))

    def members(self) -> Iterator[tuple[LeafIndex, LeafNode]]:
        """All members from left to right."""
        for place, held in self._nodes():
            if not place & 1:
                leaf = decoded(held) if isinstance(held, bytes) else held
                assert isinstance(leaf, LeafNode)
                yield LeafIndex(place >> 1), leaf

    def parents(self) -> Iterator[tuple[NodeIndex, ParentNode]]:
        """All parent nodes that are not blank, from left to right."""
        for place, held in self._nodes():
            if place & 1:
                parent = decoded(held) if isinstance(held, bytes) else held
                assert isinstance(parent, ParentNode)
                yield place, parent

    def parent_places(self) -> Iterator[tuple[Place, ParentNode]]:
        """The same with all below each of them.

        What the caller has decoded there is not kept for long: a walk does not decode a large tree as a whole.
        """
        seen = self._root
        for number, (node, content) in enumerate(self.parents()):
            if number % _TOGETHER == 0:
                seen = unread(seen, self._depth)
            yield self._place(seen, node), content

    def outlines(self) -> Iterator[tuple[LeafIndex, LeafOutline]]:
        """All members from left to right, of each what indexes are made of: faster than :meth:`members`."""
        for place, held in self._nodes():
            if not place & 1:
                octets = held[1:] if isinstance(held, bytes) else held.encode()
                yield LeafIndex(place >> 1), LeafOutline.of(octets)

    def leaf_by_signature_key(self, key: bytes) -> LeafIndex | None:
        """Whose signature key this is.  Beware: leaf 0 is a leaf."""
        return self._index.signature_keys.get(key)

    def node_by_encryption_key(self, key: bytes) -> NodeIndex | None:
        """Which leaf or parent node has this encryption key.  Beware: node 0 is a node."""
        return self._index.encryption_keys.get(key)

    def has_key(self, node: NodeIndex, key: bytes) -> bool:
        """Whether a node has this encryption key."""
        return self._index.encryption_keys.get(key) == node

    def supported_by_all(self, feature: Feature, number: int) -> bool:
        """Whether every member lists a code point in its Capabilities.  Defaults (RFC 9420 7.2) are not listed."""
        return self._index.supporting(feature, number) == self.member_count

    def credential_types(self) -> frozenset[int]:
        """The types of the members' credentials (RFC 9420 7.3: those "currently in use")."""
        return frozenset(self._index.credentials)

    def resolution(self, node: NodeIndex) -> list[NodeIndex]:
        """RFC 9420 4.1.1: the nodes that cover all members below `node`."""
        return [covering for covering, _ in resolution(self.place(node))]

    def filtered_direct_path(self, leaf: LeafIndex) -> list[tuple[NodeIndex, Place]]:
        """RFC 9420 4.1.2: the nodes above a leaf whose other child has members below it, lowest
        first; with each the other child, the copath node, and what is there.
        """
        path = []
        subtree = self._root
        for height in range(self._depth, 0, -1):
            children = subtree.children()
            side = leaf >> (height - 1)
            beside = children[~side & 1]
            if beside.occupied:  # an empty resolution is a subtree without members
                path.append((node_at(height, leaf >> height), Place(beside, height - 1, side ^ 1)))
            subtree = children[side & 1]
        path.reverse()
        return path

    def tree_hash(self) -> bytes:
        """RFC 9420 7.8: the root's."""
        return tree_hash(self.suite, self._root, self._depth, 0)

    def node_hash(self, node: NodeIndex) -> bytes:
        """RFC 9420 7.8: the tree hash of one node."""
        return tree_hash(self.suite, *self.place(node))

    # --- changing -----------------------------------------------------------------------------

    def apply(
        self,
        updates: Mapping[LeafIndex, LeafNode],
        removes: Collection[LeafIndex],
        adds: Sequence[LeafNode],
    ) -> tuple[RatchetTree, list[LeafIndex]]:
        """The tree after Updates, Removes and Adds, in this order (RFC 9420 12.3), and where the Adds went.

        Keys must be unique in the result; on the way there they may change places.

        :raises InvalidError: an updated or removed leaf is no member, nobody is left, or two
            nodes would have the same key
        """
        if not updates and not removes and not adds:
            return self, []
        root, depth = self._root, self._depth
        changes: list[Change] = []
        leaves: dict[int, LeafNode | None] = {index: leaf for index, leaf in updates.items()}
        leaves.update(dict.fromkeys(removes))
        for index in leaves:
            self.member(index)  # RFC 9420 12.1.2, 12.1.3: there must be one
        if leaves:
            root = rewrite(root, depth, leaves, _blank, changes)
            root, depth = _truncated(root, depth, changes)
        indices: list[LeafIndex] = []
        if adds:
            indices = list(islice(_blank_leaves(root, depth), len(adds)))
            while len(indices) < len(adds):  # RFC 9420 7.7: extend
                room = range(1 << depth, 1 << (depth + 1))[: len(adds) - len(indices)]
                indices += [LeafIndex(index) for index in room]
                root, depth = Subtree(None, root, Subtree(), root.occupied), depth + 1
            root = rewrite(root, depth, dict(zip(indices, adds, strict=True)), _unmerged_adder(indices), changes)
        if not root.occupied:
            raise InvalidError("nobody would be left", "RFC 9420 12.1.3")
        return RatchetTree(self.suite, root, depth, self._index.changed(changes)), indices

    def add(self, leaf: LeafNode) -> tuple[RatchetTree, LeafIndex]:
        """RFC 9420 12.1.1: a member more, at the leftmost blank leaf; and where that is."""
        tree, (index,) = self.apply({}, (), (leaf,))
        return tree, index

    def update(self, index: LeafIndex, leaf: LeafNode) -> RatchetTree:
        """RFC 9420 12.1.2: another leaf for a member; the nodes above become blank."""
        return self.apply({index: leaf}, (), ())[0]

    def remove(self, index: LeafIndex) -> RatchetTree:
        """RFC 9420 12.1.3: a member less; the nodes above become blank, the tree as narrow as can be."""
        return self.apply({}, (index,), ())[0]

    def with_room(self) -> tuple[RatchetTree, LeafIndex]:
        """The leftmost blank leaf, and the tree made wider if it had none (RFC 9420 12.4.3.2)."""
        for index in _blank_leaves(self._root, self._depth):
            return self, index
        root = Subtree(None, self._root, Subtree(), self._root.occupied)
        wider = RatchetTree(self.suite, root, self._depth + 1, self._made_index, recorded=self._recorded)
        return wider, LeafIndex(self.leaf_count)

    def set_path(self, index: LeafIndex, leaf: LeafNode, parents: Mapping[NodeIndex, ParentNode]) -> RatchetTree:
        """RFC 9420 7.5: a member's leaf and the nodes above it replaced; those not given become blank.

        :param index: of a member, or of a blank leaf that somebody joins at
        :raises InvalidError: two nodes would have the same key
        """
        if not 0 <= index < self.leaf_count:
            raise InvalidError(f"leaf {index} is outside the tree", "RFC 9420 7.5")

        def parent(height: int, position: int, _: ParentNode | None) -> ParentNode | None:
            return parents.get(node_at(height, position))

        changes: list[Change] = []
        root = rewrite(self._root, self._depth, {index: leaf}, parent, changes)
        return RatchetTree(self.suite, root, self._depth, self._index.changed(changes))

    # --- keeping ------------------------------------------------------------------------------

    def compact(self) -> RatchetTree:
        """The same tree, with encoded nodes in place of those that Commits have brought, if these are many.

        It may be called after each Commit: :func:`.stored_nodes.compacted` says when it does something.  A tree shares
        as much with the trees before and after it as it did, as far as :meth:`changes_since` is concerned.
        """
        if self._depth < _LEAST_COMPACT:
            return self
        root = compacted(self._root, self._depth)
        if root is self._root:
            return self
        return RatchetTree(self.suite, root, self._depth, self._made_index, recorded=self._recorded)

    def pieces(self) -> dict[bytes, bytes]:
        """The tree for a store: each node that is not blank under its index, four octets big endian."""
        return dict(self.each_piece())

    def each_piece(self) -> Iterator[tuple[bytes, bytes]]:
        """The same, one by one."""
        for place, octets in self._encoded():
            yield place.to_bytes(4, "big"), octets

    def changes_since(self, old: RatchetTree) -> dict[bytes, bytes | None]:
        """The pieces that differ from an older tree's; None for those that are no longer.

        O(changes log n) for trees that come from each other.
        """
        changes: dict[bytes, bytes | None] = {}
        depth = max(self._depth, old._depth)
        stack: list[tuple[int, int, Subtree | None, Subtree | None]] = [
            (depth, 0, _widened(self._root, self._depth, depth), _widened(old._root, old._depth, depth))
        ]
        while stack:
            height, position, new, before = stack.pop()
            if new is before or (new is not None and before is not None and new.equals(before)):
                continue
            held, was = None if new is None else new.held(), None if before is None else before.held()
            if not holds_same(held, was):
                changes[node_at(height, position).to_bytes(4, "big")] = None if held is None else encoded(held)
            if height:
                (left, right), (old_left, old_right) = _children(new), _children(before)
                stack.append((height - 1, 2 * position, left, old_left))
                stack.append((height - 1, 2 * position + 1, right, old_right))
        return changes

    def hash_records(self) -> dict[bytes, bytes]:
        """The tree's hashes for a store, beside its pieces; see :mod:`.hash_records`."""
        return {name: record for name, record in self._hash_changes(None) if record is not None}

    def hash_record_changes_since(self, old: RatchetTree) -> dict[bytes, bytes | None]:
        """The records that differ from an older tree's, as :meth:`changes_since`; all, if the store lacks those."""
        return {} if self is old else dict(self._hash_changes(old if old._recorded else None))

    def _hash_changes(self, old: RatchetTree | None) -> Iterator[tuple[bytes, bytes | None]]:
        wide = self._depth >= hash_records.LEAST_DEPTH
        new = (self._root, self._depth) if wide else None
        before = (old._root, old._depth) if old is not None and old._depth >= hash_records.LEAST_DEPTH else None
        if new is before is None:
            return
        for node, place in hash_records.differing(new, before):
            yield node.to_bytes(4, "big"), None if place is None else hash_records.record(self.suite, place)

    @classmethod
    def restore(
        cls, suite: CipherSuite, pieces: Mapping[bytes, bytes], records: Mapping[bytes, bytes] = MappingProxyType({})
    ) -> RatchetTree:
        """The tree from its pieces.

        :param records: of its hashes; none, if the store is of before 0.2
        :raises InvalidError: they make up no tree
        """
        nodes = StoredNodes(
            ((int.from_bytes(key, "big"), pieces[key]) for key in sorted(pieces)),
            {int.from_bytes(key, "big"): record for key, record in records.items()},
        )
        recorded = bool(records) or nodes.depth < hash_records.LEAST_DEPTH
        return cls(suite, nodes.root(), nodes.depth, None, recorded=recorded)

    # --- inside -------------------------------------------------------------------------------

    @property
    def _index(self) -> TreeIndex:
        if self._made_index is None:
            self._made_index = TreeIndex.of(self._nodes())
        return self._made_index

    def _nodes(self) -> Iterator[tuple[NodeIndex, AnyNode | bytes]]:
        return nodes_below(Place(self._root, self._depth, 0))

    def _encoded(self) -> Iterator[tuple[NodeIndex, bytes]]:
        """All nodes that are not blank, with their type, from left to right."""
        for place, held in self._nodes():
            yield place, encoded(held)


def _check_unmerged(content: ParentNode, place: NodeIndex, has_leaf: Callable[[int], bool]) -> None:
    leaves = leaves_under(place)
    before = -1
    for index in content.unmerged_leaves:
        if index <= before:  # RFC 9420 7.1
            raise InvalidError("unmerged leaves out of order", "RFC 9420 7.1")
        before = index
        # RFC 9420 12.4.3.1: a leaf that is not blank, and a descendant
        if index not in leaves or not has_leaf(index):
            raise InvalidError("an unmerged leaf that is blank or elsewhere", "RFC 9420 12.4.3.1")


def _blank(height: int, position: int, content: ParentNode | None) -> None:
    """RFC 9420 12.1.2 and 12.1.3: what becomes of the nodes above an updated or removed leaf."""


class _unmerged_adder:
    """RFC 9420 12.1.1: new leaves are unmerged at every node above them that is not blank.

    :param indices: of the new leaves, in increasing order
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = indices

    def __call__(self, height: int, position: int, content: ParentNode | None) -> ParentNode | None:
        if content is None:
            return None
        first = bisect_left(self._indices, position << height)
        last = bisect_left(self._indices, (position + 1) << height)
        unmerged = tuple(sorted((*content.unmerged_leaves, *self._indices[first:last])))
        return ParentNode(content.encryption_key, content.parent_hash, unmerged)


def _truncated(root: Subtree, depth: int, changes: list[Change]) -> tuple[Subtree, int]:
    """RFC 9420 7.7: halve the tree while its right half has no member."""
    while depth and not root.children()[1].occupied:
        if root.content is not None:
            changes.append((node_at(depth, 0), root.content, None))
        root, depth = root.children()[0], depth - 1
    return root, depth


def _blank_leaves(root: Subtree, depth: int) -> Iterator[LeafIndex]:
    """From left to right; O(log n) for the first."""
    stack = [(root, depth, 0)]
    while stack:
        subtree, height, position = stack.pop()
        if subtree.occupied == 1 << height:
            continue
        if not subtree.occupied:
            yield from (LeafIndex(index) for index in range(position << height, (position + 1) << height))
            continue
        left, right = subtree.children()
        stack.append((right, height - 1, 2 * position + 1))
        stack.append((left, height - 1, 2 * position))


def _widened(root: Subtree, depth: int, target: int) -> Subtree:
    for _ in range(target - depth):
        root = Subtree(None, root, Subtree(), root.occupied)
    return root


def _children(subtree: Subtree | None) -> tuple[Subtree | None, Subtree | None]:
    """Both children; None for what has no member in it and thus nothing to tell."""
    if subtree is None or not subtree.occupied:
        return None, None
    left, right = subtree.children()
    return left if left.occupied else None, right if right.occupied else None
