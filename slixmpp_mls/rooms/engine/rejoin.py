"""Joining, or rejoining, a room's group.

::

    lost, or invited ──► live ──► ask to be added, again after ever longer pauses ──► a Welcome: in
                                        └── no member has come for a while ──► an external Commit ──► in

A client that has lost the group (its store is an old copy, or its user requests it) asks to be added again, once it has
read the room to its end.  A client that follows an invitation and sees no Welcome for itself asks likewise.  No other
member need be online: the request waits in the archive.  The store limits how often a client asks
(:mod:`slixmpp_mls.client.group.join_request`).

The alternative, an external Commit (RFC 9420 12.4.3.2), needs no other member, but it needs a GroupInfo that the room
shows, which may be an old one (RFC 9750 5.3).  Therefore it comes second.  It is automatic only for a client that knows
its last epoch: such a client cannot be led to an earlier one.  While an external Commit is in transit, nothing is asked
for a minute: it changes the leaf that the request would be about.

With the setting ``rejoin`` at ``"by hand"`` all of this happens only on request.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import aclosing, suppress

from ...client import Outgoing, Rejected, Rejoining
from ...client.group.group_infos import Way, group_infos_in
from ...client.storage.doubts import IDENTIFIED
from ...client.storage.records import MembershipState
from ...delivery.archive import Archive, Page, RoomStanza
from ...errors import DeliveryError, InvalidError, MLSError, NoGroupInfo, PeerError, UsageError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.group.joining import find_tree
from ...mls.structures.framing import MLSMessage
from ...mls.structures.welcome import GroupInfo as GroupInfoMessage
from ...runtime import RejoinMode
from ...stanza import AnyCommit, GroupInfo, MessageElement, read_payloads
from .parts import RoomParts
from .transmitter import Transmitter

__all__ = ["Rejoiner", "group_in", "group_infos", "newest_stanzas"]

log = logging.getLogger(__name__)

_SPREAD = 2.0  # seconds: many may lose the group at the same moment
_ASK_AFTER_INVITATION = 5.0  # seconds in which the Welcome of an invitation should have been read
_EXTERNAL_AFTER = 60.0  # seconds after a request, until we join by a Commit of our own
_COMMIT_ATTEMPTS = 25  # how often an external Commit is made again when others come first
_IN_TRANSIT = 60.0  # seconds for which a request waits for an external Commit of ours
PAGES = 20  # of the archive, searched for a GroupInfo


class Rejoiner:
    """Brings us into one room's group.

    :ivar mode: whether this happens automatically
    """

    def __init__(self, parts: RoomParts, transmitter: Transmitter) -> None:
        self.mode = parts.context.settings.rejoin
        self._parts = parts
        self._context = parts.context
        self._group = parts.group
        self._progress = parts.progress
        self._transmitter = transmitter
        self._requested = False
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._joining = asyncio.Lock()

    @property
    def requested(self) -> bool:
        """Whether the application has requested it."""
        return self._requested

    @property
    def is_due(self) -> bool:
        """Whether we are outside, or have to return, want in, and may act on it."""
        outside = self._group.state in (MembershipState.LOST, MembershipState.INVITED)
        outside = outside or self._group.room_state.coming_back
        return outside and (self._requested or self.mode is RejoinMode.AUTOMATIC) and self._progress.lost is None

    def by_hand(self) -> None:
        """Act from now on, until we are in."""
        self._requested = True
        self.news()

    def news(self) -> None:
        """React to any change in the room, or of our own state."""
        self._news.set()
        left_out = self._group.continuation.left_out
        if self._group.is_member and not left_out:
            self._requested = self._requested and self._group.returning
        elif self.is_due and (self._task is None or self._task.done()) and self._progress.live.is_set():
            self._task = self._parts.spawn(self.ask_until_in(), "rejoining")

    async def _wait(self, seconds: float | None = None) -> None:
        """Wait for news, at most for this time."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    # --- by request ----------------------------------------------------------------------------

    async def ask_until_in(self) -> None:
        """Ask to be added, repeatedly, until we are in, or may not act any more."""
        lost = self._group.state is MembershipState.LOST or self._group.returning
        at_once = lost or self._group.continuation.left_out
        await asyncio.sleep(random.uniform(0, _SPREAD) + (0 if at_once else _ASK_AFTER_INVITATION))  # noqa: S311
        tried: int | None = None
        asked_at = -_EXTERNAL_AFTER
        while self.is_due:
            await self._progress.until_live()
            now = self._context.now
            at = self._group.join_requests.asking_at(now)
            if at is not None and at <= now:
                if await self._external_commit_ends():
                    continue
                asked_at = _monotonic()
                await self._ask()
                continue
            wait = None if at is None else float(at - now)
            epoch = self._group.join_requests.epoch_seen
            if lost and at is None and epoch is not None and epoch != tried:
                left = asked_at + _EXTERNAL_AFTER - _monotonic()
                if left <= 0 and self._group.join_requests.may_try_at(now) <= now:
                    tried = epoch
                    await self._try_external_join()
                    continue
                wait = max(1.0, left)
            await self._wait(wait)

    async def _external_commit_ends(self) -> bool:
        """Wait for an external Commit of ours that is in transit, if there is one, but not for ever.

        :returns: whether it has ended
        :raises MLSError: the room is not read any more
        """
        commits = self._group.external_commits
        if not commits.waits:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(_IN_TRANSIT):
                await self._progress.until(lambda: not commits.waits)
        return not commits.waits

    async def _ask(self) -> None:
        requests, jitter = self._group.join_requests, random.uniform(0.8, 1.2)  # noqa: S311

        def ask() -> list[Outgoing]:
            now = self._context.now
            at = requests.asking_at(now)  # it may have changed while the store failed
            return [] if at is None or at > now else requests.ask(now, jitter=jitter)

        asked, epoch = await self._parts.stored(ask), requests.epoch_seen
        if not asked or epoch is None:
            return
        self._context.fire("mls_rejoining", Rejoining(self._parts.room, epoch, requests.attempts, external=False))
        for outgoing in asked:
            await self._transmitter.transmit(outgoing)

    # --- by an external Commit -----------------------------------------------------------------

    async def _try_external_join(self) -> None:
        try:
            await self.join_externally()
        except MLSError as error:
            log.info("%s: no way in by an external Commit: %s", self._parts.room, error)

    async def join_externally(self) -> None:
        """Join by an external Commit (RFC 9420 12.4.3.2), repeated while others come first, until we are in.

        :raises NoGroupInfo: the room shows no GroupInfo of the current epoch
        :raises NotPermitted: the group's policy does not let us in this way
        :raises DeliveryError: the archive cannot be read, or others always come first
        """
        group, room = self._group, self._parts.room
        tried: set[bytes] = set()
        async with self._joining:
            for attempt in range(_COMMIT_ATTEMPTS):
                await self._progress.until_live()
                if not group.external_commits.waits and not group.is_member:
                    await self._commit_externally(tried, again=attempt > 0)
                await self._progress.until(lambda: not group.external_commits.waits)
                if group.is_member:
                    return
                log.info("%s: an external Commit came second, attempt %d", room, attempt + 1)
                await asyncio.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311
            raise DeliveryError(f"{_COMMIT_ATTEMPTS} external Commits in a row have lost to others in {room}")

    async def _commit_externally(self, tried: set[bytes], *, again: bool) -> None:
        """Send an external Commit by the best GroupInfo that was not tried before.

        :param tried: GroupInfos by which a Commit was made that has lost
        """
        group, room = self._group, self._parts.room
        reasons: list[str] = []
        epoch = group.join_requests.epoch_seen
        after = group.room_state.outside.after.decode() or None
        found = await group_infos(self._parts.muc.archive, after=after)
        readable = [each for each in found if group.external_commits.can_read(each[1])]
        if len(readable) < len(found):
            reasons.append("it is encrypted for those who were members at another time")
        for way in await self._ways_in(readable, reasons):
            if way.group_info.data in tried:
                continue
            try:
                draft = group.external_commits.draft(way.group_info, self._context.now)
                outgoing = group.external_commits.finish(draft, self._context.now, again=again, fits=self._parts.fits)
            except UsageError:  # we have joined, or the epoch has ended, while the archive was read
                return
            except PeerError as error:
                reasons.append(str(error))
                self._reject(way.stanza, error)
                continue
            tried.add(way.group_info.data)
            self._context.fire(
                "mls_rejoining", Rejoining(room, draft.epoch, group.join_requests.attempts, external=True)
            )
            await self._transmitter.transmit(outgoing)
            return
        if group.join_requests.epoch_seen == epoch:  # else a Commit arrived after the archive was read: search again
            raise NoGroupInfo(room, reasons)

    async def _ways_in(self, found: list[tuple[RoomStanza, GroupInfo]], reasons: list[str]) -> list[Way[RoomStanza]]:
        """The GroupInfos by which we can join, without those that rest on a signer for whom nobody vouches.

        :param reasons: what speaks against the others is appended to it
        """
        if self._group.is_member:
            return []
        while True:
            ways, refused = self._group.group_infos.ways_in(found, self._context.now)
            trusted = ways[0].trusted if ways else None
            if trusted is not None:
                # RFC 9420 5.3.1: what a stranger shows is believed only if its leaf is acceptable.
                info = MLSMessage.decode(ways[0].message).body
                assert isinstance(info, GroupInfoMessage)
                suite = CipherSuite.get(info.group_context.cipher_suite)
                (verdict,) = await self._context.authentication.validate((trusted,), suite)
                if not verdict.is_valid and verdict.reason not in IDENTIFIED:  # the room can make up a name
                    client = ClientIdentity.from_leaf(trusted)
                    denied = InvalidError(f"a GroupInfo signed by {client}: {verdict.text}", "RFC 9420 5.3.1")
                    for stanza, element in found:
                        if _signer_key(element) == trusted.signature_key:
                            self._reject(stanza, denied)
                    found = [each for each in found if _signer_key(each[1]) != trusted.signature_key]
                    reasons.append(str(denied))
                    continue
            reasons += [str(each.error) for each in refused]
            for each in refused:
                log.info("%s: a GroupInfo by which we do not join: %s", self._parts.room, each.error)
                if not ways:
                    self._reject(each.stanza, each.error)
            return ways

    def _reject(self, stanza: RoomStanza, error: PeerError) -> None:
        claimed = None if stanza.real_jid is None else str(stanza.real_jid)
        self._context.fire("mls_rejected", Rejected(self._parts.room, error, claimed, stanza.archive_id))


