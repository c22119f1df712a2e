"""What the parts of one room's engine share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from xml.etree.ElementTree import Element

from ...client import RoomGroup
from ...delivery import Room
from ...errors import MLSError, StanzaTooLarge, StoreError
from ...runtime import Context, Tasks
from ...stanza import NS, Application, RoomElement
from ...stanza.elements import MAX_MARKUP
from .progress import Progress

__all__ = ["RoomParts", "children"]

_NS_EME = "urn:xmpp:eme:0"
_LONGEST_STORE_PAUSE = 60.0  # seconds between two attempts to use a store that fails

T = TypeVar("T")


@dataclass(eq=False)
class RoomParts:
    """One room, as the parts of its engine see it.

    :ivar context: the services of the client
    :ivar group: the room's MLS group on this device
    :ivar muc: the room itself
    :ivar progress: how far the engine is
    :ivar tasks: what runs beside the reading, until the room is not read any more
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
        """Do something beside the reading.  An error of ours is logged only: what follows from it is in the room.

        :param name: says what the work is, in the log
        """
        return self.tasks.spawn(work, name, passing=(MLSError,))

    async def until_stored(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work that needs the store.  While the store fails, fire ``mls_store_failed`` and try again."""
        pause = 0.5
        while True:
            try:
                return await work()
            except StoreError as error:
                self.context.fire("mls_store_failed", error)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_STORE_PAUSE, 2 * pause)

    def fits(self, elements: Sequence[RoomElement]) -> None:
        """Check the size of a stanza before it is made.  Tests may replace this by a stricter check.

        :raises StanzaTooLarge: servers do not carry a stanza with these elements
        """
        limit = self.muc.limit
        if MAX_MARKUP + sum(element.written_at_most for element in elements) <= limit:
            return  # as nearly always: then the stanza is not made to be measured
        size = self.muc.measure(children(elements))
        if size > limit:
            raise StanzaTooLarge(size, limit)


def children(elements: Sequence[RoomElement]) -> list[Element]:
    """The children of a stanza with these elements.

    Beside application data stands the hint that a message is encrypted (XEP-0380), for people whose client cannot read
    it.  Beside a Commit or a Proposal there is nothing that anybody could have read: with the hint, plain clients would
    report a message that they cannot decrypt, and servers would wake phones for it (XEP-0357).
    """
    found = [element.to_stdlib() for element in elements]
    if any(isinstance(element, Application) for element in elements):
        found.append(Element(f"{{{_NS_EME}}}encryption", {"namespace": NS, "name": "MLS"}))
    return found
