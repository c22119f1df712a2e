"""The API of the core: a group, the messages that it sends, the messages that it receives (RFC 9420).

::

    alice = Group.create(bundle, group_id)
    made = alice.commit([Add(bobs_key_package)], now=now)      # made.commit, made.welcome go out
    alice = made.sent                                          # store this before sending
    alice = alice.apply(made.staged, now=now)                  # when the Commit has won

    staged = Group.join(welcome, bobs_bundle)
    bob = staged.state                                         # once the application agrees

    message, bob = bob.encrypt(b"Fair is foul")                # store this bob before sending
    received = alice.process(message, now=now)                 # has not changed alice
    alice = alice.apply(received, now=now)

A :class:`Group` is an immutable value (:mod:`.group_state`).  Methods that would change it return
another one; the caller keeps the one that is in effect and drops the others.  Times are
seconds since the Unix epoch, given by the caller; randomness is the operating system's unless
a test says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSet, Sequence
from dataclasses import dataclass, replace
from typing import Self, Unpack

from immutables import Map

from ...errors import UsageError
from ..crypto.cipher_suite import Random, SignaturePrivateKey
from ..parameters import Parameters
from ..registry import ProposalType, WireFormat
from ..schedule.message_protection import Padding, pad_in_steps
from ..structures.extensions import Extension
from ..structures.framing import (
    AnySender,
    ApplicationData,
    ExternalSenderIndex,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
    PublicMessage,
)
from ..structures.key_package import KeyPackage
from ..structures.proposals import Add, AnyProposal, Remove, SelfRemove, Update
from ..structures.psk import PreSharedKeyID
from ..structures.welcome import GroupInfo, Welcome
from ..tree.leaf_creation import KeyPackageBundle, OwnLeaf
from ..tree.leaf_validation import LeafRules, check_members, check_proposal_supported
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from . import commit_creation, external_join, group_creation, group_storage, joining, message_processing, resumption
from .applying import apply_message, apply_proposal
from .commit_creation import CommitArguments, CommitBundle, CommitDraft
from .group_state import GroupState, OwnUpdate, PSKLookup, PublicGroup, no_psks
from .joining import GroupLookup, Identify, StagedJoin, UnverifiedGroupInfo, credential_of
from .message_creation import create_update, protect, sign_content, sign_proposal
from .message_processing import CommitJudge, Processed, ReceivedProposal, any_commit
from .proposal_list import SentProposal, apply, check_alone, choose, topic
from .proposal_selection import choose_valid
from .resumption import CreationArguments, CreationDraft
from .staging import StagedCommit

__all__ = ["Group"]


@dataclass(frozen=True, slots=True, repr=False)
class Group(GroupState):
    """One member's view of a group in one epoch."""

    # --- creating and joining -----------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        own: KeyPackageBundle,
        group_id: bytes,
        *,
        extensions: tuple[Extension, ...] = (),
        parameters: Parameters | None = None,
        random: Random = os.urandom,
    ) -> Self:
        """RFC 9420 11: a group with us alone in it.  See :func:`.group_creation.create_group`."""
        return group_creation.create_group(
            cls, own, group_id, extensions=extensions, parameters=parameters, random=random
        )

    @classmethod
    def join(
        cls,
        welcome: Welcome,
        own: KeyPackageBundle,
        *,
        tree: bytes | RatchetTree | None = None,
        psks: PSKLookup = no_psks,
        groups: GroupLookup = lambda group_id: None,
        identify: Identify = credential_of,
        parameters: Parameters | None = None,
        remembered: MutableSet[bytes] | None = None,
        public: PublicGroup | None = None,
    ) -> StagedJoin:
        """RFC 9420 12.4.3.1: the group that a Welcome lets us into.  See :func:`.joining.join`."""
        return joining.join(
            welcome,
            own,
            make=cls,
            tree=tree,
            psks=psks,
            groups=groups,
            identify=identify,
            parameters=parameters,
            remembered=remembered,
            public=public,
        )

    @classmethod
    def peek(
        cls,
        welcome: Welcome,
        own: KeyPackageBundle,
        *,
        psks: PSKLookup = no_psks,
        groups: GroupLookup = lambda group_id: None,
    ) -> UnverifiedGroupInfo:
        """The unverified GroupInfo of a Welcome, so that a tree that is elsewhere can be fetched for :meth:`join`."""
        return joining.peek(welcome, own, psks=psks, groups=groups)

    @classmethod
    def external_commit(
        cls,
        group_info: GroupInfo,
        own: OwnLeaf,
        *,
        now: int,
        tree: bytes | RatchetTree | None = None,
        replaces: LeafIndex | None = None,
        leaving: Sequence[PublicMessage] = (),
        psk_names: Sequence[PreSharedKeyID] = (),
        psks: PSKLookup = no_psks,
        parameters: Parameters | None = None,
        with_group_info: bool = False,
        random: Random = os.urandom,
    ) -> CommitBundle:
        """RFC 9420 12.4.3.2: join by a Commit of our own.  See :func:`.external_join.external_commit`.

        `staged.next` is the group, once the Commit has won.
        """
        parameters = parameters or Parameters()
        return external_join.external_commit(
            group_info,
            own,
            _own_rules(parameters, now),
            make=cls,
            tree=tree,
            replaces=replaces,
            leaving=leaving,
            psk_names=psk_names,
            psks=psks,
            parameters=parameters,
            with_group_info=with_group_info,
            random=random,
        )

    # --- sending --------------------------------------------------------------------------------

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
        :raises UsageError: proposals wait that must be committed first (RFC 9420 12.4), or the group is closed
        """
        self.require_open()
        if any(sent.reference not in left_out for sent in self.proposals_to_commit()):
            raise UsageError("proposals wait for a Commit, which must come before application data (RFC 9420 12.4)")
        content = sign_content(self, WireFormat.PRIVATE_MESSAGE, ApplicationData(data), authenticated_data)
        return protect(self, content, padding, random)

    def proposals_to_commit(self) -> tuple[SentProposal, ...]:
        """Of the waiting proposals, those that a Commit of ours would cover; none may be left when we send data.

        Whether a KeyPackage has expired meanwhile, or a PSK is there, is only known to :meth:`commit`.
        """
        if not self.public.proposals:
            return ()
        return choose_valid(self.pending_proposals, MemberSender(self.own_index), self.tree, self.context)

    def propose(
        self,
        proposal: AnyProposal,
        *,
        now: int,
        public: bool = False,
        authenticated_data: bytes = b"",
        update: OwnUpdate | None = None,
        random: Random = os.urandom,
    ) -> tuple[bytes, Self]:
        """A proposal as an MLSMessage, and the state in which it waits for a Commit.

        :param public: send it as a PublicMessage; SelfRemove always is one
        :param update: the private keys of an Update; see :meth:`propose_update`
        :raises UsageError: the group is closed, or we have proposed to leave already
        :raises InvalidError: it would not be valid (RFC 9420 12.1)
        """
        self.require_open()
        public = public or isinstance(proposal, SelfRemove)  # draft-ietf-mls-extensions SelfRemove
        sender = MemberSender(self.own_index)
        if isinstance(proposal, Update) and update is None:
            raise UsageError("an Update without its private keys; see propose_update")
        form = WireFormat.PUBLIC_MESSAGE if public else WireFormat.PRIVATE_MESSAGE
        sent = sign_proposal(self, form, proposal, authenticated_data)
        rules = _own_rules(self.parameters, now)
        check_alone(sent, self.tree, self.context, rules)
        if isinstance(proposal, SelfRemove):  # draft-ietf-mls-extensions SelfRemove
            if any(each.sender == sender and isinstance(each.proposal, SelfRemove) for each in self.pending_proposals):
                raise UsageError("we have proposed to leave already, in this epoch")
            check_proposal_supported(self.tree, ProposalType.SELF_REMOVE)
        elif not isinstance(proposal, Remove):
            applied = apply((*self._making_room(proposal), sent), self.tree, self.context, rules)
            check_members(applied.tree, applied.requirements)
        waiting = self.with_own_proposal(sent, update)
        assert sent.content is not None
        return protect(waiting, sent.content, random=random)

    def _making_room(self, proposal: AnyProposal) -> list[SentProposal]:
        """The waiting removal of the client that an Add brings back (RFC 9420 12.2)."""
        if not isinstance(proposal, Add):
            return []
        place = ("leaf", self.tree.leaf_by_signature_key(proposal.key_package.leaf_node.signature_key))
        return [
            sent
            for sent in choose(self.pending_proposals, ExternalSenderIndex(0))
            if topic(sent) == place and isinstance(sent.proposal, Remove | SelfRemove)
        ]

    def propose_update(
        self,
        own: OwnLeaf | None = None,
        *,
        now: int,
        public: bool = False,
        random: Random = os.urandom,
    ) -> tuple[bytes, Self]:
        """RFC 9420 12.1.2: propose a new leaf for ourselves.

        :param own: what it is made of, if more than the encryption key changes
        """
        proposal, update = create_update(self, own, random)
        return self.propose(proposal, now=now, public=public, update=update, random=random)

    def commit(
        self,
        proposals: Sequence[AnyProposal] = (),
        *,
        now: int,
        remembered: MutableSet[bytes] | None = None,
        **how: Unpack[CommitArguments],
    ) -> CommitBundle:
        """RFC 9420 12.4.1: a Commit of these and of the waiting proposals, in one step.

        The arguments and errors are those of :meth:`draft_commit`.
        """
        draft = self.draft_commit(proposals, now=now, remembered=remembered, **how)
        return self.finish_commit(draft, random=how.get("random", os.urandom))

    def draft_commit(
        self,
        proposals: Sequence[AnyProposal] = (),
        *,
        now: int,
        remembered: MutableSet[bytes] | None = None,
        **how: Unpack[CommitArguments],
    ) -> CommitDraft:
        """A Commit that has used up no key yet, for :meth:`finish_commit` in this epoch.

        :param proposals: new ones, after the waiting ones
        :param now: seconds since the Unix epoch
        :param remembered: signatures verified before
        :param how: see :func:`.commit_creation.draft_commit`
        :raises UsageError: the group is closed, or the options contradict each other
        :raises InvalidError: the proposals are not valid together
        """
        rules = _own_rules(self.parameters, now, remembered)
        return commit_creation.draft_commit(self, rules, by_value=proposals, **how)

    def finish_commit(
        self,
        draft: CommitDraft,
        *,
        instead_of_tree: Extension | None = None,
        in_welcome: Sequence[Extension] = (),
        random: Random = os.urandom,
    ) -> CommitBundle:
        """The rest of :meth:`commit`, in the state as it is now.

        :param instead_of_tree: a GroupInfo extension that says where the ratchet tree is, if it is not to be inside
        :param in_welcome: other extensions of the GroupInfo in the Welcome
        :raises UsageError: the group has left the draft's epoch
        """
        return commit_creation.finish_commit(
            draft, self, instead_of_tree=instead_of_tree, in_welcome=in_welcome, random=random
        )

    def group_info(
        self,
        *,
        tree: bool = True,
        external: bool = True,
        extensions: Sequence[Extension] = (),
        random: Random = os.urandom,
    ) -> bytes:
        """RFC 9420 12.4.3: this epoch described and signed, as MLSMessage.

        :param tree: with the ratchet tree
        :param external: with the key for external joins
        :param extensions: others
        """
        return MLSMessage.wrap(
            commit_creation.create_group_info(self, tree=tree, external=external, extensions=extensions, random=random)
        )

    # --- receiving -------------------------------------------------------------------------------

    def process(
        self,
        message: bytes | MLSMessage,
        *,
        now: int,
        psks: PSKLookup = no_psks,
        remembered: MutableSet[bytes] | None = None,
        judge: CommitJudge = any_commit,
    ) -> Processed:
        """The effect of a message.  Changes nothing.  See :func:`.message_processing.process`.

        :raises PeerError: it is refused
        """
        if isinstance(message, bytes):
            message = MLSMessage.decode(message)
        rules = LeafRules.for_received(self.parameters, remembered)
        return message_processing.process(self, message, rules, now, psks=psks, judge=judge)

    def apply(self, processed: Processed, *, now: int) -> Self:
        """The state after something that :meth:`process` or :meth:`commit` has made of it.

        :raises UsageError: it was made of another state, or it removes us
        """
        if isinstance(processed, StagedCommit):
            return self._enter(processed, now)
        if isinstance(processed, ReceivedProposal):
            return apply_proposal(self, processed)
        return apply_message(self, processed)

    def _enter(self, staged: StagedCommit, now: int) -> Self:
        base = (staged.group_id, staged.base_epoch, staged.base_tag)
        if base != (self.group_id, self.epoch, self.public.confirmation_tag):
            raise UsageError("a Commit staged for another epoch")
        if not isinstance(staged.next, type(self)):
            raise UsageError("the Commit removes us")
        if staged.own and isinstance(staged.effects.committer, NewMemberCommitSender):
            return staged.next  # there is nothing of ours in the epoch before
        leaves = Map({LeafIndex(index): leaf for index, leaf in staged.effects.leaves_before().items()})
        return replace(staged.next, past=self.past_with_current(leaves, staged.spent, now))

    def forget_past(self, *, now: int) -> Self:
        """The state without the ended epochs whose time is over."""
        kept = self.forget(self.past, now)
        return self if len(kept) == len(self.past) else replace(self, past=kept)

    # --- continuing in another group -------------------------------------------------------------

    def draft_reinitialize(
        self, own: KeyPackageBundle, others: Sequence[KeyPackage], *, now: int, **how: Unpack[CreationArguments]
    ) -> CreationDraft:
        """RFC 9420 11.2: the group that follows this one.  See :func:`.resumption.reinitialize`."""
        return resumption.reinitialize(self, own, others, _own_rules(self.parameters, now), **how)

    def draft_branch(
        self,
        group_id: bytes,
        own: KeyPackageBundle,
        others: Sequence[KeyPackage],
        *,
        now: int,
        extensions: tuple[Extension, ...] = (),
        **how: Unpack[CreationArguments],
    ) -> CreationDraft:
        """RFC 9420 11.3: a group of some of this one's members.  See :func:`.resumption.branch`."""
        rules = _own_rules(self.parameters, now)
        return resumption.branch(self, group_id, own, others, rules, extensions=extensions, **how)

    # --- storing -------------------------------------------------------------------------------

    def pieces(self) -> dict[bytes, bytes]:
        """The whole state for a store, secret.  See :mod:`.group_storage`."""
        return group_storage.pieces(self)

    def each_piece(self) -> Iterator[tuple[bytes, bytes]]:
        """The same, one by one."""
        return group_storage.each_piece(self)

    def changes_since(self, old: Self) -> group_storage.Changes:
        """The pieces to write (None: delete) to a store that has `old`, in time proportional to the difference."""
        return group_storage.changes_since(self, old)

    def stored(self) -> Self:
        """The same state, to go on with once its changes are written."""
        return group_storage.stored(self)

    @classmethod
    def restore(cls, pieces: Iterable[tuple[bytes, bytes]], parameters: Parameters | None = None) -> Self:
        """The state whose pieces these are."""
        return group_storage.restore(cls, RatchetTree.restore, pieces, parameters)

    def staged_pieces(self, staged: StagedCommit) -> dict[bytes, bytes]:
        """A Commit of ours that waits, for a store, secret."""
        return group_storage.staged_pieces(staged, self)

    @staticmethod
    def creation_pieces(staged: StagedCommit) -> dict[bytes, bytes]:
        """A group's first Commit of ours that waits, for a store, secret: it changes nothing that is stored."""
        return group_storage.staged_pieces(staged, None)

    @classmethod
    def restore_creation(cls, pieces: Mapping[bytes, bytes], parameters: Parameters | None = None) -> StagedCommit:
        """The inverse of :meth:`creation_pieces`."""
        return group_storage.restore_staged(cls, pieces, None, parameters)

    def restore_staged(self, pieces: Mapping[bytes, bytes]) -> StagedCommit:
        """The inverse of :meth:`staged_pieces`, for the present state."""
        return group_storage.restore_staged(type(self), pieces, self)


def _own_rules(parameters: Parameters, now: int, remembered: MutableSet[bytes] | None = None) -> LeafRules:
    """For what we send: RFC 9420 7.3 wants leaves in it to be within their lifetime, by our clock.

    The tolerance is that with which they were selected, or one leaf would spoil the Commit for all.
    """
    return LeafRules(now, parameters.lifetime_limit, parameters.clock_tolerance, remembered)


def external_proposal(
    public: PublicGroup,
    sender: AnySender,
    proposal: AnyProposal,
    key: SignaturePrivateKey,
) -> bytes:
    """RFC 9420 12.1.8: a proposal from outside.  See :func:`.external_join.external_proposal`."""
    context = public.context
    return external_join.external_proposal(public.suite, context.group_id, context.epoch, sender, proposal, key)
