"""Encrypted files: the description, place and key of a file, as elements of a message.

::

    <file-sharing xmlns='urn:xmpp:sfs:0' disposition='inline'>                      XEP-0447
      <file xmlns='urn:xmpp:file:metadata:0'>                                       XEP-0446
        <media-type>image/jpeg</media-type>
        <name>heath.jpg</name>
        <size>3032449</size>                                                        of the plain file
        <width>4096</width> <height>2160</height>
        <desc>The heath, at dusk</desc>
        <hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>...</hash>                   XEP-0300, of the plain file
        <thumbnail xmlns='urn:xmpp:thumbs:1' media-type='image/thumbhash'           XEP-0264
                   uri='data:image/thumbhash;base64,...'/>
      </file>
      <sources>
        <encrypted xmlns='urn:xmpp:esfs:0' cipher='urn:xmpp:ciphers:aes-256-gcm-nopadding:0'>    XEP-0448
          <key>...</key> <iv>...</iv>
          <sources xmlns='urn:xmpp:sfs:0'>
            <url-data xmlns='http://jabber.org/protocol/url-data' target='https://...'/>
          </sources>
        </encrypted>
      </sources>
    </file-sharing>

The element contains the key, so it travels only inside an encrypted envelope.  XEP-0448 requires a size and a hash;
here the hash must also be one that we can compute, because a file is handed out only after its hash has been compared.
The file on the web server may be longer than the size says (this hides the true size); the rest is cut off.

Only usable parts are read: sources under another cipher, and other kinds of sources, are ignored, and a file without a
usable source has empty `sources`.  A thumbnail counts only if it is in the element itself: to fetch one would reveal
the reader to its server.  A name is never a path, and has no characters that reverse the direction of writing.
slixmpp's stanza classes (``xep_0446``, ``xep_0447``) read the same elements, without these checks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Self, cast

from lxml import etree

from ..errors import MalformedError
from .blob import check_url
from .lexical import Base64, DateTime, Text, UInt
from .xml import AnyElement, clark, split_tag

__all__ = [
    "HASHES",
    "MAX_FILES",
    "MAX_FILE_SIZE",
    "NS",
    "NS_ENCRYPTED",
    "Disposition",
    "EncryptedSource",
    "FileMetadata",
    "FileSharing",
    "Thumbnail",
    "plain_name",
    "read_files",
]

NS: Final = "urn:xmpp:sfs:0"
NS_FILE: Final = "urn:xmpp:file:metadata:0"
NS_ENCRYPTED: Final = "urn:xmpp:esfs:0"
NS_HASHES: Final = "urn:xmpp:hashes:2"
NS_THUMBNAIL: Final = "urn:xmpp:thumbs:1"
NS_URL: Final = "http://jabber.org/protocol/url-data"

MAX_FILES: Final = 16
"""Files in one message."""
MAX_FILE_SIZE: Final = (1 << 36) - 32
"""Octets: what AES-GCM encrypts under one nonce (NIST SP 800-38D 5.2.1.1)."""
MAX_DESCRIPTION: Final = 4096  # characters
MAX_NAME: Final = 255  # characters
MAX_THUMBNAIL: Final = 8192  # octets
_MAX_CHILDREN: Final = 16  # of each kind

HASHES: Final[dict[str, Callable[[], hashlib._Hash]]] = {
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
    "sha3-256": hashlib.sha3_256,
    "sha3-512": hashlib.sha3_512,
    "blake2b-256": lambda: cast("hashlib._Hash", hashlib.blake2b(digest_size=32)),
    "blake2b-512": lambda: cast("hashlib._Hash", hashlib.blake2b(digest_size=64)),
}
"""XEP-0300, "Hash Functions": those that resist collisions.  MD5 and SHA-1 prove nothing and are ignored."""

_CIPHERS: Final = {  # XEP-0448, "Ciphers": octets of the key
    "urn:xmpp:ciphers:aes-256-gcm-nopadding:0": 32,
    "urn:xmpp:ciphers:aes-128-gcm-nopadding:0": 16,
}
_NAMES: Final = {length: name for name, length in _CIPHERS.items()}
_IV: Final = Base64(12, 12, spaces=True)
_SIZE: Final = UInt(64)
_PIXELS: Final = UInt(32)
_LENGTH: Final = UInt(64)  # milliseconds
_DATE: Final = DateTime()
_RESTRICTED_NAME: Final = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"  # RFC 6838 4.2; the case says nothing
_MEDIA_TYPE: Final = Text(re.compile(f"{_RESTRICTED_NAME}/{_RESTRICTED_NAME}", re.ASCII), "a media type (RFC 6838 4.2)")
_PATTERN_TEXT: Final = rf"[\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]{{0,{MAX_DESCRIPTION}}}"
_DESCRIPTION: Final = Text(re.compile(_PATTERN_TEXT), f"a text of at most {MAX_DESCRIPTION} characters")
_ID: Final = Text(re.compile(r"[\x21-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]{1,256}"), "an id")
_DATA_URI: Final = re.compile(rf"data:(image/{_RESTRICTED_NAME});base64,([A-Za-z0-9+/]+=*)", re.ASCII | re.IGNORECASE)
_SEPARATORS: Final = re.compile(r"[/\\]")
_UNSEEN: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})
# Characters that reverse the direction of writing, so that "gpj.exe" reads as "exe.jpg"; and those that XML does not
# allow.
_LEFT_OUT: Final = frozenset("\ufffe\uffff\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

Disposition = Literal["inline", "attachment"]


def plain_name(name: str) -> str | None:
    """The last part of a path, without misleading characters; None if nothing is left.

    The sender chooses the name, and a receiver saves a file under it.
    """
    last = _SEPARATORS.split(name)[-1]
    kept = "".join(one for one in last if one not in _LEFT_OUT and unicodedata.category(one) not in _UNSEEN)
    kept = kept.strip()[:MAX_NAME].strip()
    return None if kept in ("", ".", "..") else kept


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture that is in the message itself (XEP-0264 with a URI of RFC 2397).

    :ivar media_type: ``image/thumbhash``, for instance
    :ivar data: octets of that type
    :ivar width: pixels of the thumbnail, if it says so
    :ivar height: likewise
    """

    media_type: str
    data: bytes
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        _check("a thumbnail's type", _MEDIA_TYPE, self.media_type)
        if not self.media_type.startswith("image/") or not 0 < len(self.data) <= MAX_THUMBNAIL:
            raise MalformedError(f"a thumbnail that is no picture of at most {MAX_THUMBNAIL} octets")


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """The description of a file (XEP-0446).

    :ivar size: octets of the plain file
    :ivar hashes: of the plain file, by the names in :data:`HASHES`; at least one
    :ivar name: never a path
    :ivar media_type: without parameters
    :ivar description: for people
    :ivar date: when it was last changed
    :ivar width: pixels
    :ivar height: pixels
    :ivar length: of sound or film, milliseconds
    """

    size: int
    hashes: dict[str, bytes]
    _: KW_ONLY
    name: str | None = None
    media_type: str | None = None
    description: str | None = None
    date: datetime | None = None
    width: int | None = None
    height: int | None = None
    length: int | None = None
    thumbnails: tuple[Thumbnail, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_FILE_SIZE:
            raise MalformedError(f"a file of {self.size} octets, over the limit of {MAX_FILE_SIZE}")
        if not self.hashes:  # XEP-0448, "Sharing a file": required
            raise MalformedError("a file without a hash that can be verified")
        for algorithm, digest in self.hashes.items():
            if algorithm not in HASHES or len(digest) != HASHES[algorithm]().digest_size:
                raise MalformedError("a file with a hash that has not its function's length")
        if self.name is not None and plain_name(self.name) != self.name:
            raise MalformedError("a file's name that is a path, too long, or not plain text")
        for what, lexical, value in (
            ("type", _MEDIA_TYPE, self.media_type),
            ("description", _DESCRIPTION, self.description),
            ("date", _DATE, self.date),
            ("width", _PIXELS, self.width),
            ("height", _PIXELS, self.height),
            ("length", _LENGTH, self.length),
        ):
            if value is not None:
                _check(f"a file's {what}", lexical, value)
        if len(self.thumbnails) > _MAX_CHILDREN:
            raise MalformedError("a file with too many thumbnails")

    def _to_lxml(self, parent: etree._Element) -> None:
        element = etree.SubElement(parent, clark(NS_FILE, "file"), nsmap={None: NS_FILE})
        for name, text in (
            ("media-type", self.media_type),
            ("name", self.name),
            ("date", None if self.date is None else _DATE.write(self.date)),
            ("size", _SIZE.write(self.size)),
            ("width", self.width),
            ("height", self.height),
            ("length", self.length),
            ("desc", self.description),
        ):
            if text is not None:
                etree.SubElement(element, clark(NS_FILE, name)).text = str(text)
        for algorithm, digest in self.hashes.items():
            hash_ = etree.SubElement(element, clark(NS_HASHES, "hash"), {"algo": algorithm}, nsmap={None: NS_HASHES})
            hash_.text = base64.b64encode(digest).decode()
        for thumbnail in self.thumbnails:
            attributes = {
                "uri": f"data:{thumbnail.media_type};base64,{base64.b64encode(thumbnail.data).decode()}",
                "media-type": thumbnail.media_type,
            }
            for name, number in (("width", thumbnail.width), ("height", thumbnail.height)):
                if number is not None:
                    attributes[name] = str(number)
            etree.SubElement(element, clark(NS_THUMBNAIL, "thumbnail"), attributes, nsmap={None: NS_THUMBNAIL})

    @classmethod
    def _read(cls, element: AnyElement) -> Self:
        size = _one(element, NS_FILE, "size")
        if size is None:  # XEP-0448, "Sharing a file": required
            raise MalformedError("a file without its size")
        name, media_type = _text(element, "name"), _text(element, "media-type")
        return cls(
            cast("int", _value("a file's size", _SIZE, size.text)),
            _read_hashes(element),
            name=None if name is None else plain_name(name),
            media_type=None if media_type is None else media_type.partition(";")[0].strip().lower(),
            description=_text(element, "desc"),
            date=_optional(element, "date", _DATE),
            width=_optional(element, "width", _PIXELS),
            height=_optional(element, "height", _PIXELS),
            length=_optional(element, "length", _LENGTH),
            thumbnails=tuple(_read_thumbnails(element)),
        )


@dataclass(frozen=True, slots=True)
class EncryptedSource:
    """The place and key of an encrypted file (XEP-0448).

    :ivar key: of AES-GCM, 32 octets, or 16 from others
    :ivar iv: its nonce, 12 octets
    :ivar urls: https ones, each of the same octets
    """

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    urls: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) not in _NAMES or len(self.iv) != 12:
            raise MalformedError("an encrypted file with a key or nonce that its cipher does not take")
        if not 0 < len(self.urls) <= _MAX_CHILDREN:
            raise MalformedError("an encrypted file without a URL, or with too many")
        for url in self.urls:
            check_url(url)

    def _to_lxml(self, parent: etree._Element) -> None:
        attributes = {"cipher": _NAMES[len(self.key)]}
        element = etree.SubElement(parent, clark(NS_ENCRYPTED, "encrypted"), attributes, nsmap={None: NS_ENCRYPTED})
        etree.SubElement(element, clark(NS_ENCRYPTED, "key")).text = base64.b64encode(self.key).decode()
        etree.SubElement(element, clark(NS_ENCRYPTED, "iv")).text = base64.b64encode(self.iv).decode()
        sources = etree.SubElement(element, clark(NS, "sources"), nsmap={None: NS})
        for url in self.urls:
            etree.SubElement(sources, clark(NS_URL, "url-data"), {"target": url}, nsmap={None: NS_URL})

    @classmethod
    def _read(cls, element: AnyElement) -> Self | None:
        """None if it is under a cipher that we do not use, or nowhere that we can reach."""
        length = _CIPHERS.get(element.get("cipher") or "")
        if length is None:
            return None
        key, iv = _one(element, NS_ENCRYPTED, "key"), _one(element, NS_ENCRYPTED, "iv")
        sources = _one(element, NS, "sources")
        if key is None or iv is None or sources is None:
            raise MalformedError("an encrypted file without its key, nonce or sources (XEP-0448)")
        urls = tuple(each.get("target") or "" for each in _some(sources, NS_URL, "url-data"))
        if not urls:
            return None
        return cls(
            cast("bytes", _value("a file's key", Base64(length, length, spaces=True), key.text)),
            cast("bytes", _value("a file's nonce", _IV, iv.text)),
            urls,
        )


