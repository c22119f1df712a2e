"""Who else is in the rooms, and what they have seen there."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from slixmpp import ClientXMPP

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.plugin import MLS
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage
from slixmpp_mls.rooms.encrypted_room import EncryptedRoom
from slixmpp_mls.store import MemoryStore
from tests.plugins import mls_of

from .stories import COMPLAINTS


class Witness:
    """Somebody in all the rooms.

    :ivar heard: by room: sender's account, text
    :ivar states: by room and epoch: the epoch authenticator
    :ivar complaints: by room
    """

    def __init__(self, server: DevServer, client: ClientXMPP) -> None:
        self.client = client
        self.account = client.boundjid.bare
        self.heard: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.states: dict[tuple[str, int], str] = {}
        self.complaints: dict[str, list[str]] = defaultdict(list)
        self.news = asyncio.Event()
        # Only a KeyPackage of last resort: two who add us at the same moment must not meet on one.
        client.register_plugin("mls", {"store": MemoryStore(self.account), "key_packages": 0, "cipher_suites": (1,)})
        client.add_event_handler("mls_message", self._message)
        for name in ("mls_joined", "mls_group_changed"):
            client.add_event_handler(name, self._epoch)
        for name in COMPLAINTS:
            client.add_event_handler(name, lambda data, name=name: self._complain(name, data))

    @property
    def mls(self) -> MLS:
        return mls_of(self.client)

    def _message(self, message: EncryptedMessage) -> None:
        self.heard[message.room.jid].append((message.sender.account, message.body))
        self.news.set()

    def _epoch(self, event: Any) -> None:
        group = self.mls.rooms.get(event.room)
        if group is not None and group.is_member:
            self.states[event.room, group.epoch] = group.epoch_authenticator.hex()
        self.news.set()

    def _complain(self, name: str, data: Any) -> None:
        self.complaints[getattr(data, "room", "")].append(f"{name}: {data!r}")

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()

    def said_by(self, room: str, account: str) -> list[str]:
        """What we have heard of somebody, in order."""
        return [text for who, text in self.heard[room] if who == account]

    async def hears(self, room: str, text: str) -> None:
        await self.until(lambda: any(heard == text for _, heard in self.heard[room]))

    async def group(self, room: str) -> EncryptedRoom:
        """The room's group, once we are in it and up to date."""
        await self.until(lambda: room in self.mls.rooms and self.mls.room(room).is_member)
        group = self.mls.room(room)
        await group.wait_live()
        return group

    async def forget(self, room: str) -> None:
        """Go out, to make room for others."""
        if (group := self.mls.rooms.get(room)) is not None:
            await self.mls.parts.rooms.forget(group)
