"""Which GroupInfo leads in (``client/group/group_infos.py``; mls-recovery, "Which GroupInfo")."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import CommitLost, Device, Incoming, Joined, Outgoing, Rejected, Unsure
from slixmpp_mls.client.device.leaf_proofs import arriving, renewing
from slixmpp_mls.client.group import group_infos
from slixmpp_mls.client.group.certainty import ANSWER_LABEL, Inquiry
from slixmpp_mls.client.group.group_info_key import UNKNOWN
from slixmpp_mls.client.group.group_infos import PER_SIGNER, group_infos_in
from slixmpp_mls.client.group.lifecycle import FORMER_KEY_AGE
from slixmpp_mls.client.group.room_change import MAX_FORMER_KEYS
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import PolicyViolation, UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.joining import public_of
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import AnyProposal, Remove
from slixmpp_mls.mls.structures.welcome import GroupInfo, group_info_tbs
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import DeviceVoucher, ExternalJoins, RoomPolicy, group_extensions
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.consistency import check as check_consistency
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import Participant, World

from .people import ALICE, BOB, CAROL, DAVE, only, state_of
from .test_certainty import ask, hear, inquiry_of
from .test_rejoin import lose

SUITE = CipherSuite.get(1)


def ruled(**settings: Any) -> tuple[World, Participant, Participant, Participant]:
    """Alice is the administrator; bob and carol have no rights but over their own devices."""
    world = World()
    policy = RoomPolicy(world.room.jid, (ALICE,), **settings)
    alice, bob, carol = world.group(ALICE, BOB, CAROL, policy=policy)
    return world, alice, bob, carol


def lost(**settings: Any) -> tuple[World, Participant, Participant, Participant]:
    """Bob has lost the group after a Commit of alice's."""
    world, alice, bob, carol = ruled(**settings)
    alice.commit()
    world.settle()
    lose(bob)
    return world, alice, bob, carol


def post(world: World, group: Group, bundle: Any) -> None:
    """A Commit of other software, with the GroupInfo of the state that it would lead to."""
    after = bundle.staged.next
    world.room.post(
        [
            elements.Commit(group.group_id, group.epoch, bundle.commit),
            elements.GroupInfo(group.group_id, group.epoch + 1, after.group_info()),
        ],
        CAROL,
    )


def void_commit(by: Participant, *proposals: AnyProposal) -> Group:
    """A Commit that is valid by RFC 9420 and void by the policy; the state that it would lead to.

    From now on this member runs software of its own.
    """
    if by in by.world.people:
        by.world.people.remove(by)
    group = by.group.mls
    bundle = group.finish_commit(group.draft_commit(proposals, now=by.world.now, by_reference=()))
    post(by.world, group, bundle)
    after = bundle.staged.next
    assert isinstance(after, Group)
    return after


def ghost(world: World, account: str, door: elements.GroupInfo) -> Group:
    """Somebody who calls herself a device of an account commits herself in, without any proof.

    Bob's key of GroupInfos is given away: it protects the roster, not the group.
    """
    device = Device(MemoryStore(account))
    info = MLSMessage.decode(world.people[1].group.external_commits.open(door)).body
    assert isinstance(info, GroupInfo)
    own = replace(device.own_leaf(SUITE), complete=renewing(SUITE))
    bundle = Group.external_commit(info, own, now=world.now, with_group_info=True)
    world.room.post(
        [
            elements.Commit(door.group, door.epoch, bundle.commit),
            elements.GroupInfo(door.group, door.epoch + 1, bundle.group_info or b""),
        ],
        DAVE,
    )
    after = bundle.staged.next
    assert isinstance(after, Group)
    return after


def reasons(person: Participant) -> list[str]:
    shown = ((each.archive_id, each.payloads) for each in person.world.room.archive(person.account))
    return [str(each.error) for each in person.group.group_infos.ways_in(group_infos_in(shown), person.world.now)[1]]


# --- a client that has lost the group --------------------------------------------------------------


@pytest.mark.parametrize("account", [ALICE, BOB, DAVE])
def test_a_ghost_beside_a_void_external_commit_leads_nobody_in(account: str) -> None:
    world, _, bob, _ = lost()
    (door,) = bob.ways_in()
    after = ghost(world, account, door)
    bundle = after.finish_commit(after.draft_commit((Remove(LeafIndex(0)),), now=world.now, by_reference=()))
    post(world, after, bundle)
    world.settle()
    (way,) = bob.ways_in()
    assert way == door
    assert any("whom we do not know" in reason for reason in reasons(bob))


