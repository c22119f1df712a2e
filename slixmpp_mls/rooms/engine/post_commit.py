"""The actions outside of a group that follow our Commits: invitations and affiliations.

They are kept in the store (:mod:`slixmpp_mls.client.storage.post_commit_actions`).  They begin when a Commit of ours
takes effect, and again whenever we reconnect, until they are done.  An action is done when the server has answered it.
An invitation is a message and gets no answer, so it is done when the server has accepted it.  It is repeated if need be
(:mod:`.repeated_invitations`).  Affiliations are changed when the archive has been read to its end: other members may
have undone the Commit long ago.

*A revocation that comes too late.*  Another administrator may add an account just when we revoke its affiliation,
because it was removed: that administrator still finds it in the room's list, and so does not let it in.  The account
would be in the group and out of the room, and be removed again (:mod:`..affiliation_sync`).  Therefore we grant the
affiliation that we have revoked again, once, if an administrator has added the account after all.  Everybody else gives
us a moment for that before such a newcomer is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from slixmpp import JID

from ...authentication.callbacks import Recent
from ...client import GroupChanged
from ...client.storage.post_commit_actions import Demote, Invite, Promote, Revoke
from ...client.storage.records import InvitedRecord
from ...delivery import Stream
from ...errors import DeliveryError, Disconnected, NoAnswer, NotPermitted
from ...stanza import Invitation
from .parts import RoomParts

__all__ = ["PostCommit", "invite"]

log = logging.getLogger(__name__)

_OVERLOOKED = 60.0  # seconds after which nobody can have overlooked that an affiliation was revoked
_KEPT = 1000  # accounts


async def invite(parts: RoomParts, accounts: Mapping[str, str | None]) -> None:
    """Tell accounts that they are in the group.  An invitation that arrives twice counts once.

    :param accounts: bare JIDs, each with the archive id of the stanza before the one with its Welcome, if it is known
    :raises Disconnected, NoAnswer: our server has not accepted all of them
    """
    group_id = parts.group.mls.group_id
    for account, after in accounts.items():
        await parts.muc.invite(account, [Invitation(group_id, after).to_stdlib()])
    await Stream.of(parts.context.xmpp).flushed()


class PostCommit:
    """The pending actions after one room's Commits."""

    def __init__(self, parts: RoomParts) -> None:
        self._parts = parts
        self._group = parts.group
        self._busy = asyncio.Lock()
        self._revoked: Recent[str, float] = Recent(_KEPT)  # when, on the clock of the event loop
        self._came: Recent[str, float] = Recent(_KEPT)

    def changed(self, event: GroupChanged) -> None:
        """Handle a Commit: an administrator may have added an account that we have just removed."""
        added = {member.account for member in event.added}
        for account in {member.account for member in event.removed} - added:
            self._came.pop(account, None)  # whoever adds it now, that administrator's addition is over
        if not (added and self._group.is_member and self._group.is_administrator(event.by.account)):
            return
        for account in added:
            self._came[account] = _time()
            if self._is_recent(self._revoked, account):
                self._parts.spawn(self._let_in_again([account]), "granting an affiliation again")

    def came_lately(self, account: str) -> bool:
        """Whether an administrator has just added an account, whose affiliation may be revoked all the same."""
        return self._is_recent(self._came, account)

    @staticmethod
    def _is_recent(times: Recent[str, float], account: str) -> bool:
        at = times.get(account)
        return at is not None and _time() - at < _OVERLOOKED

    def begin(self) -> None:
        """Do the pending actions, beside the reading."""
        if any(self._group.post_commit_actions):
            self._parts.spawn(self.complete(), "what follows a Commit")

    async def complete(self) -> None:
        """Wait until the pending actions are done, or put off.

        :raises StoreError: a completed action is still recorded as pending
        """
        try:
            await self._attend()
        except DeliveryError as error:
            log.info("%s: what follows a Commit is put off: %s", self._parts.room, error)

    async def _attend(self) -> None:
        """Do all pending actions now, but only invite while the room's archive is being read.

        :raises Disconnected, NoAnswer: not possible now; the remaining actions stay pending
        :raises StoreError: a completed action is still recorded as pending
        """
        async with self._busy:
            owed = list(self._group.post_commit_actions) if self._group.is_member else []
            await self._invite([each for each in owed if isinstance(each, Invite)])
            if not self._parts.progress.live.is_set():
                return  # the rest of the archive may have brought them back, or given them another rank
            await self._revoke([each for each in owed if isinstance(each, Revoke)])
            await self._change_rank([each for each in owed if isinstance(each, Promote | Demote)])

    async def _invite(self, owed: list[Invite]) -> None:
        """Tell the added accounts where to find the Welcome.  An invitation that arrives twice counts once."""
        if not owed:
            return
        now, own = self._parts.context.now, self._parts.context.device.identity.account
        present = {each.account: each.after for each in owed if self._group.roster.has(each.account)}
        await invite(self._parts, present)
        self._group.lifecycle.done(each.key for each in owed if each.account not in present or each.account == own)
        self._group.lifecycle.invited(
            {
                account: InvitedRecord((after or "").encode(), now, 0)
                for account, after in present.items()
                if account != own
            }
        )

    async def _revoke(self, owed: list[Revoke]) -> None:
        """Revoke the affiliation of removed accounts, unless they are back, or it has been revoked already."""
        if not owed:
            return
        affiliations = self._parts.muc.affiliations
        try:
            listed = await affiliations.all()
        except NotPermitted:
            listed = None  # then we are hardly able to change anything either
        inside = [
            each.account
            for each in owed
            if not self._group.roster.has(each.account)
            and (listed is None or listed.get(JID(each.account)) in ("member", "admin", "owner"))
        ]
        refused = await affiliations.set_all(dict.fromkeys(inside, "none"))
        for account, error in refused.items():
            if isinstance(error, NotPermitted):
                log.info("%s: only an owner of %s can revoke its affiliation", account, self._group.room)
            else:
                log.warning("%s keeps its affiliation with %s: %s", account, self._group.room, error)
        self._group.lifecycle.done(each.key for each in owed)
        for account in inside:
            if account not in refused:
                self._revoked[account] = _time()
        await self._let_in_again(inside)

    async def _let_in_again(self, accounts: Iterable[str]) -> None:
        """Grant affiliations again that we have revoked; see the module."""
        back = [each for each in accounts if each in self._revoked and self.came_lately(each) and self._has(each)]
        if not back:
            return
        for account in back:
            del self._revoked[account]
        affiliations = self._parts.muc.affiliations
        try:
            listed = await affiliations.all()
        except NotPermitted as silent:  # perhaps they are banned
            log.info("%s does not say whom it lets in: %s", self._group.room, silent)
            return
        outside = [account for account in back if JID(account) not in listed and self._has(account)]
        refused = await affiliations.set_all(dict.fromkeys(outside, "member"))
        for account, error in refused.items():
            log.warning("%s is in the group, and not let into %s again: %s", account, self._group.room, error)
        if self._group.is_member:  # they try the room again at once, and not in a minute
            await invite(self._parts, {account: None for account in outside if account not in refused})

    def _has(self, account: str) -> bool:
        return self._group.is_member and self._group.roster.has(account)

    async def _change_rank(self, owed: list[Promote | Demote]) -> None:
        """Give new administrators of the group the affiliation by which they can let people into the room; and back.

        Only owners of a room can do it (XEP-0045 10.6 to 10.8).  Owners stay what they are.
        """
        if not owed:
            return
        affiliations = self._parts.muc.affiliations
        try:
            listed = await affiliations.all()
        except NotPermitted:
            listed = {}
        for each in owed:
            wanted = each.account in self._group.policy.administrators and self._group.roster.has(each.account)
            present = listed.get(JID(each.account))
            try:
                if wanted and present == "member":
                    await affiliations.set(each.account, "admin")
                elif not wanted and present == "admin":
                    await affiliations.set(each.account, "member")
            except (Disconnected, NoAnswer):
                raise
            except DeliveryError as error:
                log.info("%s keeps its affiliation with %s: %s", each.account, self._group.room, error)
            self._group.lifecycle.done([each.key])


def _time() -> float:
    return asyncio.get_running_loop().time()
