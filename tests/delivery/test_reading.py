"""The reader of a room, with an archive and an occupancy that do what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import cast
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import JID

from slixmpp_mls.delivery import live_buffer
from slixmpp_mls.delivery.archive import Archive, Entry, Page, RoomStanza, room_stanza
from slixmpp_mls.delivery.events import AttemptFailed, RoomEvent, Verified
from slixmpp_mls.delivery.occupancy import Occupancy
from slixmpp_mls.delivery.reading import Reading
from slixmpp_mls.delivery.reading_state import Place
from slixmpp_mls.delivery.stream import Stream
from slixmpp_mls.errors import DeliveryError, NoAnswer, Refused, RoomLost, UsageError

ROOM = "coven@rooms.example"


def message(number: int) -> Element:
    xml = Element("{jabber:client}message", {"from": f"{ROOM}/alice", "type": "groupchat"})
    SubElement(xml, "{urn:xmpp:mls:0}application").text = str(number)
    return xml


def live(number: int) -> RoomStanza:
    stanza = room_stanza(message(number), f"{number:04}", JID("alice@a.example"), archived=False, stamp=None)
    assert stanza is not None
    return stanza


class FakeArchive:
    """An archive in pages.  Its ids are numbers.

    :ivar lost: those that it does not show
    """

    def __init__(self, count: int = 0, page: int = 10) -> None:
        self.count = count
        self.lost: set[int] = set()
        self.page = page
        self.rounds = 0

    async def pages(self, after: str | None) -> AsyncGenerator[Page, None]:
        self.rounds += 1
        start = 0 if after is None else int(after) + 1
        while True:
            await asyncio.sleep(0)
            end = min(start + self.page, self.count)
            shown = (number for number in range(start, end) if number not in self.lost)
            entries = tuple(Entry(f"{number:04}", message(number), None) for number in shown)
            complete = end == self.count
            yield Page(entries, complete)
            if complete:
                return
            start = end


class FakeOccupancy:
    def __init__(self) -> None:
        self.inside = True
        self.lost: RoomLost | None = None
        self.entered_at: float | None = None
        self.entries = 0
        self.answer: asyncio.Future[bool] | None = None

    async def enter(self, *, create: bool = False) -> None:
        self.entries += 1
        self.inside = True

    def unreachable(self) -> None:
        self.inside = False

    async def still_inside(self) -> bool:
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer


class FakeStream:
    """:ivar reported: events of slixmpp's, oldest first"""

    online = True

    def __init__(self) -> None:
        self.reported: list[tuple[str, object]] = []
        self.xmpp = self

    def event(self, name: str, data: object) -> None:
        self.reported.append((name, data))


class Setting:
    """A reader with all that is around it."""

    def __init__(self, count: int = 0, page: int = 10) -> None:
        self.archive = FakeArchive(count, page)
        self.occupancy = FakeOccupancy()
        self.events: list[RoomEvent] = []
        self.given_up = 0
        self.stream = FakeStream()
        self.reading = Reading(
            cast(Stream, self.stream),
            ROOM,
            cast(Occupancy, self.occupancy),
            cast(Archive, self.archive),
            self.events.append,
            self._give_up,
            300.0,
        )

    def _give_up(self) -> None:
        self.given_up += 1

    def post(self, *, to_reader: bool = True) -> None:
        """One more stanza in the room, which we may never get live."""
        number = self.archive.count
        self.archive.count += 1
        if to_reader:
            self.reading.live(live(number), ambiguous=False)
            self.reading.wake()


def numbers(batch: Sequence[RoomStanza]) -> list[int]:
    return [int(stanza.archive_id) for stanza in batch]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0)


async def until_live(setting: Setting) -> None:
    await until(lambda: setting.reading.state.place is Place.LIVE)


async def until_asked(setting: Setting, *, after: object = None) -> asyncio.Future[bool]:
    """The next question whether we are in the room, to be answered by the test."""
    await until(lambda: setting.occupancy.answer is not after)
    assert setting.occupancy.answer is not None
    return setting.occupancy.answer


