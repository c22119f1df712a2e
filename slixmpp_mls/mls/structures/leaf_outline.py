"""What indexes of a group's members are made of, read from an encoded LeafNode (RFC 9420 7.2).

Nothing else of the leaf is decoded.  The octets are those of a leaf that has been decoded and checked before, such as
one in a store.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from ..tls import Opaque
from ..varint import read_span
from .leaf_node import LeafNodeSource

__all__ = ["LeafOutline"]

_read_opaque = Opaque().read
_VECTORS = 5  # of Capabilities


class LeafOutline(NamedTuple):
    """Some fields of a leaf.

    :ivar credential: with its type
    :ivar capabilities: encoded
    :ivar rest: all that follows them: source, extensions, signature
    """

    encryption_key: bytes
    signature_key: bytes
    credential: bytes
    capabilities: bytes
    rest: bytes

    @classmethod
    def of(cls, leaf: bytes) -> Self:
        """The outline of an encoded leaf.

        :raises MalformedError: it is none
        """
        end = len(leaf)
        try:  # nearly always, all lengths take one octet
            first, second = leaf[0], 1 + leaf[0]
            third = second + 1 + leaf[second]  # the credential
            longest = first | leaf[second] | leaf[third + 2]
            rest = capabilities = third + 3 + leaf[third + 2]
            for _ in range(_VECTORS):
                length = leaf[rest]
                longest |= length
                rest += 1 + length
        except IndexError:
            longest = 0x40
        if longest < 0x40 and rest <= end:
            parts = leaf[1:second], leaf[second + 1 : third], leaf[third:capabilities], leaf[capabilities:rest]
            return cls(*parts, leaf[rest:])
        encryption_key, pos = _read_opaque(leaf, 0, end)
        signature_key, start = _read_opaque(leaf, pos, end)
        capabilities = rest = _behind(leaf, start + 2, end)  # behind the credential's type; each is one vector
        for _ in range(_VECTORS):
            rest = _behind(leaf, rest, end)
        return cls(encryption_key, signature_key, leaf[start:capabilities], leaf[capabilities:rest], leaf[rest:])

    @property
    def credential_type(self) -> int:
        """The credential's number in the registry."""
        return int.from_bytes(self.credential[:2], "big")

    def has_extension(self, extension: int) -> bool:
        """Whether the leaf has an extension of this type.

        :raises MalformedError: the extensions do not parse, as far as it looks at them
        """
        return extension.to_bytes(2, "big") in self.rest and extension in self.extension_types()

    def extension_types(self) -> list[int]:
        """The types of the leaf's extensions, in their order.

        :raises MalformedError: they do not parse
        """
        rest, end = self.rest, len(self.rest)
        source, pos = rest[0], 1
        if source == LeafNodeSource.KEY_PACKAGE:
            pos += 16  # its Lifetime
        elif source == LeafNodeSource.COMMIT:
            pos = _behind(rest, pos, end)
        pos, end = read_span(rest, pos, end)
        types = []
        while pos < end:
            types.append(int.from_bytes(rest[pos : pos + 2], "big"))
            pos = _behind(rest, pos + 2, end)
        return types


def _behind(data: bytes, pos: int, end: int) -> int:
    """Where the vector ends that begins at `pos`."""
    if pos < end and data[pos] < 0x40 and pos + data[pos] < end:  # nearly always
        return pos + 1 + data[pos]
    return read_span(data, pos, end)[1]
