"""The vectors of xep/vectors: what this project does is what they say, and they come out as they are."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate
from lxml import etree

from slixmpp_mls.authentication import X509Service
from slixmpp_mls.client import (
    Device,
    Event,
    GroupChanged,
    GroupContinued,
    Incoming,
    Joined,
    KeyPackageSettings,
    Rejected,
    RoomGroup,
    Unsure,
)
from slixmpp_mls.client.group.annotations import Annotations as AnnotationsContent
from slixmpp_mls.client.group.certainty import INQUIRY_LABEL, Certainty, signed_content
from slixmpp_mls.client.group.certainty import Inquiry as SignedInquiry
from slixmpp_mls.client.group.ephemeral import Ephemeral as EphemeralReader
from slixmpp_mls.client.group.group_info_key import GroupInfoKey, begins_key, open_group_info
from slixmpp_mls.client.group.membership_proofs import MembershipProofs
from slixmpp_mls.errors import InvalidError, MalformedError, PeerError, PolicyViolation
from slixmpp_mls.identity import ClientIdentity, fingerprint, key_identifier
from slixmpp_mls.identity.certificates import certified_key, chain_of
from slixmpp_mls.key_packages.items import parse_item, verify_item
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.crypto.hpke import HPKECiphertext
from slixmpp_mls.mls.group.commit_effects import ChangeKind, Effects, MemberChange
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.mls.registry import ExtensionType
from slixmpp_mls.mls.structures.credential import BasicCredential, Certificate, X509Credential
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import MemberSender, MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.key_package import KeyPackage as MLSKeyPackage
from slixmpp_mls.mls.structures.leaf_node import Capabilities, LeafNode, UpdateSource
from slixmpp_mls.mls.structures.partial import AnnotatedCommit
from slixmpp_mls.mls.structures.welcome import GroupInfo as SignedGroupInfo
from slixmpp_mls.mls.structures.welcome import Welcome as WelcomeMessage
from slixmpp_mls.mls.structures.welcome import group_info_tbs
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from slixmpp_mls.mls.tree.leaf_validation import GroupRequirements, LeafRules
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.tree.tree_slice import prove
from slixmpp_mls.policy import ExternalJoins, RemovedClients, RoomPolicy
from slixmpp_mls.policy.check import judge
from slixmpp_mls.policy.continuation import check_continuation
from slixmpp_mls.policy.roster import Roster
from slixmpp_mls.rooms.content import PROFILE
from slixmpp_mls.rooms.engine.commit_turns import order_of, place
from slixmpp_mls.rooms.rich import RoomReferences
from slixmpp_mls.rooms.signals import open_signal
from slixmpp_mls.stanza import (
    AnnotationRequest,
    Annotations,
    Application,
    Commit,
    CommitLocation,
    Ephemeral,
    GroupInfo,
    RoomElement,
    Welcome,
    WelcomeLocation,
    parse,
    read_payloads,
)
from slixmpp_mls.stanza import Device as DeviceElement
from slixmpp_mls.stanza.blob import RatchetTreeLocation
from slixmpp_mls.stanza.consistency import check as check_consistency
from slixmpp_mls.stanza.elements import Answer, Inquiry
from slixmpp_mls.stanza.locations import CommitPlace, WelcomePlace
from slixmpp_mls.stanza.rich import STATES
from slixmpp_mls.stanza.sce import Envelope, mismatches
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import World

from .test_xep import XEP, script

SUITE = CipherSuite.get(1)
SCHEMA = etree.XMLSchema(file=str(XEP / "mls.xsd"))
unhex = bytes.fromhex


def load(name: str) -> dict[str, Any]:
    content = json.loads((XEP / "vectors" / f"{name}.json").read_bytes())
    assert isinstance(content, dict)
    return content


def generator() -> Any:
    sys.path.insert(0, str(XEP))
    try:
        return script("generate_vectors")
    finally:
        sys.path.remove(str(XEP))


GENERATOR = generator()


def test_all_files_are_described_and_marked() -> None:
    found = {path.stem for path in (XEP / "vectors").glob("*.json")}
    assert found == set(GENERATOR.FILES)
    readme = (XEP / "vectors" / "README.md").read_text(encoding="utf-8")
    for name in found:
        assert f"## {name}.json" in readme
        assert "test keys" in load(name)["warning"]


@pytest.mark.parametrize("name", sorted(set(GENERATOR.FILES) - GENERATOR.CHANGING))
def test_they_come_out_as_they_are(name: str) -> None:
    made = json.loads(json.dumps({"warning": GENERATOR.WARNING, **GENERATOR.FILES[name]()}))
    assert made == load(name)


# --- identity.json -----------------------------------------------------------------------------

IDENTITY = load("identity")


@pytest.mark.parametrize("case", IDENTITY["valid"], ids=lambda case: f"{case['account']}/{case['device'][:8]}")
def test_identity(case: dict[str, str]) -> None:
    client = ClientIdentity(case["account"], case["device"])
    assert client.credential() == BasicCredential(unhex(case["identity"]))
    assert ClientIdentity.from_credential(BasicCredential(unhex(case["identity"]))) == client


@pytest.mark.parametrize("case", IDENTITY["invalid"], ids=lambda case: case["reason"])
def test_no_identity(case: dict[str, str]) -> None:
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(BasicCredential(unhex(case["identity"])))


@pytest.mark.parametrize("case", IDENTITY["keys"], ids=lambda case: case["shown"][:8])
def test_key_identifier(case: dict[str, str]) -> None:
    key = unhex(case["signature_key"])
    assert hashlib.sha256(key).hexdigest() == case["key_identifier"] == key_identifier(key).hex()
    assert case["shown"].replace(" ", "") == case["key_identifier"]
    assert fingerprint(key) == case["shown"]


# --- device.json and stanzas.json --------------------------------------------------------------

DEVICES = load("device")


@pytest.mark.parametrize("case", DEVICES["valid"], ids=lambda case: case["id"])
def test_device(case: dict[str, Any]) -> None:
    SCHEMA.assertValid(etree.fromstring(case["xml"]))
    device = parse(case["xml"])
    assert isinstance(device, DeviceElement)
    assert (device.id, device.label) == (case["id"], case["label"])
    assert (None if device.added is None else int(device.added.timestamp())) == case["added"]
    assert [(key.scheme, key.data.hex()) for key in device.keys] == [
        (key["scheme"], key["key"]) for key in case["keys"]
    ]
    assert [(each.scheme, each.data.hex()) for each in device.vouchers] == [
        (each["scheme"], each["voucher"]) for each in case["vouchers"]
    ]


@pytest.mark.parametrize("case", DEVICES["invalid"], ids=lambda case: case["reason"])
def test_no_device(case: dict[str, str]) -> None:
    assert not SCHEMA.validate(etree.fromstring(case["xml"]))
    with pytest.raises(MalformedError):
        parse(case["xml"])


@pytest.mark.parametrize("case", load("stanzas")["cases"], ids=lambda case: case["name"])
def test_elements_in_a_stanza(case: dict[str, Any]) -> None:
    try:
        found, refused = read_payloads(case["xml"])
    except MalformedError as error:
        found, refused = [], [error]
    assert [element.NAME for element in found] == case["counts"]
    assert bool(refused) == case["reported"]


def test_what_counts_in_a_stanza_has_been_thought_through() -> None:
    void = {case["name"] for case in load("stanzas")["cases"] if not case["counts"]}
    assert void == {
        "nothing of ours", "a commit and an application", "two commits", "two applications",
        "a commit, and one that cannot be read", "a commit that cannot be read, and its welcome", "a welcome alone",
        "a key-package", "a commit, and one elsewhere", "two proposals", "a welcome elsewhere alone",
    }  # fmt: skip


# --- certificates.json -------------------------------------------------------------------------

CERTIFICATES = load("certificates")


def credential_of(case: dict[str, Any]) -> X509Credential:
    return X509Credential(tuple(Certificate(unhex(each)) for each in case["certificates"]))


@pytest.mark.parametrize("case", CERTIFICATES["named"], ids=lambda case: case["certificates"][0][-8:])
def test_a_credential_that_names_a_client(case: dict[str, Any]) -> None:
    credential = credential_of(case)
    assert ClientIdentity.from_credential(credential) == ClientIdentity(case["account"], case["device"])
    assert certified_key(chain_of(credential)[0]) == (case["signature_scheme"], unhex(case["signature_key"]))


@pytest.mark.parametrize("case", CERTIFICATES["not_named"], ids=lambda case: case["reason"])
def test_a_credential_that_names_nobody(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(credential_of(case))


@pytest.mark.parametrize("case", CERTIFICATES["judged"], ids=lambda case: case["reason"])
async def test_a_certificate_is_judged(case: dict[str, Any], tmp_path: Path) -> None:
    crl = tmp_path / "crl.der"
    crl.write_bytes(unhex(CERTIFICATES["revocation_list"]))
    root = load_der_x509_certificate(unhex(CERTIFICATES["root"])).public_bytes(Encoding.PEM)
    service = X509Service(root, crls=crl, clock=lambda: case["time"])
    leaf = LeafNode(b"", unhex(case["signature_key"]), credential_of(case), Capabilities((), ()), UpdateSource(), ())
    (verdict,) = await service.validate([leaf], CipherSuite.get(case["cipher_suite"]))
    assert verdict.validity.value == case["answer"]


# --- turns.json --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", load("turns")["cases"], ids=lambda case: f"epoch {case['epoch']}")
def test_turns(case: dict[str, Any]) -> None:
    """xep/mls.xml, "Taking Turns": all compute the same order."""
    order = order_of(unhex(case["group_id"]), case["epoch"], unhex(case["reply_key"]))
    for number, own in enumerate(case["order"]):
        others = [each for each in case["order"] if each != own]
        assert place(own, others, order) == number
    assert case["order"] == sorted(case["hashes"], key=case["hashes"].__getitem__)


# --- policy.json -------------------------------------------------------------------------------

POLICY = load("policy")


@pytest.mark.parametrize("case", POLICY["valid"], ids=lambda case: case["encoded"][-22:])
def test_policy(case: dict[str, Any]) -> None:
    assert POLICY["extension_type"] == RoomPolicy.TYPE
    policy = GENERATOR.policy_of(case["policy"])
    assert policy.encode().hex() == case["encoded"]
    assert RoomPolicy.decode(unhex(case["encoded"])) == policy


@pytest.mark.parametrize("case", POLICY["invalid"], ids=lambda case: case["reason"])
def test_no_policy(case: dict[str, str]) -> None:
    with pytest.raises(MalformedError):
        RoomPolicy.decode(unhex(case["encoded"]))


CHECKS = POLICY["checks"]
CASES = sys.modules["policy_vectors"]  # loaded by the generator


def test_every_check_of_the_policy_has_been_thought_through() -> None:
    """Whether a Commit is allowed stands beside each case in the generator, by hand."""
    allowed = CASES.ALLOWED
    assert {case["name"]: case["broken_rule"] is None for case in CHECKS["cases"]} == allowed


@pytest.mark.parametrize("case", CHECKS["cases"], ids=lambda case: case["name"])
def test_policy_check(case: dict[str, Any]) -> None:
    leaves = [LeafNode.decode(unhex(leaf)) for leaf in CHECKS["leaves"]]
    assert [str(ClientIdentity.from_leaf(leaf)) for leaf in leaves] == CHECKS["members"]
    assert unhex(CHECKS["group_id"]) == CASES.GROUP_ID
    removed = RemovedClients.decode(unhex(case["removed_clients"]))
    view = CASES.view_of(RoomPolicy.decode(unhex(case["policy"])), leaves, removed)
    effects = CASES.effects_of(view, case["committer"], case["changes"], case["new_policy"])
    if case["broken_rule"] is None:
        assert judge(view, effects).removed.encode().hex() == case["removed_clients_after"]
        return
    with pytest.raises(PolicyViolation) as refused:
        judge(view, effects)
    assert refused.value.rule == case["broken_rule"]


# --- continuations.json ------------------------------------------------------------------------

CONTINUATIONS = load("continuations")


def test_every_continuation_has_been_thought_through() -> None:
    """As for the checks of the policy."""
    allowed = sys.modules["continuation_vectors"].ALLOWED
    assert {case["name"]: case["followed"] for case in CONTINUATIONS["cases"]} == allowed


@pytest.mark.parametrize("case", CONTINUATIONS["cases"], ids=lambda case: case["name"])
def test_continuation(case: dict[str, Any]) -> None:
    closed = [LeafNode.decode(unhex(leaf)) for leaf in CONTINUATIONS["leaves"]]
    after = [LeafNode.decode(unhex(leaf)) for leaf in case["leaves"]]
    assert list(map(ClientIdentity.from_leaf, closed)) == list(map(ClientIdentity.from_leaf, after))
    view = CASES.view_of(RoomPolicy.decode(unhex(CONTINUATIONS["policy"])), closed, RemovedClients())
    maker = next(client for client in map(ClientIdentity.from_leaf, closed) if str(client) == case["maker"])
    if case["followed"]:
        return check_continuation(view, after, maker)
    with pytest.raises(PolicyViolation):
        check_continuation(view, after, maker)


# --- key-packages.json -------------------------------------------------------------------------

PACKAGES = load("key-packages")


@pytest.mark.parametrize("item", PACKAGES["items"], ids=lambda item: item["name"])
def test_key_package(item: dict[str, Any]) -> None:
    extensions = tuple(Extension(one["type"], unhex(one["data"])) for one in PACKAGES["group_extensions"])
    requirements = GroupRequirements.of(CipherSuite.get(PACKAGES["group_suite"]), 1, extensions)
    rules = LeafRules(PACKAGES["now"], 90 * DAY, HOUR)
    element = etree.fromstring(item["xml"])
    SCHEMA.assertValid(element)
    if item["accepted"]:
        parsed = parse_item(element)
        opened = verify_item(item["item_id"], parsed, PACKAGES["account"], requirements, rules)
        assert opened.last_resort == item["last_resort"]  # the attribute is a hint
    else:
        with pytest.raises(PeerError):
            verify_item(item["item_id"], parse_item(element), PACKAGES["account"], requirements, rules)


# --- messages.json, by the letter of RFC 9420 and none of our own code -------------------------

MESSAGES = load("messages")


def expand_with_label(secret: bytes, label: str, context: bytes, length: int) -> bytes:
    """RFC 9420 8, for outputs of at most one block."""
    full = b"MLS 1.0 " + label.encode()
    info = struct.pack(">HB", length, len(full)) + full + bytes([len(context)]) + context
    return hmac.digest(secret, info + b"\x01", "sha256")[:length]


def ratchet(secret: bytes, generation: int) -> tuple[bytes, bytes]:
    """RFC 9420 9.1: key and nonce of a generation."""
    for number in range(generation):
        secret = expand_with_label(secret, "secret", struct.pack(">I", number), 32)
    context = struct.pack(">I", generation)
    return expand_with_label(secret, "key", context, 16), expand_with_label(secret, "nonce", context, 12)


def vector(data: bytes) -> bytes:
    """opaque<V> (RFC 9420 2.1.2)."""
    if len(data) < 64:
        return bytes([len(data)]) + data
    return struct.pack(">H", 0x4000 | len(data)) + data


@pytest.mark.parametrize("case", MESSAGES["messages"], ids=lambda case: case["origin_id"])
def test_message(case: dict[str, Any]) -> None:
    element = parse(case["element"])
    assert isinstance(element, Application)
    assert element.data.hex() == case["message"]
    private = check_consistency(element).body
    assert isinstance(private, PrivateMessage)
    assert private.authenticated_data == case["origin_id"].encode()

    # 6.3.2: who sent it
    sample = private.ciphertext[:32]
    secret = unhex(MESSAGES["sender_data_secret"])
    head = vector(private.group_id) + struct.pack(">QB", private.epoch, 1)
    key, nonce = (expand_with_label(secret, label, sample, size) for label, size in (("key", 16), ("nonce", 12)))
    leaf, generation, guard = struct.unpack(">II4s", AESGCM(key).decrypt(nonce, private.encrypted_sender_data, head))
    assert (leaf, generation, guard.hex()) == (MESSAGES["sender_leaf"], case["generation"], case["reuse_guard"])

    # 9, 6.3.1: its content; in a tree of one leaf the root is the leaf
    root = unhex(MESSAGES["encryption_secret"])
    key, nonce = ratchet(expand_with_label(root, "application", b"", 32), generation)
    assert (key.hex(), nonce.hex()) == (case["key"], case["nonce"])
    guarded = bytes(a ^ b for a, b in zip(nonce, guard + bytes(8), strict=True))
    content = AESGCM(key).decrypt(guarded, private.ciphertext, head + vector(private.authenticated_data))
    envelope = case["envelope"].encode()
    assert content.startswith(vector(envelope))
    rest = content[len(vector(envelope)) :]
    assert rest[:2] == b"\x40\x40"
    signature, padding = rest[2:66], rest[66:]
    assert not any(padding)
    assert len(content) % 64 == 0

    # 6.1: its signature, over version, wire format, FramedContent and GroupContext
    framed = vector(private.group_id) + struct.pack(">QBI", private.epoch, 1, leaf)
    framed += vector(private.authenticated_data) + b"\x01" + vector(envelope)
    signed = struct.pack(">HH", 1, 2) + framed + unhex(MESSAGES["group_context"])
    labeled = vector(b"MLS 1.0 FramedContentTBS") + vector(signed)
    Ed25519PublicKey.from_public_bytes(unhex(MESSAGES["signature_key"])).verify(signature, labeled)

    opened = Envelope.open(envelope, PROFILE)
    account = MESSAGES["sender"].partition("/")[0]
    sent = datetime.fromtimestamp(case["time"], UTC)
    assert mismatches(opened, PROFILE, sender=account, recipient=MESSAGES["room"], sent=sent) == []
    assert [body.text for body in opened.content] == [case["body"]]


# --- tree-location.json ------------------------------------------------------------------------


def test_group_info() -> None:
    """Made again from the document alone: mls-recovery.xml, "Encrypted GroupInfos"."""
    case = load("group-infos")
    derived = expand_with_label(unhex(case["exporter_secret"]), "MLS-XMPP 1.0 group-info", b"", 32)  # 8.5
    key = expand_with_label(derived, "exported", hashlib.sha256(b"").digest(), 32)
    assert key.hex() == case["group_info_key"]
    assert case["extension_data"] == (struct.pack(">Q", case["key_epoch"]) + vector(key)).hex()
    assert case["extension_type"] == GroupInfoKey.TYPE
    element = etree.fromstring(case["element"])
    SCHEMA.assertValid(element)
    parsed = parse(case["element"])
    assert isinstance(parsed, GroupInfo)
    salt, message, group_id = unhex(case["salt"]), unhex(case["group_info"]), unhex(case["group_id"])
    aead_key, nonce = expand_with_label(key, "key", salt, 16), expand_with_label(key, "nonce", salt, 12)
    places = vector(group_id) + struct.pack(">QQ", parsed.epoch, case["key_epoch"])
    sealed = AESGCM(aead_key).encrypt(nonce, message, places)
    assert parsed.data == struct.pack(">Q", case["key_epoch"]) + vector(salt) + vector(sealed)
    assert parsed.key_epoch == case["key_epoch"]
    assert open_group_info(parsed, GroupInfoKey(case["key_epoch"], key), SUITE) == message


@pytest.mark.parametrize("case", load("group-infos")["refused"], ids=lambda case: case["reason"])
def test_no_group_info(case: dict[str, str]) -> None:
    made = load("group-infos")
    parsed = parse(case["element"])
    assert isinstance(parsed, GroupInfo)
    with pytest.raises(PeerError):
        open_group_info(parsed, GroupInfoKey(made["key_epoch"], unhex(made["group_info_key"])), SUITE)


@pytest.mark.parametrize("case", load("group-infos")["new_keys"])
def test_new_group_info_key(case: dict[str, Any]) -> None:
    def changes(kind: ChangeKind, identities: list[str]) -> list[MemberChange]:
        leaves = [named(identity) for identity in identities]
        removed = kind is ChangeKind.REMOVED
        return [
            MemberChange(kind, MemberSender(LeafIndex(0)), index, leaf if removed else None, None if removed else leaf)
            for index, leaf in enumerate(leaves, start=1)
        ]

    changed = (*changes(ChangeKind.REMOVED, case["removed"]), *changes(ChangeKind.ADDED, case["added"]))
    effects = Effects(MemberSender(LeafIndex(0)), 0, changed, None, (), None)
    policy = RoomPolicy("r@c.example", ("a@a.example",), external_joins=ExternalJoins(case["external_joins_before"]))
    assert begins_key(effects, policy, case["epoch_begun"]) is case["begins_new_key"]


def named(identity: str) -> LeafNode:
    credential = BasicCredential(identity.encode())
    return LeafNode(b"", b"", credential, Capabilities((), (), (), (), ()), UpdateSource(), (), b"")


def test_inquiry() -> None:
    """Verified from the document alone: mls-recovery.xml, "Not Being Sure"; SignWithLabel: RFC 9420 5.1.2."""
    case = load("inquiry")
    for name in ("inquiry", "answer"):
        SCHEMA.assertValid(etree.fromstring(case[name]))
    asked, answer = parse(case["inquiry"]), parse(case["answer"])
    assert isinstance(asked, Inquiry)
    assert isinstance(answer, Answer)
    state = hashlib.sha256(unhex(case["group_context"])).digest()
    reply_key = SUITE.import_hpke_key(unhex(case["reply_private_key"]))
    fields = struct.pack(">I", 0) + vector(state) + struct.pack(">Q", case["time"]) + vector(reply_key.public)
    signed = vector(unhex(case["group_id"])) + fields
    assert signed.hex() == case["inquiry_tbs"]
    assert asked.data.startswith(fields)
    signature = asked.data[-64:]
    assert asked.data == fields + vector(signature)
    label = b"MLS 1.0 MLS-XMPP 1.0 inquiry"
    Ed25519PublicKey.from_public_bytes(unhex(case["signature_key"])).verify(signature, vector(label) + vector(signed))
    sealed = HPKECiphertext.decode(answer.data)
    opened = SUITE.decrypt_with_label(reply_key, "MLS-XMPP 1.0 answer", unhex(case["group_id"]), sealed)
    assert opened.hex() == case["group_info"]


@pytest.mark.parametrize("case", load("inquiry")["refused"], ids=lambda case: case["reason"])
def test_no_inquiry(case: dict[str, str]) -> None:
    made, parsed = load("inquiry"), parse(case["inquiry"])
    assert isinstance(parsed, Inquiry)
    asked = SignedInquiry.decode(parsed.data)
    content = signed_content(unhex(made["group_id"]), asked)
    changed = asked.state != hashlib.sha256(unhex(made["group_context"])).digest()
    with pytest.raises(PeerError):
        SUITE.verify_with_label(unhex(made["signature_key"]), INQUIRY_LABEL, content, asked.signature)
    assert changed == (case["reason"] == "another state")


def inquiry_group(own_index: int) -> tuple[Certainty, SimpleNamespace]:
    """One of the two members of the inquiries' group, and what it has of the group's state."""
    case, octets = load("inquiry"), unhex(load("inquiry")["group_info"])
    info = MLSMessage.decode(octets).body
    assert isinstance(info, SignedGroupInfo)
    data = next(each.extension_data for each in info.extensions if each.extension_type == ExtensionType.RATCHET_TREE)
    tree = RatchetTree.decode(SUITE, data)
    group = SimpleNamespace(
        suite=SUITE,
        group_id=unhex(case["group_id"]),
        epoch=info.group_context.epoch,
        context=info.group_context,
        own_index=own_index,
        tree=tree,
        group_info=lambda **_: octets,
    )
    membership = SimpleNamespace(group=group, roster=Roster.of(tree.members()))
    state = SimpleNamespace(
        membership=membership,
        require_member=lambda: membership,
        unsure=SimpleNamespace(behind=0, reasons=0),
        group_info_key=None,
    )
    return Asking(SimpleNamespace(random=os.urandom), state, None), group  # type: ignore[arg-type]


class Asking(Certainty):
    def _settle(self, now: int) -> list[Event]:
        return [Unsure("r@c.example", 1, ())]  # sure again


def test_an_inquiry_is_answered_once_and_an_older_one_never() -> None:
    """mls-recovery.xml, "Not Being Sure": the time is later than that of the latest one that was answered."""
    answering, _ = inquiry_group(1)
    made = load("inquiry")
    for number, case in enumerate(made["in_this_order"]):
        parsed = parse(case["inquiry"])
        assert isinstance(parsed, Inquiry)
        asked = answering.judge(parsed)
        assert (asked is not None) is case["answered"], number
        if asked is not None:
            answering.answer(asked, made["time"])


def take_answer(xml: str) -> list[Event]:
    made, parsed = load("inquiry"), parse(xml)
    assert isinstance(parsed, Answer)
    asking, _ = inquiry_group(0)
    asking._reply_key = SUITE.import_hpke_key(unhex(made["reply_private_key"]))
    return asking.take_answer(parsed, made["time"])


def test_an_answer_makes_sure() -> None:
    made = load("inquiry")
    info = MLSMessage.decode(unhex(made["group_info"])).body
    assert isinstance(info, SignedGroupInfo)
    assert info.signer == 1
    assert {ExtensionType.EXTERNAL_PUB, ExtensionType.RATCHET_TREE, GroupInfoKey.TYPE} <= {
        each.extension_type for each in info.extensions
    }
    key = unhex(made["answering_signature_key"])
    SUITE.verify_with_label(key, "GroupInfoTBS", group_info_tbs(info), info.signature)
    assert take_answer(made["answer"])


@pytest.mark.parametrize("case", load("inquiry")["refused_answers"], ids=lambda case: case["reason"])
def test_no_answer(case: dict[str, str]) -> None:
    """mls-recovery.xml, "Not Being Sure"."""
    SCHEMA.assertValid(etree.fromstring(case["answer"]))
    if case["reason"] == "sealed for another group":
        assert take_answer(case["answer"]) == []  # it cannot be told from one to somebody else
        return
    with pytest.raises(PeerError):
        take_answer(case["answer"])


def test_ephemeral() -> None:
    """Opened from the document alone: mls.xml, "Ephemeral Content"."""
    case = load("ephemeral")
    SCHEMA.assertValid(etree.fromstring(case["element"]))
    parsed = parse(case["element"])
    assert isinstance(parsed, Ephemeral)
    derived = expand_with_label(unhex(case["exporter_secret"]), "MLS-XMPP 1.0 ephemeral", b"", 32)  # RFC 9420 8.5
    secret = expand_with_label(derived, "exported", hashlib.sha256(b"").digest(), 32)
    salt = parsed.data[1:33]
    assert parsed.data[:33] == vector(salt)
    key, nonce = expand_with_label(secret, "key", salt, 16), expand_with_label(secret, "nonce", salt, 12)
    plain = AESGCM(key).decrypt(nonce, parsed.data[35:], b"")  # after a length of two octets
    assert parsed.data[33:] == vector(parsed.data[35:])
    envelope = case["envelope"].encode()
    begin = struct.pack(">I", case["sender"]) + vector(envelope)
    assert plain[: len(begin)] == begin
    signature = plain[len(begin) :]
    signature = signature[-64:]
    assert plain == begin + vector(signature)
    signed = unhex(case["group_context"]) + struct.pack(">I", case["sender"]) + vector(salt) + vector(envelope)
    label = b"MLS 1.0 MLS-XMPP 1.0 ephemeral"  # SignWithLabel, RFC 9420 5.1.2
    Ed25519PublicKey.from_public_bytes(unhex(case["signature_key"])).verify(signature, vector(label) + vector(signed))


EPHEMERAL = load("ephemeral")


def opened_ephemeral(xml: str) -> ET.Element | None:
    """What this project makes of ephemeral content, as another member of the group; None if it passes over it."""
    tree, context = RatchetTree.decode(SUITE, unhex(EPHEMERAL["ratchet_tree"])), unhex(EPHEMERAL["group_context"])
    group_context = GroupContext.decode(context)

    def export(label: str, value: bytes, length: int) -> bytes:  # RFC 9420 8.5
        derived = expand_with_label(unhex(EPHEMERAL["exporter_secret"]), label, b"", 32)
        return expand_with_label(derived, "exported", hashlib.sha256(value).digest(), length)

    group = SimpleNamespace(
        group_id=group_context.group_id, epoch=group_context.epoch, suite=SUITE, export=export, own_index=-1,
        epoch_authenticator=b"", tree=tree, context=group_context,
    )  # fmt: skip
    state = SimpleNamespace(membership=SimpleNamespace(group=group))
    element = parse(xml)
    assert isinstance(element, Ephemeral)
    received = EphemeralReader(cast("Any", None), cast("Any", state)).open(element, EPHEMERAL["now"])
    return None if received is None else open_signal(received, GENERATOR.ROOM, EPHEMERAL["now"])


def test_ephemeral_content_is_read() -> None:
    found = opened_ephemeral(EPHEMERAL["element"])
    assert found is not None
    assert [child.tag for child in found] == [f"{{{STATES}}}composing"]


@pytest.mark.parametrize("case", EPHEMERAL["refused"], ids=lambda case: case["reason"])
def test_no_ephemeral_content(case: dict[str, str]) -> None:
    SCHEMA.assertValid(etree.fromstring(case["element"]))
    with pytest.raises(PeerError):
        opened_ephemeral(case["element"])


@pytest.mark.parametrize("case", EPHEMERAL["ignored"], ids=lambda case: case["reason"])
def test_ephemeral_content_that_is_passed_over(case: dict[str, str]) -> None:
    assert opened_ephemeral(case["element"]) is None


# --- annotations.json --------------------------------------------------------------------------

ANNOTATIONS = load("annotations")


def unsealed_annotations(xml: str) -> bytes:
    """Opened from the document alone: mls.xml, "Staying Partial"."""
    SCHEMA.assertValid(etree.fromstring(xml))
    element = parse(xml)
    assert isinstance(element, AnnotationRequest | Annotations)
    derived = expand_with_label(unhex(ANNOTATIONS["exporter_secret"]), "MLS-XMPP 1.0 annotations", b"", 32)
    secret = expand_with_label(derived, "exported", hashlib.sha256(b"").digest(), 32)  # RFC 9420 8.5
    salt = element.data[1:33]
    assert element.data[:33] == vector(salt)
    ciphertext = element.data[33 + (1 << (element.data[33] >> 6)) :]  # RFC 9420 2.1.2: after its length
    assert element.data[33:] == vector(ciphertext)
    key, nonce = expand_with_label(secret, "key", salt, 16), expand_with_label(secret, "nonce", salt, 12)
    aad = vector(element.NAME.encode()) + vector(element.group) + struct.pack(">Q", element.epoch)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


def test_annotations() -> None:
    context, digest = unhex(ANNOTATIONS["group_context"]), unhex(ANNOTATIONS["commit_digest"])
    assert hashlib.sha256(unhex(ANNOTATIONS["commit"])).digest() == digest
    tree = RatchetTree.decode(SUITE, unhex(ANNOTATIONS["ratchet_tree"]))
    request = ANNOTATIONS["request"]
    plain = unsealed_annotations(request["element"])
    begin = struct.pack(">IQ", request["asker"], request["time"]) + vector(digest) + vector(b"") + b"\0"
    assert plain[: len(begin)] == begin
    label, signature = b"MLS 1.0 MLS-XMPP 1.0 annotation request", plain[-64:]  # SignWithLabel, RFC 9420 5.1.2
    assert plain == begin + vector(signature)
    public = tree.member(LeafIndex(request["asker"])).signature_key
    Ed25519PublicKey.from_public_bytes(public).verify(signature, vector(label) + vector(context + begin))
    answer = ANNOTATIONS["answer"]
    assert unsealed_annotations(answer["element"]).hex() == answer["plaintext"]
    content = AnnotationsContent.decode(unhex(answer["plaintext"]))
    assert content.verdict is not None
    after = AnnotatedCommit.decode(unhex(answer["annotated_commit"]))
    signed = vector(digest) + b"\x01" + vector(after.tree_hash_after) + struct.pack(">I", content.verdict.member)
    assert content.verdict.encode() == signed + vector(content.verdict.signature)
    label = b"MLS 1.0 MLS-XMPP 1.0 commit verdict"
    public = tree.member(LeafIndex(content.verdict.member)).signature_key
    Ed25519PublicKey.from_public_bytes(public).verify(
        content.verdict.signature, vector(label) + vector(context + signed)
    )
    # What belongs to the AnnotatedCommit of draft-ietf-mls-partial is in the answer.
    (mine,) = content.receivers
    assert after.commit.encode() == unhex(ANNOTATIONS["commit"])
    assert (mine.resolution_index, mine.proof) == (after.resolution_index, after.receiver_membership_proof_after)
    assert content.committer == after.sender_membership_proof_after
    assert after.sender_membership_proof in content.proofs
    assert {proof.leaf_index: proof for proof in content.proofs} == {
        index: prove(tree, LeafIndex(index)) for index in (0, 1)
    }


def test_annotations_of_a_void_commit() -> None:
    case = ANNOTATIONS["void"]
    assert unsealed_annotations(case["element"]).hex() == case["plaintext"]
    content = AnnotationsContent.decode(unhex(case["plaintext"]))
    assert content.verdict is not None
    assert (content.verdict.counts, content.verdict.tree_hash_after) == (0, b"")
    assert (content.committer, content.receivers) == (None, ())


@pytest.mark.parametrize("case", ANNOTATIONS["refused"], ids=lambda case: case["reason"])
def test_annotations_that_do_not_decrypt(case: dict[str, str]) -> None:
    with pytest.raises(InvalidTag):
        unsealed_annotations(case["element"])


# --- references.json ---------------------------------------------------------------------------

REFERENCES = load("references")


@pytest.mark.parametrize("case", REFERENCES["cases"], ids=lambda case: case["name"])
async def test_reference(case: dict[str, Any]) -> None:
    world = World()
    policy = RoomPolicy(world.room.jid, tuple(REFERENCES["administrators"]))
    person = world.group(*REFERENCES["members"], policy=policy)[0]
    references = RoomReferences(person.group, person.device.store, lambda *_: None)
    for number, said in enumerate(REFERENCES["said"]):
        references.remember(said["id"], said["sender"], f"archive-{number}")
    message = ET.fromstring(f"<message xmlns='jabber:client'>{case['content']}</message>")
    try:
        found = references.resolve(message, case["sender"])
    except (InvalidError, MalformedError):
        assert case["about"] is None
        return
    finally:
        references.close()
    meant = found.about or found.reply_to
    assert meant is not None
    assert {"sender": meant.sender, "id": meant.id, "known": meant.known} == case["about"]
    first = {(said["sender"], said["id"]): f"archive-{n}" for n, said in reversed([*enumerate(REFERENCES["said"])])}
    assert meant.archive_id == (first[meant.sender or "", meant.id] if meant.known else None)


def test_references_are_both_accepted_and_refused() -> None:
    """Each kind of reference has a case that counts, and one that does not."""
    for word in ("reactions", "replace", "retract"):
        outcomes = {case["about"] is None for case in REFERENCES["cases"] if f"<{word} " in case["content"]}
        assert outcomes == {False, True}, word


def test_tree_location() -> None:
    case = load("tree-location")
    uploaded, tree = unhex(case["uploaded"]), unhex(case["ratchet_tree"])
    assert AESGCM(unhex(case["key"])).decrypt(unhex(case["nonce"]), uploaded, None) == tree
    assert hashlib.sha256(uploaded).hexdigest() == case["hash"]
    url = case["url"].encode()
    fields = [url, unhex(case["key"]), unhex(case["nonce"]), unhex(case["hash"])]
    encoded = b"".join(map(vector, fields)) + struct.pack(">I", len(uploaded))
    assert encoded.hex() == case["extension_data"]
    assert case["extension_type"] == RatchetTreeLocation.TYPE
    location = RatchetTreeLocation.decode(encoded)
    assert location.blob.open(uploaded) == tree
    assert RatchetTree.decode(SUITE, tree).tree_hash().hex() == case["tree_hash"]


# --- membership-proofs.json --------------------------------------------------------------------


def test_membership_proofs() -> None:
    case = load("membership-proofs")
    inviter, (joiner,) = unhex(case["inviter"]), map(unhex, case["joiners"])
    assert (inviter + vector(joiner)).hex() == case["extension_data"]
    proofs = MembershipProofs.readable_in([Extension(case["extension_type"], unhex(case["extension_data"]))])
    assert proofs is not None
    leaf = LeafNode.decode(unhex(case["joiner_leaf_node"]))
    own = proofs.of_joiner(leaf)
    assert own is not None
    assert proofs.of_joiner(LeafNode.decode(unhex(case["inviter_leaf_node"]))) is None
    for proof, name in ((proofs.inviter, "inviter"), (own, "joiner")):
        # RFC 9420 7.8, computed here from the fields: a leaf, the one beside it, and the blank node above both
        index = proof.leaf_index
        hashed = b"\x01" + struct.pack(">I", index) + b"\x01" + unhex(case[f"{name}_leaf_node"])
        own_hash, other_hash = hashlib.sha256(hashed).digest(), proof.copath_hashes[0].hash_value
        left, right = (own_hash, other_hash) if index == 0 else (other_hash, own_hash)
        above = proof.direct_path_nodes[1]
        parent = b"\0" if above is None else b"\x01" + above.encode()
        root = hashlib.sha256(b"\x02" + parent + vector(left) + vector(right))
        assert root.hexdigest() == case["tree_hash"]


# --- commit-location.json ----------------------------------------------------------------------


def reference(case: dict[str, str]) -> bytes:
    """A BlobReference, by the vector's fields."""
    fields = [case["url"].encode(), unhex(case["key"]), unhex(case["nonce"]), unhex(case["hash"])]
    return b"".join(map(vector, fields)) + struct.pack(">I", len(unhex(case["uploaded"])))


