"""The content of an application message: a stanza's content in an XEP-0420 envelope.

:mod:`slixmpp_mls.stanza.content_profile` is the profile of this protocol.  :func:`seal_body` and its neighbours make an
envelope for outgoing content; :func:`open_content` opens and checks a member's message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

from slixmpp.stanza import Message

from ..client import MessageReceived, RoomGroup
from ..client.member import Member
from ..errors import PolicyViolation, UsageError
from ..stanza.content_profile import PROFILE
from ..stanza.sce import Affix, Envelope, is_server_processed, mismatches, seal_text
from ..stanza.xml import to_stdlib

__all__ = ["PROFILE", "OpenedContent", "open_content", "say_the_same", "seal_body", "seal_elements", "seal_message"]

_ADDRESSING = frozenset({("urn:xmpp:sid:0", "origin-id")})


@dataclass(frozen=True, slots=True)
class OpenedContent:
    """The checked content of an application message.

    :ivar xml: a ``<message/>`` with the content
    :ivar sent: the sender's claimed sending time
    :ivar stamp: when the room received it
    :ivar warnings: as of :attr:`EncryptedMessage.warnings`
    :ivar affixes: this protocol's own affixes
    """

    xml: ET.Element = field(repr=False)
    sent: datetime | None
    stamp: datetime
    warnings: tuple[str, ...]
    affixes: tuple[Any, ...] = field(default=(), repr=False)


def seal_body(body: str, sender: str, room: str, now: float, affix: Any = None) -> bytes:
    """An envelope around a text.

    :param sender: bare JID
    :param room: bare JID
    :param now: seconds since the Unix epoch
    :param affix: an element of this protocol, in addition to those of XEP-0420; None for none
    :raises UsageError: the text holds characters that XML forbids
    """
    if affix is None:
        return seal_text(body, sender, room, datetime.fromtimestamp(now, UTC), PROFILE)
    element = ET.Element("{jabber:client}body")
    element.text = body
    return _seal((element,), sender, room, now, affix)


def seal_message(message: Message, sender: str, room: str, now: float, affix: Any = None) -> bytes:
    """An envelope around a prepared message's elements, except those meant for servers.

    :raises UsageError: nothing is left, or an element is not allowed in an envelope
    """
    content = [child for child in message.xml if not _stays_outside(child)]
    if not content:
        raise UsageError("a message without content")
    return _seal(content, sender, room, now, affix)


def seal_elements(content: Iterable[Any], sender: str, room: str, now: float) -> bytes:
    """An envelope around elements of either library; parameters as of :func:`seal_body`."""
    return _seal(content, sender, room, now)


def _stays_outside(element: Any) -> bool:
    namespace, _, name = element.tag[1:].partition("}")
    return is_server_processed(element) or (namespace, name) in _ADDRESSING


def _seal(content: Iterable[Any], sender: str, room: str, now: float, affix: Any = None) -> bytes:
    own = () if affix is None else (affix,)
    envelope = Envelope(tuple(content), sender, room, datetime.fromtimestamp(now, UTC), own=own)
    return envelope.seal(PROFILE)


def say_the_same(one: bytes, other: bytes) -> bool:
    """Whether two of our envelopes have the same content, regardless of time and padding."""
    return _text(one) == _text(other)


def _text(data: bytes) -> list[str]:
    return [ET.canonicalize(ET.tostring(to_stdlib(element))) for element in Envelope.open(data, PROFILE).content]


def open_content(group: RoomGroup, received: MessageReceived, recipient: str, now: float) -> OpenedContent:
    """Open and check a member's message.

    :param group: the room's group
    :param recipient: our full JID
    :param now: seconds since the Unix epoch
    :raises MalformedError: no envelope
    :raises AffixMismatch: an envelope for another room, or by another sender
    :raises PolicyViolation: a subject by an account without the right to change it
    """
    envelope = Envelope.open(received.data, PROFILE)
    stamp = datetime.fromtimestamp(now if received.stamp is None else received.stamp, UTC)
    _check_subject(group, received.sender, envelope)
    warnings = []
    for mismatch in mismatches(envelope, PROFILE, sender=received.sender.account, recipient=received.room, sent=stamp):
        if mismatch.affix != Affix.TIME:
            raise mismatch
        warnings.append("time")
    if received.forged:
        warnings.append("claimed-sender")
    if received.removed:
        warnings.append("removed")
    if received.clear:
        warnings.append("clear")
    attributes = {"from": received.occupant, "to": recipient, "type": "groupchat"}
    if received.origin_id is not None:
        attributes["id"] = received.origin_id
    xml = ET.Element("{jabber:client}message", attributes)
    xml.extend(to_stdlib(element) for element in envelope.content)
    return OpenedContent(xml, envelope.time, stamp, tuple(warnings), envelope.own)


def _check_subject(group: RoomGroup, sender: Member, envelope: Envelope) -> None:
    """The right `may_change_subject`; no Commit is involved, so receivers check it by the policy that they know."""
    tags = {element.tag for element in envelope.content}
    if "{jabber:client}subject" not in tags or "{jabber:client}body" in tags or group.room_state.speaking is None:
        return
    if not group.permits(group.policy.may_change_subject, sender.account):
        raise PolicyViolation("subject", "a subject without the right to change it", str(sender))
