"""Attacks of members and strangers that once succeeded, on real servers.

Those of occupants are in :mod:`.test_takeover`, garbage of later epochs in :mod:`.test_holes`, a ghost in the name of
somebody who is out of reach in :mod:`.test_federation`.  A hostile member has the plugin's state, and software of its
own: it keeps what it should delete, and asks for no right.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from slixmpp_mls.authentication import AcceptAll
from slixmpp_mls.client import Device
from slixmpp_mls.delivery import DeviceDirectory
from slixmpp_mls.delivery.invitation import invitation
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import MalformedError, PolicyViolation, Replayed, StanzaTooLarge, StoreError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.schedule.message_protection import open_sender_data, protect_private, unprotect_private
from slixmpp_mls.mls.structures.framing import MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, PreSharedKey, ReInit
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.mls.varint import encode_varint
from slixmpp_mls.rooms.engine.member_checks import FREE
from slixmpp_mls.rooms.engine.parts import children
from slixmpp_mls.rooms.invitation_queue import MAX_IN_VAIN
from slixmpp_mls.runtime.question_budget import BURST, PAUSE
from slixmpp_mls.stanza import Invitation, elements, read_payloads
from slixmpp_mls.stanza.blob import BlobReference
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import commit_against_policy

from ..conftest import unique
from .people import Cast, Person, all_agree
from .test_recovery import edit

pytestmark = pytest.mark.server


def encrypted_anew(group: Group, message: bytes) -> elements.Application:
    """What somebody has signed, under its next generation, in the state from before it was read (RFC 9420 6.3.1)."""
    body = MLSMessage.decode(message).body
    assert isinstance(body, PrivateMessage)
    secret = group.secrets.sender_data_secret
    sender = open_sender_data(group.suite, body, secret)
    content, tree = unprotect_private(group.suite, body, sender, group.secret_tree)
    key = group.tree.member(LeafIndex(sender.leaf_index)).signature_key
    signed = content.verify(group.suite, key, group.context.encode())
    again, _ = protect_private(group.suite, signed, tree, secret)
    return elements.Application(group.group_id, group.epoch, MLSMessage.wrap(again))


async def post(person: Person, room: str, *found: elements.RoomElement) -> None:
    """Put elements into the room that the plugin has not made."""
    await person.room(room).muc.send(children(found), message_id=str(uuid4()))


async def test_nobody_is_thrown_out_by_his_own_words(server: DevServer, cast: Cast) -> None:
    """RFC 9420 6.1, 9.2: the victim's signed message once more, under a generation that it has not used.

    It keeps its keys, for the message is no sign of a copied store; and its genuine next message is read.
    """
    room, (alice, bob, mallory) = await cast.meet(server, "alice", "bob", "mallory")
    before = mallory.room().group.mls
    await alice.say("I am the victim")
    await bob.hears("I am the victim")
    await mallory.hears("I am the victim")
    entry = await anext(_applications(mallory, room))
    await post(mallory, room, encrypted_anew(before, entry.data))
    await alice.until(lambda: alice.got("mls_rejected"))
    await bob.until(lambda: bob.got("mls_rejected"))
    for person in (alice, bob):
        (event,) = person.got("mls_rejected")
        assert isinstance(event.error, Replayed)
        assert not person.got("mls_group_lost")
    await alice.say("and still here")
    await bob.hears("I am the victim", "and still here")
    await alice.room().update()
    await all_agree(alice, bob, mallory, epoch=2)


async def _applications(person: Person, room: str):  # type: ignore[no-untyped-def]
    async for page in person.room(room).muc.archive.pages(None):
        for entry in page.entries:
            stanza = entry.stanza()
            for payload in () if stanza is None else read_payloads(stanza.xml)[0]:
                if isinstance(payload, elements.Application):
                    yield payload


async def test_a_member_has_no_more_devices_than_the_policy_allows(server: DevServer, cast: Cast) -> None:
    """33 devices of its own in one Commit: void, so that nobody's Commits grow beyond what fits into a stanza."""
    room, (alice, bob, mallory) = await cast.meet(server, "alice", "bob", "mallory")
    limit = alice.room().policy.max_devices
    suite = mallory.room().group.mls.suite
    adds: list[AnyProposal] = []
    for _ in range(limit):
        device = Device(MemoryStore(mallory.account))
        adds.append(Add(device.key_packages.make(suite, int(time.time())).key_package))
    outgoing = commit_against_policy(mallory.room().group, adds, int(time.time()))
    await post(mallory, room, *outgoing.payloads)
    for person in (alice, bob):
        event = await person.next("mls_rejected")
        assert isinstance(event.error, PolicyViolation)
        assert event.error.rule == "too-many"
        assert len(person.room().members) == 3
    await alice.say("nobody new")
    await bob.hears("nobody new")


