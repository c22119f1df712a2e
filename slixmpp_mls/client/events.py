"""Events that report to the application what a room's stanzas mean.

Each event is a frozen dataclass.  `room` is the room's bare JID.  The repr omits texts that come from peers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import MLSError, PeerError
from ..identity import ClientIdentity
from .member import Member
from .storage.doubts import Doubt
from .storage.records import InboxRecord

__all__ = [
    "CommitLost", "Event", "GroupChanged", "GroupClosed", "GroupContinued", "GroupLost", "GroupOutdated",
    "JoinRequested", "Joined", "JoinedPartially", "LeftBehind", "MemberDoubted", "MessageReceived", "MessageSent",
    "Missed", "Rejected", "Rejoining", "RemovedFromGroup", "Unreadable", "Unsure", "WholeTree", "as_event", "as_record",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Missed:
    """The part of the archive that we can no longer read because we had lost the group.

    :ivar after: archive id of the last stanza that we have processed as a member; None for the archive's beginning
    :ivar until: archive id of the stanza by which we are back
    :ivar messages: number of application messages between them, as far as the archive has shown them to us
    """

    after: str | None
    until: str
    messages: int


@dataclass(frozen=True, slots=True)
class Joined:
    """We have joined the group, by a Welcome or by our own external Commit.

    :ivar by: the member that added us; None after an external Commit, which needs none
    :ivar missed: the messages that we have lost, if we had been in the group before and could not follow it
    """

    room: str
    epoch: int
    by: Member | None
    missed: Missed | None = None


@dataclass(frozen=True, slots=True)
class JoinedPartially:
    """We have joined a large group by a Welcome, and do not have its ratchet tree yet.

    We read and send.  Of the members we know those that were proved to us; ``mls_joined`` follows when we know all.

    :ivar by: the member that added us
    :ivar leaves: the width of the group's tree: at most as many members are there
    """

    room: str
    epoch: int
    by: Member
    leaves: int


@dataclass(frozen=True, slots=True)
class WholeTree:
    """How far we are with the ratchet tree of a large group, on joining it or afterwards.

    :ivar stage: ``fetching``, ``checking``, or ``failed``: then it is tried again.  Who joins with the whole tree sees
        ``checking`` only
    :ivar octets: of the tree
    :ivar attempts: to fetch it, this one included
    :ivar error: the reason, if it has failed
    """

    room: str
    stage: str
    octets: int
    attempts: int
    error: MLSError | None = None


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """Application data from a member.

    :ivar sender: the authenticated sender, from its leaf
    :ivar data: the plaintext
    :ivar epoch: the epoch in which it was sent
    :ivar claimed: the sender's bare JID according to the room, not authenticated; None if the room names none
    :ivar archive_id: its id in the room's archive
    :ivar origin_id: the sender's id for it, authenticated with it; the room's claim if the sender authenticates none
    :ivar stamp: time at which the room received it, seconds since the Unix epoch, by the room's clock; None if live
    :ivar occupant: ``room/nickname`` of the sender according to the room, not authenticated
    :ivar clear: whether the stanza also contains cleartext
    :ivar removed: whether its sender had been removed from the group when the room received it
    :ivar number: its place in the inbox, for :meth:`~.group.room_state.RoomState.handed_over`
    :ivar again: whether it was read before a restart; the application may have received it already
    :ivar missing: number of messages that the sender encrypted just before this one and that have not arrived: a server
        has lost or withholds them, the sender could not send them, or they will still arrive (RFC 9750 5.2)
    """

    room: str
    sender: Member
    data: bytes = field(repr=False)
    epoch: int
    claimed: str | None
    archive_id: str
    origin_id: str | None
    stamp: float | None
    occupant: str
    clear: bool
    removed: bool
    number: bytes
    missing: int
    again: bool = False

    @property
    def forged(self) -> bool:
        """Whether the room names another account than the leaf does.  The leaf is authoritative."""
        return self.claimed is not None and self.claimed != self.sender.account


@dataclass(frozen=True, slots=True)
class MessageSent:
    """The room has reflected a message of ours, which is now in the room's order.

    :ivar data: its plaintext
    """

    room: str
    origin_id: str
    archive_id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """A Commit has taken effect.

    :ivar epoch: the new epoch
    :ivar by: the committer
    :ivar updated: members with renewed keys, including the committer
    :ivar policy_changed: whether the group's extensions have changed
    :ivar doubt: the doubt of the Authentication Service about the committer, if any; all members apply its Commit
        nevertheless
    """

    room: str
    epoch: int
    by: Member
    added: tuple[Member, ...]
    removed: tuple[Member, ...]
    updated: tuple[Member, ...]
    policy_changed: bool
    doubt: Doubt | None = None


@dataclass(frozen=True, slots=True)
class GroupClosed:
    """A ReInit has ended the group (RFC 9420 11.2).  Nothing can be sent until its successor exists in this room.

    :ivar epoch: the last epoch of the group
    :ivar by: the committer of the ReInit
    :ivar suite: number of the successor's cipher suite
    """

    room: str
    epoch: int
    by: Member
    suite: int


@dataclass(frozen=True, slots=True)
class GroupContinued:
    """The successor of a closed group exists, with the same members, and we are in it.

    :ivar epoch: its present epoch
    :ivar by: its creator, which may be any member
    :ivar suite: number of its cipher suite
    """

    room: str
    epoch: int
    by: Member
    suite: int


@dataclass(frozen=True, slots=True)
class RemovedFromGroup:
    """We are no longer a member.  The group's keys are deleted.

    :ivar by: the committer; None if we gave the group up ourselves
    :ivar wanted: whether we had asked to leave
    """

    room: str
    by: Member | None
    wanted: bool


@dataclass(frozen=True, slots=True)
class CommitLost:
    """A Commit of ours is dropped, because another one came first or the room refused ours."""

    room: str
    origin_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A stanza was rejected.  The group's state has not changed.

    :ivar error: the reason
    :ivar claimed: the sender's bare JID according to the room, not authenticated
    """

    room: str
    error: PeerError
    claimed: str | None
    archive_id: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Application data that may be genuine, but for which we have no key.

    :ivar reason: ``before-join``; ``too-late`` (its epoch's keys are deleted); ``future`` (we lack a Commit);
        ``lost`` (we have lost the group)
    :ivar count: messages in a row: those from before we joined, which the archive shows, are reported together.  The
        other fields are the last one's
    """

    room: str
    reason: str
    epoch: int
    claimed: str | None
    archive_id: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A member seems to be in a later epoch than ours: we lack a Commit, or have rejected one that others accept.

    The event is reported once per account and epoch.  The group is not given up: :class:`Unsure` follows, and
    :mod:`~.group.certainty` finds out.

    :ivar epoch: our epoch
    :ivar ahead: the member's epoch according to the stanza, not authenticated
    :ivar by: the account according to the room, not authenticated
    """

    room: str
    epoch: int
    ahead: int
    by: str
    archive_id: str


@dataclass(frozen=True, slots=True)
class Unsure:
    """We have become unsure whether our state is the group's present state, or are sure again.

    Nothing is lost.  While we are unsure, messages to be sent wait in the outbox.

    :ivar epoch: our epoch
    :ivar reasons: ``archive-gap``, ``later-epoch``, ``undecryptable``, ``tombstone``, ``unavailable``,
        ``unproven`` (a member shows another state, which only an administrator can prove); empty if we are sure again,
        because no member has shown us another state.  If our state was outdated, :class:`Joined` reports
        our return
    """

    room: str
    epoch: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberDoubted:
    """The Authentication Service does not vouch for a member; see :mod:`.storage.doubts` for the consequences."""

    room: str
    member: Member
    doubt: Doubt


@dataclass(frozen=True, slots=True)
class GroupLost:
    """We can no longer follow the group and must rejoin it; see ``rejoin`` among the plugin's settings.

    :ivar reason: human-readable
    :ivar after: archive id of the last stanza that we have processed; later messages are lost to us until we are back
    """

    room: str
    reason: str
    after: str | None


@dataclass(frozen=True, slots=True)
class GroupOutdated:
    """A group in our store is of version 0.1 of the protocol.  It goes on; nobody new joins it.

    Members with version 0.1 judge some Commits differently, which can split it: begin a new group.

    :ivar clients: full identities of the members that were of version 0.1 when they last renewed their keys
    """

    room: str
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rejoining:
    """We try to join or rejoin the group.

    :ivar epoch: the epoch in which the group seems to be
    :ivar attempt: 1 for the first attempt of a day
    :ivar external: True for our own external Commit, False for a new member's Add that a member may commit
    """

    room: str
    epoch: int
    attempt: int
    external: bool


@dataclass(frozen=True, slots=True)
class JoinRequested:
    """A client outside the group asks to be added, and we do not add it automatically.

    ``await room.grant(event)`` adds it.  A client is added automatically if it proves that a leaf in the group is its
    own, or if a device of its account in the group vouches for it.

    :ivar account: bare JID; only the account's own server vouches for it
    :ivar reason: ``stranger`` (no client of this account is in the group); ``unproven`` (one is, but nothing proves
        that this client belongs to the account: it is a new device, has lost its store, or claims a false name);
        ``unknown`` (a device vouches for it, but the Authentication Service cannot tell at present);
        ``too-often`` (clients of the account have joined at their own request several times in the last hour)
    :ivar leaf: encryption key of the leaf that the device had in the group as its request was read; empty if it had
        none; None if that is not known.  A grant replaces no other leaf
    """

    room: str
    account: str
    device: str
    reason: str
    archive_id: str
    leaf: bytes | None = field(default=None, repr=False)


Event = (
    Joined
    | JoinedPartially
    | WholeTree
    | MessageReceived
    | MessageSent
    | GroupChanged
    | RemovedFromGroup
    | CommitLost
    | Rejected
    | Unreadable
    | GroupClosed
    | GroupContinued
    | GroupLost
    | LeftBehind
    | Unsure
    | MemberDoubted
    | Rejoining
    | JoinRequested
)


def as_record(message: MessageReceived, now: int) -> InboxRecord:
    """The inbox record of a message.

    :param now: seconds since the Unix epoch, taken as the time at which a live message was received
    """
    stamp = now if message.stamp is None else message.stamp
    return InboxRecord(
        sender=str(message.sender).encode(),
        leaf=message.sender.leaf_index,
        signature_key=message.sender.signature_key,
        epoch=message.epoch,
        claimed=(message.claimed or "").encode(),
        archive_id=message.archive_id.encode(),
        origin_id=(message.origin_id or "").encode(),
        occupant=message.occupant.encode(),
        clear=int(message.clear),
        removed=int(message.removed),
        stamp=max(0, int(stamp * 1000)),
        missing=message.missing,
        data=message.data,
    )


def as_event(room: str, number: bytes, record: InboxRecord) -> MessageReceived:
    """The event of a stored message, to be handed over again."""
    account, _, device = record.sender.decode().partition("/")
    who = ClientIdentity(account, device)
    key = record.signature_key
    return MessageReceived(
        room=room,
        sender=Member(who.account, who.device, record.leaf, key),
        data=record.data,
        epoch=record.epoch,
        claimed=record.claimed.decode() or None,
        archive_id=record.archive_id.decode(),
        origin_id=record.origin_id.decode() or None,
        stamp=record.stamp / 1000,
        occupant=record.occupant.decode(),
        clear=bool(record.clear),
        removed=bool(record.removed),
        number=number,
        missing=record.missing,
        again=True,
    )
