"""Broken connections: whatever happens to the stream, nothing is in clear, nothing is lost, nothing comes twice.

The harness looks through all that went over every wire (see `people.Cast.check_wires`), here as in all tests.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any
from typing import cast as typed
from xml.etree.ElementTree import fromstring

import pytest
from slixmpp import JID
from slixmpp.xmlstream import StanzaBase

from slixmpp_mls.devserver import DevServer

from .people import SECONDS, Cast, Person, all_agree


def applications(person: Person) -> list[str]:
    """The origin ids of the encrypted messages that went onto the wire, in order."""
    return [fromstring(wire).get("id", "") for wire in person.stanzas_sent("<message[^>]*><application")]


async def test_the_harness_would_see_it(prosody: DevServer, cast: Cast) -> None:
    """A text in clear is found on both wires, and so is an error stanza."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    alice.client.send_message(JID(room), cast.secret("an honest plaintext"), mtype="groupchat")
    await bob.until(lambda: b"an honest plaintext" in bob.client.received)
    with pytest.raises(AssertionError, match="in clear"):
        cast.check_wires()
    cast.secrets.clear()
    cast.check_wires()
    error = alice.client.make_message(JID(bob.account), mtype="normal")
    typed(Any, error).reply().error().send()
    error.error().send()
    await alice.until(lambda: len(alice.stanzas_sent("type=['\"]error")) == 2)
    with pytest.raises(AssertionError):
        cast.check_wires()
    alice.client.sent.clear()


@pytest.mark.parametrize("lost", [False, True], ids=["sent", "lost with the connection"])
async def test_a_resumed_stream(server: DevServer, cast: Cast, lost: bool) -> None:
    """XEP-0198: slixmpp sends again what the server has not acknowledged, without its filters."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.say("before the storm")
    await alice.hears("before the storm")
    entered = len(bob.got("mls_entered"))
    bob.client.plugin["xep_0198"].window_counter = 1000  # so that no acknowledgement is asked for meanwhile
    bob.client.swallowing = lost
    for number in range(5):
        await bob.say(f"in the storm {number}")
    queue = bob.client.plugin["xep_0198"].unacked_queue
    assert sum(stanza.name == "message" for _, stanza in queue) >= 5
    await bob.cut()
    bob.client.swallowing = False
    for number in range(5):
        await bob.say(f"while away {number}")
        await alice.say(f"meanwhile {number}")
    assert await bob.back() == "session_resumed"
    await bob.say("after the storm")
    await alice.say("all is well")
    texts = [f"in the storm {n}" for n in range(5)] + [f"while away {n}" for n in range(5)]
    await alice.hears(*texts, "after the storm")
    await bob.hears("all is well")
    assert sorted(alice.bodies) == sorted(["before the storm", *texts, "after the storm"])
    assert bob.bodies == [f"meanwhile {n}" for n in range(5)] + ["all is well"]
    await bob.until(lambda: len(bob.got("mls_sent")) == 12)
    assert len(bob.got("mls_entered")) == entered  # it never was out of the room
    for person in (alice, bob):
        assert not person.got("mls_rejected")
    if not lost:
        assert len(applications(bob)) >= 12
    await bob.room().update()
    await all_agree(alice, bob)


async def test_a_new_session(server: DevServer, cast: Cast) -> None:
    """No resumption: what was on its way is looked for in the archive, and what is not there is sent again."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    for number in range(3):
        await bob.say(f"arrives {number}")
    await alice.hears("arrives 2")
    bob.client.swallowing = True
    for number in range(3):
        await bob.say(f"swallowed {number}")
    await bob.cut()
    bob.client.swallowing = False
    bob.no_resumption()
    for number in range(3):
        await bob.say(f"waiting {number}")
        await alice.say(f"meanwhile {number}")
    await alice.room().update()
    assert await bob.back() == "session_start"
    await bob.say("once more")
    expected = [f"{what} {n}" for what in ("arrives", "swallowed", "waiting") for n in range(3)] + ["once more"]
    await alice.hears(*expected)
    await bob.hears("meanwhile 2")
    await bob.until(lambda: len(bob.got("mls_sent")) == len(expected))
    await asyncio.sleep(0.3)
    assert sorted(alice.bodies) == sorted(expected)
    assert [body for body in alice.bodies if body != "once more"] == expected[:-1]
    assert bob.bodies == [f"meanwhile {n}" for n in range(3)]
    assert len(bob.got("mls_sent")) == len(expected)
    assert bob.got("mls_interrupted")
    assert len(bob.got("mls_entered")) == 2
    for person in (alice, bob):
        assert not person.got("mls_rejected")
        assert not person.got("mls_unreadable")
    # The keys of what was swallowed are not used for anything else: no two stanzas share an origin id by chance.
    sent = applications(bob)
    assert len(set(sent)) == len(expected)
    await all_agree(alice, bob)


