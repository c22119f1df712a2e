"""Linking groups: what one has gained carries over to another (RFC 9420 8.4, 8.6; RFC 9750 6.2).

:func:`link` mixes a key of one group into the next epoch of another: a resumption PSK, which the members of the one
have and nobody else.  A key renewed there is from then on needed here, too: who has learnt a member's keys and
was locked out of the first group by an update is locked out of the second, without an update in it.

All members of the group that is linked must be in the other one.  The committer makes sure of that, and
names those who are not.  Who has been away for so long that the other group is more than
:attr:`~slixmpp_mls.mls.parameters.Parameters.resumption_epochs` further when it reads of it can not follow, and
comes back as after any other loss.

:func:`branch` makes a group of some members of another one (RFC 9420 11.3): the same key lets them in, so that
whoever is in the new group is known to have been a member of the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slixmpp import JID

from ..client import GroupChanged, RoomGroup
from ..errors import SuiteUnsupported, UsageError
from ..key_packages.cipher_suite_choice import read_offers
from ..key_packages.selection import Candidates
from ..mls.structures.proposals import AnyProposal, PreSharedKey
from ..mls.structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from ..policy import RoomPolicy
from .engine.worker import RoomWorker

if TYPE_CHECKING:
    from .encrypted_room import EncryptedRoom

__all__ = ["branch", "link"]


async def link(worker: RoomWorker, source: RoomGroup) -> GroupChanged:
    """Mix a key of another group into the next epoch of this one.

    :raises UsageError: we are not in both, they are the same, or a member of this one is not in the other
    """
    if source is worker.session:
        raise UsageError("a group is not linked with itself")
    changed = await worker.commit(lambda: _injection(worker.session, source))
    assert changed is not None  # there is always something to propose
    return changed


def _injection(target: RoomGroup, source: RoomGroup) -> Sequence[AnyProposal]:
    others = source.roster
    strangers = sorted(str(client) for client in target.roster.clients() if others.leaf_of(client) is None)
    if strangers:
        raise UsageError(f"not in the group in {source.room}, and so without its keys: {', '.join(strangers)}")
    name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, source.group.group_id, source.group.epoch)
    nonce = target.device.random(target.group.suite.hash_length)  # RFC 9420 8.4: fresh for each use
    return [PreSharedKey(PreSharedKeyID(name, nonce))]


async def branch(
    source: EncryptedRoom, room: str, accounts: Sequence[str], name: str | None, policy: RoomPolicy | None
) -> EncryptedRoom:
    """A room with a group of some members of another room's; see :meth:`EncryptedRoom.branch`."""
    plugin, session = source.plugin, source.session
    bare, own = str(JID(room).bare), plugin.device.identity
    policy = policy or RoomPolicy(bare, (own.account,))
    strangers = sorted(account for account in accounts if not session.roster.has(account))
    if strangers:
        raise UsageError(f"not in the group in {session.room}: {', '.join(strangers)}")
    suite = session.group.suite.id
    offers = await read_offers(plugin.context, accounts, (suite,), (policy.extension(),))
    found = Candidates()
    for client in session.roster.clients():
        offer = offers.devices.get(client)
        if client.account in accounts and client != own and offer is not None and suite in offer.packages:
            found.packages[client] = offer.packages[suite]
    lacking = sorted({*accounts} - {own.account} - {*found.accounts})
    if lacking:
        raise SuiteUnsupported(suite, lacking)

    async def begin(room: EncryptedRoom) -> None:
        await room.let_into_room(found)
        packages = [package.key_package for package in found.packages.values()]
        await room.worker.found(room.session.draft_branch(session, policy, packages, plugin.now))
        await room.worker.until_created()

    return await plugin.rooms.found(
        bare, policy, suite, lambda delivery, again: delivery.create(name, again=again), begin
    )
