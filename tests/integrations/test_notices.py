"""Events in words."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from slixmpp_mls.client import GroupChanged, Joined, Member, RemovedFromGroup, Unreadable, Unsure
from slixmpp_mls.delivery import Entered, Interrupted
from slixmpp_mls.errors import RoomLost
from slixmpp_mls.integrations.notices import EVENTS, Notice, notice
from slixmpp_mls.rooms.engine.outage import Outage
from slixmpp_mls.runtime import events

ROOM = "coven@rooms.example"
HECATE = Member("hecate@example", "h1", 0, b"k")


def test_every_event_that_has_words_is_documented() -> None:
    documented = set(re.findall(r"^``(mls_\w+)``", events.__doc__ or "", re.MULTILINE))
    assert set(EVENTS) <= documented


@pytest.mark.parametrize(
    ("name", "event", "said"),
    [
        ("mls_joined", Joined(ROOM, 1, HECATE), Notice("this device is in the group, let in by hecate@example", ROOM)),
        ("mls_joined", Joined(ROOM, 1, None), Notice("this device is in the group", ROOM)),
        (
            "mls_removed",
            RemovedFromGroup(ROOM, HECATE, False),
            Notice("You were removed by hecate@example.", ROOM, True),
        ),
        ("mls_removed", RemovedFromGroup(ROOM, HECATE, True), None),  # we have asked for it
        ("mls_entered", Entered("hecate", again=False), None),
        ("mls_entered", Entered("hecate", again=True), Notice("back in the room")),
        ("mls_outage", Outage(ROOM, "", "", 0, None), Notice("the room can be read again", ROOM)),
        ("mls_interrupted", Interrupted("kicked"), Notice("out of the room for now (kicked)", None, True)),
        ("mls_interrupted", Interrupted("kicked", ROOM), Notice("out of the room for now (kicked)", ROOM, True)),
    ],
)
def test_words(name: str, event: Any, said: Notice | None) -> None:
    assert notice(name, event) == said


def test_an_outage_says_why_since_when_and_what_next() -> None:
    said = notice("mls_outage", Outage(ROOM, "banned", "for talking too much", 1_800_000_000, 1_800_003_600))
    assert said is not None
    assert said.warning
    local = r"\d\d \w+, \d\d:\d\d"
    words = re.fullmatch(rf"the room cannot be read since ({local}) \(banned\); tried again at ({local})", said.text)
    assert words is not None
    assert words[1] != words[2]
    never = notice("mls_outage", Outage(ROOM, "destroyed", "", 1_800_000_000, None))
    assert never is not None
    assert never.text.endswith("(destroyed)")


def test_a_change_says_who_came_and_who_went() -> None:
    change = GroupChanged(ROOM, 7, HECATE, (Member("a@b", "1", 1, b""),), (Member("c@d", "2", 2, b""),), (), True)
    said = notice("mls_group_changed", change)
    assert said == Notice("a@b came, c@d went, the rules were changed (by hecate@example; epoch 7)", ROOM)
    nothing = GroupChanged(ROOM, 8, HECATE, (), (), (HECATE,), False)
    assert notice("mls_group_changed", nothing) == Notice("new keys (by hecate@example; epoch 8)", ROOM)


def test_messages_from_before_our_time_are_no_news() -> None:
    def unreadable(reason: str) -> Any:
        return SimpleNamespace(room=ROOM, reason=reason, claimed="macbeth@example")

    assert {field for field in ("room", "reason", "claimed")} <= set(Unreadable.__dataclass_fields__)
    assert notice("mls_unreadable", unreadable("before-join")) is None
    said = notice("mls_unreadable", unreadable("too-late"))
    assert said is not None
    assert said.warning


def test_certainty_is_no_warning() -> None:
    sure: Any = SimpleNamespace(room=ROOM, reasons=(), epoch=3)
    unsure: Any = SimpleNamespace(room=ROOM, reasons=("archive-gap",), epoch=3)
    assert {"room", "reasons"} <= set(Unsure.__dataclass_fields__)
    assert [each.warning for one in (sure, unsure) if (each := notice("mls_unsure", one)) is not None] == [False, True]


def test_nothing_that_peers_name_draws_on_the_screen() -> None:
    said = notice("mls_room_lost", RoomLost(ROOM, "destroyed", text="\x1b[2J\u202e"))
    assert said is not None
    assert "\x1b" not in said.text
    assert "\u202e" not in said.text
    assert said.room == ROOM
