"""This device's own item in the account's list of devices."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.account.events import DeviceConflict, NewStore
from slixmpp_mls.account.own_entry import MOST_NAMESAKES, OwnEntry
from slixmpp_mls.client import Device as FreshDevice
from slixmpp_mls.errors import DeviceRetired, NodeUnusable, NotPermitted
from slixmpp_mls.identity import fingerprint
from slixmpp_mls.stanza import Device, RetiredDevice
from slixmpp_mls.stanza.elements import Key
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import NOW, World

from ..client.people import ALICE
from ..services import Client

FOREIGN = (Key(2055, bytes(32)),)
SINCE = datetime.fromtimestamp(NOW, UTC)


def entry(**settings: Any) -> tuple[Client, OwnEntry]:
    client = Client(World().person(ALICE), **settings)
    return client, OwnEntry(client.context)


def put(client: Client, item: Device | RetiredDevice) -> None:
    client.devices.of.setdefault(ALICE, {})[item.id] = item.to_stdlib()


async def listed(client: Client) -> Device:
    return (await read_devices(client.context.devices)).devices[client.device.identity.device]


async def test_published_with_the_keys_that_it_has() -> None:
    client, own = entry(label="Kitchen")
    assert await own.check() is None
    await own.publish()
    device = await listed(client)
    assert device.label == "Kitchen"
    assert {key.scheme: key.data for key in device.keys} == client.device.signature_keys()
    assert await own.check() is None
    assert client.got("mls_device_conflict") == []


async def test_a_label_that_is_given_later_stays_until_the_configuration_changes() -> None:
    client, own = entry(label="Kitchen")
    await own.publish()
    put(client, replace(await listed(client), label="Hall"))
    await own.publish()
    assert (await listed(client)).label == "Hall"
    again = Client(client.person, client, label="Cellar")
    await OwnEntry(again.context).publish()
    assert (await listed(again)).label == "Cellar"


@pytest.mark.parametrize("there", ["device", "retired"])
async def test_an_id_that_is_taken_before_we_have_published_ours(there: str) -> None:
    person = World().person(ALICE)
    person.store = MemoryStore(ALICE)
    person.device = FreshDevice(person.store)  # it has no KeyPackages yet
    client = Client(person)
    own, before = OwnEntry(client.context), client.device.identity.device
    put(client, Device(before, FOREIGN) if there == "device" else RetiredDevice(before, SINCE))
    assert await own.check() is None
    assert client.device.identity.device != before
    await own.publish()
    assert len(client.devices.of[ALICE]) == 2


async def test_our_id_with_other_keys_later_is_a_conflict() -> None:
    client, own = entry()
    await own.publish()
    name = client.device.identity.device
    put(client, Device(name, FOREIGN))
    assert await own.check() is None
    assert client.device.identity.device == name
    assert client.got("mls_device_conflict") == [DeviceConflict(name, (fingerprint(bytes(32)),))]


async def test_keys_of_a_rotation_are_ours() -> None:
    client, own = entry()
    await own.publish()
    client.device.prepare_keys(client.world.now)
    await own.publish()
    assert len((await listed(client)).keys) == 2
    client.device.switch_keys(NOW)
    await own.check()
    assert client.got("mls_device_conflict") == []


async def test_retired() -> None:
    client, own = entry()
    await own.publish()
    marker = RetiredDevice(client.device.identity.device, SINCE)
    put(client, marker)
    assert await own.check() == marker
    assert f"{SINCE:%Y-%m-%d}" in str(own.note_retired(marker))
    client.devices.error = NotPermitted("nobody is asked any more")
    with pytest.raises(DeviceRetired):
        await OwnEntry(Client(client.person, client).context).check()


@pytest.mark.parametrize("configured", [True, False])
async def test_an_item_that_another_device_of_ours_displaces_is_published_again_once_the_node_is_configured(
    monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    """The account's node was lost, and two devices mend it at once; a new node of ejabberd's keeps one item."""
    client, own = entry()
    await own.publish()
    node, name, keeps = client.context.devices, client.device.identity.device, 1
    client.devices.of.clear()
    publish = node.publish

    async def into_a_new_node(item_id: str, element: Element) -> None:
        await publish(item_id, element)
        if keeps == 1:
            put(client, Device("bb" * 8, FOREIGN))
            del client.devices.of[ALICE][item_id]

    async def check() -> bool:
        nonlocal keeps
        keeps = 100 if configured else 1
        return False

    monkeypatch.setattr(node, "publish", into_a_new_node)
    monkeypatch.setattr(node, "check", check)
    if configured:
        await own.mend()
        assert set(client.devices.of[ALICE]) == {name, "bb" * 8}
    else:
        with pytest.raises(NodeUnusable, match="does not keep our item"):
            await own.mend()


@pytest.mark.parametrize("replace_same_label", [False, True])
async def test_a_new_store_reports_the_other_devices_with_its_label_and_replaces_them_if_asked(
    replace_same_label: bool,
) -> None:
    """A container without a volume: what is dead does not pile up, and no marker stays for ever."""
    client, own = entry(label="Kitchen", replace_same_label=replace_same_label)
    dead, other = Device("aa" * 8, FOREIGN, label="Kitchen"), Device("bb" * 8, FOREIGN, label="Hall")
    for each in (dead, other, Device("cc" * 8, FOREIGN)):
        put(client, each)
    await own.check()
    await own.publish()
    assert client.got("mls_new_store") == [NewStore("Kitchen", (dead.id,), (dead.id,) if replace_same_label else ())]
    found = await read_devices(client.context.devices)
    assert (dead.id in found.devices) is not replace_same_label
    assert {other.id, "cc" * 8, client.device.identity.device} <= set(found.devices)
    assert found.retired == {}
    put(client, dead)
    again = Client(client.person, client, label="Kitchen", replace_same_label=True)
    await OwnEntry(again.context).check()  # with the same store nobody is replaced
    assert again.got("mls_new_store") == []
    assert dead.id in (await read_devices(again.context.devices)).devices


@pytest.mark.parametrize("label", [None, "Kitchen"])
async def test_starts_without_a_store_fill_no_list(label: str | None) -> None:
    """Nobody has configured anything: the oldest of too many devices with our label go, whatever order they are in."""
    client, own = entry(label=label)
    names = [f"{number:016x}" for number in range(MOST_NAMESAKES + 3)]
    for number, name in enumerate(names):
        put(client, Device(name, FOREIGN, label=label, added=datetime.fromtimestamp(NOW - number, UTC)))
    put(client, Device("ee" * 8, FOREIGN, label="Hall", added=datetime.fromtimestamp(0, UTC)))
    put(client, Device("ff" * 8, FOREIGN, label=label))  # it does not say when
    gone = ("ff" * 8, *reversed(names[-3:]))
    await own.check()
    (told,) = client.got("mls_new_store")
    assert told.replaced == gone
    assert set(told.devices) == {*names, "ff" * 8}
    assert set((await read_devices(client.context.devices)).devices) == {*names[:-3], "ee" * 8}
