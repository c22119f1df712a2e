"""RFC 9420 6.1, 6.2, 6.3: signing and encryption of messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, MalformedError, PeerError, Replayed, UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import ProtocolVersion, WireFormat
from slixmpp_mls.mls.schedule.message_protection import (
    UnverifiedContent,
    no_padding,
    open_sender_data,
    pad_in_steps,
    protect_private,
    protect_public,
    sender_data_key,
    sign,
    unprotect_private,
    unprotect_public,
)
from slixmpp_mls.mls.schedule.secret_tree import RatchetKind, SecretTree
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.framing import (
    ApplicationData,
    AuthenticatedContent,
    ContentType,
    ExternalSenderIndex,
    FramedContent,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
    NewMemberProposalSender,
    PrivateMessage,
    PublicMessage,
)
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.leaf_node import Capabilities, KeyPackageSource, LeafNode, Lifetime
from slixmpp_mls.mls.structures.proposals import Add, Proposal, Remove
from slixmpp_mls.mls.tls import codec_of

from ...vectors import load

unhex = bytes.fromhex
CASES = load("message-protection")
by_suite = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["cipher_suite"]))
SENDER = MemberSender(1)
PUBLIC, PRIVATE = WireFormat.PUBLIC_MESSAGE, WireFormat.PRIVATE_MESSAGE


class Side:
    """The keys of one case of the vectors, and a member's use of them."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.suite = CipherSuite.get(case["cipher_suite"])
        self.group_id, self.epoch = unhex(case["group_id"]), case["epoch"]
        self.context = GroupContext(
            version=ProtocolVersion.MLS10,
            cipher_suite=self.suite.id,
            group_id=self.group_id,
            epoch=self.epoch,
            tree_hash=unhex(case["tree_hash"]),
            confirmed_transcript_hash=unhex(case["confirmed_transcript_hash"]),
            extensions=(),
        ).encode()
        self.key = self.suite.import_signature_key(unhex(case["signature_priv"]))
        self.signature_key = unhex(case["signature_pub"])
        self.sender_data_secret = unhex(case["sender_data_secret"])
        self.membership_key = unhex(case["membership_key"])
        self.tree = SecretTree.create(self.suite, unhex(case["encryption_secret"]), 2)

    def signed(
        self, wire_format: WireFormat, body: Any, sender: Any = SENDER, data: bytes = b""
    ) -> AuthenticatedContent:
        content = FramedContent(self.group_id, self.epoch, sender, data, body)
        signature = sign(self.suite, self.key, wire_format, content, self.context)
        tag = b"t" * self.suite.hash_length if isinstance(body, Commit) else None
        return AuthenticatedContent(wire_format, content, signature, tag)

    def encrypt(self, body: Any, **arguments: Any) -> PrivateMessage:
        """From the beginning of the ratchet."""
        message, _ = protect_private(
            self.suite, self.signed(PRIVATE, body), self.tree, self.sender_data_secret, **arguments
        )
        return message

    def decrypt(self, message: PrivateMessage) -> tuple[UnverifiedContent, SecretTree]:
        sender = open_sender_data(self.suite, message, self.sender_data_secret)
        return unprotect_private(self.suite, message, sender, self.tree)

    def protect(self, body: Any, **arguments: Any) -> PublicMessage:
        return protect_public(self.suite, self.signed(PUBLIC, body, **arguments), self.membership_key, self.context)

    def unprotect(self, message: PublicMessage) -> UnverifiedContent:
        return unprotect_public(self.suite, message, self.membership_key, self.context)

    def read(self, message: Any) -> AuthenticatedContent:
        """The verified content of either form."""
        unverified = self.unprotect(message) if isinstance(message, PublicMessage) else self.decrypt(message)[0]
        return unverified.verify(self.suite, self.signature_key, self.context)


def body_of(case: dict[str, Any], name: str) -> Any:
    octets = unhex(case[name])
    if name == "application":
        return ApplicationData(octets)
    return Commit.decode(octets) if name == "commit" else codec_of(Proposal).decode(octets)


@pytest.fixture
def side() -> Side:
    return Side(CASES[0])


# --- official vectors ---


