"""Cipher suites: the primitives of RFC 9420 5.1 and 5.2 and the key derivation of 8 and 9.

All seven suites of section 17.1 are here, and six of draft-ietf-mls-pq-ciphersuites, which withstand quantum
computers.  Each is one immutable object that :meth:`CipherSuite.get` finds.  OpenSSL before 3.5 lacks what the latter
six need; then :meth:`CipherSuite.get` refuses them as it refuses unknown ones.

Labels are given without the prefix ``"MLS 1.0 "``.  Functions that take input from others
raise :class:`InvalidError` and nothing else, whatever the octets are.

Hashes come from :mod:`hashlib` and :mod:`hmac`, whose one-shot functions cost a third of what
`cryptography` needs for the same.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
    MLDSA87PrivateKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from pyhpke import AEADId, KDFId

from ...errors import InvalidError, suite_name
from .. import registry
from ..registry import CipherSuiteId
from ..varint import encode_varint
from .hpke import HPKE, HPKECiphertext, HPKEPrivateKey
from .kem import DHKEM_P256, DHKEM_P384, DHKEM_P521, DHKEM_X448, DHKEM_X25519, KEM
from .post_quantum import MLKEM768, MLKEM768_X25519, MLKEM1024, MLKEM1024_P384
from .signature import ECDSA, MLDSA, Ed448, Ed25519, SignaturePrivateKey, SignatureScheme

__all__ = ["CipherSuite", "HPKEPrivateKey", "Random", "SignaturePrivateKey"]

Random = Callable[[int], bytes]
"""Gives that many random octets."""


@lru_cache(maxsize=256)
def _label(label: str) -> bytes:
    """``opaque label<V>`` with the prefix of this protocol version."""
    octets = b"MLS 1.0 " + label.encode()
    return encode_varint(len(octets)) + octets


@lru_cache(maxsize=256)
def _kdf_label(label: str, length: int) -> bytes:
    """The start of a ``KDFLabel`` (section 8), up to the context."""
    return length.to_bytes(2, "big") + _label(label)


def _encrypt_context(label: str, context: bytes) -> bytes:
    """An ``EncryptContext`` (section 5.1.3)."""
    return _label(label) + encode_varint(len(context)) + context


class CipherSuite:
    """The algorithms of one cipher suite.

    :ivar id: number in the registry
    :ivar hash_length: ``KDF.Nh``, octets
    :ivar aead_key_length: ``AEAD.Nk``, octets
    :ivar nonce_length: ``AEAD.Nn``, octets
    :ivar signature: the signature scheme, its name as in the TLS registry
    """

    __slots__ = (
        "_aead", "_hash", "_hash_name", "_hpke", "aead_key_length", "hash_length", "id", "nonce_length", "signature",
        "zero",
    )  # fmt: skip

    def __init__(
        self, number: CipherSuiteId, kem: KEM, aead: AEADId, hash_name: str, signature: SignatureScheme
    ) -> None:
        self.id = number
        self.signature = signature
        self._hash_name = hash_name
        self._hash: Callable[[bytes | bytearray], Any] = getattr(hashlib, hash_name)
        self.hash_length: int = self._hash(b"").digest_size
        self.aead_key_length = 16 if aead is AEADId.AES128_GCM else 32
        self.nonce_length = 12
        self._aead: type[AESGCM] | type[ChaCha20Poly1305]
        self._aead = ChaCha20Poly1305 if aead is AEADId.CHACHA20_POLY1305 else AESGCM
        self._hpke = HPKE(kem, KDFId[f"HKDF_{hash_name.upper()}"], aead)
        self.zero = bytes(self.hash_length)  # the "0" of section 8

    @staticmethod
    def get(number: int) -> CipherSuite:
        """The suite with this number.

        :raises InvalidError: there is none, or it is not known here, or the OpenSSL beneath `cryptography` lacks it
        """
        suite = _SUITES.get(number)
        if suite is None:
            raise InvalidError(f"cipher suite {suite_name(number)} is not supported", "RFC 9420 17.1")
        if lacking := suite._lacking():
            raise InvalidError(
                f"cipher suite {suite_name(number)} is not supported: {backend.openssl_version_text()} lacks {lacking}",
                "draft-ietf-mls-pq-ciphersuites",
            )
        return suite

    @staticmethod
    def is_supported(number: int) -> bool:
        """Whether :meth:`get` finds the suite with this number."""
        suite = _SUITES.get(number)
        return suite is not None and not suite._lacking()

    def _lacking(self) -> str:
        """What this suite needs and OpenSSL has from version 3.5 on only; empty if nothing lacks."""
        if self.secrecy_is_post_quantum and not backend.mlkem_supported():
            return "ML-KEM"
        if self.signatures_are_post_quantum and not backend.mldsa_supported():
            return "ML-DSA"
        return ""

    @property
    def secrecy_is_post_quantum(self) -> bool:
        """Whether what is recorded today stays closed to quantum computers: the KEM withstands them."""
        return self._hpke.kem.post_quantum

    @property
    def signatures_are_post_quantum(self) -> bool:
        """Whether quantum computers cannot sign in a member's name: the signature scheme withstands them."""
        return self.signature.post_quantum

    def __repr__(self) -> str:
        return f"<CipherSuite {self.id.name}>"

    @property
    def signature_scheme(self) -> int:
        """The number of :attr:`signature` in the TLS registry, such as 0x0807 for Ed25519."""
        return registry.SignatureScheme[self.signature.name]

    def __reduce__(self) -> tuple[Callable[[int], CipherSuite], tuple[int]]:
        return CipherSuite.get, (int(self.id),)  # a copy is the same object

    # --- hash, MAC, references (5.1, 5.2) ---

    def hash(self, data: bytes | bytearray) -> bytes:
        """``Hash``."""
        return self._hash(data).digest()  # type: ignore[no-any-return]

    def mac(self, key: bytes, data: bytes) -> bytes:
        """``MAC``: HMAC with the suite's hash."""
        return hmac.digest(key, data, self._hash_name)

    def verify_mac(self, key: bytes, data: bytes, tag: bytes) -> None:
        """Compare in constant time.

        :raises InvalidError: another tag
        """
        if not hmac.compare_digest(hmac.digest(key, data, self._hash_name), tag):
            raise InvalidError("wrong MAC", "RFC 9420 5.1")

    def ref_hash(self, label: str, value: bytes) -> bytes:
        """``RefHash`` (5.2).  Its labels are whole, nothing is put before them."""
        octets = label.encode()
        return self.hash(b"".join((encode_varint(len(octets)), octets, encode_varint(len(value)), value)))

    def key_package_ref(self, key_package: bytes) -> bytes:
        """``MakeKeyPackageRef`` of an encoded KeyPackage."""
        return self.ref_hash("MLS 1.0 KeyPackage Reference", key_package)

    def proposal_ref(self, authenticated_content: bytes) -> bytes:
        """``MakeProposalRef`` of an encoded AuthenticatedContent."""
        return self.ref_hash("MLS 1.0 Proposal Reference", authenticated_content)

    # --- key derivation (8, 9.1) ---

    def extract(self, salt: bytes, ikm: bytes) -> bytes:
        """``KDF.Extract``."""
        return hmac.digest(salt, ikm, self._hash_name)

    def expand_with_label(self, secret: bytes, label: str, context: bytes, length: int) -> bytes:
        """``ExpandWithLabel``; `length` in octets, at most 255 times :attr:`hash_length`."""
        info = _kdf_label(label, length) + encode_varint(len(context)) + context
        name = self._hash_name
        block = hmac.digest(secret, info + b"\x01", name)
        if length <= len(block):
            return block[:length]
        if length > 255 * len(block):
            raise ValueError(f"HKDF cannot give {length} octets")  # RFC 5869 2.3
        blocks = [block]
        for counter in range(2, -(-length // len(block)) + 1):
            block = hmac.digest(secret, block + info + bytes((counter,)), name)
            blocks.append(block)
        return b"".join(blocks)[:length]

    def derive_secret(self, secret: bytes, label: str) -> bytes:
        """``DeriveSecret``."""
        return self.expand_with_label(secret, label, b"", self.hash_length)

    def derive_tree_secret(self, secret: bytes, label: str, generation: int, length: int) -> bytes:
        """``DeriveTreeSecret`` (9.1)."""
        return self.expand_with_label(secret, label, generation.to_bytes(4, "big"), length)

    # --- signatures (5.1.2) ---

    def generate_signature_key(self, random: Random = os.urandom) -> SignaturePrivateKey:
        return SignaturePrivateKey(self.signature, self.signature.generate(random))

    def import_signature_key(self, private: bytes) -> SignaturePrivateKey:
        """The inverse of :meth:`SignaturePrivateKey.encode`.  Loaded when first used."""
        return SignaturePrivateKey(self.signature, private)

    def sign_with_label(self, private: SignaturePrivateKey, label: str, content: bytes) -> bytes:
        """``SignWithLabel``."""
        return private.sign(_label(label) + encode_varint(len(content)) + content)

    def verify_with_label(self, public: bytes, label: str, content: bytes, signature: bytes) -> None:
        """``VerifyWithLabel``.

        :raises InvalidError: the signature does not hold, or the key is none
        """
        if not self.signature.verify(public, _label(label) + encode_varint(len(content)) + content, signature):
            raise InvalidError(f"bad signature ({label})", "RFC 9420 5.1.2")

    # --- public key encryption (5.1.1, 5.1.3, 8.3) ---

    @property
    def public_key_length(self) -> int:
        """Octets of an HPKE public key (``Npk``)."""
        return self._hpke.kem.public_length

    def generate_key_pair(self, random: Random = os.urandom) -> HPKEPrivateKey:
        """A fresh HPKE key pair."""
        return self._hpke.derive_key_pair(random(max(self._hpke.kem.private_length, self.hash_length)))

    def derive_key_pair(self, ikm: bytes) -> HPKEPrivateKey:
        """``KEM.DeriveKeyPair``."""
        return self._hpke.derive_key_pair(ikm)

    def import_hpke_key(self, private: bytes, public: bytes | None = None) -> HPKEPrivateKey:
        """The inverse of :meth:`HPKEPrivateKey.encode`.  Loaded when first used.

        :param public: its public key, if the caller knows it: then asking for that loads nothing
        """
        return HPKEPrivateKey(self._hpke.kem, private, public)

    def check_public_key(self, public: bytes) -> None:
        """:raises InvalidError: no HPKE public key of this suite to which one could encrypt"""
        self._hpke.check_public(public)

    def encrypt_with_label(self, public: bytes, label: str, context: bytes, plaintext: bytes) -> HPKECiphertext:
        """``EncryptWithLabel``.

        :raises InvalidError: bad public key
        """
        return HPKECiphertext(*self._hpke.seal(public, _encrypt_context(label, context), plaintext))

    def encrypt_to_many(
        self, label: str, context: bytes, recipients: Sequence[tuple[bytes, bytes]]
    ) -> list[HPKECiphertext]:
        """``EncryptWithLabel`` for each public key and plaintext of `recipients`.

        :raises InvalidError: bad public key
        """
        info = _encrypt_context(label, context)
        return [HPKECiphertext(*sealed) for sealed in self._hpke.seal_to_many(info, recipients)]

    def decrypt_with_label(self, private: HPKEPrivateKey, label: str, context: bytes, sealed: HPKECiphertext) -> bytes:
        """``DecryptWithLabel``.

        :raises InvalidError: it was not encrypted to this key with this label and context
        """
        return self._hpke.open(private, sealed.kem_output, _encrypt_context(label, context), sealed.ciphertext)

    def export_to(self, public: bytes, info: bytes, exporter_context: bytes, length: int) -> tuple[bytes, bytes]:
        """HPKE's secret export, the sending side (8.3): (KEM output, secret).

        :raises InvalidError: bad public key
        """
        return self._hpke.export_to(public, info, exporter_context, length)

    def export_from(
        self, private: HPKEPrivateKey, kem_output: bytes, info: bytes, exporter_context: bytes, length: int
    ) -> bytes:
        """HPKE's secret export, the receiving side (8.3).

        :raises InvalidError: bad KEM output
        """
        return self._hpke.export_from(private, kem_output, info, exporter_context, length)

    # --- AEAD ---

    def aead_seal(self, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes | bytearray) -> bytes:
        """``AEAD.Seal``."""
        return self._aead(key).encrypt(nonce, plaintext, aad)

    def aead_open(self, key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes) -> bytes:
        """``AEAD.Open``.

        :raises InvalidError: it does not authenticate
        """
        try:
            return self._aead(key).decrypt(nonce, ciphertext, aad)
        except InvalidTag:
            raise InvalidError("AEAD decryption failed", "RFC 9420 5.1") from None


_ed25519 = Ed25519()
_ed448 = Ed448()
_ecdsa256 = ECDSA("ecdsa_secp256r1_sha256", ec.SECP256R1(), hashes.SHA256())
_ecdsa384 = ECDSA("ecdsa_secp384r1_sha384", ec.SECP384R1(), hashes.SHA384())
_ecdsa521 = ECDSA("ecdsa_secp521r1_sha512", ec.SECP521R1(), hashes.SHA512())
_mldsa44 = MLDSA("mldsa44", MLDSA44PrivateKey, MLDSA44PublicKey)
_mldsa65 = MLDSA("mldsa65", MLDSA65PrivateKey, MLDSA65PublicKey)
_mldsa87 = MLDSA("mldsa87", MLDSA87PrivateKey, MLDSA87PublicKey)

_AES128, _AES256, _CHACHA = AEADId.AES128_GCM, AEADId.AES256_GCM, AEADId.CHACHA20_POLY1305
_Id = CipherSuiteId
_SUITES: dict[int, CipherSuite] = {
    number: CipherSuite(number, kem, aead, hash_name, signature)
    for number, kem, aead, hash_name, signature in (
        (_Id.MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519, DHKEM_X25519, _AES128, "sha256", _ed25519),
        (_Id.MLS_128_DHKEMP256_AES128GCM_SHA256_P256, DHKEM_P256, _AES128, "sha256", _ecdsa256),
        (_Id.MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519, DHKEM_X25519, _CHACHA, "sha256", _ed25519),
        (_Id.MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448, DHKEM_X448, _AES256, "sha512", _ed448),
        (_Id.MLS_256_DHKEMP521_AES256GCM_SHA512_P521, DHKEM_P521, _AES256, "sha512", _ecdsa521),
        (_Id.MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448, DHKEM_X448, _CHACHA, "sha512", _ed448),
        (_Id.MLS_256_DHKEMP384_AES256GCM_SHA384_P384, DHKEM_P384, _AES256, "sha384", _ecdsa384),
        (_Id.MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519, MLKEM768_X25519, _AES128, "sha256", _ed25519),
        (_Id.MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519, MLKEM768_X25519, _AES256, "sha384", _ed25519),
        (_Id.MLS_192_MLKEM1024P384_AES256GCM_SHA384_P384, MLKEM1024_P384, _AES256, "sha384", _ecdsa384),
        (_Id.MLS_128_MLKEM768X25519_CHACHA20POLY1305_SHA384_MLDSA44, MLKEM768_X25519, _CHACHA, "sha384", _mldsa44),
        (_Id.MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65, MLKEM768, _AES256, "sha384", _mldsa65),
        (_Id.MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87, MLKEM1024, _AES256, "sha384", _mldsa87),
    )
}
