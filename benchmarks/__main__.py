"""``python -m benchmarks``: tables and plots of what things cost."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody
from slixmpp_mls.mls.crypto import ed25519

from . import joining, peers, report, restarting
from . import suites as suite_costs
from .core import Result, run
from .imports import LATE, measure
from .large import following
from .large import growth as growth_of
from .large import report as large_report
from .large.run import KINDS, large_room, server_for
from .rooms import report as rooms_report
from .rooms.archive import catch_up
from .rooms.many import many_rooms
from .rooms.race import race
from .rooms.talk import talk

application = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)


def _can_be_plotted(path: Path | None) -> Path | None:
    """Say that matplotlib is missing before measuring takes its time."""
    if path is not None and importlib.util.find_spec("matplotlib") is None:
        raise typer.BadParameter("a plot needs matplotlib: install the extra 'bench'")
    return path


Svg = Annotated[Path | None, typer.Option(help="Write the plot here.", callback=_can_be_plotted)]
Markdown = Annotated[Path | None, typer.Option(help="Write the tables here.")]


class Peer(StrEnum):
    """An encryption that others use in rooms."""

    OMEMO = "omemo"


class Server(StrEnum):
    """Which server the rooms are on."""

    PROSODY = "prosody"
    EJABBERD = "ejabberd"


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is going on: a line that changes, or, where that cannot be seen, one line after the other."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield console.print
        return
    with console.status("starting") as status:
        yield status.update


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


@application.command()
def imports(runs: Annotated[int, typer.Option(help="The best of so many.")] = 5) -> None:
    """Measure what importing the package costs, beside slixmpp and cryptography alone.

    Example: `python -m benchmarks imports --runs 10`
    """
    console = Console()
    with _progress() as progress:
        base = measure("slixmpp, cryptography.x509, lxml.etree", runs, progress)
        ours = measure("slixmpp_mls", runs, progress)
        # What register_plugin("mls") imports when a bot is made, and what connects it.
        bot = measure("slixmpp_mls, slixmpp_mls.plugin, slixmpp_mls.runtime.connection", runs, progress)
    for each in (base, ours, bot):
        console.print(f"import {each.what}: {each.seconds * 1000:.0f} ms")
        for name, seconds in list(each.packages.items())[:6]:
            console.print(f"  {name}: {seconds * 1000:.0f} ms")
    console.print(f"ratios: {ours.seconds / base.seconds:.1f}, and for a bot {bot.seconds / base.seconds:.1f}")
    late = [name for name in LATE if name in bot.packages]
    console.print(f"of {', '.join(LATE)}, imported at once: {', '.join(late) or 'none'}")


@application.command()
def core(
    sizes: Annotated[str, typer.Option(help="Group sizes, with commas.")] = "2,10,100,1000,10000",
    peer: Annotated[bool, typer.Option(help="Run mls-rs beside us, if it is installed.")] = True,
    svg: Svg = None,
    markdown: Markdown = None,
) -> None:
    """Measure the core: each operation beside the sum of its primitives and beside mls-rs.

    Example: `python -m benchmarks core --sizes 2,100,1000 --svg benchmarks/core.svg`

    50,000 members take some minutes: `--sizes 50000 --no-peer`.
    """
    console = Console()
    results: list[Result] = []
    with _progress() as progress:
        for result in run(_numbers(sizes), with_peer=peer and peers.available(), progress=progress):
            results.append(result)
    report.print_table(results, console)
    console.print(f"Ed25519 is verified by {ed25519.BACKEND}; Python {sys.version.split()[0]}.")
    if markdown is not None:
        markdown.write_text(report.markdown(results))
    if svg is not None:
        report.plot(results, svg)


@application.command()
def join(
    sizes: Annotated[str, typer.Option(help="Group sizes, with commas.")] = "1000,10000",
) -> None:
    """Measure joining, from the Welcome to the first message read and sent: before the tree is there, and with it.

    Example: `python -m benchmarks join --sizes 1000,10000,50000`
    """
    joins: list[joining.Join] = []
    with _progress() as progress:
        for each in joining.measure(_numbers(sizes), progress):
            joins.append(each)
    joining.print_table(joins, Console())


@application.command()
def restart(
    rooms: Annotated[int, typer.Option(help="Rooms that the client is in.")] = 1,
    members: Annotated[str, typer.Option(help="Members of each of them, with commas.")] = "1000,10000",
) -> None:
    """Measure a restart: from the store to the first Commit of another member.

    Example: `python -m benchmarks restart --rooms 200 --members 1000`
    """
    with _progress() as progress:
        restarts = [each for size in _numbers(members) for each in restarting.measure(rooms, size, progress)]
    restarting.print_table(restarts, Console(width=120))


@application.command()
def suites(
    numbers: Annotated[str, typer.Option(help="Cipher suites, with commas.")] = "1,0xF001,0xF009",
    sizes: Annotated[str, typer.Option(help="Group sizes, with commas.")] = "10,100,1000",
    markdown: Markdown = None,
) -> None:
    """Compare cipher suites: time, and octets of all that is sent.

    Example: `python -m benchmarks suites --numbers 1,0xF001 --sizes 100`
    """
    with _progress() as progress:
        chosen = [int(number, 0) for number in numbers.split(",")]
        costs = list(suite_costs.measure(chosen, _numbers(sizes), progress=progress))
    suite_costs.print_table(costs, Console())
    if markdown is not None:
        markdown.write_text(suite_costs.markdown(costs))


@application.command()
def rooms(
    occupants: Annotated[str, typer.Option(help="Sizes of the room for talk.")] = "2,10,50",
    messages: Annotated[int, typer.Option(help="In each round of talk.")] = 500,
    rounds: Annotated[int, typer.Option(help="Of talk, encrypted and plain each.")] = 5,
    committers: Annotated[str, typer.Option(help="Sizes of the group for races.")] = "5,20",
    archive: Annotated[str, typer.Option(help="Messages to catch up with.")] = "10000",
    many: Annotated[str, typer.Option(help="Rooms for one client to be in.")] = "200",
    server: Annotated[Server, typer.Option(help="Where the rooms are.")] = Server.PROSODY,
    config: Annotated[str, typer.Option(help="Text to be added to the server's configuration.")] = "",
    peer: Annotated[
        Peer | None, typer.Option(help="Another encryption to be measured beside, where all occupants are here.")
    ] = None,
    suite: Annotated[str, typer.Option(help="The cipher suite of talk.")] = "1",
    svg: Svg = None,
    markdown: Markdown = None,
) -> None:
    """Measure rooms on a real server: talk beside talk without encryption, races of Commits, catching up, many rooms.

    An empty list leaves a part out: `--archive "" --many ""`.

    Example: `python -m benchmarks rooms --occupants 2,10 --rounds 3`
    """
    console = Console()
    results = rooms_report.Results()

    async def measure(progress: Callable[[str], None]) -> None:
        running: DevServer
        async with {Server.PROSODY: Prosody, Server.EJABBERD: Ejabberd}[server](extra_config=config) as running:
            for size in _numbers(occupants):
                for here in sorted({2, size}, reverse=True):
                    results.talks.append(
                        await talk(
                            running,
                            size,
                            here,
                            messages=messages,
                            rounds=rounds,
                            progress=progress,
                            omemo=peer is Peer.OMEMO,
                            suite=int(suite, 0),
                        )
                    )
            for size in _numbers(committers):
                progress(f"{size} members commit at once")
                results.races.append(await race(running, size))
            for size in _numbers(archive):
                results.archives.append(await catch_up(running, size, progress=progress))
            for size in _numbers(many):
                results.many.append(await many_rooms(running, size, each=10, progress=progress))

    try:
        with _progress() as progress:
            asyncio.run(measure(progress))
    finally:  # what has been measured until then took its time
        rooms_report.print_tables(results, console)
        console.print(f"{server.capitalize()}; Python {sys.version.split()[0]}.")
        if markdown is not None:
            markdown.write_text(rooms_report.markdown(results))
        if svg is not None and results.talks:
            rooms_report.plot(results, svg)


@application.command()
def large(
    members: Annotated[int, typer.Option(help="Leaves that the room's group grows to.")] = 1000,
    server: Annotated[Server, typer.Option(help="Where the room is.")] = Server.PROSODY,
    pool: Annotated[Path | None, typer.Option(help="A file of KeyPackages, made or used again.")] = None,
    markdown: Markdown = None,
) -> None:
    """Let a room's group grow to so many members, with ten real clients in it, on a real server.

    Example: `python -m benchmarks large --members 10000 --server ejabberd`

    50,000 members take about an hour and 5 GB of memory.
    """
    console = Console()
    figures = large_report.Figures(members, str(server))

    async def measure(progress: Callable[[str], None]) -> None:
        async with server_for(KINDS[server]) as running:
            await large_room(running, figures, pool, progress)

    try:
        with _progress() as progress:
            asyncio.run(measure(progress))
    finally:  # what has been measured until then took its time
        large_report.print_table(figures, console)
        if markdown is not None:
            markdown.write_text(large_report.markdown(figures))


@application.command()
def growth(
    sizes: Annotated[str, typer.Option(help="Group sizes, with commas.")] = "1000,2000,4000,8000",
    server: Annotated[Server, typer.Option(help="Where the rooms are.")] = Server.PROSODY,
    pool: Annotated[Path | None, typer.Option(help="A file of KeyPackages, made or used again.")] = None,
    markdown: Markdown = None,
) -> None:
    """Measure how the cost of each operation grows with the group; fail if one grows faster than its size.

    Example: `python -m benchmarks growth --sizes 500,1000,2000`
    """

    async def measure(progress: Callable[[str], None]) -> list[growth_of.Growth]:
        async with server_for(KINDS[server]) as running:
            return await growth_of.measure(running, _numbers(sizes), pool, progress)

    with _progress() as progress:
        growths = asyncio.run(measure(progress))
    growth_of.print_table(growths, Console())
    if markdown is not None:
        markdown.write_text(growth_of.markdown(growths))
    if not all(each.passes for each in growths):
        raise typer.Exit(1)


@application.command()
def commits(
    members: Annotated[int, typer.Option(help="Of the group.")] = 1000,
    count: Annotated[int, typer.Option(help="Commits.")] = 40,
    server: Annotated[Server, typer.Option(help="Where the room is.")] = Server.EJABBERD,
    profile: Annotated[Path | None, typer.Option(help="Write the receiver's profile (cProfile) here.")] = None,
) -> None:
    """Measure what a Commit costs through the whole plugin, in a group with a key in every parent node.

    Example: `python -m benchmarks commits --members 1000`
    """

    async def measure(progress: Callable[[str], None]) -> following.Following:
        async with server_for(KINDS[server]) as running:
            return await following.measure(running, members, count, progress, profile)

    with _progress() as progress:
        costs = asyncio.run(measure(progress))
    Console().print(following.sentence(costs))


if __name__ == "__main__":
    application()
