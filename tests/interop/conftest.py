"""The peers as fixtures.  An outside one that cannot run is a failure in CI, else a skip that says what to install."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from . import mls_rs as mls_rs_peer
from . import ts_mls_peer
from .our_peer import OurPeer
from .peers import Peer


def absent(reason: str) -> None:
    """A test needs what is not installed."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ts_mls() -> Iterator[Peer]:
    """ts-mls in its Node process, one for the whole run."""
    if reason := ts_mls_peer.missing():
        absent(reason)
    ts_mls_peer.install()
    with ts_mls_peer.TsMlsPeer() as peer:
        yield peer


@pytest.fixture(scope="session")
def mls_rs() -> Peer:
    """AWS mls-rs in this process."""
    if reason := mls_rs_peer.missing():
        absent(reason)
    return mls_rs_peer.MlsRsPeer()


@pytest.fixture(scope="session")
def ours() -> Peer:
    """This project's core."""
    return OurPeer()


@pytest.fixture
def peer_of(request: pytest.FixtureRequest) -> Callable[[type[Peer]], Peer]:
    """The running peer of a class, by the fixture of its name."""

    def find(kind: type[Peer]) -> Peer:
        peer: Peer = request.getfixturevalue(kind.name.replace("-", "_"))
        return peer

    return find
