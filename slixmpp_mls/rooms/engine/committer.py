"""Commits in one room: repeated until our Commit comes first, and made for other members' proposals.

::

    commit ──► draft ── too large? tree uploaded ──► outbox ── still too large? uploaded ──► sent ──► reflected first
       ▲                                                          another one came first: it is our turn later ◄──┘
       └───────────────────────────────────────────────────────────────────────┘

One Commit of ours is in transit at a time.  A caller supplies a function that tells what to propose in the present
state.  The function is called again before each attempt, because other members may have made the change meanwhile.
:mod:`.commit_turns` decides whose turn it is after a lost race, and which member commits another member's proposal.

The group is asked each time whether a Commit of ours is in transit (:attr:`.Sending.commit_waits`): the Commit may
have been made before a restart, or before the room was lost and read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ...client import CommitLost, GroupChanged, Outgoing, Step
from ...client.group.actions import Ignore
from ...client.group.placement import Placement
from ...delivery import RoomStanza
from ...errors import DeliveryError, MLSError, NoUploadService, StanzaTooLarge
from ...mls.group.resumption import CreationDraft
from ...mls.structures.proposals import AnyProposal
from ...stanza import AnyCommit
from .commit_turns import CommitTurns, order_of, place, wait_for_place
from .parts import RoomParts
from .progress import set_error
from .transmitter import Transmitter

__all__ = ["CommitsLost", "Committer"]

log = logging.getLogger(__name__)

_COMMIT_ATTEMPTS = 25  # how often a Commit is made again when others come first

_LONG_TREE = 1 << 20
"""Octets of a ratchet tree from which on a Commit is uploaded, too, rather than split into several with a tree each."""


class CommitsLost(DeliveryError):
    """Others have always come first."""


class _CommitLost(Exception):
    """Another Commit came first."""


class Committer:
    """Makes Commits for one room."""

    def __init__(self, parts: RoomParts, transmitter: Transmitter) -> None:
        self._transmitter = transmitter
        self._parts = parts
        self._group = parts.group
        self._progress = parts.progress
        self._busy = asyncio.Lock()
        self._turns = CommitTurns()
        self._outcome: asyncio.Future[GroupChanged] | None = None

    async def commit(
        self,
        make: Callable[[], Sequence[AnyProposal] | None],
        *,
        force: bool = False,
        before: Callable[[], Awaitable[bool]] | None = None,
        divisible: bool = False,
    ) -> GroupChanged | None:
        """Commit, repeatedly, until we come first or there is nothing left to do.

        :param make: returns the proposals for the present state; None if the change has become superfluous
        :param force: commit even if there is nothing to propose, to renew our keys
        :param before: the necessary actions on the server, once it is known that the Commit can be made, and before it
            is sent; returns False if `make` would propose something else now
        :param divisible: raise StanzaTooLarge where a Commit of fewer proposals would fit, rather than upload it; not
            if the ratchet tree is long
        :returns: the effect of the Commit; None if it became superfluous
        :raises MLSError: the room is not read any more
        :raises CommitsLost: others always come first
        :raises DeliveryError: the room refuses it, or an upload has failed
        :raises StanzaTooLarge: it does not fit into a stanza
        :raises UsageError: we are not in the group
        """
        async with self._busy:
            for attempt in range(_COMMIT_ATTEMPTS):
                self._progress.check_not_lost()
                await self._progress.until_no_commit_waits()
                # If this store is an old copy, its next key has been used already, and the room will show it.
                await self._progress.until_live()
                await self._progress.until_sure()
                await self._progress.until_open()
                proposals = make()
                if proposals is None or not (proposals or force):
                    return None
                loop = asyncio.get_running_loop()
                try:
                    outgoing = await self._make(proposals, before, divisible=divisible)
                except _CommitLost:
                    continue
                outcome: asyncio.Future[GroupChanged] = loop.create_future()
                self._outcome = outcome
                sent = loop.time()
                await self._transmitter.transmit(outgoing)
                try:
                    return await outcome
                except _CommitLost:
                    log.info("%s: a Commit came second, attempt %d", self._group.room, attempt + 1)
                    await self._turns.wait(outgoing.origin_id, sent)
            raise CommitsLost(f"{_COMMIT_ATTEMPTS} Commits in a row have lost to others in {self._group.room}")

    async def _make(
        self, proposals: Sequence[AnyProposal], before: Callable[[], Awaitable[bool]] | None, *, divisible: bool
    ) -> Outgoing:
        """Put a Commit into the outbox.

        If its stanza would be too large, the new ratchet tree is uploaded first.  If that is not enough, the Commit
        will be uploaded from the outbox (:mod:`.transmitter`).

        :raises StanzaTooLarge: it would be too large with all of it elsewhere, or there is no other place
        :raises DeliveryError: the upload has failed
        """
        draft = self._group.sending.draft_commit(proposals, self._parts.context.now)
        if before is not None and not (await before() and self._group.sending.is_current(draft)):
            raise _CommitLost("the draft no longer says what is to be done")
        try:
            return self._group.sending.finish_commit(draft, fits=self._parts.fits)
        except StanzaTooLarge as error:
            too_large = error
        tree = draft.tree.encode() if draft.invites else b""
        # Fewer proposals make the path no shorter.  A long tree is uploaded for each Commit: few Commits cost less.
        split = divisible and draft.path_length < too_large.limit / 2 and len(tree) < _LONG_TREE
        at_most = Placement.IN_STANZA if split else Placement.ALL_ELSEWHERE
        placement, due = self._group.sending.place_commit(draft, self._parts.fits, at_most=at_most)
        uploads = self._parts.context.uploads
        try:
            if due:
                await uploads.check(max(map(len, due)))
            tree_at = await uploads.put(tree) if draft.invites else None
        except NoUploadService as error:
            raise too_large from error
        if not self._group.sending.is_current(draft):
            raise _CommitLost("another Commit came first, while the tree was uploaded")
        return self._group.sending.finish_commit(draft, fits=self._parts.fits, tree_at=tree_at, placement=placement)

    async def send_creation(self, draft: CreationDraft) -> None:
        """Send the first Commit of a group that continues another one; if necessary, parts of it are uploaded.

        :raises StanzaTooLarge: it would be too large with all of it elsewhere, or there is no other place
        :raises UsageError: another member was first
        :raises DeliveryError: the upload has failed
        """
        try:
            outgoing = self._group.continuation.finish(draft, fits=self._parts.fits)
        except StanzaTooLarge as error:
            placement, due = self._group.continuation.place(draft, self._parts.fits)
            uploads = self._parts.context.uploads
            try:
                if due:
                    await uploads.check(max(map(len, due)))
                tree_at = await uploads.put(draft.tree.encode())
            except NoUploadService:
                raise error from None
            outgoing = self._group.continuation.finish(
                draft, fits=self._parts.fits, tree_at=tree_at, placement=placement
            )
        await self._transmitter.transmit(outgoing)

    async def commit_pending(self) -> None:
        """Commit the pending proposals, as RFC 9420 12.4 requires before application data is sent.

        :raises MLSError: the room is not read any more, or as :meth:`commit`
        """
        group = self._group
        while group.is_member and group.sending.needs_commit:
            await self._progress.until_live()
            if group.sending.commit_waits:
                await self._progress.until_no_commit_waits()
            elif group.sending.needs_commit:
                await self.commit(lambda: [] if group.sending.needs_commit else None, force=True)

    # --- outcome ---------------------------------------------------------------------------------

    def resolve(self, event: GroupChanged | CommitLost) -> None:
        """Report the result of our Commit to the waiting caller."""
        if self._group.sending.commit_waits:
            return
        outcome, self._outcome = self._outcome, None
        if outcome is not None and not outcome.done():
            if isinstance(event, GroupChanged):
                outcome.set_result(event)
            else:
                outcome.set_exception(_CommitLost(event.reason))

    def refused(self, error: MLSError) -> None:
        """Handle the room's refusal of our Commit; another attempt would be refused again."""
        if self._outcome is not None:
            set_error(self._outcome, error)

    def fail(self, error: MLSError) -> None:
        """End the caller's wait: nothing more arrives."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            set_error(outcome, error)

    # --- turns ---------------------------------------------------------------------------------

    def stanza_read(self, stanza: RoomStanza, step: Step) -> None:
        """Record a stanza of the room: if it holds a Commit, a member has won or lost a race."""
        commit = next((payload for payload in step.incoming.payloads if isinstance(payload, AnyCommit)), None)
        if commit is None or not self._group.is_member:
            return
        if not isinstance(step.action, Ignore):
            self._turns.won(str(stanza.occupant))
        elif commit.epoch < self._group.mls.epoch:
            self._turns.lost(str(stanza.occupant), stanza.origin_id)

    async def commit_for_others(self) -> None:
        """Commit another member's proposal soon; seldom do several members commit it."""
        await self._progress.until_live()
        if self._group.is_member:
            await self.wait_for_turn()
            await self.commit_pending()

    def present(self) -> list[str]:
        """The other members that are in the room: real JID (bare), a slash, nickname."""
        roster, nick = self._group.roster, self._parts.muc.nick
        return [
            f"{each.jid}/{each.nick}"
            for each in self._parts.muc.occupants.values()
            if each.nick != nick and each.jid is not None and roster.has(str(each.jid))
        ]

    def place(self, matter: bytes = b"") -> int:
        """The number of members before us in the order for work that one member does for others.

        :param matter: identifies the work, where the order is to be another one each time
        """
        group, own = self._group.mls, f"{self._parts.context.device.identity.account}/{self._parts.muc.nick}"
        return place(own, self.present(), order_of(group.group_id, group.epoch, matter))

    async def wait_for_turn(self, matter: bytes = b"", *, at_most: int | None = None) -> None:
        """Let other members go first with what one member does for others (xep/mls.xml, "Taking Turns").

        :param matter: as for :meth:`place`
        :param at_most: the highest place that counts
        """
        number, leaves = self.place(matter), self._group.roster.leaves_of(self._parts.context.device.identity.account)
        await wait_for_place(number if at_most is None else min(number, at_most), among_equals=len(leaves) > 1)
