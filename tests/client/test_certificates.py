"""A device's own certificates: taken into use, kept, and put into leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from slixmpp_mls.client import Device
from slixmpp_mls.client.device import KeyPackageSettings
from slixmpp_mls.errors import NotPermitted, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.key_packages.selection import Candidates, _refuse_credentials
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import CredentialType
from slixmpp_mls.mls.structures.credential import BasicCredential, X509Credential
from slixmpp_mls.mls.structures.proposals import Add, GroupContextExtensions
from slixmpp_mls.mls.tree.leaf_creation import OwnLeaf
from slixmpp_mls.mls.tree.leaf_validation import VerifiedKeyPackage
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import NOW, Participant, World

from ..x509 import Authority, credential, device_key

ALICE = "alice@a.example"
DAY = 86_400
START = datetime.fromtimestamp(NOW - DAY, UTC)
SUITE = CipherSuite.get(1)
AGREEMENT = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
ROOT = Authority.root("root", start=START, lasts=timedelta(days=365))


def certify(device: Device, *, suite: CipherSuite = SUITE, **options: Any) -> X509Credential:
    options = {"start": START, "lasts": timedelta(days=30), **options}
    return credential(ROOT.device(device.identity, device.signature_key(suite), **options))


def test_a_certificate_is_kept() -> None:
    store = MemoryStore(ALICE)
    device = Device(store)
    chain = certify(device)
    assert device.credential(SUITE) == device.identity.credential()
    assert device.certificates.use(chain, NOW) == SUITE.signature_scheme
    assert device.credential(SUITE) == chain == Device(store).credential(SUITE)
    device.certificates.drop()
    assert isinstance(device.credential(SUITE), BasicCredential)
    assert isinstance(Device(store).credential(SUITE), BasicCredential)


def test_each_signature_scheme_has_its_own() -> None:
    """RFC 9420 5.1: suites with the same scheme share the key, and so the certificate."""
    device = Device(MemoryStore(ALICE), settings=KeyPackageSettings(suites=(1, 2, 3)))
    device.certificates.use(certify(device), NOW)
    for number, kind in ((1, X509Credential), (3, X509Credential), (2, BasicCredential)):
        assert isinstance(device.credential(CipherSuite.get(number)), kind)


@pytest.mark.parametrize(
    "make",
    [
        lambda device: certify(device, names=ClientIdentity(ALICE, "other").addresses),
        lambda device: credential(ROOT.device(device.identity, device_key(SUITE), start=START)),
        lambda device: credential(ROOT.device(device.identity, device_key(CipherSuite.get(2)), start=START)),
        lambda device: certify(device, usage=AGREEMENT),
        lambda device: certify(device, lasts=timedelta(hours=1)),
        lambda device: certify(device, start=START + timedelta(days=2)),
        lambda device: credential(ROOT.certificate),
        lambda device: X509Credential(()),
    ],
)
def test_what_is_not_taken_into_use(make: Callable[[Device], X509Credential]) -> None:
    device = Device(MemoryStore(ALICE))
    good = certify(device)
    device.certificates.use(good, NOW)
    with pytest.raises(UsageError):
        device.certificates.use(make(device), NOW)
    assert device.credential(SUITE) == good


def test_a_certificate_for_another_name_or_key_than_the_present_is_not_borne() -> None:
    device = Device(MemoryStore(ALICE))
    device.certificates.use(certify(device), NOW)
    device.take_new_id()
    assert isinstance(device.credential(SUITE), BasicCredential)
    device.certificates.use(certify(device), NOW)
    device._signature_keys[SUITE.signature_scheme] = device_key(SUITE)
    assert isinstance(device.credential(SUITE), BasicCredential)


def test_due_in_the_last_third() -> None:
    device = Device(MemoryStore(ALICE))
    device.certificates.use(certify(device), NOW)  # of 30 days, one is over
    end = NOW + 29 * DAY
    for now, due in ((NOW, False), (end - 10 * DAY, False), (end - 10 * DAY + 1, True), (end + DAY, True)):
        found = device.certificates.due(now)
        assert bool(found) == due, now
        assert [(each.scheme, each.not_after) for each in found] == [(SUITE.signature_scheme, end)] * due
    device.certificates.drop()
    assert not device.certificates.due(end)


def test_key_packages_are_replaced() -> None:
    """RFC 9420 10: they hold the credential."""
    device = Device(MemoryStore(ALICE), settings=KeyPackageSettings(count=2))
    before = [package.reference for package in device.key_packages.plan((), NOW).publish]
    device.certificates.use(certify(device), NOW)
    plan = device.key_packages.plan(before, NOW)
    assert (len(plan.publish), set(plan.retract)) == (3, set(before))
    again = device.key_packages.plan([package.reference for package in plan.publish], NOW)
    assert (again.publish, again.retract) == ((), ())


# --- groups ------------------------------------------------------------------------------------


def bearing(person: Participant) -> object:
    return person.group.mls.own_leaf.credential


def test_the_next_commit_brings_it() -> None:
    world = World()
    alice, bob = world.group(ALICE, "bob@b.example")
    assert not alice.group.sending.leaf_outdated
    chain = certify(alice.device)
    alice.device.certificates.use(chain, NOW)
    assert alice.group.sending.leaf_outdated
    alice.commit()
    world.settle()
    assert not alice.group.sending.leaf_outdated
    assert bearing(alice) == chain
    assert bob.group.mls.tree.member(alice.group.mls.own_index).credential == chain
    assert bob.group.roster == alice.group.roster
    alice.device.certificates.use(again := certify(alice.device), NOW)
    alice.post(alice.group.sending.propose_update(NOW))  # RFC 9420 12.1.2
    world.settle()
    bob.commit()
    world.settle()
    assert bearing(alice) == again
    alice.send(b"Fair is foul")
    world.settle()
    assert bob.texts == [b"Fair is foul"]


def without_x509(device: Device) -> None:
    """Software that knows nothing of certificates."""
    make = device.own_leaf

    def own_leaf(suite: CipherSuite) -> OwnLeaf:
        own = make(suite)
        kept = tuple(number for number in own.capabilities.credentials if number != CredentialType.X509)
        return replace(own, capabilities=replace(own.capabilities, credentials=kept))

    device.own_leaf = own_leaf  # type: ignore[method-assign]
    device.key_packages._own_leaf = own_leaf


def test_not_in_a_group_whose_members_do_not_all_support_it() -> None:
    """RFC 9420 7.3: the credential's type is supported by all members."""
    world = World()
    alice, bob = (world.person(account) for account in (ALICE, "bob@b.example"))
    without_x509(bob.device)
    alice.group.lifecycle.create(1, RoomPolicy(world.room.jid, (ALICE,)), NOW)
    bundle = bob.device.key_packages.make(SUITE, NOW)
    with bob.device.store.transaction() as transaction:
        transaction.put("key-package", bundle.reference, bob.device.key_packages._record(bundle).encode())
    alice.commit(Add(bundle.key_package))
    world.settle()
    assert bob.group.is_member
    alice.device.certificates.use(certify(alice.device), NOW)
    assert not alice.group.sending.leaf_outdated
    alice.commit()
    world.settle()
    assert bearing(alice) == alice.device.identity.credential()
    alice.commit(*alice.removing(bob.account))
    world.settle()
    assert alice.group.sending.leaf_outdated
    alice.commit()
    world.settle()
    assert isinstance(bearing(alice), X509Credential)


