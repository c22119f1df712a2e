"""Encrypted blobs: data that is too large for a stanza, on a web server.

::

    sealed = seal(octets)                  sealed.ciphertext goes to the web server
    reference = sealed.at(url)             the reference travels inside MLS
    reference.open(downloaded)             the octets again

Each blob has a key of its own for AES-256-GCM, used once.  The reference names the place, the key, and the SHA-256 of
the ciphertext: a holder of the reference gets exactly the sealed octets, or an error, and the web server learns only
their number.  A reference is as secret as its blob.

:class:`RatchetTreeLocation` is the GroupInfo extension by which a joiner finds a ratchet tree that did not fit into its
    Welcome (the XEP's "Large Groups and Stanza Limits").  It proves nothing: the tree hash shows whether the tree is
    the group's (RFC 9420 12.4.3.1).
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import MalformedError
from ..mls.crypto.cipher_suite import Random
from ..mls.structures.extensions import ExtensionContent
from ..mls.tls import Codec, Struct, read_span, struct, uint32, write_opaque
from .code_points import RATCHET_TREE_LOCATION

__all__ = ["MAX_BLOB", "OVERHEAD", "BlobReference", "RatchetTreeLocation", "Sealed", "check_url", "longest", "seal"]

MAX_BLOB = 1 << 25
"""Octets on the web server: the ratchet tree of some 80,000 members.  A hostile one takes 12 times as much memory."""
OVERHEAD = 16
"""Octets by which sealing makes it longer: the tag."""

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
        if len(ciphertext) != self.size:
            raise MalformedError(f"a blob of {len(ciphertext)} octets instead of {self.size}")
        if not hmac.compare_digest(sha256(ciphertext).digest(), self.hash):
            raise MalformedError("a blob with another hash than its reference says")
        try:
            return AESGCM(self.key).decrypt(self.nonce, ciphertext, None)
        except InvalidTag:
            raise MalformedError("a blob that its key does not open") from None


@struct
class RatchetTreeLocation(ExtensionContent):
    """In a GroupInfo instead of `ratchet_tree`: says where the content of that extension is."""

    TYPE: ClassVar[int] = RATCHET_TREE_LOCATION
    secret: ClassVar[bool] = True
    blob: BlobReference


@dataclass(frozen=True, slots=True)
class Sealed:
    """A blob on its way to a web server."""

    ciphertext: bytes = field(repr=False)
    key: bytes = field(repr=False)
    nonce: bytes = field(repr=False)

    def at(self, url: str) -> BlobReference:
        """The reference, after the upload to `url`."""
        return BlobReference(url, self.key, self.nonce, sha256(self.ciphertext).digest(), len(self.ciphertext))


def longest() -> BlobReference:
    """A reference of the greatest possible length, to nothing; for measuring."""
    return BlobReference("https://" + "x" * (_MAX_URL - 8), bytes(_KEY), bytes(_NONCE), bytes(_HASH), MAX_BLOB)


def seal(data: bytes, random: Random) -> Sealed:
    """Encrypt octets under a fresh key.

    :param random: of cryptographic quality
    """
    key, nonce = random(_KEY), random(_NONCE)
    return Sealed(AESGCM(key).encrypt(nonce, data, None), key, nonce)
