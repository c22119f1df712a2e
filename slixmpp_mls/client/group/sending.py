"""Makes the messages to a room, stores them before they are sent, and keeps them until the room reflects them.

=================  =======================================  ==========================================
in the outbox      if the room reflects it                  if the epoch ends before
=================  =======================================  ==========================================
application data   it has been sent                         it stays, and is encrypted again when it
                                                            must be sent again
proposal           a Commit of ours may hold it             it is void
Commit             it takes effect                          it is void: another one came first
=================  =======================================  ==========================================

After a second encryption both copies may arrive.  Both have the same id in their authenticated data, by which readers
recognize the second one (:mod:`slixmpp_mls.client.storage.duplicate_filter`).

The module is longer than others: composing, committing and keeping share one transaction and its rules.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256

from ...errors import InvalidError, NotPermitted, NotVouchedFor, PeerError, PolicyViolation, StanzaTooLarge, UsageError
from ...mls.group.commit_creation import CommitBundle, CommitDraft, CommitOptions
from ...mls.group.group import Group
from ...mls.group.group_state import PublicState
from ...mls.group.proposal_list import SentProposal
from ...mls.partial import PartialGroup
from ...mls.registry import GREASE
from ...mls.structures.credential import type_of
from ...mls.structures.extensions import Extension
from ...mls.structures.framing import MemberSender
from ...mls.structures.proposals import Add, AnyProposal, GroupContextExtensions, PreSharedKey
from ...mls.tree.leaf_creation import OwnLeaf
from ...mls.tree.ratchet_tree import RatchetTree
from ...mls.tree.tree_index import Feature
from ...mls.tree.tree_math import LeafIndex
from ...policy import ExternalJoins, GroupView, RoomPolicy
from ...policy.check import check, judge
from ...stanza import elements
from ...stanza.blob import BlobReference, RatchetTreeLocation, longest
from ...stanza.elements import RoomElement
from ...stanza.locations import commit_place
from ..device import Device
from ..device.leaf_proofs import renewing
from ..events import CommitLost, Event
from ..storage.duplicate_filter import MAX_ID
from ..storage.records import OutboxKind, OutboxRecord, UploadRecord
from .actions import Fits, Outgoing
from .committable_proposals import Committable, committable, effects_of, is_permitted
from .continuation import check_tree_length
from .group_info_key import UNKNOWN, begins_key, key_after, seal_group_info
from .membership_proofs import MembershipProofs
from .placement import Placement, as_outgoing, check_lengths, choose, located, to_upload
from .resumption_psks import OtherGroups
from .room_contents import Membership, PartialMembership
from .room_state import RoomState

__all__ = ["GROUP_INFO_MEMBERS", "Sending"]

GROUP_INFO_MEMBERS = 64
"""Members of the largest group whose Commits are sent with a GroupInfo."""

_EARLIER = 32 * 8  # octets: digests of the last eight encryptions


class Sending:
    """Makes our messages, proposals and Commits, and tracks them in the outbox.

    :ivar talks_to_anybody: whether to encrypt even for members that the Authentication Service denies
    """

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state
        self.talks_to_anybody = False
        self._answered: tuple[PublicState[RatchetTree], frozenset[bytes], Committable] | None = None

    @property
    def silenced(self) -> bool:
        """Whether nothing is encrypted for the group because of a member that the Authentication Service denies."""
        membership = self._state.membership
        return not self.talks_to_anybody and membership is not None and bool(membership.doubts.silencing)

    @property
    def commit_waits(self) -> bool:
        """Whether a Commit of ours waits for its reflection."""
        return self._state.waits(OutboxKind.COMMIT)

    @property
    def needs_commit(self) -> bool:
        """Whether proposals wait that we must commit before we send application data (RFC 9420 12.4)."""
        return self._state.membership is not None and bool(self._due(self._state.membership))

    def _due(self, membership: Membership) -> Committable:
        if not membership.group.pending_proposals:
            return Committable()
        # Each message asks this.  The answer is cached until the public state, which is a value, changes.
        asked = membership.group.public, self._uncommitted(membership)
        if self._answered is None or self._answered[0] is not asked[0] or self._answered[1] != asked[1]:
            self._answered = *asked, committable(membership.group, membership.view, unwanted=asked[1])
        return self._answered[2]

    def _uncommitted(self, membership: Membership) -> frozenset[bytes]:
        """References of proposals that our Commits omit: unwanted ones, and our own that the room has not reflected.

        Other members would reject a Commit with a proposal that they have not received.
        """
        own = {record.reference for _, record in self._state.outbox if record.kind is OutboxKind.PROPOSAL}
        return membership.unwanted | own

    # --- application data ----------------------------------------------------------------------

    def on_its_way(self, origin_id: str) -> bytes | None:
        """The pending application data with this id; None if there is none."""
        number = self._state.outbox.of_origin_id(origin_id)
        if number is None or self._state.outbox[number].kind is not OutboxKind.APPLICATION:
            return None
        return self._state.outbox[number].plaintext

    def compose(
        self, data: bytes, *, later: bool = False, fits: Fits | None = None, origin_id: str | None = None
    ) -> Outgoing:
        """Encrypt application data; it is in the outbox when this returns.

        A call with the same data and the same `origin_id` as a message that is still pending makes no second message.

        :param data: the plaintext
        :param later: only store it, and let :meth:`outstanding` encrypt it.  Used until the room has been read to its
            end: if this store is an old copy, the next key has been used already, which the room will show
        :param origin_id: its id, for all readers; a random one if not given
        :raises UsageError: we are not a member, waiting proposals must be committed first, or the id is too long or
            belongs to another message
        :raises NotVouchedFor: the Authentication Service denies a member
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        speaking = self._state.require_speaking()
        origin_id = origin_id or str(uuid.uuid4())
        if len(origin_id.encode()) > MAX_ID:
            raise UsageError(f"an id of more than {MAX_ID} octets")
        number = self._state.outbox.of_origin_id(origin_id)
        if number is not None:
            waiting = self._state.outbox[number]
            if (waiting.kind, waiting.plaintext) != (OutboxKind.APPLICATION, data):
                raise UsageError("another message of ours is on its way under this id")
            return self._outgoing(waiting)
        if self.silenced:
            raise NotVouchedFor([str(doubt.client) for doubt in self._state.require_member().doubts.silencing])
        message, group = self._encrypt(speaking, data, origin_id.encode())
        epoch = speaking.group.epoch
        record = _record(OutboxKind.APPLICATION, epoch, message, origin_id, plaintext=data)
        if not later:
            return self._put_out(group, record, fits)
        if fits is not None:
            fits(self._outgoing(record).payloads)
        return self._put_out(speaking.group, replace(record, message=b"", digest=b""))

    def _encrypt(
        self, speaking: Membership | PartialMembership, data: bytes, origin_id: bytes
    ) -> tuple[bytes, Group | PartialGroup]:
        group = speaking.group
        if isinstance(speaking, Membership) and self._due(speaking):
            raise UsageError("proposals wait for a Commit, which must come before application data (RFC 9420 12.4)")
        # The remaining proposals are not ours to commit and must not prevent us from sending.
        left = frozenset(sent.reference for sent in group.pending_proposals if sent.reference is not None)
        return group.encrypt(data, origin_id, left_out=left, random=self._device.random)

    def propose(self, proposal: AnyProposal, now: int) -> Outgoing:
        """Make a proposal, which any member may commit.

        :raises UsageError: we are not a member
        :raises InvalidError: the proposal is not valid
        :raises NotPermitted: the group's policy forbids it
        """
        membership = self._state.require_member()
        now_in, view = membership.group, membership.view
        message, group = now_in.propose(proposal, now=now, random=self._device.random)
        reference = _reference(group, proposal)
        sent = group.public.proposals[reference]
        if not is_permitted(now_in, view, (sent,)):
            beside = committable(now_in, view, unwanted=membership.unwanted)
            if not is_permitted(now_in, view, (*beside.replaced, *beside.waiting, sent)):
                raise NotPermitted(f"the group's policy forbids this {type(proposal).__name__}")
        return self._put_out(group, _record(OutboxKind.PROPOSAL, now_in.epoch, message, reference=reference))

    def propose_update(self, now: int) -> Outgoing:
        """Propose a new leaf for ourselves (RFC 9420 12.1.2).

        :raises UsageError: we are not a member
        """
        before = self._state.require_member().group
        own = self._new_leaf(before) or replace(before.own_leaf_parts(), complete=renewing(before.suite))
        message, group = before.propose_update(own, now=now, random=self._device.random)
        reference = group.public.proposal_order[-1]
        return self._put_out(group, _record(OutboxKind.PROPOSAL, before.epoch, message, reference=reference))

    def commit(
        self,
        proposals: Sequence[AnyProposal],
        now: int,
        *,
        fits: Fits | None = None,
        options: CommitOptions | None = None,
    ) -> Outgoing:
        """Commit these proposals and the waiting ones.  The Commit takes effect when the room reflects it (rule 2).

        :raises UsageError: we are not a member, or a Commit of ours waits already
        :raises NotPermitted: the group's policy forbids it
        :raises InvalidError: the proposals are not valid together
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        return self.finish_commit(self.draft_commit(proposals, now, options=options), fits=fits)

    def draft_commit(
        self, proposals: Sequence[AnyProposal], now: int, *, options: CommitOptions | None = None
    ) -> CommitDraft:
        """Do the part of :meth:`commit` that precedes any write; nothing has changed.

        :raises UsageError: we are not a member, or a Commit of ours waits already
        :raises NotPermitted: the group's policy forbids it
        :raises InvalidError: the proposals are not valid together
        """
        if self.commit_waits:
            raise UsageError("a Commit of ours waits already")
        membership = self._state.require_member()
        draft = self._draft(membership, proposals, now, options)
        try:
            check(membership.view, draft.staged.effects)
        except PolicyViolation as error:
            raise NotPermitted(f"the group's policy: {error}") from error
        return draft

    def is_current(self, draft: CommitDraft) -> bool:
        """Whether the draft can still be finished: its epoch has not ended."""
        membership = self._state.membership
        return membership is not None and membership.group.public.confirmation_tag == draft.staged.base_tag

    def place_commit(
        self, draft: CommitDraft, fits: Fits, *, at_most: Placement = Placement.ALL_ELSEWHERE
    ) -> tuple[Placement, tuple[bytes, ...]]:
        """Determine what of a Commit must be elsewhere, if its ratchet tree is; nothing is written.

        :param at_most: what may be elsewhere
        :returns: also what is to be uploaded, as long as the real octets will be
        :raises UsageError: the draft's epoch has ended
        :raises StanzaTooLarge: by `fits`: even then
        """
        group = self._state.require_member().group
        _, record = self._finished(draft, longest() if draft.invites else None)
        placement = choose(record, group.group_id, group.epoch, fits, at_most)
        return placement, to_upload(record, placement)

    def finish_commit(
        self,
        draft: CommitDraft,
        *,
        fits: Fits | None = None,
        tree_at: BlobReference | None = None,
        placement: Placement = Placement.IN_STANZA,
    ) -> Outgoing:
        """Put a draft into the outbox, with a GroupInfo for external joins if the policy allows them and it fits.

        :param tree_at: where the ratchet tree is, if it is not to be in the Welcome
        :param placement: what else is to be elsewhere, by :meth:`place_commit`
        :raises UsageError: the draft's epoch has ended, or a Commit of ours waits already
        :raises StanzaTooLarge: by `fits`, or because no stanza holds the tree; nothing has changed
        """
        if self.commit_waits:
            raise UsageError("a Commit of ours waits already")
        if tree_at is None and draft.invites:
            check_tree_length(draft.tree)
        if placement is not Placement.IN_STANZA:
            return self._finish(draft, None, tree_at, placement)
        if tree_at is None and self._shows_group_info(draft):
            with suppress(StanzaTooLarge):
                return self._finish(replace(draft, options=replace(draft.options, group_info=True)), fits, None)
        return self._finish(draft, fits, tree_at)

    def _finish(
        self,
        draft: CommitDraft,
        fits: Fits | None,
        tree_at: BlobReference | None,
        placement: Placement = Placement.IN_STANZA,
    ) -> Outgoing:
        bundle, record = self._finished(draft, tree_at)
        assert isinstance(bundle.sent, Group)
        return self._put_out(bundle.sent, record, fits, bundle, placement.upload())

    def _shows_group_info(self, draft: CommitDraft) -> bool:
        """Whether a GroupInfo belongs beside this Commit (the XEP's "Joining by an External Commit").

        A GroupInfo contains the whole tree, which is expensive for each Commit of a large group.  There a member that
        commits a request to be added is usually online.
        """
        if (
            draft.applied.reinit is not None
            or len(self._state.require_member().roster) + len(draft.applied.added) > GROUP_INFO_MEMBERS
        ):
            return False
        assert draft.staged.next is not None
        policy = RoomPolicy.required_in(draft.staged.next.context.extensions)
        return policy.external_joins is not ExternalJoins.NEVER

    def _finished(self, draft: CommitDraft, tree_at: BlobReference | None) -> tuple[CommitBundle, OutboxRecord]:
        location = None if tree_at is None else RatchetTreeLocation(tree_at).extension()
        membership, random = self._state.require_member(), self._device.random
        group, key, effects = membership.group, self._state.group_info_key, draft.staged.effects
        in_welcome: list[Extension] = []
        if not begins_key(effects, membership.policy, group.epoch + 1):
            in_welcome.append((key or UNKNOWN).extension())
        if tree_at is not None and draft.invites:  # draft-ietf-mls-partial: the joiners need not wait for the tree
            added = sorted(LeafIndex(each.index) for each in effects.added)
            proofs = MembershipProofs.of(draft.tree, LeafIndex(effects.committer_index), added)
            in_welcome += [] if proofs is None else [proofs.extension()]
        bundle = group.finish_commit(draft, instead_of_tree=location, in_welcome=in_welcome, random=random)
        group_info = b""
        if bundle.group_info is not None:
            after = bundle.staged.next
            assert isinstance(after, Group)
            key = key_after(key, effects, membership.policy, after)
            policy = RoomPolicy.required_in(after.context.extensions)
            group_info = seal_group_info(key, policy, after, bundle.group_info, random)
        record = _record(
            OutboxKind.COMMIT,
            group.epoch,
            bundle.commit,
            welcome=bundle.welcome or b"",
            group_info=group_info,
        )
        return bundle, record

    @property
    def leaf_outdated(self) -> bool:
        """Whether our leaf's credential, signature key or list of cipher suites differs from the device's present one.

        The next Commit of ours replaces it.  Of a partial member, which cannot make one, only the key is looked at.
        """
        if (partial := self._state.partial) is not None:
            group = partial.group
            ours = group.suite.id in self._device.suites
            return ours and group.own_leaf.signature_key != self._device.signature_key(group.suite).public
        membership = self._state.membership
        return membership is not None and self._new_leaf(membership.group) is not None

    def _new_leaf(self, group: Group) -> OwnLeaf | None:
        """The content of our next leaf; None if it does not change."""
        if group.suite.id not in self._device.suites:
            return None  # by configuration no suite of ours any more: the group goes on as it is
        new = self._device.own_leaf(group.suite)
        if not group.tree.supported_by_all(Feature.CREDENTIAL, type_of(new.credential)):  # RFC 9420 7.3
            new = replace(new, credential=self._device.identity.credential())
        old = group.own_leaf
        # Others see in the leaf which suites we have: whether the group could move (RFC 9420 7.2).
        same = set(old.capabilities.cipher_suites) - GREASE == set(new.capabilities.cipher_suites) - GREASE
        if same and (old.credential, old.signature_key) == (new.credential, new.signature_key.public):
            return None
        return new

    def _draft(
        self, membership: Membership, proposals: Sequence[AnyProposal], now: int, options: CommitOptions | None
    ) -> CommitDraft:
        group = membership.group
        options = replace(options or CommitOptions(), complete=renewing(group.suite))
        if (new := self._new_leaf(group)) is not None:
            options = replace(options, leaf=new)
        me = MemberSender(group.own_index)
        view = membership.view
        due = committable(
            group,
            view,
            beside=[SentProposal(proposal, me) for proposal in proposals],
            unwanted=self._uncommitted(membership),
            rules=self._device.leaf_rules(now),
        )
        if any(isinstance(proposal, PreSharedKey) for proposal in proposals):
            # A client that the same Commit adds would need the PSK, too (RFC 9420 12.4.3.1).
            due = Committable(tuple(sent for sent in due.waiting if not isinstance(sent.proposal, Add)))
        references = [sent.reference or b"" for sent in due.waiting]
        own = (*proposals, *(sent.proposal for sent in due.replaced))
        by_value = _with_removed(group, view, own, due.waiting)
        psks = OtherGroups(self._state.store, self._device.parameters, self._state.room).psk
        try:
            return group.draft_commit(
                by_value, now=now, by_reference=references, options=options, psks=psks, random=self._device.random
            )
        except InvalidError:
            if not references:
                raise
        # No member's proposal may prevent us from committing.
        by_value = _with_removed(group, view, proposals)
        return group.draft_commit(
            by_value, now=now, by_reference=(), options=options, psks=psks, random=self._device.random
        )

    def placed(self, origin_id: str, places: Sequence[BlobReference]) -> Outgoing | None:
        """Store where a message of the outbox has been uploaded.

        :param places: of :attr:`Outgoing.uploads`, in their order
        :returns: what is to be sent now; None if it need not be sent any more
        :raises StoreError: nothing has changed
        """
        outbox, membership = self._state.outbox, self._state.membership
        number = outbox.of_origin_id(origin_id)
        upload = None if number is None else outbox.upload(number)
        if number is None or upload is None or outbox[number].refused:
            return None
        record = outbox[number]
        creates = record.kind is OutboxKind.CREATION
        group = self._state.staged[number].next if creates else None if membership is None else membership.group
        if group is None:
            return None
        group_id, signer = record.reference if creates else group.group_id, group.own_index
        place = commit_place(group.suite, group.signature_key, int(signer), group_id, record.epoch, places[0])
        upload = located(record, upload, place, places)
        with self._state.change() as change:
            change.put_upload(number, upload)
        return self._outgoing(record, upload)

    def _put_out(
        self,
        group: Group | PartialGroup,
        record: OutboxRecord,
        fits: Fits | None = None,
        bundle: CommitBundle | None = None,
        upload: UploadRecord | None = None,
    ) -> Outgoing:
        """Rule 3: state and message in one transaction."""
        outgoing = self._outgoing(record, upload)
        if fits is not None:
            fits(outgoing.payloads)
        number = self._state.outbox.next_number()
        with self._state.change() as change:
            change.put_speaking(group)
            change.put_message(number, record)
            if upload is not None:
                change.put_upload(number, upload)
            if bundle is not None and isinstance(group, Group):
                change.put_staged(number, bundle.staged, group.staged_pieces(bundle.staged))
        return outgoing

    def _outgoing(self, record: OutboxRecord, upload: UploadRecord | None = None) -> Outgoing:
        """:raises StanzaTooLarge: a message of it is longer than an element may be"""
        if record.kind is OutboxKind.CREATION:
            return as_outgoing(record, record.reference, 0, upload)
        group_id, epoch = self._state.require_speaking().group.group_id, record.epoch
        if record.kind is OutboxKind.COMMIT:
            return as_outgoing(record, group_id, epoch, upload)
        check_lengths(record.message)
        payloads: list[RoomElement] = []
        match record.kind:
            case OutboxKind.APPLICATION if not record.message:
                pass  # not encrypted yet
            case OutboxKind.APPLICATION:
                payloads.append(elements.Application(group_id, epoch, record.message))
            case OutboxKind.PROPOSAL:
                payloads.append(elements.Proposal(group_id, epoch, record.message))
        return Outgoing(record.origin_id.decode(), record.kind, tuple(payloads))

    # --- what has not come back ----------------------------------------------------------------

    def outstanding_ids(self) -> Iterator[str]:
        """Origin ids of messages that the room has not reflected."""
        return (record.origin_id.decode() for _, record in self._state.outbox if not record.refused)

    @property
    def messages_wait(self) -> bool:
        """Whether application data awaits its reflection."""
        return any(record.kind is OutboxKind.APPLICATION for _, record in self._state.outbox)

    def outstanding(self) -> Iterator[Outgoing]:
        """The messages that the room has not reflected, oldest first, to be sent again.

        The caller reads the archive to its end first.  Application data of an epoch that has ended is encrypted again:
        without a reflection it was not delivered, and other members may have deleted the keys of its epoch.  Stanzas
        may be processed between two messages.

        :raises StoreError: the store failed; messages already returned are stored
        """
        for number, _ in self._state.outbox:
            record = self._state.outbox.get(number)
            if record is None or record.refused:
                continue  # it has come back meanwhile
            upload = self._state.outbox.upload(number)
            if record.kind is OutboxKind.CREATION:
                yield self._outgoing(record, upload)
                continue
            speaking = self._state.speaking
            if speaking is None or self._state.unsure.reasons or self._state.waits_for_tree:
                continue  # we are out, or not sure that this is the group's state
            stale = not record.message or record.epoch < speaking.group.epoch
            if record.kind is OutboxKind.APPLICATION and stale:
                if self.needs_commit or self.silenced or speaking.group.closed is not None:
                    continue  # it goes out after the Commit, when everybody is vouched for, in the group that follows
                record = self._encrypt_anew(speaking, number, record)
            yield self._outgoing(record, upload)

    def _encrypt_anew(
        self, speaking: Membership | PartialMembership, number: bytes, record: OutboxRecord
    ) -> OutboxRecord:
        message, group = self._encrypt(speaking, record.plaintext, record.origin_id)
        record = replace(
            record,
            message=message,
            digest=sha256(message).digest(),
            epoch=group.epoch,
            earlier=(record.earlier + record.digest)[-_EARLIER:],
        )
        with self._state.change() as change:
            change.put_speaking(group)
            change.put_message(number, record)
        return record

    def knows(self, origin_id: str) -> bool:
        """Whether a message with this id waits."""
        return self._state.outbox.of_origin_id(origin_id) is not None

    def refused(self, origin_id: str, reason: str) -> list[Event]:
        """Stop sending a message of ours that the room has refused.

        Application data is dropped.  A proposal or a Commit still takes effect if the room reflects it after all before
        the epoch ends.

        :raises StoreError: nothing has changed
        """
        number = self._state.outbox.of_origin_id(origin_id)
        if number is None or self._state.outbox[number].refused:
            return []
        record = self._state.outbox[number]
        with self._state.change() as change:
            if record.kind is OutboxKind.APPLICATION:
                change.delete_message(number)
            else:
                change.put_message(number, replace(record, refused=1))
        return [CommitLost(self._state.room, origin_id, reason)] if record.kind is OutboxKind.COMMIT else []


def _record(
    kind: OutboxKind,
    epoch: int,
    message: bytes,
    origin_id: str | None = None,
    *,
    welcome: bytes = b"",
    group_info: bytes = b"",
    plaintext: bytes = b"",
    reference: bytes = b"",
) -> OutboxRecord:
    return OutboxRecord(
        kind=kind,
        origin_id=(origin_id or str(uuid.uuid4())).encode(),
        digest=sha256(message).digest(),
        epoch=epoch,
        message=message,
        welcome=welcome,
        group_info=group_info,
        plaintext=plaintext,
        earlier=b"",
        reference=reference,
        refused=0,
    )


def _with_removed(
    group: Group, view: GroupView, proposals: Sequence[AnyProposal], waiting: Sequence[SentProposal] = ()
) -> tuple[AnyProposal, ...]:
    """Proposals of ours with the list of removed clients that a Commit of them needs.

    See :mod:`slixmpp_mls.policy.removed_clients`.

    :param waiting: what it holds by reference
    """
    me = MemberSender(group.own_index)
    effects = effects_of(group, [*waiting, *(SentProposal(proposal, me) for proposal in proposals)])
    ours = next((proposal for proposal in proposals if isinstance(proposal, GroupContextExtensions)), None)
    if effects is None or (effects.extensions is not None and ours is None):
        return tuple(proposals)
    try:
        removed = judge(view, effects).removed
    except (PeerError, UsageError):  # it is not permitted: asked again when it is made
        return tuple(proposals)
    if view.removed is None or (removed == view.removed and ours is None):
        return tuple(proposals)
    before = view.extensions if ours is None else ours.extensions
    others = (proposal for proposal in proposals if proposal is not ours)
    return (*others, GroupContextExtensions(removed.replaced_in(before)))


def _reference(group: Group, proposal: AnyProposal) -> bytes:
    """The ProposalRef of what we have just proposed, or had proposed before in the same words."""
    me = MemberSender(group.own_index)
    return next(
        reference
        for reference in reversed(group.public.proposal_order)
        if (sent := group.public.proposals[reference]).sender == me and sent.proposal == proposal
    )
