"""The roster against a naive one, over random Commits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, PolicyViolation, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.group.commit_effects import ChangeKind, Effects, MemberChange
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.framing import MemberSender
from slixmpp_mls.mls.structures.leaf_node import Capabilities, LeafNode, UpdateSource
from slixmpp_mls.policy.roster import Roster

ACCOUNTS = ("a@x", "b@x", "c@x")
CLIENTS = [ClientIdentity(account, device) for account in ACCOUNTS for device in "12"]


def leaf(client: ClientIdentity) -> LeafNode:
    return LeafNode(b"", b"", client.credential(), Capabilities((), ()), UpdateSource(), ())


def commit(*changes: MemberChange) -> Effects:
    return Effects(MemberSender(0), 0, changes, None, (), None)


def added(index: int, client: ClientIdentity) -> MemberChange:
    return MemberChange(ChangeKind.ADDED, MemberSender(0), index, None, leaf(client))


def removed(index: int, client: ClientIdentity) -> MemberChange:
    return MemberChange(ChangeKind.REMOVED, MemberSender(0), index, leaf(client), None)


def updated(index: int, before: ClientIdentity, after: ClientIdentity) -> MemberChange:
    return MemberChange(ChangeKind.UPDATED, MemberSender(0), index, leaf(before), leaf(after))


def roster_of(clients: Mapping[int, ClientIdentity]) -> Roster:
    return Roster.of((index, leaf(client)) for index, client in clients.items())


def assert_same(roster: Roster, clients: Mapping[int, ClientIdentity]) -> None:
    assert roster == roster_of(clients)
    assert len(roster) == len(clients)
    assert {index: roster.at(index) for index in clients} == clients
    for client in CLIENTS:
        assert roster.leaf_of(client) == next((index for index, other in clients.items() if other == client), None)
    assert sorted(roster.accounts()) == sorted({client.account for client in clients.values()})
    for account in ACCOUNTS:
        leaves = tuple(sorted(index for index, client in clients.items() if client.account == account))
        assert roster.leaves_of(account) == leaves
        assert roster.clients_of(account) == len(leaves)
        assert roster.has(account) == bool(leaves)


@settings(deadline=None)
@given(st.data())
def test_roster_follows_commits_as_a_dictionary_does(data: st.DataObject) -> None:
    clients: dict[int, ClientIdentity] = {0: CLIENTS[0]}
    roster = roster_of(clients)
    for _ in range(data.draw(st.integers(0, 6))):
        before, old = dict(clients), roster
        changes = []
        for index in data.draw(st.sets(st.sampled_from(sorted(clients)))) - {0}:  # the committer stays
            changes.append(removed(index, clients.pop(index)))
        for index in data.draw(st.sets(st.sampled_from(sorted(clients)))):
            changes.append(updated(index, clients[index], clients[index]))
        absent = [client for client in CLIENTS if client not in clients.values()]
        for client in data.draw(st.lists(st.sampled_from(absent), unique=True)) if absent else ():
            index = next(number for number in range(99) if number not in clients)
            clients[index] = client
            changes.append(added(index, client))
        roster = roster.after(commit(*changes))
        assert_same(roster, clients)
        assert_same(old, before)


def test_a_client_has_one_leaf() -> None:
    roster = roster_of({0: CLIENTS[0], 1: CLIENTS[2]})
    for changes in ((added(2, CLIENTS[2]),), (added(2, CLIENTS[1]), added(3, CLIENTS[1]))):
        with pytest.raises(PolicyViolation) as refused:
            roster.after(commit(*changes))
        assert (refused.value.rule, refused.value.offender) == ("one-leaf", "a@x/1")
    with pytest.raises(PolicyViolation):
        roster_of({0: CLIENTS[0], 1: CLIENTS[0]})


@pytest.mark.parametrize("other", [CLIENTS[1], CLIENTS[2]], ids=["other device", "other account"])
def test_a_leaf_stays_the_same_client(other: ClientIdentity) -> None:
    roster = roster_of({0: CLIENTS[0]})
    with pytest.raises(PolicyViolation) as refused:
        roster.after(commit(updated(0, CLIENTS[0], other)))
    assert (refused.value.rule, refused.value.offender) == ("same-client", "a@x/1")


def test_a_credential_without_a_name_is_refused() -> None:
    nobody = LeafNode(b"", b"", BasicCredential(b"A@x/1"), Capabilities((), ()), UpdateSource(), ())
    with pytest.raises(InvalidError):
        Roster.of([(0, nobody)])
    roster = roster_of({0: CLIENTS[0]})
    for change in (
        MemberChange(ChangeKind.ADDED, MemberSender(0), 1, None, nobody),
        MemberChange(ChangeKind.UPDATED, MemberSender(0), 0, leaf(CLIENTS[0]), nobody),
    ):
        with pytest.raises(InvalidError):
            roster.after(commit(change))


def test_the_roster_of_another_epoch_is_noticed() -> None:
    roster = roster_of({0: CLIENTS[0]})
    for change in (removed(1, CLIENTS[2]), updated(1, CLIENTS[2], CLIENTS[2]), added(0, CLIENTS[2])):
        with pytest.raises(UsageError):
            roster.after(commit(change))
    assert repr(roster) == "<Roster: 1 clients of 1 accounts>"
