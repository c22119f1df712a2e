"""RFC 9420 9, 9.1, 9.2, 15.3: the secret tree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, Premature, Replayed, UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.schedule.message_protection import sender_data_key
from slixmpp_mls.mls.schedule.secret_tree import RatchetKind, RatchetLimits, SecretTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex, copath, direct_path, left, node_of, right

from ...vectors import load

unhex = bytes.fromhex
SUITE = CipherSuite.get(1)
SECRET = b"encryption secret of the tests.."
HANDSHAKE, APPLICATION = RatchetKind.HANDSHAKE, RatchetKind.APPLICATION
CASES = load("secret-tree")


def fresh(leaves: int = 8) -> SecretTree:
    return SecretTree.create(SUITE, SECRET, leaves)


def node_secret(node: NodeIndex, leaves: int) -> bytes:
    """A node's secret by the RFC's definition, from the root downwards."""
    path = [node, *direct_path(node, leaves)]
    secret = SECRET
    for above, below in zip(reversed(path), list(reversed(path))[1:], strict=False):
        side = b"left" if below == left(above) else b"right"
        assert side == b"left" or below == right(above)
        secret = SUITE.expand_with_label(secret, "tree", side, 32)
    return secret


def ratchet_secrets(leaf: int, label: str, count: int, leaves: int = 8) -> list[bytes]:
    """The first secrets of a ratchet, by the RFC's definition."""
    secrets = [SUITE.expand_with_label(node_secret(node_of(LeafIndex(leaf)), leaves), label, b"", 32)]
    while len(secrets) < count:
        secrets.append(SUITE.derive_tree_secret(secrets[-1], "secret", len(secrets) - 1, 32))
    return secrets


def holds(tree: SecretTree, secret: bytes) -> bool:
    return any(secret in octets for octets in tree.pieces().values())


# --- official vectors ---


def case_name(case: dict[str, Any]) -> str:
    return f"{case['cipher_suite']}-{len(case['leaves'])}"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_official_vectors_receiving(case: dict[str, Any]) -> None:
    suite = CipherSuite.get(case["cipher_suite"])
    tree = SecretTree.create(suite, unhex(case["encryption_secret"]), len(case["leaves"]))
    for leaf, generations in enumerate(case["leaves"]):
        for given_ in reversed(generations):  # the skipped keys, too
            for kind, name in ((HANDSHAKE, "handshake"), (APPLICATION, "application")):
                (generation, key, nonce), tree = tree.at(leaf, kind, given_["generation"])
                assert generation == given_["generation"]
                assert key == unhex(given_[f"{name}_key"])
                assert nonce == unhex(given_[f"{name}_nonce"])


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_official_vectors_sending(case: dict[str, Any]) -> None:
    suite = CipherSuite.get(case["cipher_suite"])
    tree = SecretTree.create(suite, unhex(case["encryption_secret"]), len(case["leaves"]))
    for leaf, generations in enumerate(case["leaves"]):
        expected = {given_["generation"]: given_ for given_ in generations}
        for kind, name in ((HANDSHAKE, "handshake"), (APPLICATION, "application")):
            for turn in range(max(expected) + 1):
                (generation, key, nonce), tree = tree.next(leaf, kind)
                assert generation == turn
                if turn in expected:
                    assert key == unhex(expected[turn][f"{name}_key"])
                    assert nonce == unhex(expected[turn][f"{name}_nonce"])


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_official_vectors_sender_data(case: dict[str, Any]) -> None:
    suite = CipherSuite.get(case["cipher_suite"])
    given_ = case["sender_data"]
    key, nonce = sender_data_key(suite, unhex(given_["sender_data_secret"]), unhex(given_["ciphertext"]))
    assert key == unhex(given_["key"])
    assert nonce == unhex(given_["nonce"])


# --- deletion, 9.2 ---


def test_9_2_the_rfcs_own_example() -> None:
    """D sends; its message 1 arrives first.  What must be gone, and what may stay, as listed at the end of 9.2."""
    tree = fresh(4)
    message_key, tree = tree.at(3, APPLICATION, 1)
    application, handshake = ratchet_secrets(3, "application", 3, 4), ratchet_secrets(3, "handshake", 1, 4)
    consumed = [
        message_key.key,
        message_key.nonce,
        application[0],
        application[1],
        node_secret(NodeIndex(6), 4),  # D
        node_secret(NodeIndex(5), 4),  # F
        SECRET,  # G
    ]
    assert not [secret for secret in consumed if holds(tree, secret)]
    derive = SUITE.derive_tree_secret
    kept = {
        derive(application[0], "key", 0, 16) + derive(application[0], "nonce", 0, 12),
        application[2],
        handshake[0],
        node_secret(NodeIndex(1), 4),  # E
        node_secret(NodeIndex(4), 4),  # C
    }
    pieces = {name: octets for name, octets in tree.pieces().items() if octets}  # marks are empty
    assert {octets[8:] if name[:1] == b"r" else octets for name, octets in pieces.items()} == kept


