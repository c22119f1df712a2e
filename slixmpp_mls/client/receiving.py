"""From a room's stanzas to the group's state: what each means, and putting it into effect.

`examine` only looks; `accept` or `refuse` ends a stanza, and moves our place in the room past it in the same
transaction.  Between them the caller asks the Authentication Service about new leaves; see :mod:`.doubts`.

Being left behind.  A message of a later epoch than ours means that we lack a Commit, or that somebody has
written a number on a stanza; it can not be read, so MLS can not tell.  It counts if the room vouches that it is from
a member's account: then :class:`~.events.LeftBehind` says so, once per account and epoch.  Nothing is
given up for it.  Outsiders can not bring it about, and a room that lies gains no more than by keeping silent.

Being one's own past.  A message that we have signed, but that our state has not sent, says that the store is an
old copy.  This is all for which a stanza makes us give the group up (:class:`~.events.GroupLost`): its keys
would be used twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

from ..blob import BlobReference, RatchetTreeLocation
from ..errors import InvalidError, NotForUs, PeerError, StateRolledBack, UnknownGroup, WrongEpoch
from ..identity import ClientIdentity
from ..mls.effects import Effects, MemberChange
from ..mls.framing import MemberSender, NewMemberProposalSender
from ..mls.group import Group
from ..mls.joining import UnverifiedGroupInfo
from ..mls.leaf_node import LeafNode
from ..mls.message_processing import ReceivedMessage, ReceivedProposal
from ..mls.own_leaf import KeyPackageBundle
from ..mls.proposals import Add, Update
from ..mls.registry import ExtensionType
from ..mls.staging import StagedCommit
from ..mls.tree_math import LeafIndex
from ..mls.welcome import Welcome
from ..policy import RoomPolicy, check
from ..roster import Roster
from ..stanza import elements
from ..stanza.consistency import check as check_consistency
from ..stanza.elements import RoomElement
from ..store.interface import Transaction
from . import arrivals, leaf_ages
from .creating import Creating
from .doubts import Doubt, Doubts
from .entering import Entering
from .events import (
    CommitLost,
    Event,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    GroupLost,
    Joined,
    JoinRequested,
    LeftBehind,
    MessageReceived,
    MessageSent,
    Rejected,
    RemovedFromGroup,
    Unreadable,
)
from .inbox import as_record
from .kept import put_all, put_changes
from .member import Member
from .other_groups import OtherGroups
from .owed import Owed
from .records import OutboxKind, OutsideRecord, RoomRecord, RoomState
from .seen import mark, message_id
from .steps import Abandon, Begin, Enter, Ignore, Incoming, Join, MoveOn, Read, Remember, Sent, Step

__all__ = ["Receiving"]

_RULES = "urn:xmpp:mls:0 business rules"

_MARK = 16  # octets that stand for a group and an epoch
_COMMITS = 64  # of them remembered: a Commit that loses comes soon after the one that wins

_Framed = elements.Application | elements.Proposal | elements.Commit


class Receiving(Entering, Creating):
    """The receiving half of a room's group."""

    # --- examining -----------------------------------------------------------------------------

    def examine(self, incoming: Incoming, now: int) -> Step:
        """What a stanza means.  Changes nothing.

        :raises StoreError: the store failed
        """
        others = OtherGroups(self._store, self.device.parameters, self.room)
        try:
            if incoming.error is not None:
                raise incoming.error
            if self._group is None:
                return self._examine_outside(incoming, others)
            return self._examine_inside(incoming, now, others)
        except StateRolledBack as error:
            return Step(incoming, Abandon(str(error)))
        except PeerError as error:
            return Step(incoming, Ignore((self._rejected(incoming, error),)), awaits=others.awaited)

    def _rejected(self, incoming: Incoming, error: PeerError) -> Rejected:
        return Rejected(self.room, error, incoming.claimed, incoming.archive_id)

    def _examine_inside(self, incoming: Incoming, now: int, others: OtherGroups) -> Step:
        group = self.group
        for payload in incoming.payloads:
            if payload.group != group.group_id:
                return self._examine_other_group(incoming, payload, others)
            if not isinstance(payload, _Framed):
                continue
            number = self._outbox.of_message(payload.data)
            if number is not None:
                check_consistency(payload)
                return self._examine_own(incoming, number, others)
            if payload.epoch > group.epoch:
                return self._examine_ahead(incoming, payload)
            if isinstance(payload, elements.Application):
                return self._examine_application(incoming, payload, now)
            if isinstance(payload, elements.Proposal):
                return self._examine_proposal(incoming, payload, now)
            return self._examine_commit(incoming, payload, now, others)
        return Step(incoming, Ignore())

    def _examine_other_group(self, incoming: Incoming, payload: RoomElement, others: OtherGroups) -> Step:
        """The group that follows ours, if ours is closed; or one that we have left behind."""
        asked = self.group.closed
        if asked is not None and payload.group == asked.group_id:
            number = self._own_creation(incoming)
            if number is not None:
                return Step(incoming, Begin(number))
            step = self._find_welcome(incoming, others)
            if step is None:
                return Step(incoming, Ignore())
            if isinstance(step.action, Join):
                continues = step.action.staged.continues
                # RFC 9420 12.4.3.1 has been checked for what it continues: here, that it is our group.
                if continues is None or continues.psk_group_id != self.group.group_id:
                    raise InvalidError("a group that does not follow ours", "RFC 9420 11.2")
            return step
        with self._store.transaction() as transaction:
            left = transaction.get(self._spaces.ended, payload.group)
        if left is None:
            raise UnknownGroup("a message of another group", _RULES)
        if isinstance(payload, elements.Application):
            check_consistency(payload)
            who = incoming.claimed
            return Step(incoming, Ignore((Unreadable(self.room, "too-late", payload.epoch, who, incoming.archive_id),)))
        return Step(incoming, Ignore())

    def _own_creation(self, incoming: Incoming) -> bytes | None:
        """The number of a creation of ours that has come back."""
        for payload in incoming.payloads:
            if isinstance(payload, elements.Commit):
                number = self._outbox.of_message(payload.data)
                if number is not None and self._outbox[number].kind is OutboxKind.CREATION:
                    check_consistency(payload)
                    return number
        return None

    def _examine_own(self, incoming: Incoming, number: bytes, others: OtherGroups) -> Step:
        record = self._outbox[number]
        if record.kind is OutboxKind.COMMIT:
            try:
                return self._move_on(incoming, self._staged[number], others)
            except PeerError as error:  # made by software that did not ask
                return Step(incoming, Sent(number, CommitLost(self.room, record.origin_id.decode(), str(error))))
        event = None
        if record.kind is OutboxKind.APPLICATION:
            event = MessageSent(self.room, record.origin_id.decode(), incoming.archive_id, record.plaintext)
        return Step(incoming, Sent(number, event))

    def _examine_ahead(self, incoming: Incoming, payload: _Framed) -> Step:
        check_consistency(payload)
        events: list[Event] = []
        if isinstance(payload, elements.Application):
            events.append(self._unreadable(incoming, payload.epoch))
        who = incoming.claimed
        ahead: tuple[str, int] | None = None
        if who is not None and self.roster.has(who):
            ahead = who, payload.epoch + isinstance(payload, elements.Commit)
            if who not in self._ahead:
                events.append(LeftBehind(self.room, self.group.epoch, payload.epoch, who, incoming.archive_id))
        elif not events:
            raise WrongEpoch(f"epoch {payload.epoch}, not {self.group.epoch}", "RFC 9420 6")
        left_behind = any(isinstance(event, LeftBehind) for event in events)
        return Step(incoming, Ignore(tuple(events), ahead), gap=left_behind)

    def _examine_application(self, incoming: Incoming, payload: elements.Application, now: int) -> Step:
        message = check_consistency(payload)
        try:
            received = self.group.process(message, now=now)
        except NotForUs:
            return Step(incoming, Ignore())  # ours, sent before, reflected again
        except WrongEpoch:
            return Step(incoming, Ignore((self._unreadable(incoming, payload.epoch),)))
        assert isinstance(received, ReceivedMessage)
        # RFC 9420 9.1: generations count a sender's messages, and a room keeps their order.
        gap = received.epoch == self.group.epoch and received.missing > 0
        return Step(incoming, Read(received), gap=gap)

    def _unreadable(self, incoming: Incoming, epoch: int) -> Unreadable:
        if self._group is None:
            reason = "lost" if self.state is RoomState.LOST else "before-join"
        elif epoch < self._record.joined_epoch:
            reason = "before-join"
        else:
            reason = "too-late" if epoch < self._group.epoch else "future"
        return Unreadable(self.room, reason, epoch, incoming.claimed, incoming.archive_id)

    def _examine_proposal(self, incoming: Incoming, payload: elements.Proposal, now: int) -> Step:
        if payload.epoch < self.group.epoch:
            return Step(incoming, Ignore())  # its epoch is over: it has no effect any more
        try:
            received = self.group.process(check_consistency(payload), now=now)
        except NotForUs:
            return Step(incoming, Ignore())
        assert isinstance(received, ReceivedProposal)
        proposal = received.proposal
        if isinstance(received.sender, NewMemberProposalSender) and isinstance(proposal, Add):
            ClientIdentity.from_leaf(proposal.key_package.leaf_node)  # who names no client is not kept
        leaves: tuple[LeafNode, ...] = ()
        successions: tuple[tuple[LeafNode, LeafNode], ...] = ()
        if isinstance(proposal, Add):
            leaves = (proposal.key_package.leaf_node,)
        elif isinstance(proposal, Update):
            leaves = (proposal.leaf_node,)
            sender = received.sender
            assert isinstance(sender, MemberSender)
            successions = ((self.group.tree.member(LeafIndex(sender.leaf_index)), proposal.leaf_node),)
        return Step(incoming, Remember(received), leaves, successions)

    def _examine_commit(
        self, incoming: Incoming, payload: elements.Commit, now: int, others: OtherGroups
    ) -> Step:
        if payload.epoch < self.group.epoch:
            return Step(incoming, Ignore())  # rule 1: another Commit has ended that epoch
        try:
            staged = self.group.process(check_consistency(payload), now=now, psks=others.psk)
        except (StateRolledBack, NotForUs):
            raise
        except InvalidError as error:
            # A proposal that it refers to may be what is missing (RFC 9420 12.4.2).
            gap = others.awaited is None and incoming.claimed is not None and self.roster.has(incoming.claimed)
            return Step(incoming, Ignore((self._rejected(incoming, error),)), awaits=others.awaited, gap=gap)
        assert isinstance(staged, StagedCommit)
        return self._move_on(incoming, staged, others)

    def _move_on(self, incoming: Incoming, staged: StagedCommit, others: OtherGroups) -> Step:
        roster = check(self.policy, staged.effects, self.roster)
        if staged.next is None:
            return self._examine_removal(incoming, staged, others)
        policy = RoomPolicy.required_in(staged.next.context.extensions)
        leaves = () if staged.own else tuple(_new_leaves(staged.effects))
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
            back = self._find_welcome(incoming, others)
        except PeerError as error:
            reasons = (self._rejected(incoming, error),)
        join = None if back is None or not isinstance(back.action, Join) else back.action
        action = MoveOn(staged, None, None, join, reasons)
        return Step(incoming, action) if back is None else replace(back, action=action)

    def _examine_outside(self, incoming: Incoming, others: OtherGroups) -> Step:
        """We wait for a Welcome, or an external Commit of ours: one that is the first of its epoch in the room.

        Only members can tell whether a Commit is valid.  But one that came second has lost, and its Welcome
        would lead where nobody else goes.
        """
        number = self._own_creation(incoming)
        if number is not None:
            return Step(incoming, Begin(number))
        seen = _marks(self._record.commits)
        if not any(each in seen for each in _commits_in(incoming)):
            if self._is_entry(incoming):
                assert self._entry is not None
                leaves = (leaf for index, leaf in self._entry.members() if index != self._entry.own_index)
                return Step(incoming, Enter(self._entry), tuple(leaves))
            step = self._find_welcome(incoming, others)
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

    def _find_welcome(self, incoming: Incoming, others: OtherGroups) -> Step | None:
        for payload in incoming.payloads:
            if not isinstance(payload, elements.Welcome):
                continue
            welcome = check_consistency(payload).body
            assert isinstance(welcome, Welcome)
            with self._store.transaction() as transaction:
                references = [entry.new_member for entry in welcome.secrets]
                bundle = self.device.find_bundle(transaction, references)
            if bundle is not None:
                return self._examine_welcome(incoming, payload, welcome, bundle, others)
        return None

    def _examine_welcome(
        self,
        incoming: Incoming,
        payload: elements.Welcome,
        welcome: Welcome,
        bundle: KeyPackageBundle,
        others: OtherGroups,
    ) -> Step:
        info = Group.peek(welcome, bundle, psks=others.psk, groups=others.group)
        context = info.group_context
        if (context.group_id, context.epoch) != (payload.group, payload.epoch):
            raise InvalidError("a Welcome to another group or epoch than its element says", _RULES)
        policy = RoomPolicy.required_in(context.extensions)
        if policy.room != self.room:
            raise InvalidError("a Welcome to the group of another room", _RULES)
        with self._store.transaction() as transaction:
            self._check_group_id_is_new(transaction, context.group_id)
            self._check_epoch_is_new(transaction, context.group_id, context.epoch)
        if incoming.tree is None and (location := _tree_location(info)) is not None:
            return Step(incoming, Ignore(), tree_at=location)
        # The GroupInfo, of which only claims have been judged so far, is verified here.
        staged = Group.join(
            welcome,
            bundle,
            tree=incoming.tree,
            psks=others.psk,
            groups=others.group,
            identify=ClientIdentity.from_leaf,
            parameters=self.device.parameters,
        )
        state = staged.state
        roster = Roster.of(state.members())
        leaves = tuple(leaf for index, leaf in state.members() if index != state.own_index)
        return Step(incoming, Join(staged, bundle, roster, policy), leaves)

    # --- putting into effect -------------------------------------------------------------------

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
                self._end(replace(record, state=RoomState.LOST), keep_messages=True)
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
        if self._group is None:
            commits = b"".join(dict.fromkeys((*_marks(record.commits), *_commits_in(incoming))))
            record = replace(record, commits=commits[-_COMMITS * _MARK :])
        return record

    def _pass(
        self, record: RoomRecord, seen: OutsideRecord | None = None, *, confirmed: bytes | None = None
    ) -> None:
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
            if arrivals.is_too_often(transaction, self._spaces.arrivals, client.account, when):
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
            self._end(replace(record, state=RoomState.OUT))
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
            owed = self._owed.after_commit(
                staged.effects, self.group.own_index, action.roster, self._record.cursor
            )
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
            arrivals.note(transaction, spaces.arrivals, staged.effects, when)
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

    def _accept_join(
        self, action: Join, record: RoomRecord, now: int, judged: Iterable[Doubt]
    ) -> list[Event]:
        state = action.staged.state
        assert isinstance(state, Group)
        inviter = Member.of(action.staged.inviter, state.tree.member(action.staged.inviter))
        return self._arrive(state, action.roster, action.policy, record, now, judged, inviter, action.bundle)

    def _arrive(
        self,
        state: Group,
        roster: Roster,
        policy: RoomPolicy,
        record: RoomRecord,
        now: int,
        judged: Iterable[Doubt],
        inviter: Member | None = None,
        bundle: KeyPackageBundle | None = None,
    ) -> list[Event]:
        """We are in the group: by a Welcome for a KeyPackage of ours, or by our own Commit."""
        # Unsent application data was meant for the group's members: it stays if this is the same group.
        followed = self._group is not None and self._group.closed is not None
        same = followed or record.group_id == state.group_id
        owed = self._owed if followed else Owed()
        missed = self._missed(record)
        record = replace(
            record, state=RoomState.MEMBER, group_id=state.group_id, joined=now, joined_epoch=state.epoch, commits=b""
        )
        doubts = Doubts(judged)
        with self._transaction() as transaction:
            gone = self._clear(transaction, keep_messages=same)
            carried = self._carry_over(transaction) if followed else []
            put_all(transaction, self._spaces.owed, owed.entries)
            put_all(transaction, self._spaces.group, state.pieces())
            put_changes(transaction, self._spaces.doubt, dict(doubts.changes_since(Doubts())))
            seen = self._inside_again(transaction, b"" if bundle is None else bundle.reference)
            if bundle is not None:
                self.device.use_up(transaction, bundle, now)
            self._put_own_age(transaction, state, now, last_resort=bundle is not None and bundle.last_resort)
            self._put_record(transaction, record)
        events: list[Event] = [
            CommitLost(self.room, waiting.origin_id.decode(), "we were removed, and added afresh")
            for _, waiting in self._void()
            if waiting.kind is OutboxKind.COMMIT and not waiting.refused
        ]
        self._begin(state.stored(), roster, policy, record, doubts)
        self._outside, self._entry = seen, None
        self._owed = owed
        self._outbox.remove_all(gone)
        self._outbox.put_all(carried)
        if followed and inviter is not None:
            return [*events, GroupContinued(self.room, state.epoch, inviter, state.suite.id)]
        return [*events, Joined(self.room, state.epoch, inviter, missed)]


