"""The records that the client layer keeps in a store, in addition to the groups' own pieces.

==========================  =========================  =============================================
space                       key                        value
==========================  =========================  =============================================
``device``                  ``id``                     device id
``device``                  ``key`` + scheme (2)       private signature key
``device``                  ``next`` + scheme (2)      private signature key that will replace it
``device``                  ``former`` + scheme (2)    time of its replacement, seconds since the Unix epoch (8);
                                                       public signature key that groups may still have
``device``                  ``invitation``             archive id of the last invitation read (the plugin's)
``device``                  ``since``                  time at which we began, until an invitation has been read (8, the
                                                       plugin's)
``device``                  ``listed``, ``label``,     whether our account's node has listed us, the label, and the time
                            ``retired``                at which that ended (:mod:`slixmpp_mls.account.own_entry`)
``device``                  ``chain`` + scheme (2)     our certificate (:mod:`slixmpp_mls.client.device.certificates`)
``device``                  ``vouchers`` + scheme (2)  vouchers that other devices of our account have made for us
``device``                  ``clock``                  the latest time that we have seen
                                                       (:mod:`slixmpp_mls.account.maintenance`)
``key-package``             KeyPackageRef              :class:`KeyPackageRecord`
``key-package-item``        id of an item              KeyPackageRef of ours that the directory has under this id
``spent``                   KeyPackageRef              :class:`SpentRecord` of one that was used
``conversation``            account                    the room that is being made for it (the plugin's)
``room``                    room's bare JID            :class:`RoomRecord`
``group/`` + room           piece                      :mod:`slixmpp_mls.mls.group.group_storage`
``pending/`` + room         number (8), piece          a Commit of ours that waits, by its number in the outbox
``outbox/`` + room          number (8)                 :class:`OutboxRecord`
``uploads/`` + room         number (8)                 :class:`UploadRecord` of a message in the outbox
``unwanted/`` + room        ProposalRef                empty: a waiting proposal that we do not commit
``member/`` + room          client's full identity     time of its arrival, seconds since the Unix epoch (8)
``renewed/`` + room         client's full identity     time of its keys' last renewal, see :mod:`.leaf_ages`
``epochs/`` + room          epoch modulo 256 (2)       the Commit that began it, see :mod:`.epoch_log`
``doubt/`` + room           client's full identity     :class:`DoubtRecord`
``owed/`` + room            kind (1), account          pending action, see :mod:`.post_commit_actions`
``inbox/`` + room           number (8)                 :class:`InboxRecord`
``seen/`` + room            number (2)                 mark of a recent message, see :mod:`.duplicate_filter`
``said/`` + room            number (4), ``next``       messages to which others can refer (the plugin's)
``ended/`` + room           group id                   the last epoch of that group in which we were (8)
``arrivals/`` + room        account                    times at which clients entered at their own request, see
                                                       :mod:`.rejoin_limit`
``outside/`` + room         ``record``                 :class:`OutsideRecord`
``outside/`` + room         ``expected``               :class:`ExpectedRecord`; a store of before 0.2 has none
``entering/`` + room        piece                      the state after an external Commit of ours
``unsure/`` + room          ``record``                 :class:`UnsureRecord`
``group_info_key/`` + room  ``present``                the key of the group's GroupInfos
                                                       (:mod:`slixmpp_mls.client.group.group_info_key`); a store of
                                                       before 0.2 has none, an empty one is not known
``group_info_key/`` + room  ``entry``                  the same after an external Commit of ours
``returning/`` + room       number (1), suite (2)      private return key of a leaf that we have, or may have, in a
                                                       group that we have lost, the likeliest first
``former/`` + room          kind (1), number (1)       :class:`FormerKeyRecord`
``partial/`` + room         piece                      the group while we do not have its ratchet tree, in place of
                                                       ``group/``
``whole_tree/`` + room      ``record``                 :class:`WholeTreeRecord`, as long as ``partial/`` is there
``known/`` + room           ``record``                 :class:`KnownRecord`
``known/`` + room           ``despite-doubts``         empty: our user has decided to believe its clients
==========================  =========================  =============================================

Other packages keep records of their own in the same store: :mod:`slixmpp_mls.account.device_records`,
:mod:`slixmpp_mls.authentication.trust_table`, :mod:`slixmpp_mls.authentication.automatic_trust`,
:mod:`slixmpp_mls.rooms.conversations` and :mod:`slixmpp_mls.rooms.invitation_queue` say which.

The names of the spaces contain rooms, not group ids: a room carries one group at a time, and the successor of a group
takes its place.  Most of these spaces end with the membership.  ``inbox``, ``seen`` and ``ended`` outlive it,
because they prevent damage that would occur after it: the loss of a message that was read, reading a message twice,
using a key twice.  ``outside`` describes the time without a membership.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Annotated, ClassVar, Final, Self

from ...mls.structures.extensions import Extensions
from ...mls.tls import Enum, Struct, opaque, struct, uint8, uint16, uint32, uint64

__all__ = [
    "NEW_ROOM",
    "ROOMS",
    "SPENT",
    "AskRecord",
    "DoubtRecord",
    "ExpectedGroup",
    "ExpectedRecord",
    "FormerKeyRecord",
    "InboxRecord",
    "InvitedRecord",
    "KeyPackageRecord",
    "KnownClient",
    "KnownRecord",
    "MembershipState",
    "OutboxKind",
    "OutboxRecord",
    "OutsideRecord",
    "RoomRecord",
    "Spaces",
    "SpentRecord",
    "UnsureRecord",
    "UploadRecord",
    "WholeTreeRecord",
    "room_of",
]  # fmt: skip

KEY_PACKAGES = "key-package"
"""The space that has a :class:`KeyPackageRecord` of each KeyPackage of ours."""
KEY_PACKAGE_ITEMS = "key-package-item"
"""The space that has the KeyPackageRef of each KeyPackage of ours in the directory, by the id of its item."""
SPENT = "spent"
"""The space that remembers which KeyPackages of ours were used, longer than their keys."""
ROOMS = "room"
"""The space that has a :class:`RoomRecord` of each room."""


def room_of(key: bytes) -> str | None:
    """The bare JID under which the space :data:`ROOMS` has a room; None if the key is no address of a room."""
    name, _, domain = (text := key.decode(errors="replace")).partition("@")
    return text if name and domain and "/" not in text and "\ufffd" not in text else None


OUTSIDE = b"record"
"""The key of the :class:`OutsideRecord` in its space."""
EXPECTED = b"expected"
"""The key of the :class:`ExpectedRecord` in the same space."""
DESPITE_DOUBTS = b"despite-doubts"
"""The key, beside the :class:`KnownRecord`, of our user's decision to believe its clients; the value is empty."""


