"""People compare fingerprints, and their devices tell each other of it, inside the encryption (XEP-0450)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest
from lxml import etree

from slixmpp_mls.authentication import DeviceListService
from slixmpp_mls.delivery import DeviceDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import NotVouchedFor, UsageError
from slixmpp_mls.identity import TrustLevel, key_identifier
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.runtime import DeniedMembers
from slixmpp_mls.stanza.trust_message import KeyOwner, TrustMessage

from .people import Cast, Person, all_agree, envelope, send_octets

pytestmark = pytest.mark.server

SUITE = CipherSuite.get(1)


def key(person: Person) -> bytes:
    return person.mls.device.signature_key(SUITE).public


def level(person: Person, of: Person) -> TrustLevel:
    return person.mls.trust.level(of.account, key(of))


def has_verified(person: Person, others: Iterable[Person]) -> bool:
    return all(level(person, other) is TrustLevel.VERIFIED for other in others if other is not person)


async def compare(one: Person, other: Person) -> None:
    """Each scans what the other shows."""
    await one.mls.trust.verify(other.account, other.mls.trust.uri())
    await other.mls.trust.verify(one.account, one.mls.trust.uri())


async def say_trust(person: Person, owner: str, *trust: bytes, distrust: tuple[bytes, ...] = ()) -> None:
    """A trust message as a member with other software could send it."""
    xml = etree.tostring(TrustMessage((KeyOwner(owner, trust, distrust),)).to_lxml()).decode()
    await send_octets(person, envelope("", person.account, person.room().jid, xml=xml))


async def test_a_comparison_shows_in_lists_and_events_and_is_nobody_elses_business(
    server: DevServer, cast: Cast
) -> None:
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    levels = {member.account: member.level for member in alice.room().members}
    assert levels == {
        alice.account: TrustLevel.VERIFIED, bob.account: TrustLevel.TRUSTED, carol.account: TrustLevel.TRUSTED,
    }  # fmt: skip
    with pytest.raises(UsageError, match="do not trust them"):
        await alice.mls.trust.verify(bob.account, carol.mls.fingerprint)
    with pytest.raises(UsageError):
        await alice.mls.trust.verify(bob.account, carol.mls.trust.uri())
    assert level(alice, bob) is TrustLevel.TRUSTED

    (known,) = await alice.mls.trust.verify(bob.account, bob.mls.fingerprint)
    assert (known.device, known.fingerprint) == (bob.mls.device_id, bob.mls.fingerprint)
    (changed,) = alice.got("mls_trust_changed")
    assert (changed.key, changed.before) == (known, TrustLevel.TRUSTED)
    assert {member.account for member in alice.room().members if member.level is TrustLevel.VERIFIED} == {
        alice.account, bob.account,
    }  # fmt: skip

    await compare(alice, carol)
    await alice.say("When shall we three meet again")
    await bob.hears("When shall we three meet again")
    assert bob.got("mls_trust_changed") == []
    assert level(bob, carol) is TrustLevel.TRUSTED
    assert alice.mls.room(room).live


async def test_n_people_need_n_minus_1_comparisons(server: DevServer, cast: Cast) -> None:
    """Four people, one of them with two devices, so five keys to know: four comparisons.

    By XEP-0450 alone, each of Alice's devices knows everybody, and everybody both of hers; that the others know
    each other as well is what introductions are for.
    """
    room, (alice, bob, carol, dave) = await cast.meet(server, "alice", "bob", "carol", "dave", introductions=True)
    laptop = await cast.person(server, alice.jid, introductions=True)
    await alice.mls.room(room).add(alice.account)
    await laptop.joined(room)
    everybody = [alice, laptop, bob, carol, dave]
    comparisons = [(alice, laptop), (alice, bob), (alice, carol), (alice, dave)]
    assert len(comparisons) == len(everybody) - 1
    for one, other in comparisons:
        await compare(one, other)
    for person in everybody:
        await person.until(partial(has_verified, person, everybody))
    for person in everybody:
        assert person.bodies == []  # nothing of it is for people to read
        assert not person.got("mls_rejected")
        await person.until_no_doubts()
    await dave.say("The charm is wound up")
    for person in (alice, laptop, bob, carol):
        await person.hears("The charm is wound up")


async def test_two_accounts_with_two_devices_each(server: DevServer, cast: Cast) -> None:
    """XEP-0450 alone: n devices of two accounts, n-1 comparisons; one of them while a device is away."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    laptop, tablet = await cast.person(server, alice.jid), await cast.person(server, bob.jid)
    for owner, other in ((alice, laptop), (bob, tablet)):
        await owner.mls.room(room).add(owner.account)
        await other.joined(room)
    everybody = [alice, laptop, bob, tablet]
    await all_agree(*everybody)
    await compare(alice, laptop)
    await compare(bob, tablet)
    await tablet.log_out()
    await compare(laptop, bob)
    await tablet.connect()
    for person in everybody:
        await person.until(partial(has_verified, person, everybody))


