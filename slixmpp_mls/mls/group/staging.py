"""From a Commit to the epoch after it: what committer and receivers do alike (RFC 9420 12.4).

::

    proposals ── check_list, apply ──► provisional tree and extensions   ─┐
    path      ── merge              ──► the new tree                      ├ stage_public: anybody's part
    tree hash                       ──► the provisional GroupContext     ─┘
    path      ── decrypt            ──► commit_secret                    (12.4.2)
    transcript                      ──► GroupContext                     (8.2)
    PSKs, init_secret               ──► key schedule                     (8)
    confirmation tag                ──► created or verified              (6.1)

The result is a :class:`StagedCommit`: the next state, and what it changes.  Nothing has
happened until :meth:`Group.apply <slixmpp_mls.mls.group.group.Group.apply>` makes it the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ...errors import InvalidError, Premature
from ..crypto.cipher_suite import CipherSuite
from ..schedule.key_schedule import Epoch, derive_epoch, joiner_secret
from ..schedule.psk_secret import psk_secret
from ..schedule.transcript import confirmed_transcript_hash, interim_transcript_hash
from ..structures.commit import Commit, ProposalRef
from ..structures.extensions import Extension
from ..structures.framing import AnySender, AuthenticatedContent, MemberSender, NewMemberCommitSender
from ..structures.group_context import GroupContext
from ..structures.leaf_node import LeafNode
from ..structures.proposals import Remove
from ..structures.psk import PreSharedKeyID
from ..structures.update_path import UpdatePath
from ..tree.known_tree import KnownTree
from ..tree.leaf_validation import LeafRules, check_members
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from ..tree.treekem import merge_path
from .commit_effects import ChangeKind, Effects, MemberChange
from .group_state import GroupState, MemberState, PSKLookup, PublicGroup, PublicState, SpentKey
from .proposal_list import Applied, SentProposal, apply, check_list, path_required

__all__ = [
    "NextEpoch", "StagedCommit", "StagedPublic", "effects_of", "new_context", "next_epoch", "path_change",
    "provisional_context", "psk_values", "public_group", "resolve", "stage_public",
]  # fmt: skip

T = TypeVar("T", bound=KnownTree)


@dataclass(frozen=True, slots=True, repr=False)
class StagedCommit:
    """A valid Commit, not yet in effect.

    :ivar effects: what it changes, for the application to judge
    :ivar base_epoch: the epoch that it ends
    :ivar base_tag: the confirmation tag of that epoch, which tells it from others of its number
    :ivar own: whether we made it
    :ivar next: the state after it; None if it removes us
    :ivar spent: the key that opened it, if it came encrypted
    """

    effects: Effects
    group_id: bytes
    base_epoch: int
    base_tag: bytes
    own: bool
    next: GroupState | None
    spent: SpentKey | None = None

    def __repr__(self) -> str:
        return f"<StagedCommit ends epoch {self.base_epoch} of {self.group_id.hex()[:16]}>"


# --- the public part -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class StagedPublic:
    """The verdict on a properly signed Commit as far as no secret is needed.

    :ivar index: the committer's leaf in the new epoch
    :ivar added: leaves that the Commit adds, which its path is not encrypted to
    :ivar tree: with the path in it
    :ivar provisional: the new epoch's context but for the transcript (12.4.1)
    """

    proposals: tuple[SentProposal, ...]
    applied: Applied
    index: LeafIndex
    added: frozenset[LeafIndex]
    path: UpdatePath | None
    tree: RatchetTree
    provisional: GroupContext
    effects: Effects


def stage_public(public: PublicGroup, content: AuthenticatedContent, rules: LeafRules) -> StagedPublic:
    """RFC 9420 12.4.2, as far as no secret is needed.

    :param content: a Commit whose signature has been verified
    :raises InvalidError: it is not valid
    """
    commit = content.content.content
    committer = content.content.sender
    assert isinstance(commit, Commit)
    proposals = resolve(commit, committer, public.proposals)
    check_list(proposals, committer, public.context)
    if commit.path is None and path_required(proposals):
        raise InvalidError("Commit without the path that it needs", "RFC 9420 12.4")
    applied = apply(proposals, public.tree, public.context, rules)

    tree = applied.tree
    if isinstance(committer, MemberSender):
        index = LeafIndex(committer.leaf_index)
    else:
        tree, index = tree.with_room()  # RFC 9420 12.4.2: the leftmost free leaf
    added = frozenset(place for place, _ in applied.added)
    change = None
    if commit.path is not None:
        leaf = commit.path.leaf_node
        if isinstance(committer, NewMemberCommitSender):
            _check_return(public.tree, proposals, leaf)
        rules.check_path_leaf(public.group_id, index, leaf, applied.requirements)
        tree = merge_path(tree, index, commit.path, added)
        change = path_change(public.tree, tree, committer, index)
    check_members(tree, applied.requirements)
    return StagedPublic(
        proposals,
        applied,
        index,
        added,
        commit.path,
        tree,
        provisional_context(public.context, tree.tree_hash(), applied.extensions),
        effects_of(applied, committer, index, change),
    )


def resolve(commit: Commit, committer: AnySender, known: Mapping[bytes, SentProposal]) -> tuple[SentProposal, ...]:
    """The proposals that a Commit covers, each with its sender (RFC 9420 12.4).

    :raises Premature: one of them has not come
    """
    resolved = []
    for entry in commit.proposals:
        if isinstance(entry, ProposalRef):
            sent = known.get(entry.reference)
            if sent is None:
                raise Premature("reference to an unknown proposal", "RFC 9420 12.4.2")
            resolved.append(sent)
        else:
            resolved.append(SentProposal(entry, committer))
    return tuple(resolved)


def _check_return(tree: RatchetTree, proposals: Sequence[SentProposal], leaf: LeafNode) -> None:
    """RFC 9420 12.2: an external Commit that replaces an old leaf brings a new key, as an Update would (7.3)."""
    for sent in proposals:
        if isinstance(sent.proposal, Remove):
            removed = tree.member(sent.proposal.removed)
            if removed.encryption_key == leaf.encryption_key:
                raise InvalidError("a resync that keeps the encryption key", "RFC 9420 12.2, 7.3")


def provisional_context(context: GroupContext, tree_hash: bytes, extensions: tuple[Extension, ...]) -> GroupContext:
    """RFC 9420 12.4.1: the new epoch's context but for the transcript.

    :raises InvalidError: the group is in the last epoch that there can be
    """
    if context.epoch == 2**64 - 1:  # RFC 9420 8.1: a uint64; a malicious member may have invited us into the last
        raise InvalidError("no epoch can follow this one", "RFC 9420 8.1")
    return replace(context, epoch=context.epoch + 1, tree_hash=tree_hash, extensions=extensions)


def new_context(
    suite: CipherSuite, interim: bytes, provisional: GroupContext, content: AuthenticatedContent
) -> GroupContext:
    """RFC 9420 8.2: the context of the epoch that a signed Commit begins.

    :param interim: the interim transcript hash of the epoch that it ends
    """
    confirmed = confirmed_transcript_hash(suite, interim, content.wire_format, content.content, content.signature)
    return replace(provisional, confirmed_transcript_hash=confirmed)


def public_group(context: GroupContext, tree: T, tag: bytes) -> PublicState[T]:
    """The public state of a new epoch."""
    interim = interim_transcript_hash(tree.suite, context.confirmed_transcript_hash, tag)
    return PublicState(context, tree, interim, tag)


# --- the secret part -------------------------------------------------------------------------


def psk_values(group: MemberState[T], names: Sequence[PreSharedKeyID], psks: PSKLookup) -> bytes:
    """RFC 9420 8.4: the PSKs of a Commit, combined.

    :raises InvalidError: we lack one
    """
    return psk_secret(group.suite, [(name, group.psk(name.psk, psks)) for name in names])


@dataclass(frozen=True, slots=True, repr=False)
class NextEpoch:
    """The new epoch's context and keys.  `joiner` goes into a Welcome and is then forgotten."""

    context: GroupContext
    epoch: Epoch
    joiner: bytes


