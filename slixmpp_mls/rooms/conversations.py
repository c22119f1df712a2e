"""Conversations of two: rooms for exactly two accounts, found by the other account's address.

XMPP gives no order to the messages between two accounts, and no archive that both share.  Therefore a conversation of
two takes place in a room, too.  The room is hidden and has a random name.  The policy inside its group says that it is
a conversation of these two accounts (:attr:`RoomPolicy.conversation`).  No member accepts any other account, and each
device of both accounts, including later ones, knows the purpose of the room.

*One conversation for both.*  Both accounts may begin at once, or a new device may begin one before it has been let in.
Then there are several rooms, and the one with the smallest group id counts, equally for every device.  The others are
read as before, so no message there is lost; ``mls_conversation_merged`` reports them.  New messages should go to the
room that counts, which :meth:`Conversations.open` returns.

*Nobody diverts a conversation.*  Whoever makes a group chooses its id.  A server that lists a device of its own for one
of the two accounts could make a conversation with a small one, without that account's other devices.  So a conversation
takes the place of the one that has counted only if it brings no client, and no key, that is not in that one.  A new
device is in both as soon as it has been let in.  A conversation does not count either while the Authentication Service
vouches for none of the other account's clients in it.

*Whoever wants to talk accepts the other's invitation.*  An application may leave invitations undecided
(:mod:`.undecided_invitations`).  If there is no conversation yet, those of the other account are followed before a new
room is made; otherwise each side would talk in a room of its own, and not read the other's.

*A room that is lost is no conversation.*  If it was destroyed, or we were banned from it, another one is made.  Unless
it was destroyed, it counts again when it lets us in again (:mod:`.lost_rooms`): otherwise its service could shut us out
for a moment, and divert the conversation by that.

*No empty conversation.*  No room is made for an account without usable KeyPackages.  If no device can be added in the
end, the room is destroyed.  The name of a room is stored before the room is made, so an interrupted attempt continues.

In the store: space ``conversation``, key account, value the bare JID of the room that is being made; and space
``conversation_counts``, key account, value the bare JID of the room that has counted.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ..client import Joined
from ..delivery import Stream
from ..delivery.muc_config import is_room_service, room_services
from ..errors import DowngradeSuspected, NobodyReachable, UsageError
from ..identity import typed_address
from ..policy import RoomPolicy
from ..runtime import Context
from .alternate_venue import strangers_to
from .encrypted_room import EncryptedRoom
from .registry import Rooms

__all__ = ["ConversationMerged", "Conversations"]

_SPACE = "conversation"
_COUNTS = "conversation_counts"


@dataclass(frozen=True, slots=True)
class ConversationMerged:
    """``mls_conversation_merged``: there are several conversations with one account.

    :ivar account: bare JID of the other account
    :ivar room: bare JID of the room that counts
    :ivar others: bare JIDs of the other rooms; their messages still arrive
    """

    account: str
    room: str
    others: tuple[str, ...]


class Conversations:
    """See the module; the application's interface is :meth:`MLS.conversation` and :attr:`MLS.conversations`.

    :param accept: follows the undecided invitations of an account
    """

    def __init__(self, context: Context, rooms: Rooms, accept: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        self._context = context
        self._rooms = rooms
        self._accept = accept
        self._own = context.device.identity.account
        self._opening: dict[str, asyncio.Lock] = {}

    def start(self) -> None:
        """Begin to detect several conversations with one account."""
        self._context.xmpp.add_event_handler("mls_joined", self._joined)

    def close(self) -> None:
        """Stop detecting them."""
        self._context.xmpp.del_event_handler("mls_joined", self._joined)

    @property
    def all(self) -> dict[str, EncryptedRoom]:
        """The conversation that counts, by the other account's bare JID."""
        found: dict[str, list[EncryptedRoom]] = {}
        for room in self._rooms.all.values():
            account = room.partner
            if account is not None and room.is_member and _is_with(room, account):
                found.setdefault(account, []).append(room)
        return {account: self._counting(account, rooms) for account, rooms in sorted(found.items())}

    def _counting(self, account: str, rooms: list[EncryptedRoom]) -> EncryptedRoom:
        """The one that counts of some conversations with an account; see the module."""
        if len(rooms) == 1:
            return rooms[0]
        with self._context.device.store.transaction() as transaction:
            value = transaction.get(_COUNTS, account.encode())
        before = next((room for room in rooms if room.jid.encode() == value), None)
        before = before or min(rooms, key=lambda room: (room.group.room_state.record.joined, _group_id(room)))
        view = before.group.room_state.require_member().view
        same = [room for room in rooms if room is before or not strangers_to(view, room.group)]
        return min(same, key=_group_id)

    def _note_counting(self, account: str) -> EncryptedRoom | None:
        """Have the conversation that counts now stay the one that counts; return it, if there is one."""
        room = self.all.get(account)
        if room is not None:
            with self._context.device.store.transaction() as transaction:
                noted = transaction.get(_COUNTS, account.encode())
                if noted != room.jid.encode() and not self._may_return(account, noted):
                    transaction.put(_COUNTS, account.encode(), room.jid.encode())
        return room

    def _may_return(self, account: str, noted: bytes | None) -> bool:
        """Whether the conversation that has counted is one whose room has shut us out, and may let us in again."""
        room = None if noted is None else self._rooms.get(noted.decode())
        lost = None if room is None or room.partner != account else room.lost
        return lost is not None and lost.reason != "destroyed"

    async def open(self, account: str, service: str | None = None) -> EncryptedRoom:
        """See :meth:`MLS.conversation`."""
        account = typed_address(account)
        if "/" in account or account == self._own:
            raise UsageError("a conversation is with the bare address of another account")
        async with self._opening.setdefault(account, asyncio.Lock()):
            if account in self.all:  # theirs may be the one that counts, but a silent room must not delay ours
                self._context.tasks.spawn(self._accept(account), f"accepting invitations of {account}")
            else:
                await self._accept(account)
            room = self.all.get(account)
            if room is None:
                room = await self._make(account, service)
            if not room.group.roster.has(account):
                await self._bring_in(account, room)
            return self._note_counting(account) or room

    async def is_room(self, address: str) -> bool:
        """See :meth:`MLS.is_room`."""
        domain = typed_address(address).partition("/")[0].partition("@")[2]
        return await is_room_service(Stream.of(self._context.xmpp), domain)

    async def _make(self, account: str, service: str | None) -> EncryptedRoom:
        """A room with us as the only member."""
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
        """Add the other account, and our own other devices; without the other account there is no conversation."""
        result = await room.add(account)
        if not room.group.roster.has(account):
            if self._begun(account) == room.jid:  # no other account has ever been in it
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

    # --- begun conversations ---------------------------------------------------------------------

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

    # --- several conversations -------------------------------------------------------------------

    def _joined(self, event: Joined) -> None:
        room = self._rooms.get(event.room)
        account = None if room is None else room.partner
        if account is None:
            return
        counting = self._note_counting(account)
        with_account = (each for each in self._rooms.all.values() if each.partner == account and each.is_member)
        rooms = sorted(with_account, key=_group_id)
        if counting is not None and len(rooms) > 1:
            others = tuple(each.jid for each in rooms if each is not counting)
            self._context.fire("mls_conversation_merged", ConversationMerged(account, counting.jid, others))


def _group_id(room: EncryptedRoom) -> bytes:
    return room.group.mls.group_id


def _is_with(room: EncryptedRoom, account: str) -> bool:
    """Whether a conversation has, if any client of the account, one because of which we are not silent there."""
    roster, doubts = room.group.roster, room.group.members.doubts
    clients = [roster.at(leaf) for leaf in roster.leaves_of(account)]
    return not clients or any((doubt := doubts.get(client)) is None or not doubt.silences for client in clients)
