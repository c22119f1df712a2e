"""Which proposals a Commit may combine (RFC 9420 12.2), and what they do in which order (12.3).

Two steps: :func:`check_list` looks at the list alone; :func:`apply` carries it out on the
tree and checks each proposal where it takes effect, against the group's *new* extensions.
Both are pure: the committer runs them before it sends, every receiver before it believes.

A proposal that waits for its Commit gets past :func:`check_alone` only, which refuses what is
wrong in any list.  A further check could split the group: an Add of a present member becomes valid
beside a Remove, and a member that had dropped it could not follow that Commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..registry import DEFAULT_PROPOSALS
from ..structures.extensions import Extension, ExternalSenders, RequiredCapabilities, check_unique
from ..structures.framing import (
    AnySender,
    AuthenticatedContent,
    ExternalSenderIndex,
    MemberSender,
    NewMemberCommitSender,
    NewMemberProposalSender,
)
from ..structures.group_context import GroupContext
from ..structures.leaf_node import LeafNode
from ..structures.proposals import (
    Add,
    AnyProposal,
    ExternalInit,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    UnknownProposal,
    Update,
    type_of,
)
from ..structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from ..tls import Struct
from ..tree.known_tree import KnownTree
from ..tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage, check_proposal_supported
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from .commit_effects import ChangeKind, ExtensionsChange, MemberChange

__all__ = [
    "Applied", "SentProposal", "apply", "check_alone", "check_context_extensions", "check_list", "check_proposer",
    "choose", "path_required", "topic",
]  # fmt: skip

# RFC 9420 17.4, column "Path Required"; SelfRemove from draft-ietf-mls-extensions.
PATH_REQUIRED = (Update, Remove, ExternalInit, GroupContextExtensions, SelfRemove)

# RFC 9420 17.4, column "External".
EXTERNAL_ALLOWED = (Add, Remove, PreSharedKey, ReInit, GroupContextExtensions)

# What draft-ietf-mls-extensions and we may put into an external commit besides 12.2's list.
_EXTERNAL_COMMIT_ALLOWED = (ExternalInit, Remove, PreSharedKey, SelfRemove)


@dataclass(frozen=True, slots=True)
class SentProposal:
    """A proposal and who made it.

    :ivar reference: its ProposalRef, None when a Commit carries it by value
    :ivar content: the message that it came in, None when by value
    """

    proposal: AnyProposal
    sender: AnySender
    reference: bytes | None = None
    content: AuthenticatedContent | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """The tree and context parts after a list of proposals, before the path."""

    tree: RatchetTree
    extensions: tuple[Extension, ...]
    requirements: GroupRequirements
    changes: tuple[MemberChange, ...] = ()
    extensions_change: ExtensionsChange | None = None
    psks: tuple[PreSharedKeyID, ...] = ()
    kem_output: bytes | None = None
    reinit: ReInit | None = None
    added: tuple[tuple[LeafIndex, VerifiedKeyPackage], ...] = ()


def path_required(proposals: Sequence[SentProposal]) -> bool:
    """RFC 9420 12.4: whether the Commit must carry an UpdatePath."""
    return not proposals or any(isinstance(sent.proposal, PATH_REQUIRED) for sent in proposals)


def check_proposer(proposal: AnyProposal, sender: AnySender) -> None:
    """RFC 9420 12.1.8 and 6: who may send which proposal in a message of its own.

    :raises InvalidError: the sender may not
    """
    kind = type(proposal).__name__
    if isinstance(sender, ExternalSenderIndex) and not isinstance(proposal, EXTERNAL_ALLOWED):
        raise InvalidError(f"an external sender may not propose {kind}", "RFC 9420 12.1.8")
    if isinstance(sender, NewMemberProposalSender) and not isinstance(proposal, Add):
        raise InvalidError(f"a new member may not propose {kind}", "RFC 9420 12.1.8")
    if isinstance(proposal, ExternalInit):
        raise InvalidError("ExternalInit has its place in an external Commit only", "RFC 9420 12.1.6")


def check_list(
    proposals: Sequence[SentProposal],
    committer: AnySender,
    context: GroupContext,
    *,
    psk_usage: ResumptionPSKUsage | None = None,
) -> None:
    """RFC 9420 12.2, as far as the list alone tells.

    :param psk_usage: REINIT or BRANCH in the first Commit of a group that continues another
    :raises InvalidError: the list is invalid
    """
    if isinstance(committer, NewMemberCommitSender):
        _check_external_list(proposals)
    else:
        _check_member_list(proposals, committer)
    psks: set[PreSharedKeyID] = set()
    for sent in proposals:
        _check_content(sent.proposal, context, psk_usage)
        if isinstance(sent.proposal, PreSharedKey):
            if sent.proposal.psk in psks:
                raise InvalidError("the same PSK twice", "RFC 9420 12.2")
            psks.add(sent.proposal.psk)


def _check_member_list(proposals: Sequence[SentProposal], committer: AnySender) -> None:
    touched: set[int] = set()
    extension_changes = 0
    for sent in proposals:
        proposal = sent.proposal
        leaf: int | None = None
        if isinstance(proposal, ExternalInit):
            raise InvalidError("ExternalInit in a member's Commit", "RFC 9420 12.2")
        if isinstance(proposal, Update):
            if sent.sender == committer or not isinstance(sent.sender, MemberSender):
                raise InvalidError("Update by the committer or by no member", "RFC 9420 12.2")
            leaf = sent.sender.leaf_index
        elif isinstance(proposal, Remove):
            if committer == MemberSender(proposal.removed):
                raise InvalidError("the committer removes itself", "RFC 9420 12.2")
            leaf = proposal.removed
        elif isinstance(proposal, SelfRemove):
            leaf = _check_self_remove(sent)
            if committer == sent.sender:
                raise InvalidError("the committer removes itself", "RFC 9420 12.2")
        elif isinstance(proposal, GroupContextExtensions):
            extension_changes += 1
        elif isinstance(proposal, ReInit) and len(proposals) > 1:
            raise InvalidError("ReInit beside other proposals", "RFC 9420 12.2")
        if leaf is not None:
            if leaf in touched:
                raise InvalidError(f"more than one Update or Remove for leaf {leaf}", "RFC 9420 12.2")
            touched.add(leaf)
    if extension_changes > 1:
        raise InvalidError("more than one GroupContextExtensions", "RFC 9420 12.2")


def _check_external_list(proposals: Sequence[SentProposal]) -> None:
    removed: set[int] = set()
    for sent in proposals:
        if not isinstance(sent.proposal, _EXTERNAL_COMMIT_ALLOWED):
            raise InvalidError(f"{type(sent.proposal).__name__} in an external Commit", "RFC 9420 12.2")
        if isinstance(sent.proposal, SelfRemove):
            leaf = _check_self_remove(sent)
            if leaf in removed:
                raise InvalidError(f"leaf {leaf} is removed twice", "RFC 9420 12.2")
            removed.add(leaf)
        elif sent.reference is not None:
            raise InvalidError("external Commit with a proposal by reference", "RFC 9420 12.4.3.2")
    if sum(isinstance(sent.proposal, ExternalInit) for sent in proposals) != 1:
        raise InvalidError("external Commit without exactly one ExternalInit", "RFC 9420 12.2")
    removes = [sent.proposal for sent in proposals if isinstance(sent.proposal, Remove)]
    if len(removes) > 1:
        raise InvalidError("external Commit with more than one Remove", "RFC 9420 12.2")
    if removes and removes[0].removed in removed:
        raise InvalidError(f"leaf {removes[0].removed} is removed twice", "RFC 9420 12.2")


def _check_self_remove(sent: SentProposal) -> int:
    """draft-ietf-mls-extensions, SelfRemove: by reference, from a member; the leaf that goes."""
    if sent.reference is None or not isinstance(sent.sender, MemberSender):
        raise InvalidError("SelfRemove by value, or by no member", "draft-ietf-mls-extensions SelfRemove")
    return sent.sender.leaf_index


def check_alone(sent: SentProposal, tree: KnownTree, context: GroupContext, rules: LeafRules) -> None:
    """RFC 9420 12.1: what makes a proposal invalid in whatever list.

    :raises InvalidError: nobody could ever commit to it
    """
    proposal = sent.proposal
    check_proposer(proposal, sent.sender)
    _check_content(proposal, context, None)
    # Not the present extensions: the Commit may bring others (12.3).
    requirements = GroupRequirements(tree.suite, context.version)
    if isinstance(proposal, Add):
        rules.verify_key_packages((proposal.key_package,), requirements)
    elif isinstance(proposal, Update) and isinstance(sent.sender, MemberSender):
        index = LeafIndex(sent.sender.leaf_index)
        rules.check_update(tree.member(index), context.group_id, index, proposal.leaf_node, requirements)
    elif isinstance(proposal, Remove | SelfRemove):
        tree.check_member(_leaf_of(sent))  # RFC 9420 12.1.3: it must not be blank


def _check_content(proposal: AnyProposal, context: GroupContext, psk_usage: ResumptionPSKUsage | None) -> None:
    """The rules for one proposal by itself."""
    if isinstance(proposal, PreSharedKey):
        name = proposal.psk
        if len(name.psk_nonce) != CipherSuite.get(context.cipher_suite).hash_length:
            raise InvalidError("psk_nonce of the wrong length", "RFC 9420 12.1.4")
        if (
            isinstance(name.psk, ResumptionPSK)
            and name.psk.usage != ResumptionPSKUsage.APPLICATION
            and name.psk.usage != psk_usage
        ):
            raise InvalidError(f"resumption PSK for {name.psk.usage.name} out of place", "RFC 9420 12.1.4")
    elif isinstance(proposal, ReInit):
        if proposal.version < context.version:
            raise InvalidError("ReInit to an older version", "RFC 9420 12.1.5")
        check_unique(proposal.extensions, "ReInit")
    elif isinstance(proposal, GroupContextExtensions):
        check_context_extensions(proposal.extensions, "GroupContextExtensions")
    elif isinstance(proposal, UnknownProposal):
        # A proposal that we do not support cannot be supported by all members.
        raise InvalidError(f"proposal of unknown type {proposal.tag:#06x}", "RFC 9420 12.2")


def check_context_extensions(extensions: tuple[Extension, ...], where: str) -> None:
    """RFC 9420 13.4, and that the extensions that we understand can be read.

    :raises InvalidError: one is there twice
    :raises MalformedError: one does not parse
    """
    check_unique(extensions, where)
    RequiredCapabilities.found_in(extensions)
    ExternalSenders.found_in(extensions)


def apply(
    proposals: Sequence[SentProposal],
    tree: RatchetTree,
    context: GroupContext,
    rules: LeafRules,
) -> Applied:
    """RFC 9420 12.3: the proposals' effect on the tree and on the context's extensions.

    The caller checks the rules for all members (:func:`slixmpp_mls.mls.tree.leaf_validation.check_members`),
    on the tree that has the Commit's path in it as well.

    :param rules: how leaves are validated (7.3)
    :raises InvalidError: a proposal is invalid where it takes effect
    """
    # 1. GroupContextExtensions: the new ones judge everything that follows.
    extensions = context.extensions
    extensions_change: ExtensionsChange | None = None
    for sent in proposals:
        if isinstance(sent.proposal, GroupContextExtensions):
            extensions_change = ExtensionsChange(sent.sender, extensions, sent.proposal.extensions)
            extensions = sent.proposal.extensions
    requirements = GroupRequirements.of(tree.suite, context.version, extensions)

    # 2. Updates, then Removes, a SelfRemove being one (draft-ietf-mls-extensions).
    changes: list[MemberChange] = []
    updates: dict[LeafIndex, LeafNode] = {}
    for sent in proposals:
        if isinstance(sent.proposal, Update) and isinstance(sent.sender, MemberSender):
            index, leaf = LeafIndex(sent.sender.leaf_index), sent.proposal.leaf_node
            rules.check_update(tree.member(index), context.group_id, index, leaf, requirements)
            updates[index] = leaf
            changes.append(MemberChange(ChangeKind.UPDATED, sent.sender, index, tree.member(index), leaf))
    removes: list[LeafIndex] = []
    for kind in (SelfRemove, Remove):
        for sent in proposals:
            if isinstance(sent.proposal, kind):
                index = _leaf_of(sent)
                removes.append(index)  # RFC 9420 12.1.3: `member` refuses a blank leaf
                changes.append(MemberChange(ChangeKind.REMOVED, sent.sender, index, tree.member(index), None))

    unusual = {type_of(sent.proposal) for sent in proposals} - DEFAULT_PROPOSALS
    if unusual:
        staying, _ = tree.apply(updates, removes, ())
        for number in unusual:
            check_proposal_supported(staying, number)

    # 3. Adds, in their order.
    adds = [(sent, sent.proposal.key_package) for sent in proposals if isinstance(sent.proposal, Add)]
    packages = rules.verify_key_packages((package for _, package in adds), requirements)
    tree, indices = tree.apply(updates, removes, [package.leaf for package in packages])
    for (sent, _), package, index in zip(adds, packages, indices, strict=True):
        changes.append(MemberChange(ChangeKind.ADDED, sent.sender, index, None, package.leaf))

    return Applied(
        tree=tree,
        extensions=extensions,
        requirements=requirements,
        changes=tuple(changes),
        extensions_change=extensions_change,
        psks=tuple(sent.proposal.psk for sent in proposals if isinstance(sent.proposal, PreSharedKey)),
        kem_output=next((each.kem_output for each in _of(proposals, ExternalInit)), None),
        reinit=next(iter(_of(proposals, ReInit)), None),
        added=tuple(zip(indices, packages, strict=True)),
    )


def choose(proposals: Sequence[SentProposal], committer: AnySender) -> tuple[SentProposal, ...]:
    """Of the proposals that wait, those that do not contradict each other (RFC 9420 12.2).

    A Remove is preferred to Updates of the same leaf, the latest of several, anything to a
    ReInit; what concerns the committer's own leaf is for others to commit.  Whether each is valid
    then is for :mod:`.proposal_selection` to say.
    """
    chosen: dict[object, SentProposal] = {}
    for sent in proposals:
        key = topic(sent)
        if key == ("leaf", getattr(committer, "leaf_index", None)):
            continue
        before = chosen.get(key)
        if before is not None and _weight(before) > _weight(sent):
            continue
        chosen.pop(key, None)  # the latest also comes last
        chosen[key] = sent
    if len(chosen) > 1:
        chosen.pop(ReInit, None)
    return tuple(chosen.values())


def topic(sent: SentProposal) -> object:
    """The subject of a proposal: of two with the same topic, one list can hold only one (RFC 9420 12.2)."""
    proposal = sent.proposal
    if isinstance(proposal, Update | Remove | SelfRemove):
        return "leaf", proposal.removed if isinstance(proposal, Remove) else getattr(sent.sender, "leaf_index", -1)
    if isinstance(proposal, Add):
        return "client", proposal.key_package.leaf_node.signature_key
    if isinstance(proposal, PreSharedKey):
        return "psk", proposal.psk
    if isinstance(proposal, GroupContextExtensions | ReInit):
        return type(proposal)
    return proposal


def _weight(sent: SentProposal) -> int:
    """draft-ietf-mls-extensions: SelfRemove before Remove; RFC 9420 12.2: Remove before Update."""
    return {Remove: 1, SelfRemove: 2}.get(type(sent.proposal), 0)


def _leaf_of(sent: SentProposal) -> LeafIndex:
    """The leaf that a Remove or SelfRemove concerns."""
    if isinstance(sent.proposal, Remove):
        return LeafIndex(sent.proposal.removed)
    if isinstance(sent.sender, MemberSender):
        return LeafIndex(sent.sender.leaf_index)
    raise InvalidError("SelfRemove by no member", "draft-ietf-mls-extensions SelfRemove")


P = TypeVar("P", bound=Struct)


def _of(proposals: Sequence[SentProposal], kind: type[P]) -> Iterator[P]:
    return (sent.proposal for sent in proposals if isinstance(sent.proposal, kind))
