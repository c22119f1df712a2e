"""Ed25519 verification does not depend on which library does it.

The inputs on which implementations are known to differ, made with curve arithmetic of this test's own.
"""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.mls.crypto import ed25519

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493
Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def times(number: int, point: Point) -> Point:
    total = NEUTRAL
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def point_at(y: int) -> Point:
    squared = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(squared, (P + 3) // 8, P)
    if (x * x - squared) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - squared) % P:
        raise ValueError("not on the curve")
    return (P - x if x & 1 else x), y


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


BASE = point_at(4 * pow(5, -1, P) % P)
TORSION = point_at(ed25519._EIGHTH)  # generates the eight points of small order
SMALL = [times(count, TORSION) for count in range(8)]
NACL = ed25519._libsodium()
BACKENDS = [ed25519._openssl] + ([NACL] if NACL else [])


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % ORDER


def signature(secret: int, nonce: int, message: bytes, key: Point, r: Point | None = None) -> bytes:
    first = encode(times(nonce, BASE) if r is None else r)
    return first + ((nonce + challenge(first, encode(key), message) * secret) % ORDER).to_bytes(32, "little")


@pytest.fixture(params=BACKENDS, ids=lambda check: check.__qualname__)
def verify(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(ed25519, "_check", request.param)
    return ed25519.verify


def test_the_test_arithmetic_is_right() -> None:
    assert times(ORDER, BASE) == NEUTRAL
    assert len(set(SMALL)) == 8
    assert times(8, TORSION) == NEUTRAL
    assert {y for _, y in SMALL} == ed25519._SMALL_ORDER


def test_libsodium_is_used_where_it_is_installed() -> None:
    pytest.importorskip("nacl")
    assert NACL is not None
    assert ed25519.BACKEND == "libsodium"


def test_sound_signatures_hold(verify: ed25519.Verifier) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    for message in (b"", b"m", bytes(5000)):
        sound = key.sign(message)
        assert verify(public, message, sound)
        assert not verify(public, message + b"!", sound)
    own = times(77, BASE)
    assert verify(encode(own), b"m", signature(77, 5, b"m", own))


def test_5_1_2_lengths_are_checked_before_the_library_reads(verify: ed25519.Verifier) -> None:
    key = Ed25519PrivateKey.generate()
    public, sound = key.public_key().public_bytes_raw(), key.sign(b"m")
    assert verify(public, b"m", sound)
    for bad in (b"", public[:31], public + b"\0"):
        assert not verify(bad, b"m", sound)
    for bad in (b"", sound[:63], sound + b"\0", sound[:32]):
        assert not verify(public, b"m", bad)


def test_5_1_2_keys_of_small_order_sign_nothing(verify: ed25519.Verifier) -> None:
    for key in SMALL:
        for nonce in range(1, 30):  # OpenSSL alone takes those whose challenge is a multiple of the key's order
            assert not verify(encode(key), b"m", signature(0, nonce, b"m", key))


def test_5_1_2_commitments_of_small_order_are_refused(verify: ed25519.Verifier) -> None:
    own = times(77, BASE)
    for r in SMALL:
        assert not verify(encode(own), b"m", signature(77, 0, b"m", own, r))


def test_5_1_2_encodings_that_are_not_canonical_are_refused(verify: ed25519.Verifier) -> None:
    own = times(77, BASE)
    good = signature(77, 5, b"m", own)
    for y in range(P, 2**255):
        for sign in (0, 1 << 255):
            odd = (y | sign).to_bytes(32, "little")
            assert not ed25519.is_sound_point(odd)
            assert not verify(odd, b"m", good)
            assert not verify(encode(own), b"m", odd + good[32:])
    late = int.from_bytes(good[32:], "little") + ORDER
    assert not verify(encode(own), b"m", good[:32] + late.to_bytes(32, "little"))


def test_5_1_2_the_equation_is_checked_without_cofactor(verify: ed25519.Verifier) -> None:
    own = times(77, BASE)
    for torsion in SMALL[1:]:
        assert not verify(encode(own), b"m", signature(77, 5, b"m", own, add(times(5, BASE), torsion)))


def test_5_1_2_keys_of_mixed_order_are_judged_alike(verify: ed25519.Verifier) -> None:
    """No rule refuses such a key (finding out costs a multiplication); the equation decides, the same everywhere."""
    for order, torsion in ((8, SMALL[1]), (4, SMALL[2]), (2, SMALL[4])):
        key = add(times(77, BASE), torsion)
        outcomes = set()
        for nonce in range(1, 60):
            attempt = signature(77, nonce, b"m", key)
            holds = challenge(attempt[:32], encode(key), b"m") % order == 0
            assert verify(encode(key), b"m", attempt) == holds
            outcomes.add(holds)
        assert outcomes == {True, False}


flips = st.lists(st.integers(0, 8 * 96 - 1), max_size=3)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=40), flips)
def test_any_damage_gets_the_same_answer(seed: bytes, message: bytes, flipped: list[int]) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    octets = bytearray(key.public_key().public_bytes_raw() + key.sign(message))
    for bit in flipped:
        octets[bit // 8] ^= 1 << bit % 8
    public, claimed = bytes(octets[:32]), bytes(octets[32:])
    sound = ed25519.is_sound_point(public) and ed25519.is_sound_point(claimed[:32])
    answers = {sound and check(public, message, claimed) for check in BACKENDS}
    assert answers == {ed25519.verify(public, message, claimed)}
