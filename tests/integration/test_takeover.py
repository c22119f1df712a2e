"""No seat and no right by a name: what somebody tries who merely sits in the room, on real servers.

A room's server can seat anybody.  Here an account with an affiliation and software of its own stands in for it: it
makes external Commits, requests and Commits in other people's names.  All honest members run the plugin as it comes.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

import pytest

from slixmpp_mls.client import Device, Outgoing, RoomGroup
from slixmpp_mls.client.device import device as device_module
from slixmpp_mls.client.group import external_commit
from slixmpp_mls.delivery import KeyPackageDirectory, Room
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import PolicyViolation, SeveralInvitations
from slixmpp_mls.key_packages.items import parse_key_package
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, GroupContextExtensions, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import ExternalJoins, RoomPolicy, group_extensions
from slixmpp_mls.policy.roster import Roster
from slixmpp_mls.rooms.engine import reader, rejoin
from slixmpp_mls.rooms.engine.parts import children
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore

from .people import SECONDS, Cast, Person, all_agree

pytestmark = pytest.mark.server


class Impostor:
    """Software without rules, in the room: a device that claims an account.

    :ivar session: the room's group as that device sees it
    """

    def __init__(self, seat: Person, room: str, account: str, device: str | None = None) -> None:
        store = MemoryStore(account)
        if device is not None:
            with store.transaction() as transaction:
                transaction.put(device_module._DEVICE, b"id", device.encode())
        self.device = Device(store)
        self.group = RoomGroup(self.device, room)
        self.muc = Room(seat.client, room, "somebody")

    async def sit_down(self) -> None:
        await self.muc.join(None)

    async def external_commit(self, member: Person) -> tuple[Outgoing, Group]:
        """An external Commit, whatever the policy says of it, and the group that it would lead into.

        :param member: who has given the key of GroupInfos away: what it protects is the roster, not the group
        """
        *_, (stanza, door) = await rejoin.group_infos(self.muc.archive)
        door = replace(door, data=member.room().group.external_commits.open(door), key_epoch=None)
        self.group.lifecycle.seek(stanza.archive_id)
        now = int(time.time())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(external_commit, "check", lambda *anything: None)
            outgoing = self.group.external_commits.finish(self.group.external_commits.draft(door, now), now)
        group = self.group.room_state.entry
        assert group is not None
        return outgoing, group

    async def requests(self) -> list[Outgoing]:
        """Its requests to be added, by what the archive shows of the group."""
        now = int(time.time())
        async with aclosing(self.muc.archive.pages(None)) as pages:
            async for page in pages:
                for entry in page.entries:
                    if (stanza := entry.stanza()) is not None:
                        self.group.applying.accept(self.group.processing.examine(reader._parse(stanza), now), now)
        return self.group.join_requests.ask(now)

    async def post(self, *found: elements.RoomElement) -> None:
        await self.muc.send(children(found), message_id=str(uuid4()))


async def seat(cast: Cast, server: DevServer, owner: Person, room: str, name: str = "mallory") -> Person:
    """Somebody whom the room lets in: an honest account of its own, which is not in the group."""
    person = await cast.person(server, name)
    await owner.room(room).muc.affiliations.grant_membership([person.account])
    return person


def names(person: Person) -> set[str]:
    return {f"{member.account}/{member.device}" for member in person.room().members}


async def refused(*people: Person, count: int = 1) -> set[str]:
    """The rules by which the last Commits were refused, by everybody."""
    found: set[str] = set()
    for person in people:
        await person.until(lambda person=person: len(person.got("mls_rejected")) >= count)  # type: ignore[misc]
        errors = [event.error for event in person.got("mls_rejected")]
        found |= {error.rule if isinstance(error, PolicyViolation) else type(error).__name__ for error in errors}
    return found


async def test_an_occupant_does_not_become_administrator_by_the_name_of_one(server: DevServer, cast: Cast) -> None:
    """External Commit as a made-up device of hers, then her removal and another policy by that device."""
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    before, policy, epoch = names(alice), alice.room().policy, alice.room().epoch
    mallory = await seat(cast, server, alice, room)
    impostor = Impostor(mallory, room, alice.account)
    await impostor.sit_down()
    outgoing, ghost = await impostor.external_commit(bob)
    roster = Roster.of(ghost.members())
    items = await KeyPackageDirectory(mallory.client).items(mallory.account)
    package = next(map(parse_key_package, items.values()))
    coup: list[AnyProposal] = [
        *(Remove(LeafIndex(leaf)) for leaf in roster.leaves_of(alice.account) if leaf != ghost.own_index),
        Add(package),
        GroupContextExtensions(RoomPolicy(room, (mallory.account,)).replaced_in(ghost.context.extensions)),
    ]
    made = ghost.commit(coup, now=int(time.time()), by_reference=())
    assert made.welcome is not None
    await impostor.post(*outgoing.payloads)
    await impostor.post(
        elements.Commit(ghost.group_id, ghost.epoch, made.commit),
        elements.Welcome(ghost.group_id, ghost.epoch + 1, made.welcome),
    )
    assert "external-join" in await refused(alice, bob, carol)
    for person in (alice, bob, carol):
        assert names(person) == before
        assert (person.room().policy, person.room().epoch) == (policy, epoch)
    await bob.say("secret of bob's, as before")
    await alice.hears("secret of bob's, as before")
    await carol.hears("secret of bob's, as before")
    await alice.room().update()
    await all_agree(alice, bob, carol, epoch=epoch + 1)


@pytest.mark.parametrize("joins", [ExternalJoins.DEVICES, ExternalJoins.ANYBODY], ids=["devices", "anybody"])
async def test_nobody_comes_in_as_another_device_of_who_is_away(
    prosody: DevServer, cast: Cast, joins: ExternalJoins
) -> None:
    """An external Commit in the offline administrator's name silences nobody, for it does not count."""
    room, (bob, alice, carol) = await cast.meet(prosody, "bob", "alice", "carol")
    epoch = 1
    if joins is ExternalJoins.ANYBODY:
        await bob.room().set_policy(replace(bob.room().policy, external_joins=joins))
        await all_agree(bob, alice, carol, epoch=2)
        epoch = 2
    mallory = await seat(cast, prosody, bob, room)
    before = names(alice)
    (own,) = [member.device for member in alice.room().members if member.account == bob.account]
    await bob.log_out()
    first, second = Impostor(mallory, room, bob.account), Impostor(mallory, room, bob.account, own)
    await first.sit_down()
    second.muc = first.muc
    # A made-up device, and one in the place of the real one.
    made = [await each.external_commit(alice) for each in (first, second)]
    for outgoing, _ in made:
        await first.post(*outgoing.payloads)
    assert await refused(alice, carol, count=2) == {"external-join"}
    assert names(alice) == names(carol) == before
    await alice.say("can anybody hear me?")
    await carol.hears("can anybody hear me?")
    await bob.connect()
    await bob.joined(room)
    await bob.hears("can anybody hear me?")
    await all_agree(alice, bob, carol, epoch=epoch)


