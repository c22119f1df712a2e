"""The outside peers with themselves and with each other: this proves the rigs, and the scenarios, not this project."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .mls_rs import MlsRsPeer
from .peers import Peer
from .scenarios import Scenario, cases
from .ts_mls_peer import TsMlsPeer

pytestmark = pytest.mark.interop

PAIRS: list[tuple[type[Peer], type[Peer]]] = [
    (TsMlsPeer, TsMlsPeer),
    (MlsRsPeer, MlsRsPeer),
    (TsMlsPeer, MlsRsPeer),
    (MlsRsPeer, TsMlsPeer),
]


@pytest.mark.parametrize(("scenario", "acting", "other", "suite"), cases(PAIRS))
def test_peers_agree(
    scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int, peer_of: Callable[[type[Peer]], Peer]
) -> None:
    scenario.run(peer_of(acting), peer_of(other), suite)
