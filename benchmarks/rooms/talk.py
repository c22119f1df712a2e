"""Throughput and latency of one room: plain, encrypted and, for comparison, with slixmpp-omemo, in turns.

Two cases.  *All here*: every occupant is a real client, and all share this machine with the server; what is
measured is mostly how much work all of them have together.  *Two here*: two occupants are real clients, the others
are connections from which the server's octets are taken and thrown away, and confirmed (XEP-0198), as if the clients
behind them were on machines of their own.  That is what users have; the server has the same work in both cases.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
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
    :ivar kind: "plain", "encrypted" (by this project) or "OMEMO"
    :ivar share: median over the rounds of this throughput to that of plain; 1 for plain
    :ivar rate: messages per second through the room, until the last occupant had the last one
    :ivar delivery_cpu: seconds of processor time of the real clients, for one message to one of them
    :ivar server_cpu: seconds of the server's processor time for one message
    :ivar median: of the time from sending to hearing at a low rate, seconds
    :ivar high: its 99th percentile
    """

    occupants: int
    here: int
    kind: str
    rate: float
    delivery_cpu: float
    server_cpu: float
    median: float
    high: float
    share: float = 1.0


@dataclass
class _Round:
    rate: float
    delivery_cpu: float
    server_cpu: float


async def talk(
    server: DevServer,
    occupants: int,
    here: int,
    *,
    messages: int,
    rounds: int,
    progress: Callable[[str], None],
    omemo: bool = False,
    suite: int = 1,
) -> list[Talk]:
    """All kinds of clients in rooms of their own on one server, in turns.

    :param here: how many of the occupants are real clients
    :param messages: in each round
    :param omemo: also clients with slixmpp-omemo, if all occupants are here
    :param suite: the cipher suite of the encrypted room
    :returns: plain, encrypted, and perhaps OMEMO
    """
    kinds = ["plain", "encrypted", *(["OMEMO"] if omemo and here == occupants else [])]
    with tempfile.TemporaryDirectory() as folder:
        progress(f"{occupants} occupants, {here} here: starting {len(kinds) * occupants} clients")
        async with AsyncExitStack() as stack:
            crews = [
                await stack.enter_async_context(
                    await Crew.gather(
                        server,
                        here,
                        Path(folder) if kind == "encrypted" else None,
                        processes=_PROCESSES,
                        omemo=kind == "OMEMO",
                        suite=suite,
                    )
                )
                for kind in kinds
            ]
            distant = await stack.enter_async_context(
                await Crew.gather(server, 2 * (occupants - here), None, processes=2)
            )
            rooms = [f"bench-{uuid.uuid4().hex[:8]}@{server.rooms}" for _ in kinds]
            pairs = list(zip(crews, rooms, strict=True))
            host = crews[1].members[0]
            await host.do("prepare", room=rooms[0], accounts=[*crews[0].accounts, *distant.accounts])
            await host.do("create", room=rooms[1], accounts=list(crews[1].accounts[1:]))
            await host.do("let_in", room=rooms[1], accounts=list(distant.accounts))
            for crew, room in pairs[2:]:
                await host.do("prepare", room=room, accounts=list(crew.accounts))
                await crew.all("people", accounts=list(crew.accounts))
            await asyncio.gather(
                *(member.do("enter", room=rooms[number % 2]) for number, member in enumerate(distant.members))
            )
            await distant.all("listen_no_more")
            for crew, room in pairs:
                await crew.all("enter", room=room)
                await _first_words(crew, room)
                await _round(crew, room, messages // 10 + 1)  # first messages open ratchets, sessions and caches
            done: list[list[_Round]] = [[] for _ in kinds]
            delays: list[list[float]] = [[] for _ in kinds]
            order = list(range(len(kinds)))
            for number in range(rounds):
                progress(f"{occupants} occupants, {here} here: round {number + 1} of {rounds}")
                # Each round begins with the other kind, so that a machine that gets slower favours none.
                for kind in reversed(order) if number % 2 else order:
                    done[kind].append(await _round(*pairs[kind], messages))
                pause = max(_PAUSE, 1 / (_SHARE * min(each.rate for rounds in done for each in rounds)))
                for kind in order:
                    delays[kind] += await _latency(*pairs[kind], min(messages, 100), pause)
    return [_summary(occupants, here, name, done[0], done[kind], delays[kind]) for kind, name in enumerate(kinds)]


async def _first_words(crew: Crew, room: str) -> None:
    """One message of each sender, one after the other: OMEMO loses messages if two begin a session at once."""
    for member in crew.members[:_SENDERS]:
        await crew.all("reset")
        await member.do("talk", room=room, count=1, size=_SIZE, window=1, pause=0)
        await asyncio.gather(*(other.do("hear", count=1) for other in crew.members if other is not member))


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


def _summary(
    occupants: int, here: int, kind: str, plain: list[_Round], rounds: list[_Round], delays: list[float]
) -> Talk:
    delays = sorted(delays)
    return Talk(
        occupants=occupants,
        here=here,
        kind=kind,
        rate=statistics.median(each.rate for each in rounds),
        delivery_cpu=statistics.median(each.delivery_cpu for each in rounds),
        server_cpu=statistics.median(each.server_cpu for each in rounds),
        median=delays[len(delays) // 2],
        high=delays[min(len(delays) - 1, len(delays) * 99 // 100)],
        share=statistics.median(one.rate / other.rate for one, other in zip(rounds, plain, strict=True)),
    )
