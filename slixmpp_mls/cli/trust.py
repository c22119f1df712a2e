"""``slixmpp-mls trust``: verifies keys in a device's store.

Nothing here needs a connection.  Other devices learn the decisions when the program that uses the store is next online
(see :mod:`slixmpp_mls.account.trust`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..account.trust import qr_code
from ..authentication import KnownKey, Source, TrustManagement, TrustTable
from ..errors import UsageError
from ..identity import TrustLevel
from ..store import SQLiteStore, is_encrypted
from .login import StoreOption, bare_jid, split_store
from .store import KeyFile, secret_of
from .terminal import clean, console, iso

__all__ = ["app"]

app = typer.Typer(name="trust", no_args_is_help=True, rich_markup_mode="markdown")

STYLES: dict[TrustLevel | None, str] = {
    TrustLevel.VERIFIED: "green",
    TrustLevel.TRUSTED: "",
    TrustLevel.UNDECIDED: "yellow",
    TrustLevel.DISTRUSTED: "red",
}
_HOW = {
    Source.NONE: "seen, no more",
    Source.SELF: "this device",
    Source.FIRST_USE: "since we first met it",
    Source.PERSON: "decided here",
    Source.OWN_DEVICE: "our own device",
    Source.CONTACT: "another device of the account",
    Source.INTRODUCTION: "introduced",
    Source.REPLACED: "replaced by its owner",
}

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback()
def trust() -> None:
    """Verify keys: compare fingerprints with other people. No program may have the store open.

    Your other devices, and theirs, learn your decisions when the program is next online.

    Example: `slixmpp-mls trust show bot.db`
    """


@app.command()
def show(
    words: Annotated[list[str] | None, typer.Argument(metavar="[STORE]", show_default=False)] = None,
    store: StoreOption = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the QR code there as well.")] = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
) -> None:
    """Show this device's fingerprint, and a QR code that others can scan.

    The code is an `xmpp:` URI (XEP-0434) with the keys of all devices of the account that were verified here.

    Example: `slixmpp-mls trust show bot.db --png me.png`
    """
    path, _ = _split(words, store, 0)
    with _open(path, key_file) as management:
        own = [key for key in management.table.of(management.account) if key.source is Source.SELF]
        if not own:
            raise UsageError("this store has not been online yet: it has no device")
        uri = management.uri()
    code = qr_code(uri)
    if png is not None:
        code.save(str(png), kind="png", scale=8)
    if as_json:
        console.print_json(json.dumps({"uri": uri, "keys": [_record(key) for key in own]}))
        return
    for key in own:
        console.print(Text(f"{key.account}/{key.device}", "bold"))
        console.print(Text(key.fingerprint, "cyan"), soft_wrap=True)
    console.print(Text(uri), soft_wrap=True)
    if console.is_terminal:
        code.terminal(compact=True)
    if png is not None:
        console.print(Text(f"The QR code is in {png}."))


@app.command("list")
def list_command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[STORE] [ACCOUNT]", help="Only its keys.", show_default=False)
    ] = None,
    store: StoreOption = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
) -> None:
    """List the keys that a device knows, with the trust level of each and its reason.

    Exit code 1 if there are none.

    Example: `slixmpp-mls trust list bot.db`

    Example: `slixmpp-mls trust list bot.db bob@example.org --json`
    """
    path, rest = _split(words, store, 1)
    with _open(path, key_file) as management:
        table = management.table
        keys = table.of(bare_jid(rest[0])) if rest else table.everything()
    _print(keys, as_json)
    if not keys:
        if not as_json:
            console.print(Text("No keys are known.", "yellow"))
        raise typer.Exit(1)


@app.command()
def verify(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[STORE] ACCOUNT [FINGERPRINT|URI ...]",
            help="The account, and the fingerprints or URI that its device shows; asked if not given.",
        ),
    ],
    store: StoreOption = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
) -> None:
    """Mark keys as verified, after you have compared them with the account's own devices.

    Example: `slixmpp-mls trust verify bot.db bob@example.org`

    Example: `slixmpp-mls trust verify bot.db bob@example.org "72cd6e84 22c407fb 6d098690 f1130b7d ..."`

    Example: `slixmpp-mls trust verify bot.db bob@example.org "xmpp:bob@example.org?trust-message;encryption=..."`
    """
    path, (account, *proofs) = _split_owner(words, store)
    owner = bare_jid(account)
    with _open(path, key_file) as management:
        given = proofs or [key.fingerprint for key in _compare(management.table.of(owner), owner)]
        keys = management.verify(owner, *given)
    _print(keys, as_json)
    if not keys:
        raise typer.Exit(1)


@app.command()
def distrust(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[STORE] ACCOUNT FINGERPRINT ...", help="The account, and fingerprints of 64 hexadecimal digits."
        ),
    ],
    store: StoreOption = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
) -> None:
    """Mark keys as distrusted: a device was stolen, or never belonged to the account.

    Example: `slixmpp-mls trust distrust bot.db bob@example.org "72cd6e84 22c407fb 6d098690 f1130b7d ..."`
    """
    path, (account, *fingerprints) = _split_owner(words, store)
    if not fingerprints:
        raise typer.BadParameter("no FINGERPRINT")
    with _open(path, key_file) as management:
        keys = management.distrust(bare_jid(account), *fingerprints)
    _print(keys, as_json)


def _split(words: list[str] | None, store: Path | None, most: int) -> tuple[Path, list[str]]:
    path, rest = split_store(words or (), store)
    if len(rest) > most:
        raise typer.BadParameter(f"too many words: {rest[most]!r}")
    return path, rest


def _split_owner(words: list[str], store: Path | None) -> tuple[Path, list[str]]:
    path, rest = split_store(words, store)
    if not rest:
        raise typer.BadParameter("no ACCOUNT")
    return path, rest


@contextmanager
def _open(path: Path, key_file: Path | None) -> Iterator[TrustManagement]:
    secret = secret_of(key_file) if is_encrypted(path) else None
    store = SQLiteStore(path, None, secret=secret)
    try:
        yield TrustManagement(TrustTable(store), store.account)
    finally:
        store.close()


def _compare(keys: Iterable[KnownKey], account: str) -> list[KnownKey]:
    """Let somebody look at the fingerprints that are not verified yet."""
    open_ones = [key for key in keys if key.level is not TrustLevel.VERIFIED and key.source is not Source.REPLACED]
    if not open_ones:
        raise UsageError(f"no key of {account} waits to be compared; give a fingerprint or a URI")
    agreed = []
    for key in open_ones:
        console.print(Text.assemble((f"{account}/{key.device or '?'}", "bold"), f"  {key.fingerprint}"), soft_wrap=True)
        if typer.confirm(f"Does {account} show the same?"):
            agreed.append(key)
    return agreed


def _record(key: KnownKey) -> dict[str, Any]:
    return {
        "account": key.account,
        "device": key.device,
        "fingerprint": key.fingerprint,
        "level": str(key.level),
        "how": key.source.name.lower(),
        "since": iso(key.since or None),
        "by": key.by,
    }


def _print(keys: Iterable[KnownKey], as_json: bool) -> None:
    if as_json:
        console.print_json(json.dumps([_record(key) for key in keys]))
        return
    table = Table(show_edge=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("device", "fingerprint", "level", "how", "since"):
        table.add_column(column, header_style="dim", overflow="fold", no_wrap=column in ("device", "fingerprint"))
    for key in keys:
        how = _HOW[key.source] + (f": {key.by}" if key.by else "")
        since = f"{datetime.fromtimestamp(key.since, UTC):%Y-%m-%d %H:%M}" if key.since else ""
        device = Text(f"{key.account}/{key.device or '?'}", "bold")
        digits = key.fingerprint
        prints = f"{digits[:35]}\n{digits[36:]}"
        table.add_row(device, Text(prints, "cyan"), Text(str(key.level), STYLES[key.level]), Text(clean(how)), since)
    if table.row_count:
        console.print(table)
