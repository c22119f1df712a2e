"""The table of :mod:`slixmpp_mls.policy.room_policy`, a test for each cell.

The group: alice and dora are administrators, bob and carol members; erin is outside.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, MalformedError, PolicyTooNew, PolicyViolation
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_effects import ChangeKind, Effects, ExtensionsChange, MemberChange
from slixmpp_mls.mls.structures.credential import Certificate, X509Credential
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import (
    AnySender,
    ExternalSenderIndex,
    MemberSender,
    NewMemberCommitSender,
    NewMemberProposalSender,
)
from slixmpp_mls.mls.structures.leaf_node import Capabilities, LeafNode, UpdateSource
from slixmpp_mls.mls.structures.proposals import ReInit
from slixmpp_mls.policy import MAX_ADMINISTRATORS, POLICY_TYPES, ExternalJoins, Right, RoomPolicy
from slixmpp_mls.policy import check_by_name as module
from slixmpp_mls.policy.check_by_name import check
from slixmpp_mls.policy.roster import Roster

from ..x509 import Authority, credential, device_key, leaf_with

NOBODY, ADMINISTRATORS, MEMBERS = Right
NEVER, DEVICES, ANYBODY = ExternalJoins

A1, A2, B1, B2, C1, D1 = range(6)
GROUP = dict(enumerate(["alice@x/1", "alice@x/2", "bob@x/1", "bob@x/2", "carol@x/1", "dora@x/1"]))
POLICY = RoomPolicy("coven@rooms.x", ("alice@x", "dora@x"))
ASKS, JOINS, EXTERNAL = NewMemberProposalSender(), NewMemberCommitSender(), ExternalSenderIndex(0)
FREE = 6

Who = int | AnySender  # a leaf, or somebody without one


def sender(who: Who) -> AnySender:
    return MemberSender(who) if isinstance(who, int) else who


def leaf(name: str) -> LeafNode:
    client = ClientIdentity(*name.split("/"))
    return LeafNode(b"", b"", client.credential(), Capabilities((), ()), UpdateSource(), ())


def with_x509(before: LeafNode) -> LeafNode:
    return replace(before, credential=X509Credential((Certificate(b""),)))


def roster_of(group: dict[int, str]) -> Roster:
    return Roster.of((index, leaf(name)) for index, name in group.items())


ROSTER = roster_of(GROUP)


def add(by: Who, name: str, index: int = FREE) -> MemberChange:
    return MemberChange(ChangeKind.ADDED, sender(by), index, None, leaf(name))


def remove(by: Who, index: int) -> MemberChange:
    return MemberChange(ChangeKind.REMOVED, sender(by), index, leaf(GROUP[index]), None)


def update(index: int, name: str | None = None) -> MemberChange:
    after = leaf(name or GROUP[index])
    return MemberChange(ChangeKind.UPDATED, MemberSender(index), index, leaf(GROUP[index]), after)


def commit(
    by: Who,
    *changes: MemberChange,
    extensions: tuple[Extension, ...] | None = None,
    proposer: Who | None = None,
    reinit: tuple[Extension, ...] | None = None,
) -> Effects:
    """A Commit; `extensions` are proposed by `proposer`, or the committer."""
    change = None
    if extensions is not None:
        change = ExtensionsChange(sender(by if proposer is None else proposer), (POLICY.extension(),), extensions)
    return Effects(
        committer=sender(by),
        committer_index=by if isinstance(by, int) else FREE,
        changes=changes,
        extensions=change,
        psks=(),
        reinit=None if reinit is None else ReInit(b"new", 1, 1, reinit),
    )


def verdict(effects: Effects, policy: RoomPolicy = POLICY, roster: Roster = ROSTER) -> str | None:
    """The rule broken, if any; otherwise the new roster is the old one with the changes."""
    try:
        after = check(policy, effects, roster)
    except PolicyViolation as violation:
        return violation.rule
    assert after == roster.after(effects)
    return None


def policy(**settings: object) -> RoomPolicy:
    return replace(POLICY, **settings)  # type: ignore[arg-type]


# --- rights: every right, for every kind of account -------------------------------------------

NEW_POLICY = (replace(POLICY, own_devices=False).extension(),)
# who proposes, what the three rights make of it
MAY = [(A1, (False, True, True)), (D1, (False, True, True)), (B1, (False, False, True))]
RIGHTS = [(who, right, verdicts[right]) for (who, verdicts), right in product(MAY, Right)]


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_adding(who: int, right: Right, allowed: bool) -> None:
    expected = None if allowed else "add"
    rules = policy(may_add=right)
    assert verdict(commit(who, add(who, "erin@x/1")), rules) == expected
    assert verdict(commit(C1, add(who, "erin@x/1")), rules) == expected  # committed by somebody without the right
    assert verdict(commit(who, add(ASKS, "erin@x/1")), rules) == expected  # her wish, the committer's right
    assert verdict(commit(who, add(EXTERNAL, "erin@x/1")), rules) == expected


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_removing(who: int, right: Right, allowed: bool) -> None:
    expected = None if allowed else "remove"
    rules = policy(may_remove=right)
    assert verdict(commit(who, remove(who, C1)), rules) == expected
    assert verdict(commit(B2, remove(who, C1)), rules) == expected
    assert verdict(commit(who, remove(EXTERNAL, C1)), rules) == expected


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_changing_policy(who: int, right: Right, allowed: bool) -> None:
    expected = None if allowed else "change-policy"
    rules = policy(may_change_policy=right)
    assert verdict(commit(who, extensions=NEW_POLICY), rules) == expected
    assert verdict(commit(C1, extensions=NEW_POLICY, proposer=who), rules) == expected
    assert verdict(commit(who, extensions=NEW_POLICY, proposer=EXTERNAL), rules) == expected
    # other extensions are as much the group's as the policy is
    more = (POLICY.extension(), Extension(0xF001, b""))
    assert verdict(commit(who, extensions=more), rules) == expected
    assert verdict(commit(who, reinit=NEW_POLICY), rules) == expected


@pytest.mark.parametrize(("who", "right", "allowed"), RIGHTS)
def test_changing_the_subject(who: int, right: Right, allowed: bool) -> None:
    rules = policy(may_change_subject=right)
    assert rules.permits(rules.may_change_subject, ROSTER.at(who).account, ROSTER) is allowed


@pytest.mark.parametrize("right", Right)
def test_who_is_no_member_has_no_right(right: Right) -> None:
    assert not POLICY.permits(right, "erin@x", ROSTER)
    assert not policy(administrators=("alice@x", "erin@x")).permits(right, "erin@x", ROSTER)


# --- the other cells: (what, settings, Commit, rule broken) ----------------------------------------

Settings = dict[str, Any]
OWN: Settings = {"own_devices": True, "may_add": NOBODY, "may_remove": NOBODY}
NOT_OWN: Settings = OWN | {"own_devices": False}
ALL: Settings = {
    "may_add": MEMBERS,
    "may_remove": MEMBERS,
    "may_change_policy": MEMBERS,
    "external_joins": ANYBODY,
}
FORBIDDEN: Settings = {"may_add": NOBODY, "may_remove": NOBODY, "may_change_policy": NOBODY, "own_devices": False}

CELLS: list[tuple[str, Settings, Effects, str | None]] = [
    # what every member may
    ("empty Commit", FORBIDDEN, commit(B1), None),
    ("path", FORBIDDEN, commit(B1, update(B1)), None),
    ("another's Update", FORBIDDEN, commit(B1, update(C1), update(B1)), None),
    ("path to another device", ALL, commit(B1, update(B1, "bob@x/9")), "same-client"),
    ("Update to another account", ALL, commit(A1, update(B1, "alice@x/9")), "same-client"),
    # own devices
    ("own device added", OWN, commit(B1, add(B1, "bob@x/3")), None),
    ("own device added by another's hand", OWN, commit(C1, add(B1, "bob@x/3")), None),
    ("own device that asks", OWN, commit(C1, add(ASKS, "bob@x/3")), None),
    ("own device, rule off", NOT_OWN, commit(B1, add(B1, "bob@x/3")), "add"),
    ("own device that asks, rule off", NOT_OWN, commit(C1, add(ASKS, "bob@x/3")), "add"),
    ("another's device", OWN, commit(C1, add(C1, "bob@x/3")), "add"),
    ("stranger's device that asks", OWN, commit(B1, add(ASKS, "erin@x/1")), "add"),
    ("two of a stranger's devices, one making the other a member's", OWN,
     commit(B1, add(ASKS, "erin@x/1"), add(ASKS, "erin@x/2", 7)), "add"),
    ("own device removed", OWN, commit(B1, remove(B1, B2)), None),
    ("own device removed by another's hand", OWN, commit(C1, remove(B1, B2)), None),
    ("own device removed, rule off", NOT_OWN, commit(B1, remove(B1, B2)), "remove"),
    ("another's device removed", OWN, commit(C1, remove(C1, B2)), "remove"),
    # evicted accounts do not come back by way of their devices
    ("evicted, with a new device proposed before", {},
     commit(C1, remove(A1, B1), remove(A1, B2), add(B1, "bob@x/3")), "add"),
    ("evicted, with a new device that asks", {},
     commit(C1, remove(A1, B1), remove(A1, B2), add(ASKS, "bob@x/3")), "add"),
    ("evicted but for its own removal of a device", {},
     commit(C1, remove(B1, B1), remove(A1, B2), add(B1, "bob@x/3")), "add"),
    ("one of two devices removed by an administrator", {}, commit(C1, remove(A1, B1), add(B2, "bob@x/3")), None),
    ("moving to a new device", {}, commit(C1, remove(B1, B2), remove(B2, B1), add(B2, "bob@x/3")), None),
    ("evicted and added by an administrator", {},
     commit(A1, remove(A1, B1), remove(A1, B2), add(A1, "bob@x/3")), None),
    # one leaf for a client
    ("client that is there", ALL, commit(A1, add(A1, "bob@x/1")), "one-leaf"),
    ("client twice", ALL, commit(A1, add(A1, "erin@x/1"), add(A1, "erin@x/1", 7)), "one-leaf"),
    ("external join as a client that is there", ALL, commit(JOINS, add(JOINS, "bob@x/1")), "one-leaf"),
    # leaving
    ("leaving", FORBIDDEN, commit(B1, remove(C1, C1)), None),
    ("an administrator leaving", FORBIDDEN, commit(B1, remove(D1, D1)), None),
    ("the last client of the last administrator leaving", FORBIDDEN | {"administrators": ("dora@x",)},
     commit(B1, remove(D1, D1)), None),
    # removing administrators
    ("administrator by administrator", {}, commit(A1, remove(A1, D1)), None),
    ("administrator by a member with the right to remove", ALL, commit(B1, remove(B1, D1)), "remove-administrator"),
    ("administrator by a member, committed by an administrator", ALL, commit(A1, remove(B1, D1)),
     "remove-administrator"),
    ("administrator by a member without", {}, commit(B1, remove(B1, D1)), "remove"),
    ("administrator by administrator, when nobody may", {"may_remove": NOBODY}, commit(A1, remove(A1, D1)), "remove"),
    ("administrator's device by its other one", OWN, commit(A1, remove(A1, A2)), None),
    # replacing
    ("replaced on its own wish", OWN, commit(C1, remove(C1, B1), add(ASKS, "bob@x/1", B1)), None),
    ("last client replaced on its own wish", OWN, commit(B1, remove(B1, C1), add(ASKS, "carol@x/1", C1)), None),
    ("administrator replaced on its own wish", OWN, commit(B1, remove(B1, D1), add(ASKS, "dora@x/1", D1)), None),
    ("replaced, own devices off", NOT_OWN, commit(C1, remove(C1, B1), add(ASKS, "bob@x/1", B1)), "add"),
    ("replaced by who may add, and not remove", NOT_OWN | {"may_add": MEMBERS},
     commit(C1, remove(C1, B1), add(ASKS, "bob@x/1", B1)), None),
    ("replaced without having asked", OWN, commit(C1, remove(C1, B1), add(C1, "bob@x/1", B1)), "remove"),
    ("replaced by another of its devices", OWN, commit(B1, remove(B1, B2), add(ASKS, "bob@x/2", B2)), None),
    ("another client removed than the one that asks", OWN,
     commit(C1, remove(C1, B1), add(ASKS, "bob@x/3", B1)), "remove"),
    ("a Remove to exclude turned into a replacement", {},
     commit(B1, remove(A1, C1), add(ASKS, "carol@x/1", C1)), "add"),
    ("another member's Remove as a replacement", OWN, commit(C1, remove(B2, D1), add(ASKS, "dora@x/1", D1)), "remove"),
    # external Commits
    ("stranger, never", {"external_joins": NEVER}, commit(JOINS, add(JOINS, "erin@x/1")), "external-join"),
    ("stranger, devices", {"external_joins": DEVICES}, commit(JOINS, add(JOINS, "erin@x/1")), "external-join"),
    ("stranger, anybody", {"external_joins": ANYBODY}, commit(JOINS, add(JOINS, "erin@x/1")), None),
    ("device, never", {"external_joins": NEVER}, commit(JOINS, add(JOINS, "bob@x/3")), "external-join"),
    ("device, devices", {"external_joins": DEVICES} | NOT_OWN, commit(JOINS, add(JOINS, "bob@x/3")), None),
    ("device, anybody", {"external_joins": ANYBODY} | NOT_OWN, commit(JOINS, add(JOINS, "bob@x/3")), None),
    ("resync, never", {"external_joins": NEVER},
     commit(JOINS, remove(JOINS, C1), add(JOINS, "carol@x/1", C1)), "external-join"),
    ("resync, devices", {"external_joins": DEVICES} | NOT_OWN,
     commit(JOINS, remove(JOINS, C1), add(JOINS, "carol@x/1", C1)), None),
    ("resync, anybody", {"external_joins": ANYBODY},
     commit(JOINS, remove(JOINS, C1), add(JOINS, "carol@x/1", C1)), None),
    ("joiner removes another device of its own", ALL,
     commit(JOINS, remove(JOINS, B1), add(JOINS, "bob@x/3", B1)), "external-remove"),
    ("joiner removes somebody else", ALL,
     commit(JOINS, remove(JOINS, B1), add(JOINS, "erin@x/1", B1)), "external-remove"),
    ("an administrator's new device removes somebody", ALL,
     commit(JOINS, remove(JOINS, B1), add(JOINS, "alice@x/3", B1)), "external-remove"),
    ("joiner commits that somebody leaves", {},
     commit(JOINS, remove(B1, B1), add(JOINS, "carol@x/2")), None),
    ("an external sender's wish in a joiner's hands", ALL,
     commit(JOINS, remove(EXTERNAL, B1), add(JOINS, "erin@x/1")), "remove"),
    # the new extensions
    ("no policy", ALL, commit(A1, extensions=()), "policy-missing"),
    ("unreadable policy", ALL, commit(A1, extensions=(Extension(RoomPolicy.TYPE, b"?"),)), "policy-missing"),
    ("policy with something behind it", ALL,
     commit(A1, extensions=(Extension(RoomPolicy.TYPE, POLICY.encode() + b"\0"),)), "policy-missing"),
    ("policy of a newer version", ALL,
     commit(A1, extensions=(POLICY.extension(), Extension(RoomPolicy.TYPE + 1, b""))), "policy-missing"),
    ("another room", ALL, commit(A1, extensions=(policy(room="other@rooms.x").extension(),)), "room"),
    ("another administrator", {}, commit(A1, extensions=(policy(administrators=("bob@x",)).extension(),)), None),
    ("nobody here as administrator", ALL,
     commit(A1, extensions=(policy(administrators=("erin@x",)).extension(),)), "administrator"),
    ("an administrator who arrives", {},
     commit(A1, add(A1, "erin@x/1"), extensions=(policy(administrators=("erin@x",)).extension(),)), None),
    ("the only administrator left out of those who stay", {},
     commit(A1, remove(D1, D1), extensions=(policy(administrators=("dora@x",)).extension(),)), "administrator"),
    ("self-made administrator", {}, commit(B1, extensions=(policy(administrators=("bob@x",)).extension(),)),
     "change-policy"),
    ("rights come with the next epoch", {},
     commit(A1, add(B1, "erin@x/1"), extensions=(policy(may_add=MEMBERS).extension(),)), "add"),
    ("rights go with the next epoch", {},
     commit(A1, add(A1, "erin@x/1"), extensions=(policy(may_add=NOBODY).extension(),)), None),
    ("ReInit without policy", ALL, commit(A1, reinit=()), "policy-missing"),
    ("ReInit to another room", ALL, commit(A1, reinit=(policy(room="other@rooms.x").extension(),)), "room"),
    ("ReInit without administrator", ALL, commit(A1, reinit=(policy(administrators=("erin@x",)).extension(),)),
     "administrator"),
    # X.509
    ("basic credential added", {"x509_only": True}, commit(A1, add(A1, "erin@x/1")), "x509"),
    ("basic credential kept", {"x509_only": True}, commit(B1, update(B1)), "x509"),
    ("basic credential joins", {"x509_only": True} | ALL, commit(JOINS, add(JOINS, "erin@x/1")), "x509"),
    ("nobody's credential arrives", {"x509_only": True}, commit(A1, remove(A1, B1)), None),
    ("X.509 from now on", {}, commit(A1, update(A1), extensions=(policy(x509_only=True).extension(),)), "x509"),
    ("X.509 no more", {"x509_only": True}, commit(A1, update(A1), extensions=(POLICY.extension(),)), None),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "effects", "rule"), [cell[1:] for cell in CELLS], ids=[cell[0] for cell in CELLS])
def test_cell(settings: Settings, effects: Effects, rule: str | None) -> None:
    assert verdict(effects, policy(**settings)) == rule


def test_each_rule_of_the_documented_table_is_tested() -> None:
    documented = set(re.findall(r"  ``([a-z0-9-]+)``$", module.__doc__ or "", re.MULTILINE))
    assert documented == {rule for *_, rule in CELLS if rule is not None}


def test_the_offender_is_named() -> None:
    with pytest.raises(PolicyViolation) as refused:
        check(POLICY, commit(A1, remove(B1, C1)), ROSTER)
    assert refused.value.offender == "bob@x/1"  # who wished it, not who committed it
    assert "carol@x/1" in str(refused.value)
    assert refused.value.section.endswith("remove")
    with pytest.raises(PolicyViolation) as refused:
        check(POLICY, commit(JOINS, add(JOINS, "erin@x/1")), ROSTER)
    assert refused.value.offender == "erin@x/1"
    with pytest.raises(PolicyViolation) as refused:
        check(POLICY, commit(B1, add(ASKS, "erin@x/1")), ROSTER)
    assert refused.value.offender == "bob@x/1"


def test_x509_credentials_that_name_nobody() -> None:
    change = replace(add(A1, "erin@x/1"), after=with_x509(leaf("erin@x/1")))
    with pytest.raises(InvalidError, match="can not be read"):
        check(policy(x509_only=True), commit(A1, change), ROSTER)


@pytest.mark.parametrize("x509_only", [False, True])
def test_x509_credentials_are_welcome(x509_only: bool) -> None:
    """Whether the authority is to be believed, the Authentication Service says; the policy asks for the type."""
    root = Authority.root()

    def certified(name: str) -> LeafNode:
        client = ClientIdentity(*name.split("/"))
        return leaf_with(credential(root.device(client, device_key(CipherSuite.get(1)))), b"key")

    added = replace(add(A1, "erin@x/1"), after=certified("erin@x/1"))
    after = check(policy(x509_only=x509_only), commit(A1, added), ROSTER)
    assert str(after.at(FREE)) == "erin@x/1"
    changed = MemberChange(ChangeKind.UPDATED, sender(A1), A1, leaf(GROUP[A1]), certified(GROUP[A1]))
    check(policy(x509_only=x509_only), commit(A1, changed), ROSTER)
    taken = replace(changed, after=certified("erin@x/1"))
    with pytest.raises(PolicyViolation):  # somebody else's certificate
        check(policy(x509_only=x509_only), commit(A1, taken), ROSTER)


# --- the last administrator -------------------------------------------------------------------

ORPHANED = roster_of({index: name for index, name in GROUP.items() if index in (B1, B2, C1)})


def test_without_administrators_every_member_is_one() -> None:
    assert verdict(commit(B1, add(B1, "erin@x/1")), roster=ORPHANED) is None
    assert verdict(commit(B1, remove(B1, C1)), roster=ORPHANED) is None
    assert not POLICY.administrators_in(ORPHANED)
    assert POLICY.is_administrator("carol@x", ORPHANED)
    assert not POLICY.is_administrator("erin@x", ORPHANED)
    # and it ends as soon as one is there
    back = check(policy(external_joins=ANYBODY), commit(JOINS, add(JOINS, "dora@x/1")), ORPHANED)
    assert not POLICY.is_administrator("carol@x", back)
    assert verdict(commit(B1, add(B1, "erin@x/1", 9)), roster=back) == "add"


def test_without_administrators_a_member_can_make_one() -> None:
    chosen = policy(administrators=("carol@x",))
    assert verdict(commit(B1, extensions=(chosen.extension(),)), roster=ORPHANED) is None
    assert verdict(commit(B1, extensions=(POLICY.extension(),)), roster=ORPHANED) == "administrator"
    assert verdict(commit(B1, remove(B1, C1)), chosen, ORPHANED) == "remove"


def test_without_administrators_what_nobody_may_stays_so() -> None:
    rules = policy(may_change_policy=NOBODY, may_remove=NOBODY)
    assert verdict(commit(B1, extensions=NEW_POLICY), rules, ORPHANED) == "change-policy"
    assert verdict(commit(B1, remove(B1, C1)), rules, ORPHANED) == "remove"


def test_the_administrator_who_leaves_is_one_until_the_commit() -> None:
    rules = policy(administrators=("dora@x",))
    assert verdict(commit(B1, remove(D1, D1), remove(B1, C1)), rules) == "remove"
    assert verdict(commit(B1, remove(D1, D1), remove(D1, C1)), rules) is None


# --- the extension ----------------------------------------------------------------------------

ADDRESSES = st.sampled_from(["alice@x", "dora@x", "ä@exämple.org", "юля@пример.рф", "a@[::1]", "a@" + "x" * 63])
POLICIES = st.builds(
    RoomPolicy,
    room=ADDRESSES,
    administrators=st.lists(ADDRESSES, min_size=1, unique=True).map(tuple),
    may_add=st.sampled_from(Right),
    may_remove=st.sampled_from(Right),
    may_change_policy=st.sampled_from(Right),
    may_change_subject=st.sampled_from(Right),
    external_joins=st.sampled_from(ExternalJoins),
    own_devices=st.booleans(),
    max_leaf_age=st.integers(0, 2**32 - 1),
    x509_only=st.booleans(),
    max_devices=st.integers(0, 2**32 - 1),
    max_members=st.integers(0, 2**32 - 1),
    roots=st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=16).map(tuple),
)


@given(POLICIES)
def test_round_trip(rules: RoomPolicy) -> None:
    assert RoomPolicy.decode(rules.encode()) == rules
    other = Extension(7, b"x")
    assert RoomPolicy.required_in((other, rules.extension())) == rules
    assert RoomPolicy.found_in(rules.replaced_in((POLICY.extension(), other))) == rules
    assert rules.replaced_in((POLICY.extension(), other)).count(other) == 1


@given(POLICIES, st.data())
def test_damaged_octets_are_malformed_or_another_policy(rules: RoomPolicy, data: st.DataObject) -> None:
    octets = bytearray(rules.encode())
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = RoomPolicy.decode(bytes(octets))
    except MalformedError:
        return
    assert found != rules
    assert octets in (found.encode(), found.encode()[:-9])  # the last nine octets may be left out


def test_the_wire_form_is_fixed() -> None:
    expected = b"\x07r@x.org\x08\x07a@x.org\x01\x01\x01\x01\x01\x01\0\0\0\0\x00\0\0\0\x20\0\0\x27\x10\0"
    assert RoomPolicy("r@x.org", ("a@x.org",)).encode() == expected
    assert RoomPolicy.TYPE == 0xF4D1


def test_the_form_of_version_0_1() -> None:
    short = b"\x07r@x.org\x08\x07a@x.org\x01\x01\x01\x01\x01\x01\0\0\0\0\x00"
    assert RoomPolicy.decode(short) == RoomPolicy("r@x.org", ("a@x.org",))
    for size in range(1, 9):
        with pytest.raises(MalformedError):
            RoomPolicy.decode(RoomPolicy("r@x.org", ("a@x.org",)).encode()[:-size])


@pytest.mark.parametrize(
    "octets",
    [
        b"\x07R@x.org" b"\x08\x07a@x.org",
        b"\x05x.org" b"\x08\x07a@x.org",
        b"\x09r@x.org/n" b"\x08\x07a@x.org",
        b"\x07\xff@x.org" b"\x08\x07a@x.org",
        b"\x07r@x.org" b"\x00",
        b"\x07r@x.org" b"\x10\x07a@x.org\x07a@x.org",
        b"\x07r@x.org" b"\x08\x07A@x.org",
        b"\x07r@x.org" b"\x09\x07a@x.org\x00",
        b"\x48\x00" + b"r" * 2045 + b"@xx" + b"\x08\x07a@x.org",
    ],
    ids=[
        "room in capitals", "room without localpart", "room with a resource", "room not UTF-8", "no administrator",
        "administrator twice", "administrator in capitals", "empty administrator", "room too long",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(octets: bytes) -> None:
    with pytest.raises(MalformedError):
        RoomPolicy.decode(octets + b"\x01\x01\x01\x01\x01\x01\0\0\0\0\0\0\0\0\x20\0\0\x27\x10\0")


@pytest.mark.parametrize(
    "tail",
    [
        "03010101010100000000000000002000002710" "00", "01010101030100000000000000002000002710" "00",
        "01010101010200000000000000002000002710" "00", "01010101010100000000020000002000002710" "00",
        "01010101010100000000000000002000002710", "01010101010100000000000000002000002710" "0000",
        "01010101010100000000000000002000002710" "0401020304",
        "01010101010100000000000000002000002710" "4040" + "00" * 64,
    ],
    ids=["right 3", "external joins 3", "own devices 2", "X.509 2", "an octet missing", "an octet too many",
         "root of 4", "root twice"],
)  # fmt: skip
def test_values_that_are_refused(tail: str) -> None:
    with pytest.raises(MalformedError):
        RoomPolicy.decode(b"\x07r@x.org\x08\x07a@x.org" + bytes.fromhex(tail))


def test_at_most_64_administrators() -> None:
    many = tuple(f"a{number}@x" for number in range(MAX_ADMINISTRATORS + 1))
    assert RoomPolicy.decode(policy(administrators=many[1:]).encode()).administrators == many[1:]
    with pytest.raises(ValueError, match="1 to 64"):
        policy(administrators=many).encode()
    whole, short = b"".join(b"\x04" + name.encode() for name in many[:10]), b"\x05"
    body = whole + b"".join(short + name.encode() for name in many[10:])
    octets = (
        b"\x07r@x.org"
        + (0x4000 | len(body)).to_bytes(2, "big")
        + body
        + b"\x01\x01\x01\x01\x01\x01\0\0\0\0\0\0\0\0\x20\0\0\x27\x10\0"
    )
    with pytest.raises(MalformedError, match="1 to 64"):
        RoomPolicy.decode(octets)


@pytest.mark.parametrize("wrong", [{"room": "R@x"}, {"administrators": ()}, {"administrators": ("a@x", "a@x")},
                                   {"administrators": ("A@x",)}, {"max_leaf_age": 2**32}, {"may_add": 3},
                                   {"roots": (b"short",)}, {"roots": (bytes(32),) * 2},
                                   {"roots": tuple(bytes([n]) * 32 for n in range(17))}])  # fmt: skip
def test_a_wrong_policy_is_not_encoded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"1 to 64|at most 16|localpart|uint32|no Right"):
        policy(**wrong).encode()


def test_a_group_without_policy_is_none_of_ours() -> None:
    assert RoomPolicy.found_in((Extension(7, b""),)) is None
    with pytest.raises(InvalidError, match="no policy"):
        RoomPolicy.required_in(())


@pytest.mark.parametrize("beside", [(), (POLICY.extension(),)], ids=["alone", "beside one that we know"])
def test_a_newer_version_is_recognised(beside: tuple[Extension, ...]) -> None:
    for version in (2, 15):
        with pytest.raises(PolicyTooNew) as refused:
            RoomPolicy.found_in((*beside, Extension(POLICY_TYPES[version], b"whatever")))
        assert refused.value.version == version


def test_defaults() -> None:
    """What the bot author gets without a line of code."""
    assert (POLICY.may_add, POLICY.may_remove, POLICY.may_change_policy) == (ADMINISTRATORS,) * 3
    assert (POLICY.may_change_subject, POLICY.external_joins) == (ADMINISTRATORS, DEVICES)
    assert (POLICY.own_devices, POLICY.max_leaf_age, POLICY.x509_only) == (True, 0, False)
    assert (POLICY.max_devices, POLICY.max_members, POLICY.roots) == (32, 10_000, ())
