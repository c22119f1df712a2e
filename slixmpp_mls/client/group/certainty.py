"""Detects that our state may not be the group's present state, and finds out.

::

    sure ── a reason ──► unsure ── an answer: the same state, or nobody shows another one ──► sure
                            ├── another state that its signer can have brought about ──► returning ──► sure
                            └── another state that it cannot have brought about alone ──► unsure until one of the above

A gap in the archive, a message that cannot be decrypted and a later epoch number on a stanza prove nothing: the room's
server, and in most cases any occupant, can fabricate them.  Therefore they delete nothing.  They make us *unsure*
(:class:`UnsureReason`).  While we are unsure, we continue to read, accept messages that decrypt and valid next Commits,
and neither send nor commit.

*Finding out.*  We send an Inquiry to the room, signed with our leaf's key.  A member whose tree has that key answers
with a GroupInfo of its present epoch, encrypted to us.  The GroupInfo must be signed by the key that its signer's leaf
has in *our* tree.  It shows one of three things:

- our own state: we are sure again;
- a later epoch: this proves that we are behind;
- another state of the same epoch: the group has been split, and the members with the greater confirmed transcript hash
  move to the other side.

If no member answers, nothing is proved, and we continue from our own epoch.

*An answer that its signer cannot have brought about alone* shows, for example, a removal by an administrator who is
offline.  It is honest or it leads into a group of its signer's own; nothing tells.  So it is never followed, and our
own state is no longer taken for the present one either (:attr:`Certainty.contested`): nothing is sent until another
member shows our own state, or one shows a state that it can have brought about, such as any member with all rights.
Members with all rights answer even after others (:mod:`slixmpp_mls.rooms.engine.recovery`).

*Returning.*  The old state is kept until we have joined the group again, by an external Commit made from that GroupInfo
or by a Welcome.

*Replays.*  An Inquiry has its sender's time, and each one of a client has a later time than those before.  Whoever
posts an old Inquiry of somebody else's once more is not answered, and delays no answer to a later one.

*Limits.*  Reasons that any occupant can fabricate make us unsure again only after a pause, which grows from seconds to
an hour.  We answer the same account once in :data:`ANSWER_PAUSE` seconds and :data:`ANSWERS_TO_ONE` times a minute, and
all together :data:`ANSWERS` times a minute.  An Inquiry that comes too early waits.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from enum import IntFlag
from hashlib import sha256
from typing import TypeVar

from ...errors import InvalidError, PeerError
from ...mls.crypto.hpke import HPKECiphertext, HPKEPrivateKey
from ...mls.parameters import DAY
from ...mls.structures.framing import MLSMessage
from ...mls.structures.welcome import GroupInfo, group_info_tbs
from ...mls.tls import Struct, opaque, struct, uint32, uint64
from ...mls.tree.tree_math import LeafIndex
from ...stanza import elements
from ..device import Device
from ..events import Event, Unsure
from ..storage.records import Known, OutboxKind
from .actions import Outgoing
from .group_info_key import UNKNOWN
from .group_infos import GroupInfos, Refused
from .join_request import PAUSES
from .room_change import Change
from .room_contents import Membership
from .room_state import RoomState

__all__ = [
    "ANSWERS", "ANSWERS_TO_ONE", "ANSWER_LABEL", "ANSWER_PAUSE", "INQUIRY_LABEL", "Certainty", "Inquiry",
    "UnsureReason", "names", "signed_content", "state_digest",
]  # fmt: skip

ANSWER_PAUSE = 3
"""Seconds between two answers to the same account; whoever asks waits longer than that."""
ANSWERS_TO_ONE = 5
"""Answers in a minute, to the same account."""
ANSWERS = 40
"""Answers in a minute, to all together."""

T = TypeVar("T")

INQUIRY_LABEL = "MLS-XMPP 1.0 inquiry"
ANSWER_LABEL = "MLS-XMPP 1.0 answer"
_RULES = "urn:xmpp:mls:0 finding out"
_TREE_MEMBERS = 64  # of the largest group whose answers have the ratchet tree in them
_MINUTE = 60
_ASKED = 4096  # signature keys whose latest Inquiry is remembered


class UnsureReason(IntFlag):
    """Reasons for which our state may not be the group's present state."""

    ARCHIVE_GAP = 1
    """The archive does not go back to our place."""
    LATER_EPOCH = 2
    """The room says that a member speaks in a later epoch."""
    UNDECRYPTABLE = 4
    """The room says that a member has sent, in our epoch, what cannot be decrypted or verified."""
    TOMBSTONE = 8
    """The archive has a tombstone (XEP-0424, XEP-0425) where a Commit may have been."""
    UNAVAILABLE = 16
    """A member has signed the location of a Commit, and the Commit is not there."""
    UNPROVEN = 32
    """A member has answered with another state, which it cannot have brought about alone."""


