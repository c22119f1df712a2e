"""The signature key replaced in place, on real servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from slixmpp_mls.account import key_rotation
from slixmpp_mls.client import Device
from slixmpp_mls.delivery import KeyPackageDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import NoAnswer
from slixmpp_mls.identity import fingerprint
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.stanza import KeyPackage, parse
from slixmpp_mls.stanza.consistency import check as check_consistency

from ..conftest import unique
from .people import Cast, Person, all_agree


@pytest.fixture(autouse=True)
def _no_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rotation, "OVERLAP", 0)
    monkeypatch.setattr(key_rotation, "ROOM_TIMEOUT", 120.0)


async def listed(person: Person) -> list[str]:
    """Fingerprints of the keys that a device lists, the present one first."""
    (device,) = [each for each in await person.mls.devices.all() if each.this]
    return [fingerprint(key) for keys in device.signature_keys.values() for key in keys]


async def published(person: Person) -> set[str]:
    """Fingerprints of the keys in its KeyPackages."""
    found = set()
    for element in (await KeyPackageDirectory(person.client).items()).values():
        item = parse(element)
        assert isinstance(item, KeyPackage)
        package: Any = check_consistency(item).body
        found.add(fingerprint(package.leaf_node.signature_key))
    return found


def in_group(viewer: Person, member: Person, room: str | None = None) -> str:
    (found,) = [each for each in viewer.room(room).members if each.account == member.account]
    return found.fingerprint


def private_keys(device: Device) -> bytes:
    return device.signature_key(CipherSuite.get(1)).encode()


async def test_the_key_is_replaced_everywhere_and_the_old_one_is_gone(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    second = f"{unique('heath')}@{server.rooms}"
    await (await bob.mls.create(second)).add(alice.account)
    await alice.joined(second)
    old, old_private = alice.mls.fingerprint, private_keys(alice.mls.device)
    place = [member.leaf_index for member in bob.room(room).members if member.account == alice.account]

    done = await alice.mls.rotate_key()
    new = alice.mls.fingerprint
    assert new != old
    assert (done.fingerprint, done.moved, done.waiting) == (new, tuple(sorted((room, second))), ())
    assert done.finished
    assert alice.got("mls_key_rotated") == [done]
    assert await listed(alice) == [new]
    assert await published(alice) == {new}
    for name in (room, second):
        await all_agree(alice, bob, room=name)
        assert in_group(bob, alice, name) == new
    assert [m.leaf_index for m in bob.room(room).members if m.account == alice.account] == place
    await alice.say("Same witch, other broom", room)
    await bob.hears("Same witch, other broom")
    assert bob.got("mls_message")[-1].sender.fingerprint == new
    assert not bob.got("mls_rejected")
    assert not bob.got("mls_doubted")
    # Nothing of the old private key is left in the store; a new member can be added with a new KeyPackage.
    with alice.mls.device.store.transaction() as transaction:
        kept = [value for space in transaction.spaces() for _, value in transaction.items(space)]
    assert not [value for value in kept if old_private in value]
    third = f"{unique('moor')}@{server.rooms}"
    await (await bob.mls.create(third)).add(alice.account)
    await alice.joined(third)
    assert in_group(bob, alice, third) == new


async def test_a_group_that_cannot_be_reached_is_moved_when_it_can(prosody: DevServer, cast: Cast) -> None:
    """Until then both keys are listed, and what is said with either is good."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    other = f"{unique('heath')}@{prosody.rooms}"
    await (await bob.mls.create(other)).add(alice.account)
    away = await alice.joined(other)
    old = alice.mls.fingerprint
    await away.muc.leave()  # out of the room, and nothing brings it back but us
    away.worker.progress.live.clear()
    done = await alice.mls.rotate_key()
    new = alice.mls.fingerprint
    assert (done.moved, done.waiting, done.finished) == ((room,), (other,), False)
    assert await listed(alice) == [new, old]
    await bob.until(lambda: in_group(bob, alice, room) == new)
    assert in_group(bob, alice, other) == old
    await alice.log_out()
    await alice.connect()
    await alice.joined(other)
    again = await alice.mls.parts.rotation.go_on()
    await bob.until(lambda: in_group(bob, alice, other) == new)
    await alice.until(lambda: alice.got("mls_key_rotated"))
    assert again.fingerprint == new
    assert await listed(alice) == [new]


@pytest.mark.parametrize("step", ["listing", "switching", "replenishing", "moving", "finishing"])
async def test_a_crash_at_any_step_is_gone_on_from(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    old = alice.mls.fingerprint
    mls = alice.mls

    def fail(*_: Any) -> Any:
        raise NoAnswer("the power is out, says the test")

    places: dict[str, tuple[Any, str]] = {
        "listing": (mls.parts.own_entry, "publish"),
        "switching": (mls.device, "switch_keys"),
        "replenishing": (mls.parts.publication, "replenish"),
        "moving": (mls.parts.rotation, "_move"),
        "finishing": (mls.device, "drop_former_keys"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[step], fail)
        with pytest.raises(NoAnswer):
            await mls.rotate_key()
        alice.crash()
    await alice.connect()
    await alice.joined(room)
    await alice.mls.parts.rotation.go_on()  # as maintenance does now and then
    await alice.next("mls_key_rotated")
    new = alice.mls.fingerprint
    assert new != old
    await bob.until(lambda: in_group(bob, alice, room) == new)
    assert await listed(alice) == [new]
    assert await published(alice) == {new}
    await alice.say("Nothing is lost")
    await bob.hears("Nothing is lost")


async def test_for_an_hour_the_old_key_packages_are_good(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has fetched one before they were replaced; who joins by it is moved at once."""
    monkeypatch.setattr(key_rotation, "OVERLAP", 3600)
    now = time.time()
    clock: Callable[[], float] = lambda: now  # noqa: E731
    alice = await cast.person(prosody, "alice", clock=clock)
    bob = await cast.person(prosody, "bob")
    items = await KeyPackageDirectory(bob.client).items(alice.account)
    old = alice.mls.fingerprint
    done = await alice.mls.rotate_key()
    assert (done.finished, await listed(alice)) == (False, [alice.mls.fingerprint, old])

    async def as_before(account: str | None = None, *_: Any, **__: Any) -> Any:
        assert account == alice.account
        return items

    monkeypatch.setattr(bob.mls.directory, "items", as_before)
    room = f"{unique('heath')}@{prosody.rooms}"
    added = await (await bob.mls.create(room)).add(alice.account)
    assert added.added[0].fingerprint == old
    await alice.joined(room)
    await alice.mls.parts.rotation.go_on()
    await bob.until(lambda: in_group(bob, alice, room) == alice.mls.fingerprint)
    assert len(await listed(alice)) == 2
    now += 3601
    assert (await alice.mls.parts.rotation.go_on()).finished
    assert await listed(alice) == [alice.mls.fingerprint]


async def test_a_crash_before_the_old_key_is_taken_off_the_list(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone from the store already: the next start takes it off the list."""
    _, (alice, _) = await cast.meet(prosody, "alice", "bob")
    drop = alice.mls.device.drop_former_keys

    def drop_and_die() -> None:
        drop()
        raise NoAnswer("the power is out, says the test")

    with monkeypatch.context() as patch:
        patch.setattr(alice.mls.device, "drop_former_keys", drop_and_die)
        with pytest.raises(NoAnswer):
            await alice.mls.rotate_key()
    assert len(await listed(alice)) == 2
    alice.crash()
    await alice.connect()
    assert await listed(alice) == [alice.mls.fingerprint]
