"""The Commit: proposals put into effect, and a path that renews keys (RFC 9420 12.4)."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from ..tls import AtMost, Enum, Select, Struct, opaque, struct
from .proposals import Proposal
from .update_path import UpdatePath

__all__ = ["Commit", "ProposalOrRef", "ProposalOrRefType", "ProposalRef"]


class ProposalOrRefType(IntEnum):
    PROPOSAL = 1
    REFERENCE = 2


@struct
class ProposalRef(Struct):
    """The hash that names a proposal sent before (RFC 9420 5.2)."""

    reference: opaque


ProposalOrRef = Annotated[
    Proposal | ProposalRef,
    Select(
        Enum(ProposalOrRefType),
        {ProposalOrRefType.PROPOSAL: Proposal, ProposalOrRefType.REFERENCE: ProposalRef},
    ),
]


MAX_PROPOSALS = 4096
"""In one Commit: far more than fit into a stanza, and as many as a reader of one is ready to make objects of."""


@struct
class Commit(Struct):
    """Proposals by value or by reference, and the UpdatePath if there is one."""

    proposals: Annotated[tuple[ProposalOrRef, ...], AtMost(MAX_PROPOSALS)]
    path: UpdatePath | None
