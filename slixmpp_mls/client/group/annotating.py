"""A full member that answers members without the ratchet tree (:mod:`.annotations`).

It remembers the trees of the last epochs, which share nearly all of their nodes, and of each epoch the key for
annotations, no other secret.  Nothing is stored: after a restart it answers for the epochs that follow.

*Who decides how often?*  Each leaf gets an answer about a Commit, a leaf or the tree :data:`TIMES` times in an epoch,
because an answer may not reach it (:data:`REQUESTS_OF_ONE` in all).  The caller sends at most :data:`ANSWERS` stanzas a
minute, and if there are many, accounts take turns.  A request that does not fit into these limits, or whose answer does
not fit into a stanza, is not answered, and the asker becomes a full member.

Another member's answer makes ours unnecessary only as far as it says what ours would say: proofs of the same leaves,
and for the same receivers the same index and proof.  Both are functions of the tree.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256

from ...errors import InvalidError, PeerError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import SignaturePrivateKey
from ...mls.group.commit_effects import Effects
from ...mls.group.staging import StagedCommit
from ...mls.partial import CommitAnnotations
from ...mls.structures.framing import MemberSender, NewMemberCommitSender, NewMemberProposalSender
from ...mls.structures.partial import MembershipProof
from ...mls.tree.ratchet_tree import RatchetTree
from ...mls.tree.tree_math import LeafIndex
from ...mls.tree.tree_slice import prove
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ...policy.without_tree import may_vouch_for_commits
from ...stanza import elements
from ...stanza.blob import BlobReference
from ..device import Device
from .annotations import (
    MAX_ANNOTATIONS,
    MAX_PROOFS,
    MAX_RECEIVERS,
    AnnotationKey,
    AnnotationRequest,
    Annotations,
    ReceiverAnnotation,
    open_annotations,
    open_request,
    seal_annotations,
    sign_verdict,
    verify_request,
    verify_verdict,
)
from .room_contents import Membership
from .room_state import RoomState

__all__ = ["ANSWERS", "KEPT_EPOCHS", "REQUESTS_OF_ONE", "TIMES", "Annotator"]

KEPT_EPOCHS = 64
"""Ended epochs that are answered for."""
REQUESTS_OF_ONE = 256
"""Items that one leaf gets answered in an epoch."""
TIMES = 3
"""Answers to one leaf about the same thing of an epoch."""
ANSWERS = 60
"""Answers in a minute, to all together."""
_EARLY = 256  # members that ask about what we have not read yet
_VOID = 64  # void Commits of one epoch that are remembered
_FURTHER = 49_152  # octets beyond which an answer has no second receiver
_MARKUP = 1024  # octets beside the proofs in an answer: more than verdict, signature and lengths take
_MINUTE = 60


@dataclass(frozen=True, slots=True)
class _Counted:
    """The Commit that has ended an epoch.

    :ivar digest: SHA-256 of its MLSMessage
    :ivar needed: leaves to be proved in the tree before it, whoever follows it
    """

    digest: bytes
    annotations: CommitAnnotations
    needed: tuple[LeafIndex, ...]


@dataclass(slots=True)
class _Epoch:
    """One epoch that is answered for.

    :ivar own: our leaf in it; and the key of that leaf
    :ivar policy: by which members judge who may vouch for a Commit (:mod:`slixmpp_mls.policy.without_tree`)
    :ivar vouches: whether our word on a Commit is enough
    :ivar void: digests of Commits that have not counted
    :ivar answered: by asking leaf: how often it has got an answer about what
    :ivar times: by asking leaf: the time in its latest request
    :ivar accounts: of the asking leaves
    """

    key: AnnotationKey
    tree: RatchetTree
    own: LeafIndex
    signature_key: SignaturePrivateKey
    policy: RoomPolicy
    vouches: bool
    void: dict[bytes, None] = field(default_factory=dict)
    counted: _Counted | None = None
    answered: dict[int, Counter[bytes | int | None]] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    accounts: dict[int, str] = field(default_factory=dict)
    place: BlobReference | None = None


@dataclass(slots=True)
class Due:
    """What is still to be answered, of one epoch: the items of each leaf.

    :ivar asked: by leaf: a digest of a Commit, a leaf index, or None for the tree
    """

    epoch: int
    asked: dict[int, set[bytes | int | None]] = field(default_factory=dict)

    @property
    def wants_tree(self) -> bool:
        """Whether somebody asks where the tree is."""
        return any(None in items for items in self.asked.values())


class Annotator:
    """Answers requests for annotations in one room's group.

    :ivar active: whether it does
    """

    def __init__(self, device: Device, state: RoomState) -> None:
        self.active = False
        self._device = device
        self._state = state
        self._epochs: dict[int, _Epoch] = {}  # ended ones, the oldest first
        self._present: _Epoch | None = None
        self._due: dict[int, Due] = {}
        self._early: dict[int, bytes] = {}  # by asking leaf: a Commit of the present epoch that we have not read yet
        self._answers: deque[tuple[int, frozenset[str]]] = deque(maxlen=ANSWERS)  # when, and to which accounts

    # --- what happens in the room ---------------------------------------------------------------

    def note_commit(self, before: Membership, staged: StagedCommit, message: bytes | None) -> None:
        """A Commit has ended the epoch of `before`.

        :param message: its MLSMessage; None if it is elsewhere, so that nobody can follow it without the tree
        """
        if not self.active or staged.next is None:
            self._present = None
            return
        epoch = self._of(before)
        if message is not None:
            annotations = CommitAnnotations.of(before.group.tree, staged, message)
            if (after := self._state.membership) is not None and after.group.context == staged.next.context:
                annotations = replace(annotations, tree=after.group.tree)  # the same in less memory
            needed = tuple(_needed(staged.effects, before.roster))
            epoch.counted = _Counted(sha256(message).digest(), annotations, needed)
        self._epochs[before.group.epoch] = epoch
        self._take_early(before.group.epoch, epoch)
        self._early.clear()
        while len(self._epochs) > KEPT_EPOCHS:
            self._due.pop(first := next(iter(self._epochs)), None)
            del self._epochs[first]
        self._present = None

    def note_void(self, message: bytes) -> None:
        """A Commit of the present epoch is void for all members alike.

        :param message: its MLSMessage
        """
        membership = self._state.membership
        if self.active and membership is not None:
            void = self._of(membership).void
            void[sha256(message).digest()] = None
            if len(void) > _VOID:
                del void[next(iter(void))]
            self._take_early(membership.group.epoch, self._of(membership))

    def _take_early(self, number: int, epoch: _Epoch) -> None:
        """Answer about what was asked before we had read it."""
        for asker, digest in list(self._early.items()):
            if self._can(epoch, asker, digest):
                del self._early[asker]
                self._due.setdefault(number, Due(number)).asked.setdefault(asker, set()).add(digest)

    def _of(self, membership: Membership) -> _Epoch:
        """The present epoch."""
        group = membership.group
        if self._present is None or self._present.key.context != group.context:
            own, policy = group.own_index, membership.policy
            vouches = may_vouch_for_commits(policy, group.tree.member(own))
            self._present = _Epoch(AnnotationKey(group), group.tree, own, group.signature_key, policy, vouches)
        return self._present

    def _find(self, element: elements.AnnotationElement) -> _Epoch | None:
        membership = self._state.membership
        if not self.active or membership is None or element.group != membership.group.group_id:
            return None
        return self._of(membership) if element.epoch == membership.group.epoch else self._epochs.get(element.epoch)

    # --- requests -------------------------------------------------------------------------------

    def take_request(self, element: elements.AnnotationRequest) -> bool:
        """Note what a request asks for.

        :returns: whether there is something to answer
        :raises PeerError: it cannot be read, or no member has signed it
        """
        epoch = self._find(element)
        if epoch is None:
            return False
        request = open_request(epoch.key, element)
        if request.asker == epoch.own:
            return False
        # RFC 9420 6.1: every member has the key; whose budget it is, the signature by the asker's leaf shows.
        leaf = epoch.tree.member(LeafIndex(request.asker))
        verify_request(epoch.key, leaf.signature_key, request)
        epoch.accounts[request.asker] = ClientIdentity.from_leaf(leaf).account
        if request.time <= epoch.times.get(request.asker, -1):
            return False  # the room shows it again
        epoch.times[request.asker] = request.time
        had = epoch.answered.setdefault(request.asker, Counter())
        items = {item for item in _items(request) if had[item] < TIMES}
        if epoch is self._present and epoch.vouches and request.commit in items and len(self._early) < _EARLY:
            self._early[request.asker] = request.commit
            self._take_early(element.epoch, epoch)
        items = {item for item in items if self._can(epoch, request.asker, item)}
        due = self._due.setdefault(element.epoch, Due(element.epoch))
        waiting = due.asked.get(request.asker, set()) | items
        if not items or had.total() + len(waiting) > REQUESTS_OF_ONE:
            return False
        due.asked[request.asker] = waiting
        return True

    @staticmethod
    def _can(epoch: _Epoch, asker: int, item: bytes | int | None) -> bool:
        """Whether we can answer about an item."""
        if item is None:
            return True
        if isinstance(item, int):
            return item < epoch.tree.leaf_count and epoch.tree.leaf(LeafIndex(item)) is not None
        counted = epoch.counted
        if not epoch.vouches:
            return False
        if counted is None or counted.digest != item:
            return item in epoch.void or counted is not None
        return len(counted.needed) < MAX_PROOFS and asker != counted.annotations.committer

    @property
    def due_epochs(self) -> list[int]:
        """The epochs of which something is still to be answered."""
        return [number for number, due in self._due.items() if due.asked]

    def due(self, epoch: int) -> Due | None:
        """What is still to be answered of an epoch; None if nothing is."""
        membership = self._state.membership
        if epoch not in self._epochs and (membership is None or epoch != membership.group.epoch):
            self._due.pop(epoch, None)  # we have left it without a Commit
        found = self._due.get(epoch)
        return found if found is not None and found.asked else None

    def must_wait(self, number: int, now: int) -> bool:
        """Whether we gave :data:`ANSWERS` answers in the last minute; or half as many, and it is others' turn.

        Otherwise any member could have us answer about one ended epoch after the other, and nobody else.

        :param number: an epoch that is due
        :param now: seconds since the Unix epoch
        """
        lately = [accounts for time, accounts in self._answers if abs(now - time) < _MINUTE]
        if len(lately) == ANSWERS:
            return True
        if 2 * len(lately) < ANSWERS:
            return False
        had = Counter(account for accounts in lately for account in accounts)
        due = {each: self._askers(each) for each in self.due_epochs}
        fewest = min((had[account] for accounts in due.values() for account in accounts), default=0)
        return all(had[account] > fewest for account in due.get(number, ()))

    def _askers(self, number: int) -> set[str]:
        """The accounts to which something of an epoch is due."""
        due = self.due(number)
        return set() if due is None else {self._epoch(number).accounts[leaf] for leaf in due.asked}

    def asking_for_tree(self, number: int) -> frozenset[str]:
        """The accounts that ask where the ratchet tree of an epoch is."""
        due = self.due(number)
        asked = {} if due is None else due.asked
        return frozenset(self._epoch(number).accounts[leaf] for leaf, items in asked.items() if None in items)

    def place_of(self, epoch: int) -> BlobReference | None:
        """Where we have uploaded the ratchet tree of an epoch that is due; None if we have not."""
        return self._epoch(epoch).place

    def tree_of(self, epoch: int) -> bytes:
        """The ratchet tree of an epoch that is due, encoded: in time proportional to the group."""
        return self._epoch(epoch).tree.encode()

    def _epoch(self, number: int) -> _Epoch:
        membership = self._state.require_member()
        return self._of(membership) if number == membership.group.epoch else self._epochs[number]

    # --- answers --------------------------------------------------------------------------------

    def answer(
        self, number: int, now: int, place: BlobReference | None = None, *, most: int = MAX_ANNOTATIONS
    ) -> elements.Annotations | None:
        """One answer to as much as fits of what is due in an epoch; it is due no longer.

        :param now: seconds since the Unix epoch
        :param place: where the epoch's tree is
        :param most: octets that fit into the stanza
        :returns: None if nothing is due that fits; nothing is due any more then
        :raises UsageError: we are not in the group
        """
        due = self.due(number)
        if due is None:
            return None
        epoch = self._epoch(number)
        epoch.place = place or epoch.place
        digest = next((item for items in due.asked.values() for item in items if isinstance(item, bytes)), None)
        annotations, served = self._make(epoch, due, digest, min(most, MAX_ANNOTATIONS))
        for leaf, items in served.items():
            due.asked[leaf] -= items
            epoch.answered.setdefault(leaf, Counter()).update(items)
            if not due.asked[leaf]:
                del due.asked[leaf]
        if not served:
            del self._due[number]  # it fits into no stanza
            return None
        self._answers.append((now, frozenset(epoch.accounts[leaf] for leaf in served)))
        return seal_annotations(epoch.key, annotations, self._device.random)

    def _make(
        self, epoch: _Epoch, due: Due, digest: bytes | None, most: int
    ) -> tuple[Annotations, dict[int, set[bytes | int | None]]]:
        """An answer about one Commit and about leaves, and what of the due items it serves."""
        proofs: dict[int, MembershipProof] = {}
        served: dict[int, set[bytes | int | None]] = {}
        octets, further = _MARKUP, min(_FURTHER, most)

        def with_leaves(leaves: Iterable[LeafIndex], limit: int) -> bool:
            nonlocal octets
            new = {int(leaf): prove(epoch.tree, leaf) for leaf in dict.fromkeys(leaves) if leaf not in proofs}
            size = sum(len(proof.encode()) for proof in new.values())
            if len(proofs) + len(new) > MAX_PROOFS or octets + size > limit:
                return False
            proofs.update(new)
            octets += size
            return True

        verdict, committer, receivers = None, None, list[ReceiverAnnotation]()
        counted = epoch.counted
        if digest is not None and counted is not None and counted.digest == digest:
            after = counted.annotations.after
            octets += len(after.encode())
            if with_leaves((epoch.own, *counted.needed), most):
                verdict = sign_verdict(
                    epoch.key, epoch.signature_key, epoch.own, digest, counted.annotations.tree.tree_hash()
                )
                committer = after
                for leaf in sorted(leaf for leaf, items in due.asked.items() if digest in items):
                    mine = _receiver(counted, LeafIndex(leaf))
                    size = 0 if mine is None else len(mine.encode())
                    if octets + size > (further if receivers else most) or len(receivers) == MAX_RECEIVERS:
                        break
                    octets += size
                    receivers += [] if mine is None else [mine]
                    served.setdefault(leaf, set()).add(digest)
        elif digest is not None and with_leaves((epoch.own,), most):
            verdict = sign_verdict(epoch.key, epoch.signature_key, epoch.own, digest, None)
            for leaf, items in due.asked.items():
                if digest in items:
                    served.setdefault(leaf, set()).add(digest)
        for leaf, items in due.asked.items():
            for item in sorted(each for each in items if isinstance(each, int)):
                if with_leaves((LeafIndex(item),), further if proofs else most):
                    served.setdefault(leaf, set()).add(item)
            if None in items and epoch.place is not None:
                served.setdefault(leaf, set()).add(None)
        place = epoch.place if due.wants_tree else None
        return (
            Annotations(
                tuple(proofs.values()), verdict, committer, tuple(receivers), b"" if place is None else place.encode()
            ),
            served,
        )

    def note_answer(self, element: elements.Annotations) -> None:
        """Another member's answer: as far as it says what ours would, ours is not due any more.

        :raises PeerError: it cannot be read
        """
        due, epoch = self._due.get(element.epoch), self._find(element)
        if due is None or epoch is None:
            return
        answer = open_annotations(epoch.key, element)
        proved = {
            proof.leaf_index
            for proof in answer.proofs
            if proof.leaf_index < epoch.tree.leaf_count
            and epoch.tree.leaf(LeafIndex(proof.leaf_index)) is not None
            and prove(epoch.tree, LeafIndex(proof.leaf_index)) == proof
        }
        digest = self._settles(epoch, answer, proved)
        for leaf, items in list(due.asked.items()):
            done: set[bytes | int | None] = {item for item in items if isinstance(item, int) and item in proved}
            if digest in items and digest is not None and self._serves(epoch, answer, LeafIndex(leaf), digest):
                done.add(digest)
            items -= done
            epoch.answered.setdefault(leaf, Counter()).update(done)
            if not items:
                del due.asked[leaf]

    def _settles(self, epoch: _Epoch, answer: Annotations, proved: set[int]) -> bytes | None:
        """The digest of the Commit about which an answer says what ours would; None if there is none."""
        verdict = answer.verdict
        if verdict is None or verdict.member not in proved:
            return None
        leaf = epoch.tree.member(LeafIndex(verdict.member))
        if not may_vouch_for_commits(epoch.policy, leaf):
            return None  # who has asked does not believe it
        try:
            verify_verdict(epoch.key, leaf.signature_key, verdict)
        except PeerError:
            return None
        counted = epoch.counted
        if counted is not None and counted.digest == verdict.commit:
            same = bool(verdict.counts) and verdict.tree_hash_after == counted.annotations.tree.tree_hash()
            whole = answer.committer == counted.annotations.after and proved.issuperset(counted.needed)
            return verdict.commit if same and whole else None
        return None if verdict.counts else verdict.commit

    @staticmethod
    def _serves(epoch: _Epoch, answer: Annotations, leaf: LeafIndex, digest: bytes) -> bool:
        counted = epoch.counted
        if counted is None or counted.digest != digest:
            return True
        mine = _receiver(counted, leaf)
        return mine is None or mine in answer.receivers


def _items(request: AnnotationRequest) -> set[bytes | int | None]:
    items: set[bytes | int | None] = set(request.members)
    if request.commit:
        items.add(request.commit)
    if request.tree:
        items.add(None)
    return items


def _receiver(counted: _Counted, leaf: LeafIndex) -> ReceiverAnnotation | None:
    """The part for one receiver; None for one that the Commit removes."""
    try:
        annotated = counted.annotations.for_receiver(leaf)
    except InvalidError:
        return None
    return ReceiverAnnotation(annotated.resolution_index, annotated.receiver_membership_proof_after)


def _needed(effects: Effects, roster: Roster) -> list[LeafIndex]:
    """Leaves of the epoch before a Commit that show who may make it: see :mod:`slixmpp_mls.policy.without_tree`."""
    found: dict[LeafIndex, None] = {}
    senders = [effects.committer, *(change.proposer for change in effects.changes)]
    if effects.extensions is not None:
        senders.append(effects.extensions.proposer)
    for sender in senders:
        if isinstance(sender, MemberSender):
            found[LeafIndex(sender.leaf_index)] = None
    for change in effects.changes:
        if change.before is not None:
            found[LeafIndex(change.index)] = None
        elif change.after is not None and isinstance(change.proposer, NewMemberCommitSender | NewMemberProposalSender):
            # Whose voucher it may have, or which leaf it replaces.
            account = ClientIdentity.from_leaf(change.after).account
            found.update((LeafIndex(leaf), None) for leaf in roster.leaves_of(account))
    return list(found)
