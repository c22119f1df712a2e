"""One room's group on this device: the ordering rules, and the facade of the parts that implement them.

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

    INVITED ──Welcome──► MEMBER ──Commit that removes us──► OUT ──Welcome──► MEMBER
                           └── its store is an old copy ──► LOST ──Welcome──► MEMBER

An external Commit of our own may take the place of a Welcome.

All parts share one :class:`~.room_state.RoomState` and change it only by its transactions.  If a call raises, neither
the store nor memory has changed.

=========================  =========================================================================================
:mod:`.processing`         turns a stanza into a Step; changes nothing
:mod:`.applying`           turns a Step into a changed state and events
:mod:`.sending`            makes messages, and keeps them until the room reflects them
:mod:`.welcome`            joins the group by a Welcome
:mod:`.external_commit`    joins the group by an external Commit of our own
:mod:`.join_request`       observes the group from outside, and asks to be added
:mod:`.continuation`       creates and enters groups that follow, or branch off, other groups
:mod:`.certainty`          finds out whether our state is the group's present state
:mod:`.lifecycle`          creates a group, gives it up, waits for it
:mod:`.members`            the members and the age of their keys
=========================  =========================================================================================

A part knows only the parts that its constructor takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...mls.group.group import Group
from ...mls.group.resumption import CreationDraft
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.proposals import ReInit
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ...stanza.elements import GroupInfo
from ..device import Device
from ..events import Event
from ..storage.doubts import Doubts
from ..storage.post_commit_actions import PostCommitActions
from ..storage.records import ROOMS, MembershipState
from .actions import Fits, Outgoing
from .applying import Applying
from .certainty import Certainty, UnsureReason
from .continuation import Continuation
from .external_commit import ExternalCommits
from .join_request import JoinRequests
from .lifecycle import Lifecycle
from .members import Members
from .processing import Processing
from .room_change import Membership
from .room_state import RoomState
from .sending import Sending
from .welcome import Welcomes

__all__ = ["Fits", "RoomGroup"]


class RoomGroup:
    """A room's group.

    Most methods delegate to its parts, under the same name or a longer one.

    :ivar device: the device that the group belongs to
    :ivar room: bare JID
    :ivar room_state: the room's state in the store and in memory
    """

    def __init__(self, device: Device, room: str) -> None:
        """Resume from the state in the store.  A room that the store does not know is one that we are invited to.

        :raises StoreError: the store failed
        """
        self.device = device
        self.room = room
        self.room_state = state = RoomState(device.store, room, device.parameters)
        self._requests = requests = JoinRequests(device, state)
        self._entries = entries = ExternalCommits(device, state)
        self._continuation = continuation = Continuation(device, state)
        self._sending = sending = Sending(device, state)
        self._members = members = Members(device, state)
        welcomes = Welcomes(device, state, requests)
        self._processing = processing = Processing(device, state, welcomes, entries, continuation)
        self._certainty = certainty = Certainty(device, state)
        applying = Applying(device, state, welcomes, entries, requests, continuation, certainty)
        lifecycle = Lifecycle(device, state)

        self.together = state.together
        self.require_member = state.require_member
        self.not_handed_over, self.handed_over = state.not_handed_over, state.handed_over
        self.forget_handed_over = state.forget_handed_over

        self.examine = processing.examine
        self.accept, self.refuse = applying.accept, applying.refuse

        self.on_its_way, self.compose = sending.on_its_way, sending.compose
        self.propose, self.propose_update = sending.propose, sending.propose_update
        self.commit, self.draft_commit, self.is_current = sending.commit, sending.draft_commit, sending.is_current
        self.try_commit, self.finish_commit = sending.try_commit, sending.finish_commit

        self.draft_external_commit, self.finish_external_commit = entries.draft, entries.finish
        self.asking_at, self.may_try_at, self.ask = requests.asking_at, requests.may_try_at, requests.ask

        self.continue_group, self.draft_continuation = continuation.continue_group, continuation.draft
        self.rehearse, self.finish_creation = continuation.rehearse, continuation.finish

        self.members, self.member, self.has_key = members.all, members.one, members.has_key
        self.renewal_due, self.reconsider = members.renewal_due, members.reconsider

        self.skip_gap, self.settle, self.inquire = certainty.skip_gap, certainty.settle, certainty.inquire
        self.take_answer, self.take_group_info = certainty.take_answer, certainty.take_group_info
        self.forget_door = certainty.forget_door
        self.judge_inquiry, self.answer_inquiry = certainty.judge, certainty.answer

        self.create, self.give_up, self.tidy = lifecycle.create, lifecycle.give_up, lifecycle.tidy
        self.want_to_leave, self.done = lifecycle.want_to_leave, lifecycle.done
        self.seek, self.expect_welcome, self.stop_waiting = (
            lifecycle.seek,
            lifecycle.expect_welcome,
            lifecycle.stop_waiting,
        )
        self.begin_creation, self.end_creation = lifecycle.begin_creation, lifecycle.end_creation

    def __repr__(self) -> str:
        membership = self.room_state.membership
        return f"<RoomGroup {self.room} {self.state.name} {None if membership is None else membership.group!r}>"

    @staticmethod
    def known(device: Device) -> list[str]:
        """Bare JIDs of all rooms that the store knows.

        :raises StoreError: the store failed
        """
        with device.store.transaction() as transaction:
            return [key.decode() for key, _ in transaction.items(ROOMS)]

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
        """Whether we are in the group."""
        return self.room_state.membership is not None

    @property
    def mls(self) -> Group:
        """The group's MLS state.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_member().group

    @property
    def policy(self) -> RoomPolicy:
        """The group's policy.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_member().policy

    @property
    def roster(self) -> Roster:
        """The index of the group's leaves by account and by client.

        :raises UsageError: we are not in the group
        """
        return self.room_state.require_member().roster

    @property
    def doubts(self) -> Doubts:
        """As :attr:`.Members.doubts`."""
        return self._members.doubts

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
    def unsure(self) -> UnsureReason:
        """As :attr:`.Certainty.reasons`."""
        return self._certainty.reasons

    @property
    def holds(self) -> bool:
        """Whether we neither send nor commit, because our state may not be, or is not, the group's."""
        return self.is_member and bool(self._certainty.reasons)

    @property
    def returning(self) -> bool:
        """As :attr:`.RoomState.returning`."""
        return self.room_state.returning

    @property
    def door(self) -> GroupInfo | None:
        """As :attr:`.Certainty.door`."""
        return self._certainty.door

    # --- sending -------------------------------------------------------------------------------

    @property
    def talks_to_anybody(self) -> bool:
        """Whether to encrypt even for members that the Authentication Service denies."""
        return self._sending.talks_to_anybody

    @talks_to_anybody.setter
    def talks_to_anybody(self, anybody: bool) -> None:
        self._sending.talks_to_anybody = anybody

    @property
    def silenced(self) -> bool:
        """As :attr:`.Sending.silenced`."""
        return self._sending.silenced

    @property
    def needs_commit(self) -> bool:
        """As :attr:`.Sending.needs_commit`."""
        return self._sending.needs_commit

    @property
    def leaf_outdated(self) -> bool:
        """As :attr:`.Sending.leaf_outdated`."""
        return self._sending.leaf_outdated

    @property
    def messages_wait(self) -> bool:
        """As :attr:`.Sending.messages_wait`."""
        return self._sending.messages_wait

    @property
    def commit_waits(self) -> bool:
        """Whether a Commit of ours waits for its reflection."""
        return self._sending.commit_waits

    @property
    def entry_waits(self) -> bool:
        """Whether an external Commit of ours waits for its reflection."""
        return self._entries.waits

    @property
    def creation_waits(self) -> bool:
        """Whether a creation of ours waits for its reflection."""
        return self._continuation.waits

    def outstanding_ids(self) -> frozenset[str]:
        """Origin ids of messages that the room has not reflected."""
        outside = (outgoing.origin_id for outgoing in self._unconfirmed_outside())
        return frozenset((*self._sending.outstanding_ids(), *outside))

    def outstanding(self) -> Iterator[Outgoing]:
        """The messages that the room has not reflected, oldest first; see :meth:`.Sending.outstanding`.

        :raises StoreError: the store failed; messages already returned are stored
        """
        yield from self._unconfirmed_outside()
        yield from self._sending.outstanding()

    def _unconfirmed_outside(self) -> Iterator[Outgoing]:
        yield from self._entries.unconfirmed()
        yield from self._requests.unconfirmed()

    def bounced(self, origin_id: str, reason: str) -> list[Event]:
        """Stop sending a message of ours that the room has refused; see :meth:`.Sending.refused`.

        :raises StoreError: nothing has changed
        """
        if self.is_member and self._sending.knows(origin_id):
            return self._sending.refused(origin_id, reason)
        self._requests.refused(origin_id)
        return self._entries.refused(origin_id, reason)

    # --- outside of the group ------------------------------------------------------------------

    @property
    def attempts(self) -> int:
        """The number of our consecutive requests to be added."""
        return self._requests.attempts

    @property
    def epoch_seen(self) -> int | None:
        """The epoch in which the group seems to be, while we are outside."""
        return self._requests.epoch_seen

    # --- other groups --------------------------------------------------------------------------

    @property
    def reinit(self) -> ReInit | None:
        """The ReInit that has ended our group, while its successor is awaited; None otherwise."""
        return self._continuation.reinit

    def draft_branch(
        self, source: RoomGroup, policy: RoomPolicy, others: Sequence[KeyPackage], now: int
    ) -> CreationDraft:
        """As :meth:`.Continuation.draft_branch`.

        :param source: another room's group
        :raises UsageError: we are in a group here, or not in one there
        :raises InvalidError: somebody is no member there, or a KeyPackage does not fit
        """
        return self._continuation.draft_branch(source.mls, policy, others, now)

    def branch(
        self, source: RoomGroup, policy: RoomPolicy, others: Sequence[KeyPackage], now: int, *, fits: Fits | None = None
    ) -> Outgoing:
        """Create this room's group from some members of another room's group (RFC 9420 11.3).

        The creation is stored when this returns.

        :param source: the other room's group
        :param policy: of the new group
        :param others: KeyPackages of its members except us, of the other group's cipher suite
        :raises UsageError: we are in a group here, are not in one there, or a creation of ours waits already
        :raises InvalidError: a client is not a member there, or a KeyPackage does not fit
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        return self.finish_creation(self.draft_branch(source, policy, others, now), fits=fits)
