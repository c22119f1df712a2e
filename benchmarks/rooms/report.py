"""The results of rooms as tables, as Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .archive import CatchUp
from .many import ManyRooms
from .race import Race
from .talk import Talk

__all__ = ["Results", "markdown", "plot", "print_tables"]

_Row = tuple[str, ...]


@dataclass
class Results:
    """All that was measured.

    :ivar talks: of each size: plain, encrypted, and perhaps OMEMO
    """

    talks: list[list[Talk]] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)
    archives: list[CatchUp] = field(default_factory=list)
    many: list[ManyRooms] = field(default_factory=list)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _talk_rows(results: Results) -> Iterable[_Row]:
    for talks in results.talks:
        for talk in talks:
            yield (
                f"{talk.occupants}",
                "all" if talk.here == talk.occupants else str(talk.here),
                talk.kind,
                f"{talk.rate:.0f}",
                "" if talk.kind == "plain" else f"{talk.share:.2f}",
                _ms(talk.median),
                _ms(talk.high),
                _ms(talk.delivery_cpu),
                _ms(talk.server_cpu),
            )


def _tables(results: Results) -> Iterable[tuple[str, _Row, list[_Row]]]:
    yield (
        "Talk in one room: 100 characters each",
        ("occupants", "here", "", "messages/s", "of plain", "latency, median", "99 %", "client's CPU", "server's CPU"),
        list(_talk_rows(results)),
    )
    yield (
        "All members commit at once",
        ("members", "until all have won", "the same one after the other", "Commits sent"),
        [
            (str(race.members), f"{race.seconds:.2f} s", f"{race.alone:.2f} s", str(race.commits))
            for race in results.races
        ],
    )
    yield (
        "Catching up",
        ("messages", "time", "messages/s", "fetching alone", "client's CPU"),
        [
            (
                f"{each.messages:,}",
                f"{each.seconds:.2f} s",
                f"{each.messages / each.seconds:,.0f}",
                f"{each.fetching:.2f} s",
                _ms(each.cpu / each.messages),
            )
            for each in results.archives
        ],
    )
    yield (
        "One client in many rooms",
        ("rooms", "messages", "entered", "live", "memory", "without rooms", "CPU when idle", "tasks", "pings/min"),
        [
            (
                str(each.rooms),
                f"{each.messages:,}",
                f"{each.ready:.2f} s",
                f"{each.live:.2f} s",
                f"{each.memory:.0f} MB",
                f"{each.empty:.0f} MB",
                f"{each.idle * 100:.2g} %",
                str(each.tasks),
                f"{each.pings:.0f}",
            )
            for each in results.many
        ],
    )


def print_tables(results: Results, console: Console) -> None:
    """On the terminal."""
    for title, head, rows in _tables(results):
        if rows:
            table = Table(*head, title=title)
            for row in rows:
                table.add_row(*row)
            console.print(table)


def markdown(results: Results) -> str:
    """For benchmarks/README.md."""
    lines: list[str] = []
    for title, head, rows in _tables(results):
        if rows:
            lines += [f"{title}:", "", "| " + " | ".join(head) + " |", "|" + "--:|" * len(head)]
            lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    """As SVG: throughput against the number of occupants; beside OMEMO, what a message costs a client."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(8, 5))
    costs = any(talk.kind == "OMEMO" for each in results.talks for talk in each)
    for here, style in (("all", "-"), ("two", ":")):
        chosen = [each for each in results.talks if (each[0].here == each[0].occupants) == (here == "all")]
        for label, colour in (("plain", "tab:gray"), ("encrypted", "tab:blue"), ("OMEMO", "tab:orange")):
            talks: Sequence[Talk] = sorted(
                (talk for each in chosen for talk in each if talk.kind == label), key=lambda talk: talk.occupants
            )
            if not talks or (costs and here != "all"):  # with OMEMO, all are here
                continue
            axes.plot(
                [talk.occupants for talk in talks],
                [talk.delivery_cpu * 1000 if costs else talk.rate for talk in talks],
                "o" + style,
                color=colour,
                label=label if costs else f"{label}, {here} of the clients on the server's machine",
            )
    what = "a client's processor time for one message, ms" if costs else "messages per second through one room"
    axes.set(xscale="log", yscale="log", xlabel="occupants", ylabel=what)
    sizes = sorted({talks[0].occupants for talks in results.talks})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
