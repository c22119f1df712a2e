"""Levels of trust, people as Authentication Service, trust messages and their URIs: all that needs no server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from slixmpp_mls.authentication import (
    VALID,
    AllOf,
    KeyChanged,
    ManualTrust,
    NewDevice,
    NewDeviceRule,
    Source,
    TrustChanged,
    TrustManagement,
    TrustOnFirstUse,
    TrustTable,
    Validity,
    Verdict,
    trust_table,
)
from slixmpp_mls.authentication.automatic_trust import MAX_WAITING, MAX_WAITING_OF_ONE, WAITING, compose
from slixmpp_mls.authentication.trust_table import MAX_KEYS as MAX_KEYS_OF_ONE
from slixmpp_mls.authentication.trust_table import MAX_UNPROVEN, MAX_UNPROVEN_ACCOUNTS
from slixmpp_mls.errors import MalformedError
from slixmpp_mls.identity import ClientIdentity, TrustLevel, fingerprint, key_identifier
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.stanza.trust_message import MAX_KEYS, KeyOwner, TrustMessage, parse_fingerprint
from slixmpp_mls.store import MemoryStore, SQLiteStore

from .test_authentication import ED25519, Oracle, answer_on, leaf_of, verdict_on

SUITE = CipherSuite.get(1)
SCHEMA = etree.XMLSchema(file=str(Path(__file__).parents[2] / "xep" / "trust-message.xsd"))
OWN = "alice@a.example"
BOB = ClientIdentity("bob@b.example", "b1")
B2 = ClientIdentity(BOB.account, "b2")
CAROL = ClientIdentity("carol@c.example", "c1")
A1, A2, A3 = (ClientIdentity(OWN, name) for name in ("a1", "a2", "a3"))


def key_of(client: ClientIdentity, number: int = 0) -> bytes:
    return sha256(f"{client} {number}".encode()).digest()


def id_of(client: ClientIdentity, number: int = 0) -> bytes:
    return key_identifier(key_of(client, number))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(OWN)
    yield made
    made.close()


def people(store: Any, **options: Any) -> tuple[ManualTrust, TrustManagement, Oracle]:
    table, oracle = TrustTable(store, clock=Clock()), Oracle()
    return ManualTrust(oracle, table, **options), TrustManagement(table, OWN), oracle


def says(validity: Validity, reason: str) -> Oracle:
    class Told(Oracle):
        async def validate(self, leaves: Any, suite: Any) -> list[Verdict]:
            return [Verdict(validity, reason, reason)] * len(leaves)

    return Told()


# --- people as Authentication Service ----------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "level", "answer"),
    [
        ((Validity.VALID, ""), None, "valid"),
        ((Validity.UNKNOWN, "unreachable"), None, "unreachable"),
        ((Validity.INVALID, "other-key"), None, "other-key"),
        ((Validity.VALID, ""), TrustLevel.VERIFIED, "valid"),
        ((Validity.UNKNOWN, "unreachable"), TrustLevel.VERIFIED, "valid"),
        ((Validity.INVALID, "other-key"), TrustLevel.VERIFIED, "valid"),
        ((Validity.INVALID, "not-readable"), TrustLevel.VERIFIED, "valid"),
        ((Validity.INVALID, "key-changed"), TrustLevel.VERIFIED, "valid"),
        ((Validity.INVALID, "no-device"), TrustLevel.VERIFIED, "valid"),
        ((Validity.INVALID, "retired"), TrustLevel.VERIFIED, "retired"),
        ((Validity.INVALID, "revoked"), TrustLevel.VERIFIED, "revoked"),
        ((Validity.VALID, ""), TrustLevel.DISTRUSTED, "refused"),
        ((Validity.UNKNOWN, "unreachable"), TrustLevel.DISTRUSTED, "refused"),
        ((Validity.INVALID, "other-key"), TrustLevel.DISTRUSTED, "refused"),
    ],
)
async def test_the_table_of_people(
    store: MemoryStore, inner: tuple[Validity, str], level: TrustLevel | None, answer: str
) -> None:
    """Each line of the table in :mod:`slixmpp_mls.authentication.manual_trust` that is about one key."""
    table = TrustTable(store)
    management = TrustManagement(table, OWN)
    if level is TrustLevel.VERIFIED:
        management.decide(BOB.account, verify=[id_of(BOB)])
    elif level is TrustLevel.DISTRUSTED:
        management.decide(BOB.account, distrust=[id_of(BOB)])
    service = ManualTrust(says(*inner), table)
    for _ in range(2):
        assert await answer_on(service, BOB, key_of(BOB)) == answer


@pytest.mark.parametrize("reason", ["", "other-key"])
async def test_a_substituted_list_cannot_change_a_verified_key(store: MemoryStore, reason: str) -> None:
    """An account's server lists another key for a device, and no longer the one that people have compared."""
    table = TrustTable(store)
    service = ManualTrust(says(Validity.VALID, ""), table)
    assert await answer_on(service, BOB, key_of(BOB)) == "valid"
    TrustManagement(table, OWN).decide(BOB.account, verify=[id_of(BOB)])
    substitute = key_of(BOB, 1)
    for inner in (says(Validity.VALID, ""), TrustOnFirstUse(says(Validity.VALID, ""), table, accept_changed_keys=True)):
        assert await answer_on(ManualTrust(inner, table), BOB, substitute) == "key-changed"
    assert await answer_on(ManualTrust(says(Validity.INVALID, "other-key"), table), BOB, key_of(BOB)) == "valid"
    assert table.get(BOB.account, id_of(BOB, 1)).level is TrustLevel.UNDECIDED


