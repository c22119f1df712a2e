"""Replaces the policy of a room's group.

The policy gives the rights of an administrator to all clients that the account has in the group, and to whoever has the
keys of one of them.  So before it names another account, the Authentication Service is asked about each of these
clients (mls-policy, "Policy Checks").  If it denies one of them, or cannot tell, nothing is changed, unless the caller
says that it is to be done all the same.  All of them were judged when they came in; what matters is who they are now.

The answer is about keys.  If others are there by the time the Commit is made, the service is asked again.
"""

from __future__ import annotations

from functools import partial

from ..client import GroupChanged, RoomGroup
from ..errors import AdministratorInDoubt
from ..identity import ClientIdentity
from ..mls.structures.proposals import AnyProposal, GroupContextExtensions
from ..mls.tree.tree_math import LeafIndex
from ..policy import RoomPolicy
from .engine.committer import Committer
from .engine.member_checks import MemberChecks

__all__ = ["PolicyChange"]

_ROUNDS = 4
"""How often the clients of a new administrator are judged, if others come in meanwhile."""

_Keys = frozenset[tuple[ClientIdentity, bytes]]


class PolicyChange:
    """Replaces the policy of one room's group."""

    def __init__(self, group: RoomGroup, checks: MemberChecks, committer: Committer) -> None:
        self._group = group
        self._checks = checks
        self._committer = committer

    async def set(self, policy: RoomPolicy, *, despite_doubts: bool) -> GroupChanged | None:
        """See :meth:`EncryptedRoom.set_policy`."""
        for _ in range(_ROUNDS):
            judged = None if despite_doubts else await self._judge(policy)
            changed = await self._committer.commit(partial(self._propose, policy, judged))
            if changed is not None or self._group.policy == policy:
                return changed
        raise AdministratorInDoubt(dict.fromkeys(self._new(policy), "other clients of it come in all the time"))

    def _propose(self, policy: RoomPolicy, judged: _Keys | None) -> list[AnyProposal] | None:
        if self._group.policy == policy:
            return None
        if judged is not None and not self._keys(policy) <= judged:
            return None
        return [GroupContextExtensions(policy.replaced_in(self._group.mls.context.extensions))]

    async def _judge(self, policy: RoomPolicy) -> _Keys:
        """The clients that have been judged, with their keys.

        :raises AdministratorInDoubt: the Authentication Service does not vouch for one of them
        """
        keys = self._keys(policy)
        if keys:
            await self._checks.ask(client for client, _ in keys)
        doubts = self._group.members.doubts
        doubted = {str(client): doubts[client].text for client, _ in keys if client in doubts}
        if doubted:
            raise AdministratorInDoubt(doubted)
        return keys

    def _keys(self, policy: RoomPolicy) -> _Keys:
        """The clients in the group, with their keys, of the accounts that would be administrators and are not yet."""
        roster, tree = self._group.roster, self._group.mls.tree
        leaves = [leaf for account in self._new(policy) for leaf in roster.leaves_of(account)]
        return frozenset((roster.at(leaf), tree.member(LeafIndex(leaf)).signature_key) for leaf in leaves)

    def _new(self, policy: RoomPolicy) -> list[str]:
        return [account for account in policy.administrators if account not in self._group.policy.administrators]
