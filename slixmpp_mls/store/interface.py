"""The interface of a store.

A store is a map from (space, key) to value, with transactions.  *Spaces* are
short names ("device", "key-package", "group/" and a room's address ...); keys and values are
octets.  The owner of a space defines its keys; :meth:`Transaction.items` yields them in order.

The most important rule: all changes of one protocol step (ratchet, cursor, outgoing message) are written in **one**
transaction, and the transaction has ended before anything is sent.

Reading can be repeated: a step that processes stanzas which the room's archive keeps need not wait for the disk (not
`lasting`).  Such a step survives the end of the process, and reaches the disk before any lasting step; a power cut may
undo it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from ..errors import UsageError


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
        """Names of the spaces that are not empty, in order."""


class Store(Protocol):
    """A durable map with transactions, bound to one account."""

    @property
    def account(self) -> str:
        """The bare JID that the store belongs to."""

    def transaction(self, *, lasting: bool = True) -> AbstractContextManager[Transaction]:
        """One atomic step: everything in it is durable when the block ends, nothing if it raises.

        Transactions do not nest.

        :param lasting: whether the step waits for the disk, so that it survives a power cut
        :raises StoreFull: no space left; nothing was written
        :raises StoreError: any other failure; nothing was written
        """

    def scrub(self) -> None:
        """Overwrite deleted values on the disk, in time proportional to the store's size.

        Call it now and then: a deleted value leaves the map at once, and the disk at the latest after this call.

        :raises StoreError: it failed; nothing is lost
        """

    def close(self) -> None:
        """Release the file and its lock.  Idempotent."""


def check_account(account: str) -> None:
    """:raises UsageError: it is no bare JID"""
    if not account or "/" in account:
        raise UsageError(f"a store belongs to a bare JID, not to {account!r}")
