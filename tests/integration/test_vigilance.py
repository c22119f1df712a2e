"""Members whom the Authentication Service denies: nothing is encrypted for them, and they are removed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.authentication import AcceptAll, DeviceListService, Verdict
from slixmpp_mls.delivery import DeviceDirectory
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import InvalidError, NotVouchedFor, UsageError
from slixmpp_mls.identity import ClientIdentity

from ..conftest import unique
from ..plugins import mls_of
from .people import Cast, Person

pytestmark = pytest.mark.server


class Suspicious(DeviceListService):
    """Believes the directory, but for one account."""

    suspect = ""

    async def validate(self, leaves: Any, suite: Any) -> list[Verdict]:
        verdicts = await super().validate(leaves, suite)
        names = [str(ClientIdentity.from_leaf(leaf)) for leaf in leaves]
        denied = Verdict.invalid("refused", "I do not trust this man")
        return [
            denied if self.suspect and name.startswith(self.suspect) else verdict
            for name, verdict in zip(names, verdicts, strict=True)
        ]

    def think_again(self) -> None:
        account, self.suspect = self.suspect, ""
        self._changed(account)


async def suspicious(cast: Cast, server: DevServer, name: str) -> tuple[Person, Suspicious]:
    person = await cast.person(server, name, online=False)
    client = person.make_client()
    service = Suspicious(DeviceDirectory(client))
    mls_of(client)._service = service  # before the start
    await server.connect(client)
    await person.ready()
    return person, service


async def test_a_client_that_denies_what_all_others_accept_follows_and_keeps_silent(
    server: DevServer, cast: Cast
) -> None:
    """RFC 9750 6.5: one member's doubts do not split the group, and it encrypts nothing for whom it doubts."""
    alice, carol = await cast.person(server, "alice"), await cast.person(server, "carol")
    bob, service = await suspicious(cast, server, "bob")
    group = await alice.mls.create(f"{unique('ghost')}@{server.rooms}")
    await group.add(bob.account)
    await bob.joined(group.jid)
    service.suspect = carol.account
    await group.add(carol.account)
    await carol.joined(group.jid)

    doubted = await bob.next("mls_doubted")
    assert (doubted.member.account, doubted.doubt.reason) == (carol.account, "refused")
    assert doubted.doubt.denied
    with pytest.raises(NotVouchedFor, match=carol.account):
        await bob.say("Is this a dagger which I see before me")
    await alice.say("There's daggers in men's smiles")
    await bob.hears("There's daggers in men's smiles")
    await carol.say("Fair is foul, and foul is fair")
    assert (await bob.next("mls_doubted_message")).body == "Fair is foul, and foul is fair"
    assert "Fair is foul, and foul is fair" not in bob.bodies

    service.think_again()
    await bob.until(lambda: not bob.room().doubts)
    await bob.say("I have thee not, and yet I see thee still")
    await carol.hears("I have thee not, and yet I see thee still")
    assert carol.account in bob.room().accounts  # not bob's to remove


async def test_an_inviter_who_is_denied_is_told_nothing(prosody: DevServer, cast: Cast) -> None:
    """RFC 9420 5.3.1: a Welcome is a statement by its signer, who is judged before it is followed."""
    alice = await cast.person(prosody, "alice")
    bob, service = await suspicious(cast, prosody, "bob")
    service.suspect = alice.account
    group = await alice.mls.create(f"{unique('fog')}@{prosody.rooms}")
    assert (await group.add(bob.account)).added
    rejected = await bob.next("mls_rejected")
    assert (rejected.claimed, type(rejected.error)) == (alice.account, InvalidError)
    assert "I do not trust this man" in str(rejected.error)
    await alice.say("Bob should not hear this")
    await (await alice.say("nor this")).confirmed
    await bob.has_read(alice, group.jid)
    assert not bob.room().is_member
    with pytest.raises(UsageError):
        await bob.say("a secret for alice alone")
    assert not bob.bodies


async def test_a_device_that_its_account_does_not_list_is_removed_at_once(server: DevServer, cast: Cast) -> None:
    """A member brings in what its own server knows nothing of, as its right to add its own devices allows."""
    alice = await cast.person(server, "alice")
    bob = await cast.person(server, "bob", authentication=AcceptAll())
    group = await alice.mls.create(f"{unique('imp')}@{server.rooms}")
    await bob.log_out()
    bob.config = {}
    await bob.connect()  # lists it
    assert (await group.add(bob.account)).added
    await bob.joined(group.jid)
    imp = await cast.person(server, bob.jid, authentication=AcceptAll())  # lists nothing
    await bob.log_out()
    bob.config = {"authentication": AcceptAll()}
    await bob.connect()
    await bob.joined(group.jid)
    # Its list does not say where KeyPackages are, so that all of them are read, and those of the imp among them.
    devices = DeviceDirectory(bob.client)
    (own,) = (await read_devices(devices)).devices.values()
    await devices.publish(own.id, replace(own, key_packages=()).to_stdlib())
    (added,) = (await bob.room().add(bob.account)).added
    assert str(added) == f"{bob.account}/{imp.mls.device_id}"

    doubted = await alice.next("mls_doubted")
    assert (doubted.member.device, doubted.doubt.reason) == (imp.mls.device_id, "no-device")
    await imp.next("mls_removed")
    await alice.until(lambda: not alice.room().doubts)
    await alice.say("The charm is firm and good")
    await bob.hears("The charm is firm and good")
    assert alice.room().accounts == sorted({alice.account, bob.account})


async def test_a_retired_device_that_still_posts(server: DevServer, cast: Cast) -> None:
    """It had been vouched for: talk goes on, what it says is told apart, and after the grace it is removed."""
    alice = await cast.person(server, "alice")
    bob = await cast.person(server, "bob")
    group = await alice.mls.create(f"{unique('heath')}@{server.rooms}")
    await group.add(bob.account)
    await bob.joined(group.jid)
    await bob.say("By the pricking of my thumbs")
    await alice.hears("By the pricking of my thumbs")
    bob.stays_unlisted()
    assert await DeviceDirectory(bob.client).retract(bob.mls.device.identity.device)

    alice.notify_of_devices(bob.account)
    doubted = await alice.next("mls_doubted")
    assert doubted.doubt.lapsed
    await bob.say("something wicked this way comes")
    assert (await alice.next("mls_doubted_message")).body == "something wicked this way comes"
    await alice.say("whoever knocks")
    await bob.hears("whoever knocks")

    alice.reconfigure(grace=0)
    for _ in range(24):  # hours
        await group.worker.checks.next_round()
    await bob.next("mls_removed")
    await alice.until(lambda: group.accounts == [alice.account])
