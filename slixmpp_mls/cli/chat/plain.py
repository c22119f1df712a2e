"""A chat that reads and writes lines: one room, standard input (a pipe, a file, a simple terminal), standard output."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Final

from rich.text import Text

from ..terminal import colour_of, console
from .model import Chat, Line, Talk

__all__ = ["Plain"]


_TERMINAL_LINE: Final = 4095  # octets of a line that Linux's terminals hand on (termios(3), canonical mode)
_CUT: Final = (
    f"nothing is sent: a terminal cuts lines at {_TERMINAL_LINE} octets; send it in pieces, as a /file, or by a pipe"
)


class Plain:
    """Shows the one talk of a chat, and reads what is said in it."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        chat.view = self

    def shows(self, talk: Talk) -> bool:
        return True

    def added(self, talk: Talk, line: Line) -> None:
        """Each line under its author's name, so that nobody can imitate others."""
        if line.kind == "own":
            return  # the terminal, or the file, shows it
        if line.kind == "message":
            head = Text.assemble(
                (f"{line.time:%H:%M} ", "dim"), (line.who, f"bold {colour_of(line.who)}"), (f" {line.key} ", "dim")
            )
            for each in line.text.split("\n"):
                console.print(Text.assemble(head, each), soft_wrap=True)
        else:
            style = "yellow" if line.kind == "warning" else "dim"
            console.print(Text(line.text, style), soft_wrap=True)

    def changed(self, talk: Talk) -> None:
        pass

    def opened(self, talk: Talk) -> None:
        pass

    def closed(self, talk: Talk) -> None:
        pass

    def told(self, text: str) -> None:
        console.print(Text(text, "dim"), soft_wrap=True)

    def own_code(self) -> None:
        if console.is_terminal:
            self._chat.mls.trust.qr().terminal(compact=True)

    async def run(self, address: str, *, create: bool, people: list[str]) -> None:
        """Open the talk, and send what is typed, until the end of the input or of the talk."""
        talk = await self._chat.open(address, create=create, people=people)
        cuts = sys.stdin.isatty()
        async for line in self._lines():
            if cuts and len(line.encode()) >= _TERMINAL_LINE:
                self._chat.refused(talk, _CUT)
                continue
            await self._chat.typed(talk, line)
            if self._chat.ended.is_set():
                break

    async def _lines(self) -> AsyncIterator[str]:
        """Lines of standard input, until its end or ours."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            # Not sys.stdin: a thread that waits in there keeps the interpreter from ending.
            rest = b""
            while chunk := os.read(sys.stdin.fileno(), 1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    loop.call_soon_threadsafe(queue.put_nowait, line.decode(errors="replace"))
            if rest:
                loop.call_soon_threadsafe(queue.put_nowait, rest.decode(errors="replace"))
            loop.call_soon_threadsafe(queue.put_nowait, None)

        threading.Thread(target=read, daemon=True).start()
        ended = asyncio.create_task(self._chat.ended.wait())
        try:
            while True:
                next_line = asyncio.create_task(queue.get())
                await asyncio.wait({next_line, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not next_line.done() or (line := next_line.result()) is None:
                    next_line.cancel()
                    return
                yield line
        finally:
            ended.cancel()
