"""Fetches what a stanza says is elsewhere, within limits: until it is there or given up, the room is not read on.

The stanzas after a Commit, or after our own Welcome, can be read only after it.  Whoever names a place can let its
server answer slowly, or never.  Therefore all attempts for one place together have a time limit, and each sender's
fetches that lead to nothing have a budget, as have those of all senders in a room together.  Without a fetch, the
stanza is treated as one whose content is not there: a member is unsure and asks (:mod:`.recovery`), a client that waits
for its Welcome asks to be added (:mod:`.rejoin`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from ...delivery import RoomStanza, Stream
from ...errors import DeliveryError, PeerError, TransferFailed
from ...mls.parameters import HOUR
from ...stanza.blob import BlobReference
from .parts import RoomParts

__all__ = ["FAILURES", "FAILURES_OF_ONE", "BlobFetching", "time_limit"]

log = logging.getLogger(__name__)

FAILURES_OF_ONE = 4
"""Fetches in an hour that one sender may have us make in vain."""
FAILURES = 16
"""The same, for all senders in a room together."""
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds, between attempts to fetch a blob
_LIMIT = 60.0  # seconds for all attempts ...
_SPEED = 2**20  # ... and as many more as a connection needs with so many octets in a second


def time_limit(place: BlobReference) -> float:
    """Seconds for all attempts to fetch something."""
    return _LIMIT + place.size / _SPEED


class BlobFetching:
    """Fetches for one room."""

    def __init__(self, parts: RoomParts) -> None:
        self._context = parts.context
        self._room = parts.room
        self._failures: deque[tuple[float, str]] = deque(maxlen=FAILURES)  # when, by whom

    async def fetch(self, place: BlobReference, stanza: RoomStanza) -> bytes:
        """Fetch a blob, with several attempts; failures of our own connection do not count.

        :param stanza: the one that says where it is
        :raises DeliveryError: it is unavailable, permanently or for a minute, or its sender's budget is used up
        :raises MalformedError: there is other content at its address
        """
        if not self.may_be_in_vain(stanza):
            raise TransferFailed(f"{_sender(stanza)} has named too much that is not there", temporary=False)
        try:
            return await self._fetch(place)
        except (DeliveryError, PeerError):
            self.was_in_vain(stanza)
            raise

    def may_be_in_vain(self, stanza: RoomStanza) -> bool:
        """Whether its sender's budget lets us wait for what a stanza names: a blob, or another room's epoch."""
        now = asyncio.get_running_loop().time()
        recent = [who for when, who in self._failures if now - when < HOUR]
        return len(recent) < FAILURES and recent.count(_sender(stanza)) < FAILURES_OF_ONE

    def was_in_vain(self, stanza: RoomStanza) -> None:
        """Note that waiting for what a stanza names has led to nothing, whether there was something or not.

        A tree that is refused afterwards costs more than a place with nothing, and may be named again and again.
        """
        self._failures.append((asyncio.get_running_loop().time(), _sender(stanza)))

    async def _fetch(self, place: BlobReference) -> bytes:
        pauses, stream, clock = iter(_PAUSES), Stream.of(self._context.xmpp), asyncio.get_running_loop().time
        left = time_limit(place)
        while True:
            begun = clock()
            try:
                async with asyncio.timeout(left):
                    return await self._context.uploads.get(place)
            except TimeoutError:
                error = TransferFailed(f"it was not there within {time_limit(place):.0f} seconds", temporary=True)
            except TransferFailed as failed:
                error = failed
            pause: float | None = 1.0
            if stream.online:
                pause = next(pauses, None)
                left -= clock() - begun + (pause or 0.0)
            if pause is None or left <= 0 or not error.temporary:
                raise error
            log.info("%s: a part of a stanza cannot be fetched yet: %s", self._room, error)
            await asyncio.sleep(pause)


def _sender(stanza: RoomStanza) -> str:
    """By whom a stanza is, as the room says."""
    return str(stanza.occupant) if stanza.real_jid is None else stanza.real_jid.bare
