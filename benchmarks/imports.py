"""What ``import slixmpp_mls`` costs, from CPython's ``-X importtime``, beside what slixmpp and cryptography cost alone.

Each run is a process of its own, with compiled bytecode on the disk; the smallest of several runs counts, since others
on the machine only make it slower.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
LATE = ("aiohttp", "rich", "typer")
"""Libraries that are imported only when they are used."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One import.

    :ivar seconds: of all modules together
    :ivar packages: seconds of each top-level package, the most expensive one first
    """

    what: str
    seconds: float
    packages: dict[str, float]


def measure(what: str, runs: int, progress: Callable[[str], None]) -> Imported:
    """Import modules (``"a, b"``) in new processes."""
    best: Imported | None = None
    for number in range(runs + 1):  # the first one writes the bytecode
        progress(f"import {what}: {number} of {runs}")
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", f"import {what}"], stderr=subprocess.PIPE, text=True, check=True
        )
        packages: Counter[str] = Counter()
        for microseconds, module in _LINE.findall(done.stderr):
            packages[module.partition(".")[0]] += int(microseconds)
        total = sum(packages.values()) / 1e6
        if number and (best is None or total < best.seconds):
            best = Imported(what, total, {name: micro / 1e6 for name, micro in packages.most_common()})
    assert best is not None
    return best