def test_a_void_commit_of_a_member_leads_nobody_in() -> None:
    """Carol removes alice, which she may not; she is in bob's last tree, and her signature is genuine."""
    world, alice, bob, carol = lost()
    (door,) = bob.ways_in()
    after = void_commit(carol, Remove(alice.group.mls.own_index))
    assert after.epoch == door.epoch + 1
    world.settle()
    assert bob.ways_in() == [door]
    assert any("no right to remove" in reason for reason in reasons(bob))


def test_what_comes_after_a_void_commit_is_found() -> None:
    """Carol's void Commit is the first one of its epoch in the room: alice's counts, and so does her GroupInfo."""
    world, alice, bob, carol = lost()
    void_commit(carol, Remove(alice.group.mls.own_index))
    alice.commit()
    world.settle()
    (way,) = bob.ways_in()
    assert way.epoch == alice.epoch == 3
    bob.enter(way)
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_a_removed_member_shows_nothing_any_more() -> None:
    world, alice, bob, carol = lost(external_joins=ExternalJoins.ANYBODY)
    stale = carol.group.mls
    alice.commit(*alice.removing(CAROL))
    world.settle()
    for _ in range(3):
        bundle = stale.finish_commit(stale.draft_commit((), now=world.now, by_reference=()))
        post(world, stale, bundle)
        after = bundle.staged.next
        assert isinstance(after, Group)
        stale = after
    world.settle()
    (way,) = bob.ways_in()
    assert way.epoch == alice.epoch == 3 < stale.epoch
    bob.enter(way)
    world.settle()
    assert world.agree()


def test_what_another_member_shows_is_judged_by_what_an_administrator_has_shown_before() -> None:
    """Alice has added dave, and then carol has renewed her keys: only the two GroupInfos together lead in."""
    world, alice, bob, carol = lost()
    dave = world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    carol.commit()
    world.settle()
    dave.commit()
    world.settle()
    (way,) = bob.ways_in()
    assert way.epoch == dave.epoch == 5
    shown = group_infos_in((each.archive_id, each.payloads) for each in world.room.archive())
    ways, refused = bob.group.group_infos.ways_in(shown[-2:], world.now)
    assert not ways
    assert ["nothing that we know lets" in str(each.error) or "whom we do not" in str(each.error) for each in refused]
    bob.enter(way)
    world.settle()
    assert world.agree()


def test_our_own_come_last() -> None:
    """An external Commit of bob's has lost to alice's; the GroupInfo beside it leads nowhere."""
    world, alice, bob, _ = lost()
    (door,) = bob.ways_in()
    alice.commit()
    bob.enter(door)
    world.settle()
    assert only(bob.events, CommitLost)
    (way,) = bob.ways_in()
    assert MLSMessage.decode(bob.group.external_commits.open(way)).body.signer == alice.group.mls.own_index  # type: ignore[union-attr]
    bob.enter(way)
    world.settle()
    assert world.agree()


def test_an_external_commit_that_a_void_one_precedes_is_found_again() -> None:
    """For bob another Commit came first; it is void for the others, and bob's has counted.

    He comes in by the GroupInfo beside his own, with the return key of the leaf in it.
    """
    world, alice, bob, carol = lost()
    (door,) = bob.ways_in()
    void_commit(carol, Remove(alice.group.mls.own_index))
    bob.enter(door)
    world.settle()
    assert bob.group.state is MembershipState.LOST
    assert alice.epoch == 3
    bob.restart()
    own = bob.ways_in()[-1]
    assert own.epoch == 3
    bob.enter(own)
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()
    assert len(alice.group.roster) == 3


@pytest.mark.parametrize("by_request", [False, True])
def test_however_often_void_commits_come_first_the_return_keys_stay(by_request: bool) -> None:
    world, alice, bob, carol = lost()
    (door,) = bob.ways_in()
    for _ in range(2 * MAX_FORMER_KEYS):
        bob.enter(door)
        world.room.lose()  # nobody sees it: the leaf of before stays
        void_commit(carol, Remove(alice.group.mls.own_index))
        world.settle()
        assert not bob.group.external_commits.waits
    assert len(bob.group.room_state.return_keys) == 1 + MAX_FORMER_KEYS
    world.now += 7200
    alice.commit()
    world.settle()
    if by_request:
        bob.ask()
        world.room.deliver_all()
        alice.read()
        alice.commit()
    else:
        bob.enter(bob.ways_in()[0])
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_a_store_that_lost_the_group_before_this_version_has_no_known_state() -> None:
    """It comes in as a client that was never a member; its state is what the store has (migration: an absent row)."""
    world, _, bob, _ = lost()
    with bob.store.transaction() as transaction:
        transaction.delete_prefix(f"known/{world.room.jid}")
    bob.restart()
    assert bob.group.room_state.known() is None
    (way,) = bob.ways_in()
    assert way.epoch == 2
    bob.enter(way)
    world.settle()
    assert world.agree()


