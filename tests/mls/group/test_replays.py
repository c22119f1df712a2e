"""A member encrypts once more what another member has signed (RFC 9420 6.1: no signature covers the generation)."""

from __future__ import annotations

import pytest

from slixmpp_mls.errors import Replayed, StateRolledBack
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.message_processing import ReceivedMessage, ReceivedProposal, open_private
from slixmpp_mls.mls.schedule.message_protection import protect_private
from slixmpp_mls.mls.schedule.secret_tree import MARKED, RatchetKind
from slixmpp_mls.mls.structures.framing import AuthenticatedContent, MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.proposals import Remove
from tests.mls.group_helpers import NOW, Room


def content_of(reader: Group, message: bytes) -> AuthenticatedContent:
    body = MLSMessage.decode(message).body
    assert isinstance(body, PrivateMessage)
    return open_private(reader, body).content


def encrypted_again(insider: Group, content: AuthenticatedContent) -> bytes:
    """What some member makes of a content that another one has signed: under the next generation that it sees free."""
    message, _ = protect_private(insider.suite, content, insider.secret_tree, insider.secrets.sender_data_secret)
    return MLSMessage.wrap(message)


@pytest.fixture
def room() -> Room:
    return Room.of("alice", "bob", "carol")


def read(group: Group, message: bytes) -> Group:
    return group.apply(group.process(message, now=NOW), now=NOW)


def test_a_repetition_is_marked_and_leaves_the_key_to_its_owner(room: Room) -> None:
    said, bob = room["bob"].encrypt(b"once")
    copy = encrypted_again(read(room["carol"], said), content_of(room["carol"], said))
    alice = read(room["alice"], said)
    received = alice.process(copy, now=NOW)
    assert isinstance(received, ReceivedMessage)
    assert received.again
    genuine, _ = bob.encrypt(b"twice")
    after = alice.process(genuine, now=NOW)  # the copy was not applied
    assert isinstance(after, ReceivedMessage)
    assert (after.data, after.again) == (b"twice", False)


def test_a_repetition_of_ones_own_is_no_sign_of_a_copied_state(room: Room) -> None:
    said, bob = room["bob"].encrypt(b"once")
    copy = encrypted_again(read(room["carol"], said), content_of(room["carol"], said))
    with pytest.raises(Replayed):
        bob.process(copy, now=NOW)
    with pytest.raises(StateRolledBack):  # of the state before, the copy is a proof: it has not signed that
        room["bob"].process(copy, now=NOW)


def test_the_same_of_proposals(room: Room) -> None:
    said, bob = room["bob"].propose(Remove(2), now=NOW)
    carol = read(room["carol"], said)
    copy = encrypted_again(carol, content_of(room["carol"], said))
    alice = read(room["alice"], said)
    received = alice.process(copy, now=NOW)
    assert isinstance(received, ReceivedProposal)
    assert received.again
    with pytest.raises(Replayed):
        bob.process(copy, now=NOW)


def test_the_same_of_ended_epochs(room: Room) -> None:
    """RFC 9420 15.3: their keys are there for late messages."""
    said, room["bob"] = room["bob"].encrypt(b"once")
    content = content_of(room["carol"], said)
    room["alice"], room["carol"] = read(room["alice"], said), read(room["carol"], said)
    copy = encrypted_again(room["carol"], content)
    room.commit("alice")
    with pytest.raises(Replayed):
        room["bob"].process(copy, now=NOW)
    received = room["alice"].process(copy, now=NOW)
    assert isinstance(received, ReceivedMessage)
    assert received.again


def test_marks_survive_in_the_store(room: Room) -> None:
    said, bob = room["bob"].encrypt(b"once")
    content = content_of(room["carol"], said)
    copy = encrypted_again(read(room["carol"], said), content)
    restored = Group.restore(bob.pieces().items())
    with pytest.raises(Replayed):
        restored.process(copy, now=NOW)
    alice = Group.restore(read(room["alice"], said).pieces().items())
    received = alice.process(copy, now=NOW)
    assert isinstance(received, ReceivedMessage)
    assert received.again


def test_where_marks_are_missing_nothing_is_proved(room: Room) -> None:
    """A state of version 0.1 has no marks, and after 4,096 messages there are no more."""
    said, bob = room["bob"].encrypt(b"once")
    copy = encrypted_again(read(room["carol"], said), content_of(room["carol"], said))
    old = Group.restore((name, value) for name, value in room["bob"].pieces().items() if name[9:10] != b"m")
    with pytest.raises(Replayed):
        old.process(copy, now=NOW)
    tree = bob.secret_tree
    assert tree.remembers_all(bob.own_index, RatchetKind.APPLICATION)
    for _ in range(MARKED):
        _, tree = tree.next(bob.own_index, RatchetKind.APPLICATION)
    assert not tree.remembers_all(bob.own_index, RatchetKind.APPLICATION)
    assert tree.carrying(bob.own_index, RatchetKind.APPLICATION, bytes(16)) is tree
    assert tree.remembers_all(bob.own_index, RatchetKind.HANDSHAKE)
