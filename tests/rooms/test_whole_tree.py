"""The engine of a room while we lack the group's ratchet tree: fetching, waiting, failing, becoming a full member."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from slixmpp_mls.client import Rejected
from slixmpp_mls.delivery import Stream
from slixmpp_mls.errors import MalformedError, NotPermitted, TransferFailed, UsageError
from slixmpp_mls.rooms.content import seal_body
from slixmpp_mls.rooms.engine import rejoin, whole_tree
from slixmpp_mls.stanza.blob import BlobReference
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, CAROL, own_group
from ..client.test_partial import add_with_tree_elsewhere
from .people import Bot, soon, until


class Web:
    """The web server of a world, whose answers can be held back.

    :ivar error: raised instead of an answer, if it is not None
    :ivar asked: the number of questions
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.asked = 0

    async def get(self, place: BlobReference) -> bytes:
        self.asked += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        if place not in self.world.web:
            raise TransferFailed("404, says the test", temporary=False)
        return self.world.web[place]


class Scene:
    """Alice and Bob drive their groups by hand; Carol's engine joins their group while the tree is held back."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(whole_tree, "_PAUSES", (0.001,))
        monkeypatch.setattr(whole_tree, "_MISSING_AFTER", 3)
        self.monkeypatch, self.world = monkeypatch, world
        self.alice, self.bob = world.group(ALICE, BOB)
        self.web = Web(world)
        self.person = world.person(CAROL)
        self.place = add_with_tree_elsewhere(self.alice, CAROL)
        self.carol = self.start()

    def start(self) -> Bot:
        """Carol's client, also after a restart."""
        bot = Bot(self.person, partial_from=1)
        self.monkeypatch.setattr(bot.context.uploads, "get", self.web.get)
        Stream.of(bot.xmpp).online = True
        self.carol = bot
        return bot

    async def enter(self) -> None:
        await self.carol.rooms.follow(self.world.room.jid, None)
        await until(lambda: self.carol.room.partial)
        self.world.settle()

    async def full(self) -> None:
        await until(lambda: self.carol.room.is_member)

    @property
    def stages(self) -> list[str]:
        return [event.stage for event in self.carol.got("mls_whole_tree")]


