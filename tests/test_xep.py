"""The specification: it keeps the XSF's rules, says what the code does, and its examples run.

The story of its examples is replayed from the document and ``xep/story.json`` alone, by devices that follow the room.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from lxml import etree

from slixmpp_mls.account.vouchers import MOST_TIMES, SPREAD
from slixmpp_mls.authentication.automatic_trust import MAX_WAITING, MAX_WAITING_OF_ONE
from slixmpp_mls.client import (
    Device,
    Event,
    GroupChanged,
    GroupLost,
    Incoming,
    Joined,
    KeyPackageSettings,
    MessageReceived,
    Rejected,
    RemovedFromGroup,
    RoomGroup,
    Unreadable,
    open_key_package,
)
from slixmpp_mls.client.group.membership_proofs import MAX_FURTHER, MAX_OCTETS, MAX_PROOFS
from slixmpp_mls.client.storage.duplicate_filter import MAX_ID
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.delivery import MAX_STANZA
from slixmpp_mls.delivery.key_packages import NODE_LIMIT
from slixmpp_mls.delivery.muc_config import shortcomings
from slixmpp_mls.errors import PeerError, PolicyViolation
from slixmpp_mls.identity import ClientIdentity, key_identifier
from slixmpp_mls.key_packages.items import Place
from slixmpp_mls.key_packages.publication import RESERVE
from slixmpp_mls.mls import xml_form
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY, HOUR, Parameters
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.schedule.message_protection import pad_in_steps
from slixmpp_mls.mls.structures.commit import MAX_PROPOSALS
from slixmpp_mls.mls.structures.credential import MAX_CERTIFICATES
from slixmpp_mls.mls.structures.extensions import MAX_COMPONENTS, MAX_EXTENSIONS, MAX_NUMBERS
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage as MLSKeyPackage
from slixmpp_mls.mls.structures.update_path import MAX_DEPTH, MAX_RESOLUTION
from slixmpp_mls.mls.structures.welcome import GroupInfo
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from slixmpp_mls.mls.tree.leaf_validation import GroupRequirements
from slixmpp_mls.mls.tree.ratchet_tree import MAX_MEMBERS
from slixmpp_mls.policy import MAX_ADMINISTRATORS, POLICY_TYPES, RoomPolicy
from slixmpp_mls.rooms.content import PROFILE
from slixmpp_mls.rooms.engine.member_checks import FREE
from slixmpp_mls.rooms.epoch_code import EpochHistory
from slixmpp_mls.rooms.invitation_queue import EXPIRY
from slixmpp_mls.rooms.membership import LET_IN_AGAIN
from slixmpp_mls.runtime.question_budget import BURST, PAUSE
from slixmpp_mls.stanza import (
    MAX_ENCODED,
    NODE_DEVICES,
    NODE_KEY_PACKAGES,
    NS,
    Application,
    Commit,
    KeyPackage,
    Proposal,
    RoomElement,
    Welcome,
    parse,
    payloads,
)
from slixmpp_mls.stanza import Device as DeviceElement
from slixmpp_mls.stanza import GroupInfo as GroupInfoElement
from slixmpp_mls.stanza import Invitation as InvitationElement
from slixmpp_mls.stanza.blob import MAX_BLOB, MAX_OF_MEMBER, MAX_TREE, RatchetTreeLocation
from slixmpp_mls.stanza.consistency import check as check_consistency
from slixmpp_mls.stanza.sce import Envelope, Limits, mismatches
from slixmpp_mls.stanza.trust_message import MAX_KEYS, KeyOwner, TrustMessage
from slixmpp_mls.stanza.xml import MAX_ATTRIBUTES, MAX_ELEMENTS, read_datetime, to_lxml
from slixmpp_mls.store import MemoryStore

from .client.people import pretend

XEP = Path(__file__).parent.parent / "xep"


def script(name: str) -> ModuleType:
    """A script of xep/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"xep_{name}", XEP / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


render = script("render")
DOCUMENTS: dict[Path, etree._ElementTree] = {path: render.load(path) for path in render.DOCUMENTS}
DOCUMENT = DOCUMENTS[render.DOCUMENT]
EXAMPLES: list[tuple[str, str]] = [one for document in DOCUMENTS.values() for one in render.examples(document)]
SCHEMA = etree.XMLSchema(file=str(XEP / "mls.xsd"))
STORY: dict[str, Any] = json.loads((XEP / "story.json").read_bytes())
ROOM: str = STORY["room"]
SUITE = CipherSuite.get(STORY["suite"])


def example(caption: str) -> etree._Element:
    """The example whose caption begins so."""
    (text,) = (text for found, text in EXAMPLES if found.startswith(caption))
    return etree.fromstring(text.strip())


def elements(*names: str) -> Iterator[etree._Element]:
    """The elements of all documents."""
    for document in DOCUMENTS.values():
        yield from document.iter(*names)


