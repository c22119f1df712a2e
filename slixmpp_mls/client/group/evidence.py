"""The evidence that entitles us to delete a group's keys.

No key is deleted without proof.  A group's state ends only by a message signed by a key in the tree, or because our own
user wants it.  Messages of the room's server, and their absence, never end it; they make us unsure
(:mod:`.certainty`).  Only :meth:`.room_change.Change.end_membership` deletes the keys, and it requires the evidence.
``docs/deletion-of-keys.md`` has the same table, with a test for each row.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Evidence"]


class Evidence(Enum):
    """The reason for which a group's state is deleted."""

    REMOVED = "a valid Commit, signed by a member or by one that joins, removes us, or our leaf of this state"
    RETURNED = "we are in the same group again, by a Welcome or by our own external Commit"
    CONTINUED = "the group that follows ours after a ReInit has let us in"
    COPIED = "our own key has signed what this state has not: it is a copy of another one (RFC 9420 9.2)"
    WISH = "our own user wants it, or a call of it that was to make the group has failed"
    NO_STATE = "there is no state"
