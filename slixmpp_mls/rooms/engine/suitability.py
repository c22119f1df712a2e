"""Whether a room still suits its group: its owner, or the service, can change it at any time.

A room is examined when a group begins in it.  Later, an owner may open it to everybody, make it anonymous, or switch
its archive off (XEP-0045 10.2).  Nothing on the wire then says that messages have no place in any order: members
neither hear each other nor see an error.  The room is therefore examined again (XEP-0030) when it says that it was
configured (status 104), and when it shows a message that it has not archived.  What it lacks is reported, once until it
changes (``mls_room_unsuitable``).

While a room has no archive, nothing is sent again, as it would have no place either.  It is sent when the archive is
back.

Others can cause the question, so that it is asked once in :data:`PAUSE` at most.
"""

from __future__ import annotations

import asyncio
import logging

from ...errors import DeliveryError, RoomUnsuitable
from .parts import RoomParts

__all__ = ["PAUSE", "Suitability"]

log = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds between two examinations."""


class Suitability:
    """The examinations of one room.

    :ivar lacks: what the room lacks, by the names in :attr:`RoomUnsuitable.reasons`, as far as we know
    """

    def __init__(self, parts: RoomParts) -> None:
        self._parts = parts
        self.lacks: tuple[str, ...] = ()
        self._due = False
        self._looking = False

    @property
    def has_archive(self) -> bool:
        """Whether what is sent has a place in the room's order."""
        return "no-archive" not in self.lacks

    def look(self) -> None:
        """Examine the room soon."""
        self._due = True
        if not self._looking:
            self._looking = True
            self._parts.spawn(self._look(), "examining the room")

    async def _look(self) -> None:
        try:
            while self._due:
                self._due = False
                await self._examine()
                await asyncio.sleep(PAUSE)
        finally:
            self._looking = False

    async def _examine(self) -> None:
        muc, had_archive = self._parts.muc, self.has_archive
        try:
            lacks = await muc.check()
        except DeliveryError as error:
            log.info("%s: it cannot be examined: %s", self._parts.room, error)
            return
        if lacks == self.lacks or "not-found" in lacks:  # its end is told otherwise
            return
        self.lacks = lacks
        if lacks:
            log.warning("%s does not suit its group any more: %s", self._parts.room, ", ".join(lacks))
            self._parts.context.fire("mls_room_unsuitable", RoomUnsuitable(self._parts.room, lacks))
        if self.has_archive and not had_archive:
            muc.suspect()  # what is waiting is sent once more
