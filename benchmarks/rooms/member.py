"""The process of some clients: ``python -m benchmarks.rooms.member``, told what to do as :mod:`.process` says."""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from slixmpp_mls import plugin as _plugin
from slixmpp_mls.client import GroupChanged
from slixmpp_mls.delivery import Archive, Room
from slixmpp_mls.plugin import MLS
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage

from .process import obey
from .quiet import Confirming

if TYPE_CHECKING:
    from .omemo import Omemo

#: What the plugin brings along, so that a client without it is otherwise the same.
_PLUGINS = sorted(_plugin.MLS.dependencies)


class Client:
    """One client and what it has heard.

    :ivar heard: number of others' messages since the last `reset`
    :ivar delays: how long each of them took, seconds
    """

    settings: ClassVar[dict[str, Any]] = {"key_packages": 2}
    """Of the plugin."""

    def __init__(self) -> None:
        self.heard = 0
        self.delays: list[float] = []
        self.last = 0.0
        self._news = asyncio.Event()
        self._room = ""
        self._own: dict[str, asyncio.Future[None]] = {}
        self._times: dict[str, float] = {}
        self.xmpp: ClientXMPP
        self.encrypted = False
        self._omemo: Omemo | None = None
        self._people: list[str] = []

    # --- life ----------------------------------------------------------------------------------

    async def login(
        self, jid: str, password: str, host: str, port: int, ca_file: str, store: str | None, omemo: bool, suite: int
    ) -> dict[str, float]:
        """Connect; with a store, as an encrypted client.  Moments of the start, in seconds from now.

        :param omemo: as a client with slixmpp-omemo
        :param suite: the cipher suite of an encrypted client
        """
        xmpp = self.xmpp = ClientXMPP(jid, password)
        xmpp.ssl_context = ssl.create_default_context(cafile=ca_file)
        xmpp.enable_direct_tls = xmpp.enable_plaintext = False
        for name in _PLUGINS:
            xmpp.register_plugin(name)
        self.encrypted = store is not None
        self._times = {}
        begun = time.monotonic()
        session: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        xmpp.add_event_handler("session_start", lambda _: None if session.done() else session.set_result(None))
        if self.encrypted:
            xmpp.register_plugin("mls", {"store": store, "cipher_suites": (suite,), **self.settings})
            xmpp.add_event_handler("mls_message", self._decrypted)
            xmpp.add_event_handler("mls_entered", lambda _: self._note("entered", begun))
            for name in ("mls_entered", "mls_group_changed"):
                xmpp.add_event_handler(name, lambda _: self._news.set())
        elif omemo:
            from .omemo import Omemo  # it takes memory that the others do not have

            self._omemo = Omemo(xmpp)
            xmpp.add_event_handler("groupchat_message", self._by_omemo)
        else:
            xmpp.add_event_handler("groupchat_message", self._plain)
        xmpp.connect(host, port)
        await session
        self._note("session", begun)
        xmpp.send_presence()
        if self.encrypted:
            await self.mls.ready()
        if self._omemo is not None:
            await self._omemo.ready()
        self._note("ready", begun)
        for handle in self.mls.rooms.values() if self.encrypted else ():
            await handle.wait_live()
        self._note("live", begun)
        return self._times

    def _note(self, name: str, begun: float) -> None:
        self._times.setdefault(name, time.monotonic() - begun)

    async def logout(self) -> None:
        await self.xmpp.disconnect(wait=1.0)
        if self.encrypted:
            cast(Any, self.xmpp.plugin).disable("mls")

    @property
    def mls(self) -> MLS:
        plugin = cast(Any, self.xmpp.plugin)["mls"]
        assert isinstance(plugin, MLS)
        return plugin

    # --- rooms ---------------------------------------------------------------------------------

    async def create(self, room: str, accounts: list[str]) -> None:
        """An encrypted room with these people; who may commit anything."""
        group = await self.mls.create(room)
        if accounts:
            result = await group.add(*accounts)
            if result.failed or result.skipped:
                raise RuntimeError(f"not added: {result.failed} {result.skipped}")

    async def prepare(self, room: str, accounts: list[str]) -> None:
        """A room without a group, otherwise the same."""
        delivery = Room(self.xmpp, room, "keeper")
        await delivery.create()
        await delivery.affiliations.grant_membership(accounts)
        await delivery.leave()

    async def let_in(self, room: str, accounts: list[str]) -> None:
        """Let people into an encrypted room, but not into its group."""
        await self.mls.room(room).muc.affiliations.grant_membership(accounts)

    async def enter(self, room: str) -> None:
        """Be in a room: in its group, or without encryption, among its occupants."""
        self._room = room
        if self.encrypted:
            await self._until(lambda: room in self.mls.rooms)  # the invitation is on its way
            handle = self.mls.room(room)
            await handle.wait_joined()
            await handle.wait_live()
        else:
            nick = self.xmpp.boundjid.user
            await self.xmpp.plugin["xep_0045"].join_muc_wait(JID(room), nick, maxstanzas=0, timeout=60)

    async def people(self, accounts: list[str]) -> None:
        """For whom OMEMO encrypts from now on."""
        self._people = accounts

    async def listen_no_more(self) -> None:
        """From now on take what the server sends off the connection, and only confirm it (XEP-0198)."""
        handled = self.xmpp.plugin["xep_0198"].handled
        self.xmpp.data_received = cast(Any, Confirming(handled, self.xmpp.send_raw))  # type: ignore[method-assign]

    # --- talking -------------------------------------------------------------------------------

    async def talk(self, room: str, count: int, size: int, window: int, pause: float) -> None:
        """Say so many things, with at most `window` of them on their way at once, `pause` seconds apart."""
        slots = asyncio.Semaphore(window)
        saying: set[asyncio.Task[None]] = set()
        for _ in range(count):
            await slots.acquire()
            task = asyncio.create_task(self._say(room, size))
            task.add_done_callback(lambda _: slots.release())
            saying.add(task)
            task.add_done_callback(saying.discard)
            if pause:
                await asyncio.sleep(pause)
        await asyncio.gather(*saying)

    async def _say(self, room: str, size: int) -> None:
        """One message; returns when the room has reflected it."""
        body = f"{time.monotonic():.6f} ".ljust(size, ".")
        if self.encrypted:
            await (await self.mls.room(room).send(body)).confirmed
            return
        message = self.xmpp.make_message(mto=JID(room), mbody=body, mtype="groupchat")
        origin = message["id"] = self.xmpp.new_id()
        reflected = self._own[origin] = asyncio.get_running_loop().create_future()
        if self._omemo is not None:
            message = await self._omemo.encrypt(message, self._people)
        message.send()
        await reflected

    def _decrypted(self, message: EncryptedMessage) -> None:
        self._hear(message.body)

    def _plain(self, message: Message) -> None:
        own = self._own.pop(message["id"], None)
        if own is not None and message["mucnick"] == self.xmpp.boundjid.user:
            own.set_result(None)
        else:
            self._hear(message["body"])

    async def _by_omemo(self, message: Message) -> None:
        own = self._own.pop(message["id"], None)
        if own is not None and message["mucnick"] == self.xmpp.boundjid.user:
            own.set_result(None)
            return
        assert self._omemo is not None
        body = await self._omemo.decrypt(message)
        if body is not None:
            self._hear(body)

    def _hear(self, body: str) -> None:
        self.last = time.monotonic()
        self.heard += 1
        self.delays.append(self.last - float(body.partition(" ")[0]))
        self._news.set()

    async def reset(self) -> None:
        """Count from here."""
        self.heard, self.delays = 0, []

    async def hear(self, count: int) -> dict[str, Any]:
        """Wait until so many messages have come since `reset`."""
        await self._until(lambda: self.heard >= count)
        return {"last": self.last, "heard": self.heard, "delays": self.delays}

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    # --- committing ----------------------------------------------------------------------------

    async def update(self, room: str, at: float, times: int = 1) -> float:
        """Renew our keys so many times, beginning at that moment; the moment at which the last Commit had won."""
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        for _ in range(times):
            changed = await self.mls.room(room).update()
            assert isinstance(changed, GroupChanged)
        return time.monotonic()

    async def reach(self, room: str, epoch: int) -> dict[str, Any]:
        """Wait for an epoch; when it was there, and what it looks like."""
        group = self.mls.room(room)
        await self._until(lambda: group.epoch >= epoch)
        return {"at": time.monotonic(), "epoch": group.epoch, "authenticator": group.epoch_authenticator.hex()}

    # --- archives ------------------------------------------------------------------------------

    async def read_archive(self, room: str) -> dict[str, float]:
        """The room's archive, page by page, and nothing done with it: the server's own time and slixmpp's."""
        begun, read = time.monotonic(), 0
        async for page in Archive(self.xmpp, room).pages(None):
            read += len(page.entries)
        return {"seconds": time.monotonic() - begun, "read": read}

    # --- this process --------------------------------------------------------------------------

    async def cost(self) -> dict[str, float]:
        """Seconds of processor time so far, and megabytes of memory at most."""
        return {"cpu": time.process_time(), "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    async def clock(self) -> dict[str, float]:
        """What the time is."""
        return {"now": time.monotonic()}

    async def tasks(self) -> int:
        """How many asyncio tasks there are."""
        return len(asyncio.all_tasks())


async def main() -> None:
    """Obey until the input ends."""
    logging.getLogger("slixmpp").setLevel(logging.CRITICAL)  # it complains about connections that are closed in the end
    logging.getLogger("omemo").setLevel(logging.ERROR)  # it warns of each new device
    for client in await obey(Client):
        client.xmpp.abort()


if __name__ == "__main__":
    asyncio.run(main())
