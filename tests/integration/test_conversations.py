"""Conversations of two, on each server as it comes."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import NobodyReachable, NotPermitted, PolicyViolation, RoomUnsuitable, UsageError
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from slixmpp_mls.rooms.conversations import ConversationMerged

from .people import SECONDS, Cast, Person


async def conversation(person: Person, other: Person) -> str:
    async with asyncio.timeout(SECONDS):
        return (await person.mls.conversation(other.account)).jid


async def found(person: Person, other: Person) -> str:
    """Wait until somebody knows a conversation with another account."""
    room = await person.until(lambda: person.mls.conversations.get(other.account))
    await person.joined(room.jid)
    return str(room.jid)


async def test_one_for_both_and_for_new_devices(server: DevServer, cast: Cast) -> None:
    alice, bob = [await cast.person(server, name) for name in ("alice", "bob")]
    room = await conversation(alice, bob)
    assert re.fullmatch(r"[0-9a-f]{24}@" + re.escape(server.rooms), room)
    assert alice.room(room).partner == bob.account
    assert await found(bob, alice) == room
    assert await conversation(bob, alice) == await conversation(alice, bob) == room
    await alice.say("When shall we three meet again?", room)
    await bob.hears("When shall we three meet again?")
    message = bob.got("mls_message")[0]
    assert message.room.partner == alice.account
    await message.react("🐸")
    assert (await alice.next("mls_reaction")).reactions == ("🐸",)

    phone = await cast.person(server, bob.jid)  # bob's first device lets it in
    await bob.mls.devices.admit(phone.mls.device_id)
    assert await found(phone, alice) == room
    assert await conversation(phone, alice) == room
    await phone.say("In thunder, lightning, or in rain?", room)
    await alice.hears("In thunder, lightning, or in rain?")


async def test_nobody_else_comes_in(prosody: DevServer, cast: Cast) -> None:
    """The policy says who the two are; neither of them can add a third account."""
    alice, bob, carol = [await cast.person(prosody, name) for name in ("alice", "bob", "carol")]
    room = await conversation(alice, bob)
    with pytest.raises((NotPermitted, PolicyViolation)):
        await alice.room(room).add(carol.account)
    assert alice.room(room).accounts == sorted([alice.account, bob.account])


async def test_both_begin_at_once(server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest group id wins, for both alike, and nothing that was said in the other is lost."""
    people = [await cast.person(server, name, accept_invitation=lambda _: False) for name in ("alice", "bob")]
    alice, bob = people  # neither follows the other's invitation until both have begun

    async def still_on_its_way(_: str) -> None:
        pass

    monkeypatch.setattr(bob.mls.parts.conversations, "_accept", still_on_its_way)
    rooms = [await conversation(alice, bob), await conversation(bob, alice)]
    assert rooms[0] != rooms[1]
    await alice.mls.join(rooms[1])
    await bob.mls.join(rooms[0])
    merged: list[ConversationMerged] = [await person.next("mls_conversation_merged") for person in (alice, bob)]
    assert merged[0].room == merged[1].room
    assert {merged[0].room, *merged[0].others} == set(rooms)
    assert (merged[0].account, merged[1].account) == (bob.account, alice.account)
    smallest = min(rooms, key=lambda room: alice.room(room).group.mls.group_id)
    assert smallest == merged[0].room
    assert await conversation(alice, bob) == await conversation(bob, alice) == smallest
    await alice.say("said in the one", rooms[0])
    await bob.say("said in the other", rooms[1])
    await bob.hears("said in the one")
    await alice.hears("said in the other")


async def test_nobody_diverts_a_conversation(server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """mls, "Talk Between Two": a device that a server has listed makes a conversation with the smallest group id.

    It counts when the device has been let into the one that has counted.
    """
    alice, bob = [await cast.person(server, name) for name in ("alice", "bob")]
    room = await conversation(alice, bob)
    assert await found(bob, alice) == room
    listed = await cast.person(server, bob.jid)
    make = Group.create

    def smallest(_: type[Group], own: KeyPackageBundle, __: bytes, /, **options: Any) -> Group:
        return make(own, bytes(32), **options)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "create", classmethod(smallest))
        other = await conversation(listed, alice)
    assert other != room
    merged = [await person.next("mls_conversation_merged") for person in (alice, bob)]
    assert [(each.room, each.others) for each in merged] == [(room, (other,))] * 2
    assert await conversation(alice, bob) == await conversation(bob, alice) == room
    await alice.say("By the pricking of my thumbs", await conversation(alice, bob))
    await bob.hears("By the pricking of my thumbs")
    await alice.log_out()
    await alice.connect()
    await alice.joined(other)
    await alice.joined(room)
    assert await conversation(alice, bob) == room
    assert listed.got("mls_message") == []

    await bob.mls.devices.admit(listed.mls.device_id)
    await until_counts(other, alice, bob)
    await until_counts(other, bob, alice)
    await until_counts(other, listed, alice)


async def until_counts(room: str, person: Person, partner: Person) -> None:
    await person.until(lambda: person.mls.conversations[partner.account].jid == room)


