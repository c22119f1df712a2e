"""One client in many rooms: they do not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from slixmpp import JID

from slixmpp_mls.authentication import DeviceListService
from slixmpp_mls.delivery import DeviceDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import StanzaTooLarge
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.rooms import registry
from slixmpp_mls.stanza import RoomElement

from ..conftest import unique
from .people import SECONDS, Cast, Person, all_agree


async def two_rooms(server: DevServer, cast: Cast) -> tuple[list[str], Person, Person]:
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    rooms = [f"{unique(name)}@{server.rooms}" for name in ("busy", "stuck")]
    for room in rooms:
        await (await alice.mls.create(room)).add(bob.account)
        await bob.joined(room)
    return rooms, alice, bob


class Slow(DeviceListService):
    """Takes its time with one account."""

    suspect = ""
    gate: asyncio.Event

    async def validate(self, leaves: Any, suite: Any) -> Any:
        if any(ClientIdentity.from_leaf(leaf).account == self.suspect for leaf in leaves):
            await self.gate.wait()
        return await super().validate(leaves, suite)


async def test_a_room_that_waits_for_the_authentication_service_holds_up_no_other(
    prosody: DevServer, cast: Cast
) -> None:
    (busy, stuck), alice, bob = await two_rooms(prosody, cast)
    carol = await cast.person(prosody, "carol")
    service = Slow(DeviceDirectory(bob.client))
    service.suspect, service.gate = carol.account, asyncio.Event()
    object.__setattr__(bob.mls.context, "authentication", service)
    await alice.room(stuck).add(carol.account)
    await alice.say("do you hear me there", stuck)
    await alice.say("do you hear me here", busy)
    await bob.hears("do you hear me here")
    async with asyncio.timeout(SECONDS):
        await (await bob.say("here I do", busy)).confirmed
        await bob.room(busy).update()
    assert bob.room(stuck).epoch == 1
    assert "do you hear me there" not in bob.bodies
    service.gate.set()
    await bob.hears("do you hear me there")
    await all_agree(alice, bob, carol, room=stuck)


async def test_a_room_that_waits_for_an_upload_holds_up_no_other(prosody: DevServer, cast: Cast) -> None:
    """The ratchet tree of an Add is uploaded, as it does not fit; meanwhile its committer talks elsewhere."""
    (busy, stuck), alice, bob = await two_rooms(prosody, cast)
    carol = await cast.person(prosody, "carol")
    gate, begun = asyncio.Event(), asyncio.Event()
    put = alice.mls.uploads.put

    async def late(data: bytes) -> Any:
        begun.set()
        await gate.wait()
        return await put(data)

    alice.mls.uploads.put = late  # type: ignore[method-assign]
    worker = alice.room(stuck).worker
    too_large = iter([True, True])  # with a GroupInfo beside it, and without

    def narrow(elements: Sequence[RoomElement]) -> None:
        if next(too_large, False):
            raise StanzaTooLarge(worker.parts.muc.limit + 1, worker.parts.muc.limit)

    worker.parts.fits = narrow  # type: ignore[method-assign]
    adding = asyncio.create_task(alice.room(stuck).add(carol.account))
    async with asyncio.timeout(SECONDS):
        await begun.wait()
        await (await alice.say("busy here", busy)).confirmed
        await alice.room(busy).update()
        await (await alice.say("and also there", stuck)).confirmed
    await bob.hears("busy here", "and also there")
    assert not adding.done()
    gate.set()
    async with asyncio.timeout(SECONDS):
        assert (await adding).added
    await all_agree(alice, bob, room=stuck)


async def test_a_room_that_does_not_answer_holds_up_no_other_at_the_start(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ENTERING_TIMEOUT", 0.5)
    (busy, stuck), alice, bob = await two_rooms(prosody, cast)
    await bob.log_out()
    await alice.say("welcome back here", busy)
    await alice.say("welcome back there", stuck)
    client = bob.make_client()
    lost = True

    def lose(stanza: Any) -> Any:
        to_it = stanza.name == "presence" and str(stanza.xml.get("to", "")).startswith(stuck)
        return None if lost and to_it else stanza

    client.add_filter("out", lose)
    await prosody.connect(client)
    await bob.ready()
    await bob.hears("welcome back here")
    assert not bob.room(stuck).live
    async with asyncio.timeout(SECONDS):
        await (await bob.say("here I am", busy)).confirmed
        sent = await bob.say("and there, when I can", stuck)
    lost = False
    await bob.cut()
    await bob.back()
    await bob.hears("welcome back there")
    async with asyncio.timeout(SECONDS):
        await sent.confirmed


async def test_many_rooms_are_taken_up_side_by_side(prosody: DevServer, cast: Cast) -> None:
    """What was said in twenty rooms meanwhile is all there after one start, once, in each room's order."""
    alice, bob = await cast.person(prosody, "alice"), await cast.person(prosody, "bob")
    rooms = [f"{unique('many')}@{prosody.rooms}" for _ in range(20)]
    for room in rooms:
        await (await alice.mls.create(room)).add(bob.account)
        await bob.joined(room)
    await bob.log_out()
    for room in rooms:
        for number in range(3):
            await alice.say(f"thought {number} in {room}", room)
    await bob.connect()
    await bob.hears(*(f"thought 2 in {room}" for room in rooms))
    for room in rooms:
        assert [text for text in bob.bodies if text.endswith(room)] == [f"thought {n} in {room}" for n in range(3)]
    await all_agree(alice, bob, room=rooms[-1])


async def affiliation(person: Person, other: Person, wanted: str | None) -> None:
    """Wait until the room has given it to somebody; None: taken everything away."""
    async with asyncio.timeout(120):
        while (await person.room().muc.affiliations.all()).get(JID(other.account)) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_new_administrator_of_the_group_can_add_people(server: DevServer, cast: Cast) -> None:
    """Affiliations follow the policy, both ways (mls-policy.xml, "Changing the Policy")."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol")
    policy = alice.room().policy
    await alice.room().set_policy(replace(policy, administrators=(alice.account, bob.account)))
    await all_agree(alice, bob, epoch=2)
    await affiliation(alice, bob, "admin")
    added = await bob.room().add(carol.account)
    assert not added.failed
    await carol.joined(room)
    await all_agree(alice, bob, carol)
    await alice.room().set_policy(policy)
    await affiliation(alice, bob, "member")
    await all_agree(alice, bob, carol)


async def test_a_leaver_goes_with_all_devices_and_loses_the_room(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    phone = await cast.person(server, bob.jid)
    await alice.room().add(f"{bob.account}/{phone.mls.device_id}")  # named, as nobody has vouched for it
    await phone.joined(room)
    await all_agree(alice, bob, phone)
    await asyncio.wait_for(bob.room().leave(), 120)
    await alice.until(lambda: len(alice.room().members) == 1)
    await phone.until(lambda: bool(phone.got("mls_removed")))
    await affiliation(alice, bob, None)
