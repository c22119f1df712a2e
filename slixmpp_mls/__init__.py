"""End-to-end encrypted XMPP rooms: Messaging Layer Security (RFC 9420) as a slixmpp plugin.

A bot needs :class:`Login`, :func:`run` and the plugin :class:`MLS`; README.md shows how.  The map of the packages, and
the order in which they import, is in CONTRIBUTING.md; ``[tool.importlinter]`` in pyproject.toml enforces that order.
"""

from importlib.metadata import version

from slixmpp.plugins import register_plugin

from .errors import *  # noqa: F403
from .plugin import MLS as MLS
from .policy import ExternalJoins as ExternalJoins
from .policy import Right as Right
from .policy import RoomPolicy as RoomPolicy
from .rooms.conversations import ConversationMerged as ConversationMerged
from .rooms.encrypted_message import EncryptedMessage as EncryptedMessage
from .rooms.encrypted_room import AddResult as AddResult
from .rooms.encrypted_room import EncryptedRoom as EncryptedRoom
from .rooms.encrypted_room import SentMessage as SentMessage
from .rooms.epoch_code import EpochComparison as EpochComparison
from .rooms.files import File as File
from .rooms.files import FileProgress as FileProgress
from .rooms.rich import Marker as Marker
from .rooms.rich import Reference as Reference
from .rooms.rich import Typing as Typing
from .runtime.connection import connected as connected
from .runtime.connection import run as run
from .runtime.login import Login as Login

__version__ = version("slixmpp-mls")

register_plugin(MLS)
