#!/usr/bin/env python3
"""Write the test vectors in vectors/: what is XMPP's in this protocol, for other implementations to try.

    python xep/generate_vectors.py

``vectors/README.md`` says what the files hold and how to use them.  All but ``races.json`` come out the same in
each run, and the tests compare; races hold HPKE ciphertexts, which do not, and are checked by being replayed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from lxml import etree

from slixmpp_mls import stanza
from slixmpp_mls.client.group.annotations import (
    AnnotationKey,
    AnnotationRequest,
    Annotations,
    ReceiverAnnotation,
    seal_annotations,
    seal_request,
    sign_verdict,
)
from slixmpp_mls.client.group.certainty import ANSWER_LABEL, INQUIRY_LABEL, Inquiry, signed_content, state_digest
from slixmpp_mls.client.group.ephemeral import EphemeralContent, EphemeralMessage
from slixmpp_mls.client.group.ephemeral import keys as ephemeral_keys
from slixmpp_mls.client.group.ephemeral import seal as seal_ephemeral
from slixmpp_mls.client.group.group_info_key import EncryptedGroupInfo, GroupInfoKey, seal_group_info
from slixmpp_mls.client.group.membership_proofs import MembershipProofs
from slixmpp_mls.errors import MalformedError
from slixmpp_mls.identity import fingerprint, key_identifier
from slixmpp_mls.mls.crypto.hpke import HPKECiphertext
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.partial import CommitAnnotations
from slixmpp_mls.mls.registry import ExtensionType
from slixmpp_mls.mls.schedule.message_protection import open_sender_data
from slixmpp_mls.mls.schedule.secret_tree import RatchetKind
from slixmpp_mls.mls.structures.extensions import AppDataDictionary, ComponentData, Extension
from slixmpp_mls.mls.structures.framing import (
    MLSMessage,
    PrivateMessage,
)
from slixmpp_mls.mls.structures.key_package import is_last_resort, key_package_tbs
from slixmpp_mls.mls.structures.leaf_node import LeafNode, Lifetime, UpdateSource
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.mls.structures.welcome import EncryptedGroupSecrets, Welcome
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, create_key_package, sign_leaf
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.tree.tree_slice import prove
from slixmpp_mls.mls.varint import write_opaque
from slixmpp_mls.policy import (
    EXTENSION_TYPES,
    ExternalJoins,
    RemovedClients,
    ReturnKey,
    Right,
    RoomPolicy,
    group_extensions,
)
from slixmpp_mls.rooms.content import PROFILE
from slixmpp_mls.stanza import blob, elements, locations
from slixmpp_mls.stanza.rich import STATES
from slixmpp_mls.stanza.sce import Envelope

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "vectors"
sys.path.insert(0, str(HERE))

from certificate_vectors import certificates  # noqa: E402
from continuation_vectors import continuations  # noqa: E402
from generate_examples import SUITE, Person, Randomness  # noqa: E402
from operation_vectors import operations  # noqa: E402
from policy_vectors import POLICY, ROOM, checks  # noqa: E402
from reference_vectors import references  # noqa: E402

NOW = 1790973000  # 2026-10-02T20:30:00Z
DAY = 86400
WARNING = "The private keys in these files are test keys. No device may use them."


# --- identity.json -----------------------------------------------------------------------------


def identities() -> dict[str, Any]:
    valid = [
        ("hag66@shakespeare.lit", "4e1b0f6a92c35d78"),
        ("a@localhost", "A-Za_z0-9"),
        ("jürgen@büro.example", "x" * 64),
        ("ρομεο@παράδειγμα.example", "1"),
        ("first.last+tag@xmpp.example", "-"),
        ("bot@[2001:db8::1]", "_"),
        ("\u0131@a.example", "1"),  # a dotless i, which both Nodeprep and PRECIS keep
        ("\u03c3\u03bf\u03c6\u03b9\u03b1@a.example", "1"),
    ]
    invalid = [
        (b"hag66@shakespeare.lit", "no device id"),
        (b"hag66@shakespeare.lit/", "an empty device id"),
        (b"shakespeare.lit/4e1b", "no localpart"),
        (b"Hag66@shakespeare.lit/4e1b", "a capital in the localpart"),
        (b"hag66@Shakespeare.lit/4e1b", "a capital in the domainpart"),
        (b"hag66@shakespeare.lit./4e1b", "a final dot"),
        (b"hag66@xn--bcher-kva.example/4e1b", "an A-label"),
        (b"hag66@shakespeare.lit/4e1b/2", "a slash in the device id"),
        (b"hag66@shakespeare.lit/d\xc3\xa9", "a device id that is not ASCII"),
        (b"hag66@shakespeare.lit/" + b"x" * 65, "a device id of 65 characters"),
        (b"hag 66@shakespeare.lit/4e1b", "a space"),
        (b"hag66@shakespeare.lit/\xff", "not UTF-8"),
        ("\uff48ag66@shakespeare.lit/4e1b".encode(), "a full-width letter, which Nodeprep would change"),
        ("caffe\u0301@shakespeare.lit/4e1b".encode(), "not in Unicode normalization form KC"),
        ("straße@shakespeare.lit/4e1b".encode(), "a letter that Nodeprep would fold"),
        ("\u03c3\u03bf\u03c6\u03bf\u03c2@a.example/1".encode(), "a final sigma: Nodeprep folds it, PRECIS keeps it"),
        ("\u0242@a.example/1".encode(), "a letter that Unicode has had since 5.0: PRECIS takes it, Nodeprep does not"),
        (b"a@[2001:DB8::1]/1", "an IPv6 address that is not as RFC 5952 writes it"),
        (b"", "nothing"),
    ]
    keys = [Randomness(f"key {number}")(size) for number, size in enumerate((32, 32, 65, 97))]
    return {
        "valid": [
            {"account": account, "device": device, "identity": f"{account}/{device}".encode().hex()}
            for account, device in valid
        ],
        "invalid": [{"identity": octets.hex(), "reason": reason} for octets, reason in invalid],
        "keys": [
            {
                "signature_key": key.hex(),
                "key_identifier": key_identifier(key).hex(),
                "shown": fingerprint(key),
            }
            for key in keys
        ],
    }


# --- turns.json --------------------------------------------------------------------------------


def turns() -> dict[str, Any]:
    # Two accounts share a nickname; one has a nickname outside of ASCII.
    occupants = [
        "hag66@shakespeare.lit/crone",
        "crone1@shakespeare.lit/crone",
        "hecate@shakespeare.lit/Héc/ate",
        "wiccarocks@shakespeare.lit/🧙",
    ]
    inquiry = Randomness("reply key")(32)
    cases = []
    for number, epoch, matter in ((1, 1, b""), (1, 2, b""), (2, 2, b""), (1, 2**40, b""), (1, 2, inquiry)):
        group_id = Randomness(f"group {number}")(32)
        before = group_id + epoch.to_bytes(8, "big") + matter
        hashes = {each: sha256(before + each.encode()).hexdigest() for each in occupants}
        order = sorted(occupants, key=hashes.__getitem__)
        cases.append(
            {"group_id": group_id.hex(), "epoch": epoch, "reply_key": matter.hex(), "hashes": hashes, "order": order}
        )
    return {"cases": cases}


# --- policy.json -------------------------------------------------------------------------------


def policy_fields(policy: RoomPolicy) -> dict[str, Any]:
    values = {field.name: getattr(policy, field.name) for field in RoomPolicy.codec.fields}
    values["roots"] = [root.hex() for root in policy.roots]
    return {name: int(value) if isinstance(value, IntEnum) else value for name, value in values.items()}


def policies() -> dict[str, Any]:
    valid = [
        POLICY,
        RoomPolicy("coven@chat.shakespeare.lit", ("crone1@shakespeare.lit",)),
        RoomPolicy(
            ROOM, ("ρομεο@παράδειγμα.example",), Right.MEMBERS, Right.NOBODY, Right.NOBODY, Right.MEMBERS,
            ExternalJoins.ANYBODY, own_devices=False, max_leaf_age=2**32 - 1, x509_only=True,
        ),
        RoomPolicy(ROOM, tuple(f"a{number}@example.org" for number in range(64)), max_leaf_age=30 * DAY),
        RoomPolicy(
            ROOM, ("alice@a.example",), x509_only=True, max_devices=1, max_members=2**32 - 1,
            roots=(sha256(b"root 1").digest(), sha256(b"root 2").digest()),
        ),
        RoomPolicy.for_conversation(ROOM, "bob@b.example", "alice@a.example"),
    ]  # fmt: skip
    octets = POLICY.encode()
    rights = len(octets) - 21  # where may_add is: five enums, three booleans, three uint32 and a list follow
    capital = RoomPolicy(ROOM, ("alice@a.example",)).encode().replace(b"alice", b"Alice")

    def changed(at: int, value: int) -> bytes:
        return octets[:at] + bytes([value]) + octets[at + 1 :]

    head = bytes([len(ROOM)]) + ROOM.encode()
    tail = octets[rights:]
    twice = b"\x07a@x.org" * 2
    many = b"".join(b"\x09a%02d@x.org" % number for number in range(65))
    invalid = [
        (octets[:-1], "cut short"),
        (octets + b"\0", "a trailing octet"),
        (changed(rights, 3), "may_add is no Right"),
        (changed(rights + 4, 3), "external_joins is no ExternalJoins"),
        (changed(rights + 5, 2), "own_devices is neither 0 nor 1"),
        (capital, "an administrator that is not in normal form"),
        (head + b"\x00" + tail, "no administrator"),
        (head + bytes([len(twice)]) + twice + tail, "an administrator twice"),
        (head + (0x4000 | len(many)).to_bytes(2, "big") + many + tail, "65 administrators"),
        (b"\x00" + octets[1 + len(ROOM) :], "no room"),
        (octets[:-1] + b"\x02", "conversation is neither 0 nor 1"),
        (octets[:-2] + b"\x04root\0", "a root that is no hash"),
        (octets[:-2] + b"\x40\x40" + bytes(64) + b"\0", "a root twice"),
        (b"\x40" + octets, "a length that is not encoded in as few octets as possible"),
    ]
    return {
        "extension_type": RoomPolicy.TYPE,
        "valid": [{"policy": policy_fields(policy), "encoded": policy.encode().hex()} for policy in valid],
        "invalid": [{"encoded": data.hex(), "reason": reason} for data, reason in invalid],
        "checks": checks(),
    }


def policy_of(fields: dict[str, Any]) -> RoomPolicy:
    values = dict(fields)
    values["administrators"] = tuple(values["administrators"])
    values["roots"] = tuple(map(bytes.fromhex, values["roots"]))
    for name in ("may_add", "may_remove", "may_change_policy", "may_change_subject"):
        values[name] = Right(values[name])
    values["external_joins"] = ExternalJoins(values["external_joins"])
    return RoomPolicy(**values)


# --- device.json, stanzas.json -----------------------------------------------------------------


def devices() -> dict[str, Any]:
    random = Randomness("devices")
    ed25519, p256 = stanza.Key(2055, random(32)), stanza.Key(1027, b"\x04" + random(64))
    moment = datetime.fromtimestamp(NOW, UTC)
    valid = [
        stanza.Device("4e1b0f6a92c35d78", (ed25519,), "PDA", moment),
        stanza.Device("a", (ed25519, p256), "Hexenkessel & Söhne ☎"),
        stanza.Device("A-_9", (p256,)),
        stanza.Device("b", (ed25519,), vouchers=(stanza.Voucher(2055, random(150)), stanza.Voucher(2055, random(99)))),
    ]
    good = valid[0].to_bytes().decode()
    key = good[good.index("<key") : good.index("</device>")]
    invalid = [
        (good.replace(key, ""), "no key"),
        (good.replace(key, key * 2), "two keys for one scheme"),
        (good.replace('scheme="2055"', 'scheme="02055"'), "a leading zero"),
        (good.replace('scheme="2055"', 'scheme="65536"'), "no 16-bit number"),
        (good.replace(' id="4e1b0f6a92c35d78"', ""), "no id"),
        (good.replace('id="4e1b0f6a92c35d78"', 'id="4e1b/2"'), "an id with another character"),
        (good.replace("<label>PDA</label>", "<label></label>"), "an empty label"),
        (good.replace("<label>PDA</label>", "<label>P&#10;DA</label>"), "a label of two lines"),
        (good.replace("<label>PDA</label>", f"<label>{'x' * 65}</label>"), "a label of 65 characters"),
        (good.replace("urn:xmpp:mls:0", "urn:xmpp:mls:1"), "another namespace"),
        (good.replace(key, f'{key}<voucher scheme="2055"></voucher>'), "an empty voucher"),
        (good.replace(key, f"{key}<voucher>YQ==</voucher>"), "a voucher without a scheme"),
        (good.replace(key, key + 17 * '<voucher scheme="2055">YQ==</voucher>'), "17 vouchers"),
    ]
    return {
        "valid": [
            {
                "xml": device.to_bytes().decode(),
                "id": device.id,
                "label": device.label,
                "added": None if device.added is None else int(device.added.timestamp()),
                "keys": [{"scheme": one.scheme, "key": one.data.hex()} for one in device.keys],
                "vouchers": [{"scheme": one.scheme, "voucher": one.data.hex()} for one in device.vouchers],
            }
            for device in valid
        ],
        "invalid": [{"xml": xml, "reason": reason} for xml, reason in invalid],
    }


def stanzas() -> dict[str, Any]:
    """Which elements may stand together; their content is not looked at here."""
    group, other = Randomness("stanzas")(32), Randomness("other")(32)
    commit, welcome = stanza.Commit(group, 7, b"commit"), stanza.Welcome(group, 8, b"welcome")
    info, proposal = stanza.GroupInfo(group, 8, b"info"), stanza.Proposal(group, 7, b"proposal")
    application, invitation = stanza.Application(group, 7, b"application"), stanza.Invitation(group, "a1")
    package = stanza.KeyPackage("5f" * 32, 1, b"package")
    place, welcome_place = elements.CommitLocation(group, 7, b"there"), elements.WelcomeLocation(group, 8, b"there")
    ephemeral = elements.Ephemeral(group, 7, b"ephemeral")
    request, annotations = elements.AnnotationRequest(group, 7, b"request"), elements.Annotations(group, 7, b"answer")
    bad_epoch = etree.tostring(stanza.GroupInfo(group, 8, b"info", key_epoch=8).to_lxml()).decode()
    bad_epoch = bad_epoch.replace('key-epoch="8"', 'key-epoch="08"')
    assert "08" in bad_epoch
    unreadable = "<{} xmlns='urn:xmpp:mls:0' group='!' epoch='8'>AA==</{}>"
    cases: list[tuple[str, list[stanza.Element | str]]] = [
        ("nothing of ours", []),
        ("a commit", [commit]),
        ("a commit with a welcome and a group-info", [commit, welcome, info]),
        ("a commit with two welcomes", [commit, welcome, welcome]),
        ("the welcome first", [welcome, commit]),
        ("an application", [application]),
        ("a proposal", [proposal]),
        ("an invitation", [invitation]),
        ("64 welcomes", [commit, *[welcome] * 64]),
        ("a commit with an encrypted group-info", [commit, stanza.GroupInfo(group, 8, b"info", key_epoch=8)]),
        ("a commit elsewhere, with its welcome elsewhere", [place, welcome_place]),
        ("a commit elsewhere with a welcome", [place, welcome]),
        ("an inquiry", [elements.Inquiry(group, 7, b"inquiry")]),
        ("an answer", [elements.Answer(group, 7, b"answer")]),
        ("ephemeral content", [ephemeral]),
        ("a request for annotations", [request]),
        ("annotations", [annotations]),
        # dropped as a whole
        ("a commit and an application", [commit, application]),
        ("two commits", [commit, commit]),
        ("two applications", [application, application]),
        ("a commit, and one that cannot be read", [commit, unreadable.format("commit", "commit")]),
        ("a commit that cannot be read, and its welcome", [unreadable.format("commit", "commit"), welcome]),
        ("a commit, and one elsewhere", [commit, place]),
        ("two proposals", [proposal, proposal]),
        # a neighbour is left out by itself
        ("an inquiry beside a commit", [commit, elements.Inquiry(group, 7, b"inquiry")]),
        ("an answer beside a proposal", [proposal, elements.Answer(group, 7, b"answer")]),
        ("ephemeral content beside an application", [application, ephemeral]),
        ("ephemeral content twice", [ephemeral, ephemeral]),
        ("annotations beside a commit", [commit, annotations]),
        ("a request for annotations beside annotations", [request, annotations]),
        ("a welcome elsewhere alone", [welcome_place]),
        ("a group-info whose key-epoch cannot be read", [commit, bad_epoch]),
        ("a commit and a welcome that cannot be read", [commit, unreadable.format("welcome", "welcome"), welcome]),
        ("a commit and a group-info that cannot be read", [commit, unreadable.format("group-info", "group-info")]),
        ("a welcome alone", [welcome]),
        ("a welcome beside a proposal", [proposal, welcome]),
        ("a welcome of the commit's own epoch", [commit, stanza.Welcome(group, 7, b"welcome")]),
        ("a welcome of another group", [commit, stanza.Welcome(other, 8, b"welcome")]),
        ("a group-info of another epoch", [stanza.GroupInfo(group, 9, b"info"), commit, info]),
        ("two group-infos", [commit, info, info]),
        ("an invitation beside a commit", [commit, invitation]),
        ("a key-package", [package]),
        ("a key-package beside a commit", [package, commit]),
        ("65 welcomes and a group-info", [commit, *[welcome] * 65, info]),
    ]
    found = []
    for name, beside in cases:
        message = etree.Element("{jabber:client}message", nsmap={None: "jabber:client"})
        message.extend(etree.fromstring(one) if isinstance(one, str) else one.to_lxml() for one in beside)
        try:
            counting, refused = stanza.read_payloads(message)
        except MalformedError:
            counting, refused = [], [MalformedError("the whole stanza")]
        found.append(
            {
                "name": name,
                "xml": etree.tostring(message).decode(),
                "counts": [element.NAME for element in counting],
                "reported": bool(refused),
            }
        )
    return {"cases": found}


# --- key-packages.json -------------------------------------------------------------------------


def key_packages() -> dict[str, Any]:
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    wicca = Person("wiccarocks@shakespeare.lit", "laptop", "thirdwitch", "Laptop")
    requirements = group_extensions(POLICY)

    def made(
        person: Person = hag, begin: int = NOW - 3600, end: int = NOW + 28 * DAY, **options: Any
    ) -> KeyPackageBundle:
        own = options.pop("own", None) or person.own_leaf()
        return create_key_package(SUITE, own, Lifetime(begin, end), random=person.random, **options)

    def changed(
        change: Callable[[LeafNode], LeafNode],
        *extensions: Extension,
        init_key: Callable[[LeafNode], bytes] | None = None,
    ) -> KeyPackageBundle:
        """With another leaf, other extensions or another init_key, signed by its owner."""
        bundle = made()
        leaf = sign_leaf(SUITE, change(bundle.key_package.leaf_node), hag.signature_key)
        new = replace(bundle.key_package, leaf_node=leaf, extensions=extensions)
        if init_key is not None:
            new = replace(new, init_key=init_key(leaf))
        signature = SUITE.sign_with_label(hag.signature_key, "KeyPackageTBS", key_package_tbs(new))
        return replace(bundle, key_package=replace(new, signature=signature))

    def same(leaf: LeafNode) -> LeafNode:
        return leaf

    def listing(**fields: tuple[int, ...]) -> Callable[[LeafNode], LeafNode]:
        return lambda leaf: replace(leaf, capabilities=replace(leaf.capabilities, **fields))

    def without(*types: int) -> Callable[[LeafNode], LeafNode]:
        """A leaf that neither lists nor has extensions of these types."""

        def change(leaf: LeafNode) -> LeafNode:
            listed = tuple(number for number in leaf.capabilities.extensions if number not in types)
            there = tuple(each for each in leaf.extensions if each.extension_type not in types)
            return replace(leaf, capabilities=replace(leaf.capabilities, extensions=listed), extensions=there)

        return change

    def dictionary(*components: int) -> Extension:
        return AppDataDictionary(tuple(ComponentData(number, b"") for number in components)).extension()

    def with_extension(*extensions: Extension) -> Callable[[LeafNode], LeafNode]:
        return lambda leaf: replace(leaf, extensions=(*leaf.extensions, *extensions))

    def with_dictionary(data: bytes) -> Callable[[LeafNode], LeafNode]:
        """A leaf with these octets as its app_data_dictionary."""
        there = Extension(AppDataDictionary.TYPE, data)

        def change(leaf: LeafNode) -> LeafNode:
            others = (each for each in leaf.extensions if each.extension_type != AppDataDictionary.TYPE)
            return replace(leaf, extensions=(*others, there))

        return change

    def with_field(**fields: Any) -> Callable[[LeafNode], LeafNode]:
        return lambda leaf: replace(leaf, **fields)

    def longer(bundle: KeyPackageBundle, list_of: bytes, more: bytes) -> dict[str, Any]:
        """What its item says of it if one of its lists goes on; a bound is counted before any signature."""
        octets = MLSMessage.wrap(bundle.key_package)
        old, new = bytearray(), bytearray()
        write_opaque(old, list_of)
        write_opaque(new, list_of + more)
        assert octets.count(old) == 1
        octets = octets.replace(bytes(old), bytes(new))
        return {"data": octets, "ref": SUITE.key_package_ref(octets[4:]).hex()}

    def damaged(bundle: KeyPackageBundle) -> KeyPackageBundle:
        package = bundle.key_package
        broken = replace(package, signature=package.signature[:-1] + bytes([package.signature[-1] ^ 1]))
        return replace(bundle, key_package=broken)

    good = made()
    twice = next(each for each in good.key_package.leaf_node.extensions if each.extension_type == ReturnKey.TYPE)
    mark, unlisted = Extension(ExtensionType.LAST_RESORT, b""), Extension(0xF0F0, b"")
    numbers = b"".join(number.to_bytes(2, "big") for number in range(0xF000, 0xF100))
    many = changed(listing(proposals=tuple(range(0xF000, 0xF100))))
    extensions = b"".join((0xF100 + number).to_bytes(2, "big") + b"\0" for number in range(64))
    full = changed(same, *(Extension(0xF100 + number, b"") for number in range(64)))
    device = hag.identity.device
    # 64 in a list of their own, in which an entry has a number and no data
    components, entries = changed(same, dictionary(*range(0xF100, 0xF140))), extensions
    cases: list[tuple[str, KeyPackageBundle, dict[str, Any], bool]] = [
        ("as it should be", good, {}, True),
        ("of last resort", made(last_resort=True), {"last_resort": True}, True),
        ("of last resort, which the attribute does not say", made(last_resort=True), {}, True),
        ("not of last resort, though the attribute says so", made(), {"last_resort": True}, True),
        ("of last resort in the form of earlier drafts", changed(same, mark), {"last_resort": True}, True),
        ("of last resort, beside a component that nobody knows", changed(same, dictionary(4, 0x8001)), {}, True),
        ("with a component that nobody knows", changed(same, dictionary(0x8001)), {}, True),
        ("with components that are not sorted", changed(same, dictionary(0x8001, 4)), {}, False),
        ("with the same component twice", changed(same, dictionary(4, 4)), {}, False),
        ("with components that cannot be read", changed(same, Extension(AppDataDictionary.TYPE, b"\x05")), {}, False),
        ("with an extension twice", changed(same, mark, mark), {}, False),
        ("with an extension that nobody knows", changed(same, Extension(0xF0F0, b"whatever")), {}, True),
        ("of version 0.1", changed(without(*EXTENSION_TYPES[1:])), {}, False),
        ("of a device that does not know removed_clients", changed(without(RemovedClients.TYPE)), {}, False),
        ("of a device that does not know MLS 1.0", changed(listing(versions=(2,))), {}, False),
        ("of a device that does not know its own suite", changed(listing(cipher_suites=(2,))), {}, False),
        ("of a device that does not list its own credential type", changed(listing(credentials=(2,))), {}, False),
        (
            "with an extension in the leaf that it does not list",
            changed(with_extension(unlisted)),
            {},
            False,
        ),
        ("with an extension twice in the leaf", changed(with_extension(twice)), {}, False),
        ("with an application_id that cannot be read", changed(with_extension(Extension(1, b"\x05"))), {}, False),
        ("with 256 numbers in a list", many, {}, True),
        ("with 257 numbers in a list", many, longer(many, numbers, b"\xf1\x00"), False),
        ("with 64 extensions", full, {}, True),
        ("with 65 extensions", full, longer(full, extensions, b"\xf2\x00\x00"), False),
        ("that ends before it begins", made(begin=NOW, end=NOW - 60), {}, False),
        (
            "with a leaf that is not from a KeyPackage",
            changed(lambda leaf: replace(leaf, source=UpdateSource())),
            {},
            False,
        ),
        ("with equal init_key and encryption_key", changed(same, init_key=lambda leaf: leaf.encryption_key), {}, False),
        ("with an init_key that is too short", changed(same, init_key=lambda _: bytes(31)), {}, False),
        (
            "with an encryption_key that is too short",
            changed(lambda leaf: replace(leaf, encryption_key=bytes(31))),
            {},
            False,
        ),
        ("expired a minute ago, by a clock that may be an hour off", made(end=NOW - 60), {}, True),
        ("expired two hours ago", made(end=NOW - 7200), {}, False),
        ("begins in a minute", made(begin=NOW + 60), {}, True),
        ("begins in two hours", made(begin=NOW + 7200), {}, False),
        ("lasts 90 days", made(begin=NOW, end=NOW + 90 * DAY), {}, True),
        ("lasts 100 days", made(begin=NOW, end=NOW + 100 * DAY), {}, False),
        ("of another account", made(wicca), {}, False),
        ("under another reference", good, {"ref": made().reference.hex()}, False),
        ("said to be of another suite", good, {"suite": 2}, False),
        ("with a signature that is not right", damaged(made()), {}, False),
        ("of a device that does not know the policy", changed(without(RoomPolicy.TYPE)), {}, False),
        ("with 64 components", components, {}, True),
        ("with 65 components", components, longer(components, entries, b"\xf2\x00\x00"), False),
        ("with components in the leaf that cannot be read", changed(with_dictionary(b"\x05")), {}, True),
        # the id of the item: the KeyPackageRef, or a place (mls.xml, "Checks on KeyPackages")
        ("in its place", good, {"place": f"{device}/1/0"}, True),
        ("in the place of last resort", made(last_resort=True), {"place": f"{device}/1/last-resort"}, True),
        ("in the place of another device", good, {"place": f"{wicca.identity.device}/1/0"}, False),
        ("in the place of another suite", good, {"place": f"{device}/2/0"}, False),
        ("in a place whose number has a leading zero", good, {"place": f"{device}/1/01"}, False),
        ("in a place that has no number", good, {"place": f"{device}/1"}, False),
    ]
    items = []
    for name, bundle, said, accepted in cases:
        data = MLSMessage.wrap(bundle.key_package)
        values: dict[str, Any] = {"ref": bundle.reference.hex(), "suite": SUITE.id, "data": data, **said}
        place = values.pop("place", None)
        element = stanza.KeyPackage(**values)
        item_id = element.ref if place is None else place
        item = {"name": name, "item_id": item_id, "xml": element.to_bytes().decode(), "accepted": accepted}
        items.append({**item, "last_resort": is_last_resort(bundle.key_package)} if accepted else item)
    return {
        "now": NOW,
        "account": hag.account,
        "group_suite": SUITE.id,
        "group_extensions": [{"type": one.extension_type, "data": one.extension_data.hex()} for one in requirements],
        "items": items,
    }


# --- messages.json -----------------------------------------------------------------------------


def messages() -> dict[str, Any]:
    """From content to PrivateMessage, with the keys of the epoch."""
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    own = hag.make_package(NOW)
    group = Group.create(own, hag.random(32), extensions=group_extensions(POLICY), random=hag.random)
    texts = ["When shall we three meet again?", "x" * 700, "Ποῦ συναντώμεθα; ☎"]
    found = []
    for number, text in enumerate(texts):
        body = etree.Element("{jabber:client}body", nsmap={None: "jabber:client"})
        body.text = text
        written = datetime.fromtimestamp(NOW + number, UTC)
        envelope = Envelope((body,), hag.account, ROOM, written).seal(PROFILE, rng=Random(number))  # noqa: S311
        origin = f"message-{number}"
        before = group.secret_tree
        data, group = group.encrypt(envelope, origin.encode(), random=hag.random)
        private = MLSMessage.decode(data).body
        assert isinstance(private, PrivateMessage)
        sender = open_sender_data(SUITE, private, group.secrets.sender_data_secret)
        (generation, key, nonce), _ = before.next(0, RatchetKind.APPLICATION)
        assert generation == sender.generation
        element = stanza.Application(group.group_id, group.epoch, data)
        found.append(
            {
                "origin_id": origin,
                "body": text,
                "time": NOW + number,
                "envelope": envelope.decode(),
                "generation": generation,
                "key": key.hex(),
                "nonce": nonce.hex(),
                "reuse_guard": sender.reuse_guard.hex(),
                "message": data.hex(),
                "element": element.to_bytes().decode(),
            }
        )
    return {
        "suite": SUITE.id,
        "room": ROOM,
        "sender": str(hag.identity),
        "group_context": group.context.encode().hex(),
        "encryption_secret": group_secret(hag, own).hex(),
        "sender_data_secret": group.secrets.sender_data_secret.hex(),
        "leaves": 1,
        "sender_leaf": 0,
        "signature_key": hag.signature_key.public.hex(),
        "signature_private_key": hag.signature_key.encode().hex(),
        "messages": found,
    }


def group_secret(person: Person, own: KeyPackageBundle) -> bytes:
    """The encryption_secret of the epoch: the root of the secret tree of a group that is just made."""
    fresh = Person(person.account, "pda", "secondwitch", "PDA")
    made = fresh.make_package(NOW)
    assert made.encode() == own.encode()
    group = Group.create(made, fresh.random(32), extensions=group_extensions(POLICY), random=fresh.random)
    (root,) = (octets for octets in group.secret_tree.pieces().values() if len(octets) == SUITE.hash_length)
    return root


# --- tree-location.json ------------------------------------------------------------------------


def tree_location() -> dict[str, Any]:
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    group = Group.create(hag.make_package(NOW), hag.random(32), extensions=group_extensions(POLICY), random=hag.random)
    tree = group.tree.encode()
    sealed = blob.Sealing(tree, Randomness("tree"))
    url = "https://upload.example/1f0e/tree?v=1"
    location = blob.RatchetTreeLocation(sealed.at(url))
    return {
        "extension_type": blob.RatchetTreeLocation.TYPE,
        "ratchet_tree": tree.hex(),
        "tree_hash": group.context.tree_hash.hex(),
        "suite": SUITE.id,
        **_sealed_at(url, sealed),
        "extension_data": location.encode().hex(),
    }


# --- membership-proofs.json --------------------------------------------------------------------


def membership_proofs() -> dict[str, Any]:
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    crone = Person("crone1@shakespeare.lit", "desktop", "firstwitch", "Desktop")
    group = Group.create(hag.make_package(NOW), hag.random(32), extensions=group_extensions(POLICY), random=hag.random)
    package = crone.make_package(NOW)
    draft = group.draft_commit([Add(package.key_package)], now=NOW, by_reference=(), random=hag.random)
    assert draft.staged.next is not None
    proofs = MembershipProofs.of(draft.tree, LeafIndex(0), [LeafIndex(1)])
    assert proofs is not None
    return {
        "extension_type": MembershipProofs.TYPE,
        "suite": SUITE.id,
        "tree_hash": draft.staged.next.context.tree_hash.hex(),
        "inviter_leaf_node": draft.tree.member(LeafIndex(0)).encode().hex(),
        "joiner_leaf_node": package.key_package.leaf_node.encode().hex(),
        "inviter": proofs.inviter.encode().hex(),
        "joiners": [proof.encode().hex() for proof in proofs.joiners],
        "extension_data": proofs.encode().hex(),
    }


# --- group-infos.json --------------------------------------------------------------------------


def group_infos() -> dict[str, Any]:
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    group = Group.create(hag.make_package(NOW), hag.random(32), extensions=group_extensions(POLICY), random=hag.random)
    key = GroupInfoKey.of(group)
    message = group.group_info(random=hag.random)
    sealed = EncryptedGroupInfo.decode(seal_group_info(key, POLICY, group, message, hag.random))

    def element(inside: EncryptedGroupInfo, epoch: int = 0, key_epoch: int = 0) -> str:
        return stanza.GroupInfo(group.group_id, epoch, inside.encode(), key_epoch).to_bytes().decode()

    other = replace(group, public=replace(group.public, context=replace(group.context, epoch=1)))
    moved = seal_group_info(key, POLICY, other, message, hag.random)  # sealed for epoch 1, of epoch 0 inside
    return {
        "extension_type": GroupInfoKey.TYPE,
        "suite": SUITE.id,
        "group_id": group.group_id.hex(),
        "exporter_secret": group.secrets.exporter_secret.hex(),
        "key_epoch": key.epoch,
        "group_info_key": key.key.hex(),
        "extension_data": key.encode().hex(),
        "salt": sealed.salt.hex(),
        "group_info": message.hex(),
        "element": element(sealed),
        "refused": [
            {"element": xml, "reason": reason}
            for xml, reason in (
                (element(sealed, epoch=1), "another epoch than the one that was authenticated"),
                (element(sealed, key_epoch=1), "the attribute and the content name different keys"),
                (element(replace(sealed, key_epoch=1), key_epoch=1), "of a key that is not known"),
                (element(replace(sealed, salt=sealed.salt[:-1])), "a salt that is too short"),
                (element(replace(sealed, ciphertext=sealed.ciphertext[:-1])), "a tag that is cut short"),
                (element(replace(sealed, ciphertext=b"")), "no ciphertext"),
                (element(EncryptedGroupInfo.decode(moved), epoch=1), "the GroupInfo inside is of another epoch"),
            )
        ],
        "new_keys": [
            {
                "epoch_begun": epoch,
                "external_joins_before": int(joins),
                "removed": list(removed),
                "added": list(added),
                "begins_new_key": begins,
            }
            for epoch, joins, removed, added, begins in (
                (1, ExternalJoins.DEVICES, (), ("bob@b.example/1",), True),
                (2, ExternalJoins.DEVICES, (), ("bob@b.example/1",), False),
                (2, ExternalJoins.DEVICES, ("bob@b.example/1",), (), True),
                (2, ExternalJoins.DEVICES, ("bob@b.example/1",), ("bob@b.example/1",), False),
                (2, ExternalJoins.DEVICES, ("bob@b.example/1",), ("bob@b.example/2",), True),
                (2, ExternalJoins.DEVICES, ("bob@b.example/1", "carol@c.example/1"), ("bob@b.example/1",), True),
                (9, ExternalJoins.NEVER, (), (), False),
                (9, ExternalJoins.NEVER, ("bob@b.example/1",), (), True),
                (9, ExternalJoins.ANYBODY, (), (), True),
            )
        ],
    }


# --- inquiry.json ------------------------------------------------------------------------------


def asked_and_answering() -> tuple[Group, Group]:
    """The group of the inquiries, as the member at leaf 0, which asks, and the one at leaf 1 have it."""
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    wicca = Person("wiccarocks@shakespeare.lit", "laptop", "thirdwitch", "Laptop")
    group = Group.create(hag.make_package(NOW), hag.random(32), extensions=group_extensions(POLICY), random=hag.random)
    invited = wicca.make_package(NOW)
    bundle = group.commit([Add(invited.key_package)], now=NOW, random=hag.random)
    assert bundle.welcome is not None
    welcome = MLSMessage.decode(bundle.welcome).body
    assert isinstance(welcome, Welcome)
    asking, answering = bundle.staged.next, Group.join(welcome, invited).state
    assert isinstance(asking, Group)
    assert isinstance(answering, Group)
    return asking, answering


def inquiries() -> dict[str, Any]:
    group, other = asked_and_answering()
    random = Randomness("answers")
    reply_key = SUITE.generate_key_pair(random)
    bare = Inquiry(int(group.own_index), state_digest(group.context.encode()), NOW, reply_key.public, b"")
    key = group.signature_key

    def signed(inquiry: Inquiry, group_id: bytes = group.group_id, label: str = INQUIRY_LABEL) -> Inquiry:
        content = signed_content(group_id, inquiry)
        return replace(inquiry, signature=SUITE.sign_with_label(key, label, content))

    def element(inquiry: Inquiry) -> str:
        return elements.Inquiry(group.group_id, group.epoch, inquiry.encode()).to_bytes().decode()

    def answer(message: bytes, epoch: int = group.epoch, group_id: bytes = group.group_id) -> str:
        sealed = SUITE.encrypt_with_label(reply_key.public, ANSWER_LABEL, group_id, message)
        return elements.Answer(group.group_id, epoch, sealed.encode()).to_bytes().decode()

    genuine = signed(bare)
    message = other.group_info(extensions=(GroupInfoKey.of(other).extension(),), random=random)
    return {
        "suite": SUITE.id,
        "group_id": group.group_id.hex(),
        "group_context": group.context.encode().hex(),
        "signature_key": key.public.hex(),
        "time": NOW,
        "reply_private_key": reply_key.encode().hex(),
        "inquiry_tbs": signed_content(group.group_id, bare).hex(),
        "inquiry": element(genuine),
        "refused": [
            {"inquiry": element(inquiry), "reason": reason}
            for inquiry, reason in (
                (signed(bare, group_id=bytes(32)), "signed for another group"),
                (signed(bare, label=ANSWER_LABEL), "signed for another purpose"),
                (replace(genuine, reply_key=bytes(32)), "another reply key"),
                (replace(genuine, state=bytes(32)), "another state"),
                (replace(genuine, time=NOW + 1), "another time"),
                (replace(genuine, signature=b""), "no signature"),
            )
        ],
        "in_this_order": [
            {"inquiry": element(signed(replace(bare, time=time))), "answered": answered}
            for time, answered in (
                (NOW, True), (NOW, False), (NOW - 1, False), (NOW + 1, True), (NOW, False), (NOW + 86_400, True),
            )
        ],
        "answering_signature_key": other.own_leaf.signature_key.hex(),
        "group_info": message.hex(),
        "answer": answer(message),
        "refused_answers": [
            {"answer": answer(message, group.epoch + 1), "reason": "another epoch than that of the GroupInfo"},
            {"answer": answer(message, group_id=bytes(32)), "reason": "sealed for another group"},
            {"answer": answer(message[:-1] + bytes([message[-1] ^ 1])), "reason": "a GroupInfo with a wrong signature"},
            {"answer": answer(message[4:]), "reason": "no MLSMessage"},
        ],
    }  # fmt: skip


# --- commit-location.json ----------------------------------------------------------------------


def commit_location() -> dict[str, Any]:
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    group = Group.create(hag.make_package(NOW), hag.random(32), extensions=group_extensions(POLICY), random=hag.random)
    commit = group.commit([], now=NOW, random=hag.random).commit
    # What is inside of a Welcome is of no account here.
    recipient = EncryptedGroupSecrets(hag.packages[0].reference, HPKECiphertext(hag.random(32), hag.random(48)))
    welcome = MLSMessage.wrap(Welcome(SUITE.id, (recipient,), hag.random(64)))
    sealed = blob.Sealing(commit, Randomness("commit")), blob.Sealing(welcome, Randomness("welcome"))
    urls = "https://upload.example/1f0e/commit", "https://upload.example/1f0e/welcome"
    blobs = [each.at(url) for each, url in zip(sealed, urls, strict=True)]
    place = locations.commit_place(
        SUITE, group.signature_key, int(group.own_index), group.group_id, group.epoch, blobs[0]
    )
    welcome_place = locations.WelcomePlace((recipient.new_member,), blobs[1])
    return {
        "suite": SUITE.id,
        "group_id": group.group_id.hex(),
        "epoch": group.epoch,
        "signer": place.signer,
        "signature_key": group.signature_key.public.hex(),
        "label": "MLS-XMPP 1.0 commit location",
        "commit": _uploaded(commit, sealed[0], urls[0]),
        "commit_location": stanza.CommitLocation(group.group_id, group.epoch, place.encode()).to_bytes().decode(),
        "welcome": _uploaded(welcome, sealed[1], urls[1]),
        "new_members": [recipient.new_member.hex()],
        "welcome_location": stanza.WelcomeLocation(group.group_id, group.epoch + 1, welcome_place.encode())
        .to_bytes()
        .decode(),
    }


def _uploaded(content: bytes, sealed: blob.Sealing, url: str) -> dict[str, str]:
    return {"content": content.hex(), **_sealed_at(url, sealed)}


def _sealed_at(url: str, sealed: blob.Sealing) -> dict[str, str]:
    reference = sealed.at(url)
    return {
        "url": url,
        "key": reference.key.hex(),
        "nonce": reference.nonce.hex(),
        "uploaded": sealed.ciphertext.hex(),
        "hash": reference.hash.hex(),
    }


# --- ephemeral.json ----------------------------------------------------------------------------


def ephemeral() -> dict[str, Any]:
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    group = Group.create(hag.make_package(NOW), hag.random(32), extensions=group_extensions(POLICY), random=hag.random)
    written = datetime.fromtimestamp(NOW, UTC)

    def sealed(content: etree._Element, sender: str = hag.account, to: str = ROOM, time: datetime = written) -> bytes:
        return Envelope((content,), sender, to, time).seal(PROFILE, rng=Random(1))  # noqa: S311

    composing = etree.Element(f"{{{STATES}}}composing", nsmap={None: STATES})
    body = etree.Element("{jabber:client}body", nsmap={None: "jabber:client"})
    body.text = "Not here"
    envelope = sealed(composing)
    element = seal_ephemeral(group, envelope, hag.random)

    def forged(content: EphemeralContent, salt: bytes | None = None) -> elements.Ephemeral:
        """Encrypted with the epoch's key, as every member can."""
        salt = salt or hag.random(32)
        key, nonce = ephemeral_keys(group, salt)
        data = EphemeralMessage(salt, SUITE.aead_seal(key, nonce, b"", content.encode())).encode()
        return elements.Ephemeral(group.group_id, group.epoch, data)

    opened = EphemeralMessage.decode(element.data)
    key, nonce = ephemeral_keys(group, opened.salt)
    content = EphemeralContent.decode(SUITE.aead_open(key, nonce, b"", opened.ciphertext))
    damaged = replace(opened, ciphertext=opened.ciphertext[:-1] + bytes([opened.ciphertext[-1] ^ 1]))
    late = written + timedelta(minutes=11)
    refused = {
        "a ciphertext that does not decrypt": replace(element, data=damaged.encode()),
        "a salt of another length": replace(element, data=replace(opened, salt=opened.salt[:31]).encode()),
        "the same content under another salt: the signature covers the salt": forged(content),
        "a signature that is not right": forged(replace(content, signature=content.signature[::-1]), hag.random(32)),
        "a leaf that is not there": forged(replace(content, sender=1)),
        "a body": seal_ephemeral(group, sealed(body), hag.random),
        "another account than the signer's": seal_ephemeral(
            group, sealed(composing, "wiccarocks@shakespeare.lit"), hag.random
        ),
        "another room": seal_ephemeral(group, sealed(composing, to="heath@chat.shakespeare.lit"), hag.random),
        "a time 11 minutes off": seal_ephemeral(group, sealed(composing, time=late), hag.random),
    }
    ignored = {
        "of another epoch": replace(element, epoch=1),
        "of another group": replace(element, group=bytes(32)),
    }
    return {
        "now": NOW,
        "ratchet_tree": group.tree.encode().hex(),
        "suite": SUITE.id,
        "group_context": group.context.encode().hex(),
        "exporter_secret": group.secrets.exporter_secret.hex(),
        "sender": int(group.own_index),
        "signature_key": hag.signature_key.public.hex(),
        "envelope": envelope.decode(),
        "element": element.to_bytes().decode(),
        "refused": [{"reason": name, "element": each.to_bytes().decode()} for name, each in refused.items()],
        "ignored": [{"reason": name, "element": each.to_bytes().decode()} for name, each in ignored.items()],
    }


