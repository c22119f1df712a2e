"""The key schedule: from one epoch's secrets to the next one's (RFC 9420 8).

::

    init_secret [n-1] ─┐
    commit_secret ─────┴─ joiner_secret ─┐               (joiner_secret)
    psk_secret ──────────────────────────┴─┬─ welcome key and nonce    (welcome_key)
                                           └─ epoch_secret ─── the secrets of epoch n  (derive_epoch)

The types tell the secrets that are kept from those that are deleted at once (9.2).  :class:`EpochSecrets` holds
the secrets that an epoch needs as long as it lasts.  The epoch secret never leaves this module.  The encryption
secret is handed over separately, to become the root of the secret tree, where it is deleted with its first use.  The
caller drops commit secret, joiner secret and PSK secret with the step that used them.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from ..crypto.cipher_suite import CipherSuite, HPKEPrivateKey
from ..tls import Struct, opaque, struct

__all__ = [
    "Epoch", "EpochSecrets", "WelcomeKey", "derive_epoch", "epoch_from_secret", "external_init", "joiner_secret",
    "open_external_init", "welcome_key",
]  # fmt: skip

_EXTERNAL_INIT = b"MLS 1.0 external init secret"


@struct
class EpochSecrets(Struct):
    """The secrets that a member keeps of an epoch (table 4), in the form in which the store keeps them."""

    secret: ClassVar[bool] = True
    sender_data_secret: opaque
    exporter_secret: opaque
    external_secret: opaque
    confirmation_key: opaque
    membership_key: opaque
    resumption_psk: opaque
    epoch_authenticator: opaque
    init_secret: opaque

    def exporter(self, suite: CipherSuite, label: str, context: bytes, length: int) -> bytes:
        """``MLS-Exporter`` (8.5): a secret of `length` octets for use outside of MLS, bound to this epoch."""
        derived = suite.derive_secret(self.exporter_secret, label)
        return suite.expand_with_label(derived, "exported", suite.hash(context), length)

    def external_key_pair(self, suite: CipherSuite) -> HPKEPrivateKey:
        """The key pair of the whole group; its public part is ``external_pub``, for external Commits."""
        return suite.derive_key_pair(self.external_secret)


class Epoch(NamedTuple):
    """A new epoch's secrets, and the one that must become a secret tree."""

    secrets: EpochSecrets
    encryption_secret: bytes

    def __repr__(self) -> str:
        return "<Epoch>"


class WelcomeKey(NamedTuple):
    """Encrypts the GroupInfo inside a Welcome, once (12.4.3.1)."""

    key: bytes
    nonce: bytes

    def __repr__(self) -> str:
        return "<WelcomeKey>"


def joiner_secret(suite: CipherSuite, init_secret: bytes, commit_secret: bytes, group_context: bytes) -> bytes:
    """The secret that joiners get in the Welcome.

    :param init_secret: of the epoch before, or from an external Commit
    :param commit_secret: from the Commit's path; ``suite.zero`` without one
    :param group_context: the new epoch's GroupContext, encoded
    """
    extracted = suite.extract(init_secret, commit_secret)
    return suite.expand_with_label(extracted, "joiner", group_context, suite.hash_length)


def welcome_key(suite: CipherSuite, joiner_secret: bytes, psk_secret: bytes) -> WelcomeKey:
    """From the ``welcome_secret``, which is used for nothing else."""
    welcome_secret = suite.derive_secret(suite.extract(joiner_secret, psk_secret), "welcome")
    return WelcomeKey(
        suite.expand_with_label(welcome_secret, "key", b"", suite.aead_key_length),
        suite.expand_with_label(welcome_secret, "nonce", b"", suite.nonce_length),
    )


def derive_epoch(suite: CipherSuite, joiner_secret: bytes, psk_secret: bytes, group_context: bytes) -> Epoch:
    """The secrets of the epoch that `group_context` describes."""
    extracted = suite.extract(joiner_secret, psk_secret)
    return epoch_from_secret(suite, suite.expand_with_label(extracted, "epoch", group_context, suite.hash_length))


def epoch_from_secret(suite: CipherSuite, epoch_secret: bytes) -> Epoch:
    """The secrets of an epoch whose epoch secret is given: random in a new group (section 11)."""
    return Epoch(
        EpochSecrets(
            sender_data_secret=suite.derive_secret(epoch_secret, "sender data"),
            exporter_secret=suite.derive_secret(epoch_secret, "exporter"),
            external_secret=suite.derive_secret(epoch_secret, "external"),
            confirmation_key=suite.derive_secret(epoch_secret, "confirm"),
            membership_key=suite.derive_secret(epoch_secret, "membership"),
            resumption_psk=suite.derive_secret(epoch_secret, "resumption"),
            epoch_authenticator=suite.derive_secret(epoch_secret, "authentication"),
            init_secret=suite.derive_secret(epoch_secret, "init"),
        ),
        suite.derive_secret(epoch_secret, "encryption"),
    )


def external_init(suite: CipherSuite, external_pub: bytes) -> tuple[bytes, bytes]:
    """An external joiner's side of 8.3: (``kem_output`` for the ExternalInit proposal, ``init_secret``).

    :raises InvalidError: bad public key
    """
    return suite.export_to(external_pub, b"", _EXTERNAL_INIT, suite.hash_length)


def open_external_init(suite: CipherSuite, secrets: EpochSecrets, kem_output: bytes) -> bytes:
    """The members' side of 8.3: the ``init_secret``.

    :param secrets: of the epoch to which the external Commit applies
    :raises InvalidError: bad KEM output
    """
    return suite.export_from(secrets.external_key_pair(suite), kem_output, b"", _EXTERNAL_INIT, suite.hash_length)
