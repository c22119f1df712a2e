"""Chooses, of the GroupInfos that a room shows, the one by which we can join the group.

::

    GroupInfos, oldest first ──► the state that we know ──► the next one that is accepted ──► ... ──► the latest

Whether the Commit beside a GroupInfo counts cannot be told from outside the group.  Any occupant can send a Commit that
is void for all members, and a GroupInfo of the state to which it would lead: a client that joined there would be alone
with the occupant's leaves.  Therefore each GroupInfo is judged by a state that is known already
(:func:`~slixmpp_mls.policy.later_state.check_later`): its signer can have brought about the difference alone.  An
accepted state becomes the one by which later GroupInfos in the room are judged.

*The first known state.*  For a client that has lost the group it is the last state that it had.  A client that was
never a member believes one of these, in this order:

1. the latest that a device of its own account has signed which vouches for it, or what stood before it for the same
   epoch, if that is accepted: the Commit of that device has come second then;
2. the first GroupInfo of epoch 1, beside the creation of the group, if an administrator has signed it;
3. the first GroupInfo that an account with all rights by its own policy has signed, or else the first one.  A client
   that was never a member can read a GroupInfo only where the policy lets anybody join.

The last two are no proofs: the room's server can fabricate them in the names of others.  The caller asks the
Authentication Service about the signer (:attr:`Way.trusted`).

*Our own GroupInfos come last.*  They stand beside Commits of ours, and those may have lost.  Another state of the
epoch that we know comes before them: where the group was split, ours may have been the branch without the others.
They do not count at all if another member has shown after them that it is in an earlier epoch.

*Limits.*  The same GroupInfo counts once, where it stood first.  Of each signature key, the :data:`PER_SIGNER` of the
latest epochs are considered.  Of keys that the known state does not have, these are the latest :data:`MAX_CANDIDATES`
in all, since anybody can make up a group with members of any number.  The first GroupInfo of the room is considered in
any case.  At most :data:`MAX_READ` are looked at; a room's archive is not read further back than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Generic, TypeVar

from ...errors import InvalidError, PeerError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.group.group_state import PublicGroup
from ...mls.group.joining import find_tree, public_of, verify_group_info
from ...mls.structures.leaf_node import LeafNode
from ...mls.structures.welcome import GroupInfo
from ...mls.tree.ratchet_tree import RatchetTree
from ...mls.tree.tree_math import LeafIndex
from ...policy import GroupView, RoomPolicy, vouches
from ...policy.later_state import KnownState, brings_itself, check_later
from ...policy.roster import Roster
from ...stanza import elements
from ...stanza.consistency import check as check_consistency
from ..device import Device
from .external_commit import ExternalCommits
from .room_state import RoomState

__all__ = ["MAX_CANDIDATES", "MAX_READ", "PER_SIGNER", "GroupInfos", "Refused", "Way", "group_infos_in"]

PER_SIGNER = 16
MAX_CANDIDATES = 256
MAX_READ = 4096

_RULES = "urn:xmpp:mls:0 joining by an external Commit"

T = TypeVar("T")


def group_infos_in(
    stanzas: Iterable[tuple[T, Sequence[object]]],
) -> list[tuple[T, elements.GroupInfo]]:
    """The GroupInfos that stand beside a Commit, in the room's order.

    :param stanzas: the payloads of the room's stanzas, each with a caller-defined key, oldest first
    """
    found = []
    for stanza, payloads in stanzas:
        commit = next((payload for payload in payloads if isinstance(payload, elements.AnyCommit)), None)
        group_info = next((payload for payload in payloads if isinstance(payload, elements.GroupInfo)), None)
        if commit is not None and group_info is not None and commit.group == group_info.group:
            found.append((stanza, group_info))
    return found


@dataclass(frozen=True, slots=True)
class Way(Generic[T]):
    """A GroupInfo by which we can join.

    :ivar stanza: the caller's key of its stanza
    :ivar message: the GroupInfo in it as MLSMessage, decrypted
    :ivar own: whether we have signed it
    :ivar trusted: the leaf that has signed the first state that was believed without proof; None if none was
    """

    stanza: T
    group_info: elements.GroupInfo
    message: bytes = field(repr=False)
    own: bool
    trusted: LeafNode | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Refused(Generic[T]):
    """A GroupInfo by which we do not join."""

    stanza: T
    error: PeerError


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate(Generic[T]):
    stanza: T
    element: elements.GroupInfo
    message: bytes
    info: GroupInfo
    tree: RatchetTree
    signer: LeafNode

    @property
    def suite(self) -> CipherSuite:
        return self.tree.suite

    @property
    def epoch(self) -> int:
        return self.info.group_context.epoch


class GroupInfos:
    """Chooses among the GroupInfos of one room."""

    def __init__(self, device: Device, state: RoomState, external_commits: ExternalCommits) -> None:
        self._device = device
        self._state = state
        self._open = external_commits.open

    def ways_in(self, found: Sequence[tuple[T, elements.GroupInfo]], now: int) -> tuple[list[Way[T]], list[Refused[T]]]:
        """The GroupInfos by which we can join, the best one first; and those that were refused.

        :param found: in the room's order; see :func:`group_infos_in`
        :param now: seconds since the Unix epoch
        :raises StoreError: the store failed
        """
        known, trusted = self._state.known(), None
        group_id = self._state.outside.group_id if known is None else known.group_id
        walk = _Walk[T](self._device, self._state.room, group_id, self._open)
        candidates = walk.candidates(found, known)
        own = [each for each in candidates if self._is_own(each.signer)]
        others = [each for each in candidates if not self._is_own(each.signer)]
        if known is None:
            begin = walk.beginning(others or own, now)
            if begin is None:
                return [], walk.refused
            first, known, trusted = begin
            shown = others or own
            if trusted is None:
                known = walk.follow_rivals(known, shown[: shown.index(first)])
            if not walk.accepted:
                walk.accepted.append(first)
            others = shown[shown.index(walk.accepted[0]) + 1 :]
        known = walk.follow_all(known, others)
        ways = walk.accepted[-1:]
        for each in reversed(own):
            if (not ways or each.epoch > ways[0].epoch) and not walk.is_left(known, each, candidates):
                before = len(walk.accepted)
                walk.follow(known, each)
                ways += walk.accepted[before:]
        return [
            Way(each.stanza, each.element, each.message, self._is_own(each.signer), trusted) for each in ways
        ], walk.refused

    def _is_own(self, leaf: LeafNode) -> bool:
        with suppress(PeerError):
            return ClientIdentity.from_leaf(leaf) == self._device.identity
        return False

    def check(self, info: GroupInfo) -> None:
        """Check a GroupInfo of our group by the state that we have.

        :raises PeerError: its signer cannot have brought about the difference alone, or it cannot be verified
        """
        known = self._state.known()
        assert known is not None, "we are in the group"
        signer = self._state.require_member().group.tree.member(info.signer)
        client = ClientIdentity.from_leaf(signer)
        if known.is_entitled(client):
            return  # its tree need not be at hand
        view = _view(public_of(info, lifetime_limit=self._device.parameters.lifetime_limit))
        check_later(known, view, client)


class _Walk(Generic[T]):
    """One walk along the GroupInfos of a room.

    :param group_id: the group's; empty if it is not known
    :param decrypt: decrypts a GroupInfo (:mod:`.group_info_key`); returns the MLSMessage
    """

    def __init__(
        self, device: Device, room: str, group_id: bytes, decrypt: Callable[[elements.GroupInfo], bytes]
    ) -> None:
        self._decrypt = decrypt
        self._device = device
        self._room = room
        self._group_id = group_id
        self._signatures: set[bytes] = set()
        self._verified: dict[_Candidate[T], PublicGroup | PeerError] = {}  # a tree takes a signature for each leaf
        self.refused: list[Refused[T]] = []
        self.accepted: list[_Candidate[T]] = []

    def candidates(
        self, found: Sequence[tuple[T, elements.GroupInfo]], known: KnownState | None
    ) -> list[_Candidate[T]]:
        """Those that can be read, within the limits, in the room's order.

        :param known: whose clients' GroupInfos are not displaced by those of others
        """
        once: dict[bytes, tuple[T, elements.GroupInfo]] = {}
        for stanza, element in found:
            once.setdefault(sha256(element.data).digest(), (stanza, element))
        earliest = list(once.values())
        shown: dict[bytes, _Candidate[T]] = {}
        for stanza, element in (*earliest[:1], *earliest[1:][-MAX_READ:]):
            candidate = self._read(stanza, element)
            if candidate is not None:
                shown.setdefault(sha256(candidate.message).digest(), candidate)  # it may be encrypted once more
        of_signer: dict[bytes, list[_Candidate[T]]] = {}
        for candidate in shown.values():
            of_signer.setdefault(candidate.signer.signature_key, []).append(candidate)
        order = {candidate: place for place, candidate in enumerate(shown.values())}
        kept, strangers = {candidate for candidate, place in order.items() if place == 0}, []
        for candidates in of_signer.values():
            latest = sorted(candidates, key=lambda each: each.epoch)[-PER_SIGNER:]
            if known is not None and _is_known(known, candidates[0].signer):
                kept.update(latest)
            else:
                strangers += latest
        kept.update(sorted(strangers, key=order.__getitem__)[-MAX_CANDIDATES:])
        return sorted(kept, key=order.__getitem__)

    def _read(self, stanza: T, element: elements.GroupInfo) -> _Candidate[T] | None:
        try:
            message = self._decrypt(element)
            info = check_consistency(replace(element, data=message, key_epoch=None)).body
            assert isinstance(info, GroupInfo)
            if self._group_id and info.group_context.group_id != self._group_id:
                raise InvalidError("a GroupInfo of another group than the room's", _RULES)
            tree = find_tree(CipherSuite.get(info.group_context.cipher_suite), info, None)
            signer = tree.member(info.signer)
            verify_group_info(tree.suite, info, signer)  # RFC 9420 12.4.3: a forgery takes nobody's place
            return _Candidate(stanza, element, message, info, tree, signer)
        except PeerError as error:
            self._refuse(stanza, error)
            return None

    def _refuse(self, stanza: T, error: PeerError) -> None:
        if all(each.stanza is not stanza for each in self.refused):  # else it was refused at another attempt
            self.refused.append(Refused(stanza, error))

    def beginning(
        self, candidates: Sequence[_Candidate[T]], now: int
    ) -> tuple[_Candidate[T], KnownState, LeafNode | None] | None:
        """The first state that a client believes which was never a member."""
        for each in reversed(candidates):
            if self._vouches_for_us(each, now) and (known := self._state_of(each)) is not None:
                return each, known, None
        for each in candidates:
            if each.epoch == 1:
                known = self._state_of(each)
                if known is not None and known.is_entitled(ClientIdentity.from_leaf(each.signer)):
                    return each, known, each.signer
        first: tuple[_Candidate[T], KnownState, LeafNode | None] | None = None
        for each in candidates:
            known = self._state_of(each)
            if known is not None and known.is_entitled(ClientIdentity.from_leaf(each.signer)):
                return each, known, each.signer
            if known is not None and first is None:
                first = each, known, each.signer
        return first

    def _vouches_for_us(self, candidate: _Candidate[T], now: int) -> bool:
        """Whether the signer is a device of our account that has vouched for us, with the key that the voucher has."""
        device, suite, signer = self._device, candidate.suite, candidate.signer
        with suppress(PeerError):
            issuer, own = str(ClientIdentity.from_leaf(signer)).encode(), device.signature_key(suite).public
            return any(
                voucher.issuer == issuer and vouches(suite, voucher, signer.signature_key, device.identity, own)
                for voucher in device.vouchers(suite, now)
            )
        return False

    def follow_rivals(self, known: KnownState, earlier: Sequence[_Candidate[T]]) -> KnownState:
        """Accept one that shows another state of the known epoch and stood before it; return the state known then.

        A device that vouches for us has shown the known state, beside a Commit that may have come second.  In a race,
        no other client has shown in between that it is in an earlier epoch.  Long before, anybody can make one up.
        """
        for each in earlier:
            if each.epoch == known.epoch and not self.is_left(known, each, earlier):
                known = self.follow(known, each, other_branch=True)
        return known

    def follow_all(self, known: KnownState, candidates: Sequence[_Candidate[T]]) -> KnownState:
        """Accept all that can be accepted; return the state that is known then.

        If nothing after the known state is shown, its epoch may have another state for the others: then we were in a
        branch that they have not followed.
        """
        for branch in (False, True):
            for each in candidates:
                known = self.follow(known, each, other_branch=branch)
            if self.accepted:
                break
        return known

    def follow(self, known: KnownState, candidate: _Candidate[T], *, other_branch: bool = False) -> KnownState:
        """Accept a GroupInfo if it shows a state after the known one; return the state that is known then.

        :param other_branch: whether it may be another state of the known epoch
        """
        if self.accepted and candidate.epoch <= known.epoch:
            return known  # it is outdated, or another one came first
        try:
            if candidate.epoch < known.epoch:
                raise InvalidError(f"a GroupInfo of epoch {candidate.epoch}, before our epoch {known.epoch}", _RULES)
            client = ClientIdentity.from_leaf(candidate.signer)
            if not known.knows(client, candidate.signer.signature_key) and not _may_be_new(known, candidate, client):
                # Anybody can make up any number of them, and to verify a tree takes a signature for each leaf.
                raise InvalidError(f"a GroupInfo signed by {client}, whom we do not know", _RULES)
            public = self._verify(candidate)
            view = _view(public)
            same = public.context.confirmed_transcript_hash == known.transcript
            if candidate.epoch == known.epoch and not same and not other_branch:
                raise InvalidError("a GroupInfo of another state of our last epoch", _RULES)
            check_later(known, view, client)
        except PeerError as error:
            self._refuse(candidate.stanza, error)
            return known
        self.accepted.append(candidate)
        return KnownState.of(view, public.context)

    def is_left(self, known: KnownState, shown: _Candidate[T], candidates: Sequence[_Candidate[T]]) -> bool:
        """Whether a member has shown, after a GroupInfo of another signer, that it is in an earlier epoch.

        Then the latter, one of our own for example, belongs to a branch without that member.
        """
        for each in candidates[candidates.index(shown) + 1 :]:
            if each.epoch < shown.epoch and each.signer.signature_key != shown.signer.signature_key:
                with suppress(PeerError):
                    if known.knows(ClientIdentity.from_leaf(each.signer), each.signer.signature_key):
                        self._verify(each)
                        return True
        return False

    def _state_of(self, candidate: _Candidate[T]) -> KnownState | None:
        try:
            public = self._verify(candidate)
            return KnownState.of(_view(public), public.context)
        except PeerError as error:
            self._refuse(candidate.stanza, error)
            return None

    def _verify(self, candidate: _Candidate[T]) -> PublicGroup:
        """RFC 9420 12.4.3, 12.4.3.1: signature, tree, leaves; and the room.

        :raises PeerError: it is not acceptable
        """
        if candidate not in self._verified:
            try:
                self._verified[candidate] = self._public(candidate)
            except PeerError as error:
                self._verified[candidate] = error
        found = self._verified[candidate]
        if isinstance(found, PeerError):
            raise found
        return found

    def _public(self, candidate: _Candidate[T]) -> PublicGroup:
        limit = self._device.parameters.lifetime_limit
        public = public_of(candidate.info, tree=candidate.tree, lifetime_limit=limit, remembered=self._signatures)
        if RoomPolicy.required_in(public.context.extensions).room != self._room:
            raise InvalidError("a GroupInfo of the group of another room", _RULES)
        return public


def _is_known(known: KnownState, leaf: LeafNode) -> bool:
    with suppress(PeerError):
        return known.knows(ClientIdentity.from_leaf(leaf), leaf.signature_key)
    return False


def _may_be_new(known: KnownState, candidate: _Candidate[T], client: ClientIdentity) -> bool:
    """Whether a signer that the known state does not have has let itself in; its tree has not been verified yet."""
    tree, roster = candidate.tree, known.roster

    def leaf_of(issuer: ClientIdentity) -> LeafNode | None:
        index = roster.leaf_of(issuer)
        leaf = tree.leaf(LeafIndex(index)) if index is not None and index < tree.leaf_count else None
        if leaf is not None and known.knows(issuer, leaf.signature_key):
            return leaf
        return next((each for _, each in tree.members() if known.knows(issuer, each.signature_key)), None)

    return brings_itself(known, candidate.suite, client, candidate.signer, leaf_of)


def _view(public: PublicGroup) -> GroupView:
    return GroupView.of(public, RoomPolicy.required_in(public.context.extensions), Roster.of(public.tree.members()))