@pytest_asyncio.fixture
async def scene(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    scene = Scene(world, monkeypatch)
    yield scene
    scene.carol.rooms.close()


def said(who: Participant, text: str) -> None:
    """A message as the plugin makes them."""
    who.send(seal_body(text, who.account, who.world.room.jid, float(who.world.now)))


async def test_a_tree_that_comes_too_slowly_does_not_stop_the_reading(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has named the place decides how fast its server is, but not for how long a stanza waits."""
    monkeypatch.setattr(whole_tree, "time_limit", lambda place: 0.01)
    await scene.enter()  # the web server never answers
    await until(lambda: "failed" in scene.stages)
    assert scene.carol.room.worker.whole_tree.is_missing
    monkeypatch.setattr(whole_tree, "time_limit", lambda place: 60.0)
    scene.web.open.set()
    await scene.full()


async def test_reading_and_sending_go_on_while_the_tree_is_fetched(scene: Scene) -> None:
    await scene.enter()
    room = scene.carol.room
    assert [event.by.account for event in scene.carol.got("mls_joined_partially")] == [ALICE]
    assert {member.account for member in room.members} == {ALICE, CAROL}
    assert room.accounts == [ALICE, CAROL]
    assert room.epoch == scene.alice.epoch
    assert room.policy == scene.alice.group.policy
    said(scene.alice, "one")
    scene.world.room.deliver_all()
    await until(lambda: scene.carol.texts == ["one"])
    await room.send("two")
    scene.world.settle()
    assert not scene.carol.got("mls_joined")
    scene.web.open.set()
    await scene.full()
    assert scene.stages == ["fetching", "checking"]
    assert [event.by.account for event in scene.carol.got("mls_joined")] == [ALICE]
    assert room.accounts == [ALICE, BOB, CAROL]
    assert (len(scene.alice.texts), len(scene.bob.texts)) == (1, 2)
    await room.send("three")
    scene.world.settle()
    assert len(scene.alice.texts) == 2
    assert not scene.carol.failures


async def test_what_waits_is_read_in_order(scene: Scene) -> None:
    await scene.enter()
    said(scene.alice, "one")
    said(scene.bob, "two")
    said(scene.alice, "three")
    scene.alice.commit()
    scene.world.settle()
    said(scene.bob, "four")
    scene.world.room.deliver_all()
    await until(lambda: scene.carol.texts == ["one"])
    await until(lambda: scene.carol.room.group.room_state.holding)
    sent = await scene.carol.room.send("five")  # it waits: the epoch may have ended
    scene.world.settle()
    assert scene.alice.texts[-1:] != scene.bob.texts[-1:]
    scene.web.open.set()
    await until(lambda: scene.carol.texts == ["one", "two", "three", "four"])
    await until(lambda: scene.world.room.in_flight)
    scene.world.settle()
    await sent.confirmed
    assert scene.carol.room.epoch == scene.alice.epoch
    assert not scene.carol.got("mls_rejected")
    assert not scene.carol.failures


async def test_a_tree_that_cannot_be_had_is_asked_for_again(scene: Scene) -> None:
    scene.web.error = TransferFailed("503, says the test", temporary=True)
    scene.web.open.set()
    await scene.enter()
    await until(lambda: scene.stages.count("failed") >= 4)
    assert scene.carol.room.partial
    said(scene.alice, "one")
    scene.world.room.deliver_all()
    await until(lambda: scene.carol.texts == ["one"])
    errors = {str(event.error) for event in scene.carol.got("mls_whole_tree") if event.stage == "failed"}
    assert errors == {"503, says the test"}
    scene.web.error = None
    await scene.full()
    said(scene.bob, "two")
    scene.world.room.deliver_all()
    await until(lambda: scene.carol.texts == ["one", "two"])


@pytest.mark.parametrize("kind", ["another", "garbage", "not allowed", "not what was uploaded"])
async def test_another_tree_is_refused_and_reported(scene: Scene, kind: str) -> None:
    """RFC 9420 12.4.3.1: the tree hash decides; the state stays."""
    good = scene.world.web[scene.place]
    await scene.enter()
    match kind:
        case "another":
            scene.alice.commit()
            scene.world.room.deliver_all()
            scene.alice.read()
            scene.world.web[scene.place] = scene.alice.group.mls.tree.encode()
        case "garbage":
            scene.world.web[scene.place] = good[:-1]
        case "not allowed":
            scene.web.error = NotPermitted("not from there, says the test")
        case _:
            scene.web.error = MalformedError("a blob with another hash, says the test")
    scene.web.open.set()
    await until(lambda: scene.stages.count("failed") >= 2)
    assert scene.carol.room.partial
    assert not scene.carol.got("mls_joined")
    scene.world.web[scene.place], scene.web.error = good, None
    await scene.full()
    scene.world.settle()
    await until(lambda: scene.carol.room.epoch == scene.alice.epoch)
    assert not scene.carol.failures


async def test_the_room_is_read_on_without_the_tree_and_again_with_it(scene: Scene) -> None:
    await scene.enter()
    said(scene.bob, "one")
    scene.alice.commit()
    scene.world.settle()
    said(scene.bob, "two")
    scene.world.room.deliver_all()
    last = scene.world.room.archive()[-1].archive_id
    good = scene.world.web.pop(scene.place)
    scene.web.open.set()
    await until(lambda: scene.carol.room.group.cursor == last)
    assert scene.carol.room.partial
    assert scene.carol.texts == []
    await scene.carol.room.send("waits")
    scene.world.web[scene.place] = good
    await scene.full()
    await until(lambda: scene.carol.texts == ["one", "two"])
    await until(lambda: scene.world.room.in_flight)
    scene.world.settle()
    assert len(scene.bob.texts) == 1
    assert not scene.carol.failures


async def test_who_waits_for_a_tree_that_is_gone_for_good_asks_to_be_added_afresh(scene: Scene) -> None:
    """mls, "Large Groups": the upload service has deleted the file, and the room has gone on."""
    scene.monkeypatch.setattr(rejoin, "_SPREAD", 0.0)
    scene.monkeypatch.setattr(rejoin, "_ASK_AFTER_INVITATION", 0.0)
    scene.monkeypatch.setattr(whole_tree, "_PAUSES", (0.001,) * 9 + (0.2,))
    await scene.enter()
    scene.alice.commit()
    scene.world.settle()
    scene.world.web.clear()
    scene.web.open.set()
    await until(lambda: scene.world.room.in_flight)
    assert scene.web.asked >= whole_tree._GIVEN_UP_AFTER
    assert scene.carol.room.partial  # its state stays
    scene.world.settle()
    scene.alice.commit()
    scene.world.settle()
    await scene.full()
    assert scene.carol.room.epoch == scene.alice.epoch
    assert [each.external for each in scene.carol.got("mls_rejoining")] == [False]
    said(scene.bob, "Fair is foul")
    scene.world.room.deliver_all()
    await until(lambda: scene.carol.texts == ["Fair is foul"])
    assert not scene.carol.failures


async def test_who_is_removed_and_added_again_needs_no_old_tree(scene: Scene) -> None:
    await scene.enter()
    scene.world.web.clear()
    scene.web.open.set()
    scene.alice.commit(*scene.alice.removing(CAROL))
    scene.world.settle()
    scene.world.directory.replenish(scene.person.device, scene.world.now)
    scene.alice.commit(*scene.alice.adding(CAROL))
    scene.world.settle()
    await scene.full()
    assert scene.carol.room.epoch == scene.alice.epoch
    said(scene.bob, "Fair is foul")
    scene.world.room.deliver_all()
    await until(lambda: scene.carol.texts == ["Fair is foul"])


async def test_who_is_let_in_by_somebody_unknown_does_not_join_before_the_tree_is_there(scene: Scene) -> None:
    """mls, "Large Groups": a partial member could send to a stranger that has let it in by a name."""
    scene.carol.service.unknown.add(scene.alice.device.identity)
    entering = asyncio.create_task(scene.carol.rooms.follow(scene.world.room.jid, None))
    await until(lambda: scene.web.asked)
    assert not scene.carol.room.partial
    scene.web.open.set()
    await scene.full()
    await entering
    assert scene.carol.got("mls_joined_partially") == []
    assert scene.carol.room.group.sending.silenced


@pytest.mark.parametrize("answer", ["unknown", "denied"])
async def test_a_name_leads_no_partial_member_away(scene: Scene, answer: str) -> None:
    """mls, "Large Groups": of an administrator we know no key; its name is no reason to delete the group's state."""
    await scene.enter()
    scene.world.web.clear()
    scene.web.open.set()
    scene.alice.commit()
    scene.world.settle()
    last = scene.world.room.archive()[-1].archive_id
    await until(lambda: scene.carol.room.group.cursor == last)  # read on without the tree
    impostor = scene.world.person(ALICE)
    getattr(scene.carol.service, answer).add(impostor.device.identity)
    own_group(scene.world, impostor, scene.alice, scene.person, scene.alice.group.mls.group_id, epoch=7)
    scene.world.room.deliver_all()
    rejected = await _rejected(scene)
    assert "in the name of" in str(rejected.error) or "is denied" in str(rejected.error)
    assert scene.carol.room.partial
    assert scene.carol.room.accounts == [ALICE, CAROL]


async def _rejected(scene: Scene) -> Rejected:
    await until(lambda: scene.carol.got("mls_rejected"))
    (rejected,) = scene.carol.got("mls_rejected")
    assert isinstance(rejected, Rejected)
    return rejected


async def test_a_restart_fetches_the_tree_again(scene: Scene) -> None:
    await scene.enter()
    said(scene.bob, "one")
    scene.world.room.deliver_all()
    scene.carol.rooms.close()
    asked = scene.web.asked
    scene.person.restart()
    again = scene.start()
    await again.rooms.resume()
    await until(lambda: scene.web.asked > asked)
    assert again.room.partial
    scene.web.open.set()
    await scene.full()
    await until(lambda: again.texts == ["one"])


async def test_changes_of_the_group_wait_for_the_tree(scene: Scene) -> None:
    await scene.enter()
    room = scene.carol.room
    update = asyncio.create_task(room.update())
    await soon()
    assert not update.done()
    assert not scene.world.room.in_flight
    scene.web.open.set()
    await until(lambda: scene.world.room.in_flight)
    scene.world.settle()
    assert (await update).epoch == scene.alice.epoch


async def test_nothing_else_begins_in_the_room(scene: Scene) -> None:
    await scene.enter()
    with pytest.raises(UsageError):
        await scene.carol.rooms.create(scene.world.room.jid, (), None, None, None)
    assert scene.carol.room.partial
    scene.web.open.set()
    await scene.full()


async def test_leaving_without_the_tree(scene: Scene) -> None:
    await scene.enter()
    room = scene.carol.room
    await room.leave(0.01)
    assert not room.partial
    assert scene.carol.rooms.get(scene.world.room.jid) is None


async def test_an_invitation_while_the_tree_is_fetched_changes_nothing(scene: Scene) -> None:
    await scene.enter()
    place = scene.carol.room.group.cursor
    assert scene.carol.rooms.needs_no_invitation(scene.world.room.jid)
    await scene.carol.rooms.invited(scene.world.room.jid, ALICE, "000001")
    await scene.carol.rooms.follow(scene.world.room.jid, "000001")
    assert scene.carol.room.group.cursor == place
    assert scene.carol.room.partial
