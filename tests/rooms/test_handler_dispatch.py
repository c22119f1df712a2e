"""When a message counts as handed over to the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from slixmpp import ClientXMPP

from slixmpp_mls.rooms.engine.handler_dispatch import dispatch


class Application:
    """Handlers of one event, and what they did."""

    def __init__(self) -> None:
        self.xmpp = ClientXMPP("witch@example", "")
        self.did: list[str] = []
        self.done = 0
        self.gate = asyncio.Event()

    def handler(self, handler: Callable[[Any], Any]) -> None:
        self.xmpp.add_event_handler("said", handler)

    def give(self, data: object = None) -> None:
        def done() -> None:
            self.done += 1

        dispatch(self.xmpp, "said", data, done)

    async def waiting(self, data: Any) -> None:
        await self.gate.wait()
        self.did.append(f"waited {data}")


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_with_plain_handlers_at_once() -> None:
    bot = Application()
    bot.handler(lambda data: bot.did.append(f"{data} {bot.done}"))
    bot.handler(lambda data: bot.did.append(f"{data} {bot.done}"))
    bot.give("x")
    assert (bot.did, bot.done) == (["x 0", "x 0"], 1)


async def test_without_handlers_at_once() -> None:
    bot = Application()
    bot.give()
    assert bot.done == 1


async def test_with_coroutine_handlers_when_the_last_has_ended() -> None:
    bot = Application()

    async def quick(_: object) -> None:
        bot.did.append("quick")

    bot.handler(bot.waiting)
    bot.handler(quick)
    bot.give("a")
    bot.give("b")
    await turns()
    assert (bot.did, bot.done) == (["quick", "quick"], 0)
    bot.gate.set()
    await turns()
    assert (bot.did[2:], bot.done) == (["waited a", "waited b"], 2)


async def test_a_task_that_a_plain_handler_begins_counts() -> None:
    bot = Application()
    tasks = []
    bot.handler(lambda data: tasks.append(asyncio.create_task(bot.waiting(data), name="mine")))
    bot.give()
    await turns()
    assert bot.done == 0
    assert tasks[0].get_name() == "mine"
    bot.gate.set()
    await turns()
    assert bot.done == 1


async def test_a_handler_that_raises_has_had_its_chance() -> None:
    bot = Application()
    raised: list[Exception] = []
    bot.xmpp.exception = raised.append  # type: ignore[method-assign]  # slixmpp's hook

    async def fails(_: object) -> None:
        raise ValueError("coroutine")

    def fails_at_once(_: object) -> None:
        raise ValueError("plain")

    bot.handler(fails)
    bot.handler(fails_at_once)
    bot.give()
    await turns()
    assert bot.done == 1
    assert sorted(map(str, raised)) == ["coroutine", "plain"]


async def test_a_handler_that_is_cancelled_has_not() -> None:
    bot = Application()
    tasks = []
    bot.handler(lambda data: tasks.append(asyncio.create_task(bot.waiting(data))))
    bot.handler(bot.waiting)
    bot.give()
    tasks[0].cancel()
    bot.gate.set()
    await turns()
    assert (bot.did, bot.done) == (["waited None"], 0)


@pytest.mark.parametrize("composed", [False, True])
async def test_tasks_are_made_as_before(composed: bool) -> None:
    """Whatever factory the program has set is used, and is there again afterwards."""
    loop = asyncio.get_running_loop()
    bot = Application()
    bot.handler(bot.waiting)
    bot.gate.set()
    made: list[Coroutine[Any, Any, Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    own = factory if composed else None
    loop.set_task_factory(own)
    try:
        bot.give()
        assert loop.get_task_factory() is own
        await turns()
    finally:
        loop.set_task_factory(None)
    assert bot.done == 1
    assert len(made) == composed
