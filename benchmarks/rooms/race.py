"""All members of a room commit at the same moment: how long until everybody has had their way."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from slixmpp_mls.devserver import DevServer

from .crew import Crew

__all__ = ["Race", "race"]


@dataclass(frozen=True)
class Race:
    """One race.

    :ivar seconds: from the common start until all members were in the last epoch
    :ivar alone: seconds that one member needs for as many Commits, one after the other, with all others following
    :ivar commits: how many Commits were sent; `members` would do
    """

    members: int
    seconds: float
    alone: float
    commits: int


async def race(server: DevServer, members: int) -> Race:
    """Each renews its keys: a change that cannot be merged with another's."""
    with tempfile.TemporaryDirectory() as folder:
        async with await Crew.gather(server, members, Path(folder)) as crew:
            room = f"race-{uuid.uuid4().hex[:8]}@{server.rooms}"
            host = crew.members[0]
            await host.do("create", room=room, accounts=list(crew.accounts[1:]))
            await crew.all("enter", room=room)
            await host.do("update", room=room, at=0.0)
            epoch = (await host.do("reach", room=room, epoch=0))["epoch"]

            async def reached(after: int) -> float:
                states = await crew.all("reach", room=room, epoch=epoch + after)
                if len({state["authenticator"] for state in states}) != 1:
                    raise RuntimeError("the members do not agree")
                last: float = max(state["at"] for state in states)
                return last

            begun = time.monotonic()
            await host.do("update", room=room, at=begun, times=members)
            alone = await reached(members) - begun
            epoch += members
            before = _commits(server, room)
            begun = time.monotonic() + 1.0
            racing = asyncio.create_task(crew.all("update", room=room, at=begun))
            seconds = await reached(members) - begun
            await racing
            return Race(members, seconds, alone, _commits(server, room) - before)


def _commits(server: DevServer, room: str) -> int:
    return sum("<commit" in stanza for stanza in server.archive(room))
