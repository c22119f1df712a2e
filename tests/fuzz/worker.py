"""One target under libFuzzer, in a process that was forked from one with :mod:`.instrumented`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FREE = 256
"""Octets that are added to an input's length, or the shortest ones would always be the slowest for their size."""

WARM = 100
"""Inputs after which what is made once has been made."""


def fuzz(name: str, log: Path, arguments: list[str]) -> None:
    """Fuzz a target until libFuzzer ends this process.

    The input that takes the most time for its size is kept beside the log, as ``.slowest``.

    :param log: gets all output
    :param arguments: libFuzzer's: the corpus and options
    """
    with log.open("wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    import atheris  # type: ignore[import-untyped, unused-ignore]

    from .instrumented import TARGETS

    target = TARGETS[name]

    worst, inputs = 0.0, 0

    def read(data: bytes) -> None:
        nonlocal worst, inputs
        inputs += 1
        begun = time.process_time()
        target(data)
        slowness = (time.process_time() - begun) / (len(data) + FREE)
        if slowness > worst and inputs > WARM:
            worst = slowness
            log.with_suffix(".slowest").write_bytes(data)

    atheris.Setup([sys.argv[0], *arguments], read)
    atheris.Fuzz()
