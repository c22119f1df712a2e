"""The table of :mod:`slixmpp_mls.policy.check` and the grounds of :mod:`slixmpp_mls.policy.admission`, a test for each
cell, and what attackers combine.

The group: alice and dora are administrators, bob and carol members; erin is outside.  Mallory, where she plays, is
whoever makes the Commit without the keys that its names stand for.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from itertools import product

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, PolicyViolation
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_effects import Effects, MemberChange
from slixmpp_mls.mls.structures.credential import Certificate, X509Credential
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.policy import (
    DeviceVouchers,
    ExternalJoins,
    Newcomer,
    RemovedAs,
    RemovedClient,
    RemovedClients,
    ReturnKey,
    ReturnProof,
    Right,
    RoomPolicy,
    prove_return,
)
from slixmpp_mls.policy.admission import Ground
from slixmpp_mls.policy.check import check, judge
from slixmpp_mls.policy.removed_clients import Standing

from ..x509 import Authority, credential, device_key
from .people import ASKS, EXTERNAL, FREE, GROUP_ID, JOINS, SUITE, Client, Group, Who, with_content, without

NOBODY, ADMINISTRATORS, MEMBERS = Right
NEVER, DEVICES, ANYBODY = ExternalJoins

A1, A2, B1, B2, C1, D1 = range(6)
NAMES = ("alice@x/1", "alice@x/2", "bob@x/1", "bob@x/2", "carol@x/1", "dora@x/1")
CLIENTS = tuple(map(Client, NAMES))
ALICE, ALICE2, BOB, BOB2, CAROL, DORA = CLIENTS
ALICE3, BOB3, CAROL2, ERIN, ERIN2 = map(Client, ("alice@x/3", "bob@x/3", "carol@x/2", "erin@x/1", "erin@x/2"))
POLICY = RoomPolicy("coven@rooms.x", ("alice@x", "dora@x"))
ROOM = Group(POLICY, {index: client.leaf() for index, client in enumerate(CLIENTS)})
OPEN = ROOM.with_policy(external_joins=ANYBODY)
ORPHANED = ROOM.without(A1, A2, D1)

add, remove, update, commit = ROOM.add, ROOM.remove, ROOM.update, ROOM.commit

NEWCOMER = Newcomer()
ERIN_NEW = ERIN.leaf(0, NEWCOMER)
# erin has let herself in, and nobody has confirmed her
WITH_NEWCOMER = OPEN.with_leaves({FREE: ERIN_NEW})


def policy(**settings_: object) -> tuple[Extension, ...]:
    return replace(POLICY, **settings_).extension(), RemovedClients().extension()  # type: ignore[arg-type]


def as_bob() -> Client:
    """Somebody who calls herself bob's first device, with a key of her own."""
    return Client("bob@x/1", key="mallory's")


# --- what is asked -------------------------------------------------------------------------------


def rule_of(group: Group, effects: Effects) -> str | None:
    """The rule that a Commit breaks, with the list of removed clients that it needs.

    If it breaks none: the roster after it is the old one with the changes, and without the list it would be void.
    """
    try:
        verdict = judge(group.view, effects)
    except PolicyViolation as violation:
        return violation.rule
    assert verdict.roster == group.roster.after(effects)
    assert [arrival.client for arrival in verdict.arrivals] == [
        ClientIdentity.from_leaf(change.after) for change in effects.added if change.after is not None
    ]
    if effects.reinit is not None:
        check(group.view, effects)
        return None
    before = group.extensions if effects.extensions is None else effects.extensions.after
    complete = group.commit(
        0 if effects.committer == JOINS else effects.committer, extensions=verdict.removed.replaced_in(before)
    )
    if verdict.removed != group.removed and group.removed is not None:
        with pytest.raises(PolicyViolation) as refused:
            check(group.view, effects)
        assert refused.value.rule == "removed-clients"
    elif effects.extensions is None:
        check(group.view, effects)
    proposer = effects.extensions.proposer if effects.extensions is not None else effects.committer
    assert complete.extensions is not None
    assert check(group.view, replace(effects, extensions=replace(complete.extensions, proposer=proposer))) == verdict
    return None


def ground(group: Group, effects: Effects) -> Ground:
    (arrival,) = judge(group.view, effects).arrivals
    return arrival.ground


# --- rights: every right, for every kind of account -------------------------------------------

NEW_POLICY = (replace(POLICY, own_devices=False).extension(), RemovedClients().extension())
# who proposes, what the three rights make of it
MAY = [(A1, (False, True, True)), (D1, (False, True, True)), (B1, (False, False, True)), (FREE, (False, False, False))]
RIGHTS = [(who, right, verdicts[right]) for (who, verdicts), right in product(MAY, Right)]


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_adding(who: int, right: Right, allowed: bool) -> None:
    expected = None if allowed else "add"
    group, frank = WITH_NEWCOMER.with_policy(may_add=right), Client("frank@x/1").leaf()
    added = group.add(who, frank, 7)
    assert rule_of(group, group.commit(who, added)) == expected
    assert rule_of(group, group.commit(C1, added)) == expected  # committed by somebody without the right
    assert rule_of(group, group.commit(who, group.add(ASKS, frank, 7))) == expected  # frank's wish, the other's right
    assert rule_of(group, group.commit(who, group.add(EXTERNAL, frank, 7))) == expected


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_removing(who: int, right: Right, allowed: bool) -> None:
    expected = None if allowed else "remove"
    group = WITH_NEWCOMER.with_policy(may_remove=right)
    assert rule_of(group, group.commit(who, group.remove(who, C1))) == expected
    assert rule_of(group, group.commit(B2, group.remove(who, C1))) == expected
    assert rule_of(group, group.commit(who, group.remove(EXTERNAL, C1))) == expected


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_changing_policy(who: int, right: Right, allowed: bool) -> None:
    expected = None if allowed else "change-policy"
    group = WITH_NEWCOMER.with_policy(may_change_policy=right)
    assert rule_of(group, group.commit(who, extensions=NEW_POLICY)) == expected
    assert rule_of(group, group.commit(C1, extensions=NEW_POLICY, proposer=who)) == expected
    assert rule_of(group, group.commit(who, extensions=NEW_POLICY, proposer=EXTERNAL)) == expected
    # other extensions are as much the group's as the policy is
    assert rule_of(group, group.commit(who, extensions=(*group.extensions, Extension(0xF001, b"")))) == expected
    assert rule_of(group, group.commit(who, reinit=NEW_POLICY)) == expected


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_changing_the_subject(who: int, right: Right, allowed: bool) -> None:
    group = WITH_NEWCOMER.with_policy(may_change_subject=right)
    account = group.roster.at(who).account
    assert group.policy.permits(right, account, group.roster) is allowed


@pytest.mark.parametrize("right", Right)
def test_a_stranger_has_no_right(right: Right) -> None:
    roster = ROOM.roster
    assert not POLICY.permits(right, "erin@x", roster)
    assert not replace(POLICY, administrators=("alice@x", "erin@x")).permits(right, "erin@x", roster)


# --- the right to add is not every right --------------------------------------------------------

ADDERS: dict[str, object] = {"may_add": MEMBERS, "may_remove": MEMBERS}
FRANK, FRANK2, ZOE = map(Client, ("frank@x/1", "frank@x/2", "zoe@x/1"))
GHOST = Client("frank@x/9", key="mallory's")


def named(*more: str) -> tuple[Extension, ...]:
    return policy(**ADDERS, administrators=(*POLICY.administrators, *more))


def by_right(*changes: MemberChange, extensions: tuple[Extension, ...] | None = None, by: int = A1) -> Effects:
    """A Commit of an administrator with what others have proposed."""
    return commit(by, *changes, extensions=extensions)


