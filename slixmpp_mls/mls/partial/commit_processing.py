"""Following a Commit without the tree (draft-ietf-mls-partial Annotated Commit; RFC 9420 12.4.2).

::

    proof before  ── under our tree hash ──► the committer's key ── signature ──► Commit
    Commit        ── its list of proposals ──► it removes us? then that is all
    proofs after  ── under tree_hash_after ──► the committer's new leaf and path, our own leaf
    path          ── keys, parent hashes, our ciphertext ──► commit_secret
    key schedule  ── confirmation tag: the committer has this tree hash, too ──► StagedPartialCommit

Nothing of the annotations is signed.  All of it is checked against the two tree hashes: the present one, which we
have confirmed before, and the one after, which the confirmation tag confirms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from ...errors import InvalidError, NotForUs, WrongEpoch
from ..group.group_state import PSKLookup, SpentKey
from ..group.message_processing import (
    check_group,
    check_open,
    check_version,
    open_private,
    open_public,
    with_own_update,
)
from ..group.proposal_list import SentProposal, check_list, path_required
from ..group.staging import new_context, next_epoch, provisional_context, psk_values, public_group, resolve
from ..schedule.key_schedule import open_external_init
from ..schedule.transcript import verify_confirmation_tag
from ..structures.commit import Commit
from ..structures.extensions import Extension
from ..structures.framing import (
    AnySender,
    AuthenticatedContent,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
    PrivateMessage,
    PublicMessage,
)
from ..structures.leaf_node import LeafNode
from ..structures.partial import AnnotatedCommit, MembershipProof
from ..structures.proposals import (
    ExternalInit,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    Update,
)
from ..tree.leaf_validation import GroupRequirements, LeafRules, check_leaf
from ..tree.partial_path import check_path, decrypt_path
from ..tree.partial_tree import PartialTree
from ..tree.tree_math import LeafIndex
from ..tree.tree_slice import TreeSlice
from .joining import P

__all__ = ["StagedPartialCommit", "read_place", "stage_commit", "stage_removal", "with_proof"]

_DRAFT = "draft-ietf-mls-partial Annotated Commit"


@dataclass(frozen=True, slots=True, repr=False)
class StagedPartialCommit(Generic[P]):
    """A Commit, not yet in effect, that is valid as far as a partial member can tell.

    :ivar committer: the sender
    :ivar committer_index: its leaf in the new epoch; None if the Commit removes us, and a new member has made it
    :ivar proposals: all that the Commit covers, each with its sender
    :ivar base_epoch: the epoch that it ends
    :ivar base_tag: the confirmation tag of that epoch
    :ivar next: the state after it; None if it removes us
    :ivar spent: the key that opened it, if it came encrypted
    """

    committer: AnySender
    committer_index: LeafIndex | None
    proposals: tuple[SentProposal, ...]
    group_id: bytes
    base_epoch: int
    base_tag: bytes
    next: P | None
    spent: SpentKey | None

    def __repr__(self) -> str:
        return f"<StagedPartialCommit ends epoch {self.base_epoch} of {self.group_id.hex()[:16]}>"


def with_proof(group: P, proof: MembershipProof, rules: LeafRules) -> tuple[P, TreeSlice]:
    """The state in which the member of a proof is known, and the slice that the proof shows.

    :raises InvalidError: it is no proof of the present tree, or its leaf is not acceptable (RFC 9420 7.3)
    """
    shown = group.tree.proves(proof)
    if group.tree.leaf(shown.index) is None:
        rules.check_in_group(group.group_id, shown.index, shown.leaf, GroupRequirements.of_context(group.context))
    return group.with_tree(group.tree.with_member(shown.index, shown.leaf)), shown


def stage_commit(group: P, annotated: AnnotatedCommit, rules: LeafRules, psks: PSKLookup) -> StagedPartialCommit[P]:
    """Check a Commit and compute the epoch that it begins.

    :param rules: for the leaves that it shows
    :raises WrongEpoch: it is for another epoch
    :raises NotForUs: it is our own; that of a member whom we could have been, before we became a partial one
    :raises InvalidError: it is not valid, or its annotations are not
    """
    body, epoch = read_place(group, annotated.commit)
    if epoch != group.epoch:  # before the proofs, which are those of another tree then
        raise WrongEpoch(f"epoch {epoch}, not {group.epoch}", "RFC 9420 12.4.2")
    check_open(group)
    before = None
    proved = group
    if annotated.sender_membership_proof is not None:  # step 1
        proved, before = with_proof(group, annotated.sender_membership_proof, rules)
    content, spent = _open(proved, body)
    committer = content.content.sender
    if isinstance(committer, MemberSender):
        if before is None or before.index != committer.leaf_index:
            raise InvalidError("no membership proof of the committer", _DRAFT)
    elif before is not None:
        raise InvalidError("a membership proof of a committer that is no member yet", _DRAFT)
    commit = content.content.content
    assert isinstance(commit, Commit)
    proposals = _proposals(group, committer, commit)
    if _removes(proposals, group.own_index):
        return _removal(group, content, proposals, spent)

    receiver = TreeSlice.of(group.suite, annotated.receiver_membership_proof_after).require(annotated.tree_hash_after)
    sender = TreeSlice.of(group.suite, annotated.sender_membership_proof_after)
    sender.require(annotated.tree_hash_after, receiver.leaf_count)  # step 2
    if receiver.index != group.own_index:
        raise InvalidError("a membership proof of another receiver", _DRAFT)
    if sender.index == receiver.index or (before is not None and sender.index != before.index):
        raise InvalidError("a membership proof of another committer", _DRAFT)
    if receiver.leaf != _own_leaf_after(group, proposals):
        raise InvalidError("another leaf in our place", _DRAFT)
    if (annotated.resolution_index is None) != (commit.path is None):
        raise InvalidError("a resolution index without a path, or a path without one", _DRAFT)

    extensions = _extensions(group, proposals)
    requirements = GroupRequirements.of(group.suite, group.context.version, extensions)
    check_leaf(receiver.leaf, requirements)  # RFC 9420 12.1.7, 13.4: we support what the group will use
    provisional = provisional_context(group.context, annotated.tree_hash_after, extensions)
    tree = PartialTree(receiver).with_member(sender.index, sender.leaf)
    private, signature_key = with_own_update(group, proposals)
    private, commit_secret = private.kept_in(tree), group.suite.zero
    if commit.path is not None and annotated.resolution_index is not None:
        rules.check_path_leaf(group.group_id, sender.index, commit.path.leaf_node, requirements)
        if before is not None and before.leaf.encryption_key == commit.path.leaf_node.encryption_key:
            raise InvalidError("the committer's leaf has kept its encryption key", "RFC 9420 12.4.2")
        check_path(sender, commit.path)
        private, commit_secret = decrypt_path(
            private, sender, receiver, commit.path, annotated.resolution_index, provisional.encode()
        )
    elif before is not None and sender.leaf != before.leaf:
        raise InvalidError("a Commit without a path that changes the committer's leaf", "RFC 9420 12.4.2")

    new = next_epoch(
        group.suite,
        new_context(group.suite, group.public.interim_transcript_hash, provisional, content),
        _init_secret(group, proposals),
        commit_secret,
        psk_values(group, [each.proposal.psk for each in proposals if isinstance(each.proposal, PreSharedKey)], psks),
    )
    tag = content.confirmation_tag
    assert tag is not None  # the structure's own rule for Commits
    confirmed = new.context.confirmed_transcript_hash
    verify_confirmation_tag(group.suite, new.epoch.secrets.confirmation_key, confirmed, tag)
    reinit = next((each.proposal for each in proposals if isinstance(each.proposal, ReInit)), None)
    begun = public_group(new.context, tree, tag)
    state = group.entered(begun, new.epoch, private, signature_key, reinit)
    return _staged(group, committer, sender.index, proposals, state, spent)


def stage_removal(group: P, content: AuthenticatedContent, spent: SpentKey | None) -> StagedPartialCommit[P]:
    """A Commit that came without annotations, because it removes us: there is no proof of us after it.

    :param content: of a sender that was proved, its signature verified
    :raises InvalidError: it does not remove us, so that its annotations are missing; or it is not valid
    """
    commit = content.content.content
    assert isinstance(commit, Commit)
    proposals = _proposals(group, content.content.sender, commit)
    if not _removes(proposals, group.own_index):
        raise InvalidError("a Commit without annotations", _DRAFT)
    return _removal(group, content, proposals, spent)


def read_place(group: P, message: MLSMessage) -> tuple[PrivateMessage | PublicMessage, int]:
    """RFC 9420 6: a message of this group, and its epoch.

    :raises UnknownGroup: it is of another group
    :raises InvalidError: it is no message inside a group
    """
    check_version(message)
    body = message.body
    if isinstance(body, PrivateMessage):
        group_id, epoch = body.group_id, body.epoch
    elif isinstance(body, PublicMessage):
        group_id, epoch = body.content.group_id, body.content.epoch
    else:
        raise InvalidError(f"{message.wire_format.name} is no message inside a group", "RFC 9420 6")
    check_group(group.public, group_id)
    return body, epoch


def _open(group: P, body: PrivateMessage | PublicMessage) -> tuple[AuthenticatedContent, SpentKey | None]:
    """RFC 9420 6: the Commit, known to be its sender's."""
    spent = None
    if isinstance(body, PrivateMessage):
        opened = open_private(group, body)
        content, spent = opened.content, opened.spent
    else:
        content = open_public(group.public, body, group.secrets.membership_key)
        if content.content.sender == MemberSender(group.own_index):
            raise NotForUs("our own Commit", "RFC 9420 12.4.2")
    if not isinstance(content.content.content, Commit):
        raise InvalidError("annotations of a Commit around another message", _DRAFT)
    return content, spent


