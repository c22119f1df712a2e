"""Coming back into a group: by request (RFC 9420 12.1.8), or by an external Commit (12.4.3.2)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import Rejoining
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import NoGroupInfo, RoomLost
from slixmpp_mls.policy import ExternalJoins
from slixmpp_mls.rooms.engine import rejoin
from slixmpp_mls.rooms.engine.rejoin import Rejoiner, group_in
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, CAROL, DAVE, closed_policy, three
from ..client.test_reinit import left_out, world_of
from .people import Bot, Parts, soon, until


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejoin, "_SPREAD", 0.0)
    monkeypatch.setattr(rejoin, "_ASK_AFTER_INVITATION", 0.0)


class Returning(Parts):
    """A member's way back."""

    def __init__(self, person: Participant, **settings: Any) -> None:
        super().__init__(person, **settings)
        self.rejoiner = Rejoiner(self.parts, Transmitter(self.parts, lambda *refused: None))

    def read(self) -> None:
        self.world.settle()
        self.rejoiner.news()
        self.progress.notify()


def lost(**settings: Any) -> tuple[World, Participant, Returning]:
    """Bob has lost the group."""
    world, alice, bob, _ = three()
    bob.events += bob.group.lifecycle.give_up("says the test")
    return world, alice, Returning(bob, **settings)


async def test_a_client_that_has_lost_the_group_asks_to_be_added_and_comes_back() -> None:
    world, alice, bob = lost()
    bob.rejoiner.news()
    await until(lambda: bob.muc.sent)
    (rejoining,) = bob.got("mls_rejoining")
    assert rejoining == Rejoining(world.room.jid, 1, 1, external=False)
    world.settle()
    alice.commit()  # with what waits: the Add, and the Remove of the old leaf
    bob.read()
    assert bob.group.is_member
    assert world.agree()
    assert not bob.rejoiner.is_due


async def test_a_client_that_is_left_out_of_the_group_that_follows_asks_and_keeps_its_state() -> None:
    """mls-operations, "Left Out"."""
    world, people = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    left_out(world, people[0])
    alice = Returning(people[0])
    alice.rejoiner.news()
    await until(lambda: alice.muc.sent)
    (rejoining,) = alice.got("mls_rejoining")
    assert rejoining == Rejoining(world.room.jid, 1, 1, external=False)
    assert alice.group.is_member
    world.settle()
    people[1].commit()
    alice.read()
    assert alice.group.continuation.reinit is None
    assert world.agree()
    assert not alice.rejoiner.is_due


async def test_a_client_that_is_left_out_asks_when_it_is_told_to() -> None:
    world, people = world_of(ALICE, BOB, CAROL, policy=closed_policy(World()))
    left_out(world, people[0])
    alice = Returning(people[0], rejoin="by hand")
    alice.rejoiner.news()
    await soon()
    assert not alice.muc.sent
    alice.rejoiner.by_hand()
    await until(lambda: alice.muc.sent)


async def test_nothing_happens_by_itself_if_that_is_configured() -> None:
    _, _, bob = lost(rejoin="by hand")
    bob.rejoiner.news()
    await soon()
    assert not bob.rejoiner.is_due
    assert not bob.muc.sent
    bob.rejoiner.by_hand()
    await until(lambda: bob.muc.sent)


async def test_nothing_is_asked_before_the_room_has_been_read() -> None:
    """A Welcome may be waiting there."""
    _, _, bob = lost()
    bob.progress.live.clear()
    bob.rejoiner.news()
    await soon()
    assert not bob.muc.sent


async def test_a_room_that_is_lost_ends_the_attempt() -> None:
    world, _, bob = lost()
    bob.lose(RoomLost(world.room.jid, "not-a-member"))
    assert not bob.rejoiner.is_due
    with pytest.raises(RoomLost):
        await asyncio.wait_for(bob.rejoiner.join_externally(), 60)


async def test_an_external_commit_brings_us_in_without_anybody_online() -> None:
    """RFC 9420 12.4.3.2: by the GroupInfo that members leave in the room."""
    world, alice, bob = lost()
    alice.commit()
    bob.read()
    joining = asyncio.create_task(bob.rejoiner.join_externally())
    await until(lambda: bob.muc.sent)
    assert not joining.done()
    bob.read()
    await asyncio.wait_for(joining, 60)
    assert bob.group.is_member
    assert world.agree()
    assert bob.got("mls_rejoining")[-1].external


