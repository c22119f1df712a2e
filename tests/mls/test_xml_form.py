"""The XML form of the MLS structures: nothing lost, nothing else accepted, and the schema agrees."""

from __future__ import annotations

import copy
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from lxml import etree

import slixmpp_mls.mls
from slixmpp_mls.errors import MalformedError
from slixmpp_mls.mls.group.commit_effects import Effects
from slixmpp_mls.mls.registry import GREASE
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.credential import BasicCredential, UnknownCredential
from slixmpp_mls.mls.structures.extensions import ExternalSender
from slixmpp_mls.mls.structures.framing import ApplicationData, FramedContent, MemberSender, PublicMessage
from slixmpp_mls.mls.structures.leaf_node import Capabilities, Lifetime
from slixmpp_mls.mls.structures.parent_node import ParentNode, RatchetTreeExtension
from slixmpp_mls.mls.structures.proposals import Remove, SelfRemove, UnknownProposal
from slixmpp_mls.mls.tls import Enum, Select, Struct, StructCodec
from slixmpp_mls.mls.xml_form import NAMESPACE, from_xml, schema, structures, to_xml
from tests.mls.test_messages import STRUCTURES, official
from tests.strategies import structs

XSD = Path(__file__).parents[2] / "xep" / "mls-structures.xsd"


@cache
def validator() -> etree.XMLSchema:
    return etree.XMLSchema(etree.fromstring(schema()))


def text_of(value: Struct) -> str:
    return etree.tostring(to_xml(value), encoding="unicode")


def read(text: str) -> Struct:
    return from_xml(etree.fromstring(text))


def wrap(name: str, inside: str) -> str:
    return f'<{name} xmlns="{NAMESPACE}">{inside}</{name}>'


def assert_identity(value: Struct) -> None:
    """Value to XML to text to XML to value; the schema accepts the text."""
    element = etree.fromstring(etree.tostring(to_xml(value)))
    validator().assertValid(element)
    again = from_xml(element)
    assert again == value
    assert type(again) is type(value)
    assert again.encode() == value.encode()
    # XMPP libraries and editors indent: that means nothing.
    etree.indent(element)
    assert from_xml(element) == value


@pytest.mark.parametrize("kind", STRUCTURES)
def test_official_messages(kind: str) -> None:
    """Octets to XML to octets is the identity."""
    for number, data in enumerate(official(kind)):
        value = STRUCTURES[kind].decode(data)
        if number < 20:
            assert_identity(value)
        assert from_xml(to_xml(value)).encode() == data


