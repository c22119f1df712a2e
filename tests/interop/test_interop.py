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

PAIRS: list[tuple[type[Peer], type[Peer]]] = [
    (OurPeer, TsMlsPeer),
    (TsMlsPeer, OurPeer),
    (OurPeer, MlsRsPeer),
    (MlsRsPeer, OurPeer),
    (OurPeer, OurPeer),
]


@pytest.mark.parametrize(("scenario", "acting", "other", "suite"), cases(PAIRS))
def test_interoperability(
    scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int, peer_of: Callable[[type[Peer]], Peer]
) -> None:
    scenario.run(peer_of(acting), peer_of(other), suite)
