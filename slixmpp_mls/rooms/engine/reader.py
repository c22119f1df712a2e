"""Reads one room: applies the group's rules to each stanza, in the room's order, and makes the necessary queries.

::

    batch ──► examine ──┬── of another room's group? wait for that ──┐
                        ├── we lack the tree that it needs? wait ────┤
                        ├── parts of it elsewhere? fetch them ───────┼──► accept or refuse ──► events
                        ├── a large tree? verify it in a thread ─────┤
                        └── new leaves? Authentication Service ──────┘

Queries take time, and our own sending may change the state meanwhile: then the stanza is examined again.  Messages need
no queries, so they are processed together, in one transaction.

A live stanza may show that an earlier one has not reached us (the link between two servers broke).  It is not
processed.  Instead the archive is read again from our place on; it holds both stanzas, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...client import Doubt, Event, Incoming, Step, WholeTree
from ...client.group.actions import Enter, Ignore, JoinPartially, MoveOn, Read, Remember, Sent
from ...client.group.resumption_psks import Awaited
from ...client.group.tree_check import CheckedWhole, TreeCheck
from ...client.storage.doubts import IDENTIFIED
from ...delivery import RoomStanza
from ...delivery.archive import is_tombstone
from ...errors import DeliveryError, InvalidError, MalformedError, PeerError, StoreError
from ...mls.group.group_state import MemberState
from ...mls.structures.leaf_node import LeafNode
from ...stanza import RoomElement, read_payloads
from ...stanza.content_profile import says_something_in_clear
from .blob_fetching import BlobFetching
from .member_checks import MemberChecks
from .parts import RoomParts
from .whole_tree import TreeFetcher

__all__ = ["Reader", "Taken"]

log = logging.getLogger(__name__)

_LARGE = "urn:xmpp:mls:0 large"
_REREADING_PAUSE = 1.0  # seconds, the shortest between two rereadings: a member could cause one with each message


@dataclass(frozen=True, slots=True)
class Taken:
    """A processed stanza whose effect is on the disk.

    :ivar events: events for the application
    """

    stanza: RoomStanza
    step: Step
    events: list[Event]


class Reader:
    """Processes one room's stanzas.

    :param on_steps: called with processed stanzas, in the room's order
    :param reached: waits until another room of ours is in an epoch that this one needs, or will not reach it
    """

    def __init__(
        self,
        parts: RoomParts,
        checks: MemberChecks,
        whole_tree: TreeFetcher,
        on_steps: Callable[[Sequence[Taken]], None],
        reached: Callable[[Awaited], Awaitable[None]],
    ) -> None:
        self._parts = parts
        self._context = parts.context
        self._group = parts.group
        self._checks = checks
        self._whole_tree = whole_tree
        self._on_steps = on_steps
        self._reached = reached
        self._blobs = BlobFetching(parts)
        self._read_again_at = 0.0

    async def take_all(self, stanzas: deque[RoomStanza]) -> None:
        """Process some stanzas, from the room to the application."""
        while stanzas:
            done, examined = self._take_together(stanzas)
            if done:
                self._on_steps(done)
            if stanzas and not await self._take(stanzas.popleft(), examined):
                return
            await asyncio.sleep(0)  # other rooms' turn

    def _take_together(self, stanzas: deque[RoomStanza]) -> tuple[list[Taken], Step | None]:
        """Process from the front all that fits into one transaction: messages, and stanzas without effect.

        :returns: these; and the meaning of the next one, if it was examined
        """
        done: list[Taken] = []
        step: Step | None = None
        try:
            step = self._group.processing.examine(_parse(stanzas[0]), self._context.now)
            if not self._fits_together(stanzas[0], step):
                return [], step  # a Commit, mostly: it has a transaction of its own
            with self._group.room_state.together(lasting=False):
                for stanza in stanzas:
                    step = step or self._group.processing.examine(_parse(stanza), self._context.now)
                    if not self._fits_together(stanza, step):
                        break
                    done.append(Taken(stanza, step, self._group.applying.accept(step, self._context.now)))
                    step = None
        except StoreError:
            return [], None  # the first one is tried again alone, and reported
        for _ in done:
            stanzas.popleft()
        return done, step

    def _fits_together(self, stanza: RoomStanza, step: Step) -> bool:
        """Whether a step needs no queries, and the stanzas after it can be processed in the same transaction."""
        if not isinstance(step.action, Read | Sent | Ignore) or step.fetch or step.check or step.awaits:
            return False
        if step.needs_tree or (step.gap and not stanza.archived):
            return False
        return self._unknown_speaker(step) is None

    async def _take(self, stanza: RoomStanza, examined: Step | None) -> bool:
        """Process one stanza of any kind.

        :returns: whether it is done; otherwise it is read again, after others
        """
        step = examined or await self._examine(_parse(stanza))
        if step.gap and not stanza.archived:
            await self._read_again()
            return False
        incoming = step.incoming
        while step.needs_tree:
            await self._whole_tree.until_readable(step)
            step = await self._examine(incoming)
            if step.gap and not stanza.archived:
                await self._read_again()
                return False
        speaker = self._unknown_speaker(step)
        if speaker is not None:
            await self._parts.until_stored(lambda: self._checks.ask_about_speaker(speaker))
            step = await self._examine(incoming)
        if step.awaits is not None and self._blobs.may_be_in_vain(stanza):
            await self._reached(step.awaits)
            step = await self._examine(incoming)
            if isinstance(step.action, Ignore):
                self._blobs.was_in_vain(stanza)
        unknown: list[Doubt] = []
        step, refusal = await self._complete(step, stanza)
        if refusal is None:
            denial, unknown = await self._judge_inviter(step)
            if unknown and isinstance(step.action, JoinPartially):
                # A partial member has no doubts that keep it from sending: it waits for the tree.
                step, refusal = await self._complete(await self._examine(step.incoming.with_whole_tree()), stanza)
            if step.incoming.fetched and refusal is None and (denial is not None or isinstance(step.action, Ignore)):
                self._blobs.was_in_vain(stanza)
            refusal = refusal or denial
        doubts = [] if refusal is not None else await self._judge(step, unknown)
        if step.leaves and isinstance(step.action, Remember):
            # Our own sending may have changed the state before the answer arrived.
            step = await self._examine(step.incoming)
        silenced = self._group.sending.silenced
        self._on_steps([Taken(stanza, step, await self._accept(step, doubts, refusal))])
        if doubts and self._parts.progress.live.is_set():
            self._parts.spawn(self._checks.act(), "acting on doubts")
            self._checks.ask_on()
        if silenced:
            self._checks.resume()
        return True

    async def _complete(self, step: Step, stanza: RoomStanza) -> tuple[Step, PeerError | None]:
        """Get what a stanza says is elsewhere, and verify its large tree.

        :returns: the meaning of the stanza with it, and why it cannot be had
        """
        incoming = step.incoming
        while step.fetch is not None or step.check is not None:
            if step.check is not None:
                incoming = incoming.with_checked(await self._check(step.check))
                step = await self._examine(incoming)
                continue
            assert step.fetch is not None
            try:
                incoming = incoming.with_blob(step.fetch, await self._blobs.fetch(step.fetch, stanza))
                step = await self._examine(incoming)
            except (DeliveryError, PeerError) as error:
                reason = f"a part of a stanza that is elsewhere cannot be fetched: {error}"
                return step, InvalidError(reason, _LARGE)
        return step, None

    async def _check(self, check: TreeCheck) -> CheckedWhole:
        """Verify a large ratchet tree.  Nothing has changed if this is cancelled."""
        self._context.fire("mls_whole_tree", WholeTree(self._parts.room, "checking", check.octets, 1))
        return await asyncio.to_thread(check.run)

    async def _read_again(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._read_again_at + _REREADING_PAUSE - clock())
        self._read_again_at = clock()
        log.info("%s: something is missing; the archive is read again", self._group.room)
        self._parts.muc.read_again(self._group.cursor)

    async def _judge_inviter(self, step: Step) -> tuple[InvalidError | None, list[Doubt]]:
        """RFC 9420 5.3.1, 12.4.3.1: a Welcome is a statement by its GroupInfo's signer.

        The signer's leaf is judged before the others.  Otherwise any sender could make us ask about as many accounts as
        a made-up tree has, on any server.

        If the service cannot tell whose that leaf is, and nothing that we know shows it, nobody whom we know has let us
        in (mls, "Authenticating Devices"): such a doubt silences us in the group.

        :returns: why the Welcome is refused, and such a doubt
        """
        partial = self._group.room_state.partial
        if step.join is None or self._group.is_member or (partial is None and self._group.sending.talks_to_anybody):
            return None, []
        staged = step.join.staged
        leaf = staged.state.tree.member(staged.inviter)
        doubts = await self._checks.judge((leaf,), staged.state.suite)
        doubts = [doubt for doubt in doubts if doubt.denied or doubt.reason not in IDENTIFIED]
        for doubt in doubts:
            if doubt.denied:
                return InvalidError(f"a Welcome by {doubt.client}: {doubt.text}", "RFC 9420 5.3.1"), []
            if partial is not None and leaf.signature_key != partial.inviter.signature_key:
                # mls, "Large Groups": of an administrator we know the name alone, and our state would be deleted
                return InvalidError(f"a Welcome in the name of {doubt.client}: {doubt.text}", _LARGE), []
        if partial is not None or self._group.room_state.known() is not None:
            return None, []
        return None, [replace(doubt, uninvited=True) for doubt in doubts]

    async def _judge(self, step: Step, known: Sequence[Doubt]) -> list[Doubt]:
        """Ask the Authentication Service about a step's new leaves (RFC 9420 5.3.1).

        :param known: doubts that we have of some of them
        """
        if not step.leaves:
            return []
        if isinstance(step.action, Enter):
            state: MemberState[Any] = step.action.state
        else:
            state = self._group.mls if step.join is None else step.join.staged.state
        for before, after in step.successions:
            if before.signature_key != after.signature_key:
                await self._context.authentication.note_successor(before, after, state.suite)
        if isinstance(step.action, MoveOn) and step.action.staged.own:
            return await self._checks.judge(step.leaves, state.suite)  # our own user has named them
        doubts = await self._checks.judge_named(step.leaves, state.suite)
        clients = {doubt.client for doubt in known}
        return [*(doubt for doubt in doubts if doubt.client not in clients), *known]

    def _unknown_speaker(self, step: Step) -> LeafNode | None:
        """The sender of a message, if the Authentication Service has not been asked about it yet."""
        leaf = step.action.received.leaf if isinstance(step.action, Read) else None
        return leaf if leaf is not None and self._checks.must_ask(leaf) else None

    async def _accept(self, step: Step, doubts: list[Doubt], refusal: PeerError | None) -> list[Event]:
        """Apply a step."""
        if refusal is not None:
            return await self._parts.stored(lambda: self._group.applying.refuse(step, refusal, self._context.now))
        return await self._parts.stored(lambda: self._group.applying.accept(step, self._context.now, doubts))

    async def _examine(self, incoming: Incoming) -> Step:
        return await self._parts.stored(lambda: self._group.processing.examine(incoming, self._context.now))


def _parse(stanza: RoomStanza) -> Incoming:
    """Read the elements of a stanza.

    A stanza is never refused for its size: a limit of our own, which other clients do not have, would split the group.
    """
    elements: tuple[RoomElement, ...] = ()
    error: PeerError | None = None
    neighbours: list[MalformedError] = []
    try:
        found, neighbours = read_payloads(stanza.xml)
        elements = tuple(element for element in found if isinstance(element, RoomElement))
    except PeerError as refused:
        error = refused
    return Incoming(
        archive_id=stanza.archive_id,
        payloads=elements,
        claimed=None if stanza.real_jid is None else str(stanza.real_jid),
        origin_id=stanza.origin_id,
        stamp=None if stanza.stamp is None else stanza.stamp.timestamp(),
        error=error,
        refused=tuple(neighbours),
        occupant=str(stanza.occupant),
        clear=says_something_in_clear(stanza.xml),
        tombstone=not elements and is_tombstone(stanza.xml),
    )
