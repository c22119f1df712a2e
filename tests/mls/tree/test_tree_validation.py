"""The official tree-validation vectors, and trees that a joiner must refuse (RFC 9420 12.4.3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.credential import X509Credential
from slixmpp_mls.mls.structures.extensions import Extension, RequiredCapabilities
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.leaf_node import CommitSource, KeyPackageSource, LeafNode, Lifetime
from slixmpp_mls.mls.structures.parent_node import AnyNode, ParentNode
from slixmpp_mls.mls.tree.parent_hash import parent_hash, verify_parent_hashes
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex
from slixmpp_mls.mls.tree.tree_validation import verify_tree
from slixmpp_mls.mls.tree.treekem import renew_path
from tests.mls.members import CAPABILITIES, Member, member, members, tree_of
from tests.vectors import load

CASES = load("tree-validation")


def context_of(tree: RatchetTree, group_id: bytes, *extensions: Extension) -> GroupContext:
    return GroupContext(1, tree.suite.id, group_id, 3, tree.tree_hash(), b"", extensions)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_vector(case: dict[str, Any]) -> None:
    suite = CipherSuite.get(case["cipher_suite"])
    encoded = bytes.fromhex(case["tree"])
    tree = RatchetTree.decode(suite, encoded)
    nodes = [NodeIndex(node) for node in range(2 * tree.leaf_count - 1)]
    assert [tree.resolution(node) for node in nodes] == case["resolutions"]
    assert [tree.node_hash(node).hex() for node in nodes] == case["tree_hashes"]
    assert tree.encode() == encoded
    # what is kept from decoding is what comes out of the nodes themselves
    copies = [None if content is None else replace(content) for content in map(tree.node, nodes)]
    assert RatchetTree.from_nodes(suite, copies).tree_hash() == tree.tree_hash()
    verify_tree(tree, context_of(tree, bytes.fromhex(case["group_id"])))


# --- trees that must be refused ---------------------------------------------------------------


def group(count: int = 40) -> tuple[RatchetTree, list[Member]]:
    """A tree with all that a long life leaves in it: chains cut off, blanks, unmerged leaves."""
    people = members(count)
    tree = tree_of(people)
    for sender in (0, 5, 9, 13, 22, 36, 3):
        tree = commit(tree, people, sender)
    for gone in (1, 12, 0):
        tree = tree.remove(LeafIndex(gone))
    tree = commit(tree, people, 14)
    tree = commit(tree, people, 2)
    for number in (100, 101, 102):
        newcomer = member(number)
        tree, index = tree.add(newcomer.leaf)
        people[index] = newcomer
    tree = commit(tree, people, 20)
    assert any(parent.unmerged_leaves for _, parent in tree.parents())
    return tree, people


def small() -> RatchetTree:
    """Four members and no parent node."""
    return tree_of(members(4))


def commit(tree: RatchetTree, people: list[Member], sender: int) -> RatchetTree:
    index = LeafIndex(sender)
    return renew_path(tree, index, tree.member(index), people[sender].signature_key, b"group").tree


def nodes_of(tree: RatchetTree) -> list[AnyNode | None]:
    return [tree.node(NodeIndex(node)) for node in range(2 * tree.leaf_count - 1)]


def refused(tree: RatchetTree, context: GroupContext, section: str, **kwargs: Any) -> None:
    with pytest.raises(InvalidError) as caught:
        verify_tree(tree, context, **kwargs)
    assert caught.value.section == section


def test_long_lived_tree_is_accepted() -> None:
    tree, _ = group()
    for threads in (1, 2):
        received = RatchetTree.decode(tree.suite, tree.encode())
        assert verify_tree(received, context_of(tree, b"group"), threads=threads) is received


def test_12_4_3_1_tree_hash() -> None:
    tree = small()
    refused(tree.remove(LeafIndex(2)), context_of(tree, b"group"), "RFC 9420 12.4.3.1")


def test_12_4_3_1_cipher_suite() -> None:
    tree, _ = group()
    refused(tree, replace(context_of(tree, b"group"), cipher_suite=3), "RFC 9420 12.4.3.1")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("index", [2, 39])
def test_7_3_signature_of_a_leaf(index: int, threads: int) -> None:
    tree, _ = group()
    leaf = tree.member(index)
    nodes = nodes_of(tree)
    nodes[2 * index] = replace(leaf, signature=leaf.signature[:-1] + bytes([leaf.signature[-1] ^ 1]))
    # which is in the trees hashed into parent hashes too: undo these
    bare = RatchetTree.from_nodes(tree.suite, [node if isinstance(node, LeafNode) else None for node in nodes])
    refused(bare, context_of(bare, b"group"), "RFC 9420 5.1.2", threads=threads)


def test_7_2_signature_covers_group_and_index() -> None:
    tree, people = group()
    refused(tree, context_of(tree, b"another group"), "RFC 9420 5.1.2")
    leaf = people[4].updated(b"group", 4)
    moved = tree_of(people[:3]).update(LeafIndex(1), leaf)
    refused(moved, context_of(moved, b"group"), "RFC 9420 5.1.2")
    in_place = tree_of(people[:5]).update(LeafIndex(4), leaf)
    verify_tree(in_place, context_of(in_place, b"group"))


def test_remembered_signatures_are_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, _ = group()
    context = context_of(tree, b"group")
    verified: list[bytes] = []
    verify = CipherSuite.verify_with_label

    def counting(self: CipherSuite, public: bytes, label: str, content: bytes, signature: bytes) -> None:
        verified.append(public)
        verify(self, public, label, content, signature)

    monkeypatch.setattr(CipherSuite, "verify_with_label", counting)
    remembered: set[bytes] = set()
    verify_tree(tree, context, remembered=remembered)
    assert len(verified) == len(set(verified)) == tree.member_count
    verify_tree(tree, context, remembered=remembered)
    assert len(verified) == tree.member_count
    # another group's id: those that depend on it are verified, and refused
    refused(tree, replace(context, group_id=b"other"), "RFC 9420 5.1.2", remembered=remembered)


def test_bad_signatures_are_not_remembered() -> None:
    tree, _ = group()
    remembered: set[bytes] = set()
    refused(tree, context_of(tree, b"other"), "RFC 9420 5.1.2", remembered=remembered)
    assert not remembered


def changed_parent(node: int, change: Callable[[ParentNode], ParentNode | None]) -> RatchetTree:
    tree, _ = group()
    nodes = nodes_of(tree)
    parent = nodes[node]
    assert isinstance(parent, ParentNode)
    nodes[node] = change(parent)
    return RatchetTree.from_nodes(tree.suite, nodes)


def parents_of_group() -> list[int]:
    return [node for node, _ in group()[0].parents()]


@pytest.mark.parametrize("node", parents_of_group())
def test_7_9_2_every_parent_node_is_parent_hash_valid(node: int) -> None:
    fresh = CipherSuite.get(1).generate_key_pair().public
    for change in (
        lambda parent: replace(parent, encryption_key=fresh),
        lambda parent: replace(parent, parent_hash=bytes(32)),
    ):
        tree = changed_parent(node, change)
        refused(tree, context_of(tree, b"group"), "RFC 9420 7.9.2")


def test_7_9_2_unmerged_leaves_left_out() -> None:
    tree, _ = group()
    # The lowest: those above still list the leaf, so that it is 12.4.3.1 or 7.9.2 that is broken.
    for node, parent in tree.parents():
        if parent.unmerged_leaves:
            without = changed_parent(node, lambda held: replace(held, unmerged_leaves=()))
            with pytest.raises(InvalidError):
                verify_tree(without, context_of(without, b"group"))


def test_7_9_2_parent_node_that_an_outsider_chose() -> None:
    """A node that no member's leaf speaks of."""
    tree = small()
    nodes = nodes_of(tree)
    nodes[1] = ParentNode(tree.suite.generate_key_pair().public, b"")
    forged = RatchetTree.from_nodes(tree.suite, nodes)
    refused(forged, context_of(forged, b"group"), "RFC 9420 7.9.2")


