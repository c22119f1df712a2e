"""A room of full members with partial members that follow it."""

from __future__ import annotations

from typing import Any, cast

from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.message_processing import ReceivedMessage, ReceivedProposal
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.partial import (
    CommitAnnotations,
    PartialGroup,
    StagedPartialCommit,
    annotate_welcome,
    authenticate_sender,
)
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.partial import AnnotatedWelcome, SenderAuthenticatedMessage
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from tests.mls.group_helpers import NOW, bundle, won


def name_of(client: KeyPackageBundle) -> str:
    return cast(str, cast(Any, client.key_package.leaf_node.credential).identity.decode())


def welcomed(made: CommitBundle, client: KeyPackageBundle) -> AnnotatedWelcome:
    """The Welcome for one of those whom a Commit adds, annotated by its committer."""
    after = made.staged.next
    assert after is not None
    index = after.tree.leaf_by_signature_key(client.key_package.leaf_node.signature_key)
    assert index is not None
    assert made.welcome is not None
    return annotate_welcome(after.tree, made.welcome, after.own_index, index, client.reference)


class PartialRoom:
    """Full members and partial members by name; the committer annotates for the latter."""

    def __init__(self, full: list[str], partial: list[str], suite: int = 1) -> None:
        self.suite = suite
        first, *others = [bundle(name, suite) for name in full]
        self.full = {full[0]: Group.create(first, b"a large room")}
        self.partial: dict[str, PartialGroup] = {}
        if others:
            self.commit(full[0], joining=others)
        if partial:
            self.commit(full[0], partially=[bundle(name, suite) for name in partial])

    def all(self) -> dict[str, Group | PartialGroup]:
        return {**self.full, **self.partial}

    def hear(self, message: bytes, sender: str) -> None:
        """A proposal reaches everybody."""
        state = self.all()[sender]
        for name in self.full:
            if name != sender:
                group = self.full[name]
                self.full[name] = group.apply(group.process(message, now=NOW), now=NOW)
        for name in self.partial:
            if name != sender:
                partial = self.partial[name]
                received = partial.process(self.authenticated(message, state.own_index), now=NOW)
                assert isinstance(received, ReceivedProposal)
                self.partial[name] = partial.apply(received, now=NOW)

    def propose(self, sender: str, proposal: AnyProposal, *, public: bool = False) -> None:
        if sender in self.full:
            message, self.full[sender] = self.full[sender].propose(proposal, now=NOW, public=public)
        else:
            message, self.partial[sender] = self.partial[sender].propose(proposal, now=NOW, public=public)
        self.hear(message, sender)

    def propose_update(self, sender: str, *, public: bool = False) -> None:
        if sender in self.full:
            message, self.full[sender] = self.full[sender].propose_update(now=NOW, public=public)
        else:
            message, self.partial[sender] = self.partial[sender].propose_update(now=NOW, public=public)
        self.hear(message, sender)

    def authenticated(self, message: bytes, sender: LeafIndex) -> SenderAuthenticatedMessage:
        tree = next(iter(self.full.values())).tree
        return authenticate_sender(tree, sender, message)

    def commit(
        self,
        sender: str,
        proposals: tuple[AnyProposal, ...] = (),
        *,
        joining: list[KeyPackageBundle] | None = None,
        partially: list[KeyPackageBundle] | None = None,
        options: CommitOptions | None = None,
        **more: Any,
    ) -> CommitBundle:
        """A Commit that wins: all follow it, or go; those who join, join."""
        joining, partially = joining or [], partially or []
        adds = [Add(client.key_package) for client in (*joining, *partially)]
        before = self.full[sender]
        made = before.commit([*proposals, *adds], now=NOW, options=options, **more)
        self.settle(sender, made, before, psks=more.get("psks"))
        for client in joining:
            self.full[name_of(client)] = cast(Group, Group.join(_welcome(made), client, **_psks(more)).state)
        for client in partially:
            joined = PartialGroup.join(welcomed(made, client), client, **_psks(more))
            assert joined.inviter == self.full[sender].own_index
            assert joined.reference == client.reference
            self.partial[name_of(client)] = joined.state
        self.agree()
        return made

    def settle(self, sender: str, made: CommitBundle, before: Group, psks: Any = None) -> None:
        """A full member's Commit, made in `before`, reaches everybody else."""
        removed = {change.index for change in made.staged.effects.removed}
        for name in [name for name in self.full if name != sender]:
            staged = self.full[name].process(made.commit, now=NOW, **_psks({"psks": psks}))
            assert isinstance(staged, StagedCommit)
            if staged.next is None:
                del self.full[name]
            else:
                self.full[name] = self.full[name].apply(staged, now=NOW)
        annotations = CommitAnnotations.of(before.tree, made.staged, made.commit)
        for name, group in list(self.partial.items()):
            if group.own_index in removed:
                message: Any = MLSMessage.decode(made.commit)
                if annotations.before is not None:
                    message = authenticate_sender(before.tree, annotations.committer, message)
                gone = group.process(message, now=NOW)
                assert isinstance(gone, StagedPartialCommit)
                assert gone.next is None
                del self.partial[name]
                continue
            followed = group.process(annotations.for_receiver(group.own_index), now=NOW, **_psks({"psks": psks}))
            assert isinstance(followed, StagedPartialCommit)
            assert followed.committer == made.staged.effects.committer
            assert followed.committer_index == made.staged.effects.committer_index
            self.partial[name] = group.apply(followed, now=NOW)
        if sender in self.full and isinstance(made.sent, Group) and made.sent.epoch == before.epoch:
            self.full[sender] = won(made)

    def say(self, sender: str, data: bytes = b"hello") -> bytes:
        """An application message that all others read."""
        if sender in self.full:
            message, self.full[sender] = self.full[sender].encrypt(data)
        else:
            message, self.partial[sender] = self.partial[sender].encrypt(data)
        author = self.all()[sender]
        for name in [name for name in self.full if name != sender]:
            received = self.full[name].process(message, now=NOW)
            assert isinstance(received, ReceivedMessage)
            assert (received.data, received.leaf) == (data, author.own_leaf)
            self.full[name] = self.full[name].apply(received, now=NOW)
        for name in [name for name in self.partial if name != sender]:
            received = self._heard(name, self.authenticated(message, author.own_index))
            assert (received.data, received.sender) == (data, author.own_index)
            assert received.leaf == author.own_leaf
            self.partial[name] = self.partial[name].apply(received, now=NOW)
        return message

    def _heard(self, name: str, message: SenderAuthenticatedMessage) -> ReceivedMessage:
        received = self.partial[name].process(message, now=NOW)
        assert isinstance(received, ReceivedMessage)
        return received

    def agree(self) -> None:
        """All are in the same state; partial members know less of it, and nothing else."""
        states = self.all().values()
        assert len({state.context.encode() for state in states}) == 1
        assert len({state.epoch_authenticator for state in states}) == 1
        assert len({state.export("test", b"context", 32) for state in states}) == 1
        assert len({state.public.interim_transcript_hash for state in states}) == 1
        assert len({state.public.proposal_order for state in states}) == 1
        whole = next(iter(self.full.values())).tree
        for name, state in self.partial.items():
            assert state.tree.tree_hash() == whole.tree_hash(), name
            assert state.tree.leaf_count == whole.leaf_count
            assert all(whole.leaf(index) == leaf for index, leaf in state.members())
            assert state.own_leaf.signature_key == state.signature_key.public
            assert state.private.kept_in(whole) is state.private, name
            for node, key in state.private.keys.items():
                held = whole.node(node)
                assert held is not None
                assert held.encryption_key == key.public


def _psks(more: dict[str, Any]) -> dict[str, Any]:
    return {"psks": more["psks"]} if more.get("psks") is not None else {}


def _welcome(made: CommitBundle) -> Any:
    assert made.welcome is not None
    return MLSMessage.decode(made.welcome).body
