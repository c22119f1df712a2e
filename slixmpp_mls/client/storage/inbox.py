"""Messages that have been decrypted and not yet been handed over to the application.

Decrypting a message deletes its key and moves our place in the room past it (RFC 9420 9.2), so this copy is then the
only one.  The transaction that processes the message writes it.  It is deleted after the application has taken it.  A
message that is still here at a start is handed over again, although the application may have taken it: each message is
delivered at least once, in the room's order.

The next change of the room's state deletes the messages taken, so deletion needs no transaction of its own in a busy
room.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Inbox"]

_NUMBER = 8  # octets


class Inbox:
    """Keys in the store's inbox space: the next one to use, and those that can be deleted.

    :ivar taken: keys of messages that have been handed over and are still in the store
    """

    def __init__(self, numbers: Iterable[bytes] = ()) -> None:
        self._last = max(numbers, default=bytes(_NUMBER))
        self.taken: frozenset[bytes] = frozenset()

    def copy(self) -> Inbox:
        """An independent copy."""
        same = Inbox()
        same._last, same.taken = self._last, self.taken
        return same

    def next_number(self) -> bytes:
        """The key for the next message."""
        return (int.from_bytes(self._last, "big") + 1).to_bytes(_NUMBER, "big")

    def put(self, number: bytes) -> None:
        """Note that a message is in the store."""
        self._last = number

    def take(self, number: bytes) -> None:
        """Note that a message has been handed over."""
        self.taken |= {number}

    def forget(self, numbers: frozenset[bytes]) -> None:
        """Note that these messages are no longer in the store."""
        self.taken -= numbers
