"""A room's group of which the ratchet tree is beside the Welcome: the client's part, without servers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest

from slixmpp_mls.client import CommitLost, GroupLost, Incoming, Joined, Rejected
from slixmpp_mls.client.group import placement
from slixmpp_mls.client.group.actions import Ignore, Join, MoveOn
from slixmpp_mls.client.group.placement import Placement
from slixmpp_mls.errors import InvalidError, NotPermitted, StanzaTooLarge, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal
from slixmpp_mls.mls.tree.leaf_creation import OwnLeaf, capabilities, create_key_package
from slixmpp_mls.policy import EXTENSION_TYPES, RoomPolicy
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.blob import MAX_BLOB, BlobReference, Sealing, longest, tree_limit
from slixmpp_mls.stanza.elements import Commit, GroupInfo, RoomElement, Welcome
from slixmpp_mls.testing import NOW, Participant, World


def commit_with_tree_elsewhere(who: Participant, proposals: Sequence[AnyProposal]) -> tuple[Sealing, BlobReference]:
    draft = who.group.sending.draft_commit(proposals, who.world.now)
    sealed = Sealing(draft.tree.encode(), os.urandom)
    place = sealed.at("https://share.example/tree")
    who.post(who.group.sending.finish_commit(draft, tree_at=place))
    return sealed, place


def read_up_to_the_welcome(who: Participant) -> Incoming:
    """The one with a Welcome for it whose tree is elsewhere; those before it are read."""
    for incoming in who.world.room.read(who.account, who.group.cursor):
        if who.group.processing.examine(incoming, who.world.now).fetch is not None:
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
    step = carol.group.processing.examine(incoming, world.now)
    assert step.fetch == place
    assert isinstance(step.action, Ignore)
    assert step.leaves == ()
    incoming = incoming.with_blob(place, place.open(sealed.ciphertext))
    step = carol.group.processing.examine(incoming, world.now)
    assert step.fetch is None
    assert isinstance(step.action, Join)
    assert len(step.leaves) == 2
    (joined,) = carol.group.applying.accept(step, world.now)
    assert isinstance(joined, Joined)
    world.settle()
    assert world.agree()
    carol.send(b"Fair is foul")
    world.settle()
    assert bob.texts == alice.texts == [b"Fair is foul"]


def test_no_tree_is_fetched_that_is_longer_than_the_policy_allows() -> None:
    world = World()
    policy = replace(world.open_policy("alice@a.example"), max_members=3)
    (alice,) = world.group("alice@a.example", policy=policy)
    carol = world.person("carol@c.example")
    draft = alice.group.sending.draft_commit(alice.adding(carol.account), world.now)
    place = replace(Sealing(b"", os.urandom).at("https://share.example/tree"), size=tree_limit(3) + 1)
    alice.post(alice.group.sending.finish_commit(draft, tree_at=place))
    world.room.deliver_all()
    events = carol.read()
    assert [type(event) for event in events] == [Rejected]
    assert not carol.group.is_member


def key_packages(world: World, numbers: range) -> list[AnyProposal]:
    """Adds of clients that never come."""
    suite = CipherSuite.get(1)
    able = capabilities(cipher_suites=(1,), extensions=EXTENSION_TYPES, proposals=(), credentials=(1, 2), random=None)
    lifetime = Lifetime(world.now - 10, world.now + 86400 * 28)
    made: list[AnyProposal] = []
    for number in numbers:
        credential = ClientIdentity(f"u{number}@many.example", "d").credential()
        own = OwnLeaf(credential, suite.generate_signature_key(), able)
        made.append(Add(create_key_package(suite, own, lifetime, with_grease=False).key_package))
    return made


def test_a_group_whose_tree_fits_into_no_element_still_adds_people() -> None:
    """5,000 members: the tree is longer than the text of an element may be, whatever the servers carry."""
    world = World()
    (alice,) = world.group("alice@a.example")
    for start in range(0, 5000, 1000):
        commit_with_tree_elsewhere(alice, key_packages(world, range(start, start + 1000)))
        world.settle()
    assert alice.group.mls.tree.member_count == 5001
    assert len(alice.group.mls.tree.encode()) > elements.MAX_MESSAGE

    carol = world.person("carol@c.example")
    draft = alice.group.sending.draft_commit(alice.adding(carol.account), world.now)
    state = alice.group.mls.epoch, len(list(alice.group.outstanding()))
    with pytest.raises(StanzaTooLarge):  # the sign for the committer to put the tree elsewhere
        alice.group.sending.finish_commit(draft)
    assert (alice.group.mls.epoch, len(list(alice.group.outstanding()))) == state
    sealed = Sealing(draft.tree.encode(), os.urandom)
    assert len(sealed.ciphertext) <= MAX_BLOB
    place = sealed.at("https://share.example/tree")
    outgoing = alice.post(alice.group.sending.finish_commit(draft, tree_at=place))
    assert sum(element.written_at_most for element in outgoing.payloads) < 240_000
    world.room.deliver_all()
    incoming = read_up_to_the_welcome(carol).with_blob(place, place.open(sealed.ciphertext))
    check = carol.group.processing.examine(incoming, world.now).check
    assert check is not None
    assert check.octets == len(draft.tree.encode())  # it is verified in another thread
    step = carol.group.processing.examine(incoming.with_checked(check.run()), world.now)
    (joined,) = carol.group.applying.accept(step, world.now)
    assert isinstance(joined, Joined)
    world.settle()
    assert world.agree()


def test_what_no_element_can_hold_is_too_large_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths are compared before an element is made; a GroupInfo that does not fit is left out."""
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    tree = len(alice.group.mls.tree.encode())
    whole = alice.group.sending.finish_commit(alice.group.sending.draft_commit([], world.now))
    sizes = {type(element): len(element.data) for element in whole.payloads}
    alice.post(whole)
    world.settle()
    assert GroupInfo in sizes
    assert sizes[GroupInfo] > tree
    monkeypatch.setattr(placement, "MAX_MESSAGE", sizes[GroupInfo] - 100)
    assert sizes[Commit] < sizes[GroupInfo] - 100
    without = alice.group.sending.finish_commit(alice.group.sending.draft_commit([], world.now))
    assert [type(element) for element in without.payloads] == [Commit]
    alice.post(without)
    world.settle()
    monkeypatch.setattr(placement, "MAX_MESSAGE", 100)
    with pytest.raises(StanzaTooLarge) as caught:
        bob.group.sending.commit([], world.now)
    assert caught.value.limit == 100
    with pytest.raises(StanzaTooLarge):
        bob.group.sending.compose(b"x" * 1000)
    assert list(bob.group.outstanding()) == []
    monkeypatch.undo()
    bob.send(b"Fair is foul")
    world.settle()
    assert alice.texts == [b"Fair is foul"]