async def test_a_newcomer_has_no_rights_and_every_member_may_see_it_off(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.room().set_policy(replace(alice.room().policy, external_joins=ExternalJoins.ANYBODY))
    await all_agree(alice, bob, epoch=2)
    erin = await seat(cast, server, alice, room, "erin")
    await asyncio.wait_for(erin.mls.join(room, external=True), 120)
    await all_agree(alice, bob, erin, epoch=3)
    await erin.say("let me introduce myself")
    await bob.hears("let me introduce myself")
    await bob.room().remove(erin.account)  # he has no right to remove anybody else
    await all_agree(alice, bob, epoch=4)
    await erin.until(lambda: not erin.mls.rooms or not erin.room(room).is_member)
    # She does not come back by herself: the group remembers, whoever lets her into the room.
    await alice.room(room).muc.affiliations.grant_membership([erin.account])
    mallory = await seat(cast, server, alice, room)
    impostor = Impostor(mallory, room, erin.account)
    await impostor.sit_down()
    outgoing, _ = await impostor.external_commit(bob)
    await impostor.post(*outgoing.payloads)
    assert "external-join" in await refused(alice, bob)
    # Somebody who may add brings her back, as a member like others.
    result = await alice.room().add(erin.account)
    assert result.added, result
    await erin.joined(room)
    await all_agree(alice, bob, erin, epoch=5)


@pytest.mark.parametrize("same_id", [False, True], ids=["another id", "the same id"])
async def test_nobody_leads_the_invited_into_another_group(prosody: DevServer, cast: Cast, same_id: bool) -> None:
    """mls, "Adding People": KeyPackages and group ids are public; the invitation says who adds, and to which group."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    carol = await cast.person(prosody, "carol")
    mallory = await seat(cast, prosody, alice, room)
    await alice.room().muc.affiliations.grant_membership([carol.account])
    place = await alice.room().muc.archive.last_id()
    impostor = Impostor(mallory, room, mallory.account)
    await impostor.sit_down()
    genuine, now = alice.room().group.mls, int(time.time())
    items = await KeyPackageDirectory(mallory.client).items(carol.account)
    packages = map(parse_key_package, items.values())
    package = next(each for each in packages if each.cipher_suite == genuine.suite.id)
    group_id = genuine.group_id if same_id else b"another group"
    group = Group.create(
        impostor.device.key_packages.make(genuine.suite, now),
        group_id,
        extensions=group_extensions(RoomPolicy(room, (mallory.account,))),
    )
    made = group.finish_commit(group.draft_commit([Add(package)], now=now))
    assert made.welcome is not None
    await impostor.post(elements.Commit(group_id, 0, made.commit), elements.Welcome(group_id, 1, made.welcome))
    await alice.room().muc.invite(carol.account, [elements.Invitation(genuine.group_id, place).to_stdlib()])
    rejected = await carol.next("mls_rejected")
    assert "no invitation names" in str(rejected.error)
    assert (await alice.room().add(carol.account)).added
    await carol.joined(room)
    await all_agree(alice, bob, carol)
    assert carol.room().accounts == sorted(each.account for each in (alice, bob, carol))


async def test_of_two_invitations_the_application_chooses_one(server: DevServer, cast: Cast) -> None:
    """mls, "Being Invited": mallory posts a Welcome into a group of its own, and invites to it, as alice does."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    carol = await cast.person(server, "carol", accept_invitation=lambda _: False)
    mallory = await seat(cast, server, alice, room)
    await alice.room().muc.affiliations.grant_membership([carol.account])
    place = await alice.room().muc.archive.last_id()
    impostor = Impostor(mallory, room, mallory.account)
    await impostor.sit_down()
    suite, now = alice.room().group.mls.suite, int(time.time())
    items = await KeyPackageDirectory(mallory.client).items(carol.account)
    packages = map(parse_key_package, items.values())
    package = next(each for each in packages if each.cipher_suite == suite.id)
    own = impostor.device.key_packages.make(suite, now)
    group = Group.create(own, b"another group", extensions=group_extensions(RoomPolicy(room, (mallory.account,))))
    made = group.finish_commit(group.draft_commit([Add(package)], now=now))
    assert made.welcome is not None
    false = [elements.Commit(b"another group", 0, made.commit), elements.Welcome(b"another group", 1, made.welcome)]
    await impostor.post(*false)
    assert (await alice.room().add(carol.account)).added
    await impostor.muc.invite(carol.account, [elements.Invitation(b"another group", place).to_stdlib()])
    await carol.until(lambda: len(carol.mls.invitations) == 2)
    with pytest.raises(SeveralInvitations) as caught:
        await carol.mls.join(room)
    assert sorted(caught.value.inviters) == sorted([alice.account, mallory.account])
    assert len(carol.mls.invitations) == 2
    async with asyncio.timeout(SECONDS):
        await carol.mls.join(room, inviter=alice.account)
    await all_agree(alice, bob, carol)
    assert carol.room().accounts == sorted(each.account for each in (alice, bob, carol))
