"""Another signature key for the same device: what is listed and published at each step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.account.key_rotation import OVERLAP, PATIENCE, KeyRotation
from slixmpp_mls.account.own_entry import OwnEntry
from slixmpp_mls.errors import NoAnswer, RoomLost, UsageError
from slixmpp_mls.key_packages.items import parse_key_package
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.testing import World

from ..client.people import ALICE, DAVE, three
from ..client.test_partial import joined
from ..services import Client
from .test_devices import NoRooms

COVEN = "coven@rooms.example"


def parts(client: Client) -> KeyRotation:
    rooms: Any = NoRooms()
    return KeyRotation(client.context, rooms, OwnEntry(client.context), Publication(client.context))


def in_room(client: Client, group: Any, lost: RoomLost | None = None, **state: Any) -> KeyRotation:
    """That of a client that has one room.

    :param state: of the room, where it is neither live nor one whose group the client is in
    """
    room = SimpleNamespace(lost=lost, group=group, jid=COVEN, **{"is_member": False, "live": False, **state})
    rooms: Any = SimpleNamespace(all={COVEN: room})
    return KeyRotation(client.context, rooms, OwnEntry(client.context), Publication(client.context))


async def keys(client: Client) -> list[bytes]:
    device = (await read_devices(client.context.devices)).devices[client.device.identity.device]
    return [key.data for key in device.keys]


def published(client: Client) -> set[bytes]:
    return {parse_key_package(each).leaf_node.signature_key for each in client.key_packages.of[ALICE].values()}


async def test_without_rooms_it_ends_when_the_overlap_is_over() -> None:
    client = Client(World().person(ALICE))
    rotation = parts(client)
    await OwnEntry(client.context).publish()
    await Publication(client.context).replenish()
    (old,) = await keys(client)
    assert (await rotation.go_on()).finished  # no change is under way
    progress = await rotation.begin()
    new, also = await keys(client)
    assert (progress.finished, progress.moved, progress.waiting) == (False, (), ())
    assert progress.fingerprint == client.context.fingerprint
    assert also == old
    assert new != old
    assert published(client) == {new}
    client.world.now += OVERLAP - 1
    assert not (await rotation.go_on()).finished
    client.world.now += 1
    assert (await rotation.go_on()).finished
    assert await keys(client) == [new]
    assert [each.finished for each in client.got("mls_key_rotated")] == [True]


@pytest.mark.parametrize(("reason", "finished"), [("destroyed", True), ("not-found", True), ("banned", False)])
async def test_a_room_that_does_not_exist_any_more_is_not_waited_for(reason: str, finished: bool) -> None:
    """One that has banned us may let us in again, and then gets the new key."""
    client = Client(World().person(ALICE))
    requests = SimpleNamespace(rest_on_key=False)
    old_key = SimpleNamespace(sending=SimpleNamespace(leaf_outdated=True), join_requests=requests, is_partial=False)
    rotation = in_room(client, old_key, RoomLost(COVEN, reason))
    await OwnEntry(client.context).publish()
    await Publication(client.context).replenish()
    await rotation.begin()
    client.world.now += OVERLAP
    assert (await rotation.go_on()).finished is finished


@pytest.mark.parametrize("gone", [False, True])
async def test_who_has_lost_a_group_comes_back_before_its_key_changes(gone: bool) -> None:
    """mls-policy, "Proofs of Admission": the leaf that replaces the lost one has the same signature key."""
    world, _, bob, carol = three()
    carol.events += carol.group.lifecycle.give_up("a gap")
    world.now += 100
    carol.ask()
    client = Client(carol)
    rotation = in_room(client, carol.group, RoomLost(COVEN, "destroyed") if gone else None)
    await OwnEntry(client.context).publish()
    (old,) = await keys(client)
    progress = await rotation.begin()
    assert progress.waiting == (() if gone else (COVEN,))
    if gone:
        assert (await keys(client))[0] != old
        return
    assert (await keys(client))[0] == old
    world.settle()
    bob.commit()
    world.settle()
    assert carol.group.is_member
    await rotation.go_on()
    assert (await keys(client))[0] != old
    assert (await rotation.go_on()).waiting == (COVEN,)  # its leaf has the old key until the next Commit
    carol.commit()
    world.settle()
    world.now += OVERLAP
    assert (await rotation.go_on()).finished
    assert world.agree()


async def test_it_waits_a_week_for_a_group_that_does_not_take_us_back() -> None:
    """Others decide whether they do; an old key that stays for ever would be worse."""
    world, _, _, carol = three()
    carol.events += carol.group.lifecycle.give_up("a gap")
    client = Client(carol)
    rotation = in_room(client, carol.group)
    await OwnEntry(client.context).publish()
    (old,) = await keys(client)
    await rotation.begin()
    for when in (PATIENCE - 1, 1):
        world.now += when
        assert (await keys(client))[0] == old
        progress = await rotation.go_on()
    assert (await keys(client))[0] != old
    assert (progress.waiting, progress.finished) == ((), False)
    world.now += OVERLAP
    assert (await rotation.go_on()).finished
    assert client.device.prepared is None


async def test_nor_for_a_group_whose_ratchet_tree_never_comes() -> None:
    """Anybody could have added us to it, and the old key would be listed for ever."""
    world, _, _, carol, place = joined()
    del world.web[place]
    client = Client(carol)
    rotation = in_room(client, carol.group, live=True, renew_leaf=AsyncMock(side_effect=TimeoutError))
    await OwnEntry(client.context).publish()
    (old,) = await keys(client)
    assert (await rotation.begin()).waiting == (COVEN,)
    world.now += PATIENCE - 1
    assert not (await rotation.go_on()).finished
    world.now += 1
    assert (await rotation.go_on()).finished
    assert old not in await keys(client)


async def test_nor_does_the_end_wait_longer_for_who_is_still_coming_back() -> None:
    """Its old state is still there; its requests have the new key by now, which proves no return."""
    client = Client(World().person(ALICE))
    group = SimpleNamespace(
        sending=SimpleNamespace(leaf_outdated=True), is_partial=False, join_requests=SimpleNamespace(rest_on_key=True)
    )
    rotation = in_room(client, group, is_member=True, live=True)
    await OwnEntry(client.context).publish()
    (old,) = await keys(client)
    await rotation.begin()
    client.world.now += PATIENCE
    assert (await rotation.go_on()).waiting == (COVEN,)
    assert (await keys(client))[1] == old
    client.world.now += PATIENCE - 1
    assert not (await rotation.go_on()).finished
    client.world.now += 1
    assert (await rotation.go_on()).finished
    assert old not in await keys(client)


async def test_a_room_that_is_left_is_not_waited_for() -> None:
    _, _, _, carol = three()
    carol.events += carol.group.lifecycle.give_up("a gap")
    client = Client(carol)
    rotation = in_room(client, carol.group)
    await OwnEntry(client.context).publish()
    (old,) = await keys(client)
    assert (await rotation.begin()).waiting == (COVEN,)
    carol.group.lifecycle.want_out()
    assert (await rotation.go_on()).waiting == ()
    assert (await keys(client))[0] != old


async def test_who_is_invited_does_not_wait_and_asks_again_with_the_new_key() -> None:
    """Anybody can invite us, into a group that does not exist as well."""
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    dave.group.lifecycle.expect_welcome(None, bob.group.mls.group_id)
    dave.read()
    (first,) = dave.ask()
    client = Client(dave)
    rotation = in_room(client, dave.group)
    await OwnEntry(client.context).publish()
    requests = dave.group.join_requests
    assert requests.asking_at(world.now) is None  # once in an epoch
    assert (await rotation.begin()).waiting == ()
    at = requests.asking_at(world.now)
    assert at is not None
    world.now = at
    (second,) = dave.ask()
    assert requests.asking_at(world.now) is None
    new = dave.device.signature_key(alice.group.mls.suite).public
    assert [new in each.payloads[0].data for each in (first, second)] == [False, True]


@pytest.mark.parametrize("node", ["devices", "key_packages"])
async def test_what_fails_goes_on_after_a_restart(node: str) -> None:
    client = Client(World().person(ALICE))
    await OwnEntry(client.context).publish()
    await Publication(client.context).replenish()
    (old,) = await keys(client)
    getattr(client, node).error = NoAnswer("the power is out, says the test")
    with pytest.raises(NoAnswer):
        await parts(client).begin()
    getattr(client, node).error = None
    client.person.restart()
    again = Client(client.person, client)
    await parts(again).go_on()
    new, also = await keys(again)
    assert also == old
    assert published(again) == {new}


async def test_a_certified_key_is_not_rotated() -> None:
    client = Client(World().person(ALICE))
    from ..client.test_certificates import certify

    client.device.certificates.use(certify(client.device), client.world.now)
    with pytest.raises(UsageError):
        await parts(client).begin()
    assert client.device.next_keys == {}