def words() -> str:
    """The text of all documents, in one line."""
    return " ".join(" ".join("".join(document.getroot().itertext()) for document in DOCUMENTS.values()).split())


def listing(caption: str) -> str:
    (found,) = (code for code in elements("code") if code.get("caption") == caption)
    return found.text or ""


# --- the document ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_it_keeps_the_rules_of_the_xsf(path: Path) -> None:
    assert render.problems(DOCUMENTS[path], path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_it_is_valid_by_the_dtd_of_the_xsf(path: Path) -> None:
    folder = os.environ.get("XSF_XEPS")
    if not folder:
        pytest.skip("the XSF's DTD is not copied here: git clone https://github.com/xsf/xeps, and set XSF_XEPS to it")
    xsf = Path(folder)
    assert render.problems(render.load(path, xsf), path, xsf) == []


BREAKS: list[tuple[str, str, str]] = [
    ("<status>ProtoXEP</status>", "<status>Experimental</status>", "not ProtoXEP"),
    ("<number>xxxx</number>", "<number>0999</number>", "not xxxx"),
    ("<type>Standards Track</type>", "<type>Poetry</type>", "no type"),
    ("<approver>Council</approver>", "<approver>Board</approver>", "Board does not approve"),
    ("<approver>Council</approver>", "<approver>Editor</approver>", "humorous"),
    ("<title>", "<number>xxxx</number><title>", "lacks <title>"),
    ("<uri>https://github.com/slixmpp-mls/slixmpp-mls</uri>", "", "an author without"),
    ("href='xep.xsl'", "href='own.xsl'", "stylesheet"),
    ("&LEGALNOTICE;", "", "legal"),
    ("topic='Privacy Considerations'", "topic='Privacy'", "Privacy Considerations"),
    ("anchor='reqs'", "anchor='intro'", "'intro' is there 2 times"),
    ("url='#parameters'", "url='#parametres'", "#parametres"),
    ("url='mls-policy.html#policy'", "url='mls-policy.html#polity'", "which is not there"),
    ("url='mls-policy.html#policy'", "url='mls-polity.html#policy'", "no document of these"),
    ("<section1 topic='Requirements' anchor='reqs'>", "<section1 topic='Requirements'>", "without topic or anchor"),
    ("<section2 topic='Roles' anchor='roles'>", "<section2 topic='Roles' anchor='roles'><tr/>", "<tr> in <section2>"),
    ("type='get'>\n  <query", "type='get'\n  <query", "A client asks a room"),
]


@pytest.mark.parametrize(("old", "new", "problem"), BREAKS, ids=lambda text: text[:24])
def test_a_broken_rule_is_found(tmp_path: Path, old: str, new: str, problem: str) -> None:
    source = render.DOCUMENT.read_text(encoding="utf-8")
    assert old in source
    path = tmp_path / "mls.xml"
    path.write_text(source.replace(old, new, 1), encoding="utf-8")
    assert any(problem in line for line in render.problems(render.load(path), path))


def test_revisions_that_ascend_are_found(tmp_path: Path) -> None:
    source = render.DOCUMENT.read_text(encoding="utf-8")
    block = re.findall(r"  <revision>.*?</revision>\n", source, re.DOTALL)[-1]
    path = tmp_path / "mls.xml"
    path.write_text(source.replace(block, block + block.replace("0.0.1", "0.0.2")), encoding="utf-8")
    assert "the revisions are not in descending order" in render.problems(render.load(path), path)
    path.write_text(source.replace(block, block.replace("0.0.1", "0.0.10") + block.replace("0.0.1", "0.0.9")))
    assert render.problems(render.load(path), path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_it_renders_to_one_page_that_needs_nothing_else(path: Path) -> None:
    page = render.render(DOCUMENTS[path])
    tree = etree.HTML(page)
    assert tree is not None
    assert tree.xpath("//*[@src] | //link | //script") == []
    identifiers = tree.xpath("//@id")
    assert len(identifiers) == len(set(identifiers))
    links = {link[1:] for link in tree.xpath("//a/@href") if link.startswith("#")}
    assert links <= set(identifiers)
    text = "".join(tree.itertext())
    for element in DOCUMENTS[path].iter("p", "li", "td", "dt"):
        if len(element) == 0 and "remark" not in {above.tag for above in element.iterancestors()}:
            assert (element.text or "") in text
    headings = [" ".join(heading.itertext()) for heading in tree.iter("h2")]
    assert headings[:2] == ["1. Introduction", "2. Requirements"]


def test_the_schema_in_it_is_that_of_the_file() -> None:
    (section,) = (one for one in DOCUMENT.iterfind("section1") if one.get("topic") == "XML Schema")
    assert section.findtext("code", "").strip() == (XEP / "mls.xsd").read_text(encoding="utf-8").strip()


# --- what it says of numbers -------------------------------------------------------------------


def cell(row: str) -> str:
    """What a table says of something, in one line."""
    (found,) = (
        " ".join("".join(cells[1].itertext()).split())
        for cells in (list(tr.iterfind("td")) for tr in elements("tr"))
        if cells and "".join(cells[0].itertext()).startswith(row)
    )
    return found


DEFAULTS = Parameters()
SETTINGS = KeyPackageSettings()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("The maximum total lifetime", f"{DEFAULTS.lifetime_limit // DAY} days"),
        ("The maximum total lifetime", f"for {SETTINGS.lifetime // DAY} days"),
        ("The maximum total lifetime", f"replaced {SETTINGS.renewal // DAY} days before"),
        ("How long to store the resumption PSK", f"last {DEFAULTS.resumption_epochs} epochs"),
        ("How long to keep unused nonce", f"{DEFAULTS.past_epochs} past ones"),
        ("A maximum number of unused key pairs", f"{DEFAULTS.skipped_limit:,} "),
        ("A maximum number of steps", f"{DEFAULTS.forward_limit:,}"),
        ("Whether to buffer messages", f"{DEFAULTS.proposal_limit:,} Proposals"),
        ("0xF4D0 to 0xF4DF", f"{RoomPolicy.TYPE:X}: version 1"),
    ],
)
def test_its_parameters_are_the_defaults_of_the_code(row: str, said: str) -> None:
    if row.startswith("0x"):
        (name,) = (tr[1].text or "" for tr in elements("tr") if (tr[0].text or "") == row)
        assert said in name
    else:
        assert said in cell(row)


