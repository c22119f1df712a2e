"""Waiting for what happens in a room: it ends, whoever decides what happens there."""

from __future__ import annotations

import asyncio

import pytest

from slixmpp_mls.rooms.engine import progress

from ..client.people import three
from .people import Parts


async def test_waiting_for_an_epoch_ends_however_busy_the_room_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can name an epoch that will never come, and keep the room busy meanwhile."""
    monkeypatch.setattr(progress, "_COMMIT_ARRIVES", 0.05)
    _, alice, _, _ = three()
    parts = Parts(alice)
    waiting = asyncio.create_task(parts.progress.reach(2**64 - 1))

    async def talk() -> None:
        while True:
            await asyncio.sleep(0.001)
            parts.progress.notify()

    talking = asyncio.create_task(talk())
    await asyncio.wait_for(waiting, 120)
    talking.cancel()


async def test_waiting_for_an_epoch_ends_however_many_come_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LONGEST", 0.05)
    world, alice, bob, _ = three()
    parts = Parts(alice)
    waiting = asyncio.create_task(parts.progress.reach(2**64 - 1))
    begun = bob.epoch
    while not waiting.done():
        bob.commit()
        world.settle()
        parts.progress.notify()
        await asyncio.sleep(0.001)
        assert bob.epoch < begun + 1000
    await waiting
