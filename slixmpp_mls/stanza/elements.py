"""The elements of ``urn:xmpp:mls:0``, as values.

Each element is a frozen dataclass whose fields say how they are spelled (attribute or text,
:mod:`.lexical` type, optional or not).  From that one declaration come reading, building, and
the bindings to slixmpp and aioxmpp; ``xep/mls.xsd`` is the same declaration for other programs.
:mod:`.parsing` says where each may stand, and beside which others.

A field is checked when a value is made, so every value can be sent; the same rules refuse a bad value of a peer.

The attributes repeat parts of the MLS content, for software that does not parse it;
:mod:`.consistency` compares the two.

All elements stand in this one module, longer than others, since each is a short declaration that is read beside the
others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, Self, TypeAlias
from xml.etree import ElementTree

from lxml import etree

from ..errors import MalformedError, UsageError
from .blob import MAX_BLOB
from .lexical import Base64, Boolean, DateTime, Lexical, Text, UInt
from .xml import AnyElement, clark, serialize, split_tag

__all__ = [
    "MAX_ENCODED",
    "MAX_KEYS",
    "MAX_LABEL",
    "MAX_MARKUP",
    "MAX_WELCOMES",
    "NODE_DEVICES",
    "NODE_KEY_PACKAGES",
    "NS",
    "AnnotationElement",
    "AnnotationRequest",
    "Annotations",
    "Answer",
    "AnyCommit",
    "Application",
    "Commit",
    "CommitLocation",
    "Device",
    "Element",
    "Ephemeral",
    "GroupInfo",
    "Inquiry",
    "Invitation",
    "Key",
    "KeyPackage",
    "KeyPackageCount",
    "LiveElement",
    "Proposal",
    "RetiredDevice",
    "RoomElement",
    "Source",
    "Voucher",
    "Welcome",
    "WelcomeLocation",
]

NS = "urn:xmpp:mls:0"
NODE_DEVICES = "urn:xmpp:mls:0:devices"
NODE_KEY_PACKAGES = "urn:xmpp:mls:0:key-packages"

MAX_ENCODED = 1 << 20
"""Characters of base64 in one element.  Servers stop far below (240 kB per stanza)."""
MAX_MESSAGE = MAX_ENCODED // 4 * 3
"""Octets of a message in a stanza."""
MAX_GROUP = 255
MAX_LABEL = 64
MAX_KEYS = 16
MAX_SUITES = 32
MAX_KEY = 8192  # octets; the largest post-quantum signature keys in sight take 2,592
MAX_VOUCHER = 12288
MAX_WELCOMES = 64  # of one Commit, which may use one Welcome per added client (RFC 9420 12.4.3.1)
MAX_MARKUP = 4096
"""Characters that tags and attributes of one element may add to its text."""

GROUP = Base64(1, MAX_GROUP)
MESSAGE = Base64(1, MAX_MESSAGE, spaces=True)
FETCHED = Base64(1, MAX_BLOB, spaces=True)
SIGNATURE_KEY = Base64(1, MAX_KEY, spaces=True)
VOUCHER = Base64(1, MAX_VOUCHER, spaces=True)
UINT16 = UInt(16)
UINT64 = UInt(64)
REF = Text(re.compile(r"(?:[0-9a-f]{2}){16,64}", re.ASCII), "a KeyPackageRef in lower-case hexadecimal")
DEVICE_ID = Text(re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII), "a device id")
# The characters of XML 1.0 2.2 without line breaks and tabulators, and, for one line of text that
# people read, without other controls.
LABEL = Text(
    re.compile(rf"[\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]{{1,{MAX_LABEL}}}"),
    f"one line of 1 to {MAX_LABEL} characters",
)
ARCHIVE_ID = Text(re.compile(r"[\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]{1,256}"), "an archive id")

Source: TypeAlias = "AnyElement | bytes | str"


def _attribute(name: str, lexical: Lexical) -> Mapping[str, Any]:
    return {"name": name, "lexical": lexical}


def _text(lexical: Lexical) -> Mapping[str, Any]:
    return {"name": None, "lexical": lexical}


def spelling(declared: Field[Any]) -> tuple[str | None, Lexical]:
    """(attribute name, type) of an element's field; the name is None for the element's text."""
    return declared.metadata["name"], declared.metadata["lexical"]


def spelled_fields(cls: type[Element]) -> tuple[Field[Any], ...]:
    """The fields of an element that are attributes or text."""
    found = _SPELLED.get(cls)
    if found is None:
        found = _SPELLED[cls] = tuple(declared for declared in fields(cls) if "lexical" in declared.metadata)
    return found


_SPELLED: dict[type, tuple[Field[Any], ...]] = {}


@dataclass(frozen=True)
class Element:
    """The base of all elements."""

    NAME: ClassVar[str]
    """The local name in :data:`NS`."""

    def __post_init__(self) -> None:
        for declared in spelled_fields(type(self)):
            value = getattr(self, declared.name)
            if value is None and declared.default is None:
                continue
            try:
                spelling(declared)[1].check(value)
            except ValueError as error:
                raise UsageError(f"<{self.NAME}/> {declared.name}: {error}") from None

    @classmethod
    def from_xml(cls, element: AnyElement, *, max_encoded: int = MAX_ENCODED) -> Self:
        """Read an element of this kind; see :func:`.parsing.parse`."""
        if split_tag(element) != (NS, cls.NAME):
            raise MalformedError(f"not a <{cls.NAME}/> of {NS}")
        values = cls._read_children(element, max_encoded)
        for declared in spelled_fields(cls):
            name, lexical = spelling(declared)
            text = (element.text or "") if name is None else element.get(name)
            if text is None:
                if declared.default is MISSING:
                    raise MalformedError(f"<{cls.NAME}/> without {name}")
                continue
            if len(text) > max_encoded:
                raise MalformedError(f"<{cls.NAME}/> with {len(text)} characters, over the limit of {max_encoded}")
            try:
                values[declared.name] = lexical.read(text)
            except ValueError as error:
                raise MalformedError(f"<{cls.NAME}/> {declared.name}: {error}") from None
        try:
            return cls(**values)
        except UsageError as error:  # a rule that spans several fields
            raise MalformedError(str(error)) from None

    @classmethod
    def _read_children(cls, element: AnyElement, max_encoded: int) -> dict[str, Any]:
        if len(element):
            raise MalformedError(f"<{cls.NAME}/> with children")
        return {}

    def to_lxml(self) -> etree._Element:
        """The element, for lxml."""
        element = etree.Element(clark(NS, self.NAME), nsmap={None: NS})
        self._fill(element)
        return element

    def to_stdlib(self) -> ElementTree.Element:
        """The element, for :mod:`xml.etree` and so for slixmpp."""
        element = ElementTree.Element(clark(NS, self.NAME))
        self._fill(element)
        return element

    def _fill(self, element: Any) -> None:
        """Write the fields into an empty element of either library."""
        for declared in spelled_fields(type(self)):
            value = getattr(self, declared.name)
            # An optional attribute at its default is left out: one value, one form.
            if declared.default is not MISSING and value == declared.default:
                continue
            name, lexical = spelling(declared)
            if name is None:
                element.text = lexical.write(value)
            else:
                element.set(name, lexical.write(value))

    def to_bytes(self) -> bytes:
        """The element as UTF-8."""
        return serialize(self.to_lxml())


@dataclass(frozen=True)
class RoomElement(Element):
    """An MLSMessage on its way through the room.

    :ivar group: the group id, 1 to 255 octets
    :ivar epoch: the epoch in which the message is processed; of a Welcome and a GroupInfo, the
        epoch into which it leads
    :ivar data: the MLSMessage; if it was fetched from elsewhere, it may be longer than an element can be written
    """

    group: bytes = field(metadata=_attribute("group", GROUP))
    epoch: int = field(metadata=_attribute("epoch", UINT64))
    data: bytes = field(repr=False, metadata=_text(FETCHED))  # from a stanza, MAX_ENCODED characters at most

    def _fill(self, element: Any) -> None:
        try:
            MESSAGE.check(self.data)
        except ValueError as error:
            raise UsageError(f"<{self.NAME}/> of octets from elsewhere cannot be written: {error}") from None
        super()._fill(element)

    @property
    def written_at_most(self) -> int:
        """A bound of the element's octets, known without writing it."""
        return MAX_MARKUP + 4 * len(self.data) // 3


