"""A group for the tests of the policy layer: leaves with real signature keys and return keys, no tree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from slixmpp_mls.mls.group.commit_effects import ChangeKind, Effects, ExtensionsChange, MemberChange
from slixmpp_mls.mls.structures.extensions import Extension, ExtensionContent
from slixmpp_mls.mls.structures.framing import (
    AnySender,
    ExternalSenderIndex,
    MemberSender,
    NewMemberCommitSender,
    NewMemberProposalSender,
)
from slixmpp_mls.mls.structures.leaf_node import Capabilities, LeafNode, Lifetime, UpdateSource
from slixmpp_mls.mls.structures.proposals import ReInit
from slixmpp_mls.mls.structures.psk import PreSharedKeyID
from slixmpp_mls.policy import (
    DeviceVoucher,
    DeviceVouchers,
    GroupView,
    RemovedClients,
    ReturnKey,
    ReturnProof,
    RoomPolicy,
    derive_return_key,
    prove_return,
    vouch,
)
from slixmpp_mls.policy.roster import Roster

SUITE = CipherSuite.get(1)
GROUP_ID = b"the group"
LIFETIME = Lifetime(0, 2**32)
ASKS, JOINS, EXTERNAL = NewMemberProposalSender(), NewMemberCommitSender(), ExternalSenderIndex(0)
FREE = 6

Who = int | AnySender  # a leaf, or somebody without one


def sender(who: Who) -> AnySender:
    return MemberSender(who) if isinstance(who, int) else who


@dataclass(frozen=True)
class Client:
    """A device with its keys: the same name and generation make the same keys.

    :ivar key: names the signature key, if it is not the one that goes with the name
    """

    name: str
    key: str = ""

    @property
    def identity(self) -> ClientIdentity:
        return ClientIdentity(*self.name.split("/"))

    @property
    def signature_key(self) -> SignaturePrivateKey:
        return SUITE.generate_signature_key(_random("signature", self.key or self.name))

    def leaf_key(self, generation: int) -> HPKEPrivateKey:
        return SUITE.generate_key_pair(_random("leaf", f"{self.name} {self.key} {generation}"))

    def return_key(self, generation: int = 0) -> SignaturePrivateKey:
        return derive_return_key(SUITE, self.leaf_key(generation))

    def leaf(self, generation: int = 0, *more: ExtensionContent) -> LeafNode:
        """The leaf of a generation, which has an encryption key and a return key of its own."""
        return LeafNode(
            encryption_key=self.leaf_key(generation).public,
            signature_key=self.signature_key.public,
            credential=self.identity.credential(),
            capabilities=Capabilities((), ()),
            source=UpdateSource(),
            extensions=(
                ReturnKey(self.return_key(generation).public).extension(),
                *(each.extension() for each in more),
            ),
        )

    def returning(
        self, generation: int = 1, old: int = 0, *more: ExtensionContent, group_id: bytes = GROUP_ID
    ) -> LeafNode:
        """The leaf of a generation with proof by the return key of an old one."""
        bare = self.leaf(generation, *more)
        return with_content(bare, prove_return(SUITE, group_id, [self.return_key(old)], bare))

    def vouch_for(self, other: Client) -> DeviceVoucher:
        return vouch(SUITE, self.signature_key, self.identity, other.identity, other.signature_key.public, LIFETIME)

    def vouched(self, *by: Client, generation: int = 0) -> LeafNode:
        """A leaf with vouchers."""
        return self.leaf(generation, DeviceVouchers(tuple(each.vouch_for(self) for each in by)))


def _random(purpose: str, name: str) -> Any:
    return lambda size: hashlib.shake_256(f"{purpose} {name}".encode()).digest(size)


def with_content(leaf: LeafNode, content: ExtensionContent) -> LeafNode:
    """The leaf with an extension more, or another one of that type."""
    others = (entry for entry in leaf.extensions if entry.extension_type != content.TYPE)
    return replace(leaf, extensions=(*others, content.extension()))


def without(leaf: LeafNode, kind: type[ExtensionContent]) -> LeafNode:
    return replace(leaf, extensions=tuple(entry for entry in leaf.extensions if entry.extension_type != kind.TYPE))


@dataclass(frozen=True)
class Group:
    """The public state of a group."""

    policy: RoomPolicy
    leaves: dict[int, LeafNode]
    removed: RemovedClients | None = field(default_factory=RemovedClients)

    @property
    def extensions(self) -> tuple[Extension, ...]:
        listed = () if self.removed is None else (self.removed.extension(),)
        return self.policy.extension(), *listed

    @property
    def roster(self) -> Roster:
        return Roster.of(sorted(self.leaves.items()))

    @property
    def view(self) -> GroupView:
        return GroupView(
            SUITE, GROUP_ID, self.extensions, self.policy, self.removed, self.roster, self.leaves.__getitem__
        )

    def with_policy(self, **settings: Any) -> Group:
        return replace(self, policy=replace(self.policy, **settings))

    def with_removed(self, removed: RemovedClients) -> Group:
        return replace(self, removed=removed)

    def without_list(self) -> Group:
        return replace(self, removed=None)

    def with_leaves(self, more: dict[int, LeafNode]) -> Group:
        return replace(self, leaves=self.leaves | more)

    def without(self, *indices: int) -> Group:
        return replace(self, leaves={index: leaf for index, leaf in self.leaves.items() if index not in indices})

    # --- what happens in a Commit ---

    def add(self, by: Who, leaf: LeafNode, index: int = FREE) -> MemberChange:
        return MemberChange(ChangeKind.ADDED, sender(by), index, None, leaf)

    def remove(self, by: Who, index: int) -> MemberChange:
        return MemberChange(ChangeKind.REMOVED, sender(by), index, self.leaves[index], None)

    def update(self, index: int, leaf: LeafNode) -> MemberChange:
        return MemberChange(ChangeKind.UPDATED, MemberSender(index), index, self.leaves[index], leaf)

    def commit(
        self,
        by: Who,
        *changes: MemberChange,
        extensions: Iterable[Extension] | None = None,
        proposer: Who | None = None,
        reinit: Iterable[Extension] | None = None,
        suite: int = 1,
        psks: tuple[PreSharedKeyID, ...] = (),
    ) -> Effects:
        """A Commit; `extensions` are proposed by `proposer`, or the committer."""
        change = None
        if extensions is not None:
            proposed_by = sender(by if proposer is None else proposer)
            change = ExtensionsChange(proposed_by, self.extensions, tuple(extensions))
        return Effects(
            committer=sender(by),
            committer_index=by if isinstance(by, int) else FREE,
            changes=changes,
            extensions=change,
            psks=psks,
            reinit=None if reinit is None else ReInit(b"new", 1, suite, tuple(reinit)),
        )


__all__ = [
    "ASKS", "EXTERNAL", "FREE", "GROUP_ID", "JOINS", "LIFETIME", "SUITE", "Client", "Group", "ReturnProof", "Who",
    "sender", "with_content", "without",
]  # fmt: skip
