"""A room that hands every message to every member, and compares all of them after every step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from .peers import Add, Can, Client, Commit, Extension, Founded, Group, GroupState, Proposal, Received, Remove
from .tree import Tree, read_tree

_numbers = itertools.count()


def fresh_id(prefix: str = "group") -> bytes:
    """A group id that no other test of this run uses (peers live for the whole run)."""
    return f"{prefix}-{next(_numbers)}".encode()


class Room:
    """The members of one group, by identity, in order of joining."""

    def __init__(self, group: Group) -> None:
        self.groups: dict[bytes, Group] = {group.client.identity: group}
        self.check()

    @classmethod
    def create(cls, creator: Client, extensions: tuple[Extension, ...] = ()) -> Room:
        return cls(creator.create_group(fresh_id(), extensions))

    def __getitem__(self, client: Client) -> Group:
        return self.groups[client.identity]

    @property
    def state(self) -> GroupState:
        """The view of the longest-standing member; ``check`` has compared the others with it."""
        return next(iter(self.groups.values())).state()

    @property
    def tree(self) -> Tree:
        return read_tree(self.state.ratchet_tree)

    def index_of(self, client: Client) -> int:
        return self.tree.index_of(client.identity)

    def check(self) -> None:
        """All members agree on everything that they can show, and on who they are."""
        groups = list(self.groups.values())
        views = [group.state() for group in groups]
        first = views[0]
        tree = read_tree(first.ratchet_tree)
        assert {member.identity for member in tree.members} == set(self.groups)
        authenticators = {view.epoch_authenticator for view in views} - {None}
        assert len(authenticators) <= 1, "epoch authenticators differ"
        secret = groups[0].export_secret("interop", first.group_id, 32)
        assert len(secret) == 32
        for group, view in zip(groups, views, strict=True):
            identity = group.client.identity
            assert view.phase == first.phase, identity
            assert (view.group_id, view.epoch) == (first.group_id, first.epoch), identity
            assert view.ratchet_tree == first.ratchet_tree, identity
            assert view.tree_hash == first.tree_hash, identity
            assert view.confirmed_transcript_hash == first.confirmed_transcript_hash, identity
            assert view.extensions == first.extensions, identity
            assert view.own_index == tree.index_of(identity), identity
            assert group.export_secret("interop", first.group_id, 32) == secret, identity
            assert all(group.holds_authenticator(value) for value in authenticators if value), identity

    def propose(self, proposer: Client, proposal: Proposal, *, private: bool | None = None) -> None:
        message = self[proposer].propose(proposal, private=private)
        self._deliver(message, "proposal", proposer)

    def deliver_proposal(self, message: bytes, proposer: Client | None = None) -> None:
        """A proposal that was made before; without a proposer, from somebody who is not a member."""
        self._deliver(message, "proposal", proposer)

    def commit(
        self, committer: Client, *proposals: Proposal, private: bool | None = None, joining: Iterable[Client] = ()
    ) -> Commit:
        """Commit, let everybody follow, let the added ones join, forget the removed ones, and compare."""
        before = self.state.epoch
        commit = self[committer].commit(proposals, private=private)
        self.follow(commit, committer, joining)
        assert self.state.epoch == before + 1
        return commit

    def follow(
        self, commit: Commit, committer: Client, joining: Iterable[Client] = (), *, beside: bool = False
    ) -> None:
        """Everybody, the committer included, processes a commit that was made before."""
        self.deliver_commit(commit.message, committer)
        for client in joining:
            assert commit.welcome is not None
            if beside:
                assert commit.ratchet_tree is not None
            self.groups[client.identity] = client.join(commit.welcome, commit.ratchet_tree if beside else None)
        self.check()

    def deliver_commit(self, message: bytes, committer: Client | None) -> None:
        for identity, found in self._deliver(message, "commit", committer, itself=True):
            if found.removed:
                del self.groups[identity]

    def add(self, committer: Client, *clients: Client) -> None:
        self.commit(committer, *(Add(client.key_package()) for client in clients), joining=clients)

    def remove(self, committer: Client, *clients: Client) -> None:
        gone = [self[client] for client in clients]
        self.commit(committer, *(Remove(self.index_of(client)) for client in clients))
        assert not {client.identity for client in clients} & set(self.groups)
        assert all(group.state().phase == "removed" for group in gone)

    def enter(self, group: Group, message: bytes) -> None:
        """Somebody has come in by the external commit ``message``, perhaps in place of their own old leaf."""
        self.groups.pop(group.client.identity, None)
        self.deliver_commit(message, None)
        self.groups[group.client.identity] = group
        self.check()

    def enter_founded(self, founded: Founded, *others: tuple[Client, Group]) -> Room:
        """The room of a group that came out of this one, with the other members' clients and old groups."""
        room = Room.__new__(Room)
        room.groups = {founded.group.client.identity: founded.group}
        for client, old in others:
            room.groups[client.identity] = client.join(founded.welcome, founded.ratchet_tree, resumed=old)
        room.check()
        return room

    def talk(self, *senders: Client) -> None:
        """Each sender, or else every member, says something that all others read."""
        for identity in [client.identity for client in senders] or list(self.groups):
            sender = self.groups[identity]
            text = b"a word from " + identity
            aad = b"beside it" if all(Can.AAD in group.client.peer.can for group in self.groups.values()) else b""
            for _, found in self._deliver(sender.encrypt(text, aad), "application", sender.client):
                assert found.data == text
                assert found.aad in (aad, None)

    def _deliver(
        self, message: bytes, kind: str, sender: Client | None, *, itself: bool = False
    ) -> list[tuple[bytes, Received]]:
        index = None if sender is None else self.index_of(sender)
        answers = []
        for identity, group in list(self.groups.items()):
            if sender is not None and identity == sender.identity and not itself:
                continue
            found = group.process(message)
            assert found.kind == kind
            assert found.sender in (index, None)
            answers.append((identity, found))
        return answers
