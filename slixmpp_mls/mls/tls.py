"""The TLS presentation language of RFC 9420 (section 2.1): one declaration per structure.

A structure is declared once, as a class whose annotations are its fields in wire order::

    @struct
    class Lifetime(Struct):
        not_before: uint64
        not_after: uint64

From that declaration come the constructor, equality, :meth:`Struct.encode`,
:meth:`Struct.decode` and (in :mod:`slixmpp_mls.mls.xml_form`) the XML form and its schema.

===========================================  ==================================================
annotation                                   presentation language
===========================================  ==================================================
``uint8 uint16 uint32 uint64``               the integer
an :class:`IntEnum` wrapped in ``Enum(n)``   ``enum``; values outside it are refused
``opaque``                                   ``opaque name<V>``
another struct                               the struct
``tuple[X, ...]``                            ``X name<V>``
``X | None``                                 ``optional<X>``
``Annotated[A | B, Select(...)]``            an enum field and the ``select`` that follows it
``Annotated[..., When("field", predicate)]`` a field that is there only if ``predicate(field)``
===========================================  ==================================================

Decoding is strict: input must be consumed to its end, lengths must be minimal varints and lie
within the input, ``optional`` presence must be 0 or 1.  Structures of RFC 9420 do not contain
themselves, so the depth of decoding is the depth of the declarations, whatever a peer sends;
every vector element takes at least one octet, so counts are bounded by the input's length.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Self, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from ..errors import MalformedError

__all__ = [
    "Codec", "Enum", "Field", "Opaque", "Optional", "Select", "Struct", "StructCodec", "UInt", "Vector", "When",
    "encode_varint", "opaque", "read_varint", "struct", "uint8", "uint16", "uint32", "uint64", "write_opaque",
]

MAX_VECTOR = 2**30 - 1  # RFC 9420 2.1.2: the largest length that the encoding can express


class Codec:
    """Writes and reads one type of value."""

    def write(self, out: bytearray, value: Any) -> None:
        raise NotImplementedError

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        """The value at `pos`, and where it ends.  `end` bounds what may be read."""
        raise NotImplementedError

    def encode(self, value: Any) -> bytes:
        out = bytearray()
        self.write(out, value)
        return bytes(out)

    def decode(self, data: bytes) -> Any:
        """:raises MalformedError: also when octets are left over"""
        value, pos = self.read(data, 0, len(data))
        if pos != len(data):
            raise MalformedError(f"{len(data) - pos} octets left over")
        return value


# --- variable-size lengths, RFC 9420 2.1.2 ---------------------------------------------------


def encode_varint(value: int) -> bytes:
    if value < 0x40:
        return value.to_bytes(1, "big")
    if value < 0x4000:
        return (0x4000 | value).to_bytes(2, "big")
    if value <= MAX_VECTOR:
        return (0x8000_0000 | value).to_bytes(4, "big")
    raise ValueError(f"{value} octets are more than a vector can hold")


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    if pos >= end:
        raise MalformedError("input ends where a length should be")
    first = data[pos]
    if first < 0x40:
        return first, pos + 1
    size, least = (2, 0x40) if first < 0x80 else (4, 0x4000)
    if first >= 0xC0:
        raise MalformedError("length with the invalid prefix 11")
    if pos + size > end:
        raise MalformedError("input ends within a length")
    value = int.from_bytes(data[pos : pos + size], "big") & (0x3FFF if size == 2 else MAX_VECTOR)
    if value < least:
        raise MalformedError("length that is not in its shortest form")
    return value, pos + size


def _read_span(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """A length and the octets that it announces: where they start, where they end."""
    length, pos = read_varint(data, pos, end)
    if pos + length > end:
        raise MalformedError("length beyond the end of the input")
    return pos, pos + length


def write_opaque(out: bytearray, value: bytes) -> None:
    out += encode_varint(len(value))
    out += value


# --- codecs ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class UInt(Codec):
    """An unsigned integer of `size` octets; `names`, if given, is the registry that it comes from."""

    size: int
    names: type[enum.IntEnum] | None = None

    def write(self, out: bytearray, value: int) -> None:
        out += value.to_bytes(self.size, "big")

    def read(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        stop = pos + self.size
        if stop > end:
            raise MalformedError("input ends within a number")
        return int.from_bytes(data[pos:stop], "big"), stop


@dataclasses.dataclass(frozen=True)
class Enum(Codec):
    """A closed enumeration of `size` octets."""

    type: type[enum.IntEnum]
    size: int = 1

    def write(self, out: bytearray, value: int) -> None:
        out += int(value).to_bytes(self.size, "big")

    def read(self, data: bytes, pos: int, end: int) -> tuple[enum.IntEnum, int]:
        stop = pos + self.size
        if stop > end:
            raise MalformedError("input ends within a number")
        number = int.from_bytes(data[pos:stop], "big")
        try:
            return self.type(number), stop
        except ValueError:
            raise MalformedError(f"{number} is no {self.type.__name__}") from None


@dataclasses.dataclass(frozen=True)
class Opaque(Codec):
    """``opaque name<V>``."""

    def write(self, out: bytearray, value: bytes) -> None:
        out += encode_varint(len(value))
        out += value

    def read(self, data: bytes, pos: int, end: int) -> tuple[bytes, int]:
        pos, stop = _read_span(data, pos, end)
        return data[pos:stop], stop


@dataclasses.dataclass(frozen=True)
class Vector(Codec):
    """``X name<V>``, as a tuple."""

    item: Codec

    def write(self, out: bytearray, value: tuple[Any, ...]) -> None:
        body = bytearray()
        write = self.item.write
        for item in value:
            write(body, item)
        out += encode_varint(len(body))
        out += body

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[Any, ...], int]:
        pos, stop = _read_span(data, pos, end)
        items = []
        read = self.item.read
        while pos < stop:
            item, pos = read(data, pos, stop)
            items.append(item)
        return tuple(items), stop


@dataclasses.dataclass(frozen=True)
class Optional(Codec):
    """``optional<X>``."""

    item: Codec

    def write(self, out: bytearray, value: Any) -> None:
        if value is None:
            out.append(0)
        else:
            out.append(1)
            self.item.write(out, value)

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        if pos >= end:
            raise MalformedError("input ends where an optional should be")
        present = data[pos]
        if present > 1:  # RFC 9420 2.1.1
            raise MalformedError("presence of an optional that is neither 0 nor 1")
        if present == 0:
            return None, pos + 1
        return self.item.read(data, pos + 1, end)


class Select(Codec):
    """An enum field and the ``select`` that follows it.

    In Python the value is the variant itself; its class says which one it is, so the
    enum field can not contradict it.

    :param tag: codec of the enum field
    :param variants: enum value to the variant's annotation (a struct, or another select)
    :param otherwise: for open registries: a struct class whose constructor takes the number
        and the octets of an ``opaque<V>`` (attributes `tag` and `data`).  RFC 9420 gives
        unknown variants no length; the stacks in use agree on this one.
    """

    def __init__(self, tag: Codec, variants: Mapping[int, Any], otherwise: type[Any] | None = None) -> None:
        self.tag = tag
        self.variants: dict[int, Codec] = {int(number): codec_of(hint) for number, hint in variants.items()}
        self.otherwise = otherwise
        self._numbers: dict[type, int] = {}
        for number, codec in self.variants.items():
            for cls in _classes(codec):
                self._numbers[cls] = number

    def tag_of(self, value: Any) -> int:
        """The enum value that announces `value`."""
        number = self._numbers.get(type(value))
        if number is None:
            if self.otherwise is None or type(value) is not self.otherwise:
                raise TypeError(f"{type(value).__name__} is no variant here")
            return int(value.tag)
        return number

    def write(self, out: bytearray, value: Any) -> None:
        number = self.tag_of(value)
        self.tag.write(out, number)
        self.write_variant(out, value)

    def write_variant(self, out: bytearray, value: Any) -> None:
        """The variant without its enum field (RFC 9420 6.3.1 carries that elsewhere)."""
        number = self._numbers.get(type(value))
        if number is None:
            write_opaque(out, value.data)
        else:
            self.variants[number].write(out, value)

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        number, pos = self.tag.read(data, pos, end)
        return self.read_variant(number, data, pos, end)

    def read_variant(self, number: int, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        codec = self.variants.get(number)
        if codec is not None:
            return codec.read(data, pos, end)
        if self.otherwise is None:
            raise MalformedError(f"unknown variant {number}")
        pos, stop = _read_span(data, pos, end)
        return self.otherwise(number, data[pos:stop]), stop


def _classes(codec: Codec) -> list[type]:
    if isinstance(codec, StructCodec):
        return [codec.cls]
    if isinstance(codec, Select):
        nested = [cls for variant in codec.variants.values() for cls in _classes(variant)]
        return [*nested, codec.otherwise] if codec.otherwise else nested
    raise TypeError("a variant is a struct or a select")


@dataclasses.dataclass(frozen=True)
class When:
    """Makes a field conditional on an earlier one (a ``select`` with an empty case)."""

    field: str
    holds: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a struct, in wire order."""

    name: str
    codec: Codec
    when: When | None


