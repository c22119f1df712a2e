"""Waiting for one's own Commit, when the room is lost meanwhile and read again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slixmpp_mls.client import GroupChanged
from slixmpp_mls.committing import Committer
from slixmpp_mls.errors import RoomLost
from slixmpp_mls.mls.proposals import Remove
from slixmpp_mls.progress import Progress
from slixmpp_mls.testing import NOW

from .witches import only, three


def nobody(*_: Any) -> Any:
    raise AssertionError("nothing is to be made or sent")


async def test_a_commit_that_is_on_its_way_is_waited_for_when_the_room_is_read_again() -> None:
    """RFC 9420 12.4: application data waits for it, and so does nothing else."""
    world, alice, bob, _ = three()
    bob.propose(Remove(2))
    world.settle()
    outgoing = alice.session.commit((), NOW)
    progress = Progress(alice.session)
    plugin: Any = None
    delivery: Any = None
    committer = Committer(plugin, alice.session, delivery, progress, fits=nobody, transmit=nobody)
    committer.begin()

    progress.lost = RoomLost(alice.session.room, "not-a-member")
    committer.fail(progress.lost)
    with pytest.raises(RoomLost):
        await committer.commit_what_waits()

    progress.lost = None  # we are let in again
    committer.begin()
    progress.live.set()
    waiting = asyncio.create_task(committer.commit_what_waits())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    alice.events.clear()
    alice.post(outgoing)
    world.settle()
    committer.settle(only(alice.events, GroupChanged))
    await asyncio.wait_for(waiting, 5)
    assert not alice.session.needs_commit
