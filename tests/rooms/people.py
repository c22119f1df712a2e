"""Members with a real engine, over a room without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from slixmpp import ClientXMPP

from slixmpp_mls.authentication import VALID, AcceptAll, TrustManagement, TrustTable, Verdict
from slixmpp_mls.authentication.callbacks import Recent
from slixmpp_mls.delivery import DeviceDirectory, KeyPackageDirectory, Uploads
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage
from slixmpp_mls.rooms.engine.parts import RoomParts
from slixmpp_mls.rooms.engine.progress import Progress
from slixmpp_mls.rooms.registry import Rooms
from slixmpp_mls.runtime import Context, Settings, SteadyClock, Tasks
from slixmpp_mls.testing import FakeMUC, Participant

SECONDS = 60.0


class Recorded(ClientXMPP):
    """A client without a connection; :attr:`seen` holds all events that it has fired."""

    def __init__(self, jid: str) -> None:
        super().__init__(jid, "")
        self.seen: list[tuple[str, Any]] = []

    def event(self, name: str, data: Any = {}) -> None:  # noqa: B006  # slixmpp's signature
        self.seen.append((name, data))
        super().event(name, data)


class Judge(AcceptAll):
    """An Authentication Service that vouches for nobody whose identity is in `denied`."""

    def __init__(self) -> None:
        self.denied: set[ClientIdentity] = set()
        self.asked: list[ClientIdentity] = []

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        clients = [ClientIdentity.from_leaf(leaf) for leaf in leaves]
        self.asked += clients
        return [Verdict.invalid("no-device", "says the test") if each in self.denied else VALID for each in clients]


class Client:
    """A participant with the services of a running client."""

    def __init__(self, person: Participant, **settings: Any) -> None:
        self.person = person
        self.world = person.world
        self.xmpp = Recorded(f"{person.account}/{person.device.identity.device}")
        self.judge = Judge()
        self.errors: list[Exception] = []
        world = self.world
        self.context = Context(
            xmpp=self.xmpp,
            device=person.device,
            settings=Settings.of({"store": person.store, **settings}),
            clock=SteadyClock(lambda: float(world.now)),
            authentication=self.judge,
            trust=TrustManagement(TrustTable(person.store, clock=lambda: float(world.now)), person.account),
            key_packages=KeyPackageDirectory(self.xmpp),
            devices=DeviceDirectory(self.xmpp),
            uploads=Uploads(self.xmpp),
            used_key_packages=Recent(10),
            tasks=Tasks(self.errors.append),
        )

    def got(self, name: str) -> list[Any]:
        """The events of one name."""
        return [data for each, data in self.xmpp.seen if each == name]


class Bot(Client):
    """A participant that the registry of rooms runs from now on."""

    def __init__(self, person: Participant) -> None:
        super().__init__(person)
        if person in self.world.people:
            self.world.people.remove(person)  # it reads by itself
        self.rooms = Rooms(self.context)

    @property
    def room(self) -> Any:
        room = self.rooms.get(self.world.room.jid)
        assert room is not None
        return room

    @property
    def muc(self) -> FakeMUC:
        muc = self.room.muc
        assert isinstance(muc, FakeMUC)
        return muc

    @property
    def texts(self) -> list[str]:
        return [message.body for message in self.got("mls_message") if isinstance(message, EncryptedMessage)]


class Parts(Client):
    """What the parts of an engine share, each of which a test makes by itself."""

    def __init__(self, person: Participant, *, live: bool = True, **settings: Any) -> None:
        super().__init__(person, **settings)
        self.group = person.group
        self.muc = FakeMUC(self.xmpp, self.world.room, person.account)
        self.progress = Progress(self.group)
        self.parts = RoomParts(self.context, self.group, self.muc, self.progress, self.context.tasks)
        if live:
            self.muc.enter_again()
            self.progress.live.set()

    def lose(self, error: Any) -> None:
        """The room is lost."""
        self.progress.lost = error
        self.progress.live.clear()
        self.progress.notify()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.002)


async def soon() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)
