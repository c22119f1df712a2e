"""Another cipher suite for a room: its group ends, and one with the same members follows it (RFC 9420 11.2).

::

    reinitialize ── everybody has a KeyPackage of the suite? ── Commit of a ReInit ──► the group is closed
    carry_on     ── by who has committed it, at once; by others if nobody does, later ──► creation ──► the group goes on

The new group is in the same room.  Its creation is one stanza (:mod:`slixmpp_mls.client.group.continuation`), and the
first one in the
room's order that lets the members in counts, so that it does no harm if several make one.  Who has committed the
ReInit makes it at once.  If that client disappears, the others wait for a random while and the first of them
does it; each of them can, since each has a key of the old group to prove that it was a member.

Nothing can be said in between, so the ReInit is not committed before there is a KeyPackage for everybody and it is
known that a creation for so many fits into a stanza.  If a KeyPackage is gone all the same when the new group is to be
made, that is told, and it is tried again until it is back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ...client import RoomGroup
from ...errors import DeliveryError, MLSError, NotPermitted, StoreError, SuiteUnsupported, UsageError
from ...identity import ClientIdentity
from ...key_packages.cipher_suite_choice import negotiate, read_offers
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.registry import ProtocolVersion
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.proposals import AnyProposal, ReInit

if TYPE_CHECKING:
    from .worker import RoomWorker

__all__ = ["ContinuationDelayed", "carry_on", "reinitialize"]

log = logging.getLogger(__name__)

#: Seconds after which others make the new group, at the earliest; each adds as much again at random, and some more in
#: large groups.
PATIENCE = 20.0
_LONGEST = 600.0  # seconds between two attempts


@dataclass(frozen=True, slots=True)
class ContinuationDelayed:
    """The group that should follow a closed one can not be made yet; it is tried again.

    :ivar reason: for people
    :ivar lacking: devices (full identities) without a usable KeyPackage of the new cipher suite
    """

    room: str
    reason: str
    lacking: tuple[str, ...] = ()


async def reinitialize(worker: RoomWorker, suite: int | None) -> int | None:
    """End the group, and wait until the one that follows is there.

    :param suite: number of the new cipher suite; None for the best one that everybody has
    :returns: the new suite; None if there is no better one
    :raises SuiteUnsupported: who does not have it
    :raises StanzaTooLarge: there are too many members for one creation
    :raises NotPermitted: the group's policy forbids it
    :raises UsageError: we are not in the group, or not of that suite
    """
    session, plugin = worker.session, worker.plugin
    own = plugin.device.identity.account
    if not session.policy.permits(session.policy.may_change_policy, own, session.roster):
        raise NotPermitted("the group's policy does not let us change its cipher suite")
    if suite is not None and suite not in plugin.device.suites:
        raise UsageError(f"cipher suite {suite} is not one of ours")
    while True:
        before, members = session.group.group_id, frozenset(session.roster.clients())
        asked = await _best(worker) if suite is None else suite
        if asked is None:
            return None
        proposal = ReInit(plugin.device.random(32), ProtocolVersion.MLS10, asked, session.group.context.extensions)
        packages, lacking = await _key_packages(worker, proposal)
        if lacking:
            raise SuiteUnsupported(asked, lacking)
        session.rehearse(CipherSuite.get(asked), packages, plugin.now, worker.check_size)
        if await worker.commit(partial(_propose, session, proposal, before, members)) is not None:
            await worker.until_open()
            return asked
        if session.group.group_id != before and session.group.suite.id == asked:
            return asked  # somebody else has done the same


def _propose(
    session: RoomGroup, proposal: ReInit, group_id: bytes, members: frozenset[ClientIdentity]
) -> list[AnyProposal] | None:
    """The ReInit, unless it is another group now, or there is somebody in it whom nobody has asked."""
    same = session.group.group_id == group_id and members.issuperset(session.roster.clients())
    return [proposal] if same else None


async def _best(worker: RoomWorker) -> int | None:
    """The best suite of ours that all members have, if it is better than the present one."""
    session, plugin = worker.session, worker.plugin
    ours, present = plugin.device.suites, session.group.suite.id
    found = await negotiate(
        plugin.context,
        sorted(session.roster.accounts()),
        ours,
        session.group.context.extensions,
        members=session.roster.clients(),
    )
    better = ours[: ours.index(present)] if present in ours else ours
    return next((one for one in better if not found.lacking[one]), None)


async def carry_on(worker: RoomWorker, *, at_once: bool) -> None:
    """Make the group that a ReInit has asked for, unless somebody else does.

    :param at_once: whether we have committed the ReInit
    """
    others = len(worker.session.roster)
    pause = 0.0 if at_once else random.uniform(PATIENCE, 2 * PATIENCE + min(300.0, 0.1 * others))  # noqa: S311
    while True:
        await asyncio.sleep(pause)
        await worker.live.wait()  # by then we know whether somebody has made it
        if worker.session.reinit is None:
            return
        if not worker.session.creation_waits:
            try:
                await _create(worker)
            except StoreError as error:
                worker.plugin.fire("mls_store_failed", error)
            except MLSError as error:
                if worker.session.reinit is None:
                    return  # somebody else was faster
                worker.plugin.fire("mls_continuation_delayed", ContinuationDelayed(worker.room, str(error)))
        pause = min(_LONGEST, max(PATIENCE, 2 * pause)) * random.uniform(0.8, 1.2)  # noqa: S311


async def _create(worker: RoomWorker) -> None:
    asked = worker.session.reinit
    assert asked is not None
    packages, lacking = await _key_packages(worker, asked)
    if worker.session.reinit != asked or worker.session.creation_waits:
        return  # somebody else was faster
    if lacking:
        reason = f"no usable KeyPackage for cipher suite {asked.cipher_suite}"
        worker.plugin.fire("mls_continuation_delayed", ContinuationDelayed(worker.room, reason, tuple(lacking)))
        return
    await worker.found(worker.session.draft_continuation(packages, worker.plugin.now))


async def _key_packages(worker: RoomWorker, asked: ReInit) -> tuple[list[KeyPackage], list[str]]:
    """A KeyPackage of each other member, and the members for whom there is none."""
    session, plugin = worker.session, worker.plugin
    suite = asked.cipher_suite
    if suite not in plugin.device.suites:
        raise DeliveryError(f"this device does not support cipher suite {suite}")
    offers = await read_offers(plugin.context, sorted(session.roster.accounts()), (suite,), asked.extensions)
    packages: list[KeyPackage] = []
    lacking: list[str] = []
    for client in session.roster.clients():
        offer = offers.devices.get(client)
        if client == plugin.device.identity:
            continue
        if offer is None or suite not in offer.packages:
            lacking.append(str(client))
        else:
            packages.append(offer.packages[suite].key_package)
    return packages, sorted(lacking)
