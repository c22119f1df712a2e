"""The list of an account's devices: one PEP item for each device, its device id as the item's id.

The server notifies contacts that share presence with the account, and the account's own devices, of changes.  A
client asks for these notifications in its presence, by entity capabilities (XEP-0115): call `DeviceDirectory.watch`
before the presence is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

from slixmpp import ClientXMPP
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher.base import MatcherBase

from ..errors import NotPermitted, Refused
from .pep import PUBSUB, PEPNode
from .stream import bare

log = logging.getLogger(__name__)

NODE = "urn:xmpp:mls:0:devices"
_DISCO = "http://jabber.org/protocol/disco#info"
_HANDLER = "MLS devices"


class _DeviceEvents(MatcherBase):
    def match(self, xml: Any) -> bool:
        # The name says `xml`, slixmpp passes the stanza object.
        if xml.name != "message" or xml.xml.get("type") == "error":
            return False
        # Items were published or retracted, or the node was purged, deleted or reconfigured (XEP-0060 8.2, 8.4, 8.5).
        event = xml.xml.find(f"{{{PUBSUB}#event}}event")
        return event is not None and any(child.get("node") == self._criteria for child in event)


class DeviceDirectory(PEPNode):
    """Our own devices (to publish and retract) and those of any account (to read, see `PEPNode.items`).

    :ivar changing: held by whoever reads one of our items, changes it and publishes it again
    """

    def __init__(self, xmpp: ClientXMPP) -> None:
        super().__init__(xmpp, NODE, send_last="on_sub_and_presence", notify_retract=True)
        self.changing = asyncio.Lock()
        self._changed: Callable[[str], None] | None = None

    async def reaches(self, domain: str) -> bool:
        """Whether that server answers us.

        If an account's node may not be read, this distinguishes a refusal by the account's server from one by our own:
        our server returns the same error if it may not or cannot reach the other server.

        :raises NoAnswer, Disconnected: the stream or the server fails.
        """
        if domain == self._account.partition("@")[2]:
            return True
        try:
            await self._stream.ask("get", domain, Element(f"{{{_DISCO}}}query"))
        except (Refused, NotPermitted):
            return False
        return True

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with the bare JID of each account whose devices have changed, or may have.

        Needs the plugins xep_0030, xep_0115 and xep_0163.  A notification only means that the
        node should be read again: it may come late, twice or not at all (ejabberd does not announce
        retractions).
        """
        self._changed = changed
        xmpp = self._stream.xmpp
        xmpp.register_handler(Callback(_HANDLER, _DeviceEvents(NODE), self._notified))
        xmpp.plugin["xep_0163"].add_interest(NODE)

    def unwatch(self) -> None:
        """The counterpart of `watch`."""
        xmpp = self._stream.xmpp
        xmpp.remove_handler(_HANDLER)
        # xep_0163.remove_interest formats a list into the feature's name, and so removes nothing.
        xmpp.plugin["xep_0030"].del_feature(feature=f"{NODE}+notify")
        self._changed = None

    def _notified(self, stanza: Any) -> None:
        # An exception leaving a handler makes slixmpp send an error stanza to the sender.
        try:
            if self._changed is not None:
                self._changed(bare(stanza.xml.get("from", "")) or self._account)
        except Exception as error:
            log.exception("a device notification could not be handled")
            self._stream.xmpp.event("mls_failed", error)
