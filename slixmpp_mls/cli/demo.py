"""``slixmpp-mls demo``: a story told by real clients on a real server."""

from __future__ import annotations

import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from .server import KINDS, Kind, describe
from .story import Person, Story
from .terminal import console, reporting, run, until_interrupted, waiting
from .timeline import Timeline, save_picture

__all__ = ["demo"]

PICTURE_WIDTH = 100  # columns


def demo(
    server: Annotated[Kind, typer.Option(help="The server software.")] = Kind.prosody,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running, to play with.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also save what is shown as a picture.")] = None,
) -> None:
    """Three people talk in an encrypted room on a real server, which learns nothing of what they say.

    Takes a few seconds once the server has been fetched. Exit code 0 means that all that was shown has been checked.

    Example: `slixmpp-mls demo`

    Example: `slixmpp-mls demo --server ejabberd --keep`
    """
    run(_demo(server, keep, svg))


async def _demo(kind: Kind, keep: bool, svg: Path | None) -> None:
    async with AsyncExitStack() as stack:
        with reporting() as progress:
            server = KINDS[kind](progress=progress)
            progress(f"Starting {server.software}", 0, 0)
            await stack.enter_async_context(server)
        started = time.monotonic()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slixmpp-mls-demo-")))
        people = [Person(name, server, folder) for name in ("alice", "bob", "carol")]
        for person in people:
            stack.push_async_callback(person.disconnect)
        screen = console
        with ExitStack() as spinner:
            if svg:  # a spinner would be drawn into the picture
                screen = Console(record=True, width=PICTURE_WIDTH, highlight=False)
            announce = (lambda _: None) if svg else spinner.enter_context(waiting("Starting"))
            await Story(server, people, Timeline(screen, announce)).tell()
        screen.print()
        screen.print(Text(f"All of it checked, in {time.monotonic() - started:.1f} s.", style="bold green"))
        if svg:
            save_picture(screen, svg, "slixmpp-mls demo")
        if keep:
            for person in people:
                await person.disconnect()
            console.print()
            describe(server, {person.jid: person.file for person in people})
            console.print(Text("\nCtrl-C stops the server and removes everything.", style="dim"))
            await until_interrupted()
