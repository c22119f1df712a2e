"""The identity of a leaf: one device of one XMPP account.

A client is named ``account@server/device-id``: a full JID whose resource is a random device id. The name, in UTF-8, is
the identity of the leaf's BasicCredential (RFC 9420 5.3), or it is in the certificate of its X509Credential, together
with the account.  Two leaves with the same name are the same client, and one account's clients are those with the same
bare JID.

A name has exactly one spelling, so that accounts can be compared as octets; any other spelling is refused instead of
repaired:

- the account is a bare JID with a localpart, prepared as RFC 7622 wants addresses compared.  The preparation is the one
  that servers and slixmpp apply, Nodeprep and Nameprep: their tables are fixed to Unicode 3.2, so that all members of a
  group get the same answer, with old and new libraries.  (The profiles of RFC 7622 itself move with each version of
  Unicode.)
- the domain has U-labels (``xn--`` is refused: RFC 7622 3.2.1) and no final dot;
- the device id is 1 to 64 of ``A-Z a-z 0-9 _ -``.

This module needs no XMPP library: addresses from such a library are already prepared.
"""

from __future__ import annotations

import re
import secrets
import stringprep
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from encodings import idna
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Self

from ..errors import InvalidError, UsageError
from ..mls.registry import CredentialType
from ..mls.structures.credential import AnyCredential, BasicCredential, Credential, X509Credential, type_of
from ..mls.structures.leaf_node import LeafNode
from ..mls.tls import codec_of
from ..mls.varint import read_span
from .certificates import end_entity, load_certificate, xmpp_addresses

__all__ = [
    "ClientIdentity", "TrustLevel", "check_bare_jid", "fingerprint", "group_digits", "key_identifier", "name_in",
    "new_device_id", "normal_form", "normal_forms", "typed_address",
]  # fmt: skip

_credential = codec_of(Credential)
_BASIC = CredentialType.BASIC.to_bytes(2, "big")
_USUAL = 256  # octets of a credential that is remembered
MAX_PART = 1023  # octets of a localpart or a domainpart, RFC 7622 3.1
SECTION = "urn:xmpp:mls:0 identity"

_DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# What RFC 7622 3.3.1 and Nodeprep exclude: controls, space, " & ' / : < > @ and capitals.
_ASCII_LOCAL = re.compile(r"[!#-%(-.0-9;=?\[-~]+", re.ASCII)
# "--" in the third place marks A-labels and is reserved beside them (RFC 5891 4.2.3.1).
_ASCII_LABEL = re.compile(r"(?!..--)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_ASCII_DOMAIN = re.compile(rf"{_ASCII_LABEL.pattern}(?:\.{_ASCII_LABEL.pattern})*", re.ASCII)
_NOT_IN_LABEL = re.compile(r"[\x00-,/:-^`{-\x7f\u3002]", re.ASCII)  # U+3002 would be a dot to IDNA


@dataclass(frozen=True, slots=True, order=True)
class ClientIdentity:
    """One device of one account.

    :ivar account: bare JID in normal form
    :ivar device: device id
    :raises UsageError: one of them is not in normal form
    """

    account: str
    device: str

    def __post_init__(self) -> None:
        try:
            check_bare_jid(self.account)
        except ValueError as error:
            raise UsageError(f"the account is not a bare JID in normal form: {error}") from None
        if not _DEVICE_ID.fullmatch(self.device):
            raise UsageError("a device id has 1 to 64 characters of A-Z a-z 0-9 _ -")

    def __str__(self) -> str:
        return f"{self.account}/{self.device}"

    @classmethod
    def new(cls, account: str) -> Self:
        """A new device of an account.

        :raises UsageError: `account` is no bare JID in normal form
        """
        return cls(account, new_device_id())

    def credential(self) -> BasicCredential:
        """The credential of this client's leaves, if it has no certificate."""
        return BasicCredential(str(self).encode())

    @property
    def addresses(self) -> tuple[str, str]:
        """The names in this client's certificate, each an id-on-xmppAddr: its account, and all of its name."""
        return self.account, str(self)

    @classmethod
    def from_credential(cls, credential: AnyCredential) -> ClientIdentity:
        """The client that a credential claims to be; the Authentication Service checks the claim.

        :raises InvalidError: no name of a client in normal form, or a type of credential that is not supported
        """
        try:
            if isinstance(credential, X509Credential):
                return _named_in(end_entity(credential))
            if isinstance(credential, BasicCredential):
                account, _, device = credential.identity.decode().partition("/")
                return cls(account, device)
            raise InvalidError(f"credentials of type {type_of(credential)} are not supported", SECTION)
        except UnicodeDecodeError:
            raise InvalidError("the identity in a credential is not UTF-8", SECTION) from None
        except UsageError as error:
            raise InvalidError(f"the identity in a credential names no client: {error}", SECTION) from None

    @classmethod
    def from_addresses(cls, addresses: Sequence[str]) -> Self:
        """The client that a certificate, or a request for one, names: by :attr:`addresses` in any order.

        :raises InvalidError: there are others, or they are not in normal form
        """
        if len(addresses) == 2:
            short, whole = sorted(addresses, key=len)
            account, slash, device = whole.partition("/")
            if slash and account == short:
                try:
                    return cls(account, device)
                except UsageError as error:
                    raise InvalidError(f"a certificate names no client: {error}", SECTION) from None
        raise InvalidError("a certificate does not name one account and one device of it", SECTION)

    @classmethod
    def from_encoded(cls, credential: bytes) -> ClientIdentity:
        """The same from the credential's octets, with its type; one object for all rooms, as far as it is remembered.

        :raises MalformedError: they do not parse
        :raises InvalidError: see :meth:`from_credential`
        """
        return (_claimed_in if len(credential) <= _USUAL else _claimed_in.__wrapped__)(credential)

    @classmethod
    def from_name(cls, name: str) -> ClientIdentity:
        """The client of whom this is the string; one object for all rooms, as far as it is remembered.

        :raises InvalidError: no client in normal form
        """
        try:
            return (_named if len(name) <= _USUAL else _named.__wrapped__)(name)
        except UsageError as error:
            raise InvalidError(f"no name of a client: {error}", SECTION) from None

    @classmethod
    def from_leaf(cls, leaf: LeafNode) -> ClientIdentity:
        """The client that a leaf claims to be.

        :raises InvalidError: see :meth:`from_credential`
        """
        return cls.from_credential(leaf.credential)


@lru_cache(maxsize=4096)  # a megabyte; the same people are in several rooms
def _claimed_in(credential: bytes) -> ClientIdentity:
    return ClientIdentity.from_credential(_credential.decode(credential))


@lru_cache(maxsize=4096)
def _named(name: str) -> ClientIdentity:
    account, _, device = name.partition("/")
    return ClientIdentity(account, device)


def name_in(credential: bytes) -> str:
    """The string of the client that a credential names, from its octets with its type.

    It is not checked: the credential is that of a leaf that has been accepted before.

    :raises MalformedError: they do not parse
    :raises InvalidError: see :meth:`ClientIdentity.from_credential`
    """
    if not credential.startswith(_BASIC):
        return str(ClientIdentity.from_encoded(credential))
    start, stop = read_span(credential, len(_BASIC), len(credential))
    try:
        return credential[start:stop].decode()
    except UnicodeDecodeError:
        raise InvalidError("the identity in a credential is not UTF-8", SECTION) from None


@lru_cache(maxsize=1024)
def _named_in(certificate: bytes) -> ClientIdentity:
    return ClientIdentity.from_addresses(xmpp_addresses(load_certificate(certificate)))


class TrustLevel(IntEnum):
    """How far we believe that a signature key is its account's."""

    UNDECIDED = 0
    """Nobody has decided anything."""
    TRUSTED = 1
    """It was there when we first met the device."""
    VERIFIED = 2
    """People have compared it; XEP-0450 says "authenticated"."""
    DISTRUSTED = 3
    """Somebody has refused it for good reasons: it is stolen, retired, or somebody else's."""

    def __str__(self) -> str:
        return self.name.lower()


def new_device_id() -> str:
    """A random device id: 64 bits, so that two devices of an account never get the same one."""
    return secrets.token_hex(8)


def key_identifier(signature_key: bytes) -> bytes:
    """The name of a key in trust messages (XEP-0434): the SHA-256 of a leaf's signature key, 32 octets."""
    return sha256(signature_key).digest()


def fingerprint(signature_key: bytes) -> str:
    """The key identifier for people to compare: eight groups of eight hexadecimal digits, as XEP-0384 shows them."""
    return group_digits(key_identifier(signature_key))


def group_digits(identifier: bytes) -> str:
    """A key identifier as a fingerprint."""
    digits = identifier.hex()
    return " ".join(digits[start : start + 8] for start in range(0, len(digits), 8))


def normal_form(address: str) -> str:
    """The one spelling of an address as people type it: ``localpart@domainpart``, or that and ``/device-id``.

    Capitals, compatibility characters, A-labels and a final dot are what RFC 7622 3.2 and 3.3 prepare.

    :raises ValueError: there is no such address; the message does not repeat it
    """
    if not isinstance(address, str):
        raise ValueError(f"an address is a str, not {type(address).__name__}")
    bare, slash, device = address.strip().partition("/")
    local, at, domain = bare.partition("@")
    if not at:
        raise ValueError("no localpart")
    try:
        prepared = idna.nameprep(local)
        if not domain.startswith("["):
            labels = re.split("[.\u3002\uff0e\uff61]", domain)
            domain = ".".join(_u_label(label) for label in (labels[:-1] if labels[-1] == "" else labels))
    except UnicodeError:
        raise ValueError("it has a character that no address may have") from None
    check_bare_jid(f"{prepared}@{domain}")
    if slash and not _DEVICE_ID.fullmatch(device):
        raise ValueError("what follows the slash is no device id")
    return f"{prepared}@{domain}{slash}{device}"


def normal_forms(addresses: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Addresses as people type them: each once in normal form, and a reason for each that is none."""
    good: dict[str, None] = {}
    bad: dict[str, str] = {}
    for address in addresses:
        try:
            good[normal_form(address)] = None
        except ValueError as error:
            bad[str(address)] = f"no address: {error}"
    return list(good), bad


def typed_address(address: object) -> str:
    """The normal form of an address that a caller gives; see :func:`normal_form`.

    :raises UsageError: there is no such address
    """
    try:
        return normal_form(address)  # type: ignore[arg-type]  # which is what it checks
    except ValueError as error:
        raise UsageError(f"no address: {error}") from None


def _u_label(label: str) -> str:
    prepared = idna.nameprep(label)
    return idna.ToUnicode(prepared) if prepared.startswith("xn--") else prepared


def check_bare_jid(address: str) -> None:
    """RFC 7622 3.1 to 3.3: `address` is ``localpart@domainpart``, in normal form.

    :raises ValueError: it is not; the message does not repeat it
    """
    local, at, domain = address.partition("@")
    if not at:
        raise ValueError("no localpart")
    if not _ASCII_LOCAL.fullmatch(local) or len(local) > MAX_PART:
        _check_local(local)
    if not _ASCII_DOMAIN.fullmatch(domain) or len(domain) > MAX_PART:
        _check_domain(domain)


def _check_local(local: str) -> None:
    if not 0 < len(local.encode()) <= MAX_PART:
        raise ValueError(f"the localpart has not 1 to {MAX_PART} octets")
    own = "".join(character for character in local if character.isascii())
    if own and not _ASCII_LOCAL.fullmatch(own):
        raise ValueError("the localpart has a capital or a character that none may have")
    if not _is_prepared(local):
        raise ValueError("the localpart is not in the form that Nodeprep gives")


def _check_domain(domain: str) -> None:
    if not 0 < len(domain.encode()) <= MAX_PART:
        raise ValueError(f"the domainpart has not 1 to {MAX_PART} octets")
    if domain.startswith("[") and domain.endswith("]"):  # RFC 7622 3.2, IP-literal; no zone index
        try:
            normal: str | None = str(IPv6Address(domain[1:-1]))
        except ValueError:
            normal = None
        if normal != domain[1:-1] or "%" in normal:
            raise ValueError("the domainpart is no IPv6 address as RFC 5952 writes it")
        return
    for label in domain.split("."):
        if label.isascii():
            if not _ASCII_LABEL.fullmatch(label):
                raise ValueError("the domainpart has an impossible label, a capital, a final dot or an A-label")
        elif _NOT_IN_LABEL.search(label) or not _is_u_label(label):
            raise ValueError("the domainpart has a label that is no U-label")


@lru_cache(maxsize=1024)
def _is_u_label(label: str) -> bool:
    if label[0] == "-" or label[-1] == "-" or label[2:4] == "--" or not _is_prepared(label):
        return False
    try:
        return len(idna.ToASCII(label)) <= 63
    except UnicodeError:
        return False


@lru_cache(maxsize=1024)
def _is_prepared(text: str) -> bool:
    """Whether Nameprep (RFC 3491) leaves a text as it is.  Nodeprep differs in ASCII only."""
    try:
        return idna.nameprep(text) == text and not any(map(stringprep.in_table_a1, text))
    except UnicodeError:  # prohibited characters, or directions mixed (RFC 3454 5 and 6)
        return False
