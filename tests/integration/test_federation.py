"""Members on two servers in one encrypted room; the link between the servers breaks and comes back.

The servers reach each other over a line in the tests' hands, with TLS and certificates checked.  Alpha hosts the
rooms, with alice; beta has bob.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from slixmpp_mls.devserver import DevServer, Federation, Line, Prosody
from slixmpp_mls.rooms.engine import transmitter

from ..conftest import SERVERS, in_own_loop, unavailable_means_skip, unique
from .people import Cast, Person, all_agree
from .test_takeover import Impostor, names, refused, seat

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200), pytest.mark.usefixtures("requests_get_lost")]


@dataclass
class Pair:
    """Two servers and what is between them."""

    alpha: DevServer
    beta: DevServer
    line: Line


@pytest.fixture(
    scope="module",
    params=["prosody-prosody", "prosody-ejabberd", "ejabberd-prosody"],
    ids=["prosody hosts prosody's", "prosody hosts ejabberd's", "ejabberd hosts prosody's"],
)
def servers(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """They run for all tests of a pair; in each test the line belongs to its event loop."""
    federation = Federation("alpha.example", "beta.example")
    line = federation.line()
    kinds = request.param.split("-")
    alpha, beta = [
        SERVERS[kind](domain, federation=federation) for kind, domain in zip(kinds, federation.addresses, strict=True)
    ]
    try:
        with unavailable_means_skip():
            in_own_loop(alpha.start())
            in_own_loop(beta.start())
        yield Pair(alpha, beta, line)
    finally:
        in_own_loop(alpha.close())
        in_own_loop(beta.close())


@pytest_asyncio.fixture
async def pair(servers: Pair) -> AsyncIterator[Pair]:
    async with servers.line:
        del servers.line.octets[:]
        yield servers


async def meet(cast: Cast, pair: Pair, self_ping: float = 2.0) -> tuple[str, Person, Person, Person]:
    """Alice on the room's server, bob and beth on the other, in one room."""
    alice = await cast.person(pair.alpha, "alice", self_ping=self_ping)
    bob = await cast.person(pair.beta, "bob", self_ping=self_ping)
    beth = await cast.person(pair.beta, "beth", self_ping=self_ping)
    room = f"{unique('coven')}@{pair.alpha.rooms}"
    group = await alice.mls.create(room)
    result = await group.add(bob.account, beth.account)
    assert not result.failed
    await bob.joined(room)
    await beth.joined(room)
    await all_agree(alice, bob, beth, epoch=1)
    return room, alice, bob, beth


async def test_members_of_two_servers(pair: Pair, cast: Cast) -> None:
    """KeyPackages, device lists, archives and invitations are read across, in both directions."""
    room, alice, bob, beth = await meet(cast, pair)
    for person in (alice, bob, beth):
        # Each has found everybody's device on the list of its account, on whichever server.
        assert not person.got("mls_doubted")
        assert set(person.room().accounts) == {alice.account, bob.account, beth.account}
    assert bob.got("mls_invited")
    await alice.say("when shall we three meet again")
    await bob.say("when the hurlyburly is done")
    await beth.say("that will be ere the set of sun")
    await alice.hears("when the hurlyburly is done", "that will be ere the set of sun")
    await bob.hears("when shall we three meet again", "that will be ere the set of sun")
    # Who was away reads the archive on the other server.
    await bob.log_out()
    await alice.say("where the place")
    await beth.room().update()
    await beth.say("upon the heath")
    # A member there adds somebody here, whom the policy lets in.
    await bob.connect()
    await bob.hears("where the place", "upon the heath")
    await all_agree(alice, bob, beth, epoch=2)
    # From the other server somebody adds a person of the room's.
    policy = alice.room().policy
    await alice.room().set_policy(policy.__class__(room, (alice.account, bob.account)))
    await all_agree(alice, bob, beth, epoch=3)
    await alice.room().remove(beth.account)
    await beth.next("mls_removed")
    await alice.say("not for beth to hear")
    await bob.hears("not for beth to hear")
    assert "not for beth to hear" not in beth.bodies
    for person in (alice, bob, beth):
        assert not person.got("mls_rejected")
    # The servers talk, and nothing of it can be read on the line.
    assert pair.line.octets
    assert b"<message" not in pair.line.octets


