"""Key encapsulation: what HPKE asks of a KEM (RFC 9180 4), and the KEMs over one curve (DHKEM, RFC 9180 4.1).

The KEMs that withstand quantum computers are in :mod:`.post_quantum`.  The arithmetic is `cryptography`'s;
DHKEM's key derivation is pyhpke's.
"""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhpke import KEMId, KEMKey
from pyhpke.kem import KEM as PyDHKEM

from .signature import load_point, load_scalar, scalar_length

__all__ = ["DHKEM", "DHKEM_P256", "DHKEM_P384", "DHKEM_P521", "DHKEM_X448", "DHKEM_X25519", "KEM"]


class KEM:
    """One KEM.  "Key object" means what :meth:`load_private` and :meth:`load_public` give.

    :ivar id: number in HPKE's registry
    :ivar name: as in that registry
    :ivar public_length: octets of a public key (``Npk``)
    :ivar output_length: octets of a KEM output (``Nenc``)
    :ivar private_length: octets of a private key (``Nsk``)
    :ivar native: the same KEM in `cryptography`'s HPKE, or None
    :ivar post_quantum: whether quantum computers leave it secure, as far as anybody knows
    """

    id: int
    name: str
    public_length: int
    output_length: int
    private_length: int
    native: hpke.KEM | None = None
    post_quantum = False

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
        """The octets of a private key object: secret."""
        raise NotImplementedError

    def encode_public(self, key: Any) -> bytes:
        """The octets of a public key object."""
        raise NotImplementedError

    def derive(self, ikm: bytes) -> Any:
        """``DeriveKeyPair``: a private key object."""
        raise NotImplementedError

    def encapsulate(self, key: Any) -> tuple[bytes, bytes]:
        """``Encap`` to a public key object: (shared secret, KEM output)."""
        raise NotImplementedError

    def decapsulate(self, key: Any, kem_output: bytes) -> bytes:
        """``Decap`` with a private key object: the shared secret.

        :param kem_output: of :attr:`output_length`
        :raises ValueError: no KEM output
        """
        raise NotImplementedError

    def for_native(self, key: Any) -> Any:
        """A key object as the HPKE of `cryptography` takes it."""
        return key


class DHKEM(KEM):
    """A KEM over one curve.  Its outputs are public keys."""

    def __init__(self, number: KEMId, native: hpke.KEM | None, private_length: int, public_length: int) -> None:
        self.id = number.value
        self.name = number.name
        self.private_length = private_length
        self.public_length = self.output_length = public_length
        self.native = native
        self._kem = PyDHKEM(number)

    def generate(self) -> Any:
        """A fresh private key object."""
        raise NotImplementedError

    def exchange(self, private: Any, public: Any) -> bytes:
        """The curve's Diffie-Hellman, without the key derivation around it.

        :raises ValueError: a point of small order
        """
        raise NotImplementedError

    def encode_private(self, key: Any) -> bytes:
        return key.private_bytes_raw()  # type: ignore[no-any-return]

    def encode_public(self, key: Any) -> bytes:
        return key.public_bytes_raw()  # type: ignore[no-any-return]

    def derive(self, ikm: bytes) -> Any:
        return self._kem.derive_key_pair(ikm).private_key.raw

    def encapsulate(self, key: Any) -> tuple[bytes, bytes]:
        return self._kem.encap(KEMKey.from_pyca_cryptography_key(key))

    def decapsulate(self, key: Any, kem_output: bytes) -> bytes:
        self.check_public(kem_output)  # pyhpke would take a compressed point
        return self._kem.decap(kem_output, KEMKey.from_pyca_cryptography_key(key))


class _Montgomery(DHKEM):
    """X25519 or X448 (RFC 7748).

    Every string of the right length is a public key there, but with the points of small order each
    exchange fails (RFC 9180 7.1.4).  They are refused at once, so that nobody can put a key into a group
    to which other members then cannot encrypt.
    """

    def __init__(
        self, number: KEMId, native: hpke.KEM | None, prime: int, bits: int, small_order: frozenset[int],
        private: type[X25519PrivateKey | X448PrivateKey], public: type[X25519PublicKey | X448PublicKey],
    ) -> None:  # fmt: skip
        length = (bits + 7) // 8
        super().__init__(number, native, length, length)
        self._prime = prime
        self._mask = (1 << bits) - 1
        self._small_order = small_order
        self._private = private
        self._public = public

    def generate(self) -> Any:
        return self._private.generate()

    def exchange(self, private: Any, public: Any) -> bytes:
        return private.exchange(public)  # type: ignore[no-any-return]

    def load_private(self, octets: bytes) -> Any:
        return self._private.from_private_bytes(octets)

    def load_public(self, octets: bytes) -> Any:
        self.check_public(octets)
        return self._public.from_public_bytes(octets)

    def check_public(self, octets: bytes) -> None:
        if (int.from_bytes(octets, "little") & self._mask) % self._prime in self._small_order:
            raise ValueError("a point of small order")


class _Weierstrass(DHKEM):
    """A NIST curve."""

    def __init__(self, number: KEMId, native: hpke.KEM, curve: ec.EllipticCurve) -> None:
        length = scalar_length(curve)
        super().__init__(number, native, length, 1 + 2 * length)
        self._curve = curve

    def generate(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(self._curve)

    def exchange(self, private: ec.EllipticCurvePrivateKey, public: ec.EllipticCurvePublicKey) -> bytes:
        return private.exchange(ec.ECDH(), public)

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
    KEMId.DHKEM_X25519_HKDF_SHA256, hpke.KEM.X25519, _P25519, 255, frozenset({0, 1, _P25519 - 1, *_EIGHTHS}),
    X25519PrivateKey, X25519PublicKey,
)  # fmt: skip
DHKEM_X448 = _Montgomery(
    KEMId.DHKEM_X448_HKDF_SHA512, None, _P448, 448, frozenset({0, 1, _P448 - 1}),
    X448PrivateKey, X448PublicKey,
)  # fmt: skip
DHKEM_P256 = _Weierstrass(KEMId.DHKEM_P256_HKDF_SHA256, hpke.KEM.P256, ec.SECP256R1())
DHKEM_P384 = _Weierstrass(KEMId.DHKEM_P384_HKDF_SHA384, hpke.KEM.P384, ec.SECP384R1())
DHKEM_P521 = _Weierstrass(KEMId.DHKEM_P521_HKDF_SHA512, hpke.KEM.P521, ec.SECP521R1())
