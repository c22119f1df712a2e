"""Throughput and latency of one room, encrypted and plain, in turns.

Two cases.  *All here*: every occupant is a real client, and all share this machine with the server; what is
measured is mostly how much work all of them have together.  *Two here*: two occupants are real clients, the others
are connections from which the server's octets are taken and thrown away, as if the clients behind them were on
machines of their own.  That is what users have; the server has the same work in both cases.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slixmpp_mls.devserver import DevServer

from .crew import Crew, server_seconds

__all__ = ["Talk", "talk"]

_SENDERS = 5  # at most; each with some messages on their way
_WINDOW = 8
_SIZE = 100  # characters
_PROCESSES = 10  # for each kind of client; more clients share them
_PAUSE = 0.02  # seconds, at least, between two messages when latency is measured
_SHARE = 1 / 3  # of what the room carries at most, then: no message waits for others


@dataclass(frozen=True)
class Talk:
    """One kind of client at one size; medians over the rounds.

    :ivar here: how many of the occupants are real clients
    :ivar rate: messages per second through the room, until the last occupant had the last one
    :ivar delivery_cpu: seconds of processor time of the real clients, for one message to one of them
    :ivar server_cpu: seconds of the server's processor time for one message
    :ivar median: of the time from sending to hearing at a low rate, seconds
    :ivar high: its 99th percentile
    """

    occupants: int
    here: int
    encrypted: bool
    rate: float
    delivery_cpu: float
    server_cpu: float
    median: float
    high: float


@dataclass
class _Round:
    rate: float
    delivery_cpu: float
    server_cpu: float


async def talk(
    server: DevServer, occupants: int, here: int, *, messages: int, rounds: int, progress: Callable[[str], None]
) -> tuple[Talk, Talk, float]:
    """Both kinds of clients in rooms of their own on one server, in turns.

    :param here: how many of the occupants are real clients
    :param messages: in each round
    :returns: plain, encrypted, and the median over the rounds of encrypted throughput to plain
    """
    with tempfile.TemporaryDirectory() as folder:
        progress(f"{occupants} occupants, {here} here: starting {2 * occupants} clients")
        async with (
            await Crew.gather(server, here, Path(folder), processes=_PROCESSES) as encrypted,
            await Crew.gather(server, here, None, processes=_PROCESSES) as plain,
            await Crew.gather(server, 2 * (occupants - here), None, processes=2) as distant,
        ):
            rooms = [f"bench-{uuid.uuid4().hex[:8]}@{server.rooms}" for _ in range(2)]
            pairs = list(zip((plain, encrypted), rooms, strict=True))
            host = encrypted.members[0]
            await host.do("prepare", room=rooms[0], accounts=[*plain.accounts, *distant.accounts])
            await host.do("create", room=rooms[1], accounts=list(encrypted.accounts[1:]))
            await host.do("let_in", room=rooms[1], accounts=list(distant.accounts))
            await asyncio.gather(
                *(member.do("enter", room=rooms[number % 2]) for number, member in enumerate(distant.members))
            )
            await distant.all("listen_no_more")
            for crew, room in pairs:
                await crew.all("enter", room=room)
                await _round(crew, room, messages // 10 + 1)  # first messages open ratchets and caches
            done: list[list[_Round]] = [[], []]
            delays: list[list[float]] = [[], []]
            for number in range(rounds):
                progress(f"{occupants} occupants, {here} here: round {number + 1} of {rounds}")
                # Each round begins with the other kind, so that a machine that gets slower favours neither.
                for kind in (0, 1) if number % 2 else (1, 0):
                    done[kind].append(await _round(*pairs[kind], messages))
                pause = max(_PAUSE, 1 / (_SHARE * min(each.rate for rounds in done for each in rounds)))
                for kind in (0, 1):
                    delays[kind] += await _latency(*pairs[kind], min(messages, 100), pause)
    found = [_summary(occupants, here, kind == 1, done[kind], delays[kind]) for kind in (0, 1)]
    ratio = statistics.median(b.rate / a.rate for a, b in zip(*done, strict=True))
    return found[0], found[1], ratio


async def _round(crew: Crew, room: str, messages: int) -> _Round:
    senders = crew.members[:_SENDERS]
    share = -(-messages // len(senders))
    total = share * len(senders)
    await crew.all("reset")
    loop = asyncio.get_running_loop()
    cpu, server_cpu, begun = await crew.cpu(), server_seconds(crew.server), loop.time()
    talking = [
        asyncio.create_task(member.do("talk", room=room, count=share, size=_SIZE, window=_WINDOW, pause=0))
        for member in senders
    ]
    heard = await asyncio.gather(
        *(member.do("hear", count=total - (share if member in senders else 0)) for member in crew.members)
    )
    await asyncio.gather(*talking)
    taken = max(each["last"] for each in heard) - begun  # loop.time() is CLOCK_MONOTONIC, too
    cpu, server_cpu = await crew.cpu() - cpu, server_seconds(crew.server) - server_cpu
    return _Round(total / taken, cpu / (total * len(crew.members)), server_cpu / total)


async def _latency(crew: Crew, room: str, messages: int, pause: float) -> list[float]:
    """One member speaks now and then, all others listen."""
    await crew.all("reset")
    speaker, *others = crew.members
    talking = asyncio.create_task(
        speaker.do("talk", room=room, count=messages, size=_SIZE, window=messages, pause=pause)
    )
    heard = await asyncio.gather(*(member.do("hear", count=messages) for member in others))
    await talking
    return [delay for each in heard for delay in each["delays"]]


def _summary(occupants: int, here: int, encrypted: bool, rounds: list[_Round], delays: list[float]) -> Talk:
    delays = sorted(delays)
    return Talk(
        occupants=occupants,
        here=here,
        encrypted=encrypted,
        rate=statistics.median(each.rate for each in rounds),
        delivery_cpu=statistics.median(each.delivery_cpu for each in rounds),
        server_cpu=statistics.median(each.server_cpu for each in rounds),
        median=delays[len(delays) // 2],
        high=delays[min(len(delays) - 1, len(delays) * 99 // 100)],
    )