def test_another_tree_is_refused_and_the_key_package_is_kept() -> None:
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    carol = world.person("carol@c.example")
    sealed, place = commit_with_tree_elsewhere(alice, alice.adding(carol.account))
    world.room.deliver_all()
    good = place.open(sealed.ciphertext)
    incoming = read_up_to_the_welcome(carol)
    for tree in (b"", good[:-1], alice.group.mls.tree.encode(), bob.group.mls.tree.encode()):
        step = carol.group.processing.examine(incoming.with_blob(place, tree), world.now)
        assert isinstance(step.action, Ignore)
        assert [type(event) for event in step.action.events] == [Rejected]
        assert step.fetch is None
    step = carol.group.processing.examine(incoming.with_blob(place, good), world.now)
    assert isinstance(step.action, Join)


def test_a_tree_that_cannot_be_had() -> None:
    world = World()
    alice, _ = world.group("alice@a.example", "bob@b.example")
    carol = world.person("carol@c.example")
    commit_with_tree_elsewhere(alice, alice.adding(carol.account))
    world.room.deliver_all()
    incoming = read_up_to_the_welcome(carol)
    step = carol.group.processing.examine(incoming, world.now)
    (event,) = carol.group.applying.refuse(step, InvalidError("gone", "RFC 9420 12.4.3.3"), NOW)
    assert isinstance(event, Rejected)
    assert carol.group.cursor == incoming.archive_id
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
        world.directory.replenish(bob.group.device, world.now)
        found = world.directory.find(bob.account, alice.group, world.now)
        (package,) = found.values()
        sealed, place = commit_with_tree_elsewhere(alice, [*alice.removing(bob.account), Add(package.key_package)])
        world.room.deliver_all()
        incoming = read_up_to_the_welcome(bob)
        step = bob.group.processing.examine(incoming, world.now)
        assert step.fetch == place
        assert isinstance(step.action, MoveOn)
        if had:
            tree = place.open(sealed.ciphertext)
            step = bob.group.processing.examine(incoming.with_blob(place, tree), world.now)
            assert step.join is not None
            assert [type(event) for event in bob.group.applying.accept(step, world.now)] == [Joined]
            world.settle()
            assert world.agree()
        else:
            events = bob.group.applying.refuse(step, InvalidError("gone", "RFC 9420 12.4.3.3"), NOW)
            assert [type(event) for event in events] == [Rejected, GroupLost]  # the others want him in the group


