"""Annotations that somebody on the way has changed: nothing in them is signed, so all of it is tried.

draft-ietf-mls-partial: membership proofs are valid relative to a tree hash, or refused; every refusal leaves the state
as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError, PeerError, WrongEpoch
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.partial import CommitAnnotations, PartialGroup, authenticate_sender
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.mls.structures.parent_node import ParentNode
from slixmpp_mls.mls.structures.partial import (
    AnnotatedCommit,
    AnnotatedWelcome,
    CopathHash,
    MembershipProof,
    SenderAuthenticatedMessage,
)
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.mls.tree.partial_path import check_path
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.tree.tree_slice import TreeSlice, prove
from tests.mls.group_helpers import NOW, bundle, group_info_of
from tests.mls.partial.partial_room import PartialRoom, welcomed

ROOM = PartialRoom(["alice", "bob", "carol"], ["dave", "erin"])
ROOM.commit("carol", options=CommitOptions(path=True))
ALICE, BOB, DAVE = ROOM.full["alice"], ROOM.full["bob"], ROOM.partial["dave"]


def flipped(octets: bytes) -> bytes:
    return bytes([octets[0] ^ 1]) + octets[1:]


def damaged(proof: MembershipProof) -> Iterator[tuple[str, MembershipProof]]:
    """The proof with one thing in it that is not as it was."""
    nodes, hashes = proof.direct_path_nodes, proof.copath_hashes
    for index in {proof.leaf_index ^ 1, proof.leaf_index ^ 2, proof.n_leaves, 2**32 - 1}:
        yield f"leaf_index {index}", replace(proof, leaf_index=index)
    for width in (0, 1, proof.n_leaves // 2, proof.n_leaves - 1, proof.n_leaves * 2, 2**31, 2**32 - 1):
        yield f"n_leaves {width}", replace(proof, n_leaves=width)
    yield "no nodes", replace(proof, direct_path_nodes=())
    yield "a node less", replace(proof, direct_path_nodes=nodes[:-1])
    yield "a node more", replace(proof, direct_path_nodes=(*nodes, None))
    yield (
        "a longer path",
        replace(
            proof, n_leaves=proof.n_leaves * 2, direct_path_nodes=(*nodes, None), copath_hashes=(*hashes, hashes[0])
        ),
    )
    yield "too many nodes", replace(proof, direct_path_nodes=(*nodes, *[None] * 1000))
    yield "no hashes", replace(proof, copath_hashes=())
    yield "a hash more", replace(proof, copath_hashes=(*hashes, hashes[0]))
    yield "hashes in another order", replace(proof, copath_hashes=hashes[::-1])
    for place, node in enumerate(nodes):
        for name, other in _other_nodes(node):
            yield f"node {place} {name}", replace(proof, direct_path_nodes=(*nodes[:place], other, *nodes[place + 1 :]))
    for place, each in enumerate(hashes):
        for name, value in (("bit", flipped(each.hash_value)), ("short", each.hash_value[:-1]), ("empty", b"")):
            yield (
                f"hash {place} {name}",
                replace(proof, copath_hashes=(*hashes[:place], CopathHash(value), *hashes[place + 1 :])),
            )


def _other_nodes(node: Any) -> Iterator[tuple[str, Any]]:
    leaf = bundle("mallory").key_package.leaf_node
    if node is not None:
        yield "blank", None
    if isinstance(node, LeafNode):
        yield "another leaf", leaf
        yield "another key", replace(node, signature_key=leaf.signature_key)
        yield "another encryption key", replace(node, encryption_key=leaf.encryption_key)
        yield "another credential", replace(node, credential=leaf.credential)
        yield "another signature", replace(node, signature=flipped(node.signature))
        yield "a parent", ParentNode(node.encryption_key, b"")
        return
    yield "a leaf", leaf
    yield "a new parent", ParentNode(leaf.encryption_key, b"")
    if isinstance(node, ParentNode):
        yield "another key", replace(node, encryption_key=flipped(node.encryption_key))
        yield "another parent hash", replace(node, parent_hash=node.parent_hash + b"x")
        yield "unmerged leaves", replace(node, unmerged_leaves=(*node.unmerged_leaves, 2**31))
        yield "unmerged leaves of its own", replace(node, unmerged_leaves=(0, 0))


def refused(message: Any, group: PartialGroup = DAVE) -> None:
    before = group.pieces()
    with pytest.raises(InvalidError):
        group.process(message, now=NOW)
    assert group.pieces() == before


PROOF = prove(BOB.tree, LeafIndex(1))
NAMES = [name for name, _ in damaged(PROOF)]


@pytest.mark.parametrize("name", NAMES)
def test_proof_of_a_message(name: str) -> None:
    message, _ = BOB.encrypt(b"hello")
    good = authenticate_sender(BOB.tree, LeafIndex(1), message)
    assert good.sender_membership_proof == PROOF
    DAVE.process(good, now=NOW)
    refused(SenderAuthenticatedMessage(good.message, dict(damaged(PROOF))[name]))


def test_proof_of_another_sender() -> None:
    for index in (0, 2, 3, 4):
        message, _ = BOB.encrypt(b"hello")
        refused(authenticate_sender(BOB.tree, LeafIndex(index), message))
        public, _ = BOB.propose(Remove(LeafIndex(2)), now=NOW, public=True)
        refused(authenticate_sender(BOB.tree, LeafIndex(index), public))


def test_a_message_signed_by_another_member() -> None:
    """Any member has the keys of all; the proved leaf's signature tells who has sent a message (RFC 9420 6.1)."""
    lying = replace(BOB, signature_key=ALICE.signature_key)
    message, _ = lying.encrypt(b"hello")
    refused(authenticate_sender(BOB.tree, LeafIndex(1), message))


