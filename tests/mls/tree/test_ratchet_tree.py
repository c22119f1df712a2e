"""The ratchet tree against a naive model, and what it refuses (RFC 9420 7, 12.4.3.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, MalformedError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.credential import BasicCredential, type_of
from slixmpp_mls.mls.structures.leaf_node import Capabilities, CommitSource, KeyPackageSource, LeafNode, Lifetime
from slixmpp_mls.mls.structures.parent_node import AnyNode, ParentNode, RatchetTreeExtension
from slixmpp_mls.mls.tree import ratchet_tree, stored_nodes, subtree
from slixmpp_mls.mls.tree.hash_records import PART
from slixmpp_mls.mls.tree.parent_hash import verify_parent_hashes
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.stored_nodes import decoded as stored_nodes_decoded
from slixmpp_mls.mls.tree.subtree import covering_nodes, resolution, resolution_size, size_without
from slixmpp_mls.mls.tree.tree_index import Feature
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex, direct_path, node_of
from slixmpp_mls.mls.tree.tree_validation import check_unmerged_leaves
from slixmpp_mls.mls.varint import encode_varint

from .naive_tree import NaiveTree

SUITE = CipherSuite.get(1)


def fake_leaf(number: int, **fields: object) -> LeafNode:
    """A leaf whose keys are made up: for what looks at no signature."""
    leaf = LeafNode(
        encryption_key=(b"enc" + number.to_bytes(4, "big")).ljust(32, b"."),
        signature_key=b"sig" + number.to_bytes(4, "big"),
        credential=BasicCredential(b"%d" % number),
        capabilities=Capabilities((1,), (1,), (), (number % 3 + 100,), (1,)),
        source=KeyPackageSource(Lifetime(0, 1)),
        extensions=(),
        signature=b"signature",
    )
    return replace(leaf, **fields)  # type: ignore[arg-type]


class History:
    """The tree and its model, through the same operations."""

    def __init__(self) -> None:
        self.count = 0
        first = self.leaf()
        self.model = NaiveTree(SUITE, first)
        self.tree = RatchetTree.single(SUITE, first)
        self.members = {0}

    def leaf(self) -> LeafNode:
        self.count += 1
        return fake_leaf(self.count)

    def pick(self, choice: int) -> LeafIndex:
        return LeafIndex(sorted(self.members)[choice % len(self.members)])

    def step(self, operation: str, choice: int) -> None:
        if operation == "add":
            leaf = self.leaf()
            self.tree, index = self.tree.add(leaf)
            assert index == self.model.add(leaf)
            self.members.add(index)
        elif operation == "update":
            index, leaf = self.pick(choice), self.leaf()
            self.tree = self.tree.update(index, leaf)
            self.model.update(index, leaf)
        elif operation == "remove" and len(self.members) > 1:
            index = self.pick(choice)
            self.tree = self.tree.remove(index)
            self.model.remove(index)
            self.members.remove(index)
        elif operation == "path":
            index = self.pick(choice)
            path = self.tree.filtered_direct_path(index)
            assert [(node, beside.node) for node, beside in path] == self.model.filtered(index)
            self.count += 1
            keys = [(b"%d-%d" % (self.count, node)).ljust(32, b".") for node, _ in path]
            leaf = self.model.send_path(index, self.leaf(), keys)
            parents = {node: self.model.nodes[node] for node, _ in path}
            self.tree = self.tree.set_path(index, leaf, parents)  # type: ignore[arg-type]
        elif operation == "mixed":
            # one Commit's worth: an update, two removals, three additions
            members = sorted(self.members)
            updated = members[choice % len(members)]
            removed = [index for index in (members[0], members[-1]) if index != updated][: len(members) - 1]
            update, adds = self.leaf(), [self.leaf() for _ in range(choice % 4)]
            self.tree, indices = self.tree.apply({LeafIndex(updated): update}, [LeafIndex(i) for i in removed], adds)
            self.model.update(updated, update)
            for gone in removed:
                self.model.remove(gone)
            assert indices == [self.model.add(leaf) for leaf in adds]
            self.members = self.members.difference(removed).union(indices)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "update", "remove", "path", "path", "mixed"]), st.integers(0, 1000)),
    min_size=15,
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_histories_against_the_model(operations: list[tuple[str, int]]) -> None:
    history = History()
    stored = history.tree.pieces()
    kept: list[tuple[RatchetTree, bytes]] = []
    for operation, choice in operations:
        if choice % 4 == 0:  # a restart, whatever has been looked at since the last one
            history.tree = RatchetTree.restore(SUITE, stored)
        before, members = history.tree, history.members.copy()
        kept.append((before, before.encode()))
        history.step(operation, choice)
        tree, model = history.tree, history.model
        # content, hashes, width
        assert tree.leaf_count == model.width
        assert [tree.node(NodeIndex(i)) for i in range(len(model.nodes))] == model.nodes
        assert tree.tree_hash() == model.root_hash()  # incremental == recomputed
        assert tree.encode() == model.encode()
        for node in range(len(model.nodes)):
            assert tree.resolution(NodeIndex(node)) == model.resolution(NodeIndex(node))
        # who is told a path's secrets, and where in it: without making the list, and without those just added
        check_covering(tree, history.pick(choice), frozenset())
        check_covering(tree, history.pick(choice), history.members - members)
        # the tree of any honest history can be joined, however its chains were cut (7.9.2, 12.4.3.1)
        verify_parent_hashes(tree)
        check_unmerged_leaves(tree)
        assert all(model.parent_hash_links(node) == 1 for node, _ in tree.parents())
        # pieces: what changed, and nothing else
        changes = tree.changes_since(before)
        for name, piece in changes.items():
            if piece is None:
                del stored[name]
            else:
                stored[name] = piece
        assert stored == tree.pieces()
        assert before.changes_since(tree).keys() == changes.keys()
        check_index(tree)
    # values: what was before is still there
    assert [(tree, tree.encode()) for tree, _ in kept] == kept
    restored = RatchetTree.restore(SUITE, stored)
    assert restored.tree_hash() == history.tree.tree_hash()
    assert restored.leaf_count == history.tree.leaf_count
    assert restored.encode() == history.tree.encode()
    assert restored.pieces() == stored
    check_index(restored)
    assert RatchetTree.decode(SUITE, history.tree.encode()).tree_hash() == history.tree.tree_hash()


def check_covering(tree: RatchetTree, sender: LeafIndex, added: Set[int]) -> None:
    without = sorted(map(LeafIndex, added))
    for _, place in tree.filtered_direct_path(sender):
        covering = [node for node, _ in resolution(place, without)]
        assert size_without(place, without) == len(covering)
        assert resolution_size(place.subtree) == len(resolution(place))
        for index, _ in tree.members():
            if place.above(index) and index not in without:
                path = {node_of(index), *direct_path(node_of(index), tree.leaf_count)}
                expected = [(number, node) for number, node in enumerate(covering) if node in path]
                assert covering_nodes(place, index, without) == expected


def check_index(tree: RatchetTree) -> None:
    members = list(tree.members())
    assert tree.member_count == len(members)
    for index, leaf in members:
        assert tree.leaf_by_signature_key(leaf.signature_key) == index
        assert tree.node_by_encryption_key(leaf.encryption_key) == node_of(index)
    for place, parent in tree.parents():
        assert tree.node_by_encryption_key(parent.encryption_key) == place
    assert len(tree._index.encryption_keys) == len(members) + len(list(tree.parents()))
    assert len(tree._index.signature_keys) == len(members)
    assert tree.credential_types() == {type_of(leaf.credential) for _, leaf in members}
    proposals = Counter(number for _, leaf in members for number in leaf.capabilities.proposals)
    for number in (100, 101, 102):
        assert tree.supported_by_all(Feature.PROPOSAL, number) == (proposals[number] == len(members))


def test_nodes_from_a_store_are_decoded_when_somebody_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart costs no decoding, a Commit that of the nodes on its way, and what is walked over is not kept."""
    history = History()
    for number in range(63):
        history.step("add", number)
    for number in range(40):
        history.step("path", 7 * number)
    decoded: list[bytes] = []

    def counted(octets: bytes) -> AnyNode:
        decoded.append(octets)
        return stored_nodes_decoded(octets)

    monkeypatch.setattr(stored_nodes, "decoded", counted)
    stored = history.tree.pieces()
    tree = RatchetTree.restore(SUITE, stored)
    assert tree.tree_hash() == history.tree.tree_hash()
    assert tree.pieces() == stored
    assert tree.encode() == history.tree.encode()
    assert tree.supported_by_all(Feature.PROPOSAL, 100) is False
    assert tree.member_count == 64
    assert decoded == []
    assert [outline.signature_key for _, outline in tree.outlines()] == [
        leaf.signature_key for _, leaf in history.tree.members()
    ]
    tree, history.tree = (each.update(LeafIndex(5), fake_leaf(1000)) for each in (tree, history.tree))
    assert tree.tree_hash() == history.tree.tree_hash()
    assert len(decoded) == 7  # the leaf and six nodes above it
    assert tree.member(9) is tree.member(9)
    assert len(decoded) == 8


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({b"\0\0\0\0": b"\x02" + bytes(3)}, id="a parent node where a leaf should be"),
        pytest.param({b"\0\0\0\1": b"\x01" + bytes(3)}, id="a leaf where a parent node should be"),
        pytest.param({b"\0\0\0\0": b""}, id="nothing"),
        pytest.param({b"\0": b"\x01" + bytes(3)}, id="a node twice"),
    ],
)
def test_a_damaged_store_is_no_tree(damage: dict[bytes, bytes]) -> None:
    history = History()
    history.step("add", 0)
    with pytest.raises(InvalidError):
        RatchetTree.restore(SUITE, history.tree.pieces() | damage)
    with pytest.raises(InvalidError, match="without members"):
        RatchetTree.restore(SUITE, {})


