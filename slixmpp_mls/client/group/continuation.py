"""Creates, awaits and enters groups that continue other groups (RFC 9420 11.2, 11.3).

::

    members ── Commit of a ReInit ──► CLOSED ── first valid creation in the room's order ──► the group that follows
    a group ── branch ──────────────────────────────── creation, in another room ──────────► a group of some members

A *creation* is one stanza with the new group's first Commit, which adds all members, and their Welcome.  It follows the
rules of any Commit (:mod:`.room_group`).  Its maker stores it first, sends it until the room reflects it, and enters
the new group only then.  Several members may create the group that a ReInit requires.  The first creation that lets us
in counts, and all others are void, our own included.

*Left out.*  A creation may have a KeyPackage of ours that was used before, and whose keys we have deleted: an account's
server handed it out again, or a member without rights kept it.  All leaves are proven, so others may follow it; or it
is made up: only a client that opens its Welcome can tell.  If the room says that a member has sent it, we are left out
from then on.  We enter by no creation, not by our own either, since a group of those who were left out would be another
one than that of the others.  We ask to be added instead (:mod:`.join_request`).  Our request proves return by the
return key of the used KeyPackage, which we keep, and by those of the leaves that we have in other creations.  So any
member of the group that has come about, whichever it is, lets us in.  If nobody does for a while, perhaps because there
is no such group, we read the room again behind that creation, and follow the first one that lets us in
(:meth:`Continuation.enter_after_all`).

A group that a ReInit has closed is kept, with its keys, until we are in its successor: a member that misses the
creation still has the keys to enter.  Nothing can be sent in between.  Messages in the outbox go to the new group.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

from ...errors import StanzaTooLarge, UsageError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ...mls.group.commit_creation import CommitBundle
from ...mls.group.group import Group
from ...mls.group.resumption import CreationDraft
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.proposals import Add, PreSharedKey, ReInit
from ...mls.structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from ...mls.tree.ratchet_tree import RatchetTree
from ...policy import RoomPolicy, derive_return_key, group_extensions
from ...policy.continuation import check_continuation
from ...policy.roster import Roster
from ...stanza import elements
from ...stanza.blob import BlobReference, RatchetTreeLocation, longest
from ...stanza.consistency import check as check_consistency
from ...stanza.elements import MAX_MESSAGE
from ..device import Device
from ..events import Event, GroupChanged, GroupContinued, Joined
from ..member import Member
from ..storage.doubts import Doubts
from ..storage.post_commit_actions import Invite, PostCommitActions
from ..storage.records import Known, MembershipState, OutboxKind, OutboxRecord, RoomRecord
from .actions import Fits, Incoming, Outgoing
from .evidence import Evidence
from .group_info_key import GroupInfoKey
from .placement import Placement, as_outgoing, choose, to_upload
from .room_contents import Membership
from .room_state import RoomState

__all__ = ["Continuation", "check_tree_length"]


class Continuation:
    """The part of a room's group that has to do with other groups."""

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state

    @property
    def reinit(self) -> ReInit | None:
        """The ReInit by which our group has ended, if it has and another one is awaited."""
        return None if self._state.membership is None else self._state.membership.group.closed

    @property
    def waits(self) -> bool:
        """Whether a creation of ours waits for its reflection."""
        return self._state.waits(OutboxKind.CREATION)

    @property
    def left_out(self) -> bool:
        """Whether others may have followed a creation that we do not follow."""
        return self._state.left_out

    def heeds(self, incoming: Incoming) -> bool:
        """Whether a creation that we cannot open leaves us out: the room says that it is a member's.

        One that we have waited for in vain is not heeded, nor is any after it.
        """
        membership, seen, who = self._state.require_member(), self._state.outside, incoming.claimed
        closed = membership.group.closed
        assert closed is not None
        in_vain = seen.group_id == closed.group_id and not seen.known
        return not in_vain and who is not None and membership.roster.has(who)

    def leave_out(
        self, record: RoomRecord, unread: Iterable[tuple[CipherSuite, SignaturePrivateKey]], now: int
    ) -> list[Event]:
        """A creation leaves us out, the first one or another one.

        :param record: with our place behind its stanza
        :param unread: return keys, one of them of our leaf in it, and their cipher suites; empty if nothing is left
        :param now: seconds since the Unix epoch
        :raises StoreError: nothing has changed
        """
        state, asked, seen = self._state, self.reinit, self._state.outside
        assert asked is not None
        first = not state.left_out
        if first:
            seen = replace(seen.pace(), group_id=asked.group_id, suite=asked.cipher_suite, epoch=1, known=Known.SEEN)
            seen = replace(seen, after=record.cursor, not_before=0)
        else:  # a request from before it means nothing to those who follow it
            seen = replace(seen, asks=tuple(replace(ask, epoch=0) for ask in seen.asks))
        with state.change() as change:
            for staged in state.staged.values():
                if isinstance(staged.next, Group) and staged.next.group_id == asked.group_id:
                    key = derive_return_key(staged.next.suite, staged.next.own_leaf_key)
                    change.put_former_key(staged.next.suite.id, key, now)
            change.put_unread_keys(unread, now, left_out=True)
            change.put_outside(seen)
            change.put_record(record)
        return []

    def enter_after_all(self, now: int) -> None:
        """Nobody has let us in: end our requests, and go back to the place behind the creation that has left us out.

        The room must be read again from there.

        :param now: seconds since the Unix epoch
        :raises UsageError: we are not left out
        :raises StoreError: nothing has changed
        """
        state = self._state
        if not state.left_out:
            raise UsageError(f"not left out of the group that follows in {state.room}")
        seen = state.outside
        with state.change() as change:
            self._device.key_packages.withdraw(change.transaction, (ask.reference for ask in seen.asks), now)
            change.put_outside(replace(seen.pace(), group_id=seen.group_id))
            change.put_record(replace(state.record, cursor=seen.after, commits=b""))

    def continue_group(self, others: Sequence[KeyPackage], now: int, *, fits: Fits | None = None) -> Outgoing:
        """Create the group that the ReInit requires (RFC 9420 11.2).

        :param others: KeyPackages of all other members, of the cipher suite that it asks for
        :param now: seconds since the Unix epoch
        :raises UsageError: our group has not ended, or a creation of ours waits already
        :raises InvalidError: a member is missing, or a KeyPackage does not fit
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        return self.finish(self.draft(others, now), fits=fits)

    def draft(self, others: Sequence[KeyPackage], now: int) -> CreationDraft:
        """Do the part of :meth:`continue_group` that comes before it writes anything; nothing changes.

        :raises UsageError: our group has not ended
        :raises InvalidError: a member is missing, or a KeyPackage does not fit
        :raises PolicyViolation: a member's former key does not prove its new one; others would refuse the group
        """
        asked = self.reinit
        if asked is None:
            raise UsageError(f"the group in {self._state.room} has not been reinitialized")
        suite = CipherSuite.get(asked.cipher_suite)
        own = self._device.key_packages.make(suite, now)
        self._check(own.key_package, others)
        return self._state.require_member().group.draft_reinitialize(
            own, others, now=now, identify=ClientIdentity.from_leaf, random=self._device.random
        )

    def _check(self, own: KeyPackage, others: Sequence[KeyPackage]) -> None:
        leaves = [package.leaf_node for package in (own, *others)]
        check_continuation(self._state.require_member().view, leaves, self._device.identity)

    def rehearse(self, suite: CipherSuite, others: Sequence[KeyPackage], now: int, fits: Fits) -> None:
        """Ask whether a group of ours could go on in another suite; nothing is written.

        That a creation fits must be known before the ReInit, which cannot be undone.

        :param others: KeyPackages of all other members
        :param now: seconds since the Unix epoch
        :param fits: asked about the creation with its ratchet tree elsewhere
        :raises UsageError: we are not in the group
        :raises InvalidError: a KeyPackage does not fit
        :raises PolicyViolation: a member's present key does not prove its new one, and we have no right to add it
        :raises StanzaTooLarge: by `fits`
        """
        own, random = self._device.key_packages.make(suite, now), self._device.random
        self._check(own.key_package, others)
        extensions = self._state.require_member().group.context.extensions
        group = Group.create(own, random(32), extensions=extensions, parameters=self._device.parameters, random=random)
        # The PSK's place is taken by one of the group itself, which is as long.
        name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, group.group_id, group.epoch)
        psk = PreSharedKey(PreSharedKeyID(name, random(suite.hash_length)))
        commit = group.draft_commit([*map(Add, others), psk], now=now, random=random)
        made = group.finish_commit(commit, instead_of_tree=RatchetTreeLocation(longest()).extension(), random=random)
        choose(_record(made, group.group_id), group.group_id, 0, fits)

    def draft_branch(self, source: Group, policy: RoomPolicy, others: Sequence[KeyPackage], now: int) -> CreationDraft:
        """RFC 9420 11.3: make this room's group, of some members of another room's.  Nothing has changed.

        :param source: the other room's group
        :param policy: of the new group
        :param others: KeyPackages of its members but us, of the other group's cipher suite
        :param now: seconds since the Unix epoch
        :raises UsageError: we are in a group here
        :raises InvalidError: somebody is no member there, or a KeyPackage does not fit
        """
        self._state.require_no_member()
        if policy.room != self._state.room:
            raise UsageError(f"a policy for {policy.room}, not for {self._state.room}")
        return source.draft_branch(
            self._device.random(32),
            self._device.key_packages.make(source.suite, now),
            others,
            now=now,
            extensions=group_extensions(policy),
            identify=ClientIdentity.from_leaf,
            random=self._device.random,
        )

    def finish(
        self,
        draft: CreationDraft,
        *,
        fits: Fits | None = None,
        tree_at: BlobReference | None = None,
        placement: Placement = Placement.IN_STANZA,
    ) -> Outgoing:
        """Put a draft into the outbox: state and message in one transaction (rule 3).

        :param tree_at: where the ratchet tree is, if it is not to be in the Welcome
        :param placement: what else is to be elsewhere, by :meth:`place`
        :raises UsageError: a creation of ours waits already, another one may have been first, or the draft's time is
            over
        :raises StanzaTooLarge: by `fits`; nothing has changed
        :raises StoreError: nothing has changed
        """
        state, asked = self._state, self.reinit
        if state.left_out:
            raise UsageError("another creation may have been first")
        if self.waits or (state.membership is not None and (asked is None or asked.group_id != draft.group_id)):
            raise UsageError("a creation of ours waits already, or another one has been first")
        location = None if tree_at is None else RatchetTreeLocation(tree_at).extension()
        bundle = draft.finish(instead_of_tree=location, random=self._device.random)
        record = _record(bundle, draft.group_id)
        upload = placement.upload()
        outgoing = as_outgoing(record, draft.group_id, 0, upload)
        if fits is not None and upload is None:
            fits(outgoing.payloads)
        number = state.outbox.next_number()
        place = state.record
        if state.membership is None:  # the room is read again after a restart
            place = replace(place, state=MembershipState.INVITED)
        with state.change() as change:
            change.put_message(number, record)
            if upload is not None:
                change.put_upload(number, upload)
            change.put_staged(number, bundle.staged, Group.creation_pieces(bundle.staged))
            change.put_record(place)
        return outgoing

    def place(self, draft: CreationDraft, fits: Fits) -> tuple[Placement, tuple[bytes, ...]]:
        """Determine what of a creation must be elsewhere, if its ratchet tree is; nothing is written.

        :returns: also what is to be uploaded, as long as the real octets will be
        :raises StanzaTooLarge: by `fits`: even with all of it elsewhere
        """
        bundle = draft.finish(instead_of_tree=RatchetTreeLocation(longest()).extension(), random=self._device.random)
        record = _record(bundle, draft.group_id)
        placement = choose(record, draft.group_id, 0, fits)
        return placement, to_upload(record, placement)

    def find(self, incoming: Incoming) -> bytes | None:
        """The number in the outbox of a creation of ours that has come back in this stanza.

        :raises PeerError: its element says something else than its message
        """
        for payload in incoming.payloads:
            if isinstance(payload, elements.AnyCommit):
                elsewhere, outbox = isinstance(payload, elements.CommitLocation), self._state.outbox
                number = outbox.of_location(payload.data) if elsewhere else outbox.of_message(payload.data)
                if number is not None and outbox[number].kind is OutboxKind.CREATION:
                    if isinstance(payload, elements.Commit):
                        check_consistency(payload)
                    return number
        return None

    def accept(self, number: bytes, record: RoomRecord, now: int) -> list[Event]:
        """Our own creation is in the room's order, and the first: we enter the group.

        :param record: with our place behind its stanza
        :raises StoreError: nothing has changed
        """
        state, before = self._state, self._state.membership
        group = state.staged[number].next
        assert isinstance(group, Group)
        own = self._device.identity.account
        if before is None:
            accounts = (account for account in Roster.of(group.members()).accounts() if account != own)
            actions = PostCommitActions((Invite(account, None).key, state.record.cursor) for account in accounts)
        else:
            actions = before.actions
        record = record.as_member(group.group_id, group.epoch, now)
        evidence = Evidence.NO_STATE if before is None else Evidence.CONTINUED
        with state.change() as change:
            change.end_membership(evidence, keep_messages=before is not None)
            change.carry_messages_over()
            change.begin_membership(Membership.of(group, Doubts(), actions), GroupInfoKey.of(group))
            change.put_record(record)
        by = Member.of(group.own_index, group.own_leaf)
        if before is not None:
            return [GroupContinued(state.room, group.epoch, by, group.suite.id)]
        members = (Member.of(index, leaf, now) for index, leaf in group.members() if index != group.own_index)
        added = GroupChanged(
            room=state.room,
            epoch=group.epoch,
            by=by,
            added=tuple(members),
            removed=(),
            updated=(),
            policy_changed=False,
        )
        return [Joined(state.room, group.epoch, None), added]


def _record(bundle: CommitBundle, group_id: bytes) -> OutboxRecord:
    return OutboxRecord(
        kind=OutboxKind.CREATION,
        origin_id=str(uuid.uuid4()).encode(),
        digest=sha256(bundle.commit).digest(),
        epoch=0,
        message=bundle.commit,
        welcome=bundle.welcome or b"",
        group_info=b"",
        plaintext=b"",
        earlier=b"",
        reference=group_id,
        refused=0,
    )


_LEAST_LEAF = 128  # octets: two keys and a signature of the smallest suites


def check_tree_length(tree: RatchetTree) -> None:
    """Check, by the number of its members alone, that a Welcome can hold this tree: before the tree is written.

    :raises StanzaTooLarge: it cannot
    """
    least = tree.member_count * _LEAST_LEAF
    if least > MAX_MESSAGE:
        raise StanzaTooLarge(least, MAX_MESSAGE)
