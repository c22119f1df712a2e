"""Many want something of a group at the same moment: each gets it, soon, and nothing is done twice."""

from __future__ import annotations

import asyncio

import pytest

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.policy import Right, RoomPolicy
from slixmpp_mls.rooms.engine import commit_turns

from .people import Cast, Person, all_agree

NAMES = ("alice", "bob", "carol", "dave", "eve", "frank", "grace", "heidi", "ivan", "judy")


def commits(server: DevServer, room: str) -> int:
    return sum("<commit" in stanza for stanza in server.archive(room))


def wins(person: Person, since: int) -> list[tuple[int, str]]:
    """Which member has begun each epoch, as one of them has seen it."""
    return [(event.epoch, event.by.account) for event in person.got("mls_group_changed") if event.epoch > since]


@pytest.mark.slow
async def test_twenty_commit_at_once_and_all_get_their_way(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 1: each epoch has one winner, the same for all.  The losers take turns, with few Commits in vain."""
    # A turn is as long as two Commits take; those of twenty clients in one process take longer than a second.
    monkeypatch.setattr(commit_turns, "_LONGEST", 60.0)
    monkeypatch.setattr(commit_turns, "_OVER", 300.0)
    room, people = await cast.meet(server, *NAMES, *(f"{name}2" for name in NAMES))
    before, epoch = commits(server, room), people[0].room().epoch
    async with asyncio.timeout(300):
        changes = await asyncio.gather(*(person.room().update() for person in people))
    assert sorted(change.epoch for change in changes) == list(range(epoch + 1, epoch + 21))
    await all_agree(*people, epoch=epoch + 20)
    histories = [wins(person, epoch) for person in people]
    assert all(history == histories[0] for history in histories)
    assert sorted(by for _, by in histories[0]) == sorted(person.account for person in people)
    assert [person.got("mls_rejected") for person in people] == [[]] * 20
    made = commits(server, room) - before
    # 39 if all keep their turns, which have time limits, so more on a slow machine; at random 120.  20 would mean that
    # there was no race.
    assert 20 < made <= 90, made


async def test_what_has_become_superfluous_is_dropped(server: DevServer, cast: Cast) -> None:
    """Five add the same person, five remove the same person, all at once."""
    room, people = await cast.meet(server, *NAMES[:6])
    alice, *_, frank = people
    await alice.room().set_policy(RoomPolicy(room, (alice.account,), may_add=Right.MEMBERS, may_remove=Right.MEMBERS))
    others = [person for person in people if person is not frank]
    await all_agree(*people, epoch=2)
    guest = await cast.person(server, "guest")
    await alice.room().muc.affiliations.grant_membership([guest.account])
    async with asyncio.timeout(300):
        added = await asyncio.gather(*(person.room().add(guest.account) for person in others))
        removed = await asyncio.gather(*(person.room().remove(frank.account) for person in others))
    assert sorted(len(result.added) for result in added) == [0, 0, 0, 0, 1]
    assert all(not result.failed for result in added)
    assert sorted(map(len, removed)) == [0, 0, 0, 0, 1]
    await guest.joined(room)
    await all_agree(*others, guest, epoch=4)
    assert alice.room().accounts == sorted(person.account for person in (*others, guest))


async def test_one_of_ten_commits_for_who_leaves(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine the second in turn would begin before it hears of the first one's Commit.
    monkeypatch.setattr(commit_turns, "_ONE_PLACE", 12.0)
    monkeypatch.setattr(commit_turns, "_LONGEST_WAIT", 60.0)
    room, people = await cast.meet(server, *NAMES)
    *others, judy = people
    before = commits(server, room)
    async with asyncio.timeout(300):
        await judy.room().leave()
    await all_agree(*others, epoch=2)
    assert judy.account not in people[0].room().accounts
    assert commits(server, room) - before <= 2
