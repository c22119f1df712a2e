"""How fast a client that was away reads what has been said meanwhile."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slixmpp_mls.devserver import DevServer

from .crew import Crew

__all__ = ["CatchUp", "catch_up"]

_WINDOW = 40


@dataclass(frozen=True)
class CatchUp:
    """One catching up.

    :ivar seconds: from being in the room until all of the archive was decrypted, stored and with the application
    :ivar fetching: seconds for the same pages with nothing done about them: the server's time, and slixmpp's
    :ivar cpu: seconds of the client's processor time
    :ivar writing: seconds that it took to say all this
    """

    messages: int
    seconds: float
    fetching: float
    cpu: float
    writing: float


async def catch_up(server: DevServer, messages: int, *, progress: Callable[[str], None]) -> CatchUp:
    """One speaks, the other one is away and comes back."""
    with tempfile.TemporaryDirectory() as folder:
        async with await Crew.gather(server, 2, Path(folder)) as crew:
            room = f"past-{uuid.uuid4().hex[:8]}@{server.rooms}"
            speaker, away = crew.members
            await speaker.do("create", room=room, accounts=[away.account])
            await crew.all("enter", room=room)
            await away.do("logout")
            progress(f"saying {messages:,} messages")
            begun = (await speaker.do("clock"))["now"]
            await speaker.do("talk", room=room, count=messages, size=100, window=_WINDOW, pause=0)
            writing = (await speaker.do("clock"))["now"] - begun
            progress(f"fetching {messages:,} messages")
            fetched = await speaker.do("read_archive", room=room)
            progress(f"catching up with {messages:,} messages")
            await away.do("reset")
            before = await away.do("cost")
            times = await crew.log_in(away)
            heard = await away.do("hear", count=messages)
            after = await away.do("cost")
            if heard["heard"] != messages:
                raise RuntimeError(f"{heard['heard']} messages, not {messages}")
            seconds = times["live"] - times["entered"]
            return CatchUp(messages, seconds, fetched["seconds"], after["cpu"] - before["cpu"], writing)
