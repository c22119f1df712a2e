"""Links groups: the security gained in one group carries over to another (RFC 9420 8.4, RFC 9750 6.2).

:func:`link` mixes a key of one group into the next epoch of another: a resumption PSK, known only to the members of the
first group.  A key renewed in the first group is from then on needed in the linked group, too.  An attacker that has
learnt a member's keys and was locked out of the first group by an update is also locked out of the linked group,
without an update in it.

All members of the linked group must be in the other one.  The committer checks this, and names those that are not.  A
member that has been away for a long time may read the link when the other group is more than
:attr:`~slixmpp_mls.mls.parameters.Parameters.resumption_epochs` epochs further.  It cannot follow, and returns as after
any other loss.

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

    :param target: the group whose next epoch needs the key
    :param source: the group that has the key
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
    name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, source.mls.group_id, source.mls.epoch)
    nonce = target.device.random(target.mls.suite.hash_length)  # RFC 9420 8.4: fresh for each use
    return [PreSharedKey(PreSharedKeyID(name, nonce))]
