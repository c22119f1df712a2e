"""Several devices of one account: listed, named, admitted, retired; on real servers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from slixmpp_mls.account import devices as devices_module
from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.account.events import DeviceStatus, OwnDevice
from slixmpp_mls.account.own_entry import OwnEntry
from slixmpp_mls.client import Device
from slixmpp_mls.delivery import DeviceDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DeviceRetired, NodeUnusable, NotPermitted, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.policy import DeviceVoucher, RoomPolicy
from slixmpp_mls.store import SQLiteStore

from ..conftest import unique
from .people import Cast, Person, all_agree, eventually


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "JITTER", 0.3)
    monkeypatch.setattr(devices_module, "RETRY", 1.0)
    monkeypatch.setattr(devices_module, "ROOM_TIMEOUT", 120.0)  # of a busy machine's rooms as well


async def another(cast: Cast, person: Person, **config: Any) -> Person:
    """Another device of somebody's account, with KeyPackages enough for whoever adds it somewhere."""
    return await cast.person(person.server, person.jid, **{"key_packages": 20, **config})


async def replenished(device: Person, times: int = 1) -> None:
    """Wait until the KeyPackages by which it was added are out of the directory, so that nobody else takes one."""
    await device.until(lambda: sum(change.retracted for change in device.got("mls_key_packages")) >= times)


async def devices(person: Person) -> dict[str, OwnDevice]:
    return {device.id: device for device in await person.mls.devices.all()}


def inside(person: Person, other: Person, room: str | None = None) -> bool:
    """Whether somebody sees somebody's device in a room."""
    return any(
        (member.account, member.device) == (other.account, other.mls.device_id) for member in person.room(room).members
    )


async def new_room(person: Person, *others: Person, policy: RoomPolicy | None = None) -> str:
    room = f"{unique('heath')}@{person.server.rooms}"
    if policy is not None:
        policy = RoomPolicy(room, policy.administrators, own_devices=policy.own_devices)
    group = await person.mls.create(room, policy=policy)
    if others:
        result = await group.add(*(other.account for other in others))
        assert not result.failed, result
        assert not result.skipped, result
        for other in others:
            await other.joined(room)
    return room


# --- seeing them -----------------------------------------------------------------------------------


async def test_an_accounts_devices_are_listed_with_all_that_is_known(server: DevServer, cast: Cast) -> None:
    phone = await cast.person(server, "alice", label="Phone", key_packages=3)
    laptop = await another(cast, phone, label="Laptop", key_packages=2)
    bob = await cast.person(server, "bob")
    room = await new_room(bob, phone)
    await laptop.joined(room)
    alone = await new_room(phone)
    await laptop.say("When shall we three meet again", room)
    await phone.hears("When shall we three meet again")

    me, other = await phone.mls.devices.all()
    assert (me.id, me.label, me.this) == (phone.mls.device_id, "Phone", True)
    assert set(me.rooms) == {room, alone}
    assert (other.id, other.label, other.this) == (laptop.mls.device_id, "Laptop", False)
    assert other.rooms == (room,)
    for device, person in ((me, phone), (other, laptop)):
        assert device.fingerprint == person.mls.fingerprint
        assert device.added is not None
        assert device.last_seen is not None
        assert abs(datetime.now(UTC) - device.added) < timedelta(minutes=10)
        assert abs(datetime.now(UTC) - device.last_seen) < timedelta(minutes=10)
    assert (me.key_packages, other.key_packages) == (4, 3)  # each has one of last resort, too
    assert await bob.mls.devices.all() != []
    assert all(device.this for device in await bob.mls.devices.all())


