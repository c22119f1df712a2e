"""Asking the Authentication Service about a room's members, and acting on its answers.

It is asked about new leaves before the Commit that brings them is applied, about members of an account when the service
reports a possible change there, about members in doubt when the room has been caught up with, and about all members
once a day.  While it cannot tell who a member is that has come in by itself, nothing is sent.  About such a member it
is asked again soon, after pauses that grow (:data:`AGAIN`).

Others can name any number of accounts in a Welcome or a Commit.  Beyond :data:`FREE` in one stanza,
questions draw on a budget (:mod:`slixmpp_mls.runtime.question_budget`).  The members that it does not cover are in
doubt with the reason ``not-asked``.  They are asked about one by one, as the budget fills, and at once when they speak.

:mod:`slixmpp_mls.client.storage.doubts` defines the meaning of the answers.  The reaction to members that
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
from itertools import islice

from ...client import Doubt, MemberDoubted
from ...client.group.tree_leaves import client_of, clients_of
from ...client.storage.doubts import NOT_ASKED
from ...errors import NotPermitted
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.structures.leaf_node import LeafNode
from ...mls.tree.tree_math import LeafIndex
from ...runtime import DeniedMembers
from ...runtime.question_budget import PAUSE
from .parts import RoomParts

__all__ = ["MemberChecks"]

FREE = 8  # accounts that one stanza may make us ask about in any case
AGAIN = (5.0, 15.0, 45.0, 135.0, 405.0, 1215.0)
"""Seconds until it is asked again about a newcomer because of which nothing is sent; ordinary rounds follow."""
_ONCE_MORE = 5.0  # seconds, between two looks at an account whose server tells us of one change after another
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
        self._parts = parts
        self._asking: asyncio.Task[None] | None = None
        self._told: dict[ClientIdentity, tuple[bool, str]] = {}
        self._round = random.randrange(_ROUNDS)  # noqa: S311
        self._parts = parts
        self._asking_on = False
        self._looking: dict[str, bool] = {}  # accounts that are asked about: whether to ask once more
        parts.group.sending.talks_to_anybody = parts.context.settings.denied_members is DeniedMembers.REPORT

    async def judge(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Doubt]:
        """Ask about leaves (RFC 9420 5.3.1); return the resulting doubts."""
        if not leaves:
            return []
        verdicts = await self._context.authentication.validate(leaves, suite)
        doubts = []
        for leaf, verdict in zip(leaves, verdicts, strict=True):
            if not verdict.is_valid:
                client = client_of(leaf)
                if client is not None and client != self._context.device.identity:
                    doubts.append(Doubt(client, verdict.is_invalid, verdict.reason, verdict.text, self._context.now))
        return doubts

    async def judge_named(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Doubt]:
        """Ask about leaves that others have named, as far as the budget allows; return the resulting doubts."""
        clients = clients_of(leaves)
        accounts = dict.fromkeys(client.account for client in clients if client is not None)
        covered = {*islice(accounts, FREE + self._context.questions.take(len(accounts) - FREE))}
        if len(covered) == len(accounts):
            return await self.judge(leaves, suite)
        asked, left = [], []
        for leaf, client in zip(leaves, clients, strict=True):
            if client is None or client.account in covered:
                asked.append(leaf)
            else:
                text = "not asked about yet: too many accounts at once"
                left.append(Doubt(client, False, NOT_ASKED, text, self._context.now))
        return [*await self.judge(asked, suite), *left]

    def report(self) -> None:
        """Report new doubts; during a catch-up the report waits for its end."""
        doubts = {client: doubt for client, doubt in self._group.members.doubts.items() if doubt.reason != NOT_ASKED}
        for client in self._told.keys() - doubts.keys():
            del self._told[client]
        for client, doubt in doubts.items():
            if self._told.get(client) != (doubt.denied, doubt.reason):
                self._told[client] = (doubt.denied, doubt.reason)
                self._context.fire(
                    "mls_doubted", MemberDoubted(self._group.room, self._group.members.one(client), doubt)
                )

    async def look_again(self, clients: Iterable[ClientIdentity] | None = None) -> None:
        """Ask about members again, by default about those in doubt that we have asked about, and act on the answers.

        :raises StoreError: the answers could not be stored
        """
        if clients is None:
            clients = [client for client, doubt in self._group.members.doubts.items() if doubt.reason != NOT_ASKED]
        await self.ask(clients)
        await self.act()

    async def ask(self, clients: Iterable[ClientIdentity]) -> None:
        """Ask about members, and note the answers.

        :raises StoreError: the answers could not be stored
        """
        group = self._group
        leaves = {
            client: group.mls.tree.member(LeafIndex(leaf))
            for client in clients
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

    async def look_at_account(self, account: str) -> None:
        """Ask about an account's members again.

        The account's server decides how often it tells us of a change: a call while another one is under way has that
        one ask once more, after a pause.
        """
        if account in self._looking:
            self._looking[account] = True
            return
        self._looking[account] = True
        try:
            while self._looking[account] and self._group.is_member:
                self._looking[account] = False
                roster = self._group.roster
                await self.look_again([roster.at(leaf) for leaf in roster.leaves_of(account)])
                if self._looking[account]:
                    await asyncio.sleep(_ONCE_MORE)
        finally:
            del self._looking[account]

    # --- accounts beyond the budget ------------------------------------------------------------

    def _not_asked(self) -> dict[str, None]:
        """The accounts that we have never asked about."""
        doubts = self._group.members.doubts.items()
        return dict.fromkeys(client.account for client, doubt in doubts if doubt.reason == NOT_ASKED)

    def must_ask(self, speaker: LeafNode) -> bool:
        """Whether we have to ask about a speaker before we hand its message over."""
        if self._group.partial.follows:  # mls, "Staying Partial": a proof shows a leaf, and not whose it is
            members, now = self._group.members, self._context.now
            named = client_of(speaker) is not None
            return self._group.following.stays and named and not members.is_judged(speaker, now)
        if not self._group.members.doubts:
            return False  # nearly always
        client = client_of(speaker)
        doubt = None if client is None else self._group.members.doubts.get(client)
        return doubt is not None and doubt.reason == NOT_ASKED

    async def ask_about_speaker(self, speaker: LeafNode) -> None:
        """Ask about the account of a speaker, whose message waits for the answer and justifies the question.

        Without the ratchet tree we ask about the speaker alone.

        :raises StoreError: the answers could not be stored
        """
        partial = self._group.room_state.partial
        if partial is not None:
            doubts = await self.judge((speaker,), partial.group.suite)
            self._group.members.note_judged(speaker, doubts, self._context.now)
            return
        client = ClientIdentity.from_leaf(speaker)
        roster = self._group.roster
        await self.ask([roster.at(leaf) for leaf in roster.leaves_of(client.account)])
        if self._parts.progress.live.is_set():
            self._parts.spawn(self.act(), "acting on doubts")

    def ask_on(self) -> None:
        """Begin to ask about the other accounts, one by one."""
        if not self._asking_on and self._not_asked():
            self._asking_on = True
            self._parts.spawn(self._ask_the_others(), "asking about further members")

    async def _ask_the_others(self) -> None:
        try:
            while self._group.is_member and (accounts := self._not_asked()):
                await asyncio.sleep(PAUSE)
                if self._group.is_member and self._context.questions.take(1):
                    await self.look_at_account(next(iter(accounts)))
        finally:
            self._asking_on = False

    # --- everybody, once a day -----------------------------------------------------------------

    async def next_round(self) -> None:
        """Ask about a part of the members; hourly calls cover all members in a day."""
        self._round = (self._round + 1) % _ROUNDS
        roster, later = self._group.roster, self._not_asked()
        accounts = [each for each in sorted(roster.accounts())[self._round :: _ROUNDS] if each not in later]
        await self.look_again([roster.at(leaf) for account in accounts for leaf in roster.leaves_of(account)])

    async def act(self) -> None:
        """Report the members that the service denies, and remove them, as configured."""
        self.report()
        self._ask_again_soon()
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

    def _ask_again_soon(self) -> None:
        """Ask again about newcomers that the service does not know, because of which nothing is sent."""
        if self._newcomers() and (self._asking is None or self._asking.done()):
            self._asking = self._parts.spawn(self._ask_again(), "asking again about a newcomer")

    def _newcomers(self) -> list[ClientIdentity]:
        if not self._group.is_member or not self._group.sending.silenced:
            return []
        return [client for client, doubt in self._group.members.doubts.items() if doubt.silences and not doubt.denied]

    async def _ask_again(self) -> None:
        for pause in AGAIN:
            await asyncio.sleep(pause)
            await self._parts.progress.until_live()
            newcomers = self._newcomers()
            if not newcomers:
                return
            await self.look_again(newcomers)

    def _due(self) -> list[ClientIdentity]:
        now, grace = self._context.now, self._context.settings.grace
        return [
            client
            for client, doubt in self._group.members.doubts.items()
            if doubt.denied and (not doubt.lapsed or now - doubt.since >= grace)
        ]
