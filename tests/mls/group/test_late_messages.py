"""Application messages that arrive when their epoch has ended: RFC 9420 15.3, and what is deleted: 9.2."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.errors import InvalidError, NotForUs, Replayed, UsageError, WrongEpoch
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.group_state import past_leaf
from slixmpp_mls.mls.group.message_processing import ReceivedMessage
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.parameters import HOUR, Parameters
from slixmpp_mls.mls.schedule.secret_tree import RatchetKind
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.framing import ApplicationData, MemberSender
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.mls.tree.leaf_creation import OwnLeaf, capabilities
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from tests.mls.group_helpers import NOW, Room, bundle, forged, heard, refused, won

THREE = Room.of("alice", "bob", "carol")


@pytest.fixture
def room() -> Room:
    return THREE.copy()


def read(group: Group, message: bytes) -> tuple[Group, ReceivedMessage]:
    received = group.process(message, now=NOW)
    assert isinstance(received, ReceivedMessage)
    return group.apply(received, now=NOW), received


def test_15_3_late_messages_are_read_once_and_in_any_order(room: Room) -> None:
    """mls-peers-lessons, users 4: none may be lost by default."""
    late = []
    for epoch in range(1, 5):
        for _ in range(3):
            message, room["bob"] = room["bob"].encrypt(bytes([epoch]))
            late.append(message)
        room.commit("carol" if epoch % 2 else "alice")
    alice = room["alice"]
    assert [past.epoch for past in alice.past] == [0, 1, 2, 3, 4]
    for number in (11, 0, 5, 2, 1, 3, 9, 4, 10, 8, 7, 6):
        alice, received = read(alice, late[number])
        assert (received.epoch, received.data) == (number // 3 + 1, bytes([number // 3 + 1]))
        alice = Group.restore(alice.pieces().items())
    for message in late:
        refused(alice, message, "9.2", Replayed)


def test_15_3_senders_that_have_changed_since(room: Room) -> None:
    """Who sent it is told by the leaf as it was then, whoever has that leaf now."""
    first, room["bob"] = room["bob"].encrypt(b"first")
    old = room["bob"].own_leaf
    key = room["bob"].suite.generate_signature_key()
    room.commit("bob", options=CommitOptions(leaf=OwnLeaf(BasicCredential(b"bob, anew"), key, capabilities())))
    second, room["bob"] = room["bob"].encrypt(b"second")
    new = room["bob"].own_leaf
    room.commit("alice", [Remove(1)])
    dave = bundle("dave")
    room.commit("alice", [Add(dave.key_package)], joining=[dave])
    third, room["dave"] = room["dave"].encrypt(b"third")
    room.commit("alice")
    for name in ("alice", "carol"):
        group = Group.restore(room[name].pieces().items())
        for message, leaf in ((third, dave.key_package.leaf_node), (first, old), (second, new)):
            group, received = read(group, message)
            assert (received.sender, received.leaf) == (1, leaf)


def test_15_3_a_leaf_that_was_blank_then(room: Room) -> None:
    ended = room["bob"]
    dave = bundle("dave")
    room.commit("bob", [Add(dave.key_package)], joining=[dave])
    posing = replace(ended, private=replace(ended.private, index=room["dave"].own_index))
    refused(room["alice"], forged(posing, ApplicationData(b"x"), public=False), "blank")


def test_15_3_a_late_message_must_be_signed_by_who_was_there_then(room: Room) -> None:
    ended = room["bob"]
    room.commit("bob", [Remove(2)])
    dave = bundle("dave")
    room.commit("bob", [Add(dave.key_package)], joining=[dave])
    message = forged(ended, ApplicationData(b"x"), public=False, sender=MemberSender(2), key=dave.signature_key)
    refused(room["alice"], message, "signature")


def test_late_handshake_messages_are_refused(room: Room) -> None:
    proposal, _ = room["bob"].propose(Remove(2), now=NOW)
    commit = room["bob"].commit(now=NOW).commit
    room.commit("carol")
    refused(room["alice"], proposal, "epoch", WrongEpoch)
    refused(room["alice"], commit, "epoch", WrongEpoch)


def test_our_own_late_message(room: Room) -> None:
    message, room["bob"] = room["bob"].encrypt(b"x")
    room.commit("bob")
    refused(room["bob"], message, "our own", NotForUs)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_15_3_only_so_many_epochs(limit: int) -> None:
    room = Room.of("alice", "bob", parameters=Parameters(past_epochs=limit))
    late = []
    for _ in range(5):
        message, room["bob"] = room["bob"].encrypt(b"x")
        late.append(message)
        room.commit("bob")
    alice = room["alice"]
    assert len(alice.past) == limit
    assert {name[1:9] for name in alice.pieces() if name[:1] == b"R"} == {
        epoch.to_bytes(8, "big") for epoch in range(6 - limit, 7)
    }
    for message in late[: 5 - limit]:
        refused(alice, message, "epoch", WrongEpoch)
    for message in late[5 - limit :]:
        alice, _ = read(alice, message)


def test_15_3_only_for_so_long(room: Room) -> None:
    message, room["bob"] = room["bob"].encrypt(b"x")
    made = room["bob"].commit(now=NOW)
    alice = heard(room["alice"], made.commit)
    assert alice.process(message, now=NOW + HOUR)
    with pytest.raises(WrongEpoch):
        alice.process(message, now=NOW + HOUR + 1)
    assert alice.forget_past(now=NOW + HOUR) is alice
    later = alice.forget_past(now=NOW + HOUR + 1)
    assert later.past == ()
    gone = set(alice.pieces()) - set(later.pieces())
    assert {name[:1] for name in gone} >= {b"R", b"P", b"L"}
    assert all(value is None for value in later.changes_since(alice).values())
    assert later.changes_since(alice).keys() == gone
    with pytest.raises(WrongEpoch):
        later.process(message, now=NOW)


def test_epochs_are_forgotten_from_the_oldest_on(room: Room) -> None:
    """With a gap in between, it would be forgotten who was where in the epochs before the gap."""
    message, room["bob"] = room["bob"].encrypt(b"x")
    times = (NOW, NOW + 3 * HOUR, NOW + 60)  # a clock that was wrong for a moment
    alice = room["alice"]
    for now, name in zip(times, ("carol", "bob", "carol"), strict=True):
        made = room[name].commit(now=NOW)
        room.hear(made.commit, name, "alice")
        room[name] = won(made)
        alice = alice.apply(alice.process(made.commit, now=NOW), now=now)
    assert [past.epoch for past in alice.past] == [3]
    refused(alice, message, "epoch", WrongEpoch)


def test_9_2_the_key_of_a_commit_goes_with_the_commit(room: Room) -> None:
    """With what is kept of the epoch that it ended, nobody can open it again."""
    made = room["bob"].commit(now=NOW)
    staged = room["alice"].process(made.commit, now=NOW)
    assert isinstance(staged, StagedCommit)
    message, room["carol"] = room["carol"].encrypt(b"in between")
    alice = heard(room["alice"], message).apply(staged, now=NOW)
    past = alice.past[-1]
    assert past.epoch == made.staged.base_epoch
    for tree in (past.secret_tree, Group.restore(alice.pieces().items()).past[-1].secret_tree):
        with pytest.raises(Replayed):
            tree.at(1, RatchetKind.HANDSHAKE, 0)
    assert won(made).past[-1].secret_tree.next(1, RatchetKind.HANDSHAKE)[0].generation == 1


def test_9_2_what_is_used_up_is_in_no_piece(room: Room) -> None:
    """Secrets of nodes, ratchets and messages are nowhere once they have served."""
    alice = room["alice"]
    before = {value for name, value in alice.pieces().items() if name[:1] in b"RSK"}
    first, bob = room["bob"].encrypt(b"1")
    second, _ = bob.encrypt(b"2")
    seen = [set(alice.pieces().values())]
    for message in (second, first):
        alice = heard(alice, message)
        seen.append(set(alice.pieces().values()))
    # Not the mark of where the memory of contents begins, which is empty.
    root = next(value for name, value in room["alice"].pieces().items() if name[:1] == b"R" and value)
    assert root in before
    assert all(root not in values for values in seen[1:])  # the encryption secret, with its first use
    skipped = [name for name in alice.pieces() if name[:1] == b"R" and name[9:10] == b"s"]
    assert not skipped
    after = won(room["bob"].commit(now=NOW))
    gone = {value for name, value in room["bob"].pieces().items() if name in (b"S",)}
    assert not gone & set(after.pieces().values())
    assert room["bob"].secrets.init_secret not in b"".join(after.pieces().values())
    assert room["bob"].secrets.exporter_secret not in b"".join(after.pieces().values())


def test_9_2_old_private_keys_are_gone_after_a_path(room: Room) -> None:
    for name in ("bob", "alice"):
        before = {key.encode() for key in room[name].private.keys.values()}
        room.commit("bob")
        kept = before & {key.encode() for key in room[name].private.keys.values()}
        everything = b"".join(room[name].pieces().values())
        assert all(key not in everything for key in before - kept)
    assert len(kept) == 1  # Alice's own leaf, which is as it was


def test_the_state_may_have_forgotten_the_epoch_meanwhile(room: Room) -> None:
    message, room["bob"] = room["bob"].encrypt(b"x")
    room.commit("bob")
    received = room["alice"].process(message, now=NOW)
    later = room["alice"].forget_past(now=NOW + 2 * HOUR)
    assert later.apply(received, now=NOW).pieces() == later.pieces()
    twice = room["alice"].apply(received, now=NOW)
    with pytest.raises(UsageError):
        twice.apply(received, now=NOW)


def test_a_joiner_reads_nothing_from_before(room: Room) -> None:
    message, room["bob"] = room["bob"].encrypt(b"x")
    dave = bundle("dave")
    room.commit("bob", [Add(dave.key_package)], joining=[dave])
    refused(room["dave"], message, "epoch", WrongEpoch)
    with pytest.raises(InvalidError):
        past_leaf(room["dave"], 0, LeafIndex(9))
