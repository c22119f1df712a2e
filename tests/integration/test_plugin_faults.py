"""Hostile and broken stanzas in the room: each is refused by name, the group goes on, nobody is answered."""

from __future__ import annotations

import asyncio
import os
import time
from base64 import b64encode
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, fromstring

import pytest
from slixmpp import JID

from slixmpp_mls.authentication import AcceptAll
from slixmpp_mls.authentication.interface import Verdict
from slixmpp_mls.client import Device, RoomGroup
from slixmpp_mls.client.device import open_key_package
from slixmpp_mls.delivery.events import Reconfigured
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import (
    DeliveryError,
    InvalidError,
    MalformedError,
    NotVouchedFor,
    PeerError,
    Replayed,
    UnknownGroup,
)
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.mls.tree.leaf_validation import GroupRequirements
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.stanza import KeyPackage, parse
from slixmpp_mls.store import MemoryStore

from ..conftest import unique
from .people import EVENTS, SECONDS, Cast, Person, all_agree, ciphertext, envelope
from .test_room import reconfigure

NS = "urn:xmpp:mls:0"


def element(name: str, group: bytes, epoch: int, data: bytes | str) -> Element:
    """As somebody writes it whom nothing checks."""
    made = Element(f"{{{NS}}}{name}", {"group": b64encode(group).decode(), "epoch": str(epoch)})
    made.text = data if isinstance(data, str) else b64encode(data).decode()
    return made


async def occupant(cast: Cast, server: DevServer, room: str, host: Person, name: str = "mallory") -> Person:
    """Somebody who is in the room and not in the group."""
    mallory = await cast.person(server, name)
    await host.room(room).muc.affiliations.grant_membership([mallory.account])
    await mallory.client.plugin["xep_0045"].join_muc_wait(JID(room), name, maxstanzas=0, timeout=60)
    return mallory


def other_group(room: str, account: str, group_id: bytes | None = None) -> RoomGroup:
    """A group of somebody's own, with a policy for this very room; perhaps even with the same id."""
    kinds: dict[str, Any] = {}
    if group_id is not None:
        kinds["random"] = lambda size: group_id if size == len(group_id) else os.urandom(size)
    session = RoomGroup(Device(MemoryStore(account), **kinds), room)
    session.lifecycle.create(1, RoomPolicy(room, (account,)), int(time.time()))
    return session