@by_suite
@pytest.mark.parametrize("name", ["proposal", "commit", "application"])
def test_official_vectors_private(case: dict[str, Any], name: str) -> None:
    side = Side(case)
    received = MLSMessage.decode(unhex(case[f"{name}_priv"])).body
    assert isinstance(received, PrivateMessage)
    verified = side.read(received)
    assert verified.content.content == body_of(case, name)
    assert verified.content.sender == MemberSender(1)
    assert (verified.content.group_id, verified.content.epoch) == (side.group_id, side.epoch)

    own = side.signed(PRIVATE, body_of(case, name), data=b"authenticated")
    message, tree = protect_private(side.suite, own, side.tree, side.sender_data_secret)
    assert side.read(MLSMessage.decode(MLSMessage.wrap(message)).body) == own
    second, _ = protect_private(side.suite, own, tree, side.sender_data_secret)
    assert side.read(second) == own
    assert second.ciphertext != message.ciphertext


@by_suite
@pytest.mark.parametrize("name", ["proposal", "commit"])
def test_official_vectors_public(case: dict[str, Any], name: str) -> None:
    side = Side(case)
    received = MLSMessage.decode(unhex(case[f"{name}_pub"])).body
    assert isinstance(received, PublicMessage)
    verified = side.read(received)
    assert verified.content.content == body_of(case, name)
    if side.key.scheme.name.startswith("ed"):  # deterministic: ours is theirs, octet for octet
        again = protect_public(side.suite, verified, side.membership_key, side.context)
        assert MLSMessage.wrap(again) == unhex(case[f"{name}_pub"])
        assert sign(side.suite, side.key, PUBLIC, verified.content, side.context) == verified.signature

    own = side.signed(PUBLIC, body_of(case, name), data=b"authenticated")
    message = protect_public(side.suite, own, side.membership_key, side.context)
    assert side.read(MLSMessage.decode(MLSMessage.wrap(message)).body) == own


@by_suite
def test_6_application_data_in_a_public_message_is_refused(case: dict[str, Any]) -> None:
    side = Side(case)
    signed = side.signed(PUBLIC, body_of(case, "application"))
    with pytest.raises(UsageError, match="must be encrypted"):
        protect_public(side.suite, signed, side.membership_key, side.context)
    forced = PublicMessage(signed.content, signed.signature, None, b"tag")
    with pytest.raises(InvalidError, match="application data"):
        side.unprotect(forced)


# --- signatures, 6.1 ---


@by_suite
@pytest.mark.parametrize("name", ["proposal", "commit", "application"])
def test_6_1_an_unsigned_private_message_is_refused(case: dict[str, Any], name: str) -> None:
    """Encrypted with the group's keys, so by a member, but not by the one that it names."""
    side = Side(case)
    genuine = side.signed(PRIVATE, body_of(case, name))
    other = side.suite.generate_signature_key()
    for signature in (
        b"",
        bytes(len(genuine.signature)),
        sign(side.suite, other, PRIVATE, genuine.content, side.context),
        sign(side.suite, side.key, PUBLIC, genuine.content, side.context),  # for the other wire format
        sign(side.suite, side.key, PRIVATE, genuine.content, side.context + b"!"),  # for another GroupContext
    ):
        forged = dataclasses.replace(genuine, signature=signature)
        message, _ = protect_private(side.suite, forged, side.tree, side.sender_data_secret)
        unverified, _ = side.decrypt(message)
        with pytest.raises(InvalidError, match="bad signature"):
            unverified.verify(side.suite, side.signature_key, side.context)
    message, _ = protect_private(side.suite, genuine, side.tree, side.sender_data_secret)
    side.read(message)


@by_suite
def test_6_1_an_unsigned_public_message_is_refused(case: dict[str, Any]) -> None:
    side = Side(case)
    genuine = side.signed(PUBLIC, body_of(case, "commit"))
    for signature in (b"", bytes(64), sign(side.suite, side.key, PRIVATE, genuine.content, side.context)):
        forged = dataclasses.replace(genuine, signature=signature)
        message = protect_public(side.suite, forged, side.membership_key, side.context)  # its tag is right
        unverified = side.unprotect(message)
        with pytest.raises(InvalidError, match="bad signature"):
            unverified.verify(side.suite, side.signature_key, side.context)


