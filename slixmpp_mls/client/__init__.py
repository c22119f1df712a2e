"""One device and its groups, without I/O: the rules by which a room's stanzas become state.

::

    delivery ── Incoming ──► processing.examine ──► Step ── authentication ──► applying.accept ──► events
    application ──► sending.compose / commit / propose ──► Outgoing ──► delivery

:mod:`.device` holds our identity, keys and KeyPackages.  :mod:`.group` has the rules of a room's group: a
:class:`RoomGroup` is made of the parts above and others.  :mod:`.storage` has the records of a room in the store.  Each
step writes its changes in one transaction before it reports them.
"""

from .device import Device, KeyPackagePlan, KeyPackageSettings, PublishedKeyPackage, open_key_package
from .events import (
    CommitLost,
    Event,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    GroupLost,
    GroupOutdated,
    Joined,
    JoinedPartially,
    JoinRequested,
    LeftBehind,
    MemberDoubted,
    MessageReceived,
    MessageSent,
    Missed,
    Rejected,
    Rejoining,
    RemovedFromGroup,
    Unreadable,
    Unsure,
    WholeTree,
)
from .group.actions import Incoming, Outgoing, Step
from .group.room_group import RoomGroup
from .member import Member
from .storage.doubts import Doubt, Doubts

__all__ = [
    "CommitLost", "Device", "Doubt", "Doubts", "Event", "GroupChanged", "GroupClosed", "GroupContinued", "GroupLost",
    "GroupOutdated", "Incoming", "JoinRequested", "Joined", "JoinedPartially", "KeyPackagePlan", "KeyPackageSettings",
    "LeftBehind", "Member", "MemberDoubted", "MessageReceived", "MessageSent", "Missed", "Outgoing",
    "PublishedKeyPackage", "Rejected", "Rejoining", "RemovedFromGroup", "RoomGroup", "Step", "Unreadable", "Unsure",
    "WholeTree", "open_key_package",
]  # fmt: skip
