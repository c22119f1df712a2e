"""Coming into a room's group, leaving it and coming back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slixmpp_mls.client import (
    CommitLost,
    Incoming,
    Joined,
    KeyPackageSettings,
    Rejected,
    RemovedFromGroup,
    RoomGroup,
)
from slixmpp_mls.client.storage.records import ExpectedRecord, MembershipState
from slixmpp_mls.errors import InvalidError, UnknownGroup, UsageError
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.proposals import Add, GroupContextExtensions, Remove
from slixmpp_mls.policy import Right, RoomPolicy
from slixmpp_mls.policy.later_state import KnownState
from slixmpp_mls.stanza import elements
from slixmpp_mls.testing import NOW, FaultyStore, Participant, World, commit_against_policy
from tests.client.people import state_of

from .people import ALICE, BOB, CAROL, DAVE, MALLORY, again, closed_policy, only, own_group, three

# --- Welcomes ------------------------------------------------------------------------------------


def test_a_welcome_to_the_group_of_another_room_is_refused() -> None:
    """RFC 9420 leaves it to the application what a group is for; here its policy names the room."""
    world = World()
    [alice] = world.group(ALICE)
    elsewhere = World(room="cauldron@rooms.example")
    bob = elsewhere.person(BOB)
    world.directory = elsewhere.directory
    alice.commit(*alice.adding(BOB))
    elsewhere.room.post(world.room.in_flight[0].payloads, ALICE)
    elsewhere.settle()
    assert "another room" in str(only(bob.events, Rejected).error)
    assert state_of(bob) is MembershipState.INVITED


def test_a_welcome_to_a_group_with_the_id_of_another_rooms_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9420 12.4.3.1: a group id is unique among our groups."""
    world, alice, bob, _ = three()
    taken = alice.group.mls.group_id
    create = Group.create
    monkeypatch.setattr(
        Group,
        "create",
        classmethod(lambda cls, bundle, group_id, **options: create(bundle, taken, **options)),
    )
    second = World(room="cauldron@rooms.example")
    [carol] = second.group(CAROL)
    bob_there = second.person(BOB, bob.store)
    second.directory.replenish(bob.device, NOW)
    carol.commit(*carol.adding(BOB))
    second.settle()
    assert "another room has" in str(only(bob_there.events, Rejected).error)
    assert state_of(bob_there) is MembershipState.INVITED
    assert RoomGroup.known(bob.device) == ["cauldron@rooms.example", world.room.jid]


@pytest.mark.parametrize("same_id", [False, True], ids=["another id", "the same id"])
@pytest.mark.parametrize("names_adder", [False, True], ids=["by anybody", "by the inviter"])
def test_a_welcome_is_the_one_that_the_invitation_names(same_id: bool, names_adder: bool) -> None:
    """mls, "Adding People": KeyPackages and group ids are public, so the invitation names the group and who adds."""
    world = World()
    (alice,) = world.group(ALICE)
    bob, mallory = world.person(BOB), world.person(MALLORY)
    world.people.remove(mallory)
    bob.group.lifecycle.expect_group(b"a group that an occupant invites to", MALLORY)
    bob.group.lifecycle.expect_group(alice.group.mls.group_id, ALICE if names_adder else "")
    bob.restart()  # what invitations say is in the store
    own_group(world, mallory, alice, bob, alice.group.mls.group_id if same_id else b"another group", 5)
    alice.commit(*alice.adding(BOB))
    world.settle()
    # A group id is public: without the account that adds, an invitation is no more than that.
    follows = MALLORY if same_id and not names_adder else ALICE
    assert [event.by.account for event in bob.said(Joined) if event.by is not None] == [follows]
    if follows == ALICE:
        assert "no invitation names" in str(only(bob.events, Rejected).error)
        assert world.agree()
        assert bob.group.room_state.expected() == ExpectedRecord()


