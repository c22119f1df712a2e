"""The Authentication Service: the accounts' own lists on real servers, pins, combinations."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pytest
from slixmpp import ClientXMPP

from slixmpp_mls.authentication import (
    VALID,
    AcceptAll,
    AllOf,
    AnyOf,
    AuthenticationService,
    DeviceListService,
    KeyChanged,
    NewDevice,
    NewDeviceRule,
    TrustEvent,
    TrustOnFirstUse,
    TrustTable,
    Validity,
    Verdict,
)
from slixmpp_mls.authentication.callbacks import Recent
from slixmpp_mls.authentication.device_lists import OF_ONE_DOMAIN
from slixmpp_mls.delivery import DeviceDirectory, Stream
from slixmpp_mls.delivery.devices import NODE
from slixmpp_mls.delivery.pep import PUBSUB, PUBSUB_OWNER
from slixmpp_mls.devserver import DevServer, Federation
from slixmpp_mls.errors import DeliveryError, Disconnected, NoAnswer, NotPermitted, Refused, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import CipherSuiteId, SignatureScheme
from slixmpp_mls.mls.structures.credential import BasicCredential, Certificate, X509Credential
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.stanza import Device, Key, RetiredDevice
from slixmpp_mls.store.memory import MemoryStore
from slixmpp_mls.store.sqlite import SQLiteStore

from ..conftest import SERVERS, unavailable_means_skip
from ..mls.members import member

Connect = Callable[..., Awaitable[ClientXMPP]]
SUITE = CipherSuite.get(1)
ED25519 = SUITE.signature_scheme
KEY, OTHER_KEY, THIRD_KEY = (bytes([number]) * 32 for number in (1, 2, 3))
ALICE = ClientIdentity("alice@a.example", "a1")


def leaf_of(client: ClientIdentity, key: bytes = KEY) -> LeafNode:
    return replace(member(0).leaf, credential=client.credential(), signature_key=key)


async def verdict_on(
    service: AuthenticationService, client: ClientIdentity, key: bytes = KEY, suite: CipherSuite = SUITE
) -> Verdict:
    (verdict,) = await service.validate([leaf_of(client, key)], suite)
    return verdict


async def answer_on(service: AuthenticationService, client: ClientIdentity, key: bytes = KEY) -> str:
    """In one word: "valid", or why not."""
    verdict = await verdict_on(service, client, key)
    return verdict.reason or verdict.validity.value


# --- signature schemes -------------------------------------------------------------------------


def test_suites_name_their_signature_scheme_as_tls_does() -> None:
    """RFC 9420 17.1, RFC 8446 4.2.3; draft-ietf-mls-pq-ciphersuites-06, section 4."""
    schemes = [CipherSuite.get(number).signature_scheme for number in CipherSuiteId]
    classical = [0x0807, 0x0403, 0x0807, 0x0808, 0x0603, 0x0808, 0x0503]
    assert schemes == [*classical, 0x0807, 0x0807, 0x0503, 0x0904, 0x0905, 0x0906]
    assert {SignatureScheme(scheme) for scheme in schemes} == set(SignatureScheme)


# --- the directory, on real servers ------------------------------------------------------------


def client_of(xmpp: ClientXMPP, device: str) -> ClientIdentity:
    return ClientIdentity(xmpp.boundjid.bare, device)


def directory(xmpp: ClientXMPP, **options: Any) -> DeviceListService:
    return DeviceListService(DeviceDirectory(xmpp), **options)


async def test_devices_are_published_and_read_by_others(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    phone, laptop, bobs = client_of(alice, "phone"), client_of(alice, "laptop"), client_of(bob, "b1")
    await directory(alice).issue(phone, {ED25519: KEY, 0x0403: b"\4" + bytes(64)}, label="Phone")
    await directory(alice).issue(laptop, {ED25519: OTHER_KEY})
    await directory(bob).issue(bobs, {ED25519: KEY})

    service = directory(bob)
    leaves = [
        leaf_of(phone),
        leaf_of(laptop, OTHER_KEY),
        leaf_of(bobs),
        leaf_of(phone, OTHER_KEY),
        leaf_of(client_of(alice, "watch")),
        leaf_of(client_of(bob, "phone")),
    ]
    verdicts = await service.validate(leaves, SUITE)
    assert [verdict.reason for verdict in verdicts] == ["", "", "", "other-key", "no-device", "no-device"]
    assert [verdict.is_valid for verdict in verdicts] == [True] * 3 + [False] * 3
    # The key must be listed for the scheme in question, not for any.
    assert (await verdict_on(service, phone, KEY, CipherSuite.get(2))).reason == "other-key"

    devices = await service.devices(alice.boundjid.bare)
    assert devices.keys() == {"phone", "laptop"}
    assert devices["phone"].label == "Phone"
    assert devices["phone"].added is not None
    assert abs((datetime.now(UTC) - devices["phone"].added).total_seconds()) < 600


async def test_publishing_again_keeps_label_and_date(server: DevServer, connect: Connect) -> None:
    alice = await connect(server, "alice")
    phone = client_of(alice, "phone")
    await directory(alice, clock=lambda: 1_700_000_000.5).issue(phone, {ED25519: KEY}, label="Phone")
    for keys, label, expected in (({ED25519: KEY}, None, "Phone"), ({ED25519: OTHER_KEY}, "Mobile", "Mobile")):
        await directory(alice).issue(phone, keys, label=label)
        device = (await directory(alice).devices(phone.account))["phone"]
        assert device == Device(
            "phone", (Key(ED25519, keys[ED25519]),), expected, datetime.fromtimestamp(1_700_000_000, UTC)
        )


async def test_other_content_of_the_node_hides_no_device(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    node = DeviceDirectory(alice)
    good = Device("good", (Key(ED25519, KEY),))
    await directory(alice).issue(client_of(alice, "good"), {ED25519: KEY})
    await node.publish("foreign", Element("{urn:example}other"))
    await node.publish("keyless", Element("{urn:xmpp:mls:0}device", {"id": "keyless"}))
    await node.publish("renamed", good.to_stdlib())
    assert (await directory(bob).devices(alice.boundjid.bare)).keys() == {"good"}
    assert await answer_on(directory(bob), client_of(alice, "good")) == "valid"
    assert await answer_on(directory(bob), client_of(alice, "renamed")) == "no-device"


async def test_a_device_that_publishes_nothing_vouches_for_nobody(server: DevServer, connect: Connect) -> None:
    """One's own account without the node, a stranger's, and an account that does not exist: never valid."""
    bob, carol = await connect(server, "bob"), await connect(server, "carol")
    service = directory(bob)
    assert await answer_on(service, client_of(bob, "b1")) == "no-device"
    assert await answer_on(service, client_of(carol, "c1")) in ("no-device", "not-readable")
    nobody = ClientIdentity(f"nobody-at-all@{server.domain}", "n1")
    assert await answer_on(service, nobody) in ("no-device", "not-readable", "unreachable")


async def close_node(xmpp: ClientXMPP) -> None:
    """Let nobody but the account read its devices."""
    form = Element("{jabber:x:data}x", {"type": "submit"})
    for var, value in (("FORM_TYPE", f"{PUBSUB}#node_config"), ("pubsub#access_model", "whitelist")):
        SubElement(SubElement(form, "{jabber:x:data}field", {"var": var}), "{jabber:x:data}value").text = value
    pubsub = Element(f"{{{PUBSUB_OWNER}}}pubsub")
    SubElement(pubsub, f"{{{PUBSUB_OWNER}}}configure", {"node": NODE}).append(form)
    await Stream.of(xmpp).ask("set", xmpp.boundjid.bare, pubsub)


async def test_a_closed_node_vouches_for_nobody(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    await directory(alice).issue(client_of(alice, "a1"), {ED25519: KEY})
    assert await answer_on(directory(bob), client_of(alice, "a1")) == "valid"
    await close_node(alice)
    verdict = await verdict_on(directory(bob), client_of(alice, "a1"))
    assert (verdict.validity, verdict.reason) == (Validity.INVALID, "not-readable")


async def test_an_unreachable_domain_is_unknown_and_holds_up_nobody(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    await directory(alice).issue(client_of(alice, "a1"), {ED25519: KEY})
    lost = [leaf_of(ClientIdentity(f"user{number}@nowhere.invalid", "x")) for number in range(40)]
    async with asyncio.timeout(60):
        verdicts = await directory(bob, patience=10).validate([*lost, leaf_of(client_of(alice, "a1"))], SUITE)
    assert {(verdict.validity, verdict.reason) for verdict in verdicts[:-1]} == {(Validity.UNKNOWN, "unreachable")}
    assert verdicts[-1] == VALID


@pytest.mark.parametrize(("ours", "theirs"), [("prosody", "ejabberd"), ("ejabberd", "prosody")])
async def test_another_servers_word_counts_when_it_is_reached(ours: str, theirs: str, connect: Connect) -> None:
    """Listed, refused by the account's server, and not reached are told apart between servers."""
    federation = Federation("alpha.example", "beta.example")
    async with contextlib.AsyncExitStack() as stack:
        with unavailable_means_skip():
            alpha, beta = [
                await stack.enter_async_context(SERVERS[kind](domain, federation=federation))
                for kind, domain in ((ours, "alpha.example"), (theirs, "beta.example"))
            ]
        bob, alice, carol = await connect(alpha, "bob"), await connect(beta, "alice"), await connect(beta, "carol")
        for xmpp in (alice, carol):
            await directory(xmpp).issue(client_of(xmpp, "d1"), {ED25519: KEY})
        await close_node(carol)
        leaves = [
            leaf_of(client_of(alice, "d1")),
            leaf_of(client_of(alice, "d2")),
            leaf_of(client_of(carol, "d1")),
            leaf_of(ClientIdentity("dave@nowhere.invalid", "d1")),
        ]
        verdicts = await directory(bob).validate(leaves, SUITE)
        assert [verdict.reason for verdict in verdicts] == ["", "no-device", "not-readable", "unreachable"]

        await beta.kill()
        (verdict,) = await directory(bob, patience=5).validate(leaves[:1], SUITE)
        assert (verdict.validity, verdict.reason) == (Validity.UNKNOWN, "unreachable")


