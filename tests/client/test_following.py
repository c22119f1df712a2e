"""Staying in a room's group without its ratchet tree: following Commits by annotations (mls, "Staying Partial")."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import (
    GroupChanged,
    Incoming,
    Joined,
    JoinedPartially,
    KeyPackageSettings,
    Rejected,
    RemovedFromGroup,
    Unreadable,
)
from slixmpp_mls.client.group import annotating, applying, processing
from slixmpp_mls.client.group.actions import Step
from slixmpp_mls.client.group.annotations import (
    MAX_ANNOTATIONS,
    MAX_REQUEST,
    AnnotationKey,
    AnnotationRequest,
    Annotations,
    open_annotations,
    seal_annotations,
    seal_request,
    sign_verdict,
)
from slixmpp_mls.client.group.following import ANSWERS_READ, Wanted
from slixmpp_mls.client.group.partial import verify
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import InvalidError, MalformedError, PeerError, Premature
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.registry import CipherSuiteId, ProtocolVersion
from slixmpp_mls.mls.structures.proposals import Add, GroupContextExtensions, ReInit, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.tree.tree_slice import prove
from slixmpp_mls.policy import ExternalJoins, Right, RoomPolicy
from slixmpp_mls.policy.check import Verdict
from slixmpp_mls.policy.removed_clients import RemovedClients
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.blob import tree_limit
from slixmpp_mls.testing import Participant, World, commit_against_policy

from .people import ALICE, BOB, CAROL, DAVE, only
from .test_partial import add_with_tree_elsewhere, stored

ERIN = "erin@e.example"
SUITES = [int(suite) for suite in CipherSuiteId]


class Scene:
    """Alice, an administrator, annotates; Carol has joined the group of her and Bob, and stays without the tree."""

    def __init__(self, *, suite: int = 1, policy: Callable[[World], RoomPolicy] | None = None) -> None:
        settings = KeyPackageSettings(count=2) if suite == 1 else KeyPackageSettings((suite,), count=2)
        self.world = world = World(settings=settings)
        made = RoomPolicy(world.room.jid, (ALICE,)) if policy is None else policy(world)
        self.alice, self.bob = world.group(ALICE, BOB, policy=made, suite=suite)
        self.alice.group.annotator.active = True
        self.carol = self.come(CAROL)

    def come(self, account: str) -> Participant:
        person = self.world.person(account)
        self.starts(person)
        add_with_tree_elsewhere(self.alice, account)
        for each in self.world.people:
            each.read()
        assert person.group.state is MembershipState.PARTIAL
        return person

    @staticmethod
    def starts(person: Participant) -> None:
        person.group.welcomes.partial_from = 1
        person.group.following.stays = True

    def step(self, who: Participant | None = None) -> Step | None:
        """What the next stanza is to somebody without the tree, after those that need nothing; None: there is none."""
        who = who or self.carol
        who.read()
        for incoming in self.world.room.read(who.account, who.group.cursor):
            return who.group.processing.examine(incoming, self.world.now)
        return None

    def wanted(self, who: Participant | None = None) -> Wanted:
        """What the next stanza wants."""
        step = self.step(who)
        assert step is not None
        assert step.needs_tree
        assert step.wants is not None
        return step.wants

    def wanted_after(self, *changes: Any) -> Wanted:
        """What a Commit of Alice's wants."""
        self.alice.commit(*changes)
        self.world.settle()
        return self.wanted()

    def answer(self, wanted: Wanted, who: Participant | None = None, by: Participant | None = None) -> Any:
        """The answer of one member to a request."""
        element = (who or self.carol).group.following.request(wanted, self.world.now)
        annotator = (by or self.alice).group.annotator
        annotator.take_request(element)
        return annotator.answer(element.epoch, self.world.now)

    def settle(self, who: Participant | None = None) -> None:
        """All read all; what it needs, somebody without the tree is told."""
        who = who or self.carol
        self.world.settle()
        while (step := self.step(who)) is not None:
            assert step.wants is not None, "only a full member can judge it"
            answer = self.answer(step.wants, who)
            assert answer is not None, "nobody answers"
            assert who.group.following.take(answer)

    def agrees(self, who: Participant | None = None) -> bool:
        who = who or self.carol
        return who.group.speaking.epoch_authenticator == self.alice.group.mls.epoch_authenticator

    @property
    def known(self) -> set[str]:
        return {member.account for member in self.carol.group.members.all()}


