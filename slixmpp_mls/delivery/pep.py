"""A node of an account's PEP service (XEP-0163) that anybody may read and that keeps all its items.

A node must be configured before it keeps more than one item and lets strangers read.  The portable way takes more steps
than XEP-0060 7.1.5 suggests, because servers differ:

1. The item is published with all options.  Prosody creates the node with them, or checks that the node has them.
2. ejabberd supports two of the options and refuses the others (``resource-constraint``).  Any server refuses options
   that an existing node does not have (``conflict``).  In both cases the node is created if it does not exist, the
   supported fields of its configuration form are submitted, and the item is published with the two options that all
   servers support.
3. If the server still refuses, the item is published without options.

Items are public, and only the account can write them; readers must verify what they find.  Invalid content (items
without id or payload) is skipped and never an error: any other software of the account can publish to its nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Literal
from xml.etree.ElementTree import Element, SubElement

from slixmpp import ClientXMPP

from ..errors import NodeUnusable, NotPermitted, Refused
from .forms import entered, offered, submission
from .stream import Stream, in_parallel

log = logging.getLogger(__name__)

PUBSUB = "http://jabber.org/protocol/pubsub"
PUBSUB_OWNER = f"{PUBSUB}#owner"
RSM = "http://jabber.org/protocol/rsm"
_DISCO_ITEMS = "http://jabber.org/protocol/disco#items"
_NODE_CONFIG = f"{PUBSUB}#node_config"
_PUBLISH_OPTIONS = f"{PUBSUB}#publish-options"

#: Refusals after which another set of options may succeed.
_OPTION_TROUBLE = frozenset(
    {"resource-constraint", "conflict", "bad-request", "not-acceptable", "feature-not-implemented"}
)
#: Refusals by services that do not list the items of a node.
_NO_DISCO = frozenset({"feature-not-implemented", "service-unavailable"})
#: Items read from one node at most; the rest is ignored.
MAX_ITEMS = 2000
_MISSING = "it is not there"
#: A node that keeps fewer items is configured again: the server has created it with its defaults.
LEAST_ITEMS = 100
#: Items per request: an answer stays far below the stanza limit between servers.
PAGE = 100


class PEPNode:
    """One node, on our account for writing and on any account for reading.

    :param node: the node's name.
    :param send_last: when the service pushes the last item (``send_last_published_item``).
    :param notify_retract: whether watchers are told of retractions.
    :param page: the most items in one answer, as far as the service has pages.
    :ivar publications: number of items that the server has accepted from this object
    """

    def __init__(
        self,
        xmpp: ClientXMPP,
        node: str,
        *,
        send_last: Literal["never", "on_sub", "on_sub_and_presence"] = "never",
        notify_retract: bool = False,
        page: int = PAGE,
    ) -> None:
        self.node = node
        self._page_size = page
        self.publications = 0
        self._stream = Stream.of(xmpp)
        self._known_everywhere = {"pubsub#access_model": "open", "pubsub#persist_items": "true"}
        self._wanted = {
            **self._known_everywhere,
            "pubsub#max_items": "max",
            "pubsub#send_last_published_item": send_last,
        }
        if notify_retract:
            self._wanted["pubsub#notify_retract"] = "true"
        # The options that the server accepts; None until the first publication.
        self._options: dict[str, str] | None = None
        self._configuring = asyncio.Lock()

    @property
    def _account(self) -> str:
        return str(self._stream.xmpp.boundjid.bare)

    async def check(self) -> bool:
        """Check that our node exists and is configured as required; repair it once if not.

        Other software of the account may have deleted or closed the node; then strangers can no longer add us.  The
        server does not report this on its own initiative.

        :returns: False if the node had to be repaired; its items may be lost then
        :raises NodeUnusable: the server does not let us configure it so
        :raises DeliveryError: refused, unanswered or disconnected.
        """
        wrong = await self._wrong()
        if not wrong:
            return True
        log.log(
            logging.INFO if wrong == [_MISSING] else logging.WARNING,
            "the node %s is mended: %s",
            self.node,
            "; ".join(wrong),
        )
        self._options = None  # publish with all options again
        try:
            await self._configure()
        except (NotPermitted, Refused) as error:
            raise NodeUnusable(self.node, f"{'; '.join(wrong)}, and cannot be configured: {error}") from error
        wrong = await self._wrong()
        if wrong:
            raise NodeUnusable(self.node, "; ".join(wrong))
        return False

    async def _wrong(self) -> list[str]:
        """The faults of our node's configuration; empty if the server does not show the configuration."""
        try:
            form = await self._form()
        except Refused as error:
            if error.condition == "item-not-found":
                return [_MISSING]
            if error.condition in _OPTION_TROUBLE:
                return []
            raise
        values = entered(form)
        found = []
        access = values.get("pubsub#access_model", "open")
        if access != "open":
            found.append(f"its access model is {access}: strangers cannot read it")
        if values.get("pubsub#persist_items", "1") not in ("1", "true"):
            found.append("it does not keep items")
        most = values.get("pubsub#max_items", "max")
        if most.isascii() and most.isdigit() and int(most) < LEAST_ITEMS:
            found.append(f"it keeps {most} items at most")
        return found

    async def _form(self) -> Element | None:
        owner = Element(f"{{{PUBSUB_OWNER}}}pubsub")
        SubElement(owner, f"{{{PUBSUB_OWNER}}}configure", {"node": self.node})
        answer = await self._stream.ask("get", self._account, owner)
        return answer.find(f"{{{PUBSUB_OWNER}}}pubsub/{{{PUBSUB_OWNER}}}configure")

    async def publish(self, item_id: str, element: Element) -> None:
        """Publish an item, replacing the one with this id; create and configure the node if needed.

        :raises DeliveryError: refused, unanswered or disconnected.
        """
        if self._options is None:
            # The first publication finds the accepted options; the others wait for it.
            async with self._configuring:
                if self._options is None:
                    await self._first_publish(item_id, element)
                    return
        try:
            await self._publish(item_id, element, self._options)
        except Refused as error:
            if error.condition not in _OPTION_TROUBLE or not self._options:
                raise
            self._options = None  # the node was created anew or configured differently
            await self.publish(item_id, element)

    async def publish_many(self, items: Mapping[str, Element]) -> None:
        """Publish several items, a few at a time.  After an error, some of them may be published."""
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
        self.publications += 1

    async def _configure(self) -> None:
        pubsub = Element(f"{{{PUBSUB}}}pubsub")
        SubElement(pubsub, f"{{{PUBSUB}}}create", {"node": self.node})
        try:
            await self._stream.ask("set", self._account, pubsub)
        except Refused as error:
            if error.condition != "conflict":  # the node exists
                raise
        fields = offered(await self._form())
        values = {var: value for var, value in self._wanted.items() if var in fields}
        # "max" dates from XEP-0060 1.20; servers that do not support it apply a limit of their own.
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
        """Remove our item; ``False`` if it does not exist (any more).

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
        """Remove several items, a few at a time.  Items that do not exist are ignored."""
        await in_parallel([self.retract(item_id) for item_id in item_ids])

    async def own_ids(self) -> set[str]:
        """The ids of our items, without the items (XEP-0060 5.5).  Servers answer this to a node's owner only.

        :returns: empty if there is no such node
        :raises DeliveryError: refused, unanswered or disconnected
        """
        query = Element(f"{{{_DISCO_ITEMS}}}query", {"node": self.node})
        try:
            answer = await self._stream.ask("get", self._account, query)
        except Refused as error:
            if error.condition == "item-not-found":
                return set()
            if error.condition not in _NO_DISCO:
                raise
            return set(await self.items())
        found = answer.iterfind(f"{{{_DISCO_ITEMS}}}query/{{{_DISCO_ITEMS}}}item")
        return {name for item in islice(found, MAX_ITEMS) if (name := item.get("name")) is not None}

    async def items(
        self, account: str | None = None, ids: Iterable[str] | None = None, limit: int | None = None
    ) -> dict[str, Element]:
        """Read items: payload by item id, in the order in which the server sends them.

        :param account: the owner (a bare JID); our account by default.
        :param ids: read only these; unknown ids are ignored.
        :param limit: the most items to read, the newest ones.
        :returns: empty if there is no such node.
        :raises Refused: the account, its server or its PEP service does not exist.
        :raises NotPermitted: the node is closed to us; Prosody returns the same error for a stranger's
            node or account that does not exist.
        :raises NoAnswer, Disconnected: the stream or the server fails.
        """
        if ids is not None:
            wanted = list(ids)
            return (await self._page(account, wanted, limit, None))[0] if wanted else {}
        found: dict[str, Element] = {}
        after: str | None = ""
        for _ in range(-(-MAX_ITEMS // self._page_size)):
            page, after = await self._page(account, (), limit, after)
            more = page.keys() - found.keys()
            found |= page
            if not after or not more:  # a service without paging has sent everything
                break
            if limit is not None and len(found) >= limit:
                break
        return dict(islice(found.items(), limit or MAX_ITEMS))

    async def _page(
        self, account: str | None, ids: Iterable[str], limit: int | None, after: str | None
    ) -> tuple[dict[str, Element], str | None]:
        """One request for items, with paging by XEP-0059 if the service supports it.

        :param after: the end of the previous page, "" for the first one; None: no paging
        :returns: the items, and the start of the next page if there may be one
        """
        pubsub = Element(f"{{{PUBSUB}}}pubsub")
        query = SubElement(pubsub, f"{{{PUBSUB}}}items", {"node": self.node})
        if limit is not None:
            query.set("max_items", str(limit))
        for wanted in ids:
            SubElement(query, f"{{{PUBSUB}}}item", {"id": wanted})
        if after is not None and limit is None:
            page = SubElement(pubsub, f"{{{RSM}}}set")
            SubElement(page, f"{{{RSM}}}max").text = str(self._page_size)
            if after:
                SubElement(page, f"{{{RSM}}}after").text = after
        try:
            answer = await self._stream.ask("get", account or self._account, pubsub)
        except Refused as error:
            if error.condition != "item-not-found":
                raise
            return {}, None
        sent = list(answer.iterfind(f"{{{PUBSUB}}}pubsub/{{{PUBSUB}}}items/{{{PUBSUB}}}item"))
        items = {
            item_id: item[0] for item in sent[:MAX_ITEMS] if (item_id := item.get("id")) is not None and len(item) == 1
        }
        last = answer.find(f"{{{PUBSUB}}}pubsub/{{{RSM}}}set/{{{RSM}}}last")
        return items, None if last is None or len(sent) < self._page_size else last.text
