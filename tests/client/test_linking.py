"""A key of one group mixed into another (RFC 9420 8.4, 8.6; RFC 9750 6.2): a room's group, without I/O."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from slixmpp_mls.client import GroupChanged, Rejected
from slixmpp_mls.client.group.actions import MoveOn
from slixmpp_mls.client.group.resumption_psks import Awaited, OtherGroups
from slixmpp_mls.errors import UsageError
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.registry import ProtocolVersion
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.proposals import PreSharedKey
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.structures.welcome import MAX_PSKS, EncryptedGroupSecrets, GroupSecrets, Welcome
from slixmpp_mls.rooms.psk_link import _injection
from slixmpp_mls.stanza import elements
from slixmpp_mls.store.interface import Store
from slixmpp_mls.testing import Participant, World

from .people import ALICE, BOB, CAROL, DAVE, MALLORY, only

ROOM, CELLAR = "coven@rooms.example", "cellar@rooms.example"


class Two:
    """The same people in two rooms."""

    def __init__(self, *accounts: str, below: tuple[str, ...] = (ALICE, BOB, CAROL)) -> None:
        self.above = World(room=ROOM)
        self.above.group(*(accounts or below))
        self.below = World(room=CELLAR)
        self.below.directory = self.above.directory
        stores = {person.account: person.store for person in self.above.people}
        first = self._come(below[0], stores)
        for account in below[1:]:
            self._come(account, stores)
        first.group.lifecycle.create(1, self.below.open_policy(*below), self.below.now)
        first.commit(*(add for account in below[1:] for add in first.adding(account)))
        self.below.settle()
        for person in (*self.above.people, *self.below.people):
            person.events.clear()

    def _come(self, account: str, stores: dict[str, Store]) -> Participant:
        return self.below.person(account, stores.get(account))

    def pair(self, account: str) -> tuple[Participant, Participant]:
        return tuple(  # type: ignore[return-value]
            next(person for person in world.people if person.account == account) for world in (self.above, self.below)
        )

    def link(self, account: str = ALICE) -> None:
        above, below = self.pair(account)
        below.commit(*_injection(below.group, above.group))


def test_a_key_of_one_group_goes_into_the_other() -> None:
    two = Two()
    before = two.pair(BOB)[1].epoch
    two.link()
    two.below.settle()
    assert two.below.agree()
    for person in two.below.people:
        assert only(person.events, GroupChanged).epoch == before + 1
        assert not person.said(Rejected)
    two.pair(CAROL)[1].send(b"hail")
    two.below.settle()
    assert two.pair(ALICE)[1].texts == [b"hail"]


def test_a_member_without_the_other_groups_key_cannot_follow() -> None:
    """It is really needed: a member who knows all of the group, and nothing of the other one, is locked out."""
    two = Two()
    above, below = two.pair(CAROL)
    above.group.lifecycle.give_up()
    two.link()
    two.below.settle()
    assert "a PSK that we do not have" in str(only(below.events, Rejected).error)
    assert below.epoch == two.pair(ALICE)[1].epoch - 1


def test_an_epoch_that_the_other_room_has_not_reached_is_waited_for() -> None:
    two = Two()
    alice, _ = two.pair(ALICE)
    bob, below = two.pair(BOB)
    alice.commit()
    two.above.room.deliver_all()
    alice.read()
    two.link()
    two.below.room.deliver_all()
    (incoming,) = two.below.room.read(BOB, below.group.cursor)
    step = below.group.processing.examine(incoming, two.below.now)
    assert step.awaits == Awaited(ROOM, alice.epoch)
    bob.read()
    step = below.group.processing.examine(incoming, two.below.now)
    assert (step.awaits, type(step.action)) == (None, MoveOn)
    two.above.settle()
    two.below.settle()
    assert two.below.agree()


def test_after_a_restart_and_some_epochs_it_is_the_same() -> None:
    """RFC 9420 8.6: PSKs of the last 16 epochs are there, in the store; older ones are not, and nobody waits."""
    two = Two()
    bob, below = two.pair(BOB)
    carol, slow = two.pair(CAROL)
    two.link()
    for person in (bob, carol):
        for _ in range(16 if person is bob else 1):
            person.commit()
            two.above.settle()
    bob.restart()
    below.restart()
    two.below.settle()
    two.above.settle()
    assert bob.epoch == carol.epoch == 18
    for person in (below, slow):
        assert "a PSK that we do not have" in str(only(person.events, Rejected).error)
    two.link()
    for _ in range(15):
        bob.commit()
        two.above.settle()
    slow.restart()
    two.below.settle()
    assert not two.pair(ALICE)[1].said(Rejected)


def test_just_in_time() -> None:
    two = Two()
    bob, below = two.pair(BOB)
    two.link()
    for _ in range(16):
        bob.commit()
        two.above.settle()
    below.restart()
    two.below.settle()
    assert not below.said(Rejected)
    assert two.below.agree()


def test_several_stanzas_in_one_step() -> None:
    """A batch of stanzas is one transaction of the store, in which the other group is looked up."""
    two = Two()
    two.link()
    two.below.room.deliver_all()
    bob = two.pair(BOB)[1]
    with bob.group.room_state.together(lasting=False):
        bob.read()
    assert not bob.said(Rejected)
    two.below.settle()
    assert two.below.agree()


def test_strangers_are_named_and_nothing_happens() -> None:
    two = Two(ALICE, BOB)
    above, below = two.pair(ALICE)
    with pytest.raises(UsageError, match=f"not in the group in {ROOM}.*: {CAROL}/"):
        _injection(below.group, above.group)
    with pytest.raises(UsageError, match="a member"):
        _injection(below.group, two.below.person(DAVE).group)


def test_an_account_being_added_is_not_locked_out_by_it() -> None:
    two = Two()
    two.below.person(DAVE)
    _, bob = two.pair(BOB)
    bob.propose(bob.adding(DAVE)[0])
    two.below.settle()
    two.link()
    two.below.settle()
    assert two.below.agree()
    assert not two.pair(ALICE)[1].group.roster.has(DAVE)
    two.pair(ALICE)[1].commit(*two.pair(ALICE)[1].adding(DAVE))
    two.below.settle()
    assert two.pair(ALICE)[1].group.roster.has(DAVE)
    assert two.below.agree()


@pytest.mark.parametrize("foreign", [True, False])
def test_nobody_commits_anothers_wish_for_a_psk_that_some_may_lack(foreign: bool) -> None:
    """It would divide the group.  One of the group itself is no danger."""
    two = Two()
    above, below = two.pair(BOB)
    source = (above if foreign else below).group.mls
    nonce = bytes(source.suite.hash_length)
    name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, source.group_id, source.epoch)
    below.propose(PreSharedKey(PreSharedKeyID(name, nonce)))
    two.below.settle()
    alice, (_, carol) = two.pair(ALICE)[1], two.pair(CAROL)
    alice.commit()
    two.below.room.deliver_all()
    (incoming,) = two.below.room.read(CAROL, carol.group.cursor)
    step = carol.group.processing.examine(incoming, two.below.now)
    assert isinstance(step.action, MoveOn)
    assert len(step.action.staged.effects.psks) == (0 if foreign else 1)
    two.below.settle()
    assert two.below.agree()


def test_what_there_is_to_find() -> None:
    two = Two()
    above, below = two.pair(ALICE)
    found = OtherGroups(below.device.store, below.device.parameters, CELLAR)
    group = above.group.mls
    usage = ResumptionPSKUsage.APPLICATION
    assert found.psk(ResumptionPSK(usage, group.group_id, group.epoch)) == group.resumption_psk(group.epoch)
    assert found.psk(ResumptionPSK(usage, group.group_id, 0)) == group.resumption_psk(0)
    assert found.psk(ResumptionPSK(usage, b"unknown", 0)) is None
    assert found.psk(ExternalPSK(b"a secret of old")) is None
    assert found.awaited is None
    assert found.group(group.group_id) is not None
    assert found.group(below.group.mls.group_id) is None  # no *other* group
    assert found.psk(ResumptionPSK(usage, group.group_id, 9)) is None
    assert found.awaited == Awaited(ROOM, 9)


def welcome_with_psks(member: Participant, outsider: Participant, epochs: list[int]) -> list[elements.RoomElement]:
    """What anybody in a room can make for a KeyPackage: a Welcome that names PSKs of another room's group.

    :param member: in the other room, the same client as `outsider`
    :param epochs: of the other room's group, one for each PSK
    """
    group = member.group.mls
    suite = group.suite
    bundle = outsider.device.key_packages.make(suite, outsider.world.now)
    with outsider.device.store.transaction() as transaction:
        outsider.device.key_packages.keep_unpublished(transaction, bundle)
    names = [ResumptionPSK(ResumptionPSKUsage.APPLICATION, group.group_id, epoch) for epoch in epochs]
    psks = tuple(PreSharedKeyID(name, bytes(suite.hash_length)) for name in names)
    secrets = GroupSecrets(bytes(suite.hash_length), None, psks).encode()
    sealed = suite.encrypt_with_label(bundle.key_package.init_key, "Welcome", b"info", secrets)
    welcome = Welcome(int(suite.id), (EncryptedGroupSecrets(bundle.reference, sealed),), b"info")
    message = MLSMessage(ProtocolVersion.MLS10, welcome).encode()
    return [elements.Commit(b"a group", 0, b"?"), elements.Welcome(b"a group", 1, message)]


def test_a_welcome_that_names_many_psks_restores_no_group_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9420 8.4: anybody in the room can post it, and our other group may be large."""
    two = Two(ALICE, BOB, below=(ALICE, CAROL))
    member = next(person for person in two.above.people if person.account == BOB)
    outsider = two.below.person(BOB, member.store)
    restored: list[object] = []
    restore = Group.restore

    def counted(pieces: Iterable[tuple[bytes, bytes]], parameters: Parameters) -> Group:
        restored.append(pieces)
        return restore(pieces, parameters)

    monkeypatch.setattr(Group, "restore", counted)
    kept = [member.epoch] * MAX_PSKS
    two.below.room.post(welcome_with_psks(member, outsider, kept), MALLORY)
    two.below.room.deliver_all()
    outsider.read()
    assert "PSK" not in str(only(outsider.events, Rejected).error)  # it has all of them
    assert restored == []
    two.below.room.post(welcome_with_psks(member, outsider, [*kept[1:], 1000]), MALLORY)
    two.below.room.deliver_all()
    outsider.read()
    assert len(restored) <= 1
