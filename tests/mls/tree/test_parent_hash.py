"""Parent hashes against the letter of RFC 9420 7.9, where unmerged leaves make them hard."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.parent_node import ParentNode
from slixmpp_mls.mls.tree.parent_hash import parent_hash, path_parent_hashes, verify_parent_hashes
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex, leaves_under

from .naive_tree import NaiveTree
from .test_ratchet_tree import History, fake_leaf

SUITE = CipherSuite.get(1)


def test_7_9_parent_hash_input() -> None:
    expected = SUITE.hash(b"\x03key" + b"\x00" + b"\x40\x40" + bytes(64))
    assert parent_hash(SUITE, b"key", b"", bytes(64)) == expected


def test_7_9_root_states_an_empty_parent_hash() -> None:
    tree, _ = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(i) for i in range(1, 5)])
    path = tree.filtered_direct_path(LeafIndex(0))
    keys = [b"%d" % node for node, _ in path]
    stated, leaf = path_parent_hashes(tree, path, keys)
    assert stated[-1] == b""
    assert stated[-2] == parent_hash(SUITE, keys[-1], b"", tree.node_hash(path[-1][1].node))
    assert leaf == parent_hash(SUITE, keys[0], stated[0], tree.node_hash(path[0][1].node))


def test_7_5_alone_in_the_group_the_path_is_empty() -> None:
    assert path_parent_hashes(RatchetTree.single(SUITE, fake_leaf(0)), [], []) == ([], b"")


def test_7_9_2_unmerged_leaf_of_the_neighbour_that_the_parent_does_not_list() -> None:
    history = History()
    for _ in range(4):
        history.step("add", 0)
    history.step("remove", 3)
    history.step("path", 0)
    history.step("add", 0)
    nodes = naive(history.tree).nodes
    low, top = nodes[3], nodes[7]
    assert isinstance(low, ParentNode)
    assert isinstance(top, ParentNode)
    assert low.unmerged_leaves == top.unmerged_leaves == (3,)
    assert valid(history.tree)
    nodes[7] = replace(top, unmerged_leaves=())
    forged = RatchetTree.from_nodes(SUITE, nodes)
    assert naive(forged).parent_hash_links(NodeIndex(7)) == 0
    assert not valid(forged)


def naive(tree: RatchetTree) -> NaiveTree:
    model = NaiveTree(SUITE, fake_leaf(0))
    model.nodes = [tree.node(NodeIndex(node)) for node in range(2 * tree.leaf_count - 1)]
    return model


def valid(tree: RatchetTree) -> bool:
    try:
        verify_parent_hashes(tree)
    except InvalidError:
        return False
    return True


# First paths, so that there are parents, then many additions without one: unmerged leaves everywhere.
GROWTH = st.lists(
    st.tuples(st.sampled_from(["add", "add", "path", "remove"]), st.integers(0, 1000)), min_size=12, max_size=60
)
CHANGES = st.tuples(st.integers(0, 1000), st.sampled_from(["key", "parent_hash", "drop", "extra", "blank"]))


@settings(max_examples=300, deadline=None)
@given(GROWTH, CHANGES)
def test_same_verdict_as_the_letter_of_7_9_2(operations: list[tuple[str, int]], change: tuple[int, str]) -> None:
    history = History()
    for operation, choice in operations:
        history.step(operation, choice)
    tree = history.tree
    assert valid(tree)
    parents = list(tree.parents())
    if not parents:
        return
    place, parent = parents[change[0] % len(parents)]
    match change[1]:
        case "key":
            changed: ParentNode | None = replace(parent, encryption_key=b"another key")
        case "parent_hash":
            changed = replace(parent, parent_hash=b"another hash")
        case "drop":
            changed = replace(parent, unmerged_leaves=parent.unmerged_leaves[1:])
        case "extra":
            merged = [i for i, _ in tree.members() if i in leaves_under(place) and i not in parent.unmerged_leaves]
            unmerged = sorted((*parent.unmerged_leaves, merged[change[0] % len(merged)]))
            changed = replace(parent, unmerged_leaves=tuple(unmerged))
        case _:
            changed = None
    nodes = naive(tree).nodes
    nodes[place] = changed
    try:
        forged = RatchetTree.from_nodes(SUITE, nodes)
    except InvalidError:
        return
    model = naive(forged)
    assert valid(forged) == all(model.parent_hash_links(node) == 1 for node, _ in forged.parents())
