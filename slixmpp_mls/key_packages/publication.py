"""Our KeyPackages in the account's directory: as many as there should be, fresh and unused (RFC 9420 10, 16.8).

The device knows which these are (:meth:`slixmpp_mls.client.device.key_packages.OwnKeyPackages.plan`).  The directory is
compared with that: new KeyPackages are published, and those are retracted that were used, are about to expire, or say
something of us that is no longer true.  This happens at each start and every hour, and when a KeyPackage may have been
used: when we have come into a group (``mls_joined``, ``mls_group_continued``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import PeerError
from ..identity import ClientIdentity
from ..runtime import Context
from ..runtime.tasks import UNREACHABLE
from ..stanza import KeyPackage
from ..stanza.xml import AnyElement
from .items import parse_key_package

__all__ = ["KeyPackagesChanged", "Publication"]

log = logging.getLogger(__name__)

_JOINED = ("mls_joined", "mls_group_continued")


@dataclass(frozen=True, slots=True)
class KeyPackagesChanged:
    """Our KeyPackages in the directory are as they should be again (``mls_key_packages``).

    :ivar published: number of new ones
    :ivar retracted: number of those that were used, are about to expire, or say what is no longer true
    """

    published: int
    retracted: int


class Publication:
    """Publishes this device's KeyPackages; our account's other devices publish theirs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._working = asyncio.Lock()
        self._stopped = False

    def start(self) -> None:
        """Replenish from now on whenever we come into a group."""
        for name in _JOINED:
            self._context.xmpp.add_event_handler(name, self._joined)

    def stop(self) -> None:
        """Publish nothing any more."""
        self._stopped = True
        for name in _JOINED:
            self._context.xmpp.del_event_handler(name, self._joined)

    def _joined(self, _: object) -> None:
        self._context.tasks.spawn(self.replenish(), "replenishing KeyPackages", passing=UNREACHABLE)

    async def replenish(self) -> None:
        """Publish and retract what is to be published and retracted.

        While the clock is not steady, KeyPackages that are there are left alone.

        :raises DeliveryError: the directory could not be read or written
        :raises StoreError: the store failed
        """
        async with self._working:
            if self._stopped:
                return
            context = self._context
            present = self._references(await context.key_packages.items())
            if present and not context.clock.steady:
                log.info("KeyPackages are not looked at while the clock cannot be relied on")
                return
            plan = context.device.key_packages.plan(present, context.now)
            published = {
                package.reference.hex(): KeyPackage(
                    package.reference.hex(), package.suite, package.message, package.last_resort
                ).to_stdlib()
                for package in plan.publish
            }
            if published:
                await context.key_packages.publish_many(published)
            await context.key_packages.retract_many(reference.hex() for reference in plan.retract)
            if plan.publish or plan.retract:
                context.fire("mls_key_packages", KeyPackagesChanged(len(plan.publish), len(plan.retract)))

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
