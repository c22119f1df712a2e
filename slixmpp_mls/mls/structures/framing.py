"""Messages on the wire (RFC 9420 6).

How the parts nest::

    MLSMessage ── PublicMessage ── FramedContent ── application data | Proposal | Commit
              ├── PrivateMessage ── (encrypted: content, signature, tag, padding)
              ├── Welcome
              ├── GroupInfo
              └── KeyPackage

``FramedContentAuthData`` has a signature and, beside a Commit, a confirmation tag; it is
declared inline, as the last two fields of :class:`AuthenticatedContent` and inside
:class:`PublicMessage`.  Signing, encryption and their inverses are in
:mod:`slixmpp_mls.mls.schedule.message_protection`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any

from ..registry import ProtocolVersion, WireFormat, protocol_version
from ..tls import EncodedOnce, Enum, Opaque, Select, Struct, When, opaque, struct, uint32, uint64
from .commit import Commit
from .key_package import KeyPackage
from .proposals import AnyProposal, Proposal
from .welcome import GroupInfo, Welcome

__all__ = [
    "ApplicationData",
    "AuthenticatedContent",
    "ContentType",
    "ExternalSenderIndex",
    "FramedContent",
    "MLSMessage",
    "MemberSender",
    "NewMemberCommitSender",
    "NewMemberProposalSender",
    "PrivateMessage",
    "PublicMessage",
    "Sender",
    "SenderType",
    "content_select",
    "content_type_of",
]


class ContentType(IntEnum):
    APPLICATION = 1
    PROPOSAL = 2
    COMMIT = 3


class SenderType(IntEnum):
    MEMBER = 1
    EXTERNAL = 2
    NEW_MEMBER_PROPOSAL = 3
    NEW_MEMBER_COMMIT = 4


@struct
class MemberSender(Struct):
    """The member at this leaf."""

    leaf_index: uint32


@struct
class ExternalSenderIndex(Struct):
    """An entry of the group's `external_senders` extension."""

    sender_index: uint32


@struct
class NewMemberProposalSender(Struct):
    """A client that asks to be added."""


@struct
class NewMemberCommitSender(Struct):
    """A client that joins by an external Commit."""


AnySender = MemberSender | ExternalSenderIndex | NewMemberProposalSender | NewMemberCommitSender
Sender = Annotated[
    AnySender,
    Select(
        Enum(SenderType),
        {
            SenderType.MEMBER: MemberSender,
            SenderType.EXTERNAL: ExternalSenderIndex,
            SenderType.NEW_MEMBER_PROPOSAL: NewMemberProposalSender,
            SenderType.NEW_MEMBER_COMMIT: NewMemberCommitSender,
        },
    ),
]


@struct
class ApplicationData(Struct):
    """The application's own octets; opaque to MLS."""

    data: opaque

    def __repr__(self) -> str:
        return "<ApplicationData>"  # a plaintext never reaches a log


content_select = Select(
    Enum(ContentType),
    {ContentType.APPLICATION: ApplicationData, ContentType.PROPOSAL: Proposal, ContentType.COMMIT: Commit},
)


def content_type_of(content: ApplicationData | AnyProposal | Commit) -> ContentType:
    """Which of the three a content is."""
    return ContentType(content_select.tag_of(content))


@struct
class FramedContent(EncodedOnce):
    """RFC 9420 6."""

    group_id: opaque
    epoch: uint64
    sender: Sender
    authenticated_data: opaque
    content: Annotated[ApplicationData | AnyProposal | Commit, content_select]


def _is_commit(content: FramedContent) -> bool:
    return isinstance(content.content, Commit)


def _from_member(content: FramedContent) -> bool:
    return isinstance(content.sender, MemberSender)


@struct
class AuthenticatedContent(Struct):
    """Content with its signature: what transcripts and ProposalRefs hash (RFC 9420 6)."""

    wire_format: Annotated[WireFormat, Enum(WireFormat, 2)]
    content: FramedContent
    signature: opaque
    confirmation_tag: Annotated[bytes | None, Opaque(), When("content", _is_commit)] = None


@struct
class PublicMessage(Struct):
    """Content that is signed and not encrypted (RFC 9420 6.2)."""

    content: FramedContent
    signature: opaque
    confirmation_tag: Annotated[bytes | None, Opaque(), When("content", _is_commit)]
    membership_tag: Annotated[bytes | None, Opaque(), When("content", _from_member)]


@struct
class PrivateMessage(Struct):
    """Content that is signed and encrypted (RFC 9420 6.3)."""

    group_id: opaque
    epoch: uint64
    content_type: Annotated[ContentType, Enum(ContentType)]
    authenticated_data: opaque
    encrypted_sender_data: opaque
    ciphertext: opaque


_body = Select(
    Enum(WireFormat, 2),
    {
        WireFormat.PUBLIC_MESSAGE: PublicMessage,
        WireFormat.PRIVATE_MESSAGE: PrivateMessage,
        WireFormat.WELCOME: Welcome,
        WireFormat.GROUP_INFO: GroupInfo,
        WireFormat.KEY_PACKAGE: KeyPackage,
    },
)


@struct
class MLSMessage(Struct):
    """Everything that travels (RFC 9420 6)."""

    version: Annotated[int, protocol_version]
    body: Annotated[PublicMessage | PrivateMessage | Welcome | GroupInfo | KeyPackage, _body]

    @property
    def wire_format(self) -> WireFormat:
        """Which kind of message it is."""
        return WireFormat(_body.tag_of(self.body))

    @classmethod
    def wrap(cls, body: Any) -> bytes:
        """The octets of a message with this body."""
        return cls(ProtocolVersion.MLS10, body).encode()
