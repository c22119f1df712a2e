"""One room's group on this device: the order rules, and what is written when.

The rules (the XEP's "Business Rules"):

1. The room's order is the truth.  The first valid Commit for an epoch, in that order, ends it.
   Later ones for that epoch mean nothing, ours included, and neither do the Welcomes beside them.
2. Our own Commit takes effect when the room reflects it, not before.  Until then it waits, in the store.
3. What is sent has been stored, together with the state in which its key is used up.  It stays in
   the outbox until its reflection comes, known by the hash of its octets, and is sent again as it is
   after a reconnection that did not bring it.  Readers see a message once, however often it arrives.
4. Our place in the room (the archive id of the last stanza processed) is written with what the stanza changed.
5. What the room says of a sender is compared with the leaf and never believed.

States::

    INVITED ──Welcome──► MEMBER ──Commit that removes us──► OUT ──Welcome──► MEMBER
                           └── left behind ──► LOST ──Welcome──► MEMBER

Instead of a Welcome it may be an external Commit of our own.

Each call is one transaction.  If it raises, neither the store nor this object has changed.  :mod:`.sending` is one
direction, :mod:`.processing` and :mod:`.applying` are the other; :mod:`.join_request` is the time without a group,
:mod:`.welcome` and :mod:`.external_commit` the ways in, :mod:`.continuation` how a group goes on in another one,
:mod:`.room_state` what
all work on.
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import UsageError
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.group.group import Group
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ..device import Device
from ..events import Event, GroupLost, RemovedFromGroup
from ..storage.doubts import Doubts
from ..storage.records import MembershipState
from .actions import Fits
from .applying import Receiving
from .room_state import ROOMS, put_all
from .sending import Sending

__all__ = ["Fits", "RoomGroup"]


class RoomGroup(Receiving, Sending):
    """A room's group."""

    @staticmethod
    def known(device: Device) -> list[str]:
        """Bare JIDs of all rooms that the store knows."""
        with device.store.transaction() as transaction:
            return [key.decode() for key, _ in transaction.items(ROOMS)]

    def create(self, suite: int, policy: RoomPolicy, now: int) -> None:
        """Make the room's group, with us alone in it.

        :param suite: number of the cipher suite
        :param now: seconds since the Unix epoch
        :raises UsageError: we are in a group here already, the policy is another room's, or it demands a
            certificate that we do not have
        """
        if self._group is not None:
            raise UsageError(f"already a member of the group in {self.room}")
        if policy.room != self.room:
            raise UsageError(f"a policy for {policy.room}, not for {self.room}")
        if not policy.accepts(self.device.credential(CipherSuite.get(suite))):
            raise UsageError("the policy demands X.509 credentials, and this device has no certificate for the suite")
        bundle = self.device.make_key_package(CipherSuite.get(suite), now)
        group = Group.create(
            bundle,
            self.device.random(32),
            extensions=(policy.extension(),),
            parameters=self.device.parameters,
            random=self.device.random,
        )
        record = replace(
            self._record, state=MembershipState.MEMBER, group_id=group.group_id, joined=now, joined_epoch=0, commits=b""
        )
        with self._transaction() as transaction:
            gone = self._clear(transaction, keep_messages=False)
            put_all(transaction, self._spaces.group, group.pieces())
            self._put_own_age(transaction, group, now, last_resort=False)
            self._put_record(transaction, record)
        self._begin(group.stored(), Roster.of(group.members()), policy, record, Doubts())
        self._outbox.remove_all(gone)

    def give_up(self, reason: str | None = None) -> list[Event]:
        """Forget the group's keys.

        :param reason: why we can not follow it any more: application data that has not come back is then kept,
            to be sent when we are back in the same group; None if we leave by ourselves
        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        self.group  # noqa: B018  # raises
        if reason is None:
            self._end(replace(self._record, state=MembershipState.OUT))
            return [RemovedFromGroup(self.room, None, wanted=True)]
        after = self.cursor
        self._end(replace(self._record, state=MembershipState.LOST), keep_messages=True)
        return [GroupLost(self.room, reason, after)]

    def seek(self, cursor: str | None) -> None:
        """Set our place in the room, before anything is read from it: just before a Welcome, say.

        :raises UsageError: we are in the group, whose every stanza counts
        """
        self._seek(cursor, self.state)

    def expect_welcome(self, cursor: str | None) -> None:
        """Somebody has invited us: look for the Welcome behind this place in the room, now and after a restart.

        :raises UsageError: we are in the group
        :raises StoreError: nothing has changed
        """
        self._seek(cursor, MembershipState.LOST if self.state is MembershipState.LOST else MembershipState.INVITED)

    def _seek(self, cursor: str | None, state: MembershipState) -> None:
        if self._group is not None:
            raise UsageError("a member does not skip what is in the room")
        record = replace(self._record, state=state, cursor=(cursor or "").encode(), commits=b"")
        # Of a group that we have lost, the epoch in which we were is still known.
        self._pass(record, self._outside if state is MembershipState.LOST else replace(self._outside, known=0))

    def begin_founding(self) -> bool:
        """We are about to make a room, or a group in one.

        :returns: whether we were already when we were stopped, so that the room may be there
        :raises UsageError: we are in a group here already
        :raises StoreError: nothing has changed
        """
        if self._group is not None:
            raise UsageError(f"already a member of the group in {self.room}")
        before = self.state is MembershipState.FOUNDING
        self._pass(replace(self._record, state=MembershipState.FOUNDING))
        return before

    def end_founding(self) -> None:
        """It has come to nothing."""
        if self.state is MembershipState.FOUNDING:
            self._pass(replace(self._record, state=MembershipState.OUT))

    def stop_waiting(self) -> None:
        """Wait for no Welcome any more."""
        if self.state is MembershipState.INVITED:
            self._pass(replace(self._record, state=MembershipState.OUT))

    def tidy(self, now: int) -> None:
        """Forget ended epochs whose time is over (RFC 9420 9.2).

        :param now: seconds since the Unix epoch
        """
        if self._group is not None:
            group = self._group.forget_past(now=now)
            if group is not self._group:
                self._write(group, self._record)
