"""The XML form of the MLS structures: for inspection, for tests, for protocols that want XML.

It derives from the same declarations as the octets (:mod:`.tls`) and loses nothing: octets to
value to XML to value to octets is the identity.  Nothing that travels encrypted or signed is
ever computed from it, the octets are what counts.

===================  ==============================================================================
declared             in XML
===================  ==============================================================================
struct               an element for each field, in wire order, named as the field; as the root of
                     a document, an element named as the structure
number               decimal, without sign or leading zeros
number of a registry the registered name if there is one, else decimal
enum                 the name
``opaque<V>``        base64 (RFC 4648 section 4)
``X name<V>``        an ``<item/>`` for each, within a vector of optionals ``<absent/>`` for an absent one
``optional<X>``      of a field: the element is missing if it is absent
conditional field    the element is missing where the condition does not hold
``select``           one element, named as the enum value, with the variant as its content; for a
                     value outside the registry ``<unknown number='2570'/>`` with base64 in it
===================  ==============================================================================

Names are those of RFC 9420 and its registries, cipher suites in their case, all others in lower
case (and wire formats without their ``mls_``, as in the names of the structures).  White space
around elements and in base64 means nothing; everything else is strict: an attribute, text,
element, comment or spelling of a number that the form above does not have is refused, so that
two different documents (white space aside) never mean the same structure.

Recursion follows the declarations, which do not contain themselves, so its depth is theirs.

The form shows everything, secrets and plaintexts included: do not log it.  This is the one
module of :mod:`slixmpp_mls.mls` that uses lxml, and none of the others imports it.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from functools import cache
from typing import Any

from lxml import etree

from ..errors import MalformedError
from .registry import CipherSuiteId
from .structures.extensions import ApplicationId, ExternalPub, ExternalSenders, RequiredCapabilities
from .structures.framing import AuthenticatedContent, MLSMessage
from .structures.parent_node import RatchetTreeExtension
from .structures.partial import (
    AnnotatedCommit,
    AnnotatedWelcome,
    SenderAuthenticatedGroupInfo,
    SenderAuthenticatedMessage,
    SenderAuthenticatedPrivateMessage,
    SenderAuthenticatedPublicMessage,
)
from .structures.welcome import GroupSecrets
from .tls import MAX_SIZE, Codec, Enum, Opaque, Optional, Select, Struct, StructCodec, UInt, Vector

__all__ = ["NAMESPACE", "from_xml", "schema", "structures", "to_xml"]

NAMESPACE = "urn:xmpp:mls:structures:0"

_SPACE = " \t\r\n"  # white space as XML defines it, and nothing of Unicode's
_NO_SPACE = str.maketrans("", "", _SPACE)
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)  # 2**64 has 20 digits

# All that RFC 9420 and draft-ietf-mls-partial put on the wire or hash is one of these or part of one.
_ROOTS = (
    MLSMessage, AuthenticatedContent, GroupSecrets,
    ApplicationId, RatchetTreeExtension, RequiredCapabilities, ExternalPub, ExternalSenders,
    AnnotatedWelcome, AnnotatedCommit, SenderAuthenticatedMessage, SenderAuthenticatedGroupInfo,
    SenderAuthenticatedPublicMessage, SenderAuthenticatedPrivateMessage,
)  # fmt: skip


@cache
def structures() -> dict[str, type[Struct]]:
    """The structures that have an XML form, by the name of their root element."""
    found: dict[str, type[Struct]] = {}
    todo: list[Codec] = [root.codec for root in _ROOTS]
    while todo:
        codec = todo.pop()
        match codec:
            case StructCodec():
                if codec.cls.__name__ not in found:
                    found[codec.cls.__name__] = codec.cls
                    todo.extend(field.codec for field in codec.fields)
            case Vector() | Optional():
                todo.append(codec.item)
            case Select():
                todo.extend(codec.variants.values())
    return dict(sorted(found.items()))


@cache
def _names(registry: type[enum.IntEnum]) -> dict[int, str]:
    return {int(one): one.name if registry is CipherSuiteId else one.name.lower() for one in registry}


@cache
def _numbers(registry: type[enum.IntEnum]) -> dict[str, enum.IntEnum]:
    return {_names(registry)[int(one)]: one for one in registry}


def _registry(codec: UInt | Enum) -> type[enum.IntEnum]:
    """Where the names of a select's variants come from."""
    registry = codec.type if isinstance(codec, Enum) else codec.names
    if registry is None:
        raise TypeError("a select needs names for its variants")
    return registry


