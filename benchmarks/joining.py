"""Joining a large group: from the Welcome to the first message read and sent, before its tree is there and with it.

One process makes the group and what the joiner finds: its store, the stanzas, the ratchet tree.  Then one process for
each way joins, so that memory is that of the join alone: what it adds to a client that is running.  The time that the
tree takes to arrive is in neither.  Beside them stands a member that was there from the beginning, and has followed
the Commits by which the group has grown.
"""

from __future__ import annotations

import ctypes
import gc
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

_ALICE, _BOB, _CAROL = "alice@a.example", "bob@b.example", "carol@c.example"
_AT_ONCE = 1000  # Adds in one Commit; the policy allows 1,024


@dataclass(frozen=True, slots=True)
class Join:
    """What one way to join costs.

    :ivar way: ``partial``, ``full``, ``completed``: a partial member that becomes a full one, or ``grown``: an early
        member that follows the Commits of the others
    :ivar cpu: seconds of the processor
    :ivar memory: octets by which the process has grown, at its greatest
    :ivar kept: octets by which it is larger when it is done
    """

    members: int
    way: str
    cpu: float
    memory: int
    kept: int


def measure(sizes: list[int], progress: Callable[[str], None]) -> Iterator[Join]:
    """Join groups of these sizes in all ways."""
    for size in sizes:
        with TemporaryDirectory() as folder:
            progress(f"a group of {size:,} members is made")
            _run("make", folder, str(size))
            for way in ("partial", "full", "completed", "grown"):
                progress(f"joining {size:,} members: {way}")
                yield Join(size, way, **json.loads(_run("grow" if way == "grown" else "join", folder, way)))


def print_table(joins: list[Join], console: Console) -> None:
    """A row for each."""
    table = Table("members", "way", "processor, ms", "memory, MB", "afterwards, MB")
    for each in joins:
        octets = [f"{octets / 1e6:,.1f}" for octets in (each.memory, each.kept)]
        table.add_row(f"{each.members:,}", each.way, f"{each.cpu * 1000:,.0f}", *octets)
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
    carol = world.person(_CAROL, SQLiteStore(folder / "grown.db", _CAROL))
    (alice,) = world.group(_ALICE, policy=replace(world.open_policy(_ALICE), max_members=size))
    alice.commit(*alice.adding(_CAROL))
    world.settle()
    carol.store.close()
    commits = []
    for start in range(2, size - 1, _AT_ONCE):
        adds = []
        for number in range(start, min(start + _AT_ONCE, size - 1)):
            crowd = Device(MemoryStore(f"u{number}@crowd.example"), settings=KeyPackageSettings(count=0))
            adds.append(Add(crowd.key_packages.make(suite, world.now).key_package))
        mls = alice.group.mls  # no Welcome is needed, nor anybody's judgement
        made = mls.finish_commit(mls.draft_commit(adds, now=world.now, by_reference=()))
        commits.append(made.commit)
        contents = alice.group.room_state._contents
        before = alice.group.room_state.require_member()
        after = mls.apply(made.staged, now=world.now)
        contents.membership = Membership.of(after, before.doubts, before.actions)
    (folder / "commits").write_bytes(pickle.dumps((world.now, commits)))
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
    cost = _cost(complete if way == "completed" else read_and_send)
    assert group.is_member is (way != "partial")
    return cost


def _grow(folder: Path) -> dict[str, Any]:
    from slixmpp_mls.client import Device, KeyPackageSettings, RoomGroup
    from slixmpp_mls.mls.group.staging import StagedCommit
    from slixmpp_mls.store import SQLiteStore

    now, commits = pickle.loads((folder / "commits").read_bytes())  # our own
    device = Device(SQLiteStore(folder / "grown.db", _CAROL), settings=KeyPackageSettings(count=2))
    state = RoomGroup(device, "coven@rooms.example").room_state

    def follow() -> None:
        for commit in commits:  # as the plugin does, but without the policy, and without asking about leaves
            membership = state.require_member()
            staged = membership.group.process(commit, now=now)
            assert isinstance(staged, StagedCommit)
            after = membership.group.apply(staged, now=now)
            with state.change() as change:
                roster = membership.roster.after(staged.effects)
                change.begin_epoch(after, roster, membership.policy, state.group_info_key)

    return _cost(follow)


def _cost(work: Callable[[], None]) -> dict[str, Any]:
    _settle()
    _forget_peak()
    before, began = _memory("VmRSS"), time.process_time()
    work()
    took, peak = time.process_time() - began, _memory("VmHWM")
    _settle()
    return {"cpu": took, "memory": peak - before, "kept": _memory("VmRSS") - before}


def _settle() -> None:
    """Give memory that is free back to the system, as a process does in time, and as far as it is able to."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _memory(name: str) -> int:
    """Octets in memory now (VmRSS), or at most since the last call of :func:`_forget_peak` (VmHWM); Linux."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "grow":
        sys.stdout.write(json.dumps(_grow(Path(sys.argv[2]))))
    else:
        sys.stdout.write(json.dumps(_join(Path(sys.argv[2]), sys.argv[3])))
