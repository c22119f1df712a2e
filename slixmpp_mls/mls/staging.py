"""From a Commit to the epoch after it: what committer and receivers do alike (RFC 9420 12.4).

::

    proposals ── check_list, apply ──► provisional tree and extensions
    path      ── renew or merge     ──► the new tree; its hash makes the provisional GroupContext
    path      ── encrypt or decrypt ──► commit_secret                (12.4.1, 12.4.2)
    transcript, PSKs, init_secret   ──► GroupContext, key schedule   (8)
    confirmation tag                ──► created or verified          (6.1)

The result is a :class:`StagedCommit`: the next state, and what it changes.  Nothing has
happened until :meth:`GroupState.apply <slixmpp_mls.mls.group.Group.apply>` makes it the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InvalidError
from .cipher_suite import CipherSuite
from .commit import Commit, ProposalRef
from .effects import ChangeKind, Effects, MemberChange
from .framing import AnySender, AuthenticatedContent, MemberSender
from .group_context import GroupContext
from .group_state import GroupState, PSKLookup, PublicGroup
from .key_schedule import Epoch, derive_epoch, joiner_secret
from .proposal_list import Applied, SentProposal, path_required
from .psk import PreSharedKeyID, psk_secret
from .ratchet_tree import RatchetTree
from .transcript import confirmed_transcript_hash, interim_transcript_hash
from .tree_math import LeafIndex

__all__ = [
    "NextEpoch", "StagedCommit", "check_path_present", "effects_of", "next_epoch", "path_change",
    "provisional_context", "psk_values", "resolve",
]  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class StagedCommit:
    """A valid Commit, not yet in effect.

    :ivar effects: what it changes, for the application to judge
    :ivar base_epoch: the epoch that it ends
    :ivar own: whether we made it
    :ivar next: the state after it; None if it removes us
    """

    effects: Effects
    group_id: bytes
    base_epoch: int
    own: bool
    next: GroupState | None

    def __repr__(self) -> str:
        return f"<StagedCommit ends epoch {self.base_epoch} of {self.group_id.hex()[:16]}>"

    @property
    def removes_us(self) -> bool:
        return self.next is None


def resolve(commit: Commit, committer: AnySender, group: GroupState) -> tuple[SentProposal, ...]:
    """The proposals that a Commit covers, each with its sender (RFC 9420 12.4).

    :raises InvalidError: it refers to one that we have not seen
    """
    resolved = []
    for entry in commit.proposals:
        if isinstance(entry, ProposalRef):
            sent = group.proposals.get(entry.reference)
            if sent is None:
                raise InvalidError("reference to an unknown proposal", "RFC 9420 12.4.2")
            resolved.append(sent)
        else:
            resolved.append(SentProposal(entry, committer))
    return tuple(resolved)


def check_path_present(commit: Commit, proposals: Sequence[SentProposal]) -> None:
    """:raises InvalidError: the Commit lacks the path that its proposals require (RFC 9420 12.4)"""
    if commit.path is None and path_required(proposals):
        raise InvalidError("Commit without the path that it needs", "RFC 9420 12.4")


def provisional_context(context: GroupContext, applied: Applied, tree: RatchetTree) -> GroupContext:
    """RFC 9420 12.4.1: the new epoch's context but for the transcript."""
    return replace(
        context, epoch=context.epoch + 1, tree_hash=tree.tree_hash(), extensions=applied.extensions
    )


def psk_values(group: GroupState, names: Sequence[PreSharedKeyID], psks: PSKLookup) -> bytes:
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
    suite: CipherSuite,
    interim: bytes,
    provisional: GroupContext,
    content: AuthenticatedContent,
    init_secret: bytes,
    commit_secret: bytes,
    psks: bytes,
) -> NextEpoch:
    """RFC 9420 8: transcript and key schedule of the epoch that a signed Commit begins."""
    confirmed = confirmed_transcript_hash(suite, interim, content.wire_format, content.content, content.signature)
    context = replace(provisional, confirmed_transcript_hash=confirmed)
    encoded = context.encode()
    joiner = joiner_secret(suite, init_secret, commit_secret, encoded)
    return NextEpoch(context, derive_epoch(suite, joiner, psks, encoded), joiner)


def public_group(new: NextEpoch, tree: RatchetTree, tag: bytes) -> PublicGroup:
    """The public state of the new epoch."""
    interim = interim_transcript_hash(tree.suite, new.context.confirmed_transcript_hash, tag)
    return PublicGroup(new.context, tree, interim, tag)


def path_change(before: RatchetTree, tree: RatchetTree, committer: AnySender, index: LeafIndex) -> MemberChange:
    """What the path does to the committer's own leaf."""
    if isinstance(committer, MemberSender):
        return MemberChange(ChangeKind.UPDATED, committer, index, before.member(index), tree.member(index))
    return MemberChange(ChangeKind.ADDED, committer, index, None, tree.member(index))


def effects_of(
    applied: Applied, committer: AnySender, index: LeafIndex, path: MemberChange | None
) -> Effects:
    """The Commit's effects, the committer's own leaf last."""
    return Effects(
        committer=committer,
        committer_index=index,
        changes=applied.changes if path is None else (*applied.changes, path),
        extensions=applied.extensions_change,
        psks=applied.psks,
        reinit=applied.reinit,
    )
