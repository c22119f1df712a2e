"""A group as one member sees it in one epoch: a value (RFC 9420 8, 9).

The public part (:class:`PublicState`: context, tree, transcript, waiting proposals) is what anybody may follow.
:class:`MemberState` adds the member's secrets.  Both come with either kind of tree (:class:`KnownTree`): a full
member has the whole one (:data:`PublicGroup`, :data:`GroupState`), a partial member the part of it that was proved
to it (:mod:`slixmpp_mls.mls.partial`).  Nothing in here is ever modified: each change of a group makes another value,
which shares with the old one all that stayed the same.  A bad message has therefore changed nothing, and a Commit that
loses its race costs no more than dropping a value.

=====================  ====================================================================
kept per epoch         for
=====================  ====================================================================
`secrets`              exporter, tags, the next epoch (RFC 9420 table 4)
`secret_tree`          the keys of messages, each deleted with its use (9.2)
`private`              the keys of the tree above our leaf
`updates`              the private keys of our own Update proposals
=====================  ====================================================================

Kept beyond it: `past` (to read late application messages of ended epochs) and
`resumption_psks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

from immutables import Map

from ...errors import InvalidError, Replayed, UsageError
from ..crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from ..parameters import Parameters
from ..schedule.key_schedule import Epoch, EpochSecrets
from ..schedule.secret_tree import RatchetKind, RatchetLimits, SecretTree
from ..structures.commit import Commit
from ..structures.extensions import ExternalSenders
from ..structures.framing import (
    AnySender,
    ExternalSenderIndex,
    FramedContent,
    MemberSender,
    NewMemberCommitSender,
    NewMemberProposalSender,
)
from ..structures.group_context import GroupContext
from ..structures.leaf_node import LeafNode
from ..structures.proposals import Add, ReInit
from ..structures.psk import ExternalPSK, ResumptionPSK
from ..tree.known_tree import KnownTree
from ..tree.leaf_creation import OwnLeaf
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex, node_of
from ..tree.treekem import TreeKEMPrivate
from .proposal_list import SentProposal

__all__ = [
    "GroupState", "MemberState", "OwnUpdate", "PSKLookup", "PastEpoch", "PublicGroup", "PublicState",
    "SpentKey", "no_psks", "past_leaf",
]  # fmt: skip

PSKLookup = Callable[[ExternalPSK | ResumptionPSK], bytes | None]
"""Gives the value of a PSK by its name, or None."""


def no_psks(name: ExternalPSK | ResumptionPSK) -> bytes | None:
    """A lookup that knows none."""
    return None


T = TypeVar("T", bound=KnownTree)


@dataclass(frozen=True, slots=True)
class PublicState(Generic[T]):
    """The public state of a group in one epoch.

    :ivar context: the GroupContext
    :ivar tree: members and their keys, as far as they are known
    :ivar interim_transcript_hash: what the next Commit continues (8.2)
    :ivar confirmation_tag: of the Commit that began the epoch
    :ivar proposals: by reference, those that a Commit may refer to
    :ivar proposal_order: their references, in the order in which they came
    """

    context: GroupContext
    tree: T
    interim_transcript_hash: bytes
    confirmation_tag: bytes
    proposals: Map[bytes, SentProposal] = field(default_factory=Map)
    proposal_order: tuple[bytes, ...] = ()

    @property
    def suite(self) -> CipherSuite:
        return self.tree.suite

    @property
    def group_id(self) -> bytes:
        return self.context.group_id

    @property
    def epoch(self) -> int:
        return self.context.epoch

    def members(self) -> Iterator[tuple[LeafIndex, LeafNode]]:
        """Every known member's leaf, by index."""
        return self.tree.members()

    @property
    def pending_proposals(self) -> tuple[SentProposal, ...]:
        """The proposals that wait for a Commit, in the order in which they came."""
        return tuple(self.proposals[reference] for reference in self.proposal_order)

    def with_proposal(
        self, sent: SentProposal, limits: Parameters | None, unshown: frozenset[bytes] = frozenset()
    ) -> Self:
        """The state with one more proposal that a Commit may refer to; one that is there already stays once.

        All members keep the same ones, as all read them in the same order.

        :param limits: how many to keep; None: it has been kept before
        :param unshown: references of those that the others have not seen yet: they take no place
        :raises InvalidError: there are too many, in all, by this member, or by outsiders
        """
        reference = sent.reference
        assert reference is not None
        if reference in self.proposals:
            return self
        if limits is not None:
            self._check_room(sent.sender, limits, unshown)
        return replace(
            self,
            proposals=self.proposals.set(reference, sent),
            proposal_order=(*self.proposal_order, reference),
        )

    def without_proposal(self, reference: bytes) -> Self:
        """The state without one of the waiting proposals."""
        order = tuple(each for each in self.proposal_order if each != reference)
        return replace(self, proposals=self.proposals.delete(reference), proposal_order=order)

    def _check_room(self, sender: AnySender, limits: Parameters, unshown: frozenset[bytes]) -> None:
        # All of `unshown` are among the proposals.
        if len(self.proposals) - len(unshown) >= limits.proposal_limit:
            raise InvalidError(f"more than {limits.proposal_limit} proposals in one epoch")
        if isinstance(sender, MemberSender):
            own = sum(
                1 for reference, sent in self.proposals.items() if sent.sender == sender and reference not in unshown
            )
            if own >= limits.member_proposal_limit:
                raise InvalidError(f"more than {limits.member_proposal_limit} proposals of one member in one epoch")
            return
        others = sum(1 for sent in self.proposals.values() if not isinstance(sent.sender, MemberSender))
        if others >= limits.outsider_proposal_limit:
            raise InvalidError(f"more than {limits.outsider_proposal_limit} proposals of outsiders in one epoch")

    def signature_key_of(self, content: FramedContent) -> bytes:
        """The key with which this content must be signed (RFC 9420 6.1).

        :raises InvalidError: there is nobody who could have sent it
        """
        sender = content.sender
        if isinstance(sender, MemberSender):
            return self.tree.member(LeafIndex(sender.leaf_index)).signature_key
        if isinstance(sender, ExternalSenderIndex):
            allowed = ExternalSenders.found_in(self.context.extensions)
            if allowed is None or sender.sender_index >= len(allowed.external_senders):
                raise InvalidError("no such external sender", "RFC 9420 6.1")
            return allowed.external_senders[sender.sender_index].signature_key
        if isinstance(sender, NewMemberProposalSender):
            if not isinstance(content.content, Add):
                raise InvalidError("a new member may propose its own Add only", "RFC 9420 12.1.8")
            return content.content.key_package.leaf_node.signature_key
        if isinstance(sender, NewMemberCommitSender):
            if not isinstance(content.content, Commit) or content.content.path is None:
                raise InvalidError("a new member may send a Commit with a path only", "RFC 9420 12.4.3.2")
            return content.content.path.leaf_node.signature_key
        raise InvalidError("unknown kind of sender", "RFC 9420 6.1")