@dataclass(frozen=True, slots=True)
class FileSharing:
    """A file in a message (XEP-0447).

    :ivar sources: where it can be fetched; empty if no source is usable
    :ivar disposition: whether it is to be shown with the message, or only when somebody asks for it
    :ivar id: by which other messages may name it
    """

    file: FileMetadata
    sources: tuple[EncryptedSource, ...] = ()
    disposition: Disposition | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if self.disposition not in (None, "inline", "attachment"):
            raise MalformedError("a file with an unknown disposition (XEP-0447)")
        if len(self.sources) > _MAX_CHILDREN:
            raise MalformedError("a file with too many sources")
        if self.id is not None:
            _check("a file's id", _ID, self.id)

    def to_lxml(self) -> etree._Element:
        """As an element, for the content of an envelope."""
        element = etree.Element(clark(NS, "file-sharing"), nsmap={None: NS})
        for name, value in (("disposition", self.disposition), ("id", self.id)):
            if value is not None:
                element.set(name, value)
        self.file._to_lxml(element)
        sources = etree.SubElement(element, clark(NS, "sources"))
        for source in self.sources:
            source._to_lxml(sources)
        return element

    @classmethod
    def read(cls, element: AnyElement) -> Self:
        """Read the element.

        :raises MalformedError: it is none, lacks what XEP-0448 requires, or breaks a limit
        """
        if split_tag(element) != (NS, "file-sharing"):
            raise MalformedError("no <file-sharing/>")
        file = _one(element, NS_FILE, "file")
        if file is None:
            raise MalformedError("a <file-sharing/> without <file/> (XEP-0447)")
        sources = _one(element, NS, "sources")
        found = [] if sources is None else [EncryptedSource._read(e) for e in _some(sources, NS_ENCRYPTED, "encrypted")]
        disposition = element.get("disposition")
        return cls(
            FileMetadata._read(file),
            tuple(source for source in found if source is not None),
            cast("Disposition | None", disposition if disposition in ("inline", "attachment") else None),
            element.get("id"),
        )


