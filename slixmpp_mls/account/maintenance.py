"""Scheduled maintenance of our keys, without any code in the application.

==============================  ===========================  ============================
what                            when                         event
==============================  ===========================  ============================
keys of our leaves renewed      by age or use [1]_           ``mls_keys_renewed``
silent members reported         every hour [2]_              ``mls_silent``
silent members removed          every hour [2]_              ``mls_group_changed``
KeyPackages made, replaced,     every five minutes, at each  ``mls_key_packages``
deleted; their nodes mended     start, when one is used
[3]_
old epochs and deleted          every hour                   none
secrets wiped from the disk;
keys of used KeyPackages
rotation of our key [4]_        every hour                   ``mls_key_rotated``
invitations repeated [9]_       every minute, when due       none
lost rooms entered [10]_        every minute, when due       ``mls_entered``
certificates [5]_               every hour                   ``mls_certificate_expires``
members in doubt [6]_           every hour                   ``mls_doubted``
keys of accounts that are in    every hour                   none
no group of ours any more [7]_
our clock compared with the     every hour, in each session  ``mls_clock_wrong``
server's [8]_
==============================  ===========================  ============================

.. [1] each leaf at a time of its own: :mod:`slixmpp_mls.client.storage.leaf_ages`
.. [2] keys older than the setting ``evict_after``, which is off by default; a member with the right to remove does it
.. [3] :mod:`slixmpp_mls.key_packages.publication`
.. [4] :mod:`.key_rotation`
.. [5] :mod:`.certificate_renewal`
.. [6] :mod:`slixmpp_mls.rooms.engine.member_checks`
.. [7] :meth:`slixmpp_mls.authentication.TrustTable.tidy`
.. [8] :mod:`.clock_check`
.. [9] :mod:`slixmpp_mls.rooms.engine.repeated_invitations`
.. [10] :mod:`slixmpp_mls.rooms.lost_rooms`

*Staggered action.*  A thousand members that joined together are not due together.  Among several due members, one
Commit makes the others wait.  No Commit is made within half a minute of another one in the same room.  A lost race is
not repeated at once, and a client that loses several waits longer each time.

*Clocks.*  While the wall clock is not steady (:mod:`slixmpp_mls.runtime.clock`), nothing that depends on dates is done.
``mls_clock_jumped`` reports a jump.  If the clock stays at its new time, we use it.  Private keys of KeyPackages that
have then expired are nevertheless kept for another day, and no member is removed as silent before a day has passed
since the jump.

In the store: space ``device``, key ``clock``: the latest time that we have seen, seconds since the Unix epoch.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass

from ..client import GroupChanged, Member
from ..client.group.committable_proposals import is_permitted
from ..errors import DeliveryError, MLSError, NodeUnusable, UsageError
from ..identity import ClientIdentity
from ..key_packages.publication import Publication
from ..mls.group.proposal_list import SentProposal
from ..mls.parameters import HOUR
from ..mls.structures.framing import MemberSender
from ..mls.structures.proposals import AnyProposal, Remove
from ..mls.tree.tree_math import LeafIndex
from ..rooms.encrypted_room import EncryptedRoom
from ..rooms.registry import Rooms
from ..runtime import Context
from ..runtime.clock import ClockJumped
from .certificate_renewal import CertificateRenewal
from .clock_check import ClockCheck
from .key_rotation import KeyRotation

__all__ = ["KeysRenewed", "Maintenance", "SilentMembers"]

log = logging.getLogger(__name__)

TICK = 60.0  # seconds between checks for due work
NODES = 300.0  # seconds between checks of our nodes of KeyPackages
QUIET = 30.0  # seconds after a Commit in a room during which we add no other one
REPRIEVE = 86_400.0  # seconds after a jump during which no member is removed as silent
ROOM_TIMEOUT = 60.0  # seconds that a room may take
_CLOCK = ("device", b"clock")  # the latest time that we have seen, seconds since the Unix epoch


@dataclass(frozen=True, slots=True)
class KeysRenewed:
    """Our leaf's keys in a group have been renewed automatically.

    :ivar room: bare JID
    :ivar reason: ``age``, ``use`` or ``last-resort`` (we had joined by a KeyPackage that others may have used, too)
    """

    room: str
    reason: str


@dataclass(frozen=True, slots=True)
class SilentMembers:
    """Members that have not renewed their keys for too long.

    :ivar room: bare JID
    :ivar members: their :attr:`~slixmpp_mls.client.Member.renewed` says since when
    :ivar removable: those that we may remove, and do remove
    """

    room: str
    members: tuple[Member, ...]
    removable: tuple[Member, ...]


class Maintenance:
    """Maintains our keys; see the module.

    :ivar clock_check: compares our clock with the server's
    """

    def __init__(
        self,
        context: Context,
        rooms: Rooms,
        rotation: KeyRotation,
        certificates: CertificateRenewal,
        publication: Publication,
    ) -> None:
        self._context = context
        self._clock = context.clock
        self.clock_check = ClockCheck(context)
        self._rooms = rooms
        self._rotation = rotation
        self._certificates = certificates
        self._publication = publication
        self._hour_at = 0.0
        self._nodes_at = 0.0
        self._told_of = ""  # why one of our nodes is unusable
        self._last_commit: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._losses: dict[str, int] = {}
        self._silent: dict[str, frozenset[ClientIdentity]] = {}

    # --- life cycle ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Compare the clock with earlier runs; the store is open.

        :raises StoreError: the store failed
        """
        with self._context.device.store.transaction() as transaction:
            latest = transaction.get(*_CLOCK)
        self._clock.begin(None if latest is None else float(int.from_bytes(latest, "big")))
        if self._clock.steady:
            self._context.device.key_packages.forget_spent(self._context.now)
        else:
            log.warning("the clock is behind what it was in an earlier run")
        self._hour_at = self._clock.monotonic() + HOUR * random.uniform(0.8, 1.0)  # noqa: S311
        self._nodes_at = self._clock.monotonic() + NODES * random.uniform(0.8, 1.0)  # noqa: S311

    async def run(self) -> None:
        """Do due work, every minute, until the task is cancelled."""
        self._context.xmpp.add_event_handler("mls_group_changed", self._changed)
        try:
            while True:
                await asyncio.sleep(TICK * random.uniform(0.8, 1.0))  # noqa: S311
                try:
                    await self.tick()
                except NodeUnusable as error:
                    if str(error) != self._told_of:
                        log.error("%s", error)
                        self._context.fire("mls_failed", error)
                    self._told_of = str(error)
                except MLSError as error:
                    log.info("looking after keys is put off: %s", error)
                except Exception as error:
                    log.exception("looking after keys has failed")
                    self._context.fire("mls_failed", error)
        finally:
            self._context.xmpp.del_event_handler("mls_group_changed", self._changed)

    def _changed(self, event: GroupChanged) -> None:
        self._last_commit[event.room] = self._clock.monotonic()

    # --- due work ------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Do due work.

        :raises DeliveryError: something is put off
        :raises StoreError: the store failed
        """
        self._context.tasks.spawn(self._rooms.lost.try_again(), "entering lost rooms")
        jump = self._clock.look()
        if jump:
            log.warning("the clock has jumped by %.0f seconds", jump)
            self._context.fire("mls_clock_jumped", ClockJumped(jump))
        if not self._clock.steady:
            return
        if self._clock.monotonic() >= self._hour_at:
            self._hour_at = self._clock.monotonic() + HOUR * random.uniform(0.8, 1.0)  # noqa: S311
            await self.hourly()
        if self._clock.monotonic() >= self._nodes_at:
            self._nodes_at = self._clock.monotonic() + NODES * random.uniform(0.8, 1.0)  # noqa: S311
            await self._publication.replenish()
        for room in self._rooms.all.values():
            await self._renew(room)
            await room.worker.invitations.repeat_due()

    async def hourly(self) -> None:
        """Do the hourly work.  One failure does not prevent the rest.

        :raises MLSError: the first failure
        """
        failures = []
        self._note_time()
        for room in self._rooms.all.values():
            room.group.lifecycle.tidy(self._context.now)
        self._context.device.key_packages.forget_spent(self._context.now)
        self._context.trust.table.tidy(self._rooms.accounts)
        self._certificates.look()
        for work in (self._look_at_members, self._rotation.go_on, self._publication.replenish, self.clock_check.look):
            try:
                await work()
            except MLSError as error:
                failures.append(error)
        self._context.device.store.scrub()  # last: this covers everything deleted by now, too
        if failures:
            raise failures[0]

    def _note_time(self) -> None:
        with self._context.device.store.transaction() as transaction:
            transaction.put(*_CLOCK, max(0, self._context.now).to_bytes(8, "big"))

    async def _look_at_members(self) -> None:
        for room in self._rooms.all.values():
            if room.live and room.is_member:
                await room.worker.checks.next_round()
                await self._look_for_silent(room)

    # --- our own leaves ------------------------------------------------------------------------

    async def _renew(self, room: EncryptedRoom) -> None:
        name = room.jid
        if not (room.live and room.is_member) or self._is_busy(name):
            return
        reason = room.group.members.renewal_due(self._context.settings.renewal, self._context.now)
        if reason is None:
            return
        epoch = room.epoch

        def still() -> list[AnyProposal] | None:
            # The first Commit has won: we check again when the room is quiet.
            return [] if room.group.is_member and room.epoch == epoch else None

        try:
            async with asyncio.timeout(ROOM_TIMEOUT):
                changed = await room.worker.committer.commit(still, force=True)
        except (MLSError, TimeoutError) as error:
            log.info("%s: our keys cannot be renewed now: %s", name, error or "no answer")
            changed = None
        if changed is None:
            self._losses[name] = self._losses.get(name, 0) + 1
            wait = random.uniform(0, min(HOUR, TICK * 2 ** self._losses[name]))  # noqa: S311
            self._not_before[name] = self._clock.monotonic() + wait
            return
        self._losses.pop(name, None)
        self._context.fire("mls_keys_renewed", KeysRenewed(name, reason))

    def _is_busy(self, room: str) -> bool:
        """Whether a Commit was made a moment ago, or we have lost races."""
        now = self._clock.monotonic()
        return now - self._last_commit.get(room, -QUIET) < QUIET or now < self._not_before.get(room, 0.0)

    # --- others' leaves ------------------------------------------------------------------------

    async def _look_for_silent(self, room: EncryptedRoom) -> None:
        limit, name = self._limit(room), room.jid
        if not limit:
            return
        silent = [member for member in self._silent_members(room, limit) if member.leaf_index != _own(room)]
        removable = [member for member in silent if self._may_remove(room, member)]
        found = frozenset(member.identity for member in silent)
        if found - self._silent.get(name, frozenset()):
            self._context.fire("mls_silent", SilentMembers(name, tuple(silent), tuple(removable)))
        self._silent[name] = found
        if removable and self._clock.steady_for(REPRIEVE):
            who = {member.identity for member in removable}
            # A temporary failure: they are looked for again in an hour.
            self._context.tasks.spawn(
                self._evict(room, who), f"removing silent members of {name}", passing=(DeliveryError, UsageError)
            )

    def _limit(self, room: EncryptedRoom) -> int:
        """The number of seconds after which a member is silent; 0: never."""
        given = self._context.settings.evict_after
        return room.policy.max_leaf_age if given == "policy" else given

    def _silent_members(self, room: EncryptedRoom, limit: int) -> list[Member]:
        now = self._context.now
        return [member for member in room.members if member.renewed is not None and now - member.renewed > limit]

    @staticmethod
    def _may_remove(room: EncryptedRoom, member: Member) -> bool:
        group = room.group
        wish = SentProposal(Remove(LeafIndex(member.leaf_index)), MemberSender(group.mls.own_index))
        return is_permitted(group.mls, group.room_state.require_member().view, (wish,))

    async def _evict(self, room: EncryptedRoom, who: set[ClientIdentity]) -> None:
        """Remove silent members after a random wait: the first member with the right acts, the rest find no work."""
        await asyncio.sleep(random.uniform(0, QUIET))  # noqa: S311

        def removes() -> list[AnyProposal] | None:
            silent = self._silent_members(room, self._limit(room))  # some may have sent something meanwhile
            return [
                Remove(LeafIndex(member.leaf_index))
                for member in silent
                if member.identity in who and self._may_remove(room, member)
            ] or None

        await room.worker.committer.commit(removes)


def _own(room: EncryptedRoom) -> int:
    return room.group.mls.own_index
