"""Another cipher suite for a room, and rooms for some of its people, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from slixmpp_mls.client import Device
from slixmpp_mls.client.storage.records import KEY_PACKAGES
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import NotPermitted, PolicyViolation, StanzaTooLarge, SuiteUnsupported, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.proposals import ReInit
from slixmpp_mls.rooms.engine import reinit
from slixmpp_mls.stanza.blob import BlobReference
from slixmpp_mls.stanza.elements import RoomElement, Welcome
from slixmpp_mls.store import MemoryStore

from ..conftest import unique
from .people import SECONDS, Cast, Person, all_agree

PQ = 0xF009  # its signature scheme is ML-DSA-44
SUITES: dict[str, Any] = {"cipher_suites": (1, 2, 3)}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reinit, "OTHERS_CREATE_AFTER", 0.3)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but the committer of the ReInit makes the new group, however slow the machine."""
    monkeypatch.setattr(reinit, "OTHERS_CREATE_AFTER", 300.0)


def check_suite(suite: int, *people: Person) -> None:
    assert {person.room().suite for person in people} == {suite}


async def test_everybody_goes_on_in_a_better_suite(server: DevServer, cast: Cast, patient: None) -> None:
    """Bob is away for all of it, Carol talks all the time."""
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol", **SUITES)
    check_suite(1, alice, bob, carol)
    bob.crash()
    said: list[str] = []

    async def talk() -> None:
        for number in range(30):
            said.append(f"cool it with a baboon's blood {number}")
            await carol.say(said[-1])
            await asyncio.sleep(0.02)

    talking = asyncio.create_task(talk())
    await asyncio.sleep(0.1)
    async with asyncio.timeout(SECONDS):
        assert await alice.room().reinit(2) == 2
    await carol.next("mls_group_continued")
    await talking
    await alice.hears(*said)
    assert len(alice.bodies) == len(set(alice.bodies)) == 30
    (closed,), (continued,) = carol.got("mls_group_closed"), carol.got("mls_group_continued")
    assert (closed.by.account, closed.suite, closed.epoch) == (alice.account, 2, 2)
    assert (continued.by.account, continued.suite, continued.epoch) == (alice.account, 2, 1)
    await bob.connect()
    await bob.next("mls_group_continued")
    await all_agree(alice, bob, carol, epoch=1)
    check_suite(2, alice, bob, carol)
    await bob.hears(*said)
    await bob.say("then the charm is firm and good")
    await alice.hears("then the charm is firm and good")
    await carol.room().update()
    await all_agree(alice, bob, carol, epoch=2)
    for person in (alice, bob, carol):
        assert not person.got("mls_rejected") + person.got("mls_group_lost") + person.got("mls_continuation_delayed")
        # The KeyPackage that let it in is used up.
        await person.mls.replenish()
    # The new group is in the store.
    alice.crash()
    await alice.connect()
    await alice.joined(room)
    await alice.say("double, double")
    await bob.hears("double, double")
    check_suite(2, alice, bob, carol)


async def test_another_goes_on_when_the_initiator_is_gone(
    server: DevServer, cast: Cast, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the ReInit and the creation, she comes back to the group that somebody else has made."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol", **SUITES)
    asking = asyncio.ensure_future(alice.room().reinit(3))
    alice.client.add_event_handler("mls_group_closed", lambda _: alice.crash())
    for person in (bob, carol):
        await person.next("mls_group_closed")
    await bob.say("by the pricking of my thumbs")  # waits for the new group
    for person in (bob, carol):
        continued = await person.next("mls_group_continued")
        assert continued.by.account in (bob.account, carol.account)
    await carol.hears("by the pricking of my thumbs")
    asking.cancel()
    assert not alice.got("mls_group_continued")
    await alice.connect()
    await alice.next("mls_group_continued")
    await all_agree(alice, bob, carol, epoch=1)
    check_suite(3, alice, bob, carol)
    await alice.hears("by the pricking of my thumbs")
    await alice.say("something wicked this way comes")
    await carol.hears("something wicked this way comes")
    assert len({(await person.next("mls_group_continued")).by.account for person in (alice, bob, carol)}) == 1


