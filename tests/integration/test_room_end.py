"""The end of a room by others' hands: one clear state, and a way on from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from slixmpp import JID

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import MLSError, NotPermitted, RightsGained, RoomLost, StrangersInRoom, UsageError

from ..conftest import unique
from .people import SECONDS, Cast, all_agree


@pytest.mark.parametrize("restart", [False, True])
async def test_a_room_destroyed_by_others_is_made_anew_or_says_that_a_tombstone_is_there(
    server: DevServer, cast: Cast, restart: bool
) -> None:
    room, (bot, alice) = await cast.meet(server, "bot", "alice")
    other = server.client(bot.jid)
    other.register_plugin("xep_0045")
    await server.connect(other)
    await other.plugin["xep_0045"].destroy(JID(room), reason="by hand")
    await other.disconnect()
    await bot.next("mls_room_lost")
    handle = bot.room(room)
    assert handle.lost is not None
    assert handle.lost.reason == "destroyed"
    assert not handle.is_member
    assert handle.group.is_member  # what the server says deletes no keys
    assert handle.accounts == sorted([bot.account, alice.account])
    calls: tuple[Callable[[], Coroutine[Any, Any, Any]], ...] = (
        handle.wait_joined, handle.rejoin, handle.update, handle.destroy, partial(handle.invite, alice.account),
    )  # fmt: skip
    for call in calls:  # each says so; none deletes, waits, or invites anybody
        with pytest.raises(RoomLost):
            await asyncio.wait_for(call(), SECONDS)
    assert handle.group.is_member
    with pytest.raises(MLSError):
        await handle.send(cast.secret("into the void"))
    if restart:
        await bot.log_out()
        await bot.connect()
        await bot.until(lambda: bot.room(room).lost)
    try:
        group = await asyncio.wait_for(bot.mls.create(room), SECONDS)
    except NotPermitted as error:
        assert "cannot be made" in str(error)  # noqa: PT017
        assert room not in bot.mls.rooms
    else:
        assert group.epoch == 0
        assert [member.account for member in group.members] == [bot.account]
    await alice.next("mls_room_lost")


async def test_a_room_destroyed_by_others_can_be_left(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.room().muc.destroy(alternate=f"next@{server.rooms}")
    lost = await bob.next("mls_room_lost")
    assert (lost.reason, lost.alternate) == ("destroyed", f"next@{server.rooms}")
    handle = bob.room(room)
    assert handle.lost is lost
    await asyncio.wait_for(handle.leave(), SECONDS)
    assert not handle.is_member
    assert room not in bob.mls.rooms
    with pytest.raises(UsageError):
        await handle.send("nobody is there")


async def test_a_group_that_moves_is_followed(server: DevServer, cast: Cast) -> None:
    """XEP-0045 10.9: nothing happens by itself; the invitation to the other room waits for the call."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    new = f"{unique('next')}@{server.rooms}"
    bob.reconfigure(accept_invitation=lambda _: False)
    bob.mls._invitations._accept = lambda _: False
    with pytest.raises(UsageError, match="nobody has named"):
        await bob.mls.follow(room)
    there = await alice.room().branch(new, bob.account)
    with pytest.raises(UsageError):
        await alice.room(room).destroy(alternate="no address of a room")
    await alice.room(room).destroy(alternate=f"{new.upper()}/nick", reason="it has a better name")
    assert list(alice.mls.rooms) == [new]
    lost = await bob.next("mls_room_lost")
    assert (lost.room, lost.reason, lost.text) == (room, "destroyed", "it has a better name")
    assert list(bob.mls.rooms) == [room]
    async with asyncio.timeout(SECONDS):
        followed = await bob.mls.follow(room)
    assert followed.jid == new
    assert followed.is_member
    await all_agree(alice, bob, room=new)
    await bob.say("here we are again", new)
    await alice.hears("here we are again")
    assert (await bob.mls.follow(room)) is followed
    assert bob.room(room).group.is_member  # until it is left
    await asyncio.wait_for(bob.room(room).leave(), SECONDS)
    assert list(bob.mls.rooms) == [there.jid]