@pytest.mark.parametrize("suite", SUITES)
def test_following_commits_in_every_suite(suite: int) -> None:
    scene = Scene(suite=suite)
    alice, bob, carol = scene.alice, scene.bob, scene.carol
    alice.commit()  # from the inviter, who is known
    bob_joined_before = scene.known
    scene.settle()
    bob.commit()  # from somebody unproved
    scene.settle()
    assert (bob_joined_before, scene.known) == ({ALICE, CAROL}, {ALICE, BOB, CAROL})
    assert scene.agrees()
    assert carol.group.state is MembershipState.PARTIAL
    assert [event.by.account for event in carol.said(GroupChanged)] == [ALICE, BOB]
    bob.send(b"When shall we three meet again")
    carol.send(b"In thunder, lightning, or in rain")
    scene.settle()
    assert carol.texts == [b"When shall we three meet again"]
    assert alice.texts[-1:] == bob.texts == [b"In thunder, lightning, or in rain"]
    carol.restart()
    scene.starts(carol)
    alice.commit()
    scene.settle()
    assert scene.agrees()
    assert scene.known == {ALICE, BOB, CAROL}


def test_what_a_commit_does_is_judged_and_told() -> None:
    """Adds and Removes by value and by reference, with the list of removed clients; nobody unproved is named."""
    scene = Scene()
    alice, bob, carol = scene.alice, scene.bob, scene.carol
    scene.world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    scene.settle()
    assert carol.said(GroupChanged)[-1].added == ()  # his place in the tree was not proved
    assert DAVE not in scene.known
    dave = scene.world.people[-1]
    dave.send(b"Hail")
    scene.settle()
    assert carol.texts == [b"Hail"]
    assert DAVE in scene.known
    bob.post(bob.group.sending.propose_update(scene.world.now))
    scene.settle()
    alice.commit(*alice.removing(DAVE))
    scene.settle()
    removed = carol.said(GroupChanged)[-1].removed
    assert [member.account for member in removed] == [DAVE]
    assert scene.known == {ALICE, BOB, CAROL}
    assert carol.group.speaking.tree.leaf(1) == alice.group.mls.tree.leaf(LeafIndex(1))  # Bob's Update has taken effect
    assert scene.agrees()
    assert carol.group.room_state.group_info_key == alice.group.room_state.group_info_key


def test_a_message_of_somebody_unproved_needs_one_proof_once() -> None:
    scene = Scene()
    scene.bob.send(b"one")
    scene.bob.send(b"two")
    scene.world.settle()
    wanted = scene.wanted()
    assert wanted == Wanted((1,))
    scene.carol.group.following.take(scene.answer(wanted))
    scene.alice.commit()
    scene.settle()
    scene.bob.send(b"three")
    scene.world.settle()
    assert scene.step() is None  # a Commit that leaves his leaf as it was leaves the proof as it was
    assert scene.carol.texts == [b"one", b"two", b"three"]


def test_devices_come_by_vouchers_and_by_return() -> None:
    """mls-policy, "Proofs of Admission": the leaf that vouches, and the one that is replaced, are proved."""
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE,), external_joins=ExternalJoins.ANYBODY))
    phone = scene.world.person(BOB)
    scene.bob.vouch_for(phone)
    scene.alice.commit()
    scene.settle()
    phone.read()
    way, *_ = phone.ways_in()
    phone.enter(way)
    scene.settle()
    scene.settle()
    assert phone.group.is_member
    assert scene.agrees()
    (added,) = scene.carol.said(GroupChanged)[-1].added  # the committer is proved
    assert (added.account, added.device) == (BOB, phone.device.identity.device)


def test_who_is_removed_sees_it() -> None:
    scene = Scene()
    scene.alice.commit(*scene.alice.removing(CAROL))
    scene.settle()
    assert only(scene.carol.events, RemovedFromGroup).by.account == ALICE
    assert scene.carol.group.state is MembershipState.OUT
    assert not scene.carol.group.is_partial


def test_a_removal_by_somebody_without_the_right_is_void() -> None:
    scene = Scene()
    scene.bob.post(commit_against_policy(scene.bob.group, [Remove(LeafIndex(2))], scene.world.now))
    scene.settle()
    assert scene.carol.group.is_partial
    assert only(scene.carol.events, Rejected).error.args
    assert scene.agrees()


def test_a_commit_that_the_policy_forbids_is_void_and_the_next_one_counts() -> None:
    scene = Scene()
    scene.world.person(DAVE)
    scene.bob.post(commit_against_policy(scene.bob.group, scene.bob.adding(DAVE), scene.world.now))
    scene.world.room.deliver_all()
    scene.alice.read()
    epoch = scene.carol.group.speaking.epoch
    scene.settle()
    assert scene.carol.group.speaking.epoch == epoch
    scene.alice.commit()
    scene.settle()
    assert scene.agrees()


