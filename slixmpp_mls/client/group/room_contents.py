"""The state of a room in memory, and how it is read from the store.

:class:`Contents` is what the parts of a room's group look at.  It is loaded once, when the room is taken up; afterwards
only a :class:`.room_change.Change` changes it, after the store.  Values in it are immutable and are replaced; the few
mutable containers (the outbox, the inbox ...) are changed in place.

One value, :class:`Membership`, holds everything that exists only for a member: there is no roster without a group.  A
member without the ratchet tree has a :class:`PartialMembership` instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ...mls.group.group import Group
from ...mls.group.staging import StagedCommit
from ...mls.parameters import Parameters
from ...mls.partial import PartialGroup
from ...mls.structures.leaf_node import LeafNode
from ...mls.tree.tree_math import LeafIndex
from ...policy import GroupView, RoomPolicy
from ...policy.later_state import KnownState
from ...policy.roster import Roster
from ...stanza.blob import BlobReference
from ...store.interface import Transaction
from ..storage.doubts import Doubt, Doubts
from ..storage.duplicate_filter import DuplicateFilter
from ..storage.inbox import Inbox
from ..storage.outbox import NUMBER, Outbox
from ..storage.post_commit_actions import PostCommitActions
from ..storage.records import (
    NEW_ROOM,
    OUTSIDE,
    ROOMS,
    MembershipState,
    OutboxKind,
    OutboxRecord,
    OutsideRecord,
    RoomRecord,
    Spaces,
    UnsureRecord,
    UploadRecord,
    WholeTreeRecord,
)
from .group_info_key import GroupInfoKey

__all__ = ["ENTRY", "PRESENT", "Contents", "Membership", "PartialMembership", "load"]

PRESENT, ENTRY = b"present", b"entry"
"""The names of the keys for GroupInfos in their space."""


@dataclass(frozen=True, slots=True, eq=False)
class Membership:
    """The state that exists only while we are in the group.

    :ivar group: its MLS state
    :ivar roster: the index of its leaves by account and by client
    :ivar policy: the group's
    :ivar doubts: the members for whom the Authentication Service does not vouch
    :ivar actions: what is still to be done outside of the group
    :ivar unwanted: references of waiting proposals that no Commit of ours covers
    """

    group: Group
    roster: Roster = field(repr=False)
    policy: RoomPolicy = field(repr=False)
    doubts: Doubts = field(default_factory=Doubts)
    actions: PostCommitActions = field(default_factory=PostCommitActions, repr=False)
    unwanted: frozenset[bytes] = field(default=frozenset(), repr=False)

    @property
    def view(self) -> GroupView:
        """What all members see alike: all that a Commit is judged by."""
        return GroupView.of(self.group.public, self.policy, self.roster)

    def encryption_key(self, client: ClientIdentity) -> bytes:
        """The encryption key of a client's leaf, by which its present keys are known; empty if it has none."""
        index = self.roster.leaf_of(client)
        return b"" if index is None else self.group.tree.member(LeafIndex(index)).encryption_key

    @classmethod
    def of(cls, group: Group, doubts: Doubts, actions: PostCommitActions) -> Membership:
        """With the roster and the policy that the group itself contains.

        :raises InvalidError: a leaf names no client, or there is no policy
        """
        policy = RoomPolicy.required_in(group.context.extensions)
        return cls(group, Roster.of_outlines(group.tree.outlines()), policy, doubts, actions)

    @classmethod
    def restored(cls, group: Group, doubts: Doubts, actions: PostCommitActions) -> Membership:
        """The same for a group of the store, in which we have been a member before.

        :raises InvalidError: there is no policy
        """
        policy = RoomPolicy.required_in(group.context.extensions)
        return cls(group, Roster.later(group.tree.outlines, group.tree.member_count), policy, doubts, actions)


@dataclass(frozen=True, slots=True, eq=False)
class PartialMembership:
    """The state that exists only while we are in the group without its ratchet tree (:mod:`.partial`).

    :ivar group: its MLS state
    :ivar policy: the group's
    :ivar whole_tree: what we need to become a full member
    """

    group: PartialGroup
    policy: RoomPolicy = field(repr=False)
    whole_tree: WholeTreeRecord

    @property
    def location(self) -> BlobReference | None:
        """Where the ratchet tree is; None if we do not know, because it is that of another epoch than our first one."""
        return BlobReference.decode(self.whole_tree.location) if self.whole_tree.location else None

    @property
    def inviter(self) -> LeafNode:
        """The leaf of our inviter; beside ours, the only one that we know for certain.  Ours if that is gone."""
        return self.group.tree.member(LeafIndex(self.whole_tree.inviter))

    @property
    def set_aside(self) -> bool:
        """Whether the room is read as by an outsider, since the tree is not to be had."""
        return bool(self.whole_tree.place)


