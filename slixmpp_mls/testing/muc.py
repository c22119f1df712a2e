"""A client of a :class:`~.room.FakeRoom`, in place of :class:`slixmpp_mls.delivery.Room`.

With it, a test runs the engine of a room (:mod:`slixmpp_mls.rooms.engine`) without a server.  Stanzas are in flight
until the test delivers them, as in the rest of this package.  The test also decides when the client is out of the room,
when the room refuses a stanza, and when it admits nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, ClientXMPP

from ..client import Incoming
from ..delivery import Bounced, CatchingUp, EphemeralShown, Interrupted, Room, RoomEvent, RoomStanza, Verified
from ..delivery.archive import Archive, Entry, Page
from ..errors import DeliveryError, Disconnected
from ..stanza import LiveElement, RoomElement, payloads
from .room import FakeRoom

__all__ = ["FakeMUC"]

_SID = "urn:xmpp:sid:0"


class FakeMUC(Room):
    """One client of a room.

    :param account: bare JID
    :ivar sent: the ids of all messages that it has written to the stream, oldest first
    :ivar refuses: raised by the next :meth:`join`, and ends :meth:`batches`, until it is None again
    :ivar suspected: the number of times that the room was asked whether we are in it
    """

    def __init__(
        self,
        xmpp: ClientXMPP,
        room: FakeRoom,
        account: str,
        nick: str | None = None,
        *,
        on_event: Callable[[RoomEvent], None] = lambda event: None,
    ) -> None:
        super().__init__(xmpp, room.jid, nick or JID(account).local)
        self.room = room
        self.account = account
        self.archive = _FakeArchive(xmpp, room, account)
        self.sent: list[str] = []
        self.refuses: DeliveryError | None = None
        self.suspected = 0
        self._told = on_event
        self._after: str | None = None
        self._inside = False
        self._complete = False
        self._stopped = False
        self._happened = asyncio.Event()
        room.on_delivery.append(self._happened.set)
        room.on_live.append(self.live)

    # --- what the test does ----------------------------------------------------------------------

    def interrupt(self) -> None:
        """Take the client out of the room for now."""
        self._inside = self._complete = False
        self._told(Interrupted("stream"))

    def enter_again(self) -> None:
        """Let the client enter again; it reads the archive from its last position."""
        self._inside = True
        self._happened.set()

    def lose(self, error: DeliveryError) -> None:
        """Lose the room for good: reading ends with this error, and nobody is admitted."""
        self.refuses = error
        self._inside = self._complete = False
        self._happened.set()

    def verify(self) -> None:
        """Report that the room has confirmed our presence, and that its archive has been read since."""
        self._told(Verified())

    def bounce(self, message_id: str, condition: str = "policy-violation", remedy: str = "") -> None:
        """Return a message from the room with an error."""
        self._told(Bounced(message_id, condition, "says the test", remedy))

    def live(self, element: LiveElement, account: str | None) -> None:
        """Show an ephemeral message, which the room does not keep.

        :param account: the bare JID of its sender according to the room
        """
        if self._inside:
            self._told(EphemeralShown(element, None if account is None else JID(account)))

    # --- what the engine does --------------------------------------------------------------------

    @property
    def inside(self) -> bool:
        return self._inside

    async def join(self, after: str | None) -> None:
        if self.refuses is not None:
            raise self.refuses
        self._after, self._stopped = after, False
        self._inside, self._complete = True, False
        self._happened.set()

    async def leave(self) -> None:
        self._inside = self._complete = False
        self._stopped = True
        self._happened.set()

    async def send(self, elements: Sequence[Element], *, message_id: str) -> None:
        if not self._inside:
            raise Disconnected(f"not in {self.jid} at the moment")
        message = Element("{jabber:client}message")
        message.extend(elements)
        found = payloads(message)
        self.sent.append(message_id)
        self.room.post([each for each in found if isinstance(each, RoomElement)], self.account, message_id)

    async def send_live(self, elements: Sequence[Element], *, message_id: str) -> None:
        if not self._inside:
            raise Disconnected(f"not in {self.jid} at the moment")
        message = Element("{jabber:client}message")
        message.extend(elements)
        for each in payloads(message):
            assert isinstance(each, LiveElement)
            self.room.show(each, self.account)

    def suspect(self) -> None:
        self.suspected += 1

    def read_again(self, after: str | None) -> None:
        self._after = after
        self._happened.set()

    async def batches(self) -> AsyncGenerator[Sequence[RoomStanza], None]:
        while not self._stopped:
            if self.refuses is not None:
                raise self.refuses
            self._happened.clear()
            if self._inside:
                batch = [self.stanza(incoming) for incoming in self.room.read(self.account, self._after)]
                if batch:
                    self._after = batch[-1].archive_id
                    yield batch
                    continue
                if not self._complete:
                    self._complete = True
                    self._told(CatchingUp(0, complete=True))
                    continue
            await self._happened.wait()

    def stanza(self, incoming: Incoming) -> RoomStanza:
        """A stanza of the room as this client receives it."""
        nick = JID(incoming.claimed or "somebody@example").local
        xml = Element("{jabber:client}message", {"type": "groupchat", "from": f"{self.room.jid}/{nick}"})
        xml.extend(payload.to_stdlib() for payload in incoming.payloads)
        if incoming.origin_id is not None:
            SubElement(xml, f"{{{_SID}}}origin-id", {"id": incoming.origin_id})
        return RoomStanza(
            archive_id=incoming.archive_id,
            occupant=JID(f"{self.room.jid}/{nick}"),
            real_jid=None if incoming.claimed is None else JID(incoming.claimed),
            xml=xml,
            origin_id=incoming.origin_id,
            message_id=incoming.origin_id,
            archived=not self._complete,
            stamp=None if incoming.stamp is None else datetime.fromtimestamp(incoming.stamp, UTC),
        )


class _FakeArchive(Archive):
    def __init__(self, xmpp: ClientXMPP, room: FakeRoom, account: str) -> None:
        super().__init__(xmpp, room.jid)
        self._room = room
        self._account = account

    async def pages_backwards(self, limit: int) -> AsyncGenerator[Page, None]:
        yield Page(tuple(self._as_entry(incoming) for incoming in self._room.archive(self._account)), complete=True)

    async def last_id(self, *, end: int | None = None) -> str | None:
        seen = self._room.archive(self._account)
        return seen[-1].archive_id if seen else None

    def _as_entry(self, incoming: Incoming) -> Entry:
        nick = JID(incoming.claimed or "somebody@example").local
        xml = Element("{jabber:client}message", {"type": "groupchat", "from": f"{self._room.jid}/{nick}"})
        xml.extend(payload.to_stdlib() for payload in incoming.payloads)
        return Entry(incoming.archive_id, xml, None)
