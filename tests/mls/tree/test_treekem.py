"""The official treekem vectors, both sides (RFC 9420 7.4 to 7.6), and paths that must be refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from slixmpp_mls.mls.registry import ProtocolVersion
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.leaf_node import CommitSource, UpdateSource, leaf_node_tbs
from slixmpp_mls.mls.structures.update_path import UpdatePath
from slixmpp_mls.mls.tree.parent_hash import path_parent_hashes
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.subtree import resolution
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex, common_ancestor, node_of, root
from slixmpp_mls.mls.tree.treekem import RenewedPath, TreeKEMPrivate, decrypt_path, merge_path, public_path, renew_path
from tests.mls.members import Member, members, tree_of
from tests.vectors import load

CASES = load("treekem")


def joining(
    tree: RatchetTree, index: LeafIndex, key: HPKEPrivateKey, committer: LeafIndex, secret: bytes | None
) -> TreeKEMPrivate:
    """The keys of somebody who joins this tree."""
    above = public_path(tree, committer)
    return TreeKEMPrivate.joining(tree.suite, index, tree.member(index), key, committer, above, secret)


@dataclass
class Situation:
    """One case: a tree, and what each of its members knows."""

    suite: CipherSuite
    tree: RatchetTree
    group_id: bytes
    epoch: int
    transcript_hash: bytes
    private: dict[LeafIndex, TreeKEMPrivate]
    signature_keys: dict[LeafIndex, SignaturePrivateKey]

    @classmethod
    def of(cls, case: dict[str, Any]) -> Situation:
        suite = CipherSuite.get(case["cipher_suite"])
        tree = RatchetTree.decode(suite, bytes.fromhex(case["ratchet_tree"]))
        private = {}
        signature_keys = {}
        for entry in case["leaves_private"]:
            index = LeafIndex(entry["index"])
            leaf_key = suite.import_hpke_key(bytes.fromhex(entry["encryption_priv"]))
            assert leaf_key.public == tree.member(index).encryption_key
            keys = TreeKEMPrivate.of_leaf(index, leaf_key)
            for secret in entry["path_secrets"]:
                key = suite.derive_key_pair(suite.derive_secret(bytes.fromhex(secret["path_secret"]), "node"))
                held = tree.node(NodeIndex(secret["node"]))
                assert held is not None
                assert key.public == held.encryption_key
                keys = TreeKEMPrivate(index, keys.keys.set(NodeIndex(secret["node"]), key))
            private[index] = keys
            signature_keys[index] = suite.import_signature_key(bytes.fromhex(entry["signature_priv"]))
        return cls(
            suite, tree, bytes.fromhex(case["group_id"]), case["epoch"],
            bytes.fromhex(case["confirmed_transcript_hash"]), private, signature_keys,
        )  # fmt: skip

    def context(self, tree: RatchetTree) -> bytes:
        return GroupContext(
            ProtocolVersion.MLS10, self.suite.id, self.group_id, self.epoch, tree.tree_hash(), self.transcript_hash, ()
        ).encode()


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_vector_receiving(case: dict[str, Any]) -> None:
    situation = Situation.of(case)
    suite = situation.suite
    for entry in case["update_paths"]:
        sender = LeafIndex(entry["sender"])
        update = UpdatePath.decode(bytes.fromhex(entry["update_path"]))
        suite.verify_with_label(
            update.leaf_node.signature_key, "LeafNodeTBS",
            leaf_node_tbs(update.leaf_node, situation.group_id, sender), update.leaf_node.signature,
        )  # fmt: skip
        tree = merge_path(situation.tree, sender, update)
        assert tree.tree_hash().hex() == entry["tree_hash_after"]
        for index, expected in enumerate(entry["path_secrets"]):
            if expected is None:
                continue
            private, commit_secret = decrypt_path(
                situation.private[LeafIndex(index)], tree, sender, update, situation.context(tree)
            )
            assert commit_secret.hex() == entry["commit_secret"]
            lowest = common_ancestor(node_of(LeafIndex(index)), node_of(sender))
            key = suite.derive_key_pair(suite.derive_secret(bytes.fromhex(expected), "node"))
            assert private.keys[lowest].public == key.public


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_vector_sending(case: dict[str, Any]) -> None:
    situation = Situation.of(case)
    for entry in case["update_paths"]:
        sender = LeafIndex(entry["sender"])
        renewed = renew_path(
            situation.tree, sender, situation.tree.member(sender), situation.signature_keys[sender], situation.group_id
        )
        update = UpdatePath.decode(renewed.encrypt(situation.context(renewed.tree)).encode())
        all_process(situation, renewed, update)


def all_process(situation: Situation, renewed: RenewedPath, update: UpdatePath) -> None:
    sender = renewed.private.index
    tree = merge_path(situation.tree, sender, update)
    assert tree.tree_hash() == renewed.tree.tree_hash()
    for index, before in situation.private.items():
        if index == sender:
            continue
        private, commit_secret = decrypt_path(before, tree, sender, update, situation.context(tree))
        assert commit_secret == renewed.commit_secret
        for node, key in private.keys.items():
            held = tree.node(node)
            assert held is not None
            assert key.public == held.encryption_key
            if node in renewed.private.keys:
                assert key.encode() == renewed.private.keys[node].encode()


# --- paths that must be refused ---------------------------------------------------------------


def full_group(count: int = 5) -> tuple[Situation, list[Member]]:
    """A group of suite 1 whose leaf 0 has sent a path."""
    suite = CipherSuite.get(1)
    people = members(count)
    tree = tree_of(people)
    private = {LeafIndex(i): TreeKEMPrivate.of_leaf(LeafIndex(i), person.leaf_key) for i, person in enumerate(people)}
    situation = Situation(
        suite, tree, b"group", 1, b"transcript", private, {LeafIndex(i): p.signature_key for i, p in enumerate(people)}
    )
    for index in range(count):
        situation = committed(situation, LeafIndex(index))
    return situation, people


def path_of(situation: Situation, sender: int) -> tuple[RenewedPath, UpdatePath]:
    index = LeafIndex(sender)
    renewed = renew_path(
        situation.tree, index, situation.tree.member(index), situation.signature_keys[index], situation.group_id
    )
    return renewed, renewed.encrypt(situation.context(renewed.tree))


def committed(situation: Situation, sender: LeafIndex) -> Situation:
    renewed, update = path_of(situation, sender)
    private = {sender: renewed.private}
    for index, before in situation.private.items():
        if index != sender:
            private[index], _ = decrypt_path(before, renewed.tree, sender, update, situation.context(renewed.tree))
    return replace(situation, tree=renewed.tree, private=private, epoch=situation.epoch + 1)


def refused(situation: Situation, sender: int, update: UpdatePath, section: str) -> None:
    before = situation.tree.encode()
    with pytest.raises(InvalidError) as caught:
        merge_path(situation.tree, LeafIndex(sender), update)
    assert caught.value.section == section
    assert situation.tree.encode() == before


def test_7_6_path_of_wrong_length() -> None:
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    refused(situation, 1, replace(update, nodes=update.nodes[:-1]), "RFC 9420 7.6")
    refused(situation, 1, replace(update, nodes=(*update.nodes, update.nodes[0])), "RFC 9420 7.6")


def test_7_6_wrong_number_of_ciphertexts() -> None:
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    first = update.nodes[0]
    for sealed in ((), tuple(first.encrypted_path_secret) * 2):
        changed = replace(first, encrypted_path_secret=sealed)
        refused(situation, 1, replace(update, nodes=(changed, *update.nodes[1:])), "RFC 9420 7.6")


def test_12_4_2_leaf_keeps_its_encryption_key() -> None:
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    leaf = replace(update.leaf_node, encryption_key=situation.tree.member(1).encryption_key)
    refused(situation, 1, replace(update, leaf_node=leaf), "RFC 9420 12.4.2")


def test_12_4_2_key_of_the_path_is_in_the_tree() -> None:
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    for taken in (situation.tree.member(3).encryption_key, situation.tree.node(root(8)).encryption_key):  # type: ignore[union-attr]
        changed = replace(update.nodes[0], encryption_key=taken)
        refused(situation, 1, replace(update, nodes=(changed, *update.nodes[1:])), "RFC 9420 12.4.2")


def test_12_4_2_key_twice_in_the_path() -> None:
    # The parent hash has to fit, or that would be what is refused.
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    keys = [update.nodes[0].encryption_key] * len(update.nodes)
    path = situation.tree.filtered_direct_path(LeafIndex(1))
    _, above = path_parent_hashes(situation.tree, path, keys)
    leaf = replace(update.leaf_node, source=CommitSource(above))
    nodes = tuple(replace(node, encryption_key=key) for node, key in zip(update.nodes, keys, strict=True))
    refused(situation, 1, UpdatePath(leaf, nodes), "RFC 9420 12.4.2")


def test_7_3_source_of_the_leaf_is_commit() -> None:
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    leaf = replace(update.leaf_node, source=UpdateSource())
    refused(situation, 1, replace(update, leaf_node=leaf), "RFC 9420 7.3")


def test_7_9_2_parent_hash_of_the_leaf() -> None:
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    fresh = situation.suite.generate_key_pair().public
    changed = replace(update.nodes[-1], encryption_key=fresh)
    refused(situation, 1, replace(update, nodes=(*update.nodes[:-1], changed)), "RFC 9420 7.9.2")


def test_5_1_1_path_key_that_is_no_key() -> None:
    situation, _ = full_group()
    _, update = path_of(situation, 1)
    changed = replace(update.nodes[-1], encryption_key=bytes(32))
    refused(situation, 1, replace(update, nodes=(*update.nodes[:-1], changed)), "RFC 9420 5.1.1")


def test_7_5_secret_that_makes_another_key() -> None:
    situation, _ = full_group()
    renewed, update = path_of(situation, 1)
    context = situation.context(renewed.tree)
    step = 0  # towards leaf 0
    wrong = situation.suite.encrypt_with_label(
        situation.tree.member(0).encryption_key, "UpdatePathNode", context, bytes(32)
    )
    changed = replace(update.nodes[step], encrypted_path_secret=(wrong,))
    forged = replace(update, nodes=(changed, *update.nodes[1:]))
    tree = merge_path(situation.tree, LeafIndex(1), forged)
    with pytest.raises(InvalidError, match="another key") as caught:
        decrypt_path(situation.private[LeafIndex(0)], tree, LeafIndex(1), forged, context)
    assert caught.value.section == "RFC 9420 7.5"


def test_7_6_context_is_part_of_the_encryption() -> None:
    situation, _ = full_group()
    renewed, update = path_of(situation, 1)
    with pytest.raises(InvalidError):
        decrypt_path(
            situation.private[LeafIndex(0)], renewed.tree, LeafIndex(1), update, situation.context(situation.tree)
        )


def test_7_5_replaced_keys_are_deleted() -> None:
    situation, _ = full_group(8)
    top = root(8)
    before = situation.private[LeafIndex(0)].keys[top]
    after = committed(situation, LeafIndex(7)).private[LeafIndex(0)]
    assert after.keys[top].encode() != before.encode()
    # and what a removal blanks is gone: leaf 1's departure blanks nodes 1, 3 and the root
    removed = situation.tree.remove(LeafIndex(1))
    assert set(situation.private[LeafIndex(0)].kept_in(removed).keys) == {0}
    assert set(situation.private[LeafIndex(2)].kept_in(removed).keys) == {4, 5}


def test_7_5_keys_of_nodes_that_became_blank_are_deleted_with_the_commit() -> None:
    situation, _ = full_group(8)
    assert set(situation.private[LeafIndex(0)].keys) == {0, 1, 3, 7}
    situation.private.pop(LeafIndex(1))
    situation = committed(replace(situation, tree=situation.tree.remove(LeafIndex(1))), LeafIndex(2))
    assert situation.tree.node(NodeIndex(1)) is None
    assert set(situation.private[LeafIndex(0)].keys) == {0, 3, 7}


def test_7_5_new_leaves_are_not_encrypted_to() -> None:
    situation, people = full_group(5)
    newcomer = members(1, first=5)[0]
    tree, index = situation.tree.add(newcomer.leaf)
    assert index == 5
    renewed = renew_path(tree, LeafIndex(0), tree.member(0), people[0].signature_key, b"group")
    context = situation.context(renewed.tree)
    update = renewed.encrypt(context, {index})
    tree2 = merge_path(tree, LeafIndex(0), update, {index})
    with pytest.raises(InvalidError) as caught:
        merge_path(tree, LeafIndex(0), update)
    assert caught.value.section == "RFC 9420 7.6"
    for other in range(1, 5):
        _, secret = decrypt_path(situation.private[LeafIndex(other)], tree2, LeafIndex(0), update, context, {index})
        assert secret == renewed.commit_secret
    # the newcomer gets the secret of the lowest common node
    joined = joining(tree2, index, newcomer.leaf_key, LeafIndex(0), renewed.path_secret_for(index))
    assert set(joined.keys) == {10, 7}
    assert joined.keys[NodeIndex(7)].encode() == renewed.private.keys[NodeIndex(7)].encode()


def test_7_5_new_leaf_that_is_unmerged_at_a_node_is_not_encrypted_to() -> None:
    situation, people = full_group(8)
    situation.private.pop(LeafIndex(7))
    situation = committed(replace(situation, tree=situation.tree.remove(LeafIndex(7))), LeafIndex(4))
    newcomer = members(1, first=8)[0]
    tree, index = situation.tree.add(newcomer.leaf)
    assert tree.resolution(NodeIndex(11)) == [11, 14]
    assert [node for node, _ in resolution(tree.place(NodeIndex(11)), {index})] == [11]
    renewed = renew_path(tree, LeafIndex(0), tree.member(0), people[0].signature_key, b"group")
    context = situation.context(renewed.tree)
    update = renewed.encrypt(context, {index})
    assert [len(node.encrypted_path_secret) for node in update.nodes] == [1, 1, 1]
    merged = merge_path(tree, LeafIndex(0), update, {index})
    for other in range(1, 7):
        _, secret = decrypt_path(situation.private[LeafIndex(other)], merged, LeafIndex(0), update, context, {index})
        assert secret == renewed.commit_secret
    # in the next Commit it is one of those who are
    _, update = path_of(replace(situation, tree=merged), 0)
    assert [len(node.encrypted_path_secret) for node in update.nodes] == [1, 1, 2]


def test_12_4_3_1_path_secret_that_does_not_fit() -> None:
    situation, people = full_group(5)
    with pytest.raises(InvalidError) as caught:
        joining(
            situation.tree, LeafIndex(4), situation.private[LeafIndex(4)].keys[NodeIndex(8)], LeafIndex(0), bytes(32)
        )
    assert caught.value.section == "RFC 9420 12.4.3.1"
    with pytest.raises(InvalidError):  # another key than the leaf's
        joining(situation.tree, LeafIndex(4), people[3].leaf_key, LeafIndex(0), None)


def test_leaf_0_is_a_committer_and_a_receiver() -> None:
    situation, _ = full_group(2)
    situation = committed(committed(situation, LeafIndex(0)), LeafIndex(1))
    assert situation.private[LeafIndex(0)].keys[NodeIndex(1)].encode() == (
        situation.private[LeafIndex(1)].keys[NodeIndex(1)].encode()
    )


def test_12_4_3_2_external_joiner_takes_the_leftmost_blank_leaf() -> None:
    for count, expected in ((4, 4), (5, 5)):
        situation, _ = full_group(count)
        joiner = members(1, first=count)[0]
        tree, index = situation.tree.with_room()
        assert index == expected
        renewed = renew_path(tree, index, joiner.leaf, joiner.signature_key, b"group")
        update = renewed.encrypt(situation.context(renewed.tree))
        merged = merge_path(situation.tree.with_room()[0], index, update)
        assert merged.tree_hash() == renewed.tree.tree_hash()
        assert RatchetTree.decode(situation.suite, merged.encode()).tree_hash() == merged.tree_hash()
        for other in situation.private.values():
            _, secret = decrypt_path(other, merged, index, update, situation.context(merged))
            assert secret == renewed.commit_secret


def test_pieces_of_private_keys_are_restored() -> None:
    situation, _ = full_group(8)
    private = situation.private[LeafIndex(3)]
    restored = TreeKEMPrivate.restore(situation.tree, LeafIndex(3), private.pieces())
    assert restored.pieces() == private.pieces()
    after = committed(replace(situation, private={**situation.private, LeafIndex(3): restored}), LeafIndex(2))
    newer = after.private[LeafIndex(3)]
    stored = private.pieces()
    for name, piece in newer.changes_since(restored).items():
        if piece is None:
            del stored[name]
        else:
            stored[name] = piece
    assert stored == newer.pieces()
    assert newer.changes_since(newer) == {}


def test_no_secret_in_repr() -> None:
    situation, _ = full_group(2)
    renewed, _ = path_of(situation, 0)
    text = repr(renewed) + repr(renewed.private) + repr(situation.private)
    for secret in (renewed.commit_secret, *renewed.path_secrets.values(), *renewed.private.pieces().values()):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