@pytest.mark.parametrize(
    ("rule", "answer"),
    [(NewDeviceRule.ACCEPT, "valid"), (NewDeviceRule.ASK, "not-verified"), (NewDeviceRule.REFUSE, "not-verified")],
)
async def test_unverified_devices_of_verified_accounts_by_rule(
    store: MemoryStore, rule: NewDeviceRule, answer: str
) -> None:
    """XEP-0450, "Trust Only Authenticated Keys After First Authentication"."""
    service, management, _ = people(store, unverified=rule)
    assert await answer_on(service, BOB, key_of(BOB)) == "valid"
    assert await answer_on(service, B2, key_of(B2)) == "valid"
    management.decide(BOB.account, verify=[id_of(BOB)])
    assert await answer_on(service, B2, key_of(B2)) == answer
    assert not (await verdict_on(service, B2, key_of(B2))).is_invalid  # it was there before
    late = ClientIdentity(BOB.account, "b3")
    assert await answer_on(service, late, key_of(late)) == answer
    assert (await verdict_on(service, late, key_of(late))).is_invalid == (rule is NewDeviceRule.REFUSE)
    assert await answer_on(service, CAROL, key_of(CAROL)) == "valid"
    management.decide(BOB.account, verify=[id_of(B2), id_of(late)])
    for device in (B2, late):
        assert await answer_on(service, device, key_of(device)) == "valid"


async def test_our_own_key_obliges_our_other_devices_to_nothing(store: MemoryStore) -> None:
    service, _, oracle = people(store)
    await service.issue(A1, {ED25519: key_of(A1)})
    assert oracle.issued == [A1]
    assert await answer_on(service, A2, key_of(A2)) == "valid"
    assert await answer_on(service, A1, key_of(A1, 1)) == "key-changed"  # who bears our name is found out


async def test_a_key_that_is_another_devices(store: MemoryStore) -> None:
    service, management, _ = people(store)
    await answer_on(service, BOB, key_of(BOB))
    management.decide(BOB.account, verify=[id_of(BOB)])
    assert await answer_on(service, B2, key_of(BOB)) == "other-device"
    assert await answer_on(service, BOB, key_of(BOB)) == "valid"


async def test_a_change_of_level_is_told_to_who_relies_on_verdicts(store: MemoryStore) -> None:
    service, management, _ = people(store)
    heard: list[str] = []
    end = service.subscribe(heard.append)
    management.decide(BOB.account, verify=[id_of(BOB)])
    management.decide(BOB.account, verify=[id_of(BOB)])
    end()
    management.decide(BOB.account, distrust=[id_of(BOB)])
    assert heard == [BOB.account]


async def test_people_inside_of_a_combination(store: MemoryStore) -> None:
    """What people compare does not stand in for an authority, when both are required."""
    service, management, _ = people(store)
    management.decide(BOB.account, verify=[id_of(BOB)])
    combined = AllOf(says(Validity.INVALID, "revoked"), service)
    assert await answer_on(combined, BOB, key_of(BOB)) == "revoked"
    await combined.note_successor(leaf_of(BOB, key_of(BOB)), leaf_of(BOB, key_of(BOB, 1)), SUITE)
    assert await answer_on(service, BOB, key_of(BOB, 1)) == "valid"


async def test_levels_outlive_the_process(tmp_path: Path) -> None:
    for step in range(2):
        store = SQLiteStore(tmp_path / "store", OWN)
        service, management, _ = people(store)
        if step == 0:
            await answer_on(service, BOB, key_of(BOB))
            management.decide(BOB.account, verify=[id_of(BOB)], distrust=[id_of(B2)])
        else:
            (first, second) = sorted(management.table.of(BOB.account), key=lambda key: key.level)
            assert (first.level, first.device, first.signature_key) == (TrustLevel.VERIFIED, "b1", key_of(BOB))
            assert (second.level, second.device, second.identifier) == (TrustLevel.DISTRUSTED, None, id_of(B2))
            assert first.fingerprint == fingerprint(key_of(BOB))
        store.close()


async def test_what_has_only_been_seen_is_bounded(store: MemoryStore) -> None:
    service, management, _ = people(store)
    management.decide(BOB.account, verify=[id_of(BOB)])
    for number in range(2 * MAX_UNPROVEN):
        await answer_on(service, B2, key_of(B2, number))
    keys = management.table.of(BOB.account)
    assert len(keys) == MAX_UNPROVEN + 1
    assert [key.identifier for key in keys if key.level] == [id_of(BOB)]


# --- succession --------------------------------------------------------------------------------


def first_use(store: Any, **options: Any) -> tuple[TrustOnFirstUse, TrustManagement, list[Any]]:
    table = TrustTable(store, clock=Clock())
    service = TrustOnFirstUse(Oracle(), table, **options)
    events: list[Any] = []
    service.on_event(events.append)
    return service, TrustManagement(table, OWN), events


async def rotate(service: Any, client: ClientIdentity, before: int, after: int) -> None:
    await service.note_successor(leaf_of(client, key_of(client, before)), leaf_of(client, key_of(client, after)), SUITE)


