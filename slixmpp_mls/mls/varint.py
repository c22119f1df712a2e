"""The lengths of vectors (RFC 9420 2.1.2): variable-size integers, and octets that follow their length.

A length takes one, two or four octets, whose first two bits say which.  Reading accepts only the shortest form, and
only a length that lies within the input.
"""

from __future__ import annotations

from ..errors import MalformedError

__all__ = ["MAX_VECTOR", "encode_varint", "read_span", "read_varint", "without_last", "write_opaque"]

MAX_VECTOR = 2**30 - 1  # the largest length that the encoding can express


def encode_varint(value: int) -> bytes:
    """:raises ValueError: over :data:`MAX_VECTOR`"""
    if value < 0x40:
        return value.to_bytes(1, "big")
    if value < 0x4000:
        return (0x4000 | value).to_bytes(2, "big")
    if value <= MAX_VECTOR:
        return (0x8000_0000 | value).to_bytes(4, "big")
    raise ValueError(f"{value} octets are more than a vector can hold")


def read_varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """The length at `pos`, and where it ends.

    :raises MalformedError: the input ends, the length has the prefix 11 or a shorter form
    """
    if pos >= end:
        raise MalformedError("input ends where a length should be")
    first = data[pos]
    if first < 0x40:
        return first, pos + 1
    if first >= 0xC0:
        raise MalformedError("length with the invalid prefix 11")
    size, least = (2, 0x40) if first < 0x80 else (4, 0x4000)
    if pos + size > end:
        raise MalformedError("input ends within a length")
    value = int.from_bytes(data[pos : pos + size], "big") & (0x3FFF if size == 2 else MAX_VECTOR)
    if value < least:
        raise MalformedError("length that is not in its shortest form")
    return value, pos + size


def write_opaque(out: bytearray, value: bytes | bytearray) -> None:
    """``opaque name<V>``: its length and itself."""
    length = len(value)
    if length < 0x40:
        out.append(length)
    else:
        out += encode_varint(length)
    out += value


def without_last(octets: bytes, last: bytes) -> bytes:
    """A structure's octets without its last field, an ``opaque<V>``: what a signature there covers."""
    return octets[: -len(last) - len(encode_varint(len(last)))]


def read_span(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Where the octets begin and end that the length at `pos` announces.

    :raises MalformedError: beyond `end`, or no valid length
    """
    length, pos = read_varint(data, pos, end)
    stop = pos + length
    if stop > end:
        raise MalformedError("length beyond the end of the input")
    return pos, stop
