"""Clients in another process: both ends of the lines of JSON between them.

To it: ``{"id": 1, "client": 0, "do": "talk", ...}``; from it: ``{"id": 1, "result": ...}`` or
``{"id": 1, "error": "..."}``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Process", "obey"]

_LIMIT = 1 << 26  # octets in a line of an answer: some have a number for each message


class Process:
    """A Python program that obeys, see :func:`obey`.

    :param program: name of the module
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._numbers = itertools.count(1)
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            limit=_LIMIT,
        )
        self._reading = asyncio.create_task(self._read())

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._reading is not None and not self._reading.done()

    async def kill(self) -> None:
        """SIGKILL."""
        if self._reading is None:
            return
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"])
            if future.done():
                continue  # nobody waits for it any more
            if "error" in answer:
                future.set_exception(RuntimeError(answer["error"]))
            else:
                future.set_result(answer["result"])
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ProcessLookupError("the process of a client has ended"))

    async def call(self, client: int, do: str, **arguments: Any) -> Any:
        """Have a method of one of its clients called.

        :raises RuntimeError: that raised
        :raises ProcessLookupError: the process has ended, or does before the answer
        """
        if not self.running:
            raise ProcessLookupError("the process of a client has ended")
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "client": client, "do": do, **arguments}).encode() + b"\n")
        return await future

    async def end(self) -> None:
        """Close its input, and wait until it has put an end to everything."""
        if not self.running:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        assert self._reading is not None
        await self._reading


async def obey(make: Callable[[], Any]) -> list[Any]:
    """In the process: do as told until the input ends.

    :param make: a new client, for each number that is named
    :returns: the clients
    """
    clients: dict[int, Any] = {}
    reader = asyncio.StreamReader(limit=_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    answers = open("/dev/stdout", "w", buffering=1)  # noqa: ASYNC230, SIM115
    doing: set[asyncio.Task[None]] = set()

    async def answer(order: dict[str, Any]) -> None:
        number, name, client = order.pop("id"), order.pop("do"), order.pop("client")
        if client not in clients:
            clients[client] = make()
        try:
            said = {"id": number, "result": await getattr(clients[client], name)(**order)}
        except Exception as error:
            said = {"id": number, "error": f"{name}: {type(error).__name__}: {error}"}
        answers.write(json.dumps(said) + "\n")

    while line := await reader.readline():
        task = asyncio.create_task(answer(json.loads(line)))
        doing.add(task)
        task.add_done_callback(doing.discard)
    return list(clients.values())
