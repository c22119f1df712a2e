"""Adding and removing accounts: the room's list comes before the Commit of an Add, and follows that of a Remove."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from slixmpp_mls.client import CommitLost, GroupChanged, JoinRequested, KeyPackageSettings, Outgoing
from slixmpp_mls.client.storage.post_commit_actions import OpenSuite
from slixmpp_mls.errors import NotPermitted, Refused, UsageError
from slixmpp_mls.key_packages.publication import Publication
from slixmpp_mls.mls.group.commit_creation import CommitDraft
from slixmpp_mls.mls.structures.proposals import AnyProposal
from slixmpp_mls.policy import Right
from slixmpp_mls.rooms.engine import committer
from slixmpp_mls.rooms.engine.committer import CommitsLost, Committer
from slixmpp_mls.rooms.engine.post_commit import PostCommit
from slixmpp_mls.rooms.engine.transmitter import Transmitter
from slixmpp_mls.rooms.membership import MembershipChanges
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, CAROL, DAVE, again, put_outside
from ..services import Client
from .people import Bot, Office, Parts, soon, until

T = TypeVar("T")


class Member(Parts):
    """A member whose changes are tested."""

    def __init__(self, person: Participant, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(person)
        self.office = Office(self.muc, monkeypatch)
        self.transmitter = Transmitter(self.parts, lambda *refused: None)
        self.committer = Committer(self.parts, self.transmitter)
        self.membership = MembershipChanges(self.parts, self.committer, PostCommit(self.parts))
        self.group.lifecycle.done([action.key for action in self.group.post_commit_actions])  # those of the scene

    async def finish(self, work: Awaitable[T]) -> T:
        """Deliver what is sent, until the work has ended."""
        task = asyncio.ensure_future(work)

        def done() -> bool:
            before = len(self.person.events)
            self.world.settle()
            for event in self.person.events[before:]:
                if isinstance(event, CommitLost) or (
                    isinstance(event, GroupChanged) and event.by.account == self.person.account
                ):
                    self.committer.resolve(event)
            self.progress.notify()
            return task.done()

        await until(done)
        return await task


async def scene(monkeypatch: pytest.MonkeyPatch, *members: str, **rights: Any) -> Member:
    """Alice has a group with these members; Carol and Dave have published KeyPackages."""
    world = World()
    people = world.group(ALICE, *members, policy=replace(world.open_policy(ALICE), **rights))
    alice = Member(people[0], monkeypatch)
    for account in {CAROL, DAVE} - {*members}:
        await Publication(Client(world.person(account), alice).context).replenish()
    alice.office.listed = {ALICE: "owner", **dict.fromkeys(members, "member")}
    return alice


async def test_an_added_account_is_in_the_room_before_the_commit_and_invited_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice = await scene(monkeypatch, BOB)
    seen: list[str | None] = []
    transmit = alice.transmitter.transmit

    async def watched(outgoing: object) -> None:
        seen.append(alice.office.listed.get(CAROL))
        assert not alice.office.invited
        await transmit(outgoing)  # type: ignore[arg-type]

    monkeypatch.setattr(alice.transmitter, "transmit", watched)
    result = await alice.finish(alice.membership.add([CAROL]))
    assert seen == ["member"]
    assert ([member.account for member in result.added], result.failed, result.skipped) == ([CAROL], {}, {})
    assert alice.office.invited == [CAROL]
    assert alice.group.roster.has(CAROL)


async def test_an_account_that_cannot_be_added_is_named_and_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await scene(monkeypatch, BOB)
    alice.office.listed[CAROL] = "outcast"
    result = await alice.finish(alice.membership.add([CAROL, DAVE, "nobody@nowhere.example"]))
    assert [member.account for member in result.added] == [DAVE]
    assert result.failed.keys() == {CAROL, "nobody@nowhere.example"}
    assert "banned" in result.failed[CAROL]
    assert alice.office.listed[CAROL] == "outcast"  # no ban is lifted


async def test_an_account_that_the_room_does_not_take_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await scene(monkeypatch, BOB)
    alice.office.errors.append(Refused(alice.group.room, "conflict", "says the test"))
    result = await alice.finish(alice.membership.add([CAROL, DAVE]))
    (refused,) = result.failed
    assert {refused, *(member.account for member in result.added)} == {CAROL, DAVE}
    assert not alice.group.roster.has(refused)


async def test_a_grant_is_taken_back_if_the_commit_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await scene(monkeypatch, BOB)
    finish_commit = alice.group.sending.finish_commit

    def refused(*arguments: object, **options: object) -> object:
        raise NotPermitted("says the test")

    monkeypatch.setattr(alice.group.sending, "finish_commit", refused)
    with pytest.raises(NotPermitted, match="says the test"):
        await alice.finish(alice.membership.add([CAROL]))
    assert alice.office.listed[CAROL] == "none"
    monkeypatch.setattr(alice.group.sending, "finish_commit", finish_commit)
    assert len((await alice.finish(alice.membership.add([CAROL]))).added) == 1


async def asking(monkeypatch: pytest.MonkeyPatch) -> tuple[Member, Participant, JoinRequested]:
    """Alice; Carol, who has lost her store's group and published KeyPackages; her request, which proves nothing."""
    alice = await scene(monkeypatch, BOB, CAROL)
    carol = alice.world.people[2]
    await Publication(Client(carol, alice).context).replenish()
    device = carol.device.identity
    leaf = alice.group.encryption_key(device)
    return alice, carol, JoinRequested(alice.group.room, CAROL, device.device, "unproven", "1", leaf)


