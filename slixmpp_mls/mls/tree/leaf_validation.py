"""Which leaves and KeyPackages are acceptable (RFC 9420 7.3 and 10.1).

7.3 asks three kinds of question, and each is asked where the answer is cheap:

- of one leaf and the group's parameters: :func:`check_leaf` and the methods of :class:`LeafRules`;
- whether keys are unique: the tree itself cannot hold one twice (:mod:`.tree_index`);
- whether all members support what is in use: :func:`check_members`, once, on the tree that a Commit
  results in.  It counts instead of asking every member, and covers both of 7.3's directions:
  that all support a leaf's credential type, and that the leaf supports all others'.

Whether a credential is true is for the Authentication Service to say (5.3.1), not for this module.
Values that nobody here knows, GREASE among them (13.5), need no rule of their own: in Capabilities they
are never looked for, and an extension of a leaf has to be in its Capabilities whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableSet
from dataclasses import dataclass
from typing import Self

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..crypto.signature_batch import SignedContent, verify_all
from ..parameters import DAY, HOUR, Parameters
from ..registry import DEFAULT_EXTENSIONS, DEFAULT_PROPOSALS, ProtocolVersion
from ..structures.credential import type_of
from ..structures.extensions import (
    AppDataDictionary,
    ApplicationId,
    Extension,
    RequiredCapabilities,
    check_unique,
    find,
)
from ..structures.group_context import GroupContext
from ..structures.key_package import KeyPackage, is_last_resort, key_package_tbs
from ..structures.leaf_node import CommitSource, KeyPackageSource, LeafNode, UpdateSource, leaf_node_tbs
from .ratchet_tree import RatchetTree
from .tree_index import Feature
from .tree_math import LeafIndex

__all__ = [
    "GroupRequirements",
    "LeafRules",
    "VerifiedKeyPackage",
    "check_leaf",
    "check_members",
    "check_proposal_supported",
    "leaf_signature",
]


@dataclass(frozen=True, slots=True)
class GroupRequirements:
    """The features that a group demands in every member's Capabilities.

    :ivar extensions: types that are not default
    :ivar proposals: types that are not default
    """

    suite: CipherSuite
    version: int = ProtocolVersion.MLS10
    extensions: frozenset[int] = frozenset()
    proposals: frozenset[int] = frozenset()
    credentials: frozenset[int] = frozenset()

    @classmethod
    def of(cls, suite: CipherSuite, version: int, extensions: tuple[Extension, ...]) -> GroupRequirements:
        """Those of a group with these GroupContext extensions.

        :raises MalformedError: its `required_capabilities` do not parse
        """
        required = find(extensions, RequiredCapabilities) or RequiredCapabilities()
        present = {extension.extension_type for extension in extensions}
        return cls(
            suite,
            version,
            # RFC 9420 13.4: members support each extension in the GroupContext; 11.1: and those listed
            frozenset(present.union(required.extension_types)) - DEFAULT_EXTENSIONS,
            frozenset(required.proposal_types) - DEFAULT_PROPOSALS,
            frozenset(required.credential_types),
        )

    @classmethod
    def of_context(cls, context: GroupContext) -> GroupRequirements:
        return cls.of(CipherSuite.get(context.cipher_suite), context.version, context.extensions)


@dataclass(frozen=True, slots=True)
class VerifiedKeyPackage:
    """A KeyPackage that passed :meth:`LeafRules.verify_key_package`, which alone makes these.

    :ivar reference: its KeyPackageRef (RFC 9420 5.2)
    """

    key_package: KeyPackage
    reference: bytes

    @property
    def leaf(self) -> LeafNode:
        return self.key_package.leaf_node

    @property
    def last_resort(self) -> bool:
        """Whether it may be used more than once (draft-ietf-mls-extensions)."""
        return is_last_resort(self.key_package)


@dataclass(frozen=True, slots=True)
class LeafRules:
    """How leaves are validated that arrive in a KeyPackage, an Add, an Update or a Commit.

    :ivar now: seconds since the Unix epoch; None leaves expiry out, as for what is received: members read the
        same Commit at different times, some of them weeks later, and must come to the same verdict.  RFC 9420 7.3
        asks senders to look at their clock and only recommends it to receivers
    :ivar lifetime_limit: the longest lifetime accepted, seconds (RFC 9420 7.2)
    :ivar clock_tolerance: how far the other's clock may be off, seconds
    :ivar remembered: see :func:`slixmpp_mls.mls.crypto.signature_batch.verify_all`
    :ivar threads: likewise
    """

    now: int | None
    lifetime_limit: int = 90 * DAY
    clock_tolerance: int = HOUR
    remembered: MutableSet[bytes] | None = None
    threads: int = 2

    @classmethod
    def for_received(cls, parameters: Parameters, remembered: MutableSet[bytes] | None) -> Self:
        """For what we receive: whenever that is, the verdict is the same."""
        return cls(None, parameters.lifetime_limit, 0, remembered)

    def verify_key_packages(
        self, key_packages: Iterable[KeyPackage], requirements: GroupRequirements
    ) -> list[VerifiedKeyPackage]:
        """RFC 9420 10.1, for use in a group.

        :raises InvalidError: one is not acceptable
        """
        packages = list(key_packages)
        suite = requirements.suite
        for package in packages:
            self._check_key_package(package, requirements)
        signed = (item for package in packages for item in _signatures(package))
        verify_all(suite, signed, remembered=self.remembered, threads=self.threads)
        return [VerifiedKeyPackage(package, suite.key_package_ref(package.encode())) for package in packages]

    def verify_key_package(self, key_package: KeyPackage, requirements: GroupRequirements) -> VerifiedKeyPackage:
        """RFC 9420 10.1, for use in a group.

        :raises InvalidError: it is not acceptable
        """
        return self.verify_key_packages((key_package,), requirements)[0]

    def _check_key_package(self, package: KeyPackage, requirements: GroupRequirements) -> None:
        leaf = package.leaf_node
        # RFC 9420 10.1: the group's version and cipher suite
        if package.version != requirements.version or package.cipher_suite != requirements.suite.id:
            raise InvalidError("KeyPackage for another version or cipher suite", "RFC 9420 10.1")
        check_unique(package.extensions, "KeyPackage")
        components = find(package.extensions, AppDataDictionary)  # refused if malformed
        if components is not None:
            components.check()
        if not isinstance(leaf.source, KeyPackageSource):  # RFC 9420 7.3
            raise InvalidError("the leaf of a KeyPackage has another source", "RFC 9420 7.3")
        self.check_lifetime(leaf)
        check_leaf(leaf, requirements)
        requirements.suite.check_public_key(package.init_key)  # RFC 9420 10
        if package.init_key == leaf.encryption_key:  # RFC 9420 10.1
            raise InvalidError("init key and encryption key are the same", "RFC 9420 10.1")

    def check_lifetime(self, leaf: LeafNode) -> None:
        """RFC 9420 7.2 and 7.3: of a leaf that comes from a KeyPackage; others have no lifetime.

        :raises InvalidError: not valid yet or any more, or for too long a time
        """
        if not isinstance(leaf.source, KeyPackageSource):
            return
        lifetime = leaf.source.lifetime
        if lifetime.not_after < lifetime.not_before:
            raise InvalidError("the leaf's lifetime ends before it begins", "RFC 9420 7.3")
        if lifetime.not_after - lifetime.not_before > self.lifetime_limit:
            raise InvalidError("the leaf's lifetime is too long", "RFC 9420 7.2")
        if self.now is None:
            return
        if self.now < lifetime.not_before - self.clock_tolerance:
            raise InvalidError("the leaf is not valid yet", "RFC 9420 7.3")
        if self.now > lifetime.not_after + self.clock_tolerance:
            raise InvalidError("the leaf is not valid any more", "RFC 9420 7.3")

    def check_update(
        self, before: LeafNode, group_id: bytes, index: LeafIndex, leaf: LeafNode, requirements: GroupRequirements
    ) -> None:
        """RFC 9420 7.3: the leaf of an Update proposal.

        :param before: the leaf that is replaced
        :raises InvalidError: it is not acceptable
        """
        if not isinstance(leaf.source, UpdateSource):
            raise InvalidError("the leaf of an Update has another source", "RFC 9420 7.3")
        if leaf.encryption_key == before.encryption_key:
            raise InvalidError("an Update that keeps the encryption key", "RFC 9420 7.3")
        self.check_in_group(group_id, index, leaf, requirements)

    def check_path_leaf(
        self, group_id: bytes, index: LeafIndex, leaf: LeafNode, requirements: GroupRequirements
    ) -> None:
        """RFC 9420 7.3, 12.4.2: the leaf of an UpdatePath.  That its key is new, :func:`.treekem.merge_path` checks.

        :raises InvalidError: it is not acceptable
        """
        if not isinstance(leaf.source, CommitSource):
            raise InvalidError("the leaf of a Commit has another source", "RFC 9420 7.3")
        self.check_in_group(group_id, index, leaf, requirements)

    def check_in_group(
        self, group_id: bytes, index: LeafIndex, leaf: LeafNode, requirements: GroupRequirements
    ) -> None:
        """RFC 9420 7.3: a leaf of any source that is in a group, with its signature.

        :raises InvalidError: it is not acceptable
        """
        check_leaf(leaf, requirements)
        signed = leaf_signature(leaf, group_id, index)
        verify_all(requirements.suite, (signed,), remembered=self.remembered, threads=1)


def check_leaf(leaf: LeafNode, requirements: GroupRequirements) -> None:
    """RFC 9420 7.3, as far as the leaf itself and the group's parameters tell, but for its signature.

    :raises InvalidError: it is not acceptable
    """
    capabilities = leaf.capabilities
    if requirements.version not in capabilities.versions:  # RFC 9420 7.2, 11.1
        raise InvalidError("the leaf does not list the group's protocol version", "RFC 9420 7.2")
    if requirements.suite.id not in capabilities.cipher_suites:  # RFC 9420 7.2, 11.1
        raise InvalidError("the leaf does not list the group's cipher suite", "RFC 9420 7.2")
    if type_of(leaf.credential) not in capabilities.credentials:  # RFC 9420 7.2
        raise InvalidError("the leaf does not list its own credential type", "RFC 9420 7.2")
    if leaf.extensions:
        check_unique(leaf.extensions, "leaf")
        find(leaf.extensions, ApplicationId)  # refused if malformed
        own = {extension.extension_type for extension in leaf.extensions}
        _require(own - DEFAULT_EXTENSIONS, capabilities.extensions, "extension of its own", "RFC 9420 7.3")
    _require(requirements.extensions, capabilities.extensions, "extension of the group", "RFC 9420 7.3, 13.4")
    _require(requirements.proposals, capabilities.proposals, "proposal that the group requires", "RFC 9420 7.3")
    _require(requirements.credentials, capabilities.credentials, "credential that the group requires", "RFC 9420 7.3")
    requirements.suite.check_public_key(leaf.encryption_key)  # nobody could encrypt to a bad one


def _require(needed: Iterable[int], listed: tuple[int, ...], what: str, section: str) -> None:
    for number in needed:
        if number not in listed:
            raise InvalidError(f"the leaf does not list {number:#06x}, {what}", section)


def check_members(tree: RatchetTree, requirements: GroupRequirements) -> None:
    """RFC 9420 7.3, 12.1.7, 13.4: what all members of a tree must support, they do.

    :param tree: as a Commit leaves it
    :raises InvalidError: somebody lacks something
    """
    needs: tuple[tuple[Feature, frozenset[int], str], ...] = (
        (Feature.EXTENSION, requirements.extensions, "RFC 9420 12.1.7"),
        (Feature.PROPOSAL, requirements.proposals, "RFC 9420 12.1.7"),
        (Feature.CREDENTIAL, requirements.credentials, "RFC 9420 12.1.7"),
        (Feature.CREDENTIAL, tree.credential_types(), "RFC 9420 7.3"),
    )
    for feature, numbers, section in needs:
        for number in numbers:
            if not tree.supported_by_all(feature, number):
                raise InvalidError(f"{feature.name.lower()} {number:#06x} is not supported by all members", section)


def check_proposal_supported(tree: RatchetTree, number: int) -> None:
    """RFC 9420 12.2: a proposal that is not default needs support by all members.

    :param tree: without those that the Commit adds or removes
    :raises InvalidError: somebody lacks it
    """
    if number not in DEFAULT_PROPOSALS and not tree.supported_by_all(Feature.PROPOSAL, number):
        raise InvalidError(f"proposal {number:#06x} is not supported by all members", "RFC 9420 12.2")


def leaf_signature(leaf: LeafNode, group_id: bytes, index: LeafIndex) -> SignedContent:
    """A leaf's signature, to be verified (RFC 9420 7.2)."""
    tbs = leaf_node_tbs(leaf, group_id, index)
    return SignedContent(f"leaf {index}", leaf.signature_key, "LeafNodeTBS", tbs, leaf.signature)


def _signatures(package: KeyPackage) -> tuple[SignedContent, SignedContent]:
    """Both signatures of a KeyPackage (RFC 9420 7.3 and 10.1); its leaf's covers no group and no index."""
    leaf = package.leaf_node
    key = leaf.signature_key
    return (
        SignedContent("leaf of a KeyPackage", key, "LeafNodeTBS", leaf_node_tbs(leaf, b"", 0), leaf.signature),
        SignedContent("KeyPackage", key, "KeyPackageTBS", key_package_tbs(package), package.signature),
    )