async def race(*people: Person, commits: int = 3, lines: int = 8) -> None:
    """All talk and commit at once; returns when each has done its part."""

    async def one(person: Person) -> None:
        name = person.jid.user.partition("-")[0]
        for number in range(lines):
            await person.say(f"{name} says {number}")
            if number * commits // lines != (number + 1) * commits // lines:
                await person.room().update()
            await asyncio.sleep(0.05)

    async with asyncio.timeout(400):
        await asyncio.gather(*(one(person) for person in people))


async def all_heard_all(*people: Person, lines: int = 8) -> None:
    """Everybody has what all others have said: each once, of each speaker in order."""
    for person in people:
        for other in people:
            if other is person:
                continue
            name = other.jid.user.partition("-")[0]
            said = [f"{name} says {number}" for number in range(lines)]
            await person.hears(*said)
            assert [body for body in person.bodies if body.startswith(f"{name} says")] == said
    for person in people:
        await person.until(lambda person=person: len(person.got("mls_sent")) >= lines)  # type: ignore[misc]
        assert len(person.got("mls_sent")) == lines
        assert not person.got("mls_unreadable")
        assert not person.got("mls_group_lost")


@pytest.mark.parametrize("break_", ["cut", "stall"])
async def test_the_link_breaks_in_the_middle_of_a_race(pair: Pair, cast: Cast, break_: str) -> None:
    _, alice, bob, beth = await meet(cast, pair)
    people = (alice, bob, beth)
    racing = asyncio.create_task(race(*people))
    await alice.until(lambda: alice.room().epoch >= 3)
    getattr(pair.line, break_)()
    await asyncio.sleep(3)
    await pair.line.restore()
    await racing
    await all_heard_all(*people)
    await all_agree(*people, at_least=1 + 3 * 3)


