"""The outside peers as fixtures.  In CI a peer that cannot run is a failure; elsewhere a skip that says what to install."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from . import ts_mls_peer
from .peers import Peer


def _absent(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ts_mls() -> Iterator[Peer]:
    """ts-mls in its Node process, one for the whole run."""
    if reason := ts_mls_peer.missing():
        _absent(reason)
    ts_mls_peer.install()
    with ts_mls_peer.TsMlsPeer() as peer:
        yield peer


@pytest.fixture(scope="session")
def mls_rs() -> Peer:
    """AWS mls-rs in this process."""
    try:
        from .mls_rs import MlsRsPeer
    except ImportError:
        _absent("the outside peer mls-rs is missing: pip install '.[test]' (its wheel exists for x86_64 only)")
    return MlsRsPeer()


@pytest.fixture
def peer_of(request: pytest.FixtureRequest) -> Callable[[type[Peer]], Peer]:
    """The running peer of a class, by the fixture of its name."""

    def find(kind: type[Peer]) -> Peer:
        peer: Peer = request.getfixturevalue(kind.name.replace("-", "_"))
        return peer

    return find
