"""Decides whether a client without the ratchet tree may follow a Commit.

The verdict of :func:`~.check.check` must not differ between members, or they are in different groups.  It depends on
the members, of whom such a client knows a few (draft-ietf-mls-partial).  Two things together replace the others:

*The word of an administrator.*  A client of an account that the policy names as administrator has signed that the
Commit counts, after it has checked it with the tree.  Its leaf is proved, and it is a confirmed member.  That covers
what no proof shows: that no client has two leaves, that no limit is exceeded, that no key is in the tree twice.  An
administrator that lies can cut this client off from the group.  It can also remove it.

*An own check of every right.*  :func:`~.check.check` itself runs, on the proved members: the committer, who proposed
something, and every leaf that is removed or replaced.  Its answers hold for the whole group if these conditions do:

=====================================  ============================================================================
condition                              reason
=====================================  ============================================================================
a confirmed member of an administrator only then nobody else is an administrator, and no newcomer has a member's
account is proved                      rights: both depend on whether there is such a member
no PSK, no ReInit, no change of the    these are rare, and whether an administrator remains depends on all members
extensions but of the removed clients
the list of removed clients is not     of a list that is, who is in the group decides what goes
full
a new leaf: `RETURN`, `VOUCHER`,       the other grounds depend on whether the client's account has members
`OWN_DEVICE`, or `RIGHT` of an
administrator
=====================================  ============================================================================

A Commit that this does not allow may be valid all the same.  The caller gets the tree before it goes on.
"""

from __future__ import annotations

from ..errors import InvalidError
from ..identity import ClientIdentity
from ..mls.group.commit_effects import Effects
from ..mls.structures.framing import MemberSender
from ..mls.structures.leaf_node import LeafNode
from .admission import Ground
from .check import Verdict, check, is_bookkeeping
from .proofs import is_newcomer
from .removed_clients import MAX_REMOVED, RemovedClients
from .room_policy import RoomPolicy
from .view import GroupView

__all__ = ["check_without_tree", "may_vouch_for_commits"]

_RULES = "urn:xmpp:mls:0 staying partial"


def may_vouch_for_commits(policy: RoomPolicy, leaf: LeafNode) -> bool:
    """Whether a member, to others that lack the tree, may say that a Commit counts: an administrator's, confirmed.

    :param policy: of the epoch that the Commit ends
    :param leaf: the member's, which is in the tree of that epoch
    """
    return ClientIdentity.from_leaf(leaf).account in policy.administrators and not is_newcomer(leaf)


def check_without_tree(view: GroupView, effects: Effects, voucher: int) -> Verdict:
    """Check a Commit for a client that knows some members.

    :param view: the group before the Commit, with the roster of the proved members
    :param effects: the changes that the Commit makes; all whose leaf changes, and who wants that, are in the roster
    :param voucher: leaf of the client that has signed that the Commit counts
    :returns: as :func:`~.check.check`, with the roster of the proved members
    :raises PeerError: the Commit cannot be allowed without the tree, or not at all
    """
    if not may_vouch_for_commits(view.policy, view.leaf(voucher)):
        raise InvalidError("a Commit on the word of somebody who is no administrator", _RULES)
    if effects.psks or effects.reinit is not None:
        raise InvalidError("a PSK or a ReInit, which only full members judge", _RULES)
    if effects.extensions is not None and not is_bookkeeping(effects.extensions):
        raise InvalidError("a change of the policy, which only full members judge", _RULES)
    listed = view.removed or RemovedClients()
    if effects.removed and len(listed.clients) + len(effects.removed) > MAX_REMOVED:
        raise InvalidError("a removal while the list of removed clients is full, which only full members judge", _RULES)
    verdict = check(view, effects)
    adders = [_wisher(effects, change.proposer) for change in effects.added]
    for arrival, adder in zip(verdict.arrivals, adders, strict=True):
        if arrival.ground is Ground.RIGHT and not _is_administrator(view, adder):
            raise InvalidError(f"whether {arrival.client} may be added depends on members that are not proved", _RULES)
        if arrival.ground is Ground.NEWCOMER:
            raise InvalidError(f"whether {arrival.client} may join depends on members that are not proved", _RULES)
    return verdict


def _wisher(effects: Effects, proposer: object) -> int | None:
    for sender in (proposer, effects.committer):
        if isinstance(sender, MemberSender):
            return sender.leaf_index
    return None


def _is_administrator(view: GroupView, leaf: int | None) -> bool:
    return leaf is not None and may_vouch_for_commits(view.policy, view.leaf(leaf))
