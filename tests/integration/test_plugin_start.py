"""Starting: the keys in the directory, and what may keep a client from starting."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import ClientXMPP
from slixmpp.plugins.base import PluginNotFound

from slixmpp_mls.delivery import DeviceDirectory, KeyPackageDirectory, Stream
from slixmpp_mls.delivery.forms import FORM
from slixmpp_mls.delivery.pep import PUBSUB_OWNER
from slixmpp_mls.devserver import DevServer, Prosody
from slixmpp_mls.errors import DeliveryError, StoreLocked, StoreMismatch, UsageError
from slixmpp_mls.key_packages.items import Place
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.stanza import Device, KeyPackage, KeyPackageCount, parse
from slixmpp_mls.stanza.consistency import check

from ..conftest import unavailable_means_skip
from ..plugins import disable_mls
from .people import SECONDS, Cast, Person, Recorded


async def key_packages(reader: Person, of: Person) -> dict[str, KeyPackage]:
    """What a stranger finds in the directory."""
    items = await KeyPackageDirectory(reader.client).items(of.account)
    found = {item_id: parse(element) for item_id, element in items.items()}
    assert all(isinstance(element, KeyPackage) for element in found.values())
    return found  # type: ignore[return-value]


async def configuration(person: Person, node: str) -> dict[str, str]:
    """A node's configuration, as its owner is shown it."""
    owner = Element(f"{{{PUBSUB_OWNER}}}pubsub")
    SubElement(owner, f"{{{PUBSUB_OWNER}}}configure", {"node": node})
    answer = await Stream.of(person.client).ask("get", person.account, owner)
    fields = answer.iterfind(f".//{{{FORM}}}field")
    return {field.get("var", ""): field.findtext(f"{{{FORM}}}value") or "" for field in fields}


async def test_a_hundred_keys_and_one_of_last_resort_are_there_for_all_to_read(server: DevServer, cast: Cast) -> None:
    alice = await cast.person(server, "alice", key_packages=100, label="kitchen")
    stranger = await cast.person(server, "stranger")
    found = await key_packages(stranger, alice)
    assert len(found) == 101
    assert [element.last_resort for element in found.values()].count(True) == 1
    for item_id, element in found.items():
        place = Place.of(item_id)
        assert place is not None
        assert (place.device, place.suite) == (alice.mls.device_id, element.suite)
        assert (place.number is None) is element.last_resort
        check(element)
    (device,) = (await DeviceDirectory(stranger.client).items(alice.account)).values()
    assert isinstance(listed := parse(device), Device)
    assert (listed.id, listed.label) == (alice.mls.device_id, "kitchen")
    assert listed.key_packages == (KeyPackageCount(1, 100),)
    for node in ("urn:xmpp:mls:0:key-packages", "urn:xmpp:mls:0:devices"):
        fields = await configuration(alice, node)
        assert fields["pubsub#access_model"] == "open"
        assert fields["pubsub#persist_items"] in ("1", "true")
        assert fields["pubsub#max_items"] == "max" or int(fields["pubsub#max_items"]) >= 255
        wanted = "never" if node.endswith("packages") else "on_sub_and_presence"
        assert fields["pubsub#send_last_published_item"] == wanted
    assert alice.got("mls_ready") == [alice.mls]


async def test_others_see_that_we_know_the_protocol_and_servers_that_we_want_changes_of_devices(
    prosody: DevServer, cast: Cast
) -> None:
    """slixmpp forgets features that are announced before there is an address."""
    alice, bob = await cast.person(prosody, "alice"), await cast.person(prosody, "bob")
    info = await bob.client.plugin["xep_0030"].get_info(jid=alice.client.boundjid)
    assert {"urn:xmpp:mls:0", "urn:xmpp:mls:0:devices+notify"} <= info["disco_info"]["features"]
    disable_mls(alice.client)
    info = await bob.client.plugin["xep_0030"].get_info(jid=alice.client.boundjid)
    assert not any("urn:xmpp:mls" in feature for feature in info["disco_info"]["features"])


