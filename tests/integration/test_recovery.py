"""Coming back after the worst: state lost, archive gone, store rolled back, a Commit refused (DESIGN rule 6)."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.client import Joined
from slixmpp_mls.client.storage.rejoin_limit import LIMIT
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.devserver.ejabberd import Ejabberd
from slixmpp_mls.errors import GroupExists, MLSError, NoGroupInfo, PeerError, RoomLost, UsageError
from slixmpp_mls.policy import ExternalJoins
from slixmpp_mls.rooms.engine import rejoin
from slixmpp_mls.stanza import Commit

from ..client.people import put_outside
from .people import SECONDS, Cast, Person, agree, all_agree, vouch

PATIENCE = 240.0


def edit(server: DevServer, room: str, statement: str) -> int:
    """The server's administrator has a hand in the room's archive.

    :param statement: SQL that says {archive}, {xml}, {id} and {where}; how many rows it has changed
    """
    local, _, domain = room.partition("@")
    if isinstance(server, Ejabberd):
        names = {"archive": "archive", "xml": "xml", "id": "id", "where": f"username = '{room}'"}
    else:
        where = f"host = '{domain}' AND user = '{local}' AND store = 'muc_log'"
        names = {"archive": "prosodyarchive", "xml": "value", "id": "sort_id", "where": where}
    file = server._database  # type: ignore[attr-defined]
    with closing(sqlite3.connect(file, timeout=0)) as database, undisturbed(server, database), database:
        return database.execute(statement.format(**names)).rowcount


@contextmanager
def undisturbed(server: DevServer, database: sqlite3.Connection) -> Iterator[None]:
    """The server stands still, and not in the middle of a transaction: Prosody never gets over one that failed."""
    while True:
        os.killpg(server.pid, signal.SIGSTOP)
        try:
            if database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:  # nobody reads or writes
                yield
                return
        finally:
            os.killpg(server.pid, signal.SIGCONT)
        time.sleep(0.02)


def purge(server: DevServer, room: str) -> None:
    assert edit(server, room, "DELETE FROM {archive} WHERE {where}") > 0


async def back(person: Person, room: str, *others: Person) -> Joined:
    """Wait until somebody is in the group again, in the same state as others."""
    await person.joined(room, PATIENCE)
    await all_agree(person, *others)
    joined: Joined = person.got("mls_joined")[-1]
    return joined


async def test_an_archive_that_is_gone_costs_what_was_in_it(server: DevServer, cast: Cast) -> None:
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await alice.say("before the fire")
    await bob.hears("before the fire")
    await bob.log_out()
    await alice.room().update()
    await alice.say("burnt unread")
    await carol.hears("burnt unread")
    purge(server, room)
    await alice.say("after the fire")
    await carol.hears("after the fire")
    await bob.connect()
    unsure = await bob.next("mls_unsure")
    assert unsure.reasons == ("archive-gap",)
    await all_agree(alice, bob, carol)
    assert not bob.got("mls_group_lost")
    assert bob.got("mls_rejoining")[-1].external
    assert [event.reason for event in bob.got("mls_unreadable")] == ["future"]
    await bob.say("I have seen nothing")
    await alice.hears("I have seen nothing")
    await carol.say("nor have I")
    await bob.hears("nor have I")
    assert bob.bodies == ["before the fire", "nor have I"]
    assert len(alice.room().members) == 3


async def test_a_store_that_is_an_old_copy_is_noticed_and_healed(server: DevServer, cast: Cast) -> None:
    """RFC 9420 9.2, RFC 9750 8.3.4: the copy must not go on where the original has been."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.log_out()
    backup = bob.store.with_suffix(".backup")
    shutil.copy(bob.store, backup)
    await bob.connect()
    await bob.joined(room)
    await bob.say("said after the backup")
    await alice.hears("said after the backup")
    device = bob.mls.device_id
    await bob.log_out()
    for leftover in bob.store.parent.glob(f"{bob.store.name}-*"):
        leftover.unlink()
    shutil.copy(backup, bob.store)
    client = bob.make_client()

    async def speak_at_once() -> None:
        await bob.until(lambda: room in bob.mls.rooms)
        await bob.say("before it has looked around")

    async def commit_at_once() -> None:
        await bob.until(lambda: room in bob.mls.rooms)
        await bob.room().update()

    speaking, committing = asyncio.create_task(speak_at_once()), asyncio.create_task(commit_at_once())
    await server.connect(client)
    await bob.ready()
    await asyncio.wait([speaking], timeout=SECONDS)
    lost = await bob.next("mls_group_lost")
    assert "not sent" in lost.reason
    assert not [stanza for stanza in client.sent if "<application" in stanza or "<commit" in stanza]
    with pytest.raises(MLSError):
        await committing
    await back(bob, room, alice)
    if speaking.exception() is None:
        await alice.hears("before it has looked around")
    assert bob.mls.device_id == device
    assert len(alice.room().members) == 2
    await bob.say("with new keys")
    await alice.hears("with new keys")
    await alice.say("and the same name")
    await bob.hears("and the same name")


