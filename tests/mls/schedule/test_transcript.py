"""RFC 9420 8.2 and 6.1: transcript hashes and the confirmation tag."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import WireFormat
from slixmpp_mls.mls.schedule.transcript import (
    confirmation_tag,
    confirmed_transcript_hash,
    interim_transcript_hash,
    verify_confirmation_tag,
)
from slixmpp_mls.mls.structures.framing import AuthenticatedContent

from ...vectors import load

unhex = bytes.fromhex
CASES = load("transcript-hashes")


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["cipher_suite"]))
def test_official_vectors(case: dict[str, Any]) -> None:
    suite = CipherSuite.get(case["cipher_suite"])
    commit = AuthenticatedContent.decode(unhex(case["authenticated_content"]))
    assert commit.confirmation_tag is not None
    before = unhex(case["interim_transcript_hash_before"])
    confirmed = confirmed_transcript_hash(suite, before, commit.wire_format, commit.content, commit.signature)
    assert confirmed == unhex(case["confirmed_transcript_hash_after"])
    assert interim_transcript_hash(suite, confirmed, commit.confirmation_tag) == unhex(
        case["interim_transcript_hash_after"]
    )
    key = unhex(case["confirmation_key"])
    verify_confirmation_tag(suite, key, confirmed, commit.confirmation_tag)
    assert confirmation_tag(suite, key, confirmed) == commit.confirmation_tag


def test_6_1_a_wrong_confirmation_tag_is_refused() -> None:
    case = CASES[0]
    suite = CipherSuite.get(case["cipher_suite"])
    key, confirmed = unhex(case["confirmation_key"]), unhex(case["confirmed_transcript_hash_after"])
    tag = confirmation_tag(suite, key, confirmed)
    for other_key, other_hash, other_tag in (
        (bytes(32), confirmed, tag),
        (key, bytes(32), tag),
        (key, confirmed, tag[:-1]),
        (key, confirmed, b""),
        (key, confirmed, bytes(32)),
    ):
        with pytest.raises(InvalidError, match="wrong confirmation tag"):
            verify_confirmation_tag(suite, other_key, other_hash, other_tag)


def test_8_2_the_hash_covers_wire_format_content_signature_and_history() -> None:
    case = CASES[0]
    suite = CipherSuite.get(case["cipher_suite"])
    commit = AuthenticatedContent.decode(unhex(case["authenticated_content"]))
    other_content = dataclasses.replace(commit.content, epoch=commit.content.epoch + 1)
    other_format = next(number for number in WireFormat if number != commit.wire_format)
    hashes = {
        confirmed_transcript_hash(suite, *arguments)
        for arguments in (
            (b"", commit.wire_format, commit.content, commit.signature),
            (b"x", commit.wire_format, commit.content, commit.signature),
            (b"", other_format, commit.content, commit.signature),
            (b"", commit.wire_format, other_content, commit.signature),
            (b"", commit.wire_format, commit.content, commit.signature[:-1]),
        )
    }
    assert len(hashes) == 5
