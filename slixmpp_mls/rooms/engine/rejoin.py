"""Coming (back) into a room's group.

::

    lost, or invited ──► live ──► ask to be added, again after ever longer pauses ──► a Welcome: in
                                        └── nobody has come for a while ──► an external Commit ──► in

A client that has lost the group (its archive has a gap, its store is an old copy, it lacks a Commit) asks to be added
afresh, once it has read the room to its end; so does one that follows an invitation and finds no Welcome for
itself.  Nobody need be online: the request waits in the archive.  How often may be asked is kept in the store
(:mod:`slixmpp_mls.client.group.join_request`).

The other way in, an external Commit, needs nobody, but a GroupInfo that the room shows, which may be an old one
(RFC 9750 5.3).  So it comes second, and by itself only for a client that knows in which epoch it has been: it can not
be led behind that.

With the setting ``rejoin`` at ``"by hand"`` nothing of this happens before it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from ...client import Rejected, Rejoining
from ...client.group.external_commit import find_doors
from ...client.storage.records import MembershipState
from ...delivery import MAX_STANZA
from ...delivery.archive import Archive, RoomStanza
from ...errors import DeliveryError, MLSError, NoGroupInfo, PeerError, StoreError, UsageError
from ...runtime import RejoinMode
from ...stanza import Commit, GroupInfo, MessageElement, payloads

if TYPE_CHECKING:
    from .worker import RoomWorker

__all__ = ["Rejoiner", "group_in"]

log = logging.getLogger(__name__)

_SPREAD = 2.0  # seconds: many may lose the group at the same moment
_WELCOME_PATIENCE = 5.0  # seconds, until who follows an invitation asks as well
_EXTERNAL_AFTER = 60.0  # seconds after a request, until we commit ourselves in
_ENTRY_ATTEMPTS = 25  # how often an external Commit is made anew when others come first
_PAGES = 20  # of the archive, looked through for a GroupInfo
_DOORS = 4  # epochs of which a GroupInfo is tried


class Rejoiner:
    """Brings one room's worker into the group.

    :ivar mode: whether without being told to
    """

    def __init__(self, worker: RoomWorker, mode: RejoinMode) -> None:
        self.mode = mode
        self._worker = worker
        self._session = worker.session
        self._told = False
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._entering = asyncio.Lock()

    @property
    def is_due(self) -> bool:
        """Whether we are outside, want in, and may do something about it."""
        outside = self._session.state in (MembershipState.LOST, MembershipState.INVITED)
        return outside and (self._told or self.mode is RejoinMode.AUTOMATIC) and self._worker.lost is None

    def by_hand(self) -> None:
        """Do it from now on, until we are in."""
        self._told = True
        self.news()

    def news(self) -> None:
        """Something has happened in the room, or to us."""
        self._news.set()
        if self._session.is_member:
            self._told = False
        elif self.is_due and (self._task is None or self._task.done()) and self._worker.live.is_set():
            self._task = self._worker.spawn(self._ask_until_in(), "rejoining")

    async def _wait(self, seconds: float | None = None) -> None:
        """Wait for news, at most so long."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    # --- by request ----------------------------------------------------------------------------

    async def _ask_until_in(self) -> None:
        lost = self._session.state is MembershipState.LOST
        await asyncio.sleep(random.uniform(0, _SPREAD) + (0 if lost else _WELCOME_PATIENCE))  # noqa: S311
        tried: int | None = None
        asked_at = -_EXTERNAL_AFTER
        while self.is_due:
            await self._worker.live.wait()
            now = self._worker.plugin.now
            at = self._session.asking_at(now)
            if at is not None and at <= now:
                asked_at = _monotonic()
                await self._ask()
                continue
            wait = None if at is None else float(at - now)
            epoch = self._session.epoch_seen
            if lost and at is None and epoch is not None and epoch != tried:
                left = asked_at + _EXTERNAL_AFTER - _monotonic()
                if left <= 0 and self._session.may_try_at(now) <= now:
                    tried = epoch
                    await self._try_to_enter()
                    continue
                wait = max(1.0, left)
            await self._wait(wait)

    async def _ask(self) -> None:
        worker, session = self._worker, self._session
        epoch = session.epoch_seen
        assert epoch is not None
        try:
            asked = session.ask(worker.plugin.now, jitter=random.uniform(0.8, 1.2))  # noqa: S311
        except StoreError as error:
            worker.plugin.fire("mls_store_failed", error)
            await asyncio.sleep(1.0)
            return
        worker.plugin.fire("mls_rejoining", Rejoining(worker.room, epoch, session.attempts, external=False))
        for outgoing in asked:
            await worker.transmit(outgoing)

    # --- by an external Commit -----------------------------------------------------------------

    async def _try_to_enter(self) -> None:
        try:
            await self.enter()
        except MLSError as error:
            log.info("%s: no way in by an external Commit: %s", self._worker.room, error)

    async def enter(self) -> None:
        """Come in by an external Commit (RFC 9420 12.4.3.2), as often as others come first; in when this returns.

        :raises NoGroupInfo: the room shows no GroupInfo of the present epoch
        :raises NotPermitted: the group's policy does not let us in this way
        :raises DeliveryError: the archive can not be read, or others always come first
        """
        worker, session = self._worker, self._session
        async with self._entering:
            for attempt in range(_ENTRY_ATTEMPTS):
                await worker.live.wait()
                if not session.entry_waits and not session.is_member:
                    await self._make_entry(again=attempt > 0)
                while session.entry_waits:
                    if worker.lost is not None:
                        raise worker.lost
                    await self._wait()
                if session.is_member:
                    return
                log.info("%s: an external Commit came second, attempt %d", worker.room, attempt + 1)
                await asyncio.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311
            raise DeliveryError(f"{_ENTRY_ATTEMPTS} external Commits in a row have lost to others in {worker.room}")

    async def _make_entry(self, *, again: bool) -> None:
        worker, session = self._worker, self._session
        reasons: list[str] = []
        epoch = session.epoch_seen
        for stanza, door in await _doors(worker.delivery.archive):
            try:
                draft = session.draft_entry(door, worker.plugin.now)
                outgoing = session.finish_entry(draft, worker.plugin.now, again=again, fits=worker.check_size)
            except UsageError:  # we have come in, or the epoch has ended, while the archive was read
                return
            except PeerError as error:
                reasons.append(str(error))
                claimed = None if stanza.real_jid is None else str(stanza.real_jid)
                worker.plugin.fire("mls_rejected", Rejected(worker.room, error, claimed, stanza.archive_id))
                continue
            worker.plugin.fire("mls_rejoining", Rejoining(worker.room, draft.epoch, session.attempts, external=True))
            await worker.transmit(outgoing)
            return
        if session.epoch_seen == epoch:  # else a Commit has come after the archive was read: look again
            raise NoGroupInfo(worker.room, reasons)


