"""This device's own item in the account's node of devices: its check at a start, its publication and republication.

In the store, space ``device``: key ``listed`` (empty value: we have published our item before), ``label`` (the
configured label, as last published), ``retired`` (when our account retired this device, seconds since the Unix epoch, 8
octets).

*A new store at each start* makes a new device at each start: a container without a volume does.  The account would
list more and more devices, all of which are dead but one, and others would add all of them to their groups.  A device
with a new store therefore looks for others with its label, or without one if it has none (``mls_new_store``).  It takes
the oldest of them from the list, and retracts their KeyPackages: with the setting ``replace_same_label`` all, otherwise
those beyond :data:`MOST_NAMESAKES`, so that a program that starts again and again fills neither the list nor the rooms.
They are not marked as retired: such a marker stays forever, and a device that is alive all the same, on another host
with the same label, lists itself again.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from ..errors import DeviceRetired, NodeUnusable
from ..identity import fingerprint
from ..runtime import Context
from ..stanza import Device, RetiredDevice
from .device_list import Listed, read_devices, retract_key_packages
from .events import DeviceConflict, NewStore

__all__ = ["MOST_NAMESAKES", "OwnEntry", "retirement"]

log = logging.getLogger(__name__)

PAUSE = 5.0  # seconds before our item is published after another loss, doubled each time, up to
CALM = 3600.0  # seconds after which a loss counts as a new one
TOO_OFTEN = 2  # losses without calm between them that are repaired silently

#: Other devices with our label that a new store leaves in the list; hardly anybody has more that are alive.
MOST_NAMESAKES = 16

_LISTED = ("device", b"listed")
_LABEL = ("device", b"label")
_RETIRED = ("device", b"retired")


class OwnEntry:
    """The item under which our account lists this device."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mended = 0  # number of repairs without calm between them
        self._not_before = -CALM
        self._was_listed = False

    def was_listed(self) -> None:
        """Note that the node lists us, or did.

        A service of another kind (X.509) lists no devices, and there is nothing to mend.
        """
        self._was_listed = True

    async def check(self) -> RetiredDevice | None:
        """Check before any publication that this device may keep its identity.

        If another device has our id, and we have never published ours, we take another id.  If the id is listed with
        other keys later, that is a conflict (``mls_device_conflict``).

        :returns: the retirement marker, if our account has just retired this device; see :meth:`note_retired`
        :raises DeviceRetired: our account has retired this device, as an earlier run has recorded
        :raises DeliveryError: the node could not be read
        :raises StoreError: the store failed
        """
        device = self._context.device
        with device.store.transaction() as transaction:
            retired = transaction.get(*_RETIRED)
            known = transaction.get(*_LISTED) is not None
        if retired is not None:
            raise retirement(int.from_bytes(retired, "big"))
        listed = await read_devices(self._context.devices)
        marker = listed.retired.get(device.identity.device)
        if marker is not None and known:
            return marker
        if not known:
            await self._look_for_namesakes(listed)
        there = listed.devices.get(device.identity.device)
        foreign = there is not None and not self._is_ours(there)
        if there is not None and not foreign:
            self.was_listed()
        if (foreign or marker is not None) and not known:
            log.warning("another device of the account has our id; we take another one")
            device.take_new_id()
        elif there is not None and foreign:
            prints = tuple(fingerprint(key.data) for key in there.keys)
            self._context.fire("mls_device_conflict", DeviceConflict(there.id, prints))
        return None

    async def _look_for_namesakes(self, listed: Listed) -> None:
        """Our store is new: report other devices with our label, and take the oldest, or all, from the list.

        :raises DeliveryError: refused, unanswered or disconnected; completed parts stay
        """
        context = self._context
        label, own = context.settings.label, context.device.identity
        names = tuple(name for name, each in listed.devices.items() if each.label == label and name != own.device)
        if not names:
            return
        oldest = sorted(names, key=lambda name: (_added(listed.devices[name]), name))
        replaced = tuple(oldest if context.settings.replace_same_label else oldest[:-MOST_NAMESAKES])
        for name in replaced:
            await context.devices.retract(name)
            await retract_key_packages(context.key_packages, own.account, name)
        described = "without a label" if label is None else f"with the label {label!r}"
        log.warning(
            "the store is new, and the account lists %d other device(s) %s; %d of them are taken from the list%s",
            len(names),
            described,
            len(replaced),
            ""
            if len(replaced) == len(names)
            else ". A store that is lost at each start leaves a dead device each time",
        )
        context.fire("mls_new_store", NewStore(label, names, replaced))

    async def publish(self) -> None:
        """List this device with its current keys.

        The configured label is published when the configuration has changed: a label that any device sets later stays.

        :raises DeliveryError: refused, unanswered or disconnected
        :raises StoreError: the store failed
        """
        context, device = self._context, self._context.device
        label = context.settings.label
        with device.store.transaction() as transaction:
            published = transaction.get(*_LABEL)
        changed = label is not None and (published is None or published.decode() != label)
        written = context.devices.publications
        async with context.devices.changing:
            await context.authentication.issue(
                device.identity,
                device.signature_keys(),
                label=label if changed else None,
                also=device.next_keys or device.former_keys,
            )
        if context.devices.publications > written:
            self.was_listed()
        with device.store.transaction() as transaction:
            transaction.put(*_LISTED, b"")
            if label is not None:
                transaction.put(*_LABEL, label.encode())

    async def mend(self) -> None:
        """Restore our missing item: configure the node if that is the reason, and publish the item again.

        If the node does not keep our item, or loses it repeatedly, that is an error.  We then wait before we publish
        again, twice as long each time: two programs that undo each other's work would otherwise continue without end.

        :raises NodeUnusable: our item is not kept; reported once
        :raises DeliveryError: refused, unanswered or disconnected
        :raises StoreError: the store failed
        """
        if not self._was_listed:
            return
        node, now = self._context.devices, self._context.clock.monotonic()
        if now < self._not_before:
            return
        calm = now - self._not_before > CALM
        self._mended = 1 if calm else self._mended + 1
        self._not_before = now + min(CALM, PAUSE * 2 ** (self._mended - 1))
        await self.publish()
        if not await self._is_listed():
            # A new node of some servers keeps one item until it is configured.  Another device of ours that mends it at
            # the same moment may have replaced ours.
            await node.check()
            await self.publish()
            if not await self._is_listed():
                raise NodeUnusable(node.node, "it does not keep our item")
        if self._mended > TOO_OFTEN:
            raise NodeUnusable(
                node.node, f"our item has been lost {self._mended} times, a short time each after another"
            )

    async def _is_listed(self) -> bool:
        listed = await read_devices(self._context.devices)
        return self._context.device.identity.device in listed.devices

    def note_retired(self, marker: RetiredDevice) -> DeviceRetired:
        """Record permanently that our account has retired this device.

        :returns: the error to raise from now on
        :raises StoreError: the store failed
        """
        since = int(marker.since.timestamp())
        with self._context.device.store.transaction() as transaction:
            transaction.put(*_RETIRED, max(0, since).to_bytes(8, "big"))
        return retirement(since)

    def _is_ours(self, there: Device) -> bool:
        device = self._context.device
        ours = (device.signature_keys(), device.next_keys, device.former_keys)
        return any(keys.get(key.scheme) == key.data for key in there.keys for keys in ours)


def _added(device: Device) -> float:
    """When a device says that it was listed; those that do not say so count as the oldest."""
    return device.added.timestamp() if device.added is not None else 0.0


def retirement(since: int) -> DeviceRetired:
    """The error that is raised after our account has retired this device.

    :param since: seconds since the Unix epoch
    """
    return DeviceRetired(f"this device was retired on {datetime.fromtimestamp(since, UTC):%Y-%m-%d}")
