"""Encrypted blobs: sealed and opened piece by piece (the XEP's "Large Groups and Stanza Limits")."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.errors import MalformedError
from slixmpp_mls.stanza.blob import (
    MAX_OF_MEMBER,
    MAX_TREE,
    OVERHEAD,
    BlobReference,
    Opening,
    Sealing,
    tree_limit,
)

URL = "https://share.example/blob"


def sealed(data: bytes) -> tuple[bytes, BlobReference]:
    sealing = Sealing(data, os.urandom)
    ciphertext = b"".join(sealing.pieces())
    assert b"".join(sealing.pieces()) == ciphertext, "another attempt sends the same octets"
    assert len(ciphertext) == sealing.size == len(data) + OVERHEAD
    return ciphertext, sealing.at(URL)


@given(st.binary(max_size=300), st.lists(st.integers(0, 40), max_size=30))
def test_pieces_of_any_length(data: bytes, cuts: list[int]) -> None:
    ciphertext, reference = sealed(data)
    opening, rest = Opening(reference), ciphertext
    for cut in cuts:
        opening.add(rest[:cut])
        rest = rest[cut:]
    opening.add(rest)
    assert opening.finish() == data == reference.open(ciphertext)


def test_more_than_one_piece() -> None:
    data = os.urandom(1 << 20) * 3 + b"the end"
    sealing = Sealing(data, os.urandom)
    assert len(list(sealing.pieces())) == 5
    ciphertext = b"".join(sealing.pieces())
    assert sealing.at(URL).open(ciphertext) == data


def test_it_is_what_sealing_at_once_makes() -> None:
    """AEAD_AES_256_GCM: the tag follows the ciphertext (RFC 5116 5.2)."""
    key, nonce = bytes(range(32)), bytes(12)
    keys = [key, nonce]
    sealing = Sealing(b"Fair is foul", lambda length: keys.pop(0))
    ciphertext = AESGCM(key).encrypt(nonce, b"Fair is foul", None)
    assert sealing.ciphertext == ciphertext
    assert sealing.at(URL) == BlobReference(URL, key, nonce, sha256(ciphertext).digest(), len(ciphertext))


def test_the_reference_is_the_same_before_and_after_the_upload() -> None:
    sealing = Sealing(b"Fair is foul", os.urandom)
    before = sealing.at(URL)
    assert before.open(sealing.ciphertext) == b"Fair is foul"
    assert sealing.at(URL) == before


def test_what_is_not_the_sealed_ciphertext_is_refused() -> None:
    ciphertext, reference = sealed(b"Fair is foul")
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    for wrong, octets in (
        (reference, changed),
        (reference, ciphertext[:-1]),
        (reference, b""),
        (replace(reference, size=5), ciphertext[:5]),
        (replace(reference, key=bytes(32)), ciphertext),
        (replace(reference, nonce=bytes(12)), ciphertext),
    ):
        opening = Opening(wrong)
        opening.add(octets)
        with pytest.raises(MalformedError):
            opening.finish()


def test_a_ciphertext_shorter_than_a_tag_with_the_right_hash_is_refused() -> None:
    ciphertext = b"short"
    reference = replace(Sealing(b"", os.urandom).at(URL), size=len(ciphertext))
    reference = replace(reference, hash=sha256(ciphertext).digest())
    opening = Opening(reference)
    opening.add(ciphertext)
    with pytest.raises(MalformedError):
        opening.finish()


def test_no_more_is_taken_than_the_reference_says() -> None:
    ciphertext, reference = sealed(b"Fair is foul")
    opening = Opening(reference)
    opening.add(ciphertext)
    with pytest.raises(MalformedError, match="more than"):
        opening.add(b"x")


def test_how_long_a_tree_may_be_says_the_policy() -> None:
    assert tree_limit(1) == tree_limit(0) == MAX_OF_MEMBER
    assert tree_limit(100) == 100 * MAX_OF_MEMBER
    assert tree_limit(50_000) == tree_limit(2**32 - 1) == MAX_TREE


def test_nothing_secret_is_shown() -> None:
    sealing = Sealing(b"Fair is foul", lambda length: b"\x41" * length)
    list(sealing.pieces())
    assert repr(sealing) == f"<Sealing of {12 + OVERHEAD} octets>"
