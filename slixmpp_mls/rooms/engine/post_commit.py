"""Doing outside of a group what is owed there (:mod:`slixmpp_mls.client.storage.post_commit_actions`): invitations
and affiliations.

It is done when a Commit of ours takes effect, and again whenever we come back, until it is.  Something is done when the
server has answered for it; an invitation is a message, for which nobody answers, so it is done when the server
has taken it.
"""

from __future__ import annotations

import asyncio
import logging

from slixmpp import JID

from ...client import RoomGroup
from ...client.storage.post_commit_actions import Invite, Revoke
from ...delivery import Room, Stream
from ...errors import DeliveryError, Disconnected, NoAnswer, NotPermitted
from ...stanza import Invitation

__all__ = ["FollowUp"]

log = logging.getLogger(__name__)


class FollowUp:
    """What one room's group has left to do.

    :param stream: the room's
    """

    def __init__(self, session: RoomGroup, room: Room, stream: Stream) -> None:
        self._session = session
        self._room = room
        self._stream = stream
        self._busy = asyncio.Lock()

    async def attend(self) -> None:
        """Do all that is owed now.

        :raises Disconnected, NoAnswer: not now; what is left is owed still
        :raises StoreError: something that has been done is owed still
        """
        async with self._busy:
            owed = list(self._session.post_commit_actions) if self._session.is_member else []
            await self._invite([each for each in owed if isinstance(each, Invite)])
            await self._revoke([each for each in owed if isinstance(each, Revoke)])

    async def _invite(self, owed: list[Invite]) -> None:
        """Tell those who were added where to find the Welcome.  An invitation that arrives twice is one."""
        if not owed:
            return
        group_id = self._session.group.group_id
        for each in owed:
            if self._session.roster.has(each.account):  # or it has been removed meanwhile
                await self._room.invite(each.account, [Invitation(group_id, each.after).to_stdlib()])
        await self._stream.settled()
        self._session.done(each.key for each in owed)

    async def _revoke(self, owed: list[Revoke]) -> None:
        """Who was removed from the group loses the room, unless it is back, or somebody has seen to it."""
        if not owed:
            return
        affiliations = self._room.affiliations
        try:
            listed = await affiliations.all()
        except NotPermitted:
            listed = None  # then we may hardly change anything either
        for each in owed:
            present = listed is None or listed.get(JID(each.account)) in ("member", "admin", "owner")
            if present and not self._session.roster.has(each.account):
                try:
                    await affiliations.revoke_membership(each.account)
                except (Disconnected, NoAnswer):
                    raise
                except NotPermitted:
                    log.info("%s is for an owner of %s to see off", each.account, self._session.room)
                except DeliveryError as error:
                    log.warning("%s keeps its affiliation with %s: %s", each.account, self._session.room, error)
            self._session.done([each.key])
