"""Signature schemes of the cipher suites (RFC 9420 5.1.1, 5.1.2, 17.1).

Names are those of the TLS registry.  ECDSA signatures are DER, its public keys uncompressed points, its private
keys big-endian numbers of fixed length; EdDSA uses the encodings of RFC 8032, ML-DSA those of FIPS 204.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
    MLDSA87PrivateKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import ed25519

__all__ = [
    "ECDSA",
    "MLDSA",
    "Ed448",
    "Ed25519",
    "SignaturePrivateKey",
    "SignatureScheme",
    "load_point",
    "load_scalar",
    "scalar_length",
]

Random = Callable[[int], bytes]
MLDSAPrivateKey = MLDSA44PrivateKey | MLDSA65PrivateKey | MLDSA87PrivateKey
MLDSAPublicKey = MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey


class SignatureScheme:
    """Signs and verifies octets; knows the keys' encodings.

    :ivar name: as in the TLS registry
    :ivar post_quantum: whether quantum computers leave it secure, as far as anybody knows
    """

    name: str
    post_quantum = False

    def generate(self, random: Random) -> bytes:
        """Private octets from `random`."""
        raise NotImplementedError

    def load(self, private: bytes) -> Any:
        """:raises ValueError: these octets are no private key"""
        raise NotImplementedError

    def public_of(self, key: Any) -> bytes:
        raise NotImplementedError

    def sign(self, key: Any, data: bytes) -> bytes:
        raise NotImplementedError

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        """Whether the signature holds; False as well when key or signature are no such thing."""
        raise NotImplementedError


class SignaturePrivateKey:
    """A private key of one scheme.  Loading it is put off until it is used."""

    __slots__ = ("_key", "_octets", "_public", "scheme")

    def __init__(self, scheme: SignatureScheme, octets: bytes) -> None:
        self.scheme = scheme
        self._octets = octets
        self._key: Any = None
        self._public: bytes | None = None

    def __repr__(self) -> str:
        return f"<SignaturePrivateKey {self.scheme.name}>"

    def loaded(self) -> Any:
        """The key as `cryptography` has it: also for signing structures that are not of MLS, such as a request."""
        if self._key is None:
            self._key = self.scheme.load(self._octets)
        return self._key

    @property
    def public(self) -> bytes:
        """The public key, as leaves carry it."""
        if self._public is None:
            self._public = self.scheme.public_of(self.loaded())
        return self._public

    def encode(self) -> bytes:
        """The private octets: secret, for the store only."""
        return self._octets

    def sign(self, data: bytes) -> bytes:
        return self.scheme.sign(self._key or self.loaded(), data)


class Ed25519(SignatureScheme):
    """Verification is in :mod:`.ed25519`."""

    name = "ed25519"

    def generate(self, random: Random) -> bytes:
        return random(32)

    def load(self, private: bytes) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(private)

    def public_of(self, key: Ed25519PrivateKey) -> bytes:
        return key.public_key().public_bytes_raw()

    def sign(self, key: Ed25519PrivateKey, data: bytes) -> bytes:
        return key.sign(data)

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        return ed25519.verify(public, data, signature)


class Ed448(SignatureScheme):
    name = "ed448"

    def generate(self, random: Random) -> bytes:
        return random(57)

    def load(self, private: bytes) -> Ed448PrivateKey:
        return Ed448PrivateKey.from_private_bytes(private)

    def public_of(self, key: Ed448PrivateKey) -> bytes:
        return key.public_key().public_bytes_raw()

    def sign(self, key: Ed448PrivateKey, data: bytes) -> bytes:
        return key.sign(data)

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        try:
            Ed448PublicKey.from_public_bytes(public).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


class ECDSA(SignatureScheme):
    """ECDSA with one curve and one hash."""

    def __init__(self, name: str, curve: ec.EllipticCurve, algorithm: hashes.HashAlgorithm) -> None:
        self.name = name
        self._curve = curve
        self._algorithm = ec.ECDSA(algorithm)

    def generate(self, random: Random) -> bytes:
        # FIPS 186-5 A.2.1: 64 bits more than needed make the remainder's bias negligible.
        size = scalar_length(self._curve)
        return (int.from_bytes(random(size + 8), "big") % (self._curve.group_order - 1) + 1).to_bytes(size, "big")

    def load(self, private: bytes) -> ec.EllipticCurvePrivateKey:
        return load_scalar(self._curve, private)

    def public_of(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
        return key.sign(data, self._algorithm)

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        try:
            load_point(self._curve, public).verify(signature, data, self._algorithm)
        except (InvalidSignature, ValueError):
            return False
        return True


class MLDSA(SignatureScheme):
    """ML-DSA (FIPS 204) with one set of parameters, pure and with an empty context.  A private key is a seed."""

    post_quantum = True

    def __init__(self, name: str, private: type[MLDSAPrivateKey], public: type[MLDSAPublicKey]) -> None:
        self.name = name
        self._private = private
        self._public = public

    def generate(self, random: Random) -> bytes:
        return random(32)

    def load(self, private: bytes) -> MLDSAPrivateKey:
        return self._private.from_seed_bytes(private)

    def public_of(self, key: MLDSAPrivateKey) -> bytes:
        return key.public_key().public_bytes_raw()

    def sign(self, key: MLDSAPrivateKey, data: bytes) -> bytes:
        return key.sign(data)

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        try:
            self._public.from_public_bytes(public).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True


def scalar_length(curve: ec.EllipticCurve) -> int:
    """Octets of a private key and of each coordinate."""
    return (curve.key_size + 7) // 8


def load_scalar(curve: ec.EllipticCurve, private: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key from a big-endian number; leading zeros may be missing, as in some official vectors.

    :raises ValueError: too long, or not between 0 and the group's order
    """
    if len(private) > scalar_length(curve):
        raise ValueError("private key of a wrong length")
    return ec.derive_private_key(int.from_bytes(private, "big"), curve)


@lru_cache(maxsize=1024)
def load_point(curve: ec.EllipticCurve, public: bytes) -> ec.EllipticCurvePublicKey:
    """An uncompressed point of the curve.  Remembered, as parsing it costs about a tenth of what it is used for.

    :raises ValueError: the octets are none
    """
    if len(public) != 1 + 2 * scalar_length(curve):
        raise ValueError("public key of a wrong length")  # or a compressed point
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, public)
