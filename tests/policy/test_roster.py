"""The roster against a naive one, over random Commits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, MalformedError, PolicyViolation, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_effects import ChangeKind, Effects, MemberChange
from slixmpp_mls.mls.structures.credential import BasicCredential, type_of
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import MemberSender
from slixmpp_mls.mls.structures.leaf_node import (
    Capabilities,
    CommitSource,
    KeyPackageSource,
    LeafNode,
    Lifetime,
    UpdateSource,
)
from slixmpp_mls.mls.structures.leaf_outline import LeafOutline
from slixmpp_mls.policy.proofs import is_newcomer
from slixmpp_mls.policy.roster import Roster
from slixmpp_mls.stanza.code_points import NEWCOMER
from tests.x509 import Authority, credential, device_key

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


@given(
    st.sampled_from(CLIENTS),
    st.sampled_from(
        [UpdateSource(), CommitSource(bytes(32)), CommitSource(bytes(300)), KeyPackageSource(Lifetime(1, 2**63))]
    ),
    st.lists(st.sampled_from([Extension(5, bytes(100)), Extension(NEWCOMER, b"\0"), Extension(1, b"")]), max_size=3),
    st.lists(st.integers(0, 2**16 - 1), max_size=40).map(tuple),
)
def test_a_roster_from_the_store_is_the_same(
    client: ClientIdentity,
    source: UpdateSource | CommitSource | KeyPackageSource,
    extensions: list[Extension],
    numbers: tuple[int, ...],
) -> None:
    """It is made of outlines, when it is first asked, and never again."""
    capabilities = Capabilities((1,), numbers, (), numbers)
    node = LeafNode(b"e" * 70, b"s" * 32, client.credential(), capabilities, source, tuple(extensions), b"signature")
    asked = []

    def outlines() -> list[tuple[int, LeafOutline]]:
        asked.append(1)
        return [(7, LeafOutline.of(node.encode()))]

    later = Roster.later(outlines, 1)
    assert len(later) == 1
    assert not asked
    assert later.leaf_of(client) == 7
    assert asked == [1]
    assert later == Roster.of([(7, node)])
    assert later == Roster.of_outlines(outlines())
    assert later.at(7) == client
    assert list(later.clients()) == [client]
    assert later.is_newcomer(7) is is_newcomer(node)
    assert asked == [1, 1]  # once by this test
    outline = LeafOutline.of(node.encode())
    assert (outline.encryption_key, outline.signature_key) == (node.encryption_key, node.signature_key)
    assert Capabilities.decode(outline.capabilities) == capabilities
    assert outline.credential_type == type_of(node.credential)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_equal_capabilities_are_one_object(octets: bytes, end: int) -> None:
    """And what does not parse, or goes beyond its end, is refused as if nothing were remembered."""
    known = Capabilities((1,), (1,), (), (), (1,))
    whole = LeafNode(b"e", b"s", CLIENTS[0].credential(), known, UpdateSource(), (), b"signature").encode()
    start = whole.index(known.encode())
    stop = start + len(known.encode())
    first, second = LeafNode.decode(whole), LeafNode.decode(whole)
    assert first is not second
    assert first.capabilities is second.capabilities
    for data in (octets, known.encode()[:end], known.encode() + octets):
        other = whole[:start] + data + whole[stop:]
        try:
            read: LeafNode | None = LeafNode.decode(other)
        except MalformedError:
            read = None
        if read is not None:
            assert read.encode() == other
            assert read.capabilities == Capabilities.codec.read(other, start, len(other))[0]
    for short in range(start, len(whole)):
        with pytest.raises(MalformedError):
            LeafNode.decode(whole[:short])


@pytest.mark.parametrize("name", [b"\xff", b"a@x", b"a@x/" + b"1" * 65, b"A@x/1"])
def test_a_damaged_name_in_the_store_is_an_error_when_it_is_read(name: bytes) -> None:
    node = LeafNode(b"e", b"s", BasicCredential(name), Capabilities((), ()), UpdateSource(), ())
    outlines = [(7, LeafOutline.of(node.encode()))]
    with pytest.raises(InvalidError, match=r"client|UTF-8"):
        Roster.later(lambda: outlines, 1).at(7)
    with pytest.raises(InvalidError, match=r"client|UTF-8"):
        Roster.of_outlines(outlines)


def test_clients_with_certificates_are_in_a_roster_from_the_store() -> None:
    client = ClientIdentity("a@x.example", "1")
    suite = CipherSuite.get(1)
    chain = credential(Authority.root().device(client, device_key(suite)))
    node = LeafNode(b"e", b"s", chain, Capabilities((), ()), UpdateSource(), ())
    roster = Roster.later(lambda: [(7, LeafOutline.of(node.encode()))], 1)
    assert (roster.at(7), roster.leaf_of(client), roster.leaves_of("a@x.example")) == (client, 7, (7,))


def test_what_is_no_leaf_has_no_outline() -> None:
    octets = LeafNode(b"e", b"s", CLIENTS[0].credential(), Capabilities((1,), (1,)), UpdateSource(), ()).encode()
    behind_capabilities = octets.index(Capabilities((1,), (1,)).encode()) + len(Capabilities((1,), (1,)).encode())
    for length in range(behind_capabilities):
        with pytest.raises(MalformedError):
            LeafOutline.of(octets[:length])
    assert LeafOutline.of(octets).rest == octets[behind_capabilities:]


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
