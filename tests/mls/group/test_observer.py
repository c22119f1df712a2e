"""Following a group without being in it: everything public, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from slixmpp_mls.errors import InvalidError, NotForUs, PeerError
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.group_state import PublicGroup
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.schedule.message_protection import protect_public
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.proposals import Add, GroupContextExtensions, Remove, SelfRemove
from tests.mls.group_helpers import (
    NOW,
    PUBLIC,
    Room,
    body,
    bundle,
    changed_commit,
    forged,
    forged_commit,
    group_info_of,
    won,
)
from tests.mls.observer import FollowedCommit, FollowedProposal, follow, process


def same(public: PublicGroup, group: Group) -> None:
    assert public.context == group.context
    assert public.interim_transcript_hash == group.public.interim_transcript_hash
    assert public.confirmation_tag == group.public.confirmation_tag
    assert dict(public.members()) == dict(group.members())
    assert public.proposal_order == group.public.proposal_order


@pytest.fixture
def room() -> Room:
    return Room.of("alice", "bob", "carol")


def test_a_follower_follows(room: Room) -> None:
    public = follow(group_info_of(room["alice"], external=False))
    same(public, room["bob"])
    dave, erin = bundle("dave"), bundle("erin")

    def hear(message: bytes) -> None:
        nonlocal public
        followed = process(public, message)
        assert isinstance(followed, FollowedProposal | FollowedCommit)
        public = followed.next

    def committed(sender: str, *proposals: object, path: bool | None = None) -> None:
        options = CommitOptions(public=True, path=path)
        made = room[sender].commit(proposals, now=NOW, options=options)  # type: ignore[arg-type]
        followed = process(public, made.commit)
        assert isinstance(followed, FollowedCommit)
        assert followed.effects == made.staged.effects
        hear(made.commit)
        room.settle(sender, made)
        same(public, room[sender])

    def proposed(sender: str, message: tuple[bytes, Group]) -> None:
        octets, room[sender] = message
        room.hear(octets, sender)
        hear(octets)

    committed("bob")
    proposed("carol", room["carol"].propose_update(now=NOW, public=True))
    proposed("bob", room["bob"].propose(Add(dave.key_package), now=NOW, public=True))
    same(public, room["alice"])
    committed("alice", Add(erin.key_package))
    committed("carol", Remove(0))
    proposed("bob", room["bob"].propose(SelfRemove(), now=NOW))
    made = Group.external_commit(group_info_of(room["carol"]), bundle("frank").own_leaf, now=NOW,
                                 leaving=[body(room_message(room["carol"]))])  # fmt: skip
    hear(made.commit)
    del room.groups["bob"]
    room.hear(made.commit)
    same(public, room["carol"])
    same(public, cast(Group, made.staged.next))


def room_message(group: Group) -> bytes:
    """The last proposal as the message that it came in."""
    content = group.pending_proposals[-1].content
    assert content is not None
    return MLSMessage.wrap(protect_public(group.suite, content, b"", b""))


def test_what_a_follower_refuses(room: Room) -> None:
    """All that members refuse and that takes no secret to see."""
    public = follow(group_info_of(room["alice"]))
    bob = room["bob"]
    made = bob.commit(now=NOW, options=PUBLIC)
    junk = replace(body(made.commit), signature=bytes(64))
    able = GroupContextExtensions((Extension(0xF001, b""),))
    for message in (
        MLSMessage.wrap(junk),
        forged(bob, Remove(7)),
        forged(bob, Remove(2), epoch=0),
        forged(bob, Remove(2), group_id=b"x"),
        forged(bob, Commit((), None)),
        forged_commit(bob, Remove(1)),
        forged_commit(bob, Remove(2)),
        changed_commit(bob, made, lambda commit: replace(commit, proposals=(able,))),
        changed_commit(bob, made, lambda commit: replace(commit, path=replace(commit.path, nodes=()))),  # type: ignore[type-var]
        bob.group_info(),
        made.commit[:-1],
    ):
        with pytest.raises(PeerError):
            process(public, message)
    with pytest.raises(NotForUs):
        process(public, bob.encrypt(b"x")[0])
    with pytest.raises(NotForUs):
        process(public, bob.commit(now=NOW).commit)
    few = Parameters(proposal_limit=0)
    with pytest.raises(InvalidError):
        process(public, forged(bob, Remove(2)), parameters=few)
    with pytest.raises(InvalidError):
        process(public, replace(MLSMessage.decode(made.commit), version=7))
    assert process(public, made.commit)


def test_what_only_members_see(room: Room) -> None:
    """A member may lead followers astray, with a tag that no member accepts; the text of the module says so."""
    public = follow(group_info_of(room["alice"]))
    made = room["bob"].commit(now=NOW, options=PUBLIC)
    wrong = changed_commit(room["bob"], made, lambda commit: commit, tag=bytes(32))
    assert process(public, wrong)
    with pytest.raises(InvalidError):
        room["alice"].process(wrong, now=NOW)
    assert won(made)
