"""Sending application data: once, in order, and again until the room reflects it."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock

import pytest

from slixmpp_mls.client import Event, MessageSent
from slixmpp_mls.delivery import Bounced
from slixmpp_mls.errors import DeliveryError, NoAnswer, RoomLost, StanzaTooLarge, UsageError
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.rooms.engine import transmitter
from slixmpp_mls.rooms.engine.committer import Committer
from slixmpp_mls.rooms.engine.sender import Sender
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.testing import FaultyStore, Participant, World

from ..client.people import three
from .people import Parts, soon, until


class Sending(Parts):
    """A member's sender."""

    def __init__(self, person: Participant, *, live: bool = True) -> None:
        super().__init__(person, live=live)
        self.bounces: list[tuple[list[Event], DeliveryError]] = []
        self.transmitter = Transmitter(self.parts, lambda *refused: self.sender.refused(*refused))
        self.committer = Committer(self.parts, self.transmitter)
        self.sender = Sender(
            self.parts, self.committer, self.transmitter, lambda *bounced: self.bounces.append(bounced)
        )

    def go_live(self) -> None:
        self.muc.enter_again()
        self.progress.live.set()
        self.progress.notify()
        self.sender.went_live()

    def interrupt(self) -> None:
        self.muc.interrupt()
        self.progress.live.clear()
        self.transmitter.interrupted()

    def read(self) -> None:
        before = len(self.person.events)
        self.world.settle()
        for event in self.person.events[before:]:
            if isinstance(event, MessageSent):
                self.sender.confirm(event)
            self.transmitter.stanza_read()
        self.progress.notify()


def sending(*, live: bool = True) -> tuple[World, Sending, Participant]:
    world, alice, bob, _ = three()
    return world, Sending(alice, live=live), bob


async def soon_stored(alice: Sending) -> None:
    """Go on in the very moment in which a message is stored, before anything else is run."""
    while not alice.group.outstanding_ids():  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0)


async def test_a_message_is_confirmed_when_the_room_reflects_it() -> None:
    _, alice, bob = sending()
    sent = await alice.sender.send(b"fair is foul", None)
    assert alice.muc.sent == [sent.origin_id]
    assert not sent.confirmed.done()
    alice.read()
    assert await asyncio.wait_for(sent.confirmed, 60) == alice.group.cursor
    assert bob.texts == [b"fair is foul"]


async def test_what_is_said_while_the_room_is_not_live_waits_and_goes_out_in_order() -> None:
    _, alice, bob = sending(live=False)
    texts = [b"%d" % number for number in range(5)]
    sent = [await alice.sender.send(text, None) for text in texts]
    assert not alice.muc.sent
    alice.go_live()
    later = await alice.sender.send(b"later", None)
    await until(lambda: len(alice.muc.sent) == 6)
    assert alice.muc.sent == [*(each.origin_id for each in sent), later.origin_id]
    alice.read()
    assert bob.texts == [*texts, b"later"]


async def test_a_message_that_was_lost_with_the_stream_is_sent_again_and_read_once() -> None:
    world, alice, bob = sending()
    sent = await alice.sender.send(b"once", None)
    world.room.lose()
    alice.interrupt()
    alice.go_live()
    await until(lambda: len(alice.muc.sent) == 2)
    alice.read()
    await asyncio.wait_for(sent.confirmed, 60)
    assert bob.texts == [b"once"]


async def test_what_was_made_while_the_stream_was_broken_goes_out_when_it_goes_on() -> None:
    """XEP-0198: the stream manager sends again what was on the stream, and knows nothing of the rest."""
    _, alice, bob = sending()
    alice.muc._inside = False  # the stream is broken; nobody has noticed yet
    sent = await alice.sender.send(b"unsent", None)
    assert not alice.muc.sent
    alice.muc._inside = True
    alice.sender.stream_resumed()
    await until(lambda: alice.muc.sent == [sent.origin_id])
    alice.read()
    assert bob.texts == [b"unsent"]


async def test_a_refused_message_says_so_and_is_not_sent_again() -> None:
    _, alice, _ = sending()
    sent = await alice.sender.send(b"unwelcome", None)
    alice.sender.bounced(Bounced(sent.origin_id, "policy-violation", ""))
    with pytest.raises(DeliveryError, match="policy-violation"):
        await asyncio.wait_for(sent.confirmed, 60)
    assert sent.origin_id not in alice.group.outstanding_ids()
    alice.interrupt()
    alice.go_live()
    await soon()
    assert alice.muc.sent == [sent.origin_id]
    assert len(alice.bounces) == 1


async def test_a_message_that_is_put_off_is_sent_again_and_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 6120 8.3.2, type ``wait``: later messages go behind the one that waits."""
    monkeypatch.setattr(transmitter, "_SHORTEST_PAUSE", 0.01)
    world, alice, bob = sending()
    first = await alice.sender.send(b"first", None)
    world.room.lose()
    alice.sender.bounced(Bounced(first.origin_id, "resource-constraint", "", "wait"))
    second = await alice.sender.send(b"second", None)
    assert alice.muc.sent == [first.origin_id]
    await until(lambda: len(alice.muc.sent) == 2)
    alice.read()
    await until(lambda: len(alice.muc.sent) == 3)
    alice.read()
    assert alice.muc.sent == [first.origin_id, first.origin_id, second.origin_id]
    assert bob.texts == [b"first", b"second"]


async def test_a_message_without_a_reflection_is_doubted_and_sent_again_once_it_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transmitter, "REFLECTION_OVERDUE", 0.05)
    world, alice, bob = sending()
    sent = await alice.sender.send(b"lost", None)
    world.room.lose()
    await until(lambda: alice.muc.suspected)
    assert alice.muc.sent == [sent.origin_id]  # not before the archive has been read
    alice.sender.verified()
    await until(lambda: len(alice.muc.sent) == 2)
    alice.read()
    assert bob.texts == [b"lost"]


async def test_a_message_that_the_client_does_not_get_rid_of_is_doubted_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stream stays, and no resumption sends it again."""
    monkeypatch.setattr(transmitter, "REFLECTION_OVERDUE", 0.05)
    _, alice, bob = sending()
    with monkeypatch.context() as stuck:
        stuck.setattr(alice.muc, "send", AsyncMock(side_effect=NoAnswer("the client's send queue does not move")))
        sent = await alice.sender.send(b"at last", None)
    await until(lambda: alice.muc.suspected)
    assert not alice.muc.sent
    alice.sender.verified()
    await until(lambda: alice.muc.sent == [sent.origin_id])
    alice.read()
    assert bob.texts == [b"at last"]


