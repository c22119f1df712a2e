"""Putting into effect what a room's stanzas mean.

`examine` (:mod:`.processing`) only looks; `accept` or `refuse` ends a stanza, and moves our place in the room past it
in
the same transaction.  Between them the caller asks the Authentication Service about new leaves; see
:mod:`slixmpp_mls.client.storage.doubts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...errors import InvalidError, PeerError
from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects, MemberChange
from ...mls.group.group import Group
from ...mls.group.message_processing import ReceivedMessage, ReceivedProposal
from ...mls.group.staging import StagedCommit
from ...mls.structures.framing import NewMemberProposalSender
from ...mls.structures.proposals import Add
from ...mls.tree.tree_math import LeafIndex
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ...store.interface import Transaction
from ..events import (
    CommitLost,
    Event,
    GroupChanged,
    GroupClosed,
    GroupLost,
    JoinRequested,
    MessageReceived,
    RemovedFromGroup,
    as_record,
)
from ..member import Member
from ..storage import leaf_ages, rejoin_limit
from ..storage.doubts import Doubt
from ..storage.duplicate_filter import mark, message_id
from ..storage.records import MembershipState, OutboxKind, OutsideRecord, RoomRecord
from .actions import Abandon, Begin, Enter, Ignore, Incoming, Join, MoveOn, Read, Remember, Sent, Step
from .processing import Examining
from .room_state import put_changes

__all__ = ["Receiving"]


class Receiving(Examining):
    """The receiving half of a room's group."""

    def accept(self, step: Step, now: int, doubts: Iterable[Doubt] = ()) -> list[Event]:
        """Put a step into effect, and move our place in the room past its stanza.

        A proposal that brings a leaf which the Authentication Service denies is kept, as others might commit it,
        but not for a Commit of ours.

        :param doubts: about the step's new leaves
        :raises StoreError: nothing has been written, nothing has changed; the step can be tried again
        """
        record = self._past(step.incoming)
        match step.action:
            case Ignore(events, _) if self._group is None:
                return [*events, *self._pass_outside(step.incoming, record)]
            case Ignore(events, ahead):
                self._pass(record)
                if ahead is not None:
                    self._ahead.pop(ahead[0], None)
                    self._ahead.update([ahead])
                return list(events)
            case Sent(number, event):
                self._pass(record, confirmed=number)
                return [] if event is None else [event]
            case Begin(number):
                return self._accept_creation(number, record, now)
            case Read(received):
                return self._accept_message(step.incoming, received, record, now)
            case Remember(received):
                return self._accept_proposal(step.incoming, received, record, now, doubts)
            case Abandon(reason):
                after = self.cursor
                self._end(replace(record, state=MembershipState.LOST), keep_messages=True)
                return [GroupLost(self.room, reason, after)]
            case Enter(state):
                roster = Roster.of(state.members())
                policy = RoomPolicy.required_in(state.context.extensions)
                return self._arrive(state, roster, policy, record, now, doubts)
            case Join() as join:
                return self._accept_join(join, record, now, doubts)
            case MoveOn(join=Join() as join):
                # Removal and return at once: when our place is past the stanza, nobody reads the Welcome any more.
                return self._accept_join(join, record, now, doubts)
            case MoveOn() as move:
                return self._accept_commit(move, record, now, doubts, _when(step.incoming, now))

    def refuse(self, step: Step, error: PeerError) -> list[Event]:
        """Pass over a Welcome that can not be followed.

        If the same Commit removes us, that has been decided by others; refused is only the way back.

        :raises StoreError: nothing has been written
        """
        record = self._past(step.incoming)
        events: list[Event] = [self._rejected(step.incoming, error)]
        match step.action:
            case MoveOn(roster=None):
                action = replace(step.action, join=None)
                return [*events, *self._accept_commit(action, record, 0, ())]
            case _ if self._group is None:
                events += self._pass_outside(step.incoming, record)
            case _:
                self._pass(record)
        return events

    def _past(self, incoming: Incoming) -> RoomRecord:
        """Our record, with our place behind this stanza."""
        record = replace(self._record, cursor=incoming.archive_id.encode())
        return self._with_commits(record, incoming) if self._group is None else record

    def _pass(self, record: RoomRecord, seen: OutsideRecord | None = None, *, confirmed: bytes | None = None) -> None:
        with self._transaction() as transaction:
            self._put_record(transaction, record)
            if confirmed is not None:
                transaction.delete(self._spaces.outbox, confirmed)
            if seen is not None and seen != self._outside:
                self._put_outside(transaction, seen)
        self._record, self._outside = record, self._outside if seen is None else seen
        if confirmed is not None:
            self._outbox.remove(confirmed)

    def _pass_outside(self, incoming: Incoming, record: RoomRecord) -> list[Event]:
        """A stanza that does not let us in, but tells something of the group; perhaps that our own Commit has lost."""
        seen = self._observed(incoming)
        if self._entry is None or (seen.group_id, seen.epoch) == (self._outside.group_id, self._outside.entry_epoch):
            self._pass(record, seen)
            return []
        lost = CommitLost(self.room, seen.entry_id.decode(), "another Commit came first")
        self._drop_entry(seen, record)
        return [lost]

    def _against(self, client: ClientIdentity, when: int) -> str | None:
        """Why we do not by ourselves add a client that asks for it, None if nothing speaks against it."""
        if not self.roster.has(client.account):
            return "stranger"
        with self._store.transaction() as transaction:
            if rejoin_limit.is_too_often(transaction, self._spaces.arrivals, client.account, when):
                return "too-often"
        return None

    def _accept_message(
        self, incoming: Incoming, received: ReceivedMessage, record: RoomRecord, now: int
    ) -> list[Event]:
        group = self.group.apply(received, now=now)
        sender = Member.of(received.sender, received.leaf)
        identifier = message_id(received.authenticated_data)
        seen = None if identifier is None else mark(sender.identity, identifier)
        if seen is not None and seen in self._seen:
            self._write(group, record)
            return []  # encrypted anew by its sender, and both have arrived
        message = MessageReceived(
            room=self.room,
            sender=sender,
            data=received.data,
            epoch=received.epoch,
            claimed=incoming.claimed,
            archive_id=incoming.archive_id,
            origin_id=incoming.origin_id if identifier is None else identifier,
            stamp=incoming.stamp,
            occupant=incoming.occupant,
            clear=incoming.clear,
            removed=self.roster.leaf_of(sender.identity) is None,
            number=self._inbox.next_number(),
            missing=received.missing,
        )
        number = record.seen
        if seen is not None:
            record = replace(record, seen=number + 1)
        with self._transaction() as transaction:
            put_changes(transaction, self._spaces.group, group.changes_since(self.group))
            transaction.put(self._spaces.inbox, message.number, as_record(message, now).encode())
            if seen is not None:
                transaction.put(self._spaces.seen, self._seen.place(number), seen)
            self._put_record(transaction, record)
        self._group, self._record = group.stored(), record
        self._inbox.put(message.number)
        if seen is not None:
            self._seen.put(number, seen)
        return [message]

    def _accept_proposal(
        self, incoming: Incoming, received: ReceivedProposal, record: RoomRecord, now: int, doubts: Iterable[Doubt]
    ) -> list[Event]:
        """Keep it; if it is not for a Commit of ours, say so.

        What an outsider wishes for itself (RFC 9420 12.1.8) is for us to commit if its account has a client in the
        group.  That somebody is in the room, on the word of the room, does not get it into the group.
        """
        events: list[Event] = []
        unwanted = False
        denial = next((doubt for doubt in doubts if doubt.denied), None)
        if denial is not None:
            reason = f"the Authentication Service denies {denial.client}: {denial.text}"
            events.append(self._rejected(incoming, InvalidError(reason, "RFC 9420 5.3.1")))
            unwanted = True
        elif isinstance(received.sender, NewMemberProposalSender) and isinstance(received.proposal, Add):
            client = ClientIdentity.from_leaf(received.proposal.key_package.leaf_node)  # judged in `examine`
            against = self._against(client, _when(incoming, now))
            unwanted = against is not None or client == self.device.identity  # of ourselves, others must judge
            if against is not None:
                events.append(JoinRequested(self.room, client.account, client.device, against, incoming.archive_id))
        group = self.group.apply(received, now=now)
        reference = received.sent.reference
        assert reference is not None
        with self._transaction() as transaction:
            put_changes(transaction, self._spaces.group, group.changes_since(self.group))
            if unwanted:
                transaction.put(self._spaces.unwanted, reference, b"")
            self._put_record(transaction, record)
        self._group, self._record = group.stored(), record
        if unwanted:
            self._unwanted |= {reference}
        return events

    def _accept_commit(
        self, action: MoveOn, record: RoomRecord, now: int, judged: Iterable[Doubt], when: int = 0
    ) -> list[Event]:
        staged = action.staged
        by = self._committer(staged)
        if action.roster is None or action.policy is None:
            wanted = self._wants_out()
            self._end(replace(record, state=MembershipState.OUT))
            return [*action.events, RemovedFromGroup(self.room, by, wanted)]

        group = self.group.apply(staged, now=now)
        doubts = self._doubts.after(staged.effects, judged)
        void = list(self._void())
        events: list[Event] = [self._changed(staged, group, by, now)]
        if group.closed is not None:
            events.append(GroupClosed(self.room, group.epoch, by, group.closed.cipher_suite))
        if not staged.own:
            events += [
                CommitLost(self.room, waiting.origin_id.decode(), "another Commit came first")
                for _, waiting in void
                if waiting.kind is OutboxKind.COMMIT and not waiting.refused
            ]
        owed: dict[bytes, bytes | None] = {}
        if staged.own:
            owed = self._owed.after_commit(staged.effects, self.group.own_index, action.roster, self._record.cursor)
        spaces = self._spaces
        with self._transaction() as transaction:
            put_changes(transaction, spaces.group, group.changes_since(self.group))
            put_changes(transaction, spaces.owed, owed)
            transaction.delete_prefix(spaces.pending)
            transaction.delete_prefix(spaces.unwanted)
            for number, _ in void:
                transaction.delete(spaces.outbox, number)
            self._note_members(transaction, staged.effects, now)
            self._note_ages(transaction, staged.effects, when)
            self._put_doubts(transaction, doubts)
            rejoin_limit.note(transaction, spaces.arrivals, staged.effects, when)
            self._put_record(transaction, record)
        self._begin(group.stored(), action.roster, action.policy, record, doubts)
        self._owed = self._owed.changed(owed)
        self._outbox.remove_all(number for number, _ in void)
        return events

    def reconsider(self, asked: Iterable[ClientIdentity], answers: Iterable[Doubt]) -> None:
        """The Authentication Service has been asked about members again.

        :param asked: those whose leaves are still the same
        :param answers: about those of them for whom it does not vouch
        :raises StoreError: nothing has changed
        """
        doubts = self._doubts.reconsidered(asked, answers)
        if doubts != self._doubts:
            with self._store.transaction() as transaction:
                self._put_doubts(transaction, doubts)
            self._doubts = doubts

    def _committer(self, staged: StagedCommit) -> Member:
        effects = staged.effects
        for change in effects.changes:
            if change.index == effects.committer_index and change.after is not None:
                return Member.of(change.index, change.after)
        index = LeafIndex(effects.committer_index)  # a Commit without a path leaves the committer's leaf as it was
        return Member.of(index, self.group.tree.member(index))

    def _changed(self, staged: StagedCommit, group: Group, by: Member, now: int) -> GroupChanged:
        effects = staged.effects

        def members(changes: Sequence[MemberChange], *, after: bool) -> tuple[Member, ...]:
            found = ((change.index, change.after if after else change.before) for change in changes)
            return tuple(Member.of(index, leaf, now if after else None) for index, leaf in found if leaf is not None)

        return GroupChanged(
            room=self.room,
            epoch=group.epoch,
            by=by,
            added=members(effects.added, after=True),
            removed=members(effects.removed, after=False),
            updated=members(effects.updated, after=True),
            policy_changed=effects.extensions is not None,
        )

    def _note_members(self, transaction: Transaction, effects: Effects, now: int) -> None:
        space = self._spaces.member
        for change in effects.removed:
            if change.before is not None:
                transaction.delete(space, str(ClientIdentity.from_leaf(change.before)).encode())
        for change in effects.added:
            if change.after is not None:
                name = str(ClientIdentity.from_leaf(change.after)).encode()
                transaction.put(space, name, now.to_bytes(8, "big"))

    def _note_ages(self, transaction: Transaction, effects: Effects, when: int) -> None:
        own, came = self.device.identity, self._record.joined
        leaf_ages.note(transaction, self._spaces.renewed, effects, when, own, came, self._sent_in_epoch())


def _when(incoming: Incoming, now: int) -> int:
    """When a stanza came into the room, as far as the room says, in seconds since the Unix epoch."""
    return now if incoming.stamp is None else int(incoming.stamp)