async def test_last_seen_is_what_a_device_has_signed(prosody: DevServer, cast: Cast) -> None:
    """KeyPackages tell when they were made; a message tells of a later time."""
    long_ago = datetime.now(UTC).timestamp() - 5 * 86400
    phone = await cast.person(prosody, "alice")
    laptop = await another(cast, phone, clock=lambda: long_ago)
    assert (await devices(phone))[laptop.mls.device_id].last_seen == datetime.fromtimestamp(int(long_ago), UTC)
    room = await new_room(phone, laptop)
    await phone.until(lambda: inside(phone, laptop))
    await laptop.log_out()
    laptop.config.pop("clock")
    await laptop.connect()
    await laptop.joined(room)
    await laptop.room().update()
    await phone.until(lambda: phone.room().epoch == laptop.room().epoch)
    seen = (await devices(phone))[laptop.mls.device_id].last_seen
    assert seen is not None
    assert datetime.now(UTC) - seen < timedelta(minutes=10)


async def test_a_device_is_renamed_by_another_and_keeps_the_name(server: DevServer, cast: Cast) -> None:
    phone = await cast.person(server, "alice", label="Phone")
    laptop = await another(cast, phone, label="Laptop")
    before = (await devices(phone))[laptop.mls.device_id]
    await phone.mls.devices.rename(laptop.mls.device_id, "Kitchen ☎")
    after = (await devices(phone))[laptop.mls.device_id]
    assert (after.label, after.added, after.fingerprint) == ("Kitchen ☎", before.added, before.fingerprint)
    await laptop.log_out()
    await laptop.connect()
    assert (await devices(laptop))[laptop.mls.device_id].label == "Kitchen ☎"
    await laptop.log_out()
    laptop.config["label"] = "Hall"  # its owner has changed the configuration
    await laptop.connect()
    assert (await devices(phone))[laptop.mls.device_id].label == "Hall"
    await phone.mls.devices.rename(laptop.mls.device_id, None)
    assert (await devices(phone))[laptop.mls.device_id].label is None
    for device_id, label in (("nobody", "x"), (laptop.mls.device_id, "two\nlines")):
        with pytest.raises(UsageError):
            await phone.mls.devices.rename(device_id, label)


# --- new devices -----------------------------------------------------------------------------------


async def test_a_new_device_is_reported_once_and_let_in_when_it_is_admitted(server: DevServer, cast: Cast) -> None:
    room, (phone, bob) = await cast.meet(server, "alice", "bob")
    other = await new_room(bob, phone)
    tablet = await another(cast, phone, label="Tablet")
    event = await phone.next("mls_new_device")
    assert (event.id, event.label, event.fingerprint, event.admitted) == (
        tablet.mls.device_id,
        "Tablet",
        tablet.mls.fingerprint,
        False,
    )
    await phone.log_out()
    await phone.connect()
    await phone.joined(room)
    await phone.joined(other)
    assert (await devices(phone))[tablet.mls.device_id].status is DeviceStatus.NEW
    assert not inside(phone, tablet, room)
    assert not tablet.got("mls_new_device")  # the others were there before
    changed = await phone.mls.devices.admit(tablet.mls.device_id)
    assert (changed.done, changed.waiting) == (tuple(sorted((room, other))), {})
    for place in (room, other):
        await tablet.joined(place)
        await all_agree(phone, bob, tablet, room=place)
    await tablet.say("Here I have a pilot's thumb", room)
    await bob.hears("Here I have a pilot's thumb")
    assert len(phone.got("mls_new_device")) == 1
    assert (await phone.mls.devices.admit(tablet.mls.device_id)).done == ()
    for unknown in ("nobody", phone.mls.device_id):
        with pytest.raises(UsageError):
            await phone.mls.devices.admit(unknown)


async def test_with_add_a_new_device_comes_into_all_rooms_by_itself(server: DevServer, cast: Cast) -> None:
    """Several devices see it; one adds it, and the others do nothing."""
    phone = await cast.person(server, "alice", new_devices="add")
    laptop = await another(cast, phone, new_devices="add")
    bob = await cast.person(server, "bob")
    rooms = [await new_room(bob, phone), await new_room(bob, phone)]
    for room in rooms:
        await laptop.joined(room)
    tablet = await another(cast, phone, new_devices="add")
    for room in rooms:
        await tablet.joined(room)
        await all_agree(phone, laptop, bob, tablet, room=room)
        await bob.until(lambda room=room: len(bob.room(room).members) == 4)  # type: ignore[misc]

    def admitted(person: Person) -> list[bool]:
        return [event.admitted for event in person.got("mls_new_device") if event.id == tablet.mls.device_id]

    for person in (phone, laptop):
        await person.until(partial(admitted, person))
        assert admitted(person) == [True]
    assert not bob.got("mls_rejected")


