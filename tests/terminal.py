"""A real terminal (tmux) in which programs with a screen are run, typed at and looked at."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console
from rich.text import Text

from .programs import heed_signals

SECONDS = 200.0  # more than anything here should take, on a busy machine


def needs(condition: object, what: str) -> None:
    """Skip a test without what it needs, but fail on a CI machine."""
    if not condition:
        if os.environ.get("CI"):
            pytest.fail(f"this test needs {what}", pytrace=False)
        pytest.skip(f"needs {what}")


class Terminal:
    """A window in which a program runs.

    :ivar width: columns
    """

    def __init__(self, socket: str, width: int, status: Path) -> None:
        self.width = width
        self._socket = socket
        self._status = status

    async def _tmux(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "tmux", "-L", self._socket, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return output.decode(errors="replace")

    async def screen(self, *, colours: bool = False) -> str:
        """What is on the screen."""
        return await self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    async def shows(self, pattern: str, seconds: float = SECONDS) -> str:
        """Wait until the screen matches a regular expression; returns the screen."""
        text = ""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    text = await self.screen()
                    if re.search(pattern, text):
                        return text
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"the screen does not show {pattern!r}:\n{text}") from None

    async def ends(self, seconds: float = SECONDS) -> int:
        """Wait until the program has ended; returns its exit code, as a shell has it: 128 and more for a signal."""
        try:
            async with asyncio.timeout(seconds):
                while not self._status.exists():  # noqa: ASYNC110  # tmux 3.3 loses the status now and then
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"it does not end:\n{await self.screen()}") from None
        return int(self._status.read_text())

    async def type(self, text: str) -> None:
        """Type a line, and when it is before the cursor, the Enter key; what comes together is taken for a paste."""
        await self._tmux("send-keys", "-l", "--", text)
        async with asyncio.timeout(SECONDS):
            while not (await self._line()).rstrip().endswith(text[-8:].rstrip()):  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.1)
            await self._tmux("send-keys", "Enter")
            while (await self._line()).rstrip().endswith(text[-8:].rstrip()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def _line(self) -> str:
        """The line in which the cursor is, before the cursor."""
        place = await self._tmux("display-message", "-p", "#{cursor_x} #{cursor_y}")
        column, row = map(int, place.split())
        lines = (await self._tmux("capture-pane", "-p")).split("\n")
        return lines[row][:column] if row < len(lines) else ""

    async def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        await self._tmux("send-keys", *keys)

    async def picture(self, path: Path, title: str) -> None:
        """Save the screen as SVG."""
        console = Console(record=True, width=self.width, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, ASYNC230
        for line in (await self.screen(colours=True)).rstrip("\n").split("\n"):
            console.print(Text.from_ansi(line), soft_wrap=True)
        console.save_svg(str(path), title=title)


@asynccontextmanager
async def terminal(
    *command: str, folder: Path, environment: dict[str, str], width: int = 120, height: int = 32
) -> AsyncIterator[Terminal]:
    """Run a program in a terminal of its own, which is closed in the end."""
    needs(shutil.which("tmux"), "tmux")
    socket = f"slixmpp-mls-{uuid4().hex[:8]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XMPP_", "MLS_STORE", "TMUX"))}
    variables = kept | {"HOME": str(folder), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | environment
    status = folder / f"{socket}.status"
    # The shell outlives a Ctrl-C, and notes how the program has ended.
    shell = ("sh", "-c", 'trap : INT; "$@"; echo $? > "$0.new"; mv "$0.new" "$0"', str(status))
    start = [
        "tmux", "-L", socket, "-f", "/dev/null", "-u", "new-session", "-d", "-x", str(width), "-y", str(height),
        "-c", str(folder), shlex.join((*shell, "env", *(f"{k}={v}" for k, v in environment.items()), *command)),
        ";", "set-option", "-g", "remain-on-exit", "on",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*start, env=variables, preexec_fn=heed_signals)
    assert await process.wait() == 0
    window = Terminal(socket, width, status)
    try:
        yield window
    finally:
        await window._tmux("kill-server")