def test_of_several_invitations_the_chosen_inviters_count() -> None:
    """mls, "Being Invited": an occupant invites as well, to a group of its own; the user has said whose counts."""
    world = World()
    (alice,) = world.group(ALICE)
    bob, mallory = world.person(BOB), world.person(MALLORY)
    world.people.remove(mallory)
    bob.group.lifecycle.expect_group(b"another group", MALLORY)
    bob.group.lifecycle.choose_inviter(ALICE)
    bob.restart()
    bob.group.lifecycle.expect_group(alice.group.mls.group_id, ALICE)
    bob.group.lifecycle.expect_group(b"another group", "", MALLORY)
    own_group(world, mallory, alice, bob, b"another group")
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert [event.by.account for event in bob.said(Joined) if event.by is not None] == [ALICE]
    assert "no invitation names" in str(only(bob.events, Rejected).error)
    assert bob.group.room_state.expected() == ExpectedRecord()


@pytest.mark.parametrize("chosen", [ALICE, ""])
def test_without_an_invitation_a_chosen_inviter_must_have_made_the_welcome(chosen: str) -> None:
    world = World()
    (alice,) = world.group(ALICE)
    bob, mallory = world.person(BOB), world.person(MALLORY)
    world.people.remove(mallory)
    bob.group.lifecycle.expect_welcome(None)
    bob.group.lifecycle.choose_inviter(ALICE)
    bob.group.lifecycle.choose_inviter(chosen)
    own_group(world, mallory, alice, bob, b"another group")
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert [event.by.account for event in bob.said(Joined) if event.by is not None] == [chosen or MALLORY]


@pytest.mark.parametrize("sender", [ALICE, MALLORY])
def test_an_invitation_that_names_no_adder_counts_if_its_sender_is_chosen(sender: str) -> None:
    """Carol has added bob, and a member who has not repeats the invitation: it cannot say who has."""
    world = World()
    alice, carol = world.group(ALICE, CAROL)
    bob = world.person(BOB)
    bob.group.lifecycle.expect_welcome(None)
    bob.group.lifecycle.expect_group(alice.group.mls.group_id, "", sender)
    bob.group.lifecycle.choose_inviter(ALICE)
    carol.commit(*carol.adding(BOB))
    world.settle()
    assert bob.group.is_member is (sender == ALICE)


@pytest.mark.parametrize("accounts", [1, 100])
def test_strangers_invitations_do_not_displace_the_one_that_counts(accounts: int) -> None:
    """mls, "Adding People": neither those of one account, nor those of many on one server."""
    world = World()
    (alice,) = world.group(ALICE)
    bob = world.person(BOB)
    bob.group.lifecycle.expect_group(alice.group.mls.group_id, ALICE)
    for number in range(200):
        bob.group.lifecycle.expect_group(b"group %d" % number, f"mallory{number % accounts}@m.example")
    assert len(bob.group.room_state.expected().groups) == (9 if accounts == 1 else 64)
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert world.agree()
    assert bob.group.is_member


def test_who_has_no_invitation_follows_the_first_welcome_and_says_whose() -> None:
    """mls, "Adding People": there is nothing to compare it with."""
    world = World()
    (alice,) = world.group(ALICE)
    bob, mallory = world.person(BOB), world.person(MALLORY)
    world.people.remove(mallory)
    own_group(world, mallory, alice, bob, b"another group")
    world.settle()
    assert [event.by.account for event in bob.said(Joined) if event.by is not None] == [MALLORY]


def test_an_invitation_that_is_slower_than_the_room_has_its_welcome_read_again() -> None:
    world = World()
    (alice,) = world.group(ALICE)
    bob = world.person(BOB)
    bob.group.lifecycle.expect_group(b"another group", MALLORY)
    alice.commit()
    world.settle()
    place = world.room.archive()[-1].archive_id
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert not bob.group.is_member
    bob.group.lifecycle.expect_group(alice.group.mls.group_id, ALICE)
    assert bob.group.welcomes.invited(MALLORY, place) is None
    assert bob.group.welcomes.invited(ALICE, place) == place
    bob.group.lifecycle.seek(place)
    bob.read()
    assert bob.group.is_member


def test_an_invitation_that_leads_nowhere_leaves_nothing_in_the_store() -> None:
    """Strangers send invitations without number."""
    world = World()
    bob = world.person(BOB)
    bob.group.lifecycle.expect_welcome("1", b"group")
    for number in range(20):
        bob.group.lifecycle.expect_group(b"group %d" % number, MALLORY)
    assert len(bob.group.room_state.expected().groups) == 8
    bob.group.lifecycle.stop_waiting()
    with bob.store.transaction() as transaction:
        value = transaction.get(f"outside/{world.room.jid}", b"expected")
    assert value is None


