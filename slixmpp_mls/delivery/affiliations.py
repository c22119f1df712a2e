"""The affiliations of a room (XEP-0045 5.2, 9): which accounts may be in it.

For an encrypted group, affiliations control only the entry to the room and the access to its archive.  The group
controls decryption.

*Many at once.*  A request may set several affiliations (XEP-0045 9.4).  Prosody 0.12 sets the first one, and answers as
if all were set; ejabberd refuses all if it refuses one.  Therefore the first request for several is compared with the
room's lists, and what is not set together is set one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Literal
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID

from ..errors import DeliveryError, NotPermitted, Refused
from .archive import bare_jid
from .stream import Stream, in_parallel

MUC_ADMIN = "http://jabber.org/protocol/muc#admin"

Affiliation = Literal["owner", "admin", "member", "outcast", "none"]
_AT_ONCE = 50  # affiliations in one request
_INSIDERS: tuple[Affiliation, ...] = ("owner", "admin", "member")


class Affiliations:
    """The affiliations of one room.

    :param room: its bare JID.
    """

    def __init__(self, stream: Stream, room: str) -> None:
        self._stream = stream
        self._room = room
        self._sets_many: bool | None = None  # whether the room's service sets all that a request asks for

    async def all(self) -> dict[JID, Affiliation]:
        """All accounts with an affiliation, by bare JID.

        Banned accounts (``"outcast"``) are left out if only admins may see them.

        :raises NotPermitted: the room does not show us its members.
        :raises DeliveryError: refused or unanswered.
        """
        lists = await in_parallel([self.holders(affiliation) for affiliation in _INSIDERS])
        found: dict[JID, Affiliation] = {}
        with suppress(NotPermitted):
            found.update(dict.fromkeys(await self.holders("outcast"), "outcast"))
        # If a server lists an account twice, the highest affiliation counts.
        for affiliation, holders in reversed(list(zip(_INSIDERS, lists, strict=True))):
            found.update(dict.fromkeys(holders, affiliation))
        return found

    async def holders(self, affiliation: Affiliation) -> list[JID]:
        """The bare JIDs with this affiliation.

        :raises NotPermitted: the room does not show us this list.
        """
        query = Element(f"{{{MUC_ADMIN}}}query")
        SubElement(query, f"{{{MUC_ADMIN}}}item", {"affiliation": affiliation})
        answer = await self._stream.ask("get", self._room, query)
        items = answer.iterfind(f"{{{MUC_ADMIN}}}query/{{{MUC_ADMIN}}}item")
        return [jid for item in items if (jid := bare_jid(item.get("jid"))) is not None]

    async def grant_membership(self, accounts: Iterable[str]) -> None:
        """Make the accounts (bare JIDs) members.  An account that already has an affiliation keeps it.

        :raises NotPermitted: we are not an admin, or an account is banned: this method lifts no ban.  None or only
            some of the accounts are members then.
        :raises DeliveryError: refused or unanswered.
        """
        wanted = dict.fromkeys(accounts)
        present = await self.all()
        banned = [account for account in wanted if present.get(JID(account)) == "outcast"]
        if banned:
            raise NotPermitted(f"{', '.join(banned)}: banned from {self._room}")
        refused = await self.set_all({account: "member" for account in wanted if JID(account) not in present})
        for error in refused.values():
            raise error

    async def revoke_membership(self, account: str) -> None:
        """Remove the account's (a bare JID) affiliation with the room, whichever it is.

        :raises NotPermitted: we are not an admin, or the account's affiliation is too high for us to revoke.
        :raises DeliveryError: refused or unanswered.
        """
        await self.set(account, "none")

    async def set(self, account: str, affiliation: Affiliation, reason: str | None = None) -> None:
        """Set the affiliation of the account (a bare JID).

        :raises NotPermitted: our own affiliation does not allow it.
        :raises DeliveryError: refused or unanswered.
        """
        query = Element(f"{{{MUC_ADMIN}}}query")
        item = SubElement(query, f"{{{MUC_ADMIN}}}item", {"affiliation": affiliation, "jid": account})
        if reason is not None:
            SubElement(item, f"{{{MUC_ADMIN}}}reason").text = reason
        await self._stream.ask("set", self._room, query)

    async def set_all(self, wanted: Mapping[str, Affiliation]) -> dict[str, DeliveryError]:
        """Set the affiliations of many accounts (bare JIDs).  One that is refused does not affect the others.

        :returns: why not (NotPermitted or Refused), for each account whose affiliation is not set
        :raises DeliveryError: unanswered; some of them may be set.
        """
        left, refused = dict(wanted), dict[str, DeliveryError]()
        if len(left) > 1 and self._sets_many is None:
            await self._try(left)
        if self._sets_many:
            left = await self._set_batches(left)

        async def one(account: str, affiliation: Affiliation) -> None:
            try:
                await self.set(account, affiliation)
            except (NotPermitted, Refused) as error:
                refused[account] = error

        await in_parallel([one(*each) for each in left.items()])
        return refused

    async def _try(self, left: dict[str, Affiliation]) -> None:
        """Set two affiliations by one request, and see whether the room's lists show both; take what is set away."""
        pair = dict(list(left.items())[:2])
        with suppress(NotPermitted, Refused):  # of the request, or of the lists
            await self._set(pair)
            listed = await self.all()
            done = [account for account, each in pair.items() if listed.get(JID(account), "none") == each]
            for account in done:
                del left[account]
            self._sets_many = len(done) == len(pair)

    async def _set_batches(self, wanted: Mapping[str, Affiliation]) -> dict[str, Affiliation]:
        """Set affiliations by requests for many; return those of requests that are refused."""
        items = list(wanted.items())
        batches = [dict(items[start : start + _AT_ONCE]) for start in range(0, len(items), _AT_ONCE)]
        left: dict[str, Affiliation] = {}

        async def set_batch(batch: dict[str, Affiliation]) -> None:
            try:
                await self._set(batch)
            except (NotPermitted, Refused):
                left.update(batch)

        await in_parallel([set_batch(batch) for batch in batches])
        return left

    async def _set(self, wanted: Mapping[str, Affiliation]) -> None:
        query = Element(f"{{{MUC_ADMIN}}}query")
        for account, affiliation in wanted.items():
            SubElement(query, f"{{{MUC_ADMIN}}}item", {"affiliation": affiliation, "jid": account})
        await self._stream.ask("set", self._room, query)
