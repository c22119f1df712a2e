"""Groups that are linked, on real servers."""

from __future__ import annotations

import asyncio

import pytest

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import UsageError

from ..conftest import unique
from .people import SECONDS, Cast, Person, all_agree


async def another_room(server: DevServer, first: Person, *others: Person) -> str:
    room = f"{unique('cellar')}@{server.rooms}"
    async with asyncio.timeout(SECONDS):
        group = await first.mls.create(room)
        await group.add(*(other.account for other in others))
    for other in others:
        await other.joined(room)
    return room


async def test_a_key_of_one_room_goes_into_another(server: DevServer, cast: Cast) -> None:
    """Bob is away, and reads of it when both rooms have gone on; whichever he reads first."""
    above, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    below = await another_room(server, alice, bob, carol)
    bob.crash()
    await carol.room(above).update()
    await alice.until(lambda: alice.room(above).epoch == carol.room(above).epoch)
    changed = await alice.room(below).link(alice.room(above))
    assert changed.epoch == alice.room(below).epoch == 2
    await alice.room(above).update()
    await all_agree(alice, carol, room=below, epoch=2)
    await bob.connect()
    for room in (above, below):
        await bob.joined(room)
    await all_agree(alice, bob, carol, room=below, epoch=2)
    await all_agree(alice, bob, carol, room=above, epoch=3)
    await bob.say("both rooms in hand", below)
    await carol.hears("both rooms in hand")
    assert not [person for person in (alice, bob, carol) if person.got("mls_rejected") or person.got("mls_group_lost")]


async def test_members_who_could_not_follow_are_named(prosody: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    carol = await cast.person(prosody, "carol")
    below = await another_room(prosody, alice, bob, carol)
    (above,) = set(alice.mls.rooms) - {below}
    with pytest.raises(UsageError, match=f"{carol.account}/{carol.mls.device_id}"):
        await alice.room(below).link(alice.room(above))
    with pytest.raises(UsageError, match="itself"):
        await alice.room(below).link(alice.room(below))
    await alice.room(above).link(alice.room(below))  # the other way round all can
    await all_agree(alice, bob, room=above, epoch=2)
