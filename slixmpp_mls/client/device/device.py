"""This device: its name, its signature keys, its KeyPackages.

The device id and the keys are made once and live in the store, as do certificates for them; a KeyPackage's
private keys are in the store before the KeyPackage is published, and are deleted with its use (RFC 9420 16.8).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...errors import InvalidError, MalformedError, UsageError
from ...identity import ClientIdentity, new_device_id
from ...mls.crypto.cipher_suite import CipherSuite, Random, SignaturePrivateKey
from ...mls.parameters import DAY, HOUR, Parameters
from ...mls.registry import GREASE, CredentialType, ProposalType
from ...mls.structures.credential import AnyCredential
from ...mls.structures.framing import MLSMessage
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.leaf_node import Capabilities, KeyPackageSource, Lifetime
from ...mls.tree.leaf_creation import KeyPackageBundle, OwnLeaf, capabilities, create_key_package
from ...mls.tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage
from ...policy import RoomPolicy
from ...store.batch import Batches
from ...store.interface import Store, Transaction
from ..storage.records import KeyPackageRecord
from .certificates import OwnCertificates

__all__ = ["Device", "KeyPackagePlan", "KeyPackageSettings", "PublishedKeyPackage", "open_key_package"]

_DEVICE = "device"
_KEY_PACKAGES = "key-package"
_ROOMS = "room"
_UNUSED, _USED, _OUTSIDE_LIFETIME = 0, 1, 2  # KeyPackageRecord.used
_KEY, _NEXT, _FORMER = b"key", b"next", b"former"  # with the TLS SignatureScheme


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


class Device:
    """This client of the account.

    :ivar identity: its name
    :ivar certificates: for its keys
    """

    def __init__(
        self,
        store: Store,
        *,
        settings: KeyPackageSettings | None = None,
        parameters: Parameters | None = None,
        random: Random = os.urandom,
    ) -> None:
        """Open the device that lives in a store; make a new one in an empty store.

        :raises StoreError: the store failed
        """
        self.store = Batches(store)
        self.settings = settings or KeyPackageSettings()
        self.parameters = parameters or Parameters()
        self.random = random
        self._signature_keys: dict[int, SignaturePrivateKey] = {}
        self._next_keys: dict[int, SignaturePrivateKey] = {}
        self._former_keys: dict[int, bytes] = {}
        self.switched: int | None = None
        """Since when our signature keys have been new, as long as groups may still have the former ones."""
        with store.transaction() as transaction:
            octets = transaction.get(_DEVICE, b"id")
            if octets is None:
                octets = new_device_id().encode()
                transaction.put(_DEVICE, b"id", octets)
            self.identity = ClientIdentity(store.account, octets.decode())
            for number in self.settings.suites:
                self._open_signature_key(transaction, CipherSuite.get(number))
            self._open_rotation(transaction)
        self.certificates = OwnCertificates(self.store, self.identity, lambda: self._signature_keys)

    def __repr__(self) -> str:
        return f"<Device {self.identity}>"

    def _open_signature_key(self, transaction: Transaction, suite: CipherSuite) -> None:
        # Suites with the same signature scheme share a key: it is the device's.
        name = _KEY + suite.signature_scheme.to_bytes(2, "big")
        octets = transaction.get(_DEVICE, name)
        if octets is None:
            key = suite.generate_signature_key(self.random)
            transaction.put(_DEVICE, name, key.encode())
        else:
            key = suite.import_signature_key(octets)
        self._signature_keys[suite.signature_scheme] = key

    def _open_rotation(self, transaction: Transaction) -> None:
        for suite in {each.signature_scheme: each for each in map(CipherSuite.get, self.suites)}.values():
            name = suite.signature_scheme.to_bytes(2, "big")
            if (octets := transaction.get(_DEVICE, _NEXT + name)) is not None:
                self._next_keys[suite.signature_scheme] = suite.import_signature_key(octets)
            if (octets := transaction.get(_DEVICE, _FORMER + name)) is not None:
                self.switched = int.from_bytes(octets[:8], "big")
                self._former_keys[suite.signature_scheme] = octets[8:]

    def take_new_id(self) -> None:
        """Before anything is published: the id that was made is another device's.

        :raises UsageError: we have KeyPackages or a group already, which bear the name
        :raises StoreError: nothing has changed
        """
        identity = ClientIdentity.new(self.identity.account)
        with self.store.transaction() as transaction:
            if any(True for space in (_KEY_PACKAGES, _ROOMS) for _ in transaction.items(space)):
                raise UsageError("a device that has been used can not take another id")
            transaction.put(_DEVICE, b"id", identity.device.encode())
        self.identity = identity
        self.certificates = OwnCertificates(self.store, identity, lambda: self._signature_keys)

    # --- keys ----------------------------------------------------------------------------------

    def prepare_keys(self) -> None:
        """A change of our signature keys begins: the new ones are made, and not used yet.

        Each step is for the next one to find when we come back from a crash; see
        :mod:`slixmpp_mls.account.key_rotation`.

        :raises UsageError: the present keys are certified: an authority must certify the new ones first
        :raises StoreError: nothing has changed
        """
        suites = {CipherSuite.get(number).signature_scheme: CipherSuite.get(number) for number in self.suites}
        if any(self.certificates.credential(scheme) is not None for scheme in suites):
            raise UsageError("a certified key is not replaced in place: retire the device, and certify a new one")
        with self.store.transaction() as transaction:
            made: dict[int, SignaturePrivateKey] = {}
            for scheme, suite in suites.items():
                octets = transaction.get(_DEVICE, _NEXT + scheme.to_bytes(2, "big"))
                if octets is None:
                    made[scheme] = suite.generate_signature_key(self.random)
                    transaction.put(_DEVICE, _NEXT + scheme.to_bytes(2, "big"), made[scheme].encode())
        self._next_keys |= made

    def switch_keys(self, now: int) -> None:
        """From now on new leaves have the new keys; the old ones are in groups and KeyPackages that have them.

        :raises StoreError: nothing has changed
        """
        with self.store.transaction() as transaction:
            for scheme, key in self._next_keys.items():
                name, old = scheme.to_bytes(2, "big"), self._signature_keys[scheme].public
                transaction.put(_DEVICE, _FORMER + name, now.to_bytes(8, "big") + old)
                transaction.put(_DEVICE, _KEY + name, key.encode())
                transaction.delete(_DEVICE, _NEXT + name)
        for scheme, key in self._next_keys.items():
            self._former_keys[scheme] = self._signature_keys[scheme].public
            self._signature_keys[scheme] = key
        if self._next_keys:
            self.switched = now
        self._next_keys = {}

    def drop_former_keys(self) -> None:
        """No group has them any more: delete what is left of them, and the KeyPackages with them.

        :raises StoreError: nothing has changed
        """
        present = {key.public for key in self._signature_keys.values()}
        with self.store.transaction() as transaction:
            transaction.delete_prefix(_DEVICE, _FORMER)
            for reference, _, bundle in self._records(transaction):
                if bundle.signature_key.public not in present:
                    transaction.delete(_KEY_PACKAGES, reference)
        self._former_keys, self.switched = {}, None

    @property
    def next_keys(self) -> dict[int, bytes]:
        """Public keys that are to take the present ones' place, by TLS SignatureScheme."""
        return {scheme: key.public for scheme, key in self._next_keys.items()}

    @property
    def former_keys(self) -> dict[int, bytes]:
        """Public keys that have been replaced and that leaves of ours may still have, by TLS SignatureScheme."""
        return dict(self._former_keys)

    @property
    def suites(self) -> tuple[int, ...]:
        return self.settings.suites

    def signature_key(self, suite: CipherSuite) -> SignaturePrivateKey:
        """Our key for a suite's signature scheme.

        :raises InvalidError: not one of our suites
        """
        key = self._signature_keys.get(suite.signature_scheme)
        if key is None:
            raise InvalidError(f"cipher suite {suite.id} is not one of ours")
        return key

    def signature_keys(self) -> dict[int, bytes]:
        """Our public keys by TLS SignatureScheme, for the device's entry in the directory."""
        return {scheme: key.public for scheme, key in self._signature_keys.items()}

    def own_leaf(self, suite: CipherSuite) -> OwnLeaf:
        """What our leaves in a group of this suite are made of."""
        listed = capabilities(
            cipher_suites=self.suites,
            extensions=(RoomPolicy.TYPE,),
            proposals=(ProposalType.SELF_REMOVE,),
            credentials=(CredentialType.BASIC, CredentialType.X509),
            random=self.random,
        )
        return OwnLeaf(self.credential(suite), self.signature_key(suite), listed)

    def credential(self, suite: CipherSuite) -> AnyCredential:
        """What our leaves in a group of this suite say who we are: by a certificate, if we have one."""
        return self.certificates.credential(suite.signature_scheme) or self.identity.credential()

    # --- KeyPackages ---------------------------------------------------------------------------

    def make_key_package(self, suite: CipherSuite, now: int, *, last_resort: bool = False) -> KeyPackageBundle:
        """A new KeyPackage, not stored."""
        lifetime = Lifetime(max(0, now - HOUR), now + self.settings.lifetime)  # an hour for others' clocks
        return create_key_package(suite, self.own_leaf(suite), lifetime, last_resort=last_resort, random=self.random)

    def plan_key_packages(self, present: Iterable[bytes], now: int) -> KeyPackagePlan:
        """Make the KeyPackages that the directory lacks, forget the expired ones, and say what to do.

        One is replaced in time before it expires, when it has been used, and when it is not what we would make now:
        with another signature key, credential or capabilities.  The private keys of one outside its
        lifetime stay for a day, so that a clock that is wrong for less than that destroys nothing: when it has been
        set right, the old ones are offered again.

        :param present: KeyPackageRefs that the directory has of this device
        :param now: seconds since the Unix epoch
        """
        there = set(present)
        wanted_leaves = {number: self.own_leaf(CipherSuite.get(number)) for number in self.suites}
        with self.store.transaction() as transaction:
            publish: list[PublishedKeyPackage] = []
            usable: dict[tuple[int, bool], int] = {}
            known: set[bytes] = set()
            records = sorted(self._records(transaction), key=lambda found: found[0] not in there)
            for reference, record, bundle in records:
                suite, last_resort = bundle.key_package.cipher_suite, bundle.last_resort
                lifetime = _lifetime(bundle)
                begun = lifetime.not_before - self.parameters.clock_tolerance <= now
                current = (
                    record.used != _USED
                    and begun
                    and now < lifetime.not_after - self.settings.renewal
                    and suite in self.suites
                    and _is_made_of(bundle, wanted_leaves[suite])
                )
                if current:
                    if record.used == _OUTSIDE_LIFETIME:
                        transaction.put(_KEY_PACKAGES, reference, self._record(bundle).encode())
                    enough = 1 if last_resort else self.settings.count
                    if usable.get((suite, last_resort), 0) == enough:
                        continue  # made while the clock was wrong, or more of them were wanted
                    known.add(reference)
                    usable[suite, last_resort] = usable.get((suite, last_resort), 0) + 1
                    if reference not in there:
                        publish.append(_published(bundle, reference))
                elif record.used == _UNUSED and (now > record.delete_after or not begun):
                    outside = KeyPackageRecord(record.bundle, now + DAY, _OUTSIDE_LIFETIME)
                    transaction.put(_KEY_PACKAGES, reference, outside.encode())
                elif now > record.delete_after:
                    transaction.delete(_KEY_PACKAGES, reference)
                elif record.used != _UNUSED and record.delete_after - now > self._wait(record):
                    sooner = replace(record, delete_after=now + self._wait(record))  # the clock has been set back
                    transaction.put(_KEY_PACKAGES, reference, sooner.encode())
            for number in self.suites:
                suite_object = CipherSuite.get(number)
                for last_resort, wanted in ((False, self.settings.count), (True, 1)):
                    for _ in range(wanted - usable.get((number, last_resort), 0)):
                        bundle = self.make_key_package(suite_object, now, last_resort=last_resort)
                        reference = bundle.reference
                        known.add(reference)
                        transaction.put(_KEY_PACKAGES, reference, self._record(bundle).encode())
                        publish.append(_published(bundle, reference))
        return KeyPackagePlan(tuple(publish), tuple(there - known))

    def _wait(self, record: KeyPackageRecord) -> int:
        """How long the keys of one that is not offered any more are kept."""
        return self.settings.grace if record.used == _USED else DAY

    def _records(self, transaction: Transaction) -> Iterator[tuple[bytes, KeyPackageRecord, KeyPackageBundle]]:
        for reference, value in list(transaction.items(_KEY_PACKAGES)):
            record = KeyPackageRecord.decode(value)
            yield reference, record, KeyPackageBundle.decode(record.bundle)

    def find_bundle(self, transaction: Transaction, references: Sequence[bytes]) -> KeyPackageBundle | None:
        """The first KeyPackage of ours among these, with its private keys."""
        for reference in references:
            value = transaction.get(_KEY_PACKAGES, reference)
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
            transaction.put(_KEY_PACKAGES, bundle.reference, used.encode())
        else:
            transaction.delete(_KEY_PACKAGES, bundle.reference)

    def forget_key_packages(self) -> None:
        """Delete all of ours: nobody can add us any more."""
        with self.store.transaction() as transaction:
            transaction.delete_prefix(_KEY_PACKAGES)

    def keep_unpublished(self, transaction: Transaction, bundle: KeyPackageBundle) -> None:
        """Keep a KeyPackage that goes to a group by another way than the directory."""
        transaction.put(_KEY_PACKAGES, bundle.reference, replace(self._record(bundle), used=1).encode())

    def forget_key_package(self, transaction: Transaction, reference: bytes) -> None:
        """Delete the private keys of a KeyPackage that is not wanted any more."""
        transaction.delete(_KEY_PACKAGES, reference)

    def _record(self, bundle: KeyPackageBundle) -> KeyPackageRecord:
        until = _lifetime(bundle).not_after + self.parameters.clock_tolerance
        return KeyPackageRecord(bundle.encode(), until, _UNUSED)

    # --- others' KeyPackages -------------------------------------------------------------------

    def leaf_rules(self, now: int) -> LeafRules:
        return LeafRules(now, self.parameters.lifetime_limit, self.parameters.clock_tolerance)


def _lifetime(bundle: KeyPackageBundle) -> Lifetime:
    source = bundle.key_package.leaf_node.source
    assert isinstance(source, KeyPackageSource)
    return source.lifetime


def _is_made_of(bundle: KeyPackageBundle, own: OwnLeaf) -> bool:
    """Whether a KeyPackage says the same of us as one that we would make now."""
    leaf = bundle.key_package.leaf_node
    return (leaf.signature_key, leaf.credential, leaf.extensions, _without_grease(leaf.capabilities)) == (
        own.signature_key.public,
        own.credential,
        own.extensions,
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