BY_RIGHT: list[tuple[str, dict[str, object], Effects, str | None]] = [
    # an account that nobody knows
    ("an unknown account", {}, commit(C1, add(C1, FRANK.leaf())), None),
    ("with two devices", {}, commit(C1, add(C1, FRANK.leaf()), add(C1, FRANK2.leaf(), 7)), None),
    ("which ask for it themselves", {}, commit(C1, add(ASKS, FRANK.leaf()), add(C1, FRANK2.leaf(), 7)), None),
    ("with a device by another member", {}, commit(C1, add(C1, FRANK.leaf()), add(B1, GHOST.leaf(), 7)), "add"),
    ("... the other way round", {}, commit(C1, add(B1, GHOST.leaf()), add(C1, FRANK.leaf(), 7)), "add"),
    ("... beside an administrator's Add", {}, by_right(add(A1, FRANK.leaf()), add(C1, GHOST.leaf(), 7)), "add"),
    ("... of an outsider whom the administrator lets in", {},
     by_right(add(ASKS, FRANK.leaf()), add(C1, GHOST.leaf(), 7)), "add"),
    ("by two devices of one account", {}, commit(B1, add(B1, FRANK.leaf()), add(B2, FRANK2.leaf(), 7)), None),
    ("by two administrators", {}, by_right(add(A1, FRANK.leaf()), add(D1, FRANK2.leaf(), 7)), None),
    ("whom the same Commit names", {}, by_right(add(C1, GHOST.leaf()), extensions=named("frank@x")), "add"),
    ("... by an administrator's Add", {}, by_right(add(A1, FRANK.leaf()), extensions=named("frank@x")), None),
    # an account that the policy names and that is not there
    ("a named account that is away", {"administrators": ("alice@x", "zoe@x")}, commit(C1, add(C1, ZOE.leaf())), "add"),
    ("... committed by an administrator", {"administrators": ("alice@x", "zoe@x")},
     by_right(add(C1, ZOE.leaf())), "add"),
    ("... who adds it", {"administrators": ("alice@x", "zoe@x")}, by_right(add(A1, ZOE.leaf())), None),
    ("... and whom the Commit names no more", {"administrators": ("alice@x", "zoe@x")},
     by_right(add(C1, ZOE.leaf()), extensions=policy(**ADDERS, administrators=("alice@x",))), "add"),
    # an account that is there
    ("an administrator's other device", {}, commit(C1, add(C1, ALICE3.leaf())), "add"),
    ("... proposed, and committed by an administrator", {}, by_right(add(C1, ALICE3.leaf())), "add"),
    ("... proposed by an administrator, committed by a member", {}, commit(C1, add(A1, BOB3.leaf())), None),
    ("... that asks for it", {}, commit(C1, add(ASKS, ALICE3.leaf())), "add"),
    ("... of an external sender's wish", {}, commit(C1, add(EXTERNAL, ALICE3.leaf())), "add"),
    ("... while that administrator goes", {}, by_right(add(C1, ALICE3.leaf()), remove(A1, A1), remove(A2, A2), by=D1),
     "add"),
    ("another member's other device", {}, commit(C1, add(C1, BOB3.leaf())), "add"),
    ("... while all its devices go", {}, commit(C1, remove(C1, B1), remove(C1, B2), add(C1, BOB3.leaf())), "add"),
    # ... with proof
    ("with a voucher", {}, commit(C1, add(C1, BOB3.vouched(BOB2))), None),
    ("... where accounts may not add their own", {"own_devices": False}, commit(C1, add(C1, BOB3.vouched(BOB2))), None),
    ("... of an administrator", {}, commit(C1, add(C1, ALICE3.vouched(ALICE))), None),
    ("... by who goes", {}, commit(C1, remove(C1, B2), add(C1, BOB3.vouched(BOB2))), "add"),
    ("... by another account", {}, commit(C1, add(C1, with_content(BOB3.leaf(), DeviceVouchers((
        replace(CAROL.vouch_for(CAROL2), issuer=b"bob@x/1"),))))), "add"),
    ("by a device of the account", {"own_devices": False}, commit(C1, add(B1, BOB3.leaf())), None),
    ("... that goes", {"own_devices": False}, by_right(remove(A1, B1), add(B1, BOB3.leaf())), "add"),
    # in place of a leaf of the same client
    ("the same key again", {}, commit(C1, remove(C1, B1), add(C1, BOB.leaf(1), B1)), None),
    ("... committed by another member", {}, commit(B2, remove(C1, B1), add(C1, BOB.leaf(1), B1)), None),
    ("another key", {}, commit(C1, remove(C1, B1), add(C1, as_bob().leaf(), B1)), "add"),
    ("another key by an administrator", {}, commit(A1, remove(A1, B1), add(A1, as_bob().leaf(), B1)), None),
    ("the key of another device", {}, commit(C1, remove(C1, B1), remove(C1, B2), add(C1, replace(
        BOB.leaf(1), signature_key=BOB2.signature_key.public), B1)), "add"),
    ("an administrator's key again", {}, commit(C1, remove(A2, A1), add(C1, ALICE.leaf(1), A1)), None),
    ("an administrator's other key", {},
     commit(C1, remove(A2, A1), add(C1, Client("alice@x/1", "mallory's").leaf(), A1)), "add"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings_", "effects", "rule"), [cell[1:] for cell in BY_RIGHT], ids=[cell[0] for cell in BY_RIGHT]
)
def test_a_member_adds_by_right(settings_: dict[str, object], effects: Effects, rule: str | None) -> None:
    """mls-policy, "Policy Checks", "add a client, by right": a name gives no account's rights to another key."""
    assert rule_of(ROOM.with_policy(**(ADDERS | settings_)), effects) == rule


def test_a_member_confirms_newcomers_only_where_nothing_is_established() -> None:
    group = WITH_NEWCOMER.with_policy(**ADDERS)

    def confirms(group: Group, leaf: LeafNode, by: int = C1) -> str | None:
        return rule_of(group, group.commit(by, group.remove(by, FREE), group.add(by, leaf, 7)))

    assert confirms(group, ERIN.leaf(1)) is None
    assert rule_of(group, group.commit(C1, group.add(C1, ERIN2.leaf(), 7))) is None  # nobody squats by coming first
    # erin is named meanwhile, or an administrator has added another device of hers: the newcomer's leaf proves nothing
    for established in (
        group.with_policy(administrators=("alice@x", "erin@x")), group.with_leaves({8: ERIN2.leaf()})
    ):  # fmt: skip
        assert confirms(established, ERIN.leaf(1)) == "add"
        assert confirms(established, ERIN.leaf(1), A1) is None
    assert confirms(group.with_leaves({8: ERIN2.leaf()}), ERIN.vouched(ERIN2, generation=1)) is None


def test_a_member_does_not_bring_back_a_removed_device_by_an_old_voucher() -> None:
    gone = RemovedClients().with_removed([(BOB3.identity, RemovedAs.OWN_DEVICE)])
    group = ROOM.with_policy(**ADDERS).with_removed(gone)
    for adder, rule in ((C1, "add"), (B1, None), (A1, None)):
        assert rule_of(group, group.commit(adder, group.add(adder, BOB3.vouched(BOB2)))) == rule


def test_while_no_administrator_is_there_every_member_is_one() -> None:
    group = ORPHANED.with_policy(**ADDERS)
    assert rule_of(group, group.commit(B1, group.add(B1, Client("carol@x/9").leaf()))) is None
    with_zoe = group.with_policy(administrators=("zoe@x",)).with_leaves({7: ZOE.leaf()})
    assert rule_of(with_zoe, with_zoe.commit(B1, with_zoe.add(B1, Client("carol@x/9").leaf()))) == "add"


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_established_account_gets_a_key_of_a_member_that_may_add(data: st.DataObject) -> None:
    """Carol adds, removes, names and has others commit; the leaves have her accomplice's key, and public proofs."""
    group = data.draw(st.sampled_from([ROOM, OPEN, WITH_NEWCOMER])).with_policy(**ADDERS)
    changes: list[MemberChange] = []
    for number in range(data.draw(st.integers(1, 3))):
        client = Client(data.draw(st.sampled_from(NAMES_TO_CLAIM)), key="mallory's")
        leaf = client.leaf(data.draw(st.integers(0, 1)))
        for content in data.draw(st.lists(st.sampled_from(PUBLIC_PROOFS), max_size=2)):
            if content is not None:
                leaf = with_content(leaf, content)  # type: ignore[arg-type]
        changes.append(group.add(data.draw(st.sampled_from(list[Who]([C1, ASKS]))), leaf, 20 + number))
        index = group.roster.leaf_of(client.identity)
        if index is not None and index not in {change.index for change in changes} and data.draw(st.booleans()):
            changes.append(group.remove(data.draw(st.sampled_from([C1, A1])), index))
    extensions = data.draw(st.sampled_from([None, named("erin@x"), named("carol@x")]))
    effects = group.commit(C1, *changes, extensions=extensions, proposer=A1)
    try:
        verdict = judge(group.view, effects)
    except InvalidError:
        return
    after = POLICY.administrators if extensions is None else (RoomPolicy.required_in(extensions)).administrators
    for arrival in verdict.arrivals:
        account = arrival.client.account
        assert account == "carol@x" or (account == "erin@x" and account not in after)


# --- pre-shared keys ------------------------------------------------------------------------------

PSK = (PreSharedKeyID(ResumptionPSK(ResumptionPSKUsage.APPLICATION, GROUP_ID, 1), bytes(32)),)
OTHER_PSK = (PreSharedKeyID(ExternalPSK(b"psk"), bytes(32)),)


@pytest.mark.parametrize("psks", [PSK, OTHER_PSK, PSK + OTHER_PSK])
@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_psks(who: int, right: Right, allowed: bool, psks: tuple[PreSharedKeyID, ...]) -> None:
    """RFC 9420 8.4: whoever lacks a PSK is out, so its committer needs the right to remove anybody."""
    group = WITH_NEWCOMER.with_policy(may_remove=right, may_add=MEMBERS, may_change_policy=MEMBERS)
    allowed = allowed and who in (A1, D1)  # others could shut out administrators, whom they may not remove
    assert rule_of(group, group.commit(who, psks=psks)) == (None if allowed else "psk")


def test_psks_of_outsiders_and_of_groups_without_administrators() -> None:
    assert rule_of(OPEN, OPEN.commit(JOINS, OPEN.add(JOINS, ERIN_NEW), psks=PSK)) == "psk"
    assert rule_of(ROOM, returns_with(PSK)) == "psk"
    assert rule_of(ORPHANED, ORPHANED.commit(B1, psks=PSK)) is None


def returns_with(psks: tuple[PreSharedKeyID, ...]) -> Effects:
    return replace(ROOM.commit(JOINS, ROOM.remove(JOINS, B1), ROOM.add(JOINS, BOB.returning(), B1)), psks=psks)


# --- the grounds of an arrival: what proves it, and all that does not ----------------------------

CLOSED: dict[str, object] = {"may_add": NOBODY, "may_remove": NOBODY, "may_change_policy": NOBODY}
NOT_OWN: dict[str, object] = CLOSED | {"own_devices": False}


def asks_to_return(by: Who, leaf: LeafNode, old: int = B1) -> Effects:
    """A client asks, and somebody replaces its leaf."""
    return ROOM.commit(by, ROOM.remove(by, old), ROOM.add(ASKS, leaf, old))


def returns(leaf: LeafNode, old: int = B1) -> Effects:
    """An external Commit in place of an old leaf."""
    return ROOM.commit(JOINS, ROOM.remove(JOINS, old), ROOM.add(JOINS, leaf, old))


RETURN = BOB.returning()
NO_RETURN: list[tuple[str, LeafNode]] = [
    ("no proof", BOB.leaf(1)),
    ("proof by a return key that the leaf had before it healed", BOB.returning(2, old=1)),
    ("another signature key", as_bob().returning()),
    ("the proof of another leaf", with_content(BOB.leaf(2), ReturnProof.found_in(RETURN.extensions))),  # type: ignore[arg-type]
    ("the proof in another group", BOB.returning(group_id=b"another group")),
    ("another device's proof", BOB3.returning()),
    ("proof by another member's return key",
     with_content(BOB.leaf(1), ReturnProof.found_in(CAROL.returning().extensions))),  # type: ignore[arg-type]
    ("a new return key that was not signed", with_content(RETURN, ReturnKey(bytes(32)))),
    ("a new return key left out", without(RETURN, ReturnKey)),
    ("a new encryption key that was not signed", replace(RETURN, encryption_key=BOB.leaf_key(7).public)),
    ("the identity of another device of the account", replace(RETURN, credential=BOB3.identity.credential())),
]  # fmt: skip


@pytest.mark.parametrize("settings_", [CLOSED, NOT_OWN, {}], ids=["closed", "no own devices", "default"])
@pytest.mark.parametrize("committer", [A1, B2, C1], ids=["administrator", "own device", "member"])
def test_return_by_asking(committer: int, settings_: dict[str, object]) -> None:
    group = ROOM.with_policy(**settings_)
    effects = asks_to_return(committer, RETURN)
    assert rule_of(group, effects) is None
    assert ground(group, effects) is Ground.RETURN
    assert not judge(group.view, effects).removed.clients  # a return is no removal


@pytest.mark.parametrize("leaf", [leaf for _, leaf in NO_RETURN], ids=[name for name, _ in NO_RETURN])
def test_what_does_not_prove_a_return_by_asking(leaf: LeafNode) -> None:
    assert rule_of(ROOM, asks_to_return(C1, leaf)) in ("add", "remove", "one-leaf")
    group = ROOM.with_policy(**CLOSED)
    assert rule_of(group, asks_to_return(A1, leaf)) in ("add", "remove", "one-leaf")


@pytest.mark.parametrize("joins", [DEVICES, ANYBODY])
@pytest.mark.parametrize("leaf", [leaf for _, leaf in NO_RETURN], ids=[name for name, _ in NO_RETURN])
def test_what_does_not_prove_a_return_by_external_commit(leaf: LeafNode, joins: ExternalJoins) -> None:
    group = ROOM.with_policy(external_joins=joins)
    assert rule_of(group, returns(leaf)) == "external-join"
    marked = with_content(leaf, NEWCOMER)
    assert rule_of(group, returns(marked)) == "external-join"


@pytest.mark.parametrize("joins", [DEVICES, ANYBODY])
@pytest.mark.parametrize("settings_", [CLOSED, NOT_OWN, {}], ids=["closed", "no own devices", "default"])
def test_return_by_external_commit(joins: ExternalJoins, settings_: dict[str, object]) -> None:
    group = ROOM.with_policy(external_joins=joins, **settings_)
    assert rule_of(group, returns(RETURN)) is None
    assert ground(group, returns(RETURN)) is Ground.RETURN
    assert rule_of(group.with_policy(external_joins=NEVER), returns(RETURN)) == "external-join"


def test_return_with_several_return_keys_one_of_which_is_the_leafs() -> None:
    """A Commit or Update under way may have replaced the leaf, or not."""
    bare = BOB.leaf(2)
    proof = prove_return(SUITE, GROUP_ID, [BOB.return_key(1), BOB.return_key(0)], bare)
    assert rule_of(ROOM, asks_to_return(C1, with_content(bare, proof))) is None


def test_return_with_a_renewed_certificate_for_the_same_key() -> None:
    root = Authority.root()
    key = device_key(SUITE)

    def certified(leaf: LeafNode) -> LeafNode:
        chain = credential(root.device(BOB.identity, key))
        return replace(leaf, credential=chain, signature_key=key.public)

    group = ROOM.with_leaves({B1: certified(BOB.leaf())})
    bare = certified(BOB.leaf(1))
    leaf = with_content(bare, prove_return(SUITE, GROUP_ID, [BOB.return_key(0)], bare))
    assert rule_of(group, group.commit(C1, group.remove(C1, B1), group.add(ASKS, leaf, B1))) is None


def test_the_remove_of_a_return_is_the_committers_own() -> None:
    """A Remove that a third has proposed may be there to exclude for good."""
    for third in (A1, B2, EXTERNAL):
        effects = ROOM.commit(C1, ROOM.remove(third, B1), ROOM.add(ASKS, RETURN, B1))
        assert rule_of(ROOM.with_policy(**CLOSED), effects) in ("add", "remove")


def test_a_return_that_its_client_has_not_asked_for() -> None:
    """The KeyPackage of an earlier request, added by a member: a request is bound to its epoch, a KeyPackage is not."""
    for proposer in (C1, EXTERNAL):
        effects = ROOM.commit(C1, ROOM.remove(C1, B1), ROOM.add(proposer, RETURN, B1))
        assert rule_of(ROOM, effects) == "add"


def test_a_leaf_without_a_return_key_does_not_return() -> None:
    group = ROOM.with_leaves({B1: without(BOB.leaf(), ReturnKey)})
    assert rule_of(group, group.commit(C1, group.remove(C1, B1), group.add(ASKS, RETURN, B1))) == "add"


def join(leaf: LeafNode, *changes: MemberChange) -> Effects:
    return ROOM.commit(JOINS, *changes, ROOM.add(JOINS, leaf))


def ask(by: Who, leaf: LeafNode, *changes: MemberChange) -> Effects:
    return ROOM.commit(by, *changes, ROOM.add(ASKS, leaf))


VOUCHED = BOB3.vouched(BOB2)
NO_VOUCHER: list[tuple[str, LeafNode]] = [
    ("no voucher", BOB3.leaf()),
    ("signed by another account", with_content(BOB3.leaf(), DeviceVouchers((
        replace(CAROL.vouch_for(CAROL2), issuer=b"bob@x/1"),)))),
    ("another account's device as issuer", with_content(BOB3.leaf(), DeviceVouchers((
        replace(BOB.vouch_for(BOB3), issuer=b"carol@x/1"),)))),
    ("signed by itself", with_content(BOB3.leaf(), DeviceVouchers((
        replace(BOB3.vouch_for(BOB2), issuer=b"bob@x/1"),)))),
    ("for another device", with_content(BOB3.leaf(), DeviceVouchers((BOB.vouch_for(Client("bob@x/4")),)))),
    ("for another key of the device", with_content(
        Client("bob@x/3", key="mallory's").leaf(), DeviceVouchers((BOB.vouch_for(BOB3),)))),
    ("by a device that is not in the group", BOB3.vouched(Client("bob@x/5"))),
    ("by a key that its issuer has not any more", BOB3.vouched(Client("bob@x/1", key="former"))),
    ("with another validity time", with_content(BOB3.leaf(), DeviceVouchers((
        replace(BOB.vouch_for(BOB3), lifetime=replace(BOB.vouch_for(BOB3).lifetime, not_after=1)),)))),
]  # fmt: skip


def test_vouchers() -> None:
    for leaf in (VOUCHED, BOB3.vouched(BOB), BOB3.vouched(Client("bob@x/5"), BOB2)):
        for effects in (ask(C1, leaf), join(leaf)):
            assert rule_of(ROOM.with_policy(**CLOSED), effects) is None
            assert ground(ROOM.with_policy(**CLOSED), effects) is Ground.VOUCHER
        assert rule_of(ROOM.with_policy(own_devices=False), ask(C1, leaf)) == "add"
        assert rule_of(ROOM.with_policy(own_devices=False), join(leaf)) == "external-join"
        assert rule_of(ROOM.with_policy(external_joins=NEVER), join(leaf)) == "external-join"
        assert rule_of(ROOM.with_policy(external_joins=NEVER), ask(C1, leaf)) is None


@pytest.mark.parametrize("leaf", [leaf for _, leaf in NO_VOUCHER], ids=[name for name, _ in NO_VOUCHER])
def test_what_does_not_vouch(leaf: LeafNode) -> None:
    assert rule_of(ROOM, ask(C1, leaf)) == "add"
    for joins in (DEVICES, ANYBODY):
        group = ROOM.with_policy(external_joins=joins)
        assert rule_of(group, join(leaf)) == "external-join"
        assert rule_of(group, join(with_content(leaf, NEWCOMER))) == "external-join"


def test_a_voucher_does_not_add_who_has_not_asked() -> None:
    for proposer in (C1, EXTERNAL):
        assert rule_of(ROOM, ROOM.commit(C1, ROOM.add(proposer, VOUCHED))) == "add"


def test_a_device_that_goes_with_the_commit_vouches_for_nobody() -> None:
    """An account would evade its removal by a device that it has vouched for, or proposed, before."""
    for remover in (A1, B1, B2):
        gone = ROOM.remove(remover, B2)
        assert rule_of(ROOM, ask(C1, VOUCHED, gone)) == "add"
        assert rule_of(ROOM, ROOM.commit(C1, gone, ROOM.add(B2, BOB3.leaf()))) == "add"
    assert rule_of(ROOM, join(VOUCHED, ROOM.remove(B2, B2))) == "external-join"
    # the one that stays
    assert rule_of(ROOM, ask(C1, BOB3.vouched(BOB), ROOM.remove(A1, B2))) is None


def test_a_newcomer_vouches_for_nobody() -> None:
    effects = WITH_NEWCOMER.commit(C1, WITH_NEWCOMER.add(ASKS, ERIN2.vouched(ERIN), 7))
    assert rule_of(WITH_NEWCOMER, effects) == "add"
    effects = WITH_NEWCOMER.commit(FREE, WITH_NEWCOMER.add(FREE, ERIN2.leaf(), 7))
    assert rule_of(WITH_NEWCOMER, effects) == "add"


def test_own_devices() -> None:
    group, added = ROOM.with_policy(**CLOSED), ROOM.add(B1, BOB3.leaf())
    for committer in (B1, B2, C1):
        assert rule_of(group, ROOM.commit(committer, added)) is None
        assert ground(group, ROOM.commit(committer, added)) is Ground.OWN_DEVICE
    assert rule_of(group, ROOM.commit(B1, ROOM.add(ASKS, BOB3.leaf()))) is None  # its own device commits its request
    assert rule_of(ROOM.with_policy(**NOT_OWN), ROOM.commit(B1, added)) == "add"
    assert rule_of(group, ROOM.commit(C1, ROOM.add(C1, BOB3.leaf()))) == "add"


# --- newcomers ------------------------------------------------------------------------------------


def test_a_newcomer_where_anybody_may() -> None:
    assert rule_of(OPEN, join(ERIN_NEW)) is None
    assert ground(OPEN, join(ERIN_NEW)) is Ground.NEWCOMER
    for joins in (NEVER, DEVICES):
        assert rule_of(ROOM.with_policy(external_joins=joins), join(ERIN_NEW)) == "external-join"


@pytest.mark.parametrize("name", ["bob@x/3", "bob@x/1", "alice@x/3", "dora@x/2"])
def test_a_newcomer_has_no_name_that_is_known(name: str) -> None:
    leaf = Client(name, key="mallory's").leaf(0, NEWCOMER)
    assert rule_of(OPEN, join(leaf)) in ("external-join", "one-leaf")
    if name.startswith("dora"):  # an administrator who is not here
        assert rule_of(OPEN.without(D1), join(leaf)) == "external-join"


def test_the_mark_of_a_newcomer() -> None:
    assert rule_of(OPEN, join(ERIN.leaf())) == "newcomer"
    # nobody else comes with it
    assert rule_of(OPEN, ROOM.commit(A1, ROOM.add(A1, ERIN_NEW))) == "newcomer"
    assert rule_of(OPEN, ROOM.commit(B1, ROOM.add(B1, BOB3.leaf(0, NEWCOMER)))) == "newcomer"
    assert rule_of(OPEN, returns(BOB.returning(1, 0, NEWCOMER))) == "newcomer"
    assert rule_of(OPEN, join(with_content(VOUCHED, NEWCOMER))) == "newcomer"
    # and it stays
    group = WITH_NEWCOMER
    assert rule_of(group, group.commit(FREE, group.update(FREE, ERIN.leaf(1, NEWCOMER)))) is None
    assert rule_of(group, group.commit(FREE, group.update(FREE, ERIN.leaf(1)))) == "newcomer"
    assert rule_of(group, group.commit(A1, group.update(FREE, ERIN.leaf(1)))) == "newcomer"
    assert rule_of(group, group.commit(B1, group.update(B1, BOB.leaf(1, NEWCOMER)))) == "newcomer"
    back = group.commit(JOINS, group.remove(JOINS, FREE), group.add(JOINS, ERIN.returning(1), FREE))
    assert rule_of(group, back) == "newcomer"
    back = group.commit(JOINS, group.remove(JOINS, FREE), group.add(JOINS, ERIN.returning(1, 0, NEWCOMER), FREE))
    assert rule_of(group, back) is None


def test_every_member_removes_a_newcomer_and_it_stays_out() -> None:
    group = WITH_NEWCOMER.with_policy(**NOT_OWN)
    effects = group.commit(C1, group.remove(C1, FREE))
    assert rule_of(group, effects) is None
    listed = judge(group.view, effects).removed
    assert listed.clients == (RemovedClient("erin@x", b"1", RemovedAs.NEWCOMER),)
    after = OPEN.with_removed(listed)
    for again in (ERIN_NEW, ERIN2.leaf(0, NEWCOMER)):
        assert rule_of(after, join(again)) == "external-join"
    # unless somebody who may add adds it
    assert rule_of(after, after.commit(A1, after.add(A1, ERIN.leaf()))) is None


def test_a_newcomer_may_leave_and_nothing_else() -> None:
    group = WITH_NEWCOMER.with_policy(may_add=MEMBERS, may_remove=MEMBERS, may_change_policy=MEMBERS)
    assert rule_of(group, group.commit(C1, group.remove(FREE, FREE))) is None
    assert rule_of(group, group.commit(FREE, group.remove(FREE, B1))) == "remove"
    assert rule_of(group, group.commit(FREE, group.add(FREE, Client("frank@x/1").leaf(), 7))) == "add"
    assert rule_of(group, group.commit(FREE, extensions=NEW_POLICY)) == "change-policy"
    two = group.with_leaves({7: Client("frank@x/1").leaf(0, NEWCOMER)})
    assert rule_of(two, two.commit(FREE, two.remove(FREE, 7))) == "remove"
    for account in ("erin@x", "frank@x"):  # no administrator without a confirmed client
        new = (replace(POLICY, administrators=(account,)).extension(), RemovedClients().extension())
        assert rule_of(two, two.commit(A1, extensions=new)) == "administrator"


def test_a_newcomer_is_confirmed_by_an_add_in_its_place() -> None:
    group = WITH_NEWCOMER
    effects = group.commit(A1, group.remove(A1, FREE), group.add(A1, ERIN.leaf(1), FREE))
    assert rule_of(group, effects) is None
    verdict = judge(group.view, effects)
    assert not verdict.removed.clients
    assert verdict.roster.has_say("erin@x")
    assert not group.roster.has_say("erin@x")
    assert rule_of(group, group.commit(C1, group.remove(C1, FREE), group.add(C1, ERIN.leaf(1), FREE))) == "add"


def test_a_group_of_newcomers_only_is_not_locked() -> None:
    group = WITH_NEWCOMER.without(A1, A2, B1, B2, C1, D1)
    assert rule_of(group, group.commit(FREE, group.add(FREE, Client("frank@x/1").leaf(), 7))) is None
    assert rule_of(group, group.commit(FREE, group.add(FREE, ERIN2.leaf(), 7))) is None


# --- who was removed does not come back by itself ---------------------------------------------------


def removed(*entries: tuple[Client, RemovedAs]) -> RemovedClients:
    return RemovedClients().with_removed((client.identity, removed_as) for client, removed_as in entries)


def test_removals_are_remembered() -> None:
    group = ROOM
    by_others = judge(group.view, group.commit(A1, group.remove(A1, B2))).removed
    assert by_others.clients == (RemovedClient("bob@x", b"2", RemovedAs.MEMBER),)
    by_itself = judge(group.view, group.commit(C1, group.remove(B1, B2))).removed
    assert by_itself.clients == (RemovedClient("bob@x", b"2", RemovedAs.OWN_DEVICE),)
    for leaving in (group.remove(B2, B2), group.remove(C1, C1)):
        assert not judge(group.view, group.commit(A1, leaving)).removed.clients


def test_a_device_removed_by_others() -> None:
    group = ROOM.with_removed(removed((BOB3, RemovedAs.MEMBER)))
    assert rule_of(group, ask(C1, VOUCHED)) == "add"
    assert rule_of(group, join(VOUCHED)) == "external-join"
    assert rule_of(group, ROOM.commit(B1, ROOM.add(B1, BOB3.leaf()))) == "add"
    effects = ROOM.commit(C1, ROOM.add(A1, BOB3.leaf()))
    assert rule_of(group, effects) is None
    assert not judge(group.view, effects).removed.clients


def test_a_device_removed_by_its_own_account() -> None:
    group = ROOM.with_removed(removed((BOB3, RemovedAs.OWN_DEVICE)))
    assert rule_of(group, ask(C1, VOUCHED)) == "add"
    assert rule_of(group, join(VOUCHED)) == "external-join"
    for by in (A1, B1):
        effects = ROOM.commit(by, ROOM.add(by, BOB3.leaf()))
        assert rule_of(group, effects) is None
        assert not judge(group.view, effects).removed.clients


def test_a_removed_device_does_not_stop_others() -> None:
    group = ROOM.with_removed(removed((Client("bob@x/4"), RemovedAs.MEMBER), (ERIN, RemovedAs.MEMBER)))
    assert rule_of(group, ask(C1, VOUCHED)) is None


def test_removed_and_added_by_one_commit() -> None:
    effects = ROOM.commit(A1, ROOM.remove(A1, B1), ROOM.add(A1, BOB.leaf(1), B1))
    assert not judge(ROOM.view, effects).removed.clients


def made_up(count: int, kind: RemovedAs = RemovedAs.MEMBER, first: int = 0) -> list[RemovedClient]:
    return [RemovedClient(f"u{number}@x", b"1", kind) for number in range(first, first + count)]


def listed_after(before: list[RemovedClient], group: Group, *changes: MemberChange) -> tuple[RemovedClient, ...]:
    """The list that follows from a Commit by alice."""
    return judge(group.with_removed(RemovedClients(tuple(before))).view, commit(A1, *changes)).removed.clients


OF_BOB3 = RemovedClient("bob@x", b"3", RemovedAs.OWN_DEVICE)
OF_ALICE3 = RemovedClient("alice@x", b"3", RemovedAs.OWN_DEVICE)


def crowd(size: int) -> Group:
    """Made-up accounts with two devices each are in the group."""
    leaves = {}
    for number in range(size):
        for device in range(2):
            leaves[10 + 2 * number + device] = Client(f"m{number}@x/{device}").leaf()
    return ROOM.with_leaves(leaves)


def test_made_up_accounts_displace_no_entry_of_an_account_that_is_in_the_group() -> None:
    """mls-policy, "Removed Clients": one who may add and remove fills the list."""
    entries = [OF_BOB3, *made_up(127)]
    after = listed_after(entries, ROOM, remove(A1, C1))
    assert after == (OF_BOB3, *entries[2:], RemovedClient("carol@x", b"1", RemovedAs.MEMBER))
    group = ROOM.with_policy(may_add=MEMBERS, may_remove=MEMBERS).with_removed(RemovedClients((OF_BOB3,)))
    for number in range(200):  # in many Commits
        spy = group.with_leaves({9: Client(f"u{number}@x/1").leaf()})
        group = group.with_removed(judge(spy.view, spy.commit(C1, spy.remove(C1, 9))).removed)
    assert group.removed is not None
    assert (len(group.removed.clients), group.removed.clients[0]) == (128, OF_BOB3)
    assert rule_of(group, ask(C1, VOUCHED)) == "add"


def test_entries_of_members_displace_none_of_absent_accounts() -> None:
    """Many members have retired devices: a stranger whom others have removed does not come back for that."""
    own = [RemovedClient(f"m{number}@x", b"9", RemovedAs.OWN_DEVICE) for number in range(70)]
    absent = made_up(58)
    after = listed_after([*absent, *own], crowd(70), remove(A1, C1))
    assert [entry for entry in after if entry.account.startswith("u")] == absent
    assert len(after) == 128
    assert own[0] not in after
    assert own[1] in after


def test_newcomers_entries_go_first_among_the_absent() -> None:
    entries = [*made_up(100), *made_up(28, RemovedAs.NEWCOMER, 100)]
    after = listed_after(entries, ROOM, remove(A1, C1))
    assert after == (*entries[:100], *entries[101:], RemovedClient("carol@x", b"1", RemovedAs.MEMBER))


def test_accounts_with_many_entries_get_one_before_any_goes() -> None:
    """Sixteen accounts in the group, eight devices each: all of them are barred as before."""
    many = [RemovedClient(f"m{n}@x", b"%d" % device, RemovedAs.MEMBER) for n in range(15) for device in range(8)]
    entries = [OF_BOB3, OF_ALICE3, *(replace(OF_ALICE3, device=b"%d" % n) for n in range(4, 9)), *many]
    assert len(entries) == 127
    group = crowd(16)
    after = listed_after([*entries, RemovedClient("m14@x", b"77", RemovedAs.MEMBER)], group, group.remove(A1, 41))
    assert after[:6] == tuple(entries[:6])
    assert [entry for entry in after if entry.account == "m14@x"] == [RemovedClient("m14@x", b"", RemovedAs.MEMBER)]
    assert RemovedClients(after).bars(ClientIdentity("m14@x", "3"))
    assert after[7:] == (*many[:112], RemovedClient("m15@x", b"1", RemovedAs.MEMBER), after[-1])


def test_nobody_displaces_an_administrators_entry() -> None:
    """... not by as many accounts in the group as there may be entries, nor by a policy that names another one."""
    ours = [OF_ALICE3, *(replace(OF_ALICE3, device=b"%d" % number) for number in range(4, 8))]
    mine = [RemovedClient(f"m{number}@x", b"9", RemovedAs.MEMBER) for number in range(123)]
    group = crowd(130)
    after = listed_after([*ours, *mine], group, *(group.remove(A1, 10 + 2 * number) for number in range(123, 130)))
    barring = RemovedClients(after)
    assert all(barring.bars(ClientIdentity("alice@x", device)) for device in ("3", "4", "7"))
    assert len(after) == 128
    named = replace(POLICY, administrators=("alice@x", "bob@x")).extension()
    group = crowd(0).with_removed(RemovedClients((OF_BOB3, *made_up(127))))
    effects = group.commit(A1, group.remove(A1, B1), group.remove(A1, B2), group.remove(A1, C1), extensions=(named,))
    assert OF_BOB3 in judge(group.view, effects).removed.clients  # bob has no client there any more, but is named


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_the_list_is_bounded_and_members_stay_barred(data: st.DataObject) -> None:
    accounts = st.sampled_from([*(f"u{number}@x" for number in range(80)), "bob@x", "alice@x", "dora@x"])
    kinds = st.sampled_from(RemovedAs)
    removals = data.draw(
        st.lists(st.tuples(st.builds(ClientIdentity, accounts, st.sampled_from("123456789")), kinds), max_size=300)
    )
    of = {"bob@x": Standing.MEMBER, "alice@x": Standing.ADMINISTRATOR, "dora@x": Standing.ADMINISTRATOR}
    after = RemovedClients().with_removed(removals, lambda account: of.get(account, Standing.ABSENT))
    assert len(after.clients) <= 128
    assert RemovedClients.decode(after.encode()) == after
    for client, _ in removals:
        if client.account in of:
            assert after.bars(client)


LIST = removed((BOB3, RemovedAs.MEMBER))


@pytest.mark.parametrize(
    ("what", "listed"),
    [("forgotten", RemovedClients()), ("another", removed((BOB2, RemovedAs.MEMBER))),
     ("as something less", removed((BOB3, RemovedAs.OWN_DEVICE)))],
)  # fmt: skip
def test_the_list_is_nobodys_to_change(what: str, listed: RemovedClients) -> None:
    group = ROOM.with_removed(LIST)
    for who in (A1, B1):
        for extensions in (listed.replaced_in(group.extensions), (replace(POLICY, own_devices=False).extension(),
                                                                  listed.extension())):  # fmt: skip
            with pytest.raises(PolicyViolation) as refused:
                check(group.view, group.commit(who, extensions=extensions))
            assert refused.value.rule in ("removed-clients", "change-policy")
        with pytest.raises(PolicyViolation):
            check(group.view, group.commit(who, reinit=listed.replaced_in(group.extensions)))


def test_the_list_stays_in_the_context() -> None:
    """It is there while it is empty, so that nobody comes in who does not list its type (RFC 9420 13.4)."""
    with pytest.raises(PolicyViolation) as refused:
        check(ROOM.view, ROOM.commit(A1, extensions=(POLICY.extension(),)))
    assert refused.value.rule == "removed-clients"
    bad = (POLICY.extension(), Extension(RemovedClients.TYPE, b"?"))
    with pytest.raises(PolicyViolation) as refused:
        check(ROOM.view, ROOM.commit(A1, extensions=bad))
    assert refused.value.rule == "removed-clients"


def test_a_group_without_the_list() -> None:
    """One of version 0.1: it remembers nobody, so nobody comes in who might have been removed."""
    old = OPEN.without_list()
    assert rule_of(old, ask(C1, VOUCHED)) == "add"
    assert rule_of(old, join(VOUCHED)) == "external-join"
    assert rule_of(old, join(ERIN_NEW)) == "external-join"
    assert rule_of(old, returns(RETURN)) is None
    removal = commit(A1, remove(A1, B2))
    assert rule_of(old, removal) is None
    check(old.view, removal)
    # any Commit may begin the list, but not with entries of its own
    listed = judge(old.view, removal).removed
    assert check(old.view, commit(B1, extensions=RemovedClients().replaced_in(old.extensions)))
    assert check(old.view, commit(A1, remove(A1, B2), extensions=listed.replaced_in(old.extensions)))
    for wrong, effects in ((LIST, commit(B1)), (RemovedClients(), removal)):
        extensions = commit(A1, extensions=wrong.replaced_in(old.extensions)).extensions
        with pytest.raises(PolicyViolation):
            check(old.view, replace(effects, extensions=extensions))


# --- the other cells: (what, settings, Commit, rule broken) ----------------------------------------

ALL: dict[str, object] = {
    "may_add": MEMBERS,
    "may_remove": MEMBERS,
    "may_change_policy": MEMBERS,
    "external_joins": ANYBODY,
}
MALLORY = as_bob()
PQ: dict[str, object] = {"post_quantum": True}
TALK = {"conversation": True, "administrators": ("alice@x", "bob@x")}


CELLS: list[tuple[str, dict[str, object], Effects, str | None]] = [
    # what every member may
    ("empty Commit", NOT_OWN, commit(B1), None),
    ("path", NOT_OWN, commit(B1, update(B1, BOB.leaf(1))), None),
    ("another's Update", NOT_OWN, commit(B1, update(C1, CAROL.leaf(1)), update(B1, BOB.leaf(1))), None),
    ("a new signature key by an Update", NOT_OWN, commit(C1, update(B1, Client("bob@x/1", "new").leaf())), None),
    ("path to another device", ALL, commit(B1, update(B1, Client("bob@x/9").leaf())), "same-client"),
    ("Update to another account", ALL, commit(A1, update(B1, ALICE3.leaf())), "same-client"),
    ("Update to another member's name", ALL, commit(A1, update(B1, replace(
        BOB.leaf(1), credential=ALICE.identity.credential()))), "same-client"),
    # own devices
    ("own device removed", CLOSED, commit(B1, remove(B1, B2)), None),
    ("own device removed by another's hand", CLOSED, commit(C1, remove(B1, B2)), None),
    ("own device removed, rule off", NOT_OWN, commit(B1, remove(B1, B2)), "remove"),
    ("another's device removed", CLOSED, commit(C1, remove(C1, B2)), "remove"),
    ("two of a stranger's devices, one making the other a member's", CLOSED,
     commit(B1, add(ASKS, ERIN.leaf()), add(ASKS, ERIN2.vouched(ERIN), 7)), "add"),
    ("moving to a new device", {}, commit(C1, remove(B1, B2), remove(B2, B1), add(B2, BOB3.leaf())), "add"),
    ("evicted and added by an administrator", {},
     commit(A1, remove(A1, B1), remove(A1, B2), add(A1, BOB3.leaf())), None),
    # one leaf for a client
    ("client that is there", ALL, commit(A1, add(A1, BOB.leaf(1))), "one-leaf"),
    ("client twice", ALL, commit(A1, add(A1, ERIN.leaf()), add(A1, ERIN.leaf(1), 7)), "one-leaf"),
    ("external join as a client that is there", ALL, join(BOB.returning()), "one-leaf"),
    # leaving
    ("leaving", NOT_OWN, commit(B1, remove(C1, C1)), None),
    ("an administrator leaving", NOT_OWN, commit(B1, remove(D1, D1)), None),
    ("the last client of the last administrator leaving", NOT_OWN | {"administrators": ("dora@x",)},
     commit(B1, remove(D1, D1)), None),
    # removing administrators
    ("administrator by administrator", {}, commit(A1, remove(A1, D1)), None),
    ("administrator by a member with the right to remove", ALL, commit(B1, remove(B1, D1)), "remove-administrator"),
    ("administrator by a member, committed by an administrator", ALL, commit(A1, remove(B1, D1)),
     "remove-administrator"),
    ("administrator by a member without", {}, commit(B1, remove(B1, D1)), "remove"),
    ("administrator by administrator, when nobody may", {"may_remove": NOBODY}, commit(A1, remove(A1, D1)), "remove"),
    ("administrator's device by its other one", CLOSED, commit(A1, remove(A1, A2)), None),
    # external Commits
    ("joiner removes another device of its own", ALL, join(VOUCHED, remove(JOINS, B1)), "external-remove"),
    ("joiner removes somebody else", ALL, join(ERIN_NEW, remove(JOINS, B1)), "external-remove"),
    ("one that returns removes another as well", ALL,
     commit(JOINS, remove(JOINS, B1), remove(JOINS, C1), add(JOINS, RETURN, B1)), "external-remove"),
    ("an administrator's new device removes somebody", ALL, join(ALICE3.vouched(ALICE), remove(JOINS, B1)),
     "external-remove"),
    ("joiner commits that somebody leaves", {}, join(CAROL2.vouched(CAROL), remove(B1, B1)), None),
    ("an external sender's wish in a joiner's hands", ALL, join(ERIN_NEW, remove(EXTERNAL, B1)), "remove"),
    # the new extensions
    ("no policy", ALL, commit(A1, extensions=()), "policy-missing"),
    ("unreadable policy", ALL, commit(A1, extensions=(Extension(RoomPolicy.TYPE, b"?"),)), "policy-missing"),
    ("policy with something behind it", ALL,
     commit(A1, extensions=(Extension(RoomPolicy.TYPE, POLICY.encode() + b"\0"),)), "policy-missing"),
    ("policy of a newer version", ALL,
     commit(A1, extensions=(*policy(), Extension(RoomPolicy.TYPE + 1, b""))), "policy-missing"),
    ("another room", ALL, commit(A1, extensions=policy(room="other@rooms.x")), "room"),
    ("another administrator", {}, commit(A1, extensions=policy(administrators=("bob@x",))), None),
    ("nobody here as administrator", ALL, commit(A1, extensions=policy(administrators=("erin@x",))),
     "administrator"),
    ("an administrator who arrives", {},
     commit(A1, add(A1, ERIN.leaf()), extensions=policy(administrators=("erin@x",))), None),
    ("the only administrator left out of those who stay", {},
     commit(A1, remove(D1, D1), extensions=policy(administrators=("dora@x",))), "administrator"),
    ("self-made administrator", {}, commit(B1, extensions=policy(administrators=("bob@x",))), "change-policy"),
    ("rights come with the next epoch", {},
     commit(A1, add(B1, ERIN.leaf()), extensions=policy(may_add=MEMBERS)), "add"),
    ("rights go with the next epoch", {},
     commit(A1, add(A1, ERIN.leaf()), extensions=policy(may_add=NOBODY)), None),
    ("ReInit without policy", ALL, commit(A1, reinit=()), "policy-missing"),
    ("ReInit to another room", ALL, commit(A1, reinit=policy(room="other@rooms.x")), "room"),
    ("ReInit without administrator", ALL, commit(A1, reinit=policy(administrators=("erin@x",))), "administrator"),
    # conversations
    ("a third account in a conversation", TALK, commit(A1, add(A1, ERIN.leaf())), "conversation"),
    ("a third account by whom it might come", TALK | ALL, commit(A1, add(B1, ERIN.leaf())), "conversation"),
    ("another device in a conversation", TALK, commit(A1, add(A1, BOB3.leaf())), None),
    ("a stranger who comes into a conversation", TALK | {"external_joins": ANYBODY}, join(ERIN_NEW), "conversation"),
    ("a conversation with other rules", TALK, commit(A1, extensions=policy(**TALK, max_leaf_age=9)), None),
    ("a conversation that becomes a room", TALK, commit(A1, extensions=policy()), "conversation"),
    ("a room that becomes a conversation", {}, commit(A1, extensions=policy(conversation=True)), "conversation"),
    ("a conversation that becomes one of others", TALK,
     commit(A1, extensions=policy(conversation=True, administrators=("alice@x", "erin@x"))), "conversation"),
    ("a ReInit that makes a room of a conversation", TALK, commit(A1, reinit=policy()), "conversation"),
    # X.509
    ("a post-quantum suite demanded of a group that has none", {}, commit(A1, extensions=policy(post_quantum=True)),
     "post-quantum"),
    ("... and kept by other rules", PQ, commit(A1, extensions=policy(post_quantum=True, max_leaf_age=9)),
     "post-quantum"),
    ("a ReInit to a post-quantum suite that demands one from then on", {},
     commit(A1, reinit=policy(post_quantum=True), suite=0xF001), None),
    ("a ReInit to a suite that nobody here knows, and that is post-quantum", PQ,
     commit(A1, reinit=policy(post_quantum=True), suite=0xF003), None),
    ("a ReInit to another suite than is demanded", PQ, commit(A1, reinit=policy(post_quantum=True)), "post-quantum"),
    ("... which drops the demand at once", PQ, commit(A1, reinit=policy()), "post-quantum"),
    ("basic credential added", {"x509_only": True}, commit(A1, add(A1, ERIN.leaf())), "x509"),
    ("basic credential kept", {"x509_only": True}, commit(B1, update(B1, BOB.leaf(1))), "x509"),
    ("basic credential joins", {"x509_only": True} | ALL, join(ERIN_NEW), "x509"),
    ("nobody's credential arrives", {"x509_only": True}, commit(A1, remove(A1, B1)), None),
    ("X.509 from now on", {}, commit(A1, update(A1, ALICE.leaf(1)), extensions=policy(x509_only=True)), "x509"),
    ("X.509 no more", {"x509_only": True}, commit(A1, update(A1, ALICE.leaf(1)), extensions=policy()), None),
    # bounds
    ("too many clients of an account", {"max_devices": 2}, commit(A1, add(A1, BOB3.leaf())), "too-many"),
    ("as many clients of an account as may be", {"max_devices": 3}, commit(A1, add(A1, BOB3.leaf())), None),
    ("one in place of another, where there are too many", {"max_devices": 1},
     commit(A1, remove(A1, B1), add(A1, BOB3.leaf(), B1)), None),
    ("too many members", {"max_members": 6}, commit(A1, add(A1, ERIN.leaf())), "too-many"),
    ("as many members as may be", {"max_members": 7}, commit(A1, add(A1, ERIN.leaf())), None),
    ("a return where there are too many", {"max_members": 1, "max_devices": 1}, returns(RETURN), None),
    ("a large leaf", {}, commit(A1, add(A1, replace(
        ERIN.leaf(), extensions=(Extension(0xF00D, bytes(5000)),)))), "leaf-size"),
    ("a large leaf by an Update", {}, commit(A1, update(B1, replace(
        BOB.leaf(1), extensions=(Extension(0xF00D, bytes(5000)),)))), "leaf-size"),
    ("a leaf of a bearable size", {}, commit(A1, add(A1, replace(
        ERIN.leaf(), extensions=(Extension(0xF00D, bytes(4000)),)))), None),
    # extensions of ours
    ("an unreadable proof", {}, commit(A1, add(A1, replace(
        ERIN.leaf(), extensions=(Extension(ReturnProof.TYPE, b"?"),)))), "leaf-extensions"),
    ("unreadable vouchers", {}, commit(A1, add(A1, replace(
        ERIN.leaf(), extensions=(Extension(DeviceVouchers.TYPE, b""),)))), "leaf-extensions"),
    ("a mark with something in it", {}, commit(JOINS, add(JOINS, replace(
        ERIN.leaf(), extensions=(Extension(Newcomer.TYPE, b"x"),)))), "leaf-extensions"),
    ("a return key that is none", {}, commit(B1, update(B1, with_content(BOB.leaf(1), ReturnKey(b"x")))),
     "leaf-extensions"),
    # what attackers combine
    ("a made-up device of the administrator's", ALL, join(ALICE3.leaf()), "external-join"),
    ("... which removes the real one", ALL, join(ALICE3.leaf(), remove(JOINS, A1)), "external-join"),
    ("... as a newcomer", ALL, join(ALICE3.leaf(0, NEWCOMER)), "external-join"),
    ("... in place of the real one", ALL,
     commit(JOINS, remove(JOINS, A1), add(JOINS, Client("alice@x/1", "mallory's").returning(), A1)), "external-join"),
    ("... by asking, in place of the real one", {},
     commit(B1, remove(B1, A1), add(ASKS, Client("alice@x/1", "mallory's").returning(), A1)), "add"),
    ("a member adds itself in the administrator's name", {}, commit(B1, add(B1, ALICE3.leaf())), "add"),
    ("... and takes the real one out", {},
     commit(B1, remove(B1, A1), add(B1, Client("alice@x/1", "mallory's").leaf(), A1)), "add"),
    ("an external Commit that replaces the policy", ALL,
     commit(JOINS, add(JOINS, ALICE3.leaf()), extensions=policy(administrators=("erin@x",))), "external-join"),
    ("one that returns replaces the policy", ALL,
     commit(JOINS, remove(JOINS, A1), add(JOINS, ALICE.returning(), A1),
            extensions=policy(administrators=("bob@x",))), "change-policy"),
    ("external Commit, Remove of the real client and another policy at once", ALL,
     commit(JOINS, remove(JOINS, A1), add(JOINS, Client("alice@x/1", "mallory's").leaf(), A1),
            extensions=policy(administrators=("alice@x",), may_add=MEMBERS)), "external-join"),
    ("a policy that would make the member an administrator, beside a removal that needs one", {},
     commit(B1, remove(B1, A1), extensions=policy(administrators=("bob@x",))), "remove"),
    ("a removal by name of one's own account only", {}, commit(B1, remove(B1, C1)), "remove"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings_", "effects", "rule"), [cell[1:] for cell in CELLS], ids=[cell[0] for cell in CELLS]
)
def test_cell(settings_: dict[str, object], effects: Effects, rule: str | None) -> None:
    assert rule_of(ROOM.with_policy(**settings_), effects) == rule


def test_each_rule_of_the_documented_table_is_tested() -> None:
    documented = set(re.findall(r"  ``([a-z0-9-]+)``$", sys.modules[check.__module__].__doc__ or "", re.MULTILINE))
    elsewhere = {"newcomer", "removed-clients", "external-join", "psk"}  # by the tests above
    assert documented == {rule for *_, rule in CELLS if rule is not None} | elsewhere


def test_an_evicted_account_does_not_bring_itself_back() -> None:
    out = (remove(A1, B1), remove(A1, B2))
    for back in (add(B1, BOB3.leaf()), add(ASKS, VOUCHED)):
        assert rule_of(ROOM, commit(C1, *out, back)) == "add"
    after = ROOM.without(B1, B2).with_removed(judge(ROOM.view, commit(A1, *out)).removed)
    for leaf in (VOUCHED, BOB.returning(), BOB.leaf(1, NEWCOMER), BOB3.leaf(0, NEWCOMER)):
        assert rule_of(after, join(leaf)) == "external-join"
        assert rule_of(after.with_policy(external_joins=ANYBODY), join(leaf)) == "external-join"
        assert rule_of(after, ask(C1, leaf)) == "add"


def test_a_stolen_older_state_does_not_come_back_after_healing() -> None:
    healed = ROOM.with_leaves({B1: BOB.leaf(1)})
    stolen = BOB.returning(9, old=0)
    for group, rule in ((ROOM, None), (healed, "external-join")):
        effects = group.commit(JOINS, group.remove(JOINS, B1), group.add(JOINS, stolen, B1))
        assert rule_of(group, effects) == rule
    # and a return itself makes the proof useless
    back = ROOM.with_leaves({B1: RETURN})
    again = back.commit(JOINS, back.remove(JOINS, B1), back.add(JOINS, RETURN, B1))
    assert rule_of(back, again) == "external-join"


def test_too_many_changes() -> None:
    clients = [Client(f"m{number}@x/1") for number in range(1030)]
    leaf = clients[0].leaf()
    changes = [
        add(A1, replace(leaf, credential=client.identity.credential()), FREE + number)
        for number, client in enumerate(clients)
    ]
    assert rule_of(ROOM, commit(A1, *changes[:1024])) is None
    assert rule_of(ROOM, commit(A1, *changes[:1025])) == "too-many"


def test_the_offender_is_named() -> None:
    with pytest.raises(PolicyViolation) as refused:
        check(ROOM.view, commit(A1, remove(B1, C1)))
    assert refused.value.offender == "bob@x/1"  # who wished it, not who committed it
    assert "carol@x/1" in str(refused.value)
    assert refused.value.section.endswith("remove")
    with pytest.raises(PolicyViolation) as refused:
        check(ROOM.view, join(ERIN_NEW))
    assert refused.value.offender == "erin@x/1"
    with pytest.raises(PolicyViolation) as refused:
        check(ROOM.view, ask(B1, ERIN.leaf()))
    assert refused.value.offender == "bob@x/1"


# --- X.509 ----------------------------------------------------------------------------------------


def test_x509_credentials_that_name_nobody() -> None:
    group = ROOM.with_policy(x509_only=True)
    leaf = replace(ERIN.leaf(), credential=X509Credential((Certificate(b""),)))
    with pytest.raises(InvalidError, match="cannot be read"):
        check(group.view, commit(A1, add(A1, leaf)))


def certified(client: Client, *chain: Authority) -> LeafNode:
    """A leaf with a certificate by the first of these authorities, and the certificates of all of them."""
    made = chain[0].device(client.identity, device_key(CipherSuite.get(1)))
    return replace(client.leaf(), credential=credential(made, *(each.certificate for each in chain)))


@pytest.mark.parametrize("x509_only", [False, True])
def test_x509_credentials_are_welcome(x509_only: bool) -> None:
    """Without roots in the policy the Authentication Service says whether the authority is to be believed."""
    root = Authority.root()
    group = ROOM.with_policy(x509_only=x509_only)
    assert rule_of(group, commit(A1, add(A1, certified(ERIN, root)))) is None
    assert rule_of(group, commit(A1, update(A1, certified(ALICE, root)))) is None
    assert rule_of(group, commit(A1, update(A1, certified(ERIN, root)))) == "same-client"


def test_a_chain_leads_to_a_root_of_the_policy() -> None:
    root, other = Authority.root(), Authority.root("other")
    middle = root.below("middle")
    group = ROOM.with_policy(x509_only=True, roots=(fingerprint(root), fingerprint(Authority.root("third"))))

    def rule(leaf: LeafNode) -> str | None:
        return rule_of(group, commit(A1, add(A1, leaf)))

    assert rule(certified(ERIN, root)) is None
    assert rule(certified(ERIN, middle, root)) is None
    assert rule(certified(ERIN, middle)) == "x509"  # the root has to be there: all members must see it alike
    assert rule(certified(ERIN, other)) == "x509"
    assert rule(certified(ERIN, middle, other, root)) == "x509"
    assert rule(ERIN.leaf()) == "x509"
    # a certificate of the wrong authority with the right one behind it
    forged = certified(ERIN, other).credential
    assert isinstance(forged, X509Credential)
    chain = X509Credential((forged.certificates[0], *credential(root.certificate).certificates))
    assert rule(replace(ERIN.leaf(), credential=chain)) == "x509"
    # a device that certifies others
    no_authority = root.below("device", ca=False)
    assert rule(certified(ERIN, no_authority, root)) == "x509"
    # roots without x509_only say nothing
    assert rule_of(group.with_policy(x509_only=False), commit(A1, add(A1, ERIN.leaf()))) is None


def fingerprint(authority: Authority) -> bytes:
    return authority.certificate.fingerprint(hashes.SHA256())


# --- the last administrator -------------------------------------------------------------------


def test_without_administrators_every_member_is_one() -> None:
    group = ORPHANED
    assert rule_of(group, group.commit(B1, group.add(B1, ERIN.leaf()))) is None
    assert rule_of(group, group.commit(B1, group.remove(B1, C1))) is None
    roster = group.roster
    assert not POLICY.administrators_in(roster)
    assert POLICY.is_administrator("carol@x", roster)
    assert not POLICY.is_administrator("erin@x", roster)
    # an administrator's name does not bring one back: its device needs an Add
    for joins, leaf in product((DEVICES, ANYBODY), (Client("dora@x/9").leaf(), Client("dora@x/9").leaf(0, NEWCOMER))):
        assert rule_of(group.with_policy(external_joins=joins), join(leaf)) == "external-join"
    back = judge(group.view, group.commit(B1, group.add(B1, DORA.leaf(1)))).roster
    assert not POLICY.is_administrator("carol@x", back)


def test_a_newcomer_in_an_administrators_place_is_none() -> None:
    """All administrators have left, and somebody has let herself in: she is no administrator for lack of others."""
    group = WITH_NEWCOMER.without(A1, A2, D1)
    assert rule_of(group, group.commit(FREE, group.remove(FREE, B1))) == "remove"
    assert rule_of(group, group.commit(B1, group.remove(B1, C1))) is None


def test_without_administrators_a_member_can_make_one() -> None:
    group, chosen = ORPHANED, policy(administrators=("carol@x",))
    assert rule_of(group, group.commit(B1, extensions=chosen)) is None
    assert rule_of(group, group.commit(B1, extensions=policy(may_add=MEMBERS))) == "administrator"
    assert rule_of(group.with_policy(administrators=("carol@x",)), group.commit(B1, remove(B1, C1))) == "remove"
    # to keep the list of removed clients is no change of the policy
    assert rule_of(group, group.commit(B1, group.remove(B1, C1))) is None


def test_without_administrators_what_nobody_may_stays_so() -> None:
    group = ORPHANED.with_policy(may_change_policy=NOBODY, may_remove=NOBODY)
    assert rule_of(group, group.commit(B1, extensions=NEW_POLICY)) == "change-policy"
    assert rule_of(group, group.commit(B1, group.remove(B1, C1))) == "remove"


def test_the_administrator_who_leaves_is_one_until_the_commit() -> None:
    group = ROOM.with_policy(administrators=("dora@x",))
    assert rule_of(group, commit(B1, remove(D1, D1), remove(B1, C1))) == "remove"
    assert rule_of(group, commit(B1, remove(D1, D1), remove(D1, C1))) is None


# --- whatever somebody without rights combines ------------------------------------------------------

VICTIMS = [ALICE, ALICE2, BOB, BOB2, DORA]
"""Carol is the attacker's: a member without rights, who has seen all that was public, an earlier state of bob's
included."""

NAMES_TO_CLAIM = ["alice@x/1", "alice@x/3", "bob@x/1", "bob@x/3", "dora@x/1", "dora@x/7", "carol@x/2", "erin@x/1"]
PUBLIC_PROOFS: list[object] = [
    None,
    NEWCOMER,
    ReturnProof.found_in(BOB.returning(1, old=0, group_id=b"another group").extensions),
    ReturnProof.found_in(BOB.returning(3, old=2).extensions),  # bob has healed since
    ReturnProof.found_in(CAROL.returning().extensions),
    DeviceVouchers((CAROL.vouch_for(CAROL2),)),
    DeviceVouchers((BOB.vouch_for(BOB3),)),
    DeviceVouchers((replace(CAROL.vouch_for(CAROL2), issuer=b"alice@x/1"),)),
]


@st.composite
def hostile_commits(draw: st.DrawFn) -> tuple[Group, Effects]:
    group = draw(st.sampled_from([ROOM, OPEN, ROOM.with_policy(external_joins=NEVER), ORPHANED.with_policy(**CLOSED)]))
    by = draw(st.sampled_from(list[Who]([C1, JOINS])))
    changes: list[MemberChange] = []
    for number in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(NAMES_TO_CLAIM))
        leaf = Client(name, key="mallory's").leaf(draw(st.integers(0, 1)))
        for content in draw(st.lists(st.sampled_from(PUBLIC_PROOFS), max_size=2)):
            if content is not None:
                leaf = with_content(leaf, content)  # type: ignore[arg-type]
        proposer = JOINS if by == JOINS else draw(st.sampled_from(list[Who]([C1, ASKS])))
        changes.append(group.add(proposer, leaf, 20 + number))
        index = group.roster.leaf_of(Client(name).identity)
        known = {change.index for change in changes}
        if index is not None and index != C1 and index not in known and draw(st.booleans()):
            changes.append(group.remove(by, index))
    for index in draw(st.sets(st.sampled_from(sorted(set(group.leaves) - {C1})), max_size=2)):
        if not any(change.index == index for change in changes):
            changes.append(group.remove(by, index))
    extensions = draw(st.sampled_from([None, policy(administrators=("carol@x",)), policy(may_add=MEMBERS)]))
    return group, group.commit(by, *changes, extensions=extensions)


@settings(deadline=None, max_examples=400)
@given(hostile_commits())
def test_nobody_gains_a_seat_or_a_right_by_a_name(case: tuple[Group, Effects]) -> None:
    group, effects = case
    try:
        verdict = judge(group.view, effects)
    except InvalidError:
        return
    for arrival in verdict.arrivals:
        if arrival.ground is Ground.OWN_DEVICE:
            assert arrival.client.account == "carol@x"
        else:
            assert (arrival.ground, arrival.client.account) == (Ground.NEWCOMER, "erin@x")
    assert all(group.roster.at(change.index).account == "carol@x" for change in effects.removed)
    assert effects.extensions is None
