"""The command ``slixmpp-mls``.

One module for each command; :mod:`.login` and :mod:`.terminal` contain the shared parts.  An error is
one line on stderr and an exit code other than 0; a traceback comes only with ``--debug``.
"""

from __future__ import annotations

import io
import sys
from importlib.metadata import version as installed
from typing import Annotated

import typer
from rich.text import Text

from ..errors import MLSError
from . import ca, devices, inspect, policy, rooms, send, server, store, trust
from .chat import chat
from .demo import demo
from .terminal import console, errors, quiet_libraries

__all__ = ["app", "main"]

_debug = False

app = typer.Typer(
    name="slixmpp-mls",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"slixmpp-mls {installed('slixmpp-mls')}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show logs, and tracebacks of errors.")] = False,
    version: Annotated[  # `slixmpp-mls version` shows more
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """End-to-end encrypted XMPP rooms: Messaging Layer Security for slixmpp.

    Start with: `slixmpp-mls demo`
    """
    global _debug
    _debug = debug
    quiet_libraries(debug)


@app.command()
def version() -> None:
    """Show the versions of this program and of its libraries.

    Example: `slixmpp-mls version`
    """
    for name in ("slixmpp-mls", "slixmpp", "cryptography"):
        console.print(f"{name} {installed(name)}")
    console.print(f"Python {sys.version.split()[0]}")


app.command()(demo.demo)
app.command()(server.server)
app.command()(chat.chat)
app.command()(send.send)
app.command("rooms")(rooms.rooms)
app.command("members")(rooms.members)
app.command()(inspect.inspect)
app.add_typer(devices.app)
app.add_typer(ca.app)
app.add_typer(store.app)
app.add_typer(policy.app)
app.add_typer(trust.app)


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end the program
    try:
        app()
    except (MLSError, OSError) as error:
        if _debug:
            raise
        text = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            text = f"{error.filename}: {error.strerror}"
        errors.print(Text(f"slixmpp-mls: {text}", style="red"), soft_wrap=True)
        sys.exit(1)
