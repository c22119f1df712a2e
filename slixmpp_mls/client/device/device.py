"""This device: its identity and its signature keys.

The device id and the keys are generated once and kept in the store, together with their certificates
(:mod:`.certificates`) and KeyPackages (:mod:`.key_packages`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ...errors import InvalidError, UsageError, suite_name
from ...identity import ClientIdentity, new_device_id
from ...mls.crypto.cipher_suite import CipherSuite, Random, SignaturePrivateKey
from ...mls.parameters import Parameters
from ...mls.registry import CredentialType, ProposalType
from ...mls.structures.credential import AnyCredential
from ...mls.structures.leaf_node import Lifetime
from ...mls.tree.leaf_creation import OwnLeaf, capabilities
from ...mls.tree.leaf_validation import LeafRules
from ...policy import EXTENSION_TYPES, MAX_VOUCHERS, DeviceVoucher, DeviceVouchers, vouch, vouch_for_own_key
from ...store.batch import Batches
from ...store.interface import Store, Transaction
from ..storage.records import KEY_PACKAGES, ROOMS
from .certificates import OwnCertificates
from .key_packages import KeyPackageSettings, OwnKeyPackages
from .leaf_proofs import of_key_package, renewing

__all__ = ["Device"]

_DEVICE = "device"
_VOUCHERS = b"vouchers"  # with the TLS SignatureScheme
_SMALL_KEY = 256  # octets: keys and signatures of all schemes but ML-DSA are shorter
_KEY, _NEXT, _FORMER = b"key", b"next", b"former"  # with the TLS SignatureScheme
_PREPARED = b"prepared"  # the time, 8 octets


class Device:
    """This client of the account.

    :ivar identity: its MLS identity
    :ivar certificates: the certificates of its keys
    :ivar key_packages: its KeyPackages
    """

    def __init__(
        self,
        store: Store,
        *,
        settings: KeyPackageSettings | None = None,
        parameters: Parameters | None = None,
        random: Random = os.urandom,
    ) -> None:
        """Open the device in a store, or make a new one in an empty store.

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
        """Time at which our signature keys were replaced, while groups may still have the former ones."""
        self.prepared: int | None = None
        """Time at which the change of our signature keys began, if one is in progress."""
        with store.transaction() as transaction:
            octets = transaction.get(_DEVICE, b"id")
            if octets is None:
                octets = new_device_id().encode()
                transaction.put(_DEVICE, b"id", octets)
            self.identity = ClientIdentity(store.account, octets.decode())
            for number in self.settings.suites:
                self._open_signature_key(transaction, CipherSuite.get(number))
            self._open_rotation(transaction)
            self._vouchers = {
                int.from_bytes(name[len(_VOUCHERS) :], "big"): DeviceVouchers.decode(octets).vouchers
                for name, octets in transaction.items(_DEVICE)
                if name.startswith(_VOUCHERS)
            }
        self.certificates = OwnCertificates(self.store, self.identity, lambda: self._signature_keys)
        self.key_packages = OwnKeyPackages(
            self.store,
            self.settings,
            self.parameters,
            self._leaf_of_key_package,
            lambda suite: bool(self._vouching_schemes(suite)),
            random,
        )

    def __repr__(self) -> str:
        return f"<Device {self.identity}>"

    def _open_signature_key(self, transaction: Transaction, suite: CipherSuite) -> None:
        # The key belongs to the device: suites with the same signature scheme share it.
        name = _KEY + suite.signature_scheme.to_bytes(2, "big")
        octets = transaction.get(_DEVICE, name)
        if octets is None:
            key = suite.generate_signature_key(self.random)
            transaction.put(_DEVICE, name, key.encode())
        else:
            key = suite.import_signature_key(octets)
        self._signature_keys[suite.signature_scheme] = key

    def _open_rotation(self, transaction: Transaction) -> None:
        if (octets := transaction.get(_DEVICE, _PREPARED)) is not None:
            self.prepared = int.from_bytes(octets, "big")
        for suite in {each.signature_scheme: each for each in map(CipherSuite.get, self.suites)}.values():
            name = suite.signature_scheme.to_bytes(2, "big")
            if (octets := transaction.get(_DEVICE, _NEXT + name)) is not None:
                self._next_keys[suite.signature_scheme] = suite.import_signature_key(octets)
            if (octets := transaction.get(_DEVICE, _FORMER + name)) is not None:
                self.switched = int.from_bytes(octets[:8], "big")
                self._former_keys[suite.signature_scheme] = octets[8:]

    def take_new_id(self) -> None:
        """Replace the device id, because another device has the same one; possible only before anything is published.

        :raises UsageError: KeyPackages or a group of ours contain the identity already
        :raises StoreError: nothing has changed
        """
        identity = ClientIdentity.new(self.identity.account)
        with self.store.transaction() as transaction:
            if any(True for space in (KEY_PACKAGES, ROOMS) for _ in transaction.items(space)):
                raise UsageError("a device that has been used cannot take another id")
            transaction.put(_DEVICE, b"id", identity.device.encode())
        self.identity = identity
        self.certificates = OwnCertificates(self.store, identity, lambda: self._signature_keys)

    # --- keys ----------------------------------------------------------------------------------

    def prepare_keys(self, now: int) -> None:
        """Begin a change of our signature keys: generate and store the new keys, which are not used yet.

        The store records each step, so that a change is resumed after a crash; see
        :mod:`slixmpp_mls.account.key_rotation`.

        :param now: seconds since the Unix epoch
        :raises UsageError: the present keys are certified, so an authority must certify the new ones first
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
            if made:
                transaction.put(_DEVICE, _PREPARED, now.to_bytes(8, "big"))
        if made:
            self.prepared = now
        self._next_keys |= made

    def switch_keys(self, now: int) -> None:
        """Use the new keys for new leaves from now on.  Existing leaves and KeyPackages keep the old keys.

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
        """Delete the records of the former keys, which no group has any more, and the KeyPackages with them.

        :raises StoreError: nothing has changed
        """
        present = {key.public for key in self._signature_keys.values()}
        with self.store.transaction() as transaction:
            transaction.delete_prefix(_DEVICE, _FORMER)
            transaction.delete(_DEVICE, _PREPARED)
            self.key_packages.forget_others(transaction, present)
        self._former_keys, self.switched, self.prepared = {}, None, None

    @property
    def next_keys(self) -> dict[int, bytes]:
        """Public keys that will replace the present ones, by TLS SignatureScheme."""
        return {scheme: key.public for scheme, key in self._next_keys.items()}

    @property
    def former_keys(self) -> dict[int, bytes]:
        """Replaced public keys that leaves of ours may still have, by TLS SignatureScheme."""
        return dict(self._former_keys)

    @property
    def suites(self) -> tuple[int, ...]:
        return self.settings.suites

    def signature_key(self, suite: CipherSuite) -> SignaturePrivateKey:
        """Our private key for a suite's signature scheme.

        :raises InvalidError: the suite is not one of ours
        """
        key = self._signature_keys.get(suite.signature_scheme)
        if key is None:
            raise InvalidError(f"cipher suite {suite_name(suite.id)} is not one of ours")
        return key

    def signature_keys(self) -> dict[int, bytes]:
        """Our public keys by TLS SignatureScheme, for the device's entry in the directory."""
        return {scheme: key.public for scheme, key in self._signature_keys.items()}

    def own_leaf(self, suite: CipherSuite) -> OwnLeaf:
        """The keys, credential and capabilities of our leaves in groups of this suite."""
        listed = capabilities(
            cipher_suites=self.suites,
            extensions=EXTENSION_TYPES,
            proposals=(ProposalType.SELF_REMOVE,),
            credentials=(CredentialType.BASIC, CredentialType.X509),
            random=self.random,
        )
        return OwnLeaf(self.credential(suite), self.signature_key(suite), listed, complete=renewing(suite))

    def _leaf_of_key_package(self, suite: CipherSuite) -> OwnLeaf:
        vouching = self._vouching_schemes(suite)
        if not vouching:
            return self.own_leaf(suite)
        key = self.signature_key(suite).public

        def vouchers(lifetime: Lifetime) -> list[DeviceVoucher]:
            keys = ((each, self.signature_key(each)) for each in vouching)
            return [vouch_for_own_key(each, own, self.identity, key, lifetime) for each, own in keys]

        return replace(self.own_leaf(suite), complete=of_key_package(suite, vouchers))

    # --- vouchers ------------------------------------------------------------------------------

    def _vouching_schemes(self, suite: CipherSuite) -> list[CipherSuite]:
        """One of our suites for each of our other signature schemes by whose key our KeyPackages have a voucher.

        Signatures of ML-DSA would make the small KeyPackages of other schemes many times as long, so these have none: a
        group that leaves ML-DSA is made by an administrator.
        """
        own = self.signature_key(suite)
        longest = max(_SMALL_KEY, len(own.public))
        others = {CipherSuite.get(number).signature_scheme: CipherSuite.get(number) for number in self.suites}
        others.pop(suite.signature_scheme, None)
        return [each for each in others.values() if len(self.signature_key(each).public) <= longest][:MAX_VOUCHERS]

    def vouchers(self, suite: CipherSuite, now: int) -> tuple[DeviceVoucher, ...]:
        """The vouchers of our account's other devices for this one, by the suite's signature scheme.

        :param now: seconds since the Unix epoch; vouchers outside their lifetime are omitted
        """
        found = self._vouchers.get(suite.signature_scheme, ())
        return tuple(each for each in found if each.lifetime.not_before <= now <= each.lifetime.not_after)

    def keep_vouchers(self, suite: CipherSuite, vouchers: Sequence[DeviceVoucher]) -> None:
        """Store vouchers for this device in place of earlier ones; only the first `MAX_VOUCHERS` are kept.

        :raises StoreError: nothing has changed
        """
        name, kept = _VOUCHERS + suite.signature_scheme.to_bytes(2, "big"), tuple(vouchers[:MAX_VOUCHERS])
        with self.store.transaction() as transaction:
            if kept:
                transaction.put(_DEVICE, name, DeviceVouchers(kept).encode())
            else:
                transaction.delete(_DEVICE, name)
        self._vouchers[suite.signature_scheme] = kept

    def vouch_for(
        self, suite: CipherSuite, device: ClientIdentity, signature_key: bytes, lifetime: Lifetime
    ) -> DeviceVoucher:
        """Make a voucher for another device of our account.

        :param signature_key: its public key for the suite's signature scheme
        :raises InvalidError: the suite is not one of ours
        :raises ValueError: it is this device, or belongs to another account
        """
        return vouch(suite, self.signature_key(suite), self.identity, device, signature_key, lifetime)

    # --- leaves --------------------------------------------------------------------------------

    def credential(self, suite: CipherSuite) -> AnyCredential:
        """The credential of our leaves in groups of this suite: an X509Credential if we have a certificate."""
        return self.certificates.credential(suite.signature_scheme) or self.identity.credential()

    def leaf_rules(self, now: int) -> LeafRules:
        return LeafRules(now, self.parameters.lifetime_limit, self.parameters.clock_tolerance)
