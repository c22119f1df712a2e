"""KeyPackages and device lists as a server could hand them out: substituted, withheld, replayed.

A server serves what stands in an account's nodes.  Whoever may write there, which the account itself can, stands here
for its server.
"""

from __future__ import annotations

import time
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.authentication import NewDeviceRule, TrustOnFirstUse, TrustTable
from slixmpp_mls.client import Device, KeyPackageSettings
from slixmpp_mls.client.device import PublishedKeyPackage
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.rooms.encrypted_room import AddResult
from slixmpp_mls.stanza import KeyPackage, parse
from slixmpp_mls.store import MemoryStore

from ..conftest import unique
from ..plugins import mls_of
from .people import Cast, Person, all_agree

pytestmark = pytest.mark.server

DAY = 86_400
PATIENCE = 120.0


def made_up(account: str, device_id: str = "", *, at: float = 0.0, suite: int = 1) -> PublishedKeyPackage:
    """A KeyPackage that somebody else has made in an account's name, `at` seconds from now.

    :param device_id: for this device; else one of its own
    """
    store = MemoryStore(account)
    if device_id:
        with store.transaction() as transaction:
            transaction.put("device", b"id", device_id.encode())
    device = Device(store, settings=KeyPackageSettings(suites=(suite,)))
    bundle = device.key_packages.make(CipherSuite.get(suite), int(time.time() + at))
    return PublishedKeyPackage(bundle.reference, suite, MLSMessage.wrap(bundle.key_package), False)


async def publish(person: Person, package: PublishedKeyPackage, *, under: bytes | None = None) -> None:
    reference = (under or package.reference).hex()
    element = KeyPackage(reference, package.suite, package.message, package.last_resort)
    await person.mls.directory.publish_many({reference: element.to_stdlib()})


async def withhold(person: Person) -> dict[str, Element]:
    """No KeyPackages are handed out; those that there were."""
    items = await person.mls.directory.items(person.account)
    await person.mls.directory.retract_many(items)
    return dict(items)


async def test_substituted_stale_and_withheld_key_packages_are_named(server: DevServer, cast: Cast) -> None:
    """RFC 9420 10.1, 5.3.1: what is not the account's own, or not valid now, is not used, and the result says why."""
    alice = await cast.person(server, "alice")
    bob, mallory = await cast.person(server, "bob"), await cast.person(server, "mallory")
    group = await alice.mls.create(f"{unique('coven')}@{server.rooms}")

    genuine = await withhold(bob)
    assert "no KeyPackage" in (await group.add(bob.account)).failed[bob.account]

    foreign = made_up(mallory.account)
    for what, package, reason in (
        ("of another account", foreign, f"claims to be {mallory.account}"),
        ("expired", made_up(bob.account, at=-60 * DAY), "not valid any more"),
        ("not valid yet", made_up(bob.account, at=60 * DAY), "not valid yet"),
        ("of a device that the server has made", made_up(bob.account), "lists no device"),
    ):
        await publish(bob, package)
        result = await group.add(bob.account)
        assert not result.added, what
        assert reason in result.failed[bob.account], (what, result.failed)
        await bob.mls.directory.retract(package.reference.hex())

    place, element = next(iter(genuine.items()))
    listed = parse(element)
    assert isinstance(listed, KeyPackage)
    broken = bytearray(listed.data)
    broken[-1] ^= 1  # the signature's last octet
    for what, data, under, reason in (
        ("changed", bytes(broken), listed.ref, "signature"),
        ("under another one's reference", listed.data, foreign.reference.hex(), "reference"),
    ):
        forged = KeyPackage(under, listed.suite, data, listed.last_resort)
        await bob.mls.directory.publish_many({under: forged.to_stdlib()})
        result = await group.add(bob.account)
        assert not result.added, what
        assert reason in result.failed[bob.account], (what, result.failed)
        await bob.mls.directory.retract(under)

    # One genuine KeyPackage among all that garbage is enough, and the garbage is in nobody's way.
    await publish(bob, foreign)
    await publish(bob, made_up(bob.account))
    await bob.mls.directory.publish_many({place: element})
    result = await group.add(bob.account)
    assert [str(member) for member in result.added] == [f"{bob.account}/{bob.mls.device_id}"]
    assert not result.skipped
    await bob.joined(group.jid)
    await alice.say("Fair is foul, and foul is fair")
    await bob.hears("Fair is foul, and foul is fair")


