"""KeyPackages: what a client publishes so that others can add it (RFC 9420 10)."""

from __future__ import annotations

from typing import Annotated

from ..registry import cipher_suite_id, protocol_version
from ..tls import EncodedOnce, opaque, struct, without_last
from .extensions import Extensions
from .leaf_node import LeafNode

__all__ = ["KeyPackage", "key_package_tbs"]


@struct
class KeyPackage(EncodedOnce):
    """A leaf for use in some group, with the key to which the Welcome will be encrypted."""

    version: Annotated[int, protocol_version]
    cipher_suite: Annotated[int, cipher_suite_id]
    init_key: opaque
    leaf_node: LeafNode
    extensions: Extensions
    signature: opaque = b""


def key_package_tbs(key_package: KeyPackage) -> bytes:
    """``KeyPackageTBS``: everything but the signature."""
    return without_last(key_package.encode(), key_package.signature)