async def test_a_used_key_package_is_retracted_and_replaced(server: DevServer, cast: Cast) -> None:
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    before = await key_packages(alice, bob)
    group = await alice.mls.create(f"cave-{bob.jid.user}@{server.rooms}")
    assert not (await group.add(bob.account)).failed
    await bob.joined(group.jid)

    async def refilled() -> dict[str, KeyPackage]:
        while True:
            found = await key_packages(alice, bob)
            if len(found) == 3 and found != before:
                return found
            await asyncio.sleep(0.05)

    after = await asyncio.wait_for(refilled(), 120)
    (used,) = (item_id for item_id, element in before.items() if after.get(item_id) != element)
    assert not before[used].last_resort  # it is the last resort, and there were others
    assert after.keys() == before.keys()


async def test_keys_about_to_expire_are_replaced_at_the_next_start(prosody: DevServer, cast: Cast) -> None:
    alice = await cast.person(prosody, "alice")
    stranger = await cast.person(prosody, "stranger")
    fresh = await key_packages(stranger, alice)
    await alice.log_out()
    await alice.connect()
    assert await key_packages(stranger, alice) == fresh
    await alice.log_out()
    alice.config["clock"] = lambda: time.time() + 22 * DAY  # of 28
    await alice.connect()
    replaced = await key_packages(stranger, alice)
    assert len(replaced) == len(fresh) == 3
    assert not {each.ref for each in replaced.values()} & {each.ref for each in fresh.values()}


async def test_keys_that_somebody_removed_are_published_again(prosody: DevServer, cast: Cast) -> None:
    """Another client of the account, or the server's operator, may clear the node."""
    alice = await cast.person(prosody, "alice")
    stranger = await cast.person(prosody, "stranger")
    before = await key_packages(stranger, alice)
    await alice.mls.directory.retract_many(before)
    await alice.cut()
    alice.no_resumption()
    await alice.back()
    async with asyncio.timeout(120):
        while (await key_packages(stranger, alice)).keys() != before.keys():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_items_of_other_devices_and_other_software_are_left_alone(prosody: DevServer, cast: Cast) -> None:
    one = await cast.person(prosody, "alice")
    other = await cast.person(prosody, one.jid)
    stranger = await cast.person(prosody, "stranger")
    odd = Element("{urn:xmpp:mls:0}key-package", {"ref": "00" * 32, "suite": "1"})
    await one.mls.directory.publish("odd", odd)
    await one.log_out()
    await one.connect()
    items = await KeyPackageDirectory(stranger.client).items(one.account)
    assert "odd" in items
    assert len(items) == 3 + 3 + 1
    assert {one.mls.device_id, other.mls.device_id} == set(await DeviceDirectory(stranger.client).items(one.account))


async def test_a_store_in_use_is_refused_and_can_be_tried_again(prosody: DevServer, cast: Cast) -> None:
    cast.expected_errors.append("starting failed: another client has the store")
    alice = await cast.person(prosody, "alice")
    second = await cast.person(prosody, alice.jid, online=False)
    second.store = alice.store
    await prosody.connect(second.make_client())
    with pytest.raises(StoreLocked):
        await second.ready()
    with pytest.raises(UsageError, match="not ready"):
        second.mls.device  # noqa: B018
    (error,) = second.got("mls_failed")
    assert isinstance(error, StoreLocked)
    group = await alice.mls.create(f"heath-{alice.jid.user}@{prosody.rooms}")  # the first is not disturbed
    await alice.log_out()

    await second.cut()
    await second.back()
    await second.next("mls_ready")
    await second.ready()
    assert (await second.joined(group.jid)).accounts == [alice.account]