def test_a_welcome_for_somebody_else_means_nothing() -> None:
    world, alice, _, _ = three()
    dave = world.person(DAVE)
    world.person("erin@e.example")
    alice.commit(*alice.adding("erin@e.example"))
    world.settle()
    assert dave.events == []
    assert state_of(dave) is MembershipState.INVITED


def test_a_welcome_beside_a_commit_that_came_second_means_nothing() -> None:
    """It would lead into an epoch where nobody is."""
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    bob.commit()
    alice.commit(*alice.adding(DAVE))
    world.room.deliver()
    dave.read()
    dave.restart()  # it knows which Commits have come by
    world.settle()
    assert state_of(dave) is MembershipState.INVITED
    assert dave.events == []
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert only(dave.events, Joined).epoch == 3
    assert world.agree()


def test_a_welcome_that_cannot_be_read_does_not_hide_ours() -> None:
    """XEP "Adding People": an element beside a Commit is ignored by itself."""
    world, alice, _, _ = three()
    dave = world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    (sent,) = world.room.in_flight
    commit, welcome, *others = sent.payloads
    garbage = elements.Welcome(welcome.group, welcome.epoch, b"no MLSMessage")
    world.room.in_flight[0] = replace(sent, payloads=(commit, garbage, welcome, *others))
    world.settle()
    assert only(dave.events, Joined).epoch == 2
    assert world.agree()


def test_a_commit_that_lies_about_its_epoch_ends_none_for_who_is_outside() -> None:
    """XEP "Attributes and Content": it counts for nobody, so that the Welcome beside the true one does."""
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    bob.commit()
    (sent,) = world.room.in_flight
    world.room.lose()
    lie = elements.Commit(sent.payloads[0].group, sent.payloads[0].epoch, b"no MLSMessage")
    world.room.post([lie], "mallory@m.example")
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert only(dave.events, Joined).epoch == 2


def test_a_search_for_the_welcome_from_another_place_judges_anew() -> None:
    """Anybody in the room could have put a false Commit before the true one."""
    world, alice, _, _ = three()
    dave = world.person(DAVE)
    group = alice.group.mls
    false = MLSMessage.wrap(PrivateMessage(group.group_id, group.epoch, ContentType.COMMIT, b"", b"x" * 32, b"x" * 32))
    world.room.post([elements.Commit(group.group_id, group.epoch, false)], "mallory@m.example")
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert state_of(dave) is MembershipState.INVITED
    dave.group.lifecycle.seek(world.room.archive()[-2].archive_id)
    world.settle()
    assert state_of(dave) is MembershipState.MEMBER
    assert world.agree()


def shadowed() -> tuple[World, Participant]:
    """Mallory posts a void Commit, so that the one which adds Dave comes second."""
    world, alice, _, _ = three()
    dave = world.person(DAVE)
    group = alice.group.mls
    false = MLSMessage.wrap(PrivateMessage(group.group_id, group.epoch, ContentType.COMMIT, b"", b"x" * 32, b"x" * 32))
    world.room.post([elements.Commit(group.group_id, group.epoch, false)], "mallory@m.example")
    world.room.deliver()
    alice.commit(*alice.adding(DAVE))
    return world, dave


def test_an_invitation_shows_that_a_welcome_counts_which_came_second() -> None:
    """XEP "Adding People": its 'after' excludes what came before the Commit."""
    world, dave = shadowed()
    world.settle()
    assert state_of(dave) is MembershipState.INVITED
    place = world.room.archive()[-2].archive_id
    assert dave.group.welcomes.invited(MALLORY, place) is None  # she has sent no Welcome
    found = dave.group.welcomes.invited(ALICE, place)
    assert found == place
    dave.group.lifecycle.seek(found)
    world.settle()
    assert only(dave.events, Joined).epoch == 2
    assert world.agree()
    assert dave.group.welcomes.invited(ALICE, place) is None  # once for each Welcome


