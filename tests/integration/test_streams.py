"""What happens to streams and to our presence in the room, in the middle of Commits and talk: nothing is lost.

Plain talk over broken connections is in `test_wire_is_encrypted`, a room without encryption in `test_room`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from slixmpp import JID

from slixmpp_mls.delivery.events import Interrupted
from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody
from slixmpp_mls.errors import RoomLost

from ..conftest import unavailable_means_skip
from .people import SECONDS, Cast, Person, all_agree


async def lose_room(person: Person) -> None:
    """The room has dropped somebody, and its good-bye was lost."""
    place = f"{person.room().jid}/{person.room().muc.nick}"
    lost: list[Any] = []

    def lose_goodbye(stanza: Any) -> Any:
        if stanza.name != "presence" or stanza.xml.get("type") != "unavailable" or stanza.xml.get("from") != place:
            return stanza
        lost.append(stanza)
        return None

    person.client.add_filter("in", lose_goodbye)
    person.client.make_presence(pto=JID(place), ptype="unavailable").send()
    await person.until(lambda: lost)
    person.client.del_filter("in", lose_goodbye)


# A stream that breaks


@pytest.mark.parametrize("where", ["on the way there", "on the way back"])
async def test_a_resumed_stream_in_the_middle_of_a_commit(server: DevServer, cast: Cast, where: str) -> None:
    """XEP-0198: what was on its way is sent again, and takes effect once."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    if where == "on the way there":
        bob.client.swallowing = "<commit"
        updating = asyncio.create_task(bob.room().update())
        await bob.until(lambda: bob.client.swallowed)
        assert alice.room().epoch == 1
    else:
        bob.client.deaf = True
        updating = asyncio.create_task(bob.room().update())
        await alice.until(lambda: alice.room().epoch == 2)
        assert bob.room().epoch == 1
    await bob.cut()
    bob.client.swallowing = bob.client.deaf = False
    await alice.say("in the cauldron boil and bake")
    await bob.back()
    changed = await asyncio.wait_for(updating, SECONDS)
    assert changed.epoch == 2
    await bob.hears("in the cauldron boil and bake")
    await all_agree(alice, bob, epoch=2)
    await bob.say("eye of newt and toe of frog")
    await alice.hears("eye of newt and toe of frog")
    assert [event.epoch for event in alice.got("mls_group_changed")] == [1, 2]
    for person in (alice, bob):
        assert not person.got("mls_rejected")


async def test_the_server_restarts_in_the_middle_of_commits(own_server: DevServer, cast: Cast) -> None:
    _, people = await cast.meet(own_server, "alice", "bob", "carol")
    alice, *_ = people
    for person in people:
        person.stay_connected()

    async def work(person: Person) -> None:
        for number in range(3):
            await person.room().update()
            await person.say(f"{person.jid.user} has committed {number}")

    works = asyncio.gather(*(work(person) for person in people))
    await alice.until(lambda: alice.room().epoch >= 4)
    await own_server.restart()
    async with asyncio.timeout(300):
        await works
    said = [f"{person.jid.user} has committed {number}" for person in people for number in range(3)]
    for person in people:
        others = [line for line in said if not line.startswith(person.jid.user)]
        await person.hears(*others)
        assert sorted(person.bodies) == sorted(others)
        assert not person.got("mls_unreadable")
    await all_agree(*people, epoch=1 + 3 * 3)


# Being in the room