async def test_a_store_of_another_account_is_refused(prosody: DevServer, cast: Cast) -> None:
    cast.expected_errors.append("starting failed: .* belongs to")
    alice = await cast.person(prosody, "alice")
    await alice.log_out()
    bob = await cast.person(prosody, "bob", online=False)
    bob.store = alice.store
    await prosody.connect(bob.make_client())
    with pytest.raises(StoreMismatch, match=alice.account):
        await bob.ready()
    assert isinstance(bob.got("mls_failed")[0], StoreMismatch)
    assert await bob_has_no_keys(alice, bob)


async def bob_has_no_keys(alice: Person, bob: Person) -> bool:
    await alice.connect()
    with pytest.raises(DeliveryError):  # Prosody tells strangers that they may not read what is not there
        await key_packages(alice, bob)
    return True


async def test_a_server_without_pep_is_refused(cast: Cast) -> None:
    cast.expected_errors.append("starting failed")
    server = Prosody(extra_config='modules_disabled = { "pep" }\n')
    with unavailable_means_skip():
        await server.start()
    try:
        alice = await cast.person(server, "alice", online=False)
        await server.connect(alice.make_client())
        with pytest.raises(DeliveryError):
            await alice.ready()
        assert isinstance(alice.got("mls_failed")[0], DeliveryError)
        await cast.end()
    finally:
        await server.close()


def test_a_store_must_be_named() -> None:
    client = ClientXMPP("alice@example.org", "secret")
    with pytest.raises((UsageError, PluginNotFound), match="store"):
        client.register_plugin("mls")


async def test_ready_can_be_awaited_before_there_is_a_connection(prosody: DevServer, cast: Cast) -> None:
    alice = await cast.person(prosody, "alice", online=False)
    alice.make_client()
    waiting = asyncio.create_task(alice.mls.ready())
    await asyncio.sleep(0)
    await prosody.connect(alice.client)
    await asyncio.wait_for(waiting, 120)
    assert alice.mls.fingerprint.replace(" ", "").isalnum()


async def test_within_a_session_the_invitations_before_are_read(server: DevServer, cast: Cast) -> None:
    """As with ``/load mls`` that is typed late: presence has been announced, and only the archive tells of them."""
    alice, bob = [await cast.person(server, name) for name in ("alice", "bob")]
    room = f"coven-{alice.jid.user}@{server.rooms}"
    coven = await alice.mls.create(room)
    await bob.log_out()
    client = server.client(bob.jid, factory=Recorded)
    await server.connect(client)
    assert not (await coven.add(bob.account)).failed
    async with asyncio.timeout(SECONDS):
        while b"jabber:x:conference" not in client.received:  # noqa: ASYNC110  # there is no handler for it
            await asyncio.sleep(0.05)
    client.register_plugin("mls", {"store": str(bob.store)})
    bob.clients.append(client)
    await bob.joined(room)


async def test_a_failed_start_is_an_event_and_no_stray_exception(
    prosody: DevServer, cast: Cast, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio complains of a task whose exception nobody has seen; nobody need wait for `ready`."""
    cast.expected_errors.append("starting failed")
    alice = await cast.person(prosody, "alice")
    second = await cast.person(prosody, alice.jid, online=False)
    second.store = alice.store
    await prosody.connect(second.make_client())
    await second.next("mls_failed")
    second.crash()
    second.clients.clear()
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR and r.name == "asyncio"] == []


async def test_a_stream_that_breaks_at_the_start_is_no_failure(prosody: DevServer, cast: Cast) -> None:
    """Whoever waits until all is ready goes on waiting, and the next session brings it."""
    alice = await cast.person(prosody, "alice", online=False)
    client = alice.make_client()
    client.swallowing = "urn:xmpp:mls:0:devices"  # the first thing that is asked for
    await prosody.connect(client)
    ready = asyncio.create_task(alice.mls.ready())
    await alice.until(lambda: client.swallowed)
    await alice.cut()
    client.swallowing = False
    await asyncio.sleep(0)
    assert not ready.done()
    await alice.back()
    async with asyncio.timeout(SECONDS):
        await ready
    assert not alice.got("mls_failed")
    assert len(alice.got("mls_ready")) == 1
