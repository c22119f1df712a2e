"""Partial membership: a member that does not have the ratchet tree (draft-ietf-mls-partial).

Theory of operation
-------------------

All members of an epoch agree on the hash of the ratchet tree, because it is in the GroupContext and so in every key.
A *membership proof* shows one leaf under that hash: the nodes above it and the hashes beside them, O(log n) octets.
A partial member joins with two proofs, that of its inviter and its own, and follows each Commit with those of the
committer and its own before and after.  Somebody who has the tree makes them (:mod:`.annotations`); they are not
signed and need not be, for a wrong one does not fit the confirmed hash.

========================================  ====================================================================
a full member                             a partial member
========================================  ====================================================================
knows every member                        knows the members that were proved to it in this epoch
checks every Commit's proposals           checks a Commit's signature, its path and its confirmation tag, and of its
                                          list of proposals only what the list alone tells
makes Commits                             makes none; reads, sends, proposes, and becomes a full member
========================================  ====================================================================

A partial member thus relies on the full members to refuse a Commit that puts a bad tree into the group.  It can send
messages that all others read, and nobody outside reads what it sends: its keys are those of the group.

::

    staged = PartialGroup.join(annotated_welcome, bundle)       # milliseconds, whatever the group's size
    carol = staged.state
    received = carol.process(sender_authenticated_message, now=now)
    carol = carol.apply(received, now=now)
    carol = carol.apply(carol.process(annotated_commit, now=now), now=now)
    carol = carol.upgrade(ratchet_tree)                         # a full Group
"""

from .annotations import CommitAnnotations, annotate_welcome, authenticate_sender
from .commit_processing import StagedPartialCommit
from .effects import effects_without_tree, unverified_proposals
from .joining import StagedPartialJoin
from .partial_group import PartialGroup

__all__ = [
    "CommitAnnotations",
    "PartialGroup",
    "StagedPartialCommit",
    "StagedPartialJoin",
    "annotate_welcome",
    "authenticate_sender",
    "effects_without_tree",
    "unverified_proposals",
]
