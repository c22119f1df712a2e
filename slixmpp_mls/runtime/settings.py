"""The configuration of the plugin, the second argument of ``register_plugin("mls", {...})``.

It is checked once, when the plugin is registered.  An unknown name, a value of the wrong type or a value that makes no
sense raises :class:`~slixmpp_mls.errors.UsageError`, which says what is expected.

=======================  ==========================================================================
``store``                path of the SQLite file (made if missing), or a Store.  Required.
``passphrase``           encrypts that file: a text, a ``f() -> str`` called when the file is opened, or a StoreSecret;
                         see :mod:`slixmpp_mls.store.wrapped_key`.  Needs the extra ``encrypted``
``key_file``             the same by a file of 32 octets or more, instead of a passphrase
``label``                name of this device for people, shown with its keys: one line of 1 to 64 characters
``replace_same_label``   whether a new store takes the account's other devices with the same ``label`` from its list, as
                         their stores are lost; False; see :mod:`slixmpp_mls.account.own_entry`
``new_devices``          ``"ask"`` (the default) whether a device that our account lists from now on is added to our
                         rooms (``mls_new_device``), or ``"add"`` it on the server's word; see
                         :mod:`slixmpp_mls.account.devices`
``renew_after``          seconds after which our keys in a group are renewed; 7 days
``renew_after_messages`` the same by messages that we have sent; 1,000
``evict_after``          seconds after which members that have not renewed their keys are removed, where we may
                         remove them; ``"policy"`` for the `max_leaf_age` of each group; 0 or None (the default): never
``nick``                 nickname in rooms; the account's localpart if not given
``cipher_suites``        numbers, the preferred one first; ``(0xF001, 1)``, or ``(1,)`` if the OpenSSL beneath has no
                         ML-KEM: new rooms are post-quantum where all who are invited have it
``key_packages``         number of KeyPackages that are kept ready for each suite; 50
``authentication``       an AuthenticationService, or ``f(directory) -> AuthenticationService`` that makes one out of
                         that of the accounts' device lists; if not given, those lists, remembered (trust on first use).
                         What people verify and distrust outranks it: see :mod:`slixmpp_mls.account.trust`
``unverified_devices``   of accounts that have verified ones: ``"refuse"`` (the default), ``"ask"`` or ``"accept"``;
                         see :mod:`slixmpp_mls.authentication.manual_trust`
``introductions``        whether verified people are believed about third persons' keys, and are told which keys were
                         verified here; False; see :mod:`slixmpp_mls.authentication.automatic_trust`
``denied_members``       what is done about members that the Authentication Service denies: ``"remove"`` (the default),
                         ``"hold"`` or ``"report"``; see :mod:`slixmpp_mls.rooms.engine.member_checks`
``grace``                seconds until a member is removed that the service has vouched for and denies now; 86,400
``accept_invitation``    ``f(invitation) -> bool``: whether to follow an invitation; all are followed if not given
``allow_url``            ``f(url) -> bool``: whether a group's ratchet tree may be fetched from there; if not given,
                         see :mod:`slixmpp_mls.delivery.upload`
``self_ping``            seconds of silence in a room after which we ask it whether we are still there (XEP-0410); 300
``rejoin``               what is done about a group that we cannot follow any more: ``"automatic"`` (the default: we ask
                         to be added again) or ``"by hand"`` (:meth:`EncryptedRoom.rejoin`); see
                         :mod:`slixmpp_mls.rooms.engine.rejoin`
``grant_requests``       requests to be added that nothing in the group proves (``mls_join_requested``): ``"ask"`` (the
                         default) the application, or grant those of ``"members"``: of accounts that are in the group,
                         where we may add, if the Authentication Service says that the device is valid.  The server of
                         such an account can then bring in devices of its own
``partial_from``         width of the ratchet tree, in leaves, from which on we join a group before we have the tree: we
                         read and send at once, and know all members when the tree has been fetched; 1,000.  None: we
                         join no group without its tree.  See :mod:`slixmpp_mls.client.group.partial`
``stay_partial``         whether we stay without that tree, and ask members that have it for what we lack, as a small
                         device in a large room does; False.  The whole tree is fetched where they do not help.  See
                         :mod:`slixmpp_mls.client.group.following`
``annotate``             whether we answer such members; False.  A client of an administrator's account is of most use
``parameters``           :class:`slixmpp_mls.mls.parameters.Parameters`
``clock``                ``f() -> float``: seconds since the Unix epoch, for tests; ``time.time``
=======================  ==========================================================================
"""

from __future__ import annotations

import math
import os
import reprlib
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar

from slixmpp import JID, InvalidJID

from ..authentication import AuthenticationService, DeviceListService, NewDeviceRule
from ..client import KeyPackageSettings
from ..client.storage.leaf_ages import RenewalSettings
from ..delivery import AllowURL, Invitation
from ..delivery.room import PING_INTERVAL
from ..errors import PeerError, UsageError
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.parameters import DAY, Parameters
from ..mls.registry import CipherSuiteId
from ..stanza.elements import LABEL
from ..store import Store
from ..store.wrapped_key import StoreSecret

