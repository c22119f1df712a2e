"""A room on an ejabberd cluster of two nodes, one of which is killed, and then the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from slixmpp_mls.devserver import DevServer, EjabberdCluster

from ..conftest import unique
from .people import SECONDS, Cast, Person, all_agree

pytestmark = [
    pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("requests_get_lost"),
]  # fmt: skip


@pytest_asyncio.fixture
async def cluster(ejabberd: DevServer) -> AsyncIterator[EjabberdCluster]:
    del ejabberd  # there is one
    async with EjabberdCluster() as running:
        yield running


async def talk(person: Person, name: str, lines: int) -> None:
    for number in range(lines):
        await person.say(f"{name} says {number}")
        if number % 8 == 5:
            await person.room().update()
        await asyncio.sleep(0.1)


async def heard(people: dict[str, Person], lines: int) -> None:
    """Each has what the others have said, each once.  (What vanished with the node comes after what followed it.)"""
    for person in people.values():
        for name, other in people.items():
            if other is not person:
                said = [f"{name} says {number}" for number in range(lines)]
                await person.hears(*said)
                assert sorted(body for body in person.bodies if body.startswith(f"{name} says")) == sorted(said)
        await person.until(lambda person=person: len(person.got("mls_sent")) >= lines)  # type: ignore[misc]
        assert len(person.got("mls_sent")) == lines
        assert not person.got("mls_unreadable")


async def test_a_node_dies_in_the_middle_of_the_talk(cluster: EjabberdCluster, cast: Cast) -> None:
    first, second = cluster.nodes
    assert await second.running_nodes() == sorted([first.name, second.name])
    alice = await cast.person(first, "alice", self_ping=2.0)  # the room runs on the node of who makes it
    bob = await cast.person(second, "bob", self_ping=2.0)
    carol = await cast.person(first, "carol", self_ping=2.0)
    people = {"alice": alice, "bob": bob, "carol": carol}
    room = f"{unique('coven')}@{first.rooms}"
    await (await alice.mls.create(room)).add(bob.account, carol.account)
    for person in (bob, carol):
        await person.joined(room)
    for person in people.values():
        person.stay_connected()
    talks = asyncio.gather(*(talk(person, name, 24) for name, person in people.items()))
    await bob.hears("alice says 7", "carol says 7")
    await first.kill()
    for person in (alice, carol):  # as DNS would have it
        person.server = second
    async with asyncio.timeout(400):
        await talks
    await heard(people, 24)
    await all_agree(alice, bob, carol, at_least=1 + 3 * 3)
    assert await second.running_nodes() == [second.name]

    # The first one comes back, and the second one goes.
    await first.start()
    assert await first.running_nodes() == sorted([first.name, second.name])
    await second.kill()
    for person in people.values():
        person.server = first
    before = len(alice.got("mls_sent"))
    for name, person in people.items():
        await person.say(f"{name} is still here")
    for person in people.values():
        others = [f"{name} is still here" for name, other in people.items() if other is not person]
        await person.hears(*others)
        assert sorted(body for body in person.bodies if body.endswith("still here")) == sorted(others)
    await alice.until(lambda: len(alice.got("mls_sent")) == before + 1)
    await asyncio.wait_for(bob.room().update(), SECONDS)
    await all_agree(alice, bob, carol, at_least=2 + 3 * 3)
