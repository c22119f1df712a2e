"""A group of version 0.1 in the store is named (xep/mls.xml, "Version 0.1")."""

from __future__ import annotations

import pytest

from slixmpp_mls.client import GroupOutdated
from slixmpp_mls.client.group import lifecycle
from slixmpp_mls.integrations.notices import notice
from slixmpp_mls.testing import World

from ..client.people import ALICE
from .people import Bot, until


async def test_a_group_of_version_0_1_is_reported_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "group_extensions", lambda policy: (policy.extension(),))
    bot = Bot(world.group(ALICE)[0])
    await bot.rooms.resume()
    await until(lambda: bool(bot.got("mls_group_outdated")))
    event = GroupOutdated(world.room.jid, ())  # our own leaf is of this version
    assert bot.got("mls_group_outdated") == [event]
    said = notice("mls_group_outdated", event)
    assert said is not None
    assert said.warning
    bot.room.worker._tell_whether_outdated()
    assert bot.got("mls_group_outdated") == [event]


async def test_a_group_of_this_version_is_not(world: World) -> None:
    bot = Bot(world.group(ALICE)[0])
    await bot.rooms.resume()
    await until(lambda: bot.room.live)
    assert not bot.got("mls_group_outdated")