async def test_a_lost_stream_is_unknown(server: DevServer, connect: Connect) -> None:
    bob = await connect(server, "bob")
    service = directory(bob)
    bob.abort()
    assert await answer_on(service, ALICE) == "unreachable"


async def befriend(one: ClientXMPP, other: ClientXMPP) -> None:
    """Both see each other's presence."""
    ready = asyncio.Event()

    def available(presence: Any) -> None:
        if presence["from"].bare == one.boundjid.bare:
            ready.set()

    other.add_event_handler("presence_available", available)
    one.send_presence_subscription(pto=other.boundjid.bare, ptype="subscribe")
    async with asyncio.timeout(60):
        await ready.wait()


async def test_notifications_bring_changes_at_once(server: DevServer, connect: Connect) -> None:
    """Substitution of a key and removal of a device, told to a contact."""
    plugins = ("xep_0030", "xep_0115", "xep_0163")
    alice = await connect(server, "alice")
    bob = await connect(server, "bob", *plugins, presence=False)
    phone = client_of(alice, "phone")
    await directory(alice).issue(phone, {ED25519: KEY})

    service = directory(bob)
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def changed() -> None:
        assert await asyncio.wait_for(heard.get(), 60) == phone.account
        await asyncio.sleep(0.3)  # servers tell some changes more than once
        while not heard.empty():
            heard.get_nowait()

    service.start()
    end = service.subscribe(heard.put_nowait)
    await asyncio.sleep(0.2)  # slixmpp computes its capabilities in a task of its own
    bob.send_presence()
    await befriend(alice, bob)
    await asyncio.sleep(0.3)
    bob.send_presence()  # ejabberd may overlook what a presence asks for that comes with a subscription
    await asyncio.sleep(0.5)
    assert await answer_on(service, phone) == "valid"
    while not heard.empty():
        heard.get_nowait()

    await directory(alice).issue(phone, {ED25519: OTHER_KEY})
    await changed()
    assert await answer_on(service, phone) == "other-key"  # else what was read first would still count
    assert await answer_on(service, phone, OTHER_KEY) == "valid"

    assert await DeviceDirectory(alice).retract(phone.device)
    assert not await DeviceDirectory(alice).retract(phone.device)
    if server.software == "Prosody":  # ejabberd does not tell retractions
        await changed()
        assert await answer_on(service, phone, OTHER_KEY) == "no-device"

    end()
    service.close()
    await directory(alice).issue(phone, {ED25519: KEY})
    await asyncio.sleep(0.5)
    assert heard.empty()


