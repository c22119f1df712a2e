"""``slixmpp-mls devices``: what an account has published, to be compared with what its owner reads out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated
from xml.etree.ElementTree import Element

import typer
from rich.table import Table
from rich.text import Text
from slixmpp import ClientXMPP

from ..delivery import DeviceDirectory, KeyPackageDirectory
from ..errors import PeerError
from ..identity import ClientIdentity, fingerprint
from ..mls.framing import MLSMessage
from ..mls.key_package import KeyPackage as KeyPackageStructure
from ..mls.leaf_node import KeyPackageSource
from ..mls.registry import CipherSuiteId
from ..stanza import Device, KeyPackage, parse
from .login import CA, Host, Login, Password, Port, bare_jid, session
from .terminal import clean, console, run, waiting

__all__ = ["devices"]


def devices(
    jid: Annotated[str, typer.Argument(metavar="JID", help="The account to look at.")],
    login: Annotated[
        str | None,
        typer.Option("--as", envvar="XMPP_JID", metavar="JID", help="The account to log in with; JID if not given."),
    ] = None,
    password: Password = None,
    host: Host = None,
    port: Port = None,
    ca: CA = None,
) -> None:
    """An account's devices, their fingerprints, and how many KeyPackages each has ready.

    Exit code 1 if it has none.

    Example: `slixmpp-mls devices bob@example.org --as alice@example.org`
    """
    account = bare_jid(jid)
    run(_devices(account, Login(bare_jid(login or jid), password, host, port, ca)))


@dataclass(slots=True)
class _Ready:
    """One device's KeyPackages."""

    suites: Counter[int] = field(default_factory=Counter)
    last_resort: int = 0
    expiry: int = 2**64 - 1

    def __str__(self) -> str:
        if not (self.suites or self.last_resort):
            return "none: can not be added to a room"
        suites = [f"{count} for {_suite(number)}" for number, count in sorted(self.suites.items())]
        until = datetime.fromtimestamp(min(self.expiry, 2**32), UTC)
        return f"{', '.join(suites) or 'none'}; {self.last_resort} of last resort; first expires {until:%Y-%m-%d}"


async def _devices(account: str, login: Login) -> None:
    def prepare(client: ClientXMPP) -> None:
        for plugin in ("xep_0030", "xep_0060", "xep_0115", "xep_0163"):
            client.register_plugin(plugin)

    with waiting("Asking the server"):
        async with session(login, prepare) as client:
            listed = await DeviceDirectory(client).items(account)
            packages = await KeyPackageDirectory(client).items(account)
    ready = _ready(packages, account)
    for item_id, element in listed.items():
        _show(item_id, element, account, ready.pop(item_id, _Ready()))
    for device in ready:
        console.print(Text(f"device {clean(device)} has KeyPackages, but is not listed: nobody accepts them", "yellow"))
    if not listed:
        console.print(Text(f"{account} has published no devices: none of its clients supports MLS", "yellow"))
        raise typer.Exit(1)


def _ready(items: dict[str, Element], account: str) -> dict[str, _Ready]:
    found: dict[str, _Ready] = {}
    for element in items.values():
        try:
            item = parse(element)
            body = MLSMessage.decode(item.data).body if isinstance(item, KeyPackage) else None
            if not isinstance(item, KeyPackage) or not isinstance(body, KeyPackageStructure):
                continue
            who = ClientIdentity.from_leaf(body.leaf_node)
        except PeerError:
            continue
        if who.account != account:
            continue
        ready = found.setdefault(who.device, _Ready())
        if item.last_resort:
            ready.last_resort += 1
        else:
            ready.suites[item.suite] += 1
        if isinstance(body.leaf_node.source, KeyPackageSource):
            ready.expiry = min(ready.expiry, body.leaf_node.source.lifetime.not_after)
    return found


def _show(item_id: str, element: Element, account: str, ready: _Ready) -> None:
    try:
        device = parse(element)
        if not isinstance(device, Device) or device.id != item_id:
            raise PeerError("not a device of this id")
    except PeerError as error:
        console.print(Text(f"an item that is no device: {error}", "yellow"))
        return
    console.print(Text.assemble((f"{account}/{device.id}", "bold"), f"  {clean(device.label or '')}"))
    table = Table.grid(padding=(0, 2))
    for key in device.keys:
        table.add_row("  fingerprint", Text(fingerprint(key.data), style="cyan"))
    if device.added is not None:
        table.add_row("  added", f"{device.added:%Y-%m-%d %H:%M} UTC")
    table.add_row("  KeyPackages", str(ready))
    console.print(table)


def _suite(number: int) -> str:
    try:
        return CipherSuiteId(number).name
    except ValueError:
        return f"cipher suite {number}"
