"""Recognizes what version 0.1 of this protocol has made (xep/mls.xml, "Version 0.1").

Both versions have the namespace and the elements in common.  The difference is inside of MLS: version 0.2 has
the list of removed clients, whose extension every leaf lists in its capabilities and every group has from its creation
on.

=================  ==================================================================================
of version 0.1     if
=================  ==================================================================================
a leaf             it lists the policy, and not the list of removed clients; so a KeyPackage or a request with it
a group            its GroupContext has the policy, and not the list; so a Welcome or a GroupInfo with it
=================  ==================================================================================

A group of version 0.1 in a store goes on, by the rules that :mod:`.removed_clients` gives for it.  Nobody joins one.
"""

from __future__ import annotations

from ..errors import ProtocolTooOld
from ..mls.structures.extensions import Extensions
from ..mls.structures.leaf_node import LeafNode
from ..stanza.code_points import REMOVED_CLIENTS
from .room_policy import RoomPolicy

__all__ = ["is_group_of_0_1", "is_leaf_of_0_1", "refuse_group_of_0_1", "refuse_leaf_of_0_1"]


def is_group_of_0_1(extensions: Extensions) -> bool:
    """Whether these are the GroupContext extensions of a group of version 0.1."""
    types = {extension.extension_type for extension in extensions}
    return RoomPolicy.TYPE in types and REMOVED_CLIENTS not in types


def is_leaf_of_0_1(leaf: LeafNode) -> bool:
    """Whether a leaf is of a client of version 0.1."""
    listed = leaf.capabilities.extensions
    return RoomPolicy.TYPE in listed and REMOVED_CLIENTS not in listed


def refuse_group_of_0_1(extensions: Extensions) -> None:
    """Refuse to join a group of version 0.1.

    :raises ProtocolTooOld: these are the extensions of one
    """
    if is_group_of_0_1(extensions):
        raise ProtocolTooOld("group")


def refuse_leaf_of_0_1(leaf: LeafNode, what: str) -> None:
    """Refuse a leaf of version 0.1 for a group of this version.

    :param what: ``KeyPackage`` or ``request``
    :raises ProtocolTooOld: it is one
    """
    if is_leaf_of_0_1(leaf):
        raise ProtocolTooOld(what)
