"""Invitations that are repeated, because the first one may be lost.

A server need not keep messages for an account that is offline (XEP-0160), and may lose them.  An account that is not
told of its group reads nothing and says nothing, and the other members see only that it is silent.  Whoever has added
an account therefore repeats its invitation

- when it sees that the account comes online, by its presence (RFC 6121 4.4.2), if it is subscribed to it;
- otherwise after growing pauses: ten minutes, an hour, six hours, a day, then every three days.

This ends when the account has joined, as far as we can tell: an occupant of the room has its address (XEP-0045 7.2.3),
or something of one of its devices has been in the room.  It also ends with the last KeyPackage by which the account was
added (RFC 9420 7.2), when the account is no longer in the group, and after :data:`MOST` repetitions.

An invitation that arrives twice counts once, so that a repetition in vain costs one message.  The same brake is for
both causes: an account whose presence comes and goes all the time is not invited each time.

The accounts are kept in the store (:class:`~slixmpp_mls.client.storage.post_commit_actions.Invited`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from ...client.storage.post_commit_actions import Invited
from ...client.storage.records import InvitedRecord
from ...errors import DeliveryError
from ...mls.parameters import DAY, HOUR
from ...mls.structures.leaf_node import KeyPackageSource
from ...mls.tree.tree_math import LeafIndex
from .parts import RoomParts
from .post_commit import invite

__all__ = ["MOST", "PAUSES", "RepeatedInvitations"]

log = logging.getLogger(__name__)

PAUSES = (600, HOUR, 6 * HOUR, DAY, 3 * DAY)
"""Seconds before each repetition by time; the last one is that before all further ones."""

MOST = 16
"""Repetitions for one account."""

_ABOUT_PRESENCE = 600  # seconds between two invitations because of presence, but for the first
_AT_ONCE = 50  # invitations in one round: others wait for the next


class RepeatedInvitations:
    """The repeated invitations to one room."""

    def __init__(self, parts: RoomParts) -> None:
        self._parts = parts
        self._group = parts.group

    def seen(self, account: str) -> None:
        """Note that an account has joined: something of one of its devices has been in the room.

        :raises StoreError: nothing has changed
        """
        if self._group.post_commit_actions.is_invited(account):
            self._group.lifecycle.done([Invited(account).key])

    def came_online(self, account: str) -> None:
        """Invite an account that comes online, if it has not joined."""
        if self._group.post_commit_actions.is_invited(account) and self._parts.progress.live.is_set():
            self._parts.spawn(self._repeat(account), "repeating an invitation")

    async def _repeat(self, account: str) -> None:
        self._tidy([account])  # not all: a server decides how often accounts come online
        record = self._group.post_commit_actions.invited.get(account)
        if record is not None:
            waited = self._parts.context.now - record.last
            if record.repeated == 0 or abs(waited) >= _ABOUT_PRESENCE:
                await self._invite({account: record})

    async def repeat_due(self) -> None:
        """Repeat the invitations that are due.  Those that are not possible now wait for the next round."""
        if not self._group.is_member or not self._parts.progress.live.is_set():
            return
        if not self._group.post_commit_actions.invited:
            return
        self._tidy(self._group.post_commit_actions.invited)
        now = self._parts.context.now
        due = {
            account: record
            for account, record in self._group.post_commit_actions.invited.items()
            # After a clock was set back, an invitation in the future would not be due for a long time.
            if abs(now - record.last) >= PAUSES[min(record.repeated, len(PAUSES) - 1)]
        }
        try:
            await self._invite(dict(list(due.items())[:_AT_ONCE]))
        except DeliveryError as error:
            log.info("%s: an invitation is not repeated yet: %s", self._parts.room, error)

    async def _invite(self, accounts: dict[str, InvitedRecord]) -> None:
        if not accounts:
            return
        now = self._parts.context.now
        # Counted before: what cannot be stored is not sent again and again.
        self._group.lifecycle.invited(
            {account: replace(each, last=now, repeated=each.repeated + 1) for account, each in accounts.items()}
        )
        log.info("%s: invited again: %s", self._parts.room, ", ".join(accounts))
        await invite(self._parts, {account: each.after.decode() or None for account, each in accounts.items()})

    def _tidy(self, accounts: Iterable[str]) -> None:
        """Forget those of the accounts that have joined, cannot join any more, or were invited often enough."""
        present = {str(each.jid) for each in self._parts.muc.occupants.values() if each.jid is not None}
        invited = self._group.post_commit_actions.invited
        over = [
            account
            for account in accounts
            if (record := invited.get(account)) is not None
            and (account in present or record.repeated >= MOST or not self._may_join(account))
        ]
        if over:
            self._group.lifecycle.done(Invited(account).key for account in over)

    def _may_join(self, account: str) -> bool:
        """Whether a device of an account is in the group that has not renewed its leaf, and may have its KeyPackage."""
        now, tree = self._parts.context.now, self._group.mls.tree
        for index in self._group.roster.leaves_of(account):
            source = tree.member(LeafIndex(index)).source
            if isinstance(source, KeyPackageSource) and now <= source.lifetime.not_after:
                return True
        return False
