"""A vector of which few items are needed: ``X name<V>`` whose items are decoded when somebody asks for one.

The first path in a large group has a ciphertext for each member, and each member needs one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .tls import Codec, Opaque, StructCodec, Vector
from .varint import read_span, write_opaque

__all__ = ["EqualSized", "LateVector"]

_FEW = 32  # items that are decoded at once


class LateVector(Vector):
    """``X name<V>`` of structures that have ``opaque<V>`` fields only; an item is decoded when somebody asks for it.

    That many items of the same size parse is seen from their lengths, all at once.  A vector of few items, or of items
    of several sizes, is a tuple.

    :param most: see :class:`Vector`
    """

    def __init__(self, item: StructCodec, most: int) -> None:
        super().__init__(item, most)
        if not all(isinstance(field.codec, Opaque) and field.when is None for field in item.fields):
            raise TypeError("items with other fields than opaque ones")
        self._fields = len(item.fields)

    def write(self, out: bytearray, value: Sequence[Any]) -> None:
        if isinstance(value, EqualSized):
            write_opaque(out, value.octets)
        else:
            super().write(out, tuple(value))

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        start, stop = read_span(data, pos, end)
        if stop - start > _FEW:
            behind = start
            for _ in range(self._fields):
                _, behind = read_span(data, behind, stop)
            size = behind - start
            count, rest = divmod(stop - start, size)
            if not rest and count > _FEW and count <= (self.most or count):
                octets = data[start:stop]
                if self._are_alike(octets, size, count):
                    return EqualSized(octets, size, self.item), stop
        return super().read(data, pos, end)

    def _are_alike(self, octets: bytes, size: int, count: int) -> bool:
        """Whether all items have the lengths of the first one's fields, and so parse as it does."""
        field = 0
        while field < size:
            behind, stop = read_span(octets, field, size)
            for place in range(field, behind):
                if octets[place::size] != octets[place : place + 1] * count:
                    return False
            field = stop
        return True


class EqualSized(Sequence[Any]):
    """Many structures of the same size, encoded; see :class:`LateVector`.  Immutable.

    :ivar octets: one after another
    """

    __slots__ = ("_codec", "_size", "octets")

    def __init__(self, octets: bytes, size: int, codec: Codec) -> None:
        self.octets = octets
        self._size = size
        self._codec = codec

    def __repr__(self) -> str:
        return f"<{len(self)} items of {self._size} octets>"

    def __len__(self) -> int:
        return len(self.octets) // self._size

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return tuple(self[each] for each in range(*number.indices(len(self))))
        start = range(len(self))[number] * self._size
        return self._codec.decode(self.octets[start : start + self._size])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, EqualSized):
            return self.octets == other.octets and self._size == other._size
        return isinstance(other, tuple) and tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))