@pytest.mark.parametrize("cls", structures().values(), ids=lambda cls: cls.__name__)
def test_any_structure(cls: type[Struct]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(structs(cls))
    def check(value: Struct) -> None:
        assert_identity(value)

    check()


# --- the form itself -----------------------------------------------------------------------------

EXAMPLES: list[tuple[Struct, str, str]] = [
    (Remove(0), "Remove", "<removed>0</removed>"),
    (Lifetime(1, 2**64 - 1), "Lifetime", "<not_before>1</not_before><not_after>18446744073709551615</not_after>"),
    (SelfRemove(), "SelfRemove", ""),
    (
        Capabilities((1,), (1, 0x0A0A), (), (1, 10), (2,)),
        "Capabilities",
        "<versions><item>mls10</item></versions>"
        "<cipher_suites><item>MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519</item><item>2570</item></cipher_suites>"
        "<extensions/><proposals><item>add</item><item>self_remove</item></proposals>"
        "<credentials><item>x509</item></credentials>",
    ),
    (
        ExternalSender(b"key", BasicCredential(b"")),
        "ExternalSender",
        "<signature_key>a2V5</signature_key><credential><basic><identity/></basic></credential>",
    ),
    (
        ExternalSender(b"", UnknownCredential(0x0A0A, b"\xff\xfe")),
        "ExternalSender",
        '<signature_key/><credential><unknown number="2570">//4=</unknown></credential>',
    ),
    (Commit((), None), "Commit", "<proposals/>"),
    (
        Commit((Remove(7), UnknownProposal(9, b"")), None),
        "Commit",
        "<proposals><item><proposal><remove><removed>7</removed></remove></proposal></item>"
        '<item><proposal><unknown number="9"/></proposal></item></proposals>',
    ),
    (
        RatchetTreeExtension((None, ParentNode(b"", b"", (0,)))),
        "RatchetTreeExtension",
        "<ratchet_tree><absent/><item><parent><encryption_key/><parent_hash/>"
        "<unmerged_leaves><item>0</item></unmerged_leaves></parent></item></ratchet_tree>",
    ),
    (
        PublicMessage(FramedContent(b"g", 0, MemberSender(0), b"", ApplicationData(b"hello")), b"s", None, b"m"),
        "PublicMessage",
        "<content><group_id>Zw==</group_id><epoch>0</epoch><sender><member><leaf_index>0</leaf_index></member></sender>"
        "<authenticated_data/><content><application><data>aGVsbG8=</data></application></content></content>"
        "<signature>cw==</signature><membership_tag>bQ==</membership_tag>",
    ),
]


@pytest.mark.parametrize(("value", "name", "inside"), EXAMPLES, ids=lambda part: part if isinstance(part, str) else "")
def test_form(value: Struct, name: str, inside: str) -> None:
    canonical = etree.tostring(etree.fromstring(wrap(name, inside)), encoding="unicode")
    assert text_of(value) == canonical
    assert read(canonical) == value
    assert_identity(value)


REFUSED: list[tuple[str, str, str]] = [
    ("number below zero", "Remove", "<removed>-1</removed>"),
    ("number with a sign", "Remove", "<removed>+1</removed>"),
    ("leading zero", "Remove", "<removed>01</removed>"),
    ("number too large", "Remove", "<removed>4294967296</removed>"),
    ("number of many digits", "Remove", f"<removed>{'9' * 5000}</removed>"),
    ("digits of another script", "Remove", "<removed>٣</removed>"),
    ("no number", "Remove", "<removed/>"),
    ("space in a number", "Remove", "<removed> 1</removed>"),
    ("missing field", "Remove", ""),
    ("field twice", "Remove", "<removed>1</removed><removed>1</removed>"),
    ("unknown field", "Remove", "<removed>1</removed><more/>"),
    ("field of another namespace", "Remove", "<removed xmlns='urn:other'>1</removed>"),
    ("field without namespace", "Remove", "<removed xmlns=''>1</removed>"),
    ("text between fields", "Remove", "<removed>1</removed>text"),
    ("text before fields", "Remove", "text<removed>1</removed>"),
    ("no-break space between fields", "Remove", "<removed>1</removed>\u00a0"),
    ("attribute", "Remove", "<removed a='1'>1</removed>"),
    ("attribute of another namespace", "Remove", "<removed xmlns:o='urn:o' o:a='1'>1</removed>"),
    ("comment in a number", "Remove", "<removed>1<!-- 2 --></removed>"),
    ("comment between fields", "Remove", "<!-- 2 --><removed>1</removed>"),
    ("processing instruction", "Remove", "<?two 2?><removed>1</removed>"),
    ("fields in another order", "Lifetime", "<not_after>2</not_after><not_before>1</not_before>"),
    ("text in an empty structure", "SelfRemove", "a"),
    ("element in an empty structure", "SelfRemove", "<removed>1</removed>"),
    ("number that has a name", "Extension", "<extension_type>1</extension_type><extension_data/>"),
    ("name of no extension", "Extension", "<extension_type>basic</extension_type><extension_data/>"),
    ("name in the wrong case", "Extension", "<extension_type>RATCHET_TREE</extension_type><extension_data/>"),
    ("not base64", "ExternalPub", "<external_pub>a-__</external_pub>"),
    ("base64 without padding", "ExternalPub", "<external_pub>Zw</external_pub>"),
    ("base64 with unused bits", "ExternalPub", "<external_pub>Zx==</external_pub>"),
    ("base64 twice", "ExternalPub", "<external_pub>Zw==Zw==</external_pub>"),
    ("base64 of another script", "ExternalPub", "<external_pub>Zé==</external_pub>"),
    ("no-break space in base64", "ExternalPub", "<external_pub>Z\u00a0w==</external_pub>"),
    ("no choice", "ExternalSender", "<signature_key/><credential/>"),
    (
        "two choices",
        "ExternalSender",
        "<signature_key/><credential><basic><identity/></basic><basic><identity/></basic></credential>",
    ),
    ("known number called unknown", "ExternalSender", "<signature_key/><credential><unknown number='1'/></credential>"),
    ("name called unknown", "ExternalSender", "<signature_key/><credential><unknown number='basic'/></credential>"),
    ("unknown without number", "ExternalSender", "<signature_key/><credential><unknown/></credential>"),
    (
        "unknown number too large",
        "ExternalSender",
        "<signature_key/><credential><unknown number='65536'/></credential>",
    ),
    (
        "unknown with more attributes",
        "ExternalSender",
        "<signature_key/><credential><unknown number='9' a='1'/></credential>",
    ),
    ("unknown with another attribute", "ExternalSender", "<signature_key/><credential><unknown a='9'/></credential>"),
    ("unknown in a closed choice", "PreSharedKeyID", "<psk><unknown number='9'/></psk><psk_nonce/>"),
    ("closed enum by number", "ResumptionPSK", "<usage>1</usage><psk_group_id/><psk_epoch>0</psk_epoch>"),
    ("closed enum by no name", "ResumptionPSK", "<usage>x</usage><psk_group_id/><psk_epoch>0</psk_epoch>"),
    ("no item in a vector", "Commit", "<proposals><proposal/></proposals>"),
    ("absent item where none can be", "Commit", "<proposals><absent/></proposals>"),
    (
        "absent item with something inside",
        "RatchetTreeExtension",
        "<ratchet_tree><absent><item/></absent></ratchet_tree>",
    ),
    ("absent item with an attribute", "RatchetTreeExtension", "<ratchet_tree><absent a='1'/></ratchet_tree>"),
    ("empty optional", "Commit", "<proposals/><path/>"),
]


@pytest.mark.parametrize(("why", "name", "inside"), REFUSED, ids=[why for why, _, _ in REFUSED])
def test_refused(why: str, name: str, inside: str) -> None:
    with pytest.raises(MalformedError):
        read(wrap(name, inside))


@pytest.mark.parametrize(
    "text",
    [
        "<Remove><removed>1</removed></Remove>",
        "<Remove xmlns='urn:xmpp:mls:0'><removed>1</removed></Remove>",
        wrap("remove", "<removed>1</removed>"),
        wrap("UnknownProposal", "<tag>9</tag><data/>"),
        wrap("Effects", ""),
    ],
)
def test_root_that_is_no_structure(text: str) -> None:
    with pytest.raises(MalformedError, match="no structure"):
        read(text)


def test_root_that_is_no_element() -> None:
    for node in (etree.Comment("x"), etree.ProcessingInstruction("x"), etree.Entity("x")):
        with pytest.raises(MalformedError, match="no structure"):
            from_xml(node)


def test_entity_reference() -> None:
    parser = etree.XMLParser(resolve_entities=False)
    for text in ("<removed>&one;</removed>", "&one;<removed>1</removed>", "<removed>1&one;</removed>"):
        element = etree.fromstring(f'<!DOCTYPE x [<!ENTITY one "1">]>{wrap("Remove", text)}', parser)
        with pytest.raises(MalformedError):
            from_xml(element)


def test_conditional_fields_rfc9420_6_2() -> None:
    """A membership_tag is there if the sender is a member; a confirmation_tag if the content is a Commit."""
    value, name, inside = EXAMPLES[-1]
    assert isinstance(value, PublicMessage)
    tag = "<membership_tag>bQ==</membership_tag>"
    with pytest.raises(MalformedError, match="no membership_tag"):
        read(wrap(name, inside.replace(tag, "")))
    with pytest.raises(MalformedError, match="no membership_tag"):  # something else stands in its place
        read(wrap(name, inside.replace(tag, f"<confirmation_tag>bQ==</confirmation_tag>{tag}")))
    from_outside = inside.replace("<member><leaf_index>0</leaf_index></member>", "<new_member_commit/>")
    with pytest.raises(MalformedError, match="does not belong"):
        read(wrap(name, from_outside))
    assert isinstance(read(wrap(name, from_outside.replace(tag, ""))), PublicMessage)


def test_white_space_in_base64() -> None:
    assert read(wrap("ApplicationData", "<data>\n  aGV\tsb\r\nG8=\n</data>")) == ApplicationData(b"hello")


def test_limit_of_size() -> None:
    value = RatchetTreeExtension((None,) * 50)
    size = len(value.encode())
    assert from_xml(to_xml(value), max_size=size) == value
    for big in (value, ApplicationData(bytes(size)), Capabilities((1,) * size, ()), Commit((Remove(1),) * size, None)):
        with pytest.raises(MalformedError, match="limit"):
            from_xml(to_xml(big), max_size=size - 1)


def test_values_without_xml_form() -> None:
    effects = Effects(MemberSender(0), 0, (), None, (), None)
    with pytest.raises(ValueError, match="Effects has no XML form"):
        to_xml(effects)
    with pytest.raises(ValueError, match="uint32"):
        to_xml(Remove(2**32))
    with pytest.raises(ValueError, match="known variant"):
        to_xml(Commit((UnknownProposal(1, b""),), None))


def test_errors_do_not_quote_what_came() -> None:
    hidden = "hidden"
    for inside in (
        f"<{hidden}/>", hidden, f"<data>{hidden}é</data>", f"<data {hidden}=''/>", f"<data><{hidden}/></data>",
    ):  # fmt: skip
        with pytest.raises(MalformedError) as caught:
            read(wrap("ApplicationData", inside))
        assert hidden not in str(caught.value)
        assert caught.value.__cause__ is None


# --- damage --------------------------------------------------------------------------------------


def _delete(node: etree._Element) -> None:
    parent = node.getparent()
    if parent is not None:
        parent.remove(node)


def _repeat(node: etree._Element) -> None:
    node.addnext(copy.deepcopy(node))


def _rename(node: etree._Element) -> None:
    node.tag = f"{{{NAMESPACE}}}item"


def _text(node: etree._Element) -> None:
    node.text = (node.text or "") + "1"


DAMAGE: list[Callable[[etree._Element], None]] = [_delete, _repeat, _rename, _text]


@pytest.mark.parametrize("kind", ["public_message_commit", "mls_group_info", "ratchet_tree", "pre_shared_key_proposal"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_element(kind: str, damage: Callable[[etree._Element], None]) -> None:
    """Each element deleted, repeated, renamed or given text: refused, or another structure."""
    root = to_xml(STRUCTURES[kind].decode(min(official(kind), key=len)))
    before = etree.tostring(root)
    refused = 0
    for place in range(1, len(list(root.iter()))):
        changed = copy.deepcopy(root)
        damage(list(changed.iter())[place])
        try:
            value = from_xml(changed)
        except MalformedError:
            refused += 1
        else:
            assert etree.tostring(to_xml(value)) == etree.tostring(changed) or etree.tostring(changed) == before
    assert refused


# --- the schema ----------------------------------------------------------------------------------


def test_schema_in_the_specification_is_up_to_date() -> None:
    assert XSD.read_text() == schema(), "run: python -m slixmpp_mls.mls.xml_form > xep/mls-structures.xsd"


def test_schema_refuses_what_it_can() -> None:
    valid = [wrap(name, inside) for _, name, inside in EXAMPLES]
    assert all(validator().validate(etree.fromstring(text)) for text in valid)
    only_the_reader = {
        "space in a number", "comment in a number", "comment between fields", "processing instruction",
        "no-break space between fields", "number that has a name", "base64 with unused bits",
        "known number called unknown", "no-break space in base64",
    }  # fmt: skip
    passed = {why for why, name, inside in REFUSED if validator().validate(etree.fromstring(wrap(name, inside)))}
    assert passed <= only_the_reader


def test_every_name_is_an_xml_name_and_unambiguous() -> None:
    """Names of a registry are distinct, none looks like a number or like the element for unknown ones."""
    for cls in structures().values():
        for field in cls.codec.fields:
            if isinstance(field.codec, Select):
                tag: Any = field.codec.tag
                names = [one.name.lower() for one in (tag.type if isinstance(tag, Enum) else tag.names)]
                assert len(set(names)) == len(names)
                assert "unknown" not in names
                assert not any(name[0].isdigit() for name in names)


def test_grease_has_no_name_rfc9420_13_5() -> None:
    for number in GREASE:
        commit = Commit((UnknownProposal(number, b"x"),), None)
        assert read(text_of(commit)) == commit


def test_no_structure_contains_itself() -> None:
    """The recursion of reading ends with the declarations."""
    depths: dict[type, int] = {}

    def depth(codec: Any, above: tuple[type, ...]) -> int:
        if isinstance(codec, StructCodec):
            assert codec.cls not in above
            if codec.cls not in depths:
                inner = (depth(field.codec, (*above, codec.cls)) for field in codec.fields)
                depths[codec.cls] = 1 + max(inner, default=0)
            return depths[codec.cls]
        if isinstance(codec, Select):
            return 1 + max(depth(variant, above) for variant in codec.variants.values())
        return 1 + depth(codec.item, above) if hasattr(codec, "item") else 1

    assert max(depth(cls.codec, ()) for cls in structures().values()) < 32


def test_only_this_module_needs_lxml() -> None:
    """RFC 9420 without lxml, and without slixmpp; the package's own __init__, which imports them, is left out."""
    core = Path(slixmpp_mls.mls.__file__).parent
    walked = pkgutil.walk_packages([str(core)], "slixmpp_mls.mls.")
    names = [module.name for module in walked if module.name != "slixmpp_mls.mls.xml_form"]
    assert "slixmpp_mls.mls.group.group" in names
    code = (
        "import importlib, sys, types\n"
        "package = types.ModuleType('slixmpp_mls')\n"
        f"package.__path__ = [{str(core.parent)!r}]\n"
        "sys.modules |= {'slixmpp_mls': package, 'lxml': None, 'slixmpp': None}\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