def test_what_is_known_survives_a_restart_and_ends_with_the_return() -> None:
    world, _, bob, _ = lost()
    before = bob.group.room_state.known()
    assert before is not None
    assert before.epoch == 2
    bob.restart()
    assert bob.group.room_state.known() == before
    bob.enter(bob.ways_in()[0])
    world.settle()
    with bob.store.transaction() as transaction:
        assert not any(transaction.items(f"known/{world.room.jid}"))
    bob.group.lifecycle.give_up()
    with bob.store.transaction() as transaction:
        assert not any(transaction.items(f"known/{world.room.jid}"))


def test_a_member_without_rights_that_floods_the_room_pushes_nobody_out() -> None:
    world, alice, bob, carol = lost()
    alice.commit()
    world.settle()
    for _ in range(3 * PER_SIGNER):
        void_commit(carol, Remove(alice.group.mls.own_index))
    world.room.deliver_all()
    (way,) = bob.ways_in()
    assert way.epoch == alice.epoch


# --- epochs that somebody has written on a stanza -------------------------------------------------


def garbage(bob: Participant, epoch: int, kind: ContentType) -> elements.RoomElement:
    group_id = bob.group.room_state.outside.group_id
    body = PrivateMessage(group_id, epoch, kind, b"", bytes(28), bytes(200))
    element = {ContentType.APPLICATION: elements.Application, ContentType.COMMIT: elements.Commit}[kind]
    return element(group_id, epoch, MLSMessage.wrap(body))


@pytest.mark.parametrize("kind", [ContentType.APPLICATION, ContentType.COMMIT])
@pytest.mark.parametrize("epoch", [3, 1000, 2**64 - 2])
def test_a_forged_epoch_bars_no_lost_client(epoch: int, kind: ContentType) -> None:
    """It never outranks a GroupInfo that a member has signed; nor does it end our Commit that is on its way."""
    world, _, bob, _ = lost()
    world.room.post([garbage(bob, epoch, kind)], CAROL)
    world.settle()
    assert bob.group.join_requests.epoch_seen == epoch + (kind is ContentType.COMMIT)
    bob.enter(bob.ways_in()[0])
    world.room.post([garbage(bob, epoch, kind)], CAROL)
    world.room.deliver(1)
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert world.agree()


def test_an_epoch_that_stands_for_none_does_not_end_the_asking() -> None:
    """A request for an earlier group of the room is for no epoch of the present one, whatever a stanza says."""
    world, _, bob, _ = lost()
    dave = world.person(DAVE)
    group_id = bob.group.room_state.outside.group_id
    dave.group.lifecycle.expect_welcome(None, b"another")
    dave.group.join_requests.ask(world.now)
    world.room.post([garbage(bob, 2, ContentType.COMMIT)], CAROL)
    dave.read()
    assert dave.group.room_state.outside.group_id == group_id
    world.now += 100
    assert dave.group.join_requests.asking_at(world.now) is not None
    world.room.post([garbage(bob, 2**64 - 1, ContentType.APPLICATION)], CAROL)
    dave.read()
    assert dave.group.join_requests.asking_at(world.now) is not None


# --- a client that was never a member -----------------------------------------------------------


def fresh_device(world: World, first: Participant) -> Participant:
    person = world.person(first.account, MemoryStore(first.account))
    first.vouch_for(person)
    return person


def test_a_new_device_begins_with_the_creation_of_the_group() -> None:
    world, alice, bob, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    carol.commit()
    world.settle()
    void_commit(carol, Remove(alice.group.mls.own_index))
    fresh = fresh_device(world, bob)
    world.settle()
    (way,) = fresh.ways_in()
    assert way.epoch == 2
    fresh.enter(way)
    world.settle()
    # For it, the void Commit came first; for the others its own has counted.
    assert fresh.group.state is MembershipState.INVITED
    assert alice.epoch == 3
    fresh.enter(fresh.ways_in()[-1])
    world.settle()
    assert state_of(fresh) is MembershipState.MEMBER
    assert world.agree()


