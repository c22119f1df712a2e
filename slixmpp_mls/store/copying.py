"""Copies everything in one store into another one, each side in one transaction."""

from __future__ import annotations

from .interface import Store
from .memory import MemoryStore

__all__ = ["copied_to_memory", "copy_all"]


def copy_all(source: Store, target: Store) -> None:
    """Put every entry of `source` into `target`, which keeps its other entries.

    :raises StoreError: one of them failed; `target` is unchanged
    """
    with source.transaction() as read, target.transaction() as write:
        for space in read.spaces():
            for key, value in read.items(space):
                write.put(space, key, value)


def copied_to_memory(source: Store) -> MemoryStore:
    """The contents of a store at this moment, in a store of its own.

    :raises StoreError: `source` cannot be read
    """
    copy = MemoryStore(source.account)
    copy_all(source, copy)
    return copy