def read_files(content: Any) -> tuple[tuple[FileSharing, ...], tuple[MalformedError, ...]]:
    """The files among the elements of a message, and an error for each bad one.

    A bad one does not spoil the rest; those after the first :data:`MAX_FILES` are not looked at.

    :param content: elements of either library
    """
    files: list[FileSharing] = []
    wrong: list[MalformedError] = []
    elements = [child for child in content if split_tag(child) == (NS, "file-sharing")]
    for element in elements[:MAX_FILES]:
        try:
            files.append(FileSharing.read(element))
        except MalformedError as error:
            wrong.append(error)
    if len(elements) > MAX_FILES:
        wrong.append(MalformedError(f"a message with {len(elements)} files, over the limit of {MAX_FILES}"))
    return tuple(files), tuple(wrong)


# --- parts of elements -----------------------------------------------------------------------


def _some(element: AnyElement, namespace: str, name: str) -> list[AnyElement]:
    """The children of one name, not too many; others are ignored (RFC 6120 8.4)."""
    found: list[AnyElement] = [child for child in element if split_tag(child) == (namespace, name)]
    if len(found) > _MAX_CHILDREN:
        raise MalformedError(f"a file with more than {_MAX_CHILDREN} <{name}/>")
    return found


def _one(element: AnyElement, namespace: str, name: str) -> AnyElement | None:
    found = _some(element, namespace, name)
    if len(found) > 1:
        raise MalformedError(f"a file with two <{name}/>")
    return found[0] if found else None


