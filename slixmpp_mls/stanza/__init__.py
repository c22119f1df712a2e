"""The XML elements of ``urn:xmpp:mls:0``, built and parsed with lxml, independent of any XMPP library.

:mod:`.elements` has the elements, :mod:`.lexical` the spelling of their values; :mod:`.consistency` compares their
    attributes with the MLS content.  The bindings
:mod:`.slixmpp` and :mod:`.aioxmpp` are imported only by their users.
"""

from .elements import (
    MAX_ENCODED,
    NODE_DEVICES,
    NODE_KEY_PACKAGES,
    NS,
    Answer,
    Application,
    Commit,
    Device,
    Element,
    GroupInfo,
    Inquiry,
    Invitation,
    Key,
    KeyPackage,
    MessageElement,
    Proposal,
    RetiredDevice,
    RoomElement,
    Source,
    Voucher,
    Welcome,
    parse,
    payloads,
    read_payloads,
)

__all__ = [
    "MAX_ENCODED",
    "NODE_DEVICES",
    "NODE_KEY_PACKAGES",
    "NS",
    "Answer",
    "Application",
    "Commit",
    "Device",
    "Element",
    "GroupInfo",
    "Inquiry",
    "Invitation",
    "Key",
    "KeyPackage",
    "MessageElement",
    "Proposal",
    "RetiredDevice",
    "RoomElement",
    "Source",
    "Voucher",
    "Welcome",
    "parse",
    "payloads",
    "read_payloads",
]
