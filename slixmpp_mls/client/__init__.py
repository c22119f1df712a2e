"""One device and its groups, without I/O: the rules by which a room's stanzas become state.

::

    delivery ── Incoming ──► RoomGroup.examine ──► Step ── authentication ──► RoomGroup.accept ──► events
    application ─► RoomGroup.compose / commit / propose ──► Outgoing ──► delivery

:mod:`.device` holds our identity, keys and KeyPackages; :mod:`.group` one room's group with the rules of its order;
:mod:`.storage` what the store has of a room.  Each step writes its changes in one transaction before it tells of them.
"""

from .device import Device, KeyPackagePlan, KeyPackageSettings, PublishedKeyPackage, open_key_package
from .events import (
    CommitLost,
    Event,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    GroupLost,
    Joined,
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
)
from .group.actions import Incoming, Outgoing, Step
from .group.room_group import RoomGroup
from .member import Member
from .storage.doubts import Doubt, Doubts

__all__ = [
    "CommitLost", "Device", "Doubt", "Doubts", "Event", "GroupChanged", "GroupClosed", "GroupContinued", "GroupLost",
    "Incoming", "JoinRequested", "Joined", "KeyPackagePlan", "KeyPackageSettings", "LeftBehind", "Member",
    "MemberDoubted", "MessageReceived", "MessageSent", "Missed", "Outgoing", "PublishedKeyPackage", "Rejected",
    "Rejoining", "RemovedFromGroup", "RoomGroup", "Step", "Unreadable", "Unsure", "open_key_package",
]  # fmt: skip
