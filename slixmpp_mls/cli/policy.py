"""``slixmpp-mls policy``: shows and changes the rights in a device's groups."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..client import Device, RoomGroup
from ..errors import NoAnswer, PeerError, UsageError
from ..plugin import MLS
from ..policy import ExternalJoins, Right, RoomPolicy
from ..policy.codecs import MAX_ROOTS, RootHashes
from ..policy.roster import Roster
from ..runtime.connection import connected
from ..store import MemoryStore, SQLiteStore, copied_to_memory, is_encrypted
from .login import (
    CA,
    AsAccount,
    Host,
    Login,
    Password,
    Port,
    StoreOption,
    ask,
    bare_jid,
    find_store,
    split_store,
)  # fmt: skip
from .store import KeyFile, secret_if_needed, secret_of
from .terminal import clean, console, run

__all__ = ["app", "copy_of", "groups_at", "groups_in", "partner_in", "print_policy", "read_groups"]

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
    """Show or change the rights in an encrypted room.

    Example: `slixmpp-mls policy show bot.db`
    """


@app.command()
def show(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[STORE] [ROOM]", help="Only this room.", show_default=False)
    ] = None,
    store: StoreOption = None,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show the policy of each group in a device's store. No program may have the store open.

    Exit code 1 if there is none.

    Example: `slixmpp-mls policy show bot.db`

    Example: `slixmpp-mls policy show bot.db coven@rooms.example.org --json`
    """
    path, rest = split_store(words or (), store)
    room = bare_jid(rest[0]) if rest else None
    copy = copy_of(path, key_file)
    found = list(groups_in(copy)) if room is None else groups_at(copy, room)
    if as_json:
        console.print_json(json.dumps([_record(group.policy, group.roster) for group in found]))
    else:
        for group in found:
            print_policy(group.policy, group.roster)
    if not found:
        if not as_json:
            console.print(Text("This device is in no such group.", "yellow"))
        raise typer.Exit(1)


