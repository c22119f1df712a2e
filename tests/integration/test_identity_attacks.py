"""Attacks on who is who and who may what, by people in the room whose software does not keep to the rules.

docs/attacks-on-identity.md lists all of them, with those that are played elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.account import devices
from slixmpp_mls.authentication import AcceptAll
from slixmpp_mls.client import Device
from slixmpp_mls.client.group.sending import Sending
from slixmpp_mls.delivery import DeviceDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import (
    AdministratorInDoubt,
    InvalidError,
    MalformedError,
    NotVouchedFor,
    PeerError,
    PolicyTooNew,
    PolicyViolation,
)
from slixmpp_mls.identity import TrustLevel
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group import commit_creation, group_creation
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.registry import ProtocolVersion
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import ContentType, MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.proposals import (
    Add,
    AnyProposal,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
)
from slixmpp_mls.mls.structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.tree import leaf_validation
from slixmpp_mls.policy import POLICY_TYPES, Right, RoomPolicy
from slixmpp_mls.runtime import DeniedMembers
from slixmpp_mls.stanza import elements, parse
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import commit_against_policy

from .people import SECONDS, Cast, Person, all_agree
from .test_plugin_faults import occupant

pytestmark = pytest.mark.server

SUITE = CipherSuite.get(1)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "JITTER", 0.3)
    monkeypatch.setattr(devices, "RETRY", 1.0)


# --- software that does not keep to the rules -----------------------------------------------------


def made_up(account: str, device_id: str | None = None) -> KeyPackage:
    """A KeyPackage that somebody has made in an account's name, for a device of its own or one that exists."""
    store = MemoryStore(account)
    if device_id is not None:
        with store.transaction() as transaction:
            transaction.put("device", b"id", device_id.encode())
    return Device(store).key_packages.make(SUITE, int(time.time())).key_package


@contextmanager
def careless() -> Iterator[None]:
    """Whatever is made in here is made without asking whether members support it (RFC 9420 7.3, 13.4)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaf_validation, "_require", lambda *arguments: None)
        patch.setattr(commit_creation, "check_members", lambda *arguments: None)
        patch.setattr(group_creation, "check_supported", lambda *arguments: None)
        yield


async def force(person: Person, *proposals: AnyProposal) -> None:
    """A Commit that the policy may forbid, put into the room all the same."""
    with careless(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sending, "_shows_group_info", lambda *arguments: False)  # that would read the policy to come
        outgoing = commit_against_policy(person.room().group, proposals, person.mls.now)
    await person.room().worker.transmitter.transmit(outgoing)


async def all_refuse(offender: Person, others: list[Person], *proposals: AnyProposal) -> list[PeerError]:
    """Have a Commit refused by everybody; why, for each of the others."""
    before = {person: len(person.got("mls_rejected")) for person in others}
    lost = len(offender.got("mls_commit_lost"))
    await force(offender, *proposals)
    refusals = [await person.next("mls_rejected", before[person]) for person in others]
    await offender.next("mls_commit_lost", lost)
    assert {refusal.claimed for refusal in refusals} == {offender.account}
    return [refusal.error for refusal in refusals]


def rules(errors: list[PeerError]) -> set[str]:
    """The rules of the policy that were broken."""
    assert all(isinstance(error, PolicyViolation) for error in errors), errors
    return {error.rule for error in errors if isinstance(error, PolicyViolation)}


async def everybody_talks(*people: Person) -> None:
    """Each is heard by all others, as a member in good standing."""
    for number, person in enumerate(people):
        text = f"{person.jid.user} speaks, the {len(person.got('mls_sent'))}th time, {number}"
        await person.say(text)
        for other in people:
            if other is not person:
                await other.hears(text)


def reinit_with(*extensions: Extension) -> ReInit:
    return ReInit(os.urandom(32), ProtocolVersion.MLS10, SUITE.id, extensions)


async def members_may_add(alice: Person, *others: Person) -> None:
    room = alice.room()
    await room.set_policy(replace(room.policy, may_add=Right.MEMBERS))
    await all_agree(alice, *others)


# --- rights that somebody gives to himself ----------------------------------------------------------


async def test_a_self_made_administrator_is_ignored_by_everybody(server: DevServer, cast: Cast) -> None:
    """By the policy's rules "change-policy" and "remove"; who was away comes to the same verdict from the archive."""
    _, (alice, bob, carol, dave) = await cast.meet(server, "alice", "bob", "carol", "dave")
    policy, epoch = alice.room().policy, alice.room().epoch
    await dave.log_out()
    for own in (
        RoomPolicy(policy.room, (bob.account,)),
        replace(policy, administrators=(*policy.administrators, bob.account)),
        replace(policy, may_change_policy=Right.MEMBERS, may_remove=Right.MEMBERS),
    ):
        extensions = own.replaced_in(bob.room().group.mls.context.extensions)
        errors = await all_refuse(bob, [alice, carol], GroupContextExtensions(extensions))
        assert rules(errors) == {"change-policy"}
    victim = bob.room().group.roster.leaves_of(carol.account)[0]
    assert rules(await all_refuse(bob, [alice, carol], Remove(victim))) == {"remove"}
    # Nor does he close the group, for one with a policy of his own (RFC 9420 11.2).
    errors = await all_refuse(bob, [alice, carol], reinit_with(RoomPolicy(policy.room, (bob.account,)).extension()))
    assert rules(errors) == {"change-policy"}
    # What he gives himself does not even count for what else is in the same Commit.
    extensions = RoomPolicy(policy.room, (bob.account,)).replaced_in(bob.room().group.mls.context.extensions)
    errors = await all_refuse(bob, [alice, carol], GroupContextExtensions(extensions), Remove(victim))
    assert rules(errors) <= {"change-policy", "remove"}

    await dave.connect()
    await dave.joined(policy.room)
    assert [type(event.error) for event in dave.got("mls_rejected")] == [PolicyViolation] * 6
    for person in (alice, bob, carol, dave):
        assert person.room().policy == policy
        assert person.room().epoch == epoch
        assert not person.got("mls_left_behind")
    await everybody_talks(alice, bob, carol, dave)
    await bob.room().update()  # he is locked out by nothing, either
    await all_agree(alice, bob, carol, dave, epoch=epoch + 1)