def test_commit_location() -> None:
    """XEP, "Large Groups and Stanza Limits": computed here from the fields, apart from the code."""
    case = load("commit-location")
    group, epoch = unhex(case["group_id"]), case["epoch"]
    commit, welcome = case["commit"], case["welcome"]
    for part in (commit, welcome):
        uploaded = unhex(part["uploaded"])
        opened = AESGCM(unhex(part["key"])).decrypt(unhex(part["nonce"]), uploaded, None)
        assert opened == unhex(part["content"])
        assert hashlib.sha256(uploaded).hexdigest() == part["hash"]
    signer = struct.pack(">I", case["signer"])
    content = vector(group) + struct.pack(">Q", epoch) + reference(commit) + signer
    element = parse(case["commit_location"])
    assert isinstance(element, CommitLocation)
    assert (element.group, element.epoch) == (group, epoch)
    assert element.data.startswith(reference(commit) + signer)
    place = CommitPlace.decode(element.data)
    SUITE.verify_with_label(unhex(case["signature_key"]), case["label"], content, place.signature)
    check_consistency(Commit(group, epoch, place.blob.open(unhex(commit["uploaded"]))))

    beside = parse(case["welcome_location"])
    assert isinstance(beside, WelcomeLocation)
    assert (beside.group, beside.epoch) == (group, epoch + 1)
    members = b"".join(vector(unhex(each)) for each in case["new_members"])
    assert beside.data == vector(members) + reference(welcome)
    wanted = WelcomePlace.read(beside.data)
    check_consistency(Welcome(group, epoch + 1, wanted.blob.open(unhex(welcome["uploaded"]))))


