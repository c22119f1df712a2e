"""Signing, encrypting, and the way back (RFC 9420 6.1, 6.2, 6.3).

How far a received message has come can be read off its type::

    PublicMessage ── unprotect_public ──────────────┐
                                                    ├─ UnverifiedContent ── verify ── AuthenticatedContent
    PrivateMessage ── open_sender_data ── SenderData │
                   └─ unprotect_private ─────────────┘ (and the secret tree without the key)

An :class:`UnverifiedContent` came from somebody who has the group's keys, any member; only the signature tells
which one.  So nothing of it may take effect before :meth:`UnverifiedContent.verify`, the new secret tree included.

Whether group and epoch are the ones whose keys are used here is for the caller to check first.
`group_context` is always the GroupContext of the message's epoch, encoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from struct import Struct as Layout
from typing import NamedTuple

from ...errors import InvalidError, MalformedError, UsageError
from ..crypto.cipher_suite import CipherSuite, Random, SignaturePrivateKey
from ..registry import ProtocolVersion, WireFormat
from ..structures.commit import Commit
from ..structures.framing import (
    ApplicationData,
    AuthenticatedContent,
    ContentType,
    ExternalSenderIndex,
    FramedContent,
    MemberSender,
    NewMemberCommitSender,
    NewMemberProposalSender,
    PrivateMessage,
    PublicMessage,
    content_select,
    content_type_of,
)
from ..structures.proposals import Add
from ..varint import encode_varint, read_span, write_opaque
from .secret_tree import RatchetKind, RatchetLimits, SecretTree

__all__ = [
    "Padding", "SenderData", "UnverifiedContent", "content_mark", "no_padding", "open_sender_data", "pad_in_steps",
    "protect_private", "protect_public", "ratchet_for", "sender_data_key", "sign", "unprotect_private",
    "unprotect_public",
]  # fmt: skip

Padding = Callable[[int], int]
"""From a plaintext's size to the size to which it is padded, in octets."""


