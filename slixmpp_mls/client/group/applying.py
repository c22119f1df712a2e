"""Applies the steps that a room's stanzas require.

`examine` (:mod:`.processing`) changes nothing.  `accept` or `refuse` completes a stanza and moves our place in the room
past it in the same change.  Before it, the caller asks the Authentication Service about new leaves; see
:mod:`slixmpp_mls.client.storage.doubts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...errors import InvalidError, PeerError, ProtocolTooOld
from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects, MemberChange
from ...mls.group.group import Group
from ...mls.group.message_processing import ReceivedMessage, ReceivedProposal
from ...mls.group.proposal_list import SentProposal
from ...mls.group.staging import StagedCommit
from ...mls.partial.effects import UNKNOWN_PLACE
from ...mls.structures.framing import MemberSender, NewMemberProposalSender
from ...mls.structures.proposals import Add, Remove, SelfRemove
from ...mls.tree.tree_math import LeafIndex
from ...policy import RoomPolicy, derive_return_key, is_group_of_0_1, is_leaf_of_0_1
from ...policy.check import is_bookkeeping
from ...policy.later_state import KnownState
from ...stanza import elements
from ...store.interface import Transaction
from ..device import Device
from ..events import (
    CommitLost,
    Event,
    GroupChanged,
    GroupClosed,
    GroupLost,
    JoinRequested,
    MessageReceived,
    Rejected,
    RemovedFromGroup,
)
from ..member import Member
from ..storage import epoch_log, leaf_ages, rejoin_limit
from ..storage.doubts import Doubt
from ..storage.duplicate_filter import mark, message_id
from ..storage.records import MembershipState, OutboxKind, OutsideRecord, RoomRecord
from .actions import (
    Abandon,
    Begin,
    Enter,
    Follow,
    Ignore,
    Incoming,
    Join,
    JoinPartially,
    LeaveOut,
    MoveOn,
    Read,
    Remember,
    Sent,
    Step,
)
from .annotating import Annotator
from .certainty import Certainty, UnsureReason
from .committable_proposals import is_vouched_for, returning_to
from .continuation import Continuation
from .evidence import Evidence
from .external_commit import ExternalCommits
from .following import CARRIED, Followed
from .group_info_key import GroupInfoKey, begins_key, key_after
from .join_request import JoinRequests
from .members import sent_in_epoch
from .processing import rejected
from .room_contents import Membership
from .room_state import RoomState
from .welcome import Welcomes, with_commits

__all__ = ["Applying"]


class Applying:
    """Puts into effect what the stanzas of a room's group mean."""

    def __init__(
        self,
        device: Device,
        state: RoomState,
        welcomes: Welcomes,
        entries: ExternalCommits,
        requests: JoinRequests,
        continuation: Continuation,
        certainty: Certainty,
        annotator: Annotator,
    ) -> None:
        self._annotator = annotator
        self._certainty = certainty
        self._device = device
        self._state = state
        self._welcomes = welcomes
        self._entries = entries
        self._requests = requests
        self._continuation = continuation

    def accept(self, step: Step, now: int, doubts: Iterable[Doubt] = ()) -> list[Event]:
        """Apply a step, and move our place in the room past its stanza.

        A proposal with a leaf that the Authentication Service denies is kept, because others may commit it, but our
        Commits do not cover it.

        :param now: seconds since the Unix epoch
        :param doubts: about the step's new leaves
        :raises StoreError: nothing has been written, nothing has changed; the step can be tried again
        """
        events = self._put_into_effect(step, now, doubts)
        return [*_neighbours(self._state.room, step.incoming), *events]

    def _put_into_effect(self, step: Step, now: int, doubts: Iterable[Doubt]) -> list[Event]:
        record = self._past(step.incoming)
        if not isinstance(step.action, MoveOn):
            self._state.note_claim(step.claim)
        match step.action:
            case Ignore(events) if self._follows_partially:
                self._pass(record)
                return list(events)
            case Ignore(events) if self._state.membership is None:
                self._welcomes.note_ignored(step.incoming)
                return [*events, *self._pass_outside(step.incoming, record, now)]
            case Ignore(events, ahead, unsure, void):
                if void:  # for members without the tree
                    self._annotator.note_void(void)
                told = self._pass_inside(step.incoming, record, UnsureReason(unsure), now)
                if ahead is not None:
                    self._state.note_ahead(*ahead)
                return [*events, *told]
            case Sent(number, event):
                sent, membership = self._state.outbox[number], self._state.membership
                with self._state.change() as change:
                    if sent.kind is OutboxKind.PROPOSAL and membership is not None:
                        change.put_group(membership.group.with_shown(sent.reference))
                    change.put_record(record)
                    change.delete_message(number)
                return [] if event is None else [event]
            case Begin(number):
                return self._continuation.accept(number, record, now)
            case LeaveOut():
                return self._continuation.leave_out(record, self._welcomes.unread_keys(step.incoming), now)
            case Read(received):
                return self._accept_message(step.incoming, received, record, now)
            case Remember(received) if self._follows_partially:
                with self._state.change() as change:
                    change.put_speaking(self._state.require_partial().group.apply(received, now=now))
                    change.put_record(record)
                return []
            case Follow(commit):
                return self._follow(commit, record, now, _when(step.incoming, now))
            case Remember(received):
                return self._accept_proposal(step.incoming, received, record, now, doubts)
            case Abandon(reason):
                after = self._state.cursor
                lost = replace(record, state=MembershipState.LOST)
                self._state.forget_group(lost, Evidence.COPIED, keep_messages=True)
                return [GroupLost(self._state.room, reason, after)]
            case Enter(group):
                return self._welcomes.accept_entry(group, record, now, doubts)
            case Join() as join:
                return self._welcomes.accept(join, record, now, doubts)
            case JoinPartially() as join:
                return self._welcomes.accept_partially(join, record, now)
            case MoveOn(join=Join() as join):
                # Removal and return at once: when our place is past the stanza, nobody reads the Welcome any more.
                return self._welcomes.accept(join, record, now, doubts)
            case MoveOn() as move:
                if move.readded:
                    self._keep_unread_keys(step.incoming, now)
                before = self._state.require_member()
                told = self._accept_commit(move, record, now, doubts, _when(step.incoming, now))
                self._annotator.note_commit(before, move.staged, _commit_in(step.incoming))
                return told

    def refuse(self, step: Step, error: PeerError, now: int) -> list[Event]:
        """Skip a Welcome that cannot be followed, or a Commit that cannot be fetched.

        If the same Commit removes us, the removal takes effect; only the Welcome is rejected.

        :param now: seconds since the Unix epoch
        :raises StoreError: nothing has been written
        """
        record = self._past(step.incoming)
        self._state.note_claim(step.claim)
        events: list[Event] = [
            *_neighbours(self._state.room, step.incoming),
            rejected(self._state.room, step.incoming, error),
        ]
        match step.action:
            case MoveOn(roster=None):
                action = replace(step.action, join=None)
                if action.readded:
                    self._keep_unread_keys(step.incoming, now)
                return [*events, *self._accept_commit(action, record, 0, ())]
            case _ if self._state.membership is None and not self._follows_partially:
                events += self._pass_outside(step.incoming, record, now)
            case Ignore(unsure=unsure) if unsure:  # a Commit that cannot be fetched: the group may be past our epoch
                events += self._pass_inside(step.incoming, record, UnsureReason(unsure), now)
            case _:
                self._pass(record)
        return events

    # --- our place in the room -----------------------------------------------------------------

    @property
    def _follows_partially(self) -> bool:
        """Whether we are in the group without its tree, and read the room in order."""
        return self._state.partial is not None and not self._state.partial.set_aside

    def _past(self, incoming: Incoming) -> RoomRecord:
        """Our record, with our place behind this stanza."""
        record = replace(self._state.record, cursor=incoming.archive_id.encode())
        outside = self._state.membership is None and not self._follows_partially
        return with_commits(record, incoming) if outside or self._state.left_out else record

    def _pass(self, record: RoomRecord) -> None:
        with self._state.change() as change:
            change.put_record(record)

    def _pass_inside(self, incoming: Incoming, record: RoomRecord, reason: UnsureReason, now: int) -> list[Event]:
        """A stanza that changes nothing in the group, but may make us unsure, or end our own way back into it."""
        state = self._state
        with state.change() as change:
            change.put_record(record)
            if state.left_out:
                change.put_outside(self._requests.observed(incoming))
            events = self._certainty.note(change, reason, now) if reason else []
        if self._entries.loses_to(incoming):
            events.append(self._drop_entry(state.outside, record))
        return events

    def _drop_entry(self, seen: OutsideRecord, record: RoomRecord) -> Event:
        origin_id = seen.entry_id.decode()
        self._entries.drop(seen, record)
        return CommitLost(self._state.room, origin_id, "another Commit came first")

    def _pass_outside(self, incoming: Incoming, record: RoomRecord, now: int) -> list[Event]:
        """A stanza that does not let us in, but tells something of the group; perhaps that our own Commit has lost."""
        seen, unread = self._requests.observed(incoming), self._welcomes.unread_keys(incoming)
        if self._entries.loses_to(incoming):
            return [self._drop_entry(seen, record)]
        with self._state.change() as change:
            change.put_record(record)
            change.put_outside(seen)
            change.put_unread_keys(unread, now)
        return []

    def _keep_unread_keys(self, incoming: Incoming, now: int) -> None:
        """We lose the group by a Welcome that we do not follow: its leaf is ours, as its return key proves."""
        unread = self._welcomes.unread_keys(incoming)
        with self._state.change() as change:
            change.put_unread_keys(unread, now)

    # --- messages and proposals ----------------------------------------------------------------

    def _accept_message(
        self, incoming: Incoming, received: ReceivedMessage, record: RoomRecord, now: int
    ) -> list[Event]:
        state, membership = self._state, self._state.membership
        group = state.require_speaking().group.apply(received, now=now)
        sender = Member.of(received.sender, received.leaf)
        identifier = message_id(received.authenticated_data)
        known = None if identifier is None else mark(sender.identity, identifier)
        if known is not None and known in state.duplicates:
            with state.change() as change:
                change.put_speaking(group)
                change.put_record(record)
            return []  # the sender encrypted it twice, and both copies have arrived
        message = MessageReceived(
            room=state.room,
            sender=sender,
            data=received.data,
            epoch=received.epoch,
            claimed=incoming.claimed,
            archive_id=incoming.archive_id,
            origin_id=incoming.origin_id if identifier is None else identifier,
            stamp=incoming.stamp,
            occupant=incoming.occupant,
            clear=incoming.clear,
            removed=membership is not None and membership.roster.leaf_of(sender.identity) is None,
            number=state.inbox.next_number(),
            missing=received.missing,
        )
        with state.change() as change:
            change.put_speaking(group)
            change.put_received(message, now)
            if known is not None:
                change.put_mark(record.seen, known)
                record = replace(record, seen=record.seen + 1)
            change.put_record(record)
        return [message]

    def _accept_proposal(
        self, incoming: Incoming, received: ReceivedProposal, record: RoomRecord, now: int, doubts: Iterable[Doubt]
    ) -> list[Event]:
        """Keep it; if it is not for a Commit of ours, say so.

        We commit a new member's Add (RFC 9420 12.1.8) only if a key in the tree proves that the client belongs to the
        group.  Neither its presence in the room, which the room alone asserts, nor the name of a member suffices.
        """
        state, membership = self._state, self._state.require_member()
        events: list[Event] = []
        doubts, unwanted = tuple(doubts), False
        denial = next((doubt for doubt in doubts if doubt.denied), None)
        if denial is not None:
            reason = f"the Authentication Service denies {denial.client}: {denial.text}"
            events.append(rejected(state.room, incoming, InvalidError(reason, "RFC 9420 5.3.1")))
            unwanted = True
        elif isinstance(received.sender, NewMemberProposalSender) and isinstance(received.proposal, Add):
            client = ClientIdentity.from_leaf(received.proposal.key_package.leaf_node)  # judged in `examine`
            against = self._against(membership, received.sent, client, now, _when(incoming, now), unknown=bool(doubts))
            unwanted = against is not None or client == self._device.identity  # of ourselves, others must judge
            old = is_leaf_of_0_1(received.proposal.key_package.leaf_node)
            if old and not is_group_of_0_1(membership.group.context.extensions):  # xep/mls.xml, "Version 0.1"
                unwanted = True
                events.append(rejected(state.room, incoming, ProtocolTooOld("request")))
            elif against is not None:
                leaf = membership.encryption_key(client)
                place = incoming.archive_id
                events.append(JoinRequested(state.room, client.account, client.device, against, place, leaf))
        group = membership.group.apply(received, now=now)
        reference = received.sent.reference
        assert reference is not None
        with state.change(lasting=False) as change:  # as with a Commit, see `_accept_commit`
            change.put_group(group)
            if unwanted:
                change.put_unwanted(reference)
            change.put_record(record)
        return events

    def _against(
        self, membership: Membership, sent: SentProposal, client: ClientIdentity, now: int, when: int, *, unknown: bool
    ) -> str | None:
        """Why we do not by ourselves add a client that asks for it, None if nothing speaks against it.

        :param now: by our clock
        :param when: it asked, by the room's clock
        :param unknown: the Authentication Service cannot tell who it is
        """
        state, view = self._state, membership.view
        returns = returning_to(sent, view) is not None
        if not returns and not is_vouched_for(membership.group, view, sent, now):
            return "unproven" if membership.roster.has(client.account) else "stranger"
        if unknown and not returns:  # a returning client is as well known as before
            return "unknown"
        with state.store.transaction() as transaction:
            if rejoin_limit.is_too_often(transaction, state.spaces.arrivals, client.account, when):
                return "too-often"
        return None

    # --- Commits -------------------------------------------------------------------------------

    def _follow(self, followed: Followed, record: RoomRecord, now: int, when: int) -> list[Event]:
        """A Commit that we follow without the ratchet tree."""
        state, partial = self._state, self._state.require_partial()
        effects, staged, before = followed.effects, followed.staged, partial.group
        index = LeafIndex(effects.committer_index)
        if staged.next is None:
            leaf = before.tree.leaf(index)
            state.forget_group(replace(record, state=MembershipState.OUT), Evidence.REMOVED)
            return [RemovedFromGroup(state.room, None if leaf is None else Member.of(index, leaf), False)]
        changed = {change.index: change.after for change in effects.changes}
        inviter = LeafIndex(partial.whole_tree.inviter)
        group = before.apply(staged, now=now).carrying(before, changed, CARRIED, (inviter,))
        if changed.get(inviter, partial.inviter) is None:
            inviter = group.own_index  # gone: nobody stands for us any more, but administrators
        by = Member.of(index, group.tree.member(index))
        key = state.group_info_key
        if begins_key(effects, partial.policy, group.epoch):
            key = GroupInfoKey.of(group)
        with state.change() as change:
            change.begin_partial_epoch(group, RoomPolicy.required_in(group.context.extensions), key, inviter)
            epoch_log.note(change.transaction, state.spaces.epochs, group.epoch, by.identity, effects, when or now)
            change.put_record(record)
        return [_told(state.room, effects, group.epoch, by, now)]

    def _accept_commit(
        self, action: MoveOn, record: RoomRecord, now: int, judged: Iterable[Doubt], when: int = 0
    ) -> list[Event]:
        state, membership = self._state, self._state.require_member()
        staged = action.staged
        by = _committer(membership.group, staged)
        if action.roster is None or action.policy is None:
            wanted = _wants_out(membership.group)
            if action.readded and not wanted and not membership.actions.leave:
                # The others want us in the group.  Our leaf there is that of a KeyPackage whose keys are gone, or we
                # cannot follow the Welcome: we come back by a request (mls-recovery, "Rejoining").
                after, epoch = state.cursor, membership.group.epoch + 1
                lost = replace(record, state=MembershipState.LOST)
                state.forget_group(lost, Evidence.REMOVED, keep_messages=True, epoch=epoch)
                reason = "we were added afresh by a Welcome that we cannot follow"
                return [*action.events, GroupLost(state.room, reason, after)]
            gone = wanted or membership.actions.leave
            left = None if gone else KnownState.after(membership.view, membership.group.context, staged.effects)
            state.forget_group(replace(record, state=MembershipState.OUT), Evidence.REMOVED, left=left)
            return [*action.events, RemovedFromGroup(state.room, by, wanted)]

        group, committer = membership.group.apply(staged, now=now), by.identity
        doubt = membership.doubts.get(committer)
        events: list[Event] = [_told(state.room, staged.effects, group.epoch, by, now, doubt)]
        if group.closed is not None:
            events.append(GroupClosed(state.room, group.epoch, by, group.closed.cipher_suite))
        actions: dict[bytes, bytes | None] = {}
        if staged.own:
            actions = membership.actions.after_commit(
                staged.effects, action.roster, state.record.cursor, before=membership.policy, after=action.policy
            )
        else:
            events += [
                CommitLost(state.room, waiting.origin_id.decode(), "another Commit came first")
                for _, waiting in state.outbox
                if waiting.kind is OutboxKind.COMMIT and not waiting.refused
            ]
        group_info_key = key_after(state.group_info_key, staged.effects, membership.policy, group)
        # After a power cut, another member's Commit is read again from the room.  What we send in the new epoch lasts,
        # and with it the Commit, which was written before (store.interface).  What follows a Commit of ours is only in
        # the store.
        with state.change(lasting=staged.own) as change:
            change.begin_epoch(group, action.roster, action.policy, group_info_key)
            if group.own_leaf_key != membership.group.own_leaf_key:
                # In a split group, the others may have our leaf of before: it is by its return key that we come back.
                former = derive_return_key(group.suite, membership.group.own_leaf_key)
                change.put_former_key(group.suite.id, former, now)
            change.put_actions(actions)
            change.put_doubts(membership.doubts.after(staged.effects, judged))
            self._note(change.transaction, membership, staged.effects, now, when)
            epochs = state.spaces.epochs
            epoch_log.note(change.transaction, epochs, group.epoch, committer, staged.effects, when or now)
            change.put_record(record)
        return events

    def _note(self, transaction: Transaction, membership: Membership, effects: Effects, now: int, when: int) -> None:
        """What only the store keeps of a Commit: who came, with keys of which age, and by whose wish.

        :param now: by our clock
        :param when: the Commit came into the room, by the room's clock
        """
        spaces, own, came = self._state.spaces, self._device.identity, self._state.record.joined
        for change in effects.removed:
            if change.before is not None:
                transaction.delete(spaces.member, str(ClientIdentity.from_leaf(change.before)).encode())
        for change in effects.added:
            if change.after is not None:
                name = str(ClientIdentity.from_leaf(change.after)).encode()
                transaction.put(spaces.member, name, now.to_bytes(8, "big"))
        leaf_ages.note(transaction, spaces.renewed, effects, when, own, came, sent_in_epoch(membership))
        rejoin_limit.note(transaction, spaces.arrivals, effects, when)


