"""A group's state in pieces: what a store writes, and that a restart changes nothing.

mls-peers-lessons, users 1 and 5, and the library's bugs: key and nonce reused after a restore,
`unmerged_leaves` lost, the whole group written for each message.
"""

from __future__ import annotations

from typing import cast

import pytest

from slixmpp_mls.errors import InvalidError, PeerError
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.group_storage import restore_staged, staged_pieces
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.schedule.secret_tree import RatchetKind
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.proposals import Add, Remove, SelfRemove
from slixmpp_mls.mls.tree.leaf_creation import OwnLeaf, capabilities
from tests.mls.group_helpers import NOW, Room, bundle, group_info_of, heard, welcome_of, won

THREE = Room.of("alice", "bob", "carol")


class Disk:
    """A store that is told changes only."""

    def __init__(self, group: Group) -> None:
        self.pieces = group.pieces()
        self.group = group.stored()

    def write(self, group: Group) -> Group:
        changes = group.changes_since(self.group)
        for name, value in changes.items():
            if value is None:
                self.pieces.pop(name, None)  # it may have come and gone between two writes
            else:
                self.pieces[name] = value
        assert self.pieces == group.pieces()
        self.group = group.stored()
        self.written = changes
        return self.group

    def read(self) -> Group:
        return Group.restore(self.pieces.items(), self.group.parameters)


@pytest.fixture
def room() -> Room:
    return THREE.copy()


def test_every_step_is_written_as_a_difference(room: Room) -> None:
    disks = {name: Disk(room[name]) for name in room.groups}
    for name, disk in disks.items():
        room[name] = disk.group

    def write() -> None:
        for name in room.groups:
            room[name] = disks[name].write(room[name])
            assert disks[name].read().pieces() == room[name].pieces()

    for step in range(4):
        room.say("bob")
        write()
        room.propose_update("carol")
        write()
        room.propose("alice", Add(bundle(f"guest {step}").key_package), public=True)
        write()
        room.commit("bob", options=CommitOptions(path=True))
        write()
        room.say("alice")
        room.commit("carol", [Remove(3)])  # several steps at a time
        room.say("alice")
        write()
        for name in room.groups:
            room[name] = disks[name].read().stored()
    for name in room.groups:
        later = room[name].forget_past(now=NOW + 10**6)
        disks[name].write(later)


def test_a_message_writes_a_ratchet_step_and_a_mark(room: Room) -> None:
    """mls-peers-lessons, users 5; openmls#1849."""
    disk = Disk(heard(room["alice"], room["bob"].encrypt(b"1")[0]))
    message, _ = room["bob"].encrypt(b"1")[1].encrypt(b"2")
    disk.write(heard(disk.group, message))
    assert sorted(name[9:10] for name in disk.written) == [b"m", b"r"]
    disk.write(disk.group.encrypt(b"3")[1])
    disk.write(disk.group.encrypt(b"4")[1])
    assert sorted(name[9:10] for name in disk.written) == [b"m", b"r"]


def test_a_proposal_writes_itself(room: Room) -> None:
    for number in range(5):
        room.propose("bob", Add(bundle(f"guest {number}").key_package))
    disk = Disk(room["alice"])
    message, _ = room["bob"].propose(Remove(2), now=NOW, public=True)
    disk.write(heard(disk.group, message))
    assert [name[:1] for name in disk.written] == [b"Q"]


def test_a_commit_writes_log_n_nodes() -> None:
    clients = [bundle(f"guest {number}") for number in range(63)]
    room = Room.of("alice")
    made = room["alice"].commit([Add(client.key_package) for client in clients], now=NOW)
    alice = won(made)
    bob = cast(Group, Group.join(welcome_of(made), clients[0]).state)
    disk = Disk(bob)
    disk.write(heard(bob, alice.commit(now=NOW).commit))
    nodes = [name for name, value in disk.written.items() if name[:1] == b"T"]
    assert len(nodes) == 7
    assert len(disk.written) < 5 * len(nodes)


def test_9_2_no_key_comes_back_by_a_restart(room: Room) -> None:
    disk = Disk(room["bob"])
    generations = []
    for restart in (False, True) * 3:
        group = disk.read() if restart else disk.group
        key, _ = group.secret_tree.next(group.own_index, RatchetKind.APPLICATION)
        generations.append(key.generation)
        message, group = group.encrypt(b"x")
        disk.write(group)
        room["alice"] = heard(room["alice"], message)
    assert generations == list(range(6))


def test_unmerged_leaves_survive(room: Room) -> None:
    room.commit("bob")
    dave = bundle("dave")
    room.commit("carol", [Add(dave.key_package)], joining=[dave])
    assert any(node.unmerged_leaves for _, node in room["alice"].tree.parents())
    for name in list(room.groups):
        room[name] = Group.restore(room[name].pieces().items())
    room.agree()
    room.commit("alice")
    room.say("dave")


