"""The TLS presentation language of RFC 9420 (section 2.1): one declaration per structure.

A structure is declared once, as a class whose annotations are its fields in wire order::

    @struct
    class Lifetime(Struct):
        not_before: uint64
        not_after: uint64

From that declaration come the constructor, equality, :meth:`Struct.encode`,
:meth:`Struct.decode` and (in :mod:`slixmpp_mls.mls.xml_form`) the XML form and its schema.

The module is longer than others because each kind of field is one small class, and the classes refer to each other.

===========================================  ==================================================
annotation                                   presentation language
===========================================  ==================================================
``uint8 uint16 uint32 uint64``               the integer
an :class:`IntEnum` wrapped in ``Enum(n)``   ``enum``; values outside it are refused
``opaque``                                   ``opaque name<V>``
another struct                               the struct
``tuple[X, ...]``                            ``X name<V>``
``Annotated[tuple[X, ...], AtMost(n)]``      the same, of which nobody needs more than n elements
``X | None``                                 ``optional<X>``
``Annotated[A | B, Select(...)]``            an enum field and the ``select`` that follows it
``Annotated[..., When("field", predicate)]`` a field that is there only if ``predicate(field)``
===========================================  ==================================================

Decoding is strict: input must be consumed to its end, lengths must be minimal varints and lie
within the input (:mod:`.varint`), ``optional`` presence must be 0 or 1.  Structures of RFC 9420 do not contain
themselves, so the depth of decoding is the depth of the declarations, whatever a peer sends;
every vector element takes at least one octet, so counts are bounded by the input's length.  As an
object takes more memory than the octet that makes it, vectors of structures have a bound of their
own (:class:`AtMost`), at which a reader stops: without it, a chain of empty certificates took 60
times its octets.  :meth:`Struct.decode` takes no more than :data:`MAX_SIZE`, and readers of a
peer's message set a tighter limit first.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping
from struct import error as PackError
from struct import pack, unpack_from
from typing import (
    Annotated,
    Any,
    ClassVar,
    Self,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from ..errors import MalformedError
from .varint import read_span, write_opaque

__all__ = [
    "MAX_SIZE",
    "AtMost",
    "Codec",
    "EncodedOnce",
    "Enum",
    "Field",
    "Opaque",
    "Optional",
    "Select",
    "Struct",
    "StructCodec",
    "UInt",
    "Vector",
    "When",
    "codec_of",
    "opaque",
    "struct",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]

MAX_SIZE = 2**26  # octets; the tree of 200,000 members, at 300 octets each


class Codec:
    """Writes and reads one type of value."""

    def write(self, out: bytearray, value: Any) -> None:
        """:raises ValueError: the value is not one that the type can express"""
        raise NotImplementedError

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        """The value at `pos`, and where it ends.  `end` bounds what may be read."""
        raise NotImplementedError

    def write_all(self, out: bytearray, values: tuple[Any, ...]) -> None:
        """Values one after another, as in a vector."""
        write = self.write
        for value in values:
            write(out, value)

    def read_all(self, data: bytes, pos: int, end: int) -> tuple[Any, ...]:
        """As many values as lie between `pos` and `end`, which the last one must reach."""
        values = []
        read = self.read
        while pos < end:
            value, pos = read(data, pos, end)
            values.append(value)
        return tuple(values)

    def encode(self, value: Any) -> bytes:
        """:raises ValueError: a number out of range, a vector too long, a field missing"""
        out = bytearray()
        self.write(out, value)
        return bytes(out)

    def decode(self, data: bytes) -> Any:
        """:raises MalformedError: also when octets are left over, or there are more than `MAX_SIZE`"""
        if len(data) > MAX_SIZE:
            raise MalformedError(f"{len(data)} octets are more than any structure needs")
        value, pos = self.read(data, 0, len(data))
        if pos != len(data):
            raise MalformedError(f"{len(data) - pos} octets left over")
        return value


# --- codecs ----------------------------------------------------------------------------------

_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}  # of the module struct


@dataclasses.dataclass(frozen=True)
class UInt(Codec):
    """An unsigned integer of `size` octets; `names`, if given, is the registry that it comes from."""

    size: int
    names: type[enum.IntEnum] | None = None

    def write(self, out: bytearray, value: int) -> None:
        try:
            out += value.to_bytes(self.size, "big")
        except OverflowError:
            raise ValueError(f"{value} is no uint{8 * self.size}") from None

    def read(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        stop = pos + self.size
        if stop > end:
            raise MalformedError("input ends within a number")
        return int.from_bytes(data[pos:stop], "big"), stop

    # A leaf's capabilities and a node's unmerged leaves are vectors of numbers: most of the items of a tree.

    def write_all(self, out: bytearray, values: tuple[int, ...]) -> None:
        try:
            out += pack(f">{len(values)}{_FORMATS[self.size]}", *values)
        except PackError:
            raise ValueError(f"not all of these are uint{8 * self.size}") from None

    def read_all(self, data: bytes, pos: int, end: int) -> tuple[int, ...]:
        count, rest = divmod(end - pos, self.size)
        if rest:
            raise MalformedError("vector ends within a number")
        return unpack_from(f">{count}{_FORMATS[self.size]}", data, pos)


class Enum(Codec):
    """A closed enumeration of `size` octets."""

    def __init__(self, type: type[enum.IntEnum], size: int = 1) -> None:
        self.type = type
        self.size = size
        self._octets = {member: member.to_bytes(size, "big") for member in type}
        self._members = {octets: member for member, octets in self._octets.items()}

    def write(self, out: bytearray, value: int) -> None:
        octets = self._octets.get(value)  # type: ignore[call-overload]  # an IntEnum equals its number
        if octets is None:
            raise ValueError(f"{value} is no {self.type.__name__}")
        out += octets

    def read(self, data: bytes, pos: int, end: int) -> tuple[enum.IntEnum, int]:
        stop = pos + self.size
        if stop > end:
            raise MalformedError("input ends within a number")
        member = self._members.get(data[pos:stop])
        if member is None:
            raise MalformedError(f"{int.from_bytes(data[pos:stop], 'big')} is no {self.type.__name__}")
        return member, stop


class Opaque(Codec):
    """``opaque name<V>``."""

    write = staticmethod(write_opaque)

    def read(self, data: bytes, pos: int, end: int) -> tuple[bytes, int]:
        if pos < end and (length := data[pos]) < 0x40:
            pos += 1
            stop = pos + length
            if stop <= end:
                return data[pos:stop], stop
            raise MalformedError("length beyond the end of the input")
        pos, stop = read_span(data, pos, end)
        return data[pos:stop], stop


class Vector(Codec):
    """``X name<V>``, as a tuple.

    :param most: elements beyond which it is refused, before they are read; None: as many as the input has octets for
    """

    def __init__(self, item: Codec, most: int | None = None) -> None:
        if isinstance(item, StructCodec) and not item.fields:
            raise TypeError("items without octets cannot be counted")
        self.item = item
        self.most = most

    def write(self, out: bytearray, value: tuple[Any, ...]) -> None:
        if not value:  # many are empty: a tree is full of them
            out.append(0)
            return
        if self.most is not None and len(value) > self.most:
            raise ValueError(f"a vector of more than {self.most} elements")
        body = bytearray()
        self.item.write_all(body, value)
        write_opaque(out, body)

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[Any, ...], int]:
        pos, stop = read_span(data, pos, end)
        if pos == stop:
            return (), stop
        if self.most is None:
            return self.item.read_all(data, pos, stop), stop
        if isinstance(self.item, UInt):
            if stop - pos > self.most * self.item.size:
                raise MalformedError(f"a vector of more than {self.most} elements")
            return self.item.read_all(data, pos, stop), stop
        values: list[Any] = []
        read = self.item.read
        while pos < stop:
            if len(values) == self.most:
                raise MalformedError(f"a vector of more than {self.most} elements")
            value, pos = read(data, pos, stop)
            values.append(value)
        return tuple(values), stop


class Optional(Codec):
    """``optional<X>``."""

    def __init__(self, item: Codec) -> None:
        self.item = item

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
    enum field cannot contradict it.

    :param tag: codec of the enum field
    :param variants: enum value to the variant's annotation (a struct, or another select)
    :param otherwise: for open registries: a struct class whose constructor takes the number
        and the octets of an ``opaque<V>`` (attributes `tag` and `data`).  RFC 9420 gives
        unknown variants no length; the stacks in use agree on this one.
    """

    def __init__(self, tag: UInt | Enum, variants: Mapping[int, Any], otherwise: type[Any] | None = None) -> None:
        self.tag = tag
        self.variants: dict[int, Codec] = {int(number): codec_of(hint) for number, hint in variants.items()}
        self.otherwise = otherwise
        self._numbers: dict[type, int] = {}
        self._writers: dict[type, tuple[bytes, Callable[[bytearray, Any], None]]] = {}  # enum field and variant
        for number, codec in self.variants.items():
            for cls in _classes(codec):
                if cls in self._numbers:
                    raise TypeError(f"{cls.__name__} would stand for two variants")
                self._numbers[cls] = number
                self._writers[cls] = tag.encode(number), codec.write

    def tag_of(self, value: Any) -> int:
        """The enum value that announces `value`.

        :raises ValueError: it is no variant, or an unknown one under the number of a known one
        """
        number = self._numbers.get(type(value))
        if number is None:
            if self.otherwise is None or type(value) is not self.otherwise:
                raise ValueError(f"{type(value).__name__} is no variant here")
            number = int(value.tag)
            if number in self.variants:
                raise ValueError(f"{number} is the number of a known variant")
        return number

    def write(self, out: bytearray, value: Any) -> None:
        known = self._writers.get(type(value))
        if known is None:
            self.tag.write(out, self.tag_of(value))
            self.write_variant(out, value)
        else:
            out += known[0]
            known[1](out, value)

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
        """The variant that `number` announces, where its enum field is elsewhere."""
        codec = self.variants.get(number)
        if codec is not None:
            return codec.read(data, pos, end)
        if self.otherwise is None:
            raise MalformedError(f"unknown variant {number}")
        pos, stop = read_span(data, pos, end)
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
class AtMost:
    """Bounds the elements of a vector that a peer fills."""

    count: int


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a struct, in wire order."""

    name: str
    codec: Codec
    when: When | None


class StructCodec(Codec):
    """The fields of a struct, one after another.

    :attr:`write` and :attr:`read` are generated from the fields, as :mod:`dataclasses` does for
    the constructor: joining a large group reads and writes some 20 structures for each member.
    """

    def __init__(self, cls: type[Any], fields: tuple[Field, ...]) -> None:
        for number, field in enumerate(fields):
            if field.when is not None and field.when.field not in [earlier.name for earlier in fields[:number]]:
                raise TypeError(f"{cls.__name__}.{field.name} depends on a field that does not come before it")
        self.cls = cls
        self.fields = fields
        names: dict[str, Any] = {"cls": cls, "has_place": _has_place}
        reads, writes = [], []
        for field in fields:
            name = field.name
            names[f"read_{name}"], names[f"write_{name}"] = field.codec.read, field.codec.write
            read, write = f"v_{name}, pos = read_{name}(data, pos, end)", f"write_{name}(out, value.{name})"
            if field.when is not None:
                names[f"holds_{name}"], names[f"field_{name}"] = field.when.holds, field
                reads.append(f"v_{name} = None")
                read = f"if holds_{name}(v_{field.when.field}): {read}"
                write = f"if has_place(field_{name}, value): {write}"
            reads.append(read)
            writes.append(write)
        made = f"return cls({', '.join('v_' + field.name for field in fields)}), pos"
        source = "\n ".join(["def read(data, pos, end):", *reads, made])
        source += "\n" + "\n ".join(["def write(out, value):", *writes, "return"])
        exec(source, names)  # noqa: S102  # of names in our own declarations only
        self.read = names["read"]  # type: ignore[method-assign]
        self.write_fields: Callable[[bytearray, Any], None] = names["write"]
        self.write = _write_kept if issubclass(cls, EncodedOnce) else self.write_fields  # type: ignore[method-assign]


def _write_kept(out: bytearray, value: EncodedOnce) -> None:
    out += value.encode()


def _has_place(field: Field, value: Any) -> bool:
    """Whether a conditional field is there, in a value where it is if and only if it should be."""
    assert field.when is not None
    place = field.when.holds(getattr(value, field.when.field))
    if place == (getattr(value, field.name) is None):
        raise ValueError(f"{field.name} {'is missing' if place else 'has no place'} in this {type(value).__name__}")
    return place


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
        """The structure's octets.

        :raises ValueError: they cannot express it (a number out of range, a field missing)
        """
        out = bytearray()
        self.codec.write(out, self)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The structure that these octets are, all of them.

        :raises MalformedError: they are none, or more than :data:`MAX_SIZE`
        """
        value: Self = cls.codec.decode(data)
        return value