def key_package() -> KeyPackage:
    capabilities = Capabilities((ProtocolVersion.MLS10,), (1,))
    leaf = LeafNode(b"e", b"s", BasicCredential(b"i"), capabilities, KeyPackageSource(Lifetime(0, 1)), ())
    return KeyPackage(ProtocolVersion.MLS10, 1, b"init", leaf, ())


OUTSIDERS: list[tuple[Any, Any, bool]] = [
    (ExternalSenderIndex(0), Remove(0), False),
    (NewMemberProposalSender(), Add(key_package()), False),
    (NewMemberCommitSender(), Commit((), None), True),
]


@pytest.mark.parametrize(("sender", "body", "covered"), OUTSIDERS)
def test_6_1_the_signature_covers_the_group_context_of_members_and_new_members_who_commit(
    side: Side, sender: Any, body: Any, covered: bool
) -> None:
    message = side.protect(body, sender=sender)
    assert message.membership_tag is None
    assert side.read(message).content.content == body
    unverified = unprotect_public(side.suite, message, b"", b"another context")
    if covered:
        with pytest.raises(InvalidError, match="bad signature"):
            unverified.verify(side.suite, side.signature_key, b"another context")
    else:
        unverified.verify(side.suite, side.signature_key, b"another context")


@pytest.mark.parametrize(
    ("sender", "body"),
    [
        (ExternalSenderIndex(0), Commit((), None)),
        (NewMemberProposalSender(), Remove(0)),
        (NewMemberProposalSender(), Commit((), None)),
        (NewMemberCommitSender(), Remove(0)),
        (NewMemberCommitSender(), Add(key_package())),
    ],
)
def test_6_1_outsiders_send_nothing_but_what_they_may(side: Side, sender: Any, body: Any) -> None:
    with pytest.raises(InvalidError, match="from"):
        side.unprotect(side.protect(body, sender=sender))


@pytest.mark.parametrize(("sender", "body", "covered"), OUTSIDERS)
def test_6_3_2_only_members_encrypt(side: Side, sender: Any, body: Any, covered: bool) -> None:
    with pytest.raises(UsageError, match="only members"):
        protect_private(side.suite, side.signed(PRIVATE, body, sender), side.tree, side.sender_data_secret)


def test_6_1_a_content_signed_for_one_form_is_not_sent_in_the_other(side: Side) -> None:
    with pytest.raises(UsageError, match="PrivateMessage"):
        protect_private(side.suite, side.signed(PUBLIC, Remove(0)), side.tree, side.sender_data_secret)
    with pytest.raises(UsageError, match="PublicMessage"):
        protect_public(side.suite, side.signed(PRIVATE, Remove(0)), side.membership_key, side.context)


# --- membership tag, 6.2 ---


@by_suite
def test_6_2_a_wrong_membership_tag_is_refused(case: dict[str, Any]) -> None:
    side = Side(case)
    message = side.protect(body_of(case, "commit"), data=b"data")
    assert message.membership_tag is not None
    side.unprotect(message)
    changed = [
        dataclasses.replace(message, membership_tag=tag)
        for tag in (b"", message.membership_tag[:-1], bytes(len(message.membership_tag)))
    ]
    changed.append(dataclasses.replace(message, signature=message.signature[:-1]))
    changed.append(dataclasses.replace(message, confirmation_tag=b""))
    others: dict[str, Any] = {"group_id": b"other", "epoch": 0, "sender": MemberSender(0), "authenticated_data": b""}
    for field, value in others.items():
        changed.append(dataclasses.replace(message, content=dataclasses.replace(message.content, **{field: value})))
    for bad in changed:
        with pytest.raises(InvalidError, match="membership tag"):
            side.unprotect(bad)
    for key, context in ((b"other key", side.context), (side.membership_key, side.context[:-1] + b"!")):
        with pytest.raises(InvalidError, match="membership tag"):
            unprotect_public(side.suite, message, key, context)


# --- encryption, 6.3 ---