def test_nothing_is_fetched_for_a_welcome_that_is_refused_anyway() -> None:
    world, other = World(), World(room="cave@rooms.example")
    (alice,) = world.group("alice@a.example")
    (mallory,) = other.group("mallory@m.example")
    carol = world.person("carol@c.example")
    # A Welcome to the group of another room; with another epoch beside it than inside.
    found = world.directory.find(carol.account, mallory.group, world.now)
    (package,) = found.values()
    draft = mallory.group.sending.draft_commit([Add(package.key_package)], world.now)
    foreign = mallory.group.sending.finish_commit(draft, tree_at=longest())
    commit_with_tree_elsewhere(alice, alice.adding(carol.account))
    world.room.deliver_all()
    incoming = read_up_to_the_welcome(carol)
    changed = [
        replace(payload, epoch=payload.epoch + 1) if isinstance(payload, Welcome) else payload
        for payload in incoming.payloads
    ]
    for payloads in (foreign.payloads, tuple(changed)):
        step = carol.group.processing.examine(replace(incoming, payloads=payloads), world.now)
        assert step.fetch is None
        assert isinstance(step.action, Ignore)
        assert [type(event) for event in step.action.events] == [Rejected]
    assert carol.group.processing.examine(incoming, world.now).fetch is not None


def test_a_draft_and_what_happens_meanwhile() -> None:
    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")
    world.person("carol@c.example")
    before = dict(alice.group.mls.pieces())
    draft = alice.group.sending.draft_commit(alice.adding("carol@c.example"), world.now)

    def too_large(payloads: Sequence[RoomElement]) -> None:
        raise StanzaTooLarge(300_000, 240_000)

    with pytest.raises(StanzaTooLarge):
        alice.group.sending.place_commit(draft, too_large)
    with pytest.raises(StanzaTooLarge):
        alice.group.sending.finish_commit(draft, fits=too_large)
    assert alice.group.sending.place_commit(draft, lambda payloads: None) == (Placement.IN_STANZA, ())
    assert alice.group.mls.pieces() == before
    assert not alice.group.sending.commit_waits
    assert not list(alice.group.outstanding())

    # Messages come and go: the draft is still good.
    alice.send(b"one")
    bob.send(b"two")
    world.settle()
    assert alice.group.sending.is_current(draft)
    alice.post(alice.group.sending.finish_commit(draft, tree_at=longest()))
    with pytest.raises(UsageError):
        alice.group.sending.finish_commit(draft)
    alice.restart()
    assert alice.group.sending.commit_waits
    world.settle()
    assert alice.group.mls.epoch_authenticator == bob.group.mls.epoch_authenticator
    assert len(bob.group.members.all()) == 3

    # Another Commit comes: it is not.
    draft = alice.group.sending.draft_commit([], world.now)
    bob.commit()
    world.settle()
    assert not alice.group.sending.is_current(draft)
    with pytest.raises(UsageError):
        alice.group.sending.finish_commit(draft)
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
        bob.group.sending.draft_commit(bob.adding("carol@c.example"), world.now)
