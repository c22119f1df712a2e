"""Says what each stanza of a room means for the group: a :class:`~.actions.Step`.  Looking changes nothing.

Being left behind.  A message of a later epoch than ours means that we lack a Commit, or that somebody has
written a number on a stanza; it cannot be read, so MLS cannot tell.  It counts if the room vouches that it is from
a member's account: then :class:`~slixmpp_mls.client.events.LeftBehind` says so, once per account and epoch.  Nothing is
given up for it.  Outsiders cannot bring it about, and a room that lies gains no more than by keeping silent.

Being one's own past.  A message that we have signed, but that our state has not sent, says that the store is an
old copy.  This is all for which a stanza makes us give the group up
(:class:`~slixmpp_mls.client.events.GroupLost`): its keys would be used twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...errors import InvalidError, NotForUs, PeerError, Replayed, StateRolledBack, UnknownGroup, WrongEpoch
from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.group.group import Group
from ...mls.group.message_processing import ReceivedMessage, ReceivedProposal
from ...mls.group.staging import StagedCommit
from ...mls.structures.framing import MemberSender, NewMemberProposalSender
from ...mls.structures.leaf_node import LeafNode
from ...mls.structures.proposals import Add, Update
from ...mls.tree.tree_math import LeafIndex
from ...policy import RoomPolicy
from ...policy.check import check
from ...stanza import elements
from ...stanza.consistency import check as check_consistency
from ...stanza.elements import RoomElement
from ..device import Device
from ..events import CommitLost, Event, LeftBehind, MessageSent, Rejected, Unreadable
from ..storage.records import MembershipState, OutboxKind
from .actions import Abandon, Begin, Enter, Ignore, Incoming, Join, MoveOn, Read, Remember, Sent, Step
from .continuation import Continuation
from .external_commit import ExternalCommits
from .resumption_psks import OtherGroups
from .room_change import Membership
from .room_state import RoomState
from .welcome import Welcomes

__all__ = ["Processing", "rejected"]

_RULES = "urn:xmpp:mls:0 business rules"

_Framed = elements.Application | elements.Proposal | elements.Commit


class Processing:
    """What the stanzas of a room's group mean."""

    def __init__(
        self,
        device: Device,
        state: RoomState,
        welcomes: Welcomes,
        entries: ExternalCommits,
        continuation: Continuation,
    ) -> None:
        self._device = device
        self._state = state
        self._welcomes = welcomes
        self._entries = entries
        self._continuation = continuation

    @property
    def behind(self) -> frozenset[str]:
        """Accounts of members that, by what the room says, speak in a later epoch than ours.

        If any is left when the room's archive has been read to its end, we lack a Commit; see :attr:`is_left_behind`.
        """
        return frozenset(self._state.ahead)

    @property
    def is_left_behind(self) -> bool:
        """Whether so many speak in a later epoch that we must lack a Commit, once the archive has been read to its end.

        That is our own account, or two others, or the only other one.  It takes more than one member to make us
        believe it: what is written on a stanza is not authenticated.
        """
        membership, ahead = self._state.membership, self._state.ahead
        if membership is None or not ahead:
            return False
        own = self._device.identity.account
        others = sum(account != own for account in membership.roster.accounts())
        return own in ahead or len(ahead) >= min(2, others)

    def examine(self, incoming: Incoming, now: int) -> Step:
        """What a stanza means.  Changes nothing.

        :raises StoreError: the store failed
        """
        others = OtherGroups(self._state.store, self._device.parameters, self._state.room)
        try:
            if incoming.error is not None:
                raise incoming.error
            membership = self._state.membership
            if membership is None:
                return self._examine_outside(incoming, others)
            return self._examine_inside(membership, incoming, now, others)
        except StateRolledBack as error:
            return Step(incoming, Abandon(str(error)))
        except PeerError as error:
            return Step(incoming, Ignore((rejected(self._state.room, incoming, error),)), awaits=others.awaited)

    def _examine_inside(self, membership: Membership, incoming: Incoming, now: int, others: OtherGroups) -> Step:
        group = membership.group
        for payload in incoming.payloads:
            if payload.group != group.group_id:
                return self._examine_other_group(group, incoming, payload, others)
            if not isinstance(payload, _Framed):
                continue
            number = self._state.outbox.of_message(payload.data)
            if number is not None:
                check_consistency(payload)
                return self._examine_own(membership, incoming, number, others)
            if payload.epoch > group.epoch:
                return self._examine_ahead(membership, incoming, payload)
            if isinstance(payload, elements.Application):
                return self._examine_application(group, incoming, payload, now)
            if isinstance(payload, elements.Proposal):
                return self._examine_proposal(group, incoming, payload, now)
            return self._examine_commit(membership, incoming, payload, now, others)
        return Step(incoming, Ignore())

    def _examine_other_group(self, group: Group, incoming: Incoming, payload: RoomElement, others: OtherGroups) -> Step:
        """The group that follows ours, if ours is closed; or one that we have left behind."""
        asked = group.closed
        if asked is not None and payload.group == asked.group_id:
            number = self._continuation.find(incoming)
            if number is not None:
                return Step(incoming, Begin(number))
            step = self._welcomes.find(incoming, others)
            if step is None:
                return Step(incoming, Ignore())
            if isinstance(step.action, Join):
                continues = step.action.staged.continues
                # RFC 9420 12.4.3.1 has been checked for what it continues: here, that it is our group.
                if continues is None or continues.psk_group_id != group.group_id:
                    raise InvalidError("a group that does not follow ours", "RFC 9420 11.2")
            return step
        with self._state.store.transaction() as transaction:
            left = transaction.get(self._state.spaces.ended, payload.group)
        if left is None:
            raise UnknownGroup("a message of another group", _RULES)
        if isinstance(payload, elements.Application):
            check_consistency(payload)
            who = incoming.claimed
            return Step(
                incoming, Ignore((Unreadable(self._state.room, "too-late", payload.epoch, who, incoming.archive_id),))
            )
        return Step(incoming, Ignore())

    def _examine_own(self, membership: Membership, incoming: Incoming, number: bytes, others: OtherGroups) -> Step:
        record = self._state.outbox[number]
        if record.kind is OutboxKind.COMMIT:
            try:
                return self._move_on(membership, incoming, self._state.staged[number], others)
            except PeerError as error:  # made by software that did not ask
                return Step(incoming, Sent(number, CommitLost(self._state.room, record.origin_id.decode(), str(error))))
        event = None
        if record.kind is OutboxKind.APPLICATION:
            event = MessageSent(self._state.room, record.origin_id.decode(), incoming.archive_id, record.plaintext)
        return Step(incoming, Sent(number, event))

    def _examine_ahead(self, membership: Membership, incoming: Incoming, payload: _Framed) -> Step:
        check_consistency(payload)
        epoch = membership.group.epoch
        events: list[Event] = []
        if isinstance(payload, elements.Application):
            events.append(self._unreadable(incoming, payload.epoch))
        who = incoming.claimed
        ahead: tuple[str, int] | None = None
        if who is not None and membership.roster.has(who):
            ahead = who, payload.epoch + isinstance(payload, elements.Commit)
            if who not in self._state.ahead:
                events.append(LeftBehind(self._state.room, epoch, payload.epoch, who, incoming.archive_id))
        elif not events:
            raise WrongEpoch(f"epoch {payload.epoch}, not {epoch}", "RFC 9420 6")
        left_behind = any(isinstance(event, LeftBehind) for event in events)
        return Step(incoming, Ignore(tuple(events), ahead), gap=left_behind)

    def _examine_application(self, group: Group, incoming: Incoming, payload: elements.Application, now: int) -> Step:
        message = check_consistency(payload)
        try:
            received = group.process(message, now=now)
        except NotForUs:
            return Step(incoming, Ignore())  # ours, sent before, reflected again
        except WrongEpoch:
            return Step(incoming, Ignore((self._unreadable(incoming, payload.epoch),)))
        assert isinstance(received, ReceivedMessage)
        if received.again:
            # RFC 9420 6.1: a signature does not cover the generation.  Each message of ours has an id of its own in its
            # authenticated data, so this is a member's copy; its key is left for the message that it belongs to.
            raise Replayed("a message that was read before, encrypted once more", "RFC 9420 6.1, 9.2")
        # RFC 9420 9.1: generations count a sender's messages, and a room keeps their order.
        gap = received.epoch == group.epoch and received.missing > 0
        return Step(incoming, Read(received), gap=gap)

    def _unreadable(self, incoming: Incoming, epoch: int) -> Unreadable:
        membership = self._state.membership
        if membership is None:
            reason = "lost" if self._state.standing is MembershipState.LOST else "before-join"
        elif epoch < self._state.record.joined_epoch:
            reason = "before-join"
        else:
            reason = "too-late" if epoch < membership.group.epoch else "future"
        return Unreadable(self._state.room, reason, epoch, incoming.claimed, incoming.archive_id)

    def _examine_proposal(self, group: Group, incoming: Incoming, payload: elements.Proposal, now: int) -> Step:
        if payload.epoch < group.epoch:
            return Step(incoming, Ignore())  # its epoch is over: it has no effect any more
        try:
            received = group.process(check_consistency(payload), now=now)
        except NotForUs:
            return Step(incoming, Ignore())
        assert isinstance(received, ReceivedProposal)
        if received.again:
            return Step(incoming, Ignore())  # proposed again in the same words, perhaps by a member that has copied it
        proposal = received.proposal
        if isinstance(received.sender, NewMemberProposalSender) and isinstance(proposal, Add):
            ClientIdentity.from_leaf(proposal.key_package.leaf_node)  # a proposal that names no client is not kept
        leaves: tuple[LeafNode, ...] = ()
        successions: tuple[tuple[LeafNode, LeafNode], ...] = ()
        if isinstance(proposal, Add):
            leaves = (proposal.key_package.leaf_node,)
        elif isinstance(proposal, Update):
            leaves = (proposal.leaf_node,)
            sender = received.sender
            assert isinstance(sender, MemberSender)
            successions = ((group.tree.member(LeafIndex(sender.leaf_index)), proposal.leaf_node),)
        return Step(incoming, Remember(received), leaves, successions)

    def _examine_commit(
        self, membership: Membership, incoming: Incoming, payload: elements.Commit, now: int, others: OtherGroups
    ) -> Step:
        group = membership.group
        if payload.epoch < group.epoch:
            return Step(incoming, Ignore())  # rule 1: another Commit has ended that epoch
        try:
            staged = group.process(check_consistency(payload), now=now, psks=others.psk)
        except (StateRolledBack, NotForUs):
            raise
        except InvalidError as error:
            # A proposal that it refers to may be what is missing (RFC 9420 12.4.2).
            gap = others.awaited is None and incoming.claimed is not None and membership.roster.has(incoming.claimed)
            return Step(
                incoming, Ignore((rejected(self._state.room, incoming, error),)), awaits=others.awaited, gap=gap
            )
        assert isinstance(staged, StagedCommit)
        return self._move_on(membership, incoming, staged, others)

    def _move_on(self, membership: Membership, incoming: Incoming, staged: StagedCommit, others: OtherGroups) -> Step:
        roster = check(membership.view, staged.effects).roster
        if staged.next is None:
            return self._examine_removal(incoming, staged, others)
        policy = RoomPolicy.required_in(staged.next.context.extensions)
        leaves = () if staged.own else tuple(_new_leaves(staged.effects))
        successions = tuple(
            (change.before, change.after)
            for change in staged.effects.updated
            if change.before is not None and change.after is not None
        )
        return Step(incoming, MoveOn(staged, roster, policy), leaves, successions)

    def _examine_removal(self, incoming: Incoming, staged: StagedCommit, others: OtherGroups) -> Step:
        """We are removed, and perhaps added afresh by the same Commit: its Welcome is in the same stanza."""
        back: Step | None = None
        reasons: tuple[Event, ...] = ()
        try:
            back = self._welcomes.find(incoming, others)
        except PeerError as error:
            reasons = (rejected(self._state.room, incoming, error),)
        join = None if back is None or not isinstance(back.action, Join) else back.action
        action = MoveOn(staged, None, None, join, reasons)
        return Step(incoming, action) if back is None else replace(back, action=action)

    def _examine_outside(self, incoming: Incoming, others: OtherGroups) -> Step:
        """We wait for a Welcome, or an external Commit of ours: one that is the first of its epoch in the room."""
        number = self._continuation.find(incoming)
        if number is not None:
            return Step(incoming, Begin(number))
        if not self._welcomes.came_second(incoming):
            entry = self._entries.find(incoming)
            if entry is not None:
                leaves = (leaf for index, leaf in entry.members() if index != entry.own_index)
                return Step(incoming, Enter(entry), tuple(leaves))
            step = self._welcomes.find(incoming, others)
            if step is not None:
                return step
        return Step(
            incoming,
            Ignore(
                tuple(
                    self._unreadable(incoming, payload.epoch)
                    for payload in incoming.payloads
                    if isinstance(payload, elements.Application)
                )
            ),
        )


def rejected(room: str, incoming: Incoming, error: PeerError) -> Rejected:
    """The event of a stanza that was refused."""
    return Rejected(room, error, incoming.claimed, incoming.archive_id)


def _new_leaves(effects: Effects) -> Iterator[LeafNode]:
    """Leaves whose credential or signature key has not been judged yet."""
    for change in effects.changes:
        before, after = change.before, change.after
        if after is None:
            continue
        if before is None or (before.credential, before.signature_key) != (after.credential, after.signature_key):
            yield after