def test_an_administrator_that_vouches_for_a_forbidden_commit_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The own check of every right: her word does not replace it."""
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE,), may_remove=Right.NOBODY))
    scene.alice.post(commit_against_policy(scene.alice.group, [Remove(LeafIndex(1))], scene.world.now))
    scene.world.room.deliver_all()
    with monkeypatch.context() as patch:  # Alice's software takes the Commit as if it were allowed
        patch.setattr(
            processing, "check", lambda view, effects: Verdict(view.roster.after(effects), RemovedClients(), ())
        )
        scene.alice.read()
    assert scene.alice.epoch == scene.carol.group.speaking.epoch + 1
    wanted, before = scene.wanted(), stored(scene.carol)
    answer = scene.answer(wanted)
    assert answer is not None
    assert scene.carol.group.following.take(answer)
    assert scene.carol.group.following.is_beyond_us(wanted)
    assert scene.step().needs_tree  # type: ignore[union-attr]
    assert scene.carol.group.speaking.epoch == scene.alice.epoch - 1
    assert before.keys() <= stored(scene.carol).keys()  # members may be known that were not before


def full(scene: Scene) -> None:
    """Carol gets the tree after all: she asks where it is."""
    wanted = Wanted(tree=True)
    element = scene.carol.group.following.request(wanted, scene.world.now)
    annotator = scene.alice.group.annotator
    assert annotator.take_request(element)
    due = annotator.due(element.epoch)
    assert due is not None
    assert due.wants_tree
    assert annotator.asking_for_tree(element.epoch) == {CAROL}
    assert annotator.place_of(element.epoch) is None
    answer = annotator.answer(element.epoch, scene.world.now, scene.world.upload(annotator.tree_of(element.epoch)))
    assert answer is not None
    assert scene.carol.group.following.take(answer)
    partial = scene.carol.group.partial.membership
    assert partial is not None
    place = scene.carol.group.following.next_place()
    assert place is not None
    scene.carol.group.partial.complete(verify(partial.group, scene.world.web[place]), ())


def policy_change(who: Participant, policy: RoomPolicy) -> Any:
    return GroupContextExtensions(policy.replaced_in(who.group.mls.context.extensions))


def test_a_change_of_the_policy_needs_the_tree() -> None:
    scene = Scene()
    scene.alice.commit()
    scene.settle()
    scene.alice.commit(policy_change(scene.alice, replace(scene.alice.group.policy, max_devices=7)))
    scene.world.settle()
    wanted = scene.wanted()
    assert scene.carol.group.following.take(scene.answer(wanted))
    assert scene.carol.group.following.is_beyond_us(wanted)
    partial = scene.carol.group.partial.membership
    assert partial is not None
    assert partial.location is None  # that of the Welcome is another epoch's
    full(scene)
    scene.world.settle()
    assert scene.carol.group.is_member
    assert scene.world.agree()


# --- answers that are wrong ------------------------------------------------------------------------


def opened(scene: Scene, answer: elements.Annotations) -> tuple[AnnotationKey, Annotations]:
    """What an answer to Carol says."""
    key = AnnotationKey(scene.carol.group.speaking)
    return key, open_annotations(key, answer)


def answered(scene: Scene, wanted: Wanted) -> tuple[elements.Annotations, AnnotationKey, Annotations]:
    """Alice's answer to Carol, and what it says."""
    answer: elements.Annotations = scene.answer(wanted)
    return answer, *opened(scene, answer)


def other_proof(answer: Annotations) -> Annotations:
    first, *others = answer.proofs
    hashes = (replace(first.copath_hashes[0], hash_value=bytes(32)), *first.copath_hashes[1:])
    return replace(answer, proofs=(replace(first, copath_hashes=hashes), *others))


def other_index(answer: Annotations) -> Annotations:
    (mine,) = answer.receivers
    return replace(answer, receivers=(replace(mine, resolution_index=7),))


def other_receiver(answer: Annotations) -> Annotations:
    (mine,) = answer.receivers
    assert answer.committer is not None
    return replace(answer, receivers=(replace(mine, proof=answer.committer),))


def other_tree(answer: Annotations) -> Annotations:
    assert answer.verdict is not None
    return replace(answer, verdict=replace(answer.verdict, tree_hash_after=bytes(32)))


def said_to_be_void(answer: Annotations) -> Annotations:
    assert answer.verdict is not None
    return replace(answer, verdict=replace(answer.verdict, counts=0, tree_hash_after=b""))


def undefined(answer: Annotations) -> Annotations:
    assert answer.verdict is not None
    return replace(answer, verdict=replace(answer.verdict, counts=2))


def without_committer(answer: Annotations) -> Annotations:
    return replace(answer, committer=None)


def without_path(answer: Annotations) -> Annotations:
    (mine,) = answer.receivers
    return replace(answer, receivers=(replace(mine, resolution_index=None),))


def without_us(answer: Annotations) -> Annotations:
    return replace(answer, receivers=())