async def test_a_device_that_has_lost_its_store_is_a_new_device(server: DevServer, cast: Cast) -> None:
    """With nothing but the name of the room.  Its old leaf is there, but nothing proves that it was its own."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.log_out()
    bob.store.unlink()
    for leftover in bob.store.parent.glob(f"{bob.store.name}-*"):
        leftover.unlink()
    await bob.connect()
    joining = asyncio.create_task(bob.mls.join(room))
    request = await alice.next("mls_join_requested", 0, PATIENCE)
    assert (request.account, request.device, request.reason) == (
        bob.account,
        bob.mls.device.identity.device,
        "unproven",
    )
    await alice.say("only a name so far")  # nobody is kept from talking
    assert len(alice.room().members) == 2
    with pytest.raises(UsageError):
        await alice.room().grant(replace(request, room="another@rooms.example"))
    (added,) = (await alice.room().grant(request)).added
    assert (added.account, added.device) == (request.account, request.device)
    joined = await asyncio.wait_for(joining, PATIENCE)
    assert joined.is_member
    await all_agree(alice, bob)
    assert bob.got("mls_joined")[-1].missed is None
    assert len(alice.room().members) == 3
    await alice.say("who was that other one?")
    await bob.hears("who was that other one?")


async def test_a_grant_replaces_the_leaf_of_the_same_device(prosody: DevServer, cast: Cast) -> None:
    """It has lost its return keys, as leaves of version 0.1 have none: one Commit removes the old leaf and adds it."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await alice.room().set_policy(replace(alice.room().policy, external_joins=ExternalJoins.NEVER))
    await all_agree(alice, bob, epoch=2)
    await bob.room().update()  # a leaf that was never renewed is replaced without asking (rooms/engine/readmission.py)
    await all_agree(alice, bob, epoch=3)
    before = alice.room().epoch
    state = bob.room().group.room_state
    bob.room().group.lifecycle.give_up("says the test")
    with state.change() as change:
        change.put_return_keys(1, ())
    await bob.log_out()
    await bob.connect()
    request = await alice.next("mls_join_requested", 0, PATIENCE)
    assert (request.account, request.device, request.reason) == (bob.account, bob.mls.device_id, "unproven")
    (added,) = (await alice.room().grant(request)).added
    assert added.device == bob.mls.device_id
    await bob.next("mls_joined", 0, PATIENCE)
    await all_agree(alice, bob, epoch=before + 1)
    assert len(alice.room().members) == 2


