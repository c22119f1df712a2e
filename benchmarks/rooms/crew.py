"""Clients in processes of their own, and the server between them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from slixmpp_mls.devserver import DevServer

__all__ = ["Crew", "Member", "server_seconds"]

_LIMIT = 1 << 26  # octets in a line of an answer: some have a number for each message


class Process:
    """One ``member.py``."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.rooms.member",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            limit=_LIMIT,
        )
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"])
            if "error" in answer:
                future.set_exception(RuntimeError(answer["error"]))
            else:
                future.set_result(answer["result"])
        for future in self._waiting.values():
            future.set_exception(RuntimeError("the process of a client has ended"))

    async def call(self, client: int, do: str, **arguments: Any) -> Any:
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "client": client, "do": do, **arguments}).encode() + b"\n")
        return await future

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        with suppress(asyncio.CancelledError):
            await self._reading


class Member:
    """One client somewhere."""

    def __init__(self, process: Process, number: int, account: str, store: str | None) -> None:
        self.process = process
        self.account = account
        self.store = store
        self._number = number

    async def do(self, name: str, **arguments: Any) -> Any:
        """Call a method of :class:`benchmarks.rooms.member.Client`."""
        return await self.process.call(self._number, name, **arguments)


class Crew:
    """Some clients of one kind.  ``async with await Crew.gather(server, 10, folder) as crew: ...``

    :ivar members: logged in
    """

    def __init__(self, server: DevServer) -> None:
        self.server = server
        self.members: list[Member] = []
        self.processes: list[Process] = []

    @classmethod
    async def gather(
        cls, server: DevServer, count: int, folder: Path | None, *, processes: int | None = None
    ) -> Self:
        """Make accounts and log them in.

        :param folder: for the stores of encrypted clients; None for clients without MLS
        :param processes: one for each client if not given
        """
        crew = cls(server)
        crew.processes = [Process() for _ in range(min(count, processes or count))]
        await asyncio.gather(*(process.start() for process in crew.processes))
        for number in range(count):
            jid = await server.register(f"{'m' if folder else 'p'}{number}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
            store = str(folder / f"{jid.user}.db") if folder else None
            crew.members.append(Member(crew.processes[number % len(crew.processes)], number, jid.bare, store))
        await asyncio.gather(*map(crew.log_in, crew.members))
        return crew

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(*(process.end() for process in self.processes))

    async def log_in(self, member: Member) -> dict[str, float]:
        """Connect a member."""
        server = self.server
        times: dict[str, float] = await member.do(
            "login",
            jid=member.account,
            password=server.accounts[member.account],
            host=server.host,
            port=server.port,
            ca_file=str(server.ca_file),
            store=member.store,
        )
        return times

    async def all(self, name: str, **arguments: Any) -> list[Any]:
        """The same of everybody at once."""
        return await asyncio.gather(*(member.do(name, **arguments) for member in self.members))

    @property
    def accounts(self) -> Sequence[str]:
        return [member.account for member in self.members]

    async def cpu(self) -> float:
        """Seconds of processor time that its processes have used so far."""
        firsts = {member.process: member for member in self.members}
        costs = await asyncio.gather(*(member.do("cost") for member in firsts.values()))
        return sum(cost["cpu"] for cost in costs)


def server_seconds(server: DevServer) -> float:
    """Seconds of processor time of the server's process group so far (Linux; 0 elsewhere)."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[2]) == server.pid:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
