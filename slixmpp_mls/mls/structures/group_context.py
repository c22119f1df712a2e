"""The GroupContext: what all members agree on in one epoch (RFC 9420 8.1)."""

from __future__ import annotations

from typing import Annotated

from ..registry import cipher_suite_id, protocol_version
from ..tls import EncodedOnce, opaque, struct, uint64
from .extensions import Extensions

__all__ = ["GroupContext"]


@struct
class GroupContext(EncodedOnce):
    """Public state of an epoch, mixed into every key of it."""

    version: Annotated[int, protocol_version]
    cipher_suite: Annotated[int, cipher_suite_id]
    group_id: opaque
    epoch: uint64
    tree_hash: opaque
    confirmed_transcript_hash: opaque
    extensions: Extensions
