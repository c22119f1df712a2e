"""A group as a partial member sees it: a value, as :class:`~slixmpp_mls.mls.group.group.Group` is."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, MutableSet
from dataclasses import dataclass, replace
from typing import Self

from immutables import Map

from ...errors import InvalidError, MembershipUnproved, UsageError, WrongEpoch
from ..crypto.cipher_suite import Random
from ..group import group_storage
from ..group.applying import apply_message, apply_proposal
from ..group.group import Group
from ..group.group_state import MemberState, OwnUpdate, PastEpoch, PSKLookup, PublicState, no_psks
from ..group.joining import GroupLookup
from ..group.message_creation import create_update, protect, sign_content, sign_proposal
from ..group.message_processing import (
    OpenedMessage,
    ReceivedMessage,
    ReceivedProposal,
    check_open,
    ended_epoch,
    open_private,
    open_public,
    take_proposal,
)
from ..group.proposal_list import SentProposal, check_alone
from ..parameters import Parameters
from ..registry import WireFormat
from ..schedule.message_protection import Padding, pad_in_steps
from ..structures.commit import Commit
from ..structures.framing import (
    ApplicationData,
    AuthenticatedContent,
    MemberSender,
    MLSMessage,
    PrivateMessage,
)
from ..structures.group_context import GroupContext
from ..structures.leaf_node import LeafNode
from ..structures.partial import AnnotatedCommit, AnnotatedWelcome, MembershipProof, SenderAuthenticatedMessage
from ..structures.proposals import AnyProposal, SelfRemove, Update
from ..tree.leaf_creation import KeyPackageBundle, OwnLeaf
from ..tree.leaf_validation import GroupRequirements, LeafRules
from ..tree.partial_tree import PartialTree
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from ..tree.tree_slice import TreeSlice, prove
from ..tree.tree_validation import VerifiedTree, verify_tree
from . import commit_processing, joining
from .commit_processing import StagedPartialCommit
from .joining import StagedPartialJoin

__all__ = ["PartialGroup"]

_DRAFT = "draft-ietf-mls-partial Sender-Authenticated Messages"


@dataclass(frozen=True, slots=True, repr=False)
class PartialGroup(MemberState[PartialTree]):
    """One member's view of a group in one epoch, without the ratchet tree.

    :meth:`members` are those whose membership was proved in this epoch, we ourselves among them.
    """

    # --- joining -------------------------------------------------------------------------------

    @classmethod
    def join(
        cls,
        annotated: AnnotatedWelcome,
        own: KeyPackageBundle,
        *,
        psks: PSKLookup = no_psks,
        groups: GroupLookup = lambda group_id: None,
        parameters: Parameters | None = None,
        remembered: MutableSet[bytes] | None = None,
    ) -> StagedPartialJoin[Self]:
        """The group that an AnnotatedWelcome lets us into.  See :func:`.joining.join`."""
        return joining.join(
            annotated, own, make=cls, psks=psks, groups=groups, parameters=parameters, remembered=remembered
        )

    @classmethod
    def downgrade(cls, group: Group) -> Self:
        """A full member's state without the tree (draft-ietf-mls-partial Upgrading and Downgrading).

        Messages of ended epochs can no longer be read: who sent them is known from the tree alone.
        """
        own = TreeSlice.of(group.suite, prove(group.tree, group.own_index))
        public = group.public
        return cls(
            public=PublicState(
                public.context,
                PartialTree(own),
                public.interim_transcript_hash,
                public.confirmation_tag,
                public.proposals,
                public.proposal_order,
            ),
            secrets=group.secrets,
            secret_tree=group.secret_tree,
            private=group.private,
            signature_key=group.signature_key,
            parameters=group.parameters,
            updates=group.updates,
            unshown=group.unshown,
            resumption_psks=group.resumption_psks,
            closed=group.closed,
        )

    def upgrade(self, tree: bytes | RatchetTree, *, remembered: MutableSet[bytes] | None = None) -> Group:
        """The state of a full member (draft-ietf-mls-partial Upgrading and Downgrading).

        The tree is checked as it is on joining (RFC 9420 12.4.3.1).  Late messages of epochs before this one cannot
        be read afterwards; proposals that wait and turn out to be invalid in this tree are dropped.

        :param tree: the group's ratchet tree in this epoch, as a ``ratchet_tree`` extension holds it
        :param remembered: signatures verified before
        :raises MalformedError: it does not parse
        :raises InvalidError: it is not this group's tree in this epoch, or not acceptable
        """
        return self.complete(self.verify(tree, remembered=remembered), remembered=remembered)

    def verify(self, tree: bytes | RatchetTree, *, remembered: MutableSet[bytes] | None = None) -> VerifiedTree:
        """The costly half of :meth:`upgrade`, for another thread: it changes nothing, and reads only this value.

        :raises MalformedError: it does not parse
        :raises InvalidError: it is not this group's tree in this epoch, or not acceptable
        """
        found = RatchetTree.decode(self.suite, tree) if isinstance(tree, bytes) else tree
        verified = verify_tree(
            found, self.context, lifetime_limit=self.parameters.lifetime_limit, remembered=remembered
        )
        if found.leaf(self.own_index) != self.own_leaf:
            raise InvalidError("our leaf is not in the tree", "RFC 9420 12.4.3.1")
        if self.private.kept_in(found) is not self.private:
            raise InvalidError("the tree has other keys than ours", "RFC 9420 12.4.3.1")
        return verified

    def complete(self, tree: VerifiedTree, *, remembered: MutableSet[bytes] | None = None) -> Group:
        """The other half of :meth:`upgrade`: messages may have been read and sent in between.

        :param tree: what :meth:`verify` has made for a state of the same epoch
        :raises UsageError: it is the tree of another epoch
        """
        if tree.tree_hash() != self.tree.tree_hash():  # both were agreed on by a confirmation tag
            raise UsageError("a ratchet tree that was verified for another epoch")
        found: RatchetTree = tree
        public = PublicState(self.context, found, self.public.interim_transcript_hash, self.public.confirmation_tag)
        for sent in self.pending_proposals:
            try:
                check_alone(sent, found, self.context, LeafRules.for_received(self.parameters, remembered))
            except InvalidError:
                continue
            public = public.with_proposal(sent, None)  # there was a place for it
        return Group(
            public=public,
            secrets=self.secrets,
            secret_tree=self.secret_tree,
            private=self.private,
            signature_key=self.signature_key,
            parameters=self.parameters,
            updates=self.updates,
            unshown=frozenset(each for each in self.unshown if each in public.proposals),
            resumption_psks=self.resumption_psks,
            closed=self.closed,
        )

    # --- what is known of others ---------------------------------------------------------------

    @property
    def own_proof(self) -> MembershipProof:
        """Our own membership proof: with it other partial members can read what we send."""
        return self.tree.own.proof

    def prove(self, proof: MembershipProof, *, remembered: MutableSet[bytes] | None = None) -> Self:
        """The state in which the member that a proof shows is known.

        :raises InvalidError: it is no proof of this epoch's tree, or its leaf is not acceptable (RFC 9420 7.3)
        """
        return commit_processing.with_proof(self, proof, LeafRules.for_received(self.parameters, remembered))[0]

    # --- sending -------------------------------------------------------------------------------

    def encrypt(
        self,
        data: bytes,
        authenticated_data: bytes = b"",
        *,
        left_out: Collection[bytes] = (),
        padding: Padding = pad_in_steps,
        random: Random = os.urandom,
    ) -> tuple[bytes, Self]:
        """Application data as an MLSMessage, and the state without the key that it used.

        :param authenticated_data: travels in clear, and is authenticated
        :param left_out: references of waiting proposals that the application's rules leave to others, or to nobody
        :raises UsageError: proposals wait that somebody else must commit first (RFC 9420 12.4), or the group is closed
        """
        self.require_open()
        if any(reference not in left_out for reference in self.public.proposal_order):
            raise UsageError("proposals wait for a Commit, which must come before application data (RFC 9420 12.4)")
        content = sign_content(self, WireFormat.PRIVATE_MESSAGE, ApplicationData(data), authenticated_data)
        return protect(self, content, padding, random)

    def propose(
        self,
        proposal: AnyProposal,
        *,
        now: int,
        public: bool = False,
        authenticated_data: bytes = b"",
        random: Random = os.urandom,
    ) -> tuple[bytes, Self]:
        """A proposal as an MLSMessage, and the state in which it waits for a Commit.

        Whether it is valid in the tree, full members find out.

        :param now: seconds since the Unix epoch
        :param public: send it as a PublicMessage; SelfRemove always is one
        :raises UsageError: the group is closed; for an Update see :meth:`propose_update`
        :raises InvalidError: it could be valid in no tree (RFC 9420 12.1)
        """
        if isinstance(proposal, Update):
            raise UsageError("an Update without its private keys; see propose_update")
        return self._propose(proposal, None, now, public, authenticated_data, random)

    def propose_update(
        self, own: OwnLeaf | None = None, *, now: int, public: bool = False, random: Random = os.urandom
    ) -> tuple[bytes, Self]:
        """RFC 9420 12.1.2: propose a new leaf for ourselves; a partial member renews its keys in this way alone.

        :param own: what it is made of, if more than the encryption key changes
        """
        proposal, update = create_update(self, own, random)
        return self._propose(proposal, update, now, public, b"", random)

    def _propose(
        self,
        proposal: AnyProposal,
        update: OwnUpdate | None,
        now: int,
        public: bool,
        authenticated_data: bytes,
        random: Random,
    ) -> tuple[bytes, Self]:
        self.require_open()
        public = public or isinstance(proposal, SelfRemove)  # draft-ietf-mls-extensions SelfRemove
        form = WireFormat.PUBLIC_MESSAGE if public else WireFormat.PRIVATE_MESSAGE
        sent = sign_proposal(self, form, proposal, authenticated_data)
        check_alone(
            sent,
            self.tree,
            self.context,
            LeafRules(now, self.parameters.lifetime_limit, self.parameters.clock_tolerance),
        )
        assert sent.content is not None
        return protect(self.with_own_proposal(sent, update), sent.content, random=random)

    # --- receiving -----------------------------------------------------------------------------

    def process(
        self,
        message: MLSMessage | SenderAuthenticatedMessage | AnnotatedCommit,
        *,
        now: int,
        psks: PSKLookup = no_psks,
        remembered: MutableSet[bytes] | None = None,
    ) -> ReceivedMessage | ReceivedProposal | StagedPartialCommit[Self]:
        """The effect of a message.  Changes nothing.

        A Commit comes as an AnnotatedCommit, or as a SenderAuthenticatedMessage if it removes us.  Messages and
        proposals come with a proof of their sender, or without one if it was proved in this epoch, or is no member.

        :param now: seconds since the Unix epoch: whether the keys of an ended epoch may still be used
        :raises MembershipUnproved: its sender was not proved
        :raises UnknownGroup, WrongEpoch, NotForUs, StateRolledBack, Replayed: as with :meth:`.Group.process`
        :raises InvalidError: it is not valid, or its proof is not
        """
        rules = LeafRules.for_received(self.parameters, remembered)
        if isinstance(message, AnnotatedCommit):
            return commit_processing.stage_commit(self, message, rules, psks)
        proof = None
        if isinstance(message, SenderAuthenticatedMessage):
            proof = message.sender_membership_proof
            message = message.message
        body, epoch = commit_processing.read_place(self, message)
        if epoch != self.epoch:
            if isinstance(body, PrivateMessage):
                return self._late_message(body, proof, rules, now)
            raise WrongEpoch(f"epoch {epoch}, not {self.epoch}", "RFC 9420 12.4.2")
        check_open(self)
        proved, shown = (self, None) if proof is None else commit_processing.with_proof(self, proof, rules)
        if isinstance(body, PrivateMessage):
            opened = open_private(proved, body)
            _check_sender(shown, opened.content)
            if isinstance(opened.content.content.content, ApplicationData):
                return opened.as_application()
            return self._handshake(proved, opened.content, opened, rules)
        content = open_public(proved.public, body, self.secrets.membership_key)
        _check_sender(shown, content)
        return self._handshake(proved, content, None, rules)

    def _handshake(
        self, proved: Self, content: AuthenticatedContent, opened: OpenedMessage | None, rules: LeafRules
    ) -> ReceivedProposal | StagedPartialCommit[Self]:
        if isinstance(content.content.content, Commit):
            return commit_processing.stage_removal(self, content, None if opened is None else opened.spent)
        sent: SentProposal = take_proposal(proved.public, content, rules)
        self.with_proposal(sent)  # refused now, if there are too many
        return ReceivedProposal(self.epoch, sent, self.secret_tree, None if opened is None else opened.left)

    def _late_message(
        self, message: PrivateMessage, proof: MembershipProof | None, rules: LeafRules, now: int
    ) -> ReceivedMessage:
        """Application data of an epoch that has ended (RFC 9420 15.3), its proof of that epoch's tree."""
        past = ended_epoch(self, message, now)
        shown = None if proof is None else _shown_then(self, past, proof, rules)

        def leaf_of(index: LeafIndex) -> LeafNode:
            if shown is not None and shown.index == index:
                return shown.leaf
            leaf = past.leaves.get(index)
            if leaf is None:
                raise MembershipUnproved(index)
            return leaf

        opened = open_private(self, message, past, leaf_of)
        _check_sender(shown, opened.content)
        return opened.as_application()

    def apply(self, processed: ReceivedMessage | ReceivedProposal | StagedPartialCommit[Self], *, now: int) -> Self:
        """The state after something that :meth:`process` has made of it.

        :raises UsageError: it was made of another state, or it removes us
        """
        if isinstance(processed, StagedPartialCommit):
            return self._enter(processed, now)
        if isinstance(processed, ReceivedProposal):
            return apply_proposal(self, processed)
        state = apply_message(self, processed)
        if processed.epoch != self.epoch:
            return state
        return state.with_tree(self.tree.with_member(processed.sender, processed.leaf))

    def _enter(self, staged: StagedPartialCommit[Self], now: int) -> Self:
        base = (staged.group_id, staged.base_epoch, staged.base_tag)
        if base != (self.group_id, self.epoch, self.public.confirmation_tag):
            raise UsageError("a Commit staged for another epoch")
        if staged.next is None:
            raise UsageError("the Commit removes us")
        leaves: Map[LeafIndex, LeafNode | None] = Map(self.members())
        return replace(staged.next, past=self.past_with_current(leaves, staged.spent, now))

    def carrying(
        self, before: Self, changed: Mapping[int, LeafNode | None], limit: int, always: Collection[int] = ()
    ) -> Self:
        """The state in which members of the epoch before are known, too, whose leaves a Commit has left as they were.

        The Commit names each leaf that it changes, but for the places of those that it adds, which were blank.

        :param before: the state in which the Commit was processed
        :param changed: leaves that it has removed (None) or replaced, and by what
        :param limit: at most as many members, those that were proved last ...
        :param always: ... and these
        """
        tree, first = self.tree, max(0, len(before.tree.order) - limit)
        for index in (*(each for each in before.tree.order[:first] if each in always), *before.tree.order[first:]):
            leaf = changed.get(index, before.tree.proved[index])
            if leaf is not None:
                tree = tree.with_member(index, leaf)
        return self.with_tree(tree)

    def forget_past(self, *, now: int) -> Self:
        """The state without the ended epochs whose time is over."""
        kept = self.forget(self.past, now)
        return self if len(kept) == len(self.past) else replace(self, past=kept)

    # --- storing -------------------------------------------------------------------------------

    def pieces(self) -> dict[bytes, bytes]:
        """The whole state for a store, secret.  See :mod:`slixmpp_mls.mls.group.group_storage`."""
        return group_storage.pieces(self)

    def changes_since(self, old: Self) -> group_storage.Changes:
        """The pieces to write (None: delete) to a store that has `old`, in time proportional to the difference."""
        return group_storage.changes_since(self, old)

    def stored(self) -> Self:
        """The same state, to go on with once its changes are written."""
        return group_storage.stored(self)

    @classmethod
    def restore(cls, pieces: Iterable[tuple[bytes, bytes]], parameters: Parameters | None = None) -> Self:
        """The state whose pieces these are.

        :raises InvalidError: they make up no state, or that of a full member
        """
        return group_storage.restore(cls, PartialTree.restore, pieces, parameters)


def _check_sender(shown: TreeSlice | None, content: AuthenticatedContent) -> None:
    """The proof beside a message is its sender's."""
    if shown is not None and content.content.sender != MemberSender(shown.index):
        raise InvalidError("a membership proof of another member than the sender", _DRAFT)


def _shown_then(group: PartialGroup, past: PastEpoch, proof: MembershipProof, rules: LeafRules) -> TreeSlice:
    """The slice that a proof shows of an ended epoch's tree."""
    context = GroupContext.decode(past.context)
    shown = TreeSlice.of(group.suite, proof).require(context.tree_hash, past.secret_tree.leaf_count)
    if past.leaves.get(shown.index) is None:
        requirements = GroupRequirements.of_context(context)
        rules.check_in_group(context.group_id, shown.index, shown.leaf, requirements)
    return shown
