"""HPKE as MLS uses it (RFC 9180; RFC 9420 5.1, 5.1.3, 8.3): mode Base, no associated data.

The library `cryptography` seals and opens for the NIST curves and X25519; pyhpke does it for X448, and for all
KEMs what the former lacks: DeriveKeyPair and the exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhpke import AEADId, KDFId, KEMId, KEMKey
from pyhpke import CipherSuite as PyHPKE
from pyhpke.exceptions import PyHPKEError

from ...errors import InvalidError
from ..tls import Struct, opaque, struct
from .signature import load_point, load_scalar, scalar_length

__all__ = [
    "DHKEM_P256",
    "DHKEM_P384",
    "DHKEM_P521",
    "DHKEM_X448",
    "DHKEM_X25519",
    "HPKE",
    "KEM",
    "HPKECiphertext",
    "HPKEPrivateKey",
]


@struct
class HPKECiphertext(Struct):
    """RFC 9420 5.1.3."""

    kem_output: opaque
    ciphertext: opaque


class KEM:
    """The key encodings of one KEM.

    :ivar id: number in RFC 9180's registry
    :ivar public_length: octets of a public key, and of a KEM output
    :ivar private_length: octets of a private key
    """

    id: KEMId
    public_length: int
    private_length: int

    def load_private(self, octets: bytes) -> Any:
        """:raises ValueError: these octets are no private key"""
        raise NotImplementedError

    def load_public(self, octets: bytes) -> Any:
        """:raises ValueError: these octets are no public key"""
        raise NotImplementedError

    def check_public(self, octets: bytes) -> None:
        """:raises ValueError: these octets, of the right length, are no public key"""
        self.load_public(octets)

    def encode_private(self, key: Any) -> bytes:
        return key.private_bytes_raw()  # type: ignore[no-any-return]

    def encode_public(self, key: Any) -> bytes:
        return key.public_bytes_raw()  # type: ignore[no-any-return]


class _Montgomery(KEM):
    """X25519 or X448 (RFC 7748).

    Every string of the right length is a public key there, but with the points of small order each
    exchange fails (RFC 9180 7.1.4).  They are refused at once, so that nobody can put a key into a group
    to which other members then cannot encrypt.
    """

    def __init__(
        self, number: KEMId, prime: int, bits: int, small_order: frozenset[int],
        private: Callable[[bytes], Any], public: Callable[[bytes], Any],
    ) -> None:  # fmt: skip
        self.id = number
        self.public_length = self.private_length = (bits + 7) // 8
        self._prime = prime
        self._mask = (1 << bits) - 1
        self._small_order = small_order
        self._load_private = private
        self._load_public = public

    def load_private(self, octets: bytes) -> Any:
        return self._load_private(octets)

    def load_public(self, octets: bytes) -> Any:
        self.check_public(octets)
        return self._load_public(octets)

    def check_public(self, octets: bytes) -> None:
        if (int.from_bytes(octets, "little") & self._mask) % self._prime in self._small_order:
            raise ValueError("a point of small order")


class _Weierstrass(KEM):
    """A NIST curve."""

    def __init__(self, number: KEMId, curve: ec.EllipticCurve) -> None:
        self.id = number
        self.private_length = scalar_length(curve)
        self.public_length = 1 + 2 * self.private_length
        self._curve = curve

    def load_private(self, octets: bytes) -> ec.EllipticCurvePrivateKey:
        return load_scalar(self._curve, octets)

    def load_public(self, octets: bytes) -> ec.EllipticCurvePublicKey:
        return load_point(self._curve, octets)

    def encode_private(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.private_numbers().private_value.to_bytes(self.private_length, "big")

    def encode_public(self, key: ec.EllipticCurvePublicKey) -> bytes:
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


_P25519 = 2**255 - 19
_P448 = 2**448 - 2**224 - 1
_EIGHTHS = (  # u of points of order 8 on Curve25519
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
DHKEM_X25519 = _Montgomery(
    KEMId.DHKEM_X25519_HKDF_SHA256, _P25519, 255, frozenset({0, 1, _P25519 - 1, *_EIGHTHS}),
    X25519PrivateKey.from_private_bytes, X25519PublicKey.from_public_bytes,
)  # fmt: skip
DHKEM_X448 = _Montgomery(
    KEMId.DHKEM_X448_HKDF_SHA512, _P448, 448, frozenset({0, 1, _P448 - 1}),
    X448PrivateKey.from_private_bytes, X448PublicKey.from_public_bytes,
)  # fmt: skip
DHKEM_P256 = _Weierstrass(KEMId.DHKEM_P256_HKDF_SHA256, ec.SECP256R1())
DHKEM_P384 = _Weierstrass(KEMId.DHKEM_P384_HKDF_SHA384, ec.SECP384R1())
DHKEM_P521 = _Weierstrass(KEMId.DHKEM_P521_HKDF_SHA512, ec.SECP521R1())


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
        return f"<HPKEPrivateKey {self._kem.id.name}>"

    @property
    def loaded(self) -> Any:
        """The library's key object."""
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
        self._full = PyHPKE.new(kem.id, kdf, aead)
        self._native: hpke.Suite | None = None
        if kem.id in _NATIVE_KEM:
            self._native = hpke.Suite(_NATIVE_KEM[kem.id], _NATIVE_KDF[kdf], _NATIVE_AEAD[aead])

    def derive_key_pair(self, ikm: bytes) -> HPKEPrivateKey:
        """``DeriveKeyPair`` (RFC 9180 7.1.3)."""
        pair = self._full.kem.derive_key_pair(ikm)
        public = self.kem.encode_public(pair.public_key.raw)
        return HPKEPrivateKey(self.kem, None, public, pair.private_key.raw)

    def check_public(self, public: bytes) -> None:
        """:raises InvalidError: wrong length, not on the curve, or of small order (RFC 9180 7.1.4)"""
        self._usable(public, self.kem.check_public)

    def load_public(self, public: bytes) -> Any:
        """The library's key object.

        :raises InvalidError: as :meth:`check_public` does
        """
        return self._usable(public, self.kem.load_public)

    def _usable(self, public: bytes, read: Callable[[bytes], Any]) -> Any:
        if len(public) != self.kem.public_length:
            raise InvalidError("HPKE public key of a wrong length", "RFC 9420 5.1.1")
        try:
            return read(public)
        except ValueError:
            raise InvalidError("HPKE public key is no usable point", "RFC 9420 5.1.1") from None

    def seal(self, public: bytes, info: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """``SealBase`` with empty associated data: (KEM output, ciphertext).

        :raises InvalidError: bad public key
        """
        key = self.load_public(public)
        if self._native is not None:
            sealed = self._native.encrypt(plaintext, key, info)
            return sealed[: self.kem.public_length], sealed[self.kem.public_length :]
        kem_output, context = self._full.create_sender_context(KEMKey.from_pyca_cryptography_key(key), info)
        return kem_output, context.seal(plaintext)

    def seal_to_many(self, info: bytes, recipients: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """:meth:`seal` for many, in linear time: a long `info` is hashed once, not for each (RFC 9180 5.1).

        :param recipients: each one's public key and plaintext
        :raises InvalidError: bad public key
        """
        if len(info) < _LONG:
            for public, plaintext in recipients:
                yield self.seal(public, info, plaintext)
            return
        kem, aead = self._full.kem, self._full.aead
        kdf: Any = self._full.kdf  # its declared interface lacks labeled_expand
        context = b"".join(
            (_BASE, kdf.labeled_extract(b"", b"psk_id_hash", b""), kdf.labeled_extract(b"", b"info_hash", info))
        )
        for public, plaintext in recipients:
            shared, kem_output = kem.encap(KEMKey.from_pyca_cryptography_key(self.load_public(public)))
            secret = kdf.labeled_extract(shared, b"secret", b"")
            key = kdf.labeled_expand(secret, b"key", context, aead.key_size)
            nonce = kdf.labeled_expand(secret, b"base_nonce", context, aead.nonce_size)
            yield kem_output, aead.import_key(key).seal(plaintext, nonce)

    def open(self, private: HPKEPrivateKey, kem_output: bytes, info: bytes, ciphertext: bytes) -> bytes:
        """``OpenBase`` with empty associated data.

        :raises InvalidError: the ciphertext is not for this key and `info`
        """
        try:
            if len(kem_output) == self.kem.public_length:
                if self._native is not None:
                    return self._native.decrypt(kem_output + ciphertext, private.loaded, info)
                return self._receiver(private, kem_output, info).open(ciphertext)  # type: ignore[no-any-return]
        except (InvalidTag, ValueError, PyHPKEError):
            pass
        raise InvalidError("HPKE decryption failed", "RFC 9420 5.1.3")

    def export_to(self, public: bytes, info: bytes, exporter_context: bytes, length: int) -> tuple[bytes, bytes]:
        """``SetupBaseS``, then ``Export``: (KEM output, secret).

        :raises InvalidError: bad public key
        """
        key = KEMKey.from_pyca_cryptography_key(self.load_public(public))
        kem_output, context = self._full.create_sender_context(key, info)
        return kem_output, context.export(exporter_context, length)

    def export_from(
        self, private: HPKEPrivateKey, kem_output: bytes, info: bytes, exporter_context: bytes, length: int
    ) -> bytes:
        """``SetupBaseR``, then ``Export``.

        :raises InvalidError: bad KEM output
        """
        self.load_public(kem_output)  # pyhpke would take a compressed point
        try:
            return self._receiver(private, kem_output, info).export(exporter_context, length)  # type: ignore[no-any-return]
        except ValueError:
            raise InvalidError("KEM output is no usable point", "RFC 9420 8.3") from None

    def _receiver(self, private: HPKEPrivateKey, kem_output: bytes, info: bytes) -> Any:
        key = KEMKey.from_pyca_cryptography_key(private.loaded)
        return self._full.create_recipient_context(kem_output, key, info)


_BASE = b"\x00"  # the mode
_LONG = 2**16  # octets that take longer to hash than pyhpke takes more time than `cryptography`
_NATIVE_KEM = {
    KEMId.DHKEM_P256_HKDF_SHA256: hpke.KEM.P256,
    KEMId.DHKEM_P384_HKDF_SHA384: hpke.KEM.P384,
    KEMId.DHKEM_P521_HKDF_SHA512: hpke.KEM.P521,
    KEMId.DHKEM_X25519_HKDF_SHA256: hpke.KEM.X25519,
}
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
