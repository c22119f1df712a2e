"""The state of a room in the store and in memory, and the only way to change it.

::

    part ── with state.change() as change: change.put_...(...) ──► store, then memory

:class:`RoomState` reads the store once.  Afterwards each step of a room's group is one :meth:`RoomState.change`:
its transaction writes all that the step changes, and memory follows when the transaction has ended.  If the store
fails, neither has changed.  :meth:`RoomState.together` makes one transaction of several changes, under the same rule:
it saves the contents of memory before the first of them.  Immutable values are saved by reference, mutable containers
are copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ...errors import UsageError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ...mls.group.group import Group
from ...mls.group.staging import StagedCommit
from ...mls.parameters import Parameters
from ...policy import RoomPolicy
from ...policy.later_state import KnownState
from ...policy.roster import Roster
from ...store.batch import Batches
from ..device.leaf_proofs import return_keys
from ..events import MessageReceived, as_event
from ..storage.duplicate_filter import DuplicateFilter
from ..storage.inbox import Inbox
from ..storage.outbox import Outbox
from ..storage.records import (
    DESPITE_DOUBTS,
    EXPECTED,
    OUTSIDE,
    ExpectedRecord,
    FormerKeyRecord,
    InboxRecord,
    KnownClient,
    KnownRecord,
    MembershipState,
    OutboxKind,
    OutsideRecord,
    RoomRecord,
    Spaces,
    UnsureRecord,
)
from .evidence import Evidence
from .group_info_key import GroupInfoKey
from .room_change import Change
from .room_contents import Membership, PartialMembership, load

__all__ = ["RoomState"]


class RoomState:
    """One room in the store and in memory.

    :ivar room: bare JID
    :ivar store: of the device
    :ivar spaces: the store's spaces for this room
    :ivar holding: whether the reader waits at a stanza that only a full member understands.  Not in the store
    :ivar tree_given_up: whether nobody is waited for any more who may bring back the ratchet tree that we lack.  Not in
        the store
    """

    def __init__(self, store: Batches, room: str, parameters: Parameters) -> None:
        """Take up where the store says that we are.

        :raises StoreError: the store failed
        """
        self.room = room
        self.store = store
        self.spaces = Spaces.of(room)
        self.holding = False
        self.tree_given_up = False
        self._claims: tuple[bytes, frozenset[int]] = b"", frozenset()
        with store.transaction() as transaction:
            self._contents = load(transaction, room, self.spaces, parameters)

    def __repr__(self) -> str:
        return f"<RoomState {self.room} {self.standing.name}>"

    # --- reading -------------------------------------------------------------------------------

    @property
    def record(self) -> RoomRecord:
        """Our place in the room, and how we stand to its group."""
        return self._contents.record

    @property
    def standing(self) -> MembershipState:
        """How we stand to the room's group."""
        return self._contents.record.state

    @property
    def cursor(self) -> str | None:
        """The archive id of the last stanza processed."""
        return self._contents.record.cursor.decode() or None

    @property
    def outside(self) -> OutsideRecord:
        """What we know of the group while we are not in it."""
        return self._contents.outside

    @property
    def return_keys(self) -> tuple[SignaturePrivateKey, ...]:
        """Private return keys that our leaf in the group may have, the likeliest first.

        Only of a group that we have lost, where they are what is left, or to which we return.  Former ones are among
        them: where the group has been split, the others have our leaf of before; and where an external Commit of ours
        came second for us, it may have counted for the others.
        """
        membership = self._contents.membership
        if membership is None or not self.returning:
            present = list(self._contents.return_keys)
        else:
            waiting = [staged.next for staged in self.staged.values() if staged.next is not None]
            present = return_keys(membership.group, waiting)
        with self.store.transaction() as transaction:
            records = [FormerKeyRecord.decode(value) for _, value in sorted(transaction.items(self.spaces.former))]
        former = [CipherSuite.get(record.suite).import_signature_key(record.key) for record in records]
        return tuple((*present[:2], *former, *present[2:]))

    @property
    def has_lost_group(self) -> bool:
        """Whether what proves our return to a group that we have lost is there, also while we try to make another."""
        return self._contents.membership is None and bool(self._contents.return_keys)

    def expected(self) -> ExpectedRecord:
        """What invitations have named, if we wait for a Welcome or are out of the group.

        :raises StoreError: the store failed
        """
        if self.standing not in (MembershipState.INVITED, MembershipState.OUT):
            return ExpectedRecord()
        with self.store.transaction() as transaction:
            value = transaction.get(self.spaces.outside, EXPECTED)
        return ExpectedRecord() if value is None else ExpectedRecord.decode(value)

    @property
    def left(self) -> KnownState | None:
        """The state of the group after the Commit that has removed us; None if none has since the start.

        A Welcome that no invitation names is judged by it.  Only memory keeps it: after a restart, a room whose group
        we are not in is read only because of an invitation, or of our own user.
        """
        return self._contents.left if self.standing is MembershipState.OUT else None

    def known(self) -> KnownState | None:
        """The last state of the group that we had, or have, by which later ones are judged; None if there is none.

        :raises StoreError: the store failed
        """
        if self._contents.membership is not None:
            membership = self._contents.membership
            return KnownState.of(membership.view, membership.group.context)
        if self.standing is not MembershipState.LOST:
            return None
        with self.store.transaction() as transaction:
            value = transaction.get(self.spaces.known, OUTSIDE)
            decided = transaction.get(self.spaces.known, DESPITE_DOUBTS)
        if value is None:
            return None  # lost before version 0.2
        record = KnownRecord.decode(value)
        identities = [ClientIdentity(each.account.decode(), each.device.decode()) for each in record.clients]
        clients = list(zip(record.clients, identities, strict=True))
        return KnownState(
            record.group_id,
            record.epoch,
            record.transcript,
            record.extensions,
            RoomPolicy.required_in(record.extensions),
            Roster.of_clients((each.leaf, client, bool(each.newcomer)) for each, client in clients),
            {client: each.key for each, client in clients},
            # the first is of the leaf in the group that we have lost
            self._contents.return_keys[0].scheme.name if self._contents.return_keys else "",
            decided is not None,
        )

    @property
    def entry(self) -> Group | None:
        """The state that an external Commit of ours leads to, if one waits."""
        return self._contents.entry

    @property
    def group_info_key(self) -> GroupInfoKey | None:
        """The key of the group's GroupInfos, also of a group that we have lost; None if it is not known."""
        return self._contents.group_info_key

    @property
    def entry_info_key(self) -> GroupInfoKey | None:
        """The same after our external Commit that waits."""
        return self._contents.entry_info_key

    @property
    def membership(self) -> Membership | None:
        """None if we are not in the group."""
        return self._contents.membership

    @property
    def partial(self) -> PartialMembership | None:
        """None unless we are in the group without its ratchet tree."""
        return self._contents.partial

    @property
    def speaking(self) -> Membership | PartialMembership | None:
        """That by which we read and send, with or without the tree; None if we are not in the group."""
        return self._contents.membership or self._contents.partial

    @property
    def waits_for_tree(self) -> bool:
        """Whether the next stanza of the room needs the ratchet tree that we lack, and may end our epoch."""
        partial = self._contents.partial
        return partial is not None and (self.holding or partial.set_aside)

    @property
    def needs_readmission(self) -> bool:
        """Whether we have to ask to be added again: our state stays, but its ratchet tree is not to be had.

        The tree of the epoch into which a Welcome has led is where that says, and may be there later, so it is waited
        for a while; that of a later epoch is known only from members that answer (:mod:`.following`).
        """
        partial = self._contents.partial
        return partial is not None and partial.set_aside and (partial.location is None or self.tree_given_up)

    def require_speaking(self) -> Membership | PartialMembership:
        """That by which we read and send.

        :raises UsageError: we are not in the group
        """
        return self.speaking or self.require_member()

    def require_partial(self) -> PartialMembership:
        """Our membership without the ratchet tree.

        :raises UsageError: we are not in the group without it
        """
        if self._contents.partial is None:
            raise UsageError(f"no partial member of the group in {self.room}")
        return self._contents.partial

    def require_member(self) -> Membership:
        """Our membership.

        :raises UsageError: we are not in the group
        """
        if self._contents.membership is None:
            raise UsageError(f"not a member of the group in {self.room}")
        return self._contents.membership

    def require_no_member(self) -> None:
        """:raises UsageError: we are in a group here already"""
        if self.speaking is not None:
            raise UsageError(f"already a member of the group in {self.room}")

    @property
    def outbox(self) -> Outbox:
        """What was sent and has not come back.  Changed by :meth:`change` only."""
        return self._contents.outbox

    @property
    def inbox(self) -> Inbox:
        """Places of messages that were read and not handed over."""
        return self._contents.inbox

    @property
    def duplicates(self) -> DuplicateFilter:
        """Which application messages were read last."""
        return self._contents.duplicates

    @property
    def staged(self) -> Mapping[bytes, StagedCommit]:
        """Commits and creations of ours that wait, by their number in the outbox."""
        return self._contents.staged

    @property
    def ahead(self) -> Mapping[str, int]:
        """Accounts of members that, by what the room says, speak in a later epoch than ours, and which."""
        return self._contents.ahead

    @property
    def unsure(self) -> UnsureRecord:
        """Why we do not know whether we are where the group is."""
        return self._contents.unsure

    @property
    def returning(self) -> bool:
        """Whether it is proved that the group is elsewhere than our state, which stays until we are back."""
        return self._contents.membership is not None and bool(self._contents.unsure.behind)

    @property
    def left_out(self) -> bool:
        """Whether others may be in the group that follows our closed one, by a creation that we do not follow."""
        membership, seen = self._contents.membership, self._contents.outside
        closed = None if membership is None else membership.group.closed
        return closed is not None and bool(seen.known) and seen.group_id == closed.group_id

    @property
    def coming_back(self) -> bool:
        """Whether we ask to be added to the group, as one that is outside, while we still have the state of before."""
        return self.returning or self.left_out or self.needs_readmission

    def is_in_another_than(self, group_id: bytes) -> bool:
        """Whether we are in a group here, and this one is neither it, nor one before or after it.

        :raises StoreError: the store failed
        """
        if self.speaking is None:
            return False
        closed = None if self.membership is None else self.membership.group.closed
        if group_id == self.speaking.group.group_id or (closed is not None and group_id == closed.group_id):
            return False
        with self.store.transaction() as transaction:
            return transaction.get(self.spaces.ended, group_id) is None

    def waits(self, kind: OutboxKind) -> bool:
        """Whether something of this kind was sent, was not refused, and has not come back."""
        return any(record.kind is kind and not record.refused for _, record in self.outbox)

    # --- messages that have been read ----------------------------------------------------------

    def not_handed_over(self) -> list[MessageReceived]:
        """Messages read before a restart that the application may not have received, in the room's order.

        :raises StoreError: the store failed
        """
        with self.store.transaction() as transaction:
            return [
                as_event(self.room, number, InboxRecord.decode(value))
                for number, value in transaction.items(self.spaces.inbox)
            ]

    def handed_over(self, number: bytes) -> None:
        """The application has taken a message.  The next change deletes it, or :meth:`forget_handed_over`.

        :param number: :attr:`MessageReceived.number`
        """
        self.inbox.take(number)

    def forget_handed_over(self) -> None:
        """Delete from the store the messages that the application has taken.

        :raises StoreError: nothing has changed
        """
        if self.inbox.taken:
            with self.change(lasting=False):  # after a power cut it is handed over again
                pass

    # --- changing ------------------------------------------------------------------------------

    @contextmanager
    def change(self, *, lasting: bool = True) -> Iterator[Change]:
        """One step that writes.  It also deletes the messages that have been handed over.

        :param lasting: False if a power cut may undo it
        :raises StoreError: neither store nor memory has changed
        """
        taken = self.inbox.taken
        with self.store.transaction(lasting=lasting) as transaction:
            for number in taken:
                transaction.delete(self.spaces.inbox, number)
            change = Change(self.room, self.spaces, transaction, self._contents)
            yield change
        change.remember()
        self.inbox.forget(taken)

    @contextmanager
    def together(self, *, lasting: bool) -> Iterator[None]:
        """Write all changes until this ends in one transaction.  Report none of them before; do not ``await``.

        :param lasting: False if a power cut may undo them: what was read from the room is read again from there
        :raises StoreError: neither store nor memory has changed
        """
        before = self._contents.copy()
        try:
            with self.store.together(lasting=lasting):
                yield
        except BaseException:
            self._contents = before
            raise

    @property
    def claims(self) -> frozenset[int]:
        """Leaf indices of the members that have signed, in this epoch, the location of a Commit that did not count."""
        membership = self.membership
        if membership is None or self._claims[0] != membership.group.public.confirmation_tag:
            return frozenset()
        return self._claims[1]

    def note_claim(self, signer: int | None) -> None:
        """The location of a Commit by this member did not lead on.  Only memory keeps it."""
        if signer is not None and self.membership is not None:
            self._claims = self.membership.group.public.confirmation_tag, self.claims | {signer}

    def note_ahead(self, account: str, epoch: int) -> None:
        """The room says that an account speaks in a later epoch than ours.  Only memory keeps it."""
        ahead = self._contents.ahead
        ahead.pop(account, None)
        ahead[account] = epoch

    def forget_group(
        self,
        record: RoomRecord,
        evidence: Evidence,
        *,
        keep_messages: bool = False,
        epoch: int | None = None,
        left: KnownState | None = None,
    ) -> None:
        """Delete the group's keys, because we are no longer in the group.

        :param evidence: the evidence that entitles us to delete them
        :param record: the new record of the room
        :param keep_messages: whether application data that has not come back stays in the outbox
        :param epoch: the group's, if it is proved that it is another one than ours
        :param left: :attr:`left`, if a Commit removes us
        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        speaking, membership, outside = self.require_speaking(), self.membership, self.outside.pace()
        if membership is not None and membership.actions.leave:
            record = replace(record, state=MembershipState.OUT)  # there is no reason to come back
        if record.state is MembershipState.LOST:
            group, after = speaking.group, self.record.cursor
            # Not what somebody has written on a stanza: it would bar GroupInfos that members have signed.
            epoch = group.epoch if epoch is None else epoch
            outside = replace(outside, group_id=group.group_id, suite=group.suite.id, epoch=epoch, known=1, after=after)
        waiting = [staged.next for staged in self.staged.values() if staged.next is not None]
        group_info_key = self.group_info_key
        with self.change() as change:
            # No other member has what follows our Commits: it is done when we are back.
            lost = record.state is MembershipState.LOST
            change.end_membership(evidence, keep_messages=keep_messages, keep_actions=lost)
            if record.state is MembershipState.LOST:
                change.put_group_info_key(group_info_key)
                change.put_return_keys(speaking.group.suite.id, return_keys(speaking.group, waiting))
                if membership is not None:  # of a group whose tree we never had, no state is known
                    change.put_known(_as_record(KnownState.of(membership.view, membership.group.context)))
            else:
                change.forget_known()
            change.put_left(left)
            change.delete_entry()
            change.put_record(record)
            change.put_outside(outside)


def _as_record(known: KnownState) -> KnownRecord:
    roster = known.roster
    clients = []
    for client, key in known.keys.items():
        leaf = roster.leaf_of(client)
        assert leaf is not None, "a client of the roster"
        newcomer = int(roster.is_newcomer(leaf))
        clients.append(KnownClient(leaf, client.account.encode(), client.device.encode(), key, newcomer))
    return KnownRecord(known.group_id, known.epoch, known.transcript, known.extensions, tuple(clients))
