"""Partial members: annotations that anybody on the way may have made, around messages that are genuine or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.partial import CommitAnnotations, PartialGroup, annotate_welcome, authenticate_sender
from slixmpp_mls.mls.structures.partial import (
    AnnotatedCommit,
    AnnotatedWelcome,
    MembershipProof,
    SenderAuthenticatedMessage,
)
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.tree.tree_slice import TreeSlice, prove

from . import seeds
from .groups import ALICE, BOB, DAVE, NOW, SUITE, _octets
from .registry import target

CAROL = LeafIndex(2)
_ADDING = ALICE.commit([Add(DAVE.key_package)], now=NOW, random=_octets("partial"), options=CommitOptions(path=True))
_AFTER: Any = _ADDING.staged.next
_PARTIAL = PartialGroup.downgrade(BOB)
_BEFORE = _PARTIAL.pieces()


def _hear(message: SenderAuthenticatedMessage | AnnotatedCommit) -> None:
    try:
        processed = _PARTIAL.process(message, now=NOW)
    finally:
        assert _PARTIAL.pieces() == _BEFORE  # whether refused or staged: nothing has changed
    if getattr(processed, "next", _PARTIAL) is not None:
        _PARTIAL.apply(processed, now=NOW)


def _proofs() -> Iterator[bytes]:
    yield from (prove(ALICE.tree, index).encode() for index, _ in ALICE.tree.members())
    yield from (value.encode() for value in seeds.generated(MembershipProof, 30))


@target(_proofs)
def membership_proof(data: bytes) -> None:
    """A proof by itself, and the group that it does or does not belong to."""
    proof = MembershipProof.decode(data)
    assert proof.encode() == data
    shown = TreeSlice.of(SUITE, proof)
    if shown.tree_hash == ALICE.tree.tree_hash():
        assert shown.leaf == ALICE.tree.member(shown.index)
    _PARTIAL.prove(proof)


def _welcomes() -> Iterator[bytes]:
    assert _ADDING.welcome is not None
    yield annotate_welcome(_AFTER.tree, _ADDING.welcome, LeafIndex(0), LeafIndex(3)).encode()


@target(_welcomes)
def annotated_welcome(data: bytes) -> None:
    joined = PartialGroup.join(AnnotatedWelcome.decode(data), DAVE).state
    assert joined.tree.tree_hash() == _AFTER.tree.tree_hash()
    assert joined.own_leaf == DAVE.key_package.leaf_node


def _messages() -> Iterator[bytes]:
    message, _ = ALICE.encrypt(b"hello", random=_octets("g"))
    yield authenticate_sender(ALICE.tree, LeafIndex(0), message).encode()
    for public in (False, True):
        proposal, _ = ALICE.propose(Remove(CAROL), now=NOW, public=public, random=_octets("h"))
        yield authenticate_sender(ALICE.tree, LeafIndex(0), proposal).encode()
    gone = ALICE.commit([Remove(BOB.own_index)], now=NOW, random=_octets("i"))
    yield authenticate_sender(ALICE.tree, LeafIndex(0), gone.commit).encode()


@target(_messages)
def sender_authenticated_message(data: bytes) -> None:
    _hear(SenderAuthenticatedMessage.decode(data))


def _commits() -> Iterator[bytes]:
    for public in (False, True):
        for path in (False, True):
            options = CommitOptions(public=public, path=path)
            made = ALICE.commit([Add(DAVE.key_package)], now=NOW, options=options, random=_octets("j"))
            yield CommitAnnotations.of(ALICE.tree, made.staged, made.commit).for_receiver(BOB.own_index).encode()


@target(_commits)
def annotated_commit(data: bytes) -> None:
    _hear(AnnotatedCommit.decode(data))
