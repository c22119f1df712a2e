"""The fuzz targets themselves: that they accept their seeds, and find nothing in a few seconds.

Longer runs: ``python -m tests.fuzz``, see :mod:`tests.fuzz`.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.registry import Target
from tests.fuzz.targets import TARGETS
from tests.fuzz.work import measure


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_reach_what_is_tested(name: str) -> None:
    """A seed that is refused teaches the fuzzer nothing; a few may be (random keys are no keys)."""
    seeds = list(TARGETS[name].seeds())
    assert any(TARGETS[name](seed) for seed in seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_blind_mutations(name: str) -> None:
    """Without coverage, and so also where atheris is not installed."""
    target = TARGETS[name]
    dice = random.Random(name)
    seeds = list(target.seeds())
    words = [*target.words(), b"", b"\0", b"\xff", b"\x40", b"\x80\0\0\0"]
    for _ in range(500):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(data) + 1)
            other = dice.choice(seeds)
            start = dice.randrange(len(other) + 1)
            piece = dice.choice([dice.choice(words), other[start : start + dice.randint(1, 30)]])
            data[place : place + dice.choice([0, 0, 1, len(piece)])] = piece
        target(bytes(data))


@pytest.mark.parametrize("name", TARGETS)
def test_work_is_in_proportion_to_the_size(name: str) -> None:
    """What strangers send costs calls in proportion to its octets: seeds, and seeds of which a part is repeated."""
    target = TARGETS[name]
    dice = random.Random(name)
    seeds = list(target.seeds())
    for data in dice.sample(seeds, min(len(seeds), 10)):
        target(data)  # what is made once, is made
    for _ in range(30):
        data = dice.choice(seeds)
        begin = dice.randrange(len(data) + 1)
        part = data[begin : begin + dice.randint(1, 40)]
        for grown in (data, data[:begin] + part * (8192 // (len(part) or 1)) + data[begin:]):
            work = measure(target, grown)
            if work.share > 1:
                work = measure(target, grown)  # without what is made once, and without other tests' garbage
            assert work.share <= 1, f"{work}: {grown.hex()}"


def test_work_beyond_proportion_is_noticed() -> None:
    def pairs(data: bytes) -> None:
        for one in data:
            for other in data:
                divmod(one, other + 1)

    quadratic = Target("quadratic", pairs, tuple, tuple)
    assert measure(quadratic, bytes(50)).share < 1
    assert measure(quadratic, bytes(2000)).share > 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # a slow machine, beside other tests
def test_guided_for_a_moment(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        assert not os.environ.get("CI"), "CI installs the extra 'fuzz'"
        pytest.skip("install the extra 'fuzz'")
    command = [sys.executable, "-m", "tests.fuzz", "--minutes", "0.02", "--jobs", "2", "--folder", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=800, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in TARGETS:
        assert f"{name}: nothing" in done.stdout
