"""The official vectors of draft-ietf-mls-partial: all seven files.

They use three suites of draft-ietf-mls-pq-ciphersuites as well, under numbers that are not assigned: 8 and 10 are
those of this package with MLKEM768-X25519 and MLKEM1024-P384, and 9 has MLKEM768-P256, which this package has not.
So cases of suite 9 are run as far as only its hash is needed.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from pyhpke import AEADId

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto import cipher_suite
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.message_processing import ReceivedMessage
from slixmpp_mls.mls.group.staging import new_context, next_epoch, provisional_context
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.partial import PartialGroup, StagedPartialCommit
from slixmpp_mls.mls.schedule.message_protection import open_sender_data, unprotect_private, unprotect_public
from slixmpp_mls.mls.schedule.secret_tree import SecretTree
from slixmpp_mls.mls.schedule.transcript import interim_transcript_hash, verify_confirmation_tag
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.framing import AuthenticatedContent, MemberSender, PrivateMessage, PublicMessage
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.partial import (
    AnnotatedCommit,
    AnnotatedWelcome,
    CopathHash,
    MembershipProof,
    SenderAuthenticatedGroupInfo,
    SenderAuthenticatedMessage,
    SenderAuthenticatedPrivateMessage,
    SenderAuthenticatedPublicMessage,
    SenderAuthenticatedWelcome,
)
from slixmpp_mls.mls.structures.psk import ExternalPSK, ResumptionPSK
from slixmpp_mls.mls.structures.update_path import UpdatePath
from slixmpp_mls.mls.tls import Struct
from slixmpp_mls.mls.tree.partial_path import check_path, decrypt_path
from slixmpp_mls.mls.tree.partial_tree import PartialTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex, NodeIndex, common_ancestor, level, node_of
from slixmpp_mls.mls.tree.tree_slice import TreeSlice
from slixmpp_mls.mls.tree.treekem import TreeKEMPrivate
from tests.mls.group.test_passive_client import ANY_TIME, bundle_of
from tests.vectors import load

COUNTS = {
    "membership-proofs": 80,
    "tree-operations": 40,
    "message-syntax": 10,
    "sender-authenticated-messages": 20,
    "annotated-welcome": 10,
    "annotated-commit": 10,
    "passive-client-scenarios": 10,
}
SUITES_OF_THE_FILES = set(range(1, 11))
POST_QUANTUM = {8: 0xF002, 10: 0xF005}


def cases(name: str) -> list[Any]:
    return load(f"partial/test-vector-partial-{name}")


@pytest.fixture(autouse=True)
def numbers_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, ours in POST_QUANTUM.items():
        if CipherSuite.is_supported(ours):
            suite = CipherSuite.get(ours)
            same = CipherSuite(cast(Any, number), suite._hpke.kem, AEADId.AES256_GCM, "sha384", suite.signature)
            monkeypatch.setitem(cipher_suite._SUITES, number, same)


def suite_of(case: dict[str, Any]) -> CipherSuite:
    """The suite; the test is skipped if there is none."""
    number = case["cipher_suite"]
    if not CipherSuite.is_supported(number):
        assert number == 9 or not CipherSuite.is_supported(POST_QUANTUM[number])
        pytest.skip(f"cipher suite {number} of the vectors is not supported")
    return CipherSuite.get(number)


def hash_of(case: dict[str, Any]) -> CipherSuite:
    """A suite with the hash of the case's suite: SHA-384 for all three that are post-quantum."""
    return CipherSuite.get(case["cipher_suite"] if case["cipher_suite"] <= 7 else 7)