async def test_a_request_of_a_member_is_granted_where_that_is_configured(prosody: DevServer, cast: Cast) -> None:
    """Of an account in the group, and only if the Authentication Service says that the device is valid."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob", grant_requests="members")
    phone = await cast.person(prosody, bob.jid)
    stranger = await cast.person(prosody, "mallory")
    await alice.room().muc.affiliations.grant_membership([stranger.account])
    outside = asyncio.create_task(stranger.mls.join(room))
    await asyncio.wait_for(phone.mls.join(room), PATIENCE)
    await all_agree(alice, bob, phone)
    # Both ask again in each epoch.
    await alice.until(lambda: {event.reason for event in alice.got("mls_join_requested")} >= {"unproven", "stranger"})
    assert {event.reason for event in alice.got("mls_join_requested")} == {"unproven", "stranger"}
    assert stranger.account not in {member.account for member in alice.room().members}
    outside.cancel()
    await asyncio.gather(outside, return_exceptions=True)


async def test_a_new_device_is_not_added_on_its_servers_word(server: DevServer, cast: Cast) -> None:
    """A server that adds a device to the list cannot vouch for it, whoever adds the account."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    phone = await cast.person(server, bob.jid)
    name = str(phone.mls.device.identity)
    result = await alice.room().add(bob.account)
    assert not result.added
    assert "vouches" in result.skipped[name]
    await bob.mls.devices.admit(phone.mls.device_id)
    await alice.until(lambda: len(alice.room().members) == 3)
    carol = await cast.person(server, "carol")
    result = await alice.room().add(carol.account)
    assert list(result.unvouched.values()) == ["first-use"]
    tablet = await cast.person(server, carol.jid)
    result = await alice.room().add(str(tablet.mls.device.identity))
    assert result.unvouched == {str(tablet.mls.device.identity): "named"}


async def test_the_one_who_commits_comes_later(server: DevServer, cast: Cast) -> None:
    """DESIGN rule 7: no operation needs two clients online at once."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.log_out()
    rejoining = asyncio.create_task(bob.room().rejoin())
    await bob.next("mls_rejoining")
    await bob.until(lambda: bob.stanzas_sent("<proposal"))
    await asyncio.sleep(0.3)
    await bob.log_out()
    rejoining.cancel()
    await alice.connect()
    await alice.until(lambda: alice.room().live and alice.room().epoch == 2)
    await alice.log_out()
    await bob.connect()
    await bob.joined(room)
    await alice.connect()
    await all_agree(alice, bob)
    assert len(bob.stanzas_sent("<proposal")) == 1


async def test_two_rejoin_at_once(server: DevServer, cast: Cast) -> None:
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(bob.room().rejoin(), carol.room().rejoin())
    await all_agree(alice, bob, carol)
    assert len(alice.room().members) == 3
    await bob.say("Hail, Macbeth!")
    await carol.hears("Hail, Macbeth!")
    assert [lost.reason for lost in carol.got("mls_group_lost")] == ["the application wants to come in afresh"]
    assert bob.got("mls_joined")[-1].epoch in (2, 3)
    assert room in alice.mls.rooms


async def test_messages_of_the_time_outside_are_sent_when_we_are_back(prosody: DevServer, cast: Cast) -> None:
    """What was accepted for the group's members and had not arrived is not lost with the group."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await bob.cut()
    bob.no_resumption()
    await bob.room().send(cast.secret("said in the dark"))
    bob.room().worker.abandon("says the test")
    assert await bob.back() == "session_start"
    await back(bob, room, alice)
    await alice.hears("said in the dark")
    assert alice.bodies == ["said in the dark"]


