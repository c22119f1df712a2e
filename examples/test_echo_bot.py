"""How to test a bot: pytest finds the fixtures by itself, and starts a real, temporary server.

pip install 'slixmpp-mls[pytest]'
pytest test_echo_bot.py
"""

from __future__ import annotations

import pytest
from echo_bot import echo

from slixmpp_mls import connected
from slixmpp_mls.testing.pytest_plugin import MakeLogin, MakePerson, Pair


@pytest.mark.asyncio
async def test_the_bot_repeats_what_it_hears(mls_login: MakeLogin, mls_person: MakePerson) -> None:
    """Alice talks in a room with the bot; the bot runs in the test's own process."""
    bot = (await mls_login("echo")).bot()
    bot.add_event_handler("mls_message", echo)
    async with connected(bot):
        alice = await mls_person("alice")
        room = await alice.room_with(bot.boundjid.bare)
        await room.send("Fair is foul")
        assert (await alice.hears()).body == f"{alice.jid} said: Fair is foul"


@pytest.mark.asyncio
async def test_people_hear_each_other(mls_room: Pair) -> None:
    """Two people in a room: what the bot would see of them can be written by hand."""
    await mls_room.alice.mls.room(mls_room.jid).send("When shall we two meet again?")
    message = await mls_room.bob.hears(mls_room.alice.jid)
    assert message.body == "When shall we two meet again?"
    await message.react("👍")
