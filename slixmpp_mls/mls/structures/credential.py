"""Credentials: who a leaf says it is (RFC 9420 5.3)."""

from __future__ import annotations

from typing import Annotated

from ..registry import CredentialType, credential_type
from ..tls import AtMost, Select, Struct, opaque, struct

__all__ = [
    "AnyCredential", "BasicCredential", "Certificate", "Credential", "UnknownCredential", "X509Credential", "type_of",
]  # fmt: skip


MAX_CERTIFICATES = 16


@struct
class BasicCredential(Struct):
    """A bare assertion of an identity, to be checked against the Authentication Service."""

    identity: opaque


@struct
class Certificate(Struct):
    """One DER-encoded X.509 certificate."""

    cert_data: opaque


@struct
class X509Credential(Struct):
    """A chain of certificates, the leaf's own first."""

    certificates: Annotated[tuple[Certificate, ...], AtMost(MAX_CERTIFICATES)]


@struct
class UnknownCredential(Struct):
    """A credential of a type that this package does not know, kept as it came."""

    tag: Annotated[int, credential_type]
    data: opaque


AnyCredential = BasicCredential | X509Credential | UnknownCredential

_select = Select(
    credential_type,
    {CredentialType.BASIC: BasicCredential, CredentialType.X509: X509Credential},
    otherwise=UnknownCredential,
)
Credential = Annotated[AnyCredential, _select]


def type_of(credential: AnyCredential) -> int:
    """The credential's number in the registry."""
    return _select.tag_of(credential)
