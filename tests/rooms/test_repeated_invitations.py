"""Invitations are repeated, a bounded number of times, until the account has joined (XEP section Being Invited)."""

from __future__ import annotations

import pytest
from slixmpp import JID

from slixmpp_mls.client.storage.records import InvitedRecord
from slixmpp_mls.delivery import Occupant
from slixmpp_mls.errors import Disconnected
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.rooms.engine.post_commit import PostCommit
from slixmpp_mls.rooms.engine.repeated_invitations import MOST, PAUSES, RepeatedInvitations
from slixmpp_mls.testing import Participant, World

from ..client.people import BOB, CAROL, DAVE, three
from .people import Office, Parts, soon


class Alice(Parts):
    """The member that has added Dave."""

    def __init__(self, person: Participant, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(person)
        self.office = Office(self.muc, monkeypatch)
        self.post_commit = PostCommit(self.parts)
        self.invitations = RepeatedInvitations(self.parts)

    @property
    def invited(self) -> dict[str, InvitedRecord]:
        return self.group.post_commit_actions.invited


async def scene(monkeypatch: pytest.MonkeyPatch) -> tuple[World, Alice, Participant, Participant]:
    world, first, bob, _ = three()
    dave = world.person(DAVE)
    world.people.remove(dave)  # it knows of nothing
    alice = Alice(first, monkeypatch)
    alice.person.commit(*alice.person.adding(DAVE))
    world.settle()
    await alice.post_commit.complete()
    for account in (BOB, CAROL):
        alice.invitations.seen(account)
    alice.office.invited.clear()
    assert list(alice.invited) == [DAVE]
    assert not alice.group.post_commit_actions  # nothing is to be done now
    return world, alice, bob, dave


async def test_by_time_with_growing_pauses_and_never_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, *_ = await scene(monkeypatch)
    monkeypatch.setattr(RepeatedInvitations, "_may_join", lambda *_: True)  # for ever
    for number in range(MOST):
        pause = PAUSES[min(number, len(PAUSES) - 1)]
        world.now += pause - 1
        await alice.invitations.repeat_due()
        assert len(alice.office.invited) == number
        world.now += 1
        await alice.invitations.repeat_due()
        await alice.invitations.repeat_due()
        assert alice.office.invited == [DAVE] * (number + 1)
    world.now += 365 * DAY
    await alice.invitations.repeat_due()
    alice.invitations.came_online(DAVE)
    await soon()
    assert alice.office.invited == [DAVE] * MOST
    assert not alice.invited


async def test_when_the_account_comes_online_but_not_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, *_ = await scene(monkeypatch)
    for _ in range(20):  # presence that comes and goes
        alice.invitations.came_online(DAVE)
        alice.invitations.came_online("stranger@example.org")
        await soon()
    assert alice.office.invited == [DAVE]
    world.now += 600
    alice.invitations.came_online(DAVE)
    await soon()
    assert alice.office.invited == [DAVE] * 2


async def test_it_outlasts_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, *_ = await scene(monkeypatch)
    before = alice.invited
    alice.person.restart()
    again = Alice(alice.person, monkeypatch)
    assert again.invited == before
    assert before[DAVE].after.decode() == world.room.archive()[-2].archive_id
    world.now += PAUSES[0]
    await again.invitations.repeat_due()
    assert again.office.invited == [DAVE]


@pytest.mark.parametrize("how", ["in the room", "it says something", "its keys are old", "it is removed"])
async def test_it_ends(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """XEP-0045 7.2.3 (occupants' addresses), RFC 9420 7.2 (lifetime): nobody is invited in vain for ever."""
    world, alice, bob, dave = await scene(monkeypatch)
    if how == "in the room":
        occupant = Occupant("dave", JID(DAVE), "member", "participant")
        monkeypatch.setattr(type(alice.muc), "occupants", {"dave": occupant})
    elif how == "it says something":
        world.people.append(dave)
        world.settle()
        dave.commit()  # which renews its leaf
        world.settle()
    elif how == "its keys are old":
        world.now += 90 * DAY + HOUR
    else:
        bob.commit(*bob.removing(DAVE))
        world.settle()
    world.now += PAUSES[0]
    await alice.invitations.repeat_due()
    alice.invitations.came_online(DAVE)
    await soon()
    assert (alice.office.invited, alice.invited) == ([], {})


async def test_a_repetition_that_fails_counts_and_one_while_we_read_does_not_happen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, alice, *_ = await scene(monkeypatch)
    alice.progress.live.clear()
    world.now += PAUSES[0]
    await alice.invitations.repeat_due()
    alice.invitations.came_online(DAVE)
    await soon()
    assert not alice.office.invited
    alice.progress.live.set()
    alice.office.errors.append(Disconnected("no stream"))
    await alice.invitations.repeat_due()  # no exception
    await alice.invitations.repeat_due()
    assert alice.invited[DAVE].repeated == 1
