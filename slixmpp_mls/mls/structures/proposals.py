"""Proposals: the changes that a Commit puts into effect (RFC 9420 12.1).

The rules for a list of them are in :mod:`slixmpp_mls.mls.group.proposal_list`.
"""

from __future__ import annotations

from typing import Annotated

from ..registry import ProposalType, cipher_suite_id, proposal_type, protocol_version
from ..tls import Select, Struct, opaque, struct, uint32
from .extensions import Extensions
from .key_package import KeyPackage
from .leaf_node import LeafNode
from .psk import PreSharedKeyID

__all__ = [
    "Add",
    "AnyProposal",
    "ExternalInit",
    "GroupContextExtensions",
    "PreSharedKey",
    "Proposal",
    "ReInit",
    "Remove",
    "SelfRemove",
    "UnknownProposal",
    "Update",
    "type_of",
]


@struct
class Add(Struct):
    """RFC 9420 12.1.1: a client joins."""

    key_package: KeyPackage


@struct
class Update(Struct):
    """RFC 9420 12.1.2: the sender's leaf is replaced."""

    leaf_node: LeafNode


@struct
class Remove(Struct):
    """RFC 9420 12.1.3: the member at leaf `removed` goes."""

    removed: uint32


@struct
class PreSharedKey(Struct):
    """RFC 9420 12.1.4: a PSK is mixed into the key schedule."""

    psk: PreSharedKeyID


@struct
class ReInit(Struct):
    """RFC 9420 12.1.5: the group ends, another with these parameters follows."""

    group_id: opaque
    version: Annotated[int, protocol_version]
    cipher_suite: Annotated[int, cipher_suite_id]
    extensions: Extensions


@struct
class ExternalInit(Struct):
    """RFC 9420 12.1.6: what an external joiner encapsulated to `external_pub`."""

    kem_output: opaque


@struct
class GroupContextExtensions(Struct):
    """RFC 9420 12.1.7: the GroupContext's extensions are replaced by these."""

    extensions: Extensions


@struct
class SelfRemove(Struct):
    """draft-ietf-mls-extensions: the sender leaves."""


@struct
class UnknownProposal(Struct):
    """A proposal of a type that this package does not know, kept as it came."""

    tag: Annotated[int, proposal_type]
    data: opaque


AnyProposal = (
    Add | Update | Remove | PreSharedKey | ReInit | ExternalInit | GroupContextExtensions | SelfRemove | UnknownProposal
)

_select = Select(
    proposal_type,
    {
        ProposalType.ADD: Add,
        ProposalType.UPDATE: Update,
        ProposalType.REMOVE: Remove,
        ProposalType.PSK: PreSharedKey,
        ProposalType.REINIT: ReInit,
        ProposalType.EXTERNAL_INIT: ExternalInit,
        ProposalType.GROUP_CONTEXT_EXTENSIONS: GroupContextExtensions,
        ProposalType.SELF_REMOVE: SelfRemove,
    },
    otherwise=UnknownProposal,
)
Proposal = Annotated[AnyProposal, _select]


def type_of(proposal: AnyProposal) -> int:
    """The proposal's number in the registry."""
    return _select.tag_of(proposal)
