"""One encrypted room, live: the room's stanzas on one side, the group's state on the other.

::

    Room.stanzas ──► worker ── examine ── authenticate ── accept ──► events
                                  ▲                          │
    add remove update send ──► RoomGroup ── outbox ──► Room.send

One worker task per room takes the stanzas in the room's order; nothing else changes the
group's place in it.  What is sent has been stored before; what the room has not reflected
is sent again when the archive has been read to its end after an interruption.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from slixmpp import ClientXMPP
from slixmpp.stanza import Message

from .client import (
    CommitLost,
    Event,
    GroupChanged,
    Incoming,
    Joined,
    Member,
    MessageReceived,
    MessageSent,
    Outgoing,
    Rejected,
    RemovedFromGroup,
    RoomGroup,
    open_key_package,
)
from .client.records import RoomState
from .client.steps import Join, MoveOn, Remember, Step
from .content import EncryptedMessage, open_content, seal_body, seal_message
from .delivery import AffiliationChanged, Bounced, CatchingUp, Entered, Interrupted, Room, RoomEvent, RoomStanza
from .delivery.room import MAX_STANZA
from .errors import (
    ArchiveGap,
    DeliveryError,
    Disconnected,
    InvalidError,
    MalformedError,
    MLSError,
    NotPermitted,
    PeerError,
    RoomLost,
    StanzaTooLarge,
    StoreError,
    UsageError,
)
from .identity import ClientIdentity
from .mls.leaf_node import LeafNode
from .mls.leaf_validation import GroupRequirements, VerifiedKeyPackage
from .mls.proposals import Add, AnyProposal, GroupContextExtensions, Remove
from .mls.tree_math import LeafIndex
from .policy import RoomPolicy
from .stanza import Invitation, RoomElement, payloads
from .xmpp_xml import AnyElement

if TYPE_CHECKING:
    from .plugin import MLS

__all__ = ["AddResult", "EncryptedRoom", "SentMessage"]

log = logging.getLogger(__name__)

NS_EME = "urn:xmpp:eme:0"
_ATTEMPTS = 25  # how often a Commit is made anew when others come first
_KEY_PACKAGES_READ = 300  # per account


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of :meth:`EncryptedRoom.add`.

    :ivar added: the devices that are in the group now
    :ivar failed: reason for each account of which no device could be added
    :ivar skipped: reason for each device that was left out while others of its account were added
    """

    added: tuple[Member, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class SentMessage:
    """A message on its way.

    :ivar origin_id: its id, the same for everybody
    :ivar confirmed: future of its id in the room's archive; raises DeliveryError if the room refused it
    """

    def __init__(self, origin_id: str, confirmed: asyncio.Future[str]) -> None:
        self.origin_id = origin_id
        self.confirmed = confirmed

    def __repr__(self) -> str:
        return f"<SentMessage {self.origin_id}>"


@dataclass(slots=True)
class _Wanted:
    """Accounts to be added, with what was found of them."""

    packages: dict[ClientIdentity, VerifiedKeyPackage] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class EncryptedRoom:
    """A room with an encrypted group in it.  Made by the plugin: ``create``, ``join``, ``adopt``.

    All methods that wait may be bounded with :func:`asyncio.timeout`; what they began goes on.
    """

    def __init__(self, plugin: MLS, room: str, nick: str) -> None:
        self.plugin = plugin
        self.xmpp: ClientXMPP = plugin.xmpp
        self.session = RoomGroup(plugin.device, room)
        self.delivery = Room(self.xmpp, room, nick, on_event=self._room_event)
        self._worker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._live = asyncio.Event()
        self._joined = asyncio.Event()
        if self.session.state is RoomState.MEMBER:
            self._joined.set()
        self._settled = asyncio.Event()
        self._settled.set()
        self._committing = asyncio.Lock()
        self._outcomes: dict[str, asyncio.Future[GroupChanged]] = {}
        self._confirmations: dict[str, asyncio.Future[str]] = {}
        self._before_commit: str | None = None
        self._removed: asyncio.Event = asyncio.Event()

    def __repr__(self) -> str:
        return f"<EncryptedRoom {self.room} {self.session.state.name}>"

    # --- what it is ----------------------------------------------------------------------------

    @property
    def room(self) -> str:
        """The room's bare JID."""
        return self.session.room

    @property
    def is_member(self) -> bool:
        """Whether we are in the group."""
        return self.session.state is RoomState.MEMBER

    @property
    def members(self) -> list[Member]:
        """Everybody in the group, device by device, ourselves included.

        :raises UsageError: we are not in the group
        """
        return self.session.members()

    @property
    def accounts(self) -> list[str]:
        """Bare JIDs of everybody in the group, each once, sorted."""
        return sorted(self.session.roster.accounts())

    @property
    def epoch(self) -> int:
        """How many Commits the group has seen."""
        return self.session.group.epoch

    @property
    def policy(self) -> RoomPolicy:
        """Who may do what."""
        return self.session.policy

    @property
    def epoch_authenticator(self) -> bytes:
        """RFC 9420 8.7: the same for two members exactly if they are in the same state of the group."""
        return self.session.group.epoch_authenticator

    @property
    def live(self) -> bool:
        """Whether the archive has been read to its end and we are in the room."""
        return self._live.is_set()

    async def wait_live(self) -> None:
        """Wait until the archive has been read to its end."""
        await self._live.wait()

    async def wait_joined(self) -> None:
        """Wait until we are in the group."""
        await self._joined.wait()

    # --- life cycle ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Enter the room and begin to read where we were.

        :raises DeliveryError: the room does not let us in
        """
        try:
            await self.delivery.join(self.session.cursor)
        except (NotPermitted, RoomLost):
            raise
        except DeliveryError as error:
            log.info("%s can not be entered yet: %s", self.room, error)
        self._start_worker()

    def _start_worker(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name=f"mls {self.room}")

    async def stop(self) -> None:
        """Leave the room for now; the group's state stays."""
        self._live.clear()
        with suppress(DeliveryError):
            await self.delivery.leave()
        for task in [*self._tasks, *([self._worker] if self._worker is not None else [])]:
            if task is not asyncio.current_task():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._worker = None

    def abandon(self) -> None:
        """The end of the plugin, without farewell."""
        for task in [*self._tasks, *([self._worker] if self._worker is not None else [])]:
            task.cancel()

    def _spawn(self, work: Callable[[], object], name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(self._guard(work), name=f"mls {name} {self.room}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Callable[[], object]) -> None:
        try:
            await work()  # type: ignore[misc]
        except (MLSError, asyncio.CancelledError) as error:
            log.info("%s: %s", self.room, error)
        except Exception:
            log.exception("%s: background work failed", self.room)

    # --- reading -------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            try:
                async for stanza in self.delivery.stanzas():
                    await self._take(stanza)
                return
            except ArchiveGap as error:
                if not await self._after_gap(error):
                    return
            except RoomLost as error:
                self._fire("mls_room_lost", error)
                self._fail(error)
                return
            except NotPermitted as error:
                self._fire("mls_room_lost", error)
                self._fail(error)
                return
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("the worker of %s has failed", self.room)
                self._fire("mls_failed", error)
                self._fail(DeliveryError(f"the worker of {self.room} has failed"))
                return

    async def _after_gap(self, error: ArchiveGap) -> bool:
        """Stanzas are missing.  A member has lost track; who waits for a Welcome reads from the beginning."""
        if self.is_member:
            self._emit(self.session.give_up("the room's archive no longer goes back to where we were"))
            self._joined.clear()
            self._fail(error)
        self.session.seek(None)
        try:
            await self.delivery.join(None)
        except DeliveryError as refused:
            self._fire("mls_room_lost", refused)
            return False
        return True

    async def _take(self, stanza: RoomStanza) -> None:
        """One stanza, from the room to the application."""
        incoming = self._parse(stanza)
        before = self.session.cursor
        step = self.session.examine(incoming, self.plugin.now)
        refusal = await self._authenticate(step)
        if refusal is None and step.leaves and isinstance(step.action, Remember):
            # Our own sending may have moved the state on while the answer came.
            step = self.session.examine(incoming, self.plugin.now)
        if isinstance(step.action, MoveOn) and step.action.staged.own:
            self._before_commit = before
        events = await self._accept(step, refusal)
        self._emit(events, stanza)
        if any(isinstance(event, RemovedFromGroup) for event in events) and not self.is_member:
            # The same stanza may let us in again.
            again = self.session.examine(incoming, self.plugin.now)
            events = await self._accept(again, await self._authenticate(again))
            self._emit(events, stanza)
            if not self.is_member:
                self._removed.set()
        if isinstance(step.action, Remember):
            self._spawn(self._commit_for_others, "commit for others")

    def _parse(self, stanza: RoomStanza) -> Incoming:
        elements: tuple[RoomElement, ...] = ()
        error: PeerError | None = None
        try:
            found = payloads(stanza.xml, max_encoded=MAX_STANZA)
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
        )

    async def _authenticate(self, step: Step) -> PeerError | None:
        """Ask the Authentication Service about a step's new leaves; why it is refused, or None."""
        if not step.leaves:
            return None
        state = step.action.staged.state if isinstance(step.action, Join) else self.session.group
        verdicts = await self.plugin.authentication.validate(step.leaves, state.suite)
        for leaf, verdict in zip(step.leaves, verdicts, strict=True):
            if verdict.is_invalid:
                return InvalidError(
                    f"the Authentication Service denies {_name(leaf)}: {verdict.text}", "RFC 9420 5.3.1"
                )
            if verdict.is_unknown:
                self._fire("mls_unauthenticated", (self, _name(leaf), verdict))
        return None

    async def _accept(self, step: Step, refusal: PeerError | None) -> list[Event]:
        """Put a step into effect; while the disk is full, try again and say so."""
        pause = 1.0
        while True:
            try:
                if refusal is not None:
                    return self.session.refuse(step, refusal)
                return self.session.accept(step, self.plugin.now)
            except StoreError as error:
                self._fire("mls_store_failed", error)
                await asyncio.sleep(pause)
                pause = min(60.0, 2 * pause)

    # --- telling -------------------------------------------------------------------------------

    def _fire(self, name: str, data: object) -> None:
        self.plugin.fire(name, data)

    def _emit(self, events: Iterable[Event], stanza: RoomStanza | None = None) -> None:
        for event in events:
            match event:
                case MessageReceived():
                    self._emit_message(event, stanza)
                case MessageSent():
                    future = self._confirmations.pop(event.origin_id, None)
                    if future is not None and not future.done():
                        future.set_result(event.archive_id)
                    self._fire("mls_sent", event)
                case GroupChanged():
                    self._settle(event)
                    self._fire("mls_group_changed", event)
                case CommitLost():
                    self._settle(event)
                    self._fire("mls_commit_lost", event)
                case Joined():
                    self._joined.set()
                    self._fire("mls_joined", event)
                    self._spawn(self.plugin.replenish_soon, "replenish")
                case RemovedFromGroup():
                    self._joined.clear()
                    self._fail(UsageError(f"no longer a member of the group in {self.room}"))
                    self._fire("mls_removed", event)
                case Rejected():
                    log.info("%s: refused a stanza of %s: %s", self.room, event.claimed, event.error)
                    self._fire("mls_rejected", event)
                case _:
                    self._fire(_EVENT_NAMES[type(event).__name__], event)

    def _emit_message(self, event: MessageReceived, stanza: RoomStanza | None) -> None:
        assert stanza is not None
        try:
            message: EncryptedMessage = open_content(self, event, stanza.occupant, self.plugin.time())
        except PeerError as error:
            self._fire("mls_rejected", Rejected(self.room, error, event.claimed, event.archive_id))
            return
        self._fire("mls_message", message)

    def _settle(self, event: GroupChanged | CommitLost) -> None:
        """Tell whoever waits for our Commit."""
        if not self.session.commit_waits:
            outcomes, self._outcomes = list(self._outcomes.values()), {}
            for outcome in outcomes:
                if outcome.done():
                    continue
                if isinstance(event, GroupChanged):
                    outcome.set_result(event)
                else:
                    outcome.set_exception(_Lost(event.reason))
            self._settled.set()

    def _fail(self, error: MLSError) -> None:
        """Nothing more will come: tell everybody who waits."""
        self._live.clear()
        waiting: list[asyncio.Future[Any]] = [*self._outcomes.values(), *self._confirmations.values()]
        self._outcomes.clear()
        self._confirmations.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: nobody may be waiting for it
        self._settled.set()

    def _room_event(self, event: RoomEvent) -> None:
        match event:
            case CatchingUp(complete=True):
                self._live.set()
                self._spawn(self._flush, "flush")
                self._fire("mls_catching_up", event)
            case CatchingUp():
                self._fire("mls_catching_up", event)
            case Interrupted():
                self._live.clear()
                self._fire("mls_interrupted", event)
            case Entered():
                self._fire("mls_entered", event)
            case Bounced():
                self._bounced(event)
            case AffiliationChanged():
                self._fire("mls_affiliation_changed", event)
                if event.affiliation in ("none", "outcast"):
                    self._spawn(lambda: self._remove_expelled(str(event.jid.bare)), "remove expelled")
            case _:
                self._fire("mls_room_event", event)

    def _bounced(self, event: Bounced) -> None:
        error = DeliveryError(f"{self.room} has refused a message: {event.condition}")
        future = self._confirmations.pop(event.message_id, None)
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()
        try:
            events = self.session.bounced(event.message_id, event.condition)
        except StoreError as failed:
            self._fire("mls_store_failed", failed)
            return
        self._emit(events)
        self._fire("mls_bounced", event)

    # --- sending -------------------------------------------------------------------------------

    async def send(self, content: str | Message) -> SentMessage:
        """Encrypt and send a text, or the content of a prepared message.

        Returns when the message is stored and, if we are in the room, on the stream; it is sent
        later if we are not.  Never sends anything in clear.

        :raises UsageError: we are not in the group, or there is nothing to send
        :raises StanzaTooLarge: it would not fit into a stanza
        :raises StoreError: it could not be stored, and was not sent
        """
        self.session.group  # noqa: B018  # before anything is sealed
        account = self.xmpp.boundjid.bare
        if isinstance(content, Message):
            data = seal_message(content, account, self.room, self.plugin.time())
            origin_id = content["id"] or None
        else:
            data = seal_body(content, account, self.room, self.plugin.time())
            origin_id = None
        await self._commit_waiting_proposals()
        outgoing = self.session.compose(data, fits=self._fits, origin_id=origin_id)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._confirmations[outgoing.origin_id] = future
        await self._transmit(outgoing)
        return SentMessage(outgoing.origin_id, future)

    async def _transmit(self, outgoing: Outgoing) -> None:
        if not self._live.is_set():
            return  # it is in the outbox, and goes out once we are up to date
        try:
            await self.delivery.send(self._elements(outgoing.payloads), message_id=outgoing.origin_id)
        except Disconnected:
            log.info("%s: not connected, %s goes out later", self.room, outgoing.kind.name.lower())

    def _elements(self, found: Sequence[RoomElement]) -> list[Element]:
        elements = [element.to_stdlib() for element in found]
        encryption = Element(f"{{{NS_EME}}}encryption", {"namespace": _NS, "name": "MLS"})
        return [*elements, encryption]

    def _fits(self, found: Sequence[RoomElement]) -> None:
        size = self.delivery.measure(self._elements(found))
        if size > MAX_STANZA:
            raise StanzaTooLarge(size, MAX_STANZA)

    async def _flush(self) -> None:
        """Send again what has not come back."""
        if not self.is_member:
            return
        await self._commit_waiting_proposals()
        for outgoing in self.session.outstanding():
            if not self._live.is_set():
                return
            await self._transmit(outgoing)

    # --- committing ----------------------------------------------------------------------------

    async def _commit(
        self, make: Callable[[], Sequence[AnyProposal] | None], *, force: bool = False
    ) -> GroupChanged | None:
        """Commit, again and again until we come first or there is nothing left to do.

        :param make: what to propose in the present state; None if it has become superfluous
        :param force: commit even if there is nothing to propose (to renew our keys)
        """
        async with self._committing:
            for attempt in range(_ATTEMPTS):
                await self._settled.wait()  # a Commit from before a restart may still wait
                proposals = make()
                if proposals is None or not (proposals or force or self.session.needs_commit):
                    return None
                outgoing = self.session.commit(proposals, self.plugin.now, fits=self._fits)
                self._settled.clear()
                future: asyncio.Future[GroupChanged] = asyncio.get_running_loop().create_future()
                self._outcomes[outgoing.origin_id] = future
                await self._transmit(outgoing)
                try:
                    return await future
                except _Lost:
                    log.info("%s: a Commit came second, attempt %d", self.room, attempt + 1)
                    await asyncio.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311
            raise DeliveryError(f"{_ATTEMPTS} Commits in a row have lost to others in {self.room}")

    async def _commit_waiting_proposals(self) -> None:
        """RFC 9420 12.4: what was proposed must be committed before application data is sent."""
        while self.is_member and self.session.needs_commit:
            if not self._live.is_set():
                await self._live.wait()
            await self._commit(lambda: [] if self.session.needs_commit else None)

    async def _commit_for_others(self) -> None:
        """Somebody has proposed something: one of us commits it soon, seldom several."""
        await self._live.wait()
        others = max(1, len(self.session.roster) - 1) if self.is_member else 1
        await asyncio.sleep(random.uniform(0.05, 0.05 + min(5.0, 0.1 * others)))  # noqa: S311
        if self.is_member and self.session.needs_commit:
            await self._commit(lambda: [] if self.session.needs_commit else None)

    async def update(self) -> GroupChanged:
        """Renew our keys, so that whoever had them before is locked out (RFC 9420 12.4).

        :raises UsageError: we are not in the group
        """
        changed = await self._commit(list, force=True)
        assert changed is not None
        return changed

    # --- adding --------------------------------------------------------------------------------

    async def add(self, *accounts: str) -> AddResult:
        """Add people, each with all devices: to the room, to the group, and send them an invitation.

        Who has no usable KeyPackage is named in the result; the others are added all the same.

        :param accounts: bare JIDs
        :raises NotPermitted: the group's policy or the room forbids it
        :raises UsageError: we are not in the group
        """
        self.session.group  # noqa: B018
        wanted = _Wanted()
        unique = list(dict.fromkeys(accounts))
        await asyncio.gather(*(self._find_devices(account, wanted) for account in unique))
        found = {client.account for client in wanted.packages}
        await self._grant(account for account in unique if account in found)
        for account in found - {client.account for client in wanted.packages}:
            wanted.failed.setdefault(account, "no device left")
        added: list[Member] = []
        batches = [list(wanted.packages)]
        while batches:
            batch = batches.pop()
            try:
                changed = await self._commit(lambda batch=batch: self._adds(wanted, batch))  # type: ignore[misc]
            except StanzaTooLarge:
                if len(batch) < 2:
                    raise
                batches += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
                continue
            if changed is not None:
                added += changed.added
                await self._invite(changed)
        return AddResult(tuple(added), wanted.failed, wanted.skipped)

    def _adds(self, wanted: _Wanted, batch: Sequence[ClientIdentity]) -> list[AnyProposal] | None:
        roster = self.session.roster
        proposals: list[AnyProposal] = [
            Add(wanted.packages[client].key_package) for client in batch if roster.leaf_of(client) is None
        ]
        return proposals or None

    async def _find_devices(self, account: str, wanted: _Wanted) -> None:
        """One acceptable KeyPackage of each of an account's devices."""
        try:
            items = await self.plugin.directory.items(account, limit=_KEY_PACKAGES_READ)
        except DeliveryError as error:
            wanted.failed[account] = str(error)
            return
        if not items:
            wanted.failed[account] = "no KeyPackages: no client of this account supports MLS"
            return
        group = self.session.group
        requirements = GroupRequirements.of_context(group.context)
        rules = self.plugin.device.leaf_rules(self.plugin.now)
        ordinary: dict[ClientIdentity, list[VerifiedKeyPackage]] = {}
        last: dict[ClientIdentity, list[VerifiedKeyPackage]] = {}
        refusals: list[str] = []
        own = self.plugin.device.identity
        for item_id, element in sorted(items.items()):
            try:
                package = self._open_item(item_id, element, account, requirements, rules)
                client = ClientIdentity.from_leaf(package.leaf)
            except PeerError as error:
                refusals.append(str(error))
                continue
            if client != own and self.session.roster.leaf_of(client) is None:
                (last if package.last_resort else ordinary).setdefault(client, []).append(package)
        chosen = {
            client: random.choice(ordinary.get(client) or last[client])  # noqa: S311
            for client in {**last, **ordinary}
        }
        await self._judge(chosen, wanted)
        if not any(client.account == account for client in wanted.packages):
            known = self.session.roster.has(account)
            reason = "; ".join(sorted(set(refusals))[:3]) or ("already in the group" if known else "no usable KeyPackage")
            skipped = [why for client, why in wanted.skipped.items() if client.startswith(f"{account}/")]
            wanted.failed[account] = skipped[0] if skipped and not refusals else reason

    def _open_item(
        self, item_id: str, element: AnyElement, account: str, requirements: GroupRequirements, rules: object
    ) -> VerifiedKeyPackage:
        from .mls.leaf_validation import LeafRules
        from .stanza import KeyPackage, parse

        assert isinstance(rules, LeafRules)
        parsed = parse(element)
        if not isinstance(parsed, KeyPackage):
            raise MalformedError("an item of the KeyPackages' node that is none")
        if parsed.suite != requirements.suite.id:
            raise InvalidError(f"KeyPackages for cipher suite {parsed.suite} only", "RFC 9420 10.1")
        package = open_key_package(parsed.data, account, requirements, rules)
        if package.reference.hex() != item_id or parsed.ref != item_id:
            raise InvalidError("a KeyPackage under another's reference", "RFC 9420 5.2")
        return package

    async def _judge(self, chosen: dict[ClientIdentity, VerifiedKeyPackage], wanted: _Wanted) -> None:
        clients = list(chosen)
        leaves = [chosen[client].leaf for client in clients]
        verdicts = await self.plugin.authentication.validate(leaves, self.session.group.suite)
        for client, verdict in zip(clients, verdicts, strict=True):
            if verdict.is_valid:
                wanted.packages[client] = chosen[client]
            else:
                wanted.skipped[str(client)] = verdict.text

    async def _grant(self, accounts: Iterable[str]) -> None:
        """Affiliation first: who is added must be able to read the archive with the Welcome."""
        missing = [account for account in accounts if account != self.xmpp.boundjid.bare]
        if not missing:
            return
        try:
            await self.delivery.affiliations.grant_membership(missing)
        except NotPermitted:
            present = {str(jid) for jid in await self._affiliated()}
            absent = [account for account in missing if account not in present]
            if absent:
                raise NotPermitted(
                    f"only an admin of {self.room} can let {', '.join(absent)} into the room"
                ) from None

    async def _affiliated(self) -> list[str]:
        try:
            return [str(jid) for jid in await self.delivery.affiliations.all()]
        except DeliveryError:
            return []

    async def _invite(self, changed: GroupChanged) -> None:
        """Tell those who were added where to look; they would also find it in the archive."""
        group = self.session.group
        element = Invitation(group.group_id, self._before_commit).to_stdlib()
        for account in dict.fromkeys(member.account for member in changed.added):
            if account == self.xmpp.boundjid.bare:
                continue
            try:
                await self.delivery.invite(account, [element])
            except DeliveryError as error:
                log.warning("%s could not be invited to %s: %s", account, self.room, error)

    # --- removing ------------------------------------------------------------------------------

    async def remove(self, *accounts: str) -> tuple[Member, ...]:
        """Remove people, with all their devices, from the group and from the room.

        :param accounts: bare JIDs, or full identities (``account/device``) of single devices
        :returns: who is no longer in the group
        :raises NotPermitted: the group's policy forbids it
        :raises UsageError: we are not in the group
        """
        changed = await self._commit(lambda: self._removes(accounts))
        for account in accounts:
            if "/" not in account and account != self.xmpp.boundjid.bare:
                with suppress(NotPermitted):  # an owner's or another admin's; the group is what counts
                    await self.delivery.affiliations.revoke_membership(account)
        return changed.removed if changed is not None else ()

    def _removes(self, accounts: Sequence[str]) -> list[AnyProposal] | None:
        roster, own = self.session.roster, self.session.group.own_index
        leaves: list[int] = []
        for account in accounts:
            bare, _, device = account.partition("/")
            if device:
                leaf = roster.leaf_of(ClientIdentity(bare, device))
                leaves += [] if leaf is None else [leaf]
            else:
                leaves += roster.leaves_of(bare)
        proposals: list[AnyProposal] = [Remove(leaf) for leaf in dict.fromkeys(leaves) if leaf != own]
        return proposals or None

    async def _remove_expelled(self, account: str) -> None:
        """Who has lost the room loses the group, by the hand of a member that may."""
        await self._live.wait()
        if not self.is_member or not self.session.roster.has(account):
            return
        if account == self.xmpp.boundjid.bare:
            return
        if not self.policy.permits(self.policy.may_remove, self.xmpp.boundjid.bare, self.session.roster):
            return
        await asyncio.sleep(random.uniform(0.0, 1.0))  # noqa: S311
        await self._commit(lambda: self._removes([account]))

    async def leave(self, patience: float = 20.0) -> None:
        """Leave the group, and the room.

        A member can not remove itself: it asks, and another one commits it.  After `patience` seconds
        (nobody may be online) the keys are deleted all the same; the request stays in the archive.

        :raises UsageError: we are not in the group
        """
        group = self.session.group
        if sum(1 for _ in group.members()) > 1 and self._live.is_set():
            outgoing = self.session.propose(Remove(LeafIndex(group.own_index)), self.plugin.now, leaving=True)
            await self._transmit(outgoing)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._removed.wait()
        if self.is_member:
            self._emit(self.session.give_up())
        await self.plugin.forget(self)

    # --- policy --------------------------------------------------------------------------------

    async def set_policy(self, policy: RoomPolicy) -> GroupChanged | None:
        """Replace the group's policy.

        :raises NotPermitted: the present one forbids it
        """

        def make() -> list[AnyProposal] | None:
            extensions = self.session.group.context.extensions
            if self.policy == policy:
                return None
            return [GroupContextExtensions(policy.replaced_in(extensions))]

        return await self._commit(make)


class _Lost(Exception):
    """Another Commit came first."""


_EVENT_NAMES = {"Unreadable": "mls_unreadable", "GroupLost": "mls_group_lost"}
_NS = "urn:xmpp:mls:0"


def _name(leaf: LeafNode) -> str:
    try:
        return str(ClientIdentity.from_leaf(leaf))
    except PeerError:
        return "somebody without a proper name"
