"""Trust on first use: what an inner service vouched for once is remembered, and not silently replaced.

An account's server can list what it likes.  Keys seen once are therefore pinned in the store, so
that its later lies come to light:

==========================  =========================  ==============================================
the leaf                    the inner service says     verdict
==========================  =========================  ==============================================
any                         ``INVALID``                that (a retired device stays out)
key pinned                  ``VALID``, ``UNKNOWN``     ``VALID``
key refused by a person     ``VALID``, ``UNKNOWN``     ``INVALID`` (``refused``)
another key is pinned       ``VALID``                  ``INVALID`` (``key-changed``), unless
                                                       `accept_changed_keys`; :class:`KeyChanged`
another key is pinned       ``UNKNOWN``                ``INVALID`` (``key-changed``), or ``UNKNOWN`` if
                                                       `accept_changed_keys`
nothing pinned, account     ``VALID``                  ``VALID``, and the key is pinned
unknown until now
nothing pinned, account     ``VALID``                  by the rule for new devices; :class:`NewDevice`
known
nothing pinned              ``UNKNOWN``                ``UNKNOWN``
==========================  =========================  ==============================================

An account is known when any key of any of its devices is pinned or refused.  A device has a key for each
signature scheme; its first key for another scheme counts as a new device, since a server that can
make up the one can make up the other.  All leaves of one :meth:`TrustOnFirstUse.validate` meet an
account at the same moment: whoever joins a group pins all devices that its members have in it.

A person's decision about an event (:meth:`TrustOnFirstUse.decide`) is final until the next one.

In the store: space ``pin``, key ``account NUL device NUL``, scheme (2), SHA-256 of the signature key (32);
value :class:`PinRecord`.  One record at most for each device and scheme is trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Annotated, TypeAlias

from ..identity import ClientIdentity, fingerprint, key_identifier
from ..mls import tls
from ..mls.cipher_suite import CipherSuite
from ..mls.credential import AnyCredential
from ..mls.leaf_node import LeafNode
from ..mls.tls import Struct, opaque, struct, uint64
from ..store.interface import Store, Transaction
from .interface import VALID, AuthenticationService, Verdict, named_client
from .listeners import Listeners, Recent

__all__ = ["KeyChanged", "NewDevice", "NewDeviceRule", "PinRecord", "TrustEvent", "TrustOnFirstUse"]

SPACE = "pin"
MAX_REPORTED = 10_000  # events not to be repeated


class NewDeviceRule(Enum):
    """What becomes of a new device of a known account, if the inner service vouches for it."""

    ACCEPT = "accept"
    ASK = "ask"
    """``UNKNOWN`` (``undecided``) until :meth:`TrustOnFirstUse.decide`."""
    REFUSE = "refuse"
    """``INVALID`` (``new-device``), unless :meth:`TrustOnFirstUse.decide` says otherwise."""


@dataclass(frozen=True, slots=True)
class NewDevice:
    """An account known before has another device, or a device has a key for another signature scheme.

    :ivar scheme: number of the TLS SignatureScheme
    :ivar accepted: whether the key has been pinned; if not, :meth:`TrustOnFirstUse.decide` does it
    """

    client: ClientIdentity
    scheme: int
    signature_key: bytes = field(repr=False)
    accepted: bool

    @property
    def fingerprint(self) -> str:
        """Of the key, for people to compare."""
        return fingerprint(self.signature_key)


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """A device appears with another key than the one that is pinned.

    :ivar scheme: number of the TLS SignatureScheme
    :ivar pinned_key: the key known before
    :ivar vouched: whether the inner service says that the new key is valid
    :ivar accepted: whether the new key has been pinned instead; if not, :meth:`TrustOnFirstUse.decide` does it
    """

    client: ClientIdentity
    scheme: int
    pinned_key: bytes = field(repr=False)
    signature_key: bytes = field(repr=False)
    vouched: bool
    accepted: bool

    @property
    def fingerprint(self) -> str:
        """Of the new key, for people to compare."""
        return fingerprint(self.signature_key)


TrustEvent: TypeAlias = NewDevice | KeyChanged


class PinStatus(IntEnum):
    TRUSTED = 1
    REFUSED = 2


@struct
class PinRecord(Struct):
    """A key that was accepted or refused, and when, in seconds since the Unix epoch."""

    status: Annotated[PinStatus, tls.Enum(PinStatus)]
    signature_key: opaque
    since: uint64


class TrustOnFirstUse(AuthenticationService):
    """Remembers what another service has vouched for.

    Besides the inner service's, all methods raise :class:`StoreError` if the store fails.

    :param inner: the service
    :param store: keeps the pins
    :param new_device: the rule for new devices of known accounts
    :param accept_changed_keys: whether a key that the inner service vouches for takes a pinned one's place
    :param clock: seconds since the Unix epoch
    """

    def __init__(
        self,
        inner: AuthenticationService,
        store: Store,
        *,
        new_device: NewDeviceRule = NewDeviceRule.ACCEPT,
        accept_changed_keys: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.inner = inner
        self._store = store
        self._new_device = new_device
        self._accept_changed_keys = accept_changed_keys
        self._clock = clock
        self._changes: Listeners[str] = Listeners()
        self._events: Listeners[TrustEvent] = Listeners()
        self._reported: Recent[bytes, None] = Recent(MAX_REPORTED)

    # --- services ------------------------------------------------------------------------------

    async def issue(self, client: ClientIdentity, keys: Mapping[int, bytes], *, label: str | None = None) -> None:
        """By the inner service; and whoever else bears our name is found out."""
        with self._store.transaction() as transaction:
            for scheme, key in keys.items():
                self._trust(_Pins(transaction, client, scheme), key)
        await self.inner.issue(client, keys, label=label)

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """See :meth:`AuthenticationService.validate` and the table above."""
        vouched = await self.inner.validate(leaves, suite)
        verdicts: list[Verdict] = []
        events: list[TrustEvent] = []
        with self._store.transaction() as transaction:
            known: dict[str, bool] = {}  # as it was before these leaves
            for leaf, verdict in zip(leaves, vouched, strict=True):
                client = named_client(leaf)
                if isinstance(client, Verdict) or verdict.is_invalid:
                    verdicts.append(client if isinstance(client, Verdict) and not verdict.is_invalid else verdict)
                    continue
                if client.account not in known:
                    known[client.account] = _is_known(transaction, client.account)
                pins = _Pins(transaction, client, suite.signature_scheme)
                judged, event = self._judge(pins, leaf.signature_key, verdict, known[client.account])
                verdicts.append(judged)
                if event is not None:
                    events.append(event)
        for event in events:  # now that what they say is stored
            self._report(event)
        return verdicts

    def _judge(self, pins: _Pins, key: bytes, vouched: Verdict, known: bool) -> tuple[Verdict, TrustEvent | None]:
        record = pins.get(key)
        if record is not None:
            if record.status is PinStatus.TRUSTED:
                return VALID, None
            return Verdict.invalid("refused", f"this key of {pins.client} has been refused"), None
        pinned = pins.trusted()
        if pinned is not None:
            return self._judge_changed(pins, pinned, key, vouched)
        if not vouched.is_valid:
            return vouched, None
        if not known:
            self._trust(pins, key)
            return VALID, None
        return self._judge_new(pins, key)

    def _judge_changed(
        self, pins: _Pins, pinned: bytes, key: bytes, vouched: Verdict
    ) -> tuple[Verdict, TrustEvent | None]:
        if self._accept_changed_keys and not vouched.is_valid:
            return vouched, None  # a pin only gives way to what somebody vouches for
        if self._accept_changed_keys:
            self._trust(pins, key)
            verdict = VALID
        else:
            verdict = Verdict.invalid("key-changed", f"{pins.client} was known with another key")
        return verdict, KeyChanged(pins.client, pins.scheme, pinned, key, vouched.is_valid, verdict.is_valid)

    def _judge_new(self, pins: _Pins, key: bytes) -> tuple[Verdict, TrustEvent | None]:
        match self._new_device:
            case NewDeviceRule.ACCEPT:
                self._trust(pins, key)
                verdict = VALID
            case NewDeviceRule.ASK:
                verdict = Verdict.unknown("undecided", f"{pins.client} is new, nobody has accepted it yet")
            case NewDeviceRule.REFUSE:
                verdict = Verdict.invalid("new-device", f"{pins.client} is new, and no new devices are accepted")
        return verdict, NewDevice(pins.client, pins.scheme, key, verdict.is_valid)

    async def same_client(self, one: AnyCredential, other: AnyCredential) -> bool:
        """By the inner service."""
        return await self.inner.same_client(one, other)

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """The inner service's changes, and decisions."""
        ends = (self.inner.subscribe(changed), self._changes.add(changed))

        def end() -> None:
            for one in ends:
                one()

        return end

    # --- people --------------------------------------------------------------------------------

    def on_event(self, report: Callable[[TrustEvent], None]) -> Callable[[], None]:
        """Have `report` called with each new device and changed key, once while we run.

        :returns: ends it
        """
        return self._events.add(report)

    def decide(self, event: TrustEvent, accept: bool) -> None:
        """A person has looked at an event's key: pin it, in place of any other, or refuse it for good.

        Whether the key is valid remains for the inner service to say.
        """
        with self._store.transaction() as transaction:
            pins = _Pins(transaction, event.client, event.scheme)
            if accept:
                self._trust(pins, event.signature_key)
            else:
                pins.put(event.signature_key, PinStatus.REFUSED, int(self._clock()))
        self._changes.tell(event.client.account)

    def _trust(self, pins: _Pins, key: bytes) -> None:
        pinned = pins.trusted()
        if pinned != key:
            if pinned is not None:
                pins.delete(pinned)
            pins.put(key, PinStatus.TRUSTED, int(self._clock()))

    def _report(self, event: TrustEvent) -> None:
        seen = _prefix(event.client.account, event.client.device) + _suffix(event.scheme, event.signature_key)
        if not event.accepted:  # what was accepted is pinned, and so told once
            if seen in self._reported:
                return
            self._reported[seen] = None
        self._events.tell(event)


