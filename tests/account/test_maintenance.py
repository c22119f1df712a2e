"""What is due when: the age of leaves, KeyPackages, and clocks that jump; without servers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import Device, KeyPackageSettings
from slixmpp_mls.client.storage.leaf_ages import LeafAge, RenewalSettings, fraction
from slixmpp_mls.client.storage.records import NEW_ROOM, OUTSIDE, ROOMS, SPENT, AskRecord, OutsideRecord, Spaces
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.mls.structures.leaf_node import KeyPackageSource
from slixmpp_mls.mls.structures.proposals import Add
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from slixmpp_mls.policy import RoomPolicy, return_key_of
from slixmpp_mls.runtime.clock import JUMP, UNSTEADY, SteadyClock
from slixmpp_mls.store import MemoryStore, SQLiteStore
from slixmpp_mls.testing import NOW, Participant, World

from ..client.people import ALICE, BOB, CAROL, three

SETTINGS = RenewalSettings()


# --- when keys are renewed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "policy", "spread", "now", "sent", "why"),
    [
        (LeafAge(0, 1), 0, 0.0, 6 * DAY, 0, None),
        (LeafAge(0, 1), 0, 0.0, 7 * DAY, 0, None),
        (LeafAge(0, 1), 0, 0.0, 7 * DAY + 1, 0, "age"),
        (LeafAge(0, 1), 0, 1.0, int(5.25 * DAY) + 1, 0, "age"),  # up to a quarter sooner
        (LeafAge(0, 1), 0, 1.0, int(5.25 * DAY) - 1, 0, None),
        (LeafAge(0, 1), 4 * DAY, 0.0, 3 * DAY, 0, None),
        (LeafAge(0, 1), 4 * DAY, 0.0, 3 * DAY + 1, 0, "age"),  # three quarters of what the policy allows
        (LeafAge(0, 1), 4 * DAY, 1.0, int(2.25 * DAY) + 1, 0, "age"),
        (LeafAge(0, 1), 90 * DAY, 0.0, 7 * DAY + 1, 0, "age"),  # a generous policy delays nothing
        (LeafAge(0, 1), 0, 0.0, 2, 999, None),
        (LeafAge(0, 1), 0, 0.0, 2, 1000, "use"),
        (LeafAge(0, 1, 900), 0, 0.0, 2, 99, None),
        (LeafAge(0, 1, 900), 0, 0.0, 2, 100, "use"),
        (LeafAge(30 * DAY, 1), 0, 0.5, 30 * DAY, 0, None),  # overdue on arrival: spread over a day
        (LeafAge(30 * DAY, 1), 0, 0.5, 30 * DAY + DAY // 2, 0, "age"),
        (LeafAge(30 * DAY, 1), 4 * HOUR, 1.0, 30 * DAY + 3 * HOUR, 0, "age"),  # but never longer than the policy
        (LeafAge(DAY, 0), 0, 0.5, DAY, 0, None),
        (LeafAge(DAY, 0), 0, 0.5, DAY + HOUR // 2, 0, "last-resort"),
        (LeafAge(9 * DAY, 9 * DAY), 0, 0.0, 9 * DAY - HOUR, 0, None),  # clocks differ a little
        (LeafAge(9 * DAY, 9 * DAY), 0, 0.0, 9 * DAY - HOUR - 1, 0, "age"),  # made in the future: a clock was set back
    ],
)
def test_when_keys_are_renewed(age: LeafAge, policy: int, spread: float, now: int, sent: int, why: str | None) -> None:
    assert age.why(SETTINGS, policy, spread, now, sent) == why
    assert LeafAge.decode(age.encode(), age.came) == age


def test_a_thousand_members_that_joined_together_are_spread() -> None:
    """At most a few in the same minute, from the first to the last over almost two days."""
    came = LeafAge(NOW, NOW)
    due = [
        came.due(SETTINGS, 0, fraction(b"group", ClientIdentity(f"witch{number}@a.example", "device")))
        for number in range(1000)
    ]
    assert max(Counter(at // 60 for at in due).values()) <= 6
    assert min(due) >= NOW + 5.25 * DAY
    assert max(due) <= NOW + 7 * DAY
    assert max(due) - min(due) > 1.6 * DAY
    shares = [fraction(group, ClientIdentity(ALICE, "device")) for group in (b"", b"a", b"b")]
    assert len(set(shares)) == 3  # the same device is not due in all its groups at once
    assert all(0 <= share < 1 for share in shares)


def age_of(person: Participant) -> LeafAge:
    with person.store.transaction() as transaction:
        value = transaction.get(f"renewed/{person.world.room.jid}", str(person.device.identity).encode())
    return LeafAge.decode(value, person.group.room_state.record.joined)


def test_messages_are_counted_over_epochs_that_others_begin_and_over_restarts() -> None:
    world, alice, bob, _ = three()
    settings = RenewalSettings(uses=6)
    for count in (2, 3):
        for _ in range(count):
            alice.send(b"Double, double")
        bob.commit()
        world.settle()
    alice.restart()
    assert age_of(alice).sent == 5
    assert alice.group.members.renewal_due(settings, world.now) is None
    alice.send(b"toil and trouble")
    assert alice.group.members.renewal_due(settings, world.now) == "use"
    world.settle()
    alice.commit()
    world.settle()
    assert alice.group.members.renewal_due(settings, world.now) is None
    assert age_of(alice).sent == 0
    assert bob.group.members.renewal_due(settings, world.now) is None


def test_a_commit_of_ours_whatever_it_is_for_makes_our_keys_young() -> None:
    world, alice, bob, _ = three()
    world.now += 8 * DAY
    assert alice.group.members.renewal_due(SETTINGS, world.now) == "age"
    alice.commit(*alice.removing(CAROL))
    world.settle()
    assert alice.group.members.renewal_due(SETTINGS, world.now) is None
    assert bob.group.members.renewal_due(SETTINGS, world.now) == "age"


def test_members_ages_are_known_by_the_rooms_clock() -> None:
    """Who reads a week later what was done in time takes nobody for silent, and who forgets nobody for young."""
    world, alice, bob, carol = three()
    bob.commit()
    world.room.deliver_all()
    done = world.now + 100
    late = [replace(incoming, stamp=float(done)) for incoming in world.room.read(ALICE, alice.group.cursor)]
    world.now += 20 * DAY
    for incoming in late:
        alice.take(incoming)
    renewed = {member.account: member.renewed for member in alice.group.members.all()}
    assert renewed == {ALICE: NOW, BOB: done, CAROL: NOW}
    bob.read()
    carol.read()
    alice.commit(*alice.removing(BOB))
    world.settle()
    with alice.store.transaction() as transaction:
        assert {key.decode().partition("/")[0] for key, _ in transaction.items(f"renewed/{world.room.jid}")} == {
            ALICE,
            CAROL,
        }
    alice.group.lifecycle.give_up()
    with alice.store.transaction() as transaction:
        assert not list(transaction.items(f"renewed/{world.room.jid}"))


def test_who_is_removed_and_added_by_one_commit_has_come_by_it() -> None:
    """Its new leaf may be to the left of its old one."""
    world, alice, _, carol = three()
    alice.commit(*alice.removing(BOB))
    world.settle()
    before = alice.group.roster.leaf_of(carol.device.identity)
    found = world.directory.find(CAROL, alice.group, world.now)[carol.device.identity]
    alice.commit(*alice.removing(CAROL), Add(found.key_package))
    world.settle()
    assert world.now == NOW
    after = alice.group.roster.leaf_of(carol.device.identity)
    assert after is not None
    assert before is not None
    assert after < before
    assert alice.group.members.renewed(carol.device.identity) == NOW


def test_a_member_by_a_key_package_of_last_resort_renews_its_keys_soon() -> None:
    """RFC 9750 5.1: the same keys may have been used to add it elsewhere."""
    world = World(settings=KeyPackageSettings(count=0))
    _, bob = world.group(ALICE, BOB)
    assert bob.group.members.renewal_due(SETTINGS, world.now + HOUR) == "last-resort"
    assert bob.group.members.renewal_due(SETTINGS, world.now - 1) is None
    bob.commit()
    world.settle()
    assert bob.group.members.renewal_due(SETTINGS, world.now + HOUR) is None


def test_keys_are_as_old_as_their_key_package() -> None:
    world = World()
    bob = world.person(BOB)
    world.now += 10 * DAY
    (alice,) = world.group(ALICE)
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert bob.group.members.renewal_due(SETTINGS, world.now + DAY) == "age"
    assert alice.group.members.renewal_due(SETTINGS, world.now + DAY) is None


def test_the_policy_of_the_group_counts() -> None:
    world = World()
    alice, bob = world.group(ALICE, BOB, policy=RoomPolicy("coven@rooms.example", (ALICE,), max_leaf_age=2 * DAY))
    for person in (alice, bob):
        assert person.group.members.renewal_due(SETTINGS, world.now + DAY) is None
        assert person.group.members.renewal_due(SETTINGS, world.now + int(1.5 * DAY) + 1) == "age"


# --- KeyPackages -----------------------------------------------------------------------------------


class Directory:
    """A directory that does as it is told, for one device."""

    def __init__(self, settings: KeyPackageSettings | None = None) -> None:
        self.store = MemoryStore(ALICE)
        self.settings = settings or KeyPackageSettings(count=3)
        self.device = Device(self.store, settings=self.settings)
        self.items: dict[bytes, Any] = {}
        self.now = NOW

    def look(self, now: int | None = None) -> tuple[int, int]:
        """How many were published and retracted."""
        self.now = self.now if now is None else now
        plan = self.device.key_packages.plan(self.items, self.now)
        self.items |= {package.reference: package for package in plan.publish}
        for reference in plan.retract:
            del self.items[reference]
        return len(plan.publish), len(plan.retract)

    @property
    def kept(self) -> set[bytes]:
        """References of those whose private keys are there."""
        with self.store.transaction() as transaction:
            return {reference for reference, _ in transaction.items("key-package")}

    def bundle(self, *, last_resort: bool = False) -> KeyPackageBundle:
        with self.store.transaction() as transaction:
            reference = next(r for r, package in self.items.items() if package.last_resort == last_resort)
            found = self.device.key_packages.find(transaction, [reference])
        assert found is not None
        return found

    def use(self, bundle: KeyPackageBundle) -> None:
        with self.store.transaction() as transaction:
            self.device.key_packages.use_up(transaction, bundle, self.now)

    def request(self, room: str | None, when: int = NOW) -> KeyPackageBundle:
        """The KeyPackage of a request to be added, and the room that waits for an answer."""
        bundle = self.device.key_packages.make(CipherSuite.get(1), when)
        with self.store.transaction() as transaction:
            self.device.key_packages.keep_unpublished(transaction, bundle)
            if room is not None:
                ask = AskRecord(0, b"id", b"", bundle.reference, 0, 0)
                transaction.put(ROOMS, room.encode(), NEW_ROOM.encode())
                transaction.put(Spaces.of(room).outside, OUTSIDE, OutsideRecord(asks=(ask,)).encode())
        return bundle

    def restart(self, **settings: Any) -> None:
        self.settings = replace(self.settings, **settings)
        self.device = Device(self.store, settings=self.settings)


def test_they_are_made_once_and_replaced_in_time() -> None:
    directory = Directory()
    assert directory.look() == (4, 0)
    first = set(directory.items)
    assert directory.look() == (0, 0)
    assert directory.look(NOW + 21 * DAY - 1) == (0, 0)
    assert directory.look(NOW + 21 * DAY) == (4, 4)
    assert not first & set(directory.items)
    assert first <= directory.kept  # somebody may have fetched one
    assert directory.look(NOW + 28 * DAY + 2 * HOUR) == (0, 0)
    assert first <= directory.kept  # for a day, in which the clock may be set right
    assert directory.look(NOW + 29 * DAY + 3 * HOUR) == (0, 0)
    assert not first & directory.kept


def test_an_ordinary_one_is_offered_once_and_its_private_keys_go_after_a_day() -> None:
    """RFC 9420 16.8, 10; mls-recovery, "Security Considerations": another inviter may have picked the same one."""
    directory = Directory()
    directory.look()
    bundle = directory.bundle()
    directory.use(bundle)
    assert directory.look() == (1, 1)
    assert len(directory.items) == 4
    assert bundle.reference not in directory.items
    directory.now += DAY
    directory.use(bundle)  # for the second time: its day does not begin anew
    directory.device.key_packages.forget_spent(NOW + DAY)
    assert bundle.reference in directory.kept
    directory.device.key_packages.forget_spent(NOW + DAY + 1)  # by a timer, and at a start: no directory is needed
    assert bundle.reference not in directory.kept
    with directory.store.transaction() as transaction:
        assert directory.device.key_packages.find(transaction, [bundle.reference]) is None
    assert set(directory.items) <= directory.kept


def test_the_return_key_of_a_used_one_is_kept_longer() -> None:
    """mls-policy, "Proofs of Admission": it proves that a leaf is ours, and opens nothing."""
    directory = Directory(KeyPackageSettings(count=1, spent=0))
    directory.look()
    bundle, packages = directory.bundle(), directory.device.key_packages
    source = bundle.key_package.leaf_node.source
    assert isinstance(source, KeyPackageSource)
    directory.use(bundle)

    def kept() -> bytes | None:
        with directory.store.transaction() as transaction:
            found = list(packages.spent_return_keys(transaction, [b"another", bundle.reference]))
        return found[0][1].public if found else None

    packages.forget_spent(source.lifetime.not_after + 30 * DAY)
    assert kept() == return_key_of(bundle.key_package.leaf_node)
    with directory.store.transaction() as transaction:
        stored = b"".join(value for _, value in transaction.items(SPENT))
        assert not any(key.encode() in stored for key in (bundle.init_key, bundle.leaf_key, bundle.signature_key))
    packages.forget_spent(source.lifetime.not_after + 30 * DAY + 1)
    assert kept() is None


def test_of_one_that_was_used_before_return_keys_were_kept_only_that_is_known() -> None:
    directory = Directory()
    packages, reference = directory.device.key_packages, b"of version 0.1"
    with directory.store.transaction() as transaction:
        transaction.put(SPENT, reference, NOW.to_bytes(8, "big"))
    packages.forget_spent(NOW + 30 * DAY)
    with directory.store.transaction() as transaction:
        assert packages.is_spent(transaction, [reference])
        assert not list(packages.spent_return_keys(transaction, [reference]))
    packages.forget_spent(NOW + 30 * DAY + 1)
    with directory.store.transaction() as transaction:
        assert not packages.is_spent(transaction, [reference])


def test_spent_ones_are_few() -> None:
    directory = Directory(KeyPackageSettings(count=1))
    for _ in range(80):
        directory.look(directory.now + 1)
        directory.use(directory.bundle())
    directory.look()
    assert len(directory.kept - set(directory.items)) == 64


def test_none_is_kept_if_so_configured() -> None:
    directory = Directory(KeyPackageSettings(count=1, spent=0))
    directory.look()
    bundle = directory.bundle()
    directory.use(bundle)
    assert bundle.reference not in directory.kept


def test_the_one_of_last_resort_is_replaced_after_use_and_kept_for_a_week() -> None:
    """RFC 9750 5.1: Welcomes with it may be under way."""
    directory = Directory()
    directory.look()
    bundle = directory.bundle(last_resort=True)
    directory.use(bundle)
    assert directory.look() == (1, 1)
    assert bundle.reference not in directory.items
    directory.look(NOW + 7 * DAY)
    assert bundle.reference in directory.kept
    directory.look(NOW + 7 * DAY + 1)
    assert bundle.reference not in directory.kept


def test_they_are_replaced_when_we_can_do_more_or_have_another_key() -> None:
    directory = Directory()
    directory.look()
    first = set(directory.items)
    directory.restart()
    assert directory.look() == (0, 0)  # another GREASE value is no change
    directory.restart(suites=(1, 3))
    assert directory.look() == (8, 4)
    assert not first & set(directory.items)
    directory.device.prepare_keys(NOW)
    assert directory.look() == (0, 0)
    directory.device.switch_keys(NOW)
    assert directory.look() == (8, 8)
    keys = {directory.bundle(last_resort=last).signature_key.public for last in (False, True)}
    assert keys == {directory.device.signature_key(CipherSuite.get(1)).public}
    assert len(directory.kept) == 20
    directory.device.drop_former_keys()
    assert directory.kept == set(directory.items)


def test_those_of_requests_are_kept_for_as_long_as_they_are_valid() -> None:
    """mls-recovery, "Rejoining": nobody may be there to answer for weeks."""
    directory = Directory()
    directory.look()
    bundle = directory.request("coven@rooms.example")
    for day in range(28):
        directory.look(NOW + day * DAY)
        directory.device.key_packages.forget_spent(directory.now)
        assert bundle.reference in directory.kept
        assert bundle.reference not in directory.items
    for when, kept in ((NOW + 29 * DAY, True), (NOW + 30 * DAY, True), (NOW + 30 * DAY + 1, False)):
        directory.look(when)  # for another day: perhaps the clock is wrong
        directory.device.key_packages.forget_spent(when)
        assert (bundle.reference in directory.kept) is kept
    with directory.store.transaction() as transaction:
        assert directory.device.key_packages.is_spent(transaction, [bundle.reference])


def test_those_of_requests_that_nobody_waits_for_any_more_are_kept_for_a_day() -> None:
    """mls-recovery, "Rejoining": a room that is given up, in whatever way, does not keep the keys for weeks."""
    directory = Directory()
    waiting, ended = directory.request("coven@rooms.example"), directory.request(None)
    for when, kept in ((NOW, True), (NOW + DAY, True), (NOW + DAY + 1, False)):
        directory.look(when)
        directory.device.key_packages.forget_spent(when)
        assert (ended.reference in directory.kept) is kept
        assert waiting.reference in directory.kept
    with directory.store.transaction() as transaction:
        assert directory.device.key_packages.is_spent(transaction, [ended.reference])


@pytest.mark.parametrize(("key", "kept"), [(b"coven@rooms.example", True), (b"\xff", False)])
def test_where_a_room_cannot_be_read_no_request_counts_as_ended(key: bytes, kept: bool) -> None:
    """Unless it cannot be a room: stores of older versions may have such a key."""
    directory = Directory()
    ended = directory.request(None)
    with directory.store.transaction() as transaction:
        transaction.put(ROOMS, key, b"")
        transaction.put(Spaces.of("coven@rooms.example").outside, OUTSIDE, b"of another version")
    directory.device.key_packages.forget_spent(NOW)
    directory.device.key_packages.forget_spent(NOW + 2 * DAY)
    assert (ended.reference in directory.kept) is kept


def test_those_of_requests_that_a_wrong_clock_has_made_are_not_kept_for_years() -> None:
    directory = Directory()
    bundle = directory.request("coven@rooms.example", NOW + 3650 * DAY)
    for when, kept in ((NOW, True), (NOW + DAY, True), (NOW + DAY + 1, False)):
        directory.device.key_packages.forget_spent(when)
        assert (bundle.reference in directory.kept) is kept


def test_many_requests_displace_no_key_packages_of_the_directory() -> None:
    """A bot that has lost all its rooms returns to them at the same time."""
    directory = Directory()
    directory.look()
    used = directory.bundle()
    directory.use(used)
    bundles = [directory.request(None) for _ in range(600)]
    with directory.store.transaction() as transaction:
        directory.device.key_packages.withdraw(transaction, (each.reference for each in bundles), NOW)
    assert used.reference in directory.kept
    assert len(directory.kept & {each.reference for each in bundles}) == 512


def test_used_ones_are_kept_for_as_long_as_the_settings_say() -> None:
    directory = Directory(KeyPackageSettings(count=1, spent=7 * DAY))
    directory.look()
    bundle = directory.bundle()
    directory.use(bundle)
    for day in range(8):
        directory.look(NOW + day * DAY)
        assert bundle.reference in directory.kept
    directory.look(NOW + 7 * DAY + 1)
    assert bundle.reference not in directory.kept


def test_those_of_requests_that_have_ended_are_kept_like_used_ones() -> None:
    directory = Directory()
    bundle = directory.device.key_packages.make(CipherSuite.get(1), NOW)
    with directory.store.transaction() as transaction:
        directory.device.key_packages.keep_unpublished(transaction, bundle)
        directory.device.key_packages.withdraw(transaction, [b"another one", bundle.reference], NOW)
    directory.device.key_packages.forget_spent(NOW + DAY)
    assert bundle.reference in directory.kept
    directory.device.key_packages.forget_spent(NOW + DAY + 1)
    assert bundle.reference not in directory.kept
    with directory.store.transaction() as transaction:
        assert directory.device.key_packages.is_spent(transaction, [bundle.reference])
        assert list(directory.device.key_packages.spent_return_keys(transaction, [bundle.reference]))


@pytest.mark.parametrize("jump", [40 * DAY, 4 * 365 * DAY, -40 * DAY, -NOW + 5], ids=["month", "years", "back", "1970"])
@pytest.mark.parametrize("looks", [1, 20])
def test_a_clock_that_is_wrong_for_less_than_a_day_destroys_nothing(jump: int, looks: int) -> None:
    directory = Directory()
    directory.look()
    first = set(directory.items)
    for number in range(looks):
        directory.look(NOW + jump + number * HOUR)
        assert len(directory.items) == 4  # there are always some that are good by our clock
        assert first <= directory.kept
    directory.look(NOW + looks * HOUR)
    assert set(directory.items) == first
    # What was made while it was wrong does not stay for ever.
    for day in range(1, 4):
        directory.look(NOW + looks * HOUR + day * DAY + day)
    assert directory.kept == first


def test_under_any_wandering_of_the_clock_there_are_enough_and_not_more_and_more() -> None:
    """Whatever the clock does: after each look the directory is full, and what is kept is bounded in the end."""
    for seed in range(10):
        chance = random.Random(seed)
        directory = Directory(KeyPackageSettings(count=2))
        for _ in range(60):
            step = chance.choice([HOUR, DAY, 9 * DAY, 100 * DAY, -HOUR, -3 * DAY, -200 * DAY])
            directory.look(max(1, directory.now + step))
            assert len(directory.items) == 3
            assert set(directory.items) <= directory.kept
        for _ in range(40):
            directory.look(directory.now + DAY + 1)
        assert len(directory.kept) <= 2 * 3


def test_what_is_deleted_cannot_be_read_on_the_disk(tmp_path: Any) -> None:
    """RFC 9420 9.2, 16.8: private keys of used KeyPackages, old signature keys, what an ended epoch had."""
    path = tmp_path / "alice.db"
    world = World(settings=KeyPackageSettings(count=1))
    store = SQLiteStore(path, BOB)
    (alice,) = world.group(ALICE)
    bob = world.person(BOB, store)

    def on_disk() -> bytes:
        store.scrub()
        return b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))

    with store.transaction() as transaction:
        bundles = [bundle for _, _, bundle in bob.device.key_packages._records(transaction)]
    used = next(bundle for bundle in bundles if not bundle.last_resort)
    old_key = bob.device.signature_key(CipherSuite.get(1)).encode()
    assert used.init_key.encode() in on_disk()
    assert old_key in on_disk()
    alice.commit(*alice.adding(BOB))
    world.settle()
    assert used.init_key.encode() in on_disk()  # for a day
    bob.device.key_packages.forget_spent(world.now + DAY + 1)
    assert used.init_key.encode() not in on_disk()
    leaf_key = used.leaf_key.encode()
    assert leaf_key in on_disk()  # the present leaf's
    epoch_secrets = bob.group.mls.secrets.encode()
    bob.device.prepare_keys(bob.world.now)
    bob.device.switch_keys(world.now)
    bob.commit()
    world.settle()
    assert leaf_key not in on_disk()
    assert old_key in on_disk()  # in KeyPackages
    world.directory.replenish(bob.device, world.now)
    bob.device.drop_former_keys()
    assert old_key not in on_disk()
    bob.group.lifecycle.tidy(world.now + HOUR + 1)  # the time for late messages of the epoch before is over
    assert epoch_secrets not in on_disk()
    assert bob.group.mls.past == ()
    store.close()


# --- the clock -------------------------------------------------------------------------------------


class Times:
    def __init__(self) -> None:
        self.wall = float(NOW)
        self.monotonic = 1000.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_a_clock_that_goes_its_way_is_steady() -> None:
    times = Times()
    times.clock.begin(NOW - 400 * DAY)  # a long time off is no jump
    for _ in range(100):
        times.go(60)
        times.wall += 10  # set a little now and then
        assert times.clock.look() == 0
        assert times.clock.steady


@pytest.mark.parametrize("jump", [JUMP + 1, -JUMP - 1, 365 * DAY, -365 * DAY])
def test_a_clock_that_jumps_is_not_steady_for_a_while(jump: int) -> None:
    times = Times()
    times.clock.begin(None)
    times.go(60)
    times.wall += jump
    assert times.clock.look() == pytest.approx(jump)
    assert not times.clock.steady
    times.go(UNSTEADY - 1)
    assert times.clock.look() == 0
    assert not times.clock.steady
    times.wall -= jump  # it is set right, which is a jump again
    assert times.clock.look() == pytest.approx(-jump)
    times.go(UNSTEADY)
    assert times.clock.look() == 0
    assert times.clock.steady


def test_a_clock_behind_an_earlier_run_is_not_steady_at_first() -> None:
    times = Times()
    times.clock.begin(NOW + JUMP + 1)
    assert not times.clock.steady
    times.go(UNSTEADY)
    assert times.clock.steady
