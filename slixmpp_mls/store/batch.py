"""Several steps as one transaction: all of them reach the disk, or none.

A transaction's end waits for the disk, some milliseconds on many machines, even for a few octets.  A caller with many
consecutive steps, none of which becomes visible before all are done, can wait once::

    batches = Batches(store)
    with batches.together():
        with batches.transaction() as transaction: ...   # one step
        with batches.transaction() as transaction: ...   # another

If one step raises, all of them are undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from .interface import Store, Transaction

__all__ = ["Batches"]


class Batches:
    """A :class:`~.interface.Store` over another one; its transactions may be parts of a larger one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: Transaction | None = None

    @property
    def account(self) -> str:
        """The bare JID that the store belongs to."""
        return self._store.account

    def scrub(self) -> None:
        """As :meth:`.interface.Store.scrub`."""
        self._store.scrub()

    def close(self) -> None:
        """As :meth:`.interface.Store.close`."""
        self._store.close()

    def transaction(self, *, lasting: bool = True) -> AbstractContextManager[Transaction]:
        """As :meth:`.interface.Store.transaction`; inside of :meth:`together`, a part of its transaction."""
        return self._store.transaction(lasting=lasting) if self._open is None else nullcontext(self._open)

    @contextmanager
    def together(self, *, lasting: bool = True) -> Iterator[None]:
        """All writes in the block are one transaction.  Do not ``await`` in it.

        :param lasting: as for :meth:`.interface.Store.transaction`, for the whole block
        :raises StoreError: nothing has been written
        """
        with self._store.transaction(lasting=lasting) as transaction:
            self._open = transaction
            try:
                yield
            finally:
                self._open = None
