"""Which conversation with an account counts, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from slixmpp_mls.errors import RoomLost
from slixmpp_mls.rooms import conversations
from slixmpp_mls.rooms.conversations import Conversations
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB
from ..services import Client


class _Room:
    """A conversation with Bob."""

    def __init__(self, name: str, group_id: bytes, joined: int) -> None:
        self.jid, self.partner = f"{name}@rooms.example", BOB
        membership = SimpleNamespace(view=self)
        state = SimpleNamespace(record=SimpleNamespace(joined=joined), require_member=lambda: membership)
        roster = SimpleNamespace(leaves_of=lambda account: ())
        members, mls = SimpleNamespace(doubts={}), SimpleNamespace(group_id=group_id)
        self.group: Any = SimpleNamespace(room_state=state, roster=roster, members=members, mls=mls)
        self.lost: RoomLost | None = None

    @property
    def is_member(self) -> bool:
        return self.lost is None


async def _accept(account: str) -> None:
    """Nothing is undecided."""


@pytest.mark.parametrize("reason", ["banned", "refused", "destroyed"])
def test_a_conversation_whose_room_shuts_us_out_for_a_moment_counts_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Its service cannot divert it, by another one with a smaller id and a device of the service's own in it."""
    ours, theirs = _Room("ours", b"\2", 1), _Room("theirs", b"\1", 2)
    strange = [theirs]
    monkeypatch.setattr(
        conversations, "strangers_to", lambda view, group: [each for each in strange if each.group is group]
    )
    rooms: Any = SimpleNamespace(all={each.jid: each for each in (ours, theirs)}, get=lambda jid: rooms.all.get(jid))
    (alice,) = world.group(ALICE)
    found: Any = Conversations(Client(alice).context, rooms, accept=_accept)
    assert found._note_counting(BOB) is ours
    ours.lost = RoomLost(ours.jid, reason)
    assert found._note_counting(BOB) is theirs
    ours.lost = None  # it lets us in again; or another one has its address, and is ours
    assert found._note_counting(BOB) is (theirs if reason == "destroyed" else ours)
    strange.clear()  # the device has been let into ours
    assert found._note_counting(BOB) is theirs