@by_suite
def test_6_3_1_a_private_message_changed_on_the_way_is_refused(case: dict[str, Any]) -> None:
    side = Side(case)
    message = side.encrypt(ApplicationData(b"text"))
    side.read(message)
    change: dict[str, Any]
    for field in ("encrypted_sender_data", "ciphertext", "authenticated_data", "group_id"):
        octets: bytes = getattr(message, field)
        for changed in (b"", octets[:-1], octets + b"\0", octets[:-1] + bytes(((octets or b"\0")[-1] ^ 1,))):
            if changed != octets:
                change = {field: changed}
                with pytest.raises(InvalidError, match="AEAD"):
                    side.read(dataclasses.replace(message, **change))
    headers: tuple[dict[str, Any], ...] = ({"epoch": message.epoch + 1}, {"content_type": ContentType.COMMIT})
    for header in headers:
        with pytest.raises(InvalidError, match="AEAD"):
            side.read(dataclasses.replace(message, **header))


def test_6_3_2_the_sender_data_depends_on_the_ciphertext(side: Side) -> None:
    one, other = side.encrypt(ApplicationData(b"one")), side.encrypt(ApplicationData(b"other"))
    with pytest.raises(InvalidError, match="AEAD"):
        side.read(dataclasses.replace(one, encrypted_sender_data=other.encrypted_sender_data))


@pytest.mark.parametrize("octets", [b"", bytes(11), bytes(13)])
def test_6_3_2_sender_data_of_another_size_is_refused(side: Side, octets: bytes) -> None:
    message = side.encrypt(ApplicationData(b"text"))
    key, nonce = sender_data_key(side.suite, side.sender_data_secret, message.ciphertext)
    head = bytes((len(message.group_id),)) + message.group_id + message.epoch.to_bytes(8, "big") + b"\1"
    sealed = side.suite.aead_seal(key, nonce, head, octets)
    with pytest.raises(MalformedError, match="sender data"):
        side.decrypt(dataclasses.replace(message, encrypted_sender_data=sealed))


@pytest.mark.parametrize("leaf", [2, 2**32 - 1])
def test_6_3_2_a_sender_outside_the_tree_is_refused(side: Side, leaf: int) -> None:
    message = side.encrypt(ApplicationData(b"text"))
    sender = open_sender_data(side.suite, message, side.sender_data_secret)
    assert (sender.leaf_index, sender.generation) == (1, 0)
    with pytest.raises(InvalidError, match="no leaf"):
        unprotect_private(side.suite, message, sender._replace(leaf_index=leaf), side.tree)


def test_6_3_1_the_guard_is_fresh_and_changes_the_nonce(side: Side) -> None:
    """RFC 9420 6.3.1: even one generation used twice does not use one nonce twice."""
    messages = [side.encrypt(ApplicationData(b"text")) for _ in range(8)]
    guards = {open_sender_data(side.suite, message, side.sender_data_secret).reuse_guard for message in messages}
    assert len(guards) == len({message.ciphertext for message in messages}) == 8
    fixed = [side.encrypt(ApplicationData(b"text"), random=lambda size: b"g" * size) for _ in range(2)]
    assert fixed[0].ciphertext == fixed[1].ciphertext
    key, _ = side.tree.next(1, RatchetKind.APPLICATION)
    nonce = bytes(octet ^ ord("g") for octet in key.nonce[:4]) + key.nonce[4:]
    aad = bytes((len(side.group_id),)) + side.group_id + side.epoch.to_bytes(8, "big") + b"\1\0"
    assert side.suite.aead_open(key.key, nonce, aad, fixed[0].ciphertext).startswith(b"\4text")


def test_6_3_handshake_and_application_use_their_own_ratchets(side: Side) -> None:
    tree = side.tree
    for body, kinds in ((ApplicationData(b""), 1), (Remove(0), 2), (Commit((), None), 2)):
        message, tree = protect_private(side.suite, side.signed(PRIVATE, body), tree, side.sender_data_secret)
        kind = RatchetKind.APPLICATION if kinds == 1 else RatchetKind.HANDSHAKE
        expected = 1 if isinstance(body, Commit) else 0
        assert open_sender_data(side.suite, message, side.sender_data_secret).generation == expected
        piece = b"r" + (1).to_bytes(4, "big") + bytes((kind,))
        assert int.from_bytes(tree.pieces()[piece][:8], "big") == expected + 1


