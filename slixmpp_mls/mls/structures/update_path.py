"""The part of a Commit that renews a path of the ratchet tree (RFC 9420 7.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from ..crypto.hpke import HPKECiphertext
from ..late_vector import LateVector
from ..tls import AtMost, Struct, opaque, struct
from .leaf_node import LeafNode

__all__ = ["UpdatePath", "UpdatePathNode"]


MAX_RESOLUTION = 1 << 16
"""Nodes below one that must be told a secret: half of a tree of 131,072 leaves in which nobody has ever committed."""
MAX_DEPTH = 32  # levels: leaves have indices of 32 bits


@struct
class UpdatePathNode(Struct):
    """One node's new public key, and its path secret for each node of the copath's resolution."""

    encryption_key: opaque
    encrypted_path_secret: Annotated[Sequence[HPKECiphertext], LateVector(HPKECiphertext.codec, MAX_RESOLUTION)]


@struct
class UpdatePath(Struct):
    """The committer's new leaf and the nodes above it, lowest first."""

    leaf_node: LeafNode
    nodes: Annotated[tuple[UpdatePathNode, ...], AtMost(MAX_DEPTH)]