class MembershipState(IntEnum):
    """Our relation to a room's group."""

    INVITED = 1
    """We read the room and wait for a Welcome."""
    MEMBER = 2
    OUT = 3
    """We left or were removed; the store keeps nothing of the group."""
    LOST = 4
    """We cannot follow the group any more."""
    FOUNDING = 5
    """We are making the room, and then a group in it."""
    PARTIAL = 6
    """We are in the group, and do not have its ratchet tree yet."""


class OutboxKind(IntEnum):
    """The kind of a message that awaits its reflection."""

    APPLICATION = 1
    PROPOSAL = 2
    COMMIT = 3
    CREATION = 4
    """The first Commit of a group that continues another one, with its Welcome."""


@struct
class KeyPackageRecord(Struct):
    """A KeyPackage of ours; `bundle` is a KeyPackageBundle.

    `delete_after` is the time at which its private keys are deleted, in seconds since the Unix epoch.  `used` is 0 for
    a KeyPackage that is offered.  It is 1 for one of last resort that has been used: it is no longer offered, and kept
    for Welcomes in transit.  It is 2 for one outside its lifetime by our clock: it is kept for another day, in which
    the clock may be corrected.  It is 3 for any other that has been used, which is kept for another Welcome with it.
    It is 4 for one in a request to be added, which is never offered, and 5 when that request has ended.
    """

    secret: ClassVar[bool] = True
    bundle: opaque
    delete_after: uint64
    used: uint8


@struct
class SpentRecord(Struct):
    """A KeyPackage of ours that was used; its other private keys may be gone.

    `until` is the end of its lifetime, in seconds since the Unix epoch.  `return_key` is the private return key of its
    leaf, of the cipher suite with the number `suite`.
    """

    secret: ClassVar[bool] = True
    until: uint64
    suite: uint16
    return_key: opaque

    @classmethod
    def read(cls, value: bytes) -> Self:
        """A record from the store; before version 0.2 it had only the end of the lifetime."""
        return cls(int.from_bytes(value, "big"), 0, b"") if len(value) == 8 else cls.decode(value)


@struct
class InvitedRecord(Struct):
    """An account that we have invited, and that has not joined as far as we know.

    `after` is the archive id of the stanza before the one with its Welcome, or empty.  `last` is the time of the last
    invitation, in seconds since the Unix epoch, and `repeated` the number of invitations after the first.
    """

    after: opaque
    last: uint64
    repeated: uint8