@pytest.mark.parametrize(
    "changed",
    [
        other_proof, other_index, other_receiver, other_tree, said_to_be_void, undefined, without_committer,
        without_path, without_us,
    ],
)  # fmt: skip
def test_a_wrong_answer_changes_nothing_and_the_right_one_helps_afterwards(
    changed: Callable[[Annotations], Annotations],
) -> None:
    scene = Scene()
    wanted = scene.wanted_after()
    right, key, answer = answered(scene, wanted)
    before = stored(scene.carol)
    with pytest.raises(PeerError):
        scene.carol.group.following.take(seal_annotations(key, changed(answer)))
    assert stored(scene.carol) == before
    assert scene.wanted() == wanted
    assert scene.carol.group.following.take(right)
    scene.settle()
    assert scene.agrees()


def test_an_answer_about_another_commit_does_not_help() -> None:
    scene = Scene()
    wanted = scene.wanted_after()
    right, key, answer = answered(scene, wanted)
    other = replace(answer, verdict=sign_verdict(key, scene.alice.group.mls.signature_key, 0, bytes(32), bytes(32)))
    assert not scene.carol.group.following.take(seal_annotations(key, other))
    assert scene.wanted() == wanted
    other_epoch = replace(right, epoch=right.epoch + 1)
    assert not scene.carol.group.following.take(other_epoch)


@pytest.mark.parametrize("counts", [True, False])
def test_the_word_of_a_member_that_is_no_administrator_is_not_enough(counts: bool) -> None:
    """Bob has the tree, and could make right proofs; but what no proof shows, an administrator's client vouches for."""
    scene = Scene()
    scene.bob.group.annotator.active = True
    wanted = scene.wanted_after()
    key, answer = opened(scene, scene.answer(wanted))
    assert scene.answer(wanted, by=scene.bob) is None  # nor does he say so
    assert answer.verdict is not None
    after = answer.verdict.tree_hash_after if counts else None
    mine = sign_verdict(key, scene.bob.group.mls.signature_key, 1, wanted.digest, after)
    scene.carol.group.following.take(scene.answer(Wanted((1,))))
    scene.carol.group.following.request(wanted, scene.world.now)
    with pytest.raises(InvalidError, match="administrator"):
        scene.carol.group.following.take(seal_annotations(key, replace(answer, verdict=mine)))
    assert scene.wanted() == wanted


@pytest.mark.parametrize("by_reference", [True, False])
@pytest.mark.parametrize("public", [True, False])
def test_nobody_has_a_say_in_its_own_removal(by_reference: bool, public: bool) -> None:
    """Bob, an administrator that Alice removes, would keep Carol, and lead her on in a group of his own."""
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE, BOB)))
    before, changes = scene.bob.group.mls, scene.alice.removing(BOB)
    if by_reference:
        for change in changes:
            scene.alice.propose(change)
        scene.settle()
        changes = []
    scene.alice.commit(*changes, options=CommitOptions(public=public))
    scene.world.settle()
    assert scene.bob.group.state is MembershipState.OUT
    wanted, key = scene.wanted(), AnnotationKey(before)
    proof, me = prove(before.tree, before.own_index), int(before.own_index)
    word = sign_verdict(key, before.signature_key, me, wanted.digest, None)
    scene.carol.group.following.request(wanted, scene.world.now)
    with pytest.raises(InvalidError, match="own removal"):
        scene.carol.group.following.take(seal_annotations(key, Annotations((proof,), word, None, ())))
    assert scene.wanted() == wanted
    scene.settle()
    assert scene.agrees()
    assert scene.known == {ALICE, CAROL}


@pytest.mark.parametrize("reinit", [True, False])
def test_nobody_has_a_say_in_what_takes_its_rights(reinit: bool) -> None:
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE, BOB)))
    without_bob, before = RoomPolicy(scene.world.room.jid, (ALICE,)), scene.bob.group.mls
    change = policy_change(scene.alice, without_bob)
    wanted = scene.wanted_after(ReInit(bytes(32), ProtocolVersion.MLS10, 1, change.extensions) if reinit else change)
    key, proof, me = AnnotationKey(before), prove(before.tree, before.own_index), int(before.own_index)
    word = sign_verdict(key, before.signature_key, me, wanted.digest, None)
    scene.carol.group.following.request(wanted, scene.world.now)
    with pytest.raises(InvalidError, match="own removal"):
        scene.carol.group.following.take(seal_annotations(key, Annotations((proof,), word, None, ())))
    assert scene.carol.group.following.take(scene.answer(wanted))
    assert scene.carol.group.following.is_beyond_us(wanted)


