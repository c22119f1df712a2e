"""Content that has no place in the room's order: it is not stored, and lost if it is lost.

::

    envelope ── signed by the leaf ──► EphemeralContent ── AEAD, key and nonce from a salt ──► <ephemeral/>

Application messages use up generations of a ratchet, which a reader misses if a stanza is lost, and every reader stores
what it has read.  Typing and read markers are worth neither.  They are encrypted with a secret that is exported from
the present epoch (RFC 9420 8.5), so they need no state: a random salt makes key and nonce fresh.  A signature by the
sender's leaf proves who has sent it, since every member has the key.  It covers the GroupContext and the salt, as that
of a FramedContent does (RFC 9420 6.1).

Forward secrecy is that of the epoch, and not that of a single message: nothing else may be sent in this way.

*Limits.*  The room's server may show a stanza again.  A salt that has been seen in the epoch is ignored, and the
content's time is compared with the clock by the caller.  One leaf gets :data:`BURST` through in :data:`PERIOD` seconds.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

from ...errors import MalformedError, StanzaTooLarge
from ...mls.crypto.cipher_suite import Random
from ...mls.group.group import Group
from ...mls.structures.group_context import GroupContext
from ...mls.tls import Struct, opaque, struct, uint32
from ...mls.tree.tree_math import LeafIndex
from ...stanza import elements
from ..device import Device
from ..member import Member
from .room_state import RoomState

__all__ = [
    "BURST", "MAX_EPHEMERAL", "PERIOD", "Ephemeral", "EphemeralContent", "EphemeralMessage", "EphemeralReceived",
    "keys", "seal",
]  # fmt: skip

MAX_EPHEMERAL = 4096
"""Octets of the text of an element, before base64."""
BURST = 10
"""How many of one leaf are read in :data:`PERIOD` seconds."""
PERIOD = 10
_SALTS = 1024  # remembered, of the present epoch
_LABEL = "MLS-XMPP 1.0 ephemeral"


@struct
class EphemeralMessage(Struct):
    """The text of an ``<ephemeral/>`` element.

    :ivar salt: KDF.Nh random octets, from which the AEAD's key and nonce are derived
    :ivar ciphertext: of an :class:`EphemeralContent`
    """

    salt: opaque
    ciphertext: opaque


@struct
class EphemeralContent(Struct):
    """:ivar sender: leaf index
    :ivar envelope: XEP-0420
    :ivar signature: ``SignWithLabel`` with the leaf's key, over an :class:`EphemeralTBS`
    """

    sender: uint32
    envelope: opaque
    signature: opaque


@struct
class EphemeralTBS(Struct):
    """The signed content."""

    group_context: GroupContext
    sender: uint32
    salt: opaque
    envelope: opaque


@dataclass(frozen=True, slots=True)
class EphemeralReceived:
    """Content that a member has signed.

    :ivar data: the envelope
    """

    sender: Member
    data: bytes


def seal(group: Group, envelope: bytes, random: Random = os.urandom) -> elements.Ephemeral:
    """Sign and encrypt content for the members of a group's present epoch.

    :raises StanzaTooLarge: it is longer than :data:`MAX_EPHEMERAL` in the end
    """
    suite, own = group.suite, int(group.own_index)
    salt = random(suite.hash_length)
    tbs = EphemeralTBS(group.context, own, salt, envelope).encode()
    content = EphemeralContent(own, envelope, suite.sign_with_label(group.signature_key, _LABEL, tbs)).encode()
    key, nonce = keys(group, salt)
    data = EphemeralMessage(salt, suite.aead_seal(key, nonce, b"", content)).encode()
    if len(data) > MAX_EPHEMERAL:
        raise StanzaTooLarge(len(data), MAX_EPHEMERAL)
    return elements.Ephemeral(group.group_id, group.epoch, data)


def keys(group: Group, salt: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of one ephemeral message in the group's present epoch."""
    suite = group.suite
    secret = group.export(_LABEL, b"", suite.hash_length)
    return (
        suite.expand_with_label(secret, "key", salt, suite.aead_key_length),
        suite.expand_with_label(secret, "nonce", salt, suite.nonce_length),
    )


class Ephemeral:
    """Seals and opens ephemeral content of one room's group."""

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state
        self._epoch = b""
        self._salts: dict[bytes, None] = {}
        self._read: dict[int, deque[int]] = {}

    def seal(self, envelope: bytes) -> elements.Ephemeral:
        """Sign and encrypt content for the members of the present epoch.  Nothing is stored.

        :raises UsageError: we are not in the group
        :raises StanzaTooLarge: it is longer than :data:`MAX_EPHEMERAL` in the end
        """
        return seal(self._state.require_member().group, envelope, self._device.random)

    def open(self, element: elements.Ephemeral, now: int) -> EphemeralReceived | None:
        """Decrypt and verify; None if it is of another group or epoch, our own, shown before, or one too many.

        :param now: seconds since the Unix epoch
        :raises MalformedError: it cannot be read
        :raises InvalidError: it does not decrypt, or no member has signed it
        """
        membership = self._state.membership
        if membership is None:
            return None
        group = membership.group
        if (element.group, element.epoch) != (group.group_id, group.epoch):
            return None  # it may come after a Commit that the sender had not seen
        if len(element.data) > MAX_EPHEMERAL:
            raise MalformedError(f"ephemeral content of over {MAX_EPHEMERAL} octets")
        message = EphemeralMessage.decode(element.data)
        suite = group.suite
        if len(message.salt) != suite.hash_length:
            raise MalformedError("ephemeral content with a salt of another length than the suite's")
        self._forget_others(group.epoch_authenticator)
        if message.salt in self._salts:
            return None
        key, nonce = keys(group, message.salt)
        content = EphemeralContent.decode(suite.aead_open(key, nonce, b"", message.ciphertext))
        if content.sender == group.own_index:
            return None
        leaf = group.tree.member(LeafIndex(content.sender))  # refuses a blank leaf
        tbs = EphemeralTBS(group.context, content.sender, message.salt, content.envelope).encode()
        suite.verify_with_label(leaf.signature_key, _LABEL, tbs, content.signature)
        if self._is_too_often(content.sender, now):  # counted only when its member has signed it: RFC 9420 6.1
            return None
        self._salts[message.salt] = None
        if len(self._salts) > _SALTS:
            del self._salts[next(iter(self._salts))]
        return EphemeralReceived(Member.of(LeafIndex(content.sender), leaf), content.envelope)

    def _forget_others(self, epoch: bytes) -> None:
        """Salts count within one epoch: in another one they lead to other keys."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._salts.clear()
            self._read.clear()

    def _is_too_often(self, sender: int, now: int) -> bool:
        times = self._read.setdefault(sender, deque(maxlen=BURST))
        if len(times) == BURST and abs(now - times[0]) < PERIOD:
            return True
        times.append(now)
        return False