# --- annotations.json --------------------------------------------------------------------------


def annotations() -> dict[str, Any]:
    """The third of three members has no tree, and follows a Commit of the second by what the first tells."""
    hag = Person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    crone = Person("crone1@shakespeare.lit", "desktop", "firstwitch", "Desktop")
    wicca = Person("wiccarocks@shakespeare.lit", "laptop", "thirdwitch", "Laptop")
    policy = RoomPolicy(ROOM, (hag.account,))
    group = Group.create(hag.make_package(NOW), hag.random(32), extensions=group_extensions(policy), random=hag.random)
    packages = [person.make_package(NOW) for person in (crone, wicca)]
    made = group.commit([Add(each.key_package) for each in packages], now=NOW, random=hag.random)
    welcome = MLSMessage.decode(made.welcome or b"").body
    assert isinstance(welcome, Welcome)
    assert isinstance(made.sent, Group)
    assert isinstance(made.staged.next, Group)
    first, second = made.sent.apply(made.staged, now=NOW), Group.join(welcome, packages[0]).state
    commit = second.commit(now=NOW, random=crone.random)
    staged = first.process(commit.commit, now=NOW)
    assert isinstance(staged, StagedCommit)
    about = CommitAnnotations.of(first.tree, staged, commit.commit)
    mine = about.for_receiver(LeafIndex(2))
    digest = sha256(commit.commit).digest()
    key = AnnotationKey(first)
    request = AnnotationRequest(2, NOW, digest, (), 0)
    proofs = tuple(prove(first.tree, LeafIndex(index)) for index in (0, 1))
    verdict = sign_verdict(key, hag.signature_key, 0, digest, mine.tree_hash_after)
    receivers = (ReceiverAnnotation(mine.resolution_index, mine.receiver_membership_proof_after),)
    answer = Annotations(proofs, verdict, about.after, receivers)
    void = Annotations(proofs[:1], sign_verdict(key, hag.signature_key, 0, bytes(32), None), None, ())
    asked, answered = (
        seal_request(key, wicca.signature_key, request, wicca.random),
        seal_annotations(key, answer, hag.random),
    )
    refused = {
        "another epoch than that of the key": replace(answered, epoch=2),
        "another group": replace(answered, group=bytes(32)),
        "a request in the place of an answer": replace(answered, data=asked.data),
        "a tag that is not right": replace(answered, data=answered.data[:-1] + bytes([answered.data[-1] ^ 1])),
    }
    return {
        "suite": SUITE.id,
        "ratchet_tree": first.tree.encode().hex(),
        "group_context": first.context.encode().hex(),
        "exporter_secret": first.secrets.exporter_secret.hex(),
        "commit": commit.commit.hex(),
        "commit_digest": digest.hex(),
        "request": {"from": wicca.jid, "element": asked.to_bytes().decode(), "asker": 2, "time": NOW},
        "answer": {
            "from": hag.jid,
            "element": answered.to_bytes().decode(),
            "plaintext": answer.encode().hex(),
            "annotated_commit": mine.encode().hex(),
        },
        "void": {
            "element": seal_annotations(key, void, hag.random).to_bytes().decode(),
            "plaintext": void.encode().hex(),
        },
        "refused": [{"reason": name, "element": each.to_bytes().decode()} for name, each in refused.items()],
    }


