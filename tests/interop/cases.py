"""What a scenario is, how scenarios become test parameters, and what they all use.

A scenario is a function over two peers and a cipher suite, and says which capabilities it needs of either peer.
:func:`cases` turns scenarios and pairs of peers into parameters for ``pytest.mark.parametrize``; where a capability is
lacking the parameter is a skip with the reason, at collection, so that nothing passes that was not run.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from .peers import Can, Client, Group, Peer, Refused
from .room import Room


@dataclass(frozen=True, slots=True)
class Scenario:
    """``every_suite``: worth running for each cipher suite, because its cryptography differs."""

    run: Callable[[Peer, Peer, int], None]
    acting: frozenset[Can]
    other: frozenset[Can]
    every_suite: bool

    @property
    def name(self) -> str:
        return self.run.__name__


SCENARIOS: list[Scenario] = []
Run = Callable[[Peer, Peer, int], None]


def scenario(
    *, acting: Iterable[Can] = (), other: Iterable[Can] = (), every_suite: bool = False
) -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        SCENARIOS.append(Scenario(run, frozenset(acting), frozenset(other), every_suite))
        return run

    return register


def cases(pairs: Iterable[tuple[type[Peer], type[Peer]]], suites: Container[int] | None = None) -> list[Any]:
    """Parameters (scenario, acting peer, other peer, cipher suite) for every scenario over every pair.

    :param suites: those to try; all that both peers have if None
    """
    found = []
    for acting, other in pairs:
        common = [suite for suite in sorted(acting.suites & other.suites) if suites is None or suite in suites]
        for item in SCENARIOS:
            lacking = [f"{acting.name} cannot {can}" for can in sorted(item.acting - acting.can)]
            lacking += [f"{other.name} cannot {can}" for can in sorted(item.other - other.can)]
            marks = [pytest.mark.skip(reason="; ".join(lacking))] if lacking else []
            for suite in common if item.every_suite and not lacking else common[:1]:
                name = f"{item.name}-{acting.name}-{other.name}-suite{suite}"
                found.append(pytest.param(item, acting, other, suite, marks=marks, id=name))
    return found


def people(acting: Peer, other: Peer, suite: int, count: int, **options: Any) -> list[Client]:
    """``count`` clients, in turn of either peer, the acting one first."""
    names = (f"{'acting' if number % 2 == 0 else 'other'}{number // 2}".encode() for number in range(count))
    return [(other if number % 2 else acting).client(name, suite, **options) for number, name in enumerate(names)]


def full_room(clients: list[Client]) -> Room:
    """A room where the first client has added all others."""
    room = Room.create(clients[0])
    room.add(clients[0], *clients[1:])
    return room


def refuses(group: Group, message: bytes) -> None:
    """The group refuses the message, and nothing that it can show has changed."""
    before = group.state()
    with pytest.raises(Refused):
        group.process(message)
    assert group.state() == before
