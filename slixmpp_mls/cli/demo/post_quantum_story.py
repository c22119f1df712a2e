"""The story of ``demo --post-quantum``: a room begins in cipher suite 1 and moves to a post-quantum one.

Bob's client is an older one.  When he has a newer one, everybody's client says that all could move, and Alice moves the
room.  Its policy then demands that it stays so.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from ...errors import MLSError, UsageError
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.registry import CipherSuiteId
from ...rooms.engine.reinit import BetterSuite
from .story import STEP_TIMEOUT, Story
from .timeline import DemoFailed

__all__ = ["OLD", "PostQuantumStory"]

OLD = int(CipherSuiteId.MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519)
_NEW = int(CipherSuiteId.MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519)


class PostQuantumStory(Story):
    """The same people."""

    async def tell(self) -> None:
        """:raises DemoFailed: something is not as it should be"""
        if not CipherSuite.is_supported(_NEW):
            raise UsageError("OpenSSL is older than 3.5 here, and has no ML-KEM")
        for person in self.people:
            person.configure(cipher_suites=(_NEW, OLD))
        bob = self.people[1]
        bob.configure(cipher_suites=(OLD,))
        try:
            await self._connect()
            await self._meet_in_the_suite_of_all()
            better = await self._renew_a_client()
            await self._move(better)
            await self._stay()
        except TimeoutError:
            raise DemoFailed(f"nothing happens any more ({self.show.expected})") from None

    async def _meet_in_the_suite_of_all(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("A room in the best cipher suite that all have")
        self.show.expect("Making the room")
        room = await alice.mls.create(self.room, invite=[bob.jid, carol.jid])
        for person in (bob, carol):
            await person.until(lambda person=person: self._is_member(person))  # type: ignore[misc]
        self.show.row("bob", "has an older client, without post-quantum suites")
        self.show.check("alice", f"made the room in {_name(room.suite)}, for bob's sake", room.suite == OLD)
        self.show.check("", "who records it now can read it with a quantum computer, some day", not room.post_quantum)
        await self._say(alice, "When shall we three meet again?", bob, carol)

    async def _renew_a_client(self) -> BetterSuite:
        alice, bob, carol = self.people
        self.show.chapter("An older client is renewed")
        found: list[BetterSuite] = []

        def note(event: Any) -> None:
            found.append(event)
            alice.news.set()

        alice.client.add_event_handler("mls_better_suite", note)
        await bob.disconnect()
        bob.configure(cipher_suites=(_NEW, OLD))
        self.show.expect("Waiting for what the clients notice")
        await bob.connect()
        self.show.row("bob", "comes back with a newer client; his leaf in the tree says what it can do")
        await alice.until(lambda: bool(found))
        (better,) = found
        self.show.check("alice", f"is told: all members could be in {_name(better.suite)}", better.suite == _NEW)
        await self._say(carol, "In thunder, lightning, or in rain?", alice, bob)
        return better

    async def _move(self, better: BetterSuite) -> None:
        alice, bob, carol = self.people
        self.show.chapter("The room moves")
        self.show.expect("Reinitializing the group")
        async with asyncio.timeout(STEP_TIMEOUT):
            moved = await self._room_of(alice).reinit()
        self.show.check("alice", "ends the group by a ReInit, and makes the one that follows", moved == better.suite)
        for person in self.people:
            await person.until(
                lambda person=person: self._is_member(person) and self._room_of(person).suite == _NEW  # type: ignore[misc]
            )
            withstands = self._room_of(person).post_quantum
            self.show.check(person.name, "is in: what is recorded from now on stays closed", withstands)
        await self._say(bob, "When the hurlyburly's done, when the battle's lost and won.", alice, carol)
        await self._say(carol, "That will be ere the set of sun.", alice, bob)
        suite = CipherSuite.get(_NEW)
        self.show.check(
            "", "this concerns secrecy: signatures are by Ed25519, as before", not suite.signatures_are_post_quantum
        )

    async def _stay(self) -> None:
        alice, bob, carol = self.people
        self.show.chapter("... and stays")
        room = self._room_of(alice)
        self.show.expect("Changing the policy")
        await room.set_policy(replace(room.policy, post_quantum=True))
        for person in (bob, carol):
            await person.until(lambda person=person: self._room_of(person).policy.post_quantum)  # type: ignore[misc]
        self.show.row("alice", "has the policy demand a post-quantum suite")
        refused = ""
        try:
            await room.reinit(OLD)
        except MLSError as error:
            refused = str(error)
        self.show.check("", f"nobody moves it back: {refused}", "post-quantum" in refused)
        await self._say(alice, "Where the place?", bob, carol)


def _name(suite: int) -> str:
    return CipherSuiteId(suite).name