async def test_the_server_restarts_in_mid_talk(own_server: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(own_server, "alice", "bob")
    for person in (alice, bob):
        person.stay_connected()
    total = 24

    async def talk(person: Person, name: str) -> None:
        for number in range(total):
            await person.say(f"{name} says {number}")
            await asyncio.sleep(0.05)

    talks = asyncio.gather(talk(alice, "alice"), talk(bob, "bob"))
    await bob.hears("alice says 7")
    await own_server.restart()
    await talks
    await asyncio.gather(
        bob.hears(*(f"alice says {n}" for n in range(total))),
        alice.hears(*(f"bob says {n}" for n in range(total))),
    )
    await asyncio.wait_for(alice.room().update(), SECONDS)
    await all_agree(alice, bob, epoch=2)
    assert bob.bodies == [f"alice says {n}" for n in range(total)]
    assert alice.bodies == [f"bob says {n}" for n in range(total)]
    for person in (alice, bob):
        assert len(person.got("mls_sent")) == total
        assert len({event.archive_id for event in person.got("mls_sent")}) == total
        assert not person.got("mls_rejected")
        assert not person.got("mls_unreadable")
        assert person.got("mls_interrupted")


async def test_a_bad_line_and_changing_keys(prosody: DevServer, cast: Cast) -> None:
    """Connections break again and again, in both manners, while people talk and commit."""
    _, (alice, bob, carol) = await cast.meet(prosody, "alice", "bob", "carol")
    rng = random.Random(7)
    for person in (alice, bob):
        person.stay_connected()

    async def saw(person: Person) -> None:
        for _ in range(4):
            # Back in the room: slixmpp does not tell of a connection that is cut in the middle of its TLS handshake.
            await person.until(lambda: person.room().muc.inside and person.room().live)
            await asyncio.sleep(rng.uniform(0, 0.4))
            if rng.random() < 0.5:
                person.no_resumption()
            person.client.swallowing = rng.random() < 0.5
            await asyncio.sleep(rng.uniform(0, 0.1))
            await person.cut()
            person.client.swallowing = False

    async def talk(person: Person, name: str) -> None:
        for number in range(20):
            await person.say(f"{name} says {number}")
            if number % 10 == 5:
                await person.room().update()
            await asyncio.sleep(rng.uniform(0, 0.1))

    saws = [asyncio.create_task(saw(person)) for person in (alice, bob)]
    async with asyncio.timeout(400):
        await asyncio.gather(talk(alice, "alice"), talk(bob, "bob"), talk(carol, "carol"))
    await asyncio.gather(*saws)
    said = {name: [f"{name} says {n}" for n in range(20)] for name in ("alice", "bob", "carol")}
    for person in (alice, bob, carol):
        for name, texts in said.items():
            if person.jid.user.startswith(name):
                continue
            await person.hears(*texts)
            assert sorted(body for body in person.bodies if body.startswith(name)) == sorted(texts)
    await alice.until(lambda: alice.room().live and bob.room().live)
    await all_agree(alice, bob, carol, epoch=7)
    for person in (alice, bob, carol):
        await person.until(lambda person=person: len(person.got("mls_sent")) >= 20)  # type: ignore[misc]
        assert len(person.got("mls_sent")) == 20
        assert not person.got("mls_unreadable")


async def test_a_silently_lost_room(prosody: DevServer, cast: Cast) -> None:
    """The room has dropped us and its good-bye was lost: it refuses what we say; nothing is lost."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")

    def lose_goodbye(stanza: StanzaBase) -> StanzaBase | None:
        lost = stanza.name == "presence" and stanza.xml.get("type") == "unavailable"
        return None if lost else stanza

    bob.client.add_filter("in", lose_goodbye)
    nick = bob.room().muc.nick
    bob.client.make_presence(pto=JID(f"{room}/{nick}"), ptype="unavailable").send()
    await alice.until(lambda: nick not in alice.room().muc.occupants)
    sent = await bob.say("can you hear me")
    await asyncio.wait_for(sent.confirmed, SECONDS)
    await alice.hears("can you hear me")
    assert bob.got("mls_interrupted")
    await asyncio.wait_for(bob.room().update(), SECONDS)
    await all_agree(alice, bob, epoch=2)
