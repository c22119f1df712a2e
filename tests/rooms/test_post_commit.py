"""What follows our Commits outside of the group: it is done once the server has answered, and not forgotten before."""

from __future__ import annotations

import pytest
from slixmpp import JID

from slixmpp_mls.client import GroupChanged
from slixmpp_mls.delivery.affiliations import Affiliation
from slixmpp_mls.errors import Disconnected, NoAnswer, NotPermitted, Refused
from slixmpp_mls.rooms.engine import post_commit
from slixmpp_mls.rooms.engine.post_commit import PostCommit
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, CAROL, DAVE, three
from .people import Office, Parts, soon, until


class Alice(Parts):
    """The member that commits."""

    def __init__(self, person: Participant, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(person)
        self.office = Office(self.muc, monkeypatch)
        self.post_commit = PostCommit(self.parts)
        self.group.lifecycle.done([action.key for action in self.group.post_commit_actions])  # those of the scene

    @property
    def owed(self) -> list[str]:
        return sorted(action.account for action in self.group.post_commit_actions)


def scene(monkeypatch: pytest.MonkeyPatch) -> tuple[World, Alice, Participant]:
    world, alice, bob, _ = three()
    world.person(DAVE)
    return world, Alice(alice, monkeypatch), bob


def change(world: World, alice: Alice, *, add: str = "", remove: str = "") -> None:
    alice.person.commit(*(alice.person.adding(add) if add else alice.person.removing(remove)))
    world.settle()


async def test_an_invitation_is_done_when_our_server_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, _ = scene(monkeypatch)
    change(world, alice, add=DAVE)
    assert alice.owed == [DAVE]
    alice.office.errors.append(Disconnected("no stream"))
    await alice.post_commit.complete()  # put off, and no exception
    assert (alice.office.invited, alice.owed) == ([DAVE], [DAVE])
    await alice.post_commit.complete()
    assert (alice.office.invited, alice.owed) == ([DAVE, DAVE], [])
    await alice.post_commit.complete()
    assert len(alice.office.invited) == 2


async def test_nobody_is_invited_who_has_been_removed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, bob = scene(monkeypatch)
    change(world, alice, add=DAVE)
    bob.commit(*bob.removing(DAVE))
    world.settle()
    await alice.post_commit.complete()
    assert (alice.office.invited, alice.owed) == ([], [])


async def test_an_affiliation_is_revoked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, _ = scene(monkeypatch)
    alice.office.listed = {ALICE: "owner", BOB: "member", CAROL: "member"}
    change(world, alice, remove=CAROL)
    alice.office.errors.append(NoAnswer("the room is silent"))
    await alice.post_commit.complete()
    assert (alice.office.listed[CAROL], alice.owed) == ("member", [CAROL])
    await alice.post_commit.complete()
    assert alice.office.listed == {ALICE: "owner", BOB: "member", CAROL: "none"}
    assert alice.owed == []


@pytest.mark.parametrize("error", [NotPermitted("only an owner"), Refused("coven@rooms.example", "conflict", "no")])
async def test_what_the_room_refuses_for_good_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Refused | NotPermitted
) -> None:
    world, alice, _ = scene(monkeypatch)
    alice.office.listed = {CAROL: "member"}
    change(world, alice, remove=CAROL)
    alice.office.errors.append(error)
    await alice.post_commit.complete()
    assert (alice.office.listed[CAROL], alice.owed) == ("member", [])


async def test_a_ban_is_not_lifted_and_who_is_back_keeps_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    world, alice, bob = scene(monkeypatch)
    alice.office.listed = {CAROL: "outcast"}
    change(world, alice, remove=CAROL)
    await alice.post_commit.complete()
    assert (alice.office.listed, alice.owed) == ({CAROL: "outcast"}, [])
    change(world, alice, add=DAVE)
    alice.office.listed[DAVE] = "member"
    await alice.post_commit.complete()
    change(world, alice, remove=DAVE)
    bob.commit(*bob.adding(DAVE))
    world.settle()
    await alice.post_commit.complete()
    assert (alice.office.listed[DAVE], alice.owed) == ("member", [])


async def test_nobody_loses_the_room_whom_the_rest_of_the_archive_brings_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """We have removed her and lost the connection; bob has let her in again long before we read our own Commit."""
    world, alice, bob = scene(monkeypatch)
    alice.office.listed = {ALICE: "owner", BOB: "admin", CAROL: "member"}
    alice.progress.live.clear()
    change(world, alice, remove=CAROL)
    await alice.post_commit.complete()
    assert (alice.office.listed[CAROL], alice.owed) == ("member", [CAROL])
    bob.commit(*bob.adding(CAROL))
    world.settle()
    alice.progress.live.set()
    await alice.post_commit.complete()
    assert (alice.office.listed[CAROL], alice.owed) == ("member", [])
    change(world, alice, remove=CAROL)
    await alice.post_commit.complete()
    assert (alice.office.listed[CAROL], alice.owed) == ("none", [])


