"""The parts of a room's group, each built by itself over the state of a room."""

from __future__ import annotations

from typing import Any

import pytest

from slixmpp_mls.client import Doubt, Doubts, Incoming, Joined, MessageReceived, MessageSent, Rejected
from slixmpp_mls.client.group.actions import Enter, Ignore, Join, MoveOn, Read, Remember, Sent
from slixmpp_mls.client.group.annotating import Annotator
from slixmpp_mls.client.group.applying import Applying
from slixmpp_mls.client.group.certainty import Certainty
from slixmpp_mls.client.group.continuation import Continuation
from slixmpp_mls.client.group.external_commit import ExternalCommits, check_is_new
from slixmpp_mls.client.group.following import Following
from slixmpp_mls.client.group.group_infos import GroupInfos
from slixmpp_mls.client.group.join_request import PAUSES, JoinRequests
from slixmpp_mls.client.group.lifecycle import Lifecycle
from slixmpp_mls.client.group.members import Members
from slixmpp_mls.client.group.processing import Processing
from slixmpp_mls.client.group.resumption_psks import OtherGroups
from slixmpp_mls.client.group.room_state import RoomState
from slixmpp_mls.client.group.sending import Sending
from slixmpp_mls.client.group.welcome import Welcomes, with_commits
from slixmpp_mls.client.storage.leaf_ages import RenewalSettings
from slixmpp_mls.client.storage.records import NEW_ROOM, ROOMS, MembershipState, OutboxKind
from slixmpp_mls.errors import InvalidError, NotVouchedFor, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.stanza import elements
from slixmpp_mls.testing import NOW, Participant, World

from .people import ALICE, BOB, DAVE, only, three
from .test_room_state import in_memory, in_store

NOBODY = ClientIdentity("nobody@n.example", "0123456789abcdef")


class Parts:
    """The parts over one state, and the state as the store of a participant has it."""

    def __init__(self, person: Participant) -> None:
        device = person.device
        self.store = person.store
        self.state = state = RoomState(device.store, person.world.room.jid, device.parameters)
        self.requests = JoinRequests(device, state)
        self.entries = ExternalCommits(device, state)
        self.continuation = Continuation(device, state)
        self.sending = Sending(device, state)
        self.members = Members(device, state)
        self.lifecycle = Lifecycle(device, state)
        self.welcomes = Welcomes(device, state, self.requests)
        self.processing = Processing(
            device, state, self.welcomes, self.entries, self.continuation, Following(device, state)
        )
        self.certainty = Certainty(device, state, GroupInfos(device, state, self.entries))
        self.applying = Applying(
            device,
            state,
            self.welcomes,
            self.entries,
            self.requests,
            self.continuation,
            self.certainty,
            Annotator(device, state),
        )
        self.others = OtherGroups(device.store, device.parameters, person.world.room.jid)

    def take(self, incoming: Incoming) -> list[Any]:
        return self.applying.accept(self.processing.examine(incoming, NOW), NOW)


def last(world: World, account: str) -> Incoming:
    """The room's latest stanza."""
    world.room.deliver_all()
    return world.room.archive(account)[-1]


def test_processing_says_what_each_kind_of_stanza_means_and_changes_nothing() -> None:
    world, alice, bob, _ = three()
    own = alice.send(b"mine")
    parts = Parts(alice)
    bob.send(b"x")
    world.room.deliver_all()
    mine, message = world.room.read(ALICE, parts.state.cursor)
    bob.propose(Remove(2))
    proposal = last(world, ALICE)
    bob.read()
    bob.commit()
    commit = last(world, ALICE)
    nonsense = Incoming("7", (), error=InvalidError("nonsense"))
    before, stored = in_memory(parts.state), in_store(parts.store)
    meanings = {
        Sent: mine,
        Read: message,
        Remember: proposal,
        Ignore: nonsense,
    }
    for kind, incoming in meanings.items():
        for _ in range(2):  # looking twice is the same: no key is used up by it
            assert isinstance(parts.processing.examine(incoming, NOW).action, kind)
    assert only(list(parts.processing.examine(commit, NOW).action.events), Rejected)  # type: ignore[union-attr]
    assert in_memory(parts.state) == before
    assert in_store(parts.store) == stored
    assert own.origin_id in parts.sending.outstanding_ids()