async def test_proposals_that_nobody_may_commit_freeze_nobody(prosody: DevServer, cast: Cast) -> None:
    """300 of them, by a member without rights: 16 wait, the rest is refused, and work goes on."""
    room, (alice, bob, mallory) = await cast.meet(prosody, "alice", "bob", "mallory")
    state = mallory.room().group.mls
    made = []
    for number in range(300):
        name = PreSharedKeyID(ExternalPSK(b"%d" % number), os.urandom(32))
        proposal = ReInit(os.urandom(8), 1, CipherSuite.get(1).id, ()) if number % 2 else PreSharedKey(name)
        message, after = state.propose(proposal, now=int(time.time()))
        state = state.with_secret_tree(after.secret_tree)
        made.append(elements.Proposal(state.group_id, state.epoch, message))
    mallory.client.deaf = True  # its plugin would find out that somebody else has used its keys
    for proposal_element in made:
        await post(mallory, room, proposal_element)
    # Sixteen stay, of whatever order: the members that have read all agree.
    await bob.until(lambda: len(bob.got("mls_rejected")) >= 300 - 16)
    for person in (alice, bob):
        assert len(person.room().group.mls.pending_proposals) <= 16
        assert person.room().epoch == 1
    await bob.say("does it still work?")
    await alice.hears("does it still work?")


# --- strangers -----------------------------------------------------------------------------------


async def test_a_strangers_invitations_cost_next_to_nothing(server: DevServer, cast: Cast) -> None:
    """120 of them, to addresses that do not exist and to people: no presence, few questions, no rooms."""
    bot, alice = await cast.person(server, "bot"), await cast.person(server, "alice")
    mallory = server.client(await cast.account(server, "mallory"))
    await server.connect(mallory)
    try:
        before = len(bot.client.sent)
        addresses = [f"r{number}@no-such-host-{number}.invalid" for number in range(117)]
        for address in (str(mallory.boundjid.bare), bot.account, alice.account, *addresses):
            invitation(mallory, address, bot.account, [Invitation(b"group", None).to_stdlib()]).send()
        await bot.until(lambda: len(bot.got("mls_invited")) >= 120)
        # An honest one, by somebody else, is not kept waiting by them.
        group = await alice.mls.create(f"{unique('coven')}@{server.rooms}")
        await group.add(bot.account)
        await bot.joined(group.jid)
    finally:
        await mallory.disconnect(wait=1.0)
    sent = bot.client.sent[before:]
    presences = [stanza for stanza in sent if stanza.startswith("<presence") and "to=" in stanza]
    assert presences
    assert all(f'to="{group.jid}' in stanza or f"to='{group.jid}" in stanza for stanza in presences)
    # Who waits for longer than a minute sees that some of them are asked again.
    asked = {host for stanza in sent for host in re.findall(r"no-such-host-\d+", stanza)}
    assert len(asked) <= MAX_IN_VAIN
    with bot.mls.device.store.transaction() as transaction:
        assert len(list(transaction.items("room"))) == 1
    assert set(bot.mls.rooms) == {group.jid}


