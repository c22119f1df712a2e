"""The shared foundation of the parts of one room's engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from xml.etree.ElementTree import Element

from ...client import RoomGroup
from ...delivery import Room
from ...errors import DeliveryError, PeerError, StanzaTooLarge, StoreError, UsageError
from ...runtime import Context, Tasks
from ...stanza import NS, Application, RoomElement
from ...stanza.elements import MAX_MARKUP
from .progress import Progress

__all__ = ["RoomParts", "children"]

_NS_EME = "urn:xmpp:eme:0"
_SHORTEST_STORE_PAUSE = 0.5
_LONGEST_STORE_PAUSE = 60.0  # seconds between two attempts to use a store that fails

T = TypeVar("T")


@dataclass(eq=False)
class RoomParts:
    """One room, as its engine's parts see it.

    :ivar context: the services of the client
    :ivar group: the room's MLS group on this device
    :ivar muc: the room itself
    :ivar progress: the engine's progress
    :ivar tasks: tasks beside the reading, until the room is not read any more
    """

    context: Context
    group: RoomGroup
    muc: Room
    progress: Progress
    tasks: Tasks

    @property
    def room(self) -> str:
        """The room's bare JID."""
        return self.group.room

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        """Run work beside the reading.

        What the server or a peer answers is only logged, since its consequences are in the room.  A store that fails is
        reported as ``mls_failed``.

        :param name: describes the work in the log
        """
        return self.tasks.spawn(work, name, passing=(UsageError, PeerError, DeliveryError))

    async def stored(self, work: Callable[[], T]) -> T:
        """As :meth:`until_stored`, for work without a pause in it."""

        async def attempt() -> T:
            return work()

        return await self.until_stored(attempt)

    async def until_stored(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work that needs the store.  While the store fails, fire ``mls_store_failed`` and try again."""
        pause = _SHORTEST_STORE_PAUSE
        while True:
            try:
                return await work()
            except StoreError as error:
                self.context.fire("mls_store_failed", error)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_STORE_PAUSE, 2 * pause)

    def fits(self, elements: Sequence[RoomElement]) -> None:
        """Check the size of a stanza before it is made.  Tests may replace this with a stricter check.

        :raises StanzaTooLarge: servers do not carry a stanza with these elements
        """
        limit = self.muc.limit
        if MAX_MARKUP + sum(element.written_at_most for element in elements) <= limit:
            return  # nearly always: then the stanza is not built just to be measured
        size = self.muc.measure(children(elements))
        if size > limit:
            raise StanzaTooLarge(size, limit)


def children(elements: Sequence[RoomElement]) -> list[Element]:
    """The children of a stanza with these elements.

    Application data has a hint beside it that a message is encrypted (XEP-0380), for users whose client cannot read it.
    A Commit or a Proposal has no hint, as it holds nothing for users to read.  With the hint, plain clients would
    report a message that they cannot decrypt, and servers would wake phones for it (XEP-0357).
    """
    found = [element.to_stdlib() for element in elements]
    if any(isinstance(element, Application) for element in elements):
        found.append(Element(f"{{{_NS_EME}}}encryption", {"namespace": NS, "name": "MLS"}))
    return found
