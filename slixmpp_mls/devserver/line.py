"""The link between the servers of a federation: a test can read, cut, stall and restore it.

::

    alpha ──► beta's public address ── Line ──► beta's own address, port 5269
    beta ──► alpha's public address ── Line ──► alpha's own

Servers find each other by the federation's file of host names.  With a line, that file has the addresses on which the
line listens; the line forwards each connection to the real address.  It does not change the traffic: TLS, certificates
and dialback are the servers' own.

Links break in two ways, which differ for servers.  A *cut* closes connections and refuses new ones: servers notice it
at once.  A *stall* lets nothing through and reports nothing, like a dead router: stanzas stay in buffers until the
stall ends or a server times out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Self

__all__ = ["Line"]

_CHUNK = 65_536


class Line:
    """A link made by :meth:`~slixmpp_mls.devserver.Federation.line`: ``async with federation.line() as line``.

    It belongs to the event loop in which it is entered.

    :ivar octets: everything transferred, in both directions of all connections, in order of arrival
    """

    def __init__(self, ways: Mapping[str, str], port: int) -> None:
        """:param ways: public address and real address of each server"""
        self.octets = bytearray()
        self._ways = dict(ways)
        self._port = port
        self._listening: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        for server in self._listening:
            server.close()
        self._listening.clear()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()

    def stall(self) -> None:
        """Let nothing through any more; connections stay open."""
        self._flowing.clear()

    async def restore(self) -> None:
        """Undo :meth:`cut` and :meth:`stall`."""
        self._flowing.set()
        if not self._listening:
            for public, real in self._ways.items():
                self._listening.append(await self._listen(public, real))

    async def _listen(self, public: str, real: str) -> asyncio.Server:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._relay(reader, writer, real))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return await asyncio.start_server(connected, public, self._port)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, real: str) -> None:
        writers = [writer]
        self._writers.add(writer)
        try:
            onward, back = await asyncio.open_connection(real, self._port)
            writers.append(back)
            self._writers.add(back)
            pumps = [asyncio.create_task(self._pump(*pair)) for pair in ((reader, back), (onward, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
        except OSError:
            pass  # the server is not running: the peer's connection is closed
        finally:
            for one in writers:
                one.transport.abort()
                self._writers.discard(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                self.octets += data
                writer.write(data)
                await writer.drain()
