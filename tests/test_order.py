"""How tests are dealt to workers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from .order import deal


class Item:
    """What is used of a pytest.Item."""

    def __init__(self, module: int, number: int, *marks: str) -> None:
        self.path, self.number, self._marks = Path(f"test_{module:02}.py"), number, marks

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self._marks else None


def dealt(items: list[Item], workers: int) -> list[Item]:
    return cast(list[Item], deal(cast(Any, items), workers))


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_each_part_begins_with_its_share_of_the_slow_and_has_its_share_of_servers(workers: int) -> None:
    quick = [Item(module, number) for module in range(40) for number in range(10)]
    server = [Item(module, number, "server") for module in range(40, 60) for number in range(5)]
    slow = [Item(60, number, "server", "slow") for number in range(11)]
    items = quick + server + slow
    result = dealt(items, workers)
    assert sorted(map(id, result)) == sorted(map(id, items))
    while result:
        part, result = result[: len(result) // workers], result[len(result) // workers :]
        workers -= 1
        count = sum(item in slow for item in part)
        assert all(item in slow for item in part[:count])
        assert count >= 1
        share = sum(item in server for item in part) / len(server)
        assert abs(share - len(part) / len(items)) < 0.12


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_few_items_for_many_workers(count: int) -> None:
    items = [Item(number, 0, *(("slow",) if number % 2 else ())) for number in range(count)]
    assert sorted(map(id, dealt(items, 8))) == sorted(map(id, items))


def test_a_module_stays_together() -> None:
    items = [
        Item(module, number, *(("server",) if module % 3 == 0 else ())) for module in range(9) for number in range(4)
    ]
    paths = [item.path for item in dealt(items, 1)]
    assert sum(before != after for before, after in pairwise(paths)) == 8
