"""Sends application data to one room, and sends the outbox again after an interruption.

::

    send ── outbox ──► Transmitter ──► Room.send        while we are in the room and have read it to its end
               └─────► the whole outbox                 as soon as we are
               └─────► stream_resumed                   messages made while the stream was broken

While the room is not live, new messages only wait: unread stanzas may make them superfluous, or show that they have
arrived.  When the room has been caught up with, everything that has not been reflected is sent again.  RFC 9420 12.4:
application data is sent only when no proposal waits to be committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from ...client import Event, MessageSent, Outgoing
from ...delivery import Bounced
from ...errors import DeliveryError, MLSError, StoreError
from .committer import Committer
from .parts import RoomParts
from .progress import set_error
from .transmitter import Transmitter
from .write_batching import WriteBatcher

__all__ = ["Sender", "SentMessage"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message in transit.

    :ivar origin_id: its id (XEP-0359), the same for every member
    :ivar confirmed: future of its id in the room's archive; raises DeliveryError if the room refused it
    """

    origin_id: str
    confirmed: asyncio.Future[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Composed:
    """A message in the outbox.

    :ivar waited: whether it was there already
    :ivar live_period: the number of the period in which we are live; None if we are not
    """

    outgoing: Outgoing
    confirmation: asyncio.Future[str]
    waited: bool
    live_period: int | None


class Sender:
    """Sends application data for one room.

    :param bounced: called with the consequences of the refusal of a message that will not be sent again, and the error
    """

    def __init__(
        self,
        parts: RoomParts,
        committer: Committer,
        transmitter: Transmitter,
        bounced: Callable[[list[Event], DeliveryError], None],
    ) -> None:
        self._parts = parts
        self._group = parts.group
        self._progress = parts.progress
        self._committer = committer
        self._transmitter = transmitter
        self._bounced = bounced
        self._writes = WriteBatcher(parts.group)
        self._flushes: set[object] = set()
        self._older_sent = asyncio.Event()  # set while no flush is in progress
        self._older_sent.set()
        self._live_periods = 0
        self._confirmations: dict[str, asyncio.Future[str]] = {}

    # --- sending ---------------------------------------------------------------------------------

    async def send(self, data: bytes, origin_id: str | None) -> SentMessage:
        """Encrypt application data and send it, now or once we are live.

        :param origin_id: id of a message that may be in the outbox already; a new one if None
        :raises MLSError: the room is not read any more
        :raises UsageError: we are not in the group, or another message waits under this id
        :raises NotVouchedFor: the Authentication Service denies a member
        :raises StanzaTooLarge: it does not fit into a stanza
        :raises StoreError: nothing has been sent
        """
        composed = None
        while composed is None:
            self._progress.check_not_lost()
            await self._progress.until_open()
            if not self._group.holds:
                await self._committer.commit_pending()
            composed = await self._writes.do(lambda: self._compose(data, origin_id))
        sent = SentMessage(composed.outgoing.origin_id, composed.confirmation)
        # Older messages have been sent already, or are sent with all those made before we were live.
        if composed.live_period is not None and not composed.waited:
            try:
                await self._older_sent.wait()
            except asyncio.CancelledError:
                self._transmitter.nobody_waits(sent.origin_id)
                raise
            if composed.live_period == self._live_periods:  # and we were not away meanwhile
                await self._transmitter.transmit(composed.outgoing)
        return sent

    def _compose(self, data: bytes, origin_id: str | None) -> _Composed | None:
        """Put a message into the outbox; None if something has to be committed first (RFC 9420 12.4)."""
        group, live = self._group, self._progress.live.is_set() and not self._group.waits_to_send
        if (
            group.is_member
            and not group.holds
            and (group.sending.needs_commit or group.continuation.reinit is not None)
        ):
            return None
        waited = origin_id is not None and group.sending.on_its_way(origin_id) is not None
        outgoing = group.sending.compose(data, later=not live, fits=self._parts.fits, origin_id=origin_id)
        # From here on `fail` reaches the future, so it always gets a result.
        confirmation = self._confirmations.get(outgoing.origin_id)
        if confirmation is None:
            confirmation = self._confirmations[outgoing.origin_id] = asyncio.get_running_loop().create_future()
        return _Composed(outgoing, confirmation, waited, self._live_periods if live else None)

    # --- sending again ---------------------------------------------------------------------------

    def went_live(self) -> None:
        """Send the messages made until now; from now on, :meth:`send` does it itself."""
        self._live_periods += 1
        self._transmitter.went_live()
        self.send_outbox("sending again")

    def send_outbox(self, why: str) -> None:
        """Send all that has not been reflected, if we are live."""
        if self._progress.live.is_set():
            self._flush_soon(self._group.outstanding_ids(), why)

    def stream_resumed(self) -> None:
        """Resume after a stream resumption (XEP-0198): slixmpp has sent again what was in transit.

        slixmpp does not know the messages made meanwhile.
        """
        due = self._transmitter.stream_resumed()
        if due and self._progress.live.is_set():
            self._flush_soon(due, "sending what was made meanwhile")

    def verified(self) -> None:
        """Send lost messages again: the archive has been read to its end since the room confirmed our presence."""
        self._flush_soon(self._transmitter.verified(), "sending again what was lost")

    def _flush_soon(self, due: frozenset[str], name: str) -> None:
        """Send again what has not been reflected, beside the reading; messages made from now on follow it."""

        async def flush() -> None:
            try:
                await self._flush(due)
            finally:
                self._flushes.discard(flush)
                if not self._flushes:
                    self._older_sent.set()

        self._flushes.add(flush)
        self._older_sent.clear()
        self._parts.spawn(flush(), name)

    async def _flush(self, due: frozenset[str]) -> None:
        """Send again what has not been reflected.

        :param due: origin ids of the messages that were made before we were live
        """
        if self._group.is_member and self._group.continuation.reinit is None and not self._group.holds:
            await self._committer.commit_pending()
        left = set(due)

        async def transmit() -> None:
            for outgoing in self._group.outstanding():
                if not left or not self._progress.live.is_set():
                    return
                if outgoing.origin_id in left:
                    left.discard(outgoing.origin_id)
                    await self._transmitter.transmit(outgoing)

        await self._parts.until_stored(transmit)

    # --- outcome ---------------------------------------------------------------------------------

    def confirm(self, event: MessageSent) -> None:
        """Confirm a message that has been reflected."""
        confirmation = self._confirmations.pop(event.origin_id, None)
        if confirmation is not None and not confirmation.done():
            confirmation.set_result(event.archive_id)

    def fail(self, error: MLSError) -> None:
        """End all waits: nothing is reflected any more."""
        waiting, self._confirmations = self._confirmations, {}
        for future in waiting.values():
            set_error(future, error)

    def close(self) -> None:
        """Stop sending again."""
        self._flushes.clear()
        self._older_sent.set()

    def bounced(self, event: Bounced) -> None:
        """Handle the room's refusal of a message."""
        if event.remedy == "enter":
            return  # we are not in the room (XEP-0045 7.4): we enter again, and send the waiting messages again
        if event.remedy == "wait":
            self._transmitter.put_off(event.message_id)
            return
        error = DeliveryError(f"{self._parts.room} has refused a message: {event.condition}")
        self.refused(event.message_id, event.condition, error)

    def refused(self, origin_id: str, condition: str, error: DeliveryError) -> None:
        """Give up a message that will not be sent again.

        :param condition: by its name in RFC 6120 8.3.3
        """
        confirmation = self._confirmations.pop(origin_id, None)
        if confirmation is not None:
            set_error(confirmation, error)
        try:
            self._bounced(self._group.bounced(origin_id, condition), error)
        except StoreError as failed:
            self._parts.context.fire("mls_store_failed", failed)
