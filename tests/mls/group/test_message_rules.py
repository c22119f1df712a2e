"""What a group does not listen to: RFC 9420 6 and 9.2, 15.3.  Each refusal leaves the state as it was."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import (
    InvalidError,
    MalformedError,
    NotForUs,
    PeerError,
    Replayed,
    UnknownGroup,
    UsageError,
    WrongEpoch,
)
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.message_processing import ReceivedMessage
from slixmpp_mls.mls.registry import WireFormat
from slixmpp_mls.mls.schedule.message_protection import no_padding, protect_private, sender_data_key
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.framing import (
    ApplicationData,
    AuthenticatedContent,
    ExternalSenderIndex,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
    NewMemberProposalSender,
    PrivateMessage,
    PublicMessage,
)
from slixmpp_mls.mls.structures.proposals import Add, ExternalInit, PreSharedKey, Remove, SelfRemove, Update
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID
from slixmpp_mls.mls.varint import encode_varint, read_varint
from tests.mls.group_helpers import (
    NOW,
    PUBLIC,
    Room,
    body,
    bundle,
    forged,
    forged_commit,
    heard,
    proposal_of,
    refused,
)

THREE = Room.of("alice", "bob", "carol")
ALICE, BOB, CAROL = THREE["alice"], THREE["bob"], THREE["carol"]
PSK = PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(32)))
HELLO, BOB_AFTER = BOB.encrypt(b"hello")


def public_of(message: bytes) -> PublicMessage:
    found = body(message)
    assert isinstance(found, PublicMessage)
    return found


def test_6_another_group() -> None:
    for public in (True, False):
        refused(ALICE, forged(BOB, Remove(2), group_id=b"another", public=public), "6.1", UnknownGroup)


def test_6_and_12_1_another_epoch() -> None:
    for epoch in (0, 2, 2**64 - 1):
        for public in (True, False):
            refused(ALICE, forged(BOB, Remove(2), epoch=epoch, public=public), "epoch", WrongEpoch)
            refused(ALICE, forged(BOB, Commit((), None), epoch=epoch, public=public), "epoch", WrongEpoch)
    refused(ALICE, forged(BOB, ApplicationData(b""), epoch=2, public=False), "epoch", WrongEpoch)


def test_6_another_version() -> None:
    message = MLSMessage.decode(HELLO)
    for version in (0, 2, 0xFFFF):
        refused(ALICE, replace(message, version=version), "protocol version")


def test_6_what_is_no_message_inside_a_group() -> None:
    made = ALICE.commit([Add(bundle("dave").key_package)], now=NOW)
    assert made.welcome is not None
    for message in (made.welcome, BOB.group_info(), MLSMessage.wrap(bundle("dave").key_package)):
        refused(ALICE, message, "no message inside a group")


def test_6_application_data_must_be_encrypted() -> None:
    with pytest.raises(UsageError):
        forged(BOB, ApplicationData(b"open"))
    content = replace(public_of(forged(BOB, Remove(2))).content, content=ApplicationData(b"open"))
    refused(ALICE, MLSMessage(1, PublicMessage(content, b"", None, b"")), "RFC 9420 6")


def test_6_1_signature() -> None:
    """Every member has the group's keys, and so could forge but for the signature (unsigned application messages)."""
    key = CAROL.signature_key
    for content in (ApplicationData(b"x"), Remove(2), Commit((), None)):
        refused(ALICE, forged(BOB, content, public=False, key=key), "signature")
        if not isinstance(content, ApplicationData):
            refused(ALICE, forged(BOB, content, key=key), "signature")


def test_6_1_signature_covers_context_and_wire_format() -> None:
    message = public_of(forged(BOB, Remove(2)))
    other = replace(BOB, public=replace(BOB.public, context=replace(BOB.context, confirmed_transcript_hash=b"")))
    refused(ALICE, forged(other, Remove(2)), "6.2")
    # signed for a PublicMessage, sent encrypted
    signed = AuthenticatedContent(WireFormat.PRIVATE_MESSAGE, message.content, message.signature)
    private, _ = protect_private(BOB.suite, signed, BOB.secret_tree, BOB.secrets.sender_data_secret)
    refused(ALICE, MLSMessage.wrap(private), "signature")


@pytest.mark.parametrize("leaf", [3, 4, 2**32 - 1])
def test_6_1_sender_that_is_no_member(leaf: int) -> None:
    refused(ALICE, forged(BOB, Remove(2), sender=MemberSender(leaf)), "no member")


