"""A room's group on a disk that is full at any write: the call fails, nothing has changed, it can be made again."""

from __future__ import annotations

from typing import Any

import pytest

from slixmpp_mls.client import (
    MessageReceived,
    MessageSent,
    RoomGroup,
)
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import (
    StoreFull,
)
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.testing import NOW, FaultyStore, Participant, World

from .people import ALICE, BOB, DAVE, again, copy_of, three


def scenes() -> list[Any]:
    """Calls that write, each with the place where it is to be found."""

    def compose(world: World, alice: Participant, bob: Participant) -> Any:
        return lambda: alice.group.sending.compose(b"x")

    def commit(world: World, alice: Participant, bob: Participant) -> Any:
        return lambda: alice.group.sending.commit(alice.adding(DAVE), NOW)

    def propose(world: World, alice: Participant, bob: Participant) -> Any:
        return lambda: alice.group.sending.propose_update(NOW)

    def bounced(world: World, alice: Participant, bob: Participant) -> Any:
        sent = alice.commit()
        return lambda: alice.group.bounced(sent.origin_id, "forbidden")

    def replaced(world: World, alice: Participant, bob: Participant) -> Any:
        alice.bounce(alice.commit())
        return lambda: alice.group.sending.commit((), NOW)

    def anew(world: World, alice: Participant, bob: Participant) -> Any:
        alice.send(b"x")
        world.room.lose()
        bob.commit()
        world.settle()
        return lambda: list(alice.group.outstanding())

    def give_up(world: World, alice: Participant, bob: Participant) -> Any:
        alice.send(b"x")
        return lambda: alice.group.lifecycle.give_up("lost")

    def leave(world: World, alice: Participant, bob: Participant) -> Any:
        return alice.group.lifecycle.want_to_leave

    def done(world: World, alice: Participant, bob: Participant) -> Any:
        alice.commit(*alice.adding(DAVE), *alice.removing(BOB))
        world.settle()
        keys = [each.key for each in alice.group.post_commit_actions]
        assert {b"i" + DAVE.encode(), b"r" + BOB.encode()} <= set(keys)
        return lambda: alice.group.lifecycle.done(keys)

    def handed_over(world: World, alice: Participant, bob: Participant) -> Any:
        bob.send(b"x")
        world.room.deliver_all()
        (incoming,) = world.room.read(ALICE, alice.group.cursor)
        (event,) = alice.group.applying.accept(alice.group.processing.examine(incoming, NOW), NOW)
        assert isinstance(event, MessageReceived)
        alice.group.room_state.handed_over(event.number)
        return alice.group.room_state.forget_handed_over

    def taking(prepare: Any) -> Any:
        def scene(world: World, alice: Participant, bob: Participant) -> Any:
            prepare(world, alice, bob)
            world.room.deliver_all()
            *before, last = world.room.read(ALICE, alice.group.cursor)
            for incoming in before:
                alice.take(incoming)
            step = alice.group.processing.examine(last, NOW)
            return lambda: alice.group.applying.accept(step, NOW)

        scene.__name__ = prepare.__name__
        return scene

    def message(world: World, alice: Participant, bob: Participant) -> None:
        bob.send(b"x")

    def own_message(world: World, alice: Participant, bob: Participant) -> None:
        alice.send(b"x")

    def own_commit(world: World, alice: Participant, bob: Participant) -> None:
        alice.commit(*alice.adding(DAVE))

    def lost_commit(world: World, alice: Participant, bob: Participant) -> None:
        bob.commit()
        alice.commit()
        world.room.lose(1)

    def proposal(world: World, alice: Participant, bob: Participant) -> None:
        bob.propose(Remove(2))

    def removal(world: World, alice: Participant, bob: Participant) -> None:
        bob.commit(*bob.removing(ALICE))

    def renewal(world: World, alice: Participant, bob: Participant) -> None:
        bob.commit(*bob.removing(ALICE), *again(bob, alice))

    def several(world: World, alice: Participant, bob: Participant) -> Any:
        """Steps of all kinds that leave the epoch as it is, in one transaction."""
        for text in (b"x", b"y", b"z"):
            bob.send(text)
        alice.send(b"x")
        bob.propose(Remove(2))
        world.room.deliver_all()
        stanzas = list(world.room.read(ALICE, alice.group.cursor))

        def together() -> None:
            with alice.group.room_state.together(lasting=False):
                for incoming in stanzas:
                    alice.group.applying.accept(alice.group.processing.examine(incoming, NOW), NOW)

        return together

    receiving = (message, own_message, own_commit, lost_commit, proposal, removal, renewal)
    sending = (compose, commit, propose, bounced, replaced, anew, give_up)
    return [*sending, several, leave, done, handed_over, *map(taking, receiving)]