def test_applying_puts_steps_into_effect() -> None:
    world, alice, bob, _ = three()
    alice.send(b"mine")
    parts = Parts(alice)
    bob.send(b"x")
    bob.commit()
    world.room.deliver_all()
    mine, message, commit = world.room.read(ALICE, parts.state.cursor)
    assert only(parts.take(mine), MessageSent).data == b"mine"
    assert not list(parts.sending.outstanding_ids())
    assert only(parts.take(message), MessageReceived).data == b"x"
    assert parts.state.not_handed_over()[0].data == b"x"
    step = parts.processing.examine(commit, NOW)
    assert isinstance(step.action, MoveOn)
    epoch = parts.state.require_member().group.epoch
    parts.applying.accept(step, NOW)
    assert parts.state.require_member().group.epoch == epoch + 1
    assert parts.state.cursor == commit.archive_id


def test_what_is_refused_moves_our_place_only() -> None:
    world, alice, bob, _ = three()
    parts = Parts(alice)
    bob.send(b"x")
    step = parts.processing.examine(last(world, ALICE), NOW)
    membership = parts.state.membership
    event = only(parts.applying.refuse(step, InvalidError("no"), NOW), Rejected)
    assert event.archive_id == parts.state.cursor == step.incoming.archive_id
    assert parts.state.membership is membership


def test_sending_keeps_what_it_makes_until_it_is_back_or_refused() -> None:
    _, alice, _, _ = three()
    parts = Parts(alice)
    outgoing = parts.sending.compose(b"x", origin_id="one")
    assert parts.sending.compose(b"x", origin_id="one") == outgoing
    with pytest.raises(UsageError, match="under this id"):
        parts.sending.compose(b"y", origin_id="one")
    assert [each.payloads for each in parts.sending.outstanding()] == [outgoing.payloads]
    commit = parts.sending.commit((), NOW)
    assert parts.sending.commit_waits
    assert list(parts.state.staged) == [bytes(7) + b"\x02"]
    parts.sending.refused(commit.origin_id, "no")
    parts.sending.refused("one", "no")
    assert not parts.sending.commit_waits
    assert [record.kind for _, record in parts.state.outbox] == [OutboxKind.COMMIT]
    assert not list(parts.sending.outstanding())


def test_sending_is_silent_for_a_member_that_is_denied_unless_it_talks_to_anybody() -> None:
    _, alice, bob, _ = three()
    parts = Parts(alice)
    with parts.state.change() as change:
        change.put_doubts(Doubts([Doubt(bob.device.identity, True, "denied", "no", NOW)]))
    with pytest.raises(NotVouchedFor):
        parts.sending.compose(b"x")
    parts.sending.talks_to_anybody = True
    parts.sending.compose(b"x")
    parts.members.reconsider([bob.device.identity], [])
    assert not parts.members.doubts


def test_members_are_asked_about_by_name() -> None:
    _, alice, bob, _ = three()
    members = Parts(alice).members
    found = members.one(bob.device.identity)
    assert found.account == BOB
    assert members.has_key(bob.device.identity, found.signature_key)
    assert not members.has_key(bob.device.identity, b"another")
    assert not members.has_key(NOBODY, found.signature_key)
    with pytest.raises(UsageError, match="is not in the group"):
        members.one(NOBODY)
    assert members.renewal_due(RenewalSettings(uses=0), NOW) == "use"


def test_outside_only_what_makes_sense_there_can_be_done() -> None:
    world, _, _, _ = three()
    dave = Parts(world.person(DAVE))
    for call in (
        lambda: dave.sending.compose(b"x"),
        lambda: dave.sending.propose(Remove(1), NOW),
        lambda: dave.sending.commit((), NOW),
        lambda: dave.members.all(),
        lambda: dave.lifecycle.give_up(),
        lambda: dave.lifecycle.want_to_leave(),
        lambda: dave.continuation.draft((), NOW),
        lambda: dave.requests.ask(NOW),  # nothing has been seen of the group yet
    ):
        with pytest.raises(UsageError):
            call()
    assert not dave.sending.needs_commit
    assert not dave.sending.leaf_outdated
    assert not dave.sending.silenced
    assert not dave.certainty.reasons
    assert dave.certainty.proving_info is None


