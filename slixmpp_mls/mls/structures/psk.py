"""The names of pre-shared keys (RFC 9420 8.4)."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from ..tls import Enum, Select, Struct, opaque, struct, uint64

__all__ = ["ExternalPSK", "PSKType", "PreSharedKeyID", "ResumptionPSK", "ResumptionPSKUsage"]


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
