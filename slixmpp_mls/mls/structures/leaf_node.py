"""Leaf nodes: one client's place in a group (RFC 9420 7.2).

This module declares the structures and what is signed; the rules by which a leaf is
accepted (7.3) are in :mod:`slixmpp_mls.mls.tree.leaf_validation`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from ..registry import cipher_suite_id, credential_type, extension_type, proposal_type, protocol_version
from ..tls import AtMost, EncodedOnce, Enum, Select, Struct, StructCodec, opaque, struct, uint64
from ..varint import encode_varint, without_last
from .credential import Credential
from .extensions import MAX_NUMBERS, Extensions

__all__ = [
    "Capabilities",
    "CommitSource",
    "KeyPackageSource",
    "LeafNode",
    "LeafNodeSource",
    "Lifetime",
    "UpdateSource",
    "leaf_node_tbs",
]


@struct
class Capabilities(Struct):
    """The features that a client supports beyond RFC 9420's own defaults (section 7.2)."""

    versions: Annotated[tuple[Annotated[int, protocol_version], ...], AtMost(MAX_NUMBERS)]
    cipher_suites: Annotated[tuple[Annotated[int, cipher_suite_id], ...], AtMost(MAX_NUMBERS)]
    extensions: Annotated[tuple[Annotated[int, extension_type], ...], AtMost(MAX_NUMBERS)] = ()
    proposals: Annotated[tuple[Annotated[int, proposal_type], ...], AtMost(MAX_NUMBERS)] = ()
    credentials: Annotated[tuple[Annotated[int, credential_type], ...], AtMost(MAX_NUMBERS)] = ()


_DIFFERENT = 256  # Capabilities that are remembered


class _Alike(StructCodec):
    """Reads Capabilities as one object for all members whose octets are the same: most run the same programs."""

    def __init__(self) -> None:
        super().__init__(Capabilities, Capabilities.codec.fields)
        self._remembered: dict[bytes, Capabilities] = {}
        self._decode = self.read  # generated from the fields
        self.read = self._read_alike  # type: ignore[method-assign]

    def _read_alike(self, data: bytes, pos: int, end: int) -> tuple[Capabilities, int]:
        stop = pos
        for _ in self.fields:
            if stop >= end or data[stop] >= 0x40:
                return self._decode(data, pos, end)
            stop += 1 + data[stop]
        if stop > end:
            return self._decode(data, pos, end)
        octets = data[pos:stop]
        known = self._remembered.get(octets)
        if known is None:
            known, stop = self._decode(data, pos, end)
            if len(self._remembered) >= _DIFFERENT:
                self._remembered.clear()
            self._remembered[octets] = known
        return known, stop


@struct
class Lifetime(Struct):
    """Validity of a KeyPackage, in seconds since the Unix epoch (section 7.2)."""

    not_before: uint64
    not_after: uint64


class LeafNodeSource(IntEnum):
    """Where a leaf comes from; decides what it carries and what its signature covers."""

    KEY_PACKAGE = 1
    UPDATE = 2
    COMMIT = 3


@struct
class KeyPackageSource(Struct):
    """The leaf of a KeyPackage."""

    lifetime: Lifetime


@struct
class UpdateSource(Struct):
    """The leaf of an Update proposal."""


@struct
class CommitSource(Struct):
    """The leaf of an UpdatePath."""

    parent_hash: opaque


_source = Select(
    Enum(LeafNodeSource),
    {
        LeafNodeSource.KEY_PACKAGE: KeyPackageSource,
        LeafNodeSource.UPDATE: UpdateSource,
        LeafNodeSource.COMMIT: CommitSource,
    },
)


@struct
class LeafNode(EncodedOnce):
    """A member's public keys, credential and capabilities, signed (section 7.2)."""

    encryption_key: opaque
    signature_key: opaque
    credential: Credential
    capabilities: Annotated[Capabilities, _Alike()]
    source: Annotated[KeyPackageSource | UpdateSource | CommitSource, _source]
    extensions: Extensions
    signature: opaque = b""


def leaf_node_tbs(leaf: LeafNode, group_id: bytes, leaf_index: int) -> bytes:
    """``LeafNodeTBS``: what the signature covers.  Group and index count unless the source is a KeyPackage."""
    unsigned = without_last(leaf.encode(), leaf.signature)
    if isinstance(leaf.source, KeyPackageSource):
        return unsigned
    return b"".join((unsigned, encode_varint(len(group_id)), group_id, leaf_index.to_bytes(4, "big")))
