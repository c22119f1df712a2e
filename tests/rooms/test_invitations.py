"""Invitations: what a stranger's cost us, and what is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.delivery.archive import Entry, Page
from slixmpp_mls.delivery.invitation import invitation
from slixmpp_mls.delivery.muc_config import MUC
from slixmpp_mls.delivery.stream import Stream
from slixmpp_mls.errors import ArchiveGap, Disconnected, NoAnswer, NotPermitted, StoreError
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.rooms import invitation_queue, invitations
from slixmpp_mls.rooms.invitation_queue import (
    BURST,
    EXPIRY,
    MAX_IN_VAIN,
    MAX_WAITING,
    OF_ONE_SERVER,
    PARALLEL,
    SETTLED_FOR,
    SPACE,
    InvitationQueue,
    InvitationRecord,
)
from slixmpp_mls.rooms.registry import Expected
from slixmpp_mls.runtime import Tasks
from slixmpp_mls.stanza import Invitation
from slixmpp_mls.store import MemoryStore, Store, Transaction

from .people import Bot, soon, until

STRANGER = "mallory@m.example"
GROUP = b"the group"


class World:
    """Rooms, a clock, and what was done."""

    def __init__(self) -> None:
        self.now = 1_800_000_000
        self.asked: list[str] = []
        self.entered: list[tuple[str, str | None]] = []
        self.no_rooms: set[str] = set()
        self.silent = False
        self.online = True
        self.refuses = False
        self.joins = True
        self.read: set[str] = set()
        self.answer = asyncio.Event()
        self.answer.set()
        self.under_way = self.most = 0
        self.store_failures: list[StoreError] = []

    async def is_room(self, room: str) -> bool:
        self.asked.append(room)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.answer.wait()
        finally:
            self.under_way -= 1
        if not self.online:
            raise Disconnected(room)
        if self.silent:
            raise NoAnswer(room)
        return room not in self.no_rooms

    async def follow(self, room: str, inviter: str, after: str | None, group: bytes) -> None:
        assert group in (GROUP, b"")
        if self.refuses:
            raise NotPermitted(room)
        self.entered.append((room, after))
        if self.joins:
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
            is_settled=self.read.__contains__,
            is_online=lambda: self.online,
            now=lambda: self.now,
            store_failed=self.store_failures.append,
        )
        yield queue
        await asyncio.gather(*tasks.cancel(), return_exceptions=True)
        assert not errors


async def test_a_room_is_followed_from_the_place_that_is_named() -> None:
    world = World()
    async with world.queue() as queue:
        queue.start()
        assert queue.add("r@rooms.example", STRANGER, "x1", GROUP)
        await until(lambda: not queue.waiting())
        assert world.entered == [("r@rooms.example", "x1")]


async def test_the_inviters_of_one_server_do_not_take_all_attempts() -> None:
    """Their rooms answer as slowly as they may: somebody else's invitation is followed meanwhile."""
    world = World()
    world.answer.clear()
    async with world.queue() as queue:
        for number in range(20):
            assert queue.add(f"r{number}@rooms.m.example", f"mallory{number}@m.example", None, GROUP)
        queue.start()
        await until(lambda: world.under_way)
        await soon()
        assert world.under_way == OF_ONE_SERVER
        assert queue.add("coven@rooms.example", "alice@a.example", None, GROUP)
        await until(lambda: "coven@rooms.example" in world.asked)
        assert world.under_way == OF_ONE_SERVER + 1
        world.answer.set()
        await until(lambda: not queue.waiting())
        assert world.most <= PARALLEL


async def test_what_is_no_room_gets_no_presence() -> None:
    """XEP-0045 6.2: an inviter must not make us send presence to whomever it likes."""
    world = World()
    world.no_rooms.add("victim@v.example")
    async with world.queue() as queue:
        queue.start()
        queue.add("victim@v.example", STRANGER, None, GROUP)
        await until(lambda: not queue.waiting())
        assert world.asked == ["victim@v.example"]
        assert world.entered == []