@pytest.mark.parametrize("leaf", range(8))
def test_9_2_using_a_leaf_deletes_its_path_and_keeps_its_copath(leaf: int) -> None:
    _, tree = fresh().next(leaf, APPLICATION)
    node = node_of(LeafIndex(leaf))
    assert not [above for above in (node, *direct_path(node, 8)) if holds(tree, node_secret(above, 8))]
    beside = {b"n" + other.to_bytes(4, "big"): node_secret(other, 8) for other in copath(node, 8)}
    assert {name: octets for name, octets in tree.pieces().items() if name[:1] == b"n"} == beside


def test_9_2_a_fully_used_tree_holds_no_node_secret() -> None:
    tree = fresh()
    for leaf in range(8):
        _, tree = tree.next(leaf, HANDSHAKE)
    assert {name[:1] for name, octets in tree.pieces().items() if octets} == {b"r"}
    assert len(tree.pieces()) == 17  # and that marks are kept


def test_9_2_a_used_key_is_refused_and_gone() -> None:
    first, tree = fresh().at(0, APPLICATION, 0)
    with pytest.raises(Replayed, match="is gone"):
        tree.at(0, APPLICATION, 0)
    _, tree = tree.at(0, APPLICATION, 5)
    third, tree = tree.at(0, APPLICATION, 3)
    with pytest.raises(Replayed):
        tree.at(0, APPLICATION, 3)
    for used in (first, third):
        assert not holds(tree, used.key)
        assert not holds(tree, used.nonce)


def test_9_2_a_refused_message_costs_nothing() -> None:
    """The old value stands: whoever drops the new one can still open the genuine message."""
    tree = fresh()
    before = tree.pieces()
    forged, _ = tree.at(2, APPLICATION, 900)
    assert tree.pieces() == before
    genuine, _ = tree.at(2, APPLICATION, 900)
    assert genuine == forged


def test_9_leaf_zero_and_the_only_leaf_have_ratchets() -> None:
    keys = set()
    for leaves in (1, 2, 8):
        for kind in RatchetKind:
            message_key, _ = SecretTree.create(SUITE, SECRET, leaves).next(0, kind)
            assert message_key.generation == 0
            keys.add(message_key.key)
    assert len(keys) == 6


@pytest.mark.parametrize("leaf", [-1, 8, 2**32 - 1])
def test_6_3_2_leaves_outside_the_tree_are_refused(leaf: int) -> None:
    with pytest.raises(InvalidError, match="no leaf"):
        fresh().at(leaf, APPLICATION, 0)
    with pytest.raises(UsageError, match="no leaf"):
        fresh().next(leaf, APPLICATION)


# --- order, 15.3 ---


def test_15_3_a_generation_too_far_ahead_is_refused() -> None:
    limits = RatchetLimits(forward=10)
    tree = fresh()
    tree.at(1, APPLICATION, 10, limits)
    with pytest.raises(Premature, match="too far ahead"):
        tree.at(1, APPLICATION, 11, limits)
    _, tree = tree.at(1, APPLICATION, 10, limits)
    tree.at(1, APPLICATION, 21, limits)
    with pytest.raises(Premature, match="too far ahead"):
        tree.at(1, APPLICATION, 22, limits)
    with pytest.raises(Premature, match="too far ahead"):
        fresh().at(1, APPLICATION, 1001)
    with pytest.raises(Premature, match="too far ahead"):
        fresh().at(1, APPLICATION, 0xFFFF_FFFF)


def test_15_3_skipped_keys_are_bounded() -> None:
    limits = RatchetLimits(forward=50, window=20)
    tree = fresh()
    generation = -1
    for jump in (50, 1, 1, 21, 7, 50, 3, 1, 1, 1, 20, 22):
        generation += jump
        _, tree = tree.at(4, APPLICATION, generation, limits)
        skipped = [name for name in tree.pieces() if name[:1] == b"s"]
        assert len(skipped) <= limits.window
        assert all(int.from_bytes(name[-4:], "big") >= generation - limits.window for name in skipped)
    tree.at(4, APPLICATION, generation - 20, limits)
    with pytest.raises(Replayed):
        tree.at(4, APPLICATION, generation - 23, limits)


def test_15_3_the_window_slides_with_each_message() -> None:
    limits = RatchetLimits(window=3)
    _, tree = fresh().at(0, APPLICATION, 1, limits)
    for generation in (2, 3):
        _, tree = tree.at(0, APPLICATION, generation, limits)
    tree.at(0, APPLICATION, 0, limits)
    _, tree = tree.at(0, APPLICATION, 4, limits)
    with pytest.raises(Replayed):
        tree.at(0, APPLICATION, 0, limits)
    assert [name for name in tree.pieces() if name[:1] == b"s"] == []


