"""The interface that all of a ratchet tree and the proved part of one have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self

from ..crypto.cipher_suite import CipherSuite
from ..structures.leaf_node import LeafNode
from ..structures.parent_node import AnyNode
from .tree_math import LeafIndex, NodeIndex

__all__ = ["KnownTree"]


class KnownTree(Protocol):
    """What a member's state needs of a ratchet tree: all of one, or the proved part of one."""

    @property
    def suite(self) -> CipherSuite: ...

    @property
    def leaf_count(self) -> int: ...

    def tree_hash(self) -> bytes: ...

    def member(self, index: int) -> LeafNode: ...

    def check_member(self, index: int) -> None: ...

    def members(self) -> Iterator[tuple[LeafIndex, LeafNode]]: ...

    def node(self, node: NodeIndex) -> AnyNode | None: ...

    def has_key(self, node: NodeIndex, key: bytes) -> bool: ...

    def pieces(self) -> dict[bytes, bytes]: ...

    def each_piece(self) -> Iterator[tuple[bytes, bytes]]: ...

    def changes_since(self, old: Self) -> dict[bytes, bytes | None]: ...

    def hash_records(self) -> dict[bytes, bytes]: ...

    def hash_record_changes_since(self, old: Self) -> dict[bytes, bytes | None]: ...

    def compact(self) -> Self: ...
