"""Joining a large group: from the Welcome to the first message read and sent, before its tree is there and with it.

One process makes the group and what the joiner finds: its store, the stanzas, the ratchet tree.  Then one process for
each way joins, so that memory is that of the join alone: what it adds to a client that is running.  The time that the
tree takes to arrive is in neither.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Join", "measure", "print_table"]

_ALICE, _BOB = "alice@a.example", "bob@b.example"
_AT_ONCE = 4000  # Adds in one Commit


@dataclass(frozen=True, slots=True)
class Join:
    """What one way to join costs.

    :ivar way: ``partial``, ``full``, or ``completed``: a partial member that becomes a full one
    :ivar cpu: seconds of the processor
    :ivar memory: octets by which the process has grown, at its greatest
    """

    members: int
    way: str
    cpu: float
    memory: int


def measure(sizes: list[int], progress: Callable[[str], None]) -> Iterator[Join]:
    """Join groups of these sizes in all ways."""
    for size in sizes:
        with TemporaryDirectory() as folder:
            progress(f"a group of {size:,} members is made")
            _run("make", folder, str(size))
            for way in ("partial", "full", "completed"):
                progress(f"joining {size:,} members: {way}")
                cost = json.loads(_run("join", folder, way))
                yield Join(size, way, cost["cpu"], cost["memory"])


def print_table(joins: list[Join], console: Console) -> None:
    """A row for each."""
    table = Table("members", "way", "processor, ms", "memory, MB")
    for each in joins:
        table.add_row(f"{each.members:,}", each.way, f"{each.cpu * 1000:,.0f}", f"{each.memory / 1e6:,.1f}")
    console.print(table)


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", __name__, *arguments], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def _make(folder: Path, size: int) -> None:
    from slixmpp_mls.client import Device, KeyPackageSettings
    from slixmpp_mls.client.group.room_contents import Membership
    from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
    from slixmpp_mls.mls.structures.proposals import Add
    from slixmpp_mls.store import MemoryStore, SQLiteStore
    from slixmpp_mls.testing import World

    world, suite = World(), CipherSuite.get(1)
    (alice,) = world.group(_ALICE, policy=replace(world.open_policy(_ALICE), max_members=size))
    for start in range(1, size - 1, _AT_ONCE):
        adds = []
        for number in range(start, min(start + _AT_ONCE, size - 1)):
            crowd = Device(MemoryStore(f"u{number}@crowd.example"), settings=KeyPackageSettings(count=0))
            adds.append(Add(crowd.key_packages.make(suite, world.now).key_package))
        mls = alice.group.mls  # no Welcome is needed, nor anybody's judgement
        made = mls.finish_commit(mls.draft_commit(adds, now=world.now, by_reference=()))
        contents = alice.group.room_state._contents
        before = alice.group.room_state.require_member()
        after = mls.apply(made.staged, now=world.now)
        contents.membership = Membership.of(after, before.doubts, before.actions)
    path = folder / "bob.db"
    world.person(_BOB, SQLiteStore(path, _BOB))
    alice.group.room_state._contents.staged.clear()
    draft = alice.group.sending.draft_commit(alice.adding(_BOB), world.now)
    place = world.upload(draft.tree.encode())
    alice.post(alice.group.sending.finish_commit(draft, tree_at=place))
    world.room.deliver_all()
    alice.read()
    alice.send(b"When shall we three meet again")
    world.room.deliver_all()
    stanzas = world.room.archive()[-2:]
    (folder / "room").write_bytes(pickle.dumps((world.now, stanzas, place, world.web[place])))


def _join(folder: Path, way: str) -> dict[str, Any]:
    from slixmpp_mls.client import Device, KeyPackageSettings, MessageReceived, RoomGroup
    from slixmpp_mls.client.group import partial
    from slixmpp_mls.store import SQLiteStore

    now, (welcome, message), place, tree = pickle.loads((folder / "room").read_bytes())  # our own
    copy = folder / f"{way}.db"
    copy.touch(0o600)
    copy.write_bytes((folder / "bob.db").read_bytes())
    group = RoomGroup(Device(SQLiteStore(copy, _BOB), settings=KeyPackageSettings(count=2)), "coven@rooms.example")
    group.welcomes.partial_from = None if way == "full" else 1
    if way == "full":
        welcome = welcome.with_blob(place, tree)

    def read_and_send() -> None:
        for incoming in (welcome, message):
            step = group.processing.examine(incoming, now)
            if step.check is not None:
                step = group.processing.examine(incoming.with_checked(step.check.run()), now)
            events = group.applying.accept(step, now)
        assert [each.data for each in events if isinstance(each, MessageReceived)] == [
            b"When shall we three meet again"
        ]
        group.sending.compose(b"In thunder, lightning, or in rain")

    def complete() -> None:
        membership = group.partial.membership
        assert membership is not None
        group.partial.complete(partial.verify(membership.group, tree), ())

    if way == "completed":
        read_and_send()
    _forget_peak()
    before, began = _memory("VmRSS"), time.process_time()
    complete() if way == "completed" else read_and_send()
    took = time.process_time() - began
    assert group.is_member is (way != "partial")
    return {"cpu": took, "memory": _memory("VmHWM") - before}


def _memory(name: str) -> int:
    """Octets in memory now (VmRSS), or at most since the last call of :func:`_forget_peak` (VmHWM); Linux."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.stdout.write(json.dumps(_join(Path(sys.argv[2]), sys.argv[3])))
