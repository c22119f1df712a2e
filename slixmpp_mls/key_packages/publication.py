"""Our KeyPackages in the account's directory: as many as there should be, fresh, and unused (RFC 9420 10, 16.8).

Which these are, the device knows (:meth:`slixmpp_mls.client.device.device.Device.plan_key_packages`); here the
directory is
compared with that, new ones are published, and those are retracted that were used, are about to expire, or say
something else of us than is true now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..account.device_list import parse_key_package
from ..errors import PeerError
from ..identity import ClientIdentity
from ..stanza import KeyPackage
from ..stanza.xml import AnyElement

if TYPE_CHECKING:
    from ..plugin import MLS

__all__ = ["KeyPackagesChanged", "OwnKeyPackages"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeyPackagesChanged:
    """Our KeyPackages in the directory are as they should be again.

    :ivar published: how many new ones
    :ivar retracted: how many that were used, are about to expire, or say something else of us than is true now
    """

    published: int
    retracted: int


class OwnKeyPackages:
    """Keeps this device's KeyPackages; those of our account's other devices are theirs to mind."""

    def __init__(self, plugin: MLS) -> None:
        self._plugin = plugin
        self._working = asyncio.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Publish none any more: we are retired."""
        self._stopped = True

    async def replenish(self) -> None:
        """See :meth:`MLS.replenish`."""
        async with self._working:
            if self._stopped:
                return
            plugin = self._plugin
            present = self._references(await plugin.directory.items())
            if present and not plugin.clock.steady:
                log.info("KeyPackages are not looked at while the clock is not to be relied on")
                return
            plan = plugin.device.plan_key_packages(present, plugin.now)
            published = {
                package.reference.hex(): KeyPackage(
                    package.reference.hex(), package.suite, package.message, package.last_resort
                ).to_stdlib()
                for package in plan.publish
            }
            if published:
                await plugin.directory.publish_many(published)
            await plugin.directory.retract_many(reference.hex() for reference in plan.retract)
            if plan.publish or plan.retract:
                plugin.fire("mls_key_packages", KeyPackagesChanged(len(plan.publish), len(plan.retract)))

    def _references(self, items: Mapping[str, AnyElement]) -> list[bytes]:
        """The KeyPackageRefs of this device's items."""
        own = []
        for item_id, element in items.items():
            try:
                if ClientIdentity.from_leaf(parse_key_package(element).leaf_node) == self._plugin.device.identity:
                    own.append(bytes.fromhex(item_id))
            except (PeerError, ValueError):
                log.info("an item of our KeyPackages' node can not be read: %.80s", item_id)
        return own
