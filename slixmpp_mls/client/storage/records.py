"""The records that the client layer keeps in a store, beside the groups' own pieces.

=========================  ========================  ===========================================
space                      key                       value
=========================  ========================  ===========================================
``device``                 ``id``                    device id
``device``                 ``key`` + scheme (2)      private signature key
``device``                 ``next`` + scheme (2)     private signature key that is to take its place
``device``                 ``former`` + scheme (2)   since when it has been replaced, seconds since the Unix epoch (8);
                                                     public signature key that groups may still have
``device``                 ``invitation``            archive id of the last invitation read (the plugin's)
``device``                 ``since``                 when we began, until an invitation has been read (8, the plugin's)
``device``                 ``listed``, ``label``,    whether, and as what, our account's node has listed us; since when
                           ``retired``               it is over (:mod:`.devices`, as are ``own-device``
                                                     and ``admission``)
``key-package``            KeyPackageRef             :class:`KeyPackageRecord`
``conversation``           account                   the room that is being made for it (the plugin's)
``room``                   room's bare JID           :class:`RoomRecord`
``group/`` + room          piece                     :mod:`slixmpp_mls.mls.group.group_storage`
``pending/`` + room        number (8), piece         a Commit of ours that waits, by its number in the outbox
``outbox/`` + room         number (8)                :class:`OutboxRecord`
``unwanted/`` + room       ProposalRef               empty: a waiting proposal that we do not commit
``member/`` + room         client's full identity    when it came, seconds since the Unix epoch (8)
``renewed/`` + room        client's full identity    when its keys were renewed last, see :mod:`.leaf_ages`
``doubt/`` + room          client's full identity    :class:`DoubtRecord`
``owed/`` + room           kind (1), account        what is still to be done, see :mod:`.post_commit_actions`
``inbox/`` + room          number (8)                :class:`InboxRecord`
``seen/`` + room           number (2)                which application messages came last, see :mod:`.duplicate_filter`
``said/`` + room           number (4), ``next``      which messages others can be about (the plugin's)
``ended/`` + room          group id                  the last epoch of that group that we were in (8)
``arrivals/`` + room       account                   when clients came in by themselves, see :mod:`.rejoin_limit`
``outside/`` + room        ``record``                :class:`OutsideRecord`
``entering/`` + room       piece                     the state that an external Commit of ours leads to
``unsure/`` + room         ``record``                :class:`UnsureRecord`
=========================  ========================  ===========================================

Rooms, not group ids, name the spaces: a room carries one group at a time, and a group that
follows another one takes its place.  The first of these spaces end with the membership; ``inbox``, ``seen`` and
``ended`` outlive it, because what they prevent (losing a message that has been read, reading twice, using a key
twice) comes after it, and ``outside`` is about the time without one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Annotated, ClassVar, Self

from ...mls.tls import Enum, Struct, opaque, struct, uint8, uint16, uint32, uint64

__all__ = [
    "ROOMS",
    "AskRecord",
    "DoubtRecord",
    "InboxRecord",
    "KeyPackageRecord",
    "MembershipState",
    "OutboxKind",
    "OutboxRecord",
    "OutsideRecord",
    "RoomRecord",
    "Spaces",
    "UnsureRecord",
]  # fmt: skip

KEY_PACKAGES = "key-package"
"""The space that has a :class:`KeyPackageRecord` of each KeyPackage of ours."""
ROOMS = "room"
"""The space that has a :class:`RoomRecord` of each room."""
OUTSIDE = b"record"
"""The key of the :class:`OutsideRecord` in its space."""


class MembershipState(IntEnum):
    """How we stand to a room's group."""

    INVITED = 1
    """We read the room and wait for a Welcome."""
    MEMBER = 2
    OUT = 3
    """We left or were removed; nothing of the group is kept."""
    LOST = 4
    """We cannot follow the group any more."""
    FOUNDING = 5
    """We are making the room, and then a group in it."""


class OutboxKind(IntEnum):
    """What waits for its reflection."""

    APPLICATION = 1
    PROPOSAL = 2
    COMMIT = 3
    CREATION = 4
    """The first Commit of a group that continues another one, with its Welcome."""


@struct
class KeyPackageRecord(Struct):
    """A KeyPackage of ours; `bundle` is a KeyPackageBundle.

    `delete_after` is when its private keys go, in seconds since the Unix epoch.  `used`: 0 for one that is offered; 1
    for one of last resort that has been used: it is not offered any more, and kept for Welcomes that are on their way;
    2 for one outside its lifetime, as our clock says: it is kept for another day, in which the clock may be set right.
    """

    secret: ClassVar[bool] = True
    bundle: opaque
    delete_after: uint64
    used: uint8


@struct
class RoomRecord(Struct):
    """Where we are in a room.

    `cursor` is the archive id of the last stanza processed, empty before the first one; `seen` is how many
    application messages we have read, `commits` which Commits have come by while we wait for a Welcome.
    """

    state: Annotated[MembershipState, Enum(MembershipState)]
    group_id: opaque
    cursor: opaque
    joined: uint64
    joined_epoch: uint64
    seen: uint64
    commits: opaque