def test_9_2_a_replayed_message_is_refused(side: Side) -> None:
    message = side.encrypt(ApplicationData(b"text"))
    _, tree = side.decrypt(message)
    sender = open_sender_data(side.suite, message, side.sender_data_secret)
    with pytest.raises(Replayed):
        unprotect_private(side.suite, message, sender, tree)


def test_6_3_forgeries_do_not_use_up_the_key_of_the_genuine_message(side: Side) -> None:
    message = side.encrypt(ApplicationData(b"text"))
    before = side.tree.pieces()
    with pytest.raises(InvalidError):
        side.decrypt(dataclasses.replace(message, authenticated_data=b"forged"))
    assert side.tree.pieces() == before
    side.read(message)


# --- padding, 6.3.1 ---


def with_tail(side: Side, tail: bytes, body: Any, monkeypatch: pytest.MonkeyPatch) -> PrivateMessage:
    """A message whose plaintext ends in `tail`, made by a sender that breaks the rules."""
    seal: Callable[..., bytes] = CipherSuite.aead_seal
    calls: list[int] = []

    def sealing(suite: CipherSuite, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
        calls.append(1)
        return seal(suite, key, nonce, aad, plaintext + tail if len(calls) == 1 else plaintext)

    with monkeypatch.context() as patch:
        patch.setattr(CipherSuite, "aead_seal", sealing)
        return side.encrypt(body, padding=no_padding)


@pytest.mark.parametrize("tail", [b"\1", b"\0\0\1", b"\1\0\0", bytes(500) + b"\x80" + bytes(500)])
@pytest.mark.parametrize("name", ["proposal", "commit", "application"])
def test_6_3_1_padding_that_is_not_zero_is_refused(
    side: Side, name: str, tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = body_of(CASES[0], name)
    side.read(with_tail(side, bytes(len(tail)), body, monkeypatch))
    with pytest.raises(MalformedError, match="padding"):
        side.decrypt(with_tail(side, tail, body, monkeypatch))


def test_6_3_1_a_plaintext_cut_short_is_malformed(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    message = side.encrypt(ApplicationData(b"text"), padding=no_padding)
    opened: Callable[..., bytes] = CipherSuite.aead_open

    sender = open_sender_data(side.suite, message, side.sender_data_secret)
    for length in range(1 + 4 + 2 + 64):
        monkeypatch.setattr(CipherSuite, "aead_open", lambda *arguments, length=length: opened(*arguments)[:length])
        with pytest.raises(MalformedError):
            unprotect_private(side.suite, message, sender, side.tree)


@given(st.integers(0, 2**24))
def test_the_default_padding_grows_in_steps(size: int) -> None:
    padded = pad_in_steps(size)
    assert size <= padded < max(size + 64, size * 1.125 + 1)
    assert pad_in_steps(padded) == padded
    assert padded % 64 == 0
    assert pad_in_steps(size + 1) >= padded


def test_the_default_padding_hides_lengths() -> None:
    assert len({pad_in_steps(size) for size in range(1, 513)}) == 8
    assert len({pad_in_steps(size) for size in range(1, 100_001)}) < 80


@pytest.mark.parametrize(
    ("padding", "size"), [(no_padding, 71), (pad_in_steps, 128), (lambda size: 1000, 1000), (lambda size: 3, 71)]
)
def test_6_3_1_messages_are_padded_as_asked(side: Side, padding: Any, size: int) -> None:
    message = side.encrypt(ApplicationData(b"text"), padding=padding)
    assert len(message.ciphertext) == size + 16
    assert side.read(message).content.content == ApplicationData(b"text")


# --- whatever arrives ---


def test_plaintexts_are_not_shown(side: Side) -> None:
    message = side.encrypt(ApplicationData(b"the plaintext"))
    unverified, tree = side.decrypt(message)
    for value in (unverified, unverified.content, side.read(message), tree, message):
        assert "the plaintext" not in repr(value)


@given(st.binary(max_size=120), st.binary(max_size=120), st.sampled_from(ContentType))
def test_any_octets_give_a_typed_error(sender_data: bytes, ciphertext: bytes, content_type: ContentType) -> None:
    side = Side(CASES[0])
    with pytest.raises(PeerError):
        side.decrypt(PrivateMessage(side.group_id, side.epoch, content_type, b"", sender_data, ciphertext))
