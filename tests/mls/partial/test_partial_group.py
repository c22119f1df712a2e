"""Partial members beside full ones (draft-ietf-mls-partial): joining, following, talking, going, becoming full."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import pytest

from slixmpp_mls.errors import InvalidError, MembershipUnproved, NotForUs, Replayed, UsageError, WrongEpoch
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group, external_proposal
from slixmpp_mls.mls.group.message_processing import ReceivedMessage, ReceivedProposal
from slixmpp_mls.mls.partial import CommitAnnotations, PartialGroup, StagedPartialCommit, authenticate_sender
from slixmpp_mls.mls.structures.extensions import ExternalSenders, RequiredCapabilities
from slixmpp_mls.mls.structures.framing import MLSMessage, NewMemberCommitSender, NewMemberProposalSender
from slixmpp_mls.mls.structures.partial import SenderAuthenticatedMessage
from slixmpp_mls.mls.structures.proposals import (
    Add,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
)
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.tree.tree_slice import prove
from tests.mls.group_helpers import NOW, bundle, group_info_of
from tests.mls.partial.partial_room import PartialRoom, welcomed

PATH = CommitOptions(path=True)


@pytest.fixture
def room() -> PartialRoom:
    """alice 0, bob 1, carol 2 have the tree; dave 3 and erin 4 have not."""
    return PartialRoom(["alice", "bob", "carol"], ["dave", "erin"])


def test_a_joiner_knows_the_inviter_and_itself(room: PartialRoom) -> None:
    known = {index for index, _ in room.partial["dave"].members()}
    assert known == {LeafIndex(0), LeafIndex(3)}
    assert "PartialTree of 8 leaves, 2 of them proved" in repr(room.partial["dave"].tree)


@pytest.mark.parametrize("suite", range(1, 8))
def test_every_suite(suite: int) -> None:
    room = PartialRoom(["alice", "bob", "carol"], ["dave"], suite)
    room.commit("carol", options=PATH)
    room.commit("bob", (Remove(LeafIndex(0)),))
    for name in room.all():
        room.say(name)
    room.commit("carol", partially=[bundle("frank", suite)], options=PATH)
    room.say("frank")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 16, 17])
def test_every_width(count: int) -> None:
    """Trees that are full, trees that have just been widened, and the smallest."""
    room = PartialRoom([f"full {number}" for number in range(count)], ["dave"])
    for name in list(room.full)[:5]:
        room.commit(name, options=PATH)
    room.say("dave")
    room.say("full 0")


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("path", [False, True])
def test_commits_with_and_without_a_path(room: PartialRoom, path: bool, public: bool) -> None:
    options = CommitOptions(path=path, public=public)
    room.commit("alice", joining=[bundle("frank")], options=options)
    room.commit("frank", partially=[bundle("gina"), bundle("hank")], options=options)
    for name in room.all():
        room.say(name)


def test_a_partial_member_that_is_unmerged(room: PartialRoom) -> None:
    """RFC 9420 4.1.1: unmerged leaves are in the resolution beside the node; the partial member uses its leaf key."""
    room.commit("carol", options=PATH)  # sets the nodes above dave and erin, as far as they have been there
    room.commit("alice", partially=[bundle("frank"), bundle("gina")], options=CommitOptions(path=False))
    gina = room.partial["gina"]
    whole = room.full["alice"].tree
    unmerged = [index for _, node in whole.parents() for index in node.unmerged_leaves]
    assert gina.own_index in unmerged
    for name in ("alice", "bob", "carol"):
        room.commit(name, options=PATH)
    room.say("gina")


def test_removal_of_others(room: PartialRoom) -> None:
    room.commit("bob", (Remove(LeafIndex(0)),))
    room.commit("bob", (Remove(LeafIndex(4)),))
    assert set(room.partial) == {"dave"}
    room.say("dave")


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("by_reference", [False, True])
def test_removal_of_ourselves(room: PartialRoom, by_reference: bool, public: bool) -> None:
    """Signed by a proved committer, and covering a Remove of us: no proof of us after it is asked for."""
    dave, alice = room.partial["dave"], room.full["alice"]
    options = CommitOptions(public=public)
    if by_reference:
        room.propose("carol", Remove(LeafIndex(3)))
        dave, alice = room.partial["dave"], room.full["alice"]
        made = alice.commit(now=NOW, options=options)
    else:
        made = alice.commit([Remove(LeafIndex(3))], now=NOW, options=options)
    staged = dave.process(authenticate_sender(alice.tree, LeafIndex(0), made.commit), now=NOW)
    assert isinstance(staged, StagedPartialCommit)
    assert staged.next is None
    assert staged.committer_index == 0
    with pytest.raises(UsageError, match="removes us"):
        dave.apply(staged, now=NOW)
    # the annotations of another receiver around it: the same
    annotations = CommitAnnotations.of(alice.tree, made.staged, made.commit)
    with pytest.raises(InvalidError):
        annotations.for_receiver(LeafIndex(3))
    other = dave.process(annotations.for_receiver(LeafIndex(4)), now=NOW)
    assert isinstance(other, StagedPartialCommit)
    assert other.next is None


def test_a_commit_without_annotations_is_refused(room: PartialRoom) -> None:
    made = room.full["alice"].commit(now=NOW)
    bare = authenticate_sender(room.full["alice"].tree, LeafIndex(0), made.commit)
    refused(room.partial["dave"], bare, "without annotations")


def test_leaving(room: PartialRoom) -> None:
    room.propose("dave", SelfRemove())
    room.commit("bob")
    assert "dave" not in room.partial
    room.say("erin")


def test_own_update(room: PartialRoom) -> None:
    """A partial member renews its keys by an Update that others commit (RFC 9420 12.1.2)."""
    before = room.partial["dave"].own_leaf
    room.propose_update("dave")
    with pytest.raises(UsageError, match=r"12\.4"):
        room.partial["dave"].encrypt(b"too early")
    room.commit("carol")
    after = room.partial["dave"].own_leaf
    assert after.encryption_key != before.encryption_key
    room.commit("alice", options=PATH)
    room.say("dave")


def test_updates_of_others(room: PartialRoom) -> None:
    room.propose_update("bob", public=True)
    room.propose_update("erin")
    room.commit("carol")
    for name in room.all():
        room.say(name)


def test_extensions(room: PartialRoom) -> None:
    extensions = (ExternalSenders(()).extension(),)
    room.commit("bob", (GroupContextExtensions(extensions),))
    assert room.partial["dave"].context.extensions == extensions


def test_extensions_that_we_do_not_support_are_refused(room: PartialRoom) -> None:
    """RFC 9420 12.1.7, 13.4: a member that could not follow the new requirements refuses the Commit."""
    alice = room.full["alice"]
    required = RequiredCapabilities((0xF777,), (), ()).extension()
    with pytest.MonkeyPatch.context() as patch:  # a committer that does not check
        patch.setattr("slixmpp_mls.mls.group.commit_creation.check_members", lambda *_: None)
        patch.setattr("slixmpp_mls.mls.group.commit_creation.check_leaf", lambda *_: None)
        made = alice.commit([GroupContextExtensions((required,))], now=NOW)
    annotated = CommitAnnotations.of(alice.tree, made.staged, made.commit).for_receiver(LeafIndex(3))
    refused(room.partial["dave"], annotated, "RFC 9420 7.3")


def test_psks(room: PartialRoom) -> None:
    values = {ExternalPSK(b"shared"): b"a secret"}
    name = PreSharedKeyID(ExternalPSK(b"shared"), os.urandom(32))
    past = ResumptionPSK(ResumptionPSKUsage.APPLICATION, b"a large room", room.partial["dave"].epoch)
    room.commit("alice", options=PATH)
    own = PreSharedKey(PreSharedKeyID(past, os.urandom(32)))
    room.commit("alice", (PreSharedKey(name), own), psks=values.get)
    room.say("dave")


def test_psk_that_is_missing(room: PartialRoom) -> None:
    alice = room.full["alice"]
    name = PreSharedKeyID(ExternalPSK(b"shared"), os.urandom(32))
    made = alice.commit([PreSharedKey(name)], now=NOW, psks=lambda _: b"a secret")
    annotated = CommitAnnotations.of(alice.tree, made.staged, made.commit).for_receiver(LeafIndex(3))
    refused(room.partial["dave"], annotated, "12.4.2")
    with pytest.raises(InvalidError, match="confirmation tag"):
        room.partial["dave"].process(annotated, now=NOW, psks=lambda _: b"another")


def test_external_commit(room: PartialRoom) -> None:
    """A new member's Commit has no proof of its sender before it."""
    frank = bundle("frank")
    alice = room.full["alice"]
    made = Group.external_commit(group_info_of(alice), frank.own_leaf, now=NOW)
    room.settle("frank", made, alice)
    room.full["frank"] = cast(Group, made.staged.next)
    room.agree()
    room.say("frank")
    known = dict(room.partial["dave"].members())
    assert known[room.full["frank"].own_index] == room.full["frank"].own_leaf


