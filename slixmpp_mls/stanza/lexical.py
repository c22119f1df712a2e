"""The spelling of the elements' values: one object per type, used by every binding.

A spelling has exactly one canonical form that is written, and reading accepts little else: two
spellings of one value would let two receivers disagree about whether attributes match the bytes.
All three methods raise :class:`ValueError`; the calling code knows whether a peer or a caller is to blame.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from .xml import read_datetime, write_datetime

__all__ = ["Base64", "Boolean", "DateTime", "Lexical", "Text", "UInt"]

_SPACES = " \t\r\n"  # white space as XML 1.0 defines it, and nothing of Unicode's
_SPACE = re.compile(f"[{_SPACES}]+")
_DECIMAL = re.compile(r"0|[1-9][0-9]*", re.ASCII)


class Lexical(Protocol):
    """A type of values with its spelling."""

    def check(self, value: Any) -> None:
        """:raises ValueError: the value is outside the type"""

    def read(self, text: str) -> Any:
        """:raises ValueError: this is not how a value of the type is spelled"""

    def write(self, value: Any) -> str:
        """The canonical spelling of a value that passes :meth:`check`."""


@dataclass(frozen=True)
class Base64:
    """Octets in base64 (RFC 4648 section 4): padded, unused bits zero.

    :ivar least: octets
    :ivar most: octets
    :ivar spaces: whether reading skips white space (element text may be wrapped, attributes not)
    """

    least: int
    most: int
    spaces: bool = False

    def check(self, value: Any) -> None:
        if not isinstance(value, bytes):
            raise ValueError("not octets")
        if not self.least <= len(value) <= self.most:
            raise ValueError(f"{len(value)} octets, outside {self.least} to {self.most}")

    def read(self, text: str) -> bytes:
        if self.spaces and any(map(text.__contains__, _SPACES)):  # looking costs less than replacing, and few have any
            text = _SPACE.sub("", text)
        if len(text) > (self.most + 2) // 3 * 4:
            raise ValueError(f"base64 of more than {self.most} octets")
        try:
            value = binascii.a2b_base64(text, strict_mode=True)
        except (binascii.Error, ValueError):
            raise ValueError("not base64") from None
        if self.write(value) != text:  # RFC 4648 3.5: unused bits are zero
            raise ValueError("base64 that is not canonical")
        self.check(value)
        return value

    def write(self, value: bytes) -> str:
        return binascii.b2a_base64(value, newline=False).decode()


@dataclass(frozen=True)
class UInt:
    """An unsigned integer in decimal, without sign and leading zeros."""

    bits: int

    def check(self, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("not an integer")
        if not 0 <= value < 1 << self.bits:
            raise ValueError(f"not a number of {self.bits} bits")

    def read(self, text: str) -> int:
        if len(text) > 20 or not _DECIMAL.fullmatch(text):  # 2**64 has 20 digits
            raise ValueError("not a decimal number in canonical form")
        value = int(text)
        self.check(value)
        return value

    def write(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True)
class Text:
    """Characters that match a pattern, as they are."""

    pattern: re.Pattern[str]
    what: str

    def check(self, value: Any) -> None:
        if not isinstance(value, str) or not self.pattern.fullmatch(value):
            raise ValueError(f"not {self.what}")

    def read(self, text: str) -> str:
        self.check(text)
        return text

    def write(self, value: str) -> str:
        return value


class Boolean:
    """``xs:boolean``; `true` and `false` are written, `1` and `0` read as well."""

    _values = {"true": True, "1": True, "false": False, "0": False}

    def check(self, value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError("not a boolean")

    def read(self, text: str) -> bool:
        if text not in self._values:
            raise ValueError("not a boolean")
        return self._values[text]

    def write(self, value: bool) -> str:
        return "true" if value else "false"


class DateTime:
    """A moment, as XEP-0082's DateTime; written in UTC."""

    def check(self, value: Any) -> None:
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise ValueError("not a moment with a time zone")

    def read(self, text: str) -> datetime:
        return read_datetime(text)

    def write(self, value: datetime) -> str:
        return write_datetime(value)
