"""Sending again what the room has put off, and what has vanished on the way.

A stream within one server loses nothing that XEP-0198 does not bring back.  Between servers nothing of the kind
can be relied upon: a link that breaks takes with it what was on its way, with or without an error to the sender.
And a service under load may ask to be sent less.  So a message of the outbox that has been sent, while we stay in the
room, ends in one of three ways::

    sent ──► reflected: done
      ├────► refused with type "wait" (RFC 6120 8.3.2): held, and sent again, one held message after another,
      │      with pauses that grow while the room keeps refusing
      └────► nothing for `PATIENCE`: doubted.  The room is asked whether we are in it.  Its answer comes after
             whatever it had received before the question, so when the archive has then been read to its end and
             the message is not there, it is lost, and sent again

While anything is held, what is new goes behind it: the order of what a member says is kept.  Leaving the room, for
whatever reason, ends all this: after entering it again, the whole outbox is sent again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

from ...client import Outgoing

__all__ = ["PATIENCE", "Resending"]

#: Seconds after which a message that has not been reflected may have been lost.
PATIENCE = 10.0
_SHORTEST = 0.25  # seconds between two attempts
_LONGEST = 30.0


class Resending:
    """What one room's worker has sent and not seen.

    :param waiting: origin ids of what has not come back
    :param outstanding: the same as it is to be sent now, oldest first
    :param send: puts a message onto the stream
    :param doubt: asks the room whether we are in it, and has the archive read; then `verified` is called
    :param spawn: runs something beside
    """

    def __init__(
        self,
        waiting: Callable[[], frozenset[str]],
        outstanding: Callable[[], Iterator[Outgoing]],
        send: Callable[[Outgoing], Awaitable[None]],
        doubt: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, object], str], object],
    ) -> None:
        self._waiting = waiting
        self._outstanding = outstanding
        self._send = send
        self._doubt = doubt
        self._spawn = spawn
        self._sent: dict[str, float] = {}
        self._doubted: set[str] = set()
        self._held: dict[str, None] = {}
        self._refused: set[str] = set()
        self._news = asyncio.Event()
        self._watching = False
        self._dripping = False

    @property
    def holds(self) -> bool:
        """Whether something is held, and new messages have to queue behind it."""
        return bool(self._held)

    def clear(self) -> None:
        """We are out of the room."""
        self._sent.clear()
        self._doubted.clear()
        self._held.clear()
        self._refused.clear()
        self._news.set()

    # --- what happens to messages --------------------------------------------------------------

    def sent(self, origin_id: str) -> None:
        """It has been put onto the stream."""
        self._sent[origin_id] = asyncio.get_running_loop().time()
        if not self._watching:
            self._watching = True
            self._spawn(self._watch(), "watching for reflections")

    def stanza_read(self) -> None:
        """Something has come back, perhaps."""
        self._news.set()

    def hold(self, origin_id: str) -> None:
        """It is to be sent later: the room has refused it for now, or others wait already."""
        self._sent.pop(origin_id, None)
        self._held[origin_id] = None
        if not self._dripping:
            self._dripping = True
            self._spawn(self._drip(), "sending slowly")

    def put_off(self, origin_id: str) -> None:
        """The room has refused it for now."""
        self._refused.add(origin_id)
        self.hold(origin_id)
        self._news.set()

    # --- lost on the way -----------------------------------------------------------------------

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._sent:
                await asyncio.sleep(max(0.05, min(self._sent.values()) + PATIENCE - clock()))
                now, waiting = clock(), self._waiting()
                self._sent = {origin_id: when for origin_id, when in self._sent.items() if origin_id in waiting}
                late = [origin_id for origin_id, when in self._sent.items() if when + PATIENCE <= now]
                if late:
                    self._doubted.update(late)
                    self._sent.update(dict.fromkeys(late, now))  # if the room does not even answer, it is asked again
                    self._doubt()
        finally:
            self._watching = False

    def verified(self) -> frozenset[str]:
        """The archive has been read to its end after the doubt: what is to be sent again, by origin id."""
        due = self._waiting() & self._doubted
        self._doubted.clear()
        return due

    # --- put off -------------------------------------------------------------------------------

    async def _drip(self) -> None:
        pause = 2 * _SHORTEST
        try:
            while self._held:
                await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311
                # The order is the outbox's: one that was sent before may be refused after one that was made later.
                outgoing = next((each for each in self._outstanding() if each.origin_id in self._held), None)
                if outgoing is None:  # all have come back, or they have to wait for a Commit
                    self._held = {origin_id: None for origin_id in self._held if origin_id in self._waiting()}
                    continue
                self._refused.discard(outgoing.origin_id)
                await self._send(outgoing)
                refused = await self._answer(outgoing.origin_id)
                pause = min(_LONGEST, 2 * pause) if refused else max(_SHORTEST, pause / 2)
        finally:
            self._dripping = False

    async def _answer(self, origin_id: str) -> bool:
        """Whether it is refused again; false if it comes back, or nothing does for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while origin_id in self._held and origin_id not in self._refused and origin_id in self._waiting():
                    self._news.clear()
                    await self._news.wait()
        return origin_id in self._refused