def test_a_new_device_believes_who_vouches_for_it() -> None:
    """The archive does not go back to the creation; bob's first device has signed a GroupInfo."""
    world, alice, bob, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    bob.commit()
    world.settle()
    world.room.expire(1)
    carol.commit()
    void_commit(carol, Remove(alice.group.mls.own_index))
    world.settle()
    fresh = fresh_device(world, bob)
    fresh.group.lifecycle.seek(world.room.archive()[0].archive_id)
    fresh.read()
    (way,) = fresh.ways_in()
    assert way.epoch == 3


@pytest.mark.parametrize("first", ["an administrator", "another new device"])
def test_a_commit_of_who_vouches_that_has_lost_leads_nobody_in(first: str) -> None:
    """mls-recovery, "Which GroupInfo": of several for one epoch, the first one in the room counts.

    The latest one that bob's first device has signed stands beside a Commit that came second.
    """
    world, alice, bob, _ = ruled(external_joins=ExternalJoins.ANYBODY)
    fresh = fresh_device(world, bob)
    if first == "an administrator":
        alice.commit()
    else:
        tablet = fresh_device(world, bob)
        world.settle()
        tablet.enter(tablet.ways_in()[0])
    bob.commit()
    world.settle()
    assert only(bob.events, CommitLost)
    (way,) = fresh.ways_in()
    shown = check_consistency(way).body
    assert isinstance(shown, GroupInfo)
    assert shown.group_context == alice.group.mls.context
    fresh.enter(way)
    world.settle()
    assert state_of(fresh) is MembershipState.MEMBER
    assert world.agree()


def shown_by(person: Participant) -> elements.GroupInfo:
    group = person.group.mls
    return elements.GroupInfo(group.group_id, group.epoch, group.group_info())


def unsent(person: Participant) -> elements.GroupInfo:
    """The GroupInfo beside a Commit that a member makes now, and that comes second."""
    group = person.group.mls
    bundle = group.finish_commit(group.draft_commit((), now=person.world.now, by_reference=()))
    after = bundle.staged.next
    assert isinstance(after, Group)
    return elements.GroupInfo(group.group_id, group.epoch + 1, after.group_info())


@pytest.mark.parametrize("race", [True, False])
def test_what_stood_there_before_its_epoch_could_begin_comes_before_nobody(race: bool) -> None:
    """mls-recovery, "Which GroupInfo": a member without rights could fill the room with them in advance."""
    world, _, bob, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    fresh = fresh_device(world, bob)
    world.settle()
    before, rival = shown_by(bob), unsent(carol)
    bob.commit()
    world.settle()
    order, last = [before, rival] if race else [rival, before], shown_by(bob)
    (way,), _ = fresh.group.group_infos.ways_in(list(enumerate([*order, last])), world.now)
    assert way.group_info == (rival if race else last)


def test_what_follows_the_first_of_an_epoch_is_found_before_the_second() -> None:
    world, alice, bob, _ = ruled(external_joins=ExternalJoins.ANYBODY)
    fresh = fresh_device(world, bob)
    world.settle()
    late = unsent(bob)
    found = [shown_by(bob)]
    for _ in range(2):
        alice.commit()
        world.settle()
        found.append(shown_by(alice))
    (way,), _ = fresh.group.group_infos.ways_in(list(enumerate([*found, late])), world.now)
    assert way.group_info == found[-1]


def test_without_either_a_new_device_takes_an_administrators_word() -> None:
    """The first one that an account with all rights has signed; the caller asks the Authentication Service about it."""
    world, alice, bob, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    carol.commit()
    world.settle()
    world.room.expire(1)
    carol.commit()
    world.settle()
    alice.commit()
    world.settle()
    for person in (fresh_device(world, bob), world.person(DAVE)):
        shown = group_infos_in((each.archive_id, each.payloads) for each in world.room.archive())
        (way,) = person.group.group_infos.ways_in(shown, world.now)[0]
        assert way.group_info.epoch == 4
        assert way.trusted is not None
        assert way.trusted.signature_key == alice.device.signature_key(SUITE).public


def test_a_false_device_of_the_account_is_not_believed() -> None:
    """A leaf in the name of the device that vouches, with another key (a server that lists it can say so)."""
    world, _, bob, _ = ruled(external_joins=ExternalJoins.ANYBODY)
    door = elements.GroupInfo(bob.group.mls.group_id, 1, bob.group.mls.group_info())
    world.room.expire(1)
    ghost(world, BOB, door)
    world.room.deliver_all()
    shown = group_infos_in((each.archive_id, each.payloads) for each in world.room.archive())
    (way,) = fresh_device(world, bob).group.group_infos.ways_in(shown, world.now)[0]
    assert way.trusted is not None  # no more than anybody's: the Authentication Service is asked about it