@dataclass(frozen=True)
class Commit(RoomElement):
    """Ends `epoch`, if it is the first valid one of it in the room's order."""

    NAME = "commit"


@dataclass(frozen=True)
class CommitLocation(RoomElement):
    """Says where a Commit is that no stanza holds; it has the Commit's place in the room's order.

    :ivar data: what a member has signed, no MLSMessage; see :mod:`slixmpp_mls.stanza.locations`
    """

    NAME = "commit-location"


@dataclass(frozen=True)
class Proposal(RoomElement):
    """A change that a later Commit may make; also a client's own request to be added."""

    NAME = "proposal"


@dataclass(frozen=True)
class Application(RoomElement):
    """Encrypted content."""

    NAME = "application"


@dataclass(frozen=True)
class Welcome(RoomElement):
    """Lets the clients join that the Commit in the same stanza adds."""

    NAME = "welcome"


@dataclass(frozen=True)
class WelcomeLocation(RoomElement):
    """Says where a Welcome is that no stanza holds, and for whom it is.

    :ivar data: no MLSMessage; see :mod:`slixmpp_mls.stanza.locations`
    """

    NAME = "welcome-location"


@dataclass(frozen=True)
class GroupInfo(RoomElement):
    """Lets clients join by an external Commit, where the group's policy allows it.

    :ivar data: the MLSMessage; with a `key_epoch`, an EncryptedGroupInfo that contains it
        (:mod:`slixmpp_mls.client.group.group_info_key`)
    :ivar key_epoch: the epoch of the key that it is encrypted with, None if it is in clear
    """

    NAME = "group-info"

    key_epoch: int | None = field(default=None, metadata=_attribute("key-epoch", UINT64))


