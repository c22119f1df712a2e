"""In a room's group without its ratchet tree (draft-ietf-mls-partial): joining, reading, sending, waiting, the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.client import Joined, JoinedPartially, KeyPackageSettings, MessageSent, Rejected, RemovedFromGroup
from slixmpp_mls.client.group import membership_proofs
from slixmpp_mls.client.group.actions import Incoming, Join, JoinPartially
from slixmpp_mls.client.group.membership_proofs import MAX_FURTHER, MAX_OCTETS, MAX_PROOFS, MembershipProofs
from slixmpp_mls.client.group.partial import verify
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import InvalidError, MalformedError, StoreFull, UsageError
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.tree.tree_validation import VerifiedTree
from slixmpp_mls.policy import Right, RoomPolicy
from slixmpp_mls.stanza.blob import BlobReference
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import FaultyStore, Participant, World, commit_against_policy

from .people import ALICE, BOB, CAROL, DAVE, copy_of, only


def add_with_tree_elsewhere(who: Participant, *accounts: str) -> BlobReference:
    """Add them by a Welcome that says where the tree is."""
    draft = who.group.sending.draft_commit([each for name in accounts for each in who.adding(name)], who.world.now)
    place = who.world.upload(draft.tree.encode())
    who.post(who.group.sending.finish_commit(draft, tree_at=place))
    who.world.room.deliver_all()
    return place


def joining(**options: Any) -> tuple[World, Participant, Participant, Participant, BlobReference]:
    """Alice has added Carol to the group of her and Bob; Carol has not read it yet."""
    world = World()
    alice, bob = world.group(ALICE, BOB, **options)
    carol = world.person(CAROL)
    carol.group.welcomes.partial_from = 1
    place = add_with_tree_elsewhere(alice, CAROL)
    for person in (alice, bob):
        person.read()
    return world, alice, bob, carol, place


def joined(**options: Any) -> tuple[World, Participant, Participant, Participant, BlobReference]:
    world, alice, bob, carol, place = joining(**options)
    carol.read()
    assert state(carol) is MembershipState.PARTIAL
    return world, alice, bob, carol, place


def state(who: Participant) -> MembershipState:
    return who.group.state


def complete(who: Participant, place: BlobReference) -> None:
    partial = who.group.partial.membership
    assert partial is not None
    assert partial.location == place
    who.events += who.group.partial.complete(verify(partial.group, who.world.web[place]), ())


def arrive(who: Participant, incoming: Incoming) -> None:
    """Join, and nothing else."""
    who.events += who.group.applying.accept(who.group.processing.examine(incoming, who.world.now), who.world.now)


def welcome_for(who: Participant) -> Incoming:
    """The stanza with the Welcome; those before it are read."""
    for incoming in who.world.room.read(who.account, who.group.cursor):
        step = who.group.processing.examine(incoming, who.world.now)
        if step.fetch is not None or isinstance(step.action, Join | JoinPartially):
            return incoming
        who.take(incoming)
    raise AssertionError("no Welcome")


def test_joining_reading_and_sending_before_the_tree_is_there() -> None:
    world, alice, bob, carol, place = joined()
    event = only(carol.events, JoinedPartially)
    assert (event.by.account, event.epoch, event.leaves) == (ALICE, alice.epoch, 4)
    assert not carol.said(Joined)
    assert not carol.group.is_member
    assert carol.group.is_partial
    assert {member.account for member in carol.group.members.all()} == {ALICE, CAROL}  # Bob was not proved
    assert carol.group.speaking.epoch_authenticator == alice.group.mls.epoch_authenticator
    alice.send(b"When shall we three meet again")
    carol.send(b"In thunder, lightning, or in rain")
    world.settle()
    assert carol.texts == [b"When shall we three meet again"]
    assert alice.texts == bob.texts[-1:] == [b"In thunder, lightning, or in rain"]
    assert [sent.data for sent in carol.said(MessageSent)] == [b"In thunder, lightning, or in rain"]
    assert not list(carol.group.outstanding())
    complete(carol, place)
    assert only(carol.events, Joined).by.account == ALICE
    assert carol.group.is_member
    assert not carol.group.is_partial
    assert {member.account for member in carol.group.members.all()} == {ALICE, BOB, CAROL}
    assert world.agree()
    carol.commit()
    world.settle()
    assert world.agree()


def test_who_has_no_tree_sees_that_its_leaf_has_an_old_key() -> None:
    """mls, "Replacing the Signature Key": the old key stays listed until each group has the new one."""
    world, _, _, carol, place = joined()
    assert not carol.group.sending.leaf_outdated
    carol.device.prepare_keys(world.now)
    carol.device.switch_keys(world.now)
    assert carol.group.sending.leaf_outdated
    complete(carol, place)
    assert carol.group.sending.leaf_outdated
    carol.commit()
    world.settle()
    assert not carol.group.sending.leaf_outdated
    assert world.agree()


def test_joining_a_post_quantum_group() -> None:
    """Its keys are long: the proofs of the inviter and of one joiner are there nevertheless."""
    suite = int(CipherSuiteId.MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519)
    world = World(settings=KeyPackageSettings((suite,), count=2))
    alice, *_ = world.group(*(f"u{number}@many.example" for number in range(8)), suite=suite)
    for person in list(world.people):
        person.commit()  # each node of the tree has a key
        world.settle()
    carol = world.person(CAROL)
    carol.group.welcomes.partial_from = 1
    place = add_with_tree_elsewhere(alice, CAROL)
    world.settle()
    assert carol.group.is_partial
    carol.send(b"Fair is foul")
    world.settle()
    assert alice.texts == [b"Fair is foul"]
    complete(carol, place)
    assert world.agree()


def test_a_message_of_somebody_unproved_waits_for_the_tree_and_keeps_its_place() -> None:
    world, alice, bob, carol, place = joined()
    alice.send(b"one")
    bob.send(b"two")
    alice.send(b"three")
    world.settle()
    assert carol.texts == [b"one"]
    before, cursor = stored(carol), carol.group.cursor
    world.settle()
    assert (stored(carol), carol.group.cursor) == (before, cursor)
    complete(carol, place)
    carol.read()
    assert carol.texts == [b"one", b"two", b"three"]


def test_commits_and_proposals_wait_for_the_tree() -> None:
    """The policy's checks need the members (mls-policy, "Policy Checks"): no Commit takes effect without them."""
    acts: list[Callable[[Participant], object]] = [
        lambda who: who.commit(),
        lambda who: who.post(who.group.sending.propose_update(who.world.now)),
    ]
    for act in acts:
        world, alice, bob, carol, place = joined()
        act(alice)  # of whom Carol knows the key: she could decrypt it
        alice.world.room.deliver_all()
        alice.read()
        bob.read()
        epoch, cursor = carol.group.speaking.epoch, carol.group.cursor
        carol.read()
        assert (carol.group.speaking.epoch, carol.group.cursor) == (epoch, cursor)
        complete(carol, place)
        world.settle()
        assert world.agree()
        assert carol.epoch == alice.epoch


