"""How many accounts others may make us ask about (RFC 9750 8.4.3: metadata, and load on third parties).

A Welcome or a Commit of a stranger can name thousands of accounts on servers of its choice.  A client that asked the
Authentication Service about all of them at once would be a weapon.  So questions that others cause beyond a few for
each stanza draw on one budget for the whole client: a bucket of :data:`BURST` that fills by one every :data:`PAUSE`
seconds.  Questions that our own user causes, by adding people for instance, need none.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["BURST", "PAUSE", "QuestionBudget"]

BURST = 128  # accounts asked about at once
PAUSE = 5.0  # seconds after which there is one more


class QuestionBudget:
    """A token bucket, full at first.

    :param monotonic: seconds; this clock is never set
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._left = float(BURST)
        self._filled = monotonic()

    def take(self, wanted: int) -> int:
        """Take as much as there is.

        :param wanted: the number of accounts to ask about
        :returns: the number that may be asked about now
        """
        now = self._monotonic()
        self._left = min(float(BURST), self._left + max(0.0, now - self._filled) / PAUSE)
        self._filled = now
        taken = max(0, min(wanted, int(self._left)))
        self._left -= taken
        return taken
