"""A hole in the archive never forks a group, and deletes nothing (:mod:`slixmpp_mls.client.group.certainty`)."""

from __future__ import annotations

import asyncio
import re
import time
from base64 import b64decode
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest

from slixmpp_mls.client.group.certainty import ANSWER_LABEL, Inquiry, UnsureReason
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.stanza import Answer, Application

from .people import Cast, Person, agree, all_agree
from .test_recovery import edit, purge

SECONDS = 120.0
_NEWEST = "WHERE {where} AND {id} = (SELECT max({id}) FROM {archive} WHERE {where})"
NEWEST = f"DELETE FROM {{archive}} {_NEWEST}"
# XEP-0425: of the newest stanza, what a moderator leaves.
TOMBSTONE = (
    "UPDATE {archive} SET {xml} = substr({xml}, 1, instr({xml}, '>')) || '<moderated"
    ' xmlns="urn:xmpp:message-moderate:0" by="coven@rooms.example/moderator"><retracted'
    ' xmlns="urn:xmpp:message-retract:0" stamp="2026-01-01T00:00:00Z"/></moderated></message>\' ' + _NEWEST
)


async def cut(server: DevServer, room: str, alice: Person, *others: Person, how: str = NEWEST) -> None:
    """A Commit that everybody present has seen, and the archive has not."""
    await alice.room().update()
    await all_agree(alice, *others)
    assert edit(server, room, how) == 1


async def together(*people: Person) -> None:
    await people[0].until(lambda: agree(*people), SECONDS)


async def do(then: str, person: Person, *others: Person) -> None:
    """What somebody does first who does not know that stanzas are missing."""
    match then:
        case "own commit":
            await asyncio.wait_for(person.room().update(), SECONDS)
        case "own message":
            await person.say("do you hear me")
            await others[0].hears("do you hear me", seconds=SECONDS)
        case "others talk":
            await others[-1].say("here we are")
    await together(*others, person)


_THEN = ["own commit", "own message", "silence", "others talk"]
_TOMBSTONES = [("tombstone", then) for then in _THEN[:3]]


@pytest.mark.usefixtures("answers_are_waited_for")
@pytest.mark.parametrize(
    ("holes", "then"), [*((holes, then) for holes in ("one", "two") for then in _THEN), *_TOMBSTONES]
)
async def test_a_client_that_was_away_is_back_within_seconds(
    server: DevServer, cast: Cast, holes: str, then: str
) -> None:
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await carol.log_out()
    if holes == "tombstone":  # and nothing after it, so that nothing else is evidence
        await cut(server, room, alice, bob, how=TOMBSTONE)
    else:
        for number in range({"one": 1, "two": 2}[holes]):
            await cut(server, room, alice, bob)
            await alice.say(f"words behind hole {number}")
            await bob.hears(f"words behind hole {number}")
    await carol.connect()
    await carol.joined(room)
    await do(then, carol, alice, bob)
    if holes == "tombstone":
        assert "tombstone" in carol.got("mls_unsure")[0].reasons
    assert not carol.got("mls_group_lost")
    assert not alice.got("mls_group_lost")
    await alice.say("all of us")
    await carol.hears("all of us")
    await carol.say("indeed")
    await bob.hears("indeed")
    assert len(alice.room().members) == 3


@pytest.mark.usefixtures("answers_are_waited_for")
async def test_a_tombstone_in_place_of_a_message_costs_a_question(server: DevServer, cast: Cast) -> None:
    """Nobody can tell that it was no Commit: the client asks, is sure again, and is where it was."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.log_out()
    await (await alice.say("words for the moderator")).confirmed
    assert edit(server, room, TOMBSTONE) == 1
    await bob.connect()
    assert (await bob.next("mls_unsure")).reasons == ("tombstone",)
    epoch = alice.room().epoch
    assert (await bob.next("mls_unsure", 1)).reasons == ()
    assert bob.room().epoch == epoch  # the question was answered, and nothing was missing
    for then in ("own message", "own commit"):
        await do(then, bob, alice)
    for person in (alice, bob):
        assert not person.got("mls_group_lost")
        assert not person.got("mls_rejoining")


@pytest.mark.usefixtures("answers_are_waited_for")
@pytest.mark.parametrize(
    ("bob_is", "then"),
    [("away", "own commit"), ("away", "own message"), ("away", "silence"), ("there", "own message")],
)
async def test_a_place_that_the_archive_does_not_show_any_more(
    server: DevServer, cast: Cast, bob_is: str, then: str
) -> None:
    """The stanza after which bob reads is gone, and, if he was away, a Commit that came after it as well."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await cut(server, room, alice, bob)
    if bob_is == "away":
        await bob.log_out()
        await alice.room().update()
        assert edit(server, room, NEWEST) == 1
        await bob.connect()
    else:
        bob.room().worker.parts.muc.suspect()  # he looks into the archive again, as after a while of silence
    assert "archive-gap" in (await bob.next("mls_unsure")).reasons
    await bob.joined(room)
    await do(then, bob, alice)
    for person in (alice, bob):
        assert not person.got("mls_group_lost")
    await bob.say("both of us")
    await alice.hears("both of us")
    await alice.say("both indeed")
    await bob.hears("both indeed")
    assert len(alice.room().members) == 2


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


