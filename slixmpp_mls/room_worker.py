"""The engine of one encrypted room: the room's stanzas on one side, the group's state on the other.

::

    Room.batches ──► examine ── authenticate ── accept ──► events, and futures of those who wait
    transmit, commit ──► RoomGroup ── outbox ──► Room.send

One task takes the stanzas in the room's order; nothing else moves the group's place in it.  What is sent has
been stored before, and what the room has not reflected is sent again when the archive has been
read to its end after an interruption, or after a doubt (:mod:`.resending`).

A live stanza that shows that one before it has not come to us (the link between two servers broke) is not
processed: the archive is read again from our place on, where both are, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree.ElementTree import Element

from .blob import BlobReference, longest
from .client import (
    CommitLost,
    Doubt,
    Event,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    GroupLost,
    Incoming,
    Joined,
    JoinRequested,
    LeftBehind,
    MessageReceived,
    MessageSent,
    Outgoing,
    Rejected,
    Rejoining,
    RemovedFromGroup,
    RoomGroup,
    Step,
    Unreadable,
)
from .client.records import RoomState
from .client.steps import Enter, Ignore, Read, Remember, Sent
from .content import says_something_in_clear
from .delivery import (
    MAX_STANZA,
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
from .errors import (
    ArchiveGap,
    DeliveryError,
    Disconnected,
    InvalidError,
    MLSError,
    NoAnswer,
    NotPermitted,
    NoUploadService,
    PeerError,
    RoomLost,
    StanzaTooLarge,
    StoreError,
    TransferFailed,
    UsageError,
)
from .follow_up import FollowUp
from .identity import ClientIdentity
from .mls.group_state import GroupState
from .mls.proposals import AnyProposal
from .mls.resumption import CreationDraft
from .reinitializing import carry_on
from .rejoin import Rejoiner
from .resending import Resending
from .stanza import NS, Commit, RoomElement, payloads
from .turns import Turns, place
from .vigilance import Vigilance

if TYPE_CHECKING:
    from .plugin import MLS

__all__ = ["RoomWorker"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_NS_EME = "urn:xmpp:eme:0"
_COMMIT_ATTEMPTS = 25  # how often a Commit is made anew when others come first
_PLACE = 0.25  # seconds for each who comes before us in committing for others; a Commit usually takes less
_LAST_PLACE = 5.0  # seconds after which nobody waits any more
_FETCH_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds, between attempts to fetch a tree
_FORGET = 1.0  # seconds, until what was handed over is deleted if nothing else is written
_UNDER_WAY = 10.0  # seconds in which a Commit that others have seen should have reached us
_CATCHING_UP = 120.0  # seconds in which reading an archive should have brought us to another epoch
_REREADING_PAUSE = 1.0  # seconds, the shortest between two times: a member could make us do it with each message
_STORE_PAUSE = 60.0  # seconds, the longest between two tries to write

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


class _CommitLost(Exception):
    """Another Commit came first."""


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
        interval = float(plugin.config["self_ping"])
        self.delivery = Room(plugin.xmpp, room, nick, on_event=self._room_event, ping_interval=interval)
        self.vigilance = Vigilance(
            plugin, self.session, lambda event: self._fire("mls_doubted", event), remove, self.unsilence
        )
        self.rejoiner = Rejoiner(self, plugin.rejoin)
        self.live = asyncio.Event()
        """The archive has been read to its end, and we are in the room."""
        self.joined = asyncio.Event()
        """We are in the group."""
        self.moved_on = asyncio.Event()
        """Another epoch has begun, or the group has ended for us, since somebody cleared this."""
        self.left = asyncio.Event()
        """We have been removed from the group."""
        self.lost: MLSError | None = None
        """Why the room is read no more, if it is for good."""
        self._turned = asyncio.Event()  # set, and replaced, whenever we are further in the room
        self._received = received
        self._went_live = went_live
        self._expelled = expelled
        self._follow_up = FollowUp(self.session, self.delivery, Stream.of(plugin.xmpp))
        self._unsent: set[str] = set()
        self._flushes: set[object] = set()
        self._older_sent = asyncio.Event()  # nothing waits to be sent again
        self._older_sent.set()
        self._comings = 0  # how often we have become up to date
        self._forgetting: asyncio.TimerHandle | None = None
        session = self.session
        self._resending = Resending(
            session.outstanding_ids, session.outstanding, self._put, self.delivery.suspect, self.spawn
        )
        self._read_again_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._committing = asyncio.Lock()
        self._turns = Turns()
        self._settled = asyncio.Event()
        self._outcome: asyncio.Future[GroupChanged] | None = None
        self._confirmations: dict[str, asyncio.Future[str]] = {}
        if self.session.state is RoomState.MEMBER:
            self.joined.set()
        if not self.session.commit_waits:
            self._settled.set()

    @property
    def room(self) -> str:
        return self.session.room

    @property
    def is_member(self) -> bool:
        return self.session.state is RoomState.MEMBER

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
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forget_handed_over()
        self._flushes.clear()
        self._older_sent.set()
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
                        await self._take_all(deque(batch))
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
            self._emit(await self._stored(lambda: self.session.give_up(reason)))
        await self._stored(lambda: self.session.seek(None))
        try:
            await self.delivery.join(None)
        except DeliveryError as refused:
            self._fire("mls_room_lost", refused)
            return False
        return True

    async def _take_all(self, stanzas: deque[RoomStanza]) -> None:
        """Some stanzas, from the room to the application."""
        while stanzas:
            done, examined = self._take_together(stanzas)
            for stanza, step, events in done:
                self._emit(events)
                self._note_turn(stanza, step)
            if done:
                self._resending.stanza_read()
                self._look_where_we_are()
            if stanzas and not await self._take(stanzas.popleft(), examined):
                return
            await asyncio.sleep(0)  # other rooms' turn

    def _take_together(
        self, stanzas: deque[RoomStanza]
    ) -> tuple[list[tuple[RoomStanza, Step, list[Event]]], Step | None]:
        """What can be read at once, in one transaction, is taken from the front: messages, and what means nothing.

        :returns: what to tell of each, now that it is on the disk; and what the next one means, if it was looked at
        """
        done: list[tuple[RoomStanza, Step, list[Event]]] = []
        step: Step | None = None
        try:
            with self.session.together():
                for stanza in stanzas:
                    step = self.session.examine(_parse(stanza), self.plugin.now)
                    if not isinstance(step.action, Read | Sent | Ignore) or step.tree_at or step.awaits:
                        break
                    if step.gap and not stanza.archived:
                        break
                    done.append((stanza, step, self.session.accept(step, self.plugin.now)))
                    step = None
        except StoreError:
            return [], None  # it is tried again with the first one alone, and reported
        for _ in done:
            stanzas.popleft()
        return done, step

    def _note_turn(self, stanza: RoomStanza, step: Step) -> None:
        commit = next((payload for payload in step.incoming.payloads if isinstance(payload, Commit)), None)
        if commit is None or not self.is_member:
            return
        if not isinstance(step.action, Ignore):
            self._turns.won(str(stanza.occupant))
        elif commit.epoch < self.session.group.epoch:
            self._turns.lost(str(stanza.occupant), stanza.origin_id)

    async def _take(self, stanza: RoomStanza, examined: Step | None) -> bool:
        """One stanza, whatever it is.

        :returns: whether it is done; else it will come again, after others
        """
        was_member = self.is_member
        step = await self._step(examined or await self._examine(_parse(stanza)), stanza)
        if step is None:
            return False
        self._resending.stanza_read()
        self._note_turn(stanza, step)
        if was_member and not self.is_member:
            self.left.set()
            self.moved_on.set()
            self._turn()
        if isinstance(step.action, Remember):
            self.spawn(self._commit_for_others(), "committing for others")
        self._look_where_we_are()
        return True

    def _look_where_we_are(self) -> None:
        """The archive has been read to its end, or something has been read since: do we still follow?"""
        if self.live.is_set() and self.session.is_left_behind:
            self.abandon("members are in a later epoch: a Commit is missing, or we have refused one that they accept")
        self.rejoiner.news()

    async def _step(self, step: Step, stanza: RoomStanza) -> Step | None:
        """Process a stanza; None if others come before it."""
        if step.gap and not stanza.archived:
            await self._read_again()
            return None
        incoming = step.incoming
        refusal: PeerError | None = None
        if step.awaits is not None:
            await self.plugin.reached(step.awaits)
            step = await self._examine(incoming)
        if step.tree_at is not None:
            try:
                incoming = replace(incoming, tree=await self._fetch(step.tree_at))
                step = await self._examine(incoming)
            except (DeliveryError, PeerError) as error:
                refusal = InvalidError(f"the tree of a Welcome can not be had: {error}", "RFC 9420 12.4.3.3")
        doubts = await self._judge(step)
        if step.leaves and isinstance(step.action, Remember):
            # Our own sending may have moved the state on while the answer came.
            step = await self._examine(incoming)
        silenced = self.session.silenced
        self._emit(await self._accept(step, doubts, refusal))
        if doubts and self.live.is_set():
            self.spawn(self.vigilance.act(), "acting on doubts")
        if silenced:
            self.unsilence()
        return step

    async def reach(self, epoch: int) -> None:
        """Wait until the group is in an epoch, or there is no hope for it any more."""
        with suppress(TimeoutError):
            while self.is_member and self.session.group.epoch < epoch and self.lost is None:
                # Each epoch is progress; once the archive has been read, only what is under way can bring another.
                async with asyncio.timeout(_UNDER_WAY if self.live.is_set() else _CATCHING_UP):
                    await self._turned.wait()

    async def all_said(self) -> None:
        """Wait until no message of ours is on its way, or we are out of the group."""
        while self.is_member and self.session.messages_wait:
            await self._turned.wait()

    def _turn(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    async def _read_again(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._read_again_at + _REREADING_PAUSE - clock())
        self._read_again_at = clock()
        log.info("%s: something is missing; the archive is read again", self.room)
        self.delivery.read_again(self.session.cursor)

    async def _fetch(self, place: BlobReference) -> bytes:
        """A blob, after some attempts; those that fail with our own connection do not count.

        :raises DeliveryError: it can not be had, for lasting reasons or for minutes
        :raises MalformedError: something else is there
        """
        pauses = iter(_FETCH_PAUSES)
        stream = Stream.of(self.plugin.xmpp)
        while True:
            try:
                return await self.plugin.uploads.get(place)
            except TransferFailed as error:
                pause = next(pauses, None) if stream.online else 1.0
                if pause is None or not error.temporary:
                    raise
                log.info("%s: a ratchet tree can not be fetched yet: %s", self.room, error)
                await asyncio.sleep(pause)

    async def _judge(self, step: Step) -> list[Doubt]:
        """Ask the Authentication Service about a step's new leaves (RFC 9420 5.3.1)."""
        if not step.leaves:
            return []
        if isinstance(step.action, Enter):
            state: GroupState = step.action.state
        else:
            state = self.session.group if step.join is None else step.join.staged.state
        for before, after in step.successions:
            if before.signature_key != after.signature_key:
                await self.plugin.authentication.note_successor(before, after, state.suite)
        return await self.vigilance.judge(step.leaves, state.suite)

    def unsilence(self) -> None:
        """If somebody for whom nothing was encrypted has gone, or is vouched for: send what has waited."""
        if self.is_member and not self.session.silenced and self.live.is_set():
            self._flush_soon(self.session.outstanding_ids(), "sending what has waited")

    async def _accept(self, step: Step, doubts: list[Doubt], refusal: PeerError | None) -> list[Event]:
        """Put a step into effect."""
        if refusal is not None:
            return await self._stored(lambda: self.session.refuse(step, refusal))
        return await self._stored(lambda: self.session.accept(step, self.plugin.now, doubts))

    async def _examine(self, incoming: Incoming) -> Step:
        return await self._stored(lambda: self.session.examine(incoming, self.plugin.now))

    async def _stored(self, work: Callable[[], T]) -> T:
        """Do what needs the store; while the disk refuses, try again and say so."""
        pause = 0.5
        while True:
            try:
                return work()
            except StoreError as error:
                self._fire("mls_store_failed", error)
                await asyncio.sleep(pause)
                pause = min(_STORE_PAUSE, 2 * pause)

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
                    confirmation = self._confirmations.pop(event.origin_id, None)
                    if confirmation is not None and not confirmation.done():
                        confirmation.set_result(event.archive_id)
                    self._turn()
                case GroupChanged():
                    self.moved_on.set()
                    self._turn()
                    if event.by.identity == self.plugin.device.identity:
                        self._settle(event)
                        self._attend()
                case CommitLost():
                    self._settle(event)
                case GroupClosed():
                    at_once = event.by.identity == self.plugin.device.identity
                    self.spawn(carry_on(self, at_once=at_once), "continuing the group")
                case Joined() | GroupContinued():
                    self.joined.set()
                    self.left.clear()
                    self.moved_on.set()
                    self._turn()
                    self.spawn(self.plugin.replenish(), "replenishing KeyPackages")
                    if self.live.is_set():  # messages may wait from the time before we were away
                        self._flush_soon(self.session.outstanding_ids(), "sending again")
                case RemovedFromGroup():
                    self.joined.clear()
                    self._fail(UsageError(f"no longer a member of the group in {self.room}"))
                case GroupLost():
                    self.joined.clear()
                    self._fail(DeliveryError(f"the group in {self.room} can not be followed any more: {event.reason}"))
                case Rejected():
                    log.info("%s: refused a stanza of %s: %s", self.room, event.claimed, event.error)
            self._fire(_EVENT_NAMES[type(event)], event)

    def handed_over(self, number: bytes) -> None:
        """The application has taken a message: the store forgets it with its next step, or soon if nothing comes."""
        self.session.handed_over(number)
        if self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().call_later(_FORGET, self._forget_handed_over)

    def _forget_handed_over(self) -> None:
        self._forgetting = None
        try:
            self.session.forget_handed_over()
        except UsageError:
            pass  # the store is closed: it will be handed over again
        except StoreError as error:
            self._fire("mls_store_failed", error)

    def _attend(self) -> None:
        """Do what is owed outside of the group, beside the reading."""
        if any(self.session.owed):
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

    def _settle(self, event: GroupChanged | CommitLost) -> None:
        """Tell whoever waits for our Commit."""
        if self.session.commit_waits:
            return
        outcome, self._outcome = self._outcome, None
        if outcome is not None and not outcome.done():
            if isinstance(event, GroupChanged):
                outcome.set_result(event)
            else:
                outcome.set_exception(_CommitLost(event.reason))
        self._settled.set()

    def _fail(self, error: MLSError) -> None:
        """Nothing more will come: tell everybody who waits."""
        waiting: list[asyncio.Future[Any]] = list(self._confirmations.values())
        if self._outcome is not None:
            waiting.append(self._outcome)
        self._outcome, self._confirmations = None, {}
        for future in waiting:
            _set_error(future, error)
        self._settled.set()
        self._turn()

    def _room_event(self, event: RoomEvent) -> None:
        match event:
            case CatchingUp(complete=True):
                if not self.live.is_set():
                    # From now on, whoever makes a message also sends it: what was made until now is ours to send.
                    due = self.session.outstanding_ids()
                    self._comings += 1
                    self._unsent.clear()
                    self.live.set()
                    self._turn()
                    self._flush_soon(due, "sending again")
                    self._attend()
                    self._went_live()
                    self._look_where_we_are()
            case Interrupted():
                self.live.clear()
                self._resending.clear()
            case Verified():
                self._flush_soon(self._resending.verified(), "sending again what was lost")
            case Bounced():
                self._bounced(event)
            case AffiliationChanged():
                if event.affiliation in ("none", "outcast"):
                    self.spawn(self._expelled(str(event.jid.bare)), "removing who lost the room")
        self._fire(_EVENT_NAMES.get(type(event), "mls_room_event"), event)

    def _bounced(self, event: Bounced) -> None:
        if event.remedy == "enter":
            return  # we are not in the room (XEP-0045 7.4): it is entered again, and what waits is sent again
        if event.remedy == "wait":
            self._resending.put_off(event.message_id)
            return
        error = DeliveryError(f"{self.room} has refused a message: {event.condition}")
        self._not_sent(event.message_id, event.condition, error)

    def _not_sent(self, message_id: str, condition: str, error: DeliveryError) -> None:
        """A message will not be sent again."""
        confirmation = self._confirmations.pop(message_id, None)
        if confirmation is not None:
            _set_error(confirmation, error)
        try:
            events = self.session.bounced(message_id, condition)
            if events and self._outcome is not None:
                _set_error(self._outcome, error)  # made anew, it would be refused again
            self._emit(events)
            self._turn()
        except StoreError as failed:
            self._fire("mls_store_failed", failed)

    # --- sending -------------------------------------------------------------------------------

    async def send(self, data: bytes, origin_id: str | None) -> tuple[str, asyncio.Future[str]]:
        """Encrypt application data and send it, now or once we are up to date.

        :returns: its origin id, and a future of its archive id
        """
        self._check_not_lost()
        await self.until_open()
        await self._commit_what_waits()
        waits = origin_id is not None and self.session.on_its_way(origin_id) is not None
        coming = self._comings if self.live.is_set() else None
        outgoing = self.session.compose(
            data, later=not self.live.is_set(), fits=self.check_size, origin_id=origin_id
        )
        confirmation = self._confirmations.get(outgoing.origin_id)
        if confirmation is None:
            confirmation = self._confirmations[outgoing.origin_id] = asyncio.get_running_loop().create_future()
        if coming is not None and not waits:  # or it has been sent already, or will be with all that was made before
            await self._older_sent.wait()
            if coming == self._comings:  # and we were not away meanwhile
                await self.transmit(outgoing)
        return outgoing.origin_id, confirmation

    async def until_open(self) -> None:
        """If a ReInit has closed the group: wait for the one that follows.

        :raises MLSError: the room is not read any more
        """
        while self.session.reinit is not None:
            self._check_not_lost()
            await self._turned.wait()

    async def until_created(self) -> None:
        """Wait until the room has shown us the group whose creation we have made.

        :raises DeliveryError: the room refuses it, or is not read any more
        """
        while self.session.creation_waits:
            self._check_not_lost()
            await self._turned.wait()
        if not self.is_member:
            raise DeliveryError(f"{self.room} has refused the group")

    async def transmit(self, outgoing: Outgoing) -> None:
        """Send what is in the outbox; if we are not up to date, it goes out once we are."""
        if not self.live.is_set():
            return
        if self._resending.holds:
            self._resending.hold(outgoing.origin_id)
        else:
            await self._put(outgoing)

    async def _put(self, outgoing: Outgoing) -> None:
        """Send, whatever waits."""
        try:
            await self.delivery.send(_elements(outgoing.payloads), message_id=outgoing.origin_id)
            self._resending.sent(outgoing.origin_id)
        except (Disconnected, NoAnswer):
            self._unsent.add(outgoing.origin_id)
            log.info("%s: not connected; what is in the outbox goes out later", self.room)
        except StanzaTooLarge as error:  # made before it turned out how little our server takes
            self._not_sent(outgoing.origin_id, "policy-violation", error)

    def stream_resumed(self) -> None:
        """The stream goes on where it broke (XEP-0198): slixmpp has sent again what was on its way, but
        knows nothing of what was made meanwhile."""
        self._attend()
        due, self._unsent = frozenset(self._unsent), set()
        if due and self.live.is_set():
            self._flush_soon(due, "sending what was made meanwhile")

    def _check_not_lost(self) -> None:
        if self.lost is not None:
            raise self.lost

    def check_size(self, found: Sequence[RoomElement]) -> None:
        """:raises StanzaTooLarge: servers do not carry a stanza with these elements"""
        size = self.delivery.measure(_elements(found))
        if size > self.delivery.limit:
            raise StanzaTooLarge(size, self.delivery.limit)

    def _flush_soon(self, due: frozenset[str], name: str) -> None:
        """Send again what has not come back, beside the reading; what is made from now on is sent after it."""

        async def flush() -> None:
            try:
                await self._flush(due)
            finally:
                self._flushes.discard(flush)
                if not self._flushes:
                    self._older_sent.set()

        self._flushes.add(flush)
        self._older_sent.clear()
        self.spawn(flush(), name)

    async def _flush(self, due: frozenset[str]) -> None:
        """Send again what has not come back.

        :param due: origin ids of the messages that were made before we were up to date
        """
        if self.is_member and self.session.reinit is None:
            await self._commit_what_waits()
        left, pause = set(due), 0.5
        while left:
            try:
                for outgoing in self.session.outstanding():
                    if not self.live.is_set():
                        return
                    if outgoing.origin_id in left:
                        left.discard(outgoing.origin_id)
                        await self.transmit(outgoing)
                return
            except StoreError as error:
                self._fire("mls_store_failed", error)
                await asyncio.sleep(pause)
                pause = min(_STORE_PAUSE, 2 * pause)

    # --- committing ----------------------------------------------------------------------------

    async def commit(
        self, make: Callable[[], Sequence[AnyProposal] | None], *, force: bool = False
    ) -> GroupChanged | None:
        """Commit, again and again until we come first or there is nothing left to do.

        :param make: what to propose in the present state; None if it has become superfluous
        :param force: commit even if there is nothing to propose, to renew our keys
        :returns: what the Commit did; None if it became superfluous
        """
        async with self._committing:
            for attempt in range(_COMMIT_ATTEMPTS):
                await self._settled.wait()  # one that was made before a restart may still be on its way
                self._check_not_lost()
                await self.until_open()
                proposals = make()
                if proposals is None or not (proposals or force):
                    return None
                loop = asyncio.get_running_loop()
                try:
                    outgoing = await self._make(proposals)
                except _CommitLost:
                    continue
                self._settled.clear()
                outcome: asyncio.Future[GroupChanged] = loop.create_future()
                self._outcome = outcome
                sent = loop.time()
                await self.transmit(outgoing)
                try:
                    return await outcome
                except _CommitLost:
                    log.info("%s: a Commit came second, attempt %d", self.room, attempt + 1)
                    await self._turns.wait(outgoing.origin_id, sent)
            raise DeliveryError(f"{_COMMIT_ATTEMPTS} Commits in a row have lost to others in {self.room}")

    async def _make(self, proposals: Sequence[AnyProposal]) -> Outgoing:
        """Put a Commit into the outbox; if its stanza would be too large, with the new ratchet tree uploaded.

        :raises StanzaTooLarge: it does not fit with the tree elsewhere either, or there is no other place
        :raises DeliveryError: the upload has failed
        """
        draft = self.session.draft_commit(proposals, self.plugin.now)
        try:
            return self.session.finish_commit(draft, fits=self.check_size)
        except StanzaTooLarge as error:
            if not draft.invites:
                raise
            too_large = error
        self.session.try_commit(draft, self.check_size, tree_at=longest())
        try:
            place = await self.plugin.uploads.put(draft.tree.encode())
        except NoUploadService as error:
            raise too_large from error
        if not self.session.is_current(draft):
            raise _CommitLost("another Commit came first, while the tree was uploaded")
        return self.session.finish_commit(draft, fits=self.check_size, tree_at=place)

    async def found(self, draft: CreationDraft) -> None:
        """Send the first Commit of a group that continues another one; if need be, with the ratchet tree uploaded.

        :raises StanzaTooLarge: it does not fit with the tree elsewhere either, or there is no other place
        :raises UsageError: somebody else was first
        :raises DeliveryError: the upload has failed
        """
        try:
            outgoing = self.session.finish_creation(draft, fits=self.check_size)
        except StanzaTooLarge as error:
            try:
                place = await self.plugin.uploads.put(draft.tree.encode())
            except NoUploadService:
                raise error from None
            outgoing = self.session.finish_creation(draft, fits=self.check_size, tree_at=place)
        await self.transmit(outgoing)

    async def _commit_what_waits(self) -> None:
        """RFC 9420 12.4: what was proposed must be committed before application data is sent."""
        while self.is_member and self.session.needs_commit:
            await self.live.wait()
            if self.session.commit_waits:
                await self._settled.wait()
            elif self.session.needs_commit:
                await self.commit(lambda: [] if self.session.needs_commit else None, force=True)

    async def _commit_for_others(self) -> None:
        """Somebody has proposed something: one of us commits it soon, seldom several."""
        await self.live.wait()
        if self.is_member:
            await asyncio.sleep(min(_LAST_PLACE, _PLACE * self._place()))
            await self._commit_what_waits()

    def _place(self) -> int:
        """How many come before us in committing for others."""
        group, roster, nick = self.session.group, self.session.roster, self.delivery.nick
        present = [
            each.nick
            for each in self.delivery.occupants.values()
            if each.nick != nick and each.jid is not None and roster.has(str(each.jid))
        ]
        return place(nick, present, group.group_id + group.epoch.to_bytes(8, "big"))


def _parse(stanza: RoomStanza) -> Incoming:
    elements: tuple[RoomElement, ...] = ()
    error: PeerError | None = None
    try:
        found = payloads(stanza.xml, max_encoded=MAX_STANZA)
        elements = tuple(element for element in found if isinstance(element, RoomElement))
    except PeerError as refused:
        error = refused
    return Incoming(
        archive_id=stanza.archive_id,
        payloads=elements,
        claimed=None if stanza.real_jid is None else str(stanza.real_jid),
        origin_id=stanza.origin_id,
        stamp=None if stanza.stamp is None else stanza.stamp.timestamp(),
        error=error,
        occupant=str(stanza.occupant),
        clear=says_something_in_clear(stanza.xml),
    )


def _elements(found: Sequence[RoomElement]) -> list[Element]:
    """The stanza's children, with the hint that it is encrypted (XEP-0380)."""
    encryption = Element(f"{{{_NS_EME}}}encryption", {"namespace": NS, "name": "MLS"})
    return [*(element.to_stdlib() for element in found), encryption]


def _set_error(future: asyncio.Future[Any], error: MLSError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: nobody may be waiting for it
