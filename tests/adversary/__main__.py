"""A long run: ``python -m tests.adversary --minutes 15``.

Prints a line for each kind of finding, with the shortest sequence of acts that hypothesis has found for it, and at the
end the figures of the whole run.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import FIGURES, Hostilities


def main() -> int:
    """The number of findings, at most 100."""
    parser = argparse.ArgumentParser(prog="python -m tests.adversary", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--steps", type=int, default=30, help="acts in one run, at most")
    parser.add_argument("--no-shrink", action="store_true", help="findings as they come, not shortened")
    arguments = parser.parse_args()
    until, findings = time.monotonic() + 60 * arguments.minutes, 0
    while time.monotonic() < until:
        how = settings(
            max_examples=10,
            stateful_step_count=arguments.steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if arguments.no_shrink else [Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
        )
        try:
            run_state_machine_as_test(Hostilities, settings=how)
        except AssertionError as error:
            findings += 1
            notes = "\n".join(getattr(error, "__notes__", ()))
            print(f"FINDING: {error}\n{notes}", flush=True)
        except Exception as error:
            findings += 1
            notes = "\n".join(getattr(error, "__notes__", ()))
            print(f"FINDING: {traceback.format_exc()[-2500:]}\n{notes}", flush=True)
    print(f"{findings} findings")
    for name, number in sorted(FIGURES.items()):
        print(f"{number:9}  {name}")
    return min(findings, 100)


if __name__ == "__main__":
    sys.exit(main())
