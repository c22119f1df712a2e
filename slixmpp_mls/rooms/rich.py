"""Replies, reactions, corrections, retractions, typing and markers: making them, and resolving their references.

:mod:`slixmpp_mls.stanza.rich` has the elements.  Each kind has an event of its own, so that a bot that answers messages
does not answer a reaction: ``mls_reaction``, ``mls_correction`` and ``mls_retraction`` carry an
:class:`~.encrypted_message.EncryptedMessage`, ``mls_typing`` a :class:`Typing`, ``mls_marker`` a :class:`Marker`.

*The referenced message* is identified by its sender's authenticated id and its sender.  The last `KEPT` messages of a
room are remembered by both (never their content), in the store as well.

=============  ==================================================================================
a reply        can point to anything
a reaction     by any member to any message
a correction   by the account that sent the message
a retraction   by that account, or by an administrator of the group's policy
a marker       by any member, about any message
=============  ==================================================================================

A reference to a message that we do not remember may be to one from before our time: `known` is False.  A reference that
contradicts our memory is rejected, with ``mls_rejected``: the id is another account's, or several accounts have used it
and none is named, or the sender may not do that.

In the store: space ``said/`` + room, key number modulo `KEPT` (4 octets), value id, account and archive id, each with
its length (2 octets) before it; key ``next``: the next number (8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree as ET

from slixmpp.plugins.xep_0308.stanza import Replace
from slixmpp.plugins.xep_0424.stanza import Retract
from slixmpp.plugins.xep_0444.stanza import Reactions
from slixmpp.plugins.xep_0461.stanza import Reply

from ..client import Member, RoomGroup
from ..errors import InvalidError, PolicyViolation, StoreError, UsageError
from ..stanza.rich import MAX_REACTIONS, SENDER, Kind, Pointer, RichContent, read_rich
from ..store import Store

__all__ = [
    "KEPT",
    "Marker",
    "Reference",
    "Remembered",
    "Rich",
    "RoomReferences",
    "Typing",
    "correction",
    "reactions",
    "reply",
    "report_presence",
    "retraction",
]

KEPT: Final = 1000
"""Messages of each room that are remembered."""
_STORED_AFTER: Final = 1.0  # seconds
_NEXT: Final = b"next"
_XEP = "urn:xmpp:mls:0, references"


@dataclass(frozen=True, slots=True)
class Reference:
    """A message that another one refers to.

    :ivar id: its sender's id for it (:attr:`EncryptedMessage.origin_id`, :attr:`SentMessage.origin_id`)
    :ivar sender: bare JID; None if no sender is named
    :ivar archive_id: in the room's archive; None if we do not know it, or it is ours
    :ivar known: whether we remember such a message of that sender
    """

    id: str
    sender: str | None
    archive_id: str | None = None
    known: bool = False


@dataclass(frozen=True, slots=True)
class Typing:
    """``mls_typing``: a member is typing, or has stopped.

    :ivar room: bare JID
    :ivar active: whether they are typing
    :ivar state: of XEP-0085: ``composing``, ``paused``, ``active``, ``inactive``, ``gone``
    """

    room: str
    sender: Member
    active: bool
    state: str


@dataclass(frozen=True, slots=True)
class Marker:
    """``mls_marker``: a member has read a message, and all before it.

    :ivar room: bare JID
    """

    room: str
    sender: Member
    about: Reference


@dataclass(frozen=True, slots=True)
class Rich:
    """:class:`~slixmpp_mls.stanza.rich.RichContent` with the referenced messages."""

    content: RichContent = field(default_factory=RichContent)
    about: Reference | None = None
    reply_to: Reference | None = None


@dataclass(frozen=True, slots=True)
class Remembered:
    """A message that can be referenced."""

    id: str
    sender: str
    archive_id: str

    def encode(self) -> bytes:
        """The encoded form for the store."""
        parts = [part.encode()[:0xFFFF] for part in (self.id, self.sender, self.archive_id)]
        return b"".join(len(part).to_bytes(2, "big") + part for part in parts)

    @classmethod
    def decode(cls, data: bytes) -> Remembered:
        """The message from its encoded form in the store."""
        parts = []
        while data:
            end = 2 + int.from_bytes(data[:2], "big")
            parts.append(data[2:end].decode(errors="replace"))
            data = data[end:]
        return cls(*parts)


class RoomReferences:
    """The messages of one room that can be referenced, and the resolution of references.

    New messages are stored after a second: a power cut in between makes a few messages unavailable for references.

    :param fire: fires an event of slixmpp's
    """

    def __init__(self, group: RoomGroup, store: Store, fire: Callable[[str, object], None]) -> None:
        self._group = group
        self._store = store
        self._fire = fire
        self._space = f"said/{group.room}"
        self._ring: dict[int, Remembered] = {}
        self._known: dict[str, dict[str, Remembered]] = {}  # by id and sender
        self._next = 0
        self._new: dict[int, Remembered] = {}
        self._loaded = False
        self._timer: asyncio.TimerHandle | None = None

    # --- remembered messages ---------------------------------------------------------------------

    def remember(self, identifier: str, sender: str, archive_id: str = "") -> None:
        """Remember a message for references; the first one under an id of an account counts."""
        self._load()
        if not self._loaded or sender in self._known.get(identifier, ()):
            return
        place = self._next % KEPT
        if (old := self._ring.pop(place, None)) is not None:
            self._drop(old)
        message = Remembered(identifier, sender, archive_id)
        self._put(place, message)
        self._new[place] = message
        self._next += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_STORED_AFTER, self._write)

    def _put(self, place: int, message: Remembered) -> None:
        self._ring[place] = message
        self._known.setdefault(message.id, {})[message.sender] = message

    def _drop(self, message: Remembered) -> None:
        senders = self._known.get(message.id, {})
        senders.pop(message.sender, None)
        if not senders:
            self._known.pop(message.id, None)

    def _load(self) -> None:
        if self._loaded:
            return
        try:
            with self._store.transaction() as transaction:
                stored = dict(transaction.items(self._space))
        except StoreError as error:
            self._fire("mls_store_failed", error)  # it is tried again with the next message
            return
        self._next = int.from_bytes(stored.pop(_NEXT, b""), "big")
        for key, value in stored.items():
            self._put(int.from_bytes(key, "big"), Remembered.decode(value))
        self._loaded = True

    def _write(self) -> None:
        self._timer = None
        new, self._new = self._new, {}
        try:
            with self._store.transaction(lasting=False) as transaction:
                for place, message in new.items():
                    transaction.put(self._space, place.to_bytes(4, "big"), message.encode())
                transaction.put(self._space, _NEXT, self._next.to_bytes(8, "big"))
        except UsageError:
            pass  # the store is closed
        except StoreError as error:
            self._new = new | self._new  # stored with the next message
            self._fire("mls_store_failed", error)

    def close(self) -> None:
        """Store the new messages now."""
        if self._timer is not None:
            self._timer.cancel()
            self._write()

    # --- references ------------------------------------------------------------------------------

    def resolve(self, message: ET.Element, sender: str) -> Rich:
        """Resolve the references in a member's message.

        :param sender: bare JID
        :raises MalformedError: see :func:`~slixmpp_mls.stanza.rich.read_rich`
        :raises InvalidError: it contradicts earlier messages
        :raises PolicyViolation: the sender may not retract that
        """
        self._load()
        content = read_rich(message)
        about = None if content.about is None else self._about(content.kind, content.about, sender)
        reply_to = None
        if content.reply_to is not None:
            try:
                reply_to = self._find(content.reply_to)
            except InvalidError:  # its other content counts nevertheless
                reply_to = Reference(content.reply_to.id, None)
        return Rich(content, about, reply_to)

    def _about(self, kind: Kind, pointer: Pointer, sender: str) -> Reference:
        if kind is Kind.CORRECTION:  # XEP-0308, Business Rules: by the same sender only
            return self._find(Pointer(pointer.id, sender))
        if kind is not Kind.RETRACTION:
            return self._find(pointer)
        reference = self._find(Pointer(pointer.id, pointer.sender or sender))
        group = self._group
        inside = group.room_state.speaking is not None
        if reference.sender != sender and not (inside and group.is_administrator(sender)):
            raise PolicyViolation("retract", "a retraction of another account's message", sender)
        return reference

    def _find(self, pointer: Pointer) -> Reference:
        senders = self._known.get(pointer.id, {})
        if not senders:
            return Reference(pointer.id, pointer.sender)
        if pointer.sender is None and len(senders) > 1:
            raise InvalidError("a pointer to one of several messages under the same id", _XEP)
        if pointer.sender is not None and pointer.sender not in senders:
            raise InvalidError("a pointer to a message of another account than it names", _XEP)
        found = senders[pointer.sender] if pointer.sender is not None else next(iter(senders.values()))
        return Reference(found.id, found.sender, found.archive_id or None, known=True)


def report_presence(fire: Callable[[str, object], None], room: str, meant: Rich, sender: Member) -> bool:
    """Report content that is no message: typing, and read markers.

    :param fire: fires an event of slixmpp's
    :param room: bare JID
    :returns: whether it is such content
    """
    match meant.content.kind:
        case Kind.TYPING:
            state = meant.content.state or ""
            fire("mls_typing", Typing(room, sender, state == "composing", state))
        case Kind.MARKER if meant.about is not None:
            fire("mls_marker", Marker(room, sender, meant.about))
        case _:
            return False
    return True


# --- making rich messages --------------------------------------------------------------------------


def reply(about: Reference) -> ET.Element:
    """XEP-0461."""
    element = Reply()
    element["id"] = about.id
    if about.sender is not None:
        element["to"] = about.sender
    return element.xml


def reactions(about: Reference, emojis: Iterable[str]) -> ET.Element:
    """XEP-0444: all reactions to a message; an empty set removes them.

    :raises UsageError: too many, or something else than short texts
    """
    wanted = list(dict.fromkeys(emojis))
    if len(wanted) > MAX_REACTIONS or not all(isinstance(each, str) and each.strip() for each in wanted):
        raise UsageError(f"a message gets up to {MAX_REACTIONS} reactions of one account, each an emoji")
    element = Reactions()
    element["id"] = about.id
    element.set_values(wanted, all_chars=True)
    return _by(element.xml, about)


def correction(about: Reference) -> ET.Element:
    """XEP-0308."""
    element = Replace()
    element["id"] = about.id
    return element.xml


def retraction(about: Reference) -> ET.Element:
    """XEP-0424."""
    element = Retract()
    element["id"] = about.id
    return _by(element.xml, about)


def _by(element: ET.Element, about: Reference) -> ET.Element:
    if about.sender is not None:
        element.set(SENDER, about.sender)
    return element
