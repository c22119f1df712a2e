"""A member that stays without the ratchet tree: it follows Commits by annotations (:mod:`.annotations`).

::

    a stanza that needs more than we know ──► Wanted ──► request ──► take ──► the stanza is examined again
                                                            └── no answer, or beyond us ──► the tree (:mod:`.partial`)

It names members that were proved to it.  A proof of an epoch's tree holds in later epochs as well, until a Commit
removes or replaces the leaf, for a Commit names those; the last :data:`CARRIED` are remembered.

*Following a Commit.*  A member must have signed that it counts, and every right is checked as far as proofs show it
(:mod:`slixmpp_mls.policy.without_tree`).  Keys, path and confirmation tag are checked as the draft says.  All this
happens in :meth:`Following.take`, before anything changes.  A Commit that an answer calls void is passed over: a full
member has seen that the policy or RFC 9420 forbids it.  A member that the Commit would remove, or make no administrator
any more, has no say in that: it could keep us in the epoch that the others have left, and lead us on from there.

*Answers prove themselves.*  One with a wrong proof, without one that it needs, for another Commit or from somebody
without the right is ignored, and the next one is awaited.  Of each account, at most :data:`ANSWERS_READ` are read for
one request; what does not decrypt is no member's, and does not count.  Nobody proves where the tree is: each place that
a member names is tried, and none is stored.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

from ...errors import InvalidError, MalformedError, MembershipUnproved, PeerError
from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.group.proposal_list import SentProposal
from ...mls.partial import PartialGroup, StagedPartialCommit, effects_without_tree, unverified_proposals
from ...mls.structures.framing import MemberSender, MLSMessage, NewMemberCommitSender, PublicMessage
from ...mls.structures.leaf_node import LeafNode
from ...mls.structures.partial import AnnotatedCommit, SenderAuthenticatedMessage
from ...mls.structures.proposals import GroupContextExtensions, ReInit, Remove, SelfRemove
from ...policy import GroupView, RoomPolicy
from ...policy.roster import Roster
from ...policy.without_tree import check_without_tree, may_vouch_for_commits
from ...stanza import elements
from ...stanza.blob import BlobReference, tree_limit
from ..device import Device
from .annotations import (
    MAX_ASKED,
    AnnotationKey,
    AnnotationRequest,
    Annotations,
    CommitVerdict,
    open_annotations,
    seal_request,
    verify_verdict,
)
from .room_contents import PartialMembership
from .room_state import RoomState

__all__ = ["ANSWERS_READ", "CARRIED", "Followed", "Following", "Wanted"]

CARRIED = 128
"""Members that are still known after a Commit, beside those that it proves."""
ANSWERS_READ = 16
"""Answers of one account that are read for one request: any member can send some."""
_PLACES = 64  # where a tree is said to be, of one epoch
_RULES = "urn:xmpp:mls:0 staying partial"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a member without the tree lacks to go on.

    :ivar members: leaf indices of the present epoch to be proved
    :ivar commit: the MLSMessage of a Commit that may end the epoch
    :ivar tree: whether it is where the ratchet tree is
    """

    members: tuple[int, ...] = ()
    commit: bytes = field(default=b"", repr=False)
    tree: bool = False

    @property
    def digest(self) -> bytes:
        """SHA-256 of the Commit; empty if there is none."""
        return sha256(self.commit).digest() if self.commit else b""


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A Commit that we may follow.

    :ivar staged: what it leads to, made in the present epoch
    :ivar effects: as far as they are known, see :func:`.effects_without_tree`
    """

    staged: StagedPartialCommit[PartialGroup] = field(repr=False)
    effects: Effects = field(repr=False)


class Following:
    """Asks for what a partial member lacks, and takes the answers.

    :ivar stays: whether we stay without the tree
    """

    def __init__(self, device: Device, state: RoomState) -> None:
        self.stays = False
        self._device = device
        self._state = state
        self._asked: Wanted | None = None
        self._read: Counter[str | None] = Counter()
        self._time = 0
        self._in_epoch: bytes = b""
        self._key: AnnotationKey | None = None
        self._followed: dict[bytes, Followed] = {}
        self._void: set[bytes] = set()
        self._beyond: set[bytes] = set()
        self._places: list[BlobReference] = []  # of the present epoch's tree, as members say
        self._tried = 0  # how many of them, the first ones, were tried

    # --- asking ---------------------------------------------------------------------------------

    def request(self, wanted: Wanted, now: int) -> elements.AnnotationRequest:
        """Ask for what we lack.

        :param now: seconds since the Unix epoch
        :raises UsageError: we are no partial member
        """
        group = self._state.require_partial().group
        self._asked = wanted
        self._read.clear()
        self._time = max(now, self._time + 1)
        request = AnnotationRequest(
            int(group.own_index), self._time, wanted.digest, wanted.members[:MAX_ASKED], int(wanted.tree)
        )
        return seal_request(self._key_of(group), group.signature_key, request, self._device.random)

    def has(self, wanted: Wanted) -> bool:
        """Whether we have all that we have asked for, or know that the Commit is beyond us."""
        partial = self._state.partial
        if partial is None:
            return True
        self._key_of(partial.group)
        proved = all(partial.group.tree.leaf(index) is not None for index in wanted.members)
        commit = not wanted.commit or wanted.digest in self._void | self._beyond | self._followed.keys()
        place = partial.location is not None or self._tried < len(self._places)
        return proved and commit and (not wanted.tree or place)

    def is_beyond_us(self, wanted: Wanted) -> bool:
        """Whether only a full member can judge the Commit, although there are annotations for it."""
        return bool(wanted.commit) and wanted.digest in self._beyond

    def _key_of(self, group: PartialGroup) -> AnnotationKey:
        """The present epoch's key; what was found in another epoch is forgotten."""
        epoch = group.public.confirmation_tag
        if self._key is None or self._in_epoch != epoch:
            self._in_epoch, self._key = epoch, AnnotationKey(group)
            self._followed.clear()
            self._void.clear()
            self._beyond.clear()
            self._places.clear()
            self._tried = 0
        return self._key

    # --- what was found -------------------------------------------------------------------------

    def is_void(self, commit: bytes) -> bool:
        """Whether an administrator's client says that a Commit of the present epoch is void."""
        return sha256(commit).digest() in self._void and self._is_current()

    def followed(self, commit: bytes) -> Followed | None:
        """A Commit that we may follow out of the present epoch; None if we do not know that."""
        return self._followed.get(sha256(commit).digest()) if self._is_current() else None

    def next_place(self) -> BlobReference | None:
        """Where the present epoch's tree may be, as a member says: a place that was not tried before, if there is one.

        :returns: None if nobody has said anything
        """
        if not self.hears_of_tree:
            return None
        if self._tried < len(self._places):
            self._tried += 1
            return self._places[self._tried - 1]
        self._places.append(self._places.pop(0))
        return self._places[-1]

    @property
    def hears_of_tree(self) -> bool:
        """Whether members have said where the present epoch's tree is."""
        return self._is_current() and bool(self._places)

    def _is_current(self) -> bool:
        partial = self._state.partial
        return partial is not None and partial.group.public.confirmation_tag == self._in_epoch

    # --- answers --------------------------------------------------------------------------------

    def take(self, element: elements.Annotations, claimed: str | None = None) -> bool:
        """Take an answer to our latest request, or to somebody else's that helps us as well.

        :param claimed: the account that the room says it is from
        :returns: whether something in it was of use
        :raises PeerError: it cannot be read, or it is wrong; at most, members are known whose proofs were right
        :raises StoreError: nothing has changed
        """
        partial, wanted = self._state.partial, self._asked
        if partial is None or wanted is None or partial.set_aside or (self.has(wanted) and not wanted.tree):
            return False
        group = partial.group
        if (element.group, element.epoch) != (group.group_id, group.epoch) or self._read[claimed] == ANSWERS_READ:
            return False
        key = self._key_of(group)
        answer = open_annotations(key, element)
        self._read[claimed] += 1
        proved = group
        for proof in answer.proofs:
            proved = proved.prove(proof)
        place = _place(answer, partial.policy) if wanted.tree else None
        if place is not None and place not in self._places and len(self._places) < _PLACES:
            self._places.append(place)
        if proved is not group:
            with self._state.change() as change:
                change.put_speaking(proved)
        verdict = answer.verdict
        if verdict is not None and wanted.commit and verdict.commit == wanted.digest:
            self._judge(self._state.require_partial(), key, answer, verdict, wanted.commit)
        return self.has(wanted)

    def _judge(
        self, partial: PartialMembership, key: AnnotationKey, answer: Annotations, verdict: CommitVerdict, commit: bytes
    ) -> None:
        group, policy = partial.group, partial.policy
        leaf = group.tree.member(verdict.member)
        if not may_vouch_for_commits(policy, leaf):
            raise InvalidError("a verdict of somebody who is no administrator", _RULES)
        verify_verdict(key, leaf.signature_key, verdict)
        if not verdict.counts:
            listed = unverified_proposals(group, MLSMessage.decode(commit))
            if any(_is_against(verdict.member, leaf, sent) for sent in listed):
                raise InvalidError("a word on its speaker's own removal", _RULES)
            self._void.add(verdict.commit)
            return
        staged = group.process(_annotated(group, answer, verdict, MLSMessage.decode(commit)), now=0)
        if not isinstance(staged, StagedPartialCommit):
            raise InvalidError("annotations of a Commit around another message", _RULES)
        try:
            effects = effects_without_tree(group, staged)
            view = GroupView.of(group.public, policy, Roster.of(group.members()))
            check_without_tree(view, effects, verdict.member)
        except MembershipUnproved:
            raise  # not the whole answer
        except PeerError:
            self._beyond.add(verdict.commit)  # valid, by the verdict; and not for us to judge
            return
        self._followed[verdict.commit] = Followed(staged, effects)


