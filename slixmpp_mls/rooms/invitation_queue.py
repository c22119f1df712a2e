"""The queue of invitations to follow, with limits on how often others are asked because of them.

Any XMPP user can invite us to any address, so an invitation alone has little effect:

- its address is first asked for its identity (XEP-0030), and receives presence only if it is a room (XEP-0045 6.2);
- for each inviter and for each room one attempt is in progress at a time, for all together :data:`PARALLEL`, for
  the inviters of one server :data:`OF_ONE_SERVER`; inviters take turns;
- a failed attempt is repeated after growing pauses, also across restarts, and given up in the end;
- an inviter that repeats an invitation causes another attempt, :data:`BURST` in :data:`FIRST_PAUSE` at most;
- while :data:`MAX_IN_VAIN` of an inviter's invitations were followed in vain, its further ones wait untried;
- the number of waiting invitations is limited.  If there are too many, the oldest one of the inviter, or of the server,
  with the most is dropped.

An invitation to a group that we are in changes nothing.  But it may be quicker than the Commit that removes us, after
which it counts: it waits for :data:`SETTLED_FOR` seconds, and is followed as soon as we are not in the group.

An honest inviter may have many: whoever adds a bot that is offline to all its rooms.  They are followed one after the
other.

Invitations of several inviters to one room are independent: a false one does not stand in the way of a genuine one.

An interrupted attempt is not a failed one, whether the program or the stream has ended; attempts go on with the next
stream.  Because a room might end the program, an attempt is counted before it is made; the first interruption causes no
pause, each further one causes the pause of one failure less.

A store that fails loses no invitation: it is tried again after a pause.

In the store: space ``invitation``, key: the room's bare JID, a slash, the inviter's bare JID (in stores of 0.1: the
room's alone), value :class:`InvitationRecord`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from ..errors import DeliveryError, Disconnected, MalformedError, MLSError, StoreError
from ..identity.fair_share import displaced
from ..mls.tls import Struct, opaque, struct, uint8, uint64
from ..runtime import Tasks
from ..store import Store

__all__ = ["EXPIRY", "InvitationQueue", "InvitationRecord"]

log = logging.getLogger(__name__)

SPACE = "invitation"
MAX_IN_VAIN = 8  # waiting invitations of one inviter that were followed in vain
MAX_WAITING = 1_024  # waiting invitations in all
BURST = 3  # attempts in FIRST_PAUSE because of one inviter's invitations to one room
PARALLEL = 4  # attempts in progress
OF_ONE_SERVER = 2  # of them, because of inviters of one server: its rooms may answer as slowly as they may
SETTLED_FOR = 120  # seconds for which an invitation to a group that we are in waits for our removal
_LOOK_AGAIN = 5.0  # seconds: nobody tells the queue that we have been removed
_STORE_PAUSE = 5.0  # seconds between two attempts to use a store that fails
EXPIRY = 7 * 86400  # seconds after which an invitation is not followed any more
FIRST_PAUSE = 60  # seconds after the first attempt; each further pause is four times as long
LONGEST_PAUSE = 86400  # seconds


@struct
class InvitationRecord(Struct):
    """A waiting invitation.

    `inviter` is a bare JID, `after` an archive id or empty; `received` and `due` (the next attempt) are seconds since
    the Unix epoch.  `group` is the group id that the invitation names.
    """

    inviter: opaque
    after: opaque
    received: uint64
    due: uint64
    attempts: uint8
    group: opaque = b""


def _read(value: bytes) -> InvitationRecord:
    """Decode a stored record.  Version 0.1 stored no group id."""
    try:
        return InvitationRecord.decode(value)
    except MalformedError:
        return InvitationRecord.decode(value + bytes(1))  # RFC 9420 2.1.2: a vector of length 0


class InvitationQueue:
    """See the module.

    :param is_room: whether an address identifies itself as a room; raises DeliveryError if it gives no answer
    :param follow: for a room and an inviter, reads the room, where a group is, from an archive id on; raises
        DeliveryError if it does not let us in
    :param is_settled: whether no invitation to a room is of interest, because we are in its group, and have read it
    :param settled_otherwise: called with room, inviter and group id of an invitation to a room that is settled, perhaps
        several times
    :param is_online: whether anybody can be asked now
    :param now: seconds since the Unix epoch
    :param store_failed: called with each failure of the store that delays invitations
    """

    def __init__(
        self,
        store: Store,
        tasks: Tasks,
        *,
        is_room: Callable[[str], Awaitable[bool]],
        follow: Callable[[str, str, str | None, bytes], Awaitable[object]],
        is_settled: Callable[[str], bool],
        settled_otherwise: Callable[[str, str, bytes], None] = lambda room, inviter, group: None,
        is_online: Callable[[], bool],
        now: Callable[[], int],
        store_failed: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._is_room = is_room
        self._follow = follow
        self._is_settled = is_settled
        self._settled_otherwise = settled_otherwise
        self._is_online = is_online
        self._now = now
        self._store_failed = store_failed
        self._resting = False  # the store has failed
        self._known: dict[bytes, InvitationRecord] | None = None  # what the store has, once it has been read
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._under_way: dict[str, str] = {}  # rooms by inviter
        self._held: set[bytes] = set()  # keys of invitations to groups that we are in
        self._turns: dict[str, int] = {}  # the number of the last attempt because of an inviter
        self._attempts = 0
        self._begun: dict[bytes, list[int]] = {}  # when the attempts of the last FIRST_PAUSE began

    def waiting(self) -> dict[tuple[str, str], InvitationRecord]:
        """The waiting invitations, by room and inviter.

        :raises StoreError: the store failed
        """
        return {(_room(key), record.inviter.decode()): record for key, record in self._records().items()}

    def _records(self) -> dict[bytes, InvitationRecord]:
        if self._known is None:
            with self._store.transaction() as transaction:
                self._known = {key: _read(value) for key, value in transaction.items(SPACE)}
        return self._known

    def add(self, room: str, inviter: str, after: str | None, group: bytes) -> bool:
        """Follow an invitation, in this run or the next.  One to a group that we are in waits a while.

        :param room: bare JID
        :param inviter: bare JID
        :param after: archive id from which to look for the Welcome
        :param group: id of the group there, as the inviter says
        :returns: False if it is not followed
        :raises StoreError: nothing has changed
        """
        now, key, records = self._now(), _key(room, inviter), self._records()
        place = (after or "").encode()
        begun = self._begun.get(key, [])
        earliest = begun[-BURST] + FIRST_PAUSE if len(begun) >= BURST else 0
        record = records.get(key)
        if record is not None:
            record = replace(
                record, after=place or record.after, group=group, received=now, due=max(earliest, min(record.due, now))
            )
        else:
            record = InvitationRecord(inviter.encode(), place, now, max(earliest, now), 0, group)
        if self._is_settled(room):
            self._held.add(key)
            record = replace(record, due=max(record.due, now + SETTLED_FOR))
        if key not in records and len(records) >= MAX_WAITING:
            oldest = [*sorted(records, key=lambda each: records[each].received), key]
            inviters = [(record if each == key else records[each]).inviter.decode() for each in oldest]
            for position in displaced(inviters, of_one=MAX_WAITING, in_all=MAX_WAITING):
                if oldest[position] == key:
                    log.info("an invitation by %s is not followed: %d wait already", inviter, MAX_WAITING)
                    return False
                self._forget(oldest[position])
        self._put(key, record)
        self._news.set()
        return True

    def start(self) -> None:
        """Begin to follow them; call this when rooms can be entered.  Does nothing if the queue is already running."""
        if self._running is None or self._running.done():
            self._running = self._tasks.spawn(self._run(), "following invitations")

    def went_online(self) -> None:
        """Go on: there is a stream again."""
        self._news.set()

    def close(self) -> None:
        """Stop starting attempts."""
        if self._running is not None:
            self._running.cancel()

    # --- attempts ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._news.clear()
            pause: float | None = None
            try:
                pause = self._begin_attempts()
            except StoreError as error:
                self._rest(error)
            if not self._resting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._news.wait()
            if self._resting:
                await asyncio.sleep(_STORE_PAUSE)
                self._resting = False

    def _rest(self, error: StoreError) -> None:
        log.info("invitations wait for the store: %s", error)
        self._resting = True
        self._store_failed(error)

    def _begin_attempts(self) -> float | None:
        """Start the attempts that are due and within the limits.

        :returns: seconds until the next one is due; None: something else must happen before
        """
        if not self._is_online():
            return None
        now = self._now()
        for key, begun in list(self._begun.items()):
            self._begun[key] = recent = [time for time in begun if abs(now - time) < FIRST_PAUSE]
            if not recent:
                del self._begun[key]
        pause: float | None = None
        records = self._records()
        vain = Counter(each.inviter for each in records.values() if each.attempts)
        waiting = {each.inviter.decode() for each in records.values()}
        self._turns = {inviter: turn for inviter, turn in self._turns.items() if inviter in waiting}

        def urgency(key: bytes) -> tuple[int, int, int]:
            return records[key].attempts, self._turns.get(records[key].inviter.decode(), 0), records[key].due

        for key in sorted(records, key=urgency):
            record = records[key]
            room, inviter = _room(key), record.inviter.decode()
            settled = self._is_settled(room)
            if settled:
                self._settled_otherwise(room, inviter, record.group)
            if settled and key in self._held and record.due > now:
                pause = min(_LOOK_AGAIN, pause or _LOOK_AGAIN)
                continue
            if abs(now - record.received) > EXPIRY or settled:
                self._forget(key)
                continue
            due = now if key in self._held else record.due  # we have been removed
            if len(self._under_way) >= PARALLEL or inviter in self._under_way or room in self._under_way.values():
                continue  # the end of any attempt wakes the queue
            elif sum(_server(each) == _server(inviter) for each in self._under_way) >= OF_ONE_SERVER:
                continue
            elif record.attempts == 0 and vain[record.inviter] >= MAX_IN_VAIN:
                continue  # an attempt for one of these is due, or one of them expires
            elif due > now:
                # A clock that is set back delays an invitation by a day at most.
                pause = min(due - now, LONGEST_PAUSE, pause or LONGEST_PAUSE)
            else:
                self._held.discard(key)
                self._under_way[inviter] = room
                self._begun.setdefault(key, []).append(now)
                self._attempts += 1
                self._turns[inviter] = self._attempts
                self._tasks.spawn(self._attempt(key, record), f"following an invitation to {room}")
        return pause

    async def _attempt(self, key: bytes, record: InvitationRecord) -> None:
        room = _room(key)
        record = replace(record, attempts=min(record.attempts + 1, 255), due=self._now() + _pause(record.attempts))
        try:
            self._put(key, record)
            if not await self._is_room(room):  # XEP-0045 6.2: presence is only for rooms
                log.info("an invitation is not followed: %s is no room", room)
            else:
                await self._follow(room, record.inviter.decode(), record.after.decode() or None, record.group)
            if self._records().get(key) == record:  # it has not been repeated meanwhile
                self._forget(key)
        except StoreError as error:
            self._rest(error)
        except Disconnected:
            log.info("following an invitation to %s is interrupted", room)
        except DeliveryError as error:
            log.info("an invitation to %s cannot be followed yet: %s", room, error)
            if self._records().get(key) == record:
                self._put(key, replace(record, due=self._now() + _pause(record.attempts)))
        except MLSError:
            self._forget(key)
            raise
        finally:
            self._under_way.pop(record.inviter.decode(), None)
            self._news.set()

    def _put(self, key: bytes, record: InvitationRecord) -> None:
        with self._store.transaction() as transaction:
            transaction.put(SPACE, key, record.encode())
        self._records()[key] = record

    def _forget(self, key: bytes) -> None:
        with self._store.transaction() as transaction:
            transaction.delete(SPACE, key)
        self._held.discard(key)
        self._records().pop(key, None)


def _key(room: str, inviter: str) -> bytes:
    return f"{room}/{inviter}".encode()


def _room(key: bytes) -> str:
    return key.decode().partition("/")[0]


def _server(account: str) -> str:
    return account.partition("@")[2]


def _pause(attempts: int) -> int:
    """Seconds until the next attempt, after so many."""
    return 0 if attempts == 0 else min(FIRST_PAUSE * 4 ** min(attempts - 1, 8), LONGEST_PAUSE)