async def test_one_attempt_at_a_time_for_each_inviter_and_few_in_all() -> None:
    world = World()
    world.answer.clear()
    async with world.queue() as queue:
        queue.start()
        for number in range(5):
            queue.add(f"r{number}@rooms.example", STRANGER, None, GROUP)
        await soon()
        assert world.asked == ["r0@rooms.example"]
        for number in range(10):
            queue.add(f"s{number}@rooms.example", f"other@m{number}.example", None, GROUP)
        await soon()
        world.answer.set()
        await until(lambda: not queue.waiting())
        assert len(world.entered) == 15
        assert world.most == 4


async def test_pauses_grow_survive_restarts_and_end() -> None:
    world, store = World(), MemoryStore("bot@b.example")
    world.silent = True
    async with world.queue(store) as queue:
        queue.add("r@rooms.example", STRANGER, None, GROUP)
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
            due = waiting["r@rooms.example", STRANGER].due
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
        queue.add("r@rooms.example", STRANGER, None, GROUP)
        await until(
            lambda: world.asked and queue.waiting()["r@rooms.example", STRANGER].attempts == 1 and not queue._under_way
        )
        world.refuses = False
        world.now += 60
        queue._news.set()
        await until(lambda: world.entered)


async def test_an_inviters_many_rooms_are_all_followed() -> None:
    """Somebody adds a bot that is offline to all its rooms; when it comes, it reads of all of them at once."""
    world, rooms = World(), [f"r{number}@rooms.example" for number in range(100)]
    async with world.queue() as queue:
        for room in rooms:
            assert queue.add(room, "admin@a.example", "x1", GROUP)
        queue.start()
        await until(lambda: not queue.waiting())
        assert world.entered == [(room, "x1") for room in rooms]
        assert world.most == 1


async def test_further_invitations_of_who_has_invited_in_vain_wait() -> None:
    """Made-up addresses without number are not asked one after the other; an honest inviter's service comes back."""
    world, store = World(), MemoryStore("bot@b.example")
    world.silent = True
    async with world.queue(store) as queue:
        for number in range(50):
            queue.add(f"r{number}@no-such-host-{number}.invalid", STRANGER, None, GROUP)
        queue.start()
        await until(lambda: len(world.asked) == MAX_IN_VAIN and not queue._under_way)
        await soon()
        assert len(world.asked) == MAX_IN_VAIN
        assert queue.add("coven@rooms.example", "alice@a.example", None, GROUP)
        await until(lambda: "coven@rooms.example" in world.asked)
    async with world.queue(store) as queue:  # nor after a restart
        queue.start()
        await soon()
        assert len(world.asked) == MAX_IN_VAIN + 1
        world.silent = False
        world.now += 60
        queue._news.set()
        await until(lambda: not queue.waiting())
        assert len(world.entered) == 51


async def test_inviters_take_turns() -> None:
    """Whoever has invited to many rooms, from several accounts, does not keep others waiting until all are read."""
    world = World()
    async with world.queue() as queue:
        for number in range(50):
            for sender in range(8):
                queue.add(f"r{number}-{sender}@rooms.example", f"mallory{sender}@m.example", None, GROUP)
        queue.add("coven@rooms.example", "alice@a.example", None, GROUP)
        queue.start()
        await until(lambda: not queue.waiting())
        assert world.asked.index("coven@rooms.example") <= 8


async def test_a_flood_displaces_nobody_elses_invitation() -> None:
    world, store = World(), MemoryStore("bot@b.example")
    async with world.queue(store) as queue:
        queue.add("coven@rooms.example", "alice@a.example", None, GROUP)
        for number in range(MAX_WAITING + 5):
            world.now += 1
            assert queue.add(f"r{number}@rooms.example", f"mallory{number % 3}@m.example", None, GROUP)
        assert len(queue.waiting()) == MAX_WAITING
        assert ("coven@rooms.example", "alice@a.example") in queue.waiting()
        assert ("r0@rooms.example", "mallory0@m.example") not in queue.waiting()
        kept = queue.waiting()
    async with world.queue(store) as queue:
        assert queue.waiting() == kept  # what is in memory is what the store has


class FullStore(MemoryStore):
    """A store that refuses everything for a while, as one on a full disk."""

    full = False

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        if self.full:
            raise StoreError("no space left")
        with super().transaction(lasting=lasting) as transaction:
            yield transaction


