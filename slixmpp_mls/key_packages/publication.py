"""Keeps the right number of fresh, unused KeyPackages of ours in the account's directory (RFC 9420 10, 16.8).

The device plans them (:meth:`slixmpp_mls.client.device.key_packages.OwnKeyPackages.plan`).  The directory is compared
with the plan.  New KeyPackages are published.  KeyPackages are retracted if they were used, are about to expire, or
state something about us that is no longer true.  This happens at each start and every hour.  It also happens when a
KeyPackage may have been used, that is, after we have joined a group (``mls_joined``, ``mls_joined_partially``,
``mls_group_continued``), and when the account lists another device (``mls_new_device``).

*Shares.*  A server keeps a bounded number of items in a node and drops the oldest ones.  The devices of an account
divide that number: each device keeps its share, over all its cipher suites.  It also keeps one KeyPackage of last
resort for each suite in a separate node (:mod:`slixmpp_mls.delivery.key_packages`).

*Places.*  Each KeyPackage has a place (:class:`.items.Place`), and a new one takes the place of one that was used.  Our
entry of the list of devices says how many places there are, so that readers need not read all.  We do not read all
either: the ids of our items are read, and the store says which KeyPackage we have published under each.  A few items
are compared, chosen at random each time: a server that was restored from a backup has other ones.  The place of a
KeyPackage that is being published is not known until the server has it.

*The node may be lost, closed, or full.*  It is checked whenever we publish, and repaired by configuring it again.
Afterwards it is read again: the event reports the stored items, not the sent ones.  If the server does not keep what we
publish, an error is raised, and the next publication waits; the pause doubles each time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from ..client.device import PublishedKeyPackage
from ..delivery.key_packages import NODE_LIMIT
from ..errors import NodeUnusable, PeerError
from ..identity import ClientIdentity
from ..runtime import Context
from ..runtime.tasks import UNREACHABLE
from ..stanza import Device, KeyPackage, KeyPackageCount
from .items import Place, parse_item, parse_key_package, read_listed

__all__ = ["KeyPackagesChanged", "Publication", "share"]

log = logging.getLogger(__name__)

_EVENTS = ("mls_joined", "mls_joined_partially", "mls_group_continued", "mls_new_device")
RESERVE = 16  # unplanned items of a node: room for devices that do not know of each other yet
_SAMPLE = 3  # of our items, compared with what we have published
_PAUSE = 60.0  # seconds before publishing again what the server has not kept, doubled each time, up to
_PAUSE_AT_MOST = 6 * 3600.0


def share(devices: int, suites: int) -> int:
    """The number of ordinary KeyPackages that a device keeps for each of its suites.

    :param devices: number of the account's devices
    :param suites: number of this device's cipher suites
    """
    return max(1, (NODE_LIMIT - RESERVE) // max(1, devices) // max(1, suites))


@dataclass(frozen=True, slots=True)
class KeyPackagesChanged:
    """The KeyPackages of this device in the directory have been replenished (``mls_key_packages``).

    :ivar published: number of new ones that the directory holds
    :ivar retracted: number of those that were used, are about to expire, are no longer true, or had another place
    """

    published: int
    retracted: int


class Publication:
    """Publishes this device's KeyPackages; the account's other devices publish their own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._working = asyncio.Lock()
        self._stopped = False
        self._foreign: set[str] = set()  # ids of items that are not ours
        self._failures = 0  # in a row
        self._not_before = 0.0

    def start(self) -> None:
        """From now on, replenish whenever we join a group, or the account has another device."""
        for name in _EVENTS:
            self._context.xmpp.add_event_handler(name, self._joined)

    def stop(self) -> None:
        """Stop publishing."""
        self._stopped = True
        for name in _EVENTS:
            self._context.xmpp.del_event_handler(name, self._joined)

    def _joined(self, _: object) -> None:
        self._context.tasks.spawn(self.replenish(), "replenishing KeyPackages", passing=UNREACHABLE)

    async def replenish(self) -> None:
        """Publish and retract KeyPackages as planned.

        While the clock is not steady, existing KeyPackages are left unchanged.

        :raises NodeUnusable: the server does not keep what we publish, or does not let others read it
        :raises DeliveryError: the directory could not be read or written
        :raises StoreError: the store failed
        """
        async with self._working:
            if self._stopped:
                return
            context, clock, packages = self._context, self._context.clock, self._context.device.key_packages
            directory = context.key_packages
            await directory.check()  # lost items have a cause, which this repairs
            listed = await read_listed(context.devices, context.device.identity.account)
            count = share(len({*listed, context.device.identity.device}), len(context.device.suites))
            count = min(count, packages.settings.count)
            present, stale = await self._look(count)
            if (present or stale) and not clock.steady:
                log.info("KeyPackages are not looked at while the clock cannot be relied on")
                return
            plan = packages.plan(present.values(), context.now, count)
            if not plan.publish and not plan.retract and not stale:
                self._failures = 0
                await self._say(listed, count)
                return
            if plan.publish and clock.monotonic() < self._not_before:
                log.info("KeyPackages are not published again yet: the server has not kept them")
                return
            kept = {item_id: reference for item_id, reference in present.items() if reference not in plan.retract}
            placed = dict(zip(self._free_places(plan.publish, kept), plan.publish, strict=True))
            gone = (present.keys() | stale) - kept.keys() - placed.keys()
            packages.note_items({}, {*placed, *gone})  # until they are there: we may be interrupted
            if placed:
                await directory.publish_many({item_id: _element(package) for item_id, package in placed.items()})
            await directory.retract_many(gone)
            there = placed.keys() & await directory.own_ids() if placed else set()
            packages.note_items({item_id: placed[item_id].reference for item_id in there})
            context.fire("mls_key_packages", KeyPackagesChanged(len(there), len(plan.retract) + len(stale)))
            self._note(len(placed), len(there))
            await self._say(listed, count)

    async def _look(self, count: int) -> tuple[dict[str, bytes], set[str]]:
        """Look at what the directory has of this device.

        :param count: ordinary KeyPackages for each suite from now on
        :returns: the KeyPackageRefs of items by their ids; ids of our items that have to go
        """
        me, suites = self._context.device.identity.device, self._context.device.suites
        ids, known = await self._context.key_packages.own_ids(), self._context.device.key_packages.items()
        present: dict[str, bytes] = {}
        stale: set[str] = set()
        for item_id in ids:
            place = Place.of(item_id)
            if place is None or place.device != me:
                continue
            if item_id in known and place.suite in suites and (place.number is None or place.number < count):
                present[item_id] = known[item_id]
            else:
                stale.add(item_id)
        some = random.sample(sorted(present), min(_SAMPLE, len(present)))
        found = await self._references(some)
        if any(found[item_id] != present[item_id] for item_id in some):
            log.warning("the server has other KeyPackages of ours than we have published last")
            read = await self._references(present)
            stale |= {item_id for item_id, reference in read.items() if reference != present[item_id]}
            present = {item_id: reference for item_id, reference in present.items() if item_id not in stale}
        others = sorted({each for each in ids if Place.of(each) is None} - self._foreign)
        ours = {each for each, reference in (await self._references(others)).items() if reference is not None}
        self._foreign |= set(others) - ours
        return present, stale | ours

    async def _references(self, ids: Collection[str]) -> dict[str, bytes | None]:
        """The KeyPackageRefs of items; None if an item is none of this device's KeyPackages, or is not there."""
        items = await self._context.key_packages.items(ids=ids) if ids else {}
        found: dict[str, bytes | None] = dict.fromkeys(ids)
        for item_id in items.keys() & found.keys():
            try:
                package = parse_key_package(items[item_id])
                if ClientIdentity.from_leaf(package.leaf_node) == self._context.device.identity:
                    found[item_id] = bytes.fromhex(parse_item(items[item_id]).ref)
            except PeerError:
                log.info("an item of our KeyPackages' node cannot be read: %.80s", item_id)
        return found

    def _free_places(self, packages: Iterable[PublishedKeyPackage], kept: Collection[str]) -> Iterator[str]:
        """A place for each of these KeyPackages, the lowest free numbers first."""
        me = self._context.device.identity.device
        numbers = {suite: itertools.count() for suite in self._context.device.suites}
        for package in packages:
            place = Place(me, package.suite, None if package.last_resort else next(numbers[package.suite]))
            while place.item_id in kept:
                place = Place(me, package.suite, next(numbers[package.suite]))
            yield place.item_id

    async def _say(self, listed: Mapping[str, Device], count: int) -> None:
        """Say in our entry of the list of devices which KeyPackages there are, if it says something else."""
        context, me = self._context, self._context.device.identity
        counts = tuple(KeyPackageCount(suite, count) for suite in sorted(context.device.suites))
        if me.device not in listed or listed[me.device].key_packages == counts:
            return
        async with context.devices.changing:
            entry = (await read_listed(context.devices, me.account)).get(me.device)
            if entry is not None and entry.key_packages != counts:
                await context.devices.publish(me.device, replace(entry, key_packages=counts).to_stdlib())

    def _note(self, sent: int, there: int) -> None:
        """:raises NodeUnusable: the server has not kept everything that was sent"""
        if there == sent:
            self._failures = 0
            return
        pause = min(_PAUSE_AT_MOST, _PAUSE * 2**self._failures)
        self._failures += 1
        self._not_before = self._context.clock.monotonic() + pause
        raise NodeUnusable(
            self._context.key_packages.node, f"of {sent} KeyPackages that were published it keeps {there}"
        )


def _element(package: PublishedKeyPackage) -> Element:
    return KeyPackage(package.reference.hex(), package.suite, package.message, package.last_resort).to_stdlib()
