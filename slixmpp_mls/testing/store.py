"""A store that fails, or kills the process, at a chosen write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import StoreFull
from ..store.interface import Store, Transaction

__all__ = ["FaultyStore", "Killed"]


class Killed(BaseException):
    """The process has been killed; only its store remains."""


class FaultyStore:
    """A store that fails at a chosen point.

    :ivar writes: number of puts, deletes and ends of writing transactions so far
    :ivar fail_at: the number of the write (from 0) at which it fails once; None for never
    :ivar commits: number of writing transactions so far
    :ivar kill_at: the number of the transaction (from 0) at the end of which the process is killed; None for never
    :ivar kill_before: whether it is killed before the transaction is durable
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.writes = 0
        self.fail_at: int | None = None
        self.commits = 0
        self.kill_at: int | None = None
        self.kill_before = False

    @property
    def account(self) -> str:
        return self._store.account

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        kill = False
        with self._store.transaction(lasting=lasting) as inner:
            outer = _Counting(self, inner)
            yield outer
            if outer.has_written:
                self.count()
                kill = self.commits == self.kill_at
                self.commits += 1
                if kill and self.kill_before:
                    raise Killed
        if kill:
            raise Killed

    def count(self) -> None:
        """Count one write; fail if it is the chosen one."""
        self.writes += 1
        if self.writes - 1 == self.fail_at:
            raise StoreFull("the disk is full, says the test")

    def scrub(self) -> None:
        self._store.scrub()

    def close(self) -> None:
        self._store.close()


class _Counting:
    def __init__(self, store: FaultyStore, inner: Transaction) -> None:
        self._store = store
        self._inner = inner
        self.has_written = False

    def _write(self) -> None:
        self.has_written = True
        self._store.count()

    def get(self, space: str, key: bytes) -> bytes | None:
        return self._inner.get(space, key)

    def put(self, space: str, key: bytes, value: bytes) -> None:
        self._write()
        self._inner.put(space, key, value)

    def delete(self, space: str, key: bytes) -> None:
        self._write()
        self._inner.delete(space, key)

    def delete_prefix(self, space: str, prefix: bytes = b"") -> None:
        self._write()
        self._inner.delete_prefix(space, prefix)

    def items(self, space: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._inner.items(space, prefix)

    def spaces(self, prefix: str = "") -> Iterator[str]:
        return self._inner.spaces(prefix)