def test_12_4_3_1_unmerged_at_a_node_and_not_at_one_between() -> None:
    """A committer that claims a leaf of the other half to be unmerged; the parent hashes do fit."""
    people = members(4)
    suite = people[0].suite
    tree = commit(tree_of(people), people, 2)
    nodes = nodes_of(tree)
    original = RatchetTree.from_nodes(suite, nodes[:6]).node_hash(NodeIndex(5))  # as if leaf 3 had not been added
    low, top = suite.generate_key_pair().public, suite.generate_key_pair().public
    above = parent_hash(suite, top, b"", original)
    source = CommitSource(parent_hash(suite, low, above, tree.node_hash(NodeIndex(2))))
    nodes[0] = people[0].updated(b"group", 0, source=source)
    nodes[1] = ParentNode(low, above)
    nodes[3] = ParentNode(top, b"", (3,))
    forged = RatchetTree.from_nodes(suite, nodes)
    verify_parent_hashes(forged)
    refused(forged, context_of(forged, b"group"), "RFC 9420 12.4.3.1")


def test_5_1_1_keys_that_are_none() -> None:
    people = members(3)
    people[1] = people[1].changed(encryption_key=bytes(32))
    tree = tree_of(people)
    refused(tree, context_of(tree, b"group"), "RFC 9420 5.1.1")


