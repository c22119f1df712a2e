"""What the rest of the package asks of a store.

A store is a map from (space, key) to value with transactions, nothing more.  *Spaces* are
short names ("client", "key-package", "group/<hex of the group id>" ...); keys and values are
octets.  Whoever owns a space defines its keys; :meth:`Transaction.items` walks them in order.

The rule that everything else rests on: what one protocol step changes (ratchet, cursor,
outgoing message) is written in **one** transaction, and the transaction has ended before
anything leaves for the network.

Reading can be repeated: a step that takes in what the network keeps need not wait for the disk (not `lasting`).  It
outlives the process as any other does, and is on the disk before any lasting step is; a power cut may undo it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Transaction(Protocol):
    """Reads see the transaction's own writes."""

    def get(self, space: str, key: bytes) -> bytes | None:
        """The value, or None."""

    def put(self, space: str, key: bytes, value: bytes) -> None:
        """Insert or replace."""

    def delete(self, space: str, key: bytes) -> None:
        """Remove; a missing key is no error."""

    def delete_prefix(self, space: str, prefix: bytes = b"") -> None:
        """Remove every key that starts with `prefix`; the whole space when it is empty."""

    def items(self, space: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of every key that starts with `prefix`, in the keys' order."""

    def spaces(self, prefix: str = "") -> Iterator[str]:
        """Names of the spaces that hold anything, in order."""


class Store(Protocol):
    """A durable map with transactions, bound to one account."""

    @property
    def account(self) -> str:
        """The bare JID that the store belongs to."""

    def transaction(self, *, lasting: bool = True) -> AbstractContextManager[Transaction]:
        """One atomic step: everything in it is durable when the block ends, nothing if it raises.

        Transactions do not nest.

        :param lasting: whether it has to outlive a power cut, for which it waits for the disk
        :raises StoreFull: no space left; nothing was written
        :raises StoreError: any other failure; nothing was written
        """

    def scrub(self) -> None:
        """Overwrite on the disk what has been deleted, at a cost in proportion to the store's size.

        For now and then: what was deleted is gone from the map at once, from the disk at the latest after this.

        :raises StoreError: it failed; nothing is lost
        """

    def close(self) -> None:
        """Release the file and its lock.  Idempotent."""