def test_not_every_answer_is_read() -> None:
    scene = Scene()
    wanted = scene.wanted_after()
    right, key, answer = answered(scene, wanted)
    bad = seal_annotations(key, other_proof(answer))
    for _ in range(ANSWERS_READ):
        with pytest.raises(PeerError):
            scene.carol.group.following.take(bad)
    assert not scene.carol.group.following.take(bad)
    assert not scene.carol.group.following.take(right)
    scene.carol.group.following.request(wanted, scene.world.now)  # it asks once more, and reads as many again
    assert scene.carol.group.following.take(right)


def test_what_cannot_be_read() -> None:
    scene = Scene()
    wanted = scene.wanted_after()
    right = scene.answer(wanted)
    for octets, kind in (
        (bytes(MAX_ANNOTATIONS + 1), MalformedError),
        (b"\x00", MalformedError),
        (b"\x20" + bytes(32) + b"\x10" + bytes(16), InvalidError),
        (b"\x01\x00\x10" + bytes(16), MalformedError),
    ):
        with pytest.raises(kind):
            scene.carol.group.following.take(replace(right, data=octets))
    # A request does not decrypt as an answer (its name is in the associated data).
    request = scene.carol.group.following.request(wanted, scene.world.now)
    with pytest.raises(PeerError):
        scene.carol.group.following.take(replace(right, data=request.data))


def stripped(answer: Annotations) -> Annotations:
    """Without the leaves that show who may make the Commit: the administrator's alone is proved."""
    return replace(answer, proofs=answer.proofs[:1])


def test_a_members_copy_of_an_answer_without_its_proofs_does_not_make_us_give_up() -> None:
    """Whoever has an administrator's word from before is quicker than all who answer: it says nothing by itself."""
    scene = Scene()
    wanted = scene.wanted_after(*scene.alice.removing(BOB))
    right, key, answer = answered(scene, wanted)
    with pytest.raises(PeerError):
        scene.carol.group.following.take(seal_annotations(key, stripped(answer)), BOB)
    assert not scene.carol.group.following.is_beyond_us(wanted)
    assert scene.carol.group.following.take(right, ALICE)
    scene.settle()
    assert scene.agrees()


def test_nobody_uses_up_the_answers_of_others() -> None:
    """An occupant without the epoch's key is not counted at all, and a member's answers count for its account."""
    scene = Scene()
    wanted = scene.wanted_after()
    right, key, answer = answered(scene, wanted)
    for number in range(2 * ANSWERS_READ):
        for account in (ALICE, f"stranger{number}@s.example", None):
            with pytest.raises(PeerError):
                scene.carol.group.following.take(replace(right, data=bytes(100)), account)
    bad = seal_annotations(key, other_proof(answer))
    for _ in range(ANSWERS_READ):
        with pytest.raises(PeerError):
            scene.carol.group.following.take(bad, BOB)
    assert not scene.carol.group.following.take(bad, BOB)
    assert scene.carol.group.following.take(right, ALICE)
    scene.settle()
    assert scene.agrees()


def test_garbage_in_the_room_does_not_make_us_ask() -> None:
    """Any occupant can post it; nobody that we know has, by the room."""
    scene = Scene()
    group, epoch = scene.alice.group.mls.group_id, scene.alice.epoch
    garbage: list[elements.RoomElement] = [
        elements.Application(group, epoch, b"\x00\x01"),
        elements.Commit(group, epoch, b"\x00\x01"),
        elements.Proposal(group, epoch, b"\x00\x01"),
    ]
    for each in garbage:
        scene.world.room.post([each], "stranger@s.example")
    scene.world.settle()
    assert scene.step() is None
    assert len(scene.carol.said(Rejected)) == 3


# --- the member that answers -----------------------------------------------------------------------


def test_one_answer_serves_all_who_have_asked() -> None:
    scene = Scene()
    dave = scene.come(DAVE)
    scene.settle()
    scene.bob.commit()
    scene.world.settle()
    requests = [who.group.following.request(scene.wanted(who), scene.world.now) for who in (scene.carol, dave)]
    annotator = scene.alice.group.annotator
    assert all(map(annotator.take_request, requests))
    answer = annotator.answer(requests[0].epoch, scene.world.now)
    assert answer is not None
    assert annotator.due(requests[0].epoch) is None
    for who in (scene.carol, dave):
        assert who.group.following.take(answer)
        who.read()
        assert scene.agrees(who)


def test_of_two_members_that_answer_one_is_enough() -> None:
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE, BOB)))
    scene.bob.group.annotator.active = True
    wanted = scene.wanted_after()
    request = scene.carol.group.following.request(wanted, scene.world.now)
    one, other = scene.alice.group.annotator, scene.bob.group.annotator
    assert one.take_request(request)
    assert other.take_request(request)
    answer = one.answer(request.epoch, scene.world.now)
    assert answer is not None
    key, content = opened(scene, answer)
    for wrong in (other_index(content), other_tree(content), other_proof(content), without_us(content)):
        other.note_answer(seal_annotations(key, wrong))
        assert other.due(request.epoch) is not None  # it helps nobody
    other.note_answer(answer)
    assert other.due(request.epoch) is None
    assert other.answer(request.epoch, scene.world.now) is None


