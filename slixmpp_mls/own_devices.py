"""The devices of our own account: listed, named, admitted to our rooms, retired.

::

    for device in await mls.devices.list():
        print(device.id, device.label, device.fingerprint, device.groups)
    await mls.devices.rename("96fee99052b73d57", "Old phone")
    await mls.devices.retire("96fee99052b73d57")

Each device minds its own item of the account's node of devices, and looks at the others' when it starts, when the
server tells of a change, and every hour.  What it sees there:

===========================  ==========================================================================================
another device that is new   ``mls_new_device``, once.  It is *admitted*, that is, added to every room that we are in, if
                             :meth:`OwnDevices.admit` says so, or at once if ``new_devices`` is ``"add"``
another device is retired    its leaves are removed from every room in which we meet it, now and later
we are retired               ``mls_retired``; our KeyPackages and groups are deleted, nothing is published again
we are missing               the node has been lost: our item is published again
our id with other keys       before our first publication: another id is taken; later: ``mls_device_conflict``, and our
                             keys are published again, once at each start
===========================  ==========================================================================================

*Why new devices are not admitted by themselves.*  Which devices the account has is what its server says.  With
``"add"`` it can have a device of its own making in all rooms of the account, and read them, without anybody being
asked.  The Authentication Service is asked about each device in any case: with
:class:`~slixmpp_mls.authentication.TrustOnFirstUse` and ``NewDeviceRule.ASK``, ``"add"`` waits for the decision
there.  (Who adds the account to a room adds all of its devices; this is about rooms that we are in already.)

*Not all at once.*  Several devices of an account see the same and would commit the same.  The one on which something
was decided acts at once, the others after a random time, if it is still to be done.  What can not be done now (no
connection, no right, no KeyPackage) is tried again.

*Last seen* is the newest of what a device has signed, as far as we have seen it: messages and Commits in rooms
that we share, KeyPackages in the directory.  A device that reads and says nothing looks idle.

In the store: space ``own-device``, key device id, value :class:`DeviceRecord`; space ``admission``, key device id NUL
room, empty value: to be added there.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

from .client import GroupChanged, Joined
from .content import EncryptedMessage
from .delivery import DeviceDirectory
from .errors import DeliveryError, DeviceRetired, InvalidError, MLSError, NotPermitted, PeerError, StoreError, UsageError
from .identity import ClientIdentity, fingerprint
from .mls import key_package, tls
from .mls.cipher_suite import CipherSuite
from .mls.leaf_node import KeyPackageSource
from .mls.leaf_validation import GroupRequirements, LeafRules
from .mls.parameters import HOUR
from .mls.tls import Struct, struct, uint64
from .stanza import Device, KeyPackage, RetiredDevice, parse
from .stanza.consistency import check as check_consistency
from .store.interface import Transaction
from .xmpp_xml import AnyElement

if TYPE_CHECKING:
    from .encrypted_room import EncryptedRoom
    from .plugin import MLS

__all__ = ["DeviceConflict", "DeviceStatus", "NewOwnDevice", "OwnDevice", "OwnDevices", "RoomsChanged"]

log = logging.getLogger(__name__)

JITTER = 10.0  # seconds, the longest wait before doing what another device of ours may do
LOOK = 3600.0  # seconds between looks at the node if nobody tells of a change
RETRY = 300.0  # seconds until what could not be done is tried again
PATIENCE = 30.0  # seconds that a call waits for a room
_SEEN_STEP = 600  # seconds: what is newer by less is not written
_SPACE, _ADMISSION = "own-device", "admission"
_LISTED = ("device", b"listed")  # whether we have ever published our item
_LABEL = ("device", b"label")  # of the configuration, when it was published last
_RETIRED = ("device", b"retired")  # since when, seconds since the Unix epoch


class DeviceStatus(IntEnum):
    """How we stand to another device of our account."""

    KNOWN = 1
    """It was there before us."""
    NEW = 2
    """It came after us, and nobody has decided about it."""
    ADMITTED = 3
    """It came after us, and belongs into our rooms."""
    RETIRED = 4


@struct
class DeviceRecord(Struct):
    """Another device: `since` when we know it, `seen` when it signed something last (0: never that we know)."""

    status: Annotated[DeviceStatus, tls.Enum(DeviceStatus)]
    since: uint64
    seen: uint64


@dataclass(frozen=True, slots=True)
class OwnDevice:
    """One device of our account.

    :ivar id: device id
    :ivar label: for people; any device of the account can set it
    :ivar added: when it came to the account, by its own word
    :ivar last_seen: when it has signed something last that we have seen; None if nothing
    :ivar fingerprint: of its key for our preferred cipher suite; None if it lists none, or is not listed
    :ivar signature_keys: all that it lists, by number of the TLS SignatureScheme, the present one first
    :ivar key_packages: how many KeyPackages for our preferred suite wait in the directory, of last resort included
    :ivar groups: bare JIDs of rooms in whose groups we see it
    :ivar this: whether it is the one that we are
    :ivar status: how we stand to it
    """

    id: str
    label: str | None
    added: datetime | None
    last_seen: datetime | None
    fingerprint: str | None
    signature_keys: Mapping[int, tuple[bytes, ...]] = field(repr=False)
    key_packages: int
    groups: tuple[str, ...]
    this: bool
    status: DeviceStatus


@dataclass(frozen=True, slots=True)
class NewOwnDevice:
    """Our account lists a device that we have not seen before; ``await mls.devices.admit(event.id)`` lets it in.

    :ivar label: as it calls itself
    :ivar fingerprint: of its key for our preferred cipher suite, to be compared with what it shows; None if it has none
    :ivar admitted: whether it is being added to our rooms, by configuration
    """

    id: str
    label: str | None
    fingerprint: str | None
    admitted: bool


@dataclass(frozen=True, slots=True)
class DeviceConflict:
    """Our own id was listed with other keys: a copy of our store is running somewhere, or our server lies.

    :ivar fingerprints: of those keys
    """

    id: str
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoomsChanged:
    """What became of a device in our rooms.

    :ivar done: rooms (bare JIDs) in which a Commit of this call took effect
    :ivar waiting: reason for each room in which it is still to be done; it is tried again
    """

    done: tuple[str, ...]
    waiting: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Listed:
    """What the account's node says."""

    devices: dict[str, Device]
    retired: dict[str, RetiredDevice]


