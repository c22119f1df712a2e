"""Encrypts the GroupInfos in a room for the group's members, present and past.

::

    key of the epoch of the last removal ── a fresh salt ──► AEAD key and nonce ──► <group-info key-epoch='3'/>

A GroupInfo contains the group's tree, that is, the credentials and public keys of all members.  The room would show it
to its server and to everybody that may enter.  Therefore a Commit's GroupInfo is encrypted, unless the policy lets
anybody join.  The key must be one that members who missed Commits have, or they could not return by it; and one that
removed members do not have.  It is an exported secret (RFC 9420 8.5) of the epoch that began with the last removal.
Members of that epoch derive it.  Later ones receive it as an extension of the GroupInfo in their Welcome, which is
encrypted to them.

A Commit begins a new key if one of these holds, and keeps the key otherwise (:func:`key_after`):

- it ends epoch 0, so a new group has a key that all of its members derive;
- a client that was in the group is not in it afterwards, or has another signature key.  A client that returns
  with its key has not left;
- the policy before it lets anybody join: a client that came in by a GroupInfo in clear has received no key.

The key protects nothing but the roster.  A client is let in by its proof (:mod:`slixmpp_mls.policy.admission`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

from ...errors import InvalidError, MalformedError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite, Random
from ...mls.group.commit_effects import Effects
from ...mls.group.group import Group
from ...mls.group.group_state import MemberState
from ...mls.structures.extensions import Extension, ExtensionContent
from ...mls.structures.leaf_node import LeafNode
from ...mls.tls import Struct, opaque, struct, uint64
from ...policy import ExternalJoins, RoomPolicy
from ...stanza import elements
from ...stanza.code_points import GROUP_INFO_KEY
from ...stanza.consistency import check as check_consistency

__all__ = [
    "UNKNOWN",
    "EncryptedGroupInfo",
    "GroupInfoKey",
    "as_element",
    "begins_key",
    "key_after",
    "open_group_info",
    "seal_group_info",
]

LABEL = "MLS-XMPP 1.0 group-info"
_RULES = "urn:xmpp:mls:0 joining by an external Commit"


@struct
class GroupInfoKey(ExtensionContent):
    """In the GroupInfo of a Welcome: the key of the group's GroupInfos in the room.  Also its record in the store.

    :ivar epoch: the epoch that the key is exported from
    :ivar key: KDF.Nh octets; empty if the committer does not know it
    """

    TYPE: ClassVar[int] = GROUP_INFO_KEY
    secret: ClassVar[bool] = True
    epoch: uint64
    key: opaque

    @classmethod
    def of(cls, group: MemberState[Any]) -> GroupInfoKey:
        """The key that begins with the group's present epoch."""
        return cls(group.epoch, group.export(LABEL, b"", group.suite.hash_length))

    @classmethod
    def handed_over(cls, extensions: Iterable[Extension], group: MemberState[Any]) -> GroupInfoKey | None:
        """The key according to the GroupInfo of a Welcome into the group's present epoch; None if it is not known.

        :raises MalformedError: the extension cannot be read
        :raises InvalidError: the key is of a later epoch, or not as long as the suite's are
        """
        found = cls.found_in(tuple(extensions))
        if found is None:
            return cls.of(group)
        return found.checked(group.suite, group.epoch)

    def checked(self, suite: CipherSuite, epoch: int) -> GroupInfoKey | None:
        """The key, None if it is empty.

        :param epoch: the epoch of the GroupInfo that has it
        :raises InvalidError: it is of a later epoch, or not as long as the suite's are
        """
        if not self.key:
            return None
        if len(self.key) != suite.hash_length or self.epoch > epoch:
            raise InvalidError("a group-info key of another length, or of a later epoch", _RULES)
        return self


UNKNOWN = GroupInfoKey(0, b"")
"""Stands for a key that is not known, in a Welcome and in the store."""


@struct
class EncryptedGroupInfo(Struct):
    """The text of a ``<group-info/>`` element with a ``key-epoch``.

    :ivar key_epoch: the epoch that the key is exported from
    :ivar salt: KDF.Nh random octets, from which the AEAD's key and nonce are derived
    :ivar ciphertext: of an MLSMessage with the GroupInfo
    """

    key_epoch: uint64
    salt: opaque
    ciphertext: opaque