def test_the_word_of_a_newcomer_makes_no_answer_unnecessary() -> None:
    """mls, "Staying Partial": nobody follows a Commit by it, even if the policy has come to name its account."""
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE,), external_joins=ExternalJoins.ANYBODY))
    dave = scene.world.person(DAVE)
    scene.alice.commit()
    scene.settle()
    dave.read()
    way, *_ = dave.ways_in()
    dave.enter(way)
    scene.world.settle()
    alice = scene.alice.group
    policy = replace(alice.policy, administrators=(ALICE, DAVE))
    scene.alice.commit(policy_change(scene.alice, policy))
    scene.world.settle()
    erin = scene.come(ERIN)
    (his,) = alice.roster.leaves_of(DAVE)
    assert alice.roster.is_newcomer(his)
    shown = prove(alice.mls.tree, LeafIndex(his))
    scene.alice.commit()
    scene.world.settle()
    wanted, annotator = scene.wanted(erin), alice.annotator
    key = AnnotationKey(erin.group.speaking)
    said = open_annotations(key, scene.answer(wanted, erin))
    assert said.verdict is not None
    request = erin.group.following.request(wanted, scene.world.now)
    assert annotator.take_request(request)
    after = said.verdict.tree_hash_after
    word = sign_verdict(key, dave.group.mls.signature_key, his, wanted.digest, after)
    annotator.note_answer(seal_annotations(key, replace(said, proofs=(*said.proofs, shown), verdict=word)))
    assert annotator.due(request.epoch) is not None
    assert annotator.answer(request.epoch, scene.world.now) is not None


def test_each_is_answered_a_few_times_in_an_epoch_and_at_most_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    wanted = scene.wanted_after()
    for _ in range(annotating.TIMES):
        assert scene.answer(wanted) is not None
    assert scene.answer(wanted) is None
    annotator, now = scene.alice.group.annotator, scene.world.now
    assert scene.answer(Wanted((0, 1))) is not None
    monkeypatch.setattr(annotating, "REQUESTS_OF_ONE", annotating.TIMES + 2)
    assert scene.answer(Wanted((2,))) is None
    epoch = scene.carol.group.speaking.epoch
    assert not annotator.must_wait(epoch, now)
    answers = [(now, frozenset[str]())] * annotating.ANSWERS
    monkeypatch.setattr(annotator, "_answers", deque(answers, maxlen=annotating.ANSWERS))
    assert annotator.must_wait(epoch, now + 59)
    assert not annotator.must_wait(epoch, now + 60)


