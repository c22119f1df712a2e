"""Restarting a client that is in large groups, or in many: from its store to the first Commit that it follows.

One process makes the store, with keys in every parent node of its trees, and the Commits of another member.  Another
one opens it, so that memory is that of a restart alone.  The event loop gets its turn after each room, as when the
plugin resumes; *stall* is the most processor time without one, garbage collections included.
"""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from .joining import _forget_peak, _memory

__all__ = ["Restart", "measure", "print_table"]

_COMMITS = 6


@dataclass(frozen=True, slots=True)
class Restart:
    """What a restart costs.

    :ivar rooms: in each of which the client is a member
    :ivar cpu: seconds of the processor for all rooms
    :ivar stall: seconds of the processor without a turn of the event loop, at most
    :ivar memory: octets by which the process has grown, at its greatest
    :ivar rosters: seconds for the lists of all groups' accounts
    :ivar roster_memory: octets by which it has grown then
    :ivar collection: seconds for a full garbage collection then
    :ivar first: seconds for the first Commit of another member in one of them
    :ivar later: seconds for a later one, the best
    """

    rooms: int
    members: int
    cpu: float
    stall: float
    memory: int
    rosters: float
    roster_memory: int
    collection: float
    first: float
    later: float


def measure(rooms: int, members: int, progress: Callable[[str], None]) -> Iterator[Restart]:
    """Restart with so many rooms of so many members."""
    with TemporaryDirectory() as folder:
        progress(f"a store with {rooms:,} rooms of {members:,} members is made")
        _run("make", folder, str(rooms), str(members))
        progress("restarting")
        yield Restart(rooms, members, **json.loads(_run("restart", folder)))


def print_table(restarts: list[Restart], console: Console) -> None:
    """A row for each."""
    names = "rooms", "members", "restart, ms", "stall, ms", "memory, MB"
    table = Table(*names, "rosters, ms", "memory, MB", "collection, ms", "first Commit, ms", "later, ms")
    for each in restarts:
        milliseconds = [f"{seconds * 1000:,.1f}" for seconds in (each.cpu, each.stall, each.rosters)]
        commits = [f"{seconds * 1000:,.1f}" for seconds in (each.collection, each.first, each.later)]
        octets = [f"{octets / 1e6:,.1f}" for octets in (each.memory, each.roster_memory)]
        row = *milliseconds[:2], octets[0], milliseconds[2], octets[1], *commits
        table.add_row(f"{each.rooms:,}", f"{each.members:,}", *row)
    console.print(table)


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", __name__, *arguments], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def _room(number: int) -> str:
    return f"room{number}@rooms.example"


_OWNER = "member0@bench.example"


def _make(folder: Path, rooms: int, members: int) -> None:
    from slixmpp_mls.client import Device, KeyPackageSettings
    from slixmpp_mls.client.storage.records import ROOMS, MembershipState, RoomRecord, Spaces
    from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
    from slixmpp_mls.policy import RoomPolicy, group_extensions
    from slixmpp_mls.store import SQLiteStore

    from .groups import NOW, applied, full_group

    policy = RoomPolicy(_room(0), (_OWNER,), max_members=members)
    here, other = full_group(CipherSuite.get(1), members, (0, members - 1), group_extensions(policy))
    commits = []
    for _ in range(_COMMITS):
        made = other.commit(now=NOW)
        commits.append(made.commit)
        other = applied(made.sent, made.staged)
    (folder / "commits").write_bytes(pickle.dumps(commits))
    store = SQLiteStore(folder / "store.db", _OWNER)
    Device(store, settings=KeyPackageSettings(count=0))
    record = RoomRecord(MembershipState.MEMBER, here.group_id, b"", NOW, here.epoch, 0, b"").encode()
    pieces = here.pieces()
    for number in range(rooms):
        with store.transaction() as transaction:
            transaction.put(ROOMS, _room(number).encode(), record)
            for name, value in pieces.items():
                transaction.put(Spaces.of(_room(number)).group, name, value)
    store.close()


async def _restart(folder: Path) -> dict[str, Any]:
    from slixmpp_mls.client import Device, KeyPackageSettings, RoomGroup
    from slixmpp_mls.store import SQLiteStore

    from .groups import NOW

    device = Device(SQLiteStore(folder / "store.db", _OWNER), settings=KeyPackageSettings(count=0))
    commits = pickle.loads((folder / "commits").read_bytes())  # our own
    _forget_peak()
    before, began, stall = _memory("VmRSS"), time.process_time(), 0.0
    groups = []
    for room in RoomGroup.known(device):
        start = time.process_time()
        group = RoomGroup(device, room)
        assert group.is_member
        groups.append(group)
        stall = max(stall, time.process_time() - start)
        await asyncio.sleep(0)
    cpu, memory = time.process_time() - began, _memory("VmHWM") - before
    began = time.process_time()
    for group in groups:
        assert group.roster.has(_OWNER)
    rosters, roster_memory = time.process_time() - began, _memory("VmHWM") - before
    began = time.process_time()
    gc.collect()
    collection = time.process_time() - began
    took = []
    mls = groups[0].mls
    for commit in commits:
        began = time.process_time()
        following = mls.apply(mls.process(commit, now=NOW), now=NOW)
        with device.store.transaction() as transaction:
            for name, value in following.changes_since(mls).items():
                if value is None:
                    transaction.delete(groups[0].room_state.spaces.group, name)
                else:
                    transaction.put(groups[0].room_state.spaces.group, name, value)
        mls = following.stored()
        took.append(time.process_time() - began)
    return {
        "cpu": cpu, "stall": stall, "memory": memory, "rosters": rosters, "roster_memory": roster_memory,
        "collection": collection, "first": took[0], "later": min(took[1:]),
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.stdout.write(json.dumps(asyncio.run(_restart(Path(sys.argv[2])))))
