"""Joins the group by an external Commit (RFC 9420 12.4.3.2), where the policy allows it.

::

    <group-info/>, chosen by :mod:`.group_infos` ──► draft ── authentication ──► finish ──► Outgoing
    its reflection, the first Commit of its epoch in the room ──► we are in

A member signs a GroupInfo and sends it with its Commit, encrypted for those who are or have been members
(:mod:`.group_info_key`); the room keeps it.  Its signature, tree and leaves are verified.  Whether it is the present
one cannot be verified; a Commit made from an outdated one arrives too late.  An epoch that somebody has written on a
stanza does not count against it: it may be made up.  One attack remains (RFC 9750 5.3): a server that hides later
messages can lead us into a past epoch with its members of that time, but not to one before the last epoch in which we
were a member.

Like any Commit of ours, an external Commit is stored with the state that it leads to and takes effect when the room
reflects it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...errors import InvalidError, NotPermitted, PeerError, PolicyViolation, StanzaTooLarge, UsageError
from ...mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ...mls.group.commit_creation import CommitBundle
from ...mls.group.group import Group
from ...mls.group.joining import public_of
from ...mls.structures.leaf_node import LeafNode
from ...mls.structures.welcome import GroupInfo
from ...mls.tree.leaf_creation import Completion
from ...mls.tree.tree_math import LeafIndex
from ...policy import (
    ExternalJoins,
    GroupView,
    RoomPolicy,
    derive_return_key,
    is_newcomer,
    refuse_group_of_0_1,
    return_key_of,
)
from ...policy.check import check
from ...policy.roster import Roster
from ...stanza import elements
from ...stanza.consistency import check as check_consistency
from ..device import Device
from ..device.leaf_proofs import arriving
from ..events import CommitLost, Event
from ..storage.records import ROOMS, MembershipState, OutboxKind, OutsideRecord, RoomRecord
from .actions import Fits, Incoming, Outgoing
from .group_info_key import GroupInfoKey, as_element, key_after, open_group_info, seal_group_info
from .join_request import attempted
from .placement import check_lengths
from .room_state import RoomState
from .tree_leaves import TreeLeaves

__all__ = ["ExternalCommitDraft", "ExternalCommits", "check_is_new"]

_RULES = "urn:xmpp:mls:0 business rules"


@dataclass(frozen=True, slots=True)
class ExternalCommitDraft:
    """An external Commit that has not been stored.

    :ivar epoch: the one that it would end
    :ivar seen: the epoch in which the group seemed to be when it was made; None if that was not known
    :ivar leaves: those of the group, for the Authentication Service to judge
    :ivar group_info_key: the key of the group's GroupInfos after it; None if it is not known
    """

    bundle: CommitBundle = field(repr=False)
    group_id: bytes
    epoch: int
    seen: int | None
    leaves: Sequence[LeafNode] = field(repr=False)
    group_info_key: GroupInfoKey | None = field(repr=False)

    @property
    def suite(self) -> CipherSuite:
        """The group's."""
        return self.bundle.sent.suite