async def test_a_trust_message_from_an_untrusted_key_is_ignored_until_the_key_is_trusted(
    server: DevServer, cast: Cast
) -> None:
    """XEP-0450 5.1; and whose keys somebody is to judge does not depend on who has verified him."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    phone = b"p" * 32
    await say_trust(bob, bob.account, phone, distrust=(key_identifier(key(bob)),))
    await say_trust(bob, carol.account, b"c" * 32, distrust=(key_identifier(key(carol)),))
    await say_trust(bob, alice.account, distrust=(key_identifier(key(alice)),))
    await bob.say("Show me, show me")
    await alice.hears("Show me, show me")
    assert alice.got("mls_trust_changed") == []
    assert {known.level for known in alice.mls.trust.keys(bob.account)} == {TrustLevel.TRUSTED}

    await say_trust(carol, carol.account, phone)
    await carol.say("Thus do go about, about")
    await alice.hears("Thus do go about, about")
    await alice.mls.trust.verify(carol.account, carol.mls.trust.uri())
    changes = [(change.account, change.level) for change in alice.got("mls_trust_changed")]
    assert changes == [(carol.account, TrustLevel.VERIFIED)] * 2  # hers and the one that she has named
    assert level(alice, bob) is TrustLevel.TRUSTED


async def test_distrust_goes_round_and_has_consequences(server: DevServer, cast: Cast) -> None:
    """A stolen tablet: its owner refuses it at one device, and whoever has compared keys with that one follows."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob", denied_members="hold")
    tablet = await cast.person(server, bob.jid)
    await bob.mls.room(room).add(bob.account)
    await tablet.joined(room)
    await all_agree(alice, bob, tablet)
    await compare(bob, tablet)
    await compare(alice, bob)
    await alice.until(lambda: level(alice, tablet) is TrustLevel.VERIFIED)
    await bob.mls.trust.distrust(bob.account, tablet.mls.fingerprint)
    await alice.until(lambda: level(alice, tablet) is TrustLevel.DISTRUSTED)
    doubted = await alice.next("mls_doubted")
    assert (doubted.member.device, doubted.doubt.reason) == (tablet.mls.device_id, "refused")
    await tablet.say("I am he")
    assert (await alice.next("mls_doubted_message")).body == "I am he"
    await say_trust(tablet, bob.account, distrust=(key_identifier(key(bob)),))
    await tablet.say("He is not I")
    await alice.next("mls_doubted_message", after=1)
    assert level(alice, bob) is TrustLevel.VERIFIED
    with pytest.raises(NotVouchedFor):  # whom people refuse has not lapsed
        await alice.say("Be bloody, bold, and resolute")
    alice.reconfigure(denied_members=DeniedMembers.REMOVE)  # as it is by default
    await alice.room().worker.checks.look_again()
    await tablet.next("mls_removed")
    await alice.say("Laugh to scorn the power of man")
    await bob.hears("Laugh to scorn the power of man")