@app.command("set")
def set_command(
    room: Annotated[str, typer.Argument(metavar="ROOM", help="The room's address.")],
    changes: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE ...", help="Settings, named as `show --json` prints them.")
    ],
    despite_doubts: Annotated[
        bool,
        typer.Option("--despite-doubts", help="Name administrators whose clients are in doubt."),
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds for the whole command.")] = 60.0,
    jid: AsAccount = None,
    store: StoreOption = None,
    key_file: KeyFile = None,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """Change the policy of a room's group, as the device of a store, which must not be running.

    The rights are for nobody, administrators or members; external_joins is never, devices or anybody; administrators
    are addresses with commas between them; max_leaf_age is in seconds, or in days as in 7d; roots are SHA-256 hashes of
    certificates in hexadecimal, with commas between them.

    Example: `slixmpp-mls policy set coven@rooms.example.org may_add=members max_leaf_age=7d`
    """
    wanted = dict(_change(one) for one in changes)
    login = Login.load(jid, password=password, host=host, port=port, ca=ca, store=store, key_file=key_file)
    find_store(login.store)
    address = bare_jid(room)

    async def work() -> None:
        secret = secret_if_needed(login.store, login.key_file)
        bot = login.bot(ask=ask, store=login.store, passphrase=secret)
        try:
            async with asyncio.timeout(timeout), connected(bot):
                encrypted_room = MLS.of(bot).rooms.get(address)
                if encrypted_room is None or not encrypted_room.is_member:
                    if address in MLS.of(bot).conversations:
                        raise UsageError(f"the policy of a conversation of two, as with {address}, cannot be changed")
                    raise UsageError(
                        f"this device is not in the group of {address}; slixmpp-mls rooms lists those that it is in"
                    )
                await encrypted_room.wait_live()
                policy = replace(encrypted_room.policy, **wanted)
                changed = await encrypted_room.set_policy(policy, despite_doubts=despite_doubts)
        except TimeoutError:
            raise NoAnswer(f"not done after {timeout:g} seconds") from None
        console.print(Text("The policy is changed." if changed is not None else "The policy is that already."))

    run(work())


_VALUES = {
    **dict.fromkeys(
        ("may_add", "may_remove", "may_change_policy", "may_change_subject"), "nobody, administrators or members"
    ),
    "external_joins": "never, devices or anybody",
    **dict.fromkeys(("own_devices", "x509_only", "post_quantum"), "true or false"),
    "max_leaf_age": "a number of seconds, or of days as in 7d",
    **dict.fromkeys(("max_devices", "max_members"), "a number from 1"),
    "roots": f"{MAX_ROOTS} SHA-256 hashes in hexadecimal at most, with commas between them",
    "administrators": "bare addresses with commas between them",
}


def _change(text: str) -> tuple[str, Any]:
    """One NAME=VALUE.

    :raises typer.BadParameter: it is none
    """
    name, equals, value = text.partition("=")
    try:
        if equals and name in ("may_add", "may_remove", "may_change_policy", "may_change_subject"):
            return name, Right[value.upper()]
        if equals and name == "external_joins":
            return name, ExternalJoins[value.upper()]
        if equals and name in ("own_devices", "x509_only", "post_quantum"):
            return name, {"true": True, "false": False}[value.lower()]
        if equals and name == "max_leaf_age":
            return name, int(value.removesuffix("d")) * (86_400 if value.endswith("d") else 1)
        if equals and name in ("max_devices", "max_members"):
            number = int(value)
            if not 0 < number < 1 << 32:
                raise ValueError("a limit of nobody, or none at all")
            return name, number
        if equals and name == "roots":
            roots = tuple(bytes.fromhex(one.replace(":", "")) for one in value.split(",") if one.strip())
            if len(roots) > MAX_ROOTS or any(len(root) != RootHashes.SIZE for root in roots):
                raise ValueError("not a few SHA-256 hashes")
            return name, tuple(dict.fromkeys(roots))
        if equals and name == "administrators":
            return name, tuple(sorted({bare_jid(one.strip()) for one in value.split(",")}))
    except (KeyError, ValueError):
        raise typer.BadParameter(f"{value!r} is no value of {name}, which is {_VALUES[name]}") from None
    raise typer.BadParameter(
        f"{text!r} is not of the form NAME=VALUE, or names nothing that can be set: {', '.join(_VALUES)}"
    )


def copy_of(path: Path, key_file: Path | None) -> MemoryStore:
    """What is in a store, which is only read."""
    if not path.exists():
        raise UsageError(f"there is no store {path}")
    secret = secret_of(key_file) if is_encrypted(path) else None
    store = SQLiteStore(path, None, secret=secret)
    try:
        return copied_to_memory(store)
    finally:
        store.close()


def groups_in(store: MemoryStore) -> Iterator[RoomGroup]:
    """The groups that the device of a store is in.  Those that cannot be read here are named."""
    device = Device(store)
    for room in sorted(RoomGroup.known(device)):
        try:
            group = RoomGroup(device, room)
        except PeerError as error:
            Console(stderr=True, highlight=False).print(Text(f"{clean(room)}: {error}", "yellow"))
            continue
        if group.is_member:
            yield group


def partner_in(group: RoomGroup, own: str) -> str | None:
    """The other account of a conversation of two; None if it is a room.

    :param own: bare JID of the store's account
    """
    return group.policy.partner_of(own)


def groups_at(store: MemoryStore, address: str) -> list[RoomGroup]:
    """The group of a room, or those of the conversations with an account; the one that counts is the first.

    :param address: bare JID
    :raises UsageError: there is none
    """
    found = [group for group in groups_in(store) if address in (group.room, partner_in(group, store.account))]
    if not found:
        raise UsageError(f"this device is not in the group of {address}; slixmpp-mls rooms lists those that it is in")
    return sorted(found, key=lambda group: group.mls.group_id)


def read_groups(path: Path, key_file: Path | None) -> Iterator[RoomGroup]:
    """The groups in a store, which is only read."""
    return groups_in(copy_of(path, key_file))


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
        "max_devices": policy.max_devices,
        "max_members": policy.max_members,
        "roots": [root.hex() for root in policy.roots],
        "conversation": policy.conversation,
        "post_quantum": policy.post_quantum,
    }


def print_policy(policy: RoomPolicy, roster: Roster | None, screen: Console = console) -> None:
    """Print a policy as a table.

    :param roster: who is in the group; None if that is not known
    """
    table = Table(title=Text(clean(policy.room), "bold"), show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    present = policy.administrators if roster is None else policy.administrators_in(roster)
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
    if policy.roots:
        table.add_row("their roots", Text("\n".join(root.hex() for root in policy.roots)))
    table.add_row("devices of one account", f"{policy.max_devices} at most")
    table.add_row("devices in the group", f"{policy.max_members} at most")
    if policy.post_quantum:
        table.add_row("cipher suite", "only one that keeps secrets from quantum computers")
    if policy.conversation:
        table.add_row("conversation", "of these two, and of nobody else")
    screen.print(table)
