"""What the core's operations cost, beside their floor and beside AWS mls-rs.

Every operation is a function of a prepared group that leaves it as it was (groups are values), so it can be
repeated; the best of several runs is reported, for ours, for the floor and for the peer alike.
"""

from __future__ import annotations

import gc
import resource
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.partial import PartialGroup, annotate_welcome
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.partial import AnnotatedWelcome
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.mls.structures.welcome import Welcome
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.store import SQLiteStore

from . import peers
from .groups import AT_ONCE, NOW, Sparse, applied, bundle, full_group, sparse_group
from .primitives import recorded, replay

__all__ = ["Result", "run", "timed"]

_SUITE = CipherSuite.get(1)
_MESSAGE = bytes(1024)


@dataclass(frozen=True)
class Result:
    """One line of the table.

    :ivar seconds: ours, for one operation
    :ivar floor: of its primitives; None where it does no cryptography
    :ivar peer: mls-rs's, None where it was not run
    :ivar note: anything else worth saying
    """

    operation: str
    size: int
    seconds: float
    floor: float | None = None
    peer: float | None = None
    note: str = ""


def timed(call: Callable[[], object], *, at_least: float = 0.3, at_most: int = 200) -> float:
    """Seconds of the fastest of several calls."""
    best, spent, runs = float("inf"), 0.0, 0
    gc.collect()
    gc.disable()
    try:
        while runs < 2 or (spent < at_least and runs < at_most):
            start = time.perf_counter()
            call()
            taken = time.perf_counter() - start
            best, spent, runs = min(best, taken), spent + taken, runs + 1
            if taken > 20:
                break
    finally:
        gc.enable()
    return best


def _floor(call: Callable[[], object]) -> float:
    """Seconds that the same primitives take by themselves."""
    with recorded() as calls:
        call()
    return timed(replay(calls))


def run(sizes: list[int], *, with_peer: bool, progress: Callable[[str], None]) -> Iterator[Result]:
    """All operations at all sizes, one after the other."""
    for size in sizes:
        talking = peers.talking(size) if with_peer and size <= 1000 else None
        progress(f"{size} members: adding, joining, the first commit")
        yield from _adding(size, with_peer, talking)
        progress(f"{size} members: a group full of keys")
        yield from _full(size, talking)


def _adding(size: int, with_peer: bool, talking: peers.Talking | None) -> Iterator[Result]:
    """One Commit that adds everybody, the last joiner's join, and the creator's first path: to everybody."""
    bundles = [bundle(_SUITE, number) for number in range(1, size)]
    creator = Group.create(bundle(_SUITE, 0), b"benchmark" + bytes(23))
    adds = [Add(each.key_package) for each in bundles]
    peer = peers.adding(size) if with_peer and size <= 10_000 else None

    def add() -> object:
        return creator.commit(adds, now=NOW)

    if size <= AT_ONCE:
        seconds = timed(add, at_most=3 if size > 500 else 30)
        yield Result("add n in one Commit", size, seconds, _floor(add), peer.add if peer else None)

    group = sparse_group(_SUITE, size, bundles)
    welcome = MLSMessage.decode(group.welcome).body
    assert isinstance(welcome, Welcome)

    def join() -> object:
        return Group.join(welcome, bundles[-1])

    seconds = timed(join, at_most=3 if size > 5000 else 30)
    yield Result("join by Welcome", size, seconds, _floor(join), peer.join if peer else None)
    yield from _joining_partially(size, seconds, group)

    last = group.join(-1)

    def create() -> object:
        return group.creator.commit(now=NOW)

    seconds = timed(create, at_most=3 if size > 5000 else 30)
    yield Result("first path: create", size, seconds, _floor(create), talking.create if talking else None)
    made = group.creator.commit(now=NOW)

    def process() -> object:
        return last.apply(last.process(made.commit, now=NOW), now=NOW)

    yield Result("first path: process", size, timed(process), _floor(process), talking.process if talking else None)


