"""Keeps a room's affiliations and its group's members in step.

Affiliations follow the group.  An account gets an affiliation before it is added, and loses it after it has been
removed (:mod:`.membership`).  In the other direction, nothing that the room says adds a member.  Every added account
had an affiliation first, so a member without one has been shut out by an action in the room, and is removed from the
group by a member that has the right.  We notice this live, or by comparing the room's lists with the members when the
room has been caught up with.

*A list that shows nobody proves nothing.*  A server that has lost its lists, or withholds them, gives the same answer
as a room that has shut everybody out.  If the lists do not show our own account and one other account that belongs to
the room, only accounts that they show as banned are removed.  The difference is reported, and users decide.

An account that is in the room's lists but not in the group may be about to be added, or may be invited by other means:
users decide about it.

Several requests read the lists, and the group may go on meanwhile.  Who comes into it while they are read was let into
the room just before, perhaps too late for the lists: only who was in the group before and is in it afterwards counts
as shut out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from slixmpp import JID

from ..client import RoomGroup
from ..delivery.affiliations import Affiliation, Affiliations
from ..errors import DeliveryError

__all__ = ["AffiliationSync", "AffiliationsDiffer"]

log = logging.getLogger(__name__)

_BOTH_CHANGED = 2.0  # seconds in which adding or removing has changed both, one after the other


@dataclass(frozen=True, slots=True)
class AffiliationsDiffer:
    """The room's affiliations and the group's members differ; both fields are empty when the difference is over.

    :ivar room: bare JID
    :ivar shut_out: members' accounts without an affiliation, or banned
    :ivar outside: accounts with an affiliation that have no client in the group
    """

    room: str
    shut_out: tuple[str, ...]
    outside: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.shut_out or self.outside)


class AffiliationSync:
    """Compares one room's affiliations with its group's members.

    :param tell: called when the difference has changed
    :param expel: removes accounts from the group, except those that we may not remove
    """

    def __init__(
        self,
        group: RoomGroup,
        affiliations: Affiliations,
        tell: Callable[[AffiliationsDiffer], None],
        expel: Callable[[Sequence[str]], Awaitable[object]],
    ) -> None:
        self._group = group
        self._affiliations = affiliations
        self._tell = tell
        self._expel = expel
        self._told = AffiliationsDiffer(group.room, (), ())

    def may_expel(self, own: str) -> bool:
        """Whether we should act on what the room says."""
        group = self._group
        return group.is_member and group.policy.permits(group.policy.may_remove, own, group.roster)

    async def difference(self) -> AffiliationsDiffer:
        """Compare now.

        :raises NotPermitted: the room does not show us its lists
        :raises DeliveryError: no answer
        """
        _, difference = await self._look()
        return difference

    async def _look(self) -> tuple[dict[JID, Affiliation], AffiliationsDiffer]:
        before = set(self._group.roster.accounts())
        listed = await self._affiliations.all()
        if not self._group.is_member:
            return listed, AffiliationsDiffer(self._group.room, (), ())
        inside = {str(jid.bare) for jid, affiliation in listed.items() if affiliation != "outcast"}
        members = set(self._group.roster.accounts())
        shut_out, outside = members & before - inside, inside - members
        return listed, AffiliationsDiffer(self._group.room, tuple(sorted(shut_out)), tuple(sorted(outside)))

    async def inside(self) -> set[str]:
        """The accounts whom the room lets in, bare JIDs; none if it does not say."""
        try:
            listed = await self._affiliations.all()
        except DeliveryError as error:
            log.info("%s does not show its affiliations: %s", self._group.room, error)
            return set()
        return {str(jid.bare) for jid, affiliation in listed.items() if affiliation not in ("outcast", "none")}

    @staticmethod
    def _proven(listed: dict[JID, Affiliation], own: str, accounts: Sequence[str]) -> list[str]:
        """The accounts of which the room's lists show that they have been shut out; see the module."""
        inside = {str(jid.bare) for jid, affiliation in listed.items() if affiliation != "outcast"}
        if own in inside and len(inside) > 1:
            return list(accounts)
        return [account for account in accounts if listed.get(JID(account)) == "outcast"]

    async def compare_later(self, own: str) -> None:
        """Compare when the current changes are over; report, and act if we may.

        :param own: our account
        """
        await asyncio.sleep(_BOTH_CHANGED)
        if not self._group.is_member:
            return
        try:
            listed, difference = await self._look()
        except DeliveryError as error:
            log.info("%s does not show its affiliations: %s", self._group.room, error)
            return
        if not self._group.is_member:
            return
        if difference != self._told:
            self._told = difference
            self._tell(difference)
        shut_out = self._proven(listed, own, [account for account in difference.shut_out if account != own])
        if shut_out and self.may_expel(own):
            await self._expel(shut_out)