@pytest.mark.parametrize("first", ["created with", "added"])
async def test_genuine_key_packages_are_found_among_many_in_the_same_name(
    server: DevServer, cast: Cast, first: str
) -> None:
    """One device, several keys: the one that is picked is of the key which the account lists for it."""
    alice = await cast.person(server, "alice", cipher_suites=(2, 1))
    bob = await cast.person(server, "bob", key_packages=1)
    for _ in range(12):
        await publish(bob, made_up(bob.account, bob.mls.device_id))
    room = f"{unique('coven')}@{server.rooms}"
    if first == "added":
        result = await (await alice.mls.create(room, suite=1)).add(bob.account)
    else:
        result = (await alice.mls.create(room, invite=[bob.account])).invited or AddResult()
    assert [str(member) for member in result.added] == [f"{bob.account}/{bob.mls.device_id}"]
    await bob.joined(room)
    await bob.say("I am he")
    await alice.hears("I am he")
    assert not alice.got("mls_key_changed")


async def test_a_server_that_lists_a_device_of_its_own(server: DevServer, cast: Cast) -> None:
    """The directory alone believes it, for all to see; who remembers keys does not."""
    alice = await cast.person(server, "alice", online=False)
    client = alice.make_client()
    plugin = mls_of(client)
    inner = plugin.authentication
    table = TrustTable(MemoryStore(alice.account))
    plugin._service = TrustOnFirstUse(inner, table, new_device=NewDeviceRule.REFUSE)
    await server.connect(client)
    await alice.ready()
    bob = await cast.person(server, "bob")
    group = await alice.mls.create(f"{unique('coven')}@{server.rooms}")
    assert (await group.add(bob.account)).added
    await bob.joined(group.jid)
    # The same account, by whom its server lets in: published, listed, and vouched for by the directory.
    spy = await cast.person(server, bob.jid)
    result = await group.add(bob.account)
    assert not result.added
    assert list(result.skipped) == [f"{bob.account}/{spy.mls.device_id}"]
    assert len(group.members) == 2


@pytest.mark.parametrize("days", [0, 2])
async def test_a_key_package_that_is_handed_out_again(server: DevServer, cast: Cast, days: int) -> None:
    """RFC 9420 16.8: its private keys go a day after its first use; whoever is added by it later asks to be added."""
    alice, carol = await cast.person(server, "alice"), await cast.person(server, "carol")
    bob = await cast.person(server, "bob", key_packages=1)
    first = await alice.mls.create(f"{unique('coven')}@{server.rooms}")
    before = await bob.mls.directory.items(bob.account)
    assert (await first.add(bob.account)).added
    await bob.joined(first.jid)
    await bob.mls.replenish()  # if that is not under way already
    after = await bob.mls.directory.items(bob.account)
    used = {item_id: before[item_id] for item_id in before if before[item_id].text != after[item_id].text}
    (ref,) = used
    bob.mls.device.key_packages.forget_spent(int(time.time()) + days * DAY)
    await bob.mls.directory.retract_many(after)
    await bob.mls.directory.publish_many({ref: used[ref]})
    second = await carol.mls.create(f"{unique('heath')}@{server.rooms}")
    assert (await second.add(bob.account)).added  # carol cannot know
    await bob.until(lambda: second.jid in bob.mls.rooms)
    if days:
        await bob.until(lambda: bob.got("mls_rejoining"), PATIENCE)
    await bob.joined(second.jid, PATIENCE)
    await all_agree(bob, carol, room=second.jid)
    await carol.say("Where hast thou been, sister?", second.jid)
    await bob.hears("Where hast thou been, sister?")
