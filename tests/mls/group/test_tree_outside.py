"""A Welcome whose ratchet tree is elsewhere (RFC 9420 12.4.3.3), and Commits that wait for that as drafts."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import cast

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError, NotForUs, PeerError, UsageError
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.message_processing import ReceivedMessage
from slixmpp_mls.mls.registry import ExtensionType
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.stanza.blob import BlobReference, RatchetTreeLocation, Sealing
from tests.mls.group_helpers import NOW, Room, body, bundle, group_info_of, heard, welcome_of, won
from tests.tampering import tampered

ROOM = Room.of("alice", "bob", "carol", "dave")
ELSEWHERE = Extension(0xF4E0, b"there")


def types_of(extensions: tuple[Extension, ...]) -> list[int]:
    return [extension.extension_type for extension in extensions]


@pytest.mark.parametrize("path", [True, False])
@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("suite", [1, 2])
def test_joining_with_a_tree_from_elsewhere(suite: int, path: bool, public: bool) -> None:
    room = ROOM.copy() if suite == 1 else Room.of("alice", "bob", "carol", suite=suite)
    erin, frank = bundle("erin", suite), bundle("frank", suite)
    draft = room["bob"].draft_commit(
        [Add(erin.key_package), Add(frank.key_package)], now=NOW, options=CommitOptions(path=path, public=public)
    )
    assert draft.invites
    blob = Sealing(draft.tree.encode(), os.urandom)
    location = RatchetTreeLocation(blob.at("https://share.example/tree"))
    made = room["bob"].finish_commit(draft, instead_of_tree=location.extension())

    for joiner in (erin, frank):
        info = Group.peek(welcome_of(made), joiner)
        assert info.group_context.group_id == b"a room"
        assert info.group_context.epoch == room["bob"].epoch + 1
        found = RatchetTreeLocation.found_in(info.extensions)
        assert found == location
        assert ExtensionType.RATCHET_TREE not in types_of(info.extensions)
        with pytest.raises(InvalidError, match=r"12\.4\.3\.3"):
            Group.join(welcome_of(made), joiner)
        assert found is not None
        tree = found.blob.open(blob.ciphertext)
        joined = Group.join(welcome_of(made), joiner, tree=tree)
        room[joiner.key_package.leaf_node.credential.identity.decode()] = cast(Group, joined.state)  # type: ignore[union-attr]
    for name in ("alice", "carol"):
        room[name] = heard(room[name], made.commit)
    if "dave" in room.groups:
        room["dave"] = heard(room["dave"], made.commit)
    room["bob"] = won(made)
    room.agree()
    room.say("frank")
    room.commit("erin", [Remove(LeafIndex(0))])


def test_12_4_3_1_a_tree_that_is_not_the_groups() -> None:
    erin, frank = bundle("erin"), bundle("frank")
    draft = ROOM["bob"].draft_commit([Add(erin.key_package)], now=NOW)
    made = ROOM["bob"].finish_commit(draft, instead_of_tree=ELSEWHERE)
    other = ROOM["bob"].draft_commit([Add(erin.key_package)], now=NOW, options=CommitOptions(path=True))
    third = ROOM["bob"].draft_commit([Add(erin.key_package), Add(frank.key_package)], now=NOW)
    good = draft.tree.encode()
    assert Group.join(welcome_of(made), erin, tree=good).state.epoch == 2
    for tree in (other.tree.encode(), third.tree.encode(), ROOM["bob"].tree.encode(), b"", good[:-1], good + b"\x00",
                 good[:200] + bytes([good[200] ^ 1]) + good[201:], os.urandom(2000)):  # fmt: skip
        with pytest.raises(PeerError):
            Group.join(welcome_of(made), erin, tree=tree)


def test_peeking_at_a_welcome_for_somebody_else() -> None:
    made = ROOM["bob"].commit([Add(bundle("erin").key_package)], now=NOW)
    with pytest.raises(NotForUs):
        Group.peek(welcome_of(made), bundle("erin"))
    erin = bundle("erin")
    made = ROOM["bob"].commit([Add(erin.key_package)], now=NOW)
    welcome = welcome_of(made)
    broken = replace(welcome, encrypted_group_info=tampered(welcome.encrypted_group_info))
    with pytest.raises(PeerError):
        Group.peek(broken, erin)
    with pytest.raises(InvalidError):
        Group.peek(replace(welcome, cipher_suite=2), erin)
    assert ExtensionType.RATCHET_TREE in types_of(Group.peek(welcome, erin).extensions)


def test_a_group_info_with_the_tree_elsewhere() -> None:
    info = group_info_of(ROOM["carol"], tree=False, extensions=(ELSEWHERE,))
    assert ELSEWHERE in info.extensions
    assert ExtensionType.RATCHET_TREE not in types_of(info.extensions)
    draft = ROOM["carol"].draft_commit([], now=NOW, options=CommitOptions(path=True, group_info=True))
    assert not draft.invites
    made = ROOM["carol"].finish_commit(draft, instead_of_tree=ELSEWHERE)
    assert made.welcome is None
    assert made.group_info is not None
    assert ELSEWHERE in body(made.group_info).extensions
    assert ExtensionType.RATCHET_TREE not in types_of(body(made.group_info).extensions)


# --- drafts ----------------------------------------------------------------------------------


def test_a_draft_uses_up_nothing() -> None:
    before = ROOM["bob"].pieces()
    first = ROOM["bob"].draft_commit([Remove(LeafIndex(3))], now=NOW)
    ROOM["bob"].draft_commit([], now=NOW)
    assert ROOM["bob"].pieces() == before
    made = ROOM["bob"].finish_commit(first)
    assert ROOM["bob"].pieces() == before
    assert made.sent.pieces() != before  # type: ignore[attr-defined]
    assert repr(first) == "<CommitDraft for epoch 1>"


def test_9_2_keys_used_while_a_draft_waited_stay_used() -> None:
    """Messages come and go, of this epoch and the one before, a proposal goes; then the draft is finished."""
    room = ROOM.copy()
    late, room["alice"] = room["alice"].encrypt(b"late")
    room.commit("carol")
    erin = bundle("erin")
    draft = room["bob"].draft_commit([Add(erin.key_package)], now=NOW, options=CommitOptions(path=True))
    room.say("bob", b"one")
    room.say("carol", b"two")
    read = room["bob"].process(late, now=NOW)
    assert isinstance(read, ReceivedMessage)
    room["bob"] = room["bob"].apply(read, now=NOW)
    room.propose("bob", Remove(LeafIndex(3)))  # takes a key of the same ratchet as the Commit will
    stored = room["bob"].stored()
    made = stored.finish_commit(draft, instead_of_tree=ELSEWHERE)

    # What a store has: the state and the waiting Commit, read again.
    sent = cast(Group, made.sent)
    waiting = sent.staged_pieces(made.staged)
    again = Group.restore(sent.pieces().items())
    assert again.pieces() == sent.pieces()
    restored = again.apply(again.restore_staged(waiting), now=NOW)
    assert restored.epoch_authenticator == won(made).epoch_authenticator
    ended = (room["bob"].epoch - 1).to_bytes(8, "big")
    assert ended in {name[1:9] for name in sent.pieces()}
    assert ended not in {name[1:9] for name in waiting}
    for group in (restored, won(made)):
        with pytest.raises(PeerError):
            group.process(late, now=NOW)

    # The others follow: neither the proposal's key nor the Commit's is used twice.
    for name in ("alice", "carol", "dave"):
        room[name] = heard(room[name], made.commit)
    room["bob"] = won(made)
    room["erin"] = cast(Group, Group.join(welcome_of(made), erin, tree=draft.tree.encode()).state)
    room.agree()
    room.say("bob")
    assert len(list(room["bob"].members())) == 5  # the proposal came after the draft: it is not covered


def test_a_draft_of_an_ended_epoch() -> None:
    room = ROOM.copy()
    draft = room["bob"].draft_commit([], now=NOW)
    room.commit("alice")
    with pytest.raises(UsageError):
        room["bob"].finish_commit(draft)
    # Another group in an epoch of the same number, too.
    other = Room.of("alice", "bob", "carol", "dave")
    with pytest.raises(UsageError):
        other["bob"].finish_commit(ROOM["bob"].draft_commit([], now=NOW))


def test_locations_that_are_none() -> None:
    good = RatchetTreeLocation(Sealing(b"tree", os.urandom).at("https://share.example/"))
    assert good.extension().extension_type == 0xF4E0
    assert good.encode() == good.blob.encode()  # as in the XEP: one flat structure
    assert repr(good) == "<RatchetTreeLocation>"
    assert repr(good.blob) == "<BlobReference>"
    for data in (b"", good.encode()[:-1], good.encode() + b"x", good.encode().replace(b"https", b"http:")):
        with pytest.raises(MalformedError):
            RatchetTreeLocation.found_in((Extension(0xF4E0, data),))
    assert BlobReference.decode(good.encode()) == good.blob
