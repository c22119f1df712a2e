"""Fetches the ratchet tree of a group that we have joined without it, and makes us a full member.

::

    joined partially ──► fetch ──► verify, in another thread ──► judge the leaves ──► full member
                           ▲                └── failed: reported, and tried again later ──┐
                           └──────────────────────────────────────────────────────────────┘

With the setting ``stay_partial`` this begins at the first stanza that annotations do not help with, or when a change of
the group is wanted (:meth:`TreeFetcher.require`); members that answer are asked where the tree of the present epoch is.
Any member can name a place where it is not, so all that are named are tried, and it is asked for again.

Reading and sending go on meanwhile (:mod:`slixmpp_mls.client.group.partial`).  The reader waits at a stanza that only a
full member understands.  If the tree :attr:`is_missing`, it waits no longer, and the room is read as by an outsider.
Attempts never end, because the state stays usable; their pauses grow to an hour.  But the file may have expired: after
some 20 minutes we also ask to be added afresh (:mod:`.rejoin`), if the room has gone on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial as partial_call

from ...client import Event, WholeTree
from ...client.group.actions import Step
from ...client.group.following import Wanted
from ...client.group.partial import CheckedTree, verify
from ...client.group.room_contents import PartialMembership
from ...delivery import Stream
from ...errors import DeliveryError, MLSError, PeerError, TransferFailed, UsageError
from ...stanza.blob import BlobReference
from .annotation_exchange import AnnotationExchange
from .blob_fetching import time_limit
from .member_checks import MemberChecks
from .parts import RoomParts

__all__ = ["TreeFetcher"]

log = logging.getLogger(__name__)

_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 300.0, 900.0, 3600.0)  # seconds between two attempts
_MISSING_AFTER = 6  # attempts that have failed for reasons that pass
_GIVEN_UP_AFTER = len(_PAUSES)  # attempts


class TreeFetcher:
    """Makes a full member of a partial one in one room.

    :param emit: fires events for the application
    :param stop_reading: ends the reading of the room
    :param read_on: enters the room, and reads from our place in it
    :param joined: called when we are a full member
    :param given_up: called when it is time to ask to be added afresh
    """

    def __init__(
        self,
        parts: RoomParts,
        checks: MemberChecks,
        emit: Callable[[Iterable[Event]], None],
        stop_reading: Callable[[], Awaitable[None]],
        read_on: Callable[[], Awaitable[None]],
        joined: Callable[[], None],
        given_up: Callable[[], None],
        annotations: AnnotationExchange,
    ) -> None:
        self._annotations = annotations
        self._required = False
        self._parts = parts
        self._context = parts.context
        self._partial = parts.group.partial
        self._following = parts.group.following
        self._checks = checks
        self._emit = emit
        self._stop_reading = stop_reading
        self._read_on = read_on
        self._joined = joined
        self._given_up = given_up
        self._task: asyncio.Task[None] | None = None
        self._missing = False

    @property
    def is_missing(self) -> bool:
        """Whether the tree is not to be had at present."""
        return self._missing

    def require(self) -> None:
        """Become a full member, even if we stay without the tree otherwise."""
        self._required = True
        self.begin()

    def begin(self) -> None:
        """Begin to fetch the tree, if we lack it and need it."""
        stays = self._following.stays and self._partial.follows
        if stays and not self._required:
            return
        if self._partial.membership is not None and (self._task is None or self._task.done()):
            self._missing = self._parts.group.room_state.tree_given_up = False
            self._task = self._parts.spawn(self._fetch_until_full(), "fetching the ratchet tree")

    async def until_readable(self, step: Step) -> None:
        """Wait at a stanza that only a full member understands, until it can be examined again.

        :param step: with :attr:`~.Step.needs_tree`
        :raises MLSError: the room is not read any more
        """
        state = self._parts.group.room_state
        state.holding = True
        try:
            if self._following.stays and not self._required:
                if step.wants is not None and await self._annotations.ask(step.wants):
                    return
                log.info("%s: the ratchet tree is needed, since annotations do not help", self._parts.room)
                self.require()
            await self._parts.progress.until(lambda: not self._partial.follows or self._missing)
        finally:
            state.holding = False
        if self._partial.follows:
            log.info("%s: read as by an outsider, since the ratchet tree is not to be had", self._parts.room)
            await self._parts.stored(self._partial.set_aside)

    async def _fetch_until_full(self) -> None:
        attempts = 0
        while (partial := self._partial.membership) is not None:
            attempts += 1
            try:
                checked = await self._fetch(partial, attempts)
                # RFC 9420 5.3.1: as of every group that we join
                doubts = await self._checks.judge_named(checked.leaves, partial.group.suite)
                await self._complete(partial_call(self._partial.complete, checked, doubts))
            except (DeliveryError, PeerError) as error:
                if Stream.of(self._context.xmpp).online:
                    passing = isinstance(error, TransferFailed) and error.temporary
                    passing = passing or (partial.location is None and self._following.hears_of_tree)
                    self._missing = self._missing or not passing or attempts >= _MISSING_AFTER
                    self._report("failed", partial.location, attempts, error)
                    self._parts.progress.notify()
                    if attempts >= _GIVEN_UP_AFTER:
                        self._parts.group.room_state.tree_given_up = True
                        self._given_up()
                else:
                    attempts -= 1  # our own connection's fault
            except UsageError as error:  # we have joined another way meanwhile, or given the group up
                log.info("%s: %s", self._parts.room, error)
            pause = _PAUSES[min(attempts, len(_PAUSES)) - 1] if attempts else _PAUSES[0]
            if self._partial.membership is not None:
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311

    async def _fetch(self, partial: PartialMembership, attempts: int) -> CheckedTree:
        """
        :raises DeliveryError: the tree cannot be fetched
        :raises PeerError: it is another one, or not acceptable
        """
        place = await self._place(partial)
        self._report("fetching", place, attempts)
        limit = time_limit(place)  # whoever has named the place may let it answer as slowly as it likes
        try:
            async with asyncio.timeout(limit):
                octets = await self._context.uploads.get(place)
        except TimeoutError:
            raise TransferFailed(f"it was not there within {limit:.0f} seconds", temporary=False) from None
        self._report("checking", place, attempts)
        return await asyncio.to_thread(verify, partial.group, octets)

    async def _place(self, partial: PartialMembership) -> BlobReference:
        """
        :raises TransferFailed: nobody says where the tree is
        """
        if partial.location is None:
            await self._annotations.ask(Wanted(tree=True))
            place = self._following.next_place()
            if place is None:
                raise TransferFailed("nobody says where the ratchet tree is", temporary=False)
            return place
        return partial.location

    async def _complete(self, complete: Callable[[], list[Event]]) -> None:
        """
        :raises UsageError: we are no partial member any more, or in another epoch
        """
        aside = not self._partial.follows
        if aside:  # what is being read was examined as by an outsider
            await self._stop_reading()
        try:
            events = await self._parts.stored(complete)
            self._missing = self._required = False
            self._emit(events)
        finally:
            if aside:
                await self._read_on()
        self._joined()

    def _report(self, stage: str, place: BlobReference | None, attempts: int, error: MLSError | None = None) -> None:
        size = 0 if place is None else place.size
        self._context.fire("mls_whole_tree", WholeTree(self._parts.room, stage, size, attempts, error))
