"""A client's own leaves and KeyPackages, with their private keys (RFC 9420 7.2, 10)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from ..crypto.cipher_suite import CipherSuite, HPKEPrivateKey, Random, SignaturePrivateKey
from ..registry import GREASE, CipherSuiteId, CredentialType, ExtensionType, ProposalType, ProtocolVersion
from ..structures.credential import AnyCredential, type_of
from ..structures.extensions import AppDataDictionary, ComponentData, ComponentsList, Extension
from ..structures.key_package import LAST_RESORT_MARK, KeyPackage, is_last_resort, key_package_tbs
from ..structures.leaf_node import Capabilities, KeyPackageSource, LeafNode, Lifetime, UpdateSource, leaf_node_tbs
from ..tls import Struct, opaque, struct

__all__ = [
    "Completion", "KeyPackageBundle", "OwnLeaf", "as_it_is", "capabilities", "create_key_package", "grease",
    "sign_leaf", "update_leaf",
]  # fmt: skip


COMPONENTS = ComponentsList(
    (AppDataDictionary.APP_COMPONENTS, AppDataDictionary.SAFE_AAD, AppDataDictionary.LAST_RESORT)
)
KNOWN_COMPONENTS = AppDataDictionary(
    (ComponentData(AppDataDictionary.APP_COMPONENTS, COMPONENTS.encode()),)
).extension()
"""The extension of a leaf by which its client says which components it knows."""

Completion = Callable[[LeafNode, HPKEPrivateKey], LeafNode]
"""Puts into a new leaf what depends on its own encryption key, before it is signed: extensions of the application."""


def as_it_is(leaf: LeafNode, key: HPKEPrivateKey) -> LeafNode:
    """A :data:`Completion` that adds nothing."""
    return leaf


@dataclass(frozen=True, slots=True, repr=False)
class OwnLeaf:
    """The constant part of our leaves; keys, source and signature come later.

    :ivar signature_key: private; its public part identifies the device
    :ivar complete: called with each new leaf, which lacks its signature, and the leaf's private encryption key
    """

    credential: AnyCredential
    signature_key: SignaturePrivateKey
    capabilities: Capabilities
    extensions: tuple[Extension, ...] = ()
    complete: Completion = as_it_is

    def __repr__(self) -> str:
        return f"<OwnLeaf {self.credential!r}>"

    @property
    def leaf_extensions(self) -> tuple[Extension, ...]:
        """The extensions of a new leaf, before `complete`.

        draft-ietf-mls-extensions "Associated Data": a client that lists app_data_dictionary also lists the
        components that it knows, and knows safe_aad.
        """
        others = tuple(extension for extension in self.extensions if extension != KNOWN_COMPONENTS)
        if AppDataDictionary.TYPE not in self.capabilities.extensions or any(
            extension.extension_type == AppDataDictionary.TYPE for extension in others
        ):
            return others
        return (*others, KNOWN_COMPONENTS)


def grease(random: Random = os.urandom) -> int:
    """RFC 9420 13.5: a value that means nothing, so that others stay used to such values."""
    return sorted(GREASE)[random(1)[0] % len(GREASE)]


def capabilities(
    *,
    cipher_suites: Iterable[int] = tuple(filter(CipherSuite.is_supported, CipherSuiteId)),
    extensions: Iterable[int] = (),
    proposals: Iterable[int] = (ProposalType.SELF_REMOVE,),
    credentials: Iterable[int] = (CredentialType.BASIC, CredentialType.X509),
    random: Random | None = os.urandom,
) -> Capabilities:
    """Capabilities of a client of this package, one GREASE value in each list (13.5) unless `random` is None.

    :param extensions: those of the application; `app_data_dictionary`, for KeyPackages of last resort, is always there
    """
    more = () if random is None else (grease(random),)
    return Capabilities(
        versions=(ProtocolVersion.MLS10,),
        cipher_suites=(*cipher_suites, *more),
        extensions=(ExtensionType.APP_DATA_DICTIONARY, *extensions, *more),
        proposals=(*proposals, *more),
        credentials=(*credentials, *more),
    )


def sign_leaf(
    suite: CipherSuite, leaf: LeafNode, key: SignaturePrivateKey, group_id: bytes = b"", index: int = 0
) -> LeafNode:
    """The leaf with its signature (RFC 9420 7.2).  `group_id` and `index` do not count in a KeyPackage."""
    return replace(leaf, signature=suite.sign_with_label(key, "LeafNodeTBS", leaf_node_tbs(leaf, group_id, index)))


def unsigned_leaf(own: OwnLeaf, leaf_key: HPKEPrivateKey, source: KeyPackageSource | UpdateSource) -> LeafNode:
    """A leaf of ours, to be signed."""
    leaf = LeafNode(
        encryption_key=leaf_key.public,
        signature_key=own.signature_key.public,
        credential=own.credential,
        capabilities=own.capabilities,
        source=source,
        extensions=own.leaf_extensions,
    )
    return own.complete(leaf, leaf_key)


def update_leaf(
    suite: CipherSuite, own: OwnLeaf, group_id: bytes, index: int, random: Random = os.urandom
) -> tuple[LeafNode, HPKEPrivateKey]:
    """The leaf of an Update proposal, and its new private key (RFC 9420 12.1.2)."""
    leaf_key = suite.generate_key_pair(random)
    return sign_leaf(suite, unsigned_leaf(own, leaf_key, UpdateSource()), own.signature_key, group_id, index), leaf_key


@struct
class _StoredBundle(Struct):
    secret: ClassVar[bool] = True
    key_package: KeyPackage
    init_key: opaque
    leaf_key: opaque
    signature_key: opaque


@dataclass(frozen=True, slots=True, repr=False)
class KeyPackageBundle:
    """A KeyPackage of ours with its private keys.

    `init_key` and `leaf_key` are deleted once the KeyPackage has been used (RFC 9420 10, 16.8).
    """

    key_package: KeyPackage
    init_key: HPKEPrivateKey
    leaf_key: HPKEPrivateKey
    signature_key: SignaturePrivateKey

    def __repr__(self) -> str:
        return f"<KeyPackageBundle {self.reference.hex()[:16]}>"

    @property
    def suite(self) -> CipherSuite:
        return CipherSuite.get(self.key_package.cipher_suite)

    @property
    def reference(self) -> bytes:
        """Its KeyPackageRef (RFC 9420 5.2)."""
        return self.suite.key_package_ref(self.key_package.encode())

    @property
    def last_resort(self) -> bool:
        """Whether it may be used more than once (draft-ietf-mls-extensions)."""
        return is_last_resort(self.key_package)

    @property
    def own_leaf(self) -> OwnLeaf:
        """The constant part of our further leaves in the group."""
        leaf = self.key_package.leaf_node
        return OwnLeaf(leaf.credential, self.signature_key, leaf.capabilities, leaf.extensions)

    def encode(self) -> bytes:
        """For a store, secret."""
        return _StoredBundle(
            self.key_package, self.init_key.encode(), self.leaf_key.encode(), self.signature_key.encode()
        ).encode()

    @staticmethod
    def is_supported(data: bytes) -> bool:
        """Whether a bundle in a store is of a cipher suite that is supported."""
        return CipherSuite.is_supported(_StoredBundle.decode(data).key_package.cipher_suite)

    @classmethod
    def decode(cls, data: bytes) -> KeyPackageBundle:
        """The inverse of :meth:`encode`.

        :raises InvalidError: its cipher suite is not supported (any more)
        """
        stored = _StoredBundle.decode(data)
        suite = CipherSuite.get(stored.key_package.cipher_suite)
        return cls(
            stored.key_package,
            suite.import_hpke_key(stored.init_key, stored.key_package.init_key),
            suite.import_hpke_key(stored.leaf_key, stored.key_package.leaf_node.encryption_key),
            suite.import_signature_key(stored.signature_key),
        )


def create_key_package(
    suite: CipherSuite,
    own: OwnLeaf,
    lifetime: Lifetime,
    *,
    last_resort: bool = False,
    random: Random = os.urandom,
    with_grease: bool = True,
) -> KeyPackageBundle:
    """A new KeyPackage (RFC 9420 10).

    :param lifetime: from when to when it may be used to add us, seconds since the Unix epoch
    """
    if type_of(own.credential) not in own.capabilities.credentials:
        raise ValueError("capabilities that lack the own credential's type")
    if last_resort and AppDataDictionary.TYPE not in own.capabilities.extensions:  # RFC 9420 10
        raise ValueError("capabilities that lack the extension which marks a KeyPackage of last resort")
    init_key = suite.generate_key_pair(random)
    leaf_key = suite.generate_key_pair(random)
    leaf = sign_leaf(suite, unsigned_leaf(own, leaf_key, KeyPackageSource(lifetime)), own.signature_key)
    extensions = [LAST_RESORT_MARK] if last_resort else []
    greased = next((number for number in own.capabilities.extensions if number in GREASE), None)
    if with_grease and greased is not None:
        extensions.append(Extension(greased, random(1 + random(1)[0] % 16)))
    package = KeyPackage(ProtocolVersion.MLS10, suite.id, init_key.public, leaf, tuple(extensions))
    signature = suite.sign_with_label(own.signature_key, "KeyPackageTBS", key_package_tbs(package))
    return KeyPackageBundle(replace(package, signature=signature), init_key, leaf_key, own.signature_key)
