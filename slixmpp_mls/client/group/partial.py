"""A membership without the ratchet tree, until the tree is there (draft-ietf-mls-partial).

::

    JoinPartially ──► reads and sends in this epoch ──► verify (another thread) ──► complete ──► a full member
                        └── a Commit, a Proposal, an unproved sender: the reader waits at that stanza ──┘

A partial member knows two members, its inviter and itself.  It reads what they send and sends itself.  It cannot judge
anything else: the right to commit, add or remove depends on the members.  The policy's checks are not skipped, so a
stanza that needs them is *held*.  The reader goes no further; our place in the room stays before the stanza, and the
room's order is kept.  Therefore the epoch does not end, and the tree that the Welcome has named is the right one,
however late it arrives.  It is verified as on joining: its hash is the one that the confirmation tag has confirmed.

A member that stays without the tree asks for annotations at such a stanza, and follows Commits by them
(:mod:`.following`).  In a later epoch than its first one, it does not know where the tree is, and asks for that, too.

*A tree that is not to be had.*  The group's state stays, because a server that withholds a file proves nothing.
At a stanza that is held, the membership is :meth:`~Partial.set_aside`: our place is stored, and the room is read on as
by an outsider, which may find another Welcome for us.  When the tree is there after all, the room is read again from
the stored place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ...errors import UsageError
from ...mls.partial import PartialGroup
from ...mls.structures.leaf_node import LeafNode
from ...mls.tree.tree_math import LeafIndex
from ...mls.tree.tree_validation import VerifiedTree
from ...policy.roster import Roster
from ..device import Device
from ..events import Event, Joined
from ..member import Member
from ..storage.doubts import Doubt, Doubts
from ..storage.records import MembershipState
from .room_contents import Membership, PartialMembership
from .room_state import RoomState
from .tree_leaves import TreeLeaves

__all__ = ["CheckedTree", "Partial", "verify"]


@dataclass(frozen=True, slots=True)
class CheckedTree:
    """The whole tree of a partial member's group, verified.

    :ivar roster: of its members
    :ivar leaves: those that have not been judged yet: all but ours
    """

    tree: VerifiedTree = field(repr=False)
    roster: Roster = field(repr=False)
    leaves: Sequence[LeafNode] = field(repr=False)


def verify(group: PartialGroup, octets: bytes) -> CheckedTree:
    """Verify the tree of a partial member's group (RFC 9420 12.4.3.1).  It is meant for another thread.

    :param group: as it was when this began; it may read and send meanwhile
    :param octets: the content of a `ratchet_tree` extension
    :raises MalformedError: they do not parse
    :raises InvalidError: it is not the group's tree, it is not acceptable, or a leaf names no client
    """
    tree = group.verify(octets)
    roster = Roster.of_outlines(tree.outlines())
    return CheckedTree(tree, roster, TreeLeaves(tree, roster, group.own_index))


class Partial:
    """Makes a full member of a partial one."""

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state

    @property
    def membership(self) -> PartialMembership | None:
        """None unless we are in the group without its tree."""
        return self._state.partial

    @property
    def follows(self) -> bool:
        """Whether we are a partial member that reads the room in order."""
        return self._state.partial is not None and not self._state.partial.set_aside

    def set_aside(self) -> None:
        """Read on as an outsider: the tree is not to be had, and the next stanza needs it.

        :raises StoreError: nothing has changed
        """
        partial = self._state.partial
        if partial is not None and not partial.set_aside and self._state.record.cursor:
            with self._state.change() as change:
                change.put_place(self._state.record.cursor)

    def complete(self, checked: CheckedTree, doubts: Iterable[Doubt]) -> list[Event]:
        """We have the tree, and are a full member.

        :param doubts: about its leaves
        :raises UsageError: we are no partial member any more, or one in another epoch
        :raises StoreError: nothing has changed
        """
        state, partial = self._state, self._state.partial
        if partial is None:
            raise UsageError(f"no partial member of the group in {state.room}")
        group = partial.group.complete(checked.tree)
        membership = Membership(group, checked.roster, partial.policy, Doubts(doubts))
        record, outside = replace(state.record, state=MembershipState.MEMBER), state.outside
        if partial.set_aside:
            record, outside = replace(record, cursor=partial.whole_tree.place, commits=b""), outside.pace()
        inviter = LeafIndex(partial.whole_tree.inviter)
        by = None if inviter == group.own_index else Member.of(inviter, group.tree.member(inviter))
        with state.change() as change:
            change.complete_membership(membership)
            change.put_record(record)
            change.put_outside(outside)
        return [Joined(state.room, group.epoch, by)]
