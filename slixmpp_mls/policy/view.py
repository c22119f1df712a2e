"""The group state that a Commit is judged by: it is the same for all members in one epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.group.group_state import PublicState
from ..mls.structures.extensions import Extension, Extensions
from ..mls.structures.leaf_node import LeafNode
from ..mls.tree.tree_math import LeafIndex
from .proofs import LEAF_EXTENSIONS
from .removed_clients import RemovedClients
from .room_policy import RoomPolicy
from .roster import Roster

__all__ = ["EXTENSION_TYPES", "GroupView", "group_extensions"]

EXTENSION_TYPES = (RoomPolicy.TYPE, RemovedClients.TYPE, *(kind.TYPE for kind in LEAF_EXTENSIONS))
"""Extension types that a leaf of this protocol lists in its capabilities (RFC 9420 7.2)."""


@dataclass(frozen=True, slots=True)
class GroupView:
    """The state of a group before a Commit.

    :ivar extensions: of its GroupContext
    :ivar removed: the list of removed clients among them; None if there is none
    :ivar leaf: returns the leaf at an index of the tree
    """

    suite: CipherSuite
    group_id: bytes
    extensions: Extensions
    policy: RoomPolicy
    removed: RemovedClients | None
    roster: Roster
    leaf: Callable[[int], LeafNode]

    @classmethod
    def of(cls, group: PublicState[Any], policy: RoomPolicy, roster: Roster) -> GroupView:
        """The view of a group whose policy and roster are known; without the ratchet tree, of the proved members.

        :raises MalformedError: the list of removed clients cannot be parsed
        """
        extensions = group.context.extensions
        return cls(
            suite=group.suite,
            group_id=group.group_id,
            extensions=extensions,
            policy=policy,
            removed=RemovedClients.found_in(extensions),
            roster=roster,
            leaf=lambda index: group.tree.member(LeafIndex(index)),
        )


def group_extensions(policy: RoomPolicy) -> tuple[Extension, ...]:
    """The GroupContext extensions of a new group.

    They include an empty list of removed clients.  RFC 9420 13.4 then excludes clients whose capabilities lack its
    type, so no member can later prevent the use of the list.

    :raises ValueError: the policy cannot be encoded
    """
    return policy.extension(), RemovedClients().extension()
