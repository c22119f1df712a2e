"""Certificates at work on real servers: a room that demands them, bad ones, their renewal, their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from slixmpp_mls.authentication import AllOf, AnyOf, DeviceListService, X509Service
from slixmpp_mls.authentication.key_recording import KeyRecordingService
from slixmpp_mls.client import Member
from slixmpp_mls.delivery import DeviceDirectory, KeyPackageDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DeliveryError, UsageError
from slixmpp_mls.identity.certificate_authority import CertificateAuthority, Request
from slixmpp_mls.identity.certificates import MAX_CHAIN, chain_of
from slixmpp_mls.key_packages.items import parse_item
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.structures.credential import AnyCredential, BasicCredential, Certificate, X509Credential
from slixmpp_mls.policy import RoomPolicy

from ..conftest import unique
from ..x509 import Authority, credential, pem
from .people import Cast, Person, all_agree

DAY = timedelta(days=1)
SUITE = CipherSuite.get(1)


@dataclass
class Coven:
    """People who believe one authority, and a clock for all of them."""

    cast: Cast
    server: DevServer
    folder: Path
    ahead: float = 0.0
    authority: CertificateAuthority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = CertificateAuthority.create(self.folder, "The coven", now=self.now)

    def time(self) -> float:
        return datetime.now(UTC).timestamp() + self.ahead

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def service(self, **options: Any) -> X509Service:
        options = {"crls": self.authority.crl_file, "interval": 0.05, **options}
        return X509Service(self.authority.root_file, clock=self.time, **options)

    def issue(self, person: Person, lifetime: timedelta = 30 * DAY) -> x509.Certificate:
        request = Request.parse(person.mls.certificate_request())
        assert str(request.client) == f"{person.account}/{person.mls.device_id}"
        return self.authority.issue(request, now=self.now, lifetime=lifetime).certificate

    async def person(self, name: str, *, certified: bool = True, **config: Any) -> Person:
        config = {"authentication": self.service(), "clock": self.time, **config}
        person = await self.cast.person(self.server, name, **config)
        if certified:
            await person.mls.use_certificate(pem(self.issue(person)))
        return person

    def policy(self, room: str, *people: Person, **fields: Any) -> RoomPolicy:
        return RoomPolicy(room, tuple(person.account for person in people), x509_only=True, **fields)


@pytest.fixture
def coven(server: DevServer, cast: Cast, tmp_path: Path) -> Coven:
    return Coven(cast, server, tmp_path / "authority")


def certificate_of(person: Person, member: Member) -> x509.Certificate | None:
    """What a person sees in somebody's leaf."""
    leaf = next(leaf for index, leaf in person.room().group.mls.members() if index == member.leaf_index)
    return chain_of(leaf.credential)[0] if isinstance(leaf.credential, X509Credential) else None


def me(person: Person) -> Member:
    return next(member for member in person.room().members if member.device == person.mls.device_id)


async def test_a_room_that_demands_certificates(coven: Coven) -> None:
    alice, bob = await asyncio.gather(coven.person("alice"), coven.person("bob"))
    carol = await coven.person("carol", certified=False)
    room = f"{unique('coven')}@{coven.server.rooms}"
    with pytest.raises(UsageError, match="demands X"):
        await carol.mls.create(room, policy=coven.policy(room, carol))
    group = await alice.mls.create(room, policy=coven.policy(room, alice))  # the room is not there yet
    result = await group.add(bob.account, carol.account)
    assert [member.account for member in result.added] == [bob.account]
    assert result.failed.keys() == {carol.account}
    assert "no X.509 credential" in result.failed[carol.account]
    await bob.joined(room)
    await (await alice.say("Fair is foul")).confirmed
    await bob.hears("Fair is foul")

    await carol.mls.use_certificate(pem(coven.issue(carol)))  # now she has one
    assert not (await group.add(carol.account)).failed
    await carol.joined(room)
    await all_agree(alice, bob, carol)
    for person in (alice, bob, carol):
        names = [certificate_of(alice, member) for member in person.room().members]
        assert all(names)
        assert not person.room().doubts
    await (await carol.say("and foul is fair")).confirmed
    await bob.hears("and foul is fair")


