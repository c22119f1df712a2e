"""The input and output types of a :class:`~.room_group.RoomGroup`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import PeerError
from ...mls.group.group import Group
from ...mls.group.joining import StagedJoin
from ...mls.group.message_processing import ReceivedMessage, ReceivedProposal
from ...mls.group.staging import StagedCommit
from ...mls.partial import PartialGroup, StagedPartialJoin
from ...mls.structures.leaf_node import LeafNode
from ...mls.tree.leaf_creation import KeyPackageBundle
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ...stanza.blob import BlobReference
from ...stanza.elements import RoomElement
from ..events import Event
from ..storage.records import OutboxKind
from .following import Followed, Wanted
from .group_info_key import GroupInfoKey
from .resumption_psks import Awaited
from .tree_check import CheckedWhole, TreeCheck

__all__ = [
    "Abandon", "Begin", "Enter", "Fits", "Follow", "Ignore", "Incoming", "Join", "JoinPartially", "LeaveOut", "MoveOn",
    "Outgoing", "Read", "Remember", "Sent", "Step",
]  # fmt: skip

Fits = Callable[[Sequence[RoomElement]], None]
"""Raises StanzaTooLarge if these elements do not fit into a stanza."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One stanza of the room, parsed.

    :ivar archive_id: its place in the room's order
    :ivar payloads: its elements, in order; empty if they could not be parsed
    :ivar claimed: the sender's bare JID according to the room, not authenticated
    :ivar origin_id: the sender's own id for it
    :ivar stamp: time at which the room received it, seconds since the Unix epoch; None if now
    :ivar error: the reason for which it could not be parsed
    :ivar refused: errors of elements that are omitted from `payloads`; each of them is omitted alone
    :ivar occupant: ``room/nickname`` of the sender according to the room, not authenticated
    :ivar clear: whether it also contains cleartext
    :ivar fetched: the content of blobs that it refers to, as far as :attr:`Step.fetch` has asked for them
    :ivar tombstone: whether it is the tombstone of a retracted stanza (XEP-0424, XEP-0425)
    :ivar checked: the result of what :attr:`Step.check` has asked for
    :ivar whole: whether we do not join before we have the ratchet tree
    """

    archive_id: str
    payloads: tuple[RoomElement, ...]
    claimed: str | None = None
    origin_id: str | None = None
    stamp: float | None = None
    error: PeerError | None = None
    refused: tuple[PeerError, ...] = ()
    occupant: str = ""
    clear: bool = False
    fetched: Mapping[BlobReference, bytes] = field(default_factory=dict, repr=False)
    tombstone: bool = False
    checked: CheckedWhole | None = field(default=None, repr=False)
    whole: bool = False

    def with_blob(self, place: BlobReference, content: bytes) -> Incoming:
        """The same stanza, after a blob of it has been fetched."""
        return replace(self, fetched={**self.fetched, place: content})

    def with_checked(self, checked: CheckedWhole) -> Incoming:
        """The same stanza, after the ratchet tree of its Welcome has been verified."""
        return replace(self, checked=checked)

    def with_whole_tree(self) -> Incoming:
        """The same stanza, by whose Welcome we join only with the whole tree."""
        return replace(self, whole=True)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent to the room, already stored.

    :ivar origin_id: its id, which is the same whenever it is sent again
    :ivar payloads: its elements
    :ivar uploads: what must be uploaded before it can be sent, see :meth:`.Sending.placed`; `payloads` is empty then
    """

    origin_id: str
    kind: OutboxKind
    payloads: tuple[RoomElement, ...] = field(repr=False)
    uploads: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Ignore:
    """Only our place in the room changes.

    :ivar events: the events to report
    :ivar ahead: the account of a member that is in a later epoch, according to the room, and that epoch
    :ivar unsure: an :class:`~.certainty.UnsureReason`, or 0
    :ivar void: the MLSMessage of a Commit of the present epoch that is void for all members alike, wherever in the
        room it comes again; empty if there is none
    """

    events: tuple[Event, ...] = ()
    ahead: tuple[str, int] | None = None
    unsure: int = 0
    void: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Sent:
    """The room has reflected our own message or proposal, which is now in the room's order.

    :ivar number: its key in the outbox
    """

    number: bytes
    event: Event | None


