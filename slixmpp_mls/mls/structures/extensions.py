"""Extensions: typed additions to KeyPackages, leaves, the GroupContext and GroupInfo (RFC 9420 13.4).

The list of them is a plain tuple of :class:`Extension`; :func:`find` gives the decoded
content of one.  `ratchet_tree` is declared beside the tree, in :mod:`slixmpp_mls.mls.tree.ratchet_tree`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, ClassVar, Self, TypeVar, cast

from ...errors import InvalidError
from ..registry import ExtensionType, credential_type, extension_type, proposal_type
from ..tls import AtMost, Struct, opaque, struct, uint16
from .credential import Credential

__all__ = [
    "AppDataDictionary",
    "ApplicationId",
    "ComponentData",
    "ComponentsList",
    "Extension",
    "ExtensionContent",
    "Extensions",
    "ExternalPub",
    "ExternalSender",
    "ExternalSenders",
    "RequiredCapabilities",
    "check_unique",
    "find",
]


MAX_EXTENSIONS = 64
MAX_NUMBERS = 256
"""Of one registry, in a list: what IANA has given out by now, several times over, and GREASE (RFC 9420 13.5)."""
MAX_EXTERNAL_SENDERS = 64
MAX_COMPONENTS = 64


@struct
class Extension(Struct):
    """One extension, its content still encoded."""

    extension_type: Annotated[int, extension_type]
    extension_data: opaque


Extensions = Annotated[tuple[Extension, ...], AtMost(MAX_EXTENSIONS)]


class ExtensionContent(Struct):
    """Base of the contents: structures that know the number under which they travel.

    :cvar lasting: whether the same content usually stands in a GroupContext for many epochs, so that it is worth while
        to remember what its octets decode to
    """

    __slots__ = ()
    TYPE: ClassVar[int]
    lasting: ClassVar[bool] = False

    def extension(self) -> Extension:
        """This content as an entry of an extension list."""
        return Extension(self.TYPE, self.encode())

    @classmethod
    def found_in(cls, extensions: Extensions) -> Self | None:
        """This kind of content in a list, decoded; None when it is absent.

        :raises MalformedError: its data does not parse, or has trailing octets
        """
        for extension in extensions:
            if extension.extension_type == cls.TYPE:
                found = (_decoded_before if cls.lasting else _decoded)(cls, extension.extension_data)
                assert isinstance(found, cls)
                return found
        return None


def _decoded(kind: type[ExtensionContent], data: bytes) -> ExtensionContent:
    return kind.decode(data)


_decoded_before = cast(Callable[[type[ExtensionContent], bytes], ExtensionContent], lru_cache(maxsize=64)(_decoded))


@struct
class ApplicationId(ExtensionContent):
    """RFC 9420 5.3.3: an identifier that the application gives a leaf."""

    TYPE = ExtensionType.APPLICATION_ID
    application_id: opaque


@struct
class RequiredCapabilities(ExtensionContent):
    """RFC 9420 11.1: what every member of the group must support."""

    TYPE = ExtensionType.REQUIRED_CAPABILITIES
    extension_types: Annotated[tuple[Annotated[int, extension_type], ...], AtMost(MAX_NUMBERS)] = ()
    proposal_types: Annotated[tuple[Annotated[int, proposal_type], ...], AtMost(MAX_NUMBERS)] = ()
    credential_types: Annotated[tuple[Annotated[int, credential_type], ...], AtMost(MAX_NUMBERS)] = ()


@struct
class ExternalPub(ExtensionContent):
    """RFC 9420 12.4.3.2: the key to which external joiners encrypt."""

    TYPE = ExtensionType.EXTERNAL_PUB
    external_pub: opaque


@struct
class ExternalSender(Struct):
    """RFC 9420 12.1.8.1: somebody outside who may propose."""

    signature_key: opaque
    credential: Credential


@struct
class ExternalSenders(ExtensionContent):
    """RFC 9420 12.1.8.1: the list of them; `Sender.sender_index` counts in it."""

    TYPE = ExtensionType.EXTERNAL_SENDERS
    external_senders: Annotated[tuple[ExternalSender, ...], AtMost(MAX_EXTERNAL_SENDERS)]


@struct
class ComponentData(Struct):
    """draft-ietf-mls-extensions "Associated Data": what one component of an application keeps."""

    component_id: uint16
    data: opaque


@struct
class ComponentsList(Struct):
    """draft-ietf-mls-extensions "Negotiating Extensions and Components": numbers of components."""

    component_ids: Annotated[tuple[uint16, ...], AtMost(MAX_NUMBERS)]


@struct
class AppDataDictionary(ExtensionContent):
    """draft-ietf-mls-extensions "Associated Data": data of components, sorted by their numbers, none twice."""

    TYPE = ExtensionType.APP_DATA_DICTIONARY
    APP_COMPONENTS: ClassVar[int] = 1  # in a leaf: ComponentsList of the components that its client knows
    SAFE_AAD: ClassVar[int] = 2
    LAST_RESORT: ClassVar[int] = 4  # last_resort_key_package, in a KeyPackage, without data
    component_data: Annotated[tuple[ComponentData, ...], AtMost(MAX_COMPONENTS)]

    def check(self) -> None:
        """Check the order of its entries.

        :raises InvalidError: they are not sorted, or one is there twice
        """
        numbers = [entry.component_id for entry in self.component_data]
        if any(this >= following for this, following in pairwise(numbers)):
            raise InvalidError("app_data_dictionary is not sorted", "draft-ietf-mls-extensions Associated Data")


E_ = TypeVar("E_", bound=ExtensionContent)


def find(extensions: Extensions, content: type[E_]) -> E_ | None:
    """The decoded content of one kind, or None.

    :raises MalformedError: its data does not parse
    """
    return content.found_in(extensions)


def check_unique(extensions: Iterable[Extension], where: str) -> None:
    """RFC 9420 13.4: a list of extensions has at most one of each type.

    :raises InvalidError: it has two
    """
    seen: set[int] = set()
    for extension in extensions:
        if extension.extension_type in seen:
            raise InvalidError(f"{where} has extension {extension.extension_type:#06x} twice", "RFC 9420 13.4")
        seen.add(extension.extension_type)