async def test_few_key_packages_are_read_without_a_list_of_devices(coven: Coven) -> None:
    """Nobody lists the devices of these accounts; a post-quantum KeyPackage has some 3.7 kB."""
    suites: dict[str, Any] = {"cipher_suites": (0xF001, 1), "key_packages": 10}
    alice, bob = await asyncio.gather(*(coven.person(name, **suites) for name in ("alice", "bob")))
    assert not await alice.mls.context.devices.items(bob.account)
    before = len(alice.client.received)
    negotiated = await alice.mls.negotiate([bob.account])
    assert (negotiated.suite, negotiated.suspicions) == (0xF001, ())
    assert not any(negotiated.lacking.values())
    # For each suite the one of last resort, and one of ten.
    assert alice.client.received[before:].count(b"<key-package ") == 4
    room = f"{unique('coven')}@{coven.server.rooms}"
    before = len(alice.client.received)
    group = await alice.mls.create(room, policy=coven.policy(room, alice))
    assert [member.account for member in (await group.add(bob.account)).added] == [bob.account]
    assert group.suite == 0xF001
    await bob.joined(room)
    await all_agree(alice, bob)


@pytest.mark.parametrize("number", [2, 3, 4, 5, 7, 0xF005, 0xF009, 0xF00B])
async def test_in_other_cipher_suites(prosody: DevServer, cast: Cast, tmp_path: Path, number: int) -> None:
    """Ed25519 again, Ed448, and ECDSA with each curve; a second suite without a certificate does not disturb."""
    coven = Coven(cast, prosody, tmp_path / "authority")
    suites: dict[str, Any] = {"cipher_suites": (number, 1 if number != 3 else 2)}
    alice, bob = await asyncio.gather(*(coven.person(name, **suites) for name in ("alice", "bob")))
    room = f"{unique('coven')}@{prosody.rooms}"
    group = await alice.mls.create(room, policy=coven.policy(room, alice))
    assert not (await group.add(bob.account)).failed
    await bob.joined(room)
    await bob.mls.use_certificate(pem(coven.issue(bob)))
    await all_agree(alice, bob, epoch=2)
    assert group.group.mls.suite.id == number
    assert not alice.room().doubts
    await (await bob.say("Fair is foul")).confirmed
    await alice.hears("Fair is foul")


async def test_a_certificate_that_does_not_fit_is_not_taken_into_use(coven: Coven) -> None:
    alice, bob = await coven.person("alice", certified=False), await coven.person("bob", certified=False)
    bobs = coven.issue(bob)
    short = coven.issue(alice, timedelta(hours=1))
    for chain in (pem(bobs), b"garbage", pem(coven.authority.root), pem(coven.authority.crl())):
        with pytest.raises(UsageError):
            await alice.mls.use_certificate(chain)
    coven.ahead = 7200.0
    with pytest.raises(UsageError, match="valid from"):
        await alice.mls.use_certificate(pem(short))
    assert isinstance(alice.mls.device.credential(SUITE), BasicCredential)


# --- bad certificates --------------------------------------------------------------------------


async def refresh(person: Person) -> None:
    """The plugin's service records keys around the one that was configured, which reads its files again here."""
    recording = person.mls.authentication
    assert isinstance(recording, KeyRecordingService)
    assert isinstance(recording.inner, X509Service)
    await recording.inner.refresh()


def bear(person: Person, chain: AnyCredential) -> None:
    """Have somebody's device say of itself what no honest one would."""
    person.mls.device.credential = lambda suite: chain  # type: ignore[method-assign]


