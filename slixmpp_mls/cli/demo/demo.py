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

from ...devserver import Federation, Line, Prosody
from ..server import KINDS, Kind, describe
from ..terminal import console, reporting, run, until_interrupted, waiting
from .federated_story import SELF_PING, FederatedStory
from .post_quantum_story import PostQuantumStory
from .story import Person, Story
from .timeline import Timeline, save_picture

__all__ = ["demo"]

PICTURE_WIDTH = 100  # columns


def demo(
    server: Annotated[Kind, typer.Option(help="The server software.")] = Kind.prosody,
    federated: Annotated[
        bool, typer.Option("--federated", help="Two servers (the second is Prosody), and what a broken link does.")
    ] = False,
    post_quantum: Annotated[
        bool, typer.Option("--post-quantum", help="A room begins in cipher suite 1 and moves to a post-quantum one.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running, to play with.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also save what is shown as a picture.")] = None,
) -> None:
    """Three people talk in an encrypted room on a real server, which learns nothing of what they say.

    Takes a few seconds once the server has been fetched. Exit code 0 means that all that was shown has been checked.

    Example: `slixmpp-mls demo`

    Example: `slixmpp-mls demo --server ejabberd --keep`

    Example: `slixmpp-mls demo --federated`

    Example: `slixmpp-mls demo --post-quantum`
    """
    if federated and post_quantum:
        raise typer.BadParameter("--federated and --post-quantum are two stories: choose one")
    run(_demo(server, federated, post_quantum, keep, svg))


async def _demo(kind: Kind, federated: bool, post_quantum: bool, keep: bool, svg: Path | None) -> None:
    async with AsyncExitStack() as stack:
        line: Line | None = None
        with reporting() as progress:
            if federated:
                federation = Federation("alpha.example", "beta.example")
                line = await stack.enter_async_context(federation.line())
                servers = [
                    KINDS[kind]("alpha.example", federation=federation, progress=progress),
                    Prosody("beta.example", federation=federation, progress=progress),
                ]
            else:
                servers = [KINDS[kind](progress=progress)]
            for server in servers:
                progress(f"Starting {server.software}", 0, 0)
                await stack.enter_async_context(server)
        started = time.monotonic()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slixmpp-mls-demo-")))
        homes = (servers[0], servers[-1], servers[-1])
        config = {"self_ping": SELF_PING} if federated else {}
        people = [
            Person(name, home, folder, **config) for name, home in zip(("alice", "bob", "carol"), homes, strict=True)
        ]
        for person in people:
            stack.push_async_callback(person.disconnect)
        screen = console
        with ExitStack() as spinner:
            if svg:  # a spinner would be drawn into the picture
                screen = Console(record=True, width=PICTURE_WIDTH, highlight=False)
            announce = (lambda _: None) if svg else spinner.enter_context(waiting("Starting"))
            timeline = Timeline(screen, announce)
            if post_quantum:
                await PostQuantumStory(servers[0], people, timeline).tell()
            elif line is None:
                await Story(servers[0], people, timeline).tell()
            else:
                await FederatedStory(servers, line, people, timeline).tell()
        screen.print()
        screen.print(Text(f"All of it checked, in {time.monotonic() - started:.1f} s.", style="bold green"))
        if svg:
            save_picture(screen, svg, "slixmpp-mls demo")
        if keep:
            for person in people:
                await person.disconnect()
            console.print()
            for server in servers:
                describe(server, {person.jid: person.file for person in people})
                console.print()
            console.print(Text("Ctrl-C stops the server and removes everything.", style="dim"))
            await until_interrupted()
