"""The stream of a client that is never connected."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any
from xml.etree.ElementTree import Element

import pytest
import pytest_asyncio
from slixmpp import JID

from slixmpp_mls.delivery import Stream
from slixmpp_mls.delivery import stream as stream_module
from slixmpp_mls.errors import Disconnected, NoAnswer

from ..rooms.people import until
from ..services import Recorded


@pytest.mark.parametrize("name", ["entrance", "query"])
async def test_services_are_known_while_something_is_asked_of_them(name: str) -> None:
    """Whoever invites us names one: any number of them."""
    stream = Stream.of(Recorded("bot@b.example"))
    slots: Callable[[str], asyncio.Semaphore] = getattr(stream, name)
    inside, most = 0, 0

    async def use() -> None:
        nonlocal inside, most
        async with slots("rooms.example"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(use() for _ in range(40)))
    assert most == 8
    for number in range(100):
        async with slots(f"rooms{number}.m.example"):
            pass
    gc.collect()
    assert len(stream._entrances) + len(stream._queries) == 0


class Line:
    """A connection that keeps what is written to it.

    :ivar counted: the stanzas that a filter has seen which was there first, as that of XEP-0198 is
    """

    def __init__(self) -> None:
        self.written = b""
        self.counted: list[str] = []

    def count(self, stanza: Any) -> Any:
        self.counted.append(stanza.name)
        return stanza

    def write(self, data: bytes) -> None:
        self.written += data


@pytest_asyncio.fixture
async def slow() -> AsyncIterator[tuple[Recorded, Line, asyncio.Event]]:
    """A client whose queue does not move until an event is set."""
    xmpp, line, moving = Recorded("bot@b.example"), Line(), asyncio.Event()

    async def wait(stanza: Any) -> Any:
        await moving.wait()
        return stanza

    xmpp.add_filter("out_sync", line.count)
    stream = Stream.of(xmpp)
    xmpp.add_filter("out", wait)
    xmpp.transport = line  # type: ignore[assignment]
    xmpp.event("session_start")
    stream.online = True
    queue = asyncio.create_task(xmpp.run_filters())
    yield xmpp, line, moving
    queue.cancel()


async def send_all(xmpp: Recorded) -> list[asyncio.Task[Any]]:
    """A message, a question and a presence wait in the queue; the tasks wait for the first two."""
    stream = Stream.of(xmpp)
    message = xmpp.make_message(mto=JID("coven@rooms.example"), mtype="groupchat")
    tasks = [
        asyncio.create_task(stream.write(message, 100)),
        asyncio.create_task(stream.ask("get", "rooms.example", Element("{urn:xmpp:ping}ping"))),
    ]
    stream.put(xmpp.make_presence(pto=JID("coven@rooms.example/bot")))
    await asyncio.sleep(0.01)
    return tasks


async def test_what_has_not_been_written_when_the_connection_breaks_is_not_written_to_the_next_one(
    slow: tuple[Recorded, Line, asyncio.Event],
) -> None:
    """RFC 6120 5.3.1, 6.3.1: it would go out before TLS, to a server that is not authenticated."""
    xmpp, line, moving = slow
    tasks = await send_all(xmpp)
    xmpp.event("disconnected")
    for task in tasks:
        with pytest.raises(Disconnected):
            await task
    xmpp.send(xmpp.make_message(mto=JID("friend@b.example"), mbody="of the application's"))
    xmpp.event("session_start")  # slixmpp had kept that one
    moving.set()
    await until(lambda: b"application" in line.written)
    assert line.written.count(b"<message") == 1
    assert b"rooms.example" not in line.written
    assert line.counted == ["message"]


async def test_what_waits_in_the_queue_is_written(slow: tuple[Recorded, Line, asyncio.Event]) -> None:
    xmpp, line, moving = slow
    message, question = await send_all(xmpp)
    assert not line.written
    moving.set()
    await message
    await until(lambda: b"<iq" in line.written)  # the last one
    assert [line.written.count(each) for each in (b"<message", b"<iq", b"<presence")] == [1, 1, 1]
    question.cancel()


async def test_what_a_cancelled_task_had_to_say_is_written(slow: tuple[Recorded, Line, asyncio.Event]) -> None:
    """A message is in the outbox: giving up waiting does not undo it."""
    xmpp, line, moving = slow
    tasks = await send_all(xmpp)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    moving.set()
    await until(lambda: b"<presence" in line.written and b"<iq" in line.written)
    assert line.counted.count("message") == 1


async def test_a_message_that_was_given_up_is_not_written(
    slow: tuple[Recorded, Line, asyncio.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """XEP-0198 4: nor is it counted, or the server's count would never come up to ours."""
    xmpp, line, moving = slow
    monkeypatch.setattr(stream_module, "TIMEOUT", 0.01)
    message, question = await send_all(xmpp)
    for task in (message, question):
        with pytest.raises(NoAnswer):
            await task
    moving.set()
    await until(lambda: b"<presence" in line.written)  # behind them
    assert (b"<message" in line.written, b"<iq" in line.written) == (False, False)
    assert line.counted == ["presence"]