def hostile(alice: Person, mallory: Person, room: str) -> list[tuple[str, list[Element], type[PeerError] | str]]:
    """What mallory posts, and how it is to be refused: an error, or the reason why it cannot be read."""
    group = alice.room()
    group_id, epoch = group.group.mls.group_id, group.epoch
    genuine = next(p for p in group.group.sending.compose(envelope("genuine", alice.account, room)).payloads).data
    future = bytearray(genuine)
    # MLSMessage: version (2), wire format (2); PrivateMessage: group id (1 + 32), epoch (8), content type (1) ...
    place = 4 + 1 + len(group_id)
    assert future[5:place] == group_id
    assert future[place : place + 8] == epoch.to_bytes(8, "big")
    future[place : place + 8] = (epoch + 7).to_bytes(8, "big")
    past = bytearray(genuine)
    past[place : place + 8] = bytes(8)
    tampered = bytearray(genuine)
    tampered[-3] ^= 1
    own = other_group(room, mallory.account)
    own_data = own.sending.compose(b"of another group").payloads[0].data
    own_commit = own.sending.commit([], int(time.time())).payloads[0].data
    twin = other_group(room, mallory.account, group_id)
    assert twin.mls.group_id == group_id
    twin_data = twin.sending.compose(b"of a group with the same id").payloads[0].data

    def app(data: bytes | str, claimed: int = epoch) -> list[Element]:
        return [element("application", group_id, claimed, data)]

    return [
        ("not base64", app("&<>!!"), MalformedError),
        ("base64 with a hole", app("AAAA=AAA"), MalformedError),
        ("empty", app(""), MalformedError),
        ("truncated", app(genuine[:-30]), MalformedError),
        ("truncated to its header", app(genuine[:4]), MalformedError),
        ("with octets left over", app(genuine + b"\0"), MalformedError),
        ("oversized", app(bytes(185_000)), MalformedError),
        ("an unknown version", app(b"\x00\x09" + genuine[2:]), PeerError),
        ("an unknown wire format", app(genuine[:2] + b"\x00\x63" + genuine[4:]), PeerError),
        ("nested XML", [nested(element("application", group_id, epoch, genuine))], MalformedError),
        ("no group attribute", [bare_element("application", genuine)], MalformedError),
        ("another group's attribute", [element("application", b"another", epoch, genuine)], PeerError),
        ("another epoch's attribute", app(genuine, epoch + 1), InvalidError),
        ("an epoch that is no number", [with_epoch(app(genuine)[0], "-1")], MalformedError),
        ("an application message as a commit", [element("commit", group_id, epoch, genuine)], InvalidError),
        ("an application message as a proposal", [element("proposal", group_id, epoch, genuine)], InvalidError),
        ("tampered with", app(bytes(tampered)), InvalidError),
        ("of the future", app(bytes(future), epoch + 7), "future"),
        ("of the past, before our time", app(bytes(past), 0), "before-join"),
        ("of another group", [element("application", own.mls.group_id, 0, own_data)], UnknownGroup),
        ("of another group under our id", [element("application", group_id, 0, own_data)], PeerError),
        ("of a group with our id", app(twin_data, 0), "before-join"),
        ("a commit of another group", [element("commit", own.mls.group_id, 0, own_commit)], UnknownGroup),
        ("a garbage commit", [element("commit", group_id, epoch, b"\0\1\0\2" + bytes(100))], PeerError),
        ("a garbage proposal", [element("proposal", group_id, epoch, b"\0\1\0\1" + bytes(100))], PeerError),
        ("a welcome alone", [element("welcome", group_id, epoch, b"\0\1\0\3" + bytes(100))], MalformedError),
        ("two messages in one", [*app(genuine), *app(genuine)], MalformedError),
        ("a KeyPackage", [Element(f"{{{NS}}}key-package")], MalformedError),
    ]  # fmt: skip


def nested(made: Element) -> Element:
    SubElement(made, "{urn:example}x")
    return made


def bare_element(name: str, data: bytes) -> Element:
    made = Element(f"{{{NS}}}{name}")
    made.text = b64encode(data).decode()
    return made


def with_epoch(made: Element, epoch: str) -> Element:
    made.set("epoch", epoch)
    return made


