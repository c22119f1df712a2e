"""The floor: what an operation's cryptographic primitives cost by themselves.

An operation runs once while its calls of primitives are written down, with their sizes; each kind is
then timed with bare library calls, in the same run as the operation itself; the floor is their sum.  What
MLS adds around them (encoding, trees, checks) is the difference.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import timeit
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pyhpke import AEADId, KDFId, KEMId
from pyhpke import CipherSuite as PyHPKE

from slixmpp_mls.mls import ed25519
from slixmpp_mls.mls.cipher_suite import CipherSuite

__all__ = ["floor", "recorded", "unit_cost"]

Calls = Counter[tuple[str, int]]

_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
_PYHPKE = PyHPKE.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES128_GCM)


@contextmanager
def recorded() -> Iterator[Calls]:
    """Count the primitives that :class:`CipherSuite` is asked for, by name and size in octets."""
    calls: Calls = Counter()
    originals: dict[str, Any] = {}

    def watch(name: str, size: Callable[..., int], kind: str | None = None) -> None:
        original = originals[name] = getattr(CipherSuite, name)

        def counted(self: CipherSuite, *args: Any, **named: Any) -> Any:
            calls[kind or name, size(*args, **named)] += 1
            return original(self, *args, **named)

        setattr(CipherSuite, name, counted)

    watch("hash", len)
    watch("mac", lambda key, data: len(data))
    watch("verify_mac", lambda key, data, tag: len(data), "mac")
    watch("extract", lambda salt, ikm: len(ikm), "mac")
    watch("expand_with_label", lambda secret, label, context, length: len(context) + 24, "mac")
    watch("sign_with_label", lambda key, label, content: len(content), "sign")
    watch("verify_with_label", lambda key, label, content, signature: len(content), "verify")
    watch("encrypt_with_label", lambda key, label, context, plaintext: len(plaintext), "seal")
    watch("decrypt_with_label", lambda key, label, context, sealed: len(sealed.ciphertext), "open")
    watch("aead_seal", lambda key, nonce, aad, plaintext: len(plaintext), "aead")
    watch("aead_open", lambda key, nonce, aad, ciphertext: len(ciphertext), "aead")
    watch("derive_key_pair", lambda ikm: 0)
    watch("generate_key_pair", lambda *random: 0)
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(CipherSuite, name, original)


def floor(calls: Calls) -> float:
    """Seconds that these calls take, each by itself."""
    return sum(count * unit_cost(kind, _step(size)) for (kind, size), count in calls.items())


def _step(size: int) -> int:
    """Sizes in steps, so that few need timing."""
    return 1 << max(5, size - 1).bit_length() if size > 64 else 64


def _best(call: Callable[[], object]) -> float:
    number = 1
    while timeit.timeit(call, number=number) < 0.005:
        number *= 2
    return min(timeit.repeat(call, number=number, repeat=7)) / number


@cache
def unit_cost(kind: str, size: int) -> float:
    """Seconds for one bare library call, the best of many."""
    data = os.urandom(min(size, 1 << 22))
    key = os.urandom(32)
    if kind == "hash":
        return _best(lambda: hashlib.sha256(data).digest())
    if kind == "mac":
        return _best(lambda: hmac.digest(key, data, "sha256"))
    if kind == "sign":
        signer = Ed25519PrivateKey.generate()
        return _best(lambda: signer.sign(data))
    if kind == "verify":
        private = Ed25519PrivateKey.generate()
        public, signature = private.public_key().public_bytes_raw(), private.sign(data)
        return _best(lambda: ed25519.verify(public, data, signature))
    if kind == "aead":
        aead = AESGCM(os.urandom(16))
        nonce = os.urandom(12)
        return _best(lambda: aead.encrypt(nonce, data, b""))
    receiver = X25519PrivateKey.generate()
    if kind == "seal":
        return _best(lambda: _HPKE.encrypt(data, receiver.public_key(), b""))
    if kind == "open":
        sealed = _HPKE.encrypt(data, receiver.public_key(), b"")
        return _best(lambda: _HPKE.decrypt(sealed, receiver, b""))
    if kind == "generate_key_pair":
        return _best(lambda: X25519PrivateKey.generate().public_key().public_bytes_raw())
    if kind == "derive_key_pair":
        return _best(lambda: _PYHPKE.kem.derive_key_pair(key))
    raise KeyError(kind)