PublicGroup = PublicState[RatchetTree]
"""The public state of a group whose whole tree is known."""


@dataclass(frozen=True, slots=True, repr=False)
class OwnUpdate:
    """The private side of an Update that we proposed."""

    leaf_key: HPKEPrivateKey
    signature_key: SignaturePrivateKey

    def __repr__(self) -> str:
        return "<OwnUpdate>"


@dataclass(frozen=True, slots=True)
class SpentKey:
    """Which handshake key opened a message.

    :ivar leaf: the sender's
    :ivar generation: in its ratchet
    :ivar base: the secret tree that it was taken from
    :ivar left: that tree without it
    """

    leaf: int
    generation: int
    base: SecretTree
    left: SecretTree

    def taken_from(self, tree: SecretTree, limits: RatchetLimits) -> SecretTree:
        """A later state of :attr:`base` without the key (RFC 9420 9.2)."""
        if tree is self.base:
            return self.left
        try:
            return tree.at(self.leaf, RatchetKind.HANDSHAKE, self.generation, limits)[1]
        except Replayed:
            return tree  # it has gone meanwhile


@dataclass(frozen=True, slots=True, repr=False)
class PastEpoch:
    """An ended epoch whose application messages may still arrive (RFC 9420 15.3).

    :ivar context: its GroupContext, encoded: part of what its messages' signatures cover
    :ivar sender_data_secret: opens who sent a message
    :ivar secret_tree: opens the message
    :ivar leaves: leaves that were different then, compared with the epoch after it; with a partial member, those that
        were proved then
    :ivar ended: when the next epoch began, in seconds since the Unix epoch
    """

    epoch: int
    context: bytes
    sender_data_secret: bytes
    secret_tree: SecretTree
    leaves: Map[LeafIndex, LeafNode | None]
    ended: int

    def __repr__(self) -> str:
        return f"<PastEpoch {self.epoch}>"


