"""Asking the Authentication Service about members, and acting on its answers as configured (RFC 9750 6.5)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slixmpp_mls.client import Device
from slixmpp_mls.client.storage.doubts import NOT_ASKED, Doubt
from slixmpp_mls.errors import InvalidError, NotPermitted
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.rooms.engine import member_checks
from slixmpp_mls.rooms.engine.member_checks import MemberChecks
from slixmpp_mls.runtime.question_budget import BURST
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import Participant, World

from ..client.people import BOB, DAVE, three
from .people import Parts, until


class Checking(Parts):
    """A member's checks."""

    def __init__(self, person: Participant, **settings: Any) -> None:
        super().__init__(person, **settings)
        self.removed: list[ClientIdentity] = []
        self.forbidden: set[ClientIdentity] = set()
        self.resumed = 0
        self.checks = MemberChecks(self.parts, self._remove, self._resume)

    async def _remove(self, client: ClientIdentity) -> None:
        if client in self.forbidden:
            raise NotPermitted("says the test")
        self.removed.append(client)

    def _resume(self) -> None:
        self.resumed += 1

    def told(self) -> list[tuple[ClientIdentity, bool]]:
        return [(event.member.identity, event.doubt.denied) for event in self.got("mls_doubted")]


def checking(**settings: Any) -> tuple[World, Checking, ClientIdentity, ClientIdentity]:
    world, alice, bob, carol = three()
    return world, Checking(alice, **settings), bob.device.identity, carol.device.identity


async def test_all_members_but_ourselves_are_asked_about_within_a_day_of_rounds() -> None:
    _, alice, bob, carol = checking()
    for _ in range(24):
        await alice.checks.next_round()
    assert sorted(alice.service.asked, key=str) == sorted([bob, carol], key=str)
    assert not alice.told()


async def test_a_member_that_was_vouched_for_is_removed_when_the_grace_is_over() -> None:
    world, alice, bob, _ = checking(grace=DAY)
    alice.service.denied.add(bob)
    await alice.checks.look_at_account(bob.account)
    assert alice.told() == [(bob, True)]
    assert not alice.removed
    assert not alice.group.sending.silenced  # RFC 9750 6.5: it has been vouched for
    world.now += DAY
    await alice.checks.act()
    assert alice.removed == [bob]
    assert alice.told() == [(bob, True)]  # once


@pytest.mark.parametrize("configured", ["hold", "report"])
async def test_members_are_not_removed_if_that_is_not_configured(configured: str) -> None:
    world, alice, bob, _ = checking(denied_members=configured, grace=0)
    alice.service.denied.add(bob)
    await alice.checks.look_at_account(bob.account)
    world.now += DAY
    await alice.checks.act()
    assert alice.told() == [(bob, True)]
    assert not alice.removed
    assert alice.group.sending.talks_to_anybody is (configured == "report")


async def test_one_that_we_may_not_remove_spoils_no_other() -> None:
    _, alice, bob, carol = checking(grace=0)
    alice.service.denied |= {bob, carol}
    alice.forbidden.add(bob)
    await alice.checks.look_again([bob, carol])
    assert alice.removed == [carol]


async def test_what_has_waited_goes_on_when_a_member_is_vouched_for_after_all() -> None:
    world, alice, *_ = checking(denied_members="hold")
    dave = world.person(DAVE)
    alice.person.judge = lambda leaf: InvalidError("says the test", "RFC 9420 5.3.1")
    world.people[1].commit(*world.people[1].adding(DAVE))
    world.settle()
    assert alice.group.sending.silenced
    alice.service.denied.add(dave.device.identity)
    await alice.checks.look_again()
    assert alice.group.sending.silenced
    alice.service.denied.clear()
    await alice.checks.look_again()
    assert not alice.group.sending.silenced
    assert not alice.group.members.doubts
    assert alice.resumed == 2  # asked each time whether anything may go on