@pytest.mark.parametrize("suite", [2, PQ])
async def test_nobody_takes_anothers_place_under_another_signature_scheme(
    server: DevServer, cast: Cast, impatient: None, monkeypatch: pytest.MonkeyPatch, suite: int
) -> None:
    """mls-operations, "Which Keys".  The administrator is gone; carol is quicker, with a key of hers in its name."""
    if not CipherSuite.is_supported(suite):
        pytest.skip("OpenSSL has no ML-DSA")
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol", cipher_suites=(1, suite))
    store = MemoryStore(alice.account)
    with store.transaction() as transaction:
        transaction.put("device", b"id", alice.mls.device.identity.device.encode())
    false = Device(store, settings=alice.mls.device.settings)
    assert false.identity == alice.mls.device.identity
    honest, wicked = bob.room().worker.reinitializer, carol.room().worker.reinitializer
    create, read = honest._create, wicked._key_packages

    async def create_later() -> None:
        await bob.next("mls_rejected")
        await create()

    async def read_and_forge(asked: ReInit) -> tuple[list[KeyPackage], list[str]]:
        packages, lacking = await read(asked)
        genuine = [each for each in packages if ClientIdentity.from_leaf(each.leaf_node) != false.identity]
        forged = false.key_packages.make(CipherSuite.get(suite), carol.mls.now).key_package
        assert len(genuine) == 1
        return [forged, *genuine], lacking

    monkeypatch.setattr(honest, "_create", create_later)
    monkeypatch.setattr(wicked, "_key_packages", read_and_forge)
    monkeypatch.setattr(carol.room().group.continuation, "_check", lambda *packages: None)
    asking = asyncio.ensure_future(alice.room().reinit(suite))
    alice.client.add_event_handler("mls_group_closed", lambda _: alice.crash())
    refused = await bob.next("mls_rejected")
    assert refused.claimed == carol.account
    assert isinstance(refused.error, PolicyViolation)
    assert refused.error.rule == "reinit"
    assert (await bob.next("mls_group_continued")).by.account == bob.account
    asking.cancel()
    await alice.connect()
    assert (await alice.next("mls_group_continued")).by.account == bob.account
    await all_agree(alice, bob)
    check_suite(suite, alice, bob)
    await alice.say("i'll drain him dry as hay")
    await bob.hears("i'll drain him dry as hay")


