"""The Authentication Service (RFC 9750 4): whose are the signature keys in a group's leaves.

:mod:`.interface` says what is asked and answered.  Who answers:

- :class:`DirectoryService`: each account's own server, which lists the account's devices;
- :class:`AuthorityService`: certification authorities, by X.509 credentials;
- :class:`TrustOnFirstUse`: the memory of what such a service said before;
- :class:`PeopleService`: people who have compared fingerprints, and their devices that tell each other of it
  (:class:`TrustManagement`, XEP-0450);
- :class:`AllOf` and :class:`AnyOf`: several at once;
- :class:`AcceptAll`: nobody, for tests.

First use and people share one memory, the :class:`TrustTable`, and stand around each other::

    PeopleService(TrustOnFirstUse(DirectoryService(...), table), table)
"""

from .accept_all import AcceptAll
from .automatic_trust import TrustManagement
from .combination import AllOf, AnyOf
from .device_lists import DeviceNode, DirectoryService
from .interface import VALID, AuthenticationService, Validity, Verdict
from .manual_trust import PeopleService
from .trust_on_first_use import KeyChanged, NewDevice, NewDeviceRule, TrustEvent, TrustOnFirstUse
from .trust_table import KnownKey, Source, TrustChanged, TrustTable
from .x509 import AuthorityService

__all__ = [
    "VALID",
    "AcceptAll",
    "AllOf",
    "AnyOf",
    "AuthenticationService",
    "AuthorityService",
    "DeviceNode",
    "DirectoryService",
    "KeyChanged",
    "KnownKey",
    "NewDevice",
    "NewDeviceRule",
    "PeopleService",
    "Source",
    "TrustChanged",
    "TrustEvent",
    "TrustManagement",
    "TrustOnFirstUse",
    "TrustTable",
    "Validity",
    "Verdict",
]