async def test_about_a_newcomer_that_silences_the_room_it_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could tell who it is when it came; the first pause is seconds, not the hour of the ordinary rounds."""
    assert member_checks.AGAIN[0] <= 5
    monkeypatch.setattr(member_checks, "AGAIN", (0.0, 0.0, 0.0))
    world, alice, *_ = checking()
    bob = world.people[1]
    bob.commit()
    world.settle()
    fresh = world.person(BOB)
    bob.vouch_for(fresh)
    fresh.read()
    alice.person.judge, alice.person.denies = lambda leaf: InvalidError("no answer", "RFC 9420 5.3.1"), False
    fresh.ask()
    world.settle()
    bob.commit()
    world.settle()
    assert alice.group.sending.silenced
    await alice.checks.act()
    await until(lambda: not alice.group.sending.silenced)
    assert fresh.device.identity in alice.service.asked
    assert alice.resumed


async def test_a_member_that_goes_while_the_answer_comes_is_not_judged() -> None:
    """The answer is about a key; who has another one, or is gone, has been judged with that."""
    world, alice, bob, _ = checking()
    alice.service.denied.add(bob)
    answer = alice.service.validate

    async def slowly(leaves: object, suite: object) -> object:
        verdicts = await answer(leaves, suite)  # type: ignore[arg-type]
        carol = world.people[2]
        carol.commit(Remove(alice.group.roster.leaf_of(bob) or 0))
        world.settle()
        return verdicts

    alice.service.validate = slowly  # type: ignore[method-assign, assignment]
    await alice.checks.look_at_account(bob.account)
    assert not alice.group.members.doubts
    assert not alice.told()


async def test_a_client_that_is_put_out_while_the_answer_comes_does_nothing() -> None:
    _, alice, bob, _ = checking()
    alice.service.denied.add(bob)
    answer = alice.service.validate

    async def slowly(leaves: object, suite: object) -> object:
        alice.group.lifecycle.give_up()
        return await answer(leaves, suite)  # type: ignore[arg-type]

    alice.service.validate = slowly  # type: ignore[method-assign, assignment]
    await alice.checks.look_at_account(bob.account)
    assert not alice.told()


async def test_an_account_that_announces_one_change_after_another_is_asked_about_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its server decides how many of them there are."""
    monkeypatch.setattr(member_checks, "_ONCE_MORE", 0.001)
    _, alice, bob, carol = checking()
    answer, gate = alice.service.validate, asyncio.Event()

    async def slowly(leaves: object, suite: object) -> object:
        verdicts = await answer(leaves, suite)  # type: ignore[arg-type]
        await gate.wait()
        return verdicts

    alice.service.validate = slowly  # type: ignore[method-assign, assignment]
    looks = [asyncio.create_task(alice.checks.look_at_account(bob.account)) for _ in range(100)]
    await until(lambda: sum(look.done() for look in looks) == 99)
    assert alice.service.asked == [bob]
    other = asyncio.create_task(alice.checks.look_at_account(carol.account))
    await until(lambda: carol in alice.service.asked)
    alice.service.denied.add(bob)
    gate.set()
    await asyncio.gather(*looks, other)
    assert sorted(alice.service.asked, key=str) == sorted([bob, bob, carol], key=str)
    assert alice.told() == [(bob, True)]  # by the second answer


# --- what others can make us ask ---------------------------------------------------------------


def named(count: int, devices: int = 1) -> list[LeafNode]:
    """Leaves of so many accounts."""
    suite = CipherSuite.get(1)
    stores = [MemoryStore(f"u{number}@v{number}.example") for number in range(count) for _ in range(devices)]
    return [Device(store).key_packages.make(suite, 1_800_000_000).key_package.leaf_node for store in stores]


async def test_others_can_name_any_number_of_accounts_and_few_are_asked() -> None:
    """RFC 9420 5.3.1 and RFC 9750 8.4.3: one stanza of somebody else is no reason to ask thousands of servers."""
    _, alice, *_ = checking()
    suite, leaves = CipherSuite.get(1), named(BURST + 40, devices=2)
    doubts = await alice.checks.judge_named(leaves, suite)
    asked = {client.account for client in alice.service.asked}
    assert len(asked) == member_checks.FREE + BURST
    assert len(alice.service.asked) == 2 * len(asked)  # all devices of an account by one question
    assert {doubt.reason for doubt in doubts} == {NOT_ASKED}
    assert not any(doubt.denied or doubt.silences for doubt in doubts)
    assert len(doubts) == 2 * (BURST + 40 - len(asked))
    # The next ones find it empty; a few are asked about all the same.
    alice.service.asked.clear()
    await alice.checks.judge_named(named(20), suite)
    assert len(alice.service.asked) == member_checks.FREE
    # What our own user names is asked about in any case.
    await alice.checks.judge(leaves, suite)
    assert len(alice.service.asked) == member_checks.FREE + len(leaves)


def unasked(alice: Checking, *clients: ClientIdentity) -> None:
    """Members that came in beyond the budget."""
    alice.group.members.reconsider(clients, [Doubt(client, False, NOT_ASKED, "says the test", 1) for client in clients])


async def test_members_beyond_the_budget_are_asked_about_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_checks, "PAUSE", 0.0)
    _, alice, bob, carol = checking()
    unasked(alice, bob, carol)
    for _ in range(24):
        await alice.checks.next_round()
    await alice.checks.look_again()
    assert not alice.service.asked
    assert not alice.told()  # nobody has been asked: there is nothing to tell
    alice.service.denied.add(carol)
    alice.checks.ask_on()
    alice.checks.ask_on()
    await until(lambda: len(alice.service.asked) == 2)
    await until(lambda: alice.told() == [(carol, True)])
    assert sorted(alice.service.asked, key=str) == sorted([bob, carol], key=str)
    assert set(alice.group.members.doubts) == {carol}