def test_a_commit_against_the_policy_is_not_followed() -> None:
    world = World()
    alice, bob = world.group(ALICE, BOB, policy=RoomPolicy(world.room.jid, (ALICE,)))
    carol = world.person(CAROL)
    carol.group.welcomes.partial_from = 1
    place = add_with_tree_elsewhere(alice, CAROL)
    world.settle()
    assert carol.group.is_partial
    bob.post(commit_against_policy(bob.group, [Remove(LeafIndex(0))], world.now))
    world.room.deliver_all()
    carol.read()
    complete(carol, place)
    carol.read()
    assert {member.account for member in carol.group.members.all()} == {ALICE, BOB, CAROL}
    alice.read()
    assert carol.epoch == alice.epoch


def test_a_partial_member_changes_nothing_in_the_group() -> None:
    world, _, _, carol, _ = joined()
    before = stored(carol)
    with pytest.raises(UsageError):
        carol.group.sending.draft_commit([], world.now)
    with pytest.raises(UsageError):
        carol.group.sending.propose_update(world.now)
    with pytest.raises(UsageError):
        carol.group.lifecycle.create(1, world.open_policy(CAROL), world.now)
    with pytest.raises(UsageError):
        _ = carol.group.roster
    assert stored(carol) == before


def test_without_the_tree_only_a_listed_administrator_is_one() -> None:
    """Bob may add, and is no administrator; whether Alice, who is one, has left cannot be told without the tree."""
    world = World()
    policy = RoomPolicy(world.room.jid, (ALICE,), may_add=Right.MEMBERS, may_change_subject=Right.MEMBERS)
    alice, bob = world.group(ALICE, BOB, policy=policy)
    carol, dave = world.person(CAROL), world.person(DAVE)
    for joiner, inviter, administrator in ((carol, bob, False), (dave, alice, True)):
        joiner.group.welcomes.partial_from = 1
        place = add_with_tree_elsewhere(inviter, joiner.account)
        world.settle()
        assert joiner.group.is_partial
        assert joiner.group.is_administrator(inviter.account) is administrator
        assert joiner.group.permits(Right.ADMINISTRATORS, inviter.account) is administrator
        assert joiner.group.permits(Right.MEMBERS, inviter.account)
        assert not joiner.group.permits(Right.MEMBERS, "stranger@s.example")
        complete(joiner, place)
        world.settle()
        assert joiner.group.is_administrator(inviter.account) is administrator
        assert joiner.group.permits(Right.MEMBERS, inviter.account)


