"""Remembers which application messages have been read, so that none is shown twice.

A sender that does not know whether a message arrived encrypts it anew when its epoch has ended
(:mod:`slixmpp_mls.client.group.sending`).  If both copies arrive, because somebody has held the first one back, they
are two messages for MLS.  The sender's id for them (XEP-0359), which travels as authenticated data, is the same: the
second message of a client under one id is passed over.

The copies are only as far apart as their sender's absence makes them, so a memory of the last few is enough.  A service
that keeps a copy back for longer repeats an old message, under its old id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from ...identity import ClientIdentity

__all__ = ["MAX_ID", "DuplicateFilter", "mark", "message_id"]

MAX_ID = 256
"""Octets of an id; a longer one is none."""
_KEPT = 256  # messages per room


def message_id(authenticated_data: bytes) -> str | None:
    """The sender's id in a message's authenticated data, None if there is none."""
    if not 0 < len(authenticated_data) <= MAX_ID:
        return None
    try:
        return authenticated_data.decode()
    except UnicodeDecodeError:
        return None


def mark(sender: ClientIdentity, identifier: str) -> bytes:
    """What is remembered of a message."""
    return sha256(f"{sender} {identifier}".encode()).digest()[:16]


class DuplicateFilter:
    """The marks of the last messages: a ring in the store, and the same as a set."""

    def __init__(self, stored: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._ring = dict(stored)
        self._marks = set(self._ring.values())

    def copy(self) -> DuplicateFilter:
        """The same, which can be changed by itself."""
        same = DuplicateFilter()
        same._ring, same._marks = self._ring.copy(), self._marks.copy()
        return same

    def __contains__(self, mark: bytes) -> bool:
        return mark in self._marks

    @staticmethod
    def place(number: int) -> bytes:
        """Where the mark of the message with this number goes."""
        return (number % _KEPT).to_bytes(2, "big")

    def put(self, number: int, mark: bytes) -> None:
        place = self.place(number)
        old = self._ring.get(place)
        if old is not None:
            self._marks.discard(old)
        self._ring[place] = mark
        self._marks.add(mark)
