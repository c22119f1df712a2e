"""Setting the affiliations of many accounts, where a room's service applies several at once, and where it does not."""

from __future__ import annotations

from typing import Any, Literal
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import JID

from slixmpp_mls.delivery.affiliations import MUC_ADMIN, Affiliation, Affiliations
from slixmpp_mls.errors import NoAnswer, NotPermitted, Refused

QUERY, ITEM = f"{{{MUC_ADMIN}}}query", f"{{{MUC_ADMIN}}}item"
ROOM = "coven@rooms.example"


class Service:
    """A room's service.

    :ivar kind: of a request for several, it sets ``all``, the ``first``, or, with a bad one among them, ``none``
    :ivar lists: whether it shows them
    :ivar bad: accounts whose affiliation it sets for nobody
    :ivar asked: the number of affiliations in each request to set some
    """

    def __init__(self, kind: Literal["all", "first", "none"], *, lists: bool = True) -> None:
        self.kind = kind
        self.lists = lists
        self.bad: set[str] = set()
        self.listed: dict[str, str] = {}
        self.asked: list[int] = []
        self.silent_after = 10**9

    async def ask(self, kind: str, to: str, query: Element) -> Element:
        assert to == ROOM
        items = query.findall(ITEM)
        if kind == "get":
            return self._show(items[0].get("affiliation", ""))
        self.asked.append(len(items))
        if len(self.asked) > self.silent_after:
            raise NoAnswer("nothing came")
        if self.kind == "none" and any(item.get("jid") in self.bad for item in items):
            raise Refused(ROOM, "not-acceptable")
        for item in items[:1] if self.kind == "first" else items:
            account, affiliation = item.get("jid", ""), item.get("affiliation", "")
            if account in self.bad:
                raise NotPermitted("no")
            if affiliation == "none":
                self.listed.pop(account, None)
            else:
                self.listed[account] = affiliation
        return Element("iq")

    def _show(self, affiliation: str) -> Element:
        if not self.lists:
            raise NotPermitted("no lists here")
        answer = Element("iq")
        query = SubElement(answer, QUERY)
        for account, each in self.listed.items():
            if each == affiliation:
                SubElement(query, ITEM, {"jid": account, "affiliation": each})
        return answer


def room(service: Any) -> Affiliations:
    return Affiliations(service, ROOM)


def members(count: int) -> dict[str, Affiliation]:
    return {f"u{number}@crowd.example": "member" for number in range(count)}


async def test_a_service_that_sets_many_is_asked_seldom() -> None:
    """XEP-0045 9.4: a request may have any number of items."""
    service = Service("all")
    affiliations = room(service)
    assert await affiliations.set_all(members(1002)) == {}
    assert service.listed == members(1002)
    assert service.asked == [2, *[50] * 20]
    assert await affiliations.set_all(dict.fromkeys(members(100), "none")) == {}
    assert len(service.listed) == 902
    assert service.asked[21:] == [50, 50], "what the service does is known already"


@pytest.mark.parametrize("lists", [True, False])
async def test_a_service_that_sets_the_first_one_only(lists: bool) -> None:
    """As Prosody 0.12, which answers as if all were set.  Without lists nobody can know."""
    service = Service("first", lists=lists)
    affiliations = room(service)
    assert await affiliations.set_all(members(20)) == {}
    assert service.listed == members(20)
    assert await affiliations.set_all(dict.fromkeys(members(20), "none")) == {}
    assert service.listed == {}


async def test_one_that_is_refused_spoils_no_other() -> None:
    """As ejabberd, which refuses all items of a request for one of them."""
    service = Service("none")
    affiliations = room(service)
    assert await affiliations.set_all(members(60)) == {}
    service.listed.clear()
    service.bad = {"u7@crowd.example", "u55@crowd.example"}
    refused = await affiliations.set_all(members(60))
    assert refused.keys() == service.bad
    assert all(isinstance(error, Refused) for error in refused.values())
    assert service.listed.keys() == members(60).keys() - service.bad


async def test_the_first_request_is_refused() -> None:
    service = Service("none")
    service.bad = {"u0@crowd.example"}
    affiliations = room(service)
    assert (await affiliations.set_all(members(3))).keys() == service.bad
    assert service.listed.keys() == {"u1@crowd.example", "u2@crowd.example"}


async def test_one_account_is_one_request() -> None:
    service = Service("all", lists=False)
    assert await room(service).set_all({"u@crowd.example": "member"}) == {}
    assert service.asked == [1]
    assert await room(service).set_all({}) == {}
    assert service.asked == [1]


async def test_no_answer_is_raised() -> None:
    service = Service("all")
    service.silent_after = 1
    with pytest.raises(NoAnswer):
        await room(service).set_all(members(100))


async def test_membership_is_granted_to_those_outside_only() -> None:
    service = Service("all")
    service.listed = {"u0@crowd.example": "owner", "u1@crowd.example": "member"}
    await room(service).grant_membership(members(4))
    assert service.listed == {**members(4), "u0@crowd.example": "owner"}
    service.bad = {"u4@crowd.example"}
    with pytest.raises(NotPermitted):
        await room(service).grant_membership(members(5))
    assert JID("u4@crowd.example") not in await room(service).all()
