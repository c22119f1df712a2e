"""The automaton of a room's reader: every state that can be reached, every row of its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import pytest

from slixmpp_mls.delivery import reading_state
from slixmpp_mls.delivery.reading_state import (
    PLACE,
    SELF_PING,
    STAY,
    Place,
    PlaceEvent,
    ReadingState,
    SelfPing,
    SelfPingEvent,
    Stay,
    StayEvent,
)

EVENTS: Mapping[str, Callable[[ReadingState], object]] = {
    name: getattr(ReadingState, name)
    for name in (
        "join", "destroy", "not_destroyed", "leave", "round_begins", "round_ends", "round_fails", "overflow", "go_back",
        "outside", "suspect", "dismiss", "ask", "confirmed", "no_answer", "void",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Walk:
    """A state with what has to be remembered of the way to it.

    :ivar missing: a live stanza was dropped, or may be missing, since the last round through the archive began
    """

    stay: Stay = Stay.WANTED
    place: Place = Place.BEHIND
    self_ping: SelfPing = SelfPing.NONE
    missing: bool = True

    def state(self) -> ReadingState:
        state = ReadingState()
        state.stay, state.place, state.self_ping = self.stay, self.place, self.self_ping
        return state


def step(walk: Walk, event: str) -> tuple[Walk, object] | None:
    """Where an event leads; None if it cannot happen."""
    state = walk.state()
    try:
        result = EVENTS[event](state)
    except RuntimeError:
        assert (state.stay, state.place, state.self_ping) == (walk.stay, walk.place, walk.self_ping)
        return None
    missing = walk.missing
    if event == "round_begins":
        missing = False
    elif event in ("overflow", "go_back", "join", "outside", "round_fails"):
        missing = True
    elif event == "confirmed" and state.verifying:
        missing = True  # what was lost before the answer
    return replace(walk, stay=state.stay, place=state.place, self_ping=state.self_ping, missing=missing), result


def reachable() -> dict[Walk, str]:
    """All states that can be reached, each with the events that lead there."""
    start = Walk()
    found = {start: ""}
    todo = [start]
    while todo:
        walk = todo.pop()
        for event in EVENTS:
            outcome = step(walk, event)
            if outcome is not None and outcome[0] not in found:
                found[outcome[0]] = f"{found[walk]} {event}"
                todo.append(outcome[0])
    return found


def test_live_means_that_nothing_is_missing() -> None:
    for walk, path in reachable().items():
        if walk.place is Place.LIVE:
            assert not walk.missing, path


def test_what_comes_live_is_kept_exactly_where_no_later_round_brings_it() -> None:
    for walk, path in reachable().items():
        assert walk.state().buffers == (walk.place in (Place.CATCHING_UP, Place.LIVE)), path
        if walk.place is Place.CATCHING_UP:
            assert not walk.missing, path  # else INCOMPLETE: the stanza would not be looked for
        if not walk.state().buffers and walk.place is Place.INCOMPLETE:
            after = step(walk, "round_ends")
            assert after is not None
            assert after[0].place is Place.BEHIND, path


def test_verification_is_never_over_while_a_round_is_due() -> None:
    for walk, path in reachable().items():
        if walk.place is Place.LIVE:
            assert not walk.state().verifying, path


def test_only_a_round_after_the_answer_dispels_a_doubt() -> None:
    """`Verified` needs, in this order: the question, the room's yes, a round that begins, and its end."""
    start = (Walk(), "nothing")
    seen = {start}
    todo = [start]
    dispelled = 0
    while todo:
        walk, done = todo.pop()
        for event in EVENTS:
            outcome = step(walk, event)
            if outcome is None:
                continue
            after, result = outcome
            if event == "round_ends" and result is True:
                assert done == "round"
                dispelled += 1
            evidence = done
            if event == "ask":
                evidence = "asked"
            elif event == "confirmed":
                assert done == "asked"
                evidence = "confirmed" if after.state().verifying else "nothing"
            elif event in ("no_answer", "void") or (event == "outside" and done != "asked"):
                evidence = "nothing"
            elif event == "round_begins" and done == "confirmed":
                evidence = "round"
            elif done == "round" and event in ("round_fails", "overflow", "go_back", "join"):
                evidence = "confirmed"  # that round does not count
            elif done == "round" and event == "round_ends":
                evidence = "nothing"
            if (after, evidence) not in seen:
                seen.add((after, evidence))
                todo.append((after, evidence))
    assert dispelled


@pytest.mark.parametrize("doubt", [SelfPing.ASKED, SelfPing.VERIFYING])
def test_a_suspicion_during_another_one_is_asked_about_afterwards(doubt: SelfPing) -> None:
    state = Walk(self_ping=doubt).state()
    state.suspect()
    assert state.suspected
    if doubt is SelfPing.ASKED:
        state.confirmed()
    else:
        state.round_begins()
        assert state.round_ends()
    assert state.self_ping is SelfPing.SUSPECTED


def test_every_row_of_the_tables_is_used_and_leads_to_a_state() -> None:
    """No row is dead: the walk calls each, so a change of a row is met by the tests above."""
    used: set[tuple[Enum, Enum]] = set()
    original = reading_state._next

    def recording(table: Any, state: Any, event: Any) -> Any:
        result = original(table, state, event)
        used.add((event, state))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_state, "_next", recording)
        states = reachable()
    rows: set[tuple[Enum, Enum]] = set()
    for table in (STAY, PLACE, SELF_PING):
        for event, row in table.items():
            rows |= {(event, state) for state in row}
    assert used == rows
    assert {walk.stay for walk in states} == set(Stay)
    assert {walk.place for walk in states} == set(Place)
    assert {walk.self_ping for walk in states} == set(SelfPing)
    assert STAY.keys() == set(StayEvent)
    assert PLACE.keys() == set(PlaceEvent)
    assert SELF_PING.keys() == set(SelfPingEvent)


def test_what_cannot_happen_is_an_error_and_changes_nothing() -> None:
    refused = {(walk.place, event) for walk in reachable() for event in EVENTS if step(walk, event) is None}
    assert (Place.LIVE, "round_begins") in refused
    assert (Place.LIVE, "round_ends") in refused
    assert (Place.BEHIND, "overflow") in refused
    with pytest.raises(RuntimeError, match=r"ASK cannot happen in SelfPing\.NONE"):
        ReadingState().ask()


def test_leaving_ends_the_stay_and_joining_begins_it_again_from_the_archive() -> None:
    for walk, path in reachable().items():
        left = step(walk, "leave")
        assert left is not None
        assert left[0].stay is Stay.ENDED, path
        joined = step(left[0], "join")
        assert joined is not None
        assert (joined[0].stay, joined[0].place) == (Stay.WANTED, Place.BEHIND), path
