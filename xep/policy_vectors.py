"""The part of policy.json that judges Commits: leaves with proofs, and what the policy makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import shake_256
from typing import Any

from slixmpp_mls.client.device.leaf_proofs import arriving, renewing
from slixmpp_mls.errors import PolicyViolation
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from slixmpp_mls.mls.group.commit_effects import ChangeKind, Effects, ExtensionsChange, MemberChange
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import (
    AnySender,
    ExternalSenderIndex,
    MemberSender,
    NewMemberCommitSender,
    NewMemberProposalSender,
)
from slixmpp_mls.mls.structures.leaf_node import Capabilities, LeafNode, Lifetime, UpdateSource
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import (
    EXTENSION_TYPES,
    ExternalJoins,
    GroupView,
    RemovedAs,
    RemovedClient,
    RemovedClients,
    Right,
    RoomPolicy,
    derive_return_key,
    vouch,
)
from slixmpp_mls.policy.check import judge
from slixmpp_mls.policy.roster import Roster

__all__ = ["ALLOWED", "GROUP_ID", "POLICY", "ROOM", "checks", "view_of"]

ROOM = "coven@rooms.example"
SUITE = CipherSuite.get(1)
GROUP_ID = b"the group of the policy vectors."
LIFETIME = Lifetime(1790970000, 1798770000)
POLICY = RoomPolicy(ROOM, ("alice@a.example", "dora@d.example"))
GROUP = (
    "alice@a.example/1", "alice@a.example/2", "bob@b.example/1", "bob@b.example/2", "carol@c.example/1",
    "dora@d.example/1",
)  # fmt: skip
ALICE, ALICE2, BOB, BOB2, CAROL, DORA = range(6)
FREE = 6
SENDERS: dict[str, AnySender] = {
    "external": ExternalSenderIndex(0),
    "new_member_proposal": NewMemberProposalSender(),
    "new_member_commit": NewMemberCommitSender(),
}
ASKS, JOINS, EXTERNAL = "new_member_proposal", "new_member_commit", "external"
Who = int | str


# --- leaves --------------------------------------------------------------------------------------


def randomness(purpose: str) -> Any:
    return lambda size: shake_256(f"urn:xmpp:mls:0 policy vectors, {purpose}".encode()).digest(size)


def signature_key(owner: str) -> SignaturePrivateKey:
    return SUITE.generate_signature_key(randomness(f"signature key of {owner}"))


def leaf_key(owner: str, generation: int) -> HPKEPrivateKey:
    return SUITE.generate_key_pair(randomness(f"encryption key {generation} of {owner}"))


def leaf_of(
    name: str,
    generation: int = 0,
    *,
    key: str = "",
    returns: int | None = None,
    group_id: bytes = GROUP_ID,
    vouchers: Sequence[tuple[str, str]] = (),
    newcomer: bool = False,
) -> LeafNode:
    """A leaf without a signature.

    :param key: whose keys it has, if not those that go with the name
    :param returns: the generation whose return key proves it
    :param vouchers: the name of the issuer, and whose key signs
    """
    owner, client = key or name, ClientIdentity(*name.split("/"))
    public = signature_key(owner).public
    made = tuple(
        vouch(SUITE, signature_key(by), ClientIdentity(*issuer.split("/")), client, public, LIFETIME)
        for issuer, by in vouchers
    )
    keys = () if returns is None else (derive_return_key(SUITE, leaf_key(owner, returns)),)
    complete = renewing(SUITE)
    if keys or made or newcomer:
        complete = arriving(SUITE, group_id, keys=keys, vouchers=made, newcomer=newcomer)
    own = leaf_key(owner, generation)
    capabilities = Capabilities((1,), (1,), EXTENSION_TYPES, (), (1,))
    bare = LeafNode(
        own.public, signature_key(owner).public, client.credential(), capabilities, UpdateSource(), (), bytes(64)
    )
    return complete(bare, own)


LEAVES = tuple(map(leaf_of, GROUP))


# --- cases ---------------------------------------------------------------------------------------


def view_of(policy: RoomPolicy, leaves: Sequence[LeafNode], removed: RemovedClients) -> GroupView:
    extensions = (policy.extension(), removed.extension())
    roster = Roster.of(enumerate(leaves))
    return GroupView(SUITE, GROUP_ID, extensions, policy, removed, roster, leaves.__getitem__)


def sender_of(who: Who) -> AnySender:
    return MemberSender(who) if isinstance(who, int) else SENDERS[who]


def effects_of(view: GroupView, committer: Who, changes: Sequence[dict[str, Any]], policy: Any) -> Effects:
    """A case's Commit as the policy sees it.

    :param policy: None, or who proposes (`by`) which octets of a RoomPolicy (`policy`)
    """
    found: list[MemberChange] = []
    psks: list[PreSharedKeyID] = []
    free = FREE
    for change in changes:
        if "psk" in change:
            psks.append(PreSharedKeyID.decode(bytes.fromhex(change["psk"])))
            continue
        by = sender_of(change["by"])
        after = LeafNode.decode(bytes.fromhex(change["leaf"])) if "leaf" in change else None
        if "add" in change:
            found.append(MemberChange(ChangeKind.ADDED, by, LeafIndex(free), None, after))
            free += 1
        elif "update" in change:
            index = LeafIndex(change["update"])
            found.append(MemberChange(ChangeKind.UPDATED, by, index, view.leaf(index), after))
        else:
            index = LeafIndex(change["remove"])
            found.append(MemberChange(ChangeKind.REMOVED, by, index, view.leaf(index), None))
    extensions = None
    if policy is not None:
        octets = policy["policy"]
        new = () if octets is None else (Extension(RoomPolicy.TYPE, bytes.fromhex(octets)), view.extensions[1])
        extensions = ExtensionsChange(sender_of(policy["by"]), view.extensions, new)
    index = committer if isinstance(committer, int) else FREE
    return Effects(sender_of(committer), LeafIndex(index), tuple(found), extensions, tuple(psks), None)


def add(leaf: LeafNode, by: Who) -> dict[str, Any]:
    return {"add": str(ClientIdentity.from_leaf(leaf)), "leaf": leaf.encode().hex(), "by": by}


def remove(index: int, by: Who) -> dict[str, Any]:
    return {"remove": index, "by": by}


def update(index: int, leaf: LeafNode) -> dict[str, Any]:
    return {"update": index, "leaf": leaf.encode().hex(), "by": index}


def psk(name: ResumptionPSK | ExternalPSK, by: Who) -> dict[str, Any]:
    return {"psk": PreSharedKeyID(name, bytes(32)).encode().hex(), "by": by}


Case = tuple[str, bool, RoomPolicy, Who, list[dict[str, Any]]]


def _cases() -> Iterable[Case]:
    """Name, whether it is allowed (by hand, from the document's table), policy, committer, changes."""
    erin, bob3, phone = (leaf_of(name) for name in ("erin@e.example/1", "bob@b.example/3", "alice@a.example/3"))
    open_to_all = replace(POLICY, may_add=Right.MEMBERS, may_remove=Right.MEMBERS)
    closed = replace(POLICY, own_devices=False)
    anybody = replace(POLICY, external_joins=ExternalJoins.ANYBODY)
    never = replace(POLICY, external_joins=ExternalJoins.NEVER)
    ended = replace(POLICY, administrators=("zoe@z.example",))
    back = leaf_of(GROUP[BOB], 1, returns=0)
    vouched = leaf_of("bob@b.example/3", vouchers=[(GROUP[BOB2], GROUP[BOB2])])
    stranger = leaf_of("erin@e.example/1", newcomer=True)

    yield "an empty Commit of a member", True, POLICY, BOB, []
    yield "an administrator adds", True, POLICY, ALICE, [add(erin, ALICE)]
    yield "a member adds", False, POLICY, BOB, [add(erin, BOB)]
    yield "a member adds where members may", True, open_to_all, BOB, [add(erin, BOB)]
    yield "a member commits an administrator's wish", True, POLICY, BOB, [add(erin, ALICE)]
    yield "an administrator commits a member's wish", False, POLICY, ALICE, [add(erin, BOB)]
    yield "a stranger asks, a member commits", False, POLICY, CAROL, [add(erin, ASKS)]
    yield "a stranger asks, an administrator commits", True, POLICY, ALICE, [add(erin, ASKS)]
    yield "an external sender wishes, a member commits", False, POLICY, CAROL, [add(erin, EXTERNAL)]
    yield "an external sender wishes, an administrator commits", True, POLICY, DORA, [add(erin, EXTERNAL)]
    yield "a client twice", False, POLICY, ALICE, [add(leaf_of(GROUP[BOB], 1), ALICE)]
    yield "an Update with a new signature key", True, POLICY, CAROL, [update(BOB, leaf_of(GROUP[BOB], key="bob's new"))]
    yield "an Update to another name", False, POLICY, CAROL, [update(BOB, phone)]

    yield "a member adds a device of its own", True, POLICY, BOB, [add(bob3, BOB)]
    yield "a member adds a device of its own where it may not", False, closed, BOB, [add(bob3, BOB)]
    yield "a member adds another's device", False, POLICY, CAROL, [add(bob3, CAROL)]
    yield "a device without a voucher asks, a member commits", False, POLICY, CAROL, [add(bob3, ASKS)]
    yield "a device with a voucher asks, a member commits", True, POLICY, CAROL, [add(vouched, ASKS)]
    yield "a device with a voucher asks where own devices are off", False, closed, CAROL, [add(vouched, ASKS)]
    yield "a member adds a device with a voucher that has not asked", False, POLICY, CAROL, [add(vouched, CAROL)]
    by_carol = leaf_of("bob@b.example/3", vouchers=[(GROUP[BOB2], GROUP[CAROL])])
    yield "a voucher signed by another account's key", False, POLICY, CAROL, [add(by_carol, ASKS)]
    former = leaf_of("bob@b.example/3", vouchers=[(GROUP[BOB2], "bob's former")])
    yield "a voucher signed by a key that its issuer has not", False, POLICY, CAROL, [add(former, ASKS)]
    absent = leaf_of("bob@b.example/3", vouchers=[("bob@b.example/9", "bob@b.example/9")])
    yield "a voucher by a device that is not in the group", False, POLICY, CAROL, [add(absent, ASKS)]
    moved = replace(leaf_of("bob@b.example/3", key="mallory"), extensions=vouched.extensions)
    yield "the voucher of another key", False, POLICY, CAROL, [add(moved, ASKS)]
    yield (
        "a voucher by a device that the Commit removes", False, POLICY, CAROL, [remove(BOB2, BOB), add(vouched, ASKS)]
    )  # fmt: skip

    yield (
        "a client returns by asking, a member commits", True, POLICY, CAROL, [remove(BOB, CAROL), add(back, ASKS)]
    )  # fmt: skip
    yield (
        "a client returns where own devices are off", True, closed, CAROL, [remove(BOB, CAROL), add(back, ASKS)]
    )  # fmt: skip
    yield (
        "a removal proposed by a third is not turned into a return", False, POLICY, CAROL,
        [remove(BOB, ALICE), add(back, ASKS)],
    )  # fmt: skip
    yield (
        "a return without proof", False, POLICY, CAROL, [remove(BOB, CAROL), add(leaf_of(GROUP[BOB], 1), ASKS)]
    )  # fmt: skip
    healed = leaf_of(GROUP[BOB], 2, returns=1)
    yield "a return by another return key", False, POLICY, CAROL, [remove(BOB, CAROL), add(healed, ASKS)]
    elsewhere = leaf_of(GROUP[BOB], 1, returns=0, group_id=b"another group")
    yield "a return proof of another group", False, POLICY, CAROL, [remove(BOB, CAROL), add(elsewhere, ASKS)]
    taken = replace(leaf_of(GROUP[BOB], 2), extensions=back.extensions)
    yield "the return proof of another leaf", False, POLICY, CAROL, [remove(BOB, CAROL), add(taken, ASKS)]
    claimed = leaf_of(GROUP[ALICE], 1, key="mallory", returns=0)
    yield "a return in another's name", False, POLICY, CAROL, [remove(ALICE, CAROL), add(claimed, ASKS)]

    yield "a member leaves", True, POLICY, CAROL, [remove(BOB, BOB)]
    yield "an administrator removes", True, POLICY, ALICE, [remove(BOB, ALICE)]
    yield "a member removes", False, POLICY, BOB, [remove(CAROL, BOB)]
    yield "a member removes its other device", True, POLICY, BOB, [remove(BOB2, BOB)]
    yield "a member removes its other device where it may not", False, closed, BOB, [remove(BOB2, BOB)]
    yield "a member removes an administrator where members may remove", False, open_to_all, BOB, [remove(ALICE, BOB)]
    yield "an administrator removes an administrator", True, POLICY, ALICE, [remove(DORA, ALICE)]
    carol2 = leaf_of("carol@c.example/2", vouchers=[(GROUP[CAROL], GROUP[CAROL])])
    yield (
        "an account is removed and brings itself back in the same Commit", False, POLICY, BOB,
        [remove(CAROL, ALICE), add(carol2, ASKS)],
    )  # fmt: skip

    yield "a device without a voucher joins by itself", False, POLICY, JOINS, [add(bob3, JOINS)]
    yield "a device with a voucher joins by itself", True, POLICY, JOINS, [add(vouched, JOINS)]
    yield "a device with a voucher joins where nobody may", False, never, JOINS, [add(vouched, JOINS)]
    yield "a stranger joins by itself", False, POLICY, JOINS, [add(stranger, JOINS)]
    yield "a stranger joins as a newcomer where anybody may", True, anybody, JOINS, [add(stranger, JOINS)]
    yield "a stranger without the mark of a newcomer", False, anybody, JOINS, [add(erin, JOINS)]
    named = leaf_of("bob@b.example/7", key="mallory", newcomer=True)
    yield "a newcomer in a member's name", False, anybody, JOINS, [add(named, JOINS)]
    yield "an administrator adds with the mark of a newcomer", False, anybody, ALICE, [add(stranger, ALICE)]
    yield "a joiner replaces its old leaf", True, POLICY, JOINS, [remove(BOB, JOINS), add(back, JOINS)]
    yield (
        "a joiner replaces its old leaf without proof", False, anybody, JOINS,
        [remove(BOB, JOINS), add(leaf_of(GROUP[BOB], 1), JOINS)],
    )  # fmt: skip
    yield "a joiner removes another leaf", False, POLICY, JOINS, [remove(BOB2, JOINS), add(vouched, JOINS)]
    made_up = leaf_of("alice@a.example/3", key="mallory")
    yield (
        "a made-up device of the administrator removes the real one", False, anybody, JOINS,
        [remove(ALICE, JOINS), add(made_up, JOINS)],
    )  # fmt: skip
    yield "no administrator is left: every member is one", True, ended, BOB, [add(erin, BOB)]
    few = replace(POLICY, max_devices=2)
    yield "more clients of an account than the policy allows", False, few, BOB, [add(bob3, BOB)]
    yield "as many members as the policy allows", True, replace(POLICY, max_members=7), ALICE, [add(erin, ALICE)]
    yield "more members than the policy allows", False, replace(POLICY, max_members=6), ALICE, [add(erin, ALICE)]
    talk = replace(POLICY, administrators=("alice@a.example", "bob@b.example"), conversation=True)
    yield "another device of one of the two in a conversation", True, talk, ALICE, [add(bob3, ALICE)]
    yield "a third account in a conversation", False, talk, ALICE, [add(erin, ALICE)]
    certified = replace(POLICY, x509_only=True)
    yield "a basic credential where X.509 is wanted", False, certified, ALICE, [add(phone, ALICE)]

    yield from _right_to_add()
    resumption = ResumptionPSK(ResumptionPSKUsage.APPLICATION, GROUP_ID, 1)
    yield "an administrator commits a resumption PSK", True, POLICY, ALICE, [psk(resumption, ALICE)]
    yield "a member commits a resumption PSK", False, POLICY, BOB, [psk(resumption, BOB)]
    yield "a member commits a resumption PSK where members may remove", False, open_to_all, BOB, [psk(resumption, BOB)]
    yield "a member commits an administrator's PSK", False, POLICY, BOB, [psk(resumption, ALICE)]
    yield "an administrator commits an external PSK", True, POLICY, ALICE, [psk(ExternalPSK(b"psk"), ALICE)]
    yield "a member commits an external PSK", False, POLICY, BOB, [psk(ExternalPSK(b"psk"), BOB)]
    nobody = replace(POLICY, may_remove=Right.NOBODY)
    yield "an administrator commits a PSK where nobody may remove", False, nobody, ALICE, [psk(resumption, ALICE)]
    yield "no administrator is left: every member commits PSKs", True, ended, BOB, [psk(resumption, BOB)]


def _right_to_add() -> Iterable[Case]:
    """Members may add, and have proof where the account is established."""
    adders = replace(POLICY, may_add=Right.MEMBERS, may_remove=Right.MEMBERS)
    with_erin = replace(adders, administrators=(*POLICY.administrators, "erin@e.example"))
    erin, erin2, ghost = (
        leaf_of(name, key=key)
        for name, key in (("erin@e.example/1", ""), ("erin@e.example/2", ""), ("erin@e.example/9", "mallory"))
    )
    made_up = leaf_of("alice@a.example/3", key="mallory")
    vouched = leaf_of("bob@b.example/3", vouchers=[(GROUP[BOB2], GROUP[BOB2])])
    bob3 = leaf_of("bob@b.example/3")
    yield "a member adds two devices of an account", True, adders, CAROL, [add(erin, CAROL), add(erin2, CAROL)]
    yield "two members add devices of one account", False, adders, CAROL, [add(erin, CAROL), add(ghost, BOB)]
    yield "an administrator and a member add devices of one", False, adders, ALICE, [add(erin, ALICE), add(ghost, BOB)]
    yield "a member adds an administrator's other device", False, adders, CAROL, [add(made_up, CAROL)]
    yield "an administrator commits a member's Add of that kind", False, adders, DORA, [add(made_up, CAROL)]
    yield "a member commits the request of a made-up device", False, adders, CAROL, [add(made_up, ASKS)]
    yield "an administrator adds another's device", True, adders, DORA, [add(made_up, DORA)]
    yield "a member adds an administrator that is away", False, with_erin, CAROL, [add(erin, CAROL)]
    yield "an administrator adds an administrator that is away", True, with_erin, DORA, [add(erin, DORA)]
    yield "a member adds another's device by right, with a voucher", True, adders, CAROL, [add(vouched, CAROL)]
    alone = replace(adders, own_devices=False)
    yield "the same where own devices are off", True, alone, CAROL, [add(vouched, CAROL)]
    yield "a member adds its own device by right where own devices are off", True, alone, BOB, [add(bob3, BOB)]
    yield (
        "a voucher by a device that the Commit removes, by right", False, adders, CAROL,
        [remove(BOB2, CAROL), add(vouched, CAROL)],
    )  # fmt: skip
    same, other = leaf_of(GROUP[BOB], 1), leaf_of(GROUP[BOB], key="mallory")
    yield (
        "a member replaces a leaf by one with the same key",
        True,
        adders,
        CAROL,
        [remove(BOB, CAROL), add(same, CAROL)],
    )
    yield (
        "a member replaces a leaf by one with another key", False, adders, CAROL,
        [remove(BOB, CAROL), add(other, CAROL)],
    )  # fmt: skip
    yield (
        "an administrator replaces a leaf by one with another key", True, adders, ALICE,
        [remove(BOB, ALICE), add(other, ALICE)],
    )  # fmt: skip
    yield (
        "a member adds a device of an account that goes", False, adders, CAROL,
        [remove(BOB, CAROL), remove(BOB2, CAROL), add(bob3, CAROL)],
    )  # fmt: skip


def _policy_cases() -> Iterable[tuple[str, bool, RoomPolicy, Who, RoomPolicy | None]]:
    """Name, whether it is allowed, policy, who proposes and commits, the new policy."""
    yield "an administrator changes the policy", True, POLICY, ALICE, replace(POLICY, may_add=Right.MEMBERS)
    yield "a member changes the policy", False, POLICY, BOB, replace(POLICY, may_add=Right.MEMBERS)
    yield "the policy names another room", False, POLICY, ALICE, replace(POLICY, room="cave@rooms.example")
    nobody = replace(POLICY, administrators=("erin@e.example",))
    yield "the policy names no administrator in the group", False, POLICY, ALICE, nobody
    yield "the policy is dropped", False, POLICY, ALICE, None
    talk = replace(POLICY, conversation=True)
    yield "a conversation gets another policy", True, talk, ALICE, replace(talk, max_leaf_age=86_400)
    yield "a conversation becomes a room", False, talk, ALICE, POLICY
    yield "a room becomes a conversation", False, POLICY, ALICE, talk
    others = replace(talk, administrators=("alice@a.example", "erin@e.example"))
    yield "a conversation becomes one of others", False, talk, ALICE, others
    ended = replace(POLICY, administrators=("zoe@z.example",))
    mine = replace(POLICY, administrators=("bob@b.example",))
    yield "no administrator is left, and a member names one", True, ended, BOB, mine


def _removed_cases() -> Iterable[tuple[str, bool, RemovedAs, Who, list[dict[str, Any]]]]:
    """Name, whether it is allowed, how bob's third device was removed before, committer, changes."""
    vouched = leaf_of("bob@b.example/3", vouchers=[(GROUP[BOB2], GROUP[BOB2])])
    bare = leaf_of("bob@b.example/3")
    yield "a voucher for whom others have removed", False, RemovedAs.MEMBER, CAROL, [add(vouched, ASKS)]
    yield "a voucher for whom its own account has removed", False, RemovedAs.OWN_DEVICE, JOINS, [add(vouched, JOINS)]
    yield "its own account adds whom others have removed", False, RemovedAs.MEMBER, BOB, [add(bare, BOB)]
    yield "its own account adds whom it has removed itself", True, RemovedAs.OWN_DEVICE, BOB, [add(bare, BOB)]
    yield "an administrator adds whom others have removed", True, RemovedAs.MEMBER, ALICE, [add(bare, ALICE)]


def _list_cases() -> Iterable[tuple[str, bool, list[RemovedClient], RoomPolicy, Who, list[dict[str, Any]]]]:
    """Name, whether it is allowed, the list of removed clients before, policy, committer, changes."""

    def entry(identity: str, removed_as: RemovedAs) -> RemovedClient:
        account, device = identity.split("/")
        return RemovedClient(account, device.encode(), removed_as)

    own, member, newcomer = RemovedAs.OWN_DEVICE, RemovedAs.MEMBER, RemovedAs.NEWCOMER
    bob_again = leaf_of(GROUP[BOB], 1)
    yield "an Add behind the Remove of the client", True, [], POLICY, ALICE, [remove(BOB, ALICE), add(bob_again, ALICE)]
    yield "an Add before the Remove of the client", True, [], POLICY, ALICE, [add(bob_again, ALICE), remove(BOB, ALICE)]
    yield (
        "two are removed, in the order of the Commit", True, [], POLICY, ALICE,
        [remove(CAROL, ALICE), remove(BOB, ALICE)],
    )  # fmt: skip
    known = [entry(GROUP[BOB2], own), entry("erin@e.example/1", member)]
    yield "others remove whom its own account has removed", True, known, POLICY, ALICE, [remove(BOB2, ALICE)]
    whole = [entry("bob@b.example/", member)]
    yield "of an account on the list as a whole, one is removed", True, whole, POLICY, BOB, [remove(BOB2, BOB)]
    bob3 = leaf_of("bob@b.example/3")
    yield (
        "an administrator adds one of an account that is on the list",
        True,
        whole,
        POLICY,
        ALICE,
        [add(bob3, ALICE)],
    )
    yield "the account itself adds one, and is on the list as a whole", False, whole, POLICY, BOB, [add(bob3, BOB)]
    back = leaf_of(GROUP[BOB], 1, returns=0)
    yield (
        "a return changes no entry, although an administrator commits it", True, whole, POLICY, ALICE,
        [remove(BOB, ALICE), add(back, ASKS)],
    )  # fmt: skip
    eight = [entry(f"bob@b.example/{number}", newcomer) for number in range(10, 18)]
    yield "a ninth entry of an account", True, [*eight, *known[1:]], POLICY, BOB, [remove(BOB2, BOB)]
    full = [entry(f"u{number}@e.example/1", newcomer if number % 2 else member) for number in range(128)]
    yield "a 129th entry: the oldest newcomer's goes", True, full, POLICY, ALICE, [remove(BOB, ALICE)]
    absent = [entry(f"u{number}@e.example/1", member) for number in range(127)]
    of_bob = entry("bob@b.example/3", own)
    yield (
        "a 129th entry: one of an absent account goes, although a member's is older and counts for less", True,
        [of_bob, *absent], POLICY, ALICE, [remove(CAROL, ALICE)],
    )  # fmt: skip
    yield (
        "half of the list is for absent accounts: a member's several become one", True,
        [of_bob, entry("bob@b.example/4", member), entry("alice@a.example/7", own),
         *(entry(f"alice@a.example/{number}", member) for number in range(100, 162)), *absent[:63]],
        POLICY, ALICE, [remove(CAROL, ALICE)],
    )  # fmt: skip


ALLOWED = {name: allowed for name, allowed, *_ in (*_cases(), *_policy_cases(), *_removed_cases(), *_list_cases())}


def _checked(
    name: str, policy: RoomPolicy, removed: RemovedClients, committer: Who, changes: Any, new_policy: Any = None
) -> dict[str, Any]:
    view = view_of(policy, LEAVES, removed)
    broken, after = None, None
    try:
        after = judge(view, effects_of(view, committer, changes, new_policy)).removed.encode().hex()
    except PolicyViolation as violation:
        broken = violation.rule
    return {
        "name": name,
        "policy": policy.encode().hex(),
        "removed_clients": removed.encode().hex(),
        "committer": committer,
        "changes": changes,
        "new_policy": new_policy,
        "broken_rule": broken,
        "removed_clients_after": after,
    }


def checks() -> dict[str, Any]:
    none = RemovedClients()
    cases = [_checked(name, policy, none, by, changes) for name, _, policy, by, changes in _cases()]
    for name, _, policy, by, new in _policy_cases():
        octets = None if new is None else new.encode().hex()
        cases.append(_checked(name, policy, none, by, [], {"by": by, "policy": octets}))
    for name, _, removed_as, by, changes in _removed_cases():
        removed = none.with_removed([(ClientIdentity("bob@b.example", "3"), removed_as)])
        cases.append(_checked(name, POLICY, removed, by, changes))
    for name, _, entries, policy, by, changes in _list_cases():
        cases.append(_checked(name, policy, RemovedClients(tuple(entries)), by, changes))
    return {
        "cipher_suite": SUITE.id,
        "group_id": GROUP_ID.hex(),
        "members": list(GROUP),
        "leaves": [leaf.encode().hex() for leaf in LEAVES],
        "cases": cases,
    }
