"""Background tasks: no exception is lost, and each is reported once."""

from __future__ import annotations

import asyncio
import gc

import pytest

from slixmpp_mls.errors import DeliveryError, Disconnected, InvalidError, MLSError, NoAnswer, StoreFull, UsageError
from slixmpp_mls.runtime.tasks import UNREACHABLE, Tasks


class Foreign(Exception):
    """Of no class that the package knows."""


@pytest.mark.parametrize(
    "error",
    [
        UsageError("x"), InvalidError("x"), StoreFull("x"), DeliveryError("x"), Disconnected("x"), NoAnswer("x"),
        MLSError("x"), ValueError("x"), TimeoutError("x"), KeyError("x"), Foreign("x"),
        ExceptionGroup("x", [OSError()]),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
async def test_an_exception_of_any_class_is_reported_once(error: Exception) -> None:
    reported: list[Exception] = []
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    tasks = Tasks(reported.append)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    task = tasks.spawn(fail(), "failing")
    await asyncio.wait([task])
    assert reported == [error]
    assert task.exception() is None
    del task
    gc.collect()  # asyncio tells of an exception that nobody has fetched when the task is deleted
    assert lost == []


async def test_what_passes_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    reported: list[Exception] = []
    tasks = Tasks(reported.append)

    async def fail(error: Exception) -> None:
        raise error

    with caplog.at_level("INFO", logger="slixmpp_mls.runtime.tasks"):
        await tasks.spawn(fail(Disconnected("the stream is closed")), "replenishing", passing=UNREACHABLE)
    assert reported == []
    assert "replenishing is put off: the stream is closed" in caplog.text
    refused = DeliveryError("refused")
    await tasks.spawn(fail(refused), "replenishing", passing=UNREACHABLE)
    assert reported == [refused]


async def test_what_raises_in_a_report_does_not_end_other_tasks() -> None:
    tasks = Tasks(lambda error: None)
    done = asyncio.Event()

    async def fail() -> None:
        raise ValueError

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    await asyncio.gather(tasks.spawn(fail(), "failing"), tasks.spawn(work(), "working"))
    assert done.is_set()


async def test_cancelling_ends_all_but_the_task_that_asks() -> None:
    reported: list[Exception] = []
    tasks = Tasks(reported.append)
    ended: list[str] = []
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waiting")

    async def stop() -> list[asyncio.Task[None]]:
        await begun.wait()
        cancelled = tasks.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        ended.append("stopping")
        return cancelled

    waiting = tasks.spawn(wait(), "waiting")
    await tasks.spawn(stop(), "stopping")
    assert waiting.cancelled()
    assert ended == ["waiting", "stopping"]
    assert reported == []
    await asyncio.sleep(0)
    assert tasks.cancel() == []


@pytest.mark.filterwarnings("error")
async def test_work_that_is_cancelled_before_it_begins_is_closed() -> None:
    tasks = Tasks(lambda error: None)

    async def never() -> None:
        raise AssertionError

    work = never()
    (task,) = (tasks.spawn(work, "never"),)
    tasks.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        work.send(None)
    gc.collect()


async def test_a_rooms_tasks_report_to_the_same_place_and_end_on_their_own() -> None:
    reported: list[Exception] = []
    tasks = Tasks(reported.append)
    room = tasks.of("coven@rooms.example")
    error = InvalidError("x")

    async def fail() -> None:
        raise error

    async def wait() -> None:
        await asyncio.Event().wait()

    outer, inner = tasks.spawn(wait(), "outer"), room.spawn(wait(), "inner")
    assert inner.get_name() == "mls coven@rooms.example: inner"
    await room.spawn(fail(), "failing")
    assert reported == [error]
    await asyncio.gather(*room.cancel(), return_exceptions=True)
    assert inner.cancelled()
    assert not outer.done()
    tasks.cancel()


def test_cancelling_needs_no_event_loop() -> None:
    assert Tasks(lambda error: None).cancel() == []