def policies(room: str, account: str) -> dict[str, tuple[tuple[Extension, ...], type[PeerError], str]]:
    """GroupContext extensions that no group of ours can have; the error, and the rule or a part of what is said."""
    ours = RoomPolicy(room, (account,)).extension()
    newer = Extension(POLICY_TYPES[2], b"what only later software knows")
    return {
        "none": ((), PolicyViolation, "policy-missing"),
        "not parsed": ((Extension(RoomPolicy.TYPE, b"\x05garbage"),), PolicyViolation, "policy-missing"),
        "cut off": ((Extension(RoomPolicy.TYPE, ours.extension_data[:-1]),), PolicyViolation, "policy-missing"),
        "longer": ((Extension(RoomPolicy.TYPE, ours.extension_data + b"\0"),), PolicyViolation, "policy-missing"),
        "newer": ((newer,), InvalidError, "does not list 0xf4d2"),
        "newer beside ours": ((ours, newer), InvalidError, "does not list 0xf4d2"),
        "another room's": ((RoomPolicy(f"x{room}", (account,)).extension(),), PolicyViolation, "room"),
        "nobody's": ((RoomPolicy(room, ("nobody@nowhere.example",)).extension(),), PolicyViolation, "administrator"),
    }


@pytest.mark.usefixtures("answers_are_waited_for")
async def test_a_policy_that_members_cannot_read_is_not_taken_over(server: DevServer, cast: Cast) -> None:
    """RFC 9420 13.4, and the policy's own rules: even an administrator's Commit, by other software, is ignored then."""
    room, (alice, bob, carol, dave) = await cast.meet(server, "alice", "bob", "carol", "dave")
    policy, epoch = alice.room().policy, alice.room().epoch
    await dave.log_out()
    cases = policies(room, alice.account)
    for what, (extensions, kind, said) in cases.items():
        errors = await all_refuse(alice, [bob, carol], GroupContextExtensions(extensions))
        assert {type(error) for error in errors} == {kind}, (what, errors)
        assert all(said in (error.rule if isinstance(error, PolicyViolation) else str(error)) for error in errors), what
    for extensions in (cases["not parsed"][0], cases["newer"][0]):
        assert rules(await all_refuse(alice, [bob, carol], reinit_with(*extensions))) == {"policy-missing"}
    await dave.connect()
    await dave.joined(room)
    assert len(dave.got("mls_rejected")) == len(cases) + 2
    for person in (alice, bob, carol, dave):
        assert (person.room().policy, person.room().epoch) == (policy, epoch)
        assert not person.got("mls_group_lost")
    await everybody_talks(alice, bob, carol, dave)
    # Whoever has asked in vain where the group is, as it can during such an attack, has shown where it is by a Commit.
    await alice.room().set_policy(replace(policy, may_change_subject=Right.MEMBERS))
    changed = alice.room().epoch
    for person in (bob, carol, dave):
        await person.until(lambda person=person: person.room().epoch >= changed)  # type: ignore[misc]
        assert person.room().policy == replace(policy, may_change_subject=Right.MEMBERS)
    await all_agree(alice, bob, carol, dave)