@pytest.mark.parametrize("when", ["before the attempt", "during the attempt", "at the end"])
async def test_a_store_that_fails_delays_an_invitation(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither lost nor tried without a pause, and the next ones are followed, too."""
    monkeypatch.setattr(invitation_queue, "_STORE_PAUSE", 0.1)
    world, store = World(), FullStore("bot@b.example")
    async with world.queue(store) as queue:
        queue.add("r@rooms.example", STRANGER, "x1", GROUP)
        if when == "before the attempt":
            store.full = True
        else:
            world.answer.clear()
        queue.start()
        if when != "before the attempt":
            await until(lambda: world.under_way)
            store.full = True
            if when == "during the attempt":
                follow = world.follow

                async def fail(room: str, inviter: str, after: str | None, group: bytes) -> None:
                    with store.transaction():
                        await follow(room, inviter, after, group)

                queue._follow = fail
            world.answer.set()
        begun = asyncio.get_running_loop().time()
        await until(lambda: len(world.store_failures) >= 3)
        assert asyncio.get_running_loop().time() - begun >= 0.2
        store.full = False
        await until(lambda: not queue.waiting())
        assert world.entered[-1] == ("r@rooms.example", "x1")
        queue.add("s@rooms.example", STRANGER, "x2", GROUP)
        await until(lambda: ("s@rooms.example", "x2") in world.entered)


async def test_an_interrupted_first_attempt_is_made_again_at_once() -> None:
    """A restart while the room is asked is no failure of the room's; but a room that ends the program has to wait."""
    world, store = World(), MemoryStore("bot@b.example")
    world.answer.clear()
    for attempt in range(1, 3):
        async with world.queue(store) as queue:
            queue.add("r@rooms.example", STRANGER, "x1", GROUP)
            queue.start()
            await until(lambda: world.under_way)
            assert len(world.asked) == attempt
    async with world.queue(store) as queue:
        queue.start()
        await soon()
        assert len(world.asked) == 2
        assert queue.waiting()["r@rooms.example", STRANGER].due == world.now + 60
        world.answer.set()
        world.now += 60
        queue._news.set()
        await until(lambda: world.entered == [("r@rooms.example", "x1")])


async def test_a_stream_that_breaks_interrupts_an_attempt_and_delays_it_no_longer() -> None:
    """Somebody adds us just before our server restarts: we follow as soon as it is back, not after a minute."""
    world = World()
    world.answer.clear()
    async with world.queue() as queue:
        queue.start()
        queue.add("r@rooms.example", STRANGER, "x1", GROUP)
        queue.add("s@rooms.example", "alice@a.example", "x2", GROUP)
        await until(lambda: world.under_way == 2)
        world.online = False
        world.answer.set()
        await until(lambda: not queue._under_way)
        await soon()
        assert len(world.asked) == 2  # nothing is tried without a stream
        assert {record.due for record in queue.waiting().values()} == {world.now}
        world.online = True
        queue.went_online()
        await until(lambda: not queue.waiting())
        assert {room for room, _ in world.entered} == {"r@rooms.example", "s@rooms.example"}


async def test_a_stream_that_breaks_again_and_again_is_no_way_to_ask_again_and_again() -> None:
    world = World()
    async with world.queue() as queue:
        queue.start()
        for _ in range(5):
            world.answer.clear()
            world.online = True
            queue.went_online()
            if not world.asked:
                queue.add("r@rooms.example", STRANGER, "x1", GROUP)
            await soon()
            world.online = False
            world.answer.set()
            await until(lambda: not queue._under_way)
        assert len(world.asked) == 2
        assert queue.waiting()["r@rooms.example", STRANGER].due == world.now + 60


async def test_invitations_of_two_inviters_are_independent() -> None:
    """A false invitation that waits for its next attempt does not delay a genuine one."""
    world = World()
    world.refuses = True
    async with world.queue() as queue:
        queue.start()
        assert queue.add("r@rooms.example", STRANGER, "x1", GROUP)
        await until(lambda: world.asked and not queue._under_way)
        world.refuses = False
        assert queue.add("r@rooms.example", "alice@a.example", "x2", GROUP)
        await until(lambda: world.entered == [("r@rooms.example", "x2")])
        await until(lambda: not queue.waiting())  # what is read already needs no other
        assert world.most == 1


async def test_a_repeated_invitation_is_followed_a_few_times_a_minute() -> None:
    world = World()
    world.refuses = True
    async with world.queue() as queue:
        queue.start()
        for number in range(5):
            assert queue.add("r@rooms.example", STRANGER, f"x{number}", GROUP)
            await until(lambda: not queue._under_way and not queue._news.is_set())
        assert len(world.asked) == BURST == 3
        ((_, record),) = queue.waiting().items()
        assert (record.after, record.due) == (b"x4", world.now + 60)
        world.now += 60
        queue._news.set()
        await until(lambda: len(world.asked) == 4 and not queue._under_way)
        await until(lambda: queue.waiting()["r@rooms.example", STRANGER].due > world.now + 60)
        world.refuses = False
        assert queue.add("r@rooms.example", STRANGER, "x5", GROUP)  # though its next attempt would be later
        await until(lambda: world.entered == [("r@rooms.example", "x5")])


async def test_an_invitation_that_is_repeated_during_its_attempt_is_not_lost() -> None:
    world = World()
    world.answer.clear()
    world.joins = False  # there is no Welcome for us yet
    async with world.queue() as queue:
        queue.start()
        queue.add("r@rooms.example", STRANGER, "x1", GROUP)
        await until(lambda: world.under_way)
        queue.add("r@rooms.example", STRANGER, "x2", GROUP)
        world.answer.set()
        await until(lambda: world.entered == [("r@rooms.example", "x1"), ("r@rooms.example", "x2")])


async def test_an_invitation_to_a_group_that_we_are_in_changes_nothing() -> None:
    world = World()
    world.read.add("r@rooms.example")
    async with world.queue() as queue:
        queue.start()
        assert queue.add("r@rooms.example", STRANGER, "x0", GROUP)
        await soon()
        assert queue.waiting()  # for our removal, which may be on its way
        world.now += SETTLED_FOR
        queue._news.set()
        await until(lambda: not queue.waiting())
        assert not world.asked


async def test_an_invitation_that_is_quicker_than_our_removal_is_followed_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """mls, "Being Invited"."""
    monkeypatch.setattr(invitation_queue, "_LOOK_AGAIN", 0.001)
    world, store = World(), MemoryStore("bot@b.example")
    world.read |= {"r@rooms.example", "s@rooms.example"}
    async with world.queue(store) as queue:
        queue.start()
        queue.add("r@rooms.example", STRANGER, "x1", GROUP)
        queue.add("s@rooms.example", "alice@a.example", "x2", GROUP)
        await soon()
        assert not world.asked
        world.read.discard("r@rooms.example")
        await until(lambda: world.entered == [("r@rooms.example", "x1")])
    world.read.discard("s@rooms.example")  # we have been removed, and restarted
    async with world.queue(store) as queue:
        world.now += SETTLED_FOR
        queue.start()
        await until(lambda: world.entered[1:] == [("s@rooms.example", "x2")])


async def test_an_invitation_that_a_store_of_0_1_keeps() -> None:
    """Its key is the room alone, and it names no group."""
    world, store = World(), MemoryStore("bot@b.example")
    with store.transaction() as transaction:
        record = InvitationRecord(STRANGER.encode(), b"x1", world.now, world.now, 0)
        transaction.put(SPACE, b"r@rooms.example", record.encode()[:-1])  # no group id: not even its length
    async with world.queue(store) as queue:
        queue.start()
        await until(lambda: world.entered == [("r@rooms.example", "x1")])
        await until(lambda: not queue.waiting())


NOW = 1_800_000_000


class Archive:
    """A room's archive: ids and times of its stanzas."""

    stanzas: ClassVar[dict[str, int]] = {}

    def __init__(self, *_: Any) -> None: ...

    async def pages(self, after: str, **_: Any) -> Any:
        if after not in self.stanzas:
            raise ArchiveGap("r@rooms.example", after)
        ids = list(self.stanzas)
        for each in ids[ids.index(after) + 1 :]:
            yield Page((Entry(each, Element("message"), datetime.fromtimestamp(self.stanzas[each], UTC)),), False)

    async def last_id(self, *, end: int | None = None) -> str | None:
        found = [each for each, time in self.stanzas.items() if end is None or time <= end]
        return found[-1] if found else None


@pytest.mark.parametrize(
    ("after", "begins"),
    [
        ("yesterday", "yesterday"),
        ("the-end", "the-end"),
        ("made-up", "the-end"),  # not the beginning
        (None, "last-month"),
        ("years-ago", "last-month"),
        ("last-month", "last-month"),
    ],
)
async def test_an_inviter_does_not_make_us_read_years(
    world: Any, monkeypatch: pytest.MonkeyPatch, after: str | None, begins: str
) -> None:
    """Of a room's archive only what can hold the Welcome is read, whatever place the invitation names, or none."""
    dave = Bot(world.person("dave@d.example"))
    world.now = NOW
    stanzas = {"years-ago": 1000, "last-month": 30, "last-week": 6, "yesterday": 1, "the-end": 0}
    monkeypatch.setattr(Archive, "stanzas", {each: NOW - days * DAY for each, days in stanzas.items()})
    followed = await followed_by(dave, world.room.jid, monkeypatch, after)
    assert followed == [(world.room.jid, begins)]
    assert not dave.failures


async def test_an_invitation_into_another_group_than_ours_is_told_once(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mls, "Being Invited": one of the two inviters leads people into a group of its own."""

    async def ready() -> None:
        pass

    monkeypatch.setattr(invitations, "Archive", Archive)
    alice, bob = world.group("alice@a.example", "bob@b.example")
    bot = Bot(bob)
    await bot.rooms.resume()
    await until(lambda: bot.room.live)
    ours = alice.group.mls.group_id
    Stream.of(bot.xmpp).online = True
    listening = invitations.Invitations(bot.xmpp, bot.context.tasks, None, ready)
    try:
        listening.begin(bot.context, bot.rooms)
        queue = listening._queue
        assert queue is not None
        for group, told in ((ours, 0), (b"another", 1), (b"another", 1), (b"a third", 2)):
            message = invitation(bot.xmpp, world.room.jid, "bob@b.example", [Invitation(group, "x1").to_stdlib()])
            message["from"] = STRANGER
            listening._received(message)
            assert queue.waiting()[world.room.jid, STRANGER].group == group
            await until(lambda number=told: len(bot.got("mls_other_group")) >= number)  # type: ignore[misc]
            await soon()
            assert len(bot.got("mls_other_group")) == told
        assert set(bot.got("mls_other_group")) == {invitations.OtherGroup(world.room.jid, STRANGER)}
        assert bot.room.group.mls.group_id == ours
    finally:
        listening.close()
        bot.rooms.close()
        await asyncio.gather(*bot.context.tasks.cancel(), return_exceptions=True)


async def test_a_young_archive_is_read_from_its_beginning(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dave = Bot(world.person("dave@d.example"))
    world.now = NOW
    monkeypatch.setattr(Archive, "stanzas", {"yesterday": NOW - DAY})
    assert await followed_by(dave, world.room.jid, monkeypatch, None) == [(world.room.jid, None)]


async def followed_by(
    dave: Bot, room: str, monkeypatch: pytest.MonkeyPatch, after: str | None
) -> list[tuple[str, str | None]]:
    """All of it, from the stream to the room; two other invitations lead to a person, and to the same room again."""
    features = {room: frozenset({MUC}), "person@p.example": frozenset({"urn:xmpp:ping"})}

    async def described(_: Any, address: str) -> frozenset[str] | None:
        return features.get(address)

    async def ready() -> None:
        pass

    followed: list[tuple[str, str | None]] = []

    async def follow(room: str, place: str | None, expected: Expected) -> None:
        assert expected == Expected(b"g", "" if after is None else STRANGER, STRANGER)
        followed.append((room, place))

    monkeypatch.setattr(invitations, "features", described)
    monkeypatch.setattr(invitations, "Archive", Archive)
    monkeypatch.setattr(dave.rooms, "follow_invitation", follow)
    Stream.of(dave.xmpp).online = True
    listening = invitations.Invitations(dave.xmpp, dave.context.tasks, None, ready)
    try:
        for address in ("person@p.example", room, room):
            message = invitation(dave.xmpp, address, "dave@d.example", [Invitation(b"g", after).to_stdlib()])
            message["from"] = STRANGER
            listening._received(message)
        listening.begin(dave.context, dave.rooms)  # those that came before are not lost
        await until(lambda: followed)
        await soon()
        assert len(dave.got("mls_invited")) == 3
    finally:
        listening.close()
        await asyncio.gather(*dave.context.tasks.cancel(), return_exceptions=True)
    return followed
