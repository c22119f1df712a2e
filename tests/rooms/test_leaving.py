"""Leaving a group: another member takes us out, or nobody comes; and a leave that is interrupted goes on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from unittest.mock import AsyncMock

import pytest

from slixmpp_mls.client import RoomGroup
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import Disconnected, MLSError, RoomLost, UsageError
from slixmpp_mls.rooms.registry import Expected
from slixmpp_mls.testing import FakeMUC, Participant, World

from ..client.people import ALICE, BOB, DAVE
from .people import Bot, until


async def leaver(world: World, *others: str) -> tuple[Bot, list[Participant]]:
    alice, *rest = world.group(ALICE, *others)
    bot = Bot(alice)
    await bot.rooms.resume()
    await until(lambda: bot.room.live)
    return bot, rest


async def test_a_leaver_proposes_it_and_is_out_when_another_has_committed_it(world: World) -> None:
    alice, (bob,) = await leaver(world, BOB)
    group = alice.room.group
    leaving = asyncio.create_task(alice.room.leave())
    await until(lambda: len(alice.muc.sent) == 1)
    assert group.is_member  # RFC 9420 12.4: no member commits its own removal
    world.settle()
    assert bob.group.sending.needs_commit
    bob.commit()
    world.settle()
    await asyncio.wait_for(leaving, 60)
    assert not alice.rooms.all
    assert (group.state, bob.group.roster.has(ALICE)) == (MembershipState.OUT, False)


async def test_what_was_sent_before_is_in_the_room_first(world: World) -> None:
    alice, (bob,) = await leaver(world, BOB)
    await alice.room.send("so foul and fair a day")
    leaving = asyncio.create_task(alice.room.leave())
    await until(lambda: alice.room.group.post_commit_actions.leave)
    assert len(alice.muc.sent) == 1  # the proposal waits for the message
    world.room.deliver_all()
    await until(lambda: len(alice.muc.sent) == 2)
    world.settle()
    bob.commit()
    world.settle()
    await asyncio.wait_for(leaving, 60)
    assert len(bob.texts) == 1


async def test_if_nobody_commits_it_our_keys_go_after_a_while(world: World) -> None:
    alice, (bob,) = await leaver(world, BOB)
    group = alice.room.group
    await asyncio.wait_for(alice.room.leave(patience=0.01), 60)
    assert (group.state, group.is_member) == (MembershipState.OUT, False)
    world.settle()
    assert bob.group.sending.needs_commit  # the proposal stays


async def test_the_last_member_goes_at_once(world: World) -> None:
    alice, _ = await leaver(world)
    group, muc = alice.room.group, alice.muc
    await asyncio.wait_for(alice.room.leave(), 60)
    assert not alice.rooms.all
    assert (group.state, muc.sent) == (MembershipState.OUT, [])


@pytest.mark.parametrize("state", [MembershipState.INVITED, MembershipState.LOST])
async def test_who_is_not_in_waits_no_longer(world: World, state: MembershipState) -> None:
    """Nothing is left of the group, and requests to be added are over."""
    alice, (bob,) = await leaver(world, BOB)
    group = alice.room.group
    await alice.room.send("so foul and fair a day")
    world.room.lose()
    group.lifecycle.give_up("a gap" if state is MembershipState.LOST else None)
    if state is MembershipState.INVITED:
        group.lifecycle.expect_welcome(None, bob.group.mls.group_id)
    group.join_requests.ask(world.now)
    assert group.state is state
    await asyncio.wait_for(alice.room.leave(), 60)
    assert not alice.rooms.all
    assert (group.state, group.room_state.outside.asks) == (MembershipState.OUT, ())
    assert not group.room_state.return_keys
    assert group.room_state.known() is None
    assert not group.outstanding_ids()
    with pytest.raises(UsageError):
        group.join_requests.ask(world.now)
    alice.person.restart()
    assert alice.person.group.state is MembershipState.OUT
    assert not alice.person.group.room_state.return_keys


async def test_an_object_that_is_not_in_use_any_more_ends_nothing(world: World) -> None:
    """What it remembers of the group is old: the group that there is now would go."""
    alice, (bob,) = await leaver(world, BOB)
    old = alice.room
    old.group.lifecycle.give_up("a gap")
    await alice.rooms.forget(old)
    await alice.rooms.follow(world.room.jid, old.group.cursor)
    present = alice.room
    world.now += 100
    world.settle()
    for outgoing in present.group.join_requests.ask(world.now):
        alice.person.post(outgoing)
    world.settle()
    bob.commit()
    world.settle()
    await until(lambda: present.is_member)
    for end in (old.leave, old.destroy):
        with pytest.raises((UsageError, Disconnected)):
            await asyncio.wait_for(end(), 60)
    assert alice.room is present
    assert present.is_member
    await present.send("still here")
    world.settle()
    assert len(bob.texts) == 1
    alice.rooms.close()
    alice.person.restart()
    assert alice.person.group.is_member


async def test_who_was_never_in_is_not_waiting_again_after_a_restart(world: World) -> None:
    """What is read while the room is left does not write the wish away."""
    alice, bob = world.group(ALICE, BOB)
    dave = Bot(world.person(DAVE))
    await dave.rooms.follow(world.room.jid, None)
    await until(lambda: dave.room.live)
    handle, muc = dave.room, dave.muc

    async def leave_slowly() -> None:
        await asyncio.sleep(0)
        alice.commit()
        world.settle()
        await asyncio.sleep(0.05)
        await type(muc).leave(muc)

    muc.leave = leave_slowly  # type: ignore[method-assign]
    await asyncio.wait_for(handle.leave(), 60)
    assert not dave.rooms.all
    assert not RoomGroup.known(dave.context.device)
    with pytest.raises(UsageError):
        await handle.leave()
    assert bob.group.is_member


async def test_a_welcome_that_comes_while_we_stop_waiting_brings_nobody_in(world: World) -> None:
    alice, (bob,) = await leaver(world, BOB)
    group, muc = alice.room.group, alice.muc
    group.lifecycle.give_up("a gap")
    world.now += 100
    world.settle()
    for outgoing in group.join_requests.ask(world.now):
        alice.person.post(outgoing)
    world.settle()
    bob.commit()
    leaving = asyncio.create_task(alice.room.leave())
    await asyncio.sleep(0)
    world.room.deliver_all()  # the reader has not stopped yet
    await asyncio.wait_for(leaving, 60)
    assert bob.group.roster.has(ALICE)
    assert (group.state, muc.inside, dict(alice.rooms.all)) == (MembershipState.OUT, False, {})


def slow_to_confirm(muc: FakeMUC, monkeypatch: pytest.MonkeyPatch) -> None:
    """XEP-0045 7.14: the service confirms that we have left, when it likes; we wait for it a few seconds."""
    leave = type(muc).leave

    async def leave_slowly() -> None:
        await asyncio.sleep(0.2)
        await leave(muc)

    monkeypatch.setattr(muc, "leave", leave_slowly)


@pytest.mark.parametrize("how", ["leave", "destroy"])
async def test_an_invitation_while_a_member_leaves_does_not_bring_the_group_back(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Anybody can send one, and the room's service can hold us up.  A second object would take the keys over."""
    alice, (bob,) = await leaver(world, BOB)
    old = alice.room
    slow_to_confirm(alice.muc, monkeypatch)
    monkeypatch.setattr(type(alice.muc), "destroy", AsyncMock(), raising=False)
    ending = asyncio.create_task(old.leave(patience=0.01) if how == "leave" else old.destroy())
    await until(lambda: not old.live)
    with suppress(MLSError):
        await alice.rooms.follow_invitation(world.room.jid, None, Expected(sender="mallory@witches.example"))
    await asyncio.wait_for(ending, 60)
    assert old.group.state is MembershipState.OUT
    assert not any(room.is_member for room in alice.rooms.all.values())
    world.settle()
    assert not alice.texts
    alice.rooms.close()
    alice.person.restart()
    assert not alice.person.group.is_member
    assert bob.group.is_member