async def test_a_key_replaced_by_its_holder_is_no_change_of_key(store: MemoryStore) -> None:
    """RFC 9420 12.1.2, 12.4: what replaces a leaf is signed with the key that is replaced."""
    service, management, events = first_use(store)
    await answer_on(service, BOB, key_of(BOB, 0))
    await rotate(service, BOB, 0, 1)
    assert await answer_on(service, BOB, key_of(BOB, 1)) == "valid"
    assert events == []
    assert await answer_on(service, BOB, key_of(BOB, 0)) == "valid"  # in groups where it has not been replaced yet
    # Without the old key's signature it is what it was: a change of key.
    assert await answer_on(service, BOB, key_of(BOB, 2)) == "key-changed"
    assert [(type(event), event.pinned_key) for event in events] == [(KeyChanged, key_of(BOB, 1))]
    levels = {key.identifier: (key.level, key.source) for key in management.table.of(BOB.account)}
    assert levels == {
        id_of(BOB, 0): (TrustLevel.TRUSTED, Source.REPLACED),
        id_of(BOB, 1): (TrustLevel.TRUSTED, Source.FIRST_USE),
    }


async def test_verification_goes_along_and_leaves_the_old_key(store: MemoryStore) -> None:
    service, management, _ = people(store)
    management.decide(BOB.account, verify=[id_of(BOB)])
    await answer_on(service, BOB, key_of(BOB))
    await rotate(service, BOB, 0, 1)
    assert management.table.get(BOB.account, id_of(BOB, 1)).level is TrustLevel.VERIFIED
    assert await answer_on(service, BOB, key_of(BOB, 1)) == "valid"
    assert await answer_on(service, BOB, key_of(BOB, 2)) == "key-changed"
    # Of a key that is no longer in use, the account's server may say so.
    assert await answer_on(ManualTrust(says(Validity.INVALID, "other-key"), management.table), BOB, key_of(BOB)) == (
        "other-key"
    )


async def test_distrust_cannot_be_shaken_off_by_new_keys(store: MemoryStore) -> None:
    service, management, _ = people(store)
    await answer_on(service, BOB, key_of(BOB))
    management.decide(BOB.account, distrust=[id_of(BOB)])
    for number in range(MAX_KEYS_OF_ONE + 50):
        await rotate(service, BOB, number, number + 1)
    assert await answer_on(service, BOB, key_of(BOB, MAX_KEYS_OF_ONE + 50)) == "refused"
    assert len(management.table.of(BOB.account)) <= MAX_KEYS_OF_ONE


async def test_succession_of_keys_that_are_not_known_or_not_the_same_devices_says_nothing(store: MemoryStore) -> None:
    service, management, _ = people(store)
    await rotate(service, BOB, 0, 1)
    assert management.table.everything() == []
    management.decide(BOB.account, verify=[id_of(BOB)])
    await service.note_successor(leaf_of(BOB, key_of(BOB)), leaf_of(B2, key_of(B2)), SUITE)
    assert await answer_on(service, B2, key_of(B2)) == "not-verified"


async def test_what_a_person_has_decided_on_a_key_is_not_replaced_by_its_predecessors_level(store: MemoryStore) -> None:
    service, management, _ = people(store)
    management.decide(BOB.account, verify=[id_of(BOB, 0)], distrust=[id_of(BOB, 1)])
    await rotate(service, BOB, 0, 1)
    assert await answer_on(service, BOB, key_of(BOB, 1)) == "refused"


async def test_many_rotations_leave_few_traces(store: MemoryStore) -> None:
    service, management, _ = people(store)
    management.decide(BOB.account, verify=[id_of(BOB, 0)])
    for number in range(3 * MAX_UNPROVEN):
        await rotate(service, BOB, number, number + 1)
    assert len(management.table.of(BOB.account)) <= MAX_UNPROVEN + 2
    assert await answer_on(service, BOB, key_of(BOB, 3 * MAX_UNPROVEN)) == "valid"


# --- the element and the URI -------------------------------------------------------------------

identifiers = st.binary(min_size=32, max_size=32)
accounts = st.sampled_from([OWN, BOB.account, CAROL.account, "jürgen@bücher.example", "d%27art?=;a@ex.example"])


@st.composite
def owners(draw: st.DrawFn) -> KeyOwner:
    keys = draw(st.lists(identifiers, min_size=1, max_size=6, unique=True))
    cut = draw(st.integers(0, len(keys)))
    return KeyOwner(draw(accounts), tuple(keys[:cut]), tuple(keys[cut:]))


@given(owners())
def test_uris_come_back(owner: KeyOwner) -> None:
    uri = owner.to_uri()
    assert uri.isascii()
    assert KeyOwner.from_uri(uri) == owner


@given(st.lists(owners(), min_size=1, max_size=4, unique_by=lambda owner: owner.jid))
def test_elements_come_back_and_keep_to_the_schema(of: list[KeyOwner]) -> None:
    message = TrustMessage(tuple(of))
    SCHEMA.assertValid(message.to_lxml())
    assert TrustMessage.read(message.to_lxml()) == message


def test_the_uri_is_that_of_xep_0434() -> None:
    """The example of its section on URI query types, with our encryption."""
    one, other = "623548d3835c6d33ef5cb680f7944ef381cf712bf23a0119dabe5c4f252cd02f", "b4" * 32
    uri = f"xmpp:bob@example.com?trust-message;encryption=urn:xmpp:mls:0;trust={one};distrust={other}"
    owner = KeyOwner("bob@example.com", (bytes.fromhex(one),), (bytes.fromhex(other),))
    assert KeyOwner.from_uri(uri) == owner
    assert owner.to_uri() == uri
    assert KeyOwner.from_uri(uri.replace(one, one.upper()).replace("mls:0", "mls%3A0")) == owner  # RFC 4648 8, RFC 5122