async def key_package_of(reader: Person, account: str) -> KeyPackage:
    """One that an account has published."""
    parsed = [parse(xml) for xml in (await reader.mls.directory.items(account)).values()]
    found = next(each for each in parsed if isinstance(each, elements.KeyPackage) and not each.last_resort)
    package = MLSMessage.decode(found.data).body
    assert isinstance(package, KeyPackage)
    return package


async def welcome_to(mallory: Person, package: KeyPackage, extensions: tuple[Extension, ...]) -> list[Any]:
    """A Commit and a Welcome to a group of somebody's own, with any GroupContext extensions."""
    with careless():
        now = int(time.time())
        bundle = mallory.mls.device.key_packages.make(SUITE, now)
        group = Group.create(bundle, os.urandom(32), extensions=extensions)
        made = group.commit([Add(package)], now=now)
    assert made.welcome is not None
    commit = elements.Commit(group.group_id, 0, made.commit)
    welcome = elements.Welcome(group.group_id, 1, made.welcome)
    return [commit.to_stdlib(), welcome.to_stdlib(), Element("{urn:xmpp:hints}store")]


async def test_a_welcome_to_a_group_whose_policy_cannot_be_read(server: DevServer, cast: Cast) -> None:
    """It is refused by name, costs no KeyPackage, and keeps nobody from following the genuine one that comes later."""
    room, (alice,) = await cast.meet(server, "alice")
    bob = await cast.person(server, "bob", key_packages=1)
    mallory = await occupant(cast, server, room, alice)
    await alice.room().muc.affiliations.grant_membership([bob.account])
    package = await key_package_of(mallory, bob.account)
    expected: dict[str, tuple[type[PeerError], str]] = {
        "none": (InvalidError, "no policy"),
        "not parsed": (MalformedError, ""),
        "cut off": (MalformedError, ""),
        "longer": (MalformedError, ""),
        "newer": (PolicyTooNew, ""),
        "newer beside ours": (PolicyTooNew, ""),
        "another room's": (InvalidError, "another room"),
    }
    before = set(await bob.mls.directory.items(bob.account))
    joining = asyncio.create_task(bob.mls.join(room))
    await bob.next("mls_entered")
    cases = policies(room, mallory.account)
    for number, (what, (kind, said)) in enumerate(expected.items()):
        await mallory.post(await welcome_to(mallory, package, cases[what][0]), room)
        rejected = await bob.next("mls_rejected", number)
        assert type(rejected.error) is kind, (what, rejected)
        assert said in str(rejected.error), what
        assert rejected.claimed == mallory.account
    assert not joining.done()
    assert set(await bob.mls.directory.items(bob.account)) == before
    assert not alice.got("mls_group_lost")
    assert (await alice.room().add(bob.account)).added
    await asyncio.wait_for(joining, SECONDS)
    await everybody_talks(alice, bob)


async def test_a_commit_that_somebody_makes_up_keeps_nobody_out(server: DevServer, cast: Cast) -> None:
    """Who waits for a Welcome cannot judge Commits, and a false one names the epoch that the genuine one ends."""
    room, (alice,) = await cast.meet(server, "alice")
    bob = await cast.person(server, "bob")
    mallory = await occupant(cast, server, room, alice)
    await alice.room().muc.affiliations.grant_membership([bob.account])
    joining = asyncio.create_task(bob.mls.join(room))
    await bob.next("mls_entered")
    group = alice.room().group.mls
    private = PrivateMessage(group.group_id, group.epoch, ContentType.COMMIT, b"", os.urandom(28), os.urandom(200))
    for octets in (b"garbage", MLSMessage.wrap(private)):  # what anybody sees through, and what only members do
        false = elements.Commit(group.group_id, group.epoch, octets)
        await mallory.post([false.to_stdlib(), Element("{urn:xmpp:hints}store")], room)
        await alice.next("mls_rejected")
    assert (await alice.room().add(bob.account)).added
    await asyncio.wait_for(joining, SECONDS)
    await everybody_talks(alice, bob)


# --- devices of others ------------------------------------------------------------------------------


