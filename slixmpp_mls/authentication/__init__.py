"""The Authentication Service (RFC 9750 4): which client owns the signature key of a leaf.

:mod:`.interface` defines the questions and answers.  Services that answer:

- :class:`DeviceListService`: each account's own server, which lists the account's devices;
- :class:`X509Service`: certification authorities, by X.509 credentials;
- :class:`TrustOnFirstUse`: remembers the earlier answers of another service;
- :class:`ManualTrust`: people who compare fingerprints, and their devices, which share the results
  (:class:`TrustManagement`, XEP-0450);
- :class:`AllOf` and :class:`AnyOf`: several services at once;
- :class:`AcceptAll`: accepts everything, for tests.

Trust on first use and people's decisions share one :class:`TrustTable`, and wrap each other::

    ManualTrust(TrustOnFirstUse(DeviceListService(...), table), table)
"""

from .accept_all import AcceptAll
from .automatic_trust import TrustManagement
from .combination import AllOf, AnyOf
from .device_lists import DeviceListService, DeviceNode
from .interface import VALID, AuthenticationService, Validity, Verdict
from .manual_trust import ManualTrust
from .trust_on_first_use import KeyChanged, NewDevice, NewDeviceRule, TrustEvent, TrustOnFirstUse
from .trust_table import KnownKey, Source, TrustChanged, TrustTable
from .x509 import X509Service

__all__ = [
    "VALID",
    "AcceptAll",
    "AllOf",
    "AnyOf",
    "AuthenticationService",
    "DeviceListService",
    "DeviceNode",
    "KeyChanged",
    "KnownKey",
    "ManualTrust",
    "NewDevice",
    "NewDeviceRule",
    "Source",
    "TrustChanged",
    "TrustEvent",
    "TrustManagement",
    "TrustOnFirstUse",
    "TrustTable",
    "Validity",
    "Verdict",
    "X509Service",
]
