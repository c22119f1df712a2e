"""Determines the ground on which a leaf enters a group.  Each new leaf needs one of these grounds:

=================  ====================================  ========================================================
ground             added by                              proof
=================  ====================================  ========================================================
`RETURN`           the client itself, by an external     the identity and the signature key of the leaf that the
                   Commit or a new member's Add          same Commit removes, and a signature by that leaf's
                   (12.1.8); the committer's own Remove  return key
                   takes the old leaf out
`RIGHT`            an account with `may_add`             the signature of its Add, or of its Commit of a new
                                                         member's Add; unless it is an administrator, also a proof
                                                         that the client belongs to its account, see below
`OWN_DEVICE`       a leaf of the same account            likewise; that leaf stays in the group
`VOUCHER`          the client itself                     a voucher by a leaf of its account; that leaf stays in
                                                         the group; the client has not been removed before
`NEWCOMER`         the client itself, by an external     none: its account has no leaf, is not named in the
                   Commit, where anybody may join        policy and has not been removed by others; the leaf has
                                                         the Newcomer extension
=================  ====================================  ========================================================

Section numbers such as 12.1.8 are those of RFC 9420.

*Stays in the group* means: the same Commit does not remove that leaf.  A removed leaf neither adds nor vouches for a
client in the Commit that removes it.  Otherwise an account could evade its removal through a device that it had
proposed earlier.

*The right to add is not every right.*  All clients of an account have its rights.  Whoever adds a client therefore
gives it the rights of the account that its credential names, and a name is not a proof.  Administrators may do that:
they can get every right anyway.  Another account with `may_add` adds without further proof only clients of accounts
that have nothing to lose:

- The account is *established* if it has a confirmed client in the group, or if the policy before or after the Commit
  names it as an administrator.  A client of an established account needs one of three proofs: a voucher; the signature
  key of the confirmed leaf of the same client, which the same Commit removes; or the Add of a leaf of its own account,
  which stays in the group.
- The clients of an account that is not established come by the Adds of one account.  Otherwise somebody else could add
  a client of its own to those that an honest member adds at the same time.

Only newcomers have the Newcomer extension.  A newcomer that returns remains a newcomer.  It becomes a regular member
when an Add (`RIGHT`) replaces its leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ..errors import PeerError, PolicyViolation
from ..identity import ClientIdentity
from ..mls.group.commit_effects import Effects, MemberChange
from ..mls.structures.framing import AnySender, MemberSender, NewMemberCommitSender, NewMemberProposalSender
from ..mls.structures.leaf_node import LeafNode
from .proofs import DeviceVouchers, is_newcomer, proves_return, vouches
from .room_policy import ExternalJoins, Right, RoomPolicy
from .view import GroupView

__all__ = ["Arrival", "Ground", "JudgedCommit"]


class Ground(Enum):
    """The ground on which a leaf may enter; see the table above."""

    RETURN = "return"
    RIGHT = "right"
    OWN_DEVICE = "own device"
    VOUCHER = "voucher"
    NEWCOMER = "newcomer"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A leaf that enters the group by a Commit.

    :ivar replaces: with `RETURN`: index of the leaf that it replaces; None otherwise
    """

    client: ClientIdentity
    ground: Ground
    replaces: int | None = None