def test_inside_nothing_can_be_done_that_is_for_outside() -> None:
    world, alice, _, _ = three()
    parts = Parts(alice)
    door = elements.GroupInfo(b"g", 1, b"any")
    for call in (
        lambda: parts.entries.draft(door, NOW),
        lambda: parts.lifecycle.create(1, world.open_policy(ALICE), NOW),
        lambda: parts.lifecycle.begin_creation(),
        lambda: parts.lifecycle.seek("1"),
        lambda: parts.lifecycle.expect_welcome("1"),
        lambda: parts.continuation.draft_branch(alice.group.mls, world.open_policy(ALICE), (), NOW),
    ):
        with pytest.raises(UsageError, match=r"already a member|a member does not"):
            call()
    assert parts.requests.asking_at(NOW) is None
    assert parts.requests.epoch_seen is None


def test_a_request_is_made_once_in_an_epoch_and_after_a_pause() -> None:
    world, alice, _, _ = three()
    parts = Parts(world.person(DAVE))
    alice.commit()
    incoming = last(world, DAVE)
    assert parts.requests.observed(incoming).known
    assert parts.requests.epoch_seen is None  # looking changes nothing
    parts.take(incoming)
    assert parts.requests.epoch_seen == alice.group.mls.epoch + 1
    assert parts.requests.asking_at(NOW) == 0  # at once
    (request,) = parts.requests.ask(NOW)
    assert parts.requests.asking_at(NOW + 10) is None
    assert parts.requests.may_try_at(NOW) == NOW + PAUSES[0]
    assert [each.origin_id for each in parts.requests.unconfirmed()] == [request.origin_id]
    parts.requests.refused(request.origin_id)
    assert not list(parts.requests.unconfirmed())
    assert parts.requests.attempts == 1


def at_the_door() -> tuple[World, Participant, Parts, Incoming, elements.GroupInfo]:
    """A client that has lost the group, and a Commit with a GroupInfo that leads back into it."""
    world, alice, bob, _ = three()
    parts = Parts(bob)
    parts.lifecycle.give_up("lost")
    alice.commit()
    incoming = last(world, BOB)
    (door,) = (payload for payload in incoming.payloads if isinstance(payload, elements.GroupInfo))
    parts.take(incoming)
    return world, alice, parts, incoming, door


def test_our_external_commit_is_known_by_its_octets_and_leads_into_the_group() -> None:
    world, alice, parts, incoming, door = at_the_door()
    draft = parts.entries.draft(door, NOW)
    assert not parts.entries.waits
    outgoing = parts.entries.finish(draft, NOW)
    with pytest.raises(UsageError, match="waits already"):
        parts.entries.draft(door, NOW)
    assert [each.payloads for each in parts.entries.unconfirmed()] == [outgoing.payloads]
    assert parts.entries.find(incoming) is None
    world.room.post(outgoing, BOB)
    step = parts.processing.examine(last(world, BOB), NOW)
    assert isinstance(step.action, Enter)
    event = only(parts.applying.accept(step, NOW), Joined)
    assert (event.by, event.missed.messages) == (None, 0)
    assert not parts.entries.waits
    alice.read()
    group = parts.state.require_member().group
    assert (group.epoch, group.epoch_authenticator) == (door.epoch + 1, alice.group.mls.epoch_authenticator)


def test_an_external_commit_that_is_refused_goes_with_the_state_that_it_leads_to() -> None:
    world, _, parts, _, door = at_the_door()
    outgoing = parts.entries.finish(parts.entries.draft(door, NOW), NOW)
    space = f"entering/{world.room.jid}"
    assert in_store(parts.store)[space]
    assert not parts.entries.refused("another", "no")
    assert parts.entries.refused(outgoing.origin_id, "no")
    assert not parts.entries.waits
    assert not in_store(parts.store).get(space)