def test_nobody_has_all_answers_for_itself() -> None:
    """Bob asks about ended epochs, each in an answer of its own; Carol's one question does not wait behind his."""
    scene = Scene()
    alice, bob, now = scene.alice, scene.bob, scene.world.now
    annotator, keys = alice.group.annotator, list[AnnotationKey]()
    for _ in range(annotating.ANSWERS // 2 + 2):
        keys.append(AnnotationKey(bob.group.mls))
        alice.commit()
        scene.world.settle()
    request = AnnotationRequest(int(bob.group.mls.own_index), now, b"", (0,), 0)
    for key in keys:
        assert annotator.take_request(seal_request(key, bob.group.mls.signature_key, request))
    answered = 0
    while not annotator.must_wait(keys[answered].context.epoch, now) and answered < annotating.ANSWERS // 2:
        assert annotator.answer(keys[answered].context.epoch, now) is not None
        answered += 1
    assert answered == annotating.ANSWERS // 2
    last = keys[-1].context.epoch
    assert not annotator.must_wait(last, now)  # nobody else asks
    first = scene.carol.group.speaking.epoch
    assert annotator.take_request(scene.carol.group.following.request(scene.wanted(), now))
    assert annotator.must_wait(last, now)
    assert not annotator.must_wait(first, now)
    assert annotator.answer(first, now) is not None
    assert not annotator.must_wait(last, now)


def test_what_was_asked_about_an_epoch_that_we_have_left_without_a_commit_is_not_answered() -> None:
    scene = Scene()
    annotator, epoch = scene.alice.group.annotator, scene.alice.epoch
    assert annotator.take_request(scene.carol.group.following.request(Wanted((1,)), scene.world.now))
    annotator.active = False  # as in another state of the group, which no Commit has led to
    scene.alice.commit()
    scene.world.settle()
    assert annotator.due_epochs == [epoch]
    assert annotator.answer(epoch, scene.world.now) is None
    assert annotator.due_epochs == []


def test_a_tree_that_is_larger_than_the_policy_allows_is_not_fetched() -> None:
    """mls, "Large Groups": as of a Welcome; any member can name a place."""
    scene = Scene()
    scene.alice.commit()
    scene.settle()
    most = tree_limit(scene.carol.group.room_state.require_partial().policy.max_members)
    place = scene.world.upload(b"a tree")
    key = AnnotationKey(scene.carol.group.speaking)
    scene.carol.group.following.request(Wanted(tree=True), scene.world.now)
    for size, taken in ((most + 1, False), (most, True)):
        answer = Annotations((), None, None, (), replace(place, size=size).encode())
        assert scene.carol.group.following.take(seal_annotations(key, answer), BOB) is taken


def test_requests_that_are_not_answered() -> None:
    scene = Scene()
    alice, annotator = scene.alice, scene.alice.group.annotator
    key, bob = AnnotationKey(alice.group.mls), scene.bob.group.mls
    request = AnnotationRequest(1, 5, b"", (0,), 0)
    good = seal_request(key, bob.signature_key, request)
    # RFC 9420 6.1: every member has the key; the signature shows whose request it is.
    with pytest.raises(InvalidError):
        annotator.take_request(seal_request(key, scene.carol.group.speaking.signature_key, request))
    for bad, kind in (
        (seal_request(key, bob.signature_key, replace(request, asker=77)), InvalidError),
        (seal_request(key, bob.signature_key, replace(request, tree=2)), MalformedError),
        (seal_request(key, bob.signature_key, replace(request, commit=b"short")), MalformedError),
        (replace(good, data=bytes(MAX_REQUEST + 1)), MalformedError),
        (replace(good, data=good.data[:-1]), PeerError),
    ):
        with pytest.raises(kind):
            annotator.take_request(bad)
    assert not annotator.take_request(replace(good, epoch=99))
    assert not annotator.take_request(replace(good, group=b"another"))
    assert not annotator.take_request(seal_request(key, alice.group.mls.signature_key, replace(request, asker=0)))
    blank, unknown = replace(request, time=6, members=(3, 50)), replace(request, time=7, members=(), commit=bytes(32))
    assert not annotator.take_request(seal_request(key, bob.signature_key, blank))
    assert not annotator.take_request(seal_request(key, bob.signature_key, unknown))  # it has not been read here
    assert annotator.due_epochs == []
    assert not annotator.take_request(good)  # an earlier time than before: the room shows it again
    annotator.active = False
    assert not annotator.take_request(seal_request(key, bob.signature_key, replace(request, time=9)))


def test_ended_epochs_are_answered_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotating, "KEPT_EPOCHS", 3)
    scene = Scene()
    for _ in range(3):
        scene.alice.commit()
        scene.world.settle()
    scene.settle()
    assert scene.agrees()
    for _ in range(4):
        scene.alice.commit()
        scene.world.settle()
    assert scene.answer(scene.wanted()) is None


def test_a_message_of_an_ended_epoch_by_somebody_unproved_is_told() -> None:
    scene = Scene()
    late = scene.bob.send(b"late")
    stanza = scene.world.room.lose()
    scene.alice.commit()
    scene.settle()
    scene.world.room.in_flight.append(stanza)
    scene.settle()
    assert late.origin_id
    assert [event.reason for event in scene.carol.said(Unreadable)] == ["too-late"]
    assert scene.carol.texts == []


def test_who_stays_partial_keeps_its_place_at_what_it_cannot_judge_and_says_what_it_is() -> None:
    scene = Scene()
    assert only(scene.carol.events, JoinedPartially).by.account == ALICE
    scene.world.person(ERIN)
    scene.alice.commit(*scene.alice.adding(ERIN))
    scene.world.settle()
    before, place = stored(scene.carol), scene.carol.group.cursor
    scene.carol.read()
    assert (stored(scene.carol), scene.carol.group.cursor) == (before, place)
    scene.settle()
    assert scene.carol.group.state is MembershipState.PARTIAL
    assert scene.agrees()


def test_an_add_by_somebody_who_may_add_and_is_no_administrator_needs_the_tree() -> None:
    """Whether the account is established depends on members that are not proved (mls-policy, "Admission")."""
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE,), may_add=Right.MEMBERS))
    scene.world.person(DAVE)
    adds = scene.bob.adding(DAVE)
    assert all(isinstance(each, Add) for each in adds)
    scene.bob.commit(*adds)
    scene.world.settle()
    wanted = scene.wanted()
    assert scene.carol.group.following.take(scene.answer(wanted))
    assert scene.carol.group.following.is_beyond_us(wanted)


