"""RFC 9420 5.1, 5.2, 8, 9.1 and 17.1: the primitives of all cipher suites."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto import kem
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.crypto.hpke import HPKECiphertext
from slixmpp_mls.mls.registry import GREASE, CipherSuiteId

from ...vectors import load

SUITES = [CipherSuite.get(number) for number in CipherSuiteId]
every_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: str(int(suite.id)))


def unhex(case: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def counted(start: int = 1) -> Any:
    """A source of "randomness" that repeats itself from run to run."""

    def random(length: int) -> bytes:
        return bytes((start + index) % 256 for index in range(length))

    return random


@pytest.mark.parametrize("case", load("crypto-basics"), ids=lambda case: str(case["cipher_suite"]))
class TestOfficialVectors:
    def test_ref_hash(self, case: dict[str, Any]) -> None:
        given = case["ref_hash"]
        value, out = unhex(given, "value", "out")
        assert CipherSuite.get(case["cipher_suite"]).ref_hash(given["label"], value) == out

    def test_expand_with_label(self, case: dict[str, Any]) -> None:
        given = case["expand_with_label"]
        secret, context, out = unhex(given, "secret", "context", "out")
        suite = CipherSuite.get(case["cipher_suite"])
        assert suite.expand_with_label(secret, given["label"], context, given["length"]) == out

    def test_derive_secret(self, case: dict[str, Any]) -> None:
        given = case["derive_secret"]
        secret, out = unhex(given, "secret", "out")
        assert CipherSuite.get(case["cipher_suite"]).derive_secret(secret, given["label"]) == out

    def test_derive_tree_secret(self, case: dict[str, Any]) -> None:
        given = case["derive_tree_secret"]
        secret, out = unhex(given, "secret", "out")
        suite = CipherSuite.get(case["cipher_suite"])
        assert suite.derive_tree_secret(secret, given["label"], given["generation"], given["length"]) == out

    def test_sign_with_label(self, case: dict[str, Any]) -> None:
        given = case["sign_with_label"]
        private, public, content, signature = unhex(given, "priv", "pub", "content", "signature")
        suite = CipherSuite.get(case["cipher_suite"])
        key = suite.import_signature_key(private)
        assert key.public == public
        assert key.encode() == private
        suite.verify_with_label(public, given["label"], content, signature)
        suite.verify_with_label(public, given["label"], content, suite.sign_with_label(key, given["label"], content))

    def test_encrypt_with_label(self, case: dict[str, Any]) -> None:
        given = case["encrypt_with_label"]
        private, public, context, plaintext, kem_output, ciphertext = unhex(
            given, "priv", "pub", "context", "plaintext", "kem_output", "ciphertext"
        )
        suite = CipherSuite.get(case["cipher_suite"])
        key = suite.import_hpke_key(private)
        assert key.public == public
        suite.check_public_key(public)
        label = given["label"]
        assert suite.decrypt_with_label(key, label, context, HPKECiphertext(kem_output, ciphertext)) == plaintext
        sealed = suite.encrypt_with_label(public, label, context, plaintext)
        assert sealed.kem_output != kem_output
        assert suite.decrypt_with_label(key, label, context, sealed) == plaintext


# --- suites, 17.1 ---


@pytest.mark.parametrize("number", [0, 8, 0xF000, *sorted(GREASE)])
def test_17_1_unknown_suites_are_refused(number: int) -> None:
    with pytest.raises(InvalidError, match="not supported"):
        CipherSuite.get(number)


@every_suite
def test_a_suite_is_one_object_even_when_copied(suite: CipherSuite) -> None:
    assert CipherSuite.get(suite.id) is copy.deepcopy(suite) is pickle.loads(pickle.dumps(suite)) is suite
    assert suite.id.name in repr(suite)


# --- derivation, 8 ---


@every_suite
def test_8_expansion_beyond_one_block_extends_the_shorter_one(suite: CipherSuite) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    algorithms: dict[int, hashes.HashAlgorithm] = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}
    algorithm = algorithms[suite.hash_length]
    for length in (1, suite.hash_length, suite.hash_length + 1, 5 * suite.hash_length, 255 * suite.hash_length):
        label = length.to_bytes(2, "big") + b"\x0cMLS 1.0 test" + b"\x03abc"
        reference = HKDFExpand(algorithm, length, label).derive(b"s" * suite.hash_length)
        assert suite.expand_with_label(b"s" * suite.hash_length, "test", b"abc", length) == reference
    with pytest.raises(ValueError, match="HKDF"):
        suite.expand_with_label(b"s" * suite.hash_length, "test", b"abc", 255 * suite.hash_length + 1)


@every_suite
def test_5_1_a_wrong_mac_is_refused(suite: CipherSuite) -> None:
    tag = suite.mac(b"key", b"data")
    suite.verify_mac(b"key", b"data", tag)
    for other in (b"", tag[:-1], tag + b"\0", bytes(len(tag)), bytes((tag[0] ^ 1,)) + tag[1:]):
        with pytest.raises(InvalidError, match="MAC"):
            suite.verify_mac(b"key", b"data", other)


@every_suite
def test_5_1_aead_refuses_whatever_was_changed(suite: CipherSuite) -> None:
    key, nonce = bytes(suite.aead_key_length), bytes(suite.nonce_length)
    sealed = suite.aead_seal(key, nonce, b"aad", b"plaintext")
    assert suite.aead_open(key, nonce, b"aad", sealed) == b"plaintext"
    for ciphertext in (b"", sealed[:3], sealed[:-1], sealed + b"\0", bytes((sealed[0] ^ 1,)) + sealed[1:]):
        with pytest.raises(InvalidError, match="AEAD"):
            suite.aead_open(key, nonce, b"aad", ciphertext)
    with pytest.raises(InvalidError, match="AEAD"):
        suite.aead_open(key, nonce, b"other", sealed)


# --- signatures, 5.1.2 ---


@every_suite
def test_5_1_2_a_signature_holds_for_its_key_label_and_content_only(suite: CipherSuite) -> None:
    key, other = suite.generate_signature_key(counted()), suite.generate_signature_key(counted(7))
    signature = suite.sign_with_label(key, "Label", b"content")
    suite.verify_with_label(key.public, "Label", b"content", signature)
    for public, label, content, claimed in (
        (other.public, "Label", b"content", signature),
        (key.public, "Other", b"content", signature),
        (key.public, "Label", b"contents", signature),
        (key.public, "Label", b"content", signature[:-1]),
        (key.public, "Label", b"content", signature + b"\0"),
        (key.public, "Label", b"content", b""),
        (key.public[:-1], "Label", b"content", signature),
        (b"", "Label", b"content", signature),
        (bytes(len(key.public)), "Label", b"content", signature),
    ):
        with pytest.raises(InvalidError, match="signature"):
            suite.verify_with_label(public, label, content, claimed)


@every_suite
def test_keys_from_injected_randomness_are_reproducible_and_survive_the_store(suite: CipherSuite) -> None:
    signing, sealing = suite.generate_signature_key(counted()), suite.generate_key_pair(counted())
    assert suite.generate_signature_key(counted()).public == signing.public
    assert suite.generate_key_pair(counted()).public == sealing.public
    assert suite.generate_signature_key().public != signing.public
    assert suite.generate_key_pair().public != sealing.public
    assert suite.import_signature_key(signing.encode()).public == signing.public
    assert suite.import_hpke_key(sealing.encode()).public == sealing.public
    sealed = suite.encrypt_with_label(sealing.public, "l", b"", b"text")
    known = suite.import_hpke_key(sealing.encode(), sealing.public)
    assert known.public == sealing.public
    assert suite.decrypt_with_label(known, "l", b"", sealed) == b"text"


@every_suite
def test_private_keys_show_nothing(suite: CipherSuite) -> None:
    for key in (suite.generate_signature_key(), suite.generate_key_pair()):
        assert key.encode().hex() not in repr(key)
        assert repr(key.encode()) not in repr(key)


# --- public keys, 5.1.1 ---


@every_suite
def test_5_1_1_public_keys_of_wrong_form_are_refused(suite: CipherSuite) -> None:
    public = suite.generate_key_pair().public
    suite.check_public_key(public)
    for bad in (b"", public[:-1], public + b"\0"):
        with pytest.raises(InvalidError):
            suite.check_public_key(bad)
    key = suite.generate_signature_key()
    signature = suite.sign_with_label(key, "label", b"content")
    suite.verify_with_label(key.public, "label", b"content", signature)
    for bad in (b"", key.public[:-1], key.public + b"\0"):
        with pytest.raises(InvalidError):
            suite.verify_with_label(bad, "label", b"content", signature)


@pytest.mark.parametrize("number", [2, 5, 7])
def test_5_1_1_points_must_be_uncompressed_and_on_the_curve(number: int) -> None:
    suite = CipherSuite.get(number)
    curve = {2: ec.SECP256R1(), 5: ec.SECP521R1(), 7: ec.SECP384R1()}[number]
    private = ec.generate_private_key(curve)
    key = private.public_key()
    signing = suite.import_signature_key(
        private.private_numbers().private_value.to_bytes((curve.key_size + 7) // 8, "big")
    )
    signature = signing.sign(b"content")
    assert suite.signature.verify(signing.public, b"content", signature)
    whole = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    suite.check_public_key(whole)
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    beside = whole[:-1] + bytes((whole[-1] ^ 1,))
    hybrid = bytes((6 + (whole[-1] & 1),)) + whole[1:]
    for bad in (compressed, beside, hybrid, b"\0", bytes(len(whole))):
        with pytest.raises(InvalidError):
            suite.check_public_key(bad)
        assert not suite.signature.verify(bad, b"content", signature)
        with pytest.raises(InvalidError):
            suite.encrypt_with_label(bad, "label", b"", b"text")
        with pytest.raises(InvalidError):
            suite.export_from(suite.generate_key_pair(), bad, b"", b"context", 32)


P25519 = 2**255 - 19
P448 = 2**448 - 2**224 - 1


@pytest.mark.parametrize("high_bit", [0, 1 << 255])
@pytest.mark.parametrize("u", [*sorted(kem.DHKEM_X25519._small_order), P25519, P25519 + 1])
def test_5_1_1_x25519_points_of_small_order_are_refused(u: int, high_bit: int) -> None:
    public = (u | high_bit).to_bytes(32, "little")
    with pytest.raises(ValueError, match="shared key"):  # the library agrees that nobody can encrypt to it
        x25519.X25519PrivateKey.generate().exchange(x25519.X25519PublicKey.from_public_bytes(public))
    _refused_everywhere(CipherSuite.get(1), public)


@pytest.mark.parametrize("u", [*sorted(kem.DHKEM_X448._small_order), P448, P448 + 1])
def test_5_1_1_x448_points_of_small_order_are_refused(u: int) -> None:
    public = u.to_bytes(56, "little")
    with pytest.raises(ValueError, match="shared key"):
        x448.X448PrivateKey.generate().exchange(x448.X448PublicKey.from_public_bytes(public))
    _refused_everywhere(CipherSuite.get(4), public)


def _refused_everywhere(suite: CipherSuite, public: bytes) -> None:
    key = suite.generate_key_pair()
    with pytest.raises(InvalidError):
        suite.check_public_key(public)
    with pytest.raises(InvalidError):
        suite.encrypt_with_label(public, "label", b"", b"text")
    with pytest.raises(InvalidError):
        suite.export_to(public, b"", b"context", 32)
    with pytest.raises(InvalidError):
        suite.export_from(key, public, b"", b"context", 32)
    with pytest.raises(InvalidError):
        suite.decrypt_with_label(key, "label", b"", HPKECiphertext(public, bytes(32)))


# --- public key encryption, 5.1.3, and the export of 8.3 ---


@every_suite
@pytest.mark.parametrize("length", [100, 2**16 - 1, 2**16, 100_000])
def test_5_1_3_encryption_to_many_is_encryption_to_each(suite: CipherSuite, length: int) -> None:
    context = bytes(length)
    keys = [suite.generate_key_pair() for _ in range(3)]
    texts = [b"first", b"", b"third"]
    recipients = [(key.public, text) for key, text in zip(keys, texts, strict=True)]
    sealed = suite.encrypt_to_many("label", context, recipients)
    for key, each, text in zip(keys, sealed, texts, strict=True):
        assert suite.decrypt_with_label(key, "label", context, each) == text
        with pytest.raises(InvalidError):
            suite.decrypt_with_label(key, "label", context[:-1], each)
    with pytest.raises(InvalidError):
        suite.encrypt_to_many("label", context, [(keys[0].public[:-1], b"text")])


@every_suite
def test_5_1_3_decryption_needs_the_same_key_label_and_context(suite: CipherSuite) -> None:
    key, other = suite.generate_key_pair(), suite.generate_key_pair()
    sealed = suite.encrypt_with_label(key.public, "label", b"context", b"text")
    assert suite.decrypt_with_label(key, "label", b"context", sealed) == b"text"
    cut = HPKECiphertext(sealed.kem_output, sealed.ciphertext[:-1])
    moved = HPKECiphertext(sealed.kem_output + sealed.ciphertext[:1], sealed.ciphertext[1:])  # same octets in all
    for private, label, context, ciphertext in (
        (other, "label", b"context", sealed),
        (key, "Label", b"context", sealed),
        (key, "label", b"", sealed),
        (key, "label", b"context", cut),
        (key, "label", b"context", moved),
        (key, "label", b"context", HPKECiphertext(b"", b"")),
        (key, "label", b"context", HPKECiphertext(sealed.kem_output, b"")),
        (key, "label", b"context", HPKECiphertext(bytes(len(sealed.kem_output)), sealed.ciphertext)),
    ):
        with pytest.raises(InvalidError, match="HPKE"):
            suite.decrypt_with_label(private, label, context, ciphertext)


@every_suite
def test_8_3_export_agrees_on_both_sides(suite: CipherSuite) -> None:
    key = suite.generate_key_pair()
    kem_output, secret = suite.export_to(key.public, b"", b"MLS 1.0 external init secret", suite.hash_length)
    assert len(secret) == suite.hash_length
    label = b"MLS 1.0 external init secret"
    assert suite.export_from(key, kem_output, b"", label, suite.hash_length) == secret
    assert suite.export_from(key, kem_output, b"", b"other", suite.hash_length) != secret
    assert suite.export_from(suite.generate_key_pair(), kem_output, b"", label, suite.hash_length) != secret


@given(st.sampled_from(SUITES), st.binary(max_size=150), st.binary(max_size=150))
def test_any_octets_give_a_typed_error(suite: CipherSuite, one: bytes, two: bytes) -> None:
    key = suite.import_hpke_key(suite.derive_key_pair(bytes(suite.hash_length)).encode())
    with pytest.raises(InvalidError):
        suite.verify_with_label(one, "label", b"", two)
    with pytest.raises(InvalidError):
        suite.decrypt_with_label(key, "label", b"", HPKECiphertext(one, two))
    with pytest.raises(InvalidError):
        suite.aead_open(bytes(suite.aead_key_length), bytes(12), one, two)