def test_a_welcome_is_found_by_our_key_package_and_opened_into_a_group() -> None:
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    incoming = last(world, DAVE)
    assert Parts(bob).welcomes.find(incoming, Parts(bob).others) is None  # it is for somebody else
    parts = Parts(dave)
    step = parts.welcomes.find(incoming, parts.others)
    assert step is not None
    assert isinstance(step.action, Join)
    assert len(step.leaves) == 3  # for the Authentication Service, before anything is accepted
    record = with_commits(parts.state.record, incoming)
    event = only(parts.welcomes.accept(step.action, record, NOW, ()), Joined)
    assert event.by is not None
    assert event.by.account == ALICE
    assert parts.state.standing is MembershipState.MEMBER


def test_no_way_leads_into_an_epoch_that_we_have_been_in() -> None:
    """RFC 9420 9.2."""
    _, alice, _, _ = three()
    parts = Parts(alice)
    group = parts.state.require_member().group
    check_is_new(parts.state, group.group_id, group.epoch + 1)
    check_is_new(parts.state, b"another group", 0)
    with pytest.raises(InvalidError, match=r"9\.2"):
        check_is_new(parts.state, group.group_id, group.epoch)
    parts.lifecycle.give_up("lost")
    with pytest.raises(InvalidError, match=r"9\.2"):
        check_is_new(parts.state, group.group_id, group.epoch)
    check_is_new(parts.state, group.group_id, group.epoch + 1)


def test_a_welcome_that_we_do_not_follow_makes_no_lost_group() -> None:
    """Anybody in the room can make one up for a KeyPackage of ours."""
    parts = Parts(World().person(DAVE))
    suite = CipherSuite.get(1)
    with parts.state.change() as change:
        change.put_unread_keys([(suite, suite.generate_signature_key())], NOW)
    assert parts.state.return_keys
    parts.lifecycle.begin_creation()
    parts.lifecycle.end_creation()
    assert parts.state.record == NEW_ROOM
    assert not parts.state.return_keys


@pytest.mark.parametrize("how", ["refused", "interrupted"])
def test_who_fails_to_make_a_group_where_it_has_lost_one_has_still_lost_it(how: str) -> None:
    """That there is one already is no evidence by which its keys may go (``docs/deletion-of-keys.md``)."""
    world, alice, bob, _ = three()
    bob.events += bob.group.lifecycle.give_up("a gap")
    keys, place = bob.group.room_state.return_keys, bob.group.cursor
    bob.group.lifecycle.begin_creation()
    if how == "refused":
        bob.group.lifecycle.seek("999999")
        bob.group.lifecycle.end_creation()
        assert bob.group.cursor == place
    else:
        bob.restart()
        bob.group.lifecycle.expect_welcome(place)
    assert bob.group.room_state.standing is MembershipState.LOST
    bob.group.lifecycle.stop_waiting()  # the room does not let us in
    assert [each.public for each in bob.group.room_state.return_keys] == [each.public for each in keys]
    assert bob.group.room_state.known() is not None
    world.now += 100
    bob.read()
    bob.ask()
    world.settle()
    alice.commit()
    world.settle()
    assert bob.group.is_member
    assert world.agree()


def test_founding_and_waiting_are_states_of_their_own() -> None:
    parts = Parts(World().person(DAVE))
    assert not parts.lifecycle.begin_creation()
    assert parts.lifecycle.begin_creation()
    parts.lifecycle.end_creation()
    assert parts.state.record == NEW_ROOM
    with parts.store.transaction() as transaction:
        assert not list(transaction.items(ROOMS))  # a room of which nothing was read leaves nothing
    parts.lifecycle.expect_welcome("7")
    assert (parts.state.standing, parts.state.cursor) == (MembershipState.INVITED, "7")
    parts.lifecycle.stop_waiting()
    assert parts.state.record == NEW_ROOM
    with parts.store.transaction() as transaction:
        assert not list(transaction.items(ROOMS))
