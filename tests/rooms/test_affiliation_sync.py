"""Accounts that the room has shut out lose the group: all by one Commit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from slixmpp import JID

from slixmpp_mls.client import GroupChanged
from slixmpp_mls.policy import Right
from slixmpp_mls.rooms import affiliation_sync, membership
from slixmpp_mls.rooms.engine.committer import Committer
from slixmpp_mls.rooms.engine.post_commit import PostCommit
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.rooms.membership import MembershipChanges
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, CAROL, DAVE
from .people import Parts, soon, until

MANY = [f"witch{number}@w.example" for number in range(12)]


class Expelling(Parts):
    """A member's changes of the membership."""

    def __init__(self, person: Participant, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(person)
        self.committer = Committer(self.parts, Transmitter(self.parts, lambda *_: None))
        self.changes = MembershipChanges(self.parts, self.committer, PostCommit(self.parts))
        self.inside = [ALICE, BOB, *MANY]
        monkeypatch.setattr(affiliation_sync, "_BOTH_CHANGED", 0.0)

        async def listed() -> dict[JID, str]:
            return {JID(account): "member" for account in self.inside}

        monkeypatch.setattr(self.muc.affiliations, "all", listed)

    def read(self) -> None:
        """Everybody reads, and the engine hears of its Commit."""
        before = len(self.person.events)
        self.world.settle()
        for event in self.person.events[before:]:
            if isinstance(event, GroupChanged) and event.by.identity == self.person.device.identity:
                self.committer.resolve(event)
        self.progress.notify()

    async def until_over(self, *tasks: asyncio.Task[None]) -> None:
        async with asyncio.timeout(60):
            while not all(task.done() for task in tasks):
                self.read()
                await soon()
        for task in tasks:
            task.result()


def crowd(monkeypatch: pytest.MonkeyPatch) -> tuple[World, Expelling]:
    world = World()
    policy = replace(world.open_policy(ALICE, BOB), may_remove=Right.MEMBERS)
    alice, *_ = world.group(ALICE, BOB, *MANY, policy=policy)
    return world, Expelling(alice, monkeypatch)


async def test_members_shut_out_at_once_are_removed_by_one_commit_or_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's Commit is on its way when the others follow."""
    _, alice = crowd(monkeypatch)
    before = alice.group.mls.epoch
    del alice.inside[2:]
    tasks = [asyncio.create_task(alice.changes.expelled(MANY[0]))]
    await until(lambda: alice.group.sending.commit_waits)
    tasks += [asyncio.create_task(alice.changes.expelled(account)) for account in MANY[1:]]
    await alice.until_over(*tasks)
    assert sorted(alice.group.roster.accounts()) == [ALICE, BOB]
    assert alice.group.mls.epoch == before + 2


async def test_an_account_shut_out_behind_our_back_is_removed_by_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    _, alice = crowd(monkeypatch)
    before = alice.group.mls.epoch
    del alice.inside[2:]
    await alice.until_over(asyncio.create_task(alice.changes.affiliations.compare_later(ALICE)))
    assert sorted(alice.group.roster.accounts()) == [ALICE, BOB]
    assert alice.group.mls.epoch == before + 1
    (differ,) = alice.got("mls_affiliations_differ")
    assert set(differ.shut_out) == set(MANY)


async def test_one_whom_we_may_not_remove_keeps_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob is an administrator; a member removes the others."""
    world = World()
    policy = replace(world.open_policy(BOB), may_remove=Right.MEMBERS)
    _, alice, *_ = world.group(BOB, ALICE, *MANY, policy=policy)
    client = Expelling(alice, monkeypatch)
    client.inside = [ALICE, "zoe@z.example"]
    await client.until_over(asyncio.create_task(client.changes.affiliations.compare_later(ALICE)))
    assert sorted(client.group.roster.accounts()) == [ALICE, BOB]
    assert not client.failures


async def test_who_comes_while_the_lists_are_read_is_not_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob lets carol into the room, and then into the group, between two of alice's requests for the lists."""
    world = World()
    policy = replace(world.open_policy(ALICE, BOB), may_remove=Right.MEMBERS)
    person, bob = world.group(ALICE, BOB, policy=policy)
    alice = Expelling(person, monkeypatch)
    world.person(CAROL)

    async def listed() -> dict[JID, str]:
        bob.commit(*bob.adding(CAROL))
        alice.read()
        return {JID(account): "member" for account in (ALICE, BOB)}

    monkeypatch.setattr(alice.muc.affiliations, "all", listed)
    await alice.until_over(asyncio.create_task(alice.changes.affiliations.compare_later(ALICE)))
    assert alice.group.roster.has(CAROL)
    assert not alice.got("mls_affiliations_differ")


async def test_who_is_let_in_again_is_not_removed_by_who_reads_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob removes carol, and adds her again, while alice, whom the room has told the former, reads neither."""
    world = World()
    policy = replace(world.open_policy(ALICE, BOB), may_remove=Right.MEMBERS)
    person, bob, _ = world.group(ALICE, BOB, CAROL, policy=policy)
    alice = Expelling(person, monkeypatch)
    alice.inside = [ALICE, BOB, CAROL]
    bob.commit(*bob.removing(CAROL))
    world.room.deliver_all()
    bob.read()
    bob.commit(*bob.adding(CAROL))
    assert alice.group.roster.has(CAROL)
    await alice.until_over(asyncio.create_task(alice.changes.expelled(CAROL)))
    assert alice.group.roster.has(CAROL)
    assert alice.group.mls.epoch == bob.group.mls.epoch == 3


@pytest.mark.parametrize("inside", [[], [ALICE], [BOB, *MANY[1:]]], ids=["nobody", "us alone", "all but us"])
async def test_nobody_is_removed_for_lists_that_show_nobody(inside: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server has lost its lists, or withholds them: that is reported, and only who is banned is removed."""
    _, alice = crowd(monkeypatch)
    before = sorted(alice.group.roster.accounts())
    alice.inside = inside
    await alice.until_over(asyncio.create_task(alice.changes.affiliations.compare_later(ALICE)))
    assert sorted(alice.group.roster.accounts()) == before
    (differ,) = alice.got("mls_affiliations_differ")
    assert MANY[0] in differ.shut_out

    async def listed() -> dict[JID, str]:
        return {JID(MANY[0]): "outcast"}

    monkeypatch.setattr(alice.muc.affiliations, "all", listed)
    await alice.until_over(asyncio.create_task(alice.changes.affiliations.compare_later(ALICE)))
    assert sorted(alice.group.roster.accounts()) == sorted({*before} - {MANY[0]})


@pytest.mark.parametrize("seen_by", ["the room's notice", "comparing"])
@pytest.mark.parametrize("by", [BOB, CAROL], ids=["an administrator", "a member"])
@pytest.mark.parametrize("back", [True, False])
async def test_whom_an_administrator_has_just_added_has_a_moment_to_be_let_in_again(
    back: bool, by: str, seen_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who had removed him has revoked his affiliation too late, and corrects that; or a human shuts him out."""
    world = World()
    person, bob, carol = world.group(ALICE, BOB, CAROL, policy=world.open_policy(ALICE, BOB))
    alice = Expelling(person, monkeypatch)
    world.person(DAVE)
    adder = bob if by == BOB else carol
    seen = len(person.events)
    adder.commit(*adder.adding(DAVE))
    alice.read()
    for event in person.events[seen:]:
        if isinstance(event, GroupChanged):
            alice.changes._post_commit.changed(event)
    alice.inside = [ALICE, BOB, CAROL]
    moments, sleep = 0, asyncio.sleep

    async def wait(seconds: float) -> None:
        nonlocal moments
        if seconds != membership.LET_IN_AGAIN:
            await sleep(seconds)
            return
        moments += 1
        alice.inside += [DAVE] if back else []

    with monkeypatch.context() as waiting:
        waiting.setattr(asyncio, "sleep", wait)
        compare = alice.changes.affiliations.compare_later(ALICE)
        await alice.until_over(asyncio.create_task(alice.changes.expelled(DAVE) if seen_by != "comparing" else compare))
        compare.close()
    assert moments == (1 if by == BOB else 0)
    assert alice.group.roster.has(DAVE) is (back and by == BOB)