def test_a_damaged_node_is_an_error_when_it_is_read() -> None:
    history = History()
    history.step("add", 0)
    tree = RatchetTree.restore(SUITE, history.tree.pieces() | {b"\0\0\0\2": b"\x01\x20too short"})
    assert tree.member(0) == history.tree.member(0)
    with pytest.raises(InvalidError, match="stored node"):
        tree.member(1)


def test_a_leaf_that_is_missing_in_a_damaged_store_is_an_error_when_its_key_is_read() -> None:
    """RFC 9420 12.4.3.1: an unmerged leaf is not blank."""
    parents = {node: ParentNode(b"%032d" % node, b"") for node, _ in WIDE.filtered_direct_path(LeafIndex(3))}
    tree, indices = WIDE.set_path(LeafIndex(3), fake_leaf(3000), parents).apply({}, (), [fake_leaf(4000)])
    pieces = tree.pieces()
    del pieces[node_of(indices[0]).to_bytes(4, "big")]
    damaged = RatchetTree.restore(SUITE, pieces)
    with pytest.raises(InvalidError, match="unmerged and blank"):
        resolution(damaged.place(NodeIndex(damaged.leaf_count - 1)))


def test_the_resolution_of_a_large_tree_decodes_no_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first path in a group is encrypted to all of its members."""
    plain = WIDE
    for index in (3, 100):
        parents = {node: ParentNode(b"%032d" % node, b"") for node, _ in plain.filtered_direct_path(LeafIndex(index))}
        plain = plain.set_path(LeafIndex(index), fake_leaf(3000 + index), parents)
    plain, indices = plain.apply({}, (), [fake_leaf(4000), fake_leaf(4001)])
    tree = RatchetTree.restore(SUITE, plain.pieces())
    decoded: list[bytes] = []

    def counted(octets: bytes) -> AnyNode:
        decoded.append(octets[:1])
        return stored_nodes_decoded(octets)

    monkeypatch.setattr(stored_nodes, "decoded", counted)
    for without in ((), indices):
        for (_, here), (_, there) in zip(
            tree.filtered_direct_path(LeafIndex(299)), plain.filtered_direct_path(LeafIndex(299)), strict=True
        ):
            assert resolution(here, without) == resolution(there, without)
            assert here.subtree.left is None
    assert set(decoded) == {b"\2"}


def test_of_leaves_that_are_read_the_last_ones_stay_decoded() -> None:
    tree = RatchetTree.restore(SUITE, WIDE.pieces())
    leaf = tree.member(0)
    assert tree.member(0) is leaf
    for index, each in WIDE.members():
        assert tree.member(index) == each
    assert tree.member(0) == leaf
    assert tree.member(0) is not leaf
    assert tree._root.left is None  # nothing was made on the way


def test_leaves_go_to_the_leftmost_blank_and_0_is_one() -> None:
    tree, _ = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(i) for i in range(1, 6)])
    tree = tree.remove(LeafIndex(3)).remove(LeafIndex(0))
    assert [index for index, _ in tree.members()] == [1, 2, 4, 5]
    assert tree.leaf(0) is None
    assert tree.with_room() == (tree, 0)
    tree, first = tree.add(fake_leaf(10))
    tree, second = tree.add(fake_leaf(11))
    tree, third = tree.add(fake_leaf(12))
    assert [first, second, third] == [0, 3, 6]
    assert tree.leaf_by_signature_key(fake_leaf(10).signature_key) == 0
    assert tree.node_by_encryption_key(fake_leaf(10).encryption_key) == 0


def test_what_is_outside_the_tree_is_blank() -> None:
    tree = RatchetTree.single(SUITE, fake_leaf(0))
    for index in (-1, 1, 2**32):
        assert tree.leaf(index) is None
        with pytest.raises(InvalidError):
            tree.member(index)


def test_12_1_3_remove_of_a_blank_leaf() -> None:
    tree, _ = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(1), fake_leaf(2)])
    for index in (3, 4, 2**32 - 1):
        with pytest.raises(InvalidError):
            tree.remove(LeafIndex(index))
        with pytest.raises(InvalidError):
            tree.update(LeafIndex(index), fake_leaf(9))


def test_7_3_keys_are_unique() -> None:
    tree, _ = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(1)])
    before = tree.encode()
    for same in ({"encryption_key": fake_leaf(0).encryption_key}, {"signature_key": fake_leaf(0).signature_key}):
        leaf = fake_leaf(2, **same)
        with pytest.raises(InvalidError) as caught:
            tree.add(leaf)
        assert caught.value.section == "RFC 9420 7.3"
        with pytest.raises(InvalidError):
            tree.update(LeafIndex(1), leaf)
        # the key may come back in the Commit that takes its first holder out
        replaced, _ = tree.apply({}, [LeafIndex(0)], [leaf])
        assert replaced.leaf(0) == leaf
    # two members may exchange their signature keys in one Commit
    swapped, _ = tree.apply(
        {
            LeafIndex(0): fake_leaf(3, signature_key=fake_leaf(1).signature_key),
            LeafIndex(1): fake_leaf(4, signature_key=fake_leaf(0).signature_key),
        },
        [],
        [],
    )
    assert swapped.leaf_by_signature_key(fake_leaf(1).signature_key) == 0
    assert tree.encode() == before


def test_12_4_3_1_parent_key_is_unique() -> None:
    tree, _ = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(1), fake_leaf(2), fake_leaf(3)])
    with pytest.raises(InvalidError):
        tree.set_path(LeafIndex(0), fake_leaf(5), {NodeIndex(1): ParentNode(fake_leaf(2).encryption_key, b"")})


# --- decoding ---------------------------------------------------------------------------------


def encoded(nodes: list[AnyNode | None]) -> bytes:
    return RatchetTreeExtension(tuple(nodes)).encode()


def test_extension_is_the_same_octets() -> None:
    tree, _ = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(i) for i in range(1, 5)])
    tree = tree.set_path(LeafIndex(1), fake_leaf(9), {NodeIndex(1): ParentNode(b"key".ljust(32), b"", ())})
    content = RatchetTreeExtension.decode(tree.encode())
    assert content.encode() == tree.encode()
    assert [tree.node(NodeIndex(i)) for i in range(9)] == list(content.ratchet_tree)


def test_12_4_3_3_trailing_blank() -> None:
    for nodes in ([fake_leaf(0), None], [fake_leaf(0), None, None], [None], []):
        with pytest.raises(InvalidError) as caught:
            RatchetTree.decode(SUITE, encoded(nodes))  # type: ignore[arg-type]
        assert caught.value.section == "RFC 9420 12.4.3.3"


def test_12_4_3_3_kinds_of_nodes_alternate() -> None:
    parent = ParentNode(b"key".ljust(32), b"")
    for nodes in ([parent], [fake_leaf(0), fake_leaf(1)], [fake_leaf(0), None, parent]):
        with pytest.raises(InvalidError) as caught:
            RatchetTree.decode(SUITE, encoded(nodes))  # type: ignore[arg-type]
        assert caught.value.section == "RFC 9420 12.4.3.3"


def test_12_4_3_3_extended_to_a_full_tree() -> None:
    tree = RatchetTree.decode(SUITE, encoded([fake_leaf(0), None, None, None, None, None, None, None, fake_leaf(1)]))
    assert (tree.leaf_count, tree.member_count) == (8, 2)


def test_7_1_unmerged_leaves_are_sorted() -> None:
    for unmerged in ((1, 0), (1, 1)):
        with pytest.raises(InvalidError) as caught:
            RatchetTree.from_nodes(SUITE, [fake_leaf(0), ParentNode(b"key".ljust(32), b"", unmerged), fake_leaf(1)])
        assert caught.value.section == "RFC 9420 7.1"


def test_7_1_more_unmerged_leaves_than_there_are_below() -> None:
    """Found as soon as the node is read: a tree of the largest size has room for 33 million of them."""
    nodes: list[AnyNode | None] = [fake_leaf(0), ParentNode(b"key".ljust(32), b"", (0, 1, 2)), fake_leaf(1)]
    with pytest.raises(InvalidError) as caught:
        RatchetTree.decode(SUITE, encoded(nodes))
    assert caught.value.section == "RFC 9420 7.1"


def test_12_4_3_1_unmerged_leaf_is_a_member_below() -> None:
    leaves: list[LeafNode | ParentNode | None] = [fake_leaf(0), None, fake_leaf(1), None, fake_leaf(2), None, None]
    for place, unmerged in ((1, (2,)), (5, (3,)), (5, (0,)), (3, (2**32 - 1,))):
        nodes = list(leaves)
        nodes[place] = ParentNode(b"key".ljust(32), b"", unmerged)
        with pytest.raises(InvalidError) as caught:
            RatchetTree.from_nodes(SUITE, nodes)
        assert caught.value.section == "RFC 9420 12.4.3.1"


def test_12_4_3_1_unmerged_at_every_node_between() -> None:
    nodes: list[AnyNode | None] = [
        fake_leaf(0),
        ParentNode(b"low".ljust(32), b""),
        fake_leaf(1),
        ParentNode(b"high".ljust(32), b"", (1,)),
    ]
    nodes += [fake_leaf(2)]
    with pytest.raises(InvalidError) as caught:
        check_unmerged_leaves(RatchetTree.from_nodes(SUITE, nodes))
    assert caught.value.section == "RFC 9420 12.4.3.1"
    nodes[1] = ParentNode(b"low".ljust(32), b"", (0, 1))  # it may list more
    check_unmerged_leaves(RatchetTree.from_nodes(SUITE, nodes))


def test_7_9_2_parent_without_members_below() -> None:
    nodes = [fake_leaf(0), None, None, None, None, ParentNode(b"key".ljust(32), b"")]
    with pytest.raises(InvalidError) as caught:
        RatchetTree.from_nodes(SUITE, nodes)
    assert caught.value.section == "RFC 9420 7.9.2"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x01\x02",  # presence 2
        b"\x02\x01\x03",  # type of node 3
        b"\x02\x01\x01",  # a leaf that ends at once
        b"\x00\x00",  # something behind the vector
        b"\x40\x00",  # a length that is not in its shortest form
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        RatchetTree.decode(SUITE, data)


def test_width_is_limited() -> None:
    nodes = [node for i in range(5) for node in (fake_leaf(i), None)][:-1]
    assert RatchetTree.decode(SUITE, encoded(nodes), max_leaves=8).member_count == 5  # type: ignore[arg-type]
    with pytest.raises(MalformedError):
        RatchetTree.decode(SUITE, encoded(nodes), max_leaves=4)  # type: ignore[arg-type]
    blanks = 2**20
    with pytest.raises(MalformedError):
        RatchetTree.decode(SUITE, encode_varint(2 * blanks) + bytes(2 * blanks))


def test_beyond_32768_leaves() -> None:
    count = 2**15 + 3
    tree, indices = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(i) for i in range(1, count)])
    assert indices[-1] == count - 1
    assert tree.leaf_count == 2**16
    last = LeafIndex(count - 1)
    leaf = fake_leaf(count + 1, source=CommitSource(b""))
    changed = tree.set_path(last, leaf, {NodeIndex(2**16 - 1): ParentNode(b"k".ljust(32), b"")})
    assert changed.changes_since(tree).keys() == {(2 * last).to_bytes(4, "big"), (2**16 - 1).to_bytes(4, "big")}
    assert changed.leaf_by_signature_key(fake_leaf(count + 1).signature_key) == last
    assert RatchetTree.decode(SUITE, changed.encode()).tree_hash() == changed.tree_hash()
    assert tree.remove(last).remove(LeafIndex(last - 1)).remove(LeafIndex(last - 2)).leaf_count == 2**15


WIDE = RatchetTree.from_nodes(
    SUITE, [None if index % 2 or index % 14 == 4 else fake_leaf(index) for index in range(2 * 300 - 1)]
)
"""A tree that is wide enough for records of its hashes; every seventh leaf is blank."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add 1", "add 40", "add 300", "remove 1", "remove 60", "remove the right half", "path"]),
        st.integers(0, 1000),
        st.sampled_from(
            ["written", "not written", "written, then compact", "restarted", "restarted from a store of before"]
        ),
    ),
    min_size=1,
    max_size=10,
)


