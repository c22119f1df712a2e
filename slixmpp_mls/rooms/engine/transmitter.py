"""Writes the messages of one room's outbox to the stream, until the room reflects or refuses each.

A stream within one server loses nothing that XEP-0198 does not recover.  Between servers there is no such guarantee: a
broken link loses the stanzas in transit, with or without an error to the sender.  A service under load may also ask
clients to send less.  So a sent message, while we stay in the room, ends in one of three ways::

    transmit ──► reflected: done
      ├────► refused with type "wait" (RFC 6120 8.3.2): held, and sent again, one held message after another,
      │      with pauses that grow while the room keeps refusing
      └────► nothing for `REFLECTION_OVERDUE`: doubted.  The room is asked whether we are in it.  Its answer comes
             after whatever it had received before the question, so when the archive has then been read to its end
             and the message is not there, it is lost, and sent again

A Commit that no stanza holds is uploaded first; if that fails for good, it counts as refused.

While anything is held, a new message queues behind it, and held messages go out in the order of the outbox.  So the
order of a member's messages is kept, but for those in transit when the room refuses the first one: if it accepts a
later one of these, that one comes first.  To prevent it, each message would have to wait for the reflection of the one
before.

Leaving the room, for whatever reason, ends all this: after we enter it again, the whole outbox is sent again
(:mod:`.sender`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress

from ...client import Outgoing
from ...errors import DeliveryError, Disconnected, NoAnswer, StanzaTooLarge
from .parts import RoomParts, children

__all__ = ["REFLECTION_OVERDUE", "Transmitter"]

log = logging.getLogger(__name__)

#: Seconds after which a message that has not been reflected may have been lost.
REFLECTION_OVERDUE = 10.0
_SHORTEST_PAUSE = 0.25  # seconds between two attempts to send messages that the room has put off
_LONGEST_PAUSE = 30.0


class Transmitter:
    """Sends one room's messages.

    :param refused: called with the origin id of a message that will not be sent again, the condition by its name in
        RFC 6120 8.3.3, and the error
    """

    def __init__(self, parts: RoomParts, refused: Callable[[str, str, DeliveryError], None]) -> None:
        self._parts = parts
        self._group = parts.group
        self._refused = refused
        self._unsent: set[str] = set()
        self._sent: dict[str, float] = {}
        self._doubted: set[str] = set()
        self._held: dict[str, None] = {}
        self._put_off: set[str] = set()
        self._news = asyncio.Event()
        self._watching = False
        self._sending_held = False

    async def transmit(self, outgoing: Outgoing) -> None:
        """Send a message of the outbox; if the room is not live, it goes out once it is."""
        if not self._parts.progress.live.is_set():
            return
        if self._held:
            self._hold(outgoing.origin_id)
        else:
            await self._put(outgoing)

    async def _put(self, outgoing: Outgoing) -> None:
        """Write a message to the stream, regardless of held messages."""
        try:
            if outgoing.uploads:
                uploaded = await self._upload(outgoing)
                if uploaded is None:
                    return
                outgoing = uploaded
            await self._parts.muc.send(children(outgoing.payloads), message_id=outgoing.origin_id)
        except asyncio.CancelledError:
            self.nobody_waits(outgoing.origin_id)
            raise
        except Disconnected:
            self._unsent.add(outgoing.origin_id)
            log.info("%s: not connected; what is in the outbox goes out later", self._parts.room)
        except NoAnswer:  # the stream stays, and no resumption will send it
            self._watch_for(outgoing.origin_id)
            log.warning("%s: the client's send queue does not move", self._parts.room)
        except StanzaTooLarge as error:  # made before the server's limit was known to be so small
            self._refused(outgoing.origin_id, "policy-violation", error)
        else:
            self._watch_for(outgoing.origin_id)

    def nobody_waits(self, origin_id: str) -> None:
        """Send a message of the outbox later: who has waited until it was sent has given up, which undoes nothing."""
        self._unsent.add(origin_id)
        if self._parts.progress.lost is None:  # otherwise the end of the reading is why
            self._watch_for(origin_id)

    async def _upload(self, outgoing: Outgoing) -> Outgoing | None:
        """Upload a Commit that no stanza holds.

        :returns: what to send in its place; None if nothing is to be sent now
        """
        try:
            places = [await self._parts.context.uploads.put(octets) for octets in outgoing.uploads]
        except Disconnected:
            self._unsent.add(outgoing.origin_id)
            return None
        except DeliveryError as error:
            self._refused(outgoing.origin_id, "resource-constraint", error)
            return None

        async def store() -> Outgoing | None:
            return self._group.sending.placed(outgoing.origin_id, places)

        return await self._parts.until_stored(store)

    # --- events of the room ----------------------------------------------------------------------

    def went_live(self) -> None:
        """Begin after a catch-up with the room; the caller sends the whole outbox again."""
        self._unsent.clear()

    def stream_resumed(self) -> frozenset[str]:
        """Resume after a stream resumption (XEP-0198).

        :returns: origin ids of the messages that were not written to it; slixmpp sends the rest again
        """
        due, self._unsent = frozenset(self._unsent), set()
        return due

    def stanza_read(self) -> None:
        """Look for a reflection in a stanza that has been read."""
        self._news.set()

    def interrupted(self) -> None:
        """Stop: we are out of the room."""
        self._sent.clear()
        self._doubted.clear()
        self._held.clear()
        self._put_off.clear()
        self._news.set()

    def put_off(self, origin_id: str) -> None:
        """Hold a message that the room has refused for now (RFC 6120 8.3.2, type ``wait``)."""
        self._put_off.add(origin_id)
        self._hold(origin_id)
        self._news.set()

    def verified(self) -> frozenset[str]:
        """Resolve a doubt: the archive has been read to its end.

        :returns: origin ids of the lost messages
        """
        due = self._group.outstanding_ids() & self._doubted
        self._doubted.clear()
        return due

    # --- lost on the way -------------------------------------------------------------------------

    def _watch_for(self, origin_id: str) -> None:
        self._sent[origin_id] = _monotonic()
        if not self._watching:
            self._watching = True
            self._parts.spawn(self._watch(), "watching for reflections")

    async def _watch(self) -> None:
        try:
            while self._sent:
                overdue_at = min(self._sent.values()) + REFLECTION_OVERDUE
                await asyncio.sleep(max(0.05, overdue_at - _monotonic()))
                now, waiting = _monotonic(), self._group.outstanding_ids()
                self._sent = {origin_id: when for origin_id, when in self._sent.items() if origin_id in waiting}
                late = [origin_id for origin_id, when in self._sent.items() if when + REFLECTION_OVERDUE <= now]
                if late:
                    self._doubted.update(late)
                    self._sent.update(dict.fromkeys(late, now))  # if the room does not answer at all, it is asked again
                    self._parts.muc.suspect()
        finally:
            self._watching = False

    # --- put off ---------------------------------------------------------------------------------

    def _hold(self, origin_id: str) -> None:
        self._sent.pop(origin_id, None)
        self._held[origin_id] = None
        if not self._sending_held:
            self._sending_held = True
            self._parts.spawn(self._send_held(), "sending slowly")

    async def _send_held(self) -> None:
        pause = 2 * _SHORTEST_PAUSE
        try:
            while self._held:
                await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311
                # The order is the outbox's: an earlier message may be refused after a later one was made.
                outgoing = next((each for each in self._group.outstanding() if each.origin_id in self._held), None)
                if outgoing is None:  # all have been reflected, or must wait for a Commit
                    waiting = self._group.outstanding_ids()
                    self._held = {origin_id: None for origin_id in self._held if origin_id in waiting}
                    continue
                self._put_off.discard(outgoing.origin_id)
                await self._put(outgoing)
                refused = await self._is_put_off_again(outgoing.origin_id)
                pause = min(_LONGEST_PAUSE, 2 * pause) if refused else max(_SHORTEST_PAUSE, pause / 2)
        finally:
            self._sending_held = False

    async def _is_put_off_again(self, origin_id: str) -> bool:
        """Whether the room refuses a message again; False if it is reflected, or nothing arrives for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REFLECTION_OVERDUE):
                while (
                    origin_id in self._held
                    and origin_id not in self._put_off
                    and origin_id in self._group.outstanding_ids()
                ):
                    self._news.clear()
                    await self._news.wait()
        return origin_id in self._put_off


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