class ExternalCommits:
    """Our way into a room's group by a Commit of our own."""

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state

    def draft(self, group_info: elements.GroupInfo, now: int) -> ExternalCommitDraft:
        """Make an external Commit; nothing has changed.

        :param group_info: a GroupInfo of the present epoch
        :param now: seconds since the Unix epoch
        :raises UsageError: we are in the group, or an external Commit of ours waits
        :raises PeerError: the GroupInfo is not acceptable, or not the present one
        :raises ProtocolTooOld: its group is of version 0.1
        :raises NotPermitted: the group's policy does not let us in this way
        """
        self._check_may_enter()
        message = self.open(group_info)
        info = check_consistency(replace(group_info, data=message, key_epoch=None)).body
        assert isinstance(info, GroupInfo)
        context = info.group_context
        self._check_place(context.group_id, context.epoch)
        policy = RoomPolicy.required_in(context.extensions)
        if policy.room != self._state.room:
            raise InvalidError("a GroupInfo of the group of another room", _RULES)
        if not policy.allows_suite(context.cipher_suite):
            raise InvalidError("a group of a cipher suite that its policy does not allow", "urn:xmpp:mls:0 policy")
        if self._state.standing is not MembershipState.LOST:  # the one that we have lost goes on as it is
            refuse_group_of_0_1(context.extensions)
        # RFC 9420 12.4.3, 12.4.3.1: signature, tree, leaves
        public = public_of(info, lifetime_limit=self._device.parameters.lifetime_limit)
        roster = Roster.of_outlines(public.tree.outlines())
        own = roster.leaf_of(self._device.identity)
        view = GroupView.of(public, policy, roster)
        bundle = Group.external_commit(
            info,
            replace(self._device.own_leaf(public.suite), complete=self._completion(view, own, now)),
            now=now,
            tree=public.tree,
            replaces=None if own is None else LeafIndex(own),
            parameters=self._device.parameters,
            with_group_info=True,
            random=self._device.random,
        )
        try:
            check(view, bundle.staged.effects)
        except PolicyViolation as error:
            raise NotPermitted(f"the group's policy: {error}") from error
        leaves = TreeLeaves(public.tree, roster, own)
        before = (
            self._state.group_info_key if group_info.key_epoch is not None else GroupInfoKey.found_in(info.extensions)
        )
        known = None if before is None else before.checked(public.suite, context.epoch)
        after = bundle.staged.next
        assert isinstance(after, Group)
        key = key_after(known, bundle.staged.effects, policy, after)
        seen = self._epoch_seen(context.group_id)
        return ExternalCommitDraft(bundle, context.group_id, context.epoch, seen, leaves, key)

    def _epoch_seen(self, group_id: bytes) -> int | None:
        seen = self._state.outside
        return seen.epoch if seen.known and seen.group_id == group_id else None

    @property
    def _suite(self) -> CipherSuite | None:
        """Of the group that we have lost, or to which we return; None if it is not known."""
        if self._state.membership is not None:
            return self._state.membership.group.suite
        number = self._state.outside.suite
        return CipherSuite.get(number) if number else None

    def can_read(self, group_info: elements.GroupInfo) -> bool:
        """Whether a GroupInfo of the room is in clear, or encrypted with the key that we have."""
        key = self._state.group_info_key
        return group_info.key_epoch is None or (key is not None and group_info.key_epoch == key.epoch)

    def open(self, group_info: elements.GroupInfo) -> bytes:
        """A GroupInfo of the room, as MLSMessage.  Nothing of it has been verified.

        :raises PeerError: it is encrypted with a key that we do not have, or cannot be read
        """
        return open_group_info(group_info, self._state.group_info_key, self._suite)

    def _completion(self, view: GroupView, own: int | None, now: int) -> Completion:
        """The proof that admits our leaf: of return, or vouchers; where anybody may join, the mark of a newcomer.

        :param own: the index of our old leaf
        """
        if own is not None:
            old = view.leaf(own)
            key = return_key_of(old)
            keys = [each for each in self._state.return_keys if each.public == key] or self._unread(view.suite, old)
            return arriving(view.suite, view.group_id, keys=keys, newcomer=is_newcomer(old))
        vouchers = self._device.vouchers(view.suite, now)
        stranger = not view.roster.has(self._device.identity.account)
        stranger &= view.policy.external_joins is ExternalJoins.ANYBODY
        return arriving(view.suite, view.group_id, vouchers=vouchers, newcomer=stranger)

    def _unread(self, suite: CipherSuite, old: LeafNode) -> list[SignaturePrivateKey]:
        """The return key of our leaf if it is that of a KeyPackage of ours, by a Welcome that we have not read."""
        with self._state.store.transaction() as transaction:
            bundle = self._device.key_packages.made_with(transaction, old.encryption_key)
        return [] if bundle is None else [derive_return_key(suite, bundle.leaf_key)]

    def _check_may_enter(self) -> None:
        if not self._state.returning:
            self._state.require_no_member()
        if self.waits:
            raise UsageError("an external Commit of ours waits already")

    def _check_place(self, group_id: bytes, epoch: int) -> None:
        seen = self._state.outside
        if self._state.standing is MembershipState.LOST and group_id != seen.group_id:
            raise InvalidError("a GroupInfo of another group than the one that we have lost", _RULES)
        check_is_new(self._state, group_id, epoch + 1)

    def finish(
        self, draft: ExternalCommitDraft, now: int, *, again: bool = False, fits: Fits | None = None
    ) -> Outgoing:
        """Put a draft into the store, to be sent; a GroupInfo of the next epoch goes along if it fits.

        :param now: seconds since the Unix epoch
        :param again: after one that has lost to another Commit; it does not delay the next attempt
        :raises UsageError: we are in the group, an external Commit of ours waits, or the draft's epoch has ended
        :raises StanzaTooLarge: by `fits`; nothing has changed
        :raises StoreError: nothing has changed
        """
        self._check_may_enter()
        seen = self._state.outside
        epoch = self._epoch_seen(draft.group_id)
        if epoch is not None and draft.epoch < epoch and epoch != draft.seen:
            raise UsageError("the draft's epoch has ended")
        seen = replace(
            replace(seen, asked=now) if again else attempted(seen, now, 1.0),
            group_id=draft.group_id,
            epoch=draft.epoch,
            known=1,
            entry=draft.bundle.commit,
            entry_epoch=draft.epoch,
            entry_id=str(uuid.uuid4()).encode(),
            entry_info=self._sealed(draft),
        )
        try:
            _check_fits(seen, fits)
        except StanzaTooLarge:
            seen = replace(seen, entry_info=b"")
            _check_fits(seen, fits)
        group = draft.bundle.staged.next
        assert isinstance(group, Group)
        with self._state.change() as change:
            change.put_entry(group, draft.group_info_key)
            change.put_outside(seen)
        return _as_outgoing(seen)

    def _sealed(self, draft: ExternalCommitDraft) -> bytes:
        """The GroupInfo of the epoch after our Commit, as it is sent."""
        after = draft.bundle.staged.next
        assert isinstance(after, Group)
        assert draft.bundle.group_info is not None
        policy = RoomPolicy.required_in(after.context.extensions)
        return seal_group_info(draft.group_info_key, policy, after, draft.bundle.group_info, self._device.random)

    # --- what becomes of it --------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether an external Commit of ours waits for its reflection."""
        return self._state.entry is not None

    def unconfirmed(self) -> Iterator[Outgoing]:
        """The one that we have sent and the room has not shown us: to be sent again."""
        if self.waits:
            yield _as_outgoing(self._state.outside)

    def find(self, incoming: Incoming) -> Group | None:
        """The state that our external Commit leads to, if the stanza is its reflection."""
        ours = self._state.outside.entry
        found = any(isinstance(payload, elements.Commit) and payload.data == ours for payload in incoming.payloads)
        return self._state.entry if found else None

    def loses_to(self, incoming: Incoming) -> bool:
        """Whether a Commit in the stanza comes before ours, which waits, for the same epoch."""
        seen = self._state.outside
        if not self.waits:
            return False
        rivals = [
            payload
            for payload in incoming.payloads
            if isinstance(payload, elements.AnyCommit)
            and (payload.group, payload.epoch) == (seen.group_id, seen.entry_epoch)
        ]
        return any(map(_is_consistent, rivals))

    def drop(self, seen: OutsideRecord, record: RoomRecord) -> None:
        """Ours has lost, or was refused: it goes, with the state that it would have led to.

        :raises StoreError: nothing has changed
        """
        entry = self._state.entry
        with self._state.change() as change:
            if entry is not None:
                # The Commit that came first may be void for the members: then our leaf of this Commit is in their tree.
                key = derive_return_key(entry.suite, entry.own_leaf_key)
                change.put_former_key(entry.suite.id, key, seen.asked)
            change.delete_entry()
            change.put_outside(replace(seen, entry=b"", entry_id=b"", entry_info=b"", entry_epoch=0))
            change.put_record(record)

    def refused(self, origin_id: str, reason: str) -> list[Event]:
        """The room does not take a message.  If it is our external Commit, it is dropped.

        :raises StoreError: nothing has changed
        """
        if not self.waits or self._state.outside.entry_id != origin_id.encode():
            return []
        self.drop(self._state.outside, self._state.record)
        return [CommitLost(self._state.room, origin_id, reason)]


