"""A client that does nothing with what it is sent, but lets the server know that it has it."""

from __future__ import annotations

from collections.abc import Callable
from xml.parsers import expat

__all__ = ["Confirming"]

_STANZAS = frozenset({"message", "presence", "iq"})


class Confirming:
    """Takes what comes on a stream, and answers its requests for acknowledgement (XEP-0198 5).

    Without the answers, the server would keep all that it has sent, and ask again and again.

    :param handled: number of stanzas that were handled before
    :param send: sends a string on the stream
    """

    def __init__(self, handled: int, send: Callable[[str], object]) -> None:
        self.handled = handled
        self._send = send
        self._depth = 0
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._begins
        self._parser.EndElementHandler = self._ends
        self._parser.Parse("<stream>", False)

    def __call__(self, data: bytes) -> None:
        self._parser.Parse(data, False)

    def _begins(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 2 and name == "r":
            self._send(f"<a xmlns='urn:xmpp:sm:3' h='{self.handled % 2**32}'/>")

    def _ends(self, name: str) -> None:
        if self._depth == 2 and name in _STANZAS:
            self.handled += 1
        self._depth -= 1
