"""The terminal, for all commands: output, errors, and cleaning of untrusted text."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from ..devserver.packages import ReportDownload
from ..stanza.display import displayable as clean
from ..stanza.xml import write_datetime

__all__ = [
    "clean", "colour_of", "console", "errors", "iso", "new_password", "quiet_libraries", "reporting", "run",
    "until_interrupted", "waiting",
]  # fmt: skip

# Where nobody looks at it, a table is as wide as it needs to be: an id that is broken into two lines is none.
_WIDE = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 1000
console = Console(highlight=False, width=_WIDE)
errors = Console(stderr=True, highlight=False)

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_colours: dict[str, str] = {}


def colour_of(who: str) -> str:
    """A colour for a person, the same for as long as the program runs."""
    return _colours.setdefault(who, _COLOURS[len(_colours) % len(_COLOURS)])


def iso(moment: datetime | float | None) -> str | None:
    """A time for programs, in one form everywhere: XEP-0082's DateTime in UTC.

    :param moment: with its time zone, or seconds since the Unix epoch
    """
    if moment is None:
        return None
    return write_datetime(moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC))


def new_password() -> str:
    """For an account on a temporary server."""
    return secrets.token_hex(6)


def quiet_libraries(debug: bool) -> None:
    """Switch off the libraries' logs, which are for ``--debug`` only."""
    if debug:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("slixmpp_mls").setLevel(logging.DEBUG)
    else:
        logging.basicConfig(handlers=[logging.NullHandler()])


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command.  SIGTERM and SIGHUP end it like Ctrl-C, so that what it has started is stopped."""

    async def with_signals() -> None:
        task = asyncio.current_task()
        assert task is not None
        _on_ending(task.cancel, signal.SIGTERM, signal.SIGHUP)
        await work

    try:
        asyncio.run(with_signals())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


async def until_interrupted() -> None:
    """Wait for Ctrl-C, SIGTERM or SIGHUP, as the orderly end of a command."""
    stop = asyncio.Event()
    _on_ending(stop.set, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    await stop.wait()


def _on_ending(callback: Callable[[], object], *numbers: signal.Signals) -> None:
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            asyncio.get_running_loop().add_signal_handler(number, callback)


@contextmanager
def reporting() -> Iterator[ReportDownload]:
    """Shows how far a long step is: a bar on a terminal, else a line for each new thing that is done."""
    if not console.is_terminal:
        said = ""

        def line(message: str, done: int, total: int) -> None:
            nonlocal said
            if message != said:
                said = message
                console.print(Text(f"{message} ..."))

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, visible=False)

        def bar(message: str, done: int, total: int) -> None:
            progress.update(task, description=message, completed=done, total=total or None, visible=True)

        yield bar


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal; its text can be changed."""
    if not console.is_terminal:
        with nullcontext():
            yield lambda _: None
        return
    with console.status(Text(what)) as status:
        yield lambda text: status.update(Text(text))