async def test_a_welcome_makes_nobody_ask_hundreds_of_servers(prosody: DevServer, cast: Cast) -> None:
    """RFC 9420 5.3.1: by a genuine inviter, into a group of 200 made-up accounts, each on a server of its own."""
    bot = await cast.person(prosody, "bot")
    mallory = await cast.person(prosody, "mallory")
    await mallory.log_out()
    mallory.config = {"authentication": AcceptAll()}  # it is listed; what is in its group is no concern of its own
    await mallory.connect()
    group = await mallory.mls.create(f"{unique('trap')}@{prosody.rooms}")
    suite, now = CipherSuite.get(1), int(time.time())
    devices = [Device(MemoryStore(f"u{number}@victim-{number}.invalid")) for number in range(200)]
    adds: list[AnyProposal] = [Add(device.key_packages.make(suite, now).key_package) for device in devices]
    # In the room as well: its own client would take out of the group whom the room has shut out.
    await group.muc.affiliations.grant_membership([device.identity.account for device in devices])
    await group.worker.transmitter.transmit(commit_against_policy(group.group, adds, now))
    await mallory.until(lambda: group.epoch == 1)
    # Its KeyPackage's directory entry is genuine, and so is the inviter: the Welcome is followed.
    before, began = len(bot.client.sent), time.monotonic()

    def at_most() -> int:
        return FREE + BURST + int((time.monotonic() - began) / PAUSE) + 1

    await group.add(bot.account)
    await bot.joined(group.jid)
    asked = {stanza for stanza in bot.client.sent[before:] if ".invalid" in stanza}
    assert 0 < len({re.findall(r"victim-\d+", stanza)[0] for stanza in asked}) <= at_most()
    with bot.mls.device.store.transaction() as transaction:
        assert len(list(transaction.items("trust"))) <= at_most() + 2
    # Nobody's word is lost: who speaks is asked about, and heard.
    await mallory.say("welcome to the trap")
    await bot.hears("welcome to the trap")
    left = [doubt for doubt in bot.room().doubts if doubt.reason == "not-asked"]
    assert len(left) >= 200 - at_most()
    assert not [event for event in bot.got("mls_doubted") if event.doubt.reason == "not-asked"]


async def test_a_hostile_ratchet_tree_is_refused_at_once(prosody: DevServer, cast: Cast) -> None:
    """A Welcome whose tree is elsewhere: 8 MiB of empty certificates, which took 11.6 s and 515 MB."""
    room, (alice,) = await cast.meet(prosody, "alice")
    bob = await cast.person(prosody, "bob")
    octets = bytes((1 << 23) - 400)
    credential = b"\x00\x02" + encode_varint(len(octets)) + octets
    key, signature = encode_varint(32) + b"k" * 32, encode_varint(64) + b"x" * 64
    leaf = b"\x01\x01" + key + key + credential + bytes(5) + b"\x03" + bytes(2) + signature
    put = alice.mls.uploads.put

    async def put_another(_: bytes) -> BlobReference:
        return await put(encode_varint(len(leaf)) + leaf)

    alice.mls.uploads.put = put_another  # type: ignore[method-assign, assignment]
    alice.room().worker.parts.fits = _too_large_with_a_tree()  # type: ignore[method-assign, assignment]
    await alice.room().add(bob.account)
    rejected = await bob.next("mls_rejected")
    assert isinstance(rejected.error, MalformedError)
    assert not bob.mls.room(room).is_member


def _too_large_with_a_tree() -> Callable[[Sequence[Any]], None]:
    """Says that a Welcome with the whole tree inside does not fit."""
    answers = iter([False, False, True, True])  # with a GroupInfo, without; then with the tree elsewhere

    def fits(found: Sequence[Any]) -> None:
        if any(isinstance(element, elements.Welcome) for element in found) and not next(answers):
            raise StanzaTooLarge(300_000, 240_000)

    return fits


# --- what a device leaves behind -----------------------------------------------------------------


