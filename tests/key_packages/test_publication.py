"""Our KeyPackages in the directory: replenished at the right moments, and nothing else is touched."""

from __future__ import annotations

import asyncio
import contextlib
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.errors import Disconnected, NodeUnusable, NotPermitted
from slixmpp_mls.key_packages.items import parse_item
from slixmpp_mls.key_packages.publication import KeyPackagesChanged, Publication, share
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.runtime.clock import UNSTEADY
from slixmpp_mls.stanza import Device
from slixmpp_mls.stanza.elements import Key
from slixmpp_mls.testing import World

from ..client.people import ALICE
from ..services import Client


def started() -> tuple[Client, Publication, dict[str, Element]]:
    client = Client(World().person(ALICE))
    publication = Publication(client.context)
    publication.start()
    return client, publication, client.key_packages.of.setdefault(ALICE, {})


async def idle(client: Client) -> None:
    """Until nothing is done in the background any more."""
    while client.context.tasks._running:
        await asyncio.wait(client.context.tasks._running)
        await asyncio.sleep(0)


async def test_as_many_as_there_should_be() -> None:
    client, publication, node = started()
    await publication.replenish()
    assert sorted(parse_item(element).last_resort for element in node.values()) == [False, False, True]
    assert all(parse_item(element).ref == item_id for item_id, element in node.items())
    assert client.got("mls_key_packages") == [KeyPackagesChanged(3, 0)]
    before = dict(node)
    await publication.replenish()
    assert node == before
    assert len(client.got("mls_key_packages")) == 1


@pytest.mark.parametrize("event", ["mls_joined", "mls_group_continued"])
async def test_replenished_when_we_come_into_a_group(event: str) -> None:
    client, publication, node = started()
    await publication.replenish()
    gone = next(ref for ref, element in node.items() if not parse_item(element).last_resort)
    del node[gone]
    client.context.fire(event, None)
    await idle(client)
    assert len(node) == 3
    publication.stop()
    node.clear()
    client.context.fire(event, None)
    await idle(client)
    await publication.replenish()
    assert node == {}


async def test_what_is_about_to_expire_is_replaced() -> None:
    client, publication, node = started()
    await publication.replenish()
    before = set(node)
    client.world.now += 22 * DAY  # of 28
    await publication.replenish()
    assert len(node) == 3
    assert not before & set(node)
    assert client.got("mls_key_packages")[-1] == KeyPackagesChanged(3, 3)


async def test_others_items_are_left_alone() -> None:
    client, publication, node = started()
    other = Client(client.world.person(ALICE), client)  # another device of the account
    await Publication(other.context).replenish()
    node |= {"no-hex": Element("{urn:example}nonsense"), "00": Element("{urn:xmpp:mls:0}key-package")}
    before = dict(node)
    await publication.replenish()
    assert before.items() <= node.items()
    assert len(node) == len(before) + 3


async def test_a_clock_that_has_jumped() -> None:
    client, publication, node = started()
    await publication.replenish()
    client.context.clock.begin(None)
    client.world.now += 365 * DAY
    assert client.context.clock.look() == 365 * DAY
    before = dict(node)
    await publication.replenish()
    assert node == before
    node.clear()  # nobody could add us: better ones of an unsure date than none
    await publication.replenish()
    assert len(node) == 3
    client.monotonic += UNSTEADY
    client.world.now += 30 * DAY
    before = dict(node)
    await publication.replenish()
    assert not before.keys() & node.keys()


async def test_what_goes_wrong_beside_is_reported_unless_it_passes() -> None:
    client, publication, node = started()
    client.key_packages.error = Disconnected("the stream is closed")
    client.context.fire("mls_joined", None)
    await idle(client)
    assert client.failures == []
    client.key_packages.error = refused = NotPermitted("the node is closed")
    client.context.fire("mls_joined", None)
    await idle(client)
    assert client.failures == [refused]
    with pytest.raises(NotPermitted):
        await publication.replenish()
    client.key_packages.error = None
    await publication.replenish()
    assert len(node) == 3


@pytest.mark.parametrize(
    ("devices", "suites", "expected"), [(1, 1, 240), (3, 1, 80), (4, 2, 30), (1000, 3, 1), (0, 0, 240)]
)
def test_shares_of_a_node(devices: int, suites: int, expected: int) -> None:
    assert share(devices, suites) == expected
    assert devices * suites * expected <= 256 or expected == 1


async def test_a_device_retracts_what_is_beyond_its_share() -> None:
    client, publication, node = started()
    await publication.replenish()
    listed = client.devices.of.setdefault(ALICE, {})
    for number in range(200):
        device = Device(f"device{number}", (Key(2055, bytes(32)),))
        listed[device.id] = device.to_stdlib()
    client.context.fire("mls_new_device", None)
    await idle(client)
    assert sorted(parse_item(element).last_resort for element in node.values()) == [False, True]
    assert client.got("mls_key_packages")[-1] == KeyPackagesChanged(0, 1)


async def test_a_server_that_keeps_nothing_is_told_of_and_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    client, publication, node = started()
    sent: list[str] = []

    async def lose(items: dict[str, Element]) -> None:
        sent.extend(items)

    monkeypatch.setattr(client.context.key_packages, "publish_many", lose)
    with pytest.raises(NodeUnusable, match="of 3 KeyPackages that were published it keeps 0"):
        await publication.replenish()
    assert client.got("mls_key_packages") == [KeyPackagesChanged(0, 0)]  # what is there, not what was sent
    for _ in range(24 * 60):  # a day of looking every minute
        client.monotonic += 60
        with contextlib.suppress(NodeUnusable):
            await publication.replenish()
    assert len(sent) <= 3 * 14
    monkeypatch.undo()
    client.monotonic += DAY
    await publication.replenish()
    assert len(node) == 3