class StructCodec(Codec):
    """The fields of a struct, one after another."""

    def __init__(self, cls: type[Any], fields: tuple[Field, ...]) -> None:
        self.cls = cls
        self.fields = fields
        self._conditional = any(field.when for field in fields)
        self._writers = tuple(field.codec.write for field in fields)
        self._readers = tuple(field.codec.read for field in fields)
        names = [field.name for field in fields]
        self._values: Callable[[Any], tuple[Any, ...]]
        if len(names) > 1:
            self._values = attrgetter(*names)
        elif names:
            one = attrgetter(names[0])
            self._values = lambda value: (one(value),)
        else:
            self._values = lambda value: ()

    def write(self, out: bytearray, value: Any) -> None:
        if self._conditional:
            self._write_conditional(out, value)
            return
        for write, item in zip(self._writers, self._values(value), strict=True):
            write(out, item)

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        if self._conditional:
            return self._read_conditional(data, pos, end)
        values = []
        for read in self._readers:
            item, pos = read(data, pos, end)
            values.append(item)
        return self.cls(*values), pos

    def _write_conditional(self, out: bytearray, value: Any) -> None:
        for field in self.fields:
            item = getattr(value, field.name)
            if field.when is None or field.when.holds(getattr(value, field.when.field)):
                field.codec.write(out, item)
            elif item is not None:
                raise ValueError(f"{field.name} has no place in this {self.cls.__name__}")

    def _read_conditional(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        values: dict[str, Any] = {}
        for field in self.fields:
            if field.when is None or field.when.holds(values[field.when.field]):
                values[field.name], pos = field.codec.read(data, pos, end)
            else:
                values[field.name] = None
        return self.cls(**values), pos


# --- declarations ----------------------------------------------------------------------------

uint8 = Annotated[int, UInt(1)]
uint16 = Annotated[int, UInt(2)]
uint32 = Annotated[int, UInt(4)]
uint64 = Annotated[int, UInt(8)]
opaque = Annotated[bytes, Opaque()]


class Struct:
    """Base of every declared structure; see :func:`struct`."""

    __slots__ = ()
    codec: ClassVar[StructCodec]

    def encode(self) -> bytes:
        """The structure's octets."""
        return self.codec.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The structure that these octets are, all of them.

        :raises MalformedError: they are none
        """
        value: Self = cls.codec.decode(data)
        return value


S = TypeVar("S", bound=Struct)


@dataclass_transform(frozen_default=True)
def struct(cls: type[S]) -> type[S]:
    """Turn annotations into an immutable structure with a codec.

    A class that holds secrets declares ``secret = True`` (a ClassVar): its repr then shows
    the name only.
    """
    made = dataclasses.dataclass(frozen=True, slots=True, repr=not getattr(cls, "secret", False))(cls)
    if getattr(cls, "secret", False):
        made.__repr__ = _repr_secret  # type: ignore[assignment]
    hints = get_type_hints(made, include_extras=True)
    fields = tuple(_field(field.name, hints[field.name]) for field in dataclasses.fields(made))
    made.codec = StructCodec(made, fields)
    return made


def _repr_secret(self: object) -> str:
    return f"<{type(self).__name__}>"


def _field(name: str, hint: Any) -> Field:
    when = None
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        rest = [mark for mark in marks if not isinstance(mark, When)]
        when = next((mark for mark in marks if isinstance(mark, When)), None)
        if when is not None:
            hint = _without_none(hint)
        for mark in rest:
            hint = Annotated[hint, mark]
    return Field(name, codec_of(hint), when)


def _without_none(hint: Any) -> Any:
    left = [arg for arg in get_args(hint) if arg is not type(None)]
    return left[0] if len(left) == 1 and len(get_args(hint)) == 2 else hint


def codec_of(hint: Any) -> Codec:
    """The codec that an annotation stands for."""
    origin = get_origin(hint)
    if origin is Annotated:
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Codec):
                return mark
    elif origin is tuple and get_args(hint)[1:] == (Ellipsis,):
        return Vector(codec_of(get_args(hint)[0]))
    elif origin in (Union, types.UnionType):
        return Optional(codec_of(_without_none(hint)))
    elif isinstance(hint, type) and issubclass(hint, Struct):
        return hint.codec
    raise TypeError(f"no codec for {hint!r}")
