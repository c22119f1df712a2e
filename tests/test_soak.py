"""The soak (:mod:`tests.soak`): a short run of it, and that its judge notices what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slixmpp_mls.devserver import DevServer, Prosody

from .conftest import unavailable_means_skip
from .soak.run import Soak, compare


def note(number: int, by: str, *, again: bool = False, id_: str = "", epoch: int = 7) -> dict[str, Any]:
    return {"id": id_ or f"id{number}", "text": f"{number} of {by}", "by": by, "epoch": epoch, "again": again}


def test_members_who_have_heard_the_same_agree() -> None:
    notes = {
        "alice": [{"joined": 0}, note(1, "carol"), note(2, "bob"), note(3, "dave"), note(3, "dave", again=True)],
        "bob": [note(0, "carol"), {"joined": 1}, note(1, "carol"), note(3, "dave")],
        "eve": [{"joined": 5}, note(2, "bob"), note(3, "dave")],
        "frank": [{"joined": 7}],
    }
    assert compare(notes) == []


def test_who_has_joined_reads_nothing_of_an_epoch_before_however_late_it_comes() -> None:
    """RFC 9420 12.4.3.1: a Welcome has the secrets of its epoch. The sender had not read yet that he was added."""
    notes = [note(1, "carol", epoch=4), note(2, "carol", epoch=3), note(3, "carol", epoch=4)]
    assert compare({"alice": notes, "bob": [{"joined": 4}, notes[0], notes[2]]}) == []
    assert compare({"alice": notes, "bob": [{"joined": 3}, notes[0], notes[2]]})


@pytest.mark.parametrize(
    ("heard", "complaint"),
    [
        ([note(1, "carol"), note(3, "carol")], "have not heard the same"),  # one is lost
        ([note(1, "carol"), note(2, "carol")], "have not heard the same"),  # the last one is lost
        ([note(1, "carol"), note(3, "carol"), note(2, "carol")], "have not heard the same"),  # another order
        ([note(1, "carol"), note(2, "carol"), note(3, "carol"), note(2, "carol")], "twice"),
        ([note(1, "carol"), note(2, "carol"), note(3, "carol"), note(2, "carol", id_="other")], "in two stanzas"),
        ([note(1, "carol"), note(2, "dave", id_="id2"), note(3, "carol")], "have not heard the same"),  # forged
    ],
)
def test_what_must_not_be_is_noticed(heard: list[dict[str, Any]], complaint: str) -> None:
    problems = compare({"alice": [note(1, "carol"), note(2, "carol"), note(3, "carol")], "bob": heard})
    assert problems
    assert complaint in problems[0]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_half_a_minute_of_trouble(tmp_path: Path) -> None:
    """All that the long run does, but less of it."""
    server: DevServer = Prosody()
    try:
        with unavailable_means_skip():
            await server.start()
        soak = Soak(server, tmp_path, people=6, seed=20, say=print)
        figures = await soak.run(30, at_least={"say": 11, "kill": 1})
    finally:
        await server.close()
    assert figures.messages > 10
    assert figures.done["kill"] > 0
    assert sum(count for name, count in figures.done.items() if name.startswith("server")) > 0
    assert figures.members > 1