# --- races.json --------------------------------------------------------------------------------

RACES = load("races")


def incoming(xml: str, place: str) -> Incoming:
    try:
        found, refused = read_payloads(xml)
    except MalformedError as error:
        return Incoming(place, (), error=error)
    counting = tuple(element for element in found if isinstance(element, RoomElement))
    return Incoming(place, counting, refused=tuple(refused))


def follower(races: dict[str, Any]) -> RoomGroup:
    keys = races["follower"]
    client = ClientIdentity(*keys["identity"].split("/"))
    private = SUITE.import_signature_key(unhex(keys["signature_private_key"]))
    package = MLSMessage.decode(unhex(keys["key_package"])).body
    assert isinstance(package, MLSKeyPackage)
    bundle = KeyPackageBundle(
        package,
        SUITE.import_hpke_key(unhex(keys["init_private_key"]), package.init_key),
        SUITE.import_hpke_key(unhex(keys["encryption_private_key"]), package.leaf_node.encryption_key),
        private,
    )

    store = MemoryStore(client.account)
    with store.transaction() as transaction:
        transaction.put("device", b"id", client.device.encode())
        transaction.put("device", b"key" + SUITE.signature_scheme.to_bytes(2, "big"), private.encode())
    device = Device(store)
    with device.store.transaction() as transaction:
        device.key_packages.keep_unpublished(transaction, bundle)
    session = RoomGroup(device, races["room"])
    (event,) = session.applying.accept(
        session.processing.examine(incoming(races["first"], "first"), races["now"]), races["now"]
    )
    assert isinstance(event, Joined)
    return session


