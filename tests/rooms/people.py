"""Members with a real engine, over a room without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from slixmpp import JID

from slixmpp_mls.delivery import Stream
from slixmpp_mls.delivery.affiliations import Affiliation
from slixmpp_mls.errors import DeliveryError
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage
from slixmpp_mls.rooms.engine.parts import RoomParts
from slixmpp_mls.rooms.engine.progress import Progress
from slixmpp_mls.rooms.registry import Rooms
from slixmpp_mls.testing import FakeMUC, Participant

from ..services import Client

SECONDS = 120.0


class Bot(Client):
    """A participant that the registry of rooms runs from now on."""

    def __init__(self, person: Participant, **settings: Any) -> None:
        super().__init__(person, **settings)
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

    def __init__(
        self, person: Participant, others: Client | None = None, *, live: bool = True, **settings: Any
    ) -> None:
        super().__init__(person, others, **settings)
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


class Office:
    """The room's lists, and its invitations, without a server.

    :ivar listed: affiliations by bare JID
    :ivar invited: the accounts that were invited, oldest first
    :ivar errors: raised by the next changes of affiliations, or by the next check that invitations have arrived
    """

    def __init__(self, muc: FakeMUC, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listed: dict[str, Affiliation] = {}
        self.invited: list[str] = []
        self.errors: list[DeliveryError] = []
        muc.affiliations._sets_many = False
        for name in ("all", "set"):
            monkeypatch.setattr(muc.affiliations, name, getattr(self, name))
        monkeypatch.setattr(muc, "invite", self.invite)
        monkeypatch.setattr(Stream, "flushed", lambda stream: self.flushed())

    async def all(self) -> dict[JID, Affiliation]:
        return {JID(account): affiliation for account, affiliation in self.listed.items()}

    async def set(self, account: str, affiliation: Affiliation, reason: str | None = None) -> None:
        self._fail()
        self.listed[account] = affiliation

    async def invite(self, account: str, elements: object) -> None:
        self.invited.append(account)

    async def flushed(self) -> None:
        self._fail()

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.002)


async def soon() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)
