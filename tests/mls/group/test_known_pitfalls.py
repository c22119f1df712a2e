"""What other MLS stacks got wrong: each line of mls-peers-lessons has a test here, or is said where it has one.

What users ask for (the numbers are that list's):

1. atomic storage: ``tests/store/test_crash.py``; here, one step is one set of changes
2. own echo, stuck pending commits: below; across restarts in ``test_group_pieces.py``
3. forks and rejoin: ``test_external_join.py``
4. order and late messages: below; ``test_late_messages.py``
5. large groups: below; ``test_group_pieces.py``
6. leaving: below; ``test_group.py``
7. KeyPackage lifetime and last resort: below; ``test_leaf_validation.py``
8. why an Add would be refused: ``test_group.py``
9. strictness of the codec: ``test_tls.py``; leaf 0 below
10. ReInit: ``test_resumption.py``
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from typing import cast

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError, NotForUs, PeerError, Replayed, UsageError
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.extensions import (
    ApplicationId,
    Extension,
    ExternalPub,
    ExternalSenders,
    RequiredCapabilities,
)
from slixmpp_mls.mls.structures.framing import ApplicationData, FramedContent, MemberSender
from slixmpp_mls.mls.structures.leaf_node import CommitSource, Lifetime, leaf_node_tbs
from slixmpp_mls.mls.structures.parent_node import ParentNode
from slixmpp_mls.mls.structures.proposals import Add, PreSharedKey, Remove, SelfRemove
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from tests.mls.group_helpers import (
    DAY,
    NOW,
    PUBLIC,
    Room,
    body,
    bundle,
    forged,
    forged_commit,
    group_info_of,
    heard,
    lookup,
    refused,
    welcome_of,
    won,
)

THREE = Room.of("alice", "bob", "carol")


@pytest.fixture
def room() -> Room:
    return THREE.copy()


# --- what users ask for ----------------------------------------------------------------------


def test_users_1_a_step_is_one_set_of_changes(room: Room) -> None:
    """openmls#1194: torn groups.  What a Commit changes is one mapping, for one transaction."""
    before = room["alice"].stored()
    after = heard(before, room["bob"].commit(now=NOW).commit)
    pieces = before.pieces()
    for name, value in after.changes_since(before).items():
        if value is None:
            pieces.pop(name, None)
        else:
            pieces[name] = value
    assert pieces == after.pieces()


def test_users_2_own_echo(room: Room) -> None:
    """openmls#2077: what we sent comes back; it is recognised, whichever form it has, and changes nothing."""
    bob = room["bob"]
    for options in (CommitOptions(), PUBLIC):
        made = bob.commit(now=NOW, options=options)
        refused(cast(Group, made.sent), made.commit, "our own", NotForUs)
    message, sent = bob.encrypt(b"x")
    refused(sent, message, "our own", NotForUs)


def test_users_2_a_left_over_commit_is_in_nobodys_way(room: Room) -> None:
    """openmls#2099, wire-ios#980: a Commit that was made and never won is nothing but a value to forget."""
    for _ in range(3):
        room["bob"] = cast(Group, room["bob"].commit([Remove(2)], now=NOW).sent)
    room.say("bob")
    room.commit("bob")
    room.say("bob")


def test_users_3_a_client_is_brought_back(room: Room) -> None:
    """openmls#1731: removed and added again in one Commit, with a new KeyPackage and the same signature key."""
    again = bundle("carol", key=room["carol"].signature_key)
    room.commit("alice", [Remove(2), Add(again.key_package)], joining=[again])
    room.say("carol")


def test_users_4_by_default_no_late_message_is_lost(room: Room) -> None:
    """mdk#207, libxmtp#935: a default of no past epochs."""
    assert Parameters().past_epochs >= 1
    message, _ = room["bob"].encrypt(b"x")
    room.commit("carol")
    assert heard(room["alice"], message)


def test_users_4_a_ratchet_moves_once_for_each_message(room: Room) -> None:
    """openmls#453: advanced twice.  Processing again and again moves nothing; applying once moves it once."""
    first, bob = room["bob"].encrypt(b"1")
    second, _ = bob.encrypt(b"2")
    alice = room["alice"]
    for _ in range(3):
        received = alice.process(first, now=NOW)
    alice = heard(alice.apply(received, now=NOW), second)
    assert not [name for name in alice.pieces() if name[:1] == b"R" and name[9:10] == b"s"]


def test_users_4_a_message_of_a_future_epoch_can_be_kept_and_read_later(room: Room) -> None:
    """wire-ios#837."""
    made = room["bob"].commit(now=NOW)
    message, _ = won(made).encrypt(b"x")
    refused(room["alice"], message, "epoch")
    assert heard(heard(room["alice"], made.commit), message)


def test_users_5_a_commit_is_processed_once(room: Room) -> None:
    """libxmtp#2248: commits processed twice."""
    made = room["bob"].commit(now=NOW, options=PUBLIC)
    refused(heard(room["alice"], made.commit), made.commit, "epoch")


