"""Fixtures for the tests of bots: a real server, and people who talk to the bot in encrypted rooms.

pytest finds this plugin by itself wherever the package is installed.  The asynchronous fixtures need pytest-asyncio
(the extra ``pytest`` has both)::

    async def test_echo(mls_login, mls_person):
        bot = (await mls_login("echo")).bot()
        bot.add_event_handler("mls_message", echo)
        async with connected(bot):
            alice = await mls_person("alice")
            room = await alice.room_with(bot.boundjid.bare)
            await room.send("Fair is foul")
            assert (await alice.hears()).body == "Fair is foul"

==============  =============================================================================================
``mls_server``  a temporary server, one for the whole session: Prosody, or with ``--mls-server ejabberd`` that
``mls_login``   ``await mls_login("bot")`` makes an account and returns its :class:`~slixmpp_mls.Login`
``mls_person``  ``await mls_person("alice")`` returns a :class:`Person` with an account of its own, logged in
``mls_room``    two people in an encrypted room, a :class:`Pair`
==============  =============================================================================================

Each account and each room has a new name, so tests do not disturb each other.  Where the server cannot be started
(no network at the first time, for example), the tests that need it are skipped; where ``CI`` is set they fail.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from slixmpp import ClientXMPP

from ..devserver import DevServer, Ejabberd, Prosody
from ..errors import DevServerError
from ..plugin import MLS
from ..rooms.encrypted_message import EncryptedMessage
from ..rooms.encrypted_room import EncryptedRoom
from ..runtime.connection import connected
from ..runtime.login import Login

__all__ = ["Pair", "Person", "mls_login", "mls_person", "mls_room", "mls_server", "pytest_addoption"]

PATIENCE = 120.0
"""Seconds that a person waits for a message."""

MakeLogin = Callable[[str], Awaitable[Login]]
MakePerson = Callable[[str], Awaitable["Person"]]

_SERVERS: dict[str, type[DevServer]] = {"prosody": Prosody, "ejabberd": Ejabberd}


@dataclass(eq=False)
class Person:
    """Somebody who talks in encrypted rooms.

    :ivar client: the connection; its plugin is :attr:`mls`
    :ivar rooms: the domain of the server's rooms
    :ivar heard: the messages that have come in and that no :meth:`hears` has returned yet
    """

    client: ClientXMPP
    rooms: str
    heard: asyncio.Queue[EncryptedMessage]

    @property
    def jid(self) -> str:
        """The account's bare JID."""
        return str(self.client.boundjid.bare)

    @property
    def mls(self) -> MLS:
        """The plugin."""
        return MLS.of(self.client)

    async def hears(self, sender: str | None = None, *, patience: float = PATIENCE) -> EncryptedMessage:
        """The next message, of a sender if one is given; those of others before it are dropped.

        :param sender: bare JID
        :param patience: seconds
        :raises AssertionError: nothing has come in that time
        """
        try:
            async with asyncio.timeout(patience):
                while True:
                    message = await self.heard.get()
                    if sender in (None, message.sender.account):
                        return message
        except TimeoutError:
            raise AssertionError(f"{self.jid} has heard nothing of {sender or 'anybody'} in {patience:g} s") from None

    async def room_with(self, *accounts: str) -> EncryptedRoom:
        """Make an encrypted room and add these accounts (bare JIDs): it waits until they have published their keys.

        :raises AssertionError: an account cannot be added
        """
        room = await self.mls.create(f"room-{uuid.uuid4().hex[:8]}@{self.rooms}")
        missing: dict[str, str] = {account: "" for account in accounts}
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while missing:
            missing = dict((await room.add(*missing)).failed)
            assert not missing or asyncio.get_running_loop().time() < deadline, f"not added: {missing}"
            await asyncio.sleep(0.1 if missing else 0)
        return room


@dataclass(frozen=True)
class Pair:
    """Two people in an encrypted room.

    :ivar jid: the room's bare JID; ``alice.mls.room(jid)`` and ``bob.mls.room(jid)`` are the two views of it
    """

    jid: str
    alice: Person
    bob: Person


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--mls-server``."""
    group = parser.getgroup("slixmpp-mls")
    group.addoption("--mls-server", choices=sorted(_SERVERS), default="prosody", help="the server of mls_server")


def _in_own_loop(work: Coroutine[object, object, None]) -> None:
    """Run a coroutine to its end, outside of the event loops of the tests."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # raised in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="session")
def mls_server(request: pytest.FixtureRequest) -> Iterator[DevServer]:
    """A temporary server on this machine; see :mod:`slixmpp_mls.devserver`."""
    server = _SERVERS[request.config.getoption("--mls-server")]()
    try:
        try:
            _in_own_loop(server.start())
        except DevServerError as error:
            if os.environ.get("CI"):
                pytest.fail(f"the server does not start: {error}", pytrace=False)
            pytest.skip(str(error))
        yield server
    finally:
        _in_own_loop(server.close())


@pytest.fixture
def mls_login(mls_server: DevServer, tmp_path: Path) -> MakeLogin:
    """Makes accounts: ``login = await mls_login("bot")``, then ``login.bot()``."""

    async def make(name: str) -> Login:
        jid = await mls_server.register(f"{name}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
        return Login(
            jid=str(jid.bare),
            password=mls_server.accounts[str(jid.bare)],
            host=mls_server.host,
            port=mls_server.port,
            ca=mls_server.ca_file,
            store=tmp_path / f"{jid.user}.db",
        )

    return make


@pytest_asyncio.fixture
async def mls_person(mls_server: DevServer, mls_login: MakeLogin) -> AsyncIterator[MakePerson]:
    """Makes people: ``alice = await mls_person("alice")``.  They log out when the test ends."""
    async with AsyncExitStack() as stack:

        async def make(name: str) -> Person:
            client = (await mls_login(name)).bot(key_packages=4)
            person = Person(client, mls_server.rooms, asyncio.Queue())
            client.add_event_handler("mls_message", person.heard.put_nowait)
            await stack.enter_async_context(connected(client))
            return person

        yield make


@pytest_asyncio.fixture
async def mls_room(mls_person: MakePerson) -> Pair:
    """Two people in an encrypted room."""
    alice, bob = await mls_person("alice"), await mls_person("bob")
    room = await alice.room_with(bob.jid)
    async with asyncio.timeout(PATIENCE):
        while room.jid not in bob.mls.rooms:  # noqa: ASYNC110  # until the invitation is there
            await asyncio.sleep(0.02)
        await bob.mls.room(room.jid).wait_joined()
    return Pair(room.jid, alice, bob)