def octets(case: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(case[name])


def test_every_case_is_there() -> None:
    for name, count in COUNTS.items():
        found = cases(name)
        assert len(found) == count
        assert {case["cipher_suite"] for case in found} == SUITES_OF_THE_FILES


# --- proofs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(COUNTS["membership-proofs"]))
def test_membership_proofs(number: int) -> None:
    case = cases("membership-proofs")[number]
    suite = hash_of(case)
    assert case["proofs"]
    for encoded in case["proofs"]:
        proof = MembershipProof.decode(bytes.fromhex(encoded))
        assert proof.encode().hex() == encoded
        shown = TreeSlice.of(suite, proof)
        assert shown.tree_hash.hex() == case["tree_hash"]
        shown.require(octets(case, "tree_hash"), proof.n_leaves)
        with pytest.raises(InvalidError):
            shown.require(bytes(suite.hash_length))


@pytest.mark.parametrize("number", range(COUNTS["tree-operations"]))
def test_tree_operations(number: int) -> None:
    """The path is encrypted with the tree hash in the place of the context."""
    case = cases("tree-operations")[number]
    suite, after = suite_of(case), octets(case, "tree_hash_after")
    update = UpdatePath.decode(octets(case, "update_path"))
    sender = TreeSlice.of(suite, MembershipProof.decode(octets(case, "sender_membership_proof_after"))).require(after)
    receiver = TreeSlice.of(suite, MembershipProof.decode(octets(case, "receiver_membership_proof_after")))
    receiver.require(after, sender.leaf_count)
    keys = {
        NodeIndex(entry["node"]): suite.import_hpke_key(bytes.fromhex(entry["encryption_priv"]))
        for entry in case["receiver_path_state"]
    }
    held = TreeKEMPrivate(receiver.index, TreeKEMPrivate.of_leaf(receiver.index, keys[node_of(receiver.index)]).keys)
    held = TreeKEMPrivate(held.index, held.keys.update(keys)).kept_in(PartialTree(receiver))
    check_path(sender, update)
    private, secret = decrypt_path(held, sender, receiver, update, case["resolution_index"], after)
    assert secret.hex() == case["commit_secret"]
    assert private.kept_in(PartialTree(receiver)) is private
    start = common_ancestor(node_of(sender.index), node_of(receiver.index))
    assert {node for node, _ in receiver.parents if level(node) >= level(start)} <= set(private.keys)


# --- messages ------------------------------------------------------------------------------------

SYNTAX: dict[str, type[Struct]] = {
    "copath_hash": CopathHash,
    "membership_proof": MembershipProof,
    "sender_authenticated_welcome": SenderAuthenticatedWelcome,
    "sender_authenticated_group_info": SenderAuthenticatedGroupInfo,
    "sender_authenticated_public_message": SenderAuthenticatedPublicMessage,
    "sender_authenticated_private_message": SenderAuthenticatedPrivateMessage,
    "annotated_welcome": AnnotatedWelcome,
    "annotated_commit": AnnotatedCommit,
}


@pytest.mark.parametrize("name", SYNTAX)
@pytest.mark.parametrize("number", range(COUNTS["message-syntax"]))
def test_message_syntax(number: int, name: str) -> None:
    case = cases("message-syntax")[number]
    value = SYNTAX[name].decode(octets(case, name))
    assert value.encode().hex() == case[name]


@pytest.mark.parametrize("number", range(COUNTS["sender-authenticated-messages"]))
def test_sender_authenticated_messages(number: int) -> None:
    """They lack the GroupContext that their signatures cover: the proof and the sender are what can be compared."""
    case = cases("sender-authenticated-messages")[number]
    suite = hash_of(case)
    message = SenderAuthenticatedPublicMessage.decode(octets(case, "sender_authenticated_message"))
    assert message.encode().hex() == case["sender_authenticated_message"]
    shown = TreeSlice.of(suite, message.sender_membership_proof)
    content = message.message.content
    assert content.sender == MemberSender(shown.index)
    assert isinstance(content.content, Commit) == (case["message_type"] == "PublicMessageCommit")


# --- welcomes and commits ------------------------------------------------------------------------


def joined(case: dict[str, Any]) -> PartialGroup:
    suite_of(case)
    known = {bytes.fromhex(psk["psk_id"]): bytes.fromhex(psk["psk"]) for psk in case["external_psks"]}

    def psks(name: ExternalPSK | ResumptionPSK) -> bytes | None:
        return known.get(name.psk_id) if isinstance(name, ExternalPSK) else None

    annotated = AnnotatedWelcome.decode(octets(case, "annotated_welcome"))
    return PartialGroup.join(annotated, bundle_of(case), psks=psks, parameters=ANY_TIME).state


@pytest.mark.parametrize("number", range(COUNTS["annotated-welcome"]))
def test_annotated_welcome(number: int) -> None:
    case = cases("annotated-welcome")[number]
    group = joined(case)
    assert group.epoch_authenticator.hex() == case["epoch_authenticator"]
    assert group.own_index == case["joiner_leaf_index"]


@pytest.mark.parametrize("number", range(COUNTS["annotated-commit"]))
def test_annotated_commit(number: int) -> None:
    """The state before lacks the receiver's private keys, so that its path secret is taken from the state after."""
    case = cases("annotated-commit")[number]
    suite = suite_of(case)
    before, after = case["state_before"], case["state_after"]
    annotated = AnnotatedCommit.decode(octets(case, "annotated_commit"))
    assert annotated.tree_hash_after == octets(case, "tree_hash_after") == octets(after, "tree_hash")
    context = GroupContext(
        1, suite.id, octets(before, "group_id"), before["epoch"], octets(before, "tree_hash"),
        octets(before, "confirmed_transcript_hash"), (),
    )  # fmt: skip
    assert annotated.sender_membership_proof is not None
    committer = TreeSlice.of(suite, annotated.sender_membership_proof).require(context.tree_hash)
    sender = TreeSlice.of(suite, annotated.sender_membership_proof_after).require(annotated.tree_hash_after)
    receiver = TreeSlice.of(suite, annotated.receiver_membership_proof_after)
    receiver.require(annotated.tree_hash_after, sender.leaf_count)
    assert receiver.index == before["receiver_leaf_index"] == after["receiver_leaf_index"]
    assert committer.index == sender.index

    content = opened(suite, annotated, before, context, committer)
    commit = content.content.content
    assert isinstance(commit, Commit)
    assert commit.path is not None
    check_path(sender, commit.path)
    provisional = provisional_context(context, annotated.tree_hash_after, ())
    secrets = {NodeIndex(entry["node"]): entry for entry in after["direct_path_secrets"]}
    start = common_ancestor(node_of(sender.index), node_of(receiver.index))
    path = [(node, parent.encryption_key) for node, parent in sender.parents if level(node) >= level(start)]
    reached, secret = TreeKEMPrivate.of_leaf(receiver.index, suite.generate_key_pair()).with_path(
        suite, bytes.fromhex(secrets[start]["path_secret"]), path, "RFC 9420 7.5"
    )
    assert secret.hex() == case["commit_secret"]
    for node, entry in secrets.items():
        assert reached.keys[node].encode().hex() == entry["encryption_priv"]
    new = next_epoch(
        suite,
        new_context(suite, octets(before, "interim_transcript_hash"), provisional, content),
        octets(before, "init_secret"),
        secret,
        suite.zero,
    )
    assert new.epoch.secrets.epoch_authenticator.hex() == case["epoch_authenticator_after"]
    confirmed, tag = new.context.confirmed_transcript_hash, content.confirmation_tag
    assert tag is not None
    verify_confirmation_tag(suite, new.epoch.secrets.confirmation_key, confirmed, tag)
    assert new.epoch.encryption_secret.hex() == after["encryption_secret"]
    assert new.epoch.secrets.init_secret.hex() == after["init_secret"]
    assert new.epoch.secrets.membership_key.hex() == after["membership_key"]
    assert new.epoch.secrets.sender_data_secret.hex() == after["sender_data_secret"]
    assert confirmed.hex() == after["confirmed_transcript_hash"]
    assert interim_transcript_hash(suite, confirmed, tag).hex() == after["interim_transcript_hash"]
    assert (new.context.epoch, new.context.group_id.hex()) == (after["epoch"], after["group_id"])


def opened(
    suite: CipherSuite, annotated: AnnotatedCommit, before: dict[str, Any], context: GroupContext, committer: TreeSlice
) -> AuthenticatedContent:
    """The Commit, its sender authenticated."""
    body = annotated.commit.body
    if isinstance(body, PublicMessage):
        unverified = unprotect_public(suite, body, octets(before, "membership_key"), context.encode())
    else:
        assert isinstance(body, PrivateMessage)
        data = open_sender_data(suite, body, octets(before, "sender_data_secret"))
        tree = SecretTree.create(suite, octets(before, "encryption_secret"), committer.leaf_count)
        unverified, _ = unprotect_private(suite, body, data, tree)
    content = unverified.verify(suite, committer.leaf.signature_key, context.encode())
    assert content.content.sender == MemberSender(committer.index)
    return content


@pytest.mark.parametrize("number", range(COUNTS["passive-client-scenarios"]))
def test_passive_client_scenarios(number: int) -> None:
    case = cases("passive-client-scenarios")[number]
    group = joined(case)
    assert group.epoch_authenticator.hex() == case["initial_epoch_authenticator"]
    for epoch in case["epochs"]:
        assert epoch["proposals"] == []
        staged = group.process(AnnotatedCommit.decode(octets(epoch, "annotated_commit")), now=0)
        assert isinstance(staged, StagedPartialCommit)
        before = group.stored()
        group = before.apply(staged, now=0)
        assert group.epoch_authenticator.hex() == epoch["epoch_authenticator"]
        assert epoch["application_messages"]
        for encoded in epoch["application_messages"]:
            message = SenderAuthenticatedMessage.decode(bytes.fromhex(encoded))
            received = group.process(message, now=0)
            assert isinstance(received, ReceivedMessage)
            assert received.leaf == message.sender_membership_proof.direct_path_nodes[0]
            group = group.apply(received, now=0)
        # what the store keeps is the whole state
        kept: dict[bytes, bytes | None] = {**before.pieces(), **group.changes_since(before)}
        left = {name: value for name, value in kept.items() if value is not None}
        assert left == group.pieces()
        group = PartialGroup.restore(left.items(), Parameters(lifetime_limit=2**64))
        assert group.tree.leaf(LeafIndex(group.own_index)) == cast(Any, group.own_leaf)
