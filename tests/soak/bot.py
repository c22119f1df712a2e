"""One person: ``python -m tests.soak.bot``, told what to do as :mod:`benchmarks.rooms.process` says.

It stays connected as a program with :func:`slixmpp_mls.run` does, and writes down what it hears: one line of JSON each,
before the handler returns, so that what the library counts as delivered is in the file, whatever happens next.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import ssl
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.rooms.process import obey
from slixmpp_mls.client import Unreadable
from slixmpp_mls.delivery import Stream
from slixmpp_mls.plugin import MLS
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage
from slixmpp_mls.rooms.encrypted_room import EncryptedRoom
from slixmpp_mls.runtime.connection import KeptConnection, abort
from slixmpp_mls.runtime.login import Client
from tests.plugins import mls_of


class Bot:
    """One client for the life of its process."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []

    async def start(self, jid: str, password: str, host: str, port: int, ca_file: str, store: str, heard: str) -> None:
        """Begin to connect, and to do so again whenever the connection has gone."""
        self._heard = Path(heard).open("a", buffering=1)  # noqa: ASYNC230, SIM115
        details = logging.FileHandler(f"{heard}.log")
        details.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        ours = logging.getLogger("slixmpp_mls")
        ours.setLevel(logging.INFO)
        ours.addHandler(details)
        xmpp = self.xmpp = Client(jid, password, (host, port), ssl.create_default_context(cafile=ca_file))
        xmpp.register_plugin("mls", {"store": store, "key_packages": 20, "cipher_suites": (1,)})
        xmpp.add_event_handler("mls_message", self._message)
        xmpp.add_event_handler("mls_joined", lambda event: self._note(joined=event.epoch))
        xmpp.add_event_handler("mls_unreadable", self._unreadable)
        for name in ("mls_rejected", "mls_group_lost", "mls_left_behind", "mls_failed", "mls_bounced"):
            xmpp.add_event_handler(name, lambda event, name=name: self._complain(name, event))
        for name in ("mls_commit_lost", "mls_group_changed", "mls_interrupted", "mls_removed", "mls_room_lost"):
            xmpp.add_event_handler(name, lambda _, name=name: self.counts.update([name]))
        self._kept = KeptConnection(xmpp, presence=True)

    async def end(self) -> None:
        """The end of the process, in good order."""
        await self._kept.close()

    @property
    def mls(self) -> MLS:
        return mls_of(self.xmpp)

    # --- what it hears -------------------------------------------------------------------------

    def _note(self, **what: Any) -> None:
        self._heard.write(json.dumps(what) + "\n")

    def _message(self, message: EncryptedMessage) -> None:
        sender = message.sender.account
        self._note(id=message.archive_id, text=message.body, by=sender, epoch=message.epoch, again=message.again)

    def _unreadable(self, event: Unreadable) -> None:
        if event.reason != "before-join":
            self._complain("mls_unreadable", event)

    def _complain(self, name: str, event: object) -> None:
        self.counts[name] += 1
        self._note(complaint=f"{name}: {event!r}"[:500])

    # --- what it does --------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until others can find our keys."""
        await self.mls.ready()

    async def create(self, room: str) -> None:
        account = self.xmpp.boundjid.bare
        await self.mls.create(room, policy=RoomPolicy(room, (account,)))

    async def _group(self, room: str) -> EncryptedRoom:
        await self.mls.ready()
        return self.mls.room(room)

    async def add(self, room: str, account: str) -> dict[str, str]:
        result = await (await self._group(room)).add(account)
        return {**result.failed, **result.skipped}

    async def remove(self, room: str, account: str) -> None:
        await (await self._group(room)).remove(account)

    async def leave(self, room: str) -> None:
        await (await self._group(room)).leave()

    async def update(self, room: str) -> None:
        await (await self._group(room)).update()

    async def say(self, room: str, text: str) -> None:
        """Returns when the message is accepted."""
        await (await self._group(room)).send(text)

    async def cut(self) -> None:
        """The connection breaks."""
        abort(self.xmpp)

    async def tasks(self) -> list[str]:
        """Where each task is, for finding out why nothing happens."""
        found = []
        for task in asyncio.all_tasks():
            text = io.StringIO()
            task.print_stack(file=text)
            found.append(text.getvalue())
        return found

    async def state(self, room: str) -> dict[str, Any]:
        """How it stands to the group."""
        handle = self.mls.rooms.get(room)
        # Who was away when it was removed is not let in to read so: it has lost the room, and is told that.
        if handle is None or not handle.is_member or handle.worker.progress.lost is not None:
            return {"member": False, "counts": self.counts, "why": self._why_outside(handle)}
        return {
            "member": True,
            "live": handle.live,
            "epoch": handle.epoch,
            "authenticator": handle.epoch_authenticator.hex(),
            "accounts": handle.accounts,
            "waiting": len(handle.group.outstanding_ids()),
            "counts": self.counts,
        }

    def _why_outside(self, handle: EncryptedRoom | None) -> str:
        """What there is to know about a client that is in no group, perhaps by a fault."""
        session = "online" if Stream.of(self.xmpp).online else f"offline, {self.xmpp.transport}"
        if handle is None:
            return f"{session}; the room is not in use"
        return f"{session}; {handle.group.state}; inside: {handle.muc.inside}; lost: {handle.lost!r}"


async def main() -> None:
    """Obey until the input ends."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("slixmpp").setLevel(logging.CRITICAL)  # it complains about every broken connection
    for bot in await obey(Bot):
        await bot.end()


if __name__ == "__main__":
    asyncio.run(main())
