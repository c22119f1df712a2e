"""What is done by itself and in time, so that keys do not grow old: without a line of the application's code.

=====================  ==========================================  ============================================
what                   when                                        event
=====================  ==========================================  ============================================
keys of our leaves     by age or use, each leaf at a time of its   ``mls_keys_renewed`` (and, as for any Commit,
renewed                own: :mod:`slixmpp_mls.client.storage.leaf_ages`               ``mls_group_changed``)
silent members seen    every hour: keys older than `evict_after`   ``mls_silent``
silent members         after that, by who has the right to remove  ``mls_group_changed``
removed                them; off by default
KeyPackages made,      every hour, at each start, and when one     ``mls_key_packages``
replaced, deleted      has been used: :mod:`slixmpp_mls.client.device.device`
old epochs, deleted    every hour                                  none
secrets on the disk
changes of our key     every hour: :mod:`.key_rotation`                ``mls_key_rotated``
certificates           every hour: :mod:`.certificate_renewal`                 ``mls_certificate_expires``
doubtful members       every hour: :mod:`slixmpp_mls.rooms.engine.member_checks`               ``mls_doubted``
=====================  ==========================================  ============================================

*Not all at once.*  A thousand members that joined together are not due together.  Where several are all the same, one
Commit makes the others wait: none is made within half a minute of another one in the same room, a lost race
is not run again at once, and who loses several waits longer each time.

*Clocks.*  While the wall clock is not steady (:mod:`slixmpp_mls.runtime.clock`), nothing that rests on dates is done.
``mls_clock_jumped`` tells of a jump.  If the clock stays where it is, we go by it, but private keys of KeyPackages that
it calls expired are kept for another day, and nobody is removed as silent before a day has passed since the jump.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..client import GroupChanged, Member
from ..client.group.committable_proposals import is_permitted
from ..errors import MLSError
from ..identity import ClientIdentity
from ..mls.group.proposal_list import SentProposal
from ..mls.parameters import HOUR
from ..mls.structures.framing import MemberSender
from ..mls.structures.proposals import AnyProposal, Remove
from ..mls.tree.tree_math import LeafIndex
from ..runtime.clock import ClockJumped

if TYPE_CHECKING:
    from ..plugin import MLS
    from ..rooms.encrypted_room import EncryptedRoom

__all__ = ["Hygiene", "KeysRenewed", "SilentMembers"]

log = logging.getLogger(__name__)

TICK = 60.0  # seconds between looks at what is due
QUIET = 30.0  # seconds after a Commit in a room in which we do not add another one
REPRIEVE = 86_400.0  # seconds after a jump in which nobody is removed as silent
PATIENCE = 60.0  # seconds that a room may take
_CLOCK = ("device", b"clock")  # the latest time that we have seen, seconds since the Unix epoch


@dataclass(frozen=True, slots=True)
class KeysRenewed:
    """Our leaf's keys in a group have been renewed by themselves.

    :ivar room: bare JID
    :ivar reason: ``age``, ``use`` or ``last-resort`` (we had come by a KeyPackage that others may have used, too)
    """

    room: str
    reason: str


@dataclass(frozen=True, slots=True)
class SilentMembers:
    """Members that have not renewed their keys for too long.

    :ivar room: bare JID
    :ivar members: their :attr:`~slixmpp_mls.client.Member.renewed` says since when
    :ivar removable: those whom we may remove, and do
    """

    room: str
    members: tuple[Member, ...]
    removable: tuple[Member, ...]


class Hygiene:
    """Looks after the plugin's keys; see the module."""

    def __init__(self, plugin: MLS) -> None:
        self._plugin = plugin
        self.clock = plugin.clock
        self._hour_at = 0.0
        self._last_commit: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._losses: dict[str, int] = {}
        self._silent: dict[str, frozenset[ClientIdentity]] = {}

    # --- life cycle ----------------------------------------------------------------------------

    def begin(self) -> None:
        """The store is open: compare the clock with earlier runs.

        :raises StoreError: the store failed
        """
        with self._plugin.device.store.transaction() as transaction:
            latest = transaction.get(*_CLOCK)
        self.clock.begin(None if latest is None else float(int.from_bytes(latest, "big")))
        if not self.clock.steady:
            log.warning("the clock is behind what it was in an earlier run")
        self._hour_at = self.clock.monotonic() + HOUR * random.uniform(0.8, 1.0)  # noqa: S311

    async def run(self) -> None:
        """For ever."""
        self._plugin.xmpp.add_event_handler("mls_group_changed", self._changed)
        try:
            while True:
                await asyncio.sleep(TICK * random.uniform(0.8, 1.0))  # noqa: S311
                try:
                    await self.tick()
                except MLSError as error:
                    log.info("looking after keys is put off: %s", error)
                except Exception:
                    log.exception("looking after keys has failed")
        finally:
            self._plugin.xmpp.del_event_handler("mls_group_changed", self._changed)

    def _changed(self, event: GroupChanged) -> None:
        self._last_commit[event.room] = self.clock.monotonic()

    # --- what is due ---------------------------------------------------------------------------

    async def tick(self) -> None:
        """Do what is due.

        :raises DeliveryError: something is put off
        :raises StoreError: the store failed
        """
        jump = self.clock.look()
        if jump:
            log.warning("the clock has jumped by %.0f seconds", jump)
            self._plugin.fire("mls_clock_jumped", ClockJumped(jump))
        if not self.clock.steady:
            return
        if self.clock.monotonic() >= self._hour_at:
            self._hour_at = self.clock.monotonic() + HOUR * random.uniform(0.8, 1.0)  # noqa: S311
            await self.hourly()
        for room in list(self._plugin.groups.values()):
            await self._renew(room)

    async def hourly(self) -> None:
        """What is looked at every hour.  One failure does not keep the rest from being done.

        :raises MLSError: the first failure
        """
        plugin, failures = self._plugin, []
        self._note_time()
        for room in list(plugin.groups.values()):
            room.session.tidy(plugin.now)
        plugin.renewal.look()
        for work in (self._look_at_members, plugin.rotation.go_on, plugin.replenish):
            try:
                await work()
            except MLSError as error:
                failures.append(error)
        plugin.device.store.scrub()  # last: of what has been deleted by now, too
        if failures:
            raise failures[0]

    def _note_time(self) -> None:
        with self._plugin.device.store.transaction() as transaction:
            transaction.put(*_CLOCK, max(0, self._plugin.now).to_bytes(8, "big"))

    async def _look_at_members(self) -> None:
        for room in list(self._plugin.groups.values()):
            if room.live and room.is_member:
                await room.worker.vigilance.next_round()
                await self._look_for_silent(room)

    # --- our own leaves ------------------------------------------------------------------------

    async def _renew(self, room: EncryptedRoom) -> None:
        name = room.room
        if not (room.live and room.is_member) or self._is_busy(name):
            return
        reason = room.session.renewal_due(self._plugin.settings.renewal, self._plugin.now)
        if reason is None:
            return
        epoch = room.epoch

        def still() -> list[AnyProposal] | None:
            # Who was first has won: we look again when it is quiet.
            return [] if room.session.is_member and room.epoch == epoch else None

        try:
            async with asyncio.timeout(PATIENCE):
                changed = await room.worker.commit(still, force=True)
        except (MLSError, TimeoutError) as error:
            log.info("%s: our keys can not be renewed now: %s", name, error or "no answer")
            changed = None
        if changed is None:
            self._losses[name] = self._losses.get(name, 0) + 1
            wait = random.uniform(0, min(HOUR, TICK * 2 ** self._losses[name]))  # noqa: S311
            self._not_before[name] = self.clock.monotonic() + wait
            return
        self._losses.pop(name, None)
        self._plugin.fire("mls_keys_renewed", KeysRenewed(name, reason))

    def _is_busy(self, room: str) -> bool:
        """Whether somebody has committed a moment ago, or we have lost races."""
        now = self.clock.monotonic()
        return now - self._last_commit.get(room, -QUIET) < QUIET or now < self._not_before.get(room, 0.0)

    # --- others' leaves ------------------------------------------------------------------------

    async def _look_for_silent(self, room: EncryptedRoom) -> None:
        limit = self._limit(room)
        if not limit:
            return
        silent = [member for member in self._silent_members(room, limit) if member.leaf_index != _own(room)]
        removable = [member for member in silent if self._may_remove(room, member)]
        found = frozenset(member.identity for member in silent)
        if found - self._silent.get(room.room, frozenset()):
            self._plugin.fire("mls_silent", SilentMembers(room.room, tuple(silent), tuple(removable)))
        self._silent[room.room] = found
        if removable and self.clock.steady_for(REPRIEVE):
            room.worker.spawn(self._evict(room, {member.identity for member in removable}), "removing the silent")

    def _limit(self, room: EncryptedRoom) -> int:
        """After how many seconds a member is silent; 0: never."""
        given = self._plugin.settings.evict_after
        return room.policy.max_leaf_age if given == "policy" else given

    def _silent_members(self, room: EncryptedRoom, limit: int) -> list[Member]:
        now = self._plugin.now
        return [member for member in room.members if member.renewed is not None and now - member.renewed > limit]

    @staticmethod
    def _may_remove(room: EncryptedRoom, member: Member) -> bool:
        session = room.session
        wish = SentProposal(Remove(LeafIndex(member.leaf_index)), MemberSender(session.group.own_index))
        return is_permitted(session.group, session.policy, session.roster, (wish,))

    async def _evict(self, room: EncryptedRoom, who: set[ClientIdentity]) -> None:
        """Others with the same right see the same: one comes first, and the rest find nothing left to do."""
        await asyncio.sleep(random.uniform(0, QUIET))  # noqa: S311

        def removes() -> list[AnyProposal] | None:
            silent = self._silent_members(room, self._limit(room))  # some may have spoken meanwhile
            return [
                Remove(LeafIndex(member.leaf_index))
                for member in silent
                if member.identity in who and self._may_remove(room, member)
            ] or None

        await room.worker.commit(removes)


def _own(room: EncryptedRoom) -> int:
    return room.session.group.own_index
