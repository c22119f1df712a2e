"""Encrypted blobs: data that is too large for a stanza, on a web server.

::

    sealing = Sealing(octets)              sealing.pieces() go to the web server, at each attempt
    reference = sealing.at(url)            the reference travels inside MLS
    opening = Opening(reference)           opening.add(piece) takes what comes from there
    opening.finish()                       the octets again

A blob is never in memory as ciphertext, for a ratchet tree may have a hundred megabytes.  Nothing that was decrypted
leaves :class:`Opening` before all of it has been verified.

Each blob has a key of its own for AES-256-GCM, used once.  The reference names the place, the key, and the SHA-256 of
the ciphertext: a holder of the reference gets exactly the sealed octets, or an error, and the web server learns only
their number.  A reference is as secret as its blob.

:class:`RatchetTreeLocation` is the GroupInfo extension by which a joiner finds a ratchet tree that did not fit into its
Welcome (the XEP's "Large Groups and Stanza Limits").  It proves nothing: the tree hash shows whether the tree is the
group's (RFC 9420 12.4.3.1).
"""

from __future__ import annotations

import hmac
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from ..errors import MalformedError
from ..mls.crypto.cipher_suite import Random
from ..mls.structures.extensions import ExtensionContent
from ..mls.tls import Codec, Struct, struct, uint32
from ..mls.varint import read_span, write_opaque
from .code_points import RATCHET_TREE_LOCATION

__all__ = [
    "MAX_BLOB", "MAX_OF_MEMBER", "MAX_TREE", "OVERHEAD", "BlobReference", "Opening", "RatchetTreeLocation", "Sealing",
    "check_url", "longest", "tree_limit",
]  # fmt: skip

MAX_BLOB = 1 << 25
"""Octets of a Commit or a Welcome on the web server."""
MAX_TREE = 1 << 27
"""Octets of a ratchet tree there: 50,000 members with keys of X-Wing, or 300,000 with those of X25519."""
MAX_OF_MEMBER = 1 << 16
"""Octets of a ratchet tree for each member that the group's policy allows."""
OVERHEAD = 16
"""Octets by which sealing makes it longer: the tag."""

_PIECE = 1 << 20  # octets that are encrypted at once
_MAX_URL = 2048
_KEY, _NONCE, _HASH = 32, 12, 32
_PRINTABLE = re.compile(r"[!-~]+", re.ASCII)


def check_url(url: str) -> str:
    """The same URL.  XEP-0363 5: it is an https one, percent-encoded.

    :raises MalformedError: it is not, or names a user or no host
    """
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        plain = False
    if not plain or len(url) > _MAX_URL or not _PRINTABLE.fullmatch(url):
        raise MalformedError("a blob that is not at an https URL")
    return url


class _URL(Codec):
    """``opaque url<V>``: see :func:`check_url`."""

    def write(self, out: bytearray, value: str) -> None:
        write_opaque(out, check_url(value).encode("ascii"))

    def read(self, data: bytes, pos: int, end: int) -> tuple[str, int]:
        pos, stop = read_span(data, pos, end)
        # Octets that are not ASCII become characters that are refused.
        return check_url(data[pos : min(stop, pos + _MAX_URL + 1)].decode("latin-1")), stop


@dataclass(frozen=True)
class _Exactly(Codec):
    """``opaque name<V>`` with a single valid length."""

    length: int

    def write(self, out: bytearray, value: Any) -> None:
        if len(value) != self.length:
            raise ValueError(f"{len(value)} octets instead of {self.length}")
        write_opaque(out, value)

    def read(self, data: bytes, pos: int, end: int) -> tuple[bytes, int]:
        pos, stop = read_span(data, pos, end)
        if stop - pos != self.length:
            raise MalformedError(f"{stop - pos} octets instead of {self.length}")
        return data[pos:stop], stop


