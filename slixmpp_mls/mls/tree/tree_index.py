"""An index of a ratchet tree: the owner of each key, and how many members support a feature.

A :class:`TreeIndex` is an immutable value beside the tree.  It answers the questions of
RFC 9420 7.3 that are about all members at once, each in constant time:

- is a signature key or an encryption key unique? (The maps cannot hold it twice.)
- which credential types are in use, and does every member support them?
- does every member support an extension or proposal type?

Support is counted, not collected: a number per code point, of members that list it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import IntEnum

from immutables import Map

from ...errors import InvalidError
from ..layered_map import LayeredMap
from ..registry import GREASE
from ..structures.credential import type_of
from ..structures.leaf_node import Capabilities, LeafNode
from ..structures.leaf_outline import LeafOutline
from ..structures.parent_node import AnyNode
from ..tls import Opaque
from .subtree import Change
from .tree_math import LeafIndex, NodeIndex

__all__ = ["Feature", "TreeIndex"]


_read_key = Opaque().read  # the first field of leaves and parent nodes


class Feature(IntEnum):
    """A kind of feature that a member may support: a list of its Capabilities."""

    EXTENSION = 1
    PROPOSAL = 2
    CREDENTIAL = 3


class TreeIndex:
    """Keys and counts of one ratchet tree.

    :ivar encryption_keys: of leaves and parent nodes
    :ivar signature_keys: of leaves
    :ivar credentials: how many members have a credential of each type
    """

    __slots__ = ("_supporting", "credentials", "encryption_keys", "signature_keys")

    def __init__(
        self,
        encryption_keys: LayeredMap[bytes, NodeIndex],
        signature_keys: LayeredMap[bytes, LeafIndex],
        credentials: Map[int, int],
        supporting: Map[int, int],
    ) -> None:
        self.encryption_keys = encryption_keys
        self.signature_keys = signature_keys
        self.credentials = credentials
        self._supporting = supporting

    @classmethod
    def of(cls, nodes: Iterable[tuple[NodeIndex, AnyNode | bytes]]) -> TreeIndex:
        """The index of a tree from all its nodes; those that are encoded, with their type, are not decoded.

        :raises InvalidError: a key is in the tree twice (RFC 9420 7.3, 12.4.3.1)
        """
        encryption: dict[bytes, NodeIndex] = {}
        signature: dict[bytes, LeafIndex] = {}
        alike: Counter[tuple[int, Capabilities | bytes]] = Counter()  # members whose features are the same
        total = leaves = 0
        for node, held in nodes:
            total += 1
            if node & 1:
                key = _read_key(held, 1, len(held))[0] if isinstance(held, bytes) else held.encryption_key
            else:
                leaves += 1
                if isinstance(held, bytes):
                    leaf = LeafOutline.of(held[1:])
                    key, signature_key = leaf.encryption_key, leaf.signature_key
                    alike[leaf.credential_type, leaf.capabilities] += 1
                else:
                    assert isinstance(held, LeafNode)
                    key, signature_key = held.encryption_key, held.signature_key
                    alike[type_of(held.credential), held.capabilities] += 1
                signature[signature_key] = LeafIndex(node >> 1)
            encryption[key] = node
        if len(encryption) != total:
            raise InvalidError("an encryption key is in the tree twice", "RFC 9420 7.3")
        if len(signature) != leaves:
            raise InvalidError("two leaves have the same signature key", "RFC 9420 7.3")
        credentials: dict[int, int] = {}
        supporting: dict[int, int] = {}
        for (kind, features), members in alike.items():
            capabilities = Capabilities.decode(features) if isinstance(features, bytes) else features
            _count(credentials, supporting, kind, capabilities, members)
        return cls(LayeredMap(encryption), LayeredMap(signature), Map(credentials), Map(supporting))

    def supporting(self, feature: Feature, number: int) -> int:
        """How many members list this code point in their Capabilities."""
        return self._supporting.get(feature << 16 | number, 0)

    def changed(self, changes: Iterable[Change]) -> TreeIndex:
        """The index after some nodes were replaced.

        Everything that goes, goes first: a key may move from one node to another within `changes`.

        :raises InvalidError: a key would be in the tree twice (RFC 9420 7.3, 12.4.3.1)
        """
        encryption = self.encryption_keys.mutate()
        signature = self.signature_keys.mutate()
        credentials: dict[int, int] = {}
        supporting: dict[int, int] = {}
        arriving = []
        for node, before, after in changes:
            if before is not None:
                if after is None or before.encryption_key != after.encryption_key:
                    del encryption[before.encryption_key]
                if isinstance(before, LeafNode):
                    del signature[before.signature_key]
                    _count(credentials, supporting, type_of(before.credential), before.capabilities, -1)
            if after is not None:
                arriving.append((node, before, after))
        for node, before, after in arriving:
            if before is None or before.encryption_key != after.encryption_key:
                if after.encryption_key in encryption:
                    raise InvalidError("an encryption key is in the tree twice", "RFC 9420 7.3")
                encryption[after.encryption_key] = node
            if isinstance(after, LeafNode):
                if after.signature_key in signature:
                    raise InvalidError("two leaves have the same signature key", "RFC 9420 7.3")
                signature[after.signature_key] = LeafIndex(node >> 1)
                _count(credentials, supporting, type_of(after.credential), after.capabilities, 1)
        return TreeIndex(
            encryption.finish(),
            signature.finish(),
            _summed(self.credentials, credentials),
            _summed(self._supporting, supporting),
        )


def _count(
    credentials: dict[int, int], supporting: dict[int, int], kind: int, capabilities: Capabilities, members: int
) -> None:
    """Count members with a credential of a type and these capabilities."""
    credentials[kind] = credentials.get(kind, 0) + members
    for feature, numbers in (
        (Feature.EXTENSION, capabilities.extensions),
        (Feature.PROPOSAL, capabilities.proposals),
        (Feature.CREDENTIAL, capabilities.credentials),
    ):
        # A member counts once, however often it lists a number.  GREASE is no support for anything
        # (RFC 9420 13.5), not even if everybody happens to list the same value.
        for number in set(numbers) - GREASE:
            key = feature << 16 | number
            supporting[key] = supporting.get(key, 0) + members


def _summed(counts: Map[int, int], differences: dict[int, int]) -> Map[int, int]:
    result = counts.mutate()
    for key, difference in differences.items():
        total = counts.get(key, 0) + difference
        if total:
            result[key] = total
        elif difference:
            del result[key]
    return result.finish()
