"""The changes that a Commit makes, as far as its list of proposals and proved leaves tell (draft-ietf-mls-partial)."""

from __future__ import annotations

from ...errors import InvalidError, PeerError
from ..group.commit_effects import ChangeKind, Effects, ExtensionsChange, MemberChange
from ..group.proposal_list import SentProposal
from ..schedule.message_protection import open_sender_data, unprotect_private
from ..structures.commit import Commit, ProposalRef
from ..structures.framing import (
    AnySender,
    FramedContent,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
    PrivateMessage,
    PublicMessage,
)
from ..structures.leaf_node import LeafNode
from ..structures.proposals import Add, GroupContextExtensions, PreSharedKey, ReInit, Remove, SelfRemove, Update
from ..structures.psk import PreSharedKeyID
from ..tree.tree_math import LeafIndex
from .commit_processing import StagedPartialCommit
from .partial_group import PartialGroup

__all__ = ["UNKNOWN_PLACE", "effects_without_tree", "unverified_proposals"]

UNKNOWN_PLACE = 1 << 31
"""From here on, leaf indices stand for places that are not known: no tree is as wide (RFC 9420 7.7)."""


def effects_without_tree(group: PartialGroup, staged: StagedPartialCommit[PartialGroup]) -> Effects:
    """The effects of a Commit.  Added leaves have indices from :data:`UNKNOWN_PLACE` on, except the committer's.

    If the Commit removes us, the change that its path makes to the committer's leaf is not among them.

    :param group: in the epoch that the Commit ends; it knows all whose leaf changes, and who wants that
    :raises MembershipUnproved: it does not know one of them
    :raises InvalidError: a leaf outside the tree
    """

    def known(sender: AnySender) -> AnySender:
        if isinstance(sender, MemberSender):
            group.tree.member(sender.leaf_index)
        return sender

    changes: list[MemberChange] = []
    extensions: ExtensionsChange | None = None
    psks: list[PreSharedKeyID] = []
    reinit: ReInit | None = None
    for sent in staged.proposals:
        proposal, sender = sent.proposal, known(sent.sender)
        match proposal:
            case Add():
                place, leaf = UNKNOWN_PLACE + len(changes), proposal.key_package.leaf_node
                changes.append(MemberChange(ChangeKind.ADDED, sender, place, None, leaf))
            case Update() if isinstance(sender, MemberSender):
                before = group.tree.member(sender.leaf_index)
                changes.append(MemberChange(ChangeKind.UPDATED, sender, sender.leaf_index, before, proposal.leaf_node))
            case Remove():
                before = group.tree.member(proposal.removed)
                changes.append(MemberChange(ChangeKind.REMOVED, sender, proposal.removed, before, None))
            case SelfRemove() if isinstance(sender, MemberSender):
                before = group.tree.member(sender.leaf_index)
                changes.append(MemberChange(ChangeKind.REMOVED, sender, sender.leaf_index, before, None))
            case GroupContextExtensions():
                extensions = ExtensionsChange(sender, group.context.extensions, proposal.extensions)
            case PreSharedKey():
                psks.append(proposal.psk)
            case ReInit():
                reinit = proposal
            case _:
                pass  # an ExternalInit changes no leaf
    index = _committer_index(staged)
    path = _path_change(group, staged, index)
    return Effects(
        committer=known(staged.committer),
        committer_index=index,
        changes=tuple(changes) if path is None else (*changes, path),
        extensions=extensions,
        psks=tuple(psks),
        reinit=reinit,
    )


def unverified_proposals(group: PartialGroup, message: MLSMessage) -> tuple[SentProposal, ...]:
    """What a Commit of the present epoch would do; nobody's signature has been checked.

    :returns: empty if we cannot read it, or it is no Commit; without proposals that it refers to and we do not have
    """
    try:
        content = _unverified(group, message)
    except PeerError:
        return ()
    if content is None or not isinstance(content.content, Commit):
        return ()
    known = group.public.proposals
    found = (
        known.get(entry.reference) if isinstance(entry, ProposalRef) else SentProposal(entry, content.sender)
        for entry in content.content.proposals
    )
    return tuple(sent for sent in found if sent is not None)


def _unverified(group: PartialGroup, message: MLSMessage) -> FramedContent | None:
    """
    :raises PeerError: it cannot be read
    """
    body = message.body
    if isinstance(body, PublicMessage):
        return body.content
    if not isinstance(body, PrivateMessage) or (body.group_id, body.epoch) != (group.group_id, group.epoch):
        return None
    sender = open_sender_data(group.suite, body, group.secrets.sender_data_secret)
    return unprotect_private(group.suite, body, sender, group.secret_tree, group.limits)[0].content


def _committer_index(staged: StagedPartialCommit[PartialGroup]) -> LeafIndex:
    """The committer's leaf after the Commit; of a joiner in a Commit that removes us, it is not known."""
    return LeafIndex(UNKNOWN_PLACE - 1) if staged.committer_index is None else staged.committer_index


def _path_change(
    group: PartialGroup, staged: StagedPartialCommit[PartialGroup], index: LeafIndex
) -> MemberChange | None:
    after: LeafNode | None = None if staged.next is None else staged.next.tree.leaf(index)
    if after is None:
        return None
    if isinstance(staged.committer, NewMemberCommitSender):
        return MemberChange(ChangeKind.ADDED, staged.committer, index, None, after)
    before = group.tree.member(index)
    if after == before:
        return None
    if not isinstance(staged.committer, MemberSender):
        raise InvalidError("a Commit by somebody who may make none", "RFC 9420 6.1")
    return MemberChange(ChangeKind.UPDATED, staged.committer, index, before, after)
