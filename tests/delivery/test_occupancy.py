"""Entering a room whose service does what the test says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pytest

from slixmpp_mls.delivery import occupancy
from slixmpp_mls.delivery.archive import MUC_USER
from slixmpp_mls.delivery.occupancy import Occupancy
from slixmpp_mls.errors import NoAnswer

ROOM = "coven@rooms.example"


def stream() -> Any:
    presence = SimpleNamespace(xml=Element("presence"))
    slots = asyncio.Semaphore(1)
    xmpp = SimpleNamespace(plugin={}, make_presence=lambda **options: presence)
    return SimpleNamespace(online=True, xmpp=xmpp, entrance=lambda service: slots, put=lambda stanza: None)


def shows(room: Occupancy, number: int) -> None:
    presence = Element("presence", {"from": f"{ROOM}/guest{number}"})
    SubElement(SubElement(presence, f"{{{MUC_USER}}}x"), f"{{{MUC_USER}}}item", {"affiliation": "member"})
    room.presence_received(presence)


@pytest.mark.parametrize("subject", [True, False])
async def test_a_room_may_take_its_time_and_not_for_ever(monkeypatch: pytest.MonkeyPatch, subject: bool) -> None:
    """Whoever shows occupants one by one, and never lets us in, would hold an attempt of the invitations' for ever."""
    monkeypatch.setattr(occupancy, "_SILENCE", 3600.0)
    monkeypatch.setattr(occupancy, "_LONGEST", 3600.0 if subject else 0.1)
    room = Occupancy(stream(), ROOM, "bot", lambda event: None)
    entering = asyncio.create_task(room.enter())
    for number in range(1_000_000):
        await asyncio.sleep(0.001)
        if entering.done():
            break
        shows(room, number)
        if subject and number == 200:
            own = Element("presence", {"from": f"{ROOM}/bot"})
            SubElement(SubElement(own, f"{{{MUC_USER}}}x"), f"{{{MUC_USER}}}status", {"code": "110"})
            room.presence_received(own)
            room.subject_received()
    if subject:
        await entering
    else:
        with pytest.raises(NoAnswer):
            await entering
    assert room.inside is subject


@pytest.mark.parametrize("nick", ["x" * 2000, "\u202e", "\x01", ""])
async def test_a_room_gives_us_no_nickname_under_which_we_could_not_write_to_it(nick: str) -> None:
    """To leave or enter such a room would be an error of another kind than its refusal."""
    room = Occupancy(stream(), ROOM, "bot", lambda event: None)
    entering = asyncio.create_task(room.enter())
    await asyncio.sleep(0)
    own = Element("presence", {"from": f"{ROOM}/{nick or 'bot'}"})
    SubElement(SubElement(own, f"{{{MUC_USER}}}x"), f"{{{MUC_USER}}}status", {"code": "110"})
    room.presence_received(own)
    room.subject_received()
    await entering
    assert (room.inside, room.nick) == (True, "bot")
    own.set("type", "unavailable")
    x = own.find(f"{{{MUC_USER}}}x")
    assert x is not None
    SubElement(x, f"{{{MUC_USER}}}status", {"code": "303"})
    item = SubElement(x, f"{{{MUC_USER}}}item", {"nick": nick})
    room.presence_received(own)
    assert room.nick == "bot"
    item.set("nick", "first witch")
    room.presence_received(own)
    assert (room.inside, room.nick) == (True, "first witch")
