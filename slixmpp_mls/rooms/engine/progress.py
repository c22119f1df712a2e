"""The progress of one room's engine, and waiting for conditions on it.

A waiting part states a condition, and checks it again whenever something has happened in the room
(:meth:`Progress.notify`).  The condition reads the group's state, never a separate flag that could disagree with it: a
room that is lost, read again, or restored from the store has no flag to correct.  The loss of the room is an event,
too, and ends every wait with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ...client import RoomGroup
from ...errors import DeliveryError, MLSError

__all__ = ["Progress", "set_error"]

_COMMIT_ARRIVES = 10.0  # seconds in which a Commit that others have seen should have reached us
_ARCHIVE_READ = 120.0  # seconds in which reading an archive should have advanced the epoch
_LONGEST = 300.0  # seconds for an epoch that somebody has named, however many come before it


class Progress:
    """The state of one room's engine.

    :ivar live: set while we are in the room and have read its archive to the end
    :ivar lost: why the room is not read any more, if it is lost for good
    """

    def __init__(self, group: RoomGroup) -> None:
        self._group = group
        self.live = asyncio.Event()
        self.lost: MLSError | None = None
        self._happened = asyncio.Event()  # set, and replaced, by each notification

    def notify(self) -> None:
        """Report that something has happened: all waiting parts check their conditions again."""
        self._happened.set()
        self._happened = asyncio.Event()

    def check_not_lost(self) -> None:
        """:raises MLSError: the room is not read any more"""
        if self.lost is not None:
            raise self.lost

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        :param condition: must not have side effects
        :raises MLSError: it does not hold, and the room is not read any more
        """
        while not condition():
            self.check_not_lost()
            await self._happened.wait()

    async def until_live(self) -> None:
        """Wait until the archive has been read to its end.

        :raises MLSError: the room is not read any more
        """
        await self.until(self.live.is_set)

    async def until_joined(self) -> None:
        """Wait until we are in the group.

        :raises MLSError: the room is not read any more
        """
        await self.until(lambda: self._group.is_member)

    async def until_open(self) -> None:
        """If a ReInit has closed the group, wait for the group that follows.

        :raises MLSError: the room is not read any more
        """
        await self.until(lambda: self._group.continuation.reinit is None)

    async def until_sure(self) -> None:
        """While our state may not be the group's, wait until we are sure again, or have returned.

        :raises MLSError: the room is not read any more
        """
        await self.until(lambda: not self._group.holds)

    async def until_created(self) -> None:
        """Wait until the room has shown us the group whose creation we have sent.

        :raises DeliveryError: the room refuses it
        :raises MLSError: the room is not read any more
        """
        await self.until(lambda: not self._group.continuation.waits)
        if not self._group.is_member:
            raise DeliveryError(f"{self._group.room} has refused the group")

    async def until_no_commit_waits(self) -> None:
        """Wait until no Commit of ours waits for its reflection.

        :raises MLSError: the room is not read any more
        """
        await self.until(lambda: not self._group.sending.commit_waits)

    async def reach(self, epoch: int) -> None:
        """Wait until the group is in an epoch, or cannot reach it any more, or comes no nearer to it.

        Anybody can name an epoch, and keep the room busy meanwhile: only another epoch is progress, and whoever is in
        the group can make one after another.  So all waiting for one epoch together has a limit.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + _LONGEST
        with suppress(TimeoutError):
            while self._may_reach(epoch):
                # Once the archive has been read, only a Commit in transit can bring another epoch.
                live, now = self.live.is_set(), self._group.mls.epoch
                async with asyncio.timeout(min(_COMMIT_ARRIVES if live else _ARCHIVE_READ, end - clock())):
                    while self._may_reach(epoch) and (self.live.is_set(), self._group.mls.epoch) == (live, now):
                        await self._happened.wait()

    def _may_reach(self, epoch: int) -> bool:
        return self._group.is_member and self._group.mls.epoch < epoch and self.lost is None


def set_error(future: asyncio.Future[Any], error: MLSError) -> None:
    """Report to the waiter of a future, if there is one, that its result will not come."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # retrieved: there may be no waiter
