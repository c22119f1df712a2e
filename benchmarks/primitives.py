"""The floor: what an operation's cryptographic primitives cost by themselves.

An operation runs once while its calls of primitives are written down, with their sizes.  Bare library
calls of the same kinds and sizes, one after another in the same order, then are timed like the
operation itself.  What MLS adds around them (encoding, trees, checks) is the difference.

Counted is what the protocol demands.  An AEAD key is used once in MLS, so making the library's object
for it belongs to the primitive; the same goes for reading the public key that something is encrypted to.
Signature and HPKE private keys are ready.  Where one context is encrypted for many
(:meth:`CipherSuite.encrypt_to_many`), the floor hashes it once.  All runs in one thread.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pyhpke import AEADId, KDFId, KEMId
from pyhpke import CipherSuite as PyHPKE

from slixmpp_mls.mls.crypto import ed25519
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite

__all__ = ["Calls", "recorded", "replay"]

Calls = list[tuple[str, int]]
"""Kinds of primitives, and the octets that each is applied to (of HPKE: of context)."""

_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
_PYHPKE = PyHPKE.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES128_GCM)


@contextmanager
def recorded() -> Iterator[Calls]:
    """Write down the primitives that :class:`CipherSuite` is asked for."""
    calls: Calls = []
    originals: dict[str, Any] = {}

    def watch(name: str, count: Callable[..., Iterable[tuple[str, int]]]) -> None:
        original = originals[name] = getattr(CipherSuite, name)

        def counted(self: CipherSuite, *arguments: Any) -> Any:
            calls.extend(count(*arguments))
            return original(self, *arguments)

        setattr(CipherSuite, name, counted)

    def seal_to_many(label: str, context: bytes, recipients: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, int]]:
        return [("mac", len(context)), *(("seal", 0) for _ in recipients)]

    watch("hash", lambda data: [("hash", len(data))])
    watch("mac", lambda key, data: [("mac", len(data))])
    watch("verify_mac", lambda key, data, tag: [("mac", len(data))])
    watch("extract", lambda salt, ikm: [("mac", len(ikm))])
    watch("expand_with_label", lambda secret, label, context, length: [("mac", len(label) + len(context) + 13)])
    watch("sign_with_label", lambda key, label, content: [("sign", len(content))])
    watch("verify_with_label", lambda key, label, content, signature: [("verify", len(content))])
    watch("encrypt_with_label", lambda key, label, context, plaintext: [("seal", len(context))])
    watch("encrypt_to_many", seal_to_many)
    watch("decrypt_with_label", lambda key, label, context, sealed: [("open", len(context))])
    watch("aead_seal", lambda key, nonce, aad, plaintext: [("aead", len(plaintext))])
    watch("aead_open", lambda key, nonce, aad, ciphertext: [("aead", len(ciphertext) - 16)])
    watch("derive_key_pair", lambda ikm: [("derive_key_pair", 0)])
    watch("generate_key_pair", lambda *random: [("generate_key_pair", 0)])
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(CipherSuite, name, original)


def replay(calls: Calls) -> Callable[[], None]:
    """Something that makes these calls of the libraries, and does nothing else."""
    bare = [_bare(kind, size) for kind, size in calls]

    def run() -> None:
        for call in bare:
            call()

    return run


@cache
def _bare(kind: str, size: int) -> Callable[[], object]:
    """One library call."""
    data = os.urandom(size)
    key = os.urandom(32)
    if kind == "hash":
        return lambda: hashlib.sha256(data).digest()
    if kind == "mac":
        return lambda: hmac.digest(key, data, "sha256")
    if kind == "sign":
        signer = Ed25519PrivateKey.generate()
        return lambda: signer.sign(data)
    if kind == "verify":
        private = Ed25519PrivateKey.generate()
        public, signature = private.public_key().public_bytes_raw(), private.sign(data)
        if ed25519.BACKEND == "libsodium":
            from nacl.bindings import crypto_sign_open

            signed = signature + data
            return lambda: crypto_sign_open(signed, public)
        return lambda: Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    if kind == "aead":
        nonce = os.urandom(12)
        return lambda: AESGCM(key[:16]).encrypt(nonce, data, b"")
    receiver = X25519PrivateKey.generate()
    octets = receiver.public_key().public_bytes_raw()
    secret = os.urandom(32)
    if kind == "seal":
        return lambda: _HPKE.encrypt(secret, X25519PublicKey.from_public_bytes(octets), data)
    if kind == "open":
        sealed = _HPKE.encrypt(secret, receiver.public_key(), data)
        return lambda: _HPKE.decrypt(sealed, receiver, data)
    if kind == "generate_key_pair":
        return lambda: X25519PrivateKey.generate().public_key().public_bytes_raw()
    if kind == "derive_key_pair":
        return lambda: _PYHPKE.kem.derive_key_pair(key)
    raise KeyError(kind)