def check_is_new(state: RoomState, group_id: bytes, epoch: int) -> None:
    """Check what holds for every way into a group.

    RFC 9420 12.4.3.1: a group id is unique among our groups.

    RFC 9420 9.2: by an old Welcome, read again, we would use the keys of its epoch again.  A KeyPackage that is used
    once does not open it twice; one of last resort does.

    :param epoch: the one that it leads into
    :raises InvalidError: another room has the group, or we have been in the epoch
    """
    with state.store.transaction() as transaction:
        for key, value in transaction.items(ROOMS):
            record = RoomRecord.decode(value)
            inside = record.state in (MembershipState.MEMBER, MembershipState.PARTIAL)
            member = inside and key != state.room.encode()
            if member and record.group_id == group_id:
                raise InvalidError("a group that another room has", "RFC 9420 12.4.3.1")
        ended = transaction.get(state.spaces.ended, group_id)
    last = None if ended is None else int.from_bytes(ended, "big")
    if state.speaking is not None and state.speaking.group.group_id == group_id:
        last = state.speaking.group.epoch
    if last is not None and epoch <= last:
        raise InvalidError("the way into an epoch that we have been in, or that is over", "RFC 9420 9.2")


def _is_consistent(commit: elements.AnyCommit) -> bool:
    """Whether attributes and content agree; else it is no Commit for anybody.  Of a location, only members can tell."""
    if isinstance(commit, elements.Commit):
        try:
            check_consistency(commit)
        except PeerError:
            return False
    return True


def _check_fits(seen: OutsideRecord, fits: Fits | None) -> None:
    """:raises StanzaTooLarge: a message of it is longer than an element may be, or by `fits`"""
    check_lengths(seen.entry, seen.entry_info)
    if fits is not None:
        fits(_as_outgoing(seen).payloads)


def _as_outgoing(seen: OutsideRecord) -> Outgoing:
    payloads: list[elements.RoomElement] = [elements.Commit(seen.group_id, seen.entry_epoch, seen.entry)]
    if seen.entry_info:
        payloads.append(as_element(seen.group_id, seen.entry_epoch + 1, seen.entry_info))
    return Outgoing(seen.entry_id.decode(), OutboxKind.COMMIT, tuple(payloads))
