"""The account and store of a command (from options, environment or configuration file), and its session.

See :mod:`slixmpp_mls.runtime.login` for the order of the three.  Commands that only read a store take it from the same
places.  Addresses and stores may be left out on the command line, where they stand first: what has an ``@`` is an
address, unless a file of that name exists.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from slixmpp import ClientXMPP

from ..errors import LoginFailed, UsageError
from ..runtime.connection import KeptConnection, LoginWatch
from ..runtime.login import Login
from ..runtime.login import bare_jid as checked_jid

__all__ = [
    "CA", "AsAccount", "Host", "Login", "Password", "Port", "StoreOption", "ask", "bare_jid", "find_store", "session",
    "split_account", "split_store",
]  # fmt: skip

SECONDS = 60.0  # for a login

Password = Annotated[
    str | None,
    typer.Option(
        envvar="XMPP_PASSWORD",
        help="The password; safer in the variable or the configuration file. Asked for if not given.",
        show_default=False,
    ),
]
Host = Annotated[
    str | None,
    typer.Option(envvar="XMPP_HOST", help="The server's address, if DNS does not have it.", show_default=False),
]
Port = Annotated[
    int | None, typer.Option(envvar="XMPP_PORT", help="Its port for clients, with --host.", show_default="5222")
]
CA = Annotated[
    Path | None,
    typer.Option(
        envvar="XMPP_CA_FILE",
        metavar="FILE",
        help="The authority (PEM) to trust instead of the system's authorities.",
        show_default=False,
    ),
]
AsAccount = Annotated[
    str | None,
    typer.Option("--jid", envvar="XMPP_JID", metavar="JID", help="The account to log in with.", show_default=False),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="STORE",
        envvar="MLS_STORE",
        help="The file with keys and groups.",
        show_default="a file for each account",
    ),
]


def bare_jid(text: str) -> str:
    """An account's or a room's address, checked.

    :raises typer.BadParameter: it is none
    """
    try:
        return checked_jid(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def ask(question: str) -> str:
    """Read a password from the terminal without showing it.

    :raises UsageError: there is no terminal
    """
    if not sys.stdin.isatty():
        raise UsageError("no password: set XMPP_PASSWORD, or write it into the configuration file")
    return getpass.getpass(question)


def find_store(given: Path | None = None) -> Path:
    """The store to work with, which exists.

    :raises UsageError: none is named anywhere, or there is no such file
    """
    named = given or os.environ.get("MLS_STORE")
    try:
        path = Path(named).expanduser() if named else Login.load().store
    except UsageError as error:
        if named is None and "which account" in str(error):
            raise UsageError("which store? name one, or set MLS_STORE or XMPP_JID") from None
        raise
    if not path.exists():
        raise UsageError(f"there is no store {path}")
    return path


def split_store(words: Sequence[str], given: Path | None = None) -> tuple[Path, list[str]]:
    """The store, which may be the first of some words, and the other words.

    :param given: by an option, or by MLS_STORE
    :raises UsageError: as :func:`find_store`
    """
    if words and ("@" not in words[0] or os.path.exists(words[0])):
        return find_store(Path(words[0])), list(words[1:])
    return find_store(given), list(words)


def split_account(words: Sequence[str], others: int) -> tuple[str | None, list[str]]:
    """The account, which may be the first of some words, and the other words, of which there are so many.

    :raises typer.BadParameter: there are more or fewer
    """
    if len(words) == others + 1:
        return bare_jid(words[0]), list(words[1:])
    if len(words) == others:
        return None, list(words)
    raise typer.BadParameter(f"{len(words)} words instead of {others}, or {others + 1} with the account")


@asynccontextmanager
async def session(login: Login, prepare: Callable[[ClientXMPP], None]) -> AsyncIterator[ClientXMPP]:
    """Log in without the plugin's help, stay connected, and log out in the end.

    :param prepare: registers plugins and handlers
    :raises LoginFailed: no session
    """
    client = login.client(ask)
    prepare(client)
    outcome: asyncio.Future[LoginFailed | None] = asyncio.get_running_loop().create_future()

    def finish(problem: LoginFailed | None) -> None:
        if not outcome.done():
            outcome.set_result(problem)

    watch = LoginWatch(client, finish)
    client.add_event_handler("session_start", lambda _: finish(None))

    client.connect()
    try:
        try:
            problem = await asyncio.wait_for(outcome, SECONDS)
        except TimeoutError:
            server = login.host or client.boundjid.domain
            problem = LoginFailed(login.jid, server, "unreachable", "it does not answer", temporary=True)
        finally:
            watch.close()
        if problem is not None:
            raise problem
        client.send_presence()
        kept = KeptConnection(client, presence=True, in_session=True)
        try:
            yield client
        finally:
            await kept.close()
    finally:
        if client.is_connected():
            await client.disconnect()
        client.cancel_connection_attempt()
        client.abort()