@struct
class RoomRecord(Struct):
    """Our place in a room.

    `cursor` is the archive id of the last stanza processed, empty before the first one.  `seen` is the number of
    application messages that we have read.  `commits` identifies the Commits seen while we wait for a Welcome.
    """

    state: Annotated[MembershipState, Enum(MembershipState)]
    group_id: opaque
    cursor: opaque
    joined: uint64
    joined_epoch: uint64
    seen: uint64
    commits: opaque

    def as_member(self, group_id: bytes, epoch: int, now: int) -> Self:
        """The record once we are in a group.

        :param epoch: the first epoch that we are in
        :param now: seconds since the Unix epoch
        """
        return replace(
            self, state=MembershipState.MEMBER, group_id=group_id, joined=now, joined_epoch=epoch, commits=b""
        )


NEW_ROOM: Final = RoomRecord(MembershipState.INVITED, b"", b"", 0, 0, 0, b"")
"""The record of a room that the store does not know: one that we are invited to."""


@struct
class OutboxRecord(Struct):
    """A message of ours that the room has not reflected yet.

    `digest` is the SHA-256 of the MLSMessage; it identifies the reflection.  `plaintext` is kept for application data
    until the reflection arrives, because the message may have to be encrypted again.  If it has not been encrypted yet,
    `message` and `digest` are empty.  `earlier` holds the digests of its former encryptions, 32 octets each.
    `reference` is a proposal's ProposalRef, or the id of a group that is created.  A message that the room has
    `refused` is not sent again, but its reflection is still recognized: a refusal by an intermediate server does not
    prove that the room has not received the message.
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
class UploadRecord(Struct):
    """A Commit or creation in the outbox that no stanza holds.

    `location` is what stands in the stanza in its place (a :class:`~slixmpp_mls.stanza.locations.CommitPlace`), empty
    until it has been uploaded.  `welcome` says whether its Welcome is uploaded as well, and `welcome_location` is what
    stands in place of that (a :class:`~slixmpp_mls.stanza.locations.WelcomePlace`).
    """

    secret: ClassVar[bool] = True
    welcome: uint8
    location: opaque = b""
    welcome_location: opaque = b""


@struct
class DoubtRecord(Struct):
    """The doubt of the Authentication Service about a member, see :mod:`.doubts`.

    `since` is in seconds.  `verdict` is 0 for unknown, 1 for denied, 2 for unknown of a client that entered at its own
    request.
    """

    verdict: uint8
    lapsed: uint8
    since: uint64
    reason: opaque
    text: opaque


@struct
class InboxRecord(Struct):
    """A message that has been decrypted and not yet been handed over to the application.

    The fields are those of :class:`~slixmpp_mls.client.events.MessageReceived`.  An empty `claimed` or `origin_id`
    stands for None.  `stamp` is in milliseconds since the Unix epoch.
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
    """A request of ours to be added: a new member's Add, see :mod:`slixmpp_mls.client.group.join_request`.

    `reference` is the KeyPackageRef in it, `until` the time at which the KeyPackage expires (seconds since the Unix
    epoch).  A request that has `arrived` in the room, or was refused there, is not sent again.
    """

    epoch: uint64
    origin_id: opaque
    message: opaque
    reference: opaque
    until: uint64
    arrived: uint8


_NO_EPOCH = 2**64 - 1
"""Stands for none: no Commit can end it."""


class Known(IntEnum):
    """What we know of a group's epoch while we are outside."""

    NOTHING = 0
    SEEN = 1
    """A stanza in the room has shown it."""
    TOLD = 2
    """An invitation has named the group, and no stanza of it has been seen: the epoch is unknown, and stands at 0."""


@struct
class OutsideRecord(Struct):
    """Our knowledge of a room's group while we are not in it.

    `group_id` is empty and `suite` is 0 if they are not known.  `epoch` is the epoch in which the group seems to be, if
    that is `known` (:class:`Known`).  `after` is the archive id of the last stanza that we have processed as a member,
    and `missed` the number of application messages since then.  `attempts` counts our requests, the last of which was
    at `asked`; the next one is not made before `not_before` (seconds since the Unix epoch).  `entry` is an external
    Commit of ours that awaits its reflection, with the epoch that it ends, its origin id and the GroupInfo sent with
    it; empty if there is none.
    """

    group_id: opaque = b""
    suite: uint16 = 0
    epoch: uint64 = 0
    known: uint8 = Known.NOTHING
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

    def asks_in(self, group_id: bytes) -> tuple[AskRecord, ...]:
        """Our requests, if the room's group is this one; those for another group are for no epoch of it."""
        if group_id == self.group_id:
            return self.asks
        return tuple(replace(ask, epoch=_NO_EPOCH) for ask in self.asks)

    def pace(self) -> OutsideRecord:
        """The part that remains after we have joined: the times of our last request and of the next permitted one."""
        return OutsideRecord(attempts=self.attempts, asked=self.asked, not_before=self.not_before)


