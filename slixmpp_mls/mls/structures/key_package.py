"""KeyPackages: what a client publishes so that others can add it (RFC 9420 10)."""

from __future__ import annotations

from typing import Annotated

from ..registry import ExtensionType, cipher_suite_id, protocol_version
from ..tls import EncodedOnce, opaque, struct
from ..varint import without_last
from .extensions import AppDataDictionary, ComponentData, Extensions, find
from .leaf_node import LeafNode

__all__ = ["LAST_RESORT_MARK", "KeyPackage", "is_last_resort", "key_package_tbs"]


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


LAST_RESORT_MARK = AppDataDictionary((ComponentData(AppDataDictionary.LAST_RESORT, b""),)).extension()
"""The extension of a KeyPackage that may be used more than once."""


def is_last_resort(key_package: KeyPackage) -> bool:
    """Whether a KeyPackage may be used more than once (RFC 9420 16.8).

    draft-ietf-mls-extensions "Last-Resort KeyPackages" marks it by a component, which is what we send
    (:data:`LAST_RESORT_MARK`).  Versions 04 to 06 of the draft had an extension of its own, which other implementations
    send: it is read as well.

    :raises MalformedError: its dictionary of components does not parse
    """
    if any(entry.extension_type == ExtensionType.LAST_RESORT for entry in key_package.extensions):
        return True
    components = find(key_package.extensions, AppDataDictionary)
    return components is not None and any(
        entry.component_id == AppDataDictionary.LAST_RESORT for entry in components.component_data
    )
