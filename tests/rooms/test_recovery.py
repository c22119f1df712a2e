"""Finding out where the group is: who asks is answered, whoever else asks at the same moment."""

from __future__ import annotations

from typing import Any

import pytest
from slixmpp import JID

from slixmpp_mls.client.group.certainty import ANSWERS, UnsureReason
from slixmpp_mls.delivery.occupancy import Occupant
from slixmpp_mls.rooms.engine import recovery
from slixmpp_mls.rooms.engine.committer import Committer
from slixmpp_mls.rooms.engine.recovery import Recovery
from slixmpp_mls.rooms.engine.rejoin import Rejoiner
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.stanza.elements import Answer, Inquiry
from slixmpp_mls.testing import Participant

from ..client.people import three
from .people import Parts, until


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


async def test_two_that_ask_at_the_same_moment_are_both_answered() -> None:
    """The answer to the one does not show to whom it is: it must not silence whoever would answer the other."""
    world, *people = three()
    alice, bob, carol = members = [Member(person) for person in people]
    for place, member in enumerate(members):
        member.committer.place = lambda place=place: place  # type: ignore[method-assign, misc]  # alice's answer first
        for other in people:
            nick = JID(other.account).local
            member.muc._occupancy.occupants[nick] = Occupant(nick, JID(other.account), "member", "participant")
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


async def test_inquiries_that_no_member_has_signed_silence_nobody() -> None:
    """mls-recovery, "Not Being Sure": as many of an occupant's as there are places leave a member's its answer."""
    world, *people = three()
    alice, bob, _ = (Member(person) for person in people)
    for member in (alice, bob):
        for other in people:
            nick = JID(other.account).local
            member.muc._occupancy.occupants[nick] = Occupant(nick, JID(other.account), "member", "participant")
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
