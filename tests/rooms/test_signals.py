"""Typing and read markers: sent on request only, encrypted, signed, kept by nobody (mls.xml, "Ephemeral Content")."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from slixmpp_mls.client.group.ephemeral import BURST, MAX_EPHEMERAL, PERIOD, EphemeralMessage
from slixmpp_mls.errors import AffixMismatch, InvalidError, MalformedError, PolicyViolation, StanzaTooLarge
from slixmpp_mls.rooms import signals
from slixmpp_mls.rooms.content import seal_body, seal_elements
from slixmpp_mls.rooms.rich import Marker, Reference, Typing
from slixmpp_mls.testing import World
from tests.tampering import tampered

from ..client.people import ALICE, BOB, CAROL, DAVE
from .people import Bot, until
from .test_rich import bots, post, say


def stored(bot: Bot) -> dict[str, dict[bytes, bytes]]:
    with bot.context.device.store.transaction() as transaction:
        return {space: dict(transaction.items(space)) for space in transaction.spaces()}


async def test_typing_reaches_the_members_and_leaves_no_trace(world: World) -> None:
    alice, bob, carol = await bots(world, ALICE, BOB, CAROL)
    before, places = stored(bob), len(world.room.archive())
    assert await alice.room.typing()
    assert await alice.room.typing(False)
    for bot in (bob, carol):
        told = bot.got("mls_typing")
        assert all(isinstance(each, Typing) for each in told)
        assert [(each.sender.account, each.active, each.state) for each in told] == [
            (ALICE, True, "composing"),
            (ALICE, False, "paused"),
        ]
    assert not alice.got("mls_typing")
    assert not bob.got("mls_message")
    assert stored(bob) == before
    assert (len(world.room.archive()), world.room.in_flight) == (places, [])
    assert b"composing" not in world.room.shown[0].data


async def test_a_marker_is_about_a_message(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    (heard,) = await say(world, alice, "read this", bob)
    assert not alice.got("mls_marker")  # nothing is sent by itself
    assert await heard.displayed()
    (marker,) = alice.got("mls_marker")
    assert isinstance(marker, Marker)
    assert marker.sender.account == BOB
    assert (marker.about.id, marker.about.sender, marker.about.known) == (heard.origin_id, ALICE, True)


async def test_the_same_state_is_not_repeated_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    assert await alice.room.typing()
    assert not await alice.room.typing()
    assert len(bob.got("mls_typing")) == 1
    monkeypatch.setattr(signals, "_REPEATED_AFTER", 0.0)
    assert await alice.room.typing()
    assert len(bob.got("mls_typing")) == 2


async def test_nothing_is_sent_outside_of_the_room_or_for_who_is_denied(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    alice.muc.interrupt()
    assert not await alice.room.typing()
    alice.muc.enter_again()
    await until(lambda: alice.room.live)
    dave = world.person(DAVE)
    alice.service.denied.add(dave.device.identity)
    bob.service.denied.add(dave.device.identity)
    bob.person.commit(*bob.person.adding(DAVE))
    world.room.deliver_all()
    await until(lambda: alice.room.group.sending.silenced)
    assert not await alice.room.typing()
    dave.read()
    # ... and what the denied member sends is not told to the application.
    data = seal_elements([_composing()], DAVE, world.room.jid, world.now)
    world.room.show(dave.group.ephemeral.seal(data), DAVE)
    assert not alice.got("mls_typing")
    alice.room.group.sending.talks_to_anybody = True
    world.room.show(dave.group.ephemeral.seal(data), DAVE)
    assert len(alice.got("mls_typing")) == 1


def _composing() -> ET.Element:
    return ET.fromstring("<composing xmlns='http://jabber.org/protocol/chatstates'/>")


async def test_what_is_not_genuine_is_refused_and_what_is_repeated_is_ignored(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    assert await alice.room.typing()
    (shown,) = world.room.shown
    inside = EphemeralMessage.decode(shown.data)
    world.room.show(shown, ALICE)  # the server shows it again
    world.room.show(replace(shown, epoch=shown.epoch + 1), ALICE)  # of no epoch of ours
    world.room.show(replace(shown, group=b"another"), ALICE)
    world.room.show(replace(shown, data=b"?"), DAVE)  # an occupant that is no member makes us do nothing
    world.room.show(replace(shown, data=b"?"), None)
    assert len(bob.got("mls_typing")) == 1
    assert not bob.got("mls_rejected")
    fresh = seal_elements([_composing()], ALICE, world.room.jid, world.now)
    inside = EphemeralMessage.decode(alice.room.group.ephemeral.seal(fresh).data)
    for kind, data in [
        (MalformedError, b"?"),
        (MalformedError, replace(inside, salt=b"short").encode()),
        (InvalidError, replace(inside, salt=bytes(32)).encode()),
        (InvalidError, replace(inside, ciphertext=tampered(inside.ciphertext)).encode()),
        (MalformedError, bytes(MAX_EPHEMERAL + 1)),
    ]:
        count = len(bob.got("mls_rejected"))
        world.room.show(replace(shown, data=data), ALICE)
        assert len(bob.got("mls_rejected")) == count + 1
        assert isinstance(bob.got("mls_rejected")[-1].error, kind)
    assert len(bob.got("mls_typing")) == 1


async def test_a_member_speaks_for_itself_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member has the key: the signature tells who it is, and covers salt, envelope and GroupContext."""
    alice, bob, carol = await bots(world, ALICE, BOB, CAROL)
    now, room = world.now, world.room.jid
    in_alices_name = seal_elements([_composing()], ALICE, room, now)
    world.room.show(carol.room.group.ephemeral.seal(in_alices_name), CAROL)
    assert isinstance(bob.got("mls_rejected")[-1].error, AffixMismatch)
    elsewhere = seal_elements([_composing()], CAROL, "heath@rooms.example", now)
    world.room.show(carol.room.group.ephemeral.seal(elsewhere), CAROL)
    assert isinstance(bob.got("mls_rejected")[-1].error, AffixMismatch)
    old = seal_elements([_composing()], CAROL, room, now - 3600)
    world.room.show(carol.room.group.ephemeral.seal(old), CAROL)
    assert isinstance(bob.got("mls_rejected")[-1].error, AffixMismatch)
    # With carol's key, as if from alice's leaf.
    group = carol.room.group.mls
    ours = alice.room.group.mls.own_index
    monkeypatch.setattr(type(group), "own_index", property(lambda self: ours))
    forged = carol.room.group.ephemeral.seal(in_alices_name)
    monkeypatch.undo()
    world.room.show(forged, ALICE)
    assert isinstance(bob.got("mls_rejected")[-1].error, InvalidError)
    assert "signature" in str(bob.got("mls_rejected")[-1].error)
    assert not bob.got("mls_typing")


