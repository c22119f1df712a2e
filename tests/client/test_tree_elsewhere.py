"""A room's group of which the ratchet tree is beside the Welcome: the client's part, without servers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest

from slixmpp_mls.client import CommitLost, Incoming, Joined, Rejected, RemovedFromGroup
from slixmpp_mls.client.group.actions import Ignore, Join, MoveOn
from slixmpp_mls.errors import InvalidError, NotPermitted, StanzaTooLarge, UsageError
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.stanza.blob import BlobReference, Sealed, longest, seal
from slixmpp_mls.stanza.elements import RoomElement, Welcome
from slixmpp_mls.testing import Participant, World


def commit_with_tree_elsewhere(who: Participant, proposals: Sequence[AnyProposal]) -> tuple[Sealed, BlobReference]:
    draft = who.session.draft_commit(proposals, who.world.now)
    sealed = seal(draft.tree.encode(), os.urandom)
    place = sealed.at("https://share.example/tree")
    who.post(who.session.finish_commit(draft, tree_at=place))
    return sealed, place


def read_up_to_the_welcome(who: Participant) -> Incoming:
    """The one with a Welcome for it whose tree is elsewhere; those before it are read."""
    for incoming in who.world.room.read(who.account, who.session.cursor):
        if who.session.examine(incoming, who.world.now).tree_at is not None:
            return incoming
        who.take(incoming)
    raise AssertionError("no Welcome")


def test_joining() -> None:
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    carol = world.person("carol@c.example")
    sealed, place = commit_with_tree_elsewhere(alice, alice.adding(carol.account))
    world.room.deliver_all()
    incoming = read_up_to_the_welcome(carol)
    step = carol.session.examine(incoming, world.now)
    assert step.tree_at == place
    assert isinstance(step.action, Ignore)
    assert step.leaves == ()
    incoming = replace(incoming, tree=place.open(sealed.ciphertext))
    step = carol.session.examine(incoming, world.now)
    assert step.tree_at is None
    assert isinstance(step.action, Join)
    assert len(step.leaves) == 2
    (joined,) = carol.session.accept(step, world.now)
    assert isinstance(joined, Joined)
    world.settle()
    assert world.agree()
    carol.send(b"Fair is foul")
    world.settle()
    assert bob.texts == alice.texts == [b"Fair is foul"]


def test_another_tree_is_refused_and_the_key_package_is_kept() -> None:
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    carol = world.person("carol@c.example")
    sealed, place = commit_with_tree_elsewhere(alice, alice.adding(carol.account))
    world.room.deliver_all()
    good = place.open(sealed.ciphertext)
    incoming = read_up_to_the_welcome(carol)
    for tree in (b"", good[:-1], alice.session.group.tree.encode(), bob.session.group.tree.encode()):
        step = carol.session.examine(replace(incoming, tree=tree), world.now)
        assert isinstance(step.action, Ignore)
        assert [type(event) for event in step.action.events] == [Rejected]
        assert step.tree_at is None
    step = carol.session.examine(replace(incoming, tree=good), world.now)
    assert isinstance(step.action, Join)


def test_a_tree_that_can_not_be_had() -> None:
    world = World()
    alice, _ = world.group("alice@a.example", "bob@b.example")
    carol = world.person("carol@c.example")
    commit_with_tree_elsewhere(alice, alice.adding(carol.account))
    world.room.deliver_all()
    incoming = read_up_to_the_welcome(carol)
    step = carol.session.examine(incoming, world.now)
    (event,) = carol.session.refuse(step, InvalidError("gone", "RFC 9420 12.4.3.3"))
    assert isinstance(event, Rejected)
    assert carol.session.cursor == incoming.archive_id
    # Somebody lets her in again.
    world.settle()
    alice.commit(*alice.removing(carol.account))
    world.settle()
    alice.commit(*alice.adding(carol.account))
    world.settle()
    assert world.agree()


def test_removal_and_return_by_one_commit() -> None:
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    for had in (True, False):
        world.directory.replenish(bob.session.device, world.now)
        found = world.directory.find(bob.account, alice.session, world.now)
        (package,) = found.values()
        sealed, place = commit_with_tree_elsewhere(alice, [*alice.removing(bob.account), Add(package.key_package)])
        world.room.deliver_all()
        incoming = read_up_to_the_welcome(bob)
        step = bob.session.examine(incoming, world.now)
        assert step.tree_at == place
        assert isinstance(step.action, MoveOn)
        if had:
            tree = place.open(sealed.ciphertext)
            step = bob.session.examine(replace(incoming, tree=tree), world.now)
            assert step.join is not None
            assert [type(event) for event in bob.session.accept(step, world.now)] == [Joined]
            world.settle()
            assert world.agree()
        else:
            events = bob.session.refuse(step, InvalidError("gone", "RFC 9420 12.4.3.3"))
            assert [type(event) for event in events] == [Rejected, RemovedFromGroup]


def test_nothing_is_fetched_for_a_welcome_that_is_refused_anyway() -> None:
    world, other = World(), World(room="cave@rooms.example")
    (alice,) = world.group("alice@a.example")
    (mallory,) = other.group("mallory@m.example")
    carol = world.person("carol@c.example")
    # A Welcome to the group of another room; with another epoch beside it than inside.
    found = world.directory.find(carol.account, mallory.session, world.now)
    (package,) = found.values()
    draft = mallory.session.draft_commit([Add(package.key_package)], world.now)
    foreign = mallory.session.finish_commit(draft, tree_at=longest())
    commit_with_tree_elsewhere(alice, alice.adding(carol.account))
    world.room.deliver_all()
    incoming = read_up_to_the_welcome(carol)
    changed = [
        replace(payload, epoch=payload.epoch + 1) if isinstance(payload, Welcome) else payload
        for payload in incoming.payloads
    ]
    for payloads in (foreign.payloads, tuple(changed)):
        step = carol.session.examine(replace(incoming, payloads=payloads), world.now)
        assert step.tree_at is None
        assert isinstance(step.action, Ignore)
        assert [type(event) for event in step.action.events] == [Rejected]
    assert carol.session.examine(incoming, world.now).tree_at is not None


def test_a_draft_and_what_happens_meanwhile() -> None:
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    world.person("carol@c.example")
    before = dict(alice.session.group.pieces())
    draft = alice.session.draft_commit(alice.adding("carol@c.example"), world.now)

    def too_large(payloads: Sequence[RoomElement]) -> None:
        raise StanzaTooLarge(300_000, 240_000)

    with pytest.raises(StanzaTooLarge):
        alice.session.try_commit(draft, too_large, tree_at=longest())
    with pytest.raises(StanzaTooLarge):
        alice.session.finish_commit(draft, fits=too_large)
    alice.session.try_commit(draft, lambda payloads: None, tree_at=longest())
    assert alice.session.group.pieces() == before
    assert not alice.session.commit_waits
    assert not list(alice.session.outstanding())

    # Messages come and go: the draft is still good.
    alice.send(b"one")
    bob.send(b"two")
    world.settle()
    assert alice.session.is_current(draft)
    alice.post(alice.session.finish_commit(draft, tree_at=longest()))
    with pytest.raises(UsageError):
        alice.session.finish_commit(draft)
    alice.restart()
    assert alice.session.commit_waits
    world.settle()
    assert alice.session.group.epoch_authenticator == bob.session.group.epoch_authenticator
    assert len(bob.session.members()) == 3

    # Another Commit comes: it is not.
    draft = alice.session.draft_commit([], world.now)
    bob.commit()
    world.settle()
    assert not alice.session.is_current(draft)
    with pytest.raises(UsageError):
        alice.session.finish_commit(draft)
    assert not alice.said(CommitLost)


def test_the_longest_reference_is_a_reference() -> None:
    assert BlobReference.decode(longest().encode()) == longest()
    assert len(longest().encode()) > 2048


def test_policy_is_asked_before_anything_is_uploaded() -> None:
    world = World()
    policy = RoomPolicy(world.room.jid, ("alice@a.example",))
    _, bob = world.group("alice@a.example", "bob@b.example", policy=policy)
    world.person("carol@c.example")
    with pytest.raises(NotPermitted):
        bob.session.draft_commit(bob.adding("carol@c.example"), world.now)
