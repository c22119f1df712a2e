"""Determines where a room's group is, when we are not sure of it, and returns to it.

::

    unsure, live ──► GroupInfos in the archive ──► ask, wait for an answer ──► nothing else: go on from our own epoch
                         │        ▲                  └──► another state, not proved: wait, ask again
                         │        └──────────────────────────────┘
                         └──► a later state is proved ──► external Commit, or a request

:mod:`slixmpp_mls.client.group.certainty` defines the causes of uncertainty and the accepted proofs.  While we are
unsure, outgoing messages wait.  A state that is not proved is asked about again after pauses that grow, and as soon as
somebody comes whose answer proves anything.

This module also has the other side: members that are sure answer an inquiry, in turns (:mod:`.commit_turns`) that each
inquiry orders afresh, so that another one answers first the next time.  One answer is enough, but members with all
rights answer even after one, because theirs proves more.

An answer can be read by the member that has asked alone.  A member that wants others to be silent could answer first,
with garbage or with a group of its own.  Therefore a member that gets an answer that it cannot use asks again, and an
account's answer keeps others from answering the same member once, and then not for :data:`_COUNTS_ONCE` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ...client import Event, Rejected, Rejoining, Step
from ...client.group.certainty import Inquiry as Asked
from ...client.group.group_infos import group_infos_in
from ...client.group.join_request import PAUSES
from ...delivery import RoomStanza
from ...errors import MLSError, PeerError, StanzaTooLarge, UsageError
from ...runtime import RejoinMode
from ...stanza.elements import Answer, Inquiry
from .committer import Committer
from .parts import RoomParts
from .rejoin import Rejoiner, newest_stanzas
from .transmitter import Transmitter

__all__ = ["Recovery"]

log = logging.getLogger(__name__)

_PAGES = 4  # of the archive, searched for a GroupInfo of a later epoch
_READ = 10.0  # seconds in which our reader should have taken what the archive shows
_ANSWER_ARRIVES = 6.0  # seconds in which an online member has answered
_ASK_AGAIN = PAUSES[:4]  # seconds, while another state is shown and not proved; the last one again and again
_LOOK = 2.0  # seconds between two looks at who is there, meanwhile
_RECENT = 60.0  # seconds for which an inquiry is answered
_WAITING = 256  # inquiries to be answered, of as many members
_PROVING = 4  # place in the order, at most, of a member with all rights
_ASKED_IN_A_ROW = 3  # inquiries, while members answer and their answers show nothing
_COUNTS_ONCE = 900  # seconds: longer than the pauses between two inquiries
_COUNTED = 1024  # answers that are remembered for that
_WELCOME_ARRIVES = 60.0  # seconds, until we ask again where the group is
_SPREAD = 0.5  # seconds: many may become unsure at the same moment


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An inquiry to be answered.

    :ivar occupant: who has sent it, by the room
    :ivar read: when we have read it, in seconds since the Unix epoch
    """

    occupant: str
    inquiry: Inquiry
    asked: Asked
    read: int


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
        self._answers = 0  # of members, seen in the room
        self._counted: dict[tuple[int, str], int] = {}  # by asking leaf and answering account: when, the oldest first
        self._unanswered: dict[int, _Waiting] = {}  # by leaf, the oldest first
        self._answering: set[int] = set()  # leaves

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
        account = None if stanza.real_jid is None else stanza.real_jid.bare
        return self._is_entitled and (account is None or not self._proves_anything(account))

    @property
    def _is_entitled(self) -> bool:
        """Whether we have all rights in the group."""
        known = self._group.room_state.known()
        return known is not None and known.is_entitled(self._context.device.identity)

    def _proves_anything(self, account: str) -> bool:
        """Whether a client of this account has all rights: any later state that it shows is accepted."""
        known = self._group.room_state.known()
        leaves = () if known is None else known.roster.leaves_of(account)
        return known is not None and any(known.is_entitled(known.roster.at(leaf)) for leaf in leaves)

    # --- finding out -----------------------------------------------------------------------------

    async def _find_out(self) -> None:
        group, asked = self._group, 0
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
            if group.certainty.contested and not group.returning:
                await self._wait_for_proof(_ASK_AGAIN[min(asked, len(_ASK_AGAIN) - 1)])
                asked += 1
            elif group.holds and not group.returning:
                self._emit(group.certainty.become_sure(self._context.now))
                self._resume()
                if not answered and group.is_member and len(group.roster) > 1:
                    # RFC 9420 12.4: a Commit shows others where we are, and repairs losses of other members.
                    await self._committer.commit(list, force=True)

    async def _look_into_archive(self) -> None:
        group = self._group
        stanzas = await newest_stanzas(self._parts.muc.archive, pages=_PAGES)
        ids = [stanza.archive_id for stanza, _ in stanzas]

        def unread() -> int:
            """How many of them our own reader has not taken yet."""
            place = group.cursor
            return len(ids) - 1 - ids.index(place) if place in ids else 0

        # A Commit that the reader is about to take proves no loss: it leads us on as any other.
        with suppress(TimeoutError):
            async with asyncio.timeout(_READ):
                await self._progress.until(lambda: not unread())
        if not group.holds or group.returning:
            return

        def look() -> list[Event]:
            found = group_infos_in(stanzas[: len(stanzas) - unread()])
            events, refused = group.certainty.take_archive(found, self._context.now)
            for each in refused:
                log.info("%s: a GroupInfo that shows nothing to us: %s", group.room, each.error)
            return events

        self._take(look)

    async def _ask(self) -> bool:
        """Ask in the room, if another member is there, and wait for an answer.

        :returns: whether an answer has arrived
        """
        for _ in range(_ASKED_IN_A_ROW):
            before = self._answers
            if not self._committer.present() or await self._ask_once():
                break
            if self._answers == before or self._group.certainty.contested:
                break  # silence; or an answer that has shown something
        return not self._group.holds or self._group.returning

    async def _ask_once(self) -> bool:
        group = self._group
        before = self._answers
        await self._transmitter.transmit(group.certainty.inquire(self._context.now))

        def done() -> bool:
            return not group.holds or group.returning

        try:
            async with asyncio.timeout(_ANSWER_ARRIVES):
                await self._progress.until(done)
        except TimeoutError:
            log.info("%s: nobody proves where the group is; %d answers seen", group.room, self._answers - before)
        return done()

    async def _wait_for_proof(self, seconds: float) -> None:
        """Wait until we ask again: at the end of the pause, or when somebody has come whose answer proves anything."""
        group, there, left = self._group, self._proving(), seconds
        while left > 0 and group.holds and not group.returning:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK, left)):
                    await self._progress.until(lambda: not group.holds or group.returning)
            left -= _LOOK
            if self._proving() - there:
                return

    def _proving(self) -> set[str]:
        """Nicknames of the members with all rights that are in the room."""
        occupants = self._parts.muc.occupants.values()
        return {each.nick for each in occupants if each.jid is not None and self._proves_anything(each.jid.bare)}

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
        asked = self._group.certainty.judge(inquiry)
        if asked is None:  # what no member has signed takes no place (mls-recovery, "Not Being Sure")
            return
        leaf, waiting = asked.signer, self._unanswered.get(asked.signer)
        if waiting is not None and waiting.asked.time >= asked.time:
            return  # a copy, or an earlier one
        if waiting is None and len(self._unanswered) == _WAITING:
            return
        self._unanswered.pop(leaf, None)
        self._unanswered[leaf] = _Waiting(str(stanza.occupant), inquiry, asked, now)
        if leaf not in self._answering:
            self._answering.add(leaf)
            self._parts.spawn(self._answer(leaf), "answering where the group is")

    def _note_answer(self, stanza: RoomStanza, answer: Answer) -> None:
        """An answer does not show to others whose inquiry it answers.

        All are answered in their order, so it is the oldest one, but not the answering member's own.  An answer from an
        earlier epoch than ours leaves something to say, and so does one of a member without rights if we have them.
        Only members answer.  A member that asks again was not helped by the accounts that have answered it.
        """
        group, account = self._group, None if stanza.real_jid is None else stanza.real_jid.bare
        if account is None or not group.is_member or not group.roster.has(account):
            return
        if account != self._context.device.identity.account:
            self._answers += 1
        if answer.epoch < group.mls.epoch or self._proves_more(stanza):
            return
        for leaf, each in self._unanswered.items():
            if each.occupant != str(stanza.occupant):
                if self._counts(leaf, account):
                    del self._unanswered[leaf]
                return

    def _counts(self, leaf: int, account: str) -> bool:
        """Whether an answer of this account keeps others from answering a member: not twice in a short time."""
        now = self._context.now
        if abs(now - self._counted.get((leaf, account), now - _COUNTS_ONCE)) < _COUNTS_ONCE:
            return False
        self._counted.pop((leaf, account), None)
        self._counted[leaf, account] = now
        if len(self._counted) > _COUNTED:
            del self._counted[next(iter(self._counted))]
        return True

    async def _answer(self, leaf: int) -> None:
        """Answer the latest inquiry of a member, if no other member does."""
        group, certainty = self._group, self._group.certainty
        try:
            if (first := self._unanswered.get(leaf)) is None:
                return  # the answer has been read together with the inquiry
            at_most = _PROVING if self._is_entitled else None
            await self._committer.wait_for_turn(first.asked.reply_key, at_most=at_most)
            while (waiting := self._unanswered.get(leaf)) is not None:
                now = self._context.now
                if not self._progress.live.is_set() or not group.is_member or abs(now - waiting.read) > _RECENT:
                    return
                asked = certainty.judge(waiting.inquiry)
                if asked is None:
                    return
                pause = certainty.pause(asked, now)
                if not pause:
                    await self._transmitter.transmit(certainty.answer(asked, now))
                    return
                await asyncio.sleep(pause)
        except PeerError as error:
            log.info("%s: an inquiry that is no longer a member's: %s", self._parts.room, error)
        finally:
            self._answering.discard(leaf)
            self._unanswered.pop(leaf, None)