@dataclass(frozen=True, slots=True)
class JudgedCommit:
    """A Commit together with the group state against which its changes are judged.

    :ivar view: the group before the Commit
    :ivar effects: the changes that the Commit makes
    :ivar removed: the removal of each removed leaf, by leaf index
    :ivar named: the accounts that the policy before or after the Commit names as administrators
    :ivar adders: the accounts that are accountable for the Adds of an account's clients; None is an outsider
    """

    view: GroupView
    effects: Effects
    removed: Mapping[int, MemberChange]
    named: frozenset[str]
    adders: Mapping[str, set[str | None]]

    @classmethod
    def of(cls, view: GroupView, effects: Effects) -> JudgedCommit:
        """Read a Commit's changes once.

        :raises InvalidError: the credential of a new leaf names no client
        """
        removed = {change.index: change for change in effects.removed}
        adders: dict[str, set[str | None]] = {}
        judged = cls(view, effects, removed, frozenset((*view.policy.administrators, *_named_anew(effects))), adders)
        for change in effects.added:
            judge = judged.wisher(change.proposer)
            adder = None if judge is None else view.roster.at(judge).account
            adders.setdefault(ClientIdentity.from_leaf(_new_leaf(change)).account, set()).add(adder)
        return judged

    @property
    def committer(self) -> AnySender:
        return self.effects.committer

    def wisher(self, proposer: AnySender) -> int | None:
        """The leaf that is accountable for a proposal.

        That is the proposer's leaf.  If the proposer is not a member, it is the committer's leaf.  It is None if
        neither of them is a member.
        """
        for sender in (proposer, self.committer):
            if isinstance(sender, MemberSender):
                return sender.leaf_index
        return None

    def name(self, leaf: int | None) -> str | None:
        return None if leaf is None else str(self.view.roster.at(leaf))

    def may(self, right: Right, leaf: int | None) -> bool:
        """Whether the policy grants a right to the client at a leaf.  None, an outsider, has no right."""
        roster = self.view.roster
        if leaf is None or not roster.counts(leaf):
            return False
        return self.view.policy.permits(right, roster.at(leaf).account, roster)

    def admit(self, change: MemberChange) -> Arrival:
        """Determine the ground on which a leaf enters.

        :raises PolicyViolation: there is no ground
        :raises InvalidError: the leaf's credential names no client
        :raises MalformedError: an extension of the leaf cannot be parsed
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
        """The index of the leaf that this one replaces, if the return is proven; None otherwise.

        The Remove of the old leaf must be the committer's own.  A Remove proposed by another member may be meant to
        exclude the client for good; a return must not turn it into the opposite.
        """
        if not isinstance(change.proposer, NewMemberCommitSender | NewMemberProposalSender):
            return None  # RFC 9420 12.1.8, 12.4.3.2: only these senders show the client's own request in this epoch
        if _joins(change) and self.view.policy.external_joins == ExternalJoins.NEVER:
            return None
        index = self.view.roster.leaf_of(client)
        removal = None if index is None else self.removed.get(index)
        if index is None or removal is None or removal.proposer != self.committer:
            return None
        proven = proves_return(self.view.suite, self.view.group_id, self.view.leaf(index), leaf)
        return index if proven else None

    def _joins(self, client: ClientIdentity, leaf: LeafNode) -> Ground:
        """The ground of an external Commit by a client that does not return.

        :raises PolicyViolation: there is no ground
        """
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
        """The ground of an Add.  The ground that requires the least proof is tried first.

        :raises PolicyViolation: there is no ground
        """
        judge = self.wisher(change.proposer)
        if judge is not None and self.may(self.view.policy.may_add, judge) and self._adds(judge, client, leaf):
            return Ground.RIGHT
        if judge is not None and self._adds_own(judge, client):
            return Ground.OWN_DEVICE
        if isinstance(change.proposer, NewMemberProposalSender) and self.has_voucher(client, leaf):
            return Ground.VOUCHER
        if self.may(self.view.policy.may_add, judge):
            raise PolicyViolation(
                "add", f"only an administrator adds {client} without proof that it is the account's", self.name(judge)
            )
        raise PolicyViolation("add", f"neither right nor proof to add {client}", self.name(judge))

    def _adds(self, judge: int, client: ClientIdentity, leaf: LeafNode) -> bool:
        """Whether somebody with `may_add` may add this client, given what the leaf proves; see the module."""
        policy, roster = self.view.policy, self.view.roster
        adder = roster.at(judge).account
        if policy.is_administrator(adder, roster):
            return True
        if client.account not in self.named and not roster.has_say(client.account):
            return self.adders[client.account] == {adder}
        return (
            (adder == client.account and self._stands(judge))
            or self._replaces(client, leaf)
            or self._holds_voucher(client, leaf)
        )

    def _replaces(self, client: ClientIdentity, leaf: LeafNode) -> bool:
        """Whether a leaf takes the place of a confirmed leaf of the same client with the same signature key."""
        index = self.view.roster.leaf_of(client)
        if index is None or not self.view.roster.counts(index):
            return False
        return index in self.removed and self.view.leaf(index).signature_key == leaf.signature_key

    def _adds_own(self, judge: int, client: ClientIdentity) -> bool:
        roster = self.view.roster
        return (
            self.view.policy.own_devices
            and roster.at(judge).account == client.account
            and self._stands(judge)
            and not (self.view.removed is not None and self.view.removed.bars_own_add(client))
        )

    def has_voucher(self, client: ClientIdentity, leaf: LeafNode, at: int | None = None) -> bool:
        """Whether a device of the same account, which stays in the group, vouches for the client.

        No voucher is valid if the policy lacks `own_devices`, if the client is on the list of removed clients, or if
        the group has no such list.

        :param at: seconds since the Unix epoch that the voucher's lifetime must include.  Inviters and committers pass
            it.  None, for the validity of a Commit, ignores the lifetime
        """
        return self.view.policy.own_devices and self._holds_voucher(client, leaf, at)

    def _holds_voucher(self, client: ClientIdentity, leaf: LeafNode, at: int | None = None) -> bool:
        """As :meth:`has_voucher`, whether or not the policy has `own_devices`: somebody with `may_add` adds."""
        removed = self.view.removed
        if removed is None or removed.bars(client):
            return False
        vouchers = DeviceVouchers.found_in(leaf.extensions)
        others = ((index, self.view.roster.at(index)) for index in self.view.roster.leaves_of(client.account))
        issuers = {str(other).encode(): index for index, other in others if other != client}
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
        """Whether the client at a leaf can act for its account: a confirmed member that the Commit does not remove."""
        return self.view.roster.counts(index) and index not in self.removed

    def _check_mark(self, leaf: LeafNode, client: ClientIdentity, *, wanted: bool) -> None:
        if is_newcomer(leaf) != wanted:
            raise PolicyViolation("newcomer", "the mark of a newcomer is missing, or out of place", str(client))


def _named_anew(effects: Effects) -> tuple[str, ...]:
    """The administrators in the policy that a Commit brings; whether it may bring that policy is another question."""
    try:
        policy = None if effects.extensions is None else RoomPolicy.found_in(effects.extensions.after)
    except PeerError:
        return ()
    return () if policy is None else policy.administrators


def _joins(change: MemberChange) -> bool:
    return isinstance(change.proposer, NewMemberCommitSender)


def _new_leaf(change: MemberChange) -> LeafNode:
    assert change.after is not None, "a Remove brings no leaf"
    return change.after
