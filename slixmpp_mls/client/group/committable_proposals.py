"""Selects the waiting proposals that our Commit covers (RFC 9420 12.4, and the group's policy).

Any member may propose anything, so all members may have to ignore every Commit of a waiting proposal.  Such a proposal
must not enter our Commit.  It must not prevent us from sending either, although no application data may be sent while
proposals wait.  It is not dropped: another Commit may still refer to it, and members differ in what they may commit,
because the committer alone is accountable for an outsider's proposal.

The committer is judged for a PSK, so a PSK that another member proposes without that right is omitted by all.

A proposal is omitted if RFC 9420 does not let us commit it (:mod:`slixmpp_mls.mls.group.proposal_selection`), if the
policy does not, or if the caller does not want it.  Proposals that the policy allows on their own are selected first,
so that forbidden ones cannot displace them.

A client that has lost its state sends a new member's Add (RFC 9420 12.1.8) and proves that a leaf in the group is its
own (:mod:`slixmpp_mls.policy.proofs`).  The same Commit removes the old leaf by the committer's own Remove.  If another
proposal removes that leaf, or a leaf of the same account, for another reason, the Add is omitted; otherwise it would
turn a removal into its opposite.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ...errors import InvalidError, PeerError, UsageError
from ...identity import ClientIdentity
from ...mls.group.commit_effects import ChangeKind, Effects, ExtensionsChange, MemberChange
from ...mls.group.group import Group
from ...mls.group.group_state import no_psks
from ...mls.group.proposal_list import SentProposal
from ...mls.group.proposal_selection import choose_valid
from ...mls.structures.framing import MemberSender, NewMemberProposalSender
from ...mls.structures.proposals import (
    Add,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    Update,
)
from ...mls.structures.psk import PreSharedKeyID
from ...mls.tree.leaf_validation import LeafRules
from ...mls.tree.tree_math import LeafIndex
from ...policy import GroupView, proves_return
from ...policy.admission import JudgedCommit
from ...policy.check import check, judge, may_commit_psks

__all__ = ["Committable", "committable", "effects_of", "is_permitted", "is_vouched_for", "returning_to"]


@dataclass(frozen=True, slots=True)
class Committable:
    """The proposals that a Commit of ours would cover.

    :ivar waiting: proposals by reference
    :ivar replaced: our own Removes of the leaves of clients that are added afresh
    """

    waiting: tuple[SentProposal, ...] = ()
    replaced: tuple[SentProposal, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.waiting)


def committable(
    group: Group,
    view: GroupView,
    *,
    beside: Sequence[SentProposal] = (),
    unwanted: Collection[bytes] = (),
    rules: LeafRules | None = None,
) -> Committable:
    """The waiting proposals that a Commit of ours would cover.

    :param beside: what it holds anyway
    :param unwanted: references of those that it must not cover
    :param rules: to leave out KeyPackages that have expired meanwhile
    """
    me = MemberSender(group.own_index)
    waiting = [
        sent for sent in group.pending_proposals if sent.reference not in unwanted and not _shuts_out(sent, view)
    ]
    rightful = (sent for sent in waiting if _removal(sent) is not None and is_permitted(group, view, (sent,)))
    leaves = [leaf for sent in (*beside, *rightful) if (leaf := _removal(sent)) is not None]
    excluded = {view.roster.at(leaf).account for leaf in leaves if group.tree.leaf(leaf) is not None}
    # A removal needs the list of removed clients, so it excludes others' changes of the GroupContext: it goes first.
    waiting = sorted((sent for sent in waiting if not _asks_for(sent, excluded)), key=_changes_context)
    old_leaves: dict[bytes | None, SentProposal] = {}
    for sent in waiting:
        leaf = returning_to(sent, view)
        if leaf is not None and leaf != group.own_index:
            old_leaves[sent.reference] = SentProposal(Remove(LeafIndex(leaf)), me)

    def replacing(some: Sequence[SentProposal]) -> tuple[SentProposal, ...]:
        return tuple(old_leaves[sent.reference] for sent in some if sent.reference in old_leaves)

    def allowed(some: Sequence[SentProposal]) -> bool:
        return is_permitted(group, view, (*replacing(some), *some))

    chosen: tuple[SentProposal, ...] = ()
    alone = [sent for sent in waiting if allowed((sent,))]
    by_itself = set(map(id, alone))
    for part in (alone, [sent for sent in waiting if id(sent) not in by_itself]):
        fixed = (*beside, *chosen)
        valid = choose_valid(
            part,
            me,
            group.tree,
            group.context,
            beside=(*fixed, *old_leaves.values()),
            rules=rules,
            available=lambda name: group.find_psk(name.psk, no_psks) is not None,
        )
        chosen += _fitting(valid, lambda some, fixed=fixed: allowed((*fixed, *some)))  # type: ignore[misc]
    return Committable(chosen, replacing(chosen))


def _removal(sent: SentProposal) -> int | None:
    """The leaf that a proposal removes."""
    if isinstance(sent.proposal, Remove):
        return int(sent.proposal.removed)
    if isinstance(sent.proposal, SelfRemove) and isinstance(sent.sender, MemberSender):
        return sent.sender.leaf_index
    return None


def _shuts_out(sent: SentProposal, view: GroupView) -> bool:
    """Whether somebody proposes a PSK who may not commit it: by our right it would shut out whoever lacks the PSK."""
    if not isinstance(sent.proposal, PreSharedKey):
        return False
    return not may_commit_psks(view, sent.sender.leaf_index if isinstance(sent.sender, MemberSender) else None)


def _changes_context(sent: SentProposal) -> bool:
    return isinstance(sent.proposal, GroupContextExtensions)


def _asking(sent: SentProposal) -> ClientIdentity | None:
    """The client that asks by this proposal to be added, if that is what it does."""
    if not isinstance(sent.sender, NewMemberProposalSender) or not isinstance(sent.proposal, Add):
        return None
    try:
        return ClientIdentity.from_leaf(sent.proposal.key_package.leaf_node)
    except InvalidError:
        return None


def returning_to(sent: SentProposal, view: GroupView) -> int | None:
    """The leaf that a client asks to come back in place of, if it proves that it is the same client."""
    client = _asking(sent)
    index = None if client is None else view.roster.leaf_of(client)
    if index is None or not isinstance(sent.proposal, Add):
        return None
    try:
        proven = proves_return(view.suite, view.group_id, view.leaf(index), sent.proposal.key_package.leaf_node)
    except PeerError:
        return None
    return index if proven else None


def is_vouched_for(group: Group, view: GroupView, sent: SentProposal, now: int) -> bool:
    """Whether a client that asks to be added has a voucher that is valid now, by a device in the group.

    :param now: seconds since the Unix epoch
    """
    client, effects = _asking(sent), effects_of(group, (sent,))
    if client is None or effects is None or not isinstance(sent.proposal, Add):
        return False
    try:
        return JudgedCommit.of(view, effects).has_voucher(client, sent.proposal.key_package.leaf_node, now)
    except PeerError:
        return False


def _asks_for(sent: SentProposal, accounts: Collection[str]) -> bool:
    client = _asking(sent)
    return client is not None and client.account in accounts


def _fitting(
    proposals: Sequence[SentProposal], allowed: Callable[[Sequence[SentProposal]], bool]
) -> tuple[SentProposal, ...]:
    """As many of them as are allowed together, found by halving: cheap if few are bad."""
    fitting: list[SentProposal] = []
    batches = [list(proposals)]
    while batches:
        batch = batches.pop()
        if not batch:
            continue
        if allowed((*fitting, *batch)):
            fitting += batch
        elif len(batch) > 1:
            half = len(batch) // 2
            batches += [batch[half:], batch[:half]]
    return tuple(fitting)


def is_permitted(group: Group, view: GroupView, proposals: Sequence[SentProposal]) -> bool:
    """Whether the policy allows a Commit of ours with these proposals.

    The list of removed clients is ours to add, unless there are other extensions among the proposals.
    """
    effects = effects_of(group, proposals)
    try:
        if effects is None or effects.extensions is None:
            return effects is not None and bool(judge(view, effects))
        return bool(check(view, effects))
    except (PeerError, UsageError):  # PolicyViolation is one; UsageError: it is about a leaf where nobody is
        return False


def effects_of(group: Group, proposals: Sequence[SentProposal]) -> Effects | None:
    """The effects of these proposals, as far as the policy asks; None if they concern an empty leaf."""
    try:
        return _effects(group, proposals)
    except InvalidError:
        return None


def _effects(group: Group, proposals: Sequence[SentProposal]) -> Effects:
    changes: list[MemberChange] = []
    extensions: ExtensionsChange | None = None
    reinit: ReInit | None = None
    psks: list[PreSharedKeyID] = []
    free = group.tree.leaf_count  # where exactly somebody arrives does not matter to the policy
    for sent in proposals:
        proposal, sender = sent.proposal, sent.sender
        if isinstance(proposal, Add):
            leaf = proposal.key_package.leaf_node
            changes.append(MemberChange(ChangeKind.ADDED, sender, LeafIndex(free), None, leaf))
            free += 1
        elif isinstance(proposal, Update) and isinstance(sender, MemberSender):
            index = LeafIndex(sender.leaf_index)
            before = group.tree.member(index)
            changes.append(MemberChange(ChangeKind.UPDATED, sender, index, before, proposal.leaf_node))
        elif isinstance(proposal, Remove):
            index = LeafIndex(proposal.removed)
            changes.append(MemberChange(ChangeKind.REMOVED, sender, index, group.tree.member(index), None))
        elif isinstance(proposal, SelfRemove) and isinstance(sender, MemberSender):
            index = LeafIndex(sender.leaf_index)
            changes.append(MemberChange(ChangeKind.REMOVED, sender, index, group.tree.member(index), None))
        elif isinstance(proposal, GroupContextExtensions):
            extensions = ExtensionsChange(sender, group.context.extensions, proposal.extensions)
        elif isinstance(proposal, PreSharedKey):
            psks.append(proposal.psk)
        elif isinstance(proposal, ReInit):
            reinit = proposal
    return Effects(MemberSender(group.own_index), group.own_index, tuple(changes), extensions, tuple(psks), reinit)
