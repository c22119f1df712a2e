"""A client whose Welcome was lost asks to be added: its request proves whose key it is signed with, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from slixmpp import JID

from slixmpp_mls.authentication import Verdict
from slixmpp_mls.client import GroupLost, Incoming, RemovedFromGroup
from slixmpp_mls.client.group.room_group import RoomGroup
from slixmpp_mls.client.storage.rejoin_limit import LIMIT
from slixmpp_mls.mls.crypto.cipher_suite import SignaturePrivateKey
from slixmpp_mls.mls.group.external_join import external_proposal
from slixmpp_mls.mls.parameters import DAY
from slixmpp_mls.mls.structures.framing import MLSMessage, NewMemberProposalSender
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.rooms.engine.readmission import Readmission
from slixmpp_mls.stanza import elements
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, CAROL, DAVE
from .people import Parts, soon, until


class Admin(Parts):
    """A member with the part under test; :attr:`wanted` has what it would commit."""

    def __init__(self, person: Participant) -> None:
        super().__init__(person)
        self.wanted: list[Any] = []
        self.readmission = Readmission(self.parts, self)  # type: ignore[arg-type]

    async def wait_for_turn(self) -> None:
        """Nobody is before us."""

    async def commit(self, make: Any) -> None:
        self.wanted.append(make())

    def reads(self, request: Incoming, claimed: str | None = None) -> None:
        """Read a request, from the account that the room names."""
        stanza = self.muc.stanza(request)
        if claimed is not None:
            stanza = replace(stanza, real_jid=JID(claimed))
        step = self.group.processing.examine(request, self.world.now)
        self.readmission.stanza_read(stanza, step)


def asking(world: World, carol: Participant, group_id: bytes) -> Incoming:
    """Carol's request, of one who was invited and has seen nothing of the group."""
    group = RoomGroup(carol.device, world.room.jid)
    group.lifecycle.expect_welcome(world.room.archive()[-1].archive_id, group_id)
    (outgoing, *_) = group.join_requests.ask(world.now)
    assert outgoing.payloads[0].epoch == 0
    world.room.post(outgoing, carol.account)
    world.room.deliver_all()
    return world.room.archive()[-1]


@pytest.fixture
def lost() -> tuple[Admin, Participant, Incoming]:
    """Alice, an admin; Carol, whom she has added and who has read nothing of it; Carol's request."""
    world = World()
    alice, _ = world.group(ALICE, BOB)
    carol = world.person(CAROL)
    alice.commit(*alice.adding(CAROL))
    world.room.deliver_all()
    alice.read()
    world.now += 100
    admin = Admin(alice)
    return admin, carol, asking(world, carol, admin.group.mls.group_id)


async def test_the_leaf_is_replaced_by_a_fresh_key_package(lost: tuple[Admin, Participant, Incoming]) -> None:
    admin, carol, request = lost
    admin.reads(request)
    await until(lambda: admin.wanted)
    ((remove, add),) = admin.wanted
    assert isinstance(remove, Remove)
    assert remove.removed == admin.group.roster.leaf_of(carol.device.identity)
    assert isinstance(add, Add)
    assert add.key_package.leaf_node.signature_key == admin.group.mls.tree.member(remove.removed).signature_key
    assert add.key_package.leaf_node.encryption_key != admin.group.mls.tree.member(remove.removed).encryption_key
    assert MLSMessage.wrap(add.key_package) not in admin.world.directory.items[CAROL].values()  # but in the request
    admin.person.commit(remove, add)
    admin.world.settle()
    assert carol.group.is_member
    assert carol.group.mls.epoch_authenticator == admin.group.mls.epoch_authenticator
    assert not admin.failures


