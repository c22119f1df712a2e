"""The results of a large room as a table and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

__all__ = ["Figures", "Phase", "markdown", "print_table"]

_COLUMNS = ("what happens", "time", "host's CPU", "another's CPU", "server's CPU", "")


@dataclass(frozen=True, slots=True)
class Phase:
    """Something that happened.

    :ivar seconds: from its begin to its end, with all clients and the server on this machine
    :ivar host: seconds of the processor, of the client that leads
    :ivar others: the same, of an average client among the others
    :ivar server: the same, of the server
    """

    name: str
    seconds: float
    host: float
    others: float
    server: float
    note: str = ""


@dataclass(slots=True)
class Figures:
    """What one run has found out."""

    members: int
    server: str
    phases: list[Phase] = field(default_factory=list)
    load: str = ""


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    for phase in figures.phases:
        seconds = (phase.seconds, phase.host, phase.others, phase.server)
        yield (phase.name, *(f"{each:.2f} s" if each else "" for each in seconds), phase.note)


def print_table(figures: Figures, console: Console) -> None:
    """A row for each phase."""
    table = Table(*_COLUMNS, title=f"{figures.members:,} members on {figures.server}")
    for row in _rows(figures):
        table.add_row(*row)
    console.print(table)
    console.print(f"load of the machine at the end (1, 5, 15 minutes): {figures.load}")


def markdown(figures: Figures) -> str:
    """The same for a file."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" + "|--:" * 4 + "|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in _rows(figures))]) + "\n"
