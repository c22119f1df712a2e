"""The end of a room by others' hands: one clear state, and a way on from it."""

from __future__ import annotations

import asyncio

import pytest
from slixmpp import JID

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import MLSError, NotPermitted, UsageError

from .people import SECONDS, Cast


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
    assert handle.is_member  # what the server says deletes no keys
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