__all__ = [
    "DEFAULTS",
    "DEFAULT_SUITES",
    "DeniedMembers",
    "GrantRequests",
    "NewDevices",
    "RejoinMode",
    "Settings",
    "default_suites",
]

_PREFERENCE = (
    CipherSuiteId.MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
    CipherSuiteId.MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
)


def default_suites() -> tuple[int, ...]:
    """The cipher suites of a client that is not told others, the preferred one first."""
    return tuple(int(suite) for suite in _PREFERENCE if CipherSuite.is_supported(suite))


DEFAULT_SUITES = default_suites()
C = TypeVar("C", bound=Enum)
Check = Callable[[object], object]
"""Returns the value as the field has it; raises ValueError with what is expected instead."""


class DeniedMembers(Enum):
    """What is done about members that the Authentication Service denies; see ``rooms/engine/member_checks.py``."""

    REMOVE = "remove"
    HOLD = "hold"
    REPORT = "report"


class RejoinMode(Enum):
    """What a client does that has lost a group."""

    AUTOMATIC = "automatic"
    BY_HAND = "by hand"


class GrantRequests(Enum):
    """What is done about requests to be added that nothing in the group proves."""

    ASK = "ask"
    MEMBERS = "members"


class NewDevices(Enum):
    """What is done about a device that our account lists from now on."""

    ASK = "ask"
    ADD = "add"


# --- checks ----------------------------------------------------------------------------------------


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _choice(kind: type[C]) -> Check:
    """A member of an enumeration, or its value."""

    def check(value: object) -> C:
        try:
            return kind(value)
        except ValueError:
            raise ValueError(_one_of(value, [each.value for each in kind])) from None

    return check


