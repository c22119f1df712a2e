"""The live stanzas of a room that its reader has not taken yet, bounded in number and in size."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .archive import RoomStanza, weight

#: Stanzas kept for a busy reader, and their weight, at most.
_BUFFERED = 1000
_BUFFERED_SIZE = 4_000_000


class LiveBuffer:
    """Stanzas in the room's order, each archive id once.

    :ivar size: weight of all stanzas in it (:func:`.archive.weight`).
    """

    def __init__(self) -> None:
        self._stanzas: deque[tuple[RoomStanza, int]] = deque()  # each with its weight
        self._ids: set[str] = set()
        self.size = 0

    def __len__(self) -> int:
        return len(self._stanzas)

    def append(self, stanza: RoomStanza) -> bool:
        """Add a stanza, unless it is there already.

        :returns: False if the buffer now exceeds its bounds: the caller empties it and reads the archive instead.
        """
        if stanza.archive_id in self._ids:
            return True  # the room sent it twice
        added = weight(stanza.xml)
        self._stanzas.append((stanza, added))
        self._ids.add(stanza.archive_id)
        self.size += added
        return len(self._stanzas) <= _BUFFERED and self.size <= _BUFFERED_SIZE

    def take(self, limit: int) -> Sequence[RoomStanza]:
        """Remove and return the oldest stanzas, at most `limit` of them."""
        return [self._take() for _ in range(min(limit, len(self._stanzas)))]

    def take_through(self, archive_id: str) -> Sequence[RoomStanza]:
        """Remove this stanza and all stanzas before it, if it is in the buffer.

        :returns: those before it: the archive has this stanza, and does not show them
        """
        missing: list[RoomStanza] = []
        if archive_id in self._ids:
            while (stanza := self._take()).archive_id != archive_id:
                missing.append(stanza)
        return missing

    def clear(self) -> None:
        self._stanzas.clear()
        self._ids.clear()
        self.size = 0

    def _take(self) -> RoomStanza:
        stanza, added = self._stanzas.popleft()
        self._ids.discard(stanza.archive_id)
        self.size -= added
        return stanza
