"""Clients in processes of their own, and the server between them."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from slixmpp_mls.devserver import DevServer

from .process import Process

__all__ = ["Crew", "Member", "server_seconds"]

_PROGRAM = "benchmarks.rooms.member"


class Member:
    """One client somewhere."""

    def __init__(self, process: Process, number: int, account: str, store: str | None, omemo: bool, suite: int) -> None:
        self.process = process
        self.suite = suite
        self.omemo = omemo
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
        cls,
        server: DevServer,
        count: int,
        folder: Path | None,
        *,
        processes: int | None = None,
        omemo: bool = False,
        suite: int = 1,
        program: str = _PROGRAM,
    ) -> Self:
        """Make accounts and log them in.

        :param folder: for the stores of encrypted clients; None for clients without MLS
        :param processes: one for each client if not given
        :param omemo: clients with slixmpp-omemo
        :param suite: the cipher suite of encrypted clients
        :param program: what their processes run
        """
        crew = cls(server)
        crew.processes = [Process(program) for _ in range(min(count, processes or count))]
        await asyncio.gather(*(process.start() for process in crew.processes))
        for number in range(count):
            jid = await server.register(f"{'m' if folder else 'p'}{number}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
            store = str(folder / f"{jid.user}.db") if folder else None
            process = crew.processes[number % len(crew.processes)]
            crew.members.append(Member(process, number, jid.bare, store, omemo, suite))
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
            omemo=member.omemo,
            suite=member.suite,
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
        return sum(float(cost["cpu"]) for cost in costs)


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
