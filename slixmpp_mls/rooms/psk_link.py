"""Linking groups: what one has gained carries over to another (RFC 9420 8.4, RFC 9750 6.2).

:func:`link` mixes a key of one group into the next epoch of another: a resumption PSK, which the members of the one
have and nobody else.  A key renewed there is from then on needed here, too: an attacker that has learnt a member's keys
and was locked out of the first group by an update is locked out of the second, without an update in it.

All members of the group that is linked must be in the other one.  The committer makes sure of that, and names those
that are not.  A member that has been away for so long that the other group is more than
:attr:`~slixmpp_mls.mls.parameters.Parameters.resumption_epochs` further when it reads of it cannot follow, and
comes back as after any other loss.

:meth:`.Rooms.branch` makes a group of some members of another one (RFC 9420 11.3), by the same means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ..client import GroupChanged, RoomGroup
from ..errors import UsageError
from ..mls.structures.proposals import AnyProposal, PreSharedKey
from ..mls.structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage

__all__ = ["link"]


async def link(
    target: RoomGroup,
    source: RoomGroup,
    commit: Callable[[Callable[[], Sequence[AnyProposal] | None]], Awaitable[GroupChanged | None]],
) -> GroupChanged:
    """Mix a key of a group into the next epoch of another.

    :param target: whose next epoch needs it
    :param source: whose key it is
    :param commit: commits in the target, see :meth:`Committer.commit`
    :raises UsageError: we are not in both, they are the same, or a member of the target is not in the source
    """
    if source is target:
        raise UsageError("a group is not linked with itself")
    changed = await commit(partial(_injection, target, source))
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