@pytest.mark.parametrize("days", [0, 2])
async def test_a_request_that_crosses_with_the_addition_costs_nobody_the_group(days: int) -> None:
    """mls-recovery, "Rejoining": the request was sent before the Welcome was read, or the room posts it once more."""
    world = World()
    alice, _ = world.group(ALICE, BOB)
    carol = world.person(CAROL)
    carol.group.lifecycle.expect_welcome(None, alice.group.mls.group_id)
    carol.read()
    world.now += 100
    carol.ask()
    alice.commit(*alice.adding(CAROL))
    world.room.deliver(1)
    alice.read()
    carol.read()
    assert carol.group.is_member
    world.now += days * DAY
    carol.device.key_packages.forget_spent(world.now)
    world.room.deliver_all()
    carol.read()
    admin = Admin(alice)
    admin.reads(world.room.archive()[-1])
    await until(lambda: admin.wanted)
    alice.read()
    alice.commit(*admin.wanted[0])
    world.settle()
    if days:  # the private keys are gone: it knows that the others want it in the group, and comes back
        assert carol.said(GroupLost)
        world.now += 100
        carol.ask()
        world.settle()
        alice.commit()
        world.settle()
    assert not carol.said(RemovedFromGroup)
    assert world.agree()


async def test_a_request_that_proves_a_return_is_for_the_members_to_commit() -> None:
    """Whoever replaced the leaf as well would pass by the limit that members keep (client/storage/rejoin_limit.py)."""
    world = World()
    alice, bob = world.group(ALICE, BOB)
    admin = Admin(alice)
    bob.group.lifecycle.give_up("says the test")
    bob.read()
    world.now += 100
    (request,) = bob.group.join_requests.ask(world.now)
    world.room.post(request, bob.account)
    world.room.deliver_all()
    admin.reads(world.room.archive()[-1])
    await soon()
    assert request.payloads[0].epoch == admin.group.mls.epoch
    assert not admin.wanted


async def test_the_room_must_name_the_account(lost: tuple[Admin, Participant, Incoming]) -> None:
    admin, _, request = lost
    admin.reads(request, BOB)
    await soon()
    assert not admin.wanted


async def test_a_client_that_has_renewed_its_leaf_has_been_there(lost: tuple[Admin, Participant, Incoming]) -> None:
    admin, carol, request = lost
    carol.group.lifecycle.expect_welcome(None)
    carol.read()
    carol.commit()
    admin.world.room.deliver_all()
    admin.person.read()
    admin.reads(request)
    await soon()
    assert not admin.wanted


async def test_another_signature_key_does_not_come_in(lost: tuple[Admin, Participant, Incoming]) -> None:
    admin, _, _ = lost
    twin = admin.world.person(CAROL)  # another device's key under another name
    admin.reads(asking(admin.world, twin, admin.group.mls.group_id))
    await soon()
    assert not admin.wanted


def forged(admin: Admin, key_package: KeyPackage, key: SignaturePrivateKey) -> Incoming:
    """A request with a KeyPackage of somebody's, signed with any key."""
    group = admin.group.mls
    proposal = Add(key_package)
    message = external_proposal(group.suite, group.group_id, 0, NewMemberProposalSender(), proposal, key)
    admin.world.room.post([elements.Proposal(group.group_id, 0, message)], CAROL)
    admin.world.room.deliver_all()
    return admin.world.room.archive()[-1]


async def test_an_accounts_server_throws_no_device_of_it_out(lost: tuple[Admin, Participant, Incoming]) -> None:
    """It has all KeyPackages that were ever published, and asks in the account's name; RFC 9420 12.1.8, 6.1."""
    admin, carol, _ = lost
    suite = admin.group.mls.suite
    admin.world.directory.replenish(carol.device, admin.world.now)
    for each in admin.world.directory.items[CAROL].values():
        key_package = MLSMessage.decode(each).body
        assert isinstance(key_package, KeyPackage)
        admin.reads(forged(admin, key_package, suite.generate_signature_key(admin.world.random)))
    await soon()
    assert not admin.wanted