async def test_giving_up_waiting_does_not_lose_a_message_that_is_being_written() -> None:
    """If the stream breaks in that moment, and goes on, nobody else would send it."""
    _, alice, bob = sending()
    alice.muc.send = AsyncMock(side_effect=asyncio.CancelledError)  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await alice.sender.send(b"even so", None)
    del alice.muc.send
    alice.sender.stream_resumed()
    await until(lambda: len(alice.muc.sent) == 1)
    alice.read()
    assert bob.texts == [b"even so"]


async def test_giving_up_waiting_behind_older_messages_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transmitter, "REFLECTION_OVERDUE", 0.05)
    _, alice, bob = sending(live=False)
    await alice.sender.send(b"older", None)
    taken, send = asyncio.Event(), alice.muc.send

    async def slow(*args: Any, **named: Any) -> None:
        await taken.wait()
        await send(*args, **named)

    monkeypatch.setattr(alice.muc, "send", slow)
    alice.go_live()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await alice.sender.send(b"bounded", None)
    taken.set()
    await until(lambda: len(alice.muc.sent) == 1 and alice.muc.suspected)
    alice.read()
    alice.sender.verified()
    await until(lambda: len(alice.muc.sent) == 2)
    alice.read()
    assert bob.texts == [b"older", b"bounded"]


async def test_a_message_that_our_server_turns_out_not_to_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, alice, _ = sending()

    async def refuse(*_: object, **__: object) -> None:
        raise StanzaTooLarge(300_000, 100_000)

    monkeypatch.setattr(alice.muc, "send", refuse)
    sent = await alice.sender.send(b"large", None)
    with pytest.raises(StanzaTooLarge):
        await asyncio.wait_for(sent.confirmed, 60)
    assert not alice.group.outstanding_ids()


async def test_the_same_id_is_the_same_message() -> None:
    _, alice, bob = sending(live=False)
    first = await alice.sender.send(b"once", "m1")
    second = await alice.sender.send(b"once", "m1")
    assert first.origin_id == second.origin_id == "m1"
    assert first.confirmed is second.confirmed
    alice.go_live()
    await until(lambda: alice.muc.sent)
    alice.read()
    assert bob.texts == [b"once"]


async def test_pending_proposals_are_committed_before_a_message_is_sent() -> None:
    """RFC 9420 12.4."""
    world, alice, bob = sending()
    bob.propose(Remove(2))
    world.settle()
    saying = asyncio.create_task(alice.sender.send(b"after", None))
    await soon()
    assert len(alice.muc.sent) == 1
    assert alice.group.sending.commit_waits
    assert not saying.done()
    before = len(alice.person.events)
    world.settle()
    for event in alice.person.events[before:]:
        alice.committer.resolve(event)  # type: ignore[arg-type]
    alice.progress.notify()
    await asyncio.wait_for(saying, 60)
    alice.read()
    assert bob.texts == [b"after"]


async def test_a_caller_waiting_to_send_is_told_when_the_room_is_lost() -> None:
    """Proposals wait, and the room is not live: this hung for ever."""
    world, alice, bob = sending(live=False)
    bob.propose(Remove(2))
    world.settle()
    saying = asyncio.create_task(alice.sender.send(b"never", None))
    await soon()
    assert not saying.done()
    alice.lose(RoomLost(world.room.jid, "not-a-member"))
    with pytest.raises(RoomLost):
        await asyncio.wait_for(saying, 60)
    assert not alice.group.outstanding_ids()


async def test_every_message_in_the_outbox_has_an_answer_when_the_room_is_lost() -> None:
    """Also one whose sender has not been woken yet after it was stored."""
    world, alice, _ = sending(live=False)
    saying = asyncio.create_task(alice.sender.send(b"stored", None))
    await soon_stored(alice)
    error = RoomLost(world.room.jid, "not-a-member")
    alice.lose(error)
    alice.sender.fail(error)
    sent = await asyncio.wait_for(saying, 60)
    with pytest.raises(RoomLost):
        await asyncio.wait_for(sent.confirmed, 60)


async def test_an_outbox_that_cannot_be_read_is_tried_again() -> None:
    _, alice, bob, _ = three()
    store = FaultyStore(alice.store)
    alice.restart(store)
    client = Sending(alice, live=False)
    await client.sender.send(b"patience", None)
    store.fail_at = store.writes
    client.go_live()
    await until(lambda: client.got("mls_store_failed"))
    await until(lambda: client.muc.sent)
    client.read()
    assert bob.texts == [b"patience"]


async def test_a_client_that_is_out_of_the_group_sends_nothing() -> None:
    _, alice, _ = sending()
    alice.group.lifecycle.give_up()
    with pytest.raises(UsageError):
        await alice.sender.send(b"secret", None)
    assert not alice.muc.sent