async def test_a_new_device_waits_for_rooms_that_its_elders_are_away_from(prosody: DevServer, cast: Cast) -> None:
    """A group joined while nobody knew of the new device gets it, too, as it was admitted before."""
    phone = await cast.person(prosody, "alice", new_devices="add")
    bob = await cast.person(prosody, "bob")
    room = await new_room(bob, phone)
    await phone.log_out()
    tablet = await another(cast, phone)
    await phone.connect()
    await tablet.joined(room)
    await phone.until(lambda: inside(phone, tablet, room))
    # Bob's view of the account is of a time before the tablet: it is not in the room that he makes next.
    name = f"{unique('heath')}@{prosody.rooms}"
    group = await bob.mls.create(name)
    await group.add(f"{phone.account}/{phone.mls.device_id}")
    await phone.joined(name)
    await tablet.joined(name)
    await all_agree(phone, bob, tablet, room=name)


async def test_where_policy_forbids_it_a_device_is_not_added_and_that_is_said(prosody: DevServer, cast: Cast) -> None:
    phone, bob = await cast.person(prosody, "alice"), await cast.person(prosody, "bob")
    closed = await new_room(bob, phone, policy=RoomPolicy("any@room.example", (bob.account,), own_devices=False))
    open_one = await new_room(bob, phone)
    tablet = await another(cast, phone)
    await phone.next("mls_new_device")
    changed = await phone.mls.devices.admit(tablet.mls.device_id)
    assert changed.done == (open_one,)
    assert "policy" in changed.waiting[closed]
    await replenished(tablet)
    name = f"{phone.account}/{tablet.mls.device_id}"
    assert (await bob.mls.room(closed).add(name)).added[0].device == tablet.mls.device_id
    await tablet.joined(closed)


# --- retiring --------------------------------------------------------------------------------------


async def test_a_retired_device_is_out_of_everything_and_stops(server: DevServer, cast: Cast) -> None:
    room, (phone, bob) = await cast.meet(server, "alice", "bob")
    lost = await another(cast, phone)
    await phone.next("mls_new_device")
    await phone.mls.devices.admit(lost.mls.device_id)
    await lost.joined(room)
    await replenished(lost)
    second = await new_room(bob, phone)
    await lost.joined(second)
    name = lost.mls.device_id

    changed = await phone.mls.devices.retire(name)
    assert (changed.done, changed.waiting) == (tuple(sorted((room, second))), {})
    await bob.until(lambda: name not in {m.device for place in (room, second) for m in bob.room(place).members})
    marker = await lost.next("mls_retired")
    assert marker.id == name
    await lost.until(lambda: not lost.mls.rooms)
    with pytest.raises(DeviceRetired):
        await lost.mls.create(f"{unique('heath')}@{server.rooms}")
    assert (await devices(phone))[name].status is DeviceStatus.RETIRED
    assert (await devices(phone))[name].key_packages == 0
    # Nobody can add it any more, and its store holds no keys to join with.
    await bob.until(lambda: inside(bob, phone, room))
    result = await bob.mls.room(second).add(f"{phone.account}/{name}")
    assert result.added == ()
    with lost.mls.device.store.transaction() as transaction:
        assert not list(transaction.items("key-package"))
        assert not list(transaction.spaces("group/"))
    # Once retired, always retired: neither a restart nor its own word brings it back.
    cast.expected_errors.append("starting failed: this device was retired")
    await lost.log_out()
    with pytest.raises(DeviceRetired):
        await lost.connect()

    async def marked() -> bool:
        """Its last words may have come after the marker; then it is retired again."""
        listed = await DeviceDirectory(phone.client).items()
        return [element.tag.partition("}")[2] for key, element in listed.items() if key == name] == ["retired-device"]

    await eventually(marked)
    await all_agree(phone, bob, room=room)


