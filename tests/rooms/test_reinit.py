"""Another cipher suite for a room's group: the ReInit, and the group that follows (RFC 9420 11.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from slixmpp_mls.client import CommitLost, GroupChanged, GroupClosed, KeyPackageSettings
from slixmpp_mls.errors import NotPermitted, StoreError, SuiteUnsupported, UsageError
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.rooms.engine import reinit
from slixmpp_mls.rooms.engine.committer import Committer
from slixmpp_mls.rooms.engine.reinit import Reinitializer
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, closed_policy
from ..client.test_reinit import ask, garbage, use_elsewhere
from ..services import Client
from .people import Parts, until


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reinit, "OTHERS_CREATE_AFTER", 0.01)


class Member(Parts):
    """A member whose reinitializer is tested."""

    def __init__(self, person: Participant, others: Client | None = None) -> None:
        super().__init__(person, others)
        self.committer = Committer(self.parts, Transmitter(self.parts, lambda *refused: None))
        self.reinitializer = Reinitializer(self.parts, self.committer, self.read_again)
        self.read_events = len(person.events)
        self.again = 0

    async def read_again(self) -> None:
        """What the worker does: it reads on from the place in the store, and begins anew."""
        self.again += 1
        self.reinitializer.begin(at_once=False)

    def read(self) -> None:
        """Everybody reads, and the engine hears of it."""
        self.world.settle()
        events = self.person.events[self.read_events :]
        self.read_events = len(self.person.events)
        for event in events:
            match event:
                case GroupChanged() | CommitLost():
                    self.committer.resolve(event)
                case GroupClosed() if event.by.identity == self.person.device.identity:
                    self.reinitializer.begin(at_once=True)
        self.progress.notify()

    async def reads_until(self, condition: Callable[[], object]) -> None:
        def there() -> bool:
            self.read()
            return bool(condition())

        await until(there)


async def scene(**options: Any) -> tuple[World, Member, Member]:
    """Alice and Bob in a group of suite 1; both have suite 2, with KeyPackages of it."""
    world = World(settings=KeyPackageSettings(suites=(2, 1), count=1), **options)
    people = world.group(ALICE, BOB, policy=closed_policy(world), suite=1)
    alice = Member(people[0])
    bob = Member(people[1], alice)
    for member in (alice, bob):
        await Publication(member.context).replenish()
    return world, alice, bob


async def test_the_best_suite_of_all_is_found_and_the_group_goes_on_in_it() -> None:
    world, alice, bob = await scene()
    before = alice.group.mls.group_id
    changing = asyncio.create_task(alice.reinitializer.reinitialize(None))
    await alice.reads_until(changing.done)
    assert await changing == 2
    assert (alice.group.mls.suite.id, bob.group.mls.suite.id) == (2, 2)
    assert alice.group.mls.group_id == bob.group.mls.group_id != before
    assert world.agree()
    assert await alice.reinitializer.reinitialize(None) is None  # there is no better one
    assert not alice.failures


async def test_a_member_that_may_not_change_the_policy_may_not_change_the_suite() -> None:
    _, alice, bob = await scene()
    with pytest.raises(NotPermitted, match="cipher suite"):
        await bob.reinitializer.reinitialize(2)
    with pytest.raises(UsageError, match="not one of ours"):
        await alice.reinitializer.reinitialize(3)
    assert not alice.muc.sent + bob.muc.sent


async def test_a_member_without_a_key_package_is_named_and_nothing_ends() -> None:
    world, alice, bob = await scene()
    alice.key_packages.of[BOB].clear()
    with pytest.raises(SuiteUnsupported) as refused:
        await alice.reinitializer.reinitialize(2)
    assert refused.value.lacking == (str(bob.device.identity),)
    assert not alice.muc.sent
    assert world.agree()


async def test_if_the_first_disappears_another_makes_the_group() -> None:
    world, alice, bob = await scene()
    changing = asyncio.create_task(alice.reinitializer.reinitialize(2))
    await until(lambda: alice.muc.sent)
    changing.cancel()
    world.settle()
    assert bob.group.continuation.reinit is not None
    alice.progress.live.clear()  # gone
    bob.read_events = len(bob.person.events)
    bob.reinitializer.begin(at_once=False)
    await bob.reads_until(lambda: bob.group.continuation.reinit is None)
    assert bob.group.mls.suite.id == 2
    assert world.agree()


async def test_a_failing_store_only_delays_the_creation() -> None:
    _, alice, _ = await scene()
    changing = asyncio.create_task(alice.reinitializer.reinitialize(2))
    finish, failures = alice.group.continuation.finish, 2

    def stubborn(*arguments: Any, **options: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("says the test")
        return finish(*arguments, **options)

    alice.group.continuation.finish = stubborn  # type: ignore[method-assign]
    await alice.reads_until(changing.done)
    assert await changing == 2
    assert len(alice.got("mls_store_failed")) == 2
    assert not alice.got("mls_continuation_delayed")


async def test_a_key_package_that_is_gone_delays_the_creation_and_is_reported() -> None:
    _, alice, bob = await scene()
    changing = asyncio.create_task(alice.reinitializer.reinitialize(2))
    await until(lambda: alice.muc.sent)
    kept = dict(alice.key_packages.of[BOB])
    alice.key_packages.of[BOB].clear()
    await alice.reads_until(lambda: alice.got("mls_continuation_delayed"))
    delayed = alice.got("mls_continuation_delayed")[0]
    assert (delayed.room, delayed.lacking) == (alice.group.room, (str(bob.device.identity),))
    alice.key_packages.of[BOB] |= kept
    await alice.reads_until(changing.done)
    assert await changing == 2


async def test_who_is_left_out_makes_no_group_until_it_has_waited_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """mls-operations, "Left Out": Bob's creation was none, and he is gone."""
    monkeypatch.setattr(reinit, "LEFT_OUT_PATIENCE", 0.05)
    world, alice, bob = await scene()
    use_elsewhere(alice.person, 2)
    ask(alice.person, 2)
    world.settle()
    garbage(world, alice.person, BOB)
    world.settle()
    assert alice.group.continuation.left_out
    alice.read_events = len(alice.person.events)
    alice.reinitializer.begin(at_once=True)
    await alice.reads_until(lambda: alice.group.continuation.reinit is None)
    assert alice.again == 1
    (delayed, *_) = alice.got("mls_continuation_delayed")
    assert "used before" in delayed.reason
    assert (alice.group.mls.suite.id, bob.group.mls.suite.id) == (2, 2)
    assert world.agree()