def test_resync_by_a_full_member_and_of_a_partial_one(room: PartialRoom) -> None:
    alice = room.full["alice"]
    back = bundle("bob", key=room.full["bob"].signature_key)
    made = Group.external_commit(group_info_of(alice), back.own_leaf, now=NOW, replaces=LeafIndex(1))
    room.settle("bob again", made, alice)
    room.full["bob again"] = cast(Group, made.staged.next)
    room.agree()
    # a partial member's own client lets itself in as a full one: the partial state learns that it has been replaced
    dave = room.partial["dave"]
    again = bundle("dave", key=dave.signature_key)
    made = Group.external_commit(group_info_of(room.full["alice"]), again.own_leaf, now=NOW, replaces=LeafIndex(3))
    staged = dave.process(MLSMessage.decode(made.commit), now=NOW)
    assert isinstance(staged, StagedPartialCommit)
    assert staged.next is None
    assert staged.committer == NewMemberCommitSender()
    assert staged.committer_index is None


def test_proposals_from_outside(room: PartialRoom) -> None:
    frank = bundle("frank")
    message = external_proposal(
        room.full["alice"].public, NewMemberProposalSender(), Add(frank.key_package), frank.signature_key
    )
    for name, group in room.full.items():
        room.full[name] = group.apply(group.process(message, now=NOW), now=NOW)
    for name, partial in room.partial.items():
        received = partial.process(MLSMessage.decode(message), now=NOW)
        assert isinstance(received, ReceivedProposal)
        room.partial[name] = partial.apply(received, now=NOW)
    room.commit("carol")
    room.say("dave")


