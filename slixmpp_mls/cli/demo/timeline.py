"""What the demo puts on the screen: rows of time, person and event, and a picture of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ...errors import MLSError
from ..terminal import colour_of

__all__ = ["DemoFailed", "Timeline", "save_picture"]


class DemoFailed(MLSError):
    """Something that the demo shows is not so."""


class Timeline:
    """Rows on a screen.

    :param announce: says on the screen, for the moment, what is being waited for
    :ivar expected: what that was
    """

    def __init__(self, screen: Console, announce: Callable[[str], None]) -> None:
        self.expected = ""
        self._announce = announce
        self._screen = screen
        self._started = time.monotonic()

    def expect(self, what: str) -> None:
        """Something may take a moment."""
        self.expected = what
        self._announce(what)

    def chapter(self, title: str) -> None:
        """Something new begins."""
        self._screen.print()
        self._screen.print(Text(title, style="bold underline"))

    def row(self, who: str, what: Text | str) -> None:
        """Something has happened."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=5, justify="right", no_wrap=True)
        grid.add_column(width=5, no_wrap=True)
        grid.add_column(overflow="fold")
        clock = Text(f"{time.monotonic() - self._started:.1f}s", style="dim")
        grid.add_row(clock, Text(who, style=f"bold {colour_of(who)}" if who else ""), what)
        self._screen.print(grid)

    def check(self, who: str, claim: str, holds: bool) -> None:
        """Something must be so.

        :raises DemoFailed: it is not
        """
        if not holds:
            raise DemoFailed(f"what should be so is not: {who}{': ' if who else ''}{claim}")
        self.row(who, Text.assemble(("✓ ", "bold green"), claim))

    def show(self, what: RenderableType) -> None:
        """Anything else."""
        self._screen.print(what)


def save_picture(screen: Console, path: Path, title: str) -> None:
    """What a recording console has shown, as SVG, with the reader's own fonts instead of fetched ones.

    :raises OSError: the file cannot be written
    """
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    screen.save_svg(str(path), title=title, code_format=without_fonts.replace("Fira Code", "monospace"))
