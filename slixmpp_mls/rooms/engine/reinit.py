"""A new cipher suite for a room: its group ends, and one with the same members follows it (RFC 9420 11.2).

::

    reinitialize ── all have a KeyPackage of the suite? ── Commit of a ReInit ──► the group is closed
    begin        ── by the committer of the ReInit at once, else by others later ──► creation ──► the group goes on

The new group is in the same room.  Its creation is one stanza (:mod:`slixmpp_mls.client.group.continuation`).  The
first creation in the room's order that lets the members in counts, so several creations do no harm.  The committer of
the ReInit makes it at once.  If that client disappears, each of the others waits for a random time, and the first of
them makes it.  Every member can, since each has a key of the old group that proves its membership.

No message can be sent in between.  Therefore the ReInit is not committed before every member has a KeyPackage and a
creation for that many members is known to fit into a stanza.  A KeyPackage may nevertheless be gone when the new group
is made.  This is reported (:class:`ContinuationDelayed`), and the creation is tried again until the KeyPackage is back.

If somebody has made the new group with a KeyPackage of ours that was used before, we make none for
:data:`LEFT_OUT_PATIENCE` seconds, and ask to be added to that one (:mod:`slixmpp_mls.client.group.continuation`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ...client import GroupChanged
from ...errors import DeliveryError, MLSError, NotPermitted, SuiteUnsupported, UsageError, suite_name
from ...identity import ClientIdentity
from ...key_packages.cipher_suite_choice import negotiate, read_offers
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.registry import ProtocolVersion
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.leaf_node import Capabilities
from ...mls.structures.proposals import AnyProposal, ReInit
from ...mls.tree.tree_math import LeafIndex
from .committer import Committer
from .parts import RoomParts

__all__ = ["LEFT_OUT_PATIENCE", "OTHERS_CREATE_AFTER", "BetterSuite", "ContinuationDelayed", "Reinitializer"]

log = logging.getLogger(__name__)

#: Seconds after which others make the new group, at the earliest; each adds as much again at random, and some more in
#: large groups.
OTHERS_CREATE_AFTER = 20.0
#: Seconds for which a client that is left out asks to be added to the group that others may have followed.
LEFT_OUT_PATIENCE = 600.0
_LONGEST_PAUSE = 600.0  # seconds between two attempts


@dataclass(frozen=True, slots=True)
class ContinuationDelayed:
    """The group that follows a closed one cannot be made yet; it is tried again.

    :ivar reason: human-readable
    :ivar lacking: devices (full identities) without a usable KeyPackage of the new cipher suite
    """

    room: str
    reason: str
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BetterSuite:
    """All members support a better cipher suite than the group has: :meth:`EncryptedRoom.reinit` would move it there.

    :ivar suite: number of the best one of ours that all leaves list
    :ivar present: number of the group's
    """

    room: str
    suite: int
    present: int


class Reinitializer:
    """Ends one room's group, and makes the group that follows.

    :param read_again: reads the room from our place in the store, and begins to make the group that a ReInit demands
    """

    def __init__(self, parts: RoomParts, committer: Committer, read_again: Callable[[], Awaitable[None]]) -> None:
        self._read_again = read_again
        self._parts = parts
        self._context = parts.context
        self._group = parts.group
        self._progress = parts.progress
        self._committer = committer
        self._told: tuple[bytes, int] | None = None
        self._lacking = 0  # index of a leaf that lacked a better suite when we last looked

    def look_for_better_suite(self, changed: Sequence[GroupChanged] = ()) -> None:
        """Fire ``mls_better_suite`` if all leaves list a better suite than the group's, each time that this becomes so.

        A leaf's capabilities are signed, and list its client's suites (RFC 9420 7.2).  The leaf that lacked one is
        looked at first: while it is there, this takes no time.  Once all list one, only new members can change that.

        :param changed: what has happened since we last looked; nothing if that is not known
        """
        group = self._group
        if changed and self._told is not None and not any(event.added for event in changed):
            return
        if not group.is_member or group.mls.closed is not None or len(group.roster) < 2:
            return
        suite = next((each for each in self._better() if self._all_list(each)), None)
        found = None if suite is None else (group.mls.group_id, suite)
        if suite is not None and found != self._told:
            self._context.fire("mls_better_suite", BetterSuite(group.room, suite, int(group.mls.suite.id)))
        self._told = found

    def _all_list(self, suite: int) -> bool:
        tree = self._group.mls.tree
        first = tree.leaf(LeafIndex(self._lacking)) if self._lacking < tree.leaf_count else None
        if first is not None and suite not in first.capabilities.cipher_suites:
            return False
        for index, outline in tree.outlines():
            if suite not in Capabilities.decode(outline.capabilities).cipher_suites:
                self._lacking = int(index)
                return False
        return True

    def _better(self) -> Sequence[int]:
        """Our suites that are better than the group's, the best first."""
        ours, present = self._context.device.suites, self._group.mls.suite.id
        better = ours[: ours.index(present)] if present in ours else ours
        return [suite for suite in better if self._group.policy.allows_suite(suite)]

    async def reinitialize(self, suite: int | None) -> int | None:
        """End the group, and wait until the one that follows exists.

        :param suite: number of the new cipher suite; None for the best one that all members have
        :returns: the new suite; None if there is no better one
        :raises SuiteUnsupported: members, which are named, do not have it
        :raises StanzaTooLarge: there are too many members for one creation
        :raises NotPermitted: the group's policy forbids it
        :raises UsageError: we are not in the group, or not of that suite
        """
        group, device = self._group, self._context.device
        if not group.policy.permits(group.policy.may_change_policy, device.identity.account, group.roster):
            raise NotPermitted("the group's policy does not let us change its cipher suite")
        if suite is not None and suite not in device.suites:
            raise UsageError(f"cipher suite {suite_name(suite)} is not one of ours")
        while True:
            before, members = group.mls.group_id, frozenset(group.roster.clients())
            asked = await self._best() if suite is None else suite
            if asked is None:
                return None
            proposal = ReInit(device.random(32), ProtocolVersion.MLS10, asked, group.mls.context.extensions)
            packages, lacking = await self._key_packages(proposal)
            if lacking:
                raise SuiteUnsupported(asked, lacking)
            group.continuation.rehearse(CipherSuite.get(asked), packages, self._context.now, self._parts.fits)
            if await self._committer.commit(partial(self._propose, proposal, before, members)) is not None:
                await self._progress.until_open()
                return asked
            if group.mls.group_id != before and group.mls.suite.id == asked:
                return asked  # another member has done the same

    def _propose(
        self, proposal: ReInit, group_id: bytes, members: frozenset[ClientIdentity]
    ) -> list[AnyProposal] | None:
        """The ReInit; none if the group has changed, or has a member without a checked KeyPackage."""
        same = self._group.mls.group_id == group_id and members.issuperset(self._group.roster.clients())
        return [proposal] if same else None

    async def _best(self) -> int | None:
        """Our best suite that all members have, if it is better than the current one."""
        group = self._group
        negotiated = await negotiate(
            self._context,
            sorted(group.roster.accounts()),
            self._context.device.suites,
            group.mls.context.extensions,
            members=group.roster.clients(),
        )
        return next((one for one in self._better() if not negotiated.lacking[one]), None)

    def begin(self, *, at_once: bool) -> None:
        """Begin to make the group that a ReInit demands, beside the reading.

        :param at_once: whether we have committed the ReInit
        """
        self._parts.spawn(self._continue_group(at_once=at_once), "continuing the group")

    async def _continue_group(self, *, at_once: bool) -> None:
        """Make the group that a ReInit demands, unless another member does."""
        others = len(self._group.roster)
        spread = OTHERS_CREATE_AFTER + min(300.0, 0.1 * others)
        pause = 0.0 if at_once else OTHERS_CREATE_AFTER + random.uniform(0, spread)  # noqa: S311
        while True:
            await asyncio.sleep(pause)
            await self._progress.until_live()  # afterwards we know whether another member has made it
            if self._group.continuation.left_out:
                await self._wait_to_be_added()
                return
            if self._group.continuation.reinit is None:
                return
            if not self._group.continuation.waits:
                try:
                    await self._create()
                except MLSError as error:
                    if self._group.continuation.reinit is None:
                        return  # another member was faster
                    self._delayed(str(error))
            pause = min(_LONGEST_PAUSE, max(OTHERS_CREATE_AFTER, 2 * pause)) * random.uniform(0.8, 1.2)  # noqa: S311

    async def _wait_to_be_added(self) -> None:
        """Wait until a member of the group that others may have followed lets us in, or for as long as it may take."""
        continuation = self._group.continuation
        self._delayed("another member has made it with a KeyPackage of ours that was used before; we ask to be added")
        with suppress(TimeoutError):
            async with asyncio.timeout(LEFT_OUT_PATIENCE):
                await self._progress.until(lambda: not continuation.left_out)
        if continuation.left_out:
            log.info("%s: nobody has added us to the group that follows", self._parts.room)
            await self._parts.stored(lambda: continuation.enter_after_all(self._context.now))
            with suppress(MLSError):  # the room is lost, as the application learns
                await self._read_again()

    async def _create(self) -> None:
        asked = self._group.continuation.reinit
        assert asked is not None
        packages, lacking = await self._key_packages(asked)
        if self._group.continuation.reinit != asked or self._group.continuation.waits:
            return  # another member was faster
        if self._group.continuation.left_out:
            return  # perhaps another member was faster
        if lacking:
            self._delayed(f"no usable KeyPackage for cipher suite {suite_name(asked.cipher_suite)}", tuple(lacking))
            return
        draft = self._group.continuation.draft(packages, self._context.now)
        await self._parts.until_stored(partial(self._committer.send_creation, draft))

    def _delayed(self, reason: str, lacking: tuple[str, ...] = ()) -> None:
        self._context.fire("mls_continuation_delayed", ContinuationDelayed(self._parts.room, reason, lacking))

    async def _key_packages(self, asked: ReInit) -> tuple[list[KeyPackage], list[str]]:
        """A KeyPackage of each other member, and the members without one."""
        device, suite = self._context.device, asked.cipher_suite
        if suite not in device.suites:
            raise DeliveryError(f"this device does not support cipher suite {suite_name(suite)}")
        accounts = sorted(self._group.roster.accounts())
        offers = await read_offers(self._context, accounts, (suite,), asked.extensions)
        packages: list[KeyPackage] = []
        lacking: list[str] = []
        for client in self._group.roster.clients():
            offer = offers.devices.get(client)
            if client == device.identity:
                continue
            if offer is None or suite not in offer.packages:
                lacking.append(str(client))
            else:
                packages.append(offer.packages[suite].key_package)
        return packages, sorted(lacking)
