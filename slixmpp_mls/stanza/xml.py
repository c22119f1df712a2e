"""XML as XMPP restricts it: strict reading of octets, and the bridge between lxml and the standard library.

A stream parser shields an XMPP client from DTDs, comments and processing instructions, which
RFC 6120 11.1 forbids.  Octets that arrive another way (decrypted, stored, handed in by a
caller) have no such shield, and :func:`parse_xml` is it.  It parses in three steps, each of
which makes the next one safe: size and UTF-8, absence of a document type (found in the octets,
before any parser could act on it), then lxml without entities, network or recovery; the
resulting tree is walked for what remains forbidden.

Errors never quote the input: it may be a decrypted message.

slixmpp's elements are :mod:`xml.etree` ones and cannot hold lxml's, nor the other way round.
:func:`to_lxml` and :func:`to_stdlib` copy between the two without recursion.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from typing import TypeAlias
from xml.etree import ElementTree

from lxml import etree

from ..errors import MalformedError

__all__ = [
    "MAX_ATTRIBUTES",
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "AnyElement",
    "clark",
    "is_xml_text",
    "parse_xml",
    "read_datetime",
    "serialize",
    "split_tag",
    "to_lxml",
    "to_stdlib",
    "write_datetime",
    "written_size",
]

AnyElement: TypeAlias = "etree._Element | ElementTree.Element"

MAX_DEPTH = 64  # nesting; deeper than any stanza in use, and below libxml2's own 256

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 2.2
MAX_ATTRIBUTES = 64  # of one element; the richest ones in use have some ten
MAX_ELEMENTS = 4096  # of one document

_XML = "{http://www.w3.org/XML/1998/namespace}"
_DATETIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)


def is_xml_text(text: str) -> bool:
    """Whether XML can hold all of a text's characters (XML 1.0 2.2): no control characters, no lone surrogates.

    A server that is sent others cuts the stream (RFC 6120 4.9.3.13).
    """
    return _NOT_XML.search(text) is None


def parse_xml(data: bytes, max_size: int, *, max_depth: int = MAX_DEPTH) -> etree._Element:
    """The root element of an XML document that XMPP allows (RFC 6120 11).

    :param max_size: octets
    :param max_depth: levels of elements, the root counting as one
    :raises MalformedError: too large, too deep, of more than `MAX_ELEMENTS` elements, one with more than
        `MAX_ATTRIBUTES` attributes, not UTF-8, not well-formed, with an undeclared
        prefix, or holding a document type, entity reference, comment or processing instruction
    """
    if len(data) > max_size:
        raise MalformedError(f"XML of {len(data)} octets, over the limit of {max_size}")
    try:
        data.decode("utf-8")  # RFC 6120 11.6: the only encoding
    except UnicodeDecodeError:
        raise MalformedError("XML is not UTF-8 (RFC 6120 11.6)") from None
    # RFC 6120 11.1, "internal or external DTD subsets".  In XML these octets mean nothing else,
    # save inside CDATA, where no serializer in use leaves them.
    if b"<!DOCTYPE" in data:
        raise MalformedError("XML with a document type (RFC 6120 11.1)")
    try:
        root = etree.fromstring(data, _parser())
    except etree.XMLSyntaxError:
        _parser.cache_clear()  # it keeps a log of errors, with quotes from the input
        raise MalformedError("XML is not well-formed (RFC 6120 11.3)") from None
    if root.getprevious() is not None or root.getnext() is not None:
        raise MalformedError("XML with something beside its root element (RFC 6120 11.1)")
    depth = elements = 0
    for event, node in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        if event == "start":
            depth += 1
            elements += 1
            if depth > max_depth:
                raise MalformedError(f"XML nested over {max_depth} levels")
            if elements > MAX_ELEMENTS:
                raise MalformedError(f"XML of over {MAX_ELEMENTS} elements")
            if len(node.attrib) > MAX_ATTRIBUTES:
                raise MalformedError(f"an element with over {MAX_ATTRIBUTES} attributes")
        elif event == "end":
            depth -= 1
        else:  # RFC 6120 11.1, "comments" and "processing instructions"
            raise MalformedError("XML with a comment or a processing instruction (RFC 6120 11.1)")
        if not isinstance(node.tag, str):
            raise MalformedError("XML with an entity reference (RFC 6120 11.1)")
    return root


@cache
def _parser() -> etree.XMLParser:
    # Naming the encoding makes it deaf to what the document claims.
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        no_network=True,
        huge_tree=False,
        recover=False,
        remove_comments=False,
        remove_pis=False,
    )


def serialize(element: etree._Element) -> bytes:
    """UTF-8 octets of the element, without declaration and tail."""
    return etree.tostring(element, encoding="utf-8", xml_declaration=False, with_tail=False)


def written_size(element: ElementTree.Element, namespace: str = "") -> int:
    """Octets of an element as slixmpp writes it, without writing it: that takes slixmpp a call for each character.

    :param namespace: the default one of what is around it
    """
    total = 0
    todo = [(element, namespace)]
    while todo:
        one, outer = todo.pop()
        space, name = split_tag(one)
        total += len(name) + (0 if space == outer else len(' xmlns=""') + len(space))
        for key, value in one.attrib.items():
            key = key.replace(_XML, "xml:")
            total += len(' =""') + len(key) + _escaped_size(value)
        total += len("<></>") + len(name) if len(one) or one.text else len("< />")
        total += _escaped_size(one.text) + (_escaped_size(one.tail) if one is not element else 0)
        todo += [(child, space) for child in one]
    return total


def _escaped_size(text: str | None) -> int:
    if not text:
        return 0
    three, four, five = text.count("<") + text.count(">"), text.count("&"), text.count("'") + text.count('"')
    return len(text.encode()) + 3 * three + 4 * four + 5 * five  # octets more as an entity


def split_tag(element: AnyElement) -> tuple[str, str]:
    """(namespace, local name); both empty for a comment or processing instruction."""
    tag: object = element.tag
    if not isinstance(tag, str):
        return "", ""
    namespace, brace, name = tag.rpartition("}")
    return (namespace[1:], name) if brace else ("", tag)


def clark(namespace: str, name: str) -> str:
    """The one-string form of a qualified name that both libraries use."""
    return f"{{{namespace}}}{name}"


def to_lxml(element: AnyElement) -> etree._Element:
    """A deep copy as lxml elements, each namespace declared as default where it begins.

    The copy's root has no tail.  Redoing the declarations also repairs what neither library can
    write: an element without prefix below one with a default namespace.

    :raises ValueError: an element without namespace (no XMPP element lacks one), a comment, a
        processing instruction, or a character that XML cannot hold
    """
    namespace, _ = split_tag(element)
    if not namespace:
        raise ValueError("an element without a namespace")
    root = etree.Element(element.tag, nsmap={None: namespace})
    todo: list[tuple[AnyElement, etree._Element, str]] = [(element, root, namespace)]
    while todo:
        source, copy, outer = todo.pop()
        copy.text = source.text or None  # "" and None mean the same and would be written in two ways
        for key, value in source.attrib.items():
            copy.set(key, value)
        for child in source:
            inner, _ = split_tag(child)
            if not inner:
                raise ValueError("an element without a namespace")
            twin = etree.SubElement(copy, child.tag, nsmap=None if inner == outer else {None: inner})
            twin.tail = child.tail
            todo.append((child, twin, inner))
    return root


def to_stdlib(element: AnyElement) -> ElementTree.Element:
    """A deep copy as :mod:`xml.etree` elements; its root has no tail.

    :raises ValueError: a comment or processing instruction inside
    """
    root = ElementTree.Element(str(element.tag))
    todo: list[tuple[AnyElement, ElementTree.Element]] = [(element, root)]
    while todo:
        source, copy = todo.pop()
        if not split_tag(source)[1]:
            raise ValueError("a comment or processing instruction")
        copy.text = source.text
        for key, value in source.attrib.items():
            copy.set(str(key), str(value))
        for child in source:
            twin = ElementTree.SubElement(copy, str(child.tag))
            twin.tail = child.tail
            todo.append((child, twin))
    return root


def read_datetime(text: str) -> datetime:
    """A moment in the DateTime profile of XEP-0082, in UTC, to the microsecond.

    :raises ValueError: another format, or no such moment
    """
    if not _DATETIME.fullmatch(text):
        raise ValueError("not a DateTime of XEP-0082")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the second for the first and last hours of datetime's range
        raise ValueError("no such moment") from None


def write_datetime(moment: datetime) -> str:
    """A moment in the DateTime profile of XEP-0082, in UTC (XEP-0082 5: a zone tells where one lives).

    :raises ValueError: the moment has no time zone
    """
    if moment.tzinfo is None:
        raise ValueError("a moment needs its time zone")
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
