"""The clocks of one client, and whether the wall clock can be relied on.

Waiting is measured by the monotonic clock, dates by the wall clock.  The wall clock can be wrong: a machine wakes up
in 1970, a time server lies.  A wall clock that has moved by more than an hour against the monotonic one has *jumped*; a
machine that has slept looks the same.  It is not *steady* for a quarter of an hour after that, in which somebody may
set it right.  A start with a clock that is behind an earlier run counts as a jump.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..mls.parameters import HOUR

__all__ = ["JUMP", "UNSTEADY", "ClockJumped", "SteadyClock"]

UNSTEADY = 900.0  # seconds after a jump in which the wall clock may be set right
JUMP = HOUR  # seconds


@dataclass(frozen=True, slots=True)
class ClockJumped:
    """The machine's date has been set, or the machine has slept (``mls_clock_jumped``).

    :ivar seconds: by how much, forward or (negative) back
    """

    seconds: float


class SteadyClock:
    """The wall clock of one client.

    :param wall: seconds since the Unix epoch
    :param monotonic: seconds; this clock is never set
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.wall = wall
        self.monotonic = monotonic
        self._last: tuple[float, float] | None = None
        self._unsteady_since: float | None = None

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self.wall()

    @property
    def now(self) -> int:
        """Whole seconds since the Unix epoch."""
        return int(self.wall())

    def begin(self, latest: float | None) -> None:
        """Begin to watch the clock.

        :param latest: the latest wall time of earlier runs; None if there were none
        """
        self._last = (self.wall(), self.monotonic())
        if latest is not None and self._last[0] < latest - JUMP:
            self._unsteady_since = self._last[1]

    def look(self) -> float:
        """Compare both clocks.

        :returns: seconds by which the wall clock has jumped since the last look; 0 if it has not
        """
        now = (self.wall(), self.monotonic())
        if self._last is None:
            self._last = now
        jump = (now[0] - self._last[0]) - (now[1] - self._last[1])
        self._last = now
        if abs(jump) <= JUMP:
            return 0.0
        self._unsteady_since = now[1]
        return jump

    @property
    def steady(self) -> bool:
        """Whether the clock has not jumped for a quarter of an hour."""
        return self.steady_for(UNSTEADY)

    def steady_for(self, seconds: float) -> bool:
        """Whether the clock has not jumped for this many seconds."""
        since = self._unsteady_since
        return since is None or self.monotonic() - since >= seconds
