"""A room without a server: stanzas stay in flight until the test delivers, loses, delays or repeats them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..client import Incoming, Outgoing
from ..errors import ArchiveGap
from ..stanza.elements import LiveElement, RoomElement

__all__ = ["FakeRoom", "InFlight"]


@dataclass(frozen=True, slots=True)
class InFlight:
    """A stanza on its way to the room.

    :ivar claimed: the bare JID that the room will report as its sender
    """

    origin_id: str | None
    claimed: str | None
    payloads: tuple[RoomElement, ...] = field(repr=False)


class FakeRoom:
    """A room with its archive.  A stanza that is sent is `in_flight` until the test delivers it.

    :ivar jid: the room's bare JID
    :ivar in_flight: the stanzas that are sent but not in the room yet, oldest first
    :ivar on_delivery: called whenever a stanza has come into the room
    :ivar on_live: called with each ephemeral message and its sender's account
    :ivar shown: all ephemeral messages, which the room does not keep
    """

    def __init__(self, jid: str = "coven@rooms.example") -> None:
        self.jid = jid
        self.in_flight: list[InFlight] = []
        self.on_delivery: list[Callable[[], None]] = []
        self.on_live: list[Callable[[LiveElement, str | None], None]] = []
        self.shown: list[LiveElement] = []
        self._count = 0
        self._expired = 0
        self._views: list[list[Incoming]] = [[]]
        self._view_of: dict[str, int] = {}

    def post(
        self, outgoing: Outgoing | Sequence[RoomElement], claimed: str | None, origin_id: str | None = None
    ) -> InFlight:
        """Put a stanza in flight.

        :param outgoing: a member's message, or any forged elements
        :param claimed: the claimed sender, a bare JID
        """
        if isinstance(outgoing, Outgoing):
            origin_id, payloads = outgoing.origin_id, outgoing.payloads
        else:
            payloads = tuple(outgoing)
        stanza = InFlight(origin_id, claimed, payloads)
        self.in_flight.append(stanza)
        return stanza

    def deliver(self, position: int = 0, *, keep: bool = False, to: int | None = None) -> str:
        """Deliver the stanza at this position in flight: append it to the room's order.

        :param keep: leave a copy in flight, to deliver it once more
        :param to: deliver only into this view; see :meth:`split`
        :returns: its archive id
        """
        stanza = self.in_flight[position] if keep else self.in_flight.pop(position)
        self._count += 1
        archive_id = f"{self._count:06}"
        incoming = Incoming(archive_id, stanza.payloads, stanza.claimed, stanza.origin_id)
        for number, view in enumerate(self._views):
            if to is None or to == number:
                view.append(incoming)
        for told in self.on_delivery:
            told()
        return archive_id

    def show(self, element: LiveElement, account: str | None) -> None:
        """Show an ephemeral message to those who are there."""
        self.shown.append(element)
        for told in self.on_live:
            told(element, account)

    def deliver_all(self) -> None:
        """Deliver everything in the order of sending."""
        while self.in_flight:
            self.deliver()

    def lose(self, position: int = 0) -> InFlight:
        """Drop the stanza at this position; the test can put it back."""
        return self.in_flight.pop(position)

    def split(self, *others: Iterable[str]) -> None:
        """Give these sets of accounts views of their own from now on: 1, 2 ...; all others have view 0."""
        for accounts in others:
            self._views.append(list(self._views[0]))
            self._view_of.update(dict.fromkeys(accounts, len(self._views) - 1))

    def expire(self, count: int) -> None:
        """Delete the first stanzas of the archive."""
        self._expired = max(self._expired, count)

    def archive(self, account: str = "") -> list[Incoming]:
        """All stanzas that an account can see, in order."""
        view = self._views[self._view_of.get(account, 0)]
        return [incoming for incoming in view if int(incoming.archive_id) > self._expired]

    def read(self, account: str, after: str | None) -> Iterator[Incoming]:
        """The stanzas that an account sees after a position.

        :param after: archive id of the last stanza read; None for the beginning
        :raises ArchiveGap: the archive does not reach back to it
        """
        if after is not None and int(after) < self._expired:
            raise ArchiveGap(self.jid, after)
        for incoming in self.archive(account):
            if after is None or incoming.archive_id > after:
                yield incoming