async def _doors(archive: Archive) -> list[tuple[RoomStanza, GroupInfo]]:
    """GroupInfos of the latest epochs in the room, the latest first."""
    found: list[tuple[RoomStanza, list[MessageElement]]] = []
    epochs: set[tuple[bytes, int]] = set()
    async with aclosing(_backwards(archive)) as stanzas:
        async for stanza, elements in stanzas:
            found.append((stanza, elements))
            epochs |= {(element.group, element.epoch) for element in elements if isinstance(element, Commit)}
            if len(epochs) > _DOORS:  # the first Commit of all but the last of them has been found
                break
    return find_doors(reversed(found))[:_DOORS]


async def group_in(archive: Archive) -> bytes | None:
    """The id of the group whose Commits are in a room, None if there is none.

    :raises DeliveryError: the archive can not be read
    """
    async with aclosing(_backwards(archive)) as stanzas:
        async for _, elements in stanzas:
            for element in elements:
                if isinstance(element, Commit):
                    return element.group
    return None


async def _backwards(archive: Archive) -> AsyncGenerator[tuple[RoomStanza, list[MessageElement]], None]:
    """What is in the room of ours, the newest first."""
    async with aclosing(archive.pages_backwards(_PAGES)) as pages:
        async for page in pages:
            for entry in reversed(page.entries):
                stanza = entry.stanza()
                if stanza is None:
                    continue
                with suppress(PeerError):
                    yield stanza, payloads(stanza.xml, max_encoded=MAX_STANZA)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