async def test_a_device_that_is_retired_while_it_is_away_learns_of_it(server: DevServer, cast: Cast) -> None:
    room, (phone, _) = await cast.meet(server, "alice", "bob")
    lost = await another(cast, phone)
    await phone.next("mls_new_device")
    await phone.mls.devices.admit(lost.mls.device_id)
    await lost.joined(room)
    await lost.log_out()
    await phone.mls.devices.retire(lost.mls.device_id if "mls" in lost.client.plugin else _only_other(phone, room))
    cast.expected_errors.append("starting failed: this device was retired")
    with pytest.raises(DeviceRetired):
        await lost.connect()
    assert len(lost.got("mls_retired")) == 1
    assert lost.mls.rooms == {}


def _only_other(person: Person, room: str) -> str:
    (name,) = {
        member.device
        for member in person.room(room).members
        if member.account == person.account and member.device != person.mls.device_id
    }
    return name


async def test_the_remaining_devices_remove_it_where_the_one_that_retires_it_is_not(
    server: DevServer, cast: Cast
) -> None:
    """Those that are online at once, one that is offline when it comes back."""
    phone = await cast.person(server, "alice")
    lost, tablet = await another(cast, phone), await another(cast, phone)
    bob = await cast.person(server, "bob")
    name = f"{unique('heath')}@{server.rooms}"
    group = await bob.mls.create(name)
    for device in (lost, tablet):
        await group.add(f"{phone.account}/{device.mls.device_id}")
        await device.joined(name)
    await tablet.log_out()
    gone = lost.mls.device_id
    assert (await phone.mls.devices.retire(gone)).done == ()
    await lost.next("mls_retired")
    assert gone in {member.device for member in bob.room(name).members}
    await tablet.connect()
    await bob.until(lambda: gone not in {member.device for member in bob.room(name).members})
    changed = bob.got("mls_group_changed")[-1]
    assert (changed.by.device, [member.device for member in changed.removed]) == (tablet.mls.device_id, [gone])


async def test_a_device_can_retire_itself(prosody: DevServer, cast: Cast) -> None:
    _, (phone, bob) = await cast.meet(prosody, "alice", "bob")
    name = phone.mls.device_id
    await phone.mls.devices.retire(name)
    await phone.next("mls_retired")
    await bob.until(lambda: bob.room().accounts == [bob.account])
    with pytest.raises(DeviceRetired):
        await phone.mls.ready()


async def test_what_is_not_ours_is_not_retired(prosody: DevServer, cast: Cast) -> None:
    phone = await cast.person(prosody, "alice")
    with pytest.raises(UsageError):
        await phone.mls.devices.retire("nobody")
    assert list(await DeviceDirectory(phone.client).items()) == [phone.mls.device_id]


