"""Finding out where the group is: who asks is answered, whoever else asks at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest
from slixmpp import JID

from slixmpp_mls.client.group import certainty
from slixmpp_mls.client.group.certainty import ANSWERS, UnsureReason
from slixmpp_mls.delivery.archive import Page
from slixmpp_mls.delivery.occupancy import Occupant
from slixmpp_mls.rooms.engine import recovery
from slixmpp_mls.rooms.engine.committer import Committer
from slixmpp_mls.rooms.engine.recovery import Recovery
from slixmpp_mls.rooms.engine.rejoin import Rejoiner
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.stanza.elements import Answer, Commit, GroupInfo, Inquiry
from slixmpp_mls.testing import Participant

from ..client.people import BOB, DAVE, three
from ..client.test_certainty import ask, hear
from ..client.test_group_infos import missed_removal, ruled
from .people import SECONDS, Parts, until


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_SPREAD", 0.0)


class Member(Parts):
    """A member that finds out by itself."""

    def __init__(self, person: Participant, **settings: Any) -> None:
        super().__init__(person, **settings)
        transmitter = Transmitter(self.parts, lambda *refused: None)
        self.committer = committer = Committer(self.parts, transmitter)
        rejoiner = Rejoiner(self.parts, transmitter)
        self.recovery = Recovery(self.parts, committer, transmitter, rejoiner, lambda events: None, lambda: None)
        self.read_to = len(self.world.room.archive())

    def read(self) -> None:
        for incoming in self.world.room.archive()[self.read_to :]:
            self.read_to += 1
            step = self.group.processing.examine(incoming, self.world.now)
            self.group.applying.accept(step, self.world.now)
            self.recovery.stanzas_read(self.muc.stanza(incoming), step)
        self.progress.notify()


def meet(people: Iterable[Participant], *members: Member) -> None:
    """These people are in the room, as these members see it."""
    for member in members:
        for other in people:
            nick = JID(other.account).local
            member.muc._occupancy.occupants[nick] = Occupant(nick, JID(other.account), "member", "participant")


async def test_two_that_ask_at_the_same_moment_are_both_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the one does not show to whom it is: it must not silence whoever would answer the other."""
    world, *people = three()
    alice, bob, carol = members = [Member(person) for person in people]
    for place, member in enumerate(members):
        monkeypatch.setattr(member.committer, "place", lambda _, place=place: place)  # alice's answer first
    meet(people, *members)
    for asking in (alice, bob):
        with asking.group.room_state.change() as change:
            asking.group.certainty.note(change, UnsureReason.UNDECRYPTABLE, world.now)
        asking.recovery.news()
    await until(lambda: len(world.room.in_flight) == 2)
    world.room.deliver_all()

    def settled() -> bool:
        world.room.deliver_all()
        for member in members:
            member.read()
        return not (alice.group.holds or bob.group.holds)

    await until(settled)
    assert not world.room.in_flight
    assert {member.group.mls.epoch for member in members} == {1}
    assert carol.failures == []


async def test_an_answer_is_read_together_with_the_inquiry() -> None:
    """As by a member that was busy when they came: it has nothing to say, and nothing fails."""
    world, *people = three()
    alice, bob, carol = members = [Member(person) for person in people]
    meet(people, *members)
    with alice.group.room_state.change() as change:
        alice.group.certainty.note(change, UnsureReason.UNDECRYPTABLE, world.now)
    alice.recovery.news()
    await until(lambda: world.room.in_flight)
    world.room.deliver_all()
    bob.read()
    await until(lambda: world.room.in_flight)
    world.room.deliver_all()
    carol.read()
    await until(lambda: not carol.recovery._answering)
    assert carol.failures == []
    alice.read()
    assert not alice.group.holds
    assert not world.room.in_flight


async def test_inquiries_that_no_member_has_signed_silence_nobody() -> None:
    """mls-recovery, "Not Being Sure": as many of an occupant's as there are places leave a member's its answer."""
    world, *people = three()
    alice, bob, _ = (Member(person) for person in people)
    meet(people, alice, bob)
    with alice.group.room_state.change() as change:
        alice.group.certainty.note(change, UnsureReason.UNDECRYPTABLE, world.now)
    alice.recovery.news()
    await until(lambda: len(world.room.in_flight) == 1)
    for number in range(2 * ANSWERS):
        inquiry = Inquiry(b"no such group" if number % 2 else alice.group.mls.group_id, 0, b"garbage")
        world.room.post([inquiry], "mallory@m.example")

    def settled() -> bool:
        world.room.deliver_all()
        bob.read()
        alice.read()
        return not alice.group.holds

    await until(settled)
    payloads = [payload for each in world.room.archive() for payload in each.payloads]
    assert len([each for each in payloads if isinstance(each, Answer)]) == 1
    assert len([each for each in payloads if isinstance(each, Inquiry)]) == 2 * ANSWERS + 1  # it asked once


async def test_old_inquiries_of_a_member_keep_nobody_from_answering_it() -> None:
    """Somebody has kept them, and posts them again; whoever was restarted does not know that it has answered them."""
    world, *people = three()
    alice, bob, _ = (Member(person) for person in people)
    meet(people, alice, bob)
    for _ in range(5):
        world.room.post(bob.group.certainty.inquire(world.now), BOB)
    with bob.group.room_state.change() as change:
        bob.group.certainty.note(change, UnsureReason.UNDECRYPTABLE, world.now)
    bob.recovery.news()
    await until(lambda: len(world.room.in_flight) == 6)

    def settled() -> bool:
        world.room.deliver_all()
        alice.read()
        bob.read()
        return not bob.group.holds

    await until(settled)
    answers = [each for stanza in world.room.archive() for each in stanza.payloads if isinstance(each, Answer)]
    assert len(answers) == 1


