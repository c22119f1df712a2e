"""``python -m tests.soak``: run it, and print what has happened."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody

from .run import Figures, Soak, SoakFailed


class Server(StrEnum):
    """Which server the room is on."""

    PROSODY = "prosody"
    EJABBERD = "ejabberd"


def main(
    minutes: Annotated[float, typer.Option(help="Of trouble; then comes the judgement.")] = 15,
    seed: Annotated[int | None, typer.Option(help="What to do; a random one if not given.")] = None,
    people: Annotated[int, typer.Option(help="How many, each a process.", min=4)] = 8,
    server: Annotated[Server, typer.Option(help="Where the room is.")] = Server.PROSODY,
    folder: Annotated[Path | None, typer.Option(help="Keep stores, notes and the server's data there.")] = None,
    verbose: Annotated[bool, typer.Option(help="Tell of what is in vain.")] = False,
) -> None:
    """People talk, come and go in an encrypted room while processes and connections die.

    Example: `python -m tests.soak --minutes 2 --seed 7 --folder /tmp/soak`
    """
    seed = random.randrange(1 << 32) if seed is None else seed
    console = Console(highlight=False)
    console.print(f"seed {seed}")
    temporary = tempfile.TemporaryDirectory()
    place = folder or Path(temporary.name)
    place.mkdir(parents=True, exist_ok=True)

    async def run() -> Figures:
        running: DevServer
        kind = {Server.PROSODY: Prosody, Server.EJABBERD: Ejabberd}[server]
        async with kind(directory=place / "server") as running:
            soak = Soak(running, place, people=people, seed=seed, say=console.print if verbose else lambda text: None)
            try:
                return await soak.run(60 * minutes)
            except SoakFailed as error:
                _print(soak.figures, console)
                console.print(f"FAILED (seed {seed}):\n{error}")
                sys.exit(1)

    _print(asyncio.run(run()), console)
    console.print("All members agree on who they are, on the epoch, on its authenticator, and on what has been said.")


def _print(figures: Figures, console: Console) -> None:
    table = Table("", "", title="What has happened")
    for name, count in sorted(figures.done.items()):
        table.add_row(name, str(count))
    table.add_section()
    for name, count in sorted(figures.events.items()):
        table.add_row(name, str(count))
    table.add_section()
    table.add_row("messages accepted", str(figures.messages))
    table.add_row("members in the end", str(figures.members))
    table.add_row("epoch in the end", str(figures.epoch))
    table.add_row("seconds until all agreed", f"{figures.peace:.1f}")
    console.print(table)
    for complaint in figures.complaints:
        console.print(complaint)


if __name__ == "__main__":
    typer.run(main)
