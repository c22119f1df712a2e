"""XMPP's services as the Delivery Service of MLS (RFC 9750 5): a directory and an ordered fanout.

`KeyPackageDirectory` and `DeviceDirectory` are nodes of an account's PEP service.  `Room` is a MUC room with its
archive.  `Uploads` transfers data that is too large for a stanza.  This package knows nothing of MLS: it transfers
octets and elements of ``urn:xmpp:mls:0``.
"""

from .archive import Archive, RoomStanza
from .devices import DeviceDirectory
from .events import (
    AffiliationChanged,
    AttemptFailed,
    Bounced,
    CatchingUp,
    Entered,
    EphemeralShown,
    Interrupted,
    Reconfigured,
    RoomEvent,
    Unarchived,
    Verified,
)
from .invitation import Invitation, parse_invitation
from .key_packages import KeyPackageDirectory
from .occupancy import Occupant
from .pep import PEPNode
from .room import Room
from .stream import MAX_STANZA, Stream
from .upload import AllowURL, Uploads

__all__ = [
    "MAX_STANZA",
    "AffiliationChanged",
    "AllowURL",
    "Archive",
    "AttemptFailed",
    "Bounced",
    "CatchingUp",
    "DeviceDirectory",
    "Entered",
    "EphemeralShown",
    "Interrupted",
    "Invitation",
    "KeyPackageDirectory",
    "Occupant",
    "PEPNode",
    "Reconfigured",
    "Room",
    "RoomEvent",
    "RoomStanza",
    "Stream",
    "Unarchived",
    "Uploads",
    "Verified",
    "parse_invitation",
]
