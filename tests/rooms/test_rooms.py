"""The registry of rooms, and whole engines, over a room without a server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from cryptography.hazmat.backends.openssl.backend import backend

from slixmpp_mls.client import Device, KeyPackageSettings, RoomGroup
from slixmpp_mls.client.group.resumption_psks import Awaited
from slixmpp_mls.client.storage.records import ROOMS, ExpectedGroup, ExpectedRecord, MembershipState
from slixmpp_mls.errors import DeviceRetired, NoAnswer, NotPermitted, RoomLost, UsageError
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.rooms import registry
from slixmpp_mls.rooms.content import seal_body
from slixmpp_mls.rooms.epoch_code import EpochHistory
from slixmpp_mls.rooms.registry import Expected
from slixmpp_mls.stanza.content_profile import PROFILE
from slixmpp_mls.stanza.sce import Envelope
from slixmpp_mls.testing import FakeMUC, Participant, World

from ..client.people import ALICE, BOB, DAVE, own_group
from ..services import Client
from .people import Bot, soon, until


async def met(world: World) -> tuple[Bot, Participant]:
    """Alice, run by the registry, and Bob, by the test."""
    alice, bob = world.group(ALICE, BOB)
    bot = Bot(alice)
    await bot.rooms.resume()
    await until(lambda: bot.room.live)
    return bot, bob


async def test_a_start_takes_up_the_rooms_that_the_store_knows(world: World) -> None:
    alice, bob = await met(world)
    assert list(alice.rooms.all) == [world.room.jid]
    assert alice.room.accounts == [ALICE, BOB]
    sent = await alice.room.send("fair is foul")
    world.settle()
    await asyncio.wait_for(sent.confirmed, 60)
    assert len(bob.texts) == 1
    alice.rooms.close()
    assert not alice.failures


async def test_a_room_that_we_have_left_is_not_taken_up(world: World) -> None:
    alice, _ = world.group(ALICE, BOB)
    alice.group.lifecycle.give_up()
    bot = Bot(alice)
    await bot.rooms.resume()
    assert not bot.rooms.all


class _WaitedIn:
    """A room in which we wait for a Welcome, by an invitation of somebody's."""

    def __init__(self, name: str, inviter: str, *, requested: bool = False) -> None:
        self.jid, self.left = f"{name}@rooms.example", False
        expected = ExpectedRecord((ExpectedGroup(b"group", b"", inviter.encode()),))
        self.worker = SimpleNamespace(rejoiner=SimpleNamespace(requested=requested), stop=self.stop)
        lifecycle = SimpleNamespace(stop_waiting=self.stop_waiting)
        self.group = SimpleNamespace(
            state=MembershipState.INVITED,
            room_state=SimpleNamespace(expected=lambda: expected),
            lifecycle=lifecycle,
        )
        self.references = SimpleNamespace(close=lambda: None)

    async def stop(self) -> None:
        self.left = True

    def stop_waiting(self) -> None:
        assert self.left
        self.group.state = MembershipState.OUT


