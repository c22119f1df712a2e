"""Adding people to a room's group, and removing them.

Affiliation first: an account that is added becomes a member of the room before the Commit, so that it can read the
archive, where its Welcome is.  An account that is removed loses the room after the Commit
(:mod:`.engine.post_commit`).  :mod:`.affiliation_sync` keeps both in step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from slixmpp import JID

from ..client import Member
from ..errors import NotPermitted, StanzaTooLarge
from ..identity import ClientIdentity
from ..key_packages.selection import Candidates, find_candidates
from ..mls.structures.proposals import Add, AnyProposal, Remove
from .affiliation_sync import AffiliationSync
from .engine.committer import Committer
from .engine.parts import RoomParts
from .engine.post_commit import PostCommit

__all__ = ["AddResult", "Membership"]


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of :meth:`EncryptedRoom.add`.

    :ivar added: the devices that are in the group now
    :ivar failed: reason for each account of which no device could be added
    :ivar skipped: reason for each device that could not, full identity
    """

    added: tuple[Member, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Membership:
    """Who is in one room, and in its group.

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
            lambda account: self.remove([account]),
        )

    # --- adding ----------------------------------------------------------------------------------

    async def add(self, accounts: Sequence[str]) -> AddResult:
        """See :meth:`EncryptedRoom.add`."""
        candidates = await find_candidates(self._parts.context, self._group, accounts)
        self._check_may_add(candidates.accounts)
        await self.let_into_room(candidates)
        added: list[Member] = []
        batches = [list(candidates.packages)]
        while batches:
            batch = batches.pop(0)
            try:
                changed = await self._committer.commit(partial(self._adds, candidates, batch))
            except StanzaTooLarge as error:
                if len(batch) < 2:
                    raise
                # As many at once as would have fitted, and some reserve: devices differ in size.
                share = int(len(batch) * 0.95 * error.limit / error.size)
                count = max(1, min(share, len(batch) - 1))
                batches[:0] = [batch[start : start + count] for start in range(0, len(batch), count)]
                continue
            if changed is not None:
                added += changed.added
                await self._post_commit.complete()
        return AddResult(tuple(added), candidates.failed, candidates.skipped)

    def _adds(self, candidates: Candidates, batch: Sequence[ClientIdentity]) -> list[AnyProposal] | None:
        roster = self._group.roster  # somebody else may have added one meanwhile
        wanted = [candidates.packages[client] for client in batch if roster.leaf_of(client) is None]
        return [Add(package.key_package) for package in wanted] or None

    def _check_may_add(self, accounts: Iterable[str]) -> None:
        """The Commit will be checked, too, but by then the room would have been changed."""
        policy = self._group.policy
        others = [account for account in accounts if account != self._own or not policy.own_devices]
        if others and not policy.permits(policy.may_add, self._own, self._group.roster):
            raise NotPermitted(f"the group's policy does not let us add {', '.join(others)}")

    async def let_into_room(self, candidates: Candidates) -> None:
        """Make accounts members of the room, but for those that are banned, which are refused.

        :raises NotPermitted: only an admin of the room can do it
        :raises DeliveryError: no answer
        """
        others = [account for account in candidates.accounts if account != self._own]
        if not others:
            return
        affiliations = self._parts.muc.affiliations
        roles = await affiliations.all()
        for account in others:
            if roles.get(JID(account)) == "outcast":
                candidates.refuse(account, f"banned from {self._parts.room}")
        outside = [account for account in others if JID(account) not in roles]
        try:
            await affiliations.grant_membership(outside)
        except NotPermitted:
            raise NotPermitted(f"only an admin of {self._parts.room} can let in {', '.join(outside)}") from None

    # --- removing --------------------------------------------------------------------------------

    async def remove(self, accounts: Sequence[str]) -> tuple[Member, ...]:
        """See :meth:`EncryptedRoom.remove`."""
        changed = await self._committer.commit(partial(self._removes, accounts))
        removed = changed.removed if changed is not None else ()
        await self._post_commit.complete()  # the removed accounts lose the room
        done = {self._own, *(member.account for member in removed)}
        for account in dict.fromkeys(account.partition("/")[0] for account in accounts):
            if account not in done and not (self._group.is_member and self._group.roster.has(account)):
                with suppress(NotPermitted):  # for an owner to do; the group is what counts
                    await self._parts.muc.affiliations.revoke_membership(account)
        return removed

    def _removes(self, accounts: Sequence[str]) -> list[AnyProposal] | None:
        roster, own = self._group.roster, self._group.group.own_index
        leaves: dict[int, None] = {}
        for account in accounts:
            bare, _, device = account.partition("/")
            if device:
                leaf = roster.leaf_of(ClientIdentity(bare, device))
                leaves.update({} if leaf is None else {leaf: None})
            else:
                leaves.update(dict.fromkeys(roster.leaves_of(bare)))
        return [Remove(leaf) for leaf in leaves if leaf != own] or None

    async def expelled(self, account: str) -> None:
        """An account has lost the room: it loses the group, by the hand of a member that may remove it."""
        await self._parts.progress.until_live()
        is_ours_to_do = account != self._own and self.affiliations.may_expel(self._own)
        if is_ours_to_do and self._group.roster.has(account):
            await self._committer.commit(partial(self._removes, [account]))
            await self.affiliations.compare_later(self._own)

    def went_live(self) -> None:
        """The room has been caught up with: compare its lists with the group, if it is for us to act on it."""
        if self.affiliations.may_expel(self._own):
            self._parts.spawn(self.affiliations.compare_later(self._own), "comparing with the room's lists")