_MADE_UP = UnsureReason.LATER_EPOCH | UnsureReason.UNDECRYPTABLE | UnsureReason.TOMBSTONE
"""The reasons that any occupant can fabricate."""


@struct
class _InquiryTBS(Struct):
    group_id: opaque
    signer: uint32
    state: opaque
    time: uint64
    reply_key: opaque


@struct
class Inquiry(Struct):
    """A member's question for the group's present state.

    :ivar signer: leaf index of the member
    :ivar state: SHA-256 of its GroupContext, which binds the inquiry to its present state
    :ivar time: seconds since the Unix epoch by its clock, later than in any Inquiry of the client before
    :ivar reply_key: HPKE public key for the answer
    :ivar signature: ``SignWithLabel`` with its leaf's key, over the group id and all other fields
    """

    signer: uint32
    state: opaque
    time: uint64
    reply_key: opaque
    signature: opaque


class Certainty:
    """Tracks whether our state is the present state of a room's group."""

    def __init__(self, device: Device, state: RoomState, group_infos: GroupInfos) -> None:
        self._device = device
        self._state = state
        self._group_infos = group_infos
        self._reply_key: HPKEPrivateKey | None = None
        self._asked = 0  # the time in our latest Inquiry
        self._answered: dict[bytes, int] = {}  # by signature key: the time in the latest Inquiry that we have answered
        self._answers: list[tuple[int, str]] = []  # of the last minute: when, and to which account

    @property
    def reasons(self) -> UnsureReason:
        """The reasons for which we are unsure; 0 if we are sure."""
        return UnsureReason(self._state.unsure.reasons)

    @property
    def contested(self) -> bool:
        """Whether a member has shown another state, without proof; silence no longer makes us sure then."""
        return bool(self.reasons & UnsureReason.UNPROVEN)

    @property
    def proving_info(self) -> elements.GroupInfo | None:
        """The GroupInfo that proves that the group has another state; None if there is none."""
        unsure, membership = self._state.unsure, self._state.membership
        if membership is None or not unsure.behind:
            return None
        return elements.GroupInfo(membership.group.group_id, unsure.behind, unsure.proving_info)

    # --- unsure, and sure again ----------------------------------------------------------------

    def note(self, change: Change, reason: UnsureReason, now: int) -> list[Event]:
        """Record a reason to be unsure, within a change of the state.

        :param now: seconds since the Unix epoch
        """
        before = self._state.unsure
        paused = before.since <= now < before.not_before
        if self._state.membership is None or before.reasons & reason or (reason & _MADE_UP and paused):
            return []
        rounds = before.rounds if before.reasons else 1 + (before.rounds if abs(now - before.since) < DAY else 0)
        change.put_unsure(replace(before, reasons=before.reasons | reason, rounds=rounds, since=now))
        return [] if before.reasons else [Unsure(self._state.room, self._epoch, (_name(reason),))]

    def skip_gap(self, now: int) -> list[Event]:
        """Become unsure because the archive does not reach back to our place; it is then read from its beginning.

        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        self._state.require_member()
        with self._state.change() as change:
            events = self.note(change, UnsureReason.ARCHIVE_GAP, now)
            change.put_record(replace(self._state.record, cursor=b""))
        return events

    def become_sure(self, now: int) -> list[Event]:
        """Become sure again: the archive has been read, and no member has shown another state.

        :raises StoreError: nothing has changed
        """
        return [] if self.contested else self._settle(now)

    def _settle(self, now: int) -> list[Event]:
        before = self._state.unsure
        if not before.reasons or before.behind:
            return []
        pause = PAUSES[min(before.rounds, len(PAUSES)) - 1]
        with self._state.change() as change:
            change.put_unsure(replace(before, reasons=0, since=now, not_before=now + pause))
        return [Unsure(self._state.room, self._epoch, ())]

    @property
    def _epoch(self) -> int:
        return self._state.require_member().group.epoch

    # --- asking --------------------------------------------------------------------------------

    def inquire(self, now: int) -> Outgoing:
        """Make an Inquiry for the group's state.  Nothing is stored; after a restart a new one is made.

        :param now: seconds since the Unix epoch
        :raises UsageError: we are not in the group
        """
        group = self._state.require_member().group
        self._reply_key = key = group.suite.generate_key_pair(self._device.random)
        self._asked = max(now, self._asked + 1)
        own = int(group.own_index)
        asked = Inquiry(own, state_digest(group.context.encode()), self._asked, key.public, b"")
        signature = group.suite.sign_with_label(
            group.signature_key, INQUIRY_LABEL, signed_content(group.group_id, asked)
        )
        payload = elements.Inquiry(group.group_id, group.epoch, replace(asked, signature=signature).encode())
        return Outgoing(str(uuid.uuid4()), OutboxKind.PROPOSAL, (payload,))

    def take_answer(self, answer: elements.Answer, now: int) -> list[Event]:
        """Process an answer to an Inquiry.  An answer for another member is ignored.

        :raises PeerError: the answer is for us, and proves nothing
        :raises StoreError: nothing has changed
        """
        membership, key = self._state.membership, self._reply_key
        if membership is None or key is None or answer.group != membership.group.group_id:
            return []
        suite = membership.group.suite
        try:
            sealed = HPKECiphertext.decode(answer.data)
            octets = suite.decrypt_with_label(key, ANSWER_LABEL, answer.group, sealed)
        except PeerError:
            return []  # for somebody else
        info = MLSMessage.decode(octets).body
        if isinstance(info, GroupInfo) and info.group_context.epoch != answer.epoch:
            raise InvalidError("an answer that shows another epoch than its element says", _RULES)
        return self.take_group_info(octets, now, answered=True)

    def take_group_info(self, message: bytes, now: int, *, answered: bool = False) -> list[Event]:
        """Process a GroupInfo that may show the group's state.

        :param message: an MLSMessage
        :param answered: True for an answer to our Inquiry, which shows a member's present state.  False for a GroupInfo
            that the room has kept; one of our own epoch is then ignored, because its Commit may have lost
        :raises PeerError: no member of our tree has signed it; or it is no answer, and its signer cannot have brought
            about the difference to our state alone
        :raises StoreError: nothing has changed
        """
        state, membership = self._state, self._state.require_member()
        if state.unsure.behind:
            return []
        group = membership.group
        info = MLSMessage.decode(message).body
        if not isinstance(info, GroupInfo) or info.group_context.group_id != group.group_id:
            raise InvalidError("not a GroupInfo of our group", _RULES)
        # RFC 9420 12.4.3: the leaf at `signer` signs a GroupInfo.  The proof is that its key verifies in our tree.
        signer = group.tree.member(LeafIndex(info.signer))
        group.suite.verify_with_label(signer.signature_key, "GroupInfoTBS", group_info_tbs(info), info.signature)
        ours, theirs = group.context, info.group_context
        if theirs == ours:
            return self._settle(now) if answered and info.signer != group.own_index else []
        greater = theirs.confirmed_transcript_hash < ours.confirmed_transcript_hash
        if theirs.epoch < ours.epoch or (theirs.epoch == ours.epoch and not (answered and greater)):
            return []
        try:
            self._group_infos.check(info)
        except PeerError:
            if not answered:
                raise
            # A newcomer has no say in where the group is.
            return self._contest() if membership.roster.counts(info.signer) else []
        return self._follow(theirs.epoch, message)

    def _contest(self) -> list[Event]:
        """A member shows a state that it cannot have brought about alone: ours may be the group's, or not."""
        before = self._state.unsure
        if self.contested:
            return []
        reasons = UnsureReason(before.reasons | UnsureReason.UNPROVEN)
        with self._state.change() as change:
            change.put_unsure(replace(before, reasons=reasons))
        return [Unsure(self._state.room, self._epoch, names(reasons))]

    def take_archive(
        self, found: Sequence[tuple[T, elements.GroupInfo]], now: int
    ) -> tuple[list[Event], list[Refused[T]]]:
        """Process the GroupInfos that the room has kept.

        :param found: in the room's order
        :returns: events, and the GroupInfos that were refused
        :raises StoreError: nothing has changed
        """
        if self._state.unsure.behind:
            return [], []
        ways, refused = self._group_infos.ways_in(found, now)
        for way in ways:
            if not way.own and way.group_info.epoch > self._epoch:
                return self._follow(way.group_info.epoch, way.message), refused
        return [], refused

    def _follow(self, epoch: int, message: bytes) -> list[Event]:
        """It is shown that the group is in another state, to which we return."""
        state, group = self._state, self._state.require_member().group
        self._reply_key = None
        before = state.unsure
        # Our requests stay: one of them may have been answered while we could not follow the Welcome.
        asks = state.outside.asks_in(group.group_id)
        outside = replace(
            state.outside.pace(),
            asks=asks,
            group_id=group.group_id,
            suite=group.suite.id,
            epoch=epoch,
            known=Known.SEEN,
        )
        with state.change() as change:
            reasons = before.reasons or UnsureReason.LATER_EPOCH
            change.put_unsure(replace(before, reasons=reasons, behind=epoch, proving_info=message))
            change.put_outside(outside)
        return [] if before.reasons else [Unsure(state.room, group.epoch, (_name(UnsureReason.LATER_EPOCH),))]

    def forget_proving_info(self) -> None:
        """Drop the GroupInfo that proved the group's state, because it is no longer usable, and find out again.

        :raises StoreError: nothing has changed
        """
        with self._state.change() as change:
            change.put_unsure(replace(self._state.unsure, behind=0, proving_info=b""))

    # --- answering -----------------------------------------------------------------------------

    def judge(self, inquiry: elements.Inquiry) -> Inquiry | None:
        """Verify a member's Inquiry.  Returns None if it is not to be answered, such as one that is not its latest.

        :raises PeerError: no member of our tree has signed it
        """
        membership = self._state.membership
        if membership is None or self._state.unsure.behind or inquiry.group != membership.group.group_id:
            return None
        group = membership.group
        asked = Inquiry.decode(inquiry.data)
        leaf = group.tree.member(LeafIndex(asked.signer))
        group.suite.verify_with_label(
            leaf.signature_key, INQUIRY_LABEL, signed_content(group.group_id, asked), asked.signature
        )
        if asked.signer == group.own_index or inquiry.epoch > group.epoch:
            return None
        return asked if asked.time > self._answered.get(leaf.signature_key, -1) else None

    def pause(self, asked: Inquiry, now: int) -> int:
        """The seconds until the limits let us answer an Inquiry; 0 if they do so now.

        :param asked: the result of :meth:`judge`
        """
        self._answers = [each for each in self._answers if abs(now - each[0]) < _MINUTE]
        account = self._account(asked)
        to_one = [when for when, to in self._answers if to == account]
        pauses = [when + ANSWER_PAUSE - now for when in to_one[-1:]]
        if len(to_one) >= ANSWERS_TO_ONE:
            pauses.append(to_one[-ANSWERS_TO_ONE] + _MINUTE - now)
        if len(self._answers) >= ANSWERS:
            pauses.append(self._answers[-ANSWERS][0] + _MINUTE - now)
        return max((0, *pauses))

    def _account(self, asked: Inquiry) -> str:
        return self._state.require_member().roster.at(asked.signer).account

    def answer(self, asked: Inquiry, now: int) -> Outgoing:
        """Make the answer that shows a member our state.

        :param asked: the result of :meth:`judge`
        :raises UsageError: we are not in the group
        :raises InvalidError: its reply key is not a valid HPKE public key
        """
        membership = self._state.require_member()
        group = membership.group
        key = group.tree.member(LeafIndex(asked.signer)).signature_key
        self._answered.pop(key, None)
        self._answered[key] = asked.time
        if len(self._answered) > _ASKED:
            del self._answered[next(iter(self._answered))]
        self._answers.append((now, self._account(asked)))
        handed_over = (self._state.group_info_key or UNKNOWN).extension()
        info = group.group_info(tree=_has_tree(membership), extensions=(handed_over,), random=self._device.random)
        sealed = group.suite.encrypt_with_label(asked.reply_key, ANSWER_LABEL, group.group_id, info)
        payload = elements.Answer(group.group_id, group.epoch, sealed.encode())
        return Outgoing(str(uuid.uuid4()), OutboxKind.PROPOSAL, (payload,))


def _has_tree(membership: Membership) -> bool:
    return len(membership.roster) <= _TREE_MEMBERS


def state_digest(context: bytes) -> bytes:
    """What an Inquiry has of its sender's GroupContext."""
    return sha256(context).digest()


def signed_content(group_id: bytes, asked: Inquiry) -> bytes:
    """What the signature of an Inquiry covers, encoded."""
    return _InquiryTBS(group_id, asked.signer, asked.state, asked.time, asked.reply_key).encode()


def _name(reason: UnsureReason) -> str:
    return (reason.name or "").lower().replace("_", "-")


def names(reasons: UnsureReason) -> tuple[str, ...]:
    """The reasons by name, such as ``archive-gap``: the members of :class:`UnsureReason` in lower case."""
    return tuple(_name(reason) for reason in UnsureReason if reason in reasons)