def test_reinit_closes_the_group(room: PartialRoom) -> None:
    room.commit("alice", (ReInit(b"next", 1, 1, ()),))
    dave = room.partial["dave"]
    assert dave.closed is not None
    with pytest.raises(UsageError):
        dave.encrypt(b"too late")
    with pytest.raises(UsageError):
        dave.propose(SelfRemove(), now=NOW)


def test_a_reference_that_was_not_seen(room: PartialRoom) -> None:
    message, room.full["carol"] = room.full["carol"].propose(Remove(LeafIndex(1)), now=NOW)
    alice = room.full["alice"]
    alice = alice.apply(alice.process(message, now=NOW), now=NOW)
    made = alice.commit(now=NOW)
    annotated = CommitAnnotations.of(alice.tree, made.staged, made.commit).for_receiver(LeafIndex(3))
    refused(room.partial["dave"], annotated, "unknown proposal")


# --- messages --------------------------------------------------------------------------------


def test_a_sender_that_was_not_proved(room: PartialRoom) -> None:
    dave = room.partial["dave"]
    message, bob = room.full["bob"].encrypt(b"hello")
    with pytest.raises(MembershipUnproved) as caught:
        dave.process(MLSMessage.decode(message), now=NOW)
    assert caught.value.leaf_index == 1
    knowing = dave.prove(prove(bob.tree, LeafIndex(1)))
    received = knowing.process(MLSMessage.decode(message), now=NOW)
    assert isinstance(received, ReceivedMessage)
    assert received.data == b"hello"
    # once proved, in this epoch, no proof is needed
    knowing = knowing.apply(received, now=NOW)
    second, bob = bob.encrypt(b"again")
    assert cast(ReceivedMessage, knowing.process(MLSMessage.decode(second), now=NOW)).data == b"again"
    with pytest.raises(Replayed):
        knowing.process(MLSMessage.decode(message), now=NOW)


