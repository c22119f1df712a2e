"""End-to-end encrypted XMPP rooms: Messaging Layer Security (RFC 9420) as a slixmpp plugin.

A bot needs :class:`Login`, :func:`run` and the plugin :class:`MLS`; README.md shows how.  The map of the packages, and
the order in which they import, is in CONTRIBUTING.md; ``[tool.importlinter]`` in pyproject.toml enforces that order.

The public names are imported when they are first used (PEP 562): importing the package costs little more than slixmpp,
and a program that needs a policy or a login does not load the whole engine.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

from slixmpp.plugins import register_plugin
from slixmpp.plugins.base import BasePlugin

from . import errors
from .errors import *  # noqa: F403

if TYPE_CHECKING:
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
        JoinedPartially,
        JoinRequested,
        LeftBehind,
        MemberDoubted,
        MessageSent,
        Rejected,
        Rejoining,
        RemovedFromGroup,
        Unreadable,
        Unsure,
        WholeTree,
    )
    from .client.device.certificates import CertificateExpires
    from .delivery import AffiliationChanged, Bounced, CatchingUp, Entered, Interrupted, Invitation
    from .key_packages.cipher_suite_choice import Suspicion
    from .key_packages.publication import KeyPackagesChanged
    from .plugin import MLS
    from .policy import ExternalJoins, Right, RoomPolicy
    from .rooms.affiliation_sync import AffiliationsDiffer
    from .rooms.conversations import ConversationMerged
    from .rooms.encrypted_message import EncryptedMessage
    from .rooms.encrypted_room import AddResult, EncryptedRoom, SentMessage
    from .rooms.engine.outage import Outage
    from .rooms.engine.reinit import BetterSuite, ContinuationDelayed
    from .rooms.epoch_code import EpochComparison
    from .rooms.files import File, FileProgress
    from .rooms.invitations import OtherGroup
    from .rooms.rich import Marker, Reference, Typing
    from .rooms.undecided_invitations import UndecidedInvitation
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
    "JoinedPartially",
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
    "OtherGroup",
    "Outage",
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
    "UndecidedInvitation",
    "Unreadable",
    "Unsure",
    "WholeTree",
    "__version__",
    "connected",
    "run",
]
__all__ += errors.__all__

__version__ = version("slixmpp-mls")

_NAMES = {  # what type checkers see above
    "account.clock_check": "ClockWrong",
    "account.events": "DeviceConflict NewOwnDevice NewStore",
    "account.key_rotation": "KeyRotated",
    "account.maintenance": "KeysRenewed SilentMembers",
    "authentication": "KeyChanged NewDevice TrustChanged",
    "client": (
        "CommitLost GroupChanged GroupClosed GroupContinued GroupLost GroupOutdated JoinRequested Joined"
        " JoinedPartially LeftBehind MemberDoubted MessageSent Rejected Rejoining RemovedFromGroup Unreadable Unsure"
        " WholeTree"
    ),
    "client.device.certificates": "CertificateExpires",
    "delivery": "AffiliationChanged Bounced CatchingUp Entered Interrupted Invitation",
    "key_packages.cipher_suite_choice": "Suspicion",
    "key_packages.publication": "KeyPackagesChanged",
    "plugin": "MLS",
    "policy": "ExternalJoins Right RoomPolicy",
    "rooms.affiliation_sync": "AffiliationsDiffer",
    "rooms.conversations": "ConversationMerged",
    "rooms.encrypted_message": "EncryptedMessage",
    "rooms.encrypted_room": "AddResult EncryptedRoom SentMessage",
    "rooms.engine.reinit": "BetterSuite ContinuationDelayed",
    "rooms.engine.outage": "Outage",
    "rooms.epoch_code": "EpochComparison",
    "rooms.invitations": "OtherGroup",
    "rooms.files": "File FileProgress",
    "rooms.rich": "Marker Reference Typing",
    "rooms.undecided_invitations": "UndecidedInvitation",
    "runtime.clock": "ClockJumped",
    "runtime.connection": "connected run",
    "runtime.login": "Login",
    "stanza.elements": "RetiredDevice",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
_PACKAGES = (
    "account", "authentication", "cli", "client", "delivery", "devserver", "identity", "integrations", "key_packages",
    "mls", "plugin", "policy", "rooms", "runtime", "stanza", "store", "testing",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    elif name in _PACKAGES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Plugin(BasePlugin):
    """Stands for :class:`MLS` among the plugins that slixmpp knows, until a client registers it."""

    name = "mls"
    dependencies: ClassVar[set[str]] = {
        "xep_0004",  # forms, for configuring nodes and rooms
        "xep_0030",
        "xep_0045",
        "xep_0060",
        "xep_0115",
        "xep_0163",
        "xep_0198",
        "xep_0199",
        "xep_0359",
    }

    def __new__(cls, xmpp: Any, config: dict[str, Any] | None = None) -> MLS:  # type: ignore[misc]
        from .plugin import MLS

        return MLS(xmpp, config)


register_plugin(_Plugin)