def test_a_restart_without_the_tree() -> None:
    world, alice, _, carol, place = joined()
    alice.send(b"Fair is foul")
    carol.keep(b"and foul is fair")
    world.room.deliver_all()
    carol.restart()
    assert carol.group.is_partial
    carol.read()
    carol.restart()
    assert carol.texts == [b"Fair is foul"]
    carol.resend()
    world.settle()
    assert alice.texts == [b"and foul is fair"]
    carol.restart()
    complete(carol, place)
    carol.restart()
    assert carol.group.is_member
    assert world.agree()
    assert not any(space.startswith(("partial/", "whole_tree/")) for space in spaces(carol))
    carol.commit()
    world.settle()
    assert world.agree()


def test_another_tree_changes_nothing() -> None:
    """RFC 9420 12.4.3.1: the tree's hash is the one in the GroupContext, and the tree is verified."""
    world, alice, _, carol, place = joined()
    good, before = world.web[place], stored(carol)
    alice.commit()
    world.room.deliver_all()
    alice.read()
    partial = carol.group.partial.membership
    assert partial is not None
    for tree in (b"", good[:-1], good + b"\0", alice.group.mls.tree.encode()):
        with pytest.raises((InvalidError, MalformedError)):
            verify(partial.group, tree)
    assert stored(carol) == before
    complete(carol, place)
    world.settle()
    assert world.agree()


def test_the_tree_of_another_epoch_does_not_complete() -> None:
    world, alice, _, carol, place = joined()
    partial = carol.group.partial.membership
    assert partial is not None
    checked = verify(partial.group, world.web[place])
    alice.commit()
    world.room.deliver_all()
    alice.read()
    later = replace(checked, tree=VerifiedTree(alice.group.mls.tree))
    before = stored(carol)
    with pytest.raises(UsageError):
        carol.group.partial.complete(later, ())
    assert stored(carol) == before


def test_messages_read_and_sent_while_the_tree_is_verified() -> None:
    world, alice, _, carol, place = joined()
    partial = carol.group.partial.membership
    assert partial is not None
    checked = verify(partial.group, world.web[place])
    alice.send(b"one")
    carol.send(b"two")
    world.settle()
    carol.group.partial.complete(checked, ())
    alice.send(b"three")
    carol.send(b"four")
    world.settle()
    assert carol.texts == [b"one", b"three"]
    assert alice.texts == [b"two", b"four"]


