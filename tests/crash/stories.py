"""What victims do.

Each step is one that a careful bot would make again after a restart, if it does not know that it is done.

What a victim notes is its own memory, kept by somebody who survives it: `known` in a job is what its former
lives have noted.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any

from slixmpp import JID

from slixmpp_mls.authentication import device_lists
from slixmpp_mls.delivery import occupancy, stream
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.framing import MLSMessage, PrivateMessage
from slixmpp_mls.plugin import MLS
from slixmpp_mls.policy import Right, RoomPolicy
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage
from slixmpp_mls.rooms.encrypted_room import EncryptedRoom
from tests.patience import add_all
from tests.plugins import mls_of

from .points import CountedClient, CountedStore, Points

ANSWERED_IN = 60.0  # seconds, for a server's answer
PATIENCE = 180.0  # seconds for a whole story: eight are told side by side, perhaps by a slow machine
#: Events that must not come, whatever happens.
COMPLAINTS = (
    "mls_failed", "mls_rejected", "mls_unreadable", "mls_group_lost", "mls_left_behind", "mls_bounced", "mls_doubted",
    "mls_doubted_message", "mls_store_failed",
)  # fmt: skip
_PAYLOAD = re.compile(r"<(?:\w+:)?(?:application|commit|proposal)\b[^>]*>([^<]+)<")


class Bot:
    """A victim."""

    def __init__(self, job: dict[str, Any], note: Callable[..., None]) -> None:
        self.room: str = job["room"]
        self.others: list[str] = job["others"]
        self._note = note
        self.known: list[list[Any]] = list(job["known"])
        self.news = asyncio.Event()
        self.points = Points(None if job["kill_at"] is None else tuple(job["kill_at"]), note)
        self.client = CountedClient(job["jid"], job["password"])
        self.client.points, self.client.on_stanza = self.points, self._stanza
        self.client.ssl_context = ssl.create_default_context(cafile=job["ca_file"])
        self.client.enable_direct_tls = False
        store = CountedStore(job["store"], job["jid"], self.points)
        self.client.register_plugin("mls", {"store": store, "key_packages": 1, "cipher_suites": (1,)})
        self.client.add_event_handler("session_start", lambda _: self.client.send_presence())
        self.client.add_event_handler("mls_message", self._heard)
        for name in COMPLAINTS:
            self.client.add_event_handler(name, lambda data, name=name: self.note("complaint", name, repr(data)[:500]))
        for name in ("mls_room_lost", "mls_removed", "mls_commit_lost"):
            self.client.add_event_handler(name, lambda data, name=name: self.note(name))
        self.client.connect(job["host"], job["port"])

    def note(self, what: str, *data: object) -> None:
        """For the test, and for our later lives."""
        self._note(what, *data)
        self.known.append([what, *data])
        self.news.set()

    def has(self, *entry: object) -> bool:
        """Whether it has been noted, in this life or another."""
        return list(entry) in self.known

    @property
    def mls(self) -> MLS:
        return mls_of(self.client)

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self.news.wait()
            self.news.clear()

    # What is watched

    async def _heard(self, message: EncryptedMessage) -> None:
        await asyncio.sleep(0)  # a coroutine, as handlers are
        self.note("heard", message.archive_id, message.body, message.again)

    def watch_keys(self) -> None:
        """RFC 9420 9.2: note under which key each message is encrypted."""
        seal = CipherSuite.aead_seal

        def noting(suite: CipherSuite, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes | bytearray) -> bytes:
            ciphertext = seal(suite, key, nonce, aad, plaintext)
            self._note("sealed", sha256(ciphertext).hexdigest(), sha256(key).hexdigest())
            return ciphertext

        CipherSuite.aead_seal = noting  # type: ignore[method-assign, assignment]

    def _stanza(self, text: str) -> None:
        """What leaves: which messages, and nothing in clear."""
        assert "<body" not in text, text
        for octets in _PAYLOAD.findall(text):
            body = MLSMessage.decode(b64decode(octets)).body
            if isinstance(body, PrivateMessage):
                self._note("sent", sha256(body.ciphertext).hexdigest())

    # What is done

    def group(self) -> EncryptedRoom | None:
        group = self.mls.rooms.get(self.room)
        return group if group is not None and group.is_member else None

    def member(self) -> EncryptedRoom:
        return self.mls.room(self.room)

    async def say(self, text: str) -> None:
        """If we do not know that it was accepted, it is the same message once more."""
        if self.has("accepted", text):
            return
        message = self.client.make_message(mto=JID(self.room), mtype="groupchat")
        message["id"] = f"id of {text}"
        message["body"] = text
        await self.member().send(message)
        self.note("accepted", text)

    async def hears(self, text: str) -> None:
        await self.until(lambda: any(entry[0] == "heard" and entry[2] == text for entry in self.known))

    def state(self) -> None:
        group = self.member()
        self.note("state", group.epoch, group.epoch_authenticator.hex())


async def founder(bot: Bot) -> None:
    """Makes a room and a group, adds two, talks, renews, changes the policy, removes one, leaves."""
    bob, carol = bot.others
    if not bot.has("leaving"):
        group = bot.group() or await bot.mls.create(bot.room, policy=policy(bot))
        await group.wait_live()
        if not bot.has("added"):
            await add_all(group, bob, carol)
            assert {bob, carol} <= set(group.accounts)
            bot.note("added")
        await bot.say("one")
        await bot.say("one more")  # with the next key of the same epoch
        await bot.hears("re: one")
        if not bot.has("updated"):
            await group.update()
            bot.note("updated")
        await group.set_policy(replace(policy(bot), may_add=Right.MEMBERS))
        if not bot.has("removed"):
            await group.remove(carol)
            assert carol not in group.accounts
            bot.note("removed")
        await bot.say("two")
        bot.state()
        bot.note("leaving")
    left = bot.group()
    if left is not None and not left.group.post_commit_actions.leave:
        await left.leave()
    await bot.until(lambda: bot.room not in bot.mls.rooms)


def policy(bot: Bot) -> RoomPolicy:
    return RoomPolicy(bot.room, (bot.client.boundjid.bare, bot.others[0]))


async def guest(bot: Bot) -> None:
    """Is invited, joins, talks while others do and change keys, and is removed."""
    if not bot.has("done"):
        if not bot.has("ready"):
            bot.note("ready")
        await bot.until(bot.group)
        group = bot.member()
        await group.wait_live()
        if not bot.has("joined"):
            bot.note("joined")
        await bot.say("one")
        await bot.say("one more")  # with the next key of the same epoch
        await bot.hears("first")
        await bot.hears("second")
        if not bot.has("updated"):
            await group.update()
            bot.note("updated")
        await bot.say("two")
        await bot.hears("third")
        bot.state()
        bot.note("done")
    await bot.until(lambda: bot.group() is None or bot.has("mls_room_lost"))


STORIES = {"founder": founder, "guest": guest}


def be_patient() -> None:
    """Servers answer in the end, however busy the machine; a request without an answer in time fails the story."""
    stream.TIMEOUT = occupancy._SILENCE = device_lists.PATIENCE = ANSWERED_IN


def live(job: dict[str, Any], note: Callable[..., None]) -> None:
    """One life, from its beginning to the end of the story, or to the point at which it is to end."""
    be_patient()

    async def told() -> None:
        bot = Bot(job, note)
        bot.watch_keys()
        async with asyncio.timeout(PATIENCE):
            await bot.mls.ready()
            await STORIES[job["story"]](bot)
        for label, times in sorted(bot.points.reached.items()):
            note("points", label, times)

    asyncio.run(told())