def test_an_invitation_that_is_quicker_than_the_room_shows_the_same() -> None:
    world, dave = shadowed()
    dave.read()
    place = world.room.archive()[-1].archive_id
    assert dave.group.welcomes.invited(ALICE, place) is None
    world.settle()
    assert only(dave.events, Joined).epoch == 2
    assert world.agree()


@pytest.mark.parametrize("inviter", [BOB, "mallory@m.example"])
def test_the_invitation_of_another_account_shows_nothing(inviter: str) -> None:
    """It could be made up to lead us into an epoch where nobody is."""
    world, dave = shadowed()
    dave.read()
    dave.group.welcomes.invited(inviter, world.room.archive()[-1].archive_id)
    world.settle()
    assert state_of(dave) is MembershipState.INVITED


def test_what_invitations_have_said_is_bounded() -> None:
    world, dave = shadowed()
    dave.read()
    place = world.room.archive()[-1].archive_id
    dave.group.welcomes.invited(ALICE, place)
    for number in range(100):
        dave.group.welcomes.invited("mallory@m.example", f"{number}")
    world.settle()
    assert state_of(dave) is MembershipState.INVITED  # the flood has displaced it; the archive is read once more
    assert dave.group.welcomes.invited(ALICE, place) == place


def test_the_memory_of_commits_that_came_by_is_bounded() -> None:
    world = World()
    dave = world.person(DAVE)
    for number in range(200):
        dave.take(Incoming(f"{number:06}", (elements.Commit(b"g" * 255, number, b"x"),), ALICE))
    with dave.store.transaction() as transaction:
        assert len(transaction.get("room", world.room.jid.encode()) or b"") < 1200


def test_an_old_welcome_does_not_lead_back_into_an_epoch_whose_keys_we_have_used() -> None:
    """RFC 9420 9.2.  A KeyPackage of last resort opens its Welcome more than once."""
    world = World(settings=KeyPackageSettings(count=0))
    alice, bob = world.group(ALICE, BOB)
    alice.send(b"one")
    world.settle()
    alice.commit(*alice.removing(BOB))
    world.settle()
    assert state_of(bob) is MembershipState.OUT
    bob.events.clear()
    bob.group.lifecycle.seek(None)
    bob.read(2)
    assert "been in" in str(bob.said(Rejected)[0].error)
    assert state_of(bob) is MembershipState.OUT
    bob.read()
    bob.restart()  # with another KeyPackage in the directory
    bob.group.lifecycle.expect_group(alice.group.mls.group_id, ALICE)
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert world.agree()
    assert state_of(bob) is MembershipState.MEMBER


# --- leaving, being removed, coming back ---------------------------------------------------------


def removed(policy: RoomPolicy | None = None) -> tuple[World, Participant, Participant, Participant]:
    """Alice, Bob and Carol, of whom Alice has removed Bob, who reads the room on."""
    world, alice, bob, carol = three(policy=policy)
    alice.commit(*alice.removing(BOB))
    world.settle()
    assert state_of(bob) is MembershipState.OUT
    for person in world.people:
        person.events.clear()
    return world, alice, bob, carol


def test_what_is_known_of_the_group_that_has_removed_us_is_its_state_after_the_commit() -> None:
    """mls-recovery, "Which GroupInfo": with all that the Commit does, so a Welcome is judged as one for a stranger."""
    world, alice, bob, _ = three(policy=replace(closed_policy(World()), may_add=Right.MEMBERS))
    dave = world.person(DAVE)
    extensions = replace(alice.group.policy, may_add=Right.ADMINISTRATORS).replaced_in(
        alice.group.mls.context.extensions
    )
    alice.commit(*alice.removing(BOB), *alice.removing(CAROL), *alice.adding(DAVE), GroupContextExtensions(extensions))
    world.settle()
    assert state_of(dave) is MembershipState.MEMBER
    left, membership = bob.group.room_state.left, alice.group.room_state.require_member()
    assert left is not None
    after = KnownState.of(membership.view, membership.group.context)
    assert replace(left, transcript=after.transcript, roster=after.roster) == after
    assert set(left.roster.clients()) == set(after.roster.clients()) == {alice.device.identity, dave.device.identity}
    bob.restart()
    assert bob.group.room_state.left is None


