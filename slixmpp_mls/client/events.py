"""What a room's stanzas have meant, for the application.

Each is a frozen dataclass; `room` is the room's bare JID.  Texts that come from peers are
not in their repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import PeerError
from ..identity import ClientIdentity
from .member import Member
from .storage.doubts import Doubt
from .storage.records import InboxRecord

__all__ = [
    "CommitLost", "Event", "GroupChanged", "GroupClosed", "GroupContinued", "GroupLost", "JoinRequested", "Joined",
    "LeftBehind", "MemberDoubted", "MessageReceived", "MessageSent", "Missed", "Rejected", "Rejoining",
    "RemovedFromGroup", "Unreadable", "Unsure", "as_event", "as_record",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Missed:
    """What cannot be read any more because we had lost the group.

    :ivar after: archive id of the last stanza that we have processed as a member; None for the archive's beginning
    :ivar until: archive id of the stanza by which we are back
    :ivar messages: application messages between them, as far as the archive has shown them to us
    """

    after: str | None
    until: str
    messages: int


@dataclass(frozen=True, slots=True)
class Joined:
    """We are in the group: by a Welcome, or by our own external Commit.

    :ivar by: who let us in, None if nobody had to
    :ivar missed: what we have lost, if we had been in the group before and could not follow it
    """

    room: str
    epoch: int
    by: Member | None
    missed: Missed | None = None


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """Application data from a member.

    :ivar sender: from the leaf, authenticated
    :ivar data: the plaintext
    :ivar epoch: the epoch in which it was sent
    :ivar claimed: the bare JID that the room says it is from; None if it says nothing
    :ivar archive_id: its id in the room's archive
    :ivar origin_id: the sender's id for it, authenticated with it; the room's claim if the sender authenticates none
    :ivar stamp: when the room received it, seconds since the Unix epoch, by the room's clock; None if live
    :ivar occupant: ``room/nickname`` of the sender, as the room says
    :ivar clear: whether the stanza said something in clear beside it
    :ivar removed: whether its sender had been removed from the group when the room got it
    :ivar number: its place in the inbox, for :meth:`~.group.room_group.RoomGroup.handed_over`
    :ivar again: whether it was read before a restart, and perhaps handed over
    :ivar missing: how many messages its sender has encrypted just before it that have not come: a server has lost
        or withholds them, or the sender could not send them, or they will still come (RFC 9750 5.2)
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
        """Whether the room names another account than the leaf does.  The leaf is right."""
        return self.claimed is not None and self.claimed != self.sender.account


@dataclass(frozen=True, slots=True)
class MessageSent:
    """A message of ours is in the room's order.

    :ivar data: its plaintext
    """

    room: str
    origin_id: str
    archive_id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """A Commit has taken effect.

    :ivar epoch: the new one
    :ivar by: the committer
    :ivar updated: members with renewed keys, the committer among them
    :ivar policy_changed: whether the group's extensions are others now
    :ivar doubt: what the Authentication Service had against the committer, whose Commits all must follow alike
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
    """A ReInit has ended the group (RFC 9420 11.2): nothing can be said until another one follows it, here.

    :ivar epoch: its last one
    :ivar by: who has committed it
    :ivar suite: number of the cipher suite of the group to come
    """

    room: str
    epoch: int
    by: Member
    suite: int


@dataclass(frozen=True, slots=True)
class GroupContinued:
    """The group that follows one that was closed is there, with the same members, and we are in it.

    :ivar epoch: its present one
    :ivar by: who has made it; any member may
    :ivar suite: number of its cipher suite
    """

    room: str
    epoch: int
    by: Member
    suite: int


@dataclass(frozen=True, slots=True)
class RemovedFromGroup:
    """We are out.  The group's keys are deleted.

    :ivar by: the committer; None if we gave up by ourselves
    :ivar wanted: whether we had asked for it
    """

    room: str
    by: Member | None
    wanted: bool


@dataclass(frozen=True, slots=True)
class CommitLost:
    """Another Commit came first, or ours was refused; ours is dropped."""

    room: str
    origin_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A stanza was refused and has changed nothing.

    :ivar error: why
    :ivar claimed: the bare JID that the room says it is from
    """

    room: str
    error: PeerError
    claimed: str | None
    archive_id: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Application data that we have no key for, and that may well be genuine.

    :ivar reason: ``before-join``; ``too-late`` (its epoch's keys are deleted); ``future`` (we lack a Commit);
        ``lost`` (we have lost the group)
    """

    room: str
    reason: str
    epoch: int
    claimed: str | None
    archive_id: str


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A member seems to be in a later epoch than we are: we lack a Commit, or have refused one that others accept.

    Said once per account and epoch.  Nothing has been given up.  If it turns out to be so when the archive
    has been read to its end, :class:`GroupLost` follows; see :meth:`.RoomGroup.is_left_behind`.

    :ivar epoch: ours
    :ivar ahead: theirs, as the stanza says: it cannot be authenticated
    :ivar by: the account, as the room says
    """

    room: str
    epoch: int
    ahead: int
    by: str
    archive_id: str


@dataclass(frozen=True, slots=True)
class Unsure:
    """We do not know any more whether we are where the group is, or know it again.

    Nothing is lost.  While we are unsure, what is to be sent waits in the outbox.

    :ivar epoch: ours
    :ivar reasons: ``archive-gap``, ``later-epoch``, ``undecryptable``, ``tombstone``; empty if we are sure again:
        nobody has shown us another state.  If we come back from an older state instead, :class:`Joined` says so
    """

    room: str
    epoch: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberDoubted:
    """The Authentication Service does not vouch for a member; :mod:`.storage.doubts` says what is done about it."""

    room: str
    member: Member
    doubt: Doubt


@dataclass(frozen=True, slots=True)
class GroupLost:
    """We cannot follow the group any more, and must come back into it: see ``rejoin`` among the plugin's settings.

    :ivar reason: for people
    :ivar after: archive id of the last stanza that we have processed; what comes later is lost to us, until we are back
    """

    room: str
    reason: str
    after: str | None


@dataclass(frozen=True, slots=True)
class Rejoining:
    """We try to come (back) into the group.

    :ivar epoch: the one in which the group seems to be
    :ivar attempt: 1 for the first of a day
    :ivar external: by our own external Commit; else by a request that a member may commit
    """

    room: str
    epoch: int
    attempt: int
    external: bool


@dataclass(frozen=True, slots=True)
class JoinRequested:
    """Somebody outside asks to be added, and we do not do it by ourselves.  ``await room.grant(event)`` does.

    A client that proves that it is the one whose leaf is in the group, or for which a device of its account in the
    group vouches, is let in without asking.

    :ivar account: bare JID, vouched for by nobody but the account's own server
    :ivar reason: ``stranger`` (no client of this account is in the group); ``unproven`` (one is, but nothing shows that
        this one belongs to it: a device that is new, or has lost its store, or somebody who claims the name);
        ``unknown`` (a device vouches for it, but the Authentication Service cannot tell at present);
        ``too-often`` (clients of it have come in by their own wish several times in the last hour)
    """

    room: str
    account: str
    device: str
    reason: str
    archive_id: str


Event = (
    Joined
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
    """What is stored of a message.

    :param now: seconds since the Unix epoch: a live message was received now
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
    """The message, to be handed over again."""
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
