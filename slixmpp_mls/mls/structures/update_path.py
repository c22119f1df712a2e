"""The part of a Commit that renews a path of the ratchet tree (RFC 9420 7.6)."""

from __future__ import annotations

from ..crypto.hpke import HPKECiphertext
from ..tls import Struct, opaque, struct
from .leaf_node import LeafNode

__all__ = ["UpdatePath", "UpdatePathNode"]


@struct
class UpdatePathNode(Struct):
    """One node's new public key, and its path secret for each node of the copath's resolution."""

    encryption_key: opaque
    encrypted_path_secret: tuple[HPKECiphertext, ...]


@struct
class UpdatePath(Struct):
    """The committer's new leaf and the nodes above it, lowest first."""

    leaf_node: LeafNode
    nodes: tuple[UpdatePathNode, ...]
