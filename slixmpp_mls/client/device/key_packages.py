"""KeyPackages: ours, with their private keys, and those of others, verified (RFC 9420 10).

A KeyPackage's private keys are in the store before the KeyPackage is published, and are deleted with its use
(RFC 9420 16.8).  A KeyPackage of last resort may be used more than once: its keys are kept for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...errors import InvalidError, MalformedError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite, Random
from ...mls.parameters import DAY, HOUR, Parameters
from ...mls.registry import GREASE
from ...mls.structures.framing import MLSMessage
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.leaf_node import Capabilities, KeyPackageSource, Lifetime
from ...mls.tree.leaf_creation import Completion, KeyPackageBundle, OwnLeaf, create_key_package
from ...mls.tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage
from ...store.interface import Store, Transaction
from ..storage.records import KEY_PACKAGES, KeyPackageRecord

__all__ = ["KeyPackagePlan", "KeyPackageSettings", "OwnKeyPackages", "PublishedKeyPackage", "open_key_package"]

_UNUSED, _USED, _OUTSIDE_LIFETIME = 0, 1, 2  # KeyPackageRecord.used


@dataclass(frozen=True, slots=True)
class KeyPackageSettings:
    """How many KeyPackages are kept ready, and for how long (RFC 9750 7).

    :ivar suites: cipher suites, the preferred one first
    :ivar count: ordinary ones per suite, besides one of last resort
    :ivar lifetime: seconds from making to expiry
    :ivar renewal: seconds before expiry at which one is replaced
    :ivar grace: seconds for which one of last resort is kept after its first use, for Welcomes that are on their way
    """

    suites: tuple[int, ...] = (1,)
    count: int = 100
    lifetime: int = 28 * DAY
    renewal: int = 7 * DAY
    grace: int = 7 * DAY


@dataclass(frozen=True, slots=True)
class PublishedKeyPackage:
    """A KeyPackage as it goes into the directory."""

    reference: bytes
    suite: int
    message: bytes
    last_resort: bool


@dataclass(frozen=True, slots=True)
class KeyPackagePlan:
    """What must be done so that the directory is as it should be.

    :ivar publish: KeyPackages that are not there
    :ivar retract: KeyPackageRefs that should not be
    """

    publish: tuple[PublishedKeyPackage, ...]
    retract: tuple[bytes, ...]


class OwnKeyPackages:
    """The KeyPackages of a device, in its store.

    :ivar settings: how many, and for how long
    """

    def __init__(
        self,
        store: Store,
        settings: KeyPackageSettings,
        parameters: Parameters,
        own_leaf: Callable[[CipherSuite], OwnLeaf],
        random: Random,
    ) -> None:
        """
        :param own_leaf: what our leaves in a group of a cipher suite are made of now
        """
        self.settings = settings
        self._store = store
        self._parameters = parameters
        self._own_leaf = own_leaf
        self._random = random

    def make(
        self, suite: CipherSuite, now: int, *, last_resort: bool = False, complete: Completion | None = None
    ) -> KeyPackageBundle:
        """A new KeyPackage, not stored.

        :param complete: what its leaf carries besides, if not only a return key
        """
        lifetime = Lifetime(max(0, now - HOUR), now + self.settings.lifetime)  # an hour for others' clocks
        own = self._own_leaf(suite)
        if complete is not None:
            own = replace(own, complete=complete)
        return create_key_package(suite, own, lifetime, last_resort=last_resort, random=self._random)

    def plan(self, present: Iterable[bytes], now: int, count: int | None = None) -> KeyPackagePlan:
        """Make the KeyPackages that the directory lacks, forget the expired ones, and say what to do.

        One is replaced in time before it expires, when it has been used, and when it is not what we would make now:
        with another signature key, credential or capabilities.  The private keys of one outside its
        lifetime stay for a day, so that a clock that is wrong for less than that destroys nothing: when it has been
        set right, the old ones are offered again.

        :param present: KeyPackageRefs that the directory has of this device
        :param now: seconds since the Unix epoch
        :param count: ordinary ones per suite that there is room for; no more than the settings say
        """
        there = set(present)
        count = self.settings.count if count is None else min(count, self.settings.count)
        wanted_leaves = {number: self._own_leaf(CipherSuite.get(number)) for number in self.settings.suites}
        with self._store.transaction() as transaction:
            publish: list[PublishedKeyPackage] = []
            usable: dict[tuple[int, bool], int] = {}
            known: set[bytes] = set()
            records = sorted(self._records(transaction), key=lambda found: found[0] not in there)
            for reference, record, bundle in records:
                suite, last_resort = bundle.key_package.cipher_suite, bundle.last_resort
                lifetime = _lifetime(bundle)
                begun = lifetime.not_before - self._parameters.clock_tolerance <= now
                current = (
                    record.used != _USED
                    and begun
                    and now < lifetime.not_after - self.settings.renewal
                    and suite in self.settings.suites
                    and _is_made_of(bundle, wanted_leaves[suite])
                )
                if current:
                    if record.used == _OUTSIDE_LIFETIME:
                        transaction.put(KEY_PACKAGES, reference, self._record(bundle).encode())
                    enough = 1 if last_resort else count
                    if usable.get((suite, last_resort), 0) == enough:
                        continue  # made while the clock was wrong, or more of them were wanted
                    known.add(reference)
                    usable[suite, last_resort] = usable.get((suite, last_resort), 0) + 1
                    if reference not in there:
                        publish.append(_published(bundle, reference))
                elif record.used == _UNUSED and (now > record.delete_after or not begun):
                    outside = KeyPackageRecord(record.bundle, now + DAY, _OUTSIDE_LIFETIME)
                    transaction.put(KEY_PACKAGES, reference, outside.encode())
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

    def _wait(self, record: KeyPackageRecord) -> int:
        """How long the keys of one that is not offered any more are kept."""
        return self.settings.grace if record.used == _USED else DAY

    def _records(self, transaction: Transaction) -> Iterator[tuple[bytes, KeyPackageRecord, KeyPackageBundle]]:
        for reference, value in list(transaction.items(KEY_PACKAGES)):
            record = KeyPackageRecord.decode(value)
            yield reference, record, KeyPackageBundle.decode(record.bundle)

    def find(self, transaction: Transaction, references: Sequence[bytes]) -> KeyPackageBundle | None:
        """The first KeyPackage of ours among these, with its private keys."""
        for reference in references:
            value = transaction.get(KEY_PACKAGES, reference)
            if value is not None:
                return KeyPackageBundle.decode(KeyPackageRecord.decode(value).bundle)
        return None

    def use_up(self, transaction: Transaction, bundle: KeyPackageBundle, now: int) -> None:
        """A KeyPackage has let us in: delete its private keys (RFC 9420 16.8).

        One of last resort is replaced in the directory, and its keys are kept for a while.
        """
        if bundle.last_resort:
            until = min(_lifetime(bundle).not_after, now + self.settings.grace)
            used = KeyPackageRecord(bundle.encode(), until, _USED)
            transaction.put(KEY_PACKAGES, bundle.reference, used.encode())
        else:
            transaction.delete(KEY_PACKAGES, bundle.reference)

    def forget_all(self) -> None:
        """Delete all of ours: nobody can add us any more.

        :raises StoreError: nothing has changed
        """
        with self._store.transaction() as transaction:
            transaction.delete_prefix(KEY_PACKAGES)

    def forget_others(self, transaction: Transaction, present: Collection[bytes]) -> None:
        """Delete those that were made with other signature keys.

        :param present: public keys
        """
        for reference, _, bundle in self._records(transaction):
            if bundle.signature_key.public not in present:
                transaction.delete(KEY_PACKAGES, reference)

    def keep_unpublished(self, transaction: Transaction, bundle: KeyPackageBundle) -> None:
        """Keep a KeyPackage that goes to a group by another way than the directory."""
        transaction.put(KEY_PACKAGES, bundle.reference, replace(self._record(bundle), used=1).encode())

    def forget(self, transaction: Transaction, reference: bytes) -> None:
        """Delete the private keys of a KeyPackage that is not wanted any more."""
        transaction.delete(KEY_PACKAGES, reference)

    def _record(self, bundle: KeyPackageBundle) -> KeyPackageRecord:
        until = _lifetime(bundle).not_after + self._parameters.clock_tolerance
        return KeyPackageRecord(bundle.encode(), until, _UNUSED)


def _lifetime(bundle: KeyPackageBundle) -> Lifetime:
    source = bundle.key_package.leaf_node.source
    assert isinstance(source, KeyPackageSource)
    return source.lifetime


def _is_made_of(bundle: KeyPackageBundle, own: OwnLeaf) -> bool:
    """Whether a KeyPackage says the same of us as one that we would make now."""
    leaf = bundle.key_package.leaf_node
    return (leaf.signature_key, leaf.credential, _without_grease(leaf.capabilities)) == (
        own.signature_key.public,
        own.credential,
        _without_grease(own.capabilities),
    )


def _without_grease(listed: Capabilities) -> tuple[frozenset[int], ...]:
    lists = (listed.versions, listed.cipher_suites, listed.extensions, listed.proposals, listed.credentials)
    return tuple(frozenset(numbers) - GREASE for numbers in lists)


def _published(bundle: KeyPackageBundle, reference: bytes) -> PublishedKeyPackage:
    package = bundle.key_package
    return PublishedKeyPackage(reference, package.cipher_suite, MLSMessage.wrap(package), bundle.last_resort)


def open_key_package(
    data: bytes, account: str, requirements: GroupRequirements, rules: LeafRules
) -> VerifiedKeyPackage:
    """Somebody's KeyPackage from the directory, verified for use in a group (RFC 9420 10.1).

    :param data: MLSMessage
    :param account: bare JID of the account whose directory it comes from
    :raises MalformedError: it does not parse
    :raises InvalidError: it is not acceptable, or claims to be another account's
    """
    message = MLSMessage.decode(data)
    package = message.body
    if not isinstance(package, KeyPackage):
        raise MalformedError("no KeyPackage")
    if package.version != message.version:
        raise InvalidError("a KeyPackage of another version than the message around it", "RFC 9420 10")
    verified = rules.verify_key_package(package, requirements)
    claimed = ClientIdentity.from_leaf(verified.leaf)
    if claimed.account != account:
        raise InvalidError(f"a KeyPackage of {account} that claims to be {claimed.account}", "RFC 9420 5.3.1")
    return verified
