"""Rooms: made, adopted, filled, talked in, emptied."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from xml.etree.ElementTree import Element

import pytest
from slixmpp import JID

from slixmpp_mls.client import Device
from slixmpp_mls.client.device import KeyPackageSettings
from slixmpp_mls.delivery import KeyPackageDirectory, Room, Stream
from slixmpp_mls.delivery.forms import FORM
from slixmpp_mls.delivery.muc_config import MUC_OWNER
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import NotPermitted, RoomLost, RoomUnsuitable, UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.policy import Right, RoomPolicy
from slixmpp_mls.stanza import KeyPackage
from slixmpp_mls.store import MemoryStore

from ..conftest import unique
from .people import SECONDS, Cast, Person, agree, all_agree
from .test_room import reconfigure


async def test_the_main_job(server: DevServer, cast: Cast) -> None:
    """A room is made, people are added, talk, renew keys, are removed, leave."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await (await alice.say("Fair is foul")).confirmed
    await bob.say("and foul is fair")
    await carol.hears("Fair is foul", "and foul is fair")
    await alice.hears("and foul is fair")
    await bob.hears("Fair is foul")
    changed = await bob.room().update()
    assert (changed.by.account, changed.epoch) == (bob.account, 2)
    await all_agree(alice, bob, carol, epoch=2)
    (gone,) = await alice.room().remove(bob.account)
    assert (gone.account, gone.device) == (bob.account, bob.mls.device_id)
    removed = await bob.next("mls_removed")
    assert (removed.by.account, removed.wanted) == (alice.account, False)
    assert not bob.room().is_member
    await carol.room().leave()
    assert carol.mls.rooms == {}
    assert carol.got("mls_removed")[0].wanted
    await alice.until(lambda: alice.room().accounts == [alice.account])
    for person, epochs in ((alice, [1, 2, 3, 4]), (carol, [2, 3])):
        assert [event.epoch for event in person.got("mls_group_changed")] == epochs
    assert [event.by.account for event in bob.got("mls_joined")] == [alice.account]
    assert bob.got("mls_invited")[0].inviter == JID(alice.account)
    for person in (alice, bob, carol):
        assert person.got("mls_entered")
        assert person.got("mls_catching_up")[-1].complete
        assert not person.got("mls_rejected")
        assert not person.got("mls_unreadable")


