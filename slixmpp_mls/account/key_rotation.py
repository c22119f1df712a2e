"""Replacement of the device's signature key in place: same device, same leaves, another key.

=========  ==========================================  =====================================================
step       in the store                                what follows, and is done again after a crash
=========  ==========================================  =====================================================
prepare    the new key, beside the present one         both are listed for the device
switch     the new key is the present one, the old     new KeyPackages replace the old ones; each group gets a
           one's public part is remembered             Commit whose leaf has the new key, signed with the old
                                                       one, the next Commit there if we have to make one anyhow
finish     nothing of the old key                      only the new key is listed
=========  ==========================================  =====================================================

A client that has lost a group proves its return by its present signature key.  The switch therefore waits until the
client is back in all groups that it has lost, a week at most: others decide whether they let it in.  Our user can leave
such a room before.  After the switch, an administrator's consent brings the client back.  A request of a client that
was never in is made anew with the new key.

A group whose room is unreachable moves later.  Until then the old private key stays in that group's state, and in no
other place.  KeyPackages with the old key stay valid for another hour at least, for Welcomes in transit.  A group that
we join with one of them moves at once.

A member that remembers the old key, and shares a group with us, sees the old key sign for the new one and keeps
trusting us (:mod:`slixmpp_mls.authentication.trust_table`, "Succession").  A member that knows us from former groups
only sees a changed key, and denies it until a decision is made: tell people before.  Do not rotate a stolen key, which
stays trusted until the end.  Retire the device instead (:mod:`.devices`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from ..errors import MLSError
from ..key_packages.publication import Publication
from ..mls.parameters import DAY, HOUR
from ..rooms.encrypted_room import EncryptedRoom
from ..rooms.registry import Rooms
from ..runtime import Context
from .own_entry import OwnEntry

__all__ = ["KeyRotated", "KeyRotation"]

log = logging.getLogger(__name__)

OVERLAP = HOUR  # seconds for which KeyPackages with the old key stay valid
PATIENCE = 7 * DAY  # seconds for which the switch waits for groups that are lost
ROOM_TIMEOUT = 30.0  # seconds that a call waits for a room


@dataclass(frozen=True, slots=True)
class KeyRotated:
    """The progress of a change of our signature key.

    :ivar fingerprint: of the new key for the preferred cipher suite
    :ivar moved: rooms (bare JIDs) whose group has the new key
    :ivar waiting: rooms whose group has the old key, and that move when they are reachable, and rooms to whose group we
        have to come back with the old key first; after a week without, or when we :meth:`~.EncryptedRoom.leave` them,
        these are waited for no more
    :ivar finished: whether nothing is left of the old key
    """

    fingerprint: str
    moved: tuple[str, ...]
    waiting: tuple[str, ...]
    finished: bool


class KeyRotation:
    """The change of this device's signature key; at most one is in progress."""

    def __init__(self, context: Context, rooms: Rooms, own_entry: OwnEntry, publication: Publication) -> None:
        self._context = context
        self._rooms = rooms
        self._own_entry = own_entry
        self._publication = publication
        self._working = asyncio.Lock()

    async def begin(self) -> KeyRotated:
        """See :meth:`MLS.rotate_key`."""
        if self._context.device.switched is None:
            self._context.device.prepare_keys(self._context.now)
        return await self.go_on()

    async def go_on(self) -> KeyRotated:
        """Do the steps that are possible now; do nothing if no change is in progress.

        :raises DeliveryError: the account's nodes could not be written
        :raises StoreError: the store failed
        """
        async with self._working:
            context, device = self._context, self._context.device
            if device.next_keys:
                await self._own_entry.publish()
                if coming := [room.jid for room in self._there() if self._is_awaited(room)]:
                    log.info("the signature key stays until we are back in %s", ", ".join(coming))
                    return self._progress()
                device.switch_keys(context.now)
                await self._own_entry.publish()  # the new key is listed first
            if device.switched is not None:
                await self._publication.replenish()
                await self._move()
                if not self._waiting() and not 0 <= context.now - device.switched < OVERLAP:
                    device.drop_former_keys()
                    await self._own_entry.publish()
                    context.fire("mls_key_rotated", self._progress())
            return self._progress()

    async def _move(self) -> None:
        async def one(room: EncryptedRoom) -> None:
            try:
                async with asyncio.timeout(ROOM_TIMEOUT):
                    await room.renew_leaf()
            except (MLSError, TimeoutError) as error:
                log.info("%s: the new key has to wait: %s", room.jid, error or "no answer")

        rooms = [room for room in self._rooms.all.values() if room.live and _moves(room)]
        await asyncio.gather(*map(one, rooms))

    def _waiting(self) -> list[str]:
        """The rooms that are to get our new key, or may still need the old one."""
        return [room.jid for room in self._there() if self._is_awaited(room) or self._may_move(room)]

    def _there(self) -> list[EncryptedRoom]:
        """All rooms but those that do not exist any more: for these we would wait for ever."""
        return [room for room in self._rooms.all.values() if room.lost is None or not room.lost.gone]

    def _is_awaited(self, room: EncryptedRoom) -> bool:
        """Whether the switch waits until we are back in a group."""
        device = self._context.device
        return bool(device.next_keys) and room.group.join_requests.rest_on_key and self._is_patient(device.prepared)

    def _may_move(self, room: EncryptedRoom) -> bool:
        """Whether our leaf is outdated, and may still get the new key: by a Commit of ours, or after our return."""
        # Without the ratchet tree we cannot commit, and anybody could have added us to a group whose tree never comes.
        certain = _moves(room) and not room.group.is_partial
        return certain or (room.group.sending.leaf_outdated and self._is_patient(self._context.device.switched))

    def _is_patient(self, since: int | None) -> bool:
        return since is not None and abs(self._context.now - since) < PATIENCE  # the clock may be set back

    def _progress(self) -> KeyRotated:
        waiting = set(self._waiting())
        rooms = {name for name, room in self._rooms.all.items() if room.is_member}
        return KeyRotated(
            self._context.fingerprint,
            tuple(sorted(rooms - waiting)),
            tuple(sorted(waiting)),
            self._context.device.switched is None and not self._context.device.next_keys,
        )


def _moves(room: EncryptedRoom) -> bool:
    """Whether our leaf in the room's group gets the new key by a Commit of ours, and not after our return."""
    return room.group.sending.leaf_outdated and not room.group.join_requests.rest_on_key
