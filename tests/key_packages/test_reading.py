"""KeyPackages of others: as few are read as will do, and a server that hides some gains nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import tostring

import pytest

from slixmpp_mls.client import Device as OwnDevice
from slixmpp_mls.client import KeyPackageSettings
from slixmpp_mls.key_packages.cipher_suite_choice import negotiate
from slixmpp_mls.key_packages.items import Place, parse_item, read_listed
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.key_packages.reading import Found, read_key_packages
from slixmpp_mls.key_packages.selection import find_candidates
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.tree.leaf_validation import GroupRequirements
from slixmpp_mls.stanza import Device, KeyPackageCount, parse
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB
from ..services import Client

COUNT = 20


async def scene(suites: tuple[int, ...] = (1,), devices: int = 1) -> tuple[Client, list[Client]]:
    """Alice has a group; Bob's devices have published KeyPackages, and say so."""
    world = World(settings=KeyPackageSettings(suites, count=COUNT))
    (person,) = world.group(ALICE, suite=suites[0])
    alice = Client(person)
    bobs = [Client(world.person(BOB), alice) for _ in range(devices)]
    for bob in bobs:
        alice.list_device(bob)
        await Publication(bob.context).replenish()
    alice.key_packages.read.clear()
    return alice, bobs


async def read(alice: Client, *suites: int, only: str = "") -> Found:
    listed = await read_listed(alice.context.devices, BOB)
    requirements = {suite: GroupRequirements.of(CipherSuite.get(suite), 1, ()) for suite in suites}
    return await read_key_packages(alice.context, BOB, listed, requirements, lambda client: only in ("", client.device))


def entry(alice: Client, bob: Client) -> Device:
    found = parse(alice.devices.of[BOB][bob.device.identity.device])
    assert isinstance(found, Device)
    return found


async def test_one_of_each_device_and_suite() -> None:
    alice, bobs = await scene((2, 1), devices=3)
    found = await read(alice, 2, 1)
    assert set(found.usable) == {(bob.device.identity, suite) for bob in bobs for suite in (1, 2)}
    assert len(alice.key_packages.read) == 6
    alice.key_packages.read.clear()
    found = await read(alice, 2, only=bobs[1].device.identity.device)
    assert set(found.usable) == {(bobs[1].device.identity, 2)}
    assert len(alice.key_packages.read) == 1


async def test_inviters_meet_as_seldom_as_if_they_had_read_all() -> None:
    """Each number is as likely: two inviters pick the same KeyPackage in one of COUNT cases."""
    alice, _ = await scene()
    for _ in range(40 * COUNT):
        await read(alice, 1)
    times = [alice.key_packages.read.count(item_id) for item_id in set(alice.key_packages.read)]
    assert len(times) == COUNT
    assert max(times) < 40 * 2.5  # nine standard deviations


