"""Invitations to encrypted rooms: receiving them on each path, and following them.

A member that adds us to a group sends our account a direct invitation (XEP-0249).  An element beside it gives the place
in the room's archive from which to read to find the Welcome.  It reaches us

- *at once*, if our server delivers it to this device;
- *later, from our account's archive* (XEP-0313), if another device of the account was online and received it.  The
  archive is read when a session has begun, from the last recorded invitation on; the first time from the creation of
  our store, as no member could have added us before we had published keys.

The same invitation may arrive on both paths.  It is recorded as read only when the store knows that we follow it, so
that none is lost with the process.  :mod:`.invitation_queue` limits how often others are asked because of invitations;
:mod:`.undecided_invitations` keeps those that the application has not accepted, for a later decision.

In the store: space ``device``, keys ``invitation`` (archive id of the last one that was read) and ``since`` (seconds
since the Unix epoch, 8 octets, until there is such an id).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from slixmpp import ClientXMPP
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher.base import MatcherBase

from ..delivery import Archive, Invitation, Stream, parse_invitation
from ..delivery.archive import stamped_ids
from ..delivery.muc_config import MUC, features
from ..errors import ArchiveGap, DeliveryError, MLSError, PeerError, SeveralInvitations, StoreError
from ..runtime import Context, Tasks
from ..runtime.tasks import UNREACHABLE
from ..stanza import Invitation as InvitationElement
from ..stanza import parse
from ..store import Store
from .invitation_queue import EXPIRY, InvitationQueue, InvitationRecord
from .registry import READING_TIMEOUT, Expected, Rooms
from .undecided_invitations import UndecidedInvitation, UndecidedInvitations

__all__ = ["Invitations", "OtherGroup"]

log = logging.getLogger(__name__)

_HANDLER = "MLS invitations"
_LAST = ("device", b"invitation")  # archive id, in our own account's archive
_SINCE = ("device", b"since")  # seconds since the Unix epoch: no member could have added us before
_TOLD = 64  # invitations into other groups that are not reported again
_EARLY = 16  # invitations that are remembered until the store is open; the others are in the archive
_OLDEST = 2 * EXPIRY  # seconds before which no Welcome is looked for: an invitation waits here for one EXPIRY at most
_CLOCKS = 600  # seconds by which our server's clock may be behind ours


@dataclass(frozen=True, slots=True)
class OtherGroup:
    """An invitation that we would follow names another group in a room than the one that we are in.

    Either its inviter or whoever has let us in (:class:`~slixmpp_mls.client.Joined`) leads people into a group of its
    own.  Nothing is done.  To follow this inviter instead: ``await room.leave()``, then
    ``await mls.join(room, inviter=inviter)``.

    :ivar room: bare JID
    :ivar inviter: bare JID, vouched for by the servers only
    """

    room: str
    inviter: str


class _DirectInvitation(MatcherBase):
    """Messages with a direct invitation (XEP-0249); they have no body, so no event of slixmpp's tells of them."""

    def match(self, xml: Any) -> bool:
        return xml.name == "message" and xml.xml.find("{jabber:x:conference}x") is not None