async def test_an_undecided_invitation_is_accepted_by_opening_the_conversation(server: DevServer, cast: Cast) -> None:
    """Else each side would talk in a room of its own, and not read the other's; a restart changes nothing."""
    alice = await cast.person(server, "alice")
    bob = await cast.person(server, "bob", accept_invitation=lambda _: False)
    room = await conversation(alice, bob)
    await alice.say("When shall we two meet again?", room)
    waiting = await bob.until(lambda: bob.mls.invitations)
    assert [(each.room, each.inviter) for each in waiting] == [(room, alice.account)]
    assert bob.mls.conversations == {}
    await bob.log_out()
    await bob.connect()
    assert [(each.room, each.inviter) for each in bob.mls.invitations] == [(room, alice.account)]
    assert await conversation(bob, alice) == room
    await bob.hears("When shall we two meet again?")
    assert bob.mls.invitations == []
    await bob.say("In thunder", room)
    await alice.hears("In thunder")


async def test_an_undecided_invitation_does_not_delay_a_conversation_that_exists(server: DevServer, cast: Cast) -> None:
    """As by a device of the other account that knows nothing of it yet; the two are merged when both are read."""
    alice = await cast.person(server, "alice", accept_invitation=lambda _: False)
    bob = await cast.person(server, "bob")
    room = await conversation(alice, bob)
    phone = await cast.person(server, bob.jid)
    other = await conversation(phone, alice)
    assert other != room
    await alice.until(lambda: [each.room for each in alice.mls.invitations] == [other])
    assert await conversation(alice, bob) == room
    merged = await alice.next("mls_conversation_merged")
    assert {merged.room, *merged.others} == {room, other}


async def test_joining_the_room_accepts_an_undecided_invitation(server: DevServer, cast: Cast) -> None:
    alice = await cast.person(server, "alice")
    bob = await cast.person(server, "bob", accept_invitation=lambda _: False)
    coven = await alice.mls.create(f"coven-{alice.jid.user}@{server.rooms}")
    assert not (await coven.add(bob.account)).failed
    assert [each.room for each in await bob.until(lambda: bob.mls.invitations)] == [coven.jid]
    async with asyncio.timeout(SECONDS):
        await bob.mls.join(coven.jid.upper())
    assert bob.mls.invitations == []
    await bob.until(lambda: alice.account in bob.room(coven.jid).accounts)


async def test_the_address_of_an_account_is_no_room(server: DevServer, cast: Cast) -> None:
    """XEP-0045 6.2: an account would never answer our presence, and we would wait for ever."""
    alice, bob = [await cast.person(server, name) for name in ("alice", "bob")]
    for attempt in (alice.mls.join, alice.mls.create, alice.mls.adopt):
        async with asyncio.timeout(SECONDS):
            with pytest.raises(RoomUnsuitable, match=r"not-a-room.*conversation") as caught:
                await attempt(bob.account)
        assert caught.value.reasons == ("not-a-room",)
    assert alice.mls.rooms == {}


async def test_nothing_stays_behind_for_nobody(server: DevServer, cast: Cast) -> None:
    alice = await cast.person(server, "alice")
    nobody = await cast.account(server, "nobody")
    with pytest.raises(NobodyReachable) as caught:
        await alice.mls.conversation(nobody.bare)
    assert caught.value.account == nobody.bare
    assert alice.mls.conversations == alice.mls.rooms == {}
    assert not alice.stanzas_sent(r"muc#owner")
    for address in ("", "nobody", alice.account, f"{nobody.bare}/phone", "a@b@c"):
        with pytest.raises(UsageError):
            await alice.mls.conversation(address)


async def test_a_room_in_which_nobody_could_be_added_is_destroyed(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The KeyPackages may have gone between the two looks at the directory."""
    from slixmpp_mls.rooms.encrypted_room import AddResult, EncryptedRoom

    alice, bob = [await cast.person(prosody, name) for name in ("alice", "bob")]

    async def none(self: EncryptedRoom, *accounts: str) -> AddResult:
        return AddResult(failed=dict.fromkeys(accounts, "gone"))

    with monkeypatch.context() as patch:
        patch.setattr(EncryptedRoom, "add", none)
        with pytest.raises(NobodyReachable, match="gone"):
            await alice.mls.conversation(bob.account)
    assert alice.mls.rooms == {}
    assert alice.stanzas_sent(r"<destroy")
    room = await conversation(alice, bob)  # and later it is as if nothing had been
    assert await found(bob, alice) == room


async def test_an_interrupted_beginning_goes_on(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slixmpp_mls.rooms.encrypted_room import EncryptedRoom

    alice, bob = [await cast.person(prosody, name) for name in ("alice", "bob")]

    async def killed(self: EncryptedRoom, *accounts: str) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(EncryptedRoom, "add", killed)
        with pytest.raises(asyncio.CancelledError):
            await alice.mls.conversation(bob.account)
    begun = alice.room().jid
    alice.crash()
    await alice.connect()
    assert await conversation(alice, bob) == begun
    assert await found(bob, alice) == begun


async def test_another_service_can_be_named(prosody: DevServer, cast: Cast) -> None:
    alice, bob = [await cast.person(prosody, name) for name in ("alice", "bob")]
    handle = await alice.mls.conversation(bob.account, service=prosody.rooms)
    assert handle.jid.endswith(f"@{prosody.rooms}")
    assert list(alice.mls.conversations) == [bob.account]
