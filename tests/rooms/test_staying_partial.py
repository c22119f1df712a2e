"""The engine of a member that stays without the ratchet tree, and of the members that answer it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from slixmpp_mls.client.group.annotations import AnnotationKey, seal_annotations
from slixmpp_mls.client.group.annotations import Annotations as AnnotationsContent
from slixmpp_mls.delivery import Stream
from slixmpp_mls.errors import Disconnected, TransferFailed
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, GroupContextExtensions
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.rooms.content import seal_body
from slixmpp_mls.rooms.engine import annotation_exchange, whole_tree
from slixmpp_mls.stanza import AnnotationRequest, Annotations
from slixmpp_mls.stanza.blob import BlobReference
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB, CAROL, DAVE
from ..client.test_partial import add_with_tree_elsewhere
from .people import Bot, until


class Scene:
    """Alice and Bob are in a group, and answer as told; Carol's engine has joined it, and stays without the tree."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, answering: Sequence[str] = (ALICE,)) -> None:
        monkeypatch.setattr(annotation_exchange, "_COLLECTED", 0.01)
        monkeypatch.setattr(annotation_exchange, "_SPREAD", 0.0)
        monkeypatch.setattr(annotation_exchange, "_ROUNDS", 40)  # a busy machine must not look like silence
        monkeypatch.setattr(whole_tree, "_PAUSES", (0.001,))
        monkeypatch.setattr(whole_tree, "_MISSING_AFTER", 1)
        self.monkeypatch, self.world, self.epoch = monkeypatch, world, 0
        people = world.group(ALICE, BOB, policy=RoomPolicy(world.room.jid, (ALICE, BOB)))
        self.person = world.person(CAROL)
        self.place = add_with_tree_elsewhere(people[0], CAROL)
        for person in people:
            person.read()
        self.alice, self.bob = (self.online(Bot(each, annotate=each.account in answering)) for each in people)
        self.carol = self.start()

    def start(self) -> Bot:
        self.carol = self.online(Bot(self.person, partial_from=1, stay_partial=True))
        return self.carol

    def online(self, bot: Bot) -> Bot:
        self.monkeypatch.setattr(bot.context.uploads, "get", self.get)
        self.monkeypatch.setattr(bot.context.uploads, "put", self.put)
        Stream.of(bot.xmpp).online = True
        return bot

    async def get(self, place: BlobReference) -> bytes:
        if place not in self.world.web:
            raise TransferFailed("404, says the test", temporary=False)
        return self.world.web[place]

    async def put(self, octets: bytes) -> BlobReference:
        return self.world.upload(octets)

    async def enter(self) -> None:
        for bot in (self.alice, self.bob):
            await bot.rooms.resume()
        await self.carol.rooms.follow(self.world.room.jid, None)
        await until(lambda: self.carol.room.partial and self.carol.room.live)
        await until(lambda: self.alice.room.live and self.bob.room.live)

    def act(self, bot: Bot, *proposals: AnyProposal) -> None:
        """A Commit reaches the room."""
        self.epoch = bot.room.epoch + 1
        self.world.room.post(bot.room.group.sending.commit(proposals, self.world.now), bot.person.account)
        self.world.room.deliver_all()

    def say(self, bot: Bot, text: str) -> None:
        data = seal_body(text, bot.person.account, self.world.room.jid, float(self.world.now))
        self.world.room.post(bot.room.group.sending.compose(data), bot.person.account)
        self.world.room.deliver_all()

    async def agree(self) -> None:
        """All are in the epoch that the latest Commit has begun."""
        bots = (self.alice, self.bob, self.carol)
        await until(lambda: all(bot.room.epoch >= self.epoch for bot in bots))
        await until(lambda: len({bot.room.group.speaking.epoch_authenticator for bot in bots}) == 1)

    def shown(self, kind: type) -> list[Any]:
        return [each for each in self.world.room.shown if isinstance(each, kind)]

    def policy_change(self) -> GroupContextExtensions:
        group = self.alice.room.group
        policy = RoomPolicy(self.world.room.jid, (ALICE, BOB), max_devices=7)
        return GroupContextExtensions(policy.replaced_in(group.mls.context.extensions))


