"""What the real clients of a large room do, and what it cost."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody

from ..rooms.crew import Crew, Member, server_seconds
from . import crowd
from .report import Figures, Phase

__all__ = ["AWAY", "KINDS", "REAL", "large_room", "server_for"]

REAL = 10
"""Real clients; half of them are there before the crowd, half of them come after it."""
AWAY = 100
"""Commits that one of them misses."""
_RENEWED = 3  # of these: renewals of keys, which cost a ciphertext for each member of a crowd that never commits
_LATER = -(-AWAY // crowd.DEVICES)  # accounts of the crowd whose devices are added one by one while somebody is away
_ACCOUNTS_AT_ONCE = 60  # of the crowd, in one call of `add`
_MESSAGES = 5  # of each real client
_UPLOADS = 1 << 36  # octets a day that the server takes: each Commit with Adds brings a whole tree


def server_for(kind: type[DevServer]) -> DevServer:
    """A server that takes the uploads of a large room."""
    text = ""
    if kind is Prosody:
        text = f"http_file_share_size_limit = {1 << 28}\nhttp_file_share_daily_quota = {_UPLOADS}\n"
    return kind(extra_config=text)


async def large_room(server: DevServer, figures: Figures, pool: Path | None, progress: Callable[[str], None]) -> None:
    """Let a room's group grow to so many members as the figures are about, and see that all goes on.

    :param pool: the file of the crowd, to be made or to be used again
    """
    accounts = max(1, -(-(figures.members - REAL) // crowd.DEVICES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = pool or folder / "crowd"
        await asyncio.to_thread(crowd.make, pool, accounts + _LATER, 1, progress)
        async with await Crew.gather(server, REAL, folder, program="benchmarks.large.member") as crew:
            await _Story(server, crew, figures, accounts, pool.absolute(), progress).tell()


class _Story:
    def __init__(
        self,
        server: DevServer,
        crew: Crew,
        figures: Figures,
        accounts: int,
        path: Path,
        progress: Callable[[str], None],
    ) -> None:
        self._server = server
        self._crew = crew
        self._figures = figures
        self._accounts = accounts
        self._path = path
        self._progress = progress
        self._room = f"large-{uuid.uuid4().hex[:8]}@{server.rooms}"
        self._host, *self._others = crew.members
        self._here: list[Member] = [self._host]

    async def tell(self) -> None:
        early, late = self._others[: REAL // 2 - 1], self._others[REAL // 2 - 1 :]
        most = self._accounts * crowd.DEVICES + REAL + AWAY
        await self._host.do("found", room=self._room, crowd=str(self._path), most=most)
        async with self._phase(f"{len(early)} real clients are added early"):
            await self._come(early)
        await self._grow()
        async with self._phase(f"{len(late)} real clients are added late") as notes:
            notes += await self._come(late)
        async with self._phase(f"everybody says {_MESSAGES} things") as notes:
            notes += await self._talk()
        for each, who in ((self._host, "the first one"), (early[0], "an early one"), (late[0], "a late one")):
            async with self._phase(f"{who} renews its keys"):
                await each.do("update", room=self._room, at=0.0)
                await self._agree(each)
        lists = await self._host.do("lists", room=self._room)
        count = max(1, min(1000 // crowd.DEVICES, self._accounts // 2))
        async with self._phase(f"{count * crowd.DEVICES:,} devices of {count} accounts are removed") as notes:
            done = await self._host.do("shrink", room=self._room, start=0, count=count)
            notes.append(f"{done['removed']:,} gone")
            await self._agree()
        await self._away(late[1], count)
        await self._restart(early[1])
        async with self._phase(f"everybody says {_MESSAGES} things") as notes:
            notes += await self._talk()
        self._add(Phase("the list of members, with levels of trust", lists["members"], lists["members"], 0, 0))
        self._add(Phase("the list of accounts", lists["accounts"], lists["accounts"], 0, 0))
        for each, who in ((self._host, "the first one"), (early[0], "an early one"), (late[0], "a late one")):
            memory = await each.do("memory")
            self._add(Phase(f"memory of {who}", 0, 0, 0, 0, f"{memory['now']:.0f} MB, at most {memory['most']:.0f} MB"))
        self._figures.load = " ".join(f"{load:.0f}" for load in os.getloadavg())

    # --- what they do --------------------------------------------------------------------------

    async def _grow(self) -> None:
        step = max(_ACCOUNTS_AT_ONCE, -(-self._accounts // 5))
        for begin in range(0, self._accounts, step):
            end = min(begin + step, self._accounts)
            async with self._phase(f"grows to {end * crowd.DEVICES:,}") as notes:
                for start in range(begin, end, _ACCOUNTS_AT_ONCE):
                    count = min(_ACCOUNTS_AT_ONCE, end - start)
                    done = await self._host.do("grow", room=self._room, start=start, count=count)
                    self._progress(f"{(start + count) * crowd.DEVICES:,} devices are there, epoch {done['epoch']}")
                await self._agree()
                notes.append(f"epoch {done['epoch']}")

    async def _come(self, who: list[Member]) -> list[str]:
        begun = time.monotonic()
        await self._host.do("add", room=self._room, accounts=[each.account for each in who])
        added = time.monotonic() - begun
        times = await asyncio.gather(*(each.do("joined", room=self._room) for each in who))
        self._here += who
        await self._agree()
        first = max(each["first"] for each in times) - begun
        full = max(each["full"] for each in times) - begun
        return [f"added after {added:.1f} s, all could read after {first:.1f} s, knew all members after {full:.1f} s"]

    async def _talk(self) -> list[str]:
        count = len(self._here)
        await self._all("reset")
        await self._all("talk", room=self._room, count=_MESSAGES, size=100, window=1, pause=0.2)
        heard = await self._all("hear", count=(count - 1) * _MESSAGES)
        delays = sorted(delay for each in heard for delay in each["delays"])
        return [f"until they are read: {delays[len(delays) // 2] * 1000:.0f} ms, at most {delays[-1]:.2f} s"]

    async def _away(self, who: Member, start: int) -> None:
        await who.process.end()
        self._here.remove(who)
        renewals = AWAY // _RENEWED
        async with self._phase(f"{AWAY} Commits, {_RENEWED} of them with a path, while one is away"):
            for number in range(AWAY):
                if number % renewals == renewals - 1:
                    await self._host.do("update", room=self._room, at=0.0)
                else:
                    await self._host.do("add_one", room=self._room, number=self._accounts, device=number)
                self._progress(f"{number + 1} of {AWAY} Commits while one is away")
            state = await self._agree()
        async with self._phase("it comes back, and catches up") as notes:
            notes += await self._log_in(who, state["epoch"])

    async def _restart(self, who: Member) -> None:
        state = await self._agree()
        await who.process.kill()
        self._here.remove(who)
        async with self._phase("another one is killed, and starts again") as notes:
            notes += await self._log_in(who, state["epoch"])

    async def _log_in(self, who: Member, epoch: int) -> list[str]:
        begun = time.monotonic()
        await who.process.start()
        await self._crew.log_in(who)
        at = (await who.do("reach", room=self._room, epoch=epoch))["at"] - begun
        self._here.append(who)
        await self._agree()
        cost, memory = await who.do("cost"), await who.do("memory")
        return [f"there after {at:.1f} s, with {cost['cpu']:.1f} s of its processor and {memory['now']:.0f} MB"]

    # --- what it costs -------------------------------------------------------------------------

    async def _all(self, name: str, **arguments: Any) -> list[Any]:
        return await asyncio.gather(*(each.do(name, **arguments) for each in self._here))

    async def _agree(self, first: Member | None = None) -> dict[str, Any]:
        """Wait until all are in one epoch; they must have the same state, and have rejected nothing.

        :param first: whoever has made the last Commit, and so is in the newest epoch; the host if not given
        """
        state: dict[str, Any] = await (first or self._host).do("state", room=self._room)
        reached = await self._all("reach", room=self._room, epoch=state["epoch"])
        states = await self._all("state", room=self._room)
        if {each["authenticator"] for each in reached} != {state["authenticator"]}:
            raise RuntimeError("the members do not agree")
        rejected = [text for each in states for text in each["rejected"]]
        if rejected:
            raise RuntimeError(f"rejected: {rejected[:3]}")
        return state

    async def _costs(self) -> dict[str, float]:
        costs = await self._all("cost")
        return {member.account: float(cost["cpu"]) for member, cost in zip(self._here, costs, strict=True)}

    @asynccontextmanager
    async def _phase(self, name: str) -> AsyncIterator[list[str]]:
        self._progress(name)
        before, server, begun = await self._costs(), server_seconds(self._server), time.monotonic()
        notes: list[str] = []
        yield notes
        seconds, after = time.monotonic() - begun, await self._costs()
        spent = {who: after[who] - before[who] for who in before if who in after and after[who] >= before[who]}
        host = spent.pop(self._host.account, 0.0)
        others = sum(spent.values()) / len(spent) if spent else 0.0
        self._add(Phase(name, seconds, host, others, server_seconds(self._server) - server, "; ".join(notes)))

    def _add(self, phase: Phase) -> None:
        self._figures.phases.append(phase)
        self._progress(
            f"  {phase.name}: {phase.seconds:.2f} s, host {phase.host:.2f}, others {phase.others:.2f}, "
            f"server {phase.server:.2f}  {phase.note}"
        )


KINDS: dict[str, type[DevServer]] = {"prosody": Prosody, "ejabberd": Ejabberd}