def test_9_1_generations_end_with_their_32_bits() -> None:
    _, tree = fresh().next(0, APPLICATION)
    pieces = tree.pieces()
    name = next(name for name in pieces if name == b"r" + bytes(4) + b"\1")
    pieces[name] = (2**32 - 1).to_bytes(8, "big") + pieces[name][8:]
    tree = SecretTree.restore(SUITE, 8, pieces)
    last, tree = tree.next(0, APPLICATION)
    assert last.generation == 2**32 - 1
    with pytest.raises(UsageError, match="used up"):
        tree.next(0, APPLICATION)
    with pytest.raises(Replayed):
        tree.at(0, APPLICATION, 2**32 - 1)


@given(st.permutations(range(40)), st.sampled_from(RatchetKind), st.integers(0, 7))
def test_any_order_gives_the_same_keys(order: list[int], kind: RatchetKind, leaf: int) -> None:
    sender, expected = fresh(), []
    for _ in range(40):
        message_key, sender = sender.next(leaf, kind)
        expected.append(message_key)
    receiver = fresh()
    for generation in order:
        message_key, receiver = receiver.at(leaf, kind, generation)
        assert message_key == expected[generation]
    assert receiver.pieces() == sender.pieces()


steps = st.lists(
    st.tuples(
        st.integers(0, 4), st.sampled_from(RatchetKind), st.integers(0, 30), st.sampled_from(["at", "next", "store"])
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(steps)
def test_random_use_with_restores(script: list[tuple[int, RatchetKind, int, str]]) -> None:
    """No key comes twice, restores continue exactly, and changes say all that has changed."""
    limits = RatchetLimits(forward=12, window=5)
    tree = fresh()
    disk: dict[bytes, bytes] = {}
    handed_out: set[bytes] = set()
    taken: dict[tuple[int, RatchetKind], set[int]] = {}
    for leaf, kind, generation, action in script:
        if action == "store":
            for name, octets in tree.changes().items():
                if octets is None:
                    disk.pop(name, None)
                else:
                    disk[name] = octets
            assert disk == tree.pieces()
            tree = SecretTree.restore(SUITE, 8, disk)
            assert tree.changes() == {}
            continue
        used = taken.setdefault((leaf, kind), set())
        newest = max(used, default=-1)
        try:
            if action == "next":
                message_key, tree = tree.next(leaf, kind)
            else:
                message_key, tree = tree.at(leaf, kind, generation, limits)
        except Replayed:
            assert generation in used or generation < newest - limits.window
            continue
        except InvalidError:
            assert generation > newest + 1 + limits.forward
            continue
        assert message_key.key not in handed_out
        assert message_key.generation not in used
        assert action == "at" or message_key.generation == newest + 1
        handed_out.add(message_key.key)
        used.add(message_key.generation)
        assert not holds(tree, message_key.key)


# --- size and store ---


def test_50_000_members_cost_a_path_each_and_then_one_piece_per_message() -> None:
    leaves = 65_536
    tree = SecretTree.create(SUITE, SECRET, leaves).stored()
    for leaf in (0, 1, 49_999, 65_535):
        _, tree = tree.next(leaf, APPLICATION)
        assert len(tree.changes()) <= 16 + 1 + 2  # a copath, the deleted secrets' names, two ratchets
        tree = tree.stored()
        for _ in range(3):
            _, tree = tree.next(leaf, APPLICATION)
            assert list(tree.changes()) == [b"r" + leaf.to_bytes(4, "big") + b"\1"]
            tree = tree.stored()
    for generation in range(3):  # receiving in order, the same
        _, tree = tree.at(7, HANDSHAKE, generation)
        assert generation == 0 or list(tree.changes()) == [b"r" + (7).to_bytes(4, "big") + b"\0"]
        tree = tree.stored()


def test_a_late_message_rewrites_only_its_own_key() -> None:
    _, tree = fresh().at(5, APPLICATION, 900)
    _, tree = tree.stored().at(5, APPLICATION, 17)
    assert tree.changes() == {b"s" + (5).to_bytes(4, "big") + b"\1" + (17).to_bytes(4, "big"): None}


def test_no_nonce_is_used_twice_after_a_restore() -> None:
    first, tree = fresh().next(0, APPLICATION)
    restored = SecretTree.restore(SUITE, 8, tree.pieces())
    second, _ = restored.next(0, APPLICATION)
    assert second.generation == 1
    assert (second.key, second.nonce) != (first.key, first.nonce)
    assert restored.pieces() == tree.pieces()


def test_nothing_secret_is_shown() -> None:
    message_key, tree = fresh().next(0, APPLICATION)
    for shown in (repr(tree), repr(message_key)):
        for secret in filter(None, (message_key.key, *tree.pieces().values())):
            assert repr(secret)[2:-1] not in shown
            assert secret.hex() not in shown
