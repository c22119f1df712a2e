"""Groups whose cipher suite withstands quantum computers: what other tests do in suite 1, in the six of these.

Creation, Welcomes, Commits, external Commits, proposals and storage are in ``test_a_life_in_every_suite``, a ReInit
to each suite in ``test_11_2_any_member_goes_on``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from lxml import etree

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.crypto.hpke import HPKECiphertext
from slixmpp_mls.mls.group import external_join
from slixmpp_mls.mls.group.commit_creation import CommitBundle
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.schedule import key_schedule
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage, key_package_tbs
from slixmpp_mls.mls.structures.proposals import Add, PreSharedKey, ReInit
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.structures.update_path import UpdatePathNode
from slixmpp_mls.mls.tree.leaf_creation import sign_leaf
from slixmpp_mls.mls.xml_form import from_xml, to_xml
from tests.mls.group_helpers import (
    NOW,
    PUBLIC,
    Room,
    body,
    bundle,
    changed_commit,
    forged,
    group_info_of,
    refused,
    welcome_of,
    won,
)

TBD1 = CipherSuiteId.MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519
TBD10 = CipherSuiteId.MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65
SUITES = [number for number in CipherSuiteId if number >= 0xF000]
every_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"TBD{suite - 0xF000}")
NAMES = ("alice", "bob", "carol")
BEYOND_THE_MODULUS = b"\xff\xff"  # FIPS 203 7.2: the first coefficient of 12 bits is 4095, q is 3329


@every_suite
def test_8_4_psks(suite: int) -> None:
    room = Room.of(*NAMES, suite=suite)
    external, epoch = ExternalPSK(b"x"), room["bob"].epoch
    resumption = ResumptionPSK(ResumptionPSKUsage.APPLICATION, b"a room", epoch)
    nonce = bytes(room["bob"].suite.hash_length)
    known = {external: b"secret"}
    room.commit("bob", [PreSharedKey(PreSharedKeyID(name, nonce)) for name in (external, resumption)], psks=known.get)
    room.say("carol")


@every_suite
def test_11_3_branch(suite: int) -> None:
    room = Room.of(*NAMES, suite=suite)
    clients = {name: bundle(name, suite) for name in ("alice", "bob")}
    made = room["bob"].draft_branch(b"aside", clients["bob"], [clients["alice"].key_package], now=NOW).finish()
    joined = Group.join(welcome_of(made), clients["alice"], groups={b"a room": room["alice"]}.get)
    aside = Room({"bob": won(made), "alice": cast(Group, joined.state)})
    aside.agree()
    aside.say("alice")


@pytest.mark.parametrize(("old", "new"), [(1, TBD1), (TBD1, TBD10), (TBD10, 1)], ids=["up", "on", "back"])
def test_11_2_a_group_moves_to_another_suite(old: int, new: int) -> None:
    room = Room.of(*NAMES, suite=old)
    room.commit("alice", [ReInit(b"new", 1, new, ())])
    clients = {name: bundle(name, new) for name in NAMES}
    others = [clients[name].key_package for name in ("alice", "carol")]
    made = room["bob"].draft_reinitialize(clients["bob"], others, now=NOW).finish()
    moved = Room({"bob": won(made)})
    for name in ("alice", "carol"):
        joined = Group.join(welcome_of(made), clients[name], groups={b"a room": room[name]}.get)
        moved[name] = cast(Group, joined.state)
    moved.agree()
    assert moved["carol"].suite.id == new
    moved.say("carol")
    moved.commit("carol")


@every_suite
def test_every_message_has_an_xml_form(suite: int) -> None:
    """xep, section "XML form": lossless, and the suite has its name."""
    room = Room.of("alice", "bob", suite=suite)
    carol = bundle("carol", suite)
    made = room["bob"].commit([Add(carol.key_package)], now=NOW, options=PUBLIC)
    said, _ = room["alice"].encrypt(b"hello")
    info = room["alice"].group_info()
    for message in (MLSMessage.wrap(carol.key_package), made.commit, made.welcome, said, info):
        assert message is not None
        value = MLSMessage.decode(message)
        text = etree.tostring(to_xml(value))
        assert from_xml(etree.fromstring(text)).encode() == message
    assert CipherSuiteId(suite).name.encode() in etree.tostring(to_xml(MLSMessage.decode(info)))


# --- sizes ---


@pytest.mark.parametrize(
    ("suite", "key_package", "node"),
    [(1, 350, 117), (TBD1, 2720, 2391), (TBD10, 11070, 2344)],
    ids=["1", "TBD1", "TBD10"],
)
def test_sizes(suite: int, key_package: int, node: int) -> None:
    """One level of a full tree costs what the specification's table says; a KeyPackage without what XMPP adds, less."""
    assert len(bundle("alice", suite).key_package.encode()) <= key_package
    sizes = []
    for members in (4, 8):
        room = Room.of(*(f"m{number}" for number in range(members)), suite=suite)
        for name in list(room.groups):
            room.commit(name)
        commit = body(room["m0"].commit(now=NOW, options=PUBLIC).commit).content.content
        assert all(len(each.encrypted_path_secret) == 1 for each in commit.path.nodes)
        sizes.append([len(each.encode()) for each in commit.path.nodes])
    for each in sizes:
        assert set(each) == {node}
    assert len(sizes[1]) == len(sizes[0]) + 1


# --- what a malicious member sends ---


def nodes_changed(group: Group, made: CommitBundle, change: Callable[[UpdatePathNode], UpdatePathNode]) -> bytes:
    def changed(commit: Commit) -> Commit:
        assert commit.path is not None
        first, *more = commit.path.nodes
        return replace(commit, path=replace(commit.path, nodes=(change(first), *more)))

    return changed_commit(group, made, changed)


