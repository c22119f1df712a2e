"""The leaves of a group that we enter, decoded when somebody asks for them."""

from __future__ import annotations

import pytest

from slixmpp_mls.client.group.tree_leaves import TreeLeaves, client_of, clients_of
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.testing import World
from tests.mls.group_helpers import bundle

ALICE, BOB, CAROL = "alice@a.example", "bob@b.example", "carol@c.example"


@pytest.mark.parametrize("but", [None, 0, 1, 2])
@pytest.mark.parametrize("stored", [False, True])
def test_all_but_one(but: int | None, stored: bool) -> None:
    alice, *_ = World().group(ALICE, BOB, CAROL)
    tree, roster = alice.group.mls.tree, alice.group.roster
    expected = tuple(leaf for index, leaf in tree.members() if index != but)
    if stored:
        tree = RatchetTree.restore(tree.suite, tree.pieces())
    leaves = TreeLeaves(tree, roster, but)
    assert len(leaves) == len(expected) == (3 if but is None else 2)
    assert tuple(leaves) == expected
    assert (leaves[0], leaves[-1], leaves[1:]) == (expected[0], expected[-1], expected[1:])
    assert leaves[:] == expected
    assert clients_of(leaves) == [client_of(leaf) for leaf in expected] == clients_of(expected)
    assert {client.account for client in leaves.clients()} == {roster.at(i).account for i in range(3) if i != but}
    with pytest.raises(IndexError):
        leaves[3]


def test_a_leaf_that_names_no_client() -> None:
    leaf = bundle("no client").key_package.leaf_node
    assert isinstance(leaf.credential, BasicCredential)
    assert clients_of((leaf,)) == [None]