def test_5_1_1_key_of_a_parent_node_that_is_none() -> None:
    people = members(2)
    tree = tree_of(people)
    source = CommitSource(parent_hash(tree.suite, bytes(32), b"", tree.node_hash(NodeIndex(2))))
    first = people[0].updated(b"group", 0, source=source)
    forged = RatchetTree.from_nodes(tree.suite, [first, ParentNode(bytes(32), b""), people[1].leaf])
    refused(forged, context_of(forged, b"group"), "RFC 9420 5.1.1")


def test_7_3_required_capabilities_of_every_leaf() -> None:
    tree = small()
    for required in (
        RequiredCapabilities(extension_types=(0xF000,)),
        RequiredCapabilities(proposal_types=(0xF000,)),
        RequiredCapabilities(credential_types=(2,)),
    ):
        refused(tree, context_of(tree, b"group", required.extension()), "RFC 9420 12.1.7")
    default = RequiredCapabilities(extension_types=(1, 5), proposal_types=(1, 7), credential_types=(1,))
    verify_tree(tree, context_of(tree, b"group", default.extension()))


def test_13_4_extensions_of_the_group_are_supported() -> None:
    tree = small()
    refused(tree, context_of(tree, b"group", Extension(0xF000, b"")), "RFC 9420 12.1.7")


def test_7_3_credential_types_are_supported_by_all() -> None:
    people = members(3)
    both = replace(CAPABILITIES, credentials=(1, 2))
    people[2] = people[2].changed(credential=X509Credential(()), capabilities=both)
    tree = tree_of(people)
    refused(tree, context_of(tree, b"group"), "RFC 9420 7.3")
    people = [person.changed(capabilities=both) for person in people]
    tree = tree_of(people)
    verify_tree(tree, context_of(tree, b"group"))


def test_7_3_expired_leaves_do_not_matter_in_a_tree() -> None:
    people = members(3)
    people[1] = people[1].changed(source=KeyPackageSource(Lifetime(0, 1)))
    tree = tree_of(people)
    verify_tree(tree, context_of(tree, b"group"))


def test_7_2_a_lifetime_longer_than_the_application_allows_is_refused_in_a_tree() -> None:
    people = members(3)
    tree = tree_of(people)
    verify_tree(tree, context_of(tree, b"group"), lifetime_limit=28 * 86400)
    people[1] = people[1].changed(source=KeyPackageSource(Lifetime(0, 90 * 86400 + 1)))
    tree = tree_of(people)
    verify_tree(tree, context_of(tree, b"group"))
    refused(tree, context_of(tree, b"group"), "RFC 9420 7.2", lifetime_limit=90 * 86400)
    people[1] = people[1].changed(source=KeyPackageSource(Lifetime(2, 1)))
    tree = tree_of(people)
    refused(tree, context_of(tree, b"group"), "RFC 9420 7.3", lifetime_limit=90 * 86400)


def test_parent_hash_of_a_leaf_need_not_fit_the_present_path() -> None:
    """Figure of appendix B: B's chain is cut off where C committed later."""
    people = members(4)
    tree = tree_of(people[:1])
    tree = commit(tree.add(people[1].leaf)[0], people, 0)
    tree = commit(tree.apply({}, (), [people[2].leaf, people[3].leaf])[0], people, 1)
    tree = commit(tree, people, 2)
    assert isinstance(tree.member(1).source, CommitSource)
    verify_tree(tree, context_of(tree, b"group"))