async def test_a_grant_replaces_the_leaf_that_was_there_when_the_device_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, carol, request = await asking(monkeypatch)
    result = await alice.finish(alice.membership.grant(request))
    assert [member.identity for member in result.added] == [carol.device.identity]
    assert alice.group.encryption_key(carol.device.identity) != request.leaf
    assert len(alice.group.roster) == 3


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_late_grant_leaves_alone_who_has_come_back(monkeypatch: pytest.MonkeyPatch, meanwhile: bool) -> None:
    """It can read what is said in this epoch; after a Commit that replaces its leaf, it could not."""
    alice, carol, request = await asking(monkeypatch)

    def comes_back() -> None:
        alice.person.commit(*alice.person.removing(CAROL), *again(alice.person, carol))
        alice.world.settle()

    if meanwhile:  # as the directory is read
        let_in = alice.membership._committer._progress.until_sure

        async def late() -> None:
            if alice.group.encryption_key(carol.device.identity) == request.leaf:
                comes_back()
            await let_in()

        monkeypatch.setattr(alice.progress, "until_sure", late)
    else:
        comes_back()
    epoch = alice.group.mls.epoch + meanwhile
    result = await alice.finish(alice.membership.grant(request))
    assert (result.added, list(result.failed)) == ((), [str(carol.device.identity)])
    assert alice.group.mls.epoch == epoch
    assert carol.group.mls.epoch_authenticator == alice.group.mls.epoch_authenticator


async def test_a_request_says_which_leaf_the_device_had(world: World) -> None:
    """Who had none then, and has one now, has come by another way."""
    alice, bob = world.group(ALICE, BOB)
    bob.commit()  # or it is replaced without asking, see rooms/engine/readmission.py
    world.settle()
    bot = Bot(alice)
    await bot.rooms.resume()
    await until(lambda: bot.room.live)
    bob.group.lifecycle.give_up("says the test")
    with bob.group.room_state.change() as change:
        change.put_return_keys(1, ())
    for person in (bob, world.person(CAROL)):
        person.read()
        world.now += 100
        if person is not bob:
            put_outside(person.group, group_id=alice.group.mls.group_id, suite=1, epoch=alice.group.mls.epoch, known=1)
        person.ask()
        world.settle()
    await until(lambda: len(bot.got("mls_join_requested")) == 2)
    request, stranger = bot.got("mls_join_requested")
    assert (request.reason, stranger.reason) == ("unproven", "stranger")
    assert request.leaf == alice.group.encryption_key(bob.device.identity) != b""
    assert stranger.leaf == b""
    bot.rooms.close()


