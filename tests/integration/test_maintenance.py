"""Keys that are looked after by themselves, on real servers; the clocks are the test's."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from slixmpp_mls.account import maintenance
from slixmpp_mls.account.maintenance import QUIET
from slixmpp_mls.delivery import KeyPackageDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.key_packages.items import parse_item
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.runtime.clock import UNSTEADY

from ..conftest import unique
from .people import Cast, Person, all_agree


@pytest.fixture(autouse=True)
def nobody_else_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due is done when a test says so, however long it takes."""
    monkeypatch.setattr(maintenance, "TICK", HOUR)


class Clocks:
    """Everybody's: the wall clock may be set, the monotonic one goes."""

    def __init__(self) -> None:
        self.wall = time.time()
        self.monotonic = time.monotonic()

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def follow(self, *people: Person) -> None:
        for person in people:
            person.mls.clock.monotonic = lambda: self.monotonic
            person.mls.parts.maintenance.begin()

    @property
    def config(self) -> dict[str, Any]:
        return {"clock": lambda: self.wall}


async def tick(*people: Person) -> None:
    await asyncio.gather(*(person.mls.parts.maintenance.tick() for person in people))


async def published(person: Person) -> set[str]:
    """The KeyPackageRefs; the items' ids are places, which are used again."""
    return {parse_item(element).ref for element in (await KeyPackageDirectory(person.client).items()).values()}


async def test_keys_are_renewed_by_age_one_after_the_other(server: DevServer, cast: Cast) -> None:
    clocks = Clocks()
    _, people = await cast.meet(server, "alice", "bob", "carol", **clocks.config)
    clocks.follow(*people)
    await tick(*people)
    assert people[0].room().epoch == 1
    clocks.go(8 * DAY)
    rounds = 0
    while any(not person.got("mls_keys_renewed") for person in people):
        await tick(*people)
        clocks.go(QUIET + HOUR)  # what a lost race waits, too
        rounds += 1
        assert rounds < 20
        await all_agree(*people)
    for person in people:
        (event,) = person.got("mls_keys_renewed")
        assert (event.room, event.reason) == (person.room().jid, "age")
        assert person.got("mls_clock_jumped") == []
    assert people[0].room().epoch == 1 + len(people)
    epoch = people[0].room().epoch
    clocks.go(DAY)
    await tick(*people)
    assert people[0].room().epoch == epoch
    renewed = [member.renewed for member in people[0].room().members]
    assert all(at is not None and at > clocks.wall - 3 * DAY for at in renewed)


async def test_a_client_that_has_seen_a_commit_waits(prosody: DevServer, cast: Cast) -> None:
    clocks = Clocks()
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob", **clocks.config)
    clocks.follow(alice, bob)
    clocks.go(8 * DAY)
    await tick(alice)
    await bob.until(lambda: bob.room().epoch == 2)
    await tick(bob)
    assert not bob.got("mls_keys_renewed")
    clocks.go(QUIET + 1)
    await tick(bob)
    assert bob.got("mls_keys_renewed")


async def test_a_lost_race_is_not_run_again_at_once(prosody: DevServer, cast: Cast) -> None:
    """Eight members that are due in the same second make few more Commits than they need."""
    clocks = Clocks()
    _, people = await cast.meet(prosody, *(f"witch{number}" for number in range(8)), **clocks.config)
    clocks.follow(*people)
    clocks.go(8 * DAY)
    await tick(*people)
    await all_agree(*people)
    assert people[0].room().epoch == 2
    assert sum(len(person.got("mls_keys_renewed")) for person in people) == 1
    commits = sum(len(person.stanzas_sent("<commit ")) for person in people)
    await tick(*people)  # nobody tries again now
    assert sum(len(person.stanzas_sent("<commit ")) for person in people) == commits


async def test_keys_are_renewed_by_use_across_a_restart(prosody: DevServer, cast: Cast) -> None:
    clocks = Clocks()
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob", renew_after_messages=5, **clocks.config)
    clocks.follow(alice, bob)
    for number in range(3):
        await alice.say(f"Scale of dragon {number}")
    await bob.room().update()
    await alice.until(lambda: alice.room().epoch == 2)
    await alice.log_out()
    await alice.connect()
    await alice.joined(bob.room().jid)
    clocks.follow(alice)
    await tick(alice)
    assert not alice.got("mls_keys_renewed")
    for number in range(2):
        await alice.say(f"tooth of wolf {number}")
    await tick(alice)
    assert [event.reason for event in alice.got("mls_keys_renewed")] == ["use"]
    await all_agree(alice, bob, epoch=3)
    await tick(bob)
    assert not bob.got("mls_keys_renewed")


async def grow_silent(
    cast: Cast, server: DevServer, clocks: Clocks, policy_age: int = 0, **config: Any
) -> tuple[str, Person, Person, Person]:
    """Alice and Carol are administrators, Bob is off for 40 days."""
    alice = await cast.person(server, "alice", **clocks.config, **config)
    bob = await cast.person(server, "bob", **clocks.config)
    carol = await cast.person(server, "carol", **clocks.config, **config)
    room = f"{unique('coven')}@{server.rooms}"
    policy = RoomPolicy(room, (alice.account, carol.account), max_leaf_age=policy_age)
    await (await alice.mls.create(room, policy=policy)).add(bob.account, carol.account)
    for person in (bob, carol):
        await person.joined(room)
    clocks.follow(alice, carol)
    await bob.log_out()
    for _ in range(40):  # a day at a time, as if they had been there; enough for their own keys to stay young
        clocks.go(DAY)
        await tick(alice, carol)
        await all_agree(alice, carol)
    return room, alice, bob, carol