@pytest.mark.parametrize("leaf", [3, 7, 2**32 - 1])
def test_6_3_2_sender_of_encrypted_message_that_is_no_member(leaf: int) -> None:
    """Only the sender data says who it is; it must not be a blank leaf, nor one outside of the tree."""
    message = body(HELLO)
    key, nonce = sender_data_key(BOB.suite, BOB.secrets.sender_data_secret, message.ciphertext)
    head = PrivateMessage(BOB.group_id, BOB.epoch, message.content_type, b"", b"", b"").encode()[:-3]
    sender_data = leaf.to_bytes(4, "big") + bytes(8)
    sealed = BOB.suite.aead_seal(key, nonce, head, sender_data)
    refused(ALICE, MLSMessage.wrap(replace(message, encrypted_sender_data=sealed)), "no member")
    own = BOB.suite.aead_seal(key, nonce, head, bytes(12))  # leaf 0 is Alice herself
    refused(ALICE, MLSMessage.wrap(replace(message, encrypted_sender_data=own)), "claims to be our own")


def test_6_1_what_each_kind_of_sender_may_send() -> None:
    dave = bundle("dave")
    key = dave.signature_key
    for sender, content in (
        (ExternalSenderIndex(0), Commit((), None)),
        (NewMemberProposalSender(), Commit((), None)),
        (NewMemberProposalSender(), Remove(0)),
        (NewMemberProposalSender(), SelfRemove()),
        (NewMemberCommitSender(), Add(dave.key_package)),
        (NewMemberCommitSender(), Remove(0)),
    ):
        refused(ALICE, forged(BOB, content, sender=sender, key=key), "6.1")
    refused(ALICE, forged(BOB, Commit((), None), sender=NewMemberCommitSender(), key=key), "12.4.3.2")


def test_6_2_membership_tag() -> None:
    """A former member has the signature key still, but not this epoch's keys."""
    message = public_of(forged(BOB, Remove(2)))
    assert message.membership_tag is not None
    for tag in (bytes(32), b"", message.membership_tag[:-1], message.membership_tag + b"\0"):
        refused(ALICE, MLSMessage.wrap(replace(message, membership_tag=tag)), "6.2")
    secrets = replace(BOB.secrets, membership_key=bytes(32))
    refused(ALICE, forged(replace(BOB, secrets=secrets), Remove(2)), "6.2")


def test_6_3_every_octet_of_an_encrypted_message_counts() -> None:
    alice = ALICE
    before = alice.pieces()
    for place in range(len(HELLO)):
        changed = bytearray(HELLO)
        changed[place] ^= 1
        with pytest.raises(PeerError):
            alice.process(bytes(changed), now=NOW)
    assert alice.pieces() == before
    for end in range(len(HELLO)):
        with pytest.raises(PeerError):
            alice.process(HELLO[:end], now=NOW)
    with pytest.raises(MalformedError):
        alice.process(HELLO + b"\0", now=NOW)
    assert alice.pieces() == before
    received = alice.process(HELLO, now=NOW)
    assert isinstance(received, ReceivedMessage)


def test_6_3_1_padding_must_be_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = type(BOB.suite)
    seal = suite.aead_seal

    def spoiling(self, key, nonce, aad, text):  # type: ignore[no-untyped-def]
        return seal(self, key, nonce, aad, text if len(text) == 12 else bytes(text[:-1]) + b"\1")  # 12: sender data

    with monkeypatch.context() as patch:
        patch.setattr(suite, "aead_seal", spoiling)
        message, _ = BOB.encrypt(b"x", padding=lambda size: size + 3)
    refused(ALICE, message, "6.3.1", MalformedError)


def test_9_2_replay() -> None:
    alice = heard(ALICE, HELLO)
    refused(alice, HELLO, "9.2", Replayed)
    refused(Group.restore(alice.pieces().items()), HELLO, "9.2", Replayed)


def test_9_2_our_own_message() -> None:
    refused(BOB_AFTER, HELLO, "our own", NotForUs)


def test_15_3_a_generation_too_far_ahead() -> None:
    parameters = replace(ALICE.parameters, forward_limit=10, skipped_limit=5)
    alice, bob = replace(ALICE, parameters=parameters), BOB
    sent = []
    for _ in range(12):
        message, bob = bob.encrypt(b"x")
        sent.append(message)
    refused(alice, sent[11], "15.3")
    alice = heard(alice, sent[10])
    alice = heard(heard(alice, sent[11]), sent[9])
    refused(alice, sent[5], "9.2", Replayed)  # behind the window
    assert heard(alice, sent[6])


def test_a_proposal_that_is_refused_moves_no_ratchet() -> None:
    """Otherwise an insider could make us lose the keys of what somebody else sends."""
    message = forged(BOB, Remove(17), public=False)
    refused(ALICE, message, "no member")
    good, _ = BOB.propose(Remove(2), now=NOW)  # with the very same generation
    assert proposal_of(ALICE, good)


def test_selfremove_encrypted() -> None:
    refused(ALICE, forged(BOB, SelfRemove(), public=False), "SelfRemove")


def test_12_1_2_update_by_no_member() -> None:
    refused(ALICE, forged(BOB, Update(BOB.own_leaf), sender=ExternalSenderIndex(0)), "6.1")


