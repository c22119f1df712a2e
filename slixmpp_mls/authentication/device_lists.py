"""The account's own server as Authentication Service: it lists the account's devices and their keys.

A leaf is valid if the PEP node ``urn:xmpp:mls:0:devices`` of its account has an item whose id is the leaf's device id
and which carries the leaf's signature key for the suite's signature scheme.  Only the account can write there, so the
server is trusted to identify the account, and the account to list its devices.  This does not protect against that
server itself: see :mod:`.trust_on_first_use`.

A list is cached for a while (`lifetime`), and dropped when a notification announces a change.  Notifications come from
accounts that share presence with us and may be lost, so:

- a leaf is invalid only if a list says so that was requested after the question: a device that was published a moment
  ago, and is added to a group at once, must not be compared with an older list;
- a retired device of an account that sends no notifications can pass for valid up to `lifetime`.

An account, or its server, decides how often it announces a change, and how long a request takes.  So one request for an
account is under way at a time, whatever is announced meanwhile, and a domain has a part of all requests only: otherwise
questions about everybody else would wait.

An account whose server cannot be reached is ``UNKNOWN``.  One whose server answers that it has no such node, or does
not let us read it, does not vouch for its devices: ``INVALID``.  (Prosody gives strangers the same answer for a closed
node and for a missing one.  This node must be open, so the difference does not matter.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Protocol
from xml.etree.ElementTree import Element

from ..errors import DeliveryError, Disconnected, MalformedError, NoAnswer, NotPermitted, Refused
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.leaf_node import LeafNode
from ..stanza.elements import Device, Key, RetiredDevice
from .callbacks import Listeners, Recent
from .interface import VALID, AuthenticationService, Verdict, named_client

__all__ = ["DeviceListService", "DeviceNode"]

log = logging.getLogger(__name__)

MAX_ACCOUNTS = 2000  # whose devices are kept
MAX_DOMAINS = 1000  # whose silence is remembered
PARALLEL = 16  # requests under way at once
OF_ONE_DOMAIN = 8  # of them
PATIENCE = 15.0  # seconds until a server that does not answer counts as unreachable
SILENCE = 30.0  # seconds for which a domain that did not answer is not asked again
_NO_SERVER = frozenset({"remote-server-not-found", "remote-server-timeout"})


class DeviceNode(Protocol):
    """The methods of :class:`~slixmpp_mls.delivery.devices.DeviceDirectory` that we call."""

    async def publish(self, item_id: str, element: Element) -> None: ...

    async def retract(self, item_id: str) -> bool: ...

    async def items(self, account: str | None = None) -> dict[str, Element]: ...

    async def reaches(self, domain: str) -> bool: ...

    def watch(self, changed: Callable[[str], None]) -> None: ...

    def unwatch(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Listing:
    """An account's devices.

    :ivar retired: ids of retired devices, which never come back
    :ivar order: place of the request among all questions and requests
    :ivar read: when the answer came
    """

    devices: Mapping[str, Device]
    retired: frozenset[str]
    order: int
    read: float


@dataclass(slots=True)
class _Reading:
    """A request for a listing, under way.

    :ivar outdated: whether the account has announced a change meanwhile, which the answer may lack
    """

    order: int
    task: asyncio.Task[_Listing]
    outdated: bool = False


@dataclass(slots=True)
class _DomainSlots:
    """Limits the requests to one domain."""

    free: asyncio.Semaphore
    users: int = 0


class DeviceListService(AuthenticationService):
    """Leaves are valid if their account lists them.

    :param node: our connection to the accounts' nodes
    :param lifetime: seconds for which an account's list is believed
    :param patience: seconds until a server that does not answer counts as unreachable; :data:`PATIENCE` if not given
    :param clock: seconds since the Unix epoch
    """

    def __init__(
        self,
        node: DeviceNode,
        *,
        lifetime: float = 600.0,
        patience: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._lifetime = lifetime
        self._patience = PATIENCE if patience is None else patience
        self._clock = clock
        self._order = count(1)
        self._listings: Recent[str, _Listing] = Recent(MAX_ACCOUNTS)
        self._readings: dict[str, _Reading] = {}
        self._tasks: set[asyncio.Task[_Listing]] = set()
        self._slots = asyncio.Semaphore(PARALLEL)
        self._of_domain: dict[str, _DomainSlots] = {}  # those with a request under way
        self._silent: Recent[str, float] = Recent(MAX_DOMAINS)  # since when
        self._listeners: Listeners[str] = Listeners()

    def start(self) -> None:
        """Follow the notifications.  To be called before presence is sent: see ``DeviceDirectory.watch``."""
        self._node.watch(self._changed)

    def close(self) -> None:
        """Stop following, and give up what is under way: it becomes ``UNKNOWN``."""
        self._node.unwatch()
        for task in self._tasks:
            task.cancel()
        self._readings.clear()
        self._listings.clear()

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """See :meth:`AuthenticationService.subscribe`.  Needs :meth:`start`."""
        return self._listeners.add(changed)

    def _changed(self, account: str) -> None:
        self._outdate(account)
        self._silent.pop(account.partition("@")[2], None)
        self._listeners.tell(account)

    def _outdate(self, account: str) -> None:
        self._listings.pop(account, None)
        if account in self._readings:
            self._readings[account].outdated = True

    # --- our own devices -----------------------------------------------------------------------

    async def issue(
        self,
        client: ClientIdentity,
        keys: Mapping[int, bytes],
        *,
        label: str | None = None,
        also: Mapping[int, bytes] | None = None,
    ) -> None:
        """List our device.  Does nothing if it is there already; otherwise keeps what is there beside the keys."""
        there = (await self._listing(client.account, next(self._order))).devices.get(client.device)
        device = Device(
            client.device,
            tuple(Key(scheme, key) for found in (keys, also or {}) for scheme, key in sorted(found.items())),
            label if label is not None or there is None else there.label,
            there.added if there is not None and there.added else datetime.fromtimestamp(int(self._clock()), UTC),
            () if there is None else there.vouchers,  # of other devices, for a key that it perhaps still has
            () if there is None else there.key_packages,
        )
        if there is not None and not {*there.keys} & {*device.keys}:
            log.warning("the keys listed for %s are not ours and are replaced", client)
        if device != there:
            await self._node.publish(device.id, device.to_stdlib())
            self._outdate(client.account)

    # --- everybody's ---------------------------------------------------------------------------

    async def devices(self, account: str) -> Mapping[str, Device]:
        """An account's devices by id, as its server lists them; items that are no devices are left out.

        :param account: bare JID
        :raises DeliveryError: they could not be read
        """
        return (await self._listing(account)).devices

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """See :meth:`AuthenticationService.validate`.  One request for each account, some at a time."""
        asked = next(self._order)
        verdicts: dict[int, Verdict] = {}
        claims: dict[str, dict[int, _Claim]] = {}
        for number, leaf in enumerate(leaves):
            client = named_client(leaf)
            if isinstance(client, Verdict):
                verdicts[number] = client
            else:
                claim = _Claim(client, suite.signature_scheme, leaf.signature_key)
                claims.setdefault(client.account, {})[number] = claim
        for judged in await asyncio.gather(*(self._judge(*item, asked) for item in claims.items())):
            verdicts |= judged
        return [verdicts[number] for number in range(len(leaves))]

    async def _judge(self, account: str, claims: Mapping[int, _Claim], asked: int) -> dict[int, Verdict]:
        verdicts: dict[int, Verdict] = {}
        try:
            listing = await self._listing(account)
            verdicts = {number: claim.verdict(listing) for number, claim in claims.items()}
            if listing.order < asked and not all(verdict.is_valid for verdict in verdicts.values()):
                listing = await self._listing(account, asked)
                verdicts = {number: claim.verdict(listing) for number, claim in claims.items()}
        except DeliveryError as error:
            failure = _failure(account, error)
            # A device on an older list is still valid; a missing device may have been listed since.
            return {
                number: verdicts[number] if number in verdicts and verdicts[number].is_valid else failure
                for number in claims
            }
        return verdicts

    async def _listing(self, account: str, after: int = 0) -> _Listing:
        """The account's devices, by a request no older than `after`.

        :raises DeliveryError: they could not be read
        """
        while True:
            kept = self._listings.get(account)
            # A clock that was set back must not prolong a list's lifetime.
            if kept is not None and kept.order > after and 0 <= self._clock() - kept.read < self._lifetime:
                return kept
            reading = self._readings.get(account)
            if reading is None:
                order = next(self._order)
                reading = _Reading(order, asyncio.create_task(self._read(account, order)))
                self._readings[account] = reading
                self._tasks.add(reading.task)
                reading.task.add_done_callback(self._ended)
            elif reading.outdated:
                after = max(after, reading.order)  # the change is older than our question
            # Unlike awaiting the task, waiting for it leaves it to the others who wait if we are cancelled.
            await asyncio.wait([reading.task])
            if reading.task.cancelled():
                raise Disconnected("the service was closed before the answer came")
            if reading.order > after:
                return reading.task.result()
            # It was older than the question.  Only one request for an account is under way at a time.

    def _ended(self, task: asyncio.Task[_Listing]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio complains of exceptions that nobody has seen, if all who waited were cancelled

    async def _read(self, account: str, order: int) -> _Listing:
        domain = account.partition("@")[2]
        of_domain = self._of_domain.setdefault(domain, _DomainSlots(asyncio.Semaphore(OF_ONE_DOMAIN)))
        of_domain.users += 1
        try:
            async with of_domain.free, self._slots:
                # One request detects that a server is dead; the others need not wait for it.
                if 0 <= self._clock() - self._silent.get(domain, -SILENCE) < SILENCE:
                    raise NoAnswer(f"{domain} did not answer a moment ago")
                items = await self._request(account, domain)
            listing = _Listing(_devices(account, items), _retired(items), order, self._clock())
            reading = self._readings.get(account)
            if reading is not None and not reading.outdated:
                self._listings[account] = listing
            return listing
        finally:
            self._readings.pop(account, None)
            of_domain.users -= 1
            if not of_domain.users:
                self._of_domain.pop(domain, None)

    async def _request(self, account: str, domain: str) -> dict[str, Element]:
        try:
            async with asyncio.timeout(self._patience):
                try:
                    return await self._node.items(account)
                except NotPermitted as error:
                    if await self._node.reaches(domain):
                        raise
                    raise Refused(domain, "remote-server-not-found", str(error)) from None
        except TimeoutError:
            self._silent[domain] = self._clock()
            raise NoAnswer(f"{account} did not answer") from None
        except DeliveryError as error:
            if isinstance(error, NoAnswer) or (isinstance(error, Refused) and error.condition in _NO_SERVER):
                self._silent[domain] = self._clock()
            raise


@dataclass(frozen=True, slots=True)
class _Claim:
    """The claim of a leaf: this key, for this signature scheme, belongs to this client."""

    client: ClientIdentity
    scheme: int
    key: bytes

    def verdict(self, listing: _Listing) -> Verdict:
        device = listing.devices.get(self.client.device)
        if self.client.device in listing.retired:
            return Verdict.invalid("retired", f"{self.client.account} has retired its device {self.client.device}")
        if device is None:
            return Verdict.invalid("no-device", f"{self.client.account} lists no device {self.client.device}")
        if not any(key.scheme == self.scheme and key.data == self.key for key in device.keys):
            return Verdict.invalid("other-key", f"{self.client} is listed, but not with this key")
        return VALID


def _devices(account: str, items: Mapping[str, Element]) -> dict[str, Device]:
    devices: dict[str, Device] = {}
    for item_id, element in items.items():
        # Other software of the account may publish there too: an item that is no device hides no other.
        try:
            device = Device.from_xml(element)
        except MalformedError as error:
            log.debug("an item of the devices of %s is ignored: %s", account, error)
            continue
        if device.id == item_id:
            devices[item_id] = device
        else:
            log.debug("an item of the devices of %s is ignored: its id is not the device's", account)
    return devices


def _retired(items: Mapping[str, Element]) -> frozenset[str]:
    found: set[str] = set()
    for item_id, element in items.items():
        with suppress(MalformedError):
            if RetiredDevice.from_xml(element).id == item_id:
                found.add(item_id)
    return frozenset(found)


def _failure(account: str, error: DeliveryError) -> Verdict:
    if isinstance(error, NotPermitted):
        return Verdict.invalid("not-readable", f"{account} does not show its devices: {error}")
    return Verdict.unknown("unreachable", f"the devices of {account} cannot be read: {error}")
