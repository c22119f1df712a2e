"""The policy of a group: an extension of its GroupContext.

All members agree on the GroupContext cryptographically, so no server can change the policy.  :mod:`.check` applies the
policy to each Commit.

*The last administrator.*  While no account in `administrators` is a confirmed member, every member account is an
administrator.  Therefore a group is not locked when its administrators leave or lose their devices, and it does not
depend on a single remaining client that may never come online again.  The first change of the policy ends this state,
because the new policy must name an administrator that is a member.  A right of nobody (:attr:`Right.NOBODY`) remains
nobody's.

*X.509.*  `x509_only` applies to leaves that enter or are renewed.  An existing leaf gets its certificate with its next
update, which `max_leaf_age` brings about.  With `roots`, the chain in the credential must lead to one of them: each
certificate is signed by the next, and the last one is a root.  The check reads neither a clock nor a revocation list,
because members need not agree on them; the Authentication Service does.

*The age of keys.*  `max_leaf_age` is not part of the check, because members' clocks differ.  Clients renew their own
leaf in time, and accounts with the right to remove may remove a client that does not.  The age is unlimited by default:
a device that has been switched off for months does not by itself justify its removal.

*Versions.*  A rule that some members do not know would split the group.  Therefore no rule is optional, and each
version of the policy has an extension type of its own.  The capabilities of a leaf list the versions that its client
knows (RFC 9420 7.2), and no Commit can move a group to a version that a member lacks (13.4).

The content has grown since version 0.1 of this package.  Content that ends after `x509_only` is read with the default
values of the later fields.

A group without the extension is rejected, because nothing names its room; see :meth:`RoomPolicy.required_in`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar, Self

from ..errors import InvalidError, MalformedError, PolicyTooNew
from ..identity.certificates import leads_to
from ..mls.registry import POST_QUANTUM_SUITES, ExtensionType
from ..mls.structures.credential import AnyCredential, X509Credential
from ..mls.structures.extensions import Extension, ExtensionContent, Extensions
from ..mls.tls import Enum, struct, uint32
from ..stanza.code_points import POLICY_TYPES
from .codecs import BARE_JID, BOOLEAN, MAX_ADMINISTRATORS, Administrators, RootHashes, TrailingFlag
from .roster import Roster

__all__ = ["MAX_ADMINISTRATORS", "POLICY_TYPES", "ExternalJoins", "Right", "RoomPolicy"]

VERSION = 1


class Right(IntEnum):
    """The accounts that may make a change."""

    NOBODY = 0
    ADMINISTRATORS = 1
    MEMBERS = 2


class ExternalJoins(IntEnum):
    """The clients that may join by an external Commit (RFC 9420 12.4.3.2)."""

    NEVER = 0
    DEVICES = 1
    """Clients whose account has another client in the group, and clients that replace a leaf of their own."""
    ANYBODY = 2


_SINCE_0_2 = bytes.fromhex("00000020 00002710 00 00")  # max_devices, max_members, roots, conversation

_right = Annotated[Right, Enum(Right)]


@struct
class RoomPolicy(ExtensionContent):
    """The policy of a group.  The defaults are those of a new group, whose creator is the administrator.

    :ivar room: bare JID of the room that carries the group's messages; it can never change
    :ivar administrators: accounts, bare JIDs
    :ivar own_devices: whether a member account may add and remove its own clients
    :ivar max_leaf_age: seconds within which the keys of a leaf should be renewed; 0 is unlimited
    :ivar x509_only: whether credentials must be X.509
    :ivar max_devices: maximum number of clients of one account, 1 or more
    :ivar max_members: maximum number of clients in the group, 1 or more
    :ivar roots: with `x509_only`: SHA-256 hashes of root certificates (DER).  Each chain includes its root and leads to
        one of them.  If empty, any X.509 credential is accepted
    :ivar conversation: whether the group is a conversation between the two accounts in `administrators`: no other
        account can be added, and neither this flag nor the list can change
    :ivar post_quantum: whether the group's cipher suite must keep secrets from quantum computers
    """

    TYPE: ClassVar[int] = POLICY_TYPES[VERSION]
    lasting: ClassVar[bool] = True
    room: Annotated[str, BARE_JID]
    administrators: Annotated[tuple[str, ...], Administrators()]
    may_add: _right = Right.ADMINISTRATORS
    may_remove: _right = Right.ADMINISTRATORS
    may_change_policy: _right = Right.ADMINISTRATORS
    may_change_subject: _right = Right.ADMINISTRATORS
    external_joins: Annotated[ExternalJoins, Enum(ExternalJoins)] = ExternalJoins.DEVICES
    own_devices: Annotated[bool, BOOLEAN] = True
    max_leaf_age: uint32 = 0
    x509_only: Annotated[bool, BOOLEAN] = False
    max_devices: uint32 = 32
    max_members: uint32 = 10_000
    roots: Annotated[tuple[bytes, ...], RootHashes()] = ()
    conversation: Annotated[bool, BOOLEAN] = False
    post_quantum: Annotated[bool, TrailingFlag()] = False

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode a policy; octets that end after `x509_only` (version 0.1) get the default values of later fields.

        :raises MalformedError: the octets are not a policy
        """
        try:
            return super(RoomPolicy, cls).decode(data)  # noqa: UP008  # a class with slots is made twice
        except MalformedError:
            policy = super(RoomPolicy, cls).decode(data + _SINCE_0_2)  # noqa: UP008
            if policy.roots:  # the octets end within the last hash: others refuse them, so the group would be split
                raise
            return policy

    @classmethod
    def found_in(cls, extensions: Extensions) -> Self | None:
        """The policy among a GroupContext's extensions; None if there is none.

        :raises PolicyTooNew: there is one of a newer version
        :raises MalformedError: it cannot be parsed, or does not name a room and administrators in normal form
        """
        newest = max((entry.extension_type for entry in extensions if entry.extension_type in POLICY_TYPES), default=0)
        if newest > cls.TYPE:
            raise PolicyTooNew(POLICY_TYPES.index(newest))
        return super(RoomPolicy, cls).found_in(extensions)  # noqa: UP008  # a class with slots is made twice

    @classmethod
    def required_in(cls, extensions: Extensions) -> Self:
        """The policy among the extensions of a room's group, which must have one.

        :raises InvalidError: there is none, so the group was not made for a room; or there is an app_data_dictionary
        :raises PolicyTooNew: there is one of a newer version
        :raises MalformedError: see :meth:`found_in`
        """
        policy = cls.found_in(extensions)
        if policy is None:
            raise InvalidError("the group has no policy, and so no room", "urn:xmpp:mls:0 policy")
        # mls-policy, "The Policy Extension": its component safe_aad would give authenticated_data another meaning
        if any(entry.extension_type == ExtensionType.APP_DATA_DICTIONARY for entry in extensions):
            raise InvalidError("the group has application data of components", "urn:xmpp:mls:0 policy")
        return policy

    def replaced_in(self, extensions: Extensions) -> tuple[Extension, ...]:
        """Extensions with this policy in place of the one that they contain, for a GroupContextExtensions proposal.

        :raises ValueError: the policy cannot be encoded: see
            :func:`slixmpp_mls.identity.client_identity.check_bare_jid`, `MAX_ADMINISTRATORS`
        """
        return (*(entry for entry in extensions if entry.extension_type not in POLICY_TYPES), self.extension())

    @classmethod
    def for_conversation(cls, room: str, one: str, other: str) -> Self:
        """The policy of a conversation between two accounts.

        :param room: bare JID
        :param one: bare JID of an account
        :param other: bare JID of the other account
        """
        return cls(room, tuple(sorted((one, other))), external_joins=ExternalJoins.DEVICES, conversation=True)

    def partner_of(self, account: str) -> str | None:
        """The other account of a conversation; None if this is no conversation, or not one of this account."""
        if not self.conversation or len(self.administrators) != 2 or account not in self.administrators:
            return None
        return next(other for other in self.administrators if other != account)

    def administrators_in(self, roster: Roster) -> frozenset[str]:
        """The listed administrators that are confirmed members.  If empty, every member is an administrator."""
        return frozenset(filter(roster.has_say, self.administrators))

    def is_administrator(self, account: str, roster: Roster) -> bool:
        """Whether a member account is an administrator at present: listed, or a member while no listed one is."""
        if not roster.has_say(account):
            return False
        return account in self.administrators or not any(map(roster.has_say, self.administrators))

    def accepts(self, credential: AnyCredential) -> bool:
        """Whether a leaf that enters or is renewed may have this credential (`x509_only`, `roots`)."""
        if not self.x509_only:
            return True
        return isinstance(credential, X509Credential) and (not self.roots or leads_to(credential, self.roots))

    def allows_suite(self, number: int) -> bool:
        """Whether the group may have this cipher suite (`post_quantum`), by its number, known to us or not."""
        return not self.post_quantum or number in POST_QUANTUM_SUITES

    def permits(self, right: Right, account: str, roster: Roster) -> bool:
        """Whether an account has a right, such as ``policy.may_change_subject``."""
        if right == Right.MEMBERS:
            return roster.has_say(account)
        return right == Right.ADMINISTRATORS and self.is_administrator(account, roster)
