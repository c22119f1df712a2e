"""A ratchet tree as RFC 9420 writes it down: an array, every operation by the letter, nothing remembered.

Slow, recursive and simple: the model that the real tree is compared with.
"""

from __future__ import annotations

from dataclasses import replace

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.leaf_node import CommitSource, LeafNode
from slixmpp_mls.mls.structures.parent_node import AnyNode, ParentNode
from slixmpp_mls.mls.tree.tree_math import (
    LeafIndex,
    NodeIndex,
    copath,
    direct_path,
    is_leaf,
    leaf_of,
    leaves_under,
    left,
    node_of,
    right,
    root,
)
from slixmpp_mls.mls.varint import encode_varint


def opaque(octets: bytes) -> bytes:
    return encode_varint(len(octets)) + octets


class NaiveTree:
    def __init__(self, suite: CipherSuite, first: LeafNode) -> None:
        self.suite = suite
        self.nodes: list[AnyNode | None] = [first]

    @property
    def width(self) -> int:
        return (len(self.nodes) + 1) // 2

    def path_above(self, leaf: int) -> list[NodeIndex]:
        return direct_path(node_of(LeafIndex(leaf)), self.width)

    def blank_path(self, leaf: int) -> None:
        for node in self.path_above(leaf):
            self.nodes[node] = None

    def add(self, leaf: LeafNode) -> int:
        """12.1.1"""
        blank = [node for node in range(0, len(self.nodes), 2) if self.nodes[node] is None]
        if not blank:
            blank = [len(self.nodes) + 1]
            self.nodes += [None] * (len(self.nodes) + 1)
        index = blank[0] // 2
        for node in self.path_above(index):
            parent = self.nodes[node]
            if parent is not None:
                assert isinstance(parent, ParentNode)
                self.nodes[node] = replace(parent, unmerged_leaves=tuple(sorted({*parent.unmerged_leaves, index})))
        self.nodes[2 * index] = leaf
        return index

    def update(self, index: int, leaf: LeafNode) -> None:
        """12.1.2"""
        self.nodes[2 * index] = leaf
        self.blank_path(index)

    def remove(self, index: int) -> None:
        """12.1.3"""
        self.nodes[2 * index] = None
        self.blank_path(index)
        while self.width > 1 and all(node is None for node in self.nodes[self.width :: 2]):
            self.nodes = self.nodes[: self.width - 1]

    def resolution(self, node: NodeIndex) -> list[NodeIndex]:
        """4.1.1"""
        content = self.nodes[node]
        if isinstance(content, ParentNode):
            return [node, *(node_of(LeafIndex(index)) for index in content.unmerged_leaves)]
        if content is not None:
            return [node]
        if is_leaf(node):
            return []
        return self.resolution(left(node)) + self.resolution(right(node))

    def filtered(self, leaf: int) -> list[tuple[NodeIndex, NodeIndex]]:
        """4.1.2"""
        above, beside = self.path_above(leaf), copath(node_of(LeafIndex(leaf)), self.width)
        return [pair for pair in zip(above, beside, strict=True) if self.resolution(pair[1])]

    def send_path(self, index: int, leaf: LeafNode, keys: list[bytes]) -> LeafNode:
        """7.5 and 7.9: the new leaf, whose parent hash is filled in here"""
        path = self.filtered(index)
        self.blank_path(index)
        above = b""
        for (node, beside), key in reversed(list(zip(path, keys, strict=True))):
            self.nodes[node] = ParentNode(key, above, ())
            above = self.suite.hash(opaque(key) + opaque(above) + opaque(self.tree_hash(beside)))
        leaf = replace(leaf, source=CommitSource(above))
        self.nodes[2 * index] = leaf
        return leaf

    def tree_hash(self, node: NodeIndex) -> bytes:
        """7.8"""
        content = self.nodes[node]
        held = b"\0" if content is None else b"\1" + content.encode()
        if is_leaf(node):
            return self.suite.hash(b"\1" + leaf_of(node).to_bytes(4, "big") + held)
        below = opaque(self.tree_hash(left(node))) + opaque(self.tree_hash(right(node)))
        return self.suite.hash(b"\2" + held + below)

    def without(self, leaves: set[int]) -> NaiveTree:
        """7.9: as if these had never been added"""
        tree = NaiveTree(self.suite, self.nodes[0])  # type: ignore[arg-type]
        tree.nodes = [
            replace(node, unmerged_leaves=tuple(i for i in node.unmerged_leaves if i not in leaves))
            if isinstance(node, ParentNode)
            else node
            for node in self.nodes
        ]
        for index in leaves:
            tree.nodes[2 * index] = None
        return tree

    def parent_hash_links(self, node: NodeIndex) -> int:
        """7.9.2: how many descendants D there are for which this parent P is parent-hash valid"""
        parent = self.nodes[node]
        assert isinstance(parent, ParentNode)
        links = 0
        for child, beside in ((left(node), right(node)), (right(node), left(node))):
            original = self.without(set(parent.unmerged_leaves)).tree_hash(beside)
            expected = self.suite.hash(opaque(parent.encryption_key) + opaque(parent.parent_hash) + opaque(original))
            unmerged = {2 * index for index in parent.unmerged_leaves if index in leaves_under(child)}
            for candidate in self.resolution(child):
                content = self.nodes[candidate]
                if isinstance(content, ParentNode):
                    stated: bytes | None = content.parent_hash
                else:
                    assert content is not None
                    stated = content.source.parent_hash if isinstance(content.source, CommitSource) else None
                links += stated == expected and {*self.resolution(child)} - {candidate} == unmerged
        return links

    def encode(self) -> bytes:
        """12.4.3.3"""
        last = max(place for place, node in enumerate(self.nodes) if node is not None)
        out = b""
        for place, node in enumerate(self.nodes[: last + 1]):
            kind = b"\1" if place % 2 == 0 else b"\2"
            out += b"\0" if node is None else b"\1" + kind + node.encode()
        return opaque(out)

    def root_hash(self) -> bytes:
        return self.tree_hash(root(self.width))
