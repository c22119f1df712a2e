"""What a malicious member commits, and an honest one refuses: RFC 9420 7.3, 7.5, 12.1 to 12.4.

Each Commit is signed by a member and protected with the group's keys, so that nothing but the rule
under test is in its way.  After each the receiver's state is what it was, and goes on working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError
from slixmpp_mls.mls.crypto.hpke import HPKECiphertext
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.parameters import HOUR
from slixmpp_mls.mls.registry import GREASE, ExtensionType
from slixmpp_mls.mls.structures.commit import Commit, ProposalRef
from slixmpp_mls.mls.structures.credential import UnknownCredential, X509Credential
from slixmpp_mls.mls.structures.extensions import ApplicationId, Extension, RequiredCapabilities
from slixmpp_mls.mls.structures.key_package import KeyPackage, key_package_tbs
from slixmpp_mls.mls.structures.leaf_node import CommitSource, KeyPackageSource, LeafNode, Lifetime, UpdateSource
from slixmpp_mls.mls.structures.proposals import (
    Add,
    AnyProposal,
    ExternalInit,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    UnknownProposal,
    Update,
)
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.structures.update_path import UpdatePathNode
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, sign_leaf, update_leaf
from tests.mls.group_helpers import (
    DAY,
    NOW,
    PUBLIC,
    Room,
    bundle,
    changed_commit,
    changed_leaf,
    forged,
    forged_commit,
    refused,
    supporting,
    won,
)

THREE = Room.of("alice", "bob", "carol")
DAVE = bundle("dave")
PSK = PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(32)))


@pytest.fixture
def room() -> Iterator[Room]:
    """Bob is malicious, Alice refuses what he sends, and the group goes on."""
    room = THREE.copy()
    yield room
    room.commit("alice")
    room.say("alice")


def resumption(usage: ResumptionPSKUsage) -> PreSharedKey:
    return PreSharedKey(PreSharedKeyID(ResumptionPSK(usage, b"a room", 1), bytes(32)))


def update_of(room: Room, name: str) -> Update:
    group = room[name]
    return Update(update_leaf(group.suite, group.own_leaf_parts(), group.group_id, group.own_index)[0])


# --- 12.2: lists -----------------------------------------------------------------------------

LISTS: dict[str, tuple[str, tuple[AnyProposal, ...]]] = {
    "an Update by the committer": ("12.2", (update_of(THREE, "bob"),)),
    "the committer's own removal": ("12.2", (Remove(1),)),
    "two Removes of one leaf": ("12.2", (Remove(2), Remove(2))),
    "a PSK twice": ("12.2", (PSK, PSK)),
    "two lists of extensions": ("12.2", (GroupContextExtensions(()), GroupContextExtensions(()))),
    "ReInit beside an Add": ("12.2", (ReInit(b"n", 1, 1, ()), Add(DAVE.key_package))),
    "ReInit twice": ("12.2", (ReInit(b"n", 1, 1, ()), ReInit(b"n", 1, 1, ()))),
    "ExternalInit": ("12.2", (ExternalInit(b"kem"),)),
    "a client twice": ("7.3", (Add(DAVE.key_package), Add(bundle("dave", key=DAVE.signature_key).key_package))),
    "the same KeyPackage twice": ("7.3", (Add(DAVE.key_package), Add(DAVE.key_package))),
    "a client that is here": ("7.3", (Add(bundle("carol", key=THREE["carol"].signature_key).key_package),)),
    "an unknown type": ("12.2", (UnknownProposal(0xF000, b"x"),)),
    "a GREASE type (13.5)": ("12.2", (UnknownProposal(min(GREASE), b"x"),)),
    "SelfRemove by value": ("SelfRemove", (SelfRemove(),)),
    "a blank leaf removed (12.1.3)": ("no member", (Remove(3),)),
    "a leaf outside of the tree removed (12.1.3)": ("no member", (Remove(2**32 - 1),)),
    "a short psk_nonce": ("12.1.4", (PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(31))),)),
    "a long psk_nonce": ("12.1.4", (PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(33))),)),
    "PSK for reinit": ("12.1.4", (resumption(ResumptionPSKUsage.REINIT),)),
    "PSK for branch": ("12.1.4", (resumption(ResumptionPSKUsage.BRANCH),)),
    "ReInit to an older version": ("12.1.5", (ReInit(b"n", 0, 1, ()),)),
    "ReInit with an extension twice (13.4)": ("13.4", (ReInit(b"n", 1, 1, (Extension(5, b"\0"),) * 2),)),
    "an extension twice (13.4)": ("13.4", (GroupContextExtensions((Extension(9, b""),) * 2),)),
    "an extension that nobody supports (12.1.7)": ("12.1.7", (GroupContextExtensions((Extension(0xF009, b""),)),)),
    "GREASE among the extensions (13.5)": ("12.1.7", (GroupContextExtensions((Extension(min(GREASE), b""),)),)),
    "requirements that nobody meets (12.1.7)": (
        "12.1.7",
        (GroupContextExtensions((RequiredCapabilities((0xF009,)).extension(),)),),
    ),
    "a required credential type that nobody supports": (
        "12.1.7",
        (GroupContextExtensions((RequiredCapabilities((), (), (0xF009,)).extension(),)),),
    ),
    "a required proposal type that nobody supports": (
        "12.1.7",
        (GroupContextExtensions((RequiredCapabilities((), (0xF009,)).extension(),)),),
    ),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("public", [True, False], ids=["open", "encrypted"])
def test_12_2_list(room: Room, name: str, public: bool) -> None:
    section, proposals = LISTS[name]
    if section == "12.1.7":  # what members support is looked at on the new tree, behind a sound path
        numbers = (0xF009, min(GREASE))
        boast = replace(SUPPORTED, extensions=numbers, proposals=numbers, credentials=(1, *numbers))
        leaf = replace(room["bob"].own_leaf_parts(), capabilities=boast)
        commit = room["bob"].commit(now=NOW, options=CommitOptions(public=public, leaf=leaf))
        message = changed_commit(
            room["bob"], commit, lambda commit: replace(commit, proposals=proposals), public=public
        )
    else:
        message = forged_commit(room["bob"], *proposals, public=public)
    refused(room["alice"], message, section)


@pytest.mark.parametrize("content", [b"\xff", b"\x01", b"\0\0"])
@pytest.mark.parametrize("kind", [ExtensionType.REQUIRED_CAPABILITIES, ExtensionType.EXTERNAL_SENDERS])
def test_13_4_extensions_that_do_not_parse(room: Room, kind: int, content: bytes) -> None:
    proposal = GroupContextExtensions((Extension(kind, content),))
    refused(room["alice"], forged_commit(room["bob"], proposal), "", MalformedError)
    refused(room["alice"], forged(room["bob"], proposal), "", MalformedError)


def test_12_2_update_and_remove_of_one_leaf(room: Room) -> None:
    update = room.propose_update("carol")
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(update), Remove(2)), "12.2")
    again = room.propose_update("carol")
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(update), ProposalRef(again)), "12.2")


def test_12_2_own_update_and_removal_by_reference(room: Room) -> None:
    update, removal = room.propose_update("bob"), room.propose("carol", Remove(1))
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(update)), "12.2")
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(removal)), "12.2")


def test_selfremove_of_the_committer_and_beside_a_remove(room: Room) -> None:
    own = room.propose("bob", SelfRemove())
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(own)), "12.2")
    other = room.propose("carol", SelfRemove())
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(other), Remove(2)), "12.2")
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(other), path=False), "12.4")
    room.commit("alice")


def test_12_4_2_unknown_reference(room: Room) -> None:
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(bytes(32))), "12.4.2")
    once = room.propose("carol", PSK)
    room.commit("alice", by_reference=[])
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(once)), "12.4.2")  # of another epoch


@pytest.mark.parametrize(
    "proposals", [(), (Remove(2),), (GroupContextExtensions(()),)], ids=["empty", "Remove", "GroupContextExtensions"]
)
def test_12_4_path_required(room: Room, proposals: tuple[AnyProposal, ...]) -> None:
    refused(room["alice"], forged_commit(room["bob"], *proposals, path=False), "RFC 9420 12.4")


def test_12_4_path_required_for_an_update(room: Room) -> None:
    update = room.propose_update("carol")
    refused(room["alice"], forged_commit(room["bob"], ProposalRef(update), path=False), "RFC 9420 12.4")


def test_12_4_2_psk_must_be_available(room: Room) -> None:
    made = room["bob"].commit([PSK], now=NOW, psks=lambda name: b"value")
    refused(room["alice"], made.commit, "12.4.2")
    refused(room["alice"], made.commit, "6.1", psks=lambda name: b"")  # an empty PSK is a PSK, and another one


# --- 10.1, 7.3: KeyPackages in Adds ----------------------------------------------------------


def resigned(client: KeyPackageBundle, leaf: LeafNode | None = None, **fields: object) -> KeyPackage:
    """A KeyPackage with something changed, leaf and all signed again."""
    package = client.key_package
    if leaf is not None:
        fields["leaf_node"] = sign_leaf(client.suite, leaf, client.signature_key)
    package = replace(package, **fields)  # type: ignore[arg-type]
    signature = client.suite.sign_with_label(client.signature_key, "KeyPackageTBS", key_package_tbs(package))
    return replace(package, signature=signature)


def leaf_with(**fields: object) -> LeafNode:
    return replace(DAVE.key_package.leaf_node, **fields)  # type: ignore[arg-type]


SUPPORTED = DAVE.key_package.leaf_node.capabilities
PACKAGES: dict[str, tuple[str, KeyPackage]] = {
    "another version": ("10.1", resigned(DAVE, version=2)),
    "another suite": ("10.1", resigned(DAVE, cipher_suite=3)),
    "init key and leaf key the same": ("10.1", resigned(DAVE, init_key=DAVE.leaf_key.public)),
    "a bad init key": ("", resigned(DAVE, init_key=b"short")),
    "a bad leaf key": ("", resigned(DAVE, leaf_with(encryption_key=b"short"))),
    "a bad signature": ("signature", replace(DAVE.key_package, signature=bytes(64))),
    "a bad signature of the leaf": ("signature", resigned(DAVE, leaf_node=leaf_with(signature=bytes(64)))),
    "source update": ("7.3", resigned(DAVE, leaf_with(source=UpdateSource()))),
    "source commit": ("7.3", resigned(DAVE, leaf_with(source=CommitSource(b"")))),
    "valid for ever": ("7.2", resigned(DAVE, leaf_with(source=KeyPackageSource(Lifetime(0, 2**64 - 1))))),
    "version not in capabilities": ("7.2", resigned(DAVE, leaf_with(capabilities=replace(SUPPORTED, versions=(2,))))),
    "suite not in capabilities": (
        "7.2",
        resigned(DAVE, leaf_with(capabilities=replace(SUPPORTED, cipher_suites=(2,)))),
    ),
    "own credential type not in capabilities": (
        "7.2",
        resigned(DAVE, leaf_with(capabilities=replace(SUPPORTED, credentials=(2,)))),
    ),
    "own extension not in capabilities": ("7.3", resigned(DAVE, leaf_with(extensions=(Extension(0xF00A, b""),)))),
    "extension of the leaf twice": (
        "13.4",
        resigned(DAVE, leaf_with(extensions=(ApplicationId(b"").extension(),) * 2)),
    ),
    "extension of the KeyPackage twice": ("13.4", resigned(DAVE, extensions=(Extension(10, b""),) * 2)),
    "application_id that does not parse": ("", resigned(DAVE, leaf_with(extensions=(Extension(1, b"\xff"),)))),
    "a credential that the others do not support": (
        "7.3",
        resigned(
            DAVE,
            leaf_with(
                credential=UnknownCredential(0xF00B, b""),
                capabilities=replace(SUPPORTED, credentials=(1, 2, 0xF00B)),
            ),
        ),
    ),
    "no support for the others' credentials": (
        "7.3",
        resigned(
            DAVE,
            leaf_with(credential=X509Credential(()), capabilities=replace(SUPPORTED, credentials=(2,))),
        ),
    ),
    "the signature key of a member": (
        "7.3",
        bundle("carol again", key=THREE["carol"].signature_key).key_package,
    ),
    "the encryption key of a member": (
        "7.3",
        resigned(DAVE, leaf_with(encryption_key=THREE["carol"].own_leaf.encryption_key)),
    ),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_10_1_and_7_3_key_package_in_an_add(room: Room, name: str) -> None:
    section, package = PACKAGES[name]
    refused(room["alice"], forged_commit(room["bob"], Add(package), path=False), section)


@pytest.mark.parametrize("name", PACKAGES)
def test_10_1_and_7_3_key_package_in_a_proposal(room: Room, name: str) -> None:
    """What is wrong in any list is refused at once; the rest is kept, and kept from doing harm."""
    section, package = PACKAGES[name]
    message = forged(room["bob"], Add(package))
    in_some_list = {
        "the signature key of a member",
        "the encryption key of a member",
        "a credential that the others do not support",
        "no support for the others' credentials",
    }
    if name not in in_some_list:
        refused(room["alice"], message, section)
        return
    room.hear(message, "bob")
    room["bob"] = room["bob"].apply(room["bob"].process(message, now=NOW), now=NOW)
    room.say("alice")  # nobody has to commit what cannot be committed
    assert not room.commit("carol").added


def test_12_3_adds_are_judged_by_the_new_extensions() -> None:
    able = supporting(extensions=(0xF001,))
    room = Room.of(bundle("alice", supports=able), bundle("bob", supports=able))
    proposals = (GroupContextExtensions((Extension(0xF001, b""),)), Add(DAVE.key_package))
    refused(room["alice"], forged_commit(room["bob"], *proposals), "13.4")
    refused(room["alice"], forged_commit(room["bob"], *reversed(proposals)), "13.4")
    room.commit("bob", proposals[:1])
    refused(room["alice"], forged_commit(room["bob"], Add(DAVE.key_package)), "13.4")


# --- 7.3: leaves in Updates ------------------------------------------------------------------


def test_7_3_leaf_of_an_update(room: Room) -> None:
    bob = room["bob"]
    leaf, _ = update_leaf(bob.suite, bob.own_leaf_parts(), bob.group_id, 1)

    def signed(index: int = 1, group_id: bytes = b"a room", **fields: object) -> Update:
        changed = replace(leaf, **fields)  # type: ignore[arg-type]
        return Update(sign_leaf(bob.suite, changed, bob.signature_key, group_id, index))

    bad = {
        "the leaf of an Update has another source": signed(source=CommitSource(b"")),
        "the leaf of an Update has another": signed(source=KeyPackageSource(Lifetime(0, 2**63))),
        "keeps the encryption key": signed(encryption_key=bob.own_leaf.encryption_key),
        "bad signature": signed(index=2),
        "bad signature: leaf": signed(group_id=b"another"),
        "does not list its own credential": signed(capabilities=replace(leaf.capabilities, credentials=(2,))),
        "extension of its own": signed(extensions=(Extension(0xF00A, b""),)),
    }
    for reason, update in bad.items():
        refused(room["alice"], forged(bob, update), reason)
        refused(room["alice"], forged(bob, update, public=False), reason)


def test_7_3_an_update_with_somebody_elses_keys_is_not_committed(room: Room) -> None:
    bob = room["bob"]
    carols = room["carol"].own_leaf.encryption_key
    leaf, _ = update_leaf(bob.suite, bob.own_leaf_parts(), bob.group_id, 1)
    update = Update(sign_leaf(bob.suite, replace(leaf, encryption_key=carols), bob.signature_key, b"a room", 1))
    message = forged(bob, update)
    room.hear(message, "bob")
    reference = room.last_reference("alice")
    refused(room["alice"], forged_commit(room["carol"], ProposalRef(reference)), "7.3")
    room.say("carol")


# --- 12.4.2, 7.5, 7.6: paths -----------------------------------------------------------------

Path = tuple[UpdatePathNode, ...]


@pytest.mark.parametrize(
    ("fields", "section"),
    [
        ({"source": UpdateSource()}, "7.3"),
        ({"source": KeyPackageSource(Lifetime(0, 2**63))}, "7.3"),
        ({"source": CommitSource(bytes(32))}, "7.9.2"),
        ({"encryption_key": THREE["bob"].own_leaf.encryption_key}, "12.4.2"),
        ({"encryption_key": THREE["carol"].own_leaf.encryption_key}, "12.4.2"),
        ({"encryption_key": b"short"}, ""),
        ({"signature_key": THREE["carol"].signature_key.public, "sign_with": THREE["carol"].signature_key}, "7.3"),
        ({"capabilities": replace(SUPPORTED, versions=())}, "7.2"),
        ({"capabilities": replace(SUPPORTED, credentials=(2,))}, "7.2"),
        ({"extensions": (Extension(0xF00A, b""),)}, "7.3"),
        ({"extensions": (Extension(1, b"\0"),) * 2}, "13.4"),
        ({"sign_with": THREE["carol"].signature_key}, "signature"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else str(value),
)
def test_7_3_leaf_of_a_path(room: Room, fields: dict[str, object], section: str) -> None:
    made = room["bob"].commit(now=NOW, options=PUBLIC)
    refused(room["alice"], changed_leaf(room["bob"], made, **fields), section)


def test_7_6_and_12_4_2_paths(room: Room) -> None:
    bob = room["bob"]
    made = bob.commit(now=NOW, options=PUBLIC)

    def nodes(change: Callable[[Path], Path]) -> bytes:
        def changed(commit: Commit) -> Commit:
            assert commit.path is not None
            return replace(commit, path=replace(commit.path, nodes=change(commit.path.nodes)))

        return changed_commit(bob, made, changed)

    def first(old: Path, **fields: Any) -> Path:
        return (replace(old[0], **fields), *old[1:])

    key = bob.suite.generate_key_pair().public
    junk = HPKECiphertext(key, bytes(48))
    refused(room["alice"], nodes(lambda old: old[:-1]), "7.6")
    refused(room["alice"], nodes(lambda old: (*old, old[-1])), "7.6")
    refused(room["alice"], nodes(lambda old: first(old, encrypted_path_secret=())), "7.6")
    refused(room["alice"], nodes(lambda old: first(old, encrypted_path_secret=(junk,) * 2)), "7.6")
    refused(room["alice"], nodes(lambda old: first(old, encrypted_path_secret=(junk,))), "decryption")
    refused(room["alice"], nodes(lambda old: first(old, encryption_key=key)), "7.9.2")
    refused(room["alice"], nodes(lambda old: first(old, encryption_key=b"short")), "")
    refused(room["alice"], nodes(lambda old: (old[1], *old[1:])), "12.4.2")  # a key twice
    present = room["alice"].own_leaf.encryption_key
    refused(room["alice"], nodes(lambda old: first(old, encryption_key=present)), "12.4.2")


def test_6_1_confirmation_tag(room: Room) -> None:
    made = room["bob"].commit(now=NOW, options=PUBLIC)
    refused(room["alice"], changed_commit(room["bob"], made, lambda commit: commit, tag=bytes(32)), "6.1")
    refused(room["alice"], changed_commit(room["bob"], made, lambda commit: commit, tag=b""), "6.1")
    assert room["alice"].process(made.commit, now=NOW)


def test_12_4_2_a_path_that_was_made_for_other_proposals(room: Room) -> None:
    """The path's encryption covers the provisional context (12.4.1), with it all that the list changes."""
    made = room["bob"].commit([Remove(2)], now=NOW, options=PUBLIC)
    refused(room["alice"], changed_commit(room["bob"], made, lambda commit: replace(commit, proposals=())), "")