def run_race(races: dict[str, Any], case: dict[str, Any]) -> None:
    session, now = follower(races), races["now"]
    for number, stanza in enumerate(case["stanzas"]):
        step = session.processing.examine(incoming(stanza["xml"], str(number)), now)
        events = session.applying.accept(step, now)
        kinds = {type(event) for event in events}
        outcome = "applied" if GroupChanged in kinds else "refused" if kinds == {Rejected} else "ignored"
        assert outcome == stanza["outcome"]
    group = session.mls
    assert (group.epoch, group.epoch_authenticator.hex()) == (case["epoch"], case["epoch_authenticator"])


@pytest.mark.parametrize("case", RACES["cases"], ids=lambda case: case["name"])
def test_race(case: dict[str, Any]) -> None:
    run_race(RACES, case)


def test_races_made_anew_run_as_well() -> None:
    made = GENERATOR.races()
    assert [case["name"] for case in made["cases"]] == [case["name"] for case in RACES["cases"]]
    for case in made["cases"]:
        run_race(made, case)


# --- operations.json ---------------------------------------------------------------------------


def run_operations(case: dict[str, Any]) -> None:
    """The follower is in two rooms, and meets what spans two groups."""
    client = ClientIdentity(*case["follower"].split("/"))
    private = SUITE.import_signature_key(unhex(case["signature_private_key"]))
    store = MemoryStore(client.account)
    with store.transaction() as transaction:
        transaction.put("device", b"id", client.device.encode())
        transaction.put("device", b"key" + SUITE.signature_scheme.to_bytes(2, "big"), private.encode())
    device = Device(store, settings=KeyPackageSettings(tuple(reversed(case["suites"]))))
    for keys in case["key_packages"]:
        package, suite = MLSMessage.decode(unhex(keys["key_package"])).body, CipherSuite.get(keys["suite"])
        assert isinstance(package, MLSKeyPackage)
        bundle = KeyPackageBundle(
            package,
            suite.import_hpke_key(unhex(keys["init_private_key"]), package.init_key),
            suite.import_hpke_key(unhex(keys["encryption_private_key"]), package.leaf_node.encryption_key),
            suite.import_signature_key(private.encode()),
        )
        assert bundle.reference.hex() == keys["reference"]
        with device.store.transaction() as transaction:
            device.key_packages.keep_unpublished(transaction, bundle)
    rooms: dict[str, RoomGroup] = {}

    def take(room: str, name: str, *found: RoomElement) -> list[Event]:
        group = rooms.setdefault(room, RoomGroup(device, room))
        step = group.processing.examine(Incoming(name, found, "crone1@shakespeare.lit"), GENERATOR.NOW)
        return group.applying.accept(step, GENERATOR.NOW)

    for join in case["joins"]:
        welcome = MLSMessage.decode(unhex(join["welcome"])).body
        assert isinstance(welcome, WelcomeMessage)
        with device.store.transaction() as transaction:
            ours = device.key_packages.find(transaction, [entry.new_member for entry in welcome.secrets])
        assert ours is not None
        info = Group.peek(welcome, ours)
        element = Welcome(info.group_context.group_id, info.group_context.epoch, unhex(join["welcome"]))
        (event,) = take(join["room"], "first", element)
        assert isinstance(event, Joined)
    for number, step in enumerate(case["steps"]):
        found = [parse(each) for each in step["elements"]]
        assert all(isinstance(each, RoomElement) for each in found)
        before = rooms[step["room"]].mls.epoch_authenticator if step["room"] in rooms else None
        events = take(step["room"], f"{number}", *(each for each in found if isinstance(each, RoomElement)))
        group = rooms[step["room"]]
        if step["outcome"] == "refused":
            assert any(isinstance(event, Rejected) for event in events), step["name"]
            assert group.mls.epoch_authenticator == before
        else:
            assert not [event for event in events if isinstance(event, Rejected)], step["name"]
            state = (group.mls.epoch, group.mls.epoch_authenticator.hex())
            assert state == (step["epoch"], step["epoch_authenticator"]), step["name"]
        assert any(isinstance(event, GroupContinued) for event in events) == step.get("continues", False)
    assert [group.mls.suite.id for group in rooms.values()] == [case["suites"][1], case["suites"][0], case["suites"][0]]


def test_operations() -> None:
    run_operations(load("operations"))


def test_operations_made_anew_run_as_well() -> None:
    run_operations(GENERATOR.operations())