@dataclass(frozen=True)
class Inquiry(RoomElement):
    """A member that is not sure asks where the group is; see :mod:`slixmpp_mls.client.group.certainty`.

    :ivar epoch: the one in which it is
    :ivar data: what it has signed, no MLSMessage
    """

    NAME = "inquiry"


@dataclass(frozen=True)
class Answer(RoomElement):
    """A member shows another one its state.

    :ivar epoch: the one in which it is
    :ivar data: a GroupInfo, sealed for the member that has asked; no MLSMessage
    """

    NAME = "answer"


@dataclass(frozen=True)
class Ephemeral(RoomElement):
    """Content that is not stored; see :mod:`slixmpp_mls.client.group.ephemeral`.

    :ivar epoch: the one of its keys
    :ivar data: an EphemeralMessage, no MLSMessage
    """

    NAME = "ephemeral"


@dataclass(frozen=True)
class AnnotationRequest(RoomElement):
    """A member without the ratchet tree asks for what it lacks; see :mod:`slixmpp_mls.client.group.annotations`.

    :ivar epoch: the one that it is in, whose key encrypts this
    :ivar data: an encrypted AnnotationRequest, no MLSMessage
    """

    NAME = "annotation-request"


@dataclass(frozen=True)
class Annotations(RoomElement):
    """The answer of a member that has the tree.

    :ivar epoch: as in the request
    :ivar data: encrypted Annotations, no MLSMessage
    """

    NAME = "annotations"


@dataclass(frozen=True)
class Invitation(Element):
    """Beside a direct invitation to a room (XEP-0249): there is a group, and its history starts here.

    :ivar group: the group id
    :ivar after: archive id (XEP-0313) of the stanza after which to read, or None for the start
    """

    NAME = "invitation"

    group: bytes = field(metadata=_attribute("group", GROUP))
    after: str | None = field(default=None, metadata=_attribute("after", ARCHIVE_ID))


@dataclass(frozen=True)
class KeyPackage(Element):
    """A published KeyPackage.

    :ivar ref: its KeyPackageRef in lower-case hexadecimal
    :ivar suite: number of its cipher suite
    :ivar data: the MLSMessage
    :ivar last_resort: may be used more than once (RFC 9420 16.8)
    """

    NAME = "key-package"

    ref: str = field(metadata=_attribute("ref", REF))
    suite: int = field(metadata=_attribute("suite", UINT16))
    data: bytes = field(repr=False, metadata=_text(MESSAGE))
    last_resort: bool = field(default=False, metadata=_attribute("last-resort", Boolean()))


@dataclass(frozen=True)
class Key(Element):
    """A signature key of a device.

    :ivar scheme: number of the TLS SignatureScheme, such as 2055 (0x0807) for Ed25519
    :ivar data: the SignaturePublicKey as MLS has it in LeafNodes
    """

    NAME = "key"

    scheme: int = field(metadata=_attribute("scheme", UINT16))
    data: bytes = field(metadata=_text(SIGNATURE_KEY))


@dataclass(frozen=True)
class Voucher(Element):
    """Another device's word for a device: the way into the groups that the other one is in.

    :ivar scheme: number of the TLS SignatureScheme of both devices' keys
    :ivar data: a DeviceVoucher, see :mod:`slixmpp_mls.policy.proofs`
    """

    NAME = "voucher"

    scheme: int = field(metadata=_attribute("scheme", UINT16))
    data: bytes = field(repr=False, metadata=_text(VOUCHER))


@dataclass(frozen=True)
class KeyPackageCount(Element):
    """The number of ordinary KeyPackages that a device keeps for one cipher suite.

    Their items have the ids ``<device>/<suite>/0`` and so on, that of last resort ``<device>/<suite>/last-resort``.

    :ivar suite: number of the cipher suite
    :ivar count: 0 if there is only the one of last resort
    """

    NAME = "key-packages"

    suite: int = field(metadata=_attribute("suite", UINT16))
    count: int = field(metadata=_attribute("count", UINT16))


