"""Committing, and waiting for one's own Commit (RFC 9420 12.4), also when the room is lost and read again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest.mock import AsyncMock

import pytest

from slixmpp_mls.client import CommitLost, GroupChanged
from slixmpp_mls.errors import (
    BlobTooLarge,
    DeliveryError,
    Disconnected,
    RoomLost,
    StanzaTooLarge,
    TransferFailed,
    UsageError,
)
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.rooms.engine import transmitter
from slixmpp_mls.rooms.engine.committer import Committer
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.stanza import Commit, RoomElement
from slixmpp_mls.stanza.blob import BlobReference
from slixmpp_mls.testing import NOW, Participant, World

from ..client.people import CAROL, DAVE, only, three
from .people import Parts, soon, until


class Committing(Parts):
    """Alice's committer."""

    def __init__(self, person: Participant) -> None:
        super().__init__(person)
        self.refused: list[str] = []
        self.transmitter = Transmitter(self.parts, lambda origin_id, condition, error: self.refused.append(origin_id))
        self.committer = Committer(self.parts, self.transmitter)

    def read(self) -> None:
        """Everybody reads what is in the room, and Alice's engine hears of what has become of her Commit."""
        person = self.person
        before = len(person.events)
        self.world.settle()
        for event in person.events[before:]:
            match event:
                case GroupChanged() if event.by.identity == person.device.identity:
                    self.committer.resolve(event)
                case CommitLost():
                    self.committer.resolve(event)
        self.progress.notify()


def committing() -> tuple[World, Committing, Participant, Participant]:
    world, alice, bob, carol = three()
    return world, Committing(alice), bob, carol


async def test_a_commit_takes_effect_when_the_room_reflects_it() -> None:
    world, alice, bob, _ = committing()
    changing = asyncio.create_task(alice.committer.commit(list, force=True))
    await soon()
    assert not changing.done()
    assert alice.group.sending.commit_waits
    alice.read()
    changed = await changing
    assert changed is not None
    assert changed.epoch == alice.group.mls.epoch == bob.epoch
    assert world.agree()


async def test_a_commit_that_comes_second_is_made_again_unless_it_is_superfluous() -> None:
    """DESIGN, delivery rule 2: the caller is asked again in the state after the winner's Commit."""
    _, alice, bob, _ = committing()
    asked: list[int] = []

    def remove_carol() -> list[Remove] | None:
        asked.append(alice.group.mls.epoch)
        leaves = alice.group.roster.leaves_of(CAROL)
        return [Remove(leaf) for leaf in leaves] or None

    bob.commit(*bob.removing(CAROL))  # is in the room first
    removing = asyncio.create_task(alice.committer.commit(remove_carol))
    await soon()
    alice.read()
    async with asyncio.timeout(60):
        assert await removing is None
    assert asked == [1, 2]
    assert not alice.group.roster.has(CAROL)


async def test_a_commit_that_the_room_refuses_raises() -> None:
    _, alice, *_ = committing()
    changing = asyncio.create_task(alice.committer.commit(list, force=True))
    await soon()
    error = DeliveryError("refused")
    (waiting,) = alice.muc.sent
    events = alice.group.bounced(waiting, "policy-violation")
    alice.committer.refused(error)
    for event in events:
        alice.committer.resolve(only([event], CommitLost))
    alice.progress.notify()
    with pytest.raises(DeliveryError, match="refused"):
        await changing
    assert not alice.group.sending.commit_waits


async def test_a_commit_that_does_not_fit_changes_nothing() -> None:
    _, alice, *_ = committing()
    before = alice.group.mls.pieces()

    def narrow(elements: object) -> None:
        raise StanzaTooLarge(300_000, 240_000)

    alice.parts.fits = narrow  # type: ignore[method-assign]
    with pytest.raises(StanzaTooLarge):
        await alice.committer.commit(list, force=True)
    assert alice.group.mls.pieces() == before
    assert not alice.muc.sent