@pytest.mark.parametrize("arrives", [True, False])
async def test_nothing_is_asked_while_an_external_commit_is_in_transit(
    arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request would be about a leaf that the Commit replaces; but a Commit that is lost does not keep us out."""
    world, alice, bob = lost()
    alice.commit()
    bob.read()
    joining = asyncio.create_task(bob.rejoiner.join_externally())
    await until(lambda: bob.muc.sent)
    world.now += 60
    if not arrives:
        monkeypatch.setattr(rejoin, "_IN_TRANSIT", 0.0)
    bob.rejoiner.news()
    if arrives:
        await soon()
        assert len(bob.muc.sent) == 1
        bob.read()
        await asyncio.wait_for(joining, 60)
        await until(lambda: bob.rejoiner._task is not None and bob.rejoiner._task.done())
        assert len(bob.muc.sent) == 1
        assert bob.group.is_member
    else:
        await until(lambda: len(bob.muc.sent) == 2)
        joining.cancel()
    assert [event.external for event in bob.got("mls_rejoining")] == [True, *[False] * (not arrives)]


async def test_an_external_commit_that_comes_second_is_made_again() -> None:
    world, alice, bob = lost()
    alice.commit()
    bob.read()
    alice.commit()  # is in the room first
    joining = asyncio.create_task(bob.rejoiner.join_externally())
    await until(lambda: bob.muc.sent)
    bob.read()
    await until(lambda: len(bob.muc.sent) == 2)
    bob.read()
    await asyncio.wait_for(joining, 60)
    assert world.agree()


async def test_without_a_group_info_nobody_comes_in_by_an_external_commit() -> None:
    world = World()
    policy = replace(world.open_policy(ALICE), external_joins=ExternalJoins.NEVER)
    _, person = world.group(ALICE, BOB, policy=policy)
    person.group.lifecycle.give_up("says the test")
    bob = Returning(person)
    with pytest.raises(NoGroupInfo):
        await asyncio.wait_for(bob.rejoiner.join_externally(), 60)
    assert bob.group.state is MembershipState.LOST


async def test_the_archive_says_whether_there_is_a_group() -> None:
    world, _, bob = lost()
    assert await group_in(bob.muc.archive) == world.people[0].group.mls.group_id
    assert await group_in(Parts(World().person(ALICE)).muc.archive) is None


@pytest.mark.parametrize("answer", ["unknown", "denied"])
async def test_a_signer_for_whom_nobody_vouches_leads_nobody_in(answer: str) -> None:
    """mls-recovery, "Which GroupInfo": anybody can make up a state; who was never in knows no key."""
    world = World()
    policy = replace(world.open_policy(ALICE), external_joins=ExternalJoins.ANYBODY)
    alice, _ = world.group(ALICE, BOB, policy=policy)
    alice.commit()
    world.settle()
    carol = Returning(world.person(CAROL))
    getattr(carol.service, answer).add(alice.device.identity)
    with pytest.raises(NoGroupInfo) as caught:
        await asyncio.wait_for(carol.rejoiner.join_externally(), 60)
    assert any(str(alice.device.identity) in reason for reason in caught.value.reasons)
    assert not carol.muc.sent
    getattr(carol.service, answer).clear()
    joining = asyncio.create_task(carol.rejoiner.join_externally())
    await until(lambda: carol.muc.sent)
    carol.read()
    await asyncio.wait_for(joining, 60)
    assert carol.group.is_member


async def test_a_members_word_is_enough_if_our_user_decides_so(world: World) -> None:
    """mls-recovery, "Which GroupInfo": Bob has missed a removal, and who could prove it has gone."""
    alice, bob, carol, _ = world.group(ALICE, BOB, CAROL, DAVE, policy=closed_policy(world))
    bob.group.lifecycle.give_up("says the test")
    alice.commit(*alice.removing(DAVE))
    world.settle()
    bot = Bot(bob)
    await bot.rooms.resume()
    await until(lambda: bot.muc.sent)
    world.settle()
    carol.commit()
    world.settle()
    await until(lambda: bot.got("mls_rejected"))
    assert not bot.room.is_member
    coming = asyncio.create_task(bot.room.rejoin(despite_doubts=True))
    world.now += 100
    await until(lambda: len(bot.muc.sent) >= 2)
    world.settle()
    carol.commit()
    world.settle()
    await asyncio.wait_for(coming, 60)
    assert bot.room.group.mls.epoch_authenticator == carol.group.mls.epoch_authenticator
    bot.rooms.close()
    assert not bot.failures