def test_a_message_makes_its_sender_known(room: PartialRoom) -> None:
    room.say("bob")
    assert LeafIndex(1) in dict(room.partial["dave"].members())
    room.commit("alice", options=PATH)
    assert LeafIndex(1) not in dict(room.partial["dave"].members())  # nothing proves yet that it is still there


def test_partial_members_hear_each_other(room: PartialRoom) -> None:
    """The sender's own proof goes with the message: no full member is needed."""
    message, dave = room.partial["dave"].encrypt(b"psst")
    received = room.partial["erin"].process(
        SenderAuthenticatedMessage(MLSMessage.decode(message), dave.own_proof), now=NOW
    )
    assert cast(ReceivedMessage, received).data == b"psst"
    with pytest.raises(NotForUs):
        dave.process(MLSMessage.decode(message), now=NOW)


def test_late_messages(room: PartialRoom) -> None:
    """RFC 9420 15.3; the proof is one of the tree that was (Sender-Authenticated Messages)."""
    bob = room.full["bob"]
    message, _ = bob.encrypt(b"late")
    then = authenticate_sender(bob.tree, LeafIndex(1), message)
    room.say("carol")
    room.commit("alice", options=PATH)
    room.commit("alice", joining=[bundle("frank")])
    dave = room.partial["dave"]
    now = authenticate_sender(room.full["alice"].tree, LeafIndex(1), message)
    with pytest.raises(InvalidError, match="another tree"):
        dave.process(now, now=NOW)
    with pytest.raises(MembershipUnproved):
        dave.process(MLSMessage.decode(message), now=NOW)
    received = dave.process(then, now=NOW)
    assert isinstance(received, ReceivedMessage)
    assert (received.data, received.epoch) == (b"late", bob.epoch)
    restored = PartialGroup.restore(dave.pieces().items())
    after = restored.apply(restored.process(then, now=NOW), now=NOW)
    with pytest.raises(Replayed):
        after.process(then, now=NOW)
    with pytest.raises(UsageError):
        after.apply(received, now=NOW)
    with pytest.raises(WrongEpoch):
        dave.process(then, now=NOW + 100_000)
    assert dave.forget_past(now=NOW + 100_000).past == ()


def test_late_message_of_somebody_who_was_proved_then(room: PartialRoom) -> None:
    room.say("bob")
    message, _ = room.full["bob"].encrypt(b"late")
    room.commit("alice", options=PATH)
    received = room.partial["dave"].process(MLSMessage.decode(message), now=NOW)
    assert cast(ReceivedMessage, received).data == b"late"


# --- becoming full, and back -----------------------------------------------------------------


def test_upgrade(room: PartialRoom) -> None:
    room.commit("carol", options=PATH)
    room.propose("bob", Remove(LeafIndex(4)))
    dave = room.partial.pop("dave")
    whole = room.full["alice"].tree
    room.full["dave"] = dave.upgrade(whole.encode())
    room.agree()
    assert tuple(room.full["dave"].members()) == tuple(room.full["alice"].members())
    room.commit("dave", joining=[bundle("frank")])
    assert "erin" not in room.partial
    room.say("dave")


def test_upgrade_refuses_another_tree(room: PartialRoom) -> None:
    dave = room.partial["dave"]
    old = room.full["alice"].tree
    room.commit("carol", options=PATH)
    for tree in (old.encode(), RatchetTree.single(old.suite, old.member(0)).encode()):
        with pytest.raises(InvalidError, match=r"12\.4\.3\.1"):
            room.partial["dave"].upgrade(tree)
    assert dave.upgrade(old).epoch == dave.epoch


def test_upgrade_drops_proposals_that_are_invalid(room: PartialRoom) -> None:
    """A partial member cannot tell that a leaf is blank (RFC 9420 12.1.3); a full one can."""
    message, _ = room.partial["dave"].propose(Remove(LeafIndex(6)), now=NOW)
    dave = room.partial["dave"]
    _, dave = dave.propose(Remove(LeafIndex(6)), now=NOW)
    assert len(dave.pending_proposals) == 1
    assert dave.upgrade(room.full["alice"].tree).pending_proposals == ()
    with pytest.raises(InvalidError, match=r"12\.1\.3|7\.1"):
        room.full["alice"].process(message, now=NOW)
    with pytest.raises(InvalidError):
        dave.propose(Remove(LeafIndex(99)), now=NOW)


