"""draft-ietf-hpke-pq and draft-ietf-mls-pq-ciphersuites: what of the post-quantum suites is ours."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from pyhpke import AEADId, KDFId

from slixmpp_mls.errors import InvalidError, SuiteUnsupported, suite_name
from slixmpp_mls.mls.crypto import kem, post_quantum
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.crypto.hpke import HPKE, HPKECiphertext, HPKEPrivateKey
from slixmpp_mls.mls.registry import CipherSuiteId

from ...vectors import load

TBD1, TBD5, TBD9, TBD10, TBD11 = (CipherSuite.get(0xF000 + number) for number in (1, 5, 9, 10, 11))
POST_QUANTUM = [CipherSuite.get(number) for number in CipherSuiteId if number >= 0xF000]
every_suite = pytest.mark.parametrize("suite", POST_QUANTUM, ids=lambda suite: f"TBD{suite.id - 0xF000}")

KEMS = {
    one.id: one
    for one in (
        post_quantum.MLKEM768, post_quantum.MLKEM1024, post_quantum.MLKEM768_X25519, post_quantum.MLKEM1024_P384,
        kem.DHKEM_P256, kem.DHKEM_P384, kem.DHKEM_X25519, kem.DHKEM_X448,
    )
}  # fmt: skip
HKDF = {one.value for one in (KDFId.HKDF_SHA256, KDFId.HKDF_SHA384, KDFId.HKDF_SHA512)}
AEAD: dict[int, Any] = {1: AESGCM, 2: AESGCM, 3: ChaCha20Poly1305}
VECTORS = load("hpke-pq/test-vectors")
KNOWN = [case for case in VECTORS if case["kem_id"] in KEMS]


def named(case: dict[str, Any]) -> str:
    return "-".join(f"{case[name]:#x}" for name in ("kem_id", "kdf_id", "aead_id"))


# --- the HPKE working group's vectors ---


def test_the_vectors_have_every_kem_of_our_suites() -> None:
    assert {0x0041, 0x0042, 0x0051, 0x647A} <= {case["kem_id"] for case in KNOWN}


@pytest.mark.parametrize("case", KNOWN, ids=named)
class TestHPKEVectors:
    """draft-ietf-hpke-pq, appendix "Test Vectors"."""

    def test_derive_key_pair(self, case: dict[str, Any]) -> None:
        one: Any = KEMS[case["kem_id"]]
        key = one.derive(bytes.fromhex(case["ikmR"]))
        if one.post_quantum:  # RFC 9180 7.1.2 clamps X448's; ours are not, and mean the same key
            assert one.encode_private(key).hex() == case["skRm"]
        assert one.encode_public(key.public_key()).hex() == case["pkRm"]
        again = one.load_private(bytes.fromhex(case["skRm"]))
        assert one.encode_public(again.public_key()).hex() == case["pkRm"]
        assert one.encode_public(one.load_public(bytes.fromhex(case["pkRm"]))).hex() == case["pkRm"]

    def test_lengths(self, case: dict[str, Any]) -> None:
        one: Any = KEMS[case["kem_id"]]
        lengths = [len(case[name]) // 2 for name in ("skRm", "pkRm", "enc")]
        assert [one.private_length, one.public_length, one.output_length] == lengths

    def test_decapsulate(self, case: dict[str, Any]) -> None:
        one: Any = KEMS[case["kem_id"]]
        key = one.load_private(bytes.fromhex(case["skRm"]))
        assert one.decapsulate(key, bytes.fromhex(case["enc"])).hex() == case["shared_secret"]


@pytest.mark.parametrize("case", [case for case in KNOWN if case["kdf_id"] in HKDF], ids=named)
class TestHPKEVectorsOfHKDF:
    def test_key_schedule(self, case: dict[str, Any]) -> None:
        """RFC 9180 5.1; the vectors' messages have associated data, which MLS has not, hence by the key itself."""
        hpke = HPKE(KEMS[case["kem_id"]], KDFId(case["kdf_id"]), AEADId(case["aead_id"]))
        context = hpke._context(bytes.fromhex(case["info"]))
        secret = bytes.fromhex(case["shared_secret"])
        key = hpke._schedule(secret, b"key", context, len(case["key"]) // 2)
        nonce = hpke._schedule(secret, b"base_nonce", context, 12)
        assert key.hex() == case["key"]
        assert nonce.hex() == case["base_nonce"]
        first = case["encryptions"][0]
        opened = AEAD[case["aead_id"]](key).decrypt(nonce, bytes.fromhex(first["ct"]), bytes.fromhex(first["aad"]))
        assert opened.hex() == first["pt"]

    def test_export(self, case: dict[str, Any]) -> None:
        """RFC 9180 5.3, as the external initialization uses it (RFC 9420 8.3)."""
        one: Any = KEMS[case["kem_id"]]
        hpke = HPKE(one, KDFId(case["kdf_id"]), AEADId(case["aead_id"]))
        key = HPKEPrivateKey(one, bytes.fromhex(case["skRm"]))
        assert case["exports"]
        for each in case["exports"]:
            context = bytes.fromhex(each["exporter_context"])
            enc, info = bytes.fromhex(case["enc"]), bytes.fromhex(case["info"])
            assert hpke.export_from(key, enc, info, context, each["L"]).hex() == each["exported_value"]


# --- the table of suites ---


@pytest.mark.parametrize(
    ("number", "public", "output", "hash_length", "key", "scheme", "signature_key", "signature"),
    [
        (0xF001, 1216, 1120, 32, 16, 0x0807, 32, 64),
        (0xF002, 1216, 1120, 48, 32, 0x0807, 32, 64),
        (0xF005, 1665, 1665, 48, 32, 0x0503, 97, None),
        (0xF009, 1216, 1120, 48, 32, 0x0904, 1312, 2420),
        (0xF00A, 1184, 1088, 48, 32, 0x0905, 1952, 3309),
        (0xF00B, 1568, 1568, 48, 32, 0x0906, 2592, 4627),
    ],
)
def test_sizes_are_those_of_the_drafts(
    number: int, public: int, output: int, hash_length: int, key: int, scheme: int, signature_key: int, signature: int
) -> None:
    """draft-ietf-mls-pq-ciphersuites-06, section 4; draft-ietf-hpke-pq, section 3; FIPS 203 and 204, table 2."""
    suite = CipherSuite.get(number)
    pair, signer = suite.generate_key_pair(), suite.generate_signature_key()
    sealed = suite.encrypt_with_label(pair.public, "l", b"", b"text")
    assert (len(pair.public), len(sealed.kem_output)) == (public, output)
    assert (suite.hash_length, suite.aead_key_length, suite.signature_scheme) == (hash_length, key, scheme)
    assert len(signer.public) == signature_key
    assert signature in (None, len(suite.sign_with_label(signer, "l", b"")))  # ECDSA's is DER, of any length


def test_kdf_and_aead_are_those_of_the_names() -> None:
    for suite in POST_QUANTUM:
        aead = next(name for name in ("AES128GCM", "AES256GCM", "CHACHA20POLY1305") if f"_{name}_" in suite.id.name)
        native: dict[str, tuple[Any, int]] = {
            "AES128GCM": (AESGCM, 16),
            "AES256GCM": (AESGCM, 32),
            "CHACHA20POLY1305": (ChaCha20Poly1305, 32),
        }
        kind, length = native[aead]
        sealed = kind(bytes(length)).encrypt(bytes(12), b"text", b"aad")
        assert suite.aead_seal(bytes(length), bytes(12), b"aad", b"text") == sealed
        assert f"_SHA{8 * suite.hash_length}_" in suite.id.name
        from cryptography.hazmat.primitives import hashes

        algorithm = {32: hashes.SHA256, 48: hashes.SHA384}[suite.hash_length]()
        label = (16).to_bytes(2, "big") + b"\x0cMLS 1.0 test" + b"\0"
        expanded = HKDFExpand(algorithm, 16, label).derive(bytes(suite.hash_length))
        assert suite.expand_with_label(bytes(suite.hash_length), "test", b"", 16) == expanded


def test_suites_say_what_is_post_quantum() -> None:
    secret = [number for number in CipherSuiteId if CipherSuite.get(number).secrecy_is_post_quantum]
    authentic = [number for number in CipherSuiteId if CipherSuite.get(number).signatures_are_post_quantum]
    assert secret == [0xF001, 0xF002, 0xF005, 0xF009, 0xF00A, 0xF00B]
    assert authentic == [0xF009, 0xF00A, 0xF00B]


# --- an OpenSSL without them ---


@pytest.mark.parametrize(
    ("lacks", "named", "gone"),
    [
        ("mlkem_supported", "lacks ML-KEM", {0xF001, 0xF002, 0xF005, 0xF009, 0xF00A, 0xF00B}),
        ("mldsa_supported", "lacks ML-DSA", {0xF009, 0xF00A, 0xF00B}),
    ],
)
def test_what_openssl_lacks_is_refused(lacks: str, named: str, gone: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, lacks, lambda: False)
    for number in CipherSuiteId:
        assert CipherSuite.is_supported(number) == (number not in gone)
        if number in gone:
            with pytest.raises(InvalidError, match=named):
                CipherSuite.get(number)
        else:
            assert CipherSuite.get(number).id == number
    assert not CipherSuite.is_supported(0xF003)


def test_errors_write_numbers_as_documents_do() -> None:
    assert [suite_name(number) for number in (1, 7, 0xF001, CipherSuiteId(0xF00B))] == ["1", "7", "0xF001", "0xF00B"]
    assert [suite_name(nonsense) for nonsense in ("x", b"", None)] == ["'x'", "b''", "None"]
    assert "cipher suite 0xF001 is not supported by bob" in str(SuiteUnsupported(0xF001, ["bob"]))
    with pytest.raises(InvalidError, match="cipher suite 0xF003 is not supported"):
        CipherSuite.get(0xF003)


# --- keys and KEM outputs of wrong form ---


@every_suite
def test_private_keys_are_seeds(suite: CipherSuite) -> None:
    length = {0xF00A: 64, 0xF00B: 64}.get(suite.id, 32)
    key = suite.derive_key_pair(b"s" * 48)
    assert len(key.encode()) == length
    assert suite.import_hpke_key(key.encode()).public == key.public
    assert suite.derive_key_pair(b"s" * 48).encode() == key.encode()
    assert suite.derive_key_pair(b"S" * 48).encode() != key.encode()
    if suite.signatures_are_post_quantum:
        assert len(suite.generate_signature_key().encode()) == 32
    shown = repr(key) + repr(key.loaded) + repr(suite.import_hpke_key(key.encode()))
    assert key.encode().hex() not in shown
    assert repr(key.encode())[2:-1] not in shown
    for bad in (b"", key.encode()[:-1], key.encode() + b"\0"):
        with pytest.raises(ValueError, match=r"length|64|seed"):
            _ = suite.import_hpke_key(bad).public


def refused_everywhere(suite: CipherSuite, public: bytes) -> None:
    with pytest.raises(InvalidError):
        suite.check_public_key(public)
    with pytest.raises(InvalidError):
        suite.encrypt_with_label(public, "label", b"", b"text")
    with pytest.raises(InvalidError):
        suite.encrypt_to_many("label", bytes(2**16), [(public, b"text")])
    with pytest.raises(InvalidError):
        suite.export_to(public, b"", b"context", 32)


@every_suite
def test_mlkem_keys_beyond_the_modulus_are_refused(suite: CipherSuite) -> None:
    """FIPS 203 7.2: the encapsulation key check.  The first coefficient, 12 bits, becomes 4095; q is 3329."""
    public = suite.generate_key_pair().public
    refused_everywhere(suite, b"\xff\xff" + public[2:])
    refused_everywhere(suite, public[:-1])
    refused_everywhere(suite, public + b"\0")


@pytest.mark.parametrize("u", sorted(kem.DHKEM_X25519._small_order))
def test_hybrid_keys_with_a_point_of_small_order_are_refused(u: int) -> None:
    """RFC 9180 7.1.4: nobody could encrypt to it, so nobody may bring it into a group."""
    point = u.to_bytes(32, "little")
    refused_everywhere(TBD1, TBD1.generate_key_pair().public[:-32] + point)
    key = TBD1.generate_key_pair()
    sealed = TBD1.encrypt_with_label(key.public, "label", b"", b"text")
    bad = sealed.kem_output[:-32] + point
    with pytest.raises(InvalidError):
        TBD1.decrypt_with_label(key, "label", b"", HPKECiphertext(bad, sealed.ciphertext))
    with pytest.raises(InvalidError):
        TBD1.export_from(key, bad, b"", b"context", 32)


def test_hybrid_keys_with_no_point_of_the_curve_are_refused() -> None:
    key = TBD5.generate_key_pair()
    beside = key.public[:-1] + bytes((key.public[-1] ^ 1,))
    refused_everywhere(TBD5, beside)
    compressed = key.public[: 1568 + 49]
    refused_everywhere(TBD5, compressed)
    refused_everywhere(TBD5, compressed + bytes(48))
    kem_output, _ = TBD5.export_to(key.public, b"", b"context", 32)
    with pytest.raises(InvalidError):
        TBD5.export_from(key, kem_output[:-1] + bytes((kem_output[-1] ^ 1,)), b"", b"context", 32)


@pytest.mark.parametrize("suite", [TBD1, TBD5], ids=["X25519", "P384"])
def test_both_parts_of_a_hybrid_count(suite: CipherSuite) -> None:
    """Secrets differ when either part of the KEM output or of the key is another."""
    key, other = suite.generate_key_pair(), suite.generate_key_pair()
    curve = suite._hpke.kem.public_length - (1184 if suite is TBD1 else 1568)
    sent, secret = suite.export_to(key.public, b"", b"context", 32)
    another, _ = suite.export_to(key.public, b"", b"context", 32)
    assert suite.export_from(key, sent, b"", b"context", 32) == secret
    for mixed in (sent[:-curve] + another[-curve:], another[:-curve] + sent[-curve:]):
        assert suite.export_from(key, mixed, b"", b"context", 32) != secret
        with pytest.raises(InvalidError):
            suite.decrypt_with_label(key, "label", b"", HPKECiphertext(mixed, bytes(32)))
    for public in (key.public[:-curve] + other.public[-curve:], other.public[:-curve] + key.public[-curve:]):
        suite.check_public_key(public)
        sealed = suite.encrypt_with_label(public, "label", b"", b"text")
        for each in (key, other):
            with pytest.raises(InvalidError):
                suite.decrypt_with_label(each, "label", b"", sealed)


@every_suite
def test_our_half_of_hpke_opens_what_the_library_seals_and_the_reverse(suite: CipherSuite) -> None:
    """The combiner and the key schedule (ours when the context is long) agree with those of `cryptography`."""
    key, hpke = suite.generate_key_pair(), suite._hpke
    for info in (b"", b"info"):
        kem_output, ciphertext = hpke.seal(key.public, info, b"text")
        aead, nonce = hpke._aead_for(hpke.kem.decapsulate(key.loaded, kem_output), hpke._context(info))
        assert aead.open(ciphertext, nonce) == b"text"
        kem_output, ciphertext = hpke._seal(hpke.load_public(key.public), hpke._context(info), b"text")
        assert hpke.open(key, kem_output, info, ciphertext) == b"text"


# --- ML-DSA ---


@pytest.mark.parametrize("suite", [TBD9, TBD10, TBD11], ids=["44", "65", "87"])
def test_mldsa_signs_with_an_empty_context(suite: CipherSuite) -> None:
    key = suite.generate_signature_key()
    signature = key.sign(b"message")
    assert key.sign(b"message") != signature  # hedged with fresh randomness (FIPS 204 3.4)
    key.loaded().public_key().verify(signature, b"message", b"")
    assert suite.signature.verify(key.public, b"message", signature)
    assert suite.signature.verify(key.public, b"message", key.loaded().sign(b"message", b""))
    assert not suite.signature.verify(key.public, b"message", key.loaded().sign(b"message", b"context"))
    assert not suite.signature.verify(key.public, b"Message", signature)
    for bad in (b"", signature[:-1], signature + b"\0", bytes(len(signature))):
        assert not suite.signature.verify(key.public, b"message", bad)
    for other in (TBD9, TBD10, TBD11):
        assert other is suite or not other.signature.verify(key.public, b"message", signature)
