"""The Authentication Service (RFC 9750 4): which client owns the signature key of a leaf.

:mod:`.interface` defines the questions and answers.  Services that answer:

- :class:`DirectoryService`: each account's own server, which lists the account's devices;
- :class:`AuthorityService`: certification authorities, by X.509 credentials;
- :class:`TrustOnFirstUse`: remembers the earlier answers of another service;
- :class:`PeopleService`: people who compare fingerprints, and their devices, which share the results
  (:class:`TrustManagement`, XEP-0450);
- :class:`AllOf` and :class:`AnyOf`: several services at once;
- :class:`AcceptAll`: accepts everything, for tests.

Trust on first use and people's decisions share one :class:`TrustTable`, and wrap each other::

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
