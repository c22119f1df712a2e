"""Which waiting proposals a Commit covers (RFC 9420 12.2, 12.4): as many as are valid together, whatever others are.

No proposal keeps anybody from committing or, once that is done, from talking.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.errors import InvalidError, UsageError
from slixmpp_mls.mls.group import commit_creation
from slixmpp_mls.mls.structures.credential import UnknownCredential
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.key_package import key_package_tbs
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import (
    Add,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    Update,
)
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID
from slixmpp_mls.mls.tree.leaf_creation import sign_leaf, update_leaf
from tests.mls.group_helpers import NOW, Room, bundle, forged, supporting

PSK = PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(32)))


@pytest.fixture
def room() -> Room:
    return Room.of("alice", "bob", "carol", "dora")


def waits(room: Room, sender: str, proposal: object) -> bytes:
    """A proposal of a member that does not look at what it proposes."""
    message = forged(room[sender], proposal)  # type: ignore[arg-type]
    for name in room.groups:
        room[name] = room[name].apply(room[name].process(message, now=NOW), now=NOW)
    return room.last_reference("alice")


def kinds(room: Room, sender: str = "alice") -> list[str]:
    return [type(sent.proposal).__name__ for sent in room[sender].proposals_to_commit()]


def test_a_remove_before_updates_and_the_latest_of_several(room: Room) -> None:
    room.propose_update("bob")
    last = room.propose_update("bob")
    assert [sent.reference for sent in room["alice"].proposals_to_commit()] == [last]
    removal = room.propose("carol", Remove(1))
    room.propose_update("bob")
    assert [sent.reference for sent in room["alice"].proposals_to_commit()] == [removal]
    leaving = room.propose("bob", SelfRemove())
    room.propose("carol", Remove(1))
    assert [sent.reference for sent in room["alice"].proposals_to_commit()] == [leaving]
    room.commit("alice")
    assert "bob" not in room.groups


def test_our_own_updates_and_removal_are_for_others(room: Room) -> None:
    room.propose_update("alice")
    assert kinds(room) == []
    assert kinds(room, "bob") == ["Update"]
    room.propose("bob", Remove(0))
    assert kinds(room) == []
    room.say("alice")  # nothing that she could commit
    room.commit("bob")
    assert "alice" not in room.groups


def test_a_pending_update_does_not_shield_from_removal(room: Room) -> None:
    room.propose_update("bob")
    assert [change.index for change in room.commit("alice", [Remove(1)]).removed] == [1]


def test_what_is_committed_by_value_goes_first(room: Room) -> None:
    guest = bundle("guest")
    room.propose("bob", Add(guest.key_package))
    room.propose("bob", GroupContextExtensions(()))
    room.propose("bob", ReInit(b"new", 1, 1, ()))
    again = bundle("guest", key=guest.signature_key)
    effects = room.commit("alice", [Add(again.key_package), GroupContextExtensions(())], joining=[again])
    assert [change.after for change in effects.added] == [again.key_package.leaf_node]
    assert effects.reinit is None


def test_reinit_by_value_waits_for_others(room: Room) -> None:
    room.propose("bob", Remove(2))
    with pytest.raises(InvalidError, match=r"12\.2"):
        room["alice"].commit([ReInit(b"new", 1, 1, ())], now=NOW)


def test_a_psk_that_we_lack_is_left_out(room: Room) -> None:
    room.propose("bob", PSK)
    assert kinds(room) == ["PreSharedKey"]
    with pytest.raises(UsageError):
        room["alice"].encrypt(b"x")
    assert room.commit("alice").psks == ()
    room.propose("bob", PSK)
    known = {ExternalPSK(b"x"): b"value"}.get
    assert room.commit("alice", psks=known).psks == (PSK.psk,)


def test_a_key_package_that_expires_is_left_out(room: Room) -> None:
    room.propose("bob", Add(bundle("guest", lifetime=Lifetime(NOW - 5, NOW + 5)).key_package))
    made = room["alice"].commit(now=NOW + 10**5)
    assert not made.staged.effects.added
    room.settle("alice", made)
    room.say("alice")


@pytest.mark.parametrize("by", ["alice", "carol"])
def test_adds_that_fit_no_list(room: Room, by: str) -> None:
    bob = room["bob"]
    supports = replace(supporting(), credentials=(1, 0xF00D))
    bad = [
        bundle("dora", key=room["dora"].signature_key),
        bundle("odd", supports=supports, credential=UnknownCredential(0xF00D, b"")),
        bundle("narrow", supports=replace(supports, credentials=(0xF00D,)), credential=UnknownCredential(0xF00D, b"")),
    ]
    good = [bundle("erin"), bundle("frank")]
    for client in (bad[0], good[0], bad[1], bad[2], good[1]):
        waits(room, "bob", Add(client.key_package))
    leaf, _ = update_leaf(bob.suite, bob.own_leaf_parts(), bob.group_id, 1)
    stolen = replace(leaf, encryption_key=room["dora"].own_leaf.encryption_key)
    waits(room, "bob", Update(sign_leaf(bob.suite, stolen, bob.signature_key, b"a room", 1)))
    assert kinds(room, by) == ["Add", "Add"]
    effects = room.commit(by, joining=good)
    assert [change.after for change in effects.added] == [client.key_package.leaf_node for client in good]
    room.say(by)


def test_two_adds_of_one_key(room: Room) -> None:
    one = bundle("erin")
    waits(room, "bob", Add(one.key_package))
    other = bundle("frank", key=one.signature_key)
    waits(room, "carol", Add(other.key_package))
    assert kinds(room) == ["Add"]
    room.commit("dora", joining=[other])  # the latest


def test_credentials_that_exclude_each_other() -> None:
    """Each would be welcome, but not both."""
    all_of_them = replace(supporting(), credentials=(1, 0xF001, 0xF002))
    room = Room.of(bundle("alice", supports=all_of_them), bundle("bob", supports=all_of_them))
    for kind in (0xF001, 0xF002):
        supports = replace(all_of_them, credentials=(1, kind))
        client = bundle("x", supports=supports, credential=UnknownCredential(kind, b""))
        waits(room, "bob", Add(client.key_package))
    assert kinds(room) == ["Add"]
    made = room["alice"].commit(now=NOW)
    assert len(made.staged.effects.added) == 1
    room.settle("alice", made)


def test_extensions_that_somebody_does_not_support(room: Room) -> None:
    waits(room, "bob", GroupContextExtensions((Extension(0xF001, b""),)))
    waits(room, "bob", Add(bundle("erin").key_package))
    assert kinds(room) == ["Add"]


def test_extensions_are_supported_once_somebody_is_gone() -> None:
    able = supporting(extensions=(0xF001,))
    room = Room.of(bundle("alice", supports=able), bundle("bob", supports=able), "carol")
    waits(room, "bob", GroupContextExtensions((Extension(0xF001, b""),)))
    assert kinds(room) == []
    waits(room, "bob", Remove(2))
    assert kinds(room) == ["GroupContextExtensions", "Remove"]
    waits(room, "bob", Add(bundle("dave").key_package))  # who does not support it
    assert kinds(room) == ["GroupContextExtensions", "Remove"]
    room.commit("alice")
    assert set(room.groups) == {"alice", "bob"}


def test_self_remove_in_a_group_that_does_not_support_it() -> None:
    room = Room.of("alice", "bob", bundle("carol", supports=supporting(proposals=())))
    waits(room, "bob", SelfRemove())
    assert kinds(room) == []
    room.commit("alice")
    assert "bob" in room.groups
    waits(room, "bob", SelfRemove())
    effects = room.commit("alice", [Remove(2)])  # with her goes what stood in its way
    assert {change.index for change in effects.removed} == {1, 2}


def test_all_others_leave(room: Room) -> None:
    for name in ("bob", "carol", "dora"):
        room.propose(name, SelfRemove())
    room.commit("alice")
    assert set(room.groups) == {"alice"}
    assert room["alice"].tree.leaf_count == 1
    room.commit("alice")


def test_the_callers_own_choice(room: Room) -> None:
    first = room.propose("bob", Remove(2))
    room.propose("bob", Remove(3))
    assert [change.index for change in room.commit("alice", by_reference=[first]).removed] == [2]
    with pytest.raises(UsageError):
        room["alice"].commit(by_reference=[first], now=NOW)


def test_two_adds_with_one_encryption_key(room: Room) -> None:
    """Of clients that have nothing else in common."""
    one, other = bundle("erin"), bundle("frank")
    leaf = replace(other.key_package.leaf_node, encryption_key=one.leaf_key.public)
    package = replace(other.key_package, leaf_node=sign_leaf(other.suite, leaf, other.signature_key))
    signature = other.suite.sign_with_label(other.signature_key, "KeyPackageTBS", key_package_tbs(package))
    waits(room, "bob", Add(one.key_package))
    waits(room, "bob", Add(replace(package, signature=signature)))
    assert kinds(room) == ["Add"]
    room.commit("alice", joining=[one])


def test_what_the_choice_overlooks_keeps_nobody_from_committing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a rule be forgotten in the choice, the Commit is made without what waits."""
    waits(room, "bob", Add(bundle("dora", key=room["dora"].signature_key).key_package))
    monkeypatch.setattr(commit_creation, "choose_valid", lambda waiting, *_, **__: tuple(waiting))
    assert not room.commit("alice").added
    reference = waits(room, "bob", Add(bundle("dora", key=room["dora"].signature_key).key_package))
    with pytest.raises(InvalidError, match=r"7\.3"):
        room["alice"].commit(now=NOW, by_reference=[reference])
