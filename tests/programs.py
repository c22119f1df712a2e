"""Other programs, run as their users run them, and talked to by way of their input and output."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from slixmpp_mls.devserver import DevServer

ROOT = Path(__file__).parent.parent
COMMAND = str(Path(sys.executable).with_name("slixmpp-mls"))
SECONDS = 480.0  # less than the limit of a test, so that what a program has printed is shown
#: The beginning of a program that uses the store alone, as the import of the whole package takes a second.
STORE_ALONE = f"""
import sys, types
package = types.ModuleType("slixmpp_mls")
package.__path__ = [{str(ROOT / "slixmpp_mls")!r}]
sys.modules["slixmpp_mls"] = package
"""


def login(server: DevServer, jid: str) -> dict[str, str]:
    """The variables by which programs learn how to log in, as ``slixmpp-mls server`` prints them."""
    return {
        "XMPP_JID": jid,
        "XMPP_PASSWORD": server.accounts[jid],
        "XMPP_HOST": server.host,
        "XMPP_PORT": str(server.port),
        "SSL_CERT_FILE": str(server.ca_file),
    }


class Program:
    """A running program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(1 << 16):
            self.output += chunk.decode(errors="replace")
            self._news.set()
        self._news.set()

    async def prints(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text so many times."""
        try:
            async with asyncio.timeout(SECONDS):
                while self.output.count(text) < times:
                    assert not self._reading.done(), f"it ended without printing {text!r}:\n{self.output}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it does not print {text!r}:\n{self.output}") from None

    async def type(self, line: str) -> None:
        """A line of input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    async def ends(self) -> int:
        """Close its input and wait for its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(SECONDS):
                await asyncio.shield(self._reading)
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"it does not end:\n{self.output}") from None


def heed_signals() -> None:
    """A suite that was started in the background ignores them, and so would its children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@asynccontextmanager
async def running(*command: str, folder: Path, **environment: str) -> AsyncIterator[Program]:
    """A program in a folder of its own, stopped in the end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("XMPP_", "MLS_STORE"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=inherited | {"HOME": str(folder), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"} | environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=heed_signals,
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 60)
            except TimeoutError:
                process.kill()
                await process.wait()
        await program._reading
