"""HPKE as MLS uses it (RFC 9180; RFC 9420 5.1, 5.1.3, 8.3): mode Base, no associated data.

The library `cryptography` seals and opens for all KEMs but X448.  What it lacks is done here with the KEM itself,
pyhpke's KDF and AEAD, and the key schedule of RFC 9180 5.1: X448, the exporter, and sealing to many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from pyhpke import AEADId, KDFId
from pyhpke.aead import AEAD
from pyhpke.exceptions import PyHPKEError
from pyhpke.kdf import KDF

from ...errors import InvalidError
from ..tls import Struct, opaque, struct
from .kem import KEM

__all__ = ["HPKE", "HPKECiphertext", "HPKEPrivateKey"]


@struct
class HPKECiphertext(Struct):
    """RFC 9420 5.1.3."""

    kem_output: opaque
    ciphertext: opaque


class HPKEPrivateKey:
    """A private key of one KEM.

    Loading the octets costs as much as a key exchange, so it is put off until the key is used; most of the keys that
    a member holds never are.
    """

    __slots__ = ("_kem", "_key", "_octets", "_public")

    def __init__(self, kem: KEM, octets: bytes | None, public: bytes | None = None, key: Any = None) -> None:
        self._kem = kem
        self._octets = octets
        self._public = public
        self._key = key

    def __repr__(self) -> str:
        return f"<HPKEPrivateKey {self._kem.name}>"

    @property
    def loaded(self) -> Any:
        """The KEM's key object."""
        if self._key is None:
            self._key = self._kem.load_private(self._octets or b"")
        return self._key

    @property
    def public(self) -> bytes:
        """The public key, as leaves and nodes carry it."""
        if self._public is None:
            self._public = self._kem.encode_public(self.loaded.public_key())
        return self._public

    def encode(self) -> bytes:
        """The private octets: secret, for the store only."""
        if self._octets is None:
            self._octets = self._kem.encode_private(self._key)
        return self._octets


