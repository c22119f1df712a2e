"""What people meet: nodes that get lost, servers with small nodes, wrong clocks, addresses as they are typed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import Element

import pytest
from slixmpp import JID

from slixmpp_mls.account import devices
from slixmpp_mls.delivery import PEPNode, Stream, Unarchived
from slixmpp_mls.delivery.affiliations import Affiliation
from slixmpp_mls.delivery.forms import submission
from slixmpp_mls.delivery.key_packages import NODE_LIMIT
from slixmpp_mls.delivery.pep import PUBSUB_OWNER
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DeliveryError, LoginFailed, MLSError, NobodyReachable, NotPermitted, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.key_packages.items import parse_item, parse_key_package
from slixmpp_mls.plugin import MLS
from slixmpp_mls.rooms import lost_rooms, membership
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage

from ..conftest import in_own_loop, unique
from .people import SECONDS, Cast, Person, all_agree, eventually

T = TypeVar("T")
Harm = Callable[[Person, PEPNode], Awaitable[None]]


async def owner(person: Person, action: Element) -> None:
    query = Element(f"{{{PUBSUB_OWNER}}}pubsub")
    query.append(action)
    await Stream.of(person.client).ask("set", person.account, query)


async def delete(person: Person, node: PEPNode) -> None:
    await owner(person, Element(f"{{{PUBSUB_OWNER}}}delete", {"node": node.node}))


async def close(person: Person, node: PEPNode) -> None:
    configure = Element(f"{{{PUBSUB_OWNER}}}configure", {"node": node.node})
    form = "http://jabber.org/protocol/pubsub#node_config"
    configure.append(submission(form, {"pubsub#access_model": "whitelist"}))
    await owner(person, configure)


def nodes(person: Person) -> list[PEPNode]:
    return [person.mls.directory, person.mls.directory.last_resort, person.mls._node]


# --- the account's nodes ---------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [delete, close], ids=["deleted", "closed"])
async def test_nodes_are_mended_and_the_account_can_be_added(server: DevServer, cast: Cast, harm: Harm) -> None:
    room, (alice, _) = await cast.meet(server, "alice", "carol")
    bot = await cast.person(server, "bot")
    for node in nodes(bot):
        await harm(bot, node)
    publications = len(bot.stanzas_sent("<publish "))
    await bot.mls.replenish()
    bot.mls.devices.look_again()

    async def readable() -> bool:
        answers = await asyncio.gather(*(node.items(bot.account) for node in nodes(alice)), return_exceptions=True)
        return all(answers) and not any(isinstance(each, BaseException) for each in answers)

    await eventually(readable)
    assert len(bot.stanzas_sent("<publish ")) - publications <= 8  # 4 items, some tried twice
    result = await alice.room(room).add(bot.account)
    assert [member.account for member in result.added] == [bot.account]
    changes = bot.got("mls_key_packages")
    assert sum(change.published for change in changes) >= (6 if harm is delete else 3)


@pytest.mark.slow
async def test_two_devices_do_not_fight_over_a_lost_node(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "RETRY", 1.0)
    alice, jid = await cast.person(server, "alice"), await cast.account(server, "bot")
    one, two = await cast.person(server, jid), await cast.person(server, jid)
    await one.until(lambda: one.got("mls_new_device"))
    before = len(one.stanzas_sent("<publish ")) + len(two.stanzas_sent("<publish "))
    await delete(one, one.mls._node)
    for person in (one, two):
        person.mls.devices.look_again()

    async def listed() -> set[str]:
        with suppress(NotPermitted):  # Prosody, of a node that is not there
            return set(await alice.mls._node.items(jid.bare))
        return set()

    async def both() -> bool:
        return await listed() == {one.mls.device_id, two.mls.device_id}

    await eventually(both)
    await asyncio.sleep(2)  # in which a contest would go on
    after = len(one.stanzas_sent("<publish ")) + len(two.stanzas_sent("<publish "))
    assert after - before <= 8
    await eventually(both)


async def test_devices_share_the_items_of_a_stock_node(server: DevServer, cast: Cast) -> None:
    """XEP section KeyPackages: whoever comes later does not push out what the others have published."""
    alice, jid = await cast.person(server, "alice"), await cast.account(server, "bot")
    devices = [await cast.person(server, jid, key_packages=100) for _ in range(3)]

    async def shares() -> tuple[Counter[str], Counter[str]]:
        ordinary, last = Counter[str](), Counter[str]()
        for element in (await alice.mls.directory.items(jid.bare)).values():
            who = ClientIdentity.from_leaf(parse_key_package(element).leaf_node).device
            (last if parse_item(element).last_resort else ordinary)[who] += 1
        return ordinary, last

    ids = [device.mls.device_id for device in devices]

    async def fair() -> bool:
        return (await shares())[0] == dict.fromkeys(ids, 80)  # (256 - 16) / 3

    await eventually(fair)
    ordinary, last = await shares()
    assert ordinary.total() < NODE_LIMIT
    assert last == dict.fromkeys(ids, 1)
    group = await alice.mls.create(f"{unique('room')}@{server.rooms}")
    result = await group.add(jid.bare)
    assert {member.device for member in result.added} == set(ids)
    assert (result.failed, result.skipped) == ({}, {})


# --- one bad among many ----------------------------------------------------------------------------


async def test_a_wrong_clock_keeps_out_nobody_else(server: DevServer, cast: Cast) -> None:
    """RFC 9420 7.3: the device whose KeyPackages are not valid yet is named, and not let into the room."""
    alice, carol = await cast.person(server, "alice"), await cast.person(server, "carol")
    near = await cast.person(server, "near", clock=lambda: time.time() + 5400)
    far = await cast.person(server, "far", clock=lambda: time.time() + 4 * 3600)
    jid = await cast.account(server, "mixed")
    good = await cast.person(server, jid)
    bad = await cast.person(server, jid, clock=lambda: time.time() + 4 * 3600)
    group = await alice.mls.create(f"{unique('room')}@{server.rooms}")
    result = await group.add(far.account, carol.account, near.account, jid.bare)
    assert {member.account for member in result.added} == {carol.account, near.account, jid.bare}
    assert set(result.failed) == {far.account}
    assert set(result.skipped) == {f"{far.account}/{far.mls.device_id}", f"{jid.bare}/{bad.mls.device_id}"}
    assert "not valid yet" in result.skipped[f"{jid.bare}/{bad.mls.device_id}"]
    assert far.account not in {str(each) for each in await group.muc.affiliations.all()}
    for person, hours in ((near, 1.5), (far, 4), (bad, 4)):  # each is told by its own client
        told = await person.next("mls_clock_wrong")
        assert abs(told.seconds - hours * 3600) < 300
        assert told.server == server.domain
    assert not any(person.got("mls_clock_wrong") for person in (alice, carol, good))
    await good.joined(group.jid)
    await carol.joined(group.jid)
    await all_agree(alice, carol, good, room=group.jid)


async def test_addresses_as_people_type_them(server: DevServer, cast: Cast) -> None:
    alice, bob, carol = [await cast.person(server, name) for name in ("alice", "bob", "carol")]
    impossible = f"bob smith@{server.domain}"
    typed = bob.account.replace("bob", "Bob")
    negotiated = await alice.mls.negotiate([typed, impossible])
    assert set(negotiated.failed) == {impossible}
    group = await alice.mls.create(
        f"{unique('Room')}@{server.rooms.capitalize()}", invite=[typed, impossible, "", "@x"]
    )
    assert group.invited is not None
    assert [member.account for member in group.invited.added] == [bob.account]
    assert set(group.invited.failed) == {impossible, "", "@x"}
    result = await group.add(impossible, f"nobody@{server.domain}", "nobody@nowhere.invalid", carol.account.upper())
    assert [member.account for member in result.added] == [carol.account]
    assert set(result.failed) == {impossible, f"nobody@{server.domain}", "nobody@nowhere.invalid"}
    removed = await group.remove(carol.account.replace("carol", "Carol"), impossible, f"nobody@{server.domain}")
    assert [member.account for member in removed] == [carol.account]
    assert set(removed.failed) == {impossible, f"nobody@{server.domain}"}
    assert group.accounts == sorted([alice.account, bob.account])
    with pytest.raises(UsageError):
        await alice.mls.create("no room")


async def test_what_xml_cannot_hold_is_refused_before_it_is_sent(server: DevServer, cast: Cast) -> None:
    """XML 1.0 2.2, RFC 6120 4.9.3.13: the server would cut the stream, at every repetition again."""
    alice = await cast.person(server, "alice")
    room = f"{unique('room')}@{server.rooms}"
    with pytest.raises(UsageError, match="XML cannot hold"):
        await alice.mls.create(room, name="ticket 4711: \x1b[31mdown\x1b[0m")
    assert (await alice.mls.create(room, name="ticket 4711: down")).is_member
    assert len(alice.clients) == 1
    assert alice.client.is_connected()


async def test_a_failed_creation_leaves_nothing(server: DevServer, cast: Cast) -> None:
    """Neither in the store nor among the rooms: the address is wrong, the room exists, or nobody can be reached."""
    alice, bob = await cast.person(server, "alice"), await cast.person(server, "bob")
    taken = f"{unique('room')}@{server.rooms}"
    await bob.mls.create(taken)
    await alice.until(lambda: has_begun(alice))
    before = contents(alice)
    for room, error in (
        (taken, UsageError),
        (f"room@nowhere.{server.domain}", DeliveryError),
        (f"room@{server.domain}", MLSError),  # no service for rooms
    ):
        with pytest.raises(error):
            await alice.mls.create(room)
        assert contents(alice) == before, room
        assert not alice.mls.rooms
    with pytest.raises(NobodyReachable):
        await alice.mls.conversation(f"nobody@{server.domain}")
    assert contents(alice) == before
    assert not alice.mls.rooms


def has_begun(person: Person) -> bool:
    """Whether the store has what is written soon after a start: which devices there are, and what has been read."""
    with person.mls.device.store.transaction() as transaction:
        read = transaction.get("device", b"invitation") is not None
    return read and bool(person.mls.devices._records())


def contents(person: Person) -> dict[str, list[tuple[bytes, bytes]]]:
    """All that a store holds about rooms."""
    with person.mls.device.store.transaction() as transaction:
        return {space: list(transaction.items(space)) for space in sorted(transaction.spaces())}


# --- lives of a process ----------------------------------------------------------------------------


def test_one_notification_after_another_in_one_process(prosody: DevServer, tmp_path: Path) -> None:
    """Each in an event loop of its own, one of them in a thread; disconnecting is all that they do at their end."""
    jid = in_own_loop_with_result(prosody.register(unique("app"), "secret"))
    room = f"{unique('alerts')}@{prosody.rooms}"

    async def notify(text: str) -> None:
        client = prosody.client(jid)
        client.register_plugin("mls", {"store": str(tmp_path / "app.db"), "key_packages": 2})
        client.add_event_handler("session_start", lambda _: client.send_presence())
        client.connect(prosody.host, prosody.port)
        mls = MLS.of(client)
        async with asyncio.timeout(120):
            await mls.ready()
            group = mls.rooms.get(room) or await mls.create(room)
            await (await group.send(text)).confirmed
        await client.disconnect()

    for number in range(3):
        in_own_loop_with_result(notify(f"alert number {number}"))


def in_own_loop_with_result(work: Coroutine[Any, Any, T]) -> T:
    found: list[T] = []

    async def keep() -> None:
        found.append(await work)

    in_own_loop(keep())
    return found[0]


async def test_one_account_on_two_hosts_does_not_talk_to_itself(server: DevServer, cast: Cast) -> None:
    alice, jid = await cast.person(server, "alice"), await cast.account(server, "bot")
    one, two = await cast.person(server, jid), await cast.person(server, jid)
    cast.expected_errors.append("has failed")
    group = await alice.mls.create(f"{unique('room')}@{server.rooms}")
    await group.add(jid.bare)
    answers: list[str] = []

    async def echo(message: EncryptedMessage) -> None:
        try:
            await message.reply(f"heard: {message.body}")
            answers.append(message.body)
        except UsageError:
            assert message.own

    for bot in (one, two):
        await bot.joined(group.jid)
        bot.client.add_event_handler("mls_message", echo)
    await alice.say("hello, bot of mine")
    await alice.hears("heard: hello, bot of mine")
    await one.until(lambda: one.got("mls_message") and len(answers) == 2)
    await two.until(lambda: len(two.got("mls_message")) > 1)  # the other one's answer, which is not answered
    await asyncio.sleep(1)
    assert answers == ["hello, bot of mine"] * 2


async def test_a_container_without_a_volume(server: DevServer, cast: Cast) -> None:
    """A new store at each start: the account lists one device, nobody adds the dead ones, and a member lets it in."""
    alice, jid = await cast.person(server, "alice", grant_requests="members"), await cast.account(server, "bot")
    settings: dict[str, Any] = {"label": "bot", "replace_same_label": True}
    bot = await cast.person(server, jid, **settings)
    group = await alice.mls.create(f"{unique('room')}@{server.rooms}")
    await group.add(jid.bare)
    await bot.joined(group.jid)

    def only(device: Person) -> bool:
        return [member.device for member in group.members if member.account == jid.bare] == [device.mls.device_id]

    for start in range(2):
        before = bot.mls.device_id
        bot.crash()
        bot = await cast.person(server, jid, **settings)
        told = await bot.next("mls_new_store")
        assert (told.label, told.devices, told.replaced) == ("bot", (before,), (before,))
        assert [each.id for each in await bot.mls.devices.all()] == [bot.mls.device_id]
        async with asyncio.timeout(120):
            await bot.mls.join(group.jid)
        # It removes the leaf of its predecessor, which its account lists no more.
        await alice.until(partial(only, bot))
        await bot.until_no_doubts()
        await bot.say(f"started for the {start}. time", group.jid)
        await alice.hears(f"started for the {start}. time")
    second = await alice.mls.create(f"{unique('second')}@{server.rooms}")
    await second.add(jid.bare)
    assert [member.device for member in second.members if member.account == jid.bare] == [bot.mls.device_id]


async def test_an_invitation_that_was_lost_is_repeated(server: DevServer, cast: Cast) -> None:
    alice = await cast.person(server, "alice")
    bob = await cast.person(server, "bob", accept_invitation=lambda _: False)  # as if it had never come
    group = await alice.mls.create(f"{unique('room')}@{server.rooms}")
    await group.add(bob.account)
    await bob.next("mls_invited")
    assert not bob.mls.rooms
    bob.mls._invitations._accept = None
    await group.invite(bob.account.upper())
    await bob.joined(group.jid)
    await alice.say("what was said meanwhile")
    await bob.hears("what was said meanwhile")
    for nobody in ("no address", f"stranger@{server.domain}"):
        with pytest.raises(UsageError):
            await group.invite(nobody)


async def test_an_invitation_is_repeated_when_the_account_comes_online(server: DevServer, cast: Cast) -> None:
    """XEP section Being Invited: nobody calls anything, and no server repeats what it has not kept."""
    alice = await cast.person(server, "alice")
    bob = await cast.person(server, "bob", accept_invitation=lambda _: False)  # as if it had never come
    for person, other in ((alice, bob), (bob, alice)):  # each lets the other see its presence (RFC 6121 3.1)
        person.client.send_presence_subscription(pto=other.account, ptype="subscribe")
    await alice.until(lambda: alice.client.client_roster.presence(JID(bob.account)))
    group = await alice.mls.create(f"{unique('room')}@{server.rooms}")
    await group.add(bob.account)
    await bob.next("mls_invited")
    await alice.until(lambda: bob.account in group.group.post_commit_actions.invited)

    def repeated() -> bool:
        record = group.group.post_commit_actions.invited.get(bob.account)
        return record is not None and record.repeated == 1

    await bob.log_out()
    del bob.config["accept_invitation"]
    await bob.connect()
    await alice.until(repeated)
    await bob.joined(group.jid)
    await bob.say("here at last", group.jid)
    await alice.hears("here at last")
    assert not group.group.post_commit_actions.invited


async def test_a_bot_that_was_added_to_many_rooms_while_it_was_away(server: DevServer, cast: Cast) -> None:
    """Each server hands it all the invitations at once; none is left out, and nobody has to repeat one."""
    alice = await cast.person(server, "alice")
    bot = await cast.person(server, "bot", key_packages=12)
    await bot.log_out()
    for _ in range(12):
        group = await alice.mls.create(f"{unique('room')}@{server.rooms}")
        assert (await group.add(bot.account)).added
    await bot.connect()
    for room in alice.mls.rooms:
        await bot.joined(room)
    assert len(alice.stanzas_sent("jabber:x:conference")) == 12


async def test_a_password_that_is_changed_while_we_are_online(server: DevServer, cast: Cast) -> None:
    """The next login fails for good: that is told, not waited out.  With the new password all goes on."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    cast.expected_errors.append("refuses the password")
    await server.register(bob.jid.local, "changed")
    await bob.cut()
    bob.no_resumption()
    bob.client.connect(server.host, server.port)
    failed = await bob.next("mls_failed")
    assert isinstance(failed, LoginFailed)
    assert (failed.reason, failed.temporary) == ("password", False)
    await bob.until(lambda: bob.client.transport is None)
    await alice.say("what was said meanwhile")
    bob.client.cancel_connection_attempt()
    bob.client.password = "changed"
    assert await bob.back() == "session_start"
    await bob.hears("what was said meanwhile")
    await bob.say("and what was answered", room)
    await alice.hears("and what was answered")


