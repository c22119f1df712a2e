"""Remembers which application messages have been read, so that none is shown twice.

A sender that does not know whether a message arrived encrypts it again when the message's epoch has ended
(:mod:`slixmpp_mls.client.group.sending`).  If the first copy was only delayed, both copies arrive, and they are two
messages for MLS.  Both have the same origin id (XEP-0359) in their authenticated data.  The second message of a client
with the same id is ignored.

The distance between the copies is limited by the sender's absence, so the last few hundred messages are remembered.  A
server that withholds a copy for longer can repeat an old message, with its old id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from ...identity import ClientIdentity

__all__ = ["MAX_ID", "DuplicateFilter", "mark", "message_id"]

MAX_ID = 256
"""Octets of an id.  A longer one is ignored."""
_KEPT = 256  # messages per room


def message_id(authenticated_data: bytes) -> str | None:
    """The sender's id in a message's authenticated data; None if there is none."""
    if not 0 < len(authenticated_data) <= MAX_ID:
        return None
    try:
        return authenticated_data.decode()
    except UnicodeDecodeError:
        return None


def mark(sender: ClientIdentity, identifier: str) -> bytes:
    """The mark by which a message is remembered."""
    return sha256(f"{sender} {identifier}".encode()).digest()[:16]


class DuplicateFilter:
    """The marks of the last messages: a ring buffer in the store, and the same marks as a set in memory."""

    def __init__(self, stored: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._ring = dict(stored)
        self._marks = set(self._ring.values())

    def copy(self) -> DuplicateFilter:
        """An independent copy."""
        same = DuplicateFilter()
        same._ring, same._marks = self._ring.copy(), self._marks.copy()
        return same

    def __contains__(self, mark: bytes) -> bool:
        return mark in self._marks

    @staticmethod
    def place(number: int) -> bytes:
        """The key under which the mark of the message with this number is stored."""
        return (number % _KEPT).to_bytes(2, "big")

    def put(self, number: int, mark: bytes) -> None:
        place = self.place(number)
        old = self._ring.get(place)
        if old is not None:
            self._marks.discard(old)
        self._ring[place] = mark
        self._marks.add(mark)