def test_only_into_the_group_that_the_invitation_names() -> None:
    """mls, "Adding People": KeyPackages are public, so anybody could let her in; it holds without the tree, too."""
    world, alice, _, carol, _ = joining()
    group, before = alice.group.mls.group_id, copy_of(carol.store)
    for named, inviter, reason in ((b"another", "", True), (group, BOB, True), (group, ALICE, False)):
        carol.restart(copy_of(before))
        carol.group.welcomes.partial_from = 1
        carol.events.clear()
        carol.group.lifecycle.expect_group(named, inviter)
        carol.read()
        assert carol.group.is_partial is not reason
        assert bool(carol.said(Rejected)) is reason
    place = carol.group.partial.membership
    assert place is not None
    assert place.location is not None
    complete(carol, place.location)
    world.settle()
    assert world.agree()


# --- when it is not done ---------------------------------------------------------------------------


def test_small_groups_are_joined_with_the_tree() -> None:
    for least in (None, 5):  # the tree has four leaves
        world, _, _, carol, place = joining()
        carol.group.welcomes.partial_from = least
        incoming = welcome_for(carol)
        assert carol.group.processing.examine(incoming, world.now).fetch == place


def test_who_knows_the_group_judges_the_whole_tree() -> None:
    """What we know of the group is compared with all members (mls-recovery, "Which GroupInfo")."""
    world = World()
    alice, _, carol = world.group(ALICE, BOB, CAROL)
    carol.events += carol.group.lifecycle.give_up("for the test")
    assert state(carol) is MembershipState.LOST
    carol.group.welcomes.partial_from = 1
    alice.commit(*alice.removing(CAROL))
    world.settle()
    place = add_with_tree_elsewhere(alice, CAROL)
    incoming = welcome_for(carol)
    assert carol.group.processing.examine(incoming, world.now).fetch == place
    carol.take(incoming)
    assert carol.group.is_member


@pytest.mark.parametrize("invited", [False, True])
def test_who_was_removed_judges_the_whole_tree_unless_it_is_invited(invited: bool) -> None:
    """mls, "Being Invited": without an invitation, the state after the removal says whether the inviter may add."""
    world = World()
    alice, _, carol = world.group(ALICE, BOB, CAROL)
    carol.group.welcomes.partial_from = 1
    alice.commit(*alice.removing(CAROL))
    world.settle()
    assert state(carol) is MembershipState.OUT
    if invited:
        carol.group.lifecycle.expect_group(alice.group.mls.group_id, ALICE)
    place = add_with_tree_elsewhere(alice, CAROL)
    incoming = welcome_for(carol)
    assert carol.group.processing.examine(incoming, world.now).fetch == (None if invited else place)
    carol.take(incoming)
    assert (carol.group.is_partial, carol.group.is_member) == (invited, not invited)


Change = Callable[[MembershipProofs], MembershipProofs]


def _no_joiner(proofs: MembershipProofs) -> MembershipProofs:
    return replace(proofs, joiners=(proofs.inviter,))


def _other_inviter(proofs: MembershipProofs) -> MembershipProofs:
    return replace(proofs, inviter=proofs.joiners[0])


def _other_width(proofs: MembershipProofs) -> MembershipProofs:
    return replace(proofs, joiners=(replace(proofs.joiners[0], n_leaves=8),))


def _other_place(proofs: MembershipProofs) -> MembershipProofs:
    return replace(proofs, joiners=(replace(proofs.joiners[0], leaf_index=3),))


def _other_hash(proofs: MembershipProofs) -> MembershipProofs:
    first, *others = proofs.joiners[0].copath_hashes
    return replace(proofs, joiners=(replace(proofs.joiners[0], copath_hashes=(*others, first)),))


