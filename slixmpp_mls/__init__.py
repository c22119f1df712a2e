"""End-to-end encrypted XMPP rooms: Messaging Layer Security (RFC 9420) as a slixmpp plugin.

Layout, each layer importing only from those before it::

    errors                    one tree of everything that can go wrong
    mls/                      RFC 9420 without I/O
    identity roster policy    whose leaf, which leaves, who may do what
    stanza/ sce               the XML, knowing no XMPP library
    store/                    where it is kept
    authentication/           whose keys these are
    client/                   one device and its groups: the order rules, without I/O
    delivery/                 PEP nodes and rooms, over slixmpp
    own_devices hygiene ...   what the plugin does by itself: the account's devices, keys that do not grow old
    encrypted_room plugin     one room; the slixmpp plugin: what a bot author sees
    devserver cli testing     a throw-away server, commands, fakes for tests
"""

from importlib.metadata import version

from slixmpp.plugins import register_plugin

from .errors import *  # noqa: F403
from .plugin import MLS as MLS
from .policy import ExternalJoins as ExternalJoins
from .policy import Right as Right
from .policy import RoomPolicy as RoomPolicy
from .rooms.conversations import ConversationMerged as ConversationMerged
from .rooms.encrypted_room import AddResult as AddResult
from .rooms.encrypted_room import EncryptedMessage as EncryptedMessage
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
