"""One room's group on this device: the order rules, and what is written when.

The rules (the XEP's "Business Rules"):

1. The room's order is the truth.  The first valid Commit for an epoch, in that order, ends it.
   Later ones for that epoch mean nothing, ours included.
2. Our own Commit takes effect when the room reflects it, not before.  Until then it waits, in the store.
3. What is sent has been stored, together with the state in which its key is used up.  It stays in
   the outbox until its reflection comes, known by the hash of its octets, and is sent again as it is
   after a reconnection that did not bring it.
4. Our place in the room (the archive id of the last stanza processed) is written with what the stanza changed.
5. What the room says of a sender is compared with the leaf and never believed.

States::

    INVITED ──Welcome──► MEMBER ──Commit that removes us──► OUT ──Welcome──► MEMBER
                           └── left behind ──► LOST ──Welcome──► MEMBER

Each call is one transaction.  If it raises, neither the store nor this object has changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from ..errors import (
    InvalidError,
    NotForUs,
    NotPermitted,
    PeerError,
    PolicyViolation,
    UnknownGroup,
    UsageError,
    WrongEpoch,
)
from ..mls.cipher_suite import CipherSuite
from ..mls.commit_creation import CommitBundle, CommitOptions
from ..mls.effects import Effects, MemberChange
from ..mls.framing import MemberSender
from ..mls.group import Group
from ..mls.leaf_node import LeafNode
from ..mls.message_processing import ReceivedMessage, ReceivedProposal
from ..mls.own_leaf import KeyPackageBundle
from ..mls.proposal_list import choose
from ..mls.proposals import Add, AnyProposal, Update
from ..mls.staging import StagedCommit
from ..mls.tree_math import LeafIndex
from ..mls.welcome import Welcome
from ..policy import RoomPolicy, check
from ..roster import Roster
from ..stanza import elements
from ..stanza.consistency import check as check_consistency
from ..stanza.elements import RoomElement
from ..store.interface import Transaction
from .device import Device
from .events import (
    CommitLost,
    Event,
    GroupChanged,
    GroupLost,
    Joined,
    MessageReceived,
    MessageSent,
    Rejected,
    RemovedFromGroup,
    Unreadable,
)
from .member import Member
from .outbox import Outbox
from .records import OutboxKind, OutboxRecord, RoomRecord, RoomState, spaces_of
from .steps import Ignore, Incoming, Join, MoveOn, Outgoing, Read, Remember, Sent, Step

__all__ = ["Fits", "RoomGroup"]

Fits = Callable[[Sequence[RoomElement]], None]
"""Raises StanzaTooLarge if these elements do not fit into a stanza."""

_ROOMS = "room"
_RULES = "urn:xmpp:mls:0 business rules"


class RoomGroup:
    """A room's group.

    :ivar room: bare JID
    """

    def __init__(self, device: Device, room: str) -> None:
        """Take up where the store says that we are; a room that it does not know is one we are invited to.

        :raises StoreError: the store failed
        """
        self.device = device
        self.room = room
        self._store = device.store
        self._group_space, self._pending_space, self._outbox_space, self._member_space = spaces_of(room)
        self._group: Group | None = None
        self._staged: StagedCommit | None = None
        self._outbox = Outbox()
        self._roster: Roster | None = None
        self._policy: RoomPolicy | None = None
        self._leaving = False
        with self._store.transaction() as transaction:
            self._load(transaction)

    def __repr__(self) -> str:
        return f"<RoomGroup {self.room} {self.state.name} {self._group!r}>"

    @staticmethod
    def known(device: Device) -> list[str]:
        """Bare JIDs of all rooms that the store knows."""
        with device.store.transaction() as transaction:
            return [key.decode() for key, _ in transaction.items(_ROOMS)]

    def _load(self, transaction: Transaction) -> None:
        value = transaction.get(_ROOMS, self.room.encode())
        self._record = (
            RoomRecord(RoomState.INVITED, b"", b"", 0, 0) if value is None else RoomRecord.decode(value)
        )
        if self._record.state is not RoomState.MEMBER:
            return
        group = Group.restore(transaction.items(self._group_space), self.device.parameters)
        self._group = group
        self._roster = Roster.of(group.members())
        self._policy = RoomPolicy.required_in(group.context.extensions)
        stored = transaction.items(self._outbox_space)
        self._outbox = Outbox((number, OutboxRecord.decode(octets)) for number, octets in stored)
        waiting = dict(transaction.items(self._pending_space))
        if waiting:
            self._staged = group.restore_staged(waiting)

    # --- what it is ----------------------------------------------------------------------------

    @property
    def state(self) -> RoomState:
        return self._record.state

    @property
    def cursor(self) -> str | None:
        """The archive id of the last stanza processed."""
        return self._record.cursor.decode() or None

    @property
    def group(self) -> Group:
        """The group's state.

        :raises UsageError: we are not in the group
        """
        if self._group is None:
            raise UsageError(f"not a member of the group in {self.room}")
        return self._group

    @property
    def policy(self) -> RoomPolicy:
        """The group's policy.

        :raises UsageError: we are not in the group
        """
        if self._policy is None:
            raise UsageError(f"not a member of the group in {self.room}")
        return self._policy

    @property
    def roster(self) -> Roster:
        """Who is at which leaf.

        :raises UsageError: we are not in the group
        """
        if self._roster is None:
            raise UsageError(f"not a member of the group in {self.room}")
        return self._roster

    @property
    def commit_waits(self) -> bool:
        """Whether a Commit of ours waits for its reflection."""
        return self._staged is not None

    @property
    def needs_commit(self) -> bool:
        """Whether proposals wait that we must commit before we send application data (RFC 9420 12.4)."""
        group = self._group
        return group is not None and bool(choose(group.pending_proposals, MemberSender(group.own_index)))

    def members(self) -> list[Member]:
        """The members, by leaf."""
        since: dict[bytes, int] = {}
        with self._store.transaction() as transaction:
            for key, value in transaction.items(self._member_space):
                since[key] = int.from_bytes(value, "big")
        return [
            replace(member, since=since.get(str(member).encode(), self._record.joined))
            for member in (Member.of(index, leaf) for index, leaf in self.group.members())
        ]

    # --- beginning -----------------------------------------------------------------------------

    def create(self, suite: int, policy: RoomPolicy, now: int) -> None:
        """Make the room's group, with us alone in it.

        :raises UsageError: we are in a group here already
        """
        if self._group is not None:
            raise UsageError(f"already a member of the group in {self.room}")
        bundle = self.device.make_key_package(CipherSuite.get(suite), now)
        group = Group.create(
            bundle,
            self.device.random(32),
            extensions=(policy.extension(),),
            parameters=self.device.parameters,
            random=self.device.random,
        )
        record = replace(
            self._record, state=RoomState.MEMBER, group_id=group.group_id, joined=now, joined_epoch=0
        )
        with self._store.transaction() as transaction:
            self._clear(transaction)
            _put_all(transaction, self._group_space, group.pieces())
            transaction.put(_ROOMS, self.room.encode(), record.encode())
        self._become(group.stored(), Roster.of(group.members()), policy, record)

    def _become(self, group: Group, roster: Roster, policy: RoomPolicy, record: RoomRecord) -> None:
        self._group, self._roster, self._policy, self._record = group, roster, policy, record
        self._staged, self._outbox, self._leaving = None, Outbox(), False

    def _clear(self, transaction: Transaction) -> None:
        for space in spaces_of(self.room):
            transaction.delete_prefix(space)

    # --- receiving -----------------------------------------------------------------------------

    def examine(self, incoming: Incoming, now: int) -> Step:
        """What a stanza means.  Changes nothing."""
        try:
            if incoming.error is not None:
                raise incoming.error
            if self._group is None:
                return self._examine_outside(incoming, now)
            return self._examine_inside(incoming, now)
        except PeerError as error:
            return self._rejected(incoming, error)

    def _rejected(self, incoming: Incoming, error: PeerError) -> Step:
        return Step(incoming, Ignore((Rejected(self.room, error, incoming.claimed, incoming.archive_id),)))

    def _examine_inside(self, incoming: Incoming, now: int) -> Step:
        group = self.group
        for payload in incoming.payloads:
            number = self._outbox.of_message(payload.data)
            if number is not None:
                return self._examine_own(incoming, number, now)
            if payload.group != group.group_id:
                raise UnknownGroup("a message of another group", _RULES)
            if isinstance(payload, elements.Application):
                return self._examine_application(incoming, payload, now)
            if isinstance(payload, elements.Proposal):
                return self._examine_proposal(incoming, payload, now)
            if isinstance(payload, elements.Commit):
                return self._examine_commit(incoming, payload, now)
        return Step(incoming, Ignore())

    def _examine_own(self, incoming: Incoming, number: bytes, now: int) -> Step:
        record = self._outbox[number]
        if record.kind is OutboxKind.COMMIT:
            assert self._staged is not None
            return self._move_on(incoming, self._staged)
        event = None
        if record.kind is OutboxKind.APPLICATION:
            event = MessageSent(self.room, record.origin_id.decode(), incoming.archive_id, record.plaintext)
        return Step(incoming, Sent(number, event))

    def _examine_application(self, incoming: Incoming, payload: elements.Application, now: int) -> Step:
        message = check_consistency(payload)
        try:
            received = self.group.process(message, now=now)
        except NotForUs:
            return Step(incoming, Ignore())  # ours, sent before, reflected again
        except WrongEpoch:
            return Step(incoming, Ignore((self._unreadable(incoming, payload.epoch),)))
        assert isinstance(received, ReceivedMessage)
        return Step(incoming, Read(received))

    def _unreadable(self, incoming: Incoming, epoch: int) -> Unreadable:
        if self._group is None or epoch < self._record.joined_epoch:
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
        leaves: tuple[LeafNode, ...] = ()
        if isinstance(proposal, Add):
            leaves = (proposal.key_package.leaf_node,)
        elif isinstance(proposal, Update):
            leaves = (proposal.leaf_node,)
        return Step(incoming, Remember(received), leaves)

    def _examine_commit(self, incoming: Incoming, payload: elements.Commit, now: int) -> Step:
        if payload.epoch < self.group.epoch:
            return Step(incoming, Ignore())  # rule 1: another Commit has ended that epoch
        staged = self.group.process(check_consistency(payload), now=now)
        assert isinstance(staged, StagedCommit)
        return self._move_on(incoming, staged)

    def _move_on(self, incoming: Incoming, staged: StagedCommit) -> Step:
        roster = check(self.policy, staged.effects, self.roster)
        policy: RoomPolicy | None = None
        if staged.next is not None:
            policy = RoomPolicy.required_in(staged.next.context.extensions)
        leaves = () if staged.own else tuple(_new_leaves(staged.effects))
        return Step(incoming, MoveOn(staged, None if staged.removes_us else roster, policy), leaves)

    def _examine_outside(self, incoming: Incoming, now: int) -> Step:
        """We wait for a Welcome."""
        events: list[Event] = []
        for payload in incoming.payloads:
            if isinstance(payload, elements.Application):
                events.append(self._unreadable(incoming, payload.epoch))
            if not isinstance(payload, elements.Welcome):
                continue
            welcome = check_consistency(payload).body
            assert isinstance(welcome, Welcome)
            with self._store.transaction() as transaction:
                references = [entry.new_member for entry in welcome.secrets]
                bundle = self.device.find_bundle(transaction, references)
            if bundle is not None:
                return self._examine_welcome(incoming, payload, welcome, bundle)
        return Step(incoming, Ignore(tuple(events)))

    def _examine_welcome(
        self, incoming: Incoming, payload: RoomElement, welcome: Welcome, bundle: KeyPackageBundle
    ) -> Step:
        staged = Group.join(welcome, bundle, parameters=self.device.parameters)
        state = staged.state
        if (state.group_id, state.epoch) != (payload.group, payload.epoch):
            raise InvalidError("a Welcome to another group or epoch than its element says", _RULES)
        policy = RoomPolicy.required_in(state.context.extensions)
        if policy.room != self.room:
            raise InvalidError("a Welcome to the group of another room", _RULES)
        self._check_group_id_is_new(state.group_id)
        roster = Roster.of(state.members())
        leaves = tuple(leaf for index, leaf in state.members() if index != state.own_index)
        return Step(incoming, Join(staged, bundle, roster, policy), leaves)

    def _check_group_id_is_new(self, group_id: bytes) -> None:
        """RFC 9420 12.4.3.1: a group id is unique among our groups."""
        with self._store.transaction() as transaction:
            for key, value in transaction.items(_ROOMS):
                record = RoomRecord.decode(value)
                member = record.state is RoomState.MEMBER and key != self.room.encode()
                if member and record.group_id == group_id:
                    raise InvalidError("a Welcome to a group that another room has", "RFC 9420 12.4.3.1")

    # --- accepting -----------------------------------------------------------------------------

    def accept(self, step: Step, now: int) -> list[Event]:
        """Put a step into effect, and move our place in the room past its stanza.

        :raises StoreError: nothing has been written, nothing has changed; the step can be tried again
        """
        record = replace(self._record, cursor=step.incoming.archive_id.encode())
        match step.action:
            case Ignore(events):
                return self._pass(record, list(events))
            case Sent(number, event):
                return self._pass(record, [event] if event is not None else [], confirmed=number)
            case Read(received):
                group = self.group.apply(received, now=now)
                self._write(group, record)
                return [self._message(step.incoming, received)]
            case Remember(received):
                self._write(self.group.apply(received, now=now), record)
                return []
            case MoveOn():
                return self._accept_commit(step.action, record, now)
            case Join():
                return self._accept_join(step.action, record, now)

    def refuse(self, step: Step, error: PeerError) -> list[Event]:
        """Pass over a step that the Authentication Service or the application does not accept.

        :raises StoreError: nothing has been written
        """
        record = replace(self._record, cursor=step.incoming.archive_id.encode())
        return self._pass(
            record, [Rejected(self.room, error, step.incoming.claimed, step.incoming.archive_id)]
        )

    def _pass(
        self, record: RoomRecord, events: list[Event], confirmed: bytes | None = None
    ) -> list[Event]:
        with self._store.transaction() as transaction:
            transaction.put(_ROOMS, self.room.encode(), record.encode())
            if confirmed is not None:
                transaction.delete(self._outbox_space, confirmed)
        self._record = record
        if confirmed is not None:
            self._outbox.remove(confirmed)
        return events

    def _write(self, group: Group, record: RoomRecord) -> None:
        """One step inside an epoch: what it changed, and our place."""
        with self._store.transaction() as transaction:
            _put_changes(transaction, self._group_space, group.changes_since(self.group))
            transaction.put(_ROOMS, self.room.encode(), record.encode())
        self._group, self._record = group.stored(), record

    def _message(self, incoming: Incoming, received: ReceivedMessage) -> MessageReceived:
        return MessageReceived(
            room=self.room,
            sender=Member.of(received.sender, received.leaf),
            data=received.data,
            epoch=received.epoch,
            claimed=incoming.claimed,
            archive_id=incoming.archive_id,
            origin_id=incoming.origin_id,
            stamp=incoming.stamp,
        )

    def _accept_commit(self, action: MoveOn, record: RoomRecord, now: int) -> list[Event]:
        staged = action.staged
        by = self._committer(staged)
        if action.roster is None or action.policy is None:
            wanted = self._leaving
            self._end(replace(record, state=RoomState.OUT))
            return [RemovedFromGroup(self.room, by, wanted)]

        group = self.group.apply(staged, now=now)
        events: list[Event] = [self._changed(staged, group, by, now)]
        # What was made for the epoch that ends and has not come back has lost its meaning,
        # but for application data, which may still arrive and be read.
        void = [number for number, waiting in self._outbox if waiting.kind is not OutboxKind.APPLICATION]
        for number in void:
            waiting = self._outbox[number]
            if waiting.kind is OutboxKind.COMMIT and not staged.own:
                reason = "another Commit came first"
                events.append(CommitLost(self.room, waiting.origin_id.decode(), reason))
        with self._store.transaction() as transaction:
            _put_changes(transaction, self._group_space, group.changes_since(self.group))
            transaction.delete_prefix(self._pending_space)
            for number in void:
                transaction.delete(self._outbox_space, number)
            self._note_members(transaction, staged.effects, now)
            transaction.put(_ROOMS, self.room.encode(), record.encode())
        self._group, self._record = group.stored(), record
        self._roster, self._policy = action.roster, action.policy
        self._staged = None
        for number in void:
            self._outbox.remove(number)
        return events

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
        for change in effects.removed:
            if change.before is not None:
                transaction.delete(self._member_space, str(Member.of(change.index, change.before)).encode())
        for change in effects.added:
            if change.after is not None:
                name = str(Member.of(change.index, change.after)).encode()
                transaction.put(self._member_space, name, now.to_bytes(8, "big"))

    def _accept_join(self, action: Join, record: RoomRecord, now: int) -> list[Event]:
        state = action.staged.state
        assert isinstance(state, Group)
        record = replace(
            record, state=RoomState.MEMBER, group_id=state.group_id, joined=now, joined_epoch=state.epoch
        )
        with self._store.transaction() as transaction:
            self._clear(transaction)
            _put_all(transaction, self._group_space, state.pieces())
            self.device.use_up(transaction, action.bundle, now)
            transaction.put(_ROOMS, self.room.encode(), record.encode())
        self._become(state.stored(), action.roster, action.policy, record)
        inviter = Member.of(action.staged.inviter, state.tree.member(action.staged.inviter))
        return [Joined(self.room, state.epoch, inviter)]

    def _end(self, record: RoomRecord) -> None:
        """Forget the group."""
        with self._store.transaction() as transaction:
            self._clear(transaction)
            transaction.put(_ROOMS, self.room.encode(), record.encode())
        self._group = self._roster = self._policy = self._staged = None
        self._outbox, self._record, self._leaving = Outbox(), record, False

    def give_up(self, reason: str | None = None) -> list[Event]:
        """Forget the group's keys.

        :param reason: why we can not follow it any more; None if we left by ourselves
        """
        if reason is None:
            self._end(replace(self._record, state=RoomState.OUT))
            return [RemovedFromGroup(self.room, None, wanted=True)]
        self._end(replace(self._record, state=RoomState.LOST))
        return [GroupLost(self.room, reason)]

    def seek(self, cursor: str | None) -> None:
        """Set our place in the room, before anything is read from it: just before a Welcome, say.

        :raises UsageError: we are in the group, whose every stanza counts
        """
        if self._group is not None:
            raise UsageError("a member does not skip what is in the room")
        self._pass(replace(self._record, cursor=(cursor or "").encode()), [])

    # --- sending -------------------------------------------------------------------------------

    def compose(self, data: bytes, *, fits: Fits | None = None, origin_id: str | None = None) -> Outgoing:
        """Encrypt application data; it is in the outbox when this returns.

        :param data: the plaintext
        :raises UsageError: not a member, or proposals wait that must be committed first
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        message, group = self.group.encrypt(data, random=self.device.random)
        record = self._outbox_record(OutboxKind.APPLICATION, message, origin_id, plaintext=data)
        return self._put_out(group, record, fits)

    def propose(self, proposal: AnyProposal, now: int, *, leaving: bool = False) -> Outgoing:
        """Propose something; any member may commit it.

        :param leaving: that it is our own removal
        :raises NotPermitted: the group's policy forbids it
        """
        message, group = self.group.propose(proposal, now=now, random=self.device.random)
        outgoing = self._put_out(group, self._outbox_record(OutboxKind.PROPOSAL, message), None)
        self._leaving = self._leaving or leaving
        return outgoing

    def propose_update(self, now: int) -> Outgoing:
        """RFC 9420 12.1.2: propose a new leaf for ourselves."""
        message, group = self.group.propose_update(now=now, random=self.device.random)
        return self._put_out(group, self._outbox_record(OutboxKind.PROPOSAL, message), None)

    def commit(
        self,
        proposals: Sequence[AnyProposal],
        now: int,
        *,
        fits: Fits | None = None,
        options: CommitOptions | None = None,
    ) -> Outgoing:
        """Commit these proposals, and those that wait; rule 2 says when it takes effect.

        :raises UsageError: not a member, or a Commit of ours waits already
        :raises NotPermitted: the group's policy forbids it
        :raises InvalidError: the proposals are not valid together
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        if self._staged is not None:
            raise UsageError("a Commit of ours waits already")
        bundle = self.group.commit(proposals, now=now, options=options, random=self.device.random)
        try:
            check(self.policy, bundle.staged.effects, self.roster)
        except PolicyViolation as error:
            raise NotPermitted(f"the group's policy: {error}") from error
        assert isinstance(bundle.sent, Group)
        record = self._outbox_record(
            OutboxKind.COMMIT, bundle.commit, welcome=bundle.welcome or b"", group_info=bundle.group_info or b""
        )
        outgoing = self._put_out(bundle.sent, record, fits, bundle)
        self._staged = bundle.staged
        return outgoing

    def _outbox_record(
        self,
        kind: OutboxKind,
        message: bytes,
        origin_id: str | None = None,
        *,
        welcome: bytes = b"",
        group_info: bytes = b"",
        plaintext: bytes = b"",
    ) -> OutboxRecord:
        return OutboxRecord(
            kind=kind,
            origin_id=(origin_id or str(uuid.uuid4())).encode(),
            digest=sha256(message).digest(),
            epoch=self.group.epoch,
            message=message,
            welcome=welcome,
            group_info=group_info,
            plaintext=plaintext,
            attempts=0,
        )

    def _put_out(
        self, group: Group, record: OutboxRecord, fits: Fits | None, bundle: CommitBundle | None = None
    ) -> Outgoing:
        """Rule 3: state and message in one transaction."""
        outgoing = self._outgoing(record)
        if fits is not None:
            fits(outgoing.payloads)
        number = self._outbox.next_number()
        with self._store.transaction() as transaction:
            _put_changes(transaction, self._group_space, group.changes_since(self.group))
            transaction.put(self._outbox_space, number, record.encode())
            if bundle is not None:
                _put_all(transaction, self._pending_space, group.staged_pieces(bundle.staged))
        self._group = group.stored()
        self._outbox.put(number, record)
        return outgoing

    def _outgoing(self, record: OutboxRecord) -> Outgoing:
        group_id, epoch = self.group.group_id, record.epoch
        payloads: list[RoomElement] = []
        match record.kind:
            case OutboxKind.APPLICATION:
                payloads.append(elements.Application(group_id, epoch, record.message))
            case OutboxKind.PROPOSAL:
                payloads.append(elements.Proposal(group_id, epoch, record.message))
            case OutboxKind.COMMIT:
                payloads.append(elements.Commit(group_id, epoch, record.message))
                if record.welcome:
                    payloads.append(elements.Welcome(group_id, epoch + 1, record.welcome))
                if record.group_info:
                    payloads.append(elements.GroupInfo(group_id, epoch + 1, record.group_info))
        return Outgoing(record.origin_id.decode(), record.kind, tuple(payloads))

    def outstanding_ids(self) -> frozenset[str]:
        """Origin ids of what has not come back."""
        return frozenset(record.origin_id.decode() for _, record in self._outbox)

    def outstanding(self) -> Iterator[Outgoing]:
        """What has not come back, oldest first: to be sent again once the archive has been read to its end.

        Application data of an epoch that has ended is encrypted anew: what has not come back by then
        was not delivered, and others might have deleted its epoch's keys.
        """
        for number, record in self._outbox:
            if record.kind is OutboxKind.APPLICATION and record.epoch < self.group.epoch:
                if self.needs_commit:
                    continue  # it goes out after the Commit
                record = self._encrypt_anew(number, record)
            yield self._outgoing(record)

    def _encrypt_anew(self, number: bytes, record: OutboxRecord) -> OutboxRecord:
        message, group = self.group.encrypt(record.plaintext, random=self.device.random)
        record = replace(
            record,
            message=message,
            digest=sha256(message).digest(),
            epoch=group.epoch,
            attempts=record.attempts + 1,
        )
        with self._store.transaction() as transaction:
            _put_changes(transaction, self._group_space, group.changes_since(self.group))
            transaction.put(self._outbox_space, number, record.encode())
        self._group = group.stored()
        self._outbox.put(number, record)
        return record

    def bounced(self, origin_id: str, reason: str) -> list[Event]:
        """The room has refused a message of ours: it is dropped, a Commit with it."""
        number = self._outbox.of_origin_id(origin_id)
        if number is None:
            return []
        is_commit = self._outbox[number].kind is OutboxKind.COMMIT
        with self._store.transaction() as transaction:
            transaction.delete(self._outbox_space, number)
            if is_commit:
                transaction.delete_prefix(self._pending_space)
        self._outbox.remove(number)
        if not is_commit:
            return []
        self._staged = None
        return [CommitLost(self.room, origin_id, reason)]

    def tidy(self, now: int) -> None:
        """Forget ended epochs whose time is over (RFC 9420 9.2)."""
        if self._group is not None:
            group = self._group.forget_past(now=now)
            if group is not self._group:
                self._write(group, self._record)


def _new_leaves(effects: Effects) -> Iterator[LeafNode]:
    """Leaves whose credential or signature key has not been judged yet."""
    for change in effects.changes:
        before, after = change.before, change.after
        if after is None:
            continue
        if before is None or (before.credential, before.signature_key) != (after.credential, after.signature_key):
            yield after


def _put_all(transaction: Transaction, space: str, values: Mapping[bytes, bytes]) -> None:
    for key, value in values.items():
        transaction.put(space, key, value)


def _put_changes(transaction: Transaction, space: str, values: Mapping[bytes, bytes | None]) -> None:
    for key, value in values.items():
        if value is None:
            transaction.delete(space, key)
        else:
            transaction.put(space, key, value)