@pytest_asyncio.fixture
async def scene(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    scene = Scene(world, monkeypatch)
    await scene.enter()
    yield scene
    for bot in (scene.alice, scene.bob, scene.carol):
        bot.rooms.close()


async def test_following_reading_and_sending_without_the_tree(scene: Scene) -> None:
    room = scene.carol.room
    scene.world.web.clear()  # nothing is fetched
    scene.act(scene.alice)
    await scene.agree()
    scene.say(scene.bob, "one")
    await until(lambda: scene.carol.texts == ["one"])
    scene.act(scene.bob)
    await scene.agree()
    assert room.partial
    assert not room.is_member
    assert room.accounts == [ALICE, BOB, CAROL]
    sent = await room.send("three")
    await until(lambda: scene.world.room.in_flight)
    scene.world.room.deliver_all()
    await sent.confirmed
    await until(lambda: scene.alice.texts[-1:] == ["three"])
    assert [event.by.account for event in scene.carol.got("mls_group_changed")] == [ALICE, BOB]
    assert not scene.carol.got("mls_whole_tree")
    assert not scene.carol.failures + scene.alice.failures
    # What is asked about the room is in the key of the group alone.
    assert len(scene.shown(AnnotationRequest)) == len(scene.shown(Annotations))
    assert not scene.carol.got("mls_rejected")


async def test_a_restart_goes_on_where_it_was(scene: Scene) -> None:
    scene.world.web.clear()
    scene.act(scene.alice)
    await scene.agree()
    scene.carol.rooms.close()
    for bot in (scene.bob, scene.alice):
        scene.act(bot)
        await until(lambda: scene.alice.room.epoch == scene.bob.room.epoch == scene.epoch)
    scene.person.restart()
    again = scene.start()
    await again.rooms.resume()
    await until(lambda: again.room.live)
    await scene.agree()
    assert again.room.partial


async def test_without_an_answer_the_tree_is_fetched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_exchange, "_ANSWERED_AFTER", 0.05)
    monkeypatch.setattr(annotation_exchange, "_ROUNDS", 2)
    scene.alice.room.group.annotator.active = False
    scene.act(scene.bob)
    await scene.agree()
    assert scene.carol.room.is_member
    assert scene.carol.got("mls_joined")
    assert len(scene.shown(AnnotationRequest)) == 2


async def test_what_only_full_members_judge_makes_it_one_of_them_in_a_later_epoch_as_well(scene: Scene) -> None:
    """Where the tree of the Welcome is says nothing about a later epoch: a member that answers uploads that."""
    scene.act(scene.alice)
    await scene.agree()
    assert scene.carol.room.partial
    scene.world.web.clear()
    scene.act(scene.alice, scene.policy_change())
    await until(lambda: scene.carol.room.is_member)
    await scene.agree()
    assert scene.carol.room.policy.max_devices == 7
    assert len(scene.world.web) == 1


async def test_a_member_that_says_that_the_tree_is_elsewhere_keeps_nobody_out(scene: Scene) -> None:
    """Any member can name a place: the next one that is named is tried, and none is believed for ever."""
    scene.act(scene.alice)
    await scene.agree()
    await until(lambda: scene.bob.room.epoch == scene.epoch)
    scene.world.web.clear()
    group, elsewhere = scene.bob.room.group.mls, scene.world.upload(b"a tree, says Bob")
    scene.world.web.clear()
    lie = seal_annotations(AnnotationKey(group), AnnotationsContent((), None, None, (), elsewhere.encode()))
    show, lied = scene.world.room.show, list[bool]()

    def shown(payload: Any, account: str | None) -> None:
        show(payload, account)
        if isinstance(payload, AnnotationRequest):  # before Alice
            lied.append(True)
            show(lie, BOB)

    scene.monkeypatch.setattr(scene.world.room, "show", shown)
    scene.monkeypatch.setattr(whole_tree, "_MISSING_AFTER", 1000)
    scene.act(scene.alice, scene.policy_change())
    await until(lambda: scene.carol.room.is_member)
    await scene.agree()
    assert lied
    assert "failed" in [event.stage for event in scene.carol.got("mls_whole_tree")]
    assert not scene.carol.got("mls_rejoining")