@struct
class ExpectedGroup(Struct):
    """A group that an invitation names.

    `inviter` is the account (a bare JID) that must have signed the Welcome; it is empty if any account may.  `sender`
    is the account that has sent the invitation.
    """

    group: opaque
    inviter: opaque
    sender: opaque


@struct
class ExpectedRecord(Struct):
    """The groups that invitations have named while we wait for a Welcome, oldest first.

    `chosen` is the account whose invitations alone count; it is empty if all do.
    """

    groups: tuple[ExpectedGroup, ...] = ()
    chosen: opaque = b""

    def admits(self, group: bytes, signer: str) -> bool:
        """Whether a Welcome into this group, by this account, is one that we wait for."""
        if not self._counting():
            return self.chosen in (b"", signer.encode())
        return self.names(group, signer)

    def names(self, group: bytes, signer: str) -> bool:
        """Whether an invitation that counts names this group, and this account or none."""
        return any(each.group == group and each.inviter in (b"", signer.encode()) for each in self._counting())

    @property
    def latest_sender(self) -> str:
        """The account that has sent the latest invitation; empty if none names a group."""
        return self.groups[-1].sender.decode() if self.groups else ""

    def _counting(self) -> list[ExpectedGroup]:
        return [each for each in self.groups if self.chosen in (b"", each.sender)]


@struct
class UnsureRecord(Struct):
    """The reasons for which our state may not be the group's, see :mod:`slixmpp_mls.client.group.certainty`.

    `reasons` has a bit for each reason; it is 0 while we are sure.  `behind` is the group's epoch according to a
    GroupInfo that a member has signed, and `proving_info` is that GroupInfo (an MLSMessage); they are 0 and empty while
    there is none.  `rounds` counts how often in a row we have been unsure, the last time at `since`.  Reasons that any
    occupant can fabricate make us unsure again only from `not_before` on (seconds since the Unix epoch).
    """

    reasons: uint32 = 0
    behind: uint64 = 0
    proving_info: opaque = b""
    rounds: uint32 = 0
    since: uint64 = 0
    not_before: uint64 = 0


@struct
class FormerKeyRecord(Struct):
    """A private return key of a leaf that a later leaf of ours has replaced.

    In another branch of a split group, our leaf still has it.  Its kind is 0; kind 1 is of a KeyPackage of ours, by a
    Welcome that we do not follow.  `replaced` is the time of the replacement (seconds since the Unix epoch), `suite`
    the group's cipher suite.
    """

    secret: ClassVar[bool] = True
    replaced: uint64
    suite: uint16
    key: opaque


@struct
class KnownClient(Struct):
    """One client of a :class:`KnownRecord`; `key` is the SHA-256 of its signature key."""

    leaf: uint32
    account: opaque
    device: opaque
    key: opaque
    newcomer: uint8


@struct
class KnownRecord(Struct):
    """The last state of a group that we have lost, see :class:`slixmpp_mls.policy.later_state.KnownState`."""

    group_id: opaque
    epoch: uint64
    transcript: opaque
    extensions: Extensions
    clients: tuple[KnownClient, ...]


@struct
class WholeTreeRecord(Struct):
    """What a partial member needs to become a full one, see :mod:`slixmpp_mls.client.group.partial`.

    `location` is a :class:`~slixmpp_mls.stanza.blob.BlobReference`; it is empty if it is not known.  `inviter` is the
    leaf that has signed the Welcome; ours if a Commit that we have followed has removed that.  `place` is empty while
    the room is read in order.  Otherwise it is the archive id of the last stanza that was read as a member, from which
    the room is read again with the tree.
    """

    secret: ClassVar[bool] = True
    location: opaque
    inviter: uint32
    place: opaque = b""


@dataclass(frozen=True, slots=True)
class Spaces:
    """Names of the spaces that belong to a room."""

    group: str
    pending: str
    outbox: str
    uploads: str
    unwanted: str
    member: str
    renewed: str
    epochs: str
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
    group_info_key: str
    former: str
    known: str
    partial: str
    whole_tree: str

    @classmethod
    def of(cls, room: str) -> Self:
        return cls(*(f"{field.name}/{room}" for field in fields(cls)))
