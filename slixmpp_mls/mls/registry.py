"""The numbers of RFC 9420 section 17 (and of draft-ietf-mls-extensions where noted).

Open registries are fields of type ``int`` whose codec names the registry: any number may
arrive, including GREASE (section 13.5).  Closed ones are enums, other values are refused.
"""

from __future__ import annotations

from enum import IntEnum

from .tls import UInt

__all__ = [
    "DEFAULT_EXTENSIONS",
    "DEFAULT_PROPOSALS",
    "GREASE",
    "CipherSuiteId",
    "CredentialType",
    "ExtensionType",
    "ProposalType",
    "ProtocolVersion",
    "SignatureScheme",
    "WireFormat",
    "cipher_suite_id",
    "credential_type",
    "extension_type",
    "proposal_type",
    "protocol_version",
]


class ProtocolVersion(IntEnum):
    """RFC 9420 6."""

    MLS10 = 1


class WireFormat(IntEnum):
    """RFC 9420 17.2."""

    PUBLIC_MESSAGE = 1
    PRIVATE_MESSAGE = 2
    WELCOME = 3
    GROUP_INFO = 4
    KEY_PACKAGE = 5


class CipherSuiteId(IntEnum):
    """RFC 9420 17.1, and the suites of draft-ietf-mls-pq-ciphersuites-06 that are known here.

    IANA has not assigned numbers to the latter.  Until then they have numbers for private use, in the draft's order
    (TBD1 is 0xF001), as other implementations number them.  When they are assigned, this table and
    :data:`POST_QUANTUM_SUITES` change, and nothing else.  A group keeps its number for life: what is supported then
    keeps the old numbers beside the new ones, until its groups have been moved by a ReInit.
    """

    MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519 = 1
    MLS_128_DHKEMP256_AES128GCM_SHA256_P256 = 2
    MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519 = 3
    MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448 = 4
    MLS_256_DHKEMP521_AES256GCM_SHA512_P521 = 5
    MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448 = 6
    MLS_256_DHKEMP384_AES256GCM_SHA384_P384 = 7
    MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519 = 0xF001
    MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519 = 0xF002
    MLS_192_MLKEM1024P384_AES256GCM_SHA384_P384 = 0xF005
    MLS_128_MLKEM768X25519_CHACHA20POLY1305_SHA384_MLDSA44 = 0xF009
    MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65 = 0xF00A
    MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87 = 0xF00B


POST_QUANTUM_SUITES = frozenset(range(0xF001, 0xF00C))
"""All eleven suites of the draft, those included that are not known here: each has an ML-KEM.

Whether a suite is one of them is decided by its number alone, so that all members decide alike.
"""


class ExtensionType(IntEnum):
    """RFC 9420 17.3."""

    APPLICATION_ID = 1
    RATCHET_TREE = 2
    REQUIRED_CAPABILITIES = 3
    EXTERNAL_PUB = 4
    EXTERNAL_SENDERS = 5
    APP_DATA_DICTIONARY = 6  # draft-ietf-mls-extensions
    LAST_RESORT = 0x000A  # the draft's versions 04 to 06; now a component of 6.  Read, not sent


class ProposalType(IntEnum):
    """RFC 9420 17.4."""

    ADD = 1
    UPDATE = 2
    REMOVE = 3
    PSK = 4
    REINIT = 5
    EXTERNAL_INIT = 6
    GROUP_CONTEXT_EXTENSIONS = 7
    SELF_REMOVE = 0x000A  # draft-ietf-mls-extensions


class CredentialType(IntEnum):
    """RFC 9420 17.5."""

    BASIC = 1
    X509 = 2


class SignatureScheme(IntEnum):
    """The numbers that the TLS registry (RFC 8446 4.2.3, draft-ietf-tls-mldsa) gives to the suites' schemes.

    Names are those of the registry, as in :attr:`.crypto.signature.SignatureScheme.name`.
    """

    ecdsa_secp256r1_sha256 = 0x0403
    ecdsa_secp384r1_sha384 = 0x0503
    ecdsa_secp521r1_sha512 = 0x0603
    ed25519 = 0x0807
    ed448 = 0x0808
    mldsa44 = 0x0904
    mldsa65 = 0x0905
    mldsa87 = 0x0906


protocol_version = UInt(2, ProtocolVersion)
cipher_suite_id = UInt(2, CipherSuiteId)
extension_type = UInt(2, ExtensionType)
proposal_type = UInt(2, ProposalType)
credential_type = UInt(2, CredentialType)

# RFC 9420 7.2: what every client supports and no Capabilities lists.
DEFAULT_EXTENSIONS = frozenset(range(1, 6))
DEFAULT_PROPOSALS = frozenset(range(1, 8))

# RFC 9420 13.5: values that mean nothing and keep receivers honest.
GREASE = frozenset(0x0A0A + 0x1010 * step for step in range(15))