def test_the_path_secret_of_somebody_added_at_once_is_in_the_welcome_only(room: Room) -> None:
    """RFC 9420 7.5: the resolution is encrypted to but for leaves that the same Commit adds."""
    made = room["bob"].commit([Add(DAVE.key_package)], now=NOW, options=CommitOptions(public=True, path=True))

    def more(commit: Commit) -> Commit:
        assert commit.path is not None
        *below, top = commit.path.nodes
        secrets = (*top.encrypted_path_secret, top.encrypted_path_secret[0])
        return replace(commit, path=replace(commit.path, nodes=(*below, replace(top, encrypted_path_secret=secrets))))

    refused(room["alice"], changed_commit(room["bob"], made, more), "7.6")
    assert won(made).tree.member(3) == DAVE.key_package.leaf_node


def test_7_3_the_lifetime_of_a_leaf_that_is_sent_and_of_one_that_is_received(room: Room) -> None:
    """The sender asks its own clock, with the tolerance; a receiver may read weeks later, and must not differ."""
    guest = bundle("guest", lifetime=Lifetime(NOW, NOW + 60))
    add = Add(guest.key_package)
    made = room["bob"].commit([add], now=NOW + 60, options=PUBLIC)
    for now in (NOW - HOUR - 1, NOW + 61 + HOUR):
        with pytest.raises(InvalidError, match=r"7\.3"):
            room["bob"].commit([add], now=now)
        with pytest.raises(InvalidError, match=r"7\.3"):
            room["bob"].propose(add, now=now)
    for now in (NOW - 90 * DAY, NOW + 60, NOW + 90 * DAY):
        assert room["alice"].process(made.commit, now=now)


def test_12_2_self_remove_that_somebody_does_not_support() -> None:
    room = Room.of("alice", "bob", "carol", bundle("dora", supports=supporting(proposals=())))
    message = forged(room["bob"], SelfRemove())
    for name in room.groups:
        room[name] = room[name].apply(room[name].process(message, now=NOW), now=NOW)
    reference = ProposalRef(room.last_reference("carol"))
    refused(room["alice"], forged_commit(room["carol"], reference), "not supported by all")
    made = forged_commit(room["carol"], reference, Remove(3))
    refused(room["alice"], made, "7.3")  # who is removed need not support it; the path's leaf is looked at next