async def test_without_the_right_nothing_is_asked_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await scene(monkeypatch, BOB, administrators=(BOB,), may_add=Right.ADMINISTRATORS)
    before = dict(alice.office.listed)
    with pytest.raises(NotPermitted):
        await alice.finish(alice.membership.add([CAROL]))
    assert (alice.office.listed, alice.muc.sent) == (before, [])


async def test_a_removed_member_loses_the_group_and_then_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await scene(monkeypatch, BOB, CAROL)
    result = await alice.finish(alice.membership.remove([CAROL, DAVE, "no address @"]))
    assert [member.account for member in result] == [CAROL]
    assert result.failed.keys() == {DAVE, "no address @"}
    assert alice.office.listed[CAROL] == "none"
    assert not alice.group.roster.has(CAROL)


async def test_no_commit_is_drafted_that_would_remove_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is refused after it was made has cost a ciphertext for each member that stays."""
    alice = await scene(monkeypatch, BOB, CAROL, DAVE)
    monkeypatch.setattr("slixmpp_mls.rooms.membership._AT_ONCE", 2)
    drafted: list[int] = []
    draft_commit = alice.group.sending.draft_commit

    def counted(proposals: Sequence[AnyProposal], now: int) -> CommitDraft:
        drafted.append(len(proposals))
        return draft_commit(proposals, now)

    monkeypatch.setattr(alice.group.sending, "draft_commit", counted)
    result = await alice.finish(alice.membership.remove([BOB, CAROL, DAVE]))
    assert {member.account for member in result} == {BOB, CAROL, DAVE}
    assert drafted == [2, 1]


@pytest.mark.parametrize("refused", [False, True], ids=["", "by the room"])
async def test_who_commits_faster_than_all_others_loses_the_room_first(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mls, "Removing People": it could make one Commit after another, so that nobody else's ever comes first."""
    monkeypatch.setattr(committer, "_COMMIT_ATTEMPTS", 2)
    alice = await scene(monkeypatch, BOB, CAROL)
    bob = next(person for person in alice.world.people if person.account == BOB)
    transmit, lost = alice.transmitter.transmit, []

    async def second(outgoing: Outgoing) -> None:
        if alice.office.listed[BOB] == "member":
            bob.commit()
            lost.append(outgoing)
        await transmit(outgoing)

    monkeypatch.setattr(alice.transmitter, "transmit", second)
    if refused:
        alice.office.errors = [NotPermitted("room", "forbidden", "says the test")]
        with pytest.raises(CommitsLost):
            await alice.finish(alice.membership.remove([BOB]))
        assert alice.group.roster.has(BOB)
    else:
        (removed,) = await alice.finish(alice.membership.remove([BOB]))
        assert removed.account == BOB
        assert alice.office.listed == {ALICE: "owner", BOB: "none", CAROL: "member"}
    assert len(lost) == 2


