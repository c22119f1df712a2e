"""The process of one client in a large room: ``python -m benchmarks.large.member``; see :mod:`..rooms.process`."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from slixmpp_mls.authentication import AcceptAll
from slixmpp_mls.policy import RoomPolicy

from ..rooms import member
from ..rooms.process import obey
from .crowd import DEVICES, Crowd, account


class Client(member.Client):
    """One client, which believes every leaf: the crowd's accounts are on no server that could be asked."""

    settings = {**member.Client.settings, "authentication": AcceptAll()}

    def __init__(self) -> None:
        super().__init__()
        self._partial: float | None = None
        self._crowd: Crowd | None = None
        self.rejected: list[str] = []

    async def login(self, *arguments: Any, **named: Any) -> dict[str, float]:
        times = await super().login(*arguments, **named)
        self.xmpp.add_event_handler("mls_joined_partially", lambda _: self._joined_partially())
        for name in ("mls_rejected", "mls_failed", "mls_left_behind"):
            self.xmpp.add_event_handler(name, lambda event: self.rejected.append(repr(event)))
        return times

    def _joined_partially(self) -> None:
        self._partial = time.monotonic()

    # --- the host ------------------------------------------------------------------------------

    async def found(self, room: str, crowd: str, most: int) -> None:
        """A room for so many members, some of them of the crowd in the file."""
        self._crowd = Crowd(Path(crowd))
        self._crowd.stand_in(self.mls.context)
        policy = RoomPolicy(room, (self.xmpp.boundjid.bare,), max_members=most, max_devices=DEVICES)
        await self.mls.create(room, policy=policy, suite=1)

    async def add(self, room: str, accounts: list[str]) -> dict[str, int]:
        """Add real clients."""
        group = self.mls.room(room)
        result = await group.add(*accounts)
        if result.failed or result.skipped:
            raise RuntimeError(f"not added: {result.failed} {result.skipped}")
        return {"added": len(result.added), "epoch": group.epoch}

    async def grow(self, room: str, start: int, count: int) -> dict[str, int]:
        """Add accounts of the crowd."""
        return await self.add(room, [account(number) for number in range(start, start + count)])

    async def add_one(self, room: str, number: int, device: int) -> dict[str, int]:
        """Add one device of one account of the crowd."""
        assert self._crowd is not None
        jid = account(number + device // DEVICES)
        return await self.add(room, [f"{jid}/{self._crowd.device(jid, device % DEVICES)}"])

    async def shrink(self, room: str, start: int, count: int) -> dict[str, int]:
        """Remove accounts of the crowd."""
        group = self.mls.room(room)
        result = await group.remove(*(account(number) for number in range(start, start + count)))
        if result.failed:
            raise RuntimeError(f"not removed: {result.failed}")
        return {"removed": len(result), "epoch": group.epoch}

    # --- everybody -----------------------------------------------------------------------------

    async def joined(self, room: str) -> dict[str, Any]:
        """Wait until we are a full member; when we could read and send first, and when we were a full member."""
        await self._until(lambda: room in self.mls.rooms)
        group = self.mls.room(room)
        await group.wait_joined()
        await group.wait_live()
        now = time.monotonic()
        return {"first": self._partial or now, "full": now, "members": len(group.group.roster)}

    async def state(self, room: str) -> dict[str, Any]:
        """What members have to agree on."""
        group = self.mls.room(room)
        return {"epoch": group.epoch, "authenticator": group.epoch_authenticator.hex(), "rejected": self.rejected}

    async def lists(self, room: str) -> dict[str, float]:
        """Seconds of processor time: the list of all members with their levels of trust, and of all accounts."""
        group = self.mls.room(room)
        begun = time.process_time()
        members = group.members
        between = time.process_time()
        accounts = group.accounts
        return {
            "members": between - begun,
            "accounts": time.process_time() - between,
            "count": len(members),
            "of": len(accounts),
        }

    async def operations(self, room: str) -> dict[str, float]:
        """Seconds of processor time of what looks at all members."""
        group, mls = self.mls.room(room), self.mls
        roster, table = group.group.roster, mls.context.trust.table
        found: dict[str, float] = {}

        async def measure(name: str, operation: Callable[[], Awaitable[object]]) -> None:
            times = []
            for _ in range(3):
                begun = time.process_time()
                await operation()
                times.append(time.process_time() - begun)
            found[name] = min(times)

        async def members() -> None:
            _ = group.members

        async def accounts() -> None:
            _ = group.accounts

        async def tidy() -> None:
            table.tidy(set(roster.accounts()))

        async def authenticate() -> None:
            await group.worker.checks.look_again(list(roster.clients()))

        async def repeat() -> None:
            await group.worker.invitations.repeat_due()

        await measure("list of members, with levels of trust", members)
        await measure("list of accounts", accounts)
        await measure("compare affiliations", group.affiliations_differ)
        await measure("ask the Authentication Service about all", authenticate)
        await measure("tidy the table of keys", tidy)
        await measure("look for invitations to repeat", repeat)
        await measure("hygiene, one hour", mls.parts.maintenance.hourly)
        await measure("send a message", lambda: group.send("When shall we three meet again"))
        return found

    async def memory(self) -> dict[str, float]:
        """Megabytes, now and at most."""
        status = Path("/proc/self/status").read_text()  # noqa: ASYNC240  # proc(5): nothing to wait for
        now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return {"now": now / 1024, "most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


async def main() -> None:
    """Obey until the input ends."""
    logging.getLogger("slixmpp").setLevel(logging.CRITICAL)  # it complains about connections that are closed in the end
    for client in await obey(Client):
        client.xmpp.abort()


if __name__ == "__main__":
    asyncio.run(main())
