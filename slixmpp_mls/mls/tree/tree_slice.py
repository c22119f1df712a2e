"""Membership proofs: one leaf, the nodes above it, and the tree hash that they add up to (draft-ietf-mls-partial).

::

    root       P7 ────────────── hash of the whole tree: what the key schedule agrees on
             ┌──┴──┐
            P3    (h11)          a proof of leaf 1 has the nodes 2, 1, 3, 7
          ┌──┴──┐                and the tree hashes of 0, 5, 11
         P1    (h5)
        ┌─┴─┐
      (h0)  L2

:func:`prove` makes a proof from a whole tree, in O(log n).  A :class:`TreeSlice` is a received proof whose form was
checked and whose tree hash was computed; whether that hash is the group's is for the caller to ask
(:meth:`TreeSlice.require`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..structures.leaf_node import LeafNode
from ..structures.parent_node import AnyNode, ParentNode
from ..structures.partial import CopathHash, MembershipProof
from .ratchet_tree import RatchetTree
from .subtree import leaf_hash, parent_node_hash
from .tree_math import MAX_LEAVES, LeafIndex, NodeIndex, copath, direct_path, leaves_under, level, node_of

__all__ = ["TreeSlice", "prove"]

_DRAFT = "draft-ietf-mls-partial Membership Proofs"


def prove(tree: RatchetTree, index: LeafIndex) -> MembershipProof:
    """The proof that a member is where it is.

    :raises InvalidError: it is no member
    """
    tree.member(index)
    leaf, width = node_of(index), tree.leaf_count
    nodes = [tree.node(node) for node in (leaf, *direct_path(leaf, width))]
    hashes = [CopathHash(tree.node_hash(node)) for node in copath(leaf, width)]
    return MembershipProof(index, width, tuple(nodes), tuple(hashes))


@dataclass(frozen=True, slots=True)
class TreeSlice:
    """The path from a member's leaf to the root.  :meth:`of` alone makes them.

    :ivar proof: the slice as it travels
    :ivar leaf: the member's
    :ivar parents: the nodes above it that are not blank, lowest first
    :ivar tree_hash: of the whole tree
    """

    suite: CipherSuite
    proof: MembershipProof
    leaf: LeafNode
    parents: tuple[tuple[NodeIndex, ParentNode], ...]
    tree_hash: bytes

    def __repr__(self) -> str:
        return f"<TreeSlice of leaf {self.index} among {self.leaf_count}>"

    @classmethod
    def of(cls, suite: CipherSuite, proof: MembershipProof) -> TreeSlice:
        """A proof, its form checked and its tree hash computed.

        :raises InvalidError: it is no path of a tree
        """
        index, width = proof.leaf_index, proof.n_leaves
        if not 0 < width <= MAX_LEAVES or width & (width - 1):  # RFC 9420 4.1.2, 7.7: complete trees only
            raise InvalidError(f"a tree of {width} leaves", "RFC 9420 7.7")
        if index >= width:
            raise InvalidError(f"leaf {index} of {width}", _DRAFT)
        path = direct_path(node_of(LeafIndex(index)), width)
        # At most 32 nodes: the width decides how many there must be, before anything is hashed.
        if len(proof.direct_path_nodes) != len(path) + 1 or len(proof.copath_hashes) != len(path):
            raise InvalidError("a path of another length than the tree's height", _DRAFT)
        leaf, *above = proof.direct_path_nodes
        if not isinstance(leaf, LeafNode):
            raise InvalidError(f"leaf {index} is blank, or no leaf", _DRAFT)
        tree_hash = leaf_hash(suite, index, leaf.encode())
        parents: list[tuple[NodeIndex, ParentNode]] = []
        for node, content, beside in zip(path, above, proof.copath_hashes, strict=True):
            if len(beside.hash_value) != suite.hash_length:
                raise InvalidError("a tree hash of a wrong length", _DRAFT)
            if content is not None:
                if not isinstance(content, ParentNode):
                    raise InvalidError("a leaf where a parent node should be", _DRAFT)
                _check_unmerged(node, content, index, parents)
                parents.append((node, content))
            pair = tree_hash, beside.hash_value
            if index >> level(node) - 1 & 1:
                pair = beside.hash_value, tree_hash
            tree_hash = parent_node_hash(suite, content, *pair)
        return cls(suite, proof, leaf, tuple(parents), tree_hash)

    def require(self, tree_hash: bytes, leaf_count: int | None = None) -> TreeSlice:
        """The slice, if it is one of the tree with this hash.

        :param leaf_count: the tree's width, if it is known
        :raises InvalidError: it is one of another tree
        """
        if self.tree_hash != tree_hash or leaf_count not in (None, self.leaf_count):
            raise InvalidError("a membership proof of another tree", _DRAFT)
        return self

    @property
    def index(self) -> LeafIndex:
        """The member's leaf.  0 is one."""
        return LeafIndex(self.proof.leaf_index)

    @property
    def leaf_count(self) -> int:
        """The tree's width: leaves, blank ones included.  A power of two."""
        return self.proof.n_leaves

    def node(self, node: NodeIndex) -> AnyNode | None:
        """The content of a node; None where it is blank or beside the path."""
        if node == node_of(self.index):
            return self.leaf
        return next((parent for place, parent in self.parents if place == node), None)

    def copath_hash(self, node: NodeIndex) -> bytes:
        """The tree hash of the child beside the path, of a node above the leaf."""
        return self.proof.copath_hashes[level(node) - 1].hash_value


def _check_unmerged(
    node: NodeIndex, content: ParentNode, index: int, below: list[tuple[NodeIndex, ParentNode]]
) -> None:
    """RFC 9420 7.1, 12.4.3.1, as far as one path shows it."""
    unmerged = content.unmerged_leaves
    under = leaves_under(node)
    if any(one >= other for one, other in pairwise(unmerged)):
        raise InvalidError("unmerged leaves out of order", "RFC 9420 7.1")
    if unmerged and (unmerged[0] not in under or unmerged[-1] not in under):
        raise InvalidError("an unmerged leaf that is elsewhere", "RFC 9420 12.4.3.1")
    if index in unmerged and any(index not in each.unmerged_leaves for _, each in below):
        raise InvalidError(f"leaf {index} is unmerged at node {node} only", "RFC 9420 12.4.3.1")
