"""A hole in the archive never forks a group, and deletes nothing (:mod:`slixmpp_mls.client.group.certainty`)."""

from __future__ import annotations

import asyncio
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage
from slixmpp_mls.stanza import Application

from .people import Cast, Person, agree, all_agree
from .test_recovery import edit, purge

SECONDS = 60.0
NEWEST = "DELETE FROM {archive} WHERE {where} AND {id} = (SELECT max({id}) FROM {archive} WHERE {where})"


async def cut(server: DevServer, room: str, alice: Person, *others: Person) -> None:
    """A Commit that everybody present has seen, and the archive has not."""
    await alice.room().update()
    await all_agree(alice, *others)
    assert edit(server, room, NEWEST) == 1


async def together(*people: Person) -> None:
    await people[0].until(lambda: agree(*people), SECONDS)


@pytest.mark.parametrize("then", ["own commit", "own message", "others talk", "silence"])
@pytest.mark.parametrize("holes", [1, 2])
async def test_whoever_was_away_is_back_within_seconds(server: DevServer, cast: Cast, then: str, holes: int) -> None:
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await carol.log_out()
    for number in range(holes):
        await cut(server, room, alice, bob)
        await alice.say(f"words behind hole {number}")
        await bob.hears(f"words behind hole {number}")
    await carol.connect()
    await carol.joined(room)
    match then:
        case "own commit":
            await asyncio.wait_for(carol.room().update(), SECONDS)
        case "own message":
            await carol.say("do you hear me")
            await alice.hears("do you hear me", seconds=SECONDS)
        case "others talk":
            await bob.say("here we are")
    await together(alice, bob, carol)
    assert not carol.got("mls_group_lost")
    assert not alice.got("mls_group_lost")
    await alice.say("all of us")
    await carol.hears("all of us")
    await carol.say("indeed")
    await bob.hears("indeed")
    assert len(alice.room().members) == 3


async def test_over_night_the_archive_expires_and_all_go_on(server: DevServer, cast: Cast) -> None:
    room, people = await cast.meet(server, "alice", "bob", "carol")
    alice, bob, carol = people
    await alice.say("good night")
    for person in (bob, carol):
        await person.hears("good night")
    for person in people:
        await person.log_out()
    purge(server, room)
    for person in people:
        person.seen.clear()
    await asyncio.gather(*(person.connect() for person in people))
    for person in people:
        await person.joined(room)
        assert not person.got("mls_group_lost")
    await bob.say("good morning")
    for person in (alice, carol):
        await person.hears("good morning", seconds=SECONDS)
    await together(*people)
    await alice.until(lambda: not any(person.room().unsure for person in people), SECONDS)


async def test_garbage_of_a_later_epoch_throws_nobody_out(server: DevServer, cast: Cast) -> None:
    room, people = await cast.meet(server, "alice", "bob", "carol")
    alice, bob, carol = people
    group = alice.room().group.mls

    def forged() -> list[Any]:
        epoch = group.epoch + 1000
        body = PrivateMessage(group.group_id, epoch, ContentType.APPLICATION, b"", bytes(28), bytes(200))
        return [
            Application(group.group_id, epoch, MLSMessage.wrap(body)).to_stdlib(),
            Element("{urn:xmpp:hints}store"),
        ]

    await alice.post(forged(), room)
    await carol.post(forged(), room)
    assert (await bob.next("mls_unsure")).reasons == ("later-epoch",)
    await bob.say("nothing has happened")
    for person in (alice, carol):
        await person.hears("nothing has happened", seconds=SECONDS)
    await together(*people)
    for person in people:
        assert not person.got("mls_group_lost")
        assert person.room().is_member


@pytest.mark.parametrize("inviter", ["there", "away"])
async def test_a_hole_in_a_welcome(server: DevServer, cast: Cast, inviter: str) -> None:
    """The stanza with the Commit that adds somebody is gone before its Welcome is read: a member makes another one."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol")
    await carol.log_out()
    assert (await alice.room().add(carol.account)).added
    await together(alice, bob)
    await alice.until(lambda: not alice.room().group.post_commit_actions, SECONDS)  # the invitation is sent
    assert edit(server, room, NEWEST) == 1
    if inviter == "away":
        await alice.log_out()
    await carol.connect()
    if inviter == "away":
        await carol.next("mls_rejoining")
        await alice.connect()
        await alice.joined(room)
    await carol.joined(room)
    await together(alice, bob, carol)
    await carol.say("here I am, in spite of it")
    for person in (alice, bob):
        await person.hears("here I am, in spite of it")
    assert len(alice.room().members) == 3