def test_candidates_with_a_credential_of_an_unfit_type() -> None:
    """RFC 9420 7.3, and x509_only."""
    world = World()
    (alice,) = world.group(ALICE)
    certified, plain, old = (world.person(f"{name}@c.example").device for name in ("carol", "dora", "erin"))
    certified.certificates.use(certify(certified), NOW)
    without_x509(old)

    def refused() -> set[str]:
        chosen = {}
        for device in (certified, plain, old):
            package = device.key_packages.make(SUITE, NOW).key_package
            chosen[device.identity] = VerifiedKeyPackage(package, b"")
        found = Candidates()
        unfit = _refuse_credentials(alice.group, chosen, found)
        assert found.skipped.keys() == {str(client) for client in unfit}
        return {client.account.partition("@")[0] for client in unfit}

    assert refused() == set()
    alice.device.certificates.use(certify(alice.device), NOW)
    alice.commit()
    world.settle()
    assert refused() == {"erin"}  # who would not understand alice
    policy = replace(alice.group.policy, x509_only=True)
    alice.commit(GroupContextExtensions(policy.replaced_in(alice.group.mls.context.extensions)))
    world.settle()
    assert refused() == {"dora", "erin"}


def test_a_group_that_demands_certificates() -> None:
    world = World()
    alice = world.person(ALICE)
    policy = RoomPolicy(alice.group.room, (ALICE,), x509_only=True)
    with pytest.raises(UsageError):
        alice.group.lifecycle.create(1, policy, NOW)
    alice.device.certificates.use(certify(alice.device), NOW)
    alice.group.lifecycle.create(1, policy, NOW)
    alice.device.certificates.drop()
    with pytest.raises(NotPermitted):
        alice.commit()
    assert alice.group.mls.epoch == 0