@dataclass(frozen=True)
class Device(Element):
    """One device of the account that publishes this.

    :ivar id: the resource of the client's identity, equal to the id of the PubSub item
    :ivar keys: 1 to 16; of several for one signature scheme, the first is the one that it makes new leaves with, the
        others are those that it is replacing
    :ivar label: for people, one line of at most 64 code points
    :ivar added: when the device came to the account
    :ivar vouchers: by other devices of the account, at most 16
    :ivar key_packages: where its KeyPackages are, for at most 32 cipher suites, each once; empty if it does not say
    """

    NAME = "device"

    id: str = field(metadata=_attribute("id", DEVICE_ID))
    keys: tuple[Key, ...] = ()
    label: str | None = None
    added: datetime | None = field(default=None, metadata=_attribute("added", DateTime()))
    vouchers: tuple[Voucher, ...] = ()
    key_packages: tuple[KeyPackageCount, ...] = ()

    def __post_init__(self) -> None:
        Element.__post_init__(self)
        if not 1 <= len(self.keys) <= MAX_KEYS:
            raise UsageError(f"<device/> with {len(self.keys)} keys, not 1 to {MAX_KEYS}")
        if len(set(self.keys)) < len(self.keys):
            raise UsageError("<device/> with the same key twice")
        if len(self.vouchers) > MAX_KEYS:
            raise UsageError(f"<device/> with over {MAX_KEYS} vouchers")
        if len(self.key_packages) > MAX_SUITES:
            raise UsageError(f"<device/> with KeyPackages for over {MAX_SUITES} cipher suites")
        if len({each.suite for each in self.key_packages}) < len(self.key_packages):
            raise UsageError("<device/> with two numbers of KeyPackages for one cipher suite")
        if self.label is not None:
            try:
                LABEL.check(self.label)
            except ValueError as error:
                raise UsageError(f"<device/> label: {error}") from None

    @classmethod
    def _read_children(cls, element: AnyElement, max_encoded: int) -> dict[str, Any]:
        keys: list[Key] = []
        labels: list[str] = []
        vouchers: list[Voucher] = []
        counts: list[KeyPackageCount] = []
        for child in element:
            match split_tag(child):
                case (space, Key.NAME) if space == NS:
                    if len(keys) == MAX_KEYS:
                        raise MalformedError(f"<device/> with over {MAX_KEYS} keys")
                    keys.append(Key.from_xml(child, max_encoded=max_encoded))
                case (space, "label") if space == NS:
                    if labels or len(child):
                        raise MalformedError("<device/> with two labels, or a label with children")
                    labels.append(child.text or "")
                case (space, Voucher.NAME) if space == NS:
                    if len(vouchers) == MAX_KEYS:
                        raise MalformedError(f"<device/> with over {MAX_KEYS} vouchers")
                    vouchers.append(Voucher.from_xml(child, max_encoded=max_encoded))
                case (space, KeyPackageCount.NAME) if space == NS:
                    if len(counts) == MAX_SUITES:
                        raise MalformedError(f"<device/> with KeyPackages for over {MAX_SUITES} cipher suites")
                    counts.append(KeyPackageCount.from_xml(child, max_encoded=max_encoded))
        return {
            "keys": tuple(keys),
            "label": labels[0] if labels else None,
            "vouchers": tuple(vouchers),
            "key_packages": tuple(counts),
        }

    def _fill(self, element: Any) -> None:
        super()._fill(element)
        if self.label is not None:
            label = element.makeelement(clark(NS, "label"), {})
            label.text = self.label
            element.append(label)
        for part in (*self.keys, *self.vouchers, *self.key_packages):
            child = element.makeelement(clark(NS, part.NAME), {})
            part._fill(child)
            element.append(child)


@dataclass(frozen=True)
class RetiredDevice(Element):
    """Says that a device of the account is retired; no device ever uses its id again.

    :ivar id: the device's, equal to the id of the PubSub item
    :ivar since: when it was retired
    """

    NAME = "retired-device"

    id: str = field(metadata=_attribute("id", DEVICE_ID))
    since: datetime = field(metadata=_attribute("since", DateTime()))


AnyCommit: TypeAlias = Commit | CommitLocation
"""What ends an epoch, here or elsewhere; usable with ``isinstance``."""
AnnotationElement: TypeAlias = AnnotationRequest | Annotations
"""What a member without the tree asks for, and the answer; usable with ``isinstance``."""
LiveElement: TypeAlias = Ephemeral | AnnotationElement
"""What is not stored, and has no place in the room's order; usable with ``isinstance``."""