def test_downgrade(room: PartialRoom) -> None:
    room.commit("bob", options=PATH)
    room.partial["bob"] = PartialGroup.downgrade(room.full.pop("bob"))
    room.agree()
    room.commit("carol", options=PATH)
    room.say("bob")
    room.full["bob"] = room.partial.pop("bob").upgrade(room.full["alice"].tree)
    room.commit("bob", options=PATH)


# --- joining ---------------------------------------------------------------------------------


def test_a_welcome_for_others(room: PartialRoom) -> None:
    frank = bundle("frank")
    made = room.full["alice"].commit([Add(frank.key_package)], now=NOW)
    with pytest.raises(NotForUs):
        PartialGroup.join(welcomed(made, frank), bundle("gina"))
    assert len(welcomed(made, frank).welcome.message.secrets) == 1
    known = {room.full["alice"].group_id: room.full["alice"]}
    with pytest.raises(InvalidError, match="of this id"):
        PartialGroup.join(welcomed(made, frank), frank, groups=known.get)


def test_a_group_that_continues_another_is_joined_with_the_tree(room: PartialRoom) -> None:
    """RFC 9420 12.4.3.1 compares the members; a partial member cannot."""
    alice = room.full["alice"]
    clients = {name: bundle(name) for name in ("alice", "bob")}
    made = alice.draft_branch(b"aside", clients["alice"], [clients["bob"].key_package], now=NOW).finish()
    with pytest.raises(InvalidError, match="whole tree"):
        PartialGroup.join(welcomed(made, clients["bob"]), clients["bob"], groups={alice.group_id: alice}.get)


# --- storing ---------------------------------------------------------------------------------


def test_pieces(room: PartialRoom) -> None:
    """What changes is what is written; a restored state is the same and goes on."""
    disk = room.partial["dave"].pieces()
    base = room.partial["dave"].stored()

    def write() -> None:
        nonlocal base
        for name, value in room.partial["dave"].changes_since(base).items():
            if value is None:
                del disk[name]
            else:
                disk[name] = value
        assert disk == room.partial["dave"].pieces()
        room.partial["dave"] = PartialGroup.restore(disk.items())
        base = room.partial["dave"].stored()
        assert base.pieces() == disk
        room.agree()

    room.say("bob")
    changed = room.partial["dave"].changes_since(base)
    assert {name[:1] for name in changed} == {b"T", b"R"}
    assert sum(name[:1] == b"T" for name in changed) == 1  # the leaf that was proved
    write()
    room.propose_update("dave")
    write()
    room.commit("carol")
    write()
    room.commit("alice", options=PATH)
    write()
    room.say("dave")
    write()


def test_state_of_another_kind_is_refused(room: PartialRoom) -> None:
    with pytest.raises(InvalidError):
        PartialGroup.restore(room.full["alice"].pieces().items())


def test_nothing_secret_is_shown(room: PartialRoom) -> None:
    dave = room.partial["dave"]
    secret = dave.secrets.init_secret.hex()
    staged = dave.process(
        CommitAnnotations.of(room.full["alice"].tree, *_made(room)).for_receiver(LeafIndex(3)),
        now=NOW,
    )
    for value in (dave, staged, dave.tree, dave.private):
        assert secret not in repr(value)
        assert repr(dave.secrets.init_secret) not in repr(value)


def _made(room: PartialRoom) -> tuple[Any, bytes]:
    made = room.full["alice"].commit(now=NOW)
    return made.staged, made.commit


def refused(group: PartialGroup, message: Any, reason: str) -> None:
    """The message is refused, and nothing has changed by an octet."""
    before = group.pieces()
    with pytest.raises(InvalidError) as caught:
        group.process(message, now=NOW)
    assert reason in str(caught.value), str(caught.value)
    assert group.pieces() == before
    assert replace(group).pieces() == before