async def test_silent_members_are_removed_if_that_is_wanted(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "QUIET", 0.5)
    clocks = Clocks()
    room, alice, bob, carol = await grow_silent(cast, server, clocks, evict_after=30 * DAY)
    await alice.until(lambda: alice.room().accounts == sorted((alice.account, carol.account)))
    await all_agree(alice, carol)
    event = (alice.got("mls_silent") + carol.got("mls_silent"))[0]
    assert [member.account for member in event.members] == [bob.account]
    assert [member.account for member in event.removable] == [bob.account]
    assert event.members[0].renewed < clocks.wall - 30 * DAY
    await bob.connect()
    assert (await alice.room().add(bob.account)).added[0].account == bob.account  # it was not banned
    await bob.joined(room)
    await all_agree(alice, bob, carol)
    assert not alice.got("mls_clock_jumped")


async def test_by_default_nobody_is_removed_for_being_silent(prosody: DevServer, cast: Cast) -> None:
    clocks = Clocks()
    _, alice, bob, carol = await grow_silent(cast, prosody, clocks, policy_age=8 * DAY)
    assert bob.account in alice.room().accounts
    assert not alice.got("mls_silent")
    assert len(alice.got("mls_keys_renewed")) >= 5  # the policy's 8 days: ours at least every 6
    assert carol.got("mls_keys_renewed")


async def test_the_policy_may_say_when_and_only_who_has_the_right_removes(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "QUIET", 0.5)
    clocks = Clocks()
    alice = await cast.person(prosody, "alice", **clocks.config)
    bob = await cast.person(prosody, "bob", evict_after="policy", **clocks.config)
    room = f"{unique('coven')}@{prosody.rooms}"
    policy = RoomPolicy(room, (alice.account,), max_leaf_age=2 * DAY)
    await (await alice.mls.create(room, policy=policy)).add(bob.account)
    await bob.joined(room)
    clocks.follow(bob)
    await alice.log_out()
    clocks.go(3 * DAY)
    await bob.mls.parts.maintenance.hourly()
    (event,) = bob.got("mls_silent")
    assert [member.account for member in event.members] == [alice.account]
    assert event.removable == ()  # an administrator, by somebody who is none
    await bob.mls.parts.maintenance.hourly()
    assert len(bob.got("mls_silent")) == 1
    assert alice.account in bob.room().accounts


@pytest.mark.parametrize("jump", [40 * DAY, -40 * DAY], ids=["forward", "back"])
async def test_a_clock_that_jumps_and_is_set_right_changes_nothing(server: DevServer, cast: Cast, jump: int) -> None:
    """KeyPackages stay, nobody is removed, no key is renewed."""
    clocks = Clocks()
    _, (alice, bob) = await cast.meet(server, "alice", "bob", evict_after=30 * DAY, **clocks.config)
    clocks.follow(alice, bob)
    before = await published(alice)
    clocks.go(HOUR)
    clocks.wall += jump
    await tick(alice)
    (event,) = alice.got("mls_clock_jumped")
    assert abs(event.seconds - jump) < 60
    clocks.go(UNSTEADY - 60)
    await tick(alice)
    await alice.mls.replenish()
    assert await published(alice) == before
    clocks.wall -= jump
    await tick(alice)
    clocks.go(UNSTEADY + 1)
    await tick(alice)
    await alice.mls.parts.maintenance.hourly()
    assert await published(alice) == before
    assert len(alice.room().members) == 2
    assert alice.room().epoch == 1
    assert alice.got("mls_silent") == alice.got("mls_keys_renewed") == []


async def test_a_clock_that_stays_wrong_is_gone_by_and_undone_within_a_day(prosody: DevServer, cast: Cast) -> None:
    clocks = Clocks()
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob", evict_after=30 * DAY, **clocks.config)
    clocks.follow(alice, bob)
    before = await published(alice)
    clocks.wall += 40 * DAY
    await tick(alice)
    clocks.go(UNSTEADY + 1)
    await tick(alice)
    await alice.mls.parts.maintenance.hourly()
    assert not before & await published(alice)  # others would call the old ones expired, by such a clock
    assert alice.got("mls_key_packages")[-1].retracted == len(before)
    assert len(alice.room().members) == 2  # nobody is removed within a day of a jump
    clocks.go(12 * HOUR)
    clocks.wall -= 40 * DAY
    await tick(alice)
    clocks.go(UNSTEADY + 1)
    await alice.mls.parts.maintenance.hourly()
    assert await published(alice) == before
    room = f"{unique('heath')}@{prosody.rooms}"
    await (await bob.mls.create(room)).add(alice.account)
    await alice.joined(room)


async def test_a_start_with_a_clock_in_the_past_touches_nothing(prosody: DevServer, cast: Cast) -> None:
    """A machine without a battery, before the network tells it the time."""
    clocks = Clocks()
    alice = await cast.person(prosody, "alice", **clocks.config)
    clocks.follow(alice)
    await alice.mls.parts.maintenance.hourly()
    before = await published(alice)
    await alice.log_out()
    right, clocks.wall = clocks.wall, 1000.0
    await alice.connect()
    assert await published(alice) == before
    clocks.follow(alice)
    clocks.wall = right
    await tick(alice)
    clocks.go(UNSTEADY + 1)
    await alice.mls.parts.maintenance.hourly()
    assert await published(alice) == before
