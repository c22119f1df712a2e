"""Determines where a room's group is, when we are not sure of it, and returns to it.

::

    unsure, live ──► GroupInfos in the archive ──► ask, wait for an answer ──► nothing later: go on from our own epoch
                         └───────────────────────────┴──► a later state is proved ──► external Commit, or a request

:mod:`slixmpp_mls.client.group.certainty` defines the causes of uncertainty and the accepted proofs.  While we are
unsure, outgoing messages wait.  This module also has the other side: members that are sure answer an inquiry, in turns
(:mod:`.commit_turns`).  One answer is enough, but members with all rights answer even after one, because theirs proves
more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from ...client import Event, Rejected, Rejoining, Step
from ...client.group.certainty import ANSWERS
from ...client.group.certainty import Inquiry as Asked
from ...delivery import RoomStanza
from ...errors import MLSError, PeerError, StanzaTooLarge, UsageError
from ...runtime import RejoinMode
from ...stanza.elements import Answer, Inquiry
from .commit_turns import wait_for_place
from .committer import Committer
from .parts import RoomParts
from .rejoin import Rejoiner, group_infos
from .transmitter import Transmitter

__all__ = ["Recovery"]

log = logging.getLogger(__name__)

_PAGES = 4  # of the archive, searched for a GroupInfo of a later epoch
_ANSWER_ARRIVES = 6.0  # seconds in which an online member has answered
_RECENT = 60.0  # seconds for which an inquiry is answered
_WELCOME_ARRIVES = 60.0  # seconds, until we ask again where the group is
_SPREAD = 0.5  # seconds: many may become unsure at the same moment


class Recovery:
    """Determines whether one room's group is in our state.

    :param emit: fires events for the application
    :param resume: called when we are sure again: sends the waiting messages
    """

    def __init__(
        self,
        parts: RoomParts,
        committer: Committer,
        transmitter: Transmitter,
        rejoiner: Rejoiner,
        emit: Callable[[Iterable[Event]], None],
        resume: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._context = parts.context
        self._group = parts.group
        self._progress = parts.progress
        self._committer = committer
        self._transmitter = transmitter
        self._rejoiner = rejoiner
        self._emit = emit
        self._resume = resume
        self._task: asyncio.Task[None] | None = None
        self._answers = 0  # seen in the room
        self._unanswered: deque[tuple[str, Inquiry]] = deque(maxlen=ANSWERS)  # with the occupants who ask, oldest first

    def news(self) -> None:
        """React to any change in the room, or of our own state."""
        if self._group.holds and self._progress.live.is_set() and (self._task is None or self._task.done()):
            self._task = self._parts.spawn(self._find_out(), "finding out where the group is")

    def stanzas_read(self, stanza: RoomStanza, step: Step) -> None:
        """Look for inquiries and answers in a stanza that has been read."""
        for payload in step.incoming.payloads:
            try:
                if isinstance(payload, Inquiry):
                    self._consider(stanza, payload)
                elif isinstance(payload, Answer):
                    self._note_answer(stanza, payload)
                    self._take(partial(self._group.certainty.take_answer, payload, self._context.now))
            except PeerError as error:
                self._reject(stanza, error)

    def _reject(self, stanza: RoomStanza, error: PeerError) -> None:
        claimed = None if stanza.real_jid is None else str(stanza.real_jid)
        self._emit([Rejected(self._parts.room, error, claimed, stanza.archive_id)])

    def _proves_more(self, stanza: RoomStanza) -> bool:
        """Whether our answer proves more than one in this stanza (:mod:`slixmpp_mls.policy.later_state`).

        The room's statement about its sender suffices: a room that lies about it can withhold our answer as well.
        """
        known = self._group.room_state.known()
        if known is None or not known.is_entitled(self._context.device.identity):
            return False
        account = None if stanza.real_jid is None else stanza.real_jid.bare
        leaves = () if account is None else known.roster.leaves_of(account)
        return not any(known.is_entitled(known.roster.at(leaf)) for leaf in leaves)

    # --- finding out -----------------------------------------------------------------------------

    async def _find_out(self) -> None:
        group = self._group
        await asyncio.sleep(random.uniform(0, _SPREAD))  # noqa: S311
        while group.holds:
            await self._progress.until_live()
            if group.returning:
                if self._rejoiner.mode is RejoinMode.BY_HAND and not self._rejoiner.requested:
                    return
                await self._return()
                continue
            await self._look_into_archive()
            answered = not (group.holds and not group.returning) or await self._ask()
            if group.holds and not group.returning:
                self._emit(group.certainty.become_sure(self._context.now))
                self._resume()
                if not answered and group.is_member and len(group.roster) > 1:
                    # RFC 9420 12.4: a Commit shows others where we are, and repairs losses of other members.
                    await self._committer.commit(list, force=True)

    async def _look_into_archive(self) -> None:
        group = self._group
        found = await group_infos(self._parts.muc.archive, pages=_PAGES)
        if not group.holds or group.returning:
            return

        def look() -> list[Event]:
            events, refused = group.certainty.take_archive(found, self._context.now)
            for each in refused:
                log.info("%s: a GroupInfo that shows nothing to us: %s", group.room, each.error)
            return events

        self._take(look)

    async def _ask(self) -> bool:
        """Ask in the room, if another member is there, and wait for an answer.

        :returns: whether an answer has arrived
        """
        group = self._group
        if not self._committer.present():
            return False
        before = self._answers
        await self._transmitter.transmit(group.certainty.inquire())

        def done() -> bool:
            return not group.holds or group.returning

        try:
            async with asyncio.timeout(_ANSWER_ARRIVES):
                await self._progress.until(done)
        except TimeoutError:
            self._take(group.certainty.take_unproven)
            log.info("%s: nobody says where the group is; %d answers for others", group.room, self._answers - before)
        return done()

    def _take(self, evidence: Callable[[], list[Event]]) -> None:
        """Use evidence of where the group is.

        :param evidence: takes it, and returns the events
        :raises PeerError: it proves nothing
        """
        group, held = self._group, self._group.holds
        if not group.is_member:
            return
        self._emit(evidence())
        self._progress.notify()
        if held and not group.holds:
            self._resume()
        self.news()

    # --- coming back -----------------------------------------------------------------------------

    async def _return(self) -> None:
        """Follow the group to its state.  The old state stays until we are in it."""
        group, door, now = self._group, self._group.certainty.proving_info, self._context.now
        assert door is not None
        if not group.external_commits.waits:
            try:
                draft = group.external_commits.draft(door, now)
                outgoing = group.external_commits.finish(draft, now, again=True, fits=self._parts.fits)
            except (PeerError, UsageError, StanzaTooLarge, MLSError) as error:
                log.info("%s: no way back by an external Commit: %s", group.room, error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_WELCOME_ARRIVES):
                        await self._rejoiner.ask_until_in()
                if group.returning:
                    group.certainty.forget_proving_info()
                return
            self._emit([Rejoining(group.room, draft.epoch, group.join_requests.attempts, external=True)])
            await self._transmitter.transmit(outgoing)
        await self._progress.until(lambda: not group.external_commits.waits)
        if group.returning:  # others came first: determine their state
            group.certainty.forget_proving_info()
            await asyncio.sleep(random.uniform(0, 1.0))  # noqa: S311

    # --- answering -------------------------------------------------------------------------------

    def _consider(self, stanza: RoomStanza, inquiry: Inquiry) -> None:
        now = self._context.now
        if stanza.stamp is not None and abs(now - stanza.stamp.timestamp()) > _RECENT:
            return
        asked = self._group.certainty.judge(inquiry, now)
        if asked is not None:  # what no member has signed takes no place (mls-recovery, "Not Being Sure")
            self._unanswered.append((str(stanza.occupant), inquiry))
            self._parts.spawn(self._answer(inquiry, asked), "answering where the group is")

    def _note_answer(self, stanza: RoomStanza, answer: Answer) -> None:
        """An answer does not show to others whose inquiry it answers.

        All are answered in their order, so it is the oldest one, but not the answering member's own.  An answer from an
        earlier epoch than ours leaves something to say, and so does one of a member without rights if we have them.
        """
        self._answers += 1
        if not self._group.is_member or answer.epoch < self._group.mls.epoch or self._proves_more(stanza):
            return
        for each in self._unanswered:
            if each[0] != str(stanza.occupant):
                self._unanswered.remove(each)
                return

    async def _answer(self, inquiry: Inquiry, asked: Asked) -> None:
        group = self._group
        await wait_for_place(self._committer.place())
        if not self._progress.live.is_set() or not group.is_member:
            return
        if all(each is not inquiry for _, each in self._unanswered):
            return  # another member has answered
        if group.certainty.judge(inquiry, self._context.now) is not None:
            await self._transmitter.transmit(group.certainty.answer(asked, self._context.now))