async def test_a_stolen_retired_device_that_goes_on_is_not_heard(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its software does not stop, and publishes itself again: nobody lets it in.

    What it says with the keys of the time when it was a member is marked: nobody can tell it from a message that was
    under way when the room got the Commit.
    """
    room, (phone, bob) = await cast.meet(prosody, "alice", "bob")
    stolen = await another(cast, phone)
    await phone.next("mls_new_device")
    await phone.mls.devices.admit(stolen.mls.device_id)
    await stolen.joined(room)
    thief = stolen.mls.devices

    async def never(marker: object) -> None:
        return None

    monkeypatch.setattr(thief, "_stop", never)
    # It does not take notice of what the room says either, or it would be out of the group by itself.
    worker = stolen.room().worker
    assert worker._task is not None
    worker._task.cancel()
    await phone.mls.devices.retire(stolen.mls.device_id)
    await bob.until(lambda: not inside(bob, stolen, room))
    await stolen.room().send(cast.secret("I am still here, says the thief"))
    await stolen.mls.parts.own_entry.publish()
    with suppress(NodeUnusable):  # the phone retracts its KeyPackages, perhaps at once
        await stolen.mls.replenish()
    await phone.say("Is it gone?")
    await bob.hears("Is it gone?")
    marked = {message.body: message.warnings for message in bob.got("mls_message")}
    assert marked == {"I am still here, says the thief": ("removed",), "Is it gone?": ()}
    conflict = await phone.next("mls_device_conflict")
    assert (conflict.id, conflict.fingerprints) == (stolen.mls.device_id, (stolen.mls.fingerprint,))

    async def retired_again() -> bool:
        listed = (await devices(phone))[stolen.mls.device_id]
        return listed.status is DeviceStatus.RETIRED and not listed.signature_keys

    await eventually(retired_again)
    assert not inside(bob, stolen, room)
    carol = await cast.person(prosody, "carol")
    added = (await carol.mls.room(await new_room(carol)).add(phone.account)).added
    assert [member.device for member in added] == [phone.mls.device_id]


# --- one device alone ------------------------------------------------------------------------------


async def test_one_device_is_added_and_removed_alone(server: DevServer, cast: Cast) -> None:
    """By the full identity; the account stays, and stays in the room."""
    alice = await cast.person(server, "alice")
    phone = await cast.person(server, "bob")
    laptop = await another(cast, phone)
    room = await new_room(alice)
    group = alice.mls.room(room)
    result = await group.add(f"{phone.account}/{phone.mls.device_id}")
    assert [member.device for member in result.added] == [phone.mls.device_id]
    await phone.joined(room)
    assert not inside(alice, laptop, room)
    name = f"{phone.account}/{laptop.mls.device_id}"
    assert "vouches" in (await group.add(phone.account)).skipped[name]  # on its server's word alone it does not come in
    assert [member.device for member in (await group.add(name)).added] == [laptop.mls.device_id]
    await laptop.joined(room)
    removed = await group.remove(f"{phone.account}/{phone.mls.device_id}")
    assert [member.device for member in removed] == [phone.mls.device_id]
    await phone.next("mls_removed")
    await laptop.say("I remain", room)
    await alice.hears("I remain")
    result = await group.add(f"{phone.account}/nobody")
    assert list(result.failed) == [f"{phone.account}/nobody"]


async def test_an_account_is_added_and_removed_with_all_its_devices(server: DevServer, cast: Cast) -> None:
    alice, phone = await cast.person(server, "alice"), await cast.person(server, "bob")
    laptop = await another(cast, phone)
    room = await new_room(alice, phone)
    await laptop.joined(room)
    assert alice.mls.room(room).accounts == sorted((alice.account, phone.account))
    assert len(await alice.mls.room(room).remove(phone.account)) == 2
    for person in (phone, laptop):
        await person.next("mls_removed")
    assert alice.mls.room(room).accounts == [alice.account]


async def test_four_devices_with_a_hundred_key_packages_each(server: DevServer, cast: Cast) -> None:
    """More than one reads at first: none of them is left out."""
    alice = await cast.person(server, "alice")
    first = await cast.person(server, "bob", key_packages=100)
    others = [await another(cast, first, key_packages=100) for _ in range(3)]
    room = await new_room(alice)
    result = await alice.mls.room(room).add(first.account)
    assert {member.device for member in result.added} == {device.mls.device_id for device in (first, *others)}
    for device in (first, *others):
        await device.joined(room)


# --- odd things ------------------------------------------------------------------------------------


def with_id(cast: Cast, account: str, device_id: str) -> str:
    """A store whose device was given this id."""
    path = cast.folder / f"{unique('same')}.db"
    store = SQLiteStore(path, account)
    with store.transaction() as transaction:
        transaction.put("device", b"id", device_id.encode())
    Device(store)
    store.close()
    return str(path)


async def test_a_new_device_with_an_id_that_is_taken_takes_another(server: DevServer, cast: Cast) -> None:
    room, (phone, bob) = await cast.meet(server, "alice", "bob")
    same = phone.mls.device_id
    twin = await cast.person(server, phone.jid, online=False)
    twin.store.write_bytes(b"")
    twin.config["store"] = with_id(cast, phone.account, same)
    await twin.connect()
    assert twin.mls.device_id != same
    assert (await devices(phone)).keys() == {same, twin.mls.device_id}
    await phone.next("mls_new_device")
    await phone.mls.devices.admit(twin.mls.device_id)
    await twin.joined(room)
    await all_agree(phone, bob, twin)


async def test_a_device_whose_entry_was_replaced_says_so_and_puts_its_own_there_again(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of its store that runs, or a server that lies.  The group goes on with the leaf that it knows."""
    _, (phone, bob) = await cast.meet(server, "alice", "bob")
    same, key = phone.mls.device_id, phone.mls.fingerprint
    impostor = await cast.person(server, phone.jid, online=False)
    await phone.log_out()
    impostor.config["store"] = with_id(cast, phone.account, same)
    with monkeypatch.context() as patch:
        patch.setattr(OwnEntry, "check", _believe_nobody)  # its software does not follow the rules
        await impostor.connect()
    false = impostor.mls.fingerprint
    result = await bob.room().add(phone.account)
    assert result.added == ()  # the id is in the group already: a client has one leaf
    await impostor.log_out()
    await phone.connect()
    conflict = await phone.next("mls_device_conflict")
    assert (conflict.id, conflict.fingerprints) == (same, (false,))
    assert (await devices(phone))[same].fingerprint == key
    await phone.joined(bob.room().jid)
    await phone.say("This is I")
    await bob.hears("This is I")


async def _believe_nobody(entry: OwnEntry) -> None:
    return None


async def test_a_lost_node_makes_nobody_throw_anybody_out(server: DevServer, cast: Cast) -> None:
    room, (phone, bob) = await cast.meet(server, "alice", "bob")
    laptop = await another(cast, phone)
    await phone.next("mls_new_device")
    await phone.mls.devices.admit(laptop.mls.device_id)
    await laptop.joined(room)
    names = {phone.mls.device_id, laptop.mls.device_id}
    await laptop.log_out()
    node = DeviceDirectory(phone.client)
    await node.retract_many(names)
    phone.mls.devices.look_again()  # ejabberd tells nobody of retractions

    async def mended() -> bool:
        return set(await node.items()) == {phone.mls.device_id}

    await eventually(mended)
    await laptop.connect()
    assert set(await node.items()) == names
    assert not laptop.got("mls_retired")
    assert not bob.got("mls_removed")
    await all_agree(phone, laptop, bob)
    assert len(bob.room().members) == 3


async def test_a_member_cannot_add_a_device_for_somebody_elses_account(prosody: DevServer, cast: Cast) -> None:
    """RFC 9420 5.3.1: a KeyPackage in one account's directory that names another account."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    made_up = ClientIdentity(bob.account, "made-up")
    with pytest.raises((NotPermitted, UsageError)):
        await alice.mls.devices.admit(made_up.device)


async def test_a_second_device_comes_in_at_night_by_its_voucher(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a member of another account is online, who has no right to add: the voucher is what lets the device in."""
    phone, bob, carol = [await cast.person(server, name) for name in ("alice", "bob", "carol")]
    tablet = await another(cast, phone)
    event = await phone.next("mls_new_device")
    assert not (await phone.mls.devices.admit(event.id, tablet.mls.fingerprint)).done  # no rooms yet
    monkeypatch.setattr(devices_module, "JITTER", 1e6)  # it has no time to add the tablet itself
    room = f"{unique('heath')}@{server.rooms}"
    group = await bob.mls.create(room)
    await group.add(carol.account, f"{phone.account}/{phone.mls.device_id}")
    for person in (phone, carol):
        await person.joined(room)
    suite = group.group.mls.suite
    await tablet.until(lambda: tablet.mls.device.vouchers(suite, int(datetime.now(UTC).timestamp())))
    await phone.log_out()
    await bob.log_out()  # who may add
    await tablet.mls.join(room)
    await all_agree(carol, tablet, room=room)
    assert not carol.got("mls_join_requested")
    await tablet.say("When shall we three meet again?", room)
    await carol.hears("When shall we three meet again?")
    await phone.connect()
    await phone.hears("When shall we three meet again?")
    # A device for which nobody vouches waits, whoever asks: ``new_devices`` is "ask".
    await phone.log_out()
    stranger = await another(cast, phone)
    joining = asyncio.create_task(stranger.mls.join(room))
    request = await carol.next("mls_join_requested")
    assert (request.device, request.reason) == (stranger.mls.device_id, "unproven")
    joining.cancel()
    assert not inside(carol, stranger, room)


async def test_two_devices_vouch_for_a_third_at_once(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read its item before either publishes it: the later one overwrites the earlier one's voucher at first."""
    phone = await cast.person(server, "alice")
    laptop = await another(cast, phone)
    tablet = await another(cast, phone)
    for each in (phone, laptop):
        await each.until(lambda each=each: tablet.mls.device_id in {new.id for new in each.got("mls_new_device")})  # type: ignore[misc]
    directory, done = laptop.mls.parts.context.devices, asyncio.Event()
    publish, read = directory.publish, asyncio.Event()

    async def late(item_id: str, element: Any) -> None:
        read.set()
        await done.wait()
        await publish(item_id, element)

    with monkeypatch.context() as interleaved:
        interleaved.setattr(directory, "publish", late)
        second = asyncio.create_task(laptop.mls.devices.admit(tablet.mls.device_id))
        await asyncio.wait_for(read.wait(), 120)
        await phone.mls.devices.admit(tablet.mls.device_id)
        done.set()
        await second
    number = tablet.mls.device.suites[0]
    suite = CipherSuite.get(number)
    expected = {str(each.mls.device.identity).encode() for each in (phone, laptop)}

    def kept() -> set[bytes]:
        return {voucher.issuer for voucher in tablet.mls.device.vouchers(suite, int(datetime.now(UTC).timestamp()))}

    await tablet.until(lambda: kept() == expected)

    async def published() -> bool:
        item = (await read_devices(tablet.mls.parts.context.devices)).devices[tablet.mls.device_id]
        found = [DeviceVoucher.decode(each.data) for each in item.vouchers if each.scheme == suite.signature_scheme]
        return {voucher.issuer for voucher in found} == expected

    await eventually(published)


async def test_a_device_that_is_retired_just_as_somebody_adds_it(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob has found it in its account's list; his Commit comes after its retirement.  It is out again at once."""
    room, (bob, phone) = await cast.meet(server, "bob", "alice")
    laptop = await another(cast, phone)
    handle, holds, retired = bob.room(), asyncio.Event(), asyncio.Event()
    committer = handle.worker.committer
    commit = committer.commit

    async def late(*args: Any, **options: Any) -> Any:
        holds.set()
        await retired.wait()
        return await commit(*args, **options)

    with monkeypatch.context() as interleaved:
        interleaved.setattr(committer, "commit", late)
        adding = asyncio.create_task(handle.add(f"{phone.account}/{laptop.mls.device_id}"))
        await asyncio.wait_for(holds.wait(), 120)
        await phone.mls.devices.retire(laptop.mls.device_id)
        retired.set()
        (added,) = (await adding).added
    assert added.device == laptop.mls.device_id
    await bob.until(lambda: not inside(bob, laptop, room))
    await all_agree(bob, phone)
    await laptop.next("mls_retired")
    await bob.say("Fair is foul", room)
    await phone.hears("Fair is foul")
