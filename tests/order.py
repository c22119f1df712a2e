"""The order in which tests are dealt to the workers of pytest-xdist.

``--dist worksteal`` gives each worker a part of the list, and an idle worker takes from the end of another's part.  So
each part begins with its share of the slow tests, one of which would hold up everybody at the end.  Tests that wait for
servers are spread evenly among those that compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import pytest


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _is_server(item: pytest.Item) -> bool:
    return item.get_closest_marker("server") is not None


def mixed(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Those that need servers evenly among the others, the tests of a module together."""
    placed = []
    for needs_server in (True, False):
        kind = [item for item in items if _is_server(item) is needs_server]
        begin = 0
        for _, group in groupby(kind, lambda item: item.path):
            module = list(group)
            placed.append(((begin + len(module) / 2) / len(kind), module))
            begin += len(module)
    return [item for _, module in sorted(placed, key=lambda place: place[0]) for item in module]


def deal(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """All the items, each worker's part after the other.

    :param workers: among how many xdist divides the list, evenly
    """
    slow = [item for item in items if _is_slow(item)]
    rest = mixed([item for item in items if not _is_slow(item)])
    parts: list[pytest.Item] = []
    for worker in range(workers):
        size = (len(items) - len(parts)) // (workers - worker)
        part = slow[worker::workers]
        taken = max(0, size - len(part))
        parts += part + rest[:taken]
        del rest[:taken]
    return parts + rest