@dataclass(frozen=True, slots=True, repr=False)
class MemberState(Generic[T]):
    """One member's view of a group.  See the module's text.

    :ivar closed: the ReInit that ended the group (RFC 9420 12.1.5), if one did
    :ivar unshown: references of the proposals of ours that the group has not shown us yet; see :meth:`with_shown`
    """

    public: PublicState[T]
    secrets: EpochSecrets
    secret_tree: SecretTree
    private: TreeKEMPrivate
    signature_key: SignaturePrivateKey
    parameters: Parameters = field(default_factory=Parameters)
    updates: Map[bytes, OwnUpdate] = field(default_factory=Map)
    past: tuple[PastEpoch, ...] = ()
    resumption_psks: Map[int, bytes] = field(default_factory=Map)
    closed: ReInit | None = None
    unshown: frozenset[bytes] = frozenset()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.group_id.hex()[:16]} epoch {self.epoch} leaf {self.own_index}>"

    # --- what it is ----------------------------------------------------------------------------

    @property
    def suite(self) -> CipherSuite:
        return self.public.suite

    @property
    def context(self) -> GroupContext:
        return self.public.context

    @property
    def tree(self) -> T:
        return self.public.tree

    @property
    def group_id(self) -> bytes:
        return self.public.group_id

    @property
    def epoch(self) -> int:
        return self.public.epoch

    @property
    def own_index(self) -> LeafIndex:
        """Our leaf.  0 is one."""
        return self.private.index

    @property
    def own_leaf(self) -> LeafNode:
        return self.tree.member(self.own_index)

    def own_leaf_parts(self) -> OwnLeaf:
        """The parts of our present leaf."""
        leaf = self.own_leaf
        return OwnLeaf(leaf.credential, self.signature_key, leaf.capabilities, leaf.extensions)

    @property
    def own_leaf_key(self) -> HPKEPrivateKey:
        """The private encryption key of our leaf."""
        return self.private.keys[node_of(self.own_index)]

    def members(self) -> Iterator[tuple[LeafIndex, LeafNode]]:
        """Every known member's leaf, by index."""
        return self.public.members()

    @property
    def epoch_authenticator(self) -> bytes:
        """RFC 9420 8.7: equal for members exactly if they are in the same state."""
        return self.secrets.epoch_authenticator

    def export(self, label: str, context: bytes, length: int) -> bytes:
        """``MLS-Exporter`` (RFC 9420 8.5): a secret of `length` octets, known to the members of this epoch."""
        return self.secrets.exporter(self.suite, label, context, length)

    @property
    def pending_proposals(self) -> tuple[SentProposal, ...]:
        """The proposals that wait for a Commit, in the order in which they came."""
        return self.public.pending_proposals

    def resumption_psk(self, epoch: int) -> bytes | None:
        """RFC 9420 8.6: the resumption PSK of one of the last epochs."""
        if epoch == self.epoch:
            return self.secrets.resumption_psk
        return self.resumption_psks.get(epoch)

    def psk(self, name: ExternalPSK | ResumptionPSK, psks: PSKLookup) -> bytes:
        """The value of a PSK: our own resumption PSK, or one that the application has.

        :raises InvalidError: nobody has it (RFC 9420 12.4.2)
        """
        value = self.find_psk(name, psks)
        if value is None:
            raise InvalidError("a PSK that we do not have", "RFC 9420 12.4.2")
        return value

    def find_psk(self, name: ExternalPSK | ResumptionPSK, psks: PSKLookup) -> bytes | None:
        """The same, or None."""
        value = None
        if isinstance(name, ResumptionPSK) and name.psk_group_id == self.group_id:
            value = self.resumption_psk(name.psk_epoch)
        return psks(name) if value is None else value

    @property
    def limits(self) -> RatchetLimits:
        """How far out of order messages may come (RFC 9420 15.3)."""
        return RatchetLimits(self.parameters.forward_limit, self.parameters.skipped_limit)

    def require_open(self) -> None:
        """:raises UsageError: the group was ended by a ReInit (RFC 9420 12.4.2)"""
        if self.closed is not None:
            raise UsageError("the group has been reinitialized; nothing more can be sent in it")

    # --- how it goes on ------------------------------------------------------------------------

    def with_secret_tree(self, tree: SecretTree) -> Self:
        """The state after a message: another ratchet, and all else the same.

        Spelled out, because :func:`dataclasses.replace` takes longer than a message's AEAD.
        """
        return type(self)(
            self.public,
            self.secrets,
            tree,
            self.private,
            self.signature_key,
            self.parameters,
            self.updates,
            self.past,
            self.resumption_psks,
            self.closed,
            self.unshown,
        )

    def with_tree(self, tree: T) -> Self:
        """The state in which more is known of the same tree."""
        return self if tree is self.tree else replace(self, public=replace(self.public, tree=tree))

    def with_proposal(self, sent: SentProposal) -> Self:
        """The state with one more proposal that a Commit may refer to, once the group has shown it.

        :raises InvalidError: there are too many
        """
        if sent.reference in self.unshown:
            return self.with_shown(sent.reference or b"")
        public = self.public.with_proposal(sent, self.parameters, self.unshown)
        return self if public is self.public else replace(self, public=public)

    def with_own_proposal(self, sent: SentProposal, update: OwnUpdate | None = None) -> Self:
        """The state with one more proposal of ours, which we are about to send.

        :param update: the private keys of an Update
        :raises InvalidError: there are too many
        """
        reference = sent.reference or b""
        public = self.public.with_proposal(sent, self.parameters)
        if public is self.public:
            return self
        updates = self.updates if update is None else self.updates.set(reference, update)
        return replace(self, public=public, updates=updates, unshown=self.unshown | {reference})

    def with_shown(self, reference: bytes) -> Self:
        """The state in which the group has shown us a proposal of ours, as it shows it to everybody at this place.

        Which proposals are kept must follow from the order of the group's messages alone.  Otherwise members differ in
        which Commits they understand, and the group splits.  A proposal of ours takes its place therefore not when we
        send it but now; if there are too many by now, nobody keeps it.
        """
        if reference not in self.unshown:
            return self
        sent = self.public.proposals[reference]
        unshown = self.unshown - {reference}
        public = self.public.without_proposal(reference)
        try:
            public = public.with_proposal(sent, self.parameters, unshown)
        except InvalidError:
            updates = self.updates.delete(reference) if reference in self.updates else self.updates
            return replace(self, public=public, updates=updates, unshown=unshown)
        return replace(self, public=public, unshown=unshown)

    def entered(
        self,
        public: PublicState[T],
        epoch: Epoch,
        private: TreeKEMPrivate,
        signature_key: SignaturePrivateKey,
        closed: ReInit | None,
    ) -> Self:
        """The state in which the next epoch begins.  `past` is brought up to date when it really does."""
        kept = self.resumption_psks.set(self.epoch, self.secrets.resumption_psk)
        for number in sorted(kept)[: max(0, len(kept) - self.parameters.resumption_epochs)]:
            kept = kept.delete(number)  # RFC 9420 8.6: for a limited number of epochs
        return replace(
            self,
            public=public,
            secrets=epoch.secrets,
            secret_tree=SecretTree.create(public.suite, epoch.encryption_secret, public.tree.leaf_count),
            private=private,
            signature_key=signature_key,
            updates=Map(),
            unshown=frozenset(),
            resumption_psks=kept,
            closed=closed,
        )

    def past_with_current(
        self, leaves: Map[LeafIndex, LeafNode | None], spent: SpentKey | None, now: int
    ) -> tuple[PastEpoch, ...]:
        """The ended epochs once this one has ended, too.

        :param leaves: see :class:`PastEpoch`
        :param spent: the key that opened the Commit that ends it
        :param now: seconds since the Unix epoch
        """
        secret_tree = self.secret_tree
        if spent is not None:
            # RFC 9420 9.2: the Commit's own key goes, now that the Commit has been accepted.
            secret_tree = spent.taken_from(secret_tree, self.limits)
        context, sender_data = self.context.encode(), self.secrets.sender_data_secret
        ended = PastEpoch(self.epoch, context, sender_data, secret_tree, leaves, now)
        return self.forget((*self.past, ended), now)

    def forget(self, past: tuple[PastEpoch, ...], now: int) -> tuple[PastEpoch, ...]:
        """Of these ended epochs, those that may be kept at `now`.

        They go from the oldest on, without a gap: the members of one are known from the leaves
        that differ in those after it.
        """
        limit = self.parameters
        first = max(0, len(past) - limit.past_epochs)
        for place in range(first, len(past)):
            if abs(now - past[place].ended) > limit.past_epoch_time:
                first = place + 1
        return past[first:]


GroupState = MemberState[RatchetTree]
"""The state of a member that knows the whole tree."""


def past_leaf(group: GroupState, epoch: int, index: LeafIndex) -> LeafNode:
    """A member's leaf as it was in an ended epoch.

    :raises InvalidError: nobody was there
    """
    for past in group.past:
        if past.epoch >= epoch and index in past.leaves:
            leaf = past.leaves[index]
            if leaf is None:
                raise InvalidError(f"leaf {index} was blank", "RFC 9420 6.1")
            return leaf
    return group.tree.member(index)
