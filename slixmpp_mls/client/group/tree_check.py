"""The verification of a large ratchet tree before we join with it, as work that another thread can do.

::

    Welcome ──► examine ── the tree is large ──► Step.check ──► TreeCheck.run (another thread) ──► CheckedWhole
                   ▲                                                                                    │
                   └────────────────────── the same stanza, Incoming.with_checked ──────────────────────┘

Decoding a tree, and verifying its leaves, takes time in proportion to its size: over a second for 10,000 members.  That
is pure: it reads what a Welcome says and changes nothing.  So it can be given up at any time, and whatever it ends with
counts only for a Welcome that says the same.  A small tree is verified at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import PeerError
from ...mls.group.group_state import PublicGroup
from ...mls.group.joining import public_of
from ...mls.registry import ExtensionType
from ...mls.structures.welcome import GroupInfo
from ...policy.roster import Roster

__all__ = ["LARGE", "CheckedWhole", "TreeCheck"]

LARGE = 1 << 16
"""Octets from which a tree is verified in another thread: those of some 300 members, which take 20 ms."""


@dataclass(frozen=True, slots=True)
class TreeCheck:
    """What is to be verified (RFC 9420 12.4.3.1).

    :ivar group_info: of a Welcome for us
    :ivar tree: the content of its ratchet_tree extension, from beside it; None if it is inside
    :ivar lifetime_limit: the longest lifetime that a leaf may have, seconds (RFC 9420 7.2)
    """

    group_info: GroupInfo = field(repr=False)
    tree: bytes | None = field(repr=False)
    lifetime_limit: int

    @property
    def octets(self) -> int:
        """Size of the tree; 0 if there is none."""
        if self.tree is not None:
            return len(self.tree)
        found = (each for each in self.group_info.extensions if each.extension_type == ExtensionType.RATCHET_TREE)
        return sum(len(each.extension_data) for each in found)

    def run(self) -> CheckedWhole:
        """Verify it.  It is meant for another thread, and raises nothing of a peer's."""
        try:
            public = public_of(self.group_info, tree=self.tree, lifetime_limit=self.lifetime_limit)
            return CheckedWhole(self, public, Roster.of_outlines(public.tree.outlines()))
        except PeerError as error:
            return CheckedWhole(self, error=error)


@dataclass(frozen=True, slots=True)
class CheckedWhole:
    """The result.

    :ivar check: what was verified
    :ivar public: the group's public state; None if the tree is not acceptable
    :ivar roster: of its members
    :ivar error: why it is not acceptable
    """

    check: TreeCheck = field(repr=False)
    public: PublicGroup | None = field(default=None, repr=False)
    roster: Roster | None = field(default=None, repr=False)
    error: PeerError | None = None
