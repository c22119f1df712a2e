"""The nodes of an encoded ratchet tree, one by one (RFC 9420 12.4.3.3).

Whoever reads them decides what to keep: a large tree is never decoded as a whole (:mod:`.ratchet_tree`).  Here each
node is judged by itself; how they fit together is for the tree to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import InvalidError, MalformedError
from ..crypto.cipher_suite import CipherSuite
from ..structures.parent_node import AnyNode, ParentNode, node_codec
from ..varint import read_varint
from .tree_math import NodeIndex, level

__all__ = ["read_nodes"]


def read_nodes(suite: CipherSuite, data: bytes, max_leaves: int) -> Iterator[tuple[NodeIndex, AnyNode, bytes]]:
    """The index of each node that is not blank, the node, and its octets with its type, from left to right.

    :param suite: of the group
    :param data: the content of a `ratchet_tree` extension
    :param max_leaves: how many leaves the tree may have, blank ones among them
    :raises MalformedError: it does not parse, or is over the limit
    :raises InvalidError: a node cannot be where it is
    """
    key_length, most, end = suite.public_key_length, 2 * max_leaves - 1, len(data)
    length, pos = read_varint(data, 0, end)
    if pos + length != end:
        raise MalformedError("a ratchet tree with too few or too many octets")
    place, present = -1, 0
    while pos < end:
        place += 1
        if place >= most:
            raise MalformedError(f"a ratchet tree of more than {max_leaves} leaves")
        present = data[pos]
        if present > 1:  # RFC 9420 2.1.1
            raise MalformedError("presence of an optional that is neither 0 nor 1")
        if not present:
            pos += 1
            continue
        start = pos + 1  # behind the presence
        node, pos = node_codec.read(data, start, end)
        # RFC 9420 7.1, 7.3: a key of the group's suite.  Asked here, nobody makes objects of a few octets each.
        if len(node.encryption_key) != key_length:
            raise InvalidError(f"an encryption key of {len(node.encryption_key)} octets", "RFC 9420 7.1")
        if isinstance(node, ParentNode) and len(node.unmerged_leaves) > 1 << level(NodeIndex(place)):
            # No more are below it.  Asked at once: the octets of a large tree have room for millions.
            raise InvalidError("more unmerged leaves than there are leaves", "RFC 9420 7.1")
        yield NodeIndex(place), node, data[start:pos]
    if not present:  # RFC 9420 12.4.3.3
        raise InvalidError("the last node of a ratchet tree is blank", "RFC 9420 12.4.3.3")
