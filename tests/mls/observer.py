"""Following a group without being in it: a service, say, that hands out its tree (RFC 9420 3.2, 12.4).

Everything public can be followed as long as handshake messages travel as PublicMessages: who is a
member, with which keys.  A follower checks all that a member checks and for which no secret is
needed: signatures, lists of proposals, paths, leaves.  It cannot tell whether a Commit's
confirmation tag and a message's membership tag are right, so that a *member* can lead it astray
(not an outsider); members themselves would refuse such a Commit.

::

    public = follow(group_info)
    followed = process(public, message, now=now)
    public = followed.next
"""

from __future__ import annotations

from collections.abc import MutableSet
from dataclasses import dataclass

from slixmpp_mls.errors import InvalidError, NotForUs
from slixmpp_mls.mls.group.commit_effects import Effects
from slixmpp_mls.mls.group.group_state import PublicGroup
from slixmpp_mls.mls.group.joining import public_of
from slixmpp_mls.mls.group.message_processing import check_version, open_public, take_proposal
from slixmpp_mls.mls.group.proposal_list import SentProposal
from slixmpp_mls.mls.group.staging import new_context, public_group, stage_public
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.framing import MLSMessage, PrivateMessage, PublicMessage
from slixmpp_mls.mls.tree.leaf_validation import LeafRules

__all__ = ["FollowedCommit", "FollowedProposal", "follow", "process"]

follow = public_of


@dataclass(frozen=True, slots=True)
class FollowedProposal:
    """A proposal that a Commit may now refer to.

    :ivar next: the public state in which it waits
    """

    sent: SentProposal
    next: PublicGroup


@dataclass(frozen=True, slots=True)
class FollowedCommit:
    """A Commit.

    :ivar effects: what it changes
    :ivar next: the public state of the next epoch
    """

    effects: Effects
    next: PublicGroup


def process(
    public: PublicGroup,
    message: bytes | MLSMessage,
    *,
    parameters: Parameters | None = None,
    remembered: MutableSet[bytes] | None = None,
) -> FollowedProposal | FollowedCommit:
    """The effect of a message, for a follower of the group.  Changes nothing.

    :param remembered: signatures verified before
    :raises NotForUs: it is encrypted
    :raises PeerError: it is not valid
    """
    if isinstance(message, bytes):
        message = MLSMessage.decode(message)
    check_version(message)
    body = message.body
    if isinstance(body, PrivateMessage):
        raise NotForUs("encrypted: only members can read it", "RFC 9420 6.3")
    if not isinstance(body, PublicMessage):
        raise InvalidError(f"{message.wire_format.name} is no message inside a group", "RFC 9420 6")
    limits = parameters or Parameters()
    rules = LeafRules(None, limits.lifetime_limit, 0, remembered)
    content = open_public(public, body, None)
    if not isinstance(content.content.content, Commit):
        sent = take_proposal(public, content, rules)
        return FollowedProposal(sent, public.with_proposal(sent, limits))
    staged = stage_public(public, content, rules)
    context = new_context(public.suite, public.interim_transcript_hash, staged.provisional, content)
    tag = content.confirmation_tag
    assert tag is not None  # the structure's own rule for Commits
    return FollowedCommit(staged.effects, public_group(context, staged.tree, tag))