def test_a_stranger_is_told_whose_word_it_takes() -> None:
    world, alice, _, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    carol.commit()
    world.settle()
    dave = world.person(DAVE)
    shown = group_infos_in((each.archive_id, each.payloads) for each in world.room.archive())
    (way,) = dave.group.group_infos.ways_in(shown, world.now)[0]
    assert way.trusted == alice.group.mls.own_leaf or way.trusted is not None
    assert way.group_info.epoch == 2
    dave.enter(way.group_info)
    world.settle()
    assert dave.group.state is MembershipState.MEMBER
    assert world.agree()


# --- a member that is unsure ------------------------------------------------------------------------


def test_a_void_commit_in_the_archive_leads_no_member_away() -> None:
    world, alice, bob, carol = ruled()
    after = void_commit(carol, Remove(alice.group.mls.own_index))
    world.room.deliver_all()
    shown = group_infos_in((each.archive_id, each.payloads) for each in world.room.archive())
    events, refused = bob.group.certainty.take_archive(shown, world.now)
    assert not events
    assert not bob.group.returning
    assert any("no right to remove" in str(each.error) for each in refused)
    with pytest.raises(PolicyViolation):
        bob.group.certainty.take_group_info(after.group_info(), world.now)


def missed_removal() -> tuple[World, Participant, Participant, Participant]:
    """Alice, an administrator, has removed dave; carol has seen it, and bob has not."""
    world, alice, bob, carol = ruled()
    world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    sent = alice.commit(*alice.removing(DAVE))
    world.room.lose()
    for number, person in enumerate((alice, carol)):
        person.take(replace(world.room.archive()[-1], archive_id=f"00008{number}", payloads=sent.payloads))
    return world, alice, bob, carol


def test_an_answer_that_its_signer_cannot_have_brought_about_waits_for_a_better_one() -> None:
    """Carol's answer shows the removal, and alice's proves it."""
    _, alice, bob, carol = missed_removal()
    hear(bob, *ask(bob, carol))
    assert bob.group.certainty.contested
    assert not bob.group.returning
    hear(bob, *ask(bob, alice))
    assert bob.group.returning
    door = bob.group.certainty.proving_info
    assert door is not None
    assert door.epoch == 3


def test_if_nobody_gives_a_better_answer_it_is_not_followed_and_nothing_is_sent() -> None:
    """mls-recovery, "Not Being Sure": silence no longer says that our own state is the present one."""
    world, _, bob, carol = missed_removal()
    bob.keep(b"for the group without dave")
    hear(bob, *ask(bob, carol))
    assert only(bob.events, Unsure).reasons == ("unproven",)
    assert bob.group.certainty.become_sure(world.now) == []
    bob.restart()
    assert bob.group.certainty.contested
    assert bob.group.holds
    assert bob.resend() == []
    hear(bob, *ask(bob, carol))
    assert len(bob.said(Unsure)) == 1  # it is told once
    assert not bob.group.returning
    assert bob.group.is_member  # its keys are there


def test_a_proof_of_our_own_state_ends_the_doubt_that_somebody_has_sown() -> None:
    world, alice, bob, carol = ruled()
    after = void_commit(carol, Remove(alice.group.mls.own_index))
    world.room.lose()
    hear(bob, answer_of(bob, after))
    assert bob.group.certainty.contested
    hear(bob, *ask(bob, alice))
    assert not bob.group.certainty.reasons
    assert bob.said(Unsure)[-1].reasons == ()


def answer_of(person: Participant, shown: Group) -> elements.Answer:
    """An answer to an inquiry of somebody's, that shows any state."""
    asked = Inquiry.decode(inquiry_of(person).data)
    info = shown.group_info(extensions=(UNKNOWN.extension(),))
    sealed = shown.suite.encrypt_with_label(asked.reply_key, ANSWER_LABEL, shown.group_id, info)
    return elements.Answer(shown.group_id, shown.epoch, sealed.encode())


def test_a_paused_administrator_and_a_member_with_a_group_of_its_own() -> None:
    """A member without rights replays an old inquiry, sows doubt, and answers alone; external joins are forbidden."""
    world, alice, bob, carol = ruled(external_joins=ExternalJoins.NEVER)
    old = inquiry_of(bob)
    asked = alice.group.certainty.judge(old)
    assert asked is not None
    alice.group.certainty.answer(asked, world.now)
    alice.commit()
    world.settle()
    world.now += 3600
    assert alice.group.certainty.judge(old) is None
    bob.keep(b"for alice")
    spy = world.person("spy@x.example")
    world.people.remove(spy)
    invited = carol.adding("spy@x.example")
    after = void_commit(carol, Remove(alice.group.mls.own_index), *invited)
    world.room.lose()
    hear(bob, answer_of(bob, after))
    assert not bob.group.returning
    assert bob.group.holds
    assert bob.resend() == []
    hear(bob, *ask(bob, alice))  # which answers at once
    assert not bob.group.holds
    bob.resend()
    world.settle()
    assert alice.texts == [b"for alice"]
    assert world.agree()


