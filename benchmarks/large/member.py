"""The process of one client in a large room: ``python -m benchmarks.large.member``; see :mod:`..rooms.process`."""

from __future__ import annotations

import asyncio
import cProfile
import logging
import pickle
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from slixmpp_mls.authentication import AcceptAll
from slixmpp_mls.client.group.room_contents import Membership
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.policy import RoomPolicy

from ..groups import full_group
from ..rooms import member
from ..rooms.process import obey
from .crowd import DEVICES, Crowd, account

_TIMES = 9  # of each operation, of which the fastest counts: the others were disturbed


class Client(member.Client):
    """One client, which believes every leaf: the crowd's accounts are on no server that could be asked."""

    settings = {**member.Client.settings, "authentication": AcceptAll()}

    def __init__(self) -> None:
        super().__init__()
        self._partial: float | None = None
        self._crowd: Crowd | None = None
        self._profile: cProfile.Profile | None = None
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

    # --- a group that is there at once -----------------------------------------------------------

    async def own_leaf(self, room: str) -> dict[str, str]:
        """Our leaf, and its private signature key: for a group that another process of the benchmark makes."""
        group = self.mls.room(room).group.mls
        leaf = group.tree.member(group.own_index)
        return {"leaf": leaf.encode().hex(), "key": group.signature_key.encode().hex()}

    async def fill(self, room: str, members: int, other: dict[str, str], file: str) -> None:
        """Put a group of so many into the place of that of two, with a key in every parent node.

        :param other: what the second member's :meth:`own_leaf` says
        :param file: for the second member's state
        """
        group = self.mls.room(room).group.mls
        suite, context = group.suite, group.context
        real = {
            0: (group.tree.member(group.own_index), group.signature_key),
            members - 1: (
                LeafNode.decode(bytes.fromhex(other["leaf"])),
                suite.import_signature_key(bytes.fromhex(other["key"])),
            ),
        }
        extensions, epoch = context.extensions, context.epoch
        own, second = full_group(
            suite, members, (0, members - 1), extensions, group_id=context.group_id, epoch=epoch, real=real
        )
        Path(file).write_bytes(pickle.dumps(second.pieces()))  # noqa: ASYNC240  # nobody else waits
        self._put(room, own)

    async def take(self, room: str, file: str) -> None:
        """Put the group of that file into the place of ours."""
        pieces = pickle.loads(Path(file).read_bytes())  # noqa: ASYNC240  # our own, and nobody else waits
        self._put(room, Group.restore(pieces.items()))

    def _put(self, room: str, group: Group) -> None:
        state = self.mls.room(room).group.room_state
        with state.store.transaction() as transaction:
            transaction.delete_prefix(state.spaces.group)
            for name, value in group.pieces().items():
                transaction.put(state.spaces.group, name, value)
        before = state.require_member()
        state._contents.membership = Membership.of(group.stored(), before.doubts, before.actions)

    async def make_commit(self, room: str, file: str) -> None:
        """A Commit of ours that nobody is sent, in a file."""
        mls = self.mls.room(room).group.mls
        Path(file).write_bytes(mls.commit(now=self._now()).commit)  # noqa: ASYNC240  # nobody else waits

    async def follow_alone(self, room: str, file: str, times: int) -> float:
        """Seconds of processor time, at the least, in which the protocol core follows that Commit."""
        mls, commit = self.mls.room(room).group.mls, Path(file).read_bytes()  # noqa: ASYNC240  # likewise
        costs = []
        for _ in range(times):
            begun = time.process_time()
            mls.apply(mls.process(commit, now=self._now()), now=self._now())
            costs.append(time.process_time() - begun)
        return min(costs)

    def _now(self) -> int:
        return self.mls.context.clock.now

    async def profile(self, file: str) -> None:
        """From now on; the next call ends it, and writes to the file."""
        if self._profile is None:
            self._profile = cProfile.Profile(time.process_time)
            self._profile.enable()
        else:
            self._profile.disable()
            self._profile.dump_stats(file)

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

    async def size(self, room: str) -> int:
        """How many leaves are members."""
        return len(self.mls.room(room).group.roster)

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
            for _ in range(_TIMES):
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
