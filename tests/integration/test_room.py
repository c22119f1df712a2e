"""A MUC room with its archive as one total order, on each server as it comes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import JID, ClientXMPP

from slixmpp_mls.delivery import (
    AffiliationChanged,
    Bounced,
    CatchingUp,
    Entered,
    Interrupted,
    Invitation,
    Reconfigured,
    Room,
    RoomEvent,
    RoomStanza,
    Stream,
    live_buffer,
    parse_invitation,
    reading,
)
from slixmpp_mls.delivery import archive as archive_module
from slixmpp_mls.delivery.affiliations import MUC_ADMIN
from slixmpp_mls.delivery.archive import MUC_USER, SID
from slixmpp_mls.delivery.forms import submission
from slixmpp_mls.delivery.muc_config import MUC_OWNER
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import (
    ArchiveGap,
    Disconnected,
    NoAnswer,
    NotPermitted,
    RoomLost,
    StanzaTooLarge,
    UsageError,
)

from ..conftest import SERVERS, unavailable_means_skip, unique

Connect = Callable[..., Awaitable[ClientXMPP]]
E = TypeVar("E")
NS = "urn:xmpp:mls:0"
_ids = itertools.count()


def application(text: str) -> Element:
    element = Element(f"{{{NS}}}application")
    element.text = text
    return element


class Party:
    """A client in a room: what it reads, in the background, and what is reported to it."""

    def __init__(self, client: ClientXMPP, room: str, nick: str, **options: Any) -> None:
        self.client = client
        self.jid = JID(client.boundjid.bare)
        self.events: list[RoomEvent] = []
        self.stanzas: list[RoomStanza] = []
        self.error: Exception | None = None
        self.room = Room(client, room, nick, on_event=self.events.append, **options)
        self._task: asyncio.Task[None] | None = None

    def read(self) -> None:
        async def read() -> None:
            try:
                async with aclosing(self.room.batches()) as batches:
                    async for batch in batches:
                        self.stanzas.extend(batch)
            except Exception as error:
                self.error = error

        self._task = asyncio.create_task(read())

    async def join(self, after: str | None = None) -> None:
        await self.room.join(after)
        self.read()

    async def stop_reading(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def say(self, text: str) -> None:
        await self.room.send([application(text)], message_id=f"m{next(_ids)}")

    @property
    def heard(self) -> list[str]:
        return [stanza.xml.findtext(f"{{{NS}}}application") or "" for stanza in self.stanzas]

    @property
    def order(self) -> list[tuple[str, str]]:
        return [(stanza.archive_id, text) for stanza, text in zip(self.stanzas, self.heard, strict=True)]

    async def until(self, condition: Callable[[], object], seconds: float = 120.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def hears(self, text: str) -> None:
        try:
            await self.until(lambda: text in self.heard)
        except TimeoutError:
            raise AssertionError(f"{self.room} heard {self.heard[-5:]}, not {text}; {self.events[-5:]}") from self.error

    async def reads(self, count: int) -> None:
        await self.until(lambda: len(self.stanzas) >= count)

    async def is_live(self) -> None:
        await self.until(lambda: any(event.complete for event in self.got(CatchingUp)))

    def got(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def ended(self, seconds: float = 120.0) -> Exception | None:
        """The error with which reading ended."""
        assert self._task is not None
        await asyncio.wait_for(self._task, seconds)
        return self.error


async def reconfigure(client: ClientXMPP, room: JID, values: dict[str, str]) -> None:
    query = Element(f"{{{MUC_OWNER}}}query")
    query.append(submission("http://jabber.org/protocol/muc#roomconfig", values))
    await Stream.of(client).ask("set", str(room), query)


Meet = Callable[..., Awaitable[list[Party]]]


@pytest.fixture
async def meet(server: DevServer, connect: Connect) -> AsyncIterator[Meet]:
    """``await meet("alice", "bob")``: alice makes a room, the others are members and in it, all read."""
    parties: list[Party] = []

    async def make(*names: str, plugins: tuple[str, ...] = (), **options: Any) -> list[Party]:
        room = f"{unique('coven')}@{server.rooms}"
        for name in names:
            parties.append(Party(await connect(server, name, *plugins), room, name, **options))
        first, *others = parties[-len(names) :]
        await first.room.create()
        first.read()
        await first.room.affiliations.grant_membership(other.jid.bare for other in others)
        for other in others:
            await other.join()
        return [first, *others]

    yield make
    for party in parties:
        if party._task is not None:
            await party.stop_reading()


async def back(server: DevServer, party: Party) -> None:
    await server.connect(party.client)


async def cut(party: Party) -> None:
    gone = party.client.wait_until("disconnected", 120)
    waiting = asyncio.create_task(gone)
    await asyncio.sleep(0)
    party.client.abort()
    await waiting


# Order


async def test_everybody_reads_the_same_order_early_late_and_interrupted(
    server: DevServer, connect: Connect, meet: Meet
) -> None:
    """Rule 4 of delivery: in order, no gap, no repeat, whenever one comes and goes."""
    alice, bob, carol, dave, erin, frank = await meet("alice", "bob", "carol", "dave", "erin", "frank")
    await erin.room.leave()  # comes late
    await frank.stop_reading()  # stops and goes on from its cursor with new objects
    early = frank.order

    async def talk(party: Party, count: int) -> None:
        for number in range(count):
            await party.say(f"{party.room.nick} {number}")
            await asyncio.sleep(0.002)

    talks = [asyncio.create_task(talk(party, 100)) for party in (alice, bob, carol)]
    await dave.until(lambda: len(dave.stanzas) >= 80)
    await cut(dave)
    await asyncio.sleep(0.2)
    await back(server, dave)
    await asyncio.gather(*talks)
    await alice.until(lambda: len(alice.stanzas) == 300)

    again = Party(frank.client, str(frank.room.jid), "frank")
    await again.join(after=early[-1][0] if early else None)
    await erin.join()
    for party in (bob, carol, dave, erin, again):
        await party.reads(300)
    await asyncio.sleep(0.3)

    assert len(set(alice.order)) == 300
    assert {text for _, text in alice.order} == {f"{who} {n}" for who in ("alice", "bob", "carol") for n in range(100)}
    for party in (bob, carol, dave, erin):
        assert party.order == alice.order
    assert early + again.order == alice.order
    for name in ("alice", "bob", "carol"):  # and each sender's order is kept
        assert [t for _, t in alice.order if t.startswith(name)] == [f"{name} {n}" for n in range(100)]
    assert all(stanza.archived for stanza in erin.stanzas)
    assert not all(stanza.archived for stanza in bob.stanzas)
    names = {party.room.nick: party.jid for party in (alice, bob, carol)}
    for party in (bob, dave, erin):
        assert all(stanza.real_jid == names[stanza.occupant.resource] for stanza in party.stanzas)
        assert all(stanza.origin_id == stanza.message_id is not None for stanza in party.stanzas)
    assert all(stanza.stamp is not None for stanza in erin.stanzas)
    assert [event.complete for event in erin.got(CatchingUp)][-1]
    assert erin.got(CatchingUp)[-1].read >= 300
    assert len(erin.got(CatchingUp)) > 1  # in pages
    for party in (alice, bob, carol, dave, erin, again):
        await party.room.leave()


async def test_other_talk_in_the_room_is_passed_over(server: DevServer, meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    for number in range(300):  # more than a page
        alice.client.send_message(alice.room.jid, f"plain {number}", mtype="groupchat")
    await alice.say("ours")
    await bob.hears("ours")
    late = Party(bob.client, str(bob.room.jid), "bob")
    await bob.room.leave()
    await late.join()
    await late.hears("ours")
    assert bob.heard == late.heard == ["ours"]
    await late.room.leave()


async def test_a_slow_reader_misses_nothing(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live buffer overflows; the archive has it all."""
    monkeypatch.setattr(live_buffer, "_BUFFERED", 10)
    alice, bob = await meet("alice", "bob")
    await alice.say("first")
    await bob.hears("first")
    await bob.stop_reading()
    heard: list[str] = []
    await bob.room.join(after=None)

    monkeypatch.setattr(reading, "_BATCH", 4)
    half = False
    async with aclosing(bob.room.batches()) as batches:
        async for batch in batches:
            heard += [stanza.xml.findtext(f"{{{NS}}}application") or "" for stanza in batch]
            if len(heard) == 1:
                for number in range(60):
                    await alice.say(str(number))
                await alice.hears("59")
            if len(heard) >= 30 and not half:
                half = True
                for number in range(60, 100):
                    await alice.say(str(number))
                await alice.hears("99")
            if heard[-1] == "99":
                break
    assert heard == ["first", *map(str, range(100))]
    assert bob.room._reading.buffer.size == 0