def test_users_5_no_recursion_over_the_tree() -> None:
    """mlspp#217: a tree as deep as trees may be is walked with a stack of ours; see also the group of thousands."""
    clients = [bundle(f"guest {number}") for number in range(40)]
    room = Room.of("alice")
    limit = sys.getrecursionlimit()
    made = room["alice"].commit([Add(client.key_package) for client in clients], now=NOW)
    depth = len(inspect.stack(0))
    try:
        sys.setrecursionlimit(depth + 40)
        state = cast(Group, Group.join(welcome_of(made), clients[0]).state)
        heard(state, won(made).commit(now=NOW).commit)
    finally:
        sys.setrecursionlimit(limit)


def test_users_6_leaving(room: Room) -> None:
    """libxmtp#325, openmls#1704: nobody commits its own removal; it proposes it, and whoever comes next commits it."""
    with pytest.raises(InvalidError):
        room["bob"].commit([Remove(1)], now=NOW)
    refused(room["alice"], forged_commit(room["bob"], Remove(1)), "12.2")
    room.propose("bob", SelfRemove())
    room.commit("carol")
    assert "bob" not in room.groups


def test_users_7_the_width_of_a_lifetime_is_limited(room: Room) -> None:
    """A KeyPackage for ever is refused by committer and receivers."""
    forever = bundle("dave", lifetime=Lifetime(0, 2**64 - 1))
    with pytest.raises(InvalidError, match=r"7\.2"):
        room["bob"].commit([Add(forever.key_package)], now=NOW)
    refused(room["alice"], forged_commit(room["bob"], Add(forever.key_package), path=False), "7.2")
    assert Parameters().lifetime_limit <= 366 * DAY


def test_users_9_trailing_octets_in_extensions() -> None:
    """openmls#2134."""
    for content in (ExternalSenders(()), RequiredCapabilities(), ApplicationId(b"x"), ExternalPub(b"x")):
        extension = content.extension()
        assert type(content).found_in((extension,)) == content
        longer = Extension(extension.extension_type, extension.extension_data + b"\0")
        with pytest.raises(MalformedError):
            type(content).found_in((longer,))


def test_users_9_leaf_0_is_not_none(room: Room) -> None:
    """ts-mls#647: leaf 0 sends, proposes, commits, is updated, removed, taken again, resynchronized."""
    assert room["alice"].own_index == 0
    room.say("alice")
    room.propose_update("alice")
    assert room.commit("bob").updated[0].index == 0
    assert room.commit("alice").committer == MemberSender(0)
    room.propose("alice", SelfRemove())
    assert room.commit("carol").removed[0].index == 0
    dave = bundle("dave")
    assert room.commit("bob", [Add(dave.key_package)], joining=[dave]).added[0].index == 0
    room.commit("dave")
    made = Group.external_commit(
        group_info_of(room["bob"]), bundle("dave", key=dave.signature_key).own_leaf, now=NOW, replaces=LeafIndex(0)
    )
    del room.groups["dave"]
    room.hear(made.commit)
    room["dave"] = cast(Group, made.staged.next)
    room.agree()
    assert room["dave"].own_index == 0


# --- bugs of a library that passed most vectors ----------------------------------------------


def test_library_own_path_commits(room: Room) -> None:
    """Own path commits invalid: the leaf's key is renewed, and the leaf signed again for its place."""
    before = room["bob"].own_leaf
    room.commit("bob")
    leaf = room["alice"].tree.member(1)
    assert leaf.encryption_key != before.encryption_key
    assert isinstance(leaf.source, CommitSource)
    room["alice"].suite.verify_with_label(
        leaf.signature_key, "LeafNodeTBS", leaf_node_tbs(leaf, b"a room", 1), leaf.signature
    )


def test_library_exporter_context_is_hashed(room: Room) -> None:
    suite, secrets = room["bob"].suite, room["bob"].secrets
    derived = suite.derive_secret(secrets.exporter_secret, "label")
    expected = suite.expand_with_label(derived, "exported", suite.hash(b"context"), 20)
    assert room["bob"].export("label", b"context", 20) == expected


def test_library_joins_in_long_lived_groups() -> None:
    """Joins refused because each leaf's parent hash was held against the path above it as it is now."""
    room = Room.of("alice", *(f"guest {number}" for number in range(7)))
    for step in range(4):
        for name in list(room.groups):
            room.commit(name)
        room.commit("alice", [Remove(3 + step % 3)])
        joining = bundle(f"late {step}")
        room.commit("guest 0", [Add(joining.key_package)], joining=[joining])
        outside = bundle(f"outside {step}")
        made = Group.external_commit(group_info_of(room["alice"]), outside.own_leaf, now=NOW)
        room.hear(made.commit)
        room[f"outside {step}"] = cast(Group, made.staged.next)
        room.agree()


