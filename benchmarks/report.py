"""The results as a table, as Markdown, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .core import Result

__all__ = ["duration", "markdown", "plot", "print_table"]

_HEAD = ("operation", "n", "ours", "floor", "ratio", "mls-rs", "")


def duration(seconds: float | None) -> str:
    """For people; empty for None."""
    if seconds is None:
        return ""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _row(result: Result) -> tuple[str, ...]:
    ratio = f"{result.seconds / result.floor:.2f}" if result.floor else ""
    times = duration(result.seconds), duration(result.floor), ratio, duration(result.peer)
    return (result.operation, f"{result.size:,}", *times, result.note)


def _sorted(results: Sequence[Result]) -> list[Result]:
    order = list(dict.fromkeys(result.operation for result in results))
    return sorted(results, key=lambda result: (order.index(result.operation), result.size))


def print_table(results: Sequence[Result], console: Console) -> None:
    """On the terminal."""
    table = Table(*_HEAD, title="Suite 0x0001, one operation each, the best of several runs")
    last = ""
    for result in _sorted(results):
        if result.operation != last:
            table.add_section()
        last = result.operation
        table.add_row(*_row(result))
    console.print(table)


def markdown(results: Sequence[Result]) -> str:
    """For benchmarks/README.md."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|--:|--:|--:|--:|--:|---|"]
    lines += ["| " + " | ".join(_row(result)) + " |" for result in _sorted(results)]
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Result], path: Path) -> None:
    """Time against group size, both logarithmic, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 6.5))
    operations = list(dict.fromkeys(result.operation for result in results))
    colours = [f"C{number}" for number in range(10)]
    for number, operation in enumerate(operations):
        mine = sorted((each for each in results if each.operation == operation), key=lambda each: each.size)
        sizes = [each.size for each in mine]
        colour, marker = colours[number % 10], "os"[number // 10]
        axes.plot(sizes, [each.seconds * 1e3 for each in mine], marker + "-", color=colour, label=operation)
        peer = [each for each in mine if each.peer is not None]
        if peer:
            axes.plot([each.size for each in peer], [(each.peer or 0) * 1e3 for each in peer], "x:", color=colour)
    axes.plot([], [], "x:", color="black", label="mls-rs, likewise")
    axes.set(xscale="log", yscale="log", xlabel="members of the group", ylabel="milliseconds per operation")
    axes.set_title("What the core's operations take, cipher suite 0x0001")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
