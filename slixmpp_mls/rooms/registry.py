"""The rooms of a device: beginning, following, resuming and giving up.

A known room has an :class:`~.encrypted_room.EncryptedRoom`, whether we are in its group, wait for a Welcome there, or
make its group.  All ways to begin a group use one method.  It records the place in the room's archive before the group
exists, so that nothing of the group is missed, and it continues interrupted work when it is called again.

The module is longer than others: all ways into a room share one table of rooms, and take turns at one room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from slixmpp import JID, InvalidJID

from ..client import MessageReceived, RoomGroup
from ..client.group.resumption_psks import Awaited
from ..client.storage.records import MembershipState
from ..delivery import Room, Stream
from ..delivery.muc_config import MUC, features
from ..errors import (
    DeliveryError,
    DeviceRetired,
    DowngradeSuspected,
    GroupExists,
    NoAnswer,
    NotPermitted,
    PeerError,
    Refused,
    RoomLost,
    RoomUnsuitable,
    SuiteUnsupported,
    UsageError,
    suite_name,
)
from ..identity.fair_share import displaced
from ..key_packages.cipher_suite_choice import Negotiation, negotiate, read_offers
from ..key_packages.selection import Candidates
from ..mls.crypto.cipher_suite import CipherSuite
from ..policy import RoomPolicy, group_extensions
from ..runtime import Context
from ..runtime.tasks import UNREACHABLE
from ..stanza.xml import is_xml_text
from .encrypted_room import EncryptedRoom
from .engine.rejoin import group_in
from .leaving import LEAVE_TIMEOUT
from .lost_rooms import LostRooms
from .reception import Reception

__all__ = [
    "ENTERING_TIMEOUT", "READING_TIMEOUT", "WAITING", "WAITING_OF_ONE", "Expected", "Rooms", "room_address",
]  # fmt: skip

log = logging.getLogger(__name__)

ENTERING_TIMEOUT = 10.0
"""Seconds for which a start waits for rooms that do not answer."""

READING_TIMEOUT = 60.0
"""Seconds for which an invitation waits for the end of the reading that an earlier one has caused."""


WAITING_OF_ONE = 128
"""Rooms in which we wait for a Welcome because one account has invited us."""

WAITING = 512
"""The same, because of all accounts together."""

_WAITING = (MembershipState.INVITED, MembershipState.LOST, MembershipState.PARTIAL)


@dataclass(frozen=True, slots=True)
class Expected:
    """What an invitation says of the Welcome that it belongs to, and whose invitations count.

    :ivar group: id of the group, see :meth:`.Lifecycle.expect_group`; empty if nobody has named it
    :ivar adder: account that has added us to it, a bare JID; empty if nobody says so
    :ivar sender: account that has sent the invitation, a bare JID
    :ivar chosen: see :meth:`.Lifecycle.choose_inviter`; None: nobody has chosen anew
    """

    group: bytes = b""
    adder: str = ""
    sender: str = ""
    chosen: str | None = None

    def note(self, group: RoomGroup) -> None:
        """Have the room's group judge Welcomes by it.

        :raises StoreError: the store failed
        """
        group.lifecycle.expect_group(self.group, self.adder, self.sender)
        if self.chosen is not None:
            group.lifecycle.choose_inviter(self.chosen)


class Rooms:
    """See the module; the application's interface is mostly the methods of the plugin.

    :ivar lost: tries lost rooms again
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rooms: dict[str, EncryptedRoom] = {}
        self._entering: dict[str, tuple[asyncio.Lock, int]] = {}  # with the number of those who have it, or wait for it
        self._reception = Reception(context)
        self._resumed = asyncio.Event()  # set when the rooms in the store are being read
        self.lost = LostRooms(lambda: self._rooms, self._enter_lost, context.clock.monotonic)

    @property
    def all(self) -> dict[str, EncryptedRoom]:
        """By bare JID."""
        return dict(self._rooms)

    @property
    def accounts(self) -> frozenset[str]:
        """The accounts in all our groups, our own included."""
        groups = (handle.group.roster.accounts() for handle in self._rooms.values() if handle.group.is_member)
        return frozenset().union(*groups, (self._context.device.identity.account,))

    def get(self, room: str) -> EncryptedRoom | None:
        """The room with this JID, if we know it."""
        return self._rooms.get(room_address(room))

    def _handle(self, room: str) -> EncryptedRoom:
        """
        :raises RoomLost: the store has a group there that cannot be used; nothing has changed
        """
        handle = self._rooms.get(room)
        if handle is None:
            nick = self._context.settings.nick or self._context.xmpp.boundjid.user
            try:
                handle = self._rooms[room] = EncryptedRoom(self._context, self, room, nick)
            except PeerError as error:  # of a cipher suite that is not supported (any more), or damaged
                raise RoomLost(room, "unreadable", text=str(error)) from error
        return handle

    # --- life cycle ----------------------------------------------------------------------------

    async def resume(self) -> None:
        """Resume the rooms in the store, in parallel: a room that does not answer delays no other."""
        try:
            entering: list[asyncio.Task[None]] = []
            for room in RoomGroup.known(self._context.device):
                try:
                    handle = self._handle(room)
                except RoomLost as error:
                    log.error("%s", error)
                    self._context.fire("mls_room_lost", error)
                    continue
                self._reception.receive_again(handle)
                if handle.group.room_state.has_lost_group:
                    handle.group.lifecycle.end_creation()  # if one was in progress: the way back goes on
                if handle.group.state in (MembershipState.OUT, MembershipState.FOUNDING):
                    del self._rooms[room]
                    continue
                entering.append(self._spawn(self._enter(handle), f"entering {room}"))
                await asyncio.sleep(0)  # opening a room takes a moment, and blocks the event loop
            if entering:
                await asyncio.wait(entering, timeout=ENTERING_TIMEOUT)
        finally:
            self._resumed.set()

    async def _enter(self, handle: EncryptedRoom) -> None:
        try:
            await handle.worker.start()
        except DeliveryError as error:
            if handle.lost is not None:
                handle.worker.report_lost(handle.lost)
            else:
                self._context.fire("mls_room_lost", error)
        if handle.group.post_commit_actions.leave:
            self._spawn(handle.leaving.finish(LEAVE_TIMEOUT), f"leaving {handle.jid}")

    async def _take_up(self, room: str) -> None:
        """Go on with the way back into a group that we had lost before we tried to make another one there."""
        async with self._one_at_a_time(room):
            handle = self._handle(room)
            if handle.group.state is MembershipState.LOST and not handle.worker.running:
                await self._enter(handle)

    async def _enter_lost(self, handle: EncryptedRoom) -> bool:
        async with self._one_at_a_time(handle.jid):
            return self._rooms.get(handle.jid) is handle and await handle.worker.try_lost()

    def next_try(self, handle: EncryptedRoom) -> float | None:
        """Seconds until a lost room is tried again; None: it is not."""
        return self.lost.next_try(handle)

    def _spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        return self._context.tasks.spawn(work, name, passing=UNREACHABLE)

    def received(self, room: EncryptedRoom, event: MessageReceived) -> None:
        """Hand a message to the application."""
        self._reception.receive(room, event)

    async def reached(self, awaited: Awaited) -> None:
        """Wait until a room is in an epoch that another room needs, or will not reach it."""
        await self._resumed.wait()
        handle = self._rooms.get(awaited.room)
        if handle is not None:
            await handle.worker.progress.reach(awaited.epoch)

    def stream_resumed(self) -> None:
        """Handle the resumption of the session on another connection."""
        for handle in self._rooms.values():
            handle.worker.stream_resumed()

    def came_online(self, account: str) -> None:
        """Handle the presence of an account: it may have missed its invitations.

        :param account: bare JID
        """
        if account in self._rooms:
            return  # an occupant of a room
        for handle in self._rooms.values():
            handle.worker.invitations.came_online(account)

    def account_changed(self, account: str) -> None:
        """Ask again about an account: the Authentication Service's answers may have changed."""
        for handle in self._rooms.values():
            if handle.live and handle.is_member and handle.group.roster.has(account):
                handle.worker.parts.spawn(
                    handle.worker.checks.look_at_account(account), "asking about an account again"
                )

    def close(self) -> None:
        """Stop reading all rooms."""
        for room in self._rooms.values():
            room.worker.cancel()
            room.references.close()
        self._rooms.clear()

    async def forget(self, handle: EncryptedRoom) -> None:
        """Stop reading a room."""
        async with self._one_at_a_time(handle.jid):
            await self._end(handle, lambda: None)

    async def abandon(self, handle: EncryptedRoom) -> None:
        """Leave a room for good, without a word to the group: delete its keys, or wait no longer for a way into it.

        :raises UsageError: the room has another object by now, and what this one remembers of the group is old
        :raises StoreError: the wish could not be stored
        """
        async with self._one_at_a_time(handle.jid):
            self._check_present(handle)
            await self._end(handle, lambda: _leave_for_good(handle, handle.worker.give_up))

    async def _end(self, handle: EncryptedRoom, finish: Callable[[], None]) -> None:
        """Stop reading a room, in its turn; then `finish`, also if the caller is cancelled before.

        The room stays in use until nothing of its object can read or write any more.  Otherwise an invitation that
        arrives just then would make a second one, with the same keys (RFC 9420 9.2).
        """
        try:
            await handle.worker.stop()
        except asyncio.CancelledError:
            handle.worker.cancel()
            raise
        finally:
            if self._rooms.get(handle.jid) is handle:
                finish()
                del self._rooms[handle.jid]
            handle.references.close()

    def _check_present(self, handle: EncryptedRoom) -> None:
        if self._rooms.get(handle.jid) is not handle:
            raise UsageError(f"this object of {handle.jid} is not in use any more; see MLS.rooms")

    async def discard(self, handle: EncryptedRoom, alternate: str | None = None, reason: str | None = None) -> None:
        """Destroy a room, and delete its group's keys; see :meth:`EncryptedRoom.destroy`."""
        if alternate is not None:
            alternate = room_address(alternate)
        if reason is not None and not is_xml_text(reason):
            raise UsageError("the reason has characters that XML cannot hold, such as control characters")
        self._check_present(handle)
        await handle.muc.destroy(alternate, reason)
        async with self._one_at_a_time(handle.jid):
            if self._rooms.get(handle.jid) is handle:  # otherwise another group has been begun there meanwhile
                await self._end(handle, lambda: _leave_for_good(handle, handle.group.lifecycle.give_up))

    async def give_up(self, reason: DeviceRetired) -> None:
        """Leave all rooms for good, and delete their groups' keys."""
        for room in RoomGroup.known(self._context.device):
            try:
                handle = self._handle(room)
            except RoomLost:
                RoomGroup.delete(self._context.device, room)
                continue
            del self._rooms[room]
            await handle.worker.retire(reason)
            handle.references.close()

    # --- beginning a group ---------------------------------------------------------------------

    async def create(
        self, room: str, people: Iterable[str], name: str | None, policy: RoomPolicy | None, suite: int | None
    ) -> EncryptedRoom:
        """See :meth:`MLS.create`."""
        invited = list(dict.fromkeys(people))
        room_address(room)
        if name is not None and not is_xml_text(name):
            raise UsageError("a room's name has characters that XML cannot hold, such as control characters")
        if invited and suite is None:
            negotiated = await self.negotiate(invited, policy)
            if negotiated.downgraded:
                devices = [suspicion.device for suspicion in negotiated.downgraded]
                raise DowngradeSuspected(negotiated.claimed, negotiated.suite, devices)
            suite = negotiated.suite
        handle = await self._begin_group(room, policy, suite, lambda muc, again: muc.create(name, again=again))
        if invited:
            handle.invited = await handle.add(*invited)
        return handle

    async def negotiate(self, accounts: Iterable[str], policy: RoomPolicy | None) -> Negotiation:
        """See :meth:`MLS.negotiate`."""
        device = self._context.device
        policy = policy or RoomPolicy("any@room.invalid", (device.identity.account,))
        # Without any that the policy allows, the best of ours, which is refused with the reason.
        suites = [each for each in device.suites if policy.allows_suite(each)] or device.suites
        return await negotiate(self._context, accounts, suites, group_extensions(policy))

    async def adopt(self, room: str, policy: RoomPolicy | None, suite: int | None, anew: bool) -> EncryptedRoom:
        """See :meth:`MLS.adopt`."""

        async def enter(muc: Room, _: bool) -> None:
            reasons = await muc.check()
            if reasons:
                raise RoomUnsuitable(str(muc.jid), reasons)
            group_id = None if anew else await group_in(muc.archive)
            if group_id is not None:
                raise GroupExists(str(muc.jid), group_id)

        return await self._begin_group(room, policy, suite, enter)

    async def _begin_group(
        self,
        room: str,
        policy: RoomPolicy | None,
        suite: int | None,
        enter: Callable[[Room, bool], Awaitable[object]],
        begin: Callable[[EncryptedRoom], Awaitable[None]] | None = None,
    ) -> EncryptedRoom:
        """The common part of all ways to begin a group in a room.

        :param enter: makes or checks the room; told whether we were interrupted during this before
        :param begin: makes the group, once we are in the room; if not given, we are alone in it at first
        """
        device, bare = self._context.device, room_address(room)
        known = self._rooms.get(bare)
        ended = known is not None and known.group.is_member and await self._has_ended(known)
        if known is not None and (known.group.is_member or known.partial) and not ended:
            raise UsageError(f"already a member of the group in {bare}")
        suite_is_open = suite is None
        if suite is None:
            allowed = (each for each in device.suites if policy is None or policy.allows_suite(each))
            suite = next(allowed, device.suites[0])
        if policy is not None and not policy.allows_suite(suite):
            raise UsageError(f"the policy demands a post-quantum cipher suite, which {suite_name(suite)} is not")
        own = device.credential(CipherSuite.get(suite))
        if policy is not None and not policy.accepts(own):
            raise UsageError("the policy demands X.509 credentials, and this device has no certificate")
        if known is not None:
            await self.forget(known)  # it waits there for a Welcome
            if ended:  # our user's new group in the room's place is the evidence
                known.group.lifecycle.give_up()
        handle = self._handle(bare)
        try:
            await enter(handle.muc, handle.group.lifecycle.begin_creation())
            last = await handle.muc.archive.last_id()
            handle.group.lifecycle.seek(last)
            if begin is None:
                if handle.group.room_state.has_lost_group:
                    await handle.muc.join(last)  # first: making the new group deletes the keys of the way back
                handle.group.lifecycle.create(
                    suite,
                    policy or RoomPolicy(bare, (self._context.xmpp.boundjid.bare,)),
                    self._context.now,
                    suite_is_open=suite_is_open,
                )
            await handle.worker.start()
            if begin is not None:
                await handle.wait_live()
                await begin(handle)
        except BaseException as error:
            await self.forget(handle)
            if handle.group.is_member:
                handle.group.lifecycle.give_up()
            elif handle.group.room_state.has_lost_group:
                handle.group.lifecycle.end_creation()
                if isinstance(error, Exception):
                    self._spawn(self._take_up(bare), f"entering {bare}")
            elif isinstance(error, UsageError | RoomUnsuitable | NotPermitted | Refused):
                handle.group.lifecycle.end_creation()  # after other errors the room may be there
            if isinstance(error, Refused):
                await self._require_room(bare)
            raise
        await handle.wait_live()
        return handle

    async def _has_ended(self, handle: EncryptedRoom) -> bool:
        """Whether one of our rooms is gone for good, and does not exist again.

        :raises DeliveryError: the service does not say
        """
        if handle.lost is None or not handle.lost.gone:
            return False
        return await handle.muc.check() == ("not-found",)

    async def branch(
        self, source: EncryptedRoom, room: str, accounts: Sequence[str], name: str | None, policy: RoomPolicy | None
    ) -> EncryptedRoom:
        """A room with a group of some members of another room's (RFC 9420 11.3); see :meth:`EncryptedRoom.branch`."""
        bare, own = room_address(room), self._context.device.identity
        policy = policy or RoomPolicy(bare, (own.account,))
        strangers = sorted(account for account in accounts if not source.group.roster.has(account))
        if strangers:
            raise UsageError(f"not in the group in {source.jid}: {', '.join(strangers)}")
        suite = source.group.mls.suite.id
        offers = await read_offers(self._context, accounts, (suite,), group_extensions(policy))
        candidates = Candidates()
        for client in source.group.roster.clients():
            offer = offers.devices.get(client)
            if client.account in accounts and client != own and offer is not None and suite in offer.packages:
                candidates.packages[client] = offer.packages[suite]
        lacking = sorted({*accounts} - {own.account} - {*candidates.accounts})
        if lacking:
            raise SuiteUnsupported(suite, lacking)

        async def begin(handle: EncryptedRoom) -> None:
            await handle.membership.let_into_room(candidates)
            packages = [package.key_package for package in candidates.packages.values()]
            draft = handle.group.continuation.draft_branch(source.group.mls, policy, packages, self._context.now)
            await handle.worker.committer.send_creation(draft)
            await handle.worker.progress.until_created()

        return await self._begin_group(bare, policy, suite, lambda muc, again: muc.create(name, again=again), begin)

    # --- joining -------------------------------------------------------------------------------

    async def join(self, room: str, after: str | None, external: bool, inviter: str) -> EncryptedRoom:
        """See :meth:`MLS.join`.

        :param inviter: bare JID in normal form; empty if invitations of all accounts count
        """
        bare = room_address(room)
        known = self._rooms.get(bare)
        if known is None:
            await self._require_room(bare)
        else:
            known.group.lifecycle.want_in()
        handle = await self.follow(bare, after, Expected(chosen=inviter))
        if external and not (handle.is_member or handle.partial):
            await handle.worker.rejoiner.join_externally()
        elif not handle.is_member:
            handle.worker.rejoiner.by_hand()
        await handle.wait_joined()
        return handle

    async def _require_room(self, room: str) -> None:
        """XEP-0045 6.2: presence is only for rooms; an account would never answer it.

        :raises RoomUnsuitable: its service serves no rooms
        """
        domain = room.partition("@")[2]
        try:
            found = await features(Stream.of(self._context.xmpp), domain)
        except DeliveryError:
            return  # entering the room says why
        if found is not None and MUC not in found:
            raise RoomUnsuitable(room, ("not-a-room",))

    @asynccontextmanager
    async def _one_at_a_time(self, room: str) -> AsyncIterator[None]:
        """Let nobody else enter a room meanwhile.  Nothing is kept for a room that nobody enters."""
        lock, users = self._entering.get(room, (asyncio.Lock(), 0))
        self._entering[room] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            _, users = self._entering[room]
            if users == 1:
                del self._entering[room]
            else:
                self._entering[room] = lock, users - 1

    def needs_no_invitation(self, room: str) -> bool:
        """Whether an invitation to a room changes nothing: we are in its group and read it, or we are making it.

        :param room: bare JID
        """
        handle = self._rooms.get(room)
        if handle is None:
            return False
        return handle.group.state is MembershipState.FOUNDING or (handle.group.follows and handle.worker.running)

    def is_settled(self, room: str) -> bool:
        """As :meth:`needs_no_invitation`, and we have read the room to its end: we have not been removed meanwhile.

        :param room: bare JID
        """
        handle = self._rooms.get(room)
        founding = handle is not None and handle.group.state is MembershipState.FOUNDING
        return self.needs_no_invitation(room) and (founding or (handle is not None and handle.live))

    async def follow_invitation(self, room: str, after: str | None, expected: Expected) -> None:
        """Read a room because of an invitation.

        Inviters may name wrong places.  Therefore a room that we wait in already is first read to the end from our
        place; afterwards we go to the place that this invitation names.  The same holds for a room whose group we are
        in: we may have been removed.

        :param room: bare JID
        :param after: see :meth:`follow`
        :param expected: see :meth:`follow`
        :raises DeliveryError: the room does not let us in, or was not read to the end in :data:`READING_TIMEOUT`
        """
        handle = self._rooms.get(room)
        waits = handle is not None and (handle.worker.running or handle.group.state in _WAITING)
        if handle is not None and waits and not handle.group.follows:
            async with self._one_at_a_time(room):
                present = self._rooms.get(room) is handle  # our user may just have left
                if present:
                    expected.note(handle.group)
                    if not handle.worker.running:
                        await handle.worker.start()
            if present:
                await self._until_live(handle)
                if handle.group.follows or after is None or self._rooms.get(room) is not handle:
                    return
        elif handle is not None and handle.worker.running and handle.group.follows:
            await self._until_live(handle)
            if handle.group.follows or self._rooms.get(room) is not handle:
                return
            expected.note(handle.group)
        await self.follow(room, after, expected)
        await self._limit_waiting()

    async def _limit_waiting(self) -> None:
        """Leave rooms in which we wait for a Welcome in vain, if there are too many.

        Any account can invite us, and a service can have any number of rooms.
        """
        waiting = [
            handle
            for handle in self._rooms.values()
            if handle.group.state is MembershipState.INVITED and not handle.worker.rejoiner.requested
        ]
        if len(waiting) <= min(WAITING_OF_ONE, WAITING):
            return
        inviters = [handle.group.room_state.expected().latest_sender for handle in waiting]
        for position in sorted(displaced(inviters, of_one=WAITING_OF_ONE, in_all=WAITING)):
            handle = waiting[position]
            async with self._one_at_a_time(handle.jid):
                if self._rooms.get(handle.jid) is handle and handle.group.state is MembershipState.INVITED:
                    log.info("%s: no Welcome has come; the room is left, since there are too many of them", handle.jid)
                    await self._end(handle, handle.group.lifecycle.stop_waiting)

    @staticmethod
    async def _until_live(handle: EncryptedRoom) -> None:
        try:
            async with asyncio.timeout(READING_TIMEOUT):
                await handle.wait_live()
        except TimeoutError:
            raise NoAnswer(f"{handle.jid} has not been read to the end yet") from None

    async def follow(self, room: str, after: str | None, expected: Expected | None = None) -> EncryptedRoom:
        """Read a room; if we are not in its group, look for a Welcome.

        :param room: bare JID
        :param after: archive id from which to look for it; the beginning if not given
        :param expected: which Welcome, if somebody has said so
        :raises DeliveryError: the room does not let us in
        :raises StoreError: the store failed
        """
        async with self._one_at_a_time(room):  # the same invitation may arrive twice
            handle = self._handle(room)
            if expected is not None:
                expected.note(handle.group)
            if handle.worker.running:
                if after is not None and not handle.group.follows:
                    await handle.worker.read_from(after)
                return handle
            if not handle.group.follows:
                handle.group.lifecycle.expect_welcome(after, expected.group if expected is not None else b"")
            try:
                await handle.worker.start()
            except DeliveryError:
                if handle.group.state is MembershipState.INVITED:
                    handle.group.lifecycle.stop_waiting()
                    del self._rooms[room]
                raise
            return handle

    async def invited(self, room: str, inviter: str, after: str | None) -> None:
        """Handle an invitation to a room that is read already, if we are not in its group.

        The invitation may show that a Welcome counts which we have ignored
        (:meth:`~slixmpp_mls.client.group.welcome.Welcomes.invited`).  Otherwise it changes nothing.

        :param inviter: bare JID
        :param after: archive id of the stanza before the one with the Welcome
        """
        async with self._one_at_a_time(room):
            handle = self._rooms.get(room)
            if handle is None or not handle.worker.running or handle.group.follows:
                return
            place = handle.group.welcomes.invited(inviter, after)
            if place is not None:
                log.info("%s: an invitation by %s shows that a Welcome counts; it is read again", room, inviter)
                try:
                    await handle.worker.read_from(place)
                except DeliveryError as error:
                    log.info("%s: it cannot be read again: %s", room, error)


def _leave_for_good(handle: EncryptedRoom, give_up: Callable[[], object]) -> None:
    """Delete the group's keys, or wait no longer for a way into it."""
    if handle.group.is_member or handle.group.is_partial:
        give_up()
    else:
        handle.group.lifecycle.want_out()


def room_address(room: str) -> str:
    """The bare JID in an address.

    :raises UsageError: it is not a room's address
    """
    try:
        jid = JID(room) if isinstance(room, str | JID) else JID()
    except (InvalidJID, UnicodeError):
        raise UsageError(f"no address of a room: {room!r:.100}") from None
    if not jid.user or not jid.domain:
        raise UsageError(f"no address of a room, which is room@service: {room!r:.100}")
    return str(jid.bare)
