"""Who plays in the tests of a room's group, and how they are looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slixmpp_mls.client import Event, RoomGroup
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.policy import RoomPolicy, group_extensions
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import copied_to_memory
from slixmpp_mls.testing import Participant, World

ALICE, BOB, CAROL, DAVE = "alice@a.example", "bob@b.example", "carol@c.example", "dave@d.example"
MALLORY = "mallory@m.example"


def three(**options: Any) -> tuple[World, Participant, Participant, Participant]:
    world = World()
    alice, bob, carol = world.group(ALICE, BOB, CAROL, **options)
    for person in world.people:
        person.events.clear()
    return world, alice, bob, carol


def only(events: list[Event], kind: type) -> Any:
    """The one event of a kind."""
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, events
    return found[0]


def closed_policy(world: World) -> RoomPolicy:
    """Alice is the administrator, the others may nothing."""
    return RoomPolicy(world.room.jid, (ALICE,))


def again(inviter: Participant, returning: Participant) -> list[Add]:
    """An Add of a client that is in the group, for a Commit that removes it."""
    world = inviter.world
    found = world.directory.find(returning.account, inviter.group, world.now)
    return [Add(found[returning.device.identity].key_package)]


def own_group(
    world: World, maker: Participant, member: Participant, invited: Participant, group_id: bytes, epoch: int = 0
) -> None:
    """An occupant makes a group, and posts a Welcome into it for a KeyPackage of somebody who is invited."""
    own = maker.device.key_packages.make(CipherSuite.get(1), world.now)
    policy = RoomPolicy(world.room.jid, (maker.account,))
    group = Group.create(own, group_id, extensions=group_extensions(policy), parameters=world.parameters)
    for _ in range(epoch):
        staged = group.finish_commit(group.draft_commit([], now=world.now)).staged
        group = group.apply(staged, now=world.now)
    found = world.directory.find(invited.account, member.group, world.now)
    package = found[invited.device.identity].key_package
    made = group.finish_commit(group.draft_commit([Add(package)], now=world.now))
    assert made.welcome is not None
    payloads = [elements.Commit(group_id, epoch, made.commit), elements.Welcome(group_id, epoch + 1, made.welcome)]
    world.room.post(payloads, maker.account)


def put_outside(group: RoomGroup, **changes: Any) -> None:
    """Something else is known of the group from outside, in the store and in memory."""
    with group.room_state.change() as change:
        change.put_outside(replace(group.room_state.outside, **changes))


def pretend(session: RoomGroup, **changes: Any) -> None:
    """Other software: its membership is another one, in memory only."""
    contents = session.room_state._contents
    contents.membership = replace(session.room_state.require_member(), **changes)


copy_of = copied_to_memory


def state_of(person: Participant) -> MembershipState:
    """Its state as it is now: a type checker remembers what it read from an attribute."""
    return person.group.state
