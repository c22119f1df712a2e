"""What two implementations must be able to do together, as functions over two peers and a cipher suite.

``acting`` does the thing that the scenario is named after, ``other`` must follow; run with the peers exchanged, each
is thereby tested both ways.
"""

from __future__ import annotations

import random

import pytest

from tests.tampering import tampered

from .cases import SCENARIOS, cases, full_room, people, refuses, scenario
from .peers import (
    EXTERNAL_SENDERS,
    REQUIRED_CAPABILITIES,
    Add,
    Can,
    Client,
    Extension,
    ExternalPsk,
    Peer,
    Refused,
    ReInit,
    Remove,
    ResumptionPsk,
    SetExtensions,
    Update,
)
from .room import Room, fresh_id

# required_capabilities (RFC 9420 7.2): no extension types, no proposal types, credential type Basic.
BASIC_REQUIRED = Extension(REQUIRED_CAPABILITIES, bytes([0, 0, 2, 0, 1]))
CUSTOM_TYPE = 0xF0A5

__all__ = ["SCENARIOS", "cases"]  # with every scenario of this module registered


@scenario(every_suite=True)
def create_add_and_talk(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = Room.create(clients[0])
    room.add(clients[0], clients[1])
    room.talk()
    room.add(clients[1], clients[2])
    room.add(clients[2], clients[3])
    room.talk()


@scenario(every_suite=True)
def many_added_at_once(acting: Peer, other: Peer, suite: int) -> None:
    room = full_room(people(acting, other, suite, 7))
    room.talk()


@scenario()
def welcome_and_tree_beyond_the_two_byte_lengths(acting: Peer, other: Peer, suite: int) -> None:
    """RFC 9420 2.1.2: vectors of 2^14 bytes and more have lengths of four bytes."""
    names = [f"{number:04}".encode() * 300 for number in range(18)]
    clients = [(other if number % 2 else acting).client(name, suite) for number, name in enumerate(names)]
    room = full_room(clients[:17])
    assert len(room.state.ratchet_tree) > 0x4000
    room.add(clients[1], clients[17])
    room.talk(clients[0], clients[17])


@scenario(acting=[Can.EMPTY_COMMIT], every_suite=True)
def commit_without_proposals(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    room = full_room(clients)
    for client in clients[0::2]:
        room.commit(client)
        room.talk(client, clients[1])


@scenario(acting=[Can.REMOVE], every_suite=True)
def commit_removals(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 7)
    room = full_room(clients)
    first, gone = clients[0], room[clients[3]]
    room.remove(first, clients[3])
    secret = room[clients[1]].encrypt(b"not for the removed")
    with pytest.raises(Refused):
        gone.process(secret)
    room.remove(first, clients[4], clients[5])
    room.remove(clients[2], first)
    assert room.tree.blanks[0] == 0
    room.talk()
    room.add(clients[1], first)
    assert room.index_of(first) == 0
    room.talk()


@scenario(acting=[Can.REMOVE, Can.EMPTY_COMMIT], other=[Can.EMPTY_COMMIT])
def half_of_the_tree_is_empty(acting: Peer, other: Peer, suite: int) -> None:
    """The root is then not on any filtered direct path (RFC 9420 4.1.2), and stays blank."""
    clients = people(acting, other, suite, 8)
    room = full_room(clients)
    room.remove(clients[4], *clients[:4])
    for client in clients[4:7]:
        room.commit(client)
        room.talk()
    room.add(clients[6], clients[0])
    room.commit(clients[5])
    room.commit(clients[0])
    room.talk()


@scenario(acting=[Can.REMOVE, Can.EMPTY_COMMIT], other=[Can.EMPTY_COMMIT])
def joining_over_unmerged_leaves(acting: Peer, other: Peer, suite: int) -> None:
    """A valid tree may list a leaf as unmerged in a node and not above it, and others above but not below."""
    clients = people(acting, other, suite, 8)
    room = full_room(clients[:7])
    for client in clients[:7]:
        room.commit(client)
    room.remove(clients[0], clients[2])
    room.add(clients[0], clients[2])
    room.add(clients[0], clients[7])
    assert room.tree.unmerged == {3: (2,), 7: (2, 7), 11: (7,)}
    room.commit(clients[0])
    assert room.tree.unmerged == {11: (7,)}
    for back in (2, 3):
        room.remove(clients[0], clients[back])
        room.add(clients[0], clients[back])
        assert room.tree.unmerged == {3: (back,), 7: (back,), 11: (7,)}
        room.commit(clients[back])
        room.commit(clients[7])
        room.talk()
        room.remove(clients[6], clients[7])
        room.commit(clients[6])
        room.add(clients[6], clients[7])
        room.commit(clients[0])
    room.talk()


@scenario(acting=[Can.MIXED_COMMIT])
def commit_adds_and_removals_together(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 6)
    room = full_room(clients[:4])
    adds = [Add(client.key_package()) for client in clients[4:]]
    room.commit(clients[2], Remove(room.index_of(clients[1])), *adds, joining=clients[4:])
    assert room.index_of(clients[4]) == 1
    room.talk()


@scenario(acting=[Can.MIXED_COMMIT])
def commit_removal_and_return_of_one_client(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients)
    back = clients[3]
    room.commit(clients[0], Remove(room.index_of(back)), Add(back.key_package()), joining=[back])
    room.talk()


@scenario(
    acting=[Can.MIXED_COMMIT, Can.PROPOSE_EXTENSIONS, Can.EXTERNAL_PSK],
    other=[Can.FOLLOW_EXTENSIONS, Can.EXTERNAL_PSK, Can.PROPOSE_UPDATE],
)
def everything_in_one_commit(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 8)
    room = full_room(clients[:6])
    for client in clients:
        client.register_psk(b"agreed", b"a secret agreed elsewhere")
    for proposer in (clients[1], clients[3]):
        room.propose(proposer, Update())
    room.commit(
        clients[4],
        *(Add(client.key_package()) for client in clients[6:]),
        Remove(room.index_of(clients[0])),
        ExternalPsk(b"agreed"),
        SetExtensions((BASIC_REQUIRED,)),
        joining=clients[6:],
    )
    assert room.state.extensions == (BASIC_REQUIRED,)
    assert room.index_of(clients[6]) == 0
    room.talk()
    for client in (clients[1], clients[7], clients[6]):
        if Can.EMPTY_COMMIT in client.peer.can:
            room.commit(client)
    room.talk()


@scenario(acting=[Can.FORCE_PATH])
def commit_add_with_a_path(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients[:3])
    commit = room[clients[0]].commit([Add(clients[3].key_package())], force_path=True)
    room.follow(commit, clients[0], [clients[3]])
    room.talk()


@scenario(acting=[Can.PROPOSE_ADD])
def add_by_reference(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 6)
    room = full_room(clients[:3])
    room.propose(clients[0], Add(clients[3].key_package()))
    room.propose(clients[2], Add(clients[4].key_package()))
    room.commit(clients[1], joining=clients[3:5])
    room.talk()
    room.propose(clients[0], Add(clients[5].key_package()))
    room.commit(clients[0], joining=clients[5:])
    room.talk()


@scenario(acting=[Can.PROPOSE_REMOVE], other=[Can.EMPTY_COMMIT])
def removal_by_reference(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    room = full_room(clients)
    room.propose(clients[0], Remove(room.index_of(clients[4])))
    room.commit(clients[1])
    assert clients[4].identity not in room.groups
    room.talk()


@scenario(acting=[Can.PROPOSE_REMOVE], other=[Can.EMPTY_COMMIT])
def leaving_by_own_removal_proposal(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients)
    room.propose(clients[0], Remove(room.index_of(clients[0])))
    room.commit(clients[3])
    assert clients[0].identity not in room.groups
    room.talk()


@scenario(acting=[Can.PROPOSE_UPDATE], other=[Can.EMPTY_COMMIT], every_suite=True)
def update_by_reference(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    room = full_room(clients)
    for round_ in range(2):
        room.propose(clients[0], Update())
        room.propose(clients[2], Update())
        room.commit(clients[1 + 2 * round_])
        room.talk(clients[0], clients[3])
        room.commit(clients[1])


@scenario(acting=[Can.PROPOSE_UPDATE, Can.PROPOSE_REMOVE, Can.PROPOSE_ADD], other=[Can.EMPTY_COMMIT])
def proposals_of_several_kinds_by_reference(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 7)
    room = full_room(clients[:6])
    room.propose(clients[0], Update())
    room.propose(clients[2], Remove(room.index_of(clients[4])))
    room.propose(clients[0], Add(clients[6].key_package()))
    room.commit(clients[3], joining=[clients[6]])
    room.talk()


@scenario(acting=[Can.PROPOSE_UPDATE, Can.PROPOSE_ADD], other=[Can.EMPTY_COMMIT])
def proposals_that_no_commit_covers(acting: Peer, other: Peer, suite: int) -> None:
    """Sent in an epoch that a commit had ended already: nobody may refer to them in the next one."""
    clients = people(acting, other, suite, 5)
    room = full_room(clients[:4])
    commit = room[clients[1]].commit()
    late = [room[clients[0]].propose(Update()), room[clients[2]].propose(Add(clients[4].key_package()))]
    room.follow(commit, clients[1])
    for message in late:
        refuses(room[clients[3]], message)
    room.talk()
    room.commit(clients[3])
    room.propose(clients[0], Update())
    room.commit(clients[1])
    assert len(room.groups) == 4
    room.talk()


@scenario(acting=[Can.PRIVATE_HANDSHAKE, Can.PROPOSE_ADD, Can.EMPTY_COMMIT], every_suite=True)
def private_handshakes(acting: Peer, other: Peer, suite: int) -> None:
    _handshakes(acting, other, suite, private=True)


@scenario(acting=[Can.PUBLIC_HANDSHAKE, Can.PROPOSE_ADD, Can.EMPTY_COMMIT], every_suite=True)
def public_handshakes(acting: Peer, other: Peer, suite: int) -> None:
    _handshakes(acting, other, suite, private=None if Can.PRIVATE_HANDSHAKE not in acting.can else False)


def _handshakes(acting: Peer, other: Peer, suite: int, *, private: bool | None) -> None:
    wire_format = b"\x00\x02" if private else b"\x00\x01"
    clients = people(acting, other, suite, 4)
    room = full_room(clients[:3])
    room.propose(clients[0], Add(clients[3].key_package()), private=private)
    commit = room.commit(clients[2], private=private, joining=[clients[3]])
    assert commit.message[2:4] == wire_format
    assert room.commit(clients[0], private=private).message[2:4] == wire_format
    room.talk()


@scenario(acting=[Can.TREE_BESIDE], every_suite=True)
def ratchet_tree_beside_the_welcome(acting: Peer, other: Peer, suite: int) -> None:
    alice = acting.client(b"alice", suite, tree_in_welcome=False)
    others = people(acting, other, suite, 4)
    room = Room.create(alice)
    for first, last in [(0, 1), (1, 4)]:
        joining = others[first:last]
        commit = room[alice].commit([Add(client.key_package()) for client in joining])
        assert commit.ratchet_tree is not None
        assert commit.welcome is not None
        with pytest.raises(Refused):
            joining[0].join(commit.welcome)
        room.follow(commit, alice, joining, beside=True)
    room.talk()


@scenario()
def messages_out_of_order(acting: Peer, other: Peer, suite: int) -> None:
    alice, bob = people(acting, other, suite, 2)
    room = full_room([alice, bob])
    texts = [f"message {number}".encode() for number in range(6)]
    sent = [room[alice].encrypt(text) for text in texts]
    for number in [3, 1, 5, 2, 4]:
        assert room[bob].process(sent[number]).data == texts[number]
    for number in [3, 5]:  # RFC 9420 9: each key is used once
        refuses(room[bob], sent[number])
    assert room[bob].process(sent[0]).data == texts[0]
    room.talk()


@scenario(other=[Can.SPARE_KEYS])
def spoilt_messages_change_nothing(acting: Peer, other: Peer, suite: int) -> None:
    alice, bob = people(acting, other, suite, 2)
    room = full_room([alice, bob])
    sent = room[alice].encrypt(b"the real one")
    for spoilt in (tampered(sent), sent[:-1], sent + b"x", sent[:4] + sent[5:], b""):
        refuses(room[bob], spoilt)
    assert room[bob].process(sent).data == b"the real one"
    refuses(room[bob], sent)
    room.talk()


@scenario()
def message_of_the_epoch_before(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients[:2])
    late = [room[clients[0]].encrypt(f"late {number}".encode()) for number in range(2)]
    room.add(clients[0], clients[2])
    assert room[clients[1]].process(late[1]).data == b"late 1"
    room.add(clients[1], clients[3])
    assert room[clients[1]].process(late[0]).data == b"late 0"
    with pytest.raises(Refused):  # from before this one joined
        room[clients[2]].process(late[0])
    room.talk()


@scenario(acting=[Can.REMOVE, Can.READ_DEPARTED], other=[Can.READ_DEPARTED])
def late_message_of_one_whose_leaf_is_another_s(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 6)
    room = full_room(clients[:5])
    sent = {client.identity: room[client].encrypt(client.identity) for client in clients[3:5]}
    indices = {client.identity: room.index_of(client) for client in clients[3:5]}
    room.remove(clients[0], *clients[3:5])
    room.add(clients[0], clients[5])
    assert room.index_of(clients[5]) == indices[clients[3].identity]
    for reader in clients[:3]:
        for identity, message in sent.items():
            found = room[reader].process(message)
            assert found.data == identity
            assert found.sender in (indices[identity], None)
    room.talk()


@scenario()
def messages_of_every_length(acting: Peer, other: Peer, suite: int) -> None:
    """RFC 9420 2.1.2: lengths of one, two and four bytes, at their borders."""
    alice, bob = people(acting, other, suite, 2)
    room = full_room([alice, bob])
    for sender, reader in [(alice, bob), (bob, alice)]:
        for length in (0, 1, 63, 64, 0x3FFF, 0x4000, 100_000):
            text = bytes(number % 251 for number in range(length))
            assert (room[reader].process(room[sender].encrypt(text)).data or b"") == text
    room.check()


@scenario(other=[Can.EMPTY_COMMIT], acting=[Can.EMPTY_COMMIT])
def two_commits_in_one_epoch(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients)
    won, lost = room[clients[0]].commit(), room[clients[1]].commit()
    room.follow(won, clients[0])
    for client in (clients[0], clients[2]):
        refuses(room[client], lost.message)
    room.talk()
    room.commit(clients[1])
    room.talk()


@scenario(acting=[Can.REMOVE])
def spoilt_commits_change_nothing(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    room = full_room(clients)
    # Where a spoilt PrivateMessage costs its key, the real one could not be opened afterwards.
    private = None if Can.SPARE_KEYS in other.can else False
    commit = room[clients[0]].commit([Remove(room.index_of(clients[4]))], private=private)
    middle = len(commit.message) // 2
    for spoilt in (
        tampered(commit.message),
        commit.message[:middle] + bytes([commit.message[middle] ^ 4]) + commit.message[middle + 1 :],
        commit.message[:-3],
        b"",
    ):
        refuses(room[clients[1]], spoilt)
    room.follow(commit, clients[0])
    room.talk()


@scenario(acting=[Can.RELOAD])
def going_on_from_a_copy(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients[:3])
    alice, bob = clients[0], clients[1]
    sent = [room[bob].encrypt(f"message {number}".encode()) for number in range(3)]
    assert room[alice].process(sent[2]).data == b"message 2"
    room[alice].reload()
    refuses(room[alice], sent[2])
    assert room[alice].process(sent[0]).data == b"message 0"
    room.talk()
    room[alice].reload()
    room.add(alice, clients[3])
    room[alice].reload()
    assert room[alice].process(sent[1]).data == b"message 1"
    room.talk()
    room.add(bob, *people(acting, other, suite, 8)[6:])
    room.talk()


@scenario(acting=[Can.RELOAD, Can.EMPTY_COMMIT], other=[Can.EMPTY_COMMIT])
def a_commit_that_waits_outlives_a_restart(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients[:3])
    commit = room[clients[2]].commit([Add(clients[3].key_package())])
    room[clients[2]].reload()
    room.follow(commit, clients[2], [clients[3]])
    room.talk()
    lost = room[clients[0]].commit()
    won = room[clients[1]].commit()
    room[clients[0]].reload()
    room.follow(won, clients[1])
    refuses(room[clients[0]], lost.message)
    room.commit(clients[0])
    room.talk()


@scenario(acting=[Can.RELOAD, Can.PROPOSE_UPDATE, Can.PROPOSE_ADD], other=[Can.EMPTY_COMMIT])
def proposals_that_wait_outlive_a_restart(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 6)
    room = full_room(clients[:4])
    room.propose(clients[0], Update())
    room.propose(clients[2], Add(clients[4].key_package()))
    room[clients[0]].reload()
    room[clients[2]].reload()
    room.commit(clients[1], joining=[clients[4]])
    room.talk()
    room.propose(clients[2], Add(clients[5].key_package()))
    room[clients[0]].reload()
    room.commit(clients[0], joining=[clients[5]])
    room.talk()


@scenario(acting=[Can.EXTERNAL_JOIN], other=[Can.FOLLOW_EXTERNAL_JOIN, Can.GROUP_INFO])
def external_joins_that_grow_the_tree(acting: Peer, other: Peer, suite: int) -> None:
    room = Room.create(other.client(b"host", suite))
    host = next(iter(room.groups.values()))
    for number in range(4):
        guest = acting.client(f"guest{number}".encode(), suite)
        room.enter(*guest.external_join(host.group_info()))
        assert room.index_of(guest) == number + 1
        room.talk()


@scenario(acting=[Can.EXTERNAL_JOIN], other=[Can.FOLLOW_EXTERNAL_JOIN, Can.GROUP_INFO], every_suite=True)
def external_join(acting: Peer, other: Peer, suite: int) -> None:
    _external_join(acting, other, other, suite)


@scenario(acting=[Can.EXTERNAL_JOIN, Can.GROUP_INFO], other=[Can.FOLLOW_EXTERNAL_JOIN, Can.REMOVE])
def external_join_under_other_eyes(acting: Peer, other: Peer, suite: int) -> None:
    """The one who joins and the one who publishes are of the same implementation; the rest of the room is not."""
    _external_join(acting, other, acting, suite)


def _external_join(acting: Peer, other: Peer, publisher: Peer, suite: int) -> None:
    clients = people(other, other, suite, 4)
    host = publisher.client(b"host", suite)
    room = full_room([host, *clients])
    guest, late = acting.client(b"guest", suite), acting.client(b"late", suite)
    published = room.commit(host).group_info or room[host].group_info()
    room.enter(*guest.external_join(published))
    room.talk()
    room.remove(clients[0], clients[2])
    tree = room.state.ratchet_tree
    room.enter(*late.external_join(room[host].group_info(tree=False), tree))
    assert room.index_of(late) == 3  # RFC 9420 12.4.3.2: the leftmost blank leaf
    room.talk()
    room.add(late, acting.client(b"invited by the guest", suite))
    room.talk()


@scenario(acting=[Can.RESYNC], other=[Can.FOLLOW_EXTERNAL_JOIN, Can.GROUP_INFO], every_suite=True)
def resync(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    room = full_room(clients)
    for lost in (clients[4], clients[0]):  # the second has leaf 0
        index = room.index_of(lost)
        room.enter(*lost.external_join(room[clients[1]].group_info(), resync=True))
        assert room.index_of(lost) == index
        room.talk()


@scenario(acting=[Can.EXTERNAL_PSK], other=[Can.EXTERNAL_PSK], every_suite=True)
def external_psk(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    room = full_room(clients[:3])
    for client in clients:
        client.register_psk(b"agreed", b"a secret agreed elsewhere")
        client.register_psk(b"second", b"another")
    room.commit(clients[0], ExternalPsk(b"agreed"))
    room.talk()
    room.commit(
        clients[0], ExternalPsk(b"second"), ExternalPsk(b"agreed"), Add(clients[3].key_package()), joining=[clients[3]]
    )
    room.talk()
    room.propose(clients[0], ExternalPsk(b"agreed"))
    room.commit(clients[1], Add(clients[4].key_package()), joining=[clients[4]])
    room.talk()


@scenario(acting=[Can.EXTERNAL_PSK], other=[Can.EXTERNAL_PSK])
def external_psk_that_differs_or_is_unknown(acting: Peer, other: Peer, suite: int) -> None:
    alice, bob = people(acting, other, suite, 2)
    room = full_room([alice, bob])
    alice.register_psk(b"mistyped", b"right")
    commit = room[alice].commit([ExternalPsk(b"mistyped")])
    refuses(room[bob], commit.message)  # RFC 9420 12.4.2: a PSK that is not available
    bob.register_psk(b"mistyped", b"wrong")
    refuses(room[bob], commit.message)  # the confirmation tag does not match
    bob.register_psk(b"mistyped", b"right")
    room.follow(commit, alice)
    room.talk()


@scenario(acting=[Can.RESUMPTION_PSK], other=[Can.RESUMPTION_PSK])
def resumption_psk_of_an_earlier_epoch(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 3)
    room = full_room(clients)
    epoch = room.state.epoch
    room.commit(clients[0])
    room.commit(clients[2])
    room.commit(clients[0], ResumptionPsk(epoch))
    room.talk()


@scenario(acting=[Can.PROPOSE_EXTENSIONS], other=[Can.FOLLOW_EXTENSIONS], every_suite=True)
def group_context_extensions(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    room = full_room(clients[:4])
    room.commit(clients[0], SetExtensions((BASIC_REQUIRED,)))
    assert room.state.extensions == (BASIC_REQUIRED,)
    room.talk()
    room.add(clients[1], clients[4])
    room.commit(clients[2], SetExtensions(()))
    assert not room.state.extensions
    room.talk()
    room.propose(clients[0], SetExtensions((BASIC_REQUIRED,)))
    room.commit(clients[2])
    assert room.state.extensions == (BASIC_REQUIRED,)
    room.talk()


@scenario(acting=[Can.PROPOSE_EXTENSIONS], other=[Can.FOLLOW_EXTENSIONS, Can.EMPTY_COMMIT])
def group_context_extensions_committed_by_another(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 3)
    room = full_room(clients)
    room.propose(clients[0], SetExtensions((BASIC_REQUIRED,)))
    room.commit(clients[1])
    assert room.state.extensions == (BASIC_REQUIRED,)
    room.talk()


@scenario(acting=[Can.PROPOSE_EXTENSIONS, Can.CUSTOM_EXTENSIONS], other=[Can.FOLLOW_EXTENSIONS, Can.CUSTOM_EXTENSIONS])
def extension_types_of_an_application(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4, extensions=[CUSTOM_TYPE])
    custom = Extension(CUSTOM_TYPE, b"policy of this room")
    room = Room.create(clients[0], (custom,))
    room.add(clients[0], *clients[1:3])
    changed = Extension(CUSTOM_TYPE, b"another policy")
    room.commit(clients[0], SetExtensions((BASIC_REQUIRED, changed)))
    room.add(clients[1], clients[3])
    assert room.state.extensions == (BASIC_REQUIRED, changed)
    room.talk()
    stranger = other.client(b"knows no such type", suite)
    with pytest.raises(Refused):  # RFC 9420 7.3: a leaf supports all extensions in the GroupContext
        room[clients[0]].commit([Add(stranger.key_package())])


@scenario(acting=[Can.PROPOSE_JOIN, Can.GROUP_INFO], other=[Can.FOLLOW_PROPOSE_JOIN])
def new_member_proposes_itself(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 3)
    room = full_room(clients)
    guest = acting.client(b"guest", suite)
    room.deliver_proposal(guest.propose_join(room[clients[0]].group_info()))
    room.commit(clients[1] if Can.EMPTY_COMMIT in other.can else clients[0], joining=[guest])
    room.talk()


@scenario(
    acting=[Can.EXTERNAL_SENDER, Can.GROUP_INFO, Can.PROPOSE_EXTENSIONS],
    other=[Can.FOLLOW_EXTERNAL_SENDER, Can.EMPTY_COMMIT],
)
def external_sender_proposes(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 5)
    server, backup = acting.client(b"server", suite), acting.client(b"backup", suite)
    senders = server.external_sender() + backup.external_sender()
    assert 64 <= len(senders) < 0x4000
    length = (0x4000 | len(senders)).to_bytes(2)
    room = full_room(clients[:4])
    room.commit(clients[0], SetExtensions((Extension(EXTERNAL_SENDERS, length + senders),)))
    info = room[clients[0]].group_info()
    room.deliver_proposal(server.propose_external(info, 0, Remove(room.index_of(clients[3]))))
    room.deliver_proposal(backup.propose_external(info, 1, Add(clients[4].key_package())))
    with pytest.raises(Refused):  # signed by another than the index says
        room[clients[1]].process(server.propose_external(info, 1, Remove(room.index_of(clients[2]))))
    room.commit(clients[1], joining=[clients[4]])
    assert clients[3].identity not in room.groups
    room.talk()


@scenario(acting=[Can.REINIT], other=[Can.REINIT])
def reinit(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 3)
    room = full_room(clients)
    to = max(acting.suites & other.suites)
    group_id = fresh_id("reborn")
    room.commit(clients[0], ReInit(group_id, to))
    assert room.state.phase == "reinit"
    with pytest.raises(Refused):  # RFC 9420 11.2: the old group is closed
        room[clients[1]].commit()
    again = people(acting, other, to, 3)
    founded = room[clients[0]].reinit(again[0], [client.key_package() for client in again[1:]])
    reborn = room.enter_founded(
        founded, *((client, room[old]) for client, old in zip(again[1:], clients[1:], strict=True))
    )
    assert (reborn.state.group_id, reborn.state.epoch) == (group_id, 1)
    reborn.talk()
    reborn.commit(again[1])
    reborn.talk()


@scenario(acting=[Can.REINIT], other=[Can.REINIT, Can.EMPTY_COMMIT])
def reinit_proposed_committed_and_founded_by_three(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients)
    group_id = fresh_id("reborn")
    room.propose(clients[0], ReInit(group_id, suite, (BASIC_REQUIRED,)))
    room.commit(clients[1])
    assert room.state.phase == "reinit"
    again = people(acting, other, suite, 4)
    founded = room[clients[2]].reinit(again[2], [again[number].key_package() for number in (0, 1, 3)])
    reborn = room.enter_founded(founded, *((again[number], room[clients[number]]) for number in (0, 1, 3)))
    assert reborn.state.extensions == (BASIC_REQUIRED,)
    reborn.commit(again[0])
    reborn.talk()


@scenario(acting=[Can.BRANCH], other=[Can.BRANCH])
def branch(acting: Peer, other: Peer, suite: int) -> None:
    clients = people(acting, other, suite, 4)
    room = full_room(clients)
    group_id = fresh_id("branch")
    founded = room[clients[0]].branch(group_id, [client.key_package() for client in clients[1:3]])
    subgroup = room.enter_founded(founded, *((client, room[client]) for client in clients[1:3]))
    assert (subgroup.state.group_id, subgroup.state.epoch) == (group_id, 1)
    subgroup.talk()
    subgroup.commit(clients[1])
    subgroup.talk()
    room.talk()


@scenario(acting=[Can.EMPTY_COMMIT, Can.REMOVE], other=[Can.EMPTY_COMMIT, Can.REMOVE], every_suite=True)
def long_life(acting: Peer, other: Peer, suite: int) -> None:
    """Forty commits by random members: adds, removals, returns, updates, external joins, and a removed leaf 0.

    Fewer with the suites whose arithmetic is slow in an outside peer: tens of seconds for what suite 1 has shown.
    """
    steps = {1: 40, 3: 40, 2: 15}.get(suite, 8)
    chance = random.Random(suite)  # a reproducible history, not a secret
    clients = people(acting, other, suite, 11)
    room = full_room(clients[:6])
    away = clients[6:]
    returned: set[bytes] = set()
    seen = {"blank leaf": 0, "unmerged leaf": 0, "joined over unmerged leaves": 0, "leaf 0 gone": 0}
    kind = ""
    for step in range(steps):
        inside = [client for client in clients if client.identity in room.groups]
        committer = chance.choice(inside)
        tree = room.tree
        if step > 8 + 15 * seen["leaf 0 gone"] and tree.members[0].index == 0 and room.index_of(committer) != 0:
            kind = "leaf 0"
        else:
            # An Add after an Add: the second joiner receives a tree with unmerged leaves.
            usual = ["empty", "add", "remove", "remove", "reference", "external"]
            kind = "add" if kind == "add" and chance.random() < 0.7 else chance.choice(usual)
        if kind == "leaf 0":
            first = next(client for client in inside if client.identity == tree.members[0].identity)
            room.remove(committer, first)
            away.append(first)
            seen["leaf 0 gone"] += 1
        elif kind == "add" and away:
            back = away.pop(chance.randrange(len(away)))
            room.add(committer, back)
            returned.add(back.identity)
            seen["joined over unmerged leaves"] += bool(tree.unmerged)
        elif kind == "remove" and len(inside) > 3:
            gone = chance.choice([client for client in inside if client is not committer])
            room.remove(committer, gone)
            away.append(gone)
        elif kind == "reference" and len(inside) > 3:
            _by_reference(room, chance, committer, inside, away)
        elif kind == "external" and any(_can_enter(client, inside) for client in away):
            guest = next(client for client in away if _can_enter(client, inside))
            away.remove(guest)
            publisher = next(client for client in inside if Can.GROUP_INFO in client.peer.can)
            room.enter(*guest.external_join(room[publisher].group_info()))
            returned.add(guest.identity)
        else:
            room.commit(committer)
        seen["blank leaf"] += bool(room.tree.blanks)
        seen["unmerged leaf"] += bool(room.tree.unmerged)
        room.talk(chance.choice([client for client in clients if client.identity in room.groups]))
    room.talk()
    if steps == 40:  # the history had in it what it is for
        assert all(seen.values()), seen
        assert len(returned) > 3


def _can_enter(client: Client, inside: list[Client]) -> bool:
    publishes = any(Can.GROUP_INFO in member.peer.can for member in inside)
    followed = all(Can.FOLLOW_EXTERNAL_JOIN in member.peer.can for member in inside)
    return Can.EXTERNAL_JOIN in client.peer.can and publishes and followed


def _by_reference(
    room: Room, chance: random.Random, committer: Client, inside: list[Client], away: list[Client]
) -> None:
    """Some others propose updates, one a removal; ``committer`` commits."""
    others = [client for client in inside if client is not committer]
    chance.shuffle(others)
    for proposer in others[1:3]:
        if Can.PROPOSE_UPDATE in proposer.peer.can:
            room.propose(proposer, Update())
    if chance.random() < 0.5 and Can.PROPOSE_REMOVE in others[2].peer.can:
        room.propose(others[2], Remove(room.index_of(others[0])))
        away.append(others[0])
    room.commit(committer)
