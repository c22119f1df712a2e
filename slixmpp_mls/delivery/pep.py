"""A node of an account's Personal Eventing service (XEP-0163), open to read and keeping all its items.

A node must be configured before it keeps more than one item and lets strangers read.  The
portable way is less short than XEP-0060 7.1.5 promises, because servers differ:

1. Publish with all options.  Prosody creates the node with them, or checks that the node
   has them.
2. ejabberd knows two of the options and refuses the others (``resource-constraint``); any
   server refuses options that an existing node does not have (``conflict``).  Then: create
   the node if need be, submit those fields of its configuration form that it offers, and
   publish with the two options that all servers know.
3. A server that still refuses gets the item without options.

Items are public, and only the account can write them; readers must verify what they find.  Odd content (items without
id or payload) is skipped and never an error: any other software of the account can publish to its nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Literal
from xml.etree.ElementTree import Element, SubElement

from slixmpp import ClientXMPP

from ..errors import Refused
from .forms import offered, submission
from .stream import Stream, in_parallel

PUBSUB = "http://jabber.org/protocol/pubsub"
PUBSUB_OWNER = f"{PUBSUB}#owner"
_NODE_CONFIG = f"{PUBSUB}#node_config"
_PUBLISH_OPTIONS = f"{PUBSUB}#publish-options"

#: Refusals that another set of options may cure.
_OPTION_TROUBLE = frozenset(
    {"resource-constraint", "conflict", "bad-request", "not-acceptable", "feature-not-implemented"}
)
#: Items read from one node at most; what is beyond is ignored.
MAX_ITEMS = 2000


class PEPNode:
    """One node, on our account for writing and on any account for reading.

    :param node: the node's name.
    :param send_last: when a service pushes the last item unasked (``send_last_published_item``).
    :param notify_retract: whether watchers are told of retractions.
    """

    def __init__(
        self,
        xmpp: ClientXMPP,
        node: str,
        *,
        send_last: Literal["never", "on_sub", "on_sub_and_presence"] = "never",
        notify_retract: bool = False,
    ) -> None:
        self.node = node
        self._stream = Stream.of(xmpp)
        self._known_everywhere = {"pubsub#access_model": "open", "pubsub#persist_items": "true"}
        self._wanted = {
            **self._known_everywhere,
            "pubsub#max_items": "max",
            "pubsub#send_last_published_item": send_last,
        }
        if notify_retract:
            self._wanted["pubsub#notify_retract"] = "true"
        # The options that worked; None until the first publication.
        self._options: dict[str, str] | None = None
        self._configuring = asyncio.Lock()

    @property
    def _account(self) -> str:
        return str(self._stream.xmpp.boundjid.bare)

    async def publish(self, item_id: str, element: Element) -> None:
        """Publish an item, replacing the one with this id; create and configure the node if needed.

        :raises DeliveryError: refused, unanswered or disconnected.
        """
        if self._options is None:
            # One finds out what works; others wait for it.
            async with self._configuring:
                if self._options is None:
                    await self._first_publish(item_id, element)
                    return
        await self._publish(item_id, element, self._options)

    async def publish_many(self, items: Mapping[str, Element]) -> None:
        """Publish several items, a few at a time.  After an error some may be published."""
        await in_parallel([self.publish(item_id, element) for item_id, element in items.items()])

    async def _first_publish(self, item_id: str, element: Element) -> None:
        for attempt, options in enumerate((self._wanted, self._known_everywhere, {})):
            if attempt == 1:
                await self._configure()
            try:
                await self._publish(item_id, element, options)
            except Refused as error:
                if error.condition not in _OPTION_TROUBLE or not options:
                    raise
                continue
            self._options = options
            return

    async def _publish(self, item_id: str, element: Element, options: Mapping[str, str]) -> None:
        pubsub = Element(f"{{{PUBSUB}}}pubsub")
        publish = SubElement(pubsub, f"{{{PUBSUB}}}publish", {"node": self.node})
        SubElement(publish, f"{{{PUBSUB}}}item", {"id": item_id}).append(element)
        if options:
            SubElement(pubsub, f"{{{PUBSUB}}}publish-options").append(submission(_PUBLISH_OPTIONS, options))
        await self._stream.ask("set", self._account, pubsub)

    async def _configure(self) -> None:
        pubsub = Element(f"{{{PUBSUB}}}pubsub")
        SubElement(pubsub, f"{{{PUBSUB}}}create", {"node": self.node})
        try:
            await self._stream.ask("set", self._account, pubsub)
        except Refused as error:
            if error.condition != "conflict":  # it exists
                raise
        owner = Element(f"{{{PUBSUB_OWNER}}}pubsub")
        SubElement(owner, f"{{{PUBSUB_OWNER}}}configure", {"node": self.node})
        answer = await self._stream.ask("get", self._account, owner)
        fields = offered(answer.find(f"{{{PUBSUB_OWNER}}}pubsub/{{{PUBSUB_OWNER}}}configure"))
        values = {var: value for var, value in self._wanted.items() if var in fields}
        # "max" is young (XEP-0060 1.20); servers that do not know it bound the number at what they please.
        for max_items in ("max", "1000", "255", "100"):
            if "pubsub#max_items" in values:
                values["pubsub#max_items"] = max_items
            owner = Element(f"{{{PUBSUB_OWNER}}}pubsub")
            configure = SubElement(owner, f"{{{PUBSUB_OWNER}}}configure", {"node": self.node})
            configure.append(submission(_NODE_CONFIG, values))
            try:
                await self._stream.ask("set", self._account, owner)
            except Refused as error:
                if error.condition not in _OPTION_TROUBLE or "pubsub#max_items" not in values or max_items == "100":
                    raise
            else:
                return

    async def retract(self, item_id: str) -> bool:
        """Remove our item; ``False`` if it was not there (any more).

        :raises DeliveryError: refused, unanswered or disconnected.
        """
        pubsub = Element(f"{{{PUBSUB}}}pubsub")
        retract = SubElement(pubsub, f"{{{PUBSUB}}}retract", {"node": self.node, "notify": "true"})
        SubElement(retract, f"{{{PUBSUB}}}item", {"id": item_id})
        try:
            await self._stream.ask("set", self._account, pubsub)
        except Refused as error:
            if error.condition != "item-not-found":
                raise
            return False
        return True

    async def retract_many(self, item_ids: Iterable[str]) -> None:
        """Remove several items, a few at a time; those that are not there do not matter."""
        await in_parallel([self.retract(item_id) for item_id in item_ids])

    async def items(
        self, account: str | None = None, ids: Iterable[str] | None = None, limit: int | None = None
    ) -> dict[str, Element]:
        """Read items: payload by item id, in the order in which the server sends them.

        :param account: whose (a bare JID); ours by default.
        :param ids: only these; unknown ones are left out silently.
        :param limit: only so many, the newest.
        :returns: empty if there is no such node.
        :raises Refused: the account, its server or its PEP service is not there.
        :raises NotPermitted: the node is closed to us; Prosody says the same of a stranger's
            node or account that does not exist.
        :raises NoAnswer, Disconnected: no luck with the stream or the server.
        """
        pubsub = Element(f"{{{PUBSUB}}}pubsub")
        query = SubElement(pubsub, f"{{{PUBSUB}}}items", {"node": self.node})
        if limit is not None:
            query.set("max_items", str(limit))
        for wanted in ids or ():
            SubElement(query, f"{{{PUBSUB}}}item", {"id": wanted})
        if ids is not None and not len(query):
            return {}
        try:
            answer = await self._stream.ask("get", account or self._account, pubsub)
        except Refused as error:
            if error.condition != "item-not-found":
                raise
            return {}
        found = answer.iterfind(f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}items/{{{PUBSUB}}}item")
        return {
            item_id: item[0]
            for item in islice(found, MAX_ITEMS)
            if (item_id := item.get("id")) is not None and len(item) == 1
        }