async def test_a_kicked_occupant_comes_back(server: DevServer, cast: Cast) -> None:
    """XEP-0045 8.2.  Even in the middle of a Commit and of talk; nothing is lost."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    updating = asyncio.create_task(bob.room().update())
    for number in range(3):
        await alice.client.plugin["xep_0045"].set_role(JID(room), bob.room().muc.nick, "none")
        await alice.say(f"out with him {number}")
        await bob.say(f"here I am again {number}")
        await bob.next("mls_interrupted", after=number)
        await bob.until(lambda: bob.room().live)
    assert {event.cause for event in bob.got("mls_interrupted")} == {"kicked"}
    await asyncio.wait_for(updating, SECONDS)
    await bob.hears(*(f"out with him {n}" for n in range(3)))
    await alice.hears(*(f"here I am again {n}" for n in range(3)))
    assert bob.bodies == [f"out with him {n}" for n in range(3)]
    assert sorted(alice.bodies) == [f"here I am again {n}" for n in range(3)]
    await all_agree(alice, bob, epoch=2)


async def test_an_account_banned_in_the_middle_of_a_commit_is_told(server: DevServer, cast: Cast) -> None:
    """XEP-0045 9.1.  No way back: whoever waits for something gets an error, the application an event."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    bob.client.swallowing = "<commit"
    updating = asyncio.create_task(bob.room().update())
    await bob.until(lambda: bob.client.swallowed)
    sent = await bob.say("swallowed with the Commit")
    bob.client.swallowing = False
    await alice.client.plugin["xep_0045"].set_affiliation(JID(room), "outcast", jid=JID(bob.account))
    lost = await bob.next("mls_room_lost")
    assert isinstance(lost, RoomLost)
    assert lost.reason == "banned"
    for waiting in (updating, sent.confirmed):
        with pytest.raises(RoomLost):
            await asyncio.wait_for(waiting, SECONDS)
    await alice.until(lambda: alice.room().accounts == [alice.account])  # and out of the group, too


async def test_a_room_lost_in_silence_is_noticed_by_a_self_ping(server: DevServer, cast: Cast) -> None:
    """XEP-0410: somebody who says nothing has dropped out, and misses a Commit and what follows."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob", self_ping=0.5)
    await lose_room(bob)
    await alice.room().update()
    await alice.say("double, double toil and trouble")
    await bob.hears("double, double toil and trouble")
    assert bob.got("mls_interrupted") == [Interrupted("silent", room)]
    await all_agree(alice, bob, epoch=2)


async def test_a_room_that_does_not_accept_us_any_more(server: DevServer, cast: Cast) -> None:
    """XEP-0045 7.4: it answers ``not-acceptable`` to the Commit of who is not inside; the Commit is sent again."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    await lose_room(bob)
    changed = await asyncio.wait_for(bob.room().update(), SECONDS)
    assert changed.epoch == 2
    assert {event.condition for event in bob.got("mls_bounced")} == {"not-acceptable"}
    assert not bob.got("mls_commit_lost")
    await all_agree(alice, bob, epoch=2)


@pytest.mark.parametrize("what", ["a message", "a proposal and a Commit"])
async def test_a_stanza_that_gets_lost_is_noticed_by_what_follows(server: DevServer, cast: Cast, what: str) -> None:
    """As over a link between servers; a gap in a sender's messages, or in the epochs, has the archive read again."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await alice.say("fillet of a fenny snake")
    await bob.hears("fillet of a fenny snake")
    bob.client.deaf = True
    await alice.say("lizard's leg and howlet's wing")
    if what != "a message":
        await carol.room().leave()
        await alice.until(lambda: carol.account not in alice.room().accounts)
    await alice.until(lambda: len(alice.got("mls_sent")) == 2)
    await bob.room().muc.check()  # what the room has sent before its answer is lost
    bob.client.deaf = False
    await alice.say("like a hell-broth boil and bubble")
    await bob.hears("like a hell-broth boil and bubble")
    assert bob.bodies == [
        "fillet of a fenny snake",
        "lizard's leg and howlet's wing",
        "like a hell-broth boil and bubble",
    ]
    await all_agree(alice, bob)
    for event in ("mls_left_behind", "mls_unreadable", "mls_rejected", "mls_interrupted"):
        assert not bob.got(event)


# Nicknames


async def test_two_people_want_the_same_nickname(server: DevServer, cast: Cast) -> None:
    """XEP-0045 7.2.8: the second takes another one.  Who said what does not depend on it."""
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol", nick="witch")
    nicks = [person.room().muc.nick for person in (alice, bob, carol)]
    assert nicks[0] == "witch"
    assert len(set(nicks)) == 3
    assert all(nick.startswith("witch") for nick in nicks)
    for person in (alice, bob, carol):
        await person.say(f"said by {person.account}")
    for person in (alice, bob, carol):
        await person.hears(*(f"said by {other.account}" for other in (alice, bob, carol) if other is not person))
        for message in person.got("mls_message"):
            assert message.body == f"said by {message.sender.account}"
    # Somebody else takes the nickname while its owner is away.
    mallory = await cast.person(server, "mallory")
    await alice.room().muc.affiliations.grant_membership([mallory.account])
    await alice.log_out()
    await bob.until(lambda: "witch" not in bob.room().muc.occupants)
    await mallory.client.plugin["xep_0045"].join_muc_wait(JID(room), "witch", maxstanzas=0, timeout=60)
    await bob.say("they have taken thy name")
    await alice.connect()
    await alice.hears("they have taken thy name")
    await alice.until(lambda: alice.room().live)
    assert alice.room().muc.nick not in {"witch", *nicks}
    await alice.say("I am who I am")
    await bob.hears("I am who I am")
    assert bob.got("mls_message")[-1].sender.account == alice.account
    await all_agree(alice, bob, carol, epoch=1)


async def test_two_devices_of_one_account_in_one_room(server: DevServer, cast: Cast) -> None:
    """Under one nickname, where the service allows that; each is a member of its own, and a kick hits them both."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    tablet = await cast.person(server, bob.jid)
    await alice.room().add(f"{bob.account}/{tablet.mls.device_id}")  # named, as nobody has vouched for it
    await tablet.joined(room)
    await bob.say("from the telephone")
    await tablet.hears("from the telephone")
    await tablet.say("from the tablet")
    await bob.hears("from the tablet")
    nick = tablet.room().muc.nick
    await alice.client.plugin["xep_0045"].set_role(JID(room), nick, "none")
    await tablet.next("mls_interrupted")
    await alice.say("both of you")
    await bob.hears("both of you")
    await tablet.hears("both of you")
    await tablet.until(lambda: tablet.room().live)
    await asyncio.gather(bob.room().update(), tablet.room().update())
    await all_agree(alice, bob, tablet, epoch=4)


