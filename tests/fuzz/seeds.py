"""Octets to begin with: made from the declarations, and the official vectors where they are present."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from slixmpp_mls.mls.tls import Struct
from tests.mls.test_messages import STRUCTURES
from tests.strategies import structs
from tests.vectors import load

__all__ = ["generated", "official", "some"]


def some(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Values of a strategy, the same ones every time."""
    values: list[Any] = []

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: Any) -> None:
        values.append(value)

    collect()
    return values


def generated(cls: type[Struct], count: int = 20) -> list[Any]:
    """Values of a structure."""
    return some(structs(cls), count)


def official(*kinds: str, count: int = 20) -> Iterator[tuple[type[Struct], bytes]]:
    """From the vectors ``messages``: some of each kind (all kinds if none is named), with their structure."""
    try:
        cases = load("messages")[:count]
    except pytest.skip.Exception:
        return
    for kind in kinds or STRUCTURES:
        for case in cases:
            yield STRUCTURES[kind], bytes.fromhex(case[kind])
