"""The Authentication Service (RFC 9750 4): whose are the signature keys in a group's leaves.

:mod:`.interface` says what is asked and answered.  Who answers:

- :class:`DirectoryService`: each account's own server, which lists the account's devices;
- :class:`AuthorityService`: certification authorities, by X.509 credentials;
- :class:`TrustOnFirstUse`: the memory of what such a service said before;
- :class:`AllOf` and :class:`AnyOf`: several at once;
- :class:`AcceptAll`: nobody, for tests.
"""

from .accept import AcceptAll
from .authority import AuthorityService
from .combine import AllOf, AnyOf
from .directory import DeviceNode, DirectoryService
from .interface import VALID, AuthenticationService, Validity, Verdict
from .pinning import KeyChanged, NewDevice, NewDeviceRule, TrustEvent, TrustOnFirstUse

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
    "NewDevice",
    "NewDeviceRule",
    "TrustEvent",
    "TrustOnFirstUse",
    "Validity",
    "Verdict",
]
