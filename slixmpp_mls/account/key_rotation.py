"""Replacing the device's signature key in place: same device, same leaves, another key.

=========  ==========================================  =====================================================
step       in the store                                what follows, and is done again after a crash
=========  ==========================================  =====================================================
prepare    the new key, beside the present one         both are listed for the device
switch     the new key is the present one, the old     new KeyPackages replace the old ones; each group gets a
           one's public part is remembered             Commit whose leaf has the new key, signed with the old
                                                       one, the next Commit there if we have to make one anyhow
finish     nothing of the old key                      only the new key is listed
=========  ==========================================  =====================================================

A group whose room can not be reached now is moved when it can; until then the old private key is in that
group's state, and in no other place.  For an hour at least, KeyPackages with the old key are still good, for
Welcomes that are under way.  What joins us with one is moved at once.

Who remembers the old key, and is in a group with us, sees it sign for the new one and goes on believing us
(:mod:`slixmpp_mls.authentication.trust_table`, "Succession").  Who knows us from former groups only takes this for a
changed key, and
denies it until somebody decides: tell people before.  A key that somebody else has got hold of is no case for this:
until the end the old key is believed.  Retire the device instead (:mod:`.devices`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import MLSError
from ..mls.parameters import HOUR

if TYPE_CHECKING:
    from ..plugin import MLS
    from ..rooms.encrypted_room import EncryptedRoom

__all__ = ["KeyRotated", "Rotation"]

log = logging.getLogger(__name__)

OVERLAP = HOUR  # seconds for which KeyPackages with the old key are good
PATIENCE = 30.0  # seconds that a call waits for a room


@dataclass(frozen=True, slots=True)
class KeyRotated:
    """How far a change of our signature key has come.

    :ivar fingerprint: of the new key for the preferred cipher suite
    :ivar moved: rooms (bare JIDs) whose group has it
    :ivar waiting: rooms whose group has the old one, and that are moved when they can be reached
    :ivar finished: whether nothing is left of the old key
    """

    fingerprint: str
    moved: tuple[str, ...]
    waiting: tuple[str, ...]
    finished: bool


class Rotation:
    """The change of keys of the plugin's device, if one is under way: never two at once."""

    def __init__(self, plugin: MLS) -> None:
        self._plugin = plugin
        self._working = asyncio.Lock()

    async def begin(self) -> KeyRotated:
        """See :meth:`MLS.rotate_key`."""
        if self._plugin.device.switched is None:
            self._plugin.device.prepare_keys()
        return await self.go_on()

    async def go_on(self) -> KeyRotated:
        """Do what can be done now; nothing if no change is under way.

        :raises DeliveryError: the account's nodes could not be written
        :raises StoreError: the store failed
        """
        async with self._working:
            plugin, device = self._plugin, self._plugin.device
            if device.next_keys:
                await plugin.devices.enlist()
                device.switch_keys(plugin.now)
                await plugin.devices.enlist()  # with the new key first
            if device.switched is not None:
                await plugin.replenish()
                await self._move()
                if not self._waiting() and not 0 <= plugin.now - device.switched < OVERLAP:
                    device.drop_former_keys()
                    await plugin.devices.enlist()
                    plugin.fire("mls_key_rotated", self._progress())
            return self._progress()

    async def _move(self) -> None:
        async def one(room: EncryptedRoom) -> None:
            try:
                async with asyncio.timeout(PATIENCE):
                    await room.renew_leaf()
            except (MLSError, TimeoutError) as error:
                log.info("%s: the new key has to wait: %s", room.room, error or "no answer")

        rooms = self._plugin.groups.values()
        await asyncio.gather(*(one(room) for room in rooms if room.is_member and room.live))

    def _waiting(self) -> list[str]:
        return [name for name, room in self._plugin.groups.items() if room.session.leaf_outdated]

    def _progress(self) -> KeyRotated:
        waiting = set(self._waiting())
        rooms = {name for name, room in self._plugin.groups.items() if room.is_member}
        return KeyRotated(
            self._plugin.fingerprint,
            tuple(sorted(rooms - waiting)),
            tuple(sorted(waiting)),
            self._plugin.device.switched is None and not self._plugin.device.next_keys,
        )
