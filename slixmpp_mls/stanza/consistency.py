"""Checks that an element's attributes agree with its MLS content.

The attributes are for software that does not parse MLS.  MLS clients must not rely on them: a room's server can rewrite
them, and two members that used different parts of one stanza would disagree about the group's state.  A receiver
therefore decodes first, compares, and drops a stanza that contradicts itself.

===============  ============================  =========================================
element          wire format (RFC 9420 6)      compared
===============  ============================  =========================================
commit           PublicMessage PrivateMessage  group id, epoch, content type
proposal         PublicMessage PrivateMessage  group id, epoch, content type
application      PrivateMessage                group id, epoch, content type
welcome          Welcome                       nothing: its GroupInfo is encrypted
group-info       GroupInfo                     group id, epoch; if it is encrypted, after decryption
key-package      KeyPackage                    cipher suite, KeyPackageRef
===============  ============================  =========================================
"""

from __future__ import annotations

from typing import assert_never

from ..errors import InvalidError
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.registry import ProtocolVersion
from ..mls.structures import framing, key_package, welcome
from ..mls.structures.framing import ContentType, MLSMessage
from .elements import Application, Commit, GroupInfo, KeyPackage, Proposal, Welcome

__all__ = ["check"]

_SECTION = "urn:xmpp:mls:0, attributes and content"


def check(element: Commit | Proposal | Application | Welcome | GroupInfo | KeyPackage) -> MLSMessage:
    """The message in an element, after the check that its attributes agree with it.

    :raises MalformedError: the bytes are no MLSMessage
    :raises InvalidError: another kind of message, other values than the attributes say, another
        version than MLS 1.0, or a KeyPackage of a cipher suite that is not supported
    """
    if isinstance(element, GroupInfo) and element.key_epoch is not None:
        raise InvalidError("an encrypted group-info, which has to be decrypted first", _SECTION)
    message = MLSMessage.decode(element.data)
    if message.version != ProtocolVersion.MLS10:  # RFC 9420 6: what follows is this version's
        raise InvalidError(f"protocol version {message.version} is not supported", "RFC 9420 6")
    body = message.body
    match element:
        case Commit():
            _framed(element, body, ContentType.COMMIT)
        case Proposal():
            _framed(element, body, ContentType.PROPOSAL)
        case Application():
            # RFC 9420 6: "applications MUST encrypt application messages".
            if not isinstance(body, framing.PrivateMessage):
                raise InvalidError("an application message that is not a PrivateMessage", "RFC 9420 6")
            _framed(element, body, ContentType.APPLICATION)
        case Welcome():
            _kind(element, isinstance(body, welcome.Welcome))
        case GroupInfo():
            if not isinstance(body, welcome.GroupInfo):
                _kind(element, False)
            else:
                _place(element, body.group_context.group_id, body.group_context.epoch)
        case KeyPackage():
            if not isinstance(body, key_package.KeyPackage):
                _kind(element, False)
            elif body.cipher_suite != element.suite:
                raise InvalidError(f"a KeyPackage of another cipher suite than {element.suite}", _SECTION)
            elif CipherSuite.get(body.cipher_suite).key_package_ref(body.encode()).hex() != element.ref:
                raise InvalidError("a KeyPackage with another reference than its attribute says", "RFC 9420 5.2")
        case _:
            assert_never(element)
    return message


def _framed(element: Commit | Proposal | Application, body: object, expected: ContentType) -> None:
    match body:
        case framing.PublicMessage(content=content):
            _kind(element, framing.content_type_of(content.content) == expected)
            _place(element, content.group_id, content.epoch)
        case framing.PrivateMessage():
            _kind(element, body.content_type == expected)
            _place(element, body.group_id, body.epoch)
        case _:
            _kind(element, False)


def _kind(element: Commit | Proposal | Application | Welcome | GroupInfo | KeyPackage, agrees: bool) -> None:
    if not agrees:
        raise InvalidError(f"a {element.NAME} element holds another kind of message", _SECTION)


def _place(element: Commit | Proposal | Application | GroupInfo, group: bytes, epoch: int) -> None:
    if group != element.group:
        raise InvalidError(f"a {element.NAME} for another group than its attribute says", _SECTION)
    if epoch != element.epoch:
        raise InvalidError(f"a {element.NAME} of another epoch than its attribute says", _SECTION)
