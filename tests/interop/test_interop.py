"""This project's core together with implementations that nobody here wrote, each acting and each following."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import Scenario, full_room
from .mls_rs import MlsRsPeer
from .our_peer import OurPeer
from .peers import Peer, Remove, Update
from .scenarios import cases
from .ts_mls_peer import TsMlsPeer

pytestmark = pytest.mark.interop

PAIRS: list[tuple[type[Peer], type[Peer]]] = [
    (OurPeer, TsMlsPeer),
    (TsMlsPeer, OurPeer),
    (OurPeer, MlsRsPeer),
    (MlsRsPeer, OurPeer),
]
# Not those of X448 and Ed448, which JavaScript is slowest at: each use of their cryptography once, in either direction.
SUITES = {1, 2, 3, 5, 7, 0xF001, 0xF002, 0xF009}
ALL_USES = {"create_add_and_talk", "external_join"}


def worth_its_time(scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int) -> bool:
    if suite not in SUITES:
        return scenario.name in ALL_USES
    # In this one both sides act anyway.
    return scenario.name != "long_life" or suite <= 3 or acting is OurPeer


@pytest.mark.parametrize(
    ("scenario", "acting", "other", "suite"), [case for case in cases(PAIRS) if worth_its_time(*case.values)]
)
def test_with_others(
    scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int, peer_of: Callable[[type[Peer]], Peer]
) -> None:
    scenario.run(peer_of(acting), peer_of(other), suite)


@pytest.mark.parametrize(("scenario", "acting", "other", "suite"), cases([(OurPeer, OurPeer)], [1, 5, 0xF001, 0xF009]))
def test_among_ourselves(scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int, ours: Peer) -> None:
    """No outside peer needed: what all scenarios ask, and mls-rs or ts-mls cannot do, is asked here."""
    scenario.run(ours, ours, suite)


def test_we_can_do_all_of_it() -> None:
    assert not [case for case in cases([(OurPeer, OurPeer)]) if case.marks]


def test_three_implementations_in_one_room(ours: Peer, ts_mls: Peer, mls_rs: Peer) -> None:
    peers = [ours, ts_mls, mls_rs]
    clients = [peers[number % 3].client(f"client{number}".encode(), 1) for number in range(10)]
    room = full_room(clients[:8])
    for client in clients[:8]:
        room.commit(client)
    room.talk()
    for committer, gone in [(0, 4), (1, 5), (2, 3)]:
        room.remove(clients[committer], clients[gone])
    for committer, guest in [(6, 8), (7, 9), (2, 5), (0, 3), (1, 4)]:
        room.add(clients[committer], clients[guest])
        room.commit(clients[guest])
    room.propose(clients[0], Update())
    room.propose(clients[1], Update())
    room.propose(clients[2], Remove(room.index_of(clients[6])))
    room.commit(clients[8])
    room.remove(clients[9], clients[0])
    room.enter(*clients[0].external_join(room[clients[1]].group_info()))
    room.enter(*clients[1].external_join(room[clients[0]].group_info(), resync=True))
    room.commit(clients[2])
    assert len(room.groups) == 9
    room.talk()
