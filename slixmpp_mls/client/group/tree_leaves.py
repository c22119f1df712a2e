"""The leaves of a group that we enter, for the Authentication Service to judge, without decoding all of them.

Most are not judged at once, because others have named too many accounts: of these only the names are needed, which the
roster has.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import overload

from ...errors import PeerError
from ...identity import ClientIdentity
from ...mls.structures.leaf_node import LeafNode
from ...mls.tree.ratchet_tree import RatchetTree
from ...policy.roster import Roster

__all__ = ["TreeLeaves", "client_of", "clients_of"]


class TreeLeaves(Sequence[LeafNode]):
    """The leaves of a ratchet tree but one.  Immutable.

    :param roster: of the tree's members
    :param but: index of the leaf that is left out: ours; None: none is
    """

    def __init__(self, tree: RatchetTree, roster: Roster, but: int | None) -> None:
        self._tree = tree
        self._roster = roster
        self._indices = array("I", sorted(index for index in roster.leaves() if index != but))

    def __repr__(self) -> str:
        return f"<TreeLeaves: {len(self)} leaves>"

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, number: int) -> LeafNode: ...

    @overload
    def __getitem__(self, number: slice) -> tuple[LeafNode, ...]: ...

    def __getitem__(self, number: int | slice) -> LeafNode | tuple[LeafNode, ...]:
        if isinstance(number, slice):
            return tuple(map(self._tree.member, self._indices[number]))
        return self._tree.member(self._indices[number])

    def __iter__(self) -> Iterator[LeafNode]:
        return map(self._tree.member, self._indices)

    def clients(self) -> Iterator[ClientIdentity]:
        """The client of each leaf."""
        return map(self._roster.at, self._indices)


def clients_of(leaves: Sequence[LeafNode]) -> list[ClientIdentity | None]:
    """The client that each leaf names; None for one that names none, which cannot enter a group of ours."""
    return [*leaves.clients()] if isinstance(leaves, TreeLeaves) else [*map(client_of, leaves)]


def client_of(leaf: LeafNode) -> ClientIdentity | None:
    """The same of one leaf."""
    try:
        return ClientIdentity.from_leaf(leaf)
    except PeerError:
        return None
