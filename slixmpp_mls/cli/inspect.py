"""``slixmpp-mls inspect``: MLS messages in a form that people can read, and back; and the groups of a store."""

from __future__ import annotations

import base64
import binascii
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from lxml import etree
from rich.syntax import Syntax
from rich.text import Text

from ..authentication import TrustTable
from ..client import RoomGroup
from ..errors import InvalidError, MalformedError, PeerError, UsageError
from ..identity import TrustLevel, key_identifier
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.registry import CipherSuiteId
from ..mls.structures.extensions import Extension, ExtensionContent
from ..mls.structures.framing import MLSMessage
from ..mls.structures.parent_node import AnyNode, RatchetTreeExtension
from ..mls.tls import MAX_SIZE, Struct
from ..mls.xml_form import NAMESPACE, from_xml, structures, to_xml
from ..policy import RoomPolicy
from ..stanza import NS
from ..stanza.xml import parse_xml, split_tag
from ..store import is_encrypted
from . import pictures
from .login import bare_jid
from .pictures import Picture, Seat, nodes_of, timeline, tree
from .policy import copy_of, groups_at, groups_in, print_policy
from .store import KeyFile
from .terminal import clean, console, errors

__all__ = ["inspect"]

_Content = TypeVar("_Content", bound=ExtensionContent)
_SQLITE = b"SQLite format 3\0"
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
    room: Annotated[
        str | None,
        typer.Option(metavar="ROOM_OR_ACCOUNT", help="Of a store: only this one."),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the ratchet tree and the epochs there.")
    ] = None,
    key_file: KeyFile = None,
) -> None:
    """Show MLS messages as readable XML, or the groups of a store.

    The input may be octets, hex, base64, XML or a store.

    From a stanza it shows each MLS message. It can turn the XML form back into octets. Encrypted parts stay encrypted:
    no keys are involved. Standard error says whether the cipher suite resists quantum computers, and shows the group's
    policy and ratchet tree where they are in clear.

    Of a store, it shows each group: the policy, the ratchet tree (who sits where, which keys are how old, which nodes
    are blank, who is unmerged), and the last epochs: who did what. No program may have the store open.

    Example: `slixmpp-mls inspect bot.db --room coven@rooms.example.org --svg coven.svg`

    Example: `slixmpp-mls inspect stanza.xml`

    Example: `slixmpp-mls inspect --structure RatchetTreeExtension < tree.b64`

    Example: `slixmpp-mls inspect message.xml --to base64`
    """
    if structure not in structures():
        raise typer.BadParameter(f"{structure!r} is none of {', '.join(structures())}")
    if file != "-" and _is_store(Path(file)):
        show_store(Path(file), None if room is None else bare_jid(room), svg, key_file)
        return
    if file != "-" and not Path(file).exists():
        raise UsageError(f"there is no file {file}")
    with sys.stdin.buffer if file == "-" else Path(file).open("rb") as source:
        data = source.read(_MAX_INPUT + 1)
    if len(data) > _MAX_INPUT:
        raise MalformedError(f"more than {_MAX_INPUT} octets")
    if not data.strip():
        raise UsageError("there is no input: name a file, or give it on standard input")
    try:
        values = read(data, structures()[structure])
    except PeerError as error:
        what = f"{'standard input' if file == '-' else file} is no store, and no {structure}"
        raise MalformedError(f"{what} as octets, hex, base64 or XML: {error}") from None
    for value in values:
        write(value, to)
        for line in remarks(value):
            errors.print(line, soft_wrap=True)
        for policy in policies(value):
            print_policy(policy, None, errors)
        for nodes in trees(value):
            picture = Picture(nodes, {}, int(time.time()))
            errors.print(tree(picture, "ratchet tree"))
            if svg is not None:
                svg.write_text(pictures.svg("ratchet tree", picture))


def _is_store(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE or is_encrypted(path)
    except OSError:
        return False  # reading it says why


def show_store(path: Path, room: str | None, svg: Path | None, key_file: Path | None) -> None:
    """Show the groups of a store.

    :param room: bare JID; None: all rooms
    :raises UsageError: there is no such group, or there are several for one picture
    """
    copy = copy_of(path, key_file)
    found = list(groups_in(copy)) if room is None else groups_at(copy, room)
    if not found:
        raise UsageError("this device is in no group")
    if svg is not None and len(found) > 1:
        raise UsageError("the store has several groups: choose one with --room")
    levels = {(key.account, key.identifier): key.level for key in TrustTable(copy).everything()}
    for group in found:
        picture = picture_of(group, levels, int(time.time()))
        state = group.mls
        title = f"{clean(group.room)}: epoch {state.epoch}, {CipherSuiteId(state.suite.id).name}"
        console.print(tree(picture, title))
        print_policy(group.policy, group.roster)
        epochs = group.members.epochs()
        console.print(timeline(epochs))
        if svg is not None:
            svg.write_text(pictures.svg(title, picture, epochs))
            console.print(Text(f"Drawn: {svg}", "dim"), soft_wrap=True)


def picture_of(group: RoomGroup, levels: Mapping[tuple[str, bytes], TrustLevel], now: int) -> Picture:
    """The tree of a group, and what the store knows of its members.

    :param levels: of trust, by account and key identifier
    :param now: seconds since the Unix epoch
    """
    ratchet = group.mls.tree
    seats = {}
    for member in group.members.all():
        known = levels.get((member.account, key_identifier(member.signature_key)), TrustLevel.UNDECIDED)
        seats[member.leaf_index] = Seat(member.renewed, str(known), member.leaf_index == group.mls.own_index)
    nodes = nodes_of(ratchet.leaf_count, dict(ratchet.members()), dict(ratchet.parents()))
    return Picture(nodes, seats, now)


def trees(value: Struct) -> list[Sequence[AnyNode | None]]:
    """The ratchet trees that a structure carries in clear."""
    if isinstance(value, RatchetTreeExtension):
        return [value.ratchet_tree]
    return [content.ratchet_tree for content in _contents(value, RatchetTreeExtension)]


def policies(value: Struct) -> list[RoomPolicy]:
    """The policies that a structure carries in clear."""
    return _contents(value, RoomPolicy)


def _contents(value: Struct, kind: type[_Content]) -> list[_Content]:
    found = []
    for extension in _extensions(value):
        with suppress(PeerError):  # the XML shows its octets
            if (content := kind.found_in((extension,))) is not None:
                found.append(content)
    return found


def _extensions(value: object) -> Iterator[Extension]:
    """All extensions in a structure, however deep."""
    if isinstance(value, Extension):
        yield value
    elif isinstance(value, Struct):
        for field in value.codec.fields:
            yield from _extensions(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _extensions(each)


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