async def test_strangers_have_us_wait_in_a_limited_number_of_rooms(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service has any number of rooms, and lets us into all of them; nobody adds us there."""
    monkeypatch.setattr(registry, "WAITING_OF_ONE", 3)
    monkeypatch.setattr(registry, "WAITING", 6)
    (alice,) = world.group(ALICE)
    rooms = Bot(alice).rooms
    ours = [_WaitedIn("wanted", "mallory@m.example", requested=True), _WaitedIn("genuine", BOB)]
    theirs = [_WaitedIn(f"m{number}", f"mallory{number % 3}@m.example") for number in range(20)]
    waited: Any = [*ours, *theirs]
    for handle in waited:
        rooms._rooms[handle.jid] = handle
        await rooms._limit_waiting()
    assert [handle for handle in waited if not handle.left] == [*ours, *theirs[-5:]]
    assert [*rooms.all] == [handle.jid for handle in (*ours, *theirs[-5:])]
    one = _WaitedIn("n0", "mallory@m.example")
    for number in range(5):
        one = _WaitedIn(f"n{number}", "mallory@m.example")
        rooms._rooms[one.jid] = one  # type: ignore[assignment]
        await rooms._limit_waiting()
    assert not any(handle.left for handle in (*ours, one))


async def test_two_engines_talk_and_one_commits(world: World) -> None:
    people = world.group(ALICE, BOB)
    alice, bob = Bot(people[0]), Bot(people[1])
    for bot in (alice, bob):
        await bot.rooms.resume()
    updating = asyncio.create_task(bob.room.update())
    await until(lambda: bob.room.group.sending.commit_waits)
    world.room.deliver_all()
    changed = await asyncio.wait_for(updating, 60)
    await until(lambda: alice.room.epoch == changed.epoch)
    saying = await alice.room.send("when shall we three meet again")
    world.room.deliver_all()
    await asyncio.wait_for(saying.confirmed, 60)
    await until(lambda: bob.texts == ["when shall we three meet again"])
    alice.rooms.close()
    bob.rooms.close()


async def test_a_waiting_caller_is_told_when_the_room_is_lost_and_it_can_be_followed_again(world: World) -> None:
    """The known hang, in a whole engine: proposals wait, a Commit of ours is on its way, the room is lost."""
    alice, bob = await met(world)
    bob.propose(bob.removing(BOB)[0])  # to be removed: proposals wait from now on
    committing = asyncio.create_task(alice.room.update())
    await until(lambda: alice.room.group.sending.commit_waits)
    world.room.deliver(0)
    await until(lambda: alice.room.group.sending.needs_commit)
    saying = asyncio.create_task(alice.room.send("anybody there?"))
    alice.muc.lose(RoomLost(world.room.jid, "not-a-member"))
    for each in (committing, saying):
        with pytest.raises(RoomLost):
            await asyncio.wait_for(each, 60)
    assert alice.got("mls_room_lost")
    with pytest.raises(RoomLost):
        await asyncio.wait_for(alice.room.send("still nobody?"), 60)

    alice.muc.refuses = None  # we are let in again, with the Commit still on its way
    await alice.rooms.follow(world.room.jid, None)
    again = asyncio.create_task(alice.room.send("here I am"))
    await until(lambda: alice.room.live)
    for _ in range(20):
        world.room.deliver_all()
        if again.done():
            break
        await asyncio.sleep(0.05)
    sent = await asyncio.wait_for(again, 60)
    world.room.deliver_all()
    await asyncio.wait_for(sent.confirmed, 60)
    alice.rooms.close()


@pytest.mark.parametrize(("after", "group"), [(None, b""), ("000001", b""), ("000001", b"some group")])
async def test_a_room_that_lets_nobody_in_is_not_waited_for(world: World, after: str | None, group: bytes) -> None:
    """Whatever the invitation said; inviters without number leave nothing behind."""
    dave = Bot(world.person("dave@d.example"))
    handle = dave.rooms._handle(world.room.jid)
    assert isinstance(handle.muc, FakeMUC)
    handle.muc.refuses = NotPermitted("banned")
    with pytest.raises(NotPermitted):
        await dave.rooms.follow(world.room.jid, after, Expected(group))
    assert not dave.rooms.all
    assert not RoomGroup.known(dave.context.device)  # and the store knows nothing of it
    with dave.context.device.store.transaction() as transaction:
        assert not [space for space in transaction.spaces() if world.room.jid in space]
    assert not dave.rooms._entering


async def test_a_room_that_lets_us_in_no_more_does_not_end_the_way_back(world: World) -> None:
    """Keys go on proof, or because our own user wants it; what the room's server says is neither."""
    alice, _ = await met(world)
    alice.room.group.lifecycle.give_up("a gap")
    await alice.rooms.forget(alice.room)
    handle = alice.rooms._handle(world.room.jid)
    assert isinstance(handle.muc, FakeMUC)
    handle.muc.refuses = NotPermitted("banned")
    with pytest.raises(NotPermitted):
        await alice.rooms.follow(world.room.jid, None)
    assert handle.group.state is MembershipState.LOST
    assert handle.group.room_state.return_keys
    assert handle.group.room_state.known() is not None
    await handle.leaving.leave(0.01, all_devices=False)
    assert not handle.group.room_state.return_keys


@pytest.mark.parametrize("error", [UsageError("there is such a room"), NoAnswer("says the test"), None])
async def test_the_way_back_goes_on_where_another_group_could_not_be_made(
    world: World, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an error: the policy is one of another room."""
    alice, bob = await met(world)
    alice.room.group.lifecycle.give_up("a gap")
    monkeypatch.setattr(FakeMUC, "create", AsyncMock(side_effect=error))
    policy = replace(world.open_policy(ALICE), room="other@rooms.example")
    with pytest.raises(type(error or UsageError())):
        await alice.rooms.create(world.room.jid, [], None, policy, 1)
    await until(lambda: world.room.jid in alice.rooms.all and alice.room.live)
    assert alice.room.group.state is MembershipState.LOST
    alice.room.worker.rejoiner.by_hand()
    await until(lambda: bool(alice.room.group.join_requests.attempts))
    world.settle()
    bob.commit()
    world.settle()
    await until(lambda: alice.room.is_member)
    alice.rooms.close()


def added(world: World) -> tuple[Bot, str, str]:
    """Dave, whom Alice has added, and the places in the archive before and after that."""
    alice, _ = world.group(ALICE, BOB)
    dave = Bot(world.person("dave@d.example"))
    alice.commit(*alice.adding("dave@d.example"))
    before, after = world.room.archive()[-1].archive_id, world.room.deliver()
    world.settle()
    return dave, before, after


async def test_a_false_place_in_an_invitation_does_not_hide_a_genuine_one(world: World) -> None:
    """Somebody was quicker, and named a place behind the Welcome."""
    dave, before, after = added(world)
    await dave.rooms.follow_invitation(world.room.jid, after, Expected())
    await until(lambda: dave.room.live)
    assert dave.room.group.state is MembershipState.INVITED
    assert not dave.rooms.needs_no_invitation(world.room.jid)
    await dave.rooms.follow_invitation(world.room.jid, before, Expected())
    await until(lambda: dave.room.is_member and dave.room.live)
    assert dave.rooms.needs_no_invitation(world.room.jid)
    dave.rooms.close()


async def test_a_false_place_in_an_invitation_skips_nothing_that_is_being_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dave, before, after = added(world)
    await dave.rooms.follow_invitation(world.room.jid, before, Expected())
    dave.muc.interrupt()  # before anything is read
    assert not dave.room.is_member
    with monkeypatch.context() as patch:
        patch.setattr(registry, "READING_TIMEOUT", 0.01)
        with pytest.raises(NoAnswer):
            await dave.rooms.follow_invitation(world.room.jid, after, Expected())
    following = asyncio.create_task(dave.rooms.follow_invitation(world.room.jid, after, Expected()))
    await soon()
    assert not following.done()
    dave.muc.enter_again()
    await asyncio.wait_for(following, 60)
    assert dave.room.is_member
    dave.rooms.close()


async def removed(world: World) -> tuple[Bot, Participant]:
    """Bob, whom Alice has removed, and who reads the room on; and Alice."""
    alice, bob = world.group(ALICE, BOB)
    bot = Bot(bob)
    await bot.rooms.resume()
    await until(lambda: bot.room.live)
    alice.commit(*alice.removing(BOB))
    world.settle()
    await until(lambda: bot.room.group.state is MembershipState.OUT)
    return bot, alice


async def test_who_was_removed_follows_the_welcome_that_an_invitation_names(world: World) -> None:
    """mls, "Being Invited": the room is read again for it, where the Welcome was quicker than the invitation."""
    bob, alice = await removed(world)
    dave, place = world.person(DAVE), bob.room.group.cursor
    world.people.remove(dave)
    own_group(world, dave, alice, bob.person, b"another group")
    world.settle()
    await until(lambda: bob.got("mls_rejected"))
    assert "no invitation names" in str(bob.got("mls_rejected")[0].error)
    assert bob.room.group.state is MembershipState.OUT
    await bob.rooms.follow_invitation(world.room.jid, place, Expected(b"another group", DAVE, DAVE))
    await until(lambda: bob.room.is_member)
    assert bob.room.group.mls.group_id == b"another group"
    bob.rooms.close()


async def test_an_invitation_waits_until_a_member_has_read_whether_it_was_removed(world: World) -> None:
    """mls, "Being Invited": Bob was away while Alice removed him, and comes back to Dave's invitation."""
    alice, bob = world.group(ALICE, BOB)
    dave = world.person(DAVE)
    world.people.remove(dave)
    bot = Bot(bob)
    await bot.rooms.resume()
    await until(lambda: bot.room.live)
    bot.muc.interrupt()
    place = bot.room.group.cursor
    alice.commit(*alice.removing(BOB))
    world.settle()
    own_group(world, dave, alice, bob, b"another group")
    world.room.deliver_all()
    assert bot.room.is_member
    assert bot.rooms.needs_no_invitation(world.room.jid)
    assert not bot.rooms.is_settled(world.room.jid)  # nothing has been read yet
    invited = Expected(b"another group", DAVE, DAVE)
    following = asyncio.create_task(bot.rooms.follow_invitation(world.room.jid, place, invited))
    await soon()
    assert not following.done()
    bot.muc.enter_again()
    await asyncio.wait_for(following, 60)
    await until(lambda: bot.room.is_member and bot.room.group.mls.group_id == b"another group")
    await until(lambda: bot.room.live)
    assert bot.rooms.is_settled(world.room.jid)
    await bot.rooms.follow_invitation(world.room.jid, place, Expected(b"a third group", DAVE, DAVE))
    assert bot.room.group.mls.group_id == b"another group"
    bot.rooms.close()
    assert not bot.failures


async def test_who_was_removed_and_joins_again_waits_for_a_welcome(world: World) -> None:
    bob, alice = await removed(world)
    joining = asyncio.create_task(bob.rooms.join(world.room.jid, None, False, ""))
    await until(lambda: bob.room.group.state is MembershipState.INVITED)
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert (await asyncio.wait_for(joining, 60)).is_member
    assert bob.room.accounts == [ALICE, BOB]
    bob.rooms.close()


async def test_an_invitation_that_was_noted_is_followed_after_a_restart(world: World) -> None:
    dave = Bot(world.person("dave@d.example"))
    RoomGroup(dave.context.device, world.room.jid).lifecycle.expect_welcome(None)
    again = Bot(dave.person)
    await again.rooms.resume()
    assert again.room.group.state is MembershipState.INVITED
    assert again.room.worker.running
    again.rooms.close()


async def test_a_room_is_waited_for_only_if_we_know_it(world: World) -> None:
    """RFC 9420 8.4: a PSK of another room's group may have to be waited for."""
    alice, _ = await met(world)
    await asyncio.wait_for(alice.rooms.reached(Awaited("unknown@rooms.example", 7)), 60)
    await asyncio.wait_for(alice.rooms.reached(Awaited(world.room.jid, alice.room.epoch)), 60)
    waiting = asyncio.create_task(alice.rooms.reached(Awaited(world.room.jid, alice.room.epoch + 1)))
    updating = asyncio.create_task(alice.room.update())
    await until(lambda: alice.room.group.sending.commit_waits)
    assert not waiting.done()
    world.settle()
    await asyncio.wait_for(waiting, 60)
    await updating
    alice.rooms.close()


async def test_a_retired_device_deletes_its_groups_keys(world: World) -> None:
    alice, _ = await met(world)
    room = alice.room
    await alice.rooms.give_up(DeviceRetired("says the test"))
    assert not alice.rooms.all
    assert not room.is_member
    with pytest.raises(UsageError):
        await room.send("secret")


async def test_a_group_whose_suite_openssl_lacks_now_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an unknown one (xep, "Post-Quantum Cipher Suites"): nothing is deleted, and it goes on when it is back."""
    world = World(settings=KeyPackageSettings((0xF001, 1), count=2))
    alice, bob = world.group(ALICE, BOB, suite=0xF001)
    elsewhere = RoomGroup(alice.device, "blasted@heath.example")
    elsewhere.lifecycle.create(1, replace(world.open_policy(ALICE), room="blasted@heath.example"), world.now)
    await Publication(Client(alice).context).replenish()
    with monkeypatch.context() as older:
        older.setattr(backend, "mlkem_supported", lambda: False)
        device = Device(
            alice.store, settings=KeyPackageSettings((1,), count=2), parameters=world.parameters, random=world.random
        )
        alice.device, alice.group = device, RoomGroup(device, "blasted@heath.example")
        bot = Bot(alice)
        await Publication(bot.context).replenish()
        await bot.rooms.resume()
        assert list(bot.rooms.all) == ["blasted@heath.example"]
        (error,) = bot.got("mls_room_lost")
        assert (error.room, error.reason) == (world.room.jid, "unreadable")
        assert "lacks ML-KEM" in str(error)
        with pytest.raises(RoomLost, match="lacks ML-KEM"):
            await bot.rooms.follow(world.room.jid, None)
        bot.rooms.close()
    alice.restart()
    sent = bob.send(b"fair is foul")
    world.people.append(alice)
    world.settle()
    assert sent
    assert alice.texts == [b"fair is foul"]


async def test_a_retired_device_deletes_groups_that_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(settings=KeyPackageSettings((0xF001, 1), count=2))
    alice, _ = world.group(ALICE, BOB, suite=0xF001)
    monkeypatch.setattr(backend, "mlkem_supported", lambda: False)
    with alice.store.transaction() as transaction:
        before = [space for space in transaction.spaces() if world.room.jid in space]
    assert before
    bot = Bot(alice)
    await bot.rooms.give_up(DeviceRetired("says the test"))
    with alice.store.transaction() as transaction:
        assert [space for space in transaction.spaces() if world.room.jid in space] == []
        assert not list(transaction.items(ROOMS))


async def test_leaving_asks_the_others_and_ends_when_one_has_committed_it(world: World) -> None:
    """RFC 9420 12.4: a member does not commit its own removal."""
    alice, bob = await met(world)
    leaving = asyncio.create_task(alice.room.leave())
    await until(lambda: world.room.in_flight)
    world.settle()
    bob.commit()
    world.settle()
    await asyncio.wait_for(leaving, 60)
    assert not alice.rooms.all
    assert not bob.group.roster.has(ALICE)


async def test_leaving_takes_all_devices_of_the_account_unless_one_is_asked_for(world: World) -> None:
    alice, bob = await met(world)
    tablet = world.person(ALICE)
    bob.commit(*bob.adding(ALICE))
    world.settle()
    assert len(bob.group.roster.leaves_of(ALICE)) == 2
    await until(lambda: alice.room.live and len(alice.room.group.roster) == 3)
    leaving = asyncio.create_task(alice.room.leave())
    await until(lambda: world.room.in_flight)
    world.settle()
    assert not tablet.group.is_member  # by a Commit of our own ...
    await until(lambda: world.room.in_flight)
    world.settle()
    bob.commit()  # ... and ourselves, by somebody else's
    world.settle()
    await asyncio.wait_for(leaving, 60)
    assert not bob.group.roster.has(ALICE)
    assert not tablet.group.is_member


async def test_one_device_leaves_and_the_other_stays(world: World) -> None:
    alice, bob = await met(world)
    tablet = world.person(ALICE)
    bob.commit(*bob.adding(ALICE))
    world.settle()
    await until(lambda: alice.room.live and len(alice.room.group.roster) == 3)
    leaving = asyncio.create_task(alice.room.leave(all_devices=False))
    await until(lambda: world.room.in_flight)
    world.settle()
    bob.commit()
    world.settle()
    await asyncio.wait_for(leaving, 60)
    assert len(bob.group.roster.leaves_of(ALICE)) == 1
    assert tablet.group.is_member


async def test_leaving_a_room_that_is_lost_deletes_our_keys_at_once(world: World) -> None:
    alice, _ = await met(world)
    room = alice.room
    leaving = asyncio.create_task(room.leave())
    await until(lambda: world.room.in_flight)
    alice.muc.lose(RoomLost(world.room.jid, "destroyed"))
    await asyncio.wait_for(leaving, 60)
    assert not room.is_member
    assert not alice.rooms.all


async def test_a_message_tells_its_senders_epochs_and_a_contradiction_is_a_warning(world: World) -> None:
    """XEP "Epochs in Messages": told once in an epoch; whoever has been in another epoch of that number is warned."""
    alice, bob = await met(world)
    for number in range(2):
        await alice.room.send(f"word {number}")
        world.settle()
    told = [len(Envelope.open(data, PROFILE).own) for data in bob.texts]
    assert told == [1, 0]
    true, false = EpochHistory(), EpochHistory()
    group = bob.group.mls
    true.note(group.group_id, group.epoch, group.epoch_authenticator)
    false.note(group.group_id, group.epoch, bytes(32))
    for history in (true, false):
        bob.send(seal_body("heard", BOB, world.room.jid, world.now, history.to_tell()))
    world.settle()
    await until(lambda: len(alice.texts) == 2)
    warnings = [message.warnings for message in alice.got("mls_message")]
    assert ["split" in each for each in warnings] == [False, True]
    alice.rooms.close()


async def test_a_room_that_does_not_let_us_in_takes_no_way_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that prove our return to a lost group go with the new group, which there must be first."""
    bot, _ = await met(world)
    alice = bot.person
    bot.room.group.lifecycle.give_up("a gap")
    with monkeypatch.context() as closed:
        closed.setattr(FakeMUC, "join", AsyncMock(side_effect=NotPermitted("nobody comes in")))
        closed.setattr(FakeMUC, "check", AsyncMock(return_value=()), raising=False)
        with pytest.raises(NotPermitted):
            await bot.rooms.adopt(world.room.jid, None, 1, anew=True)
        await soon()
    bot.rooms.close()
    alice.restart()
    assert alice.group.state is MembershipState.LOST
    assert alice.group.room_state.return_keys
    assert alice.group.room_state.known() is not None
