"""``slixmpp-mls policy``: who may do what in the groups of a device, read from its store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..client import Device, RoomGroup
from ..errors import UsageError
from ..policy import ExternalJoins, Right, RoomPolicy
from ..policy.roster import Roster
from ..store import MemoryStore, SQLiteStore, is_encrypted
from .store import KeyFile, Store, secret_of
from .terminal import clean, console

__all__ = ["app", "read_groups"]

app = typer.Typer(
    name="policy",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_RIGHTS = {
    Right.NOBODY: "nobody",
    Right.ADMINISTRATORS: "administrators",
    Right.MEMBERS: "all members",
}
_EXTERNAL = {
    ExternalJoins.NEVER: "nobody",
    ExternalJoins.DEVICES: "devices of members",
    ExternalJoins.ANYBODY: "whoever the room lets in",
}


@app.callback()
def policy() -> None:
    """Who may do what in an encrypted room.

    Example: `slixmpp-mls policy show bot.db`
    """


@app.command()
def show(
    store: Store,
    room: Annotated[str | None, typer.Argument(metavar="[ROOM]", help="Only this one.", show_default=False)] = None,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """The policy of each group that a device is in, as its store has it. No program may have the store open.

    Exit code 1 if there is none.

    Example: `slixmpp-mls policy show bot.db`

    Example: `slixmpp-mls policy show bot.db coven@rooms.example.org --json`
    """
    found = [group for group in read_groups(store, key_file) if room in (None, group.room)]
    if as_json:
        console.print_json(json.dumps([_record(group.policy, group.roster) for group in found]))
    else:
        for group in found:
            _print(group.policy, group.roster)
    if not found:
        if not as_json:
            console.print(Text("This device is in no such group.", "yellow"))
        raise typer.Exit(1)


def read_groups(path: Path, key_file: Path | None) -> Iterator[RoomGroup]:
    """The groups in a store, which is only read."""
    if not path.exists():
        raise UsageError(f"there is no store {path}")
    secret = secret_of(key_file) if is_encrypted(path) else None
    store = SQLiteStore(path, None, secret=secret)
    try:
        copy = MemoryStore(store.account)
        with store.transaction() as source, copy.transaction() as target:
            for space in source.spaces():
                for key, value in source.items(space):
                    target.put(space, key, value)
    finally:
        store.close()
    device = Device(copy)
    for room in sorted(RoomGroup.known(device)):
        group = RoomGroup(device, room)
        if group.is_member:
            yield group


def _record(policy: RoomPolicy, roster: Roster) -> dict[str, Any]:
    return {
        "room": policy.room,
        "administrators": list(policy.administrators),
        "administrators_present": sorted(policy.administrators_in(roster)),
        "may_add": policy.may_add.name.lower(),
        "may_remove": policy.may_remove.name.lower(),
        "may_change_policy": policy.may_change_policy.name.lower(),
        "may_change_subject": policy.may_change_subject.name.lower(),
        "external_joins": policy.external_joins.name.lower(),
        "own_devices": policy.own_devices,
        "max_leaf_age": policy.max_leaf_age,
        "x509_only": policy.x509_only,
    }


def _print(policy: RoomPolicy, roster: Roster) -> None:
    table = Table(title=Text(clean(policy.room), "bold"), show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    present = policy.administrators_in(roster)
    names = Text()
    for account in policy.administrators:
        names.append(("\n" if names else "") + clean(account))
        if account not in present:
            names.append(" (not in the group)", "dim")
    if not present:
        names.append("\nnone is in the group: all members are administrators", "yellow")
    table.add_row("administrators", names)
    table.add_row("may add people", _RIGHTS[policy.may_add])
    table.add_row("may remove people", _RIGHTS[policy.may_remove])
    table.add_row("may change this policy", _RIGHTS[policy.may_change_policy])
    table.add_row("may change the subject", _RIGHTS[policy.may_change_subject])
    table.add_row("may come in by themselves", _EXTERNAL[policy.external_joins])
    table.add_row("members' own devices", "theirs to add and remove" if policy.own_devices else "as other people's")
    days = policy.max_leaf_age / 86_400
    table.add_row("keys are renewed within", f"{days:g} days" if days else "no limit")
    table.add_row("credentials", "X.509 certificates only" if policy.x509_only else "device lists or certificates")
    console.print(table)
