"""RFC 9420 8.4: pre-shared keys."""

from __future__ import annotations

from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.schedule.psk_secret import psk_secret
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage

from ...vectors import load

unhex = bytes.fromhex


@pytest.mark.parametrize("case", load("psk_secret"), ids=lambda case: f"{case['cipher_suite']}-{len(case['psks'])}")
def test_official_vectors(case: dict[str, Any]) -> None:
    psks = [
        (PreSharedKeyID(ExternalPSK(unhex(given["psk_id"])), unhex(given["psk_nonce"])), unhex(given["psk"]))
        for given in case["psks"]
    ]
    assert psk_secret(CipherSuite.get(case["cipher_suite"]), psks) == unhex(case["psk_secret"])


def test_8_4_order_name_nonce_value_and_count_all_count() -> None:
    suite = CipherSuite.get(1)
    one = (PreSharedKeyID(ExternalPSK(b"one"), bytes(32)), b"1" * 32)
    resumed = ResumptionPSK(ResumptionPSKUsage.BRANCH, b"group", 7)
    two = (PreSharedKeyID(resumed, bytes(32)), b"2" * 32)
    secrets = [
        psk_secret(suite, psks)
        for psks in (
            [],
            [one],
            [two],
            [one, two],
            [two, one],
            [one, one],
            [(PreSharedKeyID(one[0].psk, b"n" * 32), one[1])],
            [(one[0], two[1])],
            [(PreSharedKeyID(ResumptionPSK(ResumptionPSKUsage.REINIT, b"group", 7), bytes(32)), two[1])],
            [(PreSharedKeyID(ResumptionPSK(ResumptionPSKUsage.BRANCH, b"group", 8), bytes(32)), two[1])],
        )
    ]
    assert secrets[0] == bytes(32)
    assert len(set(secrets)) == len(secrets)


def test_8_4_more_psks_than_can_be_counted_are_refused() -> None:
    one = (PreSharedKeyID(ExternalPSK(b"one"), bytes(32)), b"1" * 32)
    with pytest.raises(InvalidError, match="65536 PSKs"):
        psk_secret(CipherSuite.get(1), [one] * 0x10000)
