"""Who becomes an administrator is judged before (mls-policy, "Policy Checks")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.authentication import Verdict
from slixmpp_mls.errors import AdministratorInDoubt, NotPermitted
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.policy import Right, RoomPolicy
from slixmpp_mls.rooms.engine.member_checks import MemberChecks
from slixmpp_mls.rooms.policy_change import PolicyChange

from ..client.people import ALICE, BOB, CAROL
from .test_membership import Member, scene


class Changing(Member):
    """A member that changes the policy."""

    change: PolicyChange

    async def set(self, policy: RoomPolicy, **options: Any) -> object:
        checks = MemberChecks(self.parts, self._remove, lambda: None)
        change = PolicyChange(self.group, checks, self.committer)
        return await self.finish(change.set(policy, **{"despite_doubts": False, **options}))

    async def _remove(self, client: ClientIdentity) -> None:
        raise NotPermitted("says the test")

    def with_administrators(self, *accounts: str) -> RoomPolicy:
        return replace(self.group.policy, administrators=accounts)


async def people(monkeypatch: pytest.MonkeyPatch) -> tuple[Changing, ClientIdentity]:
    """Alice, who may change the policy, and the client that Bob has in the group."""
    member = await scene(monkeypatch, BOB, CAROL, may_change_policy=Right.ADMINISTRATORS)
    alice = Changing(member.person, monkeypatch)
    (index,) = alice.group.roster.leaves_of(BOB)
    return alice, alice.group.roster.at(index)


async def test_nobody_in_doubt_becomes_an_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await people(monkeypatch)
    alice.service.denied.add(bob)
    before, policy = alice.group.mls.epoch, alice.with_administrators(ALICE, BOB)
    with pytest.raises(AdministratorInDoubt) as caught:
        await alice.set(policy)
    assert caught.value.doubts == {str(bob): f"{bob} is denied"}
    assert (alice.group.mls.epoch, alice.group.policy.administrators) == (before, (ALICE,))
    assert alice.service.asked == [bob]
    assert await alice.set(policy, despite_doubts=True)
    assert alice.group.policy.administrators == (ALICE, BOB)


async def test_one_who_is_unknown_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await people(monkeypatch)

    async def unknown(leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        return [Verdict.unknown("unreachable", "its server does not answer") for _ in leaves]

    monkeypatch.setattr(alice.service, "validate", unknown)
    with pytest.raises(AdministratorInDoubt, match="does not answer") as caught:
        await alice.set(alice.with_administrators(ALICE, BOB))
    assert caught.value.doubts.keys() == {str(bob)}


async def test_only_who_is_new_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account without a client in the group has nothing to ask about: its clients are judged as they come in."""
    alice, bob = await people(monkeypatch)
    assert await alice.set(alice.with_administrators(ALICE, BOB, "dave@d.example"))
    assert alice.service.asked == [bob]
    alice.service.denied.add(bob)
    assert await alice.set(replace(alice.group.policy, may_add=Right.NOBODY))
    assert await alice.set(alice.with_administrators(ALICE))
    assert alice.service.asked == [bob]
    assert await alice.set(alice.group.policy) is None


async def test_a_client_that_comes_in_while_the_others_are_judged_is_judged_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice, bob = await people(monkeypatch)
    phone = alice.world.person(BOB)
    bobs = next(person for person in alice.world.people if person.device.identity == bob)
    answer = alice.service.validate

    async def slowly(leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        verdicts = await answer(leaves, suite)
        if not alice.group.roster.leaf_of(phone.device.identity):
            bobs.commit(*bobs.adding(BOB))
            alice.world.settle()
        return verdicts

    monkeypatch.setattr(alice.service, "validate", slowly)
    alice.service.denied.add(phone.device.identity)
    with pytest.raises(AdministratorInDoubt) as caught:
        await alice.set(alice.with_administrators(ALICE, BOB))
    assert caught.value.doubts.keys() == {str(phone.device.identity)}
    assert alice.service.asked.count(bob) == 2
    alice.service.denied.clear()
    assert await alice.set(alice.with_administrators(ALICE, BOB))
