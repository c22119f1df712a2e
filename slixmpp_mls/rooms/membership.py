"""Adding accounts to a room's group, and removing them.

The affiliation comes first.  An account that is added becomes a member of the room before the Commit is sent, and after
it is known that the Commit can be made.  The account can then read the archive, which holds its Welcome.  If it is not
added in the end, its affiliation is revoked.  An account that is removed loses its affiliation after the Commit
(:mod:`.engine.post_commit`).  :mod:`.affiliation_sync` keeps both in step.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final, Self, TypeVar

from slixmpp import JID

from ..client import GroupChanged, JoinRequested, Member
from ..errors import DeliveryError, InvalidError, MLSError, NotPermitted, Refused, StanzaTooLarge, UsageError
from ..identity import ClientIdentity, normal_forms, typed_address
from ..key_packages.admission import Unvouched
from ..key_packages.cipher_suite_choice import negotiate
from ..key_packages.selection import Candidates, find_candidates
from ..mls.structures.proposals import Add, AnyProposal, Remove
from ..mls.tree.tree_math import LeafIndex
from ..policy.check import MAX_CHANGES
from ..runtime import GrantRequests
from .affiliation_sync import AffiliationSync
from .engine.committer import CommitsLost, Committer
from .engine.parts import RoomParts
from .engine.post_commit import PostCommit, invite

__all__ = ["AddResult", "MembershipChanges", "RemoveResult"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_AT_ONCE = MAX_CHANGES - 24
"""Clients that one Commit adds: it may hold other members' proposals as well."""
LET_IN_AGAIN = 3.0
"""Seconds in which an account is let into the room again whose affiliation was revoked just as another member added it
(:mod:`.engine.post_commit`)."""
_NO_LEAVES: Final[Mapping[ClientIdentity, bytes | None]] = MappingProxyType({})
_OUT = 10.0  # seconds in which a message comes back from the room