async def test_logs_hold_no_plaintext_and_no_key(prosody: DevServer, cast: Cast) -> None:
    """All loggers at their most talkative, asyncio's debug mode, and handlers of the application that fail."""
    lines: list[str] = []

    class Everything(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    def fails(message: Any) -> None:
        raise RuntimeError("handler fails")

    async def fails_later(message: Any) -> None:
        raise RuntimeError("coroutine handler fails")

    def replies(message: Any) -> None:
        message.message.reply("an answer in clear").send()

    cast.expected_errors += ["handler fails", "SentInClear", "Error processing", "mls_message", "in clear"]
    everything, root = Everything(1), logging.getLogger()
    level, loop = root.level, asyncio.get_running_loop()
    root.addHandler(everything)
    root.setLevel(1)
    loop.set_debug(True)
    try:
        room, (bob, alice) = await cast.meet(prosody, "bob", "alice")
        for handler in (fails, fails_later, replies):
            alice.client.add_event_handler("mls_message", handler)
        await bob.say("the attack is at dawn")
        await alice.hears("the attack is at dawn")
        await bob.room().set_subject(cast.secret("plans of battle"))
        await bob.room().update()
        await all_agree(bob, alice, epoch=2)
        secrets = [value for person in (bob, alice) for value in _secrets_of(person, room)]
    finally:
        loop.set_debug(False)
        root.setLevel(level)
        root.removeHandler(everything)
    text = "\n".join(lines)
    assert "handler fails" in text  # the log is what it should be
    for words in ("the attack is at dawn", "plans of battle"):
        assert words not in text
    assert "an answer in clear" not in "".join(alice.client.sent)
    assert len(secrets) > 8
    for value in secrets:
        for shown in (value.hex(), base64.b64encode(value).decode().rstrip("="), repr(value)[2:-1]):
            assert shown not in text


def _secrets_of(person: Person, room: str) -> list[bytes]:
    """Keys of a device and of its group: 32 octets each."""
    group = person.room(room).group.mls
    epoch = group.secrets
    found = [value for name in dir(epoch) if isinstance(value := getattr(epoch, name), bytes) and len(value) == 32]
    with person.mls.device.store.transaction() as transaction:
        found += [value[-32:] for key, value in transaction.items("device") if key.startswith(b"key")]
    return found


async def test_a_store_that_others_may_read_is_not_opened(prosody: DevServer, cast: Cast) -> None:
    """Neither a file with loose rights nor a symlink; the error says what to do, and nothing is written."""
    bot = await cast.person(prosody, "bot", online=False)
    cast.expected_errors.append("starting failed")
    bot.store.touch(0o600)
    bot.store.chmod(0o666)
    client = bot.make_client()
    await prosody.connect(client)
    with pytest.raises(StoreError, match="chmod"):
        await bot.ready()
    assert bot.store.read_bytes() == b""
    await bot.log_out()
    bot.store.unlink()
    elsewhere = bot.store.with_name("elsewhere.db")
    bot.store.symlink_to(elsewhere)
    await prosody.connect(bot.make_client())
    with pytest.raises(StoreError, match="symlink"):
        await bot.ready()
    assert not elsewhere.exists()


async def test_a_stolen_devices_message_that_is_dated_back_is_marked(prosody: DevServer, cast: Cast) -> None:
    """Doubt goes by the room's order: the archive cannot date back what a retired device says."""
    room, (carol, alice, bob) = await cast.meet(prosody, "carol", "alice", "bob", denied_members="hold")
    await bob.say("before the theft")
    await alice.hears("before the theft")
    bob.stays_unlisted()
    await DeviceDirectory(bob.client).retract(bob.mls.device_id)
    alice.notify_of_devices(bob.account)
    doubted = await alice.next("mls_doubted")
    assert doubted.doubt.lapsed
    await alice.log_out()
    sent = await bob.say("transfer all the money")
    await sent.confirmed
    await carol.until(lambda: carol.got("mls_message")[1:] or carol.got("mls_doubted_message"))
    newest = "WHERE {where} AND {id} = (SELECT max({id}) FROM {archive} WHERE {where})"
    assert edit(prosody, room, f'UPDATE {{archive}} SET "when" = "when" - 3600 {newest}') == 1
    seen = len(alice.got("mls_message"))
    await alice.connect()
    marked = await alice.next("mls_doubted_message")
    assert marked.body == "transfer all the money"
    assert marked.doubt.denied
    assert len(alice.got("mls_message")) == seen