async def test_heavy_stanzas_come_in_smaller_pages(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held in memory is bounded by size, not only by number."""
    monkeypatch.setattr(archive_module, "_PAGE_WEIGHT", 100_000)
    alice, bob = await meet("alice", "bob")
    await bob.room.leave()
    for _ in range(30):
        await alice.say("x" * 20_000)
    await alice.reads(30)
    sizes: list[int] = []
    bob.room.archive.page_size = 10
    async with aclosing(bob.room.archive.pages(None)) as pages:
        async for page in pages:
            sizes.append(len(page.entries))
    assert sizes == [10, 5, 5, 5, 5] or sizes == [10, 5, 5, 5, 5, 0]


async def test_what_the_sender_claims_about_place_and_identity_does_not_count(meet: Meet) -> None:
    """Forged stanza-id, occupant item and archive result within a message of one's own."""
    alice, bob = await meet("alice", "bob")
    forged_id = Element(f"{{{SID}}}stanza-id", {"by": str(bob.room.jid), "id": "1"})
    forged_item = Element(f"{{{MUC_USER}}}x")
    SubElement(forged_item, f"{{{MUC_USER}}}item", {"jid": "king@scotland.example", "affiliation": "owner"})
    result = Element("{urn:xmpp:mam:2}result", {"queryid": "x", "id": "y"})
    await bob.room.send([forged_id, forged_item, application("plain forgery")], message_id="f1")
    await bob.room.send([result, application("with result")], message_id="f2")
    await alice.hears("with result")
    await alice.say("end")
    await alice.hears("end")
    late = Party(alice.client, str(alice.room.jid), "alice")
    await alice.room.leave()
    await late.join()
    await late.hears("end")
    for party in (alice, late):
        assert party.heard == ["plain forgery", "with result", "end"]
        stanza = party.stanzas[0]
        assert stanza.archive_id != "1"
        assert stanza.real_jid == bob.jid
    await late.room.leave()


# Interruptions


async def test_the_server_restarts_in_mid_talk(connect: Connect, own_server: DevServer) -> None:
    server = own_server
    room = f"coven@{server.rooms}"
    alice, bob = [Party(await connect(server, name), room, name) for name in ("alice", "bob")]
    await alice.room.create()
    alice.read()
    await alice.room.affiliations.grant_membership([bob.jid.bare])
    await bob.join()
    with reconnecting(server, alice, bob):
        for number in range(30):
            if number == 10:
                await bob.hears("9")
                restart = asyncio.create_task(server.restart())
            await insist(alice, str(number))
            await asyncio.sleep(0.05)
        await restart
        await bob.hears("29")
        await alice.hears("29")
    assert bob.order == alice.order
    # Sent again where it was unclear whether it had arrived: that is the sender's affair, by origin id.
    assert list(dict.fromkeys(bob.heard)) == [str(number) for number in range(30)]
    assert len(bob.got(Entered)) == 2
    assert bob.got(Entered)[1].again
    for party in (alice, bob):
        await party.stop_reading()


async def insist(party: Party, text: str) -> None:
    while True:
        with suppress(Disconnected):
            await party.say(text)
            await asyncio.sleep(0.1)
            if text in party.heard:
                return
        await asyncio.sleep(0.05)


@contextmanager
def reconnecting(server: DevServer, *parties: Party) -> Iterator[None]:
    """Reconnect when the stream ends, as a bot would."""
    tasks: list[asyncio.Task[None]] = []
    handlers = []

    async def again(client: ClientXMPP) -> None:
        while True:
            await asyncio.sleep(0.2)
            with suppress(Exception):
                await server.connect(client)
                return

    for party in parties:

        def handler(_: object, client: ClientXMPP = party.client) -> None:
            if not tasks or all(task.done() or task.get_name() != client.boundjid.bare for task in tasks):
                tasks.append(asyncio.create_task(again(client), name=client.boundjid.bare))

        handlers.append((party.client, handler))
        party.client.add_event_handler("disconnected", handler)
    try:
        yield
    finally:
        for client, handler in handlers:
            client.del_event_handler("disconnected", handler)
        for task in tasks:
            task.cancel()


@pytest.fixture(params=list(SERVERS))
async def own_server(request: pytest.FixtureRequest) -> AsyncIterator[DevServer]:
    """A server that the test may break."""
    server = SERVERS[request.param]()
    try:
        with unavailable_means_skip():
            await server.start()
        yield server
    finally:
        await server.close()


async def test_a_resumed_stream_loses_nothing(server: DevServer, meet: Meet) -> None:
    """XEP-0198: the session goes on, no need to enter again."""
    alice, bob = await meet("alice", "bob", plugins=("xep_0198", "xep_0199"))
    await alice.say("before")
    await bob.hears("before")
    resumed = asyncio.create_task(bob.client.wait_until("session_resumed", 120))
    await cut(bob)
    for number in range(20):
        await alice.say(f"while away {number}")
    bob.client.connect(server.host, server.port)
    await resumed
    await alice.say("after")
    await bob.hears("after")
    await alice.hears("after")
    assert bob.order == alice.order
    assert len(bob.got(Entered)) == 1


async def test_thrown_out_by_a_moderator_one_comes_back_and_misses_nothing(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    query = Element(f"{{{MUC_ADMIN}}}query")
    SubElement(query, f"{{{MUC_ADMIN}}}item", {"nick": "bob", "role": "none"})
    await Stream.of(alice.client).ask("set", str(alice.room.jid), query)
    for number in range(5):
        await alice.say(str(number))
    await bob.hears("4")
    await alice.hears("4")
    assert bob.order == alice.order
    assert bob.got(Interrupted) == [Interrupted("kicked")]
    await bob.until(lambda: bob.room.inside)


async def test_a_silently_lost_room_is_noticed_by_a_self_ping(meet: Meet) -> None:
    """XEP-0410: the room has forgotten us, and its good-bye was lost."""
    alice, bob = await meet("alice", "bob", plugins=("xep_0199",), ping_interval=0.5)

    def lose_goodbye(stanza: Any) -> Any:
        lost = stanza.name == "presence" and stanza.xml.get("type") == "unavailable"
        return None if lost else stanza

    await alice.until(lambda: "bob" in alice.room.occupants)
    bob.client.add_filter("in", lose_goodbye)
    bob.client.make_presence(pto=JID(f"{bob.room.jid}/bob"), ptype="unavailable").send()
    # A ping may have bob back before anybody has looked.
    await alice.until(lambda: "bob" not in alice.room.occupants or bob.got(Interrupted))
    await alice.say("unheard")
    await bob.hears("unheard")
    assert bob.got(Interrupted) == [Interrupted("silent")]
    await asyncio.sleep(1.2)  # a few more pings, which find all well
    assert len(bob.got(Entered)) == 2


async def test_an_application_that_suspects_it_can_have_the_room_asked_at_once(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob", plugins=("xep_0199",))
    await alice.until(lambda: "bob" in alice.room.occupants)
    bob.client.add_filter("in", lambda stanza: None if stanza.xml.get("type") == "unavailable" else stanza)
    bob.client.make_presence(pto=JID(f"{bob.room.jid}/bob"), ptype="unavailable").send()
    await alice.until(lambda: "bob" not in alice.room.occupants)
    assert bob.room.inside
    bob.room.suspect()
    await bob.until(lambda: bob.got(Interrupted))
    await bob.until(lambda: bob.room.inside)
    assert len(bob.got(Entered)) == 2


async def test_one_can_leave_while_offline(meet: Meet) -> None:
    (alice,) = await meet("alice")
    await cut(alice)
    await alice.room.leave()
    assert await alice.ended(60) is None


async def test_two_devices_of_one_account_may_share_a_nickname(server: DevServer, connect: Connect, meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    tablet = Party(await connect(server, bob.jid), str(alice.room.jid), "bob")
    await tablet.join()
    await tablet.say("from the tablet")
    await bob.say("from the telephone")
    for party in (alice, bob, tablet):
        await party.reads(2)
        assert {stanza.real_jid for stanza in party.stanzas} == {bob.jid}
    assert bob.order == tablet.order == alice.order
    await tablet.room.leave()
    await alice.say("one has left")
    await bob.hears("one has left")
    assert "bob" in alice.room.occupants
    assert bob.got(Interrupted) == []
    await bob.say("the other has not")
    await alice.hears("the other has not")


async def test_a_nickname_in_use_is_varied(server: DevServer, connect: Connect, meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    other = Party(await connect(server, "bob"), str(alice.room.jid), "bob")
    await alice.room.affiliations.grant_membership([other.jid.bare])
    await other.join()
    assert other.room.nick.startswith("bob-")
    await other.say("I am another")
    await bob.hears("I am another")
    assert bob.stanzas[-1].real_jid == other.jid
    assert bob.room.occupants[other.room.nick].jid == other.jid
    await other.room.leave()


# The end


async def test_a_destroyed_room_ends_the_reading_and_names_its_successor(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    await alice.say("last words")
    await bob.hears("last words")
    await alice.room.destroy(alternate=f"next@{alice.room.jid.host}", reason="blasted")
    error = await bob.ended()
    assert isinstance(error, RoomLost)
    assert (error.reason, error.alternate, error.text) == ("destroyed", f"next@{alice.room.jid.host}", "blasted")
    assert await alice.ended() is None


@pytest.mark.parametrize(("affiliation", "reason"), [("none", "not-a-member"), ("outcast", "banned")])
async def test_an_account_that_loses_the_affiliation_reads_up_to_that_point(
    meet: Meet, affiliation: Any, reason: str
) -> None:
    alice, bob, carol = await meet("alice", "bob", "carol")
    for number in range(20):
        await alice.say(str(number))
    await alice.room.affiliations.set(bob.jid.bare, affiliation)
    error = await bob.ended()
    assert isinstance(error, RoomLost)
    assert error.reason == reason
    assert bob.heard == [str(number) for number in range(20)]
    await carol.until(lambda: AffiliationChanged(bob.jid, affiliation) in carol.events)
    with pytest.raises(NotPermitted):
        await Party(bob.client, str(alice.room.jid), "bob").room.join(None)


async def test_losing_membership_while_away_is_found_out_on_return(server: DevServer, meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    await cut(bob)
    await alice.room.affiliations.revoke_membership(bob.jid.bare)
    await back(server, bob)
    error = await bob.ended()
    assert isinstance(error, RoomLost)
    assert error.reason == "not-a-member"


async def test_a_room_destroyed_while_away_is_not_made_anew(server: DevServer, connect: Connect, meet: Meet) -> None:
    """Entering a room that does not exist creates it (XEP-0045 10.1); nobody asked for that."""
    alice, bob = await meet("alice", "bob")
    await cut(bob)
    await alice.room.destroy()
    await back(server, bob)
    error = await bob.ended()
    assert isinstance(error, RoomLost)
    assert error.reason in ("not-found", "destroyed")
    while True:  # a busy server may answer too late
        with suppress(NoAnswer):
            assert await bob.room.check() == ("not-found",)
            break


# Entering, and rooms that will not do


async def test_a_stranger_is_refused_and_told_why(server: DevServer, connect: Connect, meet: Meet) -> None:
    (alice,) = await meet("alice")
    stranger = Party(await connect(server, "stranger"), str(alice.room.jid), "stranger")
    with pytest.raises(NotPermitted, match="not-a-member"):
        await asyncio.wait_for(stranger.room.join(None), 120)
    with pytest.raises(NotPermitted):
        async with aclosing(stranger.room.archive.pages(None)) as pages:
            await anext(pages)
    with pytest.raises(NotPermitted):
        await stranger.room.affiliations.grant_membership([stranger.jid.bare])


async def test_a_new_room_is_fit_and_an_existing_one_is_not_made_again(meet: Meet, server: DevServer) -> None:
    alice, bob = await meet("alice", "bob")
    assert await alice.room.check() == await bob.room.check() == ()
    assert alice.room.occupants[alice.room.nick].affiliation == "owner"
    assert bob.room.occupants[bob.room.nick].affiliation == "member"
    with pytest.raises(UsageError):
        await Room(bob.client, str(alice.room.jid), "bob").create()
    with pytest.raises(UsageError):  # one reader at a time
        await anext(alice.room.batches())


async def test_members_do_not_make_members(meet: Meet, server: DevServer, connect: Connect) -> None:
    """Who becomes a member is for admins to say, unless somebody changes the room's configuration."""
    _, bob = await meet("alice", "bob")
    stranger = await connect(server, "stranger")
    with pytest.raises(NotPermitted):
        await bob.room.affiliations.grant_membership([stranger.boundjid.bare])


async def test_an_unfit_room_is_described_and_left_alone(server: DevServer, connect: Connect) -> None:
    alice = await connect(server, "alice", "xep_0045")
    jid = JID(f"{unique('market')}@{server.rooms}")
    await alice.plugin["xep_0045"].join_muc_wait(jid, "alice", maxstanzas=0, timeout=60)
    unfit = {
        "muc#roomconfig_persistentroom": "0",
        "muc#roomconfig_membersonly": "0",
        "muc#roomconfig_whois": "moderators",
        "muc#roomconfig_passwordprotectedroom": "1",
        "muc#roomconfig_roomsecret": "hover through the fog",
        "muc#roomconfig_enablearchiving" if server.software == "Prosody" else "mam": "0",
    }
    await reconfigure(alice, jid, unfit)
    before = await Room(alice, str(jid), "alice").check()
    assert {
        "not-persistent",
        "not-members-only",
        "not-non-anonymous",
        "no-archive",
        "password-protected",
    } <= set(before)
    bob = await connect(server, "bob")
    with pytest.raises(NotPermitted, match="password-required"):
        await Room(bob, str(jid), "bob").join(None)
    assert await Room(alice, str(jid), "alice").check() == before
    assert await Room(alice, f"{unique('nowhere')}@{server.rooms}", "alice").check() == ("not-found",)
    assert await Room(alice, server.domain, "alice").check() == ("not-a-room",)


async def test_a_change_of_configuration_is_reported(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    await reconfigure(alice.client, alice.room.jid, {"muc#roomconfig_whois": "moderators"})
    await bob.until(lambda: bob.got(Reconfigured))
    assert await bob.room.check() == ("not-non-anonymous",)


async def test_other_plugins_find_the_room_in_xep_0045(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob", plugins=("xep_0045",))
    muc = bob.client.plugin["xep_0045"]
    assert bob.room.jid in muc.get_joined_rooms()
    assert JID(muc.get_jid_property(bob.room.jid, "alice", "jid")).bare == alice.jid
    await bob.room.leave()
    assert bob.room.jid not in muc.get_joined_rooms()


# The archive's memory


async def test_reading_after_an_unknown_id_is_a_gap(server: DevServer, connect: Connect, meet: Meet) -> None:
    """Prosody says so, ejabberd starts from the beginning as if nothing were."""
    old, _ = await meet("alice", "bob")
    await old.say("in another room, earlier")
    await old.hears("in another room, earlier")
    elsewhere = old.stanzas[-1].archive_id

    alice, bob = await meet("alice", "bob")
    await bob.room.leave()
    for unknown in ("Lk3-vsM_no-such-id", elsewhere):
        fresh = Party(bob.client, str(alice.room.jid), "bob")
        await fresh.join(after=unknown)  # the archive is empty
        gap = await fresh.ended()
        assert isinstance(gap, ArchiveGap)
        assert gap.after == unknown
        await fresh.room.leave()
    for number in range(60):
        await alice.say(str(number))
    await alice.hears("59")
    for unknown in ("Lk3-vsM_no-such-id", elsewhere):
        fresh = Party(bob.client, str(alice.room.jid), "bob")
        await fresh.join(after=unknown)
        assert isinstance(await fresh.ended(), ArchiveGap)
        assert fresh.stanzas == []
        await fresh.room.leave()

    # And known ones are none: first, middle, last.
    for index in (0, 30, 59):
        fresh = Party(bob.client, str(alice.room.jid), "bob")
        await fresh.join(after=alice.stanzas[index].archive_id)
        await fresh.is_live()
        assert fresh.order == alice.order[index + 1 :]
        await fresh.room.leave()
    assert await bob.room.archive.last_id() == alice.stanzas[-1].archive_id


async def test_after_a_gap_one_goes_on_from_the_newest(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    await alice.say("old")
    await bob.hears("old")
    await bob.stop_reading()
    await bob.join(after="no-such-id")
    assert isinstance(await bob.ended(), ArchiveGap)
    bob.stanzas.clear()
    await bob.join(after=await bob.room.archive.last_id())
    await alice.say("new")
    await bob.hears("new")
    assert bob.heard == ["new"]


# Sending


async def test_too_large_a_stanza_is_not_sent(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    fits, too_large = [application("x" * 239_000)], [application("x" * 240_000)]
    assert 239_000 < alice.room.measure(fits) < 240_000 < alice.room.measure(too_large)
    with pytest.raises(StanzaTooLarge) as caught:
        await alice.room.send(too_large, message_id="big")
    assert caught.value.size > caught.value.limit == 240_000
    with pytest.raises(StanzaTooLarge):
        await alice.room.invite(bob.jid.bare, too_large)
    await alice.room.send(fits, message_id="fits")
    await bob.until(lambda: bob.stanzas)
    assert bob.stanzas[0].message_id == "fits"
    await alice.say("still connected")
    await bob.hears("still connected")


async def test_what_the_room_refuses_is_reported_to_the_sender(meet: Meet) -> None:
    alice, bob = await meet("alice", "bob", plugins=("xep_0045",))
    await reconfigure(alice.client, alice.room.jid, {"muc#roomconfig_moderatedroom": "1"})
    await alice.client.plugin["xep_0045"].set_role(alice.room.jid, "bob", "visitor")
    await bob.until(lambda: bob.room.occupants["bob"].role == "visitor")
    await bob.room.send([application("hush")], message_id="refused-1")
    await bob.until(lambda: bob.got(Bounced))
    (bounce,) = bob.got(Bounced)
    assert (bounce.message_id, bounce.condition) == ("refused-1", "forbidden")


async def test_nothing_is_sent_later_behind_the_callers_back(server: DevServer, meet: Meet) -> None:
    """slixmpp keeps stanzas of a closed session for the next one; whoever sends has a queue of their own."""
    alice, bob = await meet("alice", "bob")
    await cut(bob)
    with pytest.raises(Disconnected):
        await bob.say("lost")
    with pytest.raises(Disconnected):
        await bob.room.invite(alice.jid.bare)
    await back(server, bob)
    await bob.until(lambda: bob.room.inside)
    await bob.say("found")
    await alice.hears("found")
    assert alice.heard == ["found"]


# Affiliations and invitations


async def test_affiliations(server: DevServer, connect: Connect, meet: Meet) -> None:
    alice, bob = await meet("alice", "bob")
    accounts = [f"{name}@{server.domain}" for name in ("hecate", "seyton")]
    await alice.room.affiliations.set(accounts[0], "outcast")
    await alice.room.affiliations.set(accounts[1], "admin")
    everybody = await alice.room.affiliations.all()
    assert everybody == {
        alice.jid: "owner",
        bob.jid: "member",
        JID(accounts[0]): "outcast",
        JID(accounts[1]): "admin",
    }
    with pytest.raises(NotPermitted, match="banned"):
        await alice.room.affiliations.grant_membership(accounts)
    await alice.room.affiliations.grant_membership([alice.jid.bare, bob.jid.bare, accounts[1]])
    assert await alice.room.affiliations.all() == everybody

    seen = await bob.room.affiliations.all()  # a member sees who is in
    assert {jid: held for jid, held in everybody.items() if held != "outcast"}.items() <= seen.items()


async def test_an_invitation_reaches_who_is_offline(server: DevServer, connect: Connect, meet: Meet) -> None:
    (alice,) = await meet("alice")
    bob = await connect(server, "bob")
    jid = bob.boundjid.bare
    await bob.disconnect(wait=120.0)  # until the server has ended the session: it would keep messages for its return
    hint = Element(f"{{{NS}}}invitation", {"group": "Zw=="})
    await alice.room.affiliations.grant_membership([jid])
    await alice.room.invite(jid, [hint], reason="Thrice the brinded cat hath mew'd")
    await Stream.of(alice.client).flushed()  # the server keeps it now

    invitations: asyncio.Queue[Invitation] = asyncio.Queue()

    def look(stanza: Any) -> Any:
        found = parse_invitation(stanza.xml) if stanza.name == "message" else None
        if found is not None:
            invitations.put_nowait(found)
        return stanza

    bob = await connect(server, JID(jid), presence=False)
    bob.add_filter("in", look)
    bob.send_presence()
    invitation = await asyncio.wait_for(invitations.get(), 120)
    assert invitation.room == alice.room.jid
    assert invitation.inviter == alice.jid
    assert invitation.reason == "Thrice the brinded cat hath mew'd"
    assert [element.attrib for element in invitation.elements] == [{"group": "Zw=="}]
    party = Party(bob, str(invitation.room), "bob")
    await party.join()
    await alice.say("When shall we three meet again?")
    await party.hears("When shall we three meet again?")
    await party.room.leave()


@pytest.mark.parametrize(
    "xml",
    [
        "<message xmlns='jabber:client' from='a@b'><body>no</body></message>",
        "<message xmlns='jabber:client' from='a@b'><x xmlns='jabber:x:conference'/></message>",
        "<message xmlns='jabber:client' from='a@b'><x xmlns='jabber:x:conference' jid='@@'/></message>",
        "<message xmlns='jabber:client' from='a@b'><x xmlns='jabber:x:conference' jid='rooms.b'/></message>",
        "<message xmlns='jabber:client'><x xmlns='jabber:x:conference' jid='r@b'/></message>",
        "<message xmlns='jabber:client' from='a@b' type='error'><x xmlns='jabber:x:conference' jid='r@b'/></message>",
    ],
)
def test_what_is_no_invitation(xml: str) -> None:
    from slixmpp.xmlstream import ET

    assert parse_invitation(ET.fromstring(xml)) is None