def forgeries(coven: Coven, mallory: Person, victim: Person) -> dict[str, tuple[AnyCredential, str]]:
    """Bad credentials for mallory's leaf, with what is said about each."""
    now = coven.now.replace(microsecond=0) - timedelta(hours=1)
    device = mallory.mls.device
    key, own = device.signature_key(SUITE), device.identity
    stranger = Authority.root("The coven", start=now)
    rich = Authority(stranger.key, coven.authority.root)  # bears the right name, has another key
    good, revoked, past = coven.issue(mallory), coven.issue(mallory), coven.issue(mallory, timedelta(seconds=-1))
    coven.authority.revoke([revoked], now=coven.now)
    deep = [stranger]
    for number in range(MAX_CHAIN):
        deep.append(deep[-1].below(f"deep {number}", start=now))
    too_long = [deep[-1].device(own, key, start=now), *(each.certificate for each in deep[:0:-1])]
    garbage = X509Credential((Certificate(b"\x30\x82\xff\xff" + b"garbage"),))
    other_key = victim.mls.device.signature_key(SUITE)
    return {
        "another account": (coven_credential(coven, victim), f"claims to be {victim.account}"),
        "a stranger's": (credential(stranger.device(own, key, start=now)), "no path"),
        "forged": (credential(rich.device(own, key, start=now)), "no path"),
        "expired": (credential(past), "ended on"),
        "revoked": (credential(revoked), "revoked"),
        "another key": (credential(stranger.device(own, other_key, start=now)), "another key"),
        "an authority's": (credential(stranger.device(own, key, ca=True, start=now)), "of an authority"),
        "no intermediate": (credential(deep[2].device(own, key, start=now)), "no path"),
        "a chain too long": (credential(*too_long), "certificates"),
        "mallory's authority": (credential(Authority(key.loaded(), good).device(own, key, start=now), good), "no path"),
        "garbage": (garbage, ""),
        "none": (X509Credential(()), ""),
    }


def coven_credential(coven: Coven, person: Person) -> X509Credential:
    return credential(coven.issue(person))


async def test_nobody_is_added_with_a_bad_certificate(coven: Coven) -> None:
    """Each is a KeyPackage in mallory's own directory, signed by mallory as RFC 9420 wants it."""
    alice, mallory = await asyncio.gather(coven.person("alice"), coven.person("mallory"))
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room, policy=coven.policy(room, alice))
    directory = KeyPackageDirectory(mallory.client)
    for what, (chain, said) in forgeries(coven, mallory, alice).items():
        await directory.retract_many(await directory.items())
        bear(mallory, chain)
        await mallory.mls.replenish()
        await refresh(alice)
        result = await group.add(mallory.account)
        assert not result.added, what
        assert said in result.failed[mallory.account], what
        assert len(await directory.items()) == 3, what
    assert group.epoch == 0
    bear(mallory, coven_credential(coven, mallory))
    await mallory.mls.replenish()
    assert (await group.add(mallory.account)).added  # it was not for other reasons


@pytest.mark.parametrize("what", ["a stranger's", "revoked", "another key", "expired"])
async def test_a_member_that_takes_a_bad_certificate_is_followed_and_removed(coven: Coven, what: str) -> None:
    """RFC 9750 6.5: the Commit counts, so that nobody is left behind; its leaf is believed by nobody."""
    alice, bob, mallory = await asyncio.gather(*(coven.person(name) for name in ("alice", "bob", "mallory")))
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room, policy=coven.policy(room, alice))
    await group.add(bob.account, mallory.account)
    await asyncio.gather(bob.joined(room), mallory.joined(room))
    chain, said = forgeries(coven, mallory, alice)[what]
    for person in (alice, bob):
        await refresh(person)
    bear(mallory, chain)
    await mallory.room().renew_leaf()
    for person in (alice, bob):
        doubted = await person.next("mls_doubted")
        assert doubted.member.account == mallory.account
        assert said in doubted.doubt.text
        assert doubted.doubt.denied
    await alice.until(lambda: mallory.account not in group.accounts)
    await bob.until(lambda: mallory.account not in bob.room().accounts)
    await all_agree(alice, bob)
    await (await alice.say("Fair is foul")).confirmed
    await bob.hears("Fair is foul")


