"""The elements as aioxmpp XSOs.  Needs the extra ``slixmpp-mls[aioxmpp]``.

Importing this module adds the elements to aioxmpp's messages, as
``message.mls_payload`` (a list, in document order), and its PubSub items take
:class:`KeyPackage` and :class:`Device`.  The descriptors spell values with the types that the dataclasses declare;
``of`` and ``read`` convert from and to the dataclasses, and ``read`` checks received values against their rules.
"""

from __future__ import annotations

from typing import Any, Self

import aioxmpp.pubsub.xso  # type: ignore[import-untyped]
from aioxmpp import xso
from aioxmpp.stanza import Message  # type: ignore[import-untyped]

from ..errors import MalformedError, UsageError
from . import elements
from .elements import LABEL, NS, Element, spelled_fields, spelling
from .lexical import Lexical

__all__ = [
    "Application",
    "Commit",
    "CommitLocation",
    "Device",
    "GroupInfo",
    "Invitation",
    "Key",
    "KeyPackage",
    "KeyPackageCount",
    "Label",
    "Proposal",
    "RetiredDevice",
    "Voucher",
    "Welcome",
    "WelcomeLocation",
]


class _Type(xso.AbstractCDataType):  # type: ignore[misc]
    """A :class:`Lexical` as a type of aioxmpp."""

    def __init__(self, lexical: Lexical) -> None:
        super().__init__()
        self.lexical = lexical

    def coerce(self, v: Any) -> Any:
        self.lexical.check(v)
        return v

    def parse(self, v: str) -> Any:
        return self.lexical.read(v)

    def format(self, v: Any) -> str:
        return self.lexical.write(v)


def _descriptor(element: type[Element], field_name: str) -> Any:
    """The XSO descriptor of an element's field."""
    (declared,) = (one for one in spelled_fields(element) if one.name == field_name)
    name, lexical = spelling(declared)
    if name is None:
        return xso.Text(type_=_Type(lexical))
    optional = {} if declared.default not in (None, False) else {"default": declared.default}
    return xso.Attr(name, type_=_Type(lexical), **optional)


class _MLS(xso.XSO):  # type: ignore[misc]
    """Base of the bindings to one dataclass each."""

    UNKNOWN_CHILD_POLICY = xso.UnknownChildPolicy.FAIL
    ELEMENT: type[Element]

    @classmethod
    def of(cls, value: Any) -> Self:
        """The XSO of a value."""
        self: Self = cls()
        for declared in spelled_fields(cls.ELEMENT):
            setattr(self, declared.name, getattr(value, declared.name))
        return self

    def read(self) -> Any:
        """The value.

        :raises MalformedError: empty text, or a rule that spans several fields is broken
        """
        return self._value({})

    def _value(self, others: dict[str, Any]) -> Any:
        # aioxmpp leaves an empty text unset; the dataclass then finds None where it needs a value.
        values = {declared.name: getattr(self, declared.name, None) for declared in spelled_fields(self.ELEMENT)}
        try:
            return self.ELEMENT(**values, **others)
        except UsageError as error:
            raise MalformedError(str(error)) from None


class _Room(_MLS):
    group = _descriptor(elements.RoomElement, "group")
    epoch = _descriptor(elements.RoomElement, "epoch")
    data = _descriptor(elements.RoomElement, "data")


class Commit(_Room):
    """:class:`slixmpp_mls.stanza.Commit`"""

    ELEMENT = elements.Commit
    TAG = (NS, ELEMENT.NAME)


class CommitLocation(_Room):
    """:class:`slixmpp_mls.stanza.CommitLocation`"""

    ELEMENT = elements.CommitLocation
    TAG = (NS, ELEMENT.NAME)


class Proposal(_Room):
    """:class:`slixmpp_mls.stanza.Proposal`"""

    ELEMENT = elements.Proposal
    TAG = (NS, ELEMENT.NAME)


class Application(_Room):
    """:class:`slixmpp_mls.stanza.Application`"""

    ELEMENT = elements.Application
    TAG = (NS, ELEMENT.NAME)


class Welcome(_Room):
    """:class:`slixmpp_mls.stanza.Welcome`"""

    ELEMENT = elements.Welcome
    TAG = (NS, ELEMENT.NAME)


class WelcomeLocation(_Room):
    """:class:`slixmpp_mls.stanza.WelcomeLocation`"""

    ELEMENT = elements.WelcomeLocation
    TAG = (NS, ELEMENT.NAME)