def sealed_changed(change: Callable[[HPKECiphertext], HPKECiphertext]) -> Callable[[UpdatePathNode], UpdatePathNode]:
    def changed(node: UpdatePathNode) -> UpdatePathNode:
        return replace(node, encrypted_path_secret=tuple(change(each) for each in node.encrypted_path_secret))

    return changed


@every_suite
def test_7_6_a_path_with_bad_keys_or_ciphertexts_is_refused(suite: int) -> None:
    room = Room.of("alice", "bob", suite=suite)
    bob = room["bob"]
    made = bob.commit(now=NOW, options=PUBLIC)

    def key(change: Callable[[bytes], bytes]) -> bytes:
        return nodes_changed(bob, made, lambda node: replace(node, encryption_key=change(node.encryption_key)))

    def sealed(change: Callable[[HPKECiphertext], HPKECiphertext]) -> bytes:
        return nodes_changed(bob, made, sealed_changed(change))

    refused(room["alice"], key(lambda old: BEYOND_THE_MODULUS + old[2:]), "5.1.1")
    refused(room["alice"], key(lambda old: old[:-1]), "5.1.1")
    refused(room["alice"], key(lambda old: old + bytes(2**16)), "5.1.1")
    refused(room["alice"], sealed(lambda old: replace(old, kem_output=old.kem_output[:-1])), "5.1.3")
    refused(room["alice"], sealed(lambda old: replace(old, kem_output=old.kem_output + b"\0")), "5.1.3")
    refused(room["alice"], sealed(lambda old: replace(old, kem_output=bytes(len(old.kem_output)))), "5.1.3")
    flipped = [bytes((1,)) + bytes(10), bytes(10) + bytes((1,))]
    for flip in flipped:
        refused(room["alice"], sealed(lambda old, flip=flip: replace(old, kem_output=_xor(old.kem_output, flip))), "")  # type: ignore[misc]
    refused(room["alice"], sealed(lambda old: replace(old, ciphertext=_xor(old.ciphertext, b"\1"))), "5.1.3")
    assert room["alice"].process(made.commit, now=NOW)


def _xor(octets: bytes, flip: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(octets, flip, strict=False)) + octets[len(flip) :]


@every_suite
def test_10_1_key_packages_with_bad_keys_are_refused(suite: int) -> None:
    """Nobody could encrypt to such a key."""
    room, dave = Room.of("alice", "bob", suite=suite), bundle("dave", suite)
    alice, package = room["alice"], dave.key_package

    def signed(changed: KeyPackage) -> KeyPackage:
        content = key_package_tbs(changed)
        return replace(
            changed, signature=dave.suite.sign_with_label(dave.own_leaf.signature_key, "KeyPackageTBS", content)
        )

    bad_init = signed(replace(package, init_key=BEYOND_THE_MODULUS + package.init_key[2:]))
    leaf = package.leaf_node
    bad_leaf = replace(leaf, encryption_key=BEYOND_THE_MODULUS + leaf.encryption_key[2:])
    bad_leaf = sign_leaf(dave.suite, bad_leaf, dave.own_leaf.signature_key)
    for bad in (bad_init, signed(replace(package, leaf_node=bad_leaf))):
        with pytest.raises(InvalidError, match=r"5\.1\.1"):
            alice.commit([Add(bad)], now=NOW)
        refused(room["bob"], forged(alice, Add(bad)), "5.1.1")
    with pytest.raises(InvalidError, match=r"10\.1"):
        alice.commit([Add(bundle("dave", 1).key_package)], now=NOW)


@every_suite
def test_8_3_an_external_commit_with_a_bad_kem_output_is_refused(suite: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ML-KEM rejects implicitly (FIPS 203): a changed output gives another secret, and the tag tells."""
    room, dave = Room.of("alice", "bob", suite=suite), bundle("dave", suite)
    honest = key_schedule.external_init

    def commit(change: Callable[[bytes], bytes]) -> bytes:
        def changed(*arguments: Any) -> tuple[bytes, bytes]:
            kem_output, secret = honest(*arguments)
            return change(kem_output), secret

        monkeypatch.setattr(external_join, "external_init", changed)
        return Group.external_commit(group_info_of(room["alice"]), dave.own_leaf, now=NOW).commit

    assert room["alice"].process(commit(lambda old: old), now=NOW)
    refused(room["alice"], commit(lambda old: old[:-1]), "8.3")
    refused(room["alice"], commit(lambda old: old + b"\0"), "8.3")
    refused(room["alice"], commit(lambda old: _xor(old, b"\1")), "6.1")


@every_suite
def test_12_4_3_1_a_welcome_with_a_bad_kem_output_is_refused(suite: int) -> None:
    room, dave = Room.of("alice", "bob", suite=suite), bundle("dave", suite)
    made = room["bob"].commit([Add(dave.key_package)], now=NOW)
    welcome = welcome_of(made)
    (entry,) = welcome.secrets
    for change in (lambda old: old[:-1], lambda old: _xor(old, b"\1"), lambda old: bytes(len(old)), lambda old: b""):
        sealed = entry.encrypted_group_secrets
        bad = replace(entry, encrypted_group_secrets=replace(sealed, kem_output=change(sealed.kem_output)))
        with pytest.raises(InvalidError, match=r"5\.1\.3"):
            Group.join(replace(welcome, secrets=(bad,)), dave)
    assert Group.join(welcome, dave).state.epoch == room["bob"].epoch + 1
