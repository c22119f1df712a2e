"""By what right a leaf comes into a group: each arrival needs one of these grounds.

=================  ====================================  ========================================================
ground             who makes the leaf arrive             what proves it
=================  ====================================  ========================================================
`RETURN`           the client itself, by an external     same identity and signature key as the leaf that the
                   Commit or by asking (12.1.8); the     Commit removes for it, and a signature by the return key
                   committer's Remove takes the old one  of that leaf
`RIGHT`            an account with `may_add`             the signature of its Add, or of its Commit of a request
`OWN_DEVICE`       a leaf of the same account            likewise; that leaf stays in the group
`VOUCHER`          the client itself                     a voucher by a leaf of its account; that leaf stays in
                                                         the group; the client has not been removed before
`NEWCOMER`         the client itself, by an external     nothing: its account has no leaf, is not named in the
                   Commit, where anybody may             policy and has not been removed by others; the leaf
                                                         bears the mark of a newcomer
=================  ====================================  ========================================================

(12.1.8 and what follows are sections of RFC 9420.)  *Stays in the group*: whoever is removed by the same Commit
neither adds nor vouches for anybody in it, or an account would evade its removal by a device that it had proposed
before.

A newcomer stays one when it returns, and nothing else has the mark.  It becomes a member like others by an Add
(`RIGHT`) that replaces its leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ..errors import PolicyViolation
from ..identity import ClientIdentity
from ..mls.group.commit_effects import Effects, MemberChange
from ..mls.structures.framing import AnySender, MemberSender, NewMemberCommitSender, NewMemberProposalSender
from ..mls.structures.leaf_node import LeafNode
from .proofs import DeviceVouchers, is_newcomer, proves_return, vouches
from .room_policy import ExternalJoins, Right
from .view import GroupView

__all__ = ["Arrival", "Ground", "JudgedCommit"]


class Ground(Enum):
    """Why a leaf may come in."""

    RETURN = "return"
    RIGHT = "right"
    OWN_DEVICE = "own device"
    VOUCHER = "voucher"
    NEWCOMER = "newcomer"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A leaf that comes in.

    :ivar replaces: with `RETURN`: index of the leaf that it replaces
    """

    client: ClientIdentity
    ground: Ground
    replaces: int | None = None