def step_of(tree: RatchetTree, operation: str, choice: int, number: int) -> RatchetTree:
    verb, _, what = operation.partition(" ")
    members = [index for index, _ in tree.members()]
    at = members[choice % len(members)]
    if verb == "add":
        return tree.apply({}, (), [fake_leaf(10_000 * number + 1000 + each) for each in range(int(what))])[0]
    if verb == "path":
        key = b"%d-%d"
        parents = {
            node: ParentNode((key % (number, node)).ljust(32, b"."), b"", ())
            for node, _ in tree.filtered_direct_path(at)
        }
        return tree.set_path(at, fake_leaf(10_000 * number), parents)
    half = [index for index in members if index >= tree.leaf_count // 2]
    gone = half if what == "the right half" else sorted(members, key=lambda index: index * (choice + 7) % 1009)
    gone = gone if what == "the right half" else gone[: int(what)]
    return tree.apply({}, gone, ())[0] if 0 < len(gone) < len(members) else tree


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_records_of_hashes_in_histories(steps: list[tuple[str, int, str]]) -> None:
    """They are written as differences, and tell a restarted client what it would have computed.

    A tree that has been made compact at some points is equal to one that never was, in what it holds and in what it
    writes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_nodes, "PIECE", 6)
        patch.setattr(stored_nodes, "_FEWEST", 16)
        tree = written = plain = plainly_written = WIDE
        stored, records, complete = tree.pieces(), tree.hash_records(), True
        for number, (operation, choice, after) in enumerate(steps, 1):
            tree, plain = (step_of(each, operation, choice, number) for each in (tree, plain))
            if choice % 3 == 0:
                tree = tree.compact()  # before it has been hashed and written
            expected = RatchetTree.restore(SUITE, plain.pieces()).tree_hash()  # without records
            assert tree.tree_hash() == plain.tree_hash() == expected
            assert tree.encode() == plain.encode()
            if choice % 3 == 1:
                tree = tree.compact()  # before it has been written
            if after == "not written":
                continue
            assert tree.changes_since(written) == plain.changes_since(plainly_written)
            if complete:
                assert tree.hash_record_changes_since(written) == plain.hash_record_changes_since(plainly_written)
            for kept, changes in (
                (stored, tree.changes_since(written)),
                (records, tree.hash_record_changes_since(written)),
            ):
                for name, value in changes.items():
                    if value is None:
                        del kept[name]
                    else:
                        kept[name] = value
            assert stored == tree.pieces()
            assert records == tree.hash_records() or tree is written  # what does not change is not written
            complete = after != "restarted from a store of before"
            if not complete:
                records = {}
            if after.startswith("restarted"):
                tree = RatchetTree.restore(SUITE, stored, records)
                assert tree.tree_hash() == expected
            if after == "written, then compact":
                tree = tree.compact()
            written, plainly_written = tree, plain
        check_index(tree)
        for node in range(0, 2 * tree.leaf_count - 1, 7):
            assert tree.node(NodeIndex(node)) == plain.node(NodeIndex(node))
        for node in range((1 << PART) - 1, 2 * tree.leaf_count - 1, 2 << PART):
            assert tree.node_hash(NodeIndex(node)) == plain.node_hash(NodeIndex(node))
            assert tree.resolution(NodeIndex(node)) == plain.resolution(NodeIndex(node))


def test_a_tree_becomes_compact_piece_by_piece() -> None:
    """Where as many nodes have come by Commits as there are members; the others, and small trees, stay as they are."""
    lone = RatchetTree.single(SUITE, fake_leaf(0))
    small = lone.apply({}, (), [fake_leaf(number) for number in range(1, 128)])[0]
    assert small.compact() is small
    grown = lone.apply({}, (), [fake_leaf(number) for number in range(1, 3000)])[0]
    grown.tree_hash()
    tree = grown.compact()
    assert tree._root.loose < 8  # what is above pieces of 1,024 leaves
    assert tree.compact() is tree
    assert tree.changes_since(grown) == {} == grown.changes_since(tree)
    assert tree.hash_record_changes_since(grown) == {} == grown.hash_record_changes_since(tree)
    for number in range(40):
        tree = tree.update(LeafIndex(number % 2), fake_leaf(5000 + number))
        assert tree.compact() is tree
    later = tree
    for number in range(1024, 1600):
        later = later.update(LeafIndex(number), fake_leaf(6000 + number))
    later.tree_hash()
    compact = later.compact()
    left, left_before = (each._root.children()[0].children()[0] for each in (compact, later))
    assert left is left_before
    right, right_before = (each._root.children()[0].children()[1] for each in (compact, later))
    assert (right.loose, right_before.loose > 1024) == (0, True)
    assert compact.encode() == later.encode()
    assert compact.changes_since(later) == {}
    assert len(compact.changes_since(tree)) == 1600 - 1024


def test_what_is_known_of_hashes_is_known_of_the_compact_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(number) for number in range(1, 2000)])[0]
    expected = tree.tree_hash()
    hashed: list[int] = []
    leaf_hash = subtree.leaf_hash

    def counted(suite: CipherSuite, index: int, encoded: bytes | None) -> bytes:
        hashed.append(index)
        return leaf_hash(suite, index, encoded)

    monkeypatch.setattr(stored_nodes, "leaf_hash", counted)
    monkeypatch.setattr(subtree, "leaf_hash", counted)
    compact = tree.compact()
    assert compact._root.loose < 4
    assert compact.tree_hash() == expected
    assert compact.hash_records() == tree.hash_records()
    assert hashed == []
    changed = compact.update(LeafIndex(40), fake_leaf(5000))
    changed.tree_hash()
    assert set(hashed) == set(range(32, 48))
    assert changed.tree_hash() == tree.update(LeafIndex(40), fake_leaf(5000)).tree_hash()


def held_octets(tree: RatchetTree) -> int:
    """Octets of all strings of which a tree uses any part."""
    strings: dict[int, int] = {}
    stack = [tree._root]
    while stack:
        part = stack.pop()
        if isinstance(part, stored_nodes.StoredSubtree):
            strings[id(part.nodes)] = len(part.nodes._octets)
        elif part.left is not None and part.right is not None:
            stack += [part.left, part.right]
    return sum(strings.values())


@pytest.mark.parametrize("read", ["from a store", "from octets"])
def test_no_string_stays_for_the_sake_of_another_part(read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where one part is never changed, nor where few members are left."""
    monkeypatch.setattr(stored_nodes, "PIECE", 6)
    monkeypatch.setattr(ratchet_tree, "_LARGE", 0)
    made = RatchetTree.single(SUITE, fake_leaf(0)).apply({}, (), [fake_leaf(number) for number in range(1, 450)])[0]
    tree = RatchetTree.restore(SUITE, made.pieces(), made.hash_records())
    if read == "from octets":
        tree = RatchetTree.decode(SUITE, made.encode())
    assert (tree.tree_hash(), tree.pieces(), tree._root.loose) == (made.tree_hash(), made.pieces(), 0)
    assert [*tree.parents()] == [(place.node, content) for place, content in tree.parent_places()]
    whole = sum(map(len, made.pieces().values()))
    assert held_octets(tree) <= whole
    for number in range(450 - 64):
        tree, made = (each.update(LeafIndex(number), fake_leaf(1000 + number)) for each in (tree, made))
        tree.tree_hash()
        tree = tree.compact()
    assert held_octets(tree) <= 1.1 * whole  # the names are longer than before
    assert (tree.tree_hash(), tree.pieces()) == (made.tree_hash(), made.pieces())
    few = tree.apply({}, [LeafIndex(number) for number in range(8, 450)], ())[0]
    assert held_octets(few) <= whole / 4


@pytest.mark.parametrize("octets", [0, 1 << 30])
@pytest.mark.parametrize("number", range(8))
def test_a_large_tree_is_read_as_a_small_one_is(number: int, octets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nodes stay encoded, and whatever is refused in the one is refused in the other, for the same reason."""
    monkeypatch.setattr(ratchet_tree, "_LARGE", octets)
    key = b"key".ljust(32, b".")
    first, second, third = map(fake_leaf, range(3))
    cases: list[tuple[list[AnyNode | None], str]] = [
        ([first, ParentNode(key, b"", (0, 1)), second, None, third], ""),
        ([first, second], "12.4.3.3"),
        ([first, None, second, None], "12.4.3.3"),
        ([ParentNode(key, b""), None, first], "12.4.3.3"),
        ([first, ParentNode(key, b"", (2,)), second, None, third], "12.4.3.1"),
        ([first, ParentNode(key, b"", (1,)), None, None, third], "12.4.3.1"),
        ([None, ParentNode(key, b""), None, None, third], "7.9.2"),
        ([first, ParentNode(first.encryption_key, b""), second], "7.3"),
    ]
    nodes, section = cases[number]
    if not section:
        tree = RatchetTree.decode(SUITE, encoded(nodes))
        assert [tree.node(NodeIndex(place)) for place in range(5)] == nodes
        assert (tree._root.loose == 0) is (octets == 0)
        assert tree.tree_hash() == RatchetTree.from_nodes(SUITE, nodes).tree_hash()
        check_index(tree)
        return
    with pytest.raises(InvalidError, match=section):
        RatchetTree.decode(SUITE, encoded(nodes))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_the_nodes_are_a_large_tree_is_read_as_a_small_one_is(data: st.DataObject) -> None:
    """Nobody can make a tree that means one thing to those who keep it encoded, and another to the others."""
    kinds = st.sampled_from(["blank", "right", "right", "right", "other", "parent of some"])
    nodes: list[AnyNode | None] = []
    for index, kind in enumerate(data.draw(st.lists(kinds, min_size=1, max_size=18))):
        number = index if data.draw(st.integers(0, 19)) else 0  # sometimes a key that is there already
        parent = ParentNode(b"%032d" % number, b"")
        if kind == "parent of some":
            some = data.draw(st.lists(st.integers(0, 9), max_size=3).map(tuple))
            nodes.append(replace(parent, unmerged_leaves=some) if index % 2 else fake_leaf(number))
        elif kind == "blank":
            nodes.append(None)
        else:
            nodes.append(parent if (index % 2 == 1) is (kind == "right") else fake_leaf(number))
    octets = encoded(nodes)
    read: list[RatchetTree | None] = []
    with pytest.MonkeyPatch.context() as patch:
        for large in (0, 1 << 30):
            patch.setattr(ratchet_tree, "_LARGE", large)
            try:
                read.append(RatchetTree.decode(SUITE, octets))
            except (InvalidError, MalformedError):
                read.append(None)
    first, second = read
    assert (first is None) is (second is None)
    if first is not None and second is not None:
        assert first.encode() == second.encode() == octets
        assert (first.leaf_count, first.member_count) == (second.leaf_count, second.member_count)
        assert first.tree_hash() == second.tree_hash()
        assert first.changes_since(second) == second.changes_since(first) == {}
        assert [first.node(NodeIndex(at)) for at in range(40)] == [second.node(NodeIndex(at)) for at in range(40)]
        check_index(first)


@pytest.mark.parametrize("members", [1, 2, 4])
def test_a_parent_node_behind_all_members_is_the_root_however_large_the_tree(
    members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9420 12.4.3.3: the tree is as wide as its last node says.  No node is passed over, or its hash would not show
    that somebody has appended it."""
    leaves: list[AnyNode | None] = [
        fake_leaf(number // 2) if number % 2 == 0 else None for number in range(2 * members)
    ]
    nodes = [*leaves[:-1], ParentNode(b"key".ljust(32, b"."), b"")]
    expected = RatchetTree.from_nodes(SUITE, nodes)
    monkeypatch.setattr(ratchet_tree, "_LARGE", 0)
    tree = RatchetTree.decode(SUITE, encoded(nodes))
    assert (tree.leaf_count, tree.node(NodeIndex(len(nodes) - 1))) == (2 * members, nodes[-1])
    assert tree.tree_hash() == expected.tree_hash() != RatchetTree.from_nodes(SUITE, nodes[:-1]).tree_hash()
    assert RatchetTree.restore(SUITE, tree.pieces()).tree_hash() == expected.tree_hash()


def test_a_restart_hashes_no_node_that_a_record_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the nodes in parts, only those beside the path of a change are hashed."""
    stored, records = WIDE.pieces(), WIDE.hash_records()
    assert len(records) == 300 // 16 + 1 + 3  # parts; then the blanks at their right, 16 + 64 + 128 leaves
    hashed: list[int] = []
    leaf_hash = subtree.leaf_hash

    def counted(suite: CipherSuite, index: int, encoded: bytes | None) -> bytes:
        hashed.append(index)
        return leaf_hash(suite, index, encoded)

    monkeypatch.setattr(stored_nodes, "leaf_hash", counted)
    tree = RatchetTree.restore(SUITE, stored, records)
    assert tree.tree_hash() == WIDE.tree_hash()
    assert hashed == []
    tree, expected = (each.remove(LeafIndex(40)) for each in (tree, WIDE))
    assert tree.tree_hash() == expected.tree_hash()
    assert sorted(hashed) == [index for index in range(32, 48) if index != 40]


@pytest.mark.parametrize("of_before", [False, True])
def test_a_record_of_other_nodes_tells_nothing(of_before: bool) -> None:
    """Whatever was changed in the store without its record, the tree hash is that of what is there."""
    stored, records = WIDE.pieces(), WIDE.hash_records()
    later = WIDE.remove(LeafIndex(40)).add(fake_leaf(5000))[0].update(LeafIndex(290), fake_leaf(5001))
    if of_before:  # records that were not written with the nodes
        stored = later.pieces()
        expected = later.tree_hash()
    else:  # a node that is damaged
        place = (2 * 40).to_bytes(4, "big")
        stored[place] = stored[place][:-1] + bytes([stored[place][-1] ^ 1])
        expected = RatchetTree.restore(SUITE, stored).tree_hash()
        assert expected != WIDE.tree_hash()
    assert RatchetTree.restore(SUITE, stored, records).tree_hash() == expected
    short = {name: record[:-1] for name, record in records.items()}
    assert RatchetTree.restore(SUITE, stored, short).tree_hash() == expected


def test_small_trees_have_no_records() -> None:
    small = WIDE.apply({}, [index for index, _ in WIDE.members() if index >= 100], ())[0]
    assert small.leaf_count == 128
    assert small.hash_records() == {}
    assert small.hash_record_changes_since(WIDE) == dict.fromkeys(WIDE.hash_records())
    assert WIDE.hash_record_changes_since(small) == WIDE.hash_records()