async def test_a_member_brings_in_a_device_in_somebody_elses_name(server: DevServer, cast: Cast) -> None:
    """Bob may add anybody, and adds what says that it is Carol's: her account's word counts (RFC 9420 5.3.1)."""
    room, people = await cast.meet(server, "alice", "bob", "carol", denied_members="hold")
    alice, bob, carol = people
    await alice.room().set_policy(replace(alice.room().policy, administrators=(alice.account, bob.account)))
    await all_agree(*people)
    genuine = next(m for m in alice.room().members if m.account == carol.account).signature_key
    ghost = made_up(carol.account)
    await bob.room().worker.committer.commit(lambda: [Add(ghost)])
    for person in (alice, carol):
        doubted = await person.next("mls_doubted")
        assert doubted.member.account == carol.account
        assert doubted.member.signature_key == ghost.leaf_node.signature_key
        assert doubted.doubt.reason == "no-device"
        assert doubted.doubt.denied
        with pytest.raises(NotVouchedFor, match=doubted.member.device):
            await person.say("What, can the devil speak true?")
    for person in (alice, carol):
        person.reconfigure(denied_members=DeniedMembers.REMOVE)
    await alice.room().worker.checks.act()
    await alice.until(lambda: len(alice.room().members) == 3)
    await all_agree(*people)
    for person in people:
        await person.until_no_doubts()
        assert person.room(room).accounts == sorted(each.account for each in people)
        assert not {"mls_removed", "mls_key_changed"} & {name for name, _ in person.seen}
    await everybody_talks(*people)
    # Nothing that was known of Carol is another now, and the ghost is nobody whom one knows.
    assert alice.mls.trust.level(carol.account, genuine) is TrustLevel.TRUSTED
    assert alice.mls.trust.level(carol.account, ghost.leaf_node.signature_key) is TrustLevel.UNDECIDED


async def test_a_ghost_does_not_become_an_administrator_by_the_way(server: DevServer, cast: Cast) -> None:
    """Bob may add clients of accounts that are not in the group, and has heard that carol is to be an administrator."""
    room, people = await cast.meet(server, "alice", "bob", denied_members="hold")
    alice, bob = people
    carol = await cast.person(server, "carol")
    await members_may_add(alice, bob)
    # Alice, who has just come, would take out of the group whom the room does not let in.
    await alice.room(room).muc.affiliations.grant_membership([carol.account])
    ghost = made_up(carol.account)
    await bob.room().worker.committer.commit(lambda: [Add(ghost)])
    await alice.until(lambda: carol.account in alice.room(room).accounts)
    policy = replace(alice.room().policy, administrators=(alice.account, carol.account))
    with pytest.raises(AdministratorInDoubt) as caught:
        await alice.room().set_policy(policy)
    (doubted,) = caught.value.doubts
    assert doubted.startswith(f"{carol.account}/")
    assert alice.room().policy.administrators == (alice.account,)
    await alice.room().remove(carol.account)
    assert await alice.room().set_policy(policy)
    await bob.until(lambda: bob.room().policy == policy)


async def test_the_right_to_add_is_not_every_right(server: DevServer, cast: Cast) -> None:
    """The policy's rules "add" and "psk": bob may add, and neither becomes the administrator nor shuts anybody out."""
    _, people = await cast.meet(server, "alice", "bob", "carol")
    alice, bob, carol = people
    await members_may_add(alice, bob, carol)
    before = {str(member.identity) for member in alice.room().members}
    for account in (alice.account, carol.account):
        assert rules(await all_refuse(bob, [alice, carol], Add(made_up(account)))) == {"add"}
    (own,) = bob.room().group.roster.leaves_of(alice.account)
    false = made_up(alice.account, alice.mls.device_id)
    assert rules(await all_refuse(bob, [alice, carol], Remove(own), Add(false))) == {"add"}
    group = bob.room().group.mls
    for epoch in (1, group.epoch):
        name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, group.group_id, epoch)
        psk = PreSharedKey(PreSharedKeyID(name, os.urandom(SUITE.hash_length)))
        assert rules(await all_refuse(bob, [alice, carol], psk)) == {"psk"}
    assert {str(member.identity) for member in alice.room().members} == before
    await everybody_talks(*people)
    await bob.room().update()
    await all_agree(*people)


async def test_a_second_leaf_for_a_device_that_is_there_is_ignored(server: DevServer, cast: Cast) -> None:
    """The policy's rule "one-leaf": two keys under one id, or one in whose place another comes, are no members."""
    _, people = await cast.meet(server, "alice", "bob", "carol")
    alice, bob, carol = people
    await members_may_add(alice, bob, carol)
    twin = made_up(carol.account, carol.mls.device_id)
    assert rules(await all_refuse(bob, [alice, carol], Add(twin))) == {"one-leaf"}
    twins = [Add(made_up(carol.account, "lute")) for _ in range(2)]
    assert rules(await all_refuse(bob, [alice, carol], *twins)) == {"one-leaf"}
    victim = bob.room().group.roster.leaves_of(carol.account)[0]
    assert rules(await all_refuse(bob, [alice, carol], Remove(victim), Add(twin))) == {"add"}
    assert len(alice.room().members) == 3
    await everybody_talks(*people)


