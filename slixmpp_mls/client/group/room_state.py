"""What is kept of a room: the same in memory and in the store.

Everything that changes a room's group goes through here, in the same order: one transaction writes all
that the step changes, and only when it has ended does the object change.  If the store fails, neither has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ...errors import UsageError
from ...identity import ClientIdentity
from ...mls.group.group import Group
from ...mls.group.staging import StagedCommit
from ...mls.schedule.secret_tree import RatchetKind
from ...mls.structures.framing import MemberSender
from ...mls.structures.proposals import Remove, SelfRemove
from ...mls.tree.tree_math import LeafIndex
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ...store.interface import Transaction
from ..device import Device
from ..events import MessageReceived, as_event
from ..member import Member
from ..storage import leaf_ages
from ..storage.doubts import Doubt, Doubts
from ..storage.duplicate_filter import DuplicateFilter
from ..storage.inbox import Inbox
from ..storage.leaf_ages import LeafAge, RenewalSettings
from ..storage.outbox import NUMBER, Outbox
from ..storage.post_commit_actions import Leave, PostCommitActions
from ..storage.records import (
    ROOMS,
    InboxRecord,
    MembershipState,
    OutboxKind,
    OutboxRecord,
    OutsideRecord,
    RoomRecord,
    Spaces,
)
from .committable_proposals import Committable, committable

__all__ = ["ROOMS", "Kept", "put_all", "put_changes"]

_OUTSIDE = b"record"


class Kept:
    """A room's group on this device.

    :ivar room: bare JID
    """

    def __init__(self, device: Device, room: str) -> None:
        """Take up where the store says that we are; a room that it does not know is one we are invited to.

        :raises StoreError: the store failed
        """
        self.device = device
        self.room = room
        self._store = device.store
        self._spaces = Spaces.of(room)
        self._group: Group | None = None
        self._staged: dict[bytes, StagedCommit] = {}
        self._outbox = Outbox()
        self._inbox = Inbox()
        self._owed = PostCommitActions()
        self._seen = DuplicateFilter()
        self._unwanted: frozenset[bytes] = frozenset()
        self._roster: Roster | None = None
        self._policy: RoomPolicy | None = None
        self._ahead: dict[str, int] = {}  # account -> epoch, the latest news last
        self._doubts = Doubts()
        self.talks_to_anybody = False
        """Whether to encrypt for members that the Authentication Service denies, too."""
        self._outside = OutsideRecord()
        self._entry: Group | None = None
        with self._store.transaction() as transaction:
            self._load(transaction)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.room} {self.state.name} {self._group!r}>"

    def _load(self, transaction: Transaction) -> None:
        value = transaction.get(ROOMS, self.room.encode())
        self._record = (
            RoomRecord(MembershipState.INVITED, b"", b"", 0, 0, 0, b"") if value is None else RoomRecord.decode(value)
        )
        self._seen = DuplicateFilter(transaction.items(self._spaces.seen))
        self._inbox = Inbox(number for number, _ in transaction.items(self._spaces.inbox))
        stored = transaction.items(self._spaces.outbox)
        self._outbox = Outbox((number, OutboxRecord.decode(octets)) for number, octets in stored)
        value = transaction.get(self._spaces.outside, _OUTSIDE)
        if value is not None:
            self._outside = OutsideRecord.decode(value)
        if self._outside.entry:
            self._entry = Group.restore(transaction.items(self._spaces.entering), self.device.parameters)
        waiting: dict[bytes, dict[bytes, bytes]] = {}
        for key, value in transaction.items(self._spaces.pending):
            waiting.setdefault(key[:NUMBER], {})[key[NUMBER:]] = value
        for number, record in self._outbox:
            if record.kind is OutboxKind.CREATION:
                self._staged[number] = Group.restore_creation(waiting.pop(number), self.device.parameters)
        if self._record.state is not MembershipState.MEMBER:
            return
        group = Group.restore(transaction.items(self._spaces.group), self.device.parameters)
        self._group = group
        self._roster = Roster.of(group.members())
        self._policy = RoomPolicy.required_in(group.context.extensions)
        self._owed = PostCommitActions(transaction.items(self._spaces.owed))
        self._unwanted = frozenset(reference for reference, _ in transaction.items(self._spaces.unwanted))
        self._doubts = Doubts(Doubt.decode(*item) for item in transaction.items(self._spaces.doubt))
        self._staged |= {number: group.restore_staged(pieces) for number, pieces in waiting.items()}

    # --- what it is ----------------------------------------------------------------------------

    @property
    def state(self) -> MembershipState:
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
        return any(record.kind is OutboxKind.COMMIT and not record.refused for _, record in self._outbox)

    @property
    def needs_commit(self) -> bool:
        """Whether proposals wait that we must commit before we send application data (RFC 9420 12.4)."""
        return self._group is not None and bool(self._due())

    @property
    def behind(self) -> frozenset[str]:
        """Accounts of members that, by what the room says, speak in a later epoch than ours.

        If any is left when the room's archive has been read to its end, we lack a Commit; see :meth:`is_left_behind`.
        """
        return frozenset(self._ahead)

    @property
    def doubts(self) -> Doubts:
        """The members for whom the Authentication Service does not vouch."""
        return self._doubts

    @property
    def silenced(self) -> bool:
        """Whether nothing is encrypted for the group because of a member that the Authentication Service denies."""
        return not self.talks_to_anybody and bool(self._doubts.silencing)

    @property
    def is_left_behind(self) -> bool:
        """Whether so many speak in a later epoch that we must lack a Commit, once the archive has been read to its end.

        That is our own account, or two others, or the only other one.  It takes more than one member to make us
        believe it: what is written on a stanza is not authenticated.
        """
        if self._group is None or not self._ahead:
            return False
        own = self.device.identity.account
        others = sum(account != own for account in self.roster.accounts())
        return own in self._ahead or len(self._ahead) >= min(2, others)

    def members(self) -> list[Member]:
        """The members, by leaf."""
        since: dict[str, int] = {}
        with self._store.transaction() as transaction:
            for key, value in transaction.items(self._spaces.member):
                since[key.decode()] = int.from_bytes(value, "big")
            renewed = leaf_ages.renewed(transaction, self._spaces.renewed)
        members = (Member.of(index, leaf) for index, leaf in self.group.members())
        return [
            replace(
                member,
                since=since.get(str(member), self._record.joined),
                renewed=max(since.get(str(member), self._record.joined), renewed.get(str(member), 0)),
            )
            for member in members
        ]

    # --- the age of keys -----------------------------------------------------------------------

    def renewal_due(self, settings: RenewalSettings, now: int) -> str | None:
        """Why our leaf's keys are to be renewed now, see :meth:`slixmpp_mls.client.storage.leaf_ages.LeafAge.why`;
        None if they are not.

        :param now: seconds since the Unix epoch
        :raises UsageError: we are not in the group
        """
        own, group = self.device.identity, self.group
        with self._store.transaction() as transaction:
            age = LeafAge.decode(transaction.get(self._spaces.renewed, str(own).encode()), self._record.joined)
        spread = leaf_ages.fraction(group.group_id, own)
        return age.why(settings, self.policy.max_leaf_age, spread, now, self._sent_in_epoch())

    def _sent_in_epoch(self) -> int:
        return self.group.secret_tree.used(self.group.own_index, RatchetKind.APPLICATION)

    def _put_own_age(self, transaction: Transaction, group: Group, now: int, *, last_resort: bool) -> None:
        age = LeafAge.arriving(group.own_leaf, now, last_resort=last_resort)
        transaction.put(self._spaces.renewed, str(self.device.identity).encode(), age.encode())

    @property
    def is_member(self) -> bool:
        """Whether we are in the group."""
        return self._group is not None

    def member(self, client: ClientIdentity) -> Member:
        """A member of the group.

        :raises UsageError: it is none, or we are none
        """
        index = self.roster.leaf_of(client)
        if index is None:
            raise UsageError(f"{client} is not in the group in {self.room}")
        return Member.of(index, self.group.tree.member(LeafIndex(index)))

    def has_key(self, client: ClientIdentity, signature_key: bytes) -> bool:
        """Whether this is a member with this signature key."""
        index = None if self._roster is None else self._roster.leaf_of(client)
        return index is not None and self.group.tree.member(LeafIndex(index)).signature_key == signature_key

    def _uncommitted(self) -> frozenset[bytes]:
        """References that no Commit of ours holds: denied ones, and our own that the room has not reflected.

        Others would refuse a Commit with a proposal that they have not got.
        """
        own = {record.reference for _, record in self._outbox if record.kind is OutboxKind.PROPOSAL}
        return self._unwanted | own

    def _due(self) -> Committable:
        if not self.group.pending_proposals:
            return Committable()
        return committable(self.group, self.policy, self.roster, unwanted=self._uncommitted())

    def _wants_out(self) -> bool:
        """Whether we have asked, in this epoch, to be removed."""
        me = MemberSender(self.group.own_index)
        return any(
            sent.sender == me
            and (isinstance(sent.proposal, SelfRemove) or sent.proposal == Remove(self.group.own_index))
            for sent in self.group.pending_proposals
        )

    # --- what has been read --------------------------------------------------------------------

    def not_handed_over(self) -> list[MessageReceived]:
        """What was read before a restart and may not have come to the application, in the room's order."""
        with self._store.transaction() as transaction:
            return [
                as_event(self.room, number, InboxRecord.decode(value))
                for number, value in transaction.items(self._spaces.inbox)
            ]

    def handed_over(self, number: bytes) -> None:
        """The application has taken a message.  It is deleted with the next step, or by :meth:`forget_handed_over`.

        :param number: :attr:`MessageReceived.number`
        """
        self._inbox.take(number)

    def forget_handed_over(self) -> None:
        """Delete from the store what the application has taken.

        :raises StoreError: nothing has changed
        """
        if self._inbox.taken:
            with self._transaction(lasting=False):  # after a power cut it is handed over again
                pass

    # --- what is owed --------------------------------------------------------------------------

    @property
    def owed(self) -> PostCommitActions:
        """What is still to be done outside of the group; nothing if we are not in it."""
        return self._owed

    def done(self, keys: Iterable[bytes]) -> None:
        """Something is not owed any more.

        :param keys: of it
        :raises StoreError: nothing has changed
        """
        self._change_owed(dict.fromkeys(keys))

    def want_to_leave(self) -> None:
        """Remember that we want to leave, until we have.

        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        self.group  # noqa: B018  # raises
        self._change_owed({Leave.key: b""})

    def _change_owed(self, changes: Mapping[bytes, bytes | None]) -> None:
        if self._group is None:
            return
        with self._transaction() as transaction:
            put_changes(transaction, self._spaces.owed, changes)
        self._owed = self._owed.changed(changes)

    # --- how it changes ------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        """One step that writes; by the way, what has been handed over goes."""
        taken = self._inbox.taken
        with self._store.transaction(lasting=lasting) as transaction:
            for number in taken:
                transaction.delete(self._spaces.inbox, number)
            yield transaction
        self._inbox.forget(taken)

    @contextmanager
    def together(self, *, lasting: bool) -> Iterator[None]:
        """Steps that are made until this ends are written together.  Tell nobody of any before; do not ``await``.

        :param lasting: False if a power cut may undo them: what was read from the room is read again from there
        :raises StoreError: nothing has been written, nothing has changed
        """
        # Values are kept by keeping them; the few that change in place, as copies.
        before = {
            name: value.copy() if isinstance(value, dict | Inbox | Outbox | DuplicateFilter) else value
            for name, value in vars(self).items()
        }
        try:
            with self._store.together(lasting=lasting):
                yield
        except BaseException:
            vars(self).update(before)
            raise

    def _begin(self, group: Group, roster: Roster, policy: RoomPolicy, record: RoomRecord, doubts: Doubts) -> None:
        """In memory: we are in a group from now on."""
        self._group, self._roster, self._policy, self._record = group, roster, policy, record
        self._doubts = doubts
        self._new_epoch()

    def _new_epoch(self) -> None:
        """In memory: what belonged to the epoch that has ended goes."""
        self._staged, self._unwanted, self._ahead = {}, frozenset(), {}

    def _put_doubts(self, transaction: Transaction, doubts: Doubts) -> None:
        put_changes(transaction, self._spaces.doubt, dict(doubts.changes_since(self._doubts)))

    def _put_record(self, transaction: Transaction, record: RoomRecord) -> None:
        transaction.put(ROOMS, self.room.encode(), record.encode())

    def _put_outside(self, transaction: Transaction, seen: OutsideRecord) -> None:
        if seen == OutsideRecord():
            transaction.delete(self._spaces.outside, _OUTSIDE)
        else:
            transaction.put(self._spaces.outside, _OUTSIDE, seen.encode())

    def _clear(self, transaction: Transaction, *, keep_messages: bool) -> list[bytes]:
        """Delete all that belongs to the membership, and remember which epoch was its last.

        :param keep_messages: whether application data that has not come back stays in the outbox
        :returns: numbers of what goes from the outbox
        """
        spaces = self._spaces
        for space in (
            spaces.group, spaces.pending, spaces.unwanted, spaces.member, spaces.renewed, spaces.doubt,
            spaces.arrivals, spaces.owed,
        ):  # fmt: skip
            transaction.delete_prefix(space)
        if self._group is not None:
            transaction.put(spaces.ended, self._group.group_id, self._group.epoch.to_bytes(8, "big"))
        gone = [
            number for number, record in self._outbox if not (keep_messages and record.kind is OutboxKind.APPLICATION)
        ]
        for number in gone:
            transaction.delete(spaces.outbox, number)
        return gone

    def _carry_over(self, transaction: Transaction) -> list[tuple[bytes, OutboxRecord]]:
        """Application data that has not come back goes to another group, where its epoch is none any more."""
        carried = [
            (number, replace(record, epoch=0))
            for number, record in self._outbox
            if record.kind is OutboxKind.APPLICATION
        ]
        for number, record in carried:
            transaction.put(self._spaces.outbox, number, record.encode())
        return carried

    def _end(self, record: RoomRecord, *, keep_messages: bool = False) -> None:
        """Forget the group."""
        seen = self._outside.pace()
        if self._owed.leave:
            record = replace(record, state=MembershipState.OUT)  # there is no reason to come back
        if record.state is MembershipState.LOST:
            group, after = self.group, self._record.cursor
            epoch = next(reversed(self._ahead.values()), group.epoch)
            seen = replace(seen, group_id=group.group_id, suite=group.suite.id, epoch=epoch, known=1, after=after)
        with self._transaction() as transaction:
            gone = self._clear(transaction, keep_messages=keep_messages)
            self._put_record(transaction, record)
            self._put_outside(transaction, seen)
        self._group = self._roster = self._policy = None
        self._record, self._doubts, self._outside, self._owed = record, Doubts(), seen, PostCommitActions()
        self._new_epoch()
        self._outbox.remove_all(gone)

    def _write(self, group: Group, record: RoomRecord) -> None:
        """One step inside an epoch: what it changed, and our place."""
        with self._transaction() as transaction:
            put_changes(transaction, self._spaces.group, group.changes_since(self.group))
            self._put_record(transaction, record)
        self._group, self._record = group.stored(), record

    def _void(self) -> Iterator[tuple[bytes, OutboxRecord]]:
        """What was made for the epoch that ends and loses its meaning with it.

        Not application data, which may still arrive and be read.
        """
        return ((number, record) for number, record in self._outbox if record.kind is not OutboxKind.APPLICATION)


def put_all(transaction: Transaction, space: str, values: Mapping[bytes, bytes]) -> None:
    for key, value in values.items():
        transaction.put(space, key, value)


def put_changes(transaction: Transaction, space: str, values: Mapping[bytes, bytes | None]) -> None:
    for key, value in values.items():
        if value is None:
            transaction.delete(space, key)
        else:
            transaction.put(space, key, value)
