"""The process from which victims are forked: ``python -m tests.crash.nursery``.

It has imported everything, so that a life costs some milliseconds to begin.  A job is one line of JSON on its standard
input; what victims note and how they end are lines of JSON on its standard output.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import sys
import traceback

from ..quick import make_slixmpp_quick
from .stories import live


def main() -> None:
    make_slixmpp_quick()
    gc.freeze()  # or each victim's first collection would copy all that it shares with us
    logging.disable(logging.CRITICAL)  # of logging on the way to death nothing is learnt
    alive: dict[int, str] = {}
    os.set_blocking(0, False)
    buffered = b""
    while True:
        select.select([0], [], [], 0.02 if alive else None)
        try:
            chunk = os.read(0, 1 << 20)
            if not chunk:
                return
        except BlockingIOError:
            chunk = b""
        *lines, buffered = (buffered + chunk).split(b"\n")
        for line in lines:
            job = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _be_born(job)
            alive[pid] = job["run"]
        while alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            _say({"run": alive.pop(pid), "what": "exit", "data": [os.waitstatus_to_exitcode(status)]})


def _be_born(job: dict[str, object]) -> None:
    code = 1
    try:
        os.close(0)

        def note(what: str, *data: object) -> None:
            _say({"run": job["run"], "what": what, "data": data})

        try:
            live(job, note)
            code = 0
        except BaseException:
            note("died", traceback.format_exc()[-3000:])
    finally:
        os._exit(code)


def _say(line: dict[str, object]) -> None:
    """In one piece, and with the kernel when this returns: nothing that is said is lost by a kill."""
    octets = json.dumps(line).encode() + b"\n"
    assert len(octets) <= 4096, "a pipe takes no more at once"
    os.write(sys.__stdout__.fileno(), octets)  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
