"""From bare JIDs to KeyPackages that can be added."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.account.own_entry import OwnEntry
from slixmpp_mls.client import KeyPackageSettings
from slixmpp_mls.errors import MLSError, NotPermitted, StoreFull
from slixmpp_mls.key_packages.items import parse_item
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.key_packages.selection import each_by_itself, find_candidates
from slixmpp_mls.mls.parameters import HOUR
from slixmpp_mls.mls.structures.proposals import GroupContextExtensions
from slixmpp_mls.policy import ExternalJoins
from slixmpp_mls.stanza import Device
from slixmpp_mls.stanza.elements import Key
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB, CAROL
from ..services import Client


async def scene() -> tuple[Client, Client]:
    """Alice has a group; Bob has published KeyPackages."""
    world = World()
    (person,) = world.group(ALICE)
    alice = Client(person)
    bob = Client(world.person(BOB), alice)
    await Publication(bob.context).replenish()
    return alice, bob


async def test_one_of_each_device_and_none_twice_but_that_of_last_resort() -> None:
    alice, bob = await scene()
    await OwnEntry(bob.context).publish()  # it says how many there are; of an unlisted device not all are looked for
    node = alice.key_packages.of[BOB]
    items = [parse_item(element) for element in node.values()]
    ordinary, last_resort = ({item.ref for item in items if item.last_resort is last} for last in (False, True))
    picked = []
    for _ in range(4):
        found = await find_candidates(alice.context, alice.person.group, [BOB])
        assert list(found.packages) == [bob.device.identity]
        assert (found.accounts, found.failed, found.skipped) == ([BOB], {}, {})
        picked.append(found.packages[bob.device.identity].reference.hex())
    assert set(picked[:2]) == ordinary
    assert set(picked[2:]) == last_resort


async def test_one_bad_item_spoils_no_other() -> None:
    alice, bob = await scene()
    node = alice.key_packages.of[BOB]
    node |= {"x": Element("{urn:example}nonsense"), "00" * 32: next(iter(node.values()))}
    found = await find_candidates(alice.context, alice.person.group, [BOB])
    assert list(found.packages) == [bob.device.identity]


async def test_an_account_that_cannot_be_added_is_named_with_the_reason() -> None:
    alice, bob = await scene()
    session = alice.person.group
    found = await find_candidates(alice.context, session, [CAROL, ALICE, f"{BOB}/nobody"])
    assert found.packages == {}
    assert found.failed == {
        CAROL: "no KeyPackages: no client of this account supports MLS",
        ALICE: "no KeyPackages: no client of this account supports MLS",
        f"{BOB}/nobody": "no KeyPackages of this device",
    }
    alice.service.denied = {bob.device.identity}
    found = await find_candidates(alice.context, session, [BOB])
    assert found.packages == {}
    assert found.skipped == {str(bob.device.identity): f"{bob.device.identity} is denied"}
    assert found.failed == {BOB: f"{bob.device.identity} is denied"}
    alice.key_packages.error = NotPermitted("the node is closed")
    found = await find_candidates(alice.context, session, [BOB])
    assert found.failed == {BOB: "no such account, or no MLS: a program with MLS must have logged in to it once"}


async def test_our_own_device_is_no_candidate() -> None:
    alice, _ = await scene()
    await Publication(alice.context).replenish()
    found = await find_candidates(alice.context, alice.person.group, [ALICE])
    assert found.failed == {ALICE: "all of its devices are in the group"}


async def test_a_device_of_many_that_cannot_be_added_is_named_and_spoils_no_other() -> None:
    """A wrong clock (RFC 9420 7.3), a device without KeyPackages, garbage under a device's name."""
    alice, bob = await scene()
    session = alice.person.group
    alice.world.now += 4 * HOUR  # the clock of one device is ahead
    late = Client(alice.world.person(BOB), bob)
    await Publication(late.context).replenish()
    alice.world.now -= 4 * HOUR
    silent = Device("96fee99052b73d57", (Key(2055, bytes(32)),))
    alice.devices.of.setdefault(BOB, {})[silent.id] = silent.to_stdlib()
    found = await find_candidates(alice.context, session, [BOB.upper(), "no address"])
    assert list(found.packages) == [bob.device.identity]
    assert set(found.failed) == {"no address"}
    assert found.skipped == {
        str(late.device.identity): "the leaf is not valid yet (RFC 9420 7.3)",
        f"{BOB}/{silent.id}": "it has no KeyPackage for cipher suite 1",
    }


async def test_an_account_that_raises_or_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slixmpp_mls.key_packages.selection.PATIENCE", 1.0)
    done: list[str] = []

    async def good() -> None:
        await asyncio.sleep(0)
        done.append("good")

    async def silent() -> None:
        await asyncio.Event().wait()

    async def hostile() -> None:
        raise ZeroDivisionError

    async def broken() -> None:
        raise StoreFull("the disk is full")

    failed = await each_by_itself({"good": good, "silent": silent, "hostile": hostile})
    assert done == ["good"]
    assert set(failed) == {"silent", "hostile"}
    assert "no answer" in failed["silent"]
    with pytest.raises(StoreFull):  # ours, not an account's
        await each_by_itself({"good": good, "broken": broken})


async def test_a_device_without_the_suite_that_the_policy_demands_is_not_added() -> None:
    """XEP, "The Policy": a room that demands a post-quantum suite stays in it, and the device is named."""
    world = World(settings=KeyPackageSettings((0xF001, 1), count=1))
    (person,) = world.group(ALICE, policy=replace(world.open_policy(ALICE), post_quantum=True), suite=0xF001)
    alice = Client(person)
    new = Client(world.person(BOB), alice)
    world.settings = KeyPackageSettings((1,), count=1)
    old, carol = Client(world.person(BOB), new), Client(world.person(CAROL), alice)
    for client in (new, old, carol):
        await Publication(client.context).replenish()
    found = await find_candidates(alice.context, person.group, [BOB, CAROL])
    assert list(found.packages) == [new.device.identity]
    assert set(found.failed) == {CAROL}
    assert "no KeyPackage for cipher suite 0xF001" in found.failed[CAROL]
    assert person.epoch == 0
    # Nor does it come in by an external Commit, where anybody may.
    opened = replace(person.group.policy, external_joins=ExternalJoins.ANYBODY)
    person.commit(GroupContextExtensions(opened.replaced_in(person.group.mls.context.extensions)))
    world.settle()
    (*_, door) = person.ways_in()
    with pytest.raises(MLSError, match=r"cipher suite"):
        carol.person.group.external_commits.draft(door, world.now)
    assert not carol.person.group.is_member