async def test_a_client_that_is_out_of_the_group_commits_nothing() -> None:
    _, alice, *_ = committing()
    alice.group.lifecycle.give_up()
    with pytest.raises(UsageError):
        await alice.committer.commit(list, force=True)


# --- the room is lost --------------------------------------------------------------------------


async def test_pending_proposals_wait_for_our_commit_and_then_for_nothing() -> None:
    """RFC 9420 12.4: application data waits until the proposals are committed."""
    world, alice, bob, _ = committing()
    bob.propose(Remove(2))
    world.settle()
    alice.person.commit()
    waiting = asyncio.create_task(alice.committer.commit_pending())
    await soon()
    assert not waiting.done()
    alice.read()
    async with asyncio.timeout(60):
        await waiting
    assert not alice.group.sending.needs_commit
    assert not alice.muc.sent  # nothing but the Commit that was on its way already


async def test_a_caller_waiting_to_commit_is_told_when_the_room_is_lost() -> None:
    world, alice, bob, _ = committing()
    bob.propose(Remove(2))
    world.settle()
    alice.person.commit()
    behind_a_commit = asyncio.create_task(alice.committer.commit_pending())
    another = asyncio.create_task(alice.committer.commit(list, force=True))
    await soon()
    alice.lose(RoomLost(world.room.jid, "not-a-member"))
    for each in (behind_a_commit, another):
        with pytest.raises(RoomLost):
            await asyncio.wait_for(each, 60)
    with pytest.raises(RoomLost):  # and so does whoever comes later
        await asyncio.wait_for(alice.committer.commit_pending(), 60)


async def test_a_room_that_is_read_again_still_waits_for_the_commit_that_was_on_its_way() -> None:
    """Proposals wait, a Commit of ours is on its way, the room is lost and read again: this spun without end."""
    world, alice, bob, _ = committing()
    bob.propose(Remove(2))
    world.settle()
    outgoing = alice.group.sending.commit((), NOW)
    alice.lose(RoomLost(world.room.jid, "not-a-member"))
    alice.committer.fail(RoomLost(world.room.jid, "not-a-member"))

    alice.progress.lost = None  # we are let in again
    alice.progress.live.set()
    alice.progress.notify()
    waiting = asyncio.create_task(alice.committer.commit_pending())
    await asyncio.wait_for(soon(), 60)  # the loop goes round
    assert not waiting.done()
    await alice.transmitter.transmit(outgoing)
    alice.read()
    await asyncio.wait_for(waiting, 60)
    assert not alice.group.sending.needs_commit


async def test_a_commit_made_before_a_restart_is_waited_for() -> None:
    _, alice, _, _ = committing()
    alice.person.commit()
    alice.person.restart()
    again = Committing(alice.person)
    changing = asyncio.create_task(again.committer.commit(list, force=True))
    await soon()
    assert not again.muc.sent
    again.read()
    await soon()
    assert len(again.muc.sent) == 1
    again.read()
    assert await asyncio.wait_for(changing, 60) is not None


class Web:
    """A place for uploads, in memory."""

    def __init__(self, alice: Committing, limit: int = 1 << 25) -> None:
        self.world, self.largest = alice.world, limit
        self.errors: list[DeliveryError] = []
        self.put_so_far = 0
        alice.context.uploads.put = self.put  # type: ignore[method-assign]
        alice.context.uploads.check = self.check  # type: ignore[method-assign]

    async def check(self, size: int) -> None:
        if size > self.largest:
            raise BlobTooLarge(size, self.largest)

    async def put(self, data: bytes) -> BlobReference:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        self.put_so_far += 1
        return self.world.upload(data)


def no_room_for_commits(elements: Sequence[RoomElement]) -> None:
    if any(isinstance(element, Commit) for element in elements):
        raise StanzaTooLarge(300_000, 240_000)