def _proposals(group: P, committer: AnySender, commit: Commit) -> tuple[SentProposal, ...]:
    """The proposals of a Commit, as far as the list alone tells whether they are valid (RFC 9420 12.2)."""
    if not isinstance(committer, MemberSender | NewMemberCommitSender):
        raise InvalidError("a Commit by somebody who may make none", "RFC 9420 6.1")
    proposals = resolve(commit, committer, group.public.proposals)
    check_list(proposals, committer, group.context)
    if commit.path is None and path_required(proposals):
        raise InvalidError("Commit without the path that it needs", "RFC 9420 12.4")
    return proposals


def _removes(proposals: Sequence[SentProposal], index: LeafIndex) -> bool:
    return any(
        (isinstance(sent.proposal, Remove) and sent.proposal.removed == index)
        or (isinstance(sent.proposal, SelfRemove) and sent.sender == MemberSender(index))
        for sent in proposals
    )


def _removal(
    group: P, content: AuthenticatedContent, proposals: tuple[SentProposal, ...], spent: SpentKey | None
) -> StagedPartialCommit[P]:
    committer = content.content.sender
    index = LeafIndex(committer.leaf_index) if isinstance(committer, MemberSender) else None
    return _staged(group, committer, index, proposals, None, spent)


def _staged(
    group: P,
    committer: AnySender,
    index: LeafIndex | None,
    proposals: tuple[SentProposal, ...],
    state: P | None,
    spent: SpentKey | None,
) -> StagedPartialCommit[P]:
    base_tag = group.public.confirmation_tag
    return StagedPartialCommit(committer, index, proposals, group.group_id, group.epoch, base_tag, state, spent)


def _own_leaf_after(group: P, proposals: Sequence[SentProposal]) -> LeafNode:
    """Our present leaf, or that of our own Update."""
    for sent in proposals:
        if isinstance(sent.proposal, Update) and sent.sender == MemberSender(group.own_index):
            return sent.proposal.leaf_node
    return group.own_leaf


def _extensions(group: P, proposals: Sequence[SentProposal]) -> tuple[Extension, ...]:
    """The GroupContext's extensions after the Commit."""
    for sent in proposals:
        if isinstance(sent.proposal, GroupContextExtensions):
            return sent.proposal.extensions
    return group.context.extensions


def _init_secret(group: P, proposals: Sequence[SentProposal]) -> bytes:
    """RFC 9420 8.3, 8: of the epoch that ends, or from an external Commit."""
    for sent in proposals:
        if isinstance(sent.proposal, ExternalInit):
            return open_external_init(group.suite, group.secrets, sent.proposal.kem_output)
    return group.secrets.init_secret
