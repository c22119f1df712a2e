"""A room without a server, for whole engines."""

from __future__ import annotations

from typing import Any

import pytest
from slixmpp import ClientXMPP

from slixmpp_mls.rooms.engine import worker
from slixmpp_mls.testing import FakeMUC, World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    def muc(xmpp: ClientXMPP, room: str, nick: str, *, on_event: Any, ping_interval: float) -> FakeMUC:
        assert room == world.room.jid
        return FakeMUC(xmpp, world.room, str(xmpp.boundjid.bare), nick, on_event=on_event)

    monkeypatch.setattr(worker, "Room", muc)
    return world
