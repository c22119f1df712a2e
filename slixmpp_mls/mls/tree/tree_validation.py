"""Whether to believe a ratchet tree that somebody gave us (RFC 9420 12.4.3.1).

Joining is the one moment at which a whole tree is checked; afterwards each Commit is.  Structure and
uniqueness of keys are checked when a tree is decoded; what is left is done here in the order of cost:
hashes, then one pass over the parent nodes, then the leaves, whose signatures take nearly all the time.

A leaf that has expired is no reason to refuse a tree: its lifetime says until when it may be used to
*add* the client (7.3 recommends the check and says why it can fail).  That a lifetime is longer than the application
allows is one (7.2): no clock is needed to see it, and members refuse such a leaf in an Add.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, MutableSet
from typing import NewType

from ...errors import InvalidError
from ..crypto.signature_batch import SignedContent, verify_all
from ..structures.group_context import GroupContext
from ..structures.parent_node import ParentNode
from .leaf_validation import GroupRequirements, LeafRules, check_leaf, check_members, leaf_signature
from .parent_hash import verify_parent_hashes
from .ratchet_tree import RatchetTree
from .subtree import Place

__all__ = ["VerifiedTree", "check_unmerged_leaves", "verify_tree"]

VerifiedTree = NewType("VerifiedTree", RatchetTree)
"""A tree that :func:`verify_tree` has accepted, or one's own."""


def verify_tree(
    tree: RatchetTree,
    context: GroupContext,
    *,
    lifetime_limit: int | None = None,
    remembered: MutableSet[bytes] | None = None,
    threads: int = 2,
) -> VerifiedTree:
    """RFC 9420 12.4.3.1, "verify the integrity of the ratchet tree".

    :param context: of the group, from a GroupInfo whose signature the caller verifies
    :param lifetime_limit: the longest lifetime that a leaf may have, seconds (7.2); None: any
    :param remembered: see :func:`slixmpp_mls.mls.crypto.signature_batch.verify_all`
    :param threads: likewise
    :raises InvalidError: the tree is not acceptable
    """
    if tree.suite.id != context.cipher_suite:
        raise InvalidError("tree of another cipher suite", "RFC 9420 12.4.3.1")
    if tree.tree_hash() != context.tree_hash:
        raise InvalidError("another tree than the GroupContext's", "RFC 9420 12.4.3.1")
    check_unmerged_leaves(tree)
    verify_parent_hashes(tree)
    requirements = GroupRequirements.of_context(context)
    check_members(tree, requirements)
    for _, node in tree.parents():
        tree.suite.check_public_key(node.encryption_key)  # nobody could encrypt to a bad one

    rules = None if lifetime_limit is None else LeafRules(None, lifetime_limit)

    def signatures() -> Iterator[SignedContent]:
        for index, leaf in tree.members():
            check_leaf(leaf, requirements)
            if rules is not None:
                rules.check_lifetime(leaf)
            yield leaf_signature(leaf, context.group_id, index)

    verify_all(tree.suite, signatures(), remembered=remembered, threads=threads)
    return VerifiedTree(tree)


def check_unmerged_leaves(tree: RatchetTree) -> None:
    """RFC 9420 12.4.3.1: a leaf unmerged at a node is unmerged at every node between them.

    It is enough to look at the next one below that is not blank: that one is looked at in turn.

    :raises InvalidError: it is not
    """
    for place, content in tree.parent_places():
        for index in content.unmerged_leaves:
            between = _next_below(place, index)
            if between is None:
                continue
            at = bisect_left(between.unmerged_leaves, index)
            if at == len(between.unmerged_leaves) or between.unmerged_leaves[at] != index:
                raise InvalidError(f"leaf {index} is unmerged at node {place.node} only", "RFC 9420 12.4.3.1")


def _next_below(place: Place, index: int) -> ParentNode | None:
    """The next parent node that is not blank on the way down from a node to a leaf."""
    subtree = place.subtree
    for height in range(place.level - 1, 0, -1):
        subtree = subtree.children()[index >> height & 1]
        if isinstance(subtree.content, ParentNode):
            return subtree.content
    return None
