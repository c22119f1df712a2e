"""Annotations by which a client without the ratchet tree follows a group (draft-ietf-mls-partial).

``SenderAuthenticatedMessage<T>`` is one structure for each type of message that it is used with.
"""

from __future__ import annotations

from typing import Annotated

from ..tls import AtMost, Struct, opaque, struct, uint32
from .framing import MLSMessage, PrivateMessage, PublicMessage
from .parent_node import Node
from .update_path import MAX_DEPTH
from .welcome import GroupInfo, Welcome

__all__ = [
    "AnnotatedCommit",
    "AnnotatedWelcome",
    "CopathHash",
    "MembershipProof",
    "SenderAuthenticatedGroupInfo",
    "SenderAuthenticatedMessage",
    "SenderAuthenticatedPrivateMessage",
    "SenderAuthenticatedPublicMessage",
    "SenderAuthenticatedWelcome",
]


@struct
class CopathHash(Struct):
    """The tree hash of a node beside the path from a leaf to the root."""

    hash_value: opaque


@struct
class MembershipProof(Struct):
    """The nodes from a leaf to the root, both included, and the tree hashes beside them, lowest first.

    Their form and their tree hash are checked by :class:`slixmpp_mls.mls.tree.tree_slice.TreeSlice`.
    """

    leaf_index: uint32
    n_leaves: uint32
    direct_path_nodes: Annotated[tuple[Node | None, ...], AtMost(MAX_DEPTH + 1)]
    copath_hashes: Annotated[tuple[CopathHash, ...], AtMost(MAX_DEPTH)]


@struct
class SenderAuthenticatedMessage(Struct):
    """A message of any kind, with the proof that its sender is a member."""

    message: MLSMessage
    sender_membership_proof: MembershipProof


@struct
class SenderAuthenticatedWelcome(Struct):
    """A Welcome, with the proof that the signer of its GroupInfo is a member."""

    message: Welcome
    sender_membership_proof: MembershipProof


@struct
class SenderAuthenticatedGroupInfo(Struct):
    """A GroupInfo, with the proof that its signer is a member."""

    message: GroupInfo
    sender_membership_proof: MembershipProof


@struct
class SenderAuthenticatedPublicMessage(Struct):
    """A PublicMessage, with the proof that its sender is a member."""

    message: PublicMessage
    sender_membership_proof: MembershipProof


@struct
class SenderAuthenticatedPrivateMessage(Struct):
    """A PrivateMessage, with the proof that its sender is a member."""

    message: PrivateMessage
    sender_membership_proof: MembershipProof


@struct
class AnnotatedWelcome(Struct):
    """A Welcome for one joiner that does not fetch the ratchet tree."""

    welcome: SenderAuthenticatedWelcome
    joiner_membership_proof: MembershipProof


@struct
class AnnotatedCommit(Struct):
    """A Commit for one receiver that does not have the ratchet tree.

    `sender_membership_proof` and `receiver`'s belong to one receiver alone, as does `resolution_index`: the place of
    the receiver's HPKECiphertext in the UpdatePathNode of the lowest node above committer and receiver.
    """

    commit: MLSMessage
    sender_membership_proof: MembershipProof | None
    tree_hash_after: opaque
    resolution_index: uint32 | None
    sender_membership_proof_after: MembershipProof
    receiver_membership_proof_after: MembershipProof
