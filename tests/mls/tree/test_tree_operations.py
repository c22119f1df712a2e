"""The official tree-operations vectors: one proposal applied to a tree (RFC 9420 7.7, 12.1)."""

from __future__ import annotations

from typing import Any

import pytest

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.proposals import Add, Proposal, Remove, Update
from slixmpp_mls.mls.tls import codec_of
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from tests.vectors import load

CASES = load("tree-operations")


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_vector(case: dict[str, Any]) -> None:
    suite = CipherSuite.get(case["cipher_suite"])
    encoded = bytes.fromhex(case["tree_before"])
    before = RatchetTree.decode(suite, encoded)
    assert before.encode() == encoded
    assert before.tree_hash().hex() == case["tree_hash_before"]

    proposal = codec_of(Proposal).decode(bytes.fromhex(case["proposal"]))
    match proposal:
        case Add():
            after, _ = before.add(proposal.key_package.leaf_node)
        case Update():
            after = before.update(LeafIndex(case["proposal_sender"]), proposal.leaf_node)
        case Remove():
            after = before.remove(LeafIndex(proposal.removed))
        case _:
            pytest.fail(f"unexpected {type(proposal).__name__}")
    assert after.encode().hex() == case["tree_after"]
    assert after.tree_hash().hex() == case["tree_hash_after"]
    # the tree before is a value: it has not changed
    assert before.encode() == encoded
    assert before.tree_hash().hex() == case["tree_hash_before"]
