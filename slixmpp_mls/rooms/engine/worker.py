"""The engine of one encrypted room: the room's stanzas on one side, the group's state on the other.

::

    Room.batches ──► Reader ──► RoomGroup ──► events, and futures of those who wait
    Sender, Committer ──► RoomGroup ── outbox ──► Room.send

One task takes the stanzas in the room's order (:mod:`.reader`); nothing else moves the group's place in it.  What
is sent has been stored before (:mod:`.sender`, :mod:`.committer`), and what the room has not reflected is sent
again when the archive has been read to its end after an interruption, or after a doubt (:mod:`.retransmission`).

The worker itself begins and ends all that, and sees to what follows from what has been read: the application hears of
it, whoever waits goes on (:mod:`.progress`), and what a Commit leaves to do is begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from ...client import (
    CommitLost,
    Event,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    GroupLost,
    Joined,
    JoinRequested,
    LeftBehind,
    MessageReceived,
    MessageSent,
    Rejected,
    Rejoining,
    RemovedFromGroup,
    RoomGroup,
    Step,
    Unreadable,
)
from ...client.group.actions import Remember
from ...client.storage.records import MembershipState
from ...delivery import (
    AffiliationChanged,
    Bounced,
    CatchingUp,
    Entered,
    Interrupted,
    Room,
    RoomEvent,
    RoomStanza,
    Stream,
    Verified,
)
from ...errors import (
    ArchiveGap,
    DeliveryError,
    Disconnected,
    MLSError,
    NotPermitted,
    RoomLost,
    StanzaTooLarge,
    UsageError,
)
from ...identity import ClientIdentity
from ...stanza import RoomElement
from ...stanza.elements import MAX_MARKUP
from .committer import Committer
from .handler_dispatch import HandedOver
from .member_checks import Vigilance
from .post_commit import FollowUp
from .progress import Progress
from .reader import Reader
from .reinit import carry_on
from .rejoin import Rejoiner
from .sender import Sender, children

if TYPE_CHECKING:
    from ...plugin import MLS

__all__ = ["RoomWorker"]

log = logging.getLogger(__name__)

_EVENT_NAMES: dict[type, str] = {
    MessageSent: "mls_sent",
    GroupChanged: "mls_group_changed",
    CommitLost: "mls_commit_lost",
    Joined: "mls_joined",
    RemovedFromGroup: "mls_removed",
    Rejected: "mls_rejected",
    Unreadable: "mls_unreadable",
    GroupClosed: "mls_group_closed",
    GroupContinued: "mls_group_continued",
    GroupLost: "mls_group_lost",
    LeftBehind: "mls_left_behind",
    JoinRequested: "mls_join_requested",
    Rejoining: "mls_rejoining",
    CatchingUp: "mls_catching_up",
    Entered: "mls_entered",
    Interrupted: "mls_interrupted",
    Bounced: "mls_bounced",
    AffiliationChanged: "mls_affiliation_changed",
}


class RoomWorker:
    """Reads one room into one group, and sends for it.

    :param received: called with each message of a member, which stays in the store until :meth:`handed_over`
    :param remove: removes a client from the group
    :param went_live: called whenever the room has been caught up with
    :param expelled: called with the bare JID of each account that has lost the room
    """

    def __init__(
        self,
        plugin: MLS,
        room: str,
        nick: str,
        received: Callable[[MessageReceived], None],
        remove: Callable[[ClientIdentity], Coroutine[Any, Any, object]],
        went_live: Callable[[], None],
        expelled: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self.plugin = plugin
        self.session = RoomGroup(plugin.device, room)
        self.delivery = Room(
            plugin.xmpp, room, nick, on_event=self._room_event, ping_interval=plugin.settings.self_ping
        )
        self.vigilance = Vigilance(
            plugin, self.session, lambda event: self._fire("mls_doubted", event), remove, self.unsilence
        )
        self.rejoiner = Rejoiner(self, plugin.settings.rejoin)
        self._progress = Progress(self.session)
        self._received = received
        self._went_live = went_live
        self._expelled = expelled
        self._follow_up = FollowUp(self.session, self.delivery, Stream.of(plugin.xmpp))
        self._handed_over = HandedOver(self.session, self._fire)

        def fits(found: Sequence[RoomElement]) -> None:
            self.check_size(found)  # by its name: it may have been replaced by a stricter one

        self._sender = Sender(
            self.session,
            self.delivery,
            self._progress,
            fits=fits,
            commit_what_waits=lambda: self._committer.commit_what_waits(),
            refused=self._refused,
            spawn=self.spawn,
            fire=self._fire,
        )
        self._committer = Committer(
            plugin, self.session, self.delivery, self._progress, fits=fits, transmit=self._sender.transmit
        )
        self._reader = Reader(
            plugin,
            self.session,
            self.delivery,
            self._progress,
            self.vigilance,
            emit=self._emit,
            was_read=self._was_read,
            look=self._look_where_we_are,
            resume=self.unsilence,
            spawn=self.spawn,
        )
        # What others ask of the parts.
        self.live, self.joined, self.moved_on = self._progress.live, self._progress.joined, self._progress.moved_on
        self.until_open, self.until_created = self._progress.until_open, self._progress.until_created
        self.reach, self.all_said = self._progress.reach, self._progress.all_said
        self.send, self.transmit = self._sender.send, self._sender.transmit
        self.commit, self.found = self._committer.commit, self._committer.found
        self.handed_over = self._handed_over.note
        self._task: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def lost(self) -> MLSError | None:
        """Why the room is read no more, if it is for good."""
        return self._progress.lost

    @lost.setter
    def lost(self, reason: MLSError | None) -> None:
        self._progress.lost = reason

    @property
    def room(self) -> str:
        return self.session.room

    @property
    def is_member(self) -> bool:
        return self.session.state is MembershipState.MEMBER

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    # --- life cycle ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Enter the room and begin to read where we were; an error that may pass is left to pass.

        :raises NotPermitted: the room does not let us in
        :raises RoomLost: there is no such room
        """
        if self.is_member:
            self.joined.set()
        self.lost = None
        try:
            await self.delivery.join(self.session.cursor)
        except (NotPermitted, RoomLost) as error:
            self.lost = error
            raise
        except DeliveryError as error:
            log.info("%s can not be entered yet: %s", self.room, error)
        if self.session.reinit is not None:
            self.spawn(carry_on(self, at_once=False), "continuing the group")
        if not self.running:
            self._task = asyncio.create_task(self._read(), name=f"mls {self.room}")

    async def read_from(self, after: str) -> None:
        """Read the room again from a place where a Welcome for us should be; no matter if we are in meanwhile.

        :param after: archive id
        :raises DeliveryError: see :meth:`start`
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.live.clear()
        if not self.is_member:
            self.session.seek(after)
        await self.start()

    async def stop(self) -> None:
        """Leave the room; the group's state stays."""
        self.live.clear()
        with suppress(DeliveryError):
            await self.delivery.leave()
        tasks = self.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cancel(self) -> list[asyncio.Task[None]]:
        """End all tasks but the one that asks for it, and tell everybody who waits."""
        self.lost = self.lost or Disconnected(f"{self.room} is not read any more")
        self.rejoiner.news()
        self._fail(self.lost)
        self._handed_over.close()
        self._sender.close()
        tasks = [*self._background, *([self._task] if self._task is not None else [])]
        tasks = [task for task in tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        return tasks

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        """Do something beside the reading."""

        async def guarded() -> None:
            try:
                await work
            except MLSError as error:
                log.info("%s: %s: %s", self.room, name, error)
            except Exception:
                log.exception("%s: %s failed", self.room, name)

        task = asyncio.create_task(guarded(), name=f"mls {self.room}: {name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it has begun
        return task

    # --- reading -------------------------------------------------------------------------------

    async def _read(self) -> None:
        reading = True
        while reading:
            reading = False
            try:
                async with aclosing(self.delivery.batches()) as batches:
                    async for batch in batches:
                        await self._reader.take_all(deque(batch))
            except ArchiveGap as error:
                reading = await self._after_gap(error)
            except (RoomLost, NotPermitted) as error:
                self.lost = error
                self.live.clear()
                self._fail(error)
                self._fire("mls_room_lost", error)
            except Exception as error:
                log.exception("reading %s has failed", self.room)
                self.live.clear()
                self._fail(DeliveryError(f"reading {self.room} has failed"))
                self._fire("mls_failed", error)

    async def _after_gap(self, error: ArchiveGap) -> bool:
        """Stanzas are missing.  A member has lost track; who waits for a Welcome reads from the beginning."""
        self.live.clear()
        if self.is_member:
            self._fail(error)
            reason = "the room's archive no longer goes back to where we were"
            self._emit(await self._reader.stored(lambda: self.session.give_up(reason)))
        await self._reader.stored(lambda: self.session.seek(None))
        try:
            await self.delivery.join(None)
        except DeliveryError as refused:
            self._fire("mls_room_lost", refused)
            return False
        return True

    def _was_read(self, stanza: RoomStanza, step: Step) -> None:
        self._sender.stanza_read()
        self._committer.stanza_read(stanza, step)
        if isinstance(step.action, Remember):
            self.spawn(self._committer.commit_for_others(), "committing for others")

    def _look_where_we_are(self) -> None:
        """The archive has been read to its end, or something has been read since: do we still follow?"""
        if self.live.is_set() and self.session.is_left_behind:
            self.abandon("members are in a later epoch: a Commit is missing, or we have refused one that they accept")
        self.rejoiner.news()

    def unsilence(self) -> None:
        """If somebody for whom nothing was encrypted has gone, or is vouched for: send what has waited."""
        if self.is_member and not self.session.silenced and self.live.is_set():
            self._sender.all_again("sending what has waited")

    # --- telling -------------------------------------------------------------------------------

    def _fire(self, name: str, data: object) -> None:
        self.plugin.fire(name, data)

    def _emit(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case MessageReceived():
                    self._received(event)
                    continue
                case MessageSent():
                    self._sender.confirm(event)
                    self._progress.turn()
                case GroupChanged():
                    self.moved_on.set()
                    self._progress.turn()
                    if event.by.identity == self.plugin.device.identity:
                        self._committer.settle(event)
                        self._attend()
                case CommitLost():
                    self._committer.settle(event)
                case GroupClosed():
                    at_once = event.by.identity == self.plugin.device.identity
                    self.spawn(carry_on(self, at_once=at_once), "continuing the group")
                case Joined() | GroupContinued():
                    self.joined.set()
                    self.moved_on.set()
                    self._progress.turn()
                    if self.live.is_set():  # messages may wait from the time before we were away
                        self._sender.all_again("sending again")
                case RemovedFromGroup():
                    self.joined.clear()
                    self.moved_on.set()
                    self._fail(UsageError(f"no longer a member of the group in {self.room}"))
                case GroupLost():
                    self.joined.clear()
                    self.moved_on.set()
                    self._fail(DeliveryError(f"the group in {self.room} can not be followed any more: {event.reason}"))
                case Rejected():
                    log.info("%s: refused a stanza of %s: %s", self.room, event.claimed, event.error)
            self._fire(_EVENT_NAMES[type(event)], event)

    def _attend(self) -> None:
        """Do what is owed outside of the group, beside the reading."""
        if any(self.session.post_commit_actions):
            self.spawn(self.follow_up(), "what follows a Commit")

    async def follow_up(self) -> None:
        """Wait until what our Commits have left to do outside of the group is done, or put off."""
        try:
            await self._follow_up.attend()
        except DeliveryError as error:
            log.info("%s: what follows a Commit is put off: %s", self.room, error)

    def give_up(self) -> None:
        """Delete the group's keys, unasked by anybody."""
        self._emit(self.session.give_up())

    def abandon(self, reason: str) -> None:
        """Our state is of no use any more."""
        self._emit(self.session.give_up(reason))
        self.rejoiner.news()

    def _refused(self, events: list[Event], error: DeliveryError) -> None:
        """The room has refused a message for good."""
        if events:
            self._committer.refused(error)
        self._emit(events)
        self._progress.turn()

    def _fail(self, error: MLSError) -> None:
        """Nothing more will come: tell everybody who waits."""
        self._sender.fail(error)
        self._committer.fail(error)
        self._progress.turn()

    def _room_event(self, event: RoomEvent) -> None:
        match event:
            case CatchingUp(complete=True):
                if not self.live.is_set():
                    self.live.set()
                    self._progress.turn()
                    self._sender.went_live()
                    self._attend()
                    self._went_live()
                    self._look_where_we_are()
            case Interrupted():
                self.live.clear()
                self._sender.interrupted()
            case Verified():
                self._sender.verified()
            case Bounced():
                self._sender.bounced(event)
            case AffiliationChanged():
                if event.affiliation in ("none", "outcast"):
                    self.spawn(self._expelled(str(event.jid.bare)), "removing who lost the room")
        self._fire(_EVENT_NAMES.get(type(event), "mls_room_event"), event)

    # --- sending -------------------------------------------------------------------------------

    def check_size(self, found: Sequence[RoomElement]) -> None:
        """:raises StanzaTooLarge: servers do not carry a stanza with these elements"""
        limit = self.delivery.limit
        if MAX_MARKUP + sum(element.written_at_most for element in found) <= limit:
            return  # as nearly always: then it is not made to be measured
        size = self.delivery.measure(children(found))
        if size > limit:
            raise StanzaTooLarge(size, limit)

    def stream_resumed(self) -> None:
        """The stream goes on where it broke (XEP-0198)."""
        self._attend()
        self._sender.stream_resumed()