async def test_a_substituted_device_list_cannot_change_a_verified_key(server: DevServer, cast: Cast) -> None:
    """Bob's server lists another key for his device, and one device more: both by his account, as a server could."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.mls.trust.verify(bob.account, bob.mls.trust.uri())
    group, leaf = alice.room(), next(m for m in alice.room().members if m.account == bob.account)
    genuine = key(bob)
    directory = DeviceListService(DeviceDirectory(bob.client))
    false = SUITE.generate_signature_key().public
    await directory.issue(bob.mls.device.identity, {SUITE.signature_scheme: false})
    alice.notify_of_devices(bob.account)
    await group.worker.checks.look_at_account(bob.account)
    assert not group.doubts
    assert leaf.signature_key == genuine
    await alice.say("Is this a dagger")
    await bob.hears("Is this a dagger")
    # The ghost is listed, has KeyPackages, and still nobody lets it in.
    ghost = await cast.person(server, bob.jid)
    result = await group.add(bob.account)
    assert result.added == ()
    assert [event.client.device for event in alice.got("mls_new_key")] == [ghost.mls.device_id]
    assert "has not been verified" in " ".join((*result.failed.values(), *result.skipped.values()))
    # Its owner knows it, compares it once, and then it is welcome.
    await compare(bob, ghost)
    await alice.mls.trust.verify(bob.account, ghost.mls.fingerprint)
    assert (await group.add(bob.account)).added


async def test_a_ghost_that_somebody_else_lets_in_silences_who_has_compared(server: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(server, "alice", "bob", denied_members="hold")
    await compare(alice, bob)
    ghost = await cast.person(server, bob.jid)
    assert (await bob.room().add(bob.account)).added  # bob has compared none of his own
    await ghost.joined(bob.room().jid)
    doubted = await alice.next("mls_doubted")
    assert (doubted.member.device, doubted.doubt.reason) == (ghost.mls.device_id, "not-verified")
    with pytest.raises(NotVouchedFor):
        await alice.say("Avaunt and quit my sight")
    # Bob verifies it at his device, and alice hears of it from his, which she has compared.
    await compare(bob, ghost)
    await alice.until(lambda: not alice.room().doubts)
    await alice.say("Sit, worthy friends")
    await bob.hears("Sit, worthy friends")
    await ghost.hears("Sit, worthy friends")


async def test_a_device_that_renews_its_signature_key_keeps_its_trust(server: DevServer, cast: Cast) -> None:
    """RFC 9420 12.4: the Commit that brings the new key is signed with the old one."""
    _, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    await alice.mls.trust.verify(bob.account, bob.mls.trust.uri())
    old = key(bob)
    await bob.mls.rotate_key()
    assert key(bob) != old
    await all_agree(alice, bob, carol)
    assert not {"mls_key_changed", "mls_doubted"} & {name for person in (alice, carol) for name, _ in person.seen}
    for person, expected in ((alice, TrustLevel.VERIFIED), (carol, TrustLevel.TRUSTED)):
        assert level(person, bob) is expected
        assert person.mls.trust.level(bob.account, old) is TrustLevel.TRUSTED
        assert not person.room().doubts
        await person.say(f"All hail, says {person.jid.user}")
        await bob.hears(f"All hail, says {person.jid.user}")


async def test_a_known_device_with_another_key_is_not_let_in(server: DevServer, cast: Cast) -> None:
    """Outside of a group nobody proves that the new key is the old one's successor; people can."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    group, known = alice.room(), bob.mls.fingerprint
    await group.remove(bob.account)
    await bob.next("mls_removed")
    device = bob.mls.device
    device._signature_keys[SUITE.signature_scheme] = SUITE.generate_signature_key()
    await DeviceListService(DeviceDirectory(bob.client)).issue(device.identity, device.signature_keys())
    await bob.mls.replenish()
    result = await group.add(bob.account)
    assert result.added == ()
    assert "known with another key" in " ".join((*result.failed.values(), *result.skipped.values()))
    (changed,) = alice.got("mls_key_changed")
    assert (changed.client, changed.vouched, changed.accepted) == (device.identity, True, False)
    assert changed.fingerprint == bob.mls.fingerprint != known
    await alice.mls.trust.verify(bob.account, bob.mls.fingerprint)
    assert (await group.add(bob.account)).added