@pytest.mark.parametrize("place", [True, False], ids=["with a place", "without"])
async def test_an_invitation_while_we_stop_waiting_begins_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, place: bool
) -> None:
    """RFC 9420 9.2: of two objects with one leaf, both would use the same keys; one that is not in use, nobody sees."""
    alice, _ = world.group(ALICE, BOB)
    dave = Bot(world.person(DAVE))
    invitation = Expected(alice.group.mls.group_id, ALICE, ALICE)
    before = world.room.archive()[-1].archive_id
    await dave.rooms.follow(world.room.jid, None, invitation)
    await until(lambda: dave.room.live)
    old = dave.room
    slow_to_confirm(dave.muc, monkeypatch)
    leaving = asyncio.create_task(old.leave())
    await asyncio.sleep(0.05)
    after = before if place else None
    following = asyncio.create_task(dave.rooms.follow_invitation(world.room.jid, after, invitation))
    await asyncio.wait_for(asyncio.gather(leaving, following), 60)
    present = dave.room
    assert present is not old
    alice.commit(*alice.adding(DAVE))
    world.settle()
    await until(lambda: present.is_member)
    assert not old.worker.running
    assert not old.is_member


async def test_giving_up_waiting_for_the_end_leaves_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, _ = await leaver(world, BOB)
    room = alice.room
    room.group.lifecycle.give_up("a gap")
    slow_to_confirm(alice.muc, monkeypatch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await room.leave()
    assert not alice.rooms.all
    assert room.group.state is MembershipState.OUT
    await until(lambda: not room.worker.running)


async def test_outside_of_the_room_the_wish_waits_and_a_restart_keeps_it(world: World) -> None:
    alice, (bob,) = await leaver(world, BOB)
    alice.muc.interrupt()
    await asyncio.wait_for(alice.room.leave(), 60)
    assert alice.room.is_member
    alice.rooms.close()
    alice.person.restart()
    again = Bot(alice.person)
    resuming = asyncio.create_task(again.rooms.resume())
    await until(lambda: again.rooms.all and again.muc.sent)
    world.settle()
    bob.commit()
    world.settle()
    await asyncio.wait_for(resuming, 60)
    await until(lambda: not again.rooms.all)
    assert not bob.group.roster.has(ALICE)


@pytest.mark.parametrize("reason", ["destroyed", "banned"])
async def test_of_a_lost_room_only_our_keys_are_left_to_go(world: World, reason: str) -> None:
    alice, _ = await leaver(world, BOB)
    group = alice.room.group
    alice.muc.lose(RoomLost(world.room.jid, reason))
    await until(lambda: alice.room.lost is not None)
    await asyncio.wait_for(alice.room.leave(), 60)
    assert group.state is MembershipState.OUT