class GroupInfo(_Room):
    """:class:`slixmpp_mls.stanza.GroupInfo`"""

    ELEMENT = elements.GroupInfo
    key_epoch = _descriptor(ELEMENT, "key_epoch")
    TAG = (NS, ELEMENT.NAME)


class Invitation(_MLS):
    """:class:`slixmpp_mls.stanza.Invitation`"""

    ELEMENT = elements.Invitation
    TAG = (NS, ELEMENT.NAME)
    group = _descriptor(elements.Invitation, "group")
    after = _descriptor(elements.Invitation, "after")


@aioxmpp.pubsub.xso.as_payload_class
class KeyPackage(_MLS):
    """:class:`slixmpp_mls.stanza.KeyPackage`"""

    ELEMENT = elements.KeyPackage
    TAG = (NS, ELEMENT.NAME)
    ref = _descriptor(elements.KeyPackage, "ref")
    suite = _descriptor(elements.KeyPackage, "suite")
    data = _descriptor(elements.KeyPackage, "data")
    last_resort = _descriptor(elements.KeyPackage, "last_resort")


class Key(_MLS):
    """:class:`slixmpp_mls.stanza.Key`"""

    ELEMENT = elements.Key
    TAG = (NS, ELEMENT.NAME)
    scheme = _descriptor(elements.Key, "scheme")
    data = _descriptor(elements.Key, "data")


class Voucher(_MLS):
    """:class:`slixmpp_mls.stanza.Voucher`"""

    ELEMENT = elements.Voucher
    TAG = (NS, ELEMENT.NAME)
    scheme = _descriptor(elements.Voucher, "scheme")
    data = _descriptor(elements.Voucher, "data")


class KeyPackageCount(_MLS):
    """:class:`slixmpp_mls.stanza.KeyPackageCount`"""

    ELEMENT = elements.KeyPackageCount
    TAG = (NS, ELEMENT.NAME)
    suite = _descriptor(elements.KeyPackageCount, "suite")
    count = _descriptor(elements.KeyPackageCount, "count")


class Label(xso.XSO):  # type: ignore[misc]
    """The ``<label/>`` of a device."""

    TAG = (NS, "label")
    UNKNOWN_CHILD_POLICY = xso.UnknownChildPolicy.FAIL
    text = xso.Text(type_=_Type(LABEL))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


@aioxmpp.pubsub.xso.as_payload_class
class Device(_MLS):
    """:class:`slixmpp_mls.stanza.Device`"""

    UNKNOWN_CHILD_POLICY = xso.UnknownChildPolicy.DROP
    ELEMENT = elements.Device
    TAG = (NS, ELEMENT.NAME)
    id = _descriptor(elements.Device, "id")
    added = _descriptor(elements.Device, "added")
    label = xso.Child([Label])
    keys = xso.ChildList([Key])
    vouchers = xso.ChildList([Voucher])
    key_packages = xso.ChildList([KeyPackageCount])

    @classmethod
    def of(cls, value: Any) -> Self:
        """The XSO of a value."""
        self = super().of(value)
        if value.label is not None:
            self.label = Label(value.label)
        self.keys.extend(Key.of(key) for key in value.keys)
        self.vouchers.extend(Voucher.of(voucher) for voucher in value.vouchers)
        self.key_packages.extend(KeyPackageCount.of(each) for each in value.key_packages)
        return self

    def read(self) -> Any:
        """The value.

        :raises MalformedError: no key, too many, or one of them twice
        """
        label = None if self.label is None else getattr(self.label, "text", "")
        lists = {
            "keys": tuple(key.read() for key in self.keys),
            "vouchers": tuple(voucher.read() for voucher in self.vouchers),
            "key_packages": tuple(each.read() for each in self.key_packages),
        }
        return self._value({"label": label, **lists})


@aioxmpp.pubsub.xso.as_payload_class
class RetiredDevice(_MLS):
    """:class:`slixmpp_mls.stanza.RetiredDevice`"""

    ELEMENT = elements.RetiredDevice
    TAG = (NS, ELEMENT.NAME)
    id = _descriptor(elements.RetiredDevice, "id")
    since = _descriptor(elements.RetiredDevice, "since")


Message.mls_payload = xso.ChildList(
    [Commit, CommitLocation, Proposal, Application, Welcome, WelcomeLocation, GroupInfo, Invitation]
)
