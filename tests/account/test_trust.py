"""People's decisions about keys, without rooms: what they change, and what the application is told."""

from __future__ import annotations

from typing import Any

import pytest

from slixmpp_mls.account.trust import Trust, qr_code, trust_of, with_manual_trust
from slixmpp_mls.authentication import NewDeviceRule
from slixmpp_mls.errors import UsageError
from slixmpp_mls.identity import TrustLevel, key_identifier
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB
from ..services import Client
from .test_devices import NoRooms

SUITE = CipherSuite.get(1)


def people() -> tuple[Client, Client, Trust]:
    world = World()
    alice, bob = (Client(person) for person in world.group(ALICE, BOB))
    rooms: Any = NoRooms()
    return alice, bob, Trust(alice.context, rooms)


async def test_a_decision_shows_with_the_members_and_is_told_of() -> None:
    alice, bob, trust = people()
    trust.start()
    key = bob.device.signature_key(SUITE).public
    assert trust.level(BOB, key) is TrustLevel.UNDECIDED
    await trust.verify(BOB, bob.context.fingerprint)
    assert trust.level(BOB, key) is TrustLevel.VERIFIED
    levels = {m.account: m.level for m in alice.context.with_levels(alice.person.group.members.all())}
    assert levels[BOB] is TrustLevel.VERIFIED
    await trust.distrust(BOB, bob.context.fingerprint)
    told = [change.key.level for change in alice.got("mls_trust_changed")]
    assert told == [TrustLevel.VERIFIED, TrustLevel.DISTRUSTED]
    trust.close()
    await trust.verify(BOB, bob.context.fingerprint)
    assert len(alice.got("mls_trust_changed")) == 2
    with pytest.raises(UsageError):
        await trust.verify(BOB, "no fingerprint")


async def test_unexpected_keys_are_told_of() -> None:
    """First use is remembered, and another device of the account is told of."""
    alice, bob, _ = people()
    second = Client(bob.world.person(BOB))
    service = with_manual_trust(
        alice.service,
        alice.context.trust.table,
        unverified=NewDeviceRule.REFUSE,
        remember=True,
        fire=alice.context.fire,
    )
    first = bob.person.group.mls.tree.member(bob.person.group.mls.own_index)
    (verdict,) = await service.validate([first], SUITE)
    assert verdict.is_valid
    assert alice.got("mls_new_key") == []
    found = second.world.directory.find(BOB, alice.person.group, second.world.now)
    await service.validate([found[second.device.identity].leaf], SUITE)
    assert [event.client for event in alice.got("mls_new_key")] == [second.device.identity]


def test_a_device_knows_its_own_key() -> None:
    alice, _, _ = people()
    management = trust_of(alice.device, alice.context.time)
    own = key_identifier(alice.device.signature_key(SUITE).public)
    assert management.table.get(ALICE, own).level is TrustLevel.VERIFIED
    assert qr_code(management.uri()).version
