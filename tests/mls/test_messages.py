"""Whole messages: the official vectors, and what becomes of them when octets are lost or changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slixmpp_mls.errors import MalformedError
from slixmpp_mls.mls.registry import WireFormat
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.framing import ApplicationData, MLSMessage, PublicMessage
from slixmpp_mls.mls.structures.parent_node import RatchetTreeExtension
from slixmpp_mls.mls.structures.proposals import (
    Add,
    ExternalInit,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    Update,
)
from slixmpp_mls.mls.structures.proposals import type_of as proposal_type_of
from slixmpp_mls.mls.structures.welcome import GroupSecrets
from slixmpp_mls.mls.tls import Struct
from tests.vectors import load

STRUCTURES: dict[str, type[Struct]] = {
    "mls_welcome": MLSMessage,
    "mls_group_info": MLSMessage,
    "mls_key_package": MLSMessage,
    "ratchet_tree": RatchetTreeExtension,
    "group_secrets": GroupSecrets,
    "add_proposal": Add,
    "update_proposal": Update,
    "remove_proposal": Remove,
    "pre_shared_key_proposal": PreSharedKey,
    "re_init_proposal": ReInit,
    "external_init_proposal": ExternalInit,
    "group_context_extensions_proposal": GroupContextExtensions,
    "commit": Commit,
    "public_message_application": MLSMessage,
    "public_message_proposal": MLSMessage,
    "public_message_commit": MLSMessage,
    "private_message": MLSMessage,
}

WIRE_FORMATS = {
    "mls_welcome": WireFormat.WELCOME,
    "mls_group_info": WireFormat.GROUP_INFO,
    "mls_key_package": WireFormat.KEY_PACKAGE,
    "private_message": WireFormat.PRIVATE_MESSAGE,
}

CONTENTS: dict[str, Callable[[Any], bool]] = {
    "public_message_application": lambda content: isinstance(content, ApplicationData),
    "public_message_proposal": lambda content: proposal_type_of(content) > 0,
    "public_message_commit": lambda content: isinstance(content, Commit),
}


def official(kind: str) -> Iterator[bytes]:
    """The octets of one kind of message, from every case of the official file."""
    for case in load("messages"):
        yield bytes.fromhex(case[kind])


def test_official_cases_hold_nothing_else() -> None:
    for case in load("messages"):
        assert set(case) == set(STRUCTURES)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_official_messages(kind: str) -> None:
    """Decoded, and encoded again octet for octet."""
    cls = STRUCTURES[kind]
    for data in official(kind):
        value = cls.decode(data)
        assert type(value) is cls
        assert value.encode() == data
        if isinstance(value, MLSMessage):
            wire_format = WIRE_FORMATS.get(kind, WireFormat.PUBLIC_MESSAGE)
            assert value.wire_format is wire_format
            assert MLSMessage.wrap(value.body) == data
            if isinstance(value.body, PublicMessage):
                assert CONTENTS[kind](value.body.content.content)


# --- damage --------------------------------------------------------------------------------------


def assert_strict(cls: type[Struct], data: bytes) -> bool:
    """`data` is refused, or means a value whose octets are exactly `data`; which of them it is."""
    try:
        value = cls.decode(data)
    except MalformedError:
        return False
    assert value.encode() == data
    return True


def shortest(kind: str) -> bytes:
    return min(official(kind), key=len)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_every_truncation_is_refused(kind: str) -> None:
    """No structure is the beginning of another, so a cut one never passes for a whole one."""
    data = shortest(kind)
    for length in range(len(data)):
        assert not assert_strict(STRUCTURES[kind], data[:length])
    assert not assert_strict(STRUCTURES[kind], data + b"\0")


@pytest.mark.parametrize("kind", STRUCTURES)
def test_every_changed_octet(kind: str) -> None:
    """An octet changed anywhere is refused or changes the value: no two encodings mean the same."""
    data = shortest(kind)
    outcomes = set()
    for place in range(len(data)):
        changed = bytearray(data)
        for octet in {0, 0xFF, *(data[place] ^ 1 << bit for bit in range(8))}:
            changed[place] = octet
            outcomes.add(assert_strict(STRUCTURES[kind], bytes(changed)))
    # Lengths at least cannot be just anything; a Remove is a number and nothing else.
    assert outcomes == ({True} if kind == "remove_proposal" else {True, False})


@pytest.mark.parametrize("kind", STRUCTURES)
def test_octets_inserted_deleted_and_swapped(kind: str) -> None:
    dice = random.Random(kind)
    originals = list(official(kind))
    for _ in range(300):
        changed = bytearray(dice.choice(originals))
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(changed) + 1)
            other = dice.choice(originals)
            start = dice.randrange(len(other))
            changed[place : place + dice.randint(0, 3)] = other[start : start + dice.randint(0, 3)]
        assert_strict(STRUCTURES[kind], bytes(changed))