def pad_in_steps(size: int) -> int:
    """The default padding: to a multiple of 64 octets, above 512 in steps of an eighth of the power of two below."""
    step = max(64, 1 << ((size - 1).bit_length() - 4)) if size > 512 else 64
    return -(-size // step) * step


def no_padding(size: int) -> int:
    return size


# --- signing, 6.1 ----------------------------------------------------------------------------

_HEADS = {form: ProtocolVersion.MLS10.to_bytes(2, "big") + form.to_bytes(2, "big") for form in WireFormat}
_LABEL = "FramedContentTBS"


def _has_context(content: FramedContent) -> bool:
    """Whether signature and membership tag cover the GroupContext."""
    return isinstance(content.sender, MemberSender | NewMemberCommitSender)


def _to_be_signed(wire_format: WireFormat, content: FramedContent, group_context: bytes) -> bytes:
    """``FramedContentTBS``."""
    return _HEADS[wire_format] + content.encode() + (group_context if _has_context(content) else b"")


def sign(
    suite: CipherSuite, key: SignaturePrivateKey, wire_format: WireFormat, content: FramedContent, group_context: bytes
) -> bytes:
    """The signature of a content that will travel in this form.

    :param group_context: not used, and may be empty, if the sender is no member and does not become one by this
    """
    return suite.sign_with_label(key, _LABEL, _to_be_signed(wire_format, content, group_context))


class UnverifiedContent:
    """A content whose signature has not been checked."""

    __slots__ = ("_message",)

    def __init__(self, message: AuthenticatedContent) -> None:
        self._message = message

    def __repr__(self) -> str:
        return f"<UnverifiedContent of epoch {self.content.epoch}>"

    @property
    def content(self) -> FramedContent:
        """The unverified content, to find the key that verifies it."""
        return self._message.content

    def verify(self, suite: CipherSuite, signature_key: bytes, group_context: bytes) -> AuthenticatedContent:
        """The content, now known to be its sender's.

        :param signature_key: of the leaf, external sender or KeyPackage that :attr:`content` claims as its sender
        :raises InvalidError: the signature is not by this key (6.1)
        """
        message = self._message
        signed = _to_be_signed(message.wire_format, message.content, group_context)
        suite.verify_with_label(signature_key, _LABEL, signed, message.signature)
        return message


# --- PublicMessage, 6.2 ----------------------------------------------------------------------


def _membership_tag_input(message: AuthenticatedContent, group_context: bytes) -> bytes:
    """``AuthenticatedContentTBM``."""
    out = bytearray(_to_be_signed(message.wire_format, message.content, group_context))
    write_opaque(out, message.signature)
    if message.confirmation_tag is not None:
        write_opaque(out, message.confirmation_tag)
    return bytes(out)


def protect_public(
    suite: CipherSuite, message: AuthenticatedContent, membership_key: bytes, group_context: bytes
) -> PublicMessage:
    """The message that carries a signed content openly.

    :param membership_key: not used if the sender is no member
    :raises UsageError: application data, or signed for the other form
    """
    if isinstance(message.content.content, ApplicationData):  # RFC 9420 6
        raise UsageError("application data must be encrypted")
    if message.wire_format is not WireFormat.PUBLIC_MESSAGE:
        raise UsageError("the content was not signed for a PublicMessage")
    tag = None
    if isinstance(message.content.sender, MemberSender):
        tag = suite.mac(membership_key, _membership_tag_input(message, group_context))
    return PublicMessage(message.content, message.signature, message.confirmation_tag, tag)


def unprotect_public(
    suite: CipherSuite, message: PublicMessage, membership_key: bytes | None, group_context: bytes
) -> UnverifiedContent:
    """The content of a PublicMessage, its membership tag checked.

    :param membership_key: None for somebody outside, who cannot check the tag
    :raises InvalidError: application data, a content that its sender may not send, or a wrong membership tag
    """
    content = message.content
    if isinstance(content.content, ApplicationData):
        raise InvalidError("application data in a PublicMessage", "RFC 9420 6")
    _check_sender(content)
    received = AuthenticatedContent(WireFormat.PUBLIC_MESSAGE, content, message.signature, message.confirmation_tag)
    # the tag is there if and only if the sender is a member: the structure's own rule
    if message.membership_tag is not None and membership_key is not None:
        try:
            covered = _membership_tag_input(received, group_context)
            suite.verify_mac(membership_key, covered, message.membership_tag)
        except InvalidError:
            raise InvalidError("wrong membership tag", "RFC 9420 6.2") from None
    return UnverifiedContent(received)


def _check_sender(content: FramedContent) -> None:
    """RFC 9420 6.1: what each kind of sender may send.

    :raises InvalidError: something else
    """
    body = content.content
    match content.sender:
        case ExternalSenderIndex():
            allowed = content_type_of(body) is ContentType.PROPOSAL
        case NewMemberProposalSender():
            allowed = isinstance(body, Add)
        case NewMemberCommitSender():
            allowed = isinstance(body, Commit)
        case _:
            allowed = True
    if not allowed:
        raise InvalidError(f"{type(body).__name__} from {type(content.sender).__name__}", "RFC 9420 6.1")


# --- PrivateMessage, 6.3 ---------------------------------------------------------------------

_SENDER_DATA = Layout(">II4s")
_MEMBER = b"\x01"  # SenderType.MEMBER
_DEFAULT_LIMITS = RatchetLimits()


class SenderData(NamedTuple):
    """The claimed sender of a PrivateMessage, and the key that opens it (6.3.2)."""

    leaf_index: int
    generation: int
    reuse_guard: bytes


def protect_private(
    suite: CipherSuite,
    message: AuthenticatedContent,
    tree: SecretTree,
    sender_data_secret: bytes,
    padding: Padding = pad_in_steps,
    random: Random = os.urandom,
) -> tuple[PrivateMessage, SecretTree]:
    """The message that carries a signed content encrypted, and the secret tree without its key.

    The tree must be stored before the message is sent, or a restart uses its key again.

    :raises UsageError: the sender is no member, or the content was signed for the other form
    """
    content = message.content
    sender = content.sender
    if not isinstance(sender, MemberSender):  # RFC 9420 6.3.2
        raise UsageError("only members encrypt messages")
    if message.wire_format is not WireFormat.PRIVATE_MESSAGE:
        raise UsageError("the content was not signed for a PrivateMessage")
    content_type = content_type_of(content.content)

    plaintext = bytearray()
    content_select.write_variant(plaintext, content.content)
    write_opaque(plaintext, message.signature)
    if message.confirmation_tag is not None:
        write_opaque(plaintext, message.confirmation_tag)
    size = len(plaintext)
    plaintext.extend(bytes(max(0, padding(size) - size)))

    kind = ratchet_for(content_type)
    (generation, key, nonce), tree = tree.next(sender.leaf_index, kind)
    tree = tree.carrying(sender.leaf_index, kind, content_mark(content))
    guard = random(4)
    head = _aad_head(content.group_id, content.epoch, content_type)
    aad = head + encode_varint(len(content.authenticated_data)) + content.authenticated_data
    ciphertext = suite.aead_seal(key, _guarded(nonce, guard), aad, plaintext)

    key, nonce = sender_data_key(suite, sender_data_secret, ciphertext)
    sender_data = _SENDER_DATA.pack(sender.leaf_index, generation, guard)
    encrypted = suite.aead_seal(key, nonce, head, sender_data)
    return (
        PrivateMessage(
            content.group_id, content.epoch, content_type, content.authenticated_data, encrypted, ciphertext
        ),
        tree,
    )


def open_sender_data(suite: CipherSuite, message: PrivateMessage, sender_data_secret: bytes) -> SenderData:
    """The first step of decryption.

    The caller then checks that the leaf is not blank (6.3.2), and not its own.

    :raises InvalidError: encrypted with other keys, or changed on the way
    :raises MalformedError: no sender data
    """
    key, nonce = sender_data_key(suite, sender_data_secret, message.ciphertext)
    head = _aad_head(message.group_id, message.epoch, message.content_type)
    octets = suite.aead_open(key, nonce, head, message.encrypted_sender_data)
    if len(octets) != _SENDER_DATA.size:
        raise MalformedError(f"sender data of {len(octets)} octets")
    return SenderData(*_SENDER_DATA.unpack(octets))


def unprotect_private(
    suite: CipherSuite,
    message: PrivateMessage,
    sender: SenderData,
    tree: SecretTree,
    limits: RatchetLimits = _DEFAULT_LIMITS,
) -> tuple[UnverifiedContent, SecretTree]:
    """The content of a PrivateMessage, and the secret tree without its key, which remembers the content.

    Use that tree only after :meth:`UnverifiedContent.verify`: otherwise any member could make us delete
    keys of another's messages.

    :raises Replayed: the key has been used and deleted (9.2)
    :raises Premature: a generation too far ahead
    :raises InvalidError: changed on the way
    :raises MalformedError: the plaintext does not parse, or its padding is not all zeros (6.3.1)
    """
    content_type = message.content_type
    kind = ratchet_for(content_type)
    (_, key, nonce), tree = tree.at(sender.leaf_index, kind, sender.generation, limits)
    head = _aad_head(message.group_id, message.epoch, content_type)
    authenticated_data = encode_varint(len(message.authenticated_data)) + message.authenticated_data
    plaintext = suite.aead_open(key, _guarded(nonce, sender.reuse_guard), head + authenticated_data, message.ciphertext)

    end = len(plaintext)
    body, body_end = content_select.read_variant(content_type, plaintext, 0, end)
    start, pos = read_span(plaintext, body_end, end)
    signature = plaintext[start:pos]
    tag = None
    if content_type is ContentType.COMMIT:
        start, pos = read_span(plaintext, pos, end)
        tag = plaintext[start:pos]
    if plaintext.count(0, pos) != end - pos:  # RFC 9420 6.3.1
        raise MalformedError("padding that is not zero (RFC 9420 6.3.1)")

    content = FramedContent(
        message.group_id, message.epoch, MemberSender(sender.leaf_index), message.authenticated_data, body
    )
    content.keep_encoding(
        b"".join(
            (
                head[:-1],
                _MEMBER,
                sender.leaf_index.to_bytes(4, "big"),
                authenticated_data,
                head[-1:],
                plaintext[:body_end],  # as it came
            )
        )
    )
    tree = tree.carrying(sender.leaf_index, kind, content_mark(content))
    return UnverifiedContent(AuthenticatedContent(WireFormat.PRIVATE_MESSAGE, content, signature, tag)), tree


def content_mark(content: FramedContent) -> bytes:
    """What a secret tree remembers of a content.  Not of its signature: some schemes have several for one content."""
    return sha256(content.encode()).digest()[:16]


def ratchet_for(content_type: ContentType) -> RatchetKind:
    """The ratchet whose keys carry this type of content (RFC 9420 9.1)."""
    return RatchetKind.APPLICATION if content_type is ContentType.APPLICATION else RatchetKind.HANDSHAKE


def sender_data_key(suite: CipherSuite, sender_data_secret: bytes, ciphertext: bytes) -> tuple[bytes, bytes]:
    """AEAD key and nonce for the sender data beside a ciphertext (6.3.2)."""
    sample = ciphertext[: suite.hash_length]
    return (
        suite.expand_with_label(sender_data_secret, "key", sample, suite.aead_key_length),
        suite.expand_with_label(sender_data_secret, "nonce", sample, suite.nonce_length),
    )


def _aad_head(group_id: bytes, epoch: int, content_type: ContentType) -> bytes:
    """``SenderDataAAD``; ``PrivateContentAAD`` goes on with the authenticated data."""
    return b"".join((encode_varint(len(group_id)), group_id, epoch.to_bytes(8, "big"), content_type.to_bytes(1, "big")))


def _guarded(nonce: bytes, guard: bytes) -> bytes:
    """RFC 9420 6.3.1: random bits in the nonce, for the case that state is lost and a generation used again."""
    return (int.from_bytes(nonce[:4], "big") ^ int.from_bytes(guard, "big")).to_bytes(4, "big") + nonce[4:]
