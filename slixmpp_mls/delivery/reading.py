"""Reads a MUC room as one total order of stanzas: first the archive, then live, across reconnections.

::

    enter the room ──> read the archive to its end ──> hand out the live buffer ──┐
        ^                    ^                              │        │            │
        │                    └── buffer overflowed ─────────┘        └────────────┘
        └── out of the room, or a new session ── from any place

No stanza is lost or repeated at the seam.  Live stanzas are buffered while we are in the room.  The archive is queried
after we have entered, so it holds everything that came before.  A stanza that is in both is removed from the buffer
when the archive returns it.  Both have the room's order.  A live stanza that the archive does not show, although it
shows a later one, is handed out in its place: the others have read it.  When the buffer is full (the reader is slower
than the room, or has much to catch up), it is emptied and the archive is read again from the reader's position.  Memory
thus stays bounded, however slow the reader is.

Servers may lose stanzas between them although all occupants stay in the room: a broken link loses the stanzas in
transit.  Therefore a reader can be in doubt: a caller misses a stanza (`Reading.suspect`), or the room has been silent
for long.  A doubt ends with `Verified`: the room has answered that we are in it (XEP-0410), and the archive has been
read to its end since.

The states and their transitions are tables in `reading_state`; this module acts on them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress

from ..errors import Disconnected, NoAnswer, NotPermitted, Refused, RoomLost, UsageError
from .archive import Archive, Page, RoomStanza
from .events import AttemptFailed, CatchingUp, RoomEvent, Verified
from .live_buffer import LiveBuffer
from .occupancy import UNREACHABLE, Occupancy
from .reading_state import Place, ReadingState, SelfPing, Stay
from .stream import Stream

log = logging.getLogger(__name__)

#: Stanzas per batch: few enough that the readers of other rooms are scheduled soon.
_BATCH = 32
#: Seconds in the room after which an interruption counts as a new one.
_STEADY = 60.0


class Reading:
    """The one reader of one room.

    :param room: the room's bare JID.
    :param notify: called at once with each `RoomEvent`.
    :param given_up: called when the room is lost for good.
    :param ping_interval: seconds of silence until a self-ping.
    :ivar position: the archive id that `batches` has reached, stanzas of other kinds included.
    """

    def __init__(
        self,
        stream: Stream,
        room: str,
        occupancy: Occupancy,
        archive: Archive,
        notify: Callable[[RoomEvent], None],
        given_up: Callable[[], None],
        ping_interval: float,
    ) -> None:
        self._stream = stream
        self._room = room
        self._occupancy = occupancy
        self._archive = archive
        self._notify = notify
        self._given_up = given_up
        self._ping_interval = ping_interval
        self.position: str | None = None
        self.state = ReadingState()
        self.buffer = LiveBuffer()
        self._reader = asyncio.Lock()
        self._asking: asyncio.Task[bool] | None = None
        self._news = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failures = 0
        self._pause = 0.0

    def start(self, after: str | None) -> None:
        """Start reading after this archive id; from the beginning if it is ``None``.

        :raises UsageError: a reader is already active.
        """
        if self._reader.locked():
            raise UsageError("the room is being read; close that iterator first")
        self._stopped.clear()
        self.state.join()
        self.buffer.clear()
        self.position = after

    def stop(self) -> None:
        """End `batches`, at the next `wake` at the latest."""
        self.state.leave()
        self._stopped.set()

    def wake(self) -> None:
        """Tell the reader that the state of the room or the stream has changed."""
        self._news.set()

    def suspect(self) -> None:
        """Ask the room now whether we are in it, then read its archive; `Verified` ends the doubt."""
        self.state.suspect()
        self._news.set()

    def read_again(self, after: str | None) -> None:
        """Go back to that archive id: the stanzas after it are read again, including those that were missing."""
        self.state.go_back()
        self.buffer.clear()
        self.position = after

    def stream_started(self, resumed: bool) -> None:
        """After a resumption nothing is lost unless the room dropped us; in a new session, enter again."""
        if resumed:
            self.state.suspect()
        else:
            self.state.dismiss()
        self._news.set()

    def live(self, stanza: RoomStanza, *, ambiguous: bool) -> None:
        """Buffer a live stanza.

        :param ambiguous: its archive id is uncertain; only the archive has the right one.
        """
        if not self.state.buffers:
            return
        if ambiguous or not self.buffer.append(stanza):
            self.state.overflow()
            self.buffer.clear()

    async def batches(self) -> AsyncGenerator[Sequence[RoomStanza], None]:
        """See `Room.batches`."""
        if self._reader.locked():
            raise UsageError("the room has a reader already")
        async with self._reader:
            try:
                while self.state.stay is not Stay.ENDED:
                    lost = self._occupancy.lost
                    if self.state.place is Place.LIVE and self.buffer:
                        # Also if we are out meanwhile: the stanzas that came before are still handed out.
                        live = self.buffer.take(_BATCH)
                        self.position = live[-1].archive_id
                        yield live
                    elif lost is not None and self.state.stay is not Stay.DESTROYING:
                        self._given_up()
                        raise lost
                    elif not self._stream.online or lost is not None:
                        await self._wait_for_news()
                    elif not self._occupancy.inside:
                        await self._enter_again()
                    elif self.state.place is Place.BEHIND:
                        async with aclosing(self._catch_up()) as archived:
                            async for batch in archived:
                                yield batch
                    else:
                        await self._wait_for_news()
            finally:
                if self._asking is not None:
                    self._asking.cancel()

    async def _enter_again(self) -> None:
        entered_at = self._occupancy.entered_at
        if entered_at is not None and asyncio.get_running_loop().time() - entered_at > _STEADY:
            self._failures, self._pause = 0, 0.0
        await self._wait_before_attempt()
        if self.state.stay is Stay.ENDED or self._occupancy.lost is not None:
            return
        self.state.outside()
        self.buffer.clear()
        try:
            await self._occupancy.enter()
        except RoomLost as error:
            self._occupancy.lost = error
        except (Refused, NoAnswer, Disconnected) as error:
            log.info("%s cannot be entered yet: %s", self._room, error)
            self._report(error)

    async def _wait_before_attempt(self) -> None:
        """Wait before another attempt: first not at all, then longer each time, with random jitter."""
        if self._pause:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._stopped.wait()
        self._failures = min(self._failures + 1, 10)
        self._pause = min(60.0, 0.25 * 2**self._failures) * random.uniform(0.5, 1.5)  # noqa: S311

    def _report(self, error: Refused | NoAnswer | Disconnected) -> None:
        # Otherwise it is our own connection that has failed, or we do not want to be in the room any more.
        if self._stream.online and self.state.stay is not Stay.ENDED:
            self._notify(AttemptFailed(error, self._pause, self._occupancy.inside))

    async def _catch_up(self) -> AsyncGenerator[Sequence[RoomStanza], None]:
        """Read the archive once from our position to its end."""
        self.buffer.clear()
        self.state.round_begins()
        read = 0
        ended = False
        try:
            async with aclosing(self._archive.pages(self.position)) as pages:
                async for page in pages:
                    for batch in self._read(page):
                        yield batch
                        if self.state.place is Place.BEHIND:
                            return  # the position was moved back meanwhile
                    read += len(page.entries)
                    complete = page.complete and self.state.place is Place.CATCHING_UP and self._occupancy.inside
                    if read or not self.state.verifying:
                        self._notify(CatchingUp(read, complete))
                    if self.state.stay is Stay.ENDED or not (self._occupancy.inside or page.complete):
                        return
            ended = True
        except NotPermitted:
            if self._occupancy.lost is None:
                raise
            return  # the loss of the room is the cause, and the better report
        except (Refused, NoAnswer, Disconnected) as error:
            log.info("the archive of %s cannot be read yet: %s", self._room, error)
            self._report(error)
            if isinstance(error, Refused) and error.condition in UNREACHABLE:
                self._occupancy.unreachable()  # it is entered again first, after the pause
            else:
                await self._wait_before_attempt()
            return
        finally:
            if not ended:
                self.state.round_fails()
        # Also if we are out meanwhile: the buffer has the stanzas between the archive's end and our exit.
        if self.state.round_ends() and self._occupancy.inside:
            self._notify(Verified())

    def _read(self, page: Page) -> Iterable[Sequence[RoomStanza]]:
        for start in range(0, len(page.entries), _BATCH):
            entries = page.entries[start : start + _BATCH]
            batch: list[RoomStanza] = []
            for entry in entries:
                batch += self.buffer.take_through(entry.archive_id)
                stanza = entry.stanza()
                if stanza is not None:
                    batch.append(stanza)
            self.position = entries[-1].archive_id
            if batch:
                yield batch

    async def _wait_for_news(self) -> None:
        self._news.clear()
        if not self.state.suspected:
            try:
                async with asyncio.timeout(self._ping_interval * random.uniform(0.8, 1.0)):  # noqa: S311
                    await self._news.wait()
            except TimeoutError:
                self.state.suspect()
        if not self.state.suspected:
            return
        if self._asking is not None:
            await self._news.wait()
        elif self.state.self_ping is SelfPing.SUSPECTED and self._stream.online and self._occupancy.inside:
            self.state.ask()
            # Do not wait here: over a slow link, the expected stanza may arrive before the answer.
            self._asking = asyncio.create_task(self._occupancy.still_inside(), name=f"self-ping in {self._room}")
            self._asking.add_done_callback(self._asked)
        else:
            self.state.dismiss()  # the room is entered again anyway

    def _asked(self, asking: asyncio.Task[bool]) -> None:
        self._asking = None
        self._news.set()
        if asking.cancelled() or not self._occupancy.inside:
            self.state.void()
        elif (error := asking.exception()) is not None:
            log.error("asking %s whether we are in it failed", self._room, exc_info=error)
            self._stream.xmpp.event("mls_failed", error)
            self.state.no_answer()
        elif asking.result():
            self.state.confirmed()
        else:
            self.state.no_answer()