async def test_trees_are_not_uploaded_as_often_as_members_like(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, annotator = scene.alice.room.worker.annotations, scene.alice.room.group.annotator
    encoded, now, places = list[int](), scene.world.now, len(scene.world.web)

    def asking(*accounts: str) -> None:
        monkeypatch.setattr(annotator, "asking_for_tree", lambda epoch: frozenset(accounts))

    def tree(epoch: int) -> bytes:
        encoded.append(epoch)
        return b"a tree"

    monkeypatch.setattr(annotator, "tree_of", tree)
    asking(BOB)
    found = [await exchange._upload(epoch) is not None for epoch in range(12)]
    assert found == [True] * 6 + [False] * 6  # he has no more of them, whatever he asks for
    assert len(scene.world.web) == places + len(encoded) == places + 6  # for those, no tree of thousands is written
    asking(BOB, CAROL)
    assert await exchange._upload(12) is not None
    assert await exchange._upload(13) is None
    for number in range(5):
        asking(f"guest{number}@g.example")
        assert await exchange._upload(14 + number) is not None
    asking(DAVE)
    assert await exchange._upload(20) is None
    monkeypatch.setattr(scene.world, "now", now + 3600)
    assert await exchange._upload(20) is not None


async def test_a_change_that_we_want_needs_the_tree(scene: Scene) -> None:
    scene.act(scene.alice)
    await scene.agree()
    scene.world.web.clear()
    update = scene.carol.context.tasks.spawn(scene.carol.room.update(), "updating")
    await until(lambda: scene.world.room.in_flight)
    assert scene.carol.room.is_member
    scene.world.room.deliver_all()
    await update
    await scene.agree()


async def test_when_nobody_answers_any_more_it_asks_to_be_added_and_keeps_its_state(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server, or a member, that is silent proves nothing: the state stays (``evidence``)."""
    monkeypatch.setattr(annotation_exchange, "_ANSWERED_AFTER", 0.05)
    monkeypatch.setattr(annotation_exchange, "_ROUNDS", 2)
    scene.act(scene.alice)
    await scene.agree()
    scene.alice.room.group.annotator.active = False
    scene.act(scene.bob)
    await until(lambda: scene.carol.got("mls_rejoining") and scene.world.room.in_flight)
    assert scene.carol.room.partial
    scene.epoch += 1
    scene.world.room.deliver_all()  # her request, with proof of return
    await until(lambda: scene.world.room.in_flight)
    scene.world.room.deliver_all()  # a Commit by a member
    await scene.agree()


async def test_two_that_answer_say_it_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(world, monkeypatch, answering=(ALICE, BOB))
    await scene.enter()
    scene.act(scene.alice)
    await scene.agree()
    assert scene.carol.room.partial
    await until(lambda: not scene.bob.room.worker.annotations._answering)
    await until(lambda: not scene.alice.room.worker.annotations._answering)
    assert len(scene.shown(Annotations)) == 1
    for bot in (scene.alice, scene.bob, scene.carol):
        bot.rooms.close()


async def test_who_is_out_of_the_room_asks_when_it_is_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_exchange, "_OUTSIDE", 0.01)
    scene.world.web.clear()
    send, refused = scene.carol.muc.send_live, list[str]()

    async def send_live(elements: Sequence[Any], *, message_id: str) -> None:
        if len(refused) < 3:
            refused.append(message_id)
            raise Disconnected("not in the room at the moment, says the test")
        await send(elements, message_id=message_id)

    monkeypatch.setattr(scene.carol.muc, "send_live", send_live)
    scene.act(scene.alice)
    await scene.agree()
    assert len(refused) == 3
    assert scene.carol.room.partial


async def test_occupants_that_are_no_members_are_not_answered(scene: Scene) -> None:
    payload = AnnotationRequest(scene.alice.room.group.mls.group_id, scene.alice.room.epoch, b"garbage")
    answer = Annotations(payload.group, payload.epoch, b"garbage")
    for account in ("stranger@s.example", None, BOB):
        scene.world.room.show(payload, account)
        scene.world.room.show(answer, account)
    scene.act(scene.alice)
    await scene.agree()
    assert not scene.alice.failures + scene.carol.failures


async def test_a_member_that_is_added_is_read_when_it_speaks(scene: Scene) -> None:
    scene.world.web.clear()
    dave = scene.world.person(DAVE)
    found = scene.world.directory.find(DAVE, scene.alice.room.group, scene.world.now)
    scene.act(scene.alice, *(Add(package.key_package) for package in found.values()))
    await scene.agree()
    dave.read()
    assert DAVE not in scene.carol.room.accounts
    dave.send(seal_body("Hail", DAVE, scene.world.room.jid, float(scene.world.now)))
    scene.world.room.deliver_all()
    await until(lambda: scene.carol.texts == ["Hail"])
    assert DAVE in scene.carol.room.accounts


@pytest.mark.parametrize("answer", ["denied", "unknown"])
async def test_the_name_of_who_speaks_is_asked_about(scene: Scene, answer: str) -> None:
    """mls, "Staying Partial": a proof shows whose key has signed, and not that the name beside it is right."""
    getattr(scene.carol.service, answer).add(scene.bob.device.identity)
    scene.say(scene.bob, "I am the thane")
    scene.say(scene.alice, "Hail")
    await until(lambda: scene.carol.texts[-1:] == ["Hail"])
    name = "mls_doubted_message" if answer == "denied" else "mls_message"
    doubted = scene.carol.got(name)[0]
    assert doubted.body == "I am the thane"
    assert doubted.doubt.denied == (answer == "denied")
    assert scene.carol.room.doubts == (doubted.doubt,)
    assert scene.carol.got("mls_message")[-1].doubt is None
    assert scene.carol.room.partial
    # It is asked again after a while, or when there is another key.
    getattr(scene.carol.service, answer).clear()
    scene.say(scene.bob, "still")
    await until(lambda: scene.carol.got(name)[-1].body == "still")
    scene.monkeypatch.setattr(scene.world, "now", scene.world.now + 300)
    scene.say(scene.bob, "Bob again")
    await until(lambda: scene.carol.texts[-1:] == ["Bob again"])
    assert scene.carol.got("mls_message")[-1].doubt is None
    assert scene.carol.room.doubts == ()
