"""``slixmpp-mls chat``: encrypted rooms and conversations in a terminal."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ...errors import UsageError
from ..login import CA, Host, Login, Password, Port, StoreOption, bare_jid, session
from ..store import KeyFile, secret_if_needed
from ..terminal import console, errors, run, waiting
from .model import Chat
from .plain import Plain

if TYPE_CHECKING:
    from .window import Window

__all__ = ["chat"]


def chat(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JID] [ROOM_OR_ACCOUNT]",
            help="Your account, if XMPP_JID does not name it; the room or person to talk with.",
            show_default=False,
        ),
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Create the room.")] = False,
    add: Annotated[list[str] | None, typer.Option(metavar="JID", help="Add this account; may be repeated.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Read and write lines instead of filling the terminal.")
    ] = False,
    typing: Annotated[bool, typer.Option(help="Show others in windows that you are typing.")] = True,
    store: StoreOption = None,
    key_file: KeyFile = None,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """Talk in encrypted rooms, and with single people.

    On a terminal, a window shows all your rooms; it needs the extra `chat` (Textual). Into a pipe, with --plain, or
    without that extra, it reads and writes lines: type a line to send it, /help for commands. Without --create, it
    waits until a member of the room adds you. What it has not shown stays in the store for the next program.

    Exit codes:

    - 0: what was to be sent is in the rooms' archives
    - 75: something is encrypted and stored, and is sent the next time
    - 69: something was not sent

    Example: `slixmpp-mls chat alice@example.org coven@rooms.example.org --create --add bob@example.org`

    Example: `slixmpp-mls chat bob@example.org`
    """
    login, address = _who_with_whom(addresses or [], password, host, port, ca, store, key_file)
    window = not plain and _can_draw()
    if address is None and (not window or create or add):
        raise typer.BadParameter("which room or person?")
    people = [bare_jid(one) for one in add or ()]
    login.make_folder()
    code = 0

    async def talk() -> None:
        nonlocal code
        code = await _talk(
            login, Chat(None if window else address, shows_typing=typing), address, window, create, people
        )

    run(talk())
    if code:
        raise typer.Exit(code)


def _who_with_whom(words: list[str], *options: object) -> tuple[Login, str | None]:
    """The account, and the address of the talk: one word is the talk if the account is known, else the account."""
    settings = dict(zip(("password", "host", "port", "ca", "store", "key_file"), options, strict=True))
    if len(words) > 2:
        raise typer.BadParameter(f"{len(words)} addresses instead of two at most")
    given = [bare_jid(word) for word in words]
    if len(given) == 2:
        return Login.load(given[0], **settings), given[1]
    try:
        return Login.load(None, **settings), given[0] if given else None
    except UsageError as error:
        if not given or "which account" not in str(error):
            raise
        return Login.load(given[0], **settings), None


def _can_draw() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        return False
    if importlib.util.find_spec("textual") is None:
        errors.print(Text("For windows: pip install 'slixmpp-mls[chat]'", "dim"), soft_wrap=True)
        return False
    return True


async def _talk(login: Login, chat: Chat, address: str | None, window: bool, create: bool, people: list[str]) -> int:
    view: Plain | Window = _window(chat, address, create, people) if window else Plain(chat)
    settings = {"store": str(login.store), "passphrase": secret_if_needed(login.store, login.key_file)}
    async with session(login, lambda client: chat.prepare(client, settings)) as client:
        try:
            with waiting("Publishing keys"):
                await chat.mls.ready()
            if isinstance(view, Plain):
                assert address is not None  # asked for above
                console.print(Text(f"This device's fingerprint: {chat.mls.fingerprint}", "dim"), soft_wrap=True)
                await view.run(address, create=create, people=people)
            else:
                try:
                    await view.run_async()
                finally:
                    await view.stop()
            code, problem = await chat.finish()
        finally:
            chat.close()
            client.plugin.disable("mls")  # type: ignore[attr-defined]
    if problem:
        style = "yellow" if code == os.EX_TEMPFAIL else "red"
        errors.print(Text(f"slixmpp-mls chat: {problem}", style), soft_wrap=True)
    return code


def _window(chat: Chat, address: str | None, create: bool, people: list[str]) -> Window:
    from .window import Window  # only where the extra `chat` is installed

    return Window(chat, address, create=create, people=people)
