"""What the octets of a peer can make us hold in memory: bounded counts, found before the objects are made."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Annotated

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.commit import MAX_PROPOSALS, Commit
from slixmpp_mls.mls.structures.credential import MAX_CERTIFICATES, Certificate, X509Credential
from slixmpp_mls.mls.structures.extensions import MAX_EXTENSIONS, MAX_NUMBERS, Extension, ExternalSenders
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.leaf_node import Capabilities, LeafNode
from slixmpp_mls.mls.structures.parent_node import ParentNode
from slixmpp_mls.mls.structures.partial import MembershipProof
from slixmpp_mls.mls.structures.update_path import MAX_DEPTH, MAX_RESOLUTION, UpdatePath, UpdatePathNode
from slixmpp_mls.mls.structures.welcome import GroupSecrets, Welcome
from slixmpp_mls.mls.tls import AtMost, Struct, Vector, struct, uint16
from slixmpp_mls.mls.tree.ratchet_tree import MAX_MEMBERS, RatchetTree
from slixmpp_mls.mls.varint import encode_varint

SUITE = CipherSuite.get(1)
SIZE = 1 << 20  # octets of each hostile structure


def vec(octets: bytes) -> bytes:
    return encode_varint(len(octets)) + octets


def leaf(
    *,
    key: bytes = b"k" * 32,
    credential: bytes = b"\x00\x01" + vec(b"alice"),
    numbers: bytes = b"",
    extensions: bytes = b"",
) -> bytes:
    """A LeafNode of 5 vectors of capabilities, made by an Update."""
    capabilities = vec(numbers) * 5
    return vec(key) + vec(b"s" * 32) + credential + capabilities + b"\x02" + vec(extensions) + vec(b"x" * 64)


def node(octets: bytes) -> bytes:
    return b"\x01\x01" + octets


def minimal_leaves() -> bytes:
    """Leaves of hardly any octets, with keys that differ."""
    return b"".join(
        node(vec(n.to_bytes(3, "big")) + vec(n.to_bytes(3, "big")) + b"\x00\x01\x00" + bytes(5) + b"\x02\x00\x00")
        + b"\0"
        for n in range(SIZE // 25)
    )[:-1]


HOSTILE_TREES: dict[str, Callable[[], bytes]] = {
    "certificates": lambda: node(leaf(credential=b"\x00\x02" + vec(bytes(SIZE)))),
    "extensions": lambda: node(leaf(extensions=b"\xff\xff\x00" * (SIZE // 3))),
    "capabilities": lambda: node(leaf(numbers=bytes(SIZE // 5 & ~1))),
    "minimal leaves": minimal_leaves,
    "blank nodes": lambda: bytes((2 * MAX_MEMBERS) & ~1) + node(leaf()),
    "unmerged leaves": lambda: node(leaf())
    + b"\x01\x02" + vec(b"p" * 32) + vec(b"") + vec(b"".join(n.to_bytes(4, "big") for n in range(SIZE // 4)))
    + node(leaf(key=b"l" * 32)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_TREES)
def test_a_hostile_tree_takes_memory_in_proportion_to_its_octets(name: str) -> None:
    """Each is refused; before that it takes at most 12 times its octets, where empty certificates took 60 times."""
    octets = vec(HOSTILE_TREES[name]())
    tracemalloc.start()
    try:
        with pytest.raises((MalformedError, InvalidError)):
            RatchetTree.decode(SUITE, octets)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * len(octets)


BOUNDED: list[tuple[type[Struct], str, int]] = [
    (X509Credential, "certificates", MAX_CERTIFICATES),
    (LeafNode, "extensions", MAX_EXTENSIONS),
    (GroupContext, "extensions", MAX_EXTENSIONS),
    (ExternalSenders, "external_senders", 64),
    (Capabilities, "versions", MAX_NUMBERS),
    (Capabilities, "cipher_suites", MAX_NUMBERS),
    (Capabilities, "extensions", MAX_NUMBERS),
    (Capabilities, "proposals", MAX_NUMBERS),
    (Capabilities, "credentials", MAX_NUMBERS),
    (UpdatePath, "nodes", MAX_DEPTH),
    (UpdatePathNode, "encrypted_path_secret", MAX_RESOLUTION),
    (Commit, "proposals", MAX_PROPOSALS),
    (Welcome, "secrets", MAX_PROPOSALS),
    (GroupSecrets, "psks", 256),
    (MembershipProof, "direct_path_nodes", MAX_DEPTH + 1),
    (MembershipProof, "copath_hashes", MAX_DEPTH),
    (ParentNode, "unmerged_leaves", MAX_MEMBERS),
]


@pytest.mark.parametrize(("structure", "field", "most"), BOUNDED)
def test_every_vector_of_objects_that_a_peer_fills_has_a_bound(structure: type[Struct], field: str, most: int) -> None:
    codec = next(each.codec for each in structure.codec.fields if each.name == field)
    assert isinstance(codec, Vector)
    assert codec.most == most


def test_the_bound_counts_before_the_objects_are_made() -> None:
    @struct
    class Some(Struct):
        numbers: Annotated[tuple[uint16, ...], AtMost(3)]
        chain: Annotated[tuple[Certificate, ...], AtMost(2)]

    full = Some((1, 2, 3), (Certificate(b"a"), Certificate(b"")))
    assert Some.decode(full.encode()) == full
    for numbers, chain in (((1, 2, 3, 4), ()), ((), (Certificate(b""),) * 3)):
        with pytest.raises(ValueError, match="more than"):
            Some(numbers, chain).encode()
    with pytest.raises(MalformedError, match="more than 3"):
        Some.decode(vec(bytes(8)) + vec(b""))
    with pytest.raises(MalformedError, match="more than 2"):
        Some.decode(vec(b"") + vec(bytes(3)))
    # It stops at the first one too many: what follows is not read (it would not be one).
    with pytest.raises(MalformedError, match="more than 2"):
        Some.decode(vec(b"") + vec(b"\x00\x00\x3f"))


def test_a_chain_at_its_bound_is_read() -> None:
    chain = X509Credential((Certificate(b"c"),) * MAX_CERTIFICATES)
    assert X509Credential.decode(chain.encode()) == chain
    longer = vec(b"\x01c" * (MAX_CERTIFICATES + 1))
    with pytest.raises(MalformedError):
        X509Credential.decode(longer)


def test_extensions_at_their_bound_are_read() -> None:
    context = GroupContext(1, 1, b"g", 0, b"", b"", tuple(Extension(n, b"") for n in range(MAX_EXTENSIONS)))
    assert GroupContext.decode(context.encode()) == context