# --- what owners do with their rooms ----------------------------------------------------------------


async def reconfigure(person: Person, fields: dict[str, str]) -> None:
    """Change an owner's room (XEP-0045 10.2)."""
    query = Element("{http://jabber.org/protocol/muc#owner}query")
    query.append(submission("http://jabber.org/protocol/muc#roomconfig", fields))
    await Stream.of(person.client).ask("set", person.room().jid, query)


async def test_an_archive_that_is_switched_off_for_a_while(server: DevServer, cast: Cast) -> None:
    """Without it nothing has a place in the order: everybody is told, and what was written arrives when it is back."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    field = "muc#roomconfig_enablearchiving" if server.software == "Prosody" else "mam"
    await reconfigure(alice, {field: "0"})
    for person in (alice, bob):
        assert "no-archive" in (await person.next("mls_room_unsuitable")).reasons
    sent = await alice.say("written without an archive")
    await bob.until(lambda: any(isinstance(event, Unarchived) for event in bob.got("mls_room_event")))
    assert not sent.confirmed.done()
    await reconfigure(alice, {field: "1"})
    await bob.hears("written without an archive")
    await sent.confirmed
    await all_agree(alice, bob)
    assert bob.bodies == ["written without an archive"]


async def test_a_room_that_lets_us_in_again(server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner takes back what kept us out, while nobody is there who may remove us from the group."""
    monkeypatch.setattr(lost_rooms, "PAUSES", (0.0,))
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await alice.room().muc.affiliations.set(carol.account, "owner")
    await alice.log_out()
    acts: tuple[tuple[Affiliation, str], ...] = (("none", "not-a-member"), ("outcast", "banned"))
    for number, (affiliation, reason) in enumerate(acts):
        await carol.room().muc.affiliations.set(bob.account, affiliation)
        lost = await bob.next("mls_room_lost", after=number)
        assert lost.reason == reason
        assert not bob.room().is_member
        await bob.mls.parts.rooms.lost.try_again()  # it is still shut
        assert bob.room().lost is not None
        await carol.say(f"said while {affiliation}")
        await carol.room().muc.affiliations.set(bob.account, "member")
        await bob.mls.parts.maintenance.tick()
        await bob.hears(f"said while {affiliation}")
        await bob.joined(room)
    password = {"muc#roomconfig_passwordprotectedroom": "1", "muc#roomconfig_roomsecret": "sesame"}
    await reconfigure(carol, password)
    await bob.new_session()
    assert (await bob.next("mls_room_lost", after=2)).reason == "password-required"
    await carol.room().muc.affiliations.set(bob.account, "outcast")  # another reason for the same closed door

    async def other_reason() -> bool:
        await bob.mls.parts.rooms.lost.try_again()
        outage = bob.room().outage
        assert outage is not None
        return outage.reason in ("banned", "not-a-member")  # Prosody asks first who is a member

    await eventually(other_reason)
    assert bob.got("mls_outage")[-1].reason in ("banned", "not-a-member")
    assert len(bob.got("mls_room_lost")) == 3
    await carol.room().muc.affiliations.set(bob.account, "member")
    await reconfigure(carol, dict.fromkeys(password, "0") | {"muc#roomconfig_roomsecret": ""})
    await bob.new_session()
    await bob.joined(room)
    await bob.until(lambda: bob.room().outage is None)
    assert bob.got("mls_outage")[-1].reason == ""
    assert {outage.reason for outage in bob.got("mls_outage")} >= {"not-a-member", "banned", "password-required", ""}
    await bob.say("open, sesame")
    await carol.hears("open, sesame")
    await all_agree(bob, carol)