def _annotated(
    group: PartialGroup, answer: Annotations, verdict: CommitVerdict, commit: MLSMessage
) -> AnnotatedCommit | SenderAuthenticatedMessage | MLSMessage:
    """The Commit as the draft annotates it for us.

    :raises InvalidError: the answer has not what belongs to it
    """
    if answer.committer is None:
        raise InvalidError("a Commit that counts, without a proof of its committer", _RULES)
    body, index = commit.body, answer.committer.leaf_index
    joins = isinstance(body, PublicMessage) and isinstance(body.content.sender, NewMemberCommitSender)
    # RFC 9420 12.4.3.2: a joiner has no leaf before, even if its new one is in a place where one was.
    before = None if joins else next((proof for proof in answer.proofs if proof.leaf_index == index), None)
    mine = next((each for each in answer.receivers if each.proof.leaf_index == group.own_index), None)
    if mine is None:  # it removes us, or this is no answer to us
        return commit if before is None else SenderAuthenticatedMessage(commit, before)
    return AnnotatedCommit(commit, before, verdict.tree_hash_after, mine.resolution_index, answer.committer, mine.proof)


def _is_against(member: int, leaf: LeafNode, sent: SentProposal) -> bool:
    """Whether a proposal would remove a member, or have a policy that does not name its account as administrator."""
    proposal = sent.proposal
    if isinstance(proposal, Remove):
        return int(proposal.removed) == member
    if isinstance(proposal, SelfRemove):
        return sent.sender == MemberSender(member)
    if not isinstance(proposal, GroupContextExtensions | ReInit):
        return False
    try:
        policy = RoomPolicy.required_in(proposal.extensions)
    except PeerError:
        return False  # void for everybody
    return ClientIdentity.from_leaf(leaf).account not in policy.administrators


def _place(answer: Annotations, policy: RoomPolicy) -> BlobReference | None:
    """Where an answer says that the tree is; None also if that is larger than the policy allows a tree to be."""
    try:
        place = BlobReference.decode(answer.tree) if answer.tree else None
    except MalformedError:
        return None
    return None if place is None or place.size > tree_limit(policy.max_members) else place