# --- races.json --------------------------------------------------------------------------------


class _Race:
    """A room with alice (administrator), bob and carol, who talk; dora follows, and has to find out who wins."""

    def __init__(self) -> None:
        self.alice, self.bob, self.carol, self.dora, self.erin = (
            Person(f"{name}@{name[0]}.example", "device", name, name.title())
            for name in ("alice", "bob", "carol", "dora", "erin")
        )
        for person in (self.bob, self.carol, self.dora, self.erin):
            person.make_package(NOW)
        self.policy = RoomPolicy(ROOM, (self.alice.account,))
        made = self.alice.make_package(NOW)
        group = Group.create(
            made, self.alice.random(32), extensions=group_extensions(self.policy), random=self.alice.random
        )
        adds = [Add(person.packages[0].key_package) for person in (self.bob, self.carol, self.dora)]
        bundle = group.commit(adds, now=NOW, random=self.alice.random)
        assert isinstance(bundle.staged.next, Group)
        assert bundle.welcome is not None
        self.group_id = group.group_id
        self.states = {self.alice: bundle.staged.next}
        welcome = MLSMessage.decode(bundle.welcome).body
        for person in (self.bob, self.carol, self.dora):
            joined = Group.join(welcome, person.packages[0]).state  # type: ignore[arg-type]
            assert isinstance(joined, Group)
            self.states[person] = joined
        self.first = message_of(
            stanza.Commit(self.group_id, 0, bundle.commit), stanza.Welcome(self.group_id, 1, bundle.welcome)
        )

    def commit(self, person: Person, *proposals: Any, state: Group | None = None) -> tuple[bytes, Group]:
        bundle = (state or self.states[person]).commit(proposals, now=NOW, random=person.random)
        assert isinstance(bundle.staged.next, Group)
        return bundle.commit, bundle.staged.next

    def leaf(self, person: Person) -> LeafIndex:
        return self.states[person].own_index

    def element(self, epoch: int, commit: bytes, neighbour: str = "") -> str:
        alone = message_of(stanza.Commit(self.group_id, epoch, commit))
        return alone.replace("</message>", f"{neighbour}</message>")

    def after(self, person: Person, commit: bytes) -> Group:
        """A member's state after somebody's Commit."""
        state = self.states[person]
        return state.apply(state.process(commit, now=NOW), now=NOW)