def _joining_partially(size: int, full: float, group: Sparse) -> Iterator[Result]:
    """The last joiner's join without the tree, and its first message (draft-ietf-mls-partial)."""
    bundle_, tree, signer = group.bundles[-1], group.creator.tree, group.creator.own_index
    welcome = MLSMessage.decode(group.welcome_without_tree())
    encoded = annotate_welcome(tree, welcome, signer, LeafIndex(size - 1), bundle_.reference).encode()

    def join() -> object:
        return PartialGroup.join(AnnotatedWelcome.decode(encoded), bundle_).state.encrypt(_MESSAGE)

    def annotate() -> object:
        return annotate_welcome(tree, welcome, signer, LeafIndex(size - 1))

    tracemalloc.start()
    kept = PartialGroup.join(AnnotatedWelcome.decode(encoded), bundle_).state
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept.tree.leaf_count >= size
    seconds = timed(join)
    note = f"{full / seconds:.0f} times as fast as with the tree; {len(encoded)} octets, at most {memory >> 10} KiB"
    yield Result("join without the tree", size, seconds, _floor(join), note=note)
    yield Result("annotate a Welcome", size, timed(annotate))


def _full(size: int, talking: peers.Talking | None) -> Iterator[Result]:
    """Commits and messages in a group whose every parent node has a key; sender and receiver
    are neighbours at first, then at the two ends of the tree."""
    alice, near, far = full_group(_SUITE, size, (0, 1, size - 1))

    def create() -> object:
        return alice.commit(now=NOW)

    yield Result("commit: create", size, timed(create), _floor(create))

    made = alice.commit(now=NOW)

    def process(receiver: Group) -> Callable[[], object]:
        return lambda: receiver.apply(receiver.process(made.commit, now=NOW), now=NOW)

    yield Result("commit: process (far)", size, timed(process(far)), _floor(process(far)))
    yield Result("commit: process (near)", size, timed(process(near)), _floor(process(near)))

    # The sender's second message: its ratchet is open by then, as it is for all but the first one.
    first, speaking = alice.encrypt(_MESSAGE)
    second, _ = speaking.encrypt(_MESSAGE)
    listening = far.apply(far.process(first, now=NOW), now=NOW)

    def encrypt() -> object:
        return speaking.encrypt(_MESSAGE)

    def decrypt() -> object:
        return listening.apply(listening.process(second, now=NOW), now=NOW)

    yield Result("encrypt 1 KiB", size, timed(encrypt), _floor(encrypt), talking.encrypt if talking else None)
    yield Result("decrypt 1 KiB", size, timed(decrypt), _floor(decrypt), talking.decrypt if talking else None)
    assert isinstance(made.sent, Group)
    yield from _storing(alice, made.sent, applied(made.sent, made.staged), size)


def _storing(before: Group, sent: Group, after: Group, size: int) -> Iterator[Result]:
    """What a message's and a Commit's changes cost on the disk, and the way back."""
    with tempfile.TemporaryDirectory() as folder:
        store = SQLiteStore(Path(folder) / "bench.db", "alice@bench.example")
        with store.transaction() as transaction:
            for key, value in before.pieces().items():
                transaction.put("group", key, value)
        _, talked = before.stored().encrypt(_MESSAGE)

        def write(new: Group, old: Group) -> Callable[[], object]:
            def step() -> None:
                with store.transaction() as transaction:
                    for key, value in new.changes_since(old).items():
                        if value is None:
                            transaction.delete("group", key)
                        else:
                            transaction.put("group", key, value)

            return step

        base = before.stored()
        pieces = len(talked.changes_since(base)), len(after.changes_since(base))
        yield Result("store a message's step", size, timed(write(talked, base)), note=f"{pieces[0]} pieces")
        yield Result("store a Commit's step", size, timed(write(after, base)), note=f"{pieces[1]} pieces")

        def restore() -> object:
            with store.transaction() as transaction:
                return Group.restore(transaction.items("group"))

        with store.transaction() as transaction:
            transaction.delete_prefix("group")
            for key, value in before.pieces().items():
                transaction.put("group", key, value)
        seconds = timed(restore, at_most=3 if size > 5000 else 20)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        yield Result("restore from the store", size, seconds, note=f"process so far at most {peak} MB")
        store.close()