@struct
class OutboxRecord(Struct):
    """A message that has been made and not yet been seen in the room.

    `digest` is the SHA-256 of the MLSMessage by which its reflection is known; `plaintext` is kept
    of application data until then, for the case that it must be encrypted anew, or has not been encrypted yet (then
    `message` and `digest` are empty); `earlier` holds the digests
    of its former encryptions, 32 octets each.  `reference` is a proposal's ProposalRef, or the id
    of a group that is created.  What the room has
    `refused` is not sent again, but is still known if it comes after all: a refusal by a server on the way
    does not prove that the room has not got it.
    """

    secret: ClassVar[bool] = True
    kind: Annotated[OutboxKind, Enum(OutboxKind)]
    origin_id: opaque
    digest: opaque
    epoch: uint64
    message: opaque
    welcome: opaque
    group_info: opaque
    plaintext: opaque
    earlier: opaque
    reference: opaque
    refused: uint8


@struct
class DoubtRecord(Struct):
    """Why the Authentication Service does not vouch for a member, see :mod:`.doubts`; `since` is in seconds.

    `verdict`: 0 unknown, 1 denied, 2 unknown of somebody who has come in by its own wish.
    """

    verdict: uint8
    lapsed: uint8
    since: uint64
    reason: opaque
    text: opaque


@struct
class InboxRecord(Struct):
    """A message that has been read and not been handed over to the application yet.

    The fields are those of :class:`~slixmpp_mls.client.events.MessageReceived`; an empty `claimed` or `origin_id`
    stands for None, `stamp` is in milliseconds since the Unix epoch.
    """

    secret: ClassVar[bool] = True
    sender: opaque
    leaf: uint32
    signature_key: opaque
    epoch: uint64
    claimed: opaque
    archive_id: opaque
    origin_id: opaque
    occupant: opaque
    clear: uint8
    removed: uint8
    stamp: uint64
    missing: uint32
    data: opaque


@struct
class AskRecord(Struct):
    """A request of ours to be added: a Proposal of a new member, see :mod:`slixmpp_mls.client.group.join_request`.

    `reference` is the KeyPackageRef in it, `until` when that expires (seconds since the Unix epoch); what has
    `arrived` in the room, or was refused there, is not sent again.
    """

    epoch: uint64
    origin_id: opaque
    message: opaque
    reference: opaque
    until: uint64
    arrived: uint8


@struct
class OutsideRecord(Struct):
    """What we know of a room's group while we are not in it.

    `group_id` is empty if it is not known, `suite` 0; `epoch` is where the group seems to be, if that is `known`.
    `after` is the archive id of the last stanza that we have processed as a member, and `missed` how many
    application messages have come by since.  `attempts` counts our requests, the last of which was at `asked`; the
    next one is not made before `not_before` (seconds since the Unix epoch).  `entry` is an external Commit of ours
    that waits for its reflection, with the epoch that it ends, its origin id and the GroupInfo beside it; empty if
    there is none.
    """

    group_id: opaque = b""
    suite: uint16 = 0
    epoch: uint64 = 0
    known: uint8 = 0
    after: opaque = b""
    missed: uint64 = 0
    asks: tuple[AskRecord, ...] = ()
    attempts: uint32 = 0
    asked: uint64 = 0
    not_before: uint64 = 0
    entry: opaque = b""
    entry_epoch: uint64 = 0
    entry_id: opaque = b""
    entry_info: opaque = b""

    def pace(self) -> OutsideRecord:
        """What is left of it once we are in: when we have asked, and may ask again."""
        return OutsideRecord(attempts=self.attempts, asked=self.asked, not_before=self.not_before)


@struct
class UnsureRecord(Struct):
    """Why we do not know whether we are where the group is, see :mod:`slixmpp_mls.client.group.certainty`.

    `reasons` has a bit for each reason; 0 while we are sure.  `behind` is the epoch in which the group is, by a
    GroupInfo that a member has signed, and `door` that GroupInfo (an MLSMessage); 0 and empty while there is none.
    `rounds` counts how often we have been unsure in this row, the last time at `since`; what anybody could make up
    makes us unsure again from `not_before` on (seconds since the Unix epoch).
    """

    reasons: uint32 = 0
    behind: uint64 = 0
    door: opaque = b""
    rounds: uint32 = 0
    since: uint64 = 0
    not_before: uint64 = 0


@dataclass(frozen=True, slots=True)
class Spaces:
    """Names of the spaces that belong to a room."""

    group: str
    pending: str
    outbox: str
    unwanted: str
    member: str
    renewed: str
    doubt: str
    owed: str
    inbox: str
    seen: str
    ended: str
    arrivals: str
    outside: str
    entering: str
    returning: str
    unsure: str

    @classmethod
    def of(cls, room: str) -> Self:
        return cls(*(f"{field.name}/{room}" for field in fields(cls)))
