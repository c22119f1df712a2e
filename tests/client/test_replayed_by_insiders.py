"""A member encrypts once more what another one has signed (RFC 9420 6.1); see tests/mls/group/test_replays.py."""

from __future__ import annotations

import pytest

from slixmpp_mls.client import GroupLost, Rejected
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import Replayed
from slixmpp_mls.mls.group.message_processing import open_private
from slixmpp_mls.mls.schedule.message_protection import protect_private
from slixmpp_mls.mls.structures.framing import AuthenticatedContent, MLSMessage, PrivateMessage
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.elements import RoomElement
from slixmpp_mls.testing import Participant

from .people import CAROL, copy_of, only, state_of, three


def keep(insider: Participant, payload: RoomElement) -> AuthenticatedContent:
    """What software keeps that is curious about signatures."""
    body = MLSMessage.decode(payload.data).body
    assert isinstance(body, PrivateMessage)
    return open_private(insider.group.mls, body).content


def repeat(insider: Participant, content: AuthenticatedContent) -> elements.Application:
    group = insider.group.mls
    message, _ = protect_private(group.suite, content, group.secret_tree, group.secrets.sender_data_secret)
    return elements.Application(group.group_id, group.epoch, MLSMessage.wrap(message))


def stored(person: Participant) -> dict[bytes, bytes]:
    with person.store.transaction() as transaction:
        return dict(transaction.items(f"group/{person.world.room.jid}"))


@pytest.mark.parametrize("restart", [False, True])
def test_nobody_is_thrown_out_and_nothing_gets_lost(restart: bool) -> None:
    world, alice, bob, carol = three()
    sent = bob.send(b"once")
    content = keep(carol, sent.payloads[0])
    world.settle()
    if restart:
        for person in world.people:
            person.restart()
    before = stored(alice), stored(bob)
    for _ in range(3):
        world.room.post([repeat(carol, content)], CAROL)
    world.settle()
    assert state_of(bob) is MembershipState.MEMBER
    assert (stored(alice), stored(bob)) == before
    for person in (alice, bob):
        rejected = person.said(Rejected)
        assert len(rejected) == 3
        assert all(isinstance(event.error, Replayed) for event in rejected)
    bob.send(b"twice")
    world.settle()
    assert alice.texts == carol.texts == [b"once", b"twice"]
    bob.commit()
    world.settle()
    assert world.agree()


def test_one_that_was_signed_by_a_copy_of_the_store_still_ends_the_state() -> None:
    """RFC 9420 9.2: the proof is a signature by our own key under what this state has not signed."""
    world, _, bob, _ = three()
    backup = copy_of(bob.store)
    bob.send(b"by the original")
    world.settle()
    bob.restart(backup)
    bob.events.clear()
    bob.read()
    assert only(bob.events, GroupLost)
    assert state_of(bob) is MembershipState.LOST
