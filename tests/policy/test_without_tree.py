"""Judging a Commit without the tree: what is allowed there, all members allow (mls, "Staying Partial")."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, PeerError, PolicyViolation, UsageError
from slixmpp_mls.mls.group.commit_effects import Effects, MemberChange
from slixmpp_mls.mls.structures.framing import MemberSender
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID
from slixmpp_mls.policy import ExternalJoins, Newcomer, RemovedAs, RemovedClients, Right, RoomPolicy
from slixmpp_mls.policy.check import check, judge
from slixmpp_mls.policy.removed_clients import MAX_REMOVED
from slixmpp_mls.policy.roster import Roster
from slixmpp_mls.policy.view import GroupView
from slixmpp_mls.policy.without_tree import check_without_tree, may_vouch_for_commits

from .people import ASKS, JOINS, Client, Group, Who

ALICE, ALSO_ALICE, BOB, CAROL, ERIN, DAVE = map(
    Client, ("alice@x/1", "alice@x/2", "bob@x/1", "carol@x/1", "erin@x/1", "dave@x/1")
)
MEMBERS = (ALICE, ALSO_ALICE, BOB, CAROL, ERIN)
NEW = 20


def group_of(**settings: Any) -> Group:
    leaves = {index: client.leaf() for index, client in enumerate(MEMBERS)}
    leaves[4] = ERIN.leaf(0, Newcomer())
    return Group(RoomPolicy("coven@rooms.example", ("alice@x",), **settings), leaves)


def proved(group: Group, effects: Effects, *more: int) -> GroupView:
    """What a member without the tree knows: those who change something, and whose leaf changes."""
    senders = [effects.committer, *(change.proposer for change in effects.changes)]
    if effects.extensions is not None:
        senders.append(effects.extensions.proposer)
    known = {sender.leaf_index for sender in senders if isinstance(sender, MemberSender)}
    known |= {change.index for change in effects.changes if change.before is not None} | set(more)
    leaves = {index: leaf for index, leaf in group.leaves.items() if index in known}
    return replace(group, leaves=leaves).view


def listed(group: Group, effects: Effects) -> Effects:
    """The Commit with the list of removed clients that it needs, if anybody allows it at all."""
    try:
        removed = judge(group.view, effects).removed
    except PeerError:
        return effects
    if effects.extensions is not None or removed == group.removed:
        return effects
    changed = replace(group, removed=removed).extensions
    return replace(effects, extensions=group.commit(0, extensions=changed, proposer=None).extensions)


def leaves_of(client: Client) -> list[LeafNode]:
    """What a client may come with."""
    mine = [client.leaf(1), client.returning(), client.leaf(1, Newcomer())]
    return [*mine, client.vouched(CAROL)] if client.name == "carol@x/2" else mine


RIGHTS = st.sampled_from(Right)


@st.composite
def commits(draw: st.DrawFn) -> tuple[Group, Effects]:
    group = group_of(
        may_add=draw(RIGHTS),
        may_remove=draw(RIGHTS),
        may_change_policy=draw(RIGHTS),
        own_devices=draw(st.booleans()),
        external_joins=draw(st.sampled_from(ExternalJoins)),
        max_devices=draw(st.sampled_from([1, 2, 32])),
        max_members=draw(st.sampled_from([5, 6, 100])),
    )
    if draw(st.integers(0, 3)) == 3:  # no administrator is there, so that all members are some
        group = group.with_policy(administrators=("absent@x",))
    by = draw(st.sampled_from(list[Who]([0, 2, 3, 4, JOINS])))
    changes: list[MemberChange] = []
    for number in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        proposer = draw(st.sampled_from(list[Who]([0, 1, 2, 3, 4, ASKS])))
        kind = draw(st.sampled_from(["add", "remove", "update"]))
        index = draw(st.integers(0, 4))
        if kind == "add":
            client = draw(st.sampled_from([DAVE, BOB, *map(Client, ("bob@x/2", "carol@x/2", "alice@x/3"))]))
            leaf = draw(st.sampled_from(leaves_of(client)))
            changes.append(group.add(proposer, leaf, NEW + number))
        elif any(change.index == index for change in changes):
            continue
        elif kind == "remove" and proposer is not ASKS:
            changes.append(group.remove(draw(st.sampled_from([proposer, by])), index))
        elif kind == "update":
            changes.append(group.update(index, MEMBERS[index].leaf(2, *([Newcomer()] if index == 4 else []))))
    if by is JOINS:
        client = draw(st.sampled_from([DAVE, BOB, Client("carol@x/2")]))
        leaf = draw(st.sampled_from(leaves_of(client)))
        changes = [change for change in changes if change.before is not None and change.proposer == JOINS]
        changes.append(group.add(JOINS, leaf, NEW))
    return group, listed(group, group.commit(by, *changes))


@given(commits(), st.sampled_from([0, 0, 0, 1, 1, 2, 4]))
def test_what_is_allowed_without_the_tree_all_allow_but_for_what_the_verdict_stands_for(
    case: tuple[Group, Effects], voucher: int
) -> None:
    """One leaf for each client, and the limits, are what the administrator's word covers."""
    group, effects = case
    try:
        verdict = check_without_tree(proved(group, effects, voucher, 3), effects, voucher)
    except (PeerError, UsageError):
        return
    try:
        whole = check(group.view, effects)
    except PolicyViolation as error:
        assert error.rule in ("one-leaf", "too-many")  # noqa: PT017  # no other rule may differ
        return
    assert whole.removed == verdict.removed
    assert {(each.client, each.ground) for each in whole.arrivals} == {
        (each.client, each.ground) for each in verdict.arrivals
    }


