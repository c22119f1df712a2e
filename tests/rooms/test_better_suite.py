"""The hint that a room could move to a better cipher suite: all leaves list it (RFC 9420 7.2)."""

from __future__ import annotations

from dataclasses import replace

from slixmpp_mls.client import KeyPackageSettings
from slixmpp_mls.rooms.engine.committer import Committer
from slixmpp_mls.rooms.engine.reinit import BetterSuite, Reinitializer
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB, CAROL
from .people import Parts

NEW = KeyPackageSettings((0xF001, 1), count=1)
OLD = KeyPackageSettings((1,), count=1)


def meeting() -> tuple[World, Parts, Reinitializer]:
    """Alice and Bob have both suites, Carol has the old one."""
    world = World(settings=NEW)
    alice, _ = world.group(ALICE, BOB)
    world.settings = OLD
    carol = world.person(CAROL)
    alice.commit(*alice.adding(carol.account))
    world.settle()
    parts = Parts(alice)
    committer = Committer(parts.parts, Transmitter(parts.parts, lambda *_: None))
    return world, parts, Reinitializer(parts.parts, committer, parts.progress.until_live)


def test_it_is_given_when_the_last_one_has_the_suite_and_once() -> None:
    world, alice, reinitializer = meeting()
    *_, carol = world.people
    reinitializer.look_for_better_suite()
    assert not alice.got("mls_better_suite")
    world.settings = NEW
    carol.restart()
    assert carol.group.sending.leaf_outdated  # its leaf does not say what it can do now
    carol.commit()
    world.settle()
    assert not carol.group.sending.leaf_outdated
    for _ in range(2):
        reinitializer.look_for_better_suite()
    assert alice.got("mls_better_suite") == [BetterSuite(world.room.jid, 0xF001, 1)]
    # One comes who has not.
    world.settings = OLD
    dave = world.person("dave@d.example")
    alice.person.commit(*alice.person.adding(dave.account))
    world.settle()
    reinitializer.look_for_better_suite()
    alice.person.commit(*alice.person.removing(dave.account))
    world.settle()
    reinitializer.look_for_better_suite()
    assert len(alice.got("mls_better_suite")) == 2


def test_it_is_not_given_where_nothing_is_better() -> None:
    world = World(settings=NEW)
    alice, _ = world.group(ALICE, BOB, suite=0xF001)
    parts = Parts(alice)
    committer = Committer(parts.parts, Transmitter(parts.parts, lambda *_: None))
    Reinitializer(parts.parts, committer, parts.progress.until_live).look_for_better_suite()
    assert not parts.got("mls_better_suite")


def test_nobody_is_told_about_a_group_of_itself_alone() -> None:
    world = World(settings=NEW)
    (alice,) = world.group(ALICE)
    parts = Parts(alice)
    committer = Committer(parts.parts, Transmitter(parts.parts, lambda *_: None))
    Reinitializer(parts.parts, committer, parts.progress.until_live).look_for_better_suite()
    assert not parts.got("mls_better_suite")


def test_a_suite_that_the_policy_does_not_allow_is_not_better() -> None:
    world = World(settings=KeyPackageSettings((2, 0xF001), count=1))
    policy = replace(world.open_policy(ALICE, BOB), post_quantum=True)
    alice, _ = world.group(ALICE, BOB, policy=policy, suite=0xF001)
    parts = Parts(alice)
    committer = Committer(parts.parts, Transmitter(parts.parts, lambda *_: None))
    Reinitializer(parts.parts, committer, parts.progress.until_live).look_for_better_suite()
    assert not parts.got("mls_better_suite")
