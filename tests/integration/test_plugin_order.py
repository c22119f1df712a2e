"""Several commit at once: the room's order decides, and all come to the same end."""

from __future__ import annotations

import asyncio

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.policy import Right, RoomPolicy

from .people import Cast, all_agree


async def test_all_commit_at_once_and_agree(server: DevServer, cast: Cast) -> None:
    """Three members, five updates each: fifteen epochs, each with one winner, the same for everybody."""
    _, people = await cast.meet(server, "alice", "bob", "carol")
    async with asyncio.timeout(300):
        changes = await asyncio.gather(*(person.room().update() for person in people for _ in range(5)))
    assert sorted(change.epoch for change in changes) == list(range(2, 17))
    await all_agree(*people, epoch=16)
    histories = [
        [(event.epoch, event.by.account) for event in person.got("mls_group_changed") if event.epoch > 1]
        for person in people
    ]
    assert histories[0] == histories[1] == histories[2]
    assert sorted(by for _, by in histories[0]) == sorted(person.account for person in people for _ in range(5))
    lost = [event for person in people for event in person.got("mls_commit_lost")]
    assert lost  # else nobody was too late, and this test has tested nothing
    for person in people:
        assert not person.got("mls_rejected")


async def test_talk_goes_on_while_keys_change(server: DevServer, cast: Cast) -> None:
    """What was encrypted before a Commit and arrives after it is still read, by everybody, in one order."""
    _, people = await cast.meet(server, "alice", "bob", "carol")

    async def talk(name: str) -> None:
        person = next(person for person in people if person.jid.user.startswith(name))
        for number in range(12):
            await person.say(f"{name} says {number}")
            if number % 4 == 1:
                await person.room().update()

    async with asyncio.timeout(300):
        await asyncio.gather(talk("alice"), talk("bob"), talk("carol"))
    said = {name: [f"{name} says {number}" for number in range(12)] for name in ("alice", "bob", "carol")}
    for person in people:
        others = [name for name in said if not person.jid.user.startswith(name)]
        await person.hears(*(text for name in others for text in said[name]))
        for name in others:
            assert [body for body in person.bodies if body.startswith(name)] == said[name]
        assert len(person.bodies) == 24
        assert not person.got("mls_rejected")
        assert not person.got("mls_unreadable")
    await all_agree(*people, epoch=10)


async def test_two_add_the_same_person_at_once(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await alice.room().set_policy(RoomPolicy(room, (alice.account,), may_add=Right.MEMBERS))
    await all_agree(alice, bob, epoch=2)
    carol = await cast.person(prosody, "carol")
    await alice.room().muc.affiliations.grant_membership([carol.account])
    results = await asyncio.gather(alice.room().add(carol.account), bob.room().add(carol.account))
    assert sorted(len(result.added) for result in results) == [0, 1]
    assert all(not result.failed for result in results)
    await carol.joined(room)
    await all_agree(alice, bob, carol)


async def test_several_operations_of_one_member_follow_each_other(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    carol, dave = await cast.person(prosody, "carol"), await cast.person(prosody, "dave")
    async with asyncio.timeout(300):
        await asyncio.gather(
            alice.room().add(carol.account),
            alice.room().update(),
            alice.room().add(dave.account),
            alice.room().remove(bob.account),
        )
    await carol.joined(room)
    await dave.joined(room)
    assert alice.room().accounts == sorted(p.account for p in (alice, carol, dave))
    await all_agree(alice, carol, dave, epoch=5)


async def test_giving_up_waiting_does_not_undo(prosody: DevServer, cast: Cast) -> None:
    """What was begun goes on when the caller loses patience, and the next call is not blocked by it."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    updating = asyncio.create_task(alice.room().update())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    updating.cancel()
    await asyncio.gather(updating, return_exceptions=True)
    await asyncio.wait_for(alice.room().update(), 120)
    await alice.say("Ripeness is all")
    await bob.hears("Ripeness is all")
    await all_agree(alice, bob)
    assert alice.room().epoch in (2, 3)