@struct
class BlobReference(Struct):
    """Where a blob is, and how to read it.

    :ivar url: https
    :ivar hash: SHA-256 of the ciphertext
    :ivar size: octets of the ciphertext
    """

    secret: ClassVar[bool] = True
    url: Annotated[str, _URL()]
    key: Annotated[bytes, _Exactly(_KEY)]
    nonce: Annotated[bytes, _Exactly(_NONCE)]
    hash: Annotated[bytes, _Exactly(_HASH)]
    size: uint32

    def open(self, ciphertext: bytes) -> bytes:
        """The sealed octets.

        :param ciphertext: the octets from the URL
        :raises MalformedError: it is not the sealed ciphertext
        """
        opening = Opening(self)
        opening.add(ciphertext)
        return opening.finish()


class Opening:
    """Takes the ciphertext of a blob piece by piece.

    :param reference: of the blob
    """

    def __init__(self, reference: BlobReference) -> None:
        self._reference = reference
        self._decryptor = Cipher(AES(reference.key), GCM(reference.nonce)).decryptor()
        self._digest = sha256()
        self._taken = 0
        self._end = b""  # perhaps the tag
        self._opened = io.BytesIO()

    def add(self, piece: bytes) -> None:
        """Take the next octets from the URL.

        :raises MalformedError: there are more than the reference says
        """
        self._taken += len(piece)
        if self._taken > self._reference.size:
            raise MalformedError(f"a blob of more than the {self._reference.size} octets that its reference says")
        self._digest.update(piece)
        octets = self._end + piece
        self._end = octets[-OVERHEAD:]
        self._opened.write(self._decryptor.update(octets[:-OVERHEAD]))

    def finish(self) -> bytes:
        """The sealed octets, when all have been taken.

        :raises MalformedError: what was taken is not the sealed ciphertext
        """
        if self._taken != self._reference.size:
            raise MalformedError(f"a blob of {self._taken} octets instead of {self._reference.size}")
        if not hmac.compare_digest(self._digest.digest(), self._reference.hash):
            raise MalformedError("a blob with another hash than its reference says")
        try:
            self._opened.write(self._decryptor.finalize_with_tag(self._end))
        except (InvalidTag, ValueError):
            raise MalformedError("a blob that its key does not open") from None
        return self._opened.getvalue()


@struct
class RatchetTreeLocation(ExtensionContent):
    """In a GroupInfo instead of `ratchet_tree`: says where the content of that extension is."""

    TYPE: ClassVar[int] = RATCHET_TREE_LOCATION
    secret: ClassVar[bool] = True
    blob: BlobReference


class Sealing:
    """Encrypts octets under a fresh key, piece by piece.

    :param random: of cryptographic quality
    :ivar size: octets of the ciphertext
    """

    def __init__(self, data: bytes, random: Random) -> None:
        self.size = len(data) + OVERHEAD
        self._data = memoryview(data)
        self._key, self._nonce = random(_KEY), random(_NONCE)
        self._hash: bytes | None = None

    def __repr__(self) -> str:
        return f"<Sealing of {self.size} octets>"

    def pieces(self) -> Iterator[bytes]:
        """The ciphertext; the same at each call."""
        encryptor, digest = Cipher(AES(self._key), GCM(self._nonce)).encryptor(), sha256()
        for start in range(0, len(self._data), _PIECE):
            piece = encryptor.update(self._data[start : start + _PIECE])
            digest.update(piece)
            yield piece
        end = encryptor.finalize() + encryptor.tag
        digest.update(end)
        self._hash = digest.digest()
        yield end

    @property
    def ciphertext(self) -> bytes:
        """All pieces at once."""
        return b"".join(self.pieces())

    def at(self, url: str) -> BlobReference:
        """The reference, after the upload to `url`."""
        if self._hash is None:
            deque(self.pieces(), maxlen=0)  # which computes it
        assert self._hash is not None
        return BlobReference(url, self._key, self._nonce, self._hash, self.size)


def tree_limit(max_members: int) -> int:
    """The most octets of a blob with a ratchet tree that are fetched.

    :param max_members: of the group's policy
    """
    return min(MAX_TREE, max(max_members, 1) * MAX_OF_MEMBER)


def longest() -> BlobReference:
    """A reference of the greatest possible length, to nothing; for measuring."""
    return BlobReference("https://" + "x" * (_MAX_URL - 8), bytes(_KEY), bytes(_NONCE), bytes(_HASH), MAX_BLOB)
