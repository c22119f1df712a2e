"""KeyPackages and devices over PEP, on each server as it comes."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import ClientXMPP

from slixmpp_mls.delivery import DeviceDirectory, KeyPackageDirectory, PEPNode, Stream
from slixmpp_mls.delivery.pep import PUBSUB
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DeliveryError, Disconnected, NotPermitted, Refused

Connect = Callable[..., Awaitable[ClientXMPP]]
NS = "urn:xmpp:mls:0"


def key_package(content: bytes) -> Element:
    element = Element(f"{{{NS}}}key-package")
    element.text = b64encode(content).decode()
    return element


async def test_a_hundred_key_packages_published_read_by_others_and_retracted(
    server: DevServer, connect: Connect
) -> None:
    alice = await connect(server, "alice")
    bob, carol = await connect(server, "bob"), await connect(server, "carol")
    content = {os.urandom(16).hex(): os.urandom(900) for _ in range(100)}
    directory = KeyPackageDirectory(alice)
    await directory.publish_many({ref: key_package(value) for ref, value in content.items()})

    assert (await directory.items()).keys() == content.keys()
    assert await directory.own_ids() == content.keys()
    assert await PEPNode(alice, f"{NS}:no-such-node").own_ids() == set()
    for reader in (bob, carol):
        found = await KeyPackageDirectory(reader).items(alice.boundjid.bare)
        assert {ref: element.text for ref, element in found.items()} == {
            ref: b64encode(value).decode() for ref, value in content.items()
        }
    some = list(content)[10:13]
    assert (await KeyPackageDirectory(bob).items(alice.boundjid.bare, ids=[*some, "00ff"])).keys() == set(some)
    assert len(await KeyPackageDirectory(bob).items(alice.boundjid.bare, limit=7)) == 7

    assert await directory.retract(some[0])
    assert not await directory.retract(some[0])
    await directory.retract_many(some)
    assert (await directory.items()).keys() == content.keys() - set(some)


async def test_a_node_with_the_servers_defaults_is_set_right(server: DevServer, connect: Connect) -> None:
    """Both servers' defaults keep one item, for contacts only; an older client of ours may have made that."""
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    pubsub = Element(f"{{{PUBSUB}}}pubsub")
    publish = SubElement(pubsub, f"{{{PUBSUB}}}publish", {"node": f"{NS}:key-packages"})
    SubElement(publish, f"{{{PUBSUB}}}item", {"id": "old"}).append(key_package(b"old"))
    await Stream.of(alice).ask("set", alice.boundjid.bare, pubsub)

    directory = KeyPackageDirectory(alice)
    await directory.publish_many({name: key_package(name.encode()) for name in ("one", "two", "three")})
    assert (await KeyPackageDirectory(bob).items(alice.boundjid.bare)).keys() >= {"one", "two", "three"}


async def test_what_is_not_there(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    directory = KeyPackageDirectory(alice)
    assert not await directory.items()
    assert not await directory.retract("00")
    for stranger in (bob.boundjid.bare, f"no-such-person@{server.domain}"):
        # Prosody does not tell strangers whether a node exists.
        answer = await outcome(directory, stranger)
        assert answer == {} or isinstance(answer, NotPermitted | Refused)
    assert isinstance(await outcome(directory, "nobody@nowhere.invalid"), DeliveryError)


async def outcome(directory: PEPNode, account: str) -> dict[str, Element] | DeliveryError:
    try:
        return await directory.items(account)
    except DeliveryError as error:
        return error


async def test_odd_items_are_skipped(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    directory = KeyPackageDirectory(alice)
    await directory.publish("good", key_package(b"good"))
    await directory.publish("other", Element("{urn:example}other"))
    found = await KeyPackageDirectory(bob).items(alice.boundjid.bare)
    # What the payload is, is for the reader of the payload to judge.
    assert found["good"].text == b64encode(b"good").decode()
    assert found["other"].tag == "{urn:example}other"


async def test_nobody_else_writes(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    await KeyPackageDirectory(alice).publish("mine", key_package(b"mine"))
    pubsub = Element(f"{{{PUBSUB}}}pubsub")
    retract = SubElement(pubsub, f"{{{PUBSUB}}}retract", {"node": f"{NS}:key-packages"})
    SubElement(retract, f"{{{PUBSUB}}}item", {"id": "mine"})
    with pytest.raises(DeliveryError):
        await Stream.of(bob).ask("set", alice.boundjid.bare, pubsub)
    assert (await KeyPackageDirectory(alice).items()).keys() == {"mine"}


async def test_own_devices_are_told_of_each_other(server: DevServer, connect: Connect) -> None:
    first = await connect(server, "alice", "xep_0030", "xep_0115", "xep_0163", presence=False)
    heard: asyncio.Queue[str] = asyncio.Queue()
    directory = DeviceDirectory(first)
    directory.watch(heard.put_nowait)
    await first.plugin["xep_0115"].update_caps(broadcast=False)  # slixmpp computes them in a task of its own
    first.send_presence()
    second = await connect(server, first.boundjid.bare, "xep_0115")
    other = DeviceDirectory(second)

    await other.publish("d2", Element(f"{{{NS}}}device"))
    assert await asyncio.wait_for(heard.get(), 120) == first.boundjid.bare
    await asyncio.sleep(0.2)  # ejabberd tells it more than once
    while not heard.empty():
        heard.get_nowait()
    await other.retract("d2")
    if server.software == "Prosody":  # ejabberd tells retractions to explicit subscribers only
        assert await asyncio.wait_for(heard.get(), 120) == first.boundjid.bare
    assert not await directory.items()

    directory.unwatch()
    info = await first.plugin["xep_0030"].get_info(jid=first.boundjid, local=True)
    assert not any(feature.endswith("+notify") for feature in info["features"])


async def test_a_request_under_way_fails_with_the_stream_not_after_minutes(server: DevServer, connect: Connect) -> None:
    alice = await connect(server, "alice")
    node = PEPNode(alice, f"{NS}:key-packages")
    request = asyncio.create_task(node.items())
    await asyncio.sleep(0)
    alice.abort()
    with pytest.raises(Disconnected):
        await asyncio.wait_for(request, 30)
    with pytest.raises(Disconnected):
        await node.items()
