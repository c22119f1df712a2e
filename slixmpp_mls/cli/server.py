"""``slixmpp-mls server``: a temporary XMPP server for the development of bots."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..devserver import DevServer, Ejabberd, Prosody
from .terminal import console, new_password, reporting, run, until_interrupted

__all__ = ["Kind", "describe", "server"]


class Kind(StrEnum):
    """The servers that there are."""

    prosody = "prosody"
    ejabberd = "ejabberd"


KINDS: dict[Kind, type[DevServer]] = {Kind.prosody: Prosody, Kind.ejabberd: Ejabberd}


def server(
    kind: Annotated[Kind, typer.Option(help="The server software.")] = Kind.prosody,
    account: Annotated[
        list[str] | None, typer.Option(help="An account to create; may be repeated.", show_default="alice, bob, carol")
    ] = None,
    password: Annotated[
        str | None, typer.Option(help="The password of all accounts.", show_default="a random one for each")
    ] = None,
    persist: Annotated[
        Path | None,
        typer.Option(
            "--persist",
            "--directory",
            metavar="FOLDER",
            help="Keep the server's files there, and go on with those of an earlier one: accounts, rooms, stores.",
            show_default="a folder that is deleted",
        ),
    ] = None,
) -> None:
    """Run a temporary XMPP server on this machine, with test accounts.

    It runs until Ctrl-C and listens on the loopback interface only. If it is not installed, it is fetched once (Debian
    and Ubuntu, no root needed). It prints the login data for bots and for the other commands.

    Example: `slixmpp-mls server`

    Example: `slixmpp-mls server --persist ~/xmpp`

    Example: `slixmpp-mls server --kind ejabberd --account alice --account echo`
    """
    run(_server(kind, account or ["alice", "bob", "carol"], password, persist))


async def _server(kind: Kind, names: list[str], password: str | None, folder: Path | None) -> None:
    with reporting() as progress:
        running = KINDS[kind](directory=folder, progress=progress)
        progress(f"Starting {running.software}", 0, 0)
        try:
            await running.start()
            for name in names:
                progress(f"Making {name}'s account", 0, 0)
                before = running.accounts.get(f"{name}@{running.domain}")
                await running.register(name, password or before or new_password())
        except BaseException:
            await running.close()
            raise
    try:
        describe(running)
        console.print(Text("\nCtrl-C stops it.", style="dim"))
        await until_interrupted()
    finally:
        await running.close()


def describe(server: DevServer, stores: dict[str, Path] | None = None) -> None:
    """Print how to log in, and write a file of variables for each account.

    :param stores: files of devices that exist, by bare JID
    """
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("server", style="bold"), Text(f"{server.software}, at {server.host} port {server.port}"))
    table.add_row(Text("rooms", style="bold"), Text(f"anything@{server.rooms}"))
    table.add_row(Text("authority", style="bold"), Text(str(server.ca_file)))
    for jid, password in server.accounts.items():
        table.add_row(Text("account", style="bold"), Text.assemble(jid, ("  password ", "dim"), password))
    console.print(table)
    console.print(Text("\nTo log in from another terminal, paste one of these lines there:", style="dim"))
    common = {"XMPP_HOST": server.host, "XMPP_PORT": str(server.port), "SSL_CERT_FILE": str(server.ca_file)}
    for jid, password in server.accounts.items():
        variables = {"XMPP_JID": jid, "XMPP_PASSWORD": password} | common
        name = jid.partition("@")[0]
        # A store belongs to this server: with another one of the same name, its rooms would be missing.
        variables["MLS_STORE"] = str((stores or {}).get(jid) or server.directory / f"{name}.db")
        path = server.directory / f"{name}.env"
        path.touch(mode=0o600)
        path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
        console.print(Text(f". {shlex.quote(str(path))}"), soft_wrap=True)
    first = next(iter(server.accounts))
    console.print(Text("\nThen, for example:", style="dim"))
    console.print(Text(f"slixmpp-mls chat {first} coven@{server.rooms} --create"), soft_wrap=True)