def test_an_administrator_adds_again_whom_it_has_removed() -> None:
    """mls, "Being Invited": its invitation may have come before the removal was read, where it changed nothing."""
    world, alice, bob, _ = removed(closed_policy(World()))
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert only(bob.events, Joined).by.account == ALICE
    assert bob.group.room_state.left is None
    assert world.agree()


def test_a_member_that_may_add_adds_again_whom_others_have_removed() -> None:
    world, _, bob, carol = removed(replace(closed_policy(World()), may_add=Right.MEMBERS))
    carol.commit(*carol.adding(BOB))
    world.settle()
    assert only(bob.events, Joined).by.account == CAROL
    assert world.agree()


@pytest.mark.parametrize("group_id", [None, b"another group"], ids=["the same id", "another id"])
def test_a_stranger_leads_nobody_that_was_removed_into_a_group_of_its_own(group_id: bytes | None) -> None:
    """mls, "Being Invited": who was removed waits for nobody, and its KeyPackages and the group id are public."""
    world, alice, bob, _ = removed()
    mallory = world.person(MALLORY)
    world.people.remove(mallory)
    own_group(world, mallory, alice, bob, group_id or alice.group.mls.group_id, 5)
    world.settle()
    assert "no invitation names" in str(only(bob.events, Rejected).error)
    assert state_of(bob) is MembershipState.OUT
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert only(bob.events, Joined).by.account == ALICE
    assert world.agree()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_member_without_the_right_adds_nobody_again_that_was_removed(restarted: bool) -> None:
    """Its Commit is void for the members, so its Welcome leads to where nobody else is."""
    world, alice, bob, carol = removed(closed_policy(World()))
    if restarted:
        bob.restart()  # then nothing is known of the group
    carol.post(commit_against_policy(carol.group, carol.adding(BOB), world.now))
    world.settle()
    assert "no invitation names" in str(only(bob.events, Rejected).error)
    assert state_of(bob) is MembershipState.OUT
    assert not alice.group.roster.has(BOB)


def test_a_member_without_rights_leads_nobody_that_was_removed_on_from_before_the_removal() -> None:
    """There, the client is still a member, and to renew its leaf needs no right."""
    world, alice, bob, carol = three(policy=closed_policy(World()))
    group, (leaf,) = carol.group.mls, carol.group.roster.leaves_of(BOB)
    alice.commit(*alice.removing(BOB))
    world.settle()
    bob.events.clear()
    found = world.directory.find(BOB, alice.group, world.now)
    group = group.apply(group.finish_commit(group.draft_commit([], now=world.now)).staged, now=world.now)
    renewed = Remove(leaf), Add(found[bob.device.identity].key_package)
    made = group.finish_commit(group.draft_commit(renewed, now=world.now))
    assert made.welcome is not None
    group_id, epoch = group.group_id, group.epoch
    payloads = [elements.Commit(group_id, epoch, made.commit), elements.Welcome(group_id, epoch + 1, made.welcome)]
    world.room.post(payloads, CAROL)
    world.settle()
    assert "no invitation names" in str(only(bob.events, Rejected).error)
    assert state_of(bob) is MembershipState.OUT


@pytest.mark.parametrize("first", ["invitation", "welcome"])
def test_who_was_removed_follows_an_invitation_into_another_group(first: str) -> None:
    """mls, "Being Invited": whichever comes first; it is the inviter's Welcome that counts."""
    world, alice, bob, _ = removed()
    dave = world.person(DAVE)
    world.people.remove(dave)
    place = bob.group.cursor
    if first == "invitation":
        bob.group.lifecycle.expect_group(b"another group", DAVE)
    own_group(world, dave, alice, bob, b"another group")
    world.settle()
    if first == "welcome":
        assert "no invitation names" in str(only(bob.events, Rejected).error)
        bob.group.lifecycle.expect_group(b"another group", DAVE)
        found = bob.group.welcomes.invited(DAVE, place)
        assert found == place
        bob.group.lifecycle.seek(found)
        world.settle()
    assert only(bob.events, Joined).by.account == DAVE
    assert bob.group.mls.group_id == b"another group"


