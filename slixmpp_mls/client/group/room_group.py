"""One room's group on this device: the ordering rules, and the parts that implement them.

The rules (the XEP's "Business Rules"):

1. The room's order is authoritative.  The first valid Commit for an epoch, in that order, ends the epoch.
   Later Commits for that epoch, ours included, are void, and so are the Welcomes in their stanzas.
2. Our own Commit takes effect when the room reflects it, not before.  Until then the store keeps it.
3. A message is stored before it is sent, together with the state in which its key is used up.  It stays in the outbox
   until its reflection arrives, which is identified by the hash of its octets.  After a reconnection without the
   reflection the same octets are sent again.  Readers see a message once, however often it arrives.
4. Our place in the room (the archive id of the last stanza processed) is written in the same transaction as the changes
   by that stanza.
5. The room's statement about a sender is compared with the leaf and never trusted.

States::

    INVITED ──Welcome──► PARTIAL ──ratchet tree──► MEMBER
    FOUNDING ──its group is made──► MEMBER
    INVITED ──Welcome──► MEMBER ──Commit that removes us──► OUT ──Welcome──► MEMBER
                           └── its store is an old copy, or our user gives it up ──► LOST ──Welcome──► MEMBER

An external Commit of our own may take the place of a Welcome.

All parts share one :class:`~.room_state.RoomState` and change it only by its transactions.  If a call raises, neither
the store nor memory has changed.

=========================  =========================================================================================
:mod:`.processing`         turns a stanza into a Step; changes nothing
:mod:`.applying`           turns a Step into a changed state and events
:mod:`.sending`            makes messages, and keeps them until the room reflects them
:mod:`.welcome`            joins the group by a Welcome
:mod:`.external_commit`    joins the group by an external Commit of our own
:mod:`.group_infos`        chooses the GroupInfo for that
:mod:`.join_request`       observes the group from outside, and asks to be added
:mod:`.continuation`       creates and enters groups that follow, or branch off, other groups
:mod:`.certainty`          finds out whether our state is the group's present state
:mod:`.lifecycle`          creates a group, gives it up, waits for it
:mod:`.members`            the members and the age of their keys
:mod:`.partial`            the time in the group without its ratchet tree
:mod:`.following`          stays in the group without it, by annotations
:mod:`.annotating`         makes the annotations, with the tree
:mod:`.ephemeral`          seals and opens content that is not stored
=========================  =========================================================================================

A part knows only the parts that its constructor takes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields

from ...identity import ClientIdentity
from ...mls.group.group import Group
from ...mls.partial import PartialGroup
from ...policy import Right, RoomPolicy
from ...policy.roster import Roster
from ..device import Device
from ..events import Event
from ..storage.post_commit_actions import PostCommitActions
from ..storage.records import ROOMS, MembershipState, Spaces, room_of
from .actions import Fits, Outgoing
from .annotating import Annotator
from .applying import Applying
from .certainty import Certainty
from .continuation import Continuation
from .ephemeral import Ephemeral
from .external_commit import ExternalCommits
from .following import Following
from .group_infos import GroupInfos
from .join_request import JoinRequests
from .lifecycle import Lifecycle
from .members import Members
from .partial import Partial
from .processing import Processing
from .room_contents import Membership
from .room_state import RoomState
from .sending import Sending
from .welcome import Welcomes

__all__ = ["Fits", "RoomGroup"]

log = logging.getLogger(__name__)


class RoomGroup:
    """A room's group: its parts, and what concerns several of them.

    :ivar device: the device that the group belongs to
    :ivar room: bare JID
    :ivar room_state: the room's state in the store and in memory
    :ivar processing: see the module, also for the other parts
    """

    def __init__(self, device: Device, room: str) -> None:
        """Resume from the state in the store.  A room that the store does not know is one that we are invited to.

        :raises StoreError: the store failed
        """
        self.device = device
        self.room = room
        self.room_state = state = RoomState(device.store, room, device.parameters)
        self.join_requests = requests = JoinRequests(device, state)
        self.external_commits = entries = ExternalCommits(device, state)
        self.group_infos = group_infos = GroupInfos(device, state, entries)
        self.continuation = continuation = Continuation(device, state)
        self.certainty = certainty = Certainty(device, state, group_infos)
        self.welcomes = welcomes = Welcomes(device, state, requests)
        self.following = following = Following(device, state)
        self.annotator = annotator = Annotator(device, state)
        self.processing = Processing(device, state, welcomes, entries, continuation, following)
        self.applying = Applying(device, state, welcomes, entries, requests, continuation, certainty, annotator)
        self.sending = Sending(device, state)
        self.members = Members(device, state)
        self.partial = Partial(device, state)
        self.lifecycle = Lifecycle(device, state)
        self.ephemeral = Ephemeral(device, state)

    def __repr__(self) -> str:
        membership = self.room_state.membership
        return f"<RoomGroup {self.room} {self.state.name} {None if membership is None else membership.group!r}>"

    @staticmethod
    def known(device: Device) -> list[str]:
        """Bare JIDs of all rooms that the store knows.  Records whose key is no address are passed over.

        :raises StoreError: the store failed
        """
        with device.store.transaction() as transaction:
            rooms = [room_of(key) for key, _ in transaction.items(ROOMS)]
        if None in rooms:
            log.warning("the store has a room whose address is none; slixmpp-mls store check names it")
        return [room for room in rooms if room is not None]

    @staticmethod
    def delete(device: Device, room: str) -> None:
        """Delete all that the store has of a room, which need not be readable.

        :param room: bare JID
        :raises StoreError: nothing has changed
        """
        spaces = Spaces.of(room)
        with device.store.transaction() as transaction:
            for space in fields(spaces):
                transaction.delete_prefix(getattr(spaces, space.name))
            transaction.delete(ROOMS, room.encode())

    # --- what it is ----------------------------------------------------------------------------

    @property
    def state(self) -> MembershipState:
        """Our relation to the group."""
        return self.room_state.standing

    @property
    def cursor(self) -> str | None:
        """The archive id of the last stanza processed."""
        return self.room_state.cursor

    @property
    def is_member(self) -> bool:
        """Whether we are in the group, and have its ratchet tree."""
        return self.room_state.membership is not None

    @property
    def is_partial(self) -> bool:
        """Whether we are in the group without its ratchet tree (:mod:`.partial`)."""
        return self.room_state.partial is not None

    def require_member(self) -> None:
        """
        :raises UsageError: we are not in the group
        """
        self.room_state.require_member()

    @property
    def mls(self) -> Group:
        """The group's MLS state.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_member().group

    @property
    def speaking(self) -> Group | PartialGroup:
        """The same, with or without the ratchet tree.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_speaking().group

    @property
    def policy(self) -> RoomPolicy:
        """The group's policy.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_speaking().policy

    @property
    def roster(self) -> Roster:
        """The index of the group's leaves by account and by client.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_member().roster

    def encryption_key(self, client: ClientIdentity) -> bytes:
        """The encryption key of a client's leaf, by which its present keys are known; empty if it has none.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_member().encryption_key(client)

    def is_administrator(self, account: str) -> bool:
        """Whether a sender's account is an administrator at present.

        Without the ratchet tree, only one that the policy lists: it is not known whether none of those is a member,
        so that others take their place (:meth:`.RoomPolicy.is_administrator`).

        :raises UsageError: we are not in the group
        """
        membership, policy = self.room_state.membership, self.policy
        if membership is not None:
            return policy.is_administrator(account, membership.roster)
        return account in policy.administrators and Roster.of(self.speaking.members()).has_say(account)

    def permits(self, right: Right, account: str) -> bool:
        """Whether a sender's account has a right, such as ``policy.may_change_subject``.

        :raises UsageError: we are not in the group
        """
        if right == Right.ADMINISTRATORS:
            return self.is_administrator(account)
        membership = self.room_state.membership
        roster = Roster.of(self.speaking.members()) if membership is None else membership.roster
        return self.policy.permits(right, account, roster)

    @property
    def post_commit_actions(self) -> PostCommitActions:
        """The pending actions outside of the group; none if we are not in it."""
        membership: Membership | None = self.room_state.membership
        return PostCommitActions() if membership is None else membership.actions

    @property
    def behind(self) -> frozenset[str]:
        """Accounts of members that, according to the room, send in a later epoch than ours."""
        return frozenset(self.room_state.ahead)

    @property
    def holds(self) -> bool:
        """Whether we neither send nor commit, because our state may not be, or is not, the group's."""
        return self.is_member and bool(self.certainty.reasons)

    @property
    def follows(self) -> bool:
        """Whether we read the room as one that is in the group, with or without its ratchet tree."""
        return self.is_member or self.partial.follows

    @property
    def waits_to_send(self) -> bool:
        """Whether our messages only wait: we may not be, or are not, in the group's present epoch."""
        return self.holds or self.room_state.waits_for_tree

    @property
    def returning(self) -> bool:
        """As :attr:`.RoomState.returning`."""
        return self.room_state.returning

    # --- sending -------------------------------------------------------------------------------

    def outstanding_ids(self) -> frozenset[str]:
        """Origin ids of messages that the room has not reflected."""
        outside = (outgoing.origin_id for outgoing in self._unconfirmed_outside())
        return frozenset((*self.sending.outstanding_ids(), *outside))

    def outstanding(self) -> Iterator[Outgoing]:
        """The messages that the room has not reflected, oldest first; see :meth:`.Sending.outstanding`.

        :raises StoreError: the store failed; messages already returned are stored
        """
        yield from self._unconfirmed_outside()
        yield from self.sending.outstanding()

    def _unconfirmed_outside(self) -> Iterator[Outgoing]:
        yield from self.external_commits.unconfirmed()
        yield from self.join_requests.unconfirmed()

    def bounced(self, origin_id: str, reason: str) -> list[Event]:
        """Stop sending a message of ours that the room has refused; see :meth:`.Sending.refused`.

        :raises StoreError: nothing has changed
        """
        if self.room_state.speaking is not None and self.sending.knows(origin_id):
            return self.sending.refused(origin_id, reason)
        self.join_requests.refused(origin_id)
        return self.external_commits.refused(origin_id, reason)