@dataclass(frozen=True, slots=True)
class AddResult:
    """The result of :meth:`EncryptedRoom.add`.

    :ivar added: the devices that are in the group now
    :ivar failed: reason for each account of which no device could be added: in normal form, or as typed if it is no
        address
    :ivar skipped: reason for each device (full identity) that could not be added; each that its account lists is named
    :ivar unvouched: of the added devices (full identity), those for which no device of their account in the group
        vouches, and why they were added: ``first-use`` (their account had no device there, so the account's server is
        believed), ``named`` (the caller has named the device)
    """

    added: tuple[Member, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unvouched: dict[str, Unvouched] = field(default_factory=dict)


class RemoveResult(tuple[Member, ...]):
    """The result of :meth:`EncryptedRoom.remove`: the clients that are no longer in the group.

    :ivar failed: reason for each address without a removed client
    """

    failed: dict[str, str]

    def __new__(cls, removed: Iterable[Member] = (), failed: Mapping[str, str] | None = None) -> Self:
        made = super().__new__(cls, removed)
        made.failed = dict(failed or {})
        return made


class _LettingIn:
    """Grants accounts membership of the room, and revokes it for those not added to the group.

    :param own: our account, which is in the room
    """

    def __init__(self, parts: RoomParts, candidates: Candidates, own: str) -> None:
        self._parts = parts
        self._candidates = candidates
        self._own = own
        self._present: set[str] = set()
        self._let_in: set[str] = set()

    async def look(self) -> None:
        """Refuse banned accounts.

        :raises NotPermitted: the room does not show its affiliations
        :raises DeliveryError: no answer
        """
        others = [account for account in self._candidates.accounts if account != self._own]
        if not others:
            return
        roles = await self._parts.muc.affiliations.all()
        for account in others:
            if roles.get(JID(account)) == "outcast":
                self._candidates.refuse(account, f"banned from {self._parts.room}")
        self._present = {str(jid) for jid in roles}

    async def let_in(self, batch: Sequence[ClientIdentity]) -> bool:
        """Grant membership to the accounts.  An account that the room rejects is refused.

        :returns: whether no account was refused
        :raises NotPermitted: only an admin of the room can do it
        :raises DeliveryError: no answer
        """
        accounts = dict.fromkeys(client.account for client in batch if client in self._candidates.packages)
        inside = self._present, self._let_in
        outside = [each for each in accounts if each != self._own and not any(each in some for some in inside)]
        self._let_in.update(outside)  # also if no answer comes: some of them may be in
        errors = await self._parts.muc.affiliations.set_all(dict.fromkeys(outside, "member"))
        self._let_in.difference_update(errors)
        if errors and len(errors) == len(outside) and all(isinstance(each, NotPermitted) for each in errors.values()):
            raise NotPermitted(f"only an admin of {self._parts.room} can let in {', '.join(outside)}")
        for account, error in errors.items():
            self._candidates.refuse(account, f"cannot be let into {self._parts.room}: {error}")
        return not errors

    async def take_out_again(self) -> None:
        """Revoke our grants to accounts that are not in the group."""
        group = self._parts.group
        if not group.is_member or group.sending.commit_waits:  # a Commit in transit may still add them
            return
        over = sorted(each for each in self._let_in if not group.roster.has(each))
        if not over:
            return
        try:
            refused = await self._parts.muc.affiliations.set_all(dict.fromkeys(over, "none"))
        except DeliveryError as error:
            refused = dict.fromkeys(over, error)
        for account, reason in refused.items():
            log.warning("%s was not added, and may keep its affiliation with %s: %s", account, group.room, reason)


def _parted(batch: Sequence[T], count: int) -> list[list[T]]:
    return [list(batch[start : start + count]) for start in range(0, len(batch), count)]


class MembershipChanges:
    """The members of one room, and of its group.

    :ivar affiliations: the comparison of both
    """

    def __init__(self, parts: RoomParts, committer: Committer, post_commit: PostCommit) -> None:
        self._parts = parts
        self._group = parts.group
        self._committer = committer
        self._post_commit = post_commit
        self._own = parts.context.device.identity.account
        self.affiliations = AffiliationSync(
            parts.group,
            parts.muc.affiliations,
            lambda difference: parts.context.fire("mls_affiliations_differ", difference),
            self._expel_in_a_moment,
        )
        self._beginning = asyncio.Lock()
        self._shut_out: set[str] = set()
        self._expelling = asyncio.Lock()

    # --- adding ----------------------------------------------------------------------------------

    async def add(
        self, accounts: Sequence[str], *, replaced: Mapping[ClientIdentity, bytes | None] = _NO_LEAVES
    ) -> AddResult:
        """See :meth:`EncryptedRoom.add`.

        :param replaced: devices among them whose leaves the same Commit removes, if their encryption key is still this
            one; None if any
        """
        if not self._group.lifecycle.suite_is_open:
            return await self._add(accounts, replaced)
        async with self._beginning:
            if self._group.lifecycle.suite_is_open:
                await self._nothing_on_its_way()
                await self._choose_suite(accounts)
            return await self._add(accounts, replaced)

    async def _nothing_on_its_way(self) -> None:
        """Wait until what we have said to nobody is out: it would be lost with its group."""
        with suppress(TimeoutError):  # then the group keeps its suite
            async with asyncio.timeout(_OUT):
                await self._parts.progress.until(lambda: not self._group.room_state.outbox)

    async def _choose_suite(self, accounts: Sequence[str]) -> None:
        """Give a group that nobody has seen the best cipher suite that these accounts support.

        If a server seems to hide a better one, it keeps the one that it has, and those without it are not added.
        """
        context, group = self._parts.context, self._group
        suites = [each for each in context.device.suites if group.policy.allows_suite(each)]
        chosen = await negotiate(context, accounts, suites, group.mls.context.extensions)
        if group.lifecycle.is_unseen and not chosen.downgraded and chosen.suite != group.mls.suite.id:
            group.lifecycle.change_suite(chosen.suite, context.now)

    async def _add(self, accounts: Sequence[str], replaced: Mapping[ClientIdentity, bytes | None]) -> AddResult:
        candidates = await find_candidates(self._parts.context, self._group, accounts, again=bool(replaced))
        self._check_may_add(candidates.accounts)
        letting_in = _LettingIn(self._parts, candidates, self._own)
        await letting_in.look()
        added: list[Member] = []
        refusals: list[MLSError] = []
        batches = _parted(list(candidates.packages), _AT_ONCE)
        try:
            while batches:
                batch = batches.pop(0)
                try:
                    changed = await self._committer.commit(
                        partial(self._adds, candidates, batch, replaced),
                        before=partial(letting_in.let_in, batch),
                        divisible=len(batch) > 1,
                    )
                except StanzaTooLarge as error:
                    if len(batch) < 2:
                        raise
                    # As many at once as would have fitted, minus a reserve: devices differ in size.
                    share = int(len(batch) * 0.95 * error.limit / error.size)
                    batches[:0] = _parted(batch, max(1, min(share, len(batch) - 1)))
                except (InvalidError, NotPermitted) as error:
                    # One of them makes the Commit impossible: the others are added without it.
                    if len(batch) > 1:
                        batches[:0] = _parted(batch, -(-len(batch) // 2))
                    elif batch[0] in candidates.packages:
                        candidates.refuse_device(batch[0], str(error))
                        refusals.append(error)
                else:
                    if changed is not None:
                        added += changed.added
                        await self._post_commit.complete()
        finally:
            await letting_in.take_out_again()
        if not added and refusals and all(isinstance(each, NotPermitted) for each in refusals):
            raise refusals[0]
        unvouched = {
            str(member): candidates.unvouched[member.identity]
            for member in added
            if member.identity in candidates.unvouched
        }
        return AddResult(tuple(added), candidates.failed, candidates.skipped, unvouched)

    def _adds(
        self, candidates: Candidates, batch: Sequence[ClientIdentity], replaced: Mapping[ClientIdentity, bytes | None]
    ) -> list[AnyProposal] | None:
        roster = self._group.roster  # another member may have added one meanwhile
        proposals: list[AnyProposal] = []
        for client in batch:
            package, leaf = candidates.packages.get(client), roster.leaf_of(client)
            if package is None or (leaf is not None and not self._may_replace(client, replaced)):
                continue
            if leaf is not None:
                proposals.append(Remove(LeafIndex(leaf)))
            proposals.append(Add(package.key_package))
        return proposals or None

    def _may_replace(self, client: ClientIdentity, replaced: Mapping[ClientIdentity, bytes | None]) -> bool:
        """Whether a device's leaf is one to replace: a device that has come back has another one, and needs it."""
        if client not in replaced:
            return False
        expected = replaced[client]
        return expected is None or self._group.encryption_key(client) == expected

    def _check_may_add(self, accounts: Iterable[str]) -> None:
        """Check the policy early: the Commit will be checked, too, but here the reason is plain."""
        policy = self._group.policy
        others = [account for account in accounts if account != self._own or not policy.own_devices]
        if others and not policy.permits(policy.may_add, self._own, self._group.roster):
            raise NotPermitted(f"the group's policy does not let us add {', '.join(others)}")

    async def let_into_room(self, candidates: Candidates) -> None:
        """Grant membership of the room to accounts; those that cannot get it are refused.

        :raises NotPermitted: only an admin of the room can do it
        :raises DeliveryError: no answer
        """
        letting_in = _LettingIn(self._parts, candidates, self._own)
        await letting_in.look()
        await letting_in.let_in(list(candidates.packages))

    async def invite(self, account: str) -> None:
        """See :meth:`EncryptedRoom.invite`."""
        bare = typed_address(account).partition("/")[0]
        if not self._group.roster.has(bare):
            raise UsageError(f"{bare} is not in the group: add it")
        known = self._group.post_commit_actions.invited.get(bare)  # only the member that has added it knows the place
        await invite(self._parts, {bare: None if known is None else known.after.decode() or None})

    # --- requests ---------------------------------------------------------------------------------

    async def grant(self, request: JoinRequested) -> AddResult:
        """See :meth:`EncryptedRoom.grant`."""
        client = ClientIdentity(request.account, request.device)
        came = AddResult(failed={str(client): "it has come into the group since it asked"})
        replaced = {client: request.leaf}
        if self._group.roster.leaf_of(client) is not None and not self._may_replace(client, replaced):
            return came  # before it is let into the room, and a KeyPackage is taken from the directory
        result = await self.add([str(client)], replaced=replaced)
        return result if result.added or result.failed or result.skipped else came

    def requested(self, request: JoinRequested) -> None:
        """Grant a request on our own, if that is configured; several members may be configured so: they take turns."""
        if self._may_grant(request):
            self._parts.spawn(self._grant_in_turn(request), "granting a request")

    def _may_grant(self, request: JoinRequested) -> bool:
        """Whether a request is of an account that is in the group, has not been removed, and is ours to grant.

        Whether its device is valid, the Authentication Service says when it is added: one that is unknown is not added.
        """
        group = self._group
        if self._parts.context.settings.grant_requests is not GrantRequests.MEMBERS or not group.is_member:
            return False
        view = group.room_state.require_member().view
        client, policy, roster = ClientIdentity(request.account, request.device), view.policy, view.roster
        return (
            request.reason in ("unproven", "unknown")
            and roster.has_say(client.account)
            and not (view.removed is None or view.removed.bars(client))
            and policy.permits(policy.may_add, self._own, roster)
            and policy.is_administrator(self._own, roster)  # no proof: policy/admission.py, "established"
        )

    async def _grant_in_turn(self, request: JoinRequested) -> None:
        await self._parts.progress.until_live()
        epoch = self._group.mls.epoch
        await self._committer.wait_for_turn()
        if self._group.is_member and self._group.mls.epoch == epoch and self._may_grant(request):
            result = await self.grant(request)
            for client, reason in (result.failed | result.skipped).items():
                log.info("%s: %s asks to be added, and is not: %s", self._group.room, client, reason)

    # --- removing --------------------------------------------------------------------------------

    async def remove(self, accounts: Sequence[str]) -> RemoveResult:
        """See :meth:`EncryptedRoom.remove`."""
        wanted, failed = normal_forms(accounts)
        removed: list[Member] = []
        refusals: list[MLSError] = []
        batches = self._for_one_commit_each(wanted)
        while batches:
            batch = batches.pop(0)
            try:
                changed = await self._commit_removal(batch)
            except (InvalidError, NotPermitted) as error:
                if len(batch) > 1:  # one of them makes the Commit impossible: the others are removed without it
                    batches[:0] = _parted(batch, -(-len(batch) // 2))
                else:
                    failed[batch[0]] = str(error)
                    refusals.append(error)
                continue
            removed += changed.removed if changed is not None else ()
            await self._post_commit.complete()  # the removed accounts lose the room
        if not removed and refusals and len(refusals) == len(wanted):
            raise refusals[0]
        done = {self._own, *(member.account for member in removed)}
        for address in wanted:
            account = address.partition("/")[0]
            if address in failed or account in done or not self._group.is_member or self._group.roster.has(account):
                continue
            failed[address] = "not in the group"
            with suppress(NotPermitted, Refused):  # an owner must do it; the group is what counts
                await self._parts.muc.affiliations.revoke_membership(account)
        return RemoveResult(removed, failed)

    async def _commit_removal(self, addresses: Sequence[str]) -> GroupChanged | None:
        """Commit the removal of accounts or devices; errors as of :meth:`Committer.commit`.

        Whoever is to go may make one Commit after another, faster than anybody else can, so that ours never comes
        first.  Then the account loses the room first, which takes nothing of it any more.
        """
        try:
            return await self._committer.commit(partial(self._removes, addresses))
        except CommitsLost as lost:
            accounts = [address for address in addresses if "/" not in address and address != self._own]
            try:
                refused = await self._parts.muc.affiliations.set_all(dict.fromkeys(accounts, "none"))
            except DeliveryError:
                raise lost from None
            if len(refused) == len(accounts):
                raise
            return await self._committer.commit(partial(self._removes, addresses))

    def _removes(self, accounts: Sequence[str]) -> list[AnyProposal] | None:
        own = self._group.mls.own_index
        leaves = dict.fromkeys(leaf for account in accounts for leaf in self._leaves(account))
        return [Remove(leaf) for leaf in leaves if leaf != own] or None

    def _leaves(self, address: str) -> tuple[int, ...]:
        """The leaves of an account, or of one device of it."""
        account, _, device = address.partition("/")
        if not device:
            return self._group.roster.leaves_of(account)
        leaf = self._group.roster.leaf_of(ClientIdentity(account, device))
        return () if leaf is None else (leaf,)

    def _for_one_commit_each(self, addresses: Sequence[str]) -> list[list[str]]:
        """As many at once as a Commit may remove: one that is drafted in vain costs a ciphertext for each member."""
        if not self._group.is_member:
            return [list(addresses)] if addresses else []
        batches: list[list[str]] = []
        leaves = 0
        for address in addresses:
            more = len(self._leaves(address))
            if not batches or leaves + more > _AT_ONCE:
                batches.append([])
                leaves = 0
            batches[-1].append(address)
            leaves += more
        return batches

    async def expelled(self, account: str) -> None:
        """Remove an account from the group that has lost its affiliation, if we may; otherwise another member does.

        Accounts that lose it while a Commit of ours is in transit are removed together, by the next one.  One that has
        just been added has some seconds to be let in again.
        """
        await self._parts.progress.until_live()
        await self._moment_for([account])
        if account == self._own or not self.affiliations.may_expel(self._own) or not self._group.roster.has(account):
            return
        self._shut_out.add(account)
        async with self._expelling:
            accounts, self._shut_out = sorted(self._shut_out), set()
            if not accounts:
                return  # another call has removed it
            await self._expel(accounts)
        await self.affiliations.compare_later(self._own)

    async def _moment_for(self, accounts: Sequence[str]) -> None:
        if any(map(self._post_commit.came_lately, accounts)):
            await asyncio.sleep(LET_IN_AGAIN)

    async def _expel_in_a_moment(self, accounts: Sequence[str]) -> None:
        """Remove accounts that the room's lists do not show, see :meth:`expelled`."""
        await self._moment_for(accounts)
        await self._expel(accounts)

    async def _expel(self, accounts: Sequence[str]) -> None:
        """Remove accounts, by one Commit if that is possible.  Those whom we may not remove need another member.

        What the room says reaches us at once, what the group does when we have read it.  Another administrator may have
        removed an account and added it again meanwhile, so each Commit removes only who is still outside the room.
        """
        out = set(accounts)

        async def are_out() -> bool:
            back = out & await self.affiliations.inside()
            out.difference_update(back)
            return not back

        def removes(batch: Sequence[str]) -> list[AnyProposal] | None:
            return self._removes([account for account in batch if account in out])

        batches = self._for_one_commit_each(accounts)
        while batches:
            batch = batches.pop(0)
            try:
                await self._committer.commit(partial(removes, batch), before=are_out)
            except (InvalidError, NotPermitted):
                if len(batch) > 1:  # one of them makes the Commit impossible
                    batches[:0] = _parted(batch, -(-len(batch) // 2))

    def went_live(self) -> None:
        """Compare the room's lists with the group if we should act on them; the room has been caught up with."""
        if self.affiliations.may_expel(self._own):
            self._parts.spawn(self.affiliations.compare_later(self._own), "comparing with the room's lists")