def _commit_in(incoming: Incoming) -> bytes | None:
    """The MLSMessage of a Commit in a stanza; None if there is none, or it is elsewhere."""
    return next((each.data for each in incoming.payloads if isinstance(each, elements.Commit)), None)


def _neighbours(room: str, incoming: Incoming) -> list[Rejected]:
    """The events for elements that have been left out of a stanza."""
    return [rejected(room, incoming, error) for error in incoming.refused]


def _committer(group: Group, staged: StagedCommit) -> Member:
    effects = staged.effects
    for change in effects.changes:
        if change.index == effects.committer_index and change.after is not None:
            return Member.of(change.index, change.after)
    index = LeafIndex(effects.committer_index)  # a Commit without a path leaves the committer's leaf as it was
    return Member.of(index, group.tree.member(index))


def _wants_out(group: Group) -> bool:
    """Whether we have asked, in this epoch, to be removed."""
    me = MemberSender(group.own_index)
    return any(
        sent.sender == me and (isinstance(sent.proposal, SelfRemove) or sent.proposal == Remove(group.own_index))
        for sent in group.pending_proposals
    )


def _told(room: str, effects: Effects, epoch: int, by: Member, now: int, doubt: Doubt | None = None) -> GroupChanged:
    """The event of a Commit.  Without the ratchet tree, members whose place in it is not known are not named."""

    def members(changes: Sequence[MemberChange], *, after: bool) -> tuple[Member, ...]:
        found = ((change.index, change.after if after else change.before) for change in changes)
        return tuple(
            Member.of(index, leaf, now if after else None)
            for index, leaf in found
            if leaf is not None and index < UNKNOWN_PLACE
        )

    return GroupChanged(
        room=room,
        epoch=epoch,
        by=by,
        added=members(effects.added, after=True),
        removed=members(effects.removed, after=False),
        updated=members(effects.updated, after=True),
        policy_changed=effects.extensions is not None and not is_bookkeeping(effects.extensions),
        doubt=doubt,
    )


def _when(incoming: Incoming, now: int) -> int:
    """When a stanza came into the room, as far as the room says, in seconds since the Unix epoch."""
    return now if incoming.stamp is None else max(0, int(incoming.stamp))
