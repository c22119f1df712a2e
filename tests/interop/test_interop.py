"""This project's core together with implementations that nobody here wrote, each acting and each following."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import Scenario
from .mls_rs import MlsRsPeer
from .our_peer import OurPeer
from .peers import Peer
from .scenarios import cases
from .ts_mls_peer import TsMlsPeer

pytestmark = pytest.mark.interop

OUTSIDE: list[type[Peer]] = [TsMlsPeer, MlsRsPeer]
PAIRS: list[tuple[type[Peer], type[Peer]]] = [
    pair for outside in OUTSIDE for pair in [(OurPeer, outside), (outside, OurPeer)]]
SUITES = {1, 2, 3, 5, 7}

# X448 and Ed448 are slow in JavaScript: each of their uses once, in either direction.
OF_SUITES_4_AND_6 = {"create_add_and_talk", "external_join", "update_by_reference"}


def worth_its_time(scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int) -> bool:
    if suite not in SUITES:
        return scenario.name in OF_SUITES_4_AND_6
    # Both sides act in it anyway, and P-384 and P-521 are slow in JavaScript, too.
    return scenario.name != "long_life" or suite <= 3 or acting is OurPeer


@pytest.mark.parametrize(
    ("scenario", "acting", "other", "suite"), [case for case in cases(PAIRS) if worth_its_time(*case.values)]
)
def test_with_others(
    scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int, peer_of: Callable[[type[Peer]], Peer]
) -> None:
    scenario.run(peer_of(acting), peer_of(other), suite)


@pytest.mark.parametrize(("scenario", "acting", "other", "suite"), cases([(OurPeer, OurPeer)]))
def test_among_ourselves(
    scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int, ours: Peer
) -> None:
    """No outside peer needed: what all scenarios ask, and mls-rs or ts-mls cannot do, is asked here."""
    scenario.run(ours, ours, suite)


def test_we_can_do_all_of_it() -> None:
    assert not [case for case in cases([(OurPeer, OurPeer)]) if case.marks]