def _clark(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


# --- writing -----------------------------------------------------------------------------------


def to_xml(value: Struct) -> etree._Element:
    """The XML form of a structure, as an element named after it.

    :raises ValueError: the structure is none of :func:`structures`, or has a value that its
        encoding cannot express
    """
    name = type(value).__name__
    if structures().get(name) is not type(value):
        raise ValueError(f"{name} has no XML form")
    value.encode()  # what has no octets has no XML form either
    root = etree.Element(_clark(name), nsmap={None: NAMESPACE})
    _write(root, type(value).codec, value)
    return root


def _write(parent: etree._Element, codec: Codec, value: Any) -> None:
    match codec:
        case StructCodec():
            for field in codec.fields:
                item = getattr(value, field.name)
                if item is not None:
                    inner = field.codec.item if isinstance(field.codec, Optional) else field.codec
                    _write(_child(parent, field.name), inner, item)
        case Select():
            number = codec.tag_of(value)
            variant = codec.variants.get(number)
            if variant is not None:
                _write(_child(parent, _names(_registry(codec.tag))[number]), variant, value)
            else:
                unknown = _child(parent, "unknown")
                unknown.set("number", str(number))
                unknown.text = _base64(value.data)
        case Vector():
            optional = isinstance(codec.item, Optional)
            inner = codec.item.item if isinstance(codec.item, Optional) else codec.item
            for item in value:
                if optional and item is None:
                    _child(parent, "absent")
                else:
                    _write(_child(parent, "item"), inner, item)
        case UInt():
            parent.text = str(value) if codec.names is None else _names(codec.names).get(value, str(value))
        case Enum():
            parent.text = _names(codec.type)[value]
        case Opaque():
            parent.text = _base64(value)
        case _:
            raise TypeError(f"no XML form for {type(codec).__name__}")


def _child(parent: etree._Element, name: str) -> etree._Element:
    return etree.SubElement(parent, _clark(name))


def _base64(octets: bytes) -> str | None:
    return base64.b64encode(octets).decode() or None


# --- reading -----------------------------------------------------------------------------------


def from_xml(element: etree._Element, *, max_size: int = MAX_SIZE) -> Struct:
    """The structure whose XML form this element is.

    :param max_size: octets that the structure may take
    :raises MalformedError: it is the form of none, or of a larger one
    """
    cls = structures().get(_name(element))
    if cls is None:
        raise MalformedError("no structure has an XML form of this name")
    value: Struct = _Reader(max_size).read(element, cls.codec)
    return value


def _name(element: etree._Element) -> str:
    """The local name of an element of ours, else nothing."""
    tag: object = element.tag  # a function, for a comment, a processing instruction or an entity
    if not isinstance(tag, str) or not tag.startswith(f"{{{NAMESPACE}}}"):
        return ""
    return tag.removeprefix(f"{{{NAMESPACE}}}")


class _Reader:
    """Reads one document; errors name what was declared and never what came."""

    def __init__(self, max_size: int) -> None:
        self._left = max_size

    def read(self, element: etree._Element, codec: Codec) -> Any:
        match codec:
            case StructCodec():
                return self._struct(_children(element), codec)
            case Select():
                return self._select(_children(element), codec)
            case Vector():
                self._take(1)
                return tuple([self._item(child, codec.item) for child in _children(element)])
            case UInt():
                self._take(codec.size)
                return _number(_text(element), codec)
            case Enum():
                self._take(codec.size)
                member = _numbers(codec.type).get(_text(element))
                if member is None:
                    raise MalformedError(f"no name of a {codec.type.__name__}")
                return member
            case Opaque():
                return self._octets(_text(element))
        raise TypeError(f"no XML form for {type(codec).__name__}")

    def _struct(self, children: list[etree._Element], codec: StructCodec) -> Any:
        values: dict[str, Any] = {}
        position = 0
        for field in codec.fields:
            values[field.name] = None
            if field.when is not None and not field.when.holds(values[field.when.field]):
                continue
            if position < len(children) and _name(children[position]) == field.name:
                inner = field.codec.item if isinstance(field.codec, Optional) else field.codec
                values[field.name] = self.read(children[position], inner)
                position += 1
            elif not isinstance(field.codec, Optional):
                raise MalformedError(f"{codec.cls.__name__} has no {field.name} where it should")
        if position < len(children):
            raise MalformedError(f"{codec.cls.__name__} has an element that does not belong there")
        return codec.cls(**values)

    def _select(self, children: list[etree._Element], codec: Select) -> Any:
        if len(children) != 1:
            raise MalformedError("a choice is one element")
        registry, child = _registry(codec.tag), children[0]
        self._take(codec.tag.size)
        number = _numbers(registry).get(_name(child))
        if number is not None and number in codec.variants:
            return self.read(child, codec.variants[number])
        if codec.otherwise is None or _name(child) != "unknown" or child.keys() != ["number"]:
            raise MalformedError(f"no element for a {registry.__name__}")
        tag = _number(child.get("number", ""), codec.tag)
        if tag in codec.variants:
            raise MalformedError(f"a known {registry.__name__} called unknown")
        return codec.otherwise(tag, self._octets(_text(child, attributes=1)))

    def _item(self, element: etree._Element, codec: Codec) -> Any:
        name = _name(element)
        if isinstance(codec, Optional):
            self._take(1)
            if name == "absent" and not _children(element):
                return None
            codec = codec.item
        if name != "item":
            raise MalformedError("a vector holds something other than items")
        return self.read(element, codec)

    def _octets(self, text: str) -> bytes:
        text = text.translate(_NO_SPACE)
        self._take(len(text) // 4 * 3)
        try:
            octets = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise MalformedError("not base64") from None
        if base64.b64encode(octets).decode() != text:  # RFC 4648 3.5: unused bits are zero
            raise MalformedError("base64 that is not canonical")
        return octets

    def _take(self, octets: int) -> None:
        self._left -= octets
        if self._left < 0:
            raise MalformedError("the structure is over the limit of its size")


def _number(text: str, codec: UInt | Enum) -> int:
    known = _numbers(_registry(codec)) if isinstance(codec, Enum) or codec.names else {}
    if text in known:
        return int(known[text])
    if not _DECIMAL.fullmatch(text) or int(text) >= 1 << 8 * codec.size:
        raise MalformedError(f"no number of {codec.size} octets")
    if int(text) in known.values():
        raise MalformedError("a number in the place of its name")
    return int(text)


def _children(element: etree._Element) -> list[etree._Element]:
    """The elements inside, of which the name is still unchecked, where only elements may be."""
    children = list(element)
    if element.attrib or any((text or "").strip(_SPACE) for text in (element.text, *(one.tail for one in children))):
        raise MalformedError("text or an attribute where only elements may be")
    return children


def _text(element: etree._Element, *, attributes: int = 0) -> str:
    """The text inside, where only text may be."""
    if len(element) or len(element.attrib) != attributes:
        raise MalformedError("an element or an attribute where only text may be")
    return element.text or ""


# --- the schema --------------------------------------------------------------------------------

_XS = "http://www.w3.org/2001/XMLSchema"
_NOTE = (
    "The XML form of the structures of RFC 9420, made from their declarations by "
    "slixmpp_mls.mls.xml_form; change those and run it again. A reader is stricter than this schema "
    "can say: a number that has a name is written as that name, base64 is canonical, and a field that "
    "depends on another one is there exactly if its condition holds."
)


def schema() -> str:
    """The XML Schema of the form, in the same words every time."""
    root = etree.Element(f"{{{_XS}}}schema", nsmap={"xs": _XS, None: NAMESPACE})
    root.set("targetNamespace", NAMESPACE)
    root.set("elementFormDefault", "qualified")
    _document(root, _NOTE)
    for name in structures():
        _xs(root, "element", name=name, type=name)
    registries: dict[str, UInt | Enum] = {}
    for name, cls in structures().items():
        struct = _xs(root, "complexType", name=name)
        _document(struct, (cls.__doc__ or "").partition("\n")[0])
        if cls.codec.fields:
            sequence = _xs(struct, "sequence")
            for field in cls.codec.fields:
                optional = isinstance(field.codec, Optional) or field.when is not None
                inner = field.codec.item if isinstance(field.codec, Optional) else field.codec
                element = _xs(sequence, "element", name=field.name, **({"minOccurs": "0"} if optional else {}))
                _type(element, inner, registries)
    for name, codec in sorted(registries.items()):
        _simple_type(root, name, codec)
    for bits in (8, 16, 32, 64):
        kind = _xs(root, "simpleType", name=f"uint{bits}")
        base = {8: "unsignedByte", 16: "unsignedShort", 32: "unsignedInt", 64: "unsignedLong"}[bits]
        _xs(_xs(kind, "restriction", base=f"xs:{base}"), "pattern", value=_DECIMAL.pattern)
    return etree.tostring(root, encoding="unicode", pretty_print=True)


def _type(element: etree._Element, codec: Codec, registries: dict[str, UInt | Enum]) -> None:
    """Gives an element declaration its type: by name where it has one, in place otherwise."""
    match codec:
        case StructCodec():
            element.set("type", codec.cls.__name__)
        case Opaque():
            element.set("type", "xs:base64Binary")
        case UInt() | Enum():
            if isinstance(codec, UInt) and codec.names is None:
                element.set("type", f"uint{8 * codec.size}")
            else:
                name = _registry(codec).__name__
                registries[name] = codec
                element.set("type", name)
        case Select():
            choice = _xs(_xs(element, "complexType"), "choice")
            for number, variant in codec.variants.items():
                _type(_xs(choice, "element", name=_names(_registry(codec.tag))[number]), variant, registries)
            if codec.otherwise is not None:
                content = _xs(_xs(_xs(choice, "element", name="unknown"), "complexType"), "simpleContent")
                extension = _xs(content, "extension", base="xs:base64Binary")
                number_type = f"uint{8 * codec.tag.size}"
                _xs(extension, "attribute", name="number", type=number_type, use="required")
        case Vector():
            choice = _xs(_xs(element, "complexType"), "choice", minOccurs="0", maxOccurs="unbounded")
            if isinstance(codec.item, Optional):
                _xs(_xs(choice, "element", name="absent"), "complexType")
                _type(_xs(choice, "element", name="item"), codec.item.item, registries)
            else:
                _type(_xs(choice, "element", name="item"), codec.item, registries)


def _simple_type(root: etree._Element, name: str, codec: UInt | Enum) -> None:
    """The names of a registry, and where it is an open one any number as well."""
    kind = _xs(root, "simpleType", name=name)
    if isinstance(codec, UInt):
        kind = _xs(_xs(kind, "union", memberTypes=f"uint{8 * codec.size}"), "simpleType")
    restriction = _xs(kind, "restriction", base="xs:token")
    for one in _names(_registry(codec)).values():
        _xs(restriction, "enumeration", value=one)


def _document(parent: etree._Element, text: str) -> None:
    _xs(_xs(parent, "annotation"), "documentation").text = text


def _xs(parent: etree._Element, tag: str, /, **attributes: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{_XS}}}{tag}", attributes)


if __name__ == "__main__":
    print(schema(), end="")