class _Pins:
    """The records of one device for one signature scheme."""

    def __init__(self, transaction: Transaction, client: ClientIdentity, scheme: int) -> None:
        self._transaction = transaction
        self.client = client
        self.scheme = scheme
        self._prefix = _prefix(client.account, client.device)

    def _key(self, signature_key: bytes) -> bytes:
        return self._prefix + _suffix(self.scheme, signature_key)

    def get(self, signature_key: bytes) -> PinRecord | None:
        value = self._transaction.get(SPACE, self._key(signature_key))
        return None if value is None else PinRecord.decode(value)

    def trusted(self) -> bytes | None:
        """The pinned key."""
        for _, value in self._transaction.items(SPACE, self._prefix + self.scheme.to_bytes(2, "big")):
            record = PinRecord.decode(value)
            if record.status is PinStatus.TRUSTED:
                return record.signature_key
        return None

    def put(self, signature_key: bytes, status: PinStatus, since: int) -> None:
        self._transaction.put(SPACE, self._key(signature_key), PinRecord(status, signature_key, since).encode())

    def delete(self, signature_key: bytes) -> None:
        self._transaction.delete(SPACE, self._key(signature_key))


def _prefix(account: str, *device: str) -> bytes:
    # NUL is in neither part of a name, so no account's prefix is another one's beginning.
    return b"".join(part.encode() + b"\0" for part in (account, *device))


def _suffix(scheme: int, signature_key: bytes) -> bytes:
    return scheme.to_bytes(2, "big") + key_identifier(signature_key)


def _is_known(transaction: Transaction, account: str) -> bool:
    return any(True for _ in transaction.items(SPACE, _prefix(account)))
