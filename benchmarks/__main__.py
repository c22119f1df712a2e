"""``python -m benchmarks``: tables and a plot of what things cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slixmpp_mls.mls import ed25519

from . import peers, report
from .core import Result, run

application = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@application.command()
def main(
    sizes: Annotated[str, typer.Option(help="Group sizes, with commas.")] = "2,10,100,1000,10000",
    peer: Annotated[bool, typer.Option(help="Run mls-rs beside us, if it is installed.")] = True,
    svg: Annotated[Path | None, typer.Option(help="Write the plot here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
) -> None:
    """Measure the core: each operation beside the sum of its primitives and beside mls-rs.

    Example: `python -m benchmarks --sizes 2,100,1000 --svg benchmarks/core.svg`

    50,000 members take some minutes: `--sizes 50000 --no-peer`.
    """
    console = Console()
    wanted = [int(size) for size in sizes.split(",")]
    results: list[Result] = []
    with console.status("starting") as status:
        for result in run(wanted, with_peer=peer and peers.available(), progress=status.update):
            results.append(result)
    report.print_table(results, console)
    console.print(f"Ed25519 is verified by {ed25519.BACKEND}; Python {sys.version.split()[0]}.")
    if markdown is not None:
        markdown.write_text(report.markdown(results))
    if svg is not None:
        report.plot(results, svg)


if __name__ == "__main__":
    application()
