"""End-to-end encrypted XMPP rooms: Messaging Layer Security (RFC 9420) as a slixmpp plugin.

Layout, each layer importing only from those before it::

    errors                    one tree of everything that can go wrong
    mls/                      RFC 9420 without I/O
    identity roster policy    whose leaf, which leaves, who may do what
    client/                   one device and its groups: the order rules, without I/O
    store/                    where it is kept
    authentication/           whose keys these are
    stanza/ sce               the XML, knowing no XMPP library
    delivery/                 PEP nodes and rooms, over slixmpp
    plugin encrypted_room     the slixmpp plugin, what a bot author sees; beside it what it does by itself:
    own_devices hygiene ...   the account's devices, keys that do not grow old
    devserver cli testing     a throw-away server, commands, fakes for tests
"""

from slixmpp.plugins import register_plugin

from .content import EncryptedMessage as EncryptedMessage
from .encrypted_room import AddResult as AddResult
from .encrypted_room import EncryptedRoom as EncryptedRoom
from .encrypted_room import SentMessage as SentMessage
from .errors import *  # noqa: F403
from .plugin import MLS as MLS
from .split_view import EpochComparison as EpochComparison

register_plugin(MLS)
