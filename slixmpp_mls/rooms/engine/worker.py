"""The engine of one encrypted room: it connects the room's stanzas with the group's state.

::

    Room.batches ──► Reader ──► RoomGroup ──► events, and those that wait
    Sender, Committer, Rejoiner ──► RoomGroup ── outbox ──► Transmitter ──► Room.send

One task processes the stanzas in the room's order (:mod:`.reader`); nothing else moves the group's place in it.
Everything sent has been stored before (:mod:`.sender`, :mod:`.committer`).  Messages that the room has not reflected
are sent again when the archive has been read to its end after an interruption, or after a doubt (:mod:`.transmitter`).

The worker builds these parts (each gets its dependencies, and none knows the worker), and begins and ends them.  It
handles the consequences of what has been read: it informs the application, waiting parts continue (:mod:`.progress`),
and the actions after a Commit begin (:mod:`.post_commit`).

The module is longer than others, because the consequences of an event concern most parts and are decided in one place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from ...client import (
    CommitLost,
    Event,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    GroupLost,
    GroupOutdated,
    Joined,
    JoinedPartially,
    JoinRequested,
    LeftBehind,
    MessageReceived,
    MessageSent,
    Rejected,
    Rejoining,
    RemovedFromGroup,
    RoomGroup,
    Unreadable,
    Unsure,
)
from ...client.group.actions import Remember
from ...client.group.resumption_psks import Awaited
from ...delivery import (
    AffiliationChanged,
    AttemptFailed,
    Bounced,
    CatchingUp,
    Entered,
    EphemeralShown,
    Interrupted,
    Reconfigured,
    Room,
    RoomEvent,
    Unarchived,
    Verified,
)
from ...errors import ArchiveGap, DeliveryError, Disconnected, MLSError, NotPermitted, RoomLost, StoreError, UsageError
from ...identity import ClientIdentity
from ...policy import is_group_of_0_1, is_leaf_of_0_1
from ...runtime import Context
from ...stanza import Ephemeral
from .annotation_exchange import AnnotationExchange
from .committer import Committer
from .handler_dispatch import HandledMessages
from .member_checks import MemberChecks
from .outage import OutageReport
from .parts import RoomParts
from .post_commit import PostCommit
from .progress import Progress
from .reader import Reader, Taken
from .readmission import Readmission
from .recovery import Recovery
from .reinit import Reinitializer
from .rejoin import Rejoiner
from .repeated_invitations import RepeatedInvitations
from .sender import Sender
from .suitability import Suitability
from .transmitter import Transmitter
from .whole_tree import TreeFetcher

__all__ = ["RoomWorker"]

log = logging.getLogger(__name__)

_EVENT_NAMES: dict[type, str] = {
    MessageSent: "mls_sent",
    GroupChanged: "mls_group_changed",
    CommitLost: "mls_commit_lost",
    Joined: "mls_joined",
    JoinedPartially: "mls_joined_partially",
    RemovedFromGroup: "mls_removed",
    Rejected: "mls_rejected",
    Unreadable: "mls_unreadable",
    GroupClosed: "mls_group_closed",
    GroupContinued: "mls_group_continued",
    GroupLost: "mls_group_lost",
    LeftBehind: "mls_left_behind",
    Unsure: "mls_unsure",
    JoinRequested: "mls_join_requested",
    Rejoining: "mls_rejoining",
    CatchingUp: "mls_catching_up",
    Entered: "mls_entered",
    Interrupted: "mls_interrupted",
    Bounced: "mls_bounced",
    AffiliationChanged: "mls_affiliation_changed",
}


class RoomWorker:
    """Reads one room into one group, and sends for it.  The parts are public: callers use the one that they need.

    :param received: called with each message of a member, which stays in the store until `handled`
    :param remove: removes a client from the group
    :param went_live: called whenever the room has been caught up with
    :param expelled: called with the bare JID of each account that has lost its affiliation
    :param requested: called with each request to be added that members do not commit by themselves
    :param reached: waits until another room of ours is in an epoch that this one needs, or will not reach it
    :param ephemeral: called with content that has no place in the order
    :param next_try: seconds until the room is tried again, if it is lost; None: it is not
    """

    def __init__(
        self,
        context: Context,
        room: str,
        nick: str,
        *,
        received: Callable[[MessageReceived], None],
        remove: Callable[[ClientIdentity], Awaitable[object]],
        went_live: Callable[[], None],
        expelled: Callable[[str], Coroutine[Any, Any, None]],
        requested: Callable[[JoinRequested], None],
        reached: Callable[[Awaited], Awaitable[None]],
        ephemeral: Callable[[EphemeralShown], None],
        next_try: Callable[[], float | None],
    ) -> None:
        group = RoomGroup(context.device, room)
        ping_interval = context.settings.self_ping
        muc = Room(context.xmpp, room, nick, on_event=self._room_event, ping_interval=ping_interval)
        self.progress = Progress(group)
        self.parts = parts = RoomParts(context, group, muc, self.progress, context.tasks.of(room))
        self.transmitter = Transmitter(parts, self._refused)
        self.committer = Committer(parts, self.transmitter)
        self.sender = Sender(parts, self.committer, self.transmitter, self._bounced)
        self.rejoiner = Rejoiner(parts, self.transmitter)
        self.recovery = Recovery(parts, self.committer, self.transmitter, self.rejoiner, self._emit, self._sure)
        self.readmission = Readmission(parts, self.committer)
        self.reinitializer = Reinitializer(parts, self.committer, self._read_again)
        self.checks = MemberChecks(parts, remove, self.unsilence)
        self.post_commit = PostCommit(parts)
        self.invitations = RepeatedInvitations(parts)
        self.suitability = Suitability(parts)
        self.handled = HandledMessages(group, context.fire)
        self.outage = OutageReport(context, room, next_try)
        self._context = context
        self._group = group
        self._muc = muc
        self.annotations = annotations = AnnotationExchange(parts)
        self.whole_tree = TreeFetcher(
            parts,
            self.checks,
            self._emit,
            self._stop_reading,
            self.start,
            self._joined_completely,
            lambda: self.rejoiner.news(),
            annotations,
        )
        self._reader = Reader(parts, self.checks, self.whole_tree, self._on_steps, reached)
        group.welcomes.partial_from = context.settings.partial_from
        group.following.stays = context.settings.stay_partial
        group.annotator.active = context.settings.annotate
        self._received = received
        self._went_live = went_live
        self._expelled = expelled
        self._requested = requested
        self._ephemeral = ephemeral
        self._task: asyncio.Task[None] | None = None
        self._broken = False
        self._told_outdated = False
        self._from_before: Unreadable | None = None  # messages from before we joined, not reported yet

    @property
    def room(self) -> str:
        """The room's bare JID."""
        return self._group.room

    @property
    def running(self) -> bool:
        """Whether the room is being read."""
        return self._task is not None and not self._task.done()

    @property
    def broken(self) -> bool:
        """Whether an unexpected error has ended the reading of the room."""
        return self._broken and not self.running

    # --- life cycle ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Enter the room and begin to read at our place; temporary errors are not raised.

        :raises NotPermitted: the room does not let us in
        :raises RoomLost: there is no such room
        """
        self.progress.lost = None
        try:
            await self._muc.join(self._group.cursor)
        except (NotPermitted, RoomLost) as error:
            self.progress.lost = self._loss(error)
            raise
        except DeliveryError as error:
            log.info("%s cannot be entered yet: %s", self.room, error)
        self._begin()

    async def try_lost(self) -> bool:
        """Try once to enter a lost room, or one whose reading has broken; until it lets us in, it stays lost.

        :returns: whether it has let us in, and is read again
        :raises DeliveryError: it has not answered
        """
        lost = self.progress.lost
        if self.running or not (self.broken or isinstance(lost, RoomLost)):
            return False
        try:
            if isinstance(lost, RoomLost) and lost.gone and await self._muc.check() == ("not-found",):
                self.outage.lost(lost)
                return False
            await self._muc.join(self._group.cursor)
        except (NotPermitted, RoomLost) as error:
            self.progress.lost = lost = self._loss(error)
            self.outage.lost(lost)
            return False
        except DeliveryError as error:
            self.outage.lost(error)
            await self._muc.leave()
            raise
        self.progress.lost = None
        self._begin()
        return True

    def _begin(self) -> None:
        """Begin to read, now that we are in the room, or will be."""
        self._broken = False
        if self._group.continuation.reinit is not None:
            self.reinitializer.begin(at_once=False)
        self.whole_tree.begin()
        if not self.running:
            self._task = asyncio.create_task(self._read(), name=f"mls {self.room}")

    async def read_from(self, after: str) -> None:
        """Read the room again from a place where a Welcome for us should be, even if we have joined meanwhile.

        :param after: archive id
        :raises DeliveryError: see :meth:`start`
        """
        await self._stop_reading()
        if not self._group.follows:
            self._group.lifecycle.seek(after)
        await self.start()

    async def _read_again(self) -> None:
        """Read the room again from our place in the store, which has moved back.

        :raises MLSError: see :meth:`start`
        """
        await self._stop_reading()
        await self.start()

    async def _stop_reading(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.progress.live.clear()

    def _joined_completely(self) -> None:
        """Do what a member does that is live: we were, before we had the tree."""
        if self.progress.live.is_set():
            self._went_live()
            self._check_still_following()

    async def retire(self, reason: MLSError) -> None:
        """Leave the room for good, and delete the group's keys.

        :param reason: what calls that wait for the room raise
        :raises StoreError: the keys have not been deleted
        """
        self.progress.lost = reason
        await self.stop()
        if self._group.is_member or self._group.is_partial:
            self._group.lifecycle.give_up()
        else:
            self._group.lifecycle.want_out()

    async def stop(self) -> None:
        """Leave the room; the group's state stays."""
        self.progress.live.clear()
        self.outage.forget()
        with suppress(DeliveryError):
            await self._muc.leave()
        await asyncio.gather(*self.cancel(), return_exceptions=True)

    def cancel(self) -> list[asyncio.Task[None]]:
        """End all tasks except the caller's, and end all waits.

        :returns: the cancelled tasks, to be awaited
        """
        self.progress.lost = self.progress.lost or Disconnected(f"{self.room} is not read any more")
        self.rejoiner.news()
        self._fail(self.progress.lost)
        self.handled.close()
        self.sender.close()
        tasks = self.parts.tasks.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            tasks.append(self._task)
        return tasks

    # --- reading ---------------------------------------------------------------------------------

    async def _read(self) -> None:
        reading = True
        while reading:
            reading = False
            try:
                async with aclosing(self._muc.batches()) as batches:
                    async for batch in batches:
                        await self._reader.take_all(deque(batch))
            except ArchiveGap as error:
                reading = await self._after_gap(error)
            except (RoomLost, NotPermitted) as error:
                lost = self._loss(error)
                self._lose(lost)
                self.report_lost(lost)
            except Exception as error:
                log.exception("reading %s has failed", self.room)
                self._broken = True
                self._lose(DeliveryError(f"reading {self.room} has failed"))
                self._context.fire("mls_failed", error)
                self.outage.broken(error)

    def _loss(self, error: NotPermitted | RoomLost) -> RoomLost:
        """The one form in which we keep and report that the room is lost, whatever has refused us."""
        if isinstance(error, RoomLost):
            return error
        return self._muc.lost or RoomLost(self.room, "refused", text=str(error))

    def report_lost(self, lost: RoomLost) -> None:
        """Tell the application that the room is lost, and when it is tried again."""
        self._context.fire("mls_room_lost", lost)
        self.outage.lost(lost)

    def _lose(self, error: MLSError) -> None:
        """Handle the loss of the room: it is not read any more."""
        self.progress.lost = error
        self.progress.live.clear()
        self._fail(error)

    async def _after_gap(self, error: ArchiveGap) -> bool:
        """Read from the beginning of the available archive, as stanzas are missing.  A member is unsure from now on.

        :returns: whether reading continues
        """
        self.progress.live.clear()
        log.info("%s: %s", self.room, error)
        if self._group.is_member:
            self._emit(await self.parts.stored(lambda: self._group.certainty.skip_gap(self._context.now)))
        else:
            await self.parts.stored(lambda: self._group.lifecycle.seek(None))
        try:
            await self._muc.join(None)
        except (NotPermitted, RoomLost) as refused:
            lost = self._loss(refused)
            self._lose(lost)
            self.report_lost(lost)
            return False
        except DeliveryError as refused:  # the room is entered as soon as possible
            log.info("%s cannot be entered yet: %s", self.room, refused)
        return True

    def _on_steps(self, taken: Sequence[Taken]) -> None:
        for each in taken:
            self._emit(each.events)
            self.transmitter.stanza_read()
            self.committer.stanza_read(each.stanza, each.step)
            self.recovery.stanzas_read(each.stanza, each.step)
            self.readmission.stanza_read(each.stanza, each.step)
            changed = [event for event in each.events if isinstance(event, GroupChanged)]
            if changed and self.progress.live.is_set():
                self.reinitializer.look_for_better_suite(changed)
            if isinstance(each.step.action, Remember):
                self.parts.spawn(self.committer.commit_for_others(), "committing for others")
        self.annotations.news()
        self._check_still_following()

    def _tell_whether_outdated(self) -> None:
        """Fire ``mls_group_outdated`` once, if the group is of version 0.1 (xep/mls.xml, "Version 0.1")."""
        group = self._group
        if self._told_outdated or not group.is_member or not is_group_of_0_1(group.mls.context.extensions):
            return
        self._told_outdated = True
        old = (str(ClientIdentity.from_leaf(leaf)) for _, leaf in group.mls.members() if is_leaf_of_0_1(leaf))
        self._context.fire("mls_group_outdated", GroupOutdated(self.room, tuple(old)))

    def _check_still_following(self) -> None:
        """Check whether we still follow the group, at the end of the archive and after each later stanza."""
        self.recovery.news()
        self.rejoiner.news()

    def _sure(self) -> None:
        """Resume: we are sure again that our state is the group's."""
        self.sender.send_outbox("sending what has waited")
        self.post_commit.begin()
        self.progress.notify()

    def unsilence(self) -> None:
        """Send waiting messages if a member for whom nothing was encrypted has gone, or is vouched for."""
        if self._group.is_member and not self._group.sending.silenced:
            self.sender.send_outbox("sending what has waited")

    # --- reporting -------------------------------------------------------------------------------

    def _emit(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Unreadable) and event.reason == "before-join" and self._is_behind:
                before = self._from_before
                self._from_before = event if before is None else replace(event, count=before.count + 1)
                continue
            self._report_from_before()
            match event:
                case MessageReceived():
                    self._has_joined(event.sender.account)
                    self._received(event)
                    continue
                case MessageSent():
                    self.sender.confirm(event)
                case GroupChanged() if self._is_ours(event):
                    self.committer.resolve(event)
                    self.post_commit.changed(event)
                    self.post_commit.begin()
                case GroupChanged():
                    self._has_joined(event.by.account)
                    self.post_commit.changed(event)
                case CommitLost():
                    self.committer.resolve(event)
                case GroupClosed():
                    self.reinitializer.begin(at_once=self._is_ours(event))
                case JoinedPartially():
                    self.whole_tree.begin()
                    self.sender.send_outbox("sending again")
                case Joined() | GroupContinued():
                    self.sender.send_outbox("sending again")  # messages may wait from the time before our absence
                    self.post_commit.begin()  # so may invitations
                case RemovedFromGroup():
                    self._fail(UsageError(f"no longer a member of the group in {self.room}"))
                case GroupLost():
                    self._fail(DeliveryError(f"the group in {self.room} cannot be followed any more: {event.reason}"))
                case JoinRequested():
                    self._requested(event)
                case Rejected():
                    log.info("%s: refused a stanza of %s: %s", self.room, event.claimed, event.error)
            self._context.fire(_EVENT_NAMES[type(event)], event)
        self.progress.notify()

    def _has_joined(self, account: str) -> None:
        try:
            self.invitations.seen(account)
        except StoreError as error:
            log.info("%s: not noted that %s has joined: %s", self.room, account, error)

    @property
    def _is_behind(self) -> bool:
        """Whether we read what was said before we joined: the archive, or a room whose members have not added us."""
        return not self._group.is_member or not self.progress.live.is_set()

    def _report_from_before(self) -> None:
        """Report the messages of the archive from before we joined: as one event, since there can be thousands."""
        event, self._from_before = self._from_before, None
        if event is not None:
            self._context.fire(_EVENT_NAMES[Unreadable], event)

    def _is_ours(self, event: GroupChanged | GroupClosed) -> bool:
        return event.by.identity == self._context.device.identity

    def give_up(self) -> None:
        """Delete the group's keys on our own initiative.

        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        self._emit(self._group.lifecycle.give_up())

    def abandon(self, reason: str) -> None:
        """Rejoin at our own user's request: delete the state, and return, as configured.

        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        self._emit(self._group.lifecycle.give_up(reason))
        self.rejoiner.news()

    def _refused(self, origin_id: str, condition: str, error: DeliveryError) -> None:
        self.sender.refused(origin_id, condition, error)

    def _bounced(self, events: list[Event], error: DeliveryError) -> None:
        """Handle the room's final refusal of a message."""
        if events:
            self.committer.refused(error)
        self._emit(events)

    def _fail(self, error: MLSError) -> None:
        """End all waits: nothing more arrives."""
        self.sender.fail(error)
        self.committer.fail(error)
        self.progress.notify()

    def _room_event(self, event: RoomEvent) -> None:
        match event:
            case CatchingUp(complete=True):
                self.outage.over()
                if self._group.is_member:
                    self._report_from_before()
                if self.suitability.lacks:
                    self.suitability.look()
                if not self.progress.live.is_set():
                    self.progress.live.set()
                    self._tell_whether_outdated()
                    self.progress.notify()
                    self.sender.went_live()
                    self.post_commit.begin()
                    self._went_live()
                    self._check_still_following()
            case Interrupted():
                self.progress.live.clear()
                self.transmitter.interrupted()
            case AttemptFailed():
                self.outage.attempt_failed(event)
                return
            case Verified():
                self.outage.over()
                if self.suitability.has_archive:
                    self.sender.verified()
            case Reconfigured() | Unarchived():
                self.suitability.look()
            case Bounced():
                self.sender.bounced(event)
            case EphemeralShown(element=Ephemeral()):
                self._ephemeral(event)
                return
            case EphemeralShown():
                self.annotations.shown(event)
                return
            case AffiliationChanged():
                if event.affiliation in ("none", "outcast"):
                    self.parts.spawn(self._expelled(str(event.jid.bare)), "removing who lost the room")
        if isinstance(event, CatchingUp | Entered | Interrupted | Bounced | AffiliationChanged):
            event = replace(event, room=self.room)  # one handler of the application serves all rooms
        self._context.fire(_EVENT_NAMES.get(type(event), "mls_room_event"), event)

    def stream_resumed(self) -> None:
        """Resume after a stream resumption (XEP-0198)."""
        self.post_commit.begin()
        self.sender.stream_resumed()