class EncodedOnce(Struct):
    """Base of the structures whose octets are asked for again and again: they are kept beside the fields.

    Where such a structure is part of another one, these octets are written there, too.
    """

    __slots__ = ("_octets",)
    _octets: bytes

    def encode(self) -> bytes:
        """The structure's octets; see :meth:`Struct.encode`."""
        octets: bytes | None = getattr(self, "_octets", None)
        if octets is None:
            out = bytearray()
            self.codec.write_fields(out, self)
            octets = self.keep_encoding(bytes(out))
        return octets

    def keep_encoding(self, octets: bytes) -> bytes:
        """Spare :meth:`encode` its work.

        :param octets: what it would return
        """
        object.__setattr__(self, "_octets", octets)
        return octets


S = TypeVar("S", bound=Struct)


@dataclass_transform(frozen_default=True)
def struct(cls: type[S]) -> type[S]:
    """Turn annotations into an immutable structure with a codec.

    A class that holds secrets declares ``secret = True`` (a ClassVar): its repr then shows
    the name only.
    """
    made = dataclasses.dataclass(frozen=True, slots=True, repr=not getattr(cls, "secret", False))(cls)
    if getattr(cls, "secret", False):
        made.__repr__ = _repr_secret  # type: ignore[method-assign]
    hints = get_type_hints(made, include_extras=True)
    fields = tuple(
        _field(field.name, hints[field.name])
        for field in dataclasses.fields(made)  # type: ignore[arg-type]
    )
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
            if isinstance(mark, AtMost):
                vector = codec_of(get_args(hint)[0])
                if not isinstance(vector, Vector):
                    raise TypeError(f"{mark} of what is no vector")
                return Vector(vector.item, mark.count)
    elif origin is tuple and get_args(hint)[1:] == (Ellipsis,):
        return Vector(codec_of(get_args(hint)[0]))
    elif origin in (Union, types.UnionType):
        return Optional(codec_of(_without_none(hint)))
    elif isinstance(hint, type) and issubclass(hint, Struct):
        return hint.codec
    raise TypeError(f"no codec for {hint!r}")
