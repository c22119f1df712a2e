"""Members for trees in tests: real keys, real signatures, made from a number so that runs are alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.key_package import KeyPackage, key_package_tbs
from slixmpp_mls.mls.structures.leaf_node import (
    Capabilities,
    KeyPackageSource,
    LeafNode,
    Lifetime,
    UpdateSource,
    leaf_node_tbs,
)
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree

NOW = 1_750_000_000
DAY = 86_400
CAPABILITIES = Capabilities(versions=(1,), cipher_suites=tuple(CipherSuiteId), credentials=(1,))


@dataclass(frozen=True)
class Member:
    """A client, with the leaf of its KeyPackage."""

    suite: CipherSuite
    name: str
    signature_key: SignaturePrivateKey
    leaf_key: HPKEPrivateKey
    init_key: HPKEPrivateKey
    leaf: LeafNode

    def signed(self, leaf: LeafNode, group_id: bytes = b"", index: int = 0) -> LeafNode:
        """That leaf with this member's signature."""
        tbs = leaf_node_tbs(leaf, group_id, index)
        return replace(leaf, signature=self.suite.sign_with_label(self.signature_key, "LeafNodeTBS", tbs))

    def changed(self, **fields: Any) -> Member:
        """A member whose leaf differs, signed again."""
        return replace(self, leaf=self.signed(replace(self.leaf, **fields)))

    def updated(self, group_id: bytes, index: int, **fields: Any) -> LeafNode:
        """The leaf of an Update: a fresh encryption key."""
        fields = {
            "encryption_key": self.suite.generate_key_pair().public,
            "source": UpdateSource(),
            **fields,
        }
        return self.signed(replace(self.leaf, **fields), group_id, index)

    def key_package(self, **fields: Any) -> KeyPackage:
        """Its KeyPackage, some fields replaced before signing."""
        package = KeyPackage(1, self.suite.id, self.init_key.public, self.leaf, ())
        package = replace(package, **fields)
        signature = self.suite.sign_with_label(self.signature_key, "KeyPackageTBS", key_package_tbs(package))
        return replace(package, signature=signature)


def member(number: int, suite: int = 1, **fields: Any) -> Member:
    """The member with this number; `fields` replace those of its leaf."""
    algorithms = CipherSuite.get(suite)

    def random(purpose: str) -> Any:
        def octets(length: int) -> bytes:
            return hashlib.shake_256(f"{purpose} {number}".encode()).digest(length)

        return octets

    signature_key = algorithms.generate_signature_key(random("signature"))
    leaf_key = algorithms.generate_key_pair(random("leaf"))
    init_key = algorithms.generate_key_pair(random("init"))
    leaf = LeafNode(
        encryption_key=leaf_key.public,
        signature_key=signature_key.public,
        credential=BasicCredential(f"member {number}".encode()),
        capabilities=CAPABILITIES,
        source=KeyPackageSource(Lifetime(NOW - DAY, NOW + 27 * DAY)),
        extensions=(),
    )
    made = Member(algorithms, f"member {number}", signature_key, leaf_key, init_key, leaf)
    return made.changed(**fields)


def members(count: int, suite: int = 1, first: int = 0) -> list[Member]:
    return [member(number, suite) for number in range(first, first + count)]


def tree_of(people: list[Member]) -> RatchetTree:
    """A tree with these members from leaf 0 on and all parent nodes blank."""
    tree = RatchetTree.single(people[0].suite, people[0].leaf)
    return tree.apply({}, (), [person.leaf for person in people[1:]])[0]