GOOD = f"xmpp:bob@b.example?trust-message;encryption=urn:xmpp:mls:0;trust={'ab' * 32}"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "xmpp:bob@b.example",
        GOOD.replace("xmpp:", "mailto:"),
        GOOD.replace("trust-message", "message"),
        GOOD.replace("mls:0", "omemo:2"),
        GOOD.replace(";encryption=urn:xmpp:mls:0", ""),
        GOOD.replace(";encryption=urn:xmpp:mls:0", "") + ";encryption=urn:xmpp:mls:0",
        GOOD.partition(";trust")[0],
        GOOD[:-1],
        GOOD + ";trust=" + "ab" * 32,
        GOOD + ";distrust=" + "ab" * 32,
        GOOD + ";revoke=" + "ac" * 32,
        GOOD.replace("bob@", "Bob@"),
        GOOD.replace("bob@", ""),
        GOOD.replace("b.example", "b.example/phone"),
        GOOD.replace("b.example", "b.example%00"),
        GOOD + ";trust=" + "ac" * 32 + " " * 9000,
    ],
)
def test_uris_that_are_none(uri: str) -> None:
    KeyOwner.from_uri(GOOD)
    with pytest.raises(MalformedError):
        KeyOwner.from_uri(uri)


def element(xml: str) -> etree._Element:
    return etree.fromstring(xml)


KEY64 = "YjVI04NcbTPvXLaA95RO84HPcSvyOgEZ2r5cTyUs0C8="
MESSAGE = (
    "<trust-message xmlns='urn:xmpp:tm:1' usage='urn:xmpp:atm:1' encryption='urn:xmpp:mls:0'>"
    f"<key-owner jid='bob@b.example'><trust>{KEY64}</trust></key-owner></trust-message>"
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("urn:xmpp:tm:1", "urn:xmpp:tm:0"),
        (f"<trust>{KEY64}</trust>", ""),
        (KEY64, KEY64 + "!"),
        (KEY64, KEY64[:40]),
        (KEY64, ""),
        ("bob@b.example", "b.example"),
        ("jid='bob@b.example'", ""),
        ("</key-owner>", f"</key-owner><key-owner jid='bob@b.example'><trust>{KEY64}</trust></key-owner>"),
        ("</trust>", f"</trust><distrust>{KEY64}</distrust>"),
    ],
)
def test_elements_that_break_a_rule(old: str, new: str) -> None:
    assert TrustMessage.read(element(MESSAGE)) == TrustMessage((KeyOwner("bob@b.example", (
        bytes.fromhex("623548d3835c6d33ef5cb680f7944ef381cf712bf23a0119dabe5c4f252cd02f"),)),))  # fmt: skip
    with pytest.raises(MalformedError):
        TrustMessage.read(element(MESSAGE.replace(old, new, 1)))


def test_messages_about_other_keys_and_unknown_children() -> None:
    assert TrustMessage.read(element(MESSAGE.replace("mls:0", "omemo:2"))) is None
    more = "<x xmlns='urn:x'/><later/><key-owner"
    assert TrustMessage.read(element(MESSAGE.replace("<key-owner", more))) == TrustMessage.read(element(MESSAGE))


