"""Joining with the whole ratchet tree: a large one is verified in another thread, and the loop goes on."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from slixmpp_mls.client.group import welcome
from slixmpp_mls.client.group.actions import Join
from slixmpp_mls.client.group.tree_check import CheckedWhole, TreeCheck
from slixmpp_mls.delivery import Stream
from slixmpp_mls.errors import InvalidError, UsageError
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.joining import public_of
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.welcome import GroupInfo, Welcome
from slixmpp_mls.stanza import elements
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB, CAROL
from ..client.test_partial import add_with_tree_elsewhere
from ..client.test_storage import contents
from .people import Bot, until
from .test_whole_tree import Web, said


class Scene:
    """Carol's engine joins a group whose tree is elsewhere, and large by the test's measure.

    :ivar threads: those that have verified a tree
    :ivar go_on: what they wait for
    """

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.world = monkeypatch, world
        self.threads: list[int] = []
        self.go_on = threading.Event()
        self.alice, self.bob = world.group(ALICE, BOB)
        self.person = world.person(CAROL)
        self.place = add_with_tree_elsewhere(self.alice, CAROL)
        self.web = Web(world)
        self.web.open.set()
        self.carol = self.start()
        world.settle()
        monkeypatch.setattr(welcome, "LARGE", 1)
        monkeypatch.setattr(TreeCheck, "run", self._run(TreeCheck.run))

    def _run(self, run: object) -> object:
        def slowly(check: TreeCheck) -> CheckedWhole:
            self.threads.append(threading.get_ident())
            assert self.go_on.wait(60)
            return run(check)  # type: ignore[operator, no-any-return]

        return slowly

    def start(self) -> Bot:
        self.carol = Bot(self.person, partial_from=None)
        self.monkeypatch.setattr(self.carol.context.uploads, "get", self.web.get)
        Stream.of(self.carol.xmpp).online = True
        return self.carol

    async def checking(self, times: int = 1) -> None:
        """The loop runs while a tree is verified."""
        await until(lambda: len(self.threads) == times)
        assert threading.get_ident() not in self.threads
        assert [event.stage for event in self.carol.got("mls_whole_tree")] == ["checking"]


async def test_the_loop_goes_on_while_a_large_tree_is_verified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(world, monkeypatch)
    await scene.carol.rooms.follow(world.room.jid, None)
    await scene.checking()
    said(scene.bob, "meanwhile")
    world.settle()
    assert not scene.carol.room.is_member
    scene.go_on.set()
    await until(lambda: scene.carol.texts == ["meanwhile"])
    assert scene.carol.room.accounts == [ALICE, BOB, CAROL]
    assert scene.carol.room.epoch == scene.alice.epoch
    assert [event.by.account for event in scene.carol.got("mls_joined")] == [ALICE]
    assert len(scene.threads) == 1  # nothing is verified twice
    assert not scene.carol.failures
    scene.carol.rooms.close()


async def test_another_tree_leaves_everything_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9420 12.4.3.1: the tree hash decides.  The room is read on."""
    scene = Scene(world, monkeypatch)
    scene.alice.commit()
    world.settle()
    world.web[scene.place] = scene.alice.group.mls.tree.encode()
    await scene.carol.rooms.follow(world.room.jid, None)
    await scene.checking()
    before = contents(scene.person.device.store)
    scene.go_on.set()
    await until(lambda: scene.carol.got("mls_rejected"))
    (rejected,) = scene.carol.got("mls_rejected")
    assert isinstance(rejected.error, InvalidError)
    assert "another tree" in str(rejected.error)
    assert not scene.carol.room.is_member
    after = contents(scene.person.device.store)
    changed = {space for space in before.keys() | after.keys() if before.get(space) != after.get(space)}
    room = world.room.jid
    assert changed == {"room", f"outside/{room}", f"former/{room}"}  # our place, and what a request would need
    scene.carol.rooms.close()


async def test_whoever_gives_up_meanwhile_has_changed_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(world, monkeypatch)
    await scene.carol.rooms.follow(world.room.jid, None)
    await scene.checking()
    before = contents(scene.person.device.store)
    scene.carol.rooms.close()
    scene.go_on.set()
    await asyncio.sleep(0)
    assert contents(scene.person.device.store) == before
    scene.person.restart()
    again = scene.start()
    await again.rooms.resume()
    await until(lambda: again.room.is_member)
    assert again.room.epoch == scene.alice.epoch
    again.rooms.close()


def test_what_was_verified_counts_for_the_same_group_info_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9420 12.4.3, 12.4.3.1: it is one epoch's, and the signature of its signer is verified each time."""
    monkeypatch.setattr(welcome, "LARGE", 1)
    alice, _ = world.group(ALICE, BOB)
    carol = world.person(CAROL)
    place = add_with_tree_elsewhere(alice, CAROL)
    incoming = world.room.archive()[-1].with_blob(place, world.web[place])
    check = carol.group.processing.examine(incoming, world.now).check
    assert check is not None
    checked = check.run()
    other = replace(check, lifetime_limit=check.lifetime_limit + 1).run()
    assert carol.group.processing.examine(incoming.with_checked(other), world.now).check == check
    step = carol.group.processing.examine(incoming.with_checked(checked), world.now)
    assert isinstance(step.action, Join)
    assert step.action.staged.state.public is checked.public

    (payload,) = (each for each in incoming.payloads if isinstance(each, elements.Welcome))
    letter, bundle = MLSMessage.decode(payload.data).body, step.action.bundle
    assert isinstance(letter, Welcome)
    assert Group.join(letter, bundle, public=checked.public).state.epoch_authenticator
    alice.read()
    later = MLSMessage.decode(alice.group.mls.group_info()).body
    assert isinstance(later, GroupInfo)
    alice.commit()
    world.room.deliver_all()
    alice.read()
    present = MLSMessage.decode(alice.group.mls.group_info()).body
    assert isinstance(present, GroupInfo)
    assert Group.join(letter, bundle, public=public_of(later)).state.epoch == later.group_context.epoch
    with pytest.raises(UsageError):
        Group.join(letter, bundle, public=public_of(present))