async def test_an_administrator_is_not_left_out_by_a_used_key_package(
    server: DevServer, cast: Cast, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mls-operations, "Left Out".  Carol is quicker, with a KeyPackage of the administrator's whose keys are gone."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol", **SUITES)
    device, suite = alice.mls.device, CipherSuite.get(2)
    used = device.key_packages.make(suite, alice.mls.now)
    with device.store.transaction() as transaction:
        device.key_packages.use_up(transaction, used, alice.mls.now)
        transaction.delete(KEY_PACKAGES, used.reference)
    wicked = carol.room().worker.reinitializer
    read = wicked._key_packages

    async def read_used(asked: ReInit) -> tuple[list[KeyPackage], list[str]]:
        packages, lacking = await read(asked)
        others = [each for each in packages if ClientIdentity.from_leaf(each.leaf_node) != device.identity]
        assert len(others) == 1
        return [used.key_package, *others], lacking

    monkeypatch.setattr(wicked, "_key_packages", read_used)
    for honest in (alice, bob):
        create = honest.room().worker.reinitializer._create

        async def create_later(create: Any = create) -> None:
            await carol.next("mls_group_continued")
            await create()

        monkeypatch.setattr(honest.room().worker.reinitializer, "_create", create_later)
    async with asyncio.timeout(SECONDS):
        assert await alice.room().reinit(2) == 2
    assert (await bob.next("mls_group_continued")).by.account == carol.account
    assert (await alice.next("mls_group_continued")).by.account in (bob.account, carol.account)
    await all_agree(alice, bob, carol, epoch=2)
    check_suite(2, alice, bob, carol)
    assert not alice.got("mls_group_lost")
    await alice.say("now i'll charm the air to give a sound")
    await bob.hears("now i'll charm the air to give a sound")
    await alice.room().remove(carol.account)  # she has all her rights
    await all_agree(alice, bob, epoch=3)


async def test_everybody_is_killed_and_comes_back_later(prosody: DevServer, cast: Cast, impatient: None) -> None:
    """Nobody was there to make the new group; whoever comes back first does."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob", **SUITES)
    for person in (alice, bob):
        person.client.add_event_handler("mls_group_closed", lambda _, person=person: person.crash())
    asking = asyncio.ensure_future(alice.room().reinit(2))
    for person in (alice, bob):
        await person.next("mls_group_closed")
    asking.cancel()
    await bob.connect()
    assert (await bob.next("mls_group_continued")).by.account == bob.account
    await alice.connect()
    await alice.next("mls_group_continued")
    await all_agree(alice, bob, epoch=1)


async def test_a_member_without_the_suite_is_named_and_nothing_happens(prosody: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob", **SUITES)
    carol = await cast.person(prosody, "carol")  # the first suite only
    await alice.room().add(carol.account)
    await carol.joined(room)
    with pytest.raises(SuiteUnsupported) as caught:
        await alice.room().reinit(2)
    assert caught.value.lacking == (f"{carol.account}/{carol.mls.device_id}",)
    assert await alice.room().reinit() is None
    with pytest.raises(UsageError, match="not one of ours"):
        await alice.room().reinit(7)
    with pytest.raises(NotPermitted):
        await bob.room().reinit(2)
    assert not alice.got("mls_group_closed")
    await alice.room().remove(carol.account)
    alice.config["cipher_suites"] = (2, 1)  # what she prefers has changed
    await alice.log_out()
    await alice.connect()
    await alice.joined(room)
    assert await alice.room().reinit() == 2
    await bob.next("mls_group_continued")
    await all_agree(alice, bob, epoch=1)
    check_suite(2, alice, bob)


async def test_a_member_whose_key_packages_are_gone_delays_it(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They vanish between the ReInit and the creation; the group goes on when they are back."""
    monkeypatch.setattr(
        reinit, "OTHERS_CREATE_AFTER", 5.0
    )  # when Bob, who needs none of his own, makes it at the latest
    room, (alice, bob, carol) = await cast.meet(prosody, "alice", "bob", "carol", **SUITES)
    kept = await bob.mls.directory.items()

    async def vanish() -> None:
        await bob.mls.directory.retract_many(list(kept))

    original = alice.mls.room(room).worker.committer.commit

    async def commit(*args: Any, **options: Any) -> Any:
        await vanish()
        return await original(*args, **options)

    alice.mls.room(room).worker.committer.commit = commit  # type: ignore[method-assign]
    asking = asyncio.ensure_future(alice.room().reinit(2))
    delayed = await alice.next("mls_continuation_delayed")
    assert delayed.lacking == (f"{bob.account}/{bob.mls.device_id}",)
    await bob.mls.directory.publish_many(kept)
    async with asyncio.timeout(SECONDS):
        assert await asking == 2
    for person in (bob, carol):
        await person.next("mls_group_continued")
    await all_agree(alice, bob, carol, epoch=1)


async def test_a_room_for_some(server: DevServer, cast: Cast) -> None:
    """Bob is away, and finds himself in it when he comes back."""
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    dave = await cast.person(server, "dave")
    below = f"{unique('cellar')}@{server.rooms}"
    with pytest.raises(UsageError, match=dave.account):
        await alice.room(room).branch(below, bob.account, dave.account)
    bob.crash()
    async with asyncio.timeout(SECONDS):
        group = await alice.room(room).branch(below, bob.account, name="the cellar")
    assert group.accounts == sorted((alice.account, bob.account))
    assert group.epoch == 1
    await bob.connect()
    await bob.joined(below)
    await all_agree(alice, bob, room=below, epoch=1)
    await bob.say("a deed without a name", below)
    await alice.hears("a deed without a name")
    assert below not in carol.mls.rooms
    await group.add(carol.account)
    await carol.joined(below)
    await all_agree(alice, bob, carol, room=below, epoch=2)
    await all_agree(alice, bob, carol, room=room, epoch=1)


def welcome_of(found: Sequence[RoomElement]) -> int:
    return sum(len(element.data) for element in found if isinstance(element, Welcome))


async def test_a_creation_whose_tree_does_not_fit_has_it_uploaded(
    server: DevServer, cast: Cast, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rehearsed with the tree elsewhere, which fits; then made with the tree inside, which does not."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol", **SUITES)
    worker, uploads, sizes = alice.room().worker, alice.mls.uploads, []
    put, places = uploads.put, []

    def check_size(found: Sequence[RoomElement]) -> None:
        if size := welcome_of(found):
            sizes.append(size)
            if len(sizes) == 2:
                raise StanzaTooLarge(300_000, 240_000)

    async def counted(data: bytes) -> BlobReference:
        places.append(await put(data))
        return places[-1]

    monkeypatch.setattr(worker.parts, "fits", check_size)
    monkeypatch.setattr(uploads, "put", counted)
    carol.crash()
    async with asyncio.timeout(SECONDS):
        assert await alice.room().reinit(2) == 2
    assert len(places) == 1
    # At the rehearsal, with the tree inside, with the longest location, and as it is sent: no longer than rehearsed.
    assert len(sizes) == 4
    assert sizes[3] <= sizes[0]
    await bob.next("mls_group_continued")
    await carol.connect()
    await carol.next("mls_group_continued")
    await all_agree(alice, bob, carol, epoch=1)


async def test_a_creation_that_would_never_fit_is_not_begun(
    prosody: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob", **SUITES)

    def check_size(found: Sequence[RoomElement]) -> None:
        raise StanzaTooLarge(300_000, 240_000)

    with monkeypatch.context() as patched:
        patched.setattr(alice.room().worker.parts, "fits", check_size)
        with pytest.raises(StanzaTooLarge):
            await alice.room().reinit(2)
    await alice.say("nothing has happened")
    await bob.hears("nothing has happened")
    assert not bob.got("mls_group_closed")


async def test_leaving_while_the_group_is_closed(prosody: DevServer, cast: Cast, impatient: None) -> None:
    """The request goes into the group that follows."""
    _, (alice, bob, carol) = await cast.meet(prosody, "alice", "bob", "carol", **SUITES)
    leaving: list[asyncio.Task[None]] = []
    carol.client.add_event_handler(
        "mls_group_closed", lambda _: leaving.append(asyncio.create_task(carol.room().leave(patience=SECONDS)))
    )
    async with asyncio.timeout(SECONDS):
        await alice.room().reinit(3)
        await bob.until(lambda: carol.account not in bob.room().accounts)
        await leaving[0]
    assert carol.got("mls_removed")[0].wanted
    await all_agree(alice, bob)
    check_suite(3, alice, bob)