async def group_infos(archive: Archive, *, after: str | None = None) -> list[tuple[RoomStanza, GroupInfo]]:
    """The GroupInfos in the newest :data:`PAGES` pages of the archive, in the room's order.

    :param after: archive id of the last stanza that we have processed as a member.  What is older tells nothing new,
        except the GroupInfo of our last epoch: two more pages are read
    """
    return group_infos_in(await newest_stanzas(archive, pages=PAGES, after=after))


async def newest_stanzas(
    archive: Archive, *, pages: int, after: str | None = None
) -> list[tuple[RoomStanza, list[MessageElement]]]:
    """The stanzas of this protocol in the newest pages of the archive, in the room's order; see :func:`group_infos`."""
    looked_through: list[tuple[RoomStanza, list[MessageElement]]] = []
    async with aclosing(archive.pages_backwards(pages)) as found:
        left = pages
        async for page in found:
            looked_through += _elements_in(page)
            left = min(left, 3) if any(entry.archive_id == after for entry in page.entries) else left
            left -= 1
            if not left:
                break
    looked_through.reverse()
    return looked_through


async def group_in(archive: Archive) -> bytes | None:
    """The id of the group whose Commits are in a room, None if there is none.

    :raises DeliveryError: the archive cannot be read
    """
    async with aclosing(archive.pages_backwards(PAGES)) as found:
        async for page in found:
            for _, elements in _elements_in(page):
                for element in elements:
                    if isinstance(element, AnyCommit):
                        return element.group
    return None


def _elements_in(page: Page) -> Iterator[tuple[RoomStanza, list[MessageElement]]]:
    """The elements of this protocol in a page of the archive, the newest first."""
    for entry in reversed(page.entries):
        stanza = entry.stanza()
        if stanza is None:
            continue
        with suppress(PeerError):
            yield stanza, read_payloads(stanza.xml)[0]


def _signer_key(element: GroupInfo) -> bytes | None:
    """The signature key of the leaf that a GroupInfo names as its signer, not verified; None if there is none."""
    with suppress(PeerError):
        info = MLSMessage.decode(element.data).body
        if isinstance(info, GroupInfoMessage):
            suite = CipherSuite.get(info.group_context.cipher_suite)
            return find_tree(suite, info, None).member(info.signer).signature_key
    return None


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
