"""Ed25519 verification: the same answer from every backend.

Verifying signatures dominates what a member spends on receiving.  libsodium does it in about
half of OpenSSL's time, so it is used where PyNaCl is installed.  But implementations differ on inputs
that only a cheat would make ("Taming the many EdDSAs", Chalkias and others, 2020), and members that
differ on whether a Commit is signed part forever.  RFC 9420 5.1.2 leaves these cases to RFC 8032,
which leaves some of them open.  Hence one rule for all, stricter than OpenSSL alone:

- the public key and the signature's `R` are canonical encodings, of points that do not have small order
  (checked here; libsodium refuses them, OpenSSL does not);
- `S` is below the group's order (both libraries check);
- the equation is checked without the cofactor (both libraries do).

For points that pass the first rule both libraries then compute the same: they decode the key alike, reduce
the hash modulo the group's order and compare the encoding of `S·B - h·A` with `R`.  The last rule is not
written down by libsodium, so a signature that only the equation with cofactor accepts is tried once
at import: a libsodium that takes it is not used.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["BACKEND", "is_sound_point", "verify"]

Verifier = Callable[[bytes, bytes, bytes], bool]

_P = 2**255 - 19
_Y = 2**255 - 1  # all but the sign of x
_EIGHTH = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # y of points of order 8
_SMALL_ORDER = frozenset({0, 1, _P - 1, _EIGHTH, _P - _EIGHTH})


def is_sound_point(octets: bytes) -> bool:
    """Whether 32 octets are a canonical encoding and name no point of small order.

    The sign is left out: where x is 0, so that one sign is not canonical, the order is 1 or 2.
    """
    y = int.from_bytes(octets, "little") & _Y
    return y < _P and y not in _SMALL_ORDER


def _openssl(public: bytes, data: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _libsodium() -> Verifier | None:
    """A verifier that uses PyNaCl, if that is there and follows the rules above."""
    try:
        from nacl.bindings import crypto_sign_open
        from nacl.exceptions import BadSignatureError
    except ImportError:
        return None

    def verify(public: bytes, data: bytes, signature: bytes) -> bool:
        try:
            crypto_sign_open(signature + data, public)
        except BadSignatureError:
            return False
        return True

    return None if verify(*_COFACTORED) else verify


# Signs the empty message; R has a component of order 8, so that S·B = R + h·A only after multiplication by 8.
_COFACTORED = (
    bytes.fromhex("6e5f53e7d3451e975c546d86e86d991049e0ade16afa13c5ee82ac17d70de8a2"),
    b"",
    bytes.fromhex(
        "115548cfe0a3644048e1f563e8fbdf8282e5f2fd0fa6a09033d30fba7e6e6dbe"
        "c95f30d518e4f28312786321c98fffef4b42f8b7e7adffdd6485a2ad86ead306"
    ),
)

_fast = _libsodium()
_check: Verifier = _fast or _openssl
BACKEND = "libsodium" if _fast else "OpenSSL"


def verify(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is the key's signature of `data`; any octets may be given for key and signature."""
    return (
        len(public) == 32
        and len(signature) == 64
        and is_sound_point(public)
        and is_sound_point(signature[:32])
        and _check(public, data, signature)
    )