async def test_an_inviter_takes_none_twice() -> None:
    alice, (bob,) = await scene()
    picked = []
    for _ in range(COUNT // 2):
        found = await find_candidates(alice.context, alice.person.group, [BOB])
        picked.append(found.packages[bob.device.identity])
    ordinary = [package.reference for package in picked if not package.last_resort]
    assert len(set(ordinary)) == len(ordinary)
    assert len(alice.key_packages.read) <= 4 * len(picked)


async def test_the_one_of_last_resort_comes_last() -> None:
    alice, (bob,) = await scene()
    node = alice.key_packages.of[BOB]
    for number in range(COUNT):
        del node[Place(bob.device.identity.device, 1, number).item_id]
    found = await read(alice, 1)
    assert [package.last_resort for package in found.usable[bob.device.identity, 1]] == [True]
    assert alice.key_packages.read == [Place(bob.device.identity.device, 1).item_id]


async def test_a_device_that_does_not_say_how_many_it_has() -> None:
    """Other software, or an earlier release: everything is read."""
    alice, bobs = await scene(devices=2)
    alice.list_device(bobs[1])
    found = await read(alice, 1)
    assert {client for client, _ in found.usable} == {bob.device.identity for bob in bobs}
    assert len(alice.key_packages.read) == 2 * (COUNT + 1)


async def test_a_number_that_is_too_large_costs_little() -> None:
    alice, (bob,) = await scene()
    wrong = replace(entry(alice, bob), key_packages=(KeyPackageCount(1, 65535),))
    alice.devices.of[BOB][wrong.id] = wrong.to_stdlib()
    found = await read(alice, 1)
    assert found.usable[bob.device.identity, 1]
    assert len(alice.key_packages.read) <= 4


@pytest.mark.parametrize("how", ["the KeyPackages", "the number", "both"])
async def test_a_suite_that_a_server_hides_is_missed(how: str) -> None:
    """RFC 9420 7.2: the suites are in every leaf, under its signature."""
    alice, (bob,) = await scene((2, 1))
    node = alice.key_packages.of[BOB]
    if how != "the number":
        for item_id in [name for name in node if "/2/" in name]:
            del node[item_id]
    if how != "the KeyPackages":
        there = entry(alice, bob)
        fewer = replace(there, key_packages=tuple(each for each in there.key_packages if each.suite == 1))
        alice.devices.of[BOB][fewer.id] = fewer.to_stdlib()
    negotiation = await negotiate(alice.context, [BOB], (2, 1), ())
    if how == "the number":
        assert (negotiation.suite, negotiation.suspicions) == (2, ())
    else:
        assert (negotiation.suite, negotiation.claimed) == (1, 2)
        assert [each.suite for each in negotiation.downgraded] == [2]


async def test_a_key_that_is_not_listed_is_passed_over() -> None:
    """Whoever writes into the node in the device's name does not keep the device out as long as one is left."""
    alice, (bob,) = await scene()
    node, me = alice.key_packages.of[BOB], bob.device.identity
    store = MemoryStore(BOB)
    with store.transaction() as transaction:
        transaction.put("device", b"id", me.device.encode())
    forger = OwnDevice(store, settings=KeyPackageSettings())
    assert forger.identity == me
    for number in range(COUNT):
        item_id = Place(me.device, 1, number).item_id
        bundle = forger.key_packages.make(CipherSuite.get(1), alice.world.now)
        forged = replace(
            parse_item(node[item_id]), ref=bundle.reference.hex(), data=MLSMessage.wrap(bundle.key_package)
        )
        node[item_id] = forged.to_stdlib()
    found = await read(alice, 1)
    keys = {package.leaf.signature_key for package in found.usable[me, 1]}
    assert entry(alice, bob).keys[0].data in keys  # the Authentication Service decides between the two
    assert len(keys) == 2


async def test_a_key_package_in_the_place_of_another_device_is_refused() -> None:
    alice, (bob, other) = await scene(devices=2)
    node = alice.key_packages.of[BOB]
    for number in (*range(COUNT), None):
        mine, others = (Place(each.device.identity.device, 1, number).item_id for each in (bob, other))
        node[mine] = node[others]
    found = await find_candidates(alice.context, alice.person.group, [BOB])
    assert list(found.packages) == [other.device.identity]
    assert set(found.skipped) == {str(bob.device.identity)}


# --- accounts without a list of devices: X.509 ---


async def unlisted(suites: tuple[int, ...] = (2, 1), devices: int = 2) -> tuple[Client, list[Client]]:
    alice, bobs = await scene(suites, devices)
    del alice.devices.of[BOB]
    return alice, bobs


async def test_of_an_account_without_a_list_of_devices_few_are_read() -> None:
    alice, bobs = await unlisted()
    found = await read(alice, 2, 1)
    pairs = {(bob.device.identity, suite) for bob in bobs for suite in (1, 2)}
    assert set(found.usable) == pairs
    assert all(any(not each.last_resort for each in found.usable[pair]) for pair in pairs)
    assert len(alice.key_packages.read) == 2 * len(pairs)  # one of last resort, and one ordinary one
    alice.key_packages.read.clear()
    candidates = await find_candidates(alice.context, alice.person.group, [BOB])
    assert set(candidates.packages) == {bob.device.identity for bob in bobs}
    assert not any(package.last_resort for package in candidates.packages.values())


async def test_each_number_of_an_unlisted_device_is_as_likely() -> None:
    alice, _ = await unlisted((1,), devices=1)
    for _ in range(40 * COUNT):
        await read(alice, 1)
    ordinary = [item_id for item_id in alice.key_packages.read if "last-resort" not in item_id]
    times = [ordinary.count(item_id) for item_id in set(ordinary)]
    assert len(ordinary) == 40 * COUNT
    assert len(times) == COUNT
    assert max(times) < 40 * 2.5  # nine standard deviations


async def test_an_unlisted_device_with_none_but_that_of_last_resort() -> None:
    alice, (bob,) = await unlisted((1,), devices=1)
    node = alice.key_packages.of[BOB]
    for number in range(COUNT):
        del node[Place(bob.device.identity.device, 1, number).item_id]
    found = await read(alice, 1)
    assert [package.last_resort for package in found.usable[bob.device.identity, 1]] == [True]


async def test_a_suite_of_an_unlisted_device_that_a_server_hides_is_missed() -> None:
    """RFC 9420 7.2: the suites are in every leaf, under its signature."""
    alice, (bob,) = await unlisted(devices=1)
    node = alice.key_packages.of[BOB]
    del node[Place(bob.device.identity.device, 2).item_id]
    negotiation = await negotiate(alice.context, [BOB], (2, 1), ())
    assert (negotiation.suite, negotiation.suspicions) == (2, ())  # everything was read
    for item_id in [name for name in node if "/2/" in name]:
        del node[item_id]
    negotiation = await negotiate(alice.context, [BOB], (2, 1), ())
    assert (negotiation.suite, negotiation.claimed) == (1, 2)


async def test_what_nobody_vouches_for_makes_an_unlisted_account_read_whole() -> None:
    alice, (bob,) = await unlisted((1,), devices=1)
    alice.service.denied.add(bob.device.identity)
    await read(alice, 1)
    assert set(alice.key_packages.read) == set(alice.key_packages.of[BOB])


async def test_other_software_without_a_list_of_devices_is_read_whole() -> None:
    """Its items have other ids: the KeyPackageRef."""
    alice, (bob,) = await unlisted((1,), devices=1)
    node = alice.key_packages.of[BOB]
    for item_id in list(node):
        item = node.pop(item_id)
        node[parse_item(item).ref] = item
    found = await read(alice, 1)
    assert len(found.usable[bob.device.identity, 1]) == COUNT + 1


async def test_answers_with_large_key_packages_stay_below_the_limit_between_servers() -> None:
    """Stock Prosody and ejabberd cut a connection to another server at 512 kB."""
    alice, bobs = await scene((0xF009,), devices=12)
    asked: list[int] = []
    items = alice.context.key_packages.items

    async def counted(account: str | None = None, ids: Iterable[str] | None = None, limit: int | None = None) -> Any:
        wanted = None if ids is None else list(ids)
        found = await items(account, wanted, limit)
        asked.append(sum(len(tostring(element)) for element in found.values()))
        return found

    alice.context.key_packages.items = counted  # type: ignore[method-assign]
    found = await read(alice, 0xF009)
    assert len(found.usable) == len(bobs)
    assert len(asked) == 2
    assert max(asked) < 200_000  # also of ML-DSA-87, whose KeyPackages are less than twice as large
