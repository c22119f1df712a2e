"""Tells our own user that this machine's clock is wrong.

A wrong clock harms its owner most: KeyPackages that are not valid yet or not any more are refused (RFC 9420 7.3), so
nobody can add the device, and the inviter alone is told why.  Therefore our account's server is asked for its time
(XEP-0202) at the beginning of each session, and every hour.  A difference of more than :data:`WRONG` seconds is
reported as ``mls_clock_wrong``, once until it changes.  The server may be wrong, or lie.  So nothing follows from the
difference but the report: we go on with our own clock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..delivery import Stream
from ..delivery.entity_time import entity_time
from ..errors import DeliveryError, PeerError
from ..runtime import Context

__all__ = ["WRONG", "ClockCheck", "ClockWrong"]

log = logging.getLogger(__name__)

WRONG = 300.0
"""Seconds of difference that are reported."""
_RESOLUTION = 1.0  # seconds: servers cut off fractions


@dataclass(frozen=True, slots=True)
class ClockWrong:
    """Our clock and our server's differ (``mls_clock_wrong``).

    :ivar seconds: by how much ours is at least ahead or, negative, behind
    :ivar server: the server's domain
    """

    seconds: float
    server: str


class ClockCheck:
    """Compares our clock with our server's; see the module."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._told: float | None = None

    async def look(self) -> None:
        """Compare them once.  A server that does not tell its time is no failure."""
        context, server = self._context, self._context.xmpp.boundjid.domain
        before = context.clock.time()
        try:
            theirs = await entity_time(Stream.of(context.xmpp), server)
        except (DeliveryError, PeerError) as error:
            log.info("the clock cannot be compared with the server's: %s", error)
            return
        after = context.clock.time()
        # It answered at some moment between the two, so the difference is somewhere between these:
        least, most = before - theirs - _RESOLUTION, after - theirs + _RESOLUTION
        difference = least if least > WRONG else most if most < -WRONG else 0.0
        if not difference:
            self._told = None
        elif self._told is None or abs(difference - self._told) > WRONG:
            self._told = difference
            wrong = ClockWrong(difference, server)
            log.warning("our clock is %.0f seconds %s that of %s", abs(difference), _side(difference), server)
            context.fire("mls_clock_wrong", wrong)


def _side(seconds: float) -> str:
    return "ahead of" if seconds > 0 else "behind"
