"""The part of a ratchet tree that a partial client knows (draft-ietf-mls-partial).

A :class:`PartialTree` is a value, as a :class:`~.ratchet_tree.RatchetTree` is.  It has the tree's hash and width, the
path above our own leaf, and the leaves of those members whose membership was proved in the present epoch.  It claims
nothing about other leaves: asking for one that was not proved raises :class:`~slixmpp_mls.errors.MembershipUnproved`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from immutables import Map

from ...errors import InvalidError, MembershipUnproved
from ..crypto.cipher_suite import CipherSuite
from ..structures.leaf_node import LeafNode
from ..structures.parent_node import AnyNode
from ..structures.partial import MembershipProof
from .tree_math import LeafIndex, NodeIndex
from .tree_slice import TreeSlice

__all__ = ["PartialTree"]

_OWN = b"own"


@dataclass(frozen=True, slots=True)
class PartialTree:
    """A ratchet tree, as far as it was proved.

    :ivar own: the path above our own leaf
    :ivar proved: other members' leaves
    :ivar order: their indices, in the order in which they were proved
    """

    own: TreeSlice
    proved: Map[LeafIndex, LeafNode] = field(default_factory=Map)
    order: tuple[LeafIndex, ...] = ()

    def __repr__(self) -> str:
        return f"<PartialTree of {self.leaf_count} leaves, {1 + len(self.proved)} of them proved>"

    @property
    def suite(self) -> CipherSuite:
        return self.own.suite

    @property
    def leaf_count(self) -> int:
        """The tree's width: leaves, blank ones included.  A power of two."""
        return self.own.leaf_count

    def tree_hash(self) -> bytes:
        """RFC 9420 7.8: the root's."""
        return self.own.tree_hash

    def leaf(self, index: int) -> LeafNode | None:
        """The leaf of a proved member; None if it is not proved, whether or not there is one."""
        return self.own.leaf if index == self.own.index else self.proved.get(LeafIndex(index))

    def member(self, index: int) -> LeafNode:
        """The leaf of a proved member.

        :raises InvalidError: the index is outside the tree
        :raises MembershipUnproved: no proof for it was seen in this epoch
        """
        self.check_member(index)
        leaf = self.leaf(index)
        if leaf is None:
            raise MembershipUnproved(index)
        return leaf

    def check_member(self, index: int) -> None:
        """RFC 9420 12.1.3, as far as it can be told: the index is in the tree; whether it is blank is not known.

        :raises InvalidError: it is outside the tree
        """
        if not 0 <= index < self.leaf_count:
            raise InvalidError(f"leaf {index} is no member", "RFC 9420 7.1")

    def members(self) -> Iterator[tuple[LeafIndex, LeafNode]]:
        """The proved members from left to right, we ourselves among them."""
        yield from sorted([(self.own.index, self.own.leaf), *self.proved.items()], key=lambda member: member[0])

    def node(self, node: NodeIndex) -> AnyNode | None:
        """The content of a node of our own path; None where it is blank or elsewhere."""
        return self.own.node(node)

    def has_key(self, node: NodeIndex, key: bytes) -> bool:
        """Whether a node of our own path has this encryption key."""
        held = self.own.node(node)
        return held is not None and held.encryption_key == key

    def proves(self, proof: MembershipProof) -> TreeSlice:
        """The slice that a proof shows of this tree.

        :raises InvalidError: it is a proof of another tree, or none
        """
        return TreeSlice.of(self.suite, proof).require(self.tree_hash(), self.leaf_count)

    def with_member(self, index: LeafIndex, leaf: LeafNode) -> PartialTree:
        """The tree, with a leaf that a proof of this tree has shown."""
        if self.leaf(index) is not None:
            return self
        return replace(self, proved=self.proved.set(index, leaf), order=(*self.order, index))

    # --- storing ------------------------------------------------------------------------------

    def pieces(self) -> dict[bytes, bytes]:
        """The tree for a store: our own proof, and each proved leaf under its index, four octets big endian."""
        return {
            _OWN: self.own.proof.encode(),
            **{index.to_bytes(4, "big"): leaf.encode() for index, leaf in self.proved.items()},
        }

    def each_piece(self) -> Iterator[tuple[bytes, bytes]]:
        """The same, one by one."""
        return iter(self.pieces().items())

    def changes_since(self, old: PartialTree) -> dict[bytes, bytes | None]:
        """The pieces that differ from those of an older tree; None for those that are no longer."""
        if self.own is old.own:  # the same epoch, in which proved members only become more
            new = self.order[len(old.order) :]
            return {index.to_bytes(4, "big"): self.proved[index].encode() for index in new}
        return {**dict.fromkeys(old.pieces()), **self.pieces()}

    def compact(self) -> PartialTree:
        """Itself: it is small."""
        return self

    def hash_records(self) -> dict[bytes, bytes]:
        """None: the proofs have the hashes that we need."""
        return {}

    def hash_record_changes_since(self, old: PartialTree) -> dict[bytes, bytes | None]:
        """None."""
        return {}

    @classmethod
    def restore(
        cls, suite: CipherSuite, pieces: Mapping[bytes, bytes], records: Mapping[bytes, bytes] = MappingProxyType({})
    ) -> PartialTree:
        """The tree from its pieces; it has no records.

        :raises InvalidError: they make up no tree
        """
        if _OWN not in pieces:
            raise InvalidError("the group's state lacks our own membership proof")
        proved = {
            LeafIndex(int.from_bytes(name, "big")): LeafNode.decode(piece)
            for name, piece in pieces.items()
            if name != _OWN
        }
        return cls(TreeSlice.of(suite, MembershipProof.decode(pieces[_OWN])), Map(proved), tuple(proved))
