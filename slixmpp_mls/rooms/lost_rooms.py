"""Rooms that did not let us in, and may do so again.

A room that refuses us is lost (:class:`~slixmpp_mls.errors.RoomLost`): the application is told, and nothing is sent or
read there.  People undo what they have done, however: they give an affiliation back, lift a ban, take a password off a
room; a service that was restored knows its rooms again.  The room tells this to nobody outside of it, so that a program
that runs for long would stay outside until its next start.  Therefore a lost room is tried again

- at every new session, as at every start;
- after growing pauses (:data:`PAUSES`), the last of which comes again and again.

One attempt is one presence (XEP-0045 7.2).  Between two attempts to enter a room lies the first pause at least.  Until
the room lets us in, it stays lost; if the reason changes, ``mls_outage`` tells of it.  Then it is read from our place,
and ``mls_entered`` tells of it.  A client that was removed from the group meanwhile finds that in the archive.

A room whose reading an unexpected error has ended (``mls_failed``) is tried in the same manner.  The reading may fail
again, at once: the pauses go on growing, unless an hour has passed since the last attempt.

A destroyed room is not tried again: if another one has its address, our user decides about it (:meth:`.MLS.create`).
Entering a room that does not exist would make it, so the service is asked for it first (XEP-0030).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from ..errors import DeliveryError
from .encrypted_room import EncryptedRoom

__all__ = ["PAUSES", "LostRooms"]

log = logging.getLogger(__name__)

PAUSES = (60, 240, 960, 3600)
"""Seconds before each attempt; the last one is that before all further ones."""


class LostRooms:
    """The attempts to enter lost rooms again.

    :param rooms: the rooms by bare JID
    :param enter: enters a room once and returns whether it has let us in; raises DeliveryError if it does not answer
    :param now: seconds, on a clock that is never set
    """

    def __init__(
        self,
        rooms: Callable[[], Mapping[str, EncryptedRoom]],
        enter: Callable[[EncryptedRoom], Awaitable[bool]],
        now: Callable[[], float],
    ) -> None:
        self._rooms = rooms
        self._enter = enter
        self._now = now
        self._tried: dict[str, tuple[int, float]] = {}  # attempts, and the time of the last one, or of the loss
        self._trying = False

    async def try_again(self, *, new_session: bool = False) -> None:
        """Try the rooms that are due, one after the other; nothing if they are being tried already.

        :param new_session: all are due that were not tried a moment ago
        :raises Exception: the first unexpected error, after all have been tried; further ones are logged
        """
        if self._trying:
            return
        self._trying = True
        try:
            lost = {room: handle for room, handle in self._rooms().items() if _may_pass(handle)}
            now = self._now()
            recent = {room: tried for room, tried in self._tried.items() if now - tried[1] < PAUSES[-1]}
            self._tried = recent | {room: self._tried.get(room, (0, now)) for room in lost}
            failures: list[Exception] = []
            for room, handle in lost.items():
                if self._is_due(room, new_session):
                    try:
                        await self._try(room, handle)
                    except Exception as error:  # a fault of our own; the other rooms are tried all the same
                        if failures:
                            log.exception("%s cannot be tried again", room)
                        failures.append(error)
            if failures:
                raise failures[0]
        finally:
            self._trying = False

    def next_try(self, handle: EncryptedRoom) -> float | None:
        """Seconds until a lost room is tried again, if there is no new session before; None: it is not."""
        if not _may_be_tried(handle):
            return None
        attempts, last = self._tried.setdefault(handle.jid, (0, self._now()))
        return max(0.0, last + _pause_after(attempts) - self._now())

    def _is_due(self, room: str, new_session: bool) -> bool:
        attempts, last = self._tried[room]
        if new_session and not attempts:
            return True
        return self._now() - last >= (PAUSES[0] if new_session else _pause_after(attempts))

    async def _try(self, room: str, handle: EncryptedRoom) -> None:
        self._tried[room] = self._tried[room][0] + 1, self._now()
        try:
            if await self._enter(handle):
                log.info("%s lets us in again", room)
        except DeliveryError as error:
            log.info("%s cannot be entered yet: %s", room, error)


def _pause_after(attempts: int) -> float:
    return PAUSES[min(attempts, len(PAUSES) - 1)]


def _may_pass(handle: EncryptedRoom) -> bool:
    """Whether a room is lost, and is to be tried again."""
    return (handle.lost is not None or handle.worker.broken) and not handle.worker.running and _may_be_tried(handle)


def _may_be_tried(handle: EncryptedRoom) -> bool:
    return handle.lost is None or handle.lost.reason != "destroyed"
