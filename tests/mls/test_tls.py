"""The TLS presentation language (RFC 9420 2.1): what is written, what is refused."""

from __future__ import annotations

import dataclasses
import pickle
from enum import IntEnum
from typing import Annotated, ClassVar, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slixmpp_mls.errors import MalformedError
from slixmpp_mls.mls import tls
from slixmpp_mls.mls.late_vector import EqualSized, LateVector
from slixmpp_mls.mls.registry import GREASE, WireFormat
from slixmpp_mls.mls.structures.commit import Commit, ProposalOrRef, ProposalRef
from slixmpp_mls.mls.structures.credential import BasicCredential, Credential, UnknownCredential
from slixmpp_mls.mls.structures.extensions import ExternalPub, ExternalSenders
from slixmpp_mls.mls.structures.framing import (
    ApplicationData,
    AuthenticatedContent,
    FramedContent,
    MemberSender,
    NewMemberCommitSender,
    PublicMessage,
)
from slixmpp_mls.mls.structures.leaf_node import Capabilities, LeafNode
from slixmpp_mls.mls.structures.proposals import Proposal, Remove, SelfRemove, UnknownProposal
from slixmpp_mls.mls.structures.welcome import GroupSecrets, PathSecret
from slixmpp_mls.mls.tls import (
    Enum,
    Opaque,
    Optional,
    Select,
    Struct,
    UInt,
    Vector,
    When,
    codec_of,
    opaque,
    struct,
    uint8,
    uint16,
)
from slixmpp_mls.mls.varint import MAX_VECTOR, encode_varint, read_varint
from tests.strategies import declared_structs, structs
from tests.vectors import load

# --- variable-size lengths, RFC 9420 2.1.2 -----------------------------------------------------

BOUNDARIES = [
    (0, "00"),
    (1, "01"),
    (0x3F, "3f"),
    (0x40, "4040"),
    (0x3FFE, "7ffe"),
    (0x3FFF, "7fff"),
    (0x4000, "80004000"),
    (0x3FFFFFFE, "bffffffe"),
    (0x3FFFFFFF, "bfffffff"),
]


@pytest.mark.parametrize(("length", "octets"), BOUNDARIES)
def test_varint_at_the_boundaries(length: int, octets: str) -> None:
    data = bytes.fromhex(octets)
    assert encode_varint(length) == data
    assert read_varint(data, 0, len(data)) == (length, len(data))


def test_varint_official_vectors() -> None:
    for case in load("deserialization"):
        data = bytes.fromhex(case["vlbytes_header"])
        assert read_varint(data, 0, len(data)) == (case["length"], len(data))
        assert encode_varint(case["length"]) == data


@given(st.integers(0, MAX_VECTOR))
def test_varint_round_trip(length: int) -> None:
    data = encode_varint(length)
    assert read_varint(b"x" + data + b"x", 1, 1 + len(data)) == (length, 1 + len(data))


