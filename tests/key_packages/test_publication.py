"""Our KeyPackages in the directory: replenished at the right moments, and nothing else is touched."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.client import KeyPackageSettings
from slixmpp_mls.client.storage.records import KEY_PACKAGE_ITEMS, KEY_PACKAGES, KeyPackageRecord
from slixmpp_mls.errors import Disconnected, NodeUnusable, NotPermitted
from slixmpp_mls.key_packages.items import Place, parse_item
from slixmpp_mls.key_packages.publication import KeyPackagesChanged, Publication, share
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.runtime.clock import UNSTEADY
from slixmpp_mls.stanza import Device, KeyPackageCount, parse
from slixmpp_mls.stanza.elements import Key
from slixmpp_mls.testing import World

from ..client.people import ALICE
from ..services import Client


def started() -> tuple[Client, Publication, dict[str, Element]]:
    client = Client(World().person(ALICE))
    publication = Publication(client.context)
    publication.start()
    return client, publication, client.key_packages.of.setdefault(ALICE, {})


def refs(node: dict[str, Element]) -> set[str]:
    """The KeyPackageRefs of the KeyPackages in a node."""
    return {parse_item(element).ref for element in node.values()}


async def idle(client: Client) -> None:
    """Until nothing is done in the background any more."""
    while client.context.tasks._running:
        await asyncio.wait(client.context.tasks._running)
        await asyncio.sleep(0)


async def test_as_many_as_there_should_be() -> None:
    client, publication, node = started()
    await publication.replenish()
    assert sorted(parse_item(element).last_resort for element in node.values()) == [False, False, True]
    me = client.device.identity.device
    assert node.keys() == {f"{me}/1/0", f"{me}/1/1", f"{me}/1/last-resort"}
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
    before = refs(node)
    client.world.now += 22 * DAY  # of 28
    await publication.replenish()
    assert len(node) == 3
    assert not before & refs(node)
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
    old = refs(node)
    await publication.replenish()
    assert not old & refs(node)


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


async def test_the_list_of_devices_says_which_there_are_and_keeps_the_rest() -> None:
    client, publication, _ = started()
    me = client.device.identity.device
    label = replace(client.list_device(), label="bot")
    client.devices.of[ALICE][me] = label.to_stdlib()
    await publication.replenish()
    entry = parse(client.devices.of[ALICE][me])
    assert entry == replace(label, key_packages=(KeyPackageCount(1, 2),))
    client.devices.of[ALICE][me] = label.to_stdlib()  # by software that does not know this
    await publication.replenish()
    assert parse(client.devices.of[ALICE][me]) == entry


async def test_one_that_was_used_is_replaced_in_its_place() -> None:
    client, publication, node = started()
    await publication.replenish()
    before = dict(node)
    item_id = next(name for name in node if name.endswith("/1/1"))
    with client.device.store.transaction() as transaction:
        transaction.delete(KEY_PACKAGES, bytes.fromhex(parse_item(node[item_id]).ref))
    await publication.replenish()
    assert {name for name, element in node.items() if element is not before[name]} == {item_id}
    assert client.got("mls_key_packages")[-1] == KeyPackagesChanged(1, 1)


async def test_our_own_are_looked_at_by_their_ids() -> None:
    """Two hundred of them are not read, every hour, to see that they are there; a few are."""
    client = Client(World(settings=KeyPackageSettings((1,), count=50)).person(ALICE))
    publication, node = Publication(client.context), client.key_packages.of.setdefault(ALICE, {})
    await publication.replenish()
    client.key_packages.read.clear()
    await publication.replenish()
    assert len(client.key_packages.read) == 3 < len(node)


async def test_a_server_that_was_restored_from_a_backup() -> None:
    """Nobody could be added by what it has: the private keys went with their first use (RFC 9420 16.8)."""
    client, publication, node = started()
    await publication.replenish()
    backup = dict(node)
    client.world.now += 22 * DAY
    await publication.replenish()
    current = refs(node)
    node |= backup
    await publication.replenish()
    assert refs(node) == current


async def test_those_of_an_earlier_release_are_published_again_in_their_places() -> None:
    client, publication, node = started()
    await publication.replenish()
    before = refs(node)
    earlier = {parse_item(element).ref: element for element in node.values()}
    node.clear()
    node |= earlier
    with client.device.store.transaction() as transaction:
        transaction.delete_prefix(KEY_PACKAGE_ITEMS)
    await publication.replenish()
    assert refs(node) == before
    assert all(Place.of(item_id) for item_id in node)


async def test_an_interrupted_publication_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client, publication, node = started()
    await publication.replenish()
    client.world.now += 22 * DAY
    publish = client.context.key_packages.publish_many

    async def some(items: dict[str, Element]) -> None:
        await publish(dict(list(items.items())[:1]))
        raise Disconnected("the stream is closed")

    monkeypatch.setattr(client.context.key_packages, "publish_many", some)
    with pytest.raises(Disconnected):
        await publication.replenish()
    monkeypatch.undo()
    await publication.replenish()
    with client.device.store.transaction() as transaction:
        ours = {key.hex() for key, value in transaction.items(KEY_PACKAGES) if not KeyPackageRecord.decode(value).used}
    assert len(node) == 3
    assert refs(node) <= ours


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.integers(0, 65535), st.none() | st.integers(0, 65535))
def test_places_have_ids(device: str, suite: int, number: int | None) -> None:
    place = Place(device, suite, number)
    assert Place.of(place.item_id) == place


@pytest.mark.parametrize(
    "item_id",
    ["", "00" * 32, "a/1", "a/1/", "a/1/01", "a/01/1", "a/1/-1", "a/1/last_resort", "a/b/1/1", "a/1/1\n", "a/1/\u0661"],
)
def test_what_names_no_place(item_id: str) -> None:
    assert Place.of(item_id) is None
