"""Another signature key for the same device: what is listed and published at each step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.account.key_rotation import OVERLAP, KeyRotation
from slixmpp_mls.account.own_entry import OwnEntry
from slixmpp_mls.errors import NoAnswer, RoomLost, UsageError
from slixmpp_mls.key_packages.items import parse_key_package
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.testing import World

from ..client.people import ALICE
from ..services import Client
from .test_devices import NoRooms


def parts(client: Client) -> KeyRotation:
    rooms: Any = NoRooms()
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
    lost = RoomLost("coven@rooms.example", reason)
    old_key = SimpleNamespace(sending=SimpleNamespace(leaf_outdated=True))
    room = SimpleNamespace(lost=lost, is_member=False, live=False, group=old_key, jid=lost.room)
    rooms: Any = SimpleNamespace(all={lost.room: room})
    rotation = KeyRotation(client.context, rooms, OwnEntry(client.context), Publication(client.context))
    await OwnEntry(client.context).publish()
    await Publication(client.context).replenish()
    await rotation.begin()
    client.world.now += OVERLAP
    assert (await rotation.go_on()).finished is finished


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
