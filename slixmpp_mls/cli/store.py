"""``slixmpp-mls store``: encrypts, decrypts and checks the file with a device's keys and groups."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..client.storage.records import ROOMS, room_of
from ..errors import StoreError, UsageError
from ..store import SQLiteStore, StoreSecret, change_secret, decrypt, encrypt, is_encrypted
from .login import find_store
from .terminal import clean, console, waiting

__all__ = ["VARIABLE", "KeyFile", "app", "secret_if_needed", "secret_of"]

VARIABLE = "MLS_STORE_PASSPHRASE"
NEW_VARIABLE = "MLS_STORE_NEW_PASSPHRASE"

app = typer.Typer(
    name="store",
    help=(
        "The file with a device's keys and groups: encrypt it, decrypt it, check it. No program may have it open.\n\n"
        "Example: `slixmpp-mls store check bot.db`"
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Store = Annotated[
    Path | None,
    typer.Argument(
        metavar="[STORE]", envvar="MLS_STORE", help="The file.", show_default="that of the account XMPP_JID"
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="MLS_STORE_KEY_FILE",
        metavar="FILE",
        help=f"The key file that opens it; without one, a passphrase from {VARIABLE} or the terminal.",
    ),
]


def secret_of(
    key_file: Path | None, *, variable: str = VARIABLE, prompt: str = "Passphrase of the store", new: bool = False
) -> StoreSecret:
    """The secret of a store: from the key file, else the variable, else the terminal.

    :param new: ask twice
    :raises UsageError: there is nobody to type it, or they typed two different ones
    """
    if key_file is not None:
        return StoreSecret.of_key_file(key_file)
    text = os.environ.get(variable)
    if text is None:
        if not sys.stdin.isatty():
            raise UsageError(f"no passphrase: set {variable}, or give a key file")
        text = getpass.getpass(f"{prompt}: ")
        if new and getpass.getpass("Again: ") != text:
            raise UsageError("the two passphrases differ; nothing has changed")
    return StoreSecret.of_passphrase(text)


def secret_if_needed(path: Path, key_file: Path | None) -> StoreSecret | None:
    """What opens a store, or encrypts a new one; None if it is not encrypted, and is not to be."""
    wanted = is_encrypted(path) if path.exists() else key_file is not None or VARIABLE in os.environ
    return secret_of(key_file) if wanted else None


@app.command("encrypt")
def encrypt_command(store: Store = None, key_file: KeyFile = None) -> None:
    """Encrypt a store under a passphrase or a key file.

    Example: `slixmpp-mls store encrypt bot.db`

    Example: `openssl rand -out bot.key 32 && slixmpp-mls store encrypt bot.db --key-file bot.key`
    """
    store = find_store(store)
    secret = secret_of(key_file, prompt="New passphrase", new=True)
    with waiting("Encrypting"):
        encrypt(store, secret)
    console.print(Text(f"{store} is encrypted. Its key is in {store}.wrapped-key: keep the two together."))


@app.command("decrypt")
def decrypt_command(store: Store = None, key_file: KeyFile = None) -> None:
    """Decrypt an encrypted store.

    Example: `slixmpp-mls store decrypt bot.db`
    """
    store = find_store(store)
    secret = secret_of(key_file)
    with waiting("Decrypting"):
        decrypt(store, secret)
    console.print(Text(f"{store} is not encrypted any more."))


@app.command("change-passphrase")
def change_passphrase(
    store: Store = None,
    key_file: KeyFile = None,
    new_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"The new key file; without one, a passphrase from {NEW_VARIABLE} or the terminal."
        ),
    ] = None,
) -> None:
    """Change the passphrase or key file; the store itself is not rewritten.

    Example: `slixmpp-mls store change-passphrase bot.db`

    Example: `slixmpp-mls store change-passphrase bot.db --new-key-file bot.key`
    """
    store = find_store(store)
    old = secret_of(key_file, prompt="Present passphrase")
    new = secret_of(new_key_file, variable=NEW_VARIABLE, prompt="New passphrase", new=True)
    with waiting("Changing"):
        change_secret(store, old, new)
    console.print(Text("Changed. A copy of the old .wrapped-key file still opens with the old passphrase: delete it."))


@app.command()
def check(
    store: Store = None,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show the store's account and encryption, and check that the file is intact.

    Exit code 1 if it is not; the error names what is wrong.

    Example: `slixmpp-mls store check bot.db`
    """
    store = find_store(store)
    if not store.is_file() or not store.stat().st_size:
        raise UsageError(f"no store at {store}")
    opened = SQLiteStore(store, None, secret=secret_of(key_file) if is_encrypted(store) else None)
    try:
        with opened.transaction() as transaction:
            keys = [key for key, _ in transaction.items(ROOMS)]
        rooms = [room for room in map(room_of, keys) if room is not None]
        damage = opened.check()
        wrong = ", ".join(repr(key)[:80] for key in keys if room_of(key) is None)
        if wrong:
            damage.insert(0, f"it has rooms whose address is none, which are passed over: {wrong:.400}")
        found = {"account": opened.account, "encrypted": opened.encrypted, "rooms": rooms, "damage": damage}
    finally:
        opened.close()
    if as_json:
        console.print_json(json.dumps(found))
    else:
        console.print(Text(f"{store} belongs to {clean(opened.account)}"))
        console.print("encrypted" if opened.encrypted else Text("not encrypted", "yellow"))
        count = "1 room" if len(rooms) == 1 else f"{len(rooms) or 'no'} rooms"
        console.print(Text(count + "".join(f"\n  {clean(room)}" for room in rooms)))
    if damage:
        raise StoreError(f"{store} is damaged: {'; '.join(damage[:3])}; docs/store.md says what to do")
