"""RFC 9420 appendix C: node arithmetic, against the official vectors and against a tree that is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.mls.tree import tree_math as tm
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex

from ...vectors import load


def or_none(function: Callable[..., int], *arguments: Any) -> int | None:
    try:
        return function(*arguments)
    except ValueError:
        return None


def test_official_vectors() -> None:
    for case in load("tree-math"):
        leaves = case["n_leaves"]
        assert tm.node_count(leaves) == case["n_nodes"]
        assert tm.root(leaves) == case["root"]
        nodes = [NodeIndex(index) for index in range(case["n_nodes"])]
        assert [or_none(tm.left, node) for node in nodes] == case["left"]
        assert [or_none(tm.right, node) for node in nodes] == case["right"]
        assert [or_none(tm.parent, node, leaves) for node in nodes] == case["parent"]
        assert [or_none(tm.sibling, node, leaves) for node in nodes] == case["sibling"]


def trees_and_two_nodes(height: int) -> st.SearchStrategy[tuple[int, int, int]]:
    nodes = st.integers(0, 2 ** (height + 1) - 2)
    return st.tuples(st.just(1 << height), nodes, nodes)


trees = st.integers(0, 31).flatmap(trees_and_two_nodes)


@given(trees)
def test_paths_climb_parent_by_parent(tree: tuple[int, int, int]) -> None:
    leaves, node = tree[0], NodeIndex(tree[1])
    expected, siblings = [], []
    at = node
    while at != tm.root(leaves):
        siblings.append(tm.sibling(at, leaves))
        at = tm.parent(at, leaves)
        expected.append(at)
    assert tm.direct_path(node, leaves) == expected
    assert tm.copath(node, leaves) == siblings
    assert len(expected) == tm.level(tm.root(leaves)) - tm.level(node)


@given(trees)
def test_common_ancestor_is_the_lowest_of_the_shared_path(tree: tuple[int, int, int]) -> None:
    leaves, one, other = tree[0], NodeIndex(tree[1]), NodeIndex(tree[2])
    shared = {one, *tm.direct_path(one, leaves)} & {other, *tm.direct_path(other, leaves)}
    assert tm.common_ancestor(one, other) == min(shared, key=tm.level)


@given(trees)
def test_children_and_siblings_mirror_parents(tree: tuple[int, int, int]) -> None:
    leaves, node = tree[0], NodeIndex(tree[1])
    if tm.is_leaf(node):
        assert tm.node_of(tm.leaf_of(node)) == node
        assert list(tm.leaves_under(node)) == [tm.leaf_of(node)]
    else:
        below, beside = tm.left(node), tm.right(node)
        assert below < node < beside
        assert tm.parent(below, leaves) == tm.parent(beside, leaves) == node
        assert tm.sibling(below, leaves) == beside
        assert tm.leaves_under(node) == range(tm.leaves_under(below).start, tm.leaves_under(beside).stop)
        with pytest.raises(ValueError, match="no leaf"):
            tm.leaf_of(node)


@pytest.mark.parametrize(("wanted", "size"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (50_000, 65_536)])
def test_padded_is_the_next_power_of_two(wanted: int, size: int) -> None:
    assert tm.padded(wanted) == size


def test_leaf_zero_is_a_leaf_like_any_other() -> None:
    """RFC 9420 appendix C: index 0 names a node, it does not mean "none"."""
    assert tm.node_of(LeafIndex(0)) == 0
    assert tm.leaf_of(NodeIndex(0)) == 0
    assert tm.direct_path(NodeIndex(0), 4) == [1, 3]
    assert tm.copath(NodeIndex(0), 4) == [2, 5]