async def test_by_hand_nothing_is_asked_unasked(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob", rejoin="by hand")
    bob.room().worker.abandon("says the test")
    await bob.next("mls_group_lost")
    await asyncio.sleep(2.5)
    assert not bob.got("mls_rejoining")
    assert not bob.stanzas_sent("<proposal")
    await asyncio.wait_for(bob.room().rejoin(), PATIENCE)
    await all_agree(alice, bob)
    assert bob.room().jid == room


async def test_a_removed_member_does_not_rejoin(prosody: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    handle = bob.room()
    await alice.room().remove(bob.account)
    await bob.next("mls_removed")
    with pytest.raises(UsageError):
        await handle.rejoin()
    assert not bob.got("mls_rejoining")


async def test_a_stranger_in_the_room_is_reported_and_not_let_in(server: DevServer, cast: Cast) -> None:
    """Whom the room lets in, or its server, does not get into the group by asking."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    mallory = await cast.person(server, "mallory")
    await alice.room().muc.affiliations.grant_membership([mallory.account])
    waiting = asyncio.create_task(mallory.mls.join(room))
    await bob.room().update()  # by now, mallory knows the group's id and epoch from the archive
    request = await alice.next("mls_join_requested")
    assert (request.account, request.device, request.reason) == (mallory.account, mallory.mls.device_id, "stranger")
    await alice.say("not for mallory")
    await bob.hears("not for mallory")
    await bob.room().update()
    assert not waiting.done()
    assert {member.account for member in alice.room().members} == {alice.account, bob.account}
    await alice.room().add(request.account)  # if alice says so
    assert (await asyncio.wait_for(waiting, SECONDS)).is_member
    await all_agree(alice, bob, mallory)


@pytest.mark.slow
async def test_a_client_that_comes_back_over_and_over_must_wait(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    session = bob.room().group
    for _ in range(LIMIT):
        put_outside(session, attempts=0, not_before=0)  # software that keeps no pace
        await asyncio.wait_for(bob.room().rejoin(), PATIENCE)
        await all_agree(alice, bob)
    epoch = alice.room().epoch
    put_outside(session, attempts=0, not_before=0)
    rejoining = asyncio.create_task(bob.room().rejoin())
    request = await alice.next("mls_join_requested")
    assert (request.account, request.reason) == (bob.account, "too-often")
    await alice.say("enough of that")
    assert alice.room().epoch == epoch
    # Whoever is tired of it may still add bob by hand, once the old leaf is gone.
    await alice.room().remove(bob.account)
    with pytest.raises(RoomLost):  # he is a member of the room no more
        await asyncio.wait_for(rejoining, PATIENCE)
    await alice.room().add(bob.account)
    await bob.joined(room)
    await all_agree(alice, bob)


async def test_our_own_pace_is_kept(prosody: DevServer, cast: Cast) -> None:
    """Each request in an hour comes later than the one before; restarts do not help."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await asyncio.wait_for(bob.room().rejoin(), PATIENCE)
    await all_agree(alice, bob)
    before = bob.room().group.room_state.outside
    assert before.attempts == 1
    await bob.log_out()
    await bob.connect()
    await bob.joined(room)
    assert bob.room().group.room_state.outside == before
    await asyncio.wait_for(bob.room().rejoin(), PATIENCE)
    first, second = bob.got("mls_rejoining")
    assert (first.attempt, second.attempt) == (1, 2)
    after = bob.room().group.room_state.outside
    assert after.asked >= before.not_before


async def test_a_room_with_a_group_is_not_adopted(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol")
    await alice.room().muc.affiliations.grant_membership([carol.account])
    with pytest.raises(GroupExists) as caught:
        await carol.mls.adopt(room)
    assert caught.value.group_id == alice.room().group.mls.group_id
    assert carol.mls.rooms == {}
    await alice.say("still ours")
    await bob.hears("still ours")
    # When nobody is in it any more, somebody may begin anew.
    await bob.room().leave()
    await alice.room().leave()
    await asyncio.wait_for(carol.mls.adopt(room, anew=True), SECONDS)


async def test_a_leaver_that_is_offline_asks_when_it_is_back(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.cut()
    bob.no_resumption()
    await bob.room().leave()
    assert bob.room().is_member  # not without having asked
    bob.crash()
    await bob.connect()
    removed = await bob.next("mls_removed")
    assert removed.wanted
    await alice.until(lambda: alice.room().accounts == [alice.account])
    await bob.until(lambda: room not in bob.mls.rooms)  # which follows the event


async def test_an_invitation_is_read_from_where_it_says(prosody: DevServer, cast: Cast) -> None:
    """A Commit that meant nothing stood in the way of the Welcome: the invitation's place comes after it."""
    room, (alice,) = await cast.meet(prosody, "alice")
    bob = await cast.person(prosody, "bob", rejoin="by hand", accept_invitation=lambda invitation: False)
    await alice.room().muc.affiliations.grant_membership([bob.account])
    await bob.mls.parts.rooms.follow(room, None)
    await bob.until(lambda: bob.room(room).live)
    # An occupant's Commit for the epoch that alice's will end, worth nothing to members.
    lost = alice.room().group.sending.draft_commit([], alice.mls.now)
    bundle = alice.room().group.mls.finish_commit(lost)
    garbage = bytearray(bundle.commit)
    garbage[-1] ^= 1
    await bob.post(commit_element(alice, bytes(garbage)), room)
    await alice.next("mls_rejected")
    await alice.room().add(bob.account)
    invitation = await bob.next("mls_invited")
    await asyncio.sleep(0.3)
    assert not bob.room(room).is_member
    after = invitation.elements[0].get("after")
    await bob.mls.parts.rooms.follow(room, after)
    await bob.joined(room)
    await all_agree(alice, bob)


def commit_element(person: Person, data: bytes) -> list[Any]:
    group = person.room().group.mls
    return [Commit(group.group_id, group.epoch, data).to_stdlib(), Element("{urn:xmpp:hints}store")]


async def test_a_member_that_lacks_a_commit_comes_back(prosody: DevServer, cast: Cast) -> None:
    """A server that keeps a Commit from one member: it is left behind, finds out, and comes back."""
    room, (alice, bob, carol) = await cast.meet(prosody, "alice", "bob", "carol")
    bob.client.deaf = True
    await alice.room().update()
    await all_agree(alice, carol)
    await bob.room().muc.check()  # what the room has sent before its answer is lost
    bob.client.deaf = False
    newest = "DELETE FROM {archive} WHERE {where} AND {id} = (SELECT max({id}) FROM {archive} WHERE {where})"
    assert edit(prosody, room, newest) == 1
    await alice.say("what bob cannot read")
    await bob.next("mls_left_behind")
    assert (await bob.next("mls_unsure")).reasons == ("later-epoch",)
    await all_agree(alice, bob, carol)
    assert not bob.got("mls_group_lost")
    await alice.say("welcome back")
    await bob.hears("welcome back")
    assert agree(alice, bob, carol)


# --- by an external Commit -----------------------------------------------------------------------


async def test_a_lost_client_comes_in_by_itself(server: DevServer, cast: Cast) -> None:
    """RFC 9420 12.4.3.2, with nobody else online."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    await bob.room().update()
    await all_agree(alice, bob)
    await alice.log_out()
    await asyncio.wait_for(bob.room().rejoin(external=True), PATIENCE)
    joined = bob.got("mls_joined")[-1]
    assert joined.by is None
    assert joined.missed is not None
    assert any(event.external for event in bob.got("mls_rejoining"))  # it asks as well, sooner or later
    await bob.say("I have let myself in")
    await alice.connect()
    await alice.hears("I have let myself in")
    await all_agree(alice, bob)
    assert len(alice.room().members) == 2


async def test_a_second_device_joins_by_itself(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    phone = await cast.person(server, bob.jid, rejoin="by hand")
    vouch(bob, phone)
    with pytest.raises(NoGroupInfo) as caught:  # the room shows GroupInfos to those who have been members
        await asyncio.wait_for(phone.mls.join(room, external=True), PATIENCE)
    assert set(caught.value.reasons) == {"it is encrypted for those who were members at another time"}
    await alice.room().set_policy(replace(alice.room().policy, external_joins=ExternalJoins.ANYBODY))
    await all_agree(alice, bob, epoch=2)
    await bob.log_out()
    group = await asyncio.wait_for(phone.mls.join(room, external=True), PATIENCE)
    assert group.is_member
    await all_agree(alice, phone)
    assert sorted(member.account for member in alice.room().members).count(bob.account) == 2
    await phone.say("from my other device")
    await alice.hears("from my other device")
    await bob.connect()
    await bob.hears("from my other device")


async def test_a_stranger_cannot_let_itself_in(prosody: DevServer, cast: Cast) -> None:
    room, (alice, _) = await cast.meet(prosody, "alice", "bob")
    mallory = await cast.person(prosody, "mallory", rejoin="by hand")
    await alice.room().muc.affiliations.grant_membership([mallory.account])
    with pytest.raises(NoGroupInfo) as caught:
        await asyncio.wait_for(mallory.mls.join(room, external=True), PATIENCE)
    assert set(caught.value.reasons) == {"it is encrypted for those who were members at another time"}
    assert alice.room().epoch == 1


async def test_where_the_policy_says_never_there_is_no_door(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob", rejoin="by hand")
    await alice.room().set_policy(replace(alice.room().policy, external_joins=ExternalJoins.NEVER))
    await all_agree(alice, bob, epoch=2)
    handle = bob.room(room)
    with pytest.raises(NoGroupInfo) as caught:
        await asyncio.wait_for(handle.rejoin(external=True), PATIENCE)
    assert "of epoch 1, before our epoch 2" in caught.value.reasons[0]  # that of the time before


async def test_a_group_info_that_was_tampered_with_lets_nobody_in(server: DevServer, cast: Cast) -> None:
    """The server's administrator changes octets in the archive: signatures and hashes tell."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob", rejoin="by hand")
    await alice.room().update()
    await all_agree(alice, bob, epoch=2)
    stored = server.archive(room)
    infos = [match for text in stored for match in re.findall(r"<group-info[^>]*>([^<]+)<", text)]
    assert len(infos) == 2
    for info in infos:
        middle = info[len(info) // 2 : len(info) // 2 + 24]
        other = "".join("B" if letter == "A" else "A" for letter in middle)
        assert edit(server, room, f"UPDATE {{archive}} SET {{xml}} = replace({{xml}}, '{middle}', '{other}')") > 0
    with pytest.raises(NoGroupInfo) as caught:
        await asyncio.wait_for(bob.room().rejoin(external=True), PATIENCE)
    assert len(caught.value.reasons) == 2
    for rejected in bob.got("mls_rejected"):
        assert isinstance(rejected.error, PeerError)
    assert len(bob.got("mls_rejected")) == 2
    assert not bob.room().is_member
    assert alice.room().epoch == 2
    await asyncio.wait_for(bob.room().rejoin(), PATIENCE)  # by request it needs none
    await all_agree(alice, bob)


async def test_external_joins_race_and_all_come_in(server: DevServer, cast: Cast) -> None:
    """Five devices at once, against each other and a member that renews its keys."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.room().set_policy(replace(alice.room().policy, external_joins=ExternalJoins.ANYBODY))
    await all_agree(alice, bob, epoch=2)
    phones = [await cast.person(server, bob.jid) for _ in range(4)]
    for phone in phones:
        vouch(bob, phone)

    async def renew() -> None:
        for _ in range(3):
            await alice.room().update()

    async with asyncio.timeout(240):
        await asyncio.gather(renew(), *(phone.mls.join(room, external=True) for phone in phones))
    await all_agree(alice, bob, *phones)
    assert len(alice.room().members) == 6
    await phones[2].say("all of us are me")
    await bob.hears("all of us are me")
    await alice.hears("all of us are me")


async def test_when_nobody_answers_it_lets_itself_in(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is made first; the external Commit comes if it is not granted."""
    monkeypatch.setattr(rejoin, "_EXTERNAL_AFTER", 1.0)
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await alice.log_out()
    bob.room().worker.abandon("says the test")
    await bob.next("mls_joined", 1, PATIENCE)
    assert [event.external for event in bob.got("mls_rejoining")] == [False, True]
    await alice.connect()
    await all_agree(alice, bob)
    assert len(alice.room().members) == 2
