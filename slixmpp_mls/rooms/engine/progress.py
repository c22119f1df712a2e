"""How far one room's worker is, and waiting for it to be further.

Some states may be waited for one by one: that the room has been read to its end, that we are in the group.  For
anything else one waits for the next *turn*, of which there is one whenever something has happened that
somebody may wait for, and looks again; nobody is forgotten when there is nothing more to wait for, because that
is a turn, too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from ...client import RoomGroup
from ...errors import DeliveryError, MLSError

__all__ = ["Progress", "set_error"]

_UNDER_WAY = 10.0  # seconds in which a Commit that others have seen should have reached us
_CATCHING_UP = 120.0  # seconds in which reading an archive should have brought us to another epoch


class Progress:
    """Where a room's worker is."""

    def __init__(self, session: RoomGroup) -> None:
        self._session = session
        self.live = asyncio.Event()
        """The archive has been read to its end, and we are in the room."""
        self.joined = asyncio.Event()
        """We are in the group."""
        self.moved_on = asyncio.Event()
        """Another epoch has begun, or the group has ended for us, since somebody cleared this."""
        self.lost: MLSError | None = None
        """Why the room is read no more, if it is for good."""
        self._turned = asyncio.Event()  # set, and replaced, with each turn
        if session.is_member:
            self.joined.set()

    def turn(self) -> None:
        """Something has happened."""
        self._turned.set()
        self._turned = asyncio.Event()

    def check_not_lost(self) -> None:
        """:raises MLSError: the room is not read any more"""
        if self.lost is not None:
            raise self.lost

    async def until_live(self) -> None:
        """Wait until the archive has been read to its end.

        :raises MLSError: the room is not read any more
        """
        while not self.live.is_set():
            self.check_not_lost()
            await self._turned.wait()

    async def until_open(self) -> None:
        """If a ReInit has closed the group: wait for the one that follows.

        :raises MLSError: the room is not read any more
        """
        while self._session.reinit is not None:
            self.check_not_lost()
            await self._turned.wait()

    async def until_created(self) -> None:
        """Wait until the room has shown us the group whose creation we have made.

        :raises DeliveryError: the room refuses it, or is not read any more
        """
        while self._session.creation_waits:
            self.check_not_lost()
            await self._turned.wait()
        if not self._session.is_member:
            raise DeliveryError(f"{self._session.room} has refused the group")

    async def reach(self, epoch: int) -> None:
        """Wait until the group is in an epoch, or there is no hope for it any more."""
        with suppress(TimeoutError):
            while self._session.is_member and self._session.group.epoch < epoch and self.lost is None:
                # Each epoch is progress; once the archive has been read, only what is under way can bring another.
                async with asyncio.timeout(_UNDER_WAY if self.live.is_set() else _CATCHING_UP):
                    await self._turned.wait()

    async def all_said(self) -> None:
        """Wait until no message of ours is on its way, or we are out of the group."""
        while self._session.is_member and self._session.messages_wait:
            await self._turned.wait()


def set_error(future: asyncio.Future[Any], error: MLSError) -> None:
    """Tell who waits for a future, if anybody does, that it will not come."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: nobody may be waiting for it
