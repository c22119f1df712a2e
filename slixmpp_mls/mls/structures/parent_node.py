"""Parent nodes, and the tree as it travels (RFC 9420 7.1 and 12.4.3.3)."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from ..registry import ExtensionType
from ..tls import AtMost, Enum, Select, Struct, opaque, struct, uint32
from .extensions import ExtensionContent
from .leaf_node import LeafNode

__all__ = ["MAX_MEMBERS", "AnyNode", "Node", "NodeType", "ParentNode", "RatchetTreeExtension", "node_codec"]

MAX_MEMBERS = 2**17
"""Leaves of the widest tree accepted from others, unless the caller says otherwise; blank ones cost hashes, too."""


class NodeType(IntEnum):
    """RFC 9420 7.8."""

    LEAF = 1
    PARENT = 2


@struct
class ParentNode(Struct):
    """A key that the members below share, all but the unmerged ones (RFC 9420 7.1)."""

    encryption_key: opaque
    parent_hash: opaque
    unmerged_leaves: Annotated[tuple[uint32, ...], AtMost(MAX_MEMBERS)] = ()


AnyNode = LeafNode | ParentNode

node_codec = Select(Enum(NodeType), {NodeType.LEAF: LeafNode, NodeType.PARENT: ParentNode})
Node = Annotated[AnyNode, node_codec]


@struct
class RatchetTreeExtension(ExtensionContent):
    """The whole tree beside a GroupInfo: its nodes from left to right, blank ones as None.

    This is the shape of the octets only; :class:`slixmpp_mls.mls.tree.ratchet_tree.RatchetTree` reads and writes
    the same octets and checks that they make up a tree.
    """

    TYPE = ExtensionType.RATCHET_TREE
    ratchet_tree: tuple[Node | None, ...]
