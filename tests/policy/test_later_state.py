"""The table of :mod:`slixmpp_mls.policy.later_state`, a test for each cell (mls-recovery, "Which GroupInfo").

The group: alice and dora are administrators, bob and carol members; erin is outside.  Somebody has missed Commits and
is shown a GroupInfo of a later state.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import PolicyViolation
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.policy import ExternalJoins, Newcomer, RemovedAs, RemovedClient, RemovedClients, Right, RoomPolicy
from slixmpp_mls.policy.later_state import KnownState, check_later, followed

from .people import FREE, Client, Group

NAMES = ("alice@x/1", "alice@x/2", "bob@x/1", "bob@x/2", "carol@x/1", "dora@x/1")
CLIENTS = tuple(map(Client, NAMES))
ALICE, ALICE2, BOB, BOB2, CAROL, DORA = CLIENTS
BOB3, CAROL2, ERIN = map(Client, ("bob@x/3", "carol@x/2", "erin@x/1"))
A1, A2, B1, B2, C1, D1 = range(6)
POLICY = RoomPolicy("coven@rooms.x", ("alice@x", "dora@x"))
ROOM = Group(POLICY, {index: client.leaf() for index, client in enumerate(CLIENTS)})
OPEN = ROOM.with_policy(external_joins=ExternalJoins.ANYBODY)
WITH_NEWCOMER = OPEN.with_leaves({FREE: ERIN.leaf(0, Newcomer())})
GHOST = Client("alice@x/9", key="mallory's")
FALSE_BOB = Client("bob@x/1", key="mallory's")
FALSE_ALICE = Client("alice@x/1", key="mallory's")


def known(group: Group) -> KnownState:
    context = GroupContext(1, 1, group.view.group_id, 7, b"tree", b"transcript", group.extensions)
    return KnownState.of(group.view, context)


def listed(*clients: Client, kind: RemovedAs = RemovedAs.MEMBER) -> RemovedClients:
    return RemovedClients().with_removed((client.identity, kind) for client in clients)


def verdict(before: Group, after: Group, signer: Client) -> bool:
    try:
        check_later(known(before), after.view, signer.identity)
    except PolicyViolation:
        return False
    return True


# --- the signer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [ERIN, GHOST, BOB3])
def test_a_signer_that_was_not_there_shows_nothing(signer: Client) -> None:
    assert not verdict(ROOM, ROOM.with_leaves({FREE: signer.leaf()}), signer)


def test_a_signer_that_has_come_in_by_itself_shows_that_and_nothing_else() -> None:
    """It signs the GroupInfo beside its own external Commit."""
    vouched = ROOM.with_leaves({FREE: BOB3.vouched(BOB)})
    assert verdict(ROOM, vouched, BOB3)
    newcomer = OPEN.with_leaves({FREE: ERIN.leaf(0, Newcomer())})
    assert verdict(OPEN, newcomer, ERIN)
    for more in (vouched.without(B2), vouched.with_leaves({7: Client("bob@x/4").leaf()}), vouched.without(D1)):
        assert not verdict(ROOM, more, BOB3)
    for more in (newcomer.without(C1), newcomer.with_policy(may_add=Right.MEMBERS)):
        assert not verdict(OPEN, more, ERIN)


def test_a_name_with_another_key_shows_nothing() -> None:
    assert not verdict(ROOM, ROOM.with_leaves({A1: FALSE_ALICE.leaf()}), FALSE_ALICE)


def test_a_signer_that_is_not_in_what_it_shows() -> None:
    assert not verdict(ROOM, ROOM.without(B1), BOB)


@pytest.mark.parametrize("signer", CLIENTS)
def test_the_same_state_by_each_member(signer: Client) -> None:
    assert verdict(ROOM, ROOM, signer)


def test_a_newcomer_shows_what_is_the_same() -> None:
    assert verdict(WITH_NEWCOMER, WITH_NEWCOMER.with_leaves({B1: BOB.leaf(1)}), ERIN)


# --- each difference, for each kind of signer ---------------------------------------------------------
# the state that is shown; and whether an administrator, carol, and bob, whose devices some are about, may show it

CELLS: dict[str, tuple[Group, tuple[bool, bool, bool]]] = {
    "fresh keys": (ROOM.with_leaves({B1: BOB.leaf(1), C1: CAROL.leaf(3)}), (True, True, True)),
    "a return": (ROOM.without(B2).with_leaves({FREE: BOB2.returning()}), (True, True, True)),
    "another signature key": (
        ROOM.with_leaves({B2: Client("bob@x/2", key="new").leaf()}),
        (True, False, False),
    ),
    "a stranger": (ROOM.with_leaves({FREE: ERIN.leaf()}), (True, False, False)),
    "a device of bob's": (ROOM.with_leaves({FREE: BOB3.leaf()}), (True, False, True)),
    "one that bob vouches for": (ROOM.with_leaves({FREE: BOB3.vouched(BOB)}), (True, True, True)),
    "one that a ghost vouches for": (ROOM.with_leaves({FREE: BOB3.vouched(FALSE_BOB)}), (True, False, True)),
    "a ghost": (ROOM.with_leaves({FREE: GHOST.leaf()}), (True, False, False)),
    "carol's device": (ROOM.with_leaves({FREE: CAROL2.leaf()}), (True, True, False)),
    "a newcomer": (ROOM.with_leaves({FREE: ERIN.leaf(0, Newcomer())}), (True, False, False)),
    "bob's device is gone": (ROOM.without(B2), (True, False, True)),
    "an administrator's device is gone": (ROOM.without(A2), (True, False, False)),
    "an administrator is gone": (ROOM.without(D1), (True, False, False)),
    "another policy": (ROOM.with_policy(may_change_subject=Right.MEMBERS), (True, False, False)),
    "carol is an administrator": (ROOM.with_policy(administrators=("carol@x",)), (True, False, False)),
    "carol is barred": (ROOM.with_removed(listed(CAROL2)), (True, True, False)),
    "bob's device is barred": (ROOM.with_removed(listed(BOB3)), (True, False, True)),
    "somebody unknown is barred": (ROOM.with_removed(listed(ERIN)), (True, True, True)),
    "the list is gone": (ROOM.without_list(), (True, False, False)),
    "another room": (ROOM.with_policy(room="heath@rooms.x"), (False, False, False)),
    "a conversation": (ROOM.with_policy(conversation=True), (False, False, False)),
}


@pytest.mark.parametrize("name", CELLS)
def test_cell(name: str) -> None:
    after, expected = CELLS[name]
    assert tuple(verdict(ROOM, after, signer) for signer in (ALICE, CAROL, BOB)) == expected


@pytest.mark.parametrize("name", [name for name, (_, expected) in CELLS.items() if not expected[1]])
def test_a_forbidden_difference_is_not_hidden_by_an_allowed_one(name: str) -> None:
    after = CELLS[name][0].with_leaves({C1: CAROL.leaf(5)})
    assert not verdict(ROOM, after, CAROL)


@pytest.mark.parametrize("right", ["may_add", "may_remove", "may_change_policy"])
def test_one_right_alone_shows_what_it_may(right: str) -> None:
    """Members with one right, and none of the others."""
    before = ROOM.with_policy(**{right: Right.MEMBERS})
    shown = {
        "may_add": before.with_leaves({FREE: ERIN.leaf()}),
        "may_remove": before.without(B2),
        "may_change_policy": before.with_policy(may_change_subject=Right.MEMBERS),
    }
    for name, after in shown.items():
        assert verdict(before, after, CAROL) == (name == right)


ADDERS = ROOM.with_policy(may_add=Right.MEMBERS)
BY_RIGHT: dict[str, tuple[Group, bool]] = {
    "a stranger": (ADDERS.with_leaves({FREE: ERIN.leaf()}), True),
    "a ghost of an administrator": (ADDERS.with_leaves({FREE: GHOST.leaf()}), False),
    "another member's device": (ADDERS.with_leaves({FREE: BOB3.leaf()}), False),
    "one that bob vouches for": (ADDERS.with_leaves({FREE: BOB3.vouched(BOB)}), True),
    "a device of its own": (ADDERS.with_leaves({FREE: CAROL2.leaf()}), True),
    "a false key of bob's": (ADDERS.with_leaves({B1: FALSE_BOB.leaf()}), False),
}


@pytest.mark.parametrize("name", BY_RIGHT)
def test_the_right_to_add_shows_nobody_in_an_established_name(name: str) -> None:
    """mls-policy, "Policy Checks": such an Add by somebody who is no administrator needs proof."""
    after, allowed = BY_RIGHT[name]
    assert verdict(ADDERS, after, CAROL) is allowed
    assert verdict(ADDERS, after, ALICE)


def test_the_right_to_add_and_accounts_that_are_named() -> None:
    named = ADDERS.with_policy(administrators=("alice@x", "dora@x", "erin@x"))
    assert not verdict(named, named.with_leaves({FREE: ERIN.leaf()}), CAROL)
    everything = ADDERS.with_policy(may_change_policy=Right.MEMBERS)
    both = everything.with_policy(administrators=("alice@x", "erin@x")).with_leaves({FREE: ERIN.leaf()})
    assert not verdict(everything, both, CAROL)


def test_the_right_to_add_confirms_newcomers_where_nothing_is_established() -> None:
    before = WITH_NEWCOMER.with_policy(may_add=Right.MEMBERS)
    assert verdict(before, before.with_leaves({FREE: ERIN.leaf(1)}), CAROL)
    for established in (
        before.with_policy(administrators=("alice@x", "erin@x")),
        before.with_leaves({7: Client("erin@x/2").leaf()}),
    ):
        assert not verdict(established, established.with_leaves({FREE: ERIN.leaf(1)}), CAROL)
        assert verdict(established, established.with_leaves({FREE: ERIN.leaf(1)}), ALICE)


def test_a_member_that_may_remove_does_not_remove_an_administrator() -> None:
    before = ROOM.with_policy(may_remove=Right.MEMBERS)
    assert verdict(before, before.without(B1, B2), CAROL)
    assert not verdict(before, before.without(D1), CAROL)


def test_without_own_devices_nobody_shows_devices_of_its_own() -> None:
    before = ROOM.with_policy(own_devices=False)
    for after in (
        before.with_leaves({FREE: BOB3.leaf()}),
        before.with_leaves({FREE: BOB3.vouched(BOB)}),
        before.without(B2),
    ):
        assert not verdict(before, after, BOB)


def test_a_removed_device_has_no_voucher() -> None:
    before = ROOM.with_removed(listed(BOB3))
    assert not verdict(before, before.with_leaves({FREE: BOB3.vouched(BOB)}), CAROL)


def test_a_group_without_the_list_has_no_vouchers() -> None:
    """A group of version 0.1 (mls-policy, "Removed Clients"): a list may begin, but nobody comes by a voucher."""
    before = ROOM.without_list()
    assert not verdict(before, before.with_leaves({FREE: BOB3.vouched(BOB)}), CAROL)
    assert verdict(before, before.with_removed(RemovedClients()), CAROL)


def test_a_voucher_must_come_from_a_device_that_stays() -> None:
    after = ROOM.without(B1, B2).with_leaves({FREE: BOB3.vouched(BOB)})
    assert not verdict(ROOM.with_policy(may_remove=Right.MEMBERS), after, CAROL)


# --- newcomers --------------------------------------------------------------------------------------


def test_newcomers_where_anybody_may() -> None:
    marked = ERIN.leaf(0, Newcomer())
    assert verdict(OPEN, OPEN.with_leaves({FREE: marked}), CAROL)
    assert not verdict(OPEN, OPEN.with_leaves({FREE: Client("bob@x/7").leaf(0, Newcomer())}), CAROL)
    named = OPEN.with_policy(administrators=("alice@x", "dora@x", "erin@x"))
    assert not verdict(named, named.with_leaves({FREE: marked}), CAROL)


def test_nobody_is_confirmed_or_marked_by_who_may_not_add() -> None:
    confirmed = WITH_NEWCOMER.with_leaves({FREE: ERIN.leaf(1)})
    marked = WITH_NEWCOMER.with_leaves({C1: CAROL.leaf(1, Newcomer())})
    for after in (confirmed, marked):
        assert not verdict(WITH_NEWCOMER, after, BOB)
        assert verdict(WITH_NEWCOMER, after, ALICE)


def test_every_member_removes_a_newcomer_and_a_newcomer_nobody() -> None:
    assert verdict(WITH_NEWCOMER, WITH_NEWCOMER.without(FREE), CAROL)
    assert verdict(WITH_NEWCOMER, WITH_NEWCOMER.without(FREE).with_removed(listed(ERIN)), CAROL)
    for after in (
        WITH_NEWCOMER.without(C1),
        WITH_NEWCOMER.with_leaves({7: Client("erin@x/2").leaf()}),
        WITH_NEWCOMER.with_policy(may_add=Right.MEMBERS),
    ):
        assert not verdict(WITH_NEWCOMER, after, ERIN)


# --- without administrators ---------------------------------------------------------------------------


def test_where_no_administrator_is_every_member_shows_everything() -> None:
    orphaned = ROOM.without(A1, A2, D1)
    after = orphaned.with_policy(administrators=("carol@x",)).without(B1).with_leaves({FREE: ERIN.leaf()})
    assert verdict(orphaned, after, CAROL)


def test_nobody_shows_that_the_administrators_are_gone() -> None:
    """Else whoever shows it would be one: a combination of two steps."""
    after = ROOM.without(A1, A2, D1).with_policy(administrators=("carol@x",))
    assert not verdict(ROOM, after, CAROL)


# --- whatever is combined ----------------------------------------------------------------------------

DIFFERENCES = st.sets(st.sampled_from(["key", "stranger", "ghost", "gone", "admin gone", "policy", "barred", "fresh"]))


@given(DIFFERENCES, st.sampled_from([BOB, CAROL]))
@settings(max_examples=120, deadline=None)
def test_no_seat_and_no_right_without_a_key_that_may(differences: set[str], signer: Client) -> None:
    after = ROOM
    if "fresh" in differences:
        after = after.with_leaves({A1: ALICE.leaf(4)})
    if "key" in differences:
        after = after.with_leaves({A2: Client("alice@x/2", key="mallory's").leaf()})
    if "stranger" in differences:
        after = after.with_leaves({FREE: ERIN.leaf()})
    if "ghost" in differences:
        after = after.with_leaves({8: GHOST.leaf()})
    if "gone" in differences:
        after = after.without(*((C1,) if signer is BOB else (B1,)))
    if "admin gone" in differences:
        after = after.without(D1)
    if "policy" in differences:
        after = after.with_policy(may_add=Right.MEMBERS)
    if "barred" in differences:
        after = after.with_removed(RemovedClients((RemovedClient("dora@x", b"", RemovedAs.MEMBER),)))
    assert verdict(ROOM, after, signer) == (not differences - {"fresh"})
    assert verdict(ROOM, after, ALICE)


def test_what_is_known_is_what_was_there() -> None:
    state = known(WITH_NEWCOMER)
    for index, leaf in WITH_NEWCOMER.leaves.items():
        client = ClientIdentity.from_leaf(leaf)
        assert state.knows(client, leaf.signature_key)
        assert state.roster.leaf_of(client) == index
    assert not state.knows(ALICE.identity, FALSE_ALICE.signature_key.public)
    assert [client for client in CLIENTS if state.is_entitled(client.identity)] == [ALICE, ALICE2, DORA]
    assert not state.is_entitled(ERIN.identity)


# --- the list of removed clients, and keys ------------------------------------------------------------


def test_a_removed_member_is_no_newcomer() -> None:
    """As a Commit that brings it back is void (mls-policy, "Removed Clients"); so it is without a list."""
    marked = {FREE: ERIN.leaf(0, Newcomer())}
    barred = OPEN.with_removed(listed(ERIN))
    for signer in (CAROL, ERIN):
        assert verdict(OPEN, OPEN.with_leaves(marked), signer)
        assert not verdict(barred, barred.with_leaves(marked), signer)
    other_device = OPEN.with_removed(listed(Client("erin@x/2")))
    assert not verdict(other_device, other_device.with_leaves(marked), ERIN)
    assert not verdict(OPEN.without_list(), OPEN.without_list().with_leaves(marked), ERIN)


@pytest.mark.parametrize(("kind", "may"), [(RemovedAs.MEMBER, False), (RemovedAs.OWN_DEVICE, True)])
def test_an_account_shows_none_of_its_devices_that_others_have_removed(kind: RemovedAs, may: bool) -> None:
    before = ROOM.with_removed(listed(BOB3, kind=kind))
    assert verdict(before, before.with_leaves({FREE: BOB3.leaf()}), BOB) == may


def test_entries_that_others_have_made_stay_on_the_list() -> None:
    """Not even of an account without a client: a list that has lost the entry would let it in again."""
    before = ROOM.with_removed(listed(ERIN))
    for after in (ROOM, ROOM.with_removed(listed(ERIN, kind=RemovedAs.OWN_DEVICE))):
        assert not verdict(before, after, CAROL)
        assert verdict(before, after, ALICE)
    whole_account = RemovedClients((RemovedClient("erin@x", b"", RemovedAs.MEMBER),))
    assert verdict(before, ROOM.with_removed(whole_account), CAROL)
    newcomer = ROOM.with_removed(listed(ERIN, kind=RemovedAs.NEWCOMER))
    assert verdict(newcomer, ROOM, CAROL)


def test_an_add_deletes_the_entry_of_its_client() -> None:
    before = ROOM.with_policy(may_add=Right.MEMBERS).with_removed(listed(ERIN))
    without = before.with_removed(RemovedClients())
    assert verdict(before, without.with_leaves({FREE: ERIN.leaf()}), CAROL)
    assert not verdict(before, without, CAROL)
    assert not verdict(before, without.with_leaves({FREE: BOB3.leaf()}), CAROL)


def test_another_group_is_judged_by_the_members_too() -> None:
    """A client that has lost a group which went on in another one; a new signature scheme gives all other keys."""
    of_others = {index: Client(name, key=f"new {name}").leaf() for index, name in enumerate(NAMES)}

    def judge(after: Group, signer: Client, suite: int = 3) -> bool:
        view = replace(after.view, group_id=b"another one", suite=CipherSuite.get(suite))
        try:
            check_later(followed(known(ROOM), view), view, signer.identity)
        except PolicyViolation:
            return False
        return True

    for after, suite in ((ROOM, 3), (ROOM.with_leaves(of_others), 2)):
        assert judge(after, ALICE, suite)
        assert judge(after, CAROL, suite)
        assert judge(after.with_leaves({FREE: ERIN.leaf()}), ALICE, suite)
        assert not judge(after.with_leaves({FREE: ERIN.leaf()}), CAROL, suite)
        assert not judge(after.with_leaves({FREE: ERIN.leaf()}), ERIN, suite)
        assert not judge(after.without(D1), CAROL, suite)
    assert not judge(ROOM.with_leaves({A1: FALSE_ALICE.leaf()}), FALSE_ALICE)
    for signer in (ALICE, CAROL):  # under the same scheme, nobody's key changes by the ReInit
        assert not judge(ROOM.with_leaves(of_others), signer)


@pytest.mark.parametrize(
    ("signer", "believed"),
    [(CAROL, True), (BOB, True), (ALICE, True), (FALSE_BOB, False), (GHOST, False), (BOB3, False), (ERIN, False)],
)
def test_if_our_user_decides_any_confirmed_client_is_believed(signer: Client, *, believed: bool) -> None:
    """mls-recovery, "Which GroupInfo": a split group, in which we have the only administrator and have to give way."""
    place = {client: index for index, client in enumerate(CLIENTS)} | {FALSE_BOB: B1}
    other_side = ROOM.without(D1, B2).with_leaves({9: Client("frank@x/1").leaf()}).with_policy(own_devices=False)
    other_side = other_side.with_leaves({place.get(signer, FREE): signer.leaf()})
    decided = replace(known(ROOM), despite_doubts=True)

    def check(before: KnownState, after: Group) -> bool:
        try:
            check_later(before, after.view, signer.identity)
        except PolicyViolation:
            return False
        return True

    assert check(decided, other_side) == believed
    assert check(known(ROOM), other_side) == (signer is ALICE)
    assert not check(decided, other_side.with_policy(room="another@rooms.x"))


def test_no_newcomer_is_believed_by_our_users_decision() -> None:
    decided = replace(known(WITH_NEWCOMER), despite_doubts=True)
    with pytest.raises(PolicyViolation):
        check_later(decided, WITH_NEWCOMER.without(D1).view, ERIN.identity)
    check_later(decided, WITH_NEWCOMER.without(D1).view, CAROL.identity)