class Reader:
    """Reads in the background, until the room is lost or left."""

    def __init__(self, setting: Setting) -> None:
        self.heard: list[int] = []
        self.task = asyncio.create_task(self._read(setting.reading))

    async def _read(self, reading: Reading) -> None:
        async with aclosing(reading.batches()) as batches:
            async for batch in batches:
                self.heard += numbers(batch)

    async def hears(self, count: int) -> None:
        await until(lambda: len(self.heard) >= count)


async def end(setting: Setting, reader: Reader) -> None:
    setting.reading.stop()
    setting.reading.wake()
    async with asyncio.timeout(60):
        await reader.task


async def test_archive_and_live_stanzas_meet_without_gap_or_repetition() -> None:
    setting = Setting(25)
    reader = Reader(setting)
    for _ in range(30):
        setting.post()
        await asyncio.sleep(0)
    await reader.hears(55)
    assert reader.heard == list(range(55))
    await end(setting, reader)


async def test_a_live_stanza_that_the_archive_does_not_show_is_read_in_its_place() -> None:
    """It may be a Commit, which all who were there have followed."""
    setting = Setting(20)
    heard: list[int] = []
    async with asyncio.timeout(60), aclosing(setting.reading.batches()) as batches:
        async for batch in batches:
            heard += numbers(batch)
            if heard == list(range(10)):
                for _ in range(5):
                    setting.post()
                setting.archive.lost = {20, 21, 23}
            if heard[-1] == 24:
                break
    assert heard == list(range(25))
    assert setting.archive.rounds == 1


async def test_a_reader_that_goes_back_during_a_round_reads_from_there() -> None:
    setting = Setting(30)
    heard: list[int] = []
    went_back = False
    async with asyncio.timeout(60), aclosing(setting.reading.batches()) as batches:
        async for batch in batches:
            heard += numbers(batch)
            if not went_back:
                went_back = True
                setting.reading.read_again("0004")
            if heard[-1] == 29:
                break
    assert heard == [*range(10), *range(5, 30)]


async def test_an_overflow_during_a_round_makes_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_buffer, "_BUFFERED", 3)
    setting = Setting(20)
    heard: list[int] = []
    async with asyncio.timeout(60), aclosing(setting.reading.batches()) as batches:
        async for batch in batches:
            heard += numbers(batch)
            if heard[-1] == 19:
                for _ in range(8):
                    setting.post()
                assert setting.reading.state.place is Place.INCOMPLETE
                assert not setting.reading.buffer
            if heard[-1] == 27:
                break
    assert heard == list(range(28))
    assert setting.archive.rounds == 2


async def test_a_doubt_ends_when_the_archive_was_read_after_the_answer() -> None:
    setting = Setting(3)
    reader = Reader(setting)
    await reader.hears(3)
    await until_live(setting)
    setting.post(to_reader=False)  # lost on its way to us
    setting.reading.suspect()
    answer = await until_asked(setting)
    assert reader.heard == [0, 1, 2]
    assert Verified() not in setting.events
    answer.set_result(True)
    await reader.hears(4)
    assert reader.heard == [0, 1, 2, 3]
    await until(lambda: Verified() in setting.events)
    await end(setting, reader)


async def test_a_self_ping_that_fails_in_an_unexpected_way_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    reader = Reader(setting)
    await until_live(setting)
    setting.reading.suspect()
    first = await until_asked(setting)
    unexpected = ValueError("unexpected")
    first.set_exception(unexpected)
    second = await until_asked(setting, after=first)
    second.set_result(True)
    await until(lambda: Verified() in setting.events)
    assert setting.stream.reported == [("mls_failed", unexpected)]
    assert "whether we are in it failed" in caplog.text
    await end(setting, reader)


async def test_what_came_before_we_were_thrown_out_is_read_first() -> None:
    """Also when that happens during the last page of a round."""
    setting = Setting(20)
    heard: list[int] = []
    lost = RoomLost(ROOM, "not-a-member")
    with pytest.raises(RoomLost):  # noqa: PT012
        async with asyncio.timeout(60), aclosing(setting.reading.batches()) as batches:
            async for batch in batches:
                heard += numbers(batch)
                if heard[-1] == 19:
                    setting.post()
                    setting.occupancy.inside = False
                    setting.occupancy.lost = lost
    assert heard == list(range(21))
    assert setting.given_up == 1


