"""A store that forgets everything: for tests, with the semantics of the durable one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UsageError
from .interface import Transaction, check_account


class MemoryStore:
    """A :class:`~slixmpp_mls.store.interface.Store` without a file.

    :param account: bare JID in normal form (RFC 7622)
    """

    def __init__(self, account: str) -> None:
        check_account(account)
        self._account = account
        self._spaces: dict[str, dict[bytes, bytes]] = {}
        self._open = True
        self._step: _Step | None = None

    @property
    def account(self) -> str:
        """The bare JID that the store belongs to."""
        return self._account

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        """One atomic step: kept when the block ends, undone if it raises.

        :param lasting: ignored
        :raises UsageError: inside another transaction, or on a closed store
        """
        self._check_idle()
        step = self._step = _Step(self._spaces)
        try:
            yield step
        except BaseException:
            step.undo()
            raise
        finally:
            step.end()
            self._step = None

    def scrub(self) -> None:
        """Does nothing: no copy of a deleted value exists."""
        self._check_idle()

    def close(self) -> None:
        """Idempotent."""
        if self._open:
            self._check_idle()
            self._open = False
            self._spaces.clear()

    def _check_idle(self) -> None:
        if not self._open:
            raise UsageError("the store is closed")
        if self._step is not None:
            raise UsageError("a transaction of this store is open; they do not nest")


class _Step:
    """One open transaction; unusable after its end."""

    def __init__(self, spaces: dict[str, dict[bytes, bytes]]) -> None:
        self._spaces = spaces
        self._before: list[tuple[str, bytes, bytes | None]] = []
        self._ended = False

    def undo(self) -> None:
        for space, key, value in reversed(self._before):
            self._set(space, key, value)

    def end(self) -> None:
        self._ended = True

    def _check(self) -> None:
        if self._ended:
            raise UsageError("this transaction has ended")

    def _set(self, space: str, key: bytes, value: bytes | None) -> None:
        entries = self._spaces.setdefault(space, {})
        if value is None:
            entries.pop(key, None)
        else:
            entries[key] = value
        if not entries:
            del self._spaces[space]

    def _change(self, space: str, key: bytes, value: bytes | None) -> None:
        self._before.append((space, key, self._spaces.get(space, {}).get(key)))
        self._set(space, key, value)

    def _keys(self, space: str, prefix: bytes) -> list[bytes]:
        return sorted(key for key in self._spaces.get(space, ()) if key.startswith(prefix))

    def get(self, space: str, key: bytes) -> bytes | None:
        self._check()
        return self._spaces.get(space, {}).get(key)

    def put(self, space: str, key: bytes, value: bytes) -> None:
        self._check()
        self._change(space, key, value)

    def delete(self, space: str, key: bytes) -> None:
        self._check()
        self._change(space, key, None)

    def delete_prefix(self, space: str, prefix: bytes = b"") -> None:
        self._check()
        for key in self._keys(space, prefix):
            self._change(space, key, None)

    def items(self, space: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self._check()
        keys = self._keys(space, prefix)
        position = 0
        while position < len(keys):
            key, seen = keys[position], len(self._before)
            yield key, self._spaces[space][key]
            self._check()
            position += 1
            if len(self._before) != seen:  # the space was changed meanwhile: continue after the last key
                keys = self._keys(space, prefix)
                position = bisect_right(keys, key)

    def spaces(self, prefix: str = "") -> Iterator[str]:
        self._check()
        names = sorted(self._spaces)
        position = bisect_left(names, prefix)
        while position < len(names) and names[position].startswith(prefix):
            yield names[position]
            self._check()
            last, names = names[position], sorted(self._spaces)
            position = bisect_right(names, last)