def test_key_packages_of_devices_have_the_sizes_in_it() -> None:
    """The table says how large they are at most; identities, GREASE and ECDSA make them a little smaller."""
    rows = [row for row in elements("tr") if (row[0].text or "").strip("(").startswith("0x")]
    sizes = {int((row[0].text or "").strip("()")[:6], 16): int((row[2].text or "").replace(",", "")) for row in rows
             if len(row) == 6}  # fmt: skip
    assert sizes.keys() == {1, *(number for number in CipherSuiteId if number >= 0xF000)}
    for number, most in sizes.items():
        settings = KeyPackageSettings((number, 1) if number != 1 else (1, 0xF001))
        device = Device(MemoryStore("hag66@shakespeare.lit"), settings=settings)
        for last_resort in (False, True):
            made = device.key_packages.make(CipherSuite.get(number), 1_800_000_000, last_resort=last_resort)
            assert most - 60 < len(MLSMessage.wrap(made.key_package)) <= most


def test_its_other_numbers_are_those_of_the_code() -> None:
    text = words()
    assert DEFAULTS.past_epoch_time == DEFAULTS.clock_tolerance == HOUR
    assert "at most an hour after they ended" in text
    assert (POLICY_TYPES[0], POLICY_TYPES[-1]) == (0xF4D0, 0xF4DF)
    assert f"// 1 to {MAX_ADMINISTRATORS} accounts" in text
    assert f"extension type 0x{RatchetTreeLocation.TYPE:X}" in "".join(
        code.get("caption", "") for code in elements("code")
    )
    assert f"more than {MAX_STANZA:,} octets" in text
    assert f"if the extension would be longer than {MAX_FURTHER:,} octets, or has more than {MAX_PROOFS}" in text
    assert f"if it is longer than {MAX_OCTETS:,} octets, or if the proofs" in text
    assert f"no more than {MAX_BLOB:,} of a Commit or a Welcome" in text
    assert f"of a tree, no more than {MAX_TREE:,}, and no more than {MAX_OF_MEMBER:,} for each" in text
    assert f"at most {MAX_ENCODED:,} characters" in text
    assert f"at most {MAX_ID} octets" in text
    limits = Limits()
    bounds = f"{limits.depth} levels of elements, {MAX_ELEMENTS:,} elements in all, {MAX_ATTRIBUTES} attributes of each"
    assert f"at most {limits.size:,} octets, {bounds}, and {limits.elements} elements" in text
    counts = f"{MAX_CERTIFICATES} certificates in a credential, {MAX_EXTENSIONS} extensions in one place, {MAX_NUMBERS}"
    assert f"more than {counts} numbers in a list" in text
    assert f"{MAX_COMPONENTS} components in the app_data_dictionary" in text
    assert f"more than {MAX_PROPOSALS:,} proposals in a Commit, or entries in a Welcome" in text
    assert f"more than {MAX_DEPTH} nodes, or with more than {MAX_RESOLUTION:,} ciphertexts" in text
    assert f"a tree of more than {MAX_MEMBERS:,} leaves" in text
    assert f"no more than {FREE} accounts for one stanza" in text
    assert f"{BURST} accounts at once and one more every {PAUSE:.0f} seconds" in text
    assert f"what is more than {2 * EXPIRY // DAY} days old" in text
    assert f"0 to {PROFILE.random_padding} random characters" in text
    assert f"more than {PROFILE.tolerance.total_seconds() / 60:.0f} minutes later than that" in text
    assert f"of ordinary ones {SETTINGS.count} for each suite" in text
    assert f"({NODE_LIMIT} - {RESERVE}) divided by the number of devices" in text
    assert f"a few times at most (suitable: {SPREAD:g} seconds, {MOST_TIMES} times)" in text
    assert f"SHOULD wait for that (suitable: {LET_IN_AGAIN:g} seconds)" in text
    for name in (NS, NODE_DEVICES, NODE_KEY_PACKAGES, xml_form.NAMESPACE):
        assert name in text


