"""Real servers and clients for any test that asks for them.

A server runs once per test session; tests keep apart by account and room names of their own.  Where one
cannot be started the tests are skipped with the reason, but on a CI machine (``CI`` is set) they fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from traceback import extract_tb
from typing import Any

import pytest
import pytest_asyncio
from slixmpp import JID, ClientXMPP

from slixmpp_mls.authentication import device_lists
from slixmpp_mls.delivery import stream
from slixmpp_mls.devserver import DevServer, DevServerError, Ejabberd, Prosody
from slixmpp_mls.key_packages import selection

from .order import deal
from .quick import make_slixmpp_quick

# Where tests run side by side, workers are told a width, which rich would keep for ever when it is imported.
os.environ.pop("COLUMNS", None)

make_slixmpp_quick()


class _Lost(logging.Handler):
    """Collects what asyncio says of exceptions that nobody has looked at.

    :ivar messages: with whether the exception is ours: slixmpp's own tasks may end with their connection
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[tuple[str, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "never retrieved" in text or ("Exception in callback" in text and "slixmpp_mls" in text):
            error = record.exc_info[1] if record.exc_info else None
            frames = extract_tb(None if error is None else error.__traceback__)
            places = [type(error).__module__, *(frame.filename for frame in frames)]
            ours = any("slixmpp_mls" in place for place in (text, *places))
            self.messages.append((text if error is None else f"{text}: {error!r}", ours))

    def take(self, *, ours: bool) -> list[str]:
        """What has been collected, only ours or all; and begin anew."""
        found, self.messages = self.messages, []
        return [text for text, is_ours in found if is_ours or not ours]


_lost = _Lost()
logging.getLogger("asyncio").addHandler(_lost)


@pytest.fixture(autouse=True)
def no_exception_is_lost() -> Iterator[None]:
    """A test fails in which asyncio logs "exception was never retrieved": a task of ours has not reported it.

    The same holds for an exception that ends a callback of ours.
    """
    assert not _lost.take(ours=True), "lost at the end of an earlier test"
    yield
    assert not _lost.take(ours=False)


@pytest.fixture(autouse=True, scope="module")
def no_exception_is_lost_in_garbage() -> Iterator[None]:
    """A task that is part of a cycle says so only when it is collected: at the end of each module."""
    yield
    gc.collect()
    assert not _lost.take(ours=True), "lost in one of this module's tests"


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of all later collections, which then take milliseconds."""
    gc.collect()
    gc.freeze()


SERVERS: dict[str, type[DevServer]] = {"prosody": Prosody, "ejabberd": Ejabberd}


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        if {*SERVERS, "server", "connect"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")
    yield
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        items[:] = deal(items, workers)


def in_own_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end outside of the loops of pytest-asyncio."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def unavailable_means_skip() -> Iterator[None]:
    """Turn "there is no such server here" into a skipped test, but into a failure on a CI machine."""
    try:
        yield
    except DevServerError as error:
        if os.environ.get("CI"):
            pytest.fail(f"a server that the tests need does not start: {error}", pytrace=False)
        pytest.skip(str(error))


def _running(kind: type[DevServer]) -> Iterator[DevServer]:
    server = kind()
    try:
        with unavailable_means_skip():
            in_own_loop(server.start())
        yield server
    finally:
        in_own_loop(server.close())


@pytest.fixture(scope="session")
def prosody() -> Iterator[DevServer]:
    yield from _running(Prosody)


@pytest.fixture(scope="session")
def ejabberd() -> Iterator[DevServer]:
    yield from _running(Ejabberd)


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest) -> DevServer:
    """Each kind of server in turn."""
    running = request.getfixturevalue(request.param)
    assert isinstance(running, DevServer)
    return running


_given: set[str] = set()


def unique(name: str) -> str:
    """A local part that no other test uses: ``alice`` becomes something like ``alice-3f2a91``.

    A server serves all tests of a process, and six digits alone would repeat themselves in some runs.
    """
    while (made := f"{name}-{uuid.uuid4().hex[:6]}") in _given:
        pass
    _given.add(made)
    return made


@pytest.fixture
def account() -> Callable[[DevServer, str], Awaitable[JID]]:
    """``await account(server, "alice")`` makes an account of that name, more or less, and returns its bare JID."""

    async def make(server: DevServer, name: str) -> JID:
        return await server.register(unique(name), uuid.uuid4().hex)

    return make


@pytest_asyncio.fixture
async def connect(
    account: Callable[[DevServer, str], Awaitable[JID]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Awaitable[ClientXMPP]]]:
    """``await connect(server, "alice", "xep_0045", ...)`` returns a connected client with these plugins.

    A plain name makes a new account, a JID logs in to one that exists (a full one asks for that resource).
    A plugin may be given as ``(name, config)``.  Keywords go to :meth:`DevServer.connect`.
    The client is disconnected when the test ends.  It waits for servers on busy machines.
    """
    monkeypatch.setattr(stream, "TIMEOUT", 60.0)
    monkeypatch.setattr(selection, "PATIENCE", 120.0)
    monkeypatch.setattr(device_lists, "PATIENCE", 60.0)
    clients: list[ClientXMPP] = []

    async def open_one(
        server: DevServer, who: JID | str, *plugins: str | tuple[str, dict[str, Any]], **options: Any
    ) -> ClientXMPP:
        jid = JID(who) if "@" in str(who) else await account(server, str(who))
        client = server.client(jid)
        for plugin in plugins:
            name, config = (plugin, {}) if isinstance(plugin, str) else plugin
            client.register_plugin(name, config)
        clients.append(client)
        await server.connect(client, **options)
        return client

    yield open_one
    for client in clients:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.disconnect(wait=1.0), 3)
        client.abort()
        client.cancel_connection_attempt()
