"""Leaving a group, and then its room.

::

    leave ──► the wish is stored ──► all that we have sent is in the room ──► we propose our removal, in each epoch
                                                                   │
              our keys are deleted, the room is left  ◄── another member commits it, or `patience` is over

A member cannot remove itself (RFC 9420 12.4): it proposes its removal, and another member commits the proposal.  Unless
only this device leaves, it first commits the removal of its account's other devices, where the policy lets it: as
proposals, one of those devices could commit ours without its own.  Who has lost the group, or waits for a Welcome, has
nothing to propose, and just waits no longer.  If the program is stopped meanwhile, or we are not
in the room, leaving continues when we are, after a restart as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from ..client import RoomGroup
from ..client.storage.records import MembershipState
from ..errors import MLSError, NotPermitted
from ..mls.structures.proposals import Remove
from ..mls.tree.tree_math import LeafIndex
from .engine.worker import RoomWorker

__all__ = ["LEAVE_TIMEOUT", "Leaving"]

#: Seconds in which another member should have committed our removal.
LEAVE_TIMEOUT = 20.0


class Leaving:
    """Leaving one room.

    :param forget: stops reading the room
    :param abandon: stops reading the room, deletes the group's keys, and waits for no way into it any more
    """

    def __init__(
        self, worker: RoomWorker, forget: Callable[[], Awaitable[None]], abandon: Callable[[], Awaitable[None]]
    ) -> None:
        self._worker = worker
        self._parts = worker.parts
        self._group = worker.parts.group
        self._progress = worker.progress
        self._forget = forget
        self._abandon = abandon
        self._busy = asyncio.Lock()

    def go_on(self) -> None:
        """Leave if that is our stored wish; the room has been caught up with."""
        if self._group.post_commit_actions.leave and not self._busy.locked():
            everybody = self._group.post_commit_actions.all_devices_leave
            self._parts.spawn(self.leave(LEAVE_TIMEOUT, all_devices=everybody), "leaving")

    async def leave(self, patience: float, *, all_devices: bool) -> None:
        """See :meth:`EncryptedRoom.leave`."""
        async with self._busy:
            await self._leave(patience, all_devices=all_devices)

    async def finish(self, patience: float) -> None:
        """Finish a :meth:`leave` that the end of the program interrupted."""
        with suppress(TimeoutError, MLSError):
            async with asyncio.timeout(patience):
                await self._progress.until_live()
        async with self._busy:
            if self._group.is_member:
                await self._leave(patience, all_devices=self._group.post_commit_actions.all_devices_leave)
            else:
                await self._forget()

    async def _leave(self, patience: float, *, all_devices: bool) -> None:
        if self._group.external_commits.waits and self._parts.muc.inside:  # it may have brought us in
            with suppress(TimeoutError, MLSError):
                async with asyncio.timeout(patience):
                    await self._progress.until(lambda: not self._group.external_commits.waits)
        if self._group.state in (MembershipState.INVITED, MembershipState.LOST):
            await self._abandon()
            return
        if self._group.is_partial:  # only with the tree do we know who could remove us
            self._worker.whole_tree.require()
            with suppress(TimeoutError, MLSError):
                async with asyncio.timeout(patience):
                    await self._progress.until(lambda: not self._group.is_partial)
            if self._group.is_partial:
                await self._abandon()
                return
        self._group.lifecycle.want_to_leave(all_devices=all_devices)
        if self._parts.muc.inside:
            try:
                async with asyncio.timeout(patience):
                    await self._progress.until_live()  # we may have joined just now
                    await self._progress.until(
                        lambda: not (self._group.is_member and self._group.sending.messages_wait)
                    )
                    await self._ask_to_go(all_devices=all_devices)
            except TimeoutError:
                pass
            except MLSError:
                if self._progress.lost is None:
                    raise
        others = self._group.is_member and len(self._group.roster) > 1
        if others and not self._parts.muc.inside and self._progress.lost is None:
            return  # we propose it when we are in the room
        if self._group.is_member:
            await self._abandon()
        else:
            await self._forget()

    async def _ask_to_go(self, *, all_devices: bool) -> None:
        """Propose our own removal, in every epoch that begins without the proposal, until we are out or alone."""
        group = self._group
        if all_devices:
            with suppress(NotPermitted):  # without own_devices only they themselves can leave
                await self._worker.committer.commit(lambda: list(map(Remove, self._other_devices())) or None)
        while group.is_member and len(group.roster) > 1:
            await self._progress.until_open()
            outgoing = group.sending.propose(Remove(LeafIndex(group.mls.own_index)), self._parts.context.now)
            asked_in = _epoch(group)
            await self._worker.transmitter.transmit(outgoing)
            await self._progress.until(partial(_is_over, group, asked_in))

    def _other_devices(self) -> list[LeafIndex]:
        """The leaves of our account's other devices."""
        group, own = self._group, self._parts.context.device.identity.account
        return [LeafIndex(leaf) for leaf in group.roster.leaves_of(own) if leaf != group.mls.own_index]


def _is_over(group: RoomGroup, epoch: tuple[bytes, int] | None) -> bool:
    return _epoch(group) != epoch


def _epoch(group: RoomGroup) -> tuple[bytes, int] | None:
    """The current epoch; None if we are not in the group."""
    return (group.mls.group_id, group.mls.epoch) if group.is_member else None