def test_messages_that_are_none() -> None:
    for body in (group_info_of(ALICE), bundle("frank").key_package):
        wrapped = MLSMessage(1, body)
        refused(wrapped)
        refused(SenderAuthenticatedMessage(wrapped, PROOF))
    refused(replace(MLSMessage.decode(BOB.encrypt(b"x")[0]), version=2))


# --- welcomes --------------------------------------------------------------------------------

FRANK = bundle("frank")
MADE = ALICE.commit([Add(FRANK.key_package)], now=NOW, options=CommitOptions(path=True))
WELCOME = welcomed(MADE, FRANK)


def cannot_join(annotated: AnnotatedWelcome) -> None:
    with pytest.raises(InvalidError):
        PartialGroup.join(annotated, FRANK)


@pytest.mark.parametrize("name", NAMES)
def test_proofs_of_a_welcome(name: str) -> None:
    assert PartialGroup.join(WELCOME, FRANK).state.epoch == ALICE.epoch + 1
    sender = WELCOME.welcome.sender_membership_proof
    damage = dict(damaged(sender))
    if name in damage:  # a node that is blank in one of them may not be in the other
        cannot_join(replace(WELCOME, welcome=replace(WELCOME.welcome, sender_membership_proof=damage[name])))
    damage = dict(damaged(WELCOME.joiner_membership_proof))
    if name in damage:
        cannot_join(replace(WELCOME, joiner_membership_proof=damage[name]))


def test_proofs_of_others_in_a_welcome() -> None:
    tree = MADE.staged.next.tree  # type: ignore[union-attr]
    for index, _ in tree.members():
        if index != 0:
            cannot_join(replace(WELCOME, welcome=replace(WELCOME.welcome, sender_membership_proof=prove(tree, index))))
        if tree.member(index) != FRANK.key_package.leaf_node:
            cannot_join(replace(WELCOME, joiner_membership_proof=prove(tree, index)))
    old = prove(ALICE.tree, LeafIndex(0))
    cannot_join(replace(WELCOME, welcome=replace(WELCOME.welcome, sender_membership_proof=old)))


# --- commits ---------------------------------------------------------------------------------

ANNOTATIONS = CommitAnnotations.of(ALICE.tree, MADE.staged, MADE.commit)
COMMIT = ANNOTATIONS.for_receiver(LeafIndex(3))
PLACES = ("sender_membership_proof", "sender_membership_proof_after", "receiver_membership_proof_after")


def test_the_commit_itself_is_accepted() -> None:
    DAVE.apply(DAVE.process(COMMIT, now=NOW), now=NOW)


def with_proof(place: str, proof: MembershipProof) -> AnnotatedCommit:
    changed: dict[str, Any] = {place: proof}
    return replace(COMMIT, **changed)


@pytest.mark.parametrize("place", PLACES)
def test_proofs_of_a_commit(place: str) -> None:
    for _, proof in damaged(getattr(COMMIT, place)):
        refused(with_proof(place, proof))


@pytest.mark.parametrize("place", PLACES)
def test_proofs_of_others_in_a_commit(place: str) -> None:
    tree = ALICE.tree if place == PLACES[0] else ANNOTATIONS.tree
    own = getattr(COMMIT, place).leaf_index
    for index, _ in tree.members():
        if index != own:
            refused(with_proof(place, prove(tree, index)))
    other = ANNOTATIONS.tree if place == PLACES[0] else ALICE.tree
    refused(with_proof(place, prove(other, LeafIndex(own))))


