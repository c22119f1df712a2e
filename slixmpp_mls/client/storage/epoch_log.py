"""The last epochs of a room's group, and who began each by doing what: for people, who look at it with ``inspect``.

A Commit writes one record of bounded size in its own transaction; it takes the place of the epoch `KEPT` before.  The
log begins with our own membership and ends with it.

In the store: space ``epochs/`` + room; key: the epoch modulo `KEPT` (2 octets); value: :class:`EpochRecord`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.structures.leaf_node import LeafNode
from ...mls.tls import Struct, opaque, struct, uint8, uint32, uint64
from ...store.interface import Transaction

__all__ = ["KEPT", "NAMED", "EpochRecord", "note", "read"]

KEPT: Final = 256
"""Epochs of each room."""
NAMED: Final = 16
"""Clients that a record names of those who came, and of those who went; it counts the others."""


@struct
class EpochRecord(Struct):
    """The Commit that began an epoch.

    `when` is the time at which the room received it, in seconds since the Unix epoch.  `by` is the committer's full
    identity, `came` and `went` have those of the first clients, `came_count` and `went_count` the numbers of all.
    `renewed` is the number of members with new keys, and `rules` is 1 if the group's extensions were replaced.
    """

    epoch: uint64
    when: uint64
    by: opaque
    came: tuple[opaque, ...]
    came_count: uint32
    went: tuple[opaque, ...]
    went_count: uint32
    renewed: uint32
    rules: uint8


def note(transaction: Transaction, space: str, epoch: int, by: ClientIdentity, effects: Effects, when: int) -> None:
    """Write down a Commit.

    :param epoch: the epoch that it begins
    :param when: time at which the room received it, seconds since the Unix epoch
    """
    record = EpochRecord(
        epoch=epoch,
        when=max(0, when),
        by=str(by).encode(),
        came=_names(change.after for change in effects.added[:NAMED]),
        came_count=len(effects.added),
        went=_names(change.before for change in effects.removed[:NAMED]),
        went_count=len(effects.removed),
        renewed=len(effects.updated),
        rules=effects.extensions is not None,
    )
    transaction.put(space, (epoch % KEPT).to_bytes(2, "big"), record.encode())


def read(transaction: Transaction, space: str) -> list[EpochRecord]:
    """The epochs that are known, the oldest first."""
    found = [EpochRecord.decode(value) for _, value in transaction.items(space)]
    return sorted(found, key=lambda record: record.epoch)


def _names(leaves: Iterable[LeafNode | None]) -> tuple[bytes, ...]:
    return tuple(str(ClientIdentity.from_leaf(leaf)).encode() for leaf in leaves if leaf is not None)