def _when(incoming: Incoming, now: int) -> int:
    """When a stanza came into the room, as far as the room says, in seconds since the Unix epoch."""
    return now if incoming.stamp is None else int(incoming.stamp)


def _tree_location(info: UnverifiedGroupInfo) -> BlobReference | None:
    """Where the ratchet tree is, unless it is inside.

    :raises MalformedError: at no place from which it could be fetched
    """
    if any(extension.extension_type == ExtensionType.RATCHET_TREE for extension in info.extensions):
        return None
    location = RatchetTreeLocation.found_in(info.extensions)
    return None if location is None else location.blob


def _commits_in(incoming: Incoming) -> list[bytes]:
    """Which epochs of which groups the Commits in a stanza would end."""
    return [
        sha256(payload.epoch.to_bytes(8, "big") + payload.group).digest()[:_MARK]
        for payload in incoming.payloads
        if isinstance(payload, elements.Commit)
    ]


def _marks(octets: bytes) -> list[bytes]:
    return [octets[start : start + _MARK] for start in range(0, len(octets), _MARK)]


def _new_leaves(effects: Effects) -> Iterator[LeafNode]:
    """Leaves whose credential or signature key has not been judged yet."""
    for change in effects.changes:
        before, after = change.before, change.after
        if after is None:
            continue
        if before is None or (before.credential, before.signature_key) != (after.credential, after.signature_key):
            yield after
