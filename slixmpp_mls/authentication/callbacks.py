"""Small parts that the services share: isolated callbacks, and a dictionary of limited size."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

__all__ = ["Listeners", "Recent"]


class Listeners(Generic[V]):
    """Callbacks.  An exception in one disturbs neither the others nor the caller."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[V], None]] = {}

    def add(self, callback: Callable[[V], None]) -> Callable[[], None]:
        """Call `callback` from now on; the returned function ends this."""
        token = object()
        self._callbacks[token] = callback

        def remove() -> None:
            self._callbacks.pop(token, None)

        return remove

    def tell(self, value: V) -> None:
        """Call all of them."""
        for callback in list(self._callbacks.values()):
            try:
                callback(value)
            except Exception:
                log.exception("a callback of the Authentication Service failed")


class Recent(OrderedDict[K, V]):
    """A dictionary that drops its oldest entries when it holds more than `limit` keys."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)