def test_its_words_on_padding_are_what_the_code_does() -> None:
    # "to a multiple of 64 octets up to 512, and above that to a multiple of an eighth of the greatest power of two
    # below its size"
    for size in range(1, 20_000):
        power = 1
        while power * 2 < size:
            power *= 2
        step = 64 if size <= 512 else power // 8
        assert pad_in_steps(size) == -(-size // step) * step


def test_the_policy_in_it_is_the_default() -> None:
    octets = bytes.fromhex(listing("The octets of such a policy, in hexadecimal"))
    assert octets == RoomPolicy(ROOM, ("crone1@shakespeare.lit",)).encode()


def test_its_presentation_of_the_policy_is_the_declared_one() -> None:
    struct = listing("RoomPolicy, extension type 0xF4D1").split("struct {")[1]
    names = re.findall(r"^ +\w+ (\w+)(?:<V>)?;", struct.split("}")[0], re.MULTILINE)
    assert names == [field.name for field in RoomPolicy.codec.fields]


# --- its examples ------------------------------------------------------------------------------


def ours(root: etree._Element) -> list[etree._Element]:
    """The elements of our namespace that do not stand in another of it."""
    return [
        element
        for element in root.iter(f"{{{NS}}}*")
        if (parent := element.getparent()) is None or etree.QName(parent).namespace != NS
    ]


@pytest.mark.parametrize("caption", [caption for caption, _ in EXAMPLES])
def test_every_example_is_what_the_stanza_layer_reads(caption: str) -> None:
    root = example(caption)
    for element in ours(root):
        alone = etree.fromstring(etree.tostring(element, with_tail=False))
        SCHEMA.assertValid(alone)
        parsed = parse(alone)
        assert parse(parsed.to_bytes()) == parsed
        # Encrypted GroupInfos: see test_members_read_the_group_infos_of_the_story
        if isinstance(parsed, Commit | Proposal | Application | Welcome | KeyPackage):
            check_consistency(parsed)
    for message in (root, *root.iter("{jabber:client}message")):
        if etree.QName(message).localname == "message":
            payloads(message)


def test_an_envelope_tells_epochs_as_our_messages_do() -> None:
    (affix,) = Envelope.open(etree.tostring(example("The first message of hag66 in an epoch")), PROFILE).own
    history = EpochHistory()
    history.note(b"group", 7, bytes(32))
    assert history.contradicted_by([affix]) == 7
    ours = history.to_tell()
    assert ours is not None
    assert ours.tag == affix.tag
    assert [(entry.tag, set(entry.keys())) for entry in ours] == [(affix[0].tag, set(affix[0].keys()))]
    assert len(affix[0].get("code") or "") == len(ours[0].get("code") or "") == 40


def test_the_trust_message_names_the_key_that_is_published() -> None:
    (published,) = ours(example("hag66 publishes a device"))
    device = parse(published)
    assert isinstance(device, DeviceElement)
    identifiers = tuple(key_identifier(key.data) for key in device.keys)
    envelope = Envelope.open(etree.tostring(example("The laptop of hag66 has been compared")), PROFILE)
    (element,) = envelope.content
    etree.XMLSchema(file=str(XEP / "trust-message.xsd")).assertValid(to_lxml(element))
    owner = KeyOwner("hag66@shakespeare.lit", identifiers)
    assert TrustMessage.read(element) == TrustMessage((owner,))
    (shown,) = (code.text for code in elements("code") if code.get("caption") == "What a device of hag66 shows")
    assert KeyOwner.from_uri((shown or "").strip()) == owner
    text = words()
    assert f"at most {MAX_KEYS} keys" in text
    assert f"{MAX_WAITING_OF_ONE} and {MAX_WAITING:,} keys are enough" in text


def test_all_elements_of_the_schema_are_shown() -> None:
    shown = {etree.QName(element).localname for _, text in EXAMPLES for element in ours(etree.fromstring(text.strip()))}
    schema = etree.parse(str(XEP / "mls.xsd")).getroot()
    declared = {element.get("name") for element in schema.iterfind("{http://www.w3.org/2001/XMLSchema}element")}
    assert shown == declared


def test_the_room_that_is_shown_will_do() -> None:
    found = {feature.get("var", "") for feature in example("The room can carry a group").iter("{*}feature")}
    assert shortcomings(frozenset(found)) == ()
    required = {cells[0].text or "" for tr in elements("tr") if len(cells := list(tr.iterfind("td"))) == 2}
    for feature in found - {"http://jabber.org/protocol/muc", "muc_hidden"}:
        assert shortcomings(frozenset(found - {feature})) != ()
        assert feature in required


def test_the_published_device_and_key_package_belong_together() -> None:
    (item,) = example("hag66 publishes a device").iter("{*}item")
    device = parse(item[0])
    assert isinstance(device, DeviceElement)
    assert item.get("id") == device.id
    (item,) = example("hag66 publishes a KeyPackage").iter("{*}item")
    published = parse(item[0])
    assert isinstance(published, KeyPackage)
    place = Place.of(item.get("id", ""))
    assert place is not None
    assert (place.device, place.suite) == (device.id, published.suite)
    (count,) = device.key_packages
    assert (count.suite, count.count) == (published.suite, SETTINGS.count)
    assert place.number in range(count.count)
    (asked,) = example("crone1 asks for a KeyPackage of hag66").iter("{*}item")
    assert asked.get("id") == place.item_id
    now = STORY["stanzas"][0]["time"]
    rules = Device(MemoryStore("hag66@shakespeare.lit")).leaf_rules(now)
    requirements = GroupRequirements.of(SUITE, 1, (RoomPolicy(ROOM, ("crone1@shakespeare.lit",)).extension(),))
    verified = open_key_package(published.data, "hag66@shakespeare.lit", requirements, rules)
    assert ClientIdentity.from_leaf(verified.leaf).device == device.id
    assert [key.data for key in device.keys if key.scheme == SUITE.signature_scheme] == [verified.leaf.signature_key]
    (fetched,) = example("The server of hag66 answers").iter("{*}item")
    assert fetched.get("id") == place.item_id
    assert parse(fetched[0]) == published


def test_the_xml_form_in_it_is_that_of_the_key_package() -> None:
    form = example("The KeyPackage of the first device of hag66")
    etree.XMLSchema(file=str(XEP / "mls-structures.xsd")).assertValid(form)
    (published,) = ours(example("hag66 publishes a KeyPackage"))
    parsed = parse(published)
    assert isinstance(parsed, KeyPackage)
    assert xml_form.from_xml(form).encode() == parsed.data


def test_the_invitation_leads_to_the_welcome() -> None:
    (element,) = ours(example("crone1 invites hag66"))
    invitation = parse(element)
    assert isinstance(invitation, InvitationElement)
    first = ROOM_STANZAS[0]
    assert invitation.group == first.incoming.payloads[0].group
    assert invitation.after not in {stanza.incoming.archive_id for stanza in ROOM_STANZAS}


# --- its story ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A stanza of the room, in the document's order, with what story.json says of it."""

    incoming: Incoming
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.facts["name"])


