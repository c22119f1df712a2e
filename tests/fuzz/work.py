"""Measures what an input makes a target do, in a unit that does not depend on the machine: calls of functions.

What strangers send must cost work in proportion to its size.  :data:`BOUND` says how much; a loop over the elements of
a list inside a loop over the same list is over it long before it takes a second.  Work inside one call of a C function
does not count: libFuzzer's time limit for one input covers that.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType

from .registry import Target

__all__ = ["BOUND", "Work", "measure"]


@dataclass(frozen=True, slots=True)
class Work:
    """The work that one input has caused.

    :ivar calls: calls of Python and C functions
    :ivar octets: length of the input
    """

    calls: int
    octets: int

    @property
    def share(self) -> float:
        """The part of :data:`BOUND` that it has used."""
        return self.calls / (BOUND[0] + BOUND[1] * self.octets)

    def __str__(self) -> str:
        return f"{self.calls} calls for {self.octets} octets, {self.share:.0%} of what is allowed"


BOUND = (5_000, 100)
"""Calls for an input of any length, and for each octet."""


def measure(target: Target, data: bytes) -> Work:
    """Give an input to a target, and count."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        target(data)
    finally:
        sys.setprofile(before)
    return Work(calls, len(data))