async def test_no_occupant_silences_members_by_answers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    world, *people = three()
    alice, bob, _ = (Member(person) for person in people)
    meet(people, alice, bob)
    with bob.group.room_state.change() as change:
        bob.group.certainty.note(change, UnsureReason.UNDECRYPTABLE, world.now)
    bob.recovery.news()
    await until(lambda: len(world.room.in_flight) == 1)
    monkeypatch.setattr(alice.committer, "place", lambda _: 2)
    world.room.deliver_all()
    world.room.post([Answer(bob.group.mls.group_id, 99, b"garbage")], "mallory@m.example")

    def settled() -> bool:
        world.room.deliver_all()
        alice.read()
        bob.read()
        return not bob.group.holds

    await until(settled)


async def test_a_member_without_rights_silences_the_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """mls-recovery, "Not Being Sure": who asks again was not helped, so the same account's answer does not count."""
    monkeypatch.setattr(recovery, "_ANSWER_ARRIVES", SECONDS)
    world, alice, bob, carol = ruled()
    world.people.remove(alice)  # who has all rights, and would answer in any case
    dave = world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    alice.read()
    asking, honest = Member(bob), Member(carol)
    meet((bob, carol, dave), asking, honest)
    monkeypatch.setattr(honest.committer, "place", lambda _: 1)
    with bob.group.room_state.change() as change:
        bob.group.certainty.note(change, UnsureReason.UNDECRYPTABLE, world.now)
    seen, ask_once = 0, asking.recovery._ask_once

    async def ask_again() -> bool:
        if seen:
            return await ask_once()
        await asking.recovery._transmitter.transmit(bob.group.certainty.inquire(world.now))
        await until(lambda: asking.recovery._answers)  # the time for an answer is over when dave's has been read
        return False

    monkeypatch.setattr(asking.recovery, "_ask_once", ask_again)
    asking.recovery.news()

    def settled() -> bool:
        nonlocal seen
        world.room.deliver_all()
        inquiries = sum(isinstance(payload, Inquiry) for each in world.room.archive() for payload in each.payloads)
        while seen < inquiries:  # dave is always the first to answer
            seen += 1
            world.room.post([Answer(bob.group.mls.group_id, bob.group.mls.epoch, b"garbage")], DAVE)
            world.room.deliver_all()
        honest.read()
        asking.read()
        return not bob.group.holds

    await until(settled)
    answered = [each.claimed for each in world.room.archive() for one in each.payloads if isinstance(one, Answer)]
    assert answered == [DAVE, DAVE, carol.account]
    assert seen == 2


async def test_a_state_that_nobody_proves_is_asked_about_until_somebody_comes_who_proves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """mls-recovery, "Not Being Sure": until then nothing is sent."""
    monkeypatch.setattr(recovery, "_ANSWER_ARRIVES", 0.3)
    monkeypatch.setattr(recovery, "_ASK_AGAIN", (2.0,))
    monkeypatch.setattr(recovery, "_LOOK", 0.05)
    # Alice may have answered the first inquiry when the second one comes, and this world's clock stands still.
    monkeypatch.setattr(certainty, "ANSWER_PAUSE", 0)
    world, alice, bob, carol = missed_removal()
    asking, answering, admin = (Member(person) for person in (bob, carol, alice))
    meet((bob, carol), asking, answering)
    bob.keep(b"for the group without dave")
    hear(bob, *ask(bob, carol))
    assert bob.group.certainty.contested
    asking.recovery.news()

    def goes_on(*members: Member) -> None:
        world.room.deliver_all()
        for member in members:
            member.read()

    for _ in range(50):  # longer than it waits for an answer
        await asyncio.sleep(0.02)
        goes_on(asking, answering)
    assert bob.group.holds
    assert not bob.group.returning
    assert bob.resend() == []
    meet((alice, bob, carol), asking, admin)

    def returning() -> bool:
        goes_on(asking, answering, admin)
        return bob.group.returning

    await until(returning)
    door = bob.group.certainty.proving_info
    assert door is not None
    assert door.epoch == alice.epoch


async def test_a_commit_that_our_reader_is_about_to_take_is_no_way_back() -> None:
    """The archive shows it, with its GroupInfo, before our own reader has got to it: it leads us on as any other."""
    world, *people = three()
    alice, bob, _ = people
    member = Member(bob)
    with bob.group.room_state.change() as change:
        bob.group.certainty.note(change, UnsureReason.UNDECRYPTABLE, world.now)
    alice.commit()
    world.room.deliver_all()  # on its way to bob
    alice.read()
    assert any(isinstance(each, GroupInfo) for each in world.room.archive()[-1].payloads)
    looked = asyncio.Event()
    pages = member.muc.archive.pages_backwards

    async def pages_backwards(limit: int) -> AsyncGenerator[Page, None]:
        async for page in pages(limit):
            yield page
        looked.set()

    member.muc.archive.pages_backwards = pages_backwards  # type: ignore[method-assign]
    member.recovery.news()
    async with asyncio.timeout(SECONDS):
        await looked.wait()
    for _ in range(20):
        await asyncio.sleep(0)  # what it makes of that
    assert not bob.group.returning
    member.read()
    await until(lambda: not bob.group.holds)
    assert bob.epoch == alice.epoch
    assert bob.group.mls.epoch_authenticator == alice.group.mls.epoch_authenticator
    assert not bob.group.external_commits.waits
    commits = [each for stanza in world.room.archive() for each in stanza.payloads if isinstance(each, Commit)]
    assert len(commits) == alice.epoch  # none of bob's
    assert member.failures == []
