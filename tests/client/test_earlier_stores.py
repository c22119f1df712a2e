"""Stores that were made by version 0.1 open, and their groups go on (``tests/store/data/make_stores.py``)."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from slixmpp_mls.client import Device, Joined, JoinRequested, KeyPackageSettings, MessageSent, Rejected, RoomGroup
from slixmpp_mls.client.storage.post_commit_actions import Invite
from slixmpp_mls.client.storage.records import MembershipState, OutboxKind
from slixmpp_mls.errors import ProtocolTooOld
from slixmpp_mls.mls.parameters import HOUR
from slixmpp_mls.policy import is_group_of_0_1
from slixmpp_mls.stanza.elements import GroupInfo
from slixmpp_mls.store import SQLiteStore
from slixmpp_mls.testing import NOW, World

from .people import ALICE, BOB, CAROL, DAVE, again, only

DATA = Path(__file__).parent.parent / "store" / "data"
SETTINGS = KeyPackageSettings(count=1)


def opened(folder: Path, account: str) -> SQLiteStore:
    """A copy of an account's store."""
    file = folder / f"{account.partition('@')[0]}.db"
    file.touch(0o600)
    file.write_bytes(gzip.decompress((DATA / f"{file.name}.gz").read_bytes()))
    return SQLiteStore(file, account)


@pytest.fixture
def world() -> World:
    world = World(settings=SETTINGS)
    world.room._count = 100  # the room of before had fewer stanzas
    return world


def test_what_a_member_had_stored_is_there(tmp_path: Path, world: World) -> None:
    group = RoomGroup(Device(opened(tmp_path, ALICE), settings=SETTINGS), world.room.jid)
    assert group.state is MembershipState.MEMBER
    assert {member.account for member in group.members.all()} == {ALICE, BOB, CAROL}
    assert group.mls.epoch == 3
    assert [message.data for message in group.room_state.not_handed_over()] == [b"missed"]
    assert {action.account for action in group.post_commit_actions if isinstance(action, Invite)} == {BOB, CAROL}
    assert group.post_commit_actions.leave
    (doubt,) = group.members.doubts.values()
    assert (doubt.client.account, doubt.denied, doubt.reason, doubt.since) == (CAROL, False, "unreachable", NOW)
    kinds = [record.kind for _, record in group.room_state.outbox]
    assert kinds == [OutboxKind.APPLICATION, OutboxKind.PROPOSAL, OutboxKind.COMMIT, OutboxKind.APPLICATION]
    assert group.sending.on_its_way("first") == b"on its way"
    assert group.sending.commit_waits
    assert len(group.room_state.require_member().unwanted) == 1  # the stranger's request
    assert not group.sending.needs_commit
    assert group.members.epochs() == []  # it kept no log of epochs


def test_the_group_goes_on(tmp_path: Path, world: World) -> None:
    """For those who are in it; nobody joins a group of version 0.1 (xep/mls.xml, "Version 0.1")."""
    alice, bob, dave = (world.person(account, opened(tmp_path, account)) for account in (ALICE, BOB, DAVE))
    assert is_group_of_0_1(alice.group.mls.context.extensions)
    alice.resend()
    world.settle()
    assert alice.texts == [b"missed"]  # handed over again
    assert bob.texts == [b"on its way", b"not encrypted yet"]
    assert [event.origin_id for event in alice.said(MessageSent) if isinstance(event, MessageSent)] == [
        "first",
        "later",
    ]
    refused = only(dave.events, Rejected).error
    assert isinstance(refused, ProtocolTooOld)
    assert refused.what == "group"
    assert [record.epoch for record in alice.group.members.epochs()] == [4]
    assert not alice.group.outstanding_ids()
    bob.send(b"and who are you?")
    world.settle()
    assert alice.texts[-1] == b"and who are you?"
    for person in (alice, bob):
        before = person.group.mls.epoch_authenticator
        person.restart()
        assert person.group.mls.epoch_authenticator == before


def test_members_derive_the_key_of_group_infos_once(tmp_path: Path, world: World) -> None:
    """A store of before 0.2 has none: the epoch in which most of them are gives it (client/group/group_info_key.py)."""
    alice, bob = (world.person(account, opened(tmp_path, account)) for account in (ALICE, BOB))
    key = alice.group.room_state.group_info_key
    assert key is not None
    assert (key.epoch, key) == (3, bob.group.room_state.group_info_key)
    alice.resend()
    world.settle()
    alice.restart()
    bob.restart()
    assert alice.group.room_state.group_info_key == bob.group.room_state.group_info_key == key
    alice.commit()
    world.settle()
    sent = [payload for stanza in world.room.archive() for payload in stanza.payloads]
    info = next(payload for payload in reversed(sent) if isinstance(payload, GroupInfo))
    assert bob.group.external_commits.open(info) == alice.group.external_commits.open(info)


def test_a_client_that_had_lost_the_group_comes_back(tmp_path: Path, world: World) -> None:
    alice, carol = (world.person(account, opened(tmp_path, account)) for account in (ALICE, CAROL))
    assert carol.group.state is MembershipState.LOST
    assert carol.group.join_requests.epoch_seen == 3
    assert carol.group.join_requests.attempts == 1
    (request,) = carol.resend()
    alice.resend()
    assert request.kind is OutboxKind.PROPOSAL
    world.settle()
    assert carol.group.join_requests.epoch_seen == 4  # alice's Commit was made before the request came
    world.now += HOUR
    carol.ask()
    world.settle()
    # Leaves of version 0.1 have no return key: somebody who may add and remove decides.
    assert {event.reason for event in alice.said(JoinRequested)} == {"unproven"}
    assert not alice.group.sending.needs_commit
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.settle()
    missed = only(carol.events, Joined).missed
    assert missed is not None
    assert missed.messages >= 1
    assert world.agree()