@pytest.mark.parametrize("change", [_no_joiner, _other_inviter, _other_width, _other_place, _other_hash])
def test_proofs_that_prove_nothing_are_ignored_by_themselves(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """draft-ietf-mls-partial, Joining via Annotated Welcome, steps 1 and 2; then the whole tree is fetched first."""
    made = MembershipProofs.of

    def of(*arguments: Any) -> MembershipProofs | None:
        proofs = made(*arguments)
        return None if proofs is None else change(proofs)

    monkeypatch.setattr(membership_proofs.MembershipProofs, "of", of)
    world, _, _, carol, place = joining()
    incoming = welcome_for(carol)
    assert carol.group.processing.examine(incoming, world.now).fetch == place
    world.settle()
    assert carol.group.is_member
    assert world.agree()


def test_no_proofs_and_unreadable_ones() -> None:
    _, alice, _, _, _ = joining()
    tree = alice.group.mls.tree
    proofs = MembershipProofs.of(tree, LeafIndex(0), [LeafIndex(2)])
    assert proofs is not None
    good = proofs.extension()
    assert MembershipProofs.readable_in([good]) == proofs
    assert MembershipProofs.readable_in([]) is None
    for octets in (b"", good.extension_data[:-1], good.extension_data + b"\0", bytes(MAX_OCTETS + 1)):
        assert MembershipProofs.readable_in([Extension(good.extension_type, octets)]) is None


@given(st.binary(max_size=300))
def test_any_octets_are_proofs_or_none(octets: bytes) -> None:
    found = MembershipProofs.readable_in([Extension(MembershipProofs.TYPE, octets)])
    assert found is None or found.encode() == octets


def test_proofs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, alice, _, _, _ = joining()
    tree = alice.group.mls.tree
    many = [LeafIndex(2)] * 1000
    proofs = MembershipProofs.of(tree, LeafIndex(0), many)
    assert proofs is not None
    assert len(proofs.encode()) <= MAX_FURTHER
    assert 1 < len(proofs.joiners) <= MAX_PROOFS
    monkeypatch.setattr(membership_proofs, "MAX_FURTHER", 100)  # the first one is proved nevertheless
    proofs = MembershipProofs.of(tree, LeafIndex(0), many)
    assert proofs is not None
    assert len(proofs.joiners) == 1
    monkeypatch.setattr(membership_proofs, "MAX_OCTETS", 100)
    assert MembershipProofs.of(tree, LeafIndex(0), many) is None


# --- a tree that is not to be had ------------------------------------------------------------------


def test_set_aside_the_state_stays_and_goes_on_from_its_place() -> None:
    world, alice, bob, carol, place = joined()
    alice.send(b"one")
    alice.commit()
    world.room.deliver_all()
    alice.read()
    bob.read()
    bob.send(b"two")
    world.room.deliver_all()
    carol.read()
    held, octets = carol.group.cursor, world.web.pop(place)
    carol.group.partial.set_aside()
    carol.read()
    assert carol.group.is_partial
    assert not carol.group.partial.follows
    assert carol.group.cursor != held  # she looks for another Welcome
    carol.keep(b"waits")
    assert not list(carol.group.outstanding())
    carol.restart()
    world.web[place] = octets
    complete(carol, place)
    assert carol.group.cursor == held
    carol.read()
    assert carol.texts == [b"one", b"two"]
    carol.resend()
    world.settle()
    assert [alice.texts[-1], bob.texts[-1]] == [b"waits"] * 2
    assert world.agree()


def test_set_aside_another_welcome_lets_us_in() -> None:
    world, alice, bob, carol, _ = joined()
    world.web.clear()
    carol.keep(b"waits")
    alice.commit(*alice.removing(CAROL))
    world.room.deliver_all()
    alice.read()
    bob.read()
    alice.commit(*alice.adding(CAROL))
    world.room.deliver_all()
    carol.read()
    assert carol.group.is_partial
    carol.group.partial.set_aside()
    world.settle()
    assert carol.group.is_member
    assert not carol.group.is_partial
    assert not any(space.startswith(("partial/", "whole_tree/")) for space in spaces(carol))
    carol.resend()
    world.settle()
    assert alice.texts == [b"waits"]
    assert world.agree()


def test_set_aside_a_strangers_group_of_the_same_id_is_refused() -> None:
    """Our KeyPackages and the group's id are public: anybody in the room can make such a Welcome."""
    world, alice, _, carol, _ = joined(policy=RoomPolicy("coven@rooms.example", (ALICE,)))
    stranger = World()
    stranger.now = world.now
    (mallory,) = stranger.group("mallory@m.example", policy=RoomPolicy(world.room.jid, ("mallory@m.example",)))
    membership = mallory.group.room_state.require_member()
    public = membership.group.public
    context = replace(public.context, group_id=alice.group.mls.group_id, epoch=alice.epoch + 5)
    made = replace(membership.group, public=replace(public, context=context))
    mallory.group.room_state._contents.membership = replace(membership, group=made)
    world.directory.replenish(carol.device, world.now)
    (package,) = world.directory.find(CAROL, alice.group, world.now).values()
    outgoing = mallory.group.sending.finish_commit(
        mallory.group.sending.draft_commit([Add(package.key_package)], world.now)
    )
    alice.commit()
    world.room.deliver_all()
    carol.group.partial.set_aside()
    before = carol.group.speaking
    world.room.post(outgoing, "mallory@m.example")
    world.room.deliver_all()
    carol.read()
    assert carol.group.is_partial
    assert carol.group.speaking is before
    assert "nobody whom we know" in str(only(carol.events, Rejected).error)


def test_set_aside_the_old_welcome_leads_nowhere() -> None:
    """RFC 9420 9.2: keys of an epoch are not used again."""
    world, alice, _, carol, _ = joined()
    alice.commit()
    world.room.deliver_all()
    carol.group.partial.set_aside()
    carol.group.lifecycle.seek(None)
    before = carol.group.speaking.secret_tree
    carol.read()
    assert carol.group.is_partial
    assert carol.group.speaking.secret_tree is before
    assert len(carol.said(JoinedPartially)) == 1


def test_giving_up() -> None:
    _, _, _, carol, _ = joined()
    (event,) = carol.group.lifecycle.give_up()
    assert isinstance(event, RemovedFromGroup)
    assert state(carol) is MembershipState.OUT
    assert not carol.group.is_partial
    assert not any(space.startswith(("partial/", "whole_tree/")) for space in spaces(carol))
    carol.restart()
    assert state(carol) is MembershipState.OUT


def test_coming_in_afresh_is_proved_by_the_leaf() -> None:
    """The return key of the leaf that we have in the tree proves our return (mls-policy, "Return")."""
    world, alice, _, carol, _ = joined()
    carol.events += carol.group.lifecycle.give_up("no tree")
    assert state(carol) is MembershipState.LOST
    assert len(carol.ask()) == 1
    world.settle()
    assert alice.group.sending.needs_commit
    alice.commit()
    world.settle()
    assert carol.group.is_member
    assert world.agree()


def test_a_store_that_fails_changes_nothing() -> None:
    """At each write of the join, and of becoming a full member."""
    world, alice, _, carol, place = joining()
    inner = carol.store
    faulty = FaultyStore(inner)
    carol.restart(faulty)
    carol.group.welcomes.partial_from = 1
    incoming, failures = welcome_for(carol), 0
    while not carol.group.is_member:
        before, was = stored(carol, inner), carol.group.state
        faulty.fail_at = faulty.writes + failures
        try:
            complete(carol, place) if carol.group.is_partial else arrive(carol, incoming)
        except StoreFull:
            assert (stored(carol, inner), carol.group.state) == (before, was)
            failures += 1
        else:
            assert faulty.writes <= faulty.fail_at
            failures = 0
    faulty.fail_at = None
    carol.send(b"Fair is foul")
    world.settle()
    assert alice.texts == [b"Fair is foul"]
    assert world.agree()


def stored(who: Participant, store: Any = None) -> dict[tuple[str, bytes], bytes]:
    memory = store or who.store
    return {(space, key): value for space in spaces(who, memory) for key, value in items(memory, space)}


def items(store: Any, space: str) -> Sequence[tuple[bytes, bytes]]:
    with store.transaction() as transaction:
        return list(transaction.items(space))


def spaces(who: Participant, store: Any = None) -> list[str]:
    memory = store or who.store
    assert isinstance(memory, MemoryStore)
    return [space for space in memory._spaces if items(memory, space)]
