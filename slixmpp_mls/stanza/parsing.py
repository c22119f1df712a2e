"""Finds the elements of ``urn:xmpp:mls:0`` in stanzas and PubSub items, and decides which of them count.

In a message in the room::

    Commit  CommitLocation  Proposal  Application     at most one of the four
    Welcome*  WelcomeLocation*  GroupInfo?            beside a Commit or its location, for the epoch that it begins
    Inquiry, Answer, Ephemeral        each alone
    AnnotationRequest, Annotations    each alone
    Invitation                        alone, beside XEP-0249's <x/>

Only a Commit's own element and the first line decide whether the Commit counts.  A neighbour that cannot be read, or is
not allowed there, is ignored alone (:func:`read_payloads`): if it could invalidate the Commit, members that judge it
differently would be in different groups.

In a PubSub item::

    KeyPackage                        node urn:xmpp:mls:0:key-packages, any item id (see KeyPackageCount); of last
                                      resort: node urn:xmpp:mls:0:last-resort-key-packages
    Device                            node urn:xmpp:mls:0:devices, item id = `id`
    RetiredDevice                     in its place, permanently

Unknown parts are treated as in XMPP (RFC 6120 8.4): unknown attributes are ignored, so are unknown children where
children are defined, and unknown elements of the namespace in a message.  An element whose content is base64 has no
children, of whatever namespace.
"""

from __future__ import annotations

from typing import TypeAlias, get_args

from ..errors import MalformedError
from .elements import (
    MAX_ENCODED,
    MAX_MARKUP,
    MAX_WELCOMES,
    NS,
    Answer,
    AnyCommit,
    Application,
    Commit,
    CommitLocation,
    Device,
    GroupInfo,
    Inquiry,
    Invitation,
    KeyPackage,
    LiveElement,
    Proposal,
    RetiredDevice,
    Source,
    Welcome,
    WelcomeLocation,
)
from .xml import AnyElement, parse_xml, split_tag

__all__ = ["ItemElement", "MessageElement", "parse", "payloads", "read_payloads"]

_Content: TypeAlias = Commit | CommitLocation | Proposal | Application
_Neighbour: TypeAlias = Welcome | WelcomeLocation | GroupInfo
_Alone: TypeAlias = Inquiry | Answer | LiveElement | Invitation
MessageElement: TypeAlias = _Content | _Neighbour | _Alone
"""What stands in a message."""
ItemElement: TypeAlias = KeyPackage | Device | RetiredDevice
"""What stands in a PubSub item."""

_IN_MESSAGES: dict[str, type[MessageElement]] = {cls.NAME: cls for cls in get_args(MessageElement)}
_IN_ITEMS: dict[str, type[ItemElement]] = {cls.NAME: cls for cls in get_args(ItemElement)}


def _root(source: Source, max_size: int) -> AnyElement:
    if isinstance(source, str):
        source = source.encode("utf-8", "surrogatepass")  # parse_xml refuses what is not UTF-8
    return parse_xml(source, max_size) if isinstance(source, bytes) else source


def parse(source: Source, *, max_encoded: int = MAX_ENCODED) -> MessageElement | ItemElement:
    """Read one element of :data:`NS`.

    :param source: the element of either library, or a document holding nothing else
    :param max_encoded: characters allowed in its text and in each attribute
    :raises MalformedError: another element, a missing or misspelled attribute, bad base64, too large
    """
    element = _root(source, max_encoded + MAX_MARKUP)
    namespace, name = split_tag(element)
    cls = _IN_MESSAGES.get(name) or _IN_ITEMS.get(name)
    if namespace != NS or cls is None:
        raise MalformedError(f"not an element of {NS} that stands on its own")
    return cls.from_xml(element, max_encoded=max_encoded)


def payloads(message: Source, *, max_encoded: int = MAX_ENCODED) -> list[MessageElement]:
    """The elements of :data:`NS` that a message stanza holds, in document order; often none.

    This is the strict form, for a message whose author must make no mistake; see :func:`read_payloads`.

    :param message: the stanza, as an element of either library or a document
    :param max_encoded: characters allowed in each element's text
    :raises MalformedError: an element does not parse, or they do not belong together: more than
        one Commit (or location of one), Proposal or Application; a Welcome, its location, or a GroupInfo without a
        Commit, or for another group or epoch than the one that the Commit begins; an Invitation beside others;
        a PubSub payload in a message
    """
    found, refused = read_payloads(message, max_encoded=max_encoded)
    for error in refused:
        raise error
    return found


def read_payloads(
    message: Source, *, max_encoded: int = MAX_ENCODED
) -> tuple[list[MessageElement], list[MalformedError]]:
    """The elements of a message from others, and what had to be left out.

    A commit, proposal or application counts if it can be read and is the only one of the three.  Each other element (a
    welcome, a group-info, an invitation, a PubSub payload) is judged alone.

    :returns: the elements that count, in document order; and an error for each other one
    :raises MalformedError: a commit, proposal or application does not parse, or is not the only one: nothing counts
    """
    found: list[MessageElement] = []
    refused: list[MalformedError] = []
    contents = 0
    for child in _root(message, 2 * max_encoded + MAX_MARKUP):
        namespace, name = split_tag(child)
        if namespace != NS:
            continue
        cls = _IN_MESSAGES.get(name)
        if cls is None:
            if name in _IN_ITEMS and len(refused) <= MAX_WELCOMES:
                refused.append(MalformedError(f"<{name}/> in a message"))
            continue
        if issubclass(cls, _Content):
            contents += 1
            if contents > 1:
                raise MalformedError("a message with more than one commit, proposal or application")
            found.append(cls.from_xml(child, max_encoded=max_encoded))
        elif len(found) + len(refused) <= MAX_WELCOMES + 2:  # some more than a Commit, its Welcomes and GroupInfo
            try:
                found.append(cls.from_xml(child, max_encoded=max_encoded))
            except MalformedError as error:
                refused.append(error)
    content = next((one for one in found if isinstance(one, _Content)), None)
    kept: list[MessageElement] = []
    for element in found:
        problem = None if element is content else _misplaced(element, content, kept)
        if problem is None:
            kept.append(element)
        else:
            refused.append(MalformedError(problem))
    return kept, refused


def _misplaced(element: MessageElement, content: _Content | None, kept: list[MessageElement]) -> str | None:
    """Why an element may not stand beside the content of its message, and those before it; None if it may."""
    if isinstance(element, _Alone):
        alone = content is None and not any(isinstance(one, _Alone) for one in kept)
        return None if alone else f"a {element.NAME} beside other elements"
    if not isinstance(content, AnyCommit):
        return f"a {element.NAME} without its commit"
    if (element.group, element.epoch) != (content.group, content.epoch + 1):
        return f"a {element.NAME} for another epoch than the one that its commit begins"
    limit = 1 if isinstance(element, GroupInfo) else MAX_WELCOMES
    if sum(type(one) is type(element) for one in kept) == limit:
        return f"a message with over {limit} {element.NAME} elements"
    return None
