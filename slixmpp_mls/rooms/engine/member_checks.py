"""Asking the Authentication Service about a room's members, and acting on its answers.

It is asked about new leaves before the Commit that brings them is applied, about members of an account when the service
reports a possible change there, about members in doubt when the room has been caught up with, and about all members
once a day.  :mod:`slixmpp_mls.client.storage.doubts` defines the meaning of the answers.  The reaction to members that
the service denies is configured:

==============  ==============================================================================================
``"remove"``    nothing is sent for a leaf that was never vouched for, and a member with the right removes it
                at once; a lapsed leaf is removed when the grace is over
``"hold"``      the same, but removing is left to the application
``"report"``    events, and nothing else
==============  ==============================================================================================
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence

from ...client import Doubt, MemberDoubted
from ...errors import NotPermitted, PeerError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.structures.leaf_node import LeafNode
from ...mls.tree.tree_math import LeafIndex
from ...runtime import DeniedMembers
from .parts import RoomParts

__all__ = ["MemberChecks"]

_ROUNDS = 24  # parts of the membership; each round checks one of them


class MemberChecks:
    """Asks the Authentication Service which of a room's members it vouches for.

    :param remove: removes a client from the group; raises NotPermitted if we may not
    :ivar resume: called when messages may have waited for a member that is vouched for now, or has gone
    """

    def __init__(
        self,
        parts: RoomParts,
        remove: Callable[[ClientIdentity], Awaitable[object]],
        resume: Callable[[], None],
    ) -> None:
        self.resume = resume
        self._context = parts.context
        self._group = parts.group
        self._remove = remove
        self._told: dict[ClientIdentity, tuple[bool, str]] = {}
        self._round = random.randrange(_ROUNDS)  # noqa: S311
        parts.group.sending.talks_to_anybody = parts.context.settings.denied_members is DeniedMembers.REPORT

    async def judge(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Doubt]:
        """Ask about leaves (RFC 9420 5.3.1); return the resulting doubts."""
        if not leaves:
            return []
        verdicts = await self._context.authentication.validate(leaves, suite)
        doubts = []
        for leaf, verdict in zip(leaves, verdicts, strict=True):
            if not verdict.is_valid:
                try:
                    client = ClientIdentity.from_leaf(leaf)
                except PeerError:
                    continue  # such a leaf cannot enter a group of ours: see Roster
                if client != self._context.device.identity:
                    doubts.append(Doubt(client, verdict.is_invalid, verdict.reason, verdict.text, self._context.now))
        return doubts

    def report(self) -> None:
        """Report new doubts; during a catch-up the report waits for its end."""
        doubts = self._group.members.doubts
        for client in self._told.keys() - doubts.keys():
            del self._told[client]
        for client, doubt in doubts.items():
            if self._told.get(client) != (doubt.denied, doubt.reason):
                self._told[client] = (doubt.denied, doubt.reason)
                self._context.fire(
                    "mls_doubted", MemberDoubted(self._group.room, self._group.members.one(client), doubt)
                )

    async def look_again(self, clients: Iterable[ClientIdentity] | None = None) -> None:
        """Ask about members again, by default about those in doubt, and act on the answers.

        :raises StoreError: the answers could not be stored
        """
        group = self._group
        leaves = {
            client: group.mls.tree.member(LeafIndex(leaf))
            for client in (tuple(group.members.doubts) if clients is None else clients)
            if client != self._context.device.identity and (leaf := group.roster.leaf_of(client)) is not None
        }
        doubts = await self.judge(tuple(leaves.values()), group.mls.suite)
        if not group.is_member:
            return
        # The answer is about a key: a member that has another one now, or has gone, has been judged with that.
        same = {client for client, leaf in leaves.items() if group.members.has_key(client, leaf.signature_key)}
        silenced = group.sending.silenced
        group.members.reconsider(same, [doubt for doubt in doubts if doubt.client in same])
        if silenced:
            self.resume()
        await self.act()

    async def look_at_account(self, account: str) -> None:
        """Ask about an account's members again."""
        roster = self._group.roster
        await self.look_again([roster.at(leaf) for leaf in roster.leaves_of(account)])

    async def next_round(self) -> None:
        """Ask about a part of the members; hourly calls cover all members in a day."""
        self._round = (self._round + 1) % _ROUNDS
        roster = self._group.roster
        accounts = sorted(roster.accounts())[self._round :: _ROUNDS]
        await self.look_again([roster.at(leaf) for account in accounts for leaf in roster.leaves_of(account)])

    async def act(self) -> None:
        """Report the members that the service denies, and remove them, as configured."""
        self.report()
        due = self._due()
        if not due or self._context.settings.denied_members is not DeniedMembers.REMOVE:
            return
        # Others see the same: a random wait makes simultaneous Commits rare.
        await asyncio.sleep(random.uniform(0.05, 0.05 + min(5.0, 0.1 * len(self._group.roster))))  # noqa: S311
        for client in due:
            if self._group.is_member and client in self._due():
                try:
                    await self._remove(client)
                except NotPermitted:
                    continue  # another member must do it

    def _due(self) -> list[ClientIdentity]:
        now, grace = self._context.now, self._context.settings.grace
        return [
            client
            for client, doubt in self._group.members.doubts.items()
            if doubt.denied and (not doubt.lapsed or now - doubt.since >= grace)
        ]