@pytest.mark.parametrize("who", ["another account", "an unknown device"])
async def test_the_room_in_a_destroyed_ones_place_has_strangers(who: str, prosody: DevServer, cast: Cast) -> None:
    """Servers can name any room, and put devices on any account's list: the old group's keys decide."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    maker = await cast.person(prosody, "mallory" if who == "another account" else alice.jid)
    bob.mls._invitations._accept = lambda _: False
    new = await maker.mls.create(f"{unique('trap')}@{prosody.rooms}")
    assert [each.account for each in (await new.add(bob.account)).added] == [bob.account]
    await alice.room(room).destroy(alternate=new.jid)
    await bob.next("mls_room_lost")
    async with asyncio.timeout(SECONDS):
        with pytest.raises(StrangersInRoom) as caught:
            await bob.mls.follow(room)
    assert caught.value.strangers == (f"{maker.account}/{maker.mls.device_id}",)
    assert list(bob.mls.rooms) == [room]
    assert bob.room(room).group.is_member
    await maker.until(lambda: new.accounts == [maker.account])


async def test_whoever_moves_a_group_does_not_become_its_administrator(prosody: DevServer, cast: Cast) -> None:
    """KeyPackages are public: a member without rights makes a group of the same people, and a server names its room."""
    room, (alice, bob, mallory) = await cast.meet(prosody, "alice", "bob", "mallory")
    bob.mls._invitations._accept = lambda _: False
    new = f"{unique('trap')}@{prosody.rooms}"
    there = await mallory.room(room).branch(new, alice.account, bob.account)
    await alice.room(room).destroy(alternate=new)
    await bob.until(lambda: bob.room(room).lost)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(RightsGained) as caught:
            await bob.mls.follow(room)
    assert f"{mallory.account} is named as an administrator" in caught.value.rights
    assert list(bob.mls.rooms) == [room]
    assert bob.room(room).group.is_member
    await mallory.until(lambda: there.accounts == sorted([alice.account, mallory.account]))


async def test_who_was_away_is_told_where_the_room_has_gone(server: DevServer, cast: Cast) -> None:
    """RFC 6120 8.3.3.5: Prosody keeps the address, as a URI; ejabberd forgets the room, and keeps nothing."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    bob.config["accept_invitation"] = lambda _: False
    await bob.log_out()
    new = f"{unique('next')}@{server.rooms}"
    await alice.room(room).branch(new, bob.account)
    await alice.room(room).destroy(alternate=new)
    await bob.connect()
    lost = (await bob.until(lambda: bob.room(room).lost)) and bob.room(room).lost
    assert lost is not None
    assert not bob.room(room).is_member
    async with asyncio.timeout(SECONDS):
        if server.software == "Prosody":
            assert (lost.reason, lost.alternate) == ("destroyed", new)
            assert (await bob.mls.follow(room)).jid == new
        else:
            assert (lost.reason, lost.alternate) == ("not-found", None)
            with pytest.raises(UsageError, match="nobody has named"):
                await bob.mls.follow(room)
            await bob.mls.join(new)
    await all_agree(alice, bob, room=new)


async def test_rooms_that_name_each_other_are_not_followed_for_ever(server: DevServer, cast: Cast) -> None:
    one, (alice, bob) = await cast.meet(server, "alice", "bob")
    two = f"{unique('two')}@{server.rooms}"
    await alice.room(one).branch(two, bob.account)
    await bob.joined(two)
    for room, other in ((one, two), (two, one)):
        await alice.room(room).destroy(alternate=other)
    await bob.until(lambda: bob.room(one).lost and bob.room(two).lost)
    async with asyncio.timeout(SECONDS):
        with pytest.raises(RoomLost):
            await bob.mls.follow(one)
    again = await bob.room(one).branch(f"{unique('three')}@{server.rooms}", alice.account)  # its keys are still there
    await alice.joined(again.jid)


async def test_a_conversation_whose_room_is_destroyed_goes_on_in_another(server: DevServer, cast: Cast) -> None:
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    async with asyncio.timeout(SECONDS):
        first = await alice.mls.conversation(bob.account)
        await bob.until(lambda: bob.mls.conversations.get(alice.account))
        await first.destroy()
        await bob.next("mls_room_lost")
        assert bob.mls.conversations == alice.mls.conversations == {}
        second = await bob.mls.conversation(alice.account)
    assert second.jid != first.jid
    await alice.joined(second.jid)
    await bob.say("where were we?", second.jid)
    await alice.hears("where were we?")


async def test_the_last_one_who_leaves_leaves_the_room(server: DevServer, cast: Cast) -> None:
    """XEP-0045 10: only its owner ends a room.  It can be used again; a destroyed one's address cannot, for a while."""
    room, (alice,) = await cast.meet(server, "alice")
    await asyncio.wait_for(alice.room().leave(), SECONDS)
    assert not alice.mls.rooms
    with pytest.raises(UsageError, match="exists already"):
        await alice.mls.create(room)
    async with asyncio.timeout(SECONDS):
        again = await alice.mls.adopt(room, anew=True)
        assert (again.epoch, again.accounts) == (0, [alice.account])
        await again.destroy()
    assert not alice.mls.rooms
    assert not again.is_member
    assert not again.group.is_member
