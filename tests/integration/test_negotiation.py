"""Which cipher suite a new room gets, on real servers, and servers that would rather have it another one.

What a malicious server would serve is put into the account's own node: for those who read it that is the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DowngradeSuspected
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage as KeyPackageStructure
from slixmpp_mls.runtime.settings import DEFAULT_SUITES
from slixmpp_mls.stanza import KeyPackage, parse

from ..conftest import unique
from .people import SECONDS, Cast, Person, all_agree


def new_room(server: DevServer) -> str:
    return f"{unique('coven')}@{server.rooms}"


async def packages_of(person: Person) -> dict[str, KeyPackage]:
    found = {item_id: parse(element) for item_id, element in (await person.mls.directory.items()).items()}
    return {item_id: element for item_id, element in found.items() if isinstance(element, KeyPackage)}


async def test_the_best_suite_that_all_invited_have(server: DevServer, cast: Cast) -> None:
    alice = await cast.person(server, "alice", cipher_suites=(2, 3, 1))
    bob = await cast.person(server, "bob", cipher_suites=(1, 2, 3))
    carol = await cast.person(server, "carol", cipher_suites=(1, 3))
    async with asyncio.timeout(SECONDS):
        negotiated = await alice.mls.negotiate([bob.account, carol.account])
        assert (negotiated.suite, negotiated.claimed, negotiated.suspicions) == (3, 3, ())
        assert negotiated.lacking[2] == (f"{carol.account}/{carol.mls.device_id}",)
        room = await alice.mls.create(new_room(server), invite=[bob.account, carol.account])
    assert room.suite == 3
    assert room.invited is not None
    assert (len(room.invited.added), room.invited.failed, room.invited.skipped) == (2, {}, {})
    for person in (bob, carol):
        await person.joined(room.jid)
    await all_agree(alice, bob, carol)
    assert not alice.got("mls_downgrade_suspected")


async def test_a_device_with_nothing_in_common_is_named(prosody: DevServer, cast: Cast) -> None:
    alice = await cast.person(prosody, "alice", cipher_suites=(2, 1))
    bob = await cast.person(prosody, "bob", cipher_suites=(1,))
    carol = await cast.person(prosody, "carol", cipher_suites=(2,))
    nobody = f"{unique('nobody')}@{prosody.domain}"
    room = await alice.mls.create(new_room(prosody), invite=[bob.account, carol.account, nobody])
    assert room.suite == 2
    assert room.invited is not None
    assert set(room.invited.failed) == {bob.account, nobody}
    await carol.joined(room.jid)


async def hide(bob: Person, suite: int, how: str) -> None:
    """The server keeps back, or spoils, what Bob has for a suite."""
    found = {item_id: item for item_id, item in (await packages_of(bob)).items() if item.suite == suite}
    assert found
    if how == "withheld":
        await bob.mls.directory.retract_many(list(found))
        return
    spoilt: dict[str, Any] = {}
    for item_id, item in found.items():
        package = MLSMessage.decode(item.data).body
        assert isinstance(package, KeyPackageStructure)
        fewer = replace(package.leaf_node.capabilities, cipher_suites=(1,))
        rewritten = replace(package, leaf_node=replace(package.leaf_node, capabilities=fewer))
        spoilt[item_id] = replace(item, data=MLSMessage.wrap(rewritten)).to_stdlib()
    await bob.mls.directory.publish_many(spoilt)


@pytest.mark.parametrize("how", ["withheld", "rewritten"])
async def test_a_server_that_keeps_back_a_suite_is_found_out(server: DevServer, cast: Cast, how: str) -> None:
    """RFC 9420 7.2: what is left of a device's KeyPackages says under its signature what it supports."""
    alice = await cast.person(server, "alice", cipher_suites=(2, 1))
    bob = await cast.person(server, "bob", cipher_suites=(1, 2))
    carol = await cast.person(server, "carol", cipher_suites=(1, 2))
    room, device = new_room(server), f"{bob.account}/{bob.mls.device_id}"
    await hide(bob, 2, how)
    with pytest.raises(DowngradeSuspected, match="claim to support") as caught:
        await alice.mls.create(room, invite=[bob.account, carol.account])
    error = caught.value
    assert (error.suite, error.chosen, error.devices) == (2, 1, (device,))
    assert [(each.device, each.suite) for each in alice.got("mls_downgrade_suspected")] == [(device, 2)]
    assert not alice.mls.rooms
    # Whoever wants it all the same says so.
    group = await alice.mls.create(room, invite=[bob.account, carol.account], suite=1)
    assert group.suite == 1
    await bob.joined(room)
    # When the server has given in, the group gets what it could have had.
    if how == "rewritten":
        await bob.mls.directory.retract_many([ref for ref, item in (await packages_of(bob)).items() if item.suite == 2])
    await bob.mls.replenish()
    assert await group.reinit() == 2
    for person in (bob, carol):
        await person.next("mls_group_continued")
    await all_agree(alice, bob, carol, epoch=1)


