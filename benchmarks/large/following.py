"""What a Commit costs those who follow it, through the whole plugin, in a group with a key in every parent node.

Two real clients make a room.  Then a group of any size, in which they are the first and the last leaf, takes the place
of theirs, in the memory and the store of both.  A third client, without encryption, receives the same stanzas: what it
costs is slixmpp's own share.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slixmpp_mls.devserver import DevServer

from ..rooms.crew import Crew, Member

__all__ = ["Following", "measure", "sentence"]


@dataclass(frozen=True, slots=True)
class Following:
    """Seconds of processor time for one Commit, the least of all.

    :ivar sender: of who makes it
    :ivar receiver: of who follows it
    :ivar plain: of a client without encryption that receives the same stanzas
    :ivar core: of the protocol core, for such a Commit
    """

    members: int
    sender: float
    receiver: float
    plain: float
    core: float


async def measure(
    server: DevServer, members: int, commits: int, progress: Callable[[str], None], profile: Path | None = None
) -> Following:
    """Follow Commits in a group of so many.

    :param commits: how many
    :param profile: a file for the receiver's profile (of :mod:`cProfile`, which makes it slower)
    """
    program = "benchmarks.large.member"
    with tempfile.TemporaryDirectory() as folder:
        async with (
            await Crew.gather(server, 2, Path(folder), program=program) as crew,
            await Crew.gather(server, 1, None) as plain,
        ):
            sender, receiver = crew.members
            (third,) = plain.members
            room = f"follow-{uuid.uuid4().hex[:8]}@{server.rooms}"
            await sender.do("create", room=room, accounts=[receiver.account])
            await receiver.do("enter", room=room)
            crowd = [f"member{number}@bench.example" for number in range(1, members - 1)]
            await sender.do("let_in", room=room, accounts=[third.account, *crowd])  # who is shut out is removed
            await third.do("enter", room=room)
            progress(f"a group of {members:,} is made")
            file = str(Path(folder) / "second")
            other = await receiver.do("own_leaf", room=room)
            await sender.do("fill", room=room, members=members, other=other, file=file)
            await receiver.do("take", room=room, file=file)
            await _follow(room, crew.members, third, 1)  # it makes the indexes
            progress(f"{commits} Commits")
            if profile is not None:
                await receiver.do("profile", file="")
            costs = [await _follow(room, crew.members, third, 1) for _ in range(commits)]
            if profile is not None:
                await receiver.do("profile", file=str(profile))
            asking = [await _follow(room, crew.members, third, 0) for _ in range(5)]
            for each in crew.members:
                if (size := await each.do("size", room=room)) != members:
                    raise RuntimeError(f"the group has {size:,} members")
            least = [min(each) for each in zip(*costs, strict=True)]
            less = [min(each) for each in zip(*asking, strict=True)]
            made, followed, received = (each - own for each, own in zip(least, less, strict=True))
            await sender.do("make_commit", room=room, file=file)
            core = await receiver.do("follow_alone", room=room, file=file, times=2 * commits)
            return Following(members, made, followed, received, core)


async def _follow(room: str, pair: Sequence[Member], third: Member, commits: int) -> tuple[float, float, float]:
    """Seconds of processor time of the sender, the receiver and the third, with that for our questions."""
    sender, receiver = pair
    who = *pair, third
    before = [await each.do("cost") for each in who]
    state = await sender.do("state", room=room)
    await sender.do("update", room=room, at=0.0, times=commits)
    after = await receiver.do("reach", room=room, epoch=state["epoch"] + commits)
    if after["authenticator"] != (await sender.do("state", room=room))["authenticator"]:
        raise RuntimeError("the members do not agree")
    await asyncio.sleep(0.1)  # what is left to do
    costs = [await each.do("cost") for each in who]
    made, followed, received = (now["cpu"] - then["cpu"] for then, now in zip(before, costs, strict=True))
    return made, followed, received


def sentence(costs: Following) -> str:
    """The same in words."""
    made, followed, received, core = (
        f"{seconds * 1000:.2f} ms" for seconds in (costs.sender, costs.receiver, costs.plain, costs.core)
    )
    return (
        f"Processor time for a Commit in a full tree of {costs.members:,}: {made} to make, {followed} to follow; "
        f"{core} of that in the core, {received} for a client without encryption."
    )
