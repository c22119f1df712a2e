"""The policy of a group: an extension of its GroupContext.

The policy is part of what all members agree on cryptographically, so no server can change it.  What is done by it
with each Commit is in :mod:`.check`.

*The last administrator.*  While no account of the list has a say in the group, every member account is
an administrator.  So a group cannot be locked by leaving it (nor by an administrator's device that is
lost), and no single survivor, who may be a dead device, has to be waited for.  The first change of the
policy ends this state, for it must name an administrator who is a member.  What nobody may do stays so.

`x509_only` looks at leaves that arrive or are renewed.  Old ones get their certificate with their next
update, which `max_leaf_age` brings about.  With `roots`, the chain in the credential must lead to one of them:
each certificate is signed by the next, and the last one is a root.  No clock and no revocation list is looked
at, on which members need not agree; these are the Authentication Service's.

`max_leaf_age` is not part of the check: the age of a key is a matter of clocks.  Clients renew their own leaf in
time, and those with the right to remove may remove who does not.
It is unlimited by default: a phone in a drawer does no harm to be thrown out for, unless somebody says so.

*Versions.*  A rule that some members do not know would split the group, so there are no optional rules and
each version of the policy has an extension type of its own.  Capabilities then
tell who knows which (RFC 9420 7.2), and no Commit can bring a group to a version that a member lacks (13.4).

The content has grown since version 0.1 of this package: if it ends after `x509_only`, the rest has its defaults.

A group without the extension is none of ours: nothing names its room.  See :meth:`RoomPolicy.required_in`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar, Self

from ..errors import InvalidError, MalformedError, PolicyTooNew
from ..identity.certificates import leads_to
from ..mls.structures.credential import AnyCredential, X509Credential
from ..mls.structures.extensions import Extension, ExtensionContent, Extensions
from ..mls.tls import Enum, struct, uint32
from ..stanza.code_points import POLICY_TYPES
from .codecs import BARE_JID, BOOLEAN, MAX_ADMINISTRATORS, Administrators, RootHashes
from .roster import Roster

__all__ = ["MAX_ADMINISTRATORS", "POLICY_TYPES", "ExternalJoins", "Right", "RoomPolicy"]

VERSION = 1


class Right(IntEnum):
    """Who may do something."""

    NOBODY = 0
    ADMINISTRATORS = 1
    MEMBERS = 2


class ExternalJoins(IntEnum):
    """Who may come in by a Commit of its own (RFC 9420 12.4.3.2)."""

    NEVER = 0
    DEVICES = 1
    """Clients of accounts that have another client in the group, or had, in the leaf that they replace."""
    ANYBODY = 2


_SINCE_0_2 = bytes.fromhex("00000020 00002710 00 00")  # max_devices, max_members, roots, conversation

_right = Annotated[Right, Enum(Right)]


@struct
class RoomPolicy(ExtensionContent):
    """The policy of a group; the defaults are those of a new one, with its creator as administrator.

    :ivar room: bare JID of the room that carries the group's messages; it can never change
    :ivar administrators: accounts, bare JIDs
    :ivar own_devices: whether a member account may add and remove its own clients
    :ivar max_leaf_age: seconds after which a leaf's keys should have been renewed; 0 is unlimited
    :ivar x509_only: whether credentials must be X.509
    :ivar max_devices: how many clients one account may have, 1 or more
    :ivar max_members: how many clients the group may have, 1 or more
    :ivar roots: with `x509_only`: SHA-256 hashes of the root certificates (DER) to one of which each chain leads, the
        root in it; if empty, members need only agree that it is an X.509 credential
    :ivar conversation: whether this is the talk of the accounts in `administrators`, two in all, and of nobody else: no
        other account can be added, and neither this nor the list can change
    """

    TYPE: ClassVar[int] = POLICY_TYPES[VERSION]
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

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The policy with these octets.

        :raises MalformedError: they are none
        """
        try:
            return super(RoomPolicy, cls).decode(data)  # noqa: UP008  # a class with slots is made twice
        except MalformedError:
            return super(RoomPolicy, cls).decode(data + _SINCE_0_2)  # noqa: UP008

    @classmethod
    def found_in(cls, extensions: Extensions) -> Self | None:
        """The policy among a GroupContext's extensions; None if there is none.

        :raises PolicyTooNew: there is one of a newer version
        :raises MalformedError: it does not parse, or names no room or administrator in normal form
        """
        newest = max((entry.extension_type for entry in extensions if entry.extension_type in POLICY_TYPES), default=0)
        if newest > cls.TYPE:
            raise PolicyTooNew(POLICY_TYPES.index(newest))
        return super(RoomPolicy, cls).found_in(extensions)  # noqa: UP008  # a class with slots is made twice

    @classmethod
    def required_in(cls, extensions: Extensions) -> Self:
        """The policy that a group of ours must have.

        :raises InvalidError: there is none: the group was not made for a room
        :raises PolicyTooNew: there is one of a newer version
        :raises MalformedError: see :meth:`found_in`
        """
        policy = cls.found_in(extensions)
        if policy is None:
            raise InvalidError("the group has no policy, and so no room", "urn:xmpp:mls:0 policy")
        return policy

    def replaced_in(self, extensions: Extensions) -> tuple[Extension, ...]:
        """A list of extensions with this policy instead of the one in it, for a GroupContextExtensions proposal.

        :raises ValueError: the policy cannot be encoded: see
            :func:`slixmpp_mls.identity.client_identity.check_bare_jid`, `MAX_ADMINISTRATORS`
        """
        return (*(entry for entry in extensions if entry.extension_type not in POLICY_TYPES), self.extension())

    @classmethod
    def for_conversation(cls, room: str, one: str, other: str) -> Self:
        """The policy of a conversation between two accounts, bare JIDs."""
        return cls(room, tuple(sorted((one, other))), external_joins=ExternalJoins.DEVICES, conversation=True)

    def partner_of(self, account: str) -> str | None:
        """In a conversation of two: who the other one is; None if it is none, or not of this account."""
        if not self.conversation or len(self.administrators) != 2 or account not in self.administrators:
            return None
        return next(other for other in self.administrators if other != account)

    def administrators_in(self, roster: Roster) -> frozenset[str]:
        """The accounts of the list that have a say in the group.  If empty, every member is an administrator."""
        return frozenset(filter(roster.has_say, self.administrators))

    def is_administrator(self, account: str, roster: Roster) -> bool:
        """Whether a member account is an administrator at present, of the list or for lack of any."""
        if not roster.has_say(account):
            return False
        return account in self.administrators or not any(map(roster.has_say, self.administrators))

    def accepts(self, credential: AnyCredential) -> bool:
        """Whether a leaf that arrives or is renewed may have this credential (`x509_only`, `roots`)."""
        if not self.x509_only:
            return True
        return isinstance(credential, X509Credential) and (not self.roots or leads_to(credential, self.roots))

    def permits(self, right: Right, account: str, roster: Roster) -> bool:
        """Whether an account has a right, such as ``policy.may_change_subject``."""
        if right == Right.MEMBERS:
            return roster.has_say(account)
        return right == Right.ADMINISTRATORS and self.is_administrator(account, roster)