@struct
class _EncryptedGroupInfoAAD(Struct):
    group_id: opaque
    epoch: uint64
    key_epoch: uint64


def key_after(key: GroupInfoKey | None, effects: Effects, policy: RoomPolicy, after: Group) -> GroupInfoKey | None:
    """The key of a group's GroupInfos after a Commit.

    :param key: the key before it; None if it is not known
    :param policy: the policy before the Commit
    :param after: the group after it
    """
    return GroupInfoKey.of(after) if begins_key(effects, policy, after.epoch) else key


def begins_key(effects: Effects, policy: RoomPolicy, epoch: int) -> bool:
    """Whether a Commit begins a new key.

    :param policy: the policy before the Commit
    :param epoch: the epoch that begins with it
    """
    if epoch <= 1 or policy.external_joins is ExternalJoins.ANYBODY:
        return True
    # With the key: whoever has a client's old signature key may have been removed for that (mls-recovery, "GroupInfo").
    removed = {_key_of(change.before) for change in effects.removed if change.before is not None}
    added = {_key_of(change.after) for change in effects.added if change.after is not None}
    return not removed <= added


def _key_of(leaf: LeafNode) -> tuple[ClientIdentity, bytes]:
    return ClientIdentity.from_leaf(leaf), leaf.signature_key


def seal_group_info(
    key: GroupInfoKey | None, policy: RoomPolicy, group: Group, message: bytes, random: Random = os.urandom
) -> bytes:
    """The form in which the room gets a GroupInfo: in clear where the policy lets anybody in, otherwise encrypted.

    :param key: of the group's present epoch
    :param policy: the group's
    :param group: in the epoch of the GroupInfo
    :param message: the GroupInfo as MLSMessage
    :returns: the text for :func:`as_element`; empty if nothing can be sent, because the key is not known
    """
    match policy.external_joins:
        case ExternalJoins.NEVER:
            return b""
        case ExternalJoins.ANYBODY:
            return message
    if key is None:
        return b""
    suite = group.suite
    salt = random(suite.hash_length)
    aead_key, nonce = _derive(suite, key, salt)
    aad = _EncryptedGroupInfoAAD(group.group_id, group.epoch, key.epoch).encode()
    return EncryptedGroupInfo(key.epoch, salt, suite.aead_seal(aead_key, nonce, aad, message)).encode()


def as_element(group_id: bytes, epoch: int, octets: bytes) -> elements.GroupInfo:
    """The element of a GroupInfo, from what :func:`seal_group_info` has made.

    An MLSMessage begins with its version, which is not 0.  A key_epoch below 2^48 begins with 0.
    """
    key_epoch = EncryptedGroupInfo.decode(octets).key_epoch if octets[:2] == b"\0\0" else None
    return elements.GroupInfo(group_id, epoch, octets, key_epoch)


def open_group_info(element: elements.GroupInfo, key: GroupInfoKey | None, suite: CipherSuite | None) -> bytes:
    """The GroupInfo in an element, as MLSMessage; nothing of it has been verified.

    :param key: the one that we have
    :param suite: the group's; None if it is not known, as is the key then
    :raises InvalidError: it is encrypted with a key that we do not have, or does not decrypt
    :raises MalformedError: the element cannot be read
    """
    if element.key_epoch is None:
        return element.data
    sealed = EncryptedGroupInfo.decode(element.data)
    if sealed.key_epoch != element.key_epoch:
        raise InvalidError("a group-info of another key-epoch than its attribute says", _RULES)
    if key is None or suite is None or key.epoch != sealed.key_epoch:
        raise InvalidError("a group-info encrypted for members of another time", _RULES)
    if len(sealed.salt) != suite.hash_length:
        raise MalformedError("a group-info with a salt of another length than the suite's")
    aead_key, nonce = _derive(suite, key, sealed.salt)
    aad = _EncryptedGroupInfoAAD(element.group, element.epoch, sealed.key_epoch).encode()
    message = suite.aead_open(aead_key, nonce, aad, sealed.ciphertext)
    check_consistency(elements.GroupInfo(element.group, element.epoch, message))
    return message


def _derive(suite: CipherSuite, key: GroupInfoKey, salt: bytes) -> tuple[bytes, bytes]:
    return (
        suite.expand_with_label(key.key, "key", salt, suite.aead_key_length),
        suite.expand_with_label(key.key, "nonce", salt, suite.nonce_length),
    )
