"""What post-quantum cipher suites cost beside suite 1: time, and octets on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.mls.structures.welcome import Welcome

from .core import timed
from .groups import NOW, bundle, full_group, message, sparse_group
from .report import duration

__all__ = ["Cost", "markdown", "measure", "print_table"]

_TEXT = bytes(1024)


@dataclass(frozen=True)
class Cost:
    """One thing in one suite.

    :ivar what: an operation, or something that is sent
    :ivar size: members of the group; 0 where they do not matter
    :ivar seconds: for one operation, or None
    :ivar octets: of what is sent, or None
    """

    what: str
    size: int
    suite: int
    seconds: float | None = None
    octets: int | None = None


def measure(suites: Sequence[int], sizes: Sequence[int], *, progress: Callable[[str], None]) -> Iterator[Cost]:
    """Everything, suite by suite."""
    for number in suites:
        suite = CipherSuite.get(number)
        yield from _key_packages(suite)
        for size in sizes:
            progress(f"{suite.id.name}: {size} members")
            yield from _bare(suite, size)
            yield from _full(suite, size)


def _key_packages(suite: CipherSuite) -> Iterator[Cost]:
    octets = len(MLSMessage.wrap(bundle(suite, 0).key_package))
    yield Cost("KeyPackage", 0, suite.id, timed(lambda: bundle(suite, 0)), octets)


def _bare(suite: CipherSuite, size: int) -> Iterator[Cost]:
    """A group that one Commit has filled: nobody else has committed yet."""
    bundles = [bundle(suite, number) for number in range(1, size)]
    creator = Group.create(bundle(suite, 0), b"benchmark" + bytes(23))
    adds = [Add(each.key_package) for each in bundles]
    made = creator.commit(adds, now=NOW)
    seconds = timed(lambda: creator.commit(adds, now=NOW), at_most=5)
    yield Cost("add n in one Commit", size, suite.id, seconds, len(made.commit))
    group = sparse_group(suite, size, bundles)
    welcome = message(group.welcome)
    assert isinstance(welcome, Welcome)
    seconds = timed(lambda: Group.join(welcome, bundles[-1]), at_most=10)
    yield Cost("join by that Welcome", size, suite.id, seconds, len(group.welcome))
    first = group.creator.commit(now=NOW)
    seconds = timed(lambda: group.creator.commit(now=NOW), at_most=10)
    yield Cost("first path: create", size, suite.id, seconds, len(first.commit))


def _full(suite: CipherSuite, size: int) -> Iterator[Cost]:
    """A group in which everybody has committed."""
    alice, near, far = full_group(suite, size, (0, 1, size - 1))
    made = alice.commit(now=NOW)
    yield Cost("commit: create", size, suite.id, timed(lambda: alice.commit(now=NOW)), len(made.commit))
    for name, receiver in (("far", far), ("near", near)):
        seconds = timed(lambda receiver=receiver: receiver.apply(receiver.process(made.commit, now=NOW), now=NOW))  # type: ignore[misc]
        yield Cost(f"commit: process ({name})", size, suite.id, seconds)
    first, speaking = alice.encrypt(_TEXT)
    second, _ = speaking.encrypt(_TEXT)
    listening = far.apply(far.process(first, now=NOW), now=NOW)
    yield Cost("encrypt 1 KiB", size, suite.id, timed(lambda: speaking.encrypt(_TEXT)), len(second))
    seconds = timed(lambda: listening.apply(listening.process(second, now=NOW), now=NOW))
    yield Cost("decrypt 1 KiB", size, suite.id, seconds)


def _rows(costs: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    suites = list(dict.fromkeys(cost.suite for cost in costs))
    found = {(cost.what, cost.size, cost.suite): cost for cost in costs}
    head = ["", "n"]
    for suite in suites:
        head += [f"{suite:#06x}" if suite >= 0xF000 else str(suite), "octets"]
    rows = []
    for what, size in dict.fromkeys((cost.what, cost.size) for cost in costs):
        row = [what, f"{size:,}" if size else ""]
        for suite in suites:
            cost = found[what, size, suite]
            row.append(duration(cost.seconds))
            row.append("" if cost.octets is None else f"{cost.octets:,}")
        rows.append(row)
    return head, rows


def markdown(costs: Sequence[Cost]) -> str:
    """The table for benchmarks/README.md."""
    head, rows = _rows(costs)
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def print_table(costs: Sequence[Cost], console: Console) -> None:
    """The same for a terminal."""
    head, rows = _rows(costs)
    table = Table()
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if not index else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