class HPKE:
    """One KEM with one KDF and one AEAD."""

    def __init__(self, kem: KEM, kdf: KDFId, aead: AEADId) -> None:
        self.kem = kem
        self._kdf = KDF(kdf, b"HPKE" + b"".join(each.to_bytes(2, "big") for each in (kem.id, kdf.value, aead.value)))
        self._aead = AEAD(aead)
        self._native = None if kem.native is None else hpke.Suite(kem.native, _NATIVE_KDF[kdf], _NATIVE_AEAD[aead])

    def derive_key_pair(self, ikm: bytes) -> HPKEPrivateKey:
        """``DeriveKeyPair`` (RFC 9180 7.1.3)."""
        return HPKEPrivateKey(self.kem, None, None, self.kem.derive(ikm))

    def check_public(self, public: bytes) -> None:
        """:raises InvalidError: no public key to which one could encrypt (RFC 9180 7.1.4, FIPS 203 7.2)"""
        self._usable(public, self.kem.check_public)

    def load_public(self, public: bytes) -> Any:
        """The KEM's key object.

        :raises InvalidError: as :meth:`check_public` does
        """
        return self._usable(public, self.kem.load_public)

    def _usable(self, public: bytes, read: Callable[[bytes], Any]) -> Any:
        if len(public) != self.kem.public_length:
            raise InvalidError("HPKE public key of a wrong length", "RFC 9420 5.1.1")
        try:
            return read(public)
        except ValueError:
            raise InvalidError("HPKE public key is not usable", "RFC 9420 5.1.1") from None

    def seal(self, public: bytes, info: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """``SealBase`` with empty associated data: (KEM output, ciphertext).

        :raises InvalidError: bad public key
        """
        key = self.load_public(public)
        if self._native is None:
            return self._seal(key, self._context(info), plaintext)
        sealed = self._native.encrypt(plaintext, self.kem.for_native(key), info)
        return sealed[: self.kem.output_length], sealed[self.kem.output_length :]

    def seal_to_many(self, info: bytes, recipients: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """:meth:`seal` for many, in linear time: a long `info` is hashed once, not for each (RFC 9180 5.1).

        :param recipients: each one's public key and plaintext
        :raises InvalidError: bad public key
        """
        if len(info) < _LONG:
            for public, plaintext in recipients:
                yield self.seal(public, info, plaintext)
            return
        context = self._context(info)
        for public, plaintext in recipients:
            yield self._seal(self.load_public(public), context, plaintext)

    def open(self, private: HPKEPrivateKey, kem_output: bytes, info: bytes, ciphertext: bytes) -> bytes:
        """``OpenBase`` with empty associated data.

        :raises InvalidError: the ciphertext is not for this key and `info`
        """
        try:
            if len(kem_output) == self.kem.output_length:
                if self._native is not None:
                    key = self.kem.for_native(private.loaded)
                    return self._native.decrypt(kem_output + ciphertext, key, info)
                shared = self.kem.decapsulate(private.loaded, kem_output)
                aead, nonce = self._aead_for(shared, self._context(info))
                return aead.open(ciphertext, nonce)  # type: ignore[no-any-return]
        except (InvalidTag, ValueError, PyHPKEError):
            pass
        raise InvalidError("HPKE decryption failed", "RFC 9420 5.1.3")

    def export_to(self, public: bytes, info: bytes, exporter_context: bytes, length: int) -> tuple[bytes, bytes]:
        """``SetupBaseS``, then ``Export``: (KEM output, secret).

        :raises InvalidError: bad public key
        """
        shared, kem_output = self.kem.encapsulate(self.load_public(public))
        return kem_output, self._export(shared, info, exporter_context, length)

    def export_from(
        self, private: HPKEPrivateKey, kem_output: bytes, info: bytes, exporter_context: bytes, length: int
    ) -> bytes:
        """``SetupBaseR``, then ``Export``.

        :raises InvalidError: bad KEM output
        """
        if len(kem_output) != self.kem.output_length:
            raise InvalidError("KEM output of a wrong length", "RFC 9420 8.3")
        try:
            shared = self.kem.decapsulate(private.loaded, kem_output)
        except ValueError:
            raise InvalidError("KEM output is not usable", "RFC 9420 8.3") from None
        return self._export(shared, info, exporter_context, length)

    # --- the key schedule of RFC 9180 5.1, without a PSK ---

    def _context(self, info: bytes) -> bytes:
        """``key_schedule_context``."""
        kdf = self._kdf
        hashes = (kdf.labeled_extract(b"", b"psk_id_hash", b""), kdf.labeled_extract(b"", b"info_hash", info))
        return b"".join((_BASE, *hashes))

    def _schedule(self, shared: bytes, label: bytes, context: bytes, length: int) -> bytes:
        secret = self._kdf.labeled_extract(shared, b"secret", b"")
        return self._kdf.labeled_expand(secret, label, context, length)

    def _aead_for(self, shared: bytes, context: bytes) -> tuple[Any, bytes]:
        """The key and the nonce of the first message."""
        key = self._schedule(shared, b"key", context, self._aead.key_size)
        nonce = self._schedule(shared, b"base_nonce", context, self._aead.nonce_size)
        return self._aead.import_key(key), nonce

    def _seal(self, key: Any, context: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        shared, kem_output = self.kem.encapsulate(key)
        aead, nonce = self._aead_for(shared, context)
        return kem_output, aead.seal(plaintext, nonce)

    def _export(self, shared: bytes, info: bytes, exporter_context: bytes, length: int) -> bytes:
        exporter = self._schedule(shared, b"exp", self._context(info), self._kdf.digest_size)
        return self._kdf.labeled_expand(exporter, b"sec", exporter_context, length)


_BASE = b"\x00"  # the mode
_LONG = 2**16  # octets that take longer to hash than pyhpke takes more time than `cryptography`
_NATIVE_KDF = {
    KDFId.HKDF_SHA256: hpke.KDF.HKDF_SHA256,
    KDFId.HKDF_SHA384: hpke.KDF.HKDF_SHA384,
    KDFId.HKDF_SHA512: hpke.KDF.HKDF_SHA512,
}
_NATIVE_AEAD = {
    AEADId.AES128_GCM: hpke.AEAD.AES_128_GCM,
    AEADId.AES256_GCM: hpke.AEAD.AES_256_GCM,
    AEADId.CHACHA20_POLY1305: hpke.AEAD.CHACHA20_POLY1305,
}
