"""One target under libFuzzer, in a process that was forked from one with :mod:`.instrumented`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def fuzz(name: str, log: Path, arguments: list[str]) -> None:
    """Fuzz a target until libFuzzer ends this process.

    :param log: gets all output
    :param arguments: libFuzzer's: the corpus and options
    """
    with log.open("wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    import atheris  # type: ignore[import-untyped, unused-ignore]

    from .instrumented import TARGETS

    target = TARGETS[name]

    def read(data: bytes) -> None:
        target(data)

    atheris.Setup([sys.argv[0], *arguments], read)
    atheris.Fuzz()
