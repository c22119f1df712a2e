"""Committing in one room: again and again until we come first, and for others.

::

    commit ──► draft ── too large? tree uploaded ──► outbox ──► sent ──► reflected first: the group has changed
       ▲                                                           └───► another one came first: it is our turn later
       └───────────────────────────────────────────────────────────────────────┘

One Commit of ours is on its way at a time.  Whoever wants something changed says what to propose in the present
state, and is asked anew before each attempt, for others may have done it meanwhile.  Whose turn it is after a lost
race, and who commits what somebody else has proposed, is agreed upon in :mod:`.commit_turns`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from ...client import CommitLost, GroupChanged, Outgoing, RoomGroup, Step
from ...client.group.actions import Fits, Ignore
from ...delivery import Room, RoomStanza
from ...errors import DeliveryError, MLSError, NoUploadService, StanzaTooLarge
from ...mls.group.resumption import CreationDraft
from ...mls.structures.proposals import AnyProposal
from ...stanza import Commit
from ...stanza.blob import longest
from .commit_turns import Turns, place
from .progress import Progress, set_error

if TYPE_CHECKING:
    from ...plugin import MLS

__all__ = ["Committer"]

log = logging.getLogger(__name__)

_COMMIT_ATTEMPTS = 25  # how often a Commit is made anew when others come first
_PLACE = 0.25  # seconds for each who comes before us in committing for others; a Commit usually takes less
_LAST_PLACE = 5.0  # seconds after which nobody waits any more


class _CommitLost(Exception):
    """Another Commit came first."""


class Committer:
    """Makes Commits for one room's worker.

    :param fits: whether a stanza is not too large to be made
    :param transmit: sends what is in the outbox
    """

    def __init__(
        self,
        plugin: MLS,
        session: RoomGroup,
        delivery: Room,
        progress: Progress,
        *,
        fits: Fits,
        transmit: Callable[[Outgoing], Awaitable[None]],
    ) -> None:
        self._plugin = plugin
        self._session = session
        self._delivery = delivery
        self._progress = progress
        self._fits = fits
        self._transmit = transmit
        self._busy = asyncio.Lock()
        self._turns = Turns()
        self._settled = asyncio.Event()  # none is on its way
        self._outcome: asyncio.Future[GroupChanged] | None = None
        if not session.commit_waits:
            self._settled.set()

    async def commit(
        self, make: Callable[[], Sequence[AnyProposal] | None], *, force: bool = False
    ) -> GroupChanged | None:
        """Commit, again and again until we come first or there is nothing left to do.

        :param make: what to propose in the present state; None if it has become superfluous
        :param force: commit even if there is nothing to propose, to renew our keys
        :returns: what the Commit did; None if it became superfluous
        """
        async with self._busy:
            for attempt in range(_COMMIT_ATTEMPTS):
                await self._settled.wait()  # one that was made before a restart may still be on its way
                self._progress.check_not_lost()
                # If this store is an old copy, its next key has been used already, and the room will show it.
                await self._progress.until_live()
                await self._progress.until_open()
                proposals = make()
                if proposals is None or not (proposals or force):
                    return None
                loop = asyncio.get_running_loop()
                try:
                    outgoing = await self._make(proposals)
                except _CommitLost:
                    continue
                self._settled.clear()
                outcome: asyncio.Future[GroupChanged] = loop.create_future()
                self._outcome = outcome
                sent = loop.time()
                await self._transmit(outgoing)
                try:
                    return await outcome
                except _CommitLost:
                    log.info("%s: a Commit came second, attempt %d", self._session.room, attempt + 1)
                    await self._turns.wait(outgoing.origin_id, sent)
            raise DeliveryError(f"{_COMMIT_ATTEMPTS} Commits in a row have lost to others in {self._session.room}")

    async def _make(self, proposals: Sequence[AnyProposal]) -> Outgoing:
        """Put a Commit into the outbox; if its stanza would be too large, with the new ratchet tree uploaded.

        :raises StanzaTooLarge: it does not fit with the tree elsewhere either, or there is no other place
        :raises DeliveryError: the upload has failed
        """
        draft = self._session.draft_commit(proposals, self._plugin.now)
        try:
            return self._session.finish_commit(draft, fits=self._fits)
        except StanzaTooLarge as error:
            if not draft.invites:
                raise
            too_large = error
        self._session.try_commit(draft, self._fits, tree_at=longest())
        try:
            place = await self._plugin.uploads.put(draft.tree.encode())
        except NoUploadService as error:
            raise too_large from error
        if not self._session.is_current(draft):
            raise _CommitLost("another Commit came first, while the tree was uploaded")
        return self._session.finish_commit(draft, fits=self._fits, tree_at=place)

    async def found(self, draft: CreationDraft) -> None:
        """Send the first Commit of a group that continues another one; if need be, with the ratchet tree uploaded.

        :raises StanzaTooLarge: it does not fit with the tree elsewhere either, or there is no other place
        :raises UsageError: somebody else was first
        :raises DeliveryError: the upload has failed
        """
        try:
            outgoing = self._session.finish_creation(draft, fits=self._fits)
        except StanzaTooLarge as error:
            try:
                place = await self._plugin.uploads.put(draft.tree.encode())
            except NoUploadService:
                raise error from None
            outgoing = self._session.finish_creation(draft, fits=self._fits, tree_at=place)
        await self._transmit(outgoing)

    async def commit_what_waits(self) -> None:
        """RFC 9420 12.4: what was proposed must be committed before application data is sent."""
        while self._session.is_member and self._session.needs_commit:
            await self._progress.live.wait()
            if self._session.commit_waits:
                await self._settled.wait()
            elif self._session.needs_commit:
                await self.commit(lambda: [] if self._session.needs_commit else None, force=True)

    # --- what becomes of it --------------------------------------------------------------------

    def settle(self, event: GroupChanged | CommitLost) -> None:
        """Tell whoever waits for our Commit."""
        if self._session.commit_waits:
            return
        outcome, self._outcome = self._outcome, None
        if outcome is not None and not outcome.done():
            if isinstance(event, GroupChanged):
                outcome.set_result(event)
            else:
                outcome.set_exception(_CommitLost(event.reason))
        self._settled.set()

    def refused(self, error: MLSError) -> None:
        """The room does not take our Commit; made anew, it would be refused again."""
        if self._outcome is not None:
            set_error(self._outcome, error)

    def fail(self, error: MLSError) -> None:
        """Nothing more will come: tell everybody who waits."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            set_error(outcome, error)
        self._settled.set()

    # --- whose turn it is ----------------------------------------------------------------------

    def stanza_read(self, stanza: RoomStanza, step: Step) -> None:
        """A stanza of the room has been read: if it holds a Commit, somebody has won or lost a race."""
        commit = next((payload for payload in step.incoming.payloads if isinstance(payload, Commit)), None)
        if commit is None or not self._session.is_member:
            return
        if not isinstance(step.action, Ignore):
            self._turns.won(str(stanza.occupant))
        elif commit.epoch < self._session.group.epoch:
            self._turns.lost(str(stanza.occupant), stanza.origin_id)

    async def commit_for_others(self) -> None:
        """Somebody has proposed something: one of us commits it soon, seldom several."""
        await self._progress.live.wait()
        if self._session.is_member:
            await asyncio.sleep(min(_LAST_PLACE, _PLACE * self._place()))
            await self.commit_what_waits()

    def _place(self) -> int:
        """How many come before us in committing for others."""
        group, roster, nick = self._session.group, self._session.roster, self._delivery.nick
        present = [
            each.nick
            for each in self._delivery.occupants.values()
            if each.nick != nick and each.jid is not None and roster.has(str(each.jid))
        ]
        return place(nick, present, group.group_id + group.epoch.to_bytes(8, "big"))
