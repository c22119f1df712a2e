"""The elements as slixmpp stanza objects.

One class for each element; its interfaces are the element's attributes and text under the names
that the dataclass has, spelled by the same types.  :meth:`MLSStanza.read` gives the dataclass and
is the only strict way in: slixmpp evaluates *every* interface of a stanza for something as small
as ``"body" in message``, so an interface whose XML is missing or misspelled is None here.

As everywhere in slixmpp, reading ``message["mls_commit"]`` creates the element; ask
``message.get_plugin("mls_commit", check=True)`` first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field
from typing import Any, ClassVar, Generic, Self, TypeVar

from slixmpp.plugins.xep_0060.stanza import EventItem, Item
from slixmpp.stanza import Message
from slixmpp.xmlstream import ElementBase, register_stanza_plugin

from . import elements
from .elements import NS, Element, spelled_fields, spelling

__all__ = [
    "Application",
    "Commit",
    "CommitLocation",
    "Device",
    "GroupInfo",
    "Invitation",
    "KeyPackage",
    "MLSStanza",
    "Proposal",
    "RetiredDevice",
    "Welcome",
    "WelcomeLocation",
    "register",
]

E = TypeVar("E", bound=Element)


class MLSStanza(ElementBase, Generic[E]):
    """Base of the bindings; a subclass names its dataclass and gets its name and interfaces from there."""

    namespace = NS
    interfaces: ClassVar[set[str]] = set()
    element: ClassVar[type[Element]]

    def __init_subclass__(cls, element: type[Element], **more: Any) -> None:
        super().__init_subclass__(**more)
        declared = spelled_fields(element)
        cls.element = element
        cls.name = element.NAME
        cls.interfaces = {one.name for one in declared}
        for one in declared:
            for verb, accessor in _accessors(one).items():
                setattr(cls, f"{verb}_{one.name}", accessor)

    @classmethod
    def of(cls, value: E) -> Self:
        """The stanza object of a value, to be appended to a stanza."""
        return cls(xml=value.to_stdlib())

    def read(self) -> E:
        """The value.

        :raises MalformedError: see :func:`slixmpp_mls.stanza.parse`
        """
        return self.element.from_xml(self.xml)  # type: ignore[return-value]


def _accessors(declared: Field[Any]) -> dict[str, Callable[..., Any]]:
    """What slixmpp calls for an interface: get, set and delete."""
    name, lexical = spelling(declared)

    def get(self: ElementBase) -> Any:
        text = self.xml.text if name is None else self.xml.get(name)
        try:
            return declared.default if text is None and declared.default is not None else lexical.read(text or "")
        except ValueError:
            return None

    def put(self: ElementBase, value: Any) -> None:
        lexical.check(value)
        if name is None:
            self.xml.text = lexical.write(value)
        else:
            self.xml.set(name, lexical.write(value))

    def delete(self: ElementBase) -> None:
        if name is None:
            self.xml.text = None
        else:
            self.xml.attrib.pop(name, None)

    return {"get": get, "set": put, "del": delete}


class Commit(MLSStanza[elements.Commit], element=elements.Commit):
    """``message["mls_commit"]``"""

    plugin_attrib = "mls_commit"


class CommitLocation(MLSStanza[elements.CommitLocation], element=elements.CommitLocation):
    """``message["mls_commit_location"]``"""

    plugin_attrib = "mls_commit_location"


class Proposal(MLSStanza[elements.Proposal], element=elements.Proposal):
    """``message["mls_proposal"]``"""

    plugin_attrib = "mls_proposal"


class Application(MLSStanza[elements.Application], element=elements.Application):
    """``message["mls_application"]``"""

    plugin_attrib = "mls_application"


class Welcome(MLSStanza[elements.Welcome], element=elements.Welcome):
    """``message["mls_welcome"]``, all of them in ``message["mls_welcomes"]``"""

    plugin_attrib = "mls_welcome"
    plugin_multi_attrib = "mls_welcomes"


class WelcomeLocation(MLSStanza[elements.WelcomeLocation], element=elements.WelcomeLocation):
    """``message["mls_welcome_location"]``, all of them in ``message["mls_welcome_locations"]``"""

    plugin_attrib = "mls_welcome_location"
    plugin_multi_attrib = "mls_welcome_locations"


class GroupInfo(MLSStanza[elements.GroupInfo], element=elements.GroupInfo):
    """``message["mls_group_info"]``"""

    plugin_attrib = "mls_group_info"


class Invitation(MLSStanza[elements.Invitation], element=elements.Invitation):
    """``message["mls_invitation"]``"""

    plugin_attrib = "mls_invitation"


class KeyPackage(MLSStanza[elements.KeyPackage], element=elements.KeyPackage):
    """``item["mls_key_package"]``"""

    plugin_attrib = "mls_key_package"


class Device(MLSStanza[elements.Device], element=elements.Device):
    """``item["mls_device"]``; its keys and label are in what :meth:`read` gives."""

    plugin_attrib = "mls_device"


class RetiredDevice(MLSStanza[elements.RetiredDevice], element=elements.RetiredDevice):
    """``item["mls_retired_device"]``"""

    plugin_attrib = "mls_retired_device"


def register() -> None:
    """Make slixmpp's messages and PubSub items know the elements.  Doing it again changes nothing."""
    for stanza in (Commit, CommitLocation, Proposal, Application, GroupInfo, Invitation):
        register_stanza_plugin(Message, stanza)
    register_stanza_plugin(Message, Welcome, iterable=True)
    register_stanza_plugin(Message, WelcomeLocation, iterable=True)
    for item in (Item, EventItem):
        register_stanza_plugin(item, KeyPackage)
        register_stanza_plugin(item, Device)
        register_stanza_plugin(item, RetiredDevice)