def test_other_fields_of_a_commit() -> None:
    refused(replace(COMMIT, sender_membership_proof=None))
    refused(replace(COMMIT, tree_hash_after=flipped(COMMIT.tree_hash_after)))
    refused(replace(COMMIT, tree_hash_after=b""))
    refused(replace(COMMIT, tree_hash_after=ALICE.tree.tree_hash()))
    for index in (None, 1, 2**32 - 1):
        refused(replace(COMMIT, resolution_index=index))
    refused(replace(COMMIT, sender_membership_proof_after=COMMIT.receiver_membership_proof_after))
    refused(ANNOTATIONS.for_receiver(LeafIndex(4)))
    pathless = ALICE.commit([Add(FRANK.key_package)], now=NOW, options=CommitOptions(path=False))
    bare = CommitAnnotations.of(ALICE.tree, pathless.staged, pathless.commit).for_receiver(LeafIndex(3))
    DAVE.process(bare, now=NOW)
    refused(replace(bare, resolution_index=0))
    refused(replace(COMMIT, commit=bare.commit))
    refused(replace(bare, commit=COMMIT.commit))


def test_another_message_inside() -> None:
    for message in (BOB.encrypt(b"x")[0], BOB.propose(Remove(LeafIndex(2)), now=NOW, public=True)[0]):
        other = replace(COMMIT, commit=MLSMessage.decode(message), sender_membership_proof=PROOF)
        refused(other)
    refused(replace(COMMIT, commit=MLSMessage(1, group_info_of(ALICE))))


def test_commits_of_other_epochs() -> None:
    after = DAVE.apply(DAVE.process(COMMIT, now=NOW), now=NOW)
    with pytest.raises(WrongEpoch):
        after.process(COMMIT, now=NOW)


def test_a_proof_beside_a_new_members_commit() -> None:
    """sender_membership_proof MUST be absent if the sender is no member (Annotated Commit)."""
    made = Group.external_commit(group_info_of(ALICE), FRANK.own_leaf, now=NOW)
    good = CommitAnnotations.of(ALICE.tree, made.staged, made.commit).for_receiver(LeafIndex(3))
    assert good.sender_membership_proof is None
    DAVE.process(good, now=NOW)
    refused(replace(good, sender_membership_proof=prove(ALICE.tree, LeafIndex(0))))
    tree = made.staged.next.tree  # type: ignore[union-attr]
    for index in (0, 3):
        refused(replace(good, sender_membership_proof_after=prove(tree, LeafIndex(index))))


def test_every_octet() -> None:
    """Whatever one flipped bit makes of an AnnotatedCommit, it is refused or means the same."""
    octets = COMMIT.encode()
    expected = DAVE.process(COMMIT, now=NOW).next  # type: ignore[union-attr]
    assert expected is not None
    for place in range(0, len(octets), 7):
        changed = octets[:place] + flipped(octets[place:])
        try:
            staged = DAVE.process(AnnotatedCommit.decode(changed), now=NOW)
        except PeerError:
            continue
        assert staged.next.epoch_authenticator == expected.epoch_authenticator  # type: ignore[union-attr]


# --- a malicious committer -------------------------------------------------------------------


def test_a_path_that_is_not_the_one_in_the_tree() -> None:
    """RFC 9420 7.5, 7.9.2: a tree hash is whatever a committer says; its own path is checked nevertheless."""
    content = ALICE.public  # the path is taken from the PublicMessage that carries it
    made = ALICE.commit(now=NOW, options=CommitOptions(path=True, public=True))
    body: Any = MLSMessage.decode(made.commit).body
    path = body.content.content.path
    tree = made.staged.next.tree  # type: ignore[union-attr]
    sender = TreeSlice.of(content.suite, prove(tree, LeafIndex(0)))
    check_path(sender, path)
    (place, parent), *rest = sender.parents
    assert rest

    def bad(changed: TreeSlice, section: str, update: Any = path) -> None:
        with pytest.raises(InvalidError) as caught:
            check_path(changed, update)
        assert caught.value.section == section

    def with_first(node: ParentNode) -> TreeSlice:
        return replace(sender, parents=((place, node), *rest))

    bad(with_first(replace(parent, unmerged_leaves=(1,))), "RFC 9420 7.5")
    bad(with_first(replace(parent, encryption_key=flipped(parent.encryption_key))), "RFC 9420 7.5")
    bad(with_first(replace(parent, parent_hash=b"another")), "RFC 9420 7.9.2")
    bad(replace(sender, parents=tuple(rest)), "RFC 9420 7.6")
    bad(replace(sender, leaf=DAVE.own_leaf), "RFC 9420 7.5")
    beside = replace(sender.proof.copath_hashes[0], hash_value=bytes(32))
    other = replace(sender.proof, copath_hashes=(beside, *sender.proof.copath_hashes[1:]))
    bad(replace(sender, proof=other), "RFC 9420 7.9.2")
    twice = replace(path, nodes=(path.nodes[1], *path.nodes[1:]))
    bad(sender, "RFC 9420 12.4.2", twice)
    foreign = DAVE.own_leaf
    bad(replace(sender, leaf=foreign), "RFC 9420 7.3", replace(path, leaf_node=foreign))
