"""The changes that a Commit makes, known before it takes effect.

A staged Commit carries one :class:`Effects`.  The application reads it to decide whether to
accept the Commit: it says who comes, who goes, whose leaf is replaced, and at whose wish
(`proposer`) as opposed to by whose hand (`committer`).  It is a structure with a codec, so
that a commit waiting for its turn survives a restart.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from ..structures.extensions import Extension
from ..structures.framing import Sender
from ..structures.leaf_node import LeafNode
from ..structures.proposals import ReInit
from ..structures.psk import PreSharedKeyID
from ..tls import Enum, Struct, struct, uint32

__all__ = ["ChangeKind", "Effects", "ExtensionsChange", "MemberChange"]


class ChangeKind(IntEnum):
    """The fate of one leaf."""

    ADDED = 1
    UPDATED = 2
    REMOVED = 3


@struct
class MemberChange(Struct):
    """One leaf's fate: `before` is None for an Add, `after` for a Remove."""

    kind: Annotated[ChangeKind, Enum(ChangeKind)]
    proposer: Sender
    index: uint32
    before: LeafNode | None
    after: LeafNode | None


@struct
class ExtensionsChange(Struct):
    """The GroupContext's extensions are replaced."""

    proposer: Sender
    before: tuple[Extension, ...]
    after: tuple[Extension, ...]


@struct
class Effects(Struct):
    """All that a Commit does (RFC 9420 12.4)."""

    committer: Sender
    committer_index: uint32
    """The committer's leaf in the new epoch; an external joiner has one from then on."""
    changes: tuple[MemberChange, ...]
    extensions: ExtensionsChange | None
    psks: tuple[PreSharedKeyID, ...]
    reinit: ReInit | None

    def leaves_before(self) -> dict[int, LeafNode | None]:
        """The leaves that change, as they were before the Commit; None for blank ones."""
        # A leaf can change twice, when somebody is added in the place of a removed member: the first `before` counts.
        return {change.index: change.before for change in reversed(self.changes)}

    def of_kind(self, kind: ChangeKind) -> tuple[MemberChange, ...]:
        """The changes of one kind, in the order of the Commit."""
        return tuple([change for change in self.changes if change.kind == kind])

    @property
    def added(self) -> tuple[MemberChange, ...]:
        return self.of_kind(ChangeKind.ADDED)

    @property
    def updated(self) -> tuple[MemberChange, ...]:
        return self.of_kind(ChangeKind.UPDATED)

    @property
    def removed(self) -> tuple[MemberChange, ...]:
        return self.of_kind(ChangeKind.REMOVED)