# --- both sides of a split ------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [1, 2])
def test_a_committer_on_the_losing_side_proves_its_return(commits: int) -> None:
    """The winners have its leaf of before: the return key of that one is kept a while."""
    world, alice, bob, carol = ruled()
    world.room.split([BOB])
    for _ in range(commits):
        bob.commit()
        world.room.deliver(to=1)
        bob.read()
        alice.commit()
        world.room.deliver(to=0)
        alice.read()
        carol.read()
    alice.commit()
    world.room.deliver(to=0)
    alice.read()
    carol.read()
    hear(bob, *ask(bob, alice))
    door = bob.group.certainty.proving_info
    assert door is not None
    bob.restart()
    entry = bob.enter(door)
    for person in (bob, alice, carol):
        person.take(replace(world.room.archive(person.account)[-1], archive_id="000990", payloads=entry.payloads))
    assert bob.said(Joined)[-1].epoch == alice.epoch == 2 + commits + 1
    assert alice.group.mls.epoch_authenticator == bob.group.mls.epoch_authenticator
    assert len(alice.group.roster) == 3


def test_the_only_administrator_on_the_losing_side_comes_back_if_its_user_decides_so() -> None:
    """mls-recovery, "Which GroupInfo": its own state would judge the Welcome for ever."""
    world, alice, bob, carol = ruled()
    world.room.split([ALICE])
    alice.commit(*alice.removing(CAROL))
    world.room.deliver(to=1)
    alice.read()
    bob.commit()
    world.room.deliver(to=0)
    for person in (bob, carol):
        person.read()
    assert alice.epoch == bob.epoch
    with pytest.raises(UsageError, match="not lost"):
        alice.group.lifecycle.believe_despite_doubts()
    alice.events += alice.group.lifecycle.give_up("its user wants to come in afresh")
    number = 900

    def cross(outgoing: Outgoing, by: Participant) -> None:
        """A stanza that all see: the servers have found together."""
        nonlocal number
        number += 1
        for person in (alice, bob, carol):
            person.take(Incoming(f"000{number}", outgoing.payloads, by.account))

    def ask_and_answer() -> None:
        for request in alice.group.join_requests.ask(world.now):
            cross(request, alice)
        cross(bob.group.sending.commit((), world.now), bob)

    ask_and_answer()
    assert "nothing that we know lets" in str(only(alice.events, Rejected).error)
    assert not alice.group.is_member
    alice.group.lifecycle.believe_despite_doubts()
    alice.restart()  # the decision is kept
    world.now += 100
    ask_and_answer()
    assert alice.group.is_member
    assert len({person.group.mls.epoch_authenticator for person in (alice, bob, carol)}) == 1
    lose(alice)
    known = alice.group.room_state.known()
    assert known is not None
    assert not known.despite_doubts  # it was for that case


def test_former_return_keys_are_few_and_end() -> None:
    world, _, bob, _ = ruled()
    for _ in range(MAX_FORMER_KEYS + 2):
        bob.commit()
        world.settle()
    with bob.store.transaction() as transaction:
        kept = dict(transaction.items(f"former/{world.room.jid}"))
    assert len(kept) == MAX_FORMER_KEYS
    bob.group.lifecycle.tidy(world.now + FORMER_KEY_AGE - 1)
    with bob.store.transaction() as transaction:
        assert dict(transaction.items(f"former/{world.room.jid}")) == kept
    bob.group.lifecycle.tidy(world.now + FORMER_KEY_AGE)
    with bob.store.transaction() as transaction:
        assert not any(transaction.items(f"former/{world.room.jid}"))


def test_a_member_that_leaves_keeps_nothing() -> None:
    world, _, bob, _ = ruled()
    bob.commit()
    world.settle()
    bob.group.lifecycle.give_up()
    with bob.store.transaction() as transaction:
        for space in ("former", "known", "returning"):
            assert not any(transaction.items(f"{space}/{world.room.jid}"))


