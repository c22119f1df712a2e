"""The Authentication Service (RFC 9750 4) as this package asks it.

An Authentication Service binds names to signature keys: the accounts' own servers, certificates, or people who compare
fingerprints.  It offers three services:

1. :meth:`AuthenticationService.issue`: publish that these keys belong to this client;
2. :meth:`AuthenticationService.validate`: whether a leaf's signature key is that of the client which its credential
   names (RFC 9420 5.3.1).  A caller that expects a certain client, because a KeyPackage comes from its account's
   directory, also compares the names;
3. :meth:`AuthenticationService.same_client`: whether one credential may take another's place.

In addition, :meth:`AuthenticationService.note_successor` tells the service what a group has proved: the holder of one
key has replaced it by another key.

An answer holds for a moment: a device may be retired, a server may come back.  A caller that relies on an answer
subscribes to changes and asks again.

An answer is a :class:`Verdict`.  A service that cannot be reached answers ``UNKNOWN`` and does not raise, since one
dead server must not keep anybody out of a group of a thousand.  The caller's policy decides the consequences for a leaf
that is not valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ..errors import InvalidError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.credential import AnyCredential
from ..mls.structures.leaf_node import LeafNode

__all__ = ["VALID", "AuthenticationService", "Validity", "Verdict"]


class Validity(Enum):
    """A service's answer about a leaf."""

    VALID = "valid"
    """The signature key is that of the client that the credential names."""
    INVALID = "invalid"
    """It is not, or nobody who ought to vouch for it does."""
    UNKNOWN = "unknown"
    """The service cannot tell now; later it may."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A service's answer about a leaf, and the reason.

    :ivar validity: the answer
    :ivar reason: machine-readable; empty if valid.  In this package: ``no-client`` (the credential names
        none), ``no-device`` (its account lists no such device), ``retired`` (it says that it is one no more),
        ``other-key`` (it lists another key), ``not-readable`` (it shows us no devices), ``unreachable``,
        ``key-changed``, ``new-device`` (both: see :mod:`.trust_on_first_use`), ``undecided`` (a person has yet to
        decide),
        ``refused`` (a person has decided), ``other-device`` (the key is that of another device of the account),
        ``not-verified`` (see :mod:`.manual_trust`), and those of :mod:`.x509` about certificates.  Other services
        may have other reasons
    :ivar text: the same for people; empty if valid
    """

    validity: Validity
    reason: str = ""
    text: str = ""

    @classmethod
    def invalid(cls, reason: str, text: str) -> Verdict:
        return cls(Validity.INVALID, reason, text)

    @classmethod
    def unknown(cls, reason: str, text: str) -> Verdict:
        return cls(Validity.UNKNOWN, reason, text)

    @property
    def is_valid(self) -> bool:
        return self.validity is Validity.VALID

    @property
    def is_invalid(self) -> bool:
        return self.validity is Validity.INVALID

    @property
    def is_unknown(self) -> bool:
        return self.validity is Validity.UNKNOWN


VALID = Verdict(Validity.VALID)


class AuthenticationService(Protocol):
    """Who is who.  All methods may be called at any time, several at once."""

    async def issue(
        self,
        client: ClientIdentity,
        keys: Mapping[int, bytes],
        *,
        label: str | None = None,
        also: Mapping[int, bytes] | None = None,
    ) -> None:
        """Make known that these are this client's signature keys, in place of those that were known before.

        :param client: our own device
        :param keys: public signature keys by number of their TLS SignatureScheme
        :param label: a name of the device for people, one line of at most 64 characters; None leaves it as it is
        :param also: other keys that leaves of ours may have at present: of a change of keys that is under way
        :raises DeliveryError: it could not be done; trying again is safe
        """

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """Whether each leaf's signature key is that of the client which its credential names (RFC 9420 5.3.1).

        Many leaves at once are cheaper than one after the other.  Bounded in time.  Signatures are not
        verified: that is for RFC 9420 7.3.

        :param suite: of the group or the KeyPackages that hold the leaves
        :returns: one verdict for each leaf, in their order
        """

    async def same_client(self, one: AnyCredential, other: AnyCredential) -> bool:
        """Whether two credentials are one client's, so that the second may take the first one's place in a leaf.

        It says nothing on whether either is valid.
        """
        return names_same_client(one, other)

    async def note_successor(self, before: LeafNode, after: LeafNode, suite: CipherSuite) -> None:
        """A leaf has been replaced by its own holder, with another signature key: it is evidence for :meth:`validate`.

        RFC 9420 12.1.2, 12.4 and 6.1: an Update, or a Commit with a path, replaces its sender's leaf, and its
        FramedContent is signed with the key of the leaf that it replaces; that signature has been verified.  To
        be called before `after` is validated, whether or not the Commit will take effect.  By default, nothing
        follows from it.

        :param before: the leaf in the tree
        :param after: the leaf that takes its place, with the same client's name
        """
        return None

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Have `changed` called with an account's bare JID whenever verdicts about its clients may have changed.

        :returns: ends the subscription
        """


def names_same_client(one: AnyCredential, other: AnyCredential) -> bool:
    """Whether both credentials have one and the same client's name (:mod:`slixmpp_mls.identity.client_identity`)."""
    try:
        return ClientIdentity.from_credential(one) == ClientIdentity.from_credential(other)
    except InvalidError:
        return False


def named_client(leaf: LeafNode) -> ClientIdentity | Verdict:
    """The client that a leaf's credential names, or the verdict on a leaf that names none."""
    try:
        return ClientIdentity.from_leaf(leaf)
    except InvalidError as error:
        return Verdict.invalid("no-client", str(error))