def next_epoch(
    suite: CipherSuite, context: GroupContext, init_secret: bytes, commit_secret: bytes, psks: bytes
) -> NextEpoch:
    """RFC 9420 8: the key schedule of the epoch with this context."""
    encoded = context.encode()
    joiner = joiner_secret(suite, init_secret, commit_secret, encoded)
    return NextEpoch(context, derive_epoch(suite, joiner, psks, encoded), joiner)


# --- what it changes -------------------------------------------------------------------------


def path_change(before: RatchetTree, tree: RatchetTree, committer: AnySender, index: LeafIndex) -> MemberChange:
    """The change that the path makes to the committer's own leaf."""
    if isinstance(committer, MemberSender):
        return MemberChange(ChangeKind.UPDATED, committer, index, before.member(index), tree.member(index))
    return MemberChange(ChangeKind.ADDED, committer, index, None, tree.member(index))


def effects_of(applied: Applied, committer: AnySender, index: LeafIndex, path: MemberChange | None) -> Effects:
    """The Commit's effects, the committer's own leaf last."""
    return Effects(
        committer=committer,
        committer_index=index,
        changes=applied.changes if path is None else (*applied.changes, path),
        extensions=applied.extensions_change,
        psks=applied.psks,
        reinit=applied.reinit,
    )
