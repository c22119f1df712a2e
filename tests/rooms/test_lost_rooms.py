"""Rooms that did not let us in, and do so again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from slixmpp_mls.errors import DeliveryError, NoAnswer, NotPermitted, RoomLost
from slixmpp_mls.rooms.lost_rooms import PAUSES, LostRooms
from slixmpp_mls.testing import FakeMUC, World

from ..client.people import ALICE, BOB
from .people import Bot, until


class Door:
    """Counts the attempts to enter a room, and decides what becomes of them."""

    def __init__(self, bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts = 0
        muc, enter = bot.muc, FakeMUC.join

        async def join(after: str | None) -> None:
            self.attempts += 1
            await enter(muc, after)

        monkeypatch.setattr(muc, "join", join)


async def lost(world: World, monkeypatch: pytest.MonkeyPatch, error: DeliveryError) -> tuple[Bot, Door]:
    """Alice, whose room is lost to her."""
    alice = Bot(world.group(ALICE, BOB)[0])
    await alice.rooms.resume()
    await until(lambda: alice.room.live)
    alice.muc.lose(error)
    await until(lambda: alice.room.lost is not None)
    return alice, Door(alice, monkeypatch)


async def wait(bot: Bot, seconds: float) -> None:
    """Let time pass, as maintenance sees it: it looks every minute."""
    for _ in range(int(seconds / 60)):
        bot.monotonic += 60
        await bot.rooms.lost.try_again()


@pytest.mark.parametrize("reason", ["not-a-member", "banned", "password-required", "refused"])
async def test_a_room_that_lets_us_in_again_goes_on(world: World, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    alice, door = await lost(world, monkeypatch, RoomLost(world.room.jid, reason))
    await alice.rooms.lost.try_again()
    await wait(alice, PAUSES[0])
    assert door.attempts == 1
    assert alice.room.lost is not None
    assert alice.room.lost.reason == reason
    with pytest.raises(RoomLost):  # also while it is tried again
        await alice.room.send("is anybody there?")
    alice.muc.refuses = None
    await wait(alice, PAUSES[1])
    await until(lambda: alice.room.live)
    assert alice.room.is_member
    sent = await alice.room.send("here I am again")
    world.settle()
    await asyncio.wait_for(sent.confirmed, 60)
    assert len(alice.got("mls_room_lost")) == 1
    await wait(alice, 2 * PAUSES[-1])
    assert door.attempts == 2  # nothing is tried in a room that is not lost
    alice.rooms.close()
    assert not alice.failures


async def test_attempts_in_vain_become_rare(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, door = await lost(world, monkeypatch, NotPermitted("no longer a member"))
    await alice.rooms.lost.try_again()
    await wait(alice, sum(PAUSES))
    assert door.attempts == len(PAUSES)
    await wait(alice, 24 * PAUSES[-1])
    assert door.attempts == len(PAUSES) + 24
    assert len(alice.got("mls_room_lost")) == 1
    alice.rooms.close()


async def test_every_new_session_tries_once_and_not_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, door = await lost(world, monkeypatch, RoomLost(world.room.jid, "not-a-member"))
    for _ in range(5):  # a connection that breaks all the time
        await alice.rooms.lost.try_again(new_session=True)
    assert door.attempts == 1
    alice.monotonic += PAUSES[0]
    await alice.rooms.lost.try_again(new_session=True)
    assert door.attempts == 2
    alice.rooms.close()


async def test_a_room_that_does_not_answer_stays_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, door = await lost(world, monkeypatch, RoomLost(world.room.jid, "banned"))
    alice.muc.refuses = NoAnswer("not now")
    await alice.rooms.lost.try_again(new_session=True)
    assert door.attempts == 1
    assert alice.room.lost is not None
    assert alice.room.lost.reason == "banned"
    assert not alice.room.worker.running
    alice.rooms.close()
    assert not alice.failures


@pytest.mark.parametrize(("reason", "exists"), [("destroyed", True), ("not-found", False), ("not-found", True)])
async def test_a_room_that_is_gone_is_not_made_by_entering_it(
    world: World, monkeypatch: pytest.MonkeyPatch, reason: str, exists: bool
) -> None:
    """XEP-0045 10.1.1: to enter a room that does not exist makes it.  Another one in its place is our user's affair."""
    alice, door = await lost(world, monkeypatch, RoomLost(world.room.jid, reason))
    alice.muc.refuses = None

    async def check() -> tuple[str, ...]:
        return () if exists else ("not-found",)

    monkeypatch.setattr(alice.muc, "check", check)
    await alice.rooms.lost.try_again(new_session=True)
    back = reason == "not-found" and exists
    assert door.attempts == (1 if back else 0)
    assert (alice.room.lost is None) is back
    alice.rooms.close()


async def test_a_slow_attempt_is_not_overtaken_by_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, door = await lost(world, monkeypatch, RoomLost(world.room.jid, "banned"))
    answered = asyncio.Event()
    enter = alice.muc.join

    async def join(after: str | None) -> None:
        await asyncio.shield(answered.wait())
        await enter(after)

    monkeypatch.setattr(alice.muc, "join", join)
    first = asyncio.create_task(alice.rooms.lost.try_again(new_session=True))
    await asyncio.sleep(0)
    await alice.rooms.lost.try_again(new_session=True)
    await wait(alice, PAUSES[1])
    answered.set()
    await first
    assert door.attempts == 1
    alice.rooms.close()


async def test_a_room_whose_reading_has_broken_is_read_again_and_ever_more_rarely(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost: it is read from the stanza that has not been read."""
    alice = Bot(world.group(ALICE, BOB)[0])
    await alice.rooms.resume()
    await until(lambda: alice.room.live)
    reader = alice.room.worker._reader
    take_all, failures = reader.take_all, 0

    async def fail(stanzas: object) -> None:
        nonlocal failures
        failures += 1
        raise ZeroDivisionError("a fault of our own")

    monkeypatch.setattr(reader, "take_all", fail)
    sent = await alice.room.send("is anybody there?")
    world.settle()
    await until(lambda: alice.room.worker.broken)
    await alice.rooms.lost.try_again()
    for _ in range(sum(PAUSES) // 60):
        await wait(alice, 60)
        await until(lambda: alice.room.worker.broken)
    assert failures == len(alice.got("mls_failed")) == 1 + len(PAUSES)
    monkeypatch.setattr(reader, "take_all", take_all)
    with pytest.raises(DeliveryError):
        await sent.confirmed
    assert not alice.got("mls_sent")
    await wait(alice, PAUSES[-1])
    await until(lambda: alice.room.live and alice.got("mls_sent"))
    alice.rooms.close()


async def test_a_fault_with_one_room_does_not_keep_the_others_from_being_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[str] = []
    worker = SimpleNamespace(running=False, broken=False)
    handles: dict[str, Any] = {
        name: SimpleNamespace(jid=name, lost=RoomLost(name, "banned"), worker=worker) for name in ("a", "b", "c")
    }

    async def enter(handle: Any) -> bool:
        tried.append(handle.jid)
        if handle.jid != "b":
            raise ZeroDivisionError(handle.jid)
        return True

    rooms = LostRooms(lambda: handles, enter, lambda: 1000.0)
    with pytest.raises(ZeroDivisionError, match="a"):
        await rooms.try_again(new_session=True)
    assert tried == ["a", "b", "c"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]  # of the last
