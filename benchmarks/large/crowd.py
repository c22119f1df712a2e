"""Accounts with many devices that never come: what their directories would say, in a file."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from slixmpp_mls.client import Device, KeyPackageSettings
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.runtime import Context
from slixmpp_mls.stanza import Device as DeviceElement
from slixmpp_mls.stanza import KeyPackage
from slixmpp_mls.stanza.elements import Key
from slixmpp_mls.store import MemoryStore

__all__ = ["DEVICES", "Crowd", "account", "make"]

DEVICES = 32
"""Devices of an account: what a policy allows by default."""
_AT_ONCE = 25  # accounts that a process makes before it writes them


def account(number: int) -> str:
    """The bare JID of an account of the crowd, of a server that nobody reaches."""
    return f"crowd{number}@crowd.invalid"


def make(path: Path, accounts: int, suite: int, progress: Callable[[str], None]) -> None:
    """Write a file for so many accounts, unless they are in it.  The KeyPackages are valid for four weeks."""
    with closing(sqlite3.connect(path)) as database, ProcessPoolExecutor(2) as makers:
        database.execute("CREATE TABLE IF NOT EXISTS crowd (account TEXT PRIMARY KEY, devices TEXT, packages TEXT)")
        (there,) = database.execute("SELECT count(*) FROM crowd").fetchone()
        parts = [(start, min(_AT_ONCE, accounts - start), suite) for start in range(there, accounts, _AT_ONCE)]
        for part, rows in zip(parts, makers.map(_some, parts), strict=True):
            with database:
                database.executemany("INSERT INTO crowd VALUES (?, ?, ?)", rows)
            progress(f"KeyPackages are made: {(part[0] + part[1]) * DEVICES:,} of {accounts * DEVICES:,}")


def _some(part: tuple[int, int, int]) -> list[tuple[str, str, str]]:
    start, count, number = part
    suite, now, rows = CipherSuite.get(number), int(time.time()), []
    for each in range(start, start + count):
        jid = account(each)
        devices, packages = {}, {}
        for _ in range(DEVICES):
            device = Device(MemoryStore(jid), settings=KeyPackageSettings((number,), count=0))
            bundle = device.key_packages.make(suite, now)
            ref = bundle.reference.hex()
            packages[ref] = _text(KeyPackage(ref, number, MLSMessage.wrap(bundle.key_package), False))
            keys = tuple(Key(scheme, key) for scheme, key in device.signature_keys().items())
            devices[device.identity.device] = _text(DeviceElement(device.identity.device, keys))
        rows.append((jid, json.dumps(devices), json.dumps(packages)))
    return rows


def _text(element: KeyPackage | DeviceElement) -> str:
    return ET.tostring(element.to_stdlib(), encoding="unicode")


class Crowd:
    """The crowd's directories, beside those on servers.

    :param path: what :func:`make` has written
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def stand_in(self, context: Context) -> None:
        """From now on answer for the crowd's accounts in a client."""
        for directory, column in ((context.devices, "devices"), (context.key_packages, "packages")):
            directory.items = self._before(directory.items, column)  # type: ignore[method-assign]

    def device(self, account: str, number: int) -> str:
        """The id of one of an account's devices."""
        row = self._database.execute("SELECT devices FROM crowd WHERE account = ?", (account,)).fetchone()
        devices: dict[str, str] = json.loads(row[0])
        return sorted(devices)[number]

    def _before(self, items: Callable[..., Any], column: str) -> Callable[..., Any]:
        query = f"SELECT {column} FROM crowd WHERE account = ?"  # a name of ours

        async def either(
            account: str | None = None, ids: Iterable[str] | None = None, limit: int | None = None
        ) -> dict[str, ET.Element]:
            row = None if account is None else self._database.execute(query, (account,)).fetchone()
            if row is None:
                found: dict[str, ET.Element] = await items(account, ids, limit)
                return found
            return {item: ET.fromstring(text) for item, text in json.loads(row[0]).items()}  # our own

        return either
