"""``slixmpp-mls rooms`` and ``slixmpp-mls members``: read from a device's store.  Nothing here needs a connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..authentication import TrustTable
from ..identity import TrustLevel, key_identifier
from ..mls.crypto.cipher_suite import CipherSuite
from ..store import MemoryStore
from .login import StoreOption, bare_jid, split_store
from .policy import copy_of, groups_at, groups_in, partner_in
from .store import KeyFile
from .terminal import clean, console, iso
from .trust import STYLES

__all__ = ["members", "rooms"]

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def _table(*columns: str) -> Iterator[Table]:
    table = Table(show_edge=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        # Addresses, ids and fingerprints must not be broken into lines.
        table.add_column(column, header_style="dim", no_wrap=True, overflow="ignore")
    yield table
    console.print(table, soft_wrap=True)


def rooms(
    words: Annotated[list[str] | None, typer.Argument(metavar="[STORE]", show_default=False)] = None,
    store: StoreOption = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
) -> None:
    """List the encrypted rooms in a device's store. No program may have the store open.

    Exit code 1 if there are none.

    Example: `slixmpp-mls rooms bot.db`
    """
    path, rest = split_store(words or (), store)
    if rest:
        raise typer.BadParameter(f"too many words: {rest[0]!r}")
    copy = copy_of(path, key_file)
    found = list(groups_in(copy))
    partners = {group.room: partner_in(group, copy.account) for group in found}
    if as_json:
        records = [
            {
                "room": group.room,
                "conversation_with": partners[group.room],
                "members": len(group.roster),
                "accounts": sorted(group.roster.accounts()),
                "epoch": group.mls.epoch,
                "suite": group.mls.suite.id,
                "post_quantum": {
                    "secrecy": group.mls.suite.secrecy_is_post_quantum,
                    "signatures": group.mls.suite.signatures_are_post_quantum,
                },
            }
            for group in found
        ]
        console.print_json(json.dumps(records))
    elif found:
        columns = ["room", "people", "devices", "epoch", "post-quantum"]
        talks = any(partners.values())
        with _table(*columns, *["conversation with"] * talks) as table:
            for group in found:
                people, devices = len(list(group.roster.accounts())), len(group.roster)
                withstands = _post_quantum(group.mls.suite)
                row: list[Text | str] = [
                    Text(clean(group.room), "bold"),
                    str(people),
                    str(devices),
                    str(group.mls.epoch),
                    withstands,
                ]
                table.add_row(*row, *[clean(partners[group.room] or "")] * talks)
    else:
        console.print(Text("This device is in no room.", "yellow"))
    if not found:
        raise typer.Exit(1)


def _post_quantum(suite: CipherSuite) -> str:
    """What of a group withstands quantum computers.  Recorded messages need secrecy only; signatures are of today."""
    if not suite.secrecy_is_post_quantum:
        return "no"
    return "yes" if suite.signatures_are_post_quantum else "for secrecy only"


def members(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[STORE] ROOM_OR_ACCOUNT", help="Of a room or a person."),
    ],
    store: StoreOption = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
) -> None:
    """List the members of an encrypted room, by device, with the trust level of each key, from a store.

    Example: `slixmpp-mls members coven@rooms.example.org --store bot.db`
    """
    path, rest = split_store(words, store)
    if len(rest) != 1:
        raise typer.BadParameter("give one ROOM_OR_ACCOUNT")
    copy = copy_of(path, key_file)
    group = groups_at(copy, bare_jid(rest[0]))[0]
    levels = _levels(copy)
    found = [
        (member, levels.get((member.account, key_identifier(member.signature_key)))) for member in group.members.all()
    ]
    if as_json:
        records = [
            {
                "account": member.account,
                "device": member.device,
                "fingerprint": member.fingerprint,
                "level": str(level or TrustLevel.UNDECIDED),
                "since": iso(member.since),
            }
            for member, level in found
        ]
        console.print_json(json.dumps(records))
        return
    with _table("device", "level", "since", "fingerprint") as table:
        for member, level in found:
            known = level or TrustLevel.UNDECIDED
            since = (iso(member.since) or "").partition("T")[0]
            device = Text(f"{member.account}/{member.device}", "bold")
            table.add_row(device, Text(str(known), STYLES[known]), since, Text(member.fingerprint, "cyan"))


def _levels(store: MemoryStore) -> dict[tuple[str, bytes], TrustLevel]:
    return {(key.account, key.identifier): key.level for key in TrustTable(store).everything()}