async def test_garbage_in_the_room_is_refused_by_name_and_disturbs_nobody(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.room().update()
    await all_agree(alice, bob, epoch=2)
    mallory = await occupant(cast, server, room, alice)
    count = 0
    for number, (what, elements, expected) in enumerate(hostile(alice, mallory, room)):
        before = {name: len(bob.got(name)) for name in ("mls_rejected", "mls_unreadable")}
        await mallory.post([*elements, Element("{urn:xmpp:hints}store")], room)
        name = "mls_unreadable" if isinstance(expected, str) else "mls_rejected"
        event = await bob.next(name, before[name])
        if isinstance(expected, str):
            assert event.reason == expected, what
        else:
            assert isinstance(event.error, expected), f"{what}: {event.error!r}"
        assert event.claimed == mallory.account, what
        count += 1
        if number % 9 == 0:
            await alice.say(f"undisturbed {number}")
            await bob.hears(f"undisturbed {number}")
    await bob.until(lambda: len(bob.got("mls_rejected")) + len(bob.got("mls_unreadable")) == count)
    assert not alice.got("mls_sent")[4:]  # what mallory did to a message of hers is no proof that it has arrived
    await bob.room().update()
    await alice.room().update()
    await all_agree(alice, bob, epoch=4)
    await bob.say("the wood began to move")
    await alice.hears("the wood began to move")
    # Who comes late reads the same garbage in the archive.
    carol = await cast.person(server, "carol")
    await alice.room().add(carol.account)
    await carol.joined(room)
    await all_agree(alice, bob, carol)
    await bob.log_out()
    await alice.say("what is done is done")
    await bob.connect()
    await bob.hears("what is done is done")


async def test_a_stanza_posted_again_is_a_replay(server: DevServer, cast: Cast) -> None:
    """Whoever is in the room can copy what it sees; RFC 9420 9.2: a key is used once."""
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    mallory = await occupant(cast, server, room, alice)
    data = envelope(cast.secret("murder sleep"), alice.account, room)
    outgoing = alice.room().group.sending.compose(data)
    await alice.room().worker.transmitter.transmit(outgoing)
    await bob.hears("murder sleep")
    for thief in (mallory, carol):
        before = len(bob.got("mls_rejected"))
        await thief.post([*ciphertext(outgoing), Element("{urn:xmpp:hints}store")], room)
        rejected = await bob.next("mls_rejected", before)
        assert isinstance(rejected.error, Replayed)
        assert rejected.claimed == thief.account
    # A Commit again, and its epoch is over: it means nothing.
    await alice.room().update()
    await all_agree(alice, bob, carol, epoch=2)
    (commit,) = [wire for wire in alice.stanzas_sent("<commit") if "<welcome" not in wire]
    await mallory.post([fromstring(commit)[0], Element("{urn:xmpp:hints}store")], room)
    await alice.say("the innocent sleep")
    await bob.hears("the innocent sleep")
    await carol.hears("the innocent sleep")
    await all_agree(alice, bob, carol, epoch=2)
    assert bob.bodies == ["murder sleep", "the innocent sleep"]
    await alice.until(lambda: len(alice.got("mls_sent")) >= 2)
    assert len(alice.got("mls_sent")) == 2
    assert not alice.bodies


async def test_a_welcome_for_somebody_else_is_passed_over(prosody: DevServer, cast: Cast) -> None:
    room, (alice,) = await cast.meet(prosody, "alice")
    bob, carol = await cast.person(prosody, "bob"), await cast.person(prosody, "carol")
    await alice.room().muc.affiliations.grant_membership([carol.account])
    waiting = asyncio.create_task(carol.mls.join(room))
    await carol.until(lambda: room in carol.mls.rooms)
    await alice.room().add(bob.account)
    await bob.joined(room)
    await alice.say("not for carol's eyes")
    await bob.hears("not for carol's eyes")
    await carol.has_read(bob, room)
    assert not waiting.done()
    assert not carol.bodies
    assert not carol.got("mls_rejected")
    await alice.say("nor this")
    await bob.hears("nor this")
    await alice.room().add(carol.account)
    assert (await asyncio.wait_for(waiting, SECONDS)).is_member
    await all_agree(alice, bob, carol)
    # What was said before she came is one event, however much it was.
    (event,) = carol.got("mls_unreadable")
    assert (event.reason, event.count) == ("before-join", 2)


async def test_an_outsiders_welcome_does_not_replace_the_group_of_members(prosody: DevServer, cast: Cast) -> None:
    """Somebody in the room makes a group of the same name and adds a member of the real one to it."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    mallory = await occupant(cast, prosody, room, alice)
    fake = RoomGroup(mallory.mls.device, room)
    fake.lifecycle.create(1, RoomPolicy(room, (mallory.account,)), int(time.time()))
    items = await mallory.mls.directory.items(bob.account)
    context = GroupRequirements.of_context(fake.mls.context)
    parsed = [parse(xml) for xml in items.values()]
    package = next(p for p in parsed if isinstance(p, KeyPackage) and not p.last_resort)
    verified = open_key_package(package.data, bob.account, context, mallory.mls.device.leaf_rules(int(time.time())))
    outgoing = fake.sending.commit([Add(verified.key_package)], int(time.time()))
    await mallory.post([*ciphertext(outgoing), Element("{urn:xmpp:hints}store")], room)
    rejected = await bob.next("mls_rejected")
    assert isinstance(rejected.error, UnknownGroup)
    await all_agree(alice, bob, epoch=1)
    await alice.say("Macbeth shall never vanquished be")
    await bob.hears("Macbeth shall never vanquished be")


async def test_elements_that_mean_nothing_to_us_are_passed_over(prosody: DevServer, cast: Cast) -> None:
    """Later versions of the protocol may put more into the namespace (RFC 6120 8.4)."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await bob.post([Element(f"{{{NS}}}something-new"), Element("{urn:xmpp:hints}store")], room)
    await alice.say("until great Birnam wood")
    await bob.hears("until great Birnam wood")
    for person in (alice, bob):
        assert not person.got("mls_rejected")


async def test_the_room_refuses_a_message(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await reconfigure(alice.client, JID(room), {"muc#roomconfig_moderatedroom": "1"})
    await bob.until(lambda: any(isinstance(e, Reconfigured) for e in bob.got("mls_room_event")))
    nick = bob.room().muc.nick
    await alice.client.plugin["xep_0045"].set_role(JID(room), nick, "visitor")
    await bob.until(lambda: bob.room().muc.occupants[nick].role == "visitor")
    sent = await bob.say("hear me, hear me")
    with pytest.raises(DeliveryError, match="forbidden"):
        await asyncio.wait_for(sent.confirmed, SECONDS)
    assert (await bob.next("mls_bounced")).message_id == sent.origin_id
    # A Commit that is refused: the one who asked for it is told so, in bounded time.
    with pytest.raises(DeliveryError):
        await asyncio.wait_for(bob.room().update(), SECONDS)
    assert bob.got("mls_commit_lost")
    await alice.client.plugin["xep_0045"].set_role(JID(room), nick, "participant")
    await bob.until(lambda: bob.room().muc.occupants[nick].role == "participant")
    await bob.say("at last I am heard")
    await alice.hears("at last I am heard")
    await bob.room().update()
    await all_agree(alice, bob, epoch=2)
    assert alice.bodies == ["at last I am heard"]


class Doubtful(AcceptAll):
    """An Authentication Service that cannot tell."""

    async def validate(self, leaves: Any, suite: Any) -> list[Verdict]:
        return [Verdict.unknown("unreachable", "the line is dead")] * len(leaves)


async def test_a_member_that_cannot_be_authenticated_is_reported(prosody: DevServer, cast: Cast) -> None:
    alice = await cast.person(prosody, "alice")
    bob = await cast.person(prosody, "bob", authentication=Doubtful())
    group = await alice.mls.create(f"{unique('fog')}@{prosody.rooms}")
    assert not (await group.add(bob.account)).added  # nobody has listed bob's device
    await bob.log_out()
    bob.config = {}
    await bob.connect()  # lists it
    await bob.log_out()
    bob.config = {"authentication": Doubtful()}
    await bob.connect()
    assert (await group.add(bob.account)).added
    await bob.joined(group.jid)
    doubted = await bob.next("mls_doubted")
    assert doubted.room == group.jid
    assert str(doubted.member) == f"{alice.account}/{alice.mls.device_id}"
    assert not doubted.doubt.denied
    await group.send(cast.secret("thunder"))
    await bob.hears("thunder")
    assert bob.got("mls_message")[0].doubt.reason == "unreachable"
    with pytest.raises(NotVouchedFor):  # mls, "Authenticating Devices": nobody whom he knows has let him in
        await bob.say("lightning")


async def test_a_client_that_has_missed_a_commit_reads_the_archive_again(prosody: DevServer, cast: Cast) -> None:
    """What has got lost on the way to one member is found out with the next message, and got."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    bob.client.deaf = True
    await alice.room().update()
    await bob.mls.xmpp.plugin["xep_0199"].ping(JID(bob.jid.domain))  # what came before the answer is lost
    bob.client.deaf = False
    await alice.say("There's daggers in men's smiles")
    await bob.hears("There's daggers in men's smiles")
    await all_agree(alice, bob, epoch=2)
    assert not bob.got("mls_left_behind")  # nothing is missing any more


def test_each_event_of_the_documentation_is_in_some_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert len(EVENTS) > 15
    assert [name for name in EVENTS if f'"{name}"' not in tests] == []
