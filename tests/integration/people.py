"""People with the plugin, on a real server, who remember all that they see, and whose every wire is read.

Whatever a test lets people say is a secret.  When the test ends, the harness has looked through every octet that
their clients put into the stream or got out of it (inside of TLS: what servers see) and fails if a secret is among
them, if a client sent an error stanza to anybody, or if the package or asyncio logged an error.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from slixmpp import JID, ClientXMPP

from slixmpp_mls.client import Outgoing
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.plugin import MLS
from slixmpp_mls.rooms.encrypted_room import EncryptedRoom, SentMessage
from slixmpp_mls.runtime import events
from slixmpp_mls.runtime.connection import abort

from ..conftest import unique
from ..patience import add_all
from ..plugins import disable_mls, mls_of

SECONDS = 180.0  # more than anything here should take, two lost requests after each other included
#: All events that the plugin documents.
EVENTS = tuple(dict.fromkeys(re.findall(r"^``(mls_\w+)``", events.__doc__ or "", re.MULTILINE)))
_numbers = itertools.count(1)


class Recorded(ClientXMPP):
    """A client that keeps what goes over its stream.

    :ivar sent: what was written, one stanza each
    :ivar swallowing: whether all gets lost on its way to the server, as in a connection that is about to break;
        or a text: from the first stanza on that has it
    :ivar deaf: whether messages from the server get lost in the same manner
    """

    def __init__(self, jid: str, password: str) -> None:
        super().__init__(jid, password)
        self.sent: list[str] = []
        self.received = bytearray()
        self.swallowing: bool | str = False
        self.swallowed: list[str] = []
        self.deaf = False
        self.add_filter("in", lambda stanza: None if self.deaf and stanza.name == "message" else stanza)

    def send_raw(self, data: str | bytes) -> None:
        text = data.decode() if isinstance(data, bytes) else data
        if self.swallowing is True or (self.swallowing and self.swallowing in text):
            self.swallowing = True
            self.swallowed.append(text)
            return
        self.sent.append(text)
        super().send_raw(data)

    def data_received(self, data: bytes | str) -> None:
        self.received += data.encode() if isinstance(data, str) else data
        super().data_received(data)


class Person:
    """One device of somebody's account.

    :ivar seen: the plugin's events, in order, those of earlier lives included
    """

    def __init__(self, cast: Cast, jid: JID, store: Path, config: dict[str, Any]) -> None:
        self.cast = cast
        self.server: DevServer = cast.server
        self.jid = jid
        self.account = jid.bare
        self.store = store
        self.config = config
        self.seen: list[tuple[str, Any]] = []
        self.clients: list[Recorded] = []
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{self.jid.user}: {[(name, data) for name, data in self.seen][-6:]}>"

    # Life

    @property
    def client(self) -> Recorded:
        return self.clients[-1]

    @property
    def mls(self) -> MLS:
        return mls_of(self.client)

    def reconfigure(self, **settings: object) -> None:
        """Change settings of the running plugin, as a restart with another configuration would."""
        for name, value in settings.items():
            object.__setattr__(self.mls.settings, name, value)

    def make_client(self) -> Recorded:
        client = self.server.client(self.jid, factory=Recorded)
        client.register_plugin("xep_0308")
        client.register_plugin("xep_0444")
        client.register_plugin("xep_0461")
        usual = {"store": str(self.store), "key_packages": 2, "cipher_suites": (1,)}
        client.register_plugin("mls", usual | self.config)
        for name in EVENTS:
            client.add_event_handler(name, lambda data, name=name: self.seen.append((name, data)))
        self.clients.append(client)
        return client

    async def connect(self) -> None:
        """A new client process, so to speak, with the store as it is; ready when this returns."""
        await self.server.connect(self.make_client())
        await self.ready()

    async def ready(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.mls.ready()

    async def cut(self) -> None:
        """The connection breaks."""
        gone = asyncio.create_task(self.client.wait_until("disconnected", SECONDS))
        await asyncio.sleep(0)
        abort(self.client)
        await gone

    def no_resumption(self) -> None:
        """Have the server refuse to resume the stream (XEP-0198) at the next connection."""
        self.client.plugin["xep_0198"].sm_id = "forgotten"

    async def new_session(self) -> None:
        """The connection breaks, and the server does not resume the stream; as a bot would, try until it is there."""
        await self.cut()
        self.no_resumption()
        while await self.back() != "session_start":
            pass

    async def back(self, seconds: float = SECONDS) -> str:
        """Connect the same client again.

        :param seconds: how long to wait for an outcome
        :returns: the name of slixmpp's event: session_start, session_resumed, or disconnected
        """
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def settle(name: str) -> Callable[[object], None]:
            return lambda _: None if outcome.done() else outcome.set_result(name)

        client = self.client
        handlers = {name: settle(name) for name in ("session_start", "session_resumed", "disconnected")}
        for name, handler in handlers.items():
            client.add_event_handler(name, handler)
        try:
            client.connect(self.server.host, self.server.port)
            async with asyncio.timeout(seconds):
                name = await outcome
        finally:
            for other, handler in handlers.items():
                client.del_event_handler(other, handler)
        if name == "session_start":
            client.send_presence()
        return name

    def stay_connected(self) -> None:
        """Connect again whenever the connection breaks, as a bot would."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(0.05)
                if self.client.transport is None:
                    self.client.cancel_connection_attempt()
                    try:
                        await self.back(20.0)
                    except TimeoutError:
                        abort(self.client)  # perhaps it is connected and cannot log in

        self._keeper = asyncio.create_task(keep())

    async def log_out(self) -> None:
        """The end of the process, in good order."""
        if self._keeper is not None:
            self._keeper.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.client.disconnect(wait=1.0), 3)
        disable_mls(self.client)
        self.client.abort()
        self.client.cancel_connection_attempt()

    def crash(self) -> None:
        """The end of the process, at once: nothing is said to anybody, nothing more is written."""
        if "mls" in self.client.plugin:
            disable_mls(self.client)
        self.client.abort()
        self.client.cancel_connection_attempt()

    def stays_unlisted(self) -> None:
        """Have the device not notice that its account's list lacks it; it would put itself back."""

        async def mend() -> None:
            return None

        self.mls.parts.own_entry.mend = mend  # type: ignore[method-assign]

    def notify_of_devices(self, account: str) -> None:
        """As a PEP notification of another list of devices does, between accounts that share presence."""
        service = self.mls._own_service
        assert service is not None
        service._changed(account)

    # What is seen

    def got(self, name: str) -> list[Any]:
        """The data of all events of this name."""
        assert name in EVENTS
        return [data for seen, data in self.seen if seen == name]

    async def until(self, condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Wait for something to be true; its value."""
        try:
            async with asyncio.timeout(seconds):
                while not (value := condition()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"it did not happen: {self!r}") from None
        return value

    async def has_read(self, other: Person, room: str) -> None:
        """Wait until we have read as much of a room as another one, whether we are in its group or not."""

        def place(person: Person) -> str | None:
            return person.room(room).group.room_state.cursor

        await self.until(lambda: place(self) == place(other))  # both may read on

    async def until_no_doubts(self) -> None:
        """Wait until every leaf of the room is believed."""
        await self.until(lambda: not self.room().doubts)

    async def next(self, name: str, after: int = 0, seconds: float = SECONDS) -> Any:
        """The first event of this name after so many of them."""
        return await self.until(lambda: self.got(name)[after : after + 1], seconds) and self.got(name)[after]

    @property
    def bodies(self) -> list[str]:
        return [message.body for message in self.got("mls_message")]

    async def hears(self, *texts: str, seconds: float = SECONDS) -> None:
        try:
            await self.until(lambda: set(texts) <= set(self.bodies), seconds)
        except AssertionError:
            missing = sorted(set(texts) - set(self.bodies))
            other = [(name, data) for name, data in self.seen if name != "mls_message"]
            rooms = [(room.live, room.epoch, room.group.room_state.cursor) for room in self.mls.rooms.values()]
            raise AssertionError(f"{self.jid.user} has not heard {missing}, but {other}; {rooms}") from None

    # What is done

    async def say(self, text: str, room: str | None = None) -> SentMessage:
        """Send it; the text becomes one of the test's secrets."""
        return await self.room(room).send(self.cast.secret(text))

    def room(self, room: str | None = None) -> EncryptedRoom:
        """The room of this name, or the only one."""
        if room is not None:
            return self.mls.room(room)
        (only,) = self.mls.rooms.values()
        return only

    async def joined(self, room: str, seconds: float = SECONDS) -> EncryptedRoom:
        """Wait until we are in the group and up to date."""

        def inside() -> bool:
            handle = self.mls.rooms.get(room)
            return handle is not None and handle.is_member and handle.live

        await self.until(inside, seconds)
        return self.mls.room(room)

    async def post(self, xml: Iterable[Any], room: str) -> None:
        """Put elements into the room as a bot without the plugin could: nothing is checked."""
        message = self.client.make_message(mto=JID(room), mtype="groupchat")
        message.xml.extend(xml)
        message.send()

    def stanzas_sent(self, pattern: str) -> list[str]:
        """Stanzas of all lives that match."""
        return [data for client in self.clients for data in client.sent if re.search(pattern, data)]


class Cast:
    """Everybody in one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.people: list[Person] = []
        self.secrets: set[str] = set()
        self.server: DevServer = None  # type: ignore[assignment]
        #: Regular expressions of errors that the test is about, as they are logged.
        self.expected_errors: list[str] = []

    def secret(self, text: str) -> str:
        """Remember that this must not be seen on any wire."""
        assert len(text) > 5, "a text that short may be found anywhere"
        self.secrets.add(text)
        return text

    async def account(self, server: DevServer, name: str) -> JID:
        return await server.register(unique(name), uuid4().hex)

    async def person(self, server: DevServer, who: str | JID, *, online: bool = True, **config: Any) -> Person:
        """Somebody new, or (with a JID) another device of an account that exists."""
        self.server = server
        jid = who if isinstance(who, JID) else await self.account(server, who)
        person = Person(self, jid, self.folder / f"{jid.user}-{next(_numbers)}.db", config)
        self.people.append(person)
        if online:
            await person.connect()
        return person

    async def meet(self, server: DevServer, *names: str, **config: Any) -> tuple[str, list[Person]]:
        """People in one encrypted room; the first has made it."""
        people = await asyncio.gather(*(self.person(server, name, **config) for name in names))
        first, *others = people
        room = f"{unique('coven')}@{server.rooms}"
        async with asyncio.timeout(SECONDS):
            group = await first.mls.create(room)
        if others:
            await add_all(group, *(other.account for other in others))
        for other in others:
            await other.joined(room)
        return room, list(people)

    async def end(self) -> None:
        await asyncio.gather(*(person.log_out() for person in self.people if person.clients))

    def check_wires(self) -> None:
        """Nothing in clear, and no error sent to anybody."""
        for person in self.people:
            for client in person.clients:
                sent = "".join(client.sent)
                for secret in self.secrets:
                    assert secret not in sent, f"{person.jid.user} sent it in clear: {secret}"
                    assert secret.encode() not in client.received, f"{person.jid.user} received it in clear: {secret}"
                assert not re.search(r"<(message|presence)[^>]*\btype=['\"]error", sent)


def vouch(by: Person, new: Person) -> None:
    """What an account's device does when the owner admits another one: it signs a voucher, which the other keeps."""
    for number in by.mls.device.suites:
        suite, now = CipherSuite.get(number), int(time.time())
        key, lifetime = new.mls.device.signature_key(suite).public, Lifetime(now - HOUR, now + 90 * DAY)
        voucher = by.mls.device.vouch_for(suite, new.mls.device.identity, key, lifetime)
        new.mls.device.keep_vouchers(suite, [voucher])


def agree(*people: Person, room: str | None = None) -> bool:
    """Whether all are in the group, in the same state."""
    if room is None:
        rooms = {name for person in people for name in person.mls.rooms}
        if not rooms:
            return False
        (room,) = rooms
    if not all(room in person.mls.rooms and person.room(room).is_member for person in people):
        return False
    return len({person.room(room).epoch_authenticator for person in people}) == 1


async def all_agree(
    *people: Person, room: str | None = None, epoch: int | None = None, at_least: int | None = None
) -> None:
    """Wait for that; a failure shows where each of them is.

    :param epoch: the number of the epoch, where nobody commits but at the test's word
    :param at_least: the lowest one, where somebody may have lost sight of the others and shown them where it is
    """

    def there() -> bool:
        if not agree(*people, room=room):
            return False
        number = people[0].room(room).epoch
        return (epoch is None or number == epoch) and (at_least is None or number >= at_least)

    try:
        await people[0].until(there)
    except AssertionError:
        where = [
            f"{[(name, each.is_member and each.epoch) for name, each in person.mls.rooms.items()]}, {person!r}"
            for person in people
        ]
        raise AssertionError("\n".join(["they do not agree:", *where])) from None


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = SECONDS) -> None:
    """Wait for something to be true that a server is asked for."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def envelope(text: str, sender: str, room: str, *, extra: str = "", head: str = "", xml: str | None = None) -> bytes:
    """An envelope as no sender of ours would make it."""
    content = xml if xml is not None else f"<body xmlns='jabber:client'>{text}</body>{extra}"
    return (
        f"{head}<envelope xmlns='urn:xmpp:sce:1'><content>{content}</content><time stamp='2026-01-01T00:00:00Z'/>"
        f"<to jid='{room}'/><from jid='{sender}'/><rpad>x</rpad></envelope>"
    ).encode()


async def send_octets(person: Person, data: bytes, room: str | None = None) -> Outgoing:
    """Encrypt anything at all and send it: what a member with other software can do."""
    handle = person.room(room)
    outgoing = handle.group.sending.compose(data)
    await handle.worker.transmitter.transmit(outgoing)
    return outgoing


def ciphertext(outgoing: Outgoing) -> Any:
    """The elements of a message that was made."""
    return [element.to_stdlib() for element in outgoing.payloads]
