"""A room that its owner changes is examined again, and what it lacks is told once."""

from __future__ import annotations

import asyncio

import pytest

from slixmpp_mls.errors import NoAnswer, RoomUnsuitable
from slixmpp_mls.rooms.engine import suitability
from slixmpp_mls.rooms.engine.suitability import Suitability

from ..client.people import three
from .people import Parts, until


class Examined(Parts):
    """A member whose room lacks what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(three()[1])
        self.lacks: tuple[str, ...] | NoAnswer = ()
        self.asked = 0
        monkeypatch.setattr(self.muc, "check", self._check)
        self.suitability = Suitability(self.parts)

    async def _check(self) -> tuple[str, ...]:
        self.asked += 1
        if isinstance(self.lacks, NoAnswer):
            raise self.lacks
        return self.lacks

    @property
    def told(self) -> list[tuple[str, ...]]:
        return [error.reasons for error in self.got("mls_room_unsuitable") if isinstance(error, RoomUnsuitable)]

    async def look(self) -> None:
        before = self.asked
        self.suitability.look()
        await until(lambda: self.asked > before)
        await asyncio.sleep(0)


async def test_what_a_room_lacks_is_told_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suitability, "PAUSE", 0.001)
    member = Examined(monkeypatch)
    await member.look()
    assert (member.told, member.suitability.has_archive) == ([], True)
    for _ in range(3):
        member.lacks = ("no-archive",)
        await member.look()
    assert (member.told, member.suitability.has_archive, member.muc.suspected) == ([("no-archive",)], False, 0)
    member.lacks = NoAnswer("the room is silent")  # proves nothing
    await member.look()
    assert not member.suitability.has_archive
    member.lacks = ("not-members-only",)
    await member.look()
    assert member.told == [("no-archive",), ("not-members-only",)]
    assert (member.suitability.has_archive, member.muc.suspected) == (True, 1)  # what waits is sent again
    member.lacks = ()
    await member.look()
    assert (len(member.told), member.muc.suspected) == (2, 1)


async def test_others_decide_that_it_is_asked_but_not_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suitability, "PAUSE", 3600.0)
    member = Examined(monkeypatch)
    for _ in range(100):
        member.suitability.look()
        await asyncio.sleep(0)
    assert member.asked == 1