@dataclass(frozen=True, slots=True)
class JudgedCommit:
    """A Commit, and what its changes are judged by.

    :ivar removed: the removal of each leaf that goes, by its index
    """

    view: GroupView
    effects: Effects
    removed: Mapping[int, MemberChange]

    @classmethod
    def of(cls, view: GroupView, effects: Effects) -> JudgedCommit:
        return cls(view, effects, {change.index: change for change in effects.removed})

    @property
    def committer(self) -> AnySender:
        return self.effects.committer

    def wisher(self, proposer: AnySender) -> int | None:
        """The leaf that answers for a wish: its proposer's; for an outsider's wish the committer's; None if both are
        outsiders."""
        for sender in (proposer, self.committer):
            if isinstance(sender, MemberSender):
                return sender.leaf_index
        return None

    def name(self, leaf: int | None) -> str | None:
        return None if leaf is None else str(self.view.roster.at(leaf))

    def may(self, right: Right, leaf: int | None) -> bool:
        """Whether the client at a leaf has a right of the policy."""
        roster = self.view.roster
        if leaf is None or not roster.counts(leaf):
            return False
        return self.view.policy.permits(right, roster.at(leaf).account, roster)

    def admit(self, change: MemberChange) -> Arrival:
        """The ground on which a leaf arrives.

        :raises PolicyViolation: there is none
        :raises InvalidError: the leaf's credential names no client
        :raises MalformedError: an extension of the leaf cannot be read
        """
        leaf = _new_leaf(change)
        client = ClientIdentity.from_leaf(leaf)
        replaced = self._returns(change, client, leaf)
        if replaced is not None:
            self._check_mark(leaf, client, wanted=is_newcomer(self.view.leaf(replaced)))
            return Arrival(client, Ground.RETURN, replaced)
        ground = self._joins(client, leaf) if _joins(change) else self._added(change, client, leaf)
        self._check_mark(leaf, client, wanted=ground is Ground.NEWCOMER)
        return Arrival(client, ground)

    def _returns(self, change: MemberChange, client: ClientIdentity, leaf: LeafNode) -> int | None:
        """The leaf that this one replaces, if that is proven.

        The Remove must be the committer's own: one that somebody else has proposed may be there to exclude for good,
        and would be turned into its opposite.
        """
        if not isinstance(change.proposer, NewMemberCommitSender | NewMemberProposalSender):
            return None  # RFC 9420 12.1.8, 12.4.3.2: only then has the client itself asked for it, in this epoch
        if _joins(change) and self.view.policy.external_joins == ExternalJoins.NEVER:
            return None
        index = self.view.roster.leaf_of(client)
        removal = None if index is None else self.removed.get(index)
        if index is None or removal is None or removal.proposer != self.committer:
            return None
        proven = proves_return(self.view.suite, self.view.group_id, self.view.leaf(index), leaf)
        return index if proven else None

    def _joins(self, client: ClientIdentity, leaf: LeafNode) -> Ground:
        """An external Commit by a client that does not return."""
        policy, roster = self.view.policy, self.view.roster
        if policy.external_joins == ExternalJoins.NEVER:
            raise PolicyViolation("external-join", "nobody joins by an external Commit", str(client))
        if self.has_voucher(client, leaf):
            return Ground.VOUCHER
        if policy.external_joins != ExternalJoins.ANYBODY:
            raise PolicyViolation(
                "external-join", "an external Commit with neither return proof nor voucher", str(client)
            )
        if roster.has(client.account) or client.account in policy.administrators:
            raise PolicyViolation("external-join", "a name that only its own devices can vouch for", str(client))
        if self.view.removed is None or self.view.removed.bars_account(client.account):
            raise PolicyViolation(
                "external-join", "the account has been removed, or the group does not remember that", str(client)
            )
        return Ground.NEWCOMER

    def _added(self, change: MemberChange, client: ClientIdentity, leaf: LeafNode) -> Ground:
        """An Add; the ground that needs least comes first."""
        judge = self.wisher(change.proposer)
        if self.may(self.view.policy.may_add, judge):
            return Ground.RIGHT
        if judge is not None and self._adds_own(judge, client):
            return Ground.OWN_DEVICE
        if isinstance(change.proposer, NewMemberProposalSender) and self.has_voucher(client, leaf):
            return Ground.VOUCHER
        raise PolicyViolation("add", f"neither right nor proof to add {client}", self.name(judge))

    def _adds_own(self, judge: int, client: ClientIdentity) -> bool:
        roster = self.view.roster
        return (
            self.view.policy.own_devices
            and roster.at(judge).account == client.account
            and self._stands(judge)
            and not (self.view.removed is not None and self.view.removed.bars_own_add(client))
        )

    def has_voucher(self, client: ClientIdentity, leaf: LeafNode, at: int | None = None) -> bool:
        """Whether a device of its account, which stays in the group, vouches for a client that has not been removed.

        :param at: for whoever acts on it: seconds since the Unix epoch, in the voucher's lifetime; the validity of a
            Commit does not ask this
        """
        removed = self.view.removed
        if not self.view.policy.own_devices or removed is None or removed.bars(client):
            return False
        vouchers = DeviceVouchers.found_in(leaf.extensions)
        issuers = {
            str(self.view.roster.at(index)).encode(): index for index in self.view.roster.leaves_of(client.account)
        }
        for voucher in () if vouchers is None else vouchers.vouchers:
            if at is not None and not voucher.lifetime.not_before <= at <= voucher.lifetime.not_after:
                continue
            index = issuers.get(voucher.issuer)
            if index is not None and self._stands(index):
                key = self.view.leaf(index).signature_key
                if vouches(self.view.suite, voucher, key, client, leaf.signature_key):
                    return True
        return False

    def _stands(self, index: int) -> bool:
        """Whether the client at a leaf speaks for its account: a confirmed member that the Commit does not remove."""
        return self.view.roster.counts(index) and index not in self.removed

    def _check_mark(self, leaf: LeafNode, client: ClientIdentity, *, wanted: bool) -> None:
        if is_newcomer(leaf) != wanted:
            raise PolicyViolation("newcomer", "the mark of a newcomer is missing, or out of place", str(client))


def _joins(change: MemberChange) -> bool:
    return isinstance(change.proposer, NewMemberCommitSender)


def _new_leaf(change: MemberChange) -> LeafNode:
    assert change.after is not None, "a Remove brings no leaf"
    return change.after
