"""Invitations: what a stranger's cost us, and what is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from slixmpp_mls.delivery.invitation import invitation
from slixmpp_mls.delivery.muc_config import MUC
from slixmpp_mls.errors import ArchiveGap, NoAnswer, NotPermitted
from slixmpp_mls.rooms import invitations
from slixmpp_mls.rooms.invitation_queue import EXPIRY, MAX_OF_ONE, MAX_WAITING, InvitationQueue
from slixmpp_mls.runtime import Tasks
from slixmpp_mls.stanza import Invitation
from slixmpp_mls.store import MemoryStore, Store

from .people import Bot, soon, until

STRANGER = "mallory@m.example"


class World:
    """Rooms, a clock, and what was done."""

    def __init__(self) -> None:
        self.now = 1_800_000_000
        self.asked: list[str] = []
        self.entered: list[tuple[str, str | None]] = []
        self.no_rooms: set[str] = set()
        self.silent = False
        self.refuses = False
        self.read: set[str] = set()
        self.answer = asyncio.Event()
        self.answer.set()
        self.under_way = self.most = 0

    async def is_room(self, room: str) -> bool:
        self.asked.append(room)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.answer.wait()
        finally:
            self.under_way -= 1
        if self.silent:
            raise NoAnswer(room)
        return room not in self.no_rooms

    async def follow(self, room: str, after: str | None) -> None:
        if self.refuses:
            raise NotPermitted(room)
        self.entered.append((room, after))
        self.read.add(room)

    @asynccontextmanager
    async def queue(self, store: Store | None = None) -> AsyncIterator[InvitationQueue]:
        errors: list[Exception] = []
        tasks = Tasks(errors.append)
        queue = InvitationQueue(
            store or MemoryStore("bot@b.example"),
            tasks,
            is_room=self.is_room,
            follow=self.follow,
            is_read=self.read.__contains__,
            now=lambda: self.now,
        )
        yield queue
        await asyncio.gather(*tasks.cancel(), return_exceptions=True)
        assert not errors


async def test_a_room_is_followed_from_the_place_that_is_named() -> None:
    world = World()
    async with world.queue() as queue:
        queue.start()
        assert queue.add("r@rooms.example", STRANGER, "x1")
        await until(lambda: not queue.waiting())
        assert world.entered == [("r@rooms.example", "x1")]


async def test_what_is_no_room_gets_no_presence() -> None:
    """XEP-0045 6.2: an inviter must not make us send presence to whomever it likes."""
    world = World()
    world.no_rooms.add("victim@v.example")
    async with world.queue() as queue:
        queue.start()
        queue.add("victim@v.example", STRANGER, None)
        await until(lambda: not queue.waiting())
        assert world.asked == ["victim@v.example"]
        assert world.entered == []


async def test_one_attempt_at_a_time_for_each_inviter_and_few_in_all() -> None:
    world = World()
    world.answer.clear()
    async with world.queue() as queue:
        queue.start()
        for number in range(5):
            queue.add(f"r{number}@rooms.example", STRANGER, None)
        await soon()
        assert world.asked == ["r0@rooms.example"]
        for number in range(10):
            queue.add(f"s{number}@rooms.example", f"other{number}@m.example", None)
        await soon()
        world.answer.set()
        await until(lambda: not queue.waiting())
        assert len(world.entered) == 15
        assert world.most == 4


async def test_pauses_grow_survive_restarts_and_end() -> None:
    world, store = World(), MemoryStore("bot@b.example")
    world.silent = True
    async with world.queue(store) as queue:
        queue.add("r@rooms.example", STRANGER, None)
        queue.start()
        await until(lambda: len(world.asked) == 1 and not world.under_way)
        await soon()
    pauses = []
    while True:
        async with world.queue(store) as queue:
            queue.start()
            await soon()
            waiting = queue.waiting()
            if not waiting:
                break
            due = waiting["r@rooms.example"].due
            assert due > world.now  # a restart alone asks nobody
        pauses.append(due - world.now)
        world.now = due
    assert pauses[:4] == [60, 240, 960, 3840]
    assert max(pauses) == 86400
    assert sum(pauses) <= EXPIRY + 86400
    assert len(world.asked) == len(pauses) < 20


async def test_a_room_that_does_not_let_us_in_yet_is_tried_again() -> None:
    world = World()
    world.refuses = True
    async with world.queue() as queue:
        queue.start()
        queue.add("r@rooms.example", STRANGER, None)
        await until(lambda: world.asked and queue.waiting()["r@rooms.example"].attempts == 1 and not queue._under_way)
        world.refuses = False
        world.now += 60
        queue._news.set()
        await until(lambda: world.entered)


async def test_limits_for_each_inviter_and_in_all() -> None:
    world = World()
    async with world.queue() as queue:
        taken = [queue.add(f"r{number}@rooms.example", STRANGER, None) for number in range(50)]
        assert sum(taken) == MAX_OF_ONE == len(queue.waiting())
        for number in range(100):
            world.now += 1
            assert queue.add(f"s{number}@rooms.example", f"other{number}@m.example", None)
        assert len(queue.waiting()) == MAX_WAITING
        assert "s99@rooms.example" in queue.waiting()


async def test_repeated_invitations_change_nothing() -> None:
    world = World()
    async with world.queue() as queue:
        assert queue.add("r@rooms.example", STRANGER, "x1")
        before = queue.waiting()
        assert not queue.add("r@rooms.example", "other@m.example", "x2")
        assert queue.waiting() == before
        queue.start()
        await until(lambda: world.entered)
        await soon()
        assert not queue.add("r@rooms.example", STRANGER, "x0")  # it is being read
        assert not queue.waiting()


async def test_an_invitation_from_the_stream_to_the_room(world: Any, monkeypatch: Any) -> None:
    """All of it, with a place that the room's archive does not know: it is not read from the beginning."""
    dave = Bot(world.person("dave@d.example"))
    features = {world.room.jid: frozenset({MUC}), "person@p.example": frozenset({"urn:xmpp:ping"})}

    async def described(_: Any, address: str) -> frozenset[str] | None:
        return features.get(address)

    class Archive:
        def __init__(self, *_: Any) -> None: ...

        async def pages(self, after: str, **_: Any) -> Any:
            raise ArchiveGap(world.room.jid, after)
            yield

        async def last_id(self) -> str:
            return "the-end"

    async def ready() -> None:
        pass

    followed: list[tuple[str, str | None]] = []

    async def follow(room: str, after: str | None) -> None:
        followed.append((room, after))

    monkeypatch.setattr(invitations, "features", described)
    monkeypatch.setattr(invitations, "Archive", Archive)
    monkeypatch.setattr(dave.rooms, "follow", follow)
    listening = invitations.Invitations(dave.xmpp, dave.context.tasks, None, ready)
    try:
        for room in ("person@p.example", world.room.jid, world.room.jid):
            message = invitation(dave.xmpp, room, "dave@d.example", [Invitation(b"g", "made-up").to_stdlib()])
            message["from"] = STRANGER
            listening._received(message)
        listening.begin(dave.context, dave.rooms)  # those that came before are not lost
        await until(lambda: followed)
        await soon()
        assert followed == [(world.room.jid, "the-end")]
        assert len(dave.got("mls_invited")) == 3
    finally:
        listening.close()
        await asyncio.gather(*dave.context.tasks.cancel(), return_exceptions=True)
    assert not dave.errors