async def test_an_old_request_replaces_nothing(lost: tuple[Admin, Participant, Incoming]) -> None:
    """Neither the one that was granted, nor one from before: their keys are gone."""
    admin, carol, request = lost
    admin.world.now += 100
    suite = admin.group.mls.suite
    fresh = carol.device.key_packages.make(suite, admin.world.now).key_package
    later = forged(admin, fresh, carol.device.signature_key(suite))  # as carol makes it
    admin.reads(later)
    await until(lambda: admin.wanted)
    ((remove, add),) = admin.wanted
    admin.person.commit(remove, add)
    admin.world.room.deliver_all()
    admin.person.read()
    for each in (later, request):
        admin.reads(each)
    await soon()
    assert len(admin.wanted) == 1


@pytest.mark.parametrize(("days", "acts"), [(0, True), (3, False)])
async def test_a_request_of_an_earlier_stay_replaces_nothing(days: int, acts: bool) -> None:
    """mls-recovery, "Rejoining": the KeyPackage of the directory by which it came may be older than the request."""
    world = World()
    alice, bob, carol = world.group(ALICE, BOB, CAROL)
    carol.group.lifecycle.give_up("says the test")
    world.now += 2 * DAY
    carol.ask()
    request = world.room.in_flight[0]
    world.settle()
    bob.commit()
    world.settle()
    assert carol.group.is_member
    alice.commit(*alice.removing(CAROL))
    world.settle()
    world.now += days * DAY
    alice.commit(*alice.adding(CAROL))  # by a KeyPackage of the first day
    world.settle()
    carol.group.lifecycle.want_in()
    carol.read()
    assert carol.group.is_member
    world.room.in_flight.append(request)  # the room posts it once more
    world.settle()
    admin = Admin(alice)
    admin.reads(world.room.archive()[-1])
    await soon()
    assert bool(admin.wanted) is acts


async def test_of_a_leaf_that_was_there_before_us_no_arrival_is_known(
    lost: tuple[Admin, Participant, Incoming],
) -> None:
    """Then the age of the leaf's KeyPackage has to do: who cannot tell keeps nobody out."""
    admin, carol, request = lost
    world = admin.world
    world.now += 5 * DAY
    dave = world.person(DAVE)
    admin.person.commit(*admin.person.adding(DAVE))
    world.room.deliver_all()
    admin.person.read()
    dave.read()
    late = Admin(dave)
    assert late.group.members.renewed(carol.device.identity) is None
    assert admin.group.members.renewed(carol.device.identity) is not None
    late.reads(request)
    await until(lambda: late.wanted)


async def test_a_client_that_has_spoken_in_this_epoch_has_been_there(lost: tuple[Admin, Participant, Incoming]) -> None:
    admin, carol, request = lost
    carol.group.lifecycle.expect_welcome(None)
    carol.read()
    carol.send(b"when shall we three meet again")
    admin.world.room.deliver_all()
    admin.person.read()
    admin.reads(request)
    await soon()
    assert not admin.wanted


async def test_whom_the_authentication_service_denies_is_not_added_again(
    lost: tuple[Admin, Participant, Incoming], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, _, request = lost

    async def denied(leaves: Any, suite: Any) -> list[Verdict]:
        return [Verdict.invalid("retired", "it is one no more") for _ in leaves]

    monkeypatch.setattr(admin.context.authentication, "validate", denied)
    admin.reads(request)
    await soon()
    assert not admin.wanted


async def test_only_who_may_add_and_remove_does_it(lost: tuple[Admin, Participant, Incoming]) -> None:
    admin, _, request = lost
    membership = admin.group.room_state.require_member()
    nobody = replace(admin.group.policy, administrators=(BOB,), may_add=type(admin.group.policy.may_add)(0))
    object.__setattr__(membership, "policy", nobody)
    admin.reads(request)
    await soon()
    assert not admin.wanted


async def test_few_times_in_an_hour(lost: tuple[Admin, Participant, Incoming]) -> None:
    admin, _, request = lost
    for number in range(LIMIT + 3):
        admin.reads(request)
        await until(lambda number=number: len(admin.wanted) == min(number + 1, LIMIT))  # type: ignore[misc]
        await soon()
    assert len(admin.wanted) == LIMIT
    admin.world.now += 3601
    admin.reads(request)
    await until(lambda: len(admin.wanted) == LIMIT + 1)
