"""Keeps the right number of fresh, unused KeyPackages of ours in the account's directory (RFC 9420 10, 16.8).

The device plans them (:meth:`slixmpp_mls.client.device.key_packages.OwnKeyPackages.plan`).  The directory is compared
with the plan.  New KeyPackages are published.  KeyPackages are retracted if they were used, are about to expire, or
state something about us that is no longer true.  This happens at each start and every hour.  It also happens when a
KeyPackage may have been used, that is, after we have joined a group (``mls_joined``, ``mls_group_continued``), and when
the account lists another device (``mls_new_device``).

*Shares.*  A server keeps a bounded number of items in a node and drops the oldest ones.  The devices of an account
divide that number: each device keeps its share, over all its cipher suites.  It also keeps one KeyPackage of last
resort for each suite in a separate node (:mod:`slixmpp_mls.delivery.key_packages`).

*The node may be lost, closed, or full.*  It is checked whenever we publish, and repaired by configuring it again.
Afterwards it is read again: the event reports the stored items, not the sent ones.  If the server does not keep what we
publish, an error is raised, and the next publication waits; the pause doubles each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ..delivery.key_packages import NODE_LIMIT
from ..errors import NodeUnusable, PeerError
from ..identity import ClientIdentity
from ..runtime import Context
from ..runtime.tasks import UNREACHABLE
from ..stanza import KeyPackage
from ..stanza.xml import AnyElement
from .items import parse_key_package, read_listed

__all__ = ["KeyPackagesChanged", "Publication", "share"]

log = logging.getLogger(__name__)

_EVENTS = ("mls_joined", "mls_group_continued", "mls_new_device")
RESERVE = 16  # unplanned items of a node: room for devices that do not know of each other yet
_PAUSE = 60.0  # seconds before publishing again what the server has not kept, doubled each time, up to
_PAUSE_AT_MOST = 6 * 3600.0


def share(devices: int, suites: int, limit: int = NODE_LIMIT) -> int:
    """The number of ordinary KeyPackages that a device keeps for each of its suites.

    :param devices: number of the account's devices
    :param suites: number of this device's cipher suites
    :param limit: the most items that the node may have
    """
    return max(1, (limit - RESERVE) // max(1, devices) // max(1, suites))


@dataclass(frozen=True, slots=True)
class KeyPackagesChanged:
    """The KeyPackages of this device in the directory have been replenished (``mls_key_packages``).

    :ivar published: number of new ones that the directory holds
    :ivar retracted: number of those that were used, are about to expire, or are no longer true
    """

    published: int
    retracted: int


class Publication:
    """Publishes this device's KeyPackages; the account's other devices publish their own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._working = asyncio.Lock()
        self._stopped = False
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
            context, clock = self._context, self._context.clock
            account = context.device.identity.account
            directory = context.key_packages
            await directory.check()  # lost items have a cause, which this repairs
            present = self._references(await directory.items())
            if present and not clock.steady:
                log.info("KeyPackages are not looked at while the clock cannot be relied on")
                return
            listed = await read_listed(context.devices, account)
            count = share(len({*listed, context.device.identity.device}), len(context.device.suites))
            plan = context.device.key_packages.plan(present, context.now, count)
            if not plan.publish and not plan.retract:
                self._failures = 0
                return
            if plan.publish and clock.monotonic() < self._not_before:
                log.info("KeyPackages are not published again yet: the server has not kept them")
                return
            published = {
                package.reference.hex(): KeyPackage(
                    package.reference.hex(), package.suite, package.message, package.last_resort
                ).to_stdlib()
                for package in plan.publish
            }
            if published:
                await directory.publish_many(published)
            await directory.retract_many(reference.hex() for reference in plan.retract)
            there = published.keys() & (await directory.items()).keys() if published else set()
            context.fire("mls_key_packages", KeyPackagesChanged(len(there), len(plan.retract)))
            self._note(len(published), len(there))

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

    def _references(self, items: Mapping[str, AnyElement]) -> list[bytes]:
        """The KeyPackageRefs of this device's items."""
        own = []
        for item_id, element in items.items():
            try:
                if ClientIdentity.from_leaf(parse_key_package(element).leaf_node) == self._context.device.identity:
                    own.append(bytes.fromhex(item_id))
            except (PeerError, ValueError):
                log.info("an item of our KeyPackages' node cannot be read: %.80s", item_id)
        return own