# Slow services


class SlowProsody(Prosody):
    """Takes what comes, as slowly as Debian's default lets it."""

    def _configure(self) -> None:
        super()._configure()
        path = self.directory / "prosody.cfg.lua"
        text = path.read_text().replace('"vcard4"', '"limits", "vcard4"', 1)
        path.write_text('limits = { c2s = { rate = "10kb/s"; burst = "1s" } }\n' + text)


class SlowEjabberd(Ejabberd):
    """The same."""

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        settings["shaper"] = {"slow": {"rate": 10_000, "burst_size": 10_000}}
        settings["shaper_rules"] = {"c2s_shaper": "slow"}
        settings["listen"][0]["shaper"] = "c2s_shaper"
        return settings


class Impatient(Ejabberd):
    """Its rooms refuse who speaks more often than every 3 s: all that is sent at once, but for the first.

    With a short time a machine that is slow would let some of it pass, before what was refused.
    """

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        settings["modules"]["mod_muc"]["min_message_interval"] = 3
        return settings


@pytest_asyncio.fixture(params=[SlowProsody, SlowEjabberd, Impatient])
async def slow(request: pytest.FixtureRequest) -> AsyncIterator[DevServer]:
    server = request.param()
    try:
        with unavailable_means_skip():
            server._install()
        await server.start()
        yield server
    finally:
        await server.close()


@pytest.mark.server
async def test_a_slow_service_is_sent_everything_in_the_end(slow: DevServer, cast: Cast) -> None:
    """What it refuses for the moment (RFC 6120 8.3.2, type "wait") is sent again later, in order."""
    _, (alice, bob) = await cast.meet(slow, "alice", "bob")
    began = time.monotonic()
    count = 4 if isinstance(slow, Impatient) else 15
    said = [f"tomorrow, and tomorrow {number} " + "." * 1500 for number in range(count)]
    sent = [await alice.say(line) for line in said]
    updating = asyncio.create_task(alice.room().update())
    await bob.say("life's but a walking shadow")
    await bob.hears(*said)
    assert bob.bodies == said
    await asyncio.wait_for(updating, SECONDS)
    await asyncio.gather(*(each.confirmed for each in sent))
    await alice.hears("life's but a walking shadow")
    await all_agree(alice, bob, epoch=2)
    assert time.monotonic() - began > 2  # else the service was not slow
    if isinstance(slow, Impatient):
        assert {event.remedy for event in alice.got("mls_bounced")} == {"wait"}
    for person in (alice, bob):
        assert not person.got("mls_rejected")
        assert not person.got("mls_commit_lost")