def allowed(group: Group, effects: Effects, voucher: int = 0, *more: int) -> bool:
    try:
        check_without_tree(proved(group, effects, voucher, *more), effects, voucher)
    except InvalidError:
        return False
    return True


def test_what_is_allowed() -> None:
    group = group_of()
    assert allowed(group, group.commit(2))
    assert allowed(group, group.commit(2, group.update(2, BOB.leaf(3))))
    assert allowed(group, group.commit(0, group.add(0, DAVE.leaf(), NEW)))
    assert allowed(group, group.commit(2, group.add(0, DAVE.leaf(), NEW)))  # his hand, her wish
    assert allowed(group, group.commit(2, group.remove(3, 3)))  # she leaves
    assert allowed(group, listed(group, group.commit(0, group.remove(0, 3))))
    assert allowed(group, listed(group, group.commit(2, group.remove(2, 4))))  # a newcomer
    phone = Client("carol@x/2")
    assert allowed(group, group.commit(2, group.add(ASKS, phone.vouched(CAROL), NEW)), 0, 3)
    assert not allowed(group, group.commit(2, group.add(ASKS, phone.vouched(CAROL), NEW)))  # she is not proved


def test_what_only_full_members_judge() -> None:
    group = group_of(may_add=Right.MEMBERS, external_joins=ExternalJoins.ANYBODY)
    psk = PreSharedKeyID(ExternalPSK(b"psk"), bytes(32))
    newcomer = group.add(JOINS, DAVE.leaf(1, Newcomer()), NEW)
    changed = group.with_policy(max_devices=7).extensions
    effects = (
        group.commit(0, psks=(psk,)),
        group.commit(0, reinit=group.extensions),
        group.commit(0, extensions=changed),
        group.commit(2, group.add(2, DAVE.leaf(), NEW)),
        group.commit(JOINS, newcomer),
    )
    for each in effects:
        check(group.view, each)  # it is valid
        assert not allowed(group, each)


def test_what_goes_from_a_full_list_depends_on_members_that_are_not_proved() -> None:
    gone = [(Client(f"u{number}@many.example/1").identity, RemovedAs.MEMBER) for number in range(MAX_REMOVED)]
    for count, may in ((MAX_REMOVED - 1, True), (MAX_REMOVED, False)):
        group = group_of().with_removed(RemovedClients().with_removed(gone[:count]))
        effects = listed(group, group.commit(0, group.remove(0, 3)))
        check(group.view, effects)  # it is valid
        assert allowed(group, effects) is may
        assert allowed(group, group.commit(0, group.add(0, DAVE.leaf(), NEW)))


@pytest.mark.parametrize(("voucher", "may"), [(0, True), (1, True), (2, False), (4, False)])
def test_who_may_vouch(voucher: int, may: bool) -> None:
    group = group_of()
    assert may_vouch_for_commits(group.policy, group.view.leaf(voucher)) is may
    assert allowed(group, group.commit(2), voucher) is may
    newcomer = group.with_leaves({0: ALICE.leaf(0, Newcomer())})
    assert not may_vouch_for_commits(newcomer.policy, newcomer.view.leaf(0))


def test_without_an_administrator_nobody_is_one_by_the_way() -> None:
    """Without the tree, a member could seem to be one because no administrator is proved."""
    group = group_of()
    effects = group.commit(2, group.remove(2, 3))
    view = proved(group, effects)
    assert Roster.of([(2, BOB.leaf()), (3, CAROL.leaf())]) == view.roster
    assert view.policy.is_administrator("bob@x", view.roster)  # by that roster
    with pytest.raises(InvalidError):
        check_without_tree(view, effects, 2)
    assert not allowed(group, effects)


def test_a_commit_that_the_policy_forbids_is_not_allowed() -> None:
    group = group_of()
    for each in (
        group.commit(2, group.add(2, DAVE.leaf(), NEW)),
        group.commit(2, group.remove(2, 3)),
        group.commit(3, group.remove(3, 0)),
        group.commit(0, group.remove(0, 3)),  # without the list of removed clients
        group.commit(2, group.update(2, CAROL.leaf(3))),
        group.commit(2, extensions=replace(group, removed=RemovedClients()).with_policy(max_devices=9).extensions),
    ):
        with pytest.raises(PolicyViolation):
            check(group.view, each)
        assert not allowed(group, each)
