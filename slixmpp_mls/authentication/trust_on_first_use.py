"""Trust on first use: a key that an inner service vouched for is remembered, and not silently replaced.

An account's server can list what it likes.  Keys seen once are therefore pinned, so that its later lies come to
light.  A key is pinned if it is trusted or verified in the :mod:`.trust_table`:

==========================  =========================  ==============================================
the leaf                    the inner service says     verdict
==========================  =========================  ==============================================
any                         ``INVALID``                that (a retired device stays out)
key pinned                  ``VALID``, ``UNKNOWN``     ``VALID``
key distrusted              ``VALID``, ``UNKNOWN``     ``INVALID`` (``refused``)
key of another device       ``VALID``, ``UNKNOWN``     ``INVALID`` (``other-device``)
another key is pinned       ``VALID``                  ``INVALID`` (``key-changed``), unless
                                                       `accept_changed_keys`; :class:`KeyChanged`
another key is pinned       ``UNKNOWN``                ``INVALID`` (``key-changed``), or ``UNKNOWN`` if
                                                       `accept_changed_keys`
another key is verified     ``VALID``, ``UNKNOWN``     ``INVALID`` (``key-changed``); :class:`KeyChanged`
nothing pinned, account     ``VALID``                  ``VALID``, and the key becomes trusted
unknown until now
nothing pinned, account     ``VALID``                  by the rule for new devices; :class:`NewDevice`
known
nothing pinned              ``UNKNOWN``                ``UNKNOWN``
==========================  =========================  ==============================================

An account is known when any key of any of its devices is more than undecided.  A device has a key for each signature
scheme; its first key for another scheme counts as a new device, since a server that can forge one can forge the other.
All leaves of one :meth:`TrustOnFirstUse.validate` count as one first contact with an account: a client that joins a
group pins all devices of its members.

A key that its own holder has replaced takes its pin along: see "Succession" in :mod:`.trust_table`.

A person's decision about an event (:meth:`TrustOnFirstUse.decide`) is final until the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from ..identity import ClientIdentity, TrustLevel, fingerprint, key_identifier
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.leaf_node import LeafNode
from .callbacks import Listeners, Recent
from .interface import VALID, AuthenticationService, Verdict, named_client
from .key_recording import KeyRecordingService
from .trust_table import Keys, KnownKey, Source, TrustTable

__all__ = ["KeyChanged", "NewDevice", "NewDeviceRule", "TrustEvent", "TrustOnFirstUse"]

MAX_REPORTED = 10_000  # events not to be repeated

_PINNED = (TrustLevel.TRUSTED, TrustLevel.VERIFIED)


class NewDeviceRule(Enum):
    """The rule for a new device of a known account, if the inner service vouches for it."""

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
    """A device appears with a key other than the pinned one.

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


