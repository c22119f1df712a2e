"""Messages that have been read and not been handed over to the application yet.

Once a message is read, its key is gone and our place in the room is behind it (RFC 9420 9.2): from then on this copy
is the only one.  It is written in the transaction of the step that reads the message, and deleted when the
application has taken it.  A message that is found here at a start has perhaps been taken, and is handed over again:
each message at least once, in the room's order.

Deleting costs no transaction of its own in a busy room: the next change of the room's state does it.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Inbox"]

_NUMBER = 8  # octets


class Inbox:
    """Places in the store's inbox space: the next one to use, and those that can be deleted.

    :ivar taken: of messages that have been handed over and are still in the store
    """

    def __init__(self, numbers: Iterable[bytes] = ()) -> None:
        self._last = max(numbers, default=bytes(_NUMBER))
        self.taken: frozenset[bytes] = frozenset()

    def copy(self) -> Inbox:
        """The same, which can be changed by itself."""
        same = Inbox()
        same._last, same.taken = self._last, self.taken
        return same

    def next_number(self) -> bytes:
        """The place for one more."""
        return (int.from_bytes(self._last, "big") + 1).to_bytes(_NUMBER, "big")

    def put(self, number: bytes) -> None:
        """A message is in the store."""
        self._last = number

    def take(self, number: bytes) -> None:
        """A message has been handed over."""
        self.taken |= {number}

    def forget(self, numbers: frozenset[bytes]) -> None:
        """These are not in the store any more."""
        self.taken -= numbers