async def test_giving_up_waiting_during_an_upload_stops_no_later_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transmitter, "REFLECTION_OVERDUE", 0.05)
    _, alice, _, _ = committing()
    web = Web(alice)
    alice.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    alice.context.uploads.put = AsyncMock(side_effect=asyncio.CancelledError)  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await alice.committer.commit(list, force=True)
    assert alice.group.sending.commit_waits
    alice.context.uploads.put = web.put  # type: ignore[method-assign]
    await until(lambda: alice.muc.suspected)
    assert alice.transmitter.verified() == alice.group.outstanding_ids()  # they are sent again now


async def test_a_commit_that_no_stanza_holds_is_uploaded_and_has_its_place_in_the_room() -> None:
    world, alice, bob, _ = committing()
    web = Web(alice)
    alice.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    changing = asyncio.create_task(alice.committer.commit(list, force=True))
    await until(lambda: alice.muc.sent)
    assert web.put_so_far == 1
    alice.read()
    changed = await changing
    assert changed is not None
    assert changed.epoch == bob.epoch
    assert world.agree()


async def test_a_divisible_commit_is_not_uploaded_unless_its_path_is_what_is_large() -> None:
    world, alice, *_ = committing()
    web = Web(alice)
    world.person(DAVE)
    alice.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    adds = alice.person.adding(DAVE)
    with pytest.raises(StanzaTooLarge):
        await alice.committer.commit(lambda: adds, divisible=True)
    assert not web.put_so_far
    assert not alice.group.sending.commit_waits


async def test_a_divisible_commit_is_uploaded_where_each_of_several_would_take_a_long_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, alice, bob, _ = committing()
    web = Web(alice)
    world.person(DAVE)
    alice.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    adds = alice.person.adding(DAVE)
    tree = len(alice.group.mls.tree.encode())
    monkeypatch.setattr("slixmpp_mls.rooms.engine.committer._LONG_TREE", tree)
    committed = asyncio.create_task(alice.committer.commit(lambda: adds, divisible=True))
    await until(lambda: alice.muc.sent)
    assert web.put_so_far == 2, "the tree, and the Commit"
    alice.read()
    changed = await committed
    assert changed is not None
    assert [member.account for member in changed.added] == [DAVE]
    assert changed.epoch == bob.epoch
    assert world.agree()


async def test_a_commit_for_which_no_service_has_room_changes_nothing() -> None:
    """Sizes are compared with what the service takes before anything is stored."""
    _, alice, *_ = committing()
    web = Web(alice, limit=10)
    alice.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    before = alice.group.mls.pieces()
    with pytest.raises(BlobTooLarge):
        await alice.committer.commit(list, force=True)
    assert alice.group.mls.pieces() == before
    assert not web.put_so_far


async def test_an_upload_that_fails_for_good_ends_the_commit() -> None:
    world, alice, bob, _ = committing()
    web = Web(alice)
    web.errors.append(TransferFailed("no space left", temporary=False))
    alice.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    errors: list[DeliveryError] = []

    def refused(origin_id: str, condition: str, error: DeliveryError) -> None:
        errors.append(error)
        events = alice.group.bounced(origin_id, condition)
        alice.committer.refused(error)
        for event in events:
            alice.committer.resolve(only([event], CommitLost))
        alice.progress.notify()

    alice.transmitter._refused = refused
    with pytest.raises(TransferFailed, match="no space left"):
        await alice.committer.commit(list, force=True)
    assert len(errors) == 1
    assert not alice.muc.sent
    bob.commit()  # others go on
    alice.read()
    assert world.agree()


async def test_an_upload_without_a_connection_goes_out_later() -> None:
    world, alice, *_ = committing()
    web = Web(alice)
    web.errors.append(Disconnected("no stream"))
    alice.parts.fits = no_room_for_commits  # type: ignore[method-assign]
    changing = asyncio.create_task(alice.committer.commit(list, force=True))
    await until(lambda: alice.group.sending.commit_waits and not web.errors)
    await soon()
    assert not alice.muc.sent
    assert alice.transmitter.stream_resumed() == {next(iter(alice.group.outstanding_ids()))}
    (outgoing,) = alice.group.outstanding()
    await alice.transmitter.transmit(outgoing)
    alice.read()
    assert await changing is not None
    assert world.agree()