async def test_own_messages_are_confirmed_and_not_received(server: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    sent = await alice.say("Double, double toil and trouble")
    archive_id = await asyncio.wait_for(sent.confirmed, SECONDS)
    await bob.hears("Double, double toil and trouble")
    (event,) = alice.got("mls_sent")
    assert (event.origin_id, event.archive_id) == (sent.origin_id, archive_id)
    (message,) = bob.got("mls_message")
    assert message.archive_id == archive_id
    assert message.message["id"] == sent.origin_id
    assert message.sender.account == alice.account
    assert message.sender.device == alice.mls.device_id
    assert message.sender.fingerprint == alice.mls.fingerprint
    assert message.warnings == ()
    assert message.room.jid == bob.room().jid
    assert not alice.got("mls_message")
    assert not bob.got("mls_sent")


async def test_members_are_known_by_account_device_and_fingerprint(prosody: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    for person in (alice, bob):
        listed = {(m.account, m.device, m.fingerprint) for m in person.room().members}
        assert listed == {(p.account, p.mls.device_id, p.mls.fingerprint) for p in (alice, bob)}
        since = [m.since for m in person.room().members]
        assert all(at is not None and abs(at - time.time()) < 600 for at in since)


async def test_one_alone_is_a_group(prosody: DevServer, cast: Cast) -> None:
    _, (alice,) = await cast.meet(prosody, "alice")
    await asyncio.wait_for((await alice.say("Is this a dagger")).confirmed, SECONDS)
    assert (await alice.room().update()).epoch == 1
    await asyncio.wait_for((await alice.say("which I see before me")).confirmed, SECONDS)
    assert not alice.bodies
    await alice.room().leave()
    assert alice.mls.rooms == {}


# Making and adopting rooms


async def form(person: Person, room: str) -> dict[str, list[str]]:
    """The room's configuration, as its owner is shown it."""
    answer = await Stream.of(person.client).ask("get", room, Element(f"{{{MUC_OWNER}}}query"))
    fields = answer.iterfind(f".//{{{FORM}}}field")
    return {f.get("var", ""): [v.text or "" for v in f.iterfind(f"{{{FORM}}}value")] for f in fields}


async def test_a_room_that_exists_is_not_made_again(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    carol = await cast.person(prosody, "carol")
    with pytest.raises(UsageError, match="already a member"):
        await alice.mls.create(room)
    with pytest.raises((UsageError, NotPermitted)):
        await carol.mls.create(room)
    assert carol.mls.rooms == {}
    assert agree(alice, bob)


async def test_a_fit_room_is_adopted_as_it_is(server: DevServer, cast: Cast) -> None:
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    room = f"{unique('hall')}@{server.rooms}"
    plain = Room(alice.client, room, "lady")
    await plain.create("The hall")
    await plain.leave()
    before = await form(alice, room)
    group = await alice.mls.adopt(room)
    assert (await group.add(bob.account)).added[0].account == bob.account
    await bob.joined(room)
    await alice.say("Out, damned spot", room)
    await bob.hears("Out, damned spot")
    assert await form(alice, room) == before


async def test_an_unfit_room_is_refused_by_name_and_left_alone(server: DevServer, cast: Cast) -> None:
    alice = await cast.person(server, "alice")
    room = f"{unique('market')}@{server.rooms}"
    plain = Room(alice.client, room, "lady")
    await plain.create()
    unfit = {"muc#roomconfig_membersonly": "0", "muc#roomconfig_whois": "moderators"}
    await reconfigure(alice.client, JID(room), unfit)
    before = await form(alice, room)
    with pytest.raises(RoomUnsuitable) as caught:
        await alice.mls.adopt(room)
    assert {"not-members-only", "not-non-anonymous"} == set(caught.value.reasons)
    assert alice.mls.rooms == {}
    assert await form(alice, room) == before
    with pytest.raises(RoomUnsuitable) as caught:
        await alice.mls.adopt(f"{unique('nowhere')}@{server.rooms}")
    assert caught.value.reasons == ("not-found",)


async def test_an_account_that_may_not_enter_is_told_so_and_nothing_is_left_behind(
    server: DevServer, cast: Cast
) -> None:
    room, _ = await cast.meet(server, "alice")
    mallory = await cast.person(server, "mallory")
    for attempt in (mallory.mls.adopt, mallory.mls.join):
        with pytest.raises((NotPermitted, RoomUnsuitable)):
            await attempt(room)
        assert mallory.mls.rooms == {}
    await mallory.log_out()
    await mallory.connect()
    assert mallory.mls.rooms == {}
    assert not mallory.got("mls_room_lost")


async def test_a_destroyed_room_is_an_event_and_what_follows_an_error(server: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.room().muc.destroy(reason="the end")
    lost = await bob.next("mls_room_lost")
    assert isinstance(lost, RoomLost)
    assert lost.reason == "destroyed"
    with pytest.raises(RoomLost):
        await bob.room().send(cast.secret("is anybody there"))
    with pytest.raises(RoomLost):
        await asyncio.wait_for(bob.room().update(), SECONDS)
    await asyncio.wait_for(bob.room().leave(), SECONDS)
    assert bob.mls.rooms == {}


async def test_a_caller_that_waits_for_a_commit_hears_of_the_rooms_end(prosody: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    bob.client.swallowing = True
    updating = asyncio.create_task(bob.room().update())
    sent = asyncio.create_task(bob.say("never to be heard"))
    await asyncio.sleep(0.1)
    await alice.room().muc.destroy()
    await bob.next("mls_room_lost")
    with pytest.raises(RoomLost):
        await asyncio.wait_for(updating, SECONDS)
    with pytest.raises(RoomLost):
        await asyncio.wait_for((await asyncio.wait_for(sent, SECONDS)).confirmed, SECONDS)


# Adding


async def publish(client: Person, package: KeyPackage, item_id: str | None = None) -> None:
    await KeyPackageDirectory(client.client).publish(item_id or package.ref, package.to_stdlib())


def made(device: Device, *, now: int | None = None, spoil: bool = False, last_resort: bool = False) -> KeyPackage:
    """A KeyPackage; a spoilt one has another signature."""
    suite = CipherSuite.get(1)
    bundle = device.key_packages.make(suite, now or int(time.time()), last_resort=last_resort)
    package = bundle.key_package
    if spoil:
        package = replace(package, signature=bytes(len(package.signature)))
    reference = suite.key_package_ref(package.encode()).hex()
    return KeyPackage(reference, package.cipher_suite, MLSMessage.wrap(package), last_resort)


async def odd_person(cast: Cast, server: DevServer, name: str) -> tuple[Person, Device]:
    """Somebody whose directory is at the test's mercy: the device is listed, its KeyPackages are gone."""
    person = await cast.person(server, name)
    await person.mls.directory.retract_many(await person.mls.directory.items())
    return person, person.mls.device


async def test_an_account_that_cannot_be_added_is_named_and_the_others_are_added(server: DevServer, cast: Cast) -> None:
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    nobody = f"{unique('nobody')}@{server.domain}"
    without = (await cast.account(server, "without")).bare

    expired, device = await odd_person(cast, server, "expired")
    await publish(expired, made(device, now=int(time.time()) - 40 * DAY))

    spoilt, device = await odd_person(cast, server, "spoilt")
    await publish(spoilt, made(device, spoil=True))

    impostor, _ = await odd_person(cast, server, "impostor")
    await publish(impostor, made(Device(MemoryStore(bob.account))))

    unlisted, _ = await odd_person(cast, server, "unlisted")
    await publish(unlisted, made(Device(MemoryStore(unlisted.account))))

    swapped, device = await odd_person(cast, server, "swapped")
    await publish(swapped, made(device), item_id=made(device).ref)

    foreign, device = await odd_person(cast, server, "foreign")
    other_suite = Device(MemoryStore(foreign.account), settings=KeyPackageSettings(suites=(3,)))
    package = other_suite.key_packages.make(CipherSuite.get(3), int(time.time())).key_package
    reference = CipherSuite.get(3).key_package_ref(package.encode()).hex()
    await publish(foreign, KeyPackage(reference, 3, MLSMessage.wrap(package), False))

    garbage, _ = await odd_person(cast, server, "garbage")
    element = Element("{urn:xmpp:mls:0}key-package", {"ref": "ab" * 32, "suite": "1"})
    element.text = "not base64!"
    await KeyPackageDirectory(garbage.client).publish("ab" * 32, element)
    await KeyPackageDirectory(garbage.client).publish("cd" * 32, Element("{urn:example}something"))
    await publish(garbage, made(device, spoil=True))
    # There is a good one among bob's bad ones.
    await publish(bob, made(bob.mls.device, spoil=True))
    await KeyPackageDirectory(bob.client).publish("ab" * 32, element)

    group = await alice.mls.create(f"{unique('moor')}@{server.rooms}")
    result = await group.add(
        nobody, without, bob.account,
        *(p.account for p in (expired, spoilt, impostor, unlisted, swapped, foreign, garbage)),
    )  # fmt: skip
    assert [member.account for member in result.added] == [bob.account]
    assert group.accounts == sorted([alice.account, bob.account])
    reasons = {
        nobody: "no such account, or no MLS|no KeyPackages: no client",
        without: "no such account, or no MLS|no KeyPackages: no client",
        expired.account: "not valid any more",
        spoilt.account: "signature",
        impostor.account: f"claims to be {bob.account}",
        unlisted.account: "lists no device",
        swapped.account: "reference",
        foreign.account: "no KeyPackage for cipher suite 1",  # its own are of suite 3
        garbage.account: "base64",
    }
    assert result.failed.keys() == reasons.keys()
    for account, reason in reasons.items():
        assert re.search(reason, result.failed[account]), (account, result.failed[account])
    # Who is not added is not let into the room either.
    assert {jid.bare for jid in await group.muc.affiliations.all()} == {alice.account, bob.account}
    await bob.joined(group.jid)
    assert not (await group.add(bob.account)).added
    assert (await group.add(bob.account)).failed == {bob.account: "all of its devices are in the group"}


async def test_all_devices_of_an_account_are_added(server: DevServer, cast: Cast) -> None:
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    second = await cast.person(server, bob.jid)
    own = await cast.person(server, alice.jid)
    group = await alice.mls.create(f"{unique('tower')}@{server.rooms}")
    result = await group.add(bob.account, alice.account)
    devices = {p.mls.device_id for p in (bob, second, own)}
    assert {member.device for member in result.added} == devices
    for person in (bob, second, own):
        await person.joined(group.jid)
    await all_agree(alice, bob, second, own)
    await own.say("All our yesterdays")
    for person in (alice, bob, second):
        await person.hears("All our yesterdays")
    # One device of several can be removed; the account stays.
    (gone,) = await group.remove(f"{bob.account}/{second.mls.device_id}")
    assert gone.device == second.mls.device_id
    await second.next("mls_removed")
    await alice.say("out, brief candle")
    await bob.hears("out, brief candle")
    await own.hears("out, brief candle")
    assert "out, brief candle" not in second.bodies


async def test_a_member_that_may_not_add_is_told_so_and_nothing_has_changed(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    carol = await cast.person(prosody, "carol")
    # By the group's policy, whatever the room allows: the room is not touched.
    await alice.room().muc.affiliations.set(bob.account, "admin")
    with pytest.raises(NotPermitted, match="policy"):
        await bob.room().add(carol.account)
    assert JID(carol.account) not in await alice.room().muc.affiliations.all()
    # By the room, whatever the policy allows.
    await alice.room().muc.affiliations.set(bob.account, "member")
    await alice.room().set_policy(RoomPolicy(room, (alice.account,), may_add=Right.MEMBERS))
    await all_agree(alice, bob, epoch=2)
    with pytest.raises(NotPermitted, match="admin"):
        await bob.room().add(carol.account)
    assert agree(alice, bob)
    assert bob.room().epoch == 2
    # Whom an admin has let into the room, a member may add.
    await alice.room().muc.affiliations.grant_membership([carol.account])
    assert [member.account for member in (await bob.room().add(carol.account)).added] == [carol.account]
    await carol.joined(room)
    await all_agree(alice, bob, carol)
    with pytest.raises(NotPermitted):
        await bob.room().remove(carol.account)
    with pytest.raises(NotPermitted):
        await bob.room().set_policy(RoomPolicy(room, (bob.account,)))
    assert agree(alice, bob, carol)


async def test_an_account_banned_from_the_room_is_not_added(prosody: DevServer, cast: Cast) -> None:
    room, (alice,) = await cast.meet(prosody, "alice")
    bob, carol = await cast.person(prosody, "bob"), await cast.person(prosody, "carol")
    await alice.room().muc.affiliations.set(bob.account, "outcast")
    result = await alice.room().add(bob.account, carol.account)
    assert [member.account for member in result.added] == [carol.account]
    assert "banned" in result.failed[bob.account]
    await carol.joined(room)


async def test_an_invitation_waits_for_who_is_offline(server: DevServer, cast: Cast) -> None:
    """No operation needs two clients online at once."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol")
    await alice.say("before her time")
    await carol.log_out()
    await alice.room().add(carol.account)
    await alice.say("When shall we three meet again")
    await bob.room().update()
    await bob.say("In thunder, lightning, or in rain")
    await alice.hears("In thunder, lightning, or in rain")
    await alice.log_out()
    await bob.log_out()
    await carol.connect()
    await carol.joined(room)
    await carol.hears("In thunder, lightning, or in rain")
    await asyncio.sleep(0.2)
    assert carol.bodies == ["When shall we three meet again", "In thunder, lightning, or in rain"]
    assert all(message.delayed for message in carol.got("mls_message"))
    await carol.say("When the hurlyburly's done")
    await alice.connect()
    await alice.hears("When the hurlyburly's done")


async def test_a_device_that_was_offline_follows_when_it_comes(server: DevServer, cast: Cast) -> None:
    """The account has another one that was online and got the invitation."""
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    second = await cast.person(server, bob.jid)

    def has_a_mark() -> bool:
        with second.mls.device.store.transaction() as transaction:
            return transaction.get("device", b"invitation") is not None

    await second.until(has_a_mark)
    await second.log_out()
    group = await alice.mls.create(f"{unique('tower')}@{server.rooms}")
    assert len((await group.add(bob.account)).added) == 2
    await alice.say("Stay, you imperfect speakers")
    await bob.hears("Stay, you imperfect speakers")
    await second.connect()
    await second.joined(group.jid)
    await second.hears("Stay, you imperfect speakers")
    await second.say("tell me more")
    await bob.hears("tell me more")


async def test_an_invitation_can_be_declined(prosody: DevServer, cast: Cast) -> None:
    alice = await cast.person(prosody, "alice")
    bob = await cast.person(prosody, "bob", accept_invitation=lambda _: False)
    group = await alice.mls.create(f"{unique('feast')}@{prosody.rooms}")
    await group.add(bob.account)
    assert (await bob.next("mls_invited")).room == JID(group.jid)
    await asyncio.sleep(0.3)
    assert bob.mls.rooms == {}
    await alice.say("Nought's had, all's spent")
    # ... and followed later.
    handle = await asyncio.wait_for(bob.mls.join(group.jid), SECONDS)
    assert handle.is_member
    await bob.hears("Nought's had, all's spent")


async def test_a_fault_in_the_bots_own_choice_answers_nobody(prosody: DevServer, cast: Cast) -> None:
    def choose(_: object) -> bool:
        raise ZeroDivisionError("the bot's own fault")

    cast.expected_errors.append("accept_invitation|the bot's own fault")
    alice, bob = await cast.person(prosody, "alice"), await cast.person(prosody, "bob", accept_invitation=choose)
    group = await alice.mls.create(f"{unique('feast')}@{prosody.rooms}")
    await group.add(bob.account)
    await bob.next("mls_invited")
    await asyncio.sleep(0.3)
    assert bob.mls.rooms == {}  # and check_wires finds no error stanza


# Removing


async def test_a_removed_member_reads_no_more_until_added_again(server: DevServer, cast: Cast) -> None:
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await alice.say("for all to read")
    await bob.hears("for all to read")
    await alice.room().remove(bob.account)
    await bob.next("mls_removed")
    await alice.say("not for bob at all")
    await carol.hears("not for bob at all")
    with pytest.raises(UsageError):
        await bob.room(room).send("let me in again")
    assert not bob.got("mls_message")[1:]
    result = await alice.room().add(bob.account)
    assert [member.account for member in result.added] == [bob.account]
    await bob.joined(room)
    await alice.say("welcome back")
    await bob.hears("welcome back")
    await bob.say("here I am")
    await alice.hears("here I am")
    assert bob.bodies == ["for all to read", "welcome back"]
    await all_agree(alice, bob, carol)


async def test_a_member_removed_while_away_finds_out_and_may_be_added_again(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.log_out()
    await alice.room().remove(bob.account)
    await alice.say("behind his back")
    await bob.connect()
    lost = await bob.next("mls_room_lost")
    assert isinstance(lost, NotPermitted | RoomLost)
    assert not bob.bodies
    await alice.room().add(bob.account)
    await bob.until(lambda: room in bob.mls.rooms and bob.mls.room(room).is_member and agree(alice, bob))
    await bob.joined(room)
    await alice.say("to his face")
    await bob.hears("to his face")
    assert bob.bodies == ["to his face"]


async def test_an_account_that_loses_the_room_loses_the_group(prosody: DevServer, cast: Cast) -> None:
    """A ban in the room becomes a Remove by a member that may."""
    _, (alice, bob, carol) = await cast.meet(prosody, "alice", "bob", "carol")
    await alice.room().muc.affiliations.set(bob.account, "outcast")
    event = await carol.next("mls_affiliation_changed")
    assert (event.jid, event.affiliation) == (JID(bob.account), "outcast")
    await alice.until(lambda: bob.account not in alice.room().accounts)
    await all_agree(alice, carol)
    assert isinstance(await bob.next("mls_room_lost"), RoomLost)


async def test_an_account_shut_out_behind_everybodys_back_loses_the_group(server: DevServer, cast: Cast) -> None:
    """Nobody with the right to remove was there to see it; the room's lists tell."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await alice.room().muc.affiliations.set(carol.account, "admin")  # of the room, not of the group
    await alice.log_out()
    await carol.room().muc.affiliations.set(bob.account, "none")
    assert bob.account in carol.room().accounts
    before = len(alice.got("mls_affiliations_differ"))  # such as while she was adding them
    await alice.connect()
    differ = await alice.next("mls_affiliations_differ", before)
    assert (differ.shut_out, differ.outside) == ((bob.account,), ())
    await alice.until(lambda: bob.account not in alice.room().accounts)
    await all_agree(alice, carol)
    assert not await alice.room().affiliations_differ()


async def test_the_subject_is_a_right(prosody: DevServer, cast: Cast) -> None:
    """An encrypted subject counts if the policy lets its sender change it; the room's own, in clear, never."""
    _, (alice, bob, carol) = await cast.meet(prosody, "alice", "bob", "carol")
    await alice.room().set_subject(cast.secret("How to brew a charm"))
    message = await carol.next("mls_message")
    assert (message.subject, message.sender.account) == ("How to brew a charm", alice.account)
    with pytest.raises(NotPermitted, match="subject"):
        await bob.room().set_subject("How to spoil it")
    forged = bob.client.make_message(mto=JID(bob.room().jid), mtype="groupchat")
    forged["subject"] = cast.secret("How to spoil it")
    await bob.room().send(forged)
    rejected = await carol.next("mls_rejected")
    assert rejected.error.rule == "subject"
    assert rejected.error.offender == f"{bob.account}/{bob.mls.device_id}"
    both = bob.client.make_message(mto=JID(bob.room().jid), mtype="groupchat")
    both["subject"], both["body"] = "About toads", cast.secret("a message with a title")
    await bob.room().send(both)
    await carol.hears("a message with a title")
    assert carol.got("mls_message")[-1].subject is None


async def test_leaving_while_nobody_else_is_there(prosody: DevServer, cast: Cast) -> None:
    """The request stays in the archive, and is granted when somebody comes."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await alice.log_out()
    await asyncio.wait_for(bob.room().leave(patience=0.3), SECONDS)
    assert bob.mls.rooms == {}
    assert bob.got("mls_removed")[0].wanted
    await alice.connect()
    await alice.until(lambda: alice.room().accounts == [alice.account])


async def test_leaving_before_the_policy_names_another_administrator(prosody: DevServer, cast: Cast) -> None:
    """Who is left can go on: every member is an administrator while there is none."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await asyncio.wait_for(alice.room().leave(), SECONDS)
    await bob.until(lambda: bob.room().accounts == [bob.account])
    await asyncio.wait_for(bob.room().update(), SECONDS)
    await asyncio.wait_for((await bob.say("I gin to be aweary of the sun")).confirmed, SECONDS)