async def test_no_surprise_in_a_destruction_of_our_own() -> None:
    setting = Setting(2)
    reader = Reader(setting)
    await reader.hears(2)
    setting.reading.state.destroy()
    setting.occupancy.inside = False
    setting.occupancy.lost = RoomLost(ROOM, "destroyed")
    setting.reading.wake()
    await asyncio.sleep(0.01)
    assert not reader.task.done()
    await end(setting, reader)
    assert setting.given_up == 0


async def test_one_reader_at_a_time() -> None:
    setting = Setting(2)
    async with aclosing(setting.reading.batches()) as batches:
        assert numbers(await anext(batches)) == [0, 1]
        with pytest.raises(UsageError):
            await anext(setting.reading.batches())
        with pytest.raises(UsageError):
            setting.reading.start(None)
    setting.reading.start("0000")
    async with aclosing(setting.reading.batches()) as batches:
        assert numbers(await anext(batches)) == [1]


@pytest.mark.parametrize("online", [True, False])
async def test_each_attempt_that_fails_is_reported_with_the_pause_until_the_next(
    monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    """While there is no stream, it is not the room that fails."""
    setting = Setting(3)
    setting.occupancy.inside = False
    errors: list[DeliveryError] = [Refused(ROOM, "remote-server-timeout"), NoAnswer("silence")]
    enter, pauses = setting.occupancy.enter, []

    async def refuse(*, create: bool = False) -> None:
        if errors:
            setting.stream.online = online
            asyncio.get_running_loop().call_soon(setattr, setting.stream, "online", True)
            raise errors.pop(0)
        await enter()

    async def wait() -> None:
        pauses.append(setting.reading._pause)
        setting.reading._pause = 0.0
        await wait_before_attempt()

    wait_before_attempt = setting.reading._wait_before_attempt
    monkeypatch.setattr(setting.occupancy, "enter", refuse)
    monkeypatch.setattr(setting.reading, "_wait_before_attempt", wait)
    reader = Reader(setting)
    while not reader.heard:
        setting.reading.wake()
        await asyncio.sleep(0)
    await reader.hears(3)
    told = [event for event in setting.events if isinstance(event, AttemptFailed)]
    assert [type(event.error) for event in told] == ([Refused, NoAnswer] if online else [])
    assert pauses[0] == 0
    assert 0 < pauses[1] <= 0.75
    assert 0.5 <= pauses[2] <= 1.5
    assert [event.pause for event in told] == (pauses[1:] if online else [])
    assert not any(event.in_room for event in told)
    await end(setting, reader)


@pytest.mark.parametrize("condition", ["remote-server-timeout", "internal-server-error"])
async def test_an_archive_that_fails_is_read_again_after_one_pause(
    monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    """Of a room that cannot be reached, too, which is entered again first: the pause that is reported is the one."""
    setting = Setting(3)
    pages, failures, pauses = setting.archive.pages, 3, list[float]()

    async def fail(after: str | None) -> AsyncGenerator[Page, None]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Refused(ROOM, condition)
        async with aclosing(pages(after)) as shown:
            async for page in shown:
                yield page

    async def wait() -> None:
        pauses.append(setting.reading._pause)
        setting.reading._pause = 0.0
        await wait_before_attempt()

    wait_before_attempt = setting.reading._wait_before_attempt
    monkeypatch.setattr(setting.archive, "pages", fail)
    monkeypatch.setattr(setting.reading, "_wait_before_attempt", wait)
    reader = Reader(setting)
    await reader.hears(3)
    told = [event for event in setting.events if isinstance(event, AttemptFailed)]
    assert [event.pause for event in told] == pauses
    assert len(pauses) == 3
    assert all(event.in_room for event in told)
    assert setting.occupancy.entries == (3 if condition == "remote-server-timeout" else 0)
    await end(setting, reader)


async def test_an_attempt_that_fails_because_we_leave_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(3)
    setting.occupancy.inside = False
    entering = asyncio.Event()

    async def refuse(*, create: bool = False) -> None:
        entering.set()
        await asyncio.sleep(0)
        raise NoAnswer("silence")

    monkeypatch.setattr(setting.occupancy, "enter", refuse)
    reader = Reader(setting)
    async with asyncio.timeout(60):
        await entering.wait()
    setting.reading.stop()
    await end(setting, reader)
    assert not any(isinstance(event, AttemptFailed) for event in setting.events)
