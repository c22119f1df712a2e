"""The directory of KeyPackages: one PEP item for each.

A KeyPackage is meant to be used once, but PEP cannot hand an item to one reader and then delete it: two readers may
fetch the same one.  The owner replaces a KeyPackage that has been used, and readers pick at random among several.

KeyPackages of last resort have a node of their own.  A server keeps a bounded number of items in a node (Prosody's
default: 256) and drops the oldest ones.  In a separate node, ordinary KeyPackages cannot displace those of last resort.
Readers see one directory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from xml.etree.ElementTree import Element

from slixmpp import ClientXMPP

from ..errors import DeliveryError, NotPermitted, Refused
from .pep import PEPNode
from .stream import in_parallel

__all__ = ["LAST_RESORT_NODE", "NODE", "NODE_LIMIT", "KeyPackageDirectory"]

NODE = "urn:xmpp:mls:0:key-packages"
LAST_RESORT_NODE = "urn:xmpp:mls:0:last-resort-key-packages"
_PAGE = 20  # items, of up to 24 kB each in base64
NODE_LIMIT = 256
"""Items of one node that every server is expected to keep: Prosody's limit, which is below ejabberd's."""


class KeyPackageDirectory(PEPNode):
    """Our own KeyPackages (to publish and retract) and those of any account (to read, see `PEPNode.items`).

    :ivar last_resort: the node of the KeyPackages of last resort
    """

    def __init__(self, xmpp: ClientXMPP) -> None:
        # The server never pushes items: only a client that is about to add the owner needs a KeyPackage.
        super().__init__(xmpp, NODE, send_last="never", page=_PAGE)
        self.last_resort = PEPNode(xmpp, LAST_RESORT_NODE, send_last="never", page=_PAGE)

    async def check(self) -> bool:
        """See `PEPNode.check`, for both nodes."""
        return all(await in_parallel([super().check(), self.last_resort.check()]))

    async def publish(self, item_id: str, element: Element) -> None:
        """See `PEPNode.publish`; a KeyPackage of last resort goes into its separate node."""
        if element.get("last-resort") in ("true", "1"):
            await self.last_resort.publish(item_id, element)
        else:
            await super().publish(item_id, element)

    async def retract(self, item_id: str) -> bool:
        """See `PEPNode.retract`, for both nodes."""
        there = await super().retract(item_id)
        return await self.last_resort.retract(item_id) or there

    async def own_ids(self) -> set[str]:
        """See `PEPNode.own_ids`: the ids of both nodes."""
        ordinary, last_resort = await asyncio.gather(super().own_ids(), self.last_resort.own_ids())
        return ordinary | last_resort

    async def last_resort_items(self, account: str) -> dict[str, Element]:
        """See `PEPNode.items`: those of the node of KeyPackages of last resort alone, one for each device and suite.

        :returns: empty also if the node is closed to us, which Prosody says of one that is not there
        :raises NoAnswer, Disconnected: the stream or the server fails.
        """
        try:
            return await self.last_resort.items(account)
        except (NotPermitted, Refused):
            return {}

    async def items(
        self, account: str | None = None, ids: Iterable[str] | None = None, limit: int | None = None
    ) -> dict[str, Element]:
        """See `PEPNode.items`: the items of both nodes.

        The error of a node that is closed to us is raised only if the other node has no items: to strangers, Prosody
        reports a node that does not exist as closed.
        """
        wanted = None if ids is None else list(ids)
        answers = await asyncio.gather(
            super().items(account, wanted, limit),
            self.last_resort.items(account, wanted, limit),
            return_exceptions=True,
        )
        found: dict[str, Element] = {}
        for answer in answers:
            if isinstance(answer, dict):
                found |= answer
            elif not isinstance(answer, DeliveryError):
                raise answer
        errors = [answer for answer in answers if isinstance(answer, DeliveryError)]
        if errors and (not found or not all(isinstance(each, NotPermitted | Refused) for each in errors)):
            raise errors[0]
        return found
