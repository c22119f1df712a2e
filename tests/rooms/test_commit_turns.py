"""Taking turns (XEP, Taking Turns): every loser of a race finds the same queue, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from itertools import pairwise

import pytest

from slixmpp_mls.rooms.engine import commit_turns
from slixmpp_mls.rooms.engine.commit_turns import CommitTurns, place, wait_for_place

ROOM = "coven@rooms.example"


async def test_losers_follow_each_other_in_the_rooms_order() -> None:
    losers = ["alice", "bob", "carol", "dave"]
    views = {name: CommitTurns() for name in losers}
    order: list[str] = []

    async def lose(name: str) -> None:
        await views[name].wait(f"id-{name}", asyncio.get_running_loop().time())
        order.append(name)
        await asyncio.sleep(0)
        for view in views.values():  # its Commit wins, and everybody sees it
            view.won(f"{ROOM}/{name}")

    waiting = [asyncio.create_task(lose(name)) for name in reversed(losers)]
    await asyncio.sleep(0)
    for view in views.values():
        view.won(f"{ROOM}/eve")
    for name in losers:
        for view in views.values():
            view.lost(f"{ROOM}/{name}", f"id-{name}")
    async with asyncio.timeout(60):
        await asyncio.gather(*waiting)
    assert order == losers


async def test_a_client_that_does_not_take_its_turn_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_turns, "_SHORTEST", 0.02)
    view = CommitTurns()
    waiting = asyncio.create_task(view.wait("ours", asyncio.get_running_loop().time()))
    view.lost(f"{ROOM}/gone", "theirs")
    view.lost(f"{ROOM}/slow", None)
    view.lost(f"{ROOM}/we", "ours")
    await asyncio.sleep(0)
    assert not waiting.done()
    async with asyncio.timeout(60):
        await waiting


async def test_a_loser_of_two_races_goes_to_the_end() -> None:
    view = CommitTurns()
    for name in ("alice", "we", "alice"):
        view.lost(f"{ROOM}/{name}", name)
    async with asyncio.timeout(60):
        await view.wait("we", asyncio.get_running_loop().time())


async def test_a_commit_that_never_came_by_is_made_anew_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_turns, "_LONGEST", 0.02)
    view = CommitTurns()
    view.lost(f"{ROOM}/alice", "alice")
    async with asyncio.timeout(60):
        await view.wait("ours", asyncio.get_running_loop().time())


async def test_a_flood_of_late_commits_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One occupant has one place, and there are not more than so many."""
    monkeypatch.setattr(commit_turns, "_LONGEST", 0.02)
    monkeypatch.setattr(commit_turns, "_SHORTEST", 0.01)
    view = CommitTurns()
    for number in range(1000):
        view.lost(f"{ROOM}/mallory", f"mallory-{number}")
    for number in range(1000):
        view.lost(f"{ROOM}/sock-puppet-{number}", None)
    assert len(view._queue) == commit_turns._MOST
    async with asyncio.timeout(60):
        await view.wait("ours", asyncio.get_running_loop().time())


def test_all_find_the_same_order_and_each_epoch_another_one() -> None:
    nicks = [f"witch {number}" for number in range(20)]
    orders = []
    for epoch in range(5):
        name = b"group" + epoch.to_bytes(8, "big")
        places = {nick: place(nick, [other for other in nicks if other != nick], name) for nick in nicks}
        assert sorted(places.values()) == list(range(20))
        orders.append(sorted(nicks, key=places.__getitem__))
    assert all(one != other for one, other in pairwise(orders))


async def test_devices_that_share_a_nickname_wait_for_a_random_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The room shows one occupant, whose entry is that of the device that has lost last."""
    waits: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        waits.append((low, high))
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)
    view = CommitTurns()
    view.lost(f"{ROOM}/alice", "alice")
    ours = asyncio.create_task(view.wait("pda", asyncio.get_running_loop().time()))
    view.lost(f"{ROOM}/hag", "pda")
    await asyncio.sleep(0)
    view.lost(f"{ROOM}/hag", "laptop")
    async with asyncio.timeout(60):
        await ours
    assert waits == [(0.0, commit_turns._SHORTEST)]
    await wait_for_place(0)
    assert len(waits) == 1
    await wait_for_place(0, among_equals=True)
    assert waits[1:] == [(0.0, commit_turns._ONE_PLACE)]


def test_the_same_nickname_is_another_place_for_another_account() -> None:
    """Nobody takes a member's place by its nickname: the real JID counts as well."""
    epochs = [b"group" + number.to_bytes(8, "big") for number in range(20)]
    places = [place("hag@x/nick", ["crone@x/nick"], epoch) for epoch in epochs]
    assert set(places) == {0, 1}
    assert places == [1 - place("crone@x/nick", ["hag@x/nick"], epoch) for epoch in epochs]
    # SHA-256 of group id, epoch in eight octets, real JID, slash and nickname (xep/mls.xml, "Taking Turns")
    assert commit_turns._mark("hag@x/nick", epochs[1]) == sha256(b"group" + b"\0" * 7 + b"\1hag@x/nick").digest()
