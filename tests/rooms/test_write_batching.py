"""Messages that are sent at once wait for the disk once, and fail each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from slixmpp_mls.client import Outgoing
from slixmpp_mls.errors import StanzaTooLarge, StoreFull
from slixmpp_mls.rooms.engine.write_batching import WriteBatcher
from slixmpp_mls.stanza import RoomElement
from slixmpp_mls.testing import FaultyStore, Participant, World

from ..client.people import three


def on_a_counted_disk() -> tuple[World, Participant, Participant, FaultyStore]:
    world, alice, bob, _ = three()
    store = FaultyStore(alice.store)
    alice.restart(store)
    return world, alice, bob, store


def saying(alice: Participant, text: bytes, limit: int = 10_000) -> Callable[[], Outgoing]:
    def fits(found: Sequence[RoomElement]) -> None:
        size = sum(len(element.data) for element in found)
        if size > limit:
            raise StanzaTooLarge(size, limit)

    return lambda: alice.group.sending.compose(text, fits=fits)


async def test_what_is_sent_at_once_is_written_at_once_and_in_order() -> None:
    world, alice, bob, store = on_a_counted_disk()
    batcher = WriteBatcher(alice.group)
    before = store.commits
    texts = [b"%d" % number for number in range(20)]
    made = await asyncio.gather(*(batcher.do(saying(alice, text)) for text in texts))
    assert store.commits == before + 1
    for outgoing in made:
        alice.post(outgoing)
    world.settle()
    assert bob.texts == texts
    await batcher.do(saying(alice, b"alone"))
    assert store.commits > before + 1


async def test_one_that_cannot_be_sent_does_not_keep_the_others_back() -> None:
    world, alice, bob, _ = on_a_counted_disk()
    batcher = WriteBatcher(alice.group)
    texts = [b"first", b"x" * 20_000, b"last"]
    steps = [batcher.do(saying(alice, text)) for text in texts]
    made = await asyncio.gather(*steps, return_exceptions=True)
    assert isinstance(made[1], StanzaTooLarge)
    for outgoing in made:
        if isinstance(outgoing, Outgoing):
            alice.post(outgoing)
    world.settle()
    assert bob.texts == [b"first", b"last"]
    assert world.agree()


async def test_a_full_disk_is_said_to_all_and_nothing_has_happened() -> None:
    """RFC 9420 9.1: a generation that was not stored is not used up, and none is used twice."""
    world, alice, bob, store = on_a_counted_disk()
    batcher = WriteBatcher(alice.group)
    for attempt in range(6):
        before = alice.group.mls.pieces()
        store.fail_at = store.writes + attempt
        texts = [b"a", b"b", b"c"]
        made = await asyncio.gather(*(batcher.do(saying(alice, text)) for text in texts), return_exceptions=True)
        assert all(isinstance(each, StoreFull) for each in made), made
        assert alice.group.mls.pieces() == before
        assert not alice.group.outstanding_ids()
    store.fail_at = None
    for outgoing in await asyncio.gather(*(batcher.do(saying(alice, text)) for text in (b"d", b"e"))):
        alice.post(outgoing)
    world.settle()
    assert bob.texts == [b"d", b"e"]


async def test_a_caller_that_no_longer_waits_sends_nothing() -> None:
    world, alice, bob, _ = on_a_counted_disk()
    batcher = WriteBatcher(alice.group)
    first, second = (asyncio.create_task(batcher.do(saying(alice, text))) for text in (b"never", b"mind"))
    await asyncio.sleep(0)
    first.cancel()
    alice.post(await second)
    with pytest.raises(asyncio.CancelledError):
        await first
    world.settle()
    assert bob.texts == [b"mind"]