def test_12_1_6_external_init_alone() -> None:
    refused(ALICE, forged(BOB, ExternalInit(b"")), "12.1.6")


def test_too_many_proposals() -> None:
    parameters = replace(ALICE.parameters, proposal_limit=3)
    alice = replace(ALICE, parameters=parameters)
    for number in range(3):
        nonce = bytes([number]) * 32
        alice = heard(alice, forged(BOB, PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), nonce))))
    refused(alice, forged(BOB, PSK, authenticated_data=b"one more"), "proposals in one epoch")
    first = forged(BOB, PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(32))))
    assert heard(alice, first).pending_proposals == alice.pending_proposals  # known already
    alice = heard(alice, CAROL.commit(now=NOW).commit)
    assert alice.pending_proposals == ()


def test_too_many_proposals_of_one_member() -> None:
    """One member fills its own share only: others' proposals are still taken."""
    alice = ALICE
    limit = alice.parameters.member_proposal_limit
    assert limit == 16
    for number in range(limit):
        alice = heard(alice, forged(BOB, PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes([number]) * 32))))
    refused(alice, forged(BOB, PSK, authenticated_data=b"one more"), "proposals of one member")
    alice = heard(alice, forged(CAROL, PSK, authenticated_data=b"another member's"))
    assert len(alice.pending_proposals) == limit + 1


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)))
def test_all_keep_the_same_proposals_whatever_is_on_its_way(order: list[int]) -> None:
    """RFC 9420 12.4: what a Commit may refer to follows from the order in which the group shows proposals, alone.

    Two members have each sent three before they see any; four are kept, in whatever order the group shows them.
    """
    parameters = replace(ALICE.parameters, proposal_limit=4)
    alice, bob, carol = (replace(each, parameters=parameters) for each in (ALICE, BOB, CAROL))
    sent: list[tuple[str, bytes, bytes]] = []
    for number in range(3):
        proposal = PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes([number]) * 32))
        message, alice = alice.propose(proposal, now=NOW)
        sent.append(("alice", message, alice.public.proposal_order[-1]))
        message, bob = bob.propose_update(now=NOW) if number == 0 else bob.propose(proposal, now=NOW)
        sent.append(("bob", message, bob.public.proposal_order[-1]))
    members = {"alice": alice, "bob": bob, "carol": carol}
    for place in order:
        sender, message, reference = sent[place]
        for name, member in members.items():
            if name == sender:
                members[name] = member.with_shown(reference)
            else:
                with suppress(InvalidError):
                    members[name] = heard(member, message)
    assert len(members["carol"].public.proposals) == 4
    for member in members.values():
        assert member.public.proposal_order == members["carol"].public.proposal_order
        assert member.unshown == frozenset()
        assert set(member.updates) <= set(member.public.proposals)
        again = Group.restore(member.pieces().items(), parameters)
        assert again.public.proposal_order == member.public.proposal_order


def test_a_proposal_that_the_group_has_not_shown_is_known_after_a_restart() -> None:
    _, alice = ALICE.propose(PSK, now=NOW)
    (reference,) = alice.public.proposal_order
    changed = {name: value for name, value in alice.changes_since(ALICE).items() if name[:1] == b"N"}
    assert len(changed) == 1
    again = Group.restore(alice.pieces().items())
    assert again.unshown == {reference}
    shown = again.with_shown(reference)
    assert shown.unshown == frozenset()
    assert shown.changes_since(again) == dict.fromkeys(changed)


def test_garbage() -> None:
    for data in (b"", b"\0", b"\0\1", b"\0\1\0\2", bytes(100), HELLO[2:], b"\0\1\0\6" + HELLO[4:]):
        before = ALICE.pieces()
        with pytest.raises(PeerError):
            ALICE.process(data, now=NOW)
        assert ALICE.pieces() == before


def test_varints_are_minimal_at_0x3fff() -> None:
    """mls-peers-lessons, users 9; openmls#2147: the length prefix at exactly 0x3fff takes two octets."""
    assert encode_varint(0x3FFF) == b"\x7f\xff"
    for size in (0x3F, 0x40, 0x3FFE, 0x3FFF, 0x4000):
        message, _ = BOB.encrypt(b"x" * size, padding=no_padding)
        received = ALICE.process(message, now=NOW)
        assert isinstance(received, ReceivedMessage)
        assert len(received.data) == size
    with pytest.raises(MalformedError):
        read_varint(b"\x80\x00\x3f\xff", 0, 4)


def test_refused_commits_do_not_stop_the_group() -> None:
    room = THREE.copy()
    for message in (
        forged_commit(BOB, Remove(1)),
        forged_commit(BOB, Remove(9), public=False),
        forged(BOB, Commit((), None)),
        BOB.commit(now=NOW, options=PUBLIC).commit[:-1],
    ):
        refused(room["alice"], message, "")
    room.commit("carol")
    room.say("bob")
