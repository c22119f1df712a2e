"""RFC 9420 8, 8.3, 8.5: the key schedule."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import CipherSuiteId, ProtocolVersion
from slixmpp_mls.mls.schedule.key_schedule import (
    EpochSecrets,
    derive_epoch,
    epoch_from_secret,
    external_init,
    joiner_secret,
    open_external_init,
    welcome_key,
)
from slixmpp_mls.mls.structures.group_context import GroupContext

from ...vectors import load

unhex = bytes.fromhex
SUITES = [CipherSuite.get(number) for number in CipherSuiteId]
MLKEM_ALONE = (
    CipherSuiteId.MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65,
    CipherSuiteId.MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87,
)
KEPT = {
    "sender_data_secret", "exporter_secret", "external_secret", "confirmation_key", "membership_key", "resumption_psk",
    "epoch_authenticator", "init_secret",
}  # fmt: skip


@pytest.mark.parametrize("case", load("key-schedule"), ids=lambda case: str(case["cipher_suite"]))
def test_official_vectors(case: dict[str, Any]) -> None:
    suite = CipherSuite.get(case["cipher_suite"])
    init_secret = unhex(case["initial_init_secret"])
    for number, given in enumerate(case["epochs"]):
        context = GroupContext(
            version=ProtocolVersion.MLS10,
            cipher_suite=suite.id,
            group_id=unhex(case["group_id"]),
            epoch=number,
            tree_hash=unhex(given["tree_hash"]),
            confirmed_transcript_hash=unhex(given["confirmed_transcript_hash"]),
            extensions=(),
        ).encode()
        assert context == unhex(given["group_context"])
        psk_secret = unhex(given["psk_secret"])
        joiner = joiner_secret(suite, init_secret, unhex(given["commit_secret"]), context)
        assert joiner == unhex(given["joiner_secret"])

        welcome_secret = unhex(given["welcome_secret"])
        key, nonce = welcome_key(suite, joiner, psk_secret)
        assert key == suite.expand_with_label(welcome_secret, "key", b"", suite.aead_key_length)
        assert nonce == suite.expand_with_label(welcome_secret, "nonce", b"", suite.nonce_length)

        secrets, encryption_secret = derive_epoch(suite, joiner, psk_secret, context)
        assert encryption_secret == unhex(given["encryption_secret"])
        assert {name: getattr(secrets, name) for name in KEPT} == {name: unhex(given[name]) for name in KEPT}
        assert secrets.external_key_pair(suite).public == unhex(given["external_pub"])
        export = given["exporter"]
        assert secrets.exporter(suite, export["label"], unhex(export["context"]), export["length"]) == unhex(
            export["secret"]
        )
        init_secret = secrets.init_secret


def test_8_5_the_exporter_context_is_hashed() -> None:
    """Written out from the RFC's formula, beside the vectors, because a library has got this wrong."""
    suite = SUITES[0]
    secrets, _ = epoch_from_secret(suite, bytes(32))
    derived = suite.expand_with_label(secrets.exporter_secret, "label", b"", 32)
    assert secrets.exporter(suite, "label", b"context", 16) == suite.expand_with_label(
        derived, "exported", suite.hash(b"context"), 16
    )
    assert secrets.exporter(suite, "label", b"context", 16) != suite.expand_with_label(
        derived, "exported", b"context", 16
    )


def test_9_2_an_epoch_keeps_neither_epoch_secret_nor_encryption_secret_nor_joiner_secret() -> None:
    suite = SUITES[0]
    joiner, context = b"j" * 32, b"context"
    epoch_secret = suite.expand_with_label(suite.extract(joiner, suite.zero), "epoch", context, 32)
    secrets, encryption_secret = derive_epoch(suite, joiner, suite.zero, context)
    assert (secrets, encryption_secret) == epoch_from_secret(suite, epoch_secret)
    assert {field.name for field in dataclasses.fields(secrets)} == KEPT
    stored = secrets.encode()
    for gone in (joiner, epoch_secret, encryption_secret):
        assert gone not in stored
    assert secrets.init_secret in stored


def test_secrets_survive_the_store_and_show_nothing() -> None:
    suite = SUITES[0]
    epoch = epoch_from_secret(suite, bytes(32))
    assert EpochSecrets.decode(epoch.secrets.encode()) == epoch.secrets
    with pytest.raises(MalformedError):
        EpochSecrets.decode(epoch.secrets.encode()[:-1])
    key = welcome_key(suite, bytes(32), bytes(32))
    for value in (epoch, epoch.secrets, key):
        shown = repr(value)
        for hidden in (epoch.encryption_secret, epoch.secrets.init_secret, epoch.secrets.exporter_secret, key.key):
            assert repr(hidden)[2:-1] not in shown
            assert hidden.hex() not in shown


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: str(int(suite.id)))
def test_8_3_an_external_joiner_and_the_members_agree(suite: CipherSuite) -> None:
    secrets, _ = epoch_from_secret(suite, b"e" * suite.hash_length)
    kem_output, init_secret = external_init(suite, secrets.external_key_pair(suite).public)
    assert len(init_secret) == suite.hash_length
    assert open_external_init(suite, secrets, kem_output) == init_secret
    later, _ = epoch_from_secret(suite, b"f" * suite.hash_length)
    assert open_external_init(suite, later, kem_output) != init_secret
    for bad in (b"", kem_output[:-1], kem_output + b"\0"):
        with pytest.raises(InvalidError):
            open_external_init(suite, secrets, bad)
    if suite.id in MLKEM_ALONE:  # FIPS 203: decapsulation rejects implicitly, another secret comes out
        assert open_external_init(suite, secrets, bytes(len(kem_output))) != init_secret
    else:
        with pytest.raises(InvalidError):
            open_external_init(suite, secrets, bytes(len(kem_output)))
