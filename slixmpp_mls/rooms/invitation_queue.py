"""The queue of invitations to follow, with limits on how often others are asked because of them.

Any XMPP user can invite us to any address, so an invitation alone has little effect:

- its address is first asked for its identity (XEP-0030), and receives presence only if it is a room (XEP-0045 6.2);
- for each inviter one attempt is in progress at a time, for all together :data:`PARALLEL`;
- a failed attempt is repeated after growing pauses, also across restarts, and given up in the end;
- the number of invitations is limited for each inviter and in all.  If there are too many in all, the one with the most
  failures is dropped.

In the store: space ``invitation``, key: the room's bare JID, value :class:`InvitationRecord`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from ..errors import DeliveryError, MLSError
from ..mls.tls import Struct, opaque, struct, uint8, uint64
from ..runtime import Tasks
from ..store import Store

__all__ = ["EXPIRY", "InvitationQueue", "InvitationRecord"]

log = logging.getLogger(__name__)

SPACE = "invitation"
MAX_OF_ONE = 8  # waiting invitations of one inviter
MAX_WAITING = 64  # waiting invitations in all
PARALLEL = 4  # attempts in progress
EXPIRY = 7 * 86400  # seconds after which an invitation is not followed any more
FIRST_PAUSE = 60  # seconds after the first attempt; each further pause is four times as long
LONGEST_PAUSE = 86400  # seconds


@struct
class InvitationRecord(Struct):
    """A waiting invitation.

    `inviter` is a bare JID, `after` an archive id or empty; `received` and `due` (the next attempt) are seconds since
    the Unix epoch.
    """

    inviter: opaque
    after: opaque
    received: uint64
    due: uint64
    attempts: uint8


class InvitationQueue:
    """See the module.

    :param is_room: whether an address identifies itself as a room; raises DeliveryError if it gives no answer
    :param follow: reads a room from an archive id on; raises DeliveryError if it does not let us in
    :param is_read: whether we are in a room's group already, or read it
    :param now: seconds since the Unix epoch
    """

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        *,
        is_room: Callable[[str], Awaitable[bool]],
        follow: Callable[[str, str | None], Awaitable[object]],
        is_read: Callable[[str], bool],
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._is_room = is_room
        self._follow = follow
        self._is_read = is_read
        self._now = now
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._under_way: dict[str, str] = {}  # rooms by inviter

    def waiting(self) -> dict[str, InvitationRecord]:
        """The waiting invitations, by room.

        :raises StoreError: the store failed
        """
        with self._store.transaction() as transaction:
            return {key.decode(): InvitationRecord.decode(value) for key, value in transaction.items(SPACE)}

    def add(self, room: str, inviter: str, after: str | None) -> bool:
        """Follow an invitation, in this run or the next.  An invitation to a room that is read, or queued, changes
        nothing.

        :param room: bare JID
        :param inviter: bare JID
        :param after: archive id from which to look for the Welcome
        :returns: False if it is not followed
        :raises StoreError: nothing has changed
        """
        if self._is_read(room):
            return False
        waiting = self.waiting()
        if room in waiting:
            return False
        if sum(record.inviter == inviter.encode() for record in waiting.values()) >= MAX_OF_ONE:
            log.info("an invitation by %s is not followed: %d wait already", inviter, MAX_OF_ONE)
            return False
        now = self._now()
        with self._store.transaction() as transaction:
            if len(waiting) >= MAX_WAITING:
                worst = max(waiting, key=lambda each: (waiting[each].attempts, -waiting[each].received))
                transaction.delete(SPACE, worst.encode())
            record = InvitationRecord(inviter.encode(), (after or "").encode(), now, now, 0)
            transaction.put(SPACE, room.encode(), record.encode())
        self._news.set()
        return True

    def start(self) -> None:
        """Begin to follow them; call this when rooms can be entered.  Does nothing if the queue is already running."""
        if self._running is None or self._running.done():
            self._running = self._tasks.spawn(self._run(), "following invitations")

    def close(self) -> None:
        """Stop starting attempts."""
        if self._running is not None:
            self._running.cancel()

    # --- attempts ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._news.clear()
            pause = self._begin_attempts()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    def _begin_attempts(self) -> float | None:
        """Start the attempts that are due and within the limits.

        :returns: seconds until the next one is due; None: something else must happen before
        """
        now = self._now()
        pause: float | None = None
        for room, record in sorted(self.waiting().items(), key=lambda item: (item[1].attempts, item[1].due)):
            inviter = record.inviter.decode()
            if abs(now - record.received) > EXPIRY or self._is_read(room):
                self._forget(room)
            elif len(self._under_way) >= PARALLEL or inviter in self._under_way:
                continue  # the end of any attempt wakes the queue
            elif record.due > now:
                # A clock that is set back delays an invitation by a day at most.
                pause = min(record.due - now, LONGEST_PAUSE, pause or LONGEST_PAUSE)
            else:
                self._under_way[inviter] = room
                self._tasks.spawn(self._attempt(room, record), f"following an invitation to {room}")
        return pause

    async def _attempt(self, room: str, record: InvitationRecord) -> None:
        # It counts before it is made: a room that ends the program is not tried at each start.
        attempts = min(record.attempts + 1, 255)
        due = self._now() + min(FIRST_PAUSE * 4 ** min(attempts - 1, 8), LONGEST_PAUSE)
        try:
            with self._store.transaction() as transaction:
                transaction.put(SPACE, room.encode(), replace(record, attempts=attempts, due=due).encode())
            if not await self._is_room(room):  # XEP-0045 6.2: presence is only for rooms
                log.info("an invitation is not followed: %s is no room", room)
            else:
                await self._follow(room, record.after.decode() or None)
            self._forget(room)
        except DeliveryError as error:
            log.info("an invitation to %s cannot be followed yet: %s", room, error)
        except MLSError:
            self._forget(room)
            raise
        finally:
            self._under_way.pop(record.inviter.decode(), None)
            self._news.set()

    def _forget(self, room: str) -> None:
        with self._store.transaction() as transaction:
            transaction.delete(SPACE, room.encode())