# --- a Welcome that was not read -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["request", "external"])
def test_a_client_that_has_not_read_its_welcome_proves_that_the_leaf_is_its_own(way: str) -> None:
    """Dave is in the tree by a KeyPackage of his; the Welcome is passed over, for another Commit came first for him."""
    world, alice, _, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    dave = world.person(DAVE)
    void_commit(carol, Remove(alice.group.mls.own_index))
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert state_of(dave) is MembershipState.INVITED
    assert alice.group.roster.has(DAVE)
    dave.restart()
    alice.commit()
    world.settle()
    if way == "request":
        dave.ask()
        world.room.deliver_all()
        alice.read()
        assert alice.group.sending.needs_commit
        alice.commit()
    else:
        dave.enter(dave.ways_in()[0])
    world.settle()
    assert state_of(dave) is MembershipState.MEMBER
    assert alice.group.roster.clients_of(DAVE) == 1
    alice.send(b"welcome at last")
    world.settle()
    assert dave.texts == [b"welcome at last"]


def test_made_up_welcomes_displace_no_return_key() -> None:
    world, alice, bob, carol = lost()
    (door,) = bob.ways_in()
    void_commit(carol, Remove(alice.group.mls.own_index))
    bob.enter(door)
    world.settle()
    kept = set(former(bob))
    assert kept
    for _ in range(2 * MAX_FORMER_KEYS):
        welcome = next(
            payload
            for each in world.room.archive()
            for payload in each.payloads
            if isinstance(payload, elements.Welcome)
        )
        commit = garbage(bob, 7, ContentType.COMMIT)
        world.room.post([commit, replace(welcome, epoch=8)], CAROL)
    world.settle()
    assert kept <= set(former(bob))
    assert len(former(bob)) <= 2 * MAX_FORMER_KEYS


def former(person: Participant) -> dict[bytes, bytes]:
    with person.store.transaction() as transaction:
        return dict(transaction.items(f"former/{person.world.room.jid}"))


def test_a_forgery_takes_no_place_among_the_signers_own() -> None:
    """RFC 9420 12.4.3: only a valid signature tells whose GroupInfo it is; the limit counts those of one key."""
    world, alice, bob, _ = lost(external_joins=ExternalJoins.ANYBODY)
    (door,) = bob.ways_in()
    info = MLSMessage.decode(door.data).body
    assert isinstance(info, GroupInfo)
    forged = elements.GroupInfo(door.group, door.epoch, MLSMessage.wrap(replace(info, signature=bytes(64))))
    for _ in range(PER_SIGNER):
        world.room.post([elements.Commit(door.group, 0, b"garbage"), forged], DAVE)
    world.settle()
    (way,) = bob.ways_in()
    assert way == door
    bob.enter(way)
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert alice.epoch == bob.epoch


def test_old_ones_that_are_shown_again_push_nothing_out() -> None:
    """The same GroupInfo counts once, where it stood first, and of a key those of the latest epochs count."""
    world, alice, bob, _ = lost(external_joins=ExternalJoins.ANYBODY)
    for _ in range(2 * PER_SIGNER):
        alice.commit()
        world.settle()
    shown = group_infos_in((each.archive_id, each.payloads) for each in world.room.archive(BOB))
    (door,) = bob.ways_in()
    assert door.epoch == alice.epoch
    for _, old in shown[:-1]:
        world.room.post([elements.Commit(door.group, 0, b"garbage"), old], DAVE)
    for _ in range(PER_SIGNER):
        world.room.post([elements.Commit(door.group, 0, b"garbage"), shown[0][1]], DAVE)
    world.settle()
    again = group_infos_in((each.archive_id, each.payloads) for each in world.room.archive(BOB))
    for found in (again, [shown[-1], *again[len(shown) :]]):  # also where the archive has lost the genuine ones
        ways, _ = bob.group.group_infos.ways_in(found, world.now)
        assert [way.group_info for way in ways] == [door]


