"""What a message says about another one: replies, reactions, corrections, retractions, markers; and who is mentioned.

::

    <reply xmlns='urn:xmpp:reply:0' id='...' to='bob@example.org'/>                                XEP-0461
    <reactions xmlns='urn:xmpp:reactions:0' id='...' mls:sender='bob@example.org'>                 XEP-0444
      <reaction>👍</reaction>
    </reactions>
    <replace xmlns='urn:xmpp:message-correct:0' id='...'/>                                         XEP-0308
    <retract xmlns='urn:xmpp:message-retract:1' id='...' mls:sender='bob@example.org'/>            XEP-0424
    <displayed xmlns='urn:xmpp:chat-markers:0' id='...' mls:sender='bob@example.org'/>             XEP-0333
    <composing xmlns='http://jabber.org/protocol/chatstates'/>                                     XEP-0085
    <mention xmlns='urn:xmpp:mentions:0' jid='bob@example.org' begin='0' end='3'/>                 XEP-0513
    <reference xmlns='urn:xmpp:reference:0' type='mention' uri='xmpp:bob@example.org'/>            XEP-0372

All of them stand in the encrypted envelope.  In groupchat these XEPs point to a message by the room's id for it, which
a room can give to another message; here the id is the sender's own, which the sender has authenticated.  Another member
can use the same id, so that a pointer names the sender as well: the bare JID in the attribute ``sender`` of this
protocol's namespace, or ``to`` of a reply.  A correction is always of a message of the same account.

This module reads; :mod:`slixmpp_mls.rooms.rich` finds the message that is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from xml.etree import ElementTree as ET

from ..errors import MalformedError
from ..identity import check_bare_jid
from .elements import NS

__all__ = [
    "CORRECTION",
    "MARKERS",
    "MAX_REACTIONS",
    "REACTIONS",
    "REPLY",
    "RETRACTION",
    "SENDER",
    "STATES",
    "Kind",
    "Pointer",
    "RichContent",
    "read_rich",
]

REPLY: Final = "urn:xmpp:reply:0"
REACTIONS: Final = "urn:xmpp:reactions:0"
CORRECTION: Final = "urn:xmpp:message-correct:0"
RETRACTION: Final = "urn:xmpp:message-retract:1"
MARKERS: Final = "urn:xmpp:chat-markers:0"
STATES: Final = "http://jabber.org/protocol/chatstates"
SENDER: Final = f"{{{NS}}}sender"
"""The attribute that says whose message is meant."""

MAX_REACTIONS: Final = 16
MAX_REACTION: Final = 64  # octets: the longest emoji in Unicode have 35
MAX_MENTIONS: Final = 64
_MAX_ID: Final = 256  # octets, as of authenticated ids
_CLIENT: Final = "{jabber:client}"


class Kind(StrEnum):
    """What a message is there for."""

    MESSAGE = "message"
    REACTION = "reaction"
    CORRECTION = "correction"
    RETRACTION = "retraction"
    TYPING = "typing"
    MARKER = "marker"


@dataclass(frozen=True, slots=True)
class Pointer:
    """A message, as another one names it.

    :ivar id: its sender's id for it
    :ivar sender: bare JID of its sender; None if it is not named
    """

    id: str
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class RichContent:
    """What :func:`read_rich` finds.

    :ivar about: the message that a reaction, a correction, a retraction or a marker is about
    :ivar reactions: all those of this sender to that message from now on
    :ivar reply_to: the message that this one answers
    :ivar mentions: bare JIDs
    :ivar state: of XEP-0085, such as ``composing``
    """

    kind: Kind = Kind.MESSAGE
    about: Pointer | None = None
    reactions: tuple[str, ...] = ()
    reply_to: Pointer | None = None
    mentions: tuple[str, ...] = ()
    state: str | None = None


_ABOUT: Final = (
    (f"{{{RETRACTION}}}retract", Kind.RETRACTION),
    (f"{{{CORRECTION}}}replace", Kind.CORRECTION),
    (f"{{{REACTIONS}}}reactions", Kind.REACTION),
)
_STATES: Final = ("active", "composing", "paused", "inactive", "gone")


def read_rich(message: ET.Element) -> RichContent:
    """What a decrypted message says about others.

    :raises MalformedError: it is about several messages, or does not say about which, or is too long
    """
    found = [(kind, element) for name, kind in _ABOUT for element in message.iterfind(name)]
    if len(found) > 1:
        raise MalformedError("a message that is about several messages")
    reply = message.find(f"{{{REPLY}}}reply")
    reply_to = None if reply is None else _pointer(reply, reply.get("to"))
    mentions = tuple(dict.fromkeys(_mentions(message)))
    if found:
        ((kind, element),) = found
        reactions = _reactions(element) if kind is Kind.REACTION else ()
        return RichContent(kind, _pointer(element, element.get(SENDER)), reactions, reply_to, mentions)
    state = next((name for name in _STATES if message.find(f"{{{STATES}}}{name}") is not None), None)
    displayed = message.find(f"{{{MARKERS}}}displayed")
    says_something = any(
        not child.tag.startswith((f"{{{STATES}}}", f"{{{MARKERS}}}", f"{_CLIENT}thread")) for child in message
    )
    if displayed is not None and not says_something:
        return RichContent(Kind.MARKER, _pointer(displayed, displayed.get(SENDER)))
    kind = Kind.TYPING if state is not None and not says_something else Kind.MESSAGE
    return RichContent(kind, reply_to=reply_to, mentions=mentions, state=state)


def _pointer(element: ET.Element, sender: str | None) -> Pointer:
    identifier = element.get("id", "")
    if not 0 < len(identifier.encode()) <= _MAX_ID:
        raise MalformedError("a pointer to a message without an id, or with too long a one")
    return Pointer(identifier, _account(sender))


def _account(jid: str | None) -> str | None:
    """A bare JID; None for anything else, such as the JID of an occupant, which is a claim of the room's."""
    try:
        check_bare_jid(jid or "")
    except ValueError:
        return None
    return jid


def _reactions(element: ET.Element) -> tuple[str, ...]:
    texts = [(child.text or "").strip() for child in element.iterfind(f"{{{REACTIONS}}}reaction")]
    if len(texts) > MAX_REACTIONS or not all(0 < len(text.encode()) <= MAX_REACTION for text in texts):
        raise MalformedError(f"not up to {MAX_REACTIONS} reactions of up to {MAX_REACTION} octets")
    return tuple(dict.fromkeys(texts))


def _mentions(message: ET.Element) -> Iterator[str]:
    named = [element.get("jid") for element in message.iterfind("{urn:xmpp:mentions:0}mention")]
    for element in message.iterfind("{urn:xmpp:reference:0}reference"):
        uri = element.get("uri", "")
        if element.get("type") == "mention" and uri.startswith("xmpp:"):
            named.append(uri.removeprefix("xmpp:").partition("?")[0])
    if len(named) > MAX_MENTIONS:
        raise MalformedError(f"more than {MAX_MENTIONS} mentions")
    for jid in named:
        account = _account(jid)
        if account is not None:
            yield account
