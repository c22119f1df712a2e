"""The PSKs of a Commit, combined into one secret (RFC 9420 8.4)."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..structures.psk import PreSharedKeyID
from ..tls import Struct, struct, uint16

__all__ = ["PSKLabel", "psk_secret"]


@struct
class PSKLabel(Struct):
    """Binds a PSK to its name and to its place among the PSKs of one Commit."""

    id: PreSharedKeyID
    index: uint16
    count: uint16


def psk_secret(suite: CipherSuite, psks: Sequence[tuple[PreSharedKeyID, bytes]]) -> bytes:
    """All PSKs of a Commit as one secret, in the order given; zeros if there are none.

    :param psks: each PSK's name and value
    :raises InvalidError: more than the 16 bits of ``PSKLabel.count`` can tell
    """
    if len(psks) > 0xFFFF:
        raise InvalidError(f"{len(psks)} PSKs in one Commit", "RFC 9420 8.4")
    secret = suite.zero
    for index, (name, psk) in enumerate(psks):
        label = PSKLabel(name, index, len(psks)).encode()
        extracted = suite.extract(suite.zero, psk)
        secret = suite.extract(suite.expand_with_label(extracted, "derived psk", label, suite.hash_length), secret)
    return secret