def _text(file: AnyElement, name: str) -> str | None:
    element = _one(file, NS_FILE, name)
    return None if element is None else element.text


def _optional(file: AnyElement, name: str, lexical: Any) -> Any:
    text = _text(file, name)
    return None if text is None else _value(f"a file's {name}", lexical, text)


def _value(what: str, lexical: Any, text: str | None) -> object:
    try:
        return cast("object", lexical.read(text or ""))
    except ValueError as error:
        raise MalformedError(f"{what}: {error}") from None


def _check(what: str, lexical: Any, value: object) -> None:
    try:
        lexical.check(value)
    except ValueError as error:
        raise MalformedError(f"{what}: {error}") from None


def _read_hashes(file: AnyElement) -> dict[str, bytes]:
    """The hashes that we can check; two of one name are ambiguous and do not count."""
    hashes: dict[str, bytes] = {}
    for element in _some(file, NS_HASHES, "hash"):
        algorithm = element.get("algo") or ""
        if algorithm not in HASHES:
            continue
        if algorithm in hashes:
            raise MalformedError("a file with two hashes of one kind")
        length = HASHES[algorithm]().digest_size
        hashes[algorithm] = cast("bytes", _value("a file's hash", Base64(length, length, spaces=True), element.text))
    return hashes


def _read_thumbnails(file: AnyElement) -> Iterator[Thumbnail]:
    """Those that are in the message; a picture is an ornament, so an unusable one is left out."""
    for element in _some(file, NS_THUMBNAIL, "thumbnail"):
        uri = element.get("uri") or ""
        found = _DATA_URI.fullmatch(uri) if len(uri) <= 2 * MAX_THUMBNAIL else None
        if found is None:
            continue
        try:
            data = base64.b64decode(found[2], validate=True)
            sides = [
                None if (text := element.get(side)) is None else _PIXELS.read(text) for side in ("width", "height")
            ]
            yield Thumbnail(found[1].lower(), data, *sides)
        except (binascii.Error, ValueError, MalformedError):
            continue
