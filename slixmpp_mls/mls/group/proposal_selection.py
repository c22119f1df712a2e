"""Which of the waiting proposals to commit (RFC 9420 12.4).

A committer should cover all the proposals that are valid together, and nobody may send
application data while there are any.  Which ones these are cannot be left to trial and error: one
member's proposal that fits no list must not keep the others from committing, nor from talking.  So
everything is looked at once, in O(1) each, and what would spoil the list is left out.  In doubt
a proposal is left out too; its sender may send it again in the next epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...errors import InvalidError
from ..registry import ProposalType
from ..structures.credential import type_of as credential_type
from ..structures.framing import AnySender, MemberSender
from ..structures.group_context import GroupContext
from ..structures.leaf_node import LeafNode
from ..structures.proposals import (
    Add,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    UnknownProposal,
    Update,
)
from ..structures.psk import PreSharedKeyID
from ..tree.leaf_validation import GroupRequirements, LeafRules, check_leaf, check_members
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_index import Feature
from ..tree.tree_math import LeafIndex
from .proposal_list import SentProposal, choose, topic

__all__ = ["choose_valid"]


def choose_valid(
    waiting: Sequence[SentProposal],
    committer: AnySender,
    tree: RatchetTree,
    context: GroupContext,
    *,
    beside: Sequence[SentProposal] = (),
    rules: LeafRules | None = None,
    available: Callable[[PreSharedKeyID], bool] = lambda name: True,
) -> tuple[SentProposal, ...]:
    """Of the proposals that wait, those that this committer can commit to.

    :param beside: what the Commit holds anyway, which goes before what contradicts it
    :param rules: to leave out KeyPackages that have expired meanwhile
    :param available: whether we have a PSK
    """
    if not waiting:
        return ()
    taken = {topic(sent) for sent in beside}
    chosen = [sent for sent in choose(waiting, committer) if topic(sent) not in taken]
    if beside and not any(isinstance(sent.proposal, ReInit) for sent in beside):
        chosen = [sent for sent in chosen if not isinstance(sent.proposal, ReInit)]
    chosen = [
        sent
        for sent in chosen
        if not isinstance(sent.proposal, UnknownProposal)
        and not (isinstance(sent.proposal, PreSharedKey) and not available(sent.proposal.psk))
    ]

    gone = {leaf for sent in (*chosen, *beside) if (leaf := _removed(sent)) is not None}
    try:
        staying = tree.apply({}, gone, ())[0] if gone else tree
    except InvalidError:
        return ()
    if not staying.supported_by_all(Feature.PROPOSAL, ProposalType.SELF_REMOVE):
        chosen = [sent for sent in chosen if not isinstance(sent.proposal, SelfRemove)]
    extensions = context.extensions
    for sent in (*chosen, *beside):
        if isinstance(sent.proposal, GroupContextExtensions):
            try:
                check_members(staying, GroupRequirements.of(tree.suite, context.version, sent.proposal.extensions))
            except InvalidError:
                chosen = [other for other in chosen if other is not sent]
            else:
                extensions = sent.proposal.extensions
    guests = _Leaves(staying, GroupRequirements.of(tree.suite, context.version, extensions), rules)
    for sent in beside:
        if isinstance(sent.proposal, Add):
            guests.note(sent.proposal.key_package.leaf_node)
    return tuple(sent for sent in chosen if guests.take(sent))


def _removed(sent: SentProposal) -> LeafIndex | None:
    if isinstance(sent.proposal, Remove):
        return LeafIndex(sent.proposal.removed)
    if isinstance(sent.proposal, SelfRemove) and isinstance(sent.sender, MemberSender):
        return LeafIndex(sent.sender.leaf_index)
    return None


@dataclass(slots=True)
class _Leaves:
    """The new leaves of a list, taken in one by one."""

    tree: RatchetTree
    requirements: GroupRequirements
    rules: LeafRules | None
    keys: set[bytes] = field(default_factory=set)
    types: set[int] = field(default_factory=set)
    understood: set[int] | None = None  # credential types that all leaves taken in so far support

    def take(self, sent: SentProposal) -> bool:
        """Whether a proposal can stay; one without a leaf always can."""
        leaf: LeafNode
        index: int | None = None
        if isinstance(sent.proposal, Add):
            leaf = sent.proposal.key_package.leaf_node
        elif isinstance(sent.proposal, Update) and isinstance(sent.sender, MemberSender):
            leaf, index = sent.proposal.leaf_node, sent.sender.leaf_index
        else:
            return True
        if not self._fits(leaf, index):
            return False
        self.note(leaf)
        return True

    def note(self, leaf: LeafNode) -> None:
        self.keys |= {leaf.signature_key, leaf.encryption_key}
        self.types.add(credential_type(leaf.credential))
        supported = set(leaf.capabilities.credentials)
        self.understood = supported if self.understood is None else self.understood & supported

    def _fits(self, leaf: LeafNode, index: int | None) -> bool:
        try:
            check_leaf(leaf, self.requirements)
            if self.rules is not None:
                self.rules.check_lifetime(leaf)
        except InvalidError:
            return False
        # RFC 9420 7.3: keys are unique, and all understand all credentials
        if self.keys & {leaf.signature_key, leaf.encryption_key}:
            return False
        if self.tree.leaf_by_signature_key(leaf.signature_key) not in (None, index):
            return False
        if self.tree.node_by_encryption_key(leaf.encryption_key) is not None:
            return False
        if not (self.tree.credential_types() | self.types).issubset(leaf.capabilities.credentials):
            return False
        kind = credential_type(leaf.credential)
        return self.tree.supported_by_all(Feature.CREDENTIAL, kind) and (
            self.understood is None or kind in self.understood
        )
