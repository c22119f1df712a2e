"""Where a process can be killed: it names the points that it comes to, and kills itself at one of them.

A point is a label and how often it has been come to; what happens side by side may change places from one life to
another, so that a mere number would not name the same point twice.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from slixmpp import ClientXMPP

from slixmpp_mls.store import SQLiteStore, Transaction

_STANZA = re.compile(r"<(message|iq|presence)\b")
_NAMES = re.compile(r"<([a-z-]+)\b")
#: What a stanza is about: the first of these elements in it.
_ABOUT = (
    "application", "commit", "proposal", "invitation", "key-package", "device", "retract", "publish", "items",
    "destroy", "affiliation", "item", "ping", "query",
)  # fmt: skip


class Points:
    """The points of one life.

    :ivar reached: how often, by label
    :param kill_at: label and number (from 1) of the point at which the process ends; None for never
    :param note: told of the point at which it does
    """

    def __init__(self, kill_at: tuple[str, int] | None, note: Callable[..., None]) -> None:
        self.reached: Counter[str] = Counter()
        self._kill_at = kill_at
        self._note = note

    def reach(self, label: str) -> None:
        """One point."""
        self.reached[label] += 1
        if (label, self.reached[label]) == self._kill_at:
            self._note("killed", *self._kill_at)
            os.kill(os.getpid(), signal.SIGKILL)


class CountedStore(SQLiteStore):
    """A store whose transactions are points: those that write, before and after they are durable."""

    def __init__(self, path: str, account: str, points: Points) -> None:
        self.points = points
        super().__init__(path, account)

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        assert self._connection is not None
        before = self._connection.total_changes
        label = ""
        with super().transaction(lasting=lasting) as transaction:
            noting = _Spaces(transaction)
            yield noting
            assert self._step is not None
            self._step.finish()  # what is written waits for its end
            if self._connection.total_changes != before:
                label = "+".join(sorted(noting.put_into or noting.deleted_from)) or "format"
                self.points.reach(f"store before {label}")
        if label:
            self.points.reach(f"store after {label}")


class _Spaces:
    """A transaction that remembers what it is about."""

    def __init__(self, inner: Transaction) -> None:
        self._inner = inner
        self.put_into: set[str] = set()
        self.deleted_from: set[str] = set()
        self.get, self.items, self.spaces = inner.get, inner.items, inner.spaces

    def put(self, space: str, key: bytes, value: bytes) -> None:
        self.put_into.add(space.partition("/")[0])
        self._inner.put(space, key, value)

    def delete(self, space: str, key: bytes) -> None:
        self.deleted_from.add(space.partition("/")[0])
        self._inner.delete(space, key)

    def delete_prefix(self, space: str, prefix: bytes = b"") -> None:
        self._inner.delete_prefix(space, prefix)


class CountedClient(ClientXMPP):
    """A client whose stanzas are points, before and after they are given to the socket.

    :ivar on_stanza: called with each before that
    """

    points: Points
    on_stanza: Callable[[str], None]

    def send_raw(self, data: Any) -> None:
        text = data.decode() if isinstance(data, bytes) else str(data)
        if not _STANZA.match(text):
            super().send_raw(data)  # the stream's own: negotiation, acknowledgements
            return
        label = _label(text)
        self.points.reach(f"send before {label}")
        self.on_stanza(text)
        super().send_raw(data)
        self.points.reach(f"send after {label}")


def _label(text: str) -> str:
    """The kind of a stanza: ``iq set publish``, ``message commit`` ..."""
    names = _NAMES.findall(text)
    kind = re.search(r"^<\w+[^>]*\btype=['\"](\w+)", text)
    about = next((name for name in _ABOUT if name in names), names[1] if len(names) > 1 else "")
    return " ".join(filter(None, (names[0], kind.group(1) if kind and names[0] != "message" else "", about)))
