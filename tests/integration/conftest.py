"""People in encrypted rooms, for the tests of the plugin."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from slixmpp_mls.authentication import device_lists
from slixmpp_mls.delivery import occupancy, stream
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.key_packages import selection
from slixmpp_mls.rooms.engine import recovery

from ..conftest import SERVERS, unavailable_means_skip
from .people import Cast


@pytest.fixture(autouse=True)
def a_busy_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers answer in the end, however busy the machine; tests of those that do not set times of their own.

    A request that got lost with a link is given up, and made again, before a test gives up (`people.SECONDS`).
    """
    monkeypatch.setattr(stream, "TIMEOUT", 60.0)
    monkeypatch.setattr(selection, "PATIENCE", 120.0)
    monkeypatch.setattr(occupancy, "_SILENCE", 30.0)
    monkeypatch.setattr(device_lists, "PATIENCE", 60.0)


@pytest.fixture
def requests_get_lost(monkeypatch: pytest.MonkeyPatch, a_busy_machine_is_waited_for: None) -> None:
    """Requests get lost with a link or a node, and somebody waits for their end."""
    monkeypatch.setattr(stream, "TIMEOUT", 20.0)
    monkeypatch.setattr(occupancy, "_SILENCE", 10.0)
    monkeypatch.setattr(device_lists, "PATIENCE", 15.0)


@pytest.fixture
def answers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks where the group is has somebody there who knows, and takes no delay for silence.

    Silence would have it go on from its own epoch, by a Commit (:mod:`slixmpp_mls.rooms.engine.recovery`).
    """
    monkeypatch.setattr(recovery, "_ANSWER_ARRIVES", 60.0)


@pytest_asyncio.fixture
async def cast(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Cast]:
    """``room, (alice, bob) = await cast.meet(server, "alice", "bob")``; see :mod:`.people` for what is checked."""
    caplog.set_level(logging.DEBUG, "slixmpp_mls")
    cast = Cast(tmp_path)
    yield cast
    await cast.end()
    cast.check_wires()
    records = (*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.get_records("teardown"))
    # slixmpp's own complaints about broken connections are not of interest, those about our handlers are.
    ours = re.compile(r"slixmpp_mls|asyncio|slixmpp\.(stanza|basexmpp)")
    errors = [r.getMessage() for r in records if r.levelno >= logging.ERROR and ours.match(r.name)]
    logged = [r.getMessage() for r in records if r.name.startswith("slixmpp_mls")]
    assert not [secret for secret in cast.secrets for text in logged if secret in text]
    unexpected = [text for text in errors if not any(re.search(pattern, text) for pattern in cast.expected_errors)]
    assert not unexpected


@pytest_asyncio.fixture(params=list(SERVERS))
async def own_server(request: pytest.FixtureRequest) -> AsyncIterator[DevServer]:
    """A server that the test may break."""
    server = SERVERS[request.param]()
    try:
        with unavailable_means_skip():
            await server.start()
        yield server
    finally:
        await server.close()