def _one_of(value: object, names: list[str]) -> str:
    close = get_close_matches(str(value), names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"give one of {', '.join(map(repr, names))}{hint}"


def _whole(least: int, what: str) -> Check:
    """An integer: True and "100" are none."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"give {what}: a whole number, {least} or more")
        return value

    return check


def _seconds(least: int) -> Check:
    def check(value: object) -> int:
        return int(_number(value, least))

    return check


def _number(value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise ValueError(f"give a number of seconds, {least} or more")
    return value


def _ping(value: object) -> float:
    number = _number(value, 0)
    if not number:
        raise ValueError("give a number of seconds, more than 0")
    return float(number)


def _evict(value: object) -> int | Literal["policy"]:
    if value is None:
        return 0
    if value == "policy":
        return "policy"
    try:
        return int(_number(value, 0))
    except ValueError:
        raise ValueError('give a number of seconds, "policy", or None for never') from None


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("give True or False")
    return value


def _function(what: str) -> Check:
    def check(value: object) -> object:
        if not callable(value):
            raise ValueError(f"give a function {what}")
        return value

    return check


def _parameters(value: object) -> Parameters:
    if value is None:
        return Parameters()
    if not isinstance(value, Parameters):
        raise ValueError("give slixmpp_mls.mls.parameters.Parameters(...)")
    return value


def _store(value: object) -> str | Path | Store:
    if isinstance(value, str | Path) and str(value):
        return value
    if all(hasattr(value, name) for name in ("account", "transaction", "scrub", "close")):
        return value  # type: ignore[return-value]  # a Store, which is a Protocol
    raise ValueError('give the path of a file, {"store": "bot.db"}, or a Store')


def _passphrase(value: object) -> object:
    if not (isinstance(value, StoreSecret) or callable(value) or (isinstance(value, str) and value)):
        raise ValueError("give a text that is not empty, a function () -> str, or a StoreSecret")
    return value


def _path(value: object) -> str | os.PathLike[str]:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError("give the path of a file")
    return value


def _label(value: object) -> object:
    try:
        LABEL.check(value)
    except ValueError:
        raise ValueError(f"give {LABEL.what}") from None
    return value


def _nick(value: object) -> str:
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        JID(f"room@rooms.invalid/{value}")
    except (ValueError, InvalidJID):
        raise ValueError("give a nickname, which has to be the resource of a JID (RFC 7622)") from None
    return value


def _suites(value: object) -> tuple[int, ...]:
    what = "give numbers of supported cipher suites, the preferred one first, each once, such as (1, 2)"
    if not isinstance(value, tuple | list) or not value:
        raise ValueError(what)
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(what)
        try:
            CipherSuite.get(number)
        except PeerError as error:
            raise ValueError(f"{what}; {error}") from None
    if len(set(value)) < len(value):
        raise ValueError(what)
    return tuple(int(number) for number in value)


def _authentication(value: object) -> object:
    if not callable(value) and not hasattr(value, "validate"):
        raise ValueError("give an AuthenticationService, or a function (DeviceListService) -> AuthenticationService")
    return value


_CHECKS: dict[str, Check] = {
    "store": _store,
    "passphrase": _optional(_passphrase),
    "key_file": _optional(_path),
    "label": _optional(_label),
    "replace_same_label": _boolean,
    "new_devices": _choice(NewDevices),
    "renew_after": _seconds(1),
    "renew_after_messages": _whole(1, "a number of messages"),
    "evict_after": _evict,
    "nick": _optional(_nick),
    "cipher_suites": _suites,
    "key_packages": _whole(0, "a number of KeyPackages"),
    "authentication": _optional(_authentication),
    "unverified_devices": _choice(NewDeviceRule),
    "introductions": _boolean,
    "denied_members": _choice(DeniedMembers),
    "grace": _seconds(0),
    "accept_invitation": _optional(_function("(Invitation) -> bool")),
    "allow_url": _optional(_function("(url: str) -> bool")),
    "self_ping": _ping,
    "rejoin": _choice(RejoinMode),
    "grant_requests": _choice(GrantRequests),
    "partial_from": _optional(_whole(1, "a number of leaves, or None for never")),
    "stay_partial": _boolean,
    "annotate": _boolean,
    "parameters": _parameters,
    "clock": _function("() -> float: seconds since the Unix epoch"),
}


# --- the settings ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration, checked: what the table of the module says, with enumerations for names.

    :ivar evict_after: seconds; 0: never
    """

    store: str | Path | Store
    passphrase: str | Callable[[], str] | StoreSecret | None = field(default=None, repr=False)
    key_file: str | os.PathLike[str] | None = None
    label: str | None = None
    replace_same_label: bool = False
    new_devices: NewDevices = NewDevices.ASK
    renew_after: int = 7 * DAY
    renew_after_messages: int = 1000
    evict_after: int | Literal["policy"] = 0
    nick: str | None = None
    cipher_suites: tuple[int, ...] = DEFAULT_SUITES
    key_packages: int = 50
    authentication: AuthenticationService | Callable[[DeviceListService], AuthenticationService] | None = None
    unverified_devices: NewDeviceRule = NewDeviceRule.REFUSE
    introductions: bool = False
    denied_members: DeniedMembers = DeniedMembers.REMOVE
    grace: int = DAY
    accept_invitation: Callable[[Invitation], bool] | None = None
    allow_url: AllowURL | None = None
    self_ping: float = PING_INTERVAL
    rejoin: RejoinMode = RejoinMode.AUTOMATIC
    grant_requests: GrantRequests = GrantRequests.ASK
    partial_from: int | None = 1000
    stay_partial: bool = False
    annotate: bool = False
    parameters: Parameters = field(default_factory=Parameters)
    clock: Callable[[], float] = time.time

    @classmethod
    def of(cls, config: Mapping[str, object]) -> Settings:
        """Check a configuration.

        :param config: by name, as :class:`~slixmpp_mls.plugin.MLS` has it
        :raises UsageError: a name is unknown, a value is wrong, or two do not go together
        """
        known = {each.name: each for each in fields(cls)}
        for name in config:
            if name not in known:
                close = get_close_matches(str(name), known)
                names = close or sorted(known)
                raise UsageError(
                    f"the plugin has no setting {name!r}{'; did you mean ' if close else '; there are '}"
                    f"{', '.join(map(repr, names))}{'?' if close else ''}"
                )
        if config.get("store") is None:
            raise UsageError('the plugin needs a store: register_plugin("mls", {"store": "bot.db"})')
        checked: dict[str, Any] = {}
        for name, value in config.items():
            try:
                checked[name] = _CHECKS[name](value)
            except ValueError as error:
                # A secret is neither shown by repr() nor by an error.
                shown = reprlib.repr(value) if known[name].repr else f"a {type(value).__name__}"
                raise UsageError(f"the setting {name!r} cannot be {shown}: {error}") from None
        settings = cls(**checked)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        if self.passphrase is not None and self.key_file is not None:
            raise UsageError("a passphrase or a key file, not both: leave out 'passphrase' or 'key_file'")
        if (self.passphrase, self.key_file) != (None, None) and not isinstance(self.store, str | Path):
            raise UsageError("'passphrase' and 'key_file' encrypt a file: give its path as 'store', not a Store")
        if self.replace_same_label and self.label is None:
            raise UsageError("'replace_same_label' needs a 'label', which no other device of the account has")

    @property
    def key_package_settings(self) -> KeyPackageSettings:
        """For :class:`~slixmpp_mls.client.Device`."""
        return KeyPackageSettings(suites=self.cipher_suites, count=self.key_packages)

    @property
    def renewal(self) -> RenewalSettings:
        """When our leaves' keys are renewed."""
        return RenewalSettings(self.renew_after, self.renew_after_messages)


DEFAULTS: dict[str, Any] = {each.name: None if each.default is MISSING else each.default for each in fields(Settings)}
"""By name, what a setting is if it is not given; ``store`` has to be."""
