"""The policy as an extension: octets, versions, defaults.  What it does with Commits: :mod:`.test_check`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.errors import InvalidError, MalformedError, PolicyTooNew
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.policy import MAX_ADMINISTRATORS, POLICY_TYPES, ExternalJoins, Right, RoomPolicy

NOBODY, ADMINISTRATORS, MEMBERS = Right
NEVER, DEVICES, ANYBODY = ExternalJoins
POLICY = RoomPolicy("coven@rooms.x", ("alice@x", "dora@x"))


def policy(**settings: object) -> RoomPolicy:
    return replace(POLICY, **settings)  # type: ignore[arg-type]


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
    conversation=st.booleans(),
    post_quantum=st.booleans(),
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
    assert octets in (found.encode(), found.encode()[:-10])  # the last ten octets may be left out


def test_the_wire_form_is_fixed() -> None:
    expected = b"\x07r@x.org\x08\x07a@x.org\x01\x01\x01\x01\x01\x01\0\0\0\0\x00\0\0\0\x20\0\0\x27\x10\0\0"
    assert RoomPolicy("r@x.org", ("a@x.org",)).encode() == expected
    assert RoomPolicy.TYPE == 0xF4D1


def test_the_form_of_version_0_1() -> None:
    short = b"\x07r@x.org\x08\x07a@x.org\x01\x01\x01\x01\x01\x01\0\0\0\0\x00"
    assert RoomPolicy.decode(short) == RoomPolicy("r@x.org", ("a@x.org",))
    for size in range(1, 9):
        with pytest.raises(MalformedError):
            RoomPolicy.decode(RoomPolicy("r@x.org", ("a@x.org",)).encode()[:-size])


def test_octets_that_end_within_a_hash_are_not_the_form_of_version_0_1() -> None:
    octets = RoomPolicy("r@x.org", ("a@x.org",), x509_only=True, roots=(b"\xab" * 32,)).encode()
    assert RoomPolicy.decode(octets).roots == (b"\xab" * 32,)
    for size in range(1, 33):
        with pytest.raises(MalformedError):
            RoomPolicy.decode(octets[:-size])


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
        RoomPolicy.decode(octets + b"\x01\x01\x01\x01\x01\x01\0\0\0\0\0\0\0\0\x20\0\0\x27\x10\0\0")


@pytest.mark.parametrize(
    "tail",
    [
        "03010101010100000000000000002000002710" "0000", "01010101030100000000000000002000002710" "0000",
        "01010101010200000000000000002000002710" "0000", "01010101010100000000020000002000002710" "0000",
        "01010101010100000000000000002000002710" "00", "01010101010100000000000000002000002710" "000000",
        "01010101010100000000000000002000002710" "040102030400",
        "01010101010100000000000000002000002710" "4040" + "00" * 64 + "00",
        "01010101010100000000000000002000002710" "0002", "01010101010100000000000000002000002710" "000002",
    ],
    ids=["right 3", "external joins 3", "own devices 2", "X.509 2", "an octet missing", "an octet too many",
         "root of 4", "root twice", "conversation 2", "post-quantum 2"],
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
        + b"\x01\x01\x01\x01\x01\x01\0\0\0\0\0\0\0\0\x20\0\0\x27\x10\0\0"
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


def test_the_partner_in_a_conversation() -> None:
    talk = RoomPolicy.for_conversation("x@rooms.x", "dora@x", "alice@x")
    assert talk == RoomPolicy.for_conversation("x@rooms.x", "alice@x", "dora@x")
    assert (talk.partner_of("alice@x"), talk.partner_of("dora@x"), talk.partner_of("bob@x")) == (
        "dora@x",
        "alice@x",
        None,
    )
    assert replace(talk, conversation=False).partner_of("alice@x") is None
    assert replace(talk, administrators=("alice@x",)).partner_of("alice@x") is None
    assert replace(talk, administrators=("alice@x", "bob@x", "dora@x")).partner_of("alice@x") is None


def test_a_demand_for_a_post_quantum_suite_is_an_octet_at_the_end() -> None:
    """XEP, "The Policy": a policy without the demand has the octets that it has always had."""
    plain, demanding = policy(), policy(post_quantum=True)
    assert demanding.encode() == plain.encode() + b"\x01"
    assert all(plain.allows_suite(number) for number in (1, 0xF001, 77))
    assert [number for number in (1, 7, 0xF000, 0xF001, 0xF003, 0xF00B, 0xF00C) if demanding.allows_suite(number)] == [
        0xF001,
        0xF003,
        0xF00B,
    ]
