"""Trust messages (XEP-0434): who believes which keys to be whose, as an element and as a URI.

::

    <trust-message xmlns='urn:xmpp:tm:1' usage='urn:xmpp:atm:1' encryption='urn:xmpp:mls:0'>
      <key-owner jid='bob@example'>
        <trust>…</trust>          the key's identifier in base64: for MLS, the SHA-256 of the signature key
        <distrust>…</distrust>
      </key-owner>
    </trust-message>

    xmpp:bob@example?trust-message;encryption=urn:xmpp:mls:0;trust=…;distrust=…     in hexadecimal, of one owner

The element travels in the content of an encrypted envelope; the URI goes from screen to camera, as a QR code, or from
one window to another.  ``xep/trust-message.xsd`` is the element's schema (the one in XEP-0434 is none by the
rules of XML Schema).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, unquote

from lxml import etree

from ..errors import MalformedError
from ..identity import check_bare_jid
from .elements import NS as NS_MLS
from .lexical import Base64
from .xml import AnyElement, clark, split_tag

__all__ = ["MAX_KEYS", "NS", "NS_ATM", "KeyOwner", "TrustMessage", "parse_fingerprint"]

NS: Final = "urn:xmpp:tm:1"
NS_ATM: Final = "urn:xmpp:atm:1"

MAX_KEYS = 500
"""Keys in one trust message."""
MAX_URI = 8192  # characters
IDENTIFIER = 32  # octets

_IDENTIFIER = Base64(IDENTIFIER, IDENTIFIER, spaces=True)
_HEX = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_BETWEEN = re.compile(r"[ \t\r\n:-]+")
_FORM = "the keys of a trust message"


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """What is said of one account's keys.

    :ivar jid: bare JID
    :ivar trust: identifiers of keys that are the account's
    :ivar distrust: identifiers of keys that are not to be used
    """

    jid: str
    trust: tuple[bytes, ...] = ()
    distrust: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        try:
            check_bare_jid(self.jid)
        except ValueError as error:
            raise MalformedError(f"{_FORM}: their owner is no bare JID in normal form: {error}") from None
        keys = self.trust + self.distrust
        if not keys or len(set(keys)) != len(keys):
            raise MalformedError(f"{_FORM}: none at all, or one twice")
        if any(len(key) != IDENTIFIER for key in keys):
            raise MalformedError(f"{_FORM}: an identifier that has not {IDENTIFIER} octets")

    def to_uri(self) -> str:
        """As a Trust Message URI (XEP-0434, "URI Query Types"; RFC 5122)."""
        pairs = [("trust", key) for key in self.trust] + [("distrust", key) for key in self.distrust]
        query = "".join(f";{name}={key.hex()}" for name, key in pairs)
        return f"xmpp:{quote(self.jid, safe='@')}?trust-message;encryption={NS_MLS}{query}"

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """Read a Trust Message URI.

        :raises MalformedError: it is none, or not about keys of MLS
        """
        scheme, _, rest = uri.strip().partition(":")
        path, _, query = rest.partition("?")
        if len(uri) > MAX_URI or scheme.lower() != "xmpp" or not query:
            raise MalformedError("no Trust Message URI (XEP-0434)")
        kind, *pairs = query.split(";")
        first = pairs[0].partition("=") if pairs else ("", "", "")
        if kind != "trust-message" or first[0] != "encryption":
            raise MalformedError("no Trust Message URI (XEP-0434)")
        if unquote(first[2]) != NS_MLS:
            raise MalformedError("a Trust Message URI about keys of another encryption than MLS")
        keys: dict[str, list[bytes]] = {"trust": [], "distrust": []}
        for pair in pairs[1:]:
            name, _, value = pair.partition("=")
            if name not in keys:
                raise MalformedError("a Trust Message URI with something unknown in it")
            keys[name].append(parse_fingerprint(value))
        return cls(unquote(path), tuple(keys["trust"]), tuple(keys["distrust"]))


@dataclass(frozen=True, slots=True)
class TrustMessage:
    """The element.

    :ivar owners: at least one, each account once
    :ivar usage: namespace of the protocol by which the message was made
    """

    owners: tuple[KeyOwner, ...]
    usage: str = NS_ATM

    def __post_init__(self) -> None:
        if not self.owners or len({owner.jid for owner in self.owners}) != len(self.owners):
            raise MalformedError("a trust message about nobody, or about somebody twice")
        if sum(len(owner.trust) + len(owner.distrust) for owner in self.owners) > MAX_KEYS:
            raise MalformedError(f"a trust message about more than {MAX_KEYS} keys")

    def to_lxml(self) -> etree._Element:
        """As an element."""
        message = etree.Element(clark(NS, "trust-message"), nsmap={None: NS})
        message.set("usage", self.usage)
        message.set("encryption", NS_MLS)
        for owner in self.owners:
            element = etree.SubElement(message, clark(NS, "key-owner"))
            element.set("jid", owner.jid)
            for name, keys in (("trust", owner.trust), ("distrust", owner.distrust)):
                for key in keys:
                    etree.SubElement(element, clark(NS, name)).text = _IDENTIFIER.write(key)
        return message

    @classmethod
    def read(cls, element: AnyElement) -> Self | None:
        """Read the element; None if it is about keys of another encryption.

        :raises MalformedError: it is none, or breaks a rule or a limit
        """
        if split_tag(element) != (NS, "trust-message"):
            raise MalformedError("no trust message")
        if element.get("encryption") != NS_MLS:
            return None
        count = 0
        owners = []
        for child in _children(element, "key-owner"):
            keys: dict[str, list[bytes]] = {"trust": [], "distrust": []}
            for key in _children(child, *keys):
                count += 1
                if count > MAX_KEYS:
                    raise MalformedError(f"a trust message about more than {MAX_KEYS} keys")
                try:
                    keys[split_tag(key)[1]].append(_IDENTIFIER.read(key.text or ""))
                except ValueError as error:
                    raise MalformedError(f"{_FORM}: {error}") from None
            owners.append(KeyOwner(child.get("jid") or "", tuple(keys["trust"]), tuple(keys["distrust"])))
        return cls(tuple(owners), element.get("usage") or "")


def _children(element: AnyElement, *names: str) -> Iterable[AnyElement]:
    """Those with one of these names; unknown ones are ignored (RFC 6120 8.4)."""
    return (child for child in element if split_tag(child)[0] == NS and split_tag(child)[1] in names)


def parse_fingerprint(text: str) -> bytes:
    """A key identifier as people write it: 64 hexadecimal digits, in groups or not.

    :raises MalformedError: something else
    """
    digits = _BETWEEN.sub("", text)
    if not _HEX.fullmatch(digits):
        raise MalformedError("no fingerprint: that would be 64 hexadecimal digits")
    return bytes.fromhex(digits)
