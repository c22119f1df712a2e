"""``slixmpp-mls inspect``: MLS messages in a form that people can read, and back."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from lxml import etree
from rich.syntax import Syntax

from ..errors import InvalidError, MalformedError
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.registry import CipherSuiteId
from ..mls.structures.framing import MLSMessage
from ..mls.tls import MAX_SIZE, Struct
from ..mls.xml_form import NAMESPACE, from_xml, structures, to_xml
from ..stanza import NS
from ..stanza.xml import parse_xml, split_tag
from .terminal import console, errors

__all__ = ["inspect"]

_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}|\s)+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+=*\s*")
_MAX_INPUT = 4 * MAX_SIZE  # a structure of the largest size in XML or hexadecimal


class Form(StrEnum):
    """How a structure is written."""

    xml = "xml"
    base64 = "base64"
    hex = "hex"


def inspect(
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-]", show_default=False, help="The input file (default: standard input).")
    ] = "-",
    structure: Annotated[
        str, typer.Option(metavar="NAME", help="The structure of the input, by its name in RFC 9420.")
    ] = "MLSMessage",
    to: Annotated[Form, typer.Option(help="The output format.")] = Form.xml,
) -> None:
    """Show MLS messages as readable XML. The input may be octets, hex, base64 or XML.

    From a stanza it shows each MLS message. It can turn the XML form back into octets. Encrypted parts stay encrypted:
    no keys are involved. Standard error says whether the cipher suite resists quantum computers.

    Example: `slixmpp-mls inspect stanza.xml`

    Example: `slixmpp-mls inspect --structure RatchetTreeExtension < tree.b64`

    Example: `slixmpp-mls inspect message.xml --to base64`
    """
    if structure not in structures():
        raise typer.BadParameter(f"{structure!r} is none of {', '.join(structures())}")
    with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
        data = source.read(_MAX_INPUT + 1)
    if len(data) > _MAX_INPUT:
        raise MalformedError(f"more than {_MAX_INPUT} octets")
    for value in read(data, structures()[structure]):
        write(value, to)
        for line in remarks(value):
            errors.print(line, soft_wrap=True)


def read(data: bytes, kind: type[Struct]) -> list[Struct]:
    """The structures in some input, whose form is found out.

    :raises MalformedError: there are none
    """
    text = data.strip()
    if text.startswith(b"<"):
        return _from_xml(text)
    if text and _HEX.fullmatch(text):
        data = bytes.fromhex(text.decode())
    elif text and _BASE64.fullmatch(text):
        try:
            data = base64.b64decode(b"".join(text.split()), validate=True)
        except binascii.Error as error:
            raise MalformedError(f"base64 that does not parse: {error}") from None
    return [kind.decode(data)]


def _from_xml(text: bytes) -> list[Struct]:
    root = parse_xml(text, _MAX_INPUT)
    if split_tag(root)[0] == NAMESPACE:
        return [from_xml(root)]
    found: list[Struct] = []
    for element in root.iter(etree.Element):
        namespace, name = split_tag(element)
        if namespace == NS and name == "group-info" and element.get("key-epoch") is not None:
            continue  # encrypted for members (mls-recovery.xml, "Encrypted GroupInfos")
        if namespace == NS and name in ("commit", "proposal", "application", "welcome", "group-info", "key-package"):
            try:
                found.append(MLSMessage.decode(base64.b64decode("".join((element.text or "").split()), validate=True)))
            except binascii.Error as error:
                raise MalformedError(f"<{name}/> without proper base64: {error}") from None
    if not found:
        raise MalformedError(f"no element of {NS} with an MLS message in it, and none of {NAMESPACE}")
    return found


def remarks(value: Struct) -> list[str]:
    """Of each suite that a structure is made in (not of those that a leaf lists): what resists quantum computers."""
    names = dict.fromkeys(element.text or "" for element in to_xml(value).iter(f"{{{NAMESPACE}}}cipher_suite"))
    return [_remark(name) for name in names]


def _remark(name: str) -> str:
    number = CipherSuiteId[name] if name in CipherSuiteId.__members__ else int(name)
    try:
        suite = CipherSuite.get(number)
    except InvalidError as error:
        return f"{name}: {error}"
    secrecy = "yes" if suite.secrecy_is_post_quantum else "no"
    signatures = "yes" if suite.signatures_are_post_quantum else "no"
    return f"{name} ({number:#06x}): post-quantum secrecy: {secrecy}; post-quantum signatures: {signatures}"


def write(value: Struct, form: Form) -> None:
    """Print a structure, with colours on a terminal."""
    if form is not Form.xml:
        octets = value.encode()
        print(octets.hex() if form is Form.hex else base64.b64encode(octets).decode())
        return
    element = to_xml(value)
    etree.indent(element)
    text = etree.tostring(element, encoding="unicode")
    if console.is_terminal:
        console.print(Syntax(text, "xml", theme="ansi_dark", background_color="default", word_wrap=True))
    else:
        print(text)
