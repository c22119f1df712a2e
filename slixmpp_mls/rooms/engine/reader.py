"""Reading one room: each stanza through the group's rules, in the room's order, with all that must be asked for it.

::

    batch ──► examine ──┬── of another room's group? wait for that ──┐
                        ├── its tree elsewhere? fetch it ────────────┼──► accept or refuse ──► events
                        └── new leaves? Authentication Service ──────┘

Whatever is asked for takes time, and our own sending may move the state on meanwhile: then the stanza is examined
again.  Messages, of which none needs anything to be asked, are taken together, in one transaction.

A live stanza that shows that one before it has not come to us (the link between two servers broke) is not
processed: the archive is read again from our place on, where both are, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ...client import Doubt, Event, Incoming, RoomGroup, Step
from ...client.group.actions import Enter, Ignore, Read, Remember, Sent
from ...delivery import MAX_STANZA, Room, RoomStanza, Stream
from ...errors import DeliveryError, InvalidError, PeerError, StoreError, TransferFailed
from ...mls.group.group_state import GroupState
from ...stanza import RoomElement, payloads
from ...stanza.blob import BlobReference
from ..content import says_something_in_clear
from .member_checks import Vigilance
from .progress import Progress

if TYPE_CHECKING:
    from ...plugin import MLS

__all__ = ["Reader"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_FETCH_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds, between attempts to fetch a tree
_REREADING_PAUSE = 1.0  # seconds, the shortest between two times: a member could make us do it with each message
_STORE_PAUSE = 60.0  # seconds, the longest between two tries to write


class Reader:
    """Takes one room's stanzas.

    :param emit: called with the events of each step
    :param was_read: called with each stanza, after its events
    :param look: called after some stanzas
    :param resume: called when messages may have waited for a member that is vouched for now, or has gone
    :param spawn: runs something beside
    """

    def __init__(
        self,
        plugin: MLS,
        session: RoomGroup,
        delivery: Room,
        progress: Progress,
        vigilance: Vigilance,
        *,
        emit: Callable[[Iterable[Event]], None],
        was_read: Callable[[RoomStanza, Step], None],
        look: Callable[[], None],
        resume: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, object], str], object],
    ) -> None:
        self._plugin = plugin
        self._session = session
        self._delivery = delivery
        self._progress = progress
        self._vigilance = vigilance
        self._emit = emit
        self._was_read = was_read
        self._look = look
        self._resume = resume
        self._spawn = spawn
        self._read_again_at = 0.0

    async def take_all(self, stanzas: deque[RoomStanza]) -> None:
        """Some stanzas, from the room to the application."""
        while stanzas:
            done, examined = self._take_together(stanzas)
            for stanza, step, events in done:
                self._emit(events)
                self._was_read(stanza, step)
            if done:
                self._look()
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
            with self._session.together(lasting=False):
                for stanza in stanzas:
                    step = self._session.examine(_parse(stanza), self._plugin.now)
                    if not isinstance(step.action, Read | Sent | Ignore) or step.tree_at or step.awaits:
                        break
                    if step.gap and not stanza.archived:
                        break
                    done.append((stanza, step, self._session.accept(step, self._plugin.now)))
                    step = None
        except StoreError:
            return [], None  # it is tried again with the first one alone, and reported
        for _ in done:
            stanzas.popleft()
        return done, step

    async def _take(self, stanza: RoomStanza, examined: Step | None) -> bool:
        """One stanza, whatever it is.

        :returns: whether it is done; else it will come again, after others
        """
        step = await self._step(examined or await self._examine(_parse(stanza)), stanza)
        if step is None:
            return False
        self._was_read(stanza, step)
        self._look()
        return True

    async def _step(self, step: Step, stanza: RoomStanza) -> Step | None:
        """Process a stanza; None if others come before it."""
        if step.gap and not stanza.archived:
            await self._read_again()
            return None
        incoming = step.incoming
        refusal: PeerError | None = None
        if step.awaits is not None:
            await self._plugin.reached(step.awaits)
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
        silenced = self._session.silenced
        self._emit(await self._accept(step, doubts, refusal))
        if doubts and self._progress.live.is_set():
            self._spawn(self._vigilance.act(), "acting on doubts")
        if silenced:
            self._resume()
        return step

    async def _read_again(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._read_again_at + _REREADING_PAUSE - clock())
        self._read_again_at = clock()
        log.info("%s: something is missing; the archive is read again", self._session.room)
        self._delivery.read_again(self._session.cursor)

    async def _fetch(self, place: BlobReference) -> bytes:
        """A blob, after some attempts; those that fail with our own connection do not count.

        :raises DeliveryError: it can not be had, for lasting reasons or for minutes
        :raises MalformedError: something else is there
        """
        pauses = iter(_FETCH_PAUSES)
        stream = Stream.of(self._plugin.xmpp)
        while True:
            try:
                return await self._plugin.uploads.get(place)
            except TransferFailed as error:
                pause = next(pauses, None) if stream.online else 1.0
                if pause is None or not error.temporary:
                    raise
                log.info("%s: a ratchet tree can not be fetched yet: %s", self._session.room, error)
                await asyncio.sleep(pause)

    async def _judge(self, step: Step) -> list[Doubt]:
        """Ask the Authentication Service about a step's new leaves (RFC 9420 5.3.1)."""
        if not step.leaves:
            return []
        if isinstance(step.action, Enter):
            state: GroupState = step.action.state
        else:
            state = self._session.group if step.join is None else step.join.staged.state
        for before, after in step.successions:
            if before.signature_key != after.signature_key:
                await self._plugin.authentication.note_successor(before, after, state.suite)
        return await self._vigilance.judge(step.leaves, state.suite)

    async def _accept(self, step: Step, doubts: list[Doubt], refusal: PeerError | None) -> list[Event]:
        """Put a step into effect."""
        if refusal is not None:
            return await self.stored(lambda: self._session.refuse(step, refusal))
        return await self.stored(lambda: self._session.accept(step, self._plugin.now, doubts))

    async def _examine(self, incoming: Incoming) -> Step:
        return await self.stored(lambda: self._session.examine(incoming, self._plugin.now))

    async def stored(self, work: Callable[[], T]) -> T:
        """Do what needs the store; while the disk refuses, try again and say so."""
        pause = 0.5
        while True:
            try:
                return work()
            except StoreError as error:
                self._plugin.fire("mls_store_failed", error)
                await asyncio.sleep(pause)
                pause = min(_STORE_PAUSE, 2 * pause)


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