@pytest.mark.parametrize("octets", ["4000", "403f", "80000000", "8000003f", "80000040", "80003fff"])
def test_varint_not_minimal_is_refused_rfc9420_2_1_2(octets: str) -> None:
    with pytest.raises(MalformedError, match="shortest"):
        read_varint(bytes.fromhex(octets), 0, len(octets) // 2)


@pytest.mark.parametrize("first", range(0xC0, 0x100))
def test_varint_with_prefix_11_is_refused_rfc9420_2_1_2(first: int) -> None:
    with pytest.raises(MalformedError, match="prefix 11"):
        read_varint(bytes([first]) + b"\xff" * 7, 0, 8)


@pytest.mark.parametrize("octets", ["", "40", "80", "8000", "800040"])
def test_varint_cut_short(octets: str) -> None:
    with pytest.raises(MalformedError, match="input ends"):
        read_varint(bytes.fromhex(octets), 0, len(octets) // 2)


def test_varint_does_not_read_past_its_end() -> None:
    """`end` counts, not the length of the data: a vector's length must not reach into what follows it."""
    with pytest.raises(MalformedError, match="input ends within"):
        read_varint(bytes.fromhex("4040"), 0, 1)


def test_vector_longer_than_the_encoding_can_express() -> None:
    with pytest.raises(ValueError, match="more than a vector"):
        encode_varint(MAX_VECTOR + 1)


# --- single types ------------------------------------------------------------------------------

BYTES, NUMBERS, FLAGS = Opaque(), Vector(UInt(2)), Vector(Optional(UInt(1)))


@pytest.mark.parametrize("length", [0, 1, 0x3F, 0x40, 0x3FFF, 0x4000])
def test_opaque(length: int) -> None:
    value = bytes(length)
    data = BYTES.encode(value)
    assert data == encode_varint(length) + value
    assert BYTES.decode(data) == value
    for wrong, message in ((data + b"\0", "left over"), (data[:-1], "beyond|ends")):
        with pytest.raises(MalformedError, match=message):
            BYTES.decode(wrong)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("wrong", [-1, "one more"])
def test_number_out_of_range(size: int, wrong: int | str) -> None:
    most = 2 ** (8 * size) - 1
    number = most + 1 if isinstance(wrong, str) else wrong
    one, many = UInt(size), Vector(UInt(size))
    with pytest.raises(ValueError, match=f"uint{8 * size}"):
        one.encode(number)
    with pytest.raises(ValueError, match=f"uint{8 * size}"):
        many.encode((0, number))
    assert one.decode(one.encode(most)) == most
    assert many.decode(many.encode((0, most))) == (0, most)


def test_vector_of_numbers() -> None:
    assert NUMBERS.encode((1, 0xFFFF, 0)) == bytes.fromhex("060001ffff0000")
    assert NUMBERS.decode(bytes.fromhex("060001ffff0000")) == (1, 0xFFFF, 0)
    assert NUMBERS.decode(b"\0") == ()
    assert type(NUMBERS.decode(b"\0")) is tuple


def test_vector_that_ends_inside_an_element() -> None:
    with pytest.raises(MalformedError, match="within a number"):
        NUMBERS.decode(bytes.fromhex("03000100"))
    pairs = Vector(PreShared.codec)
    assert pairs.decode(bytes.fromhex("0401aa01bb")) == (PreShared(b"\xaa", b"\xbb"),)
    for inside in ("0301aa01bb", "0201aa01bb", "0101aa01bb"):  # the element would be whole if the vector's end were not
        with pytest.raises(MalformedError):
            pairs.decode(bytes.fromhex(inside))


def test_optional_presence_is_0_or_1_rfc9420_2_1_1() -> None:
    assert FLAGS.decode(bytes.fromhex("03000107")) == (None, 7)
    assert FLAGS.encode((None, 7)) == bytes.fromhex("03000107")
    for presence in range(2, 256):
        with pytest.raises(MalformedError, match="neither 0 nor 1"):
            FLAGS.decode(bytes([2, presence, 7]))
    for cut in ("0101", "02"):
        with pytest.raises(MalformedError):
            FLAGS.decode(bytes.fromhex(cut))


def test_optional_zero_is_not_absence() -> None:
    """Leaf 0 is a leaf, an empty string is a value."""
    assert Optional(UInt(4)).encode(0) == bytes.fromhex("0100000000")
    assert Optional(UInt(4)).decode(bytes.fromhex("0100000000")) == 0
    assert Optional(Opaque()).decode(b"\1\0") == b""


class Colour(IntEnum):
    RED = 1
    GREEN = 0x0203


def test_closed_enum() -> None:
    codec = Enum(Colour, 2)
    assert codec.decode(b"\2\3") is Colour.GREEN
    assert codec.encode(Colour.RED) == codec.encode(1) == b"\0\1"
    for octets in (b"\0\0", b"\0\2", b"\2\2", b"\xff\xff"):
        with pytest.raises(MalformedError, match="is no Colour"):
            codec.decode(octets)
    with pytest.raises(MalformedError, match="ends within"):
        codec.decode(b"\0")
    with pytest.raises(ValueError, match="is no Colour"):
        codec.encode(2)


def test_oversized_input() -> None:
    with pytest.raises(MalformedError, match="more than any structure needs"):
        BYTES.decode(bytes(tls.MAX_SIZE + 1))


# --- structures --------------------------------------------------------------------------------


@struct
class PreShared(Struct):
    first: opaque
    second: opaque


@struct
class Letter(Struct):
    data: opaque  # names that the generated functions use themselves
    pos: uint8
    end: uint16
    value: uint8
    out: Annotated[bytes | None, Opaque(), When("pos", bool)]
    cls: uint8 | None


def test_field_names_do_not_matter() -> None:
    for letter in (Letter(b"d", 1, 2, 3, b"out", None), Letter(b"", 0, 2, 3, None, 0)):
        assert Letter.decode(letter.encode()) == letter


def test_structure_is_immutable_hashable_and_not_equal_to_another_type() -> None:
    @struct
    class Twin(Struct):
        first: opaque
        second: opaque

    one = PreShared(b"a", b"b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.first = b"c"  # type: ignore[misc]
    assert len({one, PreShared(b"a", b"b"), PreShared(b"b", b"a")}) == 2
    assert Twin(b"a", b"b") != one  # type: ignore[comparison-overlap]
    assert not hasattr(one, "__dict__")
    assert pickle.loads(pickle.dumps(one)) == one


def test_secret_structures_do_not_show_themselves() -> None:
    for value in (
        PathSecret(b"hidden"),
        GroupSecrets(b"hidden", PathSecret(b"hidden"), ()),
        ApplicationData(b"hidden"),
        FramedContent(b"group", 1, MemberSender(0), b"", ApplicationData(b"hidden")),
    ):
        assert "hidden" not in repr(value)
        assert b"hidden".hex() not in repr(value)
    assert "shown" in repr(ExternalPub(b"shown"))


@struct
class Secret(Struct):
    secret: ClassVar[bool] = True
    key: opaque


def test_secret_structure_inside_an_error() -> None:
    with pytest.raises(ValueError, match="Secret") as caught:
        codec_of(Credential).encode(Secret(b"hidden"))
    assert "hidden" not in str(caught.value)


MEMBER, JOINER = MemberSender(0), NewMemberCommitSender()


def test_conditional_fields_rfc9420_6_1_and_6_2() -> None:
    """confirmation_tag beside a Commit only, membership_tag from a member only."""
    for sender in (MEMBER, JOINER):
        for content in (Commit((), None), ApplicationData(b"")):
            framed = FramedContent(b"g", 1, sender, b"", content)
            confirmation = b"c" if isinstance(content, Commit) else None
            membership = b"m" if sender is MEMBER else None
            message = PublicMessage(framed, b"s", confirmation, membership)
            data = message.encode()
            tags = (b"\1c" if confirmation else b"") + (b"\1m" if membership else b"")
            assert data == framed.encode() + b"\1s" + tags
            assert PublicMessage.decode(data) == message
            with pytest.raises(MalformedError, match="left over"):
                PublicMessage.decode(data + b"\1x")
            with pytest.raises(ValueError, match=r"confirmation_tag (is missing|has no place)"):
                PublicMessage(framed, b"s", None if confirmation else b"c", membership).encode()
            with pytest.raises(ValueError, match=r"membership_tag (is missing|has no place)"):
                PublicMessage(framed, b"s", confirmation, None if membership else b"m").encode()


def test_conditional_field_defaults_to_absence() -> None:
    framed = FramedContent(b"g", 1, MEMBER, b"", Remove(3))
    content = AuthenticatedContent(WireFormat.PRIVATE_MESSAGE, framed, b"s")
    assert AuthenticatedContent.decode(content.encode()) == content


# --- select ------------------------------------------------------------------------------------

proposal, proposal_or_ref, credential = codec_of(Proposal), codec_of(ProposalOrRef), codec_of(Credential)


def test_select_within_select() -> None:
    assert proposal_or_ref.encode(Remove(7)) == bytes.fromhex("01000300000007")
    assert proposal_or_ref.decode(bytes.fromhex("01000300000007")) == Remove(7)
    assert proposal_or_ref.encode(ProposalRef(b"r")) == bytes.fromhex("020172")
    assert proposal_or_ref.decode(bytes.fromhex("01000a")) == SelfRemove()
    assert proposal_or_ref.decode(bytes.fromhex("01f00d02abcd")) == UnknownProposal(0xF00D, b"\xab\xcd")
    for number in (0, 3, 255):
        with pytest.raises(MalformedError, match="is no ProposalOrRefType"):
            proposal_or_ref.decode(bytes([number]) + bytes.fromhex("000300000007"))


@pytest.mark.parametrize("number", [*sorted(GREASE), 0, 0xFFFF])
def test_unknown_variant_is_kept_as_it_came_rfc9420_13_5(number: int) -> None:
    for codec, cls in ((proposal, UnknownProposal), (credential, UnknownCredential)):
        data = number.to_bytes(2, "big") + b"\3abc"
        assert codec.decode(data) == cls(number, b"abc")
        assert codec.encode(cls(number, b"abc")) == data
        with pytest.raises(MalformedError):
            codec.decode(data[:-1])


def test_unknown_variant_cannot_pose_as_a_known_one() -> None:
    for codec, value in ((proposal, UnknownProposal(3, b"")), (credential, UnknownCredential(1, b""))):
        with pytest.raises(ValueError, match="known variant"):
            codec.encode(value)


def test_value_that_is_no_variant() -> None:
    for value in (b"", None, BasicCredential(b"i")):
        with pytest.raises(ValueError, match="no variant"):
            proposal.encode(value)


def test_closed_select_refuses_unknown_variants() -> None:
    codec = Select(UInt(1), {1: PreShared})
    with pytest.raises(MalformedError, match="unknown variant 2"):
        codec.decode(b"\2\0\0")


# --- declarations that make no sense -----------------------------------------------------------


def test_declarations_are_checked() -> None:
    with pytest.raises(TypeError, match="cannot be counted"):
        codec_of(tuple[SelfRemove, ...])
    with pytest.raises(TypeError, match="two variants"):
        Select(UInt(1), {1: PreShared, 2: PreShared})
    with pytest.raises(TypeError, match="a variant is"):
        Select(UInt(1), {1: opaque})
    for hint in (int, list[int], tuple[int, int], dict[str, str]):
        with pytest.raises(TypeError, match="no codec"):
            codec_of(hint)
    with pytest.raises(TypeError, match="does not come before"):

        @struct
        class Late(Struct):
            early: Annotated[bytes | None, Opaque(), When("late", bool)]
            late: uint8


# --- every declared structure ------------------------------------------------------------------


def test_every_module_declares_structures() -> None:
    names = [cls.__name__ for cls in declared_structs()]
    assert {"MLSMessage", "KeyPackage", "ParentNode", "GroupSecrets"} <= set(names)
    assert len(set(names)) == len(names)  # the XML form and errors call structures by their bare name


@pytest.mark.parametrize("cls", declared_structs(), ids=lambda cls: cls.__name__)
def test_round_trip(cls: type[Struct]) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(structs(cls))
    def check(value: Struct) -> None:
        data = value.encode()
        again = cls.decode(data)
        assert again == value
        assert hash(again) == hash(value)
        assert again.encode() == data
        with pytest.raises(MalformedError, match="left over"):
            cls.decode(data + b"\0")

    check()


def test_lists_where_one_is_declared_rfc9420_12_1_8_1() -> None:
    """A single ExternalSender is no list of them (its length is missing), nor is a bare key an ExternalPub."""
    sender = ExternalSenders.codec.fields[0].codec
    assert isinstance(sender, Vector)
    one = sender.item.decode(b"\3key" + b"\0\1" + b"\3bob")
    assert ExternalSenders((one,)).encode() == encode_varint(10) + sender.item.encode(one)
    with pytest.raises(MalformedError):
        ExternalSenders.decode(sender.item.encode(one))
    with pytest.raises(MalformedError):
        ExternalPub.decode(bytes(range(1, 33)))


def test_capabilities_have_every_list() -> None:
    with pytest.raises(MalformedError):
        Capabilities.decode(b"\2\0\1" * 4)
    assert Capabilities.decode(b"\2\0\1" * 5) == Capabilities((1,), (1,), (1,), (1,), (1,))


@tls.struct
class Kept(tls.EncodedOnce):
    number: tls.uint8
    text: tls.opaque


def test_a_kept_encoding_is_no_part_of_the_value() -> None:
    value = Kept(7, b"text")
    assert value.encode() == b"\x07\x04text" == value.encode()
    assert value.encode() is value.encode()
    assert dataclasses.replace(value, number=8).encode() == b"\x08\x04text"
    fresh = Kept.decode(value.encode())
    assert fresh == value == pickle.loads(pickle.dumps(value))
    assert hash(fresh) == hash(value)
    assert [field.name for field in Kept.codec.fields] == ["number", "text"]


def test_what_cannot_be_encoded_stays_so() -> None:
    value = Kept(256, b"")
    for _ in range(2):
        with pytest.raises(ValueError, match="uint8"):
            value.encode()


# --- vectors that are decoded late -------------------------------------------------------------


@struct
class Pair(Struct):
    one: opaque
    other: opaque


PLAIN, LATE = Vector(Pair.codec, 100), LateVector(Pair.codec, 100)


def read_by(codec: Vector, data: bytes) -> tuple[Pair, ...] | None:
    try:
        return tuple(codec.decode(data))
    except MalformedError:
        return None


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 70),
    st.integers(0, 300),
    st.integers(28, 110),
    st.lists(st.tuples(st.integers(0, 2**14), st.binary(min_size=1, max_size=1)), max_size=3),
)
def test_a_late_vector_accepts_and_gives_what_a_vector_does(
    one: int, other: int, count: int, changes: list[tuple[int, bytes]]
) -> None:
    items = tuple(Pair(bytes([number]) * one, bytes([number]) * other) for number in range(count))
    wide = Vector(Pair.codec)
    data = bytearray(wide.encode(items))
    for place, octet in changes:  # often a length: then the items differ in size, or do not parse
        data[place % len(data) : place % len(data) + 1] = octet
    octets = bytes(data)
    expected, found = read_by(PLAIN, octets), read_by(LATE, octets)
    assert found == expected
    if expected is not None:
        late = LATE.decode(octets)
        assert late == expected
        assert LATE.encode(late) == octets
        assert LATE.encode(expected) == octets
        assert [late[number] for number in range(len(late))] == list(expected)
        assert late[-1] == expected[-1]
        assert late[3:7] == expected[3:7]
        assert hash(late) == hash(expected)
        with pytest.raises(IndexError):
            late[len(expected)]
    if not changes and 32 < count <= 100:
        assert isinstance(LATE.decode(octets), EqualSized)


def test_a_late_vector_needs_items_of_octets() -> None:
    with pytest.raises(TypeError, match="opaque"):
        LateVector(Remove.codec, 10)


def test_capabilities_that_are_the_same_are_one_object() -> None:
    """Whatever is around them, and however many others come in between (RFC 9420 7.2)."""
    codec = codec_of(get_type_hints(LeafNode, include_extras=True)["capabilities"])
    usual = Capabilities((1,), (1, 0xF001), (6,), (), (1, 2))
    octets = usual.encode()
    first, pos = codec.read(b"x" + octets, 1, 1 + len(octets))
    assert (first, pos) == (usual, 1 + len(octets))
    assert codec.decode(octets) is first
    long = Capabilities((1,), tuple(range(1, 100)))
    assert codec.decode(long.encode()) == long
    for number in range(1000):
        other = Capabilities((1,), (number,))
        assert codec.decode(other.encode()) == other
    assert codec.decode(octets) == usual
    for cut in range(len(octets)):
        with pytest.raises(MalformedError):
            codec.read(octets, 0, cut)