@dataclass(frozen=True, slots=True)
class Begin:
    """The room has reflected our own creation of a group, and the creation is valid.

    :ivar number: its key in the outbox
    """

    number: bytes


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """A creation of the group that follows ours, which others may follow and we do not (:mod:`.continuation`)."""


@dataclass(frozen=True, slots=True)
class Read:
    """Application data."""

    received: ReceivedMessage


@dataclass(frozen=True, slots=True)
class Remember:
    """A proposal, to be kept for a Commit."""

    received: ReceivedProposal


@dataclass(frozen=True, slots=True)
class MoveOn:
    """A Commit that ends the epoch; the first valid one in the room's order.

    :ivar roster: the roster after it; None if it removes us
    :ivar readded: whether a Commit that removes us adds us again, by a KeyPackage of ours
    :ivar join: the Welcome in the same stanza, if the Commit removes us and adds us again
    :ivar events: further events to report
    """

    staged: StagedCommit
    roster: Roster | None
    policy: RoomPolicy | None
    readded: bool = False
    join: Join | None = None
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """A Welcome for us.

    :ivar group_info_key: the key of the group's GroupInfos; None if the committer does not know it
    """

    staged: StagedJoin
    bundle: KeyPackageBundle
    roster: Roster
    policy: RoomPolicy
    group_info_key: GroupInfoKey | None


@dataclass(frozen=True, slots=True)
class JoinPartially:
    """A Welcome for us, whose ratchet tree is elsewhere and not needed to join (:mod:`.membership_proofs`).

    :ivar location: where the tree is
    :ivar group_info_key: as in :class:`Join`
    """

    staged: StagedPartialJoin[PartialGroup]
    bundle: KeyPackageBundle
    policy: RoomPolicy
    location: BlobReference
    group_info_key: GroupInfoKey | None


@dataclass(frozen=True, slots=True)
class Follow:
    """A Commit that a member without the ratchet tree may follow (:mod:`.following`)."""

    followed: Followed


@dataclass(frozen=True, slots=True)
class Enter:
    """Our own external Commit, the first Commit of its epoch in the room."""

    state: Group


@dataclass(frozen=True, slots=True)
class Abandon:
    """Our own state must not be used any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """The effect of a stanza.  Pass it to `accept` or to `refuse` before the next stanza is examined.

    :ivar leaves: new leaves, for the Authentication Service to judge before the step is accepted
    :ivar successions: leaves whose holders replace them, and what takes their place.  RFC 9420 12.1.2, 12.4: Updates,
        and the path of a Commit, replace their sender's leaf, and are signed with its key
    :ivar fetch: a blob that is needed first: a Commit, a Welcome for us, or its ratchet tree.  Fetch it, and examine
        the stanza again :meth:`~Incoming.with_blob`; if it cannot be fetched, `refuse` the step
    :ivar check: a large ratchet tree that is to be verified first.  :meth:`~.TreeCheck.run` it, in another thread, and
        examine the stanza again :meth:`~Incoming.with_checked`
    :ivar claim: leaf index of the member that has signed the location of a Commit here
    :ivar awaits: an epoch of another room's group, a PSK of which it names: wait for that room to get there, or to have
        been read to its end, and examine the stanza again; then accept what comes out
    :ivar gap: a stanza that comes before this one in the room's order seems to be missing.  Unless this stanza comes
        from the room's archive, the caller reads the archive first
    :ivar needs_tree: only a full member can tell what the stanza means.  Wait until we are one, or give up waiting
        (:meth:`.Partial.set_aside`), and examine the stanza again; nothing after it is read before
    :ivar wants: with `needs_tree`: annotations that would do in place of the tree (:mod:`.following`); None if none
    """

    incoming: Incoming
    action: (
        Ignore | Sent | Begin | LeaveOut | Read | Remember | MoveOn | Join | JoinPartially | Follow | Enter | Abandon
    )
    leaves: Sequence[LeafNode] = ()
    successions: tuple[tuple[LeafNode, LeafNode], ...] = ()
    fetch: BlobReference | None = None
    check: TreeCheck | None = None
    claim: int | None = None
    awaits: Awaited | None = None
    gap: bool = False
    needs_tree: bool = False
    wants: Wanted | None = None

    @property
    def join(self) -> Join | JoinPartially | None:
        """The Welcome that it would follow, if any: `leaves` are those of the group that it leads into."""
        return self.action if isinstance(self.action, Join | JoinPartially) else getattr(self.action, "join", None)
