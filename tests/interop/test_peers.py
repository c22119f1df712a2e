"""The outside peers with themselves and with each other: this proves the rigs and the scenarios, not this project."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from . import ts_mls_peer
from .cases import Scenario, full_room, people
from .mls_rs import MlsRsPeer
from .peers import Add, Broken, Can, Extension, ExternalPsk, Peer, PeerError, Refused, Unsupported
from .room import Room
from .scenarios import SCENARIOS, cases, create_add_and_talk
from .tree import read_tree
from .ts_mls_peer import FOLDER, TsMlsPeer

pytestmark = pytest.mark.interop

PAIRS: list[tuple[type[Peer], type[Peer]]] = [
    (TsMlsPeer, TsMlsPeer),
    (MlsRsPeer, MlsRsPeer),
    (TsMlsPeer, MlsRsPeer),
    (MlsRsPeer, TsMlsPeer),
]


# The mixed pairs run these too; among themselves they take a fifth of this module's time.
LONG = {"long_life", "joining_over_unmerged_leaves"}
CASES = [
    case for case in cases(PAIRS, suites=[1]) if case.values[0].name not in LONG or case.values[1] is not case.values[2]
]


@pytest.mark.parametrize(("scenario", "acting", "other", "suite"), CASES)
def test_peers_agree(
    scenario: Scenario, acting: type[Peer], other: type[Peer], suite: int, peer_of: Callable[[type[Peer]], Peer]
) -> None:
    scenario.run(peer_of(acting), peer_of(other), suite)


@pytest.mark.parametrize("suite", sorted(TsMlsPeer.suites))
def test_ts_mls_has_every_suite(suite: int, ts_mls: Peer) -> None:
    create_add_and_talk(ts_mls, ts_mls, suite)


def test_a_lacking_capability_is_a_skip_that_names_it() -> None:
    found = {(item.values[0].name, item.values[1].name): item for item in cases([(MlsRsPeer, TsMlsPeer)])}
    assert len(found) == len(SCENARIOS)
    [skip] = found["external_psk", "mls-rs"].marks
    assert skip.kwargs["reason"] == "mls-rs cannot register external PSKs and commit them"
    assert not found["create_add_and_talk", "mls-rs"].marks


@pytest.mark.parametrize("kind", [MlsRsPeer, TsMlsPeer])
def test_the_room_notices_who_did_not_follow(kind: type[Peer], peer_of: Callable[[type[Peer]], Peer]) -> None:
    peer = peer_of(kind)
    alice, bob, carol = people(peer, peer, 1, 3)
    room = full_room([alice, bob, carol])
    commit = room[alice].commit()
    for client in (alice, bob):
        room[client].process(commit.message)
    with pytest.raises(AssertionError, match=r"authenticators differ|acting1"):
        room.check()


@pytest.mark.parametrize("kind", [MlsRsPeer, TsMlsPeer])
def test_holds_authenticator_of_this_epoch_only(
    kind: type[Peer], peer_of: Callable[[type[Peer]], Peer], ts_mls: Peer
) -> None:
    alice, bob = people(ts_mls, peer_of(kind), 1, 2)
    room = full_room([alice, bob])
    old = room[alice].state().epoch_authenticator
    assert old is not None
    assert room[bob].holds_authenticator(old)
    room.commit(alice)
    assert not room[bob].holds_authenticator(old)
    assert not room[bob].holds_authenticator(b"")


def test_tree_reader_sees_blanks_and_unmerged_leaves(ts_mls: Peer) -> None:
    clients = people(ts_mls, ts_mls, 1, 6)
    room = full_room(clients[:4])
    assert not room.tree.blanks
    assert not room.tree.unmerged
    for client in clients[:4]:
        room.commit(client)
    room.add(clients[0], clients[4])
    assert not room.tree.unmerged  # the tree has grown: above the new leaf is nothing but the blank root
    room.commit(clients[0])
    room.add(clients[0], clients[5])
    assert room.tree.unmerged == {7: (5,)}
    room.remove(clients[0], clients[1])
    assert room.tree.blanks == (1,)
    with pytest.raises(AssertionError, match="bytes after"):
        read_tree(room.state.ratchet_tree + b"\0")


class TestTsMls:
    """The Node process and the lines it speaks."""

    @pytest.fixture
    def own(self, ts_mls: Peer) -> Iterator[TsMlsPeer]:
        """A process that a test may break."""
        with TsMlsPeer() as peer:
            yield peer

    def test_an_error_leaves_the_process_alive(self, own: TsMlsPeer) -> None:
        alice = own.client(b"alice", 1)
        group = alice.create_group(b"one")
        before = group.state()
        requests: list[tuple[str, dict[str, Any]]] = [
            ("no such thing", {}),
            ("state", {"group": 99}),
            ("join", {"client": 0, "welcome": "AAAA"}),
            ("process", {"group": 0, "message": ""}),
            ("commit", {"group": 0, "adds": ["AAAA"]}),
        ]
        for op, fields in requests:
            with pytest.raises(Refused):
                own.ask(op, **fields)
        with pytest.raises(Refused, match="1 bytes after"):
            group.commit([Add(alice.key_package() + b"x")])
        with pytest.raises(Refused, match="pskId"):
            group.commit([ExternalPsk(b"nobody knows it")])
        assert group.state() == before

    def test_a_dead_process_is_told_apart_from_a_refusal(self, own: TsMlsPeer) -> None:
        os.kill(own.pid, signal.SIGKILL)
        with pytest.raises(Broken):
            own.client(b"alice", 1)

    def test_a_silent_process_is_given_up(self, own: TsMlsPeer, monkeypatch: pytest.MonkeyPatch) -> None:
        own.client(b"alice", 1)
        monkeypatch.setattr(ts_mls_peer, "ANSWER_SECONDS", 0.1)
        os.kill(own.pid, signal.SIGSTOP)
        with pytest.raises(Broken, match="no answer"):
            own.client(b"bob", 1)

    def test_close_ends_the_process(self, ts_mls: Peer) -> None:
        peer = TsMlsPeer()
        peer.client(b"alice", 1)
        peer.close()
        with pytest.raises(ProcessLookupError):
            os.kill(peer.pid, 0)

    def test_versions_are_exact_and_the_lock_names_no_address(self) -> None:
        wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
        text = (FOLDER / "package-lock.json").read_text()
        packages = json.loads(text)["packages"]
        assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
        assert all("integrity" in package for path, package in packages.items() if path)
        assert "resolved" not in text
        assert "registry" not in text

    def test_lifetime_in_a_key_package(self, ts_mls: Peer) -> None:
        alice, bob = people(ts_mls, ts_mls, 1, 2)
        room = Room.create(alice)
        with pytest.raises(Refused, match="Lifetime"):
            room[alice].commit([Add(bob.key_package(lifetime=(1, 2)))])


class TestMlsRs:
    """What the binding lacks is told apart from what the library refuses."""

    @pytest.mark.parametrize(
        "attempt",
        [
            lambda client: client.create_group(b"group", [Extension(3, b"\0\0\0")]),
            lambda client: client.create_group(b"group").group_info(),
            lambda client: client.create_group(b"group").commit([ExternalPsk(b"secret")]),
            lambda client: client.register_psk(b"secret", b"value"),
            lambda client: client.external_join(b""),
        ],
    )
    def test_unsupported(self, attempt: Callable[[object], object], mls_rs: Peer) -> None:
        with pytest.raises(Unsupported):
            attempt(mls_rs.client(b"alice", 1))

    def test_refused(self, mls_rs: Peer) -> None:
        group = mls_rs.client(b"alice", 1).create_group(b"group")
        with pytest.raises(Refused):
            group.process(b"no message")

    def test_no_other_suite(self, mls_rs: Peer) -> None:
        with pytest.raises(Unsupported):
            mls_rs.client(b"alice", 2)
        assert issubclass(Unsupported, PeerError)
        assert Can.EXTERNAL_PSK not in mls_rs.can
