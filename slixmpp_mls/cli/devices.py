"""``slixmpp-mls devices``: lists an account's published devices; renames, admits and retires our own."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from slixmpp import ClientXMPP

from ..account.device_list import Listed, Published, read_devices, read_key_packages
from ..account.device_list import rename as rename_device
from ..account.device_list import retire as retire_device
from ..account.events import RoomsChanged
from ..client import RoomGroup
from ..delivery import DeviceDirectory, KeyPackageDirectory
from ..errors import NotPermitted, Refused, StoreLocked, UsageError, suite_name
from ..identity import ClientIdentity, fingerprint
from ..key_packages.selection import says_nothing_is_there
from ..mls.registry import CipherSuiteId
from ..mls.structures.key_package import is_last_resort
from ..mls.structures.leaf_node import KeyPackageSource
from ..plugin import MLS
from ..store import is_encrypted
from .login import CA, Host, Login, Password, Port, StoreOption, bare_jid, find_store, session, split_account
from .policy import read_groups
from .store import KeyFile, secret_of
from .terminal import clean, console, errors, iso, run, waiting

__all__ = ["app"]

app = typer.Typer(name="devices", no_args_is_help=True, rich_markup_mode="markdown")

Device = Annotated[
    list[str],
    typer.Argument(
        metavar="[JID] DEVICE", help="Your account, if XMPP_JID does not name it; the device's id, as `list` shows it."
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Store = Annotated[
    Path | None,
    typer.Option(
        metavar="STORE",
        envvar="MLS_STORE",
        help="The store of one of your devices, which must not be running.",
        show_default=False,
    ),
]
ENTERING = 60.0  # seconds for the rooms to be entered and read


@app.callback()
def devices() -> None:
    """List the devices of an account; rename, admit and retire your own.

    Example: `slixmpp-mls devices list bob@example.org --as alice@example.org`
    """


@dataclass(frozen=True, slots=True)
class _Access:
    login: Login
    store: Path | None = None
    key_file: Path | None = None

    @property
    def account(self) -> str:
        return self.login.jid


def _login(
    jid: str | None,
    password: str | None,
    host: str | None,
    port: int | None,
    ca: Path | None,
    store: Path | None = None,
) -> Login:
    return Login.load(jid, password=password, host=host, port=port, ca=ca, store=store)


# --- list ------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    jid: Annotated[
        str | None, typer.Argument(metavar="[JID]", help="The account to look at.", show_default="your own")
    ] = None,
    login: Annotated[
        str | None,
        typer.Option("--as", envvar="XMPP_JID", metavar="JID", help="The account to log in with (default: JID)."),
    ] = None,
    store: Store = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """List an account's devices: fingerprint, first and last appearance, number of KeyPackages.

    With --store, also lists the groups that each shares with the device of that store. Exit code 1 if there are no
    devices.

    *Seen last* is the time of the device's last signature, as far as its published KeyPackages show it.

    Example: `slixmpp-mls devices list`

    Example: `slixmpp-mls devices list bob@example.org --as alice@example.org`

    Example: `slixmpp-mls devices list alice@example.org --store alice.db --json`
    """
    account = Login.load(login).jid if jid is None else bare_jid(jid)
    groups: list[RoomGroup] = []
    begun = store is not None and (store.exists() or str(store) != os.environ.get("MLS_STORE"))
    if store is not None and begun:  # a store that the environment names may not be made yet
        try:
            groups = list(read_groups(find_store(store), key_file))
        except StoreLocked as error:
            errors.print(Text(f"{error}: without the groups", "yellow"))
    try:
        access = _login(login, password, host, port, ca)
    except UsageError:  # nobody says which account: the one that is looked at
        access = _login(account, password, host, port, ca)
    run(_list(account, access, groups, as_json))


@dataclass(slots=True)
class _Row:
    """One device."""

    id: str
    label: str | None = None
    fingerprints: list[str] = field(default_factory=list)
    added: datetime | None = None
    last_seen: datetime | None = None
    retired: datetime | None = None
    listed: bool = True
    suites: Counter[int] = field(default_factory=Counter)
    last_resort: int = 0
    expiry: int | None = None
    rooms: list[str] = field(default_factory=list)

    @property
    def ready(self) -> str:
        """Its KeyPackages, for people."""
        if not (self.suites or self.last_resort):
            return "none: cannot be added to a room"
        suites = [f"{count} for {_suite(number)}" for number, count in sorted(self.suites.items())]
        expires = ""
        if self.expiry is not None:
            expires = f"; first expires {datetime.fromtimestamp(min(self.expiry, 2**32), UTC):%Y-%m-%d}"
        return f"{', '.join(suites) or 'none'}; {self.last_resort} of last resort{expires}"

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.id,
            "label": self.label,
            "fingerprints": self.fingerprints,
            "added": iso(self.added),
            "last_seen": iso(self.last_seen),
            "retired": iso(self.retired),
            "listed": self.listed,
            "key_packages": {str(number): count for number, count in sorted(self.suites.items())},
            "last_resort": self.last_resort,
            "rooms": self.rooms,
        }


async def _list(account: str, login: Login, groups: list[RoomGroup], as_json: bool) -> None:
    async with session(login, _prepare) as client:  # asks for the password, which a spinner would hide
        own = account == login.jid
        with waiting("Asking the server"), no_such_account(account):
            other = None if own else account
            listed = await read_devices(DeviceDirectory(client), other)
            published = await read_key_packages(KeyPackageDirectory(client), account, listed, other)
    rows = _rows(account, listed, published, groups)
    if as_json:
        console.print_json(json.dumps([row.record() for row in rows]))
    else:
        for row in rows:
            _show(account, row, known=bool(groups))
    if not listed.devices:
        if not as_json:
            nothing = f"{account} has published no devices: none of its clients supports MLS"
            console.print(Text(nothing, "yellow"))
        raise typer.Exit(1)


def _rows(account: str, listed: Listed, published: dict[str, Published], groups: Iterable[RoomGroup]) -> list[_Row]:
    now = int(datetime.now(UTC).timestamp())
    rows = []
    for name in dict.fromkeys((*listed.devices, *listed.retired, *published)):
        row = _Row(name, listed=name in listed.devices)
        device, marker, ready = listed.devices.get(name), listed.retired.get(name), published.get(name, Published())
        if device is not None:
            row.label, row.added = device.label, device.added
            row.fingerprints = [fingerprint(key.data) for key in device.keys]
        if marker is not None:
            row.retired = marker.since
        seen = ready.signed_at(now)
        row.last_seen = datetime.fromtimestamp(seen, UTC) if seen else None
        for package in ready.packages:
            if is_last_resort(package):
                row.last_resort += 1
            else:
                row.suites[package.cipher_suite] += 1
            source = package.leaf_node.source
            if isinstance(source, KeyPackageSource):
                row.expiry = min(source.lifetime.not_after, row.expiry or source.lifetime.not_after)
        who = ClientIdentity(account, name)
        row.rooms = [group.room for group in groups if group.roster.leaf_of(who) is not None]
        rows.append(row)
    return rows


def _show(account: str, row: _Row, *, known: bool) -> None:
    console.print(Text.assemble((f"{account}/{clean(row.id)}", "bold"), f"  {clean(row.label or '')}"))
    table = Table.grid(padding=(0, 2))
    if row.retired is not None:
        table.add_row("  retired", Text(f"{row.retired:%Y-%m-%d %H:%M} UTC", style="yellow"))
    elif not row.listed:
        table.add_row("  not listed", Text("it has KeyPackages, but nobody accepts them", style="yellow"))
    for each in row.fingerprints:
        table.add_row("  fingerprint", Text(each, style="cyan"))
    for name, when in (("added", row.added), ("seen last", row.last_seen)):
        if when is not None:
            table.add_row(f"  {name}", f"{when:%Y-%m-%d %H:%M} UTC")
    if row.listed:
        table.add_row("  KeyPackages", row.ready)
    if known:
        table.add_row("  rooms", Text("\n".join(map(clean, row.rooms)) or "none that this device is in"))
    console.print(table)


# --- one's own -------------------------------------------------------------------------------------


@app.command()
def rename(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[JID] DEVICE LABEL", help="The new name: one line of at most 64 characters; empty removes it."
        ),
    ],
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """Rename one of your devices.

    Example: `slixmpp-mls devices rename alice@example.org 96fee99052b73d57 "Old phone"`
    """
    jid, (device, label) = split_account(words, 2)
    access = _Access(_login(jid, password, host, port, ca))

    async def work() -> None:
        async with session(access.login, _prepare) as client:
            await rename_device(DeviceDirectory(client), device, label or None)
        console.print(f"{device} is called {clean(label)} now" if label else f"{device} has no name now")

    run(work())


@app.command()
def retire(
    words: Device,
    store: Store = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """Retire one of your devices for good: lost, sold, or no longer used.

    From then on nobody accepts its keys. Your other devices remove it from all rooms: running devices at once, the
    others when they start. With --store, the device of that store does it now, in its rooms. Change the account's
    password if somebody else has the device.

    Example: `slixmpp-mls devices retire alice@example.org 96fee99052b73d57 --store alice.db`
    """
    jid, (device,) = split_account(words, 1)
    access = _Access(_login(jid, password, host, port, ca), store, key_file)

    async def alone() -> None:
        async with session(access.login, _prepare) as client:
            node, directory = DeviceDirectory(client), KeyPackageDirectory(client)
            if device not in {*(listed := await read_devices(node)).devices, *listed.retired}:
                raise UsageError(f"{access.account} lists no device {device}")
            await retire_device(node, directory, access.account, device, datetime.now(UTC).replace(microsecond=0))
        _report(device, "retired", None, as_json)

    async def by_a_device() -> None:
        changed = await _with_plugin(access, lambda mls: mls.devices.retire(device))
        _report(device, "retired", changed, as_json)

    run(alone() if store is None else by_a_device())


@app.command()
def admit(
    words: Device,
    store: StoreOption = None,
    key_file: KeyFile = None,
    as_json: AsJSON = False,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """Add one of your new devices to all rooms of the device whose store you give.

    First compare the fingerprint that `list` shows with the one on the new device.

    Example: `slixmpp-mls devices admit alice@example.org 4e1b0f6a92c35d78 --store alice.db`
    """
    jid, (device,) = split_account(words, 1)
    login = _login(jid, password, host, port, ca, store)
    access = _Access(login, login.store, key_file)

    async def work() -> None:
        changed = await _with_plugin(access, lambda mls: mls.devices.admit(device))
        _report(device, "admitted", changed, as_json)

    run(work())


async def _with_plugin(access: _Access, work: Any) -> RoomsChanged:
    """Run an action as the device of a store, after its rooms have been read."""
    store = access.store
    if store is None or not store.exists():
        raise UsageError(f"there is no store {store}")

    def prepare(client: ClientXMPP) -> None:
        secret = secret_of(access.key_file) if is_encrypted(store) else None
        client.register_plugin("mls", {"store": str(store), "passphrase": secret})

    async with session(access.login, prepare) as client:
        mls: MLS = client.plugin["mls"]  # type: ignore[typeddict-item]
        try:
            with waiting("Reading the rooms"):
                await mls.ready()
                rooms = [room for room in mls.rooms.values() if room.is_member]
                if rooms:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ENTERING):
                            await asyncio.gather(*(room.wait_live() for room in rooms), return_exceptions=True)
            with waiting("Waiting for the rooms"):
                changed: RoomsChanged = await work(mls)
                return changed
        finally:
            client.plugin.disable("mls")  # type: ignore[attr-defined]


def _report(device: str, what: str, changed: RoomsChanged | None, as_json: bool) -> None:
    if as_json:
        rooms = RoomsChanged((), {}) if changed is None else changed
        console.print_json(json.dumps({"device": device, what: True, "done": rooms.done, "waiting": rooms.waiting}))
        return
    console.print(Text(f"{device} is {what}", "green"))
    if changed is None:
        console.print("Your other devices remove it from the rooms that they are in, as soon as they are online.")
        return
    for room in changed.done:
        console.print(Text(f"  {clean(room)}: done"))
    for room, reason in changed.waiting.items():
        console.print(Text(f"  {clean(room)}: not yet: {clean(reason)}", "yellow"))


def _prepare(client: ClientXMPP) -> None:
    for plugin in ("xep_0030", "xep_0060", "xep_0115", "xep_0163"):
        client.register_plugin(plugin)


@contextmanager
def no_such_account(account: str) -> Iterator[None]:
    """Turn a server's ways of saying "nothing there" into one sentence."""
    try:
        yield
    except (Refused, NotPermitted) as error:
        if not says_nothing_is_there(error):
            raise
        condition = error.condition if isinstance(error, Refused) else "forbidden"
        raise UsageError(f"no such account, or no MLS: {account} ({condition})") from None


def _suite(number: int) -> str:
    try:
        return CipherSuiteId(number).name
    except ValueError:
        return f"cipher suite {suite_name(number)}"
