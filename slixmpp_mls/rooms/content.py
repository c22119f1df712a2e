"""What is inside an application message: a stanza's content in an XEP-0420 envelope.

The profile of this protocol: groupchat messages carry all four affixes.  `from` is the sender's bare JID and must
be the account of the leaf; `to` is the room's, so that no message can be moved to another
room; `time` is when it was sent; `rpad` pads (MLS pads once more, by its own means).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from slixmpp import JID
from slixmpp.stanza import Message

from ..client.events import MessageReceived
from ..client.member import Member
from ..client.storage.doubts import Doubt
from ..errors import PolicyViolation, UsageError
from ..stanza import NS
from ..stanza.sce import Affix, Envelope, Profile, is_server_processed, may_stand_outside, mismatches
from ..stanza.xml import to_stdlib

if TYPE_CHECKING:
    from .encrypted_room import EncryptedRoom, SentMessage

__all__ = [
    "PROFILE", "EncryptedMessage", "open_content", "say_the_same", "says_something_in_clear", "seal_body",
    "seal_elements", "seal_message",
]  # fmt: skip

PROFILE = Profile(frozenset(Affix), protocol=frozenset({NS}), minimum_size=0, random_padding=32)
"""`rpad` is short: MLS pads the whole envelope in steps."""

_ADDRESSING = frozenset({("urn:xmpp:sid:0", "origin-id")})


@dataclass(frozen=True, slots=True)
class EncryptedMessage:
    """What the event ``mls_message`` hands out.

    :ivar group: the group that it was sent in
    :ivar message: the decrypted content as a slixmpp Message: ``message["body"]``, and whatever
        elements registered plugins read (corrections, reactions, replies ...)
    :ivar sender: the member that signed it
    :ivar epoch: the epoch in which it was sent
    :ivar sent: when the sender says it was sent
    :ivar archive_id: its id in the room's archive
    :ivar delayed: whether it comes from the archive
    :ivar again: whether it was read before a restart, and perhaps handed out; the same `archive_id` tells.  (After a
        power cut what was read in the last seconds comes once more without this: reading does not wait for the disk.)
    :ivar warnings: contradictions that do not make it false: ``time`` (the sender's clock and the
        room's differ), ``claimed-sender`` (the room says that it is from another account),
        ``removed`` (its sender had been removed when the room got it: a message that was under way, or one whose keys
        have been kept by somebody who should not have them), ``clear``
        (the stanza said something in clear beside the ciphertext, a body perhaps; it is not in `message`)
    :ivar missing: how many messages of this sender should have come just before this one and have not: a server has
        lost them or keeps them back, or the sender could not send them, or they will still come
    :ivar doubt: why the Authentication Service did not vouch for the sender when it sent this; None if it did
    """

    group: EncryptedRoom = field(repr=False)
    message: Message = field(repr=False)
    sender: Member
    epoch: int
    sent: datetime | None
    archive_id: str
    delayed: bool
    again: bool = False
    warnings: tuple[str, ...] = ()
    missing: int = 0
    doubt: Doubt | None = None

    _answers: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    async def reply(self, text: str) -> SentMessage:
        """Answer in the group that it came from.

        Should a crash make the message come again (`again`), the answers to it, in the same order, have the same
        ids, and everybody sees them once.

        :raises: what :meth:`EncryptedRoom.send` does
        """
        message = self.group.xmpp.make_message(mto=JID(self.room), mbody=text, mtype="groupchat")
        asked = sha256(self.archive_id.encode()).hexdigest()[:32]
        message["id"] = f"re-{asked}-{next(self._answers)}"
        return await self.group.send(message)

    @property
    def body(self) -> str:
        """The text, empty if there is none."""
        return str(self.message["body"])

    @property
    def subject(self) -> str | None:
        """What the room is about from now on, if this message is there to say that (XEP-0045 8.1)."""
        if self.message.xml.find("{jabber:client}subject") is None or self.body:
            return None
        return str(self.message["subject"])

    @property
    def origin_id(self) -> str:
        """The sender's id for it, empty if there is none: the same for everybody, and in every repetition."""
        return str(self.message["id"])

    @property
    def room(self) -> str:
        """The room's bare JID."""
        return self.group.room


def seal_body(body: str, sender: str, room: str, now: float) -> bytes:
    """An envelope around a text.

    :param sender: bare JID
    :param room: bare JID
    :param now: seconds since the Unix epoch
    :raises UsageError: the text holds what XML can not
    """
    element = ET.Element("{jabber:client}body")
    element.text = body
    return _seal((element,), sender, room, now)


def seal_message(message: Message, sender: str, room: str, now: float) -> bytes:
    """An envelope around a prepared message's elements, but for those that are for servers.

    :raises UsageError: nothing is left, or an element can not be in an envelope
    """
    content = [child for child in message.xml if not _stays_outside(child)]
    if not content:
        raise UsageError("a message without content")
    return _seal(content, sender, room, now)


def seal_elements(content: Iterable[Any], sender: str, room: str, now: float) -> bytes:
    """An envelope around elements of either library; parameters as of :func:`seal_body`."""
    return _seal(content, sender, room, now)


def _stays_outside(element: Any) -> bool:
    namespace, _, name = element.tag[1:].partition("}")
    return is_server_processed(element) or (namespace, name) in _ADDRESSING


def _seal(content: Iterable[Any], sender: str, room: str, now: float) -> bytes:
    envelope = Envelope(tuple(content), sender, room, datetime.fromtimestamp(now, UTC))
    return envelope.seal(PROFILE)


def say_the_same(one: bytes, other: bytes) -> bool:
    """Whether two envelopes of ours have the same content, whenever and with whatever padding they were made."""
    return _text(one) == _text(other)


def _text(data: bytes) -> list[str]:
    return [ET.canonicalize(ET.tostring(to_stdlib(element))) for element in Envelope.open(data, PROFILE).content]


def says_something_in_clear(stanza: Iterable[Any]) -> bool:
    """Whether a stanza has children that may not stand in clear beside the ciphertext."""
    return not all(may_stand_outside(child, PROFILE) for child in stanza)


def open_content(group: EncryptedRoom, received: MessageReceived, now: float) -> EncryptedMessage:
    """The message in what a member has sent.

    :param now: seconds since the Unix epoch
    :raises MalformedError: no envelope
    :raises AffixMismatch: an envelope for another room, or by somebody else
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
    attributes = {"from": received.occupant, "to": str(group.xmpp.boundjid), "type": "groupchat"}
    if received.origin_id is not None:
        attributes["id"] = received.origin_id
    xml = ET.Element("{jabber:client}message", attributes)
    xml.extend(to_stdlib(element) for element in envelope.content)
    doubt = group.session.doubts.get(received.sender.identity)
    return EncryptedMessage(
        group=group,
        message=Message(stream=group.xmpp, xml=xml),  # type: ignore[no-untyped-call]
        sender=received.sender,
        epoch=received.epoch,
        sent=envelope.time,
        archive_id=received.archive_id,
        delayed=received.stamp is not None,
        again=received.again,
        warnings=tuple(warnings),
        missing=received.missing,
        doubt=doubt if doubt is not None and doubt.at(stamp.timestamp()) else None,
    )


def _check_subject(group: EncryptedRoom, sender: Member, envelope: Envelope) -> None:
    """The right `may_change_subject`; no Commit is involved, so receivers ask, by the policy that they know."""
    tags = {element.tag for element in envelope.content}
    if "{jabber:client}subject" not in tags or "{jabber:client}body" in tags or not group.is_member:
        return
    policy, roster = group.policy, group.session.roster
    if not policy.permits(policy.may_change_subject, sender.account, roster):
        raise PolicyViolation("subject", "a subject without the right to change it", str(sender))