@pytest.mark.parametrize("first", ["invitation", "welcome"])
def test_another_accounts_invitation_does_not_admit_a_welcome_for_who_was_removed(first: str) -> None:
    world, alice, bob, _ = removed()
    mallory = world.person(MALLORY)
    world.people.remove(mallory)
    if first == "invitation":
        bob.group.lifecycle.expect_group(b"another group", DAVE)
    own_group(world, mallory, alice, bob, b"another group")
    world.settle()
    if first == "welcome":
        bob.group.lifecycle.expect_group(b"another group", DAVE)
        assert bob.group.welcomes.invited(DAVE, None) is None
        world.settle()
    assert "no invitation names" in str(only(bob.events, Rejected).error)
    assert state_of(bob) is MembershipState.OUT


def test_our_own_user_may_want_in_again() -> None:
    """Then every Welcome counts, as for a room that the user has named without an invitation."""
    world, alice, bob, _ = removed()
    bob.restart()  # nothing is known of the group any more
    alice.group.lifecycle.want_in()  # a member is in already
    bob.group.lifecycle.want_in()
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert only(bob.events, Joined).by.account == ALICE
    assert world.agree()


def test_a_removed_member_forgets_the_group_and_its_unsent_messages() -> None:
    world, alice, bob, carol = three()
    carol.send(b"unsent")
    world.room.lose()
    alice.commit(*alice.removing(CAROL))
    world.settle()
    event = only(carol.events, RemovedFromGroup)
    assert (event.by.account, event.wanted) == (ALICE, False)
    with carol.store.transaction() as transaction:
        kinds = {space.partition("/")[0] for space in transaction.spaces() if space.endswith(world.room.jid)}
    assert kinds == {"ended"}
    carol.restart()
    assert state_of(carol) is MembershipState.OUT
    assert carol.resend() == []
    calls: tuple[Callable[[], object], ...] = (
        lambda: carol.group.sending.compose(b"x"),
        lambda: carol.group.sending.commit((), NOW),
    )
    for call in calls:
        with pytest.raises(UsageError, match="not a member"):
            call()
    assert world.agree()
    assert state_of(bob) is MembershipState.MEMBER


def test_a_leaver_asks_and_is_told_that_it_was_wanted_even_after_a_restart() -> None:
    world, alice, _, carol = three(policy=closed_policy(World()))
    carol.propose(Remove(carol.group.mls.own_index))
    world.settle()
    carol.restart()
    assert not carol.group.sending.needs_commit  # RFC 9420 12.4: nobody commits its own removal
    assert alice.group.sending.needs_commit
    with pytest.raises(UsageError, match="proposals wait"):
        alice.group.sending.compose(b"x")
    alice.commit()
    world.settle()
    assert only(carol.events, RemovedFromGroup).wanted


def test_removal_and_return_in_one_stanza_are_one_step() -> None:
    world, alice, _, carol = three()
    carol.send(b"unsent")
    world.room.lose()
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.room.deliver_all()
    faulty = FaultyStore(carol.store)
    carol.restart(faulty)
    before = faulty.commits
    [incoming] = world.room.read(CAROL, carol.group.cursor)
    events = carol.group.applying.accept(carol.group.processing.examine(incoming, NOW), NOW)
    assert [type(event) for event in events] == [Joined]
    assert faulty.commits == before + 1  # nobody can stop us in between
    world.settle()
    assert world.agree()
    carol.resend()
    world.settle()
    assert alice.texts == [b"unsent"]


def test_a_commit_of_ours_that_waited_is_lost_with_the_old_leaf() -> None:
    world, alice, _, carol = three()
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    sent = carol.commit()
    world.room.deliver()
    carol.read()
    assert [type(event) for event in carol.events] == [CommitLost, Joined]
    assert only(carol.events, CommitLost).origin_id == sent.origin_id
    assert not carol.group.sending.commit_waits
    world.settle()
    assert world.agree()


