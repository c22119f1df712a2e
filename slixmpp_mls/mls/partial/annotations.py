"""Annotations for partial members, made by anybody who has the ratchet tree (draft-ietf-mls-partial).

Each costs O(log n) of the group's size.  Nothing in them is secret, and nothing is signed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import UsageError
from ..group.commit_effects import ChangeKind
from ..group.staging import StagedCommit
from ..structures.framing import MemberSender, MLSMessage, NewMemberCommitSender
from ..structures.partial import (
    AnnotatedCommit,
    AnnotatedWelcome,
    MembershipProof,
    SenderAuthenticatedMessage,
    SenderAuthenticatedWelcome,
)
from ..structures.welcome import Welcome
from ..tree.ratchet_tree import RatchetTree
from ..tree.subtree import resolution
from ..tree.tree_math import LeafIndex, NodeIndex, leaves_under, node_of
from ..tree.tree_slice import prove

__all__ = ["CommitAnnotations", "annotate_welcome", "authenticate_sender"]


def authenticate_sender(
    tree: RatchetTree, sender: LeafIndex, message: bytes | MLSMessage
) -> SenderAuthenticatedMessage:
    """A message with the proof that its sender is a member.

    :param tree: of the epoch in which the message was sent
    :raises InvalidError: the sender is no member
    """
    return SenderAuthenticatedMessage(_decoded(message), prove(tree, sender))


def annotate_welcome(
    tree: RatchetTree,
    welcome: bytes | MLSMessage,
    signer: LeafIndex,
    joiner: LeafIndex,
    reference: bytes | None = None,
) -> AnnotatedWelcome:
    """A Welcome for one of those whom it invites.

    :param tree: of the epoch that the Welcome lets them into
    :param signer: of the GroupInfo in it: the committer
    :param joiner: the leaf that the Commit has added for them
    :param reference: the joiner's KeyPackageRef: the secrets of all others, of no use to it, are then left out
    :raises UsageError: the message is no Welcome
    :raises InvalidError: one of them is no member
    """
    body = _decoded(welcome).body
    if not isinstance(body, Welcome):
        raise UsageError("not a Welcome")
    if reference is not None:
        body = replace(body, secrets=tuple(each for each in body.secrets if each.new_member == reference))
    return AnnotatedWelcome(SenderAuthenticatedWelcome(body, prove(tree, signer)), prove(tree, joiner))


@dataclass(frozen=True, slots=True)
class CommitAnnotations:
    """One Commit, to be annotated for any of its receivers."""

    commit: MLSMessage
    tree: RatchetTree
    committer: LeafIndex
    added: frozenset[LeafIndex]
    has_path: bool
    before: MembershipProof | None
    after: MembershipProof

    @classmethod
    def of(cls, before: RatchetTree, staged: StagedCommit, commit: bytes | MLSMessage) -> CommitAnnotations:
        """What all receivers' annotations have in common.

        :param before: the tree of the epoch that the Commit ends
        :param staged: the Commit as we have made or processed it; it must not remove us
        :raises UsageError: we do not have the tree after it
        """
        if staged.next is None:
            raise UsageError("the Commit removes us: the tree after it is not known here")
        effects, tree = staged.effects, staged.next.tree
        committer = LeafIndex(effects.committer_index)
        joins = isinstance(effects.committer, NewMemberCommitSender)
        own = [change.kind for change in effects.changes if change.index == committer]
        return cls(
            _decoded(commit),
            tree,
            committer,
            frozenset(LeafIndex(change.index) for change in effects.added if change.index != committer),
            joins or ChangeKind.UPDATED in own,  # a committer's leaf changes by its path alone (RFC 9420 12.2)
            prove(before, committer) if isinstance(effects.committer, MemberSender) else None,
            prove(tree, committer),
        )

    def for_receiver(self, receiver: LeafIndex) -> AnnotatedCommit:
        """The Commit for one member that stays.

        A member that the Commit removes has no place in the tree after it.  It is given the Commit as
        :func:`authenticate_sender` annotates it.

        :raises UsageError: the receiver is the committer, or was added by this Commit
        :raises InvalidError: the receiver is no member after the Commit
        """
        if receiver == self.committer or receiver in self.added:
            raise UsageError("neither a committer nor a joiner processes the Commit")
        proof = prove(self.tree, receiver)
        index = self._resolution_index(receiver) if self.has_path else None
        return AnnotatedCommit(self.commit, self.before, self.tree.tree_hash(), index, self.after, proof)

    def _resolution_index(self, receiver: LeafIndex) -> int:
        """RFC 9420 7.5: which ciphertext of the UpdatePath is for this receiver."""
        (beside,) = (beside for _, beside in self.tree.filtered_direct_path(self.committer) if beside.above(receiver))
        covering: list[NodeIndex] = [node for node, _ in resolution(beside, self.added)]
        if node_of(receiver) in covering:  # alone, or unmerged at the node above it that is there, too
            return covering.index(node_of(receiver))
        (index,) = (index for index, node in enumerate(covering) if receiver in leaves_under(node))
        return index


def _decoded(message: bytes | MLSMessage) -> MLSMessage:
    return MLSMessage.decode(message) if isinstance(message, bytes) else message
