"""Logging in to a server, for the commands that need an account: the options, and the session."""

from __future__ import annotations

import asyncio
import getpass
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from slixmpp import JID, ClientXMPP, InvalidJID

from ..errors import DeliveryError, UsageError

__all__ = ["CA", "Host", "Login", "Password", "Port", "bare_jid", "session"]

SECONDS = 20.0

Password = Annotated[
    str | None,
    typer.Option(envvar="XMPP_PASSWORD", help="Better in the variable than here; asked for if in neither."),
]
Host = Annotated[str | None, typer.Option(envvar="XMPP_HOST", help="The server's address, if DNS does not know it.")]
Port = Annotated[int | None, typer.Option(envvar="XMPP_PORT", help="Its port for clients, with --host.")]
CA = Annotated[
    Path | None,
    typer.Option(envvar="SSL_CERT_FILE", metavar="FILE", help="The authority (PEM) to trust instead of the system's."),
]


def bare_jid(text: str) -> str:
    """An account's or a room's address, checked.

    :raises typer.BadParameter: it is none
    """
    try:
        jid = JID(text)
    except InvalidJID:
        jid = JID()
    if not jid.local or jid.resource:
        raise typer.BadParameter(f"{text!r} is no address of the form name@server")
    return str(jid)


@dataclass(frozen=True, slots=True)
class Login:
    """Which account, and how its server is reached."""

    jid: str
    password: str | None
    host: str | None = None
    port: int | None = None
    ca: Path | None = None

    def client(self) -> ClientXMPP:
        """A client that has not connected yet.

        :raises UsageError: no password, or no such file of authorities
        """
        password = self.password
        if password is None:
            if not sys.stdin.isatty():
                raise UsageError("no password: set XMPP_PASSWORD")
            password = getpass.getpass(f"Password of {self.jid}: ")
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{self.ca} holds no certificates that can be read: {error}") from None
        client = ClientXMPP(self.jid, password, ssl_context=context)
        client.enable_plaintext = False
        # An address by hand is that of the usual port, which wants STARTTLS.
        client.enable_direct_tls = self.host is None
        return client


@asynccontextmanager
async def session(login: Login, prepare: Callable[[ClientXMPP], None]) -> AsyncIterator[ClientXMPP]:
    """Log in, and log out in the end.

    :param prepare: registers plugins and handlers
    :raises DeliveryError: no session
    """
    client = login.client()
    prepare(client)
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    problem = "it does not answer"

    def settle(text: str) -> None:
        if not outcome.done():
            outcome.set_result(text)

    def failed(reason: object) -> None:
        nonlocal problem
        problem = f"no connection: {reason}"
        if login.host is not None:
            settle(problem)  # there is no other address to try

    client.add_event_handler("session_start", lambda _: settle(""))
    client.add_event_handler("failed_all_auth", lambda _: settle("it refuses the password"))
    client.add_event_handler("ssl_invalid_chain", lambda why: settle(f"its certificate does not verify: {why}"))
    client.add_event_handler("connection_failed", failed)
    address = (login.host, login.port or 5222) if login.host else (None, None)
    client.connect(*address)

    def reconnect(_: object) -> None:  # slixmpp leaves that to us
        client.connect(*address)

    try:
        try:
            refused = await asyncio.wait_for(outcome, SECONDS)
        except TimeoutError:
            refused = problem
        if refused:
            raise DeliveryError(f"{login.jid} can not log in at {login.host or JID(login.jid).domain}: {refused}")
        client.add_event_handler("session_start", lambda _: client.send_presence())
        client.add_event_handler("disconnected", reconnect)
        client.send_presence()
        yield client
    finally:
        client.del_event_handler("disconnected", reconnect)
        client.del_event_handler("connection_failed", failed)
        if client.is_connected():
            await client.disconnect()
        client.cancel_connection_attempt()
        client.abort()