def test_elements_have_a_limit() -> None:
    of = KeyOwner(BOB.account, tuple(sha256(bytes([n % 256, n // 256])).digest() for n in range(MAX_KEYS)))
    too_many = TrustMessage((of,)).to_lxml()
    too_many[0].append(element(f"<trust xmlns='urn:xmpp:tm:1'>{KEY64}</trust>"))
    with pytest.raises(MalformedError):
        TrustMessage.read(too_many)


@pytest.mark.parametrize("between", [" ", "", ":", "\n", "-"])
def test_fingerprints_as_people_write_them(between: str) -> None:
    text = between.join(fingerprint(key_of(BOB)).upper().split())
    assert parse_fingerprint(text) == id_of(BOB)
    for wrong in (text[:-1], text + "0", "g" + text[1:], ""):
        with pytest.raises(MalformedError):
            parse_fingerprint(wrong)


def test_a_device_that_takes_another_id_does_not_claim_the_one_that_it_had() -> None:
    """Another device has that id: its leaf would be refused as one with another key than ours."""
    table = TrustTable(MemoryStore(OWN), clock=Clock())
    taken, free = ClientIdentity(OWN, "taken"), ClientIdentity(OWN, "free")
    with table.open() as keys:
        keys.own(taken, ED25519, key_of(A1))
        keys.own(free, ED25519, key_of(A1))
        (known,) = keys.of(OWN)
    assert (known.device, known.level, known.source) == (free.device, TrustLevel.VERIFIED, Source.SELF)


# --- ATM: one receiver -------------------------------------------------------------------------


def message(owner: ClientIdentity, *trust: bytes, distrust: tuple[bytes, ...] = ()) -> TrustMessage:
    return TrustMessage((KeyOwner(owner.account, trust, distrust),))


def managed(store: Any, introductions: bool = False) -> tuple[TrustManagement, list[TrustChanged]]:
    table = TrustTable(store, clock=Clock())
    with table.open() as keys:
        keys.own(A1, ED25519, key_of(A1))
    changes: list[TrustChanged] = []
    table.on_change(changes.append)
    return TrustManagement(table, OWN, introductions=introductions), changes


def level(management: TrustManagement, client: ClientIdentity, number: int = 0) -> TrustLevel:
    return management.table.get(client.account, id_of(client, number)).level


def waiting(management: TrustManagement) -> int:
    with management.table.open() as keys:
        return sum(1 for _ in keys.transaction.items(WAITING))


def send(management: TrustManagement, sender: ClientIdentity, what: TrustMessage, sent: int = 1_000_500) -> None:
    management.receive(sender, id_of(sender), what, sent)


LATER = 2_000_000


@pytest.mark.parametrize("verb", ["trust", "distrust"])
@pytest.mark.parametrize("introductions", [False, True])
def test_a_trust_message_by_an_untrusted_key_changes_nothing(
    store: MemoryStore, verb: str, introductions: bool
) -> None:
    management, changes = managed(store, introductions)
    identifiers = (id_of(B2), id_of(CAROL))
    for sender in (BOB, A2, CAROL):
        for owner, identifier in ((B2, identifiers[0]), (CAROL, identifiers[1])):
            said = message(owner, identifier) if verb == "trust" else message(owner, distrust=(identifier,))
            send(management, sender, said)
    assert changes == []
    assert {level(management, who) for who in (B2, CAROL, BOB, A2)} == {TrustLevel.UNDECIDED}


@pytest.mark.parametrize(
    ("sender", "owner", "source"),
    [
        (A2, B2, Source.OWN_DEVICE),
        (A2, A3, Source.OWN_DEVICE),
        (BOB, B2, Source.CONTACT),
        (BOB, A3, None),
        (BOB, CAROL, None),
    ],
)
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("verb", ["trust", "distrust"])
def test_whose_word_counts_for_whose_keys(
    store: MemoryStore, sender: ClientIdentity, owner: ClientIdentity, source: Source | None, before: bool, verb: str
) -> None:
    """XEP-0450 4: at once if the sender's key is verified, as soon as it is otherwise."""
    management, _ = managed(store)
    said = message(owner, id_of(owner)) if verb == "trust" else message(owner, distrust=(id_of(owner),))
    if before:
        send(management, sender, said)
        assert level(management, owner) is TrustLevel.UNDECIDED
        assert waiting(management) == (source is not None)
    management.decide(sender.account, verify=[id_of(sender)])
    if not before:
        send(management, sender, said, LATER)
    key = management.table.get(owner.account, id_of(owner))
    expected = TrustLevel.VERIFIED if verb == "trust" else TrustLevel.DISTRUSTED
    assert key.level is (TrustLevel.UNDECIDED if source is None else expected)
    if source is not None:
        assert (key.source, key.by) == (source, str(sender))
    assert waiting(management) == 0


def test_one_comparison_sets_off_all_that_has_waited(store: MemoryStore) -> None:
    """Bob's second device waits for his first, which waits for our second, which waits for us."""
    management, changes = managed(store)
    send(management, B2, message(BOB, id_of(ClientIdentity(BOB.account, "b3"))))
    send(management, BOB, message(BOB, id_of(B2)))
    send(management, A2, message(BOB, id_of(BOB)))
    assert (changes, waiting(management)) == ([], 3)
    management.decide(OWN, verify=[id_of(A2)])
    assert [change.level for change in changes] == [TrustLevel.VERIFIED] * 4
    assert waiting(management) == 0


def test_the_word_of_a_distrusted_key_does_not_even_wait(store: MemoryStore) -> None:
    management, _ = managed(store)
    send(management, BOB, message(BOB, id_of(B2)))
    management.decide(BOB.account, distrust=[id_of(BOB)])
    assert waiting(management) == 0
    send(management, BOB, message(BOB, id_of(B2)))
    assert waiting(management) == 0
    management.decide(BOB.account, verify=[id_of(BOB)])
    assert level(management, B2) is TrustLevel.UNDECIDED


def test_what_people_refuse_others_do_not_make_them_take_back(store: MemoryStore) -> None:
    management, _ = managed(store)
    management.decide(BOB.account, verify=[id_of(BOB)], distrust=[id_of(B2)])
    send(management, BOB, message(BOB, id_of(B2)), LATER)
    assert level(management, B2) is TrustLevel.DISTRUSTED
    management.decide(OWN, verify=[id_of(A2)])
    send(management, A2, message(BOB, id_of(B2)), LATER)
    assert level(management, B2) is TrustLevel.VERIFIED  # people at our other device have


def test_an_accounts_own_device_distrusts_a_stolen_one_that_we_have_compared(store: MemoryStore) -> None:
    """XEP-0450 4.4.2.1."""
    management, changes = managed(store)
    management.decide(BOB.account, verify=[id_of(BOB), id_of(B2)])
    send(management, BOB, message(BOB, distrust=(id_of(B2),)), LATER)
    assert level(management, B2) is TrustLevel.DISTRUSTED
    send(management, B2, message(BOB, distrust=(id_of(BOB),)), LATER + 1)
    assert level(management, BOB) is TrustLevel.VERIFIED
    assert (changes[-1].before, changes[-1].level) == (TrustLevel.VERIFIED, TrustLevel.DISTRUSTED)


def test_an_older_word_does_not_undo_a_younger_one(store: MemoryStore) -> None:
    """XEP-0434, "SCE Profile": messages may come in another order than that of their sending."""
    management, _ = managed(store)
    management.decide(BOB.account, verify=[id_of(BOB)])
    send(management, BOB, message(BOB, distrust=(id_of(B2),)), LATER + 10)
    send(management, BOB, message(BOB, id_of(B2)), LATER)
    assert level(management, B2) is TrustLevel.DISTRUSTED
    send(management, BOB, message(BOB, id_of(B2)), LATER + 20)
    assert level(management, B2) is TrustLevel.VERIFIED


def test_a_word_from_before_we_first_met_the_key_counts(store: MemoryStore) -> None:
    management, _ = managed(store)
    send(management, BOB, message(BOB, id_of(B2)), 5)
    with management.table.open() as keys:
        keys.put(keys.meet(B2, ED25519, key_of(B2)))
    management.decide(BOB.account, verify=[id_of(BOB)])
    assert level(management, B2) is TrustLevel.VERIFIED


def test_our_own_key_is_not_for_others_to_judge(store: MemoryStore) -> None:
    management, changes = managed(store)
    management.decide(OWN, verify=[id_of(A2)])
    send(management, A2, message(A1, distrust=(id_of(A1),)), LATER)
    assert level(management, A1) is TrustLevel.VERIFIED
    assert len(changes) == 1
    assert management.decide(OWN, distrust=[id_of(A1)]) == []
    assert level(management, A1) is TrustLevel.VERIFIED


def test_introductions_go_one_step_and_no_further(store: MemoryStore) -> None:
    management, _ = managed(store, introductions=True)
    dave = ClientIdentity("dave@d.example", "d1")
    management.decide(BOB.account, verify=[id_of(BOB)])
    send(management, BOB, message(CAROL, id_of(CAROL)), LATER)
    assert management.table.get(CAROL.account, id_of(CAROL)).source is Source.INTRODUCTION
    send(management, CAROL, message(dave, id_of(dave)), LATER)
    assert level(management, dave) is TrustLevel.UNDECIDED
    # For their own account's keys those who were introduced may speak.
    other = ClientIdentity(CAROL.account, "c2")
    send(management, CAROL, message(CAROL, id_of(other)), LATER)
    assert level(management, other) is TrustLevel.VERIFIED
    # What we have compared ourselves is not for third persons to take away; what they have introduced is.
    management.decide(dave.account, verify=[id_of(dave)])
    send(management, BOB, message(dave, distrust=(id_of(dave),)), 2 * LATER)
    assert level(management, dave) is TrustLevel.VERIFIED
    send(management, BOB, message(CAROL, distrust=(id_of(CAROL),)), 2 * LATER)
    assert level(management, CAROL) is TrustLevel.DISTRUSTED


def test_what_waits_is_bounded_for_one_account_and_for_all(store: MemoryStore) -> None:
    management, _ = managed(store)

    def flood(account: str, device: int, count: int) -> None:
        sender = ClientIdentity(account, f"x{device}")
        said = KeyOwner(account, tuple(sha256(f"{sender} {number}".encode()).digest() for number in range(count)))
        management.receive(sender, id_of(sender), TrustMessage((said,)), 1_000_000 + device)

    send(management, BOB, message(BOB, id_of(B2)), 1)
    for device in range(3):
        flood("mallory@m.example", device, MAX_WAITING_OF_ONE)
    assert waiting(management) == MAX_WAITING_OF_ONE + 1
    for number in range(MAX_WAITING // MAX_WAITING_OF_ONE + 2):
        flood(f"mallory{number}@m.example", 0, MAX_WAITING_OF_ONE)
    assert waiting(management) == MAX_WAITING
    management.decide(BOB.account, verify=[id_of(BOB)])
    assert level(management, B2) is TrustLevel.VERIFIED  # Bob's one has not been pushed out


def test_keys_of_one_account_are_bounded(store: MemoryStore) -> None:
    management, _ = managed(store)
    management.decide(BOB.account, verify=[id_of(BOB)])
    for start in range(0, 2 * MAX_KEYS, MAX_KEYS):
        keys = tuple(sha256(f"{number}".encode()).digest() for number in range(start, start + MAX_KEYS))
        send(management, BOB, TrustMessage((KeyOwner(BOB.account, keys),)), LATER)
    assert len(management.table.of(BOB.account)) == MAX_KEYS_OF_ONE


# --- ATM: everybody together -------------------------------------------------------------------


class Device:
    def __init__(self, client: ClientIdentity, introductions: bool, clock: Clock) -> None:
        self.client = client
        self.clock = clock
        table = TrustTable(MemoryStore(client.account), clock=clock)
        with table.open() as keys:
            keys.own(client, ED25519, key_of(client))
        self.management = TrustManagement(table, client.account, introductions=introductions)

    def compare(self, other: Device) -> None:
        for one, two in ((self, other), (other, self)):
            one.management.decide(two.client.account, verify=[id_of(two.client)])

    def speak(self) -> list[TrustMessage]:
        """To a room in which everybody is."""
        recipients = self.management.recipients()
        statements = self.management.owed(recipients)
        self.management.told(recipients, statements)
        assert self.management.owed(recipients) == []
        return compose(statements)

    def has_verified(self, others: list[Device]) -> bool:
        return all(level(self.management, other.client) is TrustLevel.VERIFIED for other in others if other is not self)


def talk(devices: list[Device], rng: random.Random) -> int:
    """Everybody says what is due, in any order, until nobody has anything to say; how many messages that took."""
    count = 0
    silent = 0
    while silent < len(devices):
        silent = 0
        for speaker in rng.sample(devices, len(devices)):
            messages = speaker.speak()
            silent += not messages
            for said in messages:
                count += 1
                assert count < 10 * len(devices) ** 2, "they never stop"
                sent = speaker.clock.now
                for listener in rng.sample(devices, len(devices)):
                    if listener is not speaker:
                        listener.management.receive(speaker.client, id_of(speaker.client), said, sent)
    return count


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.randoms(use_true_random=False))
def test_two_accounts_with_n_devices_need_n_minus_1_comparisons(
    ours: int, theirs: int, talk_between: bool, rng: random.Random
) -> None:
    """XEP-0450 3: whatever the tree of comparisons within each account, and the one that joins the two."""
    clock = Clock()
    own = [Device(ClientIdentity(OWN, f"a{number}"), False, clock) for number in range(ours)]
    their = [Device(ClientIdentity(BOB.account, f"b{number}"), False, clock) for number in range(theirs)]
    everybody = own + their
    pairs = [(side[number], side[rng.randrange(number)]) for side in (own, their) for number in range(1, len(side))]
    pairs.append((rng.choice(own), rng.choice(their)))
    assert len(pairs) == len(everybody) - 1
    for one, other in rng.sample(pairs, len(pairs)):
        one.compare(other)
        if talk_between:
            talk(everybody, rng)
    talk(everybody, rng)
    for device in everybody:
        assert device.has_verified(everybody), device.client


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.booleans(), st.randoms(use_true_random=False))
def test_n_people_who_accept_introductions_need_n_minus_1_comparisons_with_one_of_them(
    count: int, talk_between: bool, rng: random.Random
) -> None:
    clock = Clock()
    people = [Device(ClientIdentity(f"p{number}@a.example", "d"), True, clock) for number in range(count)]
    for other in rng.sample(people[1:], count - 1):
        people[0].compare(other)
        if talk_between:
            talk(people, rng)
    talk(people, rng)
    assert all(person.has_verified(people) for person in people)


def test_without_introductions_nobody_learns_of_third_persons() -> None:
    rng, clock = random.Random(1), Clock()
    people = [Device(ClientIdentity(f"p{number}@a.example", "d"), False, clock) for number in range(4)]
    for other in people[1:]:
        people[0].compare(other)
    assert talk(people, rng) == 0
    for one, other in combinations(people[1:], 2):
        assert level(one.management, other.client) is TrustLevel.UNDECIDED


def test_a_latecomer_and_a_forgetful_client_hear_it_all() -> None:
    clock = Clock()
    a1, a2, b1 = (Device(client, False, clock) for client in (A1, A2, BOB))
    a1.compare(b1)
    a1.compare(a2)
    (said,) = a1.speak()
    assert {owner.jid for owner in said.owners} == {OWN, BOB.account}
    assert a1.speak() == []
    a1.management.forget_told(a1.management.recipients())
    assert a1.speak() == [said]


def test_a_refusal_is_told_to_whom_it_concerns() -> None:
    """XEP-0450 4.3 and 4.4: an own device's to all, a contact's to our own devices only."""
    rng, clock = random.Random(1), Clock()
    a1, a2, _, b1, c1 = everybody = [Device(client, False, clock) for client in (A1, A2, A3, BOB, CAROL)]
    for other in everybody[1:]:
        a1.compare(other)
    talk(everybody, rng)
    a1.management.decide(BOB.account, distrust=[id_of(BOB)])
    a1.management.decide(OWN, distrust=[id_of(A3)])
    talk(everybody, rng)
    assert level(a2.management, BOB) is TrustLevel.DISTRUSTED
    assert level(c1.management, BOB) is TrustLevel.UNDECIDED
    for device in (a2, c1, b1):  # who is refused is in the room, and hears it as well
        assert level(device.management, A3) is TrustLevel.DISTRUSTED
    assert BOB.account not in {key.account for key in a1.management.recipients()}  # but is owed nothing any more


def test_events_show_fingerprints_not_keys(store: MemoryStore) -> None:
    management, changes = managed(store)
    with management.table.open() as keys:
        keys.meet(BOB, ED25519, key_of(BOB))
    management.decide(BOB.account, verify=[id_of(BOB)])
    (change,) = changes
    assert (change.account, change.before, change.level) == (BOB.account, TrustLevel.UNDECIDED, TrustLevel.VERIFIED)
    assert change.key.fingerprint == fingerprint(key_of(BOB))
    assert repr(key_of(BOB)) not in repr(change)


async def test_first_use_and_people_share_their_memory(store: MemoryStore) -> None:
    """As the plugin combines them."""
    table = TrustTable(store, clock=Clock())
    pins = TrustOnFirstUse(Oracle(), table)
    service, management = ManualTrust(pins, table), TrustManagement(table, OWN)
    events: list[Any] = []
    pins.on_event(events.append)
    assert await service.validate([leaf_of(BOB, key_of(BOB)), leaf_of(B2, key_of(B2))], SUITE) == [VALID] * 2
    assert {key.level for key in table.of(BOB.account)} == {TrustLevel.TRUSTED}
    assert await answer_on(service, BOB, key_of(BOB, 1)) == "key-changed"
    management.decide(BOB.account, verify=[id_of(BOB, 1)])
    assert await answer_on(service, BOB, key_of(BOB, 1)) == "valid"
    assert (await verdict_on(service, B2, key_of(B2))).reason == "not-verified"
    assert [type(event) for event in events] == [KeyChanged]
    assert await answer_on(service, ClientIdentity(BOB.account, "b3"), key_of(BOB, 3)) == "not-verified"
    assert [type(event) for event in events] == [KeyChanged, NewDevice]


def content(*children: Any) -> etree._Element:
    """The content of a message."""
    element = etree.Element("{jabber:client}message")
    element.extend(children)
    return element


@pytest.mark.parametrize("sent", [1_000_000.9, None, 9e9])
def test_trust_messages_in_the_content_of_a_message_are_taken(store: MemoryStore, sent: float | None) -> None:
    """A sender whose clock is ahead does not have the last word for years."""
    management, _ = managed(store)
    management.decide(BOB.account, verify=[id_of(BOB)])
    body = etree.Element("{jabber:client}body")
    assert not management.take(BOB, key_of(BOB), content(body), sent)
    bad = etree.Element("{urn:xmpp:tm:1}trust-message")
    said = message(BOB, id_of(B2)).to_lxml()
    assert not management.take(BOB, key_of(BOB), content(body, bad, said), sent)  # there is something else in it
    assert level(management, B2) is TrustLevel.VERIFIED
    assert management.take(BOB, key_of(BOB), content(said), sent)  # XEP-0450 5.3: not for people to see
    key = management.table.get(BOB.account, id_of(B2))
    assert key.since <= management.table.now
    if sent is not None and sent < 9e9:
        assert key.since == 1_000_000


def test_accounts_that_nobody_has_decided_on_are_limited(store: MemoryStore) -> None:
    """A Welcome can name any number of accounts: the table does not grow with them, and loses no decision."""
    table = TrustTable(store, clock=Clock())
    TrustManagement(table, OWN).decide(BOB.account, verify=[id_of(BOB)])
    for start in range(0, MAX_UNPROVEN_ACCOUNTS + 500, 500):
        with table.open() as keys:
            for number in range(start, start + 500):
                keys.meet(ClientIdentity(f"u{number}@v.example", "d"), ED25519, key_of(CAROL, number))
    with table.open() as keys:
        keys.meet(CAROL, ED25519, key_of(CAROL))
    accounts = {key.account for key in table.everything()}
    assert len(accounts) == MAX_UNPROVEN_ACCOUNTS + 1
    assert {BOB.account, CAROL.account} <= accounts
    assert "u0@v.example" not in accounts
    assert table.get(BOB.account, id_of(BOB)).level is TrustLevel.VERIFIED


_CHANGES = st.tuples(
    st.sampled_from(["put", "delete", "meet", "own", "fail", "tidy"]),
    st.sampled_from([BOB, B2, CAROL, A1]),
    st.integers(0, 2),
    st.sampled_from(list(TrustLevel)),
    st.sampled_from(list(Source)),
)


@given(st.lists(_CHANGES, max_size=25), st.integers(0, 25))
@settings(max_examples=60, deadline=None)
def test_what_is_kept_in_memory_is_what_a_look_at_all_keys_shows(changes: list[Any], first: int) -> None:
    """Accounts without proven keys, and decided keys: known from one look on, also after a transaction that failed."""
    table = TrustTable(MemoryStore(OWN), clock=Clock())
    for number, (what, client, key, level, source) in enumerate(changes):
        if number == first:
            table.decided()
        known = table.get(client.account, id_of(client, key))
        with suppress(ZeroDivisionError), table.open() as keys:
            if what == "delete":
                keys.delete(known)
            elif what == "meet":
                keys.meet(client, ED25519, key_of(client, key))
            elif what == "own":
                keys.own(client, ED25519, key_of(client, key))
            elif what == "tidy":
                keys.tidy({OWN, CAROL.account})
            else:
                keys.put(replace(known, level=level, source=source, since=number))
            if what == "fail":
                raise ZeroDivisionError
        everything = table.everything()
        levels = TrustLevel.VERIFIED, TrustLevel.DISTRUSTED
        decided = [key for key in everything if key.level in levels and key.source is not Source.SELF]
        assert table.decided() == decided
        assert table._index is not None
        proven = {key.account for key in everything if key.is_proven}
        assert table._index.unproven.keys() == {key.account for key in everything} - proven


def test_a_table_in_which_nothing_is_decided_does_not_ask_the_store_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked after each Commit of others.  This device's own key is nobody's decision."""
    store = MemoryStore(OWN)
    table = TrustTable(store, clock=Clock())
    with table.open() as keys:
        keys.own(A1, ED25519, key_of(A1))
    assert table.decided() == []
    with monkeypatch.context() as patched:
        patched.setattr(store, "transaction", None)
        assert table.decided() == []
    TrustManagement(table, OWN).decide(BOB.account, verify=[id_of(BOB)])
    assert [key.account for key in table.decided()] == [BOB.account]


def everybody(table: TrustTable) -> set[str]:
    return {key.account for key in table.everything()}


async def test_undecided_keys_are_forgotten_with_the_group_that_has_shown_them(store: MemoryStore) -> None:
    service, management, _ = people(store)
    seen, kept, wished = CAROL, BOB, ClientIdentity("dave@d.example", "d1")
    management.decide(kept.account, verify=[id_of(kept)])
    management.decide(wished.account, distrust=[id_of(wished)])
    for client in (seen, kept, B2, wished):
        await answer_on(service, client, key_of(client, 1))
    table = management.table
    assert table.tidy({OWN, seen.account, kept.account, wished.account}) == 0
    assert table.tidy({OWN}) == 1
    assert everybody(table) == {kept.account, wished.account}
    assert table.get(kept.account, id_of(B2, 1)).level is TrustLevel.UNDECIDED  # the account is somebody's wish
    assert len(table.of(kept.account)) == 3


async def test_pins_of_accounts_in_no_group_are_limited_and_friends_are_not_flushed(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_table, "MAX_ACCOUNTS", 10)
    service, management, _ = first_use(store)
    management.decide(CAROL.account, verify=[id_of(CAROL)])
    await answer_on(service, BOB, key_of(BOB))  # first of all, and in a group of ours
    for number in range(30):
        stranger = ClientIdentity(f"u{number}@v.example", "d")
        await answer_on(service, stranger, key_of(stranger))
    assert management.table.tidy({OWN, BOB.account}) == 20
    last = {f"u{number}@v.example" for number in range(20, 30)}
    assert everybody(management.table) == {BOB.account, CAROL.account, *last}
    assert management.table.get(BOB.account, id_of(BOB)).level is TrustLevel.TRUSTED
