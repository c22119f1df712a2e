"""End-to-end encrypted XMPP rooms: Messaging Layer Security (RFC 9420) as a slixmpp plugin.

A bot needs :class:`Login`, :func:`run` and the plugin :class:`MLS`; README.md shows how.  The map of the packages, and
the order in which they import, is in CONTRIBUTING.md; ``[tool.importlinter]`` in pyproject.toml enforces that order.
"""

from importlib.metadata import version

from slixmpp.plugins import register_plugin

from . import errors
from .account.clock_check import ClockWrong
from .account.events import DeviceConflict, NewOwnDevice, NewStore
from .account.key_rotation import KeyRotated
from .account.maintenance import KeysRenewed, SilentMembers
from .authentication import KeyChanged, NewDevice, TrustChanged
from .client import (
    CommitLost,
    GroupChanged,
    GroupClosed,
    GroupContinued,
    GroupLost,
    GroupOutdated,
    Joined,
    JoinRequested,
    LeftBehind,
    MemberDoubted,
    MessageSent,
    Rejected,
    Rejoining,
    RemovedFromGroup,
    Unreadable,
    Unsure,
)
from .client.device.certificates import CertificateExpires
from .delivery import AffiliationChanged, Bounced, CatchingUp, Entered, Interrupted, Invitation
from .errors import *  # noqa: F403
from .key_packages.cipher_suite_choice import Suspicion
from .key_packages.publication import KeyPackagesChanged
from .plugin import MLS
from .policy import ExternalJoins, Right, RoomPolicy
from .rooms.affiliation_sync import AffiliationsDiffer
from .rooms.conversations import ConversationMerged
from .rooms.encrypted_message import EncryptedMessage
from .rooms.encrypted_room import AddResult, EncryptedRoom, SentMessage
from .rooms.engine.reinit import BetterSuite, ContinuationDelayed
from .rooms.epoch_code import EpochComparison
from .rooms.files import File, FileProgress
from .rooms.rich import Marker, Reference, Typing
from .runtime.clock import ClockJumped
from .runtime.connection import connected, run
from .runtime.login import Login
from .stanza.elements import RetiredDevice

__all__ = [  # and the errors
    "MLS",
    "AddResult",
    "AffiliationChanged",
    "AffiliationsDiffer",
    "BetterSuite",
    "Bounced",
    "CatchingUp",
    "CertificateExpires",
    "ClockJumped",
    "ClockWrong",
    "CommitLost",
    "ContinuationDelayed",
    "ConversationMerged",
    "DeviceConflict",
    "EncryptedMessage",
    "EncryptedRoom",
    "Entered",
    "EpochComparison",
    "ExternalJoins",
    "File",
    "FileProgress",
    "GroupChanged",
    "GroupClosed",
    "GroupContinued",
    "GroupLost",
    "GroupOutdated",
    "Interrupted",
    "Invitation",
    "JoinRequested",
    "Joined",
    "KeyChanged",
    "KeyPackagesChanged",
    "KeyRotated",
    "KeysRenewed",
    "LeftBehind",
    "Login",
    "Marker",
    "MemberDoubted",
    "MessageSent",
    "NewDevice",
    "NewOwnDevice",
    "NewStore",
    "Reference",
    "Rejected",
    "Rejoining",
    "RemovedFromGroup",
    "RetiredDevice",
    "Right",
    "RoomPolicy",
    "SentMessage",
    "SilentMembers",
    "Suspicion",
    "TrustChanged",
    "Typing",
    "Unreadable",
    "Unsure",
    "__version__",
    "connected",
    "run",
]
__all__ += errors.__all__

__version__ = version("slixmpp-mls")

register_plugin(MLS)
