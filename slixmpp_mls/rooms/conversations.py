"""Conversations of two: rooms that two accounts have for themselves, found by the other's address.

XMPP gives no order to the messages between two accounts, and no archive that both share; so two people talk in a room,
too.  It is hidden, has a random name, and the policy inside of its group says that it is a conversation of these two
(:attr:`RoomPolicy.conversation`): no member accepts anybody else, and each device of both, also one that comes later,
knows what the room is.

*One for both.*  Both may begin at once, or a new device before it has been let in.  Then there are several, and the one
with the smallest group id counts, for everybody alike.  The others are read as before, so that nothing that is said
there is lost; ``mls_conversation_merged`` tells of them.  What is sent from then on should go to the one that counts,
which :meth:`Conversations.open` returns.

*None for nobody.*  No room is made for an account that has no usable KeyPackages.  If nobody can be added after all,
the room is destroyed.  The name of a room is stored before it is made, so that an interrupted attempt goes on.

In the store: space ``conversation``, key account, value the bare JID of the room that is being made.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from ..client import Joined
from ..delivery import Stream
from ..delivery.muc_config import is_room_service, room_services
from ..errors import DowngradeSuspected, NobodyReachable, UsageError
from ..identity import normal_form
from ..policy import RoomPolicy
from ..runtime import Context
from .encrypted_room import EncryptedRoom
from .registry import Rooms

__all__ = ["ConversationMerged", "Conversations"]

_SPACE = "conversation"


@dataclass(frozen=True, slots=True)
class ConversationMerged:
    """``mls_conversation_merged``: there are several conversations with one account.

    :ivar account: bare JID of the other one
    :ivar room: bare JID of the room that counts
    :ivar others: bare JIDs of the others; what is said there still comes
    """

    account: str
    room: str
    others: tuple[str, ...]


class Conversations:
    """See the module; applications have it as :meth:`MLS.conversation` and :attr:`MLS.conversations`."""

    def __init__(self, context: Context, rooms: Rooms) -> None:
        self._context = context
        self._rooms = rooms
        self._own = context.device.identity.account
        self._opening: dict[str, asyncio.Lock] = {}

    def start(self) -> None:
        """Notice when there are several."""
        self._context.xmpp.add_event_handler("mls_joined", self._joined)

    def close(self) -> None:
        """Notice no more."""
        self._context.xmpp.del_event_handler("mls_joined", self._joined)

    @property
    def all(self) -> dict[str, EncryptedRoom]:
        """The one that counts, by the other's bare JID."""
        found: dict[str, list[EncryptedRoom]] = {}
        for room in self._rooms.all.values():
            if room.partner is not None:
                found.setdefault(room.partner, []).append(room)
        return {account: min(rooms, key=_group_id) for account, rooms in sorted(found.items())}

    async def open(self, account: str, service: str | None = None) -> EncryptedRoom:
        """See :meth:`MLS.conversation`."""
        account = _address(account)
        if "/" in account or account == self._own:
            raise UsageError("a conversation is with the bare address of another account")
        async with self._opening.setdefault(account, asyncio.Lock()):
            room = self.all.get(account)
            if room is None:
                room = await self._make(account, service)
            if not room.group.roster.has(account):
                await self._bring_in(account, room)
            return self.all.get(account, room)

    async def is_room(self, address: str) -> bool:
        """See :meth:`MLS.is_room`."""
        domain = _address(address).partition("/")[0].partition("@")[2]
        return await is_room_service(Stream.of(self._context.xmpp), domain)

    async def _make(self, account: str, service: str | None) -> EncryptedRoom:
        """A room with us alone in it."""
        begun = self._begun(account)
        address = begun or f"{secrets.token_hex(12)}@{service or await self._service()}"
        policy = RoomPolicy.for_conversation(address, self._own, account)
        negotiated = await self._rooms.negotiate([account, self._own], policy)
        if account in negotiated.failed:
            raise NobodyReachable(account, negotiated.failed[account])
        if negotiated.downgraded:
            devices = [suspicion.device for suspicion in negotiated.downgraded]
            raise DowngradeSuspected(negotiated.claimed, negotiated.suite, devices)
        if begun is None:
            self._begin(account, address)
        return await self._rooms.create(address, (), None, policy, negotiated.suite)

    async def _bring_in(self, account: str, room: EncryptedRoom) -> None:
        """Add the other account, and our own other devices; without the former there is no conversation."""
        result = await room.add(account)
        if not room.group.roster.has(account):
            if self._begun(account) == room.room:  # nobody has ever been in it but us
                await self._rooms.discard(room)
                self._done(account)
            reasons = [reason for client, reason in result.skipped.items() if client.startswith(f"{account}/")]
            raise NobodyReachable(account, result.failed.get(account) or "; ".join(reasons[:3]) or "nobody was added")
        await room.add(self._own)
        self._done(account)

    async def _service(self) -> str:
        domain = self._own.partition("@")[2]
        found = await room_services(Stream.of(self._context.xmpp), domain)
        if not found:
            raise UsageError(f"{domain} has no service for rooms: name one (service=...)")
        return found[0]

    # --- what has been begun ---------------------------------------------------------------------

    def _begun(self, account: str) -> str | None:
        with self._context.device.store.transaction() as transaction:
            value = transaction.get(_SPACE, account.encode())
        return None if value is None else value.decode()

    def _begin(self, account: str, room: str) -> None:
        with self._context.device.store.transaction() as transaction:
            transaction.put(_SPACE, account.encode(), room.encode())

    def _done(self, account: str) -> None:
        with self._context.device.store.transaction() as transaction:
            transaction.delete(_SPACE, account.encode())

    # --- several ---------------------------------------------------------------------------------

    def _joined(self, event: Joined) -> None:
        room = self._rooms.get(event.room)
        account = None if room is None else room.partner
        if account is None:
            return
        rooms = sorted((each for each in self._rooms.all.values() if each.partner == account), key=_group_id)
        if len(rooms) > 1:
            merged = ConversationMerged(account, rooms[0].room, tuple(each.room for each in rooms[1:]))
            self._context.fire("mls_conversation_merged", merged)


def _address(text: str) -> str:
    try:
        return normal_form(text)
    except ValueError as error:
        raise UsageError(f"not an address: {error}") from None


def _group_id(room: EncryptedRoom) -> bytes:
    return room.group.group.group_id
