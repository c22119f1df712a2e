"""Servers that take less than we send: they cut the stream, and do not say what they would have taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody
from slixmpp_mls.errors import StanzaTooLarge
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.rooms.encrypted_room import EncryptedRoom

from ..conftest import unavailable_means_skip, unique
from .test_large_groups import People, Recorded, until

LIMIT = 40_000


class Narrow(Ejabberd):
    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        settings["listen"][0]["max_stanza_size"] = LIMIT
        return settings


@pytest_asyncio.fixture(params=["prosody", "ejabberd"])
async def narrow(request: pytest.FixtureRequest) -> AsyncIterator[DevServer]:
    server = Narrow() if request.param == "ejabberd" else Prosody(extra_config=f"c2s_stanza_size_limit = {LIMIT}")
    with unavailable_means_skip():
        await server.start()
    yield server
    await server.close()


async def coming_back(people: People, name: str) -> tuple[Recorded, EncryptedRoom, list[object]]:
    """Somebody in a room who connects again whenever the stream is cut."""
    client, mls = await people.come(name)
    cuts: list[object] = []

    def again(reason: object) -> None:
        cuts.append(reason)
        asyncio.get_running_loop().call_later(0.1, client.connect, people.server.host, people.server.port)

    client.add_event_handler("disconnected", again)
    people.ends.append(lambda: client.del_event_handler("disconnected", again))
    room = f"{unique('coven')}@{people.server.rooms}"
    policy = RoomPolicy(room, (client.boundjid.bare,), max_devices=200)  # the crowd is one account
    return client, await mls.create(room, policy=policy), cuts


def explained(cuts: list[object]) -> list[object]:
    """What the server says last may get lost with a connection that it resets; then the message goes out again."""
    return [why for why in cuts if not isinstance(why, ConnectionError)]


async def test_a_message_that_is_too_large(narrow: DevServer) -> None:
    people = People(narrow)
    try:
        _, group, cuts = await coming_back(people, "alice")
        sent = await group.send("x" * 2 * LIMIT)
        with pytest.raises(StanzaTooLarge) as caught:
            await asyncio.wait_for(sent.confirmed, 120)
        assert caught.value.limit >= LIMIT
        await (await group.send("small")).confirmed
        # The limit is half of what was too much.  If that is still too much, it is lowered again.
        sent = await group.send("x" * 33_000)
        with pytest.raises(StanzaTooLarge):
            await asyncio.wait_for(sent.confirmed, 120)
        known = len(cuts)
        assert len(explained(cuts)) == 2
        with pytest.raises(StanzaTooLarge) as caught:
            await group.send("x" * 20_000)
        assert caught.value.limit < LIMIT
        await (await group.send("x" * 10_000)).confirmed
        assert len(cuts) == known
    finally:
        await people.end()


async def test_a_commit_that_is_too_large(narrow: DevServer) -> None:
    people = People(narrow)
    try:
        crowd = await people.crowd("crowd", 150)
        _, group, cuts = await coming_back(people, "alice")
        async with asyncio.timeout(300):
            result = await group.add(crowd)
        assert len(result.added) == 150
        assert not result.failed
        assert 1 <= len(explained(cuts)) <= 3
        await until(lambda: group.live)
        assert len(group.members) == 151
        await (await group.send("small")).confirmed
    finally:
        await people.end()
