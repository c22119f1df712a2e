"""Examines each stanza of a room and returns its meaning for the group, a :class:`~.actions.Step`; changes nothing.

*Later epochs.*  A message of a later epoch than ours means that we lack a Commit, or that the epoch number on the
stanza is false.  The message cannot be decrypted, so MLS cannot tell.  If the room says that it is from a member's
account, :class:`~slixmpp_mls.client.events.LeftBehind` reports it, once per account and epoch.  The same applies to a
message that should be readable in our epoch and is not, and to a tombstone.  Each of them makes us unsure
(:mod:`.certainty`); the group is not given up.

*Old copies.*  A message that is signed by us, but was not sent from our state, proves that the store is an old copy.
This is the only reason for which a stanza makes us give the group up (:class:`~slixmpp_mls.client.events.GroupLost`),
because its keys would be used twice.

The module is longer than others: each kind of stanza, and each relation to the group, is one short method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...errors import (
    InvalidError,
    MalformedError,
    MembershipUnproved,
    NotForUs,
    PeerError,
    Premature,
    Replayed,
    StateRolledBack,
    UnknownGroup,
    WrongEpoch,
)
from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.group.group import Group
from ...mls.group.message_processing import ReceivedMessage, ReceivedProposal
from ...mls.group.staging import StagedCommit
from ...mls.partial import PartialGroup
from ...mls.structures.framing import MemberSender, NewMemberProposalSender
from ...mls.structures.leaf_node import LeafNode
from ...mls.structures.proposals import Add, Update
from ...mls.tree.tree_math import LeafIndex
from ...policy import GroupView, RoomPolicy
from ...policy.check import check
from ...policy.roster import Roster
from ...stanza import elements
from ...stanza.blob import MAX_BLOB
from ...stanza.consistency import check as check_consistency
from ...stanza.elements import RoomElement
from ...stanza.locations import CommitPlace
from ...stanza.locations import verify as verify_location
from ..device import Device
from ..events import CommitLost, Event, LeftBehind, MessageSent, Rejected, Unreadable
from ..storage.records import MembershipState, OutboxKind
from .actions import (
    Abandon,
    Begin,
    Enter,
    Follow,
    Ignore,
    Incoming,
    Join,
    LeaveOut,
    MoveOn,
    Read,
    Remember,
    Sent,
    Step,
)
from .certainty import UnsureReason
from .continuation import Continuation
from .external_commit import ExternalCommits
from .following import Following, Wanted
from .resumption_psks import OtherGroups
from .room_contents import Membership
from .room_state import RoomState
from .welcome import Welcomes

__all__ = ["Processing", "rejected"]

_RULES = "urn:xmpp:mls:0 business rules"
_LARGE = "urn:xmpp:mls:0 large"

_Framed = elements.Application | elements.Proposal | elements.Commit


class Processing:
    """Finds the meaning of the stanzas of a room's group."""

    def __init__(
        self,
        device: Device,
        state: RoomState,
        welcomes: Welcomes,
        entries: ExternalCommits,
        continuation: Continuation,
        following: Following,
    ) -> None:
        self._following = following
        self._device = device
        self._state = state
        self._welcomes = welcomes
        self._entries = entries
        self._continuation = continuation

    def examine(self, incoming: Incoming, now: int) -> Step:
        """Find the meaning of a stanza.  Nothing changes.

        :raises StoreError: the store failed
        """
        others = OtherGroups(self._state.store, self._device.parameters, self._state.room)
        try:
            if incoming.error is not None:
                raise incoming.error
            membership, partial = self._state.membership, self._state.partial
            if partial is not None and not partial.set_aside:
                return self._examine_partially(partial.group, incoming, now)
            if membership is None:
                return self._examine_outside(incoming, others)
            return self._examine_inside(membership, incoming, now, others)
        except Replayed as error:
            # After a gap the archive is read from its beginning, perhaps again.
            read = self._state.unsure.reasons & UnsureReason.ARCHIVE_GAP
            return Step(incoming, Ignore(() if read else (rejected(self._state.room, incoming, error),)))
        except StateRolledBack as error:
            return Step(incoming, Abandon(str(error)))
        except PeerError as error:
            return Step(incoming, Ignore((rejected(self._state.room, incoming, error),)), awaits=others.awaited)

    def _examine_inside(self, membership: Membership, incoming: Incoming, now: int, others: OtherGroups) -> Step:
        group = membership.group
        if incoming.tombstone:
            return Step(incoming, Ignore(unsure=UnsureReason.TOMBSTONE))
        if self._state.returning:
            back = self._examine_return(membership, incoming, others)
            if back is not None:
                return back
        for payload in incoming.payloads:
            if payload.group != group.group_id:
                return self._examine_other_group(group, incoming, payload, others)
            if isinstance(payload, elements.CommitLocation):
                return self._examine_location(membership, incoming, payload, now, others)
            if not isinstance(payload, _Framed):
                continue
            number = self._state.outbox.of_message(payload.data)
            if number is not None:
                check_consistency(payload)
                return self._examine_own(membership, incoming, number, others)
            if payload.epoch > group.epoch:
                return self._examine_ahead(membership, incoming, payload)
            if isinstance(payload, elements.Application):
                return self._examine_application(group, incoming, payload, now)
            if isinstance(payload, elements.Proposal):
                return self._examine_proposal(group, incoming, payload, now)
            return self._examine_commit(membership, incoming, payload, now, others)
        return Step(incoming, Ignore())

    def _examine_return(self, membership: Membership, incoming: Incoming, others: OtherGroups) -> Step | None:
        """Examine a stanza while proof exists that the group is elsewhere: a way back that our state cannot follow."""
        entry = self._entries.find(incoming)
        if entry is not None:
            leaves = (leaf for index, leaf in entry.members() if index != entry.own_index)
            return Step(incoming, Enter(entry), tuple(leaves))
        own = membership.group
        if not any(isinstance(each, elements.AnyCommit) and each.epoch > own.epoch for each in incoming.payloads):
            return None
        step = self._welcomes.find(incoming, others)
        if step is not None and isinstance(step.action, Join):
            # The Commit beside it cannot be verified; so the Welcome must be by a key that is in our tree.
            inviter = step.action.staged.inviter
            key = step.action.staged.state.tree.member(inviter).signature_key
            if all(leaf.signature_key != key for _, leaf in own.members()):
                raise InvalidError("a Welcome by nobody whom we know", _RULES)
        return step

    def _examine_other_group(self, group: Group, incoming: Incoming, payload: RoomElement, others: OtherGroups) -> Step:
        """The group that follows ours, if ours is closed; or one that we have left behind."""
        asked = group.closed
        if asked is not None and payload.group == asked.group_id:
            return self._examine_following_group(group, incoming, others)
        with self._state.store.transaction() as transaction:
            left = transaction.get(self._state.spaces.ended, payload.group)
        if left is None:
            raise UnknownGroup("a message of another group", _RULES)
        if isinstance(payload, elements.Application):
            check_consistency(payload)
            who = incoming.claimed
            return Step(
                incoming, Ignore((Unreadable(self._state.room, "too-late", payload.epoch, who, incoming.archive_id),))
            )
        return Step(incoming, Ignore())

    def _examine_following_group(self, group: Group, incoming: Incoming, others: OtherGroups) -> Step:
        left_out, asked = self._state.left_out, group.closed
        creation = asked is not None and self._is_creation(incoming, asked.group_id)
        number = self._continuation.find(incoming)
        if number is not None:  # it comes second, perhaps; the outbox keeps it
            return Step(incoming, Ignore() if left_out else Begin(number))
        if (
            left_out and self._welcomes.came_second(incoming) and not creation
        ):  # which of several the others follow, we cannot tell
            return Step(incoming, Ignore())
        step = self._welcomes.find(incoming, others)
        if step is None:
            leaves_out = creation and self._welcomes.is_for_spent(incoming)
            return Step(incoming, LeaveOut() if leaves_out and self._continuation.heeds(incoming) else Ignore())
        if isinstance(step.action, Join):
            continues = step.action.staged.continues
            if left_out:
                return Step(incoming, LeaveOut()) if continues is not None else step
            # RFC 9420 12.4.3.1 has been checked for what it continues: here, that it is our group.
            if continues is None or continues.psk_group_id != group.group_id:
                raise InvalidError("a group that does not follow ours", "RFC 9420 11.2")
        return step

    @staticmethod
    def _is_creation(incoming: Incoming, group_id: bytes) -> bool:
        commits = (payload for payload in incoming.payloads if isinstance(payload, elements.AnyCommit))
        return any((payload.group, payload.epoch) == (group_id, 0) for payload in commits)

    def _examine_own(self, membership: Membership, incoming: Incoming, number: bytes, others: OtherGroups) -> Step:
        record = self._state.outbox[number]
        if record.kind is OutboxKind.COMMIT:
            try:
                staged = self._state.staged[number]
                return self._move_on(incoming, staged, check(membership.view, staged.effects).roster, others)
            except PeerError as error:  # made by software that did not ask
                return Step(incoming, Sent(number, CommitLost(self._state.room, record.origin_id.decode(), str(error))))
        event = None
        if record.kind is OutboxKind.APPLICATION:
            event = MessageSent(self._state.room, record.origin_id.decode(), incoming.archive_id, record.plaintext)
        return Step(incoming, Sent(number, event))

    def _examine_location(
        self,
        membership: Membership,
        incoming: Incoming,
        payload: elements.CommitLocation,
        now: int,
        others: OtherGroups,
    ) -> Step:
        """A Commit that no stanza holds.  A member that cannot fetch it does not know whether its epoch has ended."""
        group, number = membership.group, self._state.outbox.of_location(payload.data)
        if number is not None:
            return self._examine_own(membership, incoming, number, others)
        if payload.epoch > group.epoch:
            return self._examine_ahead(membership, incoming, payload)
        if payload.epoch < group.epoch:
            return Step(incoming, Ignore())  # rule 1
        place = CommitPlace.decode(payload.data)
        signer = group.tree.member(LeafIndex(place.signer))
        verify_location(place, group.suite, signer.signature_key, group.group_id, group.epoch)
        if place.blob.size > MAX_BLOB:
            raise InvalidError(f"a Commit of {place.blob.size} octets", _LARGE)
        if place.signer in self._state.claims:
            # A member could make us wait again and again.
            raise InvalidError("another Commit elsewhere by the same member in the same epoch", _LARGE)
        if place.blob not in incoming.fetched:
            unknown = Ignore(unsure=UnsureReason.UNAVAILABLE)
            return Step(incoming, unknown, fetch=place.blob, claim=place.signer)
        commit = elements.Commit(payload.group, payload.epoch, incoming.fetched[place.blob])
        try:
            step = self._examine_commit(membership, incoming, commit, now, others)
        except (StateRolledBack, NotForUs):
            raise
        except PeerError as error:
            step = Step(incoming, Ignore((rejected(self._state.room, incoming, error),)), awaits=others.awaited)
        return replace(step, claim=place.signer)

    def _examine_ahead(
        self, membership: Membership, incoming: Incoming, payload: _Framed | elements.CommitLocation
    ) -> Step:
        if not isinstance(payload, elements.CommitLocation):
            check_consistency(payload)
        epoch = membership.group.epoch
        events: list[Event] = []
        if isinstance(payload, elements.Application):
            events.append(self._unreadable(incoming, payload.epoch))
        who = incoming.claimed
        ahead: tuple[str, int] | None = None
        if who is not None and membership.roster.has(who):
            ahead = who, payload.epoch + isinstance(payload, elements.AnyCommit)
            if who not in self._state.ahead:
                events.append(LeftBehind(self._state.room, epoch, payload.epoch, who, incoming.archive_id))
        elif not events:
            raise WrongEpoch(f"epoch {payload.epoch}, not {epoch}", "RFC 9420 6")
        left_behind = any(isinstance(event, LeftBehind) for event in events)
        unsure = 0 if ahead is None else UnsureReason.LATER_EPOCH
        return Step(incoming, Ignore(tuple(events), ahead, unsure), gap=left_behind)

    def _examine_application(
        self,
        group: Group | PartialGroup,
        incoming: Incoming,
        payload: elements.Application,
        now: int,
        *,
        judged: bool = True,
    ) -> Step:
        """
        :param judged: whether we can tell what is wrong with a message that cannot be read
        :raises PeerError: it cannot be read, and we cannot tell
        """
        message = check_consistency(payload)
        try:
            received = group.process(message, now=now)
        except NotForUs:
            return Step(incoming, Ignore())  # ours, sent before, reflected again
        except WrongEpoch:
            return Step(incoming, Ignore((self._unreadable(incoming, payload.epoch),)))
        except (Replayed, StateRolledBack):
            raise
        except PeerError as error:
            if not judged:
                raise
            return self._examine_unreadable(incoming, error)
        assert isinstance(received, ReceivedMessage)
        if received.again:
            # RFC 9420 6.1: a signature does not cover the generation.  Each message of ours has an id of its own in its
            # authenticated data, so this is a member's copy; its key is left for the message that it belongs to.
            raise Replayed("a message that was read before, encrypted once more", "RFC 9420 6.1, 9.2")
        # RFC 9420 9.1: generations count a sender's messages, and a room keeps their order.
        gap = received.epoch == group.epoch and received.missing > 0
        return Step(incoming, Read(received), gap=gap)

    def _examine_unreadable(self, incoming: Incoming, error: PeerError) -> Step:
        """Of our epoch, and it cannot be read: forged, or our epoch is not that of a member that the room names."""
        unsure = UnsureReason.UNDECRYPTABLE if self._is_by_member(incoming) else 0
        return Step(incoming, Ignore((rejected(self._state.room, incoming, error),), unsure=unsure))

    def _is_by_member(self, incoming: Incoming) -> bool:
        """Whether the room says that a stanza is from another member's account."""
        membership, who = self._state.membership, incoming.claimed
        own = self._device.identity.account
        return membership is not None and who is not None and who != own and membership.roster.has(who)

    def _unreadable(self, incoming: Incoming, epoch: int) -> Unreadable:
        membership, partial = self._state.membership, self._state.partial
        inside = partial if partial is not None and not partial.set_aside else membership
        if inside is None:
            reason = "lost" if self._state.standing is MembershipState.LOST else "before-join"
        elif epoch < self._state.record.joined_epoch:
            reason = "before-join"
        else:
            reason = "too-late" if epoch < inside.group.epoch else "future"
        return Unreadable(self._state.room, reason, epoch, incoming.claimed, incoming.archive_id)

    def _examine_proposal(self, group: Group, incoming: Incoming, payload: elements.Proposal, now: int) -> Step:
        if payload.epoch < group.epoch:
            return Step(incoming, Ignore())  # its epoch is over: it has no effect any more
        try:
            received = group.process(check_consistency(payload), now=now)
        except NotForUs:
            return Step(incoming, Ignore())
        assert isinstance(received, ReceivedProposal)
        if received.again:
            return Step(incoming, Ignore())  # proposed again in the same words, perhaps by a member that has copied it
        proposal = received.proposal
        if isinstance(received.sender, NewMemberProposalSender) and isinstance(proposal, Add):
            ClientIdentity.from_leaf(proposal.key_package.leaf_node)  # a proposal that names no client is not kept
        leaves: Sequence[LeafNode] = ()
        successions: tuple[tuple[LeafNode, LeafNode], ...] = ()
        if isinstance(proposal, Add):
            leaves = (proposal.key_package.leaf_node,)
        elif isinstance(proposal, Update):
            leaves = (proposal.leaf_node,)
            sender = received.sender
            assert isinstance(sender, MemberSender)
            successions = ((group.tree.member(LeafIndex(sender.leaf_index)), proposal.leaf_node),)
        return Step(incoming, Remember(received), leaves, successions)

    def _examine_commit(
        self, membership: Membership, incoming: Incoming, payload: elements.Commit, now: int, others: OtherGroups
    ) -> Step:
        group = membership.group
        if payload.epoch < group.epoch:
            return Step(incoming, Ignore())  # rule 1: another Commit has ended that epoch
        judging = _Judging(membership.view)
        try:
            staged = group.process(check_consistency(payload), now=now, psks=others.psk, judge=judging)
        except (StateRolledBack, NotForUs):
            raise
        except (InvalidError, MalformedError) as error:
            events = (rejected(self._state.room, incoming, error),)
            if judging.refused or isinstance(error, MalformedError):  # for all members alike: nothing is missing
                return Step(incoming, Ignore(events, void=payload.data), awaits=others.awaited)
            # A proposal that it refers to may be what is missing (RFC 9420 12.4.2).
            gap = others.awaited is None and incoming.claimed is not None and membership.roster.has(incoming.claimed)
            # RFC 9750 5.3: one that is allowed has been signed, and may be void for us alone, whoever has posted it.
            mine = judging.allowed and others.awaited is None
            unsure = UnsureReason.UNDECRYPTABLE if mine or (gap and self._is_by_member(incoming)) else 0
            # After what it depends on, the same Commit may count: somebody may post it before and afterwards.
            lasting = not unsure and others.awaited is None and not isinstance(error, Premature | Replayed)
            action = Ignore(events, unsure=unsure, void=payload.data if lasting else b"")
            return Step(incoming, action, awaits=others.awaited, gap=gap)
        assert isinstance(staged, StagedCommit)
        return self._move_on(incoming, staged, judging.roster, others)

    def _move_on(self, incoming: Incoming, staged: StagedCommit, roster: Roster, others: OtherGroups) -> Step:
        if staged.next is None:
            return self._examine_removal(incoming, staged, others)
        policy = RoomPolicy.required_in(staged.next.context.extensions)
        leaves = tuple(_new_leaves(staged.effects))  # our own Commits are no exception: what we know may have changed
        successions = tuple(
            (change.before, change.after)
            for change in staged.effects.updated
            if change.before is not None and change.after is not None
        )
        return Step(incoming, MoveOn(staged, roster, policy), leaves, successions)

    def _examine_removal(self, incoming: Incoming, staged: StagedCommit, others: OtherGroups) -> Step:
        """We are removed, and perhaps added afresh by the same Commit: its Welcome is in the same stanza."""
        back: Step | None = None
        reasons: tuple[Event, ...] = ()
        try:
            back = self._welcomes.find(incoming, others, judged=True)
        except PeerError as error:
            reasons = (rejected(self._state.room, incoming, error),)
        join = None if back is None or not isinstance(back.action, Join) else back.action
        own, key = self._device.identity, self._state.require_member().group.own_leaf.signature_key
        added = (change.after for change in staged.effects.added)
        # Not by any KeyPackage with our key: one that we have never had is of another copy of this store.
        readded = any(
            leaf is not None and leaf.signature_key == key and ClientIdentity.from_leaf(leaf) == own for leaf in added
        ) and self._welcomes.is_for_ours(incoming)
        action = MoveOn(staged, None, None, readded, join, reasons)
        return Step(incoming, action) if back is None else replace(back, action=action)

    def _examine_partially(self, group: PartialGroup, incoming: Incoming, now: int) -> Step:
        """Examine a stanza without the ratchet tree (:mod:`.partial`): messages, and what concerns no epoch of ours."""
        held = Step(incoming, Ignore(), needs_tree=True)
        if incoming.tombstone:
            return held
        for payload in incoming.payloads:
            if not isinstance(payload, _Framed | elements.CommitLocation):
                continue
            if payload.group != group.group_id or payload.epoch > group.epoch:
                return held
            if not isinstance(payload, elements.Application):
                if payload.epoch < group.epoch:
                    return Step(incoming, Ignore())  # rule 1
                if not self._following.stays or isinstance(payload, elements.CommitLocation):
                    return held
                return self._follow(group, incoming, payload, now)
            number = self._state.outbox.of_message(payload.data)
            if number is not None:
                check_consistency(payload)
                record = self._state.outbox[number]
                event = MessageSent(self._state.room, record.origin_id.decode(), incoming.archive_id, record.plaintext)
                return Step(incoming, Sent(number, event))
            try:
                return self._examine_application(group, incoming, payload, now, judged=False)
            except MembershipUnproved as error:
                if self._following.stays and payload.epoch < group.epoch:  # proofs of that epoch's tree are gone
                    return Step(incoming, Ignore((self._unreadable(incoming, payload.epoch),)))
                return replace(held, wants=Wanted((error.leaf_index,)))
            except PeerError:  # for a full member to judge, unless we stay partial and nobody we know may have sent it
                if self._following.stays and not self._is_by_known(group, incoming):
                    raise
                return held
        return Step(incoming, Ignore())

    def _is_by_known(self, group: PartialGroup, incoming: Incoming) -> bool:
        """Whether the room says that a stanza is from the account of a member that was proved to us."""
        return any(ClientIdentity.from_leaf(leaf).account == incoming.claimed for _, leaf in group.members())

    def _follow(
        self, group: PartialGroup, incoming: Incoming, payload: elements.Proposal | elements.Commit, now: int
    ) -> Step:
        """A proposal, or a Commit, for a member that stays without the tree.

        :raises PeerError: no member can make use of it; of a proposal: we cannot, and a Commit that refers to it is
            beyond us
        """
        held = Step(incoming, Ignore(), needs_tree=True)
        message = check_consistency(payload)
        if isinstance(payload, elements.Proposal):
            try:
                received = group.process(message, now=now)
            except NotForUs:
                return Step(incoming, Ignore())
            except MembershipUnproved as error:
                return replace(held, wants=Wanted((error.leaf_index,)))
            if not isinstance(received, ReceivedProposal):
                raise InvalidError("another message than a proposal", _RULES)
            return Step(incoming, Ignore() if received.again else Remember(received))
        if self._following.is_void(payload.data):
            raise InvalidError("a Commit that is void, by the word of an administrator's client", _RULES)
        followed = self._following.followed(payload.data)
        if followed is None:
            return replace(held, wants=Wanted(commit=payload.data))
        welcomes = (elements.Welcome, elements.WelcomeLocation)
        if followed.staged.next is None and any(isinstance(each, welcomes) for each in incoming.payloads):
            return held  # perhaps the Commit adds us again
        return Step(incoming, Follow(followed))

    def _examine_outside(self, incoming: Incoming, others: OtherGroups) -> Step:
        """We wait for a Welcome, or an external Commit of ours: one that is the first of its epoch in the room."""
        number = self._continuation.find(incoming)
        if number is not None:
            return Step(incoming, Begin(number))
        if not self._welcomes.came_second(incoming):
            entry = self._entries.find(incoming)
            if entry is not None:
                leaves = (leaf for index, leaf in entry.members() if index != entry.own_index)
                return Step(incoming, Enter(entry), tuple(leaves))
            step = self._welcomes.find(incoming, others, outside=True)
            if step is not None:
                return step
        return Step(
            incoming,
            Ignore(
                tuple(
                    self._unreadable(incoming, payload.epoch)
                    for payload in incoming.payloads
                    if isinstance(payload, elements.Application)
                )
            ),
        )


class _Judging:
    """Has the group's policy judge a Commit (:mod:`slixmpp_mls.policy.check`), and keeps the result.

    :ivar refused: whether the policy forbids the Commit
    :ivar allowed: whether it allows it; what fails then is ours to find
    :ivar roster: the roster after the Commit, if it allows it; before, that of the group
    """

    def __init__(self, view: GroupView) -> None:
        self._view = view
        self.refused = self.allowed = False
        self.roster = view.roster

    def __call__(self, effects: Effects) -> None:
        self.refused = True
        self.roster = check(self._view, effects).roster
        self.refused, self.allowed = False, True


def rejected(room: str, incoming: Incoming, error: PeerError) -> Rejected:
    """The event of a stanza that was refused."""
    return Rejected(room, error, incoming.claimed, incoming.archive_id)


def _new_leaves(effects: Effects) -> Iterator[LeafNode]:
    """Leaves whose credential or signature key has not been judged yet."""
    for change in effects.changes:
        before, after = change.before, change.after
        if after is None:
            continue
        if before is None or (before.credential, before.signature_key) != (after.credential, after.signature_key):
            yield after
