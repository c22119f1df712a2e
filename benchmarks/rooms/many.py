"""One client in many rooms: how long it takes to start, what it takes up, and what it costs to do nothing."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slixmpp_mls.delivery.room import PING_INTERVAL
from slixmpp_mls.devserver import DevServer

from .crew import Crew

__all__ = ["ManyRooms", "many_rooms"]

_AFTERMATH = 5.0  # seconds, in which what was handed over is forgotten, and used KeyPackages are replaced
_IDLE = 10.0  # seconds


@dataclass(frozen=True)
class ManyRooms:
    """One start of a client in many rooms.

    :ivar messages: said in all rooms together while it was away
    :ivar ready: seconds from connecting until all rooms are entered
    :ivar live: seconds from connecting until all archives are read
    :ivar memory: megabytes of the process, and (`empty`) before it was in any room
    :ivar idle: seconds of processor time per second, with nothing going on
    :ivar tasks: asyncio's
    :ivar pings: self-pings (XEP-0410) per minute, in silence
    """

    rooms: int
    messages: int
    ready: float
    live: float
    memory: float
    empty: float
    idle: float
    tasks: int
    pings: float


async def many_rooms(server: DevServer, rooms: int, *, each: int, progress: Callable[[str], None]) -> ManyRooms:
    """One says something in every room while the other one is away.

    :param each: messages in each room
    """
    with tempfile.TemporaryDirectory() as folder:
        async with await Crew.gather(server, 2, Path(folder)) as crew:
            speaker, other = crew.members
            empty = await other.do("cost")
            names = [f"many-{uuid.uuid4().hex[:8]}@{server.rooms}" for _ in range(rooms)]
            for number, room in enumerate(names):
                progress(f"making rooms: {number} of {rooms}")
                await speaker.do("create", room=room, accounts=[other.account])
                await other.do("enter", room=room)
            await other.do("logout")
            progress(f"talking in {rooms} rooms")
            for room in names:
                await speaker.do("talk", room=room, count=each, size=100, window=each, pause=0)
            await other.process.end()  # what a process has had in its memory once is not given back
            await other.process.start()
            progress(f"starting in {rooms} rooms")
            times = await crew.log_in(other)
            await other.do("hear", count=rooms * each)
            await asyncio.sleep(_AFTERMATH)
            before = await other.do("cost")
            progress("idling")
            await asyncio.sleep(_IDLE)
            after = await other.do("cost")
            return ManyRooms(
                rooms=rooms,
                messages=rooms * each,
                ready=times["ready"],
                live=times["live"],
                memory=after["memory"],
                empty=empty["memory"],
                idle=(after["cpu"] - before["cpu"]) / _IDLE,
                tasks=await other.do("tasks"),
                pings=rooms * 60 / (0.9 * PING_INTERVAL),
            )