def test_a_group_that_we_return_to_may_have_members_in_doubt() -> None:
    """RFC 9420 5.3.1: whoever joins asks about every leaf."""
    world, alice, bob, carol = three()
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    carol.judge = lambda leaf: InvalidError("denied")
    world.settle()
    assert state_of(carol) is MembershipState.MEMBER
    assert set(carol.group.members.doubts) == {alice.device.identity, bob.device.identity}
    assert carol.group.sending.silenced


def test_leaving_by_ourselves_and_making_another_group() -> None:
    world, alice, _, _ = three()
    alice.send(b"unsent")
    [event] = alice.group.lifecycle.give_up()
    assert event == RemovedFromGroup(world.room.jid, None, wanted=True)
    with pytest.raises(UsageError, match="not a member"):
        alice.group.lifecycle.give_up()
    alice.group.lifecycle.create(1, world.open_policy(ALICE), NOW)
    assert (alice.epoch, len(alice.group.members.all())) == (0, 1)
    assert list(alice.group.outstanding()) == []
    with pytest.raises(UsageError, match="already"):
        alice.group.lifecycle.create(1, world.open_policy(ALICE), NOW)


def test_a_group_is_made_for_its_room() -> None:
    world = World()
    alice = world.person(ALICE)
    with pytest.raises(UsageError, match="not for"):
        alice.group.lifecycle.create(1, RoomPolicy("cauldron@rooms.example", (ALICE,)), NOW)


def test_members_know_since_when_each_is_there() -> None:
    world, alice, _, carol = three()
    world.now += 100
    world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    carol.restart()
    assert [(member.account, member.since) for member in carol.group.members.all()] == [
        (ALICE, NOW), (BOB, NOW), (CAROL, NOW), (DAVE, NOW + 100),
    ]  # fmt: skip


def test_a_group_that_nobody_has_seen_can_be_given_another_cipher_suite() -> None:
    world = World(settings=KeyPackageSettings(suites=(2, 1), count=1))
    (alice,) = world.group(ALICE, suite=2)
    before = alice.group.mls
    assert alice.group.lifecycle.is_unseen
    alice.group.lifecycle.change_suite(1, NOW)
    assert alice.group.mls.suite.id == 1
    assert alice.group.mls.group_id != before.group_id
    assert RoomPolicy.found_in(alice.group.mls.context.extensions) == RoomPolicy.found_in(before.context.extensions)
    alice.restart()
    assert (alice.group.mls.suite.id, alice.epoch) == (1, 0)
    bob = world.person(BOB)
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert bob.group.mls.suite.id == 1
    assert not alice.group.lifecycle.is_unseen
    with pytest.raises(UsageError, match="keeps its cipher suite"):
        alice.group.lifecycle.change_suite(2, NOW)


def test_a_group_in_which_something_was_written_keeps_its_cipher_suite() -> None:
    world = World(settings=KeyPackageSettings(suites=(2, 1), count=1))
    (alice,) = world.group(ALICE, suite=2)
    alice.send(b"Is anybody here?")
    with pytest.raises(UsageError, match="keeps its cipher suite"):
        alice.group.lifecycle.change_suite(1, NOW)
    world.settle()
    assert alice.group.mls.suite.id == 2


def test_two_groups_begun_at_once_go_on_each_for_its_members() -> None:
    """xep/mls.xml, "Creating a Room and a Group": what cannot be verified makes nobody give a group up."""
    world = World()
    alice, bob, carol, dave = (world.person(account) for account in (ALICE, BOB, CAROL, DAVE))
    for creator in (alice, bob):
        creator.group.lifecycle.create(1, world.open_policy(ALICE, BOB), world.now)
    alice.commit(*alice.adding(CAROL))
    bob.commit(*bob.adding(DAVE))
    world.settle()
    for one, other, stranger in ((alice, carol, bob), (bob, dave, alice)):
        assert one.group.mls.group_id == other.group.mls.group_id != stranger.group.mls.group_id
        one.send(f"from {one.account}".encode())
        world.settle()
        assert other.texts[-1] == f"from {one.account}".encode()
        assert one.group.mls.epoch_authenticator == other.group.mls.epoch_authenticator
        refusals = [event.error for event in one.said(Rejected)]
        assert refusals  # its user is told
        assert all(isinstance(error, UnknownGroup) for error in refusals)