def test_proposals_and_the_keys_of_our_updates_survive(room: Room) -> None:
    key = room["bob"].suite.generate_signature_key()
    room.propose_update("bob", OwnLeaf(BasicCredential(b"anew"), key, capabilities()))
    room.propose("carol", SelfRemove())
    for name in list(room.groups):
        before = room[name]
        room[name] = Group.restore(before.pieces().items())
        assert room[name].pending_proposals == before.pending_proposals
        assert room[name].pieces() == before.pieces()
    room.commit("alice")
    assert room["bob"].signature_key.public == key.public
    room.say("bob")


def test_parameters_may_be_lowered_between_restarts(room: Room) -> None:
    for number in range(3):
        room.commit("carol")
        room.propose("bob", Add(bundle(f"guest {number}").key_package))
    room.propose("bob", Remove(2))
    pieces = room["alice"].pieces()
    strict = Group.restore(pieces.items(), Parameters(proposal_limit=1, past_epochs=1, resumption_epochs=1))
    assert strict.pieces() == pieces
    following = heard(strict, room["bob"].commit(now=NOW).commit)
    assert len(following.past) == 1
    assert len(following.resumption_psks) == 1


@pytest.mark.parametrize("letter", [b"E", b"S", b"I", b"T"])
def test_a_state_that_lacks_something_is_refused(room: Room, letter: bytes) -> None:
    with pytest.raises(InvalidError):
        Group.restore((name, value) for name, value in room["bob"].pieces().items() if name[:1] != letter)


def test_pieces_that_are_cut_off_are_refused(room: Room) -> None:
    pieces = room["bob"].pieces()
    for name in (b"E", b"S"):
        with pytest.raises(PeerError):
            Group.restore({**pieces, name: pieces[name][:-1]}.items())


# --- a Commit that waits ---------------------------------------------------------------------


def test_a_waiting_commit_survives_a_restart(room: Room) -> None:
    """With application messages and proposals in between (mls-peers-lessons, users 2: stuck pending commits)."""
    dave, before = bundle("dave"), room.copy()
    made = room["bob"].commit([Add(dave.key_package), Remove(2)], now=NOW)
    room["bob"] = cast(Group, made.sent)
    waiting = room["bob"].staged_pieces(made.staged)
    room.say("alice")
    message, room["alice"] = room["alice"].propose(Remove(2), now=NOW)
    room.hear(message, "alice")
    late, _ = before["carol"].encrypt(b"late")
    pieces = room["bob"].pieces()
    restarted = Group.restore(pieces.items())
    staged = restarted.restore_staged(waiting)
    assert staged.own
    assert staged.effects == made.staged.effects
    bob = restarted.apply(staged, now=NOW)
    alice = heard(room["alice"], made.commit)
    assert bob.epoch_authenticator == alice.epoch_authenticator
    assert bob.pending_proposals == ()
    assert bob.pieces() == restarted.apply(made.staged, now=NOW).pieces()
    disk = Disk(restarted)
    disk.write(bob)
    assert heard(disk.read(), late)  # of the ended epoch


def test_a_waiting_commit_that_lost_is_no_commit_any_more(room: Room) -> None:
    made = room["bob"].commit([Remove(2)], now=NOW)
    room["bob"] = cast(Group, made.sent)
    waiting = room["bob"].staged_pieces(made.staged)
    room.commit("carol")
    with pytest.raises(InvalidError):
        room["bob"].restore_staged(waiting)
    with pytest.raises(InvalidError):
        THREE["bob"].restore_staged({name: value for name, value in waiting.items() if name != b"C"})
    room.commit("bob", [Remove(2)])


def test_a_waiting_commit_of_another_branch_is_refused(room: Room) -> None:
    one, other = room.copy(), room.copy()
    one.commit("carol")
    other.commit("alice")
    waiting = one["bob"].staged_pieces(one["bob"].commit(now=NOW).staged)
    with pytest.raises(InvalidError):
        other["bob"].restore_staged(waiting)
    assert one["bob"].restore_staged(waiting)


def test_a_waiting_commit_is_written_as_what_it_changes() -> None:
    room = Room.of("alice", *(f"guest {number}" for number in range(31)))
    made = room["alice"].commit(now=NOW)
    waiting = room["alice"].staged_pieces(made.staged)
    assert sum(name[:1] == b"T" for name in waiting) == 6


def test_a_waiting_external_commit_survives_a_restart(room: Room) -> None:
    client = bundle("dave")
    made = Group.external_commit(group_info_of(room["alice"]), client.own_leaf, now=NOW)
    waiting = staged_pieces(made.staged, None)
    staged = restore_staged(Group, waiting, None)
    assert staged.effects == made.staged.effects
    room.hear(made.commit)
    room["dave"] = cast(Group, staged.next)
    room.agree()
    room.say("dave")
    assert room["dave"].past == ()
