"""Turns for committing: members agree on an order without messages, from what all of them see.

*After a race.*  Of several simultaneous Commits one wins, and all others must be made again.  If all losers committed
again at once, n members would need n rounds of up to n Commits each.  But the room has put the losing Commits, too,
into an order that all losers see.  That order is the queue in which they commit, one after the other, each as soon as
the one before it has won.  :class:`CommitTurns` keeps that queue.  A member at its head that does not commit (it is
gone, or has nothing to do any more) is passed over after the time of a round trip or two.

*For others.*  Any member may commit another member's proposal, and exactly one should.  All members order the members
that are in the room in the same way, differently in each epoch; :func:`place` is our place in that order.  Each waits
for its place's time (:func:`wait_for_place`), and has nothing left to do if a member before it has committed.

*Equals.*  Devices of one account may have the same nickname, and are one occupant for everybody else.  They wait for a
random time in both cases.

A lying room, or members that ignore their turns, cost only time and superfluous Commits: rule 1 (the first valid Commit
of an epoch, in the room's order) decides in every case.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from hashlib import sha256

__all__ = ["CommitTurns", "order_of", "place", "wait_for_place"]

_MOST = 64  # in the queue; a room has more only if somebody forges them
_SHORTEST = 0.1  # seconds that the head of the queue has at least ...
_LONGEST = 1.0  # ... and at most
_OVER = 10.0  # seconds after which the remains of a race are forgotten

_ONE_PLACE = 0.25  # seconds for each member before us; a Commit or an answer usually takes less
_LONGEST_WAIT = 5.0  # seconds after which no member waits any more


class CommitTurns:
    """The losers of a race for one room, in the room's order."""

    def __init__(self) -> None:
        self._queue: dict[str, str | None] = {}  # origin ids by occupant
        self._news = asyncio.Event()
        self._latest = 0.0

    def won(self, occupant: str) -> None:
        """Record that a Commit has begun an epoch.

        :param occupant: ``room/nickname`` of the sender
        """
        self._queue.pop(occupant, None)
        self._changed()

    def lost(self, occupant: str, origin_id: str | None) -> None:
        """Record a Commit for an epoch that had ended."""
        if _now() - self._latest > _OVER:
            self._queue.clear()
        self._queue.pop(occupant, None)
        if len(self._queue) < _MOST:
            self._queue[occupant] = origin_id
        self._changed()

    async def wait(self, origin_id: str, sent: float) -> None:
        """Wait for the turn of the sender of this Commit, which has lost.

        :param sent: time of sending, by the event loop's clock
        """
        if not await self._come_by(origin_id):
            return  # it may never have reached the room: there is no queue for us
        slot = min(max(_SHORTEST, 2 * (_now() - sent)), _LONGEST)
        while True:
            if origin_id not in self._queue.values():  # a device that shares our nickname has taken our entry
                await asyncio.sleep(random.uniform(0.0, slot))  # noqa: S311  # not a secret
                return
            head, at_head = next(iter(self._queue.items()))
            if at_head == origin_id:
                return
            try:
                async with asyncio.timeout(slot):
                    await self._change()
            except TimeoutError:
                self._queue.pop(head, None)

    async def _come_by(self, origin_id: str) -> bool:
        try:
            async with asyncio.timeout(_LONGEST):
                while origin_id not in self._queue.values():
                    await self._change()
        except TimeoutError:
            return False
        return True

    def _changed(self) -> None:
        self._latest = _now()
        self._news.set()

    async def _change(self) -> None:
        self._news.clear()
        await self._news.wait()


def order_of(group_id: bytes, epoch: int, matter: bytes = b"") -> bytes:
    """What tells one order of the members from another (xep/mls.xml, "Taking Turns").

    :param matter: identifies the work, where the order is to be another one each time
    """
    return group_id + epoch.to_bytes(8, "big") + matter


def place(own: str, others: Iterable[str], order: bytes) -> int:
    """The number of other members that come before us.

    Nobody can move forward by a nickname alone, since the account counts as well.

    :param own: our account (the real JID, bare), a slash and our nickname in the room
    :param others: the same of the other members there
    :param order: which of the orders, by :func:`order_of`
    """
    mark = _mark(own, order)
    return sum(_mark(other, order) < mark for other in others)


async def wait_for_place(number: int, *, among_equals: bool = False) -> None:
    """Let the members before us act.

    :param number: our :func:`place`
    :param among_equals: whether other devices may have the same place
    """
    among = random.uniform(0.0, _ONE_PLACE) if among_equals else 0.0  # noqa: S311  # not a secret
    await asyncio.sleep(min(_LONGEST_WAIT, _ONE_PLACE * number) + among)


def _mark(occupant: str, order: bytes) -> bytes:
    return sha256(order + occupant.encode()).digest()


def _now() -> float:
    return asyncio.get_running_loop().time()