class OwnDevices:
    """``mls.devices``: see the module."""

    def __init__(self, plugin: MLS, node: DeviceDirectory) -> None:
        self._plugin = plugin
        self._node = node
        self._wake = asyncio.Event()
        self._look_due = True
        self._tasks: list[asyncio.Task[None]] = []
        self._settling = asyncio.Lock()
        self._unsubscribe = lambda: None
        self._handlers = {
            "mls_message": self._heard,
            "mls_group_changed": self._changed,
            "mls_joined": self._joined,
            "mls_catching_up": lambda event: self._wake.set() if event.complete else None,
        }

    # --- life cycle ----------------------------------------------------------------------------

    def start(self) -> None:
        """Follow what happens to the account's devices."""
        self._unsubscribe = self._plugin.authentication.subscribe(self._told)
        for name, handler in self._handlers.items():
            self._plugin.xmpp.add_event_handler(name, handler)
        self._tasks = [asyncio.create_task(self._run(), name="mls own devices")]

    def close(self) -> None:
        """The counterpart of :meth:`start`."""
        self._unsubscribe()
        for name, handler in self._handlers.items():
            self._plugin.xmpp.del_event_handler(name, handler)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._tasks = []

    async def check_own(self) -> None:
        """Before anything is published: whether we may be who we are.

        :raises DeviceRetired: our account has retired this device
        :raises DeliveryError: the node could not be read
        """
        device = self._plugin.device
        with device.store.transaction() as transaction:
            retired = transaction.get(*_RETIRED)
            known = transaction.get(*_LISTED) is not None
        if retired is not None:
            raise self._retirement(int.from_bytes(retired, "big"))
        listed = await self._read()
        marker = listed.retired.get(device.identity.device)
        if marker is not None and known:
            await self._stop(marker)
            raise self._retirement(int(marker.since.timestamp()))
        there = listed.devices.get(device.identity.device)
        foreign = there is not None and not self._ours(there)
        if (foreign or marker is not None) and not known:
            log.warning("another device of the account has our id; we take another one")
            device.take_new_id()
        elif there is not None and foreign:
            prints = tuple(fingerprint(key.data) for key in there.keys)
            self._plugin.fire("mls_device_conflict", DeviceConflict(there.id, prints))

    async def enlist(self) -> None:
        """List us, with the keys that we have now.

        The configured label is published when it has changed there: a name given later, by any device, stays.

        :raises DeliveryError: refused, unanswered or disconnected
        """
        plugin, device = self._plugin, self._plugin.device
        label = plugin.config["label"]
        with device.store.transaction() as transaction:
            published = transaction.get(*_LABEL)
        changed = label is not None and (published is None or published.decode() != label)
        await plugin.authentication.issue(
            device.identity, device.signature_keys(), label=label if changed else None
        )
        with device.store.transaction() as transaction:
            transaction.put(*_LISTED, b"")
            if label is not None:
                transaction.put(*_LABEL, label.encode())

    def _ours(self, there: Device) -> bool:
        keys = self._plugin.device.signature_keys()
        return any(keys.get(key.scheme) == key.data for key in there.keys)

    @staticmethod
    def _retirement(since: int) -> DeviceRetired:
        return DeviceRetired(f"this device was retired on {datetime.fromtimestamp(since, UTC):%Y-%m-%d}")

    # --- the API -------------------------------------------------------------------------------

    async def list(self) -> list[OwnDevice]:
        """All devices of our account, this one first, then the newest first, those that are retired last.

        :raises DeliveryError: the account's nodes could not be read
        """
        listed = await self._read()
        published = await self._published(listed)
        records = self._records()
        me = self._plugin.device.identity.device
        names = dict.fromkeys((me, *listed.devices, *listed.retired))
        found = [self._describe(name, listed, published.get(name, (0, 0)), records.get(name)) for name in names]
        return sorted(
            found,
            key=lambda each: (
                not each.this,
                each.status is DeviceStatus.RETIRED,
                -(each.added.timestamp() if each.added else 0),
                each.id,
            ),
        )

    def _describe(
        self, name: str, listed: _Listed, published: tuple[int, int], record: DeviceRecord | None
    ) -> OwnDevice:
        device, this = listed.devices.get(name), name == self._plugin.device.identity.device
        keys: dict[int, tuple[bytes, ...]] = {}
        for key in device.keys if device is not None else ():
            keys[key.scheme] = (*keys.get(key.scheme, ()), key.data)
        ready, signed = published
        seen = max(signed, record.seen if record is not None else 0, self._plugin.now if this else 0)
        if name in listed.retired:
            status = DeviceStatus.RETIRED
        else:
            status = DeviceStatus.KNOWN if record is None else record.status
        return OwnDevice(
            id=name,
            label=None if device is None else device.label,
            added=None if device is None else device.added,
            last_seen=datetime.fromtimestamp(seen, UTC) if seen else None,
            fingerprint=self._fingerprint(device),
            signature_keys=keys,
            key_packages=ready,
            groups=tuple(room.room for room in self._rooms() if self._is_in(room, name)),
            this=this,
            status=status,
        )

    def _fingerprint(self, device: Device | None) -> str | None:
        scheme = CipherSuite.get(self._plugin.device.suites[0]).signature_scheme
        keys = () if device is None else device.keys
        return next((fingerprint(key.data) for key in keys if key.scheme == scheme), None)

    async def rename(self, device_id: str, label: str | None) -> None:
        """Give a device of our account another label; None takes it away.

        :param label: one line of at most 64 characters
        :raises UsageError: no such device, or not a label
        :raises DeliveryError: refused, unanswered or disconnected
        """
        device = (await self._read()).devices.get(device_id)
        if device is None:
            raise UsageError(f"our account lists no device {device_id}")
        await self._node.publish(device_id, replace(device, label=label).to_stdlib())

    async def retire(self, device_id: str) -> RoomsChanged:
        """Take a device out of our account for good: nobody accepts its keys any more, and it leaves all rooms.

        From the rooms that we are in it is removed by us, from others by the devices that are there.  To
        retire this device itself means to leave all rooms, and to stop (``mls_retired``).

        :raises UsageError: our account has no such device
        :raises DeliveryError: the account's nodes could not be written; what was done stays, trying again is safe
        """
        own, listed = self._plugin.device.identity, await self._read()
        in_a_room = any(self._is_in(room, device_id) for room in self._rooms())
        if not (in_a_room or {device_id} & {own.device, *listed.devices, *listed.retired, *self._records()}):
            raise UsageError(f"our account has no device {device_id}")
        if device_id == own.device:
            for room in self._rooms():
                await room.leave(patience=PATIENCE / 3)
        now = datetime.fromtimestamp(self._plugin.now, UTC)
        marker = listed.retired.get(device_id) or RetiredDevice(device_id, now)
        await self._node.publish(device_id, marker.to_stdlib())
        await self._retract_key_packages(device_id)
        if device_id == own.device:
            await self._stop(marker)
            return RoomsChanged((), {})
        self._note(device_id, DeviceStatus.RETIRED)
        return await self._in_rooms(lambda room: self._remove_from(room, device_id))

    async def admit(self, device_id: str) -> RoomsChanged:
        """Add a device of our account to all rooms that we are in; where it can not be done now, later.

        :raises UsageError: our account lists no such device, or it is retired
        :raises DeliveryError: the account's node could not be read
        """
        if device_id not in (await self._read()).devices or device_id == self._plugin.device.identity.device:
            raise UsageError(f"our account lists no other device {device_id}")
        self._admit(device_id)
        return await self._in_rooms(lambda room: self._add_to(room, device_id))

    def _admit(self, device_id: str) -> None:
        rooms = [room.room for room in self._rooms()]
        with self._plugin.device.store.transaction() as transaction:
            self._put(transaction, device_id, DeviceStatus.ADMITTED)
            for room in rooms:
                transaction.put(_ADMISSION, _place(device_id, room), b"")

    # --- rooms ---------------------------------------------------------------------------------

    def _rooms(self) -> list[EncryptedRoom]:
        return [room for room in self._plugin.groups.values() if room.is_member]

    def _is_in(self, room: EncryptedRoom, device_id: str) -> bool:
        who = ClientIdentity(self._plugin.device.identity.account, device_id)
        return room.is_member and room.session.roster.leaf_of(who) is not None

    async def _in_rooms(self, work: Any) -> RoomsChanged:
        """Do something in all rooms at once; see :class:`RoomsChanged`."""
        done: list[str] = []
        waiting: dict[str, str] = {}

        async def one(room: EncryptedRoom) -> None:
            if not room.live:
                waiting[room.room] = "we are not in the room at present"
                return
            try:
                async with asyncio.timeout(PATIENCE):
                    if await work(room):
                        done.append(room.room)
            except TimeoutError:
                waiting[room.room] = "the room does not answer"
            except MLSError as error:
                waiting[room.room] = str(error)

        await asyncio.gather(*(one(room) for room in self._rooms()))
        for room, reason in waiting.items():
            log.info("%s: a device of ours has to wait: %s", room, reason)
        return RoomsChanged(tuple(sorted(done)), waiting)

    async def _remove_from(self, room: EncryptedRoom, device_id: str) -> bool:
        if not self._is_in(room, device_id):
            return False
        return bool(await room.remove(f"{self._plugin.device.identity.account}/{device_id}"))

    async def _add_to(self, room: EncryptedRoom, device_id: str) -> bool:
        if not self._is_in(room, device_id):
            name = f"{self._plugin.device.identity.account}/{device_id}"
            result = await room.add(name)
            if not self._is_in(room, device_id):
                raise DeliveryError(next(iter((*result.skipped.values(), *result.failed.values())), "not added"))
            added = any(str(member) == name for member in result.added)
        else:
            added = False
        self._give_up(device_id, room.room)
        return added

    def _give_up(self, device_id: str, room: str) -> None:
        """It is in the room, or never will be by us."""
        with self._plugin.device.store.transaction() as transaction:
            transaction.delete(_ADMISSION, _place(device_id, room))

    # --- following -----------------------------------------------------------------------------

    def _told(self, account: str) -> None:
        if account == self._plugin.xmpp.boundjid.bare:
            self._look_due = True
            self._wake.set()

    def _heard(self, message: EncryptedMessage) -> None:
        when = self._plugin.now if message.sent is None else int(message.sent.timestamp())
        self._seen(message.sender.account, message.sender.device, when)

    def _changed(self, event: GroupChanged) -> None:
        room = self._plugin.groups.get(event.room)
        if room is not None and room.live:  # otherwise it is from the archive, and nobody says from when
            self._seen(event.by.account, event.by.device, self._plugin.now)
        own = self._plugin.device.identity.account
        if any(member.account == own for member in event.added):
            self._wake.set()  # perhaps one that is retired

    def _joined(self, event: Joined) -> None:
        room = self._plugin.groups.get(event.room)
        if room is not None:
            with self._plugin.device.store.transaction() as transaction:
                for name, record in self._all(transaction).items():
                    if record.status is DeviceStatus.ADMITTED and not self._is_in(room, name):
                        transaction.put(_ADMISSION, _place(name, event.room), b"")
        self._wake.set()

    def _seen(self, account: str, device_id: str, when: int) -> None:
        own = self._plugin.device.identity
        if account != own.account or device_id == own.device:
            return
        when = min(when, self._plugin.now)  # a clock that is ahead does not make it be seen in the future
        try:
            with self._plugin.device.store.transaction() as transaction:
                record = self._get(transaction, device_id)
                if record is not None and when > record.seen + _SEEN_STEP:
                    transaction.put(_SPACE, device_id.encode(), replace(record, seen=when).encode())
        except StoreError as error:
            self._plugin.fire("mls_store_failed", error)

    async def _run(self) -> None:
        while True:
            pause = RETRY if self._unfinished() else LOOK
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                pause = 0.0
            self._wake.clear()
            try:
                if self._look_due or pause == LOOK:
                    await self._look()
                if self._unfinished():
                    await asyncio.sleep(random.uniform(0, JITTER))  # noqa: S311
                    await self._settle()
            except MLSError as error:
                log.info("our devices have to wait: %s", error)
            except Exception:
                log.exception("looking after our devices has failed")

    async def _look(self) -> None:
        """Read the node, and draw the conclusions."""
        self._look_due = False
        try:
            listed = await self._read()
        except DeliveryError:
            self._look_due = True
            raise
        me = self._plugin.device.identity.device
        if me in listed.retired:
            await self._stop(listed.retired[me])
            return
        if me not in listed.devices:
            log.warning("our account's node of devices does not list us, and is mended")
            await self.enlist()
        events: list[NewOwnDevice] = []
        first = not self._records()
        add = self._plugin.config["new_devices"] == "add"
        with self._plugin.device.store.transaction() as transaction:
            known = set(self._all(transaction))
            for name in listed.retired:
                self._put(transaction, name, DeviceStatus.RETIRED)
                transaction.delete_prefix(_ADMISSION, name.encode() + b"\0")
            for name, device in listed.devices.items():
                if name in known or name == me:
                    continue
                # A device that says it is older than we are may have been made up all the same.
                self._put(transaction, name, DeviceStatus.KNOWN if first else DeviceStatus.NEW)
                if not first:
                    events.append(NewOwnDevice(name, device.label, self._fingerprint(device), add))
            if first:  # from now on, who comes is new
                self._put(transaction, me, DeviceStatus.KNOWN)
        for event in events:
            if add:
                self._admit(event.id)
            self._plugin.fire("mls_new_device", event)

    def _unfinished(self) -> list[tuple[EncryptedRoom, str, DeviceStatus]]:
        """What is to be done in rooms that can be reached now."""
        rooms = {room.room: room for room in self._rooms() if room.live}
        with self._plugin.device.store.transaction() as transaction:
            retired = [name for name, record in self._all(transaction).items() if record.status is DeviceStatus.RETIRED]
            places = [key.decode().partition("\0") for key, _ in transaction.items(_ADMISSION)]
        found = [
            (room, name, DeviceStatus.RETIRED)
            for room in rooms.values()
            if self._may_remove(room)
            for name in retired
            if self._is_in(room, name)
        ]
        found += [(rooms[room], name, DeviceStatus.ADMITTED) for name, _, room in places if room in rooms]
        return found

    def _may_remove(self, room: EncryptedRoom) -> bool:
        policy, own = room.policy, self._plugin.device.identity.account
        return policy.own_devices or policy.permits(policy.may_remove, own, room.session.roster)

    async def _settle(self) -> None:
        async with self._settling:
            for room, name, status in self._unfinished():
                try:
                    async with asyncio.timeout(PATIENCE):
                        if status is DeviceStatus.RETIRED:
                            await self._remove_from(room, name)
                        else:
                            await self._add_to(room, name)
                except NotPermitted as error:
                    log.info("%s: device %s can not be added: %s", room.room, name, error)
                    self._give_up(name, room.room)
                except (MLSError, TimeoutError) as error:
                    log.info("%s: device %s has to wait: %s", room.room, name, error or "no answer")

    async def _stop(self, marker: RetiredDevice) -> None:
        """We are retired."""
        since = int(marker.since.timestamp())
        device = self._plugin.device
        with device.store.transaction() as transaction:
            transaction.put(*_RETIRED, max(0, since).to_bytes(8, "big"))
        with suppress(DeliveryError):
            await self._retract_key_packages(device.identity.device)
        await self._plugin.stop_for_good(self._retirement(since))
        self._plugin.fire("mls_retired", marker)

    # --- the account's nodes -------------------------------------------------------------------

    async def _read(self) -> _Listed:
        found = _Listed({}, {})
        for item_id, element in (await self._node.items()).items():
            try:
                item = parse(element)
            except PeerError as error:
                log.debug("an item of our node of devices is ignored: %s", error)
                continue
            if isinstance(item, Device) and item.id == item_id:
                found.devices[item_id] = item
            elif isinstance(item, RetiredDevice) and item.id == item_id:
                found.retired[item_id] = item
        return found

    async def _published(self, listed: _Listed) -> dict[str, tuple[int, int]]:
        """Of each device: how many KeyPackages for our preferred suite it has, and when it has signed the newest."""
        preferred = self._plugin.device.suites[0]
        counts: dict[str, int] = {}
        newest: dict[str, list[tuple[int, key_package.KeyPackage]]] = {}
        for element in (await self._plugin.directory.items()).values():
            package, name = self._open(element)
            keys = {key.data for key in listed.devices[name].keys} if name in listed.devices else frozenset()
            if (
                package is None
                or not isinstance(package.leaf_node.source, KeyPackageSource)
                or package.leaf_node.signature_key not in keys  # nobody accepts it
            ):
                continue
            counts[name] = counts.get(name, 0) + (package.cipher_suite == preferred)
            # Ours begin an hour before they are made, see Device.make_key_package.
            made = package.leaf_node.source.lifetime.not_before + HOUR
            newest.setdefault(name, []).append((made, package))
        return {name: (counts[name], self._signed_at(newest[name])) for name in newest}

    def _open(self, element: AnyElement) -> tuple[key_package.KeyPackage | None, str]:
        try:
            item = parse(element)
            if isinstance(item, KeyPackage):
                package = check_consistency(item).body
                assert isinstance(package, key_package.KeyPackage)
                who = ClientIdentity.from_leaf(package.leaf_node)
                if who.account == self._plugin.device.identity.account:
                    return package, who.device
        except PeerError as error:
            log.debug("an item of our KeyPackages' node is ignored: %s", error)
        return None, ""

    def _signed_at(self, found: list[tuple[int, key_package.KeyPackage]]) -> int:
        """When the newest KeyPackage was made whose signature is good, and that is not from the future; 0 if none."""
        now = self._plugin.now
        rules = LeafRules(None, self._plugin.device.parameters.lifetime_limit)
        for made, package in sorted(found, key=lambda each: each[0], reverse=True):
            if made > now + HOUR:
                continue
            with suppress(InvalidError):
                rules.verify_key_package(package, _requirements(package))
                return min(made, now)
        return 0

    async def _retract_key_packages(self, device_id: str) -> None:
        items = await self._plugin.directory.items()
        await self._plugin.directory.retract_many(
            item_id for item_id, element in items.items() if self._open(element)[1] == device_id
        )

    # --- what is kept --------------------------------------------------------------------------

    def _records(self) -> dict[str, DeviceRecord]:
        with self._plugin.device.store.transaction() as transaction:
            return self._all(transaction)

    @staticmethod
    def _all(transaction: Transaction) -> dict[str, DeviceRecord]:
        return {key.decode(): DeviceRecord.decode(value) for key, value in transaction.items(_SPACE)}

    @staticmethod
    def _get(transaction: Transaction, device_id: str) -> DeviceRecord | None:
        value = transaction.get(_SPACE, device_id.encode())
        return None if value is None else DeviceRecord.decode(value)

    def _put(self, transaction: Transaction, device_id: str, status: DeviceStatus) -> None:
        record = self._get(transaction, device_id) or DeviceRecord(status, self._plugin.now, 0)
        transaction.put(_SPACE, device_id.encode(), replace(record, status=status).encode())

    def _note(self, device_id: str, status: DeviceStatus) -> None:
        with self._plugin.device.store.transaction() as transaction:
            self._put(transaction, device_id, status)
            transaction.delete_prefix(_ADMISSION, device_id.encode() + b"\0")


def _requirements(package: key_package.KeyPackage) -> GroupRequirements:
    return GroupRequirements(CipherSuite.get(package.cipher_suite), package.version)


def _place(device_id: str, room: str) -> bytes:
    return f"{device_id}\0{room}".encode()