def read_room_stanza(message: etree._Element, archive_id: str, stamp: float | None, facts: dict[str, Any]) -> Shown:
    (origin,) = message.iter("{urn:xmpp:sid:0}origin-id")
    assert origin.get("id") == message.get("id")
    hints = [hint.get("namespace") for hint in message.iter("{urn:xmpp:eme:0}encryption")]
    assert hints == ([NS] if facts["kind"] == "application" else [])
    assert message.find("{urn:xmpp:hints}store") is not None
    found = tuple(element for element in payloads(message) if isinstance(element, RoomElement))
    account = str(facts["from"]).partition("/")[0]
    return Shown(Incoming(archive_id, found, account, origin.get("id"), stamp), facts)


def read_room() -> list[Shown]:
    facts = {one["archive_id"]: one for one in STORY["stanzas"]}
    found = []
    for _, text in EXAMPLES:
        message = etree.fromstring(text.strip())
        for stamp in message.findall("{urn:xmpp:sid:0}stanza-id"):
            archive_id = stamp.get("id", "")
            assert stamp.get("by") == ROOM
            found.append(read_room_stanza(message, archive_id, None, facts[archive_id]))
    # The story goes through several documents; its order is that of the room.
    place = {archive_id: number for number, archive_id in enumerate(facts)}
    return sorted(found, key=lambda stanza: place[stanza.incoming.archive_id])


ROOM_STANZAS = read_room()