async def test_all_rewritten_is_nothing_usable(prosody: DevServer, cast: Cast) -> None:
    """Every KeyPackage says less than was signed: none is used, and the device's listed keys tell that there were."""
    alice = await cast.person(prosody, "alice", cipher_suites=(2, 1))
    bob = await cast.person(prosody, "bob", cipher_suites=(1, 2))
    for suite in (1, 2):
        await hide(bob, suite, "rewritten")
    negotiated = await alice.mls.negotiate([bob.account])
    assert {each.suite for each in negotiated.suspicions} == {1, 2}
    assert negotiated.lacking[1] == negotiated.lacking[2] == (f"{bob.account}/{bob.mls.device_id}",)


async def test_old_key_packages_from_before_a_suite_was_supported(prosody: DevServer, cast: Cast) -> None:
    """They are genuine, and say nothing of the suite; the list of devices has a key for it."""
    alice = await cast.person(prosody, "alice", cipher_suites=(2, 1))
    bob = await cast.person(prosody, "bob", cipher_suites=(1,))
    old = await bob.mls.directory.items()
    await bob.log_out()
    bob.config["cipher_suites"] = (1, 2)
    await bob.connect()
    await bob.mls.directory.retract_many(list(await packages_of(bob)))
    await bob.mls.directory.publish_many(old)
    with pytest.raises(DowngradeSuspected):
        await alice.mls.create(new_room(prosody), invite=[bob.account])


async def test_a_downgrade_that_makes_no_difference_is_only_told(prosody: DevServer, cast: Cast) -> None:
    alice = await cast.person(prosody, "alice", cipher_suites=(2, 1))
    bob = await cast.person(prosody, "bob", cipher_suites=(1, 2))
    carol = await cast.person(prosody, "carol", cipher_suites=(1,))
    await hide(bob, 2, "withheld")
    room = await alice.mls.create(new_room(prosody), invite=[bob.account, carol.account])
    assert room.suite == 1
    assert alice.got("mls_downgrade_suspected")


async def test_new_rooms_are_post_quantum_where_all_who_come_first_can(server: DevServer, cast: Cast) -> None:
    """By default; who has only cipher suite 1 is not kept out of a room in which nobody is yet."""
    alice, bob = [await cast.person(server, name, cipher_suites=DEFAULT_SUITES) for name in ("alice", "bob")]
    carol = await cast.person(server, "carol")
    room = await alice.mls.create(new_room(server))
    result = await room.add(bob.account)
    assert not result.failed
    assert (room.suite, room.post_quantum) == (DEFAULT_SUITES[0], DEFAULT_SUITES[0] != 1)
    await bob.joined(room.jid)
    await all_agree(alice, bob)
    await alice.say("When the battle's lost and won", room.jid)
    await bob.hears("When the battle's lost and won")
    other = await alice.mls.create(new_room(server))
    result = await other.add(bob.account, carol.account)
    assert not result.failed
    assert other.suite == 1
    for person in (bob, carol):
        await person.joined(other.jid)
    await carol.say("That will be ere the set of sun", other.jid)
    await bob.hears("That will be ere the set of sun")
    chosen = await alice.mls.create(new_room(server), suite=DEFAULT_SUITES[0])
    if chosen.suite != 1:
        assert set((await chosen.add(carol.account)).failed) == {carol.account}