class Invitations:
    """The invitations to our account; see the module.

    It listens before there is a store, so that no invitation is missed; :meth:`begin` supplies the store and the rooms.

    :param accept: whether to follow an invitation; None: all are followed
    :param ready: waits until the rooms are being read; raises MLSError if that has failed
    """

    def __init__(
        self,
        xmpp: ClientXMPP,
        tasks: Tasks,
        accept: Callable[[Invitation], bool] | None,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._xmpp = xmpp
        self._tasks = tasks
        self._accept = accept
        self._ready = ready
        self._store: Store | None = None
        self._queue: InvitationQueue | None = None
        self._undecided: UndecidedInvitations | None = None
        self._rooms: Rooms | None = None
        self._early: deque[tuple[bool, tuple[str, str, str | None, bytes]]] = deque(maxlen=_EARLY)
        self._told: deque[tuple[str, str, bytes]] = deque(maxlen=_TOLD)
        self._archive_read = False
        self._now: Callable[[], int] = lambda: 0
        xmpp.register_handler(Callback(_HANDLER, _DirectInvitation(""), self._received))
        xmpp.add_filter("out_sync", self._outgoing)

    def close(self) -> None:
        """Stop listening."""
        self._xmpp.remove_handler(_HANDLER)
        self._xmpp.del_filter("out_sync", self._outgoing)
        if self._queue is not None:
            self._queue.close()
        self._store = self._queue = self._undecided = None

    def begin(self, context: Context, rooms: Rooms) -> None:
        """Begin, now that the store is open.

        :raises StoreError: the store failed
        """
        self._store = context.device.store

        async def follow(room: str, inviter: str, after: str | None, group: bytes) -> None:
            place = await self._beginning(room, after)
            await rooms.follow_invitation(room, place, Expected(group, _adder(inviter, after), inviter))

        self._rooms = rooms
        self._queue = InvitationQueue(
            self._store,
            self._tasks,
            is_room=self._is_room,
            follow=follow,
            is_settled=rooms.is_settled,
            settled_otherwise=self._tell_other_group,
            is_online=lambda: Stream.of(self._xmpp).online,
            now=lambda: context.now,
            store_failed=lambda error: context.fire("mls_store_failed", error),
        )
        self._undecided = UndecidedInvitations(self._store, lambda: context.now)
        while self._early:
            accepted, invitation = self._early.popleft()
            (self._queue if accepted else self._undecided).add(*invitation)
        self._now = lambda: context.now
        self._tasks.spawn(self._start_queue(), "following invitations", passing=UNREACHABLE)
        with self._store.transaction() as transaction:
            if transaction.get(*_LAST) is None and transaction.get(*_SINCE) is None:
                transaction.put(*_SINCE, context.now.to_bytes(8, "big"))

    def look_again(self) -> None:
        """Handle a new session: the archive holds the invitations that arrived meanwhile."""
        self._archive_read = False
        self.stream_resumed()

    def stream_resumed(self) -> None:
        """Handle the resumption of the session on another connection: interrupted attempts are made again."""
        if self._queue is not None:
            self._queue.went_online()

    def session_under_way(self) -> None:
        """Handle a start within a session: the archive is read at once if our presence has been announced."""
        if self._xmpp.sentpresence and not self._archive_read:
            self._archive_read = True
            self._tasks.spawn(self._read_archive(), "reading invitations", passing=UNREACHABLE)

    @property
    def undecided(self) -> list[UndecidedInvitation]:
        """See :attr:`MLS.invitations`."""
        return [] if self._undecided is None else self._undecided.all

    async def accept(self, *, room: str | None = None, inviter: str | None = None) -> None:
        """Accept the undecided invitations to a room, or those of an inviter: we have read their rooms when it returns.

        A room that does not let us in, or does not answer, spoils nothing: the invitation to it is kept.

        :param room: bare JID
        :param inviter: bare JID; with a room, no other invitation to it counts any more
        :raises SeveralInvitations: several accounts invite to the room, and nobody says whose invitation counts
        :raises StoreError: the store failed
        """
        if self._undecided is None:
            return
        if room is not None and inviter is None and not (self._rooms and self._rooms.needs_no_invitation(room)):
            inviters = dict.fromkeys(each.inviter for each in self._undecided.all if each.room == room)
            if len(inviters) > 1:
                raise SeveralInvitations(room, tuple(inviters))
        found = self._undecided.take(room=room, inviter=inviter)
        chosen = inviter if room is not None else None
        await asyncio.gather(*(self._accept_one(address, record, chosen) for address, record in found))

    async def _accept_one(self, room: str, record: InvitationRecord, chosen: str | None) -> None:
        rooms, undecided, after = self._rooms, self._undecided, record.after.decode() or None
        if rooms is None or undecided is None or rooms.needs_no_invitation(room):
            return
        try:
            async with asyncio.timeout(READING_TIMEOUT):
                if await self._is_room(room):  # XEP-0045 6.2: presence is only for rooms
                    inviter = record.inviter.decode()
                    place, adder = await self._beginning(room, after), _adder(inviter, after)
                    await rooms.follow_invitation(room, place, Expected(record.group, adder, inviter, chosen))
                    handle = rooms.get(room)
                    if handle is not None:
                        await handle.wait_live()
        except (DeliveryError, TimeoutError) as error:
            log.info("an invitation to %s cannot be followed yet: %s", room, error)
            undecided.add(room, record.inviter.decode(), after, record.group)

    async def _start_queue(self) -> None:
        try:
            await self._ready()
        except MLSError:
            return  # already reported
        if self._queue is not None:
            self._queue.start()

    # --- receiving -----------------------------------------------------------------------------

    def _received(self, stanza: Any) -> None:
        ids = stamped_ids(stanza.xml, self._xmpp.boundjid.bare)
        try:
            self._invited(stanza.xml)
            if len(ids) == 1 and self._store is not None:
                self._note(self._store, ids[0])
        except StoreError as error:
            self._xmpp.event("mls_store_failed", error)

    def _outgoing(self, stanza: Any) -> Any:
        """A filter that changes nothing: it notices that we have announced our presence to the server.

        The archive may be queried only afterwards: Prosody otherwise holds back the messages of the time offline.
        """
        announced = stanza.name == "presence" and {"to", "type"}.isdisjoint(stanza.xml.keys())
        if announced and not self._archive_read:
            self._archive_read = True
            self._tasks.spawn(self._read_archive(), "reading invitations", passing=UNREACHABLE)
        return stanza

    async def _read_archive(self) -> None:
        try:
            await self._ready()
        except MLSError:
            return  # already reported
        store, account = self._store, self._xmpp.boundjid.bare
        if self._queue is not None:
            self._queue.start()
        if store is None:
            return  # closed meanwhile
        archive = Archive(self._xmpp, account)
        with store.transaction() as transaction:
            known, since = transaction.get(*_LAST), transaction.get(*_SINCE)
        start = None
        if not known:  # expired invitations are not followed, so they need not be read
            begun = 0 if since is None else int.from_bytes(since, "big")
            start = max(begun, self._now() - EXPIRY) - _CLOCKS
        try:
            last = await archive.last_id()
            if last is not None:
                async for page in archive.pages((known or b"").decode() or None, start=start):
                    for entry in page.entries:
                        if entry.xml.get("to", "").partition("/")[0] == account:
                            self._invited(entry.xml)
        except ArchiveGap:
            log.info("the account's archive does not go back to the last invitation that was read")
        except DeliveryError as error:  # not every account has an archive
            log.info("the account's archive cannot be read: %s", error)
            return
        self._note(store, last or "")

    @staticmethod
    def _note(store: Store, archive_id: str) -> None:
        with store.transaction() as transaction:
            transaction.put(*_LAST, archive_id.encode())
            transaction.delete(*_SINCE)

    # --- following -----------------------------------------------------------------------------

    def _invited(self, xml: Any) -> None:
        # An exception leaving a handler makes slixmpp send an error stanza to the sender.
        try:
            invitation = parse_invitation(xml)
            if invitation is None:
                return
            ours = [element for element in invitation.elements if element.tag.endswith("}invitation")]
            if not ours:
                return  # to a room that is not encrypted
            element = parse(ours[0])
            if not isinstance(element, InvitationElement):
                return
        except PeerError as error:
            log.info("an invitation that cannot be read: %s", error)
            return
        self._xmpp.event("mls_invited", invitation)
        room, inviter = str(invitation.room), str(invitation.inviter)
        asked, accepted = (room, inviter, element.after, element.group), self._is_accepted(invitation)
        if self._queue is None or self._undecided is None:
            self._early.append((accepted, asked))
        elif accepted:
            self._queue.add(*asked)  # before it is recorded as read
            self._tell_room(room, inviter, element.after, element.group)
        elif self._rooms is None or not self._rooms.needs_no_invitation(room):
            self._undecided.add(*asked)

    def _tell_other_group(self, room: str, inviter: str, group: bytes) -> None:
        """Fire ``mls_other_group``, once for each inviter, group and run."""
        handle, told = None if self._rooms is None else self._rooms.get(room), (room, inviter, group)
        if handle is None or not group or told in self._told or not handle.group.room_state.is_in_another_than(group):
            return
        self._told.append(told)
        self._xmpp.event("mls_other_group", OtherGroup(room, inviter))

    def _tell_room(self, room: str, inviter: str, after: str | None, group: bytes) -> None:
        handle = None if self._rooms is None else self._rooms.get(room)
        if self._rooms is not None and handle is not None and handle.worker.running and not handle.group.follows:
            Expected(group, _adder(inviter, after), inviter).note(handle.group)
            work = self._rooms.invited(room, inviter, after)
            self._tasks.spawn(work, f"following an invitation to {room}", passing=UNREACHABLE)

    def _is_accepted(self, invitation: Invitation) -> bool:
        try:
            return self._accept is None or bool(self._accept(invitation))
        except Exception:
            log.exception("accept_invitation has failed; the invitation is not followed")
            return False

    async def _is_room(self, address: str) -> bool:
        """XEP-0045 6.4: whether an address identifies itself as a room; users' addresses get no presence from us."""
        found = await features(Stream.of(self._xmpp), address)
        return found is not None and MUC in found

    async def _beginning(self, room: str, after: str | None) -> str | None:
        """The archive id from which to look for the Welcome.

        The place that the inviter names, but none that is older than an invitation can be: an inviter could make us
        read years of a room.  If the archive has no such place, its end.
        """
        archive = Archive(self._xmpp, room)
        oldest = self._now() - _OLDEST
        if after is None:
            return await archive.last_id(end=oldest)
        try:
            async with aclosing(archive.pages(after)) as pages:
                async for page in pages:
                    stamp = page.entries[0].stamp if page.entries else None
                    if stamp is not None and stamp.timestamp() < oldest:
                        log.info("an invitation to %s names a place that is too old", room)
                        return await archive.last_id(end=oldest)
                    break
        except ArchiveGap:
            log.info("an invitation to %s names a place that is not in its archive", room)
            return await archive.last_id()
        return after


def _adder(inviter: str, after: str | None) -> str:
    """The account that must have signed the Welcome: whoever names its place has added us, others need not have."""
    return "" if after is None else inviter