class TrustOnFirstUse(KeyRecordingService):
    """Remembers the keys that another service has vouched for.

    Besides the inner service's, all methods raise :class:`StoreError` if the store fails.

    :param inner: the service
    :param table: keeps the pins
    :param new_device: the rule for new devices of known accounts
    :param accept_changed_keys: whether a key that the inner service vouches for takes a pinned one's place
    """

    def __init__(
        self,
        inner: AuthenticationService,
        table: TrustTable,
        *,
        new_device: NewDeviceRule = NewDeviceRule.ACCEPT,
        accept_changed_keys: bool = False,
    ) -> None:
        super().__init__(inner, table)
        self._new_device = new_device
        self._accept_changed_keys = accept_changed_keys
        self._events: Listeners[TrustEvent] = Listeners()
        self._reported: Recent[bytes, None] = Recent(MAX_REPORTED)

    # --- services ------------------------------------------------------------------------------

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """See :meth:`AuthenticationService.validate` and the table above."""
        vouched = await self.inner.validate(leaves, suite)
        verdicts: list[Verdict] = []
        events: list[TrustEvent] = []
        with self._table.open() as keys:
            known: dict[str, bool] = {}  # as it was before these leaves
            for leaf, verdict in zip(leaves, vouched, strict=True):
                client = named_client(leaf)
                if isinstance(client, Verdict) or verdict.is_invalid:
                    verdicts.append(client if isinstance(client, Verdict) and not verdict.is_invalid else verdict)
                    continue
                if client.account not in known:
                    known[client.account] = any(key.level for key in keys.of(client.account))
                pins = _Pins(keys, client, suite.signature_scheme)
                judged, event = self._judge(pins, leaf.signature_key, verdict, known[client.account])
                verdicts.append(judged)
                if event is not None:
                    events.append(event)
        for event in events:  # now that what they say is stored
            self._report(event)
        return verdicts

    def _judge(self, pins: _Pins, key: bytes, vouched: Verdict, known: bool) -> tuple[Verdict, TrustEvent | None]:
        known_key = pins.get(key)
        if known_key.level is TrustLevel.DISTRUSTED:
            return Verdict.invalid("refused", f"this key of {pins.client} has been refused"), None
        if known_key.is_anothers(pins.client):
            return Verdict.invalid("other-device", f"the key of {pins.client} is that of another device"), None
        if known_key.level in _PINNED:
            return VALID, None
        pinned = pins.pinned()
        if pinned is not None:
            return self._judge_changed(pins, pinned, key, vouched)
        if not vouched.is_valid:
            return vouched, None
        if not known:
            pins.trust(key, Source.FIRST_USE)
            return VALID, None
        return self._judge_new(pins, key)

    def _judge_changed(
        self, pins: _Pins, pinned: KnownKey, key: bytes, vouched: Verdict
    ) -> tuple[Verdict, TrustEvent | None]:
        may_change = self._accept_changed_keys and pinned.level is not TrustLevel.VERIFIED
        if may_change and not vouched.is_valid:
            return vouched, None  # a pin gives way only to a key that the inner service vouches for
        if may_change:
            pins.trust(key, Source.FIRST_USE)
            verdict = VALID
        else:
            verdict = Verdict.invalid("key-changed", f"{pins.client} was known with another key")
        event = KeyChanged(pins.client, pins.scheme, pinned.signature_key, key, vouched.is_valid, verdict.is_valid)
        return verdict, event

    def _judge_new(self, pins: _Pins, key: bytes) -> tuple[Verdict, TrustEvent | None]:
        match self._new_device:
            case NewDeviceRule.ACCEPT:
                pins.trust(key, Source.FIRST_USE)
                verdict = VALID
            case NewDeviceRule.ASK:
                verdict = Verdict.unknown("undecided", f"{pins.client} is new, nobody has accepted it yet")
            case NewDeviceRule.REFUSE:
                verdict = Verdict.invalid("new-device", f"{pins.client} is new, and no new devices are accepted")
        return verdict, NewDevice(pins.client, pins.scheme, key, verdict.is_valid)

    # --- people --------------------------------------------------------------------------------

    def on_event(self, report: Callable[[TrustEvent], None]) -> Callable[[], None]:
        """Call `report` with each new device and changed key, once per run of the program.

        :returns: ends it
        """
        return self._events.add(report)

    def decide(self, event: TrustEvent, accept: bool) -> None:
        """A person has looked at an event's key: pin it, in place of any other, or refuse it for good.

        The inner service still decides whether the key is valid.
        """
        with self._table.open() as keys:
            pins = _Pins(keys, event.client, event.scheme)
            if accept:
                pins.trust(event.signature_key, Source.PERSON)
            else:
                pins.put(event.signature_key, TrustLevel.DISTRUSTED, Source.PERSON)
        self._changes.tell(event.client.account)

    def _report(self, event: TrustEvent) -> None:
        client = event.client
        seen = f"{client} {event.scheme} ".encode() + key_identifier(event.signature_key)
        if not event.accepted:  # an accepted key is pinned, and so reported once
            if seen in self._reported:
                return
            self._reported[seen] = None
        self._events.tell(event)


class _Pins:
    """The records of one device for one signature scheme."""

    def __init__(self, keys: Keys, client: ClientIdentity, scheme: int) -> None:
        self._keys = keys
        self.client = client
        self.scheme = scheme

    def get(self, signature_key: bytes) -> KnownKey:
        return self._keys.get(self.client.account, key_identifier(signature_key))

    def _pinned(self) -> list[KnownKey]:
        there = self._keys.of(self.client.account)
        return [key for key in there if key.level in _PINNED and key.belongs_to(self.client, self.scheme)]

    def pinned(self) -> KnownKey | None:
        """The key that the device should have; if there are several, the one of the highest level."""
        return max(self._pinned(), key=lambda key: (key.level, key.source is not Source.REPLACED), default=None)

    def put(self, signature_key: bytes, level: TrustLevel, source: Source) -> None:
        self._keys.put(replace(
            self.get(signature_key), level=level, source=source, since=self._keys.now, by=None,
            device=self.client.device, scheme=self.scheme, signature_key=signature_key,
        ))  # fmt: skip

    def trust(self, signature_key: bytes, source: Source) -> None:
        """Pin a key in place of any other that has not been verified."""
        for key in self._pinned():
            if key.level is TrustLevel.TRUSTED and key.signature_key != signature_key:
                self._keys.delete(key)
        self.put(signature_key, TrustLevel.TRUSTED, source)
