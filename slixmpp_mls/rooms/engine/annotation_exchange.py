"""Requests for annotations and answers to them, in one room (xep/mls.xml, "Staying Partial").

::

    without the tree:  a held stanza ──► request, live ──► answers ──► Following.take ──► read on
                                            └── none in time, twice ──► the tree (:mod:`.whole_tree`)
    with the tree:     request ──► a short, random delay, in which others' requests come as well ──► one answer
                                            └── another member's answer says the same ──► none

Nothing of it is stored by a server, as of ephemeral content: a request that is lost is made again, and without an
answer the member gets the tree.  Only members that are told to (setting ``annotate``) answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from contextlib import suppress
from uuid import uuid4

from ...client.group.following import Wanted
from ...delivery import EphemeralShown
from ...errors import DeliveryError, Disconnected, PeerError, StoreError, UsageError
from ...mls.parameters import HOUR
from ...stanza import AnnotationRequest, Annotations, RoomElement
from ...stanza.blob import BlobReference
from ...stanza.elements import MAX_MARKUP
from .parts import RoomParts

__all__ = ["AnnotationExchange"]

log = logging.getLogger(__name__)

_ANSWERED_AFTER = 6.0  # seconds in which a member that answers has done so
_ROUNDS = 2  # requests for the same
_OUTSIDE = 1.0  # seconds, until we look again whether we are in the room
_COLLECTED = 0.2  # seconds in which others may ask for the same
_SPREAD = 0.8  # seconds: several members may be told to answer
_UPLOADS = 12  # ratchet trees in an hour
_RATIONED = 1.0  # seconds, until an answer is made that came too often


class AnnotationExchange:
    """Asks, or answers, in one room."""

    def __init__(self, parts: RoomParts) -> None:
        self._parts = parts
        self._context = parts.context
        self._group = parts.group
        self._answering: set[int] = set()  # epochs
        self._uploads: deque[tuple[int, frozenset[str]]] = deque(maxlen=_UPLOADS)  # when, and because of which accounts

    def shown(self, event: EphemeralShown) -> None:
        """Read a live stanza with a request or an answer.  Bad content is logged, and changes nothing."""
        group, element = self._group, event.element
        claimed = None if event.real_jid is None else str(event.real_jid.bare)
        try:
            if isinstance(element, Annotations) and group.partial.follows:
                if group.following.take(element, claimed):
                    self._parts.progress.notify()
            elif not group.is_member or claimed is None or not group.roster.has(claimed):
                return  # an occupant that is no member does not make us decrypt
            elif isinstance(element, Annotations):
                group.annotator.note_answer(element)
            elif isinstance(element, AnnotationRequest) and group.annotator.take_request(element):
                self.news()
        except PeerError as error:
            log.info("%s: annotations of %s that are of no use: %s", group.room, claimed, error)
        except StoreError as error:
            log.info("%s: annotations were not kept: %s", group.room, error)  # they are asked for again

    async def _send(self, payload: RoomElement) -> None:
        await self._parts.muc.send_live((payload.to_stdlib(),), message_id=str(uuid4()))

    # --- asking ----------------------------------------------------------------------------------

    async def ask(self, wanted: Wanted) -> bool:
        """Ask for what a stanza needs, and wait for it.

        :returns: whether we have it, so that the stanza can be examined again
        :raises MLSError: the room is not read any more
        """
        following = self._group.following
        for _ in range(_ROUNDS):
            if self._has(wanted):
                break
            await self._request(wanted)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWERED_AFTER):
                    await self._parts.progress.until(lambda: self._has(wanted))
        return self._has(wanted) and not following.is_beyond_us(wanted)

    def _has(self, wanted: Wanted) -> bool:
        return not self._group.partial.follows or self._group.following.has(wanted)

    async def _request(self, wanted: Wanted) -> None:
        """Send a request as soon as we are in the room."""
        while True:
            self._parts.progress.check_not_lost()
            try:
                await self._send(self._group.following.request(wanted, self._context.now))
                return
            except Disconnected:
                await asyncio.sleep(_OUTSIDE)
            except UsageError:
                return  # we have become a full member meanwhile

    # --- answering -------------------------------------------------------------------------------

    def news(self) -> None:
        """Begin to answer what is due: a request has come, or what one is about."""
        for epoch in self._group.annotator.due_epochs:
            if epoch not in self._answering:
                self._answering.add(epoch)
                self._parts.spawn(self._answer(epoch), "answering a member without the ratchet tree")

    async def _upload(self, epoch: int) -> BlobReference | None:
        """Upload an epoch's ratchet tree.  Any member can ask for that of each epoch, so there is a limit.

        :data:`_UPLOADS` in an hour, of which the second half is for accounts because of which there was none in it.

        :returns: None if there were too many, or it has failed
        """
        now, accounts = self._context.now, self._group.annotator.asking_for_tree(epoch)
        lately = [because for when, because in self._uploads if abs(now - when) < HOUR]
        if len(lately) == _UPLOADS or (2 * len(lately) >= _UPLOADS and accounts <= frozenset().union(*lately)):
            return None
        self._uploads.append((now, accounts))
        with suppress(DeliveryError):
            return await self._context.uploads.put(self._group.annotator.tree_of(epoch))
        return None

    async def _answer(self, epoch: int) -> None:
        annotator = self._group.annotator
        most = (self._parts.muc.limit - MAX_MARKUP) * 3 // 4
        try:
            await asyncio.sleep(_COLLECTED + random.uniform(0, _SPREAD))  # noqa: S311
            while (due := annotator.due(epoch)) is not None and self._group.is_member:
                if annotator.must_wait(epoch, self._context.now):
                    await asyncio.sleep(_RATIONED)
                    continue
                place = None
                if due.wants_tree:
                    place = annotator.place_of(epoch) or await self._upload(epoch)
                answer = annotator.answer(epoch, self._context.now, place, most=most)
                if answer is None:
                    return
                await self._send(answer)
        finally:
            self._answering.discard(epoch)
