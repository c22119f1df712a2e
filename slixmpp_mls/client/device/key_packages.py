"""Manages our KeyPackages with their private keys, and verifies KeyPackages of others (RFC 9420 10).

The private keys of a KeyPackage are stored before it is published and deleted after it is used (RFC 9420 16.8).  A
KeyPackage of last resort may be used more than once, so its keys are kept for a while after its first use.  The keys of
others are kept for a day (:attr:`KeyPackageSettings.spent`): two clients that invite us at the same time may have
picked the same one, and we could not open the second Welcome.

The return key of a used KeyPackage's leaf is kept longer (:meth:`OwnKeyPackages.spent_return_keys`).  Somebody may put
the leaf into another group by a Welcome that we cannot open.  The key proves that the leaf is ours, and opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import InvalidError, MalformedError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite, Random, SignaturePrivateKey
from ...mls.parameters import DAY, HOUR, Parameters
from ...mls.registry import GREASE
from ...mls.structures.framing import MLSMessage
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.leaf_node import Capabilities, KeyPackageSource, Lifetime
from ...mls.tree.leaf_creation import Completion, KeyPackageBundle, OwnLeaf, create_key_package
from ...mls.tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage
from ...policy import DeviceVouchers, derive_return_key, refuse_leaf_of_0_1
from ...stanza.code_points import REMOVED_CLIENTS
from ...store.interface import Store, Transaction
from ..storage.records import (
    KEY_PACKAGE_ITEMS,
    KEY_PACKAGES,
    OUTSIDE,
    ROOMS,
    SPENT,
    KeyPackageRecord,
    OutsideRecord,
    Spaces,
    SpentRecord,
    room_of,
)

__all__ = ["KeyPackagePlan", "KeyPackageSettings", "OwnKeyPackages", "PublishedKeyPackage", "open_key_package"]

_UNUSED, _USED, _OUTSIDE_LIFETIME, _SPENT, _REQUESTED, _WITHDRAWN = range(6)  # KeyPackageRecord.used
_MOST = {_SPENT: 64, _WITHDRAWN: 512}  # whose private keys are kept; the oldest go first
_MAX_NOTED = 1024  # of which we remember that they were used
_NOTED_FOR = 30 * DAY  # after the end of the lifetime: we may have been away when a leaf of it came into a group


@dataclass(frozen=True, slots=True)
class KeyPackageSettings:
    """The number and the lifetime of KeyPackages that are kept ready (RFC 9750 7).

    :ivar suites: cipher suites, the preferred one first
    :ivar count: ordinary KeyPackages per suite, in addition to one of last resort
    :ivar lifetime: seconds from generation to expiry
    :ivar renewal: seconds before expiry at which a KeyPackage is replaced
    :ivar grace: seconds for which one of last resort is kept after its first use, for Welcomes in transit
    :ivar spent: the same for an ordinary one; 0: its keys are deleted at once
    """

    suites: tuple[int, ...] = (1,)
    count: int = 50
    lifetime: int = 28 * DAY
    renewal: int = 7 * DAY
    grace: int = 7 * DAY
    spent: int = DAY


@dataclass(frozen=True, slots=True)
class PublishedKeyPackage:
    """A KeyPackage as it is published in the directory."""

    reference: bytes
    suite: int
    message: bytes
    last_resort: bool


@dataclass(frozen=True, slots=True)
class KeyPackagePlan:
    """The changes that bring the directory up to date.

    :ivar publish: KeyPackages that the directory lacks
    :ivar retract: KeyPackageRefs that the directory should not contain
    """

    publish: tuple[PublishedKeyPackage, ...]
    retract: tuple[bytes, ...]


class OwnKeyPackages:
    """The KeyPackages of a device, in its store.

    :ivar settings: their number and lifetime
    """

    def __init__(
        self,
        store: Store,
        settings: KeyPackageSettings,
        parameters: Parameters,
        own_leaf: Callable[[CipherSuite], OwnLeaf],
        is_vouched_for: Callable[[CipherSuite], bool],
        random: Random,
    ) -> None:
        """
        :param own_leaf: returns the present keys, credential, capabilities and proofs of the leaves of our KeyPackages
            for a cipher suite
        :param is_vouched_for: whether these proofs include our own vouchers
        """
        self.settings = settings
        self._store = store
        self._parameters = parameters
        self._own_leaf = own_leaf
        self._is_vouched_for = is_vouched_for
        self._random = random

    def make(
        self, suite: CipherSuite, now: int, *, last_resort: bool = False, complete: Completion | None = None
    ) -> KeyPackageBundle:
        """Make a new KeyPackage without storing it.

        :param complete: completes the leaf's extensions; by default the leaf gets a return key, and our own vouchers
        """
        lifetime = Lifetime(max(0, now - HOUR), now + self.settings.lifetime)  # tolerates clocks that are an hour slow
        own = self._own_leaf(suite)
        if complete is not None:
            own = replace(own, complete=complete)
        return create_key_package(suite, own, lifetime, last_resort=last_resort, random=self._random)

    def plan(self, present: Iterable[bytes], now: int, count: int | None = None) -> KeyPackagePlan:
        """Make the KeyPackages that the directory lacks, forget the expired ones, and return what is to be changed.

        A KeyPackage is replaced before it expires, after it has been used, and when its signature key, credential or
        capabilities differ from our present ones, or it lacks our own vouchers.  The private keys of a KeyPackage
        outside its lifetime are kept for a day.  A clock that is wrong for less than a day therefore destroys nothing:
        once it is corrected, the old KeyPackages are offered again.

        :param present: KeyPackageRefs that the directory has of this device
        :param now: seconds since the Unix epoch
        :param count: maximum number of ordinary KeyPackages per suite, if fewer fit than the settings say
        """
        there = set(present)
        count = self.settings.count if count is None else min(count, self.settings.count)
        wanted_leaves = {number: self._own_leaf(CipherSuite.get(number)) for number in self.settings.suites}
        with self._store.transaction() as transaction:
            publish: list[PublishedKeyPackage] = []
            usable: dict[tuple[int, bool], int] = {}
            known: set[bytes] = set()
            for reference, record in self._unreadable(transaction):
                if now > record.delete_after:
                    transaction.delete(KEY_PACKAGES, reference)
            records = sorted(self._records(transaction), key=lambda found: found[0] not in there)
            for reference, record, bundle in records:
                suite, last_resort = bundle.key_package.cipher_suite, bundle.last_resort
                lifetime = _lifetime(bundle)
                begun = lifetime.not_before - self._parameters.clock_tolerance <= now
                current = (
                    record.used in (_UNUSED, _OUTSIDE_LIFETIME)
                    and begun
                    and now < lifetime.not_after - self.settings.renewal
                    and suite in self.settings.suites
                    and _is_made_of(bundle, wanted_leaves[suite])
                    and _has_vouchers(bundle) == self._is_vouched_for(CipherSuite.get(suite))
                )
                if current:
                    if record.used == _OUTSIDE_LIFETIME:
                        transaction.put(KEY_PACKAGES, reference, self._record(bundle).encode())
                    enough = 1 if last_resort else count
                    if usable.get((suite, last_resort), 0) == enough:
                        continue  # made while the clock was wrong, or when a larger number was configured
                    known.add(reference)
                    usable[suite, last_resort] = usable.get((suite, last_resort), 0) + 1
                    if reference not in there:
                        publish.append(_published(bundle, reference))
                elif record.used == _UNUSED and (now > record.delete_after or not begun):
                    outside = KeyPackageRecord(record.bundle, now + DAY, _OUTSIDE_LIFETIME)
                    transaction.put(KEY_PACKAGES, reference, outside.encode())
                elif record.used == _REQUESTED:
                    continue  # see forget_spent
                elif now > record.delete_after:
                    transaction.delete(KEY_PACKAGES, reference)
                elif record.used != _UNUSED and record.delete_after - now > self._wait(record):
                    sooner = replace(record, delete_after=now + self._wait(record))  # the clock has been set back
                    transaction.put(KEY_PACKAGES, reference, sooner.encode())
            for number in self.settings.suites:
                suite_object = CipherSuite.get(number)
                for last_resort, wanted in ((False, count), (True, 1)):
                    for _ in range(wanted - usable.get((number, last_resort), 0)):
                        bundle = self.make(suite_object, now, last_resort=last_resort)
                        reference = bundle.reference
                        known.add(reference)
                        transaction.put(KEY_PACKAGES, reference, self._record(bundle).encode())
                        publish.append(_published(bundle, reference))
        return KeyPackagePlan(tuple(publish), tuple(there - known))

    def items(self) -> dict[str, bytes]:
        """The KeyPackageRefs of what we have published, by the ids of the items.

        :raises StoreError: the store failed
        """
        with self._store.transaction() as transaction:
            return {key.decode(): value for key, value in transaction.items(KEY_PACKAGE_ITEMS)}

    def note_items(self, published: Mapping[str, bytes], gone: Iterable[str] = ()) -> None:
        """Note changes of :meth:`items`.

        :param published: KeyPackageRefs by the ids of their items
        :param gone: ids of items that are not, or perhaps not, what they were
        :raises StoreError: nothing has changed
        """
        with self._store.transaction() as transaction:
            for item_id in gone:
                transaction.delete(KEY_PACKAGE_ITEMS, item_id.encode())
            for item_id, reference in published.items():
                transaction.put(KEY_PACKAGE_ITEMS, item_id.encode(), reference)

    def _wait(self, record: KeyPackageRecord) -> int:
        """Seconds for which the keys of a KeyPackage that is no longer offered are kept."""
        if record.used == _USED:
            return self.settings.grace
        return max(DAY, self.settings.spent) if record.used in _MOST else DAY

    def _records(self, transaction: Transaction) -> Iterator[tuple[bytes, KeyPackageRecord, KeyPackageBundle]]:
        """Those of cipher suites that are supported."""
        for reference, value in list(transaction.items(KEY_PACKAGES)):
            record = KeyPackageRecord.decode(value)
            if KeyPackageBundle.is_supported(record.bundle):
                yield reference, record, KeyPackageBundle.decode(record.bundle)

    def _unreadable(self, transaction: Transaction) -> Iterator[tuple[bytes, KeyPackageRecord]]:
        """Those of other cipher suites: another OpenSSL was beneath when they were made, and may be again."""
        for reference, value in list(transaction.items(KEY_PACKAGES)):
            record = KeyPackageRecord.decode(value)
            if not KeyPackageBundle.is_supported(record.bundle):
                yield reference, record

    def find(self, transaction: Transaction, references: Sequence[bytes]) -> KeyPackageBundle | None:
        """The first KeyPackage of ours among these, with its private keys; None if none is ours.

        Those of cipher suites that OpenSSL lacks are passed over.
        """
        for reference in references:
            value = transaction.get(KEY_PACKAGES, reference)
            if value is not None and KeyPackageBundle.is_supported(octets := KeyPackageRecord.decode(value).bundle):
                return KeyPackageBundle.decode(octets)
        return None

    def made_with(self, transaction: Transaction, encryption_key: bytes) -> KeyPackageBundle | None:
        """The KeyPackage of ours whose leaf has this encryption key; None if there is none.

        The cost is proportional to the number of our KeyPackages.
        """
        bundles = (bundle for _, _, bundle in self._records(transaction))
        return next((each for each in bundles if each.key_package.leaf_node.encryption_key == encryption_key), None)

    def use_up(self, transaction: Transaction, bundle: KeyPackageBundle, now: int) -> None:
        """Offer a KeyPackage no more that has been used to add us, and fix when its private keys go (RFC 9420 16.8)."""
        used = _USED if bundle.last_resort else _SPENT
        self._end(transaction, bundle, used, now)
        self._limit(transaction, used)

    def _end(self, transaction: Transaction, bundle: KeyPackageBundle, used: int, now: int) -> None:
        self._note_spent(transaction, bundle)
        kept = self.settings.grace if used == _USED else self.settings.spent
        if not kept:
            transaction.delete(KEY_PACKAGES, bundle.reference)
            return
        before = transaction.get(KEY_PACKAGES, bundle.reference)
        if before is not None and KeyPackageRecord.decode(before).used in (used, _WITHDRAWN):
            return  # it was used before: its time does not begin anew
        until = min(_lifetime(bundle).not_after, now + kept)
        transaction.put(KEY_PACKAGES, bundle.reference, KeyPackageRecord(bundle.encode(), until, used).encode())

    @staticmethod
    def _limit(transaction: Transaction, used: int) -> None:
        if used in _MOST:
            records = ((name, KeyPackageRecord.decode(value)) for name, value in transaction.items(KEY_PACKAGES))
            ended = sorted((each.delete_after, name) for name, each in records if each.used == used)
            for _, reference in ended[: -_MOST[used]]:
                transaction.delete(KEY_PACKAGES, reference)

    def _note_spent(self, transaction: Transaction, bundle: KeyPackageBundle) -> None:
        noted = sorted((value, reference) for reference, value in transaction.items(SPENT))
        for _, reference in noted[: max(0, len(noted) + 1 - _MAX_NOTED)]:
            transaction.delete(SPENT, reference)
        key = derive_return_key(bundle.suite, bundle.leaf_key)
        record = SpentRecord(_lifetime(bundle).not_after, bundle.suite.id, key.encode())
        transaction.put(SPENT, bundle.reference, record.encode())

    def is_ours(self, transaction: Transaction, references: Sequence[bytes]) -> bool:
        """Whether one of these is a KeyPackage of ours, used or not; its private keys may be gone."""
        there = any(transaction.get(KEY_PACKAGES, reference) is not None for reference in references)
        return there or self.is_spent(transaction, references)

    def is_spent(self, transaction: Transaction, references: Sequence[bytes]) -> bool:
        """Whether one of these is a KeyPackage of ours that was used before; its private keys may be gone."""
        return any(transaction.get(SPENT, reference) is not None for reference in references)

    def spent_return_keys(
        self, transaction: Transaction, references: Sequence[bytes]
    ) -> Iterator[tuple[CipherSuite, SignaturePrivateKey]]:
        """The return keys of KeyPackages of ours among these that were used before, and their cipher suites.

        Those are missing that were used before version 0.2, or whose suite OpenSSL lacks.
        """
        for reference in references:
            value = transaction.get(SPENT, reference)
            record = None if value is None else SpentRecord.read(value)
            if record is not None and record.return_key and CipherSuite.is_supported(record.suite):
                suite = CipherSuite.get(record.suite)
                yield suite, suite.import_signature_key(record.return_key)

    def forget_spent(self, now: int) -> None:
        """Delete the private keys of used KeyPackages whose time is over, whether the directory can be reached or not.

        Those of requests are kept for another day when their room waits for no answer any more, when they seem to
        expire, or if the clock was ahead when they were made.  A clock that is wrong for less than a day destroys
        nothing.

        :param now: seconds since the Unix epoch
        :raises StoreError: nothing has changed
        """
        with self._store.transaction() as transaction:
            waiting = _in_requests(transaction)
            for reference, value in list(transaction.items(KEY_PACKAGES)):
                record = KeyPackageRecord.decode(value)
                if record.used in (_USED, *_MOST) and now > record.delete_after:
                    transaction.delete(KEY_PACKAGES, reference)
                elif record.used == _REQUESTED:
                    bundle = self.find(transaction, (reference,))
                    early = bundle is not None and now < _lifetime(bundle).not_before - self._parameters.clock_tolerance
                    ended = waiting is not None and reference not in waiting
                    if early or ended or now > record.delete_after:
                        if bundle is not None:
                            self._note_spent(transaction, bundle)
                        withdrawn = replace(record, delete_after=now + DAY, used=_WITHDRAWN)
                        transaction.put(KEY_PACKAGES, reference, withdrawn.encode())
            self._limit(transaction, _WITHDRAWN)
            for reference, value in list(transaction.items(SPENT)):
                if now > SpentRecord.read(value).until + _NOTED_FOR:
                    transaction.delete(SPENT, reference)

    def forget_all(self) -> None:
        """Delete all our KeyPackages, so that nobody can add us any more.

        :raises StoreError: nothing has changed
        """
        with self._store.transaction() as transaction:
            transaction.delete_prefix(KEY_PACKAGES)
            transaction.delete_prefix(SPENT)

    def forget_others(self, transaction: Transaction, present: Collection[bytes]) -> None:
        """Delete KeyPackages that were made with other signature keys than the present ones.

        :param present: our present public signature keys
        """
        for reference, _, bundle in self._records(transaction):
            if bundle.signature_key.public not in present:
                transaction.delete(KEY_PACKAGES, reference)

    def keep_unpublished(self, transaction: Transaction, bundle: KeyPackageBundle) -> None:
        """Store a KeyPackage that reaches a group by another way than the directory: in a request to be added."""
        transaction.put(KEY_PACKAGES, bundle.reference, replace(self._record(bundle), used=_REQUESTED).encode())

    def withdraw(self, transaction: Transaction, references: Iterable[bytes], now: int) -> None:
        """Keep KeyPackages of requests that have ended as if they had been used.

        The room may answer such a request even so: it may have crossed with our addition, or its stanza is posted once
        more.  A Welcome for it must not find a client that takes itself for removed.
        """
        for reference in references:
            bundle = self.find(transaction, (reference,))
            if bundle is not None:
                self._end(transaction, bundle, _WITHDRAWN, now)
        self._limit(transaction, _WITHDRAWN)

    def _record(self, bundle: KeyPackageBundle) -> KeyPackageRecord:
        until = _lifetime(bundle).not_after + self._parameters.clock_tolerance
        return KeyPackageRecord(bundle.encode(), until, _UNUSED)


def _in_requests(transaction: Transaction) -> set[bytes] | None:
    """The KeyPackageRefs in requests to be added to which a room of ours may get an answer.

    None if a room cannot be read: another version may have written it.
    """
    waiting: set[bytes] = set()
    for key, _ in transaction.items(ROOMS):
        if (room := room_of(key)) is None:
            continue  # nobody can have been asked there
        value = transaction.get(Spaces.of(room).outside, OUTSIDE)
        try:
            waiting.update(ask.reference for ask in OutsideRecord.decode(value or OutsideRecord().encode()).asks)
        except MalformedError:
            return None
    return waiting


def _lifetime(bundle: KeyPackageBundle) -> Lifetime:
    source = bundle.key_package.leaf_node.source
    assert isinstance(source, KeyPackageSource)
    return source.lifetime


def _is_made_of(bundle: KeyPackageBundle, own: OwnLeaf) -> bool:
    """Whether a KeyPackage describes us as a new one would."""
    leaf = bundle.key_package.leaf_node
    return (leaf.signature_key, leaf.credential, _without_grease(leaf.capabilities)) == (
        own.signature_key.public,
        own.credential,
        _without_grease(own.capabilities),
    )


def _has_vouchers(bundle: KeyPackageBundle) -> bool:
    return any(entry.extension_type == DeviceVouchers.TYPE for entry in bundle.key_package.leaf_node.extensions)


def _without_grease(listed: Capabilities) -> tuple[frozenset[int], ...]:
    lists = (listed.versions, listed.cipher_suites, listed.extensions, listed.proposals, listed.credentials)
    return tuple(frozenset(numbers) - GREASE for numbers in lists)


def _published(bundle: KeyPackageBundle, reference: bytes) -> PublishedKeyPackage:
    package = bundle.key_package
    return PublishedKeyPackage(reference, package.cipher_suite, MLSMessage.wrap(package), bundle.last_resort)


def open_key_package(
    data: bytes, account: str, requirements: GroupRequirements, rules: LeafRules
) -> VerifiedKeyPackage:
    """Parse another client's KeyPackage from the directory and verify it for use in a group (RFC 9420 10.1).

    :param data: MLSMessage
    :param account: bare JID of the account whose directory it comes from
    :raises MalformedError: it cannot be parsed
    :raises InvalidError: it is not acceptable, or claims to be another account's
    :raises ProtocolTooOld: it is of version 0.1, and the group is not
    """
    message = MLSMessage.decode(data)
    package = message.body
    if not isinstance(package, KeyPackage):
        raise MalformedError("no KeyPackage")
    if package.version != message.version:
        raise InvalidError("a KeyPackage of another version than the message around it", "RFC 9420 10")
    if REMOVED_CLIENTS in requirements.extensions:
        refuse_leaf_of_0_1(package.leaf_node, "KeyPackage")
    verified = rules.verify_key_package(package, requirements)
    claimed = ClientIdentity.from_leaf(verified.leaf)
    if claimed.account != account:
        raise InvalidError(f"a KeyPackage of {account} that claims to be {claimed.account}", "RFC 9420 5.3.1")
    return verified
