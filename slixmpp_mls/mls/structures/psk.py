"""Pre-shared keys: what they are called and how they are combined (RFC 9420 8.4)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..tls import Enum, Select, Struct, opaque, struct, uint16, uint64

__all__ = ["ExternalPSK", "PSKLabel", "PSKType", "PreSharedKeyID", "ResumptionPSK", "ResumptionPSKUsage", "psk_secret"]


class PSKType(IntEnum):
    EXTERNAL = 1
    RESUMPTION = 2


class ResumptionPSKUsage(IntEnum):
    APPLICATION = 1
    REINIT = 2
    BRANCH = 3


@struct
class ExternalPSK(Struct):
    """A key that the application distributes by itself."""

    psk_id: opaque


@struct
class ResumptionPSK(Struct):
    """A key exported from an epoch of a group."""

    usage: Annotated[ResumptionPSKUsage, Enum(ResumptionPSKUsage)]
    psk_group_id: opaque
    psk_epoch: uint64


@struct
class PreSharedKeyID(Struct):
    """The name of a PSK, with a nonce that makes each use of it distinct."""

    psk: Annotated[
        ExternalPSK | ResumptionPSK,
        Select(Enum(PSKType), {PSKType.EXTERNAL: ExternalPSK, PSKType.RESUMPTION: ResumptionPSK}),
    ]
    psk_nonce: opaque


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
