"""The stream of a client that is never connected."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from slixmpp_mls.delivery import Stream

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
