"""Sending to one room: what is in the outbox goes out, and goes out again until the room reflects it.

::

    compose ── outbox ──► transmit ──► Room.send        while we are in the room and have read it to its end
                  └─────► all_again                     as soon as we are
                  └─────► stream_resumed                what was made while the stream was broken
                  └─────► Resending                     what was put off, or lost on the way

While the room is not live, what is made only waits: what has not been read yet may make it superfluous, or show that it
has arrived.  When the room has been caught up with, all that has not come back is sent again.  RFC 9420 12.4:
application data goes out only when no proposal waits to be committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ...client import Event, MessageSent, Outgoing, RoomGroup
from ...client.group.actions import Fits
from ...delivery import Bounced, Room
from ...errors import DeliveryError, Disconnected, MLSError, NoAnswer, StanzaTooLarge, StoreError
from ...stanza import NS, RoomElement
from .progress import Progress, set_error
from .retransmission import Resending
from .write_batching import WritingTogether

__all__ = ["Sender", "children"]

log = logging.getLogger(__name__)

_NS_EME = "urn:xmpp:eme:0"
_STORE_PAUSE = 60.0  # seconds, the longest between two tries to read the outbox


class Sender:
    """Sends for one room's worker.

    :param fits: whether a stanza is not too large to be made
    :param commit_what_waits: brings the group to where application data may be sent
    :param refused: called with what follows from the refusal of a message that will not be sent again, and the refusal
    :param spawn: runs something beside
    :param fire: fires an event of slixmpp's
    """

    def __init__(
        self,
        session: RoomGroup,
        delivery: Room,
        progress: Progress,
        *,
        fits: Fits,
        commit_what_waits: Callable[[], Awaitable[None]],
        refused: Callable[[list[Event], DeliveryError], None],
        spawn: Callable[[Coroutine[Any, Any, object], str], object],
        fire: Callable[[str, object], None],
    ) -> None:
        self._session = session
        self._delivery = delivery
        self._progress = progress
        self._fits = fits
        self._commit_what_waits = commit_what_waits
        self._refused = refused
        self._spawn = spawn
        self._fire = fire
        self._writing = WritingTogether(session)
        self._unsent: set[str] = set()
        self._flushes: set[object] = set()
        self._older_sent = asyncio.Event()  # nothing waits to be sent again
        self._older_sent.set()
        self._comings = 0  # how often we have become up to date
        self._confirmations: dict[str, asyncio.Future[str]] = {}
        self._resending = Resending(session.outstanding_ids, session.outstanding, self._put, delivery.suspect, spawn)

    # --- now -----------------------------------------------------------------------------------

    async def send(self, data: bytes, origin_id: str | None) -> tuple[str, asyncio.Future[str]]:
        """Encrypt application data and send it, now or once we are up to date.

        :returns: its origin id, and a future of its archive id
        """
        composed = None
        while composed is None:
            self._progress.check_not_lost()
            await self._progress.until_open()
            await self._commit_what_waits()
            composed = await self._writing.do(lambda: self._compose(data, origin_id))
        outgoing, waits, coming = composed
        confirmation = self._confirmations.get(outgoing.origin_id)
        if confirmation is None:
            confirmation = self._confirmations[outgoing.origin_id] = asyncio.get_running_loop().create_future()
        if coming is not None and not waits:  # or it has been sent already, or will be with all that was made before
            await self._older_sent.wait()
            if coming == self._comings:  # and we were not away meanwhile
                await self.transmit(outgoing)
        return outgoing.origin_id, confirmation

    def _compose(self, data: bytes, origin_id: str | None) -> tuple[Outgoing, bool, int | None] | None:
        """Put it into the outbox; None if something has to be committed first.

        :returns: with it, whether it was there already, and how often we had become up to date; None if we are not
        """
        session, live = self._session, self._progress.live.is_set()
        if session.is_member and (session.needs_commit or session.reinit is not None):
            return None
        waits = origin_id is not None and session.on_its_way(origin_id) is not None
        outgoing = session.compose(data, later=not live, fits=self._fits, origin_id=origin_id)
        return outgoing, waits, self._comings if live else None

    async def transmit(self, outgoing: Outgoing) -> None:
        """Send what is in the outbox; if we are not up to date, it goes out once we are."""
        if not self._progress.live.is_set():
            return
        if self._resending.holds:
            self._resending.hold(outgoing.origin_id)
        else:
            await self._put(outgoing)

    async def _put(self, outgoing: Outgoing) -> None:
        """Send, whatever waits."""
        try:
            await self._delivery.send(children(outgoing.payloads), message_id=outgoing.origin_id)
            self._resending.sent(outgoing.origin_id)
        except (Disconnected, NoAnswer):
            self._unsent.add(outgoing.origin_id)
            log.info("%s: not connected; what is in the outbox goes out later", self._session.room)
        except StanzaTooLarge as error:  # made before it turned out how little our server takes
            self._not_sent(outgoing.origin_id, "policy-violation", error)

    # --- again ---------------------------------------------------------------------------------

    def went_live(self) -> None:
        """From now on, whoever makes a message also sends it: what was made until now is ours to send."""
        self._comings += 1
        self._unsent.clear()
        self.all_again("sending again")

    def all_again(self, why: str) -> None:
        """Send all that has not come back."""
        self._flush_soon(self._session.outstanding_ids(), why)

    def stream_resumed(self) -> None:
        """The stream goes on where it broke (XEP-0198): slixmpp has sent again what was on its way, but
        knows nothing of what was made meanwhile."""
        due, self._unsent = frozenset(self._unsent), set()
        if due and self._progress.live.is_set():
            self._flush_soon(due, "sending what was made meanwhile")

    def stanza_read(self) -> None:
        """Something has come back, perhaps."""
        self._resending.stanza_read()

    def interrupted(self) -> None:
        """We are out of the room."""
        self._resending.clear()

    def verified(self) -> None:
        """We are in the room, and have read it to its end since it was asked whether we are."""
        self._flush_soon(self._resending.verified(), "sending again what was lost")

    def _flush_soon(self, due: frozenset[str], name: str) -> None:
        """Send again what has not come back, beside the reading; what is made from now on is sent after it."""

        async def flush() -> None:
            try:
                await self._flush(due)
            finally:
                self._flushes.discard(flush)
                if not self._flushes:
                    self._older_sent.set()

        self._flushes.add(flush)
        self._older_sent.clear()
        self._spawn(flush(), name)

    async def _flush(self, due: frozenset[str]) -> None:
        """Send again what has not come back.

        :param due: origin ids of the messages that were made before we were up to date
        """
        if self._session.is_member and self._session.reinit is None:
            await self._commit_what_waits()
        left, pause = set(due), 0.5
        while left:
            try:
                for outgoing in self._session.outstanding():
                    if not self._progress.live.is_set():
                        return
                    if outgoing.origin_id in left:
                        left.discard(outgoing.origin_id)
                        await self.transmit(outgoing)
                return
            except StoreError as error:
                self._fire("mls_store_failed", error)
                await asyncio.sleep(pause)
                pause = min(_STORE_PAUSE, 2 * pause)

    # --- what becomes of it --------------------------------------------------------------------

    def confirm(self, event: MessageSent) -> None:
        """A message has come back."""
        confirmation = self._confirmations.pop(event.origin_id, None)
        if confirmation is not None and not confirmation.done():
            confirmation.set_result(event.archive_id)

    def fail(self, error: MLSError) -> None:
        """Nothing will come back any more: tell everybody who waits."""
        waiting, self._confirmations = self._confirmations, {}
        for future in waiting.values():
            set_error(future, error)

    def close(self) -> None:
        """Nothing is sent again any more."""
        self._flushes.clear()
        self._older_sent.set()

    def bounced(self, event: Bounced) -> None:
        """The room has refused a message."""
        if event.remedy == "enter":
            return  # we are not in the room (XEP-0045 7.4): it is entered again, and what waits is sent again
        if event.remedy == "wait":
            self._resending.put_off(event.message_id)
            return
        error = DeliveryError(f"{self._session.room} has refused a message: {event.condition}")
        self._not_sent(event.message_id, event.condition, error)

    def _not_sent(self, message_id: str, condition: str, error: DeliveryError) -> None:
        """A message will not be sent again."""
        confirmation = self._confirmations.pop(message_id, None)
        if confirmation is not None:
            set_error(confirmation, error)
        try:
            self._refused(self._session.bounced(message_id, condition), error)
        except StoreError as failed:
            self._fire("mls_store_failed", failed)


def children(found: Sequence[RoomElement]) -> list[Element]:
    """What a stanza with these elements holds: them, and the hint that it is encrypted (XEP-0380)."""
    encryption = Element(f"{{{_NS_EME}}}encryption", {"namespace": NS, "name": "MLS"})
    return [*(element.to_stdlib() for element in found), encryption]
