"""An immutable map for many entries of which few change: a dictionary that nobody changes, and a layer of differences.

::

    clients ──► base {0: Alice, 1: Bob, ... 49,999}  ◄── clients after a Commit
                                                          └── changes {1: gone, 7: Carol}

A change costs in proportion to itself, as with :class:`immutables.Map`, which is the layer.  But the dictionary needs a
third of its memory and of the time to make it, and is one object for the garbage collector instead of two for each
entry.  When as much has changed as there is, both become one dictionary; that is one step more for each change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, overload

from immutables import Map, MapMutation

__all__ = ["LayeredMap", "LayeredMutation"]

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_GONE: Any = object()
_ABSENT: Any = object()
_FEW = 64  # changes that need no dictionary


class LayeredMap(Mapping[K, V]):
    """See the module."""

    __slots__ = ("_base", "_changes", "_size")

    def __init__(self, base: dict[K, V], changes: Map[K, V] | None = None, size: int | None = None) -> None:
        """
        :param base: belongs to this map from now on
        :param changes: for :class:`LayeredMutation`, as `size`
        """
        self._base = base
        self._changes: Map[K, V] = Map() if changes is None else changes
        self._size = len(base) if size is None else size

    def __repr__(self) -> str:
        return f"<LayeredMap of {self._size} entries>"

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: K) -> V:
        value = self._changes.get(key, _ABSENT)
        if value is _ABSENT:
            return self._base[key]
        if value is _GONE:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        value = self._changes.get(key, _ABSENT)  # type: ignore[arg-type]
        return key in self._base if value is _ABSENT else value is not _GONE

    @overload
    def get(self, key: K, /) -> V | None: ...

    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...

    def get(self, key: K, /, default: Any = None) -> Any:
        """The value, or `default`; most keys that a Commit asks for are new, and Mapping's `get` is slow for those."""
        value = self._changes.get(key, _ABSENT)
        if value is _ABSENT:
            return self._base.get(key, default)
        return default if value is _GONE else value

    def __iter__(self) -> Iterator[K]:
        if not self._changes:
            yield from self._base
            return
        for key in self._base:
            if self._changes.get(key) is not _GONE:
                yield key
        for key, value in self._changes.items():
            if value is not _GONE and key not in self._base:
                yield key

    def mutate(self) -> LayeredMutation[K, V]:
        """A draft of the next map; this one stays as it is."""
        return LayeredMutation(self._base, self._changes.mutate(), self._size)


class LayeredMutation(Generic[K, V]):
    """A map that can be changed until :meth:`finish`."""

    __slots__ = ("_base", "_changes", "_size")

    def __init__(self, base: dict[K, V], changes: MapMutation[K, V], size: int) -> None:
        """Use :meth:`LayeredMap.mutate` instead."""
        self._base = base
        self._changes = changes
        self._size = size

    def __contains__(self, key: K) -> bool:
        value = self._changes.get(key, _ABSENT)
        return key in self._base if value is _ABSENT else value is not _GONE

    def get(self, key: K) -> V | None:
        """The value, None if there is none."""
        value = self._changes.get(key, _ABSENT)
        if value is _ABSENT:
            return self._base.get(key)
        return None if value is _GONE else value

    def __setitem__(self, key: K, value: V) -> None:
        self._size += key not in self
        self._changes[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._size -= 1
        if key in self._base:
            self._changes[key] = _GONE
        else:
            del self._changes[key]

    def finish(self) -> LayeredMap[K, V]:
        """The next map.  Do not use the draft afterwards."""
        changes = self._changes.finish()
        if len(changes) <= max(_FEW, len(self._base)):
            return LayeredMap(self._base, changes, self._size)
        base = dict(self._base)
        for key, value in changes.items():
            if value is _GONE:
                base.pop(key, None)
            else:
                base[key] = value
        return LayeredMap(base)