async def test_nothing_else_comes_in_this_way(world: World) -> None:
    """It has the forward secrecy of an epoch only, and no place in the order."""
    alice, bob = await bots(world, ALICE, BOB)
    (heard,) = await say(world, bob, "mine", alice)
    now, room = world.now, world.room.jid
    world.room.show(alice.room.group.ephemeral.seal(seal_body("hello", ALICE, room, now)), ALICE)
    assert isinstance(bob.got("mls_rejected")[-1].error, InvalidError)
    retraction = "<retract xmlns='urn:xmpp:message-retract:1' id='x'/>"
    post(world, alice, retraction)  # it may be said in a message
    element = ET.fromstring(f"<retract xmlns='urn:xmpp:message-retract:1' id='{heard.origin_id}'/>")
    world.room.show(alice.room.group.ephemeral.seal(seal_elements([element], ALICE, room, now)), ALICE)
    assert isinstance(bob.got("mls_rejected")[-1].error, InvalidError | PolicyViolation)
    assert not [message for message in bob.got("mls_message") if message.sender.account == ALICE]
    with pytest.raises(StanzaTooLarge):
        alice.room.group.ephemeral.seal(seal_body("x" * MAX_EPHEMERAL, ALICE, room, now))


async def test_a_member_that_sends_too_much_is_not_read(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)

    def send() -> None:
        data = seal_elements([_composing()], ALICE, world.room.jid, world.now)
        world.room.show(alice.room.group.ephemeral.seal(data), ALICE)

    for _ in range(2 * BURST):
        send()
    assert len(bob.got("mls_typing")) == BURST
    assert not bob.got("mls_rejected")
    world.now += PERIOD
    send()
    assert len(bob.got("mls_typing")) == BURST + 1


async def test_nobody_silences_another_member(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a member has not signed does not count against it; and leaves that do not exist cost no memory."""
    alice, bob, carol = await bots(world, ALICE, BOB, CAROL)
    data = seal_elements([_composing()], ALICE, world.room.jid, world.now)
    group = carol.room.group.mls
    for number in range(2 * BURST):
        monkeypatch.setattr(type(group), "own_index", number if number % 2 else alice.room.group.mls.own_index)
        forged = carol.room.group.ephemeral.seal(data)
        monkeypatch.undo()
        world.room.show(forged, CAROL)
    assert not bob.got("mls_typing")
    assert not bob.room.group.ephemeral._read
    world.room.show(alice.room.group.ephemeral.seal(data), ALICE)
    assert len(bob.got("mls_typing")) == 1


async def test_a_marker_without_a_sender_is_sent_as_well(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    assert await alice.room.displayed(Reference("unknown", None))
    (marker,) = bob.got("mls_marker")
    assert (marker.about.id, marker.about.known) == ("unknown", False)