async def test_nobody_takes_the_place_of_another(coven: Coven) -> None:
    """RFC 9420 5.3.1, 12.4.2: a leaf's client does not change; such a Commit is nobody's next epoch."""
    alice, mallory = await asyncio.gather(coven.person("alice"), coven.person("mallory"))
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room, policy=coven.policy(room, alice))
    await group.add(mallory.account)
    await mallory.joined(room)
    # What software without this check would do.
    draft = mallory.room().group.mls.draft_commit(
        [], now=mallory.mls.now, options=leaf_options(mallory, coven_credential(coven, alice))
    )
    outgoing = mallory.room().group.sending.finish_commit(draft)
    await mallory.room().worker.transmitter.transmit(outgoing)
    rejected = await alice.next("mls_rejected")
    assert rejected.claimed == mallory.account
    assert group.epoch == 1
    await (await alice.say("Fair is foul")).confirmed
    await mallory.hears("Fair is foul")


def leaf_options(person: Person, chain: X509Credential) -> CommitOptions:
    return CommitOptions(leaf=replace(person.mls.device.own_leaf(SUITE), credential=chain))


# --- time --------------------------------------------------------------------------------------


async def key_packages(person: Person) -> set[str]:
    """The references of what it has published."""
    return {parse_item(element).ref for element in (await KeyPackageDirectory(person.client).items()).values()}


async def test_renewal_before_the_end(coven: Coven) -> None:
    """RFC 9750 6.5: credentials are rotated before they become invalid."""
    young: dict[str, Any] = {"renew_after": 365 * 86_400}  # no leaf is renewed for its age, however long this takes
    alice, bob = await asyncio.gather(coven.person("alice", **young), coven.person("bob", **young))
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room, policy=coven.policy(room, alice))
    await group.add(bob.account)
    await bob.joined(room)
    old = certificate_of(alice, me(bob))
    assert not bob.got("mls_certificate_expires")
    coven.ahead += 25 * 86_400.0
    coven.authority.sign_crl(now=coven.now, lifetime=60 * DAY)
    await bob.log_out()
    await bob.connect()
    due = await bob.next("mls_certificate_expires")
    assert 4 * 86_400 < due.not_after - coven.time() < 5 * 86_400
    bob.mls.parts.certificates.look()
    assert len(bob.got("mls_certificate_expires")) == 1  # once a day

    new = coven.authority.issue(Request.parse(due.request), now=coven.now, lifetime=30 * DAY).certificate
    await bob.joined(room)
    before = await key_packages(bob)
    await bob.mls.use_certificate(pem(new))
    await all_agree(alice, bob, epoch=2)
    assert certificate_of(alice, me(bob)) == certificate_of(bob, me(bob)) == new != old
    assert before.isdisjoint(await key_packages(bob))
    bob.mls.parts.certificates.look()
    assert len(bob.got("mls_certificate_expires")) == 1

    coven.ahead += 10 * 86_400.0  # the old one has ended: alice's, too
    doubted = await bob.next("mls_doubted")
    assert (doubted.member.account, doubted.doubt.reason, doubted.doubt.lapsed) == (alice.account, "expired", True)
    assert not alice.room().doubts
    await alice.mls.use_certificate(pem(coven.issue(alice)))
    await bob.until(lambda: not bob.room().doubts)
    await (await bob.say("and foul is fair")).confirmed
    await alice.hears("and foul is fair")


