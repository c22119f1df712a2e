"""Our clock against the server's (XEP-0202): the owner of a wrong one is told, once, and nothing else happens."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pytest

from slixmpp_mls.account import clock_check
from slixmpp_mls.account.clock_check import WRONG, ClockCheck, ClockWrong
from slixmpp_mls.delivery import entity_time
from slixmpp_mls.errors import MalformedError, NoAnswer
from slixmpp_mls.testing import NOW, World

from ..services import Client


class Server:
    """Its clock is right, and an answer takes `delay` seconds of ours."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.time: float | None = NOW
        self.delay = 0

    async def __call__(self, *_: Any) -> float:
        if self.time is None:
            raise NoAnswer("server")
        self.world.now += self.delay
        return self.time


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> tuple[Server, ClockCheck, Client]:
    client = Client(World().person("alice@a.example"))
    server = Server(client.world)
    monkeypatch.setattr(clock_check, "entity_time", server)
    return server, ClockCheck(client.context), client


@pytest.mark.parametrize(
    ("ours", "delay", "told"),
    [
        (0, 0, None),
        (WRONG, 0, None),
        (-WRONG, 0, None),
        (WRONG + 2, 0, WRONG + 1),
        (-WRONG - 2, 0, -WRONG - 1),
        (-10, 600, None),  # the answer was late: it may be of any moment in between
        (3600, 30, 3599),
        (-3600, 30, -3569),
    ],
)
async def test_what_is_told(
    server: tuple[Server, ClockCheck, Client], ours: float, delay: int, told: float | None
) -> None:
    clock, check, client = server
    client.world.now = int(NOW + ours)
    clock.delay = delay
    await check.look()
    assert client.got("mls_clock_wrong") == ([] if told is None else [ClockWrong(told, "a.example")])


async def test_it_is_told_once_until_it_changes(server: tuple[Server, ClockCheck, Client]) -> None:
    clock, check, client = server
    for ours, told in [(3600, 1), (3600, 1), (3700, 1), (7200, 2), (0, 2), (3600, 3)]:
        client.world.now = NOW + ours
        await check.look()
        assert len(client.got("mls_clock_wrong")) == told
    clock.time = None  # it does not say
    await check.look()
    assert len(client.got("mls_clock_wrong")) == 3


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2027-01-15T08:00:00Z", NOW),
        (" 2027-01-15T08:00:00.5Z ", NOW + 0.5),
        ("", None),
        ("yesterday", None),
        ("0000-01-01T00:00:00Z", None),
        ("2027-01-15", None),
    ],
)
async def test_an_answer(text: str, time: float | None) -> None:
    class Stream:
        async def ask(self, kind: str, to: str, payload: Element) -> Element:
            assert (kind, to, payload.tag) == ("get", "a.example", "{urn:xmpp:time}time")
            iq = Element("{jabber:client}iq")
            answer = SubElement(iq, "{urn:xmpp:time}time")
            SubElement(answer, "{urn:xmpp:time}tzo").text = "-06:00"
            SubElement(answer, "{urn:xmpp:time}utc").text = text
            return iq

    if time is None:
        with pytest.raises(MalformedError, match="XEP-0202"):
            await entity_time.entity_time(Stream(), "a.example")  # type: ignore[arg-type]
    else:
        assert await entity_time.entity_time(Stream(), "a.example") == time  # type: ignore[arg-type]