async def test_a_revocation_that_meets_another_administrators_addition(
    server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alice removes carol; before she has taken the room from her, bob adds her again, and finds her in its list."""
    monkeypatch.setattr(membership, "LET_IN_AGAIN", SECONDS)  # on a busy machine it takes alice longer to correct it
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    policy = replace(alice.room().policy, administrators=(alice.account, bob.account))
    await alice.room().set_policy(policy)
    affiliations = alice.room().muc.affiliations

    async def bob_is_admin() -> bool:
        return (await affiliations.all()).get(JID(bob.account)) == "admin"

    await eventually(bob_is_admin)
    set_all, revokes, added = affiliations.set_all, asyncio.Event(), asyncio.Event()

    async def late(wanted: dict[str, Affiliation]) -> dict[str, DeliveryError]:
        if wanted.get(carol.account) == "none":
            revokes.set()
            await added.wait()
        return await set_all(wanted)

    with monkeypatch.context() as interleaved:
        interleaved.setattr(affiliations, "set_all", late)
        removing = asyncio.create_task(alice.room().remove(carol.account))
        await asyncio.wait_for(revokes.wait(), SECONDS)
        await bob.until(lambda: carol.account not in bob.room().accounts)
        assert (await bob.room().add(carol.account)).added
        added.set()
        assert [member.account for member in await removing] == [carol.account]

    async def carol_is_let_in() -> bool:
        return (await affiliations.all()).get(JID(carol.account)) == "member"

    await eventually(carol_is_let_in)
    await carol.joined(room)
    await all_agree(alice, bob, carol)
    await carol.say("Let in, thrown out, let in")
    for person in (alice, bob):
        await person.hears("Let in, thrown out, let in")
        removals = [event for event in person.got("mls_group_changed") if event.removed]
        assert len(removals) == 1  # alice's own


# --- what callers get wrong ------------------------------------------------------------------------

NONSENSE: tuple[Any, ...] = ("", "no address", "@x", "a b@example.org", "x@y\x00", None, b"", 5, object(), "\ud800@x")


async def test_nonsense_is_answered_by_a_typed_error(prosody: DevServer, cast: Cast) -> None:
    """No call raises another library's exception, whatever it is given; and a result names what it could not take."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    mls, here = alice.mls, alice.room()
    calls: dict[str, Callable[[Any], Any]] = {
        "create": mls.create,
        "adopt": mls.adopt,
        "join": mls.join,
        "conversation": mls.conversation,
        "room": mls.room,
        "verify": lambda each: mls.trust.verify(each, alice.mls.fingerprint),
        "verify with": lambda each: mls.trust.verify(bob.account, each),
        "distrust": lambda each: mls.trust.distrust(bob.account, each),
        "keys": lambda each: mls.trust.keys("" if each is None else each),
        "rename": lambda each: mls.devices.rename(each, "x"),
        "admit": mls.devices.admit,
        "retire": mls.devices.retire,
        "invite": here.invite,
        "send": lambda each: here.send("" if isinstance(each, str) else each),
        "subject": lambda each: here.set_subject(each) if not isinstance(each, str) else _refused(),
        "file": lambda each: here.send_file(object() if each in (None, b"") else each),  # type: ignore[arg-type]
        "compare": here.compare,
        "reinit": lambda each: here.reinit(7_000 if each is None else each),
        "policy": here.set_policy,
        "certificate": lambda each: mls.use_certificate(b"x" if each is None else each),
    }
    wrong = []
    for name, call in calls.items():
        for each in NONSENSE:
            try:
                async with asyncio.timeout(120):
                    made = call(each)
                    if asyncio.iscoroutine(made):
                        made = await made
            except MLSError:
                continue
            except BaseException as error:
                wrong.append(f"{name}({each!r:.40}): {type(error).__name__}: {error}")
            else:
                wrong.append(f"{name}({each!r:.40}) returned {made!r:.80}")
    assert not wrong, "\n".join(wrong)
    for each in NONSENSE:
        for result in (await here.add(each), await here.remove(each)):
            assert len(result.failed) == 1, each
    assert here.is_member
    await alice.say("Fair is foul")
    await bob.hears("Fair is foul")
    assert alice.room().jid == room


def _refused() -> None:
    raise UsageError("by the test: nothing to try")


# --- nicknames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nick", ["ops bot 🤖", "Ⅷ ﬁ ẞ", "new\nline", "\u200b", "a" * 1024])
async def test_what_is_no_nickname_is_refused_at_once(prosody: DevServer, cast: Cast, nick: str) -> None:
    """RFC 7622 3.4: the resource of a JID."""
    with pytest.raises(UsageError, match="nickname"):
        await cast.person(prosody, "bot", nick=nick)


@pytest.mark.parametrize("nick", ["  spaces  ", "ᴵᴬᴹƤ๏łคгเร", "x/y@z", "a" * 1023])
async def test_any_nickname_leads_into_the_room(server: DevServer, cast: Cast, nick: str) -> None:
    """XEP-0045 7.2.2: the service may change it."""
    room, (alice, _) = await cast.meet(server, "alice", "carol")
    bot = await cast.person(server, "bot", nick=nick)
    result = await alice.room(room).add(bot.account)
    assert [member.account for member in result.added] == [bot.account]
    await bot.joined(room)
    await bot.say("I am the bot", room)
    await alice.hears("I am the bot")