async def test_a_certificate_is_kept_and_reaches_rooms_that_were_away(coven: Coven) -> None:
    alice = await coven.person("alice", certified=False, authentication=coven_any(coven))
    bob = await coven.person("bob", certified=False, authentication=coven_any(coven))
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room)
    await group.add(bob.account)
    await bob.joined(room)
    assert certificate_of(alice, me(bob)) is None
    await bob.cut()
    bob.no_resumption()
    with pytest.raises(DeliveryError):  # the KeyPackages cannot be replaced now
        await bob.mls.use_certificate(pem(coven.issue(bob)))
    bob.crash()
    await bob.connect()
    await bob.joined(room)
    await alice.until(lambda: certificate_of(alice, me(bob)))
    await all_agree(alice, bob)
    await bob.mls.use_certificate(None)
    await alice.until(lambda: certificate_of(alice, me(bob)) is None)


async def test_a_revoked_member_is_removed_when_the_grace_is_over(coven: Coven) -> None:
    alice, bob = await asyncio.gather(coven.person("alice", grace=0), coven.person("bob"))
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room, policy=coven.policy(room, alice))
    await group.add(bob.account)
    await bob.joined(room)
    await (await bob.say("Fair is foul")).confirmed
    await alice.hears("Fair is foul")
    (issued,) = [each for each in coven.authority.issued() if each.client.account == bob.account]
    coven.authority.revoke([issued.certificate], now=coven.now, reason=x509.ReasonFlags.key_compromise)
    doubted = await alice.next("mls_doubted")  # the file has changed, and nobody has said so
    assert (doubted.member.account, doubted.doubt.reason, doubted.doubt.lapsed) == (bob.account, "revoked", True)
    await alice.until(lambda: group.accounts == [alice.account])
    assert (await bob.next("mls_removed")).by.account == alice.account


# --- with the directory ------------------------------------------------------------------------


def coven_all(coven: Coven) -> Callable[[DeviceListService], AllOf]:
    return lambda directory: AllOf(directory, coven.service())


def coven_any(coven: Coven) -> Callable[[DeviceListService], AnyOf]:
    return lambda directory: AnyOf(directory, coven.service())


async def unlist(coven: Coven, person: Person) -> None:
    """Somebody's device goes offline and out of its account's list; it would put itself back."""
    device = person.mls.device_id
    await person.log_out()
    client = coven.server.client(person.jid)
    for plugin in ("xep_0030", "xep_0060", "xep_0115", "xep_0163"):
        client.register_plugin(plugin)
    await coven.server.connect(client)
    await DeviceDirectory(client).retract(device)
    await client.disconnect()
    client.abort()
    client.cancel_connection_attempt()


async def test_both_the_account_and_the_authority(coven: Coven) -> None:
    people = await asyncio.gather(
        *(coven.person(name, authentication=coven_all(coven)) for name in ("alice", "bob", "mallory"))
    )
    alice, bob, mallory = people
    carol = await coven.person("carol", certified=False, authentication=coven_all(coven))
    await unlist(coven, mallory)  # but certified
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room)
    result = await group.add(bob.account, carol.account, mallory.account)
    assert [member.account for member in result.added] == [bob.account]
    assert "no X.509 credential" in result.failed[carol.account]
    assert "lists no device" in result.failed[mallory.account]
    await bob.joined(room)
    assert not alice.room().doubts


async def test_either_the_account_or_the_authority(coven: Coven) -> None:
    people = await asyncio.gather(
        *(coven.person(name, authentication=coven_any(coven)) for name in ("alice", "bob", "mallory"))
    )
    alice, bob, mallory = people
    carol = await coven.person("carol", certified=False, authentication=coven_any(coven))
    await mallory.mls.use_certificate(None)
    for person in (bob, mallory):
        await unlist(coven, person)
    room = f"{unique('coven')}@{coven.server.rooms}"
    group = await alice.mls.create(room)
    result = await group.add(bob.account, carol.account, mallory.account)
    assert {member.account for member in result.added} == {bob.account, carol.account}
    assert result.failed.keys() == {mallory.account}
    await bob.connect()
    await asyncio.gather(bob.joined(room), carol.joined(room))
    await all_agree(alice, bob, carol)
