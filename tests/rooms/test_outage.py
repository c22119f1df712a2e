"""Why a room cannot be entered or read, since when, and when it is tried again."""

from __future__ import annotations

import pytest

from slixmpp_mls.delivery import AttemptFailed, Verified
from slixmpp_mls.errors import DeliveryError, Disconnected, NoAnswer, Refused, RoomLost
from slixmpp_mls.rooms.engine.outage import Outage
from slixmpp_mls.rooms.lost_rooms import PAUSES
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB
from .people import Bot, until


async def live(world: World) -> Bot:
    alice = Bot(world.group(ALICE, BOB)[0])
    await alice.rooms.resume()
    await until(lambda: alice.room.live)
    return alice


async def lose(bot: Bot, error: DeliveryError) -> None:
    bot.muc.lose(error)
    await until(lambda: bot.room.lost is not None and bot.room.outage is not None)


async def wait(bot: Bot, seconds: float) -> None:
    """Let time pass, as maintenance sees it: it looks every minute."""
    for _ in range(int(seconds / 60)):
        bot.monotonic += 60
        bot.world.now += 60
        await bot.rooms.lost.try_again()


def attempt_fails(bot: Bot, error: DeliveryError, *, in_room: bool = False) -> None:
    """What the reader of a room reports, which goes on trying."""
    bot.muc._told(AttemptFailed(error, 30.0, in_room))


async def test_a_lost_room_says_since_when_why_and_when_it_is_tried_again(world: World) -> None:
    alice, room, began = await live(world), world.room.jid, world.now
    assert alice.room.outage is None
    await lose(alice, RoomLost(room, "not-a-member", text="out with you"))
    first = Outage(room, "not-a-member", "out with you", began, began + PAUSES[0])
    assert alice.got("mls_outage") == [first]
    assert alice.room.outage == first
    await wait(alice, PAUSES[0])  # in vain, and for the same reason
    assert alice.got("mls_outage") == [first]
    assert alice.room.outage == Outage(room, "not-a-member", "out with you", began, world.now + PAUSES[1])
    alice.muc.refuses = RoomLost(room, "banned")
    await wait(alice, PAUSES[1])
    second = Outage(room, "banned", "", began, world.now + PAUSES[2])
    assert alice.got("mls_outage") == [first, second]
    assert alice.room.lost.reason == "banned"
    alice.muc.refuses = NoAnswer("silence")
    await wait(alice, PAUSES[2])
    assert [outage.reason for outage in alice.got("mls_outage")] == ["not-a-member", "banned", "unreachable"]
    assert alice.room.outage == Outage(room, "unreachable", "silence", began, world.now + PAUSES[3])
    alice.muc.refuses = None
    await wait(alice, PAUSES[3])
    await until(lambda: alice.room.live)
    assert alice.got("mls_outage")[3:] == [Outage(room, "", "", began, None)]
    assert alice.room.outage is None
    assert len(alice.got("mls_room_lost")) == 1
    alice.rooms.close()
    assert not alice.failures


async def test_a_service_that_fails_in_several_ways_is_one_outage_until_it_refuses(world: World) -> None:
    """Servers answer in turn that the other one is not found, and that it does not answer in time."""
    alice, room, began = await live(world), world.room.jid, world.now
    alice.muc.interrupt()
    for error in (
        NoAnswer("silence"),
        Refused(room, "remote-server-timeout"),
        Refused(room, "remote-server-not-found"),
    ):
        attempt_fails(alice, error)
        world.now += 100
    assert alice.got("mls_outage") == [Outage(room, "unreachable", "silence", began, began + 30)]
    attempt_fails(alice, Refused(room, "service-unavailable", "it is full"))
    now = world.now
    assert alice.got("mls_outage")[1:] == [Outage(room, "service-unavailable", "it is full", began, now + 30)]
    await lose(alice, RoomLost(room, "banned"))
    assert alice.got("mls_outage")[2:] == [Outage(room, "banned", "", began, now + PAUSES[0])]
    alice.rooms.close()


async def test_an_archive_that_cannot_be_read_is_an_outage_until_it_can(world: World) -> None:
    alice, room = await live(world), world.room.jid
    attempt_fails(alice, Refused(room, "internal-server-error"), in_room=True)
    attempt_fails(alice, Refused(room, "policy-violation"), in_room=True)
    assert [outage.reason for outage in alice.got("mls_outage")] == ["archive"]
    alice.muc._told(Verified())
    assert [outage.reason for outage in alice.got("mls_outage")] == ["archive", ""]
    alice.muc._told(Verified())
    assert len(alice.got("mls_outage")) == 2
    alice.rooms.close()


async def test_a_destroyed_room_is_not_tried_again(world: World) -> None:
    alice = await live(world)
    await lose(alice, RoomLost(world.room.jid, "destroyed"))
    (told,) = alice.got("mls_outage")
    assert (told.reason, told.next_try) == ("destroyed", None)
    alice.rooms.close()


async def test_what_the_room_cannot_help_is_not_told_of_it(world: World) -> None:
    """While our own connection is broken, nothing new is known of the room."""
    alice, began = await live(world), world.now
    await lose(alice, RoomLost(world.room.jid, "banned"))
    alice.muc.refuses = Disconnected("no stream")
    await wait(alice, PAUSES[0])
    assert len(alice.got("mls_outage")) == 1
    assert alice.room.outage == Outage(world.room.jid, "banned", "", began, world.now + PAUSES[1])
    alice.rooms.close()


async def test_reading_that_fails_is_an_outage_without_the_words_of_the_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await live(world)

    async def fail(stanzas: object) -> None:
        raise ZeroDivisionError("a secret")

    reader = alice.room.worker._reader
    with monkeypatch.context() as broken:
        broken.setattr(reader, "take_all", fail)
        await alice.room.send("is anybody there?")
        world.settle()
        await until(lambda: alice.room.outage is not None)
    assert alice.got("mls_outage") == [
        Outage(world.room.jid, "failed", "ZeroDivisionError", world.now, world.now + PAUSES[0])
    ]
    await wait(alice, PAUSES[0])
    await until(lambda: alice.room.live and alice.room.outage is None)
    assert alice.got("mls_outage")[-1].reason == ""
    alice.rooms.close()


async def test_a_room_that_is_left_has_no_outage(world: World) -> None:
    alice = await live(world)
    room = alice.room
    await lose(alice, RoomLost(world.room.jid, "banned"))
    await alice.rooms.forget(room)
    assert room.outage is None
    assert len(alice.got("mls_outage")) == 1
