"""KEMs that withstand quantum computers (draft-ietf-hpke-pq): ML-KEM (FIPS 203), alone and beside a curve.

A hybrid KEM runs ML-KEM and an exchange on a curve and hashes both secrets into one, so that it holds as long as
one of the two does.  ML-KEM-768 with X25519 is X-Wing.

A private key is always a seed, as the draft has it: 64 octets for ML-KEM (FIPS 203's `d` and `z`), 32 for a hybrid,
from which SHAKE256 gives the seeds of both parts.  Public keys and KEM outputs are ML-KEM's part, then the curve's.

`cryptography` has ML-KEM and these hybrids inside its HPKE, where it only encrypts and decrypts.  Deriving keys and
exporting secrets (RFC 9420 8.3) need the parts, so DeriveKeyPair, the expansion of seeds and the combiner are here.
OpenSSL has ML-KEM from 3.5 on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)

from .kem import DHKEM, DHKEM_P384, DHKEM_X25519, KEM

__all__ = ["MLKEM768", "MLKEM768_X25519", "MLKEM1024", "MLKEM1024_P384"]

_SEED = 32  # octets of a hybrid's private key


def _derive(number: int, ikm: bytes, length: int) -> bytes:
    """``SHAKE256.LabeledDerive(ikm, "DeriveKeyPair", "", length)`` of this KEM (draft-ietf-hpke-pq)."""
    label = b"DeriveKeyPair"
    parts = (
        ikm,
        b"HPKE-v1",
        b"KEM" + number.to_bytes(2, "big"),
        len(label).to_bytes(2, "big") + label,
        length.to_bytes(2, "big"),
    )
    return hashlib.shake_256(b"".join(parts)).digest(length)


class MLKEM(KEM):
    """ML-KEM with one set of parameters."""

    private_length = 64
    post_quantum = True

    def __init__(
        self, number: int, name: str, native: hpke.KEM, public_length: int, output_length: int,
        private: type[MLKEM768PrivateKey | MLKEM1024PrivateKey], public: type[MLKEM768PublicKey | MLKEM1024PublicKey],
    ) -> None:  # fmt: skip
        self.id = number
        self.name = name
        self.native = native
        self.public_length = public_length
        self.output_length = output_length
        self._private = private
        self._public = public

    def load_private(self, octets: bytes) -> Any:
        return self._private.from_seed_bytes(octets)

    def load_public(self, octets: bytes) -> Any:
        return self._public.from_public_bytes(octets)  # checks the modulus, as FIPS 203 7.2 demands

    def encode_private(self, key: Any) -> bytes:
        return key.private_bytes_raw()  # type: ignore[no-any-return]

    def encode_public(self, key: Any) -> bytes:
        return key.public_bytes_raw()  # type: ignore[no-any-return]

    def derive(self, ikm: bytes) -> Any:
        return self.load_private(_derive(self.id, ikm, self.private_length))

    def encapsulate(self, key: Any) -> tuple[bytes, bytes]:
        return key.encapsulate()  # type: ignore[no-any-return]

    def decapsulate(self, key: Any, kem_output: bytes) -> bytes:
        return key.decapsulate(kem_output)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, repr=False)
class _PublicKey:
    """A hybrid's public key: both parts, and the library's object of both."""

    mlkem: Any
    curve: Any
    native: Any


@dataclass(frozen=True, slots=True, repr=False)
class _PrivateKey:
    """A hybrid's private key: the seed, the parts made from it, and the library's object of both."""

    seed: bytes
    mlkem: Any
    curve: Any
    native: Any
    make_public: Any

    def public_key(self) -> _PublicKey:
        mlkem, curve = self.mlkem.public_key(), self.curve.public_key()
        return _PublicKey(mlkem, curve, self.make_public(mlkem, curve))


class Hybrid(KEM):
    """ML-KEM beside a curve (draft-ietf-hpke-pq; draft-irtf-cfrg-concrete-hybrid-kems)."""

    private_length = _SEED
    post_quantum = True

    def __init__(
        self, number: int, name: str, label: bytes, native: hpke.KEM, mlkem: MLKEM, dhkem: DHKEM,
        private: Any, public: Any,
    ) -> None:  # fmt: skip
        self.id = number
        self.name = name
        self.native = native
        self.public_length = mlkem.public_length + dhkem.public_length
        self.output_length = mlkem.output_length + dhkem.output_length
        self._label = label
        self._mlkem = mlkem
        self._dhkem = dhkem
        self._native_private = private
        self._native_public = public

    def load_private(self, octets: bytes) -> _PrivateKey:
        if len(octets) != _SEED:
            raise ValueError("private key of a wrong length")
        seeds = hashlib.shake_256(octets).digest(self._mlkem.private_length + self._dhkem.private_length)
        mlkem = self._mlkem.load_private(seeds[: self._mlkem.private_length])
        curve = self._dhkem.load_private(seeds[self._mlkem.private_length :])
        return _PrivateKey(octets, mlkem, curve, self._native_private(mlkem, curve), self._native_public)

    def load_public(self, octets: bytes) -> _PublicKey:
        mlkem = self._mlkem.load_public(octets[: self._mlkem.public_length])
        curve = self._dhkem.load_public(octets[self._mlkem.public_length :])
        return _PublicKey(mlkem, curve, self._native_public(mlkem, curve))

    def encode_private(self, key: _PrivateKey) -> bytes:
        return key.seed

    def encode_public(self, key: _PublicKey) -> bytes:
        return self._mlkem.encode_public(key.mlkem) + self._dhkem.encode_public(key.curve)

    def derive(self, ikm: bytes) -> _PrivateKey:
        return self.load_private(_derive(self.id, ikm, self.private_length))

    def encapsulate(self, key: _PublicKey) -> tuple[bytes, bytes]:
        secret, output = self._mlkem.encapsulate(key.mlkem)
        ephemeral = self._dhkem.generate()
        sent = self._dhkem.encode_public(ephemeral.public_key())
        exchanged = self._dhkem.exchange(ephemeral, key.curve)
        return self._combine(secret, exchanged, sent, key.curve), output + sent

    def decapsulate(self, key: _PrivateKey, kem_output: bytes) -> bytes:
        output, sent = kem_output[: self._mlkem.output_length], kem_output[self._mlkem.output_length :]
        exchanged = self._dhkem.exchange(key.curve, self._dhkem.load_public(sent))
        return self._combine(self._mlkem.decapsulate(key.mlkem, output), exchanged, sent, key.curve.public_key())

    def _combine(self, secret: bytes, exchanged: bytes, sent: bytes, to: Any) -> bytes:
        """``C2PRICombiner``: ML-KEM's output binds itself to its secret, the curve's does not and is hashed, too."""
        return hashlib.sha3_256(secret + exchanged + sent + self._dhkem.encode_public(to) + self._label).digest()

    def for_native(self, key: _PublicKey | _PrivateKey) -> Any:
        return key.native


# Numbers of draft-ietf-hpke-pq; labels of draft-irtf-cfrg-concrete-hybrid-kems.
MLKEM768 = MLKEM(0x0041, "ML_KEM_768", hpke.KEM.MLKEM768, 1184, 1088, MLKEM768PrivateKey, MLKEM768PublicKey)
MLKEM1024 = MLKEM(0x0042, "ML_KEM_1024", hpke.KEM.MLKEM1024, 1568, 1568, MLKEM1024PrivateKey, MLKEM1024PublicKey)
MLKEM768_X25519 = Hybrid(
    0x647A, "MLKEM768_X25519", b"\\.//^\\", hpke.KEM.MLKEM768_X25519, MLKEM768, DHKEM_X25519,
    hpke.MLKEM768X25519PrivateKey, hpke.MLKEM768X25519PublicKey,
)  # fmt: skip
MLKEM1024_P384 = Hybrid(
    0x0051, "MLKEM1024_P384", b"MLKEM1024-P384", hpke.KEM.MLKEM1024_P384, MLKEM1024, DHKEM_P384,
    hpke.MLKEM1024P384PrivateKey, hpke.MLKEM1024P384PublicKey,
)  # fmt: skip