@pytest.mark.parametrize("reads", ["before", "after"])
async def test_a_revocation_that_meets_another_administrators_addition_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    """Bob still finds carol in the room's list, so he does not let her in, while alice's revocation is on its way."""
    world, alice, bob = scene(monkeypatch)
    alice.office.listed = {ALICE: "owner", BOB: "admin", CAROL: "member"}
    change(world, alice, remove=CAROL)
    seen = len(alice.person.events)

    def read() -> None:
        """What the engine does with the events."""
        world.settle()
        for event in alice.person.events[seen:]:
            if isinstance(event, GroupChanged) and event.by.account == BOB:
                alice.post_commit.changed(event)

    revoke = alice.office.set

    async def late(account: str, affiliation: Affiliation, reason: str | None = None) -> None:
        if affiliation == "none":
            bob.commit(*bob.adding(CAROL))
            if reads == "before":
                read()
        await revoke(account, affiliation)
        if affiliation == "none":
            del alice.office.listed[account]

    monkeypatch.setattr(alice.muc.affiliations, "set", late)
    await alice.post_commit.complete()
    if reads == "after":
        assert CAROL not in alice.office.listed
        read()
        await until(lambda: CAROL in alice.office.listed)
    assert alice.office.listed == {ALICE: "owner", BOB: "admin", CAROL: "member"}
    assert alice.group.roster.has(CAROL)
    assert alice.post_commit.came_lately(CAROL)
    await until(lambda: alice.office.invited)  # she is listed first
    assert alice.office.invited == [CAROL]
    # A human who shuts her out now is not contradicted.
    del alice.office.listed[CAROL]
    read()
    await soon()
    assert CAROL not in alice.office.listed
    assert not alice.failures


@pytest.mark.parametrize("why", ["who has added her is no administrator", "she is banned", "it was long ago"])
async def test_a_revocation_stands(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """By the policy everybody may add people here; the room is alice's."""
    world = World()
    administrators = (ALICE,) if why == "who has added her is no administrator" else (ALICE, BOB)
    person, bob, _ = world.group(ALICE, BOB, CAROL, policy=world.open_policy(*administrators))
    alice = Alice(person, monkeypatch)
    alice.office.listed = {ALICE: "owner", BOB: "member", CAROL: "member"}
    change(world, alice, remove=CAROL)
    await alice.post_commit.complete()
    assert alice.office.listed.pop(CAROL) == "none"
    before = dict(alice.office.listed)
    if why == "she is banned":
        alice.office.listed[CAROL] = before[CAROL] = "outcast"
    if why == "it was long ago":
        monkeypatch.setattr(post_commit, "_OVERLOOKED", 0.0)
    seen = len(alice.person.events)
    bob.commit(*bob.adding(CAROL))
    world.settle()
    (event,) = [each for each in alice.person.events[seen:] if isinstance(each, GroupChanged)]
    alice.post_commit.changed(event)
    await soon()
    assert alice.office.listed == before


async def test_an_addition_before_the_removal_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob, an administrator, has added dave; alice removes him; carol, who is none, adds him again at once."""
    world = World()
    person, bob, carol = world.group(ALICE, BOB, CAROL, policy=world.open_policy(ALICE, BOB))
    world.person(DAVE)
    alice = Alice(person, monkeypatch)
    alice.office.listed = {ALICE: "owner", BOB: "admin", CAROL: "member", DAVE: "member"}
    seen = len(person.events)

    def read() -> None:
        """What the engine does with the events."""
        nonlocal seen
        world.settle()
        for event in person.events[seen:]:
            if isinstance(event, GroupChanged):
                alice.post_commit.changed(event)
        seen = len(person.events)

    bob.commit(*bob.adding(DAVE))
    read()
    assert alice.post_commit.came_lately(DAVE)
    person.commit(*person.removing(DAVE))
    read()
    revoke = alice.office.set

    async def late(account: str, affiliation: Affiliation, reason: str | None = None) -> None:
        await revoke(account, affiliation)
        if affiliation == "none":
            del alice.office.listed[account]
            carol.commit(*carol.adding(DAVE))
            read()

    monkeypatch.setattr(alice.muc.affiliations, "set", late)
    await alice.post_commit.complete()
    await soon()
    assert alice.group.roster.has(DAVE)
    assert alice.office.listed == {ALICE: "owner", BOB: "admin", CAROL: "member"}
    assert alice.office.invited == []


async def test_a_room_that_shows_no_lists_keeps_no_other_action_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lists are refused just when an affiliation is to be granted again: ranks are changed all the same."""
    world, alice, bob = scene(monkeypatch)
    alice.office.listed = {ALICE: "owner", BOB: "admin", CAROL: "member"}
    change(world, alice, remove=CAROL)
    refused = 0

    async def none() -> dict[JID, Affiliation]:
        nonlocal refused
        refused += 1
        raise NotPermitted("no lists")

    async def late(account: str, affiliation: Affiliation, reason: str | None = None) -> None:
        bob.commit(*bob.adding(CAROL))
        seen = len(alice.person.events)
        world.settle()
        for event in alice.person.events[seen:]:
            if isinstance(event, GroupChanged):
                alice.post_commit.changed(event)
        monkeypatch.setattr(alice.muc.affiliations, "all", none)

    monkeypatch.setattr(alice.muc.affiliations, "set", late)
    ranks: list[object] = []

    async def change_rank(owed: list[object]) -> None:
        ranks.append(owed)

    monkeypatch.setattr(alice.post_commit, "_change_rank", change_rank)
    await alice.post_commit.complete()
    assert refused
    assert ranks
