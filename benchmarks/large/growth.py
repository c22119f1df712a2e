"""How the cost of each operation on a group grows with its members: processor time of one client, on a real server.

A cost that is n^x times another one for n times as many members shows as a line of the slope x where both axes are
logarithmic.  The slope is that of the line which is nearest to all points (least squares).
"""

from __future__ import annotations

import math
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from slixmpp_mls.devserver import DevServer

from ..rooms.crew import Crew
from . import crowd

__all__ = ["STEEPEST", "Growth", "markdown", "measure", "print_table", "slope"]

STEEPEST = 1.1
"""The slope above which an operation fails."""
_ACCOUNTS_AT_ONCE = 60  # in one call of `add`
_REMOVED = 31  # accounts, at most: all of their devices go by one Commit
_NOTICED = 0.02  # seconds: what never takes longer has no slope that could be measured


@dataclass(frozen=True, slots=True)
class Growth:
    """The costs of one operation.

    :ivar seconds: of the processor, by the number of members
    """

    operation: str
    seconds: Mapping[int, float]

    @property
    def slope(self) -> float | None:
        """The exponent; None if the operation is too fast to tell."""
        return slope(self.seconds) if max(self.seconds.values()) > _NOTICED else None

    @property
    def passes(self) -> bool:
        """Whether it grows as it may."""
        return self.slope is None or self.slope <= STEEPEST


def slope(points: Mapping[int, float]) -> float:
    """The slope of the line nearest to the points, with logarithmic axes."""
    places = [(math.log(members), math.log(max(seconds, 1e-6))) for members, seconds in points.items()]
    middle, height = (sum(each) / len(places) for each in zip(*places, strict=True))
    spread = sum((x - middle) ** 2 for x, _ in places)
    steepness: float = sum((x - middle) * (y - height) for x, y in places) / spread
    return steepness


async def measure(
    server: DevServer, sizes: list[int], pool: Path | None, progress: Callable[[str], None]
) -> list[Growth]:
    """Make a group of each size, and measure what its host does.

    :param pool: the file of the crowd, to be made or to be used again
    """
    costs: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        pool = (pool or Path(name) / "crowd").absolute()
        crowd.make(pool, -(-max(sizes) // crowd.DEVICES), 1, progress)
        for size in sizes:
            progress(f"{size:,} members")
            async with await Crew.gather(server, 1, Path(name), program="benchmarks.large.member") as crew:
                for operation, seconds in (await _costs(server, crew, size, pool)).items():
                    costs.setdefault(operation, {})[size] = seconds
                    progress(f"  {operation}: {seconds:.3f} s")
    return [Growth(operation, points) for operation, points in costs.items()]


async def _costs(server: DevServer, crew: Crew, size: int, pool: Path) -> dict[str, float]:
    (host,) = crew.members
    room = f"growth-{uuid.uuid4().hex[:8]}@{server.rooms}"
    await host.do("found", room=room, crowd=str(pool), most=size + crowd.DEVICES)
    accounts = -(-size // crowd.DEVICES)

    async def cpu() -> float:
        return float((await host.do("cost"))["cpu"])

    begun = await cpu()
    for start in range(0, accounts, _ACCOUNTS_AT_ONCE):
        await host.do("grow", room=room, start=start, count=min(_ACCOUNTS_AT_ONCE, accounts - start))
    found = {"add all, in batches": await cpu() - begun}
    found |= await host.do("operations", room=room)
    begun = await cpu()
    await host.do("shrink", room=room, start=0, count=min(accounts // 2, _REMOVED))
    return {**found, f"remove {_REMOVED * crowd.DEVICES} devices, or half": await cpu() - begun}


def _rows(growths: list[Growth]) -> list[tuple[str, ...]]:
    return [
        (
            each.operation,
            *(f"{seconds * 1000:,.0f} ms" for seconds in each.seconds.values()),
            "-" if each.slope is None else f"{each.slope:.2f}",
            "passes" if each.passes else "FAILS",
        )
        for each in growths
    ]


def _columns(growths: list[Growth]) -> list[str]:
    return ["operation", *(f"{size:,}" for size in growths[0].seconds), "exponent", f"at most {STEEPEST}"]


def print_table(growths: list[Growth], console: Console) -> None:
    """A row for each operation."""
    table = Table(*_columns(growths))
    for row in _rows(growths):
        table.add_row(*row)
    console.print(table)


def markdown(growths: list[Growth]) -> str:
    """The same for a file."""
    columns = _columns(growths)
    lines = [columns, ["---", *["--:"] * (len(columns) - 2), "---"], *_rows(growths)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