def contents(store: Any) -> dict[str, dict[bytes, bytes]]:
    with store.transaction() as transaction:
        return {space: dict(transaction.items(space)) for space in transaction.spaces()}


def memory(session: RoomGroup) -> tuple[Any, ...]:
    group = session.mls
    return (
        group.pieces(), session.cursor, session.state, session.sending.commit_waits, session.outstanding_ids(),
        session.roster, session.policy, session.behind, session.post_commit_actions.entries,
    )  # fmt: skip


@pytest.mark.parametrize("scene", scenes(), ids=lambda scene: scene.__name__)
def test_a_full_disk_at_any_write_changes_nothing_and_the_same_call_works_afterwards(scene: Any) -> None:
    attempt = 0
    while True:
        world, alice, bob, _ = three()
        world.person(DAVE)
        inner = alice.store
        store = FaultyStore(inner)
        alice.restart(store)
        call = scene(world, alice, bob)
        before, remembered = contents(inner), memory(alice.group)
        store.fail_at = store.writes + attempt
        try:
            call()
        except StoreFull:
            assert contents(inner) == before
            assert memory(alice.group) == remembered
            call()
        else:
            break
        finally:
            store.fail_at = None
        # what is in memory is what a restart finds
        if alice.group.state is MembershipState.MEMBER:
            after = memory(alice.group)
            alice.restart()
            assert memory(alice.group) == after
            world.settle()
            alice.resend()
            world.settle()
            assert world.agree()
        attempt += 1
    assert attempt >= 2


def test_several_steps_together_are_one_transaction_and_come_to_the_same_as_one_by_one() -> None:
    world, alice, bob, carol = three()
    for text in (b"x", b"y", b"z"):
        bob.send(text)
    world.room.deliver_all()
    alone = carol.store = FaultyStore(carol.store)
    joint = alice.store = FaultyStore(alice.store)
    for person in (alice, carol):
        person.restart(person.store)
    events: list[Any] = []
    with alice.group.room_state.together(lasting=False):
        for incoming in list(world.room.read(ALICE, alice.group.cursor)):
            events += alice.group.applying.accept(alice.group.processing.examine(incoming, NOW), NOW)
    world.settle()
    assert [event.data for event in events] == [b"x", b"y", b"z"]
    assert carol.texts == [b"x", b"y", b"z"]
    assert joint.commits == 1
    assert alone.commits >= 3
    assert alice.group.cursor == carol.group.cursor


def test_what_a_power_cut_takes_is_read_again() -> None:
    """What was read is not waited for; what is sent is, and with it all that was read before."""
    world, alice, bob, _ = three()
    bob.send(b"first")
    alice.send(b"mine")
    world.room.deliver_all()
    before = copy_of(alice.store)
    lost: list[Any] = []
    with alice.group.room_state.together(lasting=False):
        for incoming in list(world.room.read(ALICE, alice.group.cursor)):
            lost += alice.group.applying.accept(alice.group.processing.examine(incoming, NOW), NOW)
    assert [type(event) for event in lost] == [MessageReceived, MessageSent]
    alice.restart(before)
    world.settle()
    assert alice.texts == [b"first"]
    assert not alice.group.outstanding_ids()
    alice.send(b"and more")
    world.settle()
    assert bob.texts == [b"mine", b"and more"]
    assert world.agree()
