"""The structures that let a client join: Welcome, GroupInfo, GroupSecrets (RFC 9420 12.4.3)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from ..crypto.hpke import HPKECiphertext
from ..registry import cipher_suite_id
from ..tls import AtMost, Struct, opaque, struct, uint32
from .commit import MAX_PROPOSALS
from .extensions import Extensions
from .group_context import GroupContext
from .psk import PreSharedKeyID

__all__ = ["EncryptedGroupSecrets", "GroupInfo", "GroupSecrets", "PathSecret", "Welcome", "group_info_tbs"]


MAX_PSKS = 256


@struct
class GroupInfo(Struct):
    """An epoch described and signed by one member (section 12.4.3)."""

    group_context: GroupContext
    extensions: Extensions
    confirmation_tag: opaque
    signer: uint32
    signature: opaque = b""


def group_info_tbs(group_info: GroupInfo) -> bytes:
    """``GroupInfoTBS``: everything but the signature."""
    out = bytearray()
    for field in GroupInfo.codec.fields[:-1]:
        field.codec.write(out, getattr(group_info, field.name))
    return bytes(out)


@struct
class PathSecret(Struct):
    """The secret of the lowest node above both the committer and the joiner."""

    secret: ClassVar[bool] = True
    path_secret: opaque


@struct
class GroupSecrets(Struct):
    """The secrets for one joiner, encrypted to its init key (section 12.4.3.1)."""

    secret: ClassVar[bool] = True
    joiner_secret: opaque
    path_secret: PathSecret | None
    psks: Annotated[tuple[PreSharedKeyID, ...], AtMost(MAX_PSKS)]


@struct
class EncryptedGroupSecrets(Struct):
    """GroupSecrets for the KeyPackage that `new_member` names."""

    new_member: opaque
    encrypted_group_secrets: HPKECiphertext


@struct
class Welcome(Struct):
    """The invitation to all clients that one Commit adds."""

    cipher_suite: Annotated[int, cipher_suite_id]
    secrets: Annotated[tuple[EncryptedGroupSecrets, ...], AtMost(MAX_PROPOSALS)]
    encrypted_group_info: opaque
