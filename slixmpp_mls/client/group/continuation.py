"""Groups that continue other groups (RFC 9420 11.2, 11.3): made, waited for, entered.

::

    members ── Commit of a ReInit ──► CLOSED ── first valid creation in the room's order ──► the group that follows
    a group ── branch ──────────────────────────────── creation, in another room ──────────► a group of some members

A *creation* is one stanza: the new group's first Commit, which adds everybody, and the Welcome for them.  It
follows the rules of any Commit (:mod:`.room_group`).  Its maker stores it first, sends it until the room
reflects it, and enters the new group only then; of several creations of the group that a ReInit has asked for
the first one counts that lets us in, and all others mean nothing, our own included.

A group that a ReInit has closed is kept, with its keys, until we are in the one that follows: whoever misses the
creation still holds what lets it in.  Nothing can be said in between.  What waits in the outbox goes to the new group.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from ...errors import UsageError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.group.commit_creation import CommitBundle
from ...mls.group.group import Group
from ...mls.group.resumption import CreationDraft
from ...mls.group.staging import StagedCommit
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.proposals import Add, PreSharedKey, ReInit
from ...mls.structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ...stanza import elements
from ...stanza.blob import BlobReference, RatchetTreeLocation, longest
from ..events import Event, GroupChanged, GroupContinued, Joined
from ..member import Member
from ..storage.doubts import Doubts
from ..storage.post_commit_actions import Invite, PostCommitActions
from ..storage.records import MembershipState, OutboxKind, OutboxRecord, RoomRecord
from .actions import Fits, Outgoing
from .room_state import Kept, put_all

__all__ = ["Creating"]


class Creating(Kept):
    """The part of a room's group that has to do with other groups."""

    @property
    def reinit(self) -> ReInit | None:
        """The ReInit by which our group has ended, if it has and another one is awaited."""
        return None if self._group is None else self._group.closed

    @property
    def creation_waits(self) -> bool:
        """Whether a creation of ours waits for its reflection."""
        return any(record.kind is OutboxKind.CREATION and not record.refused for _, record in self._outbox)

    def continue_group(self, others: Sequence[KeyPackage], now: int, *, fits: Fits | None = None) -> Outgoing:
        """RFC 9420 11.2: make the group that the ReInit has asked for.

        :param others: KeyPackages of all other members, of the cipher suite that it asks for
        :raises UsageError: our group has not ended, or a creation of ours waits already
        :raises InvalidError: a member is missing, or a KeyPackage does not fit
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        return self.finish_creation(self.draft_continuation(others, now), fits=fits)

    def draft_continuation(self, others: Sequence[KeyPackage], now: int) -> CreationDraft:
        """What :meth:`continue_group` does before it writes anything; nothing has changed.

        :raises UsageError: our group has not ended
        :raises InvalidError: a member is missing, or a KeyPackage does not fit
        """
        asked = self.reinit
        if asked is None:
            raise UsageError(f"the group in {self.room} has not been reinitialized")
        own = self.device.make_key_package(CipherSuite.get(asked.cipher_suite), now)
        return self.group.draft_reinitialize(
            own, others, now=now, identify=ClientIdentity.from_leaf, random=self.device.random
        )

    def rehearse(self, suite: CipherSuite, others: Sequence[KeyPackage], now: int, fits: Fits) -> None:
        """Ask whether a group of ours could go on in another suite; nothing is written.

        That a creation fits must be known before the ReInit, which can not be undone.

        :param others: KeyPackages of all other members
        :param fits: asked about the creation with its ratchet tree elsewhere
        :raises InvalidError: a KeyPackage does not fit
        :raises StanzaTooLarge: by `fits`
        """
        own, random = self.device.make_key_package(suite, now), self.device.random
        extensions = self.group.context.extensions
        group = Group.create(own, random(32), extensions=extensions, parameters=self.device.parameters, random=random)
        # The PSK's place is taken by one of the group itself, which is as long.
        name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, group.group_id, group.epoch)
        psk = PreSharedKey(PreSharedKeyID(name, random(suite.hash_length)))
        commit = group.draft_commit([*map(Add, others), psk], now=now, random=random)
        made = group.finish_commit(commit, instead_of_tree=RatchetTreeLocation(longest()).extension(), random=random)
        fits(creation(_record(made, group.group_id)).payloads)

    def branch(
        self,
        source: Kept,
        policy: RoomPolicy,
        others: Sequence[KeyPackage],
        now: int,
        *,
        fits: Fits | None = None,
    ) -> Outgoing:
        """RFC 9420 11.3: make this room's group, of some members of another room's.

        :param policy: of the new group
        :param others: KeyPackages of its members but us, of the other group's cipher suite
        :raises UsageError: we are in a group here, not in one there, or a creation of ours waits already
        :raises InvalidError: somebody is no member there, or a KeyPackage does not fit
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        return self.finish_creation(self.draft_branch(source, policy, others, now), fits=fits)

    def draft_branch(self, source: Kept, policy: RoomPolicy, others: Sequence[KeyPackage], now: int) -> CreationDraft:
        """What :meth:`branch` does before it writes anything; nothing has changed.

        :raises UsageError: we are in a group here, or not in one there
        :raises InvalidError: somebody is no member there, or a KeyPackage does not fit
        """
        if self._group is not None:
            raise UsageError(f"already a member of the group in {self.room}")
        if policy.room != self.room:
            raise UsageError(f"a policy for {policy.room}, not for {self.room}")
        return source.group.draft_branch(
            self.device.random(32),
            self.device.make_key_package(source.group.suite, now),
            others,
            now=now,
            extensions=(policy.extension(),),
            identify=ClientIdentity.from_leaf,
            random=self.device.random,
        )

    def finish_creation(
        self, draft: CreationDraft, *, fits: Fits | None = None, tree_at: BlobReference | None = None
    ) -> Outgoing:
        """Put a draft into the outbox: state and message in one transaction (rule 3).

        :param tree_at: where the ratchet tree is, if it is not to be in the Welcome
        :raises UsageError: a creation of ours waits already, or the draft's time is over
        :raises StanzaTooLarge: by `fits`; nothing has changed
        """
        asked = self.reinit
        if self.creation_waits or (self._group is not None and (asked is None or asked.group_id != draft.group_id)):
            raise UsageError("a creation of ours waits already, or another one has been first")
        location = None if tree_at is None else RatchetTreeLocation(tree_at).extension()
        bundle = draft.finish(instead_of_tree=location, random=self.device.random)
        record = _record(bundle, draft.group_id)
        outgoing = creation(record)
        if fits is not None:
            fits(outgoing.payloads)
        number = self._outbox.next_number()
        pieces = Group.creation_pieces(bundle.staged)
        # A room in which a group waits to be entered is read again after a restart.
        record_of_room = (
            self._record if self._group is not None else replace(self._record, state=MembershipState.INVITED)
        )
        with self._transaction() as transaction:
            transaction.put(self._spaces.outbox, number, record.encode())
            put_all(transaction, self._spaces.pending, {number + name: value for name, value in pieces.items()})
            self._put_record(transaction, record_of_room)
        self._record = record_of_room
        self._outbox.put(number, record)
        self._staged[number] = bundle.staged
        return outgoing

    def _accept_creation(self, number: bytes, record: RoomRecord, now: int) -> list[Event]:
        """Our own creation is in the room's order, and the first: we enter the group."""
        staged: StagedCommit = self._staged[number]
        group = staged.next
        assert isinstance(group, Group)
        continued = self._group is not None
        record = replace(
            record,
            state=MembershipState.MEMBER,
            group_id=group.group_id,
            joined=now,
            joined_epoch=group.epoch,
            commits=b"",
        )
        roster = Roster.of(group.members())
        invited = (account for account in roster.accounts() if account != self.device.identity.account)
        before = self._record.cursor
        owed = (
            self._owed if continued else PostCommitActions((Invite(account, None).key, before) for account in invited)
        )
        with self._transaction() as transaction:
            gone = self._clear(transaction, keep_messages=continued)
            carried = self._carry_over(transaction)
            put_all(transaction, self._spaces.group, group.pieces())
            put_all(transaction, self._spaces.owed, owed.entries)
            self._put_record(transaction, record)
        policy = RoomPolicy.required_in(group.context.extensions)
        self._begin(group.stored(), roster, policy, record, Doubts())
        self._owed = owed
        self._outbox.remove_all(gone)
        self._outbox.put_all(carried)
        if continued:
            by = Member.of(group.own_index, group.own_leaf)
            return [GroupContinued(self.room, group.epoch, by, group.suite.id)]
        members = (Member.of(index, leaf, now) for index, leaf in group.members() if index != group.own_index)
        added = GroupChanged(
            room=self.room,
            epoch=group.epoch,
            by=Member.of(group.own_index, group.own_leaf),
            added=tuple(members),
            removed=(),
            updated=(),
            policy_changed=False,
        )
        return [Joined(self.room, group.epoch, None), added]


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


def creation(record: OutboxRecord) -> Outgoing:
    """The stanza of a creation."""
    payloads = (
        elements.Commit(record.reference, 0, record.message),
        elements.Welcome(record.reference, 1, record.welcome),
    )
    return Outgoing(record.origin_id.decode(), record.kind, payloads if record.welcome else payloads[:1])