async def test_an_invitation_is_repeated_for_members_only(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await scene(monkeypatch, BOB)
    await alice.membership.invite(BOB)
    assert alice.office.invited == [BOB]
    with pytest.raises(UsageError, match="not in the group"):
        await alice.membership.invite(CAROL)


async def test_an_account_that_loses_the_room_is_taken_out_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slixmpp_mls.rooms.affiliation_sync._BOTH_CHANGED", 0.0)
    alice = await scene(monkeypatch, BOB, CAROL)
    alice.office.listed[CAROL] = "none"
    await alice.finish(alice.membership.expelled(CAROL))
    assert {*alice.group.roster.accounts()} == {ALICE, BOB}


def leave_open(member: Member) -> None:
    """As if nobody had chosen the group's cipher suite."""
    with member.group.room_state.change() as change:
        change.put_actions({OpenSuite.key: b""})


async def test_the_first_who_are_added_decide_on_the_cipher_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nobody has chosen one, and nobody else has seen anything of the group."""
    world = World(settings=KeyPackageSettings((2, 1), count=1))
    (person,) = world.group(ALICE, suite=2)
    alice = Member(person, monkeypatch)
    alice.office.listed = {ALICE: "owner"}
    world.settings = KeyPackageSettings((1,), count=1)
    await Publication(Client(world.person(CAROL), alice).context).replenish()
    world.settings = KeyPackageSettings((2, 1), count=1)
    await Publication(Client(world.person(DAVE), alice).context).replenish()
    result = await alice.finish(alice.membership.add([CAROL]))
    assert "no KeyPackage for cipher suite 2" in result.failed[CAROL]
    assert (alice.group.mls.suite.id, alice.group.lifecycle.is_unseen) == (2, True)
    leave_open(alice)
    first, second = await alice.finish(asyncio.gather(alice.membership.add([CAROL]), alice.membership.add([DAVE])))
    assert [member.account for member in (*first.added, *second.added)] == [CAROL, DAVE]
    assert alice.group.mls.suite.id == 1
    assert not alice.group.lifecycle.suite_is_open
    assert OpenSuite.key not in alice.group.post_commit_actions.entries


async def test_what_is_said_to_nobody_is_out_before_the_first_people_decide_on_the_cipher_suite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(settings=KeyPackageSettings((2, 1), count=1))
    person = world.person(ALICE)
    person.group.lifecycle.create(2, world.open_policy(ALICE), world.now, suite_is_open=True)
    alice = Member(person, monkeypatch)
    alice.office.listed = {ALICE: "owner"}
    world.settings = KeyPackageSettings((1,), count=1)
    await Publication(Client(world.person(CAROL), alice).context).replenish()
    said = alice.group.sending.compose(b"is nobody there?")
    assert not alice.group.lifecycle.is_unseen
    assert alice.group.lifecycle.suite_is_open
    adding = asyncio.create_task(alice.membership.add([CAROL]))
    await soon()
    assert alice.group.mls.suite.id == 2
    world.room.post(said, ALICE)
    assert [member.account for member in (await alice.finish(adding)).added] == [CAROL]
    assert alice.group.mls.suite.id == 1


async def test_an_open_choice_of_a_suite_outlives_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(settings=KeyPackageSettings((2, 1), count=1))
    person = world.person(ALICE)
    person.group.lifecycle.create(2, world.open_policy(ALICE), world.now, suite_is_open=True)
    assert not person.group.post_commit_actions  # nothing is to be done
    person.restart()
    alice = Member(person, monkeypatch)
    assert alice.group.lifecycle.suite_is_open
    alice.office.listed = {ALICE: "owner"}
    world.settings = KeyPackageSettings((1,), count=1)
    await Publication(Client(world.person(CAROL), alice).context).replenish()
    assert (await alice.finish(alice.membership.add([CAROL]))).added
    assert alice.group.mls.suite.id == 1
    person.restart()
    assert not person.group.lifecycle.suite_is_open


async def test_the_best_suite_stays_if_all_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(settings=KeyPackageSettings((2, 1), count=1))
    (person,) = world.group(ALICE, suite=2)
    alice = Member(person, monkeypatch)
    alice.office.listed = {ALICE: "owner"}
    await Publication(Client(world.person(CAROL), alice).context).replenish()
    leave_open(alice)
    group_id = alice.group.mls.group_id
    assert (await alice.finish(alice.membership.add([CAROL]))).added
    assert (alice.group.mls.suite.id, alice.group.mls.group_id) == (2, group_id)


async def test_a_server_that_hides_a_suite_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9420 7.2: what is left says under its signature that there is more."""
    world = World(settings=KeyPackageSettings((2, 1), count=1))
    (person,) = world.group(ALICE, suite=2)
    alice = Member(person, monkeypatch)
    alice.office.listed = {ALICE: "owner"}
    await Publication(Client(world.person(CAROL), alice).context).replenish()
    node = alice.key_packages.of[CAROL]
    for item_id in [name for name in node if "/2/" in name]:
        del node[item_id]
    leave_open(alice)
    result = await alice.finish(alice.membership.add([CAROL]))
    assert "no KeyPackage for cipher suite 2" in result.failed[CAROL]
    assert alice.group.mls.suite.id == 2