def test_what_a_member_cannot_judge_it_does_not_call_void() -> None:
    """Its sender is a member by the room, and it does not decrypt: Alice is not sure herself."""
    scene = Scene()
    group, epoch = scene.alice.group.mls.group_id, scene.alice.epoch
    scene.bob.commit()
    damaged = bytearray(next(iter(scene.world.room.in_flight[0].payloads)).data)
    damaged[-1] ^= 1
    scene.world.room.in_flight.clear()
    scene.world.room.post([elements.Commit(group, epoch, bytes(damaged))], BOB)
    scene.world.settle()
    assert scene.alice.group.certainty.reasons
    assert scene.answer(scene.wanted()) is None


def test_a_commit_that_shuts_one_administrator_out_is_not_called_void(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A path secret that is encrypted wrongly for her (RFC 9750 5.3), in a stanza of an account that is no member's."""
    scene = Scene()
    alice, bob, carol = scene.alice, scene.bob, scene.carol
    bob.group.annotator.active = True
    hers, seal = alice.group.mls.own_leaf.encryption_key, CipherSuite.encrypt_with_label

    def encrypt(suite: CipherSuite, key: bytes, label: str, context: bytes, secret: bytes) -> Any:
        return seal(suite, key, label, context, bytes(len(secret)) if key == hers else secret)

    with monkeypatch.context() as patch:
        patch.setattr(CipherSuite, "encrypt_with_label", encrypt)
        commit = bob.group.sending.commit((), scene.world.now)
    scene.world.room.post(commit, "stranger@s.example")
    scene.world.settle()
    assert bob.epoch == alice.epoch + 1
    assert alice.group.certainty.reasons  # a member has signed it, and the policy allows it
    assert scene.answer(scene.wanted()) is None
    assert carol.group.is_partial


def test_a_commit_that_comes_before_its_proposal_is_not_called_void() -> None:
    """It may come again, behind the proposal, and count (RFC 9420 12.4.2): a word on it would be one on both."""
    scene = Scene()
    alice, bob, carol, room = scene.alice, scene.bob, scene.carol, scene.world.room
    second = scene.world.person(BOB)  # another device of Bob's, which leaves
    alice.commit(*alice.adding(BOB))
    scene.settle()
    epoch = alice.epoch
    second.propose(Remove(second.group.mls.own_index))
    proposal = room.in_flight.pop()
    bob.take(Incoming("000000", proposal.payloads, BOB))  # they know it between themselves
    commit = bob.group.sending.commit((), scene.world.now)
    room.post(commit, "stranger@s.example")
    room.deliver_all()
    alice.read()
    assert isinstance(only(alice.events, Rejected).error, Premature)
    wanted = scene.wanted()
    assert scene.answer(wanted) is None
    assert not carol.group.following.has(wanted)
    full(scene)  # who gets no answer gets the tree
    room.post(proposal.payloads, BOB)
    room.post(commit, BOB)
    scene.world.settle()
    assert (alice.epoch, carol.epoch) == (epoch + 1, epoch + 1)
    assert scene.world.agree()


def test_a_request_about_what_the_other_has_not_read_yet_is_answered_when_it_has() -> None:
    scene = Scene()
    scene.bob.commit()
    scene.world.room.deliver_all()
    wanted = scene.wanted()
    annotator = scene.alice.group.annotator
    assert not annotator.take_request(scene.carol.group.following.request(wanted, scene.world.now))
    assert annotator.due_epochs == []
    scene.alice.read()
    assert annotator.due_epochs == [scene.alice.epoch - 1]
    answer = annotator.answer(scene.alice.epoch - 1, scene.world.now)
    assert answer is not None
    assert scene.carol.group.following.take(answer)
    scene.settle()
    assert scene.agrees()


def test_who_has_let_us_in_is_known_as_long_as_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its key, or by an administrator's, a Welcome is judged later (mls, "Large Groups")."""
    monkeypatch.setattr(applying, "CARRIED", 1)
    scene = Scene(policy=lambda world: RoomPolicy(world.room.jid, (ALICE, BOB)))
    for who in (scene.bob, scene.bob, scene.alice):
        who.commit()
        scene.settle()
    partial = scene.carol.group.room_state.require_partial()
    assert partial.inviter == scene.alice.group.mls.own_leaf
    scene.bob.group.annotator.active = True
    scene.bob.commit(*scene.bob.removing(ALICE))
    scene.world.settle()
    wanted = scene.wanted()
    answer = scene.answer(wanted, by=scene.bob)
    assert answer is not None
    assert scene.carol.group.following.take(answer)
    scene.carol.read()
    partial = scene.carol.group.room_state.require_partial()
    assert partial.inviter == partial.group.own_leaf
    assert scene.known == {BOB, CAROL}
    place = scene.world.upload(scene.bob.group.mls.tree.encode())
    events = scene.carol.group.partial.complete(verify(partial.group, scene.world.web[place]), ())
    assert only(events, Joined).by is None
    assert scene.world.agree()