class KnownDevice(Device):
    """A device with the keys of story.json."""

    def __init__(self, identity: str) -> None:
        client = ClientIdentity(*identity.split("/"))
        (keys,) = (one for one in STORY["private_keys"] if one["identity"] == identity)
        private = SUITE.import_signature_key(bytes.fromhex(keys["signature_private_key"]))
        store = MemoryStore(client.account)
        with store.transaction() as transaction:
            transaction.put("device", b"id", client.device.encode())
            transaction.put("device", b"key" + SUITE.signature_scheme.to_bytes(2, "big"), private.encode())
        super().__init__(store)
        assert self.identity == client
        with self.store.transaction() as transaction:
            for one in keys["key_packages"]:
                package = MLSMessage.decode(bytes.fromhex(one["key_package"])).body
                assert isinstance(package, MLSKeyPackage)
                bundle = KeyPackageBundle(
                    package,
                    SUITE.import_hpke_key(bytes.fromhex(one["init_private_key"]), package.init_key),
                    SUITE.import_hpke_key(
                        bytes.fromhex(one["encryption_private_key"]), package.leaf_node.encryption_key
                    ),
                    private,
                )
                assert bundle.reference == bytes.fromhex(one["reference"])
                self.key_packages.keep_unpublished(transaction, bundle)


