"""The devices of our own account: listing, naming, admission to our rooms, retirement.

::

    for device in await mls.devices.all():
        print(device.id, device.label, device.fingerprint, device.rooms)
    await mls.devices.admit("4e1b0f6a92c35d78", fingerprint)
    await mls.devices.rename("96fee99052b73d57", "Old phone")
    await mls.devices.retire("96fee99052b73d57")

Each device maintains its own item in the account's node of devices.  It reads the others' items when it starts, when
the server notifies it of a change, and every five minutes.  It reacts as follows:

===========================  ==========================================================================================
another device that is new   ``mls_new_device``, once.  It is *admitted*, that is, added to every room that we are in,
                             if :meth:`OwnDevices.admit` says so, or at once if ``new_devices`` is ``"add"``
another device is retired    its leaves are removed from every room in which we meet it, now and later
one that was retired is      ``mls_device_conflict``; it is retired again
listed again
we are retired               ``mls_retired``; our KeyPackages and groups are deleted, nothing is published again
we are missing               the node has been lost: it is configured, and our item published again, with a brake
                             (:meth:`.own_entry.OwnEntry.mend`)
the node is closed           it is configured again; if that cannot be done, ``mls_failed`` says so
our id with other keys       before our first publication: another id is taken; later: ``mls_device_conflict``, and our
                             keys are published again, once at each start
===========================  ==========================================================================================

*Admitted* means two things.  This device adds the other one to its rooms.  It also vouches for the other one
(:mod:`.vouchers`), so that the new device can join these rooms on its own, whichever member is online.  The new device
reads its vouchers whenever it reads the node.

*Why new devices are not admitted automatically.*  The account's server controls the list of the account's devices.
With ``"add"`` the server can put a device of its own making into all rooms of the account and read them, without
anybody's consent.  The Authentication Service is asked about each device in any case: with
:class:`~slixmpp_mls.authentication.TrustOnFirstUse` and ``NewDeviceRule.ASK``, ``"add"`` waits for the decision there.
(A member that adds the account to a room adds all of its devices; this section is about rooms that we are in already.)

*Staggered action.*  Several devices of an account see the same changes and would make the same Commits.  The device on
which a decision was made acts at once.  The other devices act after a random time, if the action is still needed.  An
action that is impossible now (no connection, no right, no KeyPackage) is tried again.

*Last seen* is the time of the newest thing that a device has signed, as far as we have seen it: messages and Commits in
shared rooms, KeyPackages in the directory.  A device that only reads looks idle.

:mod:`.device_records` holds the state of all this in the store.

The module is longer than others: each decision about a device is a few lines, and all work on the same list.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ..client import GroupChanged, Joined
from ..delivery import CatchingUp
from ..errors import DeliveryError, DeviceRetired, MLSError, NodeUnusable, NotPermitted, StoreError, UsageError
from ..identity import ClientIdentity, fingerprint
from ..mls.crypto.cipher_suite import CipherSuite
from ..rooms.encrypted_message import EncryptedMessage
from ..rooms.encrypted_room import EncryptedRoom
from ..rooms.registry import Rooms
from ..runtime import Context, NewDevices
from ..stanza import Device, RetiredDevice
from .device_list import Listed, Published, read_devices, read_key_packages, rename, retire, retract_key_packages
from .device_records import DeviceRecord, KnownDevices
from .events import DeviceConflict, DeviceStatus, NewOwnDevice, OwnDevice, RoomsChanged
from .own_entry import OwnEntry
from .vouchers import Vouching, keep_vouchers

__all__ = ["OwnDevices"]

log = logging.getLogger(__name__)

JITTER = 10.0  # seconds, the longest wait before an action that another of our devices may take
LOOK = 300.0  # seconds between reads of the node without a notification
RETRY = 5.0  # seconds until a failed action is tried again, doubled each time, up to
RETRY_AT_MOST = 900.0
ROOM_TIMEOUT = 60.0  # seconds that a call waits for a room


class OwnDevices:
    """``mls.devices``: see the module.

    :param stop: called when our account has retired this device, with the error to raise from now on
    """

    def __init__(
        self, context: Context, rooms: Rooms, own_entry: OwnEntry, stop: Callable[[DeviceRetired], Awaitable[None]]
    ) -> None:
        self._context = context
        self._rooms = rooms
        self._own_entry = own_entry
        self._vouching = Vouching(context.devices, context.device)
        self._stop_everything = stop
        self._wake = asyncio.Event()
        self._look_due = True
        self._closed = False
        self._changing = asyncio.Lock()
        self._not_before: dict[str, float] = {}  # when a device that we have retired may be retired again
        self._told_of = ""  # why our node is unusable
        self._unsubscribe: Callable[[], None] | None = None
        self._handlers: dict[str, Callable[[Any], None]] = {
            "mls_message": self._heard,
            "mls_group_changed": self._changed,
            "mls_joined": self._joined,
            "mls_catching_up": self._caught_up,
        }

    # --- life cycle ----------------------------------------------------------------------------

    def look_again(self) -> None:
        """Handle a new session: changes made meanwhile may not have been notified."""
        self._look_due = True
        self._wake.set()

    def start(self) -> None:
        """Begin to follow changes of the account's devices."""
        self._unsubscribe = self._context.authentication.subscribe(self._told)
        for name, handler in self._handlers.items():
            self._context.xmpp.add_event_handler(name, handler)
        self._closed = False
        self._context.tasks.spawn(self._run(), "looking after our devices")
        self._wake.set()

    def close(self) -> None:
        """The counterpart of :meth:`start`."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        for name, handler in self._handlers.items():
            self._context.xmpp.del_event_handler(name, handler)
        self._closed = True
        self._wake.set()

    async def check_own(self) -> None:
        """Check before any publication that this device may keep its identity; see :meth:`OwnEntry.check`.

        :raises DeviceRetired: our account has retired this device
        :raises DeliveryError: the node could not be read
        """
        marker = await self._own_entry.check()
        if marker is not None:
            raise await self._stop(marker)

    # --- the API -------------------------------------------------------------------------------

    async def all(self) -> list[OwnDevice]:
        """All devices of our account: this one first, then the newest first, retired ones last.

        :raises DeliveryError: the account's nodes could not be read
        """
        listed = await read_devices(self._context.devices)
        published = await read_key_packages(self._context.key_packages, self._context.device.identity.account, listed)
        records = self._records()
        me = self._context.device.identity.device
        names = dict.fromkeys((me, *listed.devices, *listed.retired))
        found = [self._describe(name, listed, published.get(name, Published()), records.get(name)) for name in names]
        return sorted(
            found,
            key=lambda each: (
                not each.this,
                each.status is DeviceStatus.RETIRED,
                -(each.added.timestamp() if each.added else 0),
                each.id,
            ),
        )

    def _describe(self, name: str, listed: Listed, published: Published, record: DeviceRecord | None) -> OwnDevice:
        device, this = listed.devices.get(name), name == self._context.device.identity.device
        keys: dict[int, tuple[bytes, ...]] = {}
        for key in device.keys if device is not None else ():
            keys[key.scheme] = (*keys.get(key.scheme, ()), key.data)
        now = self._context.now
        seen = now if this else max(published.signed_at(now), record.seen if record is not None else 0)
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
            key_packages=published.ready(self._context.device.suites[0]),
            rooms=tuple(room.jid for room in self._member_rooms() if self._is_in(room, name)),
            this=this,
            status=status,
        )

    def _fingerprint(self, device: Device | None) -> str | None:
        scheme = CipherSuite.get(self._context.device.suites[0]).signature_scheme
        keys = () if device is None else device.keys
        return next((fingerprint(key.data) for key in keys if key.scheme == scheme), None)

    async def rename(self, device_id: str, label: str | None) -> None:
        """Give a device of our account another label; None removes it.

        :param label: one line of at most 64 characters
        :raises UsageError: no such device, or the label is invalid
        :raises DeliveryError: refused, unanswered or disconnected
        """
        await rename(self._context.devices, device_id, label)

    async def retire(self, device_id: str) -> RoomsChanged:
        """Retire a device of our account for good: its keys are no longer accepted, and it is removed from all rooms.

        We remove it from the rooms that we are in; the devices in other rooms remove it there.  Retiring this device
        itself means leaving all rooms and stopping (``mls_retired``).

        :raises UsageError: our account has no such device
        :raises DeliveryError: the account's nodes could not be written; completed parts stay, trying again is safe
        """
        if not isinstance(device_id, str):
            raise UsageError(f"a device's id is a text, not {type(device_id).__name__}")
        own, listed = self._context.device.identity, await read_devices(self._context.devices)
        in_a_room = any(self._is_in(room, device_id) for room in self._member_rooms())
        if not (in_a_room or {device_id} & {own.device, *listed.devices, *listed.retired, *self._records()}):
            raise UsageError(f"our account has no device {device_id}")
        if device_id == own.device:
            for room in self._member_rooms():
                await room.leave(patience=ROOM_TIMEOUT / 3, all_devices=False)
        async with self._changing:  # our own notification would trigger the same work again
            marker = await self._mark(device_id)
            if device_id == own.device:
                await self._stop(marker)
                return RoomsChanged((), {})
            with self._context.device.store.transaction() as transaction:
                KnownDevices(transaction).put(device_id, DeviceStatus.RETIRED, self._context.now)
            return await self._in_rooms(lambda room: self._remove_from(room, device_id))

    async def admit(self, device_id: str, fingerprint: str | None = None) -> RoomsChanged:
        """Vouch for a device of our account, and add it to all rooms that we are in; unreachable rooms follow later.

        :param fingerprint: of its key, as the device shows it; without it, the account's server is trusted for the
            device's keys
        :raises UsageError: our account lists no such device, or not with this key, or it is retired
        :raises DeliveryError: the account's node could not be read or written; trying again is safe
        """
        listed, me = await read_devices(self._context.devices), self._context.device.identity.device
        if device_id not in listed.devices or device_id == me:
            raise UsageError(f"our account lists no other device {device_id}")
        async with self._changing:
            await self._vouching.vouch_for(device_id, self._context.now, fingerprint)
            self._admit(device_id)
            return await self._in_rooms(lambda room: self._add_to(room, device_id))

    def _admit(self, device_id: str) -> None:
        rooms = [room.jid for room in self._member_rooms()]
        with self._context.device.store.transaction() as transaction:
            known = KnownDevices(transaction)
            known.put(device_id, DeviceStatus.ADMITTED, self._context.now)
            known.add_admissions(device_id, rooms)

    # --- rooms ---------------------------------------------------------------------------------

    def _member_rooms(self) -> list[EncryptedRoom]:
        return [room for room in self._rooms.all.values() if room.is_member]

    def _is_in(self, room: EncryptedRoom, device_id: str) -> bool:
        who = ClientIdentity(self._context.device.identity.account, device_id)
        return room.is_member and room.group.roster.leaf_of(who) is not None

    async def _in_rooms(self, work: Callable[[EncryptedRoom], Awaitable[bool]]) -> RoomsChanged:
        """Do something in all rooms at once; see :class:`RoomsChanged`."""
        done: list[str] = []
        waiting: dict[str, str] = {}

        async def one(room: EncryptedRoom) -> None:
            if not room.live:
                waiting[room.jid] = "we are not in the room at present"
                return
            try:
                async with asyncio.timeout(ROOM_TIMEOUT):
                    if await work(room):
                        done.append(room.jid)
            except TimeoutError:
                waiting[room.jid] = "the room does not answer"
            except MLSError as error:
                waiting[room.jid] = str(error)

        await asyncio.gather(*(one(room) for room in self._member_rooms()))
        for room, reason in waiting.items():
            log.info("%s: a device of ours has to wait: %s", room, reason)
        return RoomsChanged(tuple(sorted(done)), waiting)

    async def _remove_from(self, room: EncryptedRoom, device_id: str) -> bool:
        if not self._is_in(room, device_id):
            return False
        return bool(await room.remove(f"{self._context.device.identity.account}/{device_id}"))

    async def _add_to(self, room: EncryptedRoom, device_id: str) -> bool:
        if not self._is_in(room, device_id):
            name = f"{self._context.device.identity.account}/{device_id}"
            result = await room.add(name)
            if not self._is_in(room, device_id):
                raise DeliveryError(next(iter((*result.skipped.values(), *result.failed.values())), "not added"))
            added = any(str(member) == name for member in result.added)
        else:
            added = False
        self._give_up(device_id, room.jid)
        return added

    def _give_up(self, device_id: str, room: str) -> None:
        """Record that the device is in the room, or that we never add it."""
        with self._context.device.store.transaction() as transaction:
            KnownDevices(transaction).end_admission(device_id, room)

    # --- following changes ---------------------------------------------------------------------

    def _told(self, account: str) -> None:
        if account == self._context.xmpp.boundjid.bare:
            self.look_again()

    def _heard(self, message: EncryptedMessage) -> None:
        when = self._context.now if message.sent is None else int(message.sent.timestamp())
        self._seen(message.sender.account, message.sender.device, when)

    def _changed(self, event: GroupChanged) -> None:
        room = self._rooms.get(event.room)
        if room is not None and room.live:  # otherwise it is from the archive, without a trustworthy time
            self._seen(event.by.account, event.by.device, self._context.now)
        own = self._context.device.identity.account
        if any(member.account == own for member in event.added):
            self._wake.set()  # perhaps a retired device

    def _caught_up(self, event: CatchingUp) -> None:
        if event.complete:
            self._wake.set()

    def _joined(self, event: Joined) -> None:
        room = self._rooms.get(event.room)
        if room is not None:
            with self._context.device.store.transaction() as transaction:
                known = KnownDevices(transaction)
                for name in known.with_status(DeviceStatus.ADMITTED):
                    if not self._is_in(room, name):
                        known.add_admissions(name, [event.room])
        self._wake.set()

    def _seen(self, account: str, device_id: str, when: int) -> None:
        own = self._context.device.identity
        if account != own.account or device_id == own.device:
            return
        when = max(0, min(when, self._context.now))  # a clock that is ahead does not move this into the future
        try:
            with self._context.device.store.transaction() as transaction:
                KnownDevices(transaction).seen(device_id, when)
        except StoreError as error:
            self._context.fire("mls_store_failed", error)

    async def _run(self) -> None:
        retry = RETRY
        while not self._closed:
            unfinished = self._look_due or self._has_unfinished()
            pause = retry if unfinished else LOOK
            retry = min(RETRY_AT_MOST, 2 * retry) if unfinished else RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                pause = 0.0
            self._wake.clear()
            if self._closed:
                return
            try:
                if self._look_due or pause == LOOK:
                    await self._look()
                if self._unfinished():
                    await asyncio.sleep(random.uniform(0, JITTER))  # noqa: S311
                    await self._finish_changes()
            except MLSError as error:
                log.info("our devices have to wait: %s", error)
                self._look_due = self._look_due or isinstance(error, StoreError)
            except Exception as error:
                log.exception("looking after our devices has failed")
                self._context.fire("mls_failed", error)

    def _has_unfinished(self) -> bool:
        """Whether anything is left to do, as far as the store can tell."""
        try:
            return bool(self._unfinished())
        except StoreError as error:
            self._context.fire("mls_store_failed", error)
            return True

    async def _look(self) -> None:
        """Read the node and act on its content."""
        self._look_due = False
        try:
            await self._check_node()
            listed = await read_devices(self._context.devices)
        except DeliveryError:
            self._look_due = True
            raise
        me = self._context.device.identity.device
        if me in listed.retired:
            await self._stop(listed.retired[me])
            return
        if me in listed.devices:
            self._own_entry.was_listed()
        else:
            log.info("our account's node of devices does not list us, and is mended")
            self._look_due = True  # a later read shows whether it has helped
            await self._tell_of(self._own_entry.mend())
        refused = await self._retire_again(listed)
        events: list[NewOwnDevice] = []
        first = not self._records()
        add, now = self._context.settings.new_devices is NewDevices.ADD, self._context.now
        with self._context.device.store.transaction() as transaction:
            known = KnownDevices(transaction)
            before = known.all()
            for name in listed.retired:
                known.put(name, DeviceStatus.RETIRED, now)
            for name, device in listed.devices.items():
                if name in before or name == me:
                    continue
                # A device that claims to be older than we are may still have been made up.
                known.put(name, DeviceStatus.KNOWN if first else DeviceStatus.NEW, now)
                if not first:
                    events.append(NewOwnDevice(name, device.label, self._fingerprint(device), add))
            if first:  # devices that appear from now on are new
                known.put(me, DeviceStatus.KNOWN, now)
        if keep_vouchers(self._context.device, listed.devices, now):
            for room in self._rooms.all.values():
                room.worker.rejoiner.news()  # a new voucher may admit us where nothing has so far
        for event in events:
            if add:
                self._admit(event.id)
                with suppress(DeliveryError, UsageError):  # it lists no key of ours, or the node has no room
                    await self._vouching.vouch_for(event.id, now)
            self._context.fire("mls_new_device", event)
        await self._vouching.put_back(listed)
        if refused is not None:  # not before: a server that refuses it would keep new devices from our user
            raise refused

    async def _check_node(self) -> None:
        await self._tell_of(self._context.devices.check())

    async def _tell_of(self, work: Awaitable[object]) -> None:
        """Run an operation on our node; report once why the node is unusable."""
        try:
            await work
        except NodeUnusable as error:
            if str(error) != self._told_of:
                log.error("%s", error)
                self._context.fire("mls_failed", error)
            self._told_of = str(error)
        else:
            self._told_of = ""

    async def _retire_again(self, listed: Listed) -> DeliveryError | None:
        """Handle a retired device that has published itself again: remove it from the account's list.

        :returns: why one of them is still in the list
        """
        refused: DeliveryError | None = None
        for name, record in self._records().items():
            device = listed.devices.get(name)
            if record.status is not DeviceStatus.RETIRED or device is None:
                continue
            now = self._context.clock.monotonic()
            if now < self._not_before.get(name, now):
                continue  # prevents a contest of two programs
            try:
                await self._mark(name)
            except DeliveryError as error:
                self._not_before[name], refused = now + RETRY, error
                continue
            self._not_before[name] = now + RETRY_AT_MOST
            prints = tuple(fingerprint(key.data) for key in device.keys)
            self._context.fire("mls_device_conflict", DeviceConflict(name, prints))
        return refused

    async def _mark(self, device_id: str) -> RetiredDevice:
        account, since = self._context.device.identity.account, datetime.fromtimestamp(self._context.now, UTC)
        self._vouching.forget(device_id)
        return await retire(self._context.devices, self._context.key_packages, account, device_id, since)

    def _unfinished(self) -> list[tuple[EncryptedRoom, str, DeviceStatus]]:
        """Do what is pending in rooms that are reachable now."""
        rooms = {room.jid: room for room in self._member_rooms() if room.live}
        with self._context.device.store.transaction() as transaction:
            known = KnownDevices(transaction)
            retired, places = known.with_status(DeviceStatus.RETIRED), known.admissions()
        found = [
            (room, name, DeviceStatus.RETIRED)
            for room in rooms.values()
            if self._may_remove(room)
            for name in retired
            if self._is_in(room, name)
        ]
        found += [(rooms[room], name, DeviceStatus.ADMITTED) for name, room in places if room in rooms]
        return found

    def _may_remove(self, room: EncryptedRoom) -> bool:
        policy, own = room.policy, self._context.device.identity.account
        return policy.own_devices or policy.permits(policy.may_remove, own, room.group.roster)

    async def _finish_changes(self) -> None:
        async with self._changing:
            for room, name, status in self._unfinished():
                try:
                    async with asyncio.timeout(ROOM_TIMEOUT):
                        if status is DeviceStatus.RETIRED:
                            await self._remove_from(room, name)
                        else:
                            await self._add_to(room, name)
                except NotPermitted as error:
                    log.info("%s: device %s cannot be added: %s", room.jid, name, error)
                    self._give_up(name, room.jid)
                except (MLSError, TimeoutError) as error:
                    log.info("%s: device %s has to wait: %s", room.jid, name, error or "no answer")

    async def _stop(self, marker: RetiredDevice) -> DeviceRetired:
        """Stop permanently: our account has retired this device.

        :returns: the error to raise from now on
        """
        retirement = self._own_entry.note_retired(marker)
        me = self._context.device.identity
        with suppress(DeliveryError):
            await retract_key_packages(self._context.key_packages, me.account, me.device)
        await self._stop_everything(retirement)
        self._context.fire("mls_retired", marker)
        return retirement

    def _records(self) -> dict[str, DeviceRecord]:
        with self._context.device.store.transaction() as transaction:
            return KnownDevices(transaction).all()
