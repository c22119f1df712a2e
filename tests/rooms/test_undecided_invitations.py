"""Invitations that wait for a decision: they are kept, and their number and age are limited."""

from __future__ import annotations

from datetime import UTC, datetime

from slixmpp_mls.rooms.undecided_invitations import (
    KEPT,
    MAX_OF_ONE,
    MAX_WAITING,
    UndecidedInvitation,
    UndecidedInvitations,
)
from slixmpp_mls.store import MemoryStore

NOW = 1_800_000_000


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


def rooms(kept: UndecidedInvitations) -> list[str]:
    return [each.room.partition("@")[0] for each in kept.all]


def test_they_are_kept_in_the_store_until_they_are_taken() -> None:
    store, clock = MemoryStore("bob@b.example"), Clock()
    UndecidedInvitations(store, clock).add("coven@rooms.example", "hecate@h.example", "x1", b"group")
    kept = UndecidedInvitations(store, clock)
    assert kept.all == [
        UndecidedInvitation("coven@rooms.example", "hecate@h.example", datetime.fromtimestamp(NOW, UTC))
    ]
    assert kept.take(inviter="macbeth@m.example") == kept.take(room="heath@rooms.example") == []
    [(room, record)] = kept.take(inviter="hecate@h.example")
    assert (room, record.after, record.group) == ("coven@rooms.example", b"x1", b"group")
    assert kept.all == []


def test_a_repeated_invitation_takes_the_place_of_the_first() -> None:
    kept = UndecidedInvitations(MemoryStore("bob@b.example"), Clock())
    for after in ("x1", None):
        kept.add("coven@rooms.example", "hecate@h.example", after, b"")
    [(_, record)] = kept.take(room="coven@rooms.example")
    assert record.after == b""


def test_an_old_one_is_forgotten() -> None:
    clock = Clock()
    kept = UndecidedInvitations(MemoryStore("bob@b.example"), clock)
    kept.add("coven@rooms.example", "hecate@h.example", None, b"")
    clock.now += KEPT
    assert rooms(kept) == ["coven"]
    clock.now += 1
    assert rooms(kept) == []
    assert kept.take(inviter="hecate@h.example") == []


def test_the_oldest_makes_room_for_each_inviter_and_in_all() -> None:
    """An inviter displaces its own invitations first; strangers without number do not fill the store."""
    clock = Clock()
    kept = UndecidedInvitations(MemoryStore("bob@b.example"), clock)
    kept.add("coven@rooms.example", "hecate@h.example", None, b"")
    for number in range(MAX_OF_ONE + 2):
        clock.now += 1
        kept.add(f"flood{number}@rooms.example", "mallory@m.example", None, b"")
    assert rooms(kept) == ["coven", *(f"flood{number}" for number in range(2, MAX_OF_ONE + 2))]
    for number in range(MAX_WAITING):
        clock.now += 1
        kept.add(f"more{number}@rooms.example", f"mallory{number}@m.example", None, b"")
    assert len(kept.all) == MAX_WAITING
    assert rooms(kept)[0] == "coven"  # no number of accounts on one server displaces those of another
    assert rooms(kept)[-1] == f"more{MAX_WAITING - 1}"
