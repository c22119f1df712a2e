"""Stanza Content Encryption (XEP-0420 0.5): envelopes around what an encryption protocol encrypts.

An envelope holds a stanza's sensitive elements and *affixes*, which tie them to the stanza that
carries the ciphertext::

    <envelope xmlns='urn:xmpp:sce:1'>
      <content>
        <body xmlns='jabber:client'>Fair is foul</body>
      </content>
      <time stamp='2026-10-02T12:30:00Z'/>
      <to jid='coven@rooms.example'/>
      <from jid='alice@example'/>
      <rpad>...</rpad>
    </envelope>

Which affixes are used is for each protocol to say, in a :class:`Profile`.  Sending: make an
:class:`Envelope`, :meth:`~Envelope.seal` it, encrypt the octets.  Receiving: decrypt,
:meth:`Envelope.open`, :func:`verify`; :func:`may_stand_outside` judges the stanza around.

Who may say what, where (XEP-0420, "Server-processed Elements"):

==========================================  ===================  ===================
element                                     in the envelope      beside it
==========================================  ===================  ===================
for or from servers: hints, stanza-id,
delay, occupant-id, EME, addresses ...      dropped              kept
the protocol's own (its ciphertexts)        dropped              kept
origin-id                                   kept                 kept
another envelope                            dropped              dropped
all else: body, subject, reactions ...      kept                 dropped
==========================================  ===================  ===================

An element that must be dropped on arrival is refused on sealing.  The module knows no XMPP library and no
encryption protocol; elements may be lxml's or :mod:`xml.etree`'s, and are lxml's when opened.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lxml import etree

from ..errors import AffixMismatch, MalformedError, UsageError
from .xml import (
    MAX_DEPTH,
    AnyElement,
    clark,
    is_xml_text,
    parse_xml,
    read_datetime,
    serialize,
    split_tag,
    to_lxml,
    write_datetime,
)

__all__ = [
    "EME",
    "HINTS",
    "NS",
    "Affix",
    "Envelope",
    "Limits",
    "Profile",
    "is_server_processed",
    "may_stand_outside",
    "mismatches",
    "seal_text",
    "verify",
]

NS: Final = "urn:xmpp:sce:1"
HINTS: Final = "urn:xmpp:hints"
EME: Final = "urn:xmpp:eme:0"

_PADDING: Final = string.ascii_letters + string.digits + "-_"  # one octet each, nothing to escape
# Quotes and white space count in attributes; a parser makes a line feed of a carriage return (XML 1.0 2.11, 3.3.3).
_ESCAPES: Final = str.maketrans({
    "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;",
})  # fmt: skip
_EMPTY_BODY: Final = "<body xmlns='jabber:client'/>"
_MAX_JID: Final = 3071  # RFC 7622 3.1: three parts of 1023 octets, and what joins them

# Elements that servers act on, or that only they may write.  A namespace alone stands for all its elements.
_SERVER_NAMESPACES: Final = frozenset({
    HINTS,  # XEP-0334
    EME,  # XEP-0380
    "http://jabber.org/protocol/address",  # XEP-0033
    "http://jabber.org/protocol/amp",  # XEP-0079
    "urn:xmpp:delay",  # XEP-0203
    "jabber:x:delay",  # XEP-0091
    "urn:xmpp:carbons:2",  # XEP-0280
    "urn:xmpp:mam:2",  # XEP-0313
    "urn:xmpp:mam:tmp",  # ejabberd's <archived/>, of an early XEP-0313
    "urn:xmpp:occupant-id:0",  # XEP-0421
    "http://jabber.org/protocol/muc#user",  # XEP-0045: status codes, mediated invitations
    "http://jabber.org/protocol/pubsub#event",  # XEP-0060: notifications
})  # fmt: skip
_SERVER_ELEMENTS: Final = frozenset({
    ("urn:xmpp:sid:0", "stanza-id"),  # XEP-0359; its <origin-id/> is the sender's own
    ("jabber:client", "error"),  # RFC 6120 8.3
    ("jabber:server", "error"),
})  # fmt: skip
_EVERYWHERE: Final = frozenset({("urn:xmpp:sid:0", "origin-id")})


class Affix(StrEnum):
    """The affix elements of XEP-0420."""

    FROM = "from"
    TO = "to"
    TIME = "time"
    RPAD = "rpad"


@dataclass(frozen=True)
class Profile:
    """How one encryption protocol uses envelopes.

    :ivar required: affixes without which an envelope is neither sealed nor opened
    :ivar protocol: the encryption protocol's own namespaces
    :ivar affixes: names (``{namespace}name``) of affixes that the protocol adds to those of XEP-0420
    :ivar minimum_size: octets up to which short envelopes are padded, before the random part
    :ivar random_padding: the most characters of padding to add at random
    :ivar tolerance: how much later than the stanza's time the time affix may be
    """

    required: frozenset[Affix]
    _: KW_ONLY
    protocol: frozenset[str] = frozenset()
    affixes: frozenset[str] = frozenset()
    minimum_size: int = 256
    random_padding: int = 200
    tolerance: timedelta = timedelta(minutes=10)


@dataclass(frozen=True)
class Limits:
    """What an envelope may cost its reader.

    :ivar size: octets
    :ivar depth: levels of elements, the envelope counting as one
    :ivar elements: children of the content
    """

    size: int = 256 * 1024
    depth: int = MAX_DEPTH
    elements: int = 256


_LIMITS: Final = Limits()


@dataclass(frozen=True, eq=False, repr=False)
class Envelope:
    """What is encrypted.  Two are never equal: compare what you mean to compare.

    :ivar content: the stanza's sensitive elements; lxml's in an opened envelope
    :ivar from_: bare JID of the sender
    :ivar to: bare JID of the recipient, or of the room
    :ivar time: when it was sealed, with time zone
    :ivar rpad: padding as received; None has :meth:`seal` make it up
    :ivar own: affixes that the protocol adds, each name once
    :ivar dropped: names (``{namespace}name``) of the elements that :meth:`open` threw away
    """

    content: tuple[AnyElement, ...]
    from_: str | None = None
    to: str | None = None
    time: datetime | None = None
    rpad: str | None = None
    own: tuple[AnyElement, ...] = field(default=(), kw_only=True)
    dropped: tuple[str, ...] = field(default=(), kw_only=True)

    def __repr__(self) -> str:
        return f"<Envelope: {len(self.content)} elements>"  # all the rest was a secret once

    def seal(self, profile: Profile, *, limits: Limits = _LIMITS, rng: random.Random | None = None) -> bytes:
        """The envelope in UTF-8, padded if the profile wants it, for encryption.

        :param rng: where the padding comes from; the system's randomness by default
        :raises UsageError: a required affix is missing; an element is server-processed, without
            a namespace, or holds what XML cannot; over the limits
        """
        envelope = etree.Element(clark(NS, "envelope"), nsmap={None: NS})
        content = etree.SubElement(envelope, clark(NS, "content"))
        for element in self.content:
            namespace, name = split_tag(element)
            if not _allowed_inside(element, profile):
                raise UsageError(f"<{name} xmlns='{namespace}'/> does not belong in an envelope (XEP-0420)")
            try:
                content.append(to_lxml(element))
            except ValueError:  # lxml's own words may quote what should be encrypted
                raise UsageError("an element without a namespace, or with something that XML cannot hold") from None
        try:
            if self.time is not None:
                etree.SubElement(envelope, clark(NS, Affix.TIME)).set("stamp", write_datetime(self.time))
            for affix, jid in ((Affix.TO, self.to), (Affix.FROM, self.from_)):
                if jid is not None:
                    etree.SubElement(envelope, clark(NS, affix)).set("jid", jid)
            envelope.extend(to_lxml(element) for element in self.own)
            if Affix.RPAD in profile.required or self.rpad is not None:
                etree.SubElement(envelope, clark(NS, Affix.RPAD)).text = self.rpad or ""
        except (ValueError, OverflowError):
            raise UsageError("an affix that XML or XEP-0082 cannot express") from None
        absent = profile.required - self._present() - {Affix.RPAD}
        if absent:
            raise UsageError(f"the profile requires {', '.join(sorted(absent))}")
        if Affix.RPAD in profile.required and self.rpad is None:
            # XEP-0420: to a fixed minimum first, then 0 to 200 characters on top.
            rng = rng or random.SystemRandom()
            fill = max(0, profile.minimum_size - len(serialize(envelope)))
            envelope[-1].text = "".join(rng.choices(_PADDING, k=fill + rng.randint(0, profile.random_padding)))
        data = serialize(envelope)
        try:
            Envelope.open(data, profile, limits=limits)  # as each receiver does
        except MalformedError as error:
            raise UsageError(f"nobody could open this envelope: {error}") from None
        return data

    @classmethod
    def open(cls, data: bytes, profile: Profile, *, limits: Limits = _LIMITS) -> Envelope:
        """Read a decrypted envelope.  Its affixes still have to be compared: :func:`verify`.

        :raises MalformedError: no envelope, or one that breaks RFC 6120 11, the schema or the limits
        :raises AffixMismatch: an affix that the profile requires is missing
        """
        root = parse_xml(data, limits.size, max_depth=limits.depth)
        if split_tag(root) != (NS, "envelope"):
            raise MalformedError(f"not an <envelope/> of {NS}")
        children: dict[str, etree._Element] = {}
        own: dict[str, etree._Element] = {}
        for child in root:
            namespace, name = split_tag(child)
            if namespace != NS:  # XEP-0420: protocols may add affixes of their own
                if child.tag in profile.affixes:
                    own.setdefault(str(child.tag), child)
                continue
            if name in children:  # XEP-0420's schema: xs:all, each at most once
                raise MalformedError(f"an envelope with two <{_known(name)}/>")
            children[name] = child
        if "content" not in children:
            raise MalformedError("an envelope without <content/>")
        kept, dropped = _read_content(children["content"], profile, limits)
        rpad = children.get(Affix.RPAD)
        envelope = cls(
            kept,
            _read_jid(children, Affix.FROM),
            _read_jid(children, Affix.TO),
            _read_time(children),
            None if rpad is None else rpad.text or "",
            own=tuple(own.values()),
            dropped=dropped,
        )
        for affix in sorted(profile.required - envelope._present()):
            raise AffixMismatch(f"an envelope without <{affix}/>", affix)
        return envelope

    def _present(self) -> frozenset[Affix]:
        values = {Affix.FROM: self.from_, Affix.TO: self.to, Affix.TIME: self.time, Affix.RPAD: self.rpad}
        return frozenset(affix for affix, value in values.items() if value is not None)


def seal_text(
    text: str, sender: str, recipient: str, time: datetime, profile: Profile, *, rng: random.Random | None = None
) -> bytes:
    """The envelope of a message that is a text and nothing else: what :meth:`Envelope.seal` makes of its body.

    Most messages are such.  The envelope is written as a string, and not opened again: its form is known, and what is
    in it is checked here.

    :param text: of the ``<body/>``
    :param sender: bare JID
    :param recipient: bare JID of the recipient, or of the room
    :param rng: where the padding comes from; the system's randomness by default
    :raises UsageError: XML cannot hold it, an affix cannot be expressed, or it is over the limits
    """
    if not (is_xml_text(text) and is_xml_text(sender) and is_xml_text(recipient)):
        raise UsageError("an element without a namespace, or with something that XML cannot hold")
    if not all(0 < len(jid.encode()) <= _MAX_JID for jid in (sender, recipient)):
        raise UsageError("nobody could open this envelope: an affix without a JID")
    try:
        stamp = write_datetime(time)
    except (ValueError, OverflowError):
        raise UsageError("an affix that XML or XEP-0082 cannot express") from None
    body = f"<body xmlns='jabber:client'>{text.translate(_ESCAPES)}</body>" if text else _EMPTY_BODY
    before = (
        f"<envelope xmlns='{NS}'><content>{body}</content><time stamp='{stamp}'/>"
        f"<to jid='{recipient.translate(_ESCAPES)}'/><from jid='{sender.translate(_ESCAPES)}'/>"
    ).encode()
    padding = ""
    if Affix.RPAD in profile.required:
        rng = rng or random.SystemRandom()
        fill = max(0, profile.minimum_size - len(before) - len("<rpad></rpad></envelope>"))
        padding = f"<rpad>{''.join(rng.choices(_PADDING, k=fill + rng.randint(0, profile.random_padding)))}</rpad>"
    data = before + f"{padding}</envelope>".encode()
    if len(data) > _LIMITS.size:
        raise UsageError(f"nobody could open this envelope: XML of {len(data)} octets, over {_LIMITS.size}")
    return data


def _known(name: str) -> str:
    return name if name in {"content", *Affix} else "affix"  # other names are the peer's words


def _read_content(
    content: etree._Element, profile: Profile, limits: Limits
) -> tuple[tuple[etree._Element, ...], tuple[str, ...]]:
    if len(content) > limits.elements:
        raise MalformedError(f"an envelope with {len(content)} elements, over the limit of {limits.elements}")
    kept: list[etree._Element] = []
    dropped: list[str] = []
    for child in content:
        if not split_tag(child)[0]:  # XEP-0420, Business Rules: name and namespace
            raise MalformedError("an element without a namespace in <content/>")
        if not _allowed_inside(child, profile):
            dropped.append(str(child.tag))
            continue
        try:
            kept.append(to_lxml(child))  # a copy that stands alone, without the envelope's prefixes
        except ValueError:
            raise MalformedError("an element without a namespace in <content/>") from None
    return tuple(kept), tuple(dropped)


def _read_jid(children: dict[str, etree._Element], affix: Affix) -> str | None:
    if affix not in children:
        return None
    jid = children[affix].get("jid")
    if not jid or len(jid.encode()) > _MAX_JID:
        raise MalformedError(f"<{affix}/> without a JID")
    return jid


def _read_time(children: dict[str, etree._Element]) -> datetime | None:
    if Affix.TIME not in children:
        return None
    try:
        return read_datetime(children[Affix.TIME].get("stamp") or "")
    except ValueError:
        raise MalformedError("<time/> without a DateTime of XEP-0082") from None


def _same(jid: str) -> str:
    return jid


def mismatches(
    envelope: Envelope,
    profile: Profile,
    *,
    sender: str,
    recipient: str,
    sent: datetime,
    normalize: Callable[[str], str] = _same,
) -> list[AffixMismatch]:
    """How an envelope contradicts the stanza that it came in, for those who alert rather than reject.

    Affixes that are absent and not required contradict nothing.

    :param sender: bare JID that the stanza comes from; in a room, of the person, not of the occupant
    :param recipient: bare JID that the stanza went to; in a room, of the room
    :param sent: when the stanza was sent: its delay stamp (XEP-0203) if it has one, else now
    :param normalize: brings JIDs to the form in which equal ones are equal (RFC 7622), raising
        ValueError for a text that is no JID; by default they are compared as they are
    """
    found: list[AffixMismatch] = []
    for affix, said, true in ((Affix.FROM, envelope.from_, sender), (Affix.TO, envelope.to, recipient)):
        if said is None:
            if affix in profile.required:
                found.append(AffixMismatch(f"an envelope without <{affix}/>", affix))
            continue
        expected = normalize(true)
        try:
            agrees = normalize(said) == expected
        except ValueError:
            agrees = False
        if not agrees:
            found.append(AffixMismatch(f"<{affix}/> names another than the stanza", affix))
    if envelope.time is None:
        if Affix.TIME in profile.required:
            found.append(AffixMismatch("an envelope without <time/>", Affix.TIME))
    elif envelope.time - sent > profile.tolerance:  # an earlier one was written offline, sent again or held back
        found.append(AffixMismatch(f"<time/> is over {profile.tolerance} later than the stanza's", Affix.TIME))
    if envelope.rpad is None and Affix.RPAD in profile.required:
        found.append(AffixMismatch("an envelope without <rpad/>", Affix.RPAD))
    return found


def verify(
    envelope: Envelope,
    profile: Profile,
    *,
    sender: str,
    recipient: str,
    sent: datetime,
    normalize: Callable[[str], str] = _same,
) -> None:
    """Hold an envelope against the stanza that it came in; parameters as of :func:`mismatches`.

    :raises AffixMismatch: the first contradiction
    """
    for mismatch in mismatches(envelope, profile, sender=sender, recipient=recipient, sent=sent, normalize=normalize):
        raise mismatch


def is_server_processed(element: AnyElement) -> bool:
    """Whether an element is meant for servers or may only be written by them, so that it must stay in clear."""
    namespace, name = split_tag(element)
    return namespace in _SERVER_NAMESPACES or (namespace, name) in _SERVER_ELEMENTS


def _allowed_inside(element: AnyElement, profile: Profile) -> bool:
    namespace, _ = split_tag(element)
    return not is_server_processed(element) and namespace not in profile.protocol and namespace != NS


def may_stand_outside(element: AnyElement, profile: Profile) -> bool:
    """Whether a stanza may carry an element in clear beside the ciphertext."""
    namespace, name = split_tag(element)
    return is_server_processed(element) or namespace in profile.protocol or (namespace, name) in _EVERYWHERE