async def test_a_false_key_for_a_device_that_is_not_there_yet(server: DevServer, cast: Cast) -> None:
    """Bob is quicker than Alice, and adds Carol's device with a key of his own: she comes in all the same."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol")
    await members_may_add(alice, bob)
    false = made_up(carol.account, carol.mls.device_id)
    await bob.room().worker.committer.commit(lambda: [Add(false)])
    doubted = await alice.next("mls_doubted")
    assert (doubted.member.device, doubted.doubt.reason) == (carol.mls.device_id, "other-key")
    assert not doubted.doubt.lapsed
    await alice.until(lambda: len(alice.room().members) == 2)
    await bob.until(lambda: len(bob.room().members) == 2)
    assert (await alice.room().add(carol.account)).added
    await carol.joined(room)
    await everybody_talks(alice, bob, carol)
    assert not alice.room().doubts
    assert not alice.got("mls_key_changed")


# --- lists of devices --------------------------------------------------------------------------------


async def test_a_list_that_is_withheld_for_a_while_costs_nobody_the_room(server: DevServer, cast: Cast) -> None:
    """Carol's server shows an empty list: what was vouched for is not thrown out, but told apart, until it is back."""
    _, people = await cast.meet(server, "alice", "bob", "carol")
    alice, bob, carol = people

    async def never() -> None:
        return None

    # Or she would mend it; as it is, she reports that her node does not keep her item.
    carol.mls.parts.own_entry.publish = never  # type: ignore[method-assign]
    cast.expected_errors += ["it does not keep our item", "our item has been lost"]
    node = DeviceDirectory(carol.client)
    listed = await node.items()
    await node.retract_many(listed)
    alice.notify_of_devices(carol.account)
    doubted = await alice.next("mls_doubted")
    assert doubted.member.account == carol.account
    assert doubted.doubt.lapsed
    await alice.say("Who can be wise, amazed, temperate and furious")
    await carol.hears("Who can be wise, amazed, temperate and furious")
    await carol.say("Look to the lady")
    assert (await alice.next("mls_doubted_message")).body == "Look to the lady"
    await bob.hears("Look to the lady")  # who has not asked since
    await node.publish_many(listed)
    alice.notify_of_devices(carol.account)
    await alice.until(lambda: not alice.room().doubts)
    await everybody_talks(*people)
    for person in people:
        assert not {"mls_removed", "mls_key_changed"} & {name for name, _ in person.seen}


async def test_a_list_from_before_a_device_was_retired(server: DevServer, cast: Cast) -> None:
    """Shown again, with the device's KeyPackages, while its owner is away: it is undone when the owner is back."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    tablet = await cast.person(server, bob.jid, key_packages=5)
    assert (await bob.room().add(bob.account)).added
    await tablet.joined(room)
    await all_agree(alice, bob, tablet)
    lost = tablet.mls.device_id
    listed = {lost: (await DeviceDirectory(bob.client).items())[lost]}
    handed_out = dict(await bob.mls.directory.items())
    tablet.crash()
    await bob.mls.devices.retire(lost)
    await alice.until(lambda: len(alice.room().members) == 2)
    await bob.log_out()
    # Whoever may write there stands for the account's server.
    server_of_bob = await cast.person(server, bob.jid, authentication=AcceptAll())
    await DeviceDirectory(server_of_bob.client).publish_many(listed)
    await server_of_bob.mls.directory.publish_many(handed_out)
    await server_of_bob.log_out()
    alice.notify_of_devices(bob.account)
    assert not (await alice.room().add(bob.account)).added  # no device in the group vouches for it
    (added,) = (await alice.room().add(f"{bob.account}/{lost}")).added
    assert added.device == lost  # alice insists: the account's list says so, and nobody else can know
    await bob.connect()
    conflict = await bob.next("mls_device_conflict")
    assert conflict.id == lost
    await alice.until(lambda: len(alice.room().members) == 2)
    await bob.joined(room)
    await all_agree(alice, bob)
    assert (await DeviceDirectory(bob.client).items())[lost].tag.endswith("retired-device")
    await everybody_talks(alice, bob)
