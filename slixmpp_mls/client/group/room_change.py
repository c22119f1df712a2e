"""A change of a room's state: it is written to the store, and memory follows.

A :class:`Change` is one transaction.  Each of its methods writes to the store at once.  Memory, the :class:`.Contents`,
follows when the transaction has ended (:meth:`.room_state.RoomState.change`), so a failing store leaves memory
unchanged.  Then immutable values are replaced, and mutable containers are changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ...errors import UsageError
from ...identity.fair_share import displaced
from ...mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ...mls.group.group import Group
from ...mls.group.staging import StagedCommit
from ...mls.partial import PartialGroup
from ...mls.tree.tree_math import LeafIndex
from ...policy import RoomPolicy
from ...policy.later_state import KnownState
from ...policy.roster import Roster
from ...store.interface import Transaction
from ..events import MessageReceived, as_record
from ..storage.doubts import Doubts
from ..storage.duplicate_filter import DuplicateFilter
from ..storage.post_commit_actions import PostCommitActions
from ..storage.records import (
    DESPITE_DOUBTS,
    EXPECTED,
    NEW_ROOM,
    OUTSIDE,
    ROOMS,
    ExpectedGroup,
    ExpectedRecord,
    FormerKeyRecord,
    KnownRecord,
    OutboxKind,
    OutboxRecord,
    OutsideRecord,
    RoomRecord,
    Spaces,
    UnsureRecord,
    UploadRecord,
    WholeTreeRecord,
)
from .evidence import Evidence
from .group_info_key import UNKNOWN, GroupInfoKey
from .room_contents import ENTRY, PRESENT, Contents, Membership, PartialMembership

__all__ = ["MAX_FORMER_KEYS", "MAX_UNREAD_KEYS", "Change"]

_EXPECTED_OF_ONE, _EXPECTED = 8, 64  # groups that invitations of one inviter name, and of all

MAX_FORMER_KEYS = 3
"""Former return keys that are kept, the newest ones."""
MAX_UNREAD_KEYS = 64
"""Return keys of leaves by the creations that leave us out of a group, the newest ones.  A member can make up as many
as there are KeyPackages of ours that were used before, and only one of them is that of our leaf in the tree."""


class Change:
    """One change of a room's state: each method writes to the store at once, memory follows at the end.

    :ivar transaction: for what is in the store only
    """

    __slots__ = (
        "_contents",
        "_entry",
        "_entry_info_key",
        "_group_info_key",
        "_later",
        "_left",
        "_membership",
        "_outside",
        "_partial",
        "_record",
        "_return_keys",
        "_room",
        "_spaces",
        "_unsure",
        "transaction",
    )

    def __init__(self, room: str, spaces: Spaces, transaction: Transaction, contents: Contents) -> None:
        self.transaction = transaction
        self._room = room
        self._spaces = spaces
        self._contents = contents
        self._record, self._outside, self._return_keys = contents.record, contents.outside, contents.return_keys
        self._membership, self._entry = contents.membership, contents.entry
        self._partial = contents.partial
        self._left = contents.left
        self._unsure = contents.unsure
        self._group_info_key, self._entry_info_key = contents.group_info_key, contents.entry_info_key
        self._later: list[Callable[[], object]] = []  # what happens to the containers

    def remember(self) -> None:
        """The store has it: change memory.  Nothing here can fail."""
        contents = self._contents
        contents.record, contents.outside, contents.return_keys = self._record, self._outside, self._return_keys
        contents.membership, contents.entry = self._membership, self._entry
        contents.partial = self._partial
        contents.left = self._left
        contents.unsure = self._unsure
        contents.group_info_key, contents.entry_info_key = self._group_info_key, self._entry_info_key
        for each in self._later:
            each()

    # --- our place, and what is known from outside ---------------------------------------------

    def put_record(self, record: RoomRecord) -> None:
        """Our place in the room, and how we stand to its group."""
        self.transaction.put(ROOMS, self._room.encode(), record.encode())
        self._record = record

    def delete_record(self) -> None:
        """Forget the room: we have read nothing of it."""
        self.transaction.delete(ROOMS, self._room.encode())
        self._record = NEW_ROOM

    def expect(self, group: bytes, inviter: str, sender: str) -> None:
        """A Welcome into this group is accepted: see :meth:`.Lifecycle.expect_group`."""
        known, new = self._expected(), ExpectedGroup(group, inviter.encode(), sender.encode())
        groups = (*(each for each in known.groups if each != new), new)
        # mls, "Adding People": a stranger's invitations do not displace the genuine one
        senders = [each.sender.decode() for each in groups]
        gone = displaced(senders, of_one=_EXPECTED_OF_ONE, in_all=_EXPECTED)
        groups = tuple(each for position, each in enumerate(groups) if position not in gone)
        self.transaction.put(self._spaces.outside, EXPECTED, replace(known, groups=groups).encode())

    def choose_inviter(self, account: str) -> None:
        """Only invitations of this account count: see :meth:`.Lifecycle.choose_inviter`."""
        before = self._expected()
        if before.chosen != account.encode():
            self.transaction.put(self._spaces.outside, EXPECTED, replace(before, chosen=account.encode()).encode())

    def _expected(self) -> ExpectedRecord:
        value = self.transaction.get(self._spaces.outside, EXPECTED)
        return ExpectedRecord() if value is None else ExpectedRecord.decode(value)

    def expect_nothing(self) -> None:
        """Forget what invitations have named."""
        self.transaction.delete(self._spaces.outside, EXPECTED)

    def put_outside(self, outside: OutsideRecord) -> None:
        """What we know of the group while we are not in it."""
        if outside == self._outside:
            return
        if outside == OutsideRecord():
            self.transaction.delete(self._spaces.outside, OUTSIDE)
        else:
            self.transaction.put(self._spaces.outside, OUTSIDE, outside.encode())
        self._outside = outside

    def put_return_keys(self, suite: int, keys: Sequence[SignaturePrivateKey]) -> None:
        """What proves our return to a group whose other keys go.

        :param suite: number of the group's cipher suite
        """
        self.transaction.delete_prefix(self._spaces.returning)
        for number, key in enumerate(keys):
            name = number.to_bytes(1, "big") + suite.to_bytes(2, "big")
            self.transaction.put(self._spaces.returning, name, key.encode())
        self._return_keys = tuple(keys)

    def put_unread_keys(
        self, keys: Iterable[tuple[CipherSuite, SignaturePrivateKey]], now: int, *, left_out: bool = False
    ) -> None:
        """Keep the return keys of KeyPackages of ours, by a Welcome that we do not follow, and their cipher suites.

        Anybody can make up such a Welcome, so they do not displace the others.

        :param now: seconds since the Unix epoch
        :param left_out: whether it is a member's, and nothing else may show which leaf is ours: more of them are kept
        """
        for suite, key in keys:
            self._put_former_key(b"\1", suite.id, key, now, MAX_UNREAD_KEYS if left_out else MAX_FORMER_KEYS)

    def put_former_key(self, suite: int, key: SignaturePrivateKey, now: int) -> None:
        """Keep the return key of a leaf of ours that a later one replaces, or may not have replaced for all members.

        :param suite: number of the group's cipher suite
        :param now: seconds since the Unix epoch
        """
        self._put_former_key(b"\0", suite, key, now, MAX_FORMER_KEYS)

    def _put_former_key(self, kind: bytes, suite: int, key: SignaturePrivateKey, now: int, most: int) -> None:
        stored = sorted(self.transaction.items(self._spaces.former))
        kept = [value for name, value in stored if name[:1] == kind]
        record = FormerKeyRecord(now, suite, key.encode())
        kept = [each for each in kept if FormerKeyRecord.decode(each).key != record.key]
        for name, _ in stored:
            if name[:1] == kind:
                self.transaction.delete(self._spaces.former, name)
        for number, value in enumerate([record.encode(), *kept][:most]):
            self.transaction.put(self._spaces.former, kind + bytes((number,)), value)

    def forget_former_key(self, name: bytes) -> None:
        """Delete a former return key.

        :param name: its key in the store
        """
        self.transaction.delete(self._spaces.former, name)

    def put_known(self, known: KnownRecord) -> None:
        """The last state of a group that we have lost."""
        self.transaction.put(self._spaces.known, OUTSIDE, known.encode())

    def believe_despite_doubts(self) -> None:
        """Our own user has decided to believe any client of the last state of a group that we have lost."""
        self.transaction.put(self._spaces.known, DESPITE_DOUBTS, b"")

    def forget_known(self) -> None:
        """We are in a group again, or out of it for good."""
        self.transaction.delete_prefix(self._spaces.known)
        self.transaction.delete_prefix(self._spaces.former)

    def put_left(self, left: KnownState | None) -> None:
        """The group's state after the Commit that removes us.  Only memory keeps it."""
        self._left = left

    def put_unsure(self, unsure: UnsureRecord) -> None:
        """Why we do not know whether we are where the group is."""
        if unsure == self._unsure:
            return
        if unsure == UnsureRecord():
            self.transaction.delete(self._spaces.unsure, OUTSIDE)
        else:
            self.transaction.put(self._spaces.unsure, OUTSIDE, unsure.encode())
        self._unsure = unsure

    def put_group_info_key(self, key: GroupInfoKey | None) -> None:
        """The key of the group's GroupInfos; None if it is not known."""
        self.transaction.put(self._spaces.group_info_key, PRESENT, (key or UNKNOWN).encode())
        self._group_info_key = key

    def put_entry(self, group: Group, group_info_key: GroupInfoKey | None) -> None:
        """The state that an external Commit of ours leads to, in place of that of an earlier one.

        :param group_info_key: the key of its GroupInfos
        """
        self.transaction.delete_prefix(self._spaces.entering)  # or pieces that this state lacks would be left
        _put_all(self.transaction, self._spaces.entering, group.each_piece())
        self.transaction.put(self._spaces.group_info_key, ENTRY, (group_info_key or UNKNOWN).encode())
        self._entry, self._entry_info_key = group.stored(), group_info_key

    def delete_entry(self) -> None:
        """No external Commit of ours waits any more."""
        self.transaction.delete_prefix(self._spaces.entering)
        self.transaction.delete(self._spaces.group_info_key, ENTRY)
        self._entry = self._entry_info_key = None

    # --- outbox and inbox ----------------------------------------------------------------------

    def put_message(self, number: bytes, record: OutboxRecord) -> None:
        """Insert into the outbox, or replace."""
        self.transaction.put(self._spaces.outbox, number, record.encode())
        self._later.append(partial(self._contents.outbox.put, number, record))

    def put_upload(self, number: bytes, upload: UploadRecord) -> None:
        """Say of a message in the outbox that it is not sent in a stanza, and where it is."""
        self.transaction.put(self._spaces.uploads, number, upload.encode())
        self._later.append(partial(self._contents.outbox.put_upload, number, upload))

    def delete_message(self, number: bytes) -> None:
        """Delete from the outbox."""
        self.transaction.delete(self._spaces.outbox, number)
        if self._contents.outbox.upload(number) is not None:
            self.transaction.delete(self._spaces.uploads, number)
        self._later.append(partial(self._contents.outbox.remove, number))

    def put_staged(self, number: bytes, staged: StagedCommit, pieces: Mapping[bytes, bytes]) -> None:
        """What a Commit or a creation in the outbox leads to.

        :param pieces: the same for the store
        """
        _put_all(self.transaction, self._spaces.pending, ((number + name, value) for name, value in pieces.items()))
        self._later.append(partial(self._contents.staged.__setitem__, number, staged))

    def put_received(self, message: MessageReceived, now: int) -> None:
        """Insert into the inbox.

        :param now: seconds since the Unix epoch
        """
        self.transaction.put(self._spaces.inbox, message.number, as_record(message, now).encode())
        self._later.append(partial(self._contents.inbox.put, message.number))

    def put_mark(self, number: int, mark: bytes) -> None:
        """Remember that the application message with this number was read."""
        self.transaction.put(self._spaces.seen, DuplicateFilter.place(number), mark)
        self._later.append(partial(self._contents.duplicates.put, number, mark))

    # --- inside the group ----------------------------------------------------------------------

    def _member(self) -> Membership:
        if self._membership is None:
            raise UsageError(f"not a member of the group in {self._room}")
        return self._membership

    def put_group(self, group: Group) -> None:
        """The group after a step that does not end its epoch."""
        membership = self._member()
        _put_changes(self.transaction, self._spaces.group, group.changes_since(membership.group))
        self._membership = replace(membership, group=group.stored())

    def put_speaking(self, group: Group | PartialGroup) -> None:
        """The group after a message, with or without its tree."""
        if isinstance(group, Group):
            self.put_group(group)
            return
        partial = self._partial_member()
        _put_changes(self.transaction, self._spaces.partial, group.changes_since(partial.group))
        self._partial = replace(partial, group=group.stored())

    def put_unwanted(self, reference: bytes) -> None:
        """No Commit of ours covers this waiting proposal."""
        self.transaction.put(self._spaces.unwanted, reference, b"")
        membership = self._member()
        self._membership = replace(membership, unwanted=membership.unwanted | {reference})

    def put_doubts(self, doubts: Doubts) -> None:
        """The members for whom the Authentication Service does not vouch."""
        membership = self._member()
        if doubts is membership.doubts:
            return
        _put_changes(self.transaction, self._spaces.doubt, dict(doubts.changes_since(membership.doubts)))
        self._membership = replace(membership, doubts=doubts)

    def put_actions(self, changes: Mapping[bytes, bytes | None]) -> None:
        """What is still to be done outside of the group: entries to put, or to delete where the value is None."""
        membership = self._member()
        if not changes:
            return
        _put_changes(self.transaction, self._spaces.owed, changes)
        self._membership = replace(membership, actions=membership.actions.changed(changes))

    def begin_epoch(
        self, group: Group, roster: Roster, policy: RoomPolicy, group_info_key: GroupInfoKey | None
    ) -> None:
        """Begin the epoch after a Commit, and delete the entries of the epoch that has ended.

        Application data in the outbox is kept, because it may still arrive and be read.
        """
        if group_info_key != self._group_info_key:
            self.put_group_info_key(group_info_key)
        membership, spaces = self._member(), self._spaces
        _put_changes(self.transaction, spaces.group, group.changes_since(membership.group))
        self.transaction.delete_prefix(spaces.pending)
        self.transaction.delete_prefix(spaces.unwanted)
        for number, record in self._contents.outbox:
            if record.kind is not OutboxKind.APPLICATION:
                self.delete_message(number)
        self._later += [self._contents.staged.clear, self._contents.ahead.clear]
        self._membership = replace(membership, group=group.stored(), roster=roster, policy=policy, unwanted=frozenset())

    # --- without the ratchet tree --------------------------------------------------------------

    def _partial_member(self) -> PartialMembership:
        if self._partial is None:
            raise UsageError(f"no partial member of the group in {self._room}")
        return self._partial

    def begin_partial(self, partial: PartialMembership, group_info_key: GroupInfoKey | None) -> None:
        """We are in a group without its tree, after :meth:`end_membership`.

        :param group_info_key: as in :meth:`begin_membership`
        """
        self.put_group_info_key(group_info_key)
        self.put_return_keys(partial.group.suite.id, ())  # the state has its own
        self.forget_known()
        self.expect_nothing()
        _put_all(self.transaction, self._spaces.partial, partial.group.pieces().items())
        self.transaction.put(self._spaces.whole_tree, OUTSIDE, partial.whole_tree.encode())
        self._partial = replace(partial, group=partial.group.stored())
        self._left = None

    def put_place(self, place: bytes) -> None:
        """From where the room is read again when we have the tree; empty: it is read in order."""
        self._put_whole_tree(replace(self._partial_member().whole_tree, place=place))

    def _put_whole_tree(self, whole_tree: WholeTreeRecord) -> None:
        self.transaction.put(self._spaces.whole_tree, OUTSIDE, whole_tree.encode())
        self._partial = replace(self._partial_member(), whole_tree=whole_tree)

    def begin_partial_epoch(
        self, group: PartialGroup, policy: RoomPolicy, group_info_key: GroupInfoKey | None, inviter: LeafIndex
    ) -> None:
        """Begin the epoch after a Commit that we have followed without the tree; where its tree is, we do not know.

        :param inviter: leaf of our inviter; ours if that is gone
        """
        if group_info_key != self._group_info_key:
            self.put_group_info_key(group_info_key)
        self.put_speaking(group)
        self._put_whole_tree(replace(self._partial_member().whole_tree, location=b"", inviter=int(inviter)))
        self._partial = replace(self._partial_member(), policy=policy)
        self._later.append(self._contents.ahead.clear)

    def complete_membership(self, membership: Membership) -> None:
        """We have the tree: the same membership, and what is in the outbox and the inbox, goes on."""
        self._partial_member()
        spaces = self._spaces
        self.transaction.delete_prefix(spaces.partial)
        self.transaction.delete(spaces.whole_tree, OUTSIDE)
        _put_all(self.transaction, spaces.group, membership.group.each_piece())
        _put_changes(self.transaction, spaces.doubt, dict(membership.doubts.changes_since(Doubts())))
        self._partial = None
        self._membership = replace(membership, group=membership.group.stored())

    # --- into the group, and out of it ---------------------------------------------------------

    def begin_membership(self, membership: Membership, group_info_key: GroupInfoKey | None) -> None:
        """We are in a group, after :meth:`end_membership`.

        :param group_info_key: the key of its GroupInfos; None if it is not known
        """
        self.put_group_info_key(group_info_key)
        self.expect_nothing()
        group, spaces = membership.group, self._spaces
        self.put_return_keys(group.suite.id, ())  # the state has its own
        self.forget_known()
        _put_all(self.transaction, spaces.group, group.each_piece())
        _put_all(self.transaction, spaces.owed, membership.actions.entries.items())
        _put_changes(self.transaction, spaces.doubt, dict(membership.doubts.changes_since(Doubts())))
        self._membership = replace(membership, group=group.stored(), unwanted=frozenset())
        self._left = None

    def kept_actions(self) -> PostCommitActions:
        """What is still to be done outside of the group: of the membership, or of one that is lost."""
        return PostCommitActions(self.transaction.items(self._spaces.owed))

    def end_membership(self, evidence: Evidence, *, keep_messages: bool, keep_actions: bool = False) -> None:
        """Delete everything that belongs to a membership, and remember its last epoch.

        :param evidence: the evidence that entitles us to delete it
        :param keep_messages: whether application data that has not come back stays in the outbox
        :param keep_actions: whether what is to be done outside of the group stays in the store (:meth:`kept_actions`)
        """
        transaction, spaces = self.transaction, self._spaces
        if evidence is Evidence.NO_STATE and (self._membership, self._partial) != (None, None):
            raise UsageError("there is a group's state, which goes on evidence only")
        self.put_unsure(UnsureRecord())
        transaction.delete(spaces.group_info_key, PRESENT)
        self._group_info_key = None
        for space in (
            spaces.group, spaces.pending, spaces.unwanted, spaces.member, spaces.renewed, spaces.epochs, spaces.doubt,
            spaces.arrivals, spaces.partial, spaces.whole_tree,
        ):  # fmt: skip
            transaction.delete_prefix(space)
        if not keep_actions:
            transaction.delete_prefix(spaces.owed)
        for speaking in (self._membership, self._partial):
            if speaking is None:
                continue
            group = speaking.group
            transaction.put(spaces.ended, group.group_id, group.epoch.to_bytes(8, "big"))
        for number, record in self._contents.outbox:
            if not (keep_messages and record.kind is OutboxKind.APPLICATION):
                self.delete_message(number)
        self._later += [self._contents.staged.clear, self._contents.ahead.clear]
        self._membership = self._partial = None

    def carry_messages_over(self) -> None:
        """Application data that has not come back goes to another group, where its epoch is none any more."""
        for number, record in self._contents.outbox:
            if record.kind is OutboxKind.APPLICATION:
                self.put_message(number, replace(record, epoch=0))


def _put_all(transaction: Transaction, space: str, values: Iterable[tuple[bytes, bytes]]) -> None:
    for key, value in values:
        transaction.put(space, key, value)


def _put_changes(transaction: Transaction, space: str, values: Mapping[bytes, bytes | None]) -> None:
    for key, value in values.items():
        if value is None:
            transaction.delete(space, key)
        else:
            transaction.put(space, key, value)