class Follower:
    """A device that knows nothing but its keys and what the room shows it."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.group = RoomGroup(KnownDevice(identity), ROOM)

    def take(self, stanza: Shown) -> list[Event]:
        now = int(stanza.facts["time"])
        return self.group.applying.accept(self.group.processing.examine(stanza.incoming, now), now)


def identity_of(account: str, number: int = 0) -> str:
    """The device of an account whose private keys are known."""
    found = [one["identity"] for one in STORY["private_keys"] if one["identity"].startswith(f"{account}@")]
    return str(found[number])


def check_state(follower: Follower, stanza: Shown) -> None:
    """A member is where everybody is after a Commit."""
    group = follower.group.mls
    assert group.epoch == stanza.facts["epoch_after"]
    assert group.epoch_authenticator.hex() == stanza.facts["epoch_authenticator_after"]
    assert sorted(map(str, follower.group.members.all())) == stanza.facts["members_after"]


def check_message(event: Event, stanza: Shown) -> None:
    """A message is what its sender wrote, in an envelope for this room and from that sender."""
    assert isinstance(event, MessageReceived)
    assert str(event.sender) == stanza.facts["from"]
    assert not event.forged
    assert event.origin_id == stanza.incoming.origin_id
    assert event.data.decode() == stanza.facts["envelope"]
    envelope = Envelope.open(event.data, PROFILE)
    sent = datetime.fromtimestamp(stanza.facts["time"], UTC)
    assert mismatches(envelope, PROFILE, sender=event.sender.account, recipient=ROOM, sent=sent) == []
    (body,) = envelope.content
    assert body.text == stanza.facts["body"]


def shown(name: str) -> Shown:
    (found,) = (stanza for stanza in ROOM_STANZAS if stanza.name == name)
    return found


def test_the_documents_show_all_of_the_room() -> None:
    assert [stanza.incoming.archive_id for stanza in ROOM_STANZAS] == [one["archive_id"] for one in STORY["stanzas"]]
    assert [stanza.name for stanza in ROOM_STANZAS] == [
        "add", "hello", "reply", "winner", "loser", "retry", "request", "readd", "again", "asking", "granted", "door",
        "external", "leave", "left", "remove", "after",
    ]  # fmt: skip


def test_a_follower_understands_the_whole_story() -> None:
    tablet = Follower(identity_of("crone1"))
    joined: list[Event] = []
    for stanza in ROOM_STANZAS:
        events = tablet.take(stanza)
        if stanza.name == "add":
            joined = events
            check_state(tablet, stanza)
        elif stanza.facts["kind"] == "application":
            (event,) = events
            check_message(event, stanza)
        elif stanza.facts["kind"] == "proposal" or not stanza.facts["wins"]:
            assert events == []
        else:
            (event,) = events
            assert isinstance(event, GroupChanged)
            assert str(event.by) == stanza.facts["from"]
            check_state(tablet, stanza)
    (event,) = joined
    assert isinstance(event, Joined)
    assert event.by is not None
    assert event.by.account == "crone1@shakespeare.lit"


def test_only_the_first_of_two_racing_commits_counts() -> None:
    def after(*names: str) -> tuple[Follower, list[Event]]:
        tablet = Follower(identity_of("crone1"))
        events: list[Event] = []
        for name in names:
            events = tablet.take(shown(name))
        return tablet, events

    first, _ = after("add", "winner")
    both, nothing = after("add", "winner", "loser")
    assert nothing == []
    assert first.group.mls.epoch_authenticator == both.group.mls.epoch_authenticator
    # Had the room ordered them the other way round, the other one would have won: it is as valid.
    other, (changed,) = after("add", "loser")
    assert isinstance(changed, GroupChanged)
    assert changed.by.account == "hag66@shakespeare.lit"
    assert other.group.mls.epoch == 2
    assert other.group.mls.epoch_authenticator != first.group.mls.epoch_authenticator


def test_an_offline_member_catches_up_from_the_archive() -> None:
    wicca = Follower(identity_of("wiccarocks"))
    for name in ("add", "hello", "reply"):
        wicca.take(shown(name))
    query = example("wiccarocks was offline")
    assert query.findtext(".//{http://jabber.org/protocol/rsm}after") == wicca.group.cursor

    (result,) = example("The first of the results").iter("{urn:xmpp:mam:2}result")
    (message,) = result.iter("{jabber:client}message")
    (delay,) = result.iter("{urn:xmpp:delay}delay")
    archived = read_room_stanza(
        message, result.get("id", ""), read_datetime(delay.get("stamp", "")).timestamp(), shown("winner").facts
    )
    assert archived.incoming.payloads == shown("winner").incoming.payloads
    fin = example("The archive has been read to its end")
    assert fin.findtext(".//{http://jabber.org/protocol/rsm}first") == archived.incoming.archive_id
    for stanza in (archived, shown("loser"), shown("retry")):
        wicca.take(stanza)
    assert fin.findtext(".//{http://jabber.org/protocol/rsm}last") == wicca.group.cursor
    check_state(wicca, shown("retry"))
    assert [type(event) for event in wicca.take(shown("request"))] == []


def test_a_client_that_has_lost_track_rejoins_by_being_added_again() -> None:
    hag = Follower(identity_of("hag66"))
    hag.take(shown("add"))
    (lost,) = hag.take(shown("hello"))  # its own message, of which the copy that it runs from does not know
    assert isinstance(lost, GroupLost)
    assert hag.group.state is MembershipState.LOST
    for name in ("winner", "loser", "retry", "request"):
        assert hag.take(shown(name)) == []
    (event,) = hag.take(shown("readd"))
    assert isinstance(event, Joined)
    check_state(hag, shown("readd"))
    assert hag.group.cursor == shown("readd").incoming.archive_id


def test_a_removed_member_reads_no_further() -> None:
    phone = Follower(identity_of("hag66", 1))
    for name in ("granted", "door", "external", "leave", "left"):
        phone.take(shown(name))
    check_state(phone, shown("left"))
    before = phone.group.mls
    after = shown("after")
    (event,) = phone.take(shown("remove"))
    assert isinstance(event, RemovedFromGroup)
    assert event.by is not None
    assert event.by.account == "crone1@shakespeare.lit"
    (event,) = phone.take(shown("after"))
    assert isinstance(event, Unreadable)
    # Whoever had kept the old state could not follow either: no path was encrypted to these leaves.
    with pytest.raises(PeerError, match="epoch"):
        before.process(check_consistency(cast(Any, after.incoming.payloads[0])), now=int(after.facts["time"]))


def test_members_read_the_group_infos_of_the_story() -> None:
    """One derives their key, the other has it from its Welcome; after a removal there is another one."""
    tablet, phone = Follower(identity_of("crone1")), Follower(identity_of("hag66", 1))
    for name in ("add", "hello", "reply", "winner", "loser", "retry", "request", "readd", "again", "asking"):
        tablet.take(shown(name))
    for name in ("granted", "door", "external"):
        stanza = shown(name)
        for follower in (tablet, phone):
            follower.take(stanza)
            for info in (one for one in stanza.incoming.payloads if isinstance(one, GroupInfoElement)):
                assert info.key_epoch == 1
                message = follower.group.external_commits.open(info)
                inside = MLSMessage.decode(message).body
                assert isinstance(inside, GroupInfo)
                assert inside.group_context == follower.group.mls.context
    assert isinstance(info, GroupInfoElement)
    for name in ("leave", "left"):
        tablet.take(shown(name))
    assert not tablet.group.external_commits.can_read(info)  # wiccarocks has left: a new key has begun


def test_a_stanza_that_lies_about_itself_is_refused() -> None:
    tablet = Follower(identity_of("crone1"))
    tablet.take(shown("add"))
    stanza = shown("winner")
    (commit,) = stanza.incoming.payloads
    lie = type(commit)(commit.group, commit.epoch, commit.data.replace(commit.group, bytes(32)))
    now = int(stanza.facts["time"])
    step = tablet.group.processing.examine(Incoming("x", (lie,), stanza.incoming.claimed), now)
    (event,) = tablet.group.applying.accept(step, now)
    assert isinstance(event, Rejected)
    assert tablet.group.mls.epoch == 1


def test_a_policy_that_forbids_it_makes_the_same_commit_void() -> None:
    """The examples are allowed by their policy and not just by nobody looking: take a right away, and they fail."""
    tablet = Follower(identity_of("crone1"))
    for stanza in ROOM_STANZAS:
        if stanza.name == "external":
            break
        tablet.take(stanza)
    pretend(tablet.group, policy=RoomPolicy(ROOM, ("crone1@shakespeare.lit",), external_joins=0))  # type: ignore[arg-type]
    (event,) = tablet.take(shown("external"))
    assert isinstance(event, Rejected)
    assert isinstance(event.error, PolicyViolation)
    assert event.error.rule == "external-join"


def test_the_keys_in_story_json_are_marked_and_identified() -> None:
    assert STORY["warning"].startswith("TEST KEYS.")
    for one in STORY["devices"]:
        assert key_identifier(bytes.fromhex(one["signature_key"])).hex() == one["key_identifier"]


def test_the_generator_writes_such_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = script("generate_examples")
    story = tmp_path / "story.json"
    copies = {path: tmp_path / path.name for path in DOCUMENTS}
    for path, copy in copies.items():
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert tuple(copies) == generator.DOCUMENTS
    monkeypatch.setattr(generator, "DOCUMENTS", tuple(copies.values()))
    monkeypatch.setattr(generator, "STORY", story)
    assert generator.main(["--check"]) == 0
    assert generator.main([]) == 0
    for copy in copies.values():
        assert render.problems(render.load(copy), copy) == []
    told = json.loads(story.read_bytes())
    # The same people, keys and places; other ciphertexts.
    assert told["private_keys"] == STORY["private_keys"]
    assert [one["archive_id"] for one in told["stanzas"]] == [one["archive_id"] for one in STORY["stanzas"]]
    assert [one["body"] for one in told["stanzas"] if "body" in one] == [
        one["body"] for one in STORY["stanzas"] if "body" in one
    ]
    for path, copy in copies.items():
        before, after = (blank(one.read_text(encoding="utf-8")) for one in (path, copy))
        assert before == after


def blank(document: str) -> set[str]:
    """The lines of a document that do not hold base64 only."""
    return {line for line in document.splitlines() if not re.fullmatch(r" +[A-Za-z0-9+/=]{40,}|[0-9a-zA-Z+/= ]+", line)}


# --- docs/requirements.md ----------------------------------------------------------------------

REQUIREMENTS = (XEP.parent / "docs" / "requirements.md").read_text(encoding="utf-8")
ROWS = [
    [column.strip() for column in line.strip("|").split("|")]
    for line in REQUIREMENTS.splitlines()
    if line.startswith("|") and not line.startswith("|---") and line.count("|") > 4
]


def test_requirements_name_tests_that_exist() -> None:
    named = re.findall(r"`([\w/]+)::(\w+)`", REQUIREMENTS)
    assert len(named) > 80
    missing = []
    for file, name in named:
        path = XEP.parent / "tests" / f"{file}.py"
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_requirements_name_sections_that_exist() -> None:
    anchors = {element.get("anchor") for document in DOCUMENTS.values() for element in document.iter(etree.Element)}
    for row in ROWS:
        if len(row) == 5 and row[0] != "Requirement" and not row[0].startswith("Requirement or"):
            assert set(re.findall(r"`([\w-]+)`", row[1])) <= anchors, row[0]


def test_requirements_name_code_that_exists() -> None:
    package = XEP.parent / "slixmpp_mls"
    for row in ROWS:
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", row[-3]):
            assert (package / name).exists(), row[0]


def test_what_requirements_call_met_has_a_test() -> None:
    for row in ROWS:
        if row[-1] == "met":
            assert "::" in row[-2], row[0]


# --- docs/conformance.md -----------------------------------------------------------------------

CONFORMANCE = [
    tuple(column.strip() for column in line.strip("|").split(" | "))
    for line in (XEP.parent / "docs" / "conformance.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


def binding_rules() -> Iterator[tuple[str, str]]:
    """Section and sentence of each MUST of the core, but for the cells of the table of affixes."""
    for element in DOCUMENT.iter("p", "li", "td", "dd"):
        if element.find("p") is not None or element.find("li") is not None:
            continue
        section = next((anchor for above in element.iterancestors() if (anchor := above.get("anchor"))), "")
        text = " ".join("".join(element.itertext()).split())
        for sentence in re.split(r"(?<=[.;])\s+(?=[A-Z'<])", text):
            if re.search(r"\bMUST\b", sentence) and not (section == "sce" and element.tag == "td"):
                yield section, sentence


def test_every_must_of_the_core_has_its_row() -> None:
    rules = list(binding_rules())
    assert len(rules) > 50
    without = [
        (section, sentence)
        for section, sentence in rules
        if not any(row[0] == f"`{section}`" and row[1] in sentence for row in CONFORMANCE)
    ]
    assert without == []


def test_every_row_has_its_must_and_a_test_or_a_reason() -> None:
    rules = list(binding_rules())
    for section, words, shown_by in CONFORMANCE:
        assert any(section == f"`{found}`" and words in sentence for found, sentence in rules), words
        named = re.findall(r"`([\w/]+)::(\w+)`", shown_by)
        assert named or re.fullmatch(r"none: .{10,}", shown_by), words
        for file, name in named:
            source = (XEP.parent / "tests" / f"{file}.py").read_text(encoding="utf-8")
            assert re.search(rf"^ *(async )?def {name}\(", source, re.MULTILINE), f"{file}::{name}"