def forged(group: Group) -> list[Any]:
    """What anybody can make who knows the group's id: a message of a later epoch."""
    epoch = group.epoch + 1000
    body = PrivateMessage(group.group_id, epoch, ContentType.APPLICATION, b"", bytes(28), bytes(200))
    return [Application(group.group_id, epoch, MLSMessage.wrap(body)).to_stdlib(), Element("{urn:xmpp:hints}store")]


async def test_garbage_of_a_later_epoch_throws_nobody_out(server: DevServer, cast: Cast) -> None:
    room, people = await cast.meet(server, "alice", "bob", "carol")
    alice, bob, carol = people
    group = alice.room().group.mls

    await alice.post(forged(group), room)
    await carol.post(forged(group), room)
    assert (await bob.next("mls_unsure")).reasons == ("later-epoch",)
    await bob.say("nothing has happened")
    for person in (alice, carol):
        await person.hears("nothing has happened", seconds=SECONDS)
    await together(*people)
    for person in people:
        assert not person.got("mls_group_lost")
        assert person.room().is_member


async def test_a_removal_that_was_missed_is_believed_when_its_author_shows_it(server: DevServer, cast: Cast) -> None:
    """Until then its like may be somebody's invention: nothing is followed, nothing is sent, and nothing is lost."""
    room, (alice, bob, carol, dave) = await cast.meet(server, "alice", "bob", "carol", "dave")
    await carol.log_out()
    await alice.room().remove(dave.account)
    await together(alice, bob)
    await alice.until(lambda: not any(alice.room().group.post_commit_actions), SECONDS)
    assert edit(server, room, NEWEST) == 1
    await bob.say("alice reads on")
    await alice.hears("alice reads on")  # so that her own place in the archive is there
    await alice.log_out()
    await carol.connect()
    await bob.say("without dave")
    await carol.until(lambda: "unproven" in carol.room(room).unsure, SECONDS)
    epoch = carol.room(room).epoch
    saying = asyncio.create_task(carol.say("is dave still here", room))
    await bob.say("and still without")  # as much time as a message takes
    assert carol.room(room).epoch == epoch
    assert not saying.done() or not (await saying).confirmed.done()
    await alice.connect()
    await alice.joined(room)
    await together(alice, bob, carol)
    for person in (alice, bob):
        await person.hears("is dave still here", seconds=SECONDS)
    await saying
    assert "is dave still here" not in dave.bodies
    assert len(carol.room().members) == 3


async def test_a_member_without_rights_leads_nobody_away_by_an_answer(server: DevServer, cast: Cast) -> None:
    """It has kept an old inquiry of bob's, sows doubt, and shows a group of its own; the administrator is there."""
    room, people = await cast.meet(server, "alice", "bob", "carol")
    alice, bob, carol = people
    carol.mls.room(room).worker.recovery._consider = lambda *_: None  # type: ignore[method-assign]
    await carol.post(forged(carol.room().group.mls), room)
    await bob.next("mls_unsure")
    await bob.until(lambda: not bob.room().unsure, SECONDS)
    old = [
        each
        for each in re.findall("<inquiry .*?</inquiry>", carol.client.received.decode())
        if Inquiry.decode(b64decode(fromstring(each).text or "")).signer == bob.room().group.mls.own_index
    ]
    assert old
    for each in old:
        await carol.post([fromstring(each), Element("{urn:xmpp:hints}store")], room)
    group = carol.room().group.mls
    spy = alice.room().group.mls.own_index
    shown = group.finish_commit(group.draft_commit([Remove(spy)], now=int(time.time()), by_reference=())).staged.next
    assert isinstance(shown, Group)
    asked = bob.room().group.certainty.inquire(int(time.time()))
    await bob.room().worker.transmitter.transmit(asked)
    with bob.room().group.room_state.change() as change:
        bob.room().group.certainty.note(change, UnsureReason.UNAVAILABLE, int(time.time()))
    key = Inquiry.decode(asked.payloads[0].data).reply_key
    sealed = group.suite.encrypt_with_label(key, ANSWER_LABEL, group.group_id, shown.group_info())
    await carol.post([Answer(group.group_id, shown.epoch, sealed.encode()).to_stdlib()], room)
    await bob.say("for alice")
    await alice.hears("for alice", seconds=SECONDS)
    await together(*people)
    assert len(bob.room().members) == 3


@pytest.mark.parametrize(
    ("inviter", "how"),
    [("there", NEWEST), ("away", NEWEST), ("there", TOMBSTONE)],
    ids=["there", "away", "tombstone"],
)
async def test_a_hole_in_a_welcome(server: DevServer, cast: Cast, inviter: str, how: str) -> None:
    """The stanza with the Commit that adds somebody is gone before its Welcome is read: a member makes another one."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol")
    await carol.log_out()
    assert (await alice.room().add(carol.account)).added
    await together(alice, bob)
    await alice.until(lambda: not any(alice.room().group.post_commit_actions), SECONDS)  # the invitation is sent
    assert edit(server, room, how) == 1
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
