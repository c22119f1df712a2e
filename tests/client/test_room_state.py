"""The one way to change what is known of a room: store and memory, or neither."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.client import Device, Doubt, Doubts, MessageReceived
from slixmpp_mls.client.group.evidence import Evidence
from slixmpp_mls.client.group.group_info_key import GroupInfoKey
from slixmpp_mls.client.group.room_change import Change
from slixmpp_mls.client.group.room_contents import Membership
from slixmpp_mls.client.group.room_state import RoomState
from slixmpp_mls.client.storage.post_commit_actions import Invite, Leave, PostCommitActions
from slixmpp_mls.client.storage.records import MembershipState, OutboxKind, OutboxRecord, OutsideRecord
from slixmpp_mls.errors import StoreFull, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import NOW, FaultyStore

from .people import ALICE, BOB, copy_of, three

ROOM = "coven@rooms.example"
WHO = ClientIdentity(BOB, "0123456789abcdef")

Edit = Callable[[RoomState, Change], None]


def new_group(device: Device) -> Group:
    """A group with nobody but us in it."""
    bundle = device.key_packages.make(CipherSuite.get(device.suites[0]), NOW)
    return Group.create(bundle, b"g" * 32, extensions=(RoomPolicy(ROOM, (ALICE,)).extension(),))


def message(kind: OutboxKind, origin_id: str) -> OutboxRecord:
    return OutboxRecord(
        kind=kind, origin_id=origin_id.encode(), digest=origin_id.encode().ljust(32), epoch=0, message=b"m",
        welcome=b"", group_info=b"", plaintext=b"p", earlier=b"", reference=b"", refused=0,
    )  # fmt: skip


def received(number: bytes) -> MessageReceived:
    world, alice, bob, _ = three()
    bob.send(b"x")
    world.settle()
    (event,) = alice.said(MessageReceived)
    return replace(event, number=number)


RECEIVED = received((1).to_bytes(8, "big"))


KEY, OTHER_KEY = GroupInfoKey(0, b"k" * 32), GroupInfoKey(1, b"o" * 32)


def state_with_group(store: Any) -> RoomState:
    """A member of a group, with something in each place."""
    device = Device(store)
    state = RoomState(device.store, ROOM, device.parameters)
    with state.change() as change:
        change.begin_membership(Membership.of(new_group(device), Doubts(), PostCommitActions()), KEY)
        change.put_record(replace(state.record, state=MembershipState.MEMBER, group_id=b"g" * 32))
        for number, kind in enumerate((OutboxKind.APPLICATION, OutboxKind.PROPOSAL), start=1):
            change.put_message(number.to_bytes(8, "big"), message(kind, kind.name))
        change.put_actions({Invite(BOB, None).key: b"", Leave.key: b""})
        change.put_doubts(Doubts([Doubt(WHO, True, "denied", "no", NOW)]))
        change.put_unwanted(b"first")
        change.put_received(RECEIVED, NOW)
        change.put_mark(0, b"mark")
        change.put_outside(OutsideRecord(attempts=2))
    state.note_ahead(BOB, 7)
    return state


def group_after(state: RoomState) -> Group:
    _, group = state.require_member().group.encrypt(b"x")
    return group


def begin_again(state: RoomState, change: Change) -> None:
    membership = state.require_member()
    change.end_membership(Evidence.WISH, keep_messages=True)
    change.carry_messages_over()
    change.begin_membership(replace(membership, doubts=Doubts(), actions=PostCommitActions()), None)


EDITS: dict[str, Edit] = {
    "record": lambda state, change: change.put_record(replace(state.record, cursor=b"9", seen=4)),
    "outside": lambda state, change: change.put_outside(OutsideRecord(attempts=3)),
    "nothing outside": lambda state, change: change.put_outside(OutsideRecord()),
    "entry": lambda state, change: change.put_entry(state.require_member().group, KEY),
    "no entry": lambda state, change: change.delete_entry(),
    "message": lambda state, change: change.put_message(bytes(7) + b"\x07", message(OutboxKind.COMMIT, "new")),
    "replaced": lambda state, change: change.put_message(bytes(7) + b"\x01", message(OutboxKind.APPLICATION, "again")),
    "deleted": lambda state, change: change.delete_message(bytes(7) + b"\x01"),
    "received": lambda state, change: change.put_received(replace(RECEIVED, number=bytes(7) + b"\x02"), NOW),
    "mark": lambda state, change: change.put_mark(1, b"another mark"),
    "group": lambda state, change: change.put_group(group_after(state)),
    "unwanted": lambda state, change: change.put_unwanted(b"second"),
    "doubts": lambda state, change: change.put_doubts(Doubts()),
    "actions": lambda state, change: change.put_actions({Invite(BOB, None).key: None}),
    "epoch": lambda state, change: change.begin_epoch(
        state.require_member().group, state.require_member().roster, state.require_member().policy, OTHER_KEY
    ),
    "key of GroupInfos": lambda state, change: change.put_group_info_key(OTHER_KEY),
    "end": lambda state, change: change.end_membership(Evidence.WISH, keep_messages=False),
    "end, messages stay": lambda state, change: change.end_membership(Evidence.WISH, keep_messages=True),
    "begin again": begin_again,
}


def in_memory(state: RoomState) -> tuple[Any, ...]:
    """What memory has, so that it can be compared."""
    membership = state.membership
    inside: tuple[Any, ...] = ()
    if membership is not None:
        inside = (
            membership.group.pieces(), membership.roster, membership.policy, membership.doubts,
            membership.actions.entries, membership.unwanted,
        )  # fmt: skip
    entry = None if state.entry is None else state.entry.pieces()
    known = [mark for mark in (b"mark", b"another mark") if mark in state.duplicates]
    return (
        state.record, state.outside, entry, list(state.outbox), state.inbox.next_number(), state.inbox.taken,
        known, sorted(state.staged), dict(state.ahead), inside, state.group_info_key, state.entry_info_key,
    )  # fmt: skip


def in_store(store: Any) -> dict[str, dict[bytes, bytes]]:
    with store.transaction() as transaction:
        return {space: dict(transaction.items(space)) for space in transaction.spaces()}


@pytest.mark.parametrize("name", EDITS)
def test_a_store_that_fails_at_any_write_leaves_store_and_memory_as_they_were(name: str) -> None:
    inner = MemoryStore(ALICE)
    store = FaultyStore(inner)
    state = state_with_group(store)
    attempt = 0
    while True:
        before, stored = in_memory(state), in_store(inner)
        store.fail_at = store.writes + attempt
        try:
            with state.change() as change:
                EDITS[name](state, change)
        except StoreFull:
            assert in_memory(state) == before
            assert in_store(inner) == stored
            attempt += 1
        else:
            break
    assert attempt >= 1


@pytest.mark.parametrize("name", EDITS)
def test_what_is_in_memory_is_what_a_restart_finds(name: str) -> None:
    store = MemoryStore(ALICE)
    state = state_with_group(store)
    with state.change() as change:
        EDITS[name](state, change)
        if state.membership is not None and name.startswith("end"):
            change.put_record(replace(state.record, state=MembershipState.OUT))
        if name == "entry":
            change.put_outside(replace(state.outside, entry=b"a Commit"))
    device = Device(copy_of(store))
    again = RoomState(device.store, ROOM, device.parameters)
    for account, epoch in state.ahead.items():  # which is in memory only
        again.note_ahead(account, epoch)
    assert in_memory(again) == in_memory(state)


@pytest.mark.parametrize("name", EDITS)
def test_an_error_after_an_edit_takes_it_back(name: str) -> None:
    store = MemoryStore(ALICE)
    state = state_with_group(store)
    before, stored = in_memory(state), in_store(store)

    def attempt() -> None:
        with state.change() as change:
            EDITS[name](state, change)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attempt()
    assert in_memory(state) == before
    assert in_store(store) == stored


def test_changes_together_are_all_taken_back_and_immutable_values_are_the_same_objects() -> None:
    store = MemoryStore(ALICE)
    state = state_with_group(store)
    before, stored, membership = in_memory(state), in_store(store), state.membership

    def attempt() -> None:
        with state.together(lasting=True):
            for name in ("record", "message", "deleted", "received", "mark", "group", "unwanted", "actions", "epoch"):
                with state.change() as change:
                    EDITS[name](state, change)
            state.note_ahead(ALICE, 9)
            state.handed_over(RECEIVED.number)
            assert in_memory(state) != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attempt()
    assert in_memory(state) == before
    assert in_store(store) == stored
    assert state.membership is membership


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_happens_memory_is_what_the_store_has(data: st.DataObject) -> None:
    """Any changes, one by one or together, with a store that fails now and then."""
    inner = MemoryStore(ALICE)
    store = FaultyStore(inner)
    state = state_with_group(store)
    device = Device(inner)
    for _ in range(data.draw(st.integers(1, 6))):
        names = data.draw(st.lists(st.sampled_from(sorted(EDITS)), min_size=1, max_size=4))
        one_by_one = data.draw(st.booleans())
        store.fail_at = store.writes + data.draw(st.integers(0, 30))
        with suppress(StoreFull, UsageError), nullcontext() if one_by_one else state.together(lasting=True):
            for name in names:
                with state.change() as change:
                    EDITS[name](state, change)
                    standing = MembershipState.OUT if change._membership is None else MembershipState.MEMBER
                    change.put_record(replace(state.record, state=standing))
                    entry = b"" if change._entry is None else b"a Commit"
                    change.put_outside(OutsideRecord(attempts=data.draw(st.integers(0, 2)), entry=entry))
        store.fail_at = None
        again = RoomState(device.store, ROOM, device.parameters)
        for number in state.inbox.taken:
            again.handed_over(number)
        for account, epoch in state.ahead.items():  # which is in memory only
            again.note_ahead(account, epoch)
        assert in_memory(again) == in_memory(state)
        if state.membership is None:
            break


def test_what_was_handed_over_goes_with_the_next_change() -> None:
    store = MemoryStore(ALICE)
    state = state_with_group(store)
    (waiting,) = state.not_handed_over()
    assert (waiting.data, waiting.again) == (b"x", True)
    state.handed_over(waiting.number)
    with state.change() as change:
        EDITS["record"](state, change)
    assert not state.not_handed_over()
    assert not state.inbox.taken


def test_nothing_of_a_group_can_be_changed_without_one() -> None:
    device = Device(MemoryStore(ALICE))
    state = RoomState(device.store, ROOM, device.parameters)
    stored = in_store(device.store)
    assert state.standing is MembershipState.INVITED
    with pytest.raises(UsageError, match="not a member"):
        state.require_member()
    edits: tuple[Callable[[Change], None], ...] = (
        lambda change: change.put_unwanted(b"reference"),
        lambda change: change.put_doubts(Doubts()),
        lambda change: change.put_actions({}),
    )
    for edit in edits:
        with pytest.raises(UsageError, match="not a member"), state.change() as change:
            edit(change)
    with pytest.raises(UsageError, match="not a member"):
        state.forget_group(state.record, Evidence.WISH)
    assert in_store(device.store) == stored


def test_of_a_lost_group_no_epoch_is_known_that_was_only_heard_of() -> None:
    state = state_with_group(MemoryStore(ALICE))
    with state.change() as change:
        change.put_actions({Leave.key: None})
    state.note_ahead(ALICE, 9)
    epoch = state.require_member().group.epoch
    state.forget_group(replace(state.record, state=MembershipState.LOST), Evidence.COPIED, keep_messages=True)
    assert (state.standing, state.membership, state.outside.epoch) == (MembershipState.LOST, None, epoch)
    assert [record.kind for _, record in state.outbox] == [OutboxKind.APPLICATION]
    assert not state.ahead


def test_a_state_goes_on_evidence_only() -> None:
    store = MemoryStore(ALICE)
    state = state_with_group(store)
    before = in_store(store)
    with pytest.raises(UsageError, match="evidence"), state.change() as change:
        change.end_membership(Evidence.NO_STATE, keep_messages=False)
    assert in_store(store) == before
    assert state.membership is not None


def test_a_member_that_wanted_to_leave_is_out_and_not_lost() -> None:
    state = state_with_group(MemoryStore(ALICE))
    state.forget_group(replace(state.record, state=MembershipState.LOST), Evidence.WISH)
    assert state.standing is MembershipState.OUT
    assert not len(state.outbox)