def test_groups_that_strangers_have_made_up_push_no_members_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can sign a GroupInfo of a group of its own with the same id."""
    monkeypatch.setattr(group_infos, "MAX_CANDIDATES", 8)
    world, alice, bob, _ = lost(external_joins=ExternalJoins.ANYBODY)
    (door,) = bob.ways_in()
    for number in range(3 * group_infos.MAX_CANDIDATES):
        device = Device(MemoryStore(f"m{number}@m.example"))
        bundle = device.key_packages.make(SUITE, world.now)
        policy = RoomPolicy(world.room.jid, (device.identity.account,), external_joins=ExternalJoins.ANYBODY)
        group = Group.create(bundle, door.group, extensions=group_extensions(policy))
        made_up = elements.GroupInfo(door.group, 0, group.group_info())
        world.room.post([elements.Commit(door.group, 0, b"garbage"), made_up], DAVE)
    world.settle()
    (way,) = bob.ways_in()
    assert way == door
    bob.enter(way)
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert alice.epoch == bob.epoch


def test_what_is_refused_once_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member can post many that strangers seem to have signed, and for each of them others are looked at."""
    world, _, bob, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    fresh = fresh_device(world, bob)
    world.settle()

    def made_up(device: Device, epoch: int, room: str) -> elements.GroupInfo:
        group = Group.create(
            device.key_packages.make(SUITE, world.now),
            bob.group.mls.group_id,
            extensions=group_extensions(RoomPolicy(room, (ALICE,))),
            parameters=world.parameters,
        )
        info = MLSMessage.decode(group.group_info()).body
        assert isinstance(info, GroupInfo)
        info = replace(info, group_context=replace(info.group_context, epoch=epoch), signature=b"")
        signature = SUITE.sign_with_label(device.signature_key(SUITE), "GroupInfoTBS", group_info_tbs(info))
        return elements.GroupInfo(group.group_id, epoch, MLSMessage.wrap(replace(info, signature=signature)))

    bob.commit()
    world.settle()
    last = shown_by(bob)
    strangers = [made_up(Device(MemoryStore(f"{n}@x.example")), bob.epoch, world.room.jid) for n in range(3)]
    verified: list[bytes] = []

    def counted(info: GroupInfo, **given: Any) -> Any:
        verified.append(info.signature)
        return public_of(info, **given)

    monkeypatch.setattr(group_infos, "public_of", counted)
    found = list(enumerate([*strangers, made_up(carol.device, 0, "other@rooms.example"), last]))
    (way, *_), _ = fresh.group.group_infos.ways_in(found, world.now)
    assert way.group_info == last
    assert len(verified) == len(set(verified))


@pytest.mark.parametrize("claim", ["newcomer", "voucher"])
def test_the_trees_of_strangers_are_not_verified(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree has a signature for each leaf, and anybody in the room can post many trees: the signer is judged first."""
    world, alice, bob, _ = lost()
    (door,) = bob.ways_in()
    account = DAVE if claim == "newcomer" else ALICE
    device = Device(MemoryStore(account))
    forged = DeviceVoucher(str(alice.device.identity).encode(), Lifetime(0, 2**40), bytes(64))
    vouchers = [] if claim == "newcomer" else [forged]
    complete = arriving(SUITE, door.group, newcomer=claim == "newcomer", vouchers=vouchers)
    bundle = device.key_packages.make(SUITE, world.now, complete=complete)
    group = Group.create(
        bundle,
        door.group,
        extensions=group_extensions(RoomPolicy(world.room.jid, (account,))),
        parameters=world.parameters,
    )
    for _ in range(alice.epoch + 5):
        group = group.apply(group.finish_commit(group.draft_commit([], now=world.now)).staged, now=world.now)
    own = group.own_leaf.signature_key
    world.room.post(
        [
            elements.Commit(door.group, group.epoch - 1, b"garbage"),
            elements.GroupInfo(door.group, group.epoch, group.group_info()),
        ],
        DAVE,
    )
    world.settle()
    verified: list[bytes] = []

    def counted(info: GroupInfo, **given: Any) -> Any:
        verified.append(given["tree"].member(info.signer).signature_key)
        return public_of(info, **given)

    monkeypatch.setattr(group_infos, "public_of", counted)
    (way,) = bob.ways_in()
    assert way == door
    assert own not in verified
    assert alice.group.mls.own_leaf.signature_key in verified


def test_a_removed_member_is_no_newcomer_that_leads_in() -> None:
    """Its external Commit is void (mls-policy, "Removed Clients"), so the GroupInfo beside it shows nothing."""
    world, alice, bob, carol = ruled(external_joins=ExternalJoins.ANYBODY)
    alice.commit(*alice.removing(CAROL))
    world.settle()
    lose(bob)
    (door,) = bob.ways_in()
    info = MLSMessage.decode(door.data).body
    assert isinstance(info, GroupInfo)
    own = replace(carol.device.own_leaf(SUITE), complete=arriving(SUITE, door.group, newcomer=True))
    bundle = Group.external_commit(info, own, now=world.now, with_group_info=True)
    post(world, alice.group.mls, bundle)
    world.people.remove(carol)
    world.settle()
    assert only(alice.events, Rejected)
    (way,) = bob.ways_in()
    assert way == door
    bob.enter(way)
    world.settle()
    assert world.agree()