async def test_what_was_on_its_way_when_the_link_broke(pair: Pair, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers tell nobody.  A reflection that does not come is noticed, and the rest by asking after a silence."""
    monkeypatch.setattr(transmitter, "REFLECTION_OVERDUE", 2.0)
    _, alice, bob, beth = await meet(cast, pair)
    pair.line.stall()
    for number in range(3):
        await alice.say(f"into the void {number}")
        await bob.say(f"from the other shore {number}")
    await alice.room().update()
    await asyncio.sleep(0.5)
    pair.line.cut()
    await pair.line.restore()
    await asyncio.sleep(1)  # ejabberd does not try again at once
    await alice.say("can anybody hear me")
    for person in (bob, beth):
        await person.hears("can anybody hear me")
        assert [line for line in person.bodies if line.startswith("into")] == [f"into the void {n}" for n in range(3)]
    await alice.hears(*(f"from the other shore {n}" for n in range(3)))
    await asyncio.sleep(0.5)
    assert alice.bodies == [f"from the other shore {n}" for n in range(3)]
    await all_agree(alice, bob, beth, epoch=2)
    for person in (alice, bob, beth):
        assert not person.got("mls_unreadable")
        assert not person.got("mls_left_behind")


async def test_last_words_that_nobody_follows(pair: Pair, cast: Cast) -> None:
    """The link is back before anybody has noticed; nothing is said that would show the gap.  The silence does."""
    _, alice, bob, beth = await meet(cast, pair, self_ping=1.5)
    pair.line.stall()
    await alice.say("signifying nothing")
    await asyncio.sleep(0.5)
    pair.line.cut()
    await pair.line.restore()
    for person in (bob, beth):
        await person.hears("signifying nothing")
        assert len(person.bodies) == 1


async def test_a_room_that_has_dropped_its_remote_occupants(pair: Pair, cast: Cast) -> None:
    """It could not tell them.  A self-ping does."""
    _, alice, bob, beth = await meet(cast, pair, self_ping=1.5)
    pair.line.stall()
    await alice.say("signifying nothing")
    await asyncio.sleep(0.5)
    pair.line.cut()
    await asyncio.sleep(2)
    await alice.say("out, out, brief candle")  # now alpha knows that there is no link
    await asyncio.sleep(1)
    await pair.line.restore()
    for person in (bob, beth):
        await person.hears("signifying nothing", "out, out, brief candle")
        assert len(person.bodies) == 2
    await all_agree(alice, bob, beth, epoch=1)


async def test_whoever_is_cut_off_from_a_room_learns_why_and_when_it_is_over(pair: Pair, cast: Cast) -> None:
    _, alice, bob, beth = await meet(cast, pair, self_ping=1.5)
    pair.line.cut()
    for person in (bob, beth):
        outage = await person.next("mls_outage")
        assert outage.reason == "unreachable"
        assert outage.next_try >= outage.since
    await pair.line.restore()
    await alice.say("Yet it was said")
    for person in (bob, beth):
        await person.hears("Yet it was said")
        await person.until(lambda person=person: person.room().outage is None)  # type: ignore[misc]
        assert person.got("mls_outage")[-1].reason == ""


@pytest.mark.parametrize("which", ["alpha", "beta"])
async def test_a_server_dies_in_the_middle_of_a_race(pair: Pair, cast: Cast, which: str) -> None:
    people = (alice, bob, beth) = (await meet(cast, pair))[1:]
    server: DevServer = getattr(pair, which)
    for person in people:
        person.stay_connected()
    racing = asyncio.create_task(race(*people))
    await alice.until(lambda: alice.room().epoch >= 3)
    await server.kill()
    await asyncio.sleep(1)
    await server.start()
    await racing
    await all_heard_all(*people)
    await all_agree(alice, bob, beth, at_least=1 + 3 * 3)


async def test_nobody_is_added_whose_server_is_out_of_reach(pair: Pair, cast: Cast) -> None:
    room, alice, _, _ = await meet(cast, pair)
    banquo = await cast.person(pair.beta, "banquo")
    pair.line.cut()
    await asyncio.sleep(0.5)
    result = await alice.room().add(banquo.account)
    assert set(result.failed) == {banquo.account}
    assert not result.added
    assert alice.room().epoch == 1
    await pair.line.restore()
    await asyncio.sleep(1)
    await alice.until(lambda: alice.room().live)
    async with asyncio.timeout(300):
        while (await alice.room().add(banquo.account)).failed:  # noqa: ASYNC110
            await asyncio.sleep(1)
    await banquo.joined(room)


async def test_nothing_is_in_clear_between_the_servers(prosody: DevServer, cast: Cast) -> None:
    """Two servers without TLS between them: what they say to each other is all there to be read, and looked through."""
    del prosody  # there is one
    federation = Federation("alpha.example", "beta.example")
    config = "s2s_require_encryption = false\ns2s_allow_encryption = false\ns2s_secure_auth = false\n"
    async with (
        federation.line() as line,
        Prosody("alpha.example", federation=federation, extra_config=config) as alpha,
        Prosody("beta.example", federation=federation, extra_config=config) as beta,
    ):
        people = (alice, _, beth) = (await meet(cast, Pair(alpha, beta, line)))[1:]
        await race(*people, lines=4, commits=1)
        await all_heard_all(*people, lines=4)
        await alice.room().remove(beth.account)
        await beth.next("mls_removed")
        await cast.end()
    read = line.octets.decode("utf-8", "replace")
    for element in ("message", "application", "commit", "welcome", "key-package", "device", "invitation"):
        assert f"<{element}" in read, element
    assert cast.secrets
    assert not [secret for secret in cast.secrets if secret in read]


@pytest.mark.parametrize("servers", ["prosody-prosody", "ejabberd-prosody"], indirect=True)
@pytest.mark.parametrize("way", ["commits", "asks"])
async def test_no_ghost_comes_in_for_somebody_whose_server_is_kept_out_of_reach(
    pair: Pair, cast: Cast, way: str
) -> None:
    """The room's server seats a made-up device of bob's, and talks to bob's server no more: unknown is not valid."""
    room, alice, bob, beth = await meet(cast, pair)
    mallory = await seat(cast, pair.alpha, alice, room)
    before, epoch = names(alice), alice.room().epoch
    pair.line.cut()
    impostor = Impostor(mallory, room, bob.account)
    await impostor.sit_down()
    if way == "commits":
        outgoing, _ = await impostor.external_commit(alice)
        await impostor.post(*outgoing.payloads)
        assert await refused(alice) == {"external-join"}
    else:
        for outgoing in await impostor.requests():
            await impostor.post(*outgoing.payloads)
        asked = await alice.next("mls_join_requested")
        assert (asked.account, asked.reason) == (bob.account, "unproven")
    await alice.say("the attack is at dawn")
    assert names(alice) == before
    assert alice.room().epoch == epoch
    await pair.line.restore()
    for person in (bob, beth):
        await person.hears("the attack is at dawn")
    await alice.room().update()
    await all_agree(alice, bob, beth, epoch=epoch + 1)
    assert names(bob) == before