async def test_without_notifications_the_time_limit_counts(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    phone, laptop = client_of(alice, "phone"), client_of(alice, "laptop")
    now = 1000.0
    service = directory(bob, lifetime=60, clock=lambda: now)
    await directory(alice).issue(phone, {ED25519: KEY})
    assert await answer_on(service, phone) == "valid"

    await DeviceDirectory(alice).retract(phone.device)
    now += 59
    assert await answer_on(service, phone) == "valid"
    now += 2
    assert await answer_on(service, phone) == "no-device"
    # A new device counts from the start, however young the list that lacks it.
    await directory(alice).issue(laptop, {ED25519: KEY})
    assert await answer_on(service, laptop) == "valid"


async def test_a_changed_key_is_not_silently_replaced(server: DevServer, connect: Connect) -> None:
    """The account's server lists another key than before: pins bring it to light."""
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    phone = client_of(alice, "phone")
    events: list[TrustEvent] = []
    service = TrustOnFirstUse(directory(bob), TrustTable(MemoryStore(bob.boundjid.bare)))
    service.on_event(events.append)
    await directory(alice).issue(phone, {ED25519: KEY})
    assert await answer_on(service, phone) == "valid"
    await directory(alice).issue(phone, {ED25519: OTHER_KEY})
    assert await answer_on(service, phone, OTHER_KEY) == "key-changed"
    assert events == [KeyChanged(phone, ED25519, KEY, OTHER_KEY, vouched=True, accepted=False)]


# --- the directory's memory --------------------------------------------------------------------


class Node:
    """Accounts' devices, and switches for what servers and networks do."""

    def __init__(self) -> None:
        self.accounts: dict[str, dict[str, Device | RetiredDevice]] = {}
        self.errors: dict[str, DeliveryError] = {}
        self.requests: list[str] = []
        self.under_way = 0
        self.most = 0
        self.reachable = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed: Callable[[str], None] = lambda account: None

    def put(self, client: ClientIdentity, key: bytes = KEY) -> None:
        self.accounts.setdefault(client.account, {})[client.device] = Device(client.device, (Key(ED25519, key),))

    async def items(self, account: str | None = None) -> dict[str, Element]:
        assert account is not None
        self.requests.append(account)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            # As on the wire: the answer is as old as the question.
            answer = {name: device.to_stdlib() for name, device in self.accounts.get(account, {}).items()}
            await asyncio.sleep(0)
            await self.gate.wait()
            if account in self.errors:
                raise self.errors[account]
            return answer
        finally:
            self.under_way -= 1

    async def reaches(self, domain: str) -> bool:
        return self.reachable

    async def publish(self, item_id: str, element: Element) -> None:
        raise NotImplementedError

    async def retract(self, item_id: str) -> bool:
        raise NotImplementedError

    def watch(self, changed: Callable[[str], None]) -> None:
        self.changed = changed

    def unwatch(self) -> None:
        self.changed = lambda account: None


async def test_a_thousand_leaves_cost_one_request_per_account_a_few_at_a_time() -> None:
    node = Node()
    clients = [ClientIdentity(f"user{number % 250}@a.example", f"d{number}") for number in range(1000)]
    for client in clients:
        node.put(client)
    service = DeviceListService(node)
    leaves = [leaf_of(client) for client in clients]
    assert await service.validate(leaves, SUITE) == [VALID] * 1000
    assert sorted(node.requests) == sorted({client.account for client in clients})
    assert 1 < node.most <= 16
    await service.validate(leaves, SUITE)
    assert len(node.requests) == 250


async def test_simultaneous_questions_share_a_request() -> None:
    node = Node()
    node.put(ALICE)
    service = DeviceListService(node)
    assert await asyncio.gather(*(answer_on(service, ALICE) for _ in range(10))) == ["valid"] * 10
    assert node.requests == [ALICE.account]


async def test_one_request_for_an_account_is_under_way_at_a_time_whoever_asks() -> None:
    """Questions that need a younger list than the one under way wait for it, and share the next."""
    node = Node()
    service = DeviceListService(node)
    assert await answer_on(service, ALICE) == "no-device"
    node.gate.clear()
    questions = []
    for _ in range(20):
        questions.append(asyncio.create_task(answer_on(service, ALICE)))
        await asyncio.sleep(0.001)
    node.put(ALICE)
    assert node.under_way == 1
    node.gate.set()
    answers = await asyncio.gather(*questions)
    assert answers[0] == "no-device"
    assert answers[1:] == ["valid"] * 19
    assert node.most == 1
    assert len(node.requests) == 3


async def test_one_who_gives_up_does_not_spoil_it_for_the_others() -> None:
    node = Node()
    node.put(ALICE)
    node.gate.clear()
    service = DeviceListService(node)
    hasty, patient = (asyncio.create_task(answer_on(service, ALICE)) for _ in range(2))
    await asyncio.sleep(0.01)
    hasty.cancel()
    await asyncio.sleep(0)
    node.gate.set()
    assert await patient == "valid"
    assert hasty.cancelled()
    assert len(node.requests) == 1


async def test_what_was_read_while_it_changed_is_not_kept() -> None:
    node = Node()
    node.put(ALICE)
    service = DeviceListService(node)
    service.start()
    node.gate.clear()
    question = asyncio.create_task(answer_on(service, ALICE))
    await asyncio.sleep(0.01)
    node.put(ALICE, OTHER_KEY)
    node.changed(ALICE.account)
    node.gate.set()
    await question
    assert await answer_on(service, ALICE) == "other-key"


async def test_an_account_that_announces_one_change_after_another_keeps_nobody_waiting() -> None:
    """Its server lets each request last as long as it may: those about others do not wait for them."""
    node = Node()
    for client in (ALICE, B1 := ClientIdentity("bob@b.example", "b1")):
        node.put(client)
    service = DeviceListService(node)
    service.start()
    gate, node.gate = node.gate, asyncio.Event()
    questions = []
    for _ in range(100):
        node.changed(ALICE.account)
        questions.append(asyncio.create_task(answer_on(service, ALICE)))
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert node.requests == [ALICE.account]
    slow, node.gate = node.gate, gate
    assert await answer_on(service, B1) == "valid"
    slow.set()
    assert await asyncio.gather(*questions) == ["valid"] * 100
    assert node.requests == [ALICE.account, B1.account, ALICE.account]  # one more, for those after the change


async def test_a_domain_has_a_part_of_the_requests_only() -> None:
    node = Node()
    slow = [ClientIdentity(f"user{number}@slow.example", "d") for number in range(100)]
    for client in (*slow, ALICE):
        node.put(client)
    service = DeviceListService(node)
    gate, node.gate = node.gate, asyncio.Event()
    questions = [asyncio.create_task(answer_on(service, client)) for client in slow]
    await asyncio.sleep(0.01)
    assert node.under_way == OF_ONE_DOMAIN
    waits, node.gate = node.gate, gate
    assert await answer_on(service, ALICE) == "valid"
    waits.set()
    assert await asyncio.gather(*questions) == ["valid"] * 100
    assert not service._of_domain


async def test_invalid_only_by_a_list_that_is_younger_than_the_question() -> None:
    """A request that was under way already may have missed the device."""
    node = Node()
    service = DeviceListService(node)
    node.gate.clear()
    early = asyncio.create_task(answer_on(service, ALICE))
    await asyncio.sleep(0.01)
    node.put(ALICE)
    late = asyncio.create_task(answer_on(service, ALICE))
    await asyncio.sleep(0.01)
    node.gate.set()
    assert await early == "no-device"
    assert await late == "valid"


async def test_a_second_look_under_way_may_be_too_old_as_well() -> None:
    node = Node()
    service = DeviceListService(node)
    assert await answer_on(service, ALICE) == "no-device"  # from now on there is a list to start from
    node.gate.clear()
    early = asyncio.create_task(answer_on(service, ALICE))
    await asyncio.sleep(0.01)
    node.put(ALICE)
    late = asyncio.create_task(answer_on(service, ALICE))
    await asyncio.sleep(0.01)
    node.gate.set()
    assert [await early, await late] == ["no-device", "valid"]
    assert await answer_on(service, ALICE) == "valid"
    assert len(node.requests) == 3  # the early one's older answer did not take the late one's place


async def test_what_is_kept_serves_while_the_server_is_away() -> None:
    node = Node()
    node.put(ALICE)
    service = DeviceListService(node)
    await answer_on(service, ALICE)
    node.errors[ALICE.account] = Refused(ALICE.account, "remote-server-timeout")
    leaves = [leaf_of(ALICE), leaf_of(ClientIdentity(ALICE.account, "a2"))]
    known, fresh = await service.validate(leaves, SUITE)
    assert known == VALID
    assert fresh.is_unknown  # it may have come since


@pytest.mark.parametrize(
    ("error", "validity"),
    [
        (Refused("a.example", "remote-server-not-found"), Validity.UNKNOWN),
        (Refused("a.example", "internal-server-error"), Validity.UNKNOWN),
        (Refused("a.example", "service-unavailable"), Validity.UNKNOWN),
        (NoAnswer("silence"), Validity.UNKNOWN),
        (Disconnected("gone"), Validity.UNKNOWN),
        (NotPermitted("closed"), Validity.INVALID),
    ],
    ids=lambda value: getattr(value, "condition", type(value).__name__ if isinstance(value, Exception) else ""),
)
async def test_errors_become_verdicts(error: DeliveryError, validity: Validity) -> None:
    node = Node()
    node.errors[ALICE.account] = error
    assert (await verdict_on(DeviceListService(node), ALICE)).validity is validity


async def test_a_refusal_counts_only_if_the_accounts_server_can_have_said_it() -> None:
    """Servers that do not talk to another one tell their clients that something is forbidden."""
    node = Node()
    node.errors[ALICE.account] = NotPermitted("forbidden")
    node.reachable = False
    assert await answer_on(DeviceListService(node), ALICE) == "unreachable"


async def test_a_silent_server_is_waited_for_once_and_asked_again_later() -> None:
    node = Node()
    now = 1000.0
    service = DeviceListService(node, patience=0.5, clock=lambda: now)
    service.start()
    node.gate.clear()
    leaves = [leaf_of(ClientIdentity(f"user{number}@dead.example", "x")) for number in range(200)]
    verdicts = await service.validate(leaves, SUITE)
    assert {verdict.reason for verdict in verdicts} == {"unreachable"}
    assert len(node.requests) <= 16
    node.gate.set()
    node.put(ALICE)
    back = ClientIdentity("user1@dead.example", "x")
    node.put(back)
    assert await answer_on(service, ALICE) == "valid"
    assert await answer_on(service, back) == "unreachable"
    now += 31
    assert await answer_on(service, back) == "valid"


async def test_a_sign_of_life_ends_the_silence() -> None:
    node = Node()
    node.put(ALICE)
    node.errors[ALICE.account] = NoAnswer("silence")
    service = DeviceListService(node)
    service.start()
    assert await answer_on(service, ALICE) == "unreachable"
    del node.errors[ALICE.account]
    assert await answer_on(service, ALICE) == "unreachable"
    node.changed("bob@a.example")
    assert await answer_on(service, ALICE) == "valid"


async def test_a_clock_that_is_set_back_does_not_make_lists_last() -> None:
    node = Node()
    node.put(ALICE)
    now = 10_000.0
    service = DeviceListService(node, clock=lambda: now)
    await answer_on(service, ALICE)
    now = 5.0
    await answer_on(service, ALICE)
    assert len(node.requests) == 2


async def test_closing_ends_what_is_under_way() -> None:
    node = Node()
    node.gate.clear()
    service = DeviceListService(node)
    service.start()
    question = asyncio.create_task(answer_on(service, ALICE))
    await asyncio.sleep(0.01)
    service.close()
    assert await asyncio.wait_for(question, 60) == "unreachable"


async def test_leaves_that_name_no_client_are_invalid_and_others_unharmed() -> None:
    node = Node()
    node.put(ALICE)
    odd = [
        replace(leaf_of(ALICE), credential=BasicCredential(b"\xff")),
        replace(leaf_of(ALICE), credential=BasicCredential(b"Alice@a.example/a1")),
        replace(leaf_of(ALICE), credential=X509Credential((Certificate(b"x"),))),
        leaf_of(ALICE, b""),
        leaf_of(ALICE, bytes(10_000)),
    ]
    verdicts = await DeviceListService(node).validate([*odd, leaf_of(ALICE)], SUITE)
    assert [verdict.reason for verdict in verdicts] == ["no-client"] * 3 + ["other-key"] * 2 + [""]


async def test_a_retired_device_is_told_from_one_that_is_not_listed() -> None:
    """An item that says so; one under another id says nothing."""
    node = Node()
    node.put(ALICE)
    since = datetime(2026, 11, 1, tzinfo=UTC)
    for item_id, retired in (("a2", "a2"), ("a3", "a4")):
        node.accounts[ALICE.account][item_id] = RetiredDevice(retired, since)
    service = DeviceListService(node)
    answers = [await answer_on(service, ClientIdentity(ALICE.account, name)) for name in ("a1", "a2", "a3", "a4")]
    assert answers == ["valid", "retired", "no-device", "no-device"]
    assert set(await service.devices(ALICE.account)) == {"a1"}


async def test_a_subscriber_that_fails_does_not_keep_others_from_hearing() -> None:
    node = Node()
    service = DeviceListService(node)
    service.start()
    heard: list[str] = []

    def broken(account: str) -> None:
        raise RuntimeError

    service.subscribe(broken)
    end = service.subscribe(heard.append)
    node.changed(ALICE.account)
    end()
    node.changed(ALICE.account)
    assert heard == [ALICE.account]


def test_recent_forgets_the_oldest() -> None:
    recent: Recent[str, int] = Recent(2)
    recent["a"], recent["b"], recent["a"] = 1, 2, 3
    recent["c"] = 4
    assert dict(recent) == {"a": 3, "c": 4}


# --- pins --------------------------------------------------------------------------------------


class Oracle(AuthenticationService):
    """Says what it is told to say; valid by default."""

    def __init__(self, validity: Validity = Validity.VALID) -> None:
        self.validity = validity
        self.changed: list[Callable[[str], None]] = []
        self.issued: list[ClientIdentity] = []

    async def issue(
        self,
        client: ClientIdentity,
        keys: Mapping[int, bytes],
        *,
        label: str | None = None,
        also: Mapping[int, bytes] | None = None,
    ) -> None:
        self.issued.append(client)

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        return [Verdict(self.validity, "" if self.validity is Validity.VALID else "oracle")] * len(leaves)

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self.changed.append(changed)
        return lambda: self.changed.remove(changed)


A2 = ClientIdentity(ALICE.account, "a2")
A3 = ClientIdentity(ALICE.account, "a3")


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore("bob@b.example")
    yield made
    made.close()


def pinning(store: Any, **options: Any) -> tuple[TrustOnFirstUse, Oracle, list[TrustEvent]]:
    oracle = Oracle()
    service = TrustOnFirstUse(oracle, TrustTable(store), **options)
    events: list[TrustEvent] = []
    service.on_event(events.append)
    return service, oracle, events


async def test_first_use_pins_without_a_word(store: MemoryStore) -> None:
    service, _, events = pinning(store)
    assert await service.validate([leaf_of(ALICE), leaf_of(A2, OTHER_KEY)], SUITE) == [VALID] * 2
    assert events == []  # all devices met at once are the account's first ones


@pytest.mark.parametrize(
    ("inner", "pinned", "accept_changed", "answer"),
    [
        (Validity.VALID, None, False, "valid"),
        (Validity.UNKNOWN, None, False, "oracle"),
        (Validity.INVALID, None, False, "oracle"),
        (Validity.VALID, KEY, False, "valid"),
        (Validity.UNKNOWN, KEY, False, "valid"),
        (Validity.INVALID, KEY, False, "oracle"),
        (Validity.VALID, OTHER_KEY, False, "key-changed"),
        (Validity.UNKNOWN, OTHER_KEY, False, "key-changed"),
        (Validity.INVALID, OTHER_KEY, False, "oracle"),
        (Validity.VALID, OTHER_KEY, True, "valid"),
        (Validity.UNKNOWN, OTHER_KEY, True, "oracle"),
        (Validity.INVALID, OTHER_KEY, True, "oracle"),
    ],
)
async def test_the_table(
    store: MemoryStore, inner: Validity, pinned: bytes | None, accept_changed: bool, answer: str
) -> None:
    """Each line of the table in :mod:`slixmpp_mls.authentication.trust_on_first_use` for one device."""
    service, oracle, events = pinning(store, accept_changed_keys=accept_changed)
    if pinned is not None:
        await answer_on(service, ALICE, pinned)
    oracle.validity = inner
    for _ in range(2):  # the answer does not change by being asked for
        assert await answer_on(service, ALICE) == answer
    changed = pinned == OTHER_KEY and (answer == "key-changed" or (accept_changed and answer == "valid"))
    expected = KeyChanged(ALICE, ED25519, OTHER_KEY, KEY, inner is Validity.VALID, answer == "valid")
    assert events == ([expected] if changed else [])
    # What is pinned afterwards shows when the inner service knows nothing.
    oracle.validity = Validity.UNKNOWN
    owner = KEY if answer == "valid" else pinned
    for key in (KEY, OTHER_KEY):
        assert ((await verdict_on(service, ALICE, key)).is_valid) == (key == owner)


@pytest.mark.parametrize(
    ("rule", "answer"),
    [(NewDeviceRule.ACCEPT, "valid"), (NewDeviceRule.ASK, "undecided"), (NewDeviceRule.REFUSE, "new-device")],
)
async def test_new_devices_by_rule(store: MemoryStore, rule: NewDeviceRule, answer: str) -> None:
    service, oracle, events = pinning(store, new_device=rule)
    await answer_on(service, ALICE)
    for _ in range(2):
        assert await answer_on(service, A2, OTHER_KEY) == answer
    assert events == [NewDevice(A2, ED25519, OTHER_KEY, answer == "valid")]
    assert (await verdict_on(service, A2, OTHER_KEY)).is_unknown == (rule is NewDeviceRule.ASK)
    oracle.validity = Validity.UNKNOWN
    assert await answer_on(service, A2, OTHER_KEY) == ("valid" if answer == "valid" else "oracle")
    assert await answer_on(service, A3, THIRD_KEY) == "oracle"
    assert len(events) == 1  # what nobody vouches for is no device yet


async def test_a_key_for_another_scheme_is_a_new_device(store: MemoryStore) -> None:
    service, _, events = pinning(store, new_device=NewDeviceRule.ASK)
    await answer_on(service, ALICE)
    assert (await verdict_on(service, ALICE, OTHER_KEY, CipherSuite.get(2))).reason == "undecided"
    assert events == [NewDevice(ALICE, SignatureScheme.ecdsa_secp256r1_sha256, OTHER_KEY, False)]
    # Suites with the same scheme share the key.
    assert (await verdict_on(service, ALICE, KEY, CipherSuite.get(3))).is_valid


async def test_accounts_do_not_mix(store: MemoryStore) -> None:
    service, _, events = pinning(store, new_device=NewDeviceRule.REFUSE)
    names = ("ann@a.example.org", "ann@a.example", "an@a.example", "ann@a.example.net")
    for name in names:
        assert await answer_on(service, ClientIdentity(name, "d")) == "valid"
    assert events == []
    assert await answer_on(service, ClientIdentity(names[0], "d1"), THIRD_KEY) == "new-device"


@pytest.mark.parametrize("accept", [True, False])
async def test_a_person_decides(store: MemoryStore, accept: bool) -> None:
    service, oracle, events = pinning(store, new_device=NewDeviceRule.ASK)
    heard: list[str] = []
    end = service.subscribe(heard.append)
    await answer_on(service, ALICE)
    await answer_on(service, A2, THIRD_KEY)
    await answer_on(service, ALICE, OTHER_KEY)
    assert [type(event) for event in events] == [NewDevice, KeyChanged]
    for event in list(events):
        service.decide(event, accept)
    assert heard == [ALICE.account] * 2
    end()
    assert oracle.changed == []

    assert await answer_on(service, A2, THIRD_KEY) == ("valid" if accept else "refused")
    assert await answer_on(service, ALICE, OTHER_KEY) == ("valid" if accept else "refused")
    # There is one pinned key: with the new one accepted, the old one is the strange one.
    assert await answer_on(service, ALICE, KEY) == ("key-changed" if accept else "valid")
    oracle.validity = Validity.INVALID
    assert await answer_on(service, A2, THIRD_KEY) == "oracle"  # a person's word does not bring a retired device back
    # Changing one's mind.
    oracle.validity = Validity.VALID
    service.decide(events[0], not accept)
    assert await answer_on(service, A2, THIRD_KEY) == ("refused" if accept else "valid")


async def test_pins_and_decisions_outlive_the_process(tmp_path: Path) -> None:
    for step in range(2):
        store = SQLiteStore(tmp_path / "store", "bob@b.example")
        service, oracle, events = pinning(store, new_device=NewDeviceRule.ASK)
        if step == 0:
            await answer_on(service, ALICE)
            await answer_on(service, A2, THIRD_KEY)
            service.decide(events[0], False)
        else:
            assert await answer_on(service, A2, THIRD_KEY) == "refused"
            assert await answer_on(service, A3, bytes(32)) == "undecided"
            assert await answer_on(service, ALICE, OTHER_KEY) == "key-changed"
            oracle.validity = Validity.UNKNOWN
            assert await answer_on(service, ALICE) == "valid"
        store.close()


async def test_a_client_that_bears_our_name_is_found_out(store: MemoryStore) -> None:
    service, oracle, events = pinning(store)
    ours = ClientIdentity("bob@b.example", "b1")
    await service.issue(ours, {ED25519: KEY})
    assert oracle.issued == [ours]
    assert await answer_on(service, ours) == "valid"
    assert await answer_on(service, ours, OTHER_KEY) == "key-changed"
    assert await answer_on(service, ClientIdentity("bob@b.example", "b2"), THIRD_KEY) == "valid"
    assert [type(event) for event in events] == [KeyChanged, NewDevice]


async def test_events_are_told_after_they_are_stored(store: MemoryStore) -> None:
    """A transaction in the callback would be refused inside another one."""
    service, oracle, _ = pinning(store, new_device=NewDeviceRule.ASK)
    service.on_event(lambda event: service.decide(event, True))
    await answer_on(service, ALICE)
    assert await answer_on(service, A2, THIRD_KEY) == "undecided"
    oracle.validity = Validity.UNKNOWN
    assert await answer_on(service, A2, THIRD_KEY) == "valid"


async def test_pinning_leaves_without_a_name(store: MemoryStore) -> None:
    leaf = replace(leaf_of(ALICE), credential=BasicCredential(b"nobody"))
    (verdict,) = await TrustOnFirstUse(AcceptAll(), TrustTable(store)).validate([leaf], SUITE)
    assert (verdict.validity, verdict.reason) == (Validity.INVALID, "no-client")


def test_events_show_fingerprints_not_keys() -> None:
    event = NewDevice(ALICE, ED25519, KEY, True)
    assert event.fingerprint == "72cd6e84 22c407fb 6d098690 f1130b7d ed7ec2f7 f5e1d30b d9d521f0 15363793"
    assert repr(KEY) not in repr(event)


# --- combinations ------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), list(product(Validity, repeat=2)))
async def test_all_of_and_any_of(one: Validity, other: Validity) -> None:
    services = Oracle(one), Oracle(other)
    said = {one, other}
    for combination, order in (
        (AllOf, (Validity.INVALID, Validity.UNKNOWN, Validity.VALID)),
        (AnyOf, (Validity.VALID, Validity.UNKNOWN, Validity.INVALID)),
    ):
        expected = next(validity for validity in order if validity in said)
        assert (await verdict_on(combination(*services), ALICE)).validity is expected


@pytest.mark.parametrize("combination", [AllOf, AnyOf])
async def test_a_combination_does_the_rest_with_all(combination: type[AllOf] | type[AnyOf]) -> None:
    services = Oracle(), Oracle()
    combined = combination(*services)
    await combined.issue(ALICE, {ED25519: KEY})
    assert [service.issued for service in services] == [[ALICE], [ALICE]]
    heard: list[str] = []
    end = combined.subscribe(heard.append)
    for service in services:
        service.changed[0](ALICE.account)
    assert heard == [ALICE.account] * 2
    end()
    assert [service.changed for service in services] == [[], []]
    assert await combined.same_client(ALICE.credential(), ALICE.credential())
    with pytest.raises(UsageError):
        combination()


async def test_same_client_by_all_or_any() -> None:
    class Lenient(Oracle):
        async def same_client(self, one: Any, other: Any) -> bool:
            return True

    pair = ALICE.credential(), A2.credential()
    assert not await AllOf(Lenient(), Oracle()).same_client(*pair)
    assert await AnyOf(Lenient(), Oracle()).same_client(*pair)
    assert await TrustOnFirstUse(Lenient(), TrustTable(MemoryStore("bob@b.example"))).same_client(*pair)


async def test_same_client_is_the_same_name() -> None:
    """RFC 9750 4, third service."""
    service = AcceptAll()
    assert await service.same_client(ALICE.credential(), BasicCredential(b"alice@a.example/a1"))
    assert not await service.same_client(ALICE.credential(), A2.credential())
    nobody = BasicCredential(b"nobody")
    assert not await service.same_client(nobody, nobody)


async def test_accept_all_does() -> None:
    service = AcceptAll()
    await service.issue(ALICE, {ED25519: KEY})
    assert await service.validate([leaf_of(ALICE), leaf_of(ALICE, OTHER_KEY)], SUITE) == [VALID] * 2
    service.subscribe(lambda account: None)()
