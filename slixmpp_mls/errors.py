"""Everything that can go wrong, in one tree.

::

    MLSError
    ├── UsageError            you: the call does not fit the state; nothing has changed
    ├── PeerError             them: bad input from the network; dropped, nothing has changed
    │   ├── MalformedError    it can not be parsed, or breaks a limit on size, depth or count
    │   └── InvalidError      it parses, but breaks a rule; `section` names the rule
    │       ├── WrongEpoch
    │       ├── UnknownGroup
    │       ├── NotForUs      a Welcome or a message that this client holds no key for
    │       └── Replayed      its key was used before and is gone (RFC 9420 9.2)
    ├── StoreError            the disk: nothing of the step was written
    │   ├── StoreLocked       another process has the store open
    │   ├── StoreMismatch     the store belongs to another account, or to a newer version
    │   └── StoreFull
    └── DeliveryError         the XMPP service refused or lost something
        ├── RoomUnsuitable    the room can not serve an encrypted group; `reasons` says why
        ├── NotPermitted      we lack the affiliation or the group's policy forbids it
        ├── StanzaTooLarge    the stanza would exceed what servers carry
        └── Disconnected      the stream is closed

The two first branches follow h11's two kinds of blame.  After any of these errors the
object that raised it is as usable as before.  No message of these exceptions holds a
secret or a plaintext.
"""

from __future__ import annotations

from collections.abc import Sequence


class MLSError(Exception):
    """Base of all errors of this package."""


class UsageError(MLSError):
    """The caller asked for something that the present state does not allow."""


class PeerError(MLSError):
    """Input from somebody else was refused.  It has been dropped; no state has changed."""


class MalformedError(PeerError):
    """Input that does not parse: bad TLS encoding, XML, base64, or over a limit."""


class InvalidError(PeerError):
    """Input that parses and breaks a rule.

    :ivar section: the rule's place, such as ``"RFC 9420 7.3"``.
    """

    def __init__(self, message: str, section: str = "") -> None:
        super().__init__(f"{message} ({section})" if section else message)
        self.section = section


class WrongEpoch(InvalidError):
    """A message for an epoch that the group is not in (any more, or yet)."""


class UnknownGroup(InvalidError):
    """A message for a group that this client is no member of."""


class NotForUs(InvalidError):
    """A message that this client holds no key for."""


class Replayed(InvalidError):
    """A message whose key has been used and deleted (RFC 9420 9.2)."""


class StoreError(MLSError):
    """The store failed; the transaction has been rolled back."""


class StoreLocked(StoreError):
    """Another process (or client) has this store open."""


class StoreMismatch(StoreError):
    """The store belongs to another account, or was written by a newer version."""


class StoreFull(StoreError):
    """No room on the disk; nothing of the step was written."""


class DeliveryError(MLSError):
    """The XMPP service refused, failed or did not answer."""


class RoomUnsuitable(DeliveryError):
    """The room lacks what an encrypted group needs.

    :ivar reasons: one machine-readable name per shortcoming, such as ``"not-members-only"``.
    """

    def __init__(self, room: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{room} can not host an encrypted group: {', '.join(reasons)}")
        self.room = room
        self.reasons = tuple(reasons)


class NotPermitted(DeliveryError):
    """The room's affiliations or the group's policy forbid it."""


class StanzaTooLarge(DeliveryError):
    """The stanza would be larger than servers are known to carry.

    :ivar size: octets needed.
    :ivar limit: octets allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a stanza of {size} octets is over the limit of {limit}")
        self.size = size
        self.limit = limit


class Disconnected(DeliveryError):
    """The stream is closed; what was queued is kept and sent later."""