@dataclass(slots=True, eq=False, repr=False)
class Contents:
    """All that is in memory of one room.

    :ivar record: our place in the room, and how we stand to its group
    :ivar outside: what we know of the group while we are not in it
    :ivar membership: None if we are not in the group
    :ivar partial: None unless we are in the group without its tree; then `membership` is None
    :ivar entry: the state that an external Commit of ours leads to, if one waits
    :ivar outbox: what was sent and has not come back
    :ivar inbox: places of messages that were read and not handed over
    :ivar duplicates: which application messages were read last
    :ivar staged: Commits and creations of ours that wait, by their number in the outbox
    :ivar return_keys: private return keys that our leaf in a group that we have lost may have, the likeliest first
    :ivar unsure: why we do not know whether we are where the group is
    :ivar group_info_key: the key of the group's GroupInfos, also of a group that we have lost; None if it is not known
    :ivar entry_info_key: the same after our external Commit that waits
    :ivar ahead: account -> a later epoch than ours, as the room says; the latest news last.  Not in the store
    :ivar left: the group's state after the Commit that has removed us; None if none has.  Not in the store
    """

    record: RoomRecord
    outside: OutsideRecord
    membership: Membership | None
    entry: Group | None
    outbox: Outbox
    inbox: Inbox
    duplicates: DuplicateFilter
    staged: dict[bytes, StagedCommit]
    return_keys: tuple[SignaturePrivateKey, ...] = field(repr=False)
    ahead: dict[str, int]
    unsure: UnsureRecord = field(default_factory=UnsureRecord)
    group_info_key: GroupInfoKey | None = None
    entry_info_key: GroupInfoKey | None = None
    partial: PartialMembership | None = None
    left: KnownState | None = None

    def copy(self) -> Contents:
        """The same, which can change by itself."""
        return replace(
            self,
            outbox=self.outbox.copy(),
            inbox=self.inbox.copy(),
            duplicates=self.duplicates.copy(),
            staged=self.staged.copy(),
            ahead=self.ahead.copy(),
        )


def load(transaction: Transaction, room: str, spaces: Spaces, parameters: Parameters) -> Contents:
    """What the store has of a room.

    :raises StoreError: the store failed
    """
    value = transaction.get(ROOMS, room.encode())
    record = NEW_ROOM if value is None else RoomRecord.decode(value)
    value = transaction.get(spaces.outside, OUTSIDE)
    outside = OutsideRecord() if value is None else OutsideRecord.decode(value)
    value = transaction.get(spaces.unsure, OUTSIDE)
    unsure = UnsureRecord() if value is None else UnsureRecord.decode(value)
    stored = transaction.items(spaces.outbox)
    contents = Contents(
        record=record,
        outside=outside,
        membership=None,
        entry=Group.restore(transaction.items(spaces.entering), parameters) if outside.entry else None,
        outbox=Outbox(
            ((number, OutboxRecord.decode(octets)) for number, octets in stored),
            ((number, UploadRecord.decode(octets)) for number, octets in transaction.items(spaces.uploads)),
        ),
        inbox=Inbox(number for number, _ in transaction.items(spaces.inbox)),
        duplicates=DuplicateFilter(transaction.items(spaces.seen)),
        staged={},
        return_keys=tuple(
            CipherSuite.get(int.from_bytes(name[1:], "big")).import_signature_key(octets)
            for name, octets in sorted(transaction.items(spaces.returning))
        ),
        ahead={},
        unsure=unsure,
        group_info_key=_group_info_key(transaction.get(spaces.group_info_key, PRESENT)),
        entry_info_key=_group_info_key(transaction.get(spaces.group_info_key, ENTRY)),
    )
    waiting: dict[bytes, dict[bytes, bytes]] = {}
    for key, value in transaction.items(spaces.pending):
        waiting.setdefault(key[:NUMBER], {})[key[NUMBER:]] = value
    for number, message in contents.outbox:
        if message.kind is OutboxKind.CREATION:
            contents.staged[number] = Group.restore_creation(waiting.pop(number), parameters)
    if record.state is MembershipState.MEMBER:
        group = Group.restore(transaction.items(spaces.group), parameters)
        doubts = Doubts(Doubt.decode(*item) for item in transaction.items(spaces.doubt))
        membership = Membership.restored(group, doubts, PostCommitActions(transaction.items(spaces.owed)))
        unwanted = frozenset(reference for reference, _ in transaction.items(spaces.unwanted))
        contents.membership = replace(membership, unwanted=unwanted)
        if transaction.get(spaces.group_info_key, PRESENT) is None:
            # A store of before 0.2.  Its members derive a key once, of the epoch in which most of them are.
            contents.group_info_key = GroupInfoKey.of(group)
            transaction.put(spaces.group_info_key, PRESENT, contents.group_info_key.encode())
        contents.staged |= {number: group.restore_staged(pieces) for number, pieces in waiting.items()}
    if record.state is MembershipState.PARTIAL:
        whole_tree = transaction.get(spaces.whole_tree, OUTSIDE)
        assert whole_tree is not None, "written together with the state"
        partial = PartialGroup.restore(transaction.items(spaces.partial), parameters)
        policy = RoomPolicy.required_in(partial.context.extensions)
        contents.partial = PartialMembership(partial, policy, WholeTreeRecord.decode(whole_tree))
    return contents


def _group_info_key(value: bytes | None) -> GroupInfoKey | None:
    key = None if value is None else GroupInfoKey.decode(value)
    return key if key is not None and key.key else None