def message_of(*elements: stanza.Element) -> str:
    message = etree.Element("{jabber:client}message", {"type": "groupchat"}, nsmap={None: "jabber:client"})
    message.extend(element.to_lxml() for element in elements)
    return etree.tostring(message).decode()


def races() -> dict[str, Any]:
    race = _Race()
    cases: list[dict[str, Any]] = []

    def case(name: str, steps: list[tuple[str, str]], end: Group) -> None:
        cases.append(
            {
                "name": name,
                "stanzas": [{"xml": xml, "outcome": outcome} for xml, outcome in steps],
                "epoch": end.epoch,
                "epoch_authenticator": end.epoch_authenticator.hex(),
            }
        )

    by_alice, alice_ahead = race.commit(race.alice)
    by_bob, bob_ahead = race.commit(race.bob)
    case(
        "two valid Commits: the first counts",
        [(race.element(1, by_alice), "applied"), (race.element(1, by_bob), "ignored")],
        alice_ahead,
    )
    case(
        "the same two in the other order",
        [(race.element(1, by_bob), "applied"), (race.element(1, by_alice), "ignored")],
        bob_ahead,
    )
    forbidden, _ = race.commit(race.bob, Remove(race.leaf(race.carol)))
    case(
        "the first breaks the policy (a member removes another), so the second counts",
        [(race.element(1, forbidden), "refused"), (race.element(1, by_alice), "applied")],
        alice_ahead,
    )
    case(
        "the first says another epoch outside than inside, so the second counts",
        [(race.element(2, by_bob), "refused"), (race.element(1, by_alice), "applied")],
        alice_ahead,
    )
    broken = by_bob[:-1] + bytes([by_bob[-1] ^ 1])
    case(
        "the first cannot be decrypted, so the second counts",
        [(race.element(1, broken), "refused"), (race.element(1, by_alice), "applied")],
        alice_ahead,
    )
    case(
        "the winner is sent again",
        [(race.element(1, by_alice), "applied"), (race.element(1, by_alice), "ignored")],
        alice_ahead,
    )
    again, end = race.commit(race.bob, state=race.after(race.bob, by_alice))
    case(
        "the loser commits again in the next epoch",
        [
            (race.element(1, by_alice), "applied"),
            (race.element(1, by_bob), "ignored"),
            (race.element(2, again), "applied"),
        ],
        end,
    )
    case(
        "a Commit of a later epoch before its time cannot be processed, and is not kept for later",
        [(race.element(2, again), "refused"), (race.element(1, by_alice), "applied")],
        alice_ahead,
    )
    adding, with_erin = race.commit(race.alice, Add(race.erin.packages[0].key_package))
    case(
        "an Add against an Update",
        [(race.element(1, by_bob), "applied"), (race.element(1, adding), "ignored")],
        bob_ahead,
    )
    case(
        "an Update against an Add",
        [(race.element(1, adding), "applied"), (race.element(1, by_bob), "ignored")],
        with_erin,
    )
    for neighbour in (stanza.Welcome, stanza.GroupInfo):
        unreadable = f"<{neighbour.NAME} xmlns='urn:xmpp:mls:0' group='!' epoch='2'>AA==</{neighbour.NAME}>"
        no_message = neighbour(race.group_id, 2, b"no MLSMessage").to_bytes().decode()
        elsewhere = neighbour(race.group_id, 9, b"no MLSMessage").to_bytes().decode()
        for what, xml in (
            (f"a {neighbour.NAME} that cannot be read", unreadable),
            (f"a {neighbour.NAME} that holds no MLSMessage", no_message),
            (f"a {neighbour.NAME} of another epoch", elsewhere),
        ):
            beside = race.element(1, by_alice, xml)
            case(f"{what} beside the first, which counts", [(beside, "applied")], alice_ahead)
    both = race.element(1, by_alice, stanza.Commit(race.group_id, 1, by_bob).to_bytes().decode())
    case(
        "two Commits in one stanza: neither counts",
        [(both, "refused"), (race.element(1, by_bob), "applied")],
        bob_ahead,
    )
    package = race.dora.packages[0]
    return {
        "now": NOW,
        "suite": SUITE.id,
        "room": ROOM,
        "policy": policy_fields(race.policy),
        "follower": {
            "identity": str(race.dora.identity),
            "signature_private_key": race.dora.signature_key.encode().hex(),
            "key_package": MLSMessage.wrap(package.key_package).hex(),
            "init_private_key": package.init_key.encode().hex(),
            "encryption_private_key": package.leaf_key.encode().hex(),
        },
        "first": race.first,
        "cases": cases,
    }


FILES = {
    "identity": identities,
    "certificates": certificates,
    "policy": policies,
    "device": devices,
    "stanzas": stanzas,
    "key-packages": key_packages,
    "messages": messages,
    "tree-location": tree_location,
    "membership-proofs": membership_proofs,
    "group-infos": group_infos,
    "inquiry": inquiries,
    "commit-location": commit_location,
    "ephemeral": ephemeral,
    "annotations": annotations,
    "references": references,
    "turns": turns,
    "races": races,
    "operations": operations,
    "continuations": continuations,
}
CHANGING = {"annotations", "inquiry", "races", "operations"}


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for name, make in FILES.items():
        content = {"warning": WARNING, **make()}
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