def test_library_unsigned_application_messages(room: Room) -> None:
    for key in (room["carol"].signature_key, room["bob"].suite.generate_signature_key()):
        refused(room["alice"], forged(room["bob"], ApplicationData(b"x"), public=False, key=key), "signature")


def test_library_replay(room: Room) -> None:
    message, _ = room["bob"].encrypt(b"x")
    refused(heard(room["alice"], message), message, "9.2", Replayed)
    proposal, _ = room["bob"].propose(Remove(2), now=NOW)
    refused(heard(room["alice"], proposal), proposal, "9.2", Replayed)


def test_library_key_and_nonce_after_a_restart(room: Room) -> None:
    bob = room["bob"].encrypt(b"x")[1]
    restored = Group.restore(bob.pieces().items())
    assert body(bob.encrypt(b"y", random=bytes)[0]) == body(restored.encrypt(b"y", random=bytes)[0])
    assert heard(heard(room["alice"], room["bob"].encrypt(b"x")[0]), restored.encrypt(b"y")[0])


def test_library_unmerged_leaves_after_a_restart(room: Room) -> None:
    room.commit("bob")
    dave = bundle("dave")
    room.commit("bob", [Add(dave.key_package)], joining=[dave])
    assert any(node.unmerged_leaves for _, node in room["alice"].tree.parents())
    restored = Group.restore(room["alice"].pieces().items())
    assert dict(restored.tree.parents()) == dict(room["alice"].tree.parents())


def test_library_state_changed_by_a_commit_that_is_refused(room: Room) -> None:
    """The tag is the last thing that is looked at: everything else has been computed by then."""
    message = body(room["bob"].commit([Add(bundle("dave").key_package)], now=NOW, options=PUBLIC).commit)
    refused(
        room["alice"], forged(room["bob"], cast(Commit, message.content.content), tag=bytes(32)), "confirmation tag"
    )
    room.commit("bob")


def test_library_an_unknown_psk_is_not_replaced(room: Room) -> None:
    proposal = PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(32)))
    with pytest.raises(InvalidError, match=r"12\.4\.2"):
        room["bob"].commit([proposal], now=NOW)
    for value in (b"", bytes(32)):
        made = room["bob"].commit([proposal], now=NOW, psks=lookup({ExternalPSK(b"x"): value}))
        refused(room["alice"], made.commit, "12.4.2")


def test_library_group_info_is_signed_by_who_it_says(room: Room) -> None:
    info = group_info_of(room["bob"])
    for signer in (0, 2):
        with pytest.raises(InvalidError):
            Group.external_commit(replace(info, signer=signer), bundle("dave").own_leaf, now=NOW)


def test_library_counters_are_wide_enough() -> None:
    """16-bit counters wrap above 32,768 leaves: 70,000 is an index like any other, on the wire and in the tree."""
    sender = MemberSender(70_000)
    content = FramedContent(b"g", 1, sender, b"", Remove(70_001))
    assert FramedContent.decode(content.encode()) == content
    node = ParentNode(b"key", b"", (5, 70_000, 2**32 - 1))
    assert ParentNode.decode(node.encode()) == node
    assert LeafIndex(70_000) != LeafIndex(70_000 % 2**16)


def test_library_external_commits_in_both_directions(room: Room) -> None:
    dave, erin = bundle("dave"), bundle("erin")
    made = Group.external_commit(group_info_of(room["alice"]), dave.own_leaf, now=NOW)
    room.hear(made.commit)
    room["dave"] = cast(Group, made.staged.next)
    made = Group.external_commit(group_info_of(room["dave"]), erin.own_leaf, now=NOW)
    room.hear(made.commit)
    room["erin"] = cast(Group, made.staged.next)
    room.agree()
    room.say("erin")


def test_library_one_entry_of_a_welcome_is_tried(monkeypatch: pytest.MonkeyPatch, room: Room) -> None:
    """Looked up by KeyPackageRef, and no other one opened."""
    clients = [bundle(f"guest {number}") for number in range(5)]
    made = room["bob"].commit([Add(client.key_package) for client in clients], now=NOW)
    suite = type(room["bob"].suite)
    opened = []
    original = suite.decrypt_with_label

    def counting(self, key, label, context, ciphertext):  # type: ignore[no-untyped-def]
        opened.append(label)
        return original(self, key, label, context, ciphertext)

    monkeypatch.setattr(suite, "decrypt_with_label", counting)
    assert Group.join(welcome_of(made), clients[3])
    with pytest.raises(NotForUs):
        Group.join(welcome_of(made), bundle("stranger"))
    assert opened == ["Welcome"]


def test_library_ended_groups_say_so(room: Room) -> None:
    made = room["bob"].commit([Remove(0)], now=NOW)
    staged = room["alice"].process(made.commit, now=NOW)
    with pytest.raises(UsageError):
        room["alice"].apply(staged, now=NOW)
    with pytest.raises(PeerError):
        room["alice"].process(won(made).encrypt(b"x")[0], now=NOW)
