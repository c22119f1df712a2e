"""Codecs for the fields of the policy layer's extensions: addresses, flags, bounded lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import MalformedError
from ..identity import check_bare_jid
from ..mls.tls import Codec
from ..mls.varint import read_span, write_opaque

__all__ = [
    "BARE_JID",
    "BOOLEAN",
    "MAX_ADMINISTRATORS",
    "MAX_ROOTS",
    "Administrators",
    "Bounded",
    "RootHashes",
    "TrailingFlag",
]

MAX_ADMINISTRATORS = 64
MAX_ROOTS = 16


class Boolean(Codec):
    """One octet: 0 or 1."""

    def write(self, out: bytearray, value: Any) -> None:
        out.append(1 if value else 0)

    def read(self, data: bytes, pos: int, end: int) -> tuple[bool, int]:
        if pos >= end or data[pos] > 1:
            raise MalformedError("not the 0 or 1 of a yes or no")
        return data[pos] == 1, pos + 1


class TrailingFlag(Codec):
    """The last field of a structure: an octet 1, or nothing for False.

    Structures of before the field existed have the same octets as those in which it is False.
    """

    def write(self, out: bytearray, value: Any) -> None:
        if value:
            out.append(1)

    def read(self, data: bytes, pos: int, end: int) -> tuple[bool, int]:
        if pos == end:
            return False, pos
        if data[pos] != 1:
            raise MalformedError("a flag at the end that is not 1")
        return True, pos + 1


class BareJID(Codec):
    """``opaque<V>``: ``local@domain`` in UTF-8 and normal form."""

    def write(self, out: bytearray, value: str) -> None:
        check_bare_jid(value)
        write_opaque(out, value.encode())

    def read(self, data: bytes, pos: int, end: int) -> tuple[str, int]:
        pos, stop = read_span(data, pos, end)
        try:
            address = data[pos:stop].decode()
            check_bare_jid(address)
        except UnicodeDecodeError:
            raise MalformedError("a bare JID that is not UTF-8") from None
        except ValueError as error:
            raise MalformedError(f"not a bare JID in normal form: {error}") from None
        return address, stop


BARE_JID = BareJID()


class Administrators(Codec):
    """``BareJID administrators<V>``: 1 to `MAX_ADMINISTRATORS` entries without duplicates."""

    def write(self, out: bytearray, value: Sequence[str]) -> None:
        if not 0 < len(value) <= MAX_ADMINISTRATORS or len(set(value)) != len(value):
            raise ValueError(f"administrators are 1 to {MAX_ADMINISTRATORS} accounts, none twice")
        body = bytearray()
        BARE_JID.write_all(body, tuple(value))
        write_opaque(out, body)

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[str, ...], int]:
        pos, stop = read_span(data, pos, end)
        found: list[str] = []
        while pos < stop and len(found) < MAX_ADMINISTRATORS:
            account, pos = BARE_JID.read(data, pos, stop)
            found.append(account)
        if pos != stop or not found or len(set(found)) != len(found):
            raise MalformedError(f"administrators are not 1 to {MAX_ADMINISTRATORS} accounts, none twice")
        return tuple(found), stop


class RootHashes(Codec):
    """``opaque root[32]; root roots<V>``: SHA-256 hashes of certificates, at most `MAX_ROOTS`, without duplicates."""

    SIZE = 32

    def write(self, out: bytearray, value: Sequence[bytes]) -> None:
        if len(value) > MAX_ROOTS or len(set(value)) != len(value) or any(len(root) != self.SIZE for root in value):
            raise ValueError(f"roots are at most {MAX_ROOTS} SHA-256 hashes, none twice")
        write_opaque(out, b"".join(value))

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[bytes, ...], int]:
        pos, stop = read_span(data, pos, end)
        count, rest = divmod(stop - pos, self.SIZE)
        if rest or count > MAX_ROOTS:
            raise MalformedError(f"roots are not at most {MAX_ROOTS} SHA-256 hashes")
        found = tuple(data[start : start + self.SIZE] for start in range(pos, stop, self.SIZE))
        if len(set(found)) != count:
            raise MalformedError("a root twice")
        return found, stop


class Bounded(Codec):
    """``T name<V>`` of `least` to `most` entries.  The reader stops at the first excess entry.

    :param entry: the codec of one entry
    """

    def __init__(self, entry: Codec, least: int, most: int) -> None:
        self.entry, self.least, self.most = entry, least, most

    def write(self, out: bytearray, value: Sequence[Any]) -> None:
        if not self.least <= len(value) <= self.most:
            raise ValueError(f"a list of not {self.least} to {self.most} entries")
        body = bytearray()
        self.entry.write_all(body, tuple(value))
        write_opaque(out, body)

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[Any, ...], int]:
        pos, stop = read_span(data, pos, end)
        found: list[Any] = []
        while pos < stop and len(found) < self.most:
            entry, pos = self.entry.read(data, pos, stop)
            found.append(entry)
        if pos != stop or len(found) < self.least:
            raise MalformedError(f"a list of not {self.least} to {self.most} entries")
        return tuple(found), stop


BOOLEAN = Boolean()
